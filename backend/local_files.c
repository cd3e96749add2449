/*
 * Directories and bytes of local runs. Paths are resolved beneath the area and nowhere else (openat2(2)
 * RESOLVE_BENEATH), so a link that a job made cannot lead out of it.
 */
#include "backend/local.h"

#include "backend/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define LIST_MAX 100000

static int beneath(int dir, const char *path, uint64_t flags)
{
	struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	long fd = syscall(SYS_openat2, dir, *path ? path : ".", &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* Where scratch is elsewhere the area is a link to there; a link that a job put in its place leads nowhere. */
static int area_dir(const struct cluster *c, const struct creq *r)
{
	const char *area = cluster_area_path(r->area);
	cleanup_free char *base = local_base(c, r), *scratch = local_scratch(c, r->job, r->run, r->attempt);
	cleanup_free char *path = xasprintf("%s/runs/%u/a%u/%s", base, r->run, r->attempt, area);
	cleanup_free char *other = scratch ? xasprintf("%s/%s", scratch, area) : NULL;
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 && (errno == ELOOP || errno == ENOTDIR) && other)
		fd = open(other, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void local_read(struct cluster *c, const struct creq *r)
{
	cleanup_close int dir = area_dir(c, r);
	size_t want = r->length > 4 * 1024 * 1024 ? 4 * 1024 * 1024 : (size_t)r->length, have = 0;
	cleanup_free char *buf = NULL;
	struct stat st;
	int fd, rc = 0;

	fd = dir < 0 ? dir : beneath(dir, r->path, O_RDONLY | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		local_reply(c, r, fd < 0 ? fd : -ENOENT, "the file cannot be opened", NULL, 0);
		if (fd >= 0)
			(void)close(fd);
		return;
	}
	buf = xmalloc(want + 1);
	while (have < want) {
		ssize_t n = pread(fd, buf + have, want - have, (off_t)(r->offset + have));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && !have)
			rc = -errno;
		if (n <= 0)
			break;
		have += (size_t)n;
	}
	(void)close(fd);
	local_reply(c, r, rc, rc ? "the file cannot be read" : NULL, buf, have);
}

/* One record as documented in cluster.h; other kinds of files are left out. */
static void add_record(struct strbuf *out, int dir, const char *name, const char *shown)
{
	char target[4096] = "", type;
	struct stat st;
	ssize_t n;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	type = S_ISREG(st.st_mode) ? 'f' : S_ISDIR(st.st_mode) ? 'd' : S_ISLNK(st.st_mode) ? 'l' : 0;
	if (!type)
		return;
	if (type == 'l') {
		n = readlinkat(dir, name, target, sizeof(target) - 1);
		if (n < 0)
			return;
		target[n] = '\0';
	}
	strbuf_addf(out, "%c%c%lld%c%lld.%09ld%c%o%c%s%c%s%c", type, 0, (long long)st.st_size, 0,
		    (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec, 0, (unsigned)(st.st_mode & 0777), 0, shown, 0,
		    target, 0);
}

/* The entries of one open directory (closed here); directories among them are added to `more` when it is given. */
static size_t scan(int fd, const char *prefix, struct strbuf *out, struct strbuf *more)
{
	DIR *d = fdopendir(fd);
	struct dirent *de;
	size_t n = 0;

	if (!d) {
		(void)close(fd);
		return 0;
	}
	while ((de = readdir(d)) && n < LIST_MAX) {
		cleanup_free char *shown = NULL;
		struct stat st;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
			continue;
		shown = *prefix ? xasprintf("%s/%s", prefix, de->d_name) : xstrdup(de->d_name);
		add_record(out, dirfd(d), de->d_name, shown);
		n++;
		if (more && fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
			strbuf_add(more, shown, strlen(shown) + 1);
	}
	(void)closedir(d);
	return n;
}

void local_list(struct cluster *c, const struct creq *r)
{
	cleanup_close int dir = area_dir(c, r);
	struct strbuf out = STRBUF_INIT;
	int fd = dir < 0 ? dir : beneath(dir, r->path, O_RDONLY | O_DIRECTORY);

	if (fd < 0) {
		local_reply(c, r, fd, "the directory cannot be opened", NULL, 0);
		return;
	}
	(void)scan(fd, "", &out, NULL);
	local_reply(c, r, 0, NULL, out.buf, out.len);
	strbuf_release(&out);
}

/* The whole tree of results; the list of directories still to be looked at replaces recursion. */
void local_manifest(struct cluster *c, const struct creq *r)
{
	cleanup_close int dir = area_dir(c, r);
	struct strbuf out = STRBUF_INIT, todo = STRBUF_INIT;
	size_t at = 0, n = 0;

	if (dir < 0) {
		local_reply(c, r, dir == -ENOENT ? 0 : dir, "results cannot be listed", "", 0);
		return;
	}
	strbuf_add(&todo, "", 1);
	while (at < todo.len && n < LIST_MAX) {
		cleanup_free char *sub = xstrdup(todo.buf + at);
		int fd = beneath(dir, sub, O_RDONLY | O_DIRECTORY);

		at += strlen(sub) + 1;
		if (fd >= 0)
			n += scan(fd, sub, &out, &todo);
	}
	local_reply(c, r, 0, NULL, out.buf, out.len);
	strbuf_release(&out);
	strbuf_release(&todo);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	(void)remove(path);
	return 0;
}

void local_remove_tree(const char *path)
{
	(void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void local_remove(struct cluster *c, const struct creq *r)
{
	cleanup_free char *base = local_base(c, r), *dir = xasprintf("%s/runs/%u", base, r->run);

	for (uint32_t a = 1; a <= r->attempt; a++) {
		cleanup_free char *end = xasprintf("%s/ends/%u.a%u", base, r->run, a);
		cleanup_free char *scratch = local_scratch(c, r->job, r->run, a);

		(void)unlink(end);
		if (!scratch)
			continue;
		local_remove_tree(scratch);
		*strrchr(scratch, '/') = '\0';
		(void)rmdir(scratch);
	}
	local_remove_tree(dir);
}

/* --- copying inputs --- */

static int copy_file(const char *from, const char *to, const struct stat *st)
{
	cleanup_close int in = open(from, O_RDONLY | O_CLOEXEC);
	cleanup_close int out = -1;
	struct timespec times[2] = { st->st_atim, st->st_mtim };
	cleanup_free char *buf = NULL;
	ssize_t n;

	if (in < 0)
		return -errno;
	out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, st->st_mode & 0777);
	if (out < 0)
		return -errno;
	buf = xmalloc(256 * 1024);
	while ((n = read(in, buf, 256 * 1024)) > 0) {
		ssize_t put = write(out, buf, (size_t)n);

		if (put != n)
			return put < 0 ? -errno : -ENOSPC;
	}
	(void)futimens(out, times);
	return n < 0 ? -errno : 0;
}

static int copy_entry(const char *from, const char *to, const struct stat *st)
{
	char target[4096];
	ssize_t n;

	if (S_ISDIR(st->st_mode))
		return mkdir(to, (st->st_mode & 0777) | 0700) < 0 && errno != EEXIST ? -errno : 0;
	if (S_ISLNK(st->st_mode)) {
		n = readlink(from, target, sizeof(target) - 1);
		if (n < 0)
			return -errno;
		target[n] = '\0';
		return symlink(target, to) < 0 && errno != EEXIST ? -errno : 0;
	}
	return S_ISREG(st->st_mode) ? copy_file(from, to, st) : 0;
}

int local_copy_tree(const char *from, const char *to, struct err *e)
{
	struct strbuf todo = STRBUF_INIT;
	size_t at = 0;
	int rc = 0;

	strbuf_add(&todo, "", 1);
	while (rc == 0 && at < todo.len) {
		cleanup_free char *rel = xstrdup(todo.buf + at);
		cleanup_free char *src = xasprintf("%s%s", from, rel), *dst = xasprintf("%s%s", to, rel);
		struct dirent *de;
		struct stat st;
		DIR *d = NULL;

		at += strlen(rel) + 1;
		rc = (*rel ? lstat(src, &st) : stat(src, &st)) < 0 ? -errno : copy_entry(src, dst, &st);
		if (rc < 0)
			err_sys(e, rc, "cannot copy %s to %s", src, dst);
		else if (S_ISDIR(st.st_mode) && !(d = opendir(src)))
			rc = err_sys(e, -errno, "cannot read %s", src);
		while (d && (de = readdir(d))) {
			if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
				continue;
			strbuf_addf(&todo, "%s/%s", rel, de->d_name);
			strbuf_add(&todo, "", 1);
		}
		if (d)
			(void)closedir(d);
	}
	strbuf_release(&todo);
	return rc;
}
