/*
 * A launcher turns a job into the script that the scheduler is given. Pure functions: no files, no clock, no
 * globals, the same input gives the same bytes (the tests keep golden scripts).
 */
#ifndef LAUNCHERS_LAUNCHER_H
#define LAUNCHERS_LAUNCHER_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"
#include "backend/job.h"

#include <stdint.h>

/* Which run this is, on which attempt, and where it lives on the cluster. */
struct launch_ctx {
	const char *run_id; /* as users see it */
	uint32_t run_num;   /* names its directories */
	uint32_t attempt;   /* from 1 */
	const char *uuid;   /* of the state directory */
};

struct launcher {
	const char *name; /* value of `launcher` in a spec */
	/*
	 * The whole batch script, from "#!" to its last newline. The job is valid (job_from_effective accepted
	 * it). 0, or a negative errno with a text (nothing was appended then).
	 */
	int (*render)(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out, struct err *e);
};

/* The name under which a spec's payload travels into the working directory; the script takes it from there. */
#define LAUNCH_PAYLOAD ".slurmray-payload"
/* The same for the context of a Pipes session. */
#define LAUNCH_CONTEXT ".slurmray-context"

/* The directory of a cluster whose jobs find their place in a variable of their environment. */
#define LAUNCH_BASE "$SLURMRAY_BASE"

/* The same for each secret, with its name behind the dot. */
#define LAUNCH_SECRET ".slurmray-secret."

/* By name, or NULL. */
const struct launcher *launcher_find(const char *name);
/* All of them, NULL-ended, for messages. */
extern const struct launcher *const launchers[];

/* DIRECTORY/UUID/runs/NUM/aATTEMPT, quoted for a shell ("$HOME"/... where the directory begins with ~/). */
void launch_attempt_dir(struct strbuf *out, const char *directory, const struct launch_ctx *ctx);
/* The token in the job's comment: slurmray:UUID/NUM/aATTEMPT */
void launch_token(struct strbuf *out, const struct launch_ctx *ctx);

#endif
