/*
 * The Slurm driver without Slurm: the code it builds, the answers it reads (tests/data/slurm holds recordings of a real
 * one), and its shell functions with stand-ins for sbatch, squeue, scontrol and scancel, which fail as they are told.
 * tests/real/driver.t does the same with Slurm itself.
 */
#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/sched_slurm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define DATA "tests/data/slurm/"
#define OPS (&sched_slurm_ops)

static char *load(const char *name)
{
	cleanup_free char *path = xasprintf(DATA "%s", name);
	struct strbuf sb = STRBUF_INIT;

	if (strbuf_read_file(&sb, path, 1 << 20) < 0)
		fail_msg("cannot read %s (run the tests in the top directory)", path);
	return strbuf_detach(&sb, NULL);
}

/* --- the code --- */

static void check_submit(const struct job *job, size_t files, const char *want)
{
	const struct sched_run run = { .num = 7, .attempt = 2, .uuid = "UU", .directory = "~/.slurmray", .job = job };
	cleanup_strbuf struct strbuf code = STRBUF_INIT;

	OPS->submit(&run, 100, files, &code);
	assert_string_equal(code.buf, want);
}

static void test_submit_code(void **state)
{
	char *opts[] = { "--mem=5", "--comment=mine", "-A", "it's", NULL };
	struct job job = { .name = "a job", .sbatch = opts };

	(void)state;
	check_submit(&job, 0,
		     "sl_submit \"$HOME\"/.slurmray/UU/runs/7/a2 \"$HOME\"/.slurmray/UU/ends slurmray:UU/7/a2 100 0 '' "
		     "'' '' "
		     "--mem=5 --comment=mine -A 'it'\\''s' '--job-name=a job' --no-requeue\n");
	job = (struct job){ .name = "n", .scratch = "/scratch/me", .merged = true, .hold = true, .requeue = true };
	job.output = "out-%j";
	check_submit(&job, 9,
		     "sl_submit \"$HOME\"/.slurmray/UU/runs/7/a2 \"$HOME\"/.slurmray/UU/ends slurmray:UU/7/a2 100 9 "
		     "/scratch/me/UU/runs/7/a2/work work/out-%j - --job-name=n --hold --requeue\n");
	job = (struct job){ .name = "n", .scratch = "~/.slurmray", .workdir = "/w", .output = "/a/%x", .error = "e" };
	check_submit(&job, 0,
		     "sl_submit \"$HOME\"/.slurmray/UU/runs/7/a2 \"$HOME\"/.slurmray/UU/ends slurmray:UU/7/a2 100 0 '' "
		     "/a/%x /w/e "
		     "--job-name=n --no-requeue\n");
	/* directories of relative names up to the first pattern, none outside */
	job = (struct job){ .name = "n", .output = "it's/a/%j/o", .error = "logs/../../e" };
	check_submit(&job, 0,
		     "sl_dirs '' 'it'\\''s/a/' ''\n"
		     "sl_submit \"$HOME\"/.slurmray/UU/runs/7/a2 \"$HOME\"/.slurmray/UU/ends slurmray:UU/7/a2 100 0 '' "
		     "'work/it'\\''s/a/%j/o' work/logs/../../e "
		     "--job-name=n --no-requeue\n");
	job = (struct job){ .name = "n", .workdir = "~/w", .output = "x/o", .merged = true };
	check_submit(&job, 0,
		     "sl_dirs \"$HOME\"/w x/ ''\n"
		     "sl_submit \"$HOME\"/.slurmray/UU/runs/7/a2 \"$HOME\"/.slurmray/UU/ends slurmray:UU/7/a2 100 0 '' "
		     "\"$HOME\"/w/x/o - --job-name=n --no-requeue\n");
}

static void test_other_code(void **state)
{
	const struct job job = { .requeue = true };
	struct sched_run run = { .num = 7, .attempt = 2, .uuid = "UU", .directory = "/d", .job_id = "55" };
	cleanup_strbuf struct strbuf code = STRBUF_INIT;

	(void)state;
	OPS->verify(&run, &code);
	assert_string_equal(code.buf, "sl_verify /d/UU/runs/7/a2 /d/UU/ends/7.a2 slurmray:UU/7/a2 55 0\n");
	strbuf_reset(&code);
	run.job = &job;
	run.token = "slurmray:other/7/a2";
	OPS->verify(&run, &code);
	assert_string_equal(code.buf, "sl_verify /d/UU/runs/7/a2 /d/UU/ends/7.a2 slurmray:other/7/a2 55 1\n");
	strbuf_reset(&code);
	OPS->poll(&code);
	assert_string_equal(code.buf, "st_queue\n");
	assert_string_equal(OPS->name, "slurm");
}

/* A step of a session: the same questions, asked of the session's job. */
static void test_step_code(void **state)
{
	struct job job = { .name = "n", .ntasks = 2, .cpus_per_task = 3, .grace_s = 4, .grace_said = true };
	struct sched_run run = {
		.num = 8, .attempt = 1, .uuid = "UU", .directory = "/d", .job_id = "55.s8", .job = &job
	};
	cleanup_strbuf struct strbuf code = STRBUF_INIT;
	struct err e = ERR_INIT;
	char id[] = "55", other[] = "OO";

	job.mem_bytes = (1 << 20) + 1;
	job.gpus = 3;

	(void)state;
	job.holder.num = 7;
	job.holder.attempt = 2;
	job.holder.job_id = id;
	OPS->submit(&run, 100, 9, &code);
	assert_string_equal(code.buf, "st_submit /d/UU/runs/8/a1 /d/UU/ends slurmray:UU/8/a1 100 9 '' /d/UU/runs/7/a2 "
				      "55.s8 '8/a1 6 0 2 3 2'\n");
	assert_true(OPS->alone(&(struct job){ 0 }));
	assert_false(OPS->alone(&job));
	strbuf_reset(&code);
	OPS->verify(&run, &code);
	assert_string_equal(code.buf,
			    "st_verify /d/UU/runs/8/a1 /d/UU/ends/8.a1 8/a1 /d/UU/runs/7/a2 slurmray:UU/7/a2 55 "
			    "'6 0 2 3 2'\n");
	strbuf_reset(&code);
	assert_int_equal(OPS->verb(&run, "cancel", NULL, &code, &e), 0);
	assert_string_equal(code.buf,
			    "st_verb cancel /d/UU/runs/8/a1 8/a1 /d/UU/runs/7/a2 slurmray:UU/7/a2 55 55.s8 4\n");
	strbuf_reset(&code);
	assert_int_equal(OPS->verb(&run, "signal", "SIGUSR1", &code, &e), 0);
	assert_non_null(strstr(code.buf, " 55.s8 USR1\n"));
	assert_int_equal(OPS->verb(&run, "hold", NULL, &code, &e), -EINVAL);
	assert_non_null(strstr(e.text, "a run in a session cannot do that"));
	/* one whose session has lost its job */
	job.holder.num = 0;
	job.session = id;
	strbuf_reset(&code);
	OPS->submit(&run, 100, 9, &code);
	assert_string_equal(code.buf, "st_homeless /d/UU/runs/8/a1 \n");
	job.holder.num = 7;
	/* the same in a session of another state directory */
	run.uuid = "UU-1";
	job.holder.uuid = other;
	strbuf_reset(&code);
	OPS->submit(&run, 100, 9, &code);
	assert_string_equal(code.buf, "st_submit /d/UU-1/runs/8/a1 /d/UU-1/ends slurmray:UU-1/8/a1 100 9 '' "
				      "/d/OO/runs/7/a2 55.s8.UU 'UU-1:8/a1 6 0 2 3 2'\n");
	strbuf_reset(&code);
	assert_int_equal(OPS->verb(&run, "cancel", NULL, &code, &e), 0);
	assert_string_equal(code.buf, "st_verb cancel /d/UU-1/runs/8/a1 UU-1:8/a1 /d/OO/runs/7/a2 slurmray:OO/7/a2 55 "
				      "55.s8.UU 4\n");
}

