/*
 * What becomes of submitted jobs: one query for all of them (poll), exit records that the remote shell pushes, and
 * where both leave a doubt the driver's verify.
 *
 * Invariants: an end has a witness: the exit record, a final state in the queue together with what verify found, or
 * verify alone; a poll that failed says nothing about any run. A row is a run's only when both the token and the job id
 * agree, because schedulers hand ids out again (facts). A record with rc 0 is an end at once; one that says anything
 * else waits a moment for the scheduler, who alone knows time limits, memory and preemption. A job that was told to end
 * and is in the queue again was requeued: its record is the end only if it may not start again, which verify decides.
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define POLL_LIMIT_S 60
#define VERIFY_LIMIT_S 90
#define VERB_LIMIT_S 30
#define SWEEP_US (30 * (int64_t)USEC_PER_SEC)

struct job_op {
	uint32_t num, attempt;
};

static struct job_op *new_op(const struct rrun *r)
{
	struct job_op *op = xcalloc(1, sizeof(*op));

	op->num = r->num;
	op->attempt = r->attempt;
	return op;
}

static struct rrun *op_run(struct cluster *c, struct job_op *op)
{
	struct rrun *r = rrun_find(c, op->num, op->attempt);

	free(op);
	return r;
}

/* --- the pace of polls --- */

void rjobs_poll_soon(struct cluster *c)
{
	struct poll_state *p = &c->poll;
	int64_t at = c->now + c->pace.poll_soon;

	p->changed_at = c->now;
	if (at < p->sent_at + c->pace.poll_min)
		at = p->sent_at + c->pace.poll_min;
	p->due_at = earlier(p->due_at, at);
}

void rjobs_poll_now(struct cluster *c)
{
	struct poll_state *p = &c->poll;
	int64_t at = p->sent_at + c->pace.poll_soon;

	p->changed_at = c->now;
	p->due_at = earlier(p->due_at, at > c->now ? at : c->now);
}

/* A fifth of the quiet time, between poll_min and a third of poll_max; poll_max after ten minutes without news. */
static int64_t quiet_interval(const struct cluster *c)
{
	int64_t quiet = c->now - c->poll.changed_at;
	int64_t most = quiet > 600 * (int64_t)USEC_PER_SEC ? c->pace.poll_max : c->pace.poll_max / 3;

	return quiet / 5 < c->pace.poll_min ? c->pace.poll_min : earlier(quiet / 5, most);
}

void rjobs_link_up(struct cluster *c)
{
	c->poll.busy = false;
	c->poll.due_at = c->now;
	c->poll.failing_since = 0;
	rusage_link_up(c);
}

/* --- ends --- */

void rjobs_end(struct cluster *c, struct rrun *r, struct event *ev, const char *source)
{
	int64_t len[RSTREAMS] = { event_int(ev, "out_len", -1), event_int(ev, "err_len", -1),
				  event_int(ev, "events_len", -1) };

	if (r->has_record) {
		len[RSTREAM_OUT] = len[RSTREAM_OUT] < 0 ? r->record.out_len : len[RSTREAM_OUT];
		len[RSTREAM_ERR] = len[RSTREAM_ERR] < 0 ? r->record.err_len : len[RSTREAM_ERR];
	}
	if (r->merged)
		len[RSTREAM_ERR] = 0;
	if (r->as_uuid) { /* what it says, it says to who began it */
		for (int i = 0; i < RSTREAMS; i++)
			len[i] = 0;
		(void)json_object_set_new(ev->data, "out_len", json_integer(0));
		(void)json_object_set_new(ev->data, "err_len", json_integer(0));
		(void)json_object_set_new(ev->data, "events_len", json_integer(0));
		(void)json_object_set_new(ev->data, "manifest", json_false());
	}
	if (r->has_record || event_int(ev, "start", 0) > 0)
		rusage_want(c, r);
	rrun_event_post(c, r, ev, source);
	list_del(&r->queue);
	rrun_phase(c, r, RR_ENDED);
	r->decide_at = r->verify_at = 0;
	rlogs_start(c, r);
	rlogs_final(c, r, len);
	rreq_done_cancel(c, r->num, 0, "");
	point(POINT_REMOTE_ENDED);
}

