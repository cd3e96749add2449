/*
 * The plain launcher: runs the user's command on the first node, in bash where the cluster has it. Owns nothing; the
 * wrapper does the rest. Parallel programs are started by the command itself (srun, mpirun).
 */
#include "launchers/ray.h"
#include "launchers/spark.h"
#include "launchers/wrapper.h"

static int render(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out, struct err *e)
{
	cleanup_strbuf struct strbuf body = STRBUF_INIT;
	int rc = wrap_check(job, ctx, e);

	if (rc)
		return rc;
	wrap_prologue(job, ctx, out);
	if (!wrap_is_plain(job)) {
		wrap_environment(job, &body);
		ray_connect(job, &body);
		spark_connect(job, &body);
		wrap_exec(job, &body);
	}
	if (wrap_is_plain(job))
		wrap_plain(job, out);
	else if (job->session)
		wrap_text(out, "job", body.buf);
	else
		wrap_file(out, "job", body.buf, body.len);
	if (job->form == JOB_SCRIPT)
		wrap_file(out, "payload", job->command, job->command_len);
	if (job->form == JOB_PAYLOAD)
		strbuf_addstr(out, "[ -e payload ] || mv work/" LAUNCH_PAYLOAD " payload\n");
	if (job->form == JOB_SCRIPT || job->form == JOB_PAYLOAD)
		strbuf_addstr(out, "chmod 700 payload || unready\n\n");
	ray_files(job, ctx, out);
	spark_files(job, ctx, out);
	wrap_epilogue(job, ctx, out);
	return 0;
}

extern const struct launcher launcher_bash;
const struct launcher launcher_bash = { .name = "bash", .render = render };
