/*
 * The engine and Dagster Pipes: the context that a job is given, ends that wait for messages, exceptions that fail a
 * run.
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define PIPES "{'command': 'echo', 'pipes': true}"
#define CLOSED_BADLY                                                                                                                    \
	"{\"method\": \"closed\", \"params\": {\"exception\": {\"message\": \"bad\", \"stack\": [], \"name\": \"E\", \"cause\": null, " \
	"\"context\": null}}}\n"
/* zlib.compress and base64 of {"path": "/mnt/runs/step/context"} */
#define VAR_DRAFT "eJyrVipILMlQslJQ0s/NK9EvKs0r1i8uSS3QT87PK0mtKFGqBQDJWgwc"

static void messages(const struct ef *f, uint32_t run, const char *text)
{
	char *dir = xasprintf("%s/spool", f->dir);
	struct err e = ERR_INIT;
	struct events *ev;

	assert_int_equal(events_open(dir, run, &ev, &e), 0);
	assert_int_equal(events_append(ev, text, strlen(text)), 0);
	events_close(ev);
	free(dir);
}

static char *context_of(const struct ef *f, uint32_t run)
{
	struct strbuf path = STRBUF_INIT, text = STRBUF_INIT;

	engine_context_path(f->en, run, &path);
	(void)strbuf_read_file(&text, path.buf, 1 << 20);
	strbuf_release(&path);
	return strbuf_detach(&text, NULL);
}

static void write_context(const struct ef *f, uint32_t run, const char *text)
{
	struct strbuf path = STRBUF_INIT;
	char *dir = xasprintf("%s/spool/%u", f->dir, run);
	FILE *out;

	(void)mkdir(dir, 0700);
	engine_context_path(f->en, run, &path);
	out = fopen(path.buf, "w");
	assert_non_null(out);
	assert_int_equal(fputs(text, out) >= 0, 1);
	assert_int_equal(fclose(out), 0);
	strbuf_release(&path);
	free(dir);
}

static void ends_wait_for_messages(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, PIPES);

	(void)state;
	assert_true(engine_has_pipes(engine_run(f->en, run)));
	assert_true(ef_req(f, CREQ_SUBMIT, run)->job->pipes_messages);
	assert_non_null(ef_req(f, CREQ_SUBMIT, run)->context);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'events_len': 100}");
	STATUS(f, run, "running");
	ef_event(f, run, EV_END,
		 "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'events_len': 100}"); /* once more */
	ef_log(f, run, 0, 0, false);
	STATUS(f, run, "running");
	ef_events_last(f, run);
	ef_quiet(f);
	STATUS(f, run, "succeeded");
	ef_free(f);
}

static void messages_may_be_first_and_may_be_none(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, PIPES), none;

	(void)state;
	ef_events_last(f, run);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'events_len': 7}");
	STATUS(f, run, "succeeded");
	none = ef_running_run(f, PIPES);
	ef_event(f, none, EV_END, "{'attempt': 1, 'status': 'cancelled', 'out_len': 0, 'err_len': 0, 'events_len': 0}");
	STATUS(f, none, "cancelled");
	ef_free(f);
}

/* The list of results and the messages are waited for, in either order; a new worker waits again. */
static void both_are_waited_for(void **state)
{
	static const char end[] = "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'manifest': true}";
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, PIPES);

	(void)state;
	ef_event(f, run, EV_END, end);
	ef_answer(f, ef_req(f, CREQ_MANIFEST, run), 0, "", "", 0);
	STATUS(f, run, "running");
	ef_reopen(f);
	assert_true(ef_req(f, CREQ_WATCH, run)->job->pipes_messages);
	ef_event(f, run, EV_END, end);
	ef_events_last(f, run);
	ef_quiet(f);
	STATUS(f, run, "running");
	ef_answer(f, ef_req(f, CREQ_MANIFEST, run), 0, "", "", 0);
	ef_quiet(f);
	STATUS(f, run, "succeeded");
	ef_free(f);
}

