/*
 * Inputs that are results of other runs: what is said of them when the spec is written, links on the same cluster, the
 * way from one cluster to another by way of this machine, and what a cut or a new worker makes of that. And clean.
 * TEST_SECONDS=5
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"

#include <stdio.h>
#include <sys/stat.h>

#define MIB ((size_t)1024 * 1024)

static char *spool_name(const struct ef *f, uint32_t run, const char *name)
{
	return xasprintf("%s/spool/%u/%s", f->dir, run, name);
}

/* An ended run on `cluster` whose list of results has one file x of this size. */
static uint32_t run_with_result(struct ef *f, const char *cluster, size_t size)
{
	cleanup_free char *spec = xasprintf("{'command': 'ls', 'cluster': '%s'}", cluster);
	uint32_t run = ef_run(f, spec);
	cleanup_free char *name = spool_name(f, run, "manifest");
	cleanup_free char *dir = spool_name(f, run, "");
	FILE *out;

	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '77'}");
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'failed', 'exit_code': 3, 'out_len': 0, 'err_len': 0}");
	(void)mkdir(dir, 0700);
	out = fopen(name, "w");
	assert_non_null(out);
	(void)fprintf(out, "d%c0%c1700000000%c755%cd%c%c", 0, 0, 0, 0, 0, 0);
	(void)fprintf(out, "f%c%zu%c1700000000.5%c640%cd/x%c%c", 0, size, 0, 0, 0, 0, 0);
	assert_int_equal(fclose(out), 0);
	return run;
}

static void refused_when_written(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t live = ef_run(f, "{'command': 'ls'}"), from = run_with_result(f, "hpc", 5);
	struct said s;

	(void)state;
	assert_int_equal(live, 1);
	assert_int_equal(from, 2);
	ef_submit(f, "{'command': 'ls', 'inputs': {'a': 'runs/9/results/d/x'}}", 0, &s);
	FAILED(&s, -EINVAL, "inputs.a: there is no run 9");
	ef_submit(f, "{'command': 'ls', 'inputs': {'a': 'runs/2/results/d/y'}}", 0, &s);
	FAILED(&s, -EINVAL, "inputs.a: run 2 (failed) has no file results/d/y");
	ef_submit(f, "{'command': 'ls', 'inputs': {'a': 'runs/2/results/d'}}", 0, &s);
	FAILED(&s, -EINVAL, "has no file results/d");
	ef_submit(f, "{'command': 'ls', 'inputs': {'a': 'runs/1/results/d/x'}}", 0, &s);
	FAILED(&s, -EINVAL, "inputs.a: run 1 has not ended, it is submitting; wait for it, or say so: afterok=1");
	ef_submit(f, "{'command': 'ls', 'inputs': {'a': '/no/such/file'}}", 0, &s);
	FAILED(&s, -EINVAL, "/no/such/file");
	ef_submit(f, "{'command': 'ls', 'inputs': {'a/b': '/etc/passwd'}}", 0, &s);
	FAILED(&s, -EINVAL, "'a/b' is no name of a file");
	ef_submit(f, "{'command': 'ls', 'inputs': {'a': 'runs/2/results/../x'}}", 0, &s);
	FAILED(&s, -EINVAL, "must be an absolute local path, or runs/ID/results/PATH");
	ef_submit(f, "{'command': 'ls', 'files': ['/etc/passwd'], 'inputs': {'passwd': 'runs/2/results/d/x'}}", 0, &s);
	FAILED(&s, -EINVAL, "would have the same name");
	ef_free(f);
}

static void linked_on_the_same_cluster(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t from = run_with_result(f, "hpc", 5), run;
	const struct creq *q;
	char want[200];

	(void)state;
	run = ef_run(f, "{'command': 'ls', 'inputs': {'a': 'runs/1/results/d/x', 'b': '/etc/passwd'}}");
	q = ef_req(f, CREQ_SUBMIT, run);
	assert_non_null(q);
	assert_int_equal(q->job->n_inputs, 2);
	(void)snprintf(want, sizeof(want), "~/.slurmray/%s/runs/%u/a1/results/d/x", engine_uuid(f->en), from);
	assert_string_equal(q->job->inputs[0].link, want);
	assert_null(job_input_local(&q->job->inputs[0]));
	assert_null(q->job->inputs[1].link);
	assert_string_equal(job_input_local(&q->job->inputs[1]), "/etc/passwd");
	assert_int_equal(ef_count(f, CREQ_READ, from), 0);
	ef_free(f);
}

