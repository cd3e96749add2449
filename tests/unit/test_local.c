/*
 * The local cluster's jobs: how they end, what ends them, in which order they start, and what becomes of them when the
 * cluster, a supervisor or a worker before this one is killed.
 * TEST_SECONDS=14
 */
#include "tests/unit/lib_local.h"

#include "backend/base/mem.h"
#include "backend/sched.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* --- ends --- */

static void exit_codes(void **state)
{
	struct lx *f = lx_new();
	static const struct {
		const char *command, *status;
		int code, signal;
		const char *why;
	} t[] = {
		{ "true", "succeeded", 0, 0, "exited with code 0" },
		{ "exit 3", "failed", 3, 0, "exited with code 3" },
		{ "exit 255", "failed", 255, 0, "exited with code 255" },
		{ "/no/such/program", "failed", 127, 0, "command not found" },
		{ "kill -TERM $$", "failed", 143, 15, "killed by SIGTERM" },
		{ "kill -SEGV $$", "failed", 139, 11, "killed by SIGSEGV" },
		{ "kill -KILL $$", "failed", 137, 9, "killed by SIGKILL" },
		{ "if true; then echo 'unfinished", "failed", 1, 0, "exited with code" },
		{ "kill -KILL $PPID; sleep 100", "failed", 137, 9, "killed by SIGKILL" },
	};

	(void)state;
	for (uint32_t i = 0; i < ARRAY_SIZE(t); i++) {
		const struct event *ev;

		lx_submit(f, i + 1, t[i].command);
		ev = lx_wait_end(f, i + 1);
		assert_string_equal(event_str(ev, "status"), t[i].status);
		if (t[i].why && !strstr(event_str(ev, "why"), t[i].why))
			fail_msg("%s: %s", t[i].command, event_str(ev, "why"));
		if (t[i].code != 1)
			assert_int_equal(event_int(ev, "exit_code", -1), t[i].code);
		assert_int_equal(event_int(ev, "signal", 0), t[i].signal);
		assert_non_null(lx_event(f, i + 1, EV_SUBMITTED, NULL));
		assert_non_null(lx_event(f, i + 1, EV_STATE, "pending"));
		assert_non_null(lx_event(f, i + 1, EV_STATE, "running"));
		assert_true(f->last_before_end[i + 1]); /* whoever hears of the end can read everything */
	}
	lx_free(f);
}

/* The files of the streams cannot be opened: nobody hears it from the job. */
static void output_that_cannot_be(void **state)
{
	struct lx *f = lx_new();
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "echo ran");
	char want[400];

	(void)state;
	q->job->output = xasprintf("%s/logs/%%j.out", f->root); /* not below the job's own directory */
	lx_post(f, q);
	lx_assert_end(f, 1, "failed", 126);
	(void)snprintf(
		want, sizeof(want),
		"output: %s/logs/1.1.out: No such file or directory: the job was not started (the directory has to be there "
		"before; sbatch makes none either)",
		f->root);
	assert_string_equal(event_str(lx_event(f, 1, EV_END, NULL), "why"), want);

	q = lx_make(f, CREQ_SUBMIT, 2, "echo ran");
	q->job->error = xstrdup("/proc/self/comm/%x");
	str_set(&q->job->name, "n");
	lx_post(f, q);
	lx_assert_end(f, 2, "failed", 126);
	assert_string_equal(
		event_str(lx_event(f, 2, EV_END, NULL), "why"),
		"error: /proc/self/comm/n: Not a directory: the job was not started (the directory has to be there "
		"before; sbatch makes none either)");
	/* after a restart the reason is still known */
	lx_forget_events(f);
	lx_restart(f);
	lx_watch(f, 2, "echo ran");
	assert_non_null(strstr(event_str(lx_wait_end(f, 2), "why"), "error: /proc/self/comm/n"));

	q = lx_make(f, CREQ_SUBMIT, 3, "echo ran");
	q->job->output = xstrdup("/tmp");
	lx_post(f, q);
	lx_assert_end(f, 3, "failed", 126);
	assert_string_equal(event_str(lx_event(f, 3, EV_END, NULL), "why"),
			    "output: /tmp: Is a directory: the job was not started");
	lx_free(f);
}

