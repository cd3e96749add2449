/*
 * The engine with a fake cluster: what users may do, in which order the journal, the cluster and the user hear of it,
 * and what comes of what a cluster reports. Restarts, purging and full disks are in test_engine_restart.c.
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"

#include <stdio.h>
#include <sys/stat.h>

#define DOC(t) .text = (t), .len = sizeof(t) - 1
#define ECHO "{'command': 'echo hello'}"

/* --- submitting --- */

static size_t n_checked;

/* Every request that makes something happen must find its reason in the journal already. */
static void reason_is_journaled(struct ef *f, const struct creq *r)
{
	char sql[200];

	if (r->m.type == (int)CREQ_SUBMIT)
		(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM event WHERE run = %u AND type = 'submitting'",
			       r->run);
	else if (r->m.type == (int)CREQ_VERB && strcmp(r->verb, "signal") == 0)
		(void)snprintf(sql, sizeof(sql),
			       "SELECT count(*) FROM event WHERE run = %u AND data LIKE '%%signal USR1%%'", r->run);
	else if (r->m.type == (int)CREQ_VERB)
		(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM event WHERE run = %u AND type = '%s_wanted'",
			       r->run, r->verb);
	else if (r->m.type == (int)CREQ_END_SEEN)
		(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM run WHERE num = %u AND live = 0", r->run);
	else
		return;
	assert_int_equal(ef_sql(f, sql), 1);
	n_checked++;
}

static void journal_first(void **state)
{
	struct ef *f = ef_new(NULL);
	struct said s;
	uint32_t run;

	(void)state;
	f->on_post = reason_is_journaled;
	run = ef_pending_run(f, ECHO);
	ef_verb(f, run, "hold", &s);
	SAID(&s, 0, "");
	ef_verb(f, run, "release", &s);
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	ef_verb(f, run, "signal USR1", &s);
	ef_verb(f, run, "cancel", &s);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'cancelled'}");
	assert_int_equal(n_checked, 6);
	assert_int_equal(ef_sql(f, "SELECT count(*) FROM event"), 0); /* an ended run is its summary */
	f->on_post = NULL;
	ef_free(f);
}

static void what_a_cluster_is_given(void **state)
{
	struct ef *f = ef_new(NULL);
	const struct run *r;
	struct creq *q;
	uint32_t run = ef_run(f, "{'command': 'echo hello', 'streams': 'merged', 'name': 'greet', 'tags': ['a', 'b']}");

	(void)state;
	q = ef_req(f, CREQ_SUBMIT, run);
	assert_non_null(q);
	assert_int_equal(q->attempt, 1);
	assert_string_equal(q->run_id, "1");
	assert_null(q->job_id);
	assert_non_null(strstr(q->token, "/1/a1"));
	assert_non_null(strstr(q->script, "echo hello"));
	assert_true(q->job->merged);
	assert_non_null(q->job->directory);
	assert_non_null(strstr(q->files_dir, "/files/1"));
	r = engine_run(f->en, run);
	assert_string_equal(r->id, "1");
	assert_string_equal(r->cluster, "hpc");
	assert_string_equal(r->name, "greet");
	assert_string_equal(r->tags[1], "b");
	assert_true(r->merged);
	assert_ptr_equal(engine_last(f->en), r);
	assert_ptr_equal(engine_run_by_id(f->en, "1"), r);
	STATUS(f, run, "submitting");
	assert_int_equal(ef_run(f, ECHO), 2);
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 2);
	assert_ptr_equal(engine_next(f->en, 0), r);
	assert_int_equal(engine_next(f->en, 1)->num, 2);
	assert_null(engine_next(f->en, 2));
	assert_int_equal(engine_count(f->en), 2);
	ef_free(f);
}

static void nobody_sees_a_run_before_its_commit(void **state)
{
	struct ef *f = ef_new(NULL);
	const struct engine_submit sub = { DOC("{\"command\": \"ls\"}") };
	struct said s = { 0 };

	(void)state;
	engine_submit(f->en, &sub, said, &s);
	assert_int_equal(s.calls, 0);
	assert_null(engine_run(f->en, 1));
	assert_null(engine_run_by_id(f->en, "1"));
	assert_null(engine_next(f->en, 0));
	assert_null(engine_last(f->en));
	engine_verb(f->en, 1, "cancel", 0, said, &s);
	FAILED(&s, -ENOENT, "purged");
	engine_decided(f->en, 1, said, &s);
	FAILED(&s, -ENOENT, "purged");
	ef_quiet(f);
	SAID(&s, 0, "1");
	ef_free(f);
}

static void drafts(void **state)
{
	struct ef *f = ef_new(NULL);
	struct said s = { 0 }, s2 = { 0 }, s3 = { 0 }, s4 = { 0 };
	uint32_t run = ef_draft(f, "step");
	const struct engine_submit equal = { DOC("{\"command\":\"ls\",\"env\":{\"DAGSTER_PIPES_CONTEXT\":\"2\"}}"),
					     .draft = 1 };

	(void)state;
	STATUS(f, run, "draft");
	assert_null(engine_last(f->en));
	engine_draft(f->en, "step", 0, said, &s);
	FAILED(&s, -EEXIST, "there already");
	engine_draft(f->en, "7up", 0, said, &s);
	assert_int_equal(s.code, -EINVAL);
	ef_submit(f, "{'comand': 'ls'}", run, &s);
	FAILED(&s, -EINVAL, "command");
	STATUS(f, run, "draft");
	ef_verb(f, run, "cancel", &s);
	FAILED(&s, -EBUSY, "draft");
	/* the same spec twice at once, but for the bootstrap variables: both learn of the one commit */
	engine_submit(f->en, &(struct engine_submit){ DOC("{\"command\":\"ls\"}"), .draft = run }, said, &s);
	engine_submit(f->en, &equal, said, &s2);
	assert_int_equal(s2.calls, 0);
	engine_submit(f->en, &(struct engine_submit){ DOC("{\"command\":\"rm\"}"), .draft = run }, said, &s3);
	engine_purge(f->en, run, 0, said, &s4);
	FAILED(&s4, -EBUSY, "live");
	assert_int_equal(engine_run(f->en, run)->spec_len, 0); /* not before the commit */
	ef_quiet(f);
	SAID(&s, 0, "step");
	SAID(&s2, 0, "step");
	FAILED(&s3, -EBUSY, "at this moment");
	STATUS(f, run, "submitting");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, run), 1);
	ef_submit(f, "{'command': 'ls'}", run, &s);
	SAID(&s, 0, "step");
	ef_submit(f, "{'command': 'rm'}", run, &s);
	FAILED(&s, -EEXIST, "another spec");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 1);
	assert_int_equal(engine_last(f->en)->num, run);
	ef_free(f);
}

