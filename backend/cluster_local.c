/*
 * The cluster `local`: jobs are processes of this machine, and queue for its cores and memory in the order in which
 * they came. The thread owns the queue and starts supervisors; from then on a job needs nobody: it ends, and its record
 * is found, whoever looks.
 *
 * Resources are counted for running jobs only; after a restart the running ones are counted again as they are watched.
 */
#include "backend/local.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define MAX_POLLED 1024
#define START_LOOK_US (2 * USEC_PER_MSEC) /* for the link of a supervisor that was just started */
#define OVER_US (200 * USEC_PER_MSEC)
#define TELL_AGAIN_US (10 * USEC_PER_MSEC)

/* --- reporting --- */

void local_event(struct cluster *c, const struct local_job *j, enum event_type type, json_t *data)
{
	struct crep *rep = crep_new(CREP_EVENT, c);

	(void)json_object_set_new(data, "attempt", json_integer(j->attempt));
	if (!json_object_get(data, "source"))
		(void)json_object_set_new(data, "source", json_string("supervisor"));
	rep->run = j->run;
	rep->ev = event_new(type, clock_real(c->ctx.clock), data);
	inbox_post(c->ctx.replies, &rep->m);
}

void local_reply(struct cluster *c, const struct creq *r, int code, const char *text, const char *data, size_t len)
{
	struct crep *rep;

	if (!r->ticket)
		return;
	rep = crep_new(CREP_REPLY, c);
	rep->run = r->run;
	rep->ticket = r->ticket;
	rep->code = code;
	rep->text = xstrdup(text ? text : "");
	if (data) {
		rep->data = xmalloc(len + 1);
		memcpy(rep->data, data, len);
		rep->data[len] = '\0';
		rep->len = len;
	}
	inbox_post(c->ctx.replies, &rep->m);
}

static void report_running(struct cluster *c, struct local_job *j)
{
	char host[64] = "localhost";
	int64_t since = 0;
	json_t *d;

	if (local_is_step(j))
		(void)local_step_is_running(j, &since);
	else
		since = supervisor_since(j->dir);
	j->said_running = true;
	(void)gethostname(host, sizeof(host) - 1);
	d = json_pack("{s:s, s:s}", "status", "running", "nodes", host);
	if (since)
		(void)json_object_set_new(d, "start", json_integer(since));
	local_event(c, j, EV_STATE, d);
	point(POINT_LOCAL_RUNNING);
}

static void report_pending(struct cluster *c, const struct local_job *j)
{
	const char *why = local_is_step(j) ? "waiting for room in its session"
			  : j->held        ? "held by the user"
					   : "waiting for cores or memory";

	local_event(c, j, EV_STATE, json_pack("{s:s, s:s}", "status", "pending", "reason", why));
}

/* --- resources --- */

int local_cores(const struct local_job *j)
{
	int tasks = j->job->ntasks > 0 ? j->job->ntasks : 1,
	    per = j->job->cpus_per_task > 0 ? j->job->cpus_per_task : 1;

	return tasks * per;
}

/* What a step has is its session's. */
static void take(struct cluster *c, const struct local_job *j)
{
	if (local_is_step(j))
		return;
	c->used_cores += local_cores(j);
	c->used_mem += j->job->mem_bytes;
}

static void give_back(struct cluster *c, const struct local_job *j)
{
	if (local_is_step(j))
		return;
	c->used_cores -= local_cores(j);
	c->used_mem -= j->job->mem_bytes;
}

static bool fits(const struct cluster *c, const struct local_job *j)
{
	if (c->used_cores == 0)
		return true; /* whatever it asked for, it is alone */
	return c->used_cores + local_cores(j) <= c->cores && c->used_mem + j->job->mem_bytes <= c->mem;
}

/* --- jobs --- */

struct local_job *local_find(const struct cluster *c, uint32_t run)
{
	struct hmap_node *n = hmap_first(&c->jobs, hash_u64(run));

	for (; n; n = hmap_next(n)) {
		struct local_job *j = container_of(n, struct local_job, by_run);

		if (j->run == run)
			return j;
	}
	return NULL;
}

static void forget(struct cluster *c, struct local_job *j)
{
	if (j->state == LOCAL_RUNNING)
		give_back(c, j);
	hmap_remove(&c->jobs, &j->by_run);
	list_del(&j->order);
	local_job_free(j);
}

