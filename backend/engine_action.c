/*
 * Events and actions. engine_post puts an event into the journal; when its commit has returned the event is applied
 * and engine_act starts whatever the run's state still lacks. engine_act may be called at any time and any number of times:
 * it looks only at the state and at what was already sent.
 *
 * A run has at most one event on its way to the journal; others wait in its queue. So an event is always judged
 * against the state that the journal has, and the summary written with an end is exact.
 */
#include "backend/engine_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* --- posting --- */

static bool rewrites_summary(const struct run *r, const struct event *ev)
{
	return ev->type == EV_END || ev->type == EV_REJECTED || !run_is_live(r);
}

/* Applies the event to a copy and puts the resulting summary into the transaction; -EPROTO: it does not fit. */
static int add_summary(struct store_txn *t, const struct run *r, const struct event *ev)
{
	json_t *j = run_summary(r);
	struct run *copy = run_from_summary(r->num, j);
	int rc;

	json_decref(j);
	if (!copy)
		return -EPROTO;
	rc = run_apply(copy, ev);
	if (rc == 0) {
		j = run_summary(copy);
		store_txn_summary(t, r->num, r->id, run_is_live(copy), j);
		json_decref(j);
	}
	run_free(copy);
	return rc;
}

static void post_next(struct engine *en, struct erun *er)
{
	struct list *n;

	while (!er->in_flight && (n = list_pop(&er->queue))) {
		struct queued *q = container_of(n, struct queued, node);
		struct store_txn *t = q->txn ? q->txn : store_txn_new(0, false);
		uint64_t ticket;
		struct pending *p;

		if (rewrites_summary(er->r, q->ev) && add_summary(t, er->r, q->ev) < 0) {
			/* Late, repeated or crossing report: nothing changes. */
			store_txn_free(t);
			event_free(q->ev);
			if (q->cb)
				q->cb(q->arg, -ESRCH, "the run has ended");
			free(q);
			continue;
		}
		p = engine_pending(en, PENDING_EVENT, er->r->num, &ticket);
		p->ev = q->ev;
		p->done = q->cb;
		p->arg = q->arg;
		store_txn_event(t, er->r->num, q->ev);
		store_txn_ticket(t, ticket);
		er->in_flight = true;
		store_post(en->store, t);
		free(q);
	}
}

void engine_post(struct engine *en, struct erun *er, struct event *ev, struct store_txn *txn, engine_done cb, void *arg)
{
	struct queued *q = xcalloc(1, sizeof(*q));

	q->ev = ev;
	q->txn = txn;
	q->cb = cb;
	q->arg = arg;
	list_add_tail(&er->queue, &q->node);
	post_next(en, er);
}

static void after_event(struct erun *er, const struct event *ev)
{
	struct run *r = er->r;

	if (ev->type == EV_SUBMITTING) {
		str_set(&er->directory, event_str(ev, "directory"));
		str_set(&er->scratch, event_str(ev, "scratch"));
	}
	if (run_is_live(r))
		return;
	/* The journal has the documents; memory need not. */
	free(r->spec);
	free(r->effective);
	free(r->script);
	r->spec = r->effective = r->script = NULL;
}

void engine_committed(struct engine *en, struct pending *p, int code)
{
	struct erun *er = engine_find(en, p->run);
	bool was_live, ended = false;
	int rc = code;

	if (!er) {
		pending_free(p);
		return;
	}
	point(POINT_ENGINE_COMMITTED);
	er->in_flight = false;
	was_live = run_is_live(er->r);
	if (rc == 0)
		rc = run_apply(er->r, p->ev);
	if (rc == 0) {
		after_event(er, p->ev);
		ended = was_live && !run_is_live(er->r);
	}
	if (rc == -EPROTO)
		rc = -ESRCH;
	if (p->done)
		p->done(p->arg, rc, rc ? "the run has ended" : "");
	if (rc == 0) {
		if (ended && er->sent_attempt)
			engine_send(en, er, engine_creq(en, er, CREQ_END_SEEN, 0));
		engine_changed(en, er);
		engine_settle(en, er);
	}
	point(POINT_ENGINE_APPLIED);
	pending_free(p);
	post_next(en, er);
	engine_act(en, er);
	if (ended) {
		engine_logs_done(en, er);
		engine_act_gated(en);
	}
}

