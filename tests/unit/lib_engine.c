/*
 * See the header. The fake cluster keeps every request; nothing is answered by itself.
 */
#include "tests/unit/lib_engine.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <fcntl.h>
#include <poll.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define PATIENCE 3000 /* waits of 10 ms */
#define CLUSTERS 4

struct cluster {
	struct cluster_ctx ctx;
	struct ef *f;
};

static struct ef *current;
static struct cluster clusters[CLUSTERS];
static size_t n_clusters;

/* --- a clock that only goes on --- */

static _Atomic int64_t ticks = 1000000LL * 1000000;

static int64_t tick(const struct clock *c)
{
	(void)c;
	return atomic_fetch_add(&ticks, 1000);
}

static const struct clock test_clock = { tick, tick };

/* --- the cluster --- */

static int fake_start(const struct cluster_ctx *ctx, struct cluster **out, struct err *e)
{
	(void)e;
	assert_true(n_clusters < CLUSTERS);
	clusters[n_clusters] = (struct cluster){ *ctx, current };
	*out = &clusters[n_clusters++];
	return 0;
}

static void fake_post(struct cluster *c, struct creq *r)
{
	struct ef *f = c->f;

	if (f->n_got == f->cap_got) {
		f->cap_got = f->cap_got ? f->cap_got * 2 : 64;
		f->got = xrealloc(f->got, f->cap_got * sizeof(struct creq *));
	}
	f->got[f->n_got++] = r;
	if (f->on_post)
		f->on_post(f, r);
}

static void fake_stop(struct cluster *c, int deadline_ms)
{
	(void)c;
	(void)deadline_ms;
}

static const struct cluster_ops fake_ops = {
	.type = CLUSTER_SLURM,
	.word = "fake",
	.start = fake_start,
	.post = fake_post,
	.stop = fake_stop,
};

static const struct cluster_ops *find(enum cluster_type type)
{
	(void)type;
	return &fake_ops;
}

/* --- life --- */

static void run_changed(void *arg, const struct run *r)
{
	struct ef *f = arg;

	assert_ptr_equal(engine_run(f->en, r->num), r);
	f->changed++;
}

static void run_gone(void *arg, uint32_t num)
{
	struct ef *f = arg;

	assert_null(engine_run(f->en, num));
	f->gone++;
}

static void log_grew(void *arg, const struct run *r)
{
	struct ef *f = arg;

	(void)r;
	f->grew++;
}

static bool in_use(void *arg, const struct run *r)
{
	const struct ef *f = arg;

	return f->in_use == r->num;
}

void ef_pass(int64_t us)
{
	atomic_fetch_add(&ticks, us);
}

void ef_open_with(struct ef *f, const char *conf)
{
	struct engine_conf ec = { .clock = &test_clock, .state_dir = f->dir, .mount_id = f->mount_id, .find = find };
	const struct engine_observer ob = { f, run_changed, run_gone, log_grew, NULL, NULL, in_use };
	struct err e = ERR_INIT;

	config_free(f->config);
	if (config_parse(conf, "conf", &f->config, &e) < 0)
		fail_msg("configuration: %s", e.text);
	ec.config = f->config;
	n_clusters = 0;
	if (engine_create(&ec, &f->en, &e) < 0)
		fail_msg("engine: %s", e.text);
	engine_observe(f->en, &ob);
}

void ef_open(struct ef *f)
{
	ef_open_with(f, EF_CONF);
}

struct ef *ef_new(const char *conf)
{
	struct ef *f = xcalloc(1, sizeof(*f));

