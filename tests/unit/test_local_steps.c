/*
 * Runs in sessions of the local cluster: what is written for the session's runner, and what is made of the files that
 * it and the runs leave. The test is the runner; the session's own job is one that waits. TEST_SECONDS=5
 */
#include "tests/unit/lib_local.h"

#include "backend/base/mem.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#define HOLDER 1
#define RECORD                                                                                                         \
	"v=1 run=%u attempt=1 job=1.1.s%u rc=%d sig=- start=100 end=200 out=3 err=0 restart=0 manifest=1 maxrss=- "    \
	"cpu=- nodes=- cpus=- fault=- host=h limit=%s\n"

static struct creq *make_step(struct lx *f, enum creq_type type, uint32_t run)
{
	struct creq *q = lx_make(f, type, run, "echo x");

	q->job->session = xstrdup("s");
	q->job->ntasks = 1;
	q->job->cpus_per_task = 2;
	q->job->gpus = -1;
	q->job->mem_bytes = (5 << 20) - 1;
	q->job->holder.num = HOLDER;
	q->job->holder.attempt = 1;
	q->job->holder.job_id = xstrdup("1.1");
	return q;
}

static void submit_step(struct lx *f, uint32_t run)
{
	lx_post(f, make_step(f, CREQ_SUBMIT, run));
	LX_WAIT(f, lx_event(f, run, EV_SUBMITTED, NULL));
}

static struct lx *with_session(void)
{
	struct lx *f = lx_new();

	lx_submit(f, HOLDER, "exec sleep 4771");
	lx_wait_state(f, HOLDER, "running");
	return f;
}

/* A file appears whole. */
static void put(const struct lx *f, const char *path, const char *text)
{
	char tmp[512], full[512];
	int fd;

	(void)snprintf(full, sizeof(full), "%s/%s", f->base, path);
	(void)snprintf(tmp, sizeof(tmp), "%s/put.tmp", f->base);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	(void)close(fd);
	assert_int_equal(rename(tmp, full), 0);
}

static void put_rows(const struct lx *f, const char *rows)
{
	put(f, "runs/1/a1/steps", rows);
}

static void put_record(const struct lx *f, uint32_t run, int rc, const char *limit)
{
	char path[64], text[512];

	(void)snprintf(path, sizeof(path), "ends/%u.a1", run);
	(void)snprintf(text, sizeof(text), RECORD, run, run, rc, limit);
	put(f, path, text);
}

static void put_of(const struct lx *f, uint32_t run, const char *name, const char *text)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "runs/%u/a1/%s", run, name);
	put(f, path, text);
}

static void start_step(const struct lx *f, uint32_t run)
{
	char path[256];

	lx_path(f, run, "started", path);
	assert_int_equal(symlink("1.1.s2", path), 0);
}

static void assert_void(const struct lx *f, uint32_t run)
{
	char path[256], to[16] = "";

	lx_path(f, run, "started", path);
	assert_int_equal(readlink(path, to, sizeof(to) - 1), 4);
	assert_string_equal(to, "void");
}

static void assert_told(const struct lx *f, const char *file, const char *line)
{
	char *text = lx_read(f, HOLDER, file);

	assert_non_null(text);
	if (!strstr(text, line))
		fail_msg("%s is not in: %s", line, text);
	free(text);
}

/* --- */

static void test_from_queue_to_end(void **state)
{
	struct lx *f = with_session();
	const struct event *ev;

	(void)state;
	submit_step(f, 2);
	assert_string_equal(event_str(lx_event(f, 2, EV_SUBMITTED, NULL), "job_id"), "1.1.s2");
	assert_told(f, "queue", "\n2/a1 2 0 5 - 1 .\n");
	put_rows(f, "2/a1 PENDING 0\n3/a1 RUNNING 7\nbroken\n2/a9 RUNNING 1\n");
	lx_wait_state(f, 2, "pending");
	put_rows(f, "2/a1 RUNNING 0\n");
	start_step(f, 2);
	lx_wait_state(f, 2, "running");
	put_of(f, 2, "stdout", "hi\n");
	put_record(f, 2, 3, "-");
	ev = lx_wait_end(f, 2);
	assert_string_equal(event_str(ev, "status"), "failed");
	assert_int_equal(event_int(ev, "exit_code", -1), 3);
	lx_assert_log(f, 2, SPOOL_OUT, "hi\n", 3);
	assert_true(f->last[2]);
	lx_free(f);
}

