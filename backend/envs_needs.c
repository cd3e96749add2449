/*
 * What a job needs of local files before it is submitted: an archive or a build, libraries, and large files by their
 * content. A small file is cheaper with the submission: asking for it would cost as much as sending it.
 *
 * Invariants: the order is that of the job; a file that is not there is listed too, so that whoever looks for it says
 * so; what is listed as a copy is left out of the archive of files (envs_needs_has).
 */
#include "backend/envs.h"

#include "backend/base/mem.h"
#include "backend/job.h"
#include "launchers/launcher.h"

#include <string.h>

const char *envs_use_words(enum envs_use use)
{
	static const char *const words[] = { [ENVS_ARCHIVE] = "environment archive",
					     [ENVS_BUILD] = "environment build",
					     [ENVS_LIBRARY] = "library",
					     [ENVS_FILE] = "file" };

	return words[use];
}

struct needs {
	struct envs_need *v;
	size_t n;
};

static struct envs_need *add(struct needs *l, enum envs_use use, const char *path)
{
	struct envs_need *need;

	l->v = xrealloc(l->v, (l->n + 1) * sizeof(*l->v));
	need = &l->v[l->n++];
	*need = (struct envs_need){ .use = use, .path = xstrdup(path) };
	return need;
}

static void add_environment(struct needs *l, const struct environment *env)
{
	struct envs_need *need;

	if (env->kind == ENV_ARCHIVE || env->kind == ENV_BUILD) {
		need = add(l, env->kind == ENV_BUILD ? ENVS_BUILD : ENVS_ARCHIVE, env->where);
		need->platform = xstrdup(env->platform);
		need->link = xstrdup(JOB_ENVIRONMENT_LINK);
		need->build_s = env->build_s;
	}
	for (size_t i = 0; env->wheels && env->wheels[i]; i++)
		add(l, ENVS_LIBRARY, env->wheels[i])->link = xasprintf(JOB_WHEEL_LINK, i);
	if (env->pipes)
		add(l, ENVS_LIBRARY, env->pipes)->link = xstrdup(JOB_PIPES_LINK);
}

/* Links are followed, as tar_open does with what a spec names. */
static void add_file(struct needs *l, const char *path, const char *name)
{
	struct envs_need *need;
	struct stat st;

	if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < ENVS_SHARE_MIN)
		return;
	need = add(l, ENVS_FILE, path);
	need->copy = xstrdup(name);
	need->mode = st.st_mode & 0777;
	need->mtime = st.st_mtim.tv_sec;
}

struct envs_need *envs_needs(const struct job *job, bool files, size_t *n)
{
	struct needs l = { 0 };

	add_environment(&l, &job->environment);
	for (char **f = job->files; files && f && *f; f++) {
		const char *slash = strrchr(*f, '/');

		if (slash && slash[1])
			add_file(&l, *f, slash + 1);
	}
	for (size_t i = 0; files && i < job->n_inputs; i++)
		if (!job->inputs[i].run) /* another run's results are of one use */
			add_file(&l, job->inputs[i].source, job->inputs[i].name);
	if (files && job->form == JOB_PAYLOAD)
		add_file(&l, job->command, LAUNCH_PAYLOAD);
	*n = l.n;
	return l.v;
}

void envs_needs_free(struct envs_need *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(v[i].path);
		free(v[i].platform);
		free(v[i].link);
		free(v[i].copy);
	}
	free(v);
}

bool envs_needs_has(const struct envs_need *v, size_t n, const char *path)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].copy && strcmp(v[i].path, path) == 0)
			return true;
	return false;
}
