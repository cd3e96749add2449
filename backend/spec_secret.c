/*
 * Values that nobody may read later: which of a spec's `secret_env` they are, and texts without them. Pure.
 *
 * A value is a secret itself, or names a file (`file:/PATH` of this machine, `cluster:PATH`), and then it is none. What
 * is written down (journal, log, `errors`) has SPEC_HIDDEN in place of a secret; a text of which it is not sure where
 * its secrets are is not written down at all.
 */
#include "backend/spec_impl.h"

#include "backend/base/mem.h"
#include "backend/scan.h"

#include <ctype.h>
#include <string.h>

#define KEY "secret_env"

bool spec_secret_is_value(const char *text)
{
	return strncmp(text, "file:", 5) != 0 && strncmp(text, "cluster:", 8) != 0;
}

/* --- parsed specs --- */

static bool hide_map(json_t *map, json_t *values)
{
	const char *name, *text;
	bool any = false;
	json_t *v;
	void *tmp;

	json_object_foreach_safe (map, tmp, name, v) {
		text = json_string_value(v);
		if (json_is_null(v) || (text && !spec_secret_is_value(text)))
			continue;
		if (values && text && strcmp(text, SPEC_HIDDEN) != 0)
			(void)json_object_set(values, name, v);
		(void)json_object_set_new(map, name, json_string(SPEC_HIDDEN));
		any = true;
	}
	return any;
}

bool spec_take_secrets(json_t *spec, json_t *values)
{
	json_t *map = json_object_get(spec, KEY);

	return json_is_object(map) && hide_map(map, values);
}

/* --- texts --- */

static bool is_key(const char *name)
{
	return spec_key_same(name, KEY);
}

/* The document as somebody wrote it: keys may have dashes, and dots. */
static bool hide_root(json_t *root)
{
	const char *name, *text;
	bool any = false;
	json_t *v;
	void *tmp;

	json_object_foreach_safe (root, tmp, name, v) {
		cleanup_free char *base = xstrndup(name, strcspn(name, "."));

		if (!is_key(base))
			continue;
		text = json_string_value(v);
		if (json_is_object(v) && !name[strlen(base)])
			any |= hide_map(v, NULL);
		else if (!text || spec_secret_is_value(text))
			any |= json_object_set_new(root, name, json_string(SPEC_HIDDEN)) == 0;
	}
	return any;
}

static const char *find_key(const char *s, const char *end)
{
	size_t n = strlen(KEY);

	for (; s + n < end; s++)
		if (strncasecmp(s, "secret", 6) == 0 && (s[6] == '_' || s[6] == '-') &&
		    strncasecmp(s + 7, "env", 3) == 0)
			return s;
	return NULL;
}

/* Behind a value: quoted, or up to a blank. */
static const char *value_end(const char *s, const char *end)
{
	char quote = 0;

	for (; s < end && (quote || !isspace((unsigned char)*s)); s++) {
		if (quote ? *s == quote : *s == '\'' || *s == '"')
			quote = quote ? 0 : *s;
		else if (*s == '\\' && quote != '\'' && s + 1 < end)
			s++;
	}
	return s;
}

/* KEY.NAME=VALUE, wherever it is. */
static void mask(const char *s, const char *end, struct strbuf *out)
{
	const char *key;

	while ((key = find_key(s, end))) {
		const char *eq = key + strlen(KEY);

		while (eq < end && (isalnum((unsigned char)*eq) || strchr("._", *eq)))
			eq++;
		strbuf_add(out, s, (size_t)(eq - s));
		s = eq;
		if (eq < end && *eq == '=') {
			strbuf_addch(out, '=');
			s = value_end(eq + 1, end);
			if (strncmp(eq + 1, "file:", 5) == 0 || strncmp(eq + 1, "cluster:", 8) == 0)
				strbuf_add(out, eq + 1, (size_t)(s - eq - 1));
			else
				strbuf_addstr(out, SPEC_HIDDEN);
		}
	}
	strbuf_add(out, s, (size_t)(end - s));
}

/* A key may be written with \u. */
static bool may_hold(const char *text, size_t len)
{
	return find_key(text, text + len) || memmem(text, len, "\\u", 2);
}

enum spec_redaction spec_redact(const char *text, size_t len, struct strbuf *out)
{
	size_t blanks = 0;
	json_t *root;

	while (blanks < len && isspace((unsigned char)text[blanks]))
		blanks++;
	if (blanks == len || !may_hold(text, len))
		return SPEC_AS_IT_IS;
	if (text[blanks] != '{') {
		if (!find_key(text, text + len))
			return SPEC_AS_IT_IS;
		mask(text, text + len, out);
		return SPEC_MASKED;
	}
	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	if (root && !hide_root(root)) {
		json_decref(root);
		return SPEC_AS_IT_IS;
	}
	if (root) {
		char *dump = json_dumps(root, JSON_COMPACT | JSON_ENSURE_ASCII);

		strbuf_addstr(out, dump);
		strbuf_addch(out, '\n');
		free(dump);
		json_decref(root);
		return SPEC_MASKED;
	}
	if (!find_key(text, text + len))
		return SPEC_AS_IT_IS;
	strbuf_addstr(out, "(a document with " KEY " that cannot be read; it is not kept)");
	return SPEC_WITHHELD;
}

void spec_redact_why(struct strbuf *why)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	const char *s, *near;

	mask(why->buf, why->buf + why->len, &out);
	strbuf_reset(why);
	/* jansson says what it stumbled over */
	for (s = out.buf; (near = strstr(s, " near '")); s = near + strcspn(near, "\n"))
		strbuf_add(why, s, (size_t)(near - s));
	strbuf_addstr(why, s);
}
