/*
 * Events and actions. engine_post puts an event into the journal; when its commit has returned the event is applied
 * and engine_act starts whatever the run's state still lacks. engine_act may be called at any time and any number of
 * times: it looks only at the state and at what was already sent.
 *
 * A run has at most one event on its way to the journal; others wait in its queue. So an event is always judged
 * against the state that the journal has, and the summary written with an end is exact. Callbacks come last, when
 * everything that follows from a commit is under way.
 */
#include "backend/engine_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

/* --- posting --- */

static bool rewrites_summary(const struct run *r, const struct event *ev)
{
	return ev->type == EV_END || ev->type == EV_REJECTED || !run_is_live(r);
}

struct run *engine_foresee(const struct run *r, const struct event *ev)
{
	json_t *j = r->n_history ? run_summary(r) : NULL; /* a run that is being made is nothing yet */
	struct run *copy = j ? run_from_summary(r->num, j) : r->n_history ? NULL : run_new(r->num);

	json_decref(j);
	if (copy && run_apply(copy, ev) == 0)
		return copy;
	run_free(copy);
	return NULL;
}

static bool may_move(const struct event *ev)
{
	return ev->type != EV_FACTS && ev->type != EV_PURGE && ev->type != EV_HOLD_WANTED &&
	       ev->type != EV_RELEASE_WANTED && ev->type != EV_CANCEL_WANTED;
}

/* What the event makes of the run: its summary, and a line in the feed. -EPROTO: it does not fit, and it would end the
 * run. */
static int add_outcome(struct store_txn *t, const struct run *r, const struct event *ev)
{
	bool rewrites = rewrites_summary(r, ev);
	struct run *copy = rewrites || may_move(ev) ? engine_foresee(r, ev) : NULL;

	if (!copy)
		return rewrites ? -EPROTO : 0;
	if (rewrites) {
		json_t *j = run_summary(copy);

		store_txn_summary(t, r->num, r->id, run_is_live(copy), j);
		json_decref(j);
	}
	engine_feed_status(t, copy, r->n_history);
	run_free(copy);
	return 0;
}

static void refuse(struct queued *q, int code, const char *why)
{
	store_txn_free(q->txn);
	event_free(q->ev);
	if (q->call.done)
		q->call.done(q->call.arg, code, why);
	free(q);
}

static void post_one(struct engine *en, struct erun *er, struct queued *q, uint64_t ticket, struct pending *p)
{
	p->ev = q->ev;
	p->done = q->call.done;
	p->drop = q->call.drop;
	p->arg = q->call.arg;
	p->request = q->request;
	p->result = q->request ? xstrdup("") : NULL;
	if (q->request)
		store_txn_seen(q->txn, en->conf.mount_id, q->request, "");
	store_txn_ticket(q->txn, ticket);
	er->in_flight = true;
	store_post(en->store, q->txn);
	free(q);
}

void engine_post_next(struct engine *en, struct erun *er)
{
	struct list *n;

	while (!er->in_flight && !er->purging && (n = list_pop(&er->queue))) {
		struct queued *q = container_of(n, struct queued, node);
		struct pending *p;
		uint64_t ticket;

		/* Before the summary: that of an ended run takes the events away. */
		store_txn_event(q->txn, er->r->num, q->ev);
		if (add_outcome(q->txn, er->r, q->ev) < 0) {
			refuse(q, -ESRCH, "the run has ended"); /* late, repeated or crossing: nothing changes */
			continue;
		}
		p = engine_pending(en, PENDING_EVENT, er->r->num, &ticket);
		post_one(en, er, q, ticket, p);
	}
}

void engine_post_none(struct erun *er)
{
	struct list *n;

	while ((n = list_pop(&er->queue)))
		refuse(container_of(n, struct queued, node), -ENOENT, "the run was purged");
}

