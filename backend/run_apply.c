/*
 * The state machine of a run: one table that says which status may follow which, and one function per event type.
 *
 * Invariants: a handler checks everything before it changes anything, so a refused event leaves no trace; every
 * change of status goes through move_to, which writes the history; nothing here looks at a clock or a file. While
 * a run is `unknown` what may happen to it is decided by the status that it had before (known_status).
 */
#include "backend/run.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define NEAR_US (2 * INT64_C(1000000)) /* as in exit_record.c */

#define TO(s) (1u << RUN_##s)
#define TO_ENDS                                                                                                        \
	(TO(SUCCEEDED) | TO(FAILED) | TO(CANCELLED) | TO(TIMEOUT) | TO(OUT_OF_MEMORY) | TO(NODE_FAILED) | TO(PREEMPTED))

enum { INITIAL = 1 << 0, ENDED = 1 << 1 };

static const struct status_row {
	const char *name;
	unsigned flags;
	uint32_t next; /* bit mask of statuses */
} table[RUN_N_STATUS] = {
	[RUN_DRAFT] = { "draft", INITIAL, TO(QUEUED) | TO(CANCELLED) },
	/* before the first submission a run can be called off, or be found impossible, but cannot have run */
	[RUN_QUEUED] = { "queued", INITIAL, TO(SUBMITTING) | TO(CANCELLED) | TO(FAILED) | TO(TIMEOUT) | TO(REJECTED) },
	[RUN_SUBMITTING] = { "submitting", 0, TO(QUEUED) | TO(PENDING) | TO(UNKNOWN) | TO(REJECTED) | TO_ENDS },
	[RUN_PENDING] = { "pending", 0, TO(QUEUED) | TO(RUNNING) | TO(COMPLETING) | TO(UNKNOWN) | TO_ENDS },
	/* back to pending: an administrator's requeue of a job whose spec allows it */
	[RUN_RUNNING] = { "running", 0, TO(PENDING) | TO(COMPLETING) | TO(UNKNOWN) | TO_ENDS },
	/* back: a requeue; the cluster may have been asked again only when the next start was there */
	[RUN_COMPLETING] = { "completing", 0, TO(PENDING) | TO(RUNNING) | TO(UNKNOWN) | TO_ENDS },
	[RUN_UNKNOWN] = { "unknown", 0, 0 }, /* see known_status */
	[RUN_SUCCEEDED] = { "succeeded", ENDED, 0 },
	[RUN_FAILED] = { "failed", ENDED, 0 },
	[RUN_CANCELLED] = { "cancelled", ENDED, 0 },
	[RUN_TIMEOUT] = { "timeout", ENDED, 0 },
	[RUN_OUT_OF_MEMORY] = { "out_of_memory", ENDED, 0 },
	[RUN_NODE_FAILED] = { "node_failed", ENDED, 0 },
	[RUN_PREEMPTED] = { "preempted", ENDED, 0 },
	[RUN_REJECTED] = { "rejected", ENDED, 0 },
};

const char *run_status_name(enum run_status s)
{
	assert((unsigned)s < RUN_N_STATUS);
	return table[s].name;
}

int run_status_of(const char *name)
{
	for (int i = 0; i < RUN_N_STATUS; i++)
		if (strcmp(table[i].name, name) == 0)
			return i;
	return -1;
}

bool run_ended(enum run_status s)
{
	return (table[s].flags & ENDED) != 0;
}

/* The last status that a witness gave. */
static enum run_status known_status(const struct run *r)
{
	return r->status == RUN_UNKNOWN ? r->before_unknown : r->status;
}

static bool may_follow(const struct run *r, enum run_status to)
{
	return (table[known_status(r)].next & (1u << to)) != 0;
}

/* The longest beginning of `s` that fits and does not end inside a character (RFC 3629: 10xxxxxx continues one). */
static void copy_source(char *dst, size_t size, const char *s)
{
	size_t n = strnlen(s, size);

	if (n == size)
		for (n = size - 1; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80; n--)
			;
	memcpy(dst, s, n);
	dst[n] = '\0';
}

static void add_history(struct run *r, const struct event *ev, enum run_status from, enum run_status to)
{
	const char *source = event_str(ev, "source");
	struct run_step *h;

	r->history = xrealloc(r->history, (r->n_history + 1) * sizeof(*r->history));
	h = &r->history[r->n_history++];
	memset(h, 0, sizeof(*h));
	h->time = ev->time;
	h->from = from;
	h->to = to;
	copy_source(h->source, sizeof(h->source), source ? source : "engine");
}

