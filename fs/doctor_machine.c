/*
 * What doctor asks this machine: kernel and FUSE, the state directory, the mounts that are there. Changes nothing.
 *
 * A mount may be dead or stuck, and then whoever looks at it may never come back: a child looks, with a deadline. The
 * journal is opened only while nobody else has it, under the lock that a mount would take.
 */
#include "fs/doctor.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/store.h"
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
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define LOOK_MS 3000
#define FREE_BAD (64ULL << 20)
#define FREE_NOTE (1ULL << 30)

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
		doctor_note(d, "/dev/fuse can be used by you, but not by everybody (mode %04o); `chmod 666 /dev/fuse` lets ordinary "
			       "users mount", st.st_mode & 07777);
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
		doctor_bad(d, "%s is not setuid root, so it cannot mount for you: ask root for `chmod u+s %s`, or to install the "
			      "package fuse3 again", path, path);
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
	doctor_bad(d, "the kernel ends a file system that does not answer a request for %ld s (fs.fuse.%s), and a read of a run's "
		      "`wait` may take days: ask root for `sysctl fs.fuse.%s=0` before you mount", v, name, name);
}

void doctor_fuse_limits(struct doctor *d, const char *sysctl_dir)
{
	bool found = false;

	check_limit(d, sysctl_dir, "default_request_timeout", &found);
	check_limit(d, sysctl_dir, "max_request_timeout", &found);
	if (!found)
		doctor_ok(d, "the kernel sets no time limit on blocked reads");
}

void doctor_fuse(struct doctor *d, const char *sysctl_dir)
{
	check_versions(d);
	check_device(d);
	check_helper(d);
	doctor_fuse_limits(d, sysctl_dir);
}

/* --- the state directory --- */

/* The nearest directory that is there. */
static char *nearest(const char *path)
{
	char *p = xstrdup(path);
	struct stat st;

	while (stat(p, &st) < 0 && strrchr(p, '/')) {
		char *slash = strrchr(p, '/');

		if (slash == p) {
			p[1] = '\0';
			break;
		}
		*slash = '\0';
	}
	return p;
}

static void check_space(struct doctor *d, const char *dir)
{
	struct statvfs sv;
	unsigned long long avail;

	if (statvfs(dir, &sv) < 0)
		return;
	avail = (unsigned long long)sv.f_bavail * sv.f_frsize;
	if (avail < FREE_BAD)
		doctor_bad(d, "only %llu MiB are free in %s, where journal and logs are kept: make room, or name another directory "
			      "with --state", avail >> 20, dir);
	else if (avail < FREE_NOTE)
		doctor_note(d, "%llu MiB are free in %s, where journal and logs are kept", avail >> 20, dir);
	else
		doctor_ok(d, "%llu GiB are free in %s", avail >> 30, dir);
}

static bool check_disk(struct doctor *d, const char *dir)
{
	struct statfs fs;
	const char *remote;

	if (statfs(dir, &fs) < 0) {
		doctor_bad(d, "state directory: %s: %s", dir, strerror(errno));
		return false;
	}
	remote = store_remote_fs((unsigned long)fs.f_type);
	if (remote)
		doctor_bad(d, "the state directory %s is on %s, where commits cannot be trusted: name one on a local disk with "
			      "--state DIR", dir, remote);
	return !remote;
}

static bool check_owner(struct doctor *d, const char *dir, const struct stat *st)
{
	if (!S_ISDIR(st->st_mode))
		doctor_bad(d, "the state directory %s is not a directory: name another with --state DIR", dir);
	else if (st->st_uid != geteuid())
		doctor_bad(d, "the state directory %s belongs to uid %u: name one of your own with --state DIR", dir,
			   (unsigned)st->st_uid);
	else if (st->st_mode & 077)
		doctor_bad(d, "others may enter the state directory %s (mode %04o): chmod 700 %s", dir, st->st_mode & 07777, dir);
	else
		return true;
	return false;
}

/* With the lock held, so that no mount begins meanwhile. */
static void check_journal(struct doctor *d, const char *dir)
{
	cleanup_free char *path = xasprintf("%s/journal.db", dir);
	struct err e = ERR_INIT;
	struct store *s = NULL;
	char uuid[37];

	if (access(path, F_OK) < 0) {
		doctor_ok(d, "state directory %s: yours, no journal yet", dir);
		return;
	}
	if (store_open(dir, &clock_system, &s, uuid, &e) < 0) {
		doctor_bad(d, "journal: %s", e.text);
		return;
	}
	store_close(s, 1000);
	doctor_ok(d, "state directory %s: yours, not in use, its journal can be opened", dir);
}

static void say_holder(struct doctor *d, const char *dir, int fd)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	const char *mount;

	(void)strbuf_read_fd(&text, fd, 8192);
	text.buf[strcspn(text.buf, "\n")] = '\0';
	mount = strchr(text.buf, ' ');
	if (mount)
		doctor_ok(d, "state directory %s: yours, in use by process %.*s, mounted on%s", dir, (int)(mount - text.buf),
			  text.buf, mount);
	else
		doctor_ok(d, "state directory %s: yours, in use", dir);
}

void doctor_state(struct doctor *d, const char *dir)
{
	cleanup_free char *there = nearest(dir), *lock = xasprintf("%s/lock", dir);
	struct stat st;
	int fd;

	if (!check_disk(d, there))
		return;
	if (stat(dir, &st) < 0) {
		if (access(there, W_OK) < 0)
			doctor_bad(d, "the state directory %s is not there and cannot be made: %s cannot be written; name another with "
				      "--state DIR", dir, there);
		else
			doctor_ok(d, "the state directory %s is made at the first mount", dir);
		check_space(d, there);
		return;
	}
	if (!check_owner(d, dir, &st))
		return;
	fd = open(lock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		say_holder(d, dir, fd);
	else
		check_journal(d, dir);
	if (fd >= 0)
		(void)close(fd);
	check_space(d, dir);
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
		doctor_bad(m->d, "the mount on %s is dead, nobody serves it: `slurmray umount %s` takes it away, `slurmray mount %s` "
				 "serves it again", dir, dir, dir);
	else if (code == ETIMEDOUT)
		doctor_bad(m->d, "the mount on %s did not answer for %d s: if that stays so, `slurmray umount %s`, then mount it again; "
				 "jobs are not affected", dir, LOOK_MS / 1000, dir);
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