void engine_post(struct engine *en, struct erun *er, struct event *ev, uint64_t request, const struct own_call *call)
{
	struct queued *q = xcalloc(1, sizeof(*q));

	q->ev = ev;
	/* What a user asks for may fail; what a cluster reports must not be lost. */
	q->txn = store_txn_new(0, call != NULL);
	q->request = request;
	if (call)
		q->call = *call;
	list_add_tail(&er->queue, &q->node);
	engine_post_next(en, er);
}

static void new_attempt(struct erun *er, const struct event *ev)
{
	str_set(&er->directory, event_str(ev, "directory"));
	str_set(&er->scratch, event_str(ev, "scratch"));
	er->logs_last = er->events_last = false;
	er->spooled_out = er->spooled_err = 0;
}

/* The journal has the documents of an ended run; memory need not. */
static void drop_documents(struct run *r)
{
	free(r->spec);
	free(r->effective);
	free(r->script);
	r->spec = r->effective = r->script = NULL;
}

static void act_verbs(struct engine *en, struct erun *er);

/* What follows from an event that was applied. */
static void applied(struct engine *en, struct erun *er, const struct event *ev, bool was_live)
{
	bool ended = was_live && !run_is_live(er->r);

	if (ev->type == EV_SUBMITTING)
		new_attempt(er, ev);
	if (!engine_secrets_wanted(er->r) && engine_has_secrets(er->r))
		engine_secrets_forget(en, er->r->num);
	if (ev->type == EV_LOST && engine_has_secrets(er->r)) /* on the cluster */
		engine_send(en, er, engine_creq_placed(en, er, CREQ_END_SEEN, 0));
	if (ended) {
		drop_documents(er->r);
		str_set(&er->gate, NULL);
		engine_inputs_ended(en, er);
		if (er->sent_attempt)
			engine_send(en, er, engine_creq_placed(en, er, CREQ_END_SEEN, 0));
	}
	point(POINT_ENGINE_APPLIED);
	engine_post_next(en, er);
	engine_act(en, er);
	act_verbs(en, er);
	engine_session_tell(en, er);
	if (ended) {
		engine_logs_done(en, er);
		engine_act_gated(en);
	} else if (ev->type == EV_SUBMITTED && engine_is_session(er->r)) {
		engine_act_gated(en); /* its runs can be submitted, too */
	}
	engine_changed(en, er);
	engine_settle(en, er);
}

static const char *sentence(int code)
{
	switch (code) {
	case 0:
		return "";
	case -ESRCH:
		return "the run has ended";
	case -ENOSPC:
		return "the journal's disk is full: nothing was done; free space and write it again";
	default:
		return "the journal could not be written: nothing was done";
	}
}

void engine_committed(struct engine *en, struct pending *p, int code)
{
	struct erun *er = engine_find(en, p->run);
	bool was_live;
	int rc = code;

	point(POINT_ENGINE_COMMITTED);
	assert(er); /* a purge waits for the events before it, and holds those after it back */
	was_live = run_is_live(er->r);
	er->in_flight = false;
	if (rc == 0) {
		engine_remember(en, p->request, p->result);
		rc = run_apply(er->r, p->ev);
	}
	if (rc == 0)
		applied(en, er, p->ev, was_live);
	else
		engine_post_next(en, er);
	if (rc == -EPROTO)
		rc = -ESRCH;
	if (p->done)
		p->done(p->arg, rc, sentence(rc));
	pending_free(p);
}

/* --- acting --- */

static void end_here(struct engine *en, struct erun *er, const char *status, const char *why, const char *source)
{
	json_t *d = json_pack("{s:i, s:s, s:s, s:s}", "attempt", (int)er->r->attempt, "status", status, "why", why,
			      "source", source);

	/* Nothing ran, so there are no logs to come either. */
	(void)json_object_set_new(d, "out_len", json_integer(0));
	(void)json_object_set_new(d, "err_len", json_integer(0));
	(void)json_object_set_new(d, "logs", json_string("complete"));
	engine_post(en, er, event_new(EV_END, clock_real(en->clock), d), 0, NULL);
}

