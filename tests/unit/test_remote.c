/*
 * The cluster thread against a cluster of local processes (lib_fake_cluster): one execution and byte-exact logs
 * whatever is cut, refused or stalled, and every request answered once.
 * TEST_SECONDS=75
 */
#include "tests/unit/lib_cluster.h"
#include "tests/unit/lib_fake_cluster.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN_DIR ".slurm ray/" UUID "/runs/7"

/* Once per execution a line in `executed`; NUL, 0xff and half lines in the logs. */
#define NOISY                                                                                                          \
	"echo x >>\"$HOME/executed\"; printf 'a\\0b\\377\\n'; printf 'warn\\0' >&2; sleep 0.1; printf 'end'; "         \
	"echo data >\"$SLURMRAY_RESULTS/model\""
static const char noisy_out[] = "a\0b\377\nend", noisy_err[] = "warn\0";

static void assert_noisy(const struct fx *f)
{
	fx_assert_spool(f, 7, SPOOL_OUT, noisy_out, sizeof(noisy_out) - 1);
	fx_assert_spool(f, 7, SPOOL_ERR, noisy_err, sizeof(noisy_err) - 1);
	fx_assert_home_file(f, "executed", "x\n");
}

/* --- tests --- */

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

static void run_noisy(struct fx *f)
{
	const struct event *end;

	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
	end = fx_event(f, 7, EV_END, NULL);
	assert_string_equal(event_str(end, "status"), "succeeded");
	assert_int_equal(event_int(end, "exit_code", -1), 0);
	assert_int_equal(event_int(end, "out_len", -1), sizeof(noisy_out) - 1);
	assert_int_equal(event_int(end, "err_len", -1), sizeof(noisy_err) - 1);
	assert_non_null(fx_event(f, 7, EV_SUBMITTED, NULL));
	assert_non_null(event_str(fx_event(f, 7, EV_SUBMITTED, NULL), "job_id"));
	FX_WAIT(f, fx_logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
}

static void test_life(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, ": >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	assert_true(f->up);
	fx_shell(f->home, "rm fake/hold");
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "running"));
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	FX_WAIT(f, fx_logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
	assert_true(fx_home_has(f, ".slurm ray/" UUID "/ends/7.a1"));
	/* as deliveries of secrets leave them when they are cut */
	fx_shell(f->home,
		 "cd '" RUN_DIR "/a1' && mkdir secrets work.abc && echo mine >work/mine && echo s | tee secrets/A "
		 "files.1.tar.part work/.slurmray-secret.A work.abc/.slurmray-secret.A >/dev/null");
	remote_post(f->c, creq_new(CREQ_END_SEEN, 7, 1, 0));
	FX_WAIT(f, fx_home_has(f, RUN_DIR "/a1/exit"));
	FX_WAIT(f, !fx_home_has(f, RUN_DIR "/a1/secrets"));
	FX_WAIT(f, !fx_home_has(f, RUN_DIR "/a1/files.1.tar.part"));
	FX_WAIT(f, !fx_home_has(f, RUN_DIR "/a1/work/.slurmray-secret.A"));
	FX_WAIT(f, !fx_home_has(f, RUN_DIR "/a1/work.abc/.slurmray-secret.A"));
	assert_true(fx_home_has(f, RUN_DIR "/a1/work/mine"));
	assert_false(fx_home_has(f, ".slurm ray/" UUID "/ends/7.a1"));
	remote_post(f->c, creq_new(CREQ_FORGET, 7, 0, 0));
	FX_WAIT(f, !fx_home_has(f, RUN_DIR));
	assert_true(fx_home_has(f, ".slurm ray/" UUID "/runs"));
	assert_int_equal(fake.logins, 1);
}

static void test_failure_code(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(f, 7, "echo no >&2; exit 3");
	FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
	assert_non_null(fx_event(f, 7, EV_END, "failed"));
	assert_int_equal(event_int(fx_event(f, 7, EV_END, NULL), "exit_code", -1), 3);
	FX_WAIT(f, fx_logs_are(f, 0, 3));
	fx_assert_spool(f, 7, SPOOL_ERR, "no\n", 3);
}

static void test_plain_sh(void **state)
{
	struct fx *f = *state;

	fake.shell = "dash";
	fx_start(f);
	run_noisy(f);
}

static void test_many(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	for (uint32_t i = 1; i <= 30; i++)
		fx_submit(f, i, "echo x >>\"$HOME/executed\"");
	for (uint32_t i = 1; i <= 30; i++)
		FX_WAIT(f, fx_event(f, i, EV_END, "succeeded"));
	fx_shell(f->home, "[ \"$(wc -l <executed)\" = 30 ]");
}

