/*
 * The judge of Pipes messages, line by line. What it takes and refuses was compared with the handlers of Dagster 1.10 and 1.13; the
 * comparison itself is in tests/real.
 */
#include "backend/pipes.h"

#include "backend/base/mem.h"
#include "backend/pjson.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define HEAD "{\"__dagster_pipes_version\": \"0.1\", \"method\": \""
#define MSG(method, params) HEAD method "\", \"params\": " params "}\n"
#define META(value, type) \
	MSG("report_asset_materialization", "{\"asset_key\": \"a\", \"data_version\": null, \"metadata\": {\"k\": {\"raw_value\": " value \
	    ", \"type\": \"" type "\"}}}")

static struct pipes_verdict judge(const char *line)
{
	struct pipes_verdict v;

	pipes_judge(line, strlen(line), &v);
	return v;
}

static void takes(const char *line, enum pipes_kind kind)
{
	struct pipes_verdict v = judge(line);

	if (v.kind != kind || v.torn)
		fail_msg("kind %d, reason %s: %.300s", (int)v.kind, pipes_reason_text(v.reason), line);
}

static void refuses(const char *line, enum pipes_reason reason)
{
	struct pipes_verdict v = judge(line);

	if (v.kind != PIPES_REJECTED || v.reason != reason)
		fail_msg("kind %d, reason %s: %.300s", (int)v.kind, pipes_reason_text(v.reason), line);
}

static void what_the_library_writes(void **state)
{
	(void)state;
	takes(MSG("opened", "{\"extras\": {}}"), PIPES_OTHER);
	takes(MSG("closed", "{}"), PIPES_CLOSED);
	takes(MSG("closed", "null"), PIPES_CLOSED);
	takes(MSG("log", "{\"message\": \"m\", \"level\": \"INFO\"}"), PIPES_LOG);
	takes(MSG("report_asset_materialization", "{\"asset_key\": \"a/b\", \"data_version\": \"v\", \"metadata\": null}"),
	      PIPES_MATERIALIZATION);
	takes(MSG("report_asset_check", "{\"asset_key\": \"a\", \"check_name\": \"c\", \"passed\": true, \"metadata\": {}, "
					"\"severity\": \"ERROR\"}"),
	      PIPES_CHECK);
	takes(MSG("report_custom_message", "{\"payload\": [1, null]}"), PIPES_CUSTOM);
	takes(MSG("log_external_stream", "{\"stream\": \"stdout\", \"text\": \"t\", \"extras\": {}}"), PIPES_OTHER);
	takes(MSG("closed", "{\"exception\": {\"message\": \"E: x\", \"stack\": [\"s\"], \"name\": \"E\", \"cause\": {\"message\": \"y\", "
			    "\"stack\": [], \"name\": null, \"cause\": null, \"context\": null}, \"context\": null}}"),
	      PIPES_FAILED);
}

static void lines_that_are_no_messages(void **state)
{
	(void)state;
	refuses("\n", PIPES_BLANK);
	refuses(" \t\r\n", PIPES_BLANK);
	refuses("hello\n", PIPES_NOT_JSON);
	refuses("{\"a\": \xff}\n", PIPES_NOT_JSON);
	refuses("{\"a\": \"\xff\"}\n", PIPES_NOT_UTF8);
	refuses("{\"a\": \"\xed\xa0\x80\"}\n", PIPES_NOT_UTF8);
	assert_int_equal(judge("\xef\xbb\xbf" MSG("opened", "{}")).torn, 3); /* a mark that Python does not take */
	refuses("{}\n", PIPES_NO_MESSAGE);
	refuses("[1]\n", PIPES_NO_MESSAGE);
	refuses("3\n", PIPES_NO_MESSAGE);
	refuses(HEAD "opened\"}\n", PIPES_NO_MESSAGE);
	refuses(HEAD "opened\", \"params\": {}\n", PIPES_NOT_JSON);
	refuses(MSG("nope", "{}"), PIPES_METHOD);
	refuses("{\"method\": 3, \"params\": {}}\n", PIPES_METHOD);
	refuses("{\"method\": \"opened\",\r \"params\": {}}\n", PIPES_RETURN);
	takes("{\"method\": \"opened\", \"params\": {}}\r\n", PIPES_OTHER);
	takes("{\"method\": \"opened\", \"params\": {}}", PIPES_OTHER);
	takes("{\"method\": \"nope\", \"m\\u0065thod\": \"opened\", \"params\": {}}\n", PIPES_OTHER);
}

