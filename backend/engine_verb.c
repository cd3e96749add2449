/*
 * Verbs of runs/ID/ctl. What changes the run's fate (cancel, hold, release) is journaled before the cluster hears of
 * it; what only passes through (signal, update, requeue) is journaled as done once, so that a repeated write is not
 * sent twice.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "backend/forward.h"

#include <errno.h>
#include <inttypes.h>
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

void waiter_add(struct engine *en, struct list *l, engine_done cb, void *arg)
{
	struct waiter *w = xcalloc(1, sizeof(*w));

	w->serial = ++en->next_ticket;
	w->cb = cb;
	w->arg = arg;
	list_add_tail(l, &w->node);
}

void waiters_answer(struct engine *en, struct list *l, int code, const char *text)
{
	uint64_t now = en->next_ticket;

	while (!list_empty(l)) {
		struct waiter *w = container_of(l->next, struct waiter, node);

		if (w->serial > now)
			break;
		list_del(&w->node);
		w->cb(w->arg, code, text);
		free(w);
	}
}

void engine_decided(struct engine *en, uint32_t num, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);
	struct strbuf text = STRBUF_INIT;

	if (!er || !er->visible)
		cb(arg, -ENOENT, "the run was purged");
	else if (engine_decision(er->r, &text))
		cb(arg, 0, text.buf);
	else
		waiter_add(en, &er->decided, cb, arg);
	strbuf_release(&text);
}

void engine_verb_answer(struct engine *en, uint32_t num, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);
	cleanup_free char *text = er ? xstrdup(er->verb_text ? er->verb_text : "") : NULL;

	if (!er || !er->visible)
		cb(arg, -ENOENT, "the run was purged");
	else if (er->verb_ticket)
		waiter_add(en, &er->verb_waiters, cb, arg);
	else
		cb(arg, er->verb_code, text);
}

static void drop(struct list *l, const void *arg)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, l) {
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

static void answer(struct engine *en, struct erun *er, int code, const char *text)
{
	cleanup_free char *copy = xstrdup(text); /* a callback may bring the next answer */

	er->verb_ticket = 0;
	er->verb_code = code;
	str_set(&er->verb_text, text);
	waiters_answer(en, &er->verb_waiters, code, copy);
}

void engine_send_verb(struct engine *en, struct erun *er, const char *verb, const char *arg)
{
	struct pending *p;
	struct creq *rq;
	uint64_t ticket;

	p = engine_pending(en, PENDING_VERB, er->r->num, &ticket);
	p->result = xstrdup(verb);
	rq = engine_creq_placed(en, er, CREQ_VERB, ticket);
	rq->verb = xstrdup(verb);
	rq->arg = xstrdup(arg);
	er->verb_ticket = ticket;
	er->verb_told = true;
	engine_send(en, er, rq);
}

/* What the cluster was told last outlives this worker, so that a wish is neither lost nor told twice. */
static void note_hold(struct engine *en, struct erun *er, bool held)
{
	json_t *d = json_object();

	(void)json_object_set_new(d, "hold", held ? json_true() : json_null());
	engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), d), 0, NULL);
}

void engine_verb_reply(struct engine *en, struct erun *er, uint64_t ticket, const char *verb, int code,
		       const char *text)
{
	bool away = code == -EHOSTUNREACH || code == -ENODEV, hold = strcmp(verb, "hold") == 0;
	bool is_hold = hold || strcmp(verb, "release") == 0;
	const struct engine_link *link = engine_cluster_link(en, er->r->cluster);

	if (away || code < 0)
		engine_session_untold(er, verb);
	/* A wish that did not reach the cluster is sent again when the link is there (engine_act). */
	if (away && strcmp(verb, "cancel") == 0)
		er->cancel_sent = false;
	else if (away && is_hold)
		er->hold_sent = !hold;
	else if (code == 0 && is_hold && run_is_live(er->r))
		note_hold(en, er, hold);
	if (away && link && link->up)
		engine_act(en, er);
	if (ticket == er->verb_ticket)
		answer(en, er, code, text);
}

/* --- the verbs --- */

struct verb_call {
	struct engine *en;
	uint32_t num;
	const struct verb *verb;
	char *arg; /* rest of the line, "" when there is none */
	uint64_t request;
	engine_done cb;
	void *cb_arg;
};

struct verb {
	const char *name;
	void (*run)(struct verb_call *v, struct erun *er); /* takes v */
	bool ended;                                        /* may be used on an ended run, and only there */
	bool alone;                                        /* takes no more words */
	const char *waiting;                               /* the answer while there is no job that could be told */
};

static void drop_call(void *arg)
{
	struct verb_call *v = arg;

	free(v->arg);
	free(v);
}

static void finish(struct verb_call *v, int code, const char *text)
{
	v->cb(v->cb_arg, code, text);
	drop_call(v);
}