/* What is to be shipped and is not there (any more). */
static void inputs_that_are_gone(void **state)
{
	struct lx *f = lx_new();
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "echo ran");

	(void)state;
	q->job->files = xcalloc(2, sizeof(char *));
	q->job->files[0] = xstrdup("/no/such/file/");
	lx_post(f, q);
	LX_WAIT(f, lx_event(f, 1, EV_REJECTED, NULL));
	assert_string_equal(event_str(lx_event(f, 1, EV_REJECTED, NULL), "why"),
			    "files: /no/such/file: No such file or directory");
	q = lx_make(f, CREQ_SUBMIT, 2, "/no/such/tool");
	q->job->form = JOB_PAYLOAD;
	lx_post(f, q);
	LX_WAIT(f, lx_event(f, 2, EV_REJECTED, NULL));
	assert_string_equal(event_str(lx_event(f, 2, EV_REJECTED, NULL), "why"),
			    "payload: /no/such/tool: No such file or directory");
	q = lx_make(f, CREQ_SUBMIT, 3, "/proc");
	q->job->form = JOB_PAYLOAD;
	lx_post(f, q);
	LX_WAIT(f, lx_event(f, 3, EV_REJECTED, NULL));
	assert_string_equal(event_str(lx_event(f, 3, EV_REJECTED, NULL), "why"),
			    "payload: /proc: it is not a regular file");
	lx_free(f);
}

static void times_that_fit(void **state)
{
	struct exit_record r = {
		.run = 1, .attempt = 1, .start = 1000, .end = 1001, .rc = 0, .out_len = -1, .err_len = -1
	};
	struct event *ev = exit_record_event(&r, NULL, false, 1001900000);

	(void)state;
	assert_int_equal(event_int(ev, "end", 0), 1001900000); /* the report knows better than whole seconds */
	assert_int_equal(event_int(ev, "start", 0), 1000000000);
	event_free(ev);
	ev = exit_record_event(&r, NULL, false, 2000000000);
	assert_int_equal(event_int(ev, "end", 0), 1001000000); /* it comes late */
	event_free(ev);
	r.end = 0;
	ev = exit_record_event(&r, NULL, false, 2000000000);
	assert_int_equal(event_int(ev, "end", -1), -1);
	event_free(ev);
}

static void environment_and_streams(void **state)
{
	struct lx *f = lx_new();
	char want[400];

	(void)state;
	(void)setenv("SLURM_FOREIGN", "x", 1);
	(void)setenv("SLURMRAY_FOREIGN", "x", 1);
	lx_submit(
		f, 1,
		"echo \"$SLURM_FOREIGN$SLURMRAY_FOREIGN|$SLURM_JOB_ID|$SLURMRAY_RUN|$SLURMRAY_ATTEMPT|$SLURM_NTASKS\"; pwd; "
		"echo oops >&2; cat");
	lx_assert_end(f, 1, "succeeded", 0);
	(void)snprintf(want, sizeof(want), "|1.1|1|1|1\n%s/runs/1/a1/work\n", f->base);
	lx_assert_log(f, 1, SPOOL_OUT, want, strlen(want));
	lx_assert_log(f, 1, SPOOL_ERR, "oops\n", 5);
	lx_free(f);
}

/* What a job leaves behind ends with it, and what that wrote until then is in the log. */
static void left_behind(void **state)
{
	struct lx *f = lx_new();
	pid_t quiet, stubborn, daemon;

	(void)state;
	lx_submit(f, 1,
		  "sleep 300 & echo $! >../quiet\n"
		  "(trap '' TERM; while :; do echo more; sleep 0.05; done) & echo $! >../stubborn\n"
		  "setsid sh -c 'echo $$ >../daemon; sleep 300' </dev/null >/dev/null 2>&1 &\n"
		  "while [ ! -s ../daemon ]; do sleep 0.02; done; echo end; exit 5");
	lx_assert_end(f, 1, "failed", 5);
	quiet = lx_wait_pid(f, 1, "quiet");
	stubborn = lx_wait_pid(f, 1, "stubborn");
	daemon = lx_wait_pid(f, 1, "daemon");
	assert_false(lx_alive(quiet) || lx_alive(stubborn) || lx_alive(daemon));
	assert_int_equal(f->out_len[1], event_int(lx_event(f, 1, EV_END, NULL), "out_len", -1));
	lx_free(f);
}

