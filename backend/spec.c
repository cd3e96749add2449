/*
 * Specs: the entry point for the three forms, the JSON form, and the setting of single keys. Whatever the form,
 * every key goes through spec_set, so that all forms give the same canonical object; then `finish` looks at the
 * whole.
 *
 * The canonical object has known keys only, under the names of the table. A key that is null says "no value", and
 * is kept: it unsets what a weaker layer (profile, cluster, defaults) gives. sbatch's `dependency` is taken apart
 * into the lists, `no_requeue` becomes requeue = false, `export` = ALL (what always happens) leaves no trace.
 */
#include "backend/spec.h"

#include "backend/base/err.h"
#include "backend/base/mem.h"
#include "backend/scan.h"
#include "backend/spec_impl.h"

#include <errno.h>
#include <string.h>

/* ---- single keys ---- */

static int set_member(json_t *spec, const struct spec_key *k, const char *member, const json_t *value,
		      struct strbuf *errors)
{
	json_t *map = json_object_get(spec, k->name), *one;
	char shown[SPEC_SHOWN];
	bool surroundings = strcmp(k->name, "environment") == 0;
	int rc;

	if (k->type != SPEC_MAP && !surroundings)
		return spec_complain(errors, "'%s.%s': '%s' is no map", k->name, spec_show(member, shown), k->name);
	one = json_object();
	rc = surroundings ? spec_environment_member(one, member, value, errors)
			  : spec_value_member(k, one, member, value, errors);
	if (rc == 0 && json_is_object(map))
		json_object_update_recursive(map, one); /* ray.metadata.NAME */
	else if (rc == 0)
		json_object_set(spec, k->name, one);
	json_decref(one);
	return rc;
}

/* Keys whose canonical form is other keys. 1: done. */
static int set_special(json_t *spec, const struct spec_key *k, const json_t *value, struct strbuf *errors)
{
	int rc;

	if (strcmp(k->name, "export") == 0) {
		const char *text = json_string_value(value);

		return text && strcmp(text, "ALL") == 0;
	}
	if (strcmp(k->name, "dependency") == 0) {
		json_t *parts = json_object();

		rc = spec_value_dependency(parts, value, errors);
		if (rc == 0)
			json_object_update(spec, parts);
		json_decref(parts);
		return rc < 0 ? rc : 1;
	}
	if (strcmp(k->name, "no_requeue") == 0) {
		json_t *flag = NULL;

		rc = spec_value(k, value, &flag, errors);
		if (rc == 0)
			json_object_set_new(spec, "requeue", json_boolean(json_is_false(flag)));
		json_decref(flag);
		return rc < 0 ? rc : 1;
	}
	return 0;
}

/* A key as a whole, by its row. */
static int set_key(json_t *spec, const struct spec_key *k, const json_t *value, struct strbuf *errors)
{
	json_t *canonical = NULL, *map;
	int rc;

	if (json_is_null(value)) {
		if (!(k->flags & (SPEC_LATER | SPEC_OURS)))
			json_object_set_new(spec, strcmp(k->name, "no_requeue") == 0 ? "requeue" : k->name,
					    json_null());
		return 0;
	}
	rc = set_special(spec, k, value, errors);
	if (rc != 0)
		return rc < 0 ? rc : 0;
	if (k->flags & (SPEC_LATER | SPEC_OURS))
		return spec_complain(errors, "'%s': %s", k->name, k->help);
	rc = spec_value(k, value, &canonical, errors);
	if (rc < 0)
		return rc;
	map = json_object_get(spec, k->name);
	if (k->type == SPEC_MAP && json_is_object(map))
		json_object_update(map, canonical);
	else
		json_object_set(spec, k->name, canonical);
	json_decref(canonical);
	return 0;
}

int spec_set(json_t *spec, const char *name, json_t *value, struct strbuf *errors)
{
	size_t len = strcspn(name, ".");
	cleanup_free char *base = xstrndup(name, len);
	const struct spec_key *k = spec_key_find(base);

	if (!k)
		return spec_key_unknown(name, errors);
	if (!name[len])
		return set_key(spec, k, value, errors);
	if (k->flags & SPEC_LATER)
		return spec_complain(errors, "'%s': %s", k->name, k->help);
	return set_member(spec, k, name + len + 1, value, errors);
}

