/*
 * Self-kills of workers under test: each case forks a process that sets itself up from the environment, passes points
 * and says by its end how that went.
 */
#include "fs/die.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PASSES = 20000, WORDS = 4, PAGE_POINTS = 64 };

/* Status of a process that passes `p` PASSES times: its exit status, or 128 + signal. */
static int passes(const char *variable, enum point p)
{
	int st;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct err e = ERR_INIT;

		(void)close(STDERR_FILENO);
		if (variable)
			(void)setenv(DIE_VARIABLE, variable, 1);
		else
			(void)unsetenv(DIE_VARIABLE);
		if (die_setup(&e) < 0)
			_exit(e.code == -EINVAL && strstr(e.text, DIE_VARIABLE) ? 22 : 1);
		if (!variable != !die_session_hook())
			_exit(2);
		for (int i = 0; i < PASSES; i++)
			point(p);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
}

static void names_are_unique(void **state)
{
	(void)state;
	for (int i = 0; i < POINT_N; i++) {
		assert_true(strlen(point_name((enum point)i)) < 32);
		assert_int_equal(point_of(point_name((enum point)i)), i);
	}
	assert_int_equal(point_of("nowhere"), -1);
}

static void nothing_happens_without_it(void **state)
{
	(void)state;
	assert_int_equal(passes(NULL, POINT_SESSION_READ), 0);
}

static void chances(void **state)
{
	char number[64];

	(void)state;
	assert_int_equal(passes("spool.data:1:7", POINT_SPOOL_DATA), 128 + SIGKILL);
	assert_int_equal(passes("spool.data:0.01:7", POINT_SPOOL_DATA), 128 + SIGKILL);
	assert_int_equal(passes("spool.data:1:7", POINT_SPOOL_APPENDED), 0);
	assert_int_equal(passes("spool.data:0:7", POINT_SPOOL_DATA), 0);
	(void)snprintf(number, sizeof(number), "%d:1:1", POINT_SPOOL_DATA);
	assert_int_equal(passes(number, POINT_SPOOL_DATA), 128 + SIGKILL);
}

static void nonsense_is_refused(void **state)
{
	static const char *const wrong[] = { "x",
					     "nowhere:1:1",
					     "spool.data",
					     "spool.data:",
					     "spool.data:2:1",
					     "spool.data:-1:1",
					     "spool.data:1",
					     "spool.data:x:1",
					     "999:1:1",
					     ":1:1" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(passes(wrong[i], POINT_SPOOL_DATA), 22);
	assert_int_equal(passes("/nowhere/at/all", POINT_SPOOL_DATA), 1);
}

/* As tests/torture/world.py sees the page. */
static void a_page_kills_once(void **state)
{
	char path[] = "/tmp/test_die.XXXXXX";
	int fd = mkstemp(path);
	uint32_t *page;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(passes(path, POINT_CONV_SAVED), 0);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(page != MAP_FAILED);
	assert_int_equal(page[0], POINT_N);
	assert_string_equal((char *)page + WORDS * 4 + 2 * 4 * PAGE_POINTS + 32 * POINT_CONV_SAVED, "conv.saved");
	assert_int_equal(page[WORDS + POINT_CONV_SAVED], PASSES);
	page[2] = 10;
	page[1] = POINT_CONV_SAVED + 1;
	assert_int_equal(passes(path, POINT_CONV_MARKED), 0);
	assert_int_equal(passes(path, POINT_CONV_SAVED), 128 + SIGKILL);
	assert_int_equal(page[WORDS + POINT_CONV_SAVED], PASSES + 10);
	assert_int_equal(page[WORDS + PAGE_POINTS + POINT_CONV_SAVED], 1);
	assert_int_equal(page[3], 1);
	assert_int_equal(page[1], 0);
	assert_int_equal(passes(path, POINT_CONV_SAVED), 0);
	assert_int_equal(munmap(page, 4096), 0);
	(void)close(fd);
	(void)unlink(path);
}

static void session_points_are_points(void **state)
{
	(void)state;
	assert_string_equal(point_name((enum point)SESSION_READ), "session.read");
	assert_string_equal(point_name((enum point)SESSION_PARKED), "session.parked");
	assert_string_equal(point_name((enum point)SESSION_TAKING_OVER), "session.taking-over");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_unique),  cmocka_unit_test(nothing_happens_without_it),
		cmocka_unit_test(chances),           cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(a_page_kills_once), cmocka_unit_test(session_points_are_points),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