static void cancel_of_a_tree(void **state)
{
	struct lx *f = lx_new();
	pid_t pid[3];

	(void)state;
	lx_submit(f, 1,
		  "sh -c 'trap \"\" TERM INT HUP; echo $$ >../a; while :; do sleep 1; done' &\n"
		  "(setsid sh -c 'sh -c \"echo \\$\\$ >../b; exec sleep 300\" & ' &) \n"
		  "sh -c 'kill -STOP $$' & echo $! >../c\n"
		  "while [ ! -s ../a ] || [ ! -s ../b ]; do sleep 0.02; done; echo ready; sleep 300");
	lx_wait_out(f, 1, 6);
	pid[0] = lx_wait_pid(f, 1, "a");
	pid[1] = lx_wait_pid(f, 1, "b");
	pid[2] = lx_wait_pid(f, 1, "c");
	for (int i = 0; i < 3; i++)
		assert_true(lx_alive(pid[i]));
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "cancel", ""))->code, 0);
	lx_assert_end(f, 1, "cancelled", 143);
	for (int i = 0; i < 3; i++)
		assert_false(lx_alive(pid[i]));
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "cancel", ""))->code, -ESRCH);
	/* a job that ends well when it is asked to is cancelled nevertheless */
	lx_submit(f, 2, "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done");
	lx_wait_out(f, 2, 6);
	(void)lx_verb(f, 2, "cancel", "");
	lx_assert_end(f, 2, "cancelled", 0);
	lx_assert_log(f, 2, SPOOL_OUT, "ready\nbye\n", 10);
	lx_free(f);
}

/* One that stops itself again and again is asked to end while it is stopped, and does when it is let go on. */
static void cancel_of_the_stopped(void **state)
{
	struct lx *f = lx_new();
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "echo ready; exec sh -c 'while :; do kill -STOP $$; done'");

	(void)state;
	q->job->grace_s = 3600;
	lx_post(f, q);
	lx_wait_out(f, 1, 6);
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "cancel", ""))->code, 0);
	lx_assert_end(f, 1, "cancelled", 143);
	lx_free(f);
}

static void limits(void **state)
{
	struct lx *f = lx_new();
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "sleep 300");

	(void)state;
	q->job->time_s = 1;
	lx_post(f, q);
	q = lx_make(f, CREQ_SUBMIT, 2, "x=$(head -c 150000000 /dev/zero | tr '\\0' x); echo \"${#x}\"; sleep 300");
	q->job->mem_bytes = 48 << 20;
	lx_post(f, q);
	lx_assert_end(f, 1, "timeout", 143);
	assert_non_null(strstr(event_str(lx_event(f, 1, EV_END, NULL), "why"), "time limit"));
	lx_assert_end(f, 2, "out_of_memory", 137);
	/* what processes share counts once: four shells with one great variable */
	q = lx_make(f, CREQ_SUBMIT, 3,
		    "x=$(head -c 60000000 /dev/zero | tr '\\0' x)\n"
		    "for i in 1 2 3 4; do (sleep 1.2; : \"${#x}\") & done; wait; echo fine");
	q->job->mem_bytes = 200 << 20;
	lx_post(f, q);
	lx_assert_end(f, 3, "succeeded", 0);
	q = lx_make(f, CREQ_SUBMIT, 4, "true");
	q->job->time_s = 0; /* none */
	lx_post(f, q);
	lx_assert_end(f, 4, "succeeded", 0);
	lx_free(f);
}