static void waits_for_the_run_it_names(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t first, run;

	(void)state;
	first = ef_run(f, "{'command': 'ls'}");
	run = ef_run(f, "{'command': 'ls', 'afterany': [1], 'inputs': {'a': 'runs/1/results/d/x'}}");
	assert_null(ef_req(f, CREQ_SUBMIT, run));
	ef_event(f, first, EV_SUBMITTED, "{'attempt': 1, 'job_id': '77'}");
	ef_event(f, first, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'out_len': 0, 'err_len': 0}");
	ef_quiet(f);
	assert_int_equal(engine_run(f->en, run)->status, RUN_REJECTED); /* it left nothing */
	assert_non_null(strstr(engine_run(f->en, run)->why, "run 1 (succeeded) has no file results/d/x"));
	ef_free(f);
}

/* Answers the reads that were asked since `*seen` from a file of `size` bytes whose byte at N is N / 1000. */
static void serve(struct ef *f, uint32_t from, size_t size, size_t *seen, int code)
{
	size_t n = f->n_got;

	for (; *seen < n; (*seen)++) {
		const struct creq *q = f->got[*seen];
		size_t len = (size_t)(size - q->offset < q->length ? size - q->offset : q->length);
		char *data;

		if (q->m.type != (int)CREQ_READ || q->run != from)
			continue;
		data = xmalloc(len + 1);
		for (size_t i = 0; i < len; i++)
			data[i] = (char)((q->offset + i) / 1000);
		ef_answer(f, q, code, code ? "away" : "", data, code ? 0 : len);
		free(data);
	}
}

static void check_staged(const struct ef *f, uint32_t run, size_t size)
{
	cleanup_free char *name = spool_name(f, run, "input.0");
	struct strbuf sb = STRBUF_INIT;
	struct stat st;

	assert_int_equal(stat(name, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(st.st_mtim.tv_sec, 1700000000);
	assert_int_equal(strbuf_read_file(&sb, name, 1u << 30), (ssize_t)size);
	for (size_t i = 0; i < size; i++)
		if (sb.buf[i] != (char)(i / 1000))
			fail_msg("byte %zu", i);
	strbuf_release(&sb);
}

static void brought_from_another_cluster(void **state)
{
	struct ef *f = ef_new(NULL);
	size_t size = 40 * MIB + 17, seen = 0;
	uint32_t from = run_with_result(f, "hpc", size), run;
	cleanup_free char *name = NULL;
	struct engine_progress p;

	(void)state;
	ef_link(f, "hpc", true);
	ef_link(f, "two", true);
	run = ef_run(f, "{'command': 'ls', 'cluster': 'two', 'inputs': {'a': 'runs/1/results/d/x'}}");
	assert_null(ef_req(f, CREQ_SUBMIT, run));
	assert_non_null(strstr(engine_gate(f->en, run), "is on its way from the cluster hpc"));
	assert_int_equal(ef_count(f, CREQ_READ, from), 16); /* together, and no more than that in memory */
	serve(f, from, size, &seen, 0);
	p = engine_progress(f->en, run);
	assert_int_equal(p.input, 16 * MIB);
	assert_int_equal(p.input_all, size);
	/* the link is cut: nothing of what is here is asked for again */
	serve(f, from, size, &seen, -EHOSTUNREACH);
	ef_link(f, "hpc", false);
	assert_null(ef_req(f, CREQ_SUBMIT, run));
	seen = f->n_got;
	ef_link(f, "hpc", true);
	for (size_t i = seen; i < f->n_got; i++)
		assert_true(f->got[i]->m.type != (int)CREQ_READ || f->got[i]->offset >= 16 * MIB);
	/* a new worker goes on, too */
	ef_reopen(f);
	ef_link(f, "hpc", true);
	ef_link(f, "two", true);
	seen = 0;
	while (!ef_req(f, CREQ_SUBMIT, run)) {
		serve(f, from, size, &seen, 0);
		ef_quiet(f);
	}
	check_staged(f, run, size);
	assert_non_null(strstr(job_input_local(&ef_req(f, CREQ_SUBMIT, run)->job->inputs[0]), "/input.0"));
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '78'}");
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	name = spool_name(f, run, "input.0");
	assert_int_equal(access(name, F_OK), -1); /* it is on the cluster */
	ef_free(f);
}

static void that_became_shorter(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t from = run_with_result(f, "hpc", 3 * MIB), run;
	size_t seen = 0;

	(void)state;
	ef_link(f, "hpc", true);
	run = ef_run(f, "{'command': 'ls', 'cluster': 'two', 'inputs': {'a': 'runs/1/results/d/x'}}");
	serve(f, from, 2 * MIB + 5, &seen, 0);
	ef_quiet(f);
	assert_int_equal(engine_run(f->en, run)->status, RUN_REJECTED);
	assert_non_null(strstr(engine_run(f->en, run)->why, "inputs.a: runs/1/results/d/x cannot be read"));
	assert_null(ef_req(f, CREQ_SUBMIT, run));
	ef_free(f);
}

static void clean(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t from = run_with_result(f, "hpc", 5), run;
	struct said s, a = { 0 };

	(void)state;
	ef_log(f, from, 0, 0, true);
	run = ef_run(f, "{'command': 'ls', 'hold': true, 'inputs': {'a': 'runs/1/results/d/x'}}");
	ef_verb(f, from, "clean", &s);
	FAILED(&s, -EBUSY, "a run that has not ended has an input from its results");
	ef_event(f, run, EV_REJECTED, "{'why': 'no'}");
	assert_null(ef_req(f, CREQ_FORGET, from));
	ef_verb(f, from, "clean", &s);
	SAID(&s, 0, "");
	engine_verb_answer(f->en, from, said, &a);
	FAILED(&a, 0, "is being removed");
	assert_non_null(ef_req(f, CREQ_FORGET, from)); /* of the cluster alone: the run stays */
	assert_non_null(engine_run(f->en, from));
	assert_non_null(run_fact(engine_run(f->en, from), "cleaned"));
	ef_submit(f, "{'command': 'ls', 'inputs': {'a': 'runs/1/results/d/x'}}", 0, &s);
	FAILED(&s, -EINVAL, "the results of run 1 were removed from its cluster (clean)");
	ef_free(f);
}

/* rmdir would take away what the other one needs. */
static void no_purge_of_what_is_needed(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t from = run_with_result(f, "hpc", 5), run;
	struct said s;

	(void)state;
	run = ef_run(f, "{'command': 'ls', 'inputs': {'a': 'runs/1/results/d/x'}}");
	ef_purge(f, from, &s);
	FAILED(&s, -EBUSY, "a run that has not ended has an input from its results");
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '78'}");
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	ef_reopen(f);
	ef_purge(f, from, &s);
	FAILED(&s, -EBUSY, "wait for that one, or cancel it first");
	assert_non_null(engine_run(f->en, from));
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	ef_purge(f, from, &s);
	SAID(&s, 0, "");
	assert_null(engine_run(f->en, from));
	ef_free(f);
}