/* --- what a job is --- */

/* The effective spec as it was journaled, so that a changed configuration does not change a run. */
static int parse_effective(struct engine *en, const struct run *r, struct effective *eff, struct strbuf *errors)
{
	struct ecluster *ec = engine_cluster(en, r->cluster);
	const char *key;
	json_t *row, *doc;

	if (!ec) {
		strbuf_addf(errors, "cluster %s is no longer in the configuration: put its section back", r->cluster);
		return -EINVAL;
	}
	doc = json_loads(r->effective ? r->effective : "{}", 0, NULL);
	if (!doc) {
		strbuf_addstr(errors, "the journaled effective spec is damaged");
		return -EINVAL;
	}
	eff->cluster = ec->conf;
	eff->values = json_object();
	eff->sources = json_object();
	eff->ignored = json_object();
	json_object_foreach(doc, key, row) {
		if (json_object_get(row, "ignored"))
			continue;
		(void)json_object_set(eff->values, key, json_object_get(row, "value"));
		(void)json_object_set(eff->sources, key, json_object_get(row, "source"));
	}
	json_decref(doc);
	return 0;
}

int engine_job(struct engine *en, struct erun *er, struct job *job, struct strbuf *errors)
{
	struct effective eff;
	int rc;

	memset(job, 0, sizeof(*job));
	memset(&eff, 0, sizeof(eff));
	rc = parse_effective(en, er->r, &eff, errors);
	if (rc < 0)
		return rc;
	rc = job_from_effective(&eff, job, errors);
	effective_release(&eff);
	if (rc < 0)
		return rc;
	engine_job_place(en, job, er->directory, er->scratch);
	job->hold = er->r->hold_wanted; /* begins as the spec's, and is the user's to change */
	return 0;
}

void engine_job_place(struct engine *en, struct job *job, const char *directory, const char *scratch)
{
	if (directory)
		str_set(&job->directory, directory);
	if (!job->directory || !*job->directory) {
		free(job->directory);
		job->directory = xasprintf("%s/local", en->state_dir);
	}
	if (scratch)
		str_set(&job->scratch, scratch);
	if (!job->scratch || !*job->scratch)
		str_set(&job->scratch, job->directory);
}

int engine_render(struct engine *en, const struct run *r, uint32_t attempt, const struct job *job, struct strbuf *out,
		  struct err *e)
{
	const struct launcher *l = launcher_find(job->launcher);
	const struct launch_ctx ctx = { r->id, r->num, attempt, en->uuid };

	if (!l)
		return err_set(e, -EINVAL, "there is no launcher '%s'", job->launcher);
	return l->render(job, &ctx, out, e);
}

/* --- dependencies --- */

/* 1: satisfied, 0: not yet, -1: never (then `why` says so). */
static int dependency(struct engine *en, const char *dep, struct strbuf *why)
{
	const char *colon = strchr(dep, ':');
	const struct run *other = colon ? engine_run_by_id(en, colon + 1) : NULL;
	size_t type = colon ? (size_t)(colon - dep) : 0;
	bool ended, ok;

	if (!other) {
		strbuf_addf(why, "it depends on run %s, which is not there (any more)", colon ? colon + 1 : dep);
		return -1;
	}
	ended = !run_is_live(other);
	ok = other->status == RUN_SUCCEEDED;
	if (!ended && !(type == 5 && other->t_started)) {
		strbuf_addf(why, "waiting for run %s (%.*s), which is %s", other->id, (int)type, dep,
			    run_status_name(other->status));
		return 0;
	}
	if ((type == 7 && strncmp(dep, "afterok", 7) == 0 && !ok) || (type == 10 && ok)) {
		strbuf_addf(why, "it depends on run %s (%.*s), which ended as %s", other->id, (int)type, dep,
			    run_status_name(other->status));
		return -1;
	}
	return 1;
}

