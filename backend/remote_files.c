/*
 * Files of a run for readers: bytes of one file, the listing of one directory, the list of results.
 *
 * Invariants: paths are checked again here (relative, no "..") whoever asked; records leave this module only whole and
 * only for files, directories and links that stay inside their area, with permission bits alone. An operation names its
 * request by serial; a request that has timed out lets its operation run out and drops the answer.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define READ_MAX ((size_t)4 * 1024 * 1024)
#define MANIFEST_MAX ((size_t)32 * 1024 * 1024)
#define ENTRIES_MAX 100000
#define FIND_LIMIT_S 60
#define RC_NO_DIR 44
#define FIND "\\( -type f -o -type d -o -type l \\) -printf '%y\\0%s\\0%T@\\0%m\\0%P\\0%l\\0'"

bool rfiles_path_ok(const char *path)
{
	if (strlen(path) >= 4096)
		return false;
	if (!*path)
		return true;
	for (;;) {
		size_t n = strcspn(path, "/");

		if (n == 0 || n > 255 || (path[0] == '.' && (n == 1 || (n == 2 && path[1] == '.'))))
			return false;
		if (!path[n])
			return true;
		path += n + 1;
	}
}

/* "results/PATH" or, for the area itself, "results/": the slash follows a link into scratch. */
static void area_path(const struct creq *q, struct strbuf *out)
{
	strbuf_addf(out, "%s/%s", cluster_area_path(q->area), q->path ? q->path : "");
}

static bool check_path(struct cluster *c, const struct rreq *q)
{
	if (q->q->attempt && rfiles_path_ok(q->q->path ? q->q->path : ""))
		return true;
	rreq_done(c, q->serial, -EINVAL, "not a path inside the run", NULL, 0);
	return false;
}

/* --- records --- */

static bool all_of(const char *s, const char *chars)
{
	return *s && s[strspn(s, chars)] == '\0';
}

static void add_record(struct strbuf *out, const char *type, const char *size, const char *mtime, unsigned long mode,
		       const char *path, const char *target)
{
	strbuf_addf(out, "%s%c%s%c%s%c%03lo%c%s%c%s%c", type, 0, size, 0, mtime, 0, mode & 0777, 0, path, 0, target, 0);
}

static void filter_record(const char *const f[6], const char *prefix, struct strbuf *out)
{
	struct strbuf full = STRBUF_INIT;
	bool link = strcmp(f[0], "l") == 0;

	strbuf_addf(&full, "%s%s%s", prefix, *prefix ? "/" : "", f[4]);
	if ((link || strcmp(f[0], "f") == 0 || strcmp(f[0], "d") == 0) && all_of(f[1], "0123456789") &&
	    all_of(f[2], "-0123456789.") && all_of(f[3], "01234567") && strlen(f[3]) < 8 && *f[4] &&
	    rfiles_path_ok(f[4]) && (!link || tar_link_inside(full.buf, f[5])))
		add_record(out, f[0], f[1], f[2], strtoul(f[3], NULL, 8), f[4], link ? f[5] : "");
	strbuf_release(&full);
}

void rfiles_filter(const char *in, size_t len, size_t cap, const char *prefix, struct strbuf *out)
{
	const char *end = in + len, *p = in;

	for (size_t n = 0; n < cap; n++) {
		const char *f[6];

		for (int i = 0; i < 6; i++) {
			const char *nul = memchr(p, '\0', (size_t)(end - p));

			if (!nul)
				return;
			f[i] = p;
			p = nul + 1;
		}
		filter_record(f, prefix, out);
	}
}

/* --- read --- */

struct read_op {
	uint64_t serial;
	struct rfile *f;
	struct strbuf data; /* of a manifest: what came so far */
};

static void read_op_free(struct read_op *op)
{
	rfile_close(op->f);
	strbuf_release(&op->data);
	free(op);
}

static void failed(struct cluster *c, const struct rreq *q, int code, const char *text)
{
	struct strbuf why = STRBUF_INIT;

	if (code == -ECONNRESET) {
		rreq_again(c, q->serial);
		return;
	}
	area_path(q->q, &why);
	strbuf_addf(&why, ": %s", text && *text ? text : strerror(-code));
	rreq_done(c, q->serial, code, why.buf, NULL, 0);
	strbuf_release(&why);
}

static void on_read(struct cluster *c, void *arg, int code, const char *text, const char *data, size_t len)
{
	struct read_op *op = arg;
	struct rreq *q = rreq_find(c, op->serial);

	if (q && code)
		failed(c, q, code, text);
	else if (q)
		rreq_done(c, op->serial, 0, "", data, len);
	read_op_free(op);
}

static void on_opened(struct cluster *c, void *arg, int code, const char *text, struct rfile *f)
{
	struct read_op *op = arg;
	struct rreq *q = rreq_find(c, op->serial);
	size_t len;

	op->f = f;
	if (!q || code) {
		if (q)
			failed(c, q, code, text);
		read_op_free(op);
		return;
	}
	len = q->q->length < READ_MAX ? (size_t)q->q->length : READ_MAX;
	if (len == 0) {
		rreq_done(c, op->serial, 0, "", "", 0);
		read_op_free(op);
		return;
	}
	rfile_read(f, q->q->offset, len, true, on_read, op);
}