/* A session that is shared by its name asks for the others' first; what makes it what it is has a print. */
static void test_shared_code(void **state)
{
	char name[] = "warm", nodes[] = "--nodes=2", *sbatch[] = { nodes, NULL };
	struct job job = { .name = name, .sbatch = sbatch, .share = SHARE_BEGIN, .idle_s = 60 };
	const struct sched_run run = { .num = 8, .attempt = 1, .uuid = "UU", .directory = "~/d", .job = &job };
	cleanup_strbuf struct strbuf a = STRBUF_INIT, b = STRBUF_INIT, why = STRBUF_INIT;
	char id[64], *uuid = NULL;
	uint32_t num, attempt;

	(void)state;
	OPS->submit(&run, 100, 0, &a);
	assert_int_equal(strncmp(a.buf, "st_share \"$HOME\"/d UU/8/a1/", 27), 0);
	assert_non_null(strstr(a.buf, " warm 0 || sl_submit "));
	OPS->submit(&run, 100, 0, &b);
	assert_string_equal(a.buf, b.buf);
	strbuf_reset(&b);
	nodes[8] = '3';
	OPS->submit(&run, 100, 0, &b);
	assert_string_not_equal(a.buf, b.buf);
	strbuf_reset(&b);
	job.share = SHARE_ATTACH;
	OPS->submit(&run, 100, 0, &b);
	assert_non_null(strstr(b.buf, " warm 1 || sl_submit "));
	assert_int_equal(OPS->submit_result(0, "ok 55\nshared 0a-b/7/a2\n", "", id, sizeof(id), &why), SCHED_OK);
	assert_string_equal(id, "55");
	assert_int_equal(OPS->submit_result(0, "ok 55.s8.0a1b2c3d\n", "", id, sizeof(id), &why), SCHED_OK);
	assert_string_equal(id, "55.s8.0a1b2c3d");
	assert_true(job_shared_parse("0a-b/7/a2", &uuid, &num, &attempt));
	assert_string_equal(uuid, "0a-b");
	assert_int_equal(num, 7);
	assert_int_equal(attempt, 2);
	free(uuid);
	assert_false(job_shared_parse("0a-b/7", &uuid, &num, &attempt));
	assert_false(job_shared_parse("/7/a2", &uuid, &num, &attempt));
	assert_false(job_shared_parse("0a/x/a2", &uuid, &num, &attempt));
	assert_false(job_shared_parse("0a/7/a2/3", &uuid, &num, &attempt));
	assert_false(job_shared_parse("0a/7/a0", &uuid, &num, &attempt));
}

/* Many steps in one request, and what is said of each. */
static void test_steps_code(void **state)
{
	static const char out[] = "run 8/a1\nok 55.s8\nrun 80/a1\nunsure\nno space\nrun 9/a2\nvoid\n";
	char id[] = "55";
	struct job job = { .ntasks = 1,
			   .cpus_per_task = 2,
			   .gpus = -1,
			   .merged = true,
			   .holder = { .num = 7, .attempt = 2, .job_id = id } };
	struct sched_run runs[] = { { .num = 8, .attempt = 1, .uuid = "UU", .directory = "~/d e", .job = &job },
				    { .num = 9, .attempt = 2, .uuid = "UU", .directory = "~/d e", .job = &job },
				    { .num = 80, .attempt = 1 },
				    { .num = 10, .attempt = 1 } };
	static const char *const answers[] = { "ok 55.s8", "void\n", "unsure\nno space", "" };
	cleanup_strbuf struct strbuf code = STRBUF_INIT;

	(void)state;
	OPS->submit_many(runs, (const size_t[]){ 100, 200 }, 2, &code);
	assert_string_equal(code.buf,
			    "st_many \"$HOME\"/'d e/UU/runs/7/a2' \"$HOME\"/'d e/UU/ends' \"$HOME\"/'d e/UU' 55  "
			    "'8/a1:100:2 1 0 - 1' '9/a2:200:2 1 0 - 1'\n");
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		const char *answer;
		size_t len = OPS->submit_answer(out, &runs[i], &answer);

		assert_int_equal(len, strlen(answers[i]));
		assert_memory_equal(answer, answers[i], len);
	}
	assert_int_equal(OPS->submit_answer("run 8/a1\nok 55.s", runs, &(const char *){ NULL }), 0); /* cut */
	job.scratch = (char[]){ "/fast" };
	job.directory = (char[]){ "/d" };
	assert_true(OPS->alone(&job));
}

struct verb_case {
	const char *verb, *arg, *word; /* word: NULL: refused */
	int code;
};

static void test_verb_code(void **state)
{
	static const struct verb_case cases[] = {
		{ "cancel", NULL, "''", 0 },
		{ "hold", "", "''", 0 },
		{ "signal", "USR1", "USR1", 0 },
		{ "signal", "sigusr2", "USR2", 0 },
		{ "signal", "15", "TERM", 0 },
		{ "signal", "19", "19", 0 },
		{ "signal", "", NULL, -EINVAL },
		{ "signal", "USR1 -M x", NULL, -EINVAL },
		{ "signal", "$(reboot)", NULL, -EINVAL },
		{ "update", "time=2:00:00", "TimeLimit=2:00:00", 0 },
		{ "update", "TIME=5", "TimeLimit=5", 0 },
		{ "update", "Partition=long", "Partition=long", 0 },
		{ "update", "name=it's here", "'JobName=it'\\''s here'", 0 },
		{ "update", "time", NULL, -EINVAL },
		{ "update", "time=", NULL, -EINVAL },
		{ "update", "=5", NULL, -EINVAL },
		{ "update", "ti me=5", NULL, -EINVAL },
		{ "update", "time=5\nx", NULL, -EINVAL },
		{ "update", "comment=x", NULL, -EINVAL },
		{ "update", "Requeue=1", NULL, -EINVAL },
		{ "update", "com=x", NULL, -EINVAL },
		{ "update", "W=/tmp", NULL, -EINVAL },
		{ "update", "stdo=/tmp/x", NULL, -EINVAL },
		{ "update", "JobName=x", "JobName=x", 0 },
		{ "update", "jobid=1", NULL, -EINVAL },
		{ "dance", NULL, NULL, -EINVAL },
	};
	const struct sched_run run = { .num = 7, .attempt = 2, .uuid = "UU", .directory = "/d", .job_id = "55" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct verb_case *c = &cases[i];
		cleanup_strbuf struct strbuf code = STRBUF_INIT;
		cleanup_free char *want = NULL;
		struct err e = ERR_INIT;

		assert_int_equal(OPS->verb(&run, c->verb, c->arg, &code, &e), c->code);
		if (!c->word) {
			assert_true(e.text[0]);
			assert_int_equal(code.len, 0);
			continue;
		}
		want = xasprintf("sl_verb %s /d/UU/runs/7/a2 slurmray:UU/7/a2 55 0 %s\n", c->verb, c->word);
		assert_string_equal(code.buf, want);
	}
}

static void test_cancel_with_grace(void **state)
{
	struct job job = { .grace_s = 10 };
	struct sched_run run = { .num = 7, .attempt = 2, .uuid = "UU", .directory = "/d", .job_id = "55", .job = &job };
	cleanup_strbuf struct strbuf code = STRBUF_INIT;

	(void)state;
	assert_int_equal(OPS->verb(&run, "cancel", NULL, &code, NULL), 0);
	assert_string_equal(code.buf, "sl_verb cancel /d/UU/runs/7/a2 slurmray:UU/7/a2 55 0 ''\n");
	strbuf_reset(&code);
	job.grace_said = true;
	assert_int_equal(OPS->verb(&run, "cancel", NULL, &code, NULL), 0);
	assert_string_equal(code.buf, "sl_verb cancel /d/UU/runs/7/a2 slurmray:UU/7/a2 55 0 10\n");
	assert_int_equal(OPS->verb_result("cancel", 0, "ok\nagain 10\n", "", NULL), 10);
	assert_int_equal(OPS->verb_result("cancel", 0, "ok\nagain 99999999999\n", "", NULL), INT_MAX);
	assert_int_equal(OPS->verb_result("cancel", 0, "ok\nagain x\n", "", NULL), 0);
	assert_int_equal(OPS->verb_result("cancel", 0, "ok\n", "", NULL), 0);
	assert_int_equal(OPS->verb_result("hold", 0, "ok\nagain 10\n", "", NULL), 0);
}

static void test_verb_before_submission(void **state)
{
	const struct sched_run run = { .num = 7, .attempt = 2, .uuid = "UU", .directory = "/d" };
	cleanup_strbuf struct strbuf code = STRBUF_INIT;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(OPS->verb(&run, "hold", NULL, &code, &e), -EBUSY);
	assert_int_equal(OPS->verb(&run, "cancel", NULL, &code, &e), 0);
	assert_string_equal(code.buf, "sl_verb cancel /d/UU/runs/7/a2 slurmray:UU/7/a2 '' 0 ''\n");
}

