/*
 * A cluster of somebody else's making (Ray, Spark) in an allocation: the files that make one, for the launchers of runs
 * and of sessions. KIND is ray or spark:
 *
 *	KIND-settings	what the spec says, as shell variables, and _in, which runs a command in the job's container
 *	KIND-keeper	starts the nodes, knows when they are there, ends them; writes the directory KIND
 *	KIND-node	one node of it
 *	KIND-kind	functions of the kind for both: how daemons are started, what the version is, who watches
 *	KIND-connect	waits for the cluster and lets a command find it, in the file `job` of who uses it
 *	inner-hook	of sessions: what the runner does about all of them: _inner_order, _inner_end
 *
 * Pure functions.
 */
#ifndef LAUNCHERS_INNER_H
#define LAUNCHERS_INNER_H

#include "launchers/launcher.h"

struct inner {
	const char *kind, *name; /* "ray", "Ray" */
	const char *kind_text, *env_text;
	const char *interface, *head_address, *ports, *version; /* NULL: not said */
	int max_workers;                                        /* -1: all nodes */
	int start_timeout;
	bool dashboard, client, token;
	const char *session_variable; /* what a session's runner exports */
};

extern const char inner_node_text[], inner_keeper_text[], inner_wait_text[], inner_hook_text[];

/* Lines that write those files into the attempt directory, `settings` among them. Behind wrap_prologue. */
void inner_files(const struct inner *in, const struct job *job, const struct launch_ctx *ctx, const char *settings,
		 struct strbuf *out);
/* Lines of `job`, behind the environment: start a run's own cluster, or find that of the session; `must`: else fail. */
void inner_connect(const struct inner *in, const struct job *job, bool must, struct strbuf *body);
/* A shell variable. */
void inner_set(struct strbuf *out, const char *name, const char *value);

#endif
