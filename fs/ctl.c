/*
 * ctl files: each line is a verb, done before the write returns (as in xcpu and cgroup files). What the scheduler says
 * of it is read back on the same descriptor, or waited for with fsync. A write without a final newline is one verb as
 * well: a command is never kept half. The answer has a cursor of its own, for the write moved the descriptor's offset;
 * that there is one to be read survives the worker.
 */
#include "fs/fuse_ll.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#define ANSWER_DEADLINE_US (60LL * USEC_PER_SEC)

enum { ANSWER_NONE, ANSWER_WAITS, ANSWER_REFUSED }; /* shared_handle.user64 */

/* One write: its lines are done one after the other. */
struct ctl_call {
	struct fsys *fs;
	struct parked *p; /* the write; NULL once answered */
	uint64_t fh, ino;
	uint64_t request;
	unsigned index; /* of the line, for the journal's key */
	char *text, *line, *next;
	size_t len; /* of the write */
	uint32_t uid;
};

static void next_line(struct ctl_call *c);

/* A session's ctl is that of its run. */
static bool is_runs(uint64_t ino)
{
	return ino_kind(ino) == INO_RUN || ino_kind(ino) == INO_SESSION;
}

static struct handle *ctl_handle(const struct ctl_call *c)
{
	struct hmap_node *n = hmap_first(&c->fs->handles, c->fh);

	return n ? container_of(n, struct handle, node) : NULL;
}

static void note(const struct ctl_call *c, const char *why)
{
	engine_note_rejected(c->fs->en, c->uid, c->line, strlen(c->line), why);
}

static void finish(struct ctl_call *c, int code)
{
	size_t len = c->len;
	fuse_req_t req;

	journal_answered(c->fs);
	if (c->p) {
		req = unpark(c->p);
		if (code < 0)
			(void)fuse_reply_err(req, -code);
		else
			(void)fuse_reply_write(req, len);
	} else if (code == 0) {
		note(c, "the verb that was answered with ETIMEDOUT was done");
	}
	free(c->text);
	free(c);
}

static void set_answer(struct fsys *fs, const struct handle *h, uint64_t state)
{
	struct shared_handle *sh = shared_handle_get(fs->shared, h->fh, true);

	if (!sh)
		return;
	sh->ino = h->ino;
	sh->flags = h->flags;
	__atomic_store_n(&sh->user64, state, __ATOMIC_RELEASE);
}

