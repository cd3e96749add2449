/*
 * The cluster thread: inbox, main loop, the table of runs, and how reports are made.
 *
 * Invariants: the thread waits in one place only (poll, in run_loop), for the inbox, the transport's descriptor and the
 * next deadline; a run is on `runs` exactly as long as something is still wanted of it; all times that are compared are
 * `c->now`, which is read once per round.
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define CREQ_STOP ((enum creq_type)199) /* internal: end of the thread */
#define SEC ((int64_t)USEC_PER_SEC)
#define MSEC ((int64_t)USEC_PER_MSEC)

const struct remote_pace remote_pace_default = {
	.backoff_min = 500 * MSEC,
	.backoff_max = 60 * SEC,
	.connect_limit = 120 * SEC,
	.hello_limit = 60 * SEC,
	.unknown_after = 30 * SEC,
	.record_wait = 2 * SEC,
	.verdict_wait = 3 * SEC,
	.doubt_limit = 60 * SEC,
	.verify_again = 5 * SEC,
	.poll_soon = 300 * MSEC,
	.poll_min = 1 * SEC,
	.poll_max = 30 * SEC,
	.log_hot = 200 * MSEC,
	.log_min = 1 * SEC,
	.log_max = 5 * SEC,
	.log_give_up = 10 * SEC,
	.watch_for = 60 * SEC,
	.watch_min = 1 * SEC,
	.watch_max = 10 * SEC,
	.watch_settle = 2500 * MSEC,
	.retry = { 2 * SEC, 5 * SEC, 10 * SEC, 30 * SEC },
	.usage = { 3 * SEC, 7 * SEC, 20 * SEC, 60 * SEC },
	.inner_soon = 500 * MSEC,
	.inner_quiet = 5 * SEC,
	.answer_grace = 30 * SEC,
};

/* --- paths --- */

void remote_dir(const struct cluster *c, uint32_t num, uint32_t attempt, const char *name, struct strbuf *out)
{
	strbuf_addf(out, "%s/%s", c->ctx.conf->directory, c->uuid);
	if (num)
		strbuf_addf(out, "/runs/%u", num);
	if (attempt)
		strbuf_addf(out, "/a%u", attempt);
	if (name && *name)
		strbuf_addf(out, "/%s", name);
}

void remote_path(const struct cluster *c, uint32_t num, uint32_t attempt, const char *name, struct strbuf *out)
{
	size_t start = out->len;

	remote_dir(c, num, attempt, name, out);
	if (strncmp(out->buf + start, "~/", 2) == 0)
		strbuf_remove(out, start, 2);
}

/* --- runs --- */

struct rrun *rrun_find(struct cluster *c, uint32_t num, uint32_t attempt)
{
	for (struct hmap_node *n = hmap_first(&c->runs, hash_u64(num)); n; n = hmap_next(n)) {
		struct rrun *r = container_of(n, struct rrun, node);

		if (r->num == num)
			return attempt == 0 || r->attempt == attempt ? r : NULL;
	}
	return NULL;
}

static bool on_its_way(const struct rrun *r)
{
	return r->phase == RR_PREPARING || r->phase == RR_SENT || r->phase == RR_VOIDING;
}

void rrun_phase(struct cluster *c, struct rrun *r, enum rrun_phase phase)
{
	c->submitting -= on_its_way(r);
	r->phase = phase;
	if (phase >= RR_ENDED)
		rforward_drop(c, r->num);
	c->submitting += on_its_way(r);
	rruns_touch(c);
}

static void run_free_members(struct rrun *r)
{
	free(r->run_id);
	free(r->broken);
	free(r->job_id);
	free(r->as_uuid);
	free(r->as_token);
	free(r->token);
	free(r->script);
	free(r->files_dir);
	free(r->context);
	free(r->secrets_dir);
	free(r->status);
	free(r->reason);
	free(r->nodes);
	free(r->verdict);
	if (r->job) {
		job_release(r->job);
		free(r->job);
	}
	rupload_free(r->upload);
	for (int k = 0; k < INNER_KINDS; k++)
		inner_seen_release(&r->inner[k]);
	runner_seen_release(&r->runner);
	renvs_run_release(r);
	rjobs_row_release(r);
}

void rrun_drop(struct cluster *c, struct rrun *r)
{
	rrun_phase(c, r, RR_GONE);
	list_del(&r->queue);
	hmap_remove(&c->runs, &r->node);
	rlogs_release(r);
	rwatch_release(c, r);
	rforward_drop(c, r->num);
	c->shared -= r->as_uuid != NULL;
	run_free_members(r);
	free(r);
}

