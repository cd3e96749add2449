/*
 * The state machine of runs: each event type case by case, then properties over random sequences of events.
 */
#include "backend/run.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

/* Applies an event whose members are written as JSON with single quotes. */
static int apply_at(struct run *r, int64_t time, enum event_type type, const char *text)
{
	char *json = xstrdup(text);
	struct event *ev;
	json_t *o;
	int rc;

	for (char *c = json; *c; c++)
		if (*c == '\'')
			*c = '"';
	o = json_loads(json, 0, NULL);
	assert_non_null(o);
	ev = event_new(type, time, o);
	rc = run_apply(r, ev);
	event_free(ev);
	free(json);
	return rc;
}

static int64_t now;

static int apply(struct run *r, enum event_type type, const char *text)
{
	return apply_at(r, ++now, type, text);
}

#define ok(...) assert_int_equal(apply(__VA_ARGS__), 0)

/* Refused, and not a bit of the run is another. */
static void refused(struct run *r, enum event_type type, const char *text)
{
	json_t *before = run_summary(r), *after;

	assert_int_equal(apply(r, type, text), -EPROTO);
	after = run_summary(r);
	assert_true(json_equal(before, after));
	json_decref(before);
	json_decref(after);
}

static struct run *queued(void)
{
	struct run *r = run_new(7);

	ok(r, EV_CREATE, "{'id': '7', 'cluster': 'hpc'}");
	return r;
}

static struct run *pending(void)
{
	struct run *r = queued();

	ok(r, EV_SUBMITTING, "{'attempt': 1}");
	ok(r, EV_SUBMITTED, "{'attempt': 1, 'job_id': '100', 'source': 'sbatch'}");
	return r;
}

static struct run *running(void)
{
	struct run *r = pending();

	ok(r, EV_STATE, "{'attempt': 1, 'status': 'running', 'nodes': 'n[1-2]', 'source': 'squeue'}");
	return r;
}

static void words(void **state)
{
	(void)state;
	for (int i = 0; i < RUN_N_STATUS; i++) {
		assert_int_equal(run_status_of(run_status_name((enum run_status)i)), i);
		assert_int_equal(run_ended((enum run_status)i), i >= RUN_SUCCEEDED);
	}
	assert_int_equal(run_status_of("done"), -1);
	assert_string_equal(run_status_name(RUN_OUT_OF_MEMORY), "out_of_memory");
}

static void a_new_run_takes_only_a_beginning(void **state)
{
	struct run *r = run_new(1);

	(void)state;
	for (int i = 0; i < EV_N; i++)
		assert_int_equal(apply(r, (enum event_type)i, "{}"), -EPROTO);
	assert_int_equal(apply(r, EV_CREATE, "{'id': '1'}"), -EPROTO);
	assert_int_equal(apply(r, EV_CREATE, "{'id': '', 'cluster': 'c'}"), -EPROTO);
	assert_null(r->id);
	assert_int_equal(r->n_history, 0);
	run_free(r);
	run_free(NULL);
}

static void create_keeps_what_it_is_told(void **state)
{
	struct run *r = run_new(3);

	(void)state;
	now = 1000;
	ok(r, EV_CREATE,
	   "{'id': '3', 'cluster': 'hpc', 'name': 'n', 'tags': ['a', 'b'], 'key': 'k', 'merged': true,"
	   " 'spec': 'command=x', 'effective_len': 12, 'later': 1, 'source': 'user'}");
	assert_string_equal(r->id, "3");
	assert_string_equal(r->cluster, "hpc");
	assert_string_equal(r->name, "n");
	assert_string_equal(r->tags[1], "b");
	assert_null(r->tags[2]);
	assert_string_equal(r->key, "k");
	assert_true(r->merged);
	assert_string_equal(r->spec, "command=x");
	assert_int_equal(r->spec_len, 9);
	assert_null(r->effective);
	assert_int_equal(r->effective_len, 12);
	assert_int_equal(r->status, RUN_QUEUED);
	assert_int_equal(r->t_created, 1001);
	assert_int_equal(r->n_history, 1);
	assert_int_equal(r->history[0].from, RUN_QUEUED);
	assert_int_equal(r->history[0].to, RUN_QUEUED);
	assert_string_equal(r->history[0].source, "user");
	refused(r, EV_CREATE, "{'id': '3', 'cluster': 'hpc'}");
	refused(r, EV_DRAFT, "{'id': '3'}");
	run_free(r);
}

