/*
 * Reading remote files, by sftp where there is one and else with head and tail by way of the remote shell, whose
 * answers are exact to the byte. Only regular files are opened: opening a FIFO would stop the sftp server for
 * everybody.
 *
 * Invariants: a handle belongs to one sftp channel (gen); every call is answered once; what is on its way keeps the
 * rfile, which is freed with its last reference.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define RC_MISSING 44
#define RC_NOT_FILE 45

struct rfile {
	struct cluster *c;
	unsigned gen, refs;
	bool closed;
	char *path;
	char *handle; /* NULL: by way of the shell */
	size_t hlen;
	int64_t size; /* when it was opened; -1: not known */
};

struct open_op {
	struct rfile *f;
	rfile_open_cb cb;
	void *arg;
};

bool rfile_dead(const struct rfile *f)
{
	return f->gen != f->c->link.gen;
}

int64_t rfile_size(const struct rfile *f)
{
	return f->size;
}

static void rfile_put(struct rfile *f)
{
	if (--f->refs)
		return;
	free(f->path);
	free(f->handle);
	free(f);
}

void rfile_close(struct rfile *f)
{
	if (!f)
		return;
	assert(!f->closed);
	f->closed = true;
	if (f->handle && !rfile_dead(f) && f->c->link.sftp)
		sftp_close(f->c->link.sftp, f->handle, f->hlen);
	rfile_put(f);
}

/* Shell text of a path as remote_path gives it: the shell runs in the home directory as sftp does. */
static void quote_path(struct strbuf *sb, const char *path)
{
	if (path[0] == '-')
		strbuf_addstr(sb, "./");
	quote_sh(sb, path);
}

/* --- open --- */

static void opened(struct open_op *op, int code, const char *text)
{
	struct rfile *f = op->f;

	if (code == 0) {
		op->cb(f->c, op->arg, 0, "", f);
	} else {
		op->cb(f->c, op->arg, code, text, NULL);
		rfile_put(f);
	}
	free(op);
}

static void on_sftp_open(void *arg, const struct sftp_reply *r)
{
	struct open_op *op = arg;

	if (r->code == 0) {
		op->f->handle = xmalloc(r->len);
		memcpy(op->f->handle, r->data, r->len);
		op->f->hlen = r->len;
	}
	opened(op, r->code, r->text);
}

static int check_mode(const struct sftp_attr *a, const char **text)
{
	if (!a->has_mode || S_ISREG(a->mode))
		return 0;
	if (S_ISDIR(a->mode)) {
		*text = "it is a directory";
		return -EISDIR;
	}
	*text = "it is not a regular file";
	return -ENXIO;
}

static void on_sftp_stat(void *arg, const struct sftp_reply *r)
{
	struct open_op *op = arg;
	const char *text = r->text;
	int code = r->code ? r->code : check_mode(&r->attr, &text);

	if (code == 0 && rfile_dead(op->f))
		code = -ECONNRESET;
	if (code == 0 && r->attr.has_size)
		op->f->size = (int64_t)r->attr.size;
	if (code == 0)
		sftp_open_read(op->f->c->link.sftp, op->f->path, on_sftp_open, op);
	else
		opened(op, code, text);
}

static void on_shell_open(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct open_op *op = arg;

	(void)c;
	if (!f)
		opened(op, -ECONNRESET, "the connection was lost");
	else if (f->rc == 0)
		opened(op, 0, "");
	else if (f->rc == RC_NOT_FILE)
		opened(op, -ENXIO, "it is not a regular file");
	else if (f->rc == RC_MISSING)
		opened(op, -ENOENT, "no such file");
	else
		opened(op, -EACCES, f->err);
}

static void shell_open(struct open_op *op)
{
	struct strbuf code = STRBUF_INIT;

	strbuf_addstr(&code, "f=");
	quote_path(&code, op->f->path);
	strbuf_addf(&code, "\nif [ -f \"$f\" ]; then : <\"$f\"; elif [ -e \"$f\" ]; then exit %d; else exit %d; fi",
		    RC_NOT_FILE, RC_MISSING);
	rlink_request(op->f->c, AGENT_QUICK, code.buf, NULL, 0, 0, on_shell_open, op);
	strbuf_release(&code);
}

void rfile_open(struct cluster *c, const char *path, rfile_open_cb cb, void *arg)
{
	struct open_op *op = xcalloc(1, sizeof(*op));

	assert(rlink_files_ready(c));
	op->f = xcalloc(1, sizeof(*op->f));
	op->f->c = c;
	op->f->gen = c->link.gen;
	op->f->refs = 1;
	op->f->size = -1;
	op->f->path = xstrdup(path);
	op->cb = cb;
	op->arg = arg;
	if (c->link.sftp_state == SFTP_ON)
		sftp_stat(c->link.sftp, path, on_sftp_stat, op);
	else
		shell_open(op);
}

