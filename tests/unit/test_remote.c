/*
 * The cluster thread against a cluster of local processes (lib_fake_cluster): one execution and byte-exact logs whatever is cut,
 * refused or stalled, and every request answered once.
 */
#include "tests/unit/lib_fake_cluster.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/remote.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define UUID "11111111-2222-3333-4444-555555555555"
#define MS ((int64_t)USEC_PER_MSEC)
#define PATIENCE_MS 20000

static const struct remote_pace quick = {
	.backoff_min = 2 * MS,
	.backoff_max = 40 * MS,
	.connect_limit = 5000 * MS,
	.hello_limit = 10000 * MS,
	.unknown_after = 400 * MS,
	.record_wait = 400 * MS,
	.verdict_wait = 1000 * MS,
	.verify_again = 100 * MS,
	.poll_soon = 20 * MS,
	.poll_min = 50 * MS,
	.poll_max = 600 * MS,
	.log_hot = 20 * MS,
	.log_min = 40 * MS,
	.log_max = 80 * MS,
	.log_give_up = 1500 * MS,
	.retry = { 30 * MS, 50 * MS, 100 * MS, 100 * MS },
	.answer_grace = 1000 * MS,
};

struct answer {
	uint64_t ticket;
	int code, times;
	char *text, *data;
	size_t len;
};

struct fx {
	char root[64], home[80], state[80];
	char *hosts[2];
	struct cluster_conf conf;
	struct cluster_ctx ctx;
	struct inbox replies;
	struct cluster *c;
	struct event *ev[512];
	uint32_t ev_run[512];
	size_t n_ev;
	struct answer answers[64];
	size_t n_answers;
	bool up, asking;
	int links;
	char link_text[512];
	int64_t out_len, err_len;
	uint64_t ticket;
};

/* --- small helpers --- */

