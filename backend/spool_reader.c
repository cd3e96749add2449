/*
 * Reading a spool. The reader follows the order file: `at` is how far it has read, `visible` the bytes of each
 * stream that the records up to there count. A record is taken only when the files hold its bytes, so nothing is
 * shown that is not there; a torn record at the end is not looked at. For `log` the records become segments,
 * neighbours of one stream merged, found by binary search; the index is made when `log` is first asked for.
 */
#include "backend/spool_format.h"

#include "backend/base/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK 512 /* records read at a time */

enum { OUT = SPOOL_FILE_OUT, ERR = SPOOL_FILE_ERR, ORDER = SPOOL_FILE_ORDER };

struct segment {
	uint64_t log_off; /* where it begins in the log */
	uint64_t off;	  /* and in its stream */
	enum spool_stream st;
};

struct spool_reader {
	char *path[SPOOL_N_FILES];
	int fd[SPOOL_N_FILES]; /* -1 while the file is not there */
	bool merged;
	bool indexed; /* segments are kept */
	uint64_t at;  /* bytes of the order file that were taken */
	uint64_t visible[2];
	struct segment *seg;
	size_t n_seg, cap_seg;
	struct events_reader *events;
};

int spool_reader_open(const char *dir, uint32_t num, bool merged, struct spool_reader **out, struct err *e)
{
	struct spool_reader *r = xcalloc(1, sizeof(*r));

	(void)e; /* files are opened when they are there; today nothing can fail */
	r->merged = merged;
	for (int i = 0; i < SPOOL_N_FILES; i++) {
		r->path[i] = spool_path(dir, num, (enum spool_file)i);
		r->fd[i] = -1;
	}
	r->events = events_reader_new(dir, num);
	*out = r;
	return 0;
}

void spool_reader_close(struct spool_reader *r)
{
	if (!r)
		return;
	for (int i = 0; i < SPOOL_N_FILES; i++) {
		free(r->path[i]);
		if (r->fd[i] >= 0)
			(void)close(r->fd[i]);
	}
	events_reader_free(r->events);
	free(r->seg);
	free(r);
}

