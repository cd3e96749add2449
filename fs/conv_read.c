/*
 * Reading a conversation back: first the ids, then, waiting, "accepted JOBID" or "rejected WHY" for each; after an
 * error its text. The reader has a place of its own, because the descriptor's offset was moved by the write. A read
 * that is delivered again after a restart gives the same bytes: the place and the request that moved it are one 64-bit
 * store.
 */
#include "fs/conv.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

size_t cursor_of(const struct conv *c)
{
	const struct shared_handle *sh = shared_handle_get(c->fs->shared, c->fh, false);
	size_t at = sh ? (size_t)(sh->cursor - c->base) % CONV_PLACES : 0;

	return at <= c->out.len ? at : 0; /* before `out`: what it had not read was dropped */
}

/* Gives what is there from the reader's place on; false when there is nothing. */
static bool give(struct conv *c, fuse_req_t req, uint64_t request, size_t size)
{
	struct shared_handle *sh = shared_handle_get(c->fs->shared, c->fh, false);
	size_t at = cursor_of(c), n;

	if (sh && sh->cursor >> CONV_PLACE_BITS == request << CONV_PLACE_BITS >> CONV_PLACE_BITS &&
	    at >= sh->last_read_len)
		at -= sh->last_read_len; /* the same read again */
	if (at >= c->out.len)
		return false;
	n = c->out.len - at < size ? c->out.len - at : size;
	if (sh) {
		sh->last_read_len = n;
		__atomic_store_n(&sh->cursor, request << CONV_PLACE_BITS | (c->base + at + n) % CONV_PLACES,
				 __ATOMIC_RELEASE);
	}
	(void)fuse_reply_buf(req, c->out.buf + at, n);
	return true;
}

/* --- waiting for the scheduler's decision --- */

struct decision {
	struct conv *c;
	struct parked *p;
	uint64_t request;
	size_t size, index; /* of the run that is waited for; another reader may be waiting for the same */
	unsigned round;     /* of the conversation: a write that is refused meanwhile begins another */
	uint32_t run;       /* its number; 0: not waiting */
	bool fsync;
};

static void next_decision(struct decision *d);

static void decided(void *arg, int code, const char *text)
{
	struct decision *d = arg;
	struct conv *c = d->c;

	d->run = 0;
	if (d->round == c->round && d->index == c->n_decided) {
		strbuf_addf(&c->out, "%s%.*s\n", code < 0 ? "rejected " : "", (int)strcspn(text, "\n"), text);
		c->n_decided++;
		conv_save_out(c);
		point(POINT_CONV_DECIDED);
	}
	next_decision(d);
}

static void drop_decision(struct parked *p)
{
	struct decision *d = (struct decision *)(uintptr_t)p->user;

	if (d->run)
		engine_cancel_cb(d->c->fs->en, d->run, d);
	free(d);
}

/* Was one of the runs of this round refused? */
static bool any_refused(const struct conv *c)
{
	for (size_t i = 0; i < c->n_runs; i++) {
		const struct run *r = engine_run(c->fs->en, c->runs[i]);

		if (r && (r->status == RUN_REJECTED || (!run_is_live(r) && !r->job_id)))
			return true;
	}
	return false;
}

static void next_decision(struct decision *d)
{
	struct conv *c = d->c;

	if (!d->fsync && cursor_of(c) < c->out.len) {
		(void)give(c, unpark(d->p), d->request, d->size);
		free(d);
	} else if (c->n_decided < c->n_runs) {
		d->index = c->n_decided;
		d->round = c->round;
		d->run = c->runs[d->index];
		engine_decided(c->fs->en, d->run, decided, d);
	} else {
		if (d->fsync)
			(void)fuse_reply_err(unpark(d->p), any_refused(c) ? EINVAL : 0);
		else
			(void)fuse_reply_buf(unpark(d->p), NULL, 0);
		free(d);
	}
}

static void await_decisions(struct conv *c, fuse_req_t req, uint64_t request, size_t size, bool fsync)
{
	struct decision *d = xcalloc(1, sizeof(*d));
	struct parked *p = park(c->fs, req, c->h, 0, NULL);

	*d = (struct decision){ .c = c, .p = p, .request = request, .size = size, .fsync = fsync };
	p->user = (uintptr_t)d;
	p->drop = drop_decision;
	if (park_interruptible(p)) /* else the signal was there first */
		next_decision(d);
}

/* --- read, fsync --- */

/* Would a read be answered now? */
bool conv_ready(const struct conv *c)
{
	const struct run *r;

	if (cursor_of(c) < c->out.len)
		return true;
	if (c->busy)
		return false;
	if (c->n_decided >= c->n_runs)
		return true;
	r = engine_run(c->fs->en, c->runs[c->n_decided]);
	return !r || r->job_id || !run_is_live(r);
}

static void answer_read(struct conv *c, fuse_req_t req, uint64_t request, size_t size)
{
	if (give(c, req, request, size))
		return;
	if (c->n_decided < c->n_runs) {
		if ((c->h->flags & O_NONBLOCK) && !conv_ready(c))
			(void)fuse_reply_err(req, EAGAIN);
		else
			await_decisions(c, req, request, size, false);
	} else if (c->out.len == 0 && (c->h->flags & O_ACCMODE) != O_RDONLY) {
		(void)fuse_reply_err(
			req,
			EAGAIN); /* nothing was written yet; who cannot write never will, and reads an empty file */
	} else {
		(void)fuse_reply_buf(req, NULL, 0);
	}
}

