/*
 * The key `environment` as struct environment, from its canonical form (see spec_environment.c). Configuration may have
 * put parts of it there that no spec was checked with, so the whole is looked at again. Pure.
 */
#include "backend/job.h"

#include "backend/base/mem.h"
#include "backend/config.h"
#include "backend/spec_impl.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#define BUILD_LIMIT_MAX 86400

static char **words(const json_t *list)
{
	size_t n = json_array_size(list), k = 0;
	char **v;

	if (!n)
		return NULL;
	v = xcalloc(n + 1, sizeof(*v));
	for (size_t i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(list, i));

		if (s)
			v[k++] = xstrdup(s);
	}
	return v;
}

static void words_free(char **v)
{
	for (size_t i = 0; v && v[i]; i++)
		free(v[i]);
	free(v);
}

static char *member(const json_t *env, const char *name)
{
	return xstrdup(json_string_value(json_object_get(env, name)));
}

static int build_limit(const char *text)
{
	long long s = text ? spec_time_seconds(text) : 0;

	return s <= 0 ? 0 : s > BUILD_LIMIT_MAX ? BUILD_LIMIT_MAX : (int)s;
}

int job_environment_fill(const json_t *value, struct environment *out, struct strbuf *errors)
{
	static const struct {
		const char *name;
		enum env_kind kind;
	} kinds[] = { { "path", ENV_PATH },
		      { "venv", ENV_VENV },
		      { "conda", ENV_CONDA },
		      { "archive", ENV_ARCHIVE },
		      { "build", ENV_BUILD } };

	memset(out, 0, sizeof(*out));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (!json_object_get(value, kinds[i].name))
			continue;
		if (out->kind != ENV_NONE) {
			job_environment_release(out);
			return strbuf_complain(errors, "environment: %s cannot be together with another directory",
					       kinds[i].name);
		}
		out->kind = kinds[i].kind;
		out->where = member(value, kinds[i].name);
	}
	out->modules = words(json_object_get(value, "modules"));
	out->hook = member(value, "hook");
	out->container = member(value, "container");
	out->options = words(json_object_get(value, "options"));
	out->platform = member(value, "platform");
	out->wheels = words(json_object_get(value, "wheels"));
	out->build_s = build_limit(json_string_value(json_object_get(value, "build_time")));
	return 0;
}

bool job_environment_is_set(const struct environment *env)
{
	return env->kind != ENV_NONE || env->modules || env->hook || env->container || env->wheels || env->pipes;
}

void job_environment_release(struct environment *env)
{
	words_free(env->modules);
	words_free(env->options);
	words_free(env->wheels);
	free(env->pipes);
	free(env->where);
	free(env->hook);
	free(env->container);
	free(env->platform);
	memset(env, 0, sizeof(*env));
}
