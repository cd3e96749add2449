/*
 * The streams of a local job and its messages, from their files into the spool. The spool's length is where reading goes on, so nothing is lost or
 * repeated by a restart. A log is done when its job has ended and its file has no more, even if the record promised more (somebody
 * cut the file): then that is told first. Looks are quick while something comes or somebody reads, and slow down to a quarter of a second.
 */
#include "backend/local.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define PACE_MIN (10 * USEC_PER_MSEC)
#define PACE_MAX (250 * USEC_PER_MSEC)
#define PACE_HOT (30 * USEC_PER_MSEC)
#define PIECE ((size_t)256 * 1024)
#define LOOK_MAX (16 * (int64_t)PIECE)	/* of one stream at a time: a job may write faster than we copy, and others wait */
#define OPEN_TRIES 30			/* a second apart, for files that are there but cannot be opened */

/* What one look at a stream brought. */
struct look {
	int64_t n;	/* bytes, or a negative errno */
	bool end;	/* there is no more for now */
};

/* Appends what is new, at most up to `limit` (-1: all). */
static struct look copy_new(struct local_job *j, enum spool_stream st, const char *path, int64_t limit)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	cleanup_free char *buf = NULL;
	struct look l = { 0, false };

	if (fd < 0) {
		l.end = errno == ENOENT || errno == ENOTDIR || (limit >= 0 && (uint64_t)limit <= spool_len(j->spool, st)) ||
			++j->logs_tries > OPEN_TRIES;
		return l;
	}
	buf = xmalloc(PIECE);
	while (l.n < LOOK_MAX) {
		uint64_t at = spool_len(j->spool, st), left = limit < 0 ? PIECE : (uint64_t)limit > at ? (uint64_t)limit - at : 0;
		ssize_t n = left ? pread(fd, buf, left < PIECE ? left : PIECE, (off_t)at) : 0;
		int rc;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			l.end = true;
			break;
		}
		rc = spool_append(j->spool, st, buf, (size_t)n);
		if (rc < 0) {
			l.n = rc;
			break;
		}
		l.n += n;
	}
	return l;
}

/* A job that cut its message file and wrote it anew: what is in front of where we are differs from what we have. */
static bool rewritten(const struct events *ev, int fd)
{
	uint64_t at = events_at(ev);
	char before[EVENTS_OVERLAP];
	struct stat st;
	size_t len;

	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size == at)
		return false;
	if ((uint64_t)st.st_size < at)
		at = (uint64_t)st.st_size;
	len = at < sizeof(before) ? (size_t)at : sizeof(before);
	return pread(fd, before, len, (off_t)(at - len)) == (ssize_t)len && !events_same(ev, at, before, len);
}

static struct look copy_messages(const struct cluster *c, struct local_job *j)
{
	cleanup_free char *path = xasprintf("%s/events", j->dir), *buf = NULL;
	cleanup_close int fd = j->events_done ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct look l = { 0, false };
	struct err e = ERR_INIT;

	if (fd < 0) {
		l.end = j->events_done || errno == ENOENT;
		return l;
	}
	if (!j->events && events_open(c->spool_dir, j->run, &j->events, &e) < 0) {
		log_warn("run %u: %s", j->run, e.text);
		return l;
	}
	if (rewritten(j->events, fd) && events_restart(j->events) < 0)
		return l;
	buf = xmalloc(PIECE);
	while (l.n < LOOK_MAX && l.n >= 0) {
		uint64_t at = events_at(j->events), left = PIECE;
		ssize_t n;
		int rc;

		if (j->events_len >= 0)
			left = (uint64_t)j->events_len > at ? (uint64_t)j->events_len - at : 0;
		n = left ? pread(fd, buf, left < PIECE ? left : PIECE, (off_t)at) : 0;
		if (n < 0 && errno == EINTR)
			continue;
		l.end = n <= 0;
		if (l.end)
			break;
		rc = events_append(j->events, buf, (size_t)n);
		l.n = rc < 0 ? rc : l.n + n;
	}
	if (l.end && events_settle(j->events, false) < 0)
		l.end = false; /* a full disk: later */
	return l;
}