static void a_draft_becomes_a_run(void **state)
{
	struct run *r = run_new(4);
	int64_t made;

	(void)state;
	ok(r, EV_DRAFT, "{'id': 'train'}");
	made = now;
	assert_int_equal(r->status, RUN_DRAFT);
	refused(r, EV_SUBMITTING, "{'attempt': 1}");
	refused(r, EV_UNKNOWN, "{}");
	refused(r, EV_LOST, "{'attempt': 0, 'why': 'x'}");
	refused(r, EV_END, "{'status': 'failed'}");
	refused(r, EV_CREATE, "{'id': 'other', 'cluster': 'c'}");
	ok(r, EV_PURGE, "{}");
	ok(r, EV_CREATE, "{'id': 'train', 'cluster': 'c'}");
	assert_int_equal(r->t_created, made);
	assert_int_equal(r->n_history, 2);
	assert_int_equal(r->history[1].from, RUN_DRAFT);
	assert_int_equal(r->history[1].to, RUN_QUEUED);
	assert_string_equal(r->history[1].source, "engine");
	refused(r, EV_PURGE, "{}");
	run_free(r);
}

static void wishes_are_flags(void **state)
{
	struct run *r = queued();

	(void)state;
	ok(r, EV_HOLD_WANTED, "{}");
	assert_true(r->hold_wanted);
	ok(r, EV_RELEASE_WANTED, "{}");
	assert_false(r->hold_wanted);
	ok(r, EV_CANCEL_WANTED, "{}");
	ok(r, EV_CANCEL_WANTED, "{}");
	assert_true(r->cancel_wanted);
	assert_int_equal(r->status, RUN_QUEUED);
	assert_int_equal(r->n_history, 1);
	run_free(r);
}

static void submission(void **state)
{
	struct run *r = queued();

	(void)state;
	refused(r, EV_SUBMITTING, "{}");
	refused(r, EV_SUBMITTING, "{'attempt': 0}");
	refused(r, EV_SUBMITTING, "{'attempt': 4294967296}");
	refused(r, EV_SUBMITTED, "{'attempt': 0, 'job_id': '1'}");
	ok(r, EV_SUBMITTING, "{'attempt': 1}");
	ok(r, EV_SUBMITTING, "{'attempt': 1}");
	assert_int_equal(r->n_history, 2);
	ok(r, EV_SUBMITTING, "{'attempt': 3}");
	refused(r, EV_SUBMITTING, "{'attempt': 2}");
	refused(r, EV_SUBMITTED, "{'attempt': 2, 'job_id': '1'}");
	refused(r, EV_SUBMITTED, "{'attempt': 4, 'job_id': '1'}");
	refused(r, EV_SUBMITTED, "{'attempt': 3}");
	refused(r, EV_STATE, "{'attempt': 3, 'status': 'running'}");
	ok(r, EV_SUBMITTED, "{'attempt': 3, 'job_id': '77', 'source': 'sbatch'}");
	assert_int_equal(r->status, RUN_PENDING);
	assert_string_equal(r->job_id, "77");
	assert_int_equal(r->t_submitted, now);
	refused(r, EV_SUBMITTED, "{'attempt': 3, 'job_id': '77'}");
	refused(r, EV_SUBMITTED, "{'attempt': 3, 'job_id': '78'}");
	refused(r, EV_SUBMITTING, "{'attempt': 4}");
	run_free(r);
}