static void last_is_who_was_submitted_last(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "early"), second;
	struct said s;

	(void)state;
	second = ef_run(f, ECHO);
	assert_int_equal(engine_last(f->en)->num, second);
	ef_submit(f, ECHO, draft, &s);
	assert_int_equal(engine_last(f->en)->num, draft);
	ef_reopen(f);
	assert_int_equal(engine_last(f->en)->num, draft);
	(void)ef_draft(f, "late");
	ef_verb(f, draft, "cancel", &s);
	ef_event(f, draft, EV_END, "{'attempt': 1, 'status': 'cancelled'}");
	ef_purge(f, draft, &s);
	SAID(&s, 0, "");
	assert_int_equal(engine_last(f->en)->num, second);
	ef_free(f);
}

static void keys(void **state)
{
	struct ef *f = ef_new(NULL);
	static const char spec[] = "{\"command\":\"ls\",\"key\":\"k\"}";
	const struct engine_submit sub = { .text = spec, .len = sizeof(spec) - 1 };
	struct said s = { 0 }, s2 = { 0 };
	uint32_t draft = ef_draft(f, "d");

	(void)state;
	engine_submit(f->en, &sub, said, &s);
	engine_submit(f->en, &sub, said, &s2);
	assert_int_equal(s2.calls, 0); /* the first is not committed yet */
	ef_quiet(f);
	SAID(&s, 0, "2");
	SAID(&s2, 0, "2");
	assert_int_equal(engine_count(f->en), 2);
	ef_submit(f, "{'command': 'rm', 'key': 'k'}", 0, &s);
	FAILED(&s, -EEXIST, "run 2");
	ef_submit(f, spec, draft, &s);
	FAILED(&s, -EEXIST, "run 2");
	STATUS(f, draft, "draft");
	ef_reopen(f);
	ef_submit(f, spec, 0, &s);
	SAID(&s, 0, "2");
	ef_submit(f, "{'command': 'rm', 'key': 'k'}", 0, &s);
	FAILED(&s, -EEXIST, "another spec");
	ef_event(f, 2, EV_REJECTED, "{'why': 'no'}");
	ef_purge(f, 2, &s);
	ef_submit(f, spec, 0, &s);
	SAID(&s, 0, "2"); /* a key outlives its run */
	ef_reopen(f);
	ef_submit(f, spec, 0, &s);
	SAID(&s, 0, "2");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 0);
	ef_free(f);
}

