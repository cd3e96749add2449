/*
 * Facts of a run from the files of its Ray cluster. Pure. A text is a fact without its last newline; what is no text
 * for JSON (RFC 8259: UTF-8) is none. The first look tells all, so that nothing stale stays of what an earlier worker
 * told.
 */
#include "backend/ray_state.h"

#include "backend/base/mem.h"

#include <string.h>

const char *const ray_file_names[RAY_FILES] = { "state", "why", "address", "dashboard", "client", "version", "nodes" };

bool ray_own(const struct job *job)
{
	return job && job->ray.on && !job->session;
}

static char *trimmed(const char *text)
{
	size_t n = text ? strlen(text) : 0;

	while (n && (text[n - 1] == '\n' || text[n - 1] == '\r'))
		n--;
	return n ? xstrndup(text, n) : NULL;
}

json_t *ray_seen_take(struct ray_seen *s, const char *const text[RAY_FILES])
{
	json_t *facts = NULL;

	for (int i = 0; i < RAY_FILES; i++) {
		char *now = trimmed(text[i]);
		cleanup_free char *key = xasprintf("ray_%s", ray_file_names[i]);
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

bool ray_seen_settled(const struct ray_seen *s)
{
	static const char *const lasting[] = { "ready", "degraded", "failed", "ended" };

	for (size_t i = 0; s->text[RAY_STATE] && i < ARRAY_SIZE(lasting); i++)
		if (strcmp(s->text[RAY_STATE], lasting[i]) == 0)
			return true;
	return false;
}

void ray_seen_release(struct ray_seen *s)
{
	for (int i = 0; i < RAY_FILES; i++) {
		free(s->text[i]);
		s->text[i] = NULL;
	}
}
