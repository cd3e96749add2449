/*
 * The life of the keeper up to its loop: checks, lock, descriptors, fork into the background, and the wait of the first
 * process until the tree answers. The loop itself is supervise().
 *
 * Order: the lock first (two mounts at once on one state directory must not both pass the checks), then the mount
 * point, /dev/fuse, shared memory, fork. What fails later is undone by the keeper before it tells why.
 */
#include "fs/keeper.h"

#include "backend/base/clock.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "fs/mount.h"
#include "fs/shared.h"
#include "fs/statedir.h"
#include "fs/supervise.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { READY_MS = 30000, LINE_MAX_LEN = 1200 };

/* What is open before there is a keeper. */
struct prepared {
	char *dir;
	int lock_fd, fuse_fd;
	struct shared *shared;
};

static void release(struct prepared *p)
{
	if (p->fuse_fd >= 0)
		(void)close(p->fuse_fd);
	if (p->lock_fd >= 0)
		(void)close(p->lock_fd);
	shared_detach(p->shared);
	free(p->dir);
}

static int prepare(const struct mount_conf *conf, struct prepared *p, struct err *e)
{
	int rc;

	*p = (struct prepared){ .lock_fd = -1, .fuse_fd = -1 };
	rc = mount_resolve(conf->dir, &p->dir, e);
	if (rc == 0)
		rc = statedir_lock(conf->state_dir, p->dir, &p->lock_fd, e);
	if (rc == 0)
		rc = mount_prepare(p->dir, e);
	if (rc == 0)
		rc = mount_open_device(&p->fuse_fd, e);
	if (rc == 0)
		rc = shared_create(&p->shared, e);
	if (rc < 0)
		release(p);
	return rc;
}

static int run(const struct mount_conf *conf, const struct prepared *p, int tell_fd, struct err *e)
{
	struct supervise_conf sc = { .mount = conf,
				     .dir = p->dir,
				     .fuse_fd = p->fuse_fd,
				     .lock_fd = p->lock_fd,
				     .tell_fd = tell_fd,
				     .shared = p->shared };

	return supervise(&sc, e);
}

/* Closes everything that was inherited: a pipe of `$(slurmray mount ...)` must see its end. */
static void close_others(const int *keep, size_t n)
{
	unsigned int from = STDERR_FILENO + 1;
	size_t i;

	for (;;) {
		unsigned int next = UINT_MAX;

		for (i = 0; i < n; i++)
			if (keep[i] >= 0 && (unsigned int)keep[i] >= from && (unsigned int)keep[i] < next)
				next = (unsigned int)keep[i];
		if (next > from)
			(void)close_range(from, next == UINT_MAX ? UINT_MAX : next - 1, 0);
		if (next == UINT_MAX)
			return;
		from = next + 1;
	}
}

/* In the new process: leave the terminal and the caller's descriptors. */
static void go_to_background(const struct mount_conf *conf, const struct prepared *p, int log, int tell_fd)
{
	int keep[] = { p->fuse_fd, p->lock_fd, shared_fd(p->shared), tell_fd };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)setsid();
	(void)!chdir("/");
	(void)dup2(null, STDIN_FILENO);
	(void)dup2(null, STDOUT_FILENO);
	(void)dup2(log, STDERR_FILENO);
	close_others(keep, ARRAY_SIZE(keep));
	log_setup(STDERR_FILENO, conf->verbose ? LOG_DEBUG : LOG_INFO);
}

/* "ok" or "error CODE TEXT". */
static int understand(char *line, pid_t keeper, const struct mount_conf *conf, struct err *e)
{
	char *end;
	long code;

	line[strcspn(line, "\n")] = 0;
	if (!strcmp(line, "ok"))
		return 0;
	if (strncmp(line, "error ", 6))
		return err_set(e, -EIO, "the keeper (process %d) died before the tree was ready; see %s/log",
			       (int)keeper, conf->state_dir);
	errno = 0;
	code = strtol(line + 6, &end, 10);
	if (errno || code >= 0 || code < -4095)
		code = -EIO;
	return err_set(e, (int)code, "%s", *end == ' ' ? end + 1 : end);
}

/* In the first process: waits for the keeper's line. */
static int await(int fd, pid_t keeper, const struct mount_conf *conf, struct err *e)
{
	int64_t deadline = clock_mono(&clock_system) + READY_MS * USEC_PER_MSEC, left;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char line[LINE_MAX_LEN];
	size_t len = 0;
	ssize_t n;

	while ((left = deadline - clock_mono(&clock_system)) > 0) {
		if (poll(&p, 1, (int)(left / USEC_PER_MSEC) + 1) <= 0)
			continue;
		n = read(fd, line + len, sizeof(line) - 1 - len);
		if (n > 0)
			len += (size_t)n;
		line[len] = 0;
		if (n <= 0 || len == sizeof(line) - 1 || strchr(line, '\n'))
			return understand(line, keeper, conf, e);
	}
	(void)kill(keeper, SIGTERM);
	return err_set(e, -ETIMEDOUT, "the tree was not ready within %d s; see %s/log", READY_MS / 1000,
		       conf->state_dir);
}

static int mount_in_background(const struct mount_conf *conf, struct prepared *p, struct err *e)
{
	struct err own = ERR_INIT;
	int told[2], log, rc;
	pid_t pid;

	log = statedir_open_log(conf->state_dir, e);
	if (log < 0)
		return log;
	if (pipe2(told, O_CLOEXEC)) {
		rc = err_sys(e, -errno, "pipe");
		(void)close(log);
		return rc;
	}
	pid = fork();
	if (pid == 0) {
		go_to_background(conf, p, log, told[1]);
		_exit(run(conf, p, told[1], &own) < 0 ? 1 : 0);
	}
	rc = pid < 0 ? err_sys(e, -errno, "fork") : 0;
	(void)close(log);
	(void)close(told[1]);
	if (rc == 0)
		rc = await(told[0], pid, conf, e);
	(void)close(told[0]);
	return rc;
}

int keeper_mount(const struct mount_conf *conf, struct err *e)
{
	struct prepared p;
	int rc = prepare(conf, &p, e);

	if (rc < 0)
		return rc;
	rc = conf->foreground ? run(conf, &p, -1, e) : mount_in_background(conf, &p, e);
	release(&p);
	return rc;
}
