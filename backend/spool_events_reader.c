/*
 * Reading messages. `events` and the files of pipes/ are views of one file: each is a list of its pieces, in order,
 * made from the index. Records are taken line by line, so that a view never ends within a line; and only when the bytes
 * are there. The list of a view is made when it is first read; lengths need none.
 */
#include "backend/spool_format.h"

#include "backend/base/clock.h"
#include "backend/pipes.h"
#include "backend/pjson.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK 512      /* records read at a time */
#define ROWS_MAX 10000 /* of rejected lines: a job may write nothing but junk */
#define SHOWN 200      /* bytes of a rejected line */
#define EXCEPTION_MAX ((uint64_t)16 * 1024 * 1024)
#define N_VIEWS (SPOOL_N_STREAMS - SPOOL_EVENTS)

struct piece {
	uint64_t at;  /* in the view */
	uint64_t off; /* in the events file */
};

struct view {
	uint64_t len;
	struct piece *pieces;
	size_t n, cap;
	bool wanted; /* pieces are kept */
};

struct events_reader {
	char *path, *index;
	int fd, index_fd; /* -1 while the file is not there */
	uint64_t taken;   /* bytes of the index */
	uint64_t pos;     /* bytes of the events file that they count */
	uint64_t rejected;
	struct view views[N_VIEWS];
};

struct events_reader *events_reader_new(const char *dir, uint32_t num)
{
	struct events_reader *r = xcalloc(1, sizeof(*r));

	r->path = spool_path(dir, num, SPOOL_FILE_EVENTS);
	r->index = spool_path(dir, num, SPOOL_FILE_INDEX);
	r->fd = r->index_fd = -1;
	return r;
}

void events_reader_free(struct events_reader *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < N_VIEWS; i++)
		free(r->views[i].pieces);
	if (r->fd >= 0)
		(void)close(r->fd);
	if (r->index_fd >= 0)
		(void)close(r->index_fd);
	free(r->path);
	free(r->index);
	free(r);
}

/* --- taking records --- */

static uint64_t length_of(int *fd, const char *path, struct stat *st)
{
	if (*fd < 0)
		*fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (*fd < 0 || fstat(*fd, st) < 0)
		return 0;
	return (uint64_t)st->st_size;
}

static void add_piece(struct view *v, uint64_t off, uint64_t count)
{
	struct piece *last = v->n ? &v->pieces[v->n - 1] : NULL;

	if (v->wanted && count && !(last && last->off + (v->len - last->at) == off)) {
		if (v->n == v->cap) {
			v->cap = v->cap ? v->cap * 2 : 16;
			v->pieces = xrealloc(v->pieces, v->cap * sizeof(*v->pieces));
		}
		assert(v->pieces);
		v->pieces[v->n++] = (struct piece){ v->len, off };
	}
	v->len += count;
}

/* In `events`, and in the feed. */
static bool is_shown(unsigned kind)
{
	return kind != PIPES_REJECTED && kind != PIPES_START && kind != PIPES_SUPERSEDED;
}

static void take_record(struct events_reader *r, uint64_t rec)
{
	static const enum spool_stream views[PIPES_N_KINDS] = {
		[PIPES_MATERIALIZATION] = SPOOL_MATERIALIZATIONS,
		[PIPES_CHECK] = SPOOL_CHECKS,
		[PIPES_LOG] = SPOOL_LOGS,
		[PIPES_CUSTOM] = SPOOL_CUSTOM,
		[PIPES_SUPERSEDED] = SPOOL_SUPERSEDED,
	};
	unsigned kind = events_record_kind(rec);
	uint64_t count = events_record_count(rec);

	if (kind == PIPES_REJECTED)
		r->rejected++;
	if (is_shown(kind))
		add_piece(&r->views[0], r->pos, count);
	if (kind < PIPES_N_KINDS && views[kind])
		add_piece(&r->views[views[kind] - SPOOL_EVENTS], r->pos, count);
	r->pos += count;
}

/* Takes whole lines of records: how many records. */
static size_t take_lines(struct events_reader *r, const uint64_t *rec, size_t n, uint64_t have)
{
	size_t done = 0;
	uint64_t sum = r->pos;

	for (size_t i = 0; i < n; i++) {
		sum += events_record_count(rec[i]);
		if (sum > have)
			break;
		if (!events_record_last(rec[i]))
			continue;
		while (done <= i)
			take_record(r, rec[done++]);
	}
	return done;
}

