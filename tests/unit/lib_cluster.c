/*
 * See the header. Reports are taken in the test's thread only, by fx_take.
 */
#include "tests/unit/lib_cluster.h"

#include "tests/unit/lib_fake_cluster.h"

#include "backend/base/mem.h"
#include "launchers/launcher.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

static const struct remote_pace fx_pace = {
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
	.watch_for = 60000 * MS,
	.watch_min = 100 * MS,
	.watch_max = 1000 * MS,
	.watch_settle = 2100 * MS, /* of real files, whose times sftp tells in seconds */
	.retry = { 30 * MS, 50 * MS, 100 * MS, 100 * MS },
	.usage = { 10 * MS, 1000 * MS, 4000 * MS, 8000 * MS },
	.answer_grace = 1000 * MS,
};

/* --- small helpers --- */

void fx_shell(const char *home, const char *code)
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

void fx_clear_faults(void)
{
	fake.sftp = FAKE_SFTP_OK;
	fake.refuse = false;
	fake.unreachable = false;
	fake.stall = false;
	fake.cut_at = 0;
	fake.cut_every = 0;
	fake.transfers = 0;
	fake.logins = 0;
	fake.shell = "bash";
}

struct fx *fx_new(void)
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
	f->conf = (struct cluster_conf){ .name = (char *)"hpc",
					 .type = CLUSTER_SLURM,
					 .hosts = f->hosts,
					 .directory = (char *)"~/.slurm ray",
					 .scratch = (char *)"~/.slurm ray",
					 .tick_ms = 20 };
	assert_int_equal(inbox_init(&f->replies), 0);
	f->ctx = (struct cluster_ctx){
		.conf = &f->conf, .clock = &clock_system, .uuid = UUID, .state_dir = f->state, .replies = &f->replies
	};
	fake.home = f->home;
	return f;
}

void fx_start(struct fx *f)
{
	struct err e = ERR_INIT;

	assert_int_equal(remote_start(&transport_fake_ops, &sched_fake_ops, &f->ctx, &fx_pace, NULL, &f->c, &e), 0);
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
		f->events_last = f->events_last || p->events_last;
		if (f->on_log)
			f->on_log(f, p->run);
		break;
	case CREP_SENT:
		break;
	case CREP_LISTING:
		f->listings++;
		f->listing_whole = p->whole;
		if (p->data) {
			free(f->listing[p->area]);
			f->listing[p->area] = p->data;
			f->listing_len[p->area] = p->len;
			p->data = NULL;
		}
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

void fx_take(struct fx *f)
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

void fx_stop(struct fx *f)
{
	remote_stop(f->c, 1000);
	f->c = NULL;
	fx_take(f);
}

void fx_forget_events(struct fx *f)
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

void fx_free(struct fx *f)
{
	char code[256];

	if (f->c)
		fx_stop(f);
	fx_forget_events(f);
	free(f->listing[0]);
	free(f->listing[1]);
	inbox_release(&f->replies);
	(void)snprintf(code, sizeof(code),
		       "touch fake/[0-9]*/cancel 2>/dev/null; rm -f fake/hold; n=0; until rm -rf %s 2>/dev/null || [ "
		       "$n = 50 ]; do n=$((n + 1)); sleep 0.05; done",
		       f->root);
	fx_shell(f->home, code);
	free(f);
}

const struct event *fx_event(const struct fx *f, uint32_t run, enum event_type type, const char *status)
{
	for (size_t i = 0; i < f->n_ev; i++) {
		const char *s = event_str(f->ev[i], "status");

		if (f->ev_run[i] == run && f->ev[i]->type == type && (!status || (s && strcmp(s, status) == 0)))
			return f->ev[i];
	}
	return NULL;
}

const struct answer *fx_answer(const struct fx *f, uint64_t ticket)
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
	j->pipes_context = j->pipes_messages = f->pipes;
	return j;
}

struct creq *fx_make_submit(const struct fx *f, enum creq_type type, uint32_t run, uint32_t attempt,
			    const char *command)
{
	struct creq *q = creq_new(type, run, attempt, 0);
	struct launch_ctx ctx = { .run_num = run, .attempt = attempt, .uuid = UUID };
	struct strbuf script = STRBUF_INIT;
	struct err e = ERR_INIT;

	q->run_id = xasprintf("%u", run);
	q->token = xasprintf("slurmray:%s/%u/a%u", UUID, run, attempt);
	q->job = make_job(f, command);
	ctx.run_id = q->run_id;
	if (f->pipes)
		q->context = xasprintf("%s/context", f->root);
	if (launcher_find("bash")->render(q->job, &ctx, &script, &e) < 0)
		fail_msg("%s", e.text);
	q->script = strbuf_detach(&script, &q->script_len);
	return q;
}

void fx_submit(struct fx *f, uint32_t run, const char *command)
{
	remote_post(f->c, fx_make_submit(f, CREQ_SUBMIT, run, 1, command));
}

uint64_t fx_verb(struct fx *f, uint32_t run, const char *word, const char *arg)
{
	struct creq *q = creq_new(CREQ_VERB, run, 1, ++f->ticket);

	q->verb = xstrdup(word);
	q->arg = xstrdup(arg);
	remote_post(f->c, q);
	return f->ticket;
}

uint64_t fx_ask(struct fx *f, enum creq_type type, uint32_t run, const char *path, uint64_t off, uint64_t len)
{
	struct creq *q = creq_new(type, run, 1, ++f->ticket);

	q->path = xstrdup(path);
	q->offset = off;
	q->length = len;
	remote_post(f->c, q);
	return f->ticket;
}

/* --- what is looked at --- */

void fx_assert_spool(const struct fx *f, uint32_t run, enum spool_stream st, const void *want, size_t len)
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

void fx_assert_home_file(const struct fx *f, const char *name, const char *want)
{
	struct strbuf sb = STRBUF_INIT;
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/%s", f->home, name);
	assert_true(strbuf_read_file(&sb, path, 1 << 20) >= 0);
	assert_string_equal(sb.buf, want);
	strbuf_release(&sb);
}

bool fx_home_has(const struct fx *f, const char *name)
{
	char path[512];

	(void)snprintf(path, sizeof(path), "%s/%s", f->home, name);
	return access(path, F_OK) == 0;
}

bool fx_logs_are(const struct fx *f, int64_t out, int64_t err)
{
	return f->out_len == out && f->err_len == err;
}

void fx_start_ops(struct fx *f, const struct cluster_ops *ops)
{
	struct err e = ERR_INIT;

	assert_int_equal(ops->start(&f->ctx, &f->c, &e), 0);
}
