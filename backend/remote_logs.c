/*
 * The followers of a run's stdout, stderr and message file: remote file -> spool.
 *
 * Invariants: the offset is the spool's length, nothing else, so no byte is appended twice whatever is cut or repeated;
 * one operation per stream is on its way at a time; nothing is read beyond the length that the exit record promises.
 * Files are opened again now and then: on NFS only open(2) is sure to see what another host wrote (nfs(5),
 * close-to-open). Of the message file the bytes just before the offset are read once more: where they are others than
 * before, the job has cut the file and written it anew, and it is read from its beginning.
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

static const char *const names[RSTREAMS] = { "stdout", "stderr", "events" };

/* Where in the remote file reading goes on. */
static int64_t here(const struct rrun *r, int st)
{
	if (st == RSTREAM_EVENTS)
		return r->events ? (int64_t)events_at(r->events) : 0;
	return r->spool ? (int64_t)spool_len(r->spool, st ? SPOOL_ERR : SPOOL_OUT) : 0;
}

static void report(struct cluster *c, const struct rrun *r)
{
	struct crep *p = crep_new(CREP_LOG, c);

	p->run = r->num;
	p->out_len = here(r, 0);
	p->err_len = here(r, 1);
	p->last = r->phase == RR_ENDED && rlogs_done(r);
	p->events_last = r->phase == RR_ENDED && r->stream[RSTREAM_EVENTS].done;
	inbox_post(c->ctx.replies, &p->m);
}

bool rlogs_done(const struct rrun *r)
{
	return !r->follow || (r->stream[0].done && r->stream[1].done && r->stream[2].done);
}

static void close_file(struct rstream *s)
{
	rfile_close(s->f);
	s->f = NULL;
}

/* All that there is of the messages: a last line may have no newline. False: the disk is full, later. */
static bool messages_done(struct cluster *c, struct rrun *r)
{
	int rc = 0;

	if (r->events)
		rc = events_settle(r->events, true);
	if (r->events && rc == 0)
		rc = events_sync(r->events);
	if (rc < 0) {
		r->stream[RSTREAM_EVENTS].next_at = c->now + 2 * (int64_t)USEC_PER_SEC;
		return false;
	}
	events_close(r->events);
	r->events = NULL;
	return true;
}