/* What is in the files is in the spool, on the disk, before anybody hears of the end. */
static void end_with(struct cluster *c, struct local_job *j, struct event *ev)
{
	struct crep *rep = crep_new(CREP_EVENT, c);

	if (j->state == LOCAL_RUNNING)
		give_back(c, j);
	list_del(&j->order);
	j->hold = NULL;
	j->env = NULL;
	j->state = LOCAL_ENDED;
	if (j->pid_fd >= 0)
		(void)close(j->pid_fd);
	j->pid_fd = -1;
	j->out_len = event_int(ev, "out_len", 0);
	j->err_len = event_int(ev, "err_len", 0);
	j->events_len = event_int(ev, "events_len", 0);
	local_logs(c, j);
	if (j->spool && !j->logs_done)
		(void)spool_sync(j->spool);
	rep->run = j->run;
	rep->ev = ev;
	inbox_post(c->ctx.replies, &rep->m);
	point(POINT_LOCAL_ENDED);
}

static void ended(struct cluster *c, struct local_job *j)
{
	struct event *ev;
	pid_t pid;

	point(POINT_LOCAL_ENDING);
	if (!j->said_running && supervisor_look(j->dir, &pid) == SUPERVISOR_DEAD)
		report_running(c, j); /* it was too quick to be seen */
	ev = local_job_end(c, j);
	end_with(c, j, ev);
	/* It may have been a session. Who hears of its end before that of its steps does not put them there again. */
	local_steps_look(c, clock_mono(c->ctx.clock) + OVER_US);
}

bool local_step_settle(struct cluster *c, struct local_job *j, bool over)
{
	struct event *ev = local_step_end(c, j, over);
	struct crep *rep;

	if (!ev)
		return false;
	if (ev->type != EV_LOST) {
		end_with(c, j, ev);
		return true;
	}
	rep = crep_new(CREP_EVENT, c);
	rep->run = j->run;
	rep->ev = ev;
	inbox_post(c->ctx.replies, &rep->m);
	forget(c, j);
	return true;
}

void local_step_runs(struct cluster *c, struct local_job *j)
{
	j->state = LOCAL_RUNNING;
	report_running(c, j);
}

void local_step_waits(struct cluster *c, struct local_job *j)
{
	j->said_pending = true;
	report_pending(c, j);
}

static void start_jobs(struct cluster *c)
{
	while (!list_empty(&c->queue)) {
		struct local_job *j = NULL;
		struct list *n, *tmp;
		struct err e = ERR_INIT;

		list_for_each_safe (n, tmp, &c->queue) {
			j = container_of(n, struct local_job, order);
			if (!j->held)
				break;
			j = NULL;
		}
		if (!j || !fits(c, j))
			return;
		if (local_job_start(c, j, &e) < 0) { /* no process to be had: later */
			log_warn("run %u: %s", j->run, e.text);
			return;
		}
		list_del(&j->order);
		j->state = LOCAL_RUNNING;
		take(c, j);
	}
}

/* --- requests --- */

static void adopt(struct cluster *c, struct local_job *j, pid_t pid)
{
	local_job_adopt(j, pid);
	j->state = LOCAL_RUNNING;
	take(c, j);
	report_running(c, j);
}

static void submitted(struct cluster *c, const struct local_job *j, bool known)
{
	if (!known)
		local_event(c, j, EV_SUBMITTED, json_pack("{s:s}", "job_id", j->job_id));
}

/* It cannot start, and never will. */
static void refuse(struct cluster *c, struct local_job *j, bool known, const char *why)
{
	if (known)
		local_event(c, j, EV_END,
			    json_pack("{s:s, s:s, s:i, s:i, s:i}", "status", "failed", "why", why, "out_len", 0,
				      "err_len", 0, "events_len", 0));
	else
		local_event(c, j, EV_REJECTED, json_pack("{s:s}", "why", why));
	forget(c, j);
}

