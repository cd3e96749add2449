/*
 * The launcher of runs that have a Spark cluster of their own (launchers/inner.h), of which master and driver are on
 * the first node, or that are told where one is (`spark.master_url`). A run in a session finds the session's.
 * docs/design/20-spark.md.
 *
 * A payload is an application, given to spark-submit by its suffix (wrapper.c). Commands find spark-submit in PATH,
 * and SPARK_CONF_DIR, by which spark-submit, pyspark and SparkSession.builder know the cluster without a word.
 */
#include "launchers/spark.h"

#include "launchers/wrapper.h"

#include "backend/base/quote.h"

#include <inttypes.h>
#include <string.h>

static struct inner inner_of(const struct job_spark *spark)
{
	return (struct inner){
		.kind = "spark",
		.name = "Spark",
		.kind_text = spark_kind_text,
		.env_text = spark_env_text,
		.interface = spark->interface,
		.max_workers = -1,
		.start_timeout = spark->start_timeout,
		.dashboard = true,
		.token = true,
		.session_variable = "SLURMRAY_SPARK",
	};
}

static void add_home(const struct job_spark *spark, const char *name, struct strbuf *out)
{
	strbuf_addf(out, "%s=", name);
	if (spark->home)
		quote_sh_path(out, spark->home);
	strbuf_addch(out, '\n');
}

void spark_files(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	cleanup_strbuf struct strbuf settings = STRBUF_INIT;
	const struct job_spark *spark = &job->spark;
	struct inner in = inner_of(spark);

	if (!spark->on || job->session)
		return;
	if (spark->master) {
		strbuf_addstr(out, "mkdir -p spark/conf || unready\n");
		wrap_file(out, "spark/conf/spark-defaults.conf", spark->conf, strlen(spark->conf));
		return;
	}
	strbuf_addf(&settings, "_executor_mb=%" PRId64 "\n", spark->executor_memory >> 20);
	add_home(spark, "_spark_home", &settings);
	inner_files(&in, job, ctx, settings.buf, out);
	wrap_file(out, "spark-conf", spark->conf, strlen(spark->conf));
}

void spark_connect(const struct job *job, struct strbuf *body)
{
	const struct job_spark *spark = &job->spark;
	struct inner in = inner_of(spark);

	if (!spark->on && !job->session)
		return;
	if (spark->home) {
		add_home(spark, "SPARK_HOME", body);
		strbuf_addstr(body, "export SPARK_HOME PATH=\"$SPARK_HOME/bin:$PATH\"\n");
	}
	if (!spark->master || job->session) {
		inner_connect(&in, job, spark->on, body);
		return;
	}
	strbuf_addstr(body, "export SPARK_CONF_DIR=\"${0%/job}/spark/conf\" MASTER=");
	quote_sh(body, spark->master);
	strbuf_addstr(body, "\nexport SPARK_MASTER_URL=\"$MASTER\"\n"
			    "printf 'spark.master %s\\n' \"$MASTER\" >>\"$SPARK_CONF_DIR/spark-defaults.conf\"\n");
}

extern const struct launcher launcher_bash, launcher_spark;

/* All that differs is in spark_files and spark_connect, which the plain launcher calls. */
static int render(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out, struct err *e)
{
	return launcher_bash.render(job, ctx, out, e);
}

const struct launcher launcher_spark = { .name = "spark", .render = render };
