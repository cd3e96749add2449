/*
 * What became of a job that the poll does not explain: sl_verify gathers witnesses in one request, this file judges
 * them.
 *
 * Invariants: no verdict without an answer of the controller (NULL: ask again); an exit record gives the code, the
 * scheduler's state the class; "lost" only after the attempt was made void, so that it can never start; a job that had
 * started never becomes "lost". The witnesses' format is private to this file and sched_slurm_prelude.c: lines of "KEY
 * VALUE", the last one `end`.
 */
#include "backend/sched_slurm.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

/* Between the controller's clock and the file server's. */
#define CLOCK_SLACK_S 300
#define CODE_NO_DIRECTORY 66 /* launchers/wrapper.c */
#define SACCT_FIELDS 9       /* id state code derived start end nodes maxrss, then comment and working directory */

/* What the scheduler says about the job. Strings are borrowed from the witness' text. */
struct verdict {
	bool known;
	const char *state, *reason, *nodes;
	int code, sig; /* of ExitCode=CODE:SIGNAL */
	int64_t restarts, start, end, node_count, cpus;
	const char *source;
};

struct witness {
	bool whole, asked; /* asked: the controller answered */
	char *error;
	struct verdict job, acct;
	bool has_record;
	struct exit_record record;
	const char *started; /* job id, "void", or NULL */
	bool cancelled, requeued, start_refused;
	int64_t out_len, err_len, claimed, boot, maxrss;
};

void slurm_verify(const struct sched_run *r, struct strbuf *code)
{
	cleanup_strbuf struct strbuf token = STRBUF_INIT, record = STRBUF_INIT;

	if (slurm_is_step(r)) {
		slurm_step_verify(r, code);
		return;
	}
	strbuf_addf(&record, "%s/%s/ends/%u.a%u", r->directory, r->uuid, r->num, r->attempt);
	slurm_token(&token, r);
	strbuf_addstr(code, "sl_verify ");
	slurm_attempt_dir(code, r->directory, r);
	quote_sh_path(code, record.buf);
	strbuf_addch(code, ' ');
	slurm_arg(code, token.buf);
	slurm_arg(code, r->job_id ? r->job_id : "0");
	strbuf_addf(code, "%d\n", r->job && r->job->requeue);
}

/* --- reading --- */

static void take_exit(struct verdict *v, const char *text)
{
	cleanup_free char *copy = xstrndup(text, strcspn(text, " "));
	char *colon = strchr(copy, ':');

	if (!colon)
		return;
	*colon = '\0';
	v->code = (int)slurm_number(copy, -1);
	v->sig = (int)slurm_number(colon + 1, -1);
}

/* The value of KEY= in a line of scontrol, cut at the next blank. `key` begins the line or follows a blank. */
static char *pick(char *line, const char *key)
{
	size_t len = strlen(key);

	for (char *p = line; p; p = strchr(p, ' ')) {
		p += strspn(p, " ");
		if (strncmp(p, key, len) == 0 && p[len] == '=')
			return p + len + 1;
	}
	return NULL;
}

static int64_t pick_number(char *line, const char *key, int64_t other)
{
	char *v = pick(line, key);
	cleanup_free char *copy = v ? xstrndup(v, strcspn(v, " ")) : NULL;

	return copy ? slurm_number(copy, other) : other;
}

static const char *cut(char *s)
{
	if (s)
		s[strcspn(s, " ")] = '\0';
	return s && strcmp(s, "(null)") != 0 ? s : NULL;
}

/* A line of `scontrol show job`. Only lines whose first key is known: names and comments are free text. */
static void take_job(struct verdict *v, char *line)
{
	char *reason;

	line += strspn(line, " ");
	if (strncmp(line, "JobState=", 9) == 0 && !v->state) {
		reason = pick(line, "Reason");
		v->state = cut(pick(line, "JobState"));
		v->reason = cut(reason);
	} else if (strncmp(line, "Requeue=", 8) == 0) {
		char *code = pick(line, "ExitCode");

		v->restarts = pick_number(line, "Restarts", 0);
		if (code)
			take_exit(v, code);
	} else if (strncmp(line, "StartTime=", 10) == 0) {
		v->start = pick_number(line, "StartTime", 0);
		v->end = pick_number(line, "EndTime", 0);
	} else if (strncmp(line, "NodeList=", 9) == 0) {
		v->nodes = cut(pick(line, "NodeList"));
	} else if (strncmp(line, "NumNodes=", 9) == 0) {
		v->node_count = pick_number(line, "NumNodes", 0);
		v->cpus = pick_number(line, "NumCPUs", 0);
	}
}