/* Not started so far. */
static void enqueue(struct cluster *c, struct local_job *j, const struct creq *r, bool known)
{
	struct err e = ERR_INIT;

	if (!r->script) { /* nobody knows any more what it was: the next attempt will be told */
		(void)(local_is_step(j) ? local_step_void(j) : supervisor_void(j->dir));
		local_event(c, j, EV_LOST,
			    json_pack("{s:s}", "why", "it had not started, and its script cannot be made again"));
		forget(c, j);
		return;
	}
	if (local_job_prepare(c, j, r, &e) < 0) {
		refuse(c, j, known, e.text);
		return;
	}
	point(POINT_LOCAL_PREPARED);
	j->known = known;
	local_env_want(c, j);
}

void local_env_settled(struct cluster *c, struct local_job *j, const char *why)
{
	struct err e = ERR_INIT;

	if (!why && j->hold && local_step_queue(j, &e) < 0)
		why = e.text;
	if (why) {
		refuse(c, j, j->known, why);
		return;
	}
	submitted(c, j, j->known);
	point(POINT_LOCAL_SUBMITTED);
	if (j->hold)
		return;
	list_add_tail(&c->queue, &j->order);
	report_pending(c, j);
}

/* As a job that is submitted or watched: its own files say how far it had come. */
static void on_step(struct cluster *c, struct local_job *j, const struct creq *r, bool known)
{
	struct event *ev;

	local_step_enter(c, j);
	ev = local_step_end(c, j, false);
	if (ev) {
		event_free(ev);
		submitted(c, j, known);
		(void)local_step_settle(c, j, false);
	} else if (local_step_is_running(j, NULL)) {
		submitted(c, j, known);
		local_step_runs(c, j);
	} else {
		enqueue(c, j, r, known);
	}
}

/* SUBMIT, and WATCH after a restart: the directory says how far it had come. */
static void on_submit(struct cluster *c, struct creq *r)
{
	struct local_job *j = local_find(c, r->run);
	bool known = r->job_id != NULL;
	pid_t pid = 0;

	if (j && j->attempt == r->attempt)
		return;
	if (j)
		forget(c, j);
	j = local_job_new(c, r);
	hmap_insert(&c->jobs, &j->by_run, hash_u64(j->run));
	if (r->ended) {
		j->state = LOCAL_ENDED;
		return;
	}
	if (local_is_step(j)) {
		on_step(c, j, r, known);
		return;
	}
	switch (supervisor_look(j->dir, &pid)) {
	case SUPERVISOR_ALIVE:
		submitted(c, j, known);
		adopt(c, j, pid);
		break;
	case SUPERVISOR_DEAD:
	case SUPERVISOR_VOID:
		submitted(c, j, known);
		ended(c, j);
		break;
	default:
		enqueue(c, j, r, known);
		break;
	}
}

/* The supervisor that was watched is gone. It may have found that another had been started before it, by a worker that
 * was killed. */
static void gone(struct cluster *c, struct local_job *j)
{
	pid_t pid;

	if (supervisor_look(j->dir, &pid) != SUPERVISOR_ALIVE) {
		ended(c, j);
		return;
	}
	if (j->pid_fd >= 0)
		(void)close(j->pid_fd);
	local_job_adopt(j, pid);
}

/* While it waits the link decides who was first: the user, or a supervisor that a killed worker had started. */
static void cancel_pending(struct cluster *c, struct local_job *j)
{
	pid_t pid;

	if (!supervisor_void(j->dir) && supervisor_look(j->dir, &pid) == SUPERVISOR_ALIVE) {
		list_del(&j->order);
		adopt(c, j, pid);
		return;
	}
	ended(c, j);
}

static void cancel(struct cluster *c, struct local_job *j, const struct creq *r)
{
	int rc = 0;

	if (j->hold) {
		rc = local_step_cancel(c, j);
		point(POINT_LOCAL_CANCELLED);
		local_reply(c, r, rc, rc ? "its session cannot be told" : "cancelled", NULL, 0);
		return;
	}
	local_job_call_off(j);
	if (j->state == LOCAL_PENDING)
		cancel_pending(c, j);
	if (j->state == LOCAL_RUNNING) {
		rc = supervisor_tell(j->dir, "cancel\n");
		if (rc == -ESRCH) { /* it is starting, or ending: its own signal does the same */
			(void)syscall(SYS_pidfd_send_signal, j->pid_fd, SIGTERM, NULL, 0);
			rc = 0;
		}
	}
	point(POINT_LOCAL_CANCELLED);
	local_reply(c, r, rc, rc ? "the job's supervisor does not listen" : "cancelled", NULL, 0);
}

