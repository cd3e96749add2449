/*
 * The engine's memory: stopped and started at every step, killed at any moment, with a full disk, with runs taken away
 * and clusters taken out of the configuration. Nothing that was accepted may be lost, nothing may be submitted twice.
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/mem.h"
#include "backend/spool.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ECHO "{'command': 'echo hello'}"

/* --- stopped after every step --- */

static void stopped_at_every_step(void **state)
{
	struct ef *f = ef_new(NULL);
	struct engine_submit sub = { .text = "{\"command\":\"ls\"}", .len = 16, .request = 5 };
	struct said s = { 0 };

	(void)state;
	engine_submit(f->en, &sub, said, &s); /* committed while closing; the user never heard of it */
	ef_reopen(f);
	assert_int_equal(s.calls, 0);
	STATUS(f, 1, "submitting");
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 1), 1); /* it was queued: nothing can have been sent */
	engine_submit(f->en, &sub, said, &s);
	SAID(&s, 0, "1");
	assert_int_equal(engine_count(f->en), 1);
	ef_reopen(f);
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 0);
	assert_int_equal(ef_count(f, CREQ_WATCH, 1), 1);
	assert_null(ef_req(f, CREQ_WATCH, 1)->job_id);
	assert_non_null(strstr(ef_req(f, CREQ_WATCH, 1)->script, "ls"));
	assert_false(ef_req(f, CREQ_WATCH, 1)->ended);
	ef_event(f, 1, EV_SUBMITTED, "{'attempt': 1, 'job_id': '9'}");
	ef_reopen(f);
	STATUS(f, 1, "pending");
	assert_string_equal(ef_req(f, CREQ_WATCH, 1)->job_id, "9");
	ef_event(f, 1, EV_STATE, "{'attempt': 1, 'status': 'running', 'nodes': 'n1'}");
	ef_reopen(f);
	STATUS(f, 1, "running");
	ef_event(f, 1, EV_UNKNOWN, "{'why': 'away'}");
	ef_reopen(f);
	STATUS(f, 1, "unknown");
	ef_event(f, 1, EV_KNOWN, "{}");
	ef_event(f, 1, EV_STATE, "{'attempt': 1, 'status': 'completing'}");
	ef_reopen(f);
	STATUS(f, 1, "completing");
	assert_string_equal(engine_run(f->en, 1)->nodes, "n1");
	/* the end is held for the manifest: it is reported again */
	ef_event(f, 1, EV_END,
		 "{'attempt': 1, 'status': 'failed', 'exit_code': 4, 'manifest': true, 'out_len': 1, 'err_len': 0}");
	ef_reopen(f);
	STATUS(f, 1, "completing");
	ef_event(f, 1, EV_END,
		 "{'attempt': 1, 'status': 'failed', 'exit_code': 4, 'manifest': true, 'out_len': 1, 'err_len': 0}");
	ef_answer(f, ef_req(f, CREQ_MANIFEST, 1), 0, "", "", 0);
	ef_reopen(f);
	STATUS(f, 1, "failed");
	assert_int_equal(engine_run(f->en, 1)->exit_code, 4);
	assert_int_equal(engine_run(f->en, 1)->n_history, 8);
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 0);
	ef_free(f);
}

static void wishes_survive(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_pending_run(f, ECHO);
	struct said s = { 0 };

	(void)state;
	engine_verb(f->en, run, "cancel", 9, said, &s); /* in the journal, but not told */
	ef_reopen(f);
	assert_int_equal(s.calls, 0);
	assert_true(engine_run(f->en, run)->cancel_wanted);
	assert_int_equal(ef_verb_count(f, run, "cancel"), 1);
	engine_verb(f->en, run, "cancel", 9, said, &s);
	SAID(&s, 0, "");
	assert_int_equal(ef_verb_count(f, run, "cancel"), 1);
	/* the watch comes before the verb */
	assert_int_equal(f->got[0]->m.type, CREQ_WATCH);
	assert_int_equal(f->got[1]->m.type, CREQ_VERB);
	ef_free(f);
}

static void what_runs_is_told_first(void **state)
{
	struct ef *f = ef_new(NULL);

	(void)state;
	(void)ef_pending_run(f, ECHO);
	(void)ef_running_run(f, ECHO);
	(void)ef_pending_run(f, ECHO);
	ef_event(f, ef_running_run(f, ECHO), EV_UNKNOWN, "{}");
	ef_reopen(f);
	assert_int_equal(f->n_got, 4);
	assert_int_equal(f->got[0]->run, 2);
	assert_int_equal(f->got[1]->run, 4);
	assert_int_equal(f->got[2]->run, 1);
	assert_int_equal(f->got[3]->run, 3);
	ef_free(f);
}

