/*
 * FUSE requests to calls: which function serves which operation on which kind of node. No state and no policy of its
 * own but permissions and flags of opens.
 *
 * Files are opened direct_io: their sizes and contents change without the kernel knowing. The exceptions are logs and
 * results of ended runs that are here as a whole: they change no more, and a read of them cannot fail, which through
 * the page cache would be EIO. Files whose reads block, and conversations, are opened without seeking.
 */
#include "fs/fuse_ll.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/statvfs.h>

struct fsys *fsys_of(fuse_req_t req)
{
	struct fsys *fs = fuse_req_userdata(req);

	fs->n_requests++;
	return fs;
}

void reply_rc(fuse_req_t req, int rc)
{
	(void)fuse_reply_err(req, rc < 0 ? -rc : 0);
}

void reply_slice(fuse_req_t req, const struct strbuf *sb, uint64_t off, size_t size)
{
	if (off >= sb->len)
		(void)fuse_reply_buf(req, NULL, 0);
	else
		(void)fuse_reply_buf(req, sb->buf + off, sb->len - off < size ? sb->len - off : size);
}

/* With --allow-other the kernel lets others in by the mode bits; only the owner and the named users get further. */
bool fsys_allowed(const struct fsys *fs, fuse_req_t req)
{
	uid_t uid = fuse_req_ctx(req)->uid;

	if (uid == fs->uid || uid == 0)
		return true;
	for (size_t i = 0; i < fs->n_allow; i++)
		if (fs->allow_uids[i] == uid)
			return true;
	return false;
}

mode_t fsys_mode(const struct fsys *fs, mode_t mode)
{
	mode_t owner = mode & 0700;

	return fs->n_allow ? mode | owner >> 3 | owner >> 6 : mode;
}

/* --- names and attributes --- */

int fill_entry(struct fsys *fs, uint64_t ino, struct fuse_entry_param *ep)
{
	struct view v;
	const struct node *nd = node_of(fs, ino, &v);
	int rc = tree_stat(fs, ino, &ep->attr);

	ep->ino = ino;
	ep->attr_timeout = tree_attr_timeout(fs, ino);
	ep->entry_timeout = nd && (nd->flags & NODE_FRESH) ? 0.0 : ino_kind(ino) == INO_PATH ? ep->attr_timeout : 1.0;
	if (ino_kind(ino) == INO_LINK || ino_kind(ino) == INO_LEASE || ino_kind(ino) == INO_SESSION || fs->others)
		ep->entry_timeout = 0.0; /* a run changes its set by changing its status */
	return rc;
}

void reply_entry(struct fsys *fs, fuse_req_t req, int rc, uint64_t ino)
{
	struct fuse_entry_param ep;

	memset(&ep, 0, sizeof(ep));
	if (rc == 0)
		rc = fill_entry(fs, ino, &ep);
	if (rc < 0)
		reply_rc(req, rc);
	else
		(void)fuse_reply_entry(req, &ep);
}

static void go_lookup(struct fsys *fs, fuse_req_t req, const struct area_request *a)
{
	uint64_t ino = 0;
	int rc = tree_lookup(fs, a->ino, a->name, &ino);

	reply_entry(fs, req, rc, ino);
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	const struct area_request a = { .what = AREA_LOOKUP, .ino = parent, .name = name, .go = go_lookup };
	struct fsys *fs = fsys_of(req);

	if (!fsys_allowed(fs, req)) {
		reply_rc(req, -EACCES);
		return;
	}
	if (ino_kind(parent) == INO_RUN)
		engine_look(fs->en, ino_number(parent), CLUSTER_LOOK_RUN);
	if (!area_is(parent) || !area_wait(fs, req, &a))
		go_lookup(fs, req, &a);
}

static void go_getattr(struct fsys *fs, fuse_req_t req, const struct area_request *a)
{
	struct stat st;
	int rc = tree_stat(fs, a->ino, &st);

	if (rc < 0)
		reply_rc(req, rc);
	else
		(void)fuse_reply_attr(req, &st, tree_attr_timeout(fs, a->ino));
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	const struct area_request a = { .what = AREA_GETATTR, .ino = ino, .go = go_getattr };
	struct fsys *fs = fsys_of(req);

	(void)fi;
	if (!fsys_allowed(fs, req) && ino != FUSE_ROOT_ID)
		reply_rc(req, -EACCES);
	else if (!area_is(ino) || !area_wait(fs, req, &a))
		go_getattr(fs, req, &a);
}

/* Is this a file of ours that nobody may write? */
static bool read_only(const struct fsys *fs, uint64_t ino)
{
	struct view v;
	const struct node *nd = node_of(fs, ino, &v);

	return !nd || !(nd->mode & 0200);
}

