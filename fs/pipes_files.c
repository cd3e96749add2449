/*
 * What the files of Dagster Pipes need beyond growing files: the context, which a draft is given and which then stays as it is, and the
 * numbers in reported metadata, which are metrics of the run.
 *
 * The context has no handle: every operation finds it by the run's number, so that any worker can do it.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"
#include "backend/pipes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* --- the context --- */

static char *path_of(struct fsys *fs, const struct run *r)
{
	struct strbuf sb = STRBUF_INIT;

	engine_context_path(fs->en, r->num, &sb);
	return strbuf_detach(&sb, NULL);
}

static bool look(struct fsys *fs, const struct run *r, struct stat *st)
{
	cleanup_free char *path = path_of(fs, r);

	return stat(path, st) == 0;
}

uint64_t context_size(struct fsys *fs, const struct run *r)
{
	struct stat st;

	return look(fs, r, &st) ? (uint64_t)st.st_size : 0;
}

int64_t context_mtime(struct fsys *fs, const struct run *r)
{
	struct stat st;

	return look(fs, r, &st) ? (int64_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000 : r->t_created;
}

/* In a draft; the directory is made with it. */
static int open_context(struct fsys *fs, const struct run *r)
{
	cleanup_free char *path = path_of(fs, r), *dir = xstrndup(path, (size_t)(strrchr(path, '/') - path));
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0 && errno == ENOENT) {
		(void)mkdir(dir, 0700);
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	}
	return fd < 0 ? -errno : fd;
}

int context_truncate(struct fsys *fs, const struct run *r, uint64_t size)
{
	cleanup_close int fd = -1;

	if (r->status != RUN_DRAFT)
		return 0;
	if (size > ENGINE_CONTEXT_MAX)
		return -EFBIG;
	fd = open_context(fs, r);
	if (fd < 0)
		return fd;
	return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

int context_write(struct fsys *fs, const struct run *r, const char *data, size_t len, uint64_t off)
{
	cleanup_close int fd = -1;

	if (r->status != RUN_DRAFT)
		return 0;
	if (off > ENGINE_CONTEXT_MAX || len > ENGINE_CONTEXT_MAX - off)
		return -EFBIG;
	fd = open_context(fs, r);
	while (fd >= 0 && len > 0) {
		ssize_t n = pwrite(fd, data, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		data += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return fd < 0 ? fd : 0;
}

void context_read(struct fsys *fs, fuse_req_t req, const struct run *r, uint64_t off, size_t size)
{
	cleanup_free char *path = path_of(fs, r), *buf = NULL;
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n = 0;

	if (fd < 0 && errno != ENOENT) {
		(void)fuse_reply_err(req, errno);
		return;
	}
	if (fd >= 0) {
		buf = xmalloc(size);
		n = pread(fd, buf, size, (off_t)off);
	}
	if (n < 0)
		(void)fuse_reply_err(req, errno);
	else
		(void)fuse_reply_buf(req, buf, (size_t)n);
}

/* Dagster's readers and injectors remove their files when they are done. The run keeps what it was given and what it reported. */
int pipes_unlink(struct fsys *fs, const struct run *r, const char *name)
{
	cleanup_free char *path = NULL;

	if (strcmp(name, "events") == 0)
		return 0;
	if (strcmp(name, "context") != 0)
		return -EPERM;
	if (r->status != RUN_DRAFT)
		return 0;
	path = path_of(fs, r);
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* --- numbers --- */

#define NUMBERS_MAX 1000
#define LINE_MAX_BYTES ((size_t)64 * 1024 * 1024)

struct numbers {
	struct hmap_node node;
	uint64_t at; /* of the materializations */
	json_t *values;
};

static struct numbers *numbers_of(struct fsys *fs, uint32_t num, bool make)
{
	struct hmap_node *n = hmap_first(&fs->numbers, num);
	struct numbers *nu;

	if (n || !make)
		return n ? container_of(n, struct numbers, node) : NULL;
	nu = xcalloc(1, sizeof(*nu));
	nu->values = json_object();
	hmap_insert(&fs->numbers, &nu->node, num);
	return nu;
}

void run_numbers_forget(struct fsys *fs, uint32_t num)
{
	struct numbers *nu = numbers_of(fs, num, false);

	if (!nu)
		return;
	hmap_remove(&fs->numbers, &nu->node);
	json_decref(nu->values);
	free(nu);
}

static void add_number(void *arg, const char *name, const char *number, size_t len)
{
	cleanup_free char *text = xstrndup(number, len);
	json_t *values = arg;

	/* As it was written: 0.10 stays 0.10, and no digit is lost. */
	if (*name && (json_object_size(values) < NUMBERS_MAX || json_object_get(values, name)))
		(void)json_object_set_new(values, name, json_string(text));
}

json_t *run_numbers(struct fsys *fs, const struct run *r)
{
	struct spool_reader *sp = engine_has_pipes(r) ? run_spool(fs, r) : NULL;
	cleanup_strbuf struct strbuf line = STRBUF_INIT;
	struct numbers *nu;
	char buf[65536];
	ssize_t n;

	if (!sp || !spool_reader_len(sp, SPOOL_MATERIALIZATIONS))
		return NULL;
	nu = numbers_of(fs, r->num, true);
	while ((n = spool_reader_pread(sp, SPOOL_MATERIALIZATIONS, buf, sizeof(buf), nu->at)) > 0) {
		const char *p = buf, *nl;

		while ((nl = memchr(p, '\n', (size_t)(buf + n - p)))) {
			strbuf_add(&line, p, (size_t)(nl - p));
			if (line.len < LINE_MAX_BYTES)
				pipes_numbers(line.buf, line.len, add_number, nu->values);
			strbuf_reset(&line);
			p = nl + 1;
		}
		if (line.len < LINE_MAX_BYTES)
			strbuf_add(&line, p, (size_t)(buf + n - p));
		nu->at += (uint64_t)n;
	}
	nu->at -= line.len; /* a last line without a newline: it is short, or there is none */
	return nu->values;
}
