/*
 * The poll loop with pipes in the place of FUSE and engine, and a clock of its own.
 */
#include "fs/reactor.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct rig {
	struct reactor r;
	struct reactor_conf conf;
	int fuse[2], engine[2];
	int tries, served, engine_calls, signals, timer_calls;
	int stop_after;    /* requests */
	int fuse_result;   /* answered instead of serving, when not 0 */
	int64_t first_now; /* of the timer's first call; it stops the loop 2 ms later */
};

static int on_fuse(void *arg, int max)
{
	struct rig *g = arg;
	char c[64];
	ssize_t n;

	g->tries++;
	if (g->fuse_result)
		return g->fuse_result;
	n = read(g->fuse[0], c, (size_t)max < sizeof(c) ? (size_t)max : sizeof(c));
	if (n <= 0)
		return 0;
	g->served += (int)n;
	if (g->stop_after && g->served >= g->stop_after)
		reactor_stop(&g->r, 3);
	return (int)n;
}

static void on_engine(void *arg)
{
	struct rig *g = arg;
	char c[64];

	(void)!read(g->engine[0], c, sizeof(c));
	g->engine_calls++;
	if (!g->stop_after)
		reactor_stop(&g->r, 0);
}

static void on_signal(void *arg, const struct signalfd_siginfo *si)
{
	struct rig *g = arg;

	assert_int_equal(si->ssi_signo, SIGUSR1);
	g->signals++;
	reactor_stop(&g->r, 75);
	reactor_stop(&g->r, 1); /* the first one counts */
}

static int64_t on_timer(void *arg, int64_t now)
{
	struct rig *g = arg;

	g->timer_calls++;
	if (!g->first_now)
		g->first_now = now;
	if (now >= g->first_now + 2000)
		reactor_stop(&g->r, 9);
	return g->first_now + 2000;
}

static int setup(void **state)
{
	struct rig *g = xcalloc(1, sizeof(*g));

	assert_int_equal(pipe2(g->fuse, O_NONBLOCK), 0);
	assert_int_equal(pipe2(g->engine, O_NONBLOCK), 0);
	g->conf = (struct reactor_conf){ .fuse_fd = g->fuse[0],
					 .engine_fd = g->engine[0],
					 .signal_fd = -1,
					 .retries = 5,
					 .fuse = on_fuse,
					 .engine = on_engine,
					 .signal = on_signal,
					 .arg = g };
	*state = g;
	return 0;
}

static int teardown(void **state)
{
	struct rig *g = *state;

	(void)close(g->fuse[0]);
	(void)close(g->fuse[1]);
	(void)close(g->engine[0]);
	(void)close(g->engine[1]);
	free(g);
	return 0;
}

static void test_serves_all_then_sleeps(void **state)
{
	struct rig *g = *state;
	char many[100] = "";

	assert_int_equal(write(g->fuse[1], many, sizeof(many)), sizeof(many));
	g->stop_after = 100;
	reactor_init(&g->r, &g->conf);
	assert_int_equal(reactor_run(&g->r, NULL), 3);
	assert_int_equal(g->served, 100);
}

static void test_retries_before_sleeping(void **state)
{
	struct rig *g = *state;

	/* One request, then nothing: the five retries, and one look after each wake-up. */
	assert_int_equal(write(g->fuse[1], "x", 1), 1);
	g->conf.timer = on_timer;
	reactor_init(&g->r, &g->conf);
	assert_int_equal(reactor_run(&g->r, NULL), 9);
	assert_int_equal(g->served, 1);
	assert_in_range(g->tries, 1 + 5, 1 + 5 + 4);
}

static void test_engine_is_not_starved(void **state)
{
	struct rig *g = *state;
	char many[4000] = "";

	assert_int_equal(write(g->fuse[1], many, sizeof(many)), sizeof(many));
	assert_int_equal(write(g->engine[1], "x", 1), 1);
	reactor_init(&g->r, &g->conf);
	assert_int_equal(reactor_run(&g->r, NULL), 0);
	assert_int_equal(g->engine_calls, 1);
	assert_in_range(g->served, 1, 100); /* it came long before the end of them */
}

static void test_signal(void **state)
{
	struct rig *g = *state;
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGUSR1);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	g->conf.signal_fd = signalfd(-1, &set, SFD_NONBLOCK);
	reactor_init(&g->r, &g->conf);
	(void)raise(SIGUSR1);
	assert_int_equal(reactor_run(&g->r, NULL), 75);
	assert_int_equal(g->signals, 1);
	(void)close(g->conf.signal_fd);
}

static void test_unmounted(void **state)
{
	struct rig *g = *state;
	struct err e = ERR_INIT;

	g->fuse_result = -ENODEV;
	reactor_init(&g->r, &g->conf);
	assert_int_equal(reactor_run(&g->r, &e), -ENODEV);
	assert_int_equal(e.code, -ENODEV);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_serves_all_then_sleeps, setup, teardown),
		cmocka_unit_test_setup_teardown(test_retries_before_sleeping, setup, teardown),
		cmocka_unit_test_setup_teardown(test_engine_is_not_starved, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unmounted, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