void rjobs_end_cancelled(struct cluster *c, struct rrun *r, const char *why)
{
	rrun_event(c, r, EV_END, "user",
		   json_pack("{s:s, s:s, s:i, s:i, s:i}", "status", "cancelled", "why", why, "out_len", 0, "err_len", 0,
			     "events_len", 0));
	list_del(&r->queue);
	rrun_phase(c, r, r->maybe_sent ? RR_VOIDED : RR_GONE);
	r->sweep_until = c->now + SWEEP_US;
	if (r->maybe_sent)
		rjobs_poll_soon(c);
	rreq_done_cancel(c, r->num, 0, "");
}

/* The words that decide the class; success and failure are in the record itself. */
static const char *class_word(const char *verdict)
{
	if (!verdict || strcmp(verdict, "succeeded") == 0 || strcmp(verdict, "failed") == 0)
		return NULL;
	return verdict;
}

static void end_by_record(struct cluster *c, struct rrun *r)
{
	struct event *ev =
		exit_record_event(&r->record, class_word(r->verdict), r->cancel != CANCEL_NO, clock_real(c->ctx.clock));

	rjobs_end(c, r, ev, "exit record");
}

static void decide(struct cluster *c, struct rrun *r)
{
	const struct exit_record *rec = &r->record;

	/* nobody but its session knows more about a step */
	bool sure = rec->rc == 0 || (r->job && r->job->holder.num);

	if (r->verdict || (sure && !rec->sig[0] && r->cancel == CANCEL_NO)) {
		end_by_record(c, r);
		return;
	}
	if (!r->decide_at)
		r->decide_at = c->now + c->pace.verdict_wait;
	rjobs_poll_now(c);
	rruns_touch(c);
}

void rjobs_submitted(struct cluster *c, struct rrun *r, const char *job_id, const char *source)
{
	str_set(&r->job_id, job_id);
	list_del(&r->queue);
	rrun_phase(c, r, RR_SUBMITTED);
	r->submitted_poll = c->poll.serial;
	free(r->script);
	r->script = NULL;
	rrun_event(c, r, EV_SUBMITTED, source, json_pack("{s:s}", "job_id", job_id));
	point(POINT_REMOTE_SUBMITTED);
	rjobs_poll_soon(c);
	if (r->has_record)
		decide(c, r);
}

/* "123", "123_4", "123_[5-9]" and "123+1" are all of job 123. */
static bool same_job(const char *a, const char *b)
{
	size_t n = strcspn(a, "_+.");

	return n && n == strcspn(b, "_+.") && memcmp(a, b, n) == 0;
}

void rjobs_end_frame(struct cluster *c, const struct agent_frame *f)
{
	struct exit_record rec;
	struct err e = ERR_INIT;
	struct rrun *r;

	if (exit_record_parse(f->out, &rec, &e) < 0) {
		log_warn("cluster %s: ends/%s: %s", c->ctx.conf->name, f->name, e.text);
		return;
	}
	r = rrun_find(c, rec.run, rec.attempt);
	if (!r || r->has_record || r->phase >= RR_ENDED)
		return;
	if (r->job_id && !same_job(r->job_id, rec.job_id)) {
		log_warn("run %u: job %s left an exit record, but the run is job %s", r->num, rec.job_id, r->job_id);
		return;
	}
	point(POINT_REMOTE_RECORD);
	r->record = rec;
	r->has_record = true;
	r->record_at = c->now;
	r->record_poll = c->poll.serial;
	if (r->phase == RR_SUBMITTED)
		decide(c, r);
	else if (r->phase != RR_SENT && r->phase != RR_VOIDING)
		rjobs_submitted(c, r, rec.job_id, "exit record");
}

