/*
 * Ray clusters of jobs of this machine: the small files in ATTEMPT/ray, read in passing.
 */
#include "backend/local.h"

#include "backend/base/mem.h"

#include <fcntl.h>
#include <sys/stat.h>

#define SOON_US (100 * (int64_t)USEC_PER_MSEC)
#define QUIET_US (2 * (int64_t)USEC_PER_SEC)

static char *read_one(const struct local_job *j, const char *name)
{
	cleanup_free char *path = xasprintf("%s/ray/%s", j->dir, name);
	cleanup_close int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct strbuf text = STRBUF_INIT;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		(void)strbuf_read_fd(&text, fd, RAY_FILES_MAX);
	return strbuf_detach(&text, NULL);
}

int64_t local_ray(struct cluster *c, struct local_job *j)
{
	int64_t now = clock_mono(c->ctx.clock);
	char *text[RAY_FILES];
	json_t *facts;

	if (now < j->ray_at)
		return j->ray_at;
	for (int i = 0; i < RAY_FILES; i++)
		text[i] = read_one(j, ray_file_names[i]);
	facts = ray_seen_take(&j->ray, (const char *const *)text);
	if (facts)
		local_event(c, j, EV_FACTS, facts);
	for (int i = 0; i < RAY_FILES; i++)
		free(text[i]);
	j->ray_at = now + (ray_seen_settled(&j->ray) ? QUIET_US : SOON_US);
	return j->ray_at;
}
