/*
 * See the header.
 */
#include "tests/unit/lib_local.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "launchers/launcher.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

int lx_supervise(int argc, char **argv)
{
	if (argc != 3 || strcmp(argv[1], "__supervise") != 0)
		return -1;
	return supervisor_main(argc - 1, argv + 1);
}

/* --- life --- */

struct lx *lx_new(void)
{
	struct lx *f = xcalloc(1, sizeof(*f));
	char spool[128];

	log_setup(STDERR_FILENO, LOG_ERROR);
	(void)snprintf(f->root, sizeof(f->root), "/tmp/test_local.XXXXXX");
	assert_non_null(mkdtemp(f->root));
	(void)snprintf(f->state, sizeof(f->state), "%s/state", f->root);
	assert_int_equal(mkdir(f->state, 0700), 0);
	(void)snprintf(spool, sizeof(spool), "%s/spool", f->state);
	assert_int_equal(mkdir(spool, 0700), 0);
	f->directory = xasprintf("%s/control dir", f->root);
	f->scratch = xstrdup(f->directory);
	(void)snprintf(f->base, sizeof(f->base), "%s/" LX_UUID, f->directory);
	f->conf = (struct cluster_conf){ .name = (char *)"local", .type = CLUSTER_LOCAL, .directory = f->directory };
	assert_int_equal(inbox_init(&f->replies), 0);
	f->ctx = (struct cluster_ctx){
		.conf = &f->conf, .clock = &clock_system, .uuid = LX_UUID, .state_dir = f->state, .replies = &f->replies
	};
	lx_start(f);
	return f;
}

void lx_start(struct lx *f)
{
	struct err e = ERR_INIT;

	assert_int_equal(cluster_local_ops.start(&f->ctx, &f->c, &e), 0);
}

void lx_stop(struct lx *f)
{
	cluster_local_ops.stop(f->c, 1000);
	f->c = NULL;
	lx_take(f);
}

void lx_forget_events(struct lx *f)
{
	for (size_t i = 0; i < f->n_ev; i++)
		event_free(f->ev[i]);
	f->n_ev = 0;
	memset(f->last, 0, sizeof(f->last));
}

void lx_restart(struct lx *f)
{
	lx_stop(f);
	lx_forget_events(f);
	lx_start(f);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

void lx_free(struct lx *f)
{
	if (f->c)
		lx_stop(f);
	lx_forget_events(f);
	inbox_release(&f->replies);
	for (size_t i = 0; i < f->n_answers; i++) {
		free(f->answers[i].text);
		free(f->answers[i].data);
	}
	(void)nftw(f->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(f->answers);
	free(f->ev);
	free(f->ev_run);
	free(f->directory);
	free(f->scratch);
	free(f);
}

/* --- what it says --- */

static void note_event(struct lx *f, struct crep *p)
{
	assert_non_null(event_str(p->ev, "source"));
	assert_true(event_int(p->ev, "attempt", 0) > 0);
	if (f->n_ev == f->cap_ev) {
		f->cap_ev = f->cap_ev ? f->cap_ev * 2 : 64;
		f->ev = xrealloc(f->ev, f->cap_ev * sizeof(struct event *));
		f->ev_run = xrealloc(f->ev_run, f->cap_ev * sizeof(*f->ev_run));
	}
	if (p->ev->type == EV_END)
		f->last_before_end[p->run] = f->last[p->run];
	f->ev_run[f->n_ev] = p->run;
	f->ev[f->n_ev++] = p->ev;
	p->ev = NULL;
}

static void note_answer(struct lx *f, const struct crep *p)
{
	struct lx_answer *a;

	for (size_t i = 0; i < f->n_answers; i++)
		assert_true(f->answers[i].ticket != p->ticket); /* one answer each */
	f->answers = xrealloc(f->answers, (f->n_answers + 1) * sizeof(*f->answers));
	a = &f->answers[f->n_answers++];
	a->ticket = p->ticket;
	a->code = p->code;
	a->text = xstrdup(p->text);
	a->len = p->len;
	a->data = xmalloc(p->len + 1);
	memcpy(a->data, p->data ? p->data : "", p->len);
	a->data[p->len] = '\0';
}

void lx_take(struct lx *f)
{
	struct list got = LIST_INIT(got);
	struct list *n;

	inbox_take(&f->replies, &got);
	while ((n = list_pop(&got))) {
		struct crep *p = container_of(container_of(n, struct msg, node), struct crep, m);

		assert_true(p->run < LX_RUNS);
		if (p->m.type == (int)CREP_EVENT) {
			note_event(f, p);
		} else if (p->m.type == (int)CREP_REPLY) {
			note_answer(f, p);
		} else if (p->m.type == (int)CREP_LOG) {
			assert_false(f->last[p->run]); /* nothing comes after the last */
			f->out_len[p->run] = p->out_len;
			f->err_len[p->run] = p->err_len;
			f->last[p->run] = p->last;
		}
		msg_release(&p->m);
	}
}

const struct event *lx_event(const struct lx *f, uint32_t run, enum event_type type, const char *status)
{
	for (size_t i = 0; i < f->n_ev; i++) {
		const char *s = event_str(f->ev[i], "status");

		if (f->ev_run[i] == run && f->ev[i]->type == type && (!status || (s && strcmp(s, status) == 0)))
			return f->ev[i];
	}
	return NULL;
}

size_t lx_count(const struct lx *f, uint32_t run, enum event_type type)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n_ev; i++)
		n += f->ev_run[i] == run && f->ev[i]->type == type;
	return n;
}