static void the_same_request_is_done_once(void **state)
{
	struct ef *f = ef_new(NULL);
	struct engine_submit sub = { DOC("{\"command\":\"ls\"}"), .request = 42 };
	struct said s = { 0 };
	uint32_t run;

	(void)state;
	for (int i = 0; i < 3; i++) {
		memset(&s, 0, sizeof(s));
		engine_submit(f->en, &sub, said, &s);
		ef_quiet(f);
		SAID(&s, 0, "1");
		if (i)
			ef_reopen(f);
	}
	assert_int_equal(engine_count(f->en), 1);
	engine_draft(f->en, "d", 43, said, &s);
	ef_quiet(f);
	SAID(&s, 0, "d");
	ef_reopen(f);
	engine_draft(f->en, "d", 43, said, &s);
	SAID(&s, 0, "d");
	run = engine_run_by_id(f->en, "d")->num;
	engine_purge(f->en, run, 44, said, &s);
	ef_quiet(f);
	SAID(&s, 0, "");
	ef_reopen(f);
	engine_purge(f->en, run, 44, said, &s);
	SAID(&s, 0, "");
	/* a word too many is no verb */
	engine_verb(f->en, 1, "cancel 7", 46, said, &s);
	SAID(&s, -EINVAL, "this verb takes no more words: a run's ctl is about this run");
	assert_false(engine_run(f->en, 1)->cancel_wanted);
	/* verbs: passed on once */
	ef_event(f, 1, EV_SUBMITTED, "{'attempt': 1, 'job_id': '4711'}");
	ef_event(f, 1, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	engine_verb(f->en, 1, "signal USR1", 45, said, &s);
	ef_quiet(f);
	SAID(&s, 0, "");
	assert_int_equal(ef_verb_count(f, 1, "signal"), 1);
	ef_reopen(f);
	engine_verb(f->en, 1, "signal USR1", 45, said, &s);
	ef_quiet(f);
	SAID(&s, 0, "");
	assert_int_equal(ef_verb_count(f, 1, "signal"), 0);
	/* another connection has other requests */
	f->mount_id = 8;
	ef_reopen(f);
	engine_submit(f->en, &sub, said, &s);
	ef_quiet(f);
	SAID(&s, 0, "3");
	ef_free(f);
}

static void rejected_specs_are_kept(void **state)
{
	struct ef *f = ef_new(NULL);
	struct strbuf big = STRBUF_INIT;
	char *before;
	struct said s;

	(void)state;
	ef_submit(f, "{'comand': 'ls'}", 0, &s);
	FAILED(&s, -EINVAL, "command");
	assert_null(engine_next(f->en, 0));
	assert_non_null(strstr(engine_rejected(f->en)->buf, "comand"));
	assert_non_null(strstr(engine_rejected(f->en)->buf, "\"uid\":5"));
	engine_note_rejected(f->en, 6, "\xff\x00x", 3, "not \xfe text");
	strbuf_addstr(&big, "x");
	for (int i = 0; i < 1500; i++)
		strbuf_addstr(&big, "\xc3\xa4");
	engine_note_rejected(f->en, 6, big.buf, big.len, "too long");
	assert_non_null(strstr(engine_rejected(f->en)->buf, "\xc3\xa4\"")); /* cut between characters */
	strbuf_release(&big);
	before = xstrdup(engine_rejected(f->en)->buf);
	ef_quiet(f);
	ef_reopen(f);
	assert_string_equal(engine_rejected(f->en)->buf, before);
	for (int i = 0; i < 5000; i++)
		engine_rejected_add(f->en, i, 1, before, 100, "many");
	assert_true(engine_rejected(f->en)->len < 300 * 1024);
	assert_int_equal(engine_rejected(f->en)->buf[0], '{');
	free(before);
	ef_free(f);
}

static void check_says_everything(void **state)
{
	struct ef *f = ef_new(NULL);
	struct strbuf out = STRBUF_INIT;
	int code = 1;

	(void)state;
	engine_check(f->en, "{\"command\":\"ls\"}", strlen("{\"command\":\"ls\"}"), NULL, &out, &code);
	assert_int_equal(code, 0);
	assert_non_null(strstr(out.buf, "\"cluster hpc\"") ? out.buf : strstr(out.buf, "#!/bin/sh"));
	strbuf_reset(&out);
	engine_check(f->en, "{\"command\":\"ls\",\"afterok\":[\"9\"]}",
		     strlen("{\"command\":\"ls\",\"afterok\":[\"9\"]}"), NULL, &out, &code);
	assert_int_equal(code, -EINVAL);
	assert_non_null(strstr(out.buf, "no run 9"));
	assert_null(engine_next(f->en, 0));
	strbuf_release(&out);
	ef_free(f);
}

/* --- verbs --- */

static void verbs_and_statuses(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t wait = ef_draft(f, "gate"), run[6];
	const char *words[] = { "draft", "queued", "submitting", "pending", "running", "succeeded" };
	static const struct {
		const char *line;
		int code[6];
	} want[] = {
		{ "signal USR1", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, 0, -ESRCH } },
		{ "signal", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EINVAL, -ESRCH } },
		{ "update time=9", { -EBUSY, -EBUSY, -EBUSY, 0, 0, -ESRCH } },
		{ "update", { -EBUSY, -EBUSY, -EBUSY, -EINVAL, -EINVAL, -ESRCH } },
		{ "requeue", { -EBUSY, -EBUSY, -EBUSY, 0, 0, -ESRCH } },
		{ "hold", { -EBUSY, 0, 0, 0, -EBUSY, -ESRCH } },
		{ "release", { -EBUSY, 0, 0, 0, -EBUSY, -ESRCH } },
		{ "refresh", { -EBUSY, 0, 0, 0, 0, -ESRCH } },
		{ "retry", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY, 0 } },
		{ "retry failed", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EINVAL } },
		{ "fetch", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EINVAL } }, /* nobody here can keep them */
		{ "keep", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY, 0 } },
		{ "clean", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY } }, /* it is kept */
		{ "keep on", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EINVAL } },
		{ "keep off", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, -EBUSY, 0 } },
		{ "forward 80", { -EBUSY, -EBUSY, -EBUSY, -EBUSY, 0, -ESRCH } },
		{ "forward a;b:80", { -EBUSY, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -ESRCH } },
		{ "unforward 81", { -EBUSY, -ENOENT, -ENOENT, -ENOENT, -ENOENT, -ESRCH } },
		{ "cancel  ", { -EBUSY, 0, 0, 0, 0, -ESRCH } },
		{ "cancell", { -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL } },
		{ "", { -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL, -EINVAL } },
	};
	struct said s;

	(void)state;
	run[0] = wait;
	run[1] = ef_run(f, "{'command': 'ls', 'afterok': ['gate']}");
	run[2] = ef_run(f, ECHO);
	run[3] = ef_pending_run(f, ECHO);
	run[4] = ef_running_run(f, ECHO);
	run[5] = ef_ended_run(f, ECHO);
	for (size_t v = 0; v < ARRAY_SIZE(want); v++) {
		for (size_t i = 0; i < 6; i++) {
			STATUS(f, run[i], words[i]);
			ef_verb(f, run[i], want[v].line, &s);
			if (s.calls != 1 || s.code != want[v].code[i])
				fail_msg("%s of a %s run: %d %s", want[v].line, words[i], s.code, s.text);
		}
		if (strncmp(want[v].line, "cancel ", 7) == 0)
			words[1] = "cancelled";
	}
	ef_verb(f, 999, "cancel", &s);
	FAILED(&s, -ENOENT, "purged");
	ef_free(f);
}

static void answers_of_verbs(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, ECHO);
	struct said s, a = { 0 }, b = { 0 };

	(void)state;
	engine_verb_answer(f->en, run, said, &a);
	SAID(&a, 0, "");
	ef_verb(f, run, "signal USR1", &s);
	SAID(&s, 0, "");
	assert_string_equal(ef_verb_req(f, run, "signal")->arg, "USR1");
	assert_string_equal(ef_verb_req(f, run, "signal")->job_id, "4711");
	engine_verb_answer(f->en, run, said, &a);
	engine_verb_answer(f->en, run, said, &b);
	engine_cancel_cb(f->en, run, &b);
	assert_int_equal(a.calls, 0);
	ef_answer(f, ef_verb_req(f, run, "signal"), -EPERM, "not yours", "", 0);
	FAILED(&a, -EPERM, "not yours");
	assert_int_equal(b.calls, 0);
	engine_verb_answer(f->en, run, said, &a);
	FAILED(&a, -EPERM, "not yours");
	/* two verbs: what is read is the last one's */
	ef_verb(f, run, "update a=1", &s);
	ef_verb(f, run, "refresh", &s);
	engine_verb_answer(f->en, run, said, &a);
	ef_answer(f, ef_verb_req(f, run, "update"), 0, "first", "", 0);
	assert_int_equal(a.calls, 0);
	ef_answer(f, ef_verb_req(f, run, "refresh"), 0, "second", "", 0);
	SAID(&a, 0, "second");
	ef_free(f);
}

