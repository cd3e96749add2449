/*
 * Facts of a run from the files of its Ray or Spark cluster. Pure. A text is a fact without its last newline; what is
 * no text for JSON (RFC 8259: UTF-8) is none. The first look tells all, so that nothing stale stays of what an earlier
 * worker told.
 */
#include "backend/inner_state.h"

#include "backend/base/mem.h"

#include <string.h>

const char *const inner_kinds[INNER_KINDS] = { "ray", "spark" };
const char *const inner_file_names[INNER_FILES] = { "state",  "why",     "address", "dashboard",
						    "client", "version", "python",  "nodes" };

bool inner_own(const struct job *job, enum inner_kind kind)
{
	if (!job || job->session)
		return false;
	return kind == INNER_RAY ? job->ray.on : job->spark.on && !job->spark.master;
}

static char *trimmed(const char *text)
{
	size_t n = text ? strlen(text) : 0;

	while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	return n ? xstrndup(text, n) : NULL;
}

json_t *inner_seen_take(struct inner_seen *s, enum inner_kind kind, const char *const text[INNER_FILES])
{
	json_t *facts = NULL;

	for (int i = 0; i < INNER_FILES; i++) {
		char *now = trimmed(text[i]);
		cleanup_free char *key = xasprintf("%s_%s", inner_kinds[kind], inner_file_names[i]);
		json_t *value;

		if (s->known && strcmp(now ? now : "", s->text[i] ? s->text[i] : "") == 0) {
			free(now);
			continue;
		}
		free(s->text[i]);
		s->text[i] = now;
		value = now ? json_string(now) : json_null();
		if (!facts)
			facts = json_object();
		(void)json_object_set_new(facts, key, value ? value : json_null());
	}
	s->known = true;
	return facts;
}

bool inner_seen_settled(const struct inner_seen *s)
{
	static const char *const lasting[] = { "ready", "degraded", "failed", "ended" };

	for (size_t i = 0; s->text[INNER_STATE] && i < ARRAY_SIZE(lasting); i++)
		if (strcmp(s->text[INNER_STATE], lasting[i]) == 0)
			return true;
	return false;
}

void inner_seen_release(struct inner_seen *s)
{
	for (int i = 0; i < INNER_FILES; i++) {
		free(s->text[i]);
		s->text[i] = NULL;
	}
}
