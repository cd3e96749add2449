/*
 * Exit records: the line that a job leaves behind, and what it means as the end of a run. Pure.
 *
 * Invariants: a record is taken whole or not at all (`limit`, its last word, is the mark that it is whole); numbers are
 * in range after parsing; words that are not known are passed over, so that older programs read newer records. The
 * scheduler's verdict decides the class of the end, because a script may trap the signal of a limit and end with 0; the
 * record gives the code.
 */
#include "backend/sched.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define RC_MAX 255                 /* what wait(2) can tell */
#define RC_SIGNAL 128              /* a shell's $? for signal N is 128 + N (POSIX.1-2017 XCU 2.8.2) */
#define NEAR_US (2 * USEC_PER_SEC) /* the record's clock ticks in seconds, and the report took its way */
#define SIGNAL_LAST 31             /* the highest signal with a name of its own, signal(7) */

enum field {
	F_VERSION = 1 << 0,
	F_RUN = 1 << 1,
	F_ATTEMPT = 1 << 2,
	F_JOB = 1 << 3,
	F_RC = 1 << 4,
	F_LIMIT = 1 << 5,
	F_NEEDED = F_VERSION | F_RUN | F_ATTEMPT | F_JOB | F_RC | F_LIMIT,
};

/* "-" is -1; anything but digits up to `max` is false. */
static bool number(const char *s, int64_t max, int64_t *out)
{
	char *end;
	long long v;

	if (strcmp(s, "-") == 0) {
		*out = -1;
		return true;
	}
	if (*s < '0' || *s > '9')
		return false;
	errno = 0;
	v = strtoll(s, &end, 10);
	if (errno || *end || v > max)
		return false;
	*out = v;
	return true;
}

static bool word(const char *s, char *out, size_t size)
{
	size_t len = strlen(s);

	if (strcmp(s, "-") == 0)
		len = 0;
	if (len >= size)
		return false;
	memcpy(out, s, len);
	out[len] = '\0';
	return true;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* %XX stands for a byte; what is too long is cut. */
static void sentence(const char *s, char *out, size_t size)
{
	size_t n = 0;

	for (; *s && strcmp(s, "-") != 0 && n + 1 < size; s++) {
		bool coded = *s == '%' && hex(s[1]) >= 0 && hex(s[2]) >= 0;

		out[n++] = coded ? (char)(hex(s[1]) * 16 + hex(s[2])) : *s;
		s += coded ? 2 : 0;
	}
	out[n] = '\0';
}

/* A number that must be there, from 0 or 1 on. */
static bool need(const char *s, int64_t min, int64_t max, int64_t *out)
{
	return number(s, max, out) && *out >= min;
}

static bool take_number(struct exit_record *r, const char *key, const char *value, unsigned *seen)
{
	int64_t n;

	if (strcmp(key, "v") == 0) {
		*seen |= F_VERSION;
		return need(value, 1, INT_MAX, &n) && ((r->version = (int)n), true);
	}
	if (strcmp(key, "run") == 0) {
		*seen |= F_RUN;
		return need(value, 1, UINT32_MAX, &n) && ((r->run = (uint32_t)n), true);
	}
	if (strcmp(key, "attempt") == 0) {
		*seen |= F_ATTEMPT;
		return need(value, 1, UINT32_MAX, &n) && ((r->attempt = (uint32_t)n), true);
	}
	if (strcmp(key, "rc") == 0) {
		*seen |= F_RC;
		return number(value, RC_MAX, &n) && ((r->rc = (int)n), true);
	}
	if (strcmp(key, "manifest") == 0)
		return need(value, 0, 1, &n) && ((r->manifest = n == 1), true);
	return true;
}

static bool take(struct exit_record *r, const char *key, const char *value, unsigned *seen)
{
	struct {
		const char *key;
		int64_t *to;
		int64_t max;
	} wide[] = {
		{ "start", &r->start, INT64_MAX / USEC_PER_SEC },
		{ "end", &r->end, INT64_MAX / USEC_PER_SEC },
		{ "out", &r->out_len, INT64_MAX },
		{ "err", &r->err_len, INT64_MAX },
		{ "events", &r->events_len, INT64_MAX },
		{ "maxrss", &r->maxrss, INT64_MAX },
		{ "cpu", &r->cpu_us, INT64_MAX },
		{ "restart", &r->restart, INT32_MAX },
		{ "nodes", &r->nodes, INT32_MAX },
		{ "cpus", &r->cpus, INT32_MAX },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wide); i++)
		if (strcmp(wide[i].key, key) == 0)
			return number(value, wide[i].max, wide[i].to);
	if (strcmp(key, "job") == 0) {
		*seen |= F_JOB;
		return word(value, r->job_id, sizeof(r->job_id));
	}
	if (strcmp(key, "sig") == 0)
		return word(value, r->sig, sizeof(r->sig));
	if (strcmp(key, "fault") == 0)
		return word(value, r->fault, sizeof(r->fault));
	if (strcmp(key, "host") == 0)
		return word(value, r->host, sizeof(r->host));
	if (strcmp(key, "reason") == 0) {
		sentence(value, r->reason, sizeof(r->reason));
		return true;
	}
	if (strcmp(key, "limit") == 0) {
		*seen |= F_LIMIT;
		return word(value, r->limit, sizeof(r->limit));
	}
	return take_number(r, key, value, seen);
}

