/*
 * Sessions: which run has which name, what becomes of the runs in one that has ended, who holds leases.
 *
 * Invariants: of the runs with one name at most one has not ended; who has the name now is the newest, and one that
 * lost it to a newer one (the fact session_past) never gets it back. A lease is in the journal before the session
 * hears of it; what the session hears is what is left of it, so that one which ended while nobody could be told is not
 * begun again. A run goes to another session only while no attempt of it is on its way.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "backend/spec.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* --- names --- */

bool engine_is_session(const struct run *r)
{
	const char *launcher = run_fact(r, "launcher");

	return launcher && strcmp(launcher, "session") == 0;
}

const char *engine_session_name(const struct run *r)
{
	const char *name = run_fact(r, "session_name");

	return name ? name : r->id;
}

void engine_session_named(struct erun *er, const char *name)
{
	str_set(&er->session, name);
}

static bool is_past(const struct erun *er)
{
	return json_is_true(json_object_get(er->r->facts, "session_past"));
}

struct erun *engine_session_live(struct engine *en, const char *name, const struct erun *but)
{
	for (size_t i = en->n_order; i > 0; i--) {
		struct erun *er = en->order[i - 1];

		if (er != but && er->session && strcmp(er->session, name) == 0 && run_is_live(er->r))
			return er;
	}
	return NULL;
}

static const struct run *by_name(const struct engine *en, const char *name)
{
	for (size_t i = en->n_order; i > 0; i--) {
		const struct erun *er = en->order[i - 1];

		if (er->visible && er->session && strcmp(er->session, name) == 0)
			return is_past(er) ? NULL : er->r;
	}
	return NULL;
}

const struct run *engine_session(const struct engine *en, const char *name)
{
	const struct run *r = by_name(en, name);

	if (r)
		return r;
	r = engine_run_by_id(en, name);
	return r && engine_is_session(r) ? r : NULL;
}

bool engine_session_current(const struct engine *en, const struct run *session)
{
	return by_name(en, engine_session_name(session)) == session;
}

const struct run *engine_session_of(const struct engine *en, const struct run *step)
{
	const char *id = run_fact(step, "session_run");

	if (run_fact(step, "session_as"))
		return NULL;
	if (!id)
		id = run_fact(step, "session");
	return id ? engine_run_by_id(en, id) : NULL;
}

bool engine_session_used(const struct engine *en, const struct run *session)
{
	for (size_t i = 0; i < en->n_order; i++) {
		const struct run *r = en->order[i]->r;

		if (run_is_live(r) && r != session && engine_session_of(en, r) == session)
			return true;
	}
	return false;
}

/* Who had the name before has it no more; ended runs only, for no other can be there. */
static void pass_name(struct engine *en, const struct erun *to)
{
	for (size_t i = 0; i < en->n_order; i++) {
		struct erun *er = en->order[i];

		if (er == to || er->r->num > to->r->num || !er->visible || !er->session || is_past(er) ||
		    strcmp(er->session, to->session) != 0 || run_is_live(er->r))
			continue;
		engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), json_pack("{s:b}", "session_past", 1)),
			    0, NULL);
	}
}

void engine_session_created(struct engine *en, const struct erun *er)
{
	if (er->session)
		pass_name(en, er);
}

/* A worker may have ended between a new session and what the old one of its name is told. */
void engine_sessions_load(struct engine *en)
{
	for (size_t i = 0; i < en->n_order; i++) {
		struct erun *er = en->order[i];

		if (engine_is_session(er->r))
			engine_session_named(er, engine_session_name(er->r));
	}
	for (size_t i = 0; i < en->n_order; i++)
		engine_session_created(en, en->order[i]);
}

/* --- what becomes of runs that wait --- */

static void post_facts(struct engine *en, struct erun *er, json_t *data)
{
	engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), data), 0, NULL);
}

static void say_end(const struct run *step, const struct run *s, struct strbuf *why)
{
	strbuf_addf(why, "its session %s ", run_fact(step, "session"));
	if (!s)
		strbuf_addstr(why, "is not there (any more)");
	else
		strbuf_addf(why, "ended before the run started (%s%s%s)", run_status_name(s->status),
			    s->why ? ": " : "", s->why ? s->why : "");
}

