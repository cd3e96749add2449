/*
 * For LD_PRELOAD: a disk that fails. While the file $DISK_ERROR holds an errno, whatever would change something below
 * $DISK_DIR fails with it; EIO fails fsync(2) as well, EROFS every open for writing and every removal. Reading goes on.
 * The test that needs it compiles it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The errno, or 0. Not by open(2), which is one of those that ask. */
static int wanted(void)
{
	const char *flag = getenv("DISK_ERROR");
	char text[16] = "";
	long fd, n;

	if (!flag)
		return 0;
	fd = syscall(SYS_openat, AT_FDCWD, flag, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = syscall(SYS_read, fd, text, sizeof(text) - 1);
	(void)syscall(SYS_close, fd);
	return n > 0 ? (int)strtol(text, NULL, 10) : 0;
}

static bool below(const char *path)
{
	const char *dir = getenv("DISK_DIR");
	size_t n = dir ? strlen(dir) : 0;

	return n && strncmp(path, dir, n) == 0 && path[n] == '/';
}

/* Sets errno when an operation on this path, or on this descriptor, is one that fails. */
static bool fails_at(int dirfd, const char *path)
{
	char link[64], full[PATH_MAX];
	int code = wanted();
	ssize_t n = 0;

	if (!code)
		return false;
	if (path && (*path == '/' || dirfd == AT_FDCWD)) {
		if (below(path))
			errno = code;
		return below(path);
	}
	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
	n = readlink(link, full, sizeof(full) - 1);
	full[n > 0 ? n : 0] = '\0';
	if (!below(full))
		return false;
	errno = code;
	return true;
}

static bool open_fails(int dirfd, const char *path, int flags)
{
	struct stat st;

	if ((flags & O_ACCMODE) == O_RDONLY && !(flags & O_CREAT))
		return false;
	if (wanted() != EROFS && (!(flags & O_CREAT) || fstatat(dirfd, path, &st, 0) == 0))
		return false;
	return fails_at(dirfd, path);
}

int open64(const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = va_arg(ap, mode_t);
	va_end(ap);
	return open_fails(AT_FDCWD, path, flags) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int openat64(int dirfd, const char *path, int flags, ...)
{
	va_list ap;
	mode_t mode;

	va_start(ap, flags);
	mode = va_arg(ap, mode_t);
	va_end(ap);
	return open_fails(dirfd, path, flags) ? -1 : (int)syscall(SYS_openat, dirfd, path, flags, mode);
}

ssize_t write(int fd, const void *buf, size_t len)
{
	return fails_at(fd, NULL) ? -1 : (ssize_t)syscall(SYS_write, fd, buf, len);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t off)
{
	return fails_at(fd, NULL) ? -1 : (ssize_t)syscall(SYS_pwrite64, fd, buf, len, off);
}

int fsync(int fd)
{
	return wanted() == EIO && fails_at(fd, NULL) ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	return wanted() == EIO && fails_at(fd, NULL) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int mkdir(const char *path, mode_t mode)
{
	struct stat st;

	if (stat(path, &st) == 0) {
		errno = EEXIST; /* what is there already is found before anything is written */
		return -1;
	}
	return fails_at(AT_FDCWD, path) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int rename(const char *from, const char *to)
{
	return fails_at(AT_FDCWD, to) ? -1 : (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

int unlink(const char *path)
{
	return wanted() == EROFS && fails_at(AT_FDCWD, path) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int ftruncate64(int fd, off64_t len)
{
	return wanted() == EROFS && fails_at(fd, NULL) ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}
