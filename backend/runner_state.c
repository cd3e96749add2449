/*
 * Facts of a session from what its runner writes. Pure. The clocks of runner and reader may differ, so times are taken
 * as distances: how long it is quiet by its own clock, and for how long no new beat was seen by ours. A file that says
 * nothing that is understood is not heard.
 */
#include "backend/runner_state.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <string.h>

#define JITTER_US (3 * (int64_t)USEC_PER_SEC) /* seconds, rounded twice */

#define SECONDS_MAX 100000000000LL /* of the epoch */

struct said {
	char *nodes;
	struct strbuf lost;
	int64_t beat, quiet_since; /* 0: not said; quiet_since -1: it is not quiet */
};

static int64_t number(const char *s)
{
	char *end;
	long long n;

	if (*s < '0' || *s > '9')
		return 0;
	errno = 0;
	n = strtoll(s, &end, 10);
	return *end || errno || n > SECONDS_MAX ? 0 : n;
}

static void take_line(struct said *said, char *line)
{
	char *value = strchr(line, ' ');

	if (!value)
		return;
	*value++ = '\0';
	if (strcmp(line, "nodes") == 0)
		str_set(&said->nodes, value);
	else if (strcmp(line, "lost") == 0)
		strbuf_addf(&said->lost, "%s%s", said->lost.len ? " " : "", value);
	else if (strcmp(line, "beat") == 0)
		said->beat = number(value);
	else if (strcmp(line, "quiet_since") == 0)
		said->quiet_since = strcmp(value, "-") == 0 ? -1 : number(value);
}

static void put(json_t **facts, const char *key, json_t *value)
{
	if (!*facts)
		*facts = json_object();
	(void)json_object_set_new(*facts, key, value ? value : json_null());
}

static void tell_text(json_t **facts, const char *key, char **old, const char *now, bool first)
{
	if (!first && strcmp(*old ? *old : "", now ? now : "") == 0)
		return;
	str_set(old, now && *now ? now : NULL);
	put(facts, key, *old ? json_string(*old) : NULL);
}

static void tell_quiet(struct runner_seen *s, json_t **facts, const struct said *said, const struct runner_times *t)
{
	int64_t quiet = said->quiet_since < 0 ? 0 : t->real - (t->there - said->quiet_since) * USEC_PER_SEC;
	int64_t apart = quiet > s->quiet ? quiet - s->quiet : s->quiet - quiet;

	if (!said->quiet_since || (s->known && apart <= JITTER_US))
		return;
	s->quiet = quiet;
	put(facts, "session_quiet", json_integer(quiet));
}

static void tell_silence(struct runner_seen *s, json_t **facts, const struct said *said, const struct runner_times *t)
{
	bool silent;

	if (said->beat && (said->beat != s->beat || !s->heard)) {
		s->beat = said->beat;
		s->heard = t->mono;
	}
	silent = s->heard && t->mono - s->heard >= RUNNER_SILENT_US;
	if (s->known && silent == s->silent)
		return;
	s->silent = silent;
	put(facts, "session_silent", silent ? json_integer(t->real - (t->mono - s->heard)) : NULL);
}

json_t *runner_seen_take(struct runner_seen *s, const char *text, const struct runner_times *t)
{
	cleanup_free char *copy = xstrdup(text);
	struct said said = { .lost = STRBUF_INIT };
	json_t *facts = NULL;

	for (char *line = copy; *line;) {
		size_t n = strcspn(line, ";\n");
		char *next = line + n + (line[n] != '\0');

		line[n] = '\0';
		take_line(&said, line);
		line = next;
	}
	if (said.nodes && said.beat) {
		tell_text(&facts, "session_nodes", &s->nodes, said.nodes, !s->known);
		tell_text(&facts, "session_lost", &s->lost, said.lost.buf, !s->known);
		tell_quiet(s, &facts, &said, t);
	}
	if (s->known || said.beat)
		tell_silence(s, &facts, &said, t);
	s->known = s->known || (said.nodes && said.beat);
	free(said.nodes);
	strbuf_release(&said.lost);
	return facts;
}

void runner_seen_release(struct runner_seen *s)
{
	free(s->nodes);
	free(s->lost);
	s->nodes = s->lost = NULL;
}
