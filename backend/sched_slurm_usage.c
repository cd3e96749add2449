/*
 * What ended jobs used, where the cluster keeps accounts: one sacct for many jobs.
 *
 * Invariants: a job is ours by its token, as in the poll; nothing is said of a job whose steps have not all ended for
 * sacct, which lags behind; what was not measured (a job shorter than the sampling period has no MaxRSS) is left out.
 * sacct prints "1.50G", "214380K" or plain bytes, and [DAYS-][HOURS:]MINUTES:SECONDS[.FRACTION].
 */
#include "backend/sched_slurm.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define USAGE_FIELDS 5 /* id state cpu maxrss, then comment and working directory */

void slurm_usage(const struct sched_run *runs, size_t n, struct strbuf *code)
{
	strbuf_addstr(code, "sl_usage ");
	for (size_t i = 0; i < n; i++) {
		strbuf_addstr(code, i ? "," : "");
		strbuf_add(code, runs[i].job_id, strspn(runs[i].job_id, "0123456789"));
	}
	strbuf_addch(code, '\n');
}

/* Digits from *s on, which is moved behind them; -1: none, or too many. */
static int64_t take_digits(const char **s)
{
	size_t len = strspn(*s, "0123456789");
	cleanup_free char *digits = xstrndup(*s, len);

	*s += len;
	return slurm_number(digits, -1);
}

/* The first three digits behind the point, "" is 0. */
static int64_t take_thousandths(const char **s)
{
	int64_t n = 0;

	if (**s != '.')
		return 0;
	(*s)++;
	for (int i = 0; i < 3; i++) {
		n *= 10;
		if (**s >= '0' && **s <= '9')
			n += *(*s)++ - '0';
	}
	*s += strspn(*s, "0123456789");
	return n;
}

int64_t slurm_bytes(const char *s)
{
	static const char units[] = "KMGTP";
	int64_t n = take_digits(&s), thousandths = take_thousandths(&s), unit;
	const char *u = *s ? strchr(units, *s) : NULL;

	if (n < 0 || (*s && (!u || s[1])))
		return -1;
	unit = u ? INT64_C(1) << (10 * (u - units + 1)) : 1;
	return n < INT64_MAX / unit - 1 ? n * unit + unit / 1000 * thousandths + unit % 1000 * thousandths / 1000 : -1;
}

int64_t slurm_cpu_us(const char *s)
{
	int64_t part, sum = 0, days = 0;

	if (!*s)
		return -1;
	for (;;) {
		part = take_digits(&s);
		if (part < 0 || part > 1000000000)
			return -1;
		if (*s == '-') {
			if (part > 1000000)
				return -1;
			days = part;
			s++;
			continue;
		}
		sum = sum * 60 + part;
		if (*s != ':')
			break;
		s++;
		if (sum > 1000000000)
			return -1;
	}
	part = take_thousandths(&s);
	return *s ? -1 : (days * 86400 + sum) * USEC_PER_SEC + part * USEC_PER_MSEC;
}

struct reader {
	struct sched_usage u;
	char id[64], token[256];
	bool open;     /* a job is being read */
	bool measured; /* it has steps */
	sched_usage_cb cb;
	void *arg;
};

static void finish_job(struct reader *in)
{
	if (in->open && in->measured)
		in->cb(in->arg, &in->u);
	in->open = false;
}

static void begin_job(struct reader *in, char **f)
{
	char buf[256];
	const char *token = slurm_find_token(f[4], buf, sizeof(buf));

	finish_job(in);
	if (!*token || strlen(token) >= sizeof(in->token) || strlen(f[0]) >= sizeof(in->id))
		return;
	memcpy(in->token, token, strlen(token) + 1);
	memcpy(in->id, f[0], strlen(f[0]) + 1);
	in->u = (struct sched_usage){
		.job_id = in->id, .token = in->token, .max_rss = -1, .cpu_us = slurm_cpu_us(f[2])
	};
	in->u.ended = slurm_status_ended(slurm_status(f[1]));
	in->open = true;
	in->measured = false;
}

static void take_step(struct reader *in, char **f)
{
	int64_t rss = slurm_bytes(f[3]);

	in->measured = true;
	in->u.ended &= slurm_status_ended(slurm_status(f[1]));
	if (rss > in->u.max_rss && rss > 0)
		in->u.max_rss = rss;
}

/* The job's own line comes first, its steps (ID.batch, ID.extern, ID.0) follow. */
static void take_line(struct reader *in, char *line)
{
	char *f[USAGE_FIELDS];
	size_t len;

	if (slurm_fields(line, f, USAGE_FIELDS) != USAGE_FIELDS)
		return;
	len = strspn(f[0], "0123456789");
	if (len && !f[0][len])
		begin_job(in, f);
	else if (len && f[0][len] == '.' && in->open && strlen(in->id) == len && memcmp(in->id, f[0], len) == 0)
		take_step(in, f);
}

int slurm_usage_result(int rc, const char *out, const char *err, sched_usage_cb cb, void *arg, struct err *e)
{
	struct reader in = { .cb = cb, .arg = arg };
	cleanup_free char *copy = xstrdup(out);
	char *pos = copy, *line;

	if (rc == 127 || strstr(err, "accounting storage is disabled"))
		return slurm_error(e, -ENOTSUP, "sacct", err);
	if (rc != 0)
		return slurm_error(e, -EAGAIN, "sacct", rc == 124 ? "no answer in time" : err);
	while ((line = slurm_line(&pos)))
		take_line(&in, line);
	finish_job(&in);
	return 0;
}
