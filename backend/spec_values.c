/*
 * The types of values: what each accepts and its canonical form, for every key of the table. The finer rules of
 * single keys are in spec_check.c.
 *
 * Every function that fails has added a sentence to `errors` which names the key and says what would be right;
 * it has then stored nothing. Results are new references.
 */
#include "backend/spec_impl.h"
#include "backend/spec_map.h"

#include "backend/base/mem.h"
#include "backend/job_inputs.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

/* The kernel's limit for one argument or variable, NUL included (execve(2), MAX_ARG_STRLEN). */
#define ENV_MAX (128 * 1024)
#define FEW 4 /* elements for which looking through a list is less than making a set of it */

/* ---- types ---- */

static int value_string(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	bool lines = strcmp(k->name, "script") == 0 || strcmp(k->name, "setup") == 0;
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	if (spec_want_text(k->name, value, &text, errors) < 0)
		return -EINVAL;
	if (text.len == 0)
		return spec_complain(errors, "'%s' must not be empty", k->name);
	if (!lines && spec_has_control(text.buf))
		return spec_complain(errors, "'%s' must not contain control characters or line ends", k->name);
	if (spec_check_choice(k->name, text.buf, errors) < 0 || spec_check_rule(k->name, text.buf, errors) < 0)
		return -EINVAL;
	*out = json_stringn(text.buf, text.len);
	return *out ? 0 : spec_complain(errors, "'%s' must be UTF-8", k->name);
}

/* sbatch refuses 0 for all but these. */
static bool zero_ok(const struct spec_key *k)
{
	return !(k->flags & SPEC_SBATCH) || strcmp(k->name, "core_spec") == 0 || strcmp(k->name, "thread_spec") == 0 ||
	       strcmp(k->name, "wait_all_nodes") == 0;
}

static int value_count(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	const char *p;
	char shown[SPEC_SHOWN];
	long long v;

	if (json_is_real(value) || spec_text(value, false, &text) < 0)
		return spec_complain(errors, "'%s' must be a whole number", k->name);
	p = text.buf;
	if (!spec_digits(&p, INT_MAX, &v) || *p || (v == 0 && !zero_ok(k)))
		return spec_complain(errors, "'%s' must be a whole number from %d to %d, not '%s'", k->name,
				     zero_ok(k) ? 0 : 1, INT_MAX, spec_show(text.buf, shown));
	*out = json_integer(v);
	return 0;
}

/* MIN[-MAX], several with commas, each with :STEP (sbatch(1), --nodes; lists since 23.11). */
static bool range_ok(const char *p)
{
	long long low, high, step;

	for (;;) {
		if (!spec_digits(&p, INT_MAX, &low) || low < 1)
			return false;
		high = low;
		if (*p == '-' && (p++, !spec_digits(&p, INT_MAX, &high) || high < low))
			return false;
		if (*p == ':' && (p++, !spec_digits(&p, INT_MAX, &step) || step < 1))
			return false;
		if (!*p)
			return true;
		if (*p++ != ',')
			return false;
	}
}

/* The types that are text with one check: RANGE, TIME, MEMORY. */
static int value_checked(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	const char *want = "";
	char shown[SPEC_SHOWN];
	bool ok = !json_is_real(value); /* not even 2.0 */

	if (spec_want_text(k->name, value, &text, errors) < 0)
		return -EINVAL;
	switch (k->type) {
	case SPEC_RANGE:
		ok = ok && range_ok(text.buf);
		want = "a number or a range, like 2 or 2-4";
		break;
	case SPEC_TIME:
		ok = ok && spec_time_seconds(text.buf) != -EINVAL;
		want = "a time, like 30 (minutes), 1:00:00, 2-12:00 or UNLIMITED";
		break;
	default:
		assert(k->type == SPEC_MEMORY);
		ok = ok && spec_memory_bytes(text.buf) != -EINVAL;
		want = "a size, like 4G, 500M or 2000 (MiB)";
		break;
	}
	if (!ok)
		return spec_complain(errors, "'%s' must be %s, not '%s'", k->name, want, spec_show(text.buf, shown));
	*out = json_stringn(text.buf, text.len);
	return 0;
}