static void signals(void **state)
{
	struct lx *f = lx_new();
	struct creq *q;
	char script[] = "n=0; trap 'n=$((n + 1)); echo got' USR1; trap 'echo \"$n\"; exit 0' USR2\n"
			"echo ready; while :; do sleep 0.02; done";

	(void)state;
	/* as soon as it is running: kept until the script can take it, and given once */
	lx_submit(f, 1, script);
	lx_wait_state(f, 1, "running");
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "signal", "CONT"))->code, 0);
	lx_wait_out(f, 1, 6);
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "signal", "SIGUSR1"))->code, 0);
	lx_wait_out(f, 1, 10);
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "signal", "12"))->code, 0);
	lx_assert_end(f, 1, "succeeded", 0);
	lx_assert_log(f, 1, SPOOL_OUT, "ready\ngot\n1\n", 12);
	/* the warning before the limit */
	q = lx_make(f, CREQ_SUBMIT, 2, "trap 'echo warned; exit 0' USR1; while :; do sleep 0.02; done");
	q->job->time_s = 20;
	q->job->signal_num = SIGUSR1;
	q->job->signal_lead_s = 19;
	lx_post(f, q);
	lx_assert_end(f, 2, "succeeded", 0);
	lx_assert_log(f, 2, SPOOL_OUT, "warned\n", 7);
	assert_int_equal(lx_answer(f, lx_verb(f, 2, "signal", "USR1"))->code, -ESRCH);
	lx_submit(f, 4, "echo x; sleep 300");
	lx_wait_out(f, 4, 2);
	assert_int_equal(lx_answer(f, lx_verb(f, 4, "signal", "FOO"))->code, -EINVAL);
	assert_int_equal(lx_answer(f, lx_verb(f, 4, "update", "time=1"))->code, -EINVAL);
	assert_int_equal(lx_answer(f, lx_verb(f, 4, "hold", ""))->code, -EBUSY);
	assert_int_equal(lx_answer(f, lx_verb(f, 4, "refresh", ""))->code, 0);
	assert_int_equal(lx_answer(f, lx_verb(f, 4, "signal", "KILL"))->code, 0);
	lx_assert_end(f, 4, "failed", 137);
	lx_free(f);
}

/* --- the queue --- */

static void all_cores(struct lx *f, uint32_t run, const char *command, bool hold)
{
	struct creq *q = lx_make(f, CREQ_SUBMIT, run, command);

	q->job->ntasks = (int)sysconf(_SC_NPROCESSORS_ONLN);
	q->job->hold = hold;
	lx_post(f, q);
}

static size_t place(const struct lx *f, uint32_t run, const char *status)
{
	for (size_t i = 0; i < f->n_ev; i++)
		if (f->ev_run[i] == run && f->ev[i]->type == EV_STATE &&
		    strcmp(event_str(f->ev[i], "status"), status) == 0)
			return i;
	fail_msg("run %u never was %s", run, status);
	return 0;
}

static void strict_order(void **state)
{
	struct lx *f = lx_new();

	(void)state;
	all_cores(f, 1, "while [ ! -e ../go ]; do sleep 0.02; done", false);
	all_cores(f, 2, "true", true);
	all_cores(f, 3, "true", false);
	lx_submit(f, 4, "true"); /* would fit beside nothing, and does not overtake */
	assert_int_equal(lx_answer(f, lx_ask(f, CREQ_PROBE, 0, 0, "queue"))->code, 0);
	lx_wait_state(f, 1, "running");
	lx_wait_state(f, 4, "pending");
	assert_null(lx_event(f, 4, EV_STATE, "running"));
	assert_string_equal(event_str(lx_event(f, 2, EV_STATE, "pending"), "reason"), "held by the user");
	assert_int_equal(lx_answer(f, lx_verb(f, 3, "hold", ""))->code, 0);
	assert_int_equal(lx_answer(f, lx_verb(f, 3, "release", ""))->code, 0);
	{
		char path[256];
		FILE *go;

		lx_path(f, 1, "go", path);
		go = fopen(path, "w");
		assert_non_null(go);
		(void)fclose(go);
	}
	lx_assert_end(f, 1, "succeeded", 0);
	lx_assert_end(f, 3, "succeeded", 0);
	lx_assert_end(f, 4, "succeeded", 0);
	assert_true(place(f, 3, "running") < place(f, 4, "running"));
	assert_null(lx_event(f, 2, EV_STATE, "running"));
	assert_int_equal(lx_answer(f, lx_verb(f, 2, "release", ""))->code, 0);
	lx_assert_end(f, 2, "succeeded", 0);
	lx_free(f);
}

