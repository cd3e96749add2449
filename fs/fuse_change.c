/*
 * Requests that make, rename or remove something: drafts and purges in runs/, anything in files/ of a draft, and EPERM
 * everywhere else: files of a run go with its directory, as in cgroup. What waits for a commit cannot be interrupted,
 * and is answered with ETIMEDOUT when the journal takes too long; the kernel keeps the directory locked meanwhile.
 */
#include "fs/fuse_ll.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

/* A MKDIR or RMDIR that waits for its commit; it cannot be interrupted. */
struct change {
	struct fsys *fs;
	struct parked *p; /* NULL: answered with ETIMEDOUT */
	char *name;
};

static void change_free(struct change *c)
{
	journal_answered(c->fs);
	free(c->name);
	free(c);
}

static void draft_made(void *arg, int code, const char *text)
{
	struct change *c = arg;
	const struct run *r = engine_run_by_id(c->fs->en, c->name);

	(void)text;
	if (code == 0 && !r)
		code = -ENOENT;
	if (c->p)
		reply_entry(c->fs, unpark(c->p), code, r ? ino_make(INO_RUN, r->num, RUN_ROW_DIR) : 0);
	change_free(c);
}

static void session_made(void *arg, int code, const char *text)
{
	struct change *c = arg;
	const struct run *r = code == 0 ? engine_run_by_id(c->fs->en, text) : NULL;

	if (code == 0 && !r)
		code = -ENOENT;
	if (c->p)
		reply_entry(c->fs, unpark(c->p), code, r ? session_ino(r) : 0);
	change_free(c);
}

static void note_refused(struct fsys *fs, uint32_t uid, const char *what, const char *why);

static void purged(void *arg, int code, const char *text)
{
	struct change *c = arg;
	cleanup_free char *what = xasprintf("rmdir %s", c->name);

	if (c->p && code == -EBUSY)
		note_refused(c->fs, fuse_req_ctx(c->p->req)->uid, what, text);
	if (c->p)
		reply_rc(unpark(c->p), code);
	change_free(c);
}

static void drop_change(struct parked *p)
{
	struct change *c = (struct change *)(uintptr_t)p->user;

	c->p = NULL;
}

static struct change *change_new(struct fsys *fs, fuse_req_t req, const char *name)
{
	struct change *c = xcalloc(1, sizeof(*c));

	c->fs = fs;
	c->name = xstrdup(name);
	c->p = park(fs, req, NULL, 0, NULL);
	c->p->uninterruptible = true;
	c->p->user = (uintptr_t)c;
	c->p->drop = drop_change;
	journal_asked(fs);
	park_for_journal(c->p);
	return c;
}

static bool is_runs(uint64_t ino)
{
	return ino_kind(ino) == INO_FIXED && ino_row(ino) == FIXED_RUNS;
}

static bool is_sessions(uint64_t ino)
{
	return ino_kind(ino) == INO_FIXED && ino_row(ino) == FIXED_SESSIONS;
}

/* --- what is refused, in words --- */

/* Files that editors make beside the one that they edit, and do without. */
static bool is_helper(const char *name)
{
	size_t len = strlen(name);
	bool swap = len > 4 && strcmp(name + len - 4, ".swp") == 0;

	return *name == '.' || *name == '#' || name[len - 1] == '~' || swap || !name[strspn(name, "0123456789")];
}

/* The names that are written to in `parent`, the only ones that somebody may want to replace. */
static bool is_written(uint64_t parent, const char *name)
{
	return is_runs(parent) ? strcmp(name, "new") == 0 || strcmp(name, "check") == 0 : strcmp(name, "spec") == 0;
}

static bool is_run(uint64_t ino)
{
	return ino_kind(ino) == INO_RUN && ino_row(ino) == RUN_ROW_DIR;
}

/* Rows about EPERM and rmdir: so many in a row, later one in EPERM_EVERY_US. A loop that tries for ever would fill the
 * journal.
 */
#define EPERM_BURST 20
#define EPERM_EVERY_US (5 * USEC_PER_SEC)

static void note_refused(struct fsys *fs, uint32_t uid, const char *what, const char *why)
{
	int64_t now = clock_mono(fs->clock);
	cleanup_free char *text = NULL;

	if (fs->eperm_at - now > (EPERM_BURST - 1) * EPERM_EVERY_US) {
		fs->eperm_more++;
		return;
	}
	fs->eperm_at = (fs->eperm_at > now ? fs->eperm_at : now) + EPERM_EVERY_US;
	text = fs->eperm_more ? xasprintf("%s (%u more before it have no row)", why, fs->eperm_more) : xstrdup(why);
	fs->eperm_more = 0;
	engine_note_rejected(fs->en, uid, what, strlen(what), text);
}

/*
 * EPERM tells nobody what would have been right: a row in `errors` does, for runs/ and for drafts, where people expect
 * that files can be made. Removing a run's files has none: `rm -r` of a run tries them all.
 */