static void lost_and_submitted_again(void **state)
{
	struct run *r = pending();

	(void)state;
	refused(r, EV_LOST, "{'attempt': 2, 'why': 'x'}");
	refused(r, EV_LOST, "{'attempt': 1}");
	ok(r, EV_LOST, "{'attempt': 1, 'why': 'the controller forgot it'}");
	assert_int_equal(r->status, RUN_QUEUED);
	assert_int_equal(r->attempt, 1);
	assert_null(r->job_id);
	assert_int_equal(r->t_submitted, 0);
	assert_string_equal(r->why, "the controller forgot it");
	refused(r, EV_SUBMITTING, "{'attempt': 1}");
	refused(r, EV_END, "{'attempt': 1, 'status': 'failed'}");
	ok(r, EV_SUBMITTING, "{'attempt': 2}");
	assert_null(r->why);
	refused(r, EV_SUBMITTED, "{'attempt': 1, 'job_id': '100'}");
	refused(r, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	ok(r, EV_SUBMITTED, "{'attempt': 2, 'job_id': '101'}");
	ok(r, EV_STATE, "{'attempt': 2, 'status': 'running'}");
	refused(r, EV_LOST, "{'attempt': 2, 'why': 'it has started'}");
	run_free(r);
}

static void states(void **state)
{
	struct run *r = pending();

	(void)state;
	refused(r, EV_STATE, "{'status': 'succeeded'}");
	refused(r, EV_STATE, "{'status': 'queued'}");
	refused(r, EV_STATE, "{}");
	refused(r, EV_STATE, "{'attempt': 2, 'status': 'running'}");
	refused(r, EV_STATE, "{'attempt': 1, 'status': 'pending'}");
	ok(r, EV_STATE, "{'attempt': 1, 'status': 'pending', 'reason': 'Priority', 'est_start': 900}");
	assert_int_equal(r->n_history, 3);
	assert_string_equal(r->reason, "Priority");
	assert_int_equal(r->t_est_start, 900);
	refused(r, EV_STATE, "{'attempt': 1, 'status': 'pending', 'reason': 'Priority', 'est_start': 900}");
	ok(r, EV_STATE, "{'attempt': 1, 'status': 'pending', 'reason': 'Resources'}");
	ok(r, EV_STATE, "{'attempt': 1, 'status': 'running', 'nodes': 'n1', 'start': 555, 'source': 'squeue'}");
	assert_int_equal(r->n_history, 4);
	assert_string_equal(r->history[3].source, "squeue");
	assert_null(r->reason);
	assert_int_equal(r->t_est_start, 0);
	assert_string_equal(r->nodes, "n1");
	assert_int_equal(r->t_started, 555);
	ok(r, EV_STATE, "{'attempt': 1, 'status': 'running', 'reason': 'suspended'}");
	assert_string_equal(r->reason, "suspended");
	ok(r, EV_STATE, "{'attempt': 1, 'status': 'running', 'reason': ''}");
	assert_string_equal(r->reason, "");
	ok(r, EV_STATE, "{'status': 'pending'}"); /* an administrator's requeue */
	assert_null(r->nodes);
	ok(r, EV_STATE, "{'status': 'running', 'start': 999}");
	assert_int_equal(r->t_started, 999);
	ok(r, EV_STATE, "{'status': 'completing'}");
	refused(r, EV_STATE, "{'status': 'completing'}");
	ok(r, EV_STATE, "{'status': 'pending'}"); /* requeued */
	ok(r, EV_STATE, "{'status': 'completing'}");
	ok(r, EV_STATE, "{'status': 'running'}"); /* requeued and started before the next look */
	run_free(r);
}

static void unknown_and_known(void **state)
{
	struct run *r = queued();

	(void)state;
	refused(r, EV_UNKNOWN, "{'why': 'a queued run is not asked for'}");
	run_free(r);
	r = running();
	refused(r, EV_KNOWN, "{}");
	ok(r, EV_UNKNOWN, "{'why': 'no route to hpc'}");
	assert_int_equal(r->status, RUN_UNKNOWN);
	assert_int_equal(r->before_unknown, RUN_RUNNING);
	assert_true(run_is_live(r));
	refused(r, EV_UNKNOWN, "{'why': 'no route to hpc'}");
	ok(r, EV_UNKNOWN, "{'why': 'login refused'}");
	assert_string_equal(r->why, "login refused");
	assert_int_equal(r->before_unknown, RUN_RUNNING);
	refused(r, EV_LOST, "{'attempt': 1, 'why': 'it was running'}");
	refused(r, EV_SUBMITTING, "{'attempt': 2}");
	ok(r, EV_KNOWN, "{}");
	assert_int_equal(r->status, RUN_RUNNING);
	assert_null(r->why);
	ok(r, EV_UNKNOWN, "{}");
	ok(r, EV_STATE, "{'attempt': 1, 'status': 'completing'}");
	ok(r, EV_UNKNOWN, "{}");
	refused(r, EV_STATE, "{'attempt': 2, 'status': 'pending'}");
	ok(r, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	run_free(r);
}

static void unknown_while_submitting(void **state)
{
	struct run *r = queued();

	(void)state;
	ok(r, EV_SUBMITTING, "{'attempt': 1}");
	ok(r, EV_UNKNOWN, "{'why': 'the answer was lost'}");
	refused(r, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	ok(r, EV_SUBMITTING, "{'attempt': 1}");
	ok(r, EV_UNKNOWN, "{}");
	ok(r, EV_SUBMITTED, "{'attempt': 1, 'job_id': '5'}");
	assert_int_equal(r->status, RUN_PENDING);
	run_free(r);
}

static void an_end_keeps_everything(void **state)
{
	struct run *r = running();

	(void)state;
	refused(r, EV_END, "{'attempt': 1, 'status': 'running'}");
	refused(r, EV_END, "{'attempt': 1, 'status': 'nonsense'}");
	refused(r, EV_END, "{'attempt': 1}");
	refused(r, EV_END, "{'attempt': 2, 'status': 'failed'}");
	ok(r, EV_END,
	   "{'attempt': 1, 'status': 'failed', 'exit_code': 3, 'why': 'exit 3', 'source': 'exit record',"
	   " 'start': 10, 'end': 20, 'out_len': 100, 'err_len': 0, 'manifest': true, 'max_rss': 4096,"
	   " 'cpu_us': 12, 'nodes': 'n9', 'gpu': {'util': 0.5}, 'nothing': null}");
	assert_int_equal(r->status, RUN_FAILED);
	assert_int_equal(r->exit_code, 3);
	assert_string_equal(r->why, "exit 3");
	assert_int_equal(r->t_ended, 20);
	assert_int_equal(r->out_len, 100);
	assert_int_equal(r->err_len, 0);
	assert_true(r->manifest);
	assert_string_equal(r->nodes, "n9");
	assert_int_equal(json_integer_value(json_object_get(r->facts, "max_rss")), 4096);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "cpu_us")), 12);
	assert_null(json_object_get(r->facts, "start")); /* what was seen says the same */
	assert_true(r->t_started <= r->t_ended);
	assert_non_null(json_object_get(json_object_get(r->facts, "gpu"), "util"));
	assert_int_equal(json_object_size(r->facts), 3);
	assert_string_equal(r->history[r->n_history - 1].source, "exit record");
	run_free(r);
}

