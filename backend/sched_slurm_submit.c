/*
 * Submitting: the call of sl_submit with everything that sbatch is to be told, and the reading of its first line.
 *
 * Invariants: the user's own options come first, so that those which make a submission safe (comment, working
 * directory, output files, --no-requeue) win over them (sbatch(1): the last one counts); --export is never given, for
 * everything but ALL breaks srun inside the job; what is not understood is SCHED_UNSURE, never a refusal.
 */
#include "backend/sched_slurm.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <stdio.h>
#include <string.h>

static bool is_relative(const char *pattern)
{
	return pattern && pattern[0] != '/' && strncmp(pattern, "~/", 2) != 0;
}

/* Relative to the directory that the command runs in, as with sbatch; sbatch itself is told the attempt's directory. */
static void add_pattern(struct strbuf *code, const struct job *job, const char *pattern)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	if (is_relative(pattern))
		strbuf_addf(&path, "%s/", job->workdir ? job->workdir : "work");
	strbuf_addstr(&path, pattern ? pattern : "");
	quote_sh_path(code, path.buf);
	strbuf_addch(code, ' ');
}

static void add_streams(struct strbuf *code, const struct job *job)
{
	add_pattern(code, job, job->output);
	if (job->merged)
		slurm_arg(code, "-");
	else
		add_pattern(code, job, job->error);
}

/*
 * The directories that a relative name goes through: Slurm makes none, and the job would fail. Those before the first
 * pattern, which only Slurm can fill in, and none outside of the directory that the command runs in.
 */
static size_t stream_dir(const char *pattern)
{
	const char *percent = is_relative(pattern) ? strchr(pattern, '%') : NULL;
	size_t len = percent ? (size_t)(percent - pattern) : is_relative(pattern) ? strlen(pattern) : 0;

	while (len && pattern[len - 1] != '/')
		len--;
	for (const char *s = pattern, *end = pattern + len; s < end; s = strchr(s, '/') + 1)
		if (strncmp(s, "../", 3) == 0)
			return 0;
	return len;
}

static void add_stream_dirs(struct strbuf *code, const struct job *job)
{
	const char *const v[] = { job->output, job->merged ? NULL : job->error };

	if (!stream_dir(v[0]) && !stream_dir(v[1]))
		return;
	strbuf_addstr(code, "sl_dirs ");
	if (job->workdir)
		quote_sh_path(code, job->workdir);
	else
		strbuf_addstr(code, "''");
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		cleanup_free char *dir = xstrndup(v[i] ? v[i] : "", stream_dir(v[i]));

		strbuf_addch(code, ' ');
		quote_sh(code, dir);
	}
	strbuf_addch(code, '\n');
}

/* The real working directory; where the control directory is elsewhere, `work` there is a link to it. */
void slurm_work(struct strbuf *code, const struct sched_run *r)
{
	const char *scratch = r->job->scratch;

	if (!scratch || strcmp(scratch, r->directory) == 0) {
		slurm_arg(code, "");
		return;
	}
	slurm_attempt_dir(code, scratch, r);
	strbuf_setlen(code, code->len - 1);
	strbuf_addstr(code, "/work ");
}

static void add_option(struct strbuf *code, const char *name, const char *value)
{
	cleanup_strbuf struct strbuf opt = STRBUF_INIT;

	strbuf_addf(&opt, "%s%s", name, value);
	slurm_arg(code, opt.buf);
}

void slurm_submit(const struct sched_run *r, size_t script_len, size_t files_len, struct strbuf *code)
{
	const struct job *job = r->job;
	cleanup_strbuf struct strbuf ends = STRBUF_INIT, token = STRBUF_INIT;

	if (slurm_is_step(r)) {
		slurm_step_submit(r, script_len, files_len, code);
		return;
	}
	if (job->session) { /* whose job was lost meanwhile: its own it must not become by that */
		strbuf_addstr(code, "st_homeless ");
		slurm_attempt_dir(code, r->directory, r);
		strbuf_addch(code, '\n');
		return;
	}
	strbuf_addf(&ends, "%s/%s/ends", r->directory, r->uuid);
	slurm_token(&token, r);
	add_stream_dirs(code, job);
	if (job->share) {
		slurm_share(r, code);
		strbuf_addstr(code, " || ");
	}
	strbuf_addstr(code, "sl_submit ");
	slurm_attempt_dir(code, r->directory, r);
	quote_sh_path(code, ends.buf);
	strbuf_addch(code, ' ');
	slurm_arg(code, token.buf);
	strbuf_addf(code, "%zu %zu ", script_len, files_len);
	slurm_work(code, r);
	add_streams(code, job);
	for (size_t i = 0; job->sbatch && job->sbatch[i]; i++)
		slurm_arg(code, job->sbatch[i]);
	add_option(code, "--job-name=", job->name);
	if (job->hold)
		slurm_arg(code, "--hold");
	strbuf_addstr(code, job->requeue ? "--requeue\n" : "--no-requeue\n");
}

static void add_words(struct strbuf *why, const char *text)
{
	static const char name[] = "sbatch: ", mark[] = "error: ";

	while (*text) {
		size_t len = strcspn(text, "\n");
		const char *line = text;
		size_t n = len;

		text += len + (text[len] == '\n');
		if (n >= strlen(name) && memcmp(line, name, strlen(name)) == 0) {
			line += strlen(name);
			n -= strlen(name);
		}
		if (n >= strlen(mark) && memcmp(line, mark, strlen(mark)) == 0) {
			line += strlen(mark);
			n -= strlen(mark);
		}
		if (!n)
			continue;
		if (why->len)
			strbuf_addstr(why, "; ");
		strbuf_add(why, line, n);
	}
}

static bool first_line_is(const char *out, const char *word)
{
	size_t len = strlen(word);

	return strncmp(out, word, len) == 0 && (out[len] == '\n' || !out[len]);
}

static bool take_id(const char *out, char *job_id, size_t size)
{
	size_t len = strspn(out, "0123456789abcdef.s");

	if (!len || len >= size || (out[len] != '\n' && out[len]))
		return false;
	memcpy(job_id, out, len);
	job_id[len] = '\0';
	return true;
}

enum sched_verdict slurm_submit_result(int rc, const char *out, const char *err, char *job_id, size_t size,
				       struct strbuf *why)
{
	const char *rest = strchr(out, '\n');

	rest = rest ? rest + 1 : "";
	if (strncmp(out, "ok ", 3) == 0 && take_id(out + 3, job_id, size)) {
		add_words(why, rest); /* warnings */
		return SCHED_OK;
	}
	if (first_line_is(out, "void"))
		return SCHED_VOID;
	add_words(why, rest);
	if (first_line_is(out, "refused")) {
		if (!why->len)
			strbuf_addstr(why, "sbatch refused the job and gave no reason");
		return SCHED_REFUSED;
	}
	if (!why->len)
		add_words(why, err);
	if (!why->len && rc == 124)
		strbuf_addstr(why, "sbatch did not answer in time");
	if (!why->len)
		strbuf_addf(why, "the submission ended with code %d and said nothing", rc);
	return SCHED_UNSURE;
}