/* --- rows --- */

static int rank_of(const char *status)
{
	static const char *const alive[] = { "pending", "completing", "running" };

	if (!status)
		return 1;
	for (size_t i = 0; i < ARRAY_SIZE(alive); i++)
		if (strcmp(status, alive[i]) == 0)
			return (int)i + 2;
	return 0;
}

void rjobs_row_release(struct rrun *r)
{
	free(r->seen.status);
	free(r->seen.reason);
	free(r->seen.nodes);
}

/* Few sessions are another state directory's. */
static struct rrun *shared_of_token(struct cluster *c, const char *token)
{
	for (struct hmap_node *n = c->shared ? hmap_walk(&c->runs, NULL) : NULL; n; n = hmap_walk(&c->runs, n)) {
		struct rrun *r = container_of(n, struct rrun, node);

		if (r->as_token && strcmp(r->as_token, token) == 0)
			return r;
	}
	return NULL;
}

static struct rrun *run_of_token(struct cluster *c, const char *token)
{
	static const char scheme[] = "slurmray:";
	const char *p, *slash;
	struct rrun *r;
	unsigned long num;
	char *end;

	if (!token || strncmp(token, scheme, sizeof(scheme) - 1) != 0)
		return NULL;
	p = token + sizeof(scheme) - 1;
	slash = strchr(p, '/');
	if (!slash || slash[1] < '0' || slash[1] > '9')
		return NULL;
	num = strtoul(slash + 1, &end, 10);
	if (*end != '/' || num > UINT32_MAX)
		return NULL;
	r = rrun_find(c, (uint32_t)num, 0);
	return r && !r->as_uuid && strcmp(r->token, token) == 0 ? r : shared_of_token(c, token);
}

static void on_swept(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct rrun *r = op_run(c, arg);

	(void)f;
	if (r)
		r->sweeping = false;
}

/* A job of an attempt that was called off. Only there: the driver's cancel also voids the attempt. */
static void sweep(struct cluster *c, struct rrun *r, const char *job_id)
{
	struct strbuf code = STRBUF_INIT;
	struct sched_run s;

	if (r->sweeping)
		return;
	rrun_sched(c, r, &s);
	s.job_id = job_id;
	s.job = NULL; /* no grace: it never started */
	if (c->sched->verb(&s, "cancel", NULL, &code, NULL) == 0) {
		r->sweeping = true;
		rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, VERB_LIMIT_S, on_swept, new_op(r));
	}
	strbuf_release(&code);
}

/* What a session's runner says; a poll comes at least every half minute. */
static void take_runner(struct cluster *c, struct rrun *r, const struct sched_row *row)
{
	const struct runner_times t = { row->now, clock_real(c->ctx.clock), c->now };
	json_t *facts;

	if (r->phase != RR_SUBMITTED || !same_job(r->job_id, row->job_id) || !row->now)
		return;
	facts = runner_seen_take(&r->runner, row->runner, &t);
	if (facts)
		rrun_event(c, r, EV_FACTS, "runner", facts);
}

/* Of several rows (an array's elements) the liveliest counts. */
static void on_row(void *arg, const struct sched_row *row)
{
	struct cluster *c = arg;
	struct rrun *r = run_of_token(c, row->token);
	int rank = rank_of(row->run_status);

	if (!r || !row->job_id || (r->phase != RR_SUBMITTED && r->phase != RR_VOIDED))
		return;
	if (row->runner) {
		take_runner(c, r, row);
		return;
	}
	if (r->phase == RR_VOIDED && rank)
		sweep(c, r, row->job_id);
	/* Another job under this token is a surplus one: an answer got lost. The guard and the driver see to it. */
	if (r->phase == RR_VOIDED || !same_job(r->job_id, row->job_id))
		return;
	if (r->seen.poll == c->poll.serial && r->seen.rank >= rank)
		return;
	r->seen.poll = c->poll.serial;
	r->seen.rank = rank;
	r->seen.start = row->start;
	r->seen.node_count = row->node_count;
	r->seen.cpus = row->cpus;
	r->seen.end = row->end;
	str_set(&r->seen.status, row->run_status);
	str_set(&r->seen.reason, row->reason);
	str_set(&r->seen.nodes, row->nodes);
}

