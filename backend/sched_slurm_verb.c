/*
 * Verbs of ctl: the call of sl_verb and the reading of its first line (ok, gone, busy, unreachable, failed).
 *
 * Invariants: what identifies a job (comment, directories, streams) and what makes it run once (Requeue) cannot be
 * changed by `update`; the scheduler's own words go back to the user.
 */
#include "backend/sched_slurm.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

/* Keys of a spec and what scontrol(1) calls them. */
static const struct {
	const char *key, *name;
} update_names[] = {
	{ "time", "TimeLimit" },           { "name", "JobName" },
	{ "nodes", "NumNodes" },           { "constraint", "Features" },
	{ "exclude", "ExcNodeList" },      { "nodelist", "ReqNodeList" },
	{ "begin", "StartTime" },          { "mem", "MinMemoryNode" },
	{ "mem_per_cpu", "MinMemoryCPU" }, { "reservation", "ReservationName" },
};

/* scontrol takes abbreviations: "com" is the comment. */
static const char *const update_forbidden[] = { "JobId",  "JobID", "Comment", "WorkDir", "StdOut",
						"StdErr", "StdIn", "Requeue", "UserId" };

/* "KEY=VALUE" in scontrol's words. */
static int update_word(const char *arg, struct strbuf *out, struct err *e)
{
	const char *eq = strchr(arg, '=');
	size_t len = eq ? (size_t)(eq - arg) : 0;
	cleanup_free char *key = xstrndup(arg, len);
	const char *name = key;

	if (!len || !eq[1])
		return err_set(e, -EINVAL, "update: write KEY=VALUE, for example time=2:00:00");
	if (key[strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")])
		return err_set(e, -EINVAL, "update: '%s' is no key; keys are letters", key);
	for (const char *p = eq + 1; *p; p++)
		if (iscntrl((unsigned char)*p))
			return err_set(e, -EINVAL, "update: the value holds a control character");
	for (size_t i = 0; i < ARRAY_SIZE(update_names); i++)
		if (strcasecmp(update_names[i].key, key) == 0)
			name = update_names[i].name;
	for (size_t i = 0; i < ARRAY_SIZE(update_forbidden); i++)
		if (strncasecmp(update_forbidden[i], name, strlen(name)) == 0)
			return err_set(e, -EINVAL, "update: '%s' cannot be changed; slurmray needs it", key);
	strbuf_addf(out, "%s=%s", name, eq + 1);
	return 0;
}

/* "SIGUSR1", "usr1", "10" as scancel(1) takes them: a name without SIG, or a number. */
static int signal_word(const char *arg, struct strbuf *out, struct err *e)
{
	static const char *const numbered[] = { [1] = "HUP", [2] = "INT", [10] = "USR1", [12] = "USR2", [15] = "TERM" };
	int64_t n;

	if (strncasecmp(arg, "SIG", 3) == 0)
		arg += 3;
	if (!*arg || strlen(arg) > 8)
		return err_set(e, -EINVAL, "signal: name a signal, for example USR1");
	for (const char *p = arg; *p; p++) {
		if (!isalnum((unsigned char)*p))
			return err_set(e, -EINVAL, "signal: '%s' is no signal", arg);
		strbuf_addch(out, (char)toupper((unsigned char)*p));
	}
	n = slurm_number(out->buf, 0);
	if (n > 0 && n < (int64_t)ARRAY_SIZE(numbered) && numbered[n]) {
		strbuf_reset(out);
		strbuf_addstr(out, numbered[n]);
	}
	return 0;
}

/* A line for a session's `orders`, three words (launchers/session_runner.c). */
static int order_word(const char *arg, struct strbuf *out, struct err *e)
{
	for (const char *p = arg; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._:@+- /", *p))
			return err_set(e, -EINVAL, "order: '%s' is no order", arg);
	strbuf_addstr(out, arg);
	return 0;
}

static int verb_word(const char *verb, const char *arg, struct strbuf *word, struct err *e)
{
	static const char *const plain[] = { "cancel", "hold", "release", "requeue" };

	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		if (strcmp(plain[i], verb) == 0)
			return 0;
	if (strcmp(verb, "signal") == 0)
		return signal_word(arg ? arg : "", word, e);
	if (strcmp(verb, "update") == 0)
		return update_word(arg ? arg : "", word, e);
	if (strcmp(verb, "order") == 0)
		return order_word(arg ? arg : "", word, e);
	return err_set(e, -EINVAL, "'%s' is no verb of the Slurm driver", verb);
}

int slurm_verb(const struct sched_run *r, const char *verb, const char *arg, struct strbuf *code, struct err *e)
{
	cleanup_strbuf struct strbuf token = STRBUF_INIT, word = STRBUF_INIT;
	int err = verb_word(verb, arg, &word, e);

	if (err)
		return err;
	if (slurm_is_step(r))
		return slurm_step_verb(r, verb, word.buf, code, e);
	if (strcmp(verb, "order") == 0) {
		strbuf_addstr(code, "st_order ");
		slurm_attempt_dir(code, r->directory, r);
		quote_sh(code, word.buf);
		strbuf_addch(code, '\n');
		return 0;
	}
	if (!r->job_id && strcmp(verb, "cancel") != 0)
		return err_set(e, -EBUSY, "%s: the job has not been submitted yet", verb);
	if (strcmp(verb, "cancel") == 0 && r->job && r->job->grace_said)
		strbuf_addf(&word, "%d", r->job->grace_s);
	slurm_token(&token, r);
	strbuf_addstr(code, "sl_verb ");
	slurm_arg(code, verb);
	slurm_attempt_dir(code, r->directory, r);
	slurm_arg(code, token.buf);
	slurm_arg(code, r->job_id ? r->job_id : "");
	strbuf_addf(code, "%d ", r->job && r->job->requeue);
	quote_sh(code, word.buf);
	strbuf_addch(code, '\n');
	return 0;
}

/* What the controller says when it answers and does not want. */
static int errno_of(const char *verb, const char *text)
{
	static const struct {
		const char *words;
		int code;
	} known[] = {
		{ "ermission denied", -EPERM },          { "not permitted", -EPERM },
		{ "presently disabled", -EPERM },        { "nvalid job id", -ESRCH },
		{ "already completing", -ESRCH },        { "already finished", -ESRCH },
		{ "Unknown job signal", -EINVAL },       { "nvalid", -EINVAL },
		{ "Update of this parameter", -EINVAL }, { "not supported", -EINVAL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strstr(text, known[i].words))
			return known[i].code;
	return strcmp(verb, "update") == 0 || strcmp(verb, "signal") == 0 ? -EINVAL : -EBUSY;
}

/* "again SECONDS": the end of a grace period is awaited. */
static int again_in(const char *text)
{
	cleanup_free char *line = xstrndup(text, strcspn(text, "\n"));
	char *n = slurm_value(line, "again");
	int64_t s = n ? slurm_number(n, 0) : 0;

	return s > INT_MAX ? INT_MAX : (int)s;
}

int slurm_verb_result(const char *verb, int rc, const char *out, const char *err, struct err *e)
{
	static const struct {
		const char *word;
		int code;
	} answers[] = {
		{ "gone", -ESRCH },
		{ "busy", -EBUSY },
		{ "unreachable", -EHOSTUNREACH },
	};
	size_t len = strcspn(out, "\n");
	const char *text = out[len] ? out + len + 1 : "";

	if (rc == 124)
		return err_set(e, -EHOSTUNREACH, "%s: the scheduler did not answer in time", verb);
	if (rc == 0 && len == 2 && memcmp(out, "ok", len) == 0)
		return strcmp(verb, "cancel") == 0 ? again_in(text) : 0;
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
		if (strlen(answers[i].word) == len && memcmp(out, answers[i].word, len) == 0)
			return slurm_error(e, answers[i].code, verb, text);
	if (len == 6 && memcmp(out, "failed", len) == 0)
		return slurm_error(e, errno_of(verb, text), verb, text);
	return slurm_error(e, -EHOSTUNREACH, verb, *err ? err : "the answer was not understood");
}