static void script_then_read(struct intake *in, int code)
{
	fuse_req_t req = unpark(in->p);

	(void)code; /* an error's text is what is read */
	answer_read(in->c, req, in->request, in->size);
}

static void script_then_fsync(struct intake *in, int code)
{
	fuse_req_t req = unpark(in->p);

	if (code < 0)
		(void)fuse_reply_err(req, -code);
	else
		await_decisions(in->c, req, in->request, 0, true);
}

static void commit_first(struct conv *c, fuse_req_t req, uint64_t request, size_t size,
			 void (*then)(struct intake *, int))
{
	struct intake *in = intake_new(c, request, c->uid, then);

	in->size = size;
	intake_park(in, req, then == script_then_read || then == script_then_fsync);
	conv_commit_script(in);
}

/* While an intake is under way: a write that was answered with ETIMEDOUT, or one of another process. */
static void await_intake(struct conv *c, fuse_req_t req, uint64_t request, size_t size, bool fsync);

static void read_now(struct conv *c, fuse_req_t req, uint64_t request, size_t size)
{
	if (c->poison) {
		c->poison = 0;
		conv_save_out(c);
	}
	if (c->busy && cursor_of(c) >= c->out.len)
		await_intake(c, req, request, size, false);
	else if (!c->busy && conv_has_script(c) && !conv_incomplete(c))
		commit_first(c, req, request, size, script_then_read);
	else
		answer_read(c, req, request, size);
}

/* An error that was answered already is told once more: who waits with fsync wants to know of it. */
static void fsync_now(struct conv *c, fuse_req_t req, uint64_t request)
{
	if (c->busy)
		await_intake(c, req, request, 0, true);
	else if (conv_incomplete(c))
		(void)fuse_reply_err(req, EINVAL);
	else if (conv_has_script(c))
		commit_first(c, req, request, 0, script_then_fsync);
	else if (c->code)
		(void)fuse_reply_err(req, -c->code);
	else
		await_decisions(c, req, request, 0, true);
}

struct intake_wait {
	uint64_t request;
	size_t size;
	bool fsync;
};

static bool retry_intake(struct parked *p)
{
	struct intake_wait *w = (struct intake_wait *)(uintptr_t)p->user;
	struct intake_wait now = *w;
	struct conv *c = p->h->conv;
	fuse_req_t req;

	if (c->busy)
		return false;
	free(w);
	req = unpark(p);
	if (now.fsync)
		fsync_now(c, req, now.request);
	else
		read_now(c, req, now.request, now.size);
	return true;
}

static void drop_intake_wait(struct parked *p)
{
	free((struct intake_wait *)(uintptr_t)p->user);
}

static void await_intake(struct conv *c, fuse_req_t req, uint64_t request, size_t size, bool fsync)
{
	struct intake_wait *w;
	struct parked *p;

	if (!fsync && (c->h->flags & O_NONBLOCK)) {
		(void)fuse_reply_err(req, EAGAIN);
		return;
	}
	w = xmalloc(sizeof(*w));
	*w = (struct intake_wait){ request, size, fsync };
	p = park(c->fs, req, c->h, 0, retry_intake);
	p->user = (uintptr_t)w;
	p->drop = drop_intake_wait;
	(void)park_interruptible(p);
}

void conv_read(struct fsys *fs, fuse_req_t req, struct handle *h, size_t size)
{
	read_now(h->conv, req, session_unique(fs->session), size);
}

void conv_fsync(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	fsync_now(h->conv, req, session_unique(fs->session));
}

/* --- the end of the descriptor --- */

/* Validates, so that cat, cp and close(2) report what is cut off or wrong. Never submits: shells flush before the first
   write and once for each child. */
void conv_flush(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	const struct conv *c = h->conv;
	struct strbuf out = STRBUF_INIT;
	int code = 0;

	if (!c->busy && conv_incomplete(c))
		code = -EINVAL;
	else if (!c->busy && conv_has_script(c))
		engine_check(fs->en, c->in.buf + c->scan.start, c->in.len - c->scan.start, c->hint, &out, &code);
	strbuf_release(&out);
	(void)fuse_reply_err(req, -code);
}

static void released(struct intake *in, int code)
{
	struct fsys *fs = in->c->fs;
	fuse_req_t req = unpark(in->p);

	(void)code; /* a rejection is in `errors` */
	handle_free(fs, in->c->h); /* before the answer: what was answered does not come again after a restart */
	(void)fuse_reply_err(req, 0);
}

void conv_release(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	struct conv *c = h->conv;
	const char *why = conv_incomplete(c);

	if (!c->busy && conv_has_script(c) && !why) {
		commit_first(c, req, session_unique(fs->session), 0, released);
		return;
	}
	if (!c->busy && why && !c->check)
		engine_note_rejected(fs->en, c->uid, c->in.buf, c->in.len, why);
	handle_free(fs, h);
	(void)fuse_reply_err(req, 0);
}
