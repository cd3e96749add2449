/*
 * What ended jobs used, asked of accounting where there is any: it alone knows the memory and the processor time of all
 * nodes and steps. A run has ended before, and loses nothing but these numbers when they cannot be had.
 *
 * Invariants: one question is on its way at a time, for many jobs; each job is asked for a few times only, since
 * accounting lags behind; a cluster that keeps no accounts is asked once per connection.
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define BATCH 500
#define USAGE_LIMIT_S 30

struct usage {
	struct list node;
	uint32_t num, attempt;
	char *job_id, *token;
	bool peak_known; /* by the exit record, which saw it all */
	unsigned tries;
	int64_t at;
	uint64_t serial; /* of the question that it is in */
};

static void drop(struct usage *u)
{
	list_del(&u->node);
	free(u->job_id);
	free(u->token);
	free(u);
}

static struct usage *entry(struct list *n)
{
	return container_of(n, struct usage, node);
}

/* When the next question is due: not before the first of them is, nor soon after the last question. */
static void reckon(struct cluster *c)
{
	int64_t at = INT64_MAX;

	for (struct list *n = c->usage.next; n != &c->usage; n = n->next)
		at = earlier(at, entry(n)->at);
	c->usage_at = at < c->usage_asked_at + c->pace.usage[0] ? c->usage_asked_at + c->pace.usage[0] : at;
}

void rusage_release(struct cluster *c)
{
	while (!list_empty(&c->usage))
		drop(entry(c->usage.next));
}

void rusage_link_up(struct cluster *c)
{
	c->usage_busy = false;
	c->usage_none = false;
	reckon(c);
}

void rusage_want(struct cluster *c, const struct rrun *r)
{
	struct usage *u;

	if (!c->sched->usage || c->usage_none || !r->job_id || !*r->job_id || (r->job && r->job->holder.num))
		return;
	u = xcalloc(1, sizeof(*u));
	u->num = r->num;
	u->attempt = r->attempt;
	u->job_id = xstrdup(r->job_id);
	u->token = xstrdup(r->token);
	u->peak_known = r->has_record && r->record.maxrss > 0 && r->record.nodes < 2;
	u->at = c->now + c->pace.usage[0];
	list_add_tail(&c->usage, &u->node);
	if (!c->usage_busy)
		reckon(c);
}

static void report(struct cluster *c, const struct usage *u, const struct sched_usage *s)
{
	struct crep *p;
	json_t *d = json_object();

	if (s->cpu_us >= 0)
		(void)json_object_set_new(d, "cpu_us", json_integer(s->cpu_us));
	if (s->max_rss > 0 && !u->peak_known)
		(void)json_object_set_new(d, "max_rss", json_integer(s->max_rss));
	if (!json_object_size(d)) {
		json_decref(d);
		return;
	}
	(void)json_object_set_new(d, "attempt", json_integer(u->attempt));
	(void)json_object_set_new(d, "usage_source", json_string("accounting"));
	(void)json_object_set_new(d, "source", json_string("accounting"));
	p = crep_new(CREP_EVENT, c);
	p->run = u->num;
	p->ev = event_new(EV_FACTS, clock_real(c->ctx.clock), d);
	inbox_post(c->ctx.replies, &p->m);
}

static void on_one(void *arg, const struct sched_usage *s)
{
	struct cluster *c = arg;
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->usage) {
		struct usage *u = entry(n);

		if (u->serial != c->usage_serial || !s->ended || strcmp(u->token, s->token) != 0 ||
		    strcmp(u->job_id, s->job_id) != 0)
			continue;
		report(c, u, s);
		drop(u);
		return;
	}
}

/* Those that the answer did not tell of are asked for again, later and later. */
static void put_back(struct cluster *c, bool answered)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->usage) {
		struct usage *u = entry(n);

		if (u->serial != c->usage_serial)
			continue;
		u->serial = 0;
		u->tries += answered;
		if (u->tries >= ARRAY_SIZE(c->pace.usage))
			drop(u);
		else
			u->at = c->now + c->pace.usage[u->tries];
	}
	reckon(c);
}

static void on_usage(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct err e = ERR_INIT;
	int rc;

	(void)arg;
	c->usage_busy = false;
	if (!f) {
		put_back(c, false);
		return;
	}
	rc = c->sched->usage_result(f->rc, f->out, f->err, on_one, c, &e);
	if (rc == -ENOTSUP) {
		c->usage_none = true;
		rusage_release(c);
		return;
	}
	if (rc < 0)
		log_debug("cluster %s: %s", c->ctx.conf->name, e.text);
	put_back(c, true);
}

int64_t rusage_deadline(const struct cluster *c)
{
	return c->usage_busy || list_empty(&c->usage) || !rlink_up(c) ? INT64_MAX : c->usage_at;
}

void rusage_step(struct cluster *c)
{
	struct sched_run runs[BATCH];
	struct strbuf code = STRBUF_INIT;
	size_t n = 0;

	if (rusage_deadline(c) > c->now)
		return;
	c->usage_serial++;
	c->usage_asked_at = c->now;
	for (struct list *l = c->usage.next; l != &c->usage && n < BATCH; l = l->next) {
		struct usage *u = entry(l);

		if (u->at > c->now)
			continue;
		u->serial = c->usage_serial;
		runs[n++] = (struct sched_run){
			.num = u->num, .attempt = u->attempt, .job_id = u->job_id, .token = u->token
		};
	}
	if (!n) {
		reckon(c);
		return;
	}
	c->usage_busy = true;
	c->sched->usage(runs, n, &code);
	rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, USAGE_LIMIT_S, on_usage, NULL);
	strbuf_release(&code);
}
