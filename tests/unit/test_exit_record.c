/*
 * Exit records: what is whole, what is not, and what each means as the end of a run.
 */
#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/sched.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define WHOLE                                                                                                          \
	"v=1 run=42 attempt=2 job=1234 rc=7 sig=- start=1000 end=4661 out=12 err=34 restart=0 manifest=1 "             \
	"maxrss=1048576 "                                                                                              \
	"cpu=2500000 host=n17 limit=-\n"

static struct exit_record parse(const char *text)
{
	struct exit_record r;
	struct err e = ERR_INIT;

	if (exit_record_parse(text, &r, &e))
		fail_msg("%s", e.text);
	return r;
}

static void test_whole(void **state)
{
	struct exit_record r = parse(WHOLE);

	(void)state;
	assert_int_equal(r.version, 1);
	assert_int_equal(r.run, 42);
	assert_int_equal(r.attempt, 2);
	assert_string_equal(r.job_id, "1234");
	assert_int_equal(r.rc, 7);
	assert_string_equal(r.sig, "");
	assert_int_equal(r.start, 1000);
	assert_int_equal(r.end, 4661);
	assert_int_equal(r.out_len, 12);
	assert_int_equal(r.err_len, 34);
	assert_true(r.manifest);
	assert_int_equal(r.maxrss, 1048576);
	assert_int_equal(r.cpu_us, 2500000);
	assert_string_equal(r.host, "n17");
	assert_string_equal(r.limit, "");
}

static void test_dashes_are_not_said(void **state)
{
	struct exit_record r =
		parse("v=1 run=1 attempt=1 job=5 rc=- sig=- start=- end=- out=- err=- restart=0 manifest=0 "
		      "maxrss=- cpu=- host=- limit=-");

	(void)state;
	assert_int_equal(r.rc, -1);
	assert_int_equal(r.start, 0);
	assert_int_equal(r.end, 0);
	assert_int_equal(r.out_len, -1);
	assert_int_equal(r.maxrss, -1);
	assert_int_equal(r.cpu_us, -1);
	assert_false(r.manifest);
	assert_string_equal(r.host, "");
}

static void test_unknown_words(void **state)
{
	struct exit_record r = parse("v=3 colour=blue run=1 attempt=1 nonsense job=5 = rc=0  limit=time gpus=4\n");

	(void)state;
	assert_int_equal(r.version, 3);
	assert_int_equal(r.rc, 0);
	assert_string_equal(r.limit, "time");
}

static void refused(const char *text)
{
	struct exit_record r = { .run = 99 };
	struct err e = ERR_INIT;

	if (exit_record_parse(text, &r, &e) != -EPROTO)
		fail_msg("was taken: %s", text);
	assert_true(e.text[0]);
	assert_int_equal(r.run, 99); /* no side effect */
}

static void test_every_cut_is_refused(void **state)
{
	size_t whole = strlen(WHOLE) - strlen("=-\n");

	(void)state;
	for (size_t n = 0; n < whole; n++) {
		cleanup_free char *cut = xstrndup(WHOLE, n);

		refused(cut);
	}
}

static void test_nonsense(void **state)
{
	(void)state;
	refused("");
	refused("\n");
	refused("hello\n");
	refused(WHOLE "v=1\n");
	refused("v=0 run=1 attempt=1 job=5 rc=0 limit=-\n");
	refused("v=- run=1 attempt=1 job=5 rc=0 limit=-\n");
	refused("v=1 run=0 attempt=1 job=5 rc=0 limit=-\n");
	refused("v=1 run=1 attempt=0 job=5 rc=0 limit=-\n");
	refused("v=1 run=4294967296 attempt=1 job=5 rc=0 limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=256 limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=-1 limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=1x limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc= limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=0 out=99999999999999999999 limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=0 start=9223372036854775807 limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=0 manifest=2 limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=0 sig=ABCDEFGHIJKLMNOPQRST limit=-\n");
	refused("v=1 run=1 attempt=1 job=5 rc=0 limit=forevermore\n");
	refused("v=1 run=1 attempt=1 rc=0 limit=-\n");
}

struct want {
	int rc;
	const char *sig, *limit, *verdict;
	bool cancel;
	const char *status, *why;
	int code, signal;
};

static void check(const struct want *w)
{
	struct exit_record r = parse(WHOLE);
	struct event *ev;

	r.rc = w->rc;
	(void)snprintf(r.sig, sizeof(r.sig), "%s", w->sig);
	(void)snprintf(r.limit, sizeof(r.limit), "%s", w->limit);
	ev = exit_record_event(&r, w->verdict, w->cancel, 77);
	assert_int_equal(ev->type, EV_END);
	assert_int_equal(ev->time, 77);
	assert_string_equal(event_str(ev, "status"), w->status);
	assert_string_equal(event_str(ev, "why"), w->why);
	assert_int_equal(event_int(ev, "exit_code", -1), w->code);
	assert_int_equal(event_int(ev, "signal", 0), w->signal);
	event_free(ev);
}

