/*
 * A run that Ray has: its states, and its end. The exit record that the job's wrapper leaves decides, because it has
 * the exact code and the lengths of the streams; what Ray says decides where there is none. Not being able to ask is
 * never an end. A head that was restarted has forgotten its jobs, and says so by another session_name: their drivers
 * end by themselves (ray_entrypoint), and the end is told when they surely have.
 */
#include "backend/ray.h"

#include "backend/base/mem.h"

#include <stdio.h>
#include <string.h>

#define MS ((int64_t)USEC_PER_MSEC)
#define SEC ((int64_t)USEC_PER_SEC)
#define RECORD_WAIT (2 * SEC)  /* Ray says that it has ended: how long a record may take */
#define AGENT_WAIT (30 * SEC)  /* the same where its node never answered */
#define AGENT_LOST (120 * SEC) /* and where it did before */
#define STOP_AGAIN (5 * SEC)
#define WATCHDOG_S 4 /* what looks for a lost supervisor, and its processes, need so long besides the grace */
#define NOT_THERE 3  /* so often Ray says that there is no such job before it is believed */

enum { ASK_STATUS, ASK_RECORD, ASK_STOP };

struct ray_run *ray_run_new(struct cluster *c, struct creq *q)
{
	struct ray_run *r = xcalloc(1, sizeof(*r));
	bool noted;

	r->run = q->run;
	r->attempt = q->attempt;
	r->serial = ++c->next_serial;
	r->run_id = xstrdup(q->run_id);
	r->token = xstrdup(q->token);
	r->sid = ray_submission_id(q->token);
	r->script = q->script;
	q->script = NULL;
	r->context = xstrdup(q->context);
	r->files_dir = xstrdup(q->files_dir);
	r->job = q->job;
	q->job = NULL;
	r->known = q->job_id != NULL;
	r->cancel_wanted = q->cancel_wanted;
	r->since = c->now;
	strbuf_init(&r->zip);
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].final = -1;
	r->events_done = !r->job->pipes_messages;
	noted = ray_noted(c, r->run, r->attempt, &r->session, &r->agent);
	if (q->ended) {
		r->ended_before = true;
		r->phase = RAYRUN_ENDED;
		r->events_done = true;
		r->stream[RAYS_OUT].final = q->out_len;
		r->stream[RAYS_ERR].final = q->err_len;
	} else if (r->known) {
		r->phase = RAYRUN_LIVE;
	} else {
		r->maybe_sent = noted; /* it is noted before it is sent */
	}
	return r;
}

void ray_run_free(struct ray_run *r)
{
	spool_close(r->spool);
	events_close(r->events);
	event_free(r->end);
	if (r->job)
		job_release(r->job);
	free(r->job);
	strbuf_release(&r->zip);
	free(r->run_id);
	free(r->token);
	free(r->sid);
	free(r->script);
	free(r->context);
	free(r->files_dir);
	free(r->package);
	free(r->entrypoint);
	free(r->session);
	free(r->agent);
	free(r->reason);
	free(r->message);
	free(r->error_type);
	free(r);
}

void ray_run_live(struct cluster *c, struct ray_run *r, const char *source)
{
	r->phase = RAYRUN_LIVE;
	r->since = c->now;
	r->status_at = 0;
	if (!r->known)
		ray_event(c, r, EV_SUBMITTED, source, json_pack("{s:s}", "job_id", r->sid));
	r->known = true;
}

void ray_run_refuse(struct cluster *c, struct ray_run *r, const char *why)
{
	ray_event(c, r, EV_REJECTED, "ray", json_pack("{s:s%}", "why", why, strlen(why)));
	r->phase = RAYRUN_DONE;
}

/* --- ends --- */

void ray_run_end(struct cluster *c, struct ray_run *r, struct event *ev)
{
	struct crep *rep = crep_new(CREP_EVENT, c);

	r->stream[RAYS_OUT].final = event_int(ev, "out_len", -1);
	r->stream[RAYS_ERR].final = event_int(ev, "err_len", -1);
	r->stream[RAYS_EVENTS].final = event_int(ev, "events_len", -1);
	r->phase = RAYRUN_ENDED;
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].next_at = 0;
	rep->run = r->run;
	rep->ev = ev;
	inbox_post(c->ctx.replies, &rep->m);
}

