/*
 * `slurmray umount`: finds out from mountinfo who keeps a mount (its source names the keeper), asks it to stop, and
 * waits. When the keeper was killed, an orphaned worker is asked instead, and what is left is detached. Keeps no state.
 *
 * A pid from mountinfo is signalled only when the process runs the same program as this one.
 */
#include "fs/keeper.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "fs/mount.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CMDLINE_MAX = 65536, LOOK_MS = 10, PROGRAM_MAX = PATH_MAX };

/* Name of the program a process runs, without directory and without " (deleted)"; empty when it cannot be known. */
static void program_of(const char *proc, char name[PROGRAM_MAX])
{
	cleanup_free char *link = xasprintf("/proc/%s/exe", proc);
	char path[PATH_MAX];
	const char *slash;
	char *gone;
	ssize_t n = readlink(link, path, sizeof(path) - 1);

	path[n > 0 ? n : 0] = 0;
	gone = strstr(path, " (deleted)");
	if (gone)
		*gone = 0;
	slash = strrchr(path, '/');
	(void)stpncpy(name, slash ? slash + 1 : path, PROGRAM_MAX - 1);
	name[PROGRAM_MAX - 1] = 0;
}

/* 0; -ESRCH: it runs something else (the number was used again); -EPERM: another user's. */
static int check_program(pid_t pid)
{
	cleanup_free char *proc = xasprintf("%d", (int)pid);
	char theirs[PROGRAM_MAX], ours[PROGRAM_MAX];

	program_of(proc, theirs);
	program_of("self", ours);
	if (!theirs[0])
		return kill(pid, 0) && errno == EPERM ? -EPERM : -ESRCH;
	return strcmp(theirs, ours) ? -ESRCH : 0;
}

/* Is this process a worker for `dir`? Its second argument is --worker, its last is the mount point. */
static bool serves(const char *proc, const char *dir)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	cleanup_free char *path = xasprintf("/proc/%s/cmdline", proc);
	const char *second, *last;

	if (strbuf_read_file(&sb, path, CMDLINE_MAX) <= 0 || sb.buf[sb.len - 1])
		return false;
	second = sb.buf + strlen(sb.buf) + 1;
	if (second >= sb.buf + sb.len || strcmp(second, "--worker"))
		return false;
	last = memrchr(sb.buf, 0, sb.len - 1);
	return last && !strcmp(last + 1, dir);
}

/* A worker whose keeper is gone: its pid, or 0. */
static pid_t find_worker(const char *dir)
{
	const struct dirent *d;
	pid_t found = 0;
	DIR *p = opendir("/proc");

	if (!p)
		return 0;
	while (!found && (d = readdir(p))) {
		char *end;
		long pid = strtol(d->d_name, &end, 10);

		if (!*end && pid > 0 && pid <= INT_MAX && serves(d->d_name, dir) && !check_program((pid_t)pid))
			found = (pid_t)pid;
	}
	(void)closedir(p);
	return found;
}

static int64_t left_ms(int64_t deadline)
{
	int64_t left = deadline - clock_mono(&clock_system);

	return left > 0 ? left / USEC_PER_MSEC + 1 : 0;
}

/* SIGTERM, then waits for its end: 0, -ESRCH when there is no such process of ours, -ETIMEDOUT, or another error. */
static int stop_process(pid_t pid, int64_t deadline)
{
	struct pollfd p = { .events = POLLIN };
	int rc;

	if (pid <= 0)
		return -ESRCH;
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0)
		return -errno;
	/* The descriptor holds the process: what is checked now is what is signalled. */
	rc = check_program(pid);
	if (rc == 0)
		rc = syscall(SYS_pidfd_send_signal, p.fd, SIGTERM, NULL, 0) ? -errno : 0;
	if (rc == 0) {
		rc = poll(&p, 1, (int)left_ms(deadline));
		rc = rc > 0 ? 0 : rc == 0 ? -ETIMEDOUT : -errno;
	}
	(void)close(p.fd);
	return rc;
}

static bool still_mounted(const char *source)
{
	struct mount_entry m;
	int rc = mount_lookup_source(source, &m);

	if (rc == 1)
		mount_entry_release(&m);
	return rc == 1;
}

/* Nobody serves it any more. */
static int detach(const struct mount_entry *m, int64_t deadline, struct err *e)
{
	struct pollfd none = { .fd = -1 };
	int rc = 0;

	if (!still_mounted(m->source))
		return 0;
	if (mount_detach(m->point, false, NULL) < 0)
		rc = mount_detach(m->point, true, e);
	while (rc == 0 && still_mounted(m->source)) {
		if (!left_ms(deadline))
			return err_set(e, -ETIMEDOUT, "%s is still mounted", m->point);
		(void)poll(&none, 1, LOOK_MS);
	}
	return rc;
}

static int stop(const struct mount_entry *m, int64_t deadline, struct err *e)
{
	pid_t keeper = mount_keeper(m), worker;
	int rc = stop_process(keeper, deadline);

	if (rc == -ESRCH) {
		worker = find_worker(m->point);
		rc = stop_process(worker, deadline);
		keeper = worker ? worker : keeper;
	}
	if (rc == -EPERM)
		return err_set(e, rc, "%s was mounted by somebody else (process %d): only they or root can unmount it",
			       m->point, (int)keeper);
	if (rc == -ETIMEDOUT)
		return err_set(e, rc, "process %d did not unmount %s in time; `kill -9 %d`, then umount again",
			       (int)keeper, m->point, (int)keeper);
	if (rc < 0 && rc != -ESRCH)
		return err_sys(e, rc, "stopping process %d", (int)keeper);
	return detach(m, deadline, e);
}

int keeper_umount(const char *dir, int deadline_ms, struct err *e)
{
	int64_t deadline = clock_mono(&clock_system) + (int64_t)deadline_ms * USEC_PER_MSEC;
	cleanup_free char *path = NULL;
	struct mount_entry m;
	int rc = mount_resolve(dir, &path, e);

	if (rc < 0)
		return rc;
	rc = mount_lookup(path, &m);
	if (rc < 0)
		return err_sys(e, rc, "reading /proc/self/mountinfo");
	if (rc == 0)
		return err_set(e, -EINVAL, "%s is not mounted", dir);
	if (mount_is_ours(&m))
		rc = stop(&m, deadline, e);
	else
		rc = err_set(e, -EINVAL, "%s is a mount of type %s, not one of slurmray's", dir, m.type);
	mount_entry_release(&m);
	return rc;
}
