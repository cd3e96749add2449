/*
 * The Slurm driver: the table of its functions, the poll, and what its parts share. Text in, text out; nothing here
 * runs a command. The parts: _prelude (shell functions), _submit, _verify, _verb, _usage, _probe.
 *
 * Invariants: every user string in the code goes through quote_sh; a word of Slurm that is not known means "alive",
 * never an end; a job is ours by its token, never by its number alone.
 */
#include "backend/sched_slurm.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TOKEN_PREFIX "slurmray:"
#define POLL_FIELDS 6 /* id state reason nodes numbers, then comment and working directory */

void slurm_arg(struct strbuf *code, const char *s)
{
	quote_sh(code, s);
	strbuf_addch(code, ' ');
}

void slurm_attempt_dir(struct strbuf *code, const char *base, const struct sched_run *r)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	strbuf_addf(&path, "%s/%s/runs/%u/a%u", base, r->uuid, r->num, r->attempt);
	quote_sh_path(code, path.buf);
	strbuf_addch(code, ' ');
}

void slurm_token(struct strbuf *out, const struct sched_run *r)
{
	if (r->token)
		strbuf_addstr(out, r->token);
	else
		strbuf_addf(out, TOKEN_PREFIX "%s/%u/a%u", r->uuid, r->num, r->attempt);
}

/* squeue(1), "Job State Codes". Flags such as COMPLETING hide the base state. REVOKED and EXPEDITING are left out:
 * alive. */
static const struct {
	const char *state, *status;
} states[] = {
	{ "PENDING", "pending" },
	{ "CONFIGURING", "pending" }, /* the nodes boot; the script has not begun */
	{ "REQUEUED", "pending" },
	{ "REQUEUE_FED", "pending" },
	{ "REQUEUE_HOLD", "pending" },
	{ "REQUEUED_CRON", "pending" },
	{ "SPECIAL_EXIT", "pending" },
	{ "RESV_DEL_HOLD", "pending" },
	{ "RUNNING", "running" },
	{ "SUSPENDED", "running" },
	{ "STOPPED", "running" },
	{ "RESIZING", "running" },
	{ "SIGNALING", "running" },
	{ "COMPLETING", "completing" },
	{ "STAGE_OUT", "completing" },
	{ "COMPLETED", "succeeded" },
	{ "FAILED", "failed" },
	{ "CANCELLED", "cancelled" },
	{ "TIMEOUT", "timeout" },
	{ "DEADLINE", "timeout" },
	{ "OUT_OF_MEMORY", "out_of_memory" },
	{ "NODE_FAIL", "node_failed" },
	{ "BOOT_FAIL", "node_failed" },
	{ "PREEMPTED", "preempted" },
};

const char *slurm_status(const char *state)
{
	size_t len = strcspn(state, " +");

	for (size_t i = 0; i < ARRAY_SIZE(states); i++)
		if (strlen(states[i].state) == len && memcmp(states[i].state, state, len) == 0)
			return states[i].status;
	return NULL;
}

bool slurm_status_ended(const char *status)
{
	return status && strcmp(status, "pending") != 0 && strcmp(status, "running") != 0 &&
	       strcmp(status, "completing") != 0;
}

char *slurm_line(char **pos)
{
	char *line = *pos, *nl;

	if (!*line)
		return NULL;
	nl = strchr(line, '\n');
	if (nl)
		*nl = '\0';
	*pos = nl ? nl + 1 : line + strlen(line);
	return line;
}

size_t slurm_fields(char *s, char **fields, size_t n)
{
	size_t i = 0;

	while (s && i < n) {
		fields[i++] = s;
		s = i < n ? strchr(s, '|') : NULL;
		if (s)
			*s++ = '\0';
	}
	return i;
}

char *slurm_value(char *line, const char *key)
{
	size_t len = strlen(key);

	return strncmp(line, key, len) == 0 && line[len] == ' ' ? line + len + 1 : NULL;
}

int64_t slurm_number(const char *s, int64_t other)
{
	char *end;
	long long v;

	if (*s < '0' || *s > '9')
		return other;
	errno = 0;
	v = strtoll(s, &end, 10);
	return errno || *end ? other : v;
}

/* "/UUID/runs/NUM/aN" at the end of a path, the directory that --chdir was given. */
static const char *token_of_dir(const char *dir, char *buf, size_t size)
{
	const char *part[5], *end = dir + strlen(dir);

	part[4] = end;
	for (int i = 3; i >= 0; i--) {
		const char *p = part[i + 1];

		while (p > dir && p[-1] != '/')
			p--;
		if (p == dir)
			return "";
		part[i] = p - 1;
	}
	if (strncmp(part[1], "/runs/", 6) != 0 || strncmp(part[3], "/a", 2) != 0 || part[1] == part[0] + 1 ||
	    slurm_number(part[3] + 2, -1) < 1)
		return "";
	for (const char *p = part[2] + 1; p < part[3]; p++)
		if (*p < '0' || *p > '9')
			return "";
	if (snprintf(buf, size, TOKEN_PREFIX "%.*s%.*s%s", (int)(part[1] - part[0] - 1), part[0] + 1,
		     (int)(part[3] - part[2]), part[2], part[3]) >= (int)size)
		return "";
	return buf;
}

const char *slurm_find_token(char *rest, char *buf, size_t size)
{
	char *bar;

	if (strncmp(rest, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) == 0) {
		rest[strcspn(rest, "| ")] = '\0';
		return rest;
	}
	bar = strrchr(rest, '|');
	return bar ? token_of_dir(bar + 1, buf, size) : "";
}