/* --- killed at any moment --- */

/* Notes submissions in a file: a line for each, in one write(2). */
static void note_submission(struct ef *f, const struct creq *r)
{
	const int *fd = f->arg;
	char line[64];
	int n;

	if (r->m.type != (int)CREQ_SUBMIT)
		return;
	n = snprintf(line, sizeof(line), "S %u %u\n", r->run, r->attempt);
	(void)!write(*fd, line, (size_t)n);
}

static void note_acceptance(void *arg, int code, const char *text)
{
	const int *fd = arg;
	char line[64];
	int n;

	if (code)
		return;
	n = snprintf(line, sizeof(line), "A %s\n", text);
	(void)!write(*fd, line, (size_t)n);
}

/* Submits, and moves every run on by a step, for ever. */
static void work(struct ef *f, int fd)
{
	const struct engine_submit sub = { .text = "{\"command\":\"ls\"}", .len = 16 };

	f->arg = &fd;
	f->on_post = note_submission;
	ef_open(f);
	for (;;) {
		engine_submit(f->en, &sub, note_acceptance, &fd);
		for (const struct run *r = engine_next(f->en, 0); r; r = engine_next(f->en, r->num)) {
			if (r->status == RUN_SUBMITTING && r->num % 5 == 0 && r->attempt == 1)
				ef_event(f, r->num, EV_LOST, "{'attempt': 1, 'why': 'x'}");
			else if (r->status == RUN_SUBMITTING && r->attempt == 1)
				ef_event(f, r->num, EV_SUBMITTED, "{'attempt': 1, 'job_id': '1'}");
			else if (r->status == RUN_PENDING)
				ef_event(f, r->num, EV_END,
					 "{'attempt': 1, 'status': 'succeeded', 'out_len': 0, 'err_len': 0}");
		}
		ef_step(f);
	}
}

static void killed_at_any_moment(void **state)
{
	struct ef *f = ef_new(NULL);
	char path[100], line[64];
	unsigned n_accepted = 0, n_sent = 0;
	unsigned char *sent = xcalloc(100000, 3);
	FILE *in;

	(void)state;
	ef_close(f);
	(void)snprintf(path, sizeof(path), "%s/notes", f->dir);
	for (unsigned i = 0; i < 12; i++) {
		int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), status;
		pid_t pid = fork();

		if (pid == 0) {
			work(f, fd);
			_exit(1);
		}
		usleep(60000 + 7919 * i);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		(void)close(fd);
	}
	ef_open(f);
	ef_quiet(f);
	in = fopen(path, "r");
	assert_non_null(in);
	while (fgets(line, sizeof(line), in)) {
		unsigned long run = strtoul(line + 2, NULL, 10), attempt;

		assert_true(run > 0 && run < 100000);
		if (line[0] == 'A') {
			assert_non_null(engine_run(f->en, (uint32_t)run));
			n_accepted++;
			continue;
		}
		attempt = strtoul(strrchr(line, ' '), NULL, 10);
		assert_in_range(attempt, 1, 2);
		assert_int_equal(sent[run * 3 + attempt]++, 0);
		n_sent++;
	}
	(void)fclose(in);
	print_message("%u accepted, %u submissions, none twice\n", n_accepted, n_sent);
	assert_true(n_accepted > 0 && n_sent > 0);
	for (size_t i = 0; i < f->n_got; i++)
		if (f->got[i]->m.type == (int)CREQ_SUBMIT)
			assert_int_equal(sent[f->got[i]->run * 3 + f->got[i]->attempt], 0);
	for (const struct run *r = engine_next(f->en, 0); r; r = engine_next(f->en, r->num))
		assert_true(r->status != RUN_QUEUED && r->status != RUN_DRAFT);
	free(sent);
	ef_free(f);
}

/* --- purging --- */