/* Length of a file; 0 while it is not there or cannot be opened. */
static uint64_t length_of(struct spool_reader *r, int file)
{
	struct stat st;

	if (r->fd[file] < 0)
		r->fd[file] = open(r->path[file], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (r->fd[file] < 0 || fstat(r->fd[file], &st) < 0)
		return 0;
	return (uint64_t)st.st_size;
}

static void add_segment(struct spool_reader *r, enum spool_stream st)
{
	if (r->n_seg > 0 && r->seg[r->n_seg - 1].st == st)
		return;
	if (r->n_seg == r->cap_seg) {
		r->cap_seg = r->cap_seg ? r->cap_seg * 2 : 16;
		r->seg = xrealloc(r->seg, r->cap_seg * sizeof(*r->seg));
	}
	r->seg[r->n_seg++] = (struct segment){ r->visible[OUT] + r->visible[ERR], r->visible[st], st };
}

/* Takes the records that are backed by data. True: all were, and there may be more. */
static bool take(struct spool_reader *r, const uint64_t *rec, size_t n, const uint64_t have[2])
{
	for (size_t i = 0; i < n; i++) {
		uint64_t count = spool_record_count(rec[i]);
		enum spool_stream st = spool_record_stream(rec[i]);

		if (count > have[st] - r->visible[st])
			return false;
		if (count && r->indexed)
			add_segment(r, st);
		r->visible[st] += count;
		r->at += SPOOL_RECORD;
	}
	return true;
}

/*
 * Brings the index up to date. The order file is read before the lengths of the others are taken: they only grow,
 * so what the records say was there already.
 */
static void refresh(struct spool_reader *r)
{
	uint64_t rec[CHUNK], have[2];

	while (length_of(r, ORDER) >= r->at + SPOOL_RECORD) {
		ssize_t n = pread(r->fd[ORDER], rec, sizeof(rec), (off_t)r->at);

		if (n < (ssize_t)SPOOL_RECORD)
			return;
		have[OUT] = length_of(r, OUT);
		have[ERR] = length_of(r, ERR);
		if (have[OUT] < r->visible[OUT] || have[ERR] < r->visible[ERR])
			return; /* somebody shortened the files; reads will find their end */
		if (!take(r, rec, (size_t)n / SPOOL_RECORD, have))
			return;
	}
}

static void refresh_for(struct spool_reader *r, enum spool_stream st)
{
	if (st == SPOOL_LOG && !r->indexed) {
		r->indexed = true;
		r->at = 0;
		r->visible[OUT] = 0;
		r->visible[ERR] = 0;
	}
	refresh(r);
}

/* Merged: the log is `out`, and there is nothing else. */
static enum spool_stream actual(const struct spool_reader *r, enum spool_stream st)
{
	return r->merged && st == SPOOL_LOG ? SPOOL_OUT : st;
}

uint64_t spool_reader_len(struct spool_reader *r, enum spool_stream st)
{
	if (st >= SPOOL_EVENTS)
		return events_reader_len(r->events, st);
	st = actual(r, st);
	if (r->merged && st == SPOOL_ERR)
		return 0;
	/* lengths need no segments, so the index is made only by a read of the log */
	refresh(r);
	return st == SPOOL_LOG ? r->visible[OUT] + r->visible[ERR] : r->visible[st];
}

/* The last segment that begins at or before `off`; there is one when off is inside the log. */
static size_t find_segment(const struct spool_reader *r, uint64_t off)
{
	size_t lo = 0, hi = r->n_seg;

	assert(r->n_seg > 0);
	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (r->seg[mid].log_off <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static ssize_t read_stream(struct spool_reader *r, enum spool_stream st, char *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	if (off >= r->visible[st])
		return 0;
	if (len > r->visible[st] - off)
		len = (size_t)(r->visible[st] - off);
	while (done < len) {
		ssize_t n = pread(r->fd[st], buf + done, len - done, (off_t)(off + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && !done)
			return -errno;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

static ssize_t read_log(struct spool_reader *r, char *buf, size_t len, uint64_t off)
{
	uint64_t total = r->visible[OUT] + r->visible[ERR];
	size_t done = 0;

	if (off >= total)
		return 0;
	for (size_t i = find_segment(r, off); i < r->n_seg && done < len; i++) {
		const struct segment *s = &r->seg[i];
		uint64_t end = i + 1 < r->n_seg ? r->seg[i + 1].log_off : total;
		uint64_t skip = off + done - s->log_off;
		uint64_t want = end - s->log_off - skip;
		ssize_t n;

		if (want > len - done)
			want = len - done;
		n = read_stream(r, s->st, buf + done, (size_t)want, s->off + skip);
		if (n < 0)
			return done ? (ssize_t)done : n;
		done += (size_t)n;
		if ((uint64_t)n < want)
			break;
	}
	return (ssize_t)done;
}

ssize_t spool_reader_pread(struct spool_reader *r, enum spool_stream st, void *buf, size_t len, uint64_t off)
{
	if (st >= SPOOL_EVENTS)
		return events_reader_pread(r->events, st, buf, len, off);
	st = actual(r, st);
	if (r->merged && st == SPOOL_ERR)
		return 0;
	refresh_for(r, st);
	return st == SPOOL_LOG ? read_log(r, buf, len, off) : read_stream(r, st, buf, len, off);
}

static int64_t mtime_of(struct spool_reader *r, int file)
{
	struct stat st;

	if (length_of(r, file) == 0 || fstat(r->fd[file], &st) < 0)
		return 0;
	return (int64_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
}

int64_t spool_reader_mtime(struct spool_reader *r, enum spool_stream st)
{
	int64_t out, err;

	if (st >= SPOOL_EVENTS)
		return events_reader_mtime(r->events);
	st = actual(r, st);
	if (st != SPOOL_LOG)
		return r->merged && st == SPOOL_ERR ? 0 : mtime_of(r, (int)st);
	out = mtime_of(r, OUT);
	err = mtime_of(r, ERR);
	return out > err ? out : err;
}

uint64_t spool_reader_rejected(struct spool_reader *r)
{
	return events_reader_rejected(r->events);
}

void spool_reader_rejects(struct spool_reader *r, struct strbuf *out)
{
	events_reader_rejects(r->events, out);
}