struct nested {
	struct ef *f;
	uint32_t run;
	int calls;
	struct said s;
};

/* Calls back into the engine: another verb, and waiting once more. */
static void verb_again(void *arg, int code, const char *text)
{
	struct nested *n = arg;

	assert_int_equal(code, 0);
	assert_string_equal(text, n->calls ? "two" : "one");
	if (n->calls++)
		return;
	engine_verb(n->f->en, n->run, "refresh", 0, said, &n->s);
	assert_string_equal(text, "one"); /* still there */
	engine_verb_answer(n->f->en, n->run, verb_again, n);
}

static void callbacks_may_call_back(void **state)
{
	struct ef *f = ef_new(NULL);
	struct nested n = { .f = f, .run = ef_running_run(f, ECHO) };
	struct said s;

	(void)state;
	ef_verb(f, n.run, "refresh", &s);
	engine_verb_answer(f->en, n.run, verb_again, &n);
	ef_answer(f, ef_verb_req(f, n.run, "refresh"), 0, "one", "", 0);
	assert_int_equal(n.calls, 1);
	SAID(&n.s, 0, "");
	ef_answer(f, ef_verb_req(f, n.run, "refresh"), 0, "two", "", 0);
	assert_int_equal(n.calls, 2);
	ef_free(f);
}

static void cancel_everywhere(void **state)
{
	struct ef *f = ef_new(NULL);
	struct said s, a = { 0 };
	uint32_t draft = ef_draft(f, "d"), run = ef_run(f, "{'command': 'ls', 'afterany': ['d']}");
	struct engine_submit sub = { DOC("{\"command\":\"ls\"}") };

	(void)state;
	(void)draft;
	ef_verb(f, run, "cancel", &s);
	SAID(&s, 0, "");
	STATUS(f, run, "cancelled");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, run), 0);
	assert_string_equal(run_fact(engine_run(f->en, run), "logs"), "complete");
	/* accepted, and the journal is about to say `submitting`: no job is made */
	memset(&s, 0, sizeof(s));
	engine_submit(f->en, &sub, said, &s);
	while (!s.calls)
		ef_step(f);
	run = engine_run_by_id(f->en, s.text)->num;
	STATUS(f, run, "queued");
	engine_verb(f->en, run, "cancel", 0, said, &a);
	ef_quiet(f);
	SAID(&a, 0, "");
	STATUS(f, run, "cancelled");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, run), 0);
	/* submitting: the cluster decides who was first */
	run = ef_run(f, ECHO);
	ef_verb(f, run, "cancel", &s);
	assert_null(ef_verb_req(f, run, "cancel")->job_id);
	STATUS(f, run, "submitting");
	engine_verb_answer(f->en, run, said, &a);
	assert_int_equal(a.calls, 0);
	ef_answer(f, ef_verb_req(f, run, "cancel"), 0, "cancelled", "", 0);
	SAID(&a, 0, "cancelled");
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'cancelled'}");
	STATUS(f, run, "cancelled");
	/* pending and running */
	run = ef_pending_run(f, ECHO);
	ef_verb(f, run, "cancel", &s);
	assert_string_equal(ef_verb_req(f, run, "cancel")->job_id, "4711");
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	assert_int_equal(ef_verb_count(f, run, "cancel"), 1);
	ef_answer(f, ef_verb_req(f, run, "cancel"), -EIO, "the controller has hiccups", "", 0);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 1);
	ef_verb(f, run, "cancel", &s); /* asked once more: told once more */
	assert_int_equal(ef_verb_count(f, run, "cancel"), 2);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	STATUS(f, run, "succeeded");
	ef_verb(f, run, "cancel", &s);
	FAILED(&s, -ESRCH, "ended");
	ef_free(f);
}

static void cancel_waits_for_the_link(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, ECHO);
	struct said s, a = { 0 };

	(void)state;
	ef_link(f, "hpc", false);
	ef_verb(f, run, "cancel", &s);
	engine_verb_answer(f->en, run, said, &a);
	ef_answer(f, ef_verb_req(f, run, "cancel"), -EHOSTUNREACH, "no answer", "", 0);
	FAILED(&a, -EHOSTUNREACH, "no answer");
	assert_int_equal(ef_verb_count(f, run, "cancel"), 1);
	ef_link(f, "two", true);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 1);
	ef_link(f, "hpc", true);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 2);
	ef_link(f, "hpc", true);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 2);
	/* the deadline passed although the link is up: at once */
	ef_answer(f, ef_verb_req(f, run, "cancel"), -EHOSTUNREACH, "slow", "", 0);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 3);
	ef_answer(f, ef_verb_req(f, run, "cancel"), 0, "done", "", 0);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 3);
	assert_true(engine_cluster_link(f->en, "hpc")->up);
	assert_null(engine_cluster_link(f->en, "nowhere"));
	/* told by the worker before this one, but who knows whether it arrived */
	ef_reopen(f);
	assert_int_equal(ef_count(f, CREQ_WATCH, run), 1);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 1);
	ef_free(f);
}

