/*
 * The conversation of runs/new, runs/check and a draft's spec: write a document, read back the id.
 *
 * What was acknowledged to a writer must survive the worker: the part of a document that is not complete is kept in a
 * file under STATE/handles; how long it is, and which write made it so, is one 64-bit store in shared memory. The text
 * that will be read back is in a file that is replaced as a whole and says which request it answers. So a request that
 * the kernel delivers again to the next worker is recognised, wherever the last one died. Uniques grow: the later of
 * the two says what is kept.
 *
 * Nothing is submitted half: a JSON document ends at its brace, a line at its newline, a script at the end of the
 * descriptor.
 */
#include "fs/conv.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "backend/spec.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define LEN_BITS 21 /* of a kept length or a cursor; the rest is the request that set it */
#define LEN_MASK ((1ull << LEN_BITS) - 1)

static char *path_of(const struct fsys *fs, uint64_t fh, const char *what)
{
	return xasprintf("%s/%llx.%llx.%s", fs->handle_dir, (unsigned long long)shared_mount_id(fs->shared),
			 (unsigned long long)fh, what);
}

static char *conv_path(const struct conv *c, const char *what)
{
	return path_of(c->fs, c->fh, what);
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
	return shared_handle_get(c->fs->shared, c->fh, false);
}

/* What is read back, as a file: this, the numbers of the runs, the text, and what that request left incomplete. */
struct saved {
	uint64_t request;
	int32_t code, poison;
	uint32_t base, n_runs, n_decided, out_len, rest_len;
};