void rfiles_read(struct cluster *c, struct rreq *q)
{
	struct strbuf name = STRBUF_INIT, path = STRBUF_INIT;
	struct read_op *op;

	if (!check_path(c, q))
		return;
	op = xcalloc(1, sizeof(*op));
	op->serial = q->serial;
	strbuf_init(&op->data);
	q->started = true;
	area_path(q->q, &name);
	remote_path(c, q->q->run, q->q->attempt, name.buf, &path);
	rfile_open(c, path.buf, on_opened, op);
	strbuf_release(&name);
	strbuf_release(&path);
}

/* --- what find says: directories where there is no sftp, results without a manifest --- */

struct find_op {
	uint64_t serial;
	bool missing_is_empty;
};

static void on_found(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct find_op *op = arg;
	struct rreq *q = rreq_find(c, op->serial);
	struct strbuf out = STRBUF_INIT;
	bool missing_ok = op->missing_is_empty;

	free(op);
	if (!q)
		return;
	if (!f) {
		rreq_again(c, q->serial);
	} else if (f->rc == RC_NO_DIR && !missing_ok) {
		failed(c, q, -ENOENT, "no such directory");
	} else {
		rfiles_filter(f->out, f->out_len, ENTRIES_MAX, missing_ok || !q->q->path ? "" : q->q->path, &out);
		rreq_done(c, q->serial, 0, "", out.buf, out.len);
	}
	strbuf_release(&out);
}

static void find(struct cluster *c, const struct rreq *q, const char *name, bool deep)
{
	struct strbuf dir = STRBUF_INIT, code = STRBUF_INIT;
	struct find_op *op = xcalloc(1, sizeof(*op));

	op->serial = q->serial;
	op->missing_is_empty = deep;
	remote_dir(c, q->q->run, q->q->attempt, name, &dir);
	strbuf_addstr(&code, "cd -- ");
	quote_sh_path(&code, dir.buf);
	strbuf_addf(&code, " 2>/dev/null || exit %d\nfind . -mindepth 1 %s", RC_NO_DIR, deep ? "" : "-maxdepth 1 ");
	strbuf_addstr(&code, FIND);
	strbuf_addf(&code, " | head -c %zu", MANIFEST_MAX);
	rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, FIND_LIMIT_S, on_found, op);
	strbuf_release(&dir);
	strbuf_release(&code);
}

/* --- list by sftp --- */

struct dir_entry {
	char *name, *target;
	struct sftp_attr attr;
};

struct list_op {
	struct cluster *c;
	uint64_t serial;
	unsigned gen;
	int code;
	char *path; /* remote, of the directory */
	struct strbuf text, handle;
	struct dir_entry *v;
	size_t n, cap;
	size_t open; /* requests on their way */
	bool ended;
};

struct link_op {
	struct list_op *list;
	size_t i;
};

static void emit_entry(const struct dir_entry *d, const char *prefix, struct strbuf *out)
{
	char type[2] = "", size[24], mtime[24], mode[16];
	const char *const f[6] = { type, size, mtime, mode, d->name, d->target ? d->target : "" };
	mode_t m = d->attr.has_mode ? d->attr.mode : 0;

	type[0] = S_ISREG(m) ? 'f' : S_ISDIR(m) ? 'd' : S_ISLNK(m) ? 'l' : '?';
	(void)snprintf(size, sizeof(size), "%llu", (unsigned long long)(d->attr.has_size ? d->attr.size : 0));
	(void)snprintf(mtime, sizeof(mtime), "%u", d->attr.has_times ? d->attr.mtime : 0);
	(void)snprintf(mode, sizeof(mode), "%o", (unsigned)(m & 0777));
	filter_record(f, prefix, out);
}

static void list_free(struct list_op *op)
{
	for (size_t i = 0; i < op->n; i++) {
		free(op->v[i].name);
		free(op->v[i].target);
	}
	free(op->v);
	free(op->path);
	strbuf_release(&op->text);
	strbuf_release(&op->handle);
	free(op);
}

static void list_maybe_done(struct list_op *op)
{
	struct cluster *c = op->c;
	struct rreq *q = rreq_find(c, op->serial);
	struct strbuf out = STRBUF_INIT;

	if (op->open || !op->ended)
		return;
	if (op->handle.len && op->gen == c->link.gen && c->link.sftp)
		sftp_close(c->link.sftp, op->handle.buf, op->handle.len);
	if (q && op->code) {
		failed(c, q, op->code, op->text.buf);
	} else if (q) {
		for (size_t i = 0; i < op->n; i++)
			emit_entry(&op->v[i], q->q->path ? q->q->path : "", &out);
		rreq_done(c, op->serial, 0, "", out.buf, out.len);
	}
	strbuf_release(&out);
	list_free(op);
}