void rrun_maybe_drop(struct cluster *c, struct rrun *r)
{
	if (r->phase == RR_GONE || (r->phase == RR_ENDED && r->end_seen && rlogs_done(r)))
		rrun_drop(c, r);
}

void rrun_sched(const struct cluster *c, const struct rrun *r, struct sched_run *out)
{
	*out = (struct sched_run){
		.num = r->num,
		.attempt = r->attempt,
		.uuid = c->uuid,
		.directory = c->ctx.conf->directory,
		.job_id = r->job_id,
		.token = r->token,
		.job = r->job,
	};
	if (!r->as_uuid)
		return;
	out->uuid = r->as_uuid;
	out->num = r->as_num;
	out->attempt = r->as_attempt;
	out->token = r->as_token;
}

void rrun_shared(struct cluster *c, struct rrun *r, const char *as)
{
	if (r->as_uuid || !job_shared_parse(as, &r->as_uuid, &r->as_num, &r->as_attempt))
		return;
	r->as_token = xasprintf("slurmray:%s/%u/a%u", r->as_uuid, r->as_num, r->as_attempt);
	if (r->job) /* whether it may be requeued is for who began it to say */
		r->job->requeue = true;
	c->shared++;
}

static char *default_token(const struct cluster *c, const struct rrun *r)
{
	return xasprintf("slurmray:%s/%u/a%u", c->uuid, r->num, r->attempt);
}

/* Takes what belongs to the run out of the request. */
static struct rrun *rrun_new(struct cluster *c, struct creq *q)
{
	struct rrun *r = xcalloc(1, sizeof(*r));

	list_init(&r->queue);
	r->serial = ++c->next_serial;
	r->num = q->run;
	r->attempt = q->attempt;
	r->run_id = q->run_id;
	r->job_id = q->job_id;
	r->token = q->token;
	r->script = q->script;
	r->script_len = q->script_len;
	r->files_dir = q->files_dir;
	r->context = q->context;
	r->secrets_dir = q->secrets_dir;
	r->job = q->job;
	q->run_id = q->job_id = q->token = q->script = q->files_dir = q->context = NULL;
	q->secrets_dir = NULL;
	q->job = NULL;
	/* Most have none, and get none any more. */
	if (r->files_dir && access(r->files_dir, F_OK) < 0 && errno == ENOENT) {
		free(r->files_dir);
		r->files_dir = NULL;
	}
	if (!r->token)
		r->token = default_token(c, r);
	r->merged = r->job && r->job->merged;
	for (int i = 0; i < RSTREAMS; i++)
		r->stream[i].final = -1;
	r->stream[RSTREAM_ERR].done = r->merged;
	/* Those of an ended run were here before its end was told. */
	r->stream[RSTREAM_EVENTS].done = q->ended || !r->job || !r->job->pipes_messages;
	if (r->job && r->job->shared_as)
		rrun_shared(c, r, r->job->shared_as);
	hmap_insert(&c->runs, &r->node, hash_u64(r->num));
	rruns_touch(c);
	return r;
}

/* --- reports --- */

void rrun_event_post(struct cluster *c, const struct rrun *r, struct event *ev, const char *source)
{
	struct crep *p = crep_new(CREP_EVENT, c);

	(void)json_object_set_new(ev->data, "attempt", json_integer(r->attempt));
	if (!json_object_get(ev->data, "source"))
		(void)json_object_set_new(ev->data, "source", json_string(source));
	p->run = r->num;
	p->ev = ev;
	inbox_post(c->ctx.replies, &p->m);
}

void rrun_event(struct cluster *c, const struct rrun *r, enum event_type type, const char *source, json_t *data)
{
	rrun_event_post(c, r, event_new(type, clock_real(c->ctx.clock), data), source);
}

void rlink_report(struct cluster *c, bool up, bool asking, const char *text)
{
	struct crep *p = crep_new(CREP_LINK, c);

	p->up = up;
	p->asking = asking;
	p->text = xstrdup(text);
	inbox_post(c->ctx.replies, &p->m);
}

/* --- requests --- */

static void on_submit(struct cluster *c, struct creq *q)
{
	struct rrun *r = rrun_find(c, q->run, 0);

	if (r && r->attempt == q->attempt && r->phase != RR_GONE) {
		if (r->phase == RR_SUBMITTED)
			rrun_event(c, r, EV_SUBMITTED, "sbatch", json_pack("{s:s}", "job_id", r->job_id));
		return;
	}
	if (r)
		rrun_drop(c, r);
	r = rrun_new(c, q);
	rsubmit_enqueue(c, r);
}

