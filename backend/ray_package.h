/*
 * The package that a job's files travel in: a zip archive without compression (APPNOTE.TXT 4.3; method 0), in which a
 * file's place, time and order say nothing, so that the same files make the same bytes and the same name, and are sent
 * to a cluster once.
 */
#ifndef BACKEND_RAY_PACKAGE_H
#define BACKEND_RAY_PACKAGE_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

#include <jansson.h>
#include <stdbool.h>

struct ray_package {
	struct strbuf zip, index; /* index: the central directory, while it grows */
	unsigned n;
	size_t max; /* bytes of the whole */
};

void ray_package_init(struct ray_package *p, size_t max);
void ray_package_release(struct ray_package *p);
/* `name` is relative. -EFBIG with a sentence. */
int ray_package_add(struct ray_package *p, const char *name, unsigned mode, const void *data, size_t len,
		    struct err *e);
/* A file, or a directory with all in it, under `name` ("": a directory's contents). Names that match one of the strings
 * of `excludes` (may be NULL), and .git, .venv, venv and __pycache__, are left out, and so is all that is no regular
 * file. */
int ray_package_tree(struct ray_package *p, const char *path, const char *name, const json_t *excludes, struct err *e);
/* Ends it; the name by content: _ray_pkg_HEX.zip, for the caller to free. */
char *ray_package_end(struct ray_package *p);

#endif
