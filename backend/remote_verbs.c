/*
 * Requests that want an answer: verbs, probes, and files (remote_files.c). Each is on `requests` from its arrival until
 * its one answer; what waits for the connection is started by rreq_step when it is up, and every request ends at its
 * deadline, or at once while nothing is tried because the user has to act first.
 *
 * Invariants: a ticket is answered once (an answer to a serial that is gone is dropped); a verb that must not be done
 * twice is not repeated after its answer was lost. A cancellation is remembered in the run, so that it also reaches a
 * job whose id is not known yet, and is tried until the scheduler has answered, however long its asker waits.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define VERB_LIMIT_S 30
#define DEFAULT_US (30 * (int64_t)USEC_PER_SEC)

/* --- the table --- */

static void reply(struct cluster *c, const struct creq *q, int code, const char *text, const char *data, size_t len)
{
	struct crep *p;

	if (!q->ticket)
		return;
	p = crep_new(CREP_REPLY, c);
	p->run = q->run;
	p->ticket = q->ticket;
	p->code = code;
	p->text = xstrdup(text ? text : "");
	if (data) {
		p->data = xmalloc(len + 1);
		memcpy(p->data, data, len);
		p->data[len] = '\0';
		p->len = len;
	}
	inbox_post(c->ctx.replies, &p->m);
}

static void finish(struct cluster *c, struct rreq *q, int code, const char *text, const char *data, size_t len)
{
	reply(c, q->q, code, text, data, len);
	list_del(&q->node);
	msg_release(&q->q->m);
	free(q);
}

struct rreq *rreq_find(struct cluster *c, uint64_t serial)
{
	for (struct list *n = c->requests.next; n != &c->requests; n = n->next) {
		struct rreq *q = container_of(n, struct rreq, node);

		if (q->serial == serial)
			return q;
	}
	return NULL;
}

void rreq_done(struct cluster *c, uint64_t serial, int code, const char *text, const char *data, size_t len)
{
	struct rreq *q = rreq_find(c, serial);

	if (q)
		finish(c, q, code, text, data, len);
}

void rreq_again(struct cluster *c, uint64_t serial)
{
	struct rreq *q = rreq_find(c, serial);

	if (q)
		q->started = false;
}

void rreq_release(struct cluster *c)
{
	while (!list_empty(&c->requests))
		finish(c, container_of(c->requests.next, struct rreq, node), -ENODEV, "slurmray is stopping", NULL, 0);
}

static bool is_verb(const struct rreq *q, const char *verb)
{
	return q->q->m.type == (int)CREQ_VERB && q->q->verb && strcmp(q->q->verb, verb) == 0;
}

void rreq_done_cancel(struct cluster *c, uint32_t num, int code, const char *text)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->requests) {
		struct rreq *q = container_of(n, struct rreq, node);

		if (q->q->run == num && q->started && is_verb(q, "cancel"))
			finish(c, q, code, text, NULL, 0);
	}
}

void rreq_done_refresh(struct cluster *c, int code, const char *text)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->requests) {
		struct rreq *q = container_of(n, struct rreq, node);

		if (q->started && is_verb(q, "refresh"))
			finish(c, q, code, text, NULL, 0);
	}
}

/* --- verbs --- */

struct verb_op {
	uint64_t serial;
	uint32_t num, attempt; /* cancellations */
};

static bool repeatable(const char *verb)
{
	return strcmp(verb, "signal") != 0 && strcmp(verb, "requeue") != 0;
}

static void on_verb(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct verb_op *op = arg;
	struct rreq *q = rreq_find(c, op->serial);
	struct err e = ERR_INIT;
	int rc;

	free(op);
	if (!q)
		return;
	if (!f && repeatable(q->q->verb)) {
		q->started = false;
	} else if (!f) {
		finish(c, q, -EHOSTUNREACH, "the connection was lost before the answer; it may have been done", NULL,
		       0);
	} else {
		rc = c->sched->verb_result(q->q->verb, f->rc, f->out, f->err, &e);
		finish(c, q, rc < 0 ? rc : 0, rc < 0 ? e.text : "", NULL, 0);
		rjobs_poll_soon(c);
	}
}

/* Of a run that is not watched here what the request itself says. */
static void verb_run(const struct cluster *c, const struct creq *q, const struct rrun *r, struct sched_run *s)
{
	if (r) {
		rrun_sched(c, r, s);
	} else {
		memset(s, 0, sizeof(*s));
		s->num = q->run;
		s->attempt = q->attempt;
		s->uuid = c->uuid;
		s->directory = c->ctx.conf->directory;
		s->token = q->token;
	}
	if (!s->job_id)
		s->job_id = q->job_id;
}