#define S INT64_C(1000000)

static struct run *started(int64_t at, const char *end)
{
	struct run *r = running();
	struct event *ev = event_new(EV_END, 2000 * S, json_loads(end, 0, NULL));

	r->t_started = at;
	assert_int_equal(run_apply(r, ev), 0);
	event_free(ev);
	return r;
}

static void a_run_does_not_end_before_it_starts(void **state)
{
	struct run *r = started(1000 * S + 5, "{\"status\": \"failed\", \"start\": 1000000000, \"end\": 1000000000}");

	(void)state;
	assert_int_equal(r->t_started, 1000 * S); /* whole seconds of the record */
	assert_int_equal(r->t_ended, 1000 * S);
	assert_null(json_object_get(r->facts, "start"));
	run_free(r);
	r = started(1000 * S, "{\"status\": \"failed\", \"start\": 990000000, \"end\": 995000000}");
	assert_int_equal(r->t_started, 990 * S);
	assert_int_equal(r->t_ended, 995 * S);
	run_free(r);
	r = started(1000 * S, "{\"status\": \"failed\", \"end\": 995000000}");
	assert_int_equal(r->t_started, 995 * S);
	run_free(r);
	r = started(1000 * S, "{\"status\": \"failed\", \"start\": 1003000000}"); /* contradicts */
	assert_int_equal(r->t_started, 1000 * S);
	assert_int_equal(r->t_ended, 2000 * S);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "start")), 1003 * S);
	run_free(r);
}