/* Nothing of it can be had, or there is nothing. */
void ray_run_end_now(struct cluster *c, struct ray_run *r, const char *status, const char *why, json_t *more)
{
	json_t *d = json_pack("{s:i, s:s, s:s%, s:s, s:b, s:i}", "attempt", (int)r->attempt, "status", status, "why",
			      why, strlen(why), "source", "ray", "manifest", 0, "events_len", 0);

	if (!d)
		d = json_pack("{s:i, s:s, s:s, s:b, s:i}", "attempt", (int)r->attempt, "status", status, "source",
			      "ray", "manifest", 0, "events_len", 0);
	if (more)
		(void)json_object_update(d, more);
	json_decref(more);
	(void)json_object_set_new(d, "out_len",
				  json_integer(r->spool ? (json_int_t)spool_len(r->spool, SPOOL_OUT) : 0));
	(void)json_object_set_new(d, "err_len",
				  json_integer(r->spool ? (json_int_t)spool_len(r->spool, SPOOL_ERR) : 0));
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].done = true;
	ray_run_end(c, r, event_new(EV_END, clock_real(c->ctx.clock), d));
}

static const char *class_of(const struct ray_run *r)
{
	if (r->last == RAY_STOPPED)
		return "cancelled";
	if (r->last == RAY_FAILED && strstr(r->error_type, "ACTOR_DIED"))
		return "node_failed";
	return NULL;
}

/* Ray has its end, and the wrapper left none: it was killed, or never began. */
static void end_without_record(struct cluster *c, struct ray_run *r, bool agent)
{
	const char *status = class_of(r);
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	json_t *more = json_object();

	if (!status)
		status = r->last == RAY_SUCCEEDED && r->has_code && r->code == 0 ? "succeeded" : "failed";
	if (r->last == RAY_STOPPED)
		strbuf_addstr(&why, r->cancel_wanted ? "cancelled" : "stopped outside slurmray (ray job stop)");
	else
		ray_trouble(0, r->message, strlen(r->message), &why);
	if (!agent && r->agent)
		strbuf_addf(&why, " (the agent of its node, %s, cannot be reached from here: no output)", r->agent);
	if (r->has_code && r->code >= 0)
		(void)json_object_set_new(more, "exit_code", json_integer(r->code));
	else if (r->has_code)
		(void)json_object_set_new(more, "signal", json_integer(-r->code));
	if (!agent || !r->agent) {
		ray_run_end_now(c, r, status, why.buf, more);
		return;
	}
	r->end = event_new(EV_END, clock_real(c->ctx.clock),
			   json_pack("{s:i, s:s, s:s, s:s, s:b}", "attempt", (int)r->attempt, "status", status, "why",
				     why.buf, "source", "ray", "manifest", 0));
	(void)json_object_update(r->end->data, more);
	json_decref(more);
	r->phase = RAYRUN_DRAIN;
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].next_at = 0;
}

static void end_by_record(struct cluster *c, struct ray_run *r, const struct exit_record *rec)
{
	const char *verdict = class_of(r);
	struct event *ev = exit_record_event(rec, verdict, r->cancel_wanted, clock_real(c->ctx.clock));

	(void)json_object_set_new(ev->data, "attempt", json_integer((json_int_t)r->attempt));
	if (!json_object_get(ev->data, "source"))
		(void)json_object_set_new(ev->data, "source", json_string("record"));
	if (verdict && *verdict == 'c' && !r->cancel_wanted)
		(void)json_object_set_new(ev->data, "why", json_string("stopped outside slurmray (ray job stop)"));
	if (verdict && *verdict == 'n')
		(void)json_object_set_new(ev->data, "why",
					  json_string("Ray's supervisor of the job died, and its driver was ended"));
	ray_run_end(c, r, ev);
}

