/*
 * The one-line form: `nodes=2 time=1:00:00 -- python train.py`.
 *
 * The line is taken apart at its first ` -- ` only when every word before it is key=value; otherwise all of it is
 * the command, so that `srun -n4 -- ./a.out` means what it says. A ` -- ` inside quotes is part of a value. What
 * follows the split is the command, byte for byte; it is the job's shell that reads its quotes.
 * A line of key=value words alone is a spec when all keys are known and one of them says what to run.
 */
#include "backend/spec_impl.h"

#include "backend/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
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
	const char *command;  /* LINE_SPLIT: what follows */
	bool known;           /* all keys are */
	bool runnable;        /* one of the keys says what to run */
};

static void note_key(struct line_shape *shape, const char *p, size_t len)
{
	cleanup_free char *name = xstrndup(p, len);
	const struct spec_key *k;

	name[strcspn(name, ".")] = '\0';
	k = spec_key_find(name);
	if (!k)
		shape->known = false;
	else if (strcmp(k->name, "command") == 0 || strcmp(k->name, "script") == 0 || strcmp(k->name, "payload") == 0)
		shape->runnable = true;
}

static struct line_shape line_shape(const char *text, const char *end)
{
	struct line_shape shape = { LINE_COMMAND, end, NULL, true, false };
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
		if (len == 0)
			return shape;
		note_key(&shape, p, len);
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
	if (shape.kind == LINE_SPLIT) {
		rc = add_pairs(text, shape.keys_end, spec, errors);
		return add_command(shape.command, end, spec, errors) < 0 ? -EINVAL : rc;
	}
	if (shape.kind == LINE_PAIRS && shape.known && shape.runnable)
		return add_pairs(text, end, spec, errors);
	return add_command(text, end, spec, errors);
}