static void move_to(struct run *r, const struct event *ev, enum run_status to)
{
	add_history(r, ev, r->status, to);
	r->before_unknown = to == RUN_UNKNOWN ? r->status : RUN_DRAFT;
	r->status = to;
	str_set(&r->why, event_str(ev, "why"));
	if (to == RUN_UNKNOWN)
		return;
	str_set(&r->reason, NULL);
	r->t_est_start = 0;
}

/* A run that was not there before: its first line of history goes from its status to the same. */
static void appear(struct run *r, const struct event *ev, enum run_status as)
{
	assert(table[as].flags & INITIAL);
	str_set(&r->id, event_str(ev, "id"));
	r->status = as;
	r->t_created = ev->time;
	add_history(r, ev, as, as);
}

static bool is_word(const char *s)
{
	return s && *s;
}

/* The event's attempt is the current one, or it names none. */
static bool attempt_fits(const struct run *r, const struct event *ev)
{
	return event_int(ev, "attempt", r->attempt) == r->attempt;
}

/* --- beginnings --- */

static bool is_own(const char *key, const char *const *own)
{
	for (; *own; own++)
		if (strcmp(key, *own) == 0)
			return true;
	return false;
}

static void set_str(char **field, const struct event *ev, const char *key)
{
	if (event_str(ev, key))
		str_set(field, event_str(ev, key));
}

static void set_doc(char **text, size_t *len, const struct event *ev, const char *key, const char *len_key)
{
	const json_t *v = json_object_get(ev->data, key);
	long long n = event_int(ev, len_key, -1);

	if (json_is_string(v)) {
		str_set(text, json_string_value(v));
		*len = strlen(*text);
	} else if (n >= 0) {
		*len = (size_t)n;
	}
}

static void set_tags(struct run *r, const struct event *ev)
{
	const json_t *a = json_object_get(ev->data, "tags");
	size_t n = json_array_size(a), used = 0;

	if (!n)
		return;
	for (char **t = r->tags; t && *t; t++)
		free(*t);
	free(r->tags);
	r->tags = xcalloc(n + 1, sizeof(*r->tags));
	for (size_t i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(a, i));

		if (s)
			r->tags[used++] = xstrdup(s);
	}
}

/* Members without a field of their own are facts from the beginning. */
static void keep_rest(struct run *r, const struct event *ev, const char *const *own)
{
	const char *key;
	json_t *v;

	json_object_foreach (ev->data, key, v) {
		if (!is_own(key, own) && !json_is_null(v))
			(void)json_object_set_new(r->facts, key, json_deep_copy(v));
	}
}

static int on_create(struct run *r, const struct event *ev)
{
	static const char *const own[] = { "id",     "cluster",  "name",          "key",        "tags",
					   "merged", "source",   "hold",          "spec",       "effective",
					   "script", "spec_len", "effective_len", "script_len", NULL };
	const char *id = event_str(ev, "id");

	if (!is_word(id) || !is_word(event_str(ev, "cluster")))
		return -EPROTO;
	if (r->id && (r->status != RUN_DRAFT || strcmp(r->id, id) != 0))
		return -EPROTO;
	if (r->id)
		move_to(r, ev, RUN_QUEUED);
	else
		appear(r, ev, RUN_QUEUED);
	set_str(&r->cluster, ev, "cluster");
	set_str(&r->name, ev, "name");
	set_str(&r->key, ev, "key");
	set_tags(r, ev);
	r->merged = json_is_true(json_object_get(ev->data, "merged"));
	r->hold_wanted = json_is_true(json_object_get(ev->data, "hold"));
	set_doc(&r->spec, &r->spec_len, ev, "spec", "spec_len");
	set_doc(&r->effective, &r->effective_len, ev, "effective", "effective_len");
	set_doc(&r->script, &r->script_len, ev, "script", "script_len");
	keep_rest(r, ev, own);
	return 0;
}

static int on_draft(struct run *r, const struct event *ev)
{
	static const char *const own[] = { "id", "source", NULL };

	if (r->id || !is_word(event_str(ev, "id")))
		return -EPROTO;
	appear(r, ev, RUN_DRAFT);
	keep_rest(r, ev, own);
	return 0;
}

