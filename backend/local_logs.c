/*
 * The streams of a local job, from their files into the spool. The spool's length is where reading goes on, so nothing is lost or
 * repeated by a restart. Looks are quick while something comes or somebody reads, and slow down to a quarter of a second.
 */
#include "backend/local.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>

#define PACE_MIN (10 * USEC_PER_MSEC)
#define PACE_MAX (250 * USEC_PER_MSEC)
#define PACE_HOT (30 * USEC_PER_MSEC)
#define PIECE (256 * 1024)

/* Appends what is new, at most up to `limit` (-1: all); bytes, or a negative errno. */
static int64_t copy_new(struct local_job *j, enum spool_stream st, const char *path, int64_t limit)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	cleanup_free char *buf = NULL;
	int64_t total = 0;

	if (fd < 0)
		return 0;
	buf = xmalloc(PIECE);
	for (;;) {
		uint64_t at = spool_len(j->spool, st);
		size_t want = PIECE;
		ssize_t n;
		int rc;

		if (limit >= 0 && at >= (uint64_t)limit)
			break;
		if (limit >= 0 && (uint64_t)limit - at < want)
			want = (size_t)((uint64_t)limit - at);
		n = pread(fd, buf, want, (off_t)at);
		if (n <= 0)
			break;
		rc = spool_append(j->spool, st, buf, (size_t)n);
		if (rc < 0)
			return rc;
		total += n;
	}
	return total;
}

bool local_logs_complete(const struct local_job *j)
{
	return j->state == LOCAL_ENDED && j->spool && j->out_len >= 0 &&
	       spool_len(j->spool, SPOOL_OUT) >= (uint64_t)j->out_len &&
	       (j->err_len <= 0 || spool_len(j->spool, SPOOL_ERR) >= (uint64_t)j->err_len);
}

static void report(struct cluster *c, const struct local_job *j)
{
	struct crep *rep = crep_new(CREP_LOG, c);

	rep->run = j->run;
	rep->out_len = (int64_t)spool_len(j->spool, SPOOL_OUT);
	rep->err_len = (int64_t)spool_len(j->spool, SPOOL_ERR);
	inbox_post(c->ctx.replies, &rep->m);
}

void local_logs(struct cluster *c, struct local_job *j)
{
	int64_t now = clock_mono(c->ctx.clock), n, m = 0;
	struct err e = ERR_INIT;

	if (!j->spool && spool_open(c->spool_dir, j->run, &j->spool, &e) < 0) {
		log_warn("run %u: %s", j->run, e.text);
		j->look_at = now + USEC_PER_SEC;
		return;
	}
	n = copy_new(j, SPOOL_OUT, j->out, j->out_len);
	if (n >= 0 && !j->merged)
		m = copy_new(j, SPOOL_ERR, j->err, j->err_len);
	if (n < 0 || m < 0) { /* full disk: nothing is lost, it is only later */
		j->look_at = now + USEC_PER_SEC;
		return;
	}
	if (n + m > 0 || j->state == LOCAL_ENDED)
		report(c, j);
	j->pace = n + m > 0 ? PACE_MIN : j->pace * 2 < PACE_MIN ? PACE_MIN : j->pace * 2;
	if (j->pace > PACE_MAX)
		j->pace = PACE_MAX;
	if (j->hot_until > now && j->pace > PACE_HOT)
		j->pace = PACE_HOT;
	j->look_at = now + j->pace;
}
