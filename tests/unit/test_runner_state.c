/*
 * What is told of a session's runner: changes alone, times as distances, and silence when no new beat is seen.
 */
#include "backend/runner_state.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#define SEC ((int64_t)USEC_PER_SEC)
#define HERE (2000000000 * SEC) /* when there it is 1000 */

static json_t *at(struct runner_seen *s, const char *text, int64_t seconds)
{
	const struct runner_times t = { 1000 + seconds, HERE + seconds * SEC, 5 * SEC + seconds * SEC };

	return runner_seen_take(s, text, &t);
}

static int64_t int_of(const json_t *facts, const char *key)
{
	assert_true(json_is_integer(json_object_get(facts, key)));
	return json_integer_value(json_object_get(facts, key));
}

static void told_once(void **state)
{
	struct runner_seen s = { 0 };
	json_t *f = at(&s, "nodes n1 n2 n3;up 900;quiet_since 990;idle 0;live 0;waiting 0;beat 998;", 0);

	(void)state;
	assert_string_equal(json_string_value(json_object_get(f, "session_nodes")), "n1 n2 n3");
	assert_true(json_is_null(json_object_get(f, "session_lost")));
	assert_true(json_is_null(json_object_get(f, "session_silent")));
	assert_true(int_of(f, "session_quiet") == HERE - 10 * SEC);
	assert_int_equal(json_object_size(f), 4);
	json_decref(f);
	assert_null(at(&s, "nodes n1 n2 n3;quiet_since 990;beat 1013;", 20));
	assert_null(at(&s, "nodes n1 n2 n3\nquiet_since 989\nbeat 1028\n", 35)); /* a clock's jitter */
	f = at(&s, "nodes n1 n2 n3;quiet_since -;beat 1043;lost n3;lost n2;", 50);
	assert_string_equal(json_string_value(json_object_get(f, "session_lost")), "n3 n2");
	assert_true(int_of(f, "session_quiet") == 0);
	assert_int_equal(json_object_size(f), 2);
	json_decref(f);
	assert_null(at(&s, "nodes n1 n2 n3;quiet_since -;beat 1058;lost n3;lost n2;", 60));
	runner_seen_release(&s);
}

static void silence(void **state)
{
	static const char old[] = "nodes n1;quiet_since -;beat 400;";
	struct runner_seen s = { 0 };
	json_t *f = at(&s, old, 0); /* its clock may be wrong by any time: that alone is no silence */

	(void)state;
	assert_true(json_is_null(json_object_get(f, "session_silent")));
	json_decref(f);
	assert_null(at(&s, old, 100));
	f = at(&s, old, 125);
	assert_int_equal(json_object_size(f), 1);
	assert_true(int_of(f, "session_silent") == HERE);
	json_decref(f);
	assert_null(at(&s, old, 200));
	f = at(&s, "nodes n1;quiet_since -;beat 415;", 210);
	assert_int_equal(json_object_size(f), 1);
	assert_true(json_is_null(json_object_get(f, "session_silent")));
	json_decref(f);
	/* the file is gone, or is no such file */
	assert_null(at(&s, "", 220));
	f = at(&s, "beat;nodes;quiet_since x;;\n", 340);
	assert_true(int_of(f, "session_silent") == HERE + 210 * SEC);
	json_decref(f);
	runner_seen_release(&s);
}

static void nothing_heard(void **state)
{
	struct runner_seen s = { 0 };

	(void)state;
	assert_null(at(&s, "", 0));
	assert_null(at(&s, "nodes n1;", 1000));
	assert_null(at(&s, "beat 99999999999999999999;nodes n1;", 2000));
	runner_seen_release(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(told_once),
		cmocka_unit_test(silence),
		cmocka_unit_test(nothing_heard),
	};

	return cmocka_run_group_tests_name("runner_state", tests, NULL, NULL);
}
