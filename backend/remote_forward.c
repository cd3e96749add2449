/*
 * Forwards of this cluster's runs (forward.h): made when a run first wants one, gone with the run, tied to the
 * connection as it comes and goes. What hinders one is told as the run's fact `forward_trouble`.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/forward.h"

#include <errno.h>
#include <string.h>

static void answer(struct cluster *c, const struct creq *q, int code, const char *text)
{
	struct crep *p;

	if (!q->ticket)
		return;
	p = crep_new(CREP_REPLY, c);
	p->run = q->run;
	p->ticket = q->ticket;
	p->code = code;
	p->text = xstrdup(text);
	inbox_post(c->ctx.replies, &p->m);
}

static void on_trouble(void *arg, uint32_t owner, const char *text)
{
	struct cluster *c = arg;
	struct rrun *r = rrun_find(c, owner, 0);

	if (r)
		rrun_event(c, r, EV_FACTS, "ssh",
			   json_pack("{s:o}", "forward_trouble", text ? json_string(text) : json_null()));
}

static struct forwards *set_of(struct cluster *c)
{
	if (c->forwards)
		return c->forwards;
	c->forwards = forwards_new(c->top, c->ctx.clock);
	if (!c->forwards)
		return NULL;
	forwards_tell(c->forwards, on_trouble, c);
	if (rlink_up(c))
		forwards_link(c->forwards, c->link.t);
	return c->forwards;
}

/* The connection need not be up for it. */
void rforward_request(struct cluster *c, const struct creq *q)
{
	const struct rrun *r = rrun_find(c, q->run, 0);
	cleanup_free char *host = NULL, *text = NULL;
	struct err e = ERR_INIT;
	int rc, port = 0, local = 0;

	rc = forward_parse(q->arg ? q->arg : "", &host, &port, &e);
	if (rc == 0 && strcmp(q->verb ? q->verb : "", "unforward") == 0) {
		if (c->forwards)
			(void)forward_close(c->forwards, q->run, host, port);
		answer(c, q, 0, "");
		return;
	}
	if (rc == 0 && (!r || r->phase >= RR_ENDED))
		rc = err_set(&e, -ESRCH, "the run is not on the cluster (any more)");
	if (rc == 0 && !set_of(c))
		rc = err_set(&e, -EMFILE, "there are no descriptors left for a forward");
	if (rc == 0)
		rc = forward_listen(c->forwards, q->run, host, port, q->offset < 65536 ? (int)q->offset : 0, &local,
				    &e);
	text = rc == 0 ? xasprintf("127.0.0.1:%d", local) : xstrdup(e.text);
	answer(c, q, rc, text);
}

void rforward_link(struct cluster *c, struct transport *t)
{
	if (c->forwards)
		forwards_link(c->forwards, t);
}

bool rforward_step(struct cluster *c)
{
	return c->forwards && forwards_step(c->forwards);
}

int64_t rforward_deadline(const struct cluster *c)
{
	return c->forwards ? forwards_deadline(c->forwards) : INT64_MAX;
}

int rforward_fd(const struct cluster *c)
{
	return c->forwards ? forwards_fd(c->forwards) : -1;
}

void rforward_drop(struct cluster *c, uint32_t num)
{
	if (c->forwards)
		forwards_drop(c->forwards, num);
}

void rforward_release(struct cluster *c)
{
	forwards_free(c->forwards);
	c->forwards = NULL;
}
