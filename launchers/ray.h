/*
 * The launcher of runs and sessions with a Ray cluster. Pure functions.
 */
#ifndef LAUNCHERS_RAY_H
#define LAUNCHERS_RAY_H

#include "launchers/inner.h"

extern const char ray_kind_text[], ray_start_text[], ray_watch_text[], ray_env_text[];

/* Lines that write its files (inner.h, ray-start, which has patience, and ray-watch, which reads the head's node
 * table); nothing for a job without. */
void ray_files(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out);
/* Lines of `job`, behind the environment. */
void ray_connect(const struct job *job, struct strbuf *body);

#endif