/* All dependencies of a job: like dependency(), the first that is not satisfied decides. */
static int gate(struct engine *en, struct erun *er, const struct job *job)
{
	struct strbuf why = STRBUF_INIT;
	int rc = 1;

	for (char **d = job->after; d && *d && rc == 1; d++)
		rc = dependency(en, *d, &why);
	str_set(&er->gate, rc == 1 ? NULL : why.buf);
	strbuf_release(&why);
	return rc;
}

/* --- acting --- */

struct creq *engine_creq(struct engine *en, struct erun *er, enum creq_type type, uint64_t ticket)
{
	const struct run *r = er->r;
	struct creq *rq = creq_new(type, r->num, r->attempt, ticket);
	struct launch_ctx ctx = { r->id, r->num, r->attempt, en->uuid };
	struct strbuf token = STRBUF_INIT;

	launch_token(&token, &ctx);
	rq->token = strbuf_detach(&token, NULL);
	rq->run_id = xstrdup(r->id);
	rq->job_id = xstrdup(r->job_id);
	rq->cancel_wanted = r->cancel_wanted;
	rq->out_len = r->out_len;
	rq->err_len = r->err_len;
	return rq;
}

void engine_send(struct engine *en, struct erun *er, struct creq *rq)
{
	struct ecluster *ec = engine_cluster(en, er->r->cluster ? er->r->cluster : "");

	if (ec)
		ec->ops->post(ec->c, rq);
	else
		msg_release(&rq->m);
}

void engine_send_verb(struct engine *en, struct erun *er, const char *verb, const char *arg)
{
	struct creq *rq;
	uint64_t ticket;

	(void)engine_pending(en, PENDING_VERB, er->r->num, &ticket);
	rq = engine_creq(en, er, CREQ_VERB, ticket);
	rq->verb = xstrdup(verb);
	rq->arg = xstrdup(arg);
	er->verb_ticket = ticket;
	engine_send(en, er, rq);
}

static void end_here(struct engine *en, struct erun *er, const char *status, const char *why, const char *source)
{
	json_t *d = json_pack("{s:i, s:s, s:s, s:s}", "attempt", (int)er->r->attempt, "status", status, "why", why, "source",
			      source);

	engine_post(en, er, event_new(EV_END, clock_real(en->clock), d), NULL, NULL, NULL);
}

static void reject_here(struct engine *en, struct erun *er, const char *why)
{
	json_t *d = json_pack("{s:s, s:s}", "why", why, "source", "engine");

	engine_post(en, er, event_new(EV_REJECTED, clock_real(en->clock), d), NULL, NULL, NULL);
}

static void act_queued(struct engine *en, struct erun *er)
{
	struct strbuf errors = STRBUF_INIT;
	struct job job;
	int open;

	if (er->r->cancel_wanted) {
		end_here(en, er, "cancelled", "cancelled before it was submitted", "user");
		return;
	}
	if (engine_job(en, er, &job, &errors) < 0) {
		reject_here(en, er, errors.buf);
		strbuf_release(&errors);
		return;
	}
	strbuf_release(&errors);
	open = gate(en, er, &job);
	if (open < 0)
		end_here(en, er, "cancelled", er->gate, "engine");
	if (open == 1) {
		json_t *d = json_pack("{s:i, s:s, s:s}", "attempt", (int)er->r->attempt + 1, "directory", job.directory,
				      "scratch", job.scratch);

		engine_post(en, er, event_new(EV_SUBMITTING, clock_real(en->clock), d), NULL, NULL, NULL);
	}
	job_release(&job);
}

