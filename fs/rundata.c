/*
 * What runs write, as readers see it: growing files, their blocking twins, and `wait`. The offset of a read says all:
 * these files are opened without seeking, so that a new worker can answer a read that an old one had parked.
 *
 * An ended run's streams have the lengths of its exit record at once; bytes that are not here yet are waited for, with
 * a deadline. A live run's streams are as long as what is here.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define DATA_DEADLINE_US (30 * USEC_PER_SEC) /* for bytes that the exit record promises */
#define READER_US (3 * USEC_PER_SEC)         /* who has not read for so long is no reader that looks all the time */

struct spool_entry {
	struct hmap_node node;
	struct spool_reader *reader;
	unsigned cached; /* bit per stream: opened with the page cache since the end */
};

static struct spool_entry *entry_of(struct fsys *fs, const struct run *r)
{
	struct hmap_node *n = hmap_first(&fs->spools, r->num);
	cleanup_free char *dir = NULL;
	struct spool_entry *se;
	struct spool_reader *reader;
	struct err e = ERR_INIT;

	if (n)
		return container_of(n, struct spool_entry, node);
	dir = xasprintf("%s/spool", fs->state_dir);
	if (spool_reader_open(dir, r->num, r->merged, &reader, &e) < 0)
		return NULL;
	se = xcalloc(1, sizeof(*se));
	se->reader = reader;
	hmap_insert(&fs->spools, &se->node, r->num);
	return se;
}

struct spool_reader *run_spool(struct fsys *fs, const struct run *r)
{
	struct spool_entry *se = entry_of(fs, r);

	return se ? se->reader : NULL;
}

void run_spool_forget(struct fsys *fs, uint32_t num)
{
	struct hmap_node *n = hmap_first(&fs->spools, num);
	struct spool_entry *se;

	if (!n)
		return;
	se = container_of(n, struct spool_entry, node);
	run_numbers_forget(fs, num);
	hmap_remove(&fs->spools, n);
	spool_reader_close(se->reader);
	free(se);
}

/* Length in the exit record, or -1. */
static int64_t promised(const struct run *r, int stream)
{
	if (run_is_live(r) || r->out_len < 0 || r->err_len < 0 || stream >= SPOOL_EVENTS)
		return -1; /* messages are all here before the end is told */
	if (r->facts && json_object_get(r->facts, "log_incomplete"))
		return -1; /* the cluster no longer has what the record promised: what is here is all there is */
	if (stream == SPOOL_LOG)
		return r->out_len + r->err_len;
	return stream == SPOOL_OUT ? r->out_len : r->err_len;
}

uint64_t run_stream_len(struct fsys *fs, const struct run *r, int stream, bool *final)
{
	int64_t len = promised(r, stream);
	struct spool_reader *sp;

	if (final)
		*final = !run_is_live(r);
	if (len >= 0)
		return (uint64_t)len;
	sp = run_spool(fs, r);
	return sp ? spool_reader_len(sp, (enum spool_stream)stream) : 0;
}

/*
 * The first opening since the end drops the pages that are there: a private mapping of the live file may have left a
 * last page that was not full.
 */
void grow_open(struct fsys *fs, const struct run *r, int stream, struct fuse_file_info *fi)
{
	struct spool_entry *se = entry_of(fs, r);
	int64_t len = promised(r, stream);

	if (!se || len < 0 || spool_reader_len(se->reader, (enum spool_stream)stream) != (uint64_t)len)
		return;
	fi->direct_io = 0;
	fi->keep_cache = se->cached >> stream & 1;
	se->cached |= 1u << stream;
}

static void reply_errno(fuse_req_t req, int code)
{
	(void)fuse_reply_err(req, code < 0 ? -code : code);
}

/* How far a follower has read, also for the worker that answers its next poll(2). */
static void set_pos(struct fsys *fs, struct handle *h, uint64_t pos)
{
	struct shared_handle *sh;

	h->pos = pos;
	if (h->nd->class != NODE_FOLLOW)
		return;
	sh = shared_handle_get(fs->shared, h->fh, false);
	if (sh)
		sh->cursor = pos;
}

