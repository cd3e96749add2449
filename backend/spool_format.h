/*
 * The spool's files, for its writer and its reader only (spool.h has the picture).
 */
#ifndef BACKEND_SPOOL_FORMAT_H
#define BACKEND_SPOOL_FORMAT_H

#include "backend/base/mem.h"
#include "backend/spool.h"

#include <endian.h>

enum spool_file { SPOOL_FILE_OUT, SPOOL_FILE_ERR, SPOOL_FILE_ORDER, SPOOL_N_FILES };

static inline char *spool_path(const char *dir, uint32_t num, enum spool_file file)
{
	static const char *const names[SPOOL_N_FILES] = { "out", "err", "order" };

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

#endif