static void a_run_may_be_born_held(void **state)
{
	struct run *r = run_new(4);
	struct event *ev = event_new(EV_CREATE, 1, json_pack("{s:s, s:s, s:b}", "id", "4", "cluster", "c", "hold", 1));

	(void)state;
	assert_int_equal(run_apply(r, ev), 0);
	assert_true(r->hold_wanted);
	assert_null(json_object_get(r->facts, "hold"));
	event_free(ev);
	run_free(r);
}

static void strange_values_of_an_end_are_facts(void **state)
{
	struct run *r = running();

	(void)state;
	ok(r, EV_END, "{'status': 'failed', 'exit_code': 256, 'signal': 'KILL', 'out_len': -5, 'nodes': 3}");
	assert_int_equal(r->exit_code, -1);
	assert_int_equal(r->signal, 0);
	assert_int_equal(r->out_len, -1);
	assert_string_equal(r->nodes, "n[1-2]");
	assert_int_equal(json_object_size(r->facts), 4);
	assert_int_equal(r->t_ended, now);
	run_free(r);
}

static void ended_never_changes(void **state)
{
	struct run *r = running();

	(void)state;
	ok(r, EV_END, "{'attempt': 1, 'status': 'cancelled'}");
	for (int i = 0; i < EV_N; i++)
		if (i != EV_FACTS && i != EV_PURGE)
			refused(r, (enum event_type)i,
				"{'id': '7', 'cluster': 'c', 'attempt': 1, 'job_id': '1',"
				" 'status': 'failed', 'why': 'late'}");
	ok(r, EV_FACTS, "{'status': 'failed', 'exit_code': 143, 'out_len': 9, 'why': 'by root', 'energy': 5}");
	assert_int_equal(r->status, RUN_CANCELLED);
	assert_int_equal(r->exit_code, 143);
	assert_int_equal(r->out_len, 9);
	assert_string_equal(r->why, "by root");
	ok(r, EV_FACTS, "{'exit_code': 1, 'signal': 9, 'out_len': 10, 'why': 'other', 'energy': 6, 'manifest': true}");
	assert_int_equal(r->exit_code, 143);
	assert_int_equal(r->signal, 0);
	assert_int_equal(r->out_len, 9);
	assert_string_equal(r->why, "by root");
	assert_true(r->manifest);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "energy")), 6);
	assert_string_equal(json_string_value(json_object_get(r->facts, "why")), "other");
	assert_null(json_object_get(r->facts, "status"));
	ok(r, EV_FACTS, "{'energy': null}");
	assert_null(json_object_get(r->facts, "energy"));
	ok(r, EV_PURGE, "{}");
	run_free(r);
}

static void facts_of_a_live_run(void **state)
{
	struct run *r = running();

	(void)state;
	ok(r, EV_FACTS, "{'exit_code': 1, 'out_len': 5, 'tunnel': 8080}");
	assert_int_equal(r->exit_code, -1);
	assert_int_equal(r->out_len, -1);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "tunnel")), 8080);
	assert_int_equal(r->n_history, 4);
	run_free(r);
}