static int signal_number(const char *name)
{
	char *end;
	long n = strtol(name, &end, 10);

	if (end != name && !*end)
		return n > 0 && n < NSIG ? (int)n : -1;
	if (strncmp(name, "SIG", 3) == 0)
		name += 3;
	for (int i = 1; i < NSIG; i++)
		if (sigabbrev_np(i) && strcmp(sigabbrev_np(i), name) == 0)
			return i;
	return -1;
}

static void send_signal(struct cluster *c, struct local_job *j, const struct creq *r)
{
	int sig = signal_number(r->arg ? r->arg : ""), rc;
	char line[32];
	pid_t pid;

	if (sig < 0) {
		local_reply(c, r, -EINVAL, "there is no such signal: signal takes a name (USR1) or a number", NULL, 0);
		return;
	}
	if (j->state != LOCAL_RUNNING) {
		local_reply(c, r, -ESRCH, "the job is not running", NULL, 0);
		return;
	}
	if (j->hold) {
		rc = local_step_signal(j, sig);
		local_reply(c, r, rc, rc ? "its session cannot be told" : "sent", NULL, 0);
		return;
	}
	(void)snprintf(line, sizeof(line), "signal %d\n", sig);
	rc = supervisor_tell(j->dir, line);
	if (rc == -ESRCH && supervisor_look(j->dir, &pid) == SUPERVISOR_NONE) { /* it is starting: see tell_late */
		strbuf_addstr(&j->to_tell, line);
		rc = 0;
	}
	local_reply(c, r, rc, rc ? "the job's supervisor does not listen" : "sent", NULL, 0);
}

static void hold(struct cluster *c, struct local_job *j, const struct creq *r, bool held)
{
	if (j->state != LOCAL_PENDING) {
		local_reply(c, r, -EBUSY, "only a pending job can be held or released", NULL, 0);
		return;
	}
	j->held = held;
	if (!j->env) /* else it was not submitted so far */
		report_pending(c, j);
	local_reply(c, r, 0, held ? "held" : "released", NULL, 0);
}

/* For the runner of a session. */
static void give_order(struct cluster *c, const struct local_job *j, const struct creq *r)
{
	int rc = local_order(j->dir, r->arg ? r->arg : "");

	local_reply(c, r, rc, rc ? "the session cannot be told" : "", NULL, 0);
}

static void on_verb(struct cluster *c, const struct creq *r)
{
	struct local_job *j = local_find(c, r->run);

	if (!j || j->state == LOCAL_ENDED)
		local_reply(c, r, -ESRCH, "the job has ended", NULL, 0);
	else if (strcmp(r->verb, "cancel") == 0)
		cancel(c, j, r);
	else if (strcmp(r->verb, "signal") == 0)
		send_signal(c, j, r);
	else if (strcmp(r->verb, "order") == 0)
		give_order(c, j, r);
	else if (j->hold && strcmp(r->verb, "refresh") != 0)
		local_reply(c, r, -EINVAL, "a run in a session knows cancel, signal, refresh", NULL, 0);
	else if (strcmp(r->verb, "hold") == 0 || strcmp(r->verb, "release") == 0)
		hold(c, j, r, r->verb[0] == 'h');
	else if (strcmp(r->verb, "refresh") == 0)
		local_reply(c, r, 0, "", NULL, 0);
	else
		local_reply(c, r, -EINVAL,
			    "the local cluster cannot do this: it knows cancel, signal, hold, release, refresh", NULL,
			    0);
}

static void on_end_seen(struct cluster *c, const struct creq *r)
{
	cleanup_free char *base = local_base(c, r), *path = xasprintf("%s/ends/%u.a%u", base, r->run, r->attempt);
	cleanup_free char *secrets = xasprintf("%s/runs/%u/a%u/" JOB_SECRETS, base, r->run, r->attempt);

	(void)unlink(path); /* the supervisor's record, in the attempt's directory, is the whole one */
	if (access(secrets, F_OK) == 0)
		local_remove_tree(secrets);
}