static void memory_is_shared_out(void **state)
{
	struct lx *f = lx_new();
	int64_t all = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "echo x; sleep 300");

	(void)state;
	q->job->mem_bytes = all / 4 * 3;
	lx_post(f, q);
	lx_wait_out(f, 1, 2);
	q = lx_make(f, CREQ_SUBMIT, 2, "true");
	q->job->mem_bytes = all / 4 * 3;
	lx_post(f, q);
	lx_wait_state(f, 2, "pending");
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "refresh", ""))->code, 0);
	assert_null(lx_event(f, 2, EV_STATE, "running"));
	(void)lx_verb(f, 1, "cancel", "");
	lx_assert_end(f, 2, "succeeded", 0);
	lx_assert_end(f, 1, "cancelled", 143);
	lx_free(f);
}

/* --- kills and restarts --- */

static void jobs_outlive_the_cluster(void **state)
{
	struct lx *f = lx_new();
	static const char job[] = "echo one; while [ ! -e ../go ]; do sleep 0.02; done; echo two; exit 4";
	char path[256];
	FILE *go;

	(void)state;
	lx_submit(f, 1, job);
	lx_wait_out(f, 1, 4);
	all_cores(f, 2, "echo later", true);
	lx_wait_state(f, 2, "pending");
	lx_restart(f);
	lx_watch(f, 1, job);
	lx_watch(f, 2, "echo later");
	lx_wait_state(f, 1, "running");
	assert_true(event_int(lx_event(f, 1, EV_STATE, "running"), "start", 0) > 0);
	assert_int_equal(lx_count(f, 1, EV_SUBMITTED), 0);
	lx_assert_end(f, 2, "succeeded", 0); /* no longer held: what the request says counts */
	lx_stop(f);
	lx_forget_events(f);
	lx_path(f, 1, "go", path);
	go = fopen(path, "w");
	assert_non_null(go);
	(void)fclose(go);
	(void)lx_wait_pid(f, 1, "exit"); /* it ends while nobody looks */
	lx_start(f);
	lx_watch(f, 1, job);
	lx_assert_end(f, 1, "failed", 4);
	lx_assert_log(f, 1, SPOOL_OUT, "one\ntwo\n", 8);
	/* once more, as if its end had not come to the journal, and then only for its logs */
	lx_restart(f);
	lx_watch(f, 1, job);
	lx_assert_end(f, 1, "failed", 4);
	lx_restart(f);
	{
		struct creq *q = lx_make(f, CREQ_WATCH, 1, job);

		q->ended = true;
		q->out_len = 8;
		q->err_len = 0;
		lx_post(f, q);
	}
	LX_WAIT(f, f->last[1]);
	assert_int_equal(f->out_len[1], 8);
	assert_int_equal(f->n_ev, 0);
	lx_free(f);
}

static void supervisor_killed(void **state)
{
	struct lx *f = lx_new();
	pid_t child, super = 0;
	char dir[256];

	(void)state;
	lx_submit(f, 1, "setsid sh -c 'echo $$ >../child; exec sleep 300' & echo ready; wait");
	lx_wait_out(f, 1, 6);
	child = lx_wait_pid(f, 1, "child");
	lx_path(f, 1, "", dir);
	assert_int_equal(supervisor_look(dir, &super), SUPERVISOR_ALIVE);
	assert_int_equal(kill(super, SIGKILL), 0);
	lx_assert_end(f, 1, "node_failed", -1);
	assert_non_null(strstr(event_str(lx_event(f, 1, EV_END, NULL), "why"), "supervisor is gone"));
	assert_false(lx_alive(child)); /* nothing goes on unseen */
	lx_assert_log(f, 1, SPOOL_OUT, "ready\n", 6);
	lx_free(f);
}