static void reject_here(struct engine *en, struct erun *er, const char *why)
{
	json_t *d = json_pack("{s:s, s:s}", "why", why, "source", "engine");

	engine_post(en, er, event_new(EV_REJECTED, clock_real(en->clock), d), 0, NULL);
}

/* The first attempt waits for other runs; later ones have waited. */
static int may_submit(struct engine *en, struct erun *er, struct strbuf *errors)
{
	if (!engine_cluster(en, er->r->cluster)) {
		cleanup_free char *why =
			xasprintf("cluster %s is no longer in the configuration: put its section back, or cancel "
				  "this run",
				  er->r->cluster);

		str_set(&er->gate, why);
		return 0;
	}
	if (er->r->attempt && !run_fact(er->r, "session"))
		return 1;
	return engine_gate_open(en, er, errors);
}

static void post_submitting(struct engine *en, struct erun *er, struct strbuf *errors)
{
	struct job job;
	json_t *d;

	if (engine_job(en, er, &job, errors) < 0) {
		reject_here(en, er, errors->buf);
		return;
	}
	if (engine_secrets_check(en, er->r->num, &job, errors) < 0) {
		reject_here(en, er, errors->buf);
		job_release(&job);
		return;
	}
	d = json_pack("{s:i, s:s, s:s}", "attempt", (int)er->r->attempt + 1, "directory", job.directory, "scratch",
		      job.scratch);
	if (job.hold || json_object_get(er->r->facts, "hold"))
		(void)json_object_set_new(d, "hold", json_boolean(job.hold)); /* what the cluster is told */
	job_release(&job);
	engine_post(en, er, event_new(EV_SUBMITTING, clock_real(en->clock), d), 0, NULL);
}

static void act_queued(struct engine *en, struct erun *er)
{
	struct strbuf errors = STRBUF_INIT;
	int open;

	if (er->r->cancel_wanted) {
		end_here(en, er, "cancelled", "cancelled before it was submitted", "user");
		return;
	}
	open = may_submit(en, er, &errors);
	if (open == 1)
		post_submitting(en, er, &errors);
	else if (open == -1)
		end_here(en, er, "cancelled", er->gate, "engine");
	else if (open < 0)
		reject_here(en, er, errors.buf);
	strbuf_release(&errors);
}

/* The job may be there, but nobody can be asked. */
static void unknown_here(struct engine *en, struct erun *er, const char *why)
{
	log_warn("run %s: %s", er->r->id, why);
	if (er->r->status != RUN_UNKNOWN)
		engine_post(en, er,
			    event_new(EV_UNKNOWN, clock_real(en->clock),
				      json_pack("{s:s, s:s}", "why", why, "source", "engine")),
			    0, NULL);
}

/*
 * Only a submission that this worker journaled itself is known not to have been sent before. What cannot be rebuilt (an
 * upgrade that no longer takes such a spec) can still be watched when the job is known to be there.
 */
static void send_attempt(struct engine *en, struct erun *er)
{
	const struct run *r = er->r;
	bool fresh = r->status == RUN_SUBMITTING && er->fresh;
	struct strbuf why = STRBUF_INIT;
	struct creq *rq = NULL;

	er->sent_attempt = r->attempt;
	er->cancel_sent = false;
	if (engine_cluster(en, r->cluster)) {
		rq = engine_creq_job(en, er, fresh ? CREQ_SUBMIT : CREQ_WATCH, &why);
		if (!rq && r->job_id) {
			log_warn("run %s: %s", r->id, why.buf);
			rq = engine_creq_placed(en, er, CREQ_WATCH, 0);
		}
	} else {
		strbuf_addf(&why, "cluster %s is no longer in the configuration: put its section back", r->cluster);
	}
	if (rq) {
		er->hold_sent = fresh ? rq->job->hold : json_is_true(json_object_get(r->facts, "hold"));
		point(POINT_ENGINE_SENDING);
		engine_send(en, er, rq);
		point(POINT_ENGINE_SENT);
	} else {
		unknown_here(en, er, why.buf);
	}
	strbuf_release(&why);
}