static void handle(struct cluster *c, struct creq *r)
{
	struct local_job *j = local_find(c, r->run);

	switch (r->m.type) {
	case CREQ_SUBMIT:
	case CREQ_WATCH:
		on_submit(c, r);
		break;
	case CREQ_FORGET:
		if (j)
			forget(c, j);
		local_remove(c, r);
		local_reply(c, r, 0, NULL, NULL, 0);
		break;
	case CREQ_END_SEEN:
		on_end_seen(c, r);
		break;
	case CREQ_VERB:
		on_verb(c, r);
		break;
	case CREQ_HOT:
		if (j) {
			j->hot_until = clock_mono(c->ctx.clock) + 30LL * USEC_PER_SEC;
			j->look_at = 0;
		}
		break;
	case CREQ_LIST:
		local_list(c, r);
		break;
	case CREQ_READ:
		local_read(c, r);
		break;
	case CREQ_MANIFEST:
		local_manifest(c, r);
		break;
	case CREQ_PROBE:
		local_probe(c, r);
		break;
	case CREQ_FORWARD: /* its ports are here already */
		local_reply(c, r, 0, r->arg, NULL, 0);
		break;
	default:
		break;
	}
}

/* --- the loop --- */

/* One that could not be watched by its descriptor: it was gone already, or there were no descriptors. */
static void look_again(struct cluster *c, struct local_job *j)
{
	gone(c, j);
	if (j->state == LOCAL_RUNNING && j->pid_fd < 0)
		j->look_at = clock_mono(c->ctx.clock) + USEC_PER_SEC;
}

/* Once a supervisor has made its link it listens. */
static void tell_late(struct local_job *j)
{
	pid_t pid;

	if (supervisor_tell(j->dir, j->to_tell.buf) == -ESRCH && supervisor_look(j->dir, &pid) == SUPERVISOR_NONE)
		return;
	strbuf_reset(&j->to_tell);
}

/* Reports a job as running when its supervisor's link is there, not before: a restart would take it back. True: look
 * again soon. */
static bool starting(struct cluster *c, struct local_job *j)
{
	pid_t pid;

	if (j->said_running)
		return false;
	if (supervisor_look(j->dir, &pid) == SUPERVISOR_ALIVE)
		report_running(c, j);
	return !j->said_running;
}

static int64_t follow(struct cluster *c)
{
	int64_t now = clock_mono(c->ctx.clock), next = now + USEC_PER_SEC, steps = local_steps_follow(c, now);
	struct hmap_node *n = hmap_walk(&c->jobs, NULL), *after;

	if (steps < next)
		next = steps;
	for (; n; n = after) {
		struct local_job *j = container_of(n, struct local_job, by_run);

		after = hmap_walk(&c->jobs, n);
		if (j->state == LOCAL_PENDING)
			continue;
		if (j->state == LOCAL_RUNNING && !j->hold && starting(c, j) && next > now + START_LOOK_US)
			next = now + START_LOOK_US;
		if (!j->logs_done && j->look_at <= now)
			local_logs(c, j);
		if (j->state == LOCAL_RUNNING && j->pid_fd < 0 && !j->hold)
			look_again(c, j);
		if (j->state == LOCAL_RUNNING && j->to_tell.len)
			tell_late(j);
		if (j->state == LOCAL_RUNNING && local_inner(c, j) < next)
			next = j->inner_at;
		if (j->to_tell.len && next > now + TELL_AGAIN_US)
			next = now + TELL_AGAIN_US;
		if (j->logs_done)
			forget(c, j);
		else if (j->look_at < next)
			next = j->look_at;
	}
	return next;
}

/* Supervisors that are gone; waitpid reaps those that this process started. */
static void collect(struct cluster *c, const struct pollfd *fds, struct local_job *const *of, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!(fds[i].revents & (POLLIN | POLLHUP | POLLERR)))
			continue;
		(void)waitpid(of[i]->pid, NULL, WNOHANG);
		gone(c, of[i]);
	}
}

static void take_requests(struct cluster *c)
{
	struct list in = LIST_INIT(in);
	struct list *n;

	inbox_take(&c->inbox, &in);
	while ((n = list_pop(&in))) {
		struct msg *m = container_of(n, struct msg, node);

		if (m->type == 0)
			c->stopping = true;
		else if (m->type == ENVS_READ || m->type == ENVS_RUN)
			local_env_task_done(c, container_of(m, struct envs_task, m));
		else
			handle(c, container_of(m, struct creq, m));
		msg_release(m);
	}
}