/* A worker that was killed between starting a supervisor and knowing it: the next one starts another. */
static void two_supervisors(void **state)
{
	struct lx *f = lx_new();
	static const char job[] = "echo ran >>../ran; while [ ! -e ../go ]; do sleep 0.02; done; exit 6";
	pid_t first, second, it = 0;
	char dir[256], path[256], *ran;
	FILE *go;

	(void)state;
	all_cores(f, 1, job, true);
	lx_wait_state(f, 1, "pending");
	first = lx_spawn_supervisor(f, 1);
	second = lx_spawn_supervisor(f, 1);
	(void)lx_wait_pid(f, 1, "ran");
	(void)lx_verb(f, 1, "release", ""); /* and a third one, of the cluster */
	lx_wait_state(f, 1, "running");
	lx_path(f, 1, "", dir);
	assert_int_equal(supervisor_look(dir, &it), SUPERVISOR_ALIVE);
	assert_true(it == first || it == second);
	assert_int_equal(waitpid(it == first ? second : first, NULL, 0), it == first ? second : first);
	for (int i = 0; i < 20; i++) { /* the third has gone by now, or soon: that is not the job's end */
		assert_int_equal(lx_answer(f, lx_verb(f, 1, "refresh", ""))->code, 0);
		(void)poll(NULL, 0, 10);
	}
	assert_null(lx_event(f, 1, EV_END, NULL));
	lx_path(f, 1, "go", path);
	go = fopen(path, "w");
	assert_non_null(go);
	(void)fclose(go);
	while (lx_alive(it)) /* the cluster may take its status */
		(void)poll(NULL, 0, 10);
	lx_assert_end(f, 1, "failed", 6);
	ran = lx_read(f, 1, "ran");
	assert_string_equal(ran, "ran\n");
	free(ran);
	/* such a one is cancelled, too, while the cluster believes that it waits */
	lx_submit(f, 2, "true");
	lx_assert_end(f, 2, "succeeded", 0);
	all_cores(f, 3, "echo up >../ran; sleep 300", true);
	lx_wait_state(f, 3, "pending");
	it = lx_spawn_supervisor(f, 3);
	(void)lx_wait_pid(f, 3, "ran");
	assert_int_equal(lx_answer(f, lx_verb(f, 3, "cancel", ""))->code, 0);
	while (lx_alive(it)) /* the cluster may take its status */
		(void)poll(NULL, 0, 10);
	lx_assert_end(f, 3, "cancelled", 143);
	lx_free(f);
}

static void voided(void **state)
{
	struct lx *f = lx_new();
	struct creq *q;
	char dir[256];
	pid_t pid;

	(void)state;
	all_cores(f, 1, "echo ran >../ran", true);
	lx_wait_state(f, 1, "pending");
	lx_path(f, 1, "", dir);
	assert_true(supervisor_void(dir));
	assert_true(supervisor_void(dir));
	(void)lx_verb(f, 1, "release", "");
	lx_assert_end(f, 1, "node_failed", -1);
	/* cancelled while it waited; the report got lost */
	all_cores(f, 2, "echo ran >../ran", true);
	lx_wait_state(f, 2, "pending");
	(void)lx_verb(f, 2, "cancel", "");
	lx_assert_end(f, 2, "cancelled", -1);
	lx_restart(f);
	lx_watch(f, 2, "echo ran >../ran");
	lx_assert_end(f, 2, "cancelled", -1);
	/* a supervisor that comes too late */
	pid = lx_spawn_supervisor(f, 2);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_null(lx_read(f, 1, "ran"));
	assert_null(lx_read(f, 2, "ran"));
	/* not started, and nobody can say what it was */
	q = lx_make(f, CREQ_WATCH, 3, "true");
	q->job_id = xstrdup("3.1");
	cluster_local_ops.post(f->c, q);
	LX_WAIT(f, lx_event(f, 3, EV_LOST, NULL));
	lx_free(f);
}

