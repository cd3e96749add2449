/*
 * A relative `workdir` means: from where the caller stands. That is a place of this machine, so it is one for jobs of
 * this machine only; another cluster has no such directory, or another one of the same name.
 *
 * Which cluster a spec goes to is the daemon's to say: it is asked with runs/check, and the type of the cluster is in
 * its file `status`. Documents without a relative workdir are neither looked into nor changed.
 */
#include "fs/client.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>

#define ANSWER_MAX (8 * 1024 * 1024)

static const char *const keys[] = { "workdir", "chdir" };

bool client_workdir_relative(const char *key, const char *path)
{
	bool is_key = false;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		is_key = is_key || strcmp(key, keys[i]) == 0;
	return is_key && *path && *path != '/' && *path != '~';
}

/* The directory as it is called from the root; the caller frees. */
static char *resolved(const char *path)
{
	char *real = realpath(path, NULL);

	return real ? real : client_absolute(path); /* the daemon says that it is not there */
}

/* What runs/check answers for the spec; NULL and its sentences when it is refused. */
static json_t *check(const char *mount, const json_t *spec, struct strbuf *errors)
{
	cleanup_free char *path = xasprintf("%s/runs/check", mount), *text = json_dumps(spec, JSON_COMPACT);
	cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
	cleanup_strbuf struct strbuf answer = STRBUF_INIT;
	int code = fd < 0 || write(fd, text, strlen(text)) < 0 ? errno : 0;
	json_t *doc;

	if (fd >= 0)
		(void)strbuf_read_fd(&answer, fd, ANSWER_MAX);
	doc = code ? NULL : json_loadb(answer.buf, answer.len, JSON_DISABLE_EOF_CHECK, NULL); /* the script follows */
	if (doc)
		return doc;
	if (code == EINVAL && answer.len)
		strbuf_add(errors, answer.buf, answer.len - 1);
	else
		strbuf_addf(errors, "%s: %s", path,
			    code ? strerror(code) : "it does not say which cluster the run would go to");
	return NULL;
}

/* The cluster that the spec goes to; NULL and sentences when there is none. The caller frees. */
static char *cluster_of(const char *mount, const json_t *spec, struct strbuf *errors)
{
	static const char *const deciding[] = { "cluster", "profile", "mode" };
	json_t *question = json_pack("{s:s}", "command", "true"), *answer;
	char *name;

	for (size_t i = 0; i < ARRAY_SIZE(deciding); i++)
		if (json_object_get(spec, deciding[i]))
			(void)json_object_set(question, deciding[i], json_object_get(spec, deciding[i]));
	answer = check(mount, question, errors);
	name = xstrdup(json_string_value(json_object_get(json_object_get(answer, "cluster"), "value")));
	json_decref(answer);
	json_decref(question);
	return name;
}

static bool is_this_machine(const char *mount, const char *cluster)
{
	cleanup_free char *path = xasprintf("%s/clusters/%s/status", mount, cluster);
	cleanup_strbuf struct strbuf status = STRBUF_INIT;

	return strbuf_read_file(&status, path, 65536) > 0 &&
	       (strncmp(status.buf, "type local\n", 11) == 0 || strstr(status.buf, "\ntype local\n"));
}

static int settle(const char *mount, json_t *spec, const char *key, struct strbuf *errors)
{
	const char *path = json_string_value(json_object_get(spec, key));
	cleanup_free char *cluster = cluster_of(mount, spec, errors), *full = NULL;

	if (!cluster)
		return -EINVAL;
	if (!is_this_machine(mount, cluster)) {
		strbuf_addf(
			errors,
			"%s=%s: cluster %s is another machine, to which the directory that you are in means nothing: write a "
			"directory of the cluster, as /path or '~/path'",
			key, path, cluster);
		return -EINVAL;
	}
	full = resolved(path);
	(void)json_object_set_new(spec, key, json_string(full));
	return 0;
}

int client_workdir(const char *mount, struct client_doc *doc, struct strbuf *errors)
{
	json_t *spec;
	int rc = 0;

	if (doc->len == 0 || doc->text[0] != '{')
		return 0;
	spec = json_loadb(doc->text, doc->len, 0, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(keys) && rc == 0; i++) {
		const char *path = json_string_value(json_object_get(spec, keys[i]));
		char *text;

		if (!path || !client_workdir_relative(keys[i], path))
			continue;
		rc = settle(mount, spec, keys[i], errors);
		text = rc == 0 ? json_dumps(spec, CLIENT_DUMP_FLAGS) : NULL;
		if (!text)
			continue;
		free(doc->text);
		doc->text = text;
		doc->len = strlen(text);
	}
	json_decref(spec);
	return rc;
}