static int flag_word(const char *text)
{
	static const char *const yes[] = { "true", "yes", "on", "1" }, *const no[] = { "false", "no", "off", "0" };

	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		if (strcasecmp(text, yes[i]) == 0)
			return 1;
		if (strcasecmp(text, no[i]) == 0)
			return 0;
	}
	return -EINVAL;
}

static int value_flag(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	char shown[SPEC_SHOWN];
	int flag;

	if (spec_text(value, true, &text) < 0)
		return spec_complain(errors, "'%s' must be true or false", k->name);
	flag = flag_word(text.buf);
	if (flag < 0)
		return spec_complain(errors, "'%s' must be true or false, not '%s'", k->name,
				     spec_show(text.buf, shown));
	*out = json_boolean(flag);
	return 0;
}

/* true, or the argument as text; false says that the option is not given, which is what null says. */
static int value_optional(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	if (spec_text(value, true, &text) < 0)
		return spec_complain(errors, "'%s' must be true, false or text", k->name);
	if (text.len == 0 || spec_has_control(text.buf) || strlen(text.buf) != text.len)
		return spec_complain(errors, "'%s' must be true, false or one line of text", k->name);
	if (strcasecmp(text.buf, "true") == 0)
		*out = json_true();
	else if (strcasecmp(text.buf, "false") == 0)
		*out = json_null();
	else
		*out = json_stringn(text.buf, text.len);
	return *out ? 0 : spec_complain(errors, "'%s' must be UTF-8", k->name);
}

/* Appends one element unless it is there; `seen` has the elements as its keys. */
static int list_element(const char *key, const char *text, json_t *seen, json_t *list, struct strbuf *errors)
{
	if (!*text)
		return spec_complain(errors, "'%s' must not have an empty element", key);
	if (spec_check_rule(key, text, errors) < 0)
		return -EINVAL;
	if (json_object_get(seen, text))
		return 0;
	json_object_set_new(seen, text, json_true());
	return json_array_append_new(list, json_string(text)) < 0 ? spec_complain(errors, "'%s' must be UTF-8", key)
								  : 0;
}

static int list_from_array(const char *key, const json_t *value, json_t *list, struct strbuf *errors)
{
	json_t *seen = json_object();
	size_t i;
	json_t *item;
	int rc = 0;

	json_array_foreach ((json_t *)value, i, item) {
		cleanup_strbuf struct strbuf text = STRBUF_INIT;

		if (spec_errors_full(errors))
			break;
		if (spec_want_text(key, item, &text, errors) < 0 || list_element(key, text.buf, seen, list, errors) < 0)
			rc = -EINVAL;
	}
	json_decref(seen);
	return rc;
}

static int list_from_text(const char *key, const char *p, json_t *list, struct strbuf *errors)
{
	const char *separators = strncmp(key, "after", 5) == 0 ? ",:" : ","; /* sbatch has 41:42 */
	json_t *seen = json_object();
	int rc = 0;

	for (;;) {
		size_t n = strcspn(p, separators);
		cleanup_free char *word = xstrndup(p, n);

		if (list_element(key, word, seen, list, errors) < 0)
			rc = -EINVAL;
		if (!p[n] || spec_errors_full(errors))
			break;
		p += n + 1;
	}
	json_decref(seen);
	return rc;
}

static int value_list(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	json_t *list = json_array();
	int rc;

	if (json_is_array(value))
		rc = list_from_array(k->name, value, list, errors);
	else if (spec_text(value, false, &text) < 0 || strlen(text.buf) != text.len)
		rc = spec_complain(errors, "'%s' must be a list, or text with commas", k->name);
	else
		rc = list_from_text(k->name, text.buf, list, errors);
	if (rc < 0)
		json_decref(list);
	else
		*out = list;
	return rc;
}