/* The job's own line is the first; MaxRSS is on its steps' lines (ID.batch, ID.0), whose maximum counts. */
static void take_sacct(struct witness *w, const struct sched_run *r, const char *token, char *line)
{
	char *f[SACCT_FIELDS], buf[256];
	const char *id = r->job_id ? r->job_id : "";
	size_t len = strlen(id);
	int64_t rss;

	if (slurm_fields(line, f, SACCT_FIELDS) != SACCT_FIELDS || strncmp(f[0], id, len) != 0)
		return;
	if (f[0][len] == '.' && w->acct.known) {
		rss = slurm_bytes(f[7]);
		if (rss > w->maxrss)
			w->maxrss = rss;
		return;
	}
	if (f[0][len] || strcmp(slurm_find_token(f[8], buf, sizeof(buf)), token) != 0)
		return;
	w->acct.known = true;
	w->acct.state = f[1];
	take_exit(&w->acct, f[2]);
	w->acct.start = slurm_number(f[4], 0);
	w->acct.end = slurm_number(f[5], 0);
	w->acct.nodes = strcmp(f[6], "None assigned") == 0 ? NULL : f[6];
}

static void take_record(struct witness *w, const struct sched_run *r, const char *text)
{
	struct exit_record rec;

	if (exit_record_parse(text, &rec, NULL) == 0 && rec.run == r->num && rec.attempt == r->attempt) {
		w->record = rec;
		w->has_record = true;
	}
}

/* "EPOCH job ID: WHY", written by the guard when it would not start the job. */
static bool refuses(const char *line, const char *job_id)
{
	const char *p = strstr(line, "job ");
	size_t len = job_id ? strlen(job_id) : 0;

	return p && len && strncmp(p + 4, job_id, len) == 0 && p[4 + len] == ':';
}

static void take_line(struct witness *w, const struct sched_run *r, const char *token, char *line)
{
	char *v;

	if ((v = slurm_value(line, "queue-rc")))
		w->asked = slurm_number(v, 1) == 0;
	else if ((v = slurm_value(line, "job-rc")))
		w->asked &= strcmp(v, "unreachable") != 0;
	else if ((v = slurm_value(line, "job")))
		take_job(&w->job, v);
	else if ((v = slurm_value(line, "sacct")))
		take_sacct(w, r, token, v);
	else if ((v = slurm_value(line, "record")))
		take_record(w, r, v);
	else if ((v = slurm_value(line, "started")))
		w->started = v;
	else if ((v = slurm_value(line, "refused")))
		w->start_refused |= refuses(v, r->job_id);
	else if (slurm_value(line, "cancelled"))
		w->cancelled = true;
	else if (slurm_value(line, "requeued"))
		w->requeued = true;
	else if ((v = slurm_value(line, "stdout")))
		w->out_len = slurm_number(v, -1);
	else if ((v = slurm_value(line, "stderr")))
		w->err_len = slurm_number(v, -1);
	else if ((v = slurm_value(line, "claimed")))
		w->claimed = slurm_number(v, 0);
	else if ((v = slurm_value(line, "boot")))
		w->boot = slurm_number(v, 0);
	else if (strcmp(line, "end") == 0)
		w->whole = true;
}

static void read_witness(struct witness *w, const struct sched_run *r, char *text)
{
	cleanup_strbuf struct strbuf token = STRBUF_INIT;
	struct verdict none = { .code = -1, .sig = -1 };
	char *line;

	slurm_token(&token, r);
	*w = (struct witness){ .job = none, .acct = none, .out_len = -1, .err_len = -1 };
	w->job.source = "scontrol";
	w->acct.source = "sacct";
	while ((line = slurm_line(&text)))
		take_line(w, r, token.buf, line);
	w->job.known = w->job.state != NULL;
}

/* --- judging --- */

static json_t *members(const struct sched_run *r, const char *source, const char *why)
{
	json_t *o = json_object();

	(void)json_object_set_new(o, "attempt", json_integer(r->attempt));
	slurm_put(o, "source", source);
	slurm_put(o, "why", why);
	return o;
}

static void put_time(json_t *o, const char *key, int64_t s)
{
	if (s > 0 && s < INT64_MAX / USEC_PER_SEC)
		(void)json_object_set_new(o, key, json_integer(s * USEC_PER_SEC));
}

static void put_count(json_t *o, const char *key, int64_t n)
{
	if (n > 0 && !json_object_get(o, key))
		(void)json_object_set_new(o, key, json_integer(n));
}

static void put_given(json_t *o, const struct verdict *v)
{
	slurm_put(o, "nodes", v->nodes);
	put_count(o, "node_count", v->node_count);
	put_count(o, "cpus", v->cpus);
}

static bool ran(const struct witness *w)
{
	return w->started && strcmp(w->started, "void") != 0;
}

/* The job was started again after it had written its record. */
static bool is_stale(const struct witness *w)
{
	return w->has_record && w->job.known && w->record.restart < w->job.restarts;
}

