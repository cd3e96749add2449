/*
 * Messages in the spool: whatever the pieces they come in and wherever a kill cuts the files, each view holds whole
 * lines, each once.
 */
#include "backend/spool_format.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define OPENED "{\"__dagster_pipes_version\": \"0.1\", \"method\": \"opened\", \"params\": {\"extras\": {}}}\n"
#define LOG(m)                                                                                                         \
	"{\"__dagster_pipes_version\": \"0.1\", \"params\": {\"message\": \"" m                                        \
	"\", \"level\": \"info\"}, \"method\": \"log\"}\n"
#define LOG_PARAMS(m) "{\"message\": \"" m "\", \"level\": \"info\"}\n"
#define MAT "{\"method\": \"report_asset_materialization\", \"params\": " MAT_PARAMS "}"
#define MAT_PARAMS "{\"asset_key\": \"a\", \"data_version\": null, \"metadata\": null}"
#define CUSTOM "{\"method\": \"report_custom_message\", \"params\": {\"payload\": 1} }\r\n"
#define FAILED                                                                                                                          \
	"{\"method\": \"closed\", \"params\": {\"exception\": {\"message\": \"bad\", \"stack\": [], \"name\": \"E\", \"cause\": null, " \
	"\"context\": null}}}\n"
#define TORN "{\"__dagster_pipes_version\": \"0.1\", \"meth"

static const char job[] =
	OPENED LOG("one") "junk \xff\n\n" TORN LOG("two") CUSTOM "{\"method\": \"x\", \"params\": {}}\n" FAILED MAT;
static const char want[] = OPENED LOG("one") LOG("two") CUSTOM FAILED MAT;

static char dir[64];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_events.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 10; i++)
		(void)spool_remove(dir, i);
	return rmdir(dir);
}

static struct events *open_events(uint32_t num)
{
	struct err e = ERR_INIT;
	struct events *ev = NULL;

	if (events_open(dir, num, &ev, &e))
		fail_msg("%s", e.text);
	return ev;
}

static struct spool_reader *open_reader(uint32_t num)
{
	struct spool_reader *r = NULL;
	struct err e = ERR_INIT;

	assert_int_equal(spool_reader_open(dir, num, false, &r, &e), 0);
	return r;
}

static char *slurp(struct spool_reader *r, enum spool_stream st, size_t step)
{
	struct strbuf sb = STRBUF_INIT;
	char buf[4096];
	ssize_t n;

	while ((n = spool_reader_pread(r, st, buf, step, sb.len)) > 0)
		strbuf_add(&sb, buf, (size_t)n);
	assert_int_equal(n, 0);
	assert_int_equal(sb.len, spool_reader_len(r, st));
	return strbuf_detach(&sb, NULL);
}

static void view_is(struct spool_reader *r, enum spool_stream st, const char *text)
{
	static const size_t steps[] = { 1, 7, 100, 4096 };

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		char *have = slurp(r, st, steps[i]);

		assert_string_equal(have, text);
		free(have);
	}
}

static void all_views(uint32_t num)
{
	struct spool_reader *r = open_reader(num);
	struct strbuf text = STRBUF_INIT;

	view_is(r, SPOOL_LOGS, LOG_PARAMS("one") LOG_PARAMS("two"));
	view_is(r, SPOOL_EVENTS, want);
	view_is(r, SPOOL_MATERIALIZATIONS, MAT_PARAMS);
	view_is(r, SPOOL_CHECKS, "");
	view_is(r, SPOOL_CUSTOM, "{\"payload\": 1}\n");
	assert_int_equal(spool_reader_rejected(r), 4);
	assert_true(spool_reader_mtime(r, SPOOL_EVENTS) > 1600000000000000);
	spool_reader_rejects(r, &text);
	assert_non_null(strstr(text.buf, "\"reason\":\"a method that Dagster does not know\""));
	assert_non_null(strstr(text.buf, "\"text\":\"junk ?\""));
	spool_reader_close(r);
	assert_true(events_exception(dir, num, &text));
	assert_string_equal(text.buf, "E: bad");
	strbuf_release(&text);
}