static bool same_text(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") == 0;
}

static void say_state(struct cluster *c, struct rrun *r)
{
	const struct seen_row *s = &r->seen;
	bool pending = strcmp(s->status, "pending") == 0, running = strcmp(s->status, "running") == 0;
	json_t *data;

	if (!r->unknown_said && same_text(r->status, s->status) && same_text(r->reason, s->reason) &&
	    same_text(r->nodes, s->nodes) && r->start == s->start && r->node_count == s->node_count &&
	    r->cpus == s->cpus)
		return;
	if (!same_text(r->status, s->status))
		rjobs_poll_soon(c);
	str_set(&r->status, s->status);
	str_set(&r->reason, s->reason);
	str_set(&r->nodes, s->nodes);
	r->start = s->start;
	r->node_count = s->node_count;
	r->cpus = s->cpus;
	r->unknown_said = false;
	data = json_pack("{s:s}", "status", s->status);
	if ((pending || running) && s->reason)
		(void)json_object_set_new(data, "reason", json_string(s->reason));
	if (s->nodes && *s->nodes)
		(void)json_object_set_new(data, "nodes", json_string(s->nodes));
	if (s->start > 0)
		(void)json_object_set_new(data, pending ? "est_start" : "start", json_integer(s->start * USEC_PER_SEC));
	if (!pending && s->node_count > 0)
		(void)json_object_set_new(data, "node_count", json_integer(s->node_count));
	if (!pending && s->cpus > 0)
		(void)json_object_set_new(data, "cpus", json_integer(s->cpus));
	rrun_event(c, r, EV_STATE, "squeue", data);
}

/* How long a session has is known to nobody but the scheduler, where its spec says nothing and where it is changed. */
static void say_end(struct cluster *c, struct rrun *r)
{
	const struct seen_row *s = &r->seen;

	if (s->end == r->end || strcmp(s->status, "running") != 0 || !r->job || !r->job->launcher ||
	    strcmp(r->job->launcher, "session") != 0)
		return;
	r->end = s->end;
	rrun_event(c, r, EV_FACTS, "squeue", json_pack("{s:I}", "session_end", (json_int_t)(s->end * USEC_PER_SEC)));
}

static void want_verify(struct cluster *c, struct rrun *r)
{
	if (!r->verify_at)
		r->verify_at = c->now + c->pace.record_wait;
	rruns_touch(c);
}

static void verify_now(struct cluster *c, struct rrun *r)
{
	r->verify_at = c->now;
	r->decide_at = 0;
	rruns_touch(c);
}

/* It was pending, it ran, it is pending. */
static bool is_pending_again(const struct rrun *r)
{
	bool ran = r->has_record || (r->status && strcmp(r->status, "pending") != 0);

	return ran && r->seen.status && strcmp(r->seen.status, "pending") == 0;
}

/* The job was told to end, it did, and the scheduler says that it is still alive. Requeued, or just not through yet. */
static bool in_doubt(const struct cluster *c, const struct rrun *r)
{
	return r->record.sig[0] && r->seen.poll > r->record_poll && r->seen.rank > 0 && !c->poll.failing_since &&
	       c->now - r->record_at < c->pace.doubt_limit;
}