static void on_watch(struct cluster *c, struct creq *q)
{
	struct rrun *r = rrun_find(c, q->run, 0);

	if (r)
		rrun_drop(c, r);
	r = rrun_new(c, q);
	if (q->ended) {
		rrun_phase(c, r, RR_ENDED);
		r->end_seen = true;
		rlogs_start(c, r);
		rlogs_final(c, r, (const int64_t[RSTREAMS]){ q->out_len, q->err_len, -1 });
		rrun_maybe_drop(c, r);
	} else if (r->job_id) {
		rrun_phase(c, r, RR_SUBMITTED);
		r->submitted_poll = c->poll.serial;
		rjobs_poll_soon(c);
	} else {
		r->maybe_sent = true;
		rsubmit_enqueue(c, r);
	}
}

static void on_forget(struct cluster *c, const struct creq *q)
{
	struct rrun *r = rrun_find(c, q->run, 0);

	if (r)
		rrun_drop(c, r);
	rchores_forget(c, q->run, q->ticket);
}

static void on_end_seen(struct cluster *c, const struct creq *q)
{
	struct rrun *r = rrun_find(c, q->run, q->attempt);

	rchores_end_seen(c, q->run, q->attempt);
	if (!r)
		return;
	r->end_seen = true;
	rrun_maybe_drop(c, r);
}

/* True: the request was taken over. */
static bool handle(struct cluster *c, struct creq *q)
{
	struct rrun *r;

	if (q->m.type == (int)CREQ_STOP) {
		c->stopping = true;
		return false;
	}
	switch ((enum creq_type)q->m.type) {
	case CREQ_SUBMIT:
		on_submit(c, q);
		return false;
	case CREQ_WATCH:
		on_watch(c, q);
		return false;
	case CREQ_FORGET:
		on_forget(c, q);
		return false;
	case CREQ_END_SEEN:
		on_end_seen(c, q);
		return false;
	case CREQ_HOT:
		r = rrun_find(c, q->run, 0);
		if (r)
			rlogs_hot(c, r);
		if (r)
			rwatch_look(c, r, CLUSTER_LOOK_RUN);
		return false;
	case CREQ_LOOK:
		r = rrun_find(c, q->run, q->attempt);
		if (r)
			rwatch_look(c, r, q->look);
		return false;
	case CREQ_FORWARD:
		rforward_request(c, q);
		return false;
	case CREQ_RECONNECT:
		rlink_reconnect(c);
		return false;
	case CREQ_VERB:
	case CREQ_LIST:
	case CREQ_READ:
	case CREQ_MANIFEST:
	case CREQ_PROBE:
		rreq_add(c, q);
		return true;
	}
	return false;
}

static void take_inbox(struct cluster *c)
{
	struct list got = LIST_INIT(got);
	struct list *n;

	inbox_take(&c->inbox, &got);
	while ((n = list_pop(&got))) {
		struct msg *m = container_of(n, struct msg, node);

		if (m->type == ENVS_READ) {
			renvs_task_done(c, container_of(m, struct envs_task, m));
			msg_release(m);
		} else if (!handle(c, container_of(m, struct creq, m))) {
			msg_release(m);
		}
	}
}

/* --- the loop --- */

static void runs_step(struct cluster *c)
{
	struct hmap_node *n, *next;
	int64_t at = INT64_MAX;
	size_t live = 0, steps = 0;

	if (c->walk_at > c->now)
		return;
	for (n = hmap_walk(&c->runs, NULL); n; n = next) {
		struct rrun *r = container_of(n, struct rrun, node);

		next = hmap_walk(&c->runs, n);
		live += r->phase == RR_SUBMITTED || r->phase == RR_VOIDED;
		steps += r->phase == RR_SUBMITTED && r->job && r->job->holder.num;
		at = earlier(at, rverbs_cancel_run(c, r));
		at = earlier(at, rjobs_run_step(c, r));
		at = earlier(at, rwatch_run_step(c, r));
		at = earlier(at, rlogs_run_step(c, r));
		rinner_run_step(c, r);
		rrun_maybe_drop(c, r);
	}
	c->live = live;
	c->live_steps = steps;
	c->walk_at = at;
}

static int poll_timeout(struct cluster *c)
{
	int64_t at = earlier(rlink_deadline(c), c->walk_at);
	int64_t now = clock_mono(c->ctx.clock);

	at = earlier(at, rsubmit_deadline(c));
	at = earlier(at, renvs_deadline(c));
	at = earlier(at, rjobs_deadline(c));
	at = earlier(at, rreq_deadline(c));
	at = earlier(at, rwatch_deadline(c));
	at = earlier(at, rusage_deadline(c));
	at = earlier(at, rforward_deadline(c));
	at = earlier(at, rinner_deadline(c));
	if (at <= now)
		return 0;
	if (at - now >= 3600 * SEC)
		return 3600 * 1000;
	return (int)((at - now + MSEC - 1) / MSEC);
}

