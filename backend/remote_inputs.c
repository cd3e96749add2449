/*
 * What travels with a run into its working directory, as one archive: what a draft's files/ holds, and what its spec
 * names: `files` by their base names, the payload, context and secrets under names that the scripts know
 * (launchers/launcher.h). What the cluster has already by its content (remote_envs.c) stays here.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Those that are delivered; `made` has the strings, NULL-ended. */
static size_t add_secrets(const struct rrun *r, struct tar_extra *extra, size_t n, char **made)
{
	for (size_t i = 0; i < r->job->n_secret; i++) {
		const struct job_var *s = &r->job->secret[i];

		if (strncmp(s->value, "cluster:", 8) == 0)
			continue;
		*made = strncmp(s->value, "file:", 5) == 0 ? xstrdup(s->value + 5)
							   : xasprintf("%s/%s", r->secrets_dir, s->name);
		made[1] = xasprintf(LAUNCH_SECRET "%s", s->name);
		extra[n++] = (struct tar_extra){ made[0], made[1] };
		made += 2;
	}
	return n;
}

int rinputs_open(const struct rrun *r, struct tar **out, struct err *e)
{
	struct tar_extra *extra;
	size_t n = 0, max = 2 + r->job->n_secret;
	char **made = xcalloc(2 * r->job->n_secret + 1, sizeof(*made));
	int rc;

	for (size_t i = 0; i < r->job->n_inputs; i++)
		if (r->job->inputs[i].missing) {
			free(made);
			return err_set(e, -EINVAL, "%s", r->job->inputs[i].missing);
		}
	for (char **f = r->job->files; f && *f; f++)
		max++;
	max += r->job->n_inputs;
	extra = xcalloc(max, sizeof(*extra));
	for (char **f = r->job->files; f && *f; f++)
		if (!renvs_has(r, *f))
			extra[n++] = (struct tar_extra){ *f, base_name(*f) };
	for (size_t i = 0; i < r->job->n_inputs; i++)
		if (job_input_local(&r->job->inputs[i]) && !renvs_has(r, job_input_local(&r->job->inputs[i])))
			extra[n++] = (struct tar_extra){ job_input_local(&r->job->inputs[i]), r->job->inputs[i].name };
	if (r->job->form == JOB_PAYLOAD && !renvs_has(r, r->job->command))
		extra[n++] = (struct tar_extra){ r->job->command, LAUNCH_PAYLOAD };
	if (r->context)
		extra[n++] = (struct tar_extra){ r->context, LAUNCH_CONTEXT };
	n = add_secrets(r, extra, n, made);
	rc = r->files_dir || n ? tar_open(r->files_dir, extra, n, out, e) : -ENOENT;
	free(extra);
	for (size_t i = 0; made[i]; i++)
		free(made[i]);
	free(made);
	return rc == -ENOENT && n ? -EINVAL : rc; /* what the spec names must be there */
}
