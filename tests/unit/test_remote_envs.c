/*
 * Packed environments against a cluster of local processes (lib_fake_cluster): an archive is sent and unpacked once
 * for all runs, whatever is cut or restarted, with sftp and without; what cannot be used is refused once and for all.
 * TEST_SECONDS=20
 */
#include "tests/unit/lib_cluster.h"
#include "tests/unit/lib_fake_cluster.h"

#include "backend/base/mem.h"
#include "launchers/launcher.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The python of the archive says OK. */
#define PYTHON "python3 >>\"$HOME/executed\""

static int setup(void **state)
{
	fx_clear_faults();
	*state = fx_new();
	return 0;
}

static int teardown(void **state)
{
	fx_free(*state);
	return 0;
}

/* STATE/env.sh: a self-extracting file of about that size whose python says OK. */
static void pack(const struct fx *f, int kib)
{
	char code[1024];

	(void)snprintf(
		code, sizeof(code),
		"{ printf '%%s\\n' '#!/bin/sh' 'mkdir conda-meta bin; printf \"#!/bin/sh\\necho OK\\n\" >bin/python3; "
		"chmod +x bin/python3' 'exit 0'; head -c %d /dev/urandom; } >\"%s/env.sh\"",
		kib * 1024, f->state);
	fx_shell(f->home, code);
}

static struct creq *make(const struct fx *f, enum creq_type type, uint32_t run)
{
	struct creq *q = fx_make_submit(f, type, run, 1, PYTHON);
	struct launch_ctx ctx = { .run_id = q->run_id, .run_num = run, .attempt = 1, .uuid = UUID };
	struct strbuf script = STRBUF_INIT;
	struct err e = ERR_INIT;

	q->job->environment.kind = ENV_ARCHIVE;
	q->job->environment.where = xasprintf("%s/env.sh", f->state);
	free(q->script);
	if (launcher_find("bash")->render(q->job, &ctx, &script, &e) < 0)
		fail_msg("%s", e.text);
	q->script = strbuf_detach(&script, &q->script_len);
	return q;
}

static void submit(struct fx *f, uint32_t run)
{
	remote_post(f->c, make(f, CREQ_SUBMIT, run));
}

/* So often the words stand in the archive's log on the cluster. */
static void assert_noted(const struct fx *f, const char *words, int times)
{
	char code[256];

	(void)snprintf(code, sizeof(code), "[ $(cat '.slurm ray'/envs/*/log | grep -c '%s') = %d ]", words, times);
	fx_shell(f->home, code);
}

static void succeeds(struct fx *f, uint32_t run)
{
	FX_WAIT(f, fx_event(f, run, EV_END, NULL));
	assert_non_null(fx_event(f, run, EV_END, "succeeded"));
}

static void check_many(struct fx *f)
{
	pack(f, 1500);
	fx_start(f);
	for (uint32_t i = 1; i <= 6; i++)
		submit(f, i);
	for (uint32_t i = 1; i <= 6; i++)
		succeeds(f, i);
	fx_shell(f->home, "[ \"$(grep -c OK executed)\" = 6 ] && [ $(ls '.slurm ray'/envs | wc -l) = 1 ]");
	fx_shell(f->home,
		 "cd '.slurm ray'/envs/* && ! ls | grep -e part -e archive -e lock && [ $(ls users | wc -l) = 6 ]");
	assert_noted(f, "sending from 0 of", 1);
	assert_noted(f, " unpacked", 1);
}

static void test_many(void **state)
{
	check_many(*state);
}

static void test_without_sftp(void **state)
{
	fake.sftp = FAKE_SFTP_EMFILE;
	check_many(*state);
}

static void test_plain_sh(void **state)
{
	fake.shell = "dash";
	check_many(*state);
}

/* The connection breaks at the transfer with each number: one execution, and what has arrived is not sent again. */
static void test_cut_everywhere(void **state)
{
	fx_free(*state);
	for (long at = 4; at < 130; at += at < 20 ? 6 : at) {
		struct fx *f;

		fx_clear_faults();
		f = fx_new();
		pack(f, 1500);
		fake.cut_at = at;
		fx_start(f);
		submit(f, 7);
		succeeds(f, 7);
		fx_assert_home_file(f, "executed", "OK\n");
		assert_noted(f, " unpacked", 1);
		fx_shell(f->home, "[ $(cat '.slurm ray'/envs/*/log | grep -c 'sending from 0 of') -le 2 ]");
		fx_free(f);
	}
	fx_clear_faults();
	*state = fx_new();
}

static void test_restart_everywhere(void **state)
{
	fx_free(*state);
	for (long at = 4; at < 120; at *= 2) {
		const struct event *ev;
		struct creq *q;
		struct fx *f;

		fx_clear_faults();
		f = fx_new();
		pack(f, 1500);
		fx_start(f);
		submit(f, 7);
		FX_WAIT(f, fake.transfers >= at || fx_event(f, 7, EV_END, NULL));
		fx_stop(f);
		if (!fx_event(f, 7, EV_END, NULL)) {
			ev = fx_event(f, 7, EV_SUBMITTED, NULL);
			q = make(f, CREQ_WATCH, 7);
			q->job_id = ev ? xstrdup(event_str(ev, "job_id")) : NULL;
			fx_start(f);
			remote_post(f->c, q);
			FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
			fx_assert_home_file(f, "executed", "OK\n");
			assert_noted(f, " unpacked", 1);
		}
		fx_free(f);
	}
	fx_clear_faults();
	*state = fx_new();
}

