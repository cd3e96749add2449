/*
 * The bytes of remote files, fetched when they are read and kept beside the spool under our own numbers
 * (STATE/spool/NUM/data.INDEX). A file of an ended run that was fetched whole is never asked for again.
 */
#ifndef FS_CONTENT_H
#define FS_CONTENT_H

#include "fs/fsys.h"
#include "fs/paths.h"

struct content;

/* For one open handle; `final`: the run has ended, so the file does not change and may be kept. */
struct content *content_open(struct fsys *fs, uint32_t run, const struct pentry *e, bool final);
void content_close(struct content *c);
/* Answers, or parks until the bytes are here (or -EHOSTUNREACH). */
void content_read(struct content *c, fuse_req_t req, struct handle *h, uint64_t off, size_t size);

#endif