/* Truncation and times of files that are written to are accepted without effect: shells, cp and touch do them. */
static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	const struct node *nd;
	struct view v;
	struct stat st;
	int rc = 0;

	nd = node_of(fs, ino, &v);
	if (fsys_allowed(fs, req) && ino_kind(ino) == INO_LEASE &&
	    to_set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)) {
		lease_touch(fs, req, ino);
		return;
	}
	if (!fsys_allowed(fs, req))
		rc = -EPERM;
	else if (area_is(ino))
		rc = area_setattr(fs, ino, attr, to_set, fi ? handle_find(fs, fi->fh) : NULL);
	else if (to_set & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID) || read_only(fs, ino))
		rc = -EPERM;
	else if (nd && nd->class == NODE_CONTEXT && to_set & FUSE_SET_ATTR_SIZE)
		rc = context_truncate(fs, v.run, (uint64_t)attr->st_size);
	if (rc == 0)
		rc = tree_stat(fs, ino, &st);
	if (rc < 0)
		reply_rc(req, rc);
	else
		(void)fuse_reply_attr(req, &st, tree_attr_timeout(fs, ino));
}

static void reply_link(struct fsys *fs, fuse_req_t req, uint64_t ino)
{
	struct strbuf sb = STRBUF_INIT;
	int rc = tree_readlink(fs, ino, &sb);

	if (rc < 0)
		reply_rc(req, rc);
	else
		(void)fuse_reply_readlink(req, sb.buf);
	strbuf_release(&sb);
}

static bool retry_last(struct parked *p)
{
	struct fsys *fs = p->fs;
	uint64_t ino = p->off;

	if (engine_creating(fs->en))
		return false;
	reply_link(fs, unpark(p), ino);
	return true;
}

/* `last` waits for the commits that are on their way: a script is committed when its descriptor is closed, which
   close(2) does not wait for. */
static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct fsys *fs = fsys_of(req);
	struct parked *p;

	if (!fsys_allowed(fs, req)) {
		(void)fuse_reply_err(req, EACCES);
		return;
	}
	if (ino_kind(ino) != INO_FIXED || !engine_creating(fs->en)) {
		reply_link(fs, req, ino);
		return;
	}
	p = park(fs, req, NULL, 0, retry_last);
	p->off = ino;
	p->deadline = clock_mono(fs->clock) + 5 * USEC_PER_SEC;
	p->deadline_errno = ETIMEDOUT;
	(void)park_interruptible(p);
}

/* --- directories --- */

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);

	fi->fh = session_unique(fs->session);
	if (!fsys_allowed(fs, req)) {
		(void)fuse_reply_err(req, EACCES);
		return;
	}
	if (ino_kind(ino) == INO_RUN)
		engine_look(fs->en, ino_number(ino), CLUSTER_LOOK_RUN);
	if (area_is(ino))
		area_opendir(fs, req, ino, fi);
	else
		(void)fuse_reply_open(req, fi);
}

struct dir_fill {
	struct fsys *fs;
	fuse_req_t req;
	char *buf;
	size_t len, size;
	bool plus;
};

enum { DOTS = 2 }; /* "." and ".." come before what the tree lists */

static bool fill(void *arg, const char *name, uint64_t ino, uint64_t next_off)
{
	struct dir_fill *d = arg;
	struct fuse_entry_param ep;
	size_t n;

	memset(&ep, 0, sizeof(ep));
	if (d->plus) {
		if (fill_entry(d->fs, ino, &ep) < 0)
			return true; /* it went away just now */
		n = fuse_add_direntry_plus(d->req, d->buf + d->len, d->size - d->len, name, &ep,
					   (off_t)next_off + DOTS);
	} else {
		struct stat st;

		if (tree_stat(d->fs, ino, &st) < 0)
			return true;
		n = fuse_add_direntry(d->req, d->buf + d->len, d->size - d->len, name, &st, (off_t)next_off + DOTS);
	}
	if (n > d->size - d->len)
		return false;
	d->len += n;
	return true;
}

/* The parent's number is only what readdir(3) shows; the kernel knows the way up. */
static void fill_dots(struct dir_fill *d, uint64_t ino, off_t *off)
{
	static const char *const names[DOTS] = { ".", ".." };
	struct fuse_entry_param ep;

	for (; *off < DOTS; (*off)++) {
		memset(&ep, 0, sizeof(ep)); /* node id 0: nothing is looked up by it */
		ep.attr.st_ino = *off ? FUSE_ROOT_ID : ino_stable(ino);
		ep.attr.st_mode = S_IFDIR;
		d->len += d->plus ? fuse_add_direntry_plus(d->req, d->buf + d->len, d->size - d->len, names[*off], &ep,
							   *off + 1)
				  : fuse_add_direntry(d->req, d->buf + d->len, d->size - d->len, names[*off], &ep.attr,
						      *off + 1);
	}
}

