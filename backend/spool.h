/*
 * The local copy of what runs write: append-only files under STATE/spool/NUM/, numbered by us and never named by a
 * remote. One writer (the cluster's thread) and any number of readers (the reactor) in one process; the file
 * itself is the truth, so a killed worker continues at the file's length and neither loses nor repeats a byte.
 *
 *   STATE/spool/NUM/out  err     bytes of the two streams (merged: only out)
 *   STATE/spool/NUM/order        8-byte little-endian records: top bit = stream (0 out, 1 err), rest = count of bytes
 *   STATE/spool/NUM/events       bytes of the job's message file (Dagster Pipes)
 *   STATE/spool/NUM/events.index what each piece of them is, see spool_format.h
 *   STATE/spool/NUM/context      the Pipes context that the job is given (engine.h)
 *
 * `log` of a split run is the two streams in order of arrival: the order file says which bytes come next. Data is
 * written before its order record; what a kill left between them is added to the order when the spool is opened for
 * writing. Readers show of each stream what its records count: a length that was seen never shrinks, and out + err is
 * always log.
 *
 * `events` is the message file without the lines that Dagster's reader would die of, and what is in pipes/ are the
 * parameters of the reports: each of them is the pieces of the events file that the index says are its own. So a
 * message is here once, and no reader ever sees the beginning of a line without its end.
 */
#ifndef BACKEND_SPOOL_H
#define BACKEND_SPOOL_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum spool_stream {
	SPOOL_OUT,
	SPOOL_ERR,
	SPOOL_LOG, /* from here on for reading only */
	SPOOL_EVENTS,
	SPOOL_MATERIALIZATIONS,
	SPOOL_CHECKS,
	SPOOL_LOGS,
	SPOOL_CUSTOM,
	SPOOL_SUPERSEDED,
	SPOOL_N_STREAMS
};

struct spool; /* open for writing */

/* `dir` is STATE/spool; makes NUM/ (0700) when missing. The writer owns the result. */
int spool_open(const char *dir, uint32_t num, struct spool **out, struct err *e);
void spool_close(struct spool *s);
uint64_t spool_len(const struct spool *s, enum spool_stream st);
/* Appends; all or nothing (a short write is cut back): 0 or negative errno (-ENOSPC: try later). */
int spool_append(struct spool *s, enum spool_stream st, const void *data, size_t len);
/* Puts all that was appended on the disk, for before an end is recorded or remote copies are removed. */
int spool_sync(const struct spool *s);

/* --- messages --- */

struct events; /* open for writing */

int events_open(const char *dir, uint32_t num, struct events **out, struct err *e);
void events_close(struct events *ev);
/* Where in the job's file reading goes on. */
uint64_t events_at(const struct events *ev);
/* Is what we have of the job's file, up to offset `at`, the same as these bytes before `at`? If not, the job wrote its
 * file anew. */
bool events_same(const struct events *ev, uint64_t at, const char *bytes, size_t len);
/* How many bytes before the end are compared. */
#define EVENTS_OVERLAP 64
/*
 * The scheduler may start the job again: from the first report of a start on its lines are not visible before the end,
 * or they are what an earlier start said (SPOOL_SUPERSEDED) once the next one has begun. For a file of which nothing is
 * here yet; it stays so for whoever opens it later. 0 or negative errno.
 */
int events_hold(struct events *ev);
/* What is in the job's file from there on; all or nothing: 0 or negative errno (-ENOSPC: try later). */
int events_append(struct events *ev, const void *data, size_t len);
/* Makes the lines visible that are whole; at the `end` also a last one without a newline. 0, or negative errno: later.
 */
int events_settle(struct events *ev, bool end);
/* The job cut its file: reading begins at its beginning again. */
int events_restart(struct events *ev);
int events_sync(const struct events *ev);
/*
 * The messages behind a place, in order: whole lines, without what was rejected and without their newline. Goes on
 * until the lines are `max` bytes or more together, and says in *at how far that is; {0, 0} is the beginning. The place
 * stays the same place for ever. How many there were. Text is borrowed for the call.
 */
struct events_at {
	uint64_t index, bytes; /* of the two files */
};
typedef void (*events_cb)(void *arg, const char *line, size_t len);
long events_after(const char *dir, uint32_t num, struct events_at *at, size_t max, events_cb cb, void *arg);
/* The exception that the job's messages end with (any `closed` that carries one), as a line of text in `out`. */
bool events_exception(const char *dir, uint32_t num, struct strbuf *out);

/* --- reading --- */

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

/* How many lines of the message file were rejected, and a row for each (JSON lines, at most the first 10,000). */
uint64_t spool_reader_rejected(struct spool_reader *r);
void spool_reader_rejects(struct spool_reader *r, struct strbuf *out);

/* Removes STATE/spool/NUM and all in it; a missing one is fine. */
int spool_remove(const char *dir, uint32_t num);

#endif