static bool list_has(const json_t *list, const char *text)
{
	size_t i;
	json_t *item;

	json_array_foreach ((json_t *)list, i, item)
		if (strcmp(json_string_value(item), text) == 0)
			return true;
	return false;
}

/* A script may join one run at a time, over and over: then nothing is made of the list that is there. */
void spec_list_join(json_t *list, const json_t *more)
{
	bool few = json_array_size(more) <= FEW;
	json_t *seen = json_object(), *item;
	size_t i;

	if (!few)
		json_array_foreach (list, i, item)
			json_object_set_new(seen, json_string_value(item), json_true());
	json_array_foreach ((json_t *)more, i, item) {
		const char *text = json_string_value(item);

		if (few ? list_has(list, text) : json_object_get(seen, text) != NULL)
			continue;
		json_array_append(list, item);
		if (!few)
			json_object_set_new(seen, text, json_true());
	}
	json_decref(seen);
}

/* ---- env ---- */

static bool variable_name_ok(const char *s)
{
	if (!isalpha((unsigned char)*s) && *s != '_')
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && *s != '_')
			return false;
	return true;
}

int spec_value_env(json_t *map, const char *name, const json_t *value, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	char shown[SPEC_SHOWN];

	if (!variable_name_ok(name))
		return spec_complain(errors,
				     "'env': '%s' is no name of a variable: letters, digits and _, no digit first",
				     spec_show(name, shown));
	if (json_is_null(value))
		return json_object_set_new(map, name, json_null()), 0;
	spec_show(name, shown);
	if (spec_text(value, true, &text) < 0)
		return spec_complain(errors, "'env.%s' must be text, a number, true or false", shown);
	if (strlen(text.buf) != text.len)
		return spec_complain(errors, "'env.%s' must not contain a NUL character", shown);
	/* A Pipes context travels as a file when it is large. */
	if (strlen(name) + text.len + 2 > ENV_MAX && strcmp(name, "DAGSTER_PIPES_CONTEXT") != 0)
		return spec_complain(errors, "'env.%s' is longer than 128 KiB; ship it as a file (`files`)", shown);
	if (json_object_set_new(map, name, json_stringn(text.buf, text.len)) < 0)
		return spec_complain(errors, "'env.%s' must be UTF-8", shown);
	return 0;
}

static int value_input(json_t *map, const char *name, const json_t *value, struct strbuf *errors)
{
	const char *source = json_string_value(value);
	char shown[SPEC_SHOWN];

	if (!job_input_name_ok(name))
		return spec_complain(errors, "'inputs': '%s' is no name of a file in one directory",
				     spec_show(name, shown));
	if (json_is_null(value))
		return json_object_set_new(map, name, json_null()), 0;
	spec_show(name, shown);
	if (!source || strlen(source) != json_string_length(value) || !job_input_source_ok(source))
		return spec_complain(errors, "'inputs.%s' must be an absolute local path, or runs/ID/results/PATH",
				     shown);
	return json_object_set(map, name, (json_t *)value), 0;
}

/* No sentence has the value. */
static int value_secret(json_t *map, const char *name, const json_t *value, struct strbuf *errors)
{
	const char *text = json_string_value(value), *path;
	char shown[SPEC_SHOWN];

	if (!variable_name_ok(name))
		return spec_complain(
			errors, "'secret_env': '%s' is no name of a variable: letters, digits and _, no digit first",
			spec_show(name, shown));
	if (json_is_null(value))
		return json_object_set_new(map, name, json_null()), 0;
	spec_show(name, shown);
	if (!text || strlen(text) != json_string_length(value))
		return spec_complain(errors, "'secret_env.%s' must be text without NUL", shown);
	if (strlen(name) + strlen(text) + 2 > ENV_MAX)
		return spec_complain(errors, "'secret_env.%s' is longer than 128 KiB", shown);
	path = text + strcspn(text, ":") + 1;
	if (strncmp(text, "file:", 5) == 0 && (path[0] != '/' || spec_has_control(path)))
		return spec_complain(errors, "'secret_env.%s': file: is followed by an absolute path of this machine",
				     shown);
	if (strncmp(text, "cluster:", 8) == 0 &&
	    ((path[0] != '/' && strncmp(path, "~/", 2) != 0) || spec_has_control(path)))
		return spec_complain(
			errors, "'secret_env.%s': cluster: is followed by a path of the cluster, /... or ~/...", shown);
	return json_object_set(map, name, (json_t *)value), 0;
}