static void read_directory(struct fsys *fs, fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct dir_fill d = { .fs = fs, .req = req, .size = size, .plus = plus };
	int rc;

	d.buf = xmalloc(size);
	if (size >= 1024) /* the kernel asks for a page at least */
		fill_dots(&d, ino, &off);
	rc = tree_readdir(d.fs, ino, off > DOTS ? (uint64_t)(off - DOTS) : 0, fill, &d);
	if (rc < 0)
		reply_rc(req, rc);
	else
		(void)fuse_reply_buf(req, d.buf, d.len);
	free(d.buf);
}

static void go_readdir(struct fsys *fs, fuse_req_t req, const struct area_request *a)
{
	read_directory(fs, req, a->ino, a->size, 0, a->plus);
}

/* From the beginning a directory is read anew (rewinddir); what follows goes on in what was read then. */
static void list_directory(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	const struct area_request a = {
		.what = AREA_READDIR, .ino = ino, .size = size, .plus = plus, .go = go_readdir
	};
	struct fsys *fs = fsys_of(req);

	if (off || !area_is(ino) || !area_wait(fs, req, &a))
		read_directory(fs, req, ino, size, off, plus);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list_directory(req, ino, size, off, false);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	(void)fi;
	list_directory(req, ino, size, off, true);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fi;
	(void)fuse_reply_err(req, 0);
}

/* --- opening --- */

static void open_text(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi, const struct node *nd,
		      const struct view *v)
{
	struct handle *h = handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);

	if (!h->have_text) {
		render_node(nd, v, &h->text);
		h->have_text = true;
	}
	(void)fuse_reply_open(req, fi);
}

/* A document that was asked of the journal, for an OPEN or (opened by an earlier worker) a READ. */
struct doc_wait {
	struct fsys *fs;
	struct parked *p; /* NULL: who asked is gone */
	uint64_t fh;
	bool opening;
};

static void have_doc(void *arg, int code, const char *text, size_t len)
{
	struct doc_wait *w = arg;
	struct parked *p = w->p;
	struct fuse_file_info fi = { .fh = w->fh, .direct_io = 1 };

	if (p) {
		struct fsys *fs = w->fs;
		struct handle *h = p->h;
		uint64_t off = p->off;
		size_t size = p->size;
		fuse_req_t req = unpark(p);

		if (code < 0 && code != -ENOENT) {
			if (w->opening)
				handle_free(fs, h);
			(void)fuse_reply_err(req, -code);
		} else {
			strbuf_reset(&h->text);
			strbuf_add(&h->text, text, len);
			h->have_text = true;
			if (w->opening)
				(void)fuse_reply_open(req, &fi);
			else
				reply_slice(req, &h->text, off, size);
		}
	}
	free(w);
}

static void drop_doc(struct parked *p)
{
	struct doc_wait *w = (struct doc_wait *)(uintptr_t)p->user;

	w->p = NULL;
	if (w->opening)
		handle_free(w->fs, p->h);
}

static void ask_doc(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size, bool opening)
{
	struct doc_wait *w = xmalloc(sizeof(*w));
	struct parked *p = park(fs, req, h, h->run, NULL);

	*w = (struct doc_wait){ fs, p, h->fh, opening };
	p->off = off;
	p->size = size;
	p->user = (uintptr_t)w;
	p->drop = drop_doc;
	park_for_journal(p);
	if (park_interruptible(p))
		engine_doc(fs->en, h->run, h->nd->name, have_doc, w);
	else
		free(w);
}

/* A document of the journal; a draft has none yet and reads as empty. */
static void open_stored(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi, const struct view *v)
{
	struct handle *h = handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);

	if (v->run->status != RUN_DRAFT) {
		ask_doc(fs, req, h, 0, 0, true);
		return;
	}
	h->have_text = true;
	(void)fuse_reply_open(req, fi);
}

static void open_conv(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi)
{
	struct handle *h = handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);

	if (!h->conv)
		h->conv = conv_open(fs, h, false);
	if (!h->conv) {
		handle_free(fs, h);
		(void)fuse_reply_err(req, ENFILE);
		return;
	}
	fi->nonseekable = 1;
	session_stream(fs->session);
	(void)fuse_reply_open(req, fi);
}