static void apply_row(struct cluster *c, struct rrun *r)
{
	if (r->seen.rank == 0) {
		str_set(&r->verdict, r->seen.status);
		if (r->has_record)
			end_by_record(c, r);
		else
			want_verify(c, r);
		return;
	}
	if (is_pending_again(r)) {
		verify_now(c, r);
		return;
	}
	if (r->has_record)
		return; /* ending: its verdict is not there yet */
	r->verify_at = 0;
	str_set(&r->verdict, NULL); /* a requeued job is alive again */
	if (!r->seen.status) {
		if (r->unknown_said)
			rrun_event(c, r, EV_KNOWN, "squeue", NULL);
		r->unknown_said = false;
		return;
	}
	say_state(c, r);
	say_end(c, r);
	if (strcmp(r->seen.status, "pending") != 0)
		rlogs_start(c, r);
}

/* A signal has a sender: a user, a limit, a node that failed. Of a job that the controller has forgotten accounting may
 * know. */
static bool was_stopped(const struct exit_record *rec)
{
	return rec->sig[0] || rec->rc >= 128;
}

static void apply_missing(struct cluster *c, struct rrun *r)
{
	if (!r->has_record)
		want_verify(c, r);
	else if (was_stopped(&r->record))
		verify_now(c, r);
	else
		end_by_record(c, r);
}

static void apply_poll(struct cluster *c)
{
	uint64_t serial = c->poll.serial;
	struct hmap_node *n, *next;

	for (n = hmap_walk(&c->runs, NULL); n; n = next) {
		struct rrun *r = container_of(n, struct rrun, node);

		next = hmap_walk(&c->runs, n);
		if (r->phase != RR_SUBMITTED || r->submitted_poll >= serial)
			continue;
		if (r->seen.poll == serial)
			apply_row(c, r);
		else
			apply_missing(c, r);
	}
}

static void poll_failed(struct cluster *c, const char *text)
{
	struct poll_state *p = &c->poll;

	if (!p->failing_since)
		p->failing_since = p->sent_at;
	(void)snprintf(p->trouble, sizeof(p->trouble), "%.*s", (int)sizeof(p->trouble) - 1, text);
	log_warn("cluster %s: %s", c->ctx.conf->name, text);
	rreq_done_refresh(c, -EHOSTUNREACH, text);
	rruns_touch(c);
}

static void on_poll(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct poll_state *p = &c->poll;
	struct err e = ERR_INIT;

	(void)arg;
	p->busy = false;
	if (!f)
		return; /* rjobs_link_up asks again */
	p->due_at = c->now + quiet_interval(c);
	if (c->sched->poll_result(f->rc, f->out, f->err, on_row, c, &e) < 0) {
		poll_failed(c, e.text);
		return;
	}
	p->failing_since = 0;
	p->wanted = false;
	apply_poll(c);
	rreq_done_refresh(c, 0, "");
}

void rjobs_step(struct cluster *c)
{
	struct strbuf code = STRBUF_INIT;
	struct poll_state *p = &c->poll;

	if (!rlink_up(c) || p->busy || p->due_at > c->now || (!c->live && !p->wanted))
		return;
	p->busy = true;
	p->serial++;
	p->sent_at = c->now;
	c->sched->poll(&code);
	rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, POLL_LIMIT_S, on_poll, NULL);
	strbuf_release(&code);
}

int64_t rjobs_deadline(const struct cluster *c)
{
	const struct poll_state *p = &c->poll;

	return rlink_up(c) && !p->busy && (c->live || p->wanted) ? p->due_at : INT64_MAX;
}

/* --- verify --- */

/* It goes on: what it left when it was stopped is not its end. */
static void still_alive(struct cluster *c, struct rrun *r, struct event *ev)
{
	if (r->has_record)
		rchores_stale(c, r->num, r->attempt, r->record.restart);
	r->has_record = false;
	r->decide_at = 0;
	r->unknown_said = false;
	str_set(&r->verdict, NULL);
	str_set(&r->status, event_str(ev, "status"));
	rrun_event_post(c, r, ev, "verify");
}

