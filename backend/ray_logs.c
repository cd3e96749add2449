/*
 * Streams and messages of a job, from the agent of its driver's node into the spool, by byte ranges: each byte comes
 * once, whatever it is. The spool's length is where reading goes on, so nothing is lost or repeated by a cut, a
 * restart of the worker or of the agent. Looks are quick after news and while somebody reads.
 */
#include "backend/ray.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <string.h>

#define MS ((int64_t)USEC_PER_MSEC)
#define PACE_MIN (50 * MS)
#define PACE_MAX (1000 * MS)
#define PACE_HOT (150 * MS)
#define PIECE ((uint64_t)2 << 20)
#define GIVE_UP (30LL * USEC_PER_SEC) /* the end promised bytes that do not come */
#define LOST (120LL * USEC_PER_SEC)   /* their node does not answer, although it did before */

static const char *const names[RAYS_N] = { "stdout", "stderr", "events" };

static uint64_t here(const struct ray_run *r, int st)
{
	return st == RAYS_EVENTS ? events_at(r->events) : spool_len(r->spool, st == RAYS_OUT ? SPOOL_OUT : SPOOL_ERR);
}

static int keep(struct ray_run *r, int st, const char *data, size_t len)
{
	int rc;

	if (st != RAYS_EVENTS)
		return spool_append(r->spool, st == RAYS_OUT ? SPOOL_OUT : SPOOL_ERR, data, len);
	rc = events_append(r->events, data, len);
	if (rc == 0)
		(void)events_settle(r->events, false);
	return rc;
}

static void report(struct cluster *c, const struct ray_run *r)
{
	struct crep *rep = crep_new(CREP_LOG, c);

	rep->run = r->run;
	rep->out_len = (int64_t)spool_len(r->spool, SPOOL_OUT);
	rep->err_len = (int64_t)spool_len(r->spool, SPOOL_ERR);
	rep->last = r->logs_done;
	rep->events_last = r->events_done;
	inbox_post(c->ctx.replies, &rep->m);
}

static void settle_pace(struct cluster *c, struct ray_run *r, struct ray_stream *s, bool news)
{
	s->pace = news || s->pace * 2 < PACE_MIN ? PACE_MIN : s->pace * 2;
	if (s->pace > PACE_MAX)
		s->pace = PACE_MAX;
	if (s->pace > PACE_HOT && (r->hot_until > c->now || r->phase != RAYRUN_LIVE))
		s->pace = PACE_HOT;
	s->next_at = s->again ? 0 : c->now + (r->hot_until > c->now ? s->pace : ray_pace(c, s->pace));
}

/* There is no more for now: is there ever? */
static void at_end(struct cluster *c, struct ray_run *r, struct ray_stream *s, int st)
{
	if (r->phase == RAYRUN_DRAIN) {
		s->done = true;
	} else if (r->phase == RAYRUN_ENDED) {
		if (s->final < 0 || (int64_t)here(r, st) >= s->final)
			s->done = true;
		else if (!s->waiting_since)
			s->waiting_since = c->now;
		else if (c->now - s->waiting_since > GIVE_UP)
			s->done = true;
	}
}

/* No answer, which is no end, unless it lasts and is not the link's. */
static void silence(struct cluster *c, const struct ray_run *r, struct ray_stream *s)
{
	s->next_at = c->now + USEC_PER_SEC;
	if (r->phase == RAYRUN_LIVE)
		return;
	if (!s->waiting_since)
		s->waiting_since = c->now;
	s->done = ray_waited(c, s->waiting_since, r->heard ? LOST : GIVE_UP);
}

static void on_bytes(struct cluster *c, struct ray_run *r, int st, const struct http_answer *a)
{
	struct ray_stream *s = &r->stream[st];
	const char *data = a->body;
	size_t len = a->len;
	uint64_t at = here(r, st);
	bool news = false;

	s->busy = false;
	s->again = false;
	if (ray_link_answer(c, a) || a->status >= 500) {
		silence(c, r, s);
		return;
	}
	r->heard = true;
	if (a->status == 200 && len) { /* the whole file: a server that knows no ranges, or the first bytes */
		len = len > at ? len - (size_t)at : 0;
		data += a->len - len;
	} else if (a->status != 206) {
		len = 0;
	}
	if (s->final >= 0 && at + len > (uint64_t)s->final)
		len = (uint64_t)s->final > at ? (size_t)((uint64_t)s->final - at) : 0;
	if (len) {
		s->waiting_since = 0;
		if (keep(r, st, data, len) < 0) { /* a full disk: later */
			s->next_at = c->now + USEC_PER_SEC;
			return;
		}
		news = true;
		s->again = len >= PIECE || (a->total >= 0 && (uint64_t)a->total > here(r, st));
	}
	if (!len || (r->phase == RAYRUN_ENDED && (int64_t)here(r, st) >= s->final))
		at_end(c, r, s, st);
	settle_pace(c, r, s, news);
	if (news)
		report(c, r);
}