static bool wants_write(const struct fuse_file_info *fi)
{
	return (fi->flags & O_ACCMODE) != O_RDONLY;
}

static void open_plain(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi, int rc)
{
	if (rc < 0) {
		reply_rc(req, rc);
		return;
	}
	(void)handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);
	(void)fuse_reply_open(req, fi);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	struct view v;
	const struct node *nd = node_of(fs, ino, &v);
	bool writes = wants_write(fi);

	fi->fh = session_unique(fs->session);
	fi->direct_io = 1;
	if (!fsys_allowed(fs, req)) {
		(void)fuse_reply_err(req, EACCES);
		return;
	}
	if (area_is(ino)) {
		area_open(fs, req, ino, fi);
		return;
	}
	if (ino_kind(ino) == INO_SET_WAIT || ino_kind(ino) == INO_SET_ANY) {
		fi->nonseekable = 1;
		(void)handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);
		(void)fuse_reply_open(req, fi);
		return;
	}
	if (!nd || (writes && !(nd->mode & 0200))) {
		(void)fuse_reply_err(req, nd ? EPERM : ENOENT);
		return;
	}
	switch (nd->class) {
	case NODE_DOC:
	case NODE_LEASE:
		open_text(fs, req, ino, fi, nd, &v);
		break;
	case NODE_SPEC:
		if (writes)
			open_conv(fs, req, ino, fi);
		else
			open_stored(fs, req, ino, fi, &v);
		break;
	case NODE_STORED:
		open_stored(fs, req, ino, fi, &v);
		break;
	case NODE_CONV:
		open_conv(fs, req, ino, fi);
		break;
	case NODE_PROBE:
		probe_open(fs, req, handle_new(fs, fi->fh, ino, (uint32_t)fi->flags));
		break;
	case NODE_INNER:
		inner_open(fs, req, handle_new(fs, fi->fh, ino, (uint32_t)fi->flags));
		break;
	case NODE_READY:
	case NODE_WAIT:
		if (v.run->status == RUN_DRAFT) {
			(void)fuse_reply_err(req, EBUSY);
			break;
		}
		/* fall through */
	case NODE_FOLLOW:
		fi->nonseekable = 1;
		(void)handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);
		(void)fuse_reply_open(req, fi);
		break;
	case NODE_GROW:
		grow_open(fs, v.run, nd->stream, fi);
		open_plain(fs, req, ino, fi, 0);
		break;
	case NODE_CONTEXT:
		open_plain(fs, req, ino, fi, writes && fi->flags & O_TRUNC ? context_truncate(fs, v.run, 0) : 0);
		break;
	default:
		(void)handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);
		(void)fuse_reply_open(req, fi);
	}
}

/* --- reading and writing --- */

static void read_text(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	struct view v;
	const struct node *nd = node_of(fs, h->ino, &v);

	bool news = nd && (nd->flags & NODE_APPENDS);

	if ((!h->have_text || news) && nd &&
	    (nd->class == NODE_DOC || nd->class == NODE_LEASE)) { /* opened by an earlier worker, or growing */
		strbuf_reset(&h->text);
		render_node(nd, &v, &h->text);
		h->have_text = true;
	}
	reply_slice(req, &h->text, off, size);
}

static void read_stored(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	if (h->have_text)
		reply_slice(req, &h->text, off, size);
	else
		ask_doc(fs, req, h, off, size, false);
}

static void read_context(struct fsys *fs, fuse_req_t req, const struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);

	if (r)
		context_read(fs, req, r, off, size);
	else
		(void)fuse_reply_err(req, ENOENT);
}