/* What live runs have from others is known to a new worker, too. */
static void clean_after_a_restart(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t from = run_with_result(f, "hpc", 5), run;
	struct said s;

	(void)state;
	ef_log(f, from, 0, 0, true);
	run = ef_run(f, "{'command': 'ls', 'inputs': {'a': 'runs/1/results/d/x'}}");
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '78'}");
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	assert_int_equal(engine_run(f->en, run)->status, RUN_RUNNING);
	ef_reopen(f);
	ef_log(f, from, 0, 0, true);
	ef_verb(f, from, "clean", &s);
	FAILED(&s, -EBUSY, "a run that has not ended has an input from its results");
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	ef_verb(f, from, "clean", &s);
	SAID(&s, 0, "");
	ef_free(f);
}

/* A run that a new worker finds running: what was brought here for it goes with its end. */
static void staged_and_restarted(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t from = run_with_result(f, "hpc", 5), run;
	cleanup_free char *name = NULL;
	size_t seen = 0;

	(void)state;
	ef_link(f, "hpc", true);
	run = ef_run(f, "{'command': 'ls', 'cluster': 'two', 'inputs': {'a': 'runs/1/results/d/x'}}");
	serve(f, from, 5, &seen, 0);
	ef_quiet(f);
	assert_non_null(ef_req(f, CREQ_SUBMIT, run));
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '78'}");
	name = spool_name(f, run, "input.0");
	assert_int_equal(access(name, F_OK), 0);
	ef_reopen(f);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	assert_int_equal(access(name, F_OK), -1);
	ef_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused_when_written),       cmocka_unit_test(linked_on_the_same_cluster),
		cmocka_unit_test(waits_for_the_run_it_names), cmocka_unit_test(brought_from_another_cluster),
		cmocka_unit_test(that_became_shorter),        cmocka_unit_test(clean),
		cmocka_unit_test(clean_after_a_restart),      cmocka_unit_test(staged_and_restarted),
		cmocka_unit_test(no_purge_of_what_is_needed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