static void pieces_of_every_size(void **state)
{
	(void)state;
	for (size_t step = 1; step < sizeof(job); step = step * 2 + 1) {
		struct events *ev = open_events(1);

		for (size_t at = 0; at < sizeof(job) - 1; at += step) {
			size_t n = sizeof(job) - 1 - at < step ? sizeof(job) - 1 - at : step;

			assert_int_equal(events_append(ev, job + at, n), 0);
			assert_int_equal(events_at(ev), at + n);
		}
		assert_int_equal(events_settle(ev, true), 0);
		assert_int_equal(events_sync(ev), 0);
		events_close(ev);
		all_views(1);
		assert_int_equal(spool_remove(dir, 1), 0);
	}
}

/* At no moment does a view end within a line. */
static void readers_see_whole_lines(void **state)
{
	struct events *ev = open_events(2);
	struct spool_reader *r = open_reader(2);

	(void)state;
	for (size_t at = 0; at < sizeof(job) - 1; at++) {
		char *have;
		size_t len;

		assert_int_equal(events_append(ev, job + at, 1), 0);
		have = slurp(r, SPOOL_EVENTS, 100);
		len = strlen(have);
		assert_memory_equal(have, want, len);
		assert_true(len == 0 || have[len - 1] == '\n');
		free(have);
	}
	view_is(r, SPOOL_MATERIALIZATIONS, "");
	assert_int_equal(events_settle(ev, true), 0);
	view_is(r, SPOOL_MATERIALIZATIONS, MAT_PARAMS);
	spool_reader_close(r);
	events_close(ev);
}

static void cut_file(const char *name, off_t len)
{
	char *path = xasprintf("%s/3/%s", dir, name);

	assert_int_equal(truncate(path, len), 0);
	free(path);
}

static off_t file_len(const char *name)
{
	char *path = xasprintf("%s/3/%s", dir, name);
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	free(path);
	return st.st_size;
}

/* The index cut at every byte, as a kill or a power failure may leave it; then the bytes, too. */
static void cuts_are_mended(void **state)
{
	struct events *ev = open_events(3);
	off_t index;

	(void)state;
	assert_int_equal(events_append(ev, job, sizeof(job) - 1), 0);
	assert_int_equal(events_settle(ev, true), 0);
	events_close(ev);
	index = file_len("events.index");
	for (off_t n = index; n >= 0; n--) {
		cut_file("events.index", n);
		ev = open_events(3);
		assert_int_equal(events_at(ev), sizeof(job) - 1);
		assert_int_equal(events_settle(ev, true), 0);
		events_close(ev);
		assert_int_equal(file_len("events.index"), index);
		all_views(3);
	}
	for (off_t n = sizeof(job) - 1; n >= 0; n -= 3) {
		cut_file("events", n);
		ev = open_events(3);
		assert_int_equal(events_at(ev), n);
		assert_int_equal(events_append(ev, job + n, sizeof(job) - 1 - (size_t)n), 0);
		assert_int_equal(events_settle(ev, true), 0);
		events_close(ev);
		all_views(3);
	}
}

static void files_written_anew(void **state)
{
	struct events *ev = open_events(4);
	struct spool_reader *r = open_reader(4);
	struct strbuf rows = STRBUF_INIT;
	json_t *row;

	(void)state;
	assert_int_equal(events_append(ev, OPENED TORN, strlen(OPENED TORN)), 0);
	assert_true(events_same(ev, strlen(OPENED), &OPENED[strlen(OPENED) - 10], 10));
	assert_false(events_same(ev, strlen(OPENED), "somewhere!", 10));
	assert_true(events_same(ev, 3, "xyzw", 4)); /* nothing to compare */
	assert_int_equal(events_restart(ev), 0);
	assert_int_equal(events_at(ev), 0);
	assert_int_equal(events_append(ev, LOG("new"), strlen(LOG("new"))), 0);
	assert_int_equal(events_append(ev, "bad\n", 4), 0);
	events_close(ev);
	ev = open_events(4);
	assert_int_equal(events_at(ev), strlen(LOG("new")) + 4);
	assert_false(events_same(ev, 46, &OPENED[36], 10));
	assert_true(events_same(ev, 46, &LOG("new")[36], 10));
	view_is(r, SPOOL_EVENTS, OPENED LOG("new"));
	spool_reader_rejects(r, &rows);
	row = json_loads(strrchr(rows.buf, '{'), 0, NULL);
	assert_int_equal(json_integer_value(json_object_get(row, "offset")), strlen(LOG("new")));
	assert_int_equal(json_integer_value(json_object_get(row, "length")), 4);
	json_decref(row);
	assert_non_null(strstr(rows.buf, "the file was cut"));
	strbuf_release(&rows);
	spool_reader_close(r);
	events_close(ev);
}