static void ends_before_submission(void **state)
{
	struct run *r = queued();

	(void)state;
	refused(r, EV_END, "{'status': 'succeeded'}");
	refused(r, EV_END, "{'status': 'out_of_memory'}");
	ok(r, EV_END, "{'status': 'cancelled', 'source': 'user'}");
	assert_int_equal(r->attempt, 0);
	run_free(r);
	r = queued();
	refused(r, EV_REJECTED, "{}");
	ok(r, EV_SUBMITTING, "{'attempt': 1}");
	refused(r, EV_REJECTED, "{'attempt': 2, 'why': 'x'}");
	ok(r, EV_REJECTED, "{'attempt': 1, 'why': 'invalid partition', 'source': 'sbatch'}");
	assert_int_equal(r->status, RUN_REJECTED);
	assert_string_equal(r->why, "invalid partition");
	assert_int_equal(r->t_ended, now);
	run_free(r);
	r = pending();
	refused(r, EV_REJECTED, "{'why': 'too late'}");
	ok(r, EV_END, "{'attempt': 1, 'status': 'timeout'}");
	run_free(r);
}

static void check_wait(const char *end, const char *want)
{
	struct strbuf sb = STRBUF_INIT;
	struct run *r = running();

	ok(r, EV_END, end);
	run_wait_text(r, &sb);
	assert_string_equal(sb.buf, want);
	strbuf_release(&sb);
	run_free(r);
}

static void wait_text(void **state)
{
	(void)state;
	check_wait("{'status': 'succeeded', 'exit_code': 0}", "succeeded 0\n");
	check_wait("{'status': 'failed', 'exit_code': 137}", "failed 137\n");
	check_wait("{'status': 'failed', 'exit_code': 0, 'signal': 9}", "failed 137\n");
	check_wait("{'status': 'timeout', 'signal': 15}", "timeout 143\n");
	check_wait("{'status': 'cancelled'}", "cancelled -\n");
	check_wait("{'status': 'node_failed', 'exit_code': null}", "node_failed -\n");
}

static void long_sources_are_cut_between_characters(void **state)
{
	struct run *r = running();

	(void)state;
	ok(r, EV_END, "{'status': 'failed', 'source': 'abcdefghijklmnopqrstuv\u00e9z'}");
	assert_string_equal(r->history[r->n_history - 1].source, "abcdefghijklmnopqrstuv");
	run_free(r);
}

static void damaged_summaries(void **state)
{
	static const char *const bad[] = {
		"[]",
		"{}",
		"{\"id\": \"1\"}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}}",
		"{\"id\": \"1\", \"status\": \"done\", \"facts\": {}, \"history\": []}",
		"{\"id\": \"1\", \"status\": \"unknown\", \"facts\": {}, \"history\": []}",
		"{\"id\": 1, \"status\": \"failed\", \"facts\": {}, \"history\": []}",
		"{\"status\": \"failed\", \"facts\": {}, \"history\": []}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": [[]]}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": [[1, \"a\", \"failed\", \"x\"]]}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": [], \"exit_code\": 256}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": [], \"attempt\": -1}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": [], \"tags\": [1]}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": [], \"tags\": \"a\"}",
		"{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": [], \"merged\": 1}",
	};
	json_t *o = json_loads("{\"id\": \"1\", \"status\": \"failed\", \"facts\": {}, \"history\": []}", 0, NULL);
	struct run *r = run_from_summary(1, o);

	(void)state;
	assert_non_null(r);
	run_free(r);
	json_decref(o);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		o = json_loads(bad[i], 0, NULL);
		assert_non_null(o);
		assert_null(run_from_summary(1, o));
		json_decref(o);
	}
	assert_null(run_from_summary(1, NULL));
}

/* --- properties over random sequences --- */

static uint64_t seed;

static unsigned pick(unsigned n)
{
	seed = hash_u64(seed + 0x9e3779b97f4a7c15u);
	return (unsigned)(seed % n);
}

static const char *pick_status(void)
{
	return run_status_name((enum run_status)pick(RUN_N_STATUS));
}

