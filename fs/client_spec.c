/*
 * Makes documents for runs/new of what a user of `slurmray submit` gives: KEY=VALUE words, or a file in any of the
 * three forms of a spec. Local paths become absolute here, because only here is it known where the user stands.
 *
 * A document that needs no change is sent as it was written. Scripts travel in JSON, whose closing brace makes them
 * complete, so that the write itself tells whether they were accepted. What a value may be is the daemon's business.
 */
#include "fs/client.h"

#include "backend/base/mem.h"
#include "backend/scan.h"
#include "backend/spec.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#define ENV_DOT "environment."

/* Their text is one path; of `pipes` it may be a word. */
static bool is_one(const char *key)
{
	return strcmp(key, "payload") == 0 || strcmp(key, "pipes") == 0 || strcmp(key, "pipes_module") == 0 ||
	       strcmp(key, ENV_DOT "archive") == 0 || strcmp(key, ENV_DOT "build") == 0;
}

static bool is_word(const char *key, const char *value)
{
	return !*value || (strcmp(key, "pipes") == 0 && !strchr(value, '/') && !strchr(value, '.'));
}

/* Keys whose values are paths of this machine, or may hold one. */
static bool is_local(const char *key)
{
	return strcmp(key, "files") == 0 || strcmp(key, "environment") == 0 || is_one(key) ||
	       strcmp(key, ENV_DOT "wheels") == 0;
}

/* --- paths --- */

static json_t *absolute(const char *path)
{
	cleanup_free char *full = client_absolute(path);

	return json_string(full);
}

/* "a, b" as sbatch and slurmray split lists. */
static json_t *absolute_list(const char *text)
{
	json_t *list = json_array();

	for (const char *p = text; *p; p += *p == ',') {
		size_t len, next;

		p += strspn(p, " \t");
		next = len = strcspn(p, ",");
		while (len && strchr(" \t", p[len - 1]))
			len--;
		if (len) {
			cleanup_free char *one = xstrndup(p, len);

			(void)json_array_append_new(list, absolute(one));
		}
		p += next;
	}
	return list;
}

static json_t *localise(const char *key, json_t *value);

/* What of an environment is a path of this machine is named in text or in an object. */
static json_t *localise_environment(json_t *value)
{
	static const char *const members[] = { "archive", "build", "wheels" };
	const char *text = json_string_value(value);
	json_t *copy = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		cleanup_free char *key = xasprintf(ENV_DOT "%s", members[i]);
		size_t len = strlen(members[i]);
		json_t *one = json_object_get(value, members[i]), *full;

		if (text && strncmp(text, members[i], len) == 0 && text[len] == ':' && text[len + 1] && i < 2) {
			cleanup_free char *path = client_absolute(text + len + 1);

			return text[len + 1] == '/' ? NULL : json_sprintf("%s:%s", members[i], path);
		}
		if (text && strncmp(text, "wheels:", 7) == 0 && i == 2)
			return json_pack("{s:o}", "wheels", absolute_list(text + 7));
		full = one ? localise(key, one) : NULL;
		if (!full)
			continue;
		if (!copy)
			copy = json_deep_copy(value);
		(void)json_object_set_new(copy, members[i], full);
	}
	return copy;
}

/* The value with absolute paths, a new reference; NULL: there is nothing to change. */
static json_t *localise(const char *key, json_t *value)
{
	bool changed = false;
	json_t *list;

	if (strcmp(key, "environment") == 0)
		return localise_environment(value);
	if (json_is_string(value) && is_one(key))
		return json_string_value(value)[0] == '/' || is_word(key, json_string_value(value))
			       ? NULL
			       : absolute(json_string_value(value));
	if (is_one(key))
		return NULL;
	if (json_is_string(value))
		return absolute_list(json_string_value(value));
	if (!json_is_array(value))
		return NULL;
	list = json_array();
	for (size_t i = 0; i < json_array_size(value); i++) {
		json_t *one = json_array_get(value, i);
		const char *path = json_string_value(one);

		changed = changed || (path && *path != '/');
		(void)json_array_append_new(list, path ? absolute(path) : json_incref(one));
	}
	if (changed)
		return list;
	json_decref(list);
	return NULL;
}

/* True when something was changed. */
static bool localise_all(json_t *spec)
{
	static const char *const keys[] = { "files", "payload", "environment", "pipes", "pipes_module" };
	bool changed = false;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		json_t *old = json_object_get(spec, keys[i]), *made = old ? localise(keys[i], old) : NULL;

		if (made) {
			(void)json_object_set_new(spec, keys[i], made);
			changed = true;
		}
	}
	return changed;
}

/* --- KEY=VALUE --- */

bool client_is_pair(const char *word)
{
	const char *s = word;

	if (!isalpha((unsigned char)*s))
		return false;
	while (isalnum((unsigned char)*s) || *s == '_' || *s == '.' || *s == '-')
		s++;
	return *s == '=';
}

int client_pair(json_t *spec, const char *word, struct strbuf *errors)
{
	cleanup_free char *key = xstrndup(word, strcspn(word, "="));
	json_t *value = json_string(word + strlen(key) + 1), *local;
	int rc;

	if (!value) {
		strbuf_addf(errors, "%s%s: the value is not UTF-8", errors->len ? "\n" : "", key);
		return -EINVAL;
	}
	if (strncasecmp(key, "secret", 6) == 0 && strchr(key, '.') && spec_secret_is_value(json_string_value(value))) {
		strbuf_addf(errors,
			    "%s%s: others see the arguments of a command: write file:/PATH or cluster:PATH, or put the "
			    "value into a JSON document",
			    errors->len ? "\n" : "", key);
		json_decref(value);
		return -EINVAL;
	}
	if (client_workdir_relative(key, json_string_value(value)))
		return json_object_set_new(spec, "workdir", value) < 0 ? -EINVAL : 0;
	local = is_local(key) && json_string_length(value) ? localise(key, value) : NULL;
	rc = spec_add(spec, key, local ? local : value, true, errors);
	json_decref(local);
	json_decref(value);
	return rc;
}

