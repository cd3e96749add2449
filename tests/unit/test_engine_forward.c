/*
 * Forwards of runs in the engine: who is asked for what, what is remembered, and that the same port is asked for again.
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"

static int setup(void **state)
{
	*state = ef_new("[cluster hpc]\nhost = login\n[defaults]\ncluster = hpc\n");
	return 0;
}

static int teardown(void **state)
{
	ef_free(*state);
	return 0;
}

static uint32_t running_on(struct ef *f, const char *nodes)
{
	uint32_t run = ef_pending_run(f, "{'command': 'sleep 9'}");
	char data[200];

	(void)snprintf(data, sizeof(data), "{'attempt': 1, 'status': 'running', 'nodes': '%s'}", nodes);
	ef_event(f, run, EV_STATE, data);
	STATUS(f, run, "running");
	return run;
}

static void ask(struct ef *f, uint32_t run, const char *line, const char *to, uint64_t port)
{
	struct creq *rq;
	struct said s;

	ef_verb(f, run, line, &s);
	SAID(&s, 0, "");
	rq = ef_req(f, CREQ_FORWARD, run);
	assert_non_null(rq);
	assert_string_equal(rq->arg, to);
	assert_int_equal(rq->offset, port);
}

static void answer_of(struct ef *f, uint32_t run, struct said *s)
{
	memset(s, 0, sizeof(*s));
	engine_verb_answer(f->en, run, said, s);
	ef_quiet(f);
}

static void asked_and_remembered(void **state)
{
	struct ef *f = *state;
	uint32_t run = running_on(f, "gpu[07-09],login");
	struct said s;

	ask(f, run, "forward 8265", "gpu07:8265", 0);
	memset(&s, 0, sizeof(s));
	engine_verb_answer(f->en, run, said, &s);
	assert_int_equal(s.calls, 0);
	ef_answer(f, ef_req(f, CREQ_FORWARD, run), 0, "127.0.0.1:40001", NULL, 0);
	ef_quiet(f);
	SAID(&s, 0, "127.0.0.1:40001");
	assert_string_equal(engine_forwarded(engine_run(f->en, run), "8265"), "127.0.0.1:40001");
	/* Another worker asks for the same port, on what is the first node then. */
	ef_reopen(f);
	assert_non_null(ef_req(f, CREQ_FORWARD, run));
	assert_string_equal(ef_req(f, CREQ_FORWARD, run)->arg, "gpu07:8265");
	assert_int_equal(ef_req(f, CREQ_FORWARD, run)->offset, 40001);
	/* It was taken meanwhile: the new one is remembered. */
	ef_answer(f, ef_req(f, CREQ_FORWARD, run), 0, "127.0.0.1:40002", NULL, 0);
	ef_quiet(f);
	assert_string_equal(engine_forwarded(engine_run(f->en, run), "8265"), "127.0.0.1:40002");
	ef_verb(f, run, "unforward 8265", &s);
	SAID(&s, 0, "");
	assert_string_equal(ef_req(f, CREQ_FORWARD, run)->verb, "unforward");
	ef_quiet(f);
	assert_null(engine_forwarded(engine_run(f->en, run), "8265"));
	ef_reopen(f);
	assert_null(ef_req(f, CREQ_FORWARD, run));
}

static void two_at_once(void **state)
{
	struct ef *f = *state;
	uint32_t run = running_on(f, "a");
	struct creq *first;

	ask(f, run, "forward 1", "a:1", 0);
	first = ef_req(f, CREQ_FORWARD, run);
	ask(f, run, "forward [fe80::2]:2", "[fe80::2]:2", 0);
	ef_answer(f, first, 0, "127.0.0.1:1001", NULL, 0);
	ef_answer(f, ef_req(f, CREQ_FORWARD, run), 0, "127.0.0.1:1002", NULL, 0);
	ef_quiet(f);
	assert_string_equal(engine_forwarded(engine_run(f->en, run), "1"), "127.0.0.1:1001");
	assert_string_equal(engine_forwarded(engine_run(f->en, run), "[fe80::2]:2"), "127.0.0.1:1002");
}

static void refused(void **state)
{
	struct ef *f = *state;
	uint32_t run = running_on(f, ""), pending = ef_pending_run(f, "{'command': 'ls'}");
	struct said s;

	ef_verb(f, pending, "forward 80", &s);
	FAILED(&s, -EBUSY, "not running yet");
	ef_verb(f, run, "forward eighty", &s);
	FAILED(&s, -EINVAL, "PORT or HOST:PORT");
	ef_verb(f, run, "unforward 80", &s);
	FAILED(&s, -ENOENT, "info lists");
	/* Which node? */
	ef_verb(f, run, "forward 80", &s);
	SAID(&s, 0, "");
	answer_of(f, run, &s);
	FAILED(&s, -EBUSY, "forward HOST:PORT");
	/* What the cluster says. */
	ask(f, run, "forward n:80", "n:80", 0);
	ef_answer(f, ef_req(f, CREQ_FORWARD, run), -EMFILE, "no descriptors", NULL, 0);
	answer_of(f, run, &s);
	FAILED(&s, -EMFILE, "no descriptors");
	assert_null(engine_forwarded(engine_run(f->en, run), "n:80"));
}

static void first_nodes(void **state)
{
	static const char *const list[][2] = {
		{ "a", "a" },
		{ "a,b", "a" },
		{ "n[01-04,7],x", "n01" },
		{ "n[3]", "n3" },
		{ "r[1-2]n[5,6]-x,q", "r1n5-x" },
		{ "n[12", "n12" },
		{ "gpu-1.site", "gpu-1.site" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(list); i++) {
		cleanup_free char *first = engine_first_node(list[i][0]);

		assert_string_equal(first, list[i][1]);
	}
	assert_null(engine_first_node(NULL));
	assert_null(engine_first_node(""));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(asked_and_remembered), T(two_at_once), T(refused), T(first_nodes) };

	return cmocka_run_group_tests_name("engine_forward", tests, NULL, NULL);
}