static void no_exception(void **state)
{
	struct strbuf text = STRBUF_INIT;
	struct events *ev = open_events(5);

	(void)state;
	assert_false(events_exception(dir, 5, &text));
	assert_int_equal(events_append(ev, OPENED, strlen(OPENED)), 0);
	assert_false(events_exception(dir, 5, &text));
	events_close(ev);
	strbuf_release(&text);
}

/* Many small lines and one of 20 MB. */
static void large_ones(void **state)
{
	struct events *ev = open_events(6);
	struct spool_reader *r = open_reader(6);
	size_t big = 20 * 1024 * 1024, n = strlen(LOG("x"));
	char *text = xmalloc(big);

	(void)state;
	for (int i = 0; i < 2000; i++)
		assert_int_equal(events_append(ev, LOG("x"), n), 0);
	assert_int_equal(spool_reader_len(r, SPOOL_EVENTS), 2000 * n);
	assert_int_equal(spool_reader_len(r, SPOOL_LOGS), 2000 * strlen(LOG_PARAMS("x")));
	memset(text, 'z', big);
	memcpy(text, CUSTOM, strlen("{\"method\": \"report_custom_message\", \"params\": {\"payload\": "));
	text[strlen("{\"method\": \"report_custom_message\", \"params\": {\"payload\": ")] = '"';
	memcpy(text + big - 4, "\"}}\n", 4);
	for (size_t at = 0; at < big; at += 1 << 20)
		assert_int_equal(events_append(ev, text + at, 1 << 20), 0);
	assert_int_equal(spool_reader_len(r, SPOOL_EVENTS), 2000 * n + big);
	assert_int_equal(spool_reader_rejected(r), 0);
	free(text);
	spool_reader_close(r);
	events_close(ev);
}

#define START "{\"slurmray\": \"start\", \"restart\": 1}\n"
#define LATER LOG("more") MAT2 "\n" CLOSED
#define MAT2 "{\"method\": \"report_asset_materialization\", \"params\": " MAT2_PARAMS "}"
#define MAT2_PARAMS "{\"asset_key\": \"a\", \"data_version\": \"2\", \"metadata\": null}"
#define CLOSED "{\"method\": \"closed\", \"params\": {}}\n"

static struct events *open_held(uint32_t num)
{
	struct events *ev = open_events(num);

	assert_int_equal(events_hold(ev), 0);
	return ev;
}

static void append(struct events *ev, const char *text)
{
	assert_int_equal(events_append(ev, text, strlen(text)), 0);
}

static void count_line(void *arg, const char *line, size_t len)
{
	(void)line;
	(void)len;
	++*(int *)arg;
}

/* Reports of a start are held, and given up when the next one begins. */
static void started_again(void **state)
{
	static const char first[] = OPENED LOG("one") MAT "\n" LOG("two") CUSTOM FAILED;
	struct events *ev = open_held(8);
	struct spool_reader *r = open_reader(8);
	struct strbuf text = STRBUF_INIT;
	struct events_at at = { 0, 0 };
	int lines = 0;

	(void)state;
	append(ev, first);
	view_is(r, SPOOL_EVENTS, OPENED LOG("one"));
	view_is(r, SPOOL_SUPERSEDED, "");
	append(ev, TORN "\n" START);
	view_is(r, SPOOL_EVENTS, OPENED LOG("one"));
	view_is(r, SPOOL_SUPERSEDED, MAT "\n" LOG("two") CUSTOM FAILED TORN "\n");
	append(ev, OPENED LATER);
	view_is(r, SPOOL_EVENTS, OPENED LOG("one") OPENED LOG("more"));
	view_is(r, SPOOL_MATERIALIZATIONS, "");
	assert_int_equal(events_settle(ev, true), 0);
	view_is(r, SPOOL_EVENTS, OPENED LOG("one") OPENED LATER);
	view_is(r, SPOOL_MATERIALIZATIONS, MAT2_PARAMS "\n");
	view_is(r, SPOOL_CUSTOM, "");
	assert_int_equal(spool_reader_rejected(r), 0);
	assert_false(events_exception(dir, 8, &text)); /* that of the first start is no news */
	assert_int_equal(events_after(dir, 8, &at, 1 << 20, count_line, &lines), 6);
	assert_int_equal(lines, 6);
	spool_reader_close(r);
	events_close(ev);
	assert_int_equal(spool_remove(dir, 8), 0);
}