static struct event *lost(const struct sched_run *r, const char *why, int64_t now)
{
	return event_new(EV_LOST, now, members(r, "squeue", why));
}

/* An end that no exit record tells of. */
static struct event *end(const struct sched_run *r, const struct witness *w, const struct verdict *v,
			 const char *status, const char *why, int64_t now)
{
	json_t *o = members(r, v->source ? v->source : "squeue", why);
	int64_t out_len = ran(w) ? w->out_len : 0, err_len = ran(w) ? w->err_len : 0;

	slurm_put(o, "status", status);
	if (ran(w)) {
		put_given(o, v);
		put_count(o, "restarts", v->restarts);
	}
	if (ran(w) && v->code >= 0 && v->code <= 255 && (v->code > 0 || v->sig == 0) &&
	    (v->code > 0 || strcmp(status, "succeeded") == 0))
		(void)json_object_set_new(o, "exit_code", json_integer(v->code));
	if (v->sig > 0 && v->sig < 128 && v->sig != 53) /* 53 is no signal: the launch failed */
		(void)json_object_set_new(o, "signal", json_integer(v->sig));
	if (!ran(w))
		(void)json_object_set_new(o, "events_len", json_integer(0)); /* nobody waits for messages */
	if (ran(w))
		put_time(o, "start", v->start); /* Slurm gives cancelled jobs a start, too */
	put_time(o, "end", v->end);
	if (out_len >= 0)
		(void)json_object_set_new(o, "out_len", json_integer(out_len));
	if (err_len >= 0)
		(void)json_object_set_new(o, "err_len", json_integer(err_len));
	if (w->maxrss > 0)
		(void)json_object_set_new(o, "max_rss", json_integer(w->maxrss));
	(void)json_object_set_new(o, "manifest", json_false());
	return event_new(EV_END, now, o);
}

/* The record's code with the scheduler's class; members that only the scheduler knows are added. */
static struct event *end_by_record(const struct witness *w, const struct verdict *v, const char *status, int64_t now)
{
	struct event *ev = exit_record_event(&w->record, status, w->cancelled, now);

	put_given(ev->data, v);
	if (w->maxrss > 0 && !json_object_get(ev->data, "max_rss"))
		(void)json_object_set_new(ev->data, "max_rss", json_integer(w->maxrss));
	return ev;
}

static void add_why(struct strbuf *why, const struct witness *w, const struct verdict *v, const char *status)
{
	static const struct {
		const char *status, *text;
	} texts[] = {
		{ "cancelled", "cancelled" },
		{ "timeout", "reached its time limit" },
		{ "out_of_memory", "used more memory than it was given" },
		{ "node_failed", "a node that it ran on failed" },
		{ "preempted", "preempted: the scheduler gave its nodes to another job" },
	};

	if (strcmp(status, "cancelled") == 0 && !w->cancelled)
		strbuf_addstr(why, EXIT_CANCELLED_OUTSIDE);
	for (size_t i = 0; i < ARRAY_SIZE(texts) && !why->len; i++)
		if (strcmp(texts[i].status, status) == 0)
			strbuf_addstr(why, texts[i].text);
	if (strcmp(status, "cancelled") == 0 && !ran(w))
		strbuf_addstr(why, " before it started");
	if (strcmp(status, "cancelled") == 0 && (v->sig == SIGKILL || v->code == 128 + SIGKILL))
		strbuf_addstr(why, "; it took SIGKILL to end it");
	if (why->len)
		;
	else if (v->sig == 53)
		strbuf_addstr(
			why,
			"could not be started: its output file or working directory is missing or cannot be written");
	else if (!ran(w) && v->code == CODE_NO_DIRECTORY)
		strbuf_addstr(
			why,
			"could not be started: the node cannot enter the run's control directory (is the cluster's "
			"`directory` on a file system that login and compute nodes share?)");
	else if (v->sig > 0)
		strbuf_addf(why, "killed by signal %d", v->sig);
	else if (!ran(w))
		strbuf_addf(why, "ended with code %d before the job's command could begin", v->code);
	else
		strbuf_addf(why, "exited with code %d", v->code);
	strbuf_addf(why, "; the scheduler says %s", v->state);
	if (v->reason && strcmp(v->reason, "None") != 0)
		strbuf_addf(why, " (%s)", v->reason);
	strbuf_addstr(why, ran(w) ? ", and the job left no exit record" : "");
}

static const char second_start[] =
	"requeued by the scheduler after it had started (a node failed, somebody asked, or the controller forgot "
	"the start); slurmray does not start a job twice unless the spec says requeue=true";