static void test_big_log(void **state)
{
	struct fx *f = *state;
	struct strbuf want = STRBUF_INIT;

	for (int i = 1; i <= 400000; i++)
		strbuf_addf(&want, "%d\n", i);
	fx_start(f);
	fx_submit(f, 7, "seq 400000");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	FX_WAIT(f, fx_logs_are(f, (int64_t)want.len, 0));
	fx_assert_spool(f, 7, SPOOL_OUT, want.buf, want.len);
	strbuf_release(&want);
}

/* The connection breaks once, at the transfer with each number: always one execution and exact logs. */
static void test_cut_everywhere(void **state)
{
	long last = 1000;

	fx_free(*state);
	for (long at = 1; at < last; at += at < 40 ? 1 : 7) {
		struct fx *f;

		fx_clear_faults();
		f = fx_new();
		fake.cut_at = at;
		fx_start(f);
		run_noisy(f);
		if (fake.transfers < at)
			last = at;            /* it was over before that */
		else if (fake.transfers > at) /* with the cut at the very last one nothing is left to come back for */
			assert_true(fake.logins >= 2);
		fx_free(f);
	}
	assert_true(last > 20);
	fx_clear_faults();
	*state = fx_new();
}

/* A connection that never lives long. */
static void test_cut_again_and_again(void **state)
{
	struct fx *f = *state;

	fake.cut_every = 20;
	fx_start(f);
	run_noisy(f);
	assert_true(fake.transfers > fake.cut_every && fake.logins >= 2); /* how many there are depends on the pace */
}

/* The worker ends at any moment, and the next one knows only what was in the events by then. */
static void test_restart_everywhere(void **state)
{
	fx_free(*state);
	for (long at = 4; at < 80; at += 5) {
		const struct event *ev;
		struct creq *q;
		struct fx *f;

		fx_clear_faults();
		f = fx_new();
		fx_start(f);
		fx_submit(f, 7, NOISY);
		FX_WAIT(f, fake.transfers >= at || fx_event(f, 7, EV_END, NULL));
		fx_stop(f);
		if (!fx_event(f, 7, EV_END, NULL)) {
			ev = fx_event(f, 7, EV_SUBMITTED, NULL);
			q = fx_make_submit(f, CREQ_WATCH, 7, 1, NOISY);
			q->job_id = ev ? xstrdup(event_str(ev, "job_id")) : NULL;
			fx_start(f);
			remote_post(f->c, q);
			FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
			FX_WAIT(f, fx_logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
			assert_noisy(f);
		}
		fx_free(f);
	}
	fx_clear_faults();
	*state = fx_new();
}

/* Called off at any moment, with a cut just then: it ends once, and ran at most once. */
static void test_cancel_everywhere(void **state)
{
	fx_free(*state);
	for (long at = 1; at < 60; at += 4) {
		struct fx *f;
		uint64_t t;

		fx_clear_faults();
		f = fx_new();
		fx_shell(f->home, ": >fake/hold");
		fx_start(f);
		fx_submit(f, 7, NOISY);
		FX_WAIT(f, fake.transfers >= at || fx_event(f, 7, EV_STATE, "pending"));
		fake.cut_at = fake.transfers + 1;
		t = fx_verb(f, 7, "cancel", NULL);
		FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
		assert_non_null(fx_event(f, 7, EV_END, "cancelled"));
		FX_WAIT(f, fx_answer(f, t));
		assert_int_equal(fx_answer(f, t)->code, 0);
		fx_shell(f->home, "rm fake/hold; sleep 0.1");
		assert_false(fx_home_has(f, "executed"));
		fx_free(f);
	}
	fx_clear_faults();
	*state = fx_new();
}

/* What accounting knows comes after the end, when it knows it; and it is not asked for ever. */
static void test_usage(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(f, 7, "echo x; exit 3");
	FX_WAIT(f, fx_event(f, 7, EV_END, "failed"));
	FX_WAIT(f, fx_home_has(f, "fake/asked"));
	assert_null(fx_event(f, 7, EV_FACTS, NULL));
	fx_shell(
		f->home,
		"t=$(cat fake/*/token) j=$(cd fake && echo */token); j=${j%/token}; "
		"{ echo \"$j other 5 6\"; echo \"99 $t 5 6\"; echo \"$j $t 4096 77\"; } >fake/u && mv fake/u fake/usage");
	FX_WAIT(f, fx_event(f, 7, EV_FACTS, NULL));
	assert_int_equal(event_int(fx_event(f, 7, EV_FACTS, NULL), "max_rss", 0), 4096);
	assert_int_equal(event_int(fx_event(f, 7, EV_FACTS, NULL), "cpu_us", 0), 77);
	assert_int_equal(event_int(fx_event(f, 7, EV_FACTS, NULL), "attempt", 0), 1);
	/* nobody counts: one question, and no more */
	fx_shell(f->home, "echo none >fake/usage; rm fake/asked");
	fx_submit(f, 8, "true");
	FX_WAIT(f, fx_event(f, 8, EV_END, "succeeded"));
	FX_WAIT(f, fx_home_has(f, "fake/asked"));
	fx_submit(f, 9, "true");
	FX_WAIT(f, fx_event(f, 9, EV_END, "succeeded"));
	assert_null(fx_event(f, 9, EV_FACTS, NULL));
	fx_shell(f->home, "[ \"$(wc -l <fake/asked)\" = 1 ]");
}

static void test_refused(void **state)
{
	struct fx *f = *state;
	int logins;

	fake.refuse = true;
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, f->links);
	assert_false(f->up);
	assert_false(f->asking);
	assert_non_null(strstr(f->link_text, "refuses the key"));
	logins = fake.logins;
	(void)usleep(200000);
	fx_take(f);
	assert_int_equal(fake.logins, logins);
	assert_int_equal(f->links, 1);
	fake.refuse = false;
	remote_post(f->c, creq_new(CREQ_RECONNECT, 0, 0, 0));
	FX_WAIT(f, f->up);
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
}

