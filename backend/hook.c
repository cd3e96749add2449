/*
 * The thread that runs `on_event`. It reads the feed from where it was told to, starts a command for each change of a
 * run on a cluster that has one, at most PARALLEL at a time, and reports how far all have ended.
 *
 * Invariants: commands are started in the order of the lines; what is reported lies before the first line whose command
 * has not ended. A command gets the words of a line as environment variables and never as text of a shell. Its output
 * goes to the log, line by line, as far as it is short.
 */
#include "backend/hook.h"

#include "backend/base/clock.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PARALLEL 4
#define DEADLINE_MS 60000
#define KILL_MS 5000             /* from TERM to KILL */
#define LINE_BYTES (1024 * 1024) /* longer lines are no change of status */
#define HEAD_BYTES 65536         /* names and tags of a line are shorter than this */
#define VALUE_BYTES 4096         /* of a variable */
#define LOG_LINES 100            /* of a command's output */

extern char **environ;

struct child {
	pid_t pid; /* 0: free */
	int pidfd, out;
	uint64_t at; /* of its line */
	int64_t until;
	bool ended; /* TERM was sent */
	char what[200];
	struct strbuf line; /* of its output, so far */
	int lines;
};

struct hook {
	struct hook_conf conf;
	struct inbox in;
	pthread_t thread;
	atomic_bool stop;
	atomic_int stop_ms;
	int fd;
	uint64_t next, len, told;
	struct child child[PARALLEL];
};

struct grew {
	struct msg m;
	uint64_t len;
};

static void release(struct msg *m)
{
	free(m);
}

bool hook_wanted(const struct config *config)
{
	for (size_t i = 0; i < config->n_clusters; i++)
		if (config_on_event(config, config->clusters[i]->name))
			return true;
	return false;
}

/* --- commands --- */

static bool is_ours(const char *var)
{
	return strncmp(var, "SLURMRAY_", 9) == 0;
}

struct vars {
	char **v;
	size_t n;
};

static void add_var(struct vars *vars, const char *name, const char *value)
{
	vars->v = xrealloc(vars->v, (vars->n + 2) * sizeof(char *));
	vars->v[vars->n++] = xasprintf("%s=%.*s", name, VALUE_BYTES, value ? value : "");
	vars->v[vars->n] = NULL;
}

static void add_environ(struct vars *vars)
{
	for (char **e = environ; e && *e; e++) {
		if (is_ours(*e))
			continue;
		vars->v = xrealloc(vars->v, (vars->n + 2) * sizeof(char *));
		vars->v[vars->n++] = xstrdup(*e);
		vars->v[vars->n] = NULL;
	}
}

static const char *member(const json_t *row, const char *key)
{
	return json_string_value(json_object_get(row, key));
}

static char **make_environ(const struct hook *h, const json_t *row, uint64_t at)
{
	static const struct {
		const char *var, *key;
	} words[] = {
		{ "SLURMRAY_RUN", "run" },         { "SLURMRAY_STATUS", "to" }, { "SLURMRAY_FROM", "from" },
		{ "SLURMRAY_CLUSTER", "cluster" }, { "SLURMRAY_NAME", "name" }, { "SLURMRAY_WHY", "why" },
		{ "SLURMRAY_TIME", "time" },
	};
	const json_t *code = json_object_get(row, "code"), *tags = json_object_get(row, "tags");
	cleanup_strbuf struct strbuf list = STRBUF_INIT;
	struct vars vars = { 0 };
	char number[24] = "";

	add_environ(&vars);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		add_var(&vars, words[i].var, member(row, words[i].key));
	if (json_is_integer(code))
		(void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(code));
	add_var(&vars, "SLURMRAY_CODE", number);
	(void)snprintf(number, sizeof(number), "%llu", (unsigned long long)at);
	add_var(&vars, "SLURMRAY_EVENT", number);
	for (size_t i = 0; i < json_array_size(tags); i++)
		strbuf_addf(&list, "%s%s", i ? " " : "", json_string_value(json_array_get(tags, i)));
	add_var(&vars, "SLURMRAY_TAGS", list.buf);
	add_var(&vars, "SLURMRAY_MOUNT", h->conf.mount_dir);
	return vars.v;
}

/* A process group of its own, and nothing of the daemon's but its environment. */
static pid_t spawn(const char *command, char *const *env, int out)
{
	pid_t pid = fork();

	if (pid == 0) {
		int null = open("/dev/null", O_RDONLY);
		sigset_t none;

		(void)setpgid(0, 0);
		(void)signal(SIGPIPE, SIG_DFL);
		(void)sigemptyset(&none);
		(void)sigprocmask(SIG_SETMASK, &none, NULL);
		(void)dup2(null, 0);
		(void)dup2(out, 1);
		(void)dup2(out, 2);
		(void)syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC (close_range(2)) */);
		if (chdir("/") == 0)
			(void)execle("/bin/sh", "sh", "-c", command, (char *)NULL, env);
		_exit(126);
	}
	if (pid > 0)
		(void)setpgid(pid, pid);
	return pid;
}