/* A wish is in the journal; where there is a job, engine_act has told the cluster. */
static void wished(void *arg, int code, const char *text)
{
	struct verb_call *v = arg;
	struct erun *er = engine_find(v->en, v->num);

	if (code == 0 && er && !er->verb_told)
		answer(v->en, er, 0, v->verb->waiting);
	finish(v, code, text);
}

/* What only passes through is journaled as done, then sent: at most once, whatever is written again after a restart. */
static void passed(void *arg, int code, const char *text)
{
	struct verb_call *v = arg;
	struct erun *er = engine_find(v->en, v->num);

	if (code == 0 && er)
		engine_send_verb(v->en, er, v->verb->name, v->arg);
	finish(v, code, text);
}

static void post_verb(struct verb_call *v, struct erun *er, enum event_type type, json_t *data, engine_done done)
{
	const struct own_call call = { done, drop_call, v };

	(void)json_object_set_new(data, "source", json_string("user"));
	er->verb_told = false;
	engine_post(v->en, er, event_new(type, clock_real(v->en->clock), data), v->request, &call);
}

static void verb_cancel(struct verb_call *v, struct erun *er)
{
	if (er->r->cancel_wanted && !er->verb_ticket)
		er->cancel_sent = false; /* asked once more: told once more */
	post_verb(v, er, EV_CANCEL_WANTED, json_object(), wished);
}

static bool has_started(const struct erun *er)
{
	return er->r->status == RUN_RUNNING || er->r->status == RUN_COMPLETING;
}

static void verb_hold(struct verb_call *v, struct erun *er)
{
	if (has_started(er))
		finish(v, -EBUSY, "the job has started: only a run that waits can be held or released");
	else
		post_verb(v, er, EV_HOLD_WANTED, json_object(), wished);
}

static void verb_release(struct verb_call *v, struct erun *er)
{
	if (has_started(er))
		finish(v, -EBUSY, "the job has started: only a run that waits can be held or released");
	else
		post_verb(v, er, EV_RELEASE_WANTED, json_object(), wished);
}

static void pass_on(struct verb_call *v, struct erun *er)
{
	json_t *d = json_object();

	(void)json_object_set_new(d, "last_verb", json_sprintf("%s%s%s", v->verb->name, *v->arg ? " " : "", v->arg));
	post_verb(v, er, EV_FACTS, d, passed);
}

static void verb_signal(struct verb_call *v, struct erun *er)
{
	if (!has_started(er))
		finish(v, -EBUSY, "signal needs a running job; this run is not running yet");
	else if (!*v->arg)
		finish(v, -EINVAL, "signal needs a name: signal USR1");
	else
		pass_on(v, er);
}

/* The session ends by itself, in order; what is not in the queue yet is cancelled. */
static void verb_stop(struct verb_call *v, struct erun *er)
{
	json_t *d;

	if (!er->session) {
		finish(v, -EINVAL, "stop is for sessions: a run is ended with cancel");
	} else if (!has_started(er)) {
		verb_cancel(v, er);
	} else {
		d = json_object();
		(void)json_object_set_new(d, "session_stop", json_true());
		er->stop_sent = false;
		post_verb(v, er, EV_FACTS, d, wished);
	}
}

static void verb_update(struct verb_call *v, struct erun *er)
{
	if (!er->r->job_id)
		finish(v, -EBUSY, "the run has not been submitted yet: there is nothing to update");
	else if (!strchr(v->arg, '='))
		finish(v, -EINVAL, "update needs KEY=VALUE: update time=2:00:00");
	else
		pass_on(v, er);
}

static void verb_requeue(struct verb_call *v, struct erun *er)
{
	if (!er->r->job_id)
		finish(v, -EBUSY, "the run has not been submitted yet");
	else
		pass_on(v, er);
}

/* --- results and what is left on the cluster --- */

static void verb_keep(struct verb_call *v, struct erun *er)
{
	bool off = strcmp(v->arg, "off") == 0;
	json_t *d;

	if (*v->arg && !off) {
		finish(v, -EINVAL, "keep takes no more words, or `off`");
		return;
	}
	d = json_object();
	(void)json_object_set_new(d, "keep", off ? json_null() : json_true());
	post_verb(v, er, EV_FACTS, d, wished);
}

static void cleaned(void *arg, int code, const char *text)
{
	struct verb_call *v = arg;
	struct erun *er = engine_find(v->en, v->num);

	if (code == 0 && er) {
		engine_clean_send(v->en, er);
		answer(v->en, er, 0, "its directory on the cluster is being removed");
	}
	finish(v, code, text);
}