/* --- wishes --- */

static int on_hold_wanted(struct run *r, const struct event *ev)
{
	(void)ev;
	r->hold_wanted = true;
	return 0;
}

static int on_release_wanted(struct run *r, const struct event *ev)
{
	(void)ev;
	r->hold_wanted = false;
	return 0;
}

static int on_cancel_wanted(struct run *r, const struct event *ev)
{
	char when[CLOCK_TEXT];

	if (!r->cancel_wanted)
		(void)json_object_set_new(r->facts, "cancel_asked", json_string(clock_text(ev->time, when)));
	r->cancel_wanted = true;
	return 0;
}

/* --- submission --- */

static void forget_job(struct run *r)
{
	str_set(&r->job_id, NULL);
	str_set(&r->nodes, NULL);
	r->t_submitted = 0;
}

static int on_submitting(struct run *r, const struct event *ev)
{
	static const char *const own[] = { "attempt", "source", NULL };
	long long attempt = event_int(ev, "attempt", 0);

	if (attempt < 1 || attempt > UINT32_MAX)
		return -EPROTO;
	if (r->status == RUN_QUEUED) {
		if (attempt <= r->attempt)
			return -EPROTO; /* that attempt was voided and can never start */
	} else if (known_status(r) != RUN_SUBMITTING || attempt < r->attempt) {
		return -EPROTO;
	}
	if (r->status != RUN_SUBMITTING)
		move_to(r, ev, RUN_SUBMITTING);
	if (attempt != r->attempt)
		forget_job(r);
	r->attempt = (uint32_t)attempt;
	keep_rest(r, ev, own); /* where the attempt lives */
	return 0;
}

static int on_submitted(struct run *r, const struct event *ev)
{
	if (known_status(r) != RUN_SUBMITTING || event_int(ev, "attempt", 0) != r->attempt)
		return -EPROTO;
	if (!is_word(event_str(ev, "job_id")))
		return -EPROTO;
	move_to(r, ev, RUN_PENDING);
	set_str(&r->job_id, ev, "job_id");
	r->t_submitted = ev->time;
	return 0;
}

static int on_lost(struct run *r, const struct event *ev)
{
	if (event_int(ev, "attempt", 0) != r->attempt || !event_str(ev, "why") || !may_follow(r, RUN_QUEUED))
		return -EPROTO;
	if (known_status(r) == RUN_DRAFT)
		return -EPROTO;
	move_to(r, ev, RUN_QUEUED);
	forget_job(r);
	return 0;
}

/* --- what the scheduler says --- */

static bool update_str(char **field, const struct event *ev, const char *key)
{
	const char *s = event_str(ev, key);

	if (!s || (*field && strcmp(*field, s) == 0))
		return false;
	str_set(field, s);
	return true;
}

/* What the scheduler gave the job: a number that is there only while it is known. */
static bool update_count(struct run *r, const struct event *ev, const char *key)
{
	long long n = event_int(ev, key, 0);

	if (n < 1 || n == json_integer_value(json_object_get(r->facts, key)))
		return false;
	(void)json_object_set_new(r->facts, key, json_integer(n));
	return true;
}

static bool update_facts_of_state(struct run *r, const struct event *ev)
{
	bool changed = update_str(&r->nodes, ev, "nodes");
	long long est = event_int(ev, "est_start", r->t_est_start);

	changed |= update_str(&r->why, ev, "why");
	if (r->status == RUN_PENDING || r->status == RUN_RUNNING)
		changed |= update_str(&r->reason, ev, "reason");
	if (r->status != RUN_PENDING) {
		changed |= update_count(r, ev, "node_count");
		changed |= update_count(r, ev, "cpus");
	}
	if (r->status != RUN_PENDING)
		return changed;
	changed |= est != r->t_est_start;
	r->t_est_start = est;
	return changed;
}

static bool is_scheduled(enum run_status s)
{
	return s == RUN_PENDING || s == RUN_RUNNING || s == RUN_COMPLETING;
}

static long long restarts(const struct run *r)
{
	return json_integer_value(json_object_get(r->facts, "restarts"));
}