static void wait_some(struct cluster *c, int64_t until)
{
	struct local_job *of[MAX_POLLED];
	struct pollfd fds[MAX_POLLED + 2];
	size_t k = 0;
	int64_t left;

	for (struct hmap_node *n = hmap_walk(&c->jobs, NULL); n && k < MAX_POLLED; n = hmap_walk(&c->jobs, n)) {
		struct local_job *j = container_of(n, struct local_job, by_run);

		if (j->state == LOCAL_RUNNING && j->pid_fd >= 0) {
			fds[k] = (struct pollfd){ j->pid_fd, POLLIN, 0 };
			of[k++] = j;
		}
	}
	fds[k] = (struct pollfd){ inbox_fd(&c->inbox), POLLIN, 0 };
	fds[k + 1] = (struct pollfd){ c->inotify, POLLIN, 0 }; /* a negative one is passed over (poll(2)) */
	left = (until - clock_mono(c->ctx.clock)) / USEC_PER_MSEC + 1;
	if (poll(fds, (nfds_t)k + 2, left < 0 ? 0 : (int)left) > 0)
		collect(c, fds, of, k);
	if (fds[k + 1].revents)
		local_steps_changed(c);
}

static void *local_thread(void *arg)
{
	struct cluster *c = arg;
	struct crep *rep = crep_new(CREP_LINK, c);

	rep->up = rep->asking = true;
	rep->text = xasprintf("this machine: %d cores", c->cores);
	inbox_post(c->ctx.replies, &rep->m);
	while (!c->stopping) {
		int64_t next;

		take_requests(c);
		start_jobs(c);
		next = follow(c);
		if (!c->stopping)
			wait_some(c, next);
	}
	return NULL;
}

static void cluster_free(struct cluster *c)
{
	struct hmap_node *n;

	while ((n = hmap_walk(&c->jobs, NULL))) {
		struct local_job *j = container_of(n, struct local_job, by_run);

		hmap_remove(&c->jobs, n);
		local_job_free(j);
	}
	hmap_release(&c->jobs);
	local_envs_release(c);
	local_steps_release(c);
	if (c->inbox.fd >= 0)
		inbox_release(&c->inbox);
	free(c->base);
	free(c->spool_dir);
	free(c);
}

/* Signals are the reactor's. */
static int start_thread(struct cluster *c)
{
	sigset_t all, old;
	int rc;

	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&c->thread, NULL, local_thread, c);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

static int local_start(const struct cluster_ctx *ctx, struct cluster **out, struct err *e)
{
	const char *dir = ctx->conf->directory;
	cleanup_free char *base = dir && *dir ? local_expand(dir) : xasprintf("%s/local", ctx->state_dir);
	struct cluster *c = xcalloc(1, sizeof(*c));
	int rc;

	c->ctx = *ctx;
	c->base = xasprintf("%s/%s", base, ctx->uuid);
	c->spool_dir = xasprintf("%s/spool", ctx->state_dir);
	c->cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
	c->mem = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
	hmap_init(&c->jobs);
	list_init(&c->queue);
	list_init(&c->envs);
	list_init(&c->env_asks);
	list_init(&c->holds);
	c->inotify = -1;
	rc = inbox_init(&c->inbox);
	if (rc == 0)
		rc = start_thread(c);
	if (rc < 0) {
		cluster_free(c);
		return err_sys(e, rc, "cannot start its thread");
	}
	*out = c;
	return 0;
}

static void local_post(struct cluster *c, struct creq *r)
{
	inbox_post(&c->inbox, &r->m);
}

static void release_stop(struct msg *m)
{
	free(m);
}

static void local_stop(struct cluster *c, int deadline_ms)
{
	struct msg *m = xcalloc(1, sizeof(*m));

	(void)deadline_ms; /* the thread never waits for anything but its inbox */
	m->release = release_stop;
	inbox_post(&c->inbox, m);
	(void)pthread_join(c->thread, NULL);
	cluster_free(c);
}

const struct cluster_ops cluster_local_ops = {
	.type = CLUSTER_LOCAL,
	.word = "local",
	.start = local_start,
	.post = local_post,
	.stop = local_stop,
};