static void start_plain_verb(struct cluster *c, struct rreq *q, const struct rrun *r)
{
	struct strbuf code = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct verb_op *op;
	struct sched_run s;
	int rc;

	verb_run(c, q->q, r, &s);
	if (!s.job_id) {
		finish(c, q, -EBUSY, "the run has no job on the cluster yet", NULL, 0);
		return;
	}
	rc = c->sched->verb(&s, q->q->verb, q->q->arg, &code, &e);
	if (rc < 0) {
		finish(c, q, rc, e.text, NULL, 0);
	} else {
		op = xcalloc(1, sizeof(*op));
		op->serial = q->serial;
		q->started = true;
		rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, VERB_LIMIT_S, on_verb, op);
	}
	strbuf_release(&code);
}

/*
 * A job that is not in the queue yet is submitted held, or not held. When an earlier try may have reached the cluster
 * that is not enough: then the job is told as well, as soon as it is known. True: that was all.
 */
static bool hold_before_submission(struct rreq *q, struct rrun *r)
{
	bool hold = is_verb(q, "hold");

	if ((!hold && !is_verb(q, "release")) || !r || r->phase >= RR_SUBMITTED || !r->job)
		return false;
	r->job->hold = hold;
	return (r->phase == RR_QUEUED || r->phase == RR_PREPARING) && !r->maybe_sent;
}

/* --- cancel --- */

static void on_cancelled(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct verb_op *op = arg;
	struct rrun *r = rrun_find(c, op->num, op->attempt);
	struct err e = ERR_INIT;
	int rc;

	free(op);
	if (!r || r->cancel != CANCEL_SENT)
		return;
	if (!f) {
		r->cancel = CANCEL_WANTED;
		rruns_touch(c);
		return;
	}
	rc = c->sched->verb_result("cancel", f->rc, f->out, f->err, &e);
	if (rc > 0 || (rc == -EHOSTUNREACH && r->cancel_at)) {
		r->cancel = CANCEL_GRACE;
		r->cancel_at = c->now + (rc > 0 ? rc * (int64_t)USEC_PER_SEC : c->pace.verify_again);
	} else {
		r->cancel = CANCEL_DONE; /* also when refused: the user asks again, and the end tells what it was */
	}
	rruns_touch(c);
	rreq_done_cancel(c, r->num, rc < 0 ? rc : 0, rc < 0 ? e.text : "");
	rjobs_poll_soon(c);
}

static void send_cancel(struct cluster *c, struct rrun *r)
{
	struct strbuf code = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct verb_op *op;
	struct sched_run s;
	int rc;

	rrun_sched(c, r, &s);
	rc = c->sched->verb(&s, "cancel", NULL, &code, &e);
	if (rc < 0) {
		r->cancel = CANCEL_DONE;
		rreq_done_cancel(c, r->num, rc, e.text);
	} else {
		op = xcalloc(1, sizeof(*op));
		op->num = r->num;
		op->attempt = r->attempt;
		r->cancel = CANCEL_SENT;
		rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, VERB_LIMIT_S, on_cancelled, op);
	}
	strbuf_release(&code);
}

int64_t rverbs_cancel_run(struct cluster *c, struct rrun *r)
{
	if (r->phase != RR_SUBMITTED || !rlink_up(c))
		return INT64_MAX;
	if (r->cancel == CANCEL_GRACE && c->now < r->cancel_at)
		return r->cancel_at;
	if (r->cancel == CANCEL_GRACE)
		r->cancel = CANCEL_WANTED;
	if (r->cancel == CANCEL_WANTED) {
		send_cancel(c, r);
		point(POINT_REMOTE_CANCEL_SENT);
	}
	return INT64_MAX;
}

/* Remembered before the connection is asked for: a run that was never sent is called off without it. */
static void take_cancel(struct cluster *c, struct rreq *q)
{
	struct rrun *r = rrun_find(c, q->q->run, 0);

	if (!r || r->phase >= RR_ENDED)
		return; /* a plain verb with what the request says */
	q->started = true;
	if (r->cancel != CANCEL_SENT)
		r->cancel = CANCEL_WANTED;
	rruns_touch(c);
	if (r->phase != RR_SUBMITTED)
		rsubmit_cancel(c, r);
}

