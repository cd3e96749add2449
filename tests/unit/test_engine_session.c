/* Sessions in the engine: names, leases and orders, what becomes of runs that wait. */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"

#include <stdio.h>

static uint32_t session(struct ef *f, const char *spec)
{
	cleanup_free char *text = xstrdup(spec);
	struct said s = { 0 };
	struct engine_submit sub = { .session = true };
	const struct run *r;

	for (char *c = text; *c; c++)
		if (*c == '\'')
			*c = '"';
	sub.text = text;
	sub.len = strlen(text);
	engine_submit(f->en, &sub, said, &s);
	ef_quiet(f);
	if (s.code)
		fail_msg("%s: %s", spec, s.text);
	r = engine_run_by_id(f->en, s.text);
	assert_non_null(r);
	return r->num;
}

static void runs(struct ef *f, uint32_t num)
{
	ef_event(f, num, EV_SUBMITTED, "{'attempt': 1, 'job_id': '77', 'source': 'sbatch'}");
	ef_event(f, num, EV_STATE,
		 "{'attempt': 1, 'status': 'running', 'start': 1000000000000000, 'source': 'squeue'}");
}

static void ends(struct ef *f, uint32_t num)
{
	ef_event(f, num, EV_END,
		 "{'attempt': 1, 'status': 'cancelled', 'source': 'sacct', 'out_len': 0, 'err_len': 0}");
	ef_log(f, num, 0, 0, true);
	ef_quiet(f);
}

static void lease(struct ef *f, uint32_t num, const char *owner, int ttl, int code)
{
	struct said s = { 0 };

	engine_lease(f->en, num, owner, ttl, said, &s);
	ef_quiet(f);
	assert_int_equal(s.calls, 1);
	assert_int_equal(s.code, code);
}

static size_t orders(const struct ef *f, const char *part)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n_got; i++)
		n += f->got[i]->m.type == (int)CREQ_VERB && strcmp(f->got[i]->verb, "order") == 0 &&
		     strstr(f->got[i]->arg, part);
	return n;
}

static void test_names(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t a = session(f, "{'name': 'warm', 'nodes': 2}"), b;
	struct said s = { 0 };

	(void)state;
	assert_int_equal(session(f, "{'name': 'warm', 'nodes': 2}"), a);
	engine_session_draft(f->en, "warm", 0, said, &s);
	FAILED(&s, -EEXIST, "there already");
	assert_ptr_equal(engine_session(f->en, "warm"), engine_run(f->en, a));
	ends(f, a);
	STATUS(f, a, "cancelled");
	b = session(f, "{'name': 'warm', 'nodes': 2}");
	assert_int_not_equal(a, b);
	assert_ptr_equal(engine_session(f->en, "warm"), engine_run(f->en, b));
	ends(f, b);
	ef_reopen(f);
	ef_purge(f, b, &s);
	SAID(&s, 0, "");
	assert_null(engine_session(f->en, "warm")); /* the older one does not come back */
	assert_non_null(engine_run(f->en, a));
	ef_free(f);
}

static void test_leases(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t a = session(f, "{'name': 'warm', 'scope': 'lease'}");
	struct engine_lease l;
	size_t at = 0;

	(void)state;
	lease(f, a, "me", 0, 0);
	lease(f, a, "you", 900, 0);
	lease(f, a, "not/ok", 0, -EINVAL);
	lease(f, a, "nobody", -1, -ENOENT);
	assert_int_equal(orders(f, "lease"), 0); /* nobody is there to be told */
	runs(f, a);
	assert_int_equal(orders(f, "lease me 300"), 1);
	assert_int_equal(orders(f, "lease you 900"), 1);
	lease(f, a, "you", -1, 0);
	assert_int_equal(orders(f, "unlease you -"), 1);
	assert_true(engine_lease_next(f->en, engine_run(f->en, a), &at, &l));
	assert_string_equal(l.owner, "me");
	assert_false(engine_lease_next(f->en, engine_run(f->en, a), &at, &l));
	/* another worker does not know what was heard, and says it again */
	ef_reopen(f);
	assert_int_equal(orders(f, "lease me "), 1);
	assert_int_equal(orders(f, "unlease you -"), 1);
	/* what did not arrive is said again when the cluster is back */
	ef_answer(f, ef_verb_req(f, a, "order"), -EHOSTUNREACH, "away", "", 0);
	ef_forget(f);
	ef_link(f, "hpc", true);
	assert_int_equal(orders(f, "lease me "), 1);
	lease(f, a, "me", 900, 0);
	assert_int_equal(orders(f, "lease me 900"), 1);
	ends(f, a);
	lease(f, a, "me", 0, -ESRCH);
	ef_free(f);
}

static void test_stop(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t a = session(f, "{'name': 'warm'}"), plain = ef_run(f, "{'command': 'x'}");
	struct said s = { 0 };

	(void)state;
	ef_verb(f, plain, "stop", &s);
	FAILED(&s, -EINVAL, "for sessions");
	runs(f, a);
	ef_verb(f, a, "stop", &s);
	SAID(&s, 0, "");
	assert_int_equal(orders(f, "stop - 0"), 1);
	ef_reopen(f);
	assert_int_equal(orders(f, "stop - 0"), 1);
	ef_free(f);
}

