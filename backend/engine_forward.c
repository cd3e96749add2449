/*
 * Forwards of runs. What was asked for, and the address it got, is a fact of the run ("forward:HOST:PORT" ->
 * "127.0.0.1:PORT"), one each, so that two at once do not overwrite each other: a worker that comes later asks the
 * cluster for the same ports again, and so does the next attempt, whose first node may be another. A port without a
 * host is one of the run's first node.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "backend/forward.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FACT "forward:"

struct forward_call {
	struct engine *en;
	uint32_t num;
	char *asked, *address;
	engine_done cb;
	void (*drop)(void *arg);
	void *arg;
};

static void call_free(struct forward_call *f)
{
	free(f->asked);
	free(f->address);
	free(f);
}

static void call_drop(void *arg)
{
	struct forward_call *f = arg;

	if (f->drop)
		f->drop(f->arg);
	call_free(f);
}

static void call_done(struct forward_call *f, int code, const char *text)
{
	if (f->cb)
		f->cb(f->arg, code, text);
	call_free(f);
}

char *engine_first_node(const char *nodes)
{
	struct strbuf out = STRBUF_INIT;
	const char *p = nodes ? nodes : "";

	/* Slurm's lists, as gpu[01-03,07]-rack[2,4],login: of each bracket the first. */
	while (*p && *p != ',' && *p != ' ') {
		if (*p != '[') {
			strbuf_addch(&out, *p++);
			continue;
		}
		for (p++; *p && !strchr("-,]", *p); p++)
			strbuf_addch(&out, *p);
		p += strcspn(p, "]");
		p += *p == ']';
	}
	if (out.len)
		return strbuf_detach(&out, NULL);
	strbuf_release(&out);
	return NULL;
}

static bool is_here(const struct engine *en, const struct erun *er)
{
	const struct ecluster *ec = engine_cluster(en, er->r->cluster);

	return ec && ec->conf->type == CLUSTER_LOCAL;
}

/* "HOST:PORT" of what was asked, or what is wrong with it. */
static int resolve(const struct engine *en, const struct erun *er, const char *asked, char **to, struct err *e)
{
	cleanup_free char *host = NULL, *node = NULL;
	const char *name;
	int port = 0, rc = forward_parse(asked, &host, &port, e);

	if (rc < 0)
		return rc;
	node = is_here(en, er) ? xstrdup("127.0.0.1") : engine_first_node(er->r->nodes);
	name = *host ? host : node;
	if (!name)
		return err_set(e, -EBUSY, "which node the run is on is not known yet: forward HOST:PORT");
	*to = xasprintf(strchr(name, ':') ? "[%s]:%d" : "%s:%d", name, port);
	return 0;
}

static void noted(void *arg, int code, const char *text)
{
	struct forward_call *f = arg;

	call_done(f, code, code ? text : f->address);
}

static void note(struct engine *en, struct erun *er, const char *asked, const char *address,
		 const struct own_call *call)
{
	cleanup_free char *key = xasprintf(FACT "%s", asked);
	json_t *d = json_object();

	(void)json_object_set_new(d, key, address ? json_string(address) : json_null());
	if (!address)
		(void)json_object_set_new(d, "forward_trouble", json_null());
	engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), d), 0, call);
}

static void replied(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct forward_call *f = arg;
	struct erun *er = engine_find(f->en, f->num);
	const struct own_call call = { noted, call_drop, f };
	const char *known;

	(void)data;
	(void)len;
	if (code || !er) {
		call_done(f, code ? code : -ENOENT, code ? text : "the run was purged");
		return;
	}
	known = engine_forwarded(er->r, f->asked);
	str_set(&f->address, text);
	if (known && strcmp(known, text) == 0)
		call_done(f, 0, text);
	else
		note(f->en, er, f->asked, text, &call);
}

/* The port that it had. */
static uint64_t port_before(const struct erun *er, const char *asked)
{
	const char *address = engine_forwarded(er->r, asked), *colon = address ? strrchr(address, ':') : NULL;

	return colon ? strtoul(colon + 1, NULL, 10) : 0;
}

static void send(struct engine *en, struct erun *er, const char *to, struct forward_call *f)
{
	struct pending *p;
	struct creq *rq;
	uint64_t ticket;

	p = engine_pending(en, PENDING_DATA, er->r->num, &ticket);
	p->data = replied;
	p->drop = call_drop;
	p->arg = f;
	rq = engine_creq(en, er, CREQ_FORWARD, ticket);
	rq->verb = xstrdup("forward");
	rq->arg = xstrdup(to);
	rq->offset = port_before(er, f->asked);
	engine_send(en, er, rq);
}

static bool has_node(const struct run *r)
{
	enum run_status s = r->status == RUN_UNKNOWN ? r->before_unknown : r->status;

	return s == RUN_RUNNING || s == RUN_COMPLETING;
}

static void forward(struct engine *en, struct erun *er, const char *asked, engine_done cb, void (*drop)(void *arg),
		    void *arg)
{
	struct err e = ERR_INIT;
	cleanup_free char *to = NULL;
	struct forward_call *f;
	int rc = resolve(en, er, asked, &to, &e);

	if (rc < 0) {
		if (cb)
			cb(arg, rc, e.text);
		return;
	}
	f = xcalloc(1, sizeof(*f));
	*f = (struct forward_call){ en, er->r->num, xstrdup(asked), NULL, cb, drop, arg };
	send(en, er, to, f);
}

void engine_forward(struct engine *en, uint32_t num, const char *asked, engine_done cb, void (*drop)(void *arg),
		    void *arg)
{
	struct erun *er = engine_find(en, num);

	if (!er || !er->visible)
		cb(arg, -ENOENT, "the run was purged");
	else if (!run_is_live(er->r))
		cb(arg, -ESRCH, "the run has ended");
	else if (!has_node(er->r) || er->sent_attempt != er->r->attempt)
		cb(arg, -EBUSY, "the run is not running yet: there is nothing to forward to");
	else
		forward(en, er, asked, cb, drop, arg);
}

int engine_unforward(struct engine *en, uint32_t num, const char *asked, struct err *e)
{
	struct erun *er = engine_find(en, num);
	cleanup_free char *to = NULL;
	struct creq *rq;
	int rc;

	if (!er || !engine_forwarded(er->r, asked))
		return err_set(e, -ENOENT, "the run has no forward of '%.100s': info lists those it has", asked);
	rc = resolve(en, er, asked, &to, e);
	if (rc < 0)
		return rc;
	rq = engine_creq(en, er, CREQ_FORWARD, 0);
	rq->verb = xstrdup("unforward");
	rq->arg = xstrdup(to);
	engine_send(en, er, rq);
	note(en, er, asked, NULL, NULL);
	return 0;
}

const char *engine_forwarded(const struct run *r, const char *asked)
{
	cleanup_free char *key = xasprintf(FACT "%s", asked);

	return run_fact(r, key);
}

bool engine_is_forward_fact(const char *key)
{
	return strncmp(key, "forward", strlen("forward")) == 0 &&
	       (key[strlen("forward")] == ':' || strcmp(key, "forward_trouble") == 0);
}

void engine_act_forwards(struct engine *en, struct erun *er)
{
	const char *key;
	json_t *value;

	if (!has_node(er->r) || er->sent_attempt != er->r->attempt || er->forward_attempt == er->r->attempt)
		return;
	er->forward_attempt = er->r->attempt;
	json_object_foreach (er->r->facts, key, value)
		if (strncmp(key, FACT, strlen(FACT)) == 0 && json_is_string(value))
			forward(en, er, key + strlen(FACT), NULL, NULL, NULL);
}
