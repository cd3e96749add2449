/*
 * Fetched content, in chunks of 1 MiB, a few ahead of the reader so that the link is busy. One struct per open handle
 * (readers of the same file share what is on the disk once it is whole). A struct stays until its fetches have
 * answered.
 */
#include "fs/area.h"

#include "fs/ahead.h"
#include "fs/cache.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK (1024 * 1024)
#define SIZE_MAX_BYTES                                                                                                 \
	((uint64_t)16 << 40) /* what is beyond cannot be read: there are files without bytes of any size */
#define AHEAD 4              /* chunks on their way for one reader */
#define PULL_TRIES 40        /* each waits for the cluster for half a minute */
#define AHEAD_MAX 16 /* for one that goes on in order; 16 MiB in a tenth of a second are more than most links have */
#define DEADLINE_US (30LL * USEC_PER_SEC)
#define OPEN_DEADLINE_US (5LL * USEC_PER_SEC)
#define LIVE_AGE_US (1LL * USEC_PER_SEC) /* older bytes of a live file are fetched anew */

enum chunk_state { CHUNK_NONE, CHUNK_ASKED, CHUNK_HERE };

struct content {
	struct fsys *fs;
	uint32_t run, index;
	int area;
	char *path;
	size_t window, last; /* chunks: how many may be on their way, the last one that was read */
	uint64_t size;       /* as listed; grows when more is read of a live file */
	bool final, whole, closed;
	bool asking;    /* inside engine_fetch, which may answer at once */
	int64_t got_at; /* monotonic us: the last bytes came */
	void (*opened)(struct fsys *, struct handle *, struct fuse_file_info *);
	int fd;
	char *part, *done;    /* names on the disk */
	unsigned char *state; /* enum chunk_state per chunk */
	size_t n_chunks, n_here;
	size_t asked;
	int error;                           /* of the last fetch, for who waits */
	void (*pulled)(void *arg, int code); /* content_pull */
	void *pull_arg;
	size_t pull_at;
	unsigned tries;
};

struct fetch {
	struct content *c;
	size_t chunk;
};

static uint64_t readable(uint64_t size)
{
	return size < SIZE_MAX_BYTES ? size : SIZE_MAX_BYTES;
}

static size_t chunks(uint64_t size)
{
	return (size_t)((size + CHUNK - 1) / CHUNK);
}

static void make_room(struct content *c, size_t n)
{
	if (n <= c->n_chunks)
		return;
	c->state = xrealloc(c->state, n);
	memset(c->state + c->n_chunks, CHUNK_NONE, n - c->n_chunks);
	c->n_chunks = n;
}

void content_sweep(const struct fsys *fs, uint32_t run)
{
	cleanup_free char *dir = xasprintf("%s/spool/%u", fs->state_dir, run);
	DIR *d = opendir(dir);
	struct dirent *de;

	while (d && (de = readdir(d)))
		if (strncmp(de->d_name, "data.", 5) == 0 && strchr(de->d_name + 5, '.'))
			(void)unlinkat(dirfd(d), de->d_name, 0);
	if (d)
		(void)closedir(d);
}

struct content *content_open(struct fsys *fs, uint32_t run, const struct pentry *e, bool final)
{
	struct content *c = xcalloc(1, sizeof(*c));

