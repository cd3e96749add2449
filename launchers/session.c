/*
 * The launcher of a session's own job: inside the usual wrapper runs a runner (session_runner.c), which starts the
 * session's steps (runs of their own, with the usual wrapper each) when they are put into its queue.
 * docs/design/16-sessions.md has the whole.
 */
#include "launchers/session.h"

#include "backend/base/quote.h"
#include "launchers/ray.h"
#include "launchers/spark.h"
#include "launchers/wrapper.h"

#include <string.h>

/* sbatch(1), -k: the job goes on when a node of it is lost. */
static bool goes_on(const struct job *job)
{
	for (char **o = job->sbatch; o && *o; o++)
		if (strncmp(*o, "--no-kill", 9) == 0 && strcmp(*o, "--no-kill=off") != 0)
			return true;
	return false;
}

static void add_settings(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	cleanup_strbuf struct strbuf base = STRBUF_INIT;

	strbuf_addf(&base, "%s/%s", job->directory, ctx->uuid);
	strbuf_addstr(out, "#!/usr/bin/env bash\n_base=");
	quote_sh_path(out, base.buf);
	strbuf_addstr(out, "\n_hold=");
	launch_attempt_dir(out, job->directory, ctx);
	strbuf_addf(out, "\n_max=%d _idle=%lld _grace=%d _scope=%s _nokill=%d\n",
		    job->max_steps ? job->max_steps : 9999, (long long)job->idle_s, job->grace_s,
		    job->lease_scope ? "lease" : "session", goes_on(job));
}

static int render(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out, struct err *e)
{
	cleanup_strbuf struct strbuf body = STRBUF_INIT, text = STRBUF_INIT;
	int rc = wrap_check(job, ctx, e);

	if (rc)
		return rc;
	add_settings(job, ctx, &text);
	strbuf_addstr(&text, session_runner);
	wrap_environment(job, &body);
	strbuf_addstr(&body, "exec bash \"${0%/job}/runner\"\n");
	wrap_prologue(job, ctx, out);
	wrap_file(out, "job", body.buf, body.len);
	wrap_file(out, "runner", text.buf, text.len);
	wrap_file(out, "far", session_far, strlen(session_far));
	ray_files(job, ctx, out);
	spark_files(job, ctx, out);
	if (job->ray.on || job->spark.on)
		wrap_file(out, "inner-hook", inner_hook_text, strlen(inner_hook_text));
	wrap_epilogue(job, ctx, out);
	return 0;
}

extern const struct launcher launcher_session;
const struct launcher launcher_session = { .name = "session", .render = render };