static void wrong_parameters(void **state)
{
	(void)state;
	refuses(MSG("log", "{\"message\": \"m\", \"level\": \"verbose\"}"), PIPES_LEVEL);
	refuses(MSG("log", "{\"message\": \"m\", \"level\": 1.5}"), PIPES_LEVEL);
	refuses(MSG("log", "{\"message\": 1, \"level\": \"info\"}"), PIPES_TYPE);
	refuses(MSG("log", "{\"message\": \"m\", \"level\": \"info\", \"x\": 1}"), PIPES_PARAMS);
	refuses(MSG("log", "{\"level\": \"info\"}"), PIPES_PARAMS);
	refuses(MSG("log", "null"), PIPES_PARAMS);
	takes(MSG("log", "{\"message\": \"m\"}"), PIPES_LOG);
	takes(MSG("log", "{\"message\": \"m\", \"level\": 10}"), PIPES_LOG);
	takes(MSG("log", "{\"message\": \"\\ud800\", \"level\": \"Warn\"}"), PIPES_LOG);
	refuses(MSG("log_external_stream", "{\"stream\": \"stdout\", \"text\": \"\\ud800\"}"), PIPES_TYPE);
	takes(MSG("log_external_stream", "{\"stream\": \"stderr\", \"text\": \"\\ud83d\\ude00\"}"), PIPES_OTHER);
	refuses(MSG("log_external_stream", "{\"stream\": \"log\", \"text\": \"\"}"), PIPES_STREAM);
	refuses(MSG("report_custom_message", "{}"), PIPES_PARAMS);
	refuses(MSG("report_asset_check", "{\"asset_key\": \"a\", \"check_name\": \"c\", \"passed\": 1, \"metadata\": {}, "
					  "\"severity\": \"ERROR\"}"),
		PIPES_TYPE);
	refuses(MSG("report_asset_check", "{\"asset_key\": \"a\", \"check_name\": \"c\", \"passed\": true, \"metadata\": {}, "
					  "\"severity\": \"error\"}"),
		PIPES_SEVERITY);
	refuses(MSG("closed", "{\"exception\": {}}"), PIPES_EXCEPTION);
	refuses(MSG("closed", "{\"exception\": {\"message\": \"m\", \"stack\": null, \"name\": null, \"cause\": null, "
			      "\"context\": null}}"),
		PIPES_EXCEPTION);
	refuses(MSG("closed", "\"exception\""), PIPES_PARAMS);
	takes(MSG("opened", "7"), PIPES_OTHER);
}