void conv_save_out(const struct conv *c)
{
	const struct saved head = { c->request,
				    c->code,
				    c->poison,
				    c->base,
				    (uint32_t)c->n_runs,
				    (uint32_t)c->n_decided,
				    (uint32_t)c->out.len,
				    (uint32_t)c->in.len };
	cleanup_free char *path = conv_path(c, "out"), *new = conv_path(c, "out.new");
	cleanup_close int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct strbuf sb = STRBUF_INIT;

	strbuf_add(&sb, &head, sizeof(head));
	strbuf_add(&sb, c->runs, c->n_runs * sizeof(*c->runs));
	strbuf_addbuf(&sb, &c->out);
	strbuf_addbuf(&sb, &c->in);
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
	const char *at;
	size_t runs;

	(void)strbuf_read_file(&sb, path, CONV_PLACES);
	if (sb.len >= sizeof(head)) {
		memcpy(&head, sb.buf, sizeof(head));
		at = sb.buf + sizeof(head);
		runs = head.n_runs * sizeof(*c->runs);
		if (sb.len == sizeof(head) + runs + head.out_len + head.rest_len) {
			c->request = head.request;
			c->code = head.code;
			c->poison = head.poison;
			c->base = head.base;
			c->n_runs = head.n_runs;
			c->n_decided = head.n_decided;
			c->runs = xmalloc(runs);
			memcpy(c->runs, at, runs);
			strbuf_add(&c->out, at + runs, head.out_len);
			strbuf_add(&c->in, at + runs + head.out_len, head.rest_len);
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
	c->round++;
}

static void restore(struct conv *c)
{
	cleanup_free char *path = conv_path(c, "in");
	struct shared_handle *sh = record(c);
	size_t kept = sh ? (size_t)(sh->spare & LEN_MASK) : 0, used;

	load_out(c);
	c->uid = sh ? (uint32_t)sh->user64 : 0;
	if (sh && sh->spare >> LEN_BITS > c->request) {
		strbuf_reset(&c->in);
		(void)strbuf_read_file(&c->in, path, 4 * SPEC_MAX_BYTES);
		strbuf_setlen(&c->in, kept < c->in.len ? kept : c->in.len);
	} else if (c->in.len) {
		(void)keep(c, 0, c->in.buf, c->in.len); /* the worker may have died before it could */
	}
	scan_init(&c->scan);
	(void)scan_feed(&c->scan, c->in.buf, c->in.len, &used);
}

/* What the directory says of the documents. */
static void take_place(struct conv *c, const struct view *v)
{
	const struct handle *h = c->h;
	bool spec = h->nd && h->nd->class == NODE_SPEC;

	c->draft = spec ? h->run : 0;
	c->session = h->nd == &fixed_nodes[FIXED_SESSIONS_NEW] || (h->nd && v->cluster && strchr(h->nd->name, '/'));
	if (ino_kind(h->ino) != INO_SESSION || !v->run)
		return;
	c->session = spec;
	c->into = spec ? 0 : h->run;
	if (spec && strcmp(engine_session_name(v->run), v->run->id) != 0)
		c->name = xstrdup(engine_session_name(v->run));
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
	c->fh = h->fh;
	strbuf_init(&c->in);
	strbuf_init(&c->out);
	(void)node_of(fs, h->ino, &v);
	c->check = ino_kind(h->ino) == INO_FIXED && ino_row(h->ino) == FIXED_CHECK;
	c->hint = v.cluster ? v.cluster->name : NULL;
	take_place(c, &v);
	sh->ino = h->ino;
	sh->flags = h->flags;
	if (rebuilt)
		restore(c);
	sh->user = 1;
	return c;
}

static void conv_destroy(struct conv *c)
{
	strbuf_release(&c->in);
	strbuf_release(&c->out);
	free(c->runs);
	free(c->name);
	free(c);
}

void conv_remove_files(const struct fsys *fs, uint64_t fh)
{
	static const char *const kinds[] = { "in", "out", "out.new" };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		cleanup_free char *path = path_of(fs, fh, kinds[i]);

		(void)unlink(path);
	}
}

void conv_free(struct conv *c)
{
	conv_remove_files(c->fs, c->fh);
	c->h = NULL;
	if (!c->busy)
		conv_destroy(c); /* else the intake does, in its end */
}

/* --- taking documents in --- */

/* The end of one intake: what is kept and what is read back is safe, then the request is marked as done. */
static void taken(struct intake *in, int code)
{
	struct conv *c = in->c;
	struct shared_handle *sh = record(c);

	strbuf_reset(&c->in);
	if (code == 0)
		strbuf_add(&c->in, in->text.buf + in->rest, in->text.len - in->rest);
	c->scan = in->scan;
	c->request = in->request;
	c->code = code;
	if (!c->h)
		return;
	conv_save_out(c);
	point(POINT_CONV_SAVED);
	if (c->in.len)
		(void)keep(c, 0, c->in.buf, c->in.len);
	if (sh)
		__atomic_store_n(&sh->spare, in->request << LEN_BITS | c->in.len, __ATOMIC_RELEASE);
	point(POINT_CONV_MARKED);
}

static void intake_free(struct intake *in)
{
	strbuf_release(&in->text);
	free(in->docs);
	free(in->why);
	free(in);
}

/* The ids of the last `n` runs that were accepted. */
static void add_ids(const struct conv *c, size_t n, struct strbuf *out)
{
	for (size_t i = n < c->n_runs ? c->n_runs - n : 0; i < c->n_runs; i++) {
		const struct run *r = engine_run(c->fs->en, c->runs[i]);

		strbuf_addf(out, " %s", r ? r->id : "-");
	}
}

/* The second row about a write that was answered with ETIMEDOUT. */
static void note_fate(const struct intake *in, int code)
{
	const struct conv *c = in->c;
	struct strbuf why = STRBUF_INIT;

	strbuf_addstr(&why, "the write that was answered with ETIMEDOUT ");
	if (code < 0) {
		strbuf_addf(&why, "was refused: %s", in->why);
	} else if (c->check) {
		strbuf_addstr(&why, "has been checked");
	} else {
		strbuf_addstr(&why, "is in the journal now, as run");
		add_ids(c, in->next, &why);
	}
	engine_note_rejected(c->fs->en, in->uid, in->text.buf, in->text.len, why.buf);
	strbuf_release(&why);
}

static void intake_done(struct intake *in, int code)
{
	struct conv *c = in->c;
	struct fsys *fs = c->fs;

	journal_answered(fs);
	taken(in, code);
	c->busy = false;
	if (in->p) {
		in->done(in, code); /* may free the handle and with it the conversation */
	} else {
		note_fate(in, code);
		if (!c->h)
			conv_destroy(c);
	}
	intake_free(in);
	park_retry(fs, 0); /* who wanted to read while it was under way */
}

/* What was accepted before the document that was refused cannot be taken back: the text says so. */
static void intake_fail(struct intake *in, int code, const char *why)
{
	struct conv *c = in->c;
	struct strbuf text = STRBUF_INIT;

	strbuf_addstr(&text, why);
	if (in->next) {
		strbuf_addstr(&text, "\nsubmitted before that:");
		add_ids(c, in->next, &text);
	}
	drop_out(c);
	strbuf_addf(&c->out, "%s\n", text.buf);
	if (in->rest < in->text.len)
		c->poison = -code;
	free(in->why);
	in->why = strbuf_detach(&text, NULL);
	intake_done(in, code);
}

static void submit_all(struct intake *in);

static void submitted(void *arg, int code, const char *text)
{
	struct intake *in = arg;
	struct conv *c = in->c;
	const struct run *r;

	in->answered = true;
	journal_heard(c->fs);
	if (code < 0) {
		in->code = code;
		in->why = xstrdup(text);
	} else {
		r = engine_run_by_id(c->fs->en, text);
		strbuf_addf(&c->out, "%s\n", r && c->session ? engine_session_name(r) : text);
		if (r) {
			c->runs = xrealloc(c->runs, (c->n_runs + 1) * sizeof(*c->runs));
			c->runs[c->n_runs++] = r->num;
		}
		in->next++;
	}
	if (!in->calling)
		submit_all(in);
}

/* Nothing of it is submitted. The answer follows when the row in `errors` is in the journal, so that the writer finds
 * it there. */
static void refuse(struct intake *in, int code, const char *why)
{
	engine_refuse(in->c->fs->en, in->uid, in->text.buf, in->text.len, why, code, submitted, in);
}

/* One after the other, and without recursion when the engine answers at once. */
static void submit_all(struct intake *in)
{
	struct conv *c = in->c;

	while (in->code == 0 && in->next < in->n_docs) {
		const struct intake_doc *d = &in->docs[in->next];
		const struct engine_submit s = { .text = in->text.buf + d->start,
						 .len = d->len,
						 .draft = c->draft,
						 .cluster_hint = c->hint,
						 .request = in->request | (uint64_t)in->next << 48,
						 .uid = in->uid,
						 .session = c->session,
						 .session_name = c->name,
						 .into = c->into };

		in->answered = false;
		in->calling = true;
		engine_submit(c->fs->en, &s, submitted, in);
		in->calling = false;
		if (!in->answered)
			return;
	}
	if (in->code < 0) {
		cleanup_free char *why = in->why;

		in->why = NULL;
		intake_fail(in, in->code, why);
	} else {
		intake_done(in, 0);
	}
}

/* Without submitting: what every document would become, or every document's errors and the code of the first that
 * fails. */
static int check_all(struct intake *in, struct strbuf *out)
{
	int code = 0;

	for (size_t i = 0; i < in->n_docs; i++) {
		struct strbuf one = STRBUF_INIT;
		int rc = 0;

		engine_check(in->c->fs->en, in->text.buf + in->docs[i].start, in->docs[i].len, in->c->hint, &one, &rc);
		if (rc < 0 && !code) {
			code = rc;
			strbuf_reset(out);
		}
		if (rc < 0 || !code)
			strbuf_addbuf(out, &one);
		strbuf_release(&one);
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
	if (!c->check && (in->n_docs == 1 || c->session || c->into)) {
		submit_all(in);
		return;
	}
	code = check_all(in, &text);
	if (code < 0 && text.len)
		strbuf_setlen(&text, text.len - 1); /* a newline */
	if (code < 0 && c->check) {
		intake_fail(in, code, text.buf);
	} else if (code < 0) {
		refuse(in, code, text.buf);
	} else if (c->check) {
		strbuf_addbuf(&c->out, &text);
		intake_done(in, 0);
	} else {
		submit_all(in);
	}
	strbuf_release(&text);
}

#define MORE_AFTER_JSON "there is more after the JSON document: only other JSON documents may follow it"
static bool only_blanks(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!strchr(" \t\r\n", s[i]) || !s[i])
			return false;
	return true;
}

/*
 * Splits in->text into complete documents; in->rest is where the incomplete one begins (the length when there is none).
 * NULL, or why the text cannot be taken.
 */
static const char *split(struct intake *in)
{
	size_t at = 0, len = in->text.len;

	in->rest = len;
	while (at < len) {
		struct scan s;
		size_t used = 0;
		enum scan_result res;

		scan_init(&s);
		res = scan_feed(&s, in->text.buf + at, len - at, &used);
		if (s.form == SCAN_NONE && !s.hash)
			return NULL; /* only white space */
		if (res != SCAN_COMPLETE) {
			in->rest = at;
			in->scan = s;
			if (res == SCAN_TOO_DEEP)
				return "the JSON document is nested deeper than 64 levels";
			return in->n_docs && s.form != SCAN_JSON ? MORE_AFTER_JSON : NULL;
		}
		in->docs = xrealloc(in->docs, (in->n_docs + 1) * sizeof(*in->docs));
		in->docs[in->n_docs].start = at + s.start;
		in->docs[in->n_docs++].len = used - s.start;
		at += used;
		if (s.form != SCAN_JSON && in->n_docs > 1)
			return MORE_AFTER_JSON;
		if (s.form == SCAN_LINE && !only_blanks(in->text.buf + at, len - at))
			return spec_more_lines(in->text.buf + in->docs[0].start);
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
	scan_init(&in->scan);
	return in;
}

static void drop_intake(struct parked *p)
{
	struct intake *in = (struct intake *)(uintptr_t)p->user;

	in->p = NULL;
}

static bool intake_late(struct parked *p)
{
	const struct intake *in = (const struct intake *)(uintptr_t)p->user;

	journal_note_late(p->fs, in->uid, in->text.buf, in->text.len);
	return false;
}

void intake_park(struct intake *in, fuse_req_t req, bool deadline)
{
	struct conv *c = in->c;

	c->busy = true;
	in->p = park(c->fs, req, c->h, 0, NULL);
	in->p->uninterruptible = true;
	in->p->user = (uintptr_t)in;
	in->p->drop = drop_intake;
	journal_asked(c->fs);
	if (deadline) {
		park_for_journal(in->p);
		in->p->late = intake_late;
	}
}

static void write_done(struct intake *in, int code)
{
	fuse_req_t req = unpark(in->p);

	if (code < 0)
		(void)fuse_reply_err(req, -code);
	else
		(void)fuse_reply_write(req, in->written);
}

/* What was taken in before stays, and can be gone on with. */
static void not_kept(struct conv *c, uint64_t request, const char *data, size_t len, int code)
{
	struct strbuf why = STRBUF_INIT;

	if (code == -ENOSPC || code == -EDQUOT)
		strbuf_addstr(
			&why,
			"the disk of the state directory is full: nothing was submitted; free space and write it again");
	else
		strbuf_addf(&why, "the state directory cannot be written (%s): nothing was submitted", strerror(-code));
	engine_note_rejected(c->fs->en, c->uid, data, len, why.buf);
	drop_out(c);
	strbuf_addf(&c->out, "%s\n", why.buf);
	c->request = request;
	c->code = code;
	conv_save_out(c);
	strbuf_release(&why);
}

static void keep_rest(struct conv *c, uint64_t request, const char *data, size_t len, const struct scan *scan,
		      fuse_req_t req)
{
	struct shared_handle *sh = record(c);
	int rc = keep(c, c->in.len, data, len);

	if (rc < 0) {
		not_kept(c, request, data, len, rc);
		(void)fuse_reply_err(req, -rc);
		return;
	}
	strbuf_add(&c->in, data, len);
	c->scan = *scan;
	if (sh) {
		sh->user64 = c->uid;
		__atomic_store_n(&sh->spare, request << LEN_BITS | c->in.len, __ATOMIC_RELEASE);
	}
	(void)fuse_reply_write(req, len);
}

/* The middle of a long document is not looked at again from its beginning. */
static bool keep_more(struct conv *c, uint64_t request, const char *data, size_t len, fuse_req_t req)
{
	struct scan s = c->scan;
	size_t used;

	if (!c->in.len || c->in.len + len > SPEC_MAX_BYTES || scan_feed(&s, data, len, &used) != SCAN_MORE)
		return false;
	keep_rest(c, request, data, len, &s, req);
	return true;
}

/* Delivered again after it was taken in? */
static bool write_again(const struct conv *c, uint64_t request, size_t len, fuse_req_t req)
{
	const struct shared_handle *sh = record(c);

	if (c->request != request && (!sh || sh->spare >> LEN_BITS != request))
		return false;
	if (c->request == request && c->code)
		(void)fuse_reply_err(req, -c->code);
	else
		(void)fuse_reply_write(req, len);
	return true;
}

void conv_write(struct fsys *fs, fuse_req_t req, struct handle *h, const char *data, size_t len)
{
	struct conv *c = h->conv;
	uint64_t request = session_unique(fs->session);
	struct intake *in;
	const char *why;

	if (write_again(c, request, len, req))
		return;
	if (c->busy || c->poison) {
		(void)fuse_reply_err(req, c->busy ? EBUSY : c->poison);
		return;
	}
	c->uid = fuse_req_ctx(req)->uid;
	if (keep_more(c, request, data, len, req))
		return;
	in = intake_new(c, request, c->uid, write_done);
	strbuf_addbuf(&in->text, &c->in);
	strbuf_add(&in->text, data, len);
	why = in->text.len > SPEC_MAX_BYTES ? "the spec is larger than 1 MiB" : split(in);
	if (!why && in->n_docs == 0 && in->rest < in->text.len) {
		keep_rest(c, request, data, len, &in->scan, req);
		intake_free(in);
		return;
	}
	in->written = len;
	intake_park(in, req, true);
	if (!why) {
		run_intake(in);
		return;
	}
	refuse(in, in->text.len > SPEC_MAX_BYTES ? -EFBIG : -EINVAL, why);
}

/* --- scripts: complete at the end of the descriptor, or when somebody wants the answer --- */

bool conv_has_script(const struct conv *c)
{
	return c->in.len && c->scan.form == SCAN_SCRIPT;
}

/*
 * Was something written, and nothing but blank lines? Before a document they are no document: bash writes a line at a
 * time, so that "\n{...}" comes as a write of "\n" and another. So it is their end that tells.
 */
static bool only_blanks_came(const struct conv *c)
{
	return c->request && !c->code && !c->in.len && !c->out.len && !c->base && !c->n_runs;
}

const char *conv_incomplete(const struct conv *c)
{
	if (only_blanks_came(c))
		return "the spec is empty: there are only blank lines";
	if (!c->in.len)
		return NULL;
	if (conv_has_script(c))
		return c->in.buf[c->in.len - 1] == '\n'
			       ? NULL
			       : "the script does not end in a newline: it may have been cut off, nothing was submitted";
	if (c->scan.form == SCAN_JSON)
		return "the JSON document is not complete: nothing was submitted";
	return "the line does not end in a newline: it may have been cut off, nothing was submitted";
}

/* Submits the kept script; the caller's `done` goes on. */
void conv_commit_script(struct intake *in)
{
	const struct conv *c = in->c;

	strbuf_addbuf(&in->text, &c->in);
	in->rest = in->text.len;
	in->docs = xcalloc(1, sizeof(*in->docs));
	in->docs[0].start = c->scan.start;
	in->docs[0].len = in->text.len - c->scan.start;
	in->n_docs = 1;
	run_intake(in);
}
