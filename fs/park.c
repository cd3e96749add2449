/*
 * Parked requests: reads that wait for an event of a run, writes that wait for their commit. A parked request is a small
 * record; the kernel's copy of it is kept by the session for the next worker. Every one can be interrupted by a signal,
 * except those whose effect is already on its way to the journal.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>

static void let_go(struct parked *p)
{
	if (p->drop)
		p->drop(p);
	(void)fuse_reply_err(unpark(p), EINTR);
}

/*
 * libfuse (3.14, lib/fuse_lowlevel.c) calls this with the request's lock held, so nothing here may register or take back a
 * callback; and where it calls from inside fuse_req_interrupt_func it uses the request afterwards, so it may not be
 * answered there.
 */
static void on_interrupt(fuse_req_t req, void *arg)
{
	struct parked *p = arg;

	(void)req;
	if (p->uninterruptible)
		return;
	if (p->registering)
		p->interrupted = true;
	else
		let_go(p);
}

struct parked *park(struct fsys *fs, fuse_req_t req, struct handle *h, uint32_t run, bool (*retry)(struct parked *))
{
	struct parked *p = xcalloc(1, sizeof(*p));

	p->fs = fs;
	p->req = req;
	p->h = h;
	p->retry = retry;
	p->deadline_errno = EHOSTUNREACH;
	hmap_insert(&fs->parked, &p->node, run);
	fs->n_parked++;
	return p;
}

/* The signal may have come first, then the record is gone afterwards: so this is the last thing a caller does. */
void park_interruptible(struct parked *p)
{
	p->registering = true;
	fuse_req_interrupt_func(p->req, on_interrupt, p);
	p->registering = false;
	if (p->interrupted)
		let_go(p);
}

fuse_req_t unpark(struct parked *p)
{
	fuse_req_t req = p->req;

	hmap_remove(&p->fs->parked, &p->node);
	p->fs->n_parked--;
	/* A callback stays registered: it is answered, or registered anew, before the session is stepped again. */
	free(p);
	return req;
}

void park_retry(struct fsys *fs, uint32_t run)
{
	struct hmap_node *n = hmap_first(&fs->parked, run), *next;

	for (; n; n = next) {
		struct parked *p = container_of(n, struct parked, node);

		next = hmap_next(n);
		if (p->retry)
			(void)p->retry(p);
	}
}

/* Calls `each` for all records; it may answer the one it is given. */
static void walk(struct fsys *fs, bool (*want)(const struct parked *, int64_t), int64_t now, int error)
{
	struct hmap_node *n = hmap_walk(&fs->parked, NULL), *next;

	for (; n; n = next) {
		struct parked *p = container_of(n, struct parked, node);
		int code = error ? error : p->deadline_errno;

		next = hmap_walk(&fs->parked, n);
		if (!want(p, now))
			continue;
		if (p->drop)
			p->drop(p);
		(void)fuse_reply_err(unpark(p), code);
	}
}

static bool is_late(const struct parked *p, int64_t now)
{
	return p->deadline && p->deadline <= now;
}

static bool is_any(const struct parked *p, int64_t now)
{
	(void)p;
	(void)now;
	return true;
}

void park_expire(struct fsys *fs)
{
	walk(fs, is_late, clock_mono(fs->clock), 0);
}

void park_drain(struct fsys *fs, int error)
{
	walk(fs, is_any, 0, error);
}
