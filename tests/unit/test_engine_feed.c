/*
 * What the engine tells of runs in the root's `events`: a line for each change that was journaled and none for others,
 * a run's messages in pieces, and an end that waits for them.
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"

#include <stdio.h>

#define PIPES "{'command': 'echo', 'pipes': true, 'name': 'talker', 'tags': ['t']}"
#define LOG "{\"method\": \"log\", \"params\": {\"message\": \"%d\", \"level\": \"INFO\"}}\n"

static void say(const struct ef *f, uint32_t run, const char *text)
{
	char *dir = xasprintf("%s/spool", f->dir);
	struct err e = ERR_INIT;
	struct events *ev;

	assert_int_equal(events_open(dir, run, &ev, &e), 0);
	assert_int_equal(events_append(ev, text, strlen(text)), 0);
	events_close(ev);
	free(dir);
}

static char *all(const struct ef *f)
{
	uint64_t len = engine_feed_len(f->en);
	char *text = xcalloc(1, len + 1);

	assert_int_equal(engine_feed_read(f->en, text, len + 100, 0), (ssize_t)len);
	assert_int_equal(engine_feed_read(f->en, text, 1, len), 0);
	return text;
}

/* The lines as FROM>TO or METHOD, a word each. */
static void words(const struct ef *f, struct strbuf *out)
{
	char *text = all(f), *line = text, *nl;

	strbuf_reset(out);
	for (; (nl = strchr(line, '\n')); line = nl + 1) {
		json_t *o = json_loadb(line, (size_t)(nl - line), 0, NULL);
		const char *from = json_string_value(json_object_get(o, "from"));
		const char *to = json_string_value(json_object_get(o, "to"));
		const char *method = json_string_value(json_object_get(o, "method"));

		assert_non_null(o);
		if (method)
			strbuf_addf(out, "%s ", method);
		else
			strbuf_addf(out, "%lld:%s>%s ", json_integer_value(json_object_get(o, "num")), from ? from : "",
				    to);
		json_decref(o);
	}
	assert_int_equal(*line, '\0');
	free(text);
}

#define WORDS(f, want)                                                                                                 \
	do {                                                                                                           \
		struct strbuf got = STRBUF_INIT;                                                                       \
		words(f, &got);                                                                                        \
		assert_string_equal(got.buf, want);                                                                    \
		strbuf_release(&got);                                                                                  \
	} while (0)

static void a_line_for_each_change(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run;

	(void)state;
	run = ef_running_run(f, "{'command': 'echo'}");
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running', 'nodes': 'n1'}"); /* news, and no change */
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running', 'nodes': 'n1'}"); /* not even news */
	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '9'}");                  /* late */
	ef_event(f, run, EV_UNKNOWN, "{'why': 'away'}");
	ef_event(f, run, EV_KNOWN, "{}");
	ef_event(f, run, EV_FACTS, "{'a': 1}");
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'failed', 'exit_code': 4, 'why': 'bad \\\"luck\\\"'}");
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded'}"); /* twice */
	ef_quiet(f);
	WORDS(f,
	      "1:>queued 1:queued>submitting 1:submitting>pending 1:pending>running 1:running>unknown 1:unknown>running "
	      "1:running>failed ");
	(void)ef_draft(f, "mine");
	{
		char *text = all(f), *last = strrchr(text, '{');

		assert_non_null(strstr(text, "\"to\":\"failed\",\"code\":4,\"why\":\"bad \\\"luck\\\"\""));
		assert_non_null(strstr(last, "\"run\":\"mine\",\"num\":2,\"name\":null,\"cluster\":null,\"tags\":[],"
					     "\"attempt\":0,\"type\":\"status\",\"from\":null,\"to\":\"draft\""));
		free(text);
	}
	ef_free(f);
}

static void drafts_refusals_and_purges(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "step"), run;
	struct said s = { 0 };

	(void)state;
	ef_submit(f, "{'command': 'x', 'nonsense': 1}", draft, &s);
	memset(&s, 0, sizeof(s));
	ef_submit(f, "{'command': 'x'}", draft, &s);
	SAID(&s, 0, "step");
	ef_event(f, draft, EV_REJECTED, "{'attempt': 1, 'why': 'no'}");
	run = ef_draft(f, "other");
	ef_purge(f, run, &s);
	WORDS(f, "1:>draft 1:draft>queued 1:queued>submitting 1:submitting>rejected 2:>draft ");
	ef_reopen(f);
	WORDS(f, "1:>draft 1:draft>queued 1:queued>submitting 1:submitting>rejected 2:>draft ");
	ef_free(f);
}

static void messages_come_once(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, PIPES);
	char *text;

	(void)state;
	say(f, run, "{\"method\": \"opened\", \"params\": {}}\njunk\n{\"method\": \"log\", \"par");
	ef_log(f, run, 0, 0, false);
	ef_quiet(f);
	say(f, run, "ams\": {\"message\": \"NaN\\u00e9\", \"level\": \"INFO\"}}\n");
	ef_log(f, run, 0, 0, false);
	ef_log(f, run, 0, 0, false);
	ef_quiet(f);
	ef_reopen(f);
	ef_log(f, run, 0, 0, false);
	say(f, run, "{\"method\": \"closed\", \"params\": {}}"); /* without its newline, but the last */
	ef_reopen(f);
	WORDS(f, "1:>queued 1:queued>submitting 1:submitting>pending 1:pending>running opened log ");
	text = all(f);
	assert_non_null(strstr(text, "\"run\":\"1\",\"num\":1,\"name\":\"talker\",\"cluster\":\"hpc\",\"tags\":[\"t\"],"
				     "\"attempt\":1,\"type\":\"report\",\"method\":\"log\",\"params\":{\"message\": "
				     "\"NaN\\u00e9\", \"level\": \"INFO\"}}\n"));
	free(text);
	ef_free(f);
}

/* What was judged while no worker was there to take it. */
static void what_a_kill_left(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, PIPES);

	(void)state;
	ef_close(f);
	say(f, run, "{\"method\": \"opened\", \"params\": {}}\n");
	ef_forget(f);
	ef_open(f);
	ef_quiet(f);
	WORDS(f, "1:>queued 1:queued>submitting 1:submitting>pending 1:pending>running opened ");
	ef_free(f);
}

static void an_end_waits_for_the_feed(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, PIPES);
	struct strbuf text = STRBUF_INIT;
	unsigned logs = 0;
	char *have;

	(void)state;
	for (int i = 0; i < 20000; i++) /* several transactions */
		strbuf_addf(&text, LOG, i);
	say(f, run, text.buf);
	strbuf_release(&text);
	ef_events_last(f, run);
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0}");
	ef_quiet(f);
	STATUS(f, run, "succeeded");
	have = all(f);
	for (char *at = have; (at = strstr(at, "\"message\": \"")); logs++) {
		at += strlen("\"message\": \"");
		assert_int_equal(strtoul(at, NULL, 10), logs);
	}
	assert_int_equal(logs, 20000);
	assert_non_null(strstr(strrchr(have, '{'), "\"to\":\"succeeded\""));
	free(have);
	assert_int_equal(ef_sql(f, "SELECT count(*) FROM fed"), 1);
	{
		struct said s = { 0 };

		ef_purge(f, run, &s);
		SAID(&s, 0, "");
	}
	assert_int_equal(ef_sql(f, "SELECT count(*) FROM fed"), 0);
	ef_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_for_each_change),    cmocka_unit_test(drafts_refusals_and_purges),
		cmocka_unit_test(messages_come_once),        cmocka_unit_test(what_a_kill_left),
		cmocka_unit_test(an_end_waits_for_the_feed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