/* Mostly sensible, sometimes from another attempt, with members left out or of a wrong kind. */
static struct event *random_event(const struct run *r, int64_t time)
{
	static const char *const texts[] = { "", "a", "because \xc3\xa9", "n[1-4]" };
	static const char *const strings[] = { "why", "reason", "nodes", "source", "job_id", "note" };
	static const char *const ints[] = { "exit_code", "signal", "start", "end", "est_start", "out_len", "err_len" };
	json_t *o = json_pack("{s:s, s:s}", "id", "r", "cluster", "c");

	(void)json_object_set_new(o, "status", json_string(pick_status()));
	if (pick(4))
		(void)json_object_set_new(o, "attempt",
					  json_integer((json_int_t)r->attempt + pick(3) - (pick(4) == 0)));
	for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
		if (pick(2))
			(void)json_object_set_new(o, strings[i], json_string(texts[pick(ARRAY_SIZE(texts))]));
	for (size_t i = 0; i < ARRAY_SIZE(ints); i++)
		if (pick(2))
			(void)json_object_set_new(o, ints[i],
						  pick(9) ? json_integer((json_int_t)pick(300) - 1) : json_null());
	if (pick(2))
		(void)json_object_set_new(o, "manifest", json_boolean(pick(2)));
	return event_new((enum event_type)pick(EV_N), time, o);
}

static void check_round_trip(const struct run *r)
{
	json_t *a = run_summary(r), *b;
	char *text = json_dumps(a, JSON_COMPACT);
	json_t *parsed = json_loads(text, 0, NULL);
	struct run *copy = run_from_summary(r->num, parsed);

	assert_non_null(copy);
	b = run_summary(copy);
	assert_true(json_equal(a, b));
	assert_int_equal(copy->before_unknown, r->before_unknown);
	assert_int_equal(copy->n_history, r->n_history);
	run_free(copy);
	json_decref(a);
	json_decref(b);
	json_decref(parsed);
	free(text);
}

static void check_rules(const struct run *r, enum run_status before)
{
	assert_true(!run_ended(before) || r->status == before);
	assert_true(r->n_history > 0 && r->history[r->n_history - 1].to == r->status);
	assert_true(r->status == RUN_UNKNOWN || r->before_unknown == RUN_DRAFT);
	assert_true(r->status != RUN_PENDING || r->job_id);
	assert_true(!run_ended(r->status) || r->t_ended != 0);
}

static void replay(const struct run *r, struct event *const *events, size_t n)
{
	struct run *again = run_new(r->num);
	json_t *a = run_summary(r), *b;

	for (size_t i = 0; i < n; i++)
		assert_int_equal(run_apply(again, events[i]), 0);
	b = run_summary(again);
	assert_true(json_equal(a, b));
	json_decref(a);
	json_decref(b);
	run_free(again);
}

static void one_random_life(void)
{
	struct event *accepted[400];
	struct run *r = run_new(9);
	size_t n = 0;

	for (int step = 0; step < 400; step++) {
		struct event *ev = random_event(r, step + 1);
		enum run_status before = r->status;
		json_t *was = run_summary(r);
		int rc = run_apply(r, ev);
		json_t *is = run_summary(r);

		if (rc)
			assert_true(json_equal(was, is));
		json_decref(was);
		json_decref(is);
		if (rc) {
			event_free(ev);
			continue;
		}
		accepted[n++] = ev;
		check_rules(r, before);
		check_round_trip(r);
	}
	replay(r, accepted, n);
	while (n > 0)
		event_free(accepted[--n]);
	run_free(r);
}

static void random_lives(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 150; i++) {
		seed = i;
		one_random_life();
	}
}

/* Every pair of statuses: a path there, and which of them an end or a state may follow. */
static void ended_statuses_have_no_way_out(void **state)
{
	(void)state;
	for (int to = RUN_SUCCEEDED; to < RUN_N_STATUS; to++) {
		char *end = xasprintf("{'attempt': 1, 'status': '%s'}", run_status_name((enum run_status)to));
		struct run *r = running();

		if (to == RUN_REJECTED) {
			refused(r, EV_END, end);
		} else {
			ok(r, EV_END, end);
			assert_int_equal(r->status, to);
		}
		free(end);
		run_free(r);
	}
}