/* --- read --- */

struct piece {
	struct read_op *op;
	struct strbuf data;
	uint64_t off;
	size_t want;
};

struct read_op {
	struct rfile *f;
	bool full;
	int code;
	struct strbuf text;
	size_t n, open;
	struct piece *pieces;
	rfile_read_cb cb;
	void *arg;
};

/* Everything up to the first piece that is short: what comes behind it was read at another time. */
static void read_finished(struct read_op *op)
{
	struct strbuf all = STRBUF_INIT;
	bool whole = true;

	for (size_t i = 0; i < op->n; i++) {
		struct piece *p = &op->pieces[i];

		if (whole)
			strbuf_add(&all, p->data.buf, p->data.len);
		whole = whole && p->data.len == p->want;
		strbuf_release(&p->data);
	}
	/*
	 * A file that fails half way is given as far as it goes, the next read meets the error again; but not where
	 * fewer bytes mean its end.
	 */
	if (op->code && op->full)
		strbuf_reset(&all);
	op->cb(op->f->c, op->arg, all.len ? 0 : op->code, op->text.buf, all.buf, all.len);
	strbuf_release(&all);
	strbuf_release(&op->text);
	rfile_put(op->f);
	free(op->pieces);
	free(op);
}

static void on_sftp_read(void *arg, const struct sftp_reply *r)
{
	struct piece *p = arg;
	struct read_op *op = p->op;
	size_t room = p->want - p->data.len;
	size_t got = r->code == 0 ? (r->len < room ? r->len : room) : 0;

	strbuf_add(&p->data, r->data, got);
	if (r->code && !op->code) {
		op->code = r->code;
		strbuf_addstr(&op->text, r->text);
	}
	if (op->full && got && p->data.len < p->want && !rfile_dead(op->f) && !op->f->closed) {
		sftp_read(op->f->c->link.sftp, op->f->handle, op->f->hlen, p->off + p->data.len,
			  (uint32_t)(p->want - p->data.len), on_sftp_read, p);
		return;
	}
	if (--op->open == 0)
		read_finished(op);
}

static void on_shell_read(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct read_op *op = arg;
	struct piece *p = &op->pieces[0];

	(void)c;
	if (!f) {
		op->code = -ECONNRESET;
	} else if (f->rc != 0) {
		op->code = -EIO;
		strbuf_addstr(&op->text, f->err);
	} else {
		strbuf_add(&p->data, f->out, f->out_len < p->want ? f->out_len : p->want);
	}
	read_finished(op);
}

static void shell_read(struct read_op *op, uint64_t off, size_t len)
{
	struct strbuf code = STRBUF_INIT;

	strbuf_addf(&code, "tail -c +%llu -- ", (unsigned long long)off + 1);
	quote_path(&code, op->f->path);
	strbuf_addf(&code, " | head -c %zu", len);
	op->n = 1;
	op->pieces = xcalloc(1, sizeof(*op->pieces));
	strbuf_init(&op->pieces[0].data);
	op->pieces[0].want = len;
	rlink_request(op->f->c, AGENT_QUICK, code.buf, NULL, 0, 0, on_shell_read, op);
	strbuf_release(&code);
}

static void sftp_read_pieces(struct read_op *op, uint64_t off, size_t len)
{
	op->n = (len + SFTP_READ_MAX - 1) / SFTP_READ_MAX;
	op->open = op->n;
	op->pieces = xcalloc(op->n, sizeof(*op->pieces));
	for (size_t i = 0; i < op->n; i++) {
		struct piece *p = &op->pieces[i];
		size_t left = len - i * SFTP_READ_MAX;

		p->op = op;
		strbuf_init(&p->data);
		p->off = off + i * SFTP_READ_MAX;
		p->want = left < SFTP_READ_MAX ? left : SFTP_READ_MAX;
		sftp_read(op->f->c->link.sftp, op->f->handle, op->f->hlen, p->off, (uint32_t)p->want, on_sftp_read, p);
	}
}

void rfile_read(struct rfile *f, uint64_t off, size_t len, bool full, rfile_read_cb cb, void *arg)
{
	struct read_op *op = xcalloc(1, sizeof(*op));

	assert(!rfile_dead(f) && !f->closed && len > 0);
	f->refs++;
	op->f = f;
	op->full = full;
	op->cb = cb;
	op->arg = arg;
	strbuf_init(&op->text);
	if (f->handle)
		sftp_read_pieces(op, off, len);
	else
		shell_read(op, off, len);
}