static void metadata_of_all_types(void **state)
{
	static const char *const good[][2] = {
		{ "null", "__infer__" }, { "NaN", "__infer__" }, { "{\"a\": [1]}", "__infer__" }, { "\"x\"", "text" }, { "null", "url" },
		{ "\"\"", "path" }, { "\"n\"", "notebook" }, { "[1]", "json" }, { "\"s\"", "json" }, { "\"m\"", "md" },
		{ "1.5", "float" }, { "-Infinity", "float" }, { "1e5", "float" }, { "3", "int" }, { "true", "int" },
		{ "false", "bool" }, { "null", "bool" }, { "\"r\"", "dagster_run" }, { "\"a/b\"", "asset" }, { "[]", "null" },
		{ "3", "timestamp" }, { "3.5", "timestamp" },
		{ "{\"records\": [{\"a\": 1, \"b\": null}, {\"b\": \"x\", \"a\": 2.5}], \"schema\": [{\"name\": \"a\", \"type\": \"int\", "
		  "\"constraints\": {\"nullable\": true, \"other\": [\"x\"]}, \"tags\": {\"t\": \"u\"}}]}", "table" },
		{ "{\"columns\": [{\"name\": \"a\", \"type\": \"int\", \"description\": null}]}", "table_schema" },
		{ "{\"deps_by_column\": {\"c\": [{\"asset_key\": [\"a\", \"b\"], \"column_name\": \"d\"}]}}", "table_column_lineage" },
	};
	static const char *const bad[][2] = {
		{ "1", "text" }, { "{}", "url" }, { "1", "json" }, { "3", "float" }, { "true", "float" }, { "1.0", "int" },
		{ "1", "bool" }, { "null", "asset" }, { "null", "dagster_run" }, { "\"3\"", "timestamp" }, { "1", "nope" },
		{ "{\"records\": [{\"a\": 1}, {\"b\": 1}], \"schema\": []}", "table" },
		{ "{\"records\": [{\"a\": [1]}], \"schema\": []}", "table" },
		{ "{\"records\": [], \"schema\": [{\"name\": \"a\"}]}", "table" },
		{ "{\"columns\": [{\"name\": 1, \"type\": \"x\"}]}", "table_schema" },
		{ "{\"deps_by_column\": {\"c\": [{\"asset_key\": \"a\", \"column_name\": \"d\", \"z\": 1}]}}", "table_column_lineage" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char *line = xasprintf(META("%s", "%s"), good[i][0], good[i][1]);

		takes(line, PIPES_MATERIALIZATION);
		free(line);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char *line = xasprintf(META("%s", "%s"), bad[i][0], bad[i][1]);

		refuses(line, PIPES_METADATA);
		free(line);
	}
	refuses(MSG("report_asset_materialization", "{\"asset_key\": \"a\", \"data_version\": null, \"metadata\": {\"k\": 1}}"),
		PIPES_METADATA);
	refuses(MSG("report_asset_materialization", "{\"asset_key\": \"a\", \"data_version\": null, \"metadata\": []}"), PIPES_METADATA);
	refuses(MSG("report_asset_materialization", "{\"asset_key\": null, \"data_version\": null, \"metadata\": {}}"), PIPES_TYPE);
	refuses(MSG("report_asset_materialization", "{\"asset_key\": \"a\", \"metadata\": {}}"), PIPES_PARAMS);
}

static char *nested(size_t depth)
{
	struct strbuf sb = STRBUF_INIT;

	strbuf_addstr(&sb, HEAD "report_custom_message\", \"params\": {\"payload\": ");
	for (size_t i = 0; i < depth; i++)
		strbuf_addch(&sb, '[');
	for (size_t i = 0; i < depth; i++)
		strbuf_addch(&sb, ']');
	strbuf_addstr(&sb, "}}\n");
	return strbuf_detach(&sb, NULL);
}

static void bounds(void **state)
{
	char *line = nested(198), digits[4400];

	(void)state;
	takes(line, PIPES_CUSTOM);
	free(line);
	line = nested(199);
	refuses(line, PIPES_DEEP);
	free(line);
	memset(digits, '1', 4301);
	digits[4301] = '\0';
	line = xasprintf(MSG("report_custom_message", "{\"payload\": -%s}"), digits);
	refuses(line, PIPES_DIGITS);
	free(line);
	line = xasprintf(MSG("report_custom_message", "{\"payload\": %s}"), digits + 1);
	takes(line, PIPES_CUSTOM);
	free(line);
	line = xasprintf(META("%.350s", "timestamp"), digits);
	refuses(line, PIPES_METADATA);
	free(line);
}

static void numbers_and_strings(void **state)
{
	static const char *const good[] = { "NaN", "Infinity", "-Infinity", "-0", "1e5", "1E+5", "0.5", "\"\\/\"", "\"\x7f\"",
					    "\"\\ud800\\u0041\"", " [ ] ", "{ }", "[{\"a\" : 1 } , 2]" };
	static const char *const bad[] = { "-NaN", "01", "1.", ".5", "+1", "-", "1e", "1 2", "tru", "\"\t\"", "\"\\u12\"", "\"\\x41\"",
					   "\"abc", "[1,]", "{\"a\":1,}", "{a:1}", "{\"a\" 1}", "[1", "]", "" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		char *line = xasprintf(MSG("report_custom_message", "{\"payload\": %s}"), good[i]);

		takes(line, PIPES_CUSTOM);
		free(line);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char *line = xasprintf(MSG("report_custom_message", "{\"payload\": %s}"), bad[i]);

		refuses(line, PIPES_NOT_JSON);
		free(line);
	}
}

static void a_message_behind_a_torn_one(void **state)
{
	static const char torn[] = HEAD "log\", \"params\": {\"mess", two[] = HEAD "log\", \"par" HEAD "lo";
	static const char whole[] = MSG("report_custom_message", "{\"payload\": 7}");
	char *line = xasprintf("%s%s", torn, whole);
	struct pipes_verdict v = judge(line);

	(void)state;
	assert_int_equal(v.kind, PIPES_CUSTOM);
	assert_int_equal(v.reason, PIPES_TORN);
	assert_int_equal(v.torn, sizeof(torn) - 1);
	assert_int_equal(v.params_len, strlen("{\"payload\": 7}"));
	assert_memory_equal(line + v.params, "{\"payload\": 7}", v.params_len);
	free(line);
	line = xasprintf("%s%s", two, whole);
	assert_int_equal(judge(line).torn, sizeof(two) - 1);
	free(line);
	line = xasprintf("\xff junk %s", whole);
	assert_int_equal(judge(line).kind, PIPES_CUSTOM);
	free(line);
	line = xasprintf("%s%s", torn, torn);
	assert_int_equal(judge(line).kind, PIPES_REJECTED);
	free(line);
}

static void exceptions_as_text(void **state)
{
	static const char line[] = MSG("closed", "{\"exception\": {\"message\": \"bad\\nsecond\", \"stack\": [], \"name\": \"E\\u00e4\", "
						 "\"cause\": null, \"context\": null}}");
	static const char both[] = MSG("closed", "{\"exception\": {\"message\": \"ValueError: x\\n\", \"stack\": [], \"name\": "
						 "\"ValueError\", \"cause\": null, \"context\": null}}");
	struct strbuf out = STRBUF_INIT;

	(void)state;
	pipes_exception(line, strlen(line), &out);
	assert_string_equal(out.buf, "E\xc3\xa4: bad");
	strbuf_reset(&out);
	pipes_exception(both, strlen(both), &out);
	assert_string_equal(out.buf, "ValueError: x");
	strbuf_reset(&out);
	pipes_exception("junk", 4, &out);
	assert_int_equal(out.len, 0);
	strbuf_release(&out);
}

static void note(void *arg, const char *name, const char *number, size_t len)
{
	strbuf_addf(arg, "%s=%.*s;", name, (int)len, number);
}

static void numbers_in_metadata(void **state)
{
	static const char params[] = "{\"asset_key\": \"a\", \"metadata\": {\"rows\": {\"raw_value\": 10, \"type\": \"int\"}, \"x\": "
				     "{\"raw_value\": \"5\", \"type\": \"text\"}, \"acc\\u00e9\": {\"type\": \"__infer__\", \"raw_value\": "
				     "0.930}, \"n\": {\"raw_value\": NaN, \"type\": \"float\"}, \"t\": {\"raw_value\": true, \"type\": "
				     "\"bool\"}}}";
	struct strbuf out = STRBUF_INIT;

	(void)state;
	pipes_numbers(params, strlen(params), note, &out);
	assert_string_equal(out.buf, "rows=10;acc\xc3\xa9=0.930;");
	strbuf_reset(&out);
	pipes_numbers("{\"metadata\": null}", 18, note, &out);
	pipes_numbers("{", 1, note, &out);
	assert_int_equal(out.len, 0);
	strbuf_release(&out);
}

/* Every beginning of a message, and every byte of it replaced: no verdict may read outside, and none but whole lines may be taken. */
static void pieces_are_never_taken(void **state)
{
	static const char line[] = META("{\"deps_by_column\": {\"c\": [{\"asset_key\": \"\\u0061\", \"column_name\": \"d\"}]}}",
					"table_column_lineage");
	size_t len = strlen(line) - 1;

	(void)state;
	for (size_t n = 0; n < len; n++) {
		char *copy = xstrndup(line, n), *tight = xmalloc(n ? n : 1);
		struct pipes_verdict v;

		memcpy(tight, copy, n);
		pipes_judge(tight, n, &v);
		assert_int_equal(v.kind, PIPES_REJECTED);
		free(copy);
		free(tight);
	}
	for (size_t n = 0; n < len; n++)
		for (const char *c = "\"{}[],:\\ \xc3\x01n0"; *c; c++) {
			char *copy = xstrdup(line);

			copy[n] = *c;
			(void)judge(copy);
			free(copy);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_library_writes),
		cmocka_unit_test(lines_that_are_no_messages),
		cmocka_unit_test(wrong_parameters),
		cmocka_unit_test(metadata_of_all_types),
		cmocka_unit_test(bounds),
		cmocka_unit_test(numbers_and_strings),
		cmocka_unit_test(a_message_behind_a_torn_one),
		cmocka_unit_test(exceptions_as_text),
		cmocka_unit_test(numbers_in_metadata),
		cmocka_unit_test(pieces_are_never_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