/* Wishes that the cluster does not know yet. */
static void act_verbs(struct engine *en, struct erun *er)
{
	const struct run *r = er->r;

	if (!run_is_live(r) || r->status <= RUN_QUEUED || er->purging || er->sent_attempt != r->attempt)
		return;
	if (r->cancel_wanted) {
		if (er->cancel_sent)
			return;
		er->cancel_sent = true;
		engine_send_verb(en, er, "cancel", "");
		point(POINT_ENGINE_CANCEL_SENT);
	} else if (r->hold_wanted != er->hold_sent &&
		   (r->status == RUN_SUBMITTING || (r->job_id && r->status == RUN_PENDING))) {
		er->hold_sent = r->hold_wanted;
		engine_send_verb(en, er, r->hold_wanted ? "hold" : "release", "");
	}
}

static void act_submitted(struct engine *en, struct erun *er)
{
	if (er->sent_attempt != er->r->attempt) {
		if (er->r->cancel_wanted && er->fresh && er->r->status == RUN_SUBMITTING) {
			end_here(en, er, "cancelled", "cancelled before it was submitted", "user");
			return;
		}
		send_attempt(en, er);
	}
	engine_act_forwards(en, er);
	act_verbs(en, er);
	engine_session_tell(en, er);
}

/* An ended run whose logs were not all here when the worker before this one stopped. */
static void act_ended(struct engine *en, struct erun *er)
{
	struct creq *rq;

	if (er->sent_attempt || er->sent_ended || !er->r->attempt || !er->r->job_id || run_fact(er->r, "logs"))
		return;
	er->sent_ended = true;
	engine_send(en, er, engine_creq_placed(en, er, CREQ_END_SEEN, 0));
	rq = engine_creq_placed(en, er, CREQ_WATCH, 0);
	rq->ended = true;
	engine_send(en, er, rq);
}

void engine_act(struct engine *en, struct erun *er)
{
	if (!er->visible || er->in_flight || er->purging || !list_empty(&er->queue))
		return;
	switch (er->r->status) {
	case RUN_DRAFT:
		break;
	case RUN_QUEUED:
		er->fresh = true;
		act_queued(en, er);
		break;
	case RUN_SUBMITTING:
	case RUN_PENDING:
	case RUN_RUNNING:
	case RUN_COMPLETING:
	case RUN_UNKNOWN:
		act_submitted(en, er);
		break;
	default:
		act_ended(en, er);
		break;
	}
}

void engine_act_gated(struct engine *en)
{
	for (size_t i = 0; i < en->n_order; i++) {
		struct erun *er = en->order[i];

		if (er->gate && er->r->status == RUN_QUEUED)
			engine_act(en, er);
	}
}

/* The fact that ends all looking for logs; it fills the lengths that an end without an exit record left open. */
void engine_logs_done(struct engine *en, struct erun *er)
{
	struct run *r = er->r;
	json_t *d;

	if (run_is_live(r) || !er->logs_last || er->logs_posted || run_fact(r, "logs"))
		return;
	d = json_pack("{s:s}", "logs", json_object_get(r->facts, "log_incomplete") ? "incomplete" : "complete");
	if (r->out_len < 0)
		(void)json_object_set_new(d, "out_len", json_integer((json_int_t)er->spooled_out));
	if (r->err_len < 0)
		(void)json_object_set_new(d, "err_len", json_integer((json_int_t)er->spooled_err));
	er->logs_posted = true;
	engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), d), 0, NULL);
}

void engine_settle(struct engine *en, struct erun *er)
{
	struct strbuf text = STRBUF_INIT;

	if (engine_decision(er->r, &text))
		waiters_answer(en, &er->decided, 0, text.buf);
	strbuf_release(&text);
}