static void on_record(struct cluster *c, struct ray_run *r, int what, const struct http_answer *a)
{
	bool waited = r->terminal_at && c->now - r->terminal_at > RECORD_WAIT;
	struct exit_record rec;

	(void)what;
	r->record_busy = false;
	r->heard |= a->code == 0;
	if (r->phase != RAYRUN_LIVE)
		return;
	if (a->status == 200 && exit_record_parse(a->body, &rec, NULL) == 0 && strcmp(rec.job_id, r->sid) == 0) {
		if (*rec.sig && !r->cancel_wanted && !r->terminal_at && !r->restart_seen) {
			r->status_at = 0; /* who sent the signal is for Ray to say */
			r->record_at = c->now + 100 * MS;
		} else {
			end_by_record(c, r, &rec);
		}
		return;
	}
	if (a->code || a->status >= 500 || a->status == 401 || a->status == 403) {
		if (r->terminal_at && ray_waited(c, r->terminal_at, r->heard ? AGENT_LOST : AGENT_WAIT))
			end_without_record(c, r, false);
		else
			r->record_at = c->now + SEC;
	} else if (waited) {
		end_without_record(c, r, true);
	}
}

/* --- states --- */

static void say_state(struct cluster *c, struct ray_run *r, const char *status, const char *reason)
{
	cleanup_strbuf struct strbuf line = STRBUF_INIT;
	json_t *d = json_pack("{s:s}", "status", status);

	ray_trouble(0, reason, strlen(reason), &line);
	if (*reason)
		(void)json_object_set_new(d, "reason", json_string(line.buf));
	if (r->agent && strcmp(status, "running") == 0) {
		const char *host = r->agent + (strncmp(r->agent, "http://", 7) == 0 ? 7 : 0), *end = strrchr(host, ':');

		(void)json_object_set_new(d, "nodes", json_stringn(host, end ? (size_t)(end - host) : strlen(host)));
	}
	ray_event(c, r, EV_STATE, "ray", d);
}

static void say_pending(struct cluster *c, struct ray_run *r, const char *message)
{
	if (r->said_pending && r->reason && strcmp(r->reason, message) == 0)
		return;
	r->said_pending = true;
	str_set(&r->reason, message);
	say_state(c, r, "pending",
		  r->cancel_wanted ? "called off; Ray lets go of it when its resources are free, or after 15 minutes"
				   : message);
}

static void say_running(struct cluster *c, struct ray_run *r)
{
	if (r->said_running)
		return;
	r->said_running = true;
	say_state(c, r, "running", "");
}

static void take_agent(struct cluster *c, struct ray_run *r, const struct ray_job *j)
{
	struct err e = ERR_INIT;
	char *base = j->agent ? http_base(j->agent, &e) : NULL;

	if (base && (!r->agent || strcmp(base, r->agent) != 0)) {
		str_set(&r->agent, base);
		ray_note(c, r);
	}
	free(base);
}

static void not_there(struct cluster *c, struct ray_run *r)
{
	c->version_at = 0; /* is it the head that it was? */
	if (++r->not_there > NOT_THERE && !r->agent)
		ray_run_end_now(c, r, "failed", "Ray knows no such job any more: it was deleted", NULL);
	else if (r->not_there > NOT_THERE && !r->terminal_at) {
		r->terminal_at = c->now;
		r->last = RAY_FAILED;
		str_set(&r->message, "Ray knows no such job any more: it was deleted");
		str_set(&r->error_type, "");
	}
}

void ray_run_job(struct cluster *c, struct ray_run *r, const struct http_answer *a)
{
	struct err e = ERR_INIT;
	struct ray_job j;

	if (a->status == 404) {
		not_there(c, r);
		return;
	}
	if (a->status != 200 || ray_job_parse(a->body, a->len, &j, &e) < 0)
		return;
	r->not_there = 0;
	if (!r->session && c->session) {
		r->session = xstrdup(c->session);
		ray_note(c, r);
	}
	take_agent(c, r, &j);
	r->last = j.status;
	if (j.status == RAY_PENDING)
		say_pending(c, r, j.message);
	else if (j.status != RAY_STATUS_UNKNOWN && (j.status == RAY_RUNNING || r->agent))
		say_running(c, r);
	if (j.status >= RAY_STOPPED && j.status <= RAY_FAILED && !r->terminal_at) {
		r->terminal_at = c->now;
		str_set(&r->message, j.message);
		str_set(&r->error_type, j.error_type);
		r->has_code = j.has_code;
		r->code = j.code;
		r->record_at = 0;
		if (!r->agent)
			end_without_record(c, r, false);
	}
	ray_job_release(&j);
}