/* Times, nodes and elapsed are those of the last start, as Slurm has them. */
static void forget_start(struct run *r)
{
	r->t_started = 0;
	str_set(&r->nodes, NULL);
	(void)json_object_set_new(r->facts, "restarts", json_integer(restarts(r) + 1));
}

/* It was requeued and started again before anybody looked. */
static bool is_later_start(const struct run *r, const struct event *ev)
{
	return r->t_started && event_int(ev, "start", 0) > r->t_started + NEAR_US;
}

static int on_state(struct run *r, const struct event *ev)
{
	const char *word = event_str(ev, "status");
	int to = word ? run_status_of(word) : -1;
	enum run_status now = known_status(r);
	bool moved;

	if (to < 0 || !is_scheduled((enum run_status)to) || !is_scheduled(now) || !attempt_fits(r, ev))
		return -EPROTO;
	if ((enum run_status)to != now && !may_follow(r, (enum run_status)to))
		return -EPROTO;
	moved = (enum run_status)to != r->status;
	if (moved)
		move_to(r, ev, (enum run_status)to);
	if (to == RUN_PENDING ? now != RUN_PENDING : is_later_start(r, ev))
		forget_start(r);
	if (!r->t_started && to != RUN_PENDING)
		r->t_started = event_int(ev, "start", to == RUN_RUNNING ? ev->time : 0);
	return update_facts_of_state(r, ev) || moved ? 0 : -EPROTO;
}

static int on_unknown(struct run *r, const struct event *ev)
{
	if (r->status == RUN_UNKNOWN)
		return update_str(&r->why, ev, "why") ? 0 : -EPROTO;
	if (!may_follow(r, RUN_UNKNOWN))
		return -EPROTO;
	move_to(r, ev, RUN_UNKNOWN);
	return 0;
}

static int on_known(struct run *r, const struct event *ev)
{
	if (r->status != RUN_UNKNOWN)
		return -EPROTO;
	move_to(r, ev, r->before_unknown);
	return 0;
}

/* --- ends --- */

/* Members may fill what is still open and may repeat what is known. False: it has to go into the facts. */
static bool fill_int(int64_t *field, int64_t open, const json_t *v, int64_t min, int64_t max)
{
	int64_t n = json_integer_value(v);

	if (!json_is_integer(v) || n < min || n > max)
		return false;
	if (*field == open)
		*field = n;
	return *field == n;
}

static bool fill_small(int *field, int open, bool allowed, const json_t *v, int max)
{
	int64_t wide = *field;

	if (!fill_int(&wide, allowed ? open : INT64_MIN, v, 0, max))
		return false;
	*field = (int)wide;
	return true;
}

static bool fill_str(char **field, const json_t *v)
{
	if (!json_is_string(v))
		return false;
	if (!*field)
		str_set(field, json_string_value(v));
	return strcmp(*field, json_string_value(v)) == 0;
}

/* Exit records count whole seconds: one that is as near as that says the same as what was seen. */
static bool fill_start(struct run *r, const json_t *v)
{
	int64_t seen = r->t_started, said = json_integer_value(v);

	if (fill_int(&r->t_started, 0, v, 1, INT64_MAX))
		return true;
	return json_is_integer(v) && said > 0 && said < seen + NEAR_US && seen < said + NEAR_US;
}

/* `code_open`: neither exit code nor signal was known before this event. */
static bool fill_field(struct run *r, const char *key, const json_t *v, bool code_open)
{
	if (strcmp(key, "exit_code") == 0)
		return fill_small(&r->exit_code, -1, code_open, v, 255);
	if (strcmp(key, "signal") == 0)
		return fill_small(&r->signal, 0, code_open, v, 127);
	if (strcmp(key, "why") == 0)
		return fill_str(&r->why, v);
	if (strcmp(key, "nodes") == 0)
		return fill_str(&r->nodes, v);
	if (strcmp(key, "job_id") == 0)
		return fill_str(&r->job_id, v);
	if (strcmp(key, "start") == 0)
		return fill_start(r, v);
	if (strcmp(key, "end") == 0)
		return fill_int(&r->t_ended, 0, v, 1, INT64_MAX);
	if (strcmp(key, "out_len") == 0)
		return fill_int(&r->out_len, -1, v, 0, INT64_MAX);
	if (strcmp(key, "err_len") == 0)
		return fill_int(&r->err_len, -1, v, 0, INT64_MAX);
	if (strcmp(key, "manifest") != 0 || !json_is_boolean(v))
		return false;
	r->manifest |= json_is_true(v);
	return true;
}

