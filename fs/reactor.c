/*
 * The poll loop of a worker. It owns nothing but its own stop flag.
 *
 * Invariants: FUSE is served in batches, and between two batches everybody else gets a look (poll with no time), so a
 * busy tree cannot starve signals or the engine. The loop sleeps only when FUSE had nothing for `retries` tries in a
 * row.
 */
#include "fs/reactor.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FUSE_BATCH = 32, DEFAULT_RETRIES = 100 };

void reactor_init(struct reactor *r, const struct reactor_conf *conf)
{
	r->conf = *conf;
	r->stop = 0;
	if (r->conf.retries < 0)
		r->conf.retries = DEFAULT_RETRIES;
	if (!r->conf.clock)
		r->conf.clock = &clock_system;
}

void reactor_stop(struct reactor *r, int status)
{
	assert(status >= 0);
	if (!r->stop)
		r->stop = status + 1;
}

/* A batch of requests, with retries while `*tries` lasts: number served or negative errno. */
static int serve(struct reactor *r, int *tries)
{
	int n;

	do {
		n = r->conf.fuse(r->conf.arg, FUSE_BATCH);
		if (n > 0)
			*tries = r->conf.retries;
	} while (n == 0 && (*tries)-- > 0);
	return n;
}

static struct timespec until(const struct reactor *r, int64_t due)
{
	int64_t now = clock_mono(r->conf.clock);
	int64_t left = due > now ? due - now : 0;

	return (struct timespec){ .tv_sec = left / USEC_PER_SEC, .tv_nsec = left % USEC_PER_SEC * 1000 };
}

static void take_signals(struct reactor *r)
{
	struct signalfd_siginfo si;

	while (read(r->conf.signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si))
		r->conf.signal(r->conf.arg, &si);
}

/* Waits until `due`, or not at all when `busy`, and serves everybody but FUSE. */
static int wait_all(struct reactor *r, bool busy, int64_t due)
{
	/* poll(2) ignores negative descriptors. */
	struct pollfd p[] = {
		{ .fd = r->conf.fuse_fd, .events = POLLIN },
		{ .fd = r->conf.engine_fd, .events = POLLIN },
		{ .fd = r->conf.signal_fd, .events = POLLIN },
		{ .fd = r->conf.other_fd ? r->conf.other_fd(r->conf.arg) : -1, .events = POLLIN },
	};
	struct timespec ts = { 0, 0 };

	if (!busy && due != REACTOR_NEVER)
		ts = until(r, due);
	if (ppoll(p, 4, busy || due != REACTOR_NEVER ? &ts : NULL, NULL) < 0)
		return errno == EINTR ? 0 : -errno;
	if (p[2].revents)
		take_signals(r);
	if (p[1].revents)
		r->conf.engine(r->conf.arg);
	if (p[3].revents)
		r->conf.other(r->conf.arg);
	return 0;
}

int reactor_run(struct reactor *r, struct err *e)
{
	int64_t due = REACTOR_NEVER;
	int n, rc, tries = 0;

	while (!r->stop) {
		n = serve(r, &tries);
		if (n < 0)
			return err_sys(e, n, "reading requests from the kernel");
		if (r->conf.timer)
			due = r->conf.timer(r->conf.arg, clock_mono(r->conf.clock));
		if (r->stop)
			break;
		rc = wait_all(r, n > 0, due);
		if (rc < 0)
			return err_sys(e, rc, "poll");
		if (r->conf.timer)
			due = r->conf.timer(r->conf.arg, clock_mono(r->conf.clock));
	}
	return r->stop - 1;
}