/* In the journal first: from then on nothing is expected to be there any more. */
static void verb_clean(struct verb_call *v, struct erun *er)
{
	const char *why = engine_clean_hindered(v->en, er);

	if (!why && run_fact(er->r, "evicted"))
		why = "results that `fetch` had brought had to make room since (cache_size): `fetch` them again first";
	if (why)
		finish(v, -EBUSY, why);
	else
		post_verb(v, er, EV_FACTS, engine_clean_facts(v->en), cleaned);
}

static void verb_fetch(struct verb_call *v, struct erun *er)
{
	struct engine *en = v->en;
	uint32_t num = v->num;

	if (!en->ob.fetch) {
		finish(v, -EINVAL, "results cannot be kept here");
		return;
	}
	er->verb_ticket = ++en->next_ticket;
	finish(v, 0, "");
	er = engine_find(en, num);
	if (er)
		en->ob.fetch(en->ob.arg, er->r);
}

void engine_fetch_said(struct engine *en, uint32_t num, uint64_t done, uint64_t all)
{
	struct erun *er = engine_find(en, num);

	if (!er)
		return;
	er->fetched = done;
	er->fetch_all = all;
}

void engine_fetch_done(struct engine *en, uint32_t num, int code, const char *text)
{
	struct erun *er = engine_find(en, num);

	if (er && code == 0)
		engine_have_all(en, num);
	if (er)
		answer(en, er, code, text);
}

struct engine_progress engine_progress(const struct engine *en, uint32_t num)
{
	const struct erun *er = engine_find(en, num);
	struct engine_progress p = { 0 };

	if (!er)
		return p;
	p = (struct engine_progress){
		.sent = er->sent, .sent_all = er->sent_all, .fetched = er->fetched, .fetch_all = er->fetch_all
	};
	(void)engine_inputs_progress(er, &p.input, &p.input_all);
	return p;
}

static void verb_refresh(struct verb_call *v, struct erun *er)
{
	if (er->r->job_id)
		engine_send_verb(v->en, er, "refresh", "");
	else
		answer(v->en, er, 0, v->verb->waiting);
	finish(v, 0, "");
}

static void retried(void *arg, int code, const char *text)
{
	struct verb_call *v = arg;
	struct erun *er = engine_find(v->en, v->num);

	if (er)
		answer(v->en, er, code, text);
	finish(v, code, code ? text : "");
}

static void retry_with(void *arg, int code, const char *text, size_t len)
{
	struct verb_call *v = arg;
	struct engine_submit s = { .text = text, .len = len, .request = v->request };
	const struct own_call call = { retried, drop_call, v };
	struct erun *er = engine_find(v->en, v->num);

	if (code < 0 || !er) {
		finish(v, er ? code : -ENOENT, er ? "the spec of this run cannot be read" : "the run was purged");
		return;
	}
	s.cluster_hint = er->r->cluster;
	engine_submit_again(v->en, &s, v->num, &call);
}

/* A new run of the same spec on the same cluster; its id is the answer. */
static void verb_retry(struct verb_call *v, struct erun *er)
{
	if (*v->arg)
		finish(v, -EINVAL, "this version knows retry without more words: all of the run is done again");
	else
		engine_ask_doc(v->en, er->r->num, "spec", retry_with, drop_call, v);
}

/* --- forwards --- */

struct forward_wait {
	struct engine *en;
	uint32_t num;
	uint64_t ticket;
};

static void forwarded(void *arg, int code, const char *text)
{
	struct forward_wait *w = arg;
	struct erun *er = engine_find(w->en, w->num);

	if (er && er->verb_ticket == w->ticket)
		answer(w->en, er, code, text);
	free(w);
}

/* Nothing of it need be remembered for a write that is repeated: the same forward is given again. */
static void verb_forward(struct verb_call *v, struct erun *er)
{
	struct forward_wait *w;
	cleanup_free char *host = NULL, *place = xstrdup(v->arg);
	struct engine *en = v->en;
	struct err e = ERR_INIT;
	int port, rc = forward_parse(place, &host, &port, &e);

	if (rc < 0 || !has_started(er)) {
		finish(v, rc < 0 ? rc : -EBUSY,
		       rc < 0 ? e.text : "forward needs a running job; this run is not running yet");
		return;
	}
	w = xmalloc(sizeof(*w));
	*w = (struct forward_wait){ en, v->num, ++en->next_ticket };
	er->verb_ticket = w->ticket;
	finish(v, 0, "");
	engine_forward(en, w->num, place, forwarded, free, w);
}

static void verb_unforward(struct verb_call *v, struct erun *er)
{
	struct err e = ERR_INIT;
	int rc = engine_unforward(v->en, v->num, v->arg, &e);

	if (rc == 0)
		answer(v->en, er, 0, "");
	finish(v, rc, e.text);
}

/* --- Ray and Spark --- */

