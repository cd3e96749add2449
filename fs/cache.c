/*
 * How much of fetched results is here, and what goes when it is more than the configuration allows (cache_size). The
 * time of the last use of a file is its atime, set when it is opened and closed; so it outlives workers, and nothing
 * of this is stored anywhere else. At start the directories of all runs are counted, some entries at a time.
 *
 * When a limit is passed: the run whose file was used longest ago is chosen, its directory is read, the files that go
 * are named, and for each directory of results the cluster is asked whether it still has them as they were. What it
 * confirms is unlinked; what it no longer has stays, and counts as used now, so that it is not asked for again at once.
 *
 * Invariants: one run at a time; `held` has an entry for each run that was counted and has files here; sums[i] is the
 * sum of their bytes by cluster, the last one that of all. A kill at any moment loses nothing but the counts.
 */
#include "fs/cache.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "fs/ahead.h"
#include "fs/area.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define SLICE 256                             /* entries of directories between two looks at requests */
#define ROOM_PART 16                          /* so much of a limit is made free at a time, at least */
#define GRACE_US (2 * USEC_PER_SEC)           /* what was used just now stays */
#define AGAIN_US (2 * USEC_PER_SEC)           /* nothing could go */
#define AWAY_US (30 * (int64_t)USEC_PER_SEC)  /* a cluster did not answer */
#define LOST_US (600 * (int64_t)USEC_PER_SEC) /* it no longer has what it had */
#define LISTED_MAX 100000                     /* names: a listing of so many may be cut off */

enum phase { COUNTING, IDLE, READING, JOURNAL, ASKING };

struct held {
	struct hmap_node node; /* by run */
	uint32_t run;
	size_t cluster; /* index in the configuration; its length: not there any more */
	uint64_t bytes;
	int64_t oldest;   /* real us: no file that could go was used before; INT64_MAX: none could */
	int64_t again_at; /* monotonic us */
};

/* A file that is here. */
struct here {
	uint32_t index;
	bool open, goes, stays;
	uint64_t size;
	int64_t used;  /* real us */
	int64_t mtime; /* on the cluster */
	char *path;    /* in results/; NULL: the list of results does not know it */
};

struct cache {
	struct fsys *fs;
	size_t n; /* clusters */
	uint64_t *limits, *sums;
	struct hmap held;
	enum phase phase;
	int64_t next_at; /* IDLE: monotonic us; 0: at once */
	uint32_t counted;
	/* the run that is looked at */
	uint32_t run;
	DIR *dir;
	bool changed; /* while its directory was read */
	struct here *files;
	size_t n_files, cap;
	uint64_t bytes; /* of all of them */
	/* what has to go */
	size_t scope;
	int64_t bound;   /* real us: another run has a file that was used then */
	size_t at, upto; /* files whose directory is being asked for */
};

/* --- sums --- */

static size_t cluster_of(const struct cache *c, const struct run *r)
{
	const struct config *cf = engine_config(c->fs->en);

	for (size_t i = 0; r && r->cluster && i < c->n; i++)
		if (strcmp(cf->clusters[i]->name, r->cluster) == 0)
			return i;
	return c->n;
}

static struct held *held_of(struct cache *c, uint32_t run, bool make)
{
	struct hmap_node *n = hmap_first(&c->held, hash_u64(run));
	struct held *h;

	for (; n; n = hmap_next(n))
		if (container_of(n, struct held, node)->run == run)
			return container_of(n, struct held, node);
	if (!make)
		return NULL;
	h = xcalloc(1, sizeof(*h));
	h->run = run;
	h->cluster = cluster_of(c, engine_run(c->fs->en, run));
	h->oldest = INT64_MAX;
	hmap_insert(&c->held, &h->node, hash_u64(run));
	return h;
}

static void set_bytes(struct cache *c, struct held *h, uint64_t bytes)
{
	c->sums[c->n] += bytes - h->bytes;
	if (h->cluster < c->n)
		c->sums[h->cluster] += bytes - h->bytes;
	h->bytes = bytes;
}

static void drop_held(struct cache *c, struct held *h)
{
	set_bytes(c, h, 0);
	hmap_remove(&c->held, &h->node);
	free(h);
}

/* The first limit that is passed, or c->n + 1. */
static size_t passed(const struct cache *c)
{
	size_t i = 0;

	while (i <= c->n && (!c->limits[i] || c->sums[i] <= c->limits[i]))
		i++;
	return i;
}

