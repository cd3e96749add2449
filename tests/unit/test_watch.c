/*
 * Directories of live runs that come by themselves (backend/remote_watch.c), over a fake cluster: what a line of the
 * log announces is listed before the line can be read, nothing is asked for what nobody looks at, and logs stay exact.
 * TEST_SECONDS=32
 */
#include "tests/unit/lib_cluster.h"
#include "tests/unit/lib_fake_cluster.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <signal.h>
#include <stdio.h>

static int setup(void **state)
{
	fx_clear_faults();
	*state = fx_new();
	return 0;
}

static int teardown(void **state)
{
	fx_free(*state);
	return 0;
}

static void look(struct fx *f, uint32_t run, unsigned bits)
{
	struct creq *q = creq_new(CREQ_LOOK, run, 1, 0);

	q->look = bits;
	remote_post(f->c, q);
}

/* The size of a file in the last listing; -1: it is not in it, -2: it is no file. */
static long long listed(const struct fx *f, enum cluster_area area, const char *path)
{
	const char *p = f->listing[area], *end = p + f->listing_len[area], *field[6];

	while (p < end) {
		for (int i = 0; i < 6; i++) {
			field[i] = p;
			p += strlen(p) + 1;
		}
		assert_true(p <= end);
		if (strcmp(field[4], path) == 0)
			return *field[0] == 'f' ? strtoll(field[1], NULL, 10) : -2;
	}
	return -1;
}

static size_t lines_of_log(const struct fx *f, uint32_t run, size_t *bytes)
{
	struct spool_reader *r = NULL;
	struct err e = ERR_INIT;
	char spool[128], buf[65536];
	ssize_t n, lines = 0;

	(void)snprintf(spool, sizeof(spool), "%s/spool", f->state);
	assert_int_equal(spool_reader_open(spool, run, false, &r, &e), 0);
	n = spool_reader_pread(r, SPOOL_OUT, buf, sizeof(buf), 0);
	spool_reader_close(r);
	assert_true(n >= 0);
	for (ssize_t i = 0; i < n; i++)
		lines += buf[i] == '\n';
	*bytes = (size_t)n;
	return (size_t)lines;
}

/* Line N says: rN is there, deep/N/x has two bytes, `all` has N lines, r(N-1) is gone. */
#define ANNOUNCES                                                                                                      \
	"cd \"$SLURMRAY_RESULTS\"; n=0; while [ $n -lt 40 ]; do n=$((n + 1)); mkdir -p deep/$n; echo x >deep/$n/x; "   \
	"printf .. >>all; echo $n >r$n; rm -f r$((n - 1)); echo $n; sleep 0.07; done; until [ -e \"$HOME/go\" ]; do "  \
	"sleep 0.05; done"

static size_t seen_lines;

static void check_announced(struct fx *f, uint32_t run)
{
	size_t bytes, n = lines_of_log(f, run, &bytes);
	char name[64];

	if (n == seen_lines || !f->listings)
		return;
	seen_lines = n;
	if (n < 40) { /* a later line may have been written when it was listed */
		(void)snprintf(name, sizeof(name), "deep/%zu/x", n);
		assert_int_equal(listed(f, AREA_RESULTS, name), 2);
		assert_true(listed(f, AREA_RESULTS, "all") >= (long long)(2 * n));
		(void)snprintf(name, sizeof(name), "r%zu", n - 1);
		assert_int_equal(listed(f, AREA_RESULTS, name), -1);
		return;
	}
	assert_int_equal(listed(f, AREA_RESULTS, "r40"), 3);
	assert_int_equal(listed(f, AREA_RESULTS, "all"), 80);
	assert_int_equal(listed(f, AREA_RESULTS, "deep"), -2);
	assert_true(f->listing_whole);
}

static void announced(struct fx *f)
{
	seen_lines = 0;
	f->on_log = check_announced;
	fx_start(f);
	fx_submit(f, 7, ANNOUNCES);
	FX_WAIT(f, fx_event(f, 7, EV_SUBMITTED, NULL));
	look(f, 7, CLUSTER_LOOK_RUN);
	FX_WAIT(f, seen_lines == 40);
	fx_shell(f->home, ": >go");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	assert_true(f->listings > 0); /* how many is a matter of the machine's speed */
}