static void test_many_rows_and_no_word_of_running(void **state)
{
	struct lx *f = with_session();

	(void)state;
	for (uint32_t i = 2; i < 40; i++)
		submit_step(f, i);
	for (uint32_t i = 2; i < 40; i++) {
		put_of(f, i, "stdout", "hi\n");
		put_record(f, i, 0, "-");
	}
	for (uint32_t i = 2; i < 40; i++)
		lx_assert_end(f, i, "succeeded", 0);
	lx_free(f);
}

/* Another worker finds each where it is. */
static void test_restart(void **state)
{
	struct lx *f = with_session();

	(void)state;
	for (uint32_t i = 2; i < 6; i++)
		submit_step(f, i);
	start_step(f, 3);
	lx_stop(f);
	put_of(f, 4, "stdout", "hi\n");
	start_step(f, 4);
	put_record(f, 4, 0, "-");
	lx_forget_events(f);
	lx_start(f);
	lx_watch(f, HOLDER, "exec sleep 4771");
	for (uint32_t i = 2; i < 5; i++) {
		struct creq *q = make_step(f, CREQ_WATCH, i);

		q->job_id = xasprintf("1.1.s%u", i);
		lx_post(f, q);
	}
	lx_post(f, make_step(f, CREQ_WATCH, 5)); /* perhaps submitted */
	lx_assert_end(f, 4, "succeeded", 0);
	lx_wait_state(f, 3, "running");
	LX_WAIT(f, lx_event(f, 5, EV_SUBMITTED, NULL));
	assert_int_equal(lx_count(f, 2, EV_SUBMITTED), 0);
	put_rows(f, "2/a1 PENDING 0\n5/a1 PENDING 0\n3/a1 RUNNING 0\n");
	lx_wait_state(f, 2, "pending");
	put_of(f, 3, "stdout", "hi\n");
	put_record(f, 3, 0, "-");
	lx_assert_end(f, 3, "succeeded", 0);
	lx_free(f);
}

static void test_verbs(void **state)
{
	struct lx *f = with_session();

	(void)state;
	submit_step(f, 2);
	submit_step(f, 3);
	assert_int_equal(lx_answer(f, lx_verb(f, 2, "signal", "USR1"))->code, -ESRCH);
	assert_int_equal(lx_answer(f, lx_verb(f, 2, "hold", ""))->code, -EINVAL);
	assert_int_equal(lx_answer(f, lx_verb(f, 2, "cancel", ""))->code, 0);
	assert_string_equal(event_str(lx_wait_end(f, 2), "status"), "cancelled");
	assert_void(f, 2);
	assert_told(f, "orders", "\ncancel 2/a1 0 .\n");
	start_step(f, 3);
	put_rows(f, "3/a1 RUNNING 0\n");
	lx_wait_state(f, 3, "running");
	assert_int_equal(lx_answer(f, lx_verb(f, 3, "signal", "SIGUSR1"))->code, 0);
	assert_told(f, "orders", "\nsignal 3/a1 USR1 .\n");
	assert_int_equal(lx_answer(f, lx_verb(f, 3, "cancel", ""))->code, 0);
	assert_told(f, "orders", "\ncancel 3/a1 3 .\n");
	put_of(f, 3, "stdout", "hi\n");
	put_record(f, 3, 143, "-");
	assert_string_equal(event_str(lx_wait_end(f, 3), "status"), "cancelled");
	assert_int_equal(lx_answer(f, lx_verb(f, HOLDER, "order", "lease a 60"))->code, 0);
	assert_told(f, "orders", "\nlease a 60 .\n");
	lx_free(f);
}

