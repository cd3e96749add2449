/*
 * Reading a conversation back: first the ids, then, waiting, "accepted JOBID" or "rejected WHY" for each; after an error its
 * text. The reader has a place of its own, because the descriptor's offset was moved by the write. A read that is delivered
 * again after a restart gives the same bytes: the place and the request that moved it are one 64-bit store.
 */
#include "fs/conv.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

size_t cursor_of(const struct conv *c)
{
	struct shared_handle *sh = shared_handle_get(c->fs->shared, c->h->fh, false);

	size_t at = sh ? (size_t)(sh->cursor - c->base) % CONV_PLACES : 0;

	return at <= c->out.len ? at : 0; /* before `out`: what it had not read was dropped */
}

/* Gives what is there from the reader's place on; false when there is nothing. */
static bool give(struct conv *c, fuse_req_t req, uint64_t request, size_t size)
{
	struct shared_handle *sh = shared_handle_get(c->fs->shared, c->h->fh, false);
	size_t at = cursor_of(c), n;

	if (sh && request && sh->cursor >> CONV_PLACE_BITS == request)
		at -= sh->last_read_len; /* the same read again */
	if (at >= c->out.len)
		return false;
	n = c->out.len - at < size ? c->out.len - at : size;
	if (sh) {
		sh->last_read_len = n;
		__atomic_store_n(&sh->cursor, request << CONV_PLACE_BITS | (c->base + at + n) % CONV_PLACES, __ATOMIC_RELEASE);
	}
	(void)fuse_reply_buf(req, c->out.buf + at, n);
	return true;
}

/* --- waiting for the scheduler's decision --- */

struct decision {
	struct conv *c;
	struct parked *p;
	uint64_t request;
	size_t size;
	bool fsync, failed;
};

static void next_decision(struct decision *d);

static void decided(void *arg, int code, const char *text)
{
	struct decision *d = arg;
	struct conv *c = d->c;

	d->failed = d->failed || code < 0 || strncmp(text, "accepted", 8) != 0;
	if (code < 0)
		strbuf_addf(&c->out, "rejected %s\n", text);
	else
		strbuf_addf(&c->out, "%.*s\n", (int)strcspn(text, "\n"), text);
	c->n_decided++;
	conv_save_out(c);
	point(POINT_CONV_DECIDED);
	next_decision(d);
}

static void drop_decision(struct parked *p)
{
	struct decision *d = (struct decision *)(uintptr_t)p->user;
	struct conv *c = d->c;

	if (c->n_decided < c->n_runs)
		engine_cancel_cb(c->fs->en, c->runs[c->n_decided], d);
	free(d);
}

static void next_decision(struct decision *d)
{
	struct conv *c = d->c;

	if (!d->fsync && cursor_of(c) < c->out.len) {
		(void)give(c, unpark(d->p), d->request, d->size);
		free(d);
	} else if (c->n_decided < c->n_runs) {
		engine_decided(c->fs->en, c->runs[c->n_decided], decided, d);
	} else {
		if (d->fsync)
			(void)fuse_reply_err(unpark(d->p), d->failed ? EINVAL : 0);
		else
			(void)fuse_reply_buf(unpark(d->p), NULL, 0);
		free(d);
	}
}

static bool still_parked(struct fsys *fs, const struct parked *p)
{
	for (struct hmap_node *n = hmap_first(&fs->parked, 0); n; n = hmap_next(n))
		if (container_of(n, struct parked, node) == p)
			return true;
	return false;
}

static void await_decisions(struct conv *c, fuse_req_t req, uint64_t request, size_t size, bool fsync)
{
	struct decision *d = xcalloc(1, sizeof(*d));
	struct parked *p = park(c->fs, req, c->h, 0, NULL);

	*d = (struct decision){ .c = c, .p = p, .request = request, .size = size, .fsync = fsync };
	p->user = (uintptr_t)d;
	p->drop = drop_decision;
	park_interruptible(p);
	if (still_parked(c->fs, p)) /* else the signal was there first */
		next_decision(d);
}

/* --- read, fsync --- */

static void answer_read(struct conv *c, fuse_req_t req, uint64_t request, size_t size)
{
	if (give(c, req, request, size))
		return;
	if (c->n_decided < c->n_runs) {
		if (c->h->flags & O_NONBLOCK)
			(void)fuse_reply_err(req, EAGAIN);
		else
			await_decisions(c, req, request, size, false);
	} else if (c->out.len == 0) {
		(void)fuse_reply_err(req, EAGAIN); /* nothing was written yet */
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
		await_decisions(in->c, req, 0, 0, true);
}

static void commit_first(struct conv *c, fuse_req_t req, size_t size, void (*then)(struct intake *, int))
{
	struct intake *in = intake_new(c, session_unique(c->fs->session), fuse_req_ctx(req)->uid, then);

	in->size = size;
	in->p = park(c->fs, req, c->h, 0, NULL);
	in->p->uninterruptible = true;
	conv_commit_script(in);
}

void conv_read(struct fsys *fs, fuse_req_t req, struct handle *h, size_t size)
{
	struct conv *c = h->conv;

	if (conv_has_script(c) && !conv_incomplete(c))
		commit_first(c, req, size, script_then_read);
	else
		answer_read(c, req, session_unique(fs->session), size);
}

void conv_fsync(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	struct conv *c = h->conv;

	if (c->code && c->request == session_unique(fs->session))
		(void)fuse_reply_err(req, -c->code); /* delivered again */
	else if (conv_has_script(c) && !conv_incomplete(c))
		commit_first(c, req, 0, script_then_fsync);
	else if (conv_incomplete(c))
		(void)fuse_reply_err(req, EINVAL);
	else
		await_decisions(c, req, 0, 0, true);
}

/* --- the end of the descriptor --- */

/* Validates a script, so that cat, cp and close(2) report a bad one. Never submits: shells flush before the first write
   and once for each child. */
void conv_flush(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	struct conv *c = h->conv;
	struct strbuf out = STRBUF_INIT;
	int code = 0;

	if (conv_has_script(c)) {
		if (conv_incomplete(c))
			code = -EINVAL;
		else
			engine_check(fs->en, c->in.buf, c->in.len, c->hint, &out, &code);
	}
	strbuf_release(&out);
	(void)fuse_reply_err(req, -code);
}

static void released(struct intake *in, int code)
{
	struct fsys *fs = in->c->fs;
	struct handle *h = in->c->h;

	(void)code; /* a rejection is in `errors` */
	(void)fuse_reply_err(unpark(in->p), 0);
	in->c = NULL;
	handle_free(fs, h);
}

void conv_release(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	struct conv *c = h->conv;
	const char *why = conv_incomplete(c);

	if (conv_has_script(c) && !why) {
		commit_first(c, req, 0, released);
		return;
	}
	if (why && !c->check) {
		struct intake *in = intake_new(c, session_unique(fs->session), fuse_req_ctx(req)->uid, released);

		strbuf_addbuf(&in->text, &c->in);
		in->p = park(fs, req, h, 0, NULL);
		in->p->uninterruptible = true;
		conv_refuse(in, -EINVAL, why);
		return;
	}
	handle_free(fs, h);
	(void)fuse_reply_err(req, 0);
}
