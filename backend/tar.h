/*
 * A directory as a tar archive (POSIX.1-2017 pax interchange format: ustar, with extended headers only where a name, a
 * link or a size does not fit). Regular files, directories, and symbolic links that stay inside; everything else is
 * left out. Modes (without set-id bits) and mtimes are kept, owners are not. The list is made when it is opened, the
 * bytes are produced as they are read, so that an archive of any size needs no room.
 */
#ifndef BACKEND_TAR_H
#define BACKEND_TAR_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TAR_MAX_ENTRIES 100000

struct tar;

/* A file or directory from elsewhere: absolute `path` here, `name` (no slash) in the archive. */
struct tar_extra {
	const char *path, *name;
};

/* `dir` may be NULL or missing when there are extras. -ENOENT when there is nothing at all or an extra is missing,
   -EFBIG for too many entries, or what the system says. */
int tar_open(const char *dir, const struct tar_extra *extra, size_t n_extra, struct tar **out, struct err *e);
void tar_close(struct tar *t);
size_t tar_count(const struct tar *t);  /* entries; 0: nothing to send */
uint64_t tar_size(const struct tar *t); /* bytes of the whole archive */
/* Of names, sizes, times and modes: two archives with one print have the same bytes, unless somebody meant them not to. */
uint64_t tar_print(const struct tar *t);
/* Goes on as if this many bytes (at most tar_size) had been read. Only from the beginning. */
int tar_skip(struct tar *t, uint64_t n, struct err *e);
/* Like read(2): 0 at the end. -ESTALE when a file changed its size since tar_open; the archive is worthless then. */
ssize_t tar_read(struct tar *t, void *buf, size_t len, struct err *e);

/* Whether a link at `path` (relative, inside) with this target stays inside; lexical. */
bool tar_link_inside(const char *path, const char *target);

#endif