/* --- answers --- */

static void check_submit_result(int rc, const char *out, const char *err, enum sched_verdict want, const char *id,
				const char *why_want)
{
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	char job_id[12] = "";

	assert_int_equal(OPS->submit_result(rc, out, err, job_id, sizeof(job_id), &why), want);
	assert_string_equal(job_id, id);
	assert_string_equal(why.buf, why_want);
}

static void test_submit_result(void **state)
{
	(void)state;
	check_submit_result(0, "ok 123\n", "", SCHED_OK, "123", "");
	check_submit_result(0, "ok 123\nsbatch: error: can't run 1 processes on 2 nodes\n", "", SCHED_OK, "123",
			    "can't run 1 processes on 2 nodes");
	check_submit_result(0, "void\n", "", SCHED_VOID, "", "");
	check_submit_result(0, "refused\nsbatch: error: a\nsbatch: error: b\n", "", SCHED_REFUSED, "", "a; b");
	check_submit_result(0, "refused\n", "", SCHED_REFUSED, "", "sbatch refused the job and gave no reason");
	check_submit_result(0, "unsure\nslurm_load_jobs error: x\n", "", SCHED_UNSURE, "", "slurm_load_jobs error: x");
	check_submit_result(124, "", "", SCHED_UNSURE, "", "sbatch did not answer in time");
	check_submit_result(127, "", "sh: sl_submit: not found\n", SCHED_UNSURE, "", "sh: sl_submit: not found");
	check_submit_result(1, "", "", SCHED_UNSURE, "", "the submission ended with code 1 and said nothing");
	check_submit_result(0, "ok \n", "", SCHED_UNSURE, "", "the submission ended with code 0 and said nothing");
	check_submit_result(0, "ok 12x\n", "", SCHED_UNSURE, "", "the submission ended with code 0 and said nothing");
	check_submit_result(0, "ok 123456789012345\n", "", SCHED_UNSURE, "",
			    "the submission ended with code 0 and said nothing"); /* does not fit */
	check_submit_result(0, "okay\n", "", SCHED_UNSURE, "", "the submission ended with code 0 and said nothing");
	check_submit_result(0, "voidance\n", "", SCHED_UNSURE, "", "the submission ended with code 0 and said nothing");
}

static void add_row(void *arg, const struct sched_row *row)
{
	assert_int_equal(row->exit_code, -1);
	assert_int_equal(row->exit_signal, -1);
	strbuf_addf(arg, "%s %s %s %s r=%s n=%s s=%lld\n", row->job_id, row->token, row->state,
		    row->run_status ? row->run_status : "alive", row->reason, row->nodes, (long long)row->start);
}

static void test_poll(void **state)
{
	cleanup_strbuf struct strbuf rows = STRBUF_INIT;
	cleanup_free char *out = load("poll-many");

	(void)state;
	assert_int_equal(OPS->poll_result(0, out, "", add_row, &rows, NULL), 0);
	assert_non_null(strstr(rows.buf, " COMPLETED succeeded r= n=n1 "));
	assert_non_null(strstr(rows.buf, " CANCELLED cancelled r=Priority n= s="));
	assert_non_null(strstr(rows.buf, " NODE_FAIL node_failed r=NodeDown n=n4 "));
	assert_non_null(strstr(rows.buf, "\n200 slurmray:0123abcd/90/a1 PENDING pending r=Resources n= s=0\n"
					 "200 slurmray:0123abcd/90/a1 RUNNING running r= n=n2 s=1795231000\n"
					 "210 slurmray:0123abcd/91/a1 RUNNING running r= n=n[1-2] s=1795231000\n"
					 "220 slurmray:0123abcd/92/a3 COMPLETING completing r= n=n3 s=1795231000\n"
					 "222 slurmray:0123abcd/93/a1 EXPEDITING alive r= n=n3 s=1795231000\n"));
	assert_null(strstr(rows.buf, "221")); /* somebody else's */
}

static void take_counts(void *arg, const struct sched_row *row)
{
	strbuf_addf(arg, "%s %lld %lld %lld\n", row->job_id, (long long)row->start, (long long)row->node_count,
		    (long long)row->cpus);
}

static void test_poll_numbers(void **state)
{
	cleanup_strbuf struct strbuf rows = STRBUF_INIT;

	(void)state;
	assert_int_equal(OPS->poll_result(0,
					  "1|RUNNING|None|n[1-2]|1000 2 8|slurmray:u/1/a1|/d\n"
					  "2|PENDING|Priority||N/A 4 16|slurmray:u/2/a1|/d\n"
					  "3|RUNNING|None|n1|1000|slurmray:u/3/a1|/d\n"
					  "4|RUNNING|None|n1|1000 1.2K 3M|slurmray:u/4/a1|/d\n",
					  "", take_counts, &rows, NULL),
			 0);
	assert_string_equal(rows.buf, "1 1000 2 8\n2 0 4 16\n3 1000 0 0\n4 1000 0 0\n");
}

static void take_runner(void *arg, const struct sched_row *row)
{
	if (row->runner)
		strbuf_addf(arg, "%s %s %lld %s\n", row->job_id, row->token, (long long)row->now, row->runner);
	else
		strbuf_addf(arg, "%s until %lld\n", row->job_id, (long long)row->end);
}

static void test_poll_sessions(void **state)
{
	cleanup_strbuf struct strbuf rows = STRBUF_INIT;

	(void)state;
	assert_int_equal(OPS->poll_result(0,
					  "1|RUNNING|None|n[1-2]|1000 2 8 4600|slurmray:u/1/a1|/d\n"
					  "2|RUNNING|None|n1|1000 1 1 NONE|slurmray:u/2/a1|/d\n"
					  "1.s3|RUNNING|||1010 0 0|slurmray:u/3/a1|\n"
					  "@1|slurmray:u/1/a1|1020|nodes n1 n2;beat 1015;lost n2;\n"
					  "@2|slurmray:u/2/a1|1020|\n"
					  "@3|cut off\n",
					  "", take_runner, &rows, NULL),
			 0);
	assert_string_equal(rows.buf, "1 until 4600\n2 until 0\n1.s3 until 0\n"
				      "1 slurmray:u/1/a1 1020 nodes n1 n2;beat 1015;lost n2;\n"
				      "2 slurmray:u/2/a1 1020 \n");
}

