/*
 * What a spec says under `ray` for a cluster of type ray, and runtime environments. Ray takes a key that it does not
 * know and does nothing about it, and takes values that it can do nothing with and lets the job fail minutes later; so
 * both are looked at before anything is sent. Pure.
 */
#include "backend/ray_api.h"

#include "backend/base/mem.h"
#include "backend/base/near.h"
#include "backend/spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum kind { K_ANY, K_STRING, K_STRINGS /* an object of them */, K_LIST, K_NUMBER, K_OBJECT };

struct key {
	const char *name;
	enum kind kind;
};

/* ray/_private/runtime_env and the page "Environment dependencies" of Ray's documentation, as of 2.60. */
static const struct key env_keys[] = {
	{ "working_dir", K_STRING }, { "py_modules", K_LIST },  { "py_executable", K_STRING },
	{ "excludes", K_LIST },      { "pip", K_ANY },          { "uv", K_ANY },
	{ "conda", K_ANY },          { "env_vars", K_STRINGS }, { "image_uri", K_STRING },
	{ "container", K_OBJECT },   { "config", K_OBJECT },    { "worker_process_setup_hook", K_STRING },
	{ "nsight", K_ANY },         { "rocprof_sys", K_ANY },  { "java_jars", K_LIST },
	{ "mpi", K_OBJECT },         { NULL, K_ANY },
};

static const struct key config_keys[] = {
	{ "setup_timeout_seconds", K_NUMBER },
	{ "eager_install", K_ANY },
	{ "log_files", K_LIST },
	{ NULL, K_ANY },
};

static bool strings_only(const json_t *o)
{
	const char *name;
	json_t *v;

	if (!json_is_object(o))
		return false;
	json_object_foreach ((json_t *)(uintptr_t)o, name, v)
		if (!json_is_string(v))
			return false;
	return true;
}

static int check_kind(const char *what, const struct key *k, const json_t *v, struct strbuf *errors)
{
	switch (k->kind) {
	case K_STRING:
		return json_is_string(v) ? 0 : strbuf_complain(errors, "%s.%s: must be text", what, k->name);
	case K_STRINGS:
		return strings_only(v)
			       ? 0
			       : strbuf_complain(errors, "%s.%s: must be names with text for each", what, k->name);
	case K_LIST:
		return json_is_array(v) ? 0 : strbuf_complain(errors, "%s.%s: must be a list", what, k->name);
	case K_NUMBER:
		return json_is_number(v) && json_number_value(v) >= 0
			       ? 0
			       : strbuf_complain(errors, "%s.%s: must be a number", what, k->name);
	case K_OBJECT:
		return json_is_object(v) ? 0 : strbuf_complain(errors, "%s.%s: must be a map", what, k->name);
	case K_ANY:
		break;
	}
	return 0;
}

/* Every member has to be in the table; the nearest name is given for one that is not. */
static int check_keys(const char *what, const struct key *keys, const json_t *o, struct strbuf *errors)
{
	const char *name;
	json_t *v;
	int rc = 0;

	json_object_foreach ((json_t *)(uintptr_t)o, name, v) {
		int best = near_limit(name) + 1;
		const struct key *k = keys;
		const char *near = NULL;

		while (k->name && strcmp(k->name, name) != 0)
			near_consider(name, k++->name, &best, &near);
		if (k->name)
			rc |= check_kind(what, k, v, errors);
		else
			rc |= strbuf_complain(errors, "%s: unknown key '%.60s'%s%s%s", what, name,
					      near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
	}
	return rc ? -EINVAL : 0;
}

/* REST takes addresses only; a local directory would fail on the cluster. */
static bool is_uri(const char *s)
{
	const char *colon = strstr(s, "://");

	return colon && colon > s;
}

static int check_uris(const json_t *env, struct strbuf *errors)
{
	const char *dir = json_string_value(json_object_get(env, "working_dir"));
	const json_t *modules = json_object_get(env, "py_modules");
	int rc = 0;

	if (dir && !is_uri(dir))
		rc = strbuf_complain(
			errors,
			"ray.runtime_env.working_dir: '%.100s' is no address (s3://, gs://, https://): for a "
			"directory of this machine write ray.working_dir",
			dir);
	for (size_t i = 0; i < json_array_size(modules); i++) {
		const char *m = json_string_value(json_array_get(modules, i));

		if (!m || !is_uri(m))
			rc = strbuf_complain(errors,
					     "ray.runtime_env.py_modules: only addresses (s3://, gs://, https://) "
					     "can be given here; put the modules into ray.working_dir");
	}
	return rc;
}

int ray_env_check(const json_t *env, struct strbuf *errors)
{
	const json_t *config = json_object_get(env, "config");
	int n = 0, rc;

	if (!json_is_object(env))
		return strbuf_complain(errors, "ray.runtime_env: must be a map");
	rc = check_keys("ray.runtime_env", env_keys, env, errors);
	if (json_is_object(config))
		rc |= check_keys("ray.runtime_env.config", config_keys, config, errors);
	rc |= check_uris(env, errors);
	n += json_object_get(env, "pip") != NULL;
	n += json_object_get(env, "uv") != NULL;
	n += json_object_get(env, "conda") != NULL;
	if (n > 1)
		rc |= strbuf_complain(errors, "ray.runtime_env: pip, uv and conda exclude each other");
	return rc ? -EINVAL : 0;
}

static double number_of(const json_t *ray, const char *key)
{
	const json_t *v = json_object_get(ray, key);

	return json_is_number(v) ? json_number_value(v) : -1;
}

int ray_spec_read(const json_t *ray, struct ray_spec *out, struct strbuf *errors)
{
	const json_t *env = json_object_get(ray, "runtime_env"), *resources, *memory, *v;
	const char *dir, *name;
	int rc = 0;

	memset(out, 0, sizeof(*out));
	out->num_cpus = number_of(ray, "entrypoint_num_cpus");
	out->num_gpus = number_of(ray, "entrypoint_num_gpus");
	memory = json_object_get(ray, "entrypoint_memory");
	out->memory = json_is_integer(memory) ? json_integer_value(memory) : -1;
	out->metadata = json_object_get(ray, "metadata");
	out->labels = json_object_get(ray, "entrypoint_label_selector");
	out->resources = resources = json_object_get(ray, "entrypoint_resources");
	json_object_foreach ((json_t *)(uintptr_t)resources, name, v)
		if (!json_is_number(v) || json_number_value(v) < 0)
			rc |= strbuf_complain(errors, "ray.entrypoint_resources: '%.60s' must be a number", name);
	out->runtime_env = env;
	if (env)
		rc |= ray_env_check(env, errors);
	dir = json_string_value(json_object_get(ray, "working_dir"));
	if (dir && json_object_get(env, "working_dir"))
		rc |= strbuf_complain(errors, "ray.working_dir and ray.runtime_env.working_dir exclude each other");
	if (dir && is_uri(dir))
		out->working_uri = dir;
	else if (dir && *dir == '/')
		out->working_dir = dir;
	else if (dir)
		rc |= strbuf_complain(errors, "ray.working_dir: '%.100s' must begin with / or be an address", dir);
	return rc ? -EINVAL : 0;
}
