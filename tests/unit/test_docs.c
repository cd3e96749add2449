/*
 * Every ```ini block of the documentation is a configuration that can be read, with the clusters that it shows.
 */
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define FENCE "```"
#define INI "```ini\n"

/* Reads the blocks of one page; the number of them. */
static size_t read_blocks(const char *page)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	size_t n = 0;

	if (strbuf_read_file(&text, page, 1 << 20) < 0)
		fail_msg("%s cannot be read; the tests run in the top directory", page);
	for (const char *at = strstr(text.buf, INI), *end; at; at = strstr(end, INI)) {
		cleanup_free char *block = NULL;
		struct config *c = NULL;
		struct err e = ERR_INIT;

		at += strlen(INI);
		end = strstr(at, "\n" FENCE "\n");
		assert_non_null(end);
		end++;
		block = xstrndup(at, (size_t)(end - at));
		if (config_parse(block, page, &c, &e) < 0)
			fail_msg("%s\n%s", e.text, block);
		for (const char *s = strstr(block, "[cluster "); s; s = strstr(s + 1, "[cluster ")) {
			cleanup_free char *name = xstrndup(s + 9, strcspn(s + 9, "]"));

			assert_non_null(config_cluster(c, name));
		}
		config_free(c);
		n++;
	}
	return n;
}

static void test_blocks(void **state)
{
	static const char *const pages[] = { "README.md", "docs/configuration.md", "docs/slurm.md", "docs/local.md" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
		assert_true(read_blocks(pages[i]) > 0);
}

static const struct cluster_conf *parsed(const char *text, struct config **c)
{
	struct err e = ERR_INIT;

	assert_int_equal(config_parse(text, "test", c, &e), 0);
	return config_cluster(*c, "a");
}

/* What docs/configuration.md says of defaults. */
static void test_defaults(void **state)
{
	struct config *c = NULL;
	const struct cluster_conf *k = parsed("[cluster a]\nhost = h\n", &c);

	(void)state;
	assert_int_equal(k->type, CLUSTER_SLURM);
	assert_string_equal(k->transport, "auto");
	assert_string_equal(k->directory, "~/.slurmray");
	assert_string_equal(k->scratch, k->directory);
	assert_string_equal(c->default_cluster, "a");
	assert_non_null(config_cluster(c, "local"));
	config_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_blocks), cmocka_unit_test(test_defaults) };

	return cmocka_run_group_tests_name("docs", tests, NULL, NULL);
}