/* --- probes --- */

static void on_probe(struct cluster *c, void *arg, const struct agent_frame *f)
{
	uint64_t *serial = arg;
	struct rreq *q = rreq_find(c, *serial);
	struct strbuf json = STRBUF_INIT;
	struct err e = ERR_INIT;
	int rc;

	free(serial);
	if (!q)
		return;
	if (!f) {
		q->started = false;
		return;
	}
	if (strncmp(q->q->arg, "envs", 4) == 0) {
		finish(c, q, f->rc ? -EIO : 0, f->err, f->out, f->out_len);
		return;
	}
	rc = c->sched->probe_result(q->q->arg, f->rc, f->out, f->err, &json, &e);
	finish(c, q, rc, rc < 0 ? e.text : "", rc < 0 ? NULL : json.buf, json.len);
	strbuf_release(&json);
}

static void start_probe(struct cluster *c, struct rreq *q)
{
	struct strbuf code = STRBUF_INIT;
	struct err e = ERR_INIT;
	uint64_t *serial;
	int rc = 0;

	if (!q->q->arg)
		rc = err_set(&e, -EINVAL, "which document?");
	else if (!envs_probe_code(c->ctx.conf->directory, q->q->arg, &code))
		rc = c->sched->probe(q->q->arg, &code, &e);
	if (rc < 0) {
		finish(c, q, rc, e.text, NULL, 0);
	} else {
		serial = xcalloc(1, sizeof(*serial));
		*serial = q->serial;
		q->started = true;
		rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, VERB_LIMIT_S, on_probe, serial);
	}
	strbuf_release(&code);
}

/* --- start and deadlines --- */

static void start_verb(struct cluster *c, struct rreq *q)
{
	struct rrun *r = rrun_find(c, q->q->run, 0);

	if (r && r->phase < RR_SUBMITTED && (is_verb(q, "hold") || is_verb(q, "release")))
		return; /* when its job is known */
	if (!q->q->verb) {
		finish(c, q, -EINVAL, "no verb", NULL, 0);
	} else if (strcmp(q->q->verb, "refresh") == 0) {
		q->started = true;
		c->poll.wanted = true;
		rjobs_poll_now(c);
	} else {
		start_plain_verb(c, q, r);
	}
}

static void start(struct cluster *c, struct rreq *q)
{
	if (q->q->m.type == (int)CREQ_VERB) {
		start_verb(c, q);
		return;
	}
	if (q->q->m.type == (int)CREQ_PROBE) {
		start_probe(c, q);
		return;
	}
	if (!rlink_files_ready(c))
		return;
	if (q->q->m.type == (int)CREQ_READ)
		rfiles_read(c, q);
	else if (q->q->m.type == (int)CREQ_LIST)
		rfiles_list(c, q);
	else
		rfiles_manifest(c, q);
}

void rreq_add(struct cluster *c, struct creq *r)
{
	struct rreq *q = xcalloc(1, sizeof(*q));

	q->q = r;
	q->serial = ++c->next_serial;
	q->deadline = r->deadline ? r->deadline : c->now + DEFAULT_US;
	list_add_tail(&c->requests, &q->node);
	if (c->stopping)
		return;
	if (is_verb(q, "cancel"))
		take_cancel(c, q);
	else if (hold_before_submission(q, rrun_find(c, r->run, 0)))
		finish(c, q, 0, "", NULL, 0);
}

static void time_out(struct cluster *c, struct rreq *q)
{
	char text[sizeof(c->link.text) + 64];

	if (rlink_up(c))
		(void)snprintf(text, sizeof(text), "the cluster %s did not answer in time", c->ctx.conf->name);
	else
		(void)snprintf(text, sizeof(text), "%s", *c->link.text ? c->link.text : "not connected yet");
	finish(c, q, -EHOSTUNREACH, text, NULL, 0);
}

void rreq_step(struct cluster *c)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->requests) {
		struct rreq *q = container_of(n, struct rreq, node);

		if (c->now >= q->deadline || c->link.state == LINK_REFUSED)
			time_out(c, q);
		else if (!q->started && rlink_up(c))
			start(c, q);
	}
}

int64_t rreq_deadline(const struct cluster *c)
{
	int64_t at = INT64_MAX;

	for (const struct list *n = c->requests.next; n != &c->requests; n = n->next)
		at = earlier(at, container_of(n, const struct rreq, node)->deadline);
	return at;
}
