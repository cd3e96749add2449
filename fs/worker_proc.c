/*
 * Starting a worker, and both ends of its hidden command line. The only state is the program's path, taken at the first
 * start: when the file is replaced by a new version, the next worker is that version.
 *
 * A worker gets exactly four descriptors besides 0 to 2, at fixed numbers; everything else is closed.
 */
#include "fs/worker_proc.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FD_FUSE = 3, FD_SHARED, FD_READY, FD_LOCK, FD_COUNT = 4, FD_SAFE = 16, ARGS_MAX = 16 };

static const char *program(bool own_image)
{
	static char path[PATH_MAX];
	ssize_t n;

	if (!path[0]) {
		n = readlink("/proc/self/exe", path, sizeof(path) - 1);
		path[n > 0 ? n : 0] = 0;
	}
	return own_image || !path[0] ? "/proc/self/exe" : path;
}

static void fill_args(const char **argv, const struct worker_start *st, char *fds, size_t size)
{
	const struct mount_conf *m = st->mount;
	int n = 0;

	(void)snprintf(fds, size, "%d,%d,%d,%d", FD_FUSE, FD_SHARED, FD_READY, FD_LOCK);
	argv[n++] = program_invocation_name;
	argv[n++] = "--worker";
	argv[n++] = fds;
	argv[n++] = "--state";
	argv[n++] = m->state_dir;
	if (m->config_path) {
		argv[n++] = "--config";
		argv[n++] = m->config_path;
	}
	if (m->allow_other)
		argv[n++] = "--allow-other";
	if (m->allow_uids) {
		argv[n++] = "--allow-uid";
		argv[n++] = m->allow_uids;
	}
	if (m->verbose)
		argv[n++] = "--verbose";
	argv[n++] = st->dir;
	argv[n] = NULL;
}

/* Moves four descriptors to their numbers; first out of each other's way. */
static bool place_descriptors(int fds[FD_COUNT])
{
	int i;

	for (i = 0; i < FD_COUNT; i++) {
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, FD_SAFE);
		if (fds[i] < 0)
			return false;
	}
	for (i = 0; i < FD_COUNT; i++)
		if (dup2(fds[i], FD_FUSE + i) < 0)
			return false;
	return close_range(FD_FUSE + FD_COUNT, UINT_MAX, 0) == 0;
}

static void __attribute__((noreturn)) child(const char *const argv[], int fds[FD_COUNT], bool own_image)
{
	sigset_t none;

	(void)sigemptyset(&none);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	/* Ctrl-C on a terminal is for the keeper, which stops the worker in order. */
	(void)setpgid(0, 0);
	if (place_descriptors(fds)) {
		(void)execv(program(own_image), (char *const *)(uintptr_t)argv);
		(void)execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
	}
	_exit(127);
}

int worker_proc_start(struct worker_proc *w, const struct worker_start *st, struct err *e)
{
	const char *argv[ARGS_MAX];
	char numbers[64];
	int fds[FD_COUNT], ready[2];

	(void)program(false);
	if (pipe2(ready, O_CLOEXEC))
		return err_sys(e, -errno, "pipe");
	fill_args(argv, st, numbers, sizeof(numbers));
	fds[0] = st->fuse_fd;
	fds[1] = st->shared_fd;
	fds[2] = ready[1];
	fds[3] = st->lock_fd;
	w->pid = fork();
	if (w->pid == 0)
		child(argv, fds, st->own_image);
	(void)close(ready[1]);
	if (w->pid < 0) {
		w->pid = 0;
		(void)close(ready[0]);
		return err_sys(e, -errno, "fork");
	}
	(void)fcntl(ready[0], F_SETFL, O_NONBLOCK);
	w->ready_fd = ready[0];
	w->len = 0;
	return 0;
}

int worker_proc_line(struct worker_proc *w, char *text, size_t size)
{
	ssize_t n;

	if (w->ready_fd < 0)
		return 0;
	while (w->len < sizeof(w->line) - 1) {
		n = read(w->ready_fd, w->line + w->len, sizeof(w->line) - 1 - w->len);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (n <= 0)
			break;
		w->len += (size_t)n;
		if (memchr(w->line, '\n', w->len))
			break;
	}
	(void)close(w->ready_fd);
	w->ready_fd = -1;
	w->line[w->len] = 0;
	w->line[strcspn(w->line, "\n")] = 0;
	(void)snprintf(text, size, "%s", w->line);
	return text[0] ? 1 : 0;
}

void worker_proc_release(struct worker_proc *w)
{
	if (w->ready_fd >= 0)
		(void)close(w->ready_fd);
	w->ready_fd = -1;
	w->pid = 0;
}

/* "3,4,5,6" */
static int parse_descriptors(const char *s, int fds[FD_COUNT])
{
	char *end;
	long v;
	int i;

	for (i = 0; i < FD_COUNT; i++) {
		errno = 0;
		v = strtol(s, &end, 10);
		if (errno || end == s || v < 0 || v > INT_MAX || *end != (i < FD_COUNT - 1 ? ',' : '\0'))
			return -EINVAL;
		if (fcntl((int)v, F_SETFD, FD_CLOEXEC) < 0)
			return -errno;
		fds[i] = (int)v;
		s = end + 1;
	}
	return 0;
}

static int parse_option(struct mount_conf *m, int argc, char **argv, int *i)
{
	char **value = NULL;

	if (!strcmp(argv[*i], "--state"))
		value = &m->state_dir;
	else if (!strcmp(argv[*i], "--config"))
		value = &m->config_path;
	else if (!strcmp(argv[*i], "--allow-uid"))
		value = &m->allow_uids;
	else if (!strcmp(argv[*i], "--allow-other"))
		m->allow_other = true;
	else if (!strcmp(argv[*i], "--verbose"))
		m->verbose = true;
	else
		return -EINVAL;
	if (value) {
		if (*i + 1 >= argc)
			return -EINVAL;
		*value = argv[++*i];
	}
	return 0;
}

int worker_args(int argc, char **argv, struct mount_conf *mount, struct worker_conf *out, struct err *e)
{
	int fds[FD_COUNT], i;

	memset(mount, 0, sizeof(*mount));
	if (argc < 4 || strcmp(argv[1], "--worker") || parse_descriptors(argv[2], fds) < 0)
		return err_set(e, -EINVAL, "--worker is for slurmray's own use");
	for (i = 3; i < argc - 1; i++)
		if (parse_option(mount, argc - 1, argv, &i) < 0)
			return err_set(e, -EINVAL, "--worker does not know %s", argv[i]);
	mount->dir = argv[argc - 1];
	if (!mount->state_dir)
		return err_set(e, -EINVAL, "--worker needs --state");
	out->mount = mount;
	out->fuse_fd = fds[0];
	out->shared_fd = fds[1];
	out->ready_fd = fds[2];
	return 0;
}

void worker_ready(int ready_fd, const struct err *e)
{
	cleanup_free char *line = NULL;

	if (ready_fd < 0)
		return;
	line = e && e->code ? xasprintf("error %.*s\n", WORKER_LINE_MAX - 16, e->text) : xstrdup("ok\n");
	(void)!write(ready_fd, line, strlen(line));
	(void)close(ready_fd);
}