/* --- life --- */

struct cache *cache_new(struct fsys *fs)
{
	const struct config *cf = engine_config(fs->en);
	struct cache *c = xcalloc(1, sizeof(*c));
	bool any = cf->cache_bytes > 0;

	c->fs = fs;
	c->n = cf->n_clusters;
	c->limits = xcalloc(c->n + 1, sizeof(*c->limits));
	c->sums = xcalloc(c->n + 1, sizeof(*c->sums));
	c->limits[c->n] = (uint64_t)cf->cache_bytes;
	hmap_init(&c->held);
	for (size_t i = 0; i < c->n; i++) {
		if (cf->clusters[i]->cache_bytes <= 0)
			continue;
		c->limits[i] = (uint64_t)cf->clusters[i]->cache_bytes;
		any = true;
	}
	if (any)
		return c;
	cache_free(c);
	return NULL;
}

static void forget_files(struct cache *c)
{
	if (c->dir)
		(void)closedir(c->dir);
	c->dir = NULL;
	for (size_t i = 0; i < c->n_files; i++)
		free(c->files[i].path);
	c->n_files = 0;
	c->bytes = 0;
	c->changed = false;
}

void cache_free(struct cache *c)
{
	struct hmap_node *n;

	if (!c)
		return;
	while ((n = hmap_walk(&c->held, NULL)))
		drop_held(c, container_of(n, struct held, node));
	hmap_release(&c->held);
	forget_files(c);
	free(c->files);
	free(c->limits);
	free(c->sums);
	free(c);
}

/* --- what others tell --- */

int cache_put(struct fsys *fs, uint32_t run, const char *part, const char *done)
{
	const struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } };
	struct cache *c = fs->cache;
	struct stat before, after;
	struct held *h;

	if (c) {
		(void)utimensat(AT_FDCWD, part, now, 0);
		if (stat(done, &before) < 0)
			before.st_size = 0;
	}
	if (rename(part, done) < 0)
		return -errno;
	if (!c || stat(done, &after) < 0)
		return 0;
	if (c->dir && run == c->run)
		c->changed = true;
	if (c->phase == COUNTING && run > c->counted)
		return 0; /* it will be */
	h = held_of(c, run, true);
	set_bytes(c, h, h->bytes + (uint64_t)after.st_size - (uint64_t)before.st_size);
	if (h->oldest == INT64_MAX)
		h->oldest = clock_real(fs->clock);
	return 0;
}

void cache_used(const struct fsys *fs, int fd)
{
	const struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } };

	if (fs->cache)
		(void)futimens(fd, now);
}

void cache_gone(const struct fsys *fs, uint32_t run)
{
	struct held *h = fs->cache ? held_of(fs->cache, run, false) : NULL;

	if (h)
		drop_held(fs->cache, h);
}

static bool is_kept(const struct run *r)
{
	return json_is_true(json_object_get(r->facts, "keep"));
}

uint64_t cache_too_small(const struct fsys *fs, const struct run *r, uint64_t bytes)
{
	const struct cache *c = fs->cache;
	uint64_t least = 0;
	size_t own;

	if (!c || is_kept(r))
		return 0;
	own = cluster_of(c, r);
	if (own < c->n && c->limits[own] && bytes > c->limits[own])
		least = c->limits[own];
	if (c->limits[c->n] && bytes > c->limits[c->n] && (!least || c->limits[c->n] < least))
		least = c->limits[c->n];
	return least;
}

bool cache_say(const struct fsys *fs, const char *cluster, uint64_t *bytes, uint64_t *limit)
{
	const struct cache *c = fs->cache;
	const struct config *cf = engine_config(fs->en);
	size_t i = 0;

	if (!c)
		return false;
	while (cluster && i < c->n && strcmp(cf->clusters[i]->name, cluster) != 0)
		i++;
	if (!cluster)
		i = c->n;
	*bytes = c->sums[i];
	*limit = c->limits[i];
	return *limit != 0;
}

/* --- reading a run's directory --- */

/* False: it has none. */
static bool open_dir(struct cache *c, uint32_t run)
{
	cleanup_free char *path = xasprintf("%s/spool/%u", c->fs->state_dir, run);

	forget_files(c);
	c->run = run;
	c->dir = opendir(path);
	return c->dir != NULL;
}

