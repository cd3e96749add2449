/*
 * The worker's poll loop: FUSE requests, the engine's messages, signals and timers, all in one thread.
 *
 * After FUSE was served its descriptor is tried again some hundred times before the loop sleeps: the next request of
 * a walking `find` comes within microseconds, and a wake-up costs more than the work (measured: twice the throughput).
 * The price is some 50 us of processor time after the last request of a burst.
 */
#ifndef FS_REACTOR_H
#define FS_REACTOR_H

#include "backend/base/clock.h"
#include "backend/base/err.h"

#include <stdint.h>
#include <sys/signalfd.h>

#define REACTOR_NEVER INT64_MAX

struct reactor_conf {
	int fuse_fd;   /* non-blocking */
	int engine_fd; /* readable while there is something to take; -1: none */
	int signal_fd; /* a signalfd, non-blocking; -1: none */
	/* A descriptor that may come and go: -1 while there is none. NULL: there is never one. */
	int (*other_fd)(void *arg);
	void (*other)(void *arg);
	int retries;               /* of the FUSE descriptor before sleeping; negative: 100 */
	const struct clock *clock; /* NULL: the system's */

	/* Serves at most `max` requests: their number, 0 when there was none, or a negative errno, which ends the loop.
	 */
	int (*fuse)(void *arg, int max);
	void (*engine)(void *arg);
	void (*signal)(void *arg, const struct signalfd_siginfo *si);
	/* Does what is due at `now` (monotonic us) and says when it wants to be called next; may be NULL. Called in
	   every round, so that deadlines which other callbacks moved are seen. */
	int64_t (*timer)(void *arg, int64_t now);
	void *arg;
};

struct reactor {
	struct reactor_conf conf;
	int stop; /* 0: go on, else the result plus one */
};

void reactor_init(struct reactor *r, const struct reactor_conf *conf);
/* Until reactor_stop (its status) or an error of the FUSE side (-ENODEV: unmounted). */
int reactor_run(struct reactor *r, struct err *e);
/* From a callback: ends the loop after this round with `status` (0 or positive). */
void reactor_stop(struct reactor *r, int status);

#endif
