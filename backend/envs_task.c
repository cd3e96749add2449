/*
 * The thread for what takes long: reading archives, and on the local cluster running the shell code that unpacks them.
 * One per cluster, started when it is needed first; so neither the reactor nor the cluster's thread ever waits for it.
 *
 * Invariants: a task belongs to the thread until it is posted back; `stop` ends a read at the next piece and a command
 * at the next look, so that a join takes no longer than that.
 */
#include "backend/envs.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LOOK_MS 100
#define OUT_MAX (1024 * 1024)

struct envs_worker {
	struct inbox inbox;
	pthread_t thread;
	atomic_bool stop;
};

static void release(struct msg *m)
{
	struct envs_task *t = container_of(m, struct envs_task, m);

	free(t->path);
	free(t->code);
	strbuf_release(&t->out);
	free(t);
}

struct envs_task *envs_task_new(enum envs_task_type type, struct inbox *to, uint64_t serial)
{
	struct envs_task *t = xcalloc(1, sizeof(*t));

	t->m.type = (int)type;
	t->m.release = release;
	t->to = to;
	t->serial = serial;
	strbuf_init(&t->out);
	return t;
}

/* A process group of its own, and nothing of the daemon's: neither its signals nor its descriptors. */
static pid_t start(const char *code, int out)
{
	pid_t pid = fork();

	if (pid == 0) {
		int null = open("/dev/null", O_RDWR);
		sigset_t none;

		(void)setpgid(0, 0);
		(void)sigemptyset(&none);
		(void)sigprocmask(SIG_SETMASK, &none, NULL);
		(void)dup2(null, 0);
		(void)dup2(out, 1);
		(void)dup2(null, 2);
		(void)syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC (close_range(2)) */);
		(void)execl("/bin/sh", "sh", "-c", code, (char *)NULL);
		_exit(126);
	}
	if (pid > 0)
		(void)setpgid(pid, pid);
	return pid;
}

/* TERM lets the code give its lock back; KILL comes for what does not. */
static int finish(pid_t pid, bool kill_it)
{
	int status = 0;

	for (int i = 0; kill_it && i < 20; i++) {
		(void)kill(-pid, i < 19 ? SIGTERM : SIGKILL);
		if (waitpid(pid, &status, WNOHANG) == pid)
			return 124;
		(void)poll(NULL, 0, LOOK_MS / 2);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return kill_it ? 124 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run(struct envs_worker *w, struct envs_task *t)
{
	int64_t until = clock_mono(&clock_system) + t->deadline_s * (int64_t)USEC_PER_SEC;
	int fd[2];
	bool over = false;
	pid_t pid;

	t->rc = -1;
	if (pipe2(fd, O_CLOEXEC) < 0)
		return;
	pid = start(t->code, fd[1]);
	(void)close(fd[1]);
	while (pid > 0 && !over) {
		struct pollfd p = { fd[0], POLLIN, 0 };
		char buf[4096];
		ssize_t n;

		over = atomic_load(&w->stop) || clock_mono(&clock_system) > until;
		if (over || poll(&p, 1, LOOK_MS) <= 0)
			continue;
		n = read(fd[0], buf, sizeof(buf));
		if (n <= 0)
			break;
		if (t->out.len < OUT_MAX)
			strbuf_add(&t->out, buf, (size_t)n);
	}
	if (pid > 0)
		t->rc = finish(pid, over);
	(void)close(fd[0]);
}

static void work(struct envs_worker *w, struct envs_task *t)
{
	switch ((enum envs_task_type)t->m.type) {
	case ENVS_READ:
		if (envs_identify(t->path, &t->identity, &t->e) == 0)
			(void)envs_read(t->path, t->use, &w->stop, &t->archive, &t->e);
		break;
	case ENVS_RUN:
		run(w, t);
		break;
	case ENVS_STOP:
		break;
	}
}

static void *loop(void *arg)
{
	struct envs_worker *w = arg;

	while (!atomic_load(&w->stop)) {
		struct pollfd p = { inbox_fd(&w->inbox), POLLIN, 0 };
		struct list got = LIST_INIT(got);
		struct list *n;

		(void)poll(&p, 1, -1);
		inbox_take(&w->inbox, &got);
		while ((n = list_pop(&got))) {
			struct envs_task *t = container_of(container_of(n, struct msg, node), struct envs_task, m);

			if (!atomic_load(&w->stop))
				work(w, t);
			if (t->to && !atomic_load(&w->stop))
				inbox_post(t->to, &t->m);
			else
				msg_release(&t->m);
		}
	}
	return NULL;
}

struct envs_worker *envs_worker_new(void)
{
	struct envs_worker *w = xcalloc(1, sizeof(*w));
	sigset_t all, old;
	int rc = inbox_init(&w->inbox);

	if (rc == 0) {
		/* Signals are the reactor's. */
		(void)sigfillset(&all);
		(void)pthread_sigmask(SIG_SETMASK, &all, &old);
		rc = pthread_create(&w->thread, NULL, loop, w);
		(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
		if (rc == 0)
			return w;
		inbox_release(&w->inbox);
	}
	free(w);
	return NULL;
}

void envs_worker_post(struct envs_worker *w, struct envs_task *t)
{
	inbox_post(&w->inbox, &t->m);
}

void envs_worker_free(struct envs_worker *w)
{
	if (!w)
		return;
	atomic_store(&w->stop, true);
	inbox_post(&w->inbox, &envs_task_new(ENVS_STOP, NULL, 0)->m);
	(void)pthread_join(w->thread, NULL);
	inbox_release(&w->inbox);
	free(w);
}