static void line_done(void *arg, int code, const char *text)
{
	struct ctl_call *c = arg;
	struct handle *h = ctl_handle(c);

	journal_heard(c->fs);
	if (h) {
		h->failed = code;
		h->verb_seen = code == 0 && is_runs(c->ino);
		h->have_text = true;
		h->pos = 0;
		strbuf_reset(&h->text);
		if (!h->verb_seen)
			strbuf_addf(&h->text, "%s\n", code < 0 ? text : "ok");
		set_answer(c->fs, h, h->verb_seen ? ANSWER_WAITS : code < 0 ? ANSWER_REFUSED : ANSWER_NONE);
	}
	if (code < 0) {
		note(c, text);
		finish(c, code);
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

static void one_line(struct ctl_call *c, const char *line)
{
	uint64_t ino = c->ino;
	uint64_t request = c->request | (uint64_t)c->index++ << 48;
	cleanup_free char *verb = NULL;
	const struct node *nd;
	const char *kind;
	struct view v;

	nd = node_of(c->fs, ino, &v);
	if (is_runs(ino)) {
		kind = nd ? inner_kind(nd) : NULL;
		verb = kind ? xasprintf("%s %s", kind, line) : NULL;
		engine_verb(c->fs->en, ino_number(ino), verb ? verb : line, request, line_done, c);
	} else if (v.env) {
		struct err e = ERR_INIT;
		int rc = env_verb(c->fs, v.env, line, &e);

		line_done(c, rc, e.text);
	} else if (ino_kind(ino) == INO_ENV) {
		line_done(c, -ENOENT, "it is not there any more");
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
	c->line = line;
	one_line(c, line);
}

static void drop_call(struct parked *p)
{
	struct ctl_call *c = (struct ctl_call *)(uintptr_t)p->user;

	c->p = NULL;
}

static bool call_late(struct parked *p)
{
	const struct ctl_call *c = (const struct ctl_call *)(uintptr_t)p->user;

	journal_note_late(c->fs, c->uid, c->line, strlen(c->line));
	return false;
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
	c->ino = h->ino;
	c->request = session_unique(fs->session);
	c->text = xstrndup(data, len);
	c->line = c->next = c->text;
	c->len = len;
	c->uid = fuse_req_ctx(req)->uid;
	c->p = park(fs, req, h, 0, NULL);
	c->p->uninterruptible = true;
	c->p->user = (uintptr_t)c;
	c->p->drop = drop_call;
	c->p->late = call_late;
	journal_asked(fs);
	park_for_journal(c->p);
	next_line(c);
}

/* --- reading the answer --- */

struct answer_wait {
	struct fsys *fs;
	struct parked *p;
	struct handle *h;
	size_t size;
	bool fsync;
};

static void give(fuse_req_t req, struct handle *h, size_t size)
{
	uint64_t at = h->pos;

	h->pos += h->text.len - at < size ? h->text.len - at : size;
	reply_slice(req, &h->text, at, size);
}

static void answered(void *arg, int code, const char *text)
{
	struct answer_wait *w = arg;
	fuse_req_t req = unpark(w->p);
	struct handle *h = w->h;

	if (w->fsync) {
		(void)fuse_reply_err(req, code < 0 ? -code : 0);
	} else {
		h->verb_seen = false;
		h->pos = 0;
		strbuf_reset(&h->text);
		strbuf_addf(&h->text, "%s%s%s\n", code < 0 ? "error" : "ok", *text ? " " : "", text);
		set_answer(w->fs, h, ANSWER_NONE);
		give(req, h, w->size);
	}
	free(w);
}

static void drop_answer(struct parked *p)
{
	struct answer_wait *w = (struct answer_wait *)(uintptr_t)p->user;

	engine_cancel_cb(w->fs->en, w->h->run, w);
	free(w);
}

static void await_answer(struct fsys *fs, fuse_req_t req, struct handle *h, size_t size, bool fsync)
{
	struct answer_wait *w = xcalloc(1, sizeof(*w));
	struct parked *p = park(fs, req, h, h->run, NULL);

	*w = (struct answer_wait){ fs, p, h, size, fsync };
	p->user = (uintptr_t)w;
	p->drop = drop_answer;
	p->deadline = clock_mono(fs->clock) + ANSWER_DEADLINE_US;
	p->deadline_errno = ETIMEDOUT;
	if (park_interruptible(p)) /* else the signal was there first */
		engine_verb_answer(fs->en, h->run, answered, w);
}

static void mark(void *arg, int code, const char *text)
{
	bool *called = arg;

	(void)code;
	(void)text;
	*called = true;
}

bool ctl_ready(struct fsys *fs, const struct handle *h)
{
	bool called = false;

	if (!h->verb_seen || h->pos < h->text.len)
		return true;
	engine_verb_answer(fs->en, h->run, mark, &called);
	if (!called)
		engine_cancel_cb(fs->en, h->run, &called);
	return called;
}

/* What an earlier worker knew: is there an answer to be read, or was this very read about to give it? */
static void recall(struct fsys *fs, struct handle *h, uint64_t request)
{
	struct shared_handle *sh = shared_handle_get(fs->shared, h->fh, false);

	if (!sh || h->have_text)
		return;
	h->have_text = true;
	h->verb_seen = sh->user64 == ANSWER_WAITS || (request && sh->last_read == request);
	if (sh->user64 == ANSWER_REFUSED) {
		h->failed = -EINVAL;
		strbuf_addstr(&h->text, "the verb was refused: the file errors says why\n");
	}
}

const char *ctl_verbs(const struct node *nd, const struct view *v)
{
	return nd && inner_kind(nd) ? "restart\nstop\n"
	       : v->run             ? engine_verbs()
	       : v->env             ? "remove\nverify\nkeep\nkeep off\n"
	       : v->cluster         ? "reconnect\n"
				    : "reload\nstop\n";
}

void ctl_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	uint64_t request = session_unique(fs->session);
	struct strbuf out = STRBUF_INIT;
	const struct node *nd;
	struct shared_handle *sh;
	struct view v;

	recall(fs, h, request);
	if (h->pos < h->text.len) {
		give(req, h, size);
	} else if (h->verb_seen && (h->flags & O_NONBLOCK) && !ctl_ready(fs, h)) {
		(void)fuse_reply_err(req, EAGAIN);
	} else if (h->verb_seen) {
		sh = shared_handle_get(fs->shared, h->fh, false);
		if (sh)
			sh->last_read = request;
		await_answer(fs, req, h, size, false);
	} else if (h->have_text) {
		(void)fuse_reply_buf(req, NULL, 0);
	} else {
		nd = node_of(fs, h->ino, &v);
		strbuf_addstr(&out, ctl_verbs(nd, &v));
		reply_slice(req, &out, off, size);
	}
	strbuf_release(&out);
}

void ctl_fsync(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	recall(fs, h, 0);
	if (h->failed)
		(void)fuse_reply_err(req, -h->failed);
	else if (h->verb_seen)
		await_answer(fs, req, h, 0, true);
	else
		(void)fuse_reply_err(req, 0);
}
