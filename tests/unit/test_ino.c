/*
 * Node ids: what goes in comes out, ids of different things differ, and st_ino does not depend on the instance.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SUB_MAX ((1u << INO_SUB_BITS) - 1)

static void parts_come_back(void **state)
{
	static const enum ino_kind kinds[] = { INO_FIXED, INO_RUN, INO_PATH, INO_CLUSTER, INO_LINK, INO_ENV };
	static const uint32_t numbers[] = { 0, 1, 2, 255, 65536, 0x7fffffff, 0xfffffffe, UINT32_MAX };
	static const uint32_t subs[] = { 0, 1, 255, 256, 0x1234567, SUB_MAX };

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		for (size_t n = 0; n < ARRAY_SIZE(numbers); n++) {
			for (size_t s = 0; s < ARRAY_SIZE(subs); s++) {
				uint64_t ino = ino_make(kinds[k], numbers[n], subs[s]);

				assert_int_equal(ino_kind(ino), kinds[k]);
				assert_int_equal(ino_number(ino), numbers[n]);
				assert_int_equal(ino_sub(ino), subs[s]);
				assert_int_equal(ino_row(ino), subs[s] & 255);
				assert_true(ino > 1);
			}
		}
	}
}

static void root_is_one(void **state)
{
	(void)state;
	assert_int_equal(ino_kind(1), INO_ROOT);
	assert_int_equal(ino_stable(1), 1);
}

static void sets(void **state)
{
	static const uint64_t hashes[] = { 0, 1, 0x123456789abcdefull, UINT64_MAX };
	static const enum ino_kind kinds[] = { INO_SET, INO_SET_WAIT, INO_SET_ANY };

	(void)state;
	for (unsigned set = 0; set < SET_N; set++) {
		for (size_t h = 0; h < ARRAY_SIZE(hashes); h++) {
			for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
				uint64_t ino = ino_set(kinds[k], set, hashes[h]);

				assert_int_equal(ino_kind(ino), kinds[k]);
				assert_int_equal(ino_set_kind(ino), set);
				assert_int_equal(ino_set_hash(ino), hashes[h] & ((1ull << INO_HASH_BITS) - 1));
				assert_int_equal(ino_stable(ino), ino);
			}
		}
	}
}

static void instances_share_st_ino(void **state)
{
	(void)state;
	for (uint32_t instance = 0; instance < 1u << 18; instance += 997) {
		uint32_t sub = 5 | instance << INO_ROW_BITS;

		assert_int_equal(ino_row(ino_make(INO_RUN, 77, sub)), 5);
		assert_int_equal(ino_stable(ino_make(INO_RUN, 77, sub)), ino_make(INO_RUN, 77, 5));
		assert_int_equal(ino_stable(ino_make(INO_FIXED, 0, sub)), ino_make(INO_FIXED, 0, 5));
		assert_int_equal(ino_stable(ino_make(INO_CLUSTER, 3, sub)), ino_make(INO_CLUSTER, 3, 5));
	}
}

/* Their sub is a number of its own, which no instance may hide. */
static void paths_keep_all_bits(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < SUB_MAX; i += 65521)
		assert_int_equal(ino_stable(ino_make(INO_PATH, 9, i)), ino_make(INO_PATH, 9, i));
}

static void rows_fit(void **state)
{
	size_t n = 0;

	(void)state;
	while (run_nodes[n].name)
		n++;
	assert_true(n < 1u << INO_ROW_BITS);
	for (n = 0; fixed_nodes[n].name; n++)
		;
	assert_int_equal(n, FIXED_SESSIONS_NEW + 1);
	assert_true(n < 1u << INO_ROW_BITS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parts_come_back),
		cmocka_unit_test(root_is_one),
		cmocka_unit_test(sets),
		cmocka_unit_test(instances_share_st_ino),
		cmocka_unit_test(paths_keep_all_bits),
		cmocka_unit_test(rows_fit),
	};

	return cmocka_run_group_tests_name("ino", tests, NULL, NULL);
}