/* ---- building a spec key by key ---- */

#define JOINED_MAX 1000 /* runs, by which a script's #SBATCH lines may lengthen a list one by one */

static int join(json_t *into, const char *prefix, const char *name, json_t *value, bool same_ok, struct strbuf *errors)
{
	json_t *old = json_object_get(into, name);
	char shown[SPEC_SHOWN];

	if (!old)
		return json_object_set(into, name, value), 0;
	if (same_ok && json_equal(old, value))
		return 0;
	return spec_complain(errors, "'%s%s' is given twice%s", prefix, spec_show(name, shown),
			     same_ok ? " with different values" : "");
}

/* ray.metadata.A and ray.metadata.B are two parts of one member. */
static int join_ray(json_t *old, const json_t *value, bool same_ok, struct strbuf *errors)
{
	const char *member, *name;
	json_t *item, *v;
	int rc = 0;

	json_object_foreach ((json_t *)value, member, item) {
		json_t *part = json_object_get(old, member);

		if (!json_is_object(part) || !json_is_object(item)) {
			rc |= join(old, "ray.", member, item, same_ok, errors);
			continue;
		}
		json_object_foreach (item, name, v)
			rc |= join(part, "ray.", name, v, same_ok, errors);
	}
	return rc ? -EINVAL : 0;
}

static int join_key(json_t *spec, const char *name, json_t *value, bool same_ok, struct strbuf *errors)
{
	json_t *old = json_object_get(spec, name), *item;
	const struct spec_key *k = spec_key_find(name);
	const char *member;
	int rc = 0;

	if (strcmp(name, "ray") == 0 && json_is_object(old) && json_is_object(value))
		return join_ray(old, value, same_ok, errors);
	if (json_is_object(old) && json_is_object(value)) {
		cleanup_free char *prefix = xasprintf("%s.", name);

		json_object_foreach (value, member, item)
			if (join(old, prefix, member, item, same_ok, errors) < 0)
				rc = -EINVAL;
		return rc;
	}
	if (k && (k->flags & SPEC_RUN_IDS) && json_is_array(old) && json_is_array(value)) {
		if (same_ok && json_array_size(old) >= JOINED_MAX)
			return spec_complain(errors,
					     "'%s' has more than %d runs from several options; give them in one", name,
					     JOINED_MAX);
		spec_list_join(old, value);
		return 0;
	}
	return join(spec, "", name, value, same_ok, errors);
}

int spec_add(json_t *spec, const char *name, json_t *value, bool same_ok, struct strbuf *errors)
{
	json_t *one = json_object(), *item;
	int rc = spec_set(one, name, value, errors);
	const char *key;

	if (rc == 0) {
		json_object_foreach (one, key, item)
			if (join_key(spec, key, item, same_ok, errors) < 0)
				rc = -EINVAL;
	}
	json_decref(one);
	return rc;
}

/* ---- the JSON form ---- */

static int json_mistake(const json_error_t *e, struct strbuf *errors)
{
	const char *what = NULL;

	switch (json_error_code(e)) {
	case json_error_duplicate_key:
		what = "a key is given twice";
		break;
	case json_error_null_character:
	case json_error_null_byte_in_key:
		what = "\\u0000 (a NUL character) must not be in a spec";
		break;
	case json_error_end_of_input_expected:
		what = "there is something behind the brace that ends the spec";
		break;
	case json_error_premature_end_of_input:
		what = "the spec is cut off: a brace, bracket or quote is not closed";
		break;
	case json_error_numeric_overflow:
		what = "a number is too large";
		break;
	default:
		break;
	}
	if (what)
		return spec_complain(errors, "line %d, column %d: %s", e->line, e->column, what);
	return spec_complain(errors, "line %d, column %d: this is not JSON: %s", e->line, e->column, e->text);
}