static void test_ends(void **state)
{
	static const struct want wants[] = {
		{ 0, "", "", NULL, false, "succeeded", "exited with code 0", 0, 0 },
		{ 7, "", "", NULL, false, "failed", "exited with code 7", 7, 0 },
		{ 127, "", "", NULL, false, "failed", "exited with code 127: command not found", 127, 0 },
		{ 137, "", "", NULL, false, "failed",
		  "killed by SIGKILL (137): the kernel's out-of-memory killer or a kill -9", 137, 9 },
		{ 139, "", "", "failed", false, "failed", "killed by SIGSEGV (139)", 139, 11 },
		{ 255, "", "", NULL, false, "failed", "exited with code 255", 255, 0 },
		{ 128, "", "", NULL, false, "failed", "exited with code 128", 128, 0 },
		{ -1, "", "", NULL, false, "failed", "ended without a code", -1, 0 },
		/* the user asked */
		{ 143, "TERM", "", NULL, true, "cancelled", "cancelled; killed by SIGTERM (143)", 143, 15 },
		{ 130, "", "", NULL, true, "cancelled", "cancelled; killed by SIGINT (130)", 130, 2 },
		{ 0, "TERM", "", NULL, true, "cancelled", "cancelled; exited with code 0", 0, 0 },
		{ 7, "", "", NULL, true, "failed", "exited with code 7", 7, 0 },
		{ 0, "", "", NULL, true, "succeeded", "exited with code 0", 0, 0 },
		{ 143, "TERM", "", NULL, false, "failed", "killed by SIGTERM (143)", 143, 15 },
		{ 137, "TERM", "", NULL, true, "cancelled", "cancelled; it took SIGKILL (137) to end it", 137, 9 },
		{ 137, "", "", "cancelled", true, "cancelled", "cancelled; it took SIGKILL (137) to end it", 137, 9 },
		/* its session ended */
		{ 143, "TERM", "session", NULL, false, "cancelled",
		  "its session ended while it ran; killed by SIGTERM (143)", 143, 15 },
		{ 0, "", "session", NULL, false, "succeeded", "exited with code 0", 0, 0 },
		/* the scheduler decides the class */
		{ 143, "TERM", "", "timeout", true, "timeout",
		  "reached its time limit after 01:01:01; killed by SIGTERM (143)", 143, 15 },
		{ 0, "TERM", "", "timeout", false, "timeout",
		  "reached its time limit after 01:01:01; exited with code 0", 0, 0 },
		{ 0, "", "", "out_of_memory", false, "out_of_memory",
		  "used more memory than it was given (its peak was 1 MiB); exited with code 0", 0, 0 },
		{ 5, "TERM", "", "cancelled", false, "cancelled",
		  "cancelled outside slurmray (scancel, or an administrator); exited with code 5", 5, 0 },
		{ 143, "TERM", "", "preempted", false, "preempted",
		  "preempted: the scheduler gave its nodes to another job; killed by SIGTERM (143)", 143, 15 },
		{ 0, "", "", "preempted", false, "succeeded", "exited with code 0", 0, 0 },
		{ 0, "", "", "node_failed", false, "succeeded", "exited with code 0", 0, 0 },
		{ 0, "", "", "cancelled", false, "succeeded", "exited with code 0", 0, 0 },
		{ 0, "", "", "cancelled", true, "cancelled", "cancelled; exited with code 0", 0, 0 },
		{ 1, "", "", "node_failed", false, "node_failed", "a node that it ran on failed; exited with code 1", 1,
		  0 },
		{ 0, "", "", "succeeded", false, "succeeded", "exited with code 0", 0, 0 },
		{ 3, "", "", "succeeded", false, "failed", "exited with code 3", 3, 0 },
		/* the supervisor did it */
		{ 137, "KILL", "time", NULL, false, "timeout",
		  "reached its time limit after 01:01:01; it took SIGKILL (137) to end it", 137, 9 },
		{ 137, "", "mem", NULL, true, "out_of_memory",
		  "used more memory than it was given (its peak was 1 MiB); killed by SIGKILL (137): the kernel's "
		  "out-of-memory "
		  "killer or a kill -9",
		  137, 9 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wants); i++)
		check(&wants[i]);
}

