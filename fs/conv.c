/*
 * The conversation of runs/new, runs/check and a draft's spec: write a document, read back the id.
 *
 * What was acknowledged to a writer must survive the worker: the part of a document that is not complete is kept in a file under
 * STATE/handles; how long it is, and which write made it so, is one 64-bit store in shared memory. The text that will be read
 * back is in a file that is replaced as a whole and says which request it answers. So a request that the kernel delivers
 * again to the next worker is recognised, wherever the last one died.
 *
 * Nothing is submitted half: a JSON document ends at its brace, a line at its newline, a script at the end of the descriptor.
 */
#include "fs/conv.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "backend/spec.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define LEN_BITS 21	/* of a kept length or a cursor; the rest is the request that set it */
#define LEN_MASK ((1ull << LEN_BITS) - 1)

static char *conv_path(const struct conv *c, const char *what)
{
	return xasprintf("%s/%llx.%llx.%s", c->fs->handle_dir, (unsigned long long)shared_mount_id(c->fs->shared),
			 (unsigned long long)c->h->fh, what);
}

/* Writes the kept part at its place; the shared word makes it valid afterwards. */
static int keep(const struct conv *c, size_t at, const char *data, size_t len)
{
	cleanup_free char *path = conv_path(c, "in");
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = pwrite(fd, data, len, (off_t)at);
	return n == (ssize_t)len ? 0 : n < 0 ? -errno : -ENOSPC;
}

static struct shared_handle *record(const struct conv *c)
{
	return shared_handle_get(c->fs->shared, c->h->fh, false);
}

/* What is read back, as a file: this, the numbers of the runs, the text. */
struct saved {
	uint64_t request;
	int32_t code;
	uint32_t base, n_runs, out_len;
};

void conv_save_out(const struct conv *c)
{
	const struct saved head = { c->request, c->code, c->base, (uint32_t)c->n_runs, (uint32_t)c->out.len };
	cleanup_free char *path = conv_path(c, "out"), *new = conv_path(c, "out.new");
	cleanup_close int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct strbuf sb = STRBUF_INIT;

	strbuf_add(&sb, &head, sizeof(head));
	strbuf_add(&sb, c->runs, c->n_runs * sizeof(*c->runs));
	strbuf_addbuf(&sb, &c->out);
	/* Without room on the disk nothing is accepted either; what is read back is then in memory alone. */
	if (fd >= 0 && write(fd, sb.buf, sb.len) == (ssize_t)sb.len)
		(void)rename(new, path);
	strbuf_release(&sb);
}

static void load_out(struct conv *c)
{
	cleanup_free char *path = conv_path(c, "out");
	struct strbuf sb = STRBUF_INIT;
	struct saved head;
	size_t runs;

	(void)strbuf_read_file(&sb, path, 4 * SPEC_MAX_BYTES);
	if (sb.len >= sizeof(head)) {
		memcpy(&head, sb.buf, sizeof(head));
		runs = head.n_runs * sizeof(*c->runs);
		if (sb.len == sizeof(head) + runs + head.out_len) {
			c->request = head.request;
			c->code = head.code;
			c->base = head.base;
			c->n_runs = head.n_runs;
			c->runs = xmalloc(runs);
			memcpy(c->runs, sb.buf + sizeof(head), runs);
			strbuf_add(&c->out, sb.buf + sizeof(head) + runs, head.out_len);
		}
	}
	strbuf_release(&sb);
}

/* What was read back, or need not be any more, goes; the reader's place stays where it is. */
static void drop_out(struct conv *c)
{
	c->base = (c->base + (uint32_t)c->out.len) % CONV_PLACES;
	strbuf_reset(&c->out);
	c->n_runs = c->n_decided = 0;
}

static void restore(struct conv *c)
{
	cleanup_free char *path = conv_path(c, "in");
	struct shared_handle *sh = record(c);
	size_t kept = sh ? (size_t)(sh->spare & LEN_MASK) : 0;
	size_t lines = 0;

	load_out(c);
	if (sh && c->request > sh->spare >> LEN_BITS) /* it was taken in, and the worker died before it could mark that */
		kept = 0;
	(void)strbuf_read_file(&c->in, path, 4 * SPEC_MAX_BYTES);
	strbuf_setlen(&c->in, kept < c->in.len ? kept : c->in.len);
	for (const char *s = strchr(c->out.buf, '\n'); s; s = strchr(s + 1, '\n'))
		lines++;
	c->n_decided = lines > c->n_runs ? lines - c->n_runs : 0;
	if (c->n_decided > c->n_runs)
		c->n_decided = c->n_runs;
}

struct conv *conv_open(struct fsys *fs, struct handle *h, bool rebuilt)
{
	struct shared_handle *sh = shared_handle_get(fs->shared, h->fh, true);
	struct conv *c;
	struct view v;