static void purging(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, ECHO), draft = ef_draft(f, "d");
	struct said s, p = { 0 }, w = { 0 };
	struct strbuf dir = STRBUF_INIT;

	(void)state;
	ef_purge(f, run, &s);
	FAILED(&s, -EBUSY, "cancel it first");
	ef_purge(f, 999, &s);
	FAILED(&s, -ENOENT, "no such run");
	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'failed', 'out_len': 9, 'err_len': 9}");
	/* reports that cross the purge must not bring the run back */
	engine_purge(f->en, run, 0, said, &p);
	engine_report(f->en, engine_find(f->en, run), event_new(EV_FACTS, 1, json_pack("{s:i}", "x", 1)));
	engine_purge(f->en, run, 0, said, &s);
	FAILED(&s, -ENOENT, "no such run");
	ef_quiet(f);
	SAID(&p, 0, "");
	assert_int_equal(f->gone, 1);
	assert_int_equal(ef_count(f, CREQ_FORGET, run), 1);
	ef_log(f, run, 9, 9, true);
	assert_int_equal(ef_sql(f, "SELECT count(*) FROM run WHERE num = 1"), 0);
	/* a draft: a spec that comes too late, and whoever waits for its decision */
	engine_files_dir(f->en, draft, &dir);
	(void)mkdir(dir.buf, 0700);
	engine_decided(f->en, draft, said, &w);
	engine_purge(f->en, draft, 0, said, &p);
	engine_submit(f->en, &(struct engine_submit){ .text = "{\"command\":\"ls\"}", .len = 16, .draft = draft }, said,
		      &s);
	FAILED(&s, -ENOENT, "purged");
	ef_quiet(f);
	SAID(&p, 0, "");
	FAILED(&w, -ENOENT, "purged");
	assert_int_equal(access(dir.buf, F_OK), -1);
	assert_int_equal(ef_count(f, CREQ_FORGET, draft), 0); /* it never was on a cluster */
	strbuf_release(&dir);
	ef_reopen(f);
	assert_int_equal(engine_count(f->en), 0);
	assert_int_equal(ef_run(f, ECHO), 3); /* numbers are not used again */
	ef_free(f);
}

struct leaver {
	struct ef *f;
	uint32_t run;
	int calls;
	struct said other;
};

/* The first that hears of it takes the other back. */
static void take_back(void *arg, int code, const char *text)
{
	struct leaver *l = arg;

	assert_int_equal(code, -ENOENT);
	assert_non_null(text);
	l->calls++;
	engine_cancel_cb(l->f->en, l->run, &l->other);
	engine_decided(l->f->en, l->run, said, l->f->arg);
}

static void callbacks_of_a_purged_run(void **state)
{
	struct ef *f = ef_new(NULL);
	struct leaver l = { .f = f, .run = ef_draft(f, "d") };
	struct said s, again = { 0 };

	(void)state;
	f->arg = &again;
	engine_decided(f->en, l.run, take_back, &l);
	engine_decided(f->en, l.run, said, &l.other);
	ef_purge(f, l.run, &s);
	SAID(&s, 0, "");
	assert_int_equal(l.calls, 1);
	assert_int_equal(l.other.calls, 0);
	FAILED(&again, -ENOENT, "purged");
	ef_free(f);
}

/* --- a full disk --- */

static void fill(const char *path)
{
	static char block[4096];
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	while (write(fd, block, sizeof(block)) > 0)
		;
	while (write(fd, block, 1) > 0)
		;
	(void)close(fd);
}

static void a_full_disk(void **state)
{
	struct ef *f = ef_new(NULL);
	char ballast[100], *big;
	uint32_t run, draft;
	struct said s;

	(void)state;
	ef_close(f);
	if (mount("tmpfs", f->dir, "tmpfs", 0, "size=2m,mode=0700") < 0) {
		ef_open(f);
		ef_free(f);
		skip(); /* not allowed here */
	}
	ef_open(f);
	run = ef_running_run(f, ECHO);
	draft = ef_draft(f, "d");
	(void)snprintf(ballast, sizeof(ballast), "%s/ballast", f->dir);
	fill(ballast);
	/* what fails leaves nothing */
	big = xasprintf("{'command': 'ls', 'env': {'X': '%0*d'}, 'key': 'k'}", 60000, 0);
	ef_submit(f, big, draft, &s);
	FAILED(&s, -ENOSPC, "disk is full");
	STATUS(f, draft, "draft");
	assert_int_equal(engine_run(f->en, draft)->spec_len, 0);
	assert_non_null(strstr(engine_trouble(f->en), "cannot be written"));
	ef_submit(f, big, 0, &s);
	FAILED(&s, -ENOSPC, "disk is full");
	assert_int_equal(engine_count(f->en), 2);
	ef_verb(f, run, "signal USR1", &s);
	FAILED(&s, -ENOSPC, "nothing was done");
	assert_int_equal(ef_verb_count(f, run, "signal"), 0);
	ef_purge(f, draft, &s);
	FAILED(&s, -ENOSPC, "still there");
	assert_int_equal(f->gone, 0);
	/* a report is kept until there is room */
	engine_report(f->en, engine_find(f->en, run),
		      event_new(EV_END, 5, ef_json("{'attempt': 1, 'status': 'failed'}")));
	for (int i = 0; i < 20; i++)
		ef_step(f);
	STATUS(f, run, "running");
	assert_int_equal(unlink(ballast), 0);
	for (int i = 0; i < 1000 && ef_status(f, run) == RUN_RUNNING; i++)
		ef_step(f);
	STATUS(f, run, "failed");
	while (*engine_trouble(f->en))
		ef_step(f);
	ef_submit(f, big, draft, &s); /* the key was not used up by what failed */
	SAID(&s, 0, "d");
	free(big);
	ef_reopen(f);
	STATUS(f, run, "failed");
	ef_close(f);
	assert_int_equal(umount(f->dir), 0);
	ef_free(f);
}