static void wait_for_work(struct cluster *c)
{
	struct pollfd p[3] = { { .fd = inbox_fd(&c->inbox), .events = POLLIN },
			       { .fd = rforward_fd(c), .events = POLLIN },
			       { .fd = -1 } };

	p[2].fd = rlink_poll_fd(c, &p[2].events);
	(void)poll(p, 3, poll_timeout(c));
}

static void *run_loop(void *arg)
{
	struct cluster *c = arg;

	while (!c->stopping) {
		bool more;

		c->now = clock_mono(c->ctx.clock);
		take_inbox(c);
		rlink_step(c);
		renvs_step(c);
		rsubmit_step(c);
		rjobs_step(c);
		rreq_step(c);
		runs_step(c);
		rwatch_step(c);
		rinner_step(c);
		rchores_step(c);
		rusage_step(c);
		more = rforward_step(c);
		more |= rlink_flush(c);
		if (c->submitting)
			point(POINT_REMOTE_SENT);
		if (!more && !c->stopping)
			wait_for_work(c);
	}
	return NULL;
}

/* --- life --- */

int remote_start(const struct transport_ops *top, const struct sched_ops *sched, const struct cluster_ctx *ctx,
		 const struct remote_pace *pace, const char *(*describe)(const struct transport *),
		 struct cluster **out, struct err *e)
{
	struct cluster *c = xcalloc(1, sizeof(*c));
	int rc = inbox_init(&c->inbox);

	if (rc < 0) {
		free(c);
		return err_sys(e, rc, "cannot make a queue for the cluster %s", ctx->conf->name);
	}
	c->ctx = *ctx;
	c->uuid = xstrdup(ctx->uuid);
	c->spool_dir = xasprintf("%s/spool", ctx->state_dir);
	c->top = top;
	c->sched = sched;
	c->pace = pace ? *pace : remote_pace_default;
	c->describe = describe;
	c->now = clock_mono(ctx->clock);
	if (getrandom(&c->random, sizeof(c->random), GRND_NONBLOCK) < 0)
		c->random = hash_u64((uint64_t)c->now);
	hmap_init(&c->runs);
	list_init(&c->submit_queue);
	list_init(&c->requests);
	list_init(&c->chores);
	list_init(&c->envs);
	list_init(&c->usage);
	rlink_init(c);
	rc = -pthread_create(&c->thread, NULL, run_loop, c);
	if (rc < 0) {
		rlink_release(c);
		inbox_release(&c->inbox);
		hmap_release(&c->runs);
		free(c->uuid);
		free(c->spool_dir);
		free(c);
		return err_sys(e, rc, "cannot start a thread for the cluster %s", ctx->conf->name);
	}
	*out = c;
	return 0;
}

int cluster_slurm_start_with(const struct transport_ops *top, const struct sched_ops *sched,
			     const struct cluster_ctx *ctx, struct cluster **out, struct err *e)
{
	return remote_start(top, sched, ctx, NULL, NULL, out, e);
}

void remote_post(struct cluster *c, struct creq *r)
{
	inbox_post(&c->inbox, &r->m);
}

/* What was posted but never looked at is answered too. */
static void drain_inbox(struct cluster *c)
{
	struct list got = LIST_INIT(got);
	struct list *n;

	inbox_take(&c->inbox, &got);
	while ((n = list_pop(&got))) {
		struct creq *q = container_of(container_of(n, struct msg, node), struct creq, m);

		if (q->m.type == ENVS_READ)
			msg_release(&q->m);
		else if (q->ticket)
			rreq_add(c, q);
		else
			msg_release(&q->m);
	}
}

/* The thread never blocks, so joining it takes at most one round; the deadline needs no clock of its own. */
void remote_stop(struct cluster *c, int deadline_ms)
{
	struct hmap_node *n;

	(void)deadline_ms;
	inbox_post(&c->inbox, &creq_new(CREQ_STOP, 0, 0, 0)->m);
	(void)pthread_join(c->thread, NULL);
	envs_worker_free(c->envs_worker);
	c->envs_worker = NULL;
	drain_inbox(c);
	rreq_release(c);
	rlink_release(c);
	rforward_release(c);
	while ((n = hmap_walk(&c->runs, NULL)))
		rrun_drop(c, container_of(n, struct rrun, node));
	rchores_release(c);
	renvs_release(c);
	rusage_release(c);
	hmap_release(&c->runs);
	inbox_release(&c->inbox);
	free(c->uuid);
	free(c->spool_dir);
	free(c);
}
