/*
 * The local copy of what runs write: append-only files under STATE/spool/NUM/, numbered by us and never named by a
 * remote. One writer (the cluster's thread) and any number of readers (the reactor) in one process; the file
 * itself is the truth, so a killed worker continues at the file's length and neither loses nor repeats a byte.
 *
 *   STATE/spool/NUM/out  err     bytes of the two streams (merged: only out)
 *   STATE/spool/NUM/order        8-byte little-endian records: top bit = stream (0 out, 1 err), rest = count of bytes
 *
 * `log` of a split run is the two streams in order of arrival: the order file says which bytes come next. Data is
 * written before its order record; what a kill left between them is added to the order when the spool is opened for
 * writing. Readers show of each stream what its records count: a length that was seen never shrinks, and out + err is
 * always log.
 */
#ifndef BACKEND_SPOOL_H
#define BACKEND_SPOOL_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum spool_stream { SPOOL_OUT, SPOOL_ERR, SPOOL_LOG };	/* SPOOL_LOG is for reading only */

struct spool;	/* open for writing */

/* `dir` is STATE/spool; makes NUM/ (0700) when missing. The writer owns the result. */
int spool_open(const char *dir, uint32_t num, struct spool **out, struct err *e);
void spool_close(struct spool *s);
uint64_t spool_len(const struct spool *s, enum spool_stream st);
/* Appends; all or nothing (a short write is cut back): 0 or negative errno (-ENOSPC: try later). */
int spool_append(struct spool *s, enum spool_stream st, const void *data, size_t len);
/* Puts all that was appended on the disk, for before an end is recorded or remote copies are removed. */
int spool_sync(const struct spool *s);

struct spool_reader;

/* For reading; a spool that is not there yet reads as empty. */
int spool_reader_open(const char *dir, uint32_t num, bool merged, struct spool_reader **out, struct err *e);
void spool_reader_close(struct spool_reader *r);
/* Current length (looks at the files; the order index is read incrementally). */
uint64_t spool_reader_len(struct spool_reader *r, enum spool_stream st);
/* Like pread: bytes read, 0 at the end, or negative errno. */
ssize_t spool_reader_pread(struct spool_reader *r, enum spool_stream st, void *buf, size_t len, uint64_t off);
/* Time of the last change of a stream, real microseconds; 0 when there is nothing. */
int64_t spool_reader_mtime(struct spool_reader *r, enum spool_stream st);

/* Removes STATE/spool/NUM and all in it; a missing one is fine. */
int spool_remove(const char *dir, uint32_t num);

#endif
