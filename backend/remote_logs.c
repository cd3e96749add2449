/*
 * The followers of a run's stdout and stderr: remote file -> spool.
 *
 * Invariants: the offset is the spool's length, nothing else, so no byte is appended twice whatever is cut or repeated;
 * one operation per stream is on its way at a time; nothing is read beyond the length that the exit record promises.
 * Files are opened again now and then: on NFS only open(2) is sure to see what another host wrote (nfs(5),
 * close-to-open).
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define WINDOW_MIN ((size_t)SFTP_READ_MAX)
#define WINDOW_MAX ((size_t)1024 * 1024)
#define REOPEN_EVERY 4

struct log_op {
	uint32_t num;
	uint64_t serial; /* a run that is watched anew starts from its spool, not from what was read before */
	int st;
};

static const char *const names[] = { "stdout", "stderr" };

static int64_t here(const struct rrun *r, int st)
{
	return r->spool ? (int64_t)spool_len(r->spool, st ? SPOOL_ERR : SPOOL_OUT) : 0;
}

static void report(struct cluster *c, const struct rrun *r)
{
	struct crep *p = crep_new(CREP_LOG, c);

	p->run = r->num;
	p->out_len = here(r, 0);
	p->err_len = here(r, 1);
	p->last = r->phase == RR_ENDED && rlogs_done(r);
	inbox_post(c->ctx.replies, &p->m);
}

bool rlogs_done(const struct rrun *r)
{
	return !r->follow || (r->stream[0].done && r->stream[1].done);
}

static void close_file(struct rstream *s)
{
	rfile_close(s->f);
	s->f = NULL;
}

static void stream_done(struct cluster *c, struct rrun *r, struct rstream *s)
{
	s->done = true;
	close_file(s);
	if (rlogs_done(r)) {
		if (r->spool && spool_sync(r->spool) < 0)
			log_error("run %u: its logs cannot be put on the disk", r->num);
		report(c, r);
		spool_close(r->spool);
		r->spool = NULL;
	}
}

static bool is_hot(const struct cluster *c, const struct rrun *r)
{
	return c->now < r->hot_until;
}

static void give_up(struct cluster *c, struct rrun *r, int st)
{
	struct rstream *s = &r->stream[st];

	log_warn("cluster %s: run %u: %s has %lld of %lld bytes", c->ctx.conf->name, r->num, names[st],
		 (long long)here(r, st), (long long)s->final);
	rrun_event(c, r, EV_FACTS, "log",
		   json_pack("{s:b, s:I}", "log_incomplete", 1, st ? "stderr_missing" : "stdout_missing",
			     (json_int_t)(s->final - here(r, st))));
	stream_done(c, r, s);
}

/* The look brought nothing. */
static void nothing_came(struct cluster *c, struct rrun *r, int st)
{
	struct rstream *s = &r->stream[st];
	int64_t most = is_hot(c, r) ? c->pace.log_hot : c->pace.log_max;

	s->empties++;
	s->window = WINDOW_MIN;
	if (r->phase == RR_ENDED) {
		if (!s->waiting_since)
			s->waiting_since = c->now;
		if (s->final >= 0 && c->now - s->waiting_since >= c->pace.log_give_up) {
			give_up(c, r, st);
			return;
		}
		if (s->final < 0 && c->now - s->waiting_since >= c->pace.record_wait) {
			stream_done(c, r, s);
			return;
		}
		close_file(s);
		s->next_at = c->now + c->pace.log_hot;
		return;
	}
	if (s->empties % REOPEN_EVERY == 0)
		close_file(s);
	s->interval = earlier(s->interval + s->interval / 2, most);
	s->next_at = c->now + s->interval;
}

static void append(struct cluster *c, struct rrun *r, int st, const char *data, size_t len)
{
	struct rstream *s = &r->stream[st];
	bool all = len >= s->window;
	int rc = spool_append(r->spool, st ? SPOOL_ERR : SPOOL_OUT, data, len);

	if (rc < 0) {
		log_error("run %u: cannot keep its %s: %s", r->num, names[st], strerror(-rc));
		s->next_at = c->now + 2 * (int64_t)USEC_PER_SEC;
		return;
	}
	s->empties = 0;
	s->waiting_since = 0;
	s->short_said = false;
	s->interval = is_hot(c, r) ? c->pace.log_hot : c->pace.log_min;
	s->window = all ? (s->window * 2 < WINDOW_MAX ? s->window * 2 : WINDOW_MAX) : WINDOW_MIN;
	s->next_at = all || r->phase == RR_ENDED ? c->now : c->now + s->interval;
	report(c, r);
}

static void hold(struct rrun *r, int st, const char *data, size_t len)
{
	struct rstream *s = &r->stream[st];

	s->busy = true;
	s->held = xmalloc(len);
	s->held_len = len;
	memcpy(s->held, data, len);
}

void rlogs_show(struct cluster *c, struct rrun *r)
{
	for (int st = 0; st < 2; st++) {
		struct rstream *s = &r->stream[st];
		char *held = s->held;

		if (!held)
			continue;
		s->held = NULL;
		s->busy = false;
		if (!s->done && r->spool)
			append(c, r, st, held, s->held_len);
		free(held);
	}
}

static struct rrun *op_run(struct cluster *c, const struct log_op *op)
{
	struct rrun *r = rrun_find(c, op->num, 0);

	return r && r->serial == op->serial ? r : NULL;
}