static void test_stall(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, ": >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	fake.stall = true;
	(void)fx_verb(f, 7, "refresh", NULL);
	FX_WAIT(f, !f->up);
	assert_true(f->asking);
	fake.stall = false;
	fx_shell(f->home, "rm fake/hold");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	FX_WAIT(f, fx_logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
}

static void test_unknown_and_back(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, ": >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	fake.unreachable = true;
	FX_WAIT(f, fx_event(f, 7, EV_UNKNOWN, NULL));
	assert_false(f->up);
	(void)usleep(100000);
	fx_take(f);
	fx_forget_events(f);
	fake.unreachable = false;
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	assert_null(fx_event(f, 7, EV_UNKNOWN, NULL));
}

/* The link is up but the scheduler is not: unknown, never an end. */
static void test_scheduler_down(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, ": >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	fx_shell(f->home, ": >fake/down");
	FX_WAIT(f, fx_event(f, 7, EV_UNKNOWN, NULL));
	assert_non_null(strstr(event_str(fx_event(f, 7, EV_UNKNOWN, NULL), "why"), "Unable to contact"));
	assert_null(fx_event(f, 7, EV_END, NULL));
	fx_forget_events(f);
	fx_shell(f->home, "rm fake/down fake/hold");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
}

static void check_files(struct fx *f)
{
	uint64_t read, tail, missing, list, manifest, evil, dir;
	const struct answer *a;

	fx_start(f);
	fx_submit(f, 7,
		  "cd \"$SLURMRAY_RESULTS\"; mkdir sub; printf 'a\\0\\377z' >sub/f; ln -s sub/f in; ln -s /etc/passwd "
		  "out; mkfifo p");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	read = fx_ask(f, CREQ_READ, 7, "sub/f", 0, 1 << 20);
	tail = fx_ask(f, CREQ_READ, 7, "sub/f", 3, 10);
	missing = fx_ask(f, CREQ_READ, 7, "nothing", 0, 10);
	evil = fx_ask(f, CREQ_READ, 7, "../../../a", 0, 10);
	dir = fx_ask(f, CREQ_READ, 7, "p", 0, 10);
	list = fx_ask(f, CREQ_LIST, 7, "", 0, 0);
	manifest = fx_ask(f, CREQ_MANIFEST, 7, "", 0, 0);
	FX_WAIT(f, f->n_answers == 7);
	a = fx_answer(f, read);
	assert_int_equal(a->code, 0);
	assert_int_equal(a->len, 4);
	assert_memory_equal(a->data, "a\0\377z", 4);
	assert_string_equal(fx_answer(f, tail)->data, "z");
	assert_int_equal(fx_answer(f, missing)->code, -ENOENT);
	assert_non_null(strstr(fx_answer(f, missing)->text, "results/nothing"));
	assert_int_equal(fx_answer(f, evil)->code, -EINVAL);
	assert_int_equal(fx_answer(f, dir)->code, -ENXIO);
	a = fx_answer(f, list);
	assert_int_equal(a->code, 0);
	assert_non_null(memmem(a->data, a->len, "\0sub\0\0", 6));
	assert_non_null(memmem(a->data, a->len, "\0in\0sub/f\0", 10));
	assert_null(memmem(a->data, a->len, "passwd", 6));
	assert_null(memmem(a->data, a->len, "\0p\0", 3));
	a = fx_answer(f, manifest);
	assert_int_equal(a->code, 0);
	assert_non_null(memmem(a->data, a->len, "f\0004\0", 4));
	assert_non_null(memmem(a->data, a->len, "\0sub/f\0\0", 8));
	assert_null(memmem(a->data, a->len, "passwd", 6));
	fx_shell(f->home, "rm '" RUN_DIR "/a1/manifest'");
	manifest = fx_ask(f, CREQ_MANIFEST, 7, "", 0, 0);
	FX_WAIT(f, fx_answer(f, manifest));
	assert_non_null(memmem(fx_answer(f, manifest)->data, fx_answer(f, manifest)->len, "\0sub/f\0\0", 8));
}

static void test_files(void **state)
{
	check_files(*state);
}

static void test_files_without_sftp(void **state)
{
	fake.sftp = FAKE_SFTP_EMFILE;
	check_files(*state);
}

static void test_logs_without_sftp(void **state)
{
	fake.sftp = FAKE_SFTP_CLOSED;
	fx_start(*state);
	run_noisy(*state);
}

/* Files of a draft: small ones with the script, large ones before it. */
static void check_upload(struct fx *f, int kib)
{
	struct creq *q = fx_make_submit(f, CREQ_SUBMIT, 7, 1, "wc -c <big; cat small; sha1sum <big >\"$HOME/sum\"");
	char code[512];

	(void)snprintf(code, sizeof(code),
		       "mkdir \"%s/files\" && head -c %d /dev/urandom >\"%s/files/big\" && echo hi >\"%s/files/small\" "
		       "&& sha1sum "
		       "<\"%s/files/big\" >want",
		       f->state, kib * 1024, f->state, f->state, f->state);
	fx_shell(f->home, code);
	q->files_dir = xasprintf("%s/files", f->state);
	fx_start(f);
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
	assert_non_null(fx_event(f, 7, EV_END, "succeeded"));
	fx_shell(f->home, "cmp want sum");
	fx_shell(f->home, "! ls \"" RUN_DIR "\"/a1/files.*.part 2>/dev/null");
}

static void test_upload_small(void **state)
{
	check_upload(*state, 100);
}

static void test_upload_large(void **state)
{
	check_upload(*state, 5000);
}

static void test_upload_large_without_sftp(void **state)
{
	fake.sftp = FAKE_SFTP_EMFILE;
	check_upload(*state, 3000);
}

static void test_upload_cut(void **state)
{
	fx_free(*state);
	for (long at = 20; at < 120; at += 9) {
		struct fx *f;

		fx_clear_faults();
		*state = f = fx_new(); /* for the teardown, when a check fails */
		fake.cut_at = at;
		check_upload(f, 1500);
		fx_free(f);
	}
	fx_clear_faults();
	*state = fx_new();
}

/* The size of what came so far of the run's files; 0: nothing. */
static long part_size(const struct fx *f)
{
	cleanup_free char *pattern = xasprintf("%s/" RUN_DIR "/a1/files.*.part", f->home);
	struct stat st = { 0 };
	glob_t g;

	if (glob(pattern, 0, NULL, &g) == 0 && stat(g.gl_pathv[0], &st) < 0)
		st.st_size = 0;
	globfree(&g);
	return (long)st.st_size;
}

/*
 * What came before the connection broke is not sent again: a byte that is changed there stays changed. The other files'
 * bytes are all right.
 */
static void test_upload_goes_on(void **state)
{
	struct creq *q =
		fx_make_submit(*state, CREQ_SUBMIT, 7, 1, "head -c 3 big; tail -c +4 big | sha1sum >\"$HOME/sum\"");
	struct fx *f = *state;

	fx_shell(f->state, "mkdir files && head -c 120000000 /dev/urandom >files/big");
	q->files_dir = xasprintf("%s/files", f->state);
	fx_start(f);
	remote_post(f->c, q);
	FX_WAIT(f, part_size(f) > 8000000);
	fake.unreachable = true;
	fake.cut_at = fake.transfers + 1;
	FX_WAIT(f, !f->up);
	fx_shell(f->home, "printf two | dd \"of=$(echo \"" RUN_DIR
			  "\"/a1/files.*.part)\" bs=512 seek=1 conv=notrunc 2>/dev/null");
	fake.unreachable = false;
	FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
	assert_non_null(fx_event(f, 7, EV_END, "succeeded"));
	FX_WAIT(f, fx_logs_are(f, 3, 0));
	fx_assert_spool(f, 7, SPOOL_OUT, "two", 3);
	fx_shell(f->state, "tail -c +4 files/big | sha1sum | cmp - ../home/sum");
	fx_shell(f->home, "! ls \"" RUN_DIR "\"/a1/files.*.part 2>/dev/null");
}

/* Other files than those whose upload was cut: nothing of the old archive is used, and it goes away. */
static void test_upload_of_other_files(void **state)
{
	struct fx *f = *state;
	struct creq *q = fx_make_submit(f, CREQ_SUBMIT, 7, 1, "sha1sum <big >\"$HOME/sum\"");

	fx_shell(f->home,
		 "mkdir -p \"" RUN_DIR "/a1\" && head -c 9000000 /dev/zero >\"" RUN_DIR "/a1/files.0123.tar.part\"");
	fx_shell(f->state, "mkdir files && head -c 3000000 /dev/urandom >files/big");
	q->files_dir = xasprintf("%s/files", f->state);
	fx_start(f);
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	fx_shell(f->state, "sha1sum <files/big | cmp - ../home/sum");
	fx_shell(f->home, "! ls \"" RUN_DIR "\"/a1/files.*.part 2>/dev/null");
}

/* Fewer bytes mean the end of the file: a connection that breaks half way must not look like that. */
static void test_read_cut(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(f, 7, "head -c 3000000 /dev/urandom >\"$SLURMRAY_RESULTS/big\"");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	for (long k = 1; k < 60; k += 4) {
		const struct answer *a;
		uint64_t t;

		FX_WAIT(f, f->up);
		fake.cut_at = fake.transfers + k;
		t = fx_ask(f, CREQ_READ, 7, "big", 0, 4000000);
		FX_WAIT(f, fx_answer(f, t));
		a = fx_answer(f, t);
		assert_int_equal(a->code, 0);
		assert_int_equal(a->len, 3000000);
	}
	fake.cut_at = 0;
}

static void add_inputs(struct fx *f, struct creq *q, const char *linked)
{
	struct job_input *in = xcalloc(2, sizeof(*in));

	in[0] = (struct job_input){ .name = xstrdup("it's"),
				    .source = xstrdup("runs/3/results/x"),
				    .run = xstrdup("3") };
	in[0].path = xstrdup("x");
	in[0].link = xasprintf("%s/%s", f->home, linked);
	in[1] = (struct job_input){ .name = xstrdup("mine"), .source = xasprintf("%s/mine", f->state) };
	fx_shell(f->state, "echo local >mine");
	q->job->inputs = in;
	q->job->n_inputs = 2;
}

static void test_inputs(void **state)
{
	struct creq *q =
		fx_make_submit(*state, CREQ_SUBMIT, 7, 1, "cat \"$SLURMRAY_INPUTS/it's\" mine; [ -L \"it's\" ]");
	struct fx *f = *state;

	add_inputs(f, q, "there");
	fx_shell(f->home, "echo result >there");
	fx_start(f);
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
	assert_non_null(fx_event(f, 7, EV_END, "succeeded"));
	FX_WAIT(f, fx_logs_are(f, 13, 0));
	fx_assert_spool(f, 7, SPOOL_OUT, "result\nlocal\n", 13);
}

/* A result that was removed meanwhile: refused with a sentence, and no job was made. */
static void test_input_gone(void **state)
{
	struct fx *f = *state;
	struct creq *q = fx_make_submit(f, CREQ_SUBMIT, 7, 1, "echo x >>\"$HOME/executed\"");
	const struct event *ev;

	add_inputs(f, q, "gone");
	fx_start(f);
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_REJECTED, NULL));
	ev = fx_event(f, 7, EV_REJECTED, NULL);
	assert_non_null(strstr(event_str(ev, "why"), "inputs.it's: runs/3/results/x is no longer there"));
	assert_false(fx_home_has(f, "executed"));
}