/* The run stays queued until the journal has where it goes, and is looked at again then. */
static int session_ended(struct engine *en, struct erun *er, const struct run *s, struct strbuf *why)
{
	const char *policy = run_fact(er->r, "on_session_end"), *name = run_fact(er->r, "session");
	const struct run *next = s ? by_name(en, engine_session_name(s)) : by_name(en, name);

	say_end(er->r, s, why);
	if (!policy || strcmp(policy, "cancel") == 0)
		return -1;
	if (strcmp(policy, "job") == 0) {
		cleanup_free char *note = xasprintf("%s: it runs as a job of its own", why->buf);

		strbuf_addstr(why, "; it becomes a job of its own");
		post_facts(en, er, json_pack("{s:s, s:s}", "session_as", "job", "session_note", note));
	} else if (next && next != s && run_is_live(next) && next->status != RUN_DRAFT &&
		   strcmp(next->cluster, er->r->cluster) == 0) {
		strbuf_addf(why, "; it goes to the next of that name, run %s", next->id);
		post_facts(en, er, json_pack("{s:s}", "session_run", next->id));
	} else {
		strbuf_addstr(why, "; it waits for the next session of that name");
	}
	return 0;
}

int engine_session_gate(struct engine *en, struct erun *er, struct strbuf *why)
{
	const struct run *s;

	if (run_fact(er->r, "session_as"))
		return 1;
	s = engine_session_of(en, er->r);
	if (!s || !run_is_live(s))
		return session_ended(en, er, s, why);
	if (s->job_id)
		return 1;
	strbuf_addf(why, "waiting for its session %s, which is %s", run_fact(er->r, "session"),
		    run_status_name(s->status));
	if (s->reason && *s->reason)
		strbuf_addf(why, " (%s)", s->reason);
	return 0;
}

/* --- leases --- */

static const json_t *leases_of(const struct engine *en, const struct run *s)
{
	const struct erun *er = engine_find(en, s->num);

	return er && er->leases ? er->leases : json_object_get(s->facts, "leases");
}

/* Seconds that are left, rounded up; 0: it is none any more. */
static int left_of(const json_t *lease, int64_t now)
{
	int64_t ttl = json_integer_value(json_object_get(lease, "ttl"));
	int64_t left = json_integer_value(json_object_get(lease, "at")) + ttl * USEC_PER_SEC - now;

	return left <= 0 ? 0 : (int)((left + USEC_PER_SEC - 1) / USEC_PER_SEC);
}

static void fill_lease(struct engine_lease *out, const char *owner, const json_t *lease, int64_t now)
{
	out->owner = owner;
	out->ttl = (int)json_integer_value(json_object_get(lease, "ttl"));
	out->left = left_of(lease, now);
	out->renewed = json_integer_value(json_object_get(lease, "at"));
}

bool engine_lease_next(const struct engine *en, const struct run *session, size_t *index, struct engine_lease *out)
{
	const json_t *all = leases_of(en, session);
	const char *owner;
	json_t *lease;
	size_t i = 0;

	if (!run_is_live(session))
		return false;
	json_object_foreach ((json_t *)all, owner, lease) {
		if (i++ < *index)
			continue;
		fill_lease(out, owner, lease, clock_real(en->clock));
		if (!out->left)
			continue;
		*index = i;
		return true;
	}
	return false;
}

bool engine_lease_find(const struct engine *en, const struct run *session, const char *owner, struct engine_lease *out)
{
	const json_t *lease = json_object_get(leases_of(en, session), owner);

	if (!lease || !run_is_live(session))
		return false;
	fill_lease(out, owner, lease, clock_real(en->clock));
	return out->left > 0;
}

