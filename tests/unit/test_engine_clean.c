/*
 * Directories that go from their cluster: because of `clean`, and because of the configuration's `keep`; what a killed
 * worker leaves of that; and what is remembered of results that were here.
 * TEST_SECONDS=3
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"

#define CONF                                                                                                            \
	"[cluster hpc]\nhost = login\nkeep = 2d\n[cluster two]\nhost = other\nkeep = null\n[cluster three]\nhost = x\n" \
	"[defaults]\ncluster = hpc\nkeep = 10d\n"
#define DAY (86400 * (int64_t)USEC_PER_SEC)

/* An ended run whose log is here. */
static uint32_t ended(struct ef *f, const char *spec)
{
	uint32_t run = ef_run(f, spec);

	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '77'}");
	ef_log(f, run, 0, 0, true);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'out_len': 0, 'err_len': 0}");
	ef_quiet(f);
	return run;
}

static void pass(struct ef *f, int64_t us)
{
	ef_pass(us);
	(void)engine_timer(f->en, INT64_MAX / 2); /* whatever it said before */
	ef_quiet(f);
	f->en->clean_at = 0;
}

static bool is_cleaned(const struct ef *f, uint32_t run)
{
	return run_fact(engine_run(f->en, run), "cleaned") != NULL;
}

static bool is_pending(const struct ef *f, uint32_t run)
{
	return json_object_get(engine_run(f->en, run)->facts, "clean_pending") != NULL;
}

static void after_its_time(void **state)
{
	struct ef *f = ef_new(CONF);
	uint32_t a = ended(f, "{'command': 'ls'}"), never = ended(f, "{'command': 'ls', 'cluster': 'two'}"),
		 third = ended(f, "{'command': 'ls', 'cluster': 'three'}"),
		 live = ef_running_run(f, "{'command': 'ls'}");

	(void)state;
	pass(f, 2 * DAY - 60 * (int64_t)USEC_PER_SEC);
	assert_false(is_cleaned(f, a));
	assert_null(ef_req(f, CREQ_FORGET, 0));
	pass(f, 120 * (int64_t)USEC_PER_SEC);
	assert_true(is_cleaned(f, a));
	assert_int_equal(ef_count(f, CREQ_FORGET, a), 1);
	assert_non_null(engine_run(f->en, a)); /* the run stays */
	STATUS(f, a, "succeeded");
	assert_false(is_cleaned(f, third));
	pass(f, 9 * DAY);
	assert_true(is_cleaned(f, third)); /* that of [defaults] */
	pass(f, 1000 * DAY);
	assert_false(is_cleaned(f, never));
	assert_false(is_cleaned(f, live));
	assert_int_equal(ef_count(f, CREQ_FORGET, a), 1);
	assert_int_equal(ef_count(f, CREQ_FORGET, 0), 2);
	ef_free(f);
}

static void not_what_is_needed(void **state)
{
	struct ef *f = ef_new(CONF);
	uint32_t kept = ended(f, "{'command': 'ls'}"), read = ended(f, "{'command': 'ls'}"), half;
	struct said s;

	(void)state;
	half = ef_run(f, "{'command': 'ls'}");
	ef_event(f, half, EV_SUBMITTED, "{'attempt': 1, 'job_id': '78'}");
	ef_event(f, half, EV_END, "{'attempt': 1, 'status': 'failed', 'exit_code': 1, 'out_len': 9, 'err_len': 0}");
	ef_verb(f, kept, "keep", &s);
	SAID(&s, 0, "");
	f->in_use = read;
	pass(f, 3 * DAY);
	assert_false(is_cleaned(f, kept));
	assert_false(is_cleaned(f, read));
	assert_false(is_cleaned(f, half)); /* its log is not here */
	f->in_use = 0;
	pass(f, USEC_PER_SEC);
	assert_true(is_cleaned(f, read));
	ef_log(f, half, 9, 0, true);
	ef_verb(f, kept, "keep off", &s);
	SAID(&s, 0, "");
	pass(f, USEC_PER_SEC);
	assert_true(is_cleaned(f, half));
	assert_true(is_cleaned(f, kept));
	ef_free(f);
}

/* From the journal to the cluster's answer: a worker that comes later asks for it again until it has one. */
static void killed_at_each_step(void **state)
{
	struct ef *f = ef_new(CONF);
	uint32_t run = ended(f, "{'command': 'ls'}");

	(void)state;
	ef_pass(3 * DAY);
	f->en->clean_at = 0;
	(void)engine_timer(f->en, INT64_MAX / 2); /* on its way to the journal, perhaps there */
	ef_close(f);
	ef_forget(f);
	ef_open_with(f, CONF);
	ef_quiet(f);
	if (!is_cleaned(f, run))
		pass(f, USEC_PER_SEC);
	assert_true(is_cleaned(f, run));
	assert_true(is_pending(f, run));
	assert_int_equal(ef_count(f, CREQ_FORGET, run), 1);
	ef_close(f); /* it was sent, and nobody answered */
	ef_forget(f);
	ef_open_with(f, CONF);
	ef_quiet(f);
	assert_int_equal(ef_count(f, CREQ_FORGET, run), 1);
	ef_answer(f, ef_req(f, CREQ_FORGET, run), -EIO, "a file server is away", "", 0);
	ef_quiet(f);
	assert_true(is_pending(f, run));
	ef_close(f);
	ef_forget(f);
	ef_open_with(f, CONF);
	ef_quiet(f);
	ef_answer(f, ef_req(f, CREQ_FORGET, run), 0, "", "", 0);
	ef_quiet(f);
	assert_false(is_pending(f, run));
	ef_close(f);
	ef_forget(f);
	ef_open_with(f, CONF);
	ef_quiet(f);
	assert_null(ef_req(f, CREQ_FORGET, run));
	assert_true(is_cleaned(f, run));
	pass(f, 3 * DAY);
	assert_null(ef_req(f, CREQ_FORGET, run));
	ef_free(f);
}