/* A session has nothing to run: others run in it. */
static bool is_session(const json_t *spec)
{
	const char *launcher = json_string_value(json_object_get(spec, "launcher"));

	return launcher && strcmp(launcher, "session") == 0;
}

/* How many of the keys that say what runs are there. */
static int count_programs(const json_t *spec)
{
	static const char *const names[] = { "command", "script", "payload" };
	int n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const json_t *value = json_object_get(spec, names[i]);

		n += value && !json_is_null(value);
	}
	return n;
}

static int parse_json(const char *text, size_t len, json_t *spec, struct strbuf *errors)
{
	json_t *root, *value;
	json_error_t e;
	const char *key;
	int rc = 0;

	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &e);
	if (!root)
		return json_mistake(&e, errors);
	json_object_foreach (root, key, value) {
		if (spec_errors_full(errors))
			break;
		if (spec_add(spec, key, value, false, errors) < 0)
			rc = -EINVAL;
	}
	/* A bad command is no missing command: it is what was written that counts. */
	if (count_programs(root) == 0 && !is_session(root) && !is_session(spec))
		rc = spec_complain(errors, "there is nothing to run: give 'command', 'script' or 'payload'");
	json_decref(root);
	return rc;
}

/* ---- the whole ---- */

/* What #SBATCH lines say counts where the spec itself says nothing, as on sbatch's command line. */
static int add_script_keys(json_t *spec, const json_t *script, struct strbuf *errors)
{
	bool elsewhere = json_is_string(json_object_get(spec, "workdir"));
	cleanup_free char *unused = NULL; /* a relative one, which means something to sbatch alone */
	json_t *keys = json_object();
	int rc = spec_script(json_string_value(script), json_string_length(script), keys, elsewhere ? &unused : NULL,
			     errors);

	if (rc == 0)
		json_object_update_missing(spec, keys);
	json_decref(keys);
	return rc;
}

static int finish(json_t *spec, struct strbuf *errors)
{
	const json_t *script = json_object_get(spec, "script"), *command = json_object_get(spec, "command");
	const json_t *args = json_object_get(spec, "args");
	int rc = 0;

	if (is_session(spec) && count_programs(spec))
		rc = spec_complain(errors,
				   "a session runs nothing itself: submit the command as a run with session=NAME");
	if (count_programs(spec) > 1)
		rc = spec_complain(errors, "'command', 'script' and 'payload': only one of them can be what runs");
	if (args && !json_is_null(args) && command && !json_is_null(command))
		rc = spec_complain(errors,
				   "'args': only a script or a payload takes arguments; write those of a command into "
				   "the command");
	if (json_is_string(script) && add_script_keys(spec, script, errors) < 0)
		rc = -EINVAL;
	if (spec_environment_whole(spec, errors) < 0)
		rc = -EINVAL;
	return rc;
}

const char *spec_more_lines(const char *text)
{
	return *text == '#'
		       ? SPEC_NO_SCRIPT
		       : "there is more behind the line: a batch script begins with #! and the path of an interpreter, such as "
			 "#!/bin/bash; else write one spec at a time";
}

/* A line is in the history of a shell, or in the arguments of a command. */
static int open_secrets(const json_t *spec, struct strbuf *errors)
{
	const json_t *map = json_object_get(spec, "secret_env");
	const char *name;
	int rc = 0;
	json_t *v;

	json_object_foreach ((json_t *)map, name, v)
		if (json_is_string(v) && spec_secret_is_value(json_string_value(v)))
			rc = spec_complain(errors,
					   "'secret_env.%s': a line is no place for a secret: write file:/PATH or "
					   "cluster:PATH, or a JSON document with the value",
					   name);
	return rc;
}

static int parse_line(const char *text, size_t len, json_t *spec, struct strbuf *errors)
{
	const char *nl = memchr(text, '\n', len);

	if (nl && nl + 1 != text + len)
		return spec_complain(errors, "%s", spec_more_lines(text));
	return spec_line(text, nl ? (size_t)(nl - text) : len, spec, errors) < 0 || open_secrets(spec, errors) < 0
		       ? -EINVAL
		       : 0;
}