/* --- a cluster that is no longer configured --- */

#define LESS "[cluster two]\nhost = other\n"

static void a_section_is_gone(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "d"), queued = ef_run(f, "{'command': 'ls', 'afterany': ['d']}"), sent, running,
		 other, ended;
	struct said s, a = { 0 };

	(void)state;
	(void)draft;
	sent = ef_run(f, ECHO);
	running = ef_running_run(f, ECHO);
	ended = ef_ended_run(f, ECHO);
	other = ef_run(f, "{'command': 'ls', 'cluster': 'two'}");
	ef_close(f);
	ef_forget(f);
	ef_open_with(f, LESS);
	ef_quiet(f);
	assert_int_equal(f->n_got, 1);
	assert_int_equal(f->got[0]->run, other);
	STATUS(f, queued, "queued"); /* not rejected: the section may come back */
	assert_non_null(strstr(engine_gate(f->en, queued), "cluster hpc is no longer"));
	STATUS(f, sent, "unknown");
	STATUS(f, running, "unknown");
	assert_non_null(strstr(engine_run(f->en, running)->why, "cluster hpc is no longer"));
	STATUS(f, ended, "succeeded");
	assert_null(engine_cluster_link(f->en, "hpc"));
	/* nobody waits in vain */
	ef_verb(f, running, "cancel", &s);
	SAID(&s, 0, "");
	engine_verb_answer(f->en, running, said, &a);
	FAILED(&a, -EHOSTUNREACH, "no longer");
	ef_purge(f, ended, &s);
	SAID(&s, 0, "");
	ef_verb(f, queued, "cancel", &s);
	STATUS(f, queued, "cancelled");
	ef_reopen(f);
	assert_int_equal(ef_count(f, CREQ_WATCH, sent), 1);
	assert_int_equal(ef_count(f, CREQ_WATCH, running), 1);
	assert_int_equal(ef_verb_count(f, running, "cancel"), 1);
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 0);
	ef_event(f, running, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	STATUS(f, running, "running");
	ef_event(f, sent, EV_SUBMITTED, "{'attempt': 1, 'job_id': '3'}");
	STATUS(f, sent, "pending");
	ef_free(f);
}

/* The journaled effective spec no longer makes a job (an upgrade is stricter): what is known to be there is watched. */
static void a_job_that_cannot_be_rebuilt(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t draft = ef_draft(f, "d"), queued = ef_run(f, "{'command': 'ls', 'afterany': ['d']}"), sent, running;
	struct store_txn *t;

	(void)state;
	(void)draft;
	sent = ef_run(f, ECHO);
	running = ef_running_run(f, ECHO);
	for (uint32_t i = 1; i <= 4; i++) {
		t = store_txn_new(0, false);
		store_txn_doc(t, i, "effective", "{}", 2);
		store_post(f->en->store, t);
	}
	ef_reopen(f);
	STATUS(f, queued, "rejected");
	assert_non_null(strstr(engine_run(f->en, queued)->why, "nothing to run"));
	STATUS(f, sent, "unknown");
	STATUS(f, running, "running");
	assert_non_null(ef_req(f, CREQ_WATCH, running));
	assert_null(ef_req(f, CREQ_WATCH, running)->script);
	assert_non_null(ef_req(f, CREQ_WATCH, running)->job->directory);
	assert_null(ef_req(f, CREQ_WATCH, sent));
	ef_free(f);
}

/* --- damage, spools, many --- */

static void a_damaged_journal(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_ended_run(f, ECHO), live = ef_running_run(f, ECHO);
	struct store_txn *t = store_txn_new(0, false);
	json_t *nothing = json_object();
	struct event *ev = event_new(EV_CREATE, 1, NULL);

	(void)state;
	store_txn_summary(t, run, "1", false, nothing);
	store_txn_summary(t, 9, "nine", true,
			  nothing); /* a live run without a word about it, and one that makes no sense */
	store_txn_summary(t, 10, "ten", true, nothing);
	store_txn_event(t, 10, ev);
	store_post(f->en->store, t);
	event_free(ev);
	json_decref(nothing);
	ef_reopen(f);
	STATUS(f, run, "failed");
	STATUS(f, 9, "failed");
	STATUS(f, 10, "failed");
	STATUS(f, live, "running");
	assert_non_null(strstr(engine_run(f->en, run)->why, "damaged"));
	assert_int_equal(ef_count(f, CREQ_SUBMIT, 0), 0);
	ef_free(f);
}