static void verified(struct cluster *c, struct rrun *r, struct event *ev)
{
	const char *source = event_str(ev, "source");
	bool knows_record = source && strcmp(source, "exit record") == 0;

	if (ev->type == EV_END && r->has_record && !knows_record) {
		str_set(&r->verdict, event_str(ev, "status"));
		event_free(ev);
		end_by_record(c, r);
	} else if (ev->type == EV_END) {
		rjobs_end(c, r, ev, "verify");
	} else if (ev->type == EV_LOST && r->cancel != CANCEL_NO) {
		event_free(ev);
		rjobs_end_cancelled(c, r, "cancelled before it started");
	} else if (ev->type == EV_LOST) {
		rrun_event_post(c, r, ev, "verify");
		rrun_phase(c, r, RR_GONE);
	} else {
		still_alive(c, r, ev);
	}
}

static void on_verified(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct rrun *r = op_run(c, arg);
	struct event *ev;
	struct sched_run s;

	if (!r || r->phase != RR_SUBMITTED)
		return;
	r->verifying = false;
	rruns_touch(c);
	if (!f) {
		r->verify_at = c->now;
		return;
	}
	rrun_sched(c, r, &s);
	ev = c->sched->verify_result(&s, f->rc, f->out, f->err, clock_real(c->ctx.clock));
	r->verify_at = ev ? 0 : c->now + c->pace.verify_again;
	if (ev)
		verified(c, r, ev);
	else if (r->has_record && !in_doubt(c, r))
		end_by_record(c, r);
}

static void send_verify(struct cluster *c, struct rrun *r)
{
	struct strbuf code = STRBUF_INIT;
	struct sched_run s;

	rrun_sched(c, r, &s);
	c->sched->verify(&s, &code);
	r->verifying = true;
	rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, VERIFY_LIMIT_S, on_verified, new_op(r));
	strbuf_release(&code);
}

/* --- timers of a run --- */

/* Since when the cluster cannot be asked; 0: it can. A query that hangs is no answer. */
static int64_t deaf_since(const struct cluster *c, const char **why)
{
	const struct poll_state *p = &c->poll;

	*why = c->link.text;
	if (!rlink_up(c))
		return c->link.down_since;
	*why = p->failing_since ? p->trouble : "the scheduler does not answer";
	return p->failing_since || !p->busy ? p->failing_since : p->sent_at;
}

static int64_t unknown_step(struct cluster *c, struct rrun *r)
{
	const char *why;
	int64_t since = deaf_since(c, &why);

	if (!since || r->unknown_said)
		return INT64_MAX;
	if (c->now - since < c->pace.unknown_after)
		return since + c->pace.unknown_after;
	r->unknown_said = true;
	rrun_event(c, r, EV_UNKNOWN, "cluster",
		   json_pack("{s:s}", "why", *why ? why : "the cluster cannot be reached"));
	return INT64_MAX;
}

int64_t rjobs_run_step(struct cluster *c, struct rrun *r)
{
	int64_t at;

	if (r->phase == RR_VOIDED) {
		if (c->now < r->sweep_until)
			return r->sweep_until;
		rrun_phase(c, r, RR_GONE);
		return INT64_MAX;
	}
	if (r->phase != RR_SUBMITTED)
		return INT64_MAX;
	if (r->decide_at && c->now >= r->decide_at && in_doubt(c, r)) {
		verify_now(c, r);
	} else if (r->decide_at && c->now >= r->decide_at) {
		end_by_record(c, r);
		return INT64_MAX;
	}
	at = r->decide_at ? r->decide_at : INT64_MAX;
	at = earlier(at, unknown_step(c, r));
	if (!r->verify_at || r->verifying || !rlink_up(c))
		return at;
	if (c->now < r->verify_at)
		return earlier(at, r->verify_at);
	send_verify(c, r);
	return at;
}