/* What keeps the cluster does each order once, however often it comes: its time tells them apart. */
static void ordered(void *arg, int code, const char *text)
{
	struct verb_call *v = arg;
	struct erun *er = engine_find(v->en, v->num);
	char words[80];

	if (code == 0 && er) {
		(void)snprintf(words, sizeof(words), "%s %s %" PRId64, v->verb->name, v->arg, clock_real(v->en->clock));
		engine_send_verb(v->en, er, "order", words);
	}
	finish(v, code, text);
}

/* A run's own cluster is begun with the run, and what kept it is gone with it; a session begins another. */
static bool inner_is_over(const struct erun *er, const char *kind)
{
	cleanup_free char *key = xasprintf("%s_state", kind);
	const char *state = run_fact(er->r, key);

	return !er->session && state && (strcmp(state, "failed") == 0 || strcmp(state, "ended") == 0);
}

static void verb_inner(struct verb_call *v, struct erun *er)
{
	const char *kind = v->verb->name;
	json_t *d;

	if (!json_is_true(json_object_get(er->r->facts, kind))) {
		finish(v, -EINVAL, "the run has no such cluster of its own");
	} else if (strcmp(v->arg, "restart") != 0 && strcmp(v->arg, "stop") != 0) {
		finish(v, -EINVAL, "a cluster in an allocation knows: restart, stop");
	} else if (!has_started(er)) {
		finish(v, -EBUSY, "the run is not running yet: its cluster has not begun");
	} else if (inner_is_over(er, kind)) {
		finish(v, -EBUSY, "its cluster has ended, and is begun with the run alone: retry");
	} else {
		d = json_object();
		(void)json_object_set_new(d, "last_verb", json_sprintf("%s %s", kind, v->arg));
		post_verb(v, er, EV_FACTS, d, ordered);
	}
}

static const struct verb verbs[] = {
	{ "cancel", verb_cancel, false, true, "cancel wanted" },
	{ "stop", verb_stop, false, true, "stop wanted" },
	{ "signal", verb_signal, false, false, "" },
	{ "hold", verb_hold, false, true, "hold wanted" },
	{ "release", verb_release, false, true, "release wanted" },
	{ "requeue", verb_requeue, false, true, "" },
	{ "update", verb_update, false, false, "" },
	{ "refresh", verb_refresh, false, true, "" },
	{ "forward", verb_forward, false, false, "" },
	{ "unforward", verb_unforward, false, false, "" },
	{ "ray", verb_inner, false, false, "" },
	{ "spark", verb_inner, false, false, "" },
	{ "retry", verb_retry, true, false, "" },
	{ "fetch", verb_fetch, true, true, "" },
	{ "keep", verb_keep, true, false, "" },
	{ "clean", verb_clean, true, true, "" },
};

const char *engine_verbs(void)
{
	return "cancel\nsignal NAME\nhold\nrelease\nrequeue\nupdate KEY=VALUE\nrefresh\nforward PORT\nunforward PORT\nretry\nfetch\nkeep\nclean\n";
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

	(void)snprintf(
		text, sizeof(text),
		"unknown verb '%.*s': ctl knows cancel, signal NAME, hold, release, requeue, update KEY=VALUE, refresh, forward "
		"[HOST:]PORT, unforward, retry, "
		"fetch, keep, clean",
		(int)(len < 60 ? len : 60), line);
	cb(arg, -EINVAL, text);
}

/* The same write again, after a restart: it was done. What it had for an answer is known for retry only. */
static void done_before(struct engine *en, struct erun *er, const char *known, engine_done cb, void *arg)
{
	if (*known)
		answer(en, er, 0, known);
	cb(arg, 0, "");
}

void engine_verb(struct engine *en, uint32_t num, const char *line, uint64_t request, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);
	size_t len = strcspn(line, " \t");
	const struct verb *verb = verb_find(line, len);
	const char *known = engine_recall(en, request);
	const char *rest = line + len + strspn(line + len, " \t");
	struct verb_call *v;

	if (!er || !er->visible) {
		cb(arg, -ENOENT, "the run was purged");
	} else if (known) {
		done_before(en, er, known, cb, arg);
	} else if (!verb) {
		unknown_verb(line, len, cb, arg);
	} else if (verb->alone && *rest) {
		cb(arg, -EINVAL, "this verb takes no more words: a run's ctl is about this run");
	} else if (!verb->ended && !run_is_live(er->r)) {
		cb(arg, -ESRCH, "the run has ended");
	} else if (er->r->status == RUN_DRAFT) {
		cb(arg, -EBUSY, "the run is a draft: write its spec, or remove it with rmdir");
	} else if (verb->ended && run_is_live(er->r)) {
		cb(arg, -EBUSY, "the run has not ended yet");
	} else {
		v = xmalloc(sizeof(*v));
		*v = (struct verb_call){ en, num, verb, xstrdup(rest), request, cb, arg };
		verb->run(v, er);
	}
}
