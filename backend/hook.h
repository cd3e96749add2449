/*
 * `on_event`: a command that is run for each change of a run's status, as the feed (engine.h) tells them. A thread of
 * its own starts the commands and waits for them, so nobody else ever does. At least once: a change counts as told when
 * its command has ended, whatever its exit status; what was not told when a worker ended is told again by the next.
 */
#ifndef BACKEND_HOOK_H
#define BACKEND_HOOK_H

#include "backend/base/err.h"
#include "backend/base/inbox.h"
#include "backend/config.h"

#include <stdint.h>

struct hook;

struct hook_conf {
	const struct config *config; /* lives as long as the hook */
	const char *feed;            /* path of the file */
	const char *mount_dir;       /* or NULL */
	uint64_t at;                 /* in the feed: what was told before */
	uint64_t len;                /* of the feed, so far */
	int deadline_ms;             /* for a command; 0: a minute */
	struct inbox *replies;
};

/* The messages in `replies`: all before `at` was told. */
enum { HOOK_TOLD = 200 };
struct hook_msg {
	struct msg m;
	uint64_t at;
};

/* Does any section have a command? */
bool hook_wanted(const struct config *config);
int hook_start(const struct hook_conf *conf, struct hook **out, struct err *e);
/* The feed has this length now. */
void hook_grew(struct hook *h, uint64_t len);
/* Ends commands that run (TERM, then KILL) within about `ms`, and the thread. What was told; NULL is fine (0). */
uint64_t hook_stop(struct hook *h, int ms);

#endif