/* One result for a run with inputs, whatever is cut. */
static void test_inputs_cut(void **state)
{
	fx_free(*state);
	for (long at = 1; at < 60; at += 4) {
		struct creq *q;
		struct fx *f;

		fx_clear_faults();
		f = fx_new();
		q = fx_make_submit(f, CREQ_SUBMIT, 7, 1, "echo x >>\"$HOME/executed\"; cat \"it's\" mine");
		fx_shell(f->home, "echo result >there");
		add_inputs(f, q, "there");
		fake.cut_at = at;
		fx_start(f);
		remote_post(f->c, q);
		FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
		assert_non_null(fx_event(f, 7, EV_END, "succeeded"));
		FX_WAIT(f, fx_logs_are(f, 13, 0));
		fx_assert_home_file(f, "executed", "x\n");
		fx_free(f);
	}
	fx_clear_faults();
	*state = fx_new();
}

static void test_unsure(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, "echo before >fake/mode");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_FACTS, NULL));
	assert_null(fx_event(f, 7, EV_SUBMITTED, NULL));
	fx_shell(f->home, "echo after >fake/mode");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	fx_assert_home_file(f, "executed", "x\n");
}

static void test_rejected(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, "echo refuse >fake/mode");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_REJECTED, NULL));
	assert_non_null(strstr(event_str(fx_event(f, 7, EV_REJECTED, NULL), "why"), "no such partition"));
	fx_forget_events(f);
	/* the attempt is void: the same again is lost, the next one is another attempt */
	fx_shell(f->home, "rm fake/mode");
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_LOST, NULL));
	remote_post(f->c, fx_make_submit(f, CREQ_SUBMIT, 7, 2, NOISY));
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	assert_int_equal(event_int(fx_event(f, 7, EV_END, NULL), "attempt", 0), 2);
}

