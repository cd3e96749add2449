/*
 * The key `environment`: what surrounds the command. Text of one kind ("venv:/data/env", "module:gcc,python",
 * "/data/env") or an object of several, which are applied in this order: modules, then one of path, venv, conda,
 * archive, build, then hook, then wheels, then container. The canonical form is always the object, so that all forms
 * compare equal.
 *
 * Invariants of the canonical form: known members only, at least one that does something; `modules` and `options` are
 * lists of text, all others are text; local files and directories on the cluster are absolute. Only the whole can tell
 * that there are two directories: spec_environment_whole does, because dotted keys come one by one.
 */
#include "backend/spec_impl.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define NAMES "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

static bool remote_dir_ok(const char *s)
{
	return (*s == '/' || strncmp(s, "~/", 2) == 0) && !spec_has_control(s);
}

static bool conda_ok(const char *s)
{
	return remote_dir_ok(s) || (*s != '-' && *s != '.' && s[strspn(s, NAMES)] == '\0');
}

static bool archive_ok(const char *s)
{
	static const char *const ends[] = { ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2", ".sh" };
	size_t len = strlen(s);

	for (size_t i = 0; *s == '/' && !spec_has_control(s) && i < ARRAY_SIZE(ends); i++)
		if (len > strlen(ends[i]) && strcmp(s + len - strlen(ends[i]), ends[i]) == 0)
			return true;
	return false;
}

/* A file on the cluster, or what a registry calls it: docker://, oras://, library://, shub://, https:// ... */
static bool image_ok(const char *s)
{
	const char *scheme = strstr(s, "://");

	if (spec_has_control(s))
		return false;
	return remote_dir_ok(s) || (scheme && scheme > s && scheme[3] && s[strspn(s, NAMES)] == ':');
}

/* Anything that is run by its first line, or an archive with an executable `build` in it. */
static bool build_ok(const char *s)
{
	return *s == '/' && !spec_has_control(s) && s[strlen(s) - 1] != '/';
}

static bool time_ok(const char *s)
{
	return spec_time_seconds(s) > 0;
}

static bool wheel_ok(const char *s)
{
	size_t len = strlen(s);

	return *s == '/' && !spec_has_control(s) && len > 4 && strcmp(s + len - 4, ".whl") == 0;
}

static bool hook_ok(const char *s)
{
	return s[strspn(s, " \t\r\n")] != '\0';
}

static bool platform_ok(const char *s)
{
	static const char *const known[] = { "linux-64", "linux-aarch64", "linux-ppc64le", "any" };

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strcmp(s, known[i]) == 0)
			return true;
	return false;
}

/* One word for `module load` or for apptainer. */
static bool word_ok(const char *s)
{
	return *s && !spec_has_control(s);
}

static bool module_ok(const char *s)
{
	return word_ok(s) && *s != '-' && !strpbrk(s, " ;&|<>$`\\\"'()");
}

static const struct member {
	const char *name;
	bool list, directory; /* directory: there is one of these at most */
	bool (*ok)(const char *text);
	const char *want;
} members[] = {
	{ "modules", true, false, module_ok, "names for `module load`" },
	{ "path", false, true, remote_dir_ok, "a directory on the cluster that begins with / or ~/" },
	{ "venv", false, true, remote_dir_ok, "a directory on the cluster that begins with / or ~/" },
	{ "conda", false, true, conda_ok, "the name of a conda environment, or its directory" },
	{ "archive", false, true, archive_ok,
	  "the absolute path of a local file that ends in .tar, .tar.gz, .tgz, .tar.zst, .tar.xz, .tar.bz2 or .sh" },
	{ "build", false, true, build_ok,
	  "the absolute path of a local script that makes the environment, or of an archive "
	  "with one called build" },
	{ "build_time", false, false, time_ok, "how long the build may take: 30 (minutes), 1:00:00" },
	{ "wheels", true, false, wheel_ok, "absolute paths of local files that end in .whl" },
	{ "hook", false, false, hook_ok, "shell text" },
	{ "container", false, false, image_ok, "an image: a path on the cluster, or like docker://debian:12" },
	{ "options", true, false, word_ok, "words for apptainer exec, in front of the image" },
	{ "platform", false, false, platform_ok, "linux-64, linux-aarch64, linux-ppc64le or any" },
};

static const struct member *member_of(const char *name)
{
	if (strcmp(name, "module") == 0)
		name = "modules";
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (strcmp(members[i].name, name) == 0)
			return &members[i];
	return NULL;
}

static int bad_member(const struct member *m, const char *text, struct strbuf *errors)
{
	char shown[SPEC_SHOWN];

	return spec_complain(errors, "'environment.%s' must be %s, not '%s'", m->name, m->want, spec_show(text, shown));
}

static int add_word(const struct member *m, const char *text, json_t *list, struct strbuf *errors)
{
	if (!m->ok(text))
		return bad_member(m, text, errors);
	if (json_array_append_new(list, json_string(text)) < 0)
		return spec_complain(errors, "'environment.%s' must be UTF-8", m->name);
	return 0;
}