/* Answers from the spool; false when there is nothing at `off` yet. */
static bool reply_spool(struct fsys *fs, fuse_req_t req, struct handle *h, const struct run *r, uint64_t off,
			size_t size)
{
	static char buf[1024 * 1024]; /* touched memory: one thread, replies are copied by the kernel */
	struct spool_reader *sp = run_spool(fs, r);
	ssize_t n;

	if (!sp)
		return false;
	if (size > sizeof(buf))
		size = sizeof(buf);
	n = spool_reader_pread(sp, (enum spool_stream)h->nd->stream, buf, size, off);
	if (n == 0)
		return false;
	set_pos(fs, h, off + (n > 0 ? (uint64_t)n : 0));
	if (n < 0)
		reply_errno(req, (int)n);
	else
		(void)fuse_reply_buf(req, buf, (size_t)n);
	return true;
}

/* Is there a byte at `off`, now or promised? */
static bool has_more(struct fsys *fs, const struct run *r, int stream, uint64_t off)
{
	return off < run_stream_len(fs, r, stream, NULL);
}

static bool retry_grow(struct parked *p)
{
	const struct run *r = engine_run(p->fs->en, p->h->run);
	struct fsys *fs = p->fs;
	struct handle *h = p->h;
	uint64_t off = p->off;
	size_t size = p->size;
	struct spool_reader *sp;

	if (!r) {
		(void)fuse_reply_err(unpark(p), ENOENT);
		return true;
	}
	sp = run_spool(fs, r);
	if (sp && spool_reader_len(sp, (enum spool_stream)h->nd->stream) > off)
		(void)reply_spool(fs, unpark(p), h, r, off, size);
	else if (!has_more(fs, r, h->nd->stream, off))
		(void)fuse_reply_buf(unpark(p), NULL, 0);
	else
		return false;
	return true;
}

static void park_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size,
		      bool (*retry)(struct parked *), int64_t deadline_us)
{
	struct parked *p = park(fs, req, h, h->run, retry);

	p->off = off;
	p->size = size;
	p->deadline = deadline_us ? clock_mono(fs->clock) + deadline_us : 0;
	(void)park_interruptible(p);
}

void grow_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);

	if (!r) {
		(void)fuse_reply_err(req, ENOENT);
		return;
	}
	if (run_is_live(r))
		engine_hot(fs->en, r->num);
	h->pos = off;
	h->read_at = clock_mono(fs->clock);
	if (reply_spool(fs, req, h, r, off, size)) {
		if (h->nd->stream == SPOOL_EVENTS && !run_is_live(r))
			park_retry(fs, r->num); /* who waited for this reader */
		return;
	}
	if (!has_more(fs, r, h->nd->stream, off))
		(void)fuse_reply_buf(req, NULL, 0);
	else if (h->flags & O_NONBLOCK)
		(void)fuse_reply_err(req, EAGAIN);
	else
		park_read(fs, req, h, off, size, retry_grow, DATA_DEADLINE_US);
}

static bool retry_follow(struct parked *p)
{
	const struct run *r = engine_run(p->fs->en, p->h->run);
	struct spool_reader *sp = r ? run_spool(p->fs, r) : NULL;

	if (r && run_is_live(r) && (!sp || spool_reader_len(sp, (enum spool_stream)p->h->nd->stream) <= p->off))
		return false;
	return retry_grow(p);
}

void follow_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);

	set_pos(fs, h, off);
	if (!r) {
		(void)fuse_reply_err(req, ENOENT);
		return;
	}
	if (run_is_live(r))
		engine_hot(fs->en, r->num);
	if (reply_spool(fs, req, h, r, off, size))
		return;
	if (!run_is_live(r) && !has_more(fs, r, h->nd->stream, off))
		(void)fuse_reply_buf(req, NULL, 0);
	else if (h->flags & O_NONBLOCK)
		(void)fuse_reply_err(req, EAGAIN);
	else
		park_read(fs, req, h, off, size, retry_follow, 0);
}

/* --- the root's events --- */

void feed_read(struct fsys *fs, fuse_req_t req, uint64_t off, size_t size)
{
	cleanup_free char *buf = xmalloc(size ? size : 1);
	ssize_t n = engine_feed_read(fs->en, buf, size, off);

	if (n < 0)
		reply_errno(req, (int)n);
	else
		(void)fuse_reply_buf(req, buf, (size_t)n);
}

