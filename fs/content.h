/*
 * The bytes of remote files, fetched when they are read and kept beside the spool under our own numbers
 * (STATE/spool/NUM/data.INDEX). A file of an ended run that was fetched whole is never asked for again.
 */
#ifndef FS_CONTENT_H
#define FS_CONTENT_H

#include "fs/fsys.h"
#include "fs/paths.h"

struct content;

/* Removes what an earlier worker had begun to fetch. Before any is opened. */
void content_sweep(const struct fsys *fs, uint32_t run);

/* For one open handle; `final`: the run has ended, so the file does not change and may be kept. */
struct content *content_open(struct fsys *fs, uint32_t run, const struct pentry *e, bool final);
void content_close(struct content *c);
/* All of it is here, so that no read can fail. */
bool content_whole(const struct content *c);
/* Fetches all of a final file; `done` is called once, later or at once, unless it is closed before. It may close it. */
void content_pull(struct content *c, void (*done)(void *arg, int code), void *arg);
uint64_t content_got(const struct content *c); /* bytes that are here, about */
/* A live file is looked at anew: it has this size now. */
void content_renew(struct content *c, uint64_t size);
/*
 * Small files are fetched when they are opened: answers now, or parks the OPEN until the file is here or cannot be had
 * (-ENOENT: it was removed; another trouble is left to who reads). `opened` fills in how the kernel may cache it.
 */
void content_wait(struct content *c, fuse_req_t req, struct handle *h,
		  void (*opened)(struct fsys *, struct handle *, struct fuse_file_info *));
/* Answers, or parks until the bytes are here (or -EHOSTUNREACH). */
void content_read(struct content *c, fuse_req_t req, struct handle *h, uint64_t off, size_t size);

#endif