static void hold_and_release(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "d"), run = ef_run(f, "{'command': 'ls', 'afterany': ['d']}"), spec;
	struct said s, a = { 0 };

	(void)state;
	ef_verb(f, run, "hold", &s);
	engine_verb_answer(f->en, run, said, &a);
	SAID(&a, 0, "hold wanted");
	ef_purge(f, draft, &s);
	STATUS(f, run, "cancelled"); /* its dependency is gone */
	/* between accepted and submitted */
	run = ef_run(f, ECHO);
	assert_false(ef_req(f, CREQ_SUBMIT, run)->job->hold);
	ef_verb(f, run, "hold", &s);
	SAID(&s, 0, "");
	assert_int_equal(ef_verb_count(f, run, "hold"), 1); /* the cluster may not have sent it yet */
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '4711'}");
	assert_int_equal(ef_verb_count(f, run, "hold"), 1);
	ef_reopen(f); /* not answered: told again */
	assert_int_equal(ef_verb_count(f, run, "hold"), 1);
	ef_answer(f, ef_verb_req(f, run, "hold"), 0, "held", "", 0);
	ef_reopen(f);
	assert_int_equal(ef_verb_count(f, run, "hold"), 0);
	ef_verb(f, run, "release", &s);
	ef_answer(f, ef_verb_req(f, run, "release"), 0, "", "", 0);
	ef_reopen(f);
	assert_int_equal(ef_verb_count(f, run, "release"), 0);
	/* a spec's own hold is not taken back by itself, but by the user */
	spec = ef_run(f, "{'command': 'ls', 'hold': true}");
	assert_true(engine_run(f->en, spec)->hold_wanted);
	assert_true(ef_req(f, CREQ_SUBMIT, spec)->job->hold);
	ef_event(f, spec, EV_SUBMITTED, "{'attempt': 1, 'job_id': '5'}");
	assert_int_equal(ef_verb_count(f, spec, "release"), 0);
	ef_reopen(f);
	assert_true(ef_req(f, CREQ_WATCH, spec)->job->hold);
	assert_int_equal(ef_verb_count(f, spec, "release") + ef_verb_count(f, spec, "hold"), 0);
	ef_link(f, "hpc", false);
	ef_verb(f, spec, "release", &s);
	ef_answer(f, ef_verb_req(f, spec, "release"), -EHOSTUNREACH, "away", "", 0);
	ef_link(f, "hpc", true);
	assert_int_equal(ef_verb_count(f, spec, "release"), 2);
	ef_free(f);
}

static void retry(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "first");
	struct strbuf dir = STRBUF_INIT;
	char *input, *copy;
	const struct run *r;
	struct said s, a = { 0 };
	struct stat st1, st2;
	FILE *out;

	(void)state;
	engine_files_dir(f->en, draft, &dir);
	input = xasprintf("mkdir -p '%s/sub'", dir.buf);
	assert_int_equal(system(input), 0);
	free(input);
	input = xasprintf("%s/sub/in", dir.buf);
	out = fopen(input, "w");
	assert_non_null(out);
	(void)fputs("data", out);
	(void)fclose(out);
	ef_submit(f, "{'command': 'ls', 'key': 'k', 'cluster': 'two'}", draft, &s);
	SAID(&s, 0, "first");
	ef_event(f, draft, EV_REJECTED, "{'why': 'no account'}");
	assert_null(engine_run(f->en, draft)->spec); /* the journal has it */
	engine_verb(f->en, draft, "retry", 77, said, &s);
	while (!s.calls)
		ef_step(f);
	ef_quiet(f);
	SAID(&s, 0, "");
	engine_verb_answer(f->en, draft, said, &a);
	SAID(&a, 0, "2");
	r = engine_run_by_id(f->en, "2");
	assert_string_equal(r->cluster, "two");
	assert_string_equal(run_fact(r, "retry_of"), "first");
	assert_null(r->key); /* a key belongs to the first */
	strbuf_reset(&dir);
	engine_files_dir(f->en, 2, &dir);
	copy = xasprintf("%s/sub/in", dir.buf);
	assert_int_equal(stat(input, &st1), 0);
	assert_int_equal(stat(copy, &st2), 0);
	assert_int_equal(st1.st_ino, st2.st_ino);
	ef_reopen(f);
	engine_verb(f->en, draft, "retry", 77, said, &s); /* the same write again */
	SAID(&s, 0, "");
	engine_verb_answer(f->en, draft, said, &a);
	SAID(&a, 0, "2");
	assert_int_equal(engine_count(f->en), 2);
	ef_purge(f, draft, &s);
	assert_int_equal(stat(copy, &st2), 0);
	assert_true(stat(input, &st1) < 0);
	free(input);
	free(copy);
	strbuf_release(&dir);
	ef_free(f);
}

/* --- what becomes of runs --- */

static void submit_only(struct ef *f, const char *text, uint32_t draft, struct said *s)
{
	const struct engine_submit sub = { .text = text, .len = strlen(text), .draft = draft, .uid = 5 };

	memset(s, 0, sizeof(*s));
	engine_submit(f->en, &sub, said, s);
}

