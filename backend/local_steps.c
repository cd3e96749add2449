/*
 * Runs in sessions of this machine. A step is put into the queue of its session's own job (its holder), whose runner
 * starts it (launchers/session_runner.c), so steps need this process as little as jobs do. What a step is at is what
 * the files say: `steps` of the holder, `started` of the step, its record in `ends`. The kernel tells when these change
 * (inotify(7)); once a second they are looked at anyway, more often where it cannot tell.
 *
 * Invariants: the line in the queue comes after `intent`, and two lines start a step once; a step is void before it is
 * called lost, and nothing is said of one without a record before its holder is over, or its runner has left `gone`.
 */
#include "backend/local.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#define LOOK_US USEC_PER_SEC
#define LOOK_BLIND_US (20 * USEC_PER_MSEC)
#define STEPS_MAX (4u << 20)

/* A session with steps that have not ended. */
struct local_hold {
	struct list node;
	uint32_t num, attempt;
	char *dir;         /* of the holder's attempt */
	struct list steps; /* local_job.order */
	int watch;         /* inotify's number of `dir`; -1: none */
	int64_t look_at;   /* monotonic us */
	uint64_t serial;   /* of the last look at `steps` */
	bool changed;
};

bool local_is_step(const struct local_job *j)
{
	return j->job->holder.num != 0;
}

/* --- sessions --- */

static void watch_begin(struct cluster *c)
{
	if (c->inotify != -1)
		return;
	c->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (c->inotify < 0) {
		log_warn("cluster local: sessions are looked at all the time: inotify: %s", strerror(errno));
		c->inotify = -2;
	}
}

static int watch(const struct cluster *c, const char *dir)
{
	return c->inotify < 0 ? -1 : inotify_add_watch(c->inotify, dir, IN_MOVED_TO | IN_ONLYDIR);
}

static struct local_hold *hold_of(struct cluster *c, const struct local_job *j)
{
	const struct job_holder *h = &j->job->holder;
	struct local_hold *s;
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->holds) {
		s = container_of(n, struct local_hold, node);
		if (s->num == h->num && s->attempt == h->attempt)
			return s;
	}
	s = xcalloc(1, sizeof(*s));
	s->num = h->num;
	s->attempt = h->attempt;
	s->dir = xasprintf("%s/runs/%u/a%u", j->base, h->num, h->attempt);
	list_init(&s->steps);
	watch_begin(c);
	s->watch = watch(c, s->dir);
	list_add_tail(&c->holds, &s->node);
	return s;
}

static void hold_free(struct cluster *c, struct local_hold *s)
{
	if (s->watch >= 0)
		(void)inotify_rm_watch(c->inotify, s->watch);
	list_del(&s->node);
	free(s->dir);
	free(s);
}

/* Its job is over: what it has not started will never start, and what it has is gone with it. */
static bool is_over(struct cluster *c, const struct local_hold *s)
{
	const struct local_job *holder = local_find(c, s->num);
	pid_t pid;

	if (holder && holder->attempt == s->attempt)
		return holder->state == LOCAL_ENDED;
	switch (supervisor_look(s->dir, &pid)) {
	case SUPERVISOR_DEAD:
		supervisor_sweep(s->dir);
		return true;
	case SUPERVISOR_VOID:
		return true;
	default:
		return false;
	}
}

void local_step_enter(struct cluster *c, struct local_job *j)
{
	cleanup_free char *ends = xasprintf("%s/ends", j->base);

	j->hold = hold_of(c, j);
	list_add_tail(&j->hold->steps, &j->order);
	(void)watch(c, ends); /* the same one again, if it is there */
	j->hold->look_at = is_over(c, j->hold) ? clock_mono(c->ctx.clock) + LOOK_US : 0;
}

void local_steps_release(struct cluster *c)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->holds)
		hold_free(c, container_of(n, struct local_hold, node));
	if (c->inotify >= 0)
		(void)close(c->inotify);
}

/* --- telling the runner --- */

/* Somebody who reads is needed to open the bell for writing, so it is opened for both (fifo(7)); a lost ring costs the
 * runner's pause. */
