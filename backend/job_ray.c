/*
 * The key `ray` as struct job_ray, from its canonical form (see spec_ray.c). What drivers are to be told (runtime_env
 * with working_dir, metadata) becomes the text that Ray's own job manager gives to drivers in
 * RAY_JOB_CONFIG_JSON_ENV_VAR. Pure.
 */
#include "backend/job.h"

#include "backend/base/mem.h"

#include <jansson.h>
#include <string.h>

#define START_TIMEOUT 120 /* seconds; a cold Python on a shared file system takes long */

static char *text(const json_t *map, const char *name)
{
	return xstrdup(json_string_value(json_object_get(map, name)));
}

static int count(const json_t *map, const char *name, int otherwise)
{
	const json_t *v = json_object_get(map, name);

	return json_is_integer(v) ? (int)json_integer_value(v) : otherwise;
}

static bool flag(const json_t *map, const char *name)
{
	return !json_is_false(json_object_get(map, name));
}

static char **words(const json_t *list)
{
	size_t n = json_array_size(list), k = 0;
	char **v = xcalloc(n + 1, sizeof(*v));

	for (size_t i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(list, i));

		if (s)
			v[k++] = xstrdup(s);
	}
	return v;
}

static char *job_config(const json_t *ray)
{
	const json_t *env = json_object_get(ray, "runtime_env"), *meta = json_object_get(ray, "metadata");
	const json_t *dir = json_object_get(ray, "working_dir");
	json_t *config, *runtime;
	char *out;

	if (!env && !meta && !dir)
		return NULL;
	config = json_object();
	runtime = env ? json_copy((json_t *)env) : json_object();
	if (dir)
		(void)json_object_set(runtime, "working_dir", (json_t *)dir);
	if (json_object_size(runtime))
		(void)json_object_set(config, "runtime_env", runtime);
	if (meta)
		(void)json_object_set(config, "metadata", (json_t *)meta);
	out = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(runtime);
	json_decref(config);
	return out;
}

void job_ray_fill(const struct json_t *value, struct job_ray *out)
{
	const json_t *gpus = json_object_get(value, "num_gpus_per_node");

	memset(out, 0, sizeof(*out));
	out->cpus = count(value, "num_cpus_per_node", -1);
	out->gpus = json_is_number(gpus) ? json_number_value(gpus) : -1;
	out->max_workers = count(value, "max_workers", -1);
	out->object_store = json_integer_value(json_object_get(value, "object_store_memory"));
	out->start_timeout = count(value, "start_timeout", START_TIMEOUT);
	out->dashboard = flag(value, "dashboard");
	out->client = flag(value, "client");
	out->token = flag(value, "token");
	out->dashboard_host = text(value, "dashboard");
	out->client_version = text(value, "client");
	out->interface = text(value, "interface");
	out->head_address = text(value, "head_node_address");
	out->ports = text(value, "ports");
	out->version = text(value, "ray_version");
	out->job_config = job_config(value);
	out->text = value ? json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	out->args = words(json_object_get(value, "ray_args"));
}

void job_ray_release(struct job_ray *ray)
{
	for (size_t i = 0; ray->args && ray->args[i]; i++)
		free(ray->args[i]);
	free(ray->args);
	free(ray->dashboard_host);
	free(ray->client_version);
	free(ray->interface);
	free(ray->head_address);
	free(ray->ports);
	free(ray->version);
	free(ray->job_config);
	free(ray->text);
	memset(ray, 0, sizeof(*ray));
}