static void on_link(void *arg, const struct sftp_reply *r)
{
	struct link_op *l = arg;
	struct list_op *op = l->list;

	if (r->code == 0)
		op->v[l->i].target = xstrndup(r->data, r->len);
	else if (r->code == -ECONNRESET)
		op->code = r->code;
	free(l);
	op->open--;
	list_maybe_done(op);
}

static void add_entry(struct list_op *op, const struct sftp_reply *r)
{
	struct strbuf path = STRBUF_INIT;
	struct link_op *l;

	if (strcmp(r->name, ".") == 0 || strcmp(r->name, "..") == 0 || strchr(r->name, '/') || op->n >= ENTRIES_MAX)
		return;
	if (op->n == op->cap) {
		op->cap = op->cap ? op->cap * 2 : 64;
		op->v = xrealloc(op->v, op->cap * sizeof(*op->v));
	}
	op->v[op->n] = (struct dir_entry){ .name = xstrdup(r->name), .attr = r->attr };
	if (r->attr.has_mode && S_ISLNK(r->attr.mode) && op->gen == op->c->link.gen) {
		l = xcalloc(1, sizeof(*l));
		l->list = op;
		l->i = op->n;
		op->open++;
		strbuf_addf(&path, "%s/%s", op->path, r->name);
		sftp_readlink(op->c->link.sftp, path.buf, on_link, l);
		strbuf_release(&path);
	}
	op->n++;
}

static void on_readdir(void *arg, const struct sftp_reply *r)
{
	struct list_op *op = arg;

	if (r->code == 0 && r->name) {
		add_entry(op, r);
		return;
	}
	if (r->code == 0 && op->gen == op->c->link.gen) {
		sftp_readdir(op->c->link.sftp, op->handle.buf, op->handle.len, on_readdir, op);
		return;
	}
	if (r->code != -ENODATA && !op->code) {
		op->code = r->code ? r->code : -ECONNRESET;
		strbuf_addstr(&op->text, r->text);
	}
	op->ended = true;
	op->open--;
	list_maybe_done(op);
}

static void on_opendir(void *arg, const struct sftp_reply *r)
{
	struct list_op *op = arg;

	if (r->code == 0) {
		strbuf_add(&op->handle, r->data, r->len);
		sftp_readdir(op->c->link.sftp, op->handle.buf, op->handle.len, on_readdir, op);
		return;
	}
	op->code = r->code;
	strbuf_addstr(&op->text, r->text);
	op->ended = true;
	op->open--;
	list_maybe_done(op);
}

void rfiles_list(struct cluster *c, struct rreq *q)
{
	struct strbuf name = STRBUF_INIT, path = STRBUF_INIT;
	struct list_op *op;

	if (!check_path(c, q))
		return;
	q->started = true;
	area_path(q->q, &name);
	if (c->link.sftp_state == SFTP_DENIED) {
		find(c, q, name.buf, false);
	} else {
		remote_path(c, q->q->run, q->q->attempt, name.buf, &path);
		op = xcalloc(1, sizeof(*op));
		op->c = c;
		op->serial = q->serial;
		op->gen = c->link.gen;
		strbuf_init(&op->text);
		strbuf_init(&op->handle);
		op->path = xstrdup(path.buf);
		op->open = 1;
		sftp_opendir(c->link.sftp, path.buf, on_opendir, op);
	}
	strbuf_release(&name);
	strbuf_release(&path);
}

/* --- manifest --- */

static void on_manifest_read(struct cluster *c, void *arg, int code, const char *text, const char *data, size_t len)
{
	struct read_op *op = arg;
	struct rreq *q = rreq_find(c, op->serial);
	struct strbuf out = STRBUF_INIT;

	strbuf_add(&op->data, data, len);
	if (q && code) {
		failed(c, q, code, text);
	} else if (q && len == READ_MAX && op->data.len < MANIFEST_MAX && !rfile_dead(op->f)) {
		rfile_read(op->f, op->data.len, READ_MAX, true, on_manifest_read, op);
		return;
	} else if (q) {
		rfiles_filter(op->data.buf, op->data.len, ENTRIES_MAX, "", &out);
		rreq_done(c, op->serial, 0, "", out.buf, out.len);
	}
	strbuf_release(&out);
	read_op_free(op);
}

static void on_manifest_opened(struct cluster *c, void *arg, int code, const char *text, struct rfile *f)
{
	struct read_op *op = arg;
	struct rreq *q = rreq_find(c, op->serial);

	op->f = f;
	if (q && code == 0) {
		rfile_read(f, 0, READ_MAX, true, on_manifest_read, op);
		return;
	}
	if (q && code == -ENOENT && rlink_up(c))
		find(c, q, "results", true);
	else if (q)
		failed(c, q, code, text);
	read_op_free(op);
}

void rfiles_manifest(struct cluster *c, struct rreq *q)
{
	struct strbuf path = STRBUF_INIT;
	struct read_op *op;

	if (!check_path(c, q))
		return;
	op = xcalloc(1, sizeof(*op));
	op->serial = q->serial;
	strbuf_init(&op->data);
	q->started = true;
	remote_path(c, q->q->run, q->q->attempt, "manifest", &path);
	rfile_open(c, path.buf, on_manifest_opened, op);
	strbuf_release(&path);
}