static void ring(const char *dir)
{
	cleanup_free char *path = xasprintf("%s/bell", dir);
	cleanup_close int fd = open(path, O_RDWR | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
		(void)!write(fd, "\n", 1);
}

/* The empty line in front ends one that an earlier writer could not finish. */
static int tell(const char *dir, const char *file, const char *words)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, file), *line = xasprintf("\n%s .\n", words);
	cleanup_close int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	size_t len = strlen(line);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, line, len);
	if (n != (ssize_t)len)
		return n < 0 ? -errno : -ENOSPC;
	ring(dir);
	return 0;
}

int local_order(const char *dir, const char *words)
{
	return tell(dir, "orders", words);
}

int local_step_queue(const struct local_job *j, struct err *e)
{
	cleanup_strbuf struct strbuf line = STRBUF_INIT;
	const struct job *job = j->job;
	int rc;

	strbuf_addf(&line, "%u/a%u ", j->run, j->attempt);
	job_step_line(job, &line);
	rc = tell(j->hold->dir, "queue", line.buf);
	return rc < 0 ? err_sys(e, rc, "cannot write to the queue of the session in %s", j->hold->dir) : 0;
}

static void tell_step(const struct local_job *j, const char *verb, const char *arg, int *rc)
{
	char words[96];

	(void)snprintf(words, sizeof(words), "%s %u/a%u %s", verb, j->run, j->attempt, arg);
	*rc = local_order(j->hold->dir, words);
}

int local_step_cancel(struct cluster *c, struct local_job *j)
{
	char grace[16];
	int rc;

	(void)snprintf(grace, sizeof(grace), "%d", j->job->grace_s);
	local_job_call_off(j);
	tell_step(j, "cancel", local_step_void(j) ? "0" : grace, &rc);
	return local_step_settle(c, j, false) ? 0 : rc;
}

int local_step_signal(const struct local_job *j, int sig)
{
	const char *name = sigabbrev_np(sig);
	int rc = -EINVAL;

	if (name)
		tell_step(j, "signal", name, &rc);
	return rc;
}

/* --- what a step is at --- */

bool local_step_void(const struct local_job *j)
{
	cleanup_free char *path = xasprintf("%s/started", j->dir);
	char to[16];
	ssize_t n;

	if (symlink("void", path) == 0)
		return true;
	n = readlink(path, to, sizeof(to));
	return n == 4 && memcmp(to, "void", 4) == 0;
}

static enum { STEP_NEW, STEP_VOID, STEP_STARTED } started(const struct local_job *j, int64_t *when)
{
	cleanup_free char *path = xasprintf("%s/started", j->dir);
	struct stat st;
	char to[16];
	ssize_t n = readlink(path, to, sizeof(to));

	if (n < 0)
		return STEP_NEW;
	if (n == 4 && memcmp(to, "void", 4) == 0)
		return STEP_VOID;
	if (when && lstat(path, &st) == 0)
		*when = (int64_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
	return STEP_STARTED;
}

static bool has(const struct local_job *j, const char *name)
{
	cleanup_free char *path = xasprintf("%s/%s", j->dir, name);

	return access(path, F_OK) == 0;
}

/* What the runner leaves of a step whose wrapper was killed: an empty file, or the name of a lost node. */
static struct event *without_wrapper(struct local_job *j)
{
	bool off = local_job_called_off(j);

	if (off || has(j, "stopped"))
		return local_job_no_record(j, "cancelled",
					   off ? "cancelled, and it left no exit record"
					       : "its session ended while it ran, and it left no exit record");
	return local_job_no_record(j, "failed", "ended, cause unknown: it was killed, and left no exit record");
}

static struct event *when_over(struct local_job *j)
{
	bool off = local_job_called_off(j);

	if (off || has(j, "stopped"))
		return without_wrapper(j);
	return local_job_no_record(j, "node_failed",
				   "its session is gone, and with it the run, which left no exit record");
}

static struct event *lost(const struct cluster *c, const struct local_job *j)
{
	return event_new(EV_LOST, clock_real(c->ctx.clock),
			 json_pack("{s:i, s:s, s:s}", "attempt", (int)j->attempt, "source", "session", "why",
				   "its session ended before it started"));
}

struct event *local_step_end(struct cluster *c, struct local_job *j, bool over)
{
	struct exit_record rec;