int spec_value_member(const struct spec_key *k, json_t *map, const char *name, const json_t *value,
		      struct strbuf *errors)
{
	const struct spec_map *known = spec_map_find(k->name);

	if (strcmp(k->name, "inputs") == 0)
		return value_input(map, name, value, errors);
	if (known)
		return spec_map_member(known, map, name, value, errors);
	if (strcmp(k->name, "secret_env") == 0)
		return value_secret(map, name, value, errors);
	return spec_value_env(map, name, value, errors);
}

static int value_map(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	const struct spec_map *known = spec_map_find(k->name);
	const char *name;
	json_t *item, *map;
	int rc = 0;

	if (known)
		return spec_map_value(known, value, out, errors);
	if (!json_is_object(value))
		return spec_complain(errors, "'%s' must be a map; on one line write %s.NAME=VALUE", k->name, k->name);
	map = json_object();
	json_object_foreach ((json_t *)value, name, item) {
		if (spec_errors_full(errors))
			break;
		if (spec_value_member(k, map, name, item, errors) < 0)
			rc = -EINVAL;
	}
	if (rc < 0)
		json_decref(map);
	else
		*out = map;
	return rc;
}

/* ---- keys with a form of their own ---- */

/* Words as execve(2) takes them. */
static int word_list(const char *key, const json_t *value, json_t **out, struct strbuf *errors)
{
	json_t *list = json_array(), *item;
	size_t i;
	int rc = 0;

	json_array_foreach ((json_t *)value, i, item) {
		cleanup_strbuf struct strbuf text = STRBUF_INIT;

		if (spec_errors_full(errors))
			break;
		if (spec_text(item, false, &text) < 0 || strlen(text.buf) != text.len)
			rc = spec_complain(errors, "'%s': word %zu must be text without NUL", key, i + 1);
		else if (text.len + 1 > ENV_MAX)
			rc = spec_complain(errors, "'%s': word %zu is longer than 128 KiB", key, i + 1);
		else if (json_array_append_new(list, json_stringn(text.buf, text.len)) < 0)
			rc = spec_complain(errors, "'%s' must be UTF-8", key);
	}
	if (rc < 0)
		json_decref(list);
	else
		*out = list;
	return rc;
}

static int command_list(const json_t *value, json_t **out, struct strbuf *errors)
{
	const json_t *program = json_array_get(value, 0);

	if (!program)
		return spec_complain(errors, "'command' must not be an empty list");
	if (json_is_string(program) && json_string_length(program) == 0)
		return spec_complain(errors,
				     "'command': the first word of the list is the program; it must not be empty");
	return word_list("command", value, out, errors);
}

static int value_command(const json_t *value, json_t **out, struct strbuf *errors)
{
	const char *text = json_string_value(value);

	if (json_is_array(value))
		return command_list(value, out, errors);
	if (!text)
		return spec_complain(errors, "'command' must be text for a shell or a list of words");
	if (strlen(text) != json_string_length(value))
		return spec_complain(errors, "'command' must not contain a NUL character");
	if (!text[strspn(text, " \t\r\n")])
		return spec_complain(errors, "'command' must not be empty");
	if (strncmp(text, "#SBATCH", strlen("#SBATCH")) == 0)
		return spec_complain(errors, "%s", SPEC_NO_SCRIPT);
	if (text[strspn(text, " \t")] == '#' && !strchr(text, '\n'))
		return spec_complain(errors, "'command' must not be a comment alone");
	*out = json_string(text);
	return *out ? 0 : spec_complain(errors, "'command' must be UTF-8");
}

