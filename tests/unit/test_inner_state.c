/*
 * What is told of the files of a Ray or Spark cluster: changes, once, and all of it at the first look.
 */
#include "backend/inner_state.h"

#include "backend/base/mem.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <string.h>

#define TAKE(s, ...) inner_seen_take((s), INNER_RAY, (const char *const[INNER_FILES]){ __VA_ARGS__ })

static const char *text_of(const json_t *facts, const char *key)
{
	return json_string_value(json_object_get(facts, key));
}

static void told_once(void **state)
{
	struct inner_seen s = { 0 };
	json_t *f;

	(void)state;
	f = TAKE(&s, "starting\n", "its nodes are starting\n");
	assert_string_equal(text_of(f, "ray_state"), "starting");
	assert_string_equal(text_of(f, "ray_why"), "its nodes are starting");
	/* An earlier worker may have told an address that is no more. */
	assert_true(json_is_null(json_object_get(f, "ray_address")));
	assert_int_equal(json_object_size(f), INNER_FILES);
	json_decref(f);
	assert_null(TAKE(&s, "starting", "its nodes are starting\n"));
	assert_false(inner_seen_settled(&s));
	f = TAKE(&s, "ready\n", "its nodes are starting\n", "10.0.0.1:6379\n");
	assert_int_equal(json_object_size(f), 2);
	assert_string_equal(text_of(f, "ray_address"), "10.0.0.1:6379");
	json_decref(f);
	assert_true(inner_seen_settled(&s));
	f = TAKE(&s, "starting\n", "its nodes are starting\n", "");
	assert_int_equal(json_object_size(f), 2);
	assert_true(json_is_null(json_object_get(f, "ray_address")));
	json_decref(f);
	inner_seen_release(&s);
}

static void lines_stay(void **state)
{
	struct inner_seen s = { 0 };
	json_t *f = TAKE(&s, [INNER_NODES] = "a 1 x ALIVE 2 0\nb 2 y DEAD 2 0\n\n");

	(void)state;
	assert_string_equal(text_of(f, "ray_nodes"), "a 1 x ALIVE 2 0\nb 2 y DEAD 2 0");
	json_decref(f);
	inner_seen_release(&s);
}

static void kinds(void **state)
{
	const char *const files[INNER_FILES] = { [INNER_STATE] = "ready\n", [INNER_ADDRESS] = "spark://h:1\n" };
	struct inner_seen s = { 0 };
	json_t *f = inner_seen_take(&s, INNER_SPARK, files);

	(void)state;
	assert_string_equal(text_of(f, "spark_state"), "ready");
	assert_string_equal(text_of(f, "spark_address"), "spark://h:1");
	assert_null(json_object_get(f, "ray_state"));
	json_decref(f);
	inner_seen_release(&s);
}

static void what_is_no_text(void **state)
{
	struct inner_seen s = { 0 };
	json_t *f = TAKE(&s, "ready", "\xff\xfe");

	(void)state;
	assert_true(json_is_null(json_object_get(f, "ray_why")));
	assert_string_equal(text_of(f, "ray_state"), "ready");
	json_decref(f);
	assert_null(TAKE(&s, "ready", "\xff\xfe"));
	inner_seen_release(&s);
}

static void whose_own(void **state)
{
	static char session[] = "s";
	struct job job = { 0 };

	(void)state;
	assert_false(inner_own(NULL, INNER_RAY));
	assert_false(inner_own(&job, INNER_RAY));
	job.ray.on = true;
	assert_true(inner_own(&job, INNER_RAY));
	assert_false(inner_own(&job, INNER_SPARK));
	job.spark.on = true;
	assert_true(inner_own(&job, INNER_SPARK));
	job.spark.master = session; /* somebody else's */
	assert_false(inner_own(&job, INNER_SPARK));
	job.session = session; /* that one's */
	assert_false(inner_own(&job, INNER_RAY));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(told_once),       cmocka_unit_test(lines_stay), cmocka_unit_test(kinds),
		cmocka_unit_test(what_is_no_text), cmocka_unit_test(whose_own),
	};

	return cmocka_run_group_tests_name("inner_state", tests, NULL, NULL);
}