static void test_announced(void **state)
{
	announced(*state);
}

static void test_announced_without_sftp(void **state)
{
	fake.sftp = FAKE_SFTP_CLOSED;
	announced(*state);
}

static void test_announced_plain_sh(void **state)
{
	fake.shell = "dash";
	announced(*state);
}

/* Whatever is cut: the log is exact in the end, and the run ends. */
static void test_cut(void **state)
{
	struct fx *f = *state;
	struct strbuf want = STRBUF_INIT;

	fake.cut_every = 60;
	fx_start(f);
	fx_submit(
		f, 7,
		"cd \"$SLURMRAY_RESULTS\"; n=0; while [ $n -lt 60 ]; do n=$((n + 1)); echo $n >r$n; echo $n; sleep 0.03; done");
	FX_WAIT(f, fx_event(f, 7, EV_SUBMITTED, NULL));
	for (int i = 1; i <= 60; i++)
		strbuf_addf(&want, "%d\n", i);
	FX_WAIT(f, (look(f, 7, CLUSTER_LOOK_RUN | CLUSTER_LOOK_RESULTS), fx_event(f, 7, EV_END, "succeeded")));
	FX_WAIT(f, fx_logs_are(f, (int64_t)want.len, 0));
	fx_assert_spool(f, 7, SPOOL_OUT, want.buf, want.len);
	strbuf_release(&want);
}

/* Lines that announce nothing cost no listing once the times are old enough to be sure. */
static void test_unchanged(void **state)
{
	struct fx *f = *state;
	int before;

	fx_start(f);
	fx_submit(
		f, 7,
		"echo 1 >\"$SLURMRAY_RESULTS/r\"; echo first; sleep 3.5; echo second; sleep 0.3; : >\"$HOME/settled\"; "
		"until [ -e \"$HOME/on\" ]; do sleep 0.05; done; for i in 1 2 3 4 5 6 7 8 9 10; do echo line; sleep 0.1; done; "
		": >\"$HOME/said\"; until [ -e \"$HOME/go\" ]; do sleep 0.05; done; echo 22 >\"$SLURMRAY_RESULTS/r\"; echo x; "
		"until [ -e \"$HOME/end\" ]; do sleep 0.05; done");
	FX_WAIT(f, fx_event(f, 7, EV_SUBMITTED, NULL));
	look(f, 7, CLUSTER_LOOK_RUN);
	FX_WAIT(f, fx_home_has(f, "settled") && f->out_len == 13);
	before = f->listings;
	assert_true(before >= 1 && before < 6);
	fx_shell(f->home, ": >on");
	FX_WAIT(f, fx_home_has(f, "said") && f->out_len == 63);
	assert_int_equal(f->listings, before);
	/* a file of which only the size has changed */
	fx_shell(f->home, ": >go");
	FX_WAIT(f, f->out_len == 65);
	assert_true(f->listings > before);
	assert_int_equal(listed(f, AREA_RESULTS, "r"), 3);
	fx_shell(f->home, ": >end");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
}

/* Who looks into results/ or work/ is told of what comes, also when the job says nothing. */
static void test_by_itself(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(
		f, 7,
		"echo w >in-work; for i in 1 2 3; do until [ -e \"$HOME/go$i\" ]; do sleep 0.02; done; "
		"echo $i >\"$SLURMRAY_RESULTS/r$i\"; mv in-work in-work$i; cp in-work$i in-work; done; until [ -e \"$HOME/end\" ]; do sleep 0.05; done");
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "running"));
	look(f, 7, CLUSTER_LOOK_RESULTS);
	FX_WAIT(f, f->listings);
	assert_null(f->listing[AREA_WORK]);
	fx_shell(f->home, ": >go1");
	FX_WAIT(f, f->listing[AREA_RESULTS] && listed(f, AREA_RESULTS, "r1") == 2);
	assert_null(f->listing[AREA_WORK]);
	look(f, 7, CLUSTER_LOOK_WORK);
	FX_WAIT(f, f->listing[AREA_WORK] && listed(f, AREA_WORK, "in-work1") == 2);
	fx_shell(f->home, ": >go2; : >go3");
	FX_WAIT(f, listed(f, AREA_WORK, "in-work3") == 2 && listed(f, AREA_RESULTS, "r3") == 2);
	fx_shell(f->home, ": >end");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
}