void lx_wait_state(struct lx *f, uint32_t run, const char *status)
{
	LX_WAIT(f, lx_event(f, run, EV_STATE, status));
}

const struct event *lx_wait_end(struct lx *f, uint32_t run)
{
	LX_WAIT(f, lx_event(f, run, EV_END, NULL));
	LX_WAIT(f, f->last[run]);
	return lx_event(f, run, EV_END, NULL);
}

void lx_assert_end(struct lx *f, uint32_t run, const char *status, int code)
{
	const struct event *ev = lx_wait_end(f, run);

	assert_string_equal(event_str(ev, "status"), status);
	assert_int_equal(event_int(ev, "exit_code", -1), code);
	assert_int_equal(lx_count(f, run, EV_END), 1);
	assert_true(event_int(ev, "start", 0) <= event_int(ev, "end", ev->time));
}

void lx_wait_out(struct lx *f, uint32_t run, int64_t len)
{
	LX_WAIT(f, f->out_len[run] >= len);
}

const struct lx_answer *lx_answer(struct lx *f, uint64_t ticket)
{
	const struct lx_answer *a = NULL;

	LX_WAIT(f, f->n_answers && f->answers[f->n_answers - 1].ticket >= ticket);
	for (size_t i = 0; i < f->n_answers; i++)
		if (f->answers[i].ticket == ticket)
			a = &f->answers[i];
	assert_non_null(a);
	return a;
}

/* --- what it is asked --- */

struct creq *lx_make(struct lx *f, enum creq_type type, uint32_t run, const char *command)
{
	struct creq *q = creq_new(type, run, 1, 0);
	struct job *j = xcalloc(1, sizeof(*j));

	j->form = JOB_COMMAND;
	j->command = xstrdup(command);
	j->name = xstrdup("test");
	j->launcher = xstrdup("bash");
	j->directory = xstrdup(f->directory);
	j->scratch = xstrdup(f->scratch);
	j->time_s = -1;
	j->grace_s = 3; /* a shell on a busy machine needs more than a second to end */
	q->job = j;
	q->run_id = xasprintf("%u", run);
	q->token = xasprintf("slurmray:" LX_UUID "/%u/a1", run);
	return q;
}

void lx_post(struct lx *f, struct creq *q)
{
	struct launch_ctx ctx = { .run_id = q->run_id, .run_num = q->run, .attempt = q->attempt, .uuid = LX_UUID };
	struct strbuf script = STRBUF_INIT;
	struct err e = ERR_INIT;

	if (launcher_find("bash")->render(q->job, &ctx, &script, &e) < 0)
		fail_msg("%s", e.text);
	q->script = strbuf_detach(&script, &q->script_len);
	cluster_local_ops.post(f->c, q);
}