/* Drafts can be waited for before they have a spec, so they can be made to wait for each other. */
static void circles(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t a = ef_draft(f, "a"), b = ef_draft(f, "b"), c = ef_draft(f, "c"), other;
	char name[16], spec[64];
	struct said s, t;

	(void)state;
	ef_submit(f, "{'command': 'ls', 'afterok': ['b']}", a, &s);
	SAID(&s, 0, "a");
	ef_submit(f, "{'command': 'ls', 'afterok': ['a']}", b, &s);
	FAILED(&s, -EINVAL, "b waits for a, a waits for b: none of them would ever start");
	STATUS(f, b, "draft");
	other = ef_run(f, "{'command': 'ls', 'afterany': ['a', 'c']}");
	ef_reopen(f); /* what they wait for is in the journal */
	ef_submit(f, "{'command': 'ls', 'afterany': ['a'], 'afternotok': ['c']}", b, &s);
	FAILED(&s, -EINVAL, "b waits for a, a waits for b");
	ef_submit(f, "{'command': 'ls', 'afterok': ['c']}", b, &s);
	SAID(&s, 0, "b");
	ef_submit(f, "{'command': 'ls', 'afternotok': ['4']}", c, &s);
	FAILED(&s, -EINVAL, "c waits for 4, 4 waits for c:");
	ef_submit(f, "{'command': 'ls', 'afternotok': ['a']}", c, &s);
	FAILED(&s, -EINVAL, "c waits for a, a waits for b, b waits for c:");
	ef_submit(f, "{'command': 'ls', 'dependency': 'afterany:b,afterok:4'}", c, &s);
	FAILED(&s, -EINVAL, "c waits for 4, 4 waits for c:");
	ef_submit(f, "{'command': 'ls'}", c, &s); /* without any it may run */
	SAID(&s, 0, "c");
	STATUS(f, c, "submitting");
	STATUS(f, other, "queued");

	/* two at the same time */
	a = ef_draft(f, "x");
	b = ef_draft(f, "y");
	submit_only(f, "{\"command\": \"ls\", \"afterok\": [\"y\"]}", a, &s);
	submit_only(f, "{\"command\": \"ls\", \"afterok\": [\"x\"]}", b, &t);
	for (int i = 0; (!s.calls || !t.calls) && i < 100000; i++)
		ef_step(f);
	SAID(&s, 0, "x");
	FAILED(&t, -EINVAL, "y waits for x, x waits for y");

	/* a long one is cut short */
	for (int i = 0; i < 20; i++) {
		(void)snprintf(name, sizeof(name), "l%d", i);
		(void)ef_draft(f, name);
	}
	for (int i = 0; i < 19; i++) {
		(void)snprintf(name, sizeof(name), "l%d", i);
		(void)snprintf(spec, sizeof(spec), "{'command': 'ls', 'afterok': ['l%d']}", i + 1);
		ef_submit(f, spec, engine_run_by_id(f->en, name)->num, &s);
		SAID(&s, 0, name);
	}
	ef_submit(f, "{'command': 'ls', 'afterok': ['l0']}", engine_run_by_id(f->en, "l19")->num, &s);
	FAILED(&s, -EINVAL, "l6 waits for l7, and so on over 11 more until one waits for l19");
	ef_free(f);
}

static void dependencies(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t first = ef_running_run(f, ECHO), ok, any, notok, self;
	struct said s;

	(void)state;
	ef_submit(f, "{'command': 'ls', 'afterok': ['99']}", 0, &s);
	FAILED(&s, -EINVAL, "no run 99");
	self = ef_draft(f, "self");
	ef_submit(f, "{'command': 'ls', 'afterok': ['self']}", self, &s);
	FAILED(&s, -EINVAL, "itself");
	ok = ef_run(f, "{'command': 'ls', 'afterok': ['1']}");
	any = ef_run(f, "{'command': 'ls', 'afterany': ['1'], 'afterok': ['1']}");
	notok = ef_run(f, "{'command': 'ls', 'afternotok': ['1']}");
	STATUS(f, ok, "queued");
	assert_non_null(strstr(engine_gate(f->en, ok), "waiting for run 1 (afterok), which is running"));
	ef_reopen(f);
	assert_non_null(strstr(engine_gate(f->en, ok), "waiting for run 1"));
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 0);
	ef_event(f, first, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	STATUS(f, ok, "submitting");
	STATUS(f, any, "submitting");
	STATUS(f, notok, "cancelled");
	assert_null(engine_gate(f->en, ok));
	assert_non_null(strstr(engine_run(f->en, notok)->why, "ended as succeeded"));
	assert_int_equal(ef_count(f, CREQ_SUBMIT, ok), 1);
	/* a chain that fails */
	ok = ef_run(f, "{'command': 'ls', 'afterok': ['3']}");
	any = ef_run(f, "{'command': 'ls', 'afterany': ['3']}");
	notok = ef_run(f, "{'command': 'ls', 'afternotok': ['3']}");
	self = ef_run(f, "{'command': 'ls', 'afterok': ['6']}"); /* on the one that is called off */
	ef_event(f, 3, EV_REJECTED, "{'why': 'no'}");
	STATUS(f, ok, "cancelled");
	STATUS(f, self, "cancelled");
	STATUS(f, any, "submitting");
	STATUS(f, notok, "submitting");
	/* purged before it was its turn */
	first = ef_draft(f, "gone");
	ok = ef_run(f, "{'command': 'ls', 'afterany': ['gone']}");
	ef_purge(f, first, &s);
	SAID(&s, 0, "");
	STATUS(f, ok, "cancelled");
	assert_non_null(strstr(engine_run(f->en, ok)->why, "not there"));
	ef_free(f);
}

static void lost_attempts(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t first = ef_ended_run(f, ECHO), run = ef_run(f, "{'command': 'ls', 'afterok': ['1']}");
	struct said s, d = { 0 };
	char *script;

	(void)state;
	engine_decided(f->en, run, said, &d);
	script = xstrdup(ef_req(f, CREQ_SUBMIT, run)->script);
	ef_purge(f, first, &s); /* what it waited for was there once: later attempts do not ask again */
	ef_event(f, run, EV_LOST, "{'attempt': 1, 'why': 'voided'}");
	STATUS(f, run, "submitting");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, run), 2);
	assert_int_equal(ef_req(f, CREQ_SUBMIT, run)->attempt, 2);
	assert_non_null(strstr(ef_req(f, CREQ_SUBMIT, run)->token, "/2/a2"));
	assert_string_not_equal(ef_req(f, CREQ_SUBMIT, run)->script, script);
	free(script);
	assert_int_equal(d.calls, 0);
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '1'}"); /* of the lost one */
	STATUS(f, run, "submitting");
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 2, 'job_id': '2'}");
	SAID(&d, 0, "accepted 2");
	ef_reopen(f);
	assert_int_equal(ef_req(f, CREQ_WATCH, run)->attempt, 2);
	/* lost and called off at the same time */
	ef_link(f, "hpc", false);
	ef_event(f, run, EV_STATE, "{'attempt': 2, 'status': 'pending', 'reason': 'x'}");
	ef_verb(f, run, "cancel", &s);
	ef_event(f, run, EV_LOST, "{'attempt': 2, 'why': 'forgotten by the controller'}");
	STATUS(f, run, "cancelled");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, run), 0);
	ef_free(f);
}

