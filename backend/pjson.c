/*
 * JSON in place. pjson_check proves the grammar (RFC 8259 with Python's NaN, Infinity and -Infinity), that the text is UTF-8
 * (RFC 3629), and the bounds that Python has: nesting (its decoder recurses) and digits of an integer (sys.int_info).
 * Everything else walks over text that was checked, so it needs no checks of its own beyond the end.
 */
#include "backend/pjson.h"

#include <stdint.h>
#include <string.h>

#define DEPTH_MAX 200	/* Dagster serializes what it was told by recursion, too: it fails below 500 */
#define DIGITS_MAX 4300 /* CPython's limit on integers in text */

/* --- the check --- */

struct cursor {
	const char *p, *end;
	enum pjson_fault fault;
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_blanks(struct cursor *c)
{
	while (c->p < c->end && is_blank(*c->p))
		c->p++;
}

static bool bad(struct cursor *c, enum pjson_fault fault)
{
	c->fault = fault;
	return false;
}

/* Length of the UTF-8 sequence at p, 0 when it is none. */
static size_t utf8_len(const unsigned char *p, size_t left)
{
	static const struct {
		unsigned char first, last, min, max; /* of the first and the second byte */
		size_t n;
	} rows[] = {
		{ 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 }, { 0xe1, 0xec, 0x80, 0xbf, 3 },
		{ 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 }, { 0xf0, 0xf0, 0x90, 0xbf, 4 },
		{ 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (*p < rows[i].first || *p > rows[i].last)
			continue;
		if (left < rows[i].n || p[1] < rows[i].min || p[1] > rows[i].max)
			return 0;
		for (size_t k = 2; k < rows[i].n; k++)
			if ((p[k] & 0xc0) != 0x80)
				return 0;
		return rows[i].n;
	}
	return 0;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool check_escape(struct cursor *c)
{
	if (++c->p == c->end)
		return bad(c, PJSON_SYNTAX);
	if (*c->p != 'u') {
		if (!*c->p || !strchr("\"\\/bfnrt", *c->p))
			return bad(c, PJSON_SYNTAX);
		c->p++;
		return true;
	}
	if (c->end - c->p < 5)
		return bad(c, PJSON_SYNTAX);
	for (int i = 1; i <= 4; i++)
		if (hex(c->p[i]) < 0)
			return bad(c, PJSON_SYNTAX);
	c->p += 5;
	return true;
}

static bool check_string(struct cursor *c)
{
	for (c->p++; c->p < c->end;) {
		unsigned char ch = (unsigned char)*c->p;

		if (ch == '"') {
			c->p++;
			return true;
		}
		if (ch == '\\') {
			if (!check_escape(c))
				return false;
		} else if (ch < 0x20) {
			return bad(c, PJSON_SYNTAX);
		} else if (ch < 0x80) {
			c->p++;
		} else {
			size_t n = utf8_len((const unsigned char *)c->p, (size_t)(c->end - c->p));

			if (!n)
				return bad(c, PJSON_UTF8);
			c->p += n;
		}
	}
	return bad(c, PJSON_SYNTAX);
}

static size_t digits(struct cursor *c)
{
	const char *from = c->p;

	while (c->p < c->end && *c->p >= '0' && *c->p <= '9')
		c->p++;
	return (size_t)(c->p - from);
}

static bool check_word(struct cursor *c, const char *word)
{
	size_t n = strlen(word);

	if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
		return bad(c, PJSON_SYNTAX);
	c->p += n;
	return true;
}

/* What comes after a point or an exponent that is not followed by digits is not part of the number, and then wrong by itself. */
static bool check_number(struct cursor *c)
{
	bool whole = true;
	size_t n;

	if (*c->p == '-') {
		c->p++;
		if (c->p < c->end && *c->p == 'I')
			return check_word(c, "Infinity");
	}
	if (c->p < c->end && *c->p == '0') {
		c->p++;
		n = 1;
	} else {
		n = digits(c);
	}
	if (!n)
		return bad(c, PJSON_SYNTAX);
	if (c->p < c->end && *c->p == '.') {
		whole = false;
		c->p++;
		if (!digits(c))
			return bad(c, PJSON_SYNTAX);
	}
	if (c->p < c->end && (*c->p == 'e' || *c->p == 'E')) {
		whole = false;
		c->p++;
		if (c->p < c->end && (*c->p == '+' || *c->p == '-'))
			c->p++;
		if (!digits(c))
			return bad(c, PJSON_SYNTAX);
	}
	return whole && n > DIGITS_MAX ? bad(c, PJSON_DIGITS) : true;
}

static bool check_scalar(struct cursor *c)
{
	switch (*c->p) {
	case '"':
		return check_string(c);
	case 't':
		return check_word(c, "true");
	case 'f':
		return check_word(c, "false");
	case 'n':
		return check_word(c, "null");
	case 'N':
		return check_word(c, "NaN");
	case 'I':
		return check_word(c, "Infinity");
	default:
		return check_number(c);
	}
}

/* A name and its colon; the cursor is behind blanks. */
static bool check_name(struct cursor *c)
{
	if (c->p == c->end || *c->p != '"' || !check_string(c))
		return bad(c, c->fault ? c->fault : PJSON_SYNTAX);
	skip_blanks(c);
	if (c->p == c->end || *c->p != ':')
		return bad(c, PJSON_SYNTAX);
	c->p++;
	return true;
}

/* Closes what ends here. 1: a value follows, 0: the outermost value is complete, -1: wrong. */
static int after_value(struct cursor *c, const char *stack, size_t *depth)
{
	while (*depth > 0) {
		char close = stack[*depth - 1];

		skip_blanks(c);
		if (c->p == c->end)
			return -1;
		if (*c->p == ',') {
			c->p++;
			skip_blanks(c);
			return close == ']' || check_name(c) ? 1 : -1;
		}
		if (*c->p != close)
			return -1;
		c->p++;
		(*depth)--;
	}
	return 0;
}

/* Opens an object or array. 1: a value follows in it, 0: it was empty, -1: wrong. */
static int open_value(struct cursor *c, char *stack, size_t *depth)
{
	char close = *c->p == '{' ? '}' : ']';

	if (*depth == DEPTH_MAX) {
		c->fault = PJSON_DEEP;
		return -1;
	}
	stack[(*depth)++] = close;
	c->p++;
	skip_blanks(c);
	if (c->p < c->end && *c->p == close)
		return 0;
	return close == ']' || check_name(c) ? 1 : -1;
}

static bool check_value(struct cursor *c)
{
	char stack[DEPTH_MAX];
	size_t depth = 0;
	int more = 1;

	while (more == 1) {
		skip_blanks(c);
		if (c->p == c->end)
			return bad(c, PJSON_SYNTAX);
		if (*c->p == '{' || *c->p == '[') {
			more = open_value(c, stack, &depth);
			if (more == 1)
				continue;
		} else {
			more = check_scalar(c) ? 0 : -1;
		}
		if (more == 0)
			more = after_value(c, stack, &depth);
	}
	return more == 0 ? true : bad(c, c->fault ? c->fault : PJSON_SYNTAX);
}

/* --- walking over checked text --- */

static const char *string_end(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++)
		if (*p == '\\')
			p++;
	return p < end ? p + 1 : end;
}

static enum pjson_type number_type(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (s[i] != '-' && (s[i] < '0' || s[i] > '9'))
			return PJSON_FLOAT;
	return PJSON_INT;
}

static const char *container_end(const char *p, const char *end)
{
	size_t depth = 0;

	while (p < end) {
		if (*p == '"') {
			p = string_end(p, end);
			continue;
		}
		if (*p == '{' || *p == '[')
			depth++;
		else if ((*p == '}' || *p == ']') && --depth == 0)
			return p + 1;
		p++;
	}
	return end;
}

/* The value that begins at p. */
static void take(const char *p, const char *end, struct pjson *out)
{
	const char *q = p;

	switch (*p) {
	case '{':
	case '[':
		out->type = *p == '{' ? PJSON_OBJECT : PJSON_ARRAY;
		q = container_end(p, end);
		break;
	case '"':
		out->type = PJSON_STRING;
		q = string_end(p, end);
		break;
	default:
		while (q < end && !is_blank(*q) && *q != ',' && *q != '}' && *q != ']')
			q++;
		out->type = *p == 't' ? PJSON_TRUE : *p == 'f' ? PJSON_FALSE : *p == 'n' ? PJSON_NULL
										 : number_type(p, (size_t)(q - p));
	}
	out->s = p;
	out->len = (size_t)(q - p);
}

enum pjson_fault pjson_check(const char *text, size_t len, struct pjson *top)
{
	struct cursor c = { text, text + len, PJSON_GOOD };
	const char *first;

	skip_blanks(&c);
	first = c.p;
	if (!check_value(&c))
		return c.fault;
	*top = (struct pjson){ PJSON_NULL, first, (size_t)(c.p - first) };
	if (*first == '{' || *first == '[')
		top->type = *first == '{' ? PJSON_OBJECT : PJSON_ARRAY;
	else
		take(first, c.p, top);
	skip_blanks(&c);
	return c.p == c.end ? PJSON_GOOD : PJSON_SYNTAX;
}

static const char *skip_to_value(const char *p, const char *end)
{
	while (p < end && (is_blank(*p) || *p == ',' || *p == ':'))
		p++;
	return p;
}

bool pjson_next(const struct pjson *in, size_t *at, struct pjson *key, struct pjson *value)
{
	const char *end = in->s + in->len - 1; /* its closing bracket */
	const char *p = skip_to_value(in->s + (*at ? *at : 1), end);

	if (p >= end)
		return false;
	if (in->type == PJSON_OBJECT) {
		take(p, end, key);
		p = skip_to_value(key->s + key->len, end);
	}
	take(p, end, value);
	*at = (size_t)(value->s + value->len - in->s);
	return true;
}

bool pjson_empty(const struct pjson *v)
{
	struct pjson key, value;
	size_t at = 0;

	return (v->type == PJSON_OBJECT || v->type == PJSON_ARRAY) && !pjson_next(v, &at, &key, &value);
}

/* --- strings --- */

static uint32_t hex4(const char *p)
{
	uint32_t n = 0;

	for (int i = 0; i < 4; i++)
		n = n << 4 | (uint32_t)hex(p[i]);
	return n;
}

/* The character of the escape at *p, which is moved behind it. UINT32_MAX: half of a pair without the other. */
static uint32_t unescape(const char **p, const char *end)
{
	static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
	const char *which;
	uint32_t n, low;

	(*p)++;
	if (**p != 'u') {
		n = (unsigned char)*(*p)++;
		which = strchr(from, (int)n);
		return which ? (unsigned char)to[which - from] : n;
	}
	n = hex4(*p + 1);
	*p += 5;
	if (n < 0xd800 || n > 0xdfff)
		return n;
	if (n > 0xdbff || end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u')
		return UINT32_MAX;
	low = hex4(*p + 2);
	if (low < 0xdc00 || low > 0xdfff)
		return UINT32_MAX;
	*p += 6;
	return 0x10000 + ((n - 0xd800) << 10) + (low - 0xdc00);
}

static size_t encode(uint32_t c, char out[4])
{
	if (!c || c == UINT32_MAX)
		c = '?';
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

void pjson_text(const struct pjson *v, char *buf, size_t size)
{
	const char *p = v->s + 1, *end = v->s + v->len - 1;
	size_t len = 0;

	while (p < end) {
		char one[4];
		size_t n;

		if (*p == '\\') {
			n = encode(unescape(&p, end), one);
		} else {
			n = (unsigned char)*p < 0x80 ? 1 : utf8_len((const unsigned char *)p, (size_t)(end - p));
			memcpy(one, p, n);
			p += n;
		}
		if (len + n >= size)
			break;
		memcpy(buf + len, one, n);
		len += n;
	}
	buf[len] = '\0';
}

bool pjson_is(const struct pjson *v, const char *text)
{
	size_t len = strlen(text);
	char buf[64];

	if (v->type != PJSON_STRING || len >= sizeof(buf) - 1)
		return false;
	if (!memchr(v->s, '\\', v->len < sizeof(buf) * 6 ? v->len : sizeof(buf) * 6))
		return v->len == len + 2 && memcmp(v->s + 1, text, len) == 0;
	pjson_text(v, buf, sizeof(buf));
	return strcmp(buf, text) == 0;
}

bool pjson_encodable(const struct pjson *v)
{
	const char *p = v->s + 1, *end = v->s + v->len - 1;

	while (p < end && (p = memchr(p, '\\', (size_t)(end - p))))
		if (unescape(&p, end) == UINT32_MAX)
			return false;
	return true;
}
