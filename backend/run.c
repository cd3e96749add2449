/*
 * A run's life in memory, and its summary as JSON. The summary holds everything but the texts of the documents,
 * so a run that ended is rebuilt from it alone. Absent members stand for NULL, false, 0, or -1 where that means
 * "none", which keeps the row of a usual run short. Invariant: facts is an object and never NULL. The state machine
 * is in run_apply.c.
 */
#include "backend/run.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <assert.h>
#include <string.h>

struct run *run_new(uint32_t num)
{
	struct run *r = xcalloc(1, sizeof(*r));

	r->num = num;
	r->exit_code = -1;
	r->out_len = -1;
	r->err_len = -1;
	r->facts = json_object();
	return r;
}

void run_free(struct run *r)
{
	if (!r)
		return;
	for (char **t = r->tags; t && *t; t++)
		free(*t);
	free(r->tags);
	free(r->id);
	free(r->cluster);
	free(r->name);
	free(r->key);
	free(r->job_id);
	free(r->why);
	free(r->reason);
	free(r->nodes);
	json_decref(r->facts);
	free(r->history);
	free(r->spec);
	free(r->effective);
	free(r->script);
	free(r);
}

void run_wait_text(const struct run *r, struct strbuf *out)
{
	assert(!run_is_live(r));
	if (r->signal > 0)
		strbuf_addf(out, "%s %d\n", run_status_name(r->status), 128 + r->signal);
	else if (r->exit_code >= 0)
		strbuf_addf(out, "%s %d\n", run_status_name(r->status), r->exit_code);
	else
		strbuf_addf(out, "%s -\n", run_status_name(r->status));
}

/* --- to JSON --- */

static void put_str(json_t *o, const char *key, const char *s)
{
	if (s)
		(void)json_object_set_new(o, key, json_string(s));
}

static void put_int(json_t *o, const char *key, long long v, long long none)
{
	if (v != none)
		(void)json_object_set_new(o, key, json_integer(v));
}

static void put_bool(json_t *o, const char *key, bool v)
{
	if (v)
		(void)json_object_set_new(o, key, json_true());
}

static json_t *tags_json(char *const *tags)
{
	json_t *a = json_array();

	for (; *tags; tags++)
		(void)json_array_append_new(a, json_string(*tags));
	return a;
}

static json_t *history_json(const struct run *r)
{
	json_t *a = json_array();

	for (size_t i = 0; i < r->n_history; i++) {
		const struct run_step *h = &r->history[i];

		(void)json_array_append_new(a, json_pack("[I,s,s,s]", (json_int_t)h->time, run_status_name(h->from),
							 run_status_name(h->to), h->source));
	}
	return a;
}

json_t *run_summary(const struct run *r)
{
	json_t *o = json_object();

	put_str(o, "id", r->id);
	put_str(o, "cluster", r->cluster);
	put_str(o, "name", r->name);
	if (r->tags)
		(void)json_object_set_new(o, "tags", tags_json(r->tags));
	put_str(o, "key", r->key);
	put_str(o, "status", run_status_name(r->status));
	if (r->status == RUN_UNKNOWN)
		put_str(o, "before_unknown", run_status_name(r->before_unknown));
	put_int(o, "attempt", r->attempt, 0);
	put_str(o, "job_id", r->job_id);
	put_bool(o, "cancel_wanted", r->cancel_wanted);
	put_bool(o, "hold_wanted", r->hold_wanted);
	put_bool(o, "merged", r->merged);
	put_int(o, "exit_code", r->exit_code, -1);
	put_int(o, "signal", r->signal, 0);
	put_str(o, "why", r->why);
	put_str(o, "reason", r->reason);
	put_str(o, "nodes", r->nodes);
	put_int(o, "t_created", r->t_created, 0);
	put_int(o, "t_changed", r->t_changed, 0);
	put_int(o, "t_submitted", r->t_submitted, 0);
	put_int(o, "t_started", r->t_started, 0);
	put_int(o, "t_ended", r->t_ended, 0);
	put_int(o, "t_est_start", r->t_est_start, 0);
	put_int(o, "out_len", r->out_len, -1);
	put_int(o, "err_len", r->err_len, -1);
	put_bool(o, "manifest", r->manifest);
	put_int(o, "spec_len", (long long)r->spec_len, 0);
	put_int(o, "effective_len", (long long)r->effective_len, 0);
	put_int(o, "script_len", (long long)r->script_len, 0);
	(void)json_object_set_new(o, "facts", json_deep_copy(r->facts));
	(void)json_object_set_new(o, "history", history_json(r));
	return o;
}

/* --- and back: the getters clear `ok` when a member is there with a type or value that it cannot have --- */

struct reader {
	const json_t *o;
	bool ok;
};

static char *get_str(struct reader *in, const char *key)
{
	const json_t *v = json_object_get(in->o, key);

	if (v && !json_is_string(v))
		in->ok = false;
	return xstrdup(json_string_value(v));
}