static bool take_words(struct exit_record *r, char *line, unsigned *seen)
{
	char *next;

	for (char *w = line; w; w = next) {
		char *eq;

		next = strchr(w, ' ');
		if (next)
			*next++ = '\0';
		if (!*w)
			continue;
		eq = strchr(w, '=');
		if (!eq)
			continue;
		*eq = '\0';
		if (!take(r, w, eq + 1, seen))
			return false;
	}
	return true;
}

int exit_record_parse(const char *text, struct exit_record *out, struct err *e)
{
	size_t len = strcspn(text, "\n");
	cleanup_free char *line = xstrndup(text, len);
	struct exit_record r = { .rc = -1, .out_len = -1, .err_len = -1, .events_len = -1, .maxrss = -1, .cpu_us = -1 };
	unsigned seen = 0;

	if (text[len] && text[len + 1])
		return err_set(e, -EPROTO, "an exit record has more than one line");
	if (!take_words(&r, line, &seen))
		return err_set(e, -EPROTO, "an exit record holds a value that makes no sense: %.200s", text);
	if ((seen & F_NEEDED) != F_NEEDED)
		return err_set(e, -EPROTO, "an exit record is not whole: %.200s", text);
	if (r.start < 0)
		r.start = 0;
	if (r.end < 0)
		r.end = 0;
	if (r.restart < 0)
		r.restart = 0;
	if (r.nodes < 0)
		r.nodes = 0;
	if (r.cpus < 0)
		r.cpus = 0;
	*out = r;
	return 0;
}

/* Names and numbers of Linux on x86 and ARM, signal(7). */
static const char *signal_name(int n)
{
	static const char *const names[SIGNAL_LAST + 1] = {
		[1] = "SIGHUP",     [2] = "SIGINT",   [3] = "SIGQUIT",   [4] = "SIGILL",   [5] = "SIGTRAP",
		[6] = "SIGABRT",    [7] = "SIGBUS",   [8] = "SIGFPE",    [9] = "SIGKILL",  [10] = "SIGUSR1",
		[11] = "SIGSEGV",   [12] = "SIGUSR2", [13] = "SIGPIPE",  [14] = "SIGALRM", [15] = "SIGTERM",
		[16] = "SIGSTKFLT", [17] = "SIGCHLD", [18] = "SIGCONT",  [19] = "SIGSTOP", [20] = "SIGTSTP",
		[21] = "SIGTTIN",   [22] = "SIGTTOU", [23] = "SIGURG",   [24] = "SIGXCPU", [25] = "SIGXFSZ",
		[26] = "SIGVTALRM", [27] = "SIGPROF", [28] = "SIGWINCH", [29] = "SIGIO",   [30] = "SIGPWR",
		[31] = "SIGSYS",
	};

	return n > 0 && n <= SIGNAL_LAST ? names[n] : NULL;
}

