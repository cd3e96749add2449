/*
 * Verbs of runs/ID/ctl. What changes the run's fate (cancel, hold, release) is journaled before the cluster hears of it; what
 * only passes through (signal, update, refresh) is journaled as done once, so that a repeated write is not sent twice.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* --- waiting --- */

bool engine_decision(const struct run *r, struct strbuf *out)
{
	if (r->status == RUN_REJECTED) {
		strbuf_addf(out, "rejected %s", r->why ? r->why : "");
		return true;
	}
	if (r->job_id) {
		strbuf_addf(out, "accepted %s", r->job_id);
		return true;
	}
	if (!run_is_live(r)) {
		strbuf_addf(out, "rejected %s", r->why ? r->why : run_status_name(r->status));
		return true;
	}
	return false;
}

static void wait_on(struct list *l, engine_done cb, void *arg)
{
	struct waiter *w = xcalloc(1, sizeof(*w));

	w->cb = cb;
	w->arg = arg;
	list_add_tail(l, &w->node);
}

void engine_decided(struct engine *en, uint32_t num, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);
	struct strbuf text = STRBUF_INIT;

	if (!er)
		cb(arg, -ENOENT, "the run was purged");
	else if (engine_decision(er->r, &text))
		cb(arg, 0, text.buf);
	else
		wait_on(&er->decided, cb, arg);
	strbuf_release(&text);
}

void engine_verb_answer(struct engine *en, uint32_t num, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);

	if (!er)
		cb(arg, -ENOENT, "the run was purged");
	else if (er->verb_ticket)
		wait_on(&er->verb_waiters, cb, arg);
	else
		cb(arg, er->verb_code, er->verb_text ? er->verb_text : "");
}

static void drop(struct list *l, const void *arg)
{
	struct list *n, *tmp;

	list_for_each_safe(n, tmp, l) {
		struct waiter *w = container_of(n, struct waiter, node);

		if (w->arg == arg) {
			list_del(n);
			free(w);
		}
	}
}

void engine_cancel_cb(struct engine *en, uint32_t num, void *arg)
{
	struct erun *er = engine_find(en, num);

	if (!er)
		return;
	drop(&er->decided, arg);
	drop(&er->verb_waiters, arg);
}

static void answer(struct erun *er, int code, const char *text)
{
	struct list *n;

	er->verb_code = code;
	str_set(&er->verb_text, text);
	while ((n = list_pop(&er->verb_waiters))) {
		struct waiter *w = container_of(n, struct waiter, node);

		w->cb(w->arg, code, er->verb_text);
		free(w);
	}
}

void engine_verb_reply(struct engine *en, struct erun *er, uint64_t ticket, int code, const char *text)
{
	/* A cancel that did not reach the cluster is sent again when the link is there (engine_act). */
	if (er->r->cancel_wanted && run_is_live(er->r) && (code == -EHOSTUNREACH || code == -ENODEV))
		er->cancel_sent = false;
	if (ticket != er->verb_ticket)
		return;
	er->verb_ticket = 0;
	answer(er, code, text);
	(void)en;
}

/* --- the verbs --- */

struct verb_call {
	struct engine *en;
	struct erun *er;
	const char *arg;	/* rest of the line, "" when there is none */
	uint64_t request;
	engine_done cb;
	void *cb_arg;
};

static struct store_txn *txn_with_seen(struct engine *en, uint64_t request, const char *result)
{
	struct store_txn *t = store_txn_new(0, true);

	if (request) {
		store_txn_seen(t, en->conf.mount_id, request, result);
		engine_remember(en, request, result);
	}
	return t;
}

static void post_verb(const struct verb_call *v, enum event_type type, json_t *data)
{
	(void)json_object_set_new(data, "source", json_string("user"));
	engine_post(v->en, v->er, event_new(type, clock_real(v->en->clock), data), txn_with_seen(v->en, v->request, ""), v->cb,
		    v->cb_arg);
}

static void verb_cancel(const struct verb_call *v)
{
	answer(v->er, 0, "cancel wanted");
	post_verb(v, EV_CANCEL_WANTED, json_object());
}

static void verb_hold(const struct verb_call *v)
{
	/* What is submitted already is told by engine_act, once the wish is in the journal. */
	post_verb(v, EV_HOLD_WANTED, json_object());
}

static void verb_release(const struct verb_call *v)
{
	post_verb(v, EV_RELEASE_WANTED, json_object());
}

static void pass_on(const struct verb_call *v, const char *verb)
{
	post_verb(v, EV_FACTS, json_pack("{s:s+++}", "last_verb", verb, *v->arg ? " " : "", v->arg, ""));
	engine_send_verb(v->en, v->er, verb, v->arg);
}