	if (!sh)
		return NULL;
	c = xcalloc(1, sizeof(*c));
	c->fs = fs;
	c->h = h;
	strbuf_init(&c->in);
	strbuf_init(&c->out);
	(void)node_of(fs, h->ino, &v);
	c->check = ino_kind(h->ino) == INO_FIXED && ino_row(h->ino) == FIXED_CHECK;
	c->hint = v.cluster ? v.cluster->name : NULL;
	c->draft = h->run;
	sh->ino = h->ino;
	sh->flags = h->flags;
	if (rebuilt)
		restore(c);
	sh->user = 1;
	return c;
}

void conv_free(struct conv *c)
{
	static const char *const kinds[] = { "in", "out", "out.new" };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		cleanup_free char *path = conv_path(c, kinds[i]);

		(void)unlink(path);
	}
	strbuf_release(&c->in);
	strbuf_release(&c->out);
	free(c->runs);
	free(c);
}

/* --- taking documents in --- */

/* The end of one intake: the kept part is gone, the text to read back is safe, then the request is marked as done. */
static void taken(struct conv *c, uint64_t request, int code)
{
	struct shared_handle *sh = record(c);

	strbuf_reset(&c->in);
	c->request = request;
	c->code = code;
	conv_save_out(c);
	point(POINT_CONV_SAVED);
	if (sh && request)
		__atomic_store_n(&sh->spare, request << LEN_BITS, __ATOMIC_RELEASE);
	point(POINT_CONV_MARKED);
}

static void intake_done(struct intake *in, int code)
{
	taken(in->c, in->request, code);
	in->done(in, code); /* may free the handle and with it the conversation */
	strbuf_release(&in->text);
	free(in->docs);
	free(in);
}

static void intake_fail(struct intake *in, int code, const char *why)
{
	struct conv *c = in->c;

	drop_out(c);
	strbuf_addf(&c->out, "%s\n", why);
	intake_done(in, code);
}

static void submit_next(struct intake *in);

static void submitted(void *arg, int code, const char *text)
{
	struct intake *in = arg;
	struct conv *c = in->c;
	const struct run *r;

	if (code < 0) {
		intake_fail(in, code, text);
		return;
	}
	r = engine_run_by_id(c->fs->en, text);
	strbuf_addf(&c->out, "%s\n", text);
	if (r) {
		c->runs = xrealloc(c->runs, (c->n_runs + 1) * sizeof(*c->runs));
		c->runs[c->n_runs++] = r->num;
	}
	in->next++;
	submit_next(in);
}

void conv_refuse(struct intake *in, int code, const char *why)
{
	engine_refuse(in->c->fs->en, in->uid, in->text.buf, in->text.len, why, code, submitted, in);
}

static void submit_next(struct intake *in)
{
	struct conv *c = in->c;
	struct engine_submit s = { 0 };

	if (in->next == in->n_docs) {
		intake_done(in, 0);
		return;
	}
	s.text = in->text.buf + in->docs[in->next].start;
	s.len = in->docs[in->next].len;
	s.draft = c->draft;
	s.cluster_hint = c->hint;
	s.request = in->request | (uint64_t)in->next << 48;
	s.uid = in->uid;
	engine_submit(c->fs->en, &s, submitted, in);
}

/* Without submitting; every document's errors. Code of the first that fails. */
static int check_all(struct intake *in, struct strbuf *out)
{
	int code = 0;

	for (size_t i = 0; i < in->n_docs; i++) {
		int rc = 0;

		engine_check(in->c->fs->en, in->text.buf + in->docs[i].start, in->docs[i].len, in->c->hint, out, &rc);
		if (rc < 0 && !code)
			code = rc;
	}
	return code;
}

static void run_intake(struct intake *in)
{
	struct conv *c = in->c;
	struct strbuf text = STRBUF_INIT;
	int code;

	if (c->n_runs == c->n_decided && cursor_of(c) >= c->out.len)
		drop_out(c); /* a new round of the conversation: what was read is behind us */
	if (!c->check && in->n_docs == 1) {
		submit_next(in);
		return;
	}
	code = check_all(in, &text);
	if (code < 0) {
		if (text.len)
			strbuf_setlen(&text, text.len - 1);
		if (c->check)
			intake_fail(in, code, text.buf);
		else
			conv_refuse(in, code, text.buf);
	} else if (c->check) {
		strbuf_addbuf(&c->out, &text);
		intake_done(in, 0);
	} else {
		submit_next(in);
	}
	strbuf_release(&text);
}

static bool only_blanks(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!strchr(" \t\r\n", s[i]) || !s[i])
			return false;
	return true;
}

/*
 * Splits in->text into complete documents. *rest is where the incomplete one begins (the length when there is none). NULL, or
 * why the text cannot be taken.
 */