/* It is started once, after all: everything is there in the end, in order; also what a start without a report says. */
static void started_once(void **state)
{
	struct events *ev = open_held(8);
	struct spool_reader *r = open_reader(8);

	(void)state;
	append(ev, job);
	view_is(r, SPOOL_EVENTS, OPENED LOG("one") LOG("two"));
	assert_int_equal(events_settle(ev, true), 0);
	events_close(ev);
	spool_reader_close(r);
	all_views(8);
	assert_int_equal(spool_remove(dir, 8), 0);
	ev = open_held(8);
	append(ev, OPENED LOG("one") START LOG("two"));
	r = open_reader(8);
	view_is(r, SPOOL_EVENTS, OPENED LOG("one") LOG("two"));
	view_is(r, SPOOL_SUPERSEDED, "");
	spool_reader_close(r);
	events_close(ev);
	assert_int_equal(spool_remove(dir, 8), 0);
}

/* Whatever the pieces, and with another worker after each. */
static void started_again_in_pieces(void **state)
{
	static const char all[] = OPENED LOG("one") MAT "\n" LOG("two") START MAT "\n" START OPENED LATER;
	static const char end[] = OPENED LOG("one") OPENED LATER;

	(void)state;
	for (size_t step = 1; step < sizeof(all); step = step * 2 + 1) {
		struct events *ev = open_held(8);
		struct spool_reader *r;

		for (size_t at = 0; at < sizeof(all) - 1; at += step) {
			size_t n = sizeof(all) - 1 - at < step ? sizeof(all) - 1 - at : step;

			assert_int_equal(events_append(ev, all + at, n), 0);
			events_close(ev);
			ev = open_events(8); /* whoever opens it again knows that it is held */
			assert_int_equal(events_hold(ev), 0);
			assert_int_equal(events_at(ev), at + n);
			r = open_reader(8);
			view_is(r, SPOOL_MATERIALIZATIONS, "");
			spool_reader_close(r);
		}
		assert_int_equal(events_settle(ev, true), 0);
		events_close(ev);
		r = open_reader(8);
		view_is(r, SPOOL_EVENTS, end);
		view_is(r, SPOOL_SUPERSEDED, MAT "\n" LOG("two") MAT "\n");
		view_is(r, SPOOL_MATERIALIZATIONS, MAT2_PARAMS "\n");
		spool_reader_close(r);
		assert_int_equal(spool_remove(dir, 8), 0);
	}
}

/* A kill between any two bytes of what is written: the next worker comes to the same end, but for log messages. */
static void held_and_killed(void **state)
{
	static const char all[] = OPENED MAT "\n" CUSTOM START OPENED LATER;
	cleanup_free char *index = spool_path(dir, 8, SPOOL_FILE_INDEX);
	struct stat st;

	(void)state;
	for (off_t cut = 0, size = 1; cut <= size; cut++) {
		struct events *ev = open_held(8);
		struct spool_reader *r;

		append(ev, all);
		assert_int_equal(events_settle(ev, true), 0);
		events_close(ev);
		assert_int_equal(stat(index, &st), 0);
		size = st.st_size;
		if (cut >= (off_t)SPOOL_RECORD) /* the flag comes before any message is asked for */
			assert_int_equal(truncate(index, cut), 0);
		ev = open_events(8);
		assert_int_equal(events_settle(ev, true), 0);
		events_close(ev);
		r = open_reader(8);
		view_is(r, SPOOL_EVENTS, OPENED OPENED LATER);
		view_is(r, SPOOL_SUPERSEDED, MAT "\n" CUSTOM);
		spool_reader_close(r);
		assert_int_equal(spool_remove(dir, 8), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(started_again),
		cmocka_unit_test(started_once),
		cmocka_unit_test(started_again_in_pieces),
		cmocka_unit_test(held_and_killed),
		cmocka_unit_test(pieces_of_every_size),
		cmocka_unit_test(readers_see_whole_lines),
		cmocka_unit_test(cuts_are_mended),
		cmocka_unit_test(files_written_anew),
		cmocka_unit_test(no_exception),
		cmocka_unit_test(large_ones),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