static void test_sacct_numbers(void **state)
{
	static const struct {
		const char *text;
		int64_t bytes, us;
	} rows[] = {
		{ "", -1, -1 },
		{ "0", 0, 0 },
		{ "512", 512, 512000000 },
		{ "214380K", INT64_C(214380) << 10, -1 },
		{ "316.07M", 331423416, -1 },
		{ "1.5G", INT64_C(3) << 29, -1 },
		{ "2T", INT64_C(1) << 41, -1 },
		{ "9999999999P", -1, -1 },
		{ "12X", -1, -1 },
		{ "12KB", -1, -1 },
		{ "00:04.945", -1, 4945000 },
		{ "01:02:03", -1, 3723000000 },
		{ "1-02:03:04", -1, 93784000000 },
		{ "1:", -1, -1 },
		{ ":5", -1, -1 },
		{ "1000000-00:00:00", -1, INT64_C(86400000000000000) },
		{ "1000000000-00:00:00", -1, -1 },
		{ "99999999999999999999", -1, -1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		if (slurm_bytes(rows[i].text) != rows[i].bytes || slurm_cpu_us(rows[i].text) != rows[i].us)
			fail_msg("%s: %lld bytes, %lld us", rows[i].text, (long long)slurm_bytes(rows[i].text),
				 (long long)slurm_cpu_us(rows[i].text));
	}
}

static void add_usage(void *arg, const struct sched_usage *u)
{
	strbuf_addf(arg, "%s %s %lld %lld %d\n", u->job_id, u->token, (long long)u->max_rss, (long long)u->cpu_us,
		    u->ended);
}

static void test_usage(void **state)
{
	const struct sched_run runs[] = { { .job_id = "12" }, { .job_id = "13_4" }, { .job_id = "5" } };
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	struct err e = ERR_INIT;

	(void)state;
	OPS->usage(runs, ARRAY_SIZE(runs), &sb);
	assert_string_equal(sb.buf, "sl_usage 12,13,5\n");
	strbuf_reset(&sb);
	assert_int_equal(OPS->usage_result(0,
					   "1.batch|COMPLETED|00:09|5K||\n"
					   "2|COMPLETED|00:04.945|||/h/UU/runs/7/a1\n"
					   "2.batch|COMPLETED|00:02.907|323652K||\n"
					   "2.0|COMPLETED|00:02.038|115808K||\n"
					   "3|COMPLETED|00:00.002||slurmray:u/8/a1|/x\n"
					   "3.batch|COMPLETED|00:00.002|||\n"
					   "4|RUNNING|00:00:00||slurmray:u/9/a1|/x\n"
					   "4.batch|RUNNING|00:00:00|||\n"
					   "5|CANCELLED by 0|00:00:00||slurmray:u/10/a1|/x\n"
					   "6|FAILED|01:00:00||slurmray:u/11/a1|/x\n"
					   "6.batch|FAILED|01:00:00|1.5G||\n6.0|RUNNING||||\n"
					   "7|COMPLETED|00:01||another's|/x\n7.batch|COMPLETED|00:01|9K||\nrubbish\n",
					   "", add_usage, &sb, &e),
			 0);
	assert_string_equal(sb.buf, "2 slurmray:UU/7/a1 331419648 4945000 1\n"
				    "3 slurmray:u/8/a1 -1 2000 1\n"
				    "4 slurmray:u/9/a1 -1 0 0\n"
				    "6 slurmray:u/11/a1 1610612736 3600000000 0\n");
	assert_int_equal(OPS->usage_result(1, "", "Slurm accounting storage is disabled\n", NULL, NULL, &e), -ENOTSUP);
	assert_int_equal(OPS->usage_result(127, "", "sacct: command not found\n", NULL, NULL, &e), -ENOTSUP);
	assert_int_equal(OPS->usage_result(1, "", "sacct: error: slurm_persist_conn_open: timed out\n", NULL, NULL, &e),
			 -EAGAIN);
	assert_int_equal(OPS->usage_result(124, "", "", NULL, NULL, &e), -EAGAIN);
}

static void test_poll_odd_rows(void **state)
{
	cleanup_strbuf struct strbuf rows = STRBUF_INIT;

	(void)state;
	assert_int_equal(OPS->poll_result(0, "", "", add_row, &rows, NULL), 0);
	assert_int_equal(OPS->poll_result(0,
					  "banner\n"
					  "x|RUNNING|None|n1|1|slurmray:u/1/a1|/d\n"
					  "|RUNNING|None|n1|1|slurmray:u/1/a1|/d\n"
					  "12-3|RUNNING|None|n1|1|slurmray:u/1/a1|/d\n"
					  "12|RUNNING|None|n1\n"
					  "13|RUNNING|None|n1|1|no token|/u/runs/1/b1\n"
					  "14|RUNNING|None|n1|1|no token|u/runs/1/a1\n"
					  "15|RUNNING|None|n1|1|no token|//runs/1/a1\n"
					  "16|RUNNING|None|n1|1|no token|/u/runs/x/a1\n"
					  "17|RUNNING|None|n1|1|no token|/u/runs/1/a0\n"
					  "18|RUNNING|None|n1|1|no token\n",
					  "", add_row, &rows, NULL),
			 0);
	assert_string_equal(rows.buf, "");
	assert_int_equal(OPS->poll_result(0, "12|SUSPENDED|None|n1|1|slurmray:u/1/a1|/d\n", "", add_row, &rows, NULL),
			 0);
	assert_non_null(strstr(rows.buf, "SUSPENDED running r=suspended by an administrator or by the scheduler"));
}

static void test_poll_failed(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(
		OPS->poll_result(1, "12|RUNNING|None|n1|1|slurmray:u/1/a1|/d\n",
				 "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n",
				 add_row, NULL, &e),
		-EAGAIN);
	assert_string_equal(e.text,
			    "squeue: slurm_load_jobs error: Unable to contact slurm controller (connect failure)");
	assert_int_equal(OPS->poll_result(124, "", "", add_row, NULL, &e), -EAGAIN);
	assert_string_equal(e.text, "squeue did not answer in time");
}

static void test_state_words(void **state)
{
	static const char *const ends[] = { "COMPLETED",  "FAILED",   "CANCELLED",    "CANCELLED by 1000",
					    "CANCELLED+", "TIMEOUT",  "NODE_FAIL",    "PREEMPTED",
					    "BOOT_FAIL",  "DEADLINE", "OUT_OF_MEMORY" };
	static const char *const alive[] = { "PENDING",      "RUNNING",      "SUSPENDED", "COMPLETING", "CONFIGURING",
					     "REQUEUED",     "REQUEUE_HOLD", "STAGE_OUT", "RESIZING",   "SIGNALING",
					     "SPECIAL_EXIT", "STOPPED",      "REVOKED",   "EXPEDITING", "",
					     "COMPLETEDX",   "COMPLET" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		assert_true(slurm_status_ended(slurm_status(ends[i])));
	for (size_t i = 0; i < ARRAY_SIZE(alive); i++)
		assert_false(slurm_status_ended(slurm_status(alive[i])));
}

struct verify_case {
	const char *file, *job_id;
	uint32_t num;
	const char *want; /* event, status, exit code, signal: "-" no event */
	const char *why;  /* part of it */
};

static void check_verify(const struct verify_case *c, const char *text, bool requeue)
{
	const struct job job = { .requeue = requeue };
	const struct sched_run run = {
		.num = c->num, .attempt = 1, .uuid = "0123abcd", .directory = "/d", .job_id = c->job_id, .job = &job
	};
	struct event *ev = OPS->verify_result(&run, 0, text, "", 99);
	cleanup_free char *got = ev ? xasprintf("%s %s %lld %lld", event_name(ev->type),
						event_str(ev, "status") ? event_str(ev, "status") : "-",
						event_int(ev, "exit_code", -1), event_int(ev, "signal", 0))
				    : xstrdup("-");

	if (strcmp(got, c->want) != 0)
		fail_msg("%s: %s instead of %s", c->file, got, c->want);
	if (c->why && (!ev || !event_str(ev, "why") || !strstr(event_str(ev, "why"), c->why)))
		fail_msg("%s: why is '%s'", c->file, ev ? event_str(ev, "why") : "");
	if (ev) {
		assert_int_equal(ev->time, 99);
		assert_int_equal(event_int(ev, "attempt", 0), 1);
		assert_non_null(event_str(ev, "source"));
	}
	event_free(ev);
}

static void test_verify_recordings(void **state)
{
	static const struct verify_case cases[] = {
		{ "verify-failed-3", "98", 49, "end failed 3 0", "exited with code 3" },
		{ "verify-completed-no-record", "4", 5, "end succeeded 0 0", "no exit record" },
		{ "verify-failed-no-record", "5", 6, "end failed 1 0",
		  "exited with code 1; the scheduler says FAILED" },
		{ "verify-killed", "7", 8, "end failed -1 9", "killed by signal 9" },
		{ "verify-launch-failure", "8", 9, "end failed -1 0", "could not be started" },
		{ "verify-cancelled", "9", 10, "end cancelled 143 15", "cancelled; killed by SIGTERM (143)" },
		{ "verify-cancelled-pending", "10", 11, "end cancelled -1 0", "before it started" },
		{ "verify-node-fail", "86", 41, "end node_failed -1 0", "a node that it ran on failed" },
		{ "verify-requeued", "83", 38, "end node_failed -1 0", "does not start a job twice" },
		{ "verify-requeue-granted", "85", 40, "state pending -1 0", NULL },
		{ "verify-unreachable", "87", 42, "-", NULL },
		{ "verify-other-job", "87", 42, "end failed 3 0", "exited with code 3" },
		{ "verify-sacct-failed", "1", 1, "end failed 7 0", "exited with code 7" },
		{ "verify-sacct-cancelled", "2", 2, "end cancelled -1 0", "CANCELLED by 0" },
		{ "verify-lost", "99", 51, "lost - -1 0", "lost the job before it started" },
		{ "verify-vanished", "888888", 52, "end cancelled -1 0", "vanished before it started" },
		{ "verify-forgotten-started", "2", 53, "end failed -1 0", "cause unknown" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_free char *text = load(cases[i].file);

		check_verify(&cases[i], text, false);
	}
}

/* A witness that is cut anywhere is no witness. */
static void test_verify_cut(void **state)
{
	static const struct verify_case c = { "cut", "98", 49, "-", NULL };
	cleanup_free char *text = load("verify-failed-3");
	size_t len = strlen(text);

	(void)state;
	for (size_t n = 0; n + 4 < len; n += 7) {
		cleanup_free char *part = xstrndup(text, n);

		check_verify(&c, part, false);
	}
}

#define JOB(state, code) JOB_AGAIN(state, code, "0")
#define JOB_AGAIN(state, code, restarts)                                                                               \
	"job JobId=5 JobName=x JobState=COMPLETED\njob    JobState=" state " Reason=None Dependency=(null)\n"          \
	"job    Requeue=0 Restarts=" restarts " BatchFlag=1 Reboot=0 ExitCode=" code "\n"                              \
	"job    StartTime=1000 EndTime=1010 Deadline=N/A\njob    NodeList=n[1-2]\njob-rc known\n"
#define WITNESS(rest) "witness 1\nqueue-rc 0\nqueue \n" rest "end\n"
#define RECORD(rc, sig)                                                                                                \
	"record v=1 run=7 attempt=1 job=5 rc=" rc " sig=" sig                                                          \
	" start=1 end=2 out=3 err=4 restart=0 manifest=1 maxrss=- cpu=- host=h limit=-\n"
#define SACCT(state, code)                                                                                             \
	"job \njob-rc unknown\nsacct-rc 0\nsacct 5|" state "|" code "|0:0|1000|1010|n1||slurmray:0123abcd/7/a1|/d\n"   \
	"sacct 5.batch|" state "|" code "||1000|1010|n1|214380K||\nsacct 5.0|COMPLETED|0:0||1000|1010|n1|2G||\n"

static void test_verify_made_up(void **state)
{
	static const struct {
		const char *text, *want, *why;
	} cases[] = {
		/* the state is the class, the record the code */
		{ WITNESS(JOB("TIMEOUT", "0:0") RECORD("143", "TERM") "started 5\n"), "end timeout 143 15",
		  "time limit" },
		{ WITNESS(JOB("TIMEOUT", "0:0") RECORD("0", "TERM") "started 5\n"), "end timeout 0 0", "time limit" },
		{ WITNESS(JOB("TIMEOUT", "0:15") "started 5\n"), "end timeout -1 15", "reached its time limit" },
		{ WITNESS(JOB("DEADLINE", "0:0") "started void\n"), "end timeout -1 0", NULL },
		{ WITNESS(JOB("OUT_OF_MEMORY", "0:125") RECORD("137", "-") "started 5\n"), "end out_of_memory 137 9",
		  NULL },
		{ WITNESS(JOB("PREEMPTED", "143:0") "started 5\n"), "end preempted 143 0", "another job" },
		{ WITNESS(JOB("BOOT_FAIL", "0:0") "started void\n"), "end node_failed -1 0", NULL },
		{ WITNESS(JOB("NODE_FAIL", "0:0") RECORD("0", "-") "started 5\n"), "end succeeded 0 0", NULL },
		{ WITNESS(JOB("COMPLETED", "0:0") "started 5\n"), "end succeeded 0 0", "left no exit record" },
		/* the guard refused: it ends with 0 */
		{ WITNESS(JOB("COMPLETED", "0:0") "started void\n"), "lost - -1 0", "before its script could begin" },
		{ WITNESS(JOB("COMPLETED", "0:0") "started void\ncancelled 1\n"), "end cancelled -1 0", NULL },
		{ WITNESS(JOB("COMPLETED", "0:0") "started 5\nrefused 99 job 5: restart 1 has no grant\n"),
		  "end node_failed -1 0", "does not start a job twice" },
		{ WITNESS(JOB("COMPLETED", "0:0") "started 5\nrefused 99 job 5: it began before\n"),
		  "end node_failed -1 0", NULL },
		{ WITNESS(JOB("COMPLETED", "0:0") "started 5\nrefused 99 job 55: claim is 5\n"), "end succeeded 0 0",
		  NULL },
		/* alive */
		{ WITNESS(JOB("RUNNING", "0:0") "started 5\n"), "state running -1 0", NULL },
		{ WITNESS(JOB("COMPLETING", "0:0") "started 5\n"), "state completing -1 0", NULL },
		/* it has written its record, and the scheduler is not through yet */
		{ WITNESS(JOB("COMPLETING", "0:0") RECORD("0", "-") "started 5\n"), "-", NULL },
		{ WITNESS(JOB("RUNNING", "0:0") RECORD("143", "TERM") "started 5\n"), "-", NULL },
		{ WITNESS(JOB("EXPEDITING", "0:0")), "-", NULL },
		/* requeued, with a record of the first start */
		{ WITNESS(JOB("PENDING", "0:0") RECORD("0", "-") "started 5\nrequeued 1\n"), "end succeeded 0 0",
		  NULL },
		{ WITNESS(JOB("PENDING", "0:0") RECORD("143", "TERM") "started 5\nrequeued 1\n"),
		  "end node_failed 143 15", "does not start a job twice" },
		{ WITNESS("job \njob-rc unknown\nstarted 5\nrequeued 1\n"), "end node_failed -1 0",
		  "does not start a job twice" },
		/* requeued as it may be: the record is of the first start */
		{ WITNESS(JOB_AGAIN("PENDING", "0:0", "1") RECORD("143", "TERM") "started 5\n"), "state pending -1 0",
		  NULL },
		{ WITNESS(JOB_AGAIN("RUNNING", "0:0", "1") RECORD("143", "TERM") "started 5\n"), "state running -1 0",
		  NULL },
		{ WITNESS(JOB_AGAIN("TIMEOUT", "0:15", "1") RECORD("143", "TERM") "started 5\n"), "end timeout -1 15",
		  NULL },
		/* told to end by cancel with a grace period: only signalled, for Slurm */
		{ WITNESS(JOB("FAILED", "0:9") "started 5\ncancelled 1\n"), "end cancelled -1 9",
		  "cancelled; it took SIGKILL" },
		{ WITNESS(JOB("FAILED", "143:0") "started 5\ncancelled 1\n"), "end cancelled 143 0", "cancelled" },
		{ WITNESS(JOB("FAILED", "0:9") "started 5\n"), "end failed -1 9", "killed by signal 9" },
		{ WITNESS(JOB("FAILED", "3:0") "started 5\ncancelled 1\n"), "end failed 3 0", NULL },
		/* its script ended before the guard: that is not the command's code */
		{ WITNESS(JOB("FAILED", "66:0") "started void\n"), "end failed -1 0",
		  "cannot enter the run's control directory" },
		{ WITNESS(JOB("FAILED", "2:0") "started void\n"), "end failed -1 0",
		  "before the job's command could begin" },
		{ WITNESS(JOB("FAILED", "66:0") "started 5\n"), "end failed 66 0", "exited with code 66" },
		/* only accounting knows */
		{ WITNESS(SACCT("CANCELLED by 1000", "0:0") "started void\n"), "end cancelled -1 0",
		  "before it started" },
		{ WITNESS(SACCT("TIMEOUT", "0:15") "started 5\n"), "end timeout -1 15", NULL },
		{ WITNESS(SACCT("FAILED", "7:0") "started 5\n"), "end failed 7 0", "exited with code 7" },
		{ WITNESS(SACCT("RUNNING", "0:0") "started 5\n"), "end failed -1 0", "cause unknown" },
		/* a record of another attempt is none */
		{ WITNESS("job \njob-rc unknown\nrecord v=1 run=7 attempt=2 job=5 rc=0 limit=-\nstarted void\n"),
		  "lost - -1 0", NULL },
		/* the attempt could not be made void, or nobody could be asked */
		{ WITNESS("job \njob-rc unknown\n"), "-", NULL },
		{ WITNESS("job x\njob-rc unreachable\nstarted 5\n"), "-", NULL },
		{ "witness 1\nqueue-rc 1\nqueue-error x\njob-rc unreachable\n" RECORD("0", "-") "end\n", "-", NULL },
		/* clocks: lost, unless the controller has been up since before the claim */
		{ WITNESS("job \njob-rc unknown\nstarted void\nclaimed 5000\nboot 4800\n"), "lost - -1 0", NULL },
		{ WITNESS("job \njob-rc unknown\nstarted void\nclaimed 5000\nboot 1000\n"), "end cancelled -1 0",
		  "vanished" },
		{ WITNESS("job \njob-rc unknown\nstarted void\ncancelled 1\n"), "end cancelled -1 0",
		  "cancelled before it started" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct verify_case c = { cases[i].text, "5", 7, cases[i].want, cases[i].why };

		check_verify(&c, cases[i].text, false);
	}
}

static void test_verify_members(void **state)
{
	const struct sched_run run = { .num = 7, .attempt = 1, .uuid = "0123abcd", .directory = "/d", .job_id = "5" };
	struct event *ev =
		OPS->verify_result(&run, 0, WITNESS(SACCT("FAILED", "7:0") "started 5\nstdout 12\nstderr 0\n"), "", 1);

	(void)state;
	assert_true(event_int(ev, "max_rss", 0) == 2ll << 30);
	assert_true(event_int(ev, "start", 0) == 1000ll * USEC_PER_SEC);
	assert_true(event_int(ev, "end", 0) == 1010ll * USEC_PER_SEC);
	assert_int_equal(event_int(ev, "out_len", -1), 12);
	assert_int_equal(event_int(ev, "err_len", -1), 0);
	assert_string_equal(event_str(ev, "nodes"), "n1");
	assert_string_equal(event_str(ev, "source"), "sacct");
	event_free(ev);
	ev = OPS->verify_result(&run, 0, WITNESS(JOB("RUNNING", "0:0") "started 5\n"), "", 1);
	assert_string_equal(event_str(ev, "nodes"), "n[1-2]");
	assert_true(event_int(ev, "start", 0) == 1000ll * USEC_PER_SEC);
	event_free(ev);
	assert_null(OPS->verify_result(&run, 124, WITNESS(JOB("RUNNING", "0:0")), "", 1));
}

static void test_verb_result(void **state)
{
	static const struct {
		const char *verb;
		int rc;
		const char *out;
		int want;
	} cases[] = {
		{ "hold", 0, "ok\n\n", 0 },
		{ "cancel", 0, "ok\ncancelled before it started\n", 0 },
		{ "hold", 0, "gone\nthe scheduler does not know job 5 any more\n", -ESRCH },
		{ "hold", 0, "busy\nthe job is not waiting\n", -EBUSY },
		{ "hold", 0, "unreachable\nUnable to contact slurm controller\n", -EHOSTUNREACH },
		{ "update", 0, "failed\nAccess/permission denied for job 5\n", -EPERM },
		{ "update", 0, "failed\nInvalid time specification\n", -EINVAL },
		{ "update", 0, "failed\nsomething new\n", -EINVAL },
		{ "requeue", 0, "failed\nJob is pending execution for job 5\n", -EBUSY },
		{ "requeue", 0, "failed\nJob has already finished for job 5\n", -ESRCH },
		{ "signal", 0, "failed\nscancel: error: Unknown job signal: NOSUCH\n", -EINVAL },
		{ "hold", 124, "", -EHOSTUNREACH },
		{ "hold", 1, "", -EHOSTUNREACH },
		{ "hold", 0, "okay\n", -EHOSTUNREACH },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err e = ERR_INIT;

		assert_int_equal(OPS->verb_result(cases[i].verb, cases[i].rc, cases[i].out, "", &e), cases[i].want);
		assert_true((cases[i].want == 0) == (e.text[0] == '\0'));
	}
}

static json_t *probe(const char *what, int rc, const char *out)
{
	cleanup_strbuf struct strbuf json = STRBUF_INIT;
	struct err e = ERR_INIT;
	json_t *doc;

	if (OPS->probe_result(what, rc, out, "", &json, &e))
		fail_msg("%s", e.text);
	doc = json_loads(json.buf, 0, NULL);
	assert_non_null(doc);
	return doc;
}

static json_t *probe_file(const char *what)
{
	cleanup_free char *name = xasprintf("probe-%s", what);
	cleanup_free char *text = load(name);

	return probe(what, 0, text);
}

static void test_probes(void **state)
{
	json_t *d = probe_file("info"), *row;
	const char *s, *p;
	int n;

	(void)state;
	assert_int_equal(
		json_unpack(d, "{s:s, s:s, s:i, s:b}", "cluster", &s, "version", &p, "nodes", &n, "accounting", &n), 0);
	assert_string_equal(s, "driver");
	assert_string_equal(p, "22.05.8");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(d, "cpus"), "total")), 64);
	json_decref(d);

	d = probe_file("partitions");
	assert_int_equal(json_array_size(d), 2);
	row = json_array_get(d, 0);
	assert_string_equal(json_string_value(json_object_get(row, "partition")), "compute");
	assert_true(json_is_true(json_object_get(row, "default")));
	assert_true(json_is_false(json_object_get(json_array_get(d, 1), "default")));
	json_decref(d);

	d = probe_file("nodes");
	assert_int_equal(json_array_size(d), 4);
	row = json_array_get(d, 0);
	assert_int_equal(json_array_size(json_object_get(row, "partitions")), 2);
	assert_int_equal(json_integer_value(json_object_get(row, "memory_mb")), 4000);
	json_decref(d);

	d = probe_file("queue");
	assert_int_equal(json_array_size(d), 2);
	row = json_array_get(d, 0);
	assert_string_equal(json_string_value(json_object_get(row, "name")), "train | v2");
	assert_true(json_is_true(json_object_get(row, "own")));
	row = json_array_get(d, 1);
	assert_true(json_is_false(json_object_get(row, "own")));
	assert_true(json_is_null(json_object_get(row, "start")));
	assert_true(json_is_null(json_object_get(row, "nodelist")));
	json_decref(d);

	d = probe_file("shares");
	assert_non_null(json_object_get(json_array_get(d, 0), "note"));
	json_decref(d);
	d = probe("shares", 0, "lab|||1.0|5||\nlab|ann|1|0.5|3|0.6|0.4\n");
	assert_int_equal(json_array_size(d), 2);
	json_decref(d);
}

static void test_probe_errors(void **state)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(OPS->probe("weather", &sb, &e), -EINVAL);
	assert_int_equal(OPS->probe("info; reboot", &sb, &e), -EINVAL);
	assert_int_equal(sb.len, 0);
	assert_int_equal(OPS->probe_result("nodes", 1, "", "slurm_load_node error: x\n", &sb, &e), -EHOSTUNREACH);
	assert_string_equal(e.text, "nodes: slurm_load_node error: x");
	assert_int_equal(OPS->probe_result("nodes", 124, "", "", &sb, &e), -EHOSTUNREACH);
	assert_int_equal(sb.len, 0);
}

