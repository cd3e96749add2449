/*
 * Ray and Spark clusters of jobs of this machine, and the runners of sessions: the small files in ATTEMPT/ray and
 * ATTEMPT/spark, and the file `session`, read in passing.
 */
#include "backend/local.h"

#include "backend/base/mem.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define SOON_US (100 * (int64_t)USEC_PER_MSEC)
#define QUIET_US (2 * (int64_t)USEC_PER_SEC)

static char *read_one(const struct local_job *j, const char *kind, const char *name)
{
	cleanup_free char *path = xasprintf("%s/%s/%s", j->dir, kind, name);
	cleanup_close int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct strbuf text = STRBUF_INIT;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		(void)strbuf_read_fd(&text, fd, INNER_FILES_MAX);
	return strbuf_detach(&text, NULL);
}

static void look(struct cluster *c, struct local_job *j, enum inner_kind kind)
{
	char *text[INNER_FILES];
	json_t *facts;

	for (int i = 0; i < INNER_FILES; i++)
		text[i] = read_one(j, inner_kinds[kind], inner_file_names[i]);
	facts = inner_seen_take(&j->inner[kind], kind, (const char *const *)text);
	if (facts)
		local_event(c, j, EV_FACTS, facts);
	for (int i = 0; i < INNER_FILES; i++)
		free(text[i]);
}

static void look_at_runner(struct cluster *c, struct local_job *j)
{
	int64_t now = clock_real(c->ctx.clock);
	const struct runner_times t = { now / USEC_PER_SEC, now, clock_mono(c->ctx.clock) };
	cleanup_free char *text = read_one(j, ".", "session");
	json_t *facts = runner_seen_take(&j->runner, text, &t);

	if (facts)
		local_event(c, j, EV_FACTS, facts);
}

int64_t local_inner(struct cluster *c, struct local_job *j)
{
	int64_t now = clock_mono(c->ctx.clock);
	bool any, settled = true;

	if (now < j->inner_at)
		return j->inner_at;
	any = j->job->launcher && strcmp(j->job->launcher, "session") == 0;
	if (any)
		look_at_runner(c, j);
	for (int k = 0; k < INNER_KINDS; k++) {
		if (!inner_own(j->job, (enum inner_kind)k))
			continue;
		look(c, j, (enum inner_kind)k);
		any = true;
		settled = settled && inner_seen_settled(&j->inner[k]);
	}
	j->inner_at = !any ? INT64_MAX : now + (settled ? QUIET_US : SOON_US);
	return j->inner_at;
}