static void exceptions_fail(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, PIPES);

	(void)state;
	messages(f, run, CLOSED_BADLY);
	ef_events_last(f, run);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'why': 'exited with code 0'}");
	ef_quiet(f); /* the feed comes first */
	STATUS(f, run, "failed");
	assert_string_equal(engine_run(f->en, run)->why, "its Pipes session ended with an exception: E: bad");
	run = ef_running_run(f, PIPES);
	messages(f, run, CLOSED_BADLY);
	ef_events_last(f, run);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'failed', 'exit_code': 1, 'why': 'exited with code 1'}");
	ef_quiet(f);
	assert_string_equal(engine_run(f->en, run)->why, "exited with code 1; E: bad");
	run = ef_running_run(f, "{'command': 'echo', 'pipes': true, 'pipes_exception': 'ignore'}");
	messages(f, run, CLOSED_BADLY);
	ef_events_last(f, run);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	ef_quiet(f);
	STATUS(f, run, "succeeded");
	run = ef_running_run(f, PIPES);
	messages(f, run, CLOSED_BADLY);
	ef_events_last(f, run);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'timeout'}");
	ef_quiet(f);
	STATUS(f, run, "timeout");
	ef_free(f);
}

static void contexts(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "step"), run;
	struct said s = { 0 };
	char *text;

	(void)state;
	ef_submit(f, "{'command': 'x', 'env': {'DAGSTER_PIPES_CONTEXT': '" VAR_DRAFT "'}}", draft, &s);
	FAILED(&s, -EINVAL, "nothing was written there");
	write_context(f, draft, "[]");
	ef_submit(f, "{'command': 'x', 'env': {'DAGSTER_PIPES_CONTEXT': '" VAR_DRAFT "'}}", draft, &s);
	FAILED(&s, -EINVAL, "must be a JSON object");
	STATUS(f, draft, "draft");
	write_context(f, draft, "{ \"run_id\": \"r\", \"extras\": {\"b\": 2} }");
	ef_submit(f, "{'command': 'x', 'env': {'DAGSTER_PIPES_CONTEXT': '" VAR_DRAFT "', 'A': 'b'}}", draft, &s);
	SAID(&s, 0, "step");
	text = context_of(f, draft);
	assert_string_equal(text, "{ \"run_id\": \"r\", \"extras\": {\"b\": 2} }");
	free(text);
	assert_int_equal(ef_req(f, CREQ_SUBMIT, draft)->job->n_env, 1);
	run = ef_run(f, "{'command': 'x', 'extras': {'k': [1]}}");
	text = context_of(f, run);
	assert_non_null(strstr(text, "\"extras\":{\"k\":[1]}"));
	free(text);
	run = ef_run(f, "{'command': 'x'}");
	assert_false(engine_has_pipes(engine_run(f->en, run)));
	assert_null(ef_req(f, CREQ_SUBMIT, run)->context);
	ef_free(f);
}

/* A run that is tried again gets the same context; a damaged variable is refused; what is not ours stays. */
static void variables(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "step"), run;
	struct said s = { 0 };
	char *text;

	(void)state;
	write_context(f, draft, "{\"run_id\": \"r\"}");
	ef_submit(f, "{'command': 'x', 'env': {'DAGSTER_PIPES_CONTEXT': '" VAR_DRAFT "'}}", draft, &s);
	SAID(&s, 0, "step");
	ef_event(f, draft, EV_SUBMITTED, "{'attempt': 1, 'job_id': '9'}");
	ef_event(f, draft, EV_END, "{'attempt': 1, 'status': 'failed', 'events_len': 0}");
	ef_verb(f, draft, "retry", &s);
	assert_int_equal(s.code, 0);
	run = engine_last(f->en)->num;
	assert_true(run != draft);
	text = context_of(f, run);
	assert_string_equal(text, "{\"run_id\": \"r\"}");
	free(text);
	memset(&s, 0, sizeof(s));
	ef_submit(f, "{'command': 'x', 'env': {'DAGSTER_PIPES_MESSAGES': 'e+J'}}", 0, &s);
	FAILED(&s, -EINVAL, "DAGSTER_PIPES_MESSAGES is not what Dagster puts there");
	run = ef_run(f, "{'command': 'x', 'pipes': false, 'env': {'DAGSTER_PIPES_CONTEXT': 'anything'}}");
	assert_int_equal(ef_req(f, CREQ_SUBMIT, run)->job->n_env, 1);
	ef_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ends_wait_for_messages),
		cmocka_unit_test(messages_may_be_first_and_may_be_none),
		cmocka_unit_test(both_are_waited_for),
		cmocka_unit_test(exceptions_fail),
		cmocka_unit_test(contexts),
		cmocka_unit_test(variables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
