/*
 * Private to area.c, area_look.c, area_files.c and what caches their bytes (content.c, cache.c).
 */
#ifndef FS_AREA_H
#define FS_AREA_H

#include "backend/cluster.h"
#include "fs/content.h"
#include "fs/fsys.h"
#include "fs/paths.h"

/* A place in an area. */
struct spot {
	const struct run *r;
	struct paths *p;
	char area;        /* 'r', 'w', 'f', 'y': ray/logs, 's': spark/logs */
	const char *path; /* "" for the area itself */
	struct pentry *e; /* NULL for the area itself */
};

struct paths *area_paths(struct fsys *fs, uint32_t run);
bool area_at(struct fsys *fs, uint64_t ino, struct spot *s);
uint64_t area_ino(const struct spot *s, const struct pentry *e);
enum cluster_area area_number(char area); /* of what is on a cluster */
void area_join(struct strbuf *out, const char *dir, const char *name);

/* area_look.c */
void area_load_manifest(struct fsys *fs, struct spot *s);
char *area_parent(const struct spot *s); /* the directory that it is in; the caller frees */
/* Nothing can be said of a directory: it was never listed, and its cluster cannot be asked. */
bool area_away(struct fsys *fs, struct spot *s, const char *dir);
/* What to say of a name that is not known in a directory: -ENOENT, or -EHOSTUNREACH where nothing can be said. */
int area_missing(struct fsys *fs, struct spot *s, const char *dir);

/* files/: a directory of this machine. `path` is relative to it. */
int files_lookup(struct fsys *fs, struct spot *s, const char *path, uint64_t *ino);
int files_stat(struct fsys *fs, struct spot *s, struct stat *st);
void files_scan(struct fsys *fs, struct spot *s);
int files_readlink(struct fsys *fs, struct spot *s, struct strbuf *out);
int files_open(struct fsys *fs, struct spot *s, struct handle *h, int flags);
void files_read(struct fsys *fs, fuse_req_t req, struct spot *s, struct handle *h, uint64_t off, size_t size);

#endif