static void write_context(struct fsys *fs, fuse_req_t req, const struct handle *h, const char *buf, size_t size,
			  uint64_t off)
{
	const struct run *r = engine_run(fs->en, h->run);
	int rc = r ? context_write(fs, r, buf, size, off) : -ENOENT;

	if (rc < 0)
		reply_rc(req, rc);
	else
		(void)fuse_reply_write(req, size);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	struct handle *h = handle_get(fs, fi, ino);
	uint64_t off = (uint64_t)offset;

	h->flags = (h->flags & ~(uint32_t)O_NONBLOCK) |
		   ((uint32_t)fi->flags & O_NONBLOCK); /* F_SETFL may have changed it */
	if (area_is(ino)) {
		area_read(fs, req, h, off, size);
	} else if (!h->nd) {
		if (ino_kind(ino) == INO_SET_WAIT || ino_kind(ino) == INO_SET_ANY)
			set_read(fs, req, h, off, size);
		else
			(void)fuse_reply_err(req, ENOENT);
	} else if (h->conv) {
		conv_read(fs, req, h, size);
	} else {
		switch (h->nd->class) {
		case NODE_GROW:
			grow_read(fs, req, h, off, size);
			break;
		case NODE_FOLLOW:
			follow_read(fs, req, h, off, size);
			break;
		case NODE_WAIT:
			wait_read(fs, req, h, off, size);
			break;
		case NODE_INNER:
			inner_read(fs, req, h, off, size);
			break;
		case NODE_READY:
			inner_ready_read(fs, req, h, off, size);
			break;
		case NODE_CTL:
			ctl_read(fs, req, h, off, size);
			break;
		case NODE_SPEC:
		case NODE_STORED:
			read_stored(fs, req, h, off, size);
			break;
		case NODE_PROBE:
			probe_read(fs, req, h, off, size);
			break;
		case NODE_FEED:
			feed_read(fs, req, off, size);
			break;
		case NODE_CONTEXT:
			read_context(fs, req, h, off, size);
			break;
		default:
			read_text(fs, req, h, off, size);
		}
	}
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	struct handle *h = handle_get(fs, fi, ino);

	if (area_is(ino))
		area_write(fs, req, h, buf, size, (uint64_t)off);
	else if (h->conv)
		conv_write(fs, req, h, buf, size);
	else if (h->nd && h->nd->class == NODE_CTL)
		ctl_write(fs, req, h, buf, size);
	else if (ino_kind(ino) == INO_LEASE)
		lease_write(fs, req, ino, buf, size);
	else if (h->nd && h->nd->class == NODE_CONTEXT)
		write_context(fs, req, h, buf, size, (uint64_t)off);
	else
		(void)fuse_reply_err(req, EPERM);
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	struct handle *h = handle_get(fs, fi, ino);

	if (h->conv)
		conv_flush(fs, req, h);
	else
		(void)fuse_reply_err(req, 0);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	struct handle *h = handle_get(fs, fi, ino);

	(void)datasync;
	if (h->conv)
		conv_fsync(fs, req, h);
	else if (h->nd && h->nd->class == NODE_CTL)
		ctl_fsync(fs, req, h);
	else if (h->fd >= 0 && fsync(h->fd) < 0)
		(void)fuse_reply_err(req, errno);
	else
		(void)fuse_reply_err(req, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	struct handle *h = handle_get(fs, fi, ino);

	if (h->conv) {
		conv_release(fs, req, h);
		return;
	}
	if (session_replaying(fs->session))
		conv_remove_files(fs, fi->fh); /* an earlier worker may have died between its record and its files */
	handle_free(fs, h);
	(void)fuse_reply_err(req, 0);
}

static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	struct fsys *fs = fsys_of(req);
	struct handle *h = handle_get(fs, fi, ino);
	uint64_t kh = session_poll_kh(fs->session);
	struct shared_handle *sh;
	bool ready = handle_ready(fs, h, h->pos);

	if (kh && !ready) {
		sh = shared_handle_get(fs->shared, h->fh, true);
		if (sh) {
			fs->n_pollers += sh->poll_kh == 0;
			sh->ino = ino;
			sh->flags = h->flags;
			if (h->nd && h->nd->class == NODE_FOLLOW)
				sh->cursor = h->pos;
			sh->poll_kh = kh;
		}
	}
	if (ph)
		fuse_pollhandle_destroy(ph);
	/* A write never waits but for its own commit. */
	(void)fuse_reply_poll(req, (ready ? POLLIN | POLLRDNORM : 0u) | POLLOUT | POLLWRNORM);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	(void)ino;
	(void)nlookup;
	fuse_reply_none(req);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct fsys *fs = fsys_of(req);
	struct statvfs sv = { .f_bsize = 4096, .f_frsize = 4096, .f_namemax = 255 };

	(void)ino;
	sv.f_files = engine_count(fs->en);
	(void)fuse_reply_statfs(req, &sv);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->max_write = SHARED_MAX_WRITE;
	conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

const struct fuse_lowlevel_ops fuse_ops = {
	.init = op_init,
	.lookup = op_lookup,
	.forget = op_forget,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.readlink = op_readlink,
	.mkdir = change_mkdir,
	.rmdir = change_rmdir,
	.unlink = change_unlink,
	.rename = change_rename,
	.symlink = change_symlink,
	.link = change_link,
	.mknod = change_mknod,
	.create = change_create,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.flush = op_flush,
	.fsync = op_fsync,
	.release = op_release,
	.opendir = op_opendir,
	.readdir = op_readdir,
	.readdirplus = op_readdirplus,
	.releasedir = op_releasedir,
	.poll = op_poll,
	.statfs = op_statfs,
};
