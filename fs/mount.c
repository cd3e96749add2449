/*
 * Mounting: checks of the mount point, /dev/fuse, mount(2) or fusermount3, and unmounting. Keeps no state.
 *
 * Invariant: this process never looks at a path that may be in a mount of unknown health. What must be looked at is
 * looked at by a child, with a deadline; if it hangs, only the child does.
 */
#include "fs/mount.h"

#include "backend/base/mem.h"
#include "fs/fusermount.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* STACK_MAX: dead mounts on top of each other that are taken away in one go. */
enum { PROBE_MS = 3000, LINKS_MAX = 20, STACK_MAX = 16 };

/* In the child: errno of the first thing that is wrong, 0 for an empty directory. */
static int look_at(const char *dir)
{
	const struct dirent *d;
	int seen = 0;
	DIR *p = opendir(dir);

	if (!p)
		return errno;
	errno = 0;
	while ((d = readdir(p)))
		if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
			seen = 1;
	return seen ? ENOTEMPTY : errno;
}

/* What look_at says, or ETIMEDOUT. */
static int probe(const char *dir)
{
	struct pollfd p = { .events = POLLIN };
	int st = 0;
	pid_t pid = fork();

	if (pid < 0)
		return errno;
	if (pid == 0)
		_exit(look_at(dir) & 0xff); /* errno values that open, read and stat give are below 256 */
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd >= 0 && poll(&p, 1, PROBE_MS) == 0) {
		(void)kill(pid, SIGKILL);
		(void)close(p.fd);
		return ETIMEDOUT;
	}
	if (p.fd >= 0)
		(void)close(p.fd);
	if (waitpid(pid, &st, 0) != pid || !WIFEXITED(st))
		return EIO;
	return WEXITSTATUS(st);
}

/* A link as last component is followed by hand: realpath(3) would touch what it leads to. */
int mount_resolve(const char *dir, char **out, struct err *e)
{
	cleanup_free char *path = xstrdup(dir);
	char target[4096];
	struct mount_entry m;
	int hops;

	for (hops = 0; hops < LINKS_MAX; hops++) {
		cleanup_free char *parent = NULL, *full = NULL;
		size_t len = strlen(path);
		ssize_t n;
		char *slash;

		while (len > 1 && path[len - 1] == '/')
			path[--len] = 0;
		slash = strrchr(path, '/');
		if (path[0] != '/' || !slash)
			return err_set(e, -EINVAL, "%s: the mount point must be an absolute path", dir);
		if (!slash[1] || !strcmp(slash, "/.") || !strcmp(slash, "/..")) {
			*out = realpath(path, NULL);
			return *out ? 0 : err_sys(e, -errno, "%s", dir);
		}
		*slash = 0;
		parent = realpath(slash == path ? "/" : path, NULL);
		if (!parent)
			return err_sys(e, -errno, "%s", dir);
		full = xasprintf("%s/%s", strcmp(parent, "/") ? parent : "", slash + 1);
		if (mount_lookup(full, &m) == 1) {
			mount_entry_release(&m);
			n = -1;
		} else {
			n = readlink(full, target, sizeof(target) - 1);
		}
		if (n < 0) {
			*out = full;
			full = NULL;
			return 0;
		}
		target[n] = 0;
		free(path);
		path = target[0] == '/' ? xstrdup(target) : xasprintf("%s/%s", parent, target);
	}
	return err_sys(e, -ELOOP, "%s", dir);
}

static int busy_text(const char *dir, const struct mount_entry *m, struct err *e)
{
	return err_set(e, -EBUSY, "%s is already a slurmray mount (keeper %d); `slurmray umount %s` ends it", dir,
		       (int)mount_keeper(m), dir);
}

/* 1: it was a dead mount of ours and is gone now; 0: a directory to look at like any other. */
static int prepare_mounted(const char *dir, const struct mount_entry *m, struct err *e)
{
	int rc = probe(dir);

	if (rc == ENOTCONN || rc == ECONNABORTED) {
		if (mount_is_ours(m)) {
			rc = mount_detach(dir, true, e);
			return rc < 0 ? rc : 1;
		}
		return err_set(e, -ENOTCONN, "%s is a dead mount of type %s; take it away with `umount -l %s`", dir,
			       m->type, dir);
	}
	if (mount_is_ours(m) && (rc == 0 || rc == ENOTEMPTY || rc == EACCES))
		return busy_text(dir, m, e);
	if (rc == ETIMEDOUT)
		return err_set(e, -ETIMEDOUT,
			       "%s is a mount of type %s that does not answer; `umount -l %s` takes it away", dir,
			       m->type, dir);
	return 0;
}

