/*
 * The state directory's lock and the two small files that say who holds it. Keeps no state in memory.
 *
 * The lock belongs to the open file that keeper and worker share: it ends with the last of them, so a worker that
 * outlives its keeper still keeps others away from the store.
 */
#include "fs/statedir.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES 100
#define LOCK_PAUSE_MS 50

enum { NOTE_MAX = 4096 + 64 };

/* mkdir -p with mode 0700. */
static int make_all(const char *path)
{
	cleanup_free char *p = xstrdup(path);
	char *slash = p;

	while ((slash = strchr(slash + 1, '/'))) {
		*slash = 0;
		if (mkdir(p, 0700) && errno != EEXIST)
			return -errno;
		*slash = '/';
	}
	return mkdir(p, 0700) && errno != EEXIST ? -errno : 0;
}

static int check_owner(const char *path, struct err *e)
{
	struct stat st;

	if (stat(path, &st))
		return err_sys(e, -errno, "state directory %s", path);
	if (!S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, "the state directory %s is not a directory", path);
	if (st.st_uid != geteuid())
		return err_set(e, -EPERM,
			       "the state directory %s belongs to uid %u, not to you (%u); choose another with --state",
			       path, st.st_uid, geteuid());
	if (st.st_mode & 077)
		return err_set(
			e, -EPERM,
			"the state directory %s is open to others (mode %04o), and has to be yours alone: run `chmod 700 "
			"%s`, then mount again",
			path, st.st_mode & 07777, path);
	return 0;
}

/* A daemon must never look at a path below its own mount. */
static int check_place(const char *state_dir, const char *dir, struct err *e)
{
	cleanup_free char *real = realpath(state_dir, NULL);
	size_t n = strlen(dir);

	if (!real)
		return err_sys(e, -errno, "state directory %s", state_dir);
	if (!strncmp(real, dir, n) && (!real[n] || real[n] == '/'))
		return err_set(e, -EINVAL,
			       "the state directory %s would be inside the mount %s; choose another with --state",
			       state_dir, dir);
	return 0;
}

/* First number in a small file and, with `rest`, what follows it. 0: none. */
static pid_t read_note(int fd, char *rest, size_t size)
{
	char buf[NOTE_MAX];
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);
	char *end;
	long pid;

	if (n <= 0)
		return 0;
	buf[n] = 0;
	buf[strcspn(buf, "\n")] = 0;
	errno = 0;
	pid = strtol(buf, &end, 10);
	if (errno || end == buf || pid <= 0 || pid > INT_MAX)
		return 0;
	if (rest)
		(void)snprintf(rest, size, "%s", *end == ' ' ? end + 1 : end);
	return (pid_t)pid;
}

static pid_t read_worker(const char *state_dir)
{
	cleanup_free char *path = xasprintf("%s/worker.pid", state_dir);
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	return fd < 0 ? 0 : read_note(fd, NULL, 0);
}

/* A zombie is dead: it runs no program (and may wait long for a parent that takes no notice). */
static bool alive(pid_t pid)
{
	cleanup_free char *exe = xasprintf("/proc/%d/exe", (int)pid);
	char target[1];

	return pid > 0 && (readlink(exe, target, sizeof(target)) >= 0 || errno == EACCES);
}

static int in_use(const char *state_dir, int fd, struct err *e)
{
	char dir[NOTE_MAX] = "";
	pid_t keeper = read_note(fd, dir, sizeof(dir)), worker = read_worker(state_dir);

	if (!keeper)
		return err_set(e, -EBUSY, "the state directory %s is in use by another slurmray that is just starting",
			       state_dir);
	if (!alive(keeper) && alive(worker))
		return err_set(
			e, -EBUSY,
			"the state directory %s is in use: its keeper %d was killed, its worker %d still serves %s; "
			"`slurmray umount %s` or `kill %d` ends it",
			state_dir, (int)keeper, (int)worker, dir, dir, (int)worker);
	return err_set(e, -EBUSY,
		       "the state directory %s is in use by process %d, mounted on %s; `slurmray umount %s` ends it",
		       state_dir, (int)keeper, dir, dir);
}

/*
 * Takes the lock. Killed processes hold it for a moment longer than they can be seen: the kernel still takes them down,
 * or a child that they had forked has not come to its exec. So when nobody is left who could keep it, it is waited for.
 */
static int take_lock(const char *state_dir, int fd)
{
	for (int i = 0; i < LOCK_TRIES; i++) {
		pid_t keeper;

		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK)
			return -errno;
		keeper = read_note(fd, NULL, 0);
		if (!keeper || alive(keeper) || alive(read_worker(state_dir)))
			break;
		(void)poll(NULL, 0, LOCK_PAUSE_MS);
	}
	return -EWOULDBLOCK;
}

int statedir_lock(const char *state_dir, const char *dir, int *fd, struct err *e)
{
	cleanup_free char *path = xasprintf("%s/lock", state_dir);
	int lock, rc = make_all(state_dir);

	if (rc < 0)
		return err_sys(e, rc, "making the state directory %s", state_dir);
	rc = check_owner(state_dir, e);
	if (rc == 0)
		rc = check_place(state_dir, dir, e);
	if (rc < 0)
		return rc;
	lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (lock < 0)
		return err_sys(e, -errno, "%s", path);
	rc = take_lock(state_dir, lock);
	if (rc < 0) {
		rc = rc == -EWOULDBLOCK ? in_use(state_dir, lock, e)
					: err_sys(e, rc, "locking %s (state must be on a local disk)", path);
		(void)close(lock);
		return rc;
	}
	(void)!ftruncate(lock, 0);
	*fd = lock;
	return 0;
}

void statedir_note_keeper(int lock_fd, pid_t pid, const char *dir)
{
	cleanup_free char *text = xasprintf("%d %s\n", (int)pid, dir);

	if (pwrite(lock_fd, text, strlen(text), 0) != (ssize_t)strlen(text))
		log_warn("the lock file cannot be written: %s", strerror(errno));
}

void statedir_note_worker(const char *state_dir, pid_t pid)
{
	cleanup_free char *path = xasprintf("%s/worker.pid", state_dir);
	cleanup_free char *tmp = xasprintf("%s/worker.pid.new", state_dir);
	char text[16];
	int n, fd;

	if (!pid) {
		(void)unlink(path);
		return;
	}
	n = snprintf(text, sizeof(text), "%d\n", (int)pid);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, text, (size_t)n) != n || rename(tmp, path))
		log_warn("%s: %s", path, strerror(errno));
	if (fd >= 0)
		(void)close(fd);
}

int statedir_open_log(const char *state_dir, struct err *e)
{
	cleanup_free char *path = xasprintf("%s/log", state_dir);
	int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? err_sys(e, -errno, "%s", path) : fd;
}