/* The queue forgets a job before it starts. */
static void test_lost(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, ": >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	fx_shell(f->home, "mv fake/1 gone; : >gone/cancel");
	FX_WAIT(f, fx_event(f, 7, EV_LOST, NULL));
	assert_null(fx_event(f, 7, EV_END, NULL));
	assert_false(fx_home_has(f, "executed"));
}

static void test_cancel_running(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fx_start(f);
	fx_submit(f, 7, "echo started; sleep 30");
	FX_WAIT(f, f->out_len == 8);
	t = fx_verb(f, 7, "cancel", NULL);
	FX_WAIT(f, fx_answer(f, t));
	assert_int_equal(fx_answer(f, t)->code, 0);
	FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
	assert_non_null(fx_event(f, 7, EV_END, "cancelled"));
}

/* The job is told, and the user is answered; what is still there after the grace period is ended, also after a cut. */
static void test_cancel_grace(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fx_shell(f->home, ": >fake/grace");
	fx_start(f);
	fx_submit(f, 7, "echo started; sleep 30");
	FX_WAIT(f, f->out_len == 8);
	t = fx_verb(f, 7, "cancel", NULL);
	FX_WAIT(f, fx_answer(f, t));
	assert_int_equal(fx_answer(f, t)->code, 0);
	assert_true(fx_home_has(f, "fake/told"));
	assert_null(fx_event(f, 7, EV_END, NULL));
	fake.cut_at = fake.transfers + 1;
	FX_WAIT(f, fx_event(f, 7, EV_END, NULL));
	assert_non_null(fx_event(f, 7, EV_END, "cancelled"));
}

