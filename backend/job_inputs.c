/*
 * Named inputs: what their names and sources may be, and the two kinds of sources told apart. A source is an absolute
 * path of this machine, or `runs/ID/results/PATH`, a result of a run of this mount.
 *
 * Invariants: a name is one component that can stand beside the files of the working directory; PATH is relative and
 * has no "." or ".." in it.
 */
#include "backend/job_inputs.h"

#include "backend/base/mem.h"
#include "backend/spec_impl.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#define NAME_LEN_MAX 255

bool job_input_name_ok(const char *name)
{
	size_t len = strlen(name);

	return len > 0 && len <= NAME_LEN_MAX && !strchr(name, '/') && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0 && strncmp(name, ".slurmray", 9) != 0 && !spec_has_control(name);
}

/* Relative, of components that lead down only. */
static bool path_ok(const char *path)
{
	for (;;) {
		size_t n = strcspn(path, "/");

		if (n == 0 || n > NAME_LEN_MAX || (path[0] == '.' && (n == 1 || (n == 2 && path[1] == '.'))))
			return false;
		if (!path[n])
			return true;
		path += n + 1;
	}
}

/* Splits runs/ID/results/PATH; false: it is no such source. */
static bool split(const char *source, char **run, char **path)
{
	static const char middle[] = "/results/";
	const char *id = source + 5, *slash;
	cleanup_free char *name = NULL;

	if (strncmp(source, "runs/", 5) != 0)
		return false;
	slash = strchr(id, '/');
	if (!slash || strncmp(slash, middle, sizeof(middle) - 1) != 0)
		return false;
	name = xstrndup(id, (size_t)(slash - id));
	if (!spec_run_id_ok(name) || !path_ok(slash + sizeof(middle) - 1))
		return false;
	if (run)
		*run = xstrdup(name);
	if (path)
		*path = xstrdup(slash + sizeof(middle) - 1);
	return true;
}

bool job_input_source_ok(const char *source)
{
	return !spec_has_control(source) && (source[0] == '/' || split(source, NULL, NULL));
}

const char *job_input_local(const struct job_input *in)
{
	return in->run ? in->staged : in->source;
}

static bool is_base_name(const char *path, const char *name)
{
	size_t len = strlen(path), n = strlen(name);

	while (len && path[len - 1] == '/')
		len--;
	return len > n && path[len - n - 1] == '/' && strncmp(path + len - n, name, n) == 0;
}

int job_inputs_fill(const json_t *value, char *const *files, struct job_input **out, size_t *n, struct strbuf *errors)
{
	const char *name;
	json_t *item;
	int rc = 0;

	*n = 0;
	*out = xcalloc(json_object_size(value) + 1, sizeof(**out));
	json_object_foreach ((json_t *)value, name, item) {
		struct job_input *in = &(*out)[*n];
		const char *source = json_string_value(item);

		if (json_is_null(item)) /* unset by a stronger layer */
			continue;
		if (!source)
			continue;
		for (char *const *f = files; f && *f; f++) {
			if (!is_base_name(*f, name))
				continue;
			strbuf_addf(errors, "%sinputs: '%s' and the file %s would have the same name",
				    errors->len ? "\n" : "", name, *f);
			rc = -EINVAL;
		}
		in->name = xstrdup(name);
		in->source = xstrdup(source);
		(void)split(source, &in->run, &in->path);
		(*n)++;
	}
	return rc;
}

void job_inputs_release(struct job_input *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(v[i].name);
		free(v[i].source);
		free(v[i].run);
		free(v[i].path);
		free(v[i].link);
		free(v[i].staged);
		free(v[i].missing);
	}
	free(v);
}