static int prepare_directory(const char *dir, struct err *e)
{
	int rc = probe(dir);

	switch (rc) {
	case 0:
		return 0;
	case ENOENT:
		return err_set(e, -ENOENT, "%s does not exist; `mkdir %s` makes it", dir, dir);
	case ENOTDIR:
		return err_set(e, -ENOTDIR, "%s is not a directory", dir);
	case ENOTEMPTY:
		return err_set(e, -ENOTEMPTY, "%s is not empty; choose or make an empty directory", dir);
	case ETIMEDOUT:
		return err_set(e, -ETIMEDOUT, "%s does not answer", dir);
	default:
		return err_sys(e, -rc, "%s", dir);
	}
}

int mount_prepare(const char *dir, struct err *e)
{
	struct mount_entry m;
	int rc, i;

	for (i = 0; i < STACK_MAX; i++) {
		rc = mount_lookup(dir, &m);
		if (rc < 0)
			return err_sys(e, rc, "reading /proc/self/mountinfo");
		if (rc == 0)
			break;
		rc = prepare_mounted(dir, &m, e);
		mount_entry_release(&m);
		if (rc < 0)
			return rc;
		if (rc == 0)
			break;
	}
	return prepare_directory(dir, e);
}

int mount_open_device(int *fd, struct err *e)
{
	int rc = 0;

	*fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (*fd < 0)
		rc = -errno;
	if (rc == 0 && geteuid() != 0) {
		(void)close(*fd); /* fusermount3 opens the one that counts */
		*fd = -1;
	}
	if (rc == -ENOENT || rc == -ENODEV || rc == -ENXIO)
		return err_set(e, rc, "this machine has no FUSE (/dev/fuse): `modprobe fuse` as root, or ask for it");
	if (rc == -EACCES || rc == -EPERM)
		return err_set(
			e, rc,
			"no permission for /dev/fuse: ask root for `chmod 666 /dev/fuse`, or to be put into the "
			"group that owns it (often `fuse`); in a container it must be passed in with its rights");
	return rc < 0 ? err_sys(e, rc, "/dev/fuse") : 0;
}

static int attach_root(const struct mount_options *opt, int fd, struct err *e)
{
	char data[256];
	int rc;

	(void)snprintf(data, sizeof(data), "fd=%d,rootmode=40000,user_id=%u,group_id=%u%s", fd, geteuid(), getegid(),
		       opt->allow_other ? ",default_permissions,allow_other" : "");
	if (!mount(opt->source, opt->dir, MOUNT_TYPE, MS_NOSUID | MS_NODEV, data))
		return 0;
	rc = -errno;
	if (rc == -EPERM)
		return err_set(
			e, rc,
			"not allowed to mount on %s: the process has no CAP_SYS_ADMIN here (a container?); run as an "
			"ordinary user with fusermount3, or give the capability",
			opt->dir);
	if (rc == -ENODEV)
		return err_set(e, rc, "the kernel does not know FUSE: `modprobe fuse`");
	return err_sys(e, rc, "mounting on %s", opt->dir);
}

static int attach_user(const struct mount_options *opt, int *fd, struct err *e)
{
	cleanup_free char *options = xasprintf("nosuid,nodev,fsname=%s,subtype=slurmray%s", opt->source,
					       opt->allow_other ? ",default_permissions,allow_other" : "");
	const char *argv[] = { FUSERMOUNT, "-o", options, "--", opt->dir, NULL };
	int rc = fusermount_run(argv, fd, e);

	if (rc < 0)
		return rc;
	if (fcntl(*fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(*fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(e, -errno, "the descriptor from " FUSERMOUNT);
	return 0;
}

int mount_attach(const struct mount_options *opt, int *fd, struct err *e)
{
	return geteuid() == 0 ? attach_root(opt, *fd, e) : attach_user(opt, fd, e);
}

int mount_detach(const char *dir, bool lazy, struct err *e)
{
	const char *argv[] = { FUSERMOUNT, lazy ? "-uz" : "-u", "--", dir, NULL };

	if (geteuid() != 0)
		return fusermount_run(argv, NULL, e);
	if (umount2(dir, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)))
		return err_sys(e, -errno, "unmounting %s", dir);
	return 0;
}
