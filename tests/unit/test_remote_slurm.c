/*
 * The cluster thread with everything real: libssh2, sshd, sftp, Slurm. Needs a test cluster: the tests are skipped
 * unless its variables are set (`eval "$(scripts/testbed env)"`).
 */
#include "tests/unit/lib_cluster.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>

/* A run's job writes down that it ran, and logs that no text tool would survive. */
#define NOISY                                                                                                          \
	"echo x >>\"$SLURMRAY_RESULTS/../../executed\"; printf 'a\\0b\\377\\n'; printf 'warn\\0' >&2; sleep 0.3; "     \
	"printf 'end'"
static const char noisy_out[] = "a\0b\377\nend", noisy_err[] = "warn\0";

static bool testbed(void)
{
	return getenv("TESTBED_SSH_CONFIG") && getenv("TESTBED_HOST") && getenv("TESTBED_DIR");
}

static int setup(void **state)
{
	struct fx *f;

	*state = NULL;
	if (!testbed())
		return 0;
	f = fx_new();
	f->hosts[0] = getenv("TESTBED_HOST");
	f->conf.ssh_config = getenv("TESTBED_SSH_CONFIG");
	f->conf.directory = xasprintf("%s/con trol", f->home);
	f->conf.scratch = f->conf.directory;
	f->conf.transport = (char *)"auto";
	f->conf.tick_ms = 0;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fx *f = *state;
	char *directory;

	if (!f)
		return 0;
	directory = f->conf.directory;
	fx_free(f);
	free(directory);
	return 0;
}

#define NEED_TESTBED(f)                                                                                                \
	do {                                                                                                           \
		if (!(f))                                                                                              \
			skip();                                                                                        \
	} while (0)

static void check_noisy(struct fx *f, uint32_t run)
{
	char path[128];

	FX_WAIT(f, fx_event(f, run, EV_END, NULL));
	if (!fx_event(f, run, EV_END, "succeeded"))
		fail_msg("ended as %s: %s", event_str(fx_event(f, run, EV_END, NULL), "status"),
			 event_str(fx_event(f, run, EV_END, NULL), "why"));
	FX_WAIT(f, fx_logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	fx_assert_spool(f, run, SPOOL_OUT, noisy_out, sizeof(noisy_out) - 1);
	fx_assert_spool(f, run, SPOOL_ERR, noisy_err, sizeof(noisy_err) - 1);
	(void)snprintf(path, sizeof(path), "con trol/" UUID "/runs/%u/executed", run);
	fx_assert_home_file(f, path, "x\n");
}

static void test_life(void **state)
{
	struct fx *f = *state;
	const struct event *end;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, f->up);
	FX_WAIT(f, fx_event(f, 7, EV_SUBMITTED, NULL));
	check_noisy(f, 7);
	end = fx_event(f, 7, EV_END, NULL);
	assert_int_equal(event_int(end, "exit_code", -1), 0);
	assert_int_equal(event_int(end, "out_len", -1), sizeof(noisy_out) - 1);
	cluster_slurm_ops.post(f->c, creq_new(CREQ_END_SEEN, 7, 1, 0));
	FX_WAIT(f, fx_home_has(f, "con trol/" UUID "/runs/7/a1/exit"));
	cluster_slurm_ops.post(f->c, creq_new(CREQ_FORGET, 7, 0, 0));
	FX_WAIT(f, !fx_home_has(f, "con trol/" UUID "/runs/7"));
}

static void test_codes(void **state)
{
	struct fx *f = *state;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	fx_submit(f, 1, "exit 3");
	fx_submit(f, 2, "kill -9 $$");
	FX_WAIT(f, fx_event(f, 1, EV_END, "failed"));
	assert_int_equal(event_int(fx_event(f, 1, EV_END, NULL), "exit_code", -1), 3);
	FX_WAIT(f, fx_event(f, 2, EV_END, "failed"));
	assert_int_equal(event_int(fx_event(f, 2, EV_END, NULL), "signal", -1), 9);
}

static void test_rejected(void **state)
{
	struct fx *f = *state;
	struct creq *q;

	NEED_TESTBED(f);
	q = fx_make_submit(f, CREQ_SUBMIT, 7, 1, "true");
	free(q->job->sbatch);
	q->job->sbatch = xcalloc(2, sizeof(*q->job->sbatch));
	q->job->sbatch[0] = xstrdup("--partition=none");
	fx_start_ops(f, &cluster_slurm_ops);
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_REJECTED, NULL));
	assert_non_null(strstr(event_str(fx_event(f, 7, EV_REJECTED, NULL), "why"), "partition"));
}

static void test_cancel(void **state)
{
	struct fx *f = *state;
	struct creq *q;
	uint64_t t;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	fx_submit(f, 1, "echo started; sleep 60");
	FX_WAIT(f, f->out_len == 8);
	t = fx_verb(f, 1, "cancel", NULL);
	FX_WAIT(f, fx_answer(f, t));
	assert_int_equal(fx_answer(f, t)->code, 0);
	FX_WAIT(f, fx_event(f, 1, EV_END, NULL));
	assert_non_null(fx_event(f, 1, EV_END, "cancelled"));
	/* held, so that it stays in the queue */
	q = fx_make_submit(f, CREQ_SUBMIT, 2, 1, "true");
	q->job->hold = true;
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 2, EV_STATE, "pending"));
	t = fx_verb(f, 2, "cancel", NULL);
	FX_WAIT(f, fx_event(f, 2, EV_END, NULL));
	assert_non_null(fx_event(f, 2, EV_END, "cancelled"));
	assert_int_equal(fx_answer(f, t)->code, 0);
}