/* One of sbatch_args: an option that no key stands for. */
static int check_sbatch_arg(const char *arg, struct strbuf *errors)
{
	cleanup_free char *option = xstrndup(arg, strcspn(arg, "="));
	const struct spec_key *k;
	char shown[SPEC_SHOWN];

	if (strncmp(arg, "--", 2) != 0 || !isalpha((unsigned char)arg[2]) || spec_has_control(arg))
		return spec_complain(errors, "'sbatch_args' must be options like --OPTION or --OPTION=VALUE, not '%s'",
				     spec_show(arg, shown));
	k = spec_key_option(option + 2);
	if (!k)
		return 0;
	if (k->flags & (SPEC_OURS | SPEC_LATER))
		return spec_complain(errors, "'sbatch_args': %s: %s", spec_show(option, shown), k->help);
	return spec_complain(errors, "'sbatch_args': %s is a key of its own: write %s instead",
			     spec_show(option, shown), k->name);
}

/* Text becomes a list of its words. */
static int split_words(const char *key, const json_t *text, json_t *list, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf word = STRBUF_INIT;
	const char *p = json_string_value(text), *end = p + json_string_length(text);
	int r;

	while ((r = spec_word(&p, end, &word)) > 0)
		json_array_append_new(list, json_stringn(word.buf, word.len));
	return r < 0 ? spec_complain(errors, "'%s': a quote is not closed", key) : 0;
}

static int value_args(const json_t *value, json_t **out, struct strbuf *errors)
{
	json_t *list;
	int rc;

	if (json_is_array(value))
		return word_list("args", value, out, errors);
	if (!json_is_string(value))
		return spec_complain(errors, "'args' must be a list of words");
	list = json_array();
	rc = split_words("args", value, list, errors);
	if (rc == 0)
		rc = word_list("args", list, out, errors);
	json_decref(list);
	return rc;
}

static int value_sbatch_args(const json_t *value, json_t **out, struct strbuf *errors)
{
	json_t *list = json_is_array(value) ? json_deep_copy(value) : json_array(), *item;
	size_t i;
	int rc = 0;

	if (json_is_string(value))
		rc = split_words("sbatch_args", value, list, errors);
	else if (!json_is_array(value))
		rc = spec_complain(errors, "'sbatch_args' must be a list of options for sbatch");
	json_array_foreach (list, i, item) {
		const char *arg = json_string_value(item);

		if (!arg || strlen(arg) != json_string_length(item))
			rc = spec_complain(errors, "'sbatch_args' must be a list of text");
		else if (check_sbatch_arg(arg, errors) < 0)
			rc = -EINVAL;
	}
	if (rc < 0)
		json_decref(list);
	else
		*out = list;
	return rc;
}

/* One condition, TYPE:RUN[:RUN...], appended to the list of its type. */
static int dependency_clause(json_t *spec, char *clause, struct strbuf *errors)
{
	char *colon = strchr(clause, ':'), shown[SPEC_SHOWN];
	const struct spec_key *k;
	json_t *list, *old;
	int rc;

	if (strcmp(clause, "singleton") == 0)
		return json_object_set_new(spec, "dependency", json_string("singleton")), 0;
	if (!colon)
		return spec_complain(errors, "'dependency': '%s' must be TYPE:RUN, like afterok:41:42",
				     spec_show(clause, shown));
	*colon = '\0';
	k = spec_key_find(clause);
	if (!k || !(k->flags & SPEC_RUN_IDS) || strcmp(k->name, "dependency") == 0)
		return spec_complain(errors, "'dependency': '%s' must be afterok, afterany, afternotok or singleton",
				     spec_show(clause, shown));
	if (k->flags & SPEC_LATER)
		return spec_complain(errors, "'dependency': %s: %s", k->name, k->help);
	list = json_array();
	rc = list_from_text(k->name, colon + 1, list, errors);
	old = json_object_get(spec, k->name);
	if (old)
		json_array_extend(old, list);
	else
		json_object_set(spec, k->name, list);
	json_decref(list);
	return rc;
}