static void on_status(struct cluster *c, struct ray_run *r, int what, const struct http_answer *a)
{
	(void)what;
	r->status_busy = false;
	if (r->phase != RAYRUN_LIVE)
		return;
	if (ray_link_answer(c, a))
		r->status_at = c->now + SEC;
	else
		ray_run_job(c, r, a);
}

static void on_stop(struct cluster *c, struct ray_run *r, int what, const struct http_answer *a)
{
	(void)what;
	r->stop_busy = false;
	r->status_at = 0;
	if (ray_link_answer(c, a))
		r->stop_at = c->now + SEC;
}

/* --- what is asked next --- */

static void ask(struct cluster *c, struct ray_run *r, const char *method, const char *tail, ray_cb cb, int what)
{
	cleanup_free char *path = xasprintf("/api/jobs/%s%s", r->sid, tail), *url = ray_url(c, path);
	const struct http_request rq = { .method = method, .url = url, .deadline_ms = 10000 };

	ray_send(c, r, &rq, cb, what);
}

static void ask_record(struct cluster *c, struct ray_run *r)
{
	cleanup_free char *name = xasprintf("ends/%u.a%u", r->run, r->attempt);
	cleanup_free char *url = ray_attempt_url(c, r->agent, 0, 0, name);
	const struct http_request rq = { .method = "GET", .url = url, .body_max = 65536, .deadline_ms = 10000 };

	r->record_busy = true;
	ray_send(c, r, &rq, on_record, ASK_RECORD);
}

static int64_t status_pace(const struct cluster *c, const struct ray_run *r)
{
	int64_t age = c->now - r->since;

	if (!r->said_running || r->cancel_wanted)
		return ray_pace(c, age < 5 * SEC ? 40 * MS : age < 60 * SEC ? 250 * MS : SEC);
	return ray_pace(c, 2 * SEC);
}

static int64_t record_pace(const struct cluster *c, const struct ray_run *r)
{
	int64_t age = c->now - r->since;

	return ray_pace(c, r->terminal_at || age < 10 * SEC ? 40 * MS : age < 120 * SEC ? 250 * MS : 500 * MS);
}

/* A head that was restarted: its jobs are gone, and those of their drivers that it left are about to be. */
static int64_t forgotten(struct cluster *c, struct ray_run *r)
{
	int64_t until;
	char why[700];

	if (!r->restart_seen)
		r->restart_seen = c->now;
	until = r->restart_seen + (r->job->grace_s + WATCHDOG_S) * SEC;
	if (c->now < until)
		return until;
	(void)snprintf(why, sizeof(why), "the Ray head was restarted (%s is gone, %s is there): its jobs ended with it",
		       r->session, c->session);
	ray_run_end_now(c, r, "node_failed", why, NULL);
	return c->now;
}

int64_t ray_run_step(struct cluster *c, struct ray_run *r)
{
	int64_t next = INT64_MAX;

	if (r->phase != RAYRUN_LIVE)
		return next;
	if (r->session && *r->session && c->session && strcmp(r->session, c->session) != 0)
		return forgotten(c, r);
	if (c->up && r->cancel_wanted && !r->terminal_at && !r->stop_busy && r->stop_at <= c->now) {
		r->stop_busy = true;
		r->stop_at = c->now + STOP_AGAIN;
		ask(c, r, "POST", "/stop", on_stop, ASK_STOP);
	}
	if (c->up && !r->terminal_at && !r->status_busy) {
		if (r->status_at <= c->now) {
			r->status_busy = true;
			r->status_at = c->now + status_pace(c, r);
			ask(c, r, "GET", "", on_status, ASK_STATUS);
		}
		next = r->status_at;
	}
	if (r->agent && !r->record_busy && r->said_running) {
		if (r->record_at <= c->now) {
			r->record_at = c->now + record_pace(c, r);
			ask_record(c, r);
		}
		if (r->record_at < next)
			next = r->record_at;
	}
	return next;
}