static void cancelled_while_the_cluster_restarts(void **state)
{
	struct lx *f = lx_new();
	static const char job[] = "echo ready; sleep 300";

	(void)state;
	lx_submit(f, 1, job);
	lx_wait_out(f, 1, 6);
	(void)lx_verb(f, 1, "cancel", "");
	lx_stop(f);
	(void)lx_wait_pid(f, 1, "exit");
	lx_forget_events(f);
	lx_start(f);
	lx_watch(f, 1, job); /* by one who does not know of the cancel yet */
	lx_assert_end(f, 1, "cancelled", 143);
	lx_free(f);
}

static void cancelled_at_once(void **state)
{
	enum { MANY = 100 };
	struct lx *f = lx_new();
	char dir[256];
	pid_t pid;

	(void)state;
	for (uint32_t run = 1; run <= MANY; run++) {
		lx_submit(f, run, "sleep 300");
		if (run % 2)
			lx_wait_state(f, run, "running"); /* the supervisor is somewhere in its beginnings */
		(void)lx_verb(f, run, "cancel", "");
		if (run % 2)
			(void)lx_wait_end(f, run);
	}
	for (uint32_t run = 1; run <= MANY; run++) {
		const struct event *ev = lx_wait_end(f, run);

		if (strcmp(event_str(ev, "status"), "cancelled") != 0)
			fail_msg("run %u: %s: %s", run, event_str(ev, "status"), event_str(ev, "why"));
		assert_int_equal(lx_count(f, run, EV_END), 1);
		lx_path(f, run, "", dir);
		assert_int_not_equal(supervisor_look(dir, &pid), SUPERVISOR_ALIVE);
		assert_int_not_equal(supervisor_look(dir, &pid), SUPERVISOR_NONE);
	}
	lx_free(f);
}

static void the_same_submission_again(void **state)
{
	struct lx *f = lx_new();
	char *ran;

	(void)state;
	lx_submit(f, 1, "echo ran >>../ran; sleep 0.2");
	lx_submit(f, 1, "echo ran >>../ran; sleep 0.2");
	lx_wait_state(f, 1, "running");
	lx_restart(f);
	lx_submit(f, 1, "echo ran >>../ran; sleep 0.2");
	lx_assert_end(f, 1, "succeeded", 0);
	for (int i = 0; i < 2; i++) /* two turns: it has been forgotten */
		assert_int_equal(lx_answer(f, lx_verb(f, 1, "refresh", ""))->code, -ESRCH);
	f->last[1] = false;
	lx_submit(f, 1, "echo ran >>../ran; sleep 0.2");
	LX_WAIT(f, lx_count(f, 1, EV_END) == 2); /* reported again, not run again */
	ran = lx_read(f, 1, "ran");
	assert_string_equal(ran, "ran\n");
	free(ran);
	lx_free(f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exit_codes),
		cmocka_unit_test(output_that_cannot_be),
		cmocka_unit_test(inputs_that_are_gone),
		cmocka_unit_test(times_that_fit),
		cmocka_unit_test(environment_and_streams),
		cmocka_unit_test(left_behind),
		cmocka_unit_test(cancel_of_a_tree),
		cmocka_unit_test(cancel_of_the_stopped),
		cmocka_unit_test(limits),
		cmocka_unit_test(signals),
		cmocka_unit_test(strict_order),
		cmocka_unit_test(memory_is_shared_out),
		cmocka_unit_test(jobs_outlive_the_cluster),
		cmocka_unit_test(supervisor_killed),
		cmocka_unit_test(two_supervisors),
		cmocka_unit_test(voided),
		cmocka_unit_test(cancelled_while_the_cluster_restarts),
		cmocka_unit_test(cancelled_at_once),
		cmocka_unit_test(the_same_submission_again),
	};
	int rc = lx_supervise(argc, argv);

	return rc >= 0 ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