/* Each run once, in all lists. */
static void unique_runs(json_t *spec)
{
	const char *key;
	json_t *list;
	void *tmp;

	json_object_foreach_safe (spec, tmp, key, list) {
		json_t *once = json_array();

		if (json_is_array(list)) {
			spec_list_join(once, list);
			json_object_set(spec, key, once);
		}
		json_decref(once);
	}
}

int spec_value_dependency(json_t *spec, const json_t *value, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	char *p, *comma;
	int rc = 0;

	if (spec_want_text("dependency", value, &text, errors) < 0)
		return -EINVAL;
	if (strchr(text.buf, '?'))
		return spec_complain(errors, "'dependency': '?' (any one of them) is not possible yet; use ','");
	for (p = text.buf; p && !spec_errors_full(errors); p = comma ? comma + 1 : NULL) {
		comma = strchr(p, ',');
		if (comma)
			*comma = '\0';
		if (dependency_clause(spec, p, errors) < 0)
			rc = -EINVAL;
	}
	unique_runs(spec);
	return rc;
}

bool spec_pipes_module_ok(const char *s)
{
	size_t len = strlen(s);

	return *s == '/' && !spec_has_control(s) &&
	       ((len > 4 && strcmp(s + len - 4, ".whl") == 0) || (len > 3 && strcmp(s + len - 3, ".py") == 0));
}

static int value_pipes(const json_t *value, json_t **out, struct strbuf *errors)
{
	const char *word = json_string_value(value);

	if (word && (strcmp(word, "inject") == 0 || spec_pipes_module_ok(word)))
		return *out = json_string(word), 0;
	if (json_is_boolean(value) || (word && (strcmp(word, "true") == 0 || strcmp(word, "false") == 0)))
		return *out = json_boolean(json_is_true(value) || (word && *word == 't')), 0;
	return spec_complain(errors,
			     "'pipes' must be true, false, inject, or the absolute path of a dagster_pipes of this "
			     "machine that ends in .whl or .py");
}

static int value_extras(const json_t *value, json_t **out, struct strbuf *errors)
{
	json_t *parsed = json_is_string(value) ? json_loads(json_string_value(value), 0, NULL) : json_deep_copy(value);

	if (json_is_object(parsed))
		return *out = parsed, 0;
	json_decref(parsed);
	return spec_complain(errors, "'extras' must be a JSON object");
}

int spec_value(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors)
{
	switch (k->type) {
	case SPEC_STRING:
		return value_string(k, value, out, errors);
	case SPEC_COUNT:
		return value_count(k, value, out, errors);
	case SPEC_RANGE:
	case SPEC_TIME:
	case SPEC_MEMORY:
		return value_checked(k, value, out, errors);
	case SPEC_FLAG:
		return value_flag(k, value, out, errors);
	case SPEC_OPTIONAL:
		return value_optional(k, value, out, errors);
	case SPEC_LIST:
		return value_list(k, value, out, errors);
	case SPEC_MAP:
		return value_map(k, value, out, errors);
	case SPEC_ANY:
		break;
	}
	if (strcmp(k->name, "command") == 0)
		return value_command(value, out, errors);
	if (strcmp(k->name, "pipes") == 0)
		return value_pipes(value, out, errors);
	if (strcmp(k->name, "extras") == 0)
		return value_extras(value, out, errors);
	if (strcmp(k->name, "environment") == 0)
		return spec_value_environment(value, out, errors);
	if (strcmp(k->name, "args") == 0)
		return value_args(value, out, errors);
	assert(strcmp(k->name, "sbatch_args") == 0);
	return value_sbatch_args(value, out, errors);
}