static void late_crossing_and_repeated(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, ECHO);
	unsigned before;

	(void)state;
	before = f->changed;
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '4711'}");
	ef_event(f, run, EV_END, "{'attempt': 2, 'status': 'failed'}");
	assert_int_equal(f->changed, before);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'failed', 'exit_code': 3, 'out_len': 2, 'err_len': 0}");
	assert_int_equal(ef_count(f, CREQ_END_SEEN, run), 1);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	ef_event(f, run, EV_UNKNOWN, "{'why': 'x'}");
	ef_event(f, run, EV_LOST, "{'attempt': 1, 'why': 'x'}");
	STATUS(f, run, "failed");
	assert_int_equal(engine_run(f->en, run)->exit_code, 3);
	ef_event(f, 77, EV_END, "{'attempt': 1, 'status': 'failed'}"); /* nobody's */
	ef_reopen(f);
	STATUS(f, run, "failed");
	assert_int_equal(engine_run(f->en, run)->exit_code, 3);
	ef_free(f);
}

static void an_end_waits_for_its_results(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, ECHO);
	char *path;
	struct strbuf sb = STRBUF_INIT;

	(void)state;
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'manifest': true}");
	STATUS(f, run, "running");
	assert_non_null(ef_req(f, CREQ_MANIFEST, run));
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'manifest': true}");
	assert_int_equal(ef_count(f, CREQ_MANIFEST, run), 1);
	ef_answer(f, ef_req(f, CREQ_MANIFEST, run), 0, "", "f\0a\0", 4);
	STATUS(f, run, "succeeded");
	path = xasprintf("%s/spool/%u/manifest", f->dir, run);
	assert_int_equal(strbuf_read_file(&sb, path, 100), 4);
	assert_memory_equal(sb.buf, "f\0a\0", 4);
	free(path);
	strbuf_release(&sb);
	/* a list that cannot be had delays, and no more */
	run = ef_running_run(f, ECHO);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'failed', 'exit_code': 1, 'manifest': true}");
	STATUS(f, run, "running");
	ef_answer(f, ef_req(f, CREQ_MANIFEST, run), -EHOSTUNREACH, "away", "", 0);
	STATUS(f, run, "failed");
	path = xasprintf("%s/spool/%u/manifest", f->dir, run);
	assert_int_equal(access(path, F_OK), -1);
	free(path);
	ef_free(f);
}

static void decisions(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_run(f, ECHO), other = ef_run(f, ECHO);
	struct said a = { 0 }, b = { 0 };

	(void)state;
	engine_decided(f->en, run, said, &a);
	engine_decided(f->en, run, said, &b);
	engine_cancel_cb(f->en, run, &b);
	engine_cancel_cb(f->en, 999, &b);
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '12'}");
	SAID(&a, 0, "accepted 12");
	assert_int_equal(b.calls, 0);
	engine_decided(f->en, run, said, &a);
	SAID(&a, 0, "accepted 12");
	engine_decided(f->en, other, said, &a);
	ef_event(f, other, EV_REJECTED, "{'attempt': 1, 'why': 'no such partition'}");
	SAID(&a, 0, "rejected no such partition");
	engine_decided(f->en, 999, said, &a);
	FAILED(&a, -ENOENT, "purged");
	ef_free(f);
}

/* --- logs, data --- */

static void logs_are_complete_once(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_ended_run(f, ECHO), other;
	const struct run *r = engine_run(f->en, run);

	(void)state;
	ef_log(f, run, 3, 0, false); /* not on the disk for sure */
	assert_null(run_fact(r, "logs"));
	ef_reopen(f);
	r = engine_run(f->en, run);
	assert_int_equal(ef_count(f, CREQ_WATCH, run), 1);
	assert_true(ef_req(f, CREQ_WATCH, run)->ended);
	assert_int_equal(ef_req(f, CREQ_WATCH, run)->out_len, 3);
	assert_string_equal(ef_req(f, CREQ_WATCH, run)->job_id, "4711");
	assert_int_equal(ef_count(f, CREQ_END_SEEN, run), 1);
	ef_log(f, run, 3, 0, true);
	ef_log(f, run, 3, 0, true);
	assert_string_equal(run_fact(r, "logs"), "complete");
	ef_reopen(f);
	assert_int_equal(ef_count(f, CREQ_WATCH, 0), 0);
	/* what cannot be had any more */
	run = ef_ended_run(f, ECHO);
	ef_event(f, run, EV_FACTS, "{'log_incomplete': true}");
	ef_log(f, run, 1, 0, true);
	assert_string_equal(run_fact(engine_run(f->en, run), "logs"), "incomplete");
	/* no record, so no lengths: what is here is all */
	run = ef_running_run(f, ECHO);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'node_failed'}");
	ef_log(f, run, 5, 6, true);
	assert_int_equal(engine_run(f->en, run)->out_len, 5);
	assert_int_equal(engine_run(f->en, run)->err_len, 6);
	/* all here before the end, and nothing to come */
	other = ef_running_run(f, ECHO);
	ef_log(f, other, 9, 0, true);
	ef_event(f, other, EV_END, "{'attempt': 1, 'status': 'succeeded', 'out_len': 9, 'err_len': 0}");
	assert_string_equal(run_fact(engine_run(f->en, other), "logs"), "complete");
	other = ef_running_run(f, ECHO);
	ef_event(f, other, EV_END, "{'attempt': 1, 'status': 'cancelled', 'out_len': 0, 'err_len': 0}");
	assert_string_equal(run_fact(engine_run(f->en, other), "logs"), "complete");
	/* a job that cuts its own output: readers saw more */
	other = ef_running_run(f, ECHO);
	ef_log(f, other, 100, 0, false);
	ef_event(f, other, EV_END, "{'attempt': 1, 'status': 'succeeded', 'out_len': 9, 'err_len': 0}");
	assert_int_equal(engine_run(f->en, other)->out_len, 100);
	ef_log(f, other, 100, 0, true);
	ef_reopen(f);
	assert_int_equal(ef_count(f, CREQ_WATCH, 0), 0);
	ef_free(f);
}

