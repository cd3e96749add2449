/*
 * The spool's files, for its writer and its reader only (spool.h has the picture).
 */
#ifndef BACKEND_SPOOL_FORMAT_H
#define BACKEND_SPOOL_FORMAT_H

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/spool.h"

#include <endian.h>

/* Those of the streams, then those of the messages. */
enum spool_file { SPOOL_FILE_OUT, SPOOL_FILE_ERR, SPOOL_FILE_ORDER, SPOOL_N_FILES, SPOOL_FILE_EVENTS = SPOOL_N_FILES,
		  SPOOL_FILE_INDEX };

static inline char *spool_path(const char *dir, uint32_t num, enum spool_file file)
{
	static const char *const names[] = { "out", "err", "order", "events", "events.index" };

	return xasprintf("%s/%u/%s", dir, num, names[file]);
}

/* One record of the order file, as it is on disk. */
#define SPOOL_RECORD sizeof(uint64_t)
#define SPOOL_ERR_BIT (UINT64_C(1) << 63)

static inline uint64_t spool_record(enum spool_stream st, uint64_t count)
{
	return htole64(count | (st == SPOOL_ERR ? SPOOL_ERR_BIT : 0));
}

static inline enum spool_stream spool_record_stream(uint64_t rec)
{
	return le64toh(rec) & SPOOL_ERR_BIT ? SPOOL_ERR : SPOOL_OUT;
}

static inline uint64_t spool_record_count(uint64_t rec)
{
	return le64toh(rec) & ~SPOOL_ERR_BIT;
}

/*
 * One record of the index of messages: KIND (4 bits) REASON (8) LAST (1) COUNT (51), the next COUNT bytes of the events file are
 * of this kind (enum pipes_kind) and the last of their line. Whole lines only: what is behind the last record with LAST does not count.
 */
#define EVENTS_LAST_BIT (UINT64_C(1) << 51)
#define EVENTS_COUNT_MASK (EVENTS_LAST_BIT - 1)

static inline uint64_t events_record(unsigned kind, unsigned reason, bool last, uint64_t count)
{
	return htole64((uint64_t)kind << 60 | (uint64_t)reason << 52 | (last ? EVENTS_LAST_BIT : 0) | count);
}

static inline unsigned events_record_kind(uint64_t rec)
{
	return (unsigned)(le64toh(rec) >> 60);
}

static inline unsigned events_record_reason(uint64_t rec)
{
	return (unsigned)(le64toh(rec) >> 52) & 0xff;
}

static inline bool events_record_last(uint64_t rec)
{
	return le64toh(rec) & EVENTS_LAST_BIT;
}

static inline uint64_t events_record_count(uint64_t rec)
{
	return le64toh(rec) & EVENTS_COUNT_MASK;
}

/* For the writers: all or the first error; the length of a plain file, 0 while it is not there; STATE/spool/NUM. */
int spool_write_at(int fd, const void *data, size_t len, uint64_t off);
int spool_file_len(const char *path, uint64_t *len);
int spool_make_dirs(const char *dir, uint32_t num, struct err *e);

/* The reader's part for messages (spool_events_reader.c); `st` is SPOOL_EVENTS or one of those behind it. */
struct events_reader;
struct events_reader *events_reader_new(const char *dir, uint32_t num);
void events_reader_free(struct events_reader *r);
uint64_t events_reader_len(struct events_reader *r, enum spool_stream st);
ssize_t events_reader_pread(struct events_reader *r, enum spool_stream st, void *buf, size_t len, uint64_t off);
int64_t events_reader_mtime(struct events_reader *r);
uint64_t events_reader_rejected(struct events_reader *r);
void events_reader_rejects(struct events_reader *r, struct strbuf *out);

#endif