static void shell(const char *home, const char *code)
{
	pid_t pid = fork();
	int status = -1;

	assert_true(pid >= 0);
	if (pid == 0) {
		(void)setenv("HOME", home, 1);
		if (chdir(home) < 0)
			_exit(126);
		execlp("sh", "sh", "-c", code, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (status != 0)
		fail_msg("\"%s\" gave %d", code, status);
}

static void clear_faults(void)
{
	fake.sftp = getenv("NOSFTP") ? FAKE_SFTP_EMFILE : FAKE_SFTP_OK;
	fake.refuse = false;
	fake.unreachable = false;
	fake.stall = false;
	fake.cut_at = 0;
	fake.transfers = 0;
	fake.logins = 0;
	fake.shell = "bash";
}

static struct fx *fx_new(void)
{
	struct fx *f = xcalloc(1, sizeof(*f));
	char path[128];

	(void)snprintf(f->root, sizeof(f->root), "/tmp/test_remote.XXXXXX");
	assert_non_null(mkdtemp(f->root));
	(void)snprintf(f->home, sizeof(f->home), "%s/home", f->root);
	(void)snprintf(f->state, sizeof(f->state), "%s/state", f->root);
	assert_int_equal(mkdir(f->home, 0700), 0);
	assert_int_equal(mkdir(f->state, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/spool", f->state);
	assert_int_equal(mkdir(path, 0700), 0);
	(void)snprintf(path, sizeof(path), "%s/fake", f->home);
	assert_int_equal(mkdir(path, 0700), 0);
	f->hosts[0] = (char *)"login";
	f->conf = (struct cluster_conf){ .name = (char *)"hpc", .type = CLUSTER_SLURM, .hosts = f->hosts,
					 .directory = (char *)"~/.slurm ray", .scratch = (char *)"~/.slurm ray", .tick_ms = 20 };
	assert_int_equal(inbox_init(&f->replies), 0);
	f->ctx = (struct cluster_ctx){ .conf = &f->conf, .clock = &clock_system, .uuid = UUID, .state_dir = f->state,
				       .replies = &f->replies };
	fake.home = f->home;
	return f;
}

static void fx_start(struct fx *f)
{
	struct err e = ERR_INIT;

	assert_int_equal(remote_start(&transport_fake_ops, &sched_fake_ops, &f->ctx, &quick, NULL, &f->c, &e), 0);
}

static void note_answer(struct fx *f, const struct crep *p)
{
	struct answer *a;

	for (size_t i = 0; i < f->n_answers; i++) {
		if (f->answers[i].ticket == p->ticket) {
			f->answers[i].times++;
			return;
		}
	}
	assert_true(f->n_answers < ARRAY_SIZE(f->answers));
	a = &f->answers[f->n_answers++];
	a->ticket = p->ticket;
	a->code = p->code;
	a->times = 1;
	a->text = xstrdup(p->text);
	a->len = p->len;
	a->data = xmalloc(p->len + 1);
	memcpy(a->data, p->data ? p->data : "", p->len);
	a->data[p->len] = '\0';
}

static void note(struct fx *f, struct crep *p)
{
	switch ((enum crep_type)p->m.type) {
	case CREP_EVENT:
		assert_true(f->n_ev < ARRAY_SIZE(f->ev));
		assert_non_null(event_str(p->ev, "source"));
		assert_true(event_int(p->ev, "attempt", 0) > 0);
		f->ev_run[f->n_ev] = p->run;
		f->ev[f->n_ev++] = p->ev;
		p->ev = NULL;
		break;
	case CREP_LOG:
		f->out_len = p->out_len;
		f->err_len = p->err_len;
		break;
	case CREP_LINK:
		f->up = p->up;
		f->asking = p->asking;
		f->links++;
		(void)snprintf(f->link_text, sizeof(f->link_text), "%s", p->text);
		break;
	case CREP_REPLY:
		note_answer(f, p);
		break;
	}
}

static void take(struct fx *f)
{
	struct list got = LIST_INIT(got);
	struct list *n;

	inbox_take(&f->replies, &got);
	while ((n = list_pop(&got))) {
		struct msg *m = container_of(n, struct msg, node);

		note(f, container_of(m, struct crep, m));
		msg_release(m);
	}
}

static void fx_stop(struct fx *f)
{
	remote_stop(f->c, 1000);
	f->c = NULL;
	take(f);
}

static void fx_forget_events(struct fx *f)
{
	for (size_t i = 0; i < f->n_ev; i++)
		event_free(f->ev[i]);
	f->n_ev = 0;
	for (size_t i = 0; i < f->n_answers; i++) {
		free(f->answers[i].text);
		free(f->answers[i].data);
	}
	f->n_answers = 0;
}

static void fx_free(struct fx *f)
{
	char code[256];

	if (f->c)
		fx_stop(f);
	fx_forget_events(f);
	inbox_release(&f->replies);
	(void)snprintf(code, sizeof(code), "touch fake/[0-9]*/cancel 2>/dev/null; rm -f fake/hold; sleep 0.05; rm -rf %s", f->root);
	shell(f->home, code);
	free(f);
}

/* Waits until `cond` holds; cmocka fails the test when it does not come. */
#define WAIT(f, cond)                                                                                                  \
	do {                                                                                                           \
		int64_t until_ = clock_mono(&clock_system) + PATIENCE_MS * MS;                                         \
		for (take(f); !(cond); take(f)) {                                                                      \
			struct pollfd p_ = { .fd = inbox_fd(&(f)->replies), .events = POLLIN };                        \
			if (clock_mono(&clock_system) > until_)                                                        \
				fail_msg("waited in vain for %s (link: %s)", #cond, (f)->link_text);                   \
			(void)poll(&p_, 1, 20);                                                                        \
		}                                                                                                      \
	} while (0)

static const struct event *find_event(const struct fx *f, uint32_t run, enum event_type type, const char *status)
{
	for (size_t i = 0; i < f->n_ev; i++) {
		const char *s = event_str(f->ev[i], "status");

		if (f->ev_run[i] == run && f->ev[i]->type == type && (!status || (s && strcmp(s, status) == 0)))
			return f->ev[i];
	}
	return NULL;
}

static const struct answer *find_answer(const struct fx *f, uint64_t ticket)
{
	for (size_t i = 0; i < f->n_answers; i++)
		if (f->answers[i].ticket == ticket)
			return &f->answers[i];
	return NULL;
}

/* --- requests --- */

static struct job *make_job(const struct fx *f, const char *command)
{
	struct job *j = xcalloc(1, sizeof(*j));

	j->form = JOB_COMMAND;
	j->command = xstrdup(command);
	j->command_len = strlen(command);
	j->name = xstrdup("test");
	j->launcher = xstrdup("bash");
	j->directory = xstrdup(f->conf.directory);
	j->scratch = xstrdup(f->conf.scratch);
	j->sbatch = xcalloc(1, sizeof(*j->sbatch));
	j->after = xcalloc(1, sizeof(*j->after));
	j->time_s = -1;
	return j;
}

static struct creq *make_submit(const struct fx *f, enum creq_type type, uint32_t run, uint32_t attempt, const char *command)
{
	struct creq *q = creq_new(type, run, attempt, 0);
	struct launch_ctx ctx = { .run_num = run, .attempt = attempt, .uuid = UUID };
	struct strbuf script = STRBUF_INIT;
	struct err e = ERR_INIT;

	q->run_id = xasprintf("%u", run);
	q->token = xasprintf("slurmray:%s/%u/a%u", UUID, run, attempt);
	q->job = make_job(f, command);
	ctx.run_id = q->run_id;
	if (launcher_find("bash")->render(q->job, &ctx, &script, &e) < 0)
		fail_msg("%s", e.text);
	q->script = strbuf_detach(&script, &q->script_len);
	return q;
}

static void submit(struct fx *f, uint32_t run, const char *command)
{
	remote_post(f->c, make_submit(f, CREQ_SUBMIT, run, 1, command));
}

static uint64_t verb(struct fx *f, uint32_t run, const char *word, const char *arg)
{
	struct creq *q = creq_new(CREQ_VERB, run, 1, ++f->ticket);

	q->verb = xstrdup(word);
	q->arg = xstrdup(arg);
	remote_post(f->c, q);
	return f->ticket;
}

static uint64_t ask_file(struct fx *f, enum creq_type type, uint32_t run, const char *path, uint64_t off, uint64_t len)
{
	struct creq *q = creq_new(type, run, 1, ++f->ticket);

	q->path = xstrdup(path);
	q->offset = off;
	q->length = len;
	remote_post(f->c, q);
	return f->ticket;
}

/* --- what is looked at --- */

static void assert_spool(const struct fx *f, uint32_t run, enum spool_stream st, const void *want, size_t len)
{
	struct spool_reader *r = NULL;
	struct err e = ERR_INIT;
	char spool[128], *buf = xmalloc(len + 100);

	(void)snprintf(spool, sizeof(spool), "%s/spool", f->state);
	assert_int_equal(spool_reader_open(spool, run, false, &r, &e), 0);
	assert_int_equal(spool_reader_len(r, st), len);
	assert_int_equal(spool_reader_pread(r, st, buf, len + 100, 0), (ssize_t)len);
	assert_memory_equal(buf, want, len);
	spool_reader_close(r);
	free(buf);
}

static void assert_home_file(const struct fx *f, const char *name, const char *want)
{
	struct strbuf sb = STRBUF_INIT;
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/%s", f->home, name);
	assert_true(strbuf_read_file(&sb, path, 1 << 20) >= 0);
	assert_string_equal(sb.buf, want);
	strbuf_release(&sb);
}

static bool home_has(const struct fx *f, const char *name)
{
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/%s", f->home, name);
	return access(path, F_OK) == 0;
}

static bool logs_are(const struct fx *f, int64_t out, int64_t err)
{
	return f->out_len == out && f->err_len == err;
}

#define RUN_DIR ".slurm ray/" UUID "/runs/7"

/* Once per execution a line in `executed`; NUL, 0xff and half lines in the logs. */
#define NOISY \
	"echo x >>\"$HOME/executed\"; printf 'a\\0b\\377\\n'; printf 'warn\\0' >&2; sleep 0.1; printf 'end'; " \
	"echo data >\"$SLURMRAY_RESULTS/model\""
static const char noisy_out[] = "a\0b\377\nend", noisy_err[] = "warn\0";

static void assert_noisy(const struct fx *f)
{
	assert_spool(f, 7, SPOOL_OUT, noisy_out, sizeof(noisy_out) - 1);
	assert_spool(f, 7, SPOOL_ERR, noisy_err, sizeof(noisy_err) - 1);
	assert_home_file(f, "executed", "x\n");
}

/* --- tests --- */

static int setup(void **state)
{
	clear_faults();
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

	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_END, NULL));
	end = find_event(f, 7, EV_END, NULL);
	assert_string_equal(event_str(end, "status"), "succeeded");
	assert_int_equal(event_int(end, "exit_code", -1), 0);
	assert_int_equal(event_int(end, "out_len", -1), sizeof(noisy_out) - 1);
	assert_int_equal(event_int(end, "err_len", -1), sizeof(noisy_err) - 1);
	assert_non_null(find_event(f, 7, EV_SUBMITTED, NULL));
	assert_non_null(event_str(find_event(f, 7, EV_SUBMITTED, NULL), "job_id"));
	WAIT(f, logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
}

static void test_life(void **state)
{
	struct fx *f = *state;

	shell(f->home, ": >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	assert_true(f->up);
	shell(f->home, "rm fake/hold");
	WAIT(f, find_event(f, 7, EV_STATE, "running"));
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	WAIT(f, logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
	assert_true(home_has(f, ".slurm ray/" UUID "/ends/7.a1"));
	remote_post(f->c, creq_new(CREQ_END_SEEN, 7, 1, 0));
	WAIT(f, home_has(f, RUN_DIR "/a1/exit"));
	assert_false(home_has(f, ".slurm ray/" UUID "/ends/7.a1"));
	remote_post(f->c, creq_new(CREQ_FORGET, 7, 0, 0));
	WAIT(f, !home_has(f, RUN_DIR));
	assert_true(home_has(f, ".slurm ray/" UUID "/runs"));
	assert_int_equal(fake.logins, 1);
}

static void test_failure_code(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	submit(f, 7, "echo no >&2; exit 3");
	WAIT(f, find_event(f, 7, EV_END, NULL));
	assert_non_null(find_event(f, 7, EV_END, "failed"));
	assert_int_equal(event_int(find_event(f, 7, EV_END, NULL), "exit_code", -1), 3);
	WAIT(f, logs_are(f, 0, 3));
	assert_spool(f, 7, SPOOL_ERR, "no\n", 3);
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
		submit(f, i, "echo x >>\"$HOME/executed\"");
	for (uint32_t i = 1; i <= 30; i++)
		WAIT(f, find_event(f, i, EV_END, "succeeded"));
	shell(f->home, "[ \"$(wc -l <executed)\" = 30 ]");
}

static void test_big_log(void **state)
{
	struct fx *f = *state;
	struct strbuf want = STRBUF_INIT;

	for (int i = 1; i <= 400000; i++)
		strbuf_addf(&want, "%d\n", i);
	fx_start(f);
	submit(f, 7, "seq 400000");
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	WAIT(f, logs_are(f, (int64_t)want.len, 0));
	assert_spool(f, 7, SPOOL_OUT, want.buf, want.len);
	strbuf_release(&want);
}

/* The connection breaks once, at the transfer with each number: always one execution and exact logs. */
static void test_cut_everywhere(void **state)
{
	long last = 1000;

	fx_free(*state);
	for (long at = 1; at < last; at += at < 40 ? 1 : 7) {
		struct fx *f;

		clear_faults();
		f = fx_new();
		fake.cut_at = at;
		fx_start(f);
		run_noisy(f);
		if (fake.transfers < at)
			last = at; /* it was over before that */
		else
			assert_true(fake.logins >= 2);
		fx_free(f);
	}
	assert_true(last > 20);
	clear_faults();
	*state = fx_new();
}

static void test_refused(void **state)
{
	struct fx *f = *state;
	int logins;

	fake.refuse = true;
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, f->links);
	assert_false(f->up);
	assert_false(f->asking);
	assert_non_null(strstr(f->link_text, "refuses the key"));
	logins = fake.logins;
	(void)usleep(200000);
	take(f);
	assert_int_equal(fake.logins, logins);
	assert_int_equal(f->links, 1);
	fake.refuse = false;
	remote_post(f->c, creq_new(CREQ_RECONNECT, 0, 0, 0));
	WAIT(f, f->up);
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
}

static void test_stall(void **state)
{
	struct fx *f = *state;

	shell(f->home, ": >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	fake.stall = true;
	(void)verb(f, 7, "refresh", NULL);
	WAIT(f, !f->up);
	assert_true(f->asking);
	fake.stall = false;
	shell(f->home, "rm fake/hold");
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	WAIT(f, logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
}

static void test_unknown_and_back(void **state)
{
	struct fx *f = *state;

	shell(f->home, ": >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	fake.unreachable = true;
	WAIT(f, find_event(f, 7, EV_UNKNOWN, NULL));
	assert_false(f->up);
	(void)usleep(100000);
	take(f);
	fx_forget_events(f);
	fake.unreachable = false;
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	assert_null(find_event(f, 7, EV_UNKNOWN, NULL));
}

/* The link is up but the scheduler is not: unknown, never an end. */
static void test_scheduler_down(void **state)
{
	struct fx *f = *state;

	shell(f->home, ": >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	shell(f->home, ": >fake/down");
	WAIT(f, find_event(f, 7, EV_UNKNOWN, NULL));
	assert_non_null(strstr(event_str(find_event(f, 7, EV_UNKNOWN, NULL), "why"), "Unable to contact"));
	assert_null(find_event(f, 7, EV_END, NULL));
	fx_forget_events(f);
	shell(f->home, "rm fake/down fake/hold");
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
}

static void check_files(struct fx *f)
{
	uint64_t read, tail, missing, list, manifest, evil, dir;
	const struct answer *a;

	fx_start(f);
	submit(f, 7, "cd \"$SLURMRAY_RESULTS\"; mkdir sub; printf 'a\\0\\377z' >sub/f; ln -s sub/f in; ln -s /etc/passwd out; mkfifo p");
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	read = ask_file(f, CREQ_READ, 7, "sub/f", 0, 1 << 20);
	tail = ask_file(f, CREQ_READ, 7, "sub/f", 3, 10);
	missing = ask_file(f, CREQ_READ, 7, "nothing", 0, 10);
	evil = ask_file(f, CREQ_READ, 7, "../../../a", 0, 10);
	dir = ask_file(f, CREQ_READ, 7, "p", 0, 10);
	list = ask_file(f, CREQ_LIST, 7, "", 0, 0);
	manifest = ask_file(f, CREQ_MANIFEST, 7, "", 0, 0);
	WAIT(f, f->n_answers == 7);
	a = find_answer(f, read);
	assert_int_equal(a->code, 0);
	assert_int_equal(a->len, 4);
	assert_memory_equal(a->data, "a\0\377z", 4);
	assert_string_equal(find_answer(f, tail)->data, "z");
	assert_int_equal(find_answer(f, missing)->code, -ENOENT);
	assert_non_null(strstr(find_answer(f, missing)->text, "results/nothing"));
	assert_int_equal(find_answer(f, evil)->code, -EINVAL);
	assert_int_equal(find_answer(f, dir)->code, -ENXIO);
	a = find_answer(f, list);
	assert_int_equal(a->code, 0);
	assert_non_null(memmem(a->data, a->len, "\0sub\0\0", 6));
	assert_non_null(memmem(a->data, a->len, "\0in\0sub/f\0", 10));
	assert_null(memmem(a->data, a->len, "passwd", 6));
	assert_null(memmem(a->data, a->len, "\0p\0", 3));
	a = find_answer(f, manifest);
	assert_int_equal(a->code, 0);
	assert_non_null(memmem(a->data, a->len, "f\0004\0", 4));
	assert_non_null(memmem(a->data, a->len, "\0sub/f\0\0", 8));
	assert_null(memmem(a->data, a->len, "passwd", 6));
	shell(f->home, "rm '" RUN_DIR "/a1/manifest'");
	manifest = ask_file(f, CREQ_MANIFEST, 7, "", 0, 0);
	WAIT(f, find_answer(f, manifest));
	assert_non_null(memmem(find_answer(f, manifest)->data, find_answer(f, manifest)->len, "\0sub/f\0\0", 8));
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
	struct creq *q = make_submit(f, CREQ_SUBMIT, 7, 1, "wc -c <big; cat small; sha1sum <big >\"$HOME/sum\"");
	char code[512];

	(void)snprintf(code, sizeof(code),
		       "mkdir \"%s/files\" && head -c %d /dev/urandom >\"%s/files/big\" && echo hi >\"%s/files/small\" && sha1sum "
		       "<\"%s/files/big\" >want",
		       f->state, kib * 1024, f->state, f->state, f->state);
	shell(f->home, code);
	q->files_dir = xasprintf("%s/files", f->state);
	fx_start(f);
	remote_post(f->c, q);
	WAIT(f, find_event(f, 7, EV_END, NULL));
	assert_non_null(find_event(f, 7, EV_END, "succeeded"));
	shell(f->home, "cmp want sum");
	assert_false(home_has(f, RUN_DIR "/a1/files.tar.part"));
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

		clear_faults();
		f = fx_new();
		fake.cut_at = at;
		check_upload(f, 1500);
		fx_free(f);
	}
	clear_faults();
	*state = fx_new();
}

static void test_unsure(void **state)
{
	struct fx *f = *state;

	shell(f->home, "echo before >fake/mode");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_FACTS, NULL));
	assert_null(find_event(f, 7, EV_SUBMITTED, NULL));
	shell(f->home, "echo after >fake/mode");
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	assert_home_file(f, "executed", "x\n");
}

static void test_rejected(void **state)
{
	struct fx *f = *state;

	shell(f->home, "echo refuse >fake/mode");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_REJECTED, NULL));
	assert_non_null(strstr(event_str(find_event(f, 7, EV_REJECTED, NULL), "why"), "no such partition"));
	fx_forget_events(f);
	/* the attempt is void: the same again is lost, the next one is another attempt */
	shell(f->home, "rm fake/mode");
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_LOST, NULL));
	remote_post(f->c, make_submit(f, CREQ_SUBMIT, 7, 2, NOISY));
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	assert_int_equal(event_int(find_event(f, 7, EV_END, NULL), "attempt", 0), 2);
}

/* The queue forgets a job before it starts. */
static void test_lost(void **state)
{
	struct fx *f = *state;

	shell(f->home, ": >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	shell(f->home, "mv fake/1 gone; : >gone/cancel");
	WAIT(f, find_event(f, 7, EV_LOST, NULL));
	assert_null(find_event(f, 7, EV_END, NULL));
	assert_false(home_has(f, "executed"));
}

static void test_cancel_running(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fx_start(f);
	submit(f, 7, "echo started; sleep 30");
	WAIT(f, f->out_len == 8);
	t = verb(f, 7, "cancel", NULL);
	WAIT(f, find_answer(f, t));
	assert_int_equal(find_answer(f, t)->code, 0);
	WAIT(f, find_event(f, 7, EV_END, NULL));
	assert_non_null(find_event(f, 7, EV_END, "cancelled"));
}

static void test_cancel_pending(void **state)
{
	struct fx *f = *state;

	shell(f->home, ": >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	(void)verb(f, 7, "cancel", NULL);
	WAIT(f, find_event(f, 7, EV_END, "cancelled"));
	assert_false(home_has(f, "executed"));
}

static void test_cancel_queued_while_down(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fake.unreachable = true;
	fx_start(f);
	submit(f, 7, NOISY);
	t = verb(f, 7, "cancel", NULL);
	WAIT(f, find_answer(f, t));
	assert_int_equal(find_answer(f, t)->code, 0);
	assert_non_null(find_event(f, 7, EV_END, "cancelled"));
	fake.unreachable = false;
	WAIT(f, f->up);
	(void)usleep(100000);
	assert_false(home_has(f, "executed"));
}

/* The submission's answer is not known: `started` decides, and what lies in the queue is swept away. */
static void test_cancel_unsure(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	shell(f->home, "echo before >fake/mode; : >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_FACTS, NULL));
	t = verb(f, 7, "cancel", NULL);
	WAIT(f, find_answer(f, t));
	assert_int_equal(find_answer(f, t)->code, 0);
	assert_non_null(find_event(f, 7, EV_END, "cancelled"));
	shell(f->home, "[ \"$(readlink '" RUN_DIR "/a1/started')\" = void ]");
	/* as if the first try had reached the queue late */
	shell(f->home, "mkdir fake/9; echo pending >fake/9/state; echo slurmray:" UUID "/7/a1 >fake/9/token");
	WAIT(f, home_has(f, "fake/9/cancel"));
}

static void test_watch_after_restart(void **state)
{
	struct fx *f = *state;
	struct creq *q;
	char *job_id;

	fx_start(f);
	submit(f, 7, "echo x >>\"$HOME/executed\"; echo one; until [ -e \"$HOME/go\" ]; do sleep 0.02; done; echo two");
	WAIT(f, f->out_len == 4);
	job_id = xstrdup(event_str(find_event(f, 7, EV_SUBMITTED, NULL), "job_id"));
	fx_stop(f);
	fx_forget_events(f);
	shell(f->home, ": >go");
	(void)usleep(100000);
	fx_start(f);
	q = make_submit(f, CREQ_WATCH, 7, 1, "true");
	q->job_id = job_id;
	remote_post(f->c, q);
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	assert_null(find_event(f, 7, EV_SUBMITTED, NULL));
	WAIT(f, f->out_len == 8);
	assert_spool(f, 7, SPOOL_OUT, "one\ntwo\n", 8);
	assert_home_file(f, "executed", "x\n");
}

static void test_watch_without_id(void **state)
{
	struct fx *f = *state;

	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_SUBMITTED, NULL));
	fx_stop(f);
	fx_forget_events(f);
	fx_start(f);
	remote_post(f->c, make_submit(f, CREQ_WATCH, 7, 1, NOISY));
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	assert_non_null(find_event(f, 7, EV_SUBMITTED, NULL));
	WAIT(f, logs_are(f, sizeof(noisy_out) - 1, sizeof(noisy_err) - 1));
	assert_noisy(f);
}

/* An ended run whose logs were not complete, and one whose logs never will be. */
static void test_watch_ended(void **state)
{
	struct fx *f = *state;
	struct creq *q = make_submit(f, CREQ_WATCH, 7, 1, "true");

	shell(f->home, "mkdir -p '" RUN_DIR "/a1'; printf 12345 >'" RUN_DIR "/a1/stdout'; printf 1 >'" RUN_DIR "/a1/stderr'");
	fx_start(f);
	q->ended = true;
	q->out_len = 3;
	q->err_len = 4;
	remote_post(f->c, q);
	WAIT(f, find_event(f, 7, EV_FACTS, NULL));
	assert_true(json_is_true(json_object_get(find_event(f, 7, EV_FACTS, NULL)->data, "log_incomplete")));
	assert_int_equal(event_int(find_event(f, 7, EV_FACTS, NULL), "stderr_missing", 0), 3);
	assert_spool(f, 7, SPOOL_OUT, "123", 3);
	assert_spool(f, 7, SPOOL_ERR, "1", 1);
}

static void test_truncated_log(void **state)
{
	struct fx *f = *state;

	if (fake.sftp != FAKE_SFTP_OK)
		skip();
	fx_start(f);
	submit(f, 7, "echo first; until [ -e \"$HOME/cut\" ]; do sleep 0.02; done; : >../stdout; until [ -e \"$HOME/go\" ]; do sleep 0.02; done");
	WAIT(f, f->out_len == 6);
	shell(f->home, ": >cut");
	WAIT(f, find_event(f, 7, EV_FACTS, NULL));
	assert_true(json_is_true(json_object_get(find_event(f, 7, EV_FACTS, NULL)->data, "stdout_truncated")));
	shell(f->home, ": >go");
	WAIT(f, find_event(f, 7, EV_END, "succeeded"));
	assert_spool(f, 7, SPOOL_OUT, "first\n", 6);
}

static void test_verbs_and_probe(void **state)
{
	struct fx *f = *state;
	uint64_t hold, signal_, bad, early, probe, refresh;
	struct creq *q;

	shell(f->home, ": >fake/hold");
	fx_start(f);
	submit(f, 7, NOISY);
	WAIT(f, find_event(f, 7, EV_STATE, "pending"));
	hold = verb(f, 7, "hold", NULL);
	signal_ = verb(f, 7, "signal", "USR1");
	bad = verb(f, 7, "dance", NULL);
	early = verb(f, 8, "hold", NULL);
	refresh = verb(f, 0, "refresh", NULL);
	q = creq_new(CREQ_PROBE, 0, 0, ++f->ticket);
	q->arg = xstrdup("info");
	probe = f->ticket;
	remote_post(f->c, q);
	WAIT(f, f->n_answers == 6);
	assert_int_equal(find_answer(f, hold)->code, 0);
	assert_int_equal(find_answer(f, signal_)->code, 0);
	assert_int_equal(find_answer(f, bad)->code, -EINVAL);
	assert_int_equal(find_answer(f, early)->code, -EBUSY);
	assert_int_equal(find_answer(f, refresh)->code, 0);
	assert_string_equal(find_answer(f, probe)->data, "{\"name\": \"fake\"}");
	shell(f->home, "grep -qx 'held 1' fake/verbs && grep -qx 'USR1 1' fake/verbs");
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
	WAIT(f, find_answer(f, 77));
	assert_int_equal(find_answer(f, 77)->code, -EHOSTUNREACH);
	assert_string_equal(find_answer(f, 77)->text, "the connection was cut");
}

static void test_stop_answers(void **state)
{
	struct fx *f = *state;
	uint64_t t;

	fake.unreachable = true;
	fx_start(f);
	t = ask_file(f, CREQ_READ, 7, "x", 0, 10);
	fx_stop(f);
	assert_int_equal(find_answer(f, t)->code, -ENODEV);
	assert_int_equal(find_answer(f, t)->times, 1);
}

/* --- pure parts --- */

static void test_paths(void **state)
{
	char longest[5000];

	(void)state;
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	assert_true(files_path_ok(""));
	assert_true(files_path_ok("a/b..c/.d"));
	assert_false(files_path_ok("/a"));
	assert_false(files_path_ok("a//b"));
	assert_false(files_path_ok("a/"));
	assert_false(files_path_ok(".."));
	assert_false(files_path_ok("a/../b"));
	assert_false(files_path_ok("./a"));
	assert_false(files_path_ok(longest));
}

static void test_filter(void **state)
{
	static const char in[] = "f\0005\0001.5\0004755\0a\0\0"   /* set-id bits go */
				 "l\0001\0002\000777\0d/l\0../a\0" /* stays inside */
				 "l\0001\0002\000777\0l\0../a\0"   /* leaves */
				 "p\0000\0002\000600\0p\0\0"	    /* a FIFO */
				 "f\000x\0002\000600\0b\0\0"	    /* no number */
				 "f\0001\0002\000600\0../b\0\0"	    /* leaves */
				 "f\0001\0002\000600\0cut";
	static const char want[] = "f\0005\0001.5\000755\0a\0\0"
				   "l\0001\0002\000777\0d/l\0../a\0";
	struct strbuf out = STRBUF_INIT;

	(void)state;
	files_filter(in, sizeof(in) - 1, 100, "", &out);
	assert_int_equal(out.len, sizeof(want) - 1);
	assert_memory_equal(out.buf, want, out.len);
	strbuf_reset(&out);
	files_filter(in, sizeof(in) - 1, 1, "", &out);
	assert_int_equal(out.len, 15);
	strbuf_release(&out);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_life), T(test_failure_code), T(test_plain_sh), T(test_many), T(test_big_log), T(test_refused), T(test_stall),
		T(test_unknown_and_back), T(test_scheduler_down), T(test_files), T(test_files_without_sftp),
		T(test_logs_without_sftp), T(test_upload_small), T(test_upload_large), T(test_upload_large_without_sftp),
		T(test_upload_cut), T(test_unsure), T(test_rejected), T(test_lost), T(test_cancel_running), T(test_cancel_pending),
		T(test_cancel_queued_while_down), T(test_cancel_unsure), T(test_watch_after_restart), T(test_watch_without_id),
		T(test_watch_ended), T(test_truncated_log), T(test_verbs_and_probe), T(test_deadline), T(test_stop_answers),
		T(test_cut_everywhere), cmocka_unit_test(test_paths), cmocka_unit_test(test_filter),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	log_setup(STDERR_FILENO, getenv("TEST_VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
