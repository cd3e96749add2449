/*
 * ctl files: each line is a verb, done before the write returns (as in xcpu and cgroup files). What the scheduler says of it
 * is read back on the same descriptor, or waited for with fsync. A write without a final newline is one verb as well: a
 * command is never kept half.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

/* One write: its lines are done one after the other. */
struct ctl_call {
	struct fsys *fs;
	struct parked *p;	/* the write; NULL once answered */
	uint64_t fh;
	uint32_t run;
	uint64_t request;
	unsigned index;		/* of the line, for the journal's key */
	char *text, *next;
	size_t len;		/* of the write */
	uint32_t uid;
};

static void next_line(struct ctl_call *c);

static struct handle *ctl_handle(struct ctl_call *c)
{
	struct hmap_node *n = hmap_first(&c->fs->handles, c->fh);

	return n ? container_of(n, struct handle, node) : NULL;
}

static void finish(struct ctl_call *c, int code)
{
	size_t len = c->len;
	fuse_req_t req;

	if (c->p) {
		req = unpark(c->p);
		if (code < 0)
			(void)fuse_reply_err(req, -code);
		else
			(void)fuse_reply_write(req, len);
	}
	free(c->text);
	free(c);
}

static void refused(void *arg, int code, const char *text)
{
	(void)text;
	finish(arg, code);
}

static void line_done(void *arg, int code, const char *text)
{
	struct ctl_call *c = arg;
	struct handle *h = ctl_handle(c);

	if (h) {
		h->verb_seen++;
		h->failed = code < 0;
		strbuf_reset(&h->text);
		if (code < 0)
			strbuf_addf(&h->text, "%s\n", text);
	}
	if (code < 0) {
		engine_refuse(c->fs->en, c->uid, c->text, strlen(c->text), text, code, refused, c);
		return;
	}
	next_line(c);
}

/* The root's verbs act on the daemon itself. */
static void root_verb(struct ctl_call *c, const char *line)
{
	if (strcmp(line, "stop") == 0) {
		c->fs->stopping = true;
		line_done(c, 0, "");
	} else if (strcmp(line, "reload") == 0) {
		c->fs->restart = true;
		line_done(c, 0, "");
	} else {
		line_done(c, -EINVAL, "unknown verb: this ctl knows reload, stop");
	}
}

static void one_line(struct ctl_call *c, uint64_t ino, char *line)
{
	uint64_t request = c->request | (uint64_t)c->index++ << 48;
	struct view v;

	(void)node_of(c->fs, ino, &v);
	if (ino_kind(ino) == INO_RUN) {
		engine_verb(c->fs->en, ino_number(ino), line, request, line_done, c);
	} else if (v.cluster) {
		struct err e = ERR_INIT;
		int rc = engine_cluster_verb(c->fs->en, v.cluster->name, line, &e);

		line_done(c, rc, e.text);
	} else {
		root_verb(c, line);
	}
}

static void next_line(struct ctl_call *c)
{
	struct handle *h = ctl_handle(c);
	char *line, *end;

	do {
		line = c->next;
		if (!line || !*line) {
			finish(c, 0);
			return;
		}
		end = strchr(line, '\n');
		if (end)
			*end = '\0';
		c->next = end ? end + 1 : NULL;
		line += strspn(line, " \t\r");
		for (size_t n = strlen(line); n && strchr(" \t\r", line[n - 1]); n--)
			line[n - 1] = '\0';
	} while (!*line);
	one_line(c, h ? h->ino : 0, line);
}

void ctl_write(struct fsys *fs, fuse_req_t req, struct handle *h, const char *data, size_t len)
{
	struct ctl_call *c;

	if (len > 4096 || memchr(data, '\0', len)) {
		(void)fuse_reply_err(req, len > 4096 ? EFBIG : EINVAL);
		return;
	}
	c = xcalloc(1, sizeof(*c));
	c->fs = fs;
	c->fh = h->fh;
	c->request = session_unique(fs->session);
	c->text = xstrndup(data, len);
	c->next = c->text;
	c->len = len;
	c->uid = fuse_req_ctx(req)->uid;
	c->p = park(fs, req, h, 0, NULL);
	c->p->uninterruptible = true;
	next_line(c);
}

/* --- reading the answer --- */

struct answer_wait {
	struct fsys *fs;
	struct parked *p;
	struct handle *h;
	uint64_t off;
	size_t size;
	bool fsync;
};

static void answered(void *arg, int code, const char *text)
{
	struct answer_wait *w = arg;
	struct strbuf out = STRBUF_INIT;
	fuse_req_t req = unpark(w->p);

	strbuf_addf(&out, "%s%s%s\n", code < 0 ? "error" : "ok", *text ? " " : "", text);
	if (w->fsync)
		(void)fuse_reply_err(req, code < 0 ? -code : 0);
	else
		reply_slice(req, &out, w->off, w->size);
	strbuf_release(&out);
	free(w);
}

static void drop_answer(struct parked *p)
{
	struct answer_wait *w = (struct answer_wait *)(uintptr_t)p->user;

	engine_cancel_cb(w->fs->en, w->h->run, w);
	free(w);
}

static void await_answer(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size, bool fsync)
{
	struct answer_wait *w = xcalloc(1, sizeof(*w));
	struct parked *p = park(fs, req, h, h->run, NULL);

	*w = (struct answer_wait){ fs, p, h, off, size, fsync };
	p->user = (uintptr_t)w;
	p->drop = drop_answer;
	p->deadline = clock_mono(fs->clock) + 60LL * USEC_PER_SEC;
	p->deadline_errno = ETIMEDOUT;
	park_interruptible(p);
	/* The interrupt may have come first and taken everything away: then the list of parked requests no longer has it. */
	for (struct hmap_node *n = hmap_first(&fs->parked, h->run); n; n = hmap_next(n))
		if (container_of(n, struct parked, node) == p) {
			engine_verb_answer(fs->en, h->run, answered, w);
			return;
		}
}

void ctl_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	struct strbuf out = STRBUF_INIT;
	bool run = ino_kind(h->ino) == INO_RUN;

	/* The write moved the descriptor's offset: an answer is read from where the reader is, once. */
	if (h->failed) {
		reply_slice(req, &h->text, 0, size);
		h->failed = false;
		strbuf_reset(&h->text);
		return;
	}
	if (h->verb_seen && run) {
		h->verb_seen = 0;
		h->have_text = true;
		await_answer(fs, req, h, 0, size, false);
		return;
	}
	if (h->have_text) {
		(void)fuse_reply_buf(req, NULL, 0);
		return;
	}
	strbuf_addstr(&out, run ? engine_verbs() : ino_kind(h->ino) == INO_CLUSTER ? "reconnect\n" : "reload\nstop\n");
	reply_slice(req, &out, off, size);
	strbuf_release(&out);
}

void ctl_fsync(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	if (h->verb_seen && ino_kind(h->ino) == INO_RUN)
		await_answer(fs, req, h, 0, 0, true);
	else
		(void)fuse_reply_err(req, 0);
}
