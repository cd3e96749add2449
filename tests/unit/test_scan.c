/*
 * The scanner: where documents of each form end, and that it does not matter how they are cut.
 */
#include "backend/scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define WHOLE(text) (text), sizeof(text) - 1

static void expect(const char *data, size_t len, enum scan_result result, enum scan_form form, size_t used,
		   size_t start)
{
	struct scan s;
	size_t got;

	scan_init(&s);
	assert_int_equal(scan_feed(&s, data, len, &got), result);
	assert_int_equal(s.form, form);
	assert_int_equal(got, used);
	assert_int_equal(s.fed, used);
	if (form != SCAN_NONE)
		assert_int_equal(s.start, start);
}

static void test_json(void **state)
{
	(void)state;
	expect(WHOLE("{}"), SCAN_COMPLETE, SCAN_JSON, 2, 0);
	expect(WHOLE(" \r\n\t{} tail"), SCAN_COMPLETE, SCAN_JSON, 6, 4);
	expect(WHOLE("{\"a\": {\"b\": [1]}}{"), SCAN_COMPLETE, SCAN_JSON, 17, 0);
	expect(WHOLE("{\"a\": \"}\\\"}\"}\n"), SCAN_COMPLETE, SCAN_JSON, 13, 0);
	expect(WHOLE("{\"a\": \"\\\\\"}"), SCAN_COMPLETE, SCAN_JSON, 11, 0);
	expect(WHOLE("{\"a\": [}"), SCAN_MORE, SCAN_JSON, 8, 0);
	expect(WHOLE("{\"a\": tru"), SCAN_MORE, SCAN_JSON, 9, 0);
	expect(WHOLE("{\"}"), SCAN_MORE, SCAN_JSON, 3, 0);
	expect(WHOLE("{\0}"), SCAN_COMPLETE, SCAN_JSON, 3, 0);
}

static void test_line(void **state)
{
	(void)state;
	expect(WHOLE("echo hi\n"), SCAN_COMPLETE, SCAN_LINE, 8, 0);
	expect(WHOLE("echo hi"), SCAN_MORE, SCAN_LINE, 7, 0);
	expect(WHOLE("\n\n  echo {\necho\n"), SCAN_COMPLETE, SCAN_LINE, 11, 4);
	expect(WHOLE("[1]\n"), SCAN_COMPLETE, SCAN_LINE, 4, 0);
	expect(WHOLE("#\n"), SCAN_COMPLETE, SCAN_LINE, 2, 0);
	expect(WHOLE("# !\nx"), SCAN_COMPLETE, SCAN_LINE, 4, 0);
	expect(WHOLE("##!\n"), SCAN_COMPLETE, SCAN_LINE, 4, 0);
	expect(WHOLE("\0\n"), SCAN_COMPLETE, SCAN_LINE, 2, 0);
}

static void test_script(void **state)
{
	(void)state;
	expect(WHOLE("#!/bin/sh\necho {}\n"), SCAN_MORE, SCAN_SCRIPT, 18, 0);
	expect(WHOLE("\n#!/bin/sh\n"), SCAN_MORE, SCAN_SCRIPT, 11, 1);
	expect(WHOLE("#!"), SCAN_MORE, SCAN_SCRIPT, 2, 0);
}

static void test_nothing_yet(void **state)
{
	struct scan s;
	size_t used;

	(void)state;
	expect(WHOLE(""), SCAN_MORE, SCAN_NONE, 0, 0);
	expect(WHOLE(" \n\r\t"), SCAN_MORE, SCAN_NONE, 4, 0);
	scan_init(&s);
	assert_int_equal(scan_feed(&s, " #", 2, &used), SCAN_MORE);
	assert_int_equal(s.form, SCAN_NONE);
	assert_int_equal(s.start, 1);
	assert_int_equal(scan_feed(&s, "", 0, &used), SCAN_MORE);
	assert_int_equal(used, 0);
	assert_int_equal(scan_feed(&s, "!", 1, &used), SCAN_MORE);
	assert_int_equal(s.form, SCAN_SCRIPT);
	assert_int_equal(s.start, 1);
	assert_int_equal(s.fed, 3);
}

static void test_depth(void **state)
{
	char deep[SPEC_MAX_DEPTH + 3];
	struct scan s;
	size_t used;

	(void)state;
	memset(deep, '[', sizeof(deep));
	deep[0] = '{';
	scan_init(&s);
	assert_int_equal(scan_feed(&s, deep, SPEC_MAX_DEPTH, &used), SCAN_MORE);
	assert_int_equal(scan_feed(&s, deep + 1, 1, &used), SCAN_TOO_DEEP);
	assert_int_equal(used, 1);
	/* it stays so, whatever comes */
	assert_int_equal(scan_feed(&s, "]]]]]]]", 7, &used), SCAN_TOO_DEEP);
	assert_int_equal(used, 7);
	assert_int_equal(s.fed, SPEC_MAX_DEPTH + 8);
	expect(deep, sizeof(deep), SCAN_TOO_DEEP, SCAN_JSON, sizeof(deep), 0);
}

/* xorshift64: the same sequence in every run */
static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

struct outcome {
	enum scan_result result;
	enum scan_form form;
	size_t used, start;
};

/* Feeds pieces of 1 to `max` bytes until the document is complete or all is fed. */
static struct outcome feed_pieces(const char *data, size_t len, size_t max, uint64_t *rnd)
{
	struct outcome o = { SCAN_MORE, SCAN_NONE, 0, 0 };
	struct scan s;

	scan_init(&s);
	while (o.used < len && o.result != SCAN_COMPLETE) {
		size_t n = 1 + next_random(rnd) % max, used;

		if (n > len - o.used)
			n = len - o.used;
		o.result = scan_feed(&s, data + o.used, n, &used);
		assert_true(used <= n);
		assert_true(o.result == SCAN_COMPLETE || used == n);
		o.used += used;
	}
	assert_int_equal(s.fed, o.used);
	o.form = s.form;
	o.start = s.start;
	return o;
}

static void test_pieces_make_no_difference(void **state)
{
	static const char bytes[] = "{{}}[]\"\"\\\\ \n\t#!#! ax\0\xff";
	uint64_t rnd = 88172645463325252ULL;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		char data[200];
		size_t len = next_random(&rnd) % sizeof(data);
		struct outcome whole, pieces;

		for (size_t i = 0; i < len; i++)
			data[i] = round % 4 == 0 ? (char)next_random(&rnd)
						 : bytes[next_random(&rnd) % (sizeof(bytes) - 1)];
		if (len > 0 && round % 2 == 0)
			data[0] = '{';
		whole = feed_pieces(data, len, 1, &rnd);
		for (size_t max = 2; max <= 1000; max = max * 3) {
			pieces = feed_pieces(data, len, max, &rnd);
			assert_memory_equal(&whole, &pieces, sizeof(whole));
		}
	}
}

static void test_documents_in_a_row(void **state)
{
	static const char text[] = "{\"a\":1} {\"b\":\"}\"}\n{}";
	const size_t lengths[] = { 7, 10, 3 };
	size_t pos = 0;

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct scan s;
		size_t used;

		scan_init(&s);
		assert_int_equal(scan_feed(&s, text + pos, sizeof(text) - 1 - pos, &used), SCAN_COMPLETE);
		assert_int_equal(used, lengths[i]);
		pos += used;
	}
	assert_int_equal(pos, sizeof(text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_line),
		cmocka_unit_test(test_script),
		cmocka_unit_test(test_nothing_yet),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_pieces_make_no_difference),
		cmocka_unit_test(test_documents_in_a_row),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