static void start(struct hook *h, struct child *c, const char *command, const json_t *row, uint64_t at)
{
	char **env = make_environ(h, row, at);
	int fd[2] = { -1, -1 };

	(void)snprintf(c->what, sizeof(c->what), "on_event of run %s (%s)", member(row, "run"), member(row, "to"));
	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) == 0 && fcntl(fd[1], F_SETFL, 0) == 0)
		c->pid = spawn(command, env, fd[1]);
	if (fd[1] >= 0)
		(void)close(fd[1]);
	for (char **v = env; *v; v++)
		free(*v);
	free(env);
	if (c->pid <= 0) {
		log_error("%s: it cannot be started: %s", c->what, strerror(errno));
		c->pid = 0;
		if (fd[0] >= 0)
			(void)close(fd[0]);
		return;
	}
	c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0u);
	c->out = fd[0];
	c->at = at;
	c->until = clock_mono(&clock_system) +
		   (h->conf.deadline_ms ? h->conf.deadline_ms : DEADLINE_MS) * (int64_t)USEC_PER_MSEC;
	c->ended = false;
	c->lines = 0;
	strbuf_reset(&c->line);
}

static void log_line(struct child *c)
{
	for (size_t i = 0; i < c->line.len; i++)
		if ((unsigned char)c->line.buf[i] < ' ' || c->line.buf[i] == 127)
			c->line.buf[i] = '?';
	if (c->line.len && c->lines++ < LOG_LINES)
		log_info("%s: %s", c->what, c->line.buf);
	strbuf_reset(&c->line);
}

/* What is there; false at the end. */
static bool read_output(struct child *c)
{
	char buf[4096];
	ssize_t n = read(c->out, buf, sizeof(buf));

	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] == '\n' || c->line.len >= 500)
			log_line(c);
		if (buf[i] != '\n')
			strbuf_addch(&c->line, buf[i]);
	}
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void close_child(struct child *c)
{
	if (c->out >= 0) {
		for (int i = 0; i < 16 && read_output(c); i++) /* what is left in the pipe */
			;
		(void)close(c->out);
	}
	log_line(c);
	if (c->pidfd >= 0)
		(void)close(c->pidfd);
	c->pid = 0;
}

static void look(struct child *c, int64_t now)
{
	int status = 0;
	pid_t pid = waitpid(c->pid, &status, WNOHANG);

	if (pid == 0 && now < c->until)
		return;
	if (pid == 0) {
		if (!c->ended)
			log_warn("%s: it did not end in time and is ended", c->what);
		(void)kill(-c->pid, c->ended ? SIGKILL : SIGTERM);
		c->ended = true;
		c->until = now + KILL_MS * (int64_t)USEC_PER_MSEC;
		return;
	}
	if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) != 0)
		log_warn("%s: it exited with %d", c->what, WEXITSTATUS(status));
	else if (pid > 0 && WIFSIGNALED(status) && !c->ended)
		log_warn("%s: it was ended by signal %d", c->what, WTERMSIG(status));
	close_child(c);
}

/* --- lines --- */

/* The line at `next`, with its newline; false: it is none that matters, or cannot be read. *size is its length. */
static bool read_line(struct hook *h, struct strbuf *line, uint64_t *size)
{
	char buf[HEAD_BYTES];
	uint64_t at = h->next;

	strbuf_reset(line);
	while (at < h->len) {
		size_t want = h->len - at < sizeof(buf) ? (size_t)(h->len - at) : sizeof(buf);
		ssize_t n = pread(h->fd, buf, want, (off_t)at);
		const char *nl = n > 0 ? memchr(buf, '\n', (size_t)n) : NULL;

		if (n <= 0)
			break;
		if (nl)
			n = nl + 1 - buf;
		if (line->len < LINE_BYTES)
			strbuf_add(line, buf, (size_t)n);
		at += (uint64_t)n;
		if (nl)
			break;
	}
	*size = at - h->next;
	return line->len < LINE_BYTES && line->len && strstr(line->buf, "\"type\":\"status\"");
}

static struct child *free_child(struct hook *h)
{
	for (int i = 0; i < PARALLEL; i++)
		if (!h->child[i].pid)
			return &h->child[i];
	return NULL;
}

static void take_lines(struct hook *h)
{
	cleanup_strbuf struct strbuf line = STRBUF_INIT;
	struct child *c;

	while (h->next < h->len && (c = free_child(h)) && !atomic_load(&h->stop)) {
		uint64_t size, at = h->next;
		json_t *row = read_line(h, &line, &size) ? json_loadb(line.buf, line.len, 0, NULL) : NULL;
		const char *cluster = row ? member(row, "cluster") : NULL;
		const char *command = cluster ? config_on_event(h->conf.config, cluster) : NULL;

		if (!size) {
			json_decref(row);
			break;
		}
		h->next = at + size;
		if (command && member(row, "to"))
			start(h, c, command, row, at);
		json_decref(row);
	}
}

/* --- the thread --- */