/* Orders for the Ray cluster of a session: sent once, with a word that tells them apart. */
static void test_inner(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t plain = ef_run(f, "{'command': 'x'}"), own = ef_run(f, "{'command': 'x', 'launcher': 'ray'}");
	uint32_t a = session(f, "{'name': 'warm', 'ray': true}");
	struct said s = { 0 };

	(void)state;
	ef_verb(f, plain, "ray restart", &s);
	FAILED(&s, -EINVAL, "no such cluster");
	ef_verb(f, a, "ray restart", &s);
	FAILED(&s, -EBUSY, "not running yet");
	runs(f, a);
	ef_verb(f, a, "ray dance", &s);
	FAILED(&s, -EINVAL, "restart, stop");
	ef_verb(f, a, "spark stop", &s);
	FAILED(&s, -EINVAL, "no such cluster");
	ef_verb(f, a, "ray restart", &s);
	SAID(&s, 0, "");
	assert_int_equal(orders(f, "ray restart 1"), 1); /* and the time */
	ef_reopen(f);
	assert_int_equal(orders(f, "ray restart"), 0);
	/* what was ended of a session can be begun again, not that of a run */
	ef_event(f, a, EV_FACTS, "{'attempt': 1, 'source': 'ray', 'ray_state': 'ended'}");
	ef_verb(f, a, "ray restart", &s);
	SAID(&s, 0, "");
	runs(f, own);
	ef_verb(f, own, "ray stop", &s);
	SAID(&s, 0, "");
	assert_int_equal(orders(f, "ray stop 1"), 1);
	ef_event(f, own, EV_FACTS, "{'attempt': 1, 'source': 'ray', 'ray_state': 'ended'}");
	ef_verb(f, own, "ray restart", &s);
	FAILED(&s, -EBUSY, "is begun with the run alone");
	ends(f, own);
	ef_verb(f, own, "ray restart", &s);
	FAILED(&s, -ESRCH, "ended");
	ef_free(f);
}

static uint32_t step(struct ef *f, const char *more)
{
	char text[200];

	(void)snprintf(text, sizeof(text), "{'command': 'x', 'session': 'warm'%s}", more);
	return ef_run(f, text);
}

static void test_policies(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t a = session(f, "{'name': 'warm'}"), cancel = step(f, ""), b;
	uint32_t wait = step(f, ", 'on_session_end': 'wait'"), job = step(f, ", 'on_session_end': 'job'");
	struct said s = { 0 };
	const struct creq *rq;

	(void)state;
	STATUS(f, cancel, "queued");
	assert_non_null(strstr(engine_gate(f->en, wait), "waiting for its session warm"));
	ends(f, a);
	STATUS(f, cancel, "cancelled");
	assert_non_null(strstr(engine_run(f->en, cancel)->why, "ended before the run started"));
	STATUS(f, wait, "queued");
	assert_non_null(strstr(engine_gate(f->en, wait), "waits for the next session of that name"));
	ef_purge(f, a, &s);
	FAILED(&s, -EBUSY, "have not ended yet");
	/* a job of its own: no holder, and what the session had said is asked for by nobody */
	rq = ef_req(f, CREQ_SUBMIT, job);
	assert_non_null(rq);
	assert_int_equal(rq->job->holder.num, 0);
	assert_null(rq->job->session);
	ef_reopen(f);
	b = session(f, "{'name': 'warm'}");
	ef_event(f, b, EV_SUBMITTED, "{'attempt': 1, 'job_id': '78', 'source': 'sbatch'}");
	ef_quiet(f);
	rq = ef_req(f, CREQ_SUBMIT, wait);
	assert_non_null(rq);
	assert_int_equal(rq->job->holder.num, b);
	assert_string_equal(rq->job->holder.job_id, "78");
	ef_free(f);
}

static const struct run *session_of(struct ef *f, const char *spec)
{
	return engine_session_of(f->en, engine_run(f->en, ef_run(f, spec)));
}

static void test_any(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t a = session(f, "{'name': 'four', 'nodes': 4, 'gpus_per_node': 'a100:2', 'partition': 'gpu'}");
	const struct run *made;

	(void)state;
	assert_int_equal(session_of(f, "{'command': 'x', 'session': 'any', 'nodes': 4, 'gpus_per_node': 'a100:2', "
				       "'partition': 'gpu'}")
				 ->num,
			 a);
	assert_int_equal(session_of(f, "{'command': 'x', 'session': 'any', 'nodes': 3, 'gpus_per_node': 2, "
				       "'partition': 'gpu', 'reuse_tolerance': 0.4}")
				 ->num,
			 a);
	/* too large, another partition, another type: one of its own */
	made = session_of(
		f, "{'command': 'x', 'session': 'any', 'nodes': 3, 'gpus_per_node': 'a100:2', 'partition': 'gpu'}");
	assert_int_not_equal(made->num, a);
	assert_true(engine_is_session(made));
	made = session_of(
		f, "{'command': 'x', 'session': 'any', 'nodes': 4, 'gpus_per_node': 'a100:2', 'partition': 'cpu'}");
	assert_int_not_equal(made->num, a);
	made = session_of(
		f, "{'command': 'x', 'session': 'any', 'nodes': 4, 'gpus_per_node': 'h100:2', 'partition': 'gpu'}");
	assert_int_not_equal(made->num, a);
	/* which the next one takes */
	assert_ptr_equal(session_of(f, "{'command': 'y', 'session': 'any', 'nodes': 4, 'gpus_per_node': 'h100:2', "
				       "'partition': 'gpu'}"),
			 made);
	ef_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),    cmocka_unit_test(test_leases), cmocka_unit_test(test_stop),
		cmocka_unit_test(test_policies), cmocka_unit_test(test_any),    cmocka_unit_test(test_inner),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