static int signal_of(int rc)
{
	return rc > RC_SIGNAL && signal_name(rc - RC_SIGNAL) ? rc - RC_SIGNAL : 0;
}

static bool was_told_to_end(const struct exit_record *r)
{
	int sig = signal_of(r->rc);

	if (sig == 15 || sig == 2 || sig == 9)
		return true;
	return strcmp(r->sig, "TERM") == 0 || strcmp(r->sig, "INT") == 0 || strcmp(r->sig, "KILL") == 0;
}

static const char *class_of(const struct exit_record *r, const char *sched_status, bool cancel_wanted)
{
	static const char *const verdicts[] = { "timeout", "cancelled", "out_of_memory", "node_failed", "preempted" };

	/*
	 * It had ended by itself, unhurt, before its node was lost or wanted. A controller that was killed while the
	 * job ran and restarted may call it CANCELLED, too.
	 */
	if (sched_status && r->rc == 0 && !r->sig[0] && !cancel_wanted &&
	    (strcmp(sched_status, "node_failed") == 0 || strcmp(sched_status, "preempted") == 0 ||
	     strcmp(sched_status, "cancelled") == 0))
		return "succeeded";
	for (size_t i = 0; sched_status && i < ARRAY_SIZE(verdicts); i++)
		if (strcmp(verdicts[i], sched_status) == 0)
			return verdicts[i];
	if (strcmp(r->limit, "time") == 0)
		return "timeout";
	if (strcmp(r->limit, "mem") == 0)
		return "out_of_memory";
	if ((cancel_wanted || strcmp(r->limit, "session") == 0) && was_told_to_end(r))
		return "cancelled";
	return r->rc == 0 ? "succeeded" : "failed";
}

static void add_duration(struct strbuf *out, int64_t s)
{
	if (s >= 86400)
		strbuf_addf(out, "%lld-", (long long)(s / 86400));
	strbuf_addf(out, "%02d:%02d:%02d", (int)(s % 86400 / 3600), (int)(s % 3600 / 60), (int)(s % 60));
}