	if (local_job_record(j, &rec))
		return exit_record_event(&rec, NULL, local_job_called_off(j), clock_real(c->ctx.clock));
	if (started(j, NULL) == STEP_STARTED)
		return has(j, "gone") ? without_wrapper(j) : over ? when_over(j) : NULL;
	if (over && !local_step_void(j))
		return when_over(j);
	if (started(j, NULL) == STEP_NEW)
		return NULL;
	return local_job_called_off(j) ? local_job_no_record(j, "cancelled", "cancelled before it started")
				       : lost(c, j);
}

bool local_step_is_running(const struct local_job *j, int64_t *since)
{
	return started(j, since) == STEP_STARTED;
}

/* --- looking --- */

static void on_row(struct cluster *c, struct local_hold *s, const char *row)
{
	char *end;
	unsigned long num = strtoul(row, &end, 10);
	struct local_job *j;

	if (end == row || strncmp(end, "/a", 2) != 0 || num > UINT32_MAX || !(j = local_find(c, (uint32_t)num)) ||
	    j->hold != s || strtoul(end + 2, &end, 10) != j->attempt)
		return;
	j->step_seen = s->serial;
	if (strncmp(end, " RUNNING", 8) == 0 && j->state == LOCAL_PENDING)
		local_step_runs(c, j);
	else if (j->state == LOCAL_PENDING && !j->said_pending)
		local_step_waits(c, j);
}

static void read_rows(struct cluster *c, struct local_hold *s)
{
	cleanup_free char *path = xasprintf("%s/steps", s->dir);
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	s->serial++;
	if (strbuf_read_file(&text, path, STEPS_MAX) <= 0)
		return;
	for (const char *p = text.buf; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
		on_row(c, s, p);
}

static void look(struct cluster *c, struct local_hold *s, bool all)
{
	bool over = is_over(c, s);
	struct list *n, *tmp;

	read_rows(c, s);
	list_for_each_safe (n, tmp, &s->steps) {
		struct local_job *j = container_of(n, struct local_job, order);

		if (j->env) /* nobody knows of it so far */
			continue;
		if (over || (all && j->state == LOCAL_RUNNING) || j->step_seen != s->serial)
			(void)local_step_settle(c, j, over);
	}
}

int64_t local_steps_follow(struct cluster *c, int64_t now)
{
	int64_t next = INT64_MAX, pause = c->inotify >= 0 ? LOOK_US : LOOK_BLIND_US;
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->holds) {
		struct local_hold *s = container_of(n, struct local_hold, node);
		bool due = s->look_at <= now;

		if (list_empty(&s->steps)) {
			hold_free(c, s);
			continue;
		}
		if (!due && !s->changed) {
			next = s->look_at < next ? s->look_at : next;
			continue;
		}
		s->changed = false;
		if (due)
			s->look_at = now + pause;
		next = s->look_at < next ? s->look_at : next;
		look(c, s, due);
	}
	return next;
}

/* A record's name is NUM.aATTEMPT. */
static void on_name(struct cluster *c, int wd, const char *name)
{
	char *end;
	unsigned long num;
	struct local_job *j;
	struct list *n, *tmp;

	if (strcmp(name, "steps") == 0) {
		list_for_each_safe (n, tmp, &c->holds) {
			struct local_hold *s = container_of(n, struct local_hold, node);

			s->changed |= s->watch == wd;
		}
		return;
	}
	num = strtoul(name, &end, 10);
	if (end == name || strncmp(end, ".a", 2) != 0 || num > UINT32_MAX || !(j = local_find(c, (uint32_t)num)) ||
	    !j->hold || j->env || strtoul(end + 2, NULL, 10) != j->attempt)
		return;
	(void)local_step_settle(c, j, false);
}

void local_steps_changed(struct cluster *c)
{
	_Alignas(struct inotify_event) char buf[16384];
	ssize_t len;

	while ((len = read(c->inotify, buf, sizeof(buf))) > 0) {
		for (ssize_t at = 0; at < len;) {
			const struct inotify_event *ev = (const struct inotify_event *)(const void *)(buf + at);

			at += (ssize_t)(sizeof(*ev) + ev->len);
			if (ev->mask & IN_Q_OVERFLOW)
				local_steps_look(c, 0);
			else if (ev->len)
				on_name(c, ev->wd, ev->name);
		}
	}
}

void local_steps_look(struct cluster *c, int64_t at)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->holds)
		container_of(n, struct local_hold, node)->look_at = at;
}