struct got {
	int calls, code;
	size_t len;
	char data[64];
};

static void got_data(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct got *g = arg;

	(void)text;
	g->calls++;
	g->code = code;
	g->len = len;
	memcpy(g->data, data, len < sizeof(g->data) ? len : sizeof(g->data));
}

static void got_doc(void *arg, int code, const char *text, size_t len)
{
	got_data(arg, code, "", text, len);
}

static void data_and_documents(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "d"), run = ef_running_run(f, ECHO);
	struct got g = { 0 };

	(void)state;
	engine_fetch(f->en, draft, AREA_WORK, "x", 0, 1, got_data, &g);
	assert_int_equal(g.code, -ENOENT);
	g = (struct got){ 0 };
	engine_fetch(f->en, run, AREA_RESULTS, "a/b", 5, 6, got_data, &g);
	assert_string_equal(ef_req(f, CREQ_READ, run)->path, "a/b");
	assert_int_equal(ef_req(f, CREQ_READ, run)->offset, 5);
	assert_string_equal(ef_req(f, CREQ_READ, run)->job->directory, ef_req(f, CREQ_SUBMIT, run)->job->directory);
	ef_answer(f, ef_req(f, CREQ_READ, run), 0, "", "abc", 3);
	ef_answer(f, ef_req(f, CREQ_READ, run), 0, "", "abc", 3); /* a second answer is nobody's */
	assert_int_equal(g.calls, 1);
	assert_memory_equal(g.data, "abc", 3);
	g = (struct got){ 0 };
	engine_list(f->en, run, AREA_WORK, "", got_data, &g);
	ef_answer(f, ef_req(f, CREQ_LIST, run), -EHOSTUNREACH, "x", "", 0);
	assert_int_equal(g.code, -EHOSTUNREACH);
	g = (struct got){ 0 };
	engine_probe(f->en, "hpc", "info", got_data, &g);
	ef_answer(f, ef_req(f, CREQ_PROBE, 0), 0, "", "{}", 2);
	assert_int_equal(g.len, 2);
	engine_probe(f->en, "nowhere", "info", got_data, &g);
	assert_int_equal(g.code, -ENOENT);
	for (int i = 0; i < 50; i++)
		engine_hot(f->en, run);
	assert_int_equal(ef_count(f, CREQ_HOT, run), 1);
	g = (struct got){ 0 };
	engine_doc(f->en, run, "spec", got_doc, &g); /* live: from memory */
	assert_int_equal(g.calls, 1);
	assert_memory_equal(g.data, "{\"command\"", 10);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'failed'}");
	g = (struct got){ 0 };
	engine_doc(f->en, run, "spec", got_doc, &g);
	while (!g.calls)
		ef_step(f);
	assert_memory_equal(g.data, "{\"command\"", 10);
	assert_int_equal(g.len, engine_run(f->en, run)->spec_len);
	g = (struct got){ 0 };
	engine_doc(f->en, run, "nothing", got_doc, &g);
	while (!g.calls)
		ef_step(f);
	assert_int_equal(g.code, -ENOENT);
	ef_free(f);
}

static void clusters_and_their_verbs(void **state)
{
	struct ef *f = ef_new(NULL);
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(engine_cluster_verb(f->en, "hpc", "reconnect", &e), 0);
	assert_int_equal(ef_count(f, CREQ_RECONNECT, 0), 1);
	assert_int_equal(engine_cluster_verb(f->en, "hpc", "dance", &e), -EINVAL);
	assert_int_equal(engine_cluster_verb(f->en, "x", "reconnect", &e), -ENOENT);
	assert_false(engine_cluster_link(f->en, "hpc")->up);
	ef_link(f, "hpc", true);
	assert_string_equal(engine_cluster_link(f->en, "hpc")->text, "up");
	assert_string_equal(engine_trouble(f->en), "");
	assert_int_equal(strlen(engine_uuid(f->en)), 36);
	assert_ptr_equal(engine_config(f->en), f->config);
	ef_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(journal_first),
		cmocka_unit_test(what_a_cluster_is_given),
		cmocka_unit_test(nobody_sees_a_run_before_its_commit),
		cmocka_unit_test(drafts),
		cmocka_unit_test(last_is_who_was_submitted_last),
		cmocka_unit_test(keys),
		cmocka_unit_test(the_same_request_is_done_once),
		cmocka_unit_test(rejected_specs_are_kept),
		cmocka_unit_test(check_says_everything),
		cmocka_unit_test(verbs_and_statuses),
		cmocka_unit_test(answers_of_verbs),
		cmocka_unit_test(callbacks_may_call_back),
		cmocka_unit_test(cancel_everywhere),
		cmocka_unit_test(cancel_waits_for_the_link),
		cmocka_unit_test(hold_and_release),
		cmocka_unit_test(retry),
		cmocka_unit_test(circles),
		cmocka_unit_test(dependencies),
		cmocka_unit_test(lost_attempts),
		cmocka_unit_test(late_crossing_and_repeated),
		cmocka_unit_test(an_end_waits_for_its_results),
		cmocka_unit_test(decisions),
		cmocka_unit_test(logs_are_complete_once),
		cmocka_unit_test(data_and_documents),
		cmocka_unit_test(clusters_and_their_verbs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