/* A list, or text: modules split at commas, options at blanks. */
static int list_member(const struct member *m, const json_t *value, json_t *list, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf key = STRBUF_INIT, text = STRBUF_INIT;
	const char *separators = strcmp(m->name, "options") == 0 ? " " : ", ";
	json_t *item;
	size_t i;

	strbuf_addf(&key, "environment.%s", m->name);
	json_array_foreach ((json_t *)value, i, item) {
		strbuf_reset(&text);
		if (spec_want_text(key.buf, item, &text, errors) < 0 || add_word(m, text.buf, list, errors) < 0)
			return -EINVAL;
	}
	if (!json_is_array(value)) {
		if (spec_want_text(key.buf, value, &text, errors) < 0)
			return -EINVAL;
		for (const char *p = text.buf + strspn(text.buf, separators); *p; p += strspn(p, separators)) {
			size_t n = strcspn(p, separators);
			cleanup_free char *word = xstrndup(p, n);

			if (add_word(m, word, list, errors) < 0)
				return -EINVAL;
			p += n;
		}
	}
	return json_array_size(list) ? 0 : bad_member(m, "", errors);
}

static int text_member(const struct member *m, const json_t *value, json_t *out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf key = STRBUF_INIT, text = STRBUF_INIT;

	strbuf_addf(&key, "environment.%s", m->name);
	if (spec_want_text(key.buf, value, &text, errors) < 0)
		return -EINVAL;
	if (!text.len || !m->ok(text.buf))
		return bad_member(m, text.buf, errors);
	if (json_object_set_new(out, m->name, json_stringn(text.buf, text.len)) < 0)
		return spec_complain(errors, "'environment.%s' must be UTF-8", m->name);
	return 0;
}

int spec_environment_member(json_t *out, const char *name, const json_t *value, struct strbuf *errors)
{
	const struct member *m = member_of(name);
	char shown[SPEC_SHOWN];
	json_t *list;
	int rc;

	if (!m)
		return spec_complain(
			errors,
			"'environment': unknown member '%s'; there is modules, path, venv, conda, archive, "
			"build, build_time, hook, wheels, container, options, platform",
			spec_show(name, shown));
	if (!m->list)
		return text_member(m, value, out, errors);
	list = json_array();
	rc = list_member(m, value, list, errors);
	if (rc == 0)
		(void)json_object_set(out, m->name, list);
	json_decref(list);
	return rc;
}

/* "KIND:VALUE", or a directory alone. */
static int from_text(const char *text, json_t *out, struct strbuf *errors)
{
	const char *colon = strchr(text, ':');
	cleanup_free char *kind = colon ? xstrndup(text, (size_t)(colon - text)) : NULL;
	const struct member *m = kind ? member_of(kind) : NULL;
	char shown[SPEC_SHOWN];
	json_t *value;
	int rc;

	if (remote_dir_ok(text)) {
		(void)json_object_set_new(out, "path", json_string(text));
		return 0;
	}
	if (!m || strcmp(m->name, "options") == 0 || strcmp(m->name, "platform") == 0 ||
	    strcmp(m->name, "build_time") == 0)
		return spec_complain(
			errors,
			"'environment' must be a directory on the cluster, or path:DIR, venv:DIR, conda:NAME, "
			"module:NAME,NAME, archive:FILE, build:FILE, wheels:FILE,FILE, container:IMAGE or hook:COMMAND, not '%s'",
			spec_show(text, shown));
	value = json_string(colon + 1);
	rc = spec_environment_member(out, m->name, value, errors);
	json_decref(value);
	return rc;
}

int spec_value_environment(const json_t *value, json_t **out, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	json_t *env = json_object(), *item;
	const char *name;
	int rc = 0;

	if (json_is_object(value)) {
		json_object_foreach ((json_t *)value, name, item)
			if (!json_is_null(item) && spec_environment_member(env, name, item, errors) < 0)
				rc = -EINVAL;
		if (json_object_size(value) == 0)
			rc = spec_complain(errors, "'environment' must not be empty; null takes a default away");
	} else if (spec_want_text("environment", value, &text, errors) < 0) {
		rc = -EINVAL;
	} else {
		rc = from_text(text.buf, env, errors);
	}
	if (rc < 0)
		json_decref(env);
	else
		*out = env;
	return rc;
}

int spec_environment_whole(const json_t *spec, struct strbuf *errors)
{
	const json_t *env = json_object_get(spec, "environment");
	const char *first = NULL;

	for (size_t i = 0; json_is_object(env) && i < ARRAY_SIZE(members); i++) {
		if (!members[i].directory || !json_object_get(env, members[i].name))
			continue;
		if (first)
			return spec_complain(errors, "'environment': %s and %s cannot be together", first,
					     members[i].name);
		first = members[i].name;
	}
	if (json_object_get(env, "options") && !json_object_get(env, "container"))
		return spec_complain(errors,
				     "'environment.options' belongs to a container: give 'environment.container'");
	if (json_object_get(env, "platform") && !json_object_get(env, "archive"))
		return spec_complain(errors,
				     "'environment.platform' belongs to an archive: give 'environment.archive'");
	if (json_object_get(env, "build_time") && !json_object_get(env, "build"))
		return spec_complain(errors, "'environment.build_time' belongs to a build: give 'environment.build'");
	return 0;
}
