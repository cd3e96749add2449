/*
 * The launcher of runs and sessions with a Spark cluster. Pure functions.
 */
#ifndef LAUNCHERS_SPARK_H
#define LAUNCHERS_SPARK_H

#include "launchers/inner.h"

extern const char spark_kind_text[], spark_env_text[];

/* Lines that write its files (inner.h, and spark-conf, the spec's part of spark-defaults.conf); nothing for others. */
void spark_files(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out);
/* Lines of `job`, behind the environment. */
void spark_connect(const struct job *job, struct strbuf *body);

#endif