static void verb_signal(const struct verb_call *v)
{
	if (v->er->r->status != RUN_RUNNING && v->er->r->status != RUN_COMPLETING)
		v->cb(v->cb_arg, -EBUSY, "signal needs a running job; this run is not running yet");
	else if (!*v->arg)
		v->cb(v->cb_arg, -EINVAL, "signal needs a name: signal USR1");
	else
		pass_on(v, "signal");
}

static void verb_update(const struct verb_call *v)
{
	if (!v->er->r->job_id)
		v->cb(v->cb_arg, -EBUSY, "the run has not been submitted yet: there is nothing to update");
	else if (!strchr(v->arg, '='))
		v->cb(v->cb_arg, -EINVAL, "update needs KEY=VALUE: update time=2:00:00");
	else
		pass_on(v, "update");
}

static void verb_requeue(const struct verb_call *v)
{
	if (!v->er->r->job_id)
		v->cb(v->cb_arg, -EBUSY, "the run has not been submitted yet");
	else
		pass_on(v, "requeue");
}

static void verb_refresh(const struct verb_call *v)
{
	if (v->er->r->job_id)
		engine_send_verb(v->en, v->er, "refresh", "");
	v->cb(v->cb_arg, 0, "");
}

static void retried(void *arg, int code, const char *text)
{
	struct verb_call *v = arg;
	struct erun *er = engine_find(v->en, (uint32_t)(uintptr_t)v->er);

	if (er)
		answer(er, code, text);
	v->cb(v->cb_arg, code, code ? text : "");
	free(v);
}

static void retry_with(void *arg, int code, const char *text, size_t len)
{
	struct verb_call *v = arg;
	const struct engine_submit s = { .text = text, .len = len, .request = v->request };

	if (code < 0) {
		v->cb(v->cb_arg, code, "the spec of this run cannot be read");
		free(v);
		return;
	}
	engine_submit(v->en, &s, retried, v);
}

/* A new run of the same spec; its id is the answer. */
static void verb_retry(const struct verb_call *v)
{
	struct verb_call *copy = xmalloc(sizeof(*copy));

	*copy = *v;
	copy->er = (struct erun *)(uintptr_t)v->er->r->num; /* the run may be purged before the answer */
	engine_doc(v->en, v->er->r->num, "spec", retry_with, copy);
}

static const struct verb {
	const char *name;
	void (*run)(const struct verb_call *v);
	bool ended;	/* may be used on an ended run, and only there */
} verbs[] = {
	{ "cancel", verb_cancel, false },   { "signal", verb_signal, false },	{ "hold", verb_hold, false },
	{ "release", verb_release, false }, { "requeue", verb_requeue, false }, { "update", verb_update, false },
	{ "refresh", verb_refresh, false }, { "retry", verb_retry, true },
};

static const char *const later_verbs[] = { "forward", "fetch", "keep", "clean" };

const char *engine_verbs(void)
{
	return "cancel\nsignal NAME\nhold\nrelease\nrequeue\nupdate KEY=VALUE\nrefresh\nretry\n";
}

static const struct verb *verb_find(const char *line, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strlen(verbs[i].name) == len && strncmp(verbs[i].name, line, len) == 0)
			return &verbs[i];
	return NULL;
}

static void unknown_verb(const char *line, size_t len, engine_done cb, void *arg)
{
	char text[400];

	for (size_t i = 0; i < ARRAY_SIZE(later_verbs); i++) {
		if (strlen(later_verbs[i]) != len || strncmp(later_verbs[i], line, len) != 0)
			continue;
		(void)snprintf(text, sizeof(text), "the verb '%s' is not in this version", later_verbs[i]);
		cb(arg, -EINVAL, text);
		return;
	}
	(void)snprintf(text, sizeof(text),
		       "unknown verb '%.*s': ctl knows cancel, signal NAME, hold, release, requeue, update KEY=VALUE, refresh, retry",
		       (int)(len < 60 ? len : 60), line);
	cb(arg, -EINVAL, text);
}

void engine_verb(struct engine *en, uint32_t num, const char *line, uint64_t request, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);
	size_t len = strcspn(line, " \t");
	const struct verb *verb = verb_find(line, len);
	struct verb_call v = { en, er, line + len + strspn(line + len, " \t"), request, cb, arg };

	if (!er || !er->visible)
		cb(arg, -ENOENT, "the run was purged");
	else if (engine_recall(en, request))
		cb(arg, 0, "");
	else if (!verb)
		unknown_verb(line, len, cb, arg);
	else if (!verb->ended && !run_is_live(er->r))
		cb(arg, -ESRCH, "the run has ended");
	else if (er->r->status == RUN_DRAFT)
		cb(arg, -EBUSY, "the run is a draft: write its spec, or remove it with rmdir");
	else if (verb->ended && run_is_live(er->r))
		cb(arg, -EBUSY, "the run has not ended yet");
	else
		verb->run(&v);
}
