/*
 * Dagster Pipes, the engine's part: the context that a job is given, and what its messages mean for the end of the run.
 *
 * Invariant: the context of a submitted run is a file that is there before its creation is journaled and does not change
 * afterwards, so an attempt can be made again at any time.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

void engine_context_path(const struct engine *en, uint32_t num, struct strbuf *out)
{
	strbuf_addf(out, "%s/%u/context", en->spool_dir, num);
}

bool engine_has_pipes(const struct run *r)
{
	return json_is_true(json_object_get(r->facts, "pipes"));
}

/* What was written into the run's file; false when nothing was. */
static bool read_context(const struct engine *en, uint32_t num, struct strbuf *out)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	engine_context_path(en, num, &path);
	return strbuf_read_file(out, path.buf, ENGINE_CONTEXT_MAX) > 0;
}

int engine_context(struct engine *en, const struct run *as, const struct run *from, struct job *job, struct strbuf *text,
		   struct strbuf *errors)
{
	cleanup_strbuf struct strbuf have = STRBUF_INIT;
	bool there = read_context(en, from ? from->num : as->num, &have);

	return job_pipes(job, as->id, there ? have.buf : NULL, have.len, text, errors);
}

static int write_file(const char *path, const char *data, size_t len)
{
	cleanup_free char *tmp = xasprintf("%s.tmp", path);
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc = 0;

	if (fd < 0)
		return -errno;
	while (len > 0 && rc == 0) {
		ssize_t n = write(fd, data, len);

		if (n <= 0 && errno != EINTR)
			rc = n < 0 ? -errno : -ENOSPC;
		data += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	(void)close(fd);
	if (rc == 0 && rename(tmp, path) < 0)
		rc = -errno;
	if (rc < 0)
		(void)unlink(tmp);
	return rc;
}

int engine_context_write(struct engine *en, const struct run *as, const struct job *job, const struct strbuf *text, struct err *e)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;
	cleanup_free char *dir = xasprintf("%s/%u", en->spool_dir, as->num);
	int rc;

	engine_context_path(en, as->num, &path);
	if (!job->pipes_context) {
		(void)unlink(path.buf);
		return 0;
	}
	(void)mkdir(dir, 0700);
	rc = write_file(path.buf, text->buf, text->len);
	return rc < 0 ? err_sys(e, rc, "cannot keep the Pipes context in %s", path.buf) : 0;
}

void engine_pipes_flags(struct engine *en, const struct run *r, struct job *job)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	engine_context_path(en, r->num, &path);
	job_pipes_flags(job, access(path.buf, F_OK) == 0);
}

static void add_reason(struct event *ev, const char *exception)
{
	const char *status = event_str(ev, "status"), *why = event_str(ev, "why");
	bool good = status && strcmp(status, "succeeded") == 0;
	cleanup_free char *text = xasprintf("%s%s%s", good || !why ? "" : why, good || !why ? "" : "; ", exception);
	cleanup_free char *all = xasprintf("%s%s", good ? "its Pipes session ended with an exception: " : "", text);
	json_t *s = json_string(all);

	if (good)
		(void)json_object_set_new(ev->data, "status", json_string("failed"));
	if (s)
		(void)json_object_set_new(ev->data, "why", s);
}

void engine_pipes_end(struct engine *en, const struct run *r, struct event *ev)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	const char *status = event_str(ev, "status"), *rule = run_fact(r, "pipes_exception");

	if (!engine_has_pipes(r) || !status || (strcmp(status, "succeeded") != 0 && strcmp(status, "failed") != 0) ||
	    (rule && strcmp(rule, "ignore") == 0))
		return;
	if (events_exception(en->spool_dir, r->num, &text))
		add_reason(ev, text.buf);
}