	log_setup(STDERR_FILENO, LOG_ERROR);
	(void)snprintf(f->dir, sizeof(f->dir), "/tmp/test_engine.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	f->mount_id = 7;
	f->request = 1000;
	current = f;
	ef_open_with(f, conf ? conf : EF_CONF);
	return f;
}

void ef_close(struct ef *f)
{
	engine_free(f->en, 0);
	f->en = NULL;
}

void ef_forget(struct ef *f)
{
	for (size_t i = 0; i < f->n_got; i++)
		msg_release(&f->got[i]->m);
	f->n_got = 0;
}

void ef_reopen(struct ef *f)
{
	ef_close(f);
	ef_forget(f);
	ef_open(f);
	ef_quiet(f);
}

void ef_free(struct ef *f)
{
	if (f->en)
		ef_close(f);
	ef_forget(f);
	config_free(f->config);
	engine_remove_tree(f->dir);
	free(f->got);
	free(f);
}

bool ef_busy(const struct ef *f)
{
	for (size_t i = 0; i < f->en->n_order; i++)
		if (f->en->order[i]->in_flight || f->en->order[i]->purging || f->en->order[i]->feeding)
			return true;
	return false;
}

void ef_step(struct ef *f)
{
	struct pollfd p = { .fd = engine_fd(f->en), .events = POLLIN };

	(void)poll(&p, 1, 10);
	engine_step(f->en);
}

void ef_quiet(struct ef *f)
{
	engine_step(f->en);
	for (int i = 0; ef_busy(f); i++) {
		assert_true(i < PATIENCE);
		ef_step(f);
	}
	engine_step(f->en);
}

/* --- what users do --- */

void said(void *arg, int code, const char *text)
{
	struct said *s = arg;

	s->calls++;
	s->code = code;
	(void)snprintf(s->text, sizeof(s->text), "%s", text);
}

static void wait_said(struct ef *f, const struct said *s)
{
	for (int i = 0; !s->calls; i++) {
		assert_true(i < PATIENCE);
		ef_step(f);
	}
	ef_quiet(f);
}

static char *quotes(const char *text)
{
	char *copy = xstrdup(text);

	for (char *p = copy; (p = strchr(p, '\'')); p++)
		*p = '"';
	return copy;
}

json_t *ef_json(const char *text)
{
	cleanup_free char *copy = quotes(text);
	json_t *o = json_loads(copy, 0, NULL);

	if (!o)
		fail_msg("no JSON: %s", copy);
	return o;
}

void ef_submit(struct ef *f, const char *spec, uint32_t draft, struct said *s)
{
	cleanup_free char *text = quotes(spec);
	const struct engine_submit sub = {
		.text = text, .len = strlen(text), .draft = draft, .request = ++f->request, .uid = 5
	};

	memset(s, 0, sizeof(*s));
	engine_submit(f->en, &sub, said, s);
	wait_said(f, s);
}

uint32_t ef_run(struct ef *f, const char *spec)
{
	struct said s;

	ef_submit(f, spec, 0, &s);
	if (s.code)
		fail_msg("%s: %s", spec, s.text);
	return engine_run_by_id(f->en, s.text)->num;
}

uint32_t ef_draft(struct ef *f, const char *name)
{
	struct said s = { 0 };

	engine_draft(f->en, name, ++f->request, said, &s);
	wait_said(f, &s);
	SAID(&s, 0, name);
	return engine_run_by_id(f->en, name)->num;
}

void ef_verb(struct ef *f, uint32_t run, const char *line, struct said *s)
{
	memset(s, 0, sizeof(*s));
	engine_verb(f->en, run, line, ++f->request, said, s);
	wait_said(f, s);
}

void ef_purge(struct ef *f, uint32_t run, struct said *s)
{
	memset(s, 0, sizeof(*s));
	engine_purge(f->en, run, ++f->request, said, s);
	wait_said(f, s);
}

/* --- what clusters were sent --- */

static bool is_verb(const struct creq *r, const char *verb)
{
	return !verb || (r->verb && strcmp(r->verb, verb) == 0);
}

static size_t look(const struct ef *f, enum creq_type type, uint32_t run, const char *verb, struct creq **last)
{
	size_t n = 0;

	*last = NULL;
	for (size_t i = 0; i < f->n_got; i++) {
		if (f->got[i]->m.type != (int)type || (run && f->got[i]->run != run) || !is_verb(f->got[i], verb))
			continue;
		*last = f->got[i];
		n++;
	}
	return n;
}

struct creq *ef_req(const struct ef *f, enum creq_type type, uint32_t run)
{
	struct creq *r;

	(void)look(f, type, run, NULL, &r);
	return r;
}

size_t ef_count(const struct ef *f, enum creq_type type, uint32_t run)
{
	struct creq *r;

	return look(f, type, run, NULL, &r);
}

struct creq *ef_verb_req(const struct ef *f, uint32_t run, const char *verb)
{
	struct creq *r;