static void metrics_follow_the_last_start(void **state)
{
	struct run *r = pending();

	(void)state;
	ok(r, EV_STATE, "{'status': 'running', 'start': 10000000, 'node_count': 2, 'cpus': 8}");
	assert_int_equal(json_integer_value(json_object_get(r->facts, "node_count")), 2);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "cpus")), 8);
	refused(r, EV_STATE, "{'status': 'running', 'start': 10000000, 'node_count': 2, 'cpus': 8}");
	ok(r, EV_STATE,
	   "{'status': 'pending', 'node_count': 5, 'cpus': 50}"); /* requeued; what it wants is not what it has */
	assert_true(r->t_started == 0);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "node_count")), 2);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "restarts")), 1);
	ok(r, EV_STATE, "{'status': 'running', 'start': 130000000, 'node_count': 1, 'cpus': 4, 'nodes': 'n7'}");
	assert_true(r->t_started == 130000000);
	assert_int_equal(json_integer_value(json_object_get(r->facts, "node_count")), 1);
	/* the third start, which nobody saw pending */
	ok(r, EV_STATE, "{'status': 'running', 'start': 260000000, 'nodes': 'n8'}");
	assert_true(r->t_started == 260000000);
	assert_string_equal(r->nodes, "n8");
	assert_int_equal(json_integer_value(json_object_get(r->facts, "restarts")), 2);
	/* the script began later than the job: that is no other start */
	ok(r, EV_END, "{'status': 'succeeded', 'exit_code': 0, 'restarts': 2, 'start': 270000000, 'end': 280000000}");
	assert_true(r->t_started == 260000000);
	run_free(r);

	/* a start of which the end tells first */
	r = pending();
	ok(r, EV_STATE, "{'status': 'running', 'start': 10000000}");
	ok(r, EV_END, "{'status': 'succeeded', 'exit_code': 0, 'restarts': 1, 'start': 270000000, 'end': 280000000}");
	assert_true(r->t_started == 270000000);
	assert_null(json_object_get(r->facts, "start"));
	run_free(r);
}

static void a_wish_to_cancel_has_a_time(void **state)
{
	struct run *r = running();

	(void)state;
	assert_int_equal(apply_at(r, INT64_C(1700000000000000), EV_CANCEL_WANTED, "{}"), 0);
	assert_int_equal(apply_at(r, INT64_C(1700000009000000), EV_CANCEL_WANTED, "{}"), 0);
	assert_string_equal(run_fact(r, "cancel_asked"), "2023-11-14T22:13:20.000000Z");
	run_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words),
		cmocka_unit_test(a_new_run_takes_only_a_beginning),
		cmocka_unit_test(create_keeps_what_it_is_told),
		cmocka_unit_test(a_draft_becomes_a_run),
		cmocka_unit_test(wishes_are_flags),
		cmocka_unit_test(submission),
		cmocka_unit_test(lost_and_submitted_again),
		cmocka_unit_test(states),
		cmocka_unit_test(unknown_and_known),
		cmocka_unit_test(unknown_while_submitting),
		cmocka_unit_test(an_end_keeps_everything),
		cmocka_unit_test(a_run_does_not_end_before_it_starts),
		cmocka_unit_test(a_run_may_be_born_held),
		cmocka_unit_test(strange_values_of_an_end_are_facts),
		cmocka_unit_test(ended_never_changes),
		cmocka_unit_test(facts_of_a_live_run),
		cmocka_unit_test(ends_before_submission),
		cmocka_unit_test(wait_text),
		cmocka_unit_test(long_sources_are_cut_between_characters),
		cmocka_unit_test(damaged_summaries),
		cmocka_unit_test(ended_statuses_have_no_way_out),
		cmocka_unit_test(random_lives),
		cmocka_unit_test(metrics_follow_the_last_start),
		cmocka_unit_test(a_wish_to_cancel_has_a_time),
	};

	return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