static void report(struct cluster *c, const struct local_job *j)
{
	struct crep *rep = crep_new(CREP_LOG, c);

	rep->run = j->run;
	rep->out_len = (int64_t)spool_len(j->spool, SPOOL_OUT);
	rep->err_len = (int64_t)spool_len(j->spool, SPOOL_ERR);
	rep->last = j->logs_done;
	rep->events_last = j->events_done;
	inbox_post(c->ctx.replies, &rep->m);
}

static int64_t missing(const struct local_job *j, enum spool_stream st, int64_t promised)
{
	int64_t here = (int64_t)spool_len(j->spool, st);

	return promised > here ? promised - here : 0;
}

/* The last line may have no newline. False: the disk is full. */
static bool messages_done(struct cluster *c, struct local_job *j)
{
	int64_t here = j->events ? (int64_t)events_at(j->events) : 0;

	if (j->events_done)
		return true;
	if (j->events && (events_settle(j->events, true) < 0 || events_sync(j->events) < 0))
		return false;
	if (j->events_len > here)
		local_event(c, j, EV_FACTS, json_pack("{s:I}", "events_missing", (json_int_t)(j->events_len - here)));
	events_close(j->events);
	j->events = NULL;
	j->events_done = true;
	return true;
}

static void done(struct cluster *c, struct local_job *j)
{
	int64_t out = missing(j, SPOOL_OUT, j->out_len), err = missing(j, SPOOL_ERR, j->err_len);

	if (out || err)
		local_event(c, j, EV_FACTS, json_pack("{s:b, s:I, s:I}", "log_incomplete", 1, "stdout_missing", (json_int_t)out,
						      "stderr_missing", (json_int_t)err));
	if (!messages_done(c, j))
		return;
	if (spool_sync(j->spool) < 0)
		log_error("run %u: its logs cannot be put on the disk", j->run);
	j->logs_done = true;
}

static void pace(struct local_job *j, int64_t now, int64_t n, bool end)
{
	j->pace = n > 0 || j->pace * 2 < PACE_MIN ? PACE_MIN : j->pace * 2;
	if (j->pace > PACE_MAX)
		j->pace = PACE_MAX;
	if (j->hot_until > now && j->pace > PACE_HOT)
		j->pace = PACE_HOT;
	j->look_at = end ? now + j->pace : now;
}

void local_logs(struct cluster *c, struct local_job *j)
{
	int64_t now = clock_mono(c->ctx.clock);
	struct look out = { 0, true }, err = { 0, true }, msg;
	struct err e = ERR_INIT;

	if (!j->spool && spool_open(c->spool_dir, j->run, &j->spool, &e) < 0) {
		log_warn("run %u: %s", j->run, e.text);
		j->look_at = now + USEC_PER_SEC;
		return;
	}
	if (local_job_begun(j))
		out = copy_new(j, SPOOL_OUT, j->out, j->out_len);
	if (j->begun && !j->merged)
		err = copy_new(j, SPOOL_ERR, j->err, j->err_len);
	msg = copy_messages(c, j);
	if (out.n < 0 || err.n < 0 || msg.n < 0 || (!out.end && !out.n) || (!err.end && !err.n) || (!msg.end && !msg.n)) {
		j->look_at = now + USEC_PER_SEC; /* full disk, no descriptors: nothing is lost, it is only later */
		return;
	}
	if (j->state == LOCAL_ENDED && out.end && err.end && msg.end)
		done(c, j);
	if (out.n + err.n + msg.n > 0 || j->logs_done)
		report(c, j);
	pace(j, now, out.n + err.n + msg.n, out.end && err.end && msg.end);
}