/* --- the shell functions with stand-ins --- */

struct box {
	char dir[64];
	const char *shell;
};

static const char fakes[] =
	"mkdir -p \"$0/bin\" \"$0/home\"; cd \"$0/bin\" || exit 1\n"
	"cat >sbatch <<'E'\n#!/bin/sh\nfor a; do s=$a; done\nprintf '%s\\n' \"$@\" >\"$BOX/args\"\ncp \"$s\" "
	"\"$BOX/sent\"\n"
	"echo x >>\"$BOX/calls\"\n[ ! -s \"$BOX/sbatch.err\" ] || cat \"$BOX/sbatch.err\" >&2\n"
	"[ ! -e \"$BOX/sbatch.hook\" ] || . \"$BOX/sbatch.hook\"\ncat \"$BOX/sbatch.out\"\nexit $(cat "
	"\"$BOX/sbatch.rc\")\nE\n"
	"cat >squeue <<'E'\n#!/bin/sh\n[ ! -e \"$BOX/squeue.err\" ] || { cat \"$BOX/squeue.err\" >&2; exit 1; }\n"
	"cat \"$BOX/queue\" 2>/dev/null\nexit 0\nE\n"
	"cat >scancel <<'E'\n#!/bin/sh\necho \"$@\" >>\"$BOX/cancelled\"\n[ ! -e \"$BOX/scancel.rc\" ]\nE\n"
	"cat >scontrol <<'E'\n#!/bin/sh\ncase $1 in hold | release) echo \"$@\" >>\"$BOX/cancelled\"; exit ;; esac\n"
	"[ -e \"$BOX/job\" ] || { echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }\n"
	"cat \"$BOX/job\"\nE\n"
	"cat >sacct <<'E'\n#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\nE\n"
	"chmod +x *\necho 77 >\"$0/sbatch.out\"; echo 0 >\"$0/sbatch.rc\"; printf '#!/bin/sh\\necho hi\\n' "
	">\"$0/in\"\n";