/* The guard ends with code 0 when it refuses, so COMPLETED without a record is no success by itself. */
static struct event *completed_without_record(const struct sched_run *r, const struct witness *w,
					      const struct verdict *v, int64_t now)
{
	if (!ran(w) && w->cancelled)
		return end(r, w, v, "cancelled", "cancelled before it started", now);
	if (!ran(w))
		return lost(r, "the scheduler ended the job before its script could begin", now);
	if (w->start_refused || v->restarts > 0)
		return end(r, w,
			   &(struct verdict){
				   .code = -1, .sig = -1, .source = v->source, .start = v->start, .end = v->end },
			   "node_failed", second_start, now);
	return end(r, w, v, v->code == 0 && v->sig <= 0 ? "succeeded" : "failed",
		   "the scheduler says COMPLETED; the job left no exit record", now);
}

/* By what cancel sends: a job that was only signalled is FAILED for Slurm. */
static bool was_stopped(const struct verdict *v)
{
	return v->sig == SIGTERM || v->sig == SIGKILL || v->code == 128 + SIGTERM || v->code == 128 + SIGKILL;
}

static struct event *ended(const struct sched_run *r, const struct witness *w, const struct verdict *v,
			   const char *status, int64_t now)
{
	cleanup_strbuf struct strbuf why = STRBUF_INIT;

	if (w->has_record)
		return end_by_record(w, v, status, now);
	if (strcmp(status, "succeeded") == 0)
		return completed_without_record(r, w, v, now);
	if (w->cancelled && (!ran(w) || (strcmp(status, "failed") == 0 && was_stopped(v))))
		status = "cancelled";
	add_why(&why, w, v, status);
	return end(r, w, v, status, why.buf, now);
}

static struct event *requeued(const struct sched_run *r, const struct witness *w, int64_t now)
{
	struct verdict v = { .code = -1, .sig = -1, .source = w->job.source };
	struct event *ev;

	if (!w->has_record)
		return end(r, w, &v, "node_failed", second_start, now);
	if (w->record.rc == 0 && !w->record.sig[0])
		return exit_record_event(&w->record, NULL, false, now);
	ev = exit_record_event(&w->record, "node_failed", false, now); /* the requeue's TERM, not the job's own end */
	slurm_put(ev->data, "why", second_start);
	return ev;
}

static struct event *alive(const struct sched_run *r, const struct verdict *v, const char *status, int64_t now)
{
	json_t *o = members(r, v->source, NULL);
	bool pending = strcmp(status, "pending") == 0;

	slurm_put(o, "status", status);
	if (pending && v->reason && strcmp(v->reason, "None") != 0)
		slurm_put(o, "reason", v->reason);
	if (!pending)
		put_given(o, v);
	put_time(o, pending ? "est_start" : "start", v->start);
	return event_new(EV_STATE, now, o);
}

/* Nothing knows the job any more. */
static struct event *forgotten(const struct sched_run *r, const struct witness *w, int64_t now)
{
	struct verdict v = { .code = -1, .sig = -1 };

	if (w->has_record)
		return end_by_record(w, &v, NULL, now);
	if (ran(w))
		return end(
			r, w, &v, "failed",
			"ended, cause unknown: it had started, left no exit record, and the scheduler has forgotten it "
			"(killed, or its node failed)",
			now);
	if (!w->started)
		return NULL; /* the attempt could not be made void */
	if (w->cancelled)
		return end(r, w, &v, "cancelled", "cancelled before it started", now);
	if (w->boot && w->claimed && w->boot + CLOCK_SLACK_S < w->claimed)
		return end(r, w, &v, "cancelled",
			   "vanished before it started: it was in the queue, the scheduler has run all the time since "
			   "and has "
			   "forgotten it, so it was most likely cancelled by hand while nobody looked",
			   now);
	return lost(r, "the scheduler lost the job before it started", now);
}

struct event *slurm_verify_result(const struct sched_run *r, int rc, const char *out, const char *err, int64_t now)
{
	cleanup_free char *text = xstrdup(out);
	struct witness w;
	const char *status;

	(void)err;
	if (rc != 0)
		return NULL;
	read_witness(&w, r, text);
	if (!w.whole || !w.asked)
		return NULL;
	if (w.requeued)
		return requeued(r, &w, now);
	if (w.job.known) {
		status = slurm_status(w.job.state);
		if (slurm_status_ended(status)) {
			w.has_record &= !is_stale(&w);
			return ended(r, &w, &w.job, status, now);
		}
		if (w.has_record && !is_stale(&w))
			return NULL; /* on its way to its end */
		return status ? alive(r, &w.job, status, now) : NULL;
	}
	status = w.acct.known ? slurm_status(w.acct.state) : NULL;
	if (slurm_status_ended(status))
		return ended(r, &w, &w.acct, status, now);
	return forgotten(r, &w, now);
}
