/*
 * The one-line form: `nodes=2 time=1:00:00 -- python train.py`.
 *
 * The line is taken apart at its first ` -- ` only when every word before it is key=value; otherwise all of it is
 * the command, so that `srun -n4 -- ./a.out` means what it says. A ` -- ` inside quotes is part of a value. What
 * follows the split is the command, byte for byte; it is the job's shell that reads its quotes.
 * A line of key=value words alone is a spec when one of them says what to run.
 *
 * A line that begins with known keys and has no separator is refused: taken as a command it would run with none of what
 * was asked for. Real variables in front of a command are rarely called like a key, and `-- name=x cmd` says that they
 * are.
 */
#include "backend/spec_impl.h"

#include "backend/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#define SLIPS_MAX 16 /* unknown keys that are compared with all that are known */

/* A newline is never in a line, but in text that is split into words. */
static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n';
}

/* The part of a word in quotes, from its opening quote on. 0, or -1 when it is not closed. */
static int quoted(const char **p, const char *end, struct strbuf *out)
{
	const char quote = *(*p)++;

	for (; *p < end; (*p)++) {
		char c = **p;

		if (c == quote) {
			(*p)++;
			return 0;
		}
		/* POSIX.1-2017, Shell Command Language 2.2.3: what a backslash escapes in double quotes */
		if (c == '\\' && quote == '"' && *p + 1 < end && strchr("\"\\$`", (*p)[1]))
			c = *++*p;
		strbuf_addch(out, c);
	}
	return -1;
}

int spec_word(const char **p, const char *end, struct strbuf *out)
{
	strbuf_reset(out);
	while (*p < end && is_blank(**p))
		(*p)++;
	if (*p == end)
		return 0;
	while (*p < end && !is_blank(**p)) {
		if (**p == '\'' || **p == '"') {
			if (quoted(p, end, out) < 0)
				return -1;
			continue;
		}
		if (**p == '\\' && ++*p == end)
			return -1;
		strbuf_addch(out, *(*p)++);
	}
	return 1;
}

/* The length of KEY in "KEY=..." at p, or 0. */
static size_t key_length(const char *p, const char *end)
{
	const char *s = p;

	if (s == end || !isalpha((unsigned char)*s))
		return 0;
	while (s < end && (isalnum((unsigned char)*s) || *s == '_' || *s == '.' || *s == '-'))
		s++;
	return s < end && *s == '=' ? (size_t)(s - p) : 0;
}

static bool is_separator(const char *p, const char *end)
{
	return end - p >= 2 && p[0] == '-' && p[1] == '-' && (end - p == 2 || is_blank(p[2]));
}

enum line_kind { LINE_COMMAND, LINE_SPLIT, LINE_PAIRS, LINE_UNCLOSED };

struct line_shape {
	enum line_kind kind;
	const char *keys_end; /* the key=value words are before it */
	const char *command;  /* LINE_SPLIT, LINE_COMMAND: what follows them */
	bool runnable;        /* one of the keys says what to run */
	const char *suspect;  /* the first pair whose key is known, or nearly; NULL: none */
	unsigned n_pairs;
	size_t suspect_len; /* of its key */
	const char *meant;  /* the key that it is, or that it looks like */
	bool slip;          /* it only looks like it */
};

static void note_key(struct line_shape *shape, const char *p, size_t len, const char *end)
{
	cleanup_free char *name = xstrndup(p, len);
	const struct spec_key *k;
	const char *meant;

	name[strcspn(name, ".")] = '\0';
	k = spec_key_find(name);
	if (k && (strcmp(k->name, "command") == 0 || strcmp(k->name, "script") == 0 || strcmp(k->name, "payload") == 0))
		shape->runnable = true;
	if (k && strcmp(k->name, "launcher") == 0 && end - p - (ptrdiff_t)len >= 8 &&
	    memcmp(p + len, "=session", 8) == 0)
		shape->runnable = true; /* it needs no command */
	/* What sbatch alone has, as `verbose`, is never right as a key: it is a variable. */
	meant = !k                     ? (shape->n_pairs++ < SLIPS_MAX ? spec_key_slip(name) : NULL)
		: k->flags & SPEC_OURS ? NULL
				       : k->name;
	if (!meant || shape->suspect)
		return;
	shape->suspect = p;
	shape->suspect_len = strlen(name);
	shape->meant = meant;
	shape->slip = !k;
}

static struct line_shape line_shape(const char *text, const char *end)
{
	struct line_shape shape = { .kind = LINE_COMMAND, .keys_end = end };
	cleanup_strbuf struct strbuf word = STRBUF_INIT;
	const char *p = text;
	size_t len;

