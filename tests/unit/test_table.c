/*
 * Tables and lines made of JSON.
 */
#include "backend/base/mem.h"
#include "fs/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void check(const char *json, const char *want)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	table_text(json, &out);
	assert_string_equal(out.len ? out.buf : "", want);
}

static void tables(void **state)
{
	(void)state;
	check("[{\"partition\": \"compute\", \"default\": true, \"time_limit\": null, \"nodes\": {\"allocated\": 1, \"idle\": 3, "
	      "\"other\": 0, \"total\": 4}, \"free_mb\": 7}, {\"partition\": \"x\", \"default\": false, \"time_limit\": \"1:00\", "
	      "\"nodes\": {\"allocated\": 0, \"idle\": \"1.2K\", \"other\": 0, \"total\": \"1.2K\"}, \"free_mb\": 12345}]",
	      "PARTITION  DEFAULT  TIME_LIMIT  NODES(A/I/O/T)  FREE_MB\n"
	      "compute    yes      -           1/3/0/4               7\n"
	      "x          no       1:00        0/1.2K/0/1.2K     12345\n");
	check("[{\"node\": \"n1\", \"partitions\": [\"a\", \"b\"], \"start\": 1700000000, \"gres\": {\"gpu\": 2, \"x\": null}, "
	      "\"why\": \"not\\nnow\"}]",
	      "NODE  PARTITIONS  START                 GRES       WHY\n"
	      "n1    a,b         2023-11-14T22:13:20Z  gpu=2,x=-  not now\n");
}

/* Every row has the cells of the first one. */
static void odd_rows(void **state)
{
	(void)state;
	check("[{\"a\": 1, \"b\": \"\"}, {\"b\": [], \"c\": 2}, 5]", "A  B\n1  -\n-  -\n-  -\n");
	check("[{\"n\": \"\\u00e4\\u00f6\", \"m\": 1}, {\"n\": \"abc\", \"m\": 22}]",
	      "N     M\n\xc3\xa4\xc3\xb6    1\nabc  22\n");
	check("[]", "");
	check("[{}]", "");
	check("[5]", "");
	check("", "");
	check("no JSON", "");
	check("[{\"note\": \"there are none\"}]", "there are none\n");
}

static void lines(void **state)
{
	(void)state;
	check("{\"cluster\": \"demo\", \"accounting\": false, \"boot_time\": 1700000000, \"tmp\": null, \"load\": 0.5, "
	      "\"cpus\": {\"allocated\": 0, \"idle\": 16, \"other\": 0, \"total\": 16}, \"empty\": {}, \"text\": \"a\\nb\"}",
	      "cluster demo\naccounting no\nboot_time 2023-11-14T22:13:20Z\ntmp -\nload 0.5\n"
	      "cpus_allocated 0\ncpus_idle 16\ncpus_other 0\ncpus_total 16\nempty -\ntext a b\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables),
		cmocka_unit_test(odd_rows),
		cmocka_unit_test(lines),
	};

	return cmocka_run_group_tests_name("table", tests, NULL, NULL);
}