int slurm_error(struct err *e, int code, const char *what, const char *text)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;

	for (const char *p = text; *p; p++) {
		if (*p != '\n')
			strbuf_addch(&sb, *p);
		else if (p[1] && p[1] != '\n')
			strbuf_addstr(&sb, "; ");
	}
	if (!sb.len)
		strbuf_addstr(&sb, "no reason was given");
	return err_set(e, code, "%s: %.900s", what, sb.buf);
}

void slurm_put(json_t *o, const char *key, const char *s)
{
	json_t *v;

	if (!s || !*s)
		return;
	v = json_string(s);
	if (!v) {
		cleanup_free char *copy = xstrdup(s);

		for (char *p = copy; *p; p++)
			if ((unsigned char)*p >= 0x80)
				*p = '?';
		v = json_string(copy);
	}
	(void)json_object_set_new(o, key, v);
}

static void prelude(struct strbuf *out)
{
	strbuf_addstr(out, slurm_prelude);
	strbuf_addstr(out, slurm_step_prelude);
}

static void poll_code(struct strbuf *code)
{
	strbuf_addstr(code, "st_queue\n");
}

/* "123", "123_4", "123_[5-9%2]", "123+0": what sbatch had printed is the part before '_' or '+'. "123.s4" is a step. */
static bool base_id(char *id)
{
	size_t len = strspn(id, "0123456789");

	if (len && strncmp(id + len, ".s", 2) == 0)
		return true;
	if (!len || !strchr("_+", id[len]))
		return false;
	id[len] = '\0';
	return true;
}

static const char *said(const char *s)
{
	return strcmp(s, "N/A") == 0 || strcmp(s, "(null)") == 0 || strcmp(s, "None") == 0 ? "" : s;
}

/* A running job that does nothing: for what reason squeue does not say. */
static const char *stopped(const char *state)
{
	return strcmp(state, "SUSPENDED") == 0 || strcmp(state, "STOPPED") == 0
		       ? "suspended by an administrator or by the scheduler (Slurm: SUSPENDED); it goes on when they resume it"
		       : "";
}

/* "START NODES CPUS END". An element of an array counts for itself. */
static void take_numbers(char *s, struct sched_row *row)
{
	int64_t *const to[] = { &row->start, &row->node_count, &row->cpus, &row->end };

	for (size_t i = 0; i < ARRAY_SIZE(to) && s; i++) {
		char *blank = strchr(s, ' ');

		if (blank)
			*blank++ = '\0';
		*to[i] = slurm_number(s, 0);
		s = blank;
	}
}

/* "@JOB|TOKEN|NOW|TEXT" (st_rows). */
static void take_runner(char *line, sched_row_cb cb, void *arg)
{
	struct sched_row row = { .state = "", .reason = "", .nodes = "", .exit_code = -1, .exit_signal = -1 };
	char *f[4];

	if (slurm_fields(line + 1, f, ARRAY_SIZE(f)) != ARRAY_SIZE(f) || slurm_number(f[0], 0) < 1 ||
	    strncmp(f[1], TOKEN_PREFIX, strlen(TOKEN_PREFIX)) != 0)
		return;
	row.job_id = f[0];
	row.token = f[1];
	row.now = slurm_number(f[2], 0);
	row.runner = f[3];
	cb(arg, &row);
}

static void take_row(char *line, sched_row_cb cb, void *arg)
{
	char *f[POLL_FIELDS], buf[256];
	struct sched_row row = { .exit_code = -1, .exit_signal = -1 };

	if (*line == '@') {
		take_runner(line, cb, arg);
		return;
	}
	if (slurm_fields(line, f, POLL_FIELDS) != POLL_FIELDS || !base_id(f[0]))
		return;
	row.token = slurm_find_token(f[5], buf, sizeof(buf));
	if (!*row.token)
		return;
	row.job_id = f[0];
	row.state = f[1];
	row.run_status = slurm_status(f[1]);
	row.reason = row.run_status && strcmp(row.run_status, "running") == 0 ? stopped(f[1]) : said(f[2]);
	row.nodes = said(f[3]);
	take_numbers(f[4], &row);
	cb(arg, &row);
}

static int poll_result(int rc, const char *out, const char *err, sched_row_cb cb, void *arg, struct err *e)
{
	cleanup_free char *copy = NULL;
	char *pos, *line;

	if (rc == 124)
		return err_set(e, -EAGAIN, "squeue did not answer in time");
	if (rc != 0)
		return slurm_error(e, -EAGAIN, "squeue", err);
	copy = xstrdup(out);
	pos = copy;
	while ((line = slurm_line(&pos)))
		take_row(line, cb, arg);
	return 0;
}

const struct sched_ops sched_slurm_ops = {
	.name = "slurm",
	.prelude = prelude,
	.submit = slurm_submit,
	.submit_result = slurm_submit_result,
	.alone = slurm_step_alone,
	.submit_many = slurm_step_submit_many,
	.submit_answer = slurm_step_answer,
	.poll = poll_code,
	.poll_result = poll_result,
	.verify = slurm_verify,
	.verify_result = slurm_verify_result,
	.verb = slurm_verb,
	.verb_result = slurm_verb_result,
	.usage = slurm_usage,
	.usage_result = slurm_usage_result,
	.probe = slurm_probe,
	.probe_result = slurm_probe_result,
};
