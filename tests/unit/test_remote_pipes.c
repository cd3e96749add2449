/*
 * Messages of jobs on a cluster behind a transport: wherever the connection breaks, each is in the spool once when the
 * cluster says that there are no more; and the two variables of the job say where its files are.
 * TEST_SECONDS=12
 */
#include "tests/unit/lib_cluster.h"
#include "tests/unit/lib_fake_cluster.h"

#include "backend/base/mem.h"

#include <stdio.h>

#define OPENED "{\"method\": \"opened\", \"params\": {}}\n"
#define CLOSED "{\"method\": \"closed\", \"params\": {}}\n"
#define N 400

static const char with_python[] =
	"python3 -c 'if 1:\n"
	" import base64, json, os, zlib\n"
	" def path(name):\n"
	"  return json.loads(zlib.decompress(base64.b64decode(os.environ[\"DAGSTER_PIPES_\" + name])))[\"path\"]\n"
	" what = open(path(\"CONTEXT\")).read()\n"
	" with open(path(\"MESSAGES\"), \"a\") as f:\n"
	"  f.write(json.dumps({\"method\": \"report_custom_message\", \"params\": {\"payload\": what}}) + \"\\n\")\n"
	"'";

static const char many[] =
	"e=${SLURMRAY_RESULTS%/results}/events\n"
	"echo '{\"method\": \"opened\", \"params\": {}}' >>\"$e\"\n"
	"i=0; while [ $i -lt 400 ]; do i=$((i + 1))\n"
	"echo '{\"method\": \"report_custom_message\", \"params\": {\"payload\": '$i'}}'; done >>\"$e\"\n"
	"echo junk >>\"$e\"\n"
	"echo '{\"method\": \"closed\", \"params\": {}}' >>\"$e\"\n";

static const char anew[] =
	"e=${SLURMRAY_RESULTS%/results}/events\n"
	"for i in 1 2 3; do echo '{\"method\": \"opened\", \"params\": {}}' >>\"$e\"; done; sleep 1\n"
	"echo '{\"method\": \"closed\", \"params\": {}}' >\"$e\"\n";

static struct fx *begin(void)
{
	struct fx *f = fx_new();
	char path[128];
	FILE *out;

	f->pipes = true;
	(void)snprintf(path, sizeof(path), "%s/context", f->root);
	out = fopen(path, "w");
	assert_non_null(out);
	assert_true(fputs("the context", out) >= 0);
	assert_int_equal(fclose(out), 0);
	return f;
}

static void expect_many(const struct fx *f)
{
	struct strbuf want = STRBUF_INIT;

	strbuf_addstr(&want, OPENED);
	for (int i = 1; i <= N; i++)
		strbuf_addf(&want, "{\"method\": \"report_custom_message\", \"params\": {\"payload\": %d}}\n", i);
	strbuf_addstr(&want, CLOSED);
	fx_assert_spool(f, 7, SPOOL_EVENTS, want.buf, want.len);
	strbuf_release(&want);
}

static void run_many(struct fx *f)
{
	fx_start(f);
	fx_submit(f, 7, many);
	FX_WAIT(f, f->events_last && fx_event(f, 7, EV_END, NULL));
	assert_non_null(fx_event(f, 7, EV_END, "succeeded"));
	expect_many(f);
}

static void the_variables_name_its_files(void **state)
{
	static const char *const shells[] = { "bash", "dash" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++) {
		struct fx *f;

		fx_clear_faults();
		fake.shell = shells[i];
		f = begin();
		fx_start(f);
		fx_submit(f, 7, with_python);
		FX_WAIT(f, f->events_last);
		fx_assert_spool(f, 7, SPOOL_CUSTOM, "{\"payload\": \"the context\"}\n", 27);
		fx_free(f);
	}
}

static void by_both_ways(void **state)
{
	static const enum fake_sftp ways[] = { FAKE_SFTP_OK, FAKE_SFTP_CLOSED };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct fx *f;

		fx_clear_faults();
		fake.sftp = (int)ways[i];
		f = begin();
		run_many(f);
		fx_free(f);
	}
}

static void cut_everywhere(void **state)
{
	long last = 1000;

	(void)state;
	for (long at = 5; at < last; at += 5) {
		struct fx *f;

		fx_clear_faults();
		f = begin();
		fake.cut_at = at;
		run_many(f);
		if (fake.transfers < at)
			last = at;
		fx_free(f);
	}
	assert_true(last > 5); /* how few transfers there are depends on the machine's pace */
}

static void a_file_that_is_written_anew(void **state)
{
	struct fx *f;

	(void)state;
	fx_clear_faults();
	f = begin();
	fx_start(f);
	fx_submit(f, 7, anew);
	FX_WAIT(f, f->events_last);
	fx_assert_spool(f, 7, SPOOL_EVENTS, OPENED OPENED OPENED CLOSED, 3 * strlen(OPENED) + strlen(CLOSED));
	fx_free(f);
}

/* A job that has no message file in the end; and one that ends before it can make one. */
static void without_messages(void **state)
{
	struct fx *f;

	(void)state;
	fx_clear_faults();
	f = begin();
	fx_start(f);
	fx_submit(f, 7, "rm -f \"${SLURMRAY_RESULTS%/results}/events\"");
	FX_WAIT(f, f->events_last && fx_event(f, 7, EV_END, NULL));
	fx_assert_spool(f, 7, SPOOL_EVENTS, "", 0);
	fx_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_variables_name_its_files),
		cmocka_unit_test(by_both_ways),
		cmocka_unit_test(cut_everywhere),
		cmocka_unit_test(a_file_that_is_written_anew),
		cmocka_unit_test(without_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