static void test_nobody_looks(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(f, 7, "for i in 1 2 3 4 5; do echo $i >\"$SLURMRAY_RESULTS/r$i\"; echo $i; sleep 0.1; done");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	FX_WAIT(f, fx_logs_are(f, 10, 0));
	look(f, 7, CLUSTER_LOOK_RUN | CLUSTER_LOOK_RESULTS); /* too late: it has ended */
	fx_stop(f);
	assert_int_equal(f->listings, 0);
}

/* A tree that is too large is told in part; its log does not wait for it. */
static void test_large(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(
		f, 7,
		"cd \"$SLURMRAY_RESULTS\"; seq -f file-with-a-long-name-that-takes-room-%06.0f 3000 | xargs touch; "
		"until [ -e \"$HOME/go\" ]; do sleep 0.02; done; for i in 1 2 3; do echo $i; touch new$i; done; sleep 0.5");
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "running"));
	look(f, 7, CLUSTER_LOOK_RESULTS);
	FX_WAIT(f, f->listings && !f->listing_whole && f->listing_len[AREA_RESULTS] > 100000);
	fx_shell(f->home, ": >go");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	FX_WAIT(f, fx_logs_are(f, 6, 0));
}

/* Names and targets are data: newlines, marks, links out, FIFOs. */
static void test_names(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(
		f, 7,
		"cd \"$SLURMRAY_RESULTS\"; touch 'new\nline' ' blank' ./-dash; mkdir -p '$(touch x)'; mkfifo fifo; "
		"ln -s ../../out away; ln -s //0 marks; ln -s ' blank' link; touch last; until [ -e \"$HOME/end\" ]; do sleep 0.05; done");
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "running"));
	look(f, 7, CLUSTER_LOOK_RESULTS);
	FX_WAIT(f, f->listing[AREA_RESULTS] && listed(f, AREA_RESULTS, "last") == 0);
	assert_int_equal(listed(f, AREA_RESULTS, "new\nline"), 0);
	assert_int_equal(listed(f, AREA_RESULTS, " blank"), 0);
	assert_int_equal(listed(f, AREA_RESULTS, "-dash"), 0);
	assert_int_equal(listed(f, AREA_RESULTS, "$(touch x)"), -2);
	assert_int_equal(listed(f, AREA_RESULTS, "link"), -2);
	assert_int_equal(listed(f, AREA_RESULTS, "fifo"), -1);
	assert_int_equal(listed(f, AREA_RESULTS, "away"), -1);
	assert_int_equal(listed(f, AREA_RESULTS, "marks"), -1);
	fx_shell(f->home, ": >end");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
}

/* Many at once: one request lists for all. */
static void test_many(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	for (uint32_t i = 1; i <= 10; i++)
		fx_submit(f, i,
			  "echo r >\"$SLURMRAY_RESULTS/r\"; echo said; until [ -e \"$HOME/go\" ]; do sleep 1; done");
	for (uint32_t i = 1; i <= 10; i++)
		FX_WAIT(f, fx_event(f, i, EV_SUBMITTED, NULL));
	for (uint32_t i = 1; i <= 10; i++)
		look(f, i, CLUSTER_LOOK_RESULTS);
	FX_WAIT(f, (look(f, 10, CLUSTER_LOOK_RESULTS), f->listings >= 10));
	fx_shell(f->home, ": >go");
	for (uint32_t i = 1; i <= 10; i++)
		FX_WAIT(f, fx_event(f, i, EV_END, "succeeded"));
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		T(test_announced),
		T(test_announced_without_sftp),
		T(test_announced_plain_sh),
		T(test_cut),
		T(test_unchanged),
		T(test_by_itself),
		T(test_nobody_looks),
		T(test_large),
		T(test_names),
		T(test_many),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	log_setup(STDERR_FILENO, getenv("TEST_VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