static bool owner_ok(const char *owner)
{
	size_t n = strlen(owner);

	return n > 0 && n <= 128 && owner[0] != '.' && owner[0] != '-' &&
	       strspn(owner, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@+-") == n;
}

/* A day is long enough for everybody to hear that a lease is no more. */
static void sweep(json_t *all, int64_t now)
{
	const char *owner;
	json_t *lease;
	void *tmp;

	json_object_foreach_safe (all, tmp, owner, lease) {
		int64_t at = json_integer_value(json_object_get(lease, "at"));

		if (!left_of(lease, now) && now - at > 24LL * 3600 * USEC_PER_SEC)
			(void)json_object_del(all, owner);
	}
}

struct lease_call {
	struct engine *en;
	uint32_t num;
	engine_done cb;
	void *arg;
};

static void lease_done(void *arg, int code, const char *text)
{
	struct lease_call *c = arg;
	struct erun *er = engine_find(c->en, c->num);

	if (code < 0 && er) { /* as it was */
		json_decref(er->leases);
		er->leases = NULL;
	}
	c->cb(c->arg, code, text);
	free(c);
}

void engine_lease(struct engine *en, uint32_t num, const char *owner, int ttl, engine_done cb, void *arg)
{
	const struct own_call none = { NULL, free, NULL };
	struct own_call call = none;
	struct erun *er = engine_find(en, num);
	int64_t now = clock_real(en->clock);
	struct lease_call *c;
	struct engine_lease old;
	bool there;

	if (!er || !er->visible || !engine_is_session(er->r)) {
		cb(arg, -ENOENT, "there is no such session");
		return;
	}
	if (!owner_ok(owner)) {
		cb(arg, -EINVAL, "a lease's name is made of A-Z a-z 0-9 . _ : @ + -, and begins with none of . -");
		return;
	}
	if (!run_is_live(er->r)) {
		cb(arg, -ESRCH, "the session has ended");
		return;
	}
	there = engine_lease_find(en, er->r, owner, &old);
	if (ttl < 0 && !there) {
		cb(arg, -ENOENT, "there is no such lease");
		return;
	}
	if (ttl >= 0 && there && (ttl == 0 || ttl == old.ttl) &&
	    now - old.renewed < (int64_t)old.ttl * USEC_PER_SEC / 50) { /* who renews all the time fills no journal */
		cb(arg, 0, "");
		return;
	}
	if (ttl == 0)
		ttl = there ? old.ttl : ENGINE_LEASE_TTL;
	if (!er->leases)
		er->leases = json_deep_copy(json_object_get(er->r->facts, "leases"));
	if (!er->leases)
		er->leases = json_object();
	sweep(er->leases, now);
	(void)json_object_set_new(er->leases, owner,
				  json_pack("{s:i, s:I}", "ttl", ttl < 0 ? 0 : ttl, "at", (json_int_t)now));
	c = xmalloc(sizeof(*c));
	*c = (struct lease_call){ en, num, cb, arg };
	call = (struct own_call){ lease_done, free, c };
	engine_post(en, er, event_new(EV_FACTS, now, json_pack("{s:o}", "leases", json_deep_copy(er->leases))), 0,
		    &call);
}

/* --- telling the session --- */

static void order(struct engine *en, struct erun *er, const char *words)
{
	struct pending *p;
	struct creq *rq;
	uint64_t ticket;

	p = engine_pending(en, PENDING_VERB, er->r->num, &ticket);
	p->result = xstrdup("order");
	rq = engine_creq_placed(en, er, CREQ_VERB, ticket);
	rq->verb = xstrdup("order");
	rq->arg = xstrdup(words);
	engine_send(en, er, rq);
}

static void tell_leases(struct engine *en, struct erun *er)
{
	int64_t told = er->leases_told, now = clock_real(en->clock);
	const char *owner;
	json_t *lease;

	json_object_foreach (json_object_get(er->r->facts, "leases"), owner, lease) {
		int64_t at = json_integer_value(json_object_get(lease, "at"));
		int left = left_of(lease, now);
		char words[200];

		if (at <= told)
			continue;
		if (at > er->leases_told)
			er->leases_told = at;
		if (left)
			(void)snprintf(words, sizeof(words), "lease %s %d", owner, left);
		else
			(void)snprintf(words, sizeof(words), "unlease %s -", owner);
		order(en, er, words);
	}
}

void engine_session_tell(struct engine *en, struct erun *er)
{
	const struct run *r = er->r;

	if (!er->session || er->purging || er->sent_attempt != r->attempt ||
	    (r->status != RUN_RUNNING && r->status != RUN_UNKNOWN) || !r->t_started)
		return;
	tell_leases(en, er);
	if (!er->stop_sent && json_is_true(json_object_get(r->facts, "session_stop"))) {
		er->stop_sent = true;
		engine_send_verb(en, er, "order", "stop - 0"); /* who wrote it reads the answer */
	}
}

void engine_session_untold(struct erun *er, const char *verb)
{
	if (strcmp(verb, "order") != 0)
		return;
	er->leases_told = 0;
	er->stop_sent = false;
}

/* --- any session that fits --- */

/* Keys of which a session may have more than is asked for. */
static const char *const amounts[] = { "nodes",         "ntasks", "ntasks_per_node", "cpus_per_task", "gpus",
				       "gpus_per_node", "mem",    "mem_per_cpu",     "time",          "gpus_per_task",
				       "cpus_per_gpu" };

static bool is_amount(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(amounts); i++)
		if (strcmp(amounts[i], key) == 0)
			return true;
	return false;
}