/* Every member but those of the event itself goes into a field of an ended run, or else into the facts. */
static void merge(struct run *r, const struct event *ev, const char *const *own)
{
	bool code_open = r->exit_code < 0 && r->signal == 0;
	const char *key;
	json_t *v;

	json_object_foreach (ev->data, key, v) {
		if (is_own(key, own))
			continue;
		if (json_is_null(v)) {
			if (ev->type == EV_FACTS)
				(void)json_object_del(r->facts, key);
			continue;
		}
		if (run_is_live(r) || !fill_field(r, key, v, code_open))
			(void)json_object_set_new(r->facts, key, json_deep_copy(v));
	}
}

/* The end of a later start than the last one that was seen. */
static void take_restart(struct run *r, const struct event *ev, long long seen)
{
	long long start = event_int(ev, "start", 0);

	if (restarts(r) <= seen || start <= r->t_started || start > r->t_ended)
		return;
	r->t_started = start;
	(void)json_object_del(r->facts, "start");
}

static void finish(struct run *r, const struct event *ev, enum run_status to)
{
	static const char *const own[] = { "status", "attempt", "source", NULL };
	long long seen = restarts(r);

	move_to(r, ev, to);
	set_str(&r->nodes, ev, "nodes");
	merge(r, ev, own);
	if (!r->t_ended)
		r->t_ended = ev->time;
	take_restart(r, ev, seen);
	if (r->t_started > r->t_ended) { /* it was seen running late, when it had ended already */
		int64_t said = event_int(ev, "start", 0);

		r->t_started = said > 0 && said <= r->t_ended ? said : r->t_ended;
	}
}

static int on_end(struct run *r, const struct event *ev)
{
	const char *word = event_str(ev, "status");
	int to = word ? run_status_of(word) : -1;

	if (to < 0 || !run_ended((enum run_status)to) || !may_follow(r, (enum run_status)to) || !attempt_fits(r, ev))
		return -EPROTO;
	/* a report about an attempt that was voided must not end the run that waits for its next one */
	if (r->status == RUN_QUEUED && to != RUN_CANCELLED && event_int(ev, "attempt", 0) > 0)
		return -EPROTO;
	finish(r, ev, (enum run_status)to);
	return 0;
}

static int on_rejected(struct run *r, const struct event *ev)
{
	if (!event_str(ev, "why") || !attempt_fits(r, ev) || !may_follow(r, RUN_REJECTED))
		return -EPROTO;
	finish(r, ev, RUN_REJECTED);
	return 0;
}

static int on_facts(struct run *r, const struct event *ev)
{
	static const char *const own[] = { "status", "attempt", "source", NULL };

	merge(r, ev, own);
	return 0;
}

static int on_purge(struct run *r, const struct event *ev)
{
	(void)ev;
	return run_is_live(r) && r->status != RUN_DRAFT ? -EPROTO : 0;
}

static int (*const handlers[EV_N])(struct run *r, const struct event *ev) = {
	[EV_CREATE] = on_create,
	[EV_DRAFT] = on_draft,
	[EV_HOLD_WANTED] = on_hold_wanted,
	[EV_RELEASE_WANTED] = on_release_wanted,
	[EV_CANCEL_WANTED] = on_cancel_wanted,
	[EV_SUBMITTING] = on_submitting,
	[EV_SUBMITTED] = on_submitted,
	[EV_STATE] = on_state,
	[EV_UNKNOWN] = on_unknown,
	[EV_KNOWN] = on_known,
	[EV_LOST] = on_lost,
	[EV_END] = on_end,
	[EV_REJECTED] = on_rejected,
	[EV_FACTS] = on_facts,
	[EV_PURGE] = on_purge,
};

int run_apply(struct run *r, const struct event *ev)
{
	int rc;

	assert((unsigned)ev->type < EV_N);
	if (!r->id && ev->type != EV_CREATE && ev->type != EV_DRAFT)
		return -EPROTO;
	if (!run_is_live(r) && ev->type != EV_FACTS && ev->type != EV_PURGE)
		return -EPROTO;
	rc = handlers[ev->type](r, ev);
	if (!rc && ev->type != EV_FACTS)
		r->t_changed = ev->time;
	return rc;
}