void lx_submit(struct lx *f, uint32_t run, const char *command)
{
	lx_post(f, lx_make(f, CREQ_SUBMIT, run, command));
}

void lx_watch(struct lx *f, uint32_t run, const char *command)
{
	struct creq *q = lx_make(f, CREQ_WATCH, run, command);

	q->job_id = xasprintf("%u.1", run);
	lx_post(f, q);
}

uint64_t lx_verb(struct lx *f, uint32_t run, const char *verb, const char *arg)
{
	struct creq *q = creq_new(CREQ_VERB, run, 1, ++f->ticket);

	q->verb = xstrdup(verb);
	q->arg = xstrdup(arg);
	cluster_local_ops.post(f->c, q);
	return f->ticket;
}

uint64_t lx_ask(struct lx *f, enum creq_type type, uint32_t run, enum cluster_area area, const char *path)
{
	struct creq *q = lx_make(f, type, run, "");

	q->ticket = ++f->ticket;
	q->area = area;
	q->path = xstrdup(path);
	q->arg = xstrdup(path);
	q->length = 1 << 20;
	cluster_local_ops.post(f->c, q);
	return f->ticket;
}

/* --- files and processes --- */

void lx_path(const struct lx *f, uint32_t run, const char *name, char out[256])
{
	(void)snprintf(out, 256, "%s/runs/%u/a1%s%s", f->base, run, *name ? "/" : "", name);
}

char *lx_read(const struct lx *f, uint32_t run, const char *name)
{
	struct strbuf sb = STRBUF_INIT;
	char path[256];

	lx_path(f, run, name, path);
	if (strbuf_read_file(&sb, path, 1 << 24) < 0)
		return NULL;
	return strbuf_detach(&sb, NULL);
}

void lx_assert_log(const struct lx *f, uint32_t run, enum spool_stream st, const void *want, size_t len)
{
	struct spool_reader *r = NULL;
	char spool[128], *buf = xmalloc(len + 100);
	ssize_t n;

	(void)snprintf(spool, sizeof(spool), "%s/spool", f->state);
	assert_int_equal(spool_reader_open(spool, run, false, &r, NULL), 0);
	n = spool_reader_pread(r, st, buf, len + 100, 0);
	assert_int_equal(n, (ssize_t)len);
	assert_memory_equal(buf, want, len);
	assert_int_equal(spool_reader_len(r, st), len);
	spool_reader_close(r);
	free(buf);
}

pid_t lx_wait_pid(struct lx *f, uint32_t run, const char *name)
{
	for (int i = 0; i < LX_PATIENCE_S * 100; i++) {
		cleanup_free char *text = lx_read(f, run, name);

		if (text && strchr(text, '\n'))
			return (pid_t)strtol(text, NULL, 10);
		(void)poll(NULL, 0, 10);
	}
	fail_msg("%s does not come", name);
	return 0;
}

/* A zombie whose parent is this machine's init is not alive. */
bool lx_alive(pid_t pid)
{
	cleanup_free char *path = xasprintf("/proc/%d/stat", (int)pid);
	struct strbuf sb = STRBUF_INIT;
	const char *s = NULL;
	bool alive;

	if (strbuf_read_file(&sb, path, 65536) > 0)
		s = strrchr(sb.buf, ')');
	alive = s && s[1] == ' ' && s[2] != 'Z' && s[2] != 'X';
	strbuf_release(&sb);
	return alive;
}

pid_t lx_spawn_supervisor(const struct lx *f, uint32_t run)
{
	char dir[256];
	pid_t pid;

	lx_path(f, run, "", dir);
	pid = fork();
	if (pid == 0) {
		execl(local_supervisor_program, "slurmray", "__supervise", dir, (char *)NULL);
		_exit(127);
	}
	return pid;
}