static void logs_of_a_killed_worker_are_shown(void **state)
{
	struct ef *f = ef_new(NULL);
	uint32_t run = ef_running_run(f, ECHO);
	char *spool = xasprintf("%s/spool", f->dir), *out = xasprintf("%s/%u/out", spool, run);
	struct spool_reader *r;
	struct spool *s;
	FILE *file;

	(void)state;
	assert_int_equal(spool_open(spool, run, &s, NULL), 0);
	assert_int_equal(spool_append(s, SPOOL_OUT, "abc", 3), 0);
	spool_close(s);
	file = fopen(out, "a"); /* written, but not yet counted */
	assert_non_null(file);
	(void)fputs("def", file);
	(void)fclose(file);
	ef_reopen(f);
	assert_int_equal(spool_reader_open(spool, run, false, &r, NULL), 0);
	assert_int_equal(spool_reader_len(r, SPOOL_OUT), 6);
	spool_reader_close(r);
	free(spool);
	free(out);
	ef_free(f);
}

static int64_t milliseconds(void)
{
	return clock_mono(&clock_system) / USEC_PER_MSEC;
}

static void ten_thousand_runs(void **state)
{
	enum { MANY = 10000 };
	struct ef *f = ef_new(NULL);
	uint32_t first = ef_ended_run(f, ECHO);
	const struct run *r = engine_run(f->en, first);
	int64_t t0, t1, t2;
	uint32_t gate;

	(void)state;
	for (uint32_t i = 2; i <= MANY; i++) {
		struct store_txn *t = store_txn_new(0, false);
		json_t *j = run_summary(r);
		char id[16];

		(void)snprintf(id, sizeof(id), "%u", i);
		(void)json_object_set_new(j, "id", json_string(id));
		if (i % 2)
			(void)json_object_set_new(json_object_get(j, "facts"), "logs", json_string("complete"));
		store_txn_summary(t, i, id, false, j);
		store_post(f->en->store, t);
		json_decref(j);
	}
	engine_free(f->en, 20000);
	ef_forget(f);
	t0 = milliseconds();
	ef_open(f);
	t1 = milliseconds();
	ef_quiet(f);
	assert_int_equal(engine_count(f->en), MANY);
	assert_int_equal(ef_count(f, CREQ_WATCH, 0), MANY / 2 + 1); /* those whose logs may not be all here */
	for (uint32_t i = 1; i <= MANY; i++) {
		struct crep *rep = crep_new(CREP_LOG, NULL);

		rep->run = i;
		rep->out_len = 3;
		rep->last = true;
		inbox_post(&f->en->inbox, &rep->m);
	}
	ef_quiet(f);
	ef_reopen(f);
	assert_int_equal(ef_count(f, CREQ_WATCH, 0), 0); /* once, and then never again */
	/* waiting runs are cheap */
	gate = ef_draft(f, "gate");
	for (int i = 0; i < 300; i++) {
		const struct engine_submit sub = { .text = "{\"command\":\"ls\",\"afterany\":[\"gate\"]}", .len = 37 };
		static struct said s;

		engine_submit(f->en, &sub, said, &s);
	}
	ef_quiet(f);
	t2 = milliseconds();
	for (int i = 0; i < 100; i++)
		engine_act_gated(f->en);
	print_message("%d runs: opened in %lld ms; 100 looks at 300 waiting runs among them in %lld ms\n", MANY,
		      (long long)(t1 - t0), (long long)(milliseconds() - t2));
	STATUS(f, gate, "draft");
	ef_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stopped_at_every_step),
		cmocka_unit_test(wishes_survive),
		cmocka_unit_test(what_runs_is_told_first),
		cmocka_unit_test(killed_at_any_moment),
		cmocka_unit_test(purging),
		cmocka_unit_test(callbacks_of_a_purged_run),
		cmocka_unit_test(a_full_disk),
		cmocka_unit_test(a_section_is_gone),
		cmocka_unit_test(a_job_that_cannot_be_rebuilt),
		cmocka_unit_test(a_damaged_journal),
		cmocka_unit_test(logs_of_a_killed_worker_are_shown),
		cmocka_unit_test(ten_thousand_runs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