	c->fs = fs;
	c->run = run;
	c->index = e->index;
	c->window = AHEAD;
	c->area = (int)area_number(e->area);
	c->path = xstrdup(e->path);
	c->size = readable(e->size);
	c->final = final;
	c->done = ahead_file(fs, run, e->index);
	/* A number in the name keeps two readers apart until one of them has the whole. */
	c->part = xasprintf("%s.%llx", c->done, (unsigned long long)session_unique(fs->session));
	c->fd = final && ahead_here(fs, run, e) ? open(c->done, O_RDONLY | O_CLOEXEC) : -1;
	c->whole = c->fd >= 0;
	if (c->whole)
		cache_used(fs, c->fd);
	else
		c->fd = open(c->part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	make_room(c, chunks(c->size));
	return c;
}

/* It was fetched ahead meanwhile. */
static void take_ready(struct content *c)
{
	struct stat st;
	int fd;

	if (c->whole || !c->final || c->asked || c->n_here)
		return;
	fd = open(c->done, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < c->size) {
		(void)close(fd);
		return;
	}
	if (c->fd >= 0)
		(void)close(c->fd);
	(void)unlink(c->part);
	c->fd = fd;
	c->whole = true;
	cache_used(c->fs, fd);
}

/* True: another fetch brings it. */
static bool comes(struct content *c)
{
	if (c->whole || !c->final)
		return false;
	if (ahead_coming(c->fs, c->run, c->index))
		return true;
	take_ready(c);
	return false;
}

static void content_free(struct content *c)
{
	if (c->whole)
		cache_used(c->fs, c->fd);
	if (c->fd >= 0)
		(void)close(c->fd);
	if (!c->whole)
		(void)unlink(c->part);
	free(c->state);
	free(c->path);
	free(c->part);
	free(c->done);
	free(c);
}

void content_close(struct content *c)
{
	c->closed = true;
	if (!c->asked)
		content_free(c);
}

static void got(struct content *c, size_t chunk, const char *data, size_t len)
{
	uint64_t at = (uint64_t)chunk * CHUNK;

	if (pwrite(c->fd, data, len, (off_t)at) != (ssize_t)len) {
		c->error = -ENOSPC;
		c->state[chunk] = CHUNK_NONE;
		return;
	}
	if (c->final) /* on its way to the disk now, so that the fsync in the end has little to wait for */
		(void)sync_file_range(c->fd, (off_t)at, (off_t)len, SYNC_FILE_RANGE_WRITE);
	c->state[chunk] = CHUNK_HERE;
	c->got_at = clock_mono(c->fs->clock);
	c->n_here++;
	if (at + len > c->size)
		c->size = at + len;
	else if (len < CHUNK && at + len < c->size) {
		if (c->final)
			c->error = -ESTALE; /* shorter than the list of results says */
		c->size = at + len;
	}
	if (c->final && !c->error && c->n_here == chunks(c->size) && fsync(c->fd) == 0 &&
	    cache_put(c->fs, c->run, c->part, c->done) == 0)
		c->whole = true;
}

static void pull_on(struct content *c);

static void fetched(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct fetch *f = arg;
	struct content *c = f->c;

	(void)text;
	c->asked--;
	if (code < 0) {
		c->error = code;
		c->state[f->chunk] = CHUNK_NONE;
	} else {
		got(c, f->chunk, data, len);
	}
	free(f);
	if (c->closed) {
		if (!c->asked)
			content_free(c);
		return;
	}
	if (!c->asking && c->pulled)
		pull_on(c);
	else if (!c->asking)
		park_retry(c->fs, c->run);
}

static void ask(struct content *c, size_t chunk)
{
	struct fetch *f;

	if (chunk >= c->n_chunks || c->state[chunk] != CHUNK_NONE || c->asked >= c->window)
		return;
	f = xmalloc(sizeof(*f));
	f->c = c;
	f->chunk = chunk;
	c->state[chunk] = CHUNK_ASKED;
	c->asked++;
	c->asking = true;
	engine_fetch(c->fs->en, c->run, c->area, c->path, (uint64_t)chunk * CHUNK, CHUNK, fetched, f);
	c->asking = false;
}

static void pull_end(struct content *c, int code)
{
	void (*done)(void *arg, int code) = c->pulled;

	c->pulled = NULL;
	done(c->pull_arg, code);
}

/* What is here stays here when the link is cut: only the rest is asked for again. */
static void pull_on(struct content *c)
{
	if (c->error && c->asked)
		return;
	if (c->error == -EHOSTUNREACH && c->tries++ < PULL_TRIES) {
		c->error = 0;
		c->pull_at = 0;
	}
	for (; !c->whole && !c->error && c->pull_at < c->n_chunks && c->asked < c->window; c->pull_at++)
		ask(c, c->pull_at);
	if (c->whole || c->error || !c->asked)
		pull_end(c, c->whole ? 0 : c->error ? c->error : -EIO);
}

void content_pull(struct content *c, void (*done)(void *arg, int code), void *arg)
{
	c->pulled = done;
	c->pull_arg = arg;
	c->window = AHEAD_MAX;
	if (c->fd < 0)
		c->error = -ENOSPC;
	pull_on(c);
}

uint64_t content_got(const struct content *c)
{
	return (uint64_t)c->n_here * CHUNK;
}

/* Are these bytes here? A read in the middle of a file is never short: programs take that for its end. */
static bool all_here(const struct content *c, uint64_t off, uint64_t end)
{
	for (uint64_t i = off / CHUNK; i * CHUNK < end && !c->whole; i++)
		if (c->state[i] != CHUNK_HERE)
			return false;
	return true;
}

/* True when answered: the bytes are here, or are past the end, or cannot be had. */
static bool answer(struct content *c, struct parked *p, uint64_t off, size_t size)
{
	static char buf[SHARED_MAX_WRITE * 8];
	uint64_t end = off + (size < sizeof(buf) ? size : sizeof(buf));
	int error = c->error ? -c->error : EHOSTUNREACH;
	ssize_t n = 0;

	if (c->fd < 0 || c->error) {
		c->error = 0;
		(void)fuse_reply_err(unpark(p), error);
		return true;
	}
	if (end > c->size)
		end = c->size;
	if (off < end && !all_here(c, off, end))
		return false;
	if (off < end)
		n = pread(c->fd, buf, (size_t)(end - off), (off_t)off);
	if (n < 0)
		(void)fuse_reply_err(unpark(p), errno);
	else
		(void)fuse_reply_buf(unpark(p), buf, (size_t)n);
	return true;
}

static void ask_ahead(struct content *c, uint64_t off)
{
	size_t chunk = (size_t)(off / CHUNK);

	if (chunk == c->last + 1 && c->window < AHEAD_MAX)
		c->window *= 2;
	c->last = chunk;
	for (size_t i = 0; i < c->window && !c->whole && !c->error; i++)
		ask(c, chunk + i);
}

static bool retry_content(struct parked *p)
{
	struct content *c = p->h->content;

	if (!c || comes(c))
		return false;
	if (!c->error)
		ask_ahead(c, p->off);
	return answer(c, p, p->off, p->size);
}

bool content_whole(const struct content *c)
{
	return c->whole;
}

void content_renew(struct content *c, uint64_t size)
{
	size = readable(size);
	if (c->final || c->asked)
		return;
	if (size == c->size && clock_mono(c->fs->clock) - c->got_at < LIVE_AGE_US)
		return;
	if (c->n_chunks) /* an empty file has no state */
		memset(c->state, CHUNK_NONE, c->n_chunks);
	c->n_here = 0;
	c->size = size;
	make_room(c, chunks(size));
}

/* --- opening --- */

static void reply_opened(struct content *c, fuse_req_t req, struct handle *h)
{
	struct fuse_file_info fi = { .fh = h->fh, .direct_io = 1 };

	c->opened(c->fs, h, &fi);
	(void)fuse_reply_open(req, &fi);
}

static bool retry_open(struct parked *p)
{
	struct handle *h = p->h;
	struct content *c = h->content;
	struct fsys *fs = p->fs;

	if (comes(c))
		return false;
	if (!c->whole && !c->error)
		ask_ahead(c, 0);
	if (c->error == -ENOENT) {
		fuse_req_t req = unpark(p);

		handle_free(fs, h);
		(void)fuse_reply_err(req, ENOENT);
		return true;
	}
	if (!c->whole && !c->error)
		return false;
	c->error = 0;
	reply_opened(c, unpark(p), h);
	return true;
}

static bool open_late(struct parked *p)
{
	struct handle *h = p->h;

	reply_opened(h->content, unpark(p), h);
	return true;
}

static void drop_open(struct parked *p)
{
	handle_free(p->fs, p->h);
}

void content_wait(struct content *c, fuse_req_t req, struct handle *h,
		  void (*opened)(struct fsys *, struct handle *, struct fuse_file_info *))
{
	struct parked *p;

	c->opened = opened;
	if (c->whole || !c->final || c->fd < 0 || !c->n_chunks || c->n_chunks > AHEAD || (h->flags & O_NONBLOCK)) {
		reply_opened(c, req, h);
		return;
	}
	p = park(c->fs, req, h, c->run, retry_open);
	p->deadline = clock_mono(c->fs->clock) + OPEN_DEADLINE_US;
	p->late = open_late;
	p->drop = drop_open;
	if (!retry_open(p))
		(void)park_interruptible(p);
}

void content_read(struct content *c, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	struct parked *p;

	p = park(c->fs, req, h, c->run, retry_content);
	p->off = off;
	p->size = size;
	p->deadline = clock_mono(c->fs->clock) + DEADLINE_US;
	if (!retry_content(p))
		(void)park_interruptible(p);
}