static void test_hold_and_release(void **state)
{
	struct fx *f = *state;
	struct creq *q;
	uint64_t t;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	q = fx_make_submit(f, CREQ_SUBMIT, 7, 1, NOISY);
	q->job->hold = true;
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	assert_non_null(strstr(event_str(fx_event(f, 7, EV_STATE, "pending"), "reason"), "Held"));
	t = fx_verb(f, 7, "release", NULL);
	FX_WAIT(f, fx_answer(f, t));
	assert_int_equal(fx_answer(f, t)->code, 0);
	check_noisy(f, 7);
}

static void test_files(void **state)
{
	struct fx *f = *state;
	struct creq *q;
	uint64_t read, list, manifest;
	char code[512];

	NEED_TESTBED(f);
	q = fx_make_submit(f, CREQ_SUBMIT, 7, 1,
			   "mkdir \"$SLURMRAY_RESULTS/d\"; sha1sum <big >\"$SLURMRAY_RESULTS/d/sum\"");
	(void)snprintf(code, sizeof(code),
		       "mkdir \"%s/files\" && head -c 20000000 /dev/urandom >\"%s/files/big\" && sha1sum "
		       "<\"%s/files/big\" >want",
		       f->state, f->state, f->state);
	fx_shell(f->home, code);
	q->files_dir = xasprintf("%s/files", f->state);
	fx_start_ops(f, &cluster_slurm_ops);
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	read = fx_ask(f, CREQ_READ, 7, "d/sum", 0, 1000);
	list = fx_ask(f, CREQ_LIST, 7, "d", 0, 0);
	manifest = fx_ask(f, CREQ_MANIFEST, 7, "", 0, 0);
	FX_WAIT(f, f->n_answers == 3);
	fx_assert_home_file(f, "want", fx_answer(f, read)->data);
	assert_non_null(memmem(fx_answer(f, list)->data, fx_answer(f, list)->len, "\0sum\0\0", 6));
	assert_non_null(memmem(fx_answer(f, manifest)->data, fx_answer(f, manifest)->len, "\0d/sum\0\0", 8));
}

static void test_many(void **state)
{
	struct fx *f = *state;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	for (uint32_t i = 1; i <= 20; i++)
		fx_submit(f, i, "true");
	for (uint32_t i = 1; i <= 20; i++)
		FX_WAIT(f, fx_event(f, i, EV_END, "succeeded"));
}

/* The server goes away while a job runs and while another one is being submitted. */
static void test_server_away(void **state)
{
	struct fx *f = *state;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	fx_submit(f, 7,
		  "echo x >>\"$SLURMRAY_RESULTS/../../executed\"; printf 'a\\0b\\377\\n'; printf 'warn\\0' >&2; sleep "
		  "4; printf end");
	FX_WAIT(f, f->out_len > 0);
	fx_shell(f->home, "\"$TESTBED\" sshd-stop >/dev/null");
	FX_WAIT(f, !f->up);
	assert_true(f->asking);
	fx_submit(f, 8, "true");
	fx_shell(f->home, "\"$TESTBED\" sshd-start >/dev/null");
	check_noisy(f, 7);
	FX_WAIT(f, fx_event(f, 8, EV_END, "succeeded"));
}

/* A frozen controller: nothing is known, nothing ends, nothing is submitted twice. */
static void test_controller_away(void **state)
{
	struct fx *f = *state;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	FX_WAIT(f, f->up);
	fx_shell(f->home, "\"$TESTBED\" ctld-freeze >/dev/null");
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_FACTS, NULL));
	fx_shell(f->home, "\"$TESTBED\" ctld-thaw >/dev/null");
	check_noisy(f, 7);
}

static void test_probe(void **state)
{
	struct fx *f = *state;
	struct creq *q;

	NEED_TESTBED(f);
	fx_start_ops(f, &cluster_slurm_ops);
	q = creq_new(CREQ_PROBE, 0, 0, 5);
	q->arg = xstrdup("partitions");
	remote_post(f->c, q);
	FX_WAIT(f, fx_answer(f, 5));
	assert_int_equal(fx_answer(f, 5)->code, 0);
	assert_non_null(strstr(fx_answer(f, 5)->data, "compute"));
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_life),  T(test_codes), T(test_rejected), T(test_cancel),      T(test_hold_and_release),
		T(test_files), T(test_many),  T(test_probe),    T(test_server_away), T(test_controller_away),
	};
	char path[PATH_MAX];

	(void)signal(SIGPIPE, SIG_IGN);
	if (realpath("scripts/testbed", path))
		(void)setenv("TESTBED", path, 0); /* the helpers run elsewhere */
	log_setup(STDERR_FILENO, getenv("TEST_VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
