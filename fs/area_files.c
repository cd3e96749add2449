/*
 * files/: what a run is given. A plain local directory, STATE/files/NUM, which may be changed while the run is a draft
 * and is read-only afterwards. Users name nothing outside it: names come from the kernel one component at a time, and
 * links are not followed.
 */
#include "fs/area.h"

#include "backend/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* STATE/files/NUM/PATH; makes STATE/files/NUM when it is not there and a draft wants it. */
static char *local(struct fsys *fs, const struct spot *s, const char *path)
{
	struct strbuf sb = STRBUF_INIT;

	engine_files_dir(fs->en, s->r->num, &sb);
	if (s->r->status == RUN_DRAFT) {
		cleanup_free char *all = xasprintf("%s/files", fs->state_dir);

		(void)mkdir(all, 0700);
		(void)mkdir(sb.buf, 0700);
	}
	if (*path)
		strbuf_addf(&sb, "/%s", path);
	return strbuf_detach(&sb, NULL);
}

static int writable(const struct spot *s)
{
	return s->r->status == RUN_DRAFT ? 0 : -EPERM;
}

static bool plain_type(mode_t m)
{
	return S_ISREG(m) || S_ISDIR(m) || S_ISLNK(m);
}

int files_lookup(struct fsys *fs, struct spot *s, const char *path, uint64_t *ino)
{
	cleanup_free char *full = local(fs, s, path);
	struct pentry *e;
	struct stat st;

	if (lstat(full, &st) < 0)
		return -errno;
	if (!plain_type(st.st_mode))
		return -ENOENT;
	e = paths_add(s->p, 'f', path);
	if (!e)
		return -ENOSPC;
	*ino = area_ino(s, e);
	return 0;
}

/* A file that was removed while it is open. */
static int stat_open(const struct fsys *fs, uint64_t ino, struct stat *st)
{
	for (struct hmap_node *n = hmap_walk(&fs->handles, NULL); n; n = hmap_walk(&fs->handles, n)) {
		const struct handle *h = container_of(n, struct handle, node);

		if (h->ino == ino && h->fd >= 0)
			return fstat(h->fd, st) < 0 ? -errno : 0;
	}
	return -ENOENT;
}

int files_stat(struct fsys *fs, struct spot *s, struct stat *out)
{
	cleanup_free char *full = local(fs, s, s->path);
	bool draft = s->r->status == RUN_DRAFT;
	struct stat st;

	if (lstat(full, &st) < 0 && (!s->e || stat_open(fs, area_ino(s, s->e), &st) < 0)) {
		if (s->e)
			return -ENOENT;
		out->st_mode = S_IFDIR | 0555; /* a run without files has an empty directory */
		out->st_nlink = 2;
		out->st_mtim.tv_sec = s->r->t_created / USEC_PER_SEC;
		return 0;
	}
	out->st_mode = st.st_mode & ~(mode_t)(S_ISUID | S_ISGID | S_ISVTX);
	if (!s->e)
		out->st_mode = S_IFDIR | 0755;
	if (!draft && !S_ISLNK(st.st_mode))
		out->st_mode &= ~(mode_t)0222;
	out->st_nlink = S_ISDIR(st.st_mode) ? 2 : st.st_nlink;
	out->st_size = S_ISDIR(st.st_mode) ? 0 : st.st_size;
	out->st_blocks = st.st_blocks;
	out->st_mtim = st.st_mtim;
	out->st_atim = st.st_atim;
	out->st_ctim = st.st_ctim;
	return 0;
}

void files_scan(struct fsys *fs, struct spot *s)
{
	cleanup_free char *full = local(fs, s, s->path);
	struct strbuf path = STRBUF_INIT;
	DIR *d = opendir(full);
	struct dirent *de;

	for (size_t i = 0; i < s->p->n; i++)
		if (s->p->entries[i]->area == 'f')
			s->p->entries[i]->known = false;
	while (d && (de = readdir(d))) {
		struct pentry *e;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		strbuf_reset(&path);
		area_join(&path, s->path, de->d_name);
		e = paths_add(s->p, 'f', path.buf);
		if (e)
			e->known = true;
	}
	if (d)
		(void)closedir(d);
	strbuf_release(&path);
}

int files_readlink(struct fsys *fs, struct spot *s, struct strbuf *out)
{
	cleanup_free char *full = local(fs, s, s->path);
	char buf[4096];
	ssize_t n = readlink(full, buf, sizeof(buf));

	if (n < 0)
		return -errno;
	strbuf_add(out, buf, (size_t)n);
	return 0;
}