static int64_t real_us(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * USEC_PER_SEC + ts->tv_nsec / 1000;
}

static void take_entry(struct cache *c, const char *name)
{
	struct here *f;
	struct stat st;
	char *end;
	long n;

	if (strncmp(name, "data.", 5) != 0 || name[5] < '0' || name[5] > '9')
		return;
	n = strtol(name + 5, &end, 10);
	if (*end || n > UINT32_MAX || fstatat(dirfd(c->dir), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (c->n_files == c->cap) {
		c->cap = c->cap ? c->cap * 2 : 64;
		c->files = xrealloc(c->files, c->cap * sizeof(*c->files));
	}
	f = &c->files[c->n_files++];
	*f = (struct here){ .index = (uint32_t)n, .size = (uint64_t)st.st_size, .used = real_us(&st.st_atim) };
	c->bytes += f->size;
}

/* True: all of it was read. */
static bool read_some(struct cache *c, int *left)
{
	const struct dirent *de;

	while (*left > 0) {
		(*left)--;
		de = readdir(c->dir);
		if (de) {
			take_entry(c, de->d_name);
			continue;
		}
		if (!c->changed) {
			(void)closedir(c->dir);
			c->dir = NULL;
			return true;
		}
		if (!open_dir(c, c->run))
			return true;
	}
	return false;
}

/* --- counting --- */

static void count_run(struct cache *c)
{
	int64_t oldest = INT64_MAX;
	struct held *h;

	for (size_t i = 0; i < c->n_files; i++)
		if (c->files[i].used < oldest)
			oldest = c->files[i].used;
	if (c->n_files && engine_run(c->fs->en, c->run)) {
		h = held_of(c, c->run, true);
		set_bytes(c, h, c->bytes);
		h->oldest = oldest;
	}
	forget_files(c);
}

static void count_some(struct cache *c)
{
	int left = SLICE;

	while (left > 0) {
		const struct run *r;

		if (c->dir) {
			if (read_some(c, &left))
				count_run(c);
			continue;
		}
		left--;
		r = engine_next(c->fs->en, c->counted);
		if (!r) {
			c->phase = IDLE;
			return;
		}
		c->counted = r->num;
		(void)open_dir(c, r->num);
	}
}

/* --- choosing a run --- */

static struct paths *table_of(const struct cache *c, uint32_t run)
{
	struct hmap_node *n = hmap_first(&c->fs->paths, run);

	return n ? container_of(n, struct paths, node) : NULL;
}

/* May anything of it go, as far as the run and its cluster are concerned? */
static bool may_go(const struct cache *c, const struct run *r)
{
	const struct engine_link *link = r && r->cluster ? engine_cluster_link(c->fs->en, r->cluster) : NULL;
	const struct paths *p = r ? table_of(c, r->num) : NULL;

	return r && link && link->up && !run_is_live(r) && !is_kept(r) && !json_object_get(r->facts, "cleaned") &&
	       !(p && p->ahead.all);
}

static void rest(struct cache *c, int64_t at)
{
	forget_files(c);
	c->phase = IDLE;
	c->next_at = at;
}

static void choose(struct cache *c, int64_t now)
{
	struct held *first = NULL;

	c->bound = INT64_MAX;
	for (struct hmap_node *n = hmap_walk(&c->held, NULL); n; n = hmap_walk(&c->held, n)) {
		struct held *h = container_of(n, struct held, node);

		if ((c->scope < c->n && h->cluster != c->scope) || h->oldest == INT64_MAX || h->again_at > now ||
		    !may_go(c, engine_run(c->fs->en, h->run)))
			continue;
		if (first && h->oldest >= first->oldest) {
			c->bound = h->oldest < c->bound ? h->oldest : c->bound;
			continue;
		}
		if (first)
			c->bound = first->oldest;
		first = h;
	}
	if (!first) {
		rest(c, now + AGAIN_US);
	} else if (open_dir(c, first->run)) {
		c->phase = READING;
	} else {
		drop_held(c, first);
	}
}

/* --- naming what goes --- */

static int by_index(const void *a, const void *b)
{
	const struct here *x = a, *y = b;

	return (x->index > y->index) - (x->index < y->index);
}

static int by_use(const void *a, const void *b)
{
	const struct here *x = a, *y = b;

	return x->used != y->used ? (x->used > y->used) - (x->used < y->used) : by_index(a, b);
}

/* Length of the directory's part of a path. */
static size_t dir_len(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? (size_t)(slash - path) : 0;
}

/* What goes first, by directory and name. */
static int by_place(const void *a, const void *b)
{
	const struct here *x = a, *y = b;
	size_t n, m;
	int d;

	if (x->goes != y->goes || !x->goes)
		return y->goes - x->goes;
	n = dir_len(x->path);
	m = dir_len(y->path);
	d = strncmp(x->path, y->path, n < m ? n : m);
	if (d == 0)
		d = (n > m) - (n < m);
	return d ? d : strcmp(x->path, y->path);
}

static void note_open(struct cache *c, uint64_t ino)
{
	struct here key = { .index = ino_sub(ino) }, *f;

	if (ino_kind(ino) != INO_PATH || ino_number(ino) != c->run || !c->n_files)
		return;
	f = bsearch(&key, c->files, c->n_files, sizeof(*f), by_index);
	if (f)
		f->open = true;
}

static void open_before(void *arg, struct shared_handle *h)
{
	note_open(arg, h->ino);
}

/* Files are in the order of their numbers. Handles of an earlier worker are in the shared table alone. */
static void find_open(struct cache *c)
{
	for (struct hmap_node *n = hmap_walk(&c->fs->handles, NULL); n; n = hmap_walk(&c->fs->handles, n))
		note_open(c, container_of(n, struct handle, node)->ino);
	shared_handle_walk(c->fs->shared, open_before, c);
}

/* The names of files, from the list of results. */
static void find_paths(struct cache *c)
{
	bool there = table_of(c, c->run) != NULL;
	struct spot s;

	if (!area_at(c->fs, ino_make(INO_RUN, c->run, RUN_ROW_RESULTS), &s))
		return;
	area_load_manifest(c->fs, &s);
	for (size_t i = 0; s.p->manifest && i < c->n_files; i++) {
		struct here *f = &c->files[i];
		const struct pentry *e = paths_at(s.p, f->index);

		if (!e || e->area != 'r' || !e->known || e->type != 'f' || e->size != f->size || e->coming)
			continue;
		f->path = xstrdup(e->path);
		f->mtime = e->mtime;
	}
	if (!there)
		area_forget(c->fs, c->run);
}

static void journaled(void *arg, int code, const char *text);

/* The directory was read. */
static void name_files(struct cache *c, int64_t now)
{
	struct held *h = held_of(c, c->run, false);
	uint64_t over, bytes = 0;
	int64_t recent = clock_real(c->fs->clock) - GRACE_US;
	bool any = false;

	if (!h) { /* purged meanwhile */
		rest(c, now);
		return;
	}
	set_bytes(c, h, c->bytes);
	h->oldest = INT64_MAX;
	if (c->n_files)
		qsort(c->files, c->n_files, sizeof(*c->files), by_index);
	find_open(c);
	find_paths(c);
	if (c->n_files)
		qsort(c->files, c->n_files, sizeof(*c->files), by_use);
	over = c->sums[c->scope] > c->limits[c->scope] ? c->sums[c->scope] - c->limits[c->scope] : 0;
	over += over ? c->limits[c->scope] / ROOM_PART : 0;
	for (size_t i = 0; i < c->n_files; i++) {
		struct here *f = &c->files[i];

		if (!f->path || f->open)
			continue;
		if (bytes < over && f->used <= c->bound && f->used < recent) {
			f->goes = any = true;
			bytes += f->size;
		} else if (f->used < h->oldest) {
			h->oldest = f->used;
		}
	}
	if (any) {
		qsort(c->files, c->n_files, sizeof(*c->files), by_place);
		c->at = c->upto = 0;
		c->phase = JOURNAL;
		engine_evicting(c->fs->en, c->run, journaled, NULL, c);
		return;
	}
	if (h->oldest <= c->bound) /* it is still the first one: others may have what can go */
		h->again_at = now + AGAIN_US;
	rest(c, now);
}

/* --- asking the cluster --- */

static void listed(void *arg, int code, const char *text, const char *data, size_t len);

/* The next directory; true: there was one. */
static bool ask_next(struct cache *c)
{
	cleanup_free char *dir = NULL;
	size_t n;

	c->at = c->upto;
	if (c->at == c->n_files || !c->files[c->at].goes)
		return false;
	n = dir_len(c->files[c->at].path);
	dir = xstrndup(c->files[c->at].path, n);
	while (c->upto < c->n_files && c->files[c->upto].goes && dir_len(c->files[c->upto].path) == n &&
	       strncmp(c->files[c->upto].path, dir, n) == 0)
		c->upto++;
	c->phase = ASKING;
	engine_list(c->fs->en, c->run, AREA_RESULTS, dir, listed, c);
	return true;
}

static void journaled(void *arg, int code, const char *text)
{
	struct cache *c = arg;

	(void)text;
	point(POINT_CACHE_NAMED);
	if (code < 0 || !may_go(c, engine_run(c->fs->en, c->run)) || !ask_next(c))
		rest(c, clock_mono(c->fs->clock) + AGAIN_US);
}

static const char *base_of(const struct here *f)
{
	size_t n = dir_len(f->path);

	return f->path + (n ? n + 1 : 0);
}

static int by_name(const void *key, const void *f)
{
	return strcmp(key, base_of(f));
}

/* Marks (`stays` is false) those that the cluster has as the list of results has them. True: the listing may be cut. */
static bool compare(struct cache *c, const char *data, size_t len)
{
	const char *field[6], *end = data + len;
	size_t n = 0;

	for (size_t i = c->at; i < c->upto; i++)
		c->files[i].stays = true;
	while ((data = paths_record(data, end, field))) {
		struct here *f = bsearch(field[4], c->files + c->at, c->upto - c->at, sizeof(*f), by_name);

		n++;
		if (f && field[0][0] == 'f' && strtoull(field[1], NULL, 10) == f->size &&
		    paths_time(field[2]) / USEC_PER_SEC == f->mtime / USEC_PER_SEC)
			f->stays = false;
	}
	return n >= LISTED_MAX;
}

/* Was it used since it was named? */
static bool used_since(const struct here *f, const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 || real_us(&st.st_atim) != f->used || (uint64_t)st.st_size != f->size;
}

static void remove_confirmed(struct cache *c, struct held *h)
{
	const struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_OMIT } };
	size_t gone = 0, lost = 0;

	point(POINT_CACHE_CONFIRMED);
	for (size_t i = c->at; i < c->upto; i++) {
		const struct here *f = &c->files[i];
		cleanup_free char *path = ahead_file(c->fs, c->run, f->index);

		if (used_since(f, path))
			continue;
		if (f->stays) {
			lost++;
			(void)utimensat(AT_FDCWD, path, now, 0);
		} else if (unlink(path) == 0) {
			gone++;
			point(POINT_CACHE_UNLINKED);
			set_bytes(c, h, h->bytes > f->size ? h->bytes - f->size : 0);
		}
	}
	if (gone)
		log_info("run %u: %zu fetched results made room", c->run, gone);
	if (lost) {
		log_warn("run %u: its cluster no longer has %zu results as they were: they stay here", c->run, lost);
		h->again_at = clock_mono(c->fs->clock) + LOST_US;
		h->oldest = clock_real(c->fs->clock);
	}
}

