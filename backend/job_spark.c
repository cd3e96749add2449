/*
 * The key `spark` as struct job_spark, from its canonical form (see spec_spark.c). What applications are told becomes
 * lines of a spark-defaults.conf, a Java properties file that Spark reads as UTF-8 (Utils.getPropertiesFromFile). Pure.
 */
#include "backend/job.h"

#include "backend/base/mem.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define START_TIMEOUT 120 /* seconds */

static char *text(const json_t *map, const char *name)
{
	return xstrdup(json_string_value(json_object_get(map, name)));
}

/* java.util.Properties, load: a key ends at a blank, = or :, a backslash escapes, a line may begin a comment. */
static void add_escaped(struct strbuf *out, const char *s, const char *special)
{
	for (const char *p = s; *p; p++) {
		if (*p == '\\' || strchr(special, *p) || (p == s && *p == ' '))
			strbuf_addch(out, '\\');
		strbuf_addch(out, *p);
	}
}

static void add_size(struct strbuf *out, const char *name, int64_t bytes)
{
	if (bytes)
		strbuf_addf(out, "%s %" PRId64 "m\n", name, bytes >> 20);
}

static char *conf(const struct job_spark *spark, const json_t *more)
{
	struct strbuf out = STRBUF_INIT;
	const char *name;
	json_t *v;

	add_size(&out, "spark.executor.memory", spark->executor_memory);
	add_size(&out, "spark.driver.memory", spark->driver_memory);
	if (spark->executor_cores)
		strbuf_addf(&out, "spark.executor.cores %d\n", spark->executor_cores);
	if (spark->num_executors) {
		/* A standalone cluster knows the second alone; managers of other kinds know the first. */
		strbuf_addf(&out, "spark.executor.instances %d\n", spark->num_executors);
		strbuf_addf(&out, "spark.cores.max %lld\n",
			    (long long)spark->num_executors * (spark->executor_cores ? spark->executor_cores : 1));
		if (!spark->executor_cores)
			strbuf_addstr(&out, "spark.executor.cores 1\n");
	}
	json_object_foreach ((json_t *)more, name, v) {
		if (!json_is_string(v))
			continue;
		add_escaped(&out, name, " =:#!");
		strbuf_addch(&out, ' ');
		add_escaped(&out, json_string_value(v), "");
		strbuf_addch(&out, '\n');
	}
	return strbuf_detach(&out, NULL);
}

void job_spark_fill(const struct json_t *value, struct job_spark *out)
{
	const json_t *timeout = json_object_get(value, "start_timeout");

	memset(out, 0, sizeof(*out));
	out->executor_cores = (int)json_integer_value(json_object_get(value, "executor_cores"));
	out->num_executors = (int)json_integer_value(json_object_get(value, "num_executors"));
	out->executor_memory = json_integer_value(json_object_get(value, "executor_memory"));
	out->driver_memory = json_integer_value(json_object_get(value, "driver_memory"));
	out->start_timeout = timeout ? (int)json_integer_value(timeout) : START_TIMEOUT;
	out->home = text(value, "spark_home");
	out->master = text(value, "master_url");
	out->interface = text(value, "interface");
	out->conf = conf(out, json_object_get(value, "conf"));
}

void job_spark_release(struct job_spark *spark)
{
	free(spark->home);
	free(spark->master);
	free(spark->interface);
	free(spark->conf);
	memset(spark, 0, sizeof(*spark));
}