static void ask(struct cluster *c, struct ray_run *r, int st)
{
	cleanup_free char *url = ray_attempt_url(c, r->agent, r->run, r->attempt, names[st]);
	const struct http_request rq = {
		.method = "GET", .url = url, .range = true, .offset = here(r, st), .length = PIECE, .deadline_ms = 15000
	};

	r->stream[st].busy = true;
	ray_send(c, r, &rq, on_bytes, st);
}

static bool open_spool(struct cluster *c, struct ray_run *r)
{
	struct err e = ERR_INIT;

	if (!r->spool && spool_open(c->spool_dir, r->run, &r->spool, &e) < 0) {
		log_warn("run %u: %s", r->run, e.text);
		return false;
	}
	if (!r->events && !r->events_done && events_open(c->spool_dir, r->run, &r->events, &e) < 0) {
		log_warn("run %u: %s", r->run, e.text);
		return false;
	}
	return true;
}

static int64_t missing(const struct ray_run *r, int st)
{
	int64_t have = (int64_t)here(r, st);

	return r->stream[st].final > have ? r->stream[st].final - have : 0;
}

/* Messages first: an end waits for them. */
static bool finish_events(struct cluster *c, struct ray_run *r)
{
	int64_t gap;

	if (r->events_done)
		return true;
	if (!r->stream[RAYS_EVENTS].done)
		return false;
	gap = missing(r, RAYS_EVENTS);
	if (events_settle(r->events, true) < 0 || events_sync(r->events) < 0)
		return false;
	if (gap)
		ray_event(c, r, EV_FACTS, "record", json_pack("{s:I}", "events_missing", (json_int_t)gap));
	events_close(r->events);
	r->events = NULL;
	r->events_done = true;
	report(c, r);
	return true;
}

static void finish(struct cluster *c, struct ray_run *r)
{
	int64_t out, err;

	if (!finish_events(c, r) || !r->stream[RAYS_OUT].done || !r->stream[RAYS_ERR].done)
		return;
	if (r->phase == RAYRUN_DRAIN) {
		struct event *ev = r->end;

		r->end = NULL;
		(void)json_object_set_new(ev->data, "out_len", json_integer((json_int_t)here(r, RAYS_OUT)));
		(void)json_object_set_new(ev->data, "err_len", json_integer((json_int_t)here(r, RAYS_ERR)));
		ray_run_end(c, r, ev);
	}
	out = missing(r, RAYS_OUT);
	err = missing(r, RAYS_ERR);
	if (out || err)
		ray_event(c, r, EV_FACTS, "record",
			  json_pack("{s:b, s:I, s:I}", "log_incomplete", 1, "stdout_missing", (json_int_t)out,
				    "stderr_missing", (json_int_t)err));
	if (spool_sync(r->spool) < 0)
		log_error("run %u: its logs cannot be put on the disk", r->run);
	r->logs_done = true;
	report(c, r);
	r->phase = RAYRUN_DONE;
}

/* An attempt whose place is not known has nothing that could be had. */
static void no_place(struct ray_run *r)
{
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].done = true;
}

int64_t ray_logs_step(struct cluster *c, struct ray_run *r)
{
	int64_t next = INT64_MAX;

	if (r->phase == RAYRUN_QUEUED || r->phase == RAYRUN_DONE)
		return next;
	if (!open_spool(c, r))
		return c->now + USEC_PER_SEC;
	if (!r->agent && r->phase == RAYRUN_LIVE)
		return next;
	if (!r->agent || !c->http)
		no_place(r);
	for (int st = 0; st < RAYS_N; st++) {
		struct ray_stream *s = &r->stream[st];

		if (s->done || s->busy)
			continue;
		if ((st == RAYS_ERR && r->job->merged) ||
		    (st == RAYS_EVENTS && (!r->job->pipes_messages || r->events_done)) ||
		    (r->phase == RAYRUN_ENDED && s->final >= 0 && (int64_t)here(r, st) >= s->final)) {
			s->done = r->phase != RAYRUN_LIVE;
			continue;
		}
		if (s->next_at <= c->now)
			ask(c, r, st);
		else if (s->next_at < next)
			next = s->next_at;
	}
	if (r->phase != RAYRUN_LIVE)
		finish(c, r);
	return next;
}
