/*
 * What the runner of a session says of itself in HOLDER/session (launchers/session_runner.c), as facts of the session's
 * run, told when they change:
 *	session_nodes	its nodes, with blanks between
 *	session_lost	those of them that are lost; null: none
 *	session_quiet	real us: since when nothing runs or waits in it, whoever had put it there; 0: something does
 *	session_silent	real us: when it was heard last, while that is too long ago; null: it is not
 */
#ifndef BACKEND_RUNNER_STATE_H
#define BACKEND_RUNNER_STATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* A runner writes every 15 s; a directory over NFS may be seen as it was a minute ago (nfs(5), acdirmax). */
#define RUNNER_SILENT_US (120LL * 1000000)

struct runner_seen { /* zeroed: nothing was seen */
	char *nodes, *lost;
	int64_t beat;  /* by its clock */
	int64_t heard; /* monotonic us: when `beat` was new */
	int64_t quiet;
	bool known, silent;
};

/* Its clock's time (epoch seconds) and ours (real and monotonic us) when the file was read. */
struct runner_times {
	int64_t there, real, mono;
};

/* `text`: "KEY VALUE", one after the other, a newline or ';' between. The facts that changed (owned), or NULL. */
json_t *runner_seen_take(struct runner_seen *s, const char *text, const struct runner_times *t);
void runner_seen_release(struct runner_seen *s);

#endif