static const char *rejected(struct fx *f, uint32_t run)
{
	FX_WAIT(f, fx_event(f, run, EV_REJECTED, NULL));
	return event_str(fx_event(f, run, EV_REJECTED, NULL), "why");
}

static void test_unfit(void **state)
{
	struct fx *f = *state;
	char code[256];

	(void)snprintf(code, sizeof(code), "printf '#!/bin/sh\\necho bad day\\nexit 5\\n' >\"%s/env.sh\"", f->state);
	fx_shell(f->home, code);
	fx_start(f);
	submit(f, 1);
	submit(f, 2);
	assert_non_null(strstr(rejected(f, 1), "it cannot be unpacked (code 5): bad day"));
	assert_non_null(strstr(rejected(f, 2), "/env.sh: it cannot be unpacked"));
	submit(f, 3); /* tries again, and does not hang */
	assert_non_null(strstr(rejected(f, 3), "it cannot be unpacked"));
	pack(f, 10);
	submit(f, 4);
	succeeds(f, 4);
	fx_assert_home_file(f, "executed", "OK\n");
	(void)snprintf(code, sizeof(code), "rm \"%s/env.sh\"", f->state);
	fx_shell(f->home, code);
	submit(f, 5);
	assert_non_null(strstr(rejected(f, 5), "cannot read"));
}

static void test_removed(void **state)
{
	struct fx *f = *state;

	pack(f, 600);
	fx_start(f);
	submit(f, 1);
	succeeds(f, 1);
	fx_shell(f->home, "rm -r '.slurm ray'/envs");
	submit(f, 2);
	succeeds(f, 2);
	fx_shell(f->home, "rm '.slurm ray'/envs/*/complete"); /* half of it is debris */
	submit(f, 3);
	succeeds(f, 3);
	fx_shell(f->home, "[ \"$(wc -l <executed)\" = 3 ]");
}

/* One that waits is called off at once; the others go on. */
static void test_cancelled(void **state)
{
	struct fx *f = *state;
	char code[512];
	uint64_t t;

	(void)snprintf(
		code, sizeof(code),
		"printf '%%s\\n' '#!/bin/sh' 'mkdir conda-meta bin; printf \"#!/bin/sh\\necho OK\\n\" >bin/python3; chmod +x "
		"bin/python3; : >\"$HOME/begun\"; until [ -e \"$HOME/go\" ]; do sleep 0.05; done' >\"%s/env.sh\"",
		f->state);
	fx_shell(f->home, code);
	fx_start(f);
	submit(f, 1);
	submit(f, 2);
	FX_WAIT(f, fx_home_has(f, "begun"));
	t = fx_verb(f, 1, "cancel", NULL);
	FX_WAIT(f, fx_event(f, 1, EV_END, "cancelled"));
	FX_WAIT(f, fx_answer(f, t));
	fx_shell(f->home, ": >go");
	succeeds(f, 2);
	fx_assert_home_file(f, "executed", "OK\n");
}

/* Two names of one archive, at once and without sftp: the shell appends, so only one of them sends. */
static void test_two_names(void **state)
{
	struct fx *f = *state;
	struct creq *q;
	char code[256];

	fake.sftp = FAKE_SFTP_EMFILE;
	pack(f, 1500);
	(void)snprintf(code, sizeof(code), "cp \"%s/env.sh\" \"%s/copy.sh\"", f->state, f->state);
	fx_shell(f->home, code);
	fx_start(f);
	submit(f, 1);
	q = make(f, CREQ_SUBMIT, 2);
	free(q->job->environment.where);
	q->job->environment.where = xasprintf("%s/copy.sh", f->state);
	remote_post(f->c, q);
	succeeds(f, 1);
	succeeds(f, 2);
	assert_noted(f, "sending from", 1);
	assert_noted(f, "not what was sent", 0);
	assert_noted(f, " unpacked", 1);
}

/* The archive is deleted; of the one the cluster has a claim, of the other nothing: neither waits for ever. */
static void test_deleted_meanwhile(void **state)
{
	struct fx *f = *state;
	char code[256];

	fx_shell(f->home, "d='.slurm ray'/" UUID "/runs/7/a1; mkdir -p \"$d\" && : >\"$d/intent\" && "
			  "ln -s 4711 \"$d/claim\"");
	pack(f, 10);
	fx_start(f);
	{
		struct creq *known = make(f, CREQ_WATCH, 7), *lost = make(f, CREQ_WATCH, 8);

		(void)snprintf(code, sizeof(code), "rm \"%s/env.sh\"", f->state);
		fx_shell(f->home, code);
		remote_post(f->c, known);
		remote_post(f->c, lost);
	}
	FX_WAIT(f, fx_event(f, 7, EV_SUBMITTED, NULL));
	assert_string_equal(event_str(fx_event(f, 7, EV_SUBMITTED, NULL), "job_id"), "4711");
	assert_non_null(strstr(rejected(f, 8), "cannot read"));
	fx_shell(f->home, "[ \"$(readlink '.slurm ray'/" UUID "/runs/8/a1/started)\" = void ]");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_without_sftp, setup, teardown),
		cmocka_unit_test_setup_teardown(test_plain_sh, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut_everywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restart_everywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unfit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_removed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancelled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deleted_meanwhile, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