/* Runs `code` in the shell of the box behind the prelude; its output is the result. */
static char *run_shell(const struct box *b, const char *code, const char *prelude)
{
	cleanup_free char *text = xasprintf("%s%s", prelude, code);
	struct strbuf out = STRBUF_INIT;
	int fd[2];
	pid_t pid;

	assert_int_equal(pipe(fd), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		cleanup_free char *path = xasprintf("%s/bin:/usr/bin:/bin", b->dir);
		cleanup_free char *home = xasprintf("%s/home", b->dir), *in = xasprintf("%s/in", b->dir);

		(void)dup2(fd[1], 1);
		(void)close(fd[0]);
		(void)close(fd[1]);
		(void)setenv("PATH", path, 1);
		(void)setenv("HOME", home, 1);
		(void)setenv("IN", in, 1);
		(void)setenv("BOX", b->dir, 1);
		(void)setenv("LC_ALL", "C", 1);
		execlp(b->shell, b->shell, "-c", text, b->dir, (char *)NULL);
		_exit(127);
	}
	(void)close(fd[1]);
	assert_true(strbuf_read_fd(&out, fd[0], 1 << 20) >= 0);
	(void)close(fd[0]);
	(void)waitpid(pid, NULL, 0);
	return strbuf_detach(&out, NULL);
}