static const char *fault_text(const char *fault)
{
	static const struct {
		const char *fault, *text;
	} texts[] = {
		{ "write",
		  "could not be started: its directories or files could not be written where it ran (no space or "
		  "quota left, or read-only?)" },
		{ "workdir", "could not be started: its working directory could not be entered" },
		{ "input", "could not be started: its input file could not be read" },
		{ "secret_env", "could not be started: a secret could not be read" },
		{ "environment", "was not started" },
		{ "ray", "ended without a result" },
		{ "spark", "ended without a result" },
		{ "refused", "was not started: it had been started before, or taken back" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (strcmp(texts[i].fault, fault) == 0)
			return texts[i].text;
	return "could not be started";
}

/* Its cluster could not be had: before the command began the reason is the job's own and has the cluster's name in
 * front (launchers/inner_keeper.c, _inner_fail); later it is the keeper's. */
static bool never_began(const struct exit_record *r)
{
	return (strcmp(r->fault, "ray") == 0 && strncmp(r->reason, "Ray: ", 5) == 0) ||
	       (strcmp(r->fault, "spark") == 0 && strncmp(r->reason, "Spark: ", 7) == 0);
}

/* `sure`: why it was killed is known, and need not be guessed. */
static void add_code(struct strbuf *out, const struct exit_record *r, bool sure)
{
	int rc = r->rc, sig = signal_of(rc);

	if ((strcmp(r->fault, "refused") == 0 && r->reason[0]) || never_began(r))
		strbuf_addf(out, "was not started: %s", r->reason);
	else if (r->fault[0])
		strbuf_addf(out, "%s%s%s", fault_text(r->fault), r->reason[0] ? ": " : "", r->reason);
	else if (rc < 0)
		strbuf_addstr(out, "ended without a code");
	else if (sig == 9 && sure)
		strbuf_addf(out, "it took SIGKILL (%d) to end it", rc);
	else if (sig == 9)
		strbuf_addf(out, "killed by SIGKILL (%d): the kernel's out-of-memory killer or a kill -9", rc);
	else if (sig)
		strbuf_addf(out, "killed by %s (%d)", signal_name(sig), rc);
	else if (rc == 126)
		strbuf_addstr(out, "exited with code 126: the command is there but could not be executed");
	else if (rc == 127)
		strbuf_addstr(out, "exited with code 127: command not found");
	else
		strbuf_addf(out, "exited with code %d", rc);
}

static void add_why(struct strbuf *out, const struct exit_record *r, const char *status, bool cancel_wanted)
{
	if (strcmp(status, "timeout") == 0) {
		strbuf_addstr(out, "reached its time limit");
		if (r->start && r->end > r->start) {
			strbuf_addstr(out, " after ");
			add_duration(out, r->end - r->start);
		}
	} else if (strcmp(status, "out_of_memory") == 0) {
		strbuf_addstr(out, "used more memory than it was given");
		if (r->maxrss > 0)
			strbuf_addf(out, " (its peak was %lld MiB)", (long long)(r->maxrss >> 20));
	} else if (strcmp(status, "node_failed") == 0) {
		strbuf_addstr(out, "a node that it ran on failed");
	} else if (strcmp(status, "preempted") == 0) {
		strbuf_addstr(out, "preempted: the scheduler gave its nodes to another job");
	} else if (strcmp(status, "cancelled") == 0) {
		strbuf_addstr(out, cancel_wanted                      ? "cancelled"
				   : strcmp(r->limit, "session") == 0 ? "its session ended while it ran"
								      : EXIT_CANCELLED_OUTSIDE);
	} else {
		add_code(out, r, false);
		return;
	}
	if (r->rc >= 0 || r->fault[0]) {
		strbuf_addstr(out, "; ");
		add_code(out, r, strcmp(status, "out_of_memory") != 0);
	}
}

static void put_int(json_t *o, const char *key, int64_t v, int64_t min)
{
	if (v >= min)
		(void)json_object_set_new(o, key, json_integer(v));
}

/* Records count whole seconds. A report that comes at once knows the time better, and an end must not come before its
 * beginning. */
static int64_t end_time(const struct exit_record *r, int64_t now)
{
	int64_t end = r->end * USEC_PER_SEC;

	return r->end && now - end < NEAR_US && end - now < NEAR_US ? now : end;
}

struct event *exit_record_event(const struct exit_record *r, const char *sched_status, bool cancel_wanted, int64_t now)
{
	const char *status = class_of(r, sched_status, cancel_wanted);
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	json_t *o = json_object();

	add_why(&why, r, status, cancel_wanted);
	put_int(o, "attempt", r->attempt, 1);
	(void)json_object_set_new(o, "status", json_string(status));
	(void)json_object_set_new(o, "why", json_string(why.buf));
	(void)json_object_set_new(o, "source", json_string("exit record"));
	put_int(o, "exit_code", r->rc, 0);
	put_int(o, "signal", signal_of(r->rc), 1);
	put_int(o, "start", r->start * USEC_PER_SEC, 1);
	put_int(o, "end", end_time(r, now), 1);
	put_int(o, "out_len", r->out_len, 0);
	put_int(o, "err_len", r->err_len, 0);
	put_int(o, "events_len", r->events_len, 0);
	put_int(o, "restarts", r->restart, 1);
	put_int(o, "node_count", r->nodes, 1);
	put_int(o, "cpus", r->cpus, 1);
	if (r->nodes < 2) { /* the wrapper looks at its own node only */
		put_int(o, "max_rss", r->maxrss, 0);
		put_int(o, "cpu_us", r->cpu_us, 0);
	}
	(void)json_object_set_new(o, "manifest", json_boolean(r->manifest));
	/* json_string gives NULL for what is not UTF-8, and set_new then does nothing */
	if (r->host[0])
		(void)json_object_set_new(o, "host", json_string(r->host));
	return event_new(EV_END, now, o);
}