/* A number, memory, or the count of "TYPE:COUNT"; -1: cannot be compared. */
static double amount(const char *key, const json_t *v)
{
	const char *text = json_string_value(v), *colon;
	char *end;
	double n;

	if (json_is_integer(v))
		return (double)json_integer_value(v);
	if (!text)
		return -1;
	if (strcmp(key, "time") == 0)
		return (double)spec_time_seconds(text);
	if (strncmp(key, "mem", 3) == 0)
		return (double)spec_memory_bytes(text);
	colon = strrchr(text, ':');
	n = strtod(colon ? colon + 1 : text, &end);
	return *end ? -1 : n;
}

static bool same_type(const char *a, const char *b)
{
	size_t n = a ? strcspn(a, ":") : 0, m = b ? strcspn(b, ":") : 0;

	return !a || !b || !a[n] || (b[m] && n == m && strncmp(a, b, n) == 0);
}

/* How much too large one value is (0: just right); -1: it does not fit. */
static double excess(const char *key, const json_t *want, const json_t *have, double tolerance)
{
	double w, h;

	if (json_equal(want, have))
		return 0;
	if (!want)
		return is_amount(key) && strcmp(key, "time") == 0 ? 0 : -1;
	w = amount(key, want);
	h = have ? amount(key, have) : strcmp(key, "nodes") == 0 || strcmp(key, "cpus_per_task") == 0 ? 1 : -1;
	if (!is_amount(key) || w <= 0 || h < w || !same_type(json_string_value(want), json_string_value(have)))
		return -1;
	/* A longer life costs nothing: the session was there before. */
	if (strcmp(key, "time") == 0)
		return 0;
	return h > w * (1 + tolerance) + 1e-9 ? -1 : h / w - 1;
}

static double fits(const struct effective *want, const json_t *have, double tolerance)
{
	double sum = 0;

	for (const struct spec_key *k = spec_keys; k->name; k++) {
		const json_t *w = json_object_get(want->values, k->name);
		const json_t *h = json_object_get(json_object_get(have, k->name), "value");
		double x;

		if (!(k->flags & (SPEC_SBATCH | SPEC_PLACEMENT)) || strcmp(k->name, "name") == 0 || (!w && !h))
			continue;
		x = excess(k->name, w, h, tolerance);
		if (x < 0)
			return -1;
		sum += x;
	}
	return sum;
}

const struct run *engine_session_fitting(struct engine *en, const struct effective *want, double tolerance)
{
	const struct run *best = NULL;
	double least = 0;

	for (size_t i = 0; i < en->n_order; i++) {
		const struct erun *er = en->order[i];
		const struct run *r = er->r;
		json_t *have;
		double x;

		if (!er->visible || er->purging || !er->session || !run_is_live(r) || r->status == RUN_DRAFT ||
		    r->cancel_wanted || run_fact(r, "session_stop") || r->status == RUN_COMPLETING || !r->effective ||
		    json_is_true(json_object_get(r->facts, "session_stop")) ||
		    strcmp(r->cluster, want->cluster->name) != 0)
			continue;
		have = json_loads(r->effective, 0, NULL);
		x = have ? fits(want, have, tolerance) : -1;
		json_decref(have);
		if (x < 0)
			continue;
		x += r->status == RUN_RUNNING ? 0 : 1000; /* a warm one before one that waits */
		if (!best || x < least) {
			best = r;
			least = x;
		}
	}
	return best;
}