/* What its runner says of one whose wrapper was killed. */
static void test_gone(void **state)
{
	struct lx *f = with_session();

	(void)state;
	for (uint32_t i = 2; i < 4; i++) {
		submit_step(f, i);
		start_step(f, i);
	}
	put_rows(f, "2/a1 RUNNING 0\n3/a1 RUNNING 0\n");
	lx_wait_state(f, 3, "running");
	put_of(f, 2, "gone", "\n");
	put_of(f, 3, "gone", "\n");
	put_of(f, 3, "stopped", "");
	put_rows(f, "");
	assert_string_equal(event_str(lx_wait_end(f, 2), "status"), "failed");
	assert_string_equal(event_str(lx_wait_end(f, 3), "status"), "cancelled");
	lx_free(f);
}

static void test_session_ends(void **state)
{
	struct lx *f = with_session();

	(void)state;
	for (uint32_t i = 2; i < 6; i++)
		submit_step(f, i);
	start_step(f, 3);
	start_step(f, 4);
	put_of(f, 4, "stopped", "");
	start_step(f, 5);
	put_rows(f, "3/a1 RUNNING 0\n4/a1 RUNNING 0\n5/a1 RUNNING 0\n2/a1 PENDING 0\n");
	lx_wait_state(f, 5, "running");
	assert_int_equal(lx_answer(f, lx_verb(f, HOLDER, "cancel", ""))->code, 0);
	put_of(f, 5, "stdout", "hi\n");
	put_record(f, 5, 143, "session");
	LX_WAIT(f, lx_event(f, 2, EV_LOST, NULL));
	assert_void(f, 2);
	assert_string_equal(event_str(lx_wait_end(f, 3), "status"), "node_failed");
	assert_string_equal(event_str(lx_wait_end(f, 4), "status"), "cancelled");
	assert_string_equal(event_str(lx_wait_end(f, 5), "why"),
			    "its session ended while it ran; killed by SIGTERM (143)");
	/* one more, for a session that is over */
	submit_step(f, 6);
	LX_WAIT(f, lx_event(f, 6, EV_LOST, NULL));
	lx_free(f);
}

/* Without the job that was watched: its supervisor was killed while nobody looked. */
static void test_session_died_unseen(void **state)
{
	struct lx *f = with_session();
	struct creq *q;
	char path[256], to[128] = "";

	(void)state;
	submit_step(f, 2);
	submit_step(f, 3);
	start_step(f, 3);
	lx_stop(f);
	lx_path(f, HOLDER, "supervisor", path);
	assert_true(readlink(path, to, sizeof(to) - 1) > 0);
	(void)kill((pid_t)strtol(strchr(to, ':') + 1, NULL, 10), SIGKILL);
	lx_forget_events(f);
	lx_start(f);
	for (uint32_t i = 2; i < 4; i++) {
		q = make_step(f, CREQ_WATCH, i);
		q->job_id = xasprintf("1.1.s%u", i);
		lx_post(f, q);
	}
	LX_WAIT(f, lx_event(f, 2, EV_LOST, NULL));
	assert_string_equal(event_str(lx_wait_end(f, 3), "status"), "node_failed");
	lx_free(f);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_from_queue_to_end),
		cmocka_unit_test(test_many_rows_and_no_word_of_running),
		cmocka_unit_test(test_restart),
		cmocka_unit_test(test_verbs),
		cmocka_unit_test(test_gone),
		cmocka_unit_test(test_session_ends),
		cmocka_unit_test(test_session_died_unseen),
	};
	int rc = lx_supervise(argc, argv);

	return rc >= 0 ? rc : cmocka_run_group_tests_name("local steps", tests, NULL, NULL);
}