/* What the wrapper could not prepare has no code, and says what it was. */
static void test_faults(void **state)
{
	static const struct {
		const char *fault, *sig, *status, *why;
	} rows[] = {
		{ "write", "-", "failed", "could not be started: its directories or files could not be written" },
		{ "workdir", "-", "failed", "could not be started: its working directory could not be entered" },
		{ "input", "-", "failed", "could not be started: its input file could not be read" },
		{ "refused", "-", "failed", "was not started" },
		{ "newer", "-", "failed", "could not be started" },
		{ "workdir", "TERM", "cancelled", "cancelled; could not be started: its working directory" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup_free char *text =
			xasprintf("v=1 run=1 attempt=1 job=5 rc=- sig=%s fault=%s limit=-", rows[i].sig, rows[i].fault);
		struct exit_record r = parse(text);
		struct event *ev = exit_record_event(&r, NULL, true, 1);

		assert_string_equal(event_str(ev, "status"), rows[i].status);
		assert_int_equal(event_int(ev, "exit_code", -1), -1);
		if (strncmp(event_str(ev, "why"), rows[i].why, strlen(rows[i].why)) != 0)
			fail_msg("%s", event_str(ev, "why"));
		event_free(ev);
	}
}

/* A cluster inside of a job: was it there once, or never? */
static void test_inner(void **state)
{
	static const struct {
		const char *fault, *reason, *why;
	} rows[] = {
		{ "ray", "Ray: not ready after 20 s", "was not started: Ray: not ready after 20 s" },
		{ "spark", "Spark: it needs bash on every node",
		  "was not started: Spark: it needs bash on every node" },
		{ "ray", "the head on n1 is dead", "ended without a result: the head on n1 is dead" },
		{ "spark", "Ray: x", "ended without a result: Ray: x" },
		{ "ray", "-", "ended without a result" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct exit_record r = parse("v=1 run=1 attempt=1 job=5 rc=- sig=- limit=-");
		struct event *ev;

		(void)snprintf(r.fault, sizeof(r.fault), "%s", rows[i].fault);
		(void)snprintf(r.reason, sizeof(r.reason), "%s", strcmp(rows[i].reason, "-") ? rows[i].reason : "");
		ev = exit_record_event(&r, NULL, false, 1);
		assert_string_equal(event_str(ev, "status"), "failed");
		assert_string_equal(event_str(ev, "why"), rows[i].why);
		event_free(ev);
	}
}

/* Nodes, processors and earlier starts; what one node measured is not the measure of many. */
static void test_what_was_given(void **state)
{
	struct exit_record r = parse("v=1 run=1 attempt=1 job=5 rc=0 restart=2 maxrss=7 cpu=8 nodes=3 cpus=12 limit=-");
	struct event *ev = exit_record_event(&r, NULL, false, 1);

	(void)state;
	assert_int_equal(event_int(ev, "node_count", 0), 3);
	assert_int_equal(event_int(ev, "cpus", 0), 12);
	assert_int_equal(event_int(ev, "restarts", 0), 2);
	assert_null(json_object_get(ev->data, "max_rss"));
	assert_null(json_object_get(ev->data, "cpu_us"));
	event_free(ev);
	r = parse("v=1 run=1 attempt=1 job=5 rc=0 restart=0 maxrss=7 cpu=8 nodes=1 cpus=- limit=-");
	ev = exit_record_event(&r, NULL, false, 1);
	assert_int_equal(event_int(ev, "node_count", 0), 1);
	assert_null(json_object_get(ev->data, "cpus"));
	assert_null(json_object_get(ev->data, "restarts"));
	assert_int_equal(event_int(ev, "max_rss", 0), 7);
	assert_int_equal(event_int(ev, "cpu_us", 0), 8);
	event_free(ev);
}

static void test_members(void **state)
{
	struct exit_record r = parse(WHOLE);
	struct event *ev = exit_record_event(&r, NULL, false, 1);

	(void)state;
	assert_int_equal(event_int(ev, "attempt", 0), 2);
	assert_string_equal(event_str(ev, "source"), "exit record");
	assert_true(event_int(ev, "start", 0) == 1000ll * USEC_PER_SEC);
	assert_true(event_int(ev, "end", 0) == 4661ll * USEC_PER_SEC);
	assert_int_equal(event_int(ev, "out_len", -1), 12);
	assert_int_equal(event_int(ev, "err_len", -1), 34);
	assert_int_equal(event_int(ev, "max_rss", -1), 1048576);
	assert_int_equal(event_int(ev, "cpu_us", -1), 2500000);
	assert_true(json_is_true(json_object_get(ev->data, "manifest")));
	assert_string_equal(event_str(ev, "host"), "n17");
	event_free(ev);
	r = parse("v=1 run=1 attempt=1 job=5 rc=0 out=- err=- host=\xff limit=-");
	ev = exit_record_event(&r, NULL, false, 1);
	assert_null(json_object_get(ev->data, "out_len"));
	assert_null(json_object_get(ev->data, "start"));
	assert_null(json_object_get(ev->data, "host"));
	event_free(ev);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),         cmocka_unit_test(test_dashes_are_not_said),
		cmocka_unit_test(test_unknown_words), cmocka_unit_test(test_every_cut_is_refused),
		cmocka_unit_test(test_nonsense),      cmocka_unit_test(test_ends),
		cmocka_unit_test(test_members),       cmocka_unit_test(test_faults),
		cmocka_unit_test(test_inner),         cmocka_unit_test(test_what_was_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