	(void)look(f, CREQ_VERB, run, verb, &r);
	return r;
}

size_t ef_verb_count(const struct ef *f, uint32_t run, const char *verb)
{
	struct creq *r;

	return look(f, CREQ_VERB, run, verb, &r);
}

/* --- what clusters say --- */

static void deliver(struct ef *f, struct crep *rep)
{
	inbox_post(&f->en->inbox, &rep->m);
	ef_quiet(f);
}

void ef_event(struct ef *f, uint32_t run, enum event_type type, const char *data)
{
	struct crep *rep = crep_new(CREP_EVENT, &clusters[0]);

	rep->run = run;
	rep->ev = event_new(type, tick(NULL), ef_json(data));
	deliver(f, rep);
}

void ef_log(struct ef *f, uint32_t run, int64_t out, int64_t err, bool last)
{
	struct crep *rep = crep_new(CREP_LOG, &clusters[0]);

	rep->run = run;
	rep->out_len = out;
	rep->err_len = err;
	rep->last = last;
	deliver(f, rep);
}

void ef_events_last(struct ef *f, uint32_t run)
{
	struct crep *rep = crep_new(CREP_LOG, &clusters[0]);

	rep->run = run;
	rep->events_last = true;
	deliver(f, rep);
}

void ef_answer(struct ef *f, const struct creq *r, int code, const char *text, const char *data, size_t len)
{
	struct crep *rep = crep_new(CREP_REPLY, &clusters[0]);

	assert_non_null(r);
	assert_true(r->ticket != 0);
	rep->run = r->run;
	rep->ticket = r->ticket;
	rep->code = code;
	rep->text = xstrdup(text);
	rep->data = xmalloc(len + 1);
	if (len)
		memcpy(rep->data, data, len);
	rep->len = len;
	deliver(f, rep);
}

void ef_link(struct ef *f, const char *cluster, bool up)
{
	for (size_t i = 0; i < n_clusters; i++) {
		struct crep *rep;

		if (strcmp(clusters[i].ctx.conf->name, cluster) != 0)
			continue;
		rep = crep_new(CREP_LINK, &clusters[i]);
		rep->up = rep->asking = up;
		rep->text = xstrdup(up ? "up" : "down");
		deliver(f, rep);
		return;
	}
	fail_msg("no cluster %s", cluster);
}

/* --- the usual way --- */

uint32_t ef_pending_run(struct ef *f, const char *spec)
{
	uint32_t run = ef_run(f, spec);

	ef_event(f, run, EV_SUBMITTED, "{'attempt': 1, 'job_id': '4711'}");
	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'pending', 'reason': 'Priority'}");
	STATUS(f, run, "pending");
	return run;
}

uint32_t ef_running_run(struct ef *f, const char *spec)
{
	uint32_t run = ef_pending_run(f, spec);

	ef_event(f, run, EV_STATE, "{'attempt': 1, 'status': 'running'}");
	STATUS(f, run, "running");
	return run;
}

uint32_t ef_ended_run(struct ef *f, const char *spec)
{
	uint32_t run = ef_running_run(f, spec);

	ef_event(f, run, EV_END, "{'attempt': 1, 'status': 'succeeded', 'exit_code': 0, 'out_len': 3, 'err_len': 0}");
	STATUS(f, run, "succeeded");
	return run;
}

enum run_status ef_status(const struct ef *f, uint32_t run)
{
	const struct run *r = engine_run(f->en, run);

	assert_non_null(r);
	return r->status;
}

/* --- the journal, from outside: by a process of its own, since close(2) here would drop SQLite's locks (fcntl(2)) ---
 */

static void copy_journal(const struct ef *f, const char *to)
{
	cleanup_free char *cmd =
		xasprintf("cp '%s/journal.db' '%s'; if [ -e '%s/journal.db-wal' ]; then cp '%s/journal.db-wal' "
			  "'%s-wal'; fi",
			  f->dir, to, f->dir, f->dir, to);
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

long long ef_sql(const struct ef *f, const char *sql)
{
	cleanup_free char *copy = xasprintf("%s.copy.db", f->dir);
	cleanup_free char *wal = xasprintf("%s-wal", copy), *shm = xasprintf("%s-shm", copy);
	sqlite3_stmt *st = NULL;
	sqlite3 *db = NULL;
	long long n;

	copy_journal(f, copy);
	assert_int_equal(sqlite3_open(copy, &db), SQLITE_OK);
	if (sqlite3_prepare_v2(db, sql, -1, &st, NULL) != SQLITE_OK)
		fail_msg("%s: %s", sql, sqlite3_errmsg(db));
	assert_int_equal(sqlite3_step(st), SQLITE_ROW);
	n = sqlite3_column_int64(st, 0);
	(void)sqlite3_finalize(st);
	(void)sqlite3_close(db);
	(void)unlink(copy);
	(void)unlink(wal);
	(void)unlink(shm);
	return n;
}
