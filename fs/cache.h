/*
 * Room for fetched results (STATE/spool/NUM/data.INDEX): `cache_size` of the configuration says how much, of a cluster
 * for its runs, of [defaults] for all together. What was opened longest ago goes first, when its cluster still has it
 * as it was; then it is fetched again by who reads it.
 *
 * Stays: what is open or on its way, what belongs to runs that are live, that are marked with `keep`, or whose
 * directories are gone from the cluster, and what the cluster no longer has.
 */
#ifndef FS_CACHE_H
#define FS_CACHE_H

#include "fs/fsys.h"

struct cache;

/* NULL: there is no limit, and nothing is counted. Looks at what is here piece by piece, in cache_timer. */
struct cache *cache_new(struct fsys *fs);
void cache_free(struct cache *c);
/* Does what is due at `now` (monotonic us), never for long; when it wants to be called next. */
int64_t cache_timer(struct cache *c, int64_t now);

/* Gives a fetched file its final name: 0 or -errno. All of these work without a limit, too (fs->cache NULL). */
int cache_put(struct fsys *fs, uint32_t run, const char *part, const char *done);
void cache_used(const struct fsys *fs, int fd); /* it was opened now */
void cache_gone(const struct fsys *fs, uint32_t run);
/* The least limit that the results of a run with so many bytes do not fit in; 0: they do, or they are kept. */
uint64_t cache_too_small(const struct fsys *fs, const struct run *r, uint64_t bytes);

/* Bytes here and the limit, of one cluster or (NULL) of all; false: there is no such limit. */
bool cache_say(const struct fsys *fs, const char *cluster, uint64_t *bytes, uint64_t *limit);

#endif