/* The full request of a submission or a watch; NULL when the job cannot be rebuilt (then the run says why). */
static struct creq *job_request(struct engine *en, struct erun *er, enum creq_type type)
{
	struct strbuf text = STRBUF_INIT, errors = STRBUF_INIT, files = STRBUF_INIT;
	struct creq *rq = NULL;
	struct job job;
	struct err e = ERR_INIT;

	if (engine_job(en, er, &job, &errors) < 0) {
		str_set(&er->gate, errors.buf);
		log_warn("run %s: %s", er->r->id, errors.buf);
		strbuf_release(&errors);
		return NULL;
	}
	if (engine_render(en, er->r, er->r->attempt, &job, &text, &e) == 0) {
		rq = engine_creq(en, er, type, 0);
		rq->job = xmalloc(sizeof(job));
		*rq->job = job;
		rq->script = strbuf_detach(&text, &rq->script_len);
		engine_files_dir(en, er->r->num, &files);
		rq->files_dir = strbuf_detach(&files, NULL);
	} else {
		str_set(&er->gate, e.text);
		job_release(&job);
	}
	strbuf_release(&text);
	strbuf_release(&errors);
	return rq;
}

static void act_submitted(struct engine *en, struct erun *er)
{
	const struct run *r = er->r;

	if (er->sent_attempt != r->attempt) {
		/* Only a submission that this worker journaled itself is known not to have been sent before. */
		bool fresh = r->status == RUN_SUBMITTING && er->fresh;
		struct creq *rq = job_request(en, er, fresh ? CREQ_SUBMIT : CREQ_WATCH);

		er->sent_attempt = r->attempt;
		er->cancel_sent = false;
		if (rq) {
			er->hold_sent = rq->job->hold;
			point(POINT_ENGINE_SENDING);
			engine_send(en, er, rq);
			point(POINT_ENGINE_SENT);
		}
	}
	if (r->cancel_wanted && !er->cancel_sent) {
		er->cancel_sent = true;
		engine_send_verb(en, er, "cancel", "");
		point(POINT_ENGINE_CANCEL_SENT);
	} else if (r->hold_wanted != er->hold_sent && (r->status == RUN_SUBMITTING || (r->job_id && r->status == RUN_PENDING))) {
		er->hold_sent = r->hold_wanted;
		engine_send_verb(en, er, r->hold_wanted ? "hold" : "release", "");
	}
}

/* An ended run whose logs were not all here when the worker before this one stopped. */
static void act_ended(struct engine *en, struct erun *er)
{
	struct creq *rq;

	if (er->sent_attempt || er->sent_ended || !er->r->attempt || !er->r->job_id)
		return;
	if (er->r->facts && json_object_get(er->r->facts, "logs"))
		return;
	er->sent_ended = true;
	rq = engine_creq(en, er, CREQ_WATCH, 0);
	rq->ended = true;
	rq->job = xcalloc(1, sizeof(*rq->job));
	rq->job->merged = er->r->merged;
	engine_job_place(en, rq->job, json_string_value(json_object_get(er->r->facts, "directory")),
			 json_string_value(json_object_get(er->r->facts, "scratch")));
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

void engine_logs_done(struct engine *en, struct erun *er)
{
	struct run *r = er->r;

	if (run_is_live(r) || r->out_len < 0 || r->err_len < 0 || !r->attempt)
		return;
	if (er->spooled_out < (uint64_t)r->out_len || er->spooled_err < (uint64_t)r->err_len)
		return;
	if (r->facts && json_object_get(r->facts, "logs"))
		return;
	if (er->logs_posted)
		return;
	er->logs_posted = true;
	engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), json_pack("{s:s}", "logs", "complete")), NULL, NULL,
		    NULL);
}

void engine_settle(struct engine *en, struct erun *er)
{
	struct strbuf text = STRBUF_INIT;
	struct list *n;

	(void)en;
	if (engine_decision(er->r, &text)) {
		while ((n = list_pop(&er->decided))) {
			struct waiter *w = container_of(n, struct waiter, node);

			w->cb(w->arg, 0, text.buf);
			free(w);
		}
	}
	strbuf_release(&text);
}
