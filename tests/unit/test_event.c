/*
 * Events: names are stable and unique, members are read with defaults.
 */
#include "backend/event.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
/* cmocka.h needs the three above */
#include <cmocka.h>

static void names_go_both_ways(void **state)
{
	(void)state;
	for (int i = 0; i < EV_N; i++) {
		assert_non_null(event_name((enum event_type)i));
		assert_int_equal(event_type_of(event_name((enum event_type)i)), i);
	}
	assert_int_equal(event_type_of("create"), EV_CREATE);
	assert_int_equal(event_type_of("purge"), EV_PURGE);
	assert_int_equal(event_type_of(""), -1);
	assert_int_equal(event_type_of("Create"), -1);
	assert_int_equal(event_type_of("nonsense"), -1);
}

static void members(void **state)
{
	json_t *o = json_pack("{s:s, s:I, s:b, s:n}", "why", "because", "attempt", (json_int_t)1 << 40, "manifest", 1,
			      "start");
	struct event *ev = event_new(EV_END, 17, o);

	(void)state;
	assert_int_equal(ev->type, EV_END);
	assert_int_equal(ev->time, 17);
	assert_string_equal(event_str(ev, "why"), "because");
	assert_null(event_str(ev, "attempt"));
	assert_null(event_str(ev, "nothing"));
	assert_null(event_str(ev, "start"));
	assert_true(event_int(ev, "attempt", 0) == 1LL << 40);
	assert_int_equal(event_int(ev, "why", -7), -7);
	assert_int_equal(event_int(ev, "manifest", -7), -7);
	assert_int_equal(event_int(ev, "nothing", 3), 3);
	event_free(ev);
}

static void no_data_is_an_empty_object(void **state)
{
	struct event *ev = event_new(EV_KNOWN, -1, NULL);

	(void)state;
	assert_true(json_is_object(ev->data));
	assert_int_equal(json_object_size(ev->data), 0);
	event_free(ev);
	event_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_go_both_ways),
		cmocka_unit_test(members),
		cmocka_unit_test(no_data_is_an_empty_object),
	};

	return cmocka_run_group_tests_name("event", tests, NULL, NULL);
}