/* --- documents --- */

struct docs {
	const char *name;
	json_t *pairs;
	struct client_doc *v;
	size_t n;
	struct strbuf *errors;
};

static int complain(struct docs *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int complain(struct docs *d, const char *fmt, ...)
{
	va_list ap;

	strbuf_addf(d->errors, "%s%s: ", d->errors->len ? "\n" : "", d->name);
	va_start(ap, fmt);
	strbuf_vaddf(d->errors, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static void add(struct docs *d, char *text, size_t len)
{
	d->v = xrealloc(d->v, (d->n + 1) * sizeof(*d->v));
	d->v[d->n++] = (struct client_doc){ text, len };
}

/* `pairs` win; variables are joined. */
static void lay_over(json_t *spec, json_t *pairs)
{
	json_t *value;
	const char *key;

	json_object_foreach (pairs, key, value) {
		json_t *old = json_object_get(spec, key);

		if (json_is_object(old) && json_is_object(value) && strcmp(key, "environment") != 0)
			(void)json_object_update(old, value);
		else
			(void)json_object_set(spec, key, value);
	}
}

static int add_json(struct docs *d, const char *text, size_t len)
{
	json_error_t why;
	json_t *spec = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
	bool changed;

	if (!spec)
		return complain(d, "line %d, column %d: this is not JSON: %s", why.line, why.column, why.text);
	changed = localise_all(spec) || json_object_size(d->pairs);
	lay_over(spec, d->pairs);
	if (changed) {
		char *dump = json_dumps(spec, CLIENT_DUMP_FLAGS);

		add(d, dump, strlen(dump));
	} else {
		add(d, xstrndup(text, len), len);
	}
	json_decref(spec);
	return 0;
}

static int add_script(struct docs *d, const char *text, size_t len)
{
	json_t *spec, *script = json_stringn(text, len);
	cleanup_free char *dir = NULL;
	char *dump;

	if (!script)
		return complain(d,
				"the script is not UTF-8; iconv converts it, and payload=FILE ships a file as it is");
	if (text[len - 1] != '\n') {
		json_decref(script);
		return complain(
			d, "the script does not end in a newline: it may have been cut off, nothing was submitted");
	}
	spec = json_deep_copy(d->pairs);
	dir = json_object_get(spec, "workdir") ? NULL : spec_script_workdir(text, len);
	if (dir && client_workdir_relative("workdir", dir)) /* to sbatch it is relative to where it was called */
		(void)json_object_set_new(spec, "workdir", json_string(dir));
	(void)json_object_set_new(spec, "script", script);
	dump = json_dumps(spec, CLIENT_DUMP_FLAGS);
	json_decref(spec);
	add(d, dump, strlen(dump));
	return 0;
}

static int add_line(struct docs *d, const char *text, size_t len)
{
	const char *nl = memchr(text, '\n', len);
	size_t first = nl ? (size_t)(nl - text) : len;

	if (len >= 4 && memcmp(text, "\177ELF", 4) == 0)
		return complain(d,
				"this is a program and no spec: write -- %s, or payload=%s to ship it to the cluster",
				d->name, d->name);
	if (memchr(text, '\0', len))
		return complain(d, "this is no text and so no spec; payload=%s ships a file and executes it", d->name);
	for (size_t i = first; i < len; i++) /* blank lines may follow */
		if (!isspace((unsigned char)text[i]))
			return complain(d, "%s", spec_more_lines(text));
	if (json_object_size(d->pairs))
		return complain(
			d,
			"KEY=VALUE words and arguments cannot be added to a spec of one line; write them into the line");
	if (text[len - 1] != '\n')
		return complain(d,
				"the line does not end in a newline: it may have been cut off, nothing was submitted");
	add(d, xstrndup(text, len), len);
	return 0;
}

/* One document at `text`; *used is how much of it that was. */
static int add_one(struct docs *d, const char *text, size_t len, size_t *used)
{
	enum scan_result res;
	struct scan s;

	scan_init(&s);
	res = scan_feed(&s, text, len, used);
	switch (s.form) {
	case SCAN_NONE:
		*used = len;
		return 0;
	case SCAN_SCRIPT:
		*used = len;
		return add_script(d, text + s.start, len - s.start);
	case SCAN_LINE:
		*used = len; /* that there is only one line is checked where it arrives */
		return add_line(d, text + s.start, len - s.start);
	case SCAN_JSON:
		break;
	}
	if (res == SCAN_MORE)
		return complain(d, "the JSON document is not complete: a brace, bracket or quote is not closed");
	if (res == SCAN_TOO_DEEP)
		return complain(d, "the JSON document is nested deeper than %d levels", SPEC_MAX_DEPTH);
	return add_json(d, text + s.start, *used - s.start);
}

int client_documents(const char *name, const char *text, size_t len, json_t *pairs, struct client_doc **out,
		     struct strbuf *errors)
{
	struct docs d = { .name = name, .pairs = pairs, .errors = errors };
	size_t at = 0, used;
	int rc = 0;

	while (at < len && rc == 0) {
		rc = add_one(&d, text + at, len - at, &used);
		at += used;
	}
	if (rc == 0 && d.n == 0)
		rc = complain(&d, "there is no spec in it");
	if (rc == 0) {
		*out = d.v;
		return (int)d.n;
	}
	for (size_t i = 0; i < d.n; i++)
		free(d.v[i].text);
	free(d.v);
	return rc;
}