static int refused(fuse_req_t req, fuse_ino_t parent, const char *name, bool making)
{
	struct fsys *fs = fsys_of(req);
	const struct run *r = is_run(parent) ? engine_run(fs->en, ino_number(parent)) : NULL;
	bool draft = r && r->status == RUN_DRAFT;
	cleanup_free char *dir = r ? xasprintf("runs/%s", r->id) : xstrdup("runs");
	cleanup_free char *what = xasprintf("%s/%s", dir, name), *why = NULL;

	if (is_helper(name) || (!is_runs(parent) && !draft))
		return -EPERM;
	if (is_written(parent, name))
		why = xasprintf("%s cannot be removed or replaced: write into it, as `cat FILE > %s` does", what, what);
	else if (making && draft)
		why = xasprintf("%s: inputs of a draft go into its directory files/, as %s/files/%s", what, dir, name);
	else if (making)
		why = xasprintf(
			"%s: there are no files in runs/ but those of the tree: write a spec to runs/new, as `cat FILE > "
			"runs/new` does, or make a draft with mkdir",
			what);
	if (why)
		note_refused(fs, fuse_req_ctx(req)->uid, what, why);
	return -EPERM;
}

/* --- requests --- */

void change_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct fsys *fs = fsys_of(req);
	uint64_t ino = 0;

	if (!fsys_allowed(fs, req)) {
		(void)fuse_reply_err(req, EPERM);
	} else if (is_runs(parent)) {
		engine_draft(fs->en, name, session_unique(fs->session), draft_made, change_new(fs, req, name));
	} else if (is_sessions(parent)) {
		engine_session_draft(fs->en, name, session_unique(fs->session), session_made,
				     change_new(fs, req, name));
	} else if (area_is(parent)) {
		int rc = area_mkdir(fs, parent, name, mode, &ino);

		reply_entry(fs, req, rc, ino);
	} else {
		(void)fuse_reply_err(req, EPERM);
	}
}

void change_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fsys *fs = fsys_of(req);
	const struct run *r;

	if (!fsys_allowed(fs, req)) {
		(void)fuse_reply_err(req, EPERM);
		return;
	}
	if (area_is(parent)) {
		reply_rc(req, area_unlink(fs, parent, name, true));
		return;
	}
	if (!is_runs(parent) && !is_sessions(parent)) {
		(void)fuse_reply_err(req, EPERM);
		return;
	}
	r = is_runs(parent) ? engine_run_by_id(fs->en, name) : session_named(fs, name);
	/* Without a run this may be the same request again, after the commit: the engine knows. */
	engine_purge(fs->en, r ? r->num : 0, session_unique(fs->session), purged, change_new(fs, req, name));
}

void change_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fsys *fs = fsys_of(req);
	const struct run *r = NULL;

	if (ino_kind(parent) == INO_RUN && ino_row(parent) == RUN_ROW_DIR)
		r = engine_run(fs->en, ino_number(parent));
	if (!fsys_allowed(fs, req))
		(void)fuse_reply_err(req, EPERM);
	else if (lease_is_dir(parent))
		lease_unlink(fs, req, parent, name);
	else if (r && pipes_unlink(fs, r, name) != -EPERM)
		reply_rc(req, pipes_unlink(fs, r, name));
	else if (!area_is(parent))
		reply_rc(req,
			 refused(req, parent, name, false)); /* files of a run go with its directory, as in cgroup */
	else
		reply_rc(req, area_unlink(fs, parent, name, false));
}

void change_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *new_name,
		   unsigned int flags)
{
	struct fsys *fs = fsys_of(req);

	if (!fsys_allowed(fs, req))
		(void)fuse_reply_err(req, EPERM);
	else if (!area_is(parent) || !area_is(to))
		reply_rc(req, area_is(to) ? refused(req, parent, name, false) : refused(req, to, new_name, true));
	else
		reply_rc(req, area_rename(fs, parent, name, to, new_name, flags));
}

void change_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct fsys *fs = fsys_of(req);
	uint64_t out = 0;
	int rc = -EPERM;

	if (fsys_allowed(fs, req) && !area_is(parent))
		rc = refused(req, parent, name, true);
	else if (fsys_allowed(fs, req) && area_is(ino))
		rc = area_link(fs, ino, parent, name, &out);
	reply_entry(fs, req, rc, out);
}

/* Devices, sockets and pipes have no place here. */
void change_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
	(void)mode;
	(void)dev;
	reply_rc(req, fsys_allowed(fsys_of(req), req) && !area_is(parent) ? refused(req, parent, name, true) : -EPERM);
}

void change_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct fsys *fs = fsys_of(req);
	uint64_t ino = 0;
	int rc = -EPERM;

	if (fsys_allowed(fs, req))
		rc = area_is(parent) ? area_symlink(fs, parent, name, target, &ino) : refused(req, parent, name, true);
	reply_entry(fs, req, rc, ino);
}

void change_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct fsys *fs = fsys_of(req);
	struct fuse_entry_param ep;
	uint64_t ino = 0;
	int rc = -EPERM;

	memset(&ep, 0, sizeof(ep));
	fi->fh = session_unique(fs->session);
	fi->direct_io = 1;
	if (fsys_allowed(fs, req) && lease_is_dir(parent)) {
		lease_create(fs, req, parent, name, fi);
		return;
	}
	if (fsys_allowed(fs, req) && !area_is(parent))
		rc = refused(req, parent, name, true);
	else if (fsys_allowed(fs, req))
		rc = area_create(fs, parent, name, mode, fi->flags, fi->fh, &ino);
	if (rc == 0)
		rc = fill_entry(fs, ino, &ep);
	if (rc < 0) {
		reply_rc(req, rc);
		return;
	}
	fi->direct_io = 1;
	(void)fuse_reply_create(req, &ep, fi);
}
