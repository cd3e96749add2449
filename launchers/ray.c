/*
 * The launcher of runs that have a Ray cluster of their own: the user's command, as ever, on the first node, with Ray
 * on all nodes of the allocation around it (launchers/inner.h). A run in a session has none of its own: it finds the
 * session's. docs/design/17-ray.md has the whole.
 */
#include "launchers/ray.h"

#include "launchers/wrapper.h"

#include "backend/base/quote.h"

#include <inttypes.h>
#include <string.h>

static struct inner inner_of(const struct job_ray *ray)
{
	return (struct inner){
		.kind = "ray",
		.name = "Ray",
		.kind_text = ray_kind_text,
		.env_text = ray_env_text,
		.interface = ray->interface,
		.head_address = ray->head_address,
		.ports = ray->ports,
		.version = ray->version,
		.max_workers = ray->max_workers,
		.start_timeout = ray->start_timeout,
		.dashboard = ray->dashboard,
		.client = ray->client,
		.token = ray->token,
		.session_variable = "SLURMRAY_RAY",
	};
}

void ray_files(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	cleanup_strbuf struct strbuf settings = STRBUF_INIT;
	const struct job_ray *ray = &job->ray;
	struct inner in = inner_of(ray);

	if (!ray->on || job->session)
		return;
	strbuf_addf(&settings, "_cpus=%d _gpus=%g _store=%" PRId64 "\n", ray->cpus, ray->gpus, ray->object_store);
	inner_set(&settings, "_dash_host", ray->dashboard_host);
	strbuf_addstr(&settings, "_args=(");
	for (char **a = ray->args; a && *a; a++) {
		strbuf_addstr(&settings, a == ray->args ? "" : " ");
		quote_sh(&settings, *a);
	}
	strbuf_addstr(&settings, ")\n");
	inner_files(&in, job, ctx, settings.buf, out);
	wrap_file(out, "ray-start", ray_start_text, strlen(ray_start_text));
	wrap_file(out, "ray-watch", ray_watch_text, strlen(ray_watch_text));
}

void ray_connect(const struct job *job, struct strbuf *body)
{
	struct inner in = inner_of(&job->ray);

	if (!job->ray.on && !job->session)
		return;
	inner_connect(&in, job, job->ray.on, body);
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