/* The index is looked at first: the bytes that it counts were there before it. */
static void refresh(struct events_reader *r)
{
	uint64_t rec[CHUNK];
	struct stat st;

	while (length_of(&r->index_fd, r->index, &st) >= r->taken + SPOOL_RECORD) {
		ssize_t n = pread(r->index_fd, rec, sizeof(rec), (off_t)r->taken);
		size_t took;

		if (n < (ssize_t)SPOOL_RECORD)
			return;
		took = take_lines(r, rec, (size_t)n / SPOOL_RECORD, length_of(&r->fd, r->path, &st));
		if (!took)
			return;
		r->taken += took * SPOOL_RECORD;
	}
}

static void want(struct events_reader *r, struct view *v)
{
	if (v->wanted)
		return;
	v->wanted = true;
	for (size_t i = 0; i < N_VIEWS; i++) {
		r->views[i].len = 0;
		r->views[i].n = 0;
	}
	r->taken = r->pos = r->rejected = 0;
}

uint64_t events_reader_len(struct events_reader *r, enum spool_stream st)
{
	refresh(r);
	return r->views[st - SPOOL_EVENTS].len;
}

uint64_t events_reader_rejected(struct events_reader *r)
{
	refresh(r);
	return r->rejected;
}

int64_t events_reader_mtime(struct events_reader *r)
{
	struct stat st;

	if (!length_of(&r->fd, r->path, &st))
		return 0;
	return (int64_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
}

/* --- reading --- */

static ssize_t read_at(int fd, char *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, buf + done, len - done, (off_t)(off + done));

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

/* The last piece that begins at or before `off`; there is one when off is inside the view. */
static size_t find_piece(const struct view *v, uint64_t off)
{
	size_t lo = 0, hi = v->n;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (v->pieces[mid].at <= off)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

ssize_t events_reader_pread(struct events_reader *r, enum spool_stream st, void *buf, size_t len, uint64_t off)
{
	struct view *v = &r->views[st - SPOOL_EVENTS];
	size_t done = 0;

	want(r, v);
	refresh(r);
	if (off >= v->len)
		return 0;
	for (size_t i = find_piece(v, off); i < v->n && done < len; i++) {
		uint64_t end = i + 1 < v->n ? v->pieces[i + 1].at : v->len, skip = off + done - v->pieces[i].at;
		uint64_t left = end - v->pieces[i].at - skip;
		size_t ask = left < len - done ? (size_t)left : len - done;
		ssize_t n = read_at(r->fd, (char *)buf + done, ask, v->pieces[i].off + skip);

		if (n < 0)
			return done ? (ssize_t)done : n;
		done += (size_t)n;
		if ((size_t)n < ask)
			break;
	}
	return (ssize_t)done;
}

/* --- messages one by one --- */

struct after {
	struct strbuf line;
	size_t done, max; /* bytes */
	long n;
	events_cb cb;
	void *arg;
};

static void tell_line(struct after *a)
{
	if (!a->line.len)
		return;
	a->done += a->line.len;
	a->n++;
	while (a->line.len && strchr("\r\n", a->line.buf[a->line.len - 1]))
		strbuf_setlen(&a->line, a->line.len - 1);
	a->cb(a->arg, a->line.buf, a->line.len);
	strbuf_reset(&a->line);
}

/* One record: false when its bytes are not here. */
static bool take_after(struct events_reader *r, uint64_t rec, struct after *a)
{
	uint64_t count = events_record_count(rec);
	cleanup_free char *piece = NULL;

	if (is_shown(events_record_kind(rec)) && count) {
		piece = xmalloc((size_t)count);
		if (read_at(r->fd, piece, (size_t)count, r->pos) != (ssize_t)count)
			return false;
		strbuf_add(&a->line, piece, (size_t)count);
	}
	r->pos += count;
	if (events_record_last(rec))
		tell_line(a);
	return true;
}

/* The records that one read gives: false when there is no more to do. */
static bool take_chunk(struct events_reader *r, struct events_at *at, struct after *a)
{
	uint64_t rec[CHUNK];
	ssize_t n = read_at(r->index_fd, (char *)rec, sizeof(rec), r->taken);

	for (ssize_t i = 0; i < n / (ssize_t)SPOOL_RECORD; i++) {
		if (a->done >= a->max || !take_after(r, rec[i], a))
			return false;
		r->taken += SPOOL_RECORD;
		if (events_record_last(rec[i]))
			*at = (struct events_at){ r->taken, r->pos };
	}
	return n >= (ssize_t)SPOOL_RECORD;
}

long events_after(const char *dir, uint32_t num, struct events_at *at, size_t max, events_cb cb, void *arg)
{
	struct events_reader *r = events_reader_new(dir, num);
	struct after a = { STRBUF_INIT, 0, max, 0, cb, arg };
	struct stat st;

	r->taken = at->index;
	r->pos = at->bytes;
	if (length_of(&r->index_fd, r->index, &st) >= at->index + SPOOL_RECORD && length_of(&r->fd, r->path, &st))
		while (take_chunk(r, at, &a))
			;
	strbuf_release(&a.line);
	events_reader_free(r);
	return a.n;
}

/* --- what was rejected, and exceptions --- */

/* Calls back for every record of whole lines up to what was taken; false stops. `off` is in the events file, `at` in
 * the job's. */
typedef bool (*record_cb)(struct events_reader *r, uint64_t rec, uint64_t off, uint64_t at, void *arg);

static void walk(struct events_reader *r, record_cb cb, void *arg)
{
	uint64_t rec[CHUNK], off = 0, base = 0;
	ssize_t n;

	refresh(r);
	for (uint64_t i = 0; i < r->taken; i += (uint64_t)n) {
		n = read_at(r->index_fd, (char *)rec, sizeof(rec) < r->taken - i ? sizeof(rec) : (size_t)(r->taken - i),
			    i);
		if (n < (ssize_t)SPOOL_RECORD)
			return;
		n -= n % (ssize_t)SPOOL_RECORD;
		for (size_t k = 0; k < (size_t)n / SPOOL_RECORD; k++) {
			if (events_record_kind(rec[k]) == PIPES_RESTART)
				base = off;
			if (!cb(r, rec[k], off, off - base, arg))
				return;
			off += events_record_count(rec[k]);
		}
	}
}

/* Bytes that are no text appear as '?', so that the row is JSON. */
static json_t *excerpt(struct events_reader *r, uint64_t off, uint64_t count)
{
	char buf[SHOWN];
	ssize_t n = read_at(r->fd, buf, count < sizeof(buf) ? (size_t)count : sizeof(buf), off);
	json_t *s;

	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		n--;
	s = n >= 0 ? json_stringn(buf, (size_t)n) : NULL;
	for (ssize_t i = 0; !s && i < n; i++)
		if ((unsigned char)buf[i] >= 0x80)
			buf[i] = '?';
	return s ? s : json_stringn(buf, n > 0 ? (size_t)n : 0);
}

struct rows {
	struct strbuf *out;
	size_t n;
};

static bool add_row(struct events_reader *r, uint64_t rec, uint64_t off, uint64_t at, void *arg)
{
	uint64_t count = events_record_count(rec);
	struct rows *rows = arg;
	json_t *row;
	char *text;

	if (events_record_kind(rec) != PIPES_REJECTED)
		return true;
	row = json_pack("{s:I, s:I, s:s, s:o}", "offset", (json_int_t)at, "length", (json_int_t)count, "reason",
			pipes_reason_text((enum pipes_reason)events_record_reason(rec)), "text",
			excerpt(r, off, count));
	text = json_dumps(row, JSON_COMPACT);
	strbuf_addf(rows->out, "%s\n", text ? text : "{}");
	free(text);
	json_decref(row);
	return ++rows->n < ROWS_MAX;
}

void events_reader_rejects(struct events_reader *r, struct strbuf *out)
{
	struct rows rows = { out, 0 };

	walk(r, add_row, &rows);
}

static bool find_failed(struct events_reader *r, uint64_t rec, uint64_t off, uint64_t at, void *arg)
{
	cleanup_free char *line = NULL;
	uint64_t count = events_record_count(rec);
	struct strbuf *out = arg;
	ssize_t n;

	(void)at;
	if (events_record_kind(rec) != PIPES_FAILED)
		return true;
	strbuf_reset(out);
	if (count <= EXCEPTION_MAX) {
		line = xmalloc((size_t)count);
		n = read_at(r->fd, line, (size_t)count, off);
		if (n == (ssize_t)count)
			pipes_exception(line, (size_t)count, out);
	}
	if (!out->len)
		strbuf_addstr(out, "an exception");
	return true;
}

bool events_exception(const char *dir, uint32_t num, struct strbuf *out)
{
	struct events_reader *r = events_reader_new(dir, num);

	strbuf_reset(out);
	walk(r, find_failed, out);
	events_reader_free(r);
	return out->len > 0;
}