static void on_read(struct cluster *c, void *arg, int code, const char *text, const char *data, size_t len)
{
	struct log_op *op = arg;
	struct rrun *r = op_run(c, op);
	int st = op->st;

	(void)text;
	free(op);
	if (!r)
		return;
	r->stream[st].busy = false;
	rruns_touch(c);
	if (r->stream[st].done || !r->spool)
		return;
	if (len && rwatch_news(c, r)) {
		hold(r, st, data, len);
	} else if (len) {
		append(c, r, st, data, len);
	} else if (code == -ECONNRESET) {
		r->stream[st].next_at = c->now;
		r->stream[st].waiting_since = 0;
	} else {
		if (code)
			close_file(&r->stream[st]);
		nothing_came(c, r, st);
	}
}

/* A job that truncates its own output: what it wrote before is kept, and nothing is read until it has written more. */
static void note_shrunk(struct cluster *c, struct rrun *r, int st)
{
	struct rstream *s = &r->stream[st];
	int64_t size = rfile_size(s->f);

	if (size < 0 || size >= here(r, st) || s->short_said)
		return;
	s->short_said = true;
	rrun_event(c, r, EV_FACTS, "log", json_pack("{s:b}", st ? "stderr_truncated" : "stdout_truncated", 1));
}

static void on_open(struct cluster *c, void *arg, int code, const char *text, struct rfile *f)
{
	struct log_op *op = arg;
	struct rrun *r = op_run(c, op);
	int st = op->st;

	(void)text;
	free(op);
	if (!r || !r->stream[st].busy) {
		rfile_close(f);
		return;
	}
	r->stream[st].busy = false;
	rruns_touch(c);
	if (code == 0) {
		r->stream[st].f = f;
		r->stream[st].next_at = c->now;
		note_shrunk(c, r, st);
	} else if (code == -ECONNRESET) {
		r->stream[st].next_at = c->now;
		r->stream[st].waiting_since = 0;
	} else {
		nothing_came(c, r, st);
	}
}

static struct log_op *new_op(const struct rrun *r, int st)
{
	struct log_op *op = xcalloc(1, sizeof(*op));

	op->num = r->num;
	op->serial = r->serial;
	op->st = st;
	return op;
}

static void look(struct cluster *c, struct rrun *r, int st)
{
	struct rstream *s = &r->stream[st];
	size_t want = s->window;

	s->busy = true;
	if (!s->f) {
		struct strbuf path = STRBUF_INIT;

		remote_path(c, r->num, r->attempt, names[st], &path);
		rfile_open(c, path.buf, on_open, new_op(r, st));
		strbuf_release(&path);
		return;
	}
	if (s->final >= 0 && s->final - here(r, st) < (int64_t)want)
		want = (size_t)(s->final - here(r, st));
	rfile_read(s->f, (uint64_t)here(r, st), want, false, on_read, new_op(r, st));
}

static bool open_spool(struct cluster *c, struct rrun *r)
{
	struct err e = ERR_INIT;

	if (r->spool)
		return true;
	if (spool_open(c->spool_dir, r->num, &r->spool, &e) == 0)
		return true;
	r->spool = NULL;
	log_error("run %u: %s", r->num, e.text);
	return false;
}

static int64_t stream_step(struct cluster *c, struct rrun *r, int st)
{
	struct rstream *s = &r->stream[st];

	if (s->done || s->busy)
		return INT64_MAX;
	if (s->f && rfile_dead(s->f))
		close_file(s);
	if (s->final >= 0 && s->next_at <= c->now && open_spool(c, r) && here(r, st) >= s->final) {
		stream_done(c, r, s);
		return INT64_MAX;
	}
	if (!rlink_files_ready(c))
		return INT64_MAX;
	if (s->next_at > c->now)
		return s->next_at;
	if (!open_spool(c, r)) {
		s->next_at = c->now + 5 * (int64_t)USEC_PER_SEC;
		return s->next_at;
	}
	look(c, r, st);
	return INT64_MAX;
}

int64_t rlogs_run_step(struct cluster *c, struct rrun *r)
{
	int64_t at;

	if (!r->follow)
		return INT64_MAX;
	at = stream_step(c, r, 0);
	return earlier(at, stream_step(c, r, 1));
}

void rlogs_start(struct cluster *c, struct rrun *r)
{
	if (r->follow)
		return;
	r->follow = true;
	for (int st = 0; st < 2; st++) {
		r->stream[st].window = WINDOW_MIN;
		r->stream[st].interval = is_hot(c, r) ? c->pace.log_hot : c->pace.log_min;
		r->stream[st].next_at = c->now;
	}
	r->stream[1].done = r->merged;
	rruns_touch(c);
}

void rlogs_final(struct cluster *c, struct rrun *r, int64_t out_len, int64_t err_len)
{
	r->stream[0].final = out_len;
	r->stream[1].final = err_len;
	for (int st = 0; st < 2; st++)
		r->stream[st].next_at = c->now;
	rruns_touch(c);
}

void rlogs_hot(struct cluster *c, struct rrun *r)
{
	r->hot_until = c->now + 30 * (int64_t)USEC_PER_SEC;
	for (int st = 0; st < 2; st++) {
		struct rstream *s = &r->stream[st];

		s->interval = c->pace.log_hot;
		s->next_at = earlier(s->next_at, c->now + c->pace.log_hot);
	}
	rruns_touch(c);
}

void rlogs_release(struct rrun *r)
{
	for (int st = 0; st < 2; st++) {
		close_file(&r->stream[st]);
		free(r->stream[st].held);
	}
	if (r->spool)
		spool_close(r->spool);
	r->spool = NULL;
}