static long long get_int(struct reader *in, const char *key, long long none, long long min, long long max)
{
	const json_t *v = json_object_get(in->o, key);

	if (!v)
		return none;
	if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max) {
		in->ok = false;
		return none;
	}
	return json_integer_value(v);
}

static bool get_bool(struct reader *in, const char *key)
{
	const json_t *v = json_object_get(in->o, key);

	if (v && !json_is_boolean(v))
		in->ok = false;
	return json_is_true(v);
}

static enum run_status status_from(struct reader *in, const json_t *v)
{
	int s = json_is_string(v) ? run_status_of(json_string_value(v)) : -1;

	if (s < 0)
		in->ok = false;
	return s < 0 ? RUN_DRAFT : (enum run_status)s;
}

static char **get_tags(struct reader *in)
{
	const json_t *a = json_object_get(in->o, "tags");
	size_t n = json_array_size(a);
	char **tags;

	if (!a)
		return NULL;
	if (!json_is_array(a))
		in->ok = false;
	tags = xcalloc(n + 1, sizeof(*tags));
	for (size_t i = 0; i < n; i++) {
		const char *s = json_string_value(json_array_get(a, i));

		if (!s)
			in->ok = false;
		tags[i] = xstrdup(s ? s : "");
	}
	return tags;
}

static void get_history(struct reader *in, struct run *r)
{
	const json_t *a = json_object_get(in->o, "history");

	if (!json_is_array(a)) {
		in->ok = false;
		return;
	}
	r->n_history = json_array_size(a);
	r->history = xcalloc(r->n_history, sizeof(*r->history));
	for (size_t i = 0; i < r->n_history; i++) {
		const json_t *line = json_array_get(a, i);
		const json_t *time = json_array_get(line, 0);
		const char *source = json_string_value(json_array_get(line, 3));
		struct run_step *h = &r->history[i];

		if (!json_is_integer(time) || !source || strlen(source) >= sizeof(h->source)) {
			in->ok = false;
			return;
		}
		h->time = json_integer_value(time);
		h->from = status_from(in, json_array_get(line, 1));
		h->to = status_from(in, json_array_get(line, 2));
		memcpy(h->source, source, strlen(source) + 1);
	}
}

static void get_words(struct reader *in, struct run *r)
{
	r->id = get_str(in, "id");
	r->cluster = get_str(in, "cluster");
	r->name = get_str(in, "name");
	r->tags = get_tags(in);
	r->key = get_str(in, "key");
	r->status = status_from(in, json_object_get(in->o, "status"));
	if (r->status == RUN_UNKNOWN)
		r->before_unknown = status_from(in, json_object_get(in->o, "before_unknown"));
	r->job_id = get_str(in, "job_id");
	r->why = get_str(in, "why");
	r->reason = get_str(in, "reason");
	r->nodes = get_str(in, "nodes");
	r->cancel_wanted = get_bool(in, "cancel_wanted");
	r->hold_wanted = get_bool(in, "hold_wanted");
	r->merged = get_bool(in, "merged");
	r->manifest = get_bool(in, "manifest");
}

static void get_numbers(struct reader *in, struct run *r)
{
	r->attempt = (uint32_t)get_int(in, "attempt", 0, 0, UINT32_MAX);
	r->exit_code = (int)get_int(in, "exit_code", -1, 0, 255);
	r->signal = (int)get_int(in, "signal", 0, 0, 127);
	r->t_created = get_int(in, "t_created", 0, INT64_MIN, INT64_MAX);
	r->t_changed = get_int(in, "t_changed", 0, INT64_MIN, INT64_MAX);
	r->t_submitted = get_int(in, "t_submitted", 0, INT64_MIN, INT64_MAX);
	r->t_started = get_int(in, "t_started", 0, INT64_MIN, INT64_MAX);
	r->t_ended = get_int(in, "t_ended", 0, INT64_MIN, INT64_MAX);
	r->t_est_start = get_int(in, "t_est_start", 0, INT64_MIN, INT64_MAX);
	r->out_len = get_int(in, "out_len", -1, 0, INT64_MAX);
	r->err_len = get_int(in, "err_len", -1, 0, INT64_MAX);
	r->spec_len = (size_t)get_int(in, "spec_len", 0, 0, INT64_MAX);
	r->effective_len = (size_t)get_int(in, "effective_len", 0, 0, INT64_MAX);
	r->script_len = (size_t)get_int(in, "script_len", 0, 0, INT64_MAX);
}

struct run *run_from_summary(uint32_t num, const json_t *summary)
{
	struct reader in = { summary, json_is_object(summary) };
	const json_t *facts = json_object_get(summary, "facts");
	struct run *r;

	if (!in.ok || !json_is_object(facts))
		return NULL;
	r = run_new(num);
	get_words(&in, r);
	get_numbers(&in, r);
	get_history(&in, r);
	json_decref(r->facts);
	r->facts = json_deep_copy(facts);
	if (in.ok && r->id)
		return r;
	run_free(r);
	return NULL;
}

const char *run_fact(const struct run *r, const char *key)
{
	return r->facts ? json_string_value(json_object_get(r->facts, key)) : NULL;
}