/* --- wait --- */

static void reply_wait(fuse_req_t req, const struct run *r, uint64_t off, size_t size)
{
	struct strbuf text = STRBUF_INIT;

	run_wait_text(r, &text);
	reply_slice(req, &text, off, size);
	strbuf_release(&text);
}

/*
 * Is somebody about to read the last messages? Dagster's reader (1.13, tail_file) looks, and when it saw nothing asks
 * whether the session is over, and does not look again: lines that came between the two would be lost to it, although
 * they were there before `wait` answered. So `wait` is answered when whoever looks at `events` all the time has them.
 */
static bool reader_behind(struct fsys *fs, const struct run *r)
{
	int64_t now = clock_mono(fs->clock);

	for (struct hmap_node *n = hmap_walk(&fs->handles, NULL); n; n = hmap_walk(&fs->handles, n)) {
		const struct handle *h = container_of(n, struct handle, node);

		if (h->run == r->num && h->nd && h->nd->class == NODE_GROW && h->nd->stream == SPOOL_EVENTS &&
		    h->read_at && now - h->read_at < READER_US && h->pos < run_stream_len(fs, r, SPOOL_EVENTS, NULL))
			return true;
	}
	return false;
}

static bool late_wait(struct parked *p)
{
	const struct run *r = engine_run(p->fs->en, p->h->run);
	uint64_t off = p->off;
	size_t size = p->size;

	if (!r || run_is_live(r))
		return false;
	reply_wait(unpark(p), r, off, size);
	return true;
}

/* For a reader of messages that has stopped to read, nobody waits for ever. */
static bool held(struct parked *p, const struct run *r)
{
	if (!reader_behind(p->fs, r))
		return false;
	if (!p->deadline)
		p->deadline = clock_mono(p->fs->clock) + READER_US;
	p->late = late_wait;
	return true;
}

static bool retry_wait(struct parked *p)
{
	const struct run *r = engine_run(p->fs->en, p->h->run);
	uint64_t off = p->off;
	size_t size = p->size;

	if (!r)
		(void)fuse_reply_err(unpark(p), ENOENT);
	else if (!run_is_live(r) && !held(p, r))
		reply_wait(unpark(p), r, off, size);
	else
		return false;
	return true;
}

static void park_wait_held(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	struct parked *p = park(fs, req, h, h->run, retry_wait);

	p->off = off;
	p->size = size;
	p->deadline = clock_mono(fs->clock) + READER_US;
	p->late = late_wait;
	(void)park_interruptible(p);
}

void wait_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);

	if (!r)
		(void)fuse_reply_err(req, ENOENT);
	else if (!run_is_live(r) && ((h->flags & O_NONBLOCK) || !reader_behind(fs, r)))
		reply_wait(req, r, off, size);
	else if (h->flags & O_NONBLOCK)
		(void)fuse_reply_err(req, EAGAIN);
	else if (run_is_live(r))
		park_read(fs, req, h, off, size, retry_wait, 0);
	else
		park_wait_held(fs, req, h, off, size);
}

bool handle_ready(struct fsys *fs, struct handle *h, uint64_t off)
{
	const struct run *r = h->run ? engine_run(fs->en, h->run) : NULL;
	struct spool_reader *sp;

	if (h->conv)
		return conv_ready(h->conv);
	if (ino_kind(h->ino) == INO_SET_WAIT || ino_kind(h->ino) == INO_SET_ANY)
		return set_ready(fs, h);
	if (!h->nd || !r)
		return true;
	if (h->nd->class == NODE_CTL)
		return ctl_ready(fs, h);
	if (h->nd->class == NODE_WAIT)
		return !run_is_live(r);
	if (h->nd->class == NODE_READY)
		return inner_is_decided(r, h->nd);
	if (h->nd->class != NODE_FOLLOW)
		return true;
	sp = run_spool(fs, r);
	if (sp && spool_reader_len(sp, (enum spool_stream)h->nd->stream) > off)
		return true;
	return !run_is_live(r) && !has_more(fs, r, h->nd->stream, off);
}