static void box_open(struct box *b, const char *shell)
{
	(void)snprintf(b->dir, sizeof(b->dir), "/tmp/test_slurm.XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	b->shell = shell;
	free(run_shell(b, fakes, ""));
}

static void box_close(struct box *b)
{
	free(run_shell(b, "rm -rf \"$0\"", ""));
}

static void expect(const struct box *b, const char *code, const char *want)
{
	cleanup_strbuf struct strbuf prelude = STRBUF_INIT;
	cleanup_free char *got = NULL;

	OPS->prelude(&prelude);
	got = run_shell(b, code, prelude.buf);
	if (strcmp(got, want) != 0)
		fail_msg("%s: '%s' printed\n%s\ninstead of\n%s", b->shell, code, got, want);
}

static void submit(const struct box *b, const char *want)
{
	const struct job job = { .name = "j" };
	const struct sched_run run = { .num = 7, .attempt = 1, .uuid = "u", .directory = "~/d", .job = &job };
	cleanup_strbuf struct strbuf code = STRBUF_INIT;

	OPS->submit(&run, 18, 0, &code);
	expect(b, code.buf, want);
}

static const char *const shells[] = { "sh", "bash" };
#define A "A=$HOME/d/u/runs/7/a1\n"

static void test_shell_submit(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct box b;

		box_open(&b, shells[i]);
		submit(&b, "ok 77\n");
		expect(&b,
		       A "cmp \"$IN\" \"$A/script\" && cmp \"$IN\" \"$BOX/sent\" && readlink \"$A/claim\"; ls \"$A\"",
		       "77\nclaim\nintent\nscript\nwork\n");
		expect(&b, "grep -c . \"$BOX/args\"; tail -n 1 \"$BOX/args\" | sed \"s|$HOME||\"",
		       "9\n/d/u/runs/7/a1/script\n");
		submit(&b, "ok 77\n");
		expect(&b, "grep -c x \"$BOX/calls\"", "1\n"); /* not asked again */
		box_close(&b);
	}
}

/* What comes back from sbatch, and what it means. */
static void test_shell_verdicts(void **state)
{
	static const struct {
		const char *rc, *err, *want;
	} cases[] = {
		{ "1", "sbatch: error: Batch job submission failed: Invalid partition name specified", "refused" },
		{ "1",
		  "sbatch: error: invalid partition specified: temporary\n"
		  "sbatch: error: Batch job submission failed: Invalid partition name specified",
		  "refused" },
		{ "1",
		  "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
		  "accounting/QOS policy (job submit limit, user's size and/or time limits)",
		  "refused" },
		{ "1", "sbatch: error: Batch job submission failed: Requested node configuration is not available",
		  "refused" },
		{ "1", "sbatch: error: Memory specification can not be satisfied", "refused" },
		{ "1", "sbatch: error: Batch script is empty!", "refused" },
		{ "1", "sbatch: error: Unable to open file x", "refused" },
		{ "1", "sbatch: error: Batch job submission failed: Job dependency problem", "refused" },
		{ "255", "sbatch: unrecognized option '--nonsense'", "refused" },
		{ "255", "sbatch: error: Invalid --time specification", "refused" },
		{ "1", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
		  "unsure" },
		{ "1",
		  "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
		  "unsure" },
		{ "1", "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", "unsure" },
		{ "1", "sbatch: error: Batch job submission failed: Resource temporarily unavailable", "unsure" },
		{ "1", "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
		  "unsure" },
		{ "1", "sbatch: error: Batch job submission failed: Unexpected missing socket error", "unsure" },
		{ "1", "sbatch: error: Batch job submission failed: Broken pipe", "unsure" },
		{ "1", "sbatch: error: Batch job submission failed: No route to host", "unsure" },
		{ "1", "sbatch: error: Batch job submission failed: Message receive failure", "unsure" },
		{ "1", "sbatch: error: Batch job submission failed: I/O error writing script/environment to file",
		  "unsure" },
		{ "1", "sbatch: error: something nobody has seen", "unsure" },
		{ "127", "sh: sbatch: not found", "unsure" },
		{ "143", "", "unsure" },
		{ "0", "", "unsure" }, /* no id */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_free char *set = xasprintf(
			"echo %s >\"$BOX/sbatch.rc\"; : >\"$BOX/sbatch.out\"; cat >\"$BOX/sbatch.err\" <<'E'\n%s\nE\n",
			cases[i].rc, cases[i].err);
		cleanup_free char *said = *cases[i].err ? xasprintf("%s\n%s\n", cases[i].want, cases[i].err)
							: xasprintf("%s\n\n", cases[i].want);
		struct box b;

		box_open(&b, shells[i % ARRAY_SIZE(shells)]);
		expect(&b, set, "");
		submit(&b, said);
		expect(&b, A "readlink \"$A/started\"; ls \"$A\" | grep -c tmp",
		       strcmp(cases[i].want, "refused") ? "0\n" : "void\n0\n");
		if (strcmp(cases[i].want, "refused") == 0)
			submit(&b, said); /* the same again, without asking */
		expect(&b, "grep -c x \"$BOX/calls\"", "1\n");
		box_close(&b);
	}
}

/* The reply was lost: the job is found by its token; and while the queue cannot be asked, nothing is submitted. */
static void test_shell_lost_reply(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct box b;

		box_open(&b, shells[i]);
		expect(&b, A "mkdir -p \"$A\"; : >\"$A/intent\"; echo 'slurm_load_jobs error: x' >\"$BOX/squeue.err\"",
		       "");
		submit(&b, "unsure\nslurm_load_jobs error: x\n");
		expect(&b,
		       "rm \"$BOX/squeue.err\"; cat >\"$BOX/queue\" <<'E'\n"
		       "70|RUNNING|None|n1|1|slurmray:u/7/a11|/x\n92|PENDING|None||1|slurmray:u/7/a1|/x\n"
		       "91_[1-3]|PENDING|None||1|slurmray:u/7/a1|/x\nE\nls \"$BOX/calls\" 2>/dev/null",
		       "");
		submit(&b, "ok 91\n");
		expect(&b, A "readlink \"$A/claim\"; ls \"$BOX/calls\" \"$BOX/cancelled\" 2>/dev/null", "91\n");
		box_close(&b);
	}
}

/* The job was faster, another submitter was, or the run was called off meanwhile. */
static void test_shell_races(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct box b;

		box_open(&b, shells[i]);
		expect(&b, "echo 'ln -s 78 \"$HOME/d/u/runs/7/a1/claim\"' >\"$BOX/sbatch.hook\"", "");
		submit(&b, "ok 78\n");
		expect(&b, "cat \"$BOX/cancelled\"",
		       "hold 77\n--state=PENDING 77\n"); /* the surplus one, and its cancellation shows in no log */
		box_close(&b);

		box_open(&b, shells[i]);
		expect(&b, "echo 'ln -s void \"$HOME/d/u/runs/7/a1/started\"' >\"$BOX/sbatch.hook\"", "");
		submit(&b, "void\n");
		expect(&b, "cat \"$BOX/cancelled\"", "hold 77\n--state=PENDING 77\n");
		box_close(&b);

		/* what cannot be cancelled must not wait for ever either */
		box_open(&b, shells[i]);
		expect(&b,
		       "echo 'ln -s 78 \"$HOME/d/u/runs/7/a1/claim\"' >\"$BOX/sbatch.hook\"; : >\"$BOX/scancel.rc\"",
		       "");
		submit(&b, "ok 78\n");
		expect(&b, "cat \"$BOX/cancelled\"", "hold 77\n--state=PENDING 77\nrelease 77\n");
		box_close(&b);

		/* refused, but an earlier try's job had started: it is that job */
		box_open(&b, shells[i]);
		expect(&b,
		       "echo 1 >\"$BOX/sbatch.rc\"; : >\"$BOX/sbatch.out\"; echo 'sbatch: error: Invalid x' "
		       ">\"$BOX/sbatch.err\"\n"
		       "echo 'ln -s 60 \"$HOME/d/u/runs/7/a1/claim\"; ln -s 60 \"$HOME/d/u/runs/7/a1/started\"' "
		       ">\"$BOX/sbatch.hook\"",
		       "");
		submit(&b, "ok 60\n");
		box_close(&b);
	}
}

