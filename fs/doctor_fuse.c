/*
 * What doctor asks of FUSE: versions, the device, the helper of ordinary users, limits of the kernel, and whether the
 * mounts that are there answer. Changes nothing.
 *
 * A mount may be dead or stuck, and then whoever looks at it may never come back: a child looks, with a deadline.
 */
#include "fs/doctor_fuse.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "fs/client.h"
#include "fs/fusermount.h"
#include "fs/mount.h"

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define LOOK_MS 3000

/* --- FUSE --- */

/* Is "5.15.0-91-generic" at least major.minor? */
static bool kernel_at_least(const char *release, long major, long minor)
{
	char *end;
	long a = strtol(release, &end, 10), b = *end == '.' ? strtol(end + 1, &end, 10) : 0;

	return a > major || (a == major && b >= minor);
}

static void check_versions(struct doctor *d)
{
	struct utsname u;

	if (uname(&u) < 0 || !kernel_at_least(u.release, 5, 15))
		doctor_note(d, "kernel %s: slurmray is made for Linux 5.15 and later", u.release);
	else
		doctor_ok(d, "kernel %s, libfuse %s, slurmray %s", u.release, fuse_pkgversion(), SLURMRAY_VERSION);
}

static void check_device(struct doctor *d)
{
	struct err e = ERR_INIT;
	struct stat st;
	int fd = -1;

	if (mount_open_device(&fd, &e) < 0) {
		doctor_bad(d, "%s", e.text);
		return;
	}
	if (fd >= 0)
		(void)close(fd);
	if (geteuid() == 0 && stat("/dev/fuse", &st) == 0 && (st.st_mode & 06) != 06)
		doctor_note(
			d,
			"/dev/fuse can be used by you, but not by everybody (mode %04o); `chmod 666 /dev/fuse` lets ordinary "
			"users mount",
			st.st_mode & 07777);
	else
		doctor_ok(d, "/dev/fuse can be used");
}

/* Ordinary users mount with the help of a program that is setuid root. */
static void check_helper(struct doctor *d)
{
	cleanup_free char *path = doctor_find_program(FUSERMOUNT);
	struct stat st;

	if (geteuid() == 0)
		return; /* mounts by itself */
	if (!path)
		doctor_bad(d, FUSERMOUNT " is not installed: ask root to install the package fuse3");
	else if (stat(path, &st) < 0 || st.st_uid != 0 || !(st.st_mode & S_ISUID))
		doctor_bad(
			d,
			"%s is not setuid root, so it cannot mount for you: ask root for `chmod u+s %s`, or to install the "
			"package fuse3 again",
			path, path);
	else
		doctor_ok(d, "%s mounts for you", path);
}

static void check_limit(struct doctor *d, const char *dir, const char *name, bool *found)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, name);
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	long v;

	if (strbuf_read_file(&text, path, 256) <= 0)
		return; /* older kernels have no such limit */
	v = strtol(text.buf, NULL, 10);
	if (v == 0)
		return;
	*found = true;
	doctor_bad(
		d,
		"the kernel ends a file system that does not answer a request for %ld s (fs.fuse.%s), and a read of a run's "
		"`wait` may take days: ask root for `sysctl fs.fuse.%s=0` before you mount",
		v, name, name);
}

void doctor_fuse_limits(struct doctor *d, const char *sysctl_dir)
{
	bool found = false;

	check_limit(d, sysctl_dir, "default_request_timeout", &found);
	check_limit(d, sysctl_dir, "max_request_timeout", &found);
	if (!found)
		doctor_ok(d, "the kernel lets a read wait as long as it takes (of a run's `wait`, for days)");
}

void doctor_fuse(struct doctor *d, const char *sysctl_dir)
{
	check_versions(d);
	check_device(d);
	check_helper(d);
	doctor_fuse_limits(d, sysctl_dir);
}

/* --- mounts --- */

/* In a child: errno of a look at the tree. */
static int look_at(const char *dir)
{
	cleanup_free char *path = xasprintf("%s/README", dir);
	struct statfs fs;
	char c;
	int fd;

	if (statfs(dir, &fs) < 0)
		return errno;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno;
	return read(fd, &c, 1) < 0 ? errno : 0;
}

/* What look_at says, or ETIMEDOUT. */
static int look(const char *dir)
{
	struct pollfd p = { .events = POLLIN };
	pid_t pid = fork();
	int st = 0, n;

	if (pid < 0)
		return errno;
	if (pid == 0)
		_exit(look_at(dir) & 0xff);
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	do {
		n = poll(&p, 1, LOOK_MS);
	} while (n < 0 && errno == EINTR);
	if (p.fd >= 0)
		(void)close(p.fd);
	if (n == 0) {
		(void)kill(pid, SIGKILL); /* it may be beyond that; then init takes it when we are gone */
		return ETIMEDOUT;
	}
	if (waitpid(pid, &st, 0) != pid || !WIFEXITED(st))
		return EIO;
	return WEXITSTATUS(st);
}

struct mounts {
	struct doctor *d;
	unsigned n;
};

static void check_mount(void *arg, const char *dir)
{
	struct mounts *m = arg;
	int code = look(dir);

	m->n++;
	if (code == 0)
		doctor_ok(m->d, "mounted on %s, and it answers", dir);
	else if (code == ENOTCONN || code == ECONNABORTED)
		doctor_bad(
			m->d,
			"the mount on %s is dead, nobody serves it: `slurmray umount %s` takes it away, `slurmray mount %s` "
			"serves it again",
			dir, dir, dir);
	else if (code == ETIMEDOUT)
		doctor_bad(
			m->d,
			"the mount on %s did not answer for %d s: if that stays so, `slurmray umount %s`, then mount it again; "
			"jobs are not affected",
			dir, LOOK_MS / 1000, dir);
	else
		doctor_bad(m->d, "the mount on %s does not answer: %s", dir, strerror(code));
}

void doctor_mounts(struct doctor *d, const char *table)
{
	struct mounts m = { d, 0 };
	int rc = client_each_mount(table, check_mount, &m);

	if (rc < 0)
		doctor_bad(d, "%s: %s", table, strerror(-rc));
	else if (m.n == 0)
		doctor_note(d, "nothing is mounted; `slurmray mount DIR` mounts");
}
