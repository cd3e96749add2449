/*
 * A Ray cluster in an allocation: the files that make one, for the launchers of runs and of sessions.
 *
 *	ray-settings	what the spec says, as shell variables, and _in, which runs a command in the job's container
 *	ray-keeper	starts the nodes, knows when they are there, ends them; writes the directory `ray`
 *	ray-node	one node of it
 *	ray-watch	a Python program: the node table of the head, as lines
 *	ray-connect	waits for the cluster and sets RAY_ADDRESS, in the file `job` of who uses it
 *	ray-hook	of sessions: what the runner does about it: _ray_order, _ray_end
 *
 * Pure functions.
 */
#ifndef LAUNCHERS_RAY_H
#define LAUNCHERS_RAY_H

#include "launchers/launcher.h"

extern const char ray_node_text[], ray_keeper_text[], ray_watch_text[], ray_connect_text[], ray_hook_text[];

/* Lines that write those files into the attempt directory; nothing when the job has no Ray. Behind wrap_prologue. */
void ray_files(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out);
/* Lines of `job`, behind the environment: start a run's own cluster, or find that of the session. */
void ray_connect(const struct job *job, struct strbuf *body);

#endif