static uint64_t told(const struct hook *h)
{
	uint64_t at = h->next;

	for (int i = 0; i < PARALLEL; i++)
		if (h->child[i].pid && h->child[i].at < at)
			at = h->child[i].at;
	return at;
}

static void report(struct hook *h)
{
	uint64_t at = told(h);
	struct hook_msg *m;

	if (at == h->told || atomic_load(&h->stop))
		return;
	h->told = at;
	m = xcalloc(1, sizeof(*m));
	m->m.type = HOOK_TOLD;
	m->m.release = release;
	m->at = at;
	inbox_post(h->conf.replies, &m->m);
}

static void take_news(struct hook *h)
{
	struct list got = LIST_INIT(got), *n;

	inbox_take(&h->in, &got);
	while ((n = list_pop(&got))) {
		struct grew *g = container_of(container_of(n, struct msg, node), struct grew, m);

		if (g->len > h->len)
			h->len = g->len;
		free(g);
	}
}

static void wait_for_work(struct hook *h)
{
	struct pollfd p[1 + 2 * PARALLEL] = { { inbox_fd(&h->in), POLLIN, 0 } };
	int64_t now = clock_mono(&clock_system), until = INT64_MAX;
	struct child *reads[1 + 2 * PARALLEL] = { 0 };
	nfds_t n = 1;
	int ms = -1;

	for (int i = 0; i < PARALLEL; i++) {
		struct child *c = &h->child[i];

		if (!c->pid)
			continue;
		until = c->until < until ? c->until : until;
		p[n++] = (struct pollfd){ c->pidfd, POLLIN, 0 };
		reads[n] = c;
		p[n++] = (struct pollfd){ c->out, POLLIN, 0 };
	}
	if (until != INT64_MAX)
		ms = until <= now ? 0 : (int)((until - now) / USEC_PER_MSEC) + 1;
	if (poll(p, n, ms) <= 0)
		return;
	for (nfds_t i = 1; i < n; i++)
		if (reads[i] && p[i].revents && !read_output(reads[i])) {
			(void)close(reads[i]->out); /* closed its output, and goes on */
			reads[i]->out = -1;
		}
}

/* The others have until then. */
static void end_children(struct hook *h)
{
	int64_t now = clock_mono(&clock_system), end = now + atomic_load(&h->stop_ms) * (int64_t)USEC_PER_MSEC;
	bool left = true;

	for (int i = 0; i < PARALLEL; i++)
		if (h->child[i].pid) {
			h->child[i].ended = true;
			h->child[i].until = end;
			(void)kill(-h->child[i].pid, SIGTERM);
		}
	while (left) {
		left = false;
		for (int i = 0; i < PARALLEL; i++) {
			if (h->child[i].pid)
				look(&h->child[i], clock_mono(&clock_system));
			left |= h->child[i].pid != 0;
		}
		if (left)
			(void)poll(NULL, 0, 10);
	}
}

static void *loop(void *arg)
{
	struct hook *h = arg;

	while (!atomic_load(&h->stop)) {
		take_news(h);
		for (int i = 0; i < PARALLEL; i++)
			if (h->child[i].pid)
				look(&h->child[i], clock_mono(&clock_system));
		take_lines(h);
		report(h);
		if (!atomic_load(&h->stop))
			wait_for_work(h);
	}
	h->told = told(h);
	end_children(h);
	return NULL;
}

/* --- start and end --- */

int hook_start(const struct hook_conf *conf, struct hook **out, struct err *e)
{
	struct hook *h = xcalloc(1, sizeof(*h));
	sigset_t all, old;
	int rc;

	h->conf = *conf;
	h->conf.feed = NULL; /* the caller's */
	h->next = h->told = conf->at;
	h->len = conf->len;
	for (int i = 0; i < PARALLEL; i++)
		strbuf_init(&h->child[i].line);
	h->fd = open(conf->feed, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	rc = h->fd < 0 ? -errno : inbox_init(&h->in);
	if (!rc) {
		/* signals are the reactor's */
		(void)sigfillset(&all);
		(void)pthread_sigmask(SIG_SETMASK, &all, &old);
		rc = -pthread_create(&h->thread, NULL, loop, h);
		(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
		if (rc)
			inbox_release(&h->in);
	}
	if (rc) {
		if (h->fd >= 0)
			(void)close(h->fd);
		free(h);
		return err_sys(e, rc, "cannot start the thread for on_event");
	}
	*out = h;
	return 0;
}

void hook_grew(struct hook *h, uint64_t len)
{
	struct grew *g = xcalloc(1, sizeof(*g));

	g->m.release = release;
	g->len = len;
	inbox_post(&h->in, &g->m);
}

uint64_t hook_stop(struct hook *h, int ms)
{
	uint64_t at;

	if (!h)
		return 0;
	atomic_store(&h->stop_ms, ms);
	atomic_store(&h->stop, true);
	hook_grew(h, 0); /* wakes it */
	(void)pthread_join(h->thread, NULL);
	at = h->told;
	for (int i = 0; i < PARALLEL; i++)
		strbuf_release(&h->child[i].line);
	inbox_release(&h->in);
	(void)close(h->fd);
	free(h);
	return at;
}
