/*
 * Parked requests: reads that wait for an event of a run, writes that wait for their commit. A parked request is a
 * small record; the kernel's copy of it is kept by the session for the next worker. Every one can be interrupted by a
 * signal, except those whose effect is already on its way to the journal.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>

#define JOURNAL_LEAST 30 /* this part of the deadline everybody waits at least */

static void let_go(struct parked *p)
{
	if (p->drop)
		p->drop(p);
	(void)fuse_reply_err(unpark(p), EINTR);
}

/*
 * libfuse (3.14, lib/fuse_lowlevel.c) calls this with the request's lock held, so nothing here may register or take
 * back a callback; and where it calls from inside fuse_req_interrupt_func it uses the request afterwards, so it may not
 * be answered there.
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

bool park_interruptible(struct parked *p)
{
	p->registering = true;
	fuse_req_interrupt_func(p->req, on_interrupt, p);
	p->registering = false;
	if (p->interrupted || p->fs->asleep)
		let_go(p);
	else
		return true;
	return false;
}

fuse_req_t unpark(struct parked *p)
{
	fuse_req_t req = p->req;

	hmap_remove(&p->fs->parked, &p->node);
	p->fs->n_parked--;
	/* A callback stays registered: it is answered, or registered anew, before the session is stepped again. */
	p->gone = true;
	if (p->fs->retrying) {
		p->grave = p->fs->graves;
		p->fs->graves = p;
	} else {
		free(p);
	}
	return req;
}

static void bury(struct fsys *fs)
{
	struct parked *p;

	while ((p = fs->graves)) {
		fs->graves = p->grave;
		free(p);
	}
}

/*
 * A retry may answer others, park new requests and lead to another park_retry: so the records are listed first, and
 * those that go away meanwhile are freed in the end.
 */
void park_retry(struct fsys *fs, uint32_t run)
{
	struct parked **list = NULL;
	size_t n = 0, cap = 0;

	for (struct hmap_node *i = hmap_first(&fs->parked, run); i; i = hmap_next(i)) {
		if (n == cap)
			list = xrealloc(list, (cap = cap ? cap * 2 : 16) * sizeof(struct parked *));
		list[n++] = container_of(i, struct parked, node);
	}
	fs->retrying++;
	for (size_t i = n; i > 0; i--) { /* newest come first in the map */
		struct parked *p = list[i - 1];

		if (p->gone || p->trying || !p->retry)
			continue;
		p->trying = true;
		(void)p->retry(p);
		p->trying = false;
	}
	if (--fs->retrying == 0)
		bury(fs);
	free(list);
}

/* Answers the records that are wanted; `late` and `drop` touch no other. */
static void walk(struct fsys *fs, bool (*want)(const struct parked *, int64_t), int64_t now, int error)
{
	struct hmap_node *n = hmap_walk(&fs->parked, NULL), *next;

	for (; n; n = next) {
		struct parked *p = container_of(n, struct parked, node);
		int code = error ? error : p->deadline_errno;

		next = hmap_walk(&fs->parked, n);
		if (!want(p, now) || (!error && p->late && p->late(p)))
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

static bool is_idle(const struct parked *p, int64_t now)
{
	(void)now;
	return !p->uninterruptible;
}

void park_interrupt(struct fsys *fs)
{
	walk(fs, is_idle, 0, EINTR);
}

void journal_asked(struct fsys *fs)
{
	if (fs->journal_owes++ == 0)
		fs->journal_since = clock_mono(fs->clock);
}

void journal_heard(struct fsys *fs)
{
	fs->journal_since = clock_mono(fs->clock);
}

void journal_answered(struct fsys *fs)
{
	assert(fs->journal_owes);
	fs->journal_owes--;
	journal_heard(fs);
}

void park_for_journal(struct parked *p)
{
	const struct fsys *fs = p->fs;
	int64_t now = clock_mono(fs->clock), least = now + fs->journal_us / JOURNAL_LEAST;

	p->deadline = (fs->journal_owes ? fs->journal_since : now) + fs->journal_us;
	if (p->deadline < least)
		p->deadline = least;
	p->deadline_errno = ETIMEDOUT;
}

void journal_note_late(struct fsys *fs, uint32_t uid, const char *text, size_t len)
{
	cleanup_free char *why =
		xasprintf("the journal has not answered for %lld seconds (ETIMEDOUT): another row will say what "
			  "became of it",
			  (long long)(fs->journal_us / USEC_PER_SEC));

	engine_note_rejected(fs->en, uid, text, len, why);
}

bool park_committing(const struct fsys *fs)
{
	for (struct hmap_node *n = hmap_walk(&fs->parked, NULL); n; n = hmap_walk(&fs->parked, n))
		if (container_of(n, struct parked, node)->uninterruptible)
			return true;
	return false;
}
