/*
 * One run of fusermount3: its standard error is collected, the descriptor it opened comes over a socket that it finds
 * by _FUSE_COMMFD. Keeps no state; a helper that takes longer than the deadline is killed.
 */
#include "fs/fusermount.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

enum { DEADLINE_MS = 20000, NOT_FOUND = 127 };

struct helper {
	pid_t pid;
	int err_fd;  /* what it says */
	int comm_fd; /* where the descriptor comes from, or -1 */
	char said[512];
	size_t len;
};

static void __attribute__((noreturn)) child(const char *const argv[], int err_fd, int comm_fd)
{
	char number[16];
	sigset_t none;

	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)dup2(err_fd, STDERR_FILENO);
	if (comm_fd >= 0) {
		comm_fd = dup(comm_fd); /* without close-on-exec */
		(void)snprintf(number, sizeof(number), "%d", comm_fd);
		(void)setenv("_FUSE_COMMFD", number, 1);
	}
	(void)execvp(argv[0], (char *const *)(uintptr_t)argv);
	_exit(NOT_FOUND);
}

static int start(struct helper *h, const char *const argv[], bool comm, struct err *e)
{
	int says[2], sock[2] = { -1, -1 }, rc;

	memset(h, 0, sizeof(*h));
	if (pipe2(says, O_CLOEXEC | O_NONBLOCK))
		return err_sys(e, -errno, "pipe");
	if (comm && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sock)) {
		rc = err_sys(e, -errno, "socketpair");
		(void)close(says[0]);
		(void)close(says[1]);
		return rc;
	}
	h->pid = fork();
	if (h->pid == 0)
		child(argv, says[1], sock[1]);
	rc = h->pid < 0 ? err_sys(e, -errno, "fork") : 0;
	(void)close(says[1]);
	if (comm)
		(void)close(sock[1]);
	h->err_fd = says[0];
	h->comm_fd = sock[0];
	return rc;
}

/* Until it closed its standard error, which it does by ending. */
static void listen_to(struct helper *h, int64_t deadline)
{
	struct pollfd p = { .fd = h->err_fd, .events = POLLIN };
	char buf[256];
	int64_t left;
	ssize_t n;

	while ((left = deadline - clock_mono(&clock_system)) > 0) {
		if (poll(&p, 1, (int)(left / USEC_PER_MSEC) + 1) < 0 && errno != EINTR)
			break;
		n = read(h->err_fd, buf, sizeof(buf));
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return;
		if (n > 0 && (size_t)n < sizeof(h->said) - h->len) {
			memcpy(h->said + h->len, buf, (size_t)n);
			h->len += (size_t)n;
		}
	}
	(void)kill(h->pid, SIGKILL);
}

static int take_descriptor(int sock)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	char byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	const struct cmsghdr *c;
	int fd = -1;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
		return -1;
	c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	return fd;
}

static int judge(struct helper *h, int st, const char *const argv[], struct err *e)
{
	while (h->len && h->said[h->len - 1] == '\n')
		h->len--;
	h->said[h->len] = 0;
	if (WIFEXITED(st) && WEXITSTATUS(st) == 0)
		return 0;
	if (WIFEXITED(st) && WEXITSTATUS(st) == NOT_FOUND && !h->len)
		return err_set(e, -ENOENT, FUSERMOUNT " is missing; install the package fuse3");
	if (WIFSIGNALED(st))
		return err_set(e, -ETIMEDOUT, "%s did not end in time", argv[0]);
	if (strstr(h->said, "user_allow_other"))
		return err_set(e, -EPERM,
			       "--allow-other needs the line user_allow_other in /etc/fuse.conf (root can add it)");
	return err_set(e, -EPERM, "%s", h->len ? h->said : FUSERMOUNT " failed without a word");
}

int fusermount_run(const char *const argv[], int *fd, struct err *e)
{
	struct helper h;
	int st = 0, rc = start(&h, argv, fd != NULL, e);

	if (rc == 0) {
		listen_to(&h, clock_mono(&clock_system) + DEADLINE_MS * USEC_PER_MSEC);
		while (waitpid(h.pid, &st, 0) < 0 && errno == EINTR)
			;
		rc = judge(&h, st, argv, e);
		if (rc == 0 && fd) {
			*fd = take_descriptor(h.comm_fd);
			if (*fd < 0)
				rc = err_set(e, -EIO, FUSERMOUNT " sent no descriptor");
		}
	}
	if (h.err_fd > 0)
		(void)close(h.err_fd);
	if (h.comm_fd > 0)
		(void)close(h.comm_fd);
	return rc;
}
