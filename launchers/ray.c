/*
 * The launcher of runs that have a Ray cluster of their own: the user's command, as ever, on the first node, with Ray
 * on all nodes of the allocation around it. The file `job` starts the keeper beside itself, waits until every node is
 * there and becomes the command, so that signals, streams and codes are the command's own; the keeper ends the cluster
 * when that process is gone, and the wrapper waits for the keeper. docs/design/17-ray.md has the whole.
 *
 * A run in a session has no cluster of its own: it finds the session's.
 */
#include "launchers/ray.h"

#include "launchers/wrapper.h"

#include "backend/base/quote.h"

#include <inttypes.h>
#include <string.h>

static void add_text(struct strbuf *out, const char *name, const char *value)
{
	strbuf_addf(out, "%s=", name);
	quote_sh(out, value ? value : "");
	strbuf_addch(out, '\n');
}

static void add_settings(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	const struct job_ray *ray = &job->ray;

	strbuf_addstr(out, "# shellcheck shell=bash disable=SC2034\n_tag=");
	launch_token(out, ctx);
	strbuf_addf(out,
		    "\n_cpus=%d _gpus=%g _store=%" PRId64 " _max_workers=%d _timeout=%d _grace=%d\n"
		    "_dash=%d _client=%d _token=%d _local_cpus=%" PRId64 "\n",
		    ray->cpus, ray->gpus, ray->object_store, ray->max_workers, ray->start_timeout, job->grace_s,
		    ray->dashboard, ray->client, ray->token, (int64_t)job->ntasks * job->cpus_per_task);
	add_text(out, "_dash_host", ray->dashboard_host);
	add_text(out, "_if", ray->interface);
	add_text(out, "_head_addr", ray->head_address);
	add_text(out, "_ports", ray->ports);
	add_text(out, "_want", ray->version);
	strbuf_addstr(out, "_args=(");
	for (char **a = ray->args; a && *a; a++) {
		strbuf_addstr(out, a == ray->args ? "" : " ");
		quote_sh(out, *a);
	}
	strbuf_addstr(out, ")\n");
	if (job->environment.container)
		strbuf_addstr(out, "_box=$(command -v apptainer || command -v singularity)\n");
	strbuf_addstr(out, "_in() {\n\t");
	wrap_container(&job->environment, out);
	strbuf_addstr(out, " \"$@\"\n}\n");
}

void ray_files(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	cleanup_strbuf struct strbuf settings = STRBUF_INIT;

	if (!job->ray.on || job->session)
		return;
	add_settings(job, ctx, &settings);
	wrap_file(out, "ray-settings", settings.buf, settings.len);
	strbuf_addstr(out, "[ -n \"$_nodes\" ] || echo _local=1 >>ray-settings || unready # no Slurm around it\n\n");
	wrap_file(out, "ray-keeper", ray_keeper_text, strlen(ray_keeper_text));
	wrap_file(out, "ray-node", ray_node_text, strlen(ray_node_text));
	wrap_file(out, "ray-watch", ray_watch_text, strlen(ray_watch_text));
	wrap_file(out, "ray-connect", ray_connect_text, strlen(ray_connect_text));
}

static const char own[] =
	"_ray=${0%/job}/ray\n"
	"rm -f \"$_ray/state\"\n"
	"if [ -z \"${BASH_VERSION:-}\" ]; then\n"
	"\techo 'Ray: it needs bash on every node' | tee \"${0%/job}/reason\" >&2\n"
	"\techo ray >\"${0%/job}/fault\"\n"
	"\texit 78\n"
	"fi\n"
	"SLURMRAY_RAY_WORK=$PWD bash \"${0%/job}/ray-keeper\" \"${0%/job}\" run </dev/null >/dev/null 2>>\"${0%/job}/ray.log\" &\n";

static const char none[] = "_own=${_own:-${0%/job}}\n"
			   "[ -n \"${SLURMRAY_RAY:-}\" ] || {\n"
			   "\techo 'Ray: its session has none (say ray=true there)' | tee \"$_own/reason\" >&2\n"
			   "\techo ray >\"$_own/fault\"\n"
			   "\texit 78\n"
			   "}\n";

void ray_connect(const struct job *job, struct strbuf *body)
{
	bool must = job->ray.on;
	int64_t tenths = ((int64_t)job->ray.start_timeout + 15) * 10;

	if (!must && !job->session)
		return;
	if (job->session) {
		if (must)
			strbuf_addstr(body, none);
		strbuf_addf(body,
			    "if [ -n \"${SLURMRAY_RAY:-}\" ]; then\n"
			    "\t_ray=$SLURMRAY_RAY _ray_must=%s _ray_limit=%" PRId64 "\n"
			    "\t# shellcheck disable=SC1091 # of the session\n"
			    "\t. \"${_ray%%/ray}/ray-connect\"\n"
			    "fi\n",
			    must ? "1" : "''", tenths);
	} else {
		strbuf_addstr(body, own);
		strbuf_addf(body,
			    "_ray_must=1 _ray_limit=%" PRId64 "\n"
			    ". \"${0%%/job}/ray-connect\"\n",
			    tenths);
	}
	if (job->ray.job_config) {
		strbuf_addstr(body, "export RAY_JOB_CONFIG_JSON_ENV_VAR=");
		quote_sh(body, job->ray.job_config);
		strbuf_addch(body, '\n');
	}
}

extern const struct launcher launcher_bash, launcher_ray;

/* All that differs is in ray_files and ray_connect, which the plain launcher calls. */
static int render(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out, struct err *e)
{
	return launcher_bash.render(job, ctx, out, e);
}

const struct launcher launcher_ray = { .name = "ray", .render = render };