static void test_shell_payload_cut(void **state)
{
	struct box b;

	(void)state;
	box_open(&b, "sh");
	expect(&b, "printf '#!/bin/sh' >\"$IN\"", "");
	submit(&b, "unsure\nthe script arrived with 9 bytes instead of 18\n");
	expect(&b, A "ls \"$A\"; ls \"$BOX/calls\" 2>/dev/null", "");
	box_close(&b);
}

#define QUEUED(state)                                                                                                  \
	"echo '5|" state "|None||1|slurmray:u/7/a1|/x' >\"$BOX/queue\"; "                                              \
	"printf 'JobId=5 JobName=x\\n   JobState=" state " Reason=None\\n   Requeue=0 Restarts=0 ExitCode=0:0\\n"      \
	"   Comment=slurmray:u/7/a1 \\n' >\"$BOX/job\"\n"

static void test_shell_cancel(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct box b;

		box_open(&b, shells[i]);
		expect(&b, QUEUED("PENDING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 ''", "ok\n\n");
		expect(&b, "readlink \"$HOME/d/started\"; cat \"$BOX/cancelled\"", "void\n5\n");
		/* the number belongs to another job by now */
		expect(&b, "rm \"$BOX/cancelled\"; sl_verb cancel \"$HOME/d\" slurmray:u/8/a1 5 0 ''",
		       "ok\ncancelled before it started\n");
		expect(&b, "cat \"$BOX/cancelled\" 2>/dev/null", "");
		/* nothing was ever submitted */
		expect(&b, "rm \"$BOX/queue\"; sl_verb cancel \"$HOME/e\" slurmray:u/9/a1 '' 0 ''",
		       "ok\ncancelled before it was submitted\n");
		expect(&b, "readlink \"$HOME/e/started\"", "void\n");
		box_close(&b);
	}
}

/* TERM now; KILL when it is asked again after the grace period, whoever asks and however often. */
static void test_shell_grace(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct box b;

		box_open(&b, shells[i]);
		expect(&b,
		       "mkdir \"$HOME/d\"; ln -s 5 \"$HOME/d/started\"; " QUEUED(
			       "RUNNING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 1000",
		       "ok\nagain 1000\n");
		expect(&b, "cat \"$BOX/cancelled\"; rm \"$BOX/cancelled\"", "--full -s TERM 5\n");
		expect(&b, QUEUED("RUNNING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 1000 | sed 's/[0-9]*$//'",
		       "ok\nagain \n");
		expect(&b, "cat \"$BOX/cancelled\" 2>/dev/null", "");
		expect(&b,
		       "echo 99999999999 >\"$HOME/d/term\"; " QUEUED(
			       "RUNNING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 1000",
		       "ok\nagain 1000\n");
		expect(&b,
		       "echo 1 >\"$HOME/d/term\"; " QUEUED(
			       "RUNNING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 1000",
		       "ok\n\n");
		expect(&b, "cat \"$BOX/cancelled\"; rm \"$BOX/cancelled\" \"$HOME/d/term\"", "--batch -s KILL 5\n5\n");
		/* none at all, and jobs that do not run */
		expect(&b, QUEUED("RUNNING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 0", "ok\n\n");
		expect(&b, "cat \"$BOX/cancelled\"; rm \"$BOX/cancelled\"", "--full -s TERM 5\n--batch -s KILL 5\n5\n");
		expect(&b, QUEUED("PENDING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 1000", "ok\n\n");
		expect(&b, "cat \"$BOX/cancelled\"; rm \"$BOX/cancelled\"", "5\n");
		expect(&b, QUEUED("RUNNING") "sl_verb cancel \"$HOME/d\" slurmray:u/7/a1 5 0 ''", "ok\n\n");
		expect(&b, "cat \"$BOX/cancelled\"; rm \"$BOX/cancelled\"", "5\n");
		/* one whose script did not get as far as the guard */
		expect(&b, QUEUED("RUNNING") "sl_verb cancel \"$HOME/e\" slurmray:u/7/a1 5 0 1000", "ok\n\n");
		expect(&b, "cat \"$BOX/cancelled\"", "5\n");
		box_close(&b);
	}
}

static void test_shell_verify(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct box b;

		box_open(&b, shells[i]);
		/* alive: nothing is touched */
		expect(&b,
		       QUEUED("PENDING") "mkdir \"$HOME/d\"; sl_verify \"$HOME/d\" \"$HOME/e\" slurmray:u/7/a1 5 0 | "
					 "grep -v '^job  '; "
					 "readlink \"$HOME/d/started\"",
		       "witness 1\nqueue-rc 0\nqueue 5|PENDING|None||1|slurmray:u/7/a1|/x\njob JobId=5 "
		       "JobName=x\njob-rc known\nend\n");
		/* nobody knows it: void */
		expect(&b,
		       "rm \"$BOX/queue\" \"$BOX/job\"; sl_verify \"$HOME/d\" \"$HOME/e\" slurmray:u/7/a1 5 0; "
		       "readlink \"$HOME/d/started\"",
		       "witness 1\nqueue-rc 0\nqueue \njob \njob-rc unknown\nstarted void\nend\nvoid\n");
		/* nobody can be asked: nothing is touched */
		expect(&b,
		       "rm \"$HOME/d/started\"; echo no >\"$BOX/squeue.err\"; sl_verify \"$HOME/d\" \"$HOME/e\" "
		       "slurmray:u/7/a1 5 0; "
		       "readlink \"$HOME/d/started\"",
		       "witness 1\nqueue-rc 1\nqueue-error no\njob-rc unreachable\nend\n");
		box_close(&b);
	}
}

static void test_prelude_is_posix(void **state)
{
	struct box b = { .dir = "/tmp", .shell = "sh" };

	(void)state;
	expect(&b, "for f in sl_submit sl_verify sl_verb sl_probe sl_queue; do command -v \"$f\"; done",
	       "sl_submit\nsl_verify\nsl_verb\nsl_probe\nsl_queue\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_submit_code),
		cmocka_unit_test(test_other_code),
		cmocka_unit_test(test_step_code),
		cmocka_unit_test(test_steps_code),
		cmocka_unit_test(test_shared_code),
		cmocka_unit_test(test_verb_code),
		cmocka_unit_test(test_cancel_with_grace),
		cmocka_unit_test(test_verb_before_submission),
		cmocka_unit_test(test_submit_result),
		cmocka_unit_test(test_poll),
		cmocka_unit_test(test_poll_odd_rows),
		cmocka_unit_test(test_poll_numbers),
		cmocka_unit_test(test_poll_sessions),
		cmocka_unit_test(test_sacct_numbers),
		cmocka_unit_test(test_usage),
		cmocka_unit_test(test_poll_failed),
		cmocka_unit_test(test_state_words),
		cmocka_unit_test(test_verify_recordings),
		cmocka_unit_test(test_verify_cut),
		cmocka_unit_test(test_verify_made_up),
		cmocka_unit_test(test_verify_members),
		cmocka_unit_test(test_verb_result),
		cmocka_unit_test(test_probes),
		cmocka_unit_test(test_probe_errors),
		cmocka_unit_test(test_prelude_is_posix),
		cmocka_unit_test(test_shell_submit),
		cmocka_unit_test(test_shell_verdicts),
		cmocka_unit_test(test_shell_lost_reply),
		cmocka_unit_test(test_shell_races),
		cmocka_unit_test(test_shell_payload_cut),
		cmocka_unit_test(test_shell_cancel),
		cmocka_unit_test(test_shell_grace),
		cmocka_unit_test(test_shell_verify),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