static void listed(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct cache *c = arg;
	struct held *h = held_of(c, c->run, false);
	int64_t now = clock_mono(c->fs->clock);
	bool missing = code == -ENOENT || code == -ENOTDIR;

	(void)text;
	if (!h || !may_go(c, engine_run(c->fs->en, c->run))) {
		rest(c, now);
		return;
	}
	if (code < 0 && !missing) {
		h->again_at = now + AWAY_US;
		rest(c, now);
		return;
	}
	if (!compare(c, data, missing ? 0 : len))
		remove_confirmed(c, h);
	else
		h->again_at = now + LOST_US;
	if (!ask_next(c))
		rest(c, now);
}

/* --- time --- */

int64_t cache_timer(struct cache *c, int64_t now)
{
	int left = SLICE;

	if (!c || c->phase == JOURNAL || c->phase == ASKING)
		return INT64_MAX;
	if (c->phase == COUNTING) {
		count_some(c);
		return now;
	}
	if (c->phase == READING) {
		if (read_some(c, &left))
			name_files(c, now);
		return now;
	}
	c->scope = passed(c);
	if (c->scope > c->n)
		return INT64_MAX;
	if (now < c->next_at)
		return c->next_at;
	choose(c, now);
	return c->phase == IDLE ? c->next_at : now;
}