static const char *split(struct intake *in, size_t *rest)
{
	size_t at = 0, len = in->text.len;

	*rest = len;
	while (at < len) {
		struct scan s;
		size_t used = 0;
		enum scan_result res;

		scan_init(&s);
		res = scan_feed(&s, in->text.buf + at, len - at, &used);
		if (res == SCAN_TOO_DEEP)
			return "the JSON document is nested deeper than 64 levels";
		if (s.form == SCAN_NONE) { /* only white space */
			*rest = len;
			return NULL;
		}
		if (res == SCAN_MORE) {
			*rest = at;
			return NULL;
		}
		in->docs = xrealloc(in->docs, (in->n_docs + 1) * sizeof(*in->docs));
		in->docs[in->n_docs].start = at + s.start;
		in->docs[in->n_docs++].len = used - s.start;
		at += used;
		if (s.form != SCAN_JSON && in->n_docs > 1)
			return "there is more after the JSON document: only other JSON documents may follow it";
		if (s.form == SCAN_LINE && !only_blanks(in->text.buf + at, len - at))
			return "there is more after the line: one write is one line (several JSON documents may follow each other)";
	}
	return NULL;
}

struct intake *intake_new(struct conv *c, uint64_t request, uint32_t uid, void (*done)(struct intake *, int))
{
	struct intake *in = xcalloc(1, sizeof(*in));

	in->c = c;
	in->request = request;
	in->uid = uid;
	in->done = done;
	strbuf_init(&in->text);
	return in;
}

static void write_done(struct intake *in, int code)
{
	fuse_req_t req = unpark(in->p);

	if (code < 0)
		(void)fuse_reply_err(req, -code);
	else
		(void)fuse_reply_write(req, in->written);
}

static void keep_rest(struct conv *c, uint64_t request, const char *data, size_t len, fuse_req_t req)
{
	struct shared_handle *sh = record(c);
	int rc = keep(c, c->in.len, data, len);

	if (rc < 0) {
		(void)fuse_reply_err(req, -rc);
		return;
	}
	strbuf_add(&c->in, data, len);
	if (sh)
		__atomic_store_n(&sh->spare, request << LEN_BITS | c->in.len, __ATOMIC_RELEASE);
	(void)fuse_reply_write(req, len);
}

void conv_write(struct fsys *fs, fuse_req_t req, struct handle *h, const char *data, size_t len)
{
	struct conv *c = h->conv;
	uint64_t request = session_unique(fs->session);
	struct shared_handle *sh = record(c);
	struct intake *in;
	const char *why;
	size_t rest;

	if (c->request == request || (sh && sh->spare >> LEN_BITS == request)) { /* delivered again: it was taken in */
		if (c->request == request && c->code)
			(void)fuse_reply_err(req, -c->code);
		else
			(void)fuse_reply_write(req, len);
		return;
	}
	in = intake_new(c, request, fuse_req_ctx(req)->uid, write_done);
	strbuf_addbuf(&in->text, &c->in);
	strbuf_add(&in->text, data, len);
	why = in->text.len > SPEC_MAX_BYTES ? "the spec is larger than 1 MiB" : split(in, &rest);
	if (!why && in->n_docs == 0 && rest < in->text.len) {
		keep_rest(c, request, data, len, req);
		strbuf_release(&in->text);
		free(in);
		return;
	}
	in->written = len;
	in->p = park(fs, req, h, 0, NULL);
	in->p->uninterruptible = true;
	if (!why && rest < in->text.len)
		why = "there is an incomplete document after a complete one: write each with its own write";
	if (why) {
		conv_refuse(in, in->text.len > SPEC_MAX_BYTES ? -EFBIG : -EINVAL, why);
		return;
	}
	run_intake(in);
}

/* --- scripts: complete at the end of the descriptor, or when somebody wants the answer --- */

bool conv_has_script(const struct conv *c)
{
	return c->in.len > 2 && c->in.buf[0] == '#' && c->in.buf[1] == '!';
}

const char *conv_incomplete(const struct conv *c)
{
	if (!c->in.len || only_blanks(c->in.buf, c->in.len))
		return NULL;
	if (conv_has_script(c))
		return c->in.buf[c->in.len - 1] == '\n' ? NULL
							 : "the script does not end in a newline: it may have been cut off, nothing was submitted";
	if (c->in.buf[strspn(c->in.buf, " \t\r\n")] == '{')
		return "the JSON document is not complete: nothing was submitted";
	return "the line does not end in a newline: it may have been cut off, nothing was submitted";
}

/* Submits the kept script; the caller's `done` goes on. */
void conv_commit_script(struct intake *in)
{
	strbuf_addbuf(&in->text, &in->c->in);
	in->docs = xcalloc(1, sizeof(*in->docs));
	in->docs[0].len = in->text.len;
	in->n_docs = 1;
	run_intake(in);
}