static void test_cancel_pending(void **state)
{
	struct fx *f = *state;

	fx_shell(f->home, ": >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	(void)fx_verb(f, 7, "cancel", NULL);
	FX_WAIT(f, fx_event(f, 7, EV_END, "cancelled"));
	assert_false(fx_home_has(f, "executed"));
}

static void test_cancel_queued_while_down(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fake.unreachable = true;
	fx_start(f);
	fx_submit(f, 7, NOISY);
	t = fx_verb(f, 7, "cancel", NULL);
	FX_WAIT(f, fx_answer(f, t));
	assert_int_equal(fx_answer(f, t)->code, 0);
	assert_non_null(fx_event(f, 7, EV_END, "cancelled"));
	fake.unreachable = false;
	FX_WAIT(f, f->up);
	(void)usleep(100000);
	assert_false(fx_home_has(f, "executed"));
}

/* The submission's answer is not known: `started` decides, and what lies in the queue is swept away. */
static void test_cancel_unsure(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fx_shell(f->home, "echo before >fake/mode; : >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_FACTS, NULL));
	t = fx_verb(f, 7, "cancel", NULL);
	FX_WAIT(f, fx_answer(f, t));
	assert_int_equal(fx_answer(f, t)->code, 0);
	assert_non_null(fx_event(f, 7, EV_END, "cancelled"));
	fx_shell(f->home, "[ \"$(readlink '" RUN_DIR "/a1/started')\" = void ]");
	/* as if the first try had reached the queue late */
	fx_shell(f->home, "mkdir fake/9; echo pending >fake/9/state; echo slurmray:" UUID "/7/a1 >fake/9/token");
	FX_WAIT(f, fx_home_has(f, "fake/9/cancel"));
}

static void test_watch_after_restart(void **state)
{
	struct fx *f = *state;
	struct creq *q;
	char *job_id;

	fx_start(f);
	fx_submit(f, 7,
		  "echo x >>\"$HOME/executed\"; echo one; until [ -e \"$HOME/go\" ]; do sleep 0.02; done; echo two");
	FX_WAIT(f, f->out_len == 4);
	job_id = xstrdup(event_str(fx_event(f, 7, EV_SUBMITTED, NULL), "job_id"));
	fx_stop(f);
	fx_forget_events(f);
	fx_shell(f->home, ": >go");
	(void)usleep(100000);
	fx_start(f);
	q = fx_make_submit(f, CREQ_WATCH, 7, 1, "true");
	q->job_id = job_id;
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	assert_null(fx_event(f, 7, EV_SUBMITTED, NULL));
	FX_WAIT(f, f->out_len == 8);
	fx_assert_spool(f, 7, SPOOL_OUT, "one\ntwo\n", 8);
	fx_assert_home_file(f, "executed", "x\n");
}

static void test_watch_without_id(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_SUBMITTED, NULL));
	fx_stop(f);
	fx_forget_events(f);
	fx_start(f);
	remote_post(f->c, fx_make_submit(f, CREQ_WATCH, 7, 1, NOISY));
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	assert_non_null(fx_event(f, 7, EV_SUBMITTED, NULL));
	FX_WAIT(f, fx_logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
}

/* An ended run whose logs were not complete, and one whose logs never will be. */
static void test_watch_ended(void **state)
{
	struct fx *f = *state;
	struct creq *q = fx_make_submit(f, CREQ_WATCH, 7, 1, "true");

	fx_shell(f->home,
		 "mkdir -p '" RUN_DIR "/a1'; printf 12345 >'" RUN_DIR "/a1/stdout'; printf 1 >'" RUN_DIR "/a1/stderr'");
	fx_start(f);
	q->ended = true;
	q->out_len = 3;
	q->err_len = 4;
	remote_post(f->c, q);
	FX_WAIT(f, fx_event(f, 7, EV_FACTS, NULL));
	assert_true(json_is_true(json_object_get(fx_event(f, 7, EV_FACTS, NULL)->data, "log_incomplete")));
	assert_int_equal(event_int(fx_event(f, 7, EV_FACTS, NULL), "stderr_missing", 0), 3);
	fx_assert_spool(f, 7, SPOOL_OUT, "123", 3);
	fx_assert_spool(f, 7, SPOOL_ERR, "1", 1);
}

static void test_truncated_log(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	fx_submit(f, 7,
		  "echo first; until [ -e \"$HOME/cut\" ]; do sleep 0.02; done; : >../stdout; until [ -e \"$HOME/go\" "
		  "]; do sleep 0.02; done");
	FX_WAIT(f, f->out_len == 6);
	fx_shell(f->home, ": >cut");
	FX_WAIT(f, fx_event(f, 7, EV_FACTS, NULL));
	assert_true(json_is_true(json_object_get(fx_event(f, 7, EV_FACTS, NULL)->data, "stdout_truncated")));
	fx_shell(f->home, ": >go");
	FX_WAIT(f, fx_event(f, 7, EV_END, "succeeded"));
	fx_assert_spool(f, 7, SPOOL_OUT, "first\n", 6);
}

static void test_verbs_and_probe(void **state)
{
	struct fx *f = *state;
	uint64_t hold, signal_, bad, early, probe, refresh;
	struct creq *q;

	fx_shell(f->home, ": >fake/hold");
	fx_start(f);
	fx_submit(f, 7, NOISY);
	FX_WAIT(f, fx_event(f, 7, EV_STATE, "pending"));
	hold = fx_verb(f, 7, "hold", NULL);
	signal_ = fx_verb(f, 7, "signal", "USR1");
	bad = fx_verb(f, 7, "dance", NULL);
	early = fx_verb(f, 8, "hold", NULL);
	refresh = fx_verb(f, 0, "refresh", NULL);
	q = creq_new(CREQ_PROBE, 0, 0, ++f->ticket);
	q->arg = xstrdup("info");
	probe = f->ticket;
	remote_post(f->c, q);
	FX_WAIT(f, f->n_answers == 6);
	assert_int_equal(fx_answer(f, hold)->code, 0);
	assert_int_equal(fx_answer(f, signal_)->code, 0);
	assert_int_equal(fx_answer(f, bad)->code, -EINVAL);
	assert_int_equal(fx_answer(f, early)->code, -EBUSY);
	assert_int_equal(fx_answer(f, refresh)->code, 0);
	assert_string_equal(fx_answer(f, probe)->data, "{\"name\": \"fake\"}");
	fx_shell(f->home, "grep -qx 'held 1' fake/verbs && grep -qx 'USR1 1' fake/verbs");
}

/* While the link is down requests wait until their deadline, and are told why. */
static void test_deadline(void **state)
{
	struct fx *f = *state;
	struct creq *q = creq_new(CREQ_READ, 7, 1, 77);

	fake.unreachable = true;
	fx_start(f);
	q->path = xstrdup("x");
	q->length = 10;
	q->deadline = clock_mono(&clock_system) + 100 * MS;
	remote_post(f->c, q);
	FX_WAIT(f, fx_answer(f, 77));
	assert_int_equal(fx_answer(f, 77)->code, -EHOSTUNREACH);
	assert_string_equal(fx_answer(f, 77)->text, "the connection was cut");
}

static void test_stop_answers(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fake.unreachable = true;
	fx_start(f);
	t = fx_ask(f, CREQ_READ, 7, "x", 0, 10);
	fx_stop(f);
	assert_int_equal(fx_answer(f, t)->code, -ENODEV);
	assert_int_equal(fx_answer(f, t)->times, 1);
}

/* --- pure parts --- */

static void test_paths(void **state)
{
	char longest[5000];

	(void)state;
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_true(rfiles_path_ok(""));
	assert_true(rfiles_path_ok("a/b..c/.d"));
	assert_false(rfiles_path_ok("/a"));
	assert_false(rfiles_path_ok("a//b"));
	assert_false(rfiles_path_ok("a/"));
	assert_false(rfiles_path_ok(".."));
	assert_false(rfiles_path_ok("a/../b"));
	assert_false(rfiles_path_ok("./a"));
	assert_false(rfiles_path_ok(longest));
}

static void test_filter(void **state)
{
	static const char in[] = "f\0005\0001.5\0004755\0a\0\0"    /* set-id bits go */
				 "l\0001\0002\000777\0d/l\0../a\0" /* stays inside */
				 "l\0001\0002\000777\0l\0../a\0"   /* leaves */
				 "p\0000\0002\000600\0p\0\0"       /* a FIFO */
				 "f\000x\0002\000600\0b\0\0"       /* no number */
				 "f\0001\0002\000600\0../b\0\0"    /* leaves */
				 "f\0001\0002\000600\0cut";
	static const char want[] = "f\0005\0001.5\000755\0a\0\0"
				   "l\0001\0002\000777\0d/l\0../a\0";
	struct strbuf out = STRBUF_INIT;

	(void)state;
	rfiles_filter(in, sizeof(in) - 1, 100, "", &out);
	assert_int_equal(out.len, sizeof(want) - 1);
	assert_memory_equal(out.buf, want, out.len);
	strbuf_reset(&out);
	rfiles_filter(in, sizeof(in) - 1, 1, "", &out);
	assert_int_equal(out.len, 15);
	strbuf_release(&out);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_life),
		T(test_failure_code),
		T(test_plain_sh),
		T(test_many),
		T(test_big_log),
		T(test_refused),
		T(test_stall),
		T(test_unknown_and_back),
		T(test_scheduler_down),
		T(test_files),
		T(test_files_without_sftp),
		T(test_logs_without_sftp),
		T(test_upload_small),
		T(test_upload_large),
		T(test_upload_large_without_sftp),
		T(test_upload_cut),
		T(test_upload_goes_on),
		T(test_upload_of_other_files),
		T(test_read_cut),
		T(test_inputs),
		T(test_input_gone),
		T(test_inputs_cut),
		T(test_unsure),
		T(test_rejected),
		T(test_lost),
		T(test_cancel_running),
		T(test_cancel_grace),
		T(test_usage),
		T(test_cancel_pending),
		T(test_cancel_queued_while_down),
		T(test_cancel_unsure),
		T(test_watch_after_restart),
		T(test_watch_without_id),
		T(test_watch_ended),
		T(test_truncated_log),
		T(test_verbs_and_probe),
		T(test_deadline),
		T(test_stop_answers),
		T(test_cut_everywhere),
		T(test_cut_again_and_again),
		T(test_restart_everywhere),
		T(test_cancel_everywhere),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_filter),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	log_setup(STDERR_FILENO, getenv("TEST_VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