	for (;;) {
		while (p < end && is_blank(*p))
			p++;
		if (p == end) {
			shape.kind = LINE_PAIRS;
			return shape;
		}
		if (is_separator(p, end)) {
			shape.kind = LINE_SPLIT;
			shape.keys_end = p;
			shape.command = end - p == 2 ? end : p + 3;
			return shape;
		}
		len = key_length(p, end);
		if (len == 0) {
			shape.command = p;
			return shape;
		}
		note_key(&shape, p, len, end);
		if (spec_word(&p, end, &word) < 0) {
			shape.kind = LINE_UNCLOSED;
			return shape;
		}
	}
}

static int add_pairs(const char *p, const char *end, json_t *spec, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf word = STRBUF_INIT;
	int rc = 0;

	while (!spec_errors_full(errors) && spec_word(&p, end, &word) > 0) {
		size_t len = key_length(word.buf, word.buf + word.len);
		json_t *value = json_stringn(word.buf + len + 1, word.len - len - 1);

		word.buf[len] = '\0';
		if (spec_add(spec, word.buf, value, false, errors) < 0)
			rc = -EINVAL;
		json_decref(value);
	}
	return rc;
}

static int add_command(const char *text, const char *end, json_t *spec, struct strbuf *errors)
{
	json_t *value = json_stringn(text, (size_t)(end - text));
	int rc = spec_add(spec, "command", value, false, errors);

	json_decref(value);
	return rc;
}

/* `len` bytes without blanks around them, shortened for a message. */
static const char *show_part(const char *text, size_t len, char shown[SPEC_SHOWN])
{
	cleanup_free char *copy = NULL;

	while (len && is_blank(*text)) {
		text++;
		len--;
	}
	while (len && is_blank(text[len - 1]))
		len--;
	copy = xstrndup(text, len);
	return spec_show(copy, shown);
}

/* Keys, and no ` -- ` behind them. */
static int no_separator(const struct line_shape *shape, const char *text, const char *end, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf keys = STRBUF_INIT, said = STRBUF_INIT;
	char left[SPEC_SHOWN], right[SPEC_SHOWN], line[SPEC_SHOWN], key[SPEC_SHOWN];
	const char *keys_end = shape->kind == LINE_COMMAND ? shape->command : end,
		   *rest = shape->suspect + shape->suspect_len;

	strbuf_add(&keys, text, (size_t)(shape->suspect - text));
	if (shape->slip)
		strbuf_addstr(&keys, shape->meant);
	strbuf_add(&keys, shape->slip ? rest : shape->suspect,
		   (size_t)(keys_end - (shape->slip ? rest : shape->suspect)));
	show_part(keys.buf, keys.len, left);
	if (shape->kind != LINE_COMMAND)
		return spec_complain(errors, "there is nothing to run: write `%s -- COMMAND`", left);
	show_part(shape->command, (size_t)(end - shape->command), right);
	show_part(text, (size_t)(end - text), line);
	show_part(shape->suspect, shape->suspect_len, key);
	if (shape->slip)
		strbuf_addf(&said, "'%s' looks like the key '%s'", key, shape->meant);
	else
		strbuf_addf(&said, "'%s' is a key of the spec", shape->meant);
	return spec_complain(
		errors,
		"%s, and a command comes behind ` -- `: write `%s -- %s`, or `-- %s` to give the command a "
		"variable of that name",
		said.buf, left, right, line);
}

int spec_line(const char *text, size_t len, json_t *spec, struct strbuf *errors)
{
	const char *end = text + len;
	struct line_shape shape;
	int rc;

	if (len > 0 && end[-1] == '\r')
		return spec_complain(errors, "the line ends in a carriage return (CR LF); end it with LF alone");
	shape = line_shape(text, end);
	if (shape.kind == LINE_UNCLOSED && memmem(text, len, " -- ", 4))
		return spec_complain(errors, "a quote before ` -- ` is not closed");
	if (shape.kind == LINE_UNCLOSED && shape.suspect)
		return spec_complain(errors, "a quote is not closed");
	if (shape.kind == LINE_SPLIT) {
		rc = add_pairs(text, shape.keys_end, spec, errors);
		return add_command(shape.command, end, spec, errors) < 0 ? -EINVAL : rc;
	}
	if (shape.kind == LINE_PAIRS &&
	    (shape.runnable || json_object_get(spec, "launcher"))) /* a session needs no command */
		return add_pairs(text, end, spec, errors);
	if (shape.suspect)
		return no_separator(&shape, text, end, errors);
	return add_command(text, end, spec, errors);
}