static void stream_done(struct cluster *c, struct rrun *r, struct rstream *s)
{
	bool messages = s == &r->stream[RSTREAM_EVENTS];

	if (messages && !messages_done(c, r))
		return;
	s->done = true;
	close_file(s);
	if (messages && !rlogs_done(r))
		report(c, r); /* the end waits for them */
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
	if (st == RSTREAM_EVENTS)
		rrun_event(c, r, EV_FACTS, "log",
			   json_pack("{s:I}", "events_missing", (json_int_t)(s->final - here(r, st))));
	else
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

static int keep(struct rrun *r, int st, const char *data, size_t len)
{
	return st == RSTREAM_EVENTS ? events_append(r->events, data, len)
				    : spool_append(r->spool, st ? SPOOL_ERR : SPOOL_OUT, data, len);
}

static void append(struct cluster *c, struct rrun *r, int st, const char *data, size_t len)
{
	struct rstream *s = &r->stream[st];
	bool all = s->full;
	int rc = keep(r, st, data, len);

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
	for (int st = 0; st < RSTREAMS; st++) {
		struct rstream *s = &r->stream[st];
		char *held = s->held;

		if (!held)
			continue;
		s->held = NULL;
		s->busy = false;
		if (!s->done && r->spool && (st != RSTREAM_EVENTS || r->events))
			append(c, r, st, held, s->held_len);
		free(held);
	}
}

static struct rrun *op_run(struct cluster *c, const struct log_op *op)
{
	struct rrun *r = rrun_find(c, op->num, 0);

	return r && r->serial == op->serial ? r : NULL;
}

/* How many bytes in front of the offset are read once more. */
static size_t overlap(const struct rrun *r, int st)
{
	if (st != RSTREAM_EVENTS)
		return 0;
	return here(r, st) < EVENTS_OVERLAP ? (size_t)here(r, st) : EVENTS_OVERLAP;
}

static void read_anew(struct cluster *c, struct rrun *r)
{
	if (events_restart(r->events) == 0)
		log_warn("run %u: its message file was written anew", r->num);
	r->stream[RSTREAM_EVENTS].cut_seen = false;
	r->stream[RSTREAM_EVENTS].next_at = c->now;
}

/* The end of a file that is shorter than what is here. */
static void on_cut(struct cluster *c, struct rrun *r, const char *data, size_t len)
{
	struct rstream *s = &r->stream[RSTREAM_EVENTS];
	uint64_t at = (uint64_t)s->cut_to;
	size_t n = at < EVENTS_OVERLAP ? (size_t)at : EVENTS_OVERLAP;

	s->cut_to = 0;
	s->cut_seen = true;
	if (len == n && !events_same(r->events, at, data, n))
		read_anew(c, r);
	else
		nothing_came(c, r, RSTREAM_EVENTS);
}

/* The job may have cut its message file: then what is at the place of the last bytes differs, and it is read anew. */
static void skip_overlap(struct cluster *c, struct rrun *r, const char **data, size_t *len)
{
	uint64_t at = events_at(r->events);
	size_t n = overlap(r, RSTREAM_EVENTS), compare = *len < n ? *len : n;

	if (!events_same(r->events, at - n + compare, *data, compare)) {
		read_anew(c, r);
		*len = 0;
		return;
	}
	*data += compare;
	*len -= compare;
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
	r->stream[st].full = len >= r->stream[st].window;
	rruns_touch(c);
	if (r->stream[st].done || !r->spool || (st == RSTREAM_EVENTS && !r->events))
		return;
	if (st == RSTREAM_EVENTS && r->stream[st].cut_to && !code) {
		on_cut(c, r, data, len);
		return;
	}
	if (st == RSTREAM_EVENTS && len) {
		skip_overlap(c, r, &data, &len);
		if (!len && r->stream[st].next_at == c->now)
			return;
	}
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

	if (st == RSTREAM_EVENTS) {
		s->cut_to = size > 0 && size < here(r, st) ? size : 0;
		return;
	}
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
	size_t want = s->window, back = overlap(r, st);

	s->busy = true;
	if (!s->f) {
		struct strbuf path = STRBUF_INIT;

		remote_path(c, r->num, r->attempt, names[st], &path);
		rfile_open(c, path.buf, on_open, new_op(r, st));
		strbuf_release(&path);
		return;
	}
	if (s->cut_to) {
		back = s->cut_to < EVENTS_OVERLAP ? (size_t)s->cut_to : EVENTS_OVERLAP;
		rfile_read(s->f, (uint64_t)s->cut_to - back, back, true, on_read, new_op(r, st));
		return;
	}
	if (s->final >= 0 && s->final - here(r, st) + (int64_t)back < (int64_t)want)
		want = (size_t)(s->final - here(r, st)) + back;
	rfile_read(s->f, (uint64_t)here(r, st) - back, want, false, on_read, new_op(r, st));
}

/* What a job says that Slurm may start again counts when no start can follow. */
static int open_events(struct cluster *c, struct rrun *r, struct err *e)
{
	int rc = events_open(c->spool_dir, r->num, &r->events, e);

	if (rc == 0 && r->job && r->job->requeue)
		rc = events_hold(r->events);
	if (rc < 0 && r->events) {
		events_close(r->events);
		r->events = NULL;
		err_sys(e, rc, "cannot keep its messages");
	}
	return rc;
}

static bool open_spool(struct cluster *c, struct rrun *r)
{
	struct err e = ERR_INIT;
	bool messages = !r->stream[RSTREAM_EVENTS].done;

	if ((r->spool || spool_open(c->spool_dir, r->num, &r->spool, &e) == 0) &&
	    (r->events || !messages || open_events(c, r, &e) == 0))
		return true;
	log_error("run %u: %s", r->num, e.text);
	return false;
}

/* A message file that is shorter in the end than what is here: has it been written anew since? */
static bool cut_at_end(const struct rrun *r, struct rstream *s, int st)
{
	if (st == RSTREAM_EVENTS && s->final > 0 && here(r, st) > s->final && !s->cut_seen)
		s->cut_to = s->final;
	return st == RSTREAM_EVENTS && s->cut_to;
}

static int64_t stream_step(struct cluster *c, struct rrun *r, int st)
{
	struct rstream *s = &r->stream[st];

	if (s->done || s->busy)
		return INT64_MAX;
	if (s->f && rfile_dead(s->f))
		close_file(s);
	if (s->final >= 0 && s->next_at <= c->now && open_spool(c, r) && here(r, st) >= s->final &&
	    !cut_at_end(r, s, st)) {
		stream_done(c, r, s);
		return s->done ? INT64_MAX : s->next_at;
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
	at = stream_step(c, r, RSTREAM_OUT);
	at = earlier(at, stream_step(c, r, RSTREAM_ERR));
	return earlier(at, stream_step(c, r, RSTREAM_EVENTS));
}

void rlogs_start(struct cluster *c, struct rrun *r)
{
	if (r->follow)
		return;
	r->follow = true;
	for (int st = 0; st < RSTREAMS; st++) {
		r->stream[st].window = WINDOW_MIN;
		r->stream[st].interval = is_hot(c, r) ? c->pace.log_hot : c->pace.log_min;
		r->stream[st].next_at = c->now;
	}
	rruns_touch(c);
}

void rlogs_final(struct cluster *c, struct rrun *r, const int64_t len[RSTREAMS])
{
	for (int st = 0; st < RSTREAMS; st++) {
		r->stream[st].final = len[st];
		r->stream[st].next_at = c->now;
	}
	rruns_touch(c);
}

void rlogs_hot(struct cluster *c, struct rrun *r)
{
	r->hot_until = c->now + 30 * (int64_t)USEC_PER_SEC;
	for (int st = 0; st < RSTREAMS; st++) {
		struct rstream *s = &r->stream[st];

		s->interval = c->pace.log_hot;
		s->next_at = earlier(s->next_at, c->now + c->pace.log_hot);
	}
	rruns_touch(c);
}

void rlogs_release(struct rrun *r)
{
	for (int st = 0; st < RSTREAMS; st++) {
		close_file(&r->stream[st]);
		free(r->stream[st].held);
	}
	events_close(r->events);
	r->events = NULL;
	if (r->spool)
		spool_close(r->spool);
	r->spool = NULL;
}