static void many_at_once(void **state)
{
	struct ef *f = ef_new(CONF);
	size_t n = 70;
	int64_t at;

	(void)state;
	for (size_t i = 0; i < n; i++)
		(void)ended(f, "{'command': 'ls'}");
	ef_pass(3 * DAY);
	f->en->clean_at = 0;
	at = engine_timer(f->en, 1000);
	assert_int_equal(at, 1000 + USEC_PER_SEC); /* more is to be done */
	ef_quiet(f);
	assert_int_equal(ef_count(f, CREQ_FORGET, 0), 32);
	assert_int_equal(engine_timer(f->en, at - 1), at);
	assert_int_equal(ef_count(f, CREQ_FORGET, 0), 32);
	at = engine_timer(f->en, at);
	ef_quiet(f);
	at = engine_timer(f->en, at);
	ef_quiet(f);
	assert_int_equal(ef_count(f, CREQ_FORGET, 0), n);
	assert_true(at > 1000 + 30 * (int64_t)USEC_PER_SEC); /* a minute later */
	ef_free(f);
}

static void nothing_without_it(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ended(f, "{'command': 'ls'}");

	(void)state;
	ef_pass(100000 * DAY / 100);
	assert_true(engine_timer(f->en, 5) == INT64_MAX);
	assert_false(is_cleaned(f, run));
	ef_free(f);
}

static void no_session_that_is_used(void **state)
{
	struct ef *f = ef_new(CONF);
	struct engine_submit es = { .text = "name=warm", .len = 9, .session = true };
	struct said s = { 0 };
	uint32_t run;

	(void)state;
	engine_submit(f->en, &es, said, &s);
	ef_quiet(f);
	assert_int_equal(s.code, 0);
	run = engine_session(f->en, "warm")->num;
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '77'}");
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	(void)ef_run(f, "{'command': 'ls', 'session': 'warm'}");
	ef_log(f, run, 0, 0, true);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'timeout', 'out_len': 0, 'err_len': 0}");
	pass(f, 3 * DAY);
	assert_true(engine_session_used(f->en, engine_run(f->en, run)));
	assert_false(is_cleaned(f, run));
	ef_free(f);
}

/* All of it was here by `fetch`; then some of it had to go; then `clean`. */
static void what_fetch_brought(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ended(f, "{'command': 'ls'}");
	struct said s, e = { 0 };

	(void)state;
	engine_evicting(f->en, run, said, NULL, &e);
	SAID(&e, 0, ""); /* nobody has asked for all of it: nothing to remember */
	assert_false(ef_busy(f));
	engine_fetch_done(f->en, run, -EHOSTUNREACH, "half");
	ef_quiet(f);
	assert_null(run_fact(engine_run(f->en, run), "fetched"));
	engine_fetch_done(f->en, run, 0, "all");
	ef_quiet(f);
	assert_non_null(run_fact(engine_run(f->en, run), "fetched"));
	engine_fetch_done(f->en, run, 0, "all");
	assert_false(ef_busy(f)); /* once is enough */
	engine_evicting(f->en, run, said, NULL, &e);
	assert_int_equal(e.calls, 0); /* not before it is in the journal */
	ef_quiet(f);
	SAID(&e, 0, "");
	assert_null(run_fact(engine_run(f->en, run), "fetched"));
	ef_reopen(f);
	ef_verb(f, run, "clean", &s);
	FAILED(&s, -EBUSY, "had to make room since (cache_size): `fetch` them again first");
	engine_fetch_done(f->en, run, 0, "all");
	ef_quiet(f);
	ef_verb(f, run, "clean", &s);
	SAID(&s, 0, "");
	assert_true(is_cleaned(f, run));
	ef_purge(f, run, &s);
	SAID(&s, 0, "");
	engine_evicting(f->en, run, said, NULL, &e);
	FAILED(&e, -ENOENT, "purged");
	ef_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(after_its_time),      cmocka_unit_test(not_what_is_needed),
		cmocka_unit_test(killed_at_each_step), cmocka_unit_test(many_at_once),
		cmocka_unit_test(nothing_without_it),  cmocka_unit_test(no_session_that_is_used),
		cmocka_unit_test(what_fetch_brought),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