static int open_local(struct fsys *fs, struct spot *s, int flags)
{
	cleanup_free char *full = local(fs, s, s->path);
	int fd = open(full, (flags & (O_ACCMODE | O_TRUNC)) | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int files_open(struct fsys *fs, struct spot *s, struct handle *h, int flags)
{
	int rc = (flags & (O_ACCMODE | O_TRUNC)) != O_RDONLY ? writable(s) : 0;

	if (rc == 0 && h->fd < 0)
		rc = h->fd = open_local(fs, s, flags);
	return rc < 0 ? rc : 0;
}

/* The descriptor of a handle that an earlier worker opened; truncation was done then. */
static int local_fd(struct fsys *fs, struct spot *s, struct handle *h)
{
	if (h->fd < 0)
		h->fd = open_local(fs, s, (int)h->flags & ~O_TRUNC);
	return h->fd;
}

void files_read(struct fsys *fs, fuse_req_t req, struct spot *s, struct handle *h, uint64_t off, size_t size)
{
	static char buf[SHARED_MAX_WRITE * 8];
	int fd = local_fd(fs, s, h);
	ssize_t n;

	if (size > sizeof(buf))
		size = sizeof(buf);
	n = fd < 0 ? fd : pread(fd, buf, size, (off_t)off);
	if (n < 0)
		(void)fuse_reply_err(req, fd < 0 ? -fd : errno);
	else
		(void)fuse_reply_buf(req, buf, (size_t)n);
}

void area_write(struct fsys *fs, fuse_req_t req, struct handle *h, const char *data, size_t len, uint64_t off)
{
	struct spot s;
	ssize_t n;
	int fd;

	if (!area_at(fs, h->ino, &s) || !s.e || s.area != 'f') {
		(void)fuse_reply_err(req, EPERM);
		return;
	}
	if (writable(&s) < 0) {
		(void)fuse_reply_err(req, EPERM);
		return;
	}
	fd = local_fd(fs, &s, h);
	n = fd < 0 ? fd : pwrite(fd, data, len, (off_t)off);
	if (n < 0)
		(void)fuse_reply_err(req, fd < 0 ? -fd : errno);
	else
		(void)fuse_reply_write(req, (size_t)n);
}

/* --- changing the directory of a draft --- */

/* Where NAME in `parent` is on this disk; the caller frees *full and *path. */
static int place(struct fsys *fs, uint64_t parent, const char *name, struct spot *s, char **path, char **full)
{
	struct strbuf sb = STRBUF_INIT;
	int rc;

	*path = *full = NULL;
	if (!area_at(fs, parent, s))
		return -ENOENT;
	if (s->area != 'f')
		return -EPERM;
	rc = writable(s);
	if (rc < 0)
		return rc;
	area_join(&sb, s->path, name);
	*path = strbuf_detach(&sb, NULL);
	*full = local(fs, s, *path);
	return 0;
}

static int made(struct spot *s, const char *path, uint64_t *ino)
{
	struct pentry *e = paths_add(s->p, 'f', path);

	if (!e)
		return -ENOSPC;
	*ino = area_ino(s, e);
	return 0;
}

int area_create(struct fsys *fs, uint64_t parent, const char *name, mode_t mode, int flags, uint64_t fh, uint64_t *ino)
{
	cleanup_free char *path = NULL, *full = NULL;
	struct handle *h;
	struct stat st;
	struct spot s;
	int rc = place(fs, parent, name, &s, &path, &full), fd;
	bool there;

	if (rc < 0)
		return rc;
	/* A replayed CREATE finds the file that it made. */
	if (session_replaying(fs->session))
		flags &= ~O_EXCL;
	there = lstat(full, &st) == 0;
	fd = open(full, (flags & (O_ACCMODE | O_TRUNC | O_EXCL)) | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (!there)
		(void)fchmod(fd, (mode & 0777) | 0600); /* the caller's umask is in it, ours is not asked */
	rc = made(&s, path, ino);
	if (rc < 0) {
		(void)close(fd);
		return rc;
	}
	h = handle_new(fs, fh, *ino, (uint32_t)(flags & ~(O_CREAT | O_EXCL | O_TRUNC)));
	h->fd = fd;
	return 0;
}

int area_mkdir(struct fsys *fs, uint64_t parent, const char *name, mode_t mode, uint64_t *ino)
{
	cleanup_free char *path = NULL, *full = NULL;
	struct spot s;
	int rc = place(fs, parent, name, &s, &path, &full);

	if (rc < 0)
		return rc;
	if (mkdir(full, 0700) < 0 && !(errno == EEXIST && session_replaying(fs->session)))
		return -errno;
	(void)chmod(full, (mode & 0777) | 0700);
	return made(&s, path, ino);
}

int area_unlink(struct fsys *fs, uint64_t parent, const char *name, bool dir)
{
	cleanup_free char *path = NULL, *full = NULL;
	struct pentry *e;
	struct spot s;
	int rc = place(fs, parent, name, &s, &path, &full);

	if (rc < 0)
		return rc;
	if ((dir ? rmdir(full) : unlink(full)) < 0 && !(errno == ENOENT && session_replaying(fs->session)))
		return -errno;
	e = paths_find(s.p, 'f', path);
	return e ? paths_remove(s.p, e) : 0;
}

int area_rename(struct fsys *fs, uint64_t parent, const char *name, uint64_t to, const char *new_name, unsigned flags)
{
	cleanup_free char *path = NULL, *full = NULL, *path2 = NULL, *full2 = NULL;
	struct spot s, s2;
	struct pentry *e;
	int rc = place(fs, parent, name, &s, &path, &full);

	if (rc == 0)
		rc = place(fs, to, new_name, &s2, &path2, &full2);
	if (rc < 0)
		return rc;
	if (s.r != s2.r)
		return -EXDEV;
	if (flags & ~(unsigned)RENAME_NOREPLACE)
		return -EINVAL;
	if (renameat2(AT_FDCWD, full, AT_FDCWD, full2, flags) < 0)
		return errno == ENOENT && session_replaying(fs->session) ? 0 : -errno;
	e = paths_find(s.p, 'f', path);
	return e ? paths_move(s.p, e, path2) : 0;
}

int area_symlink(struct fsys *fs, uint64_t parent, const char *name, const char *target, uint64_t *ino)
{
	cleanup_free char *path = NULL, *full = NULL;
	struct spot s;
	int rc = place(fs, parent, name, &s, &path, &full);

	if (rc < 0)
		return rc;
	if (symlink(target, full) < 0 && !(errno == EEXIST && session_replaying(fs->session)))
		return -errno;
	return made(&s, path, ino);
}

int area_link(struct fsys *fs, uint64_t ino, uint64_t parent, const char *name, uint64_t *out)
{
	cleanup_free char *path = NULL, *full = NULL, *from = NULL;
	struct spot s, target;
	int rc = place(fs, parent, name, &s, &path, &full);

	if (rc < 0)
		return rc;
	if (!area_at(fs, ino, &target) || !target.e)
		return -ENOENT;
	if (target.r != s.r || target.area != 'f')
		return -EXDEV;
	from = local(fs, &target, target.path);
	if (linkat(AT_FDCWD, from, AT_FDCWD, full, 0) < 0 && !(errno == EEXIST && session_replaying(fs->session)))
		return -errno;
	return made(&s, path, out);
}

static bool is_directory(const char *full)
{
	struct stat st;

	return lstat(full, &st) == 0 && S_ISDIR(st.st_mode);
}

int area_setattr(struct fsys *fs, uint64_t ino, const struct stat *st, int to_set, const struct handle *h)
{
	cleanup_free char *full = NULL;
	struct timespec ts[2] = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } };
	struct spot s;

	if (!area_at(fs, ino, &s))
		return -ENOENT;
	if (s.area != 'f' || writable(&s) < 0)
		return -EPERM;
	full = local(fs, &s, s.path);
	/* What is here must be shipped and can be purged, whatever its modes. */
	if ((to_set & FUSE_SET_ATTR_MODE) && chmod(full, (st->st_mode & 0777) | (is_directory(full) ? 0700 : 0400)) < 0)
		return -errno;
	if (to_set & FUSE_SET_ATTR_SIZE) {
		int bad = h && h->fd >= 0 ? ftruncate(h->fd, st->st_size) : truncate(full, st->st_size);

		if (bad < 0)
			return -errno;
	}
	if (!(to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)))
		return 0; /* the NOW forms come with these */
	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		ts[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		ts[0] = st->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		ts[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		ts[1] = st->st_mtim;
	if (utimensat(AT_FDCWD, full, ts, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0; /* owner and group are the mounting user's; a change of them is accepted without effect, as cp -a
		     wants */
}