static int parse_script(const char *text, size_t len, json_t *spec, struct strbuf *errors)
{
	json_t *script = json_stringn(text, len);
	int rc = spec_add(spec, "script", script, false, errors);

	json_decref(script);
	return rc;
}

static unsigned line_of(const char *text, size_t pos)
{
	unsigned line = 1;

	for (size_t i = 0; i < pos; i++)
		line += text[i] == '\n';
	return line;
}

/* What holds for the bytes of every form. */
static int check_bytes(const char *text, size_t len, struct strbuf *errors)
{
	const char *nul = len ? memchr(text, '\0', len) : NULL;
	size_t good;

	if (len > SPEC_MAX_BYTES)
		return spec_complain(errors, "the spec is longer than 1 MiB");
	if (nul)
		return spec_complain(errors, "line %u: the spec contains a NUL byte",
				     line_of(text, (size_t)(nul - text)));
	good = spec_utf8_prefix(text, len);
	if (good < len)
		return spec_complain(errors,
				     "line %u: the spec is not UTF-8 (byte 0x%02x); iconv converts it, and `payload` "
				     "ships a file as it is",
				     line_of(text, good), (unsigned)(unsigned char)text[good]);
	if (len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
		return spec_complain(errors, "the spec begins with a byte order mark; save it without one");
	return 0;
}

static int parse_form(const char *text, size_t len, json_t *spec, struct strbuf *errors)
{
	struct scan s;
	size_t used;

	scan_init(&s);
	if (scan_feed(&s, text, len, &used) == SCAN_TOO_DEEP)
		return spec_complain(errors, "the spec is nested more than %d levels deep", SPEC_MAX_DEPTH);
	text += s.start;
	len -= s.start;
	switch (s.form) {
	case SCAN_JSON:
		return parse_json(text, len, spec, errors);
	case SCAN_SCRIPT:
		return parse_script(text, len, spec, errors);
	case SCAN_LINE:
		return parse_line(text, len, spec, errors);
	case SCAN_NONE:
		break;
	}
	if (s.hash) /* a lone '#' */
		return parse_line(text, len, spec, errors);
	return spec_complain(errors, "the spec is empty");
}

static int parse_into(const char *text, size_t len, bool session, json_t **spec, struct strbuf *errors)
{
	json_t *out;
	int rc = check_bytes(text, len, errors);

	if (rc < 0)
		return rc;
	out = json_object();
	if (session)
		(void)json_object_set_new(out, "launcher", json_string("session"));
	rc = parse_form(text, len, out, errors);
	if (rc == 0 && session && !is_session(out))
		rc = spec_complain(errors, "launcher: what is written here is a session");
	/* The whole is judged even when parts are wrong, so that all errors come at once. */
	if (finish(out, errors) < 0)
		rc = -EINVAL;
	if (rc < 0)
		json_decref(out);
	else
		*spec = out;
	return rc;
}

int spec_parse(const char *text, size_t len, json_t **spec, struct strbuf *errors)
{
	return parse_into(text, len, false, spec, errors);
}

int spec_parse_session(const char *text, size_t len, json_t **spec, struct strbuf *errors)
{
	return parse_into(text, len, true, spec, errors);
}

/* ---- comparison ---- */

static json_t *without_pipes(const json_t *spec)
{
	json_t *copy = json_deep_copy(spec), *env = json_object_get(copy, "env"), *value;
	const char *name;
	void *tmp;

	if (!json_is_object(env))
		return copy;
	json_object_foreach_safe (env, tmp, name, value)
		if (strncmp(name, "DAGSTER_PIPES_", strlen("DAGSTER_PIPES_")) == 0)
			json_object_del(env, name);
	if (json_object_size(env) == 0)
		json_object_del(copy, "env");
	return copy;
}

bool spec_equal(const json_t *a, const json_t *b)
{
	json_t *x = without_pipes(a), *y = without_pipes(b);
	bool equal = json_equal(x, y);

	json_decref(x);
	json_decref(y);
	return equal;
}
