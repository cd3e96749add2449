/*
 * The message file of a run, writing: bytes as they come, then what each line of them is.
 *
 * Invariants: bytes are appended before their records; records are written for whole lines, and a group that a kill cut
 * is taken away when the file is opened again and judged once more, with the same result; the bytes between the last
 * record and the file's end are the beginning of a line. A record that cannot be written now (full disk) is written
 * later, from the bytes.
 *
 * A job may cut its own file. Then the rest of an unfinished line is rejected, a record of kind PIPES_RESTART follows,
 * and `base` is what lies before it: the job's offset is the length here without `base`.
 *
 * Where a job may be started again (`hold`) lines from a start's first report on have no records until it is known
 * whether they count: at the end they do, and when the line of the next start comes they are of kind PIPES_SUPERSEDED.
 */
#include "backend/spool_format.h"

#include "backend/base/point.h"
#include "backend/pipes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK 512 /* records read at a time */

struct events {
	char *path, *index;
	uint64_t len;       /* bytes of the events file */
	uint64_t judged;    /* of them in records */
	uint64_t index_len; /* bytes of the index */
	uint64_t base;      /* before the job cut its file the last time */
	uint64_t scanned;   /* from `judged` or `held` up to here there is no newline */
	uint64_t held;      /* not 0: whole lines from `judged` up to here are held */
	bool hold;
	bool broken; /* the files are not what the lengths say */
};

/* --- opening --- */

/* Sums the records that are backed by bytes, whole lines only. */
static int load_index(struct events *ev, int fd, uint64_t index_len)
{
	uint64_t rec[CHUNK], sum = 0;
	ssize_t n;

	for (uint64_t off = 0; off + SPOOL_RECORD <= index_len; off += (uint64_t)n) {
		n = pread(fd, rec, sizeof(rec), (off_t)off);
		if (n < 0 && errno == EINTR) {
			n = 0;
			continue;
		}
		n -= n > 0 ? n % (ssize_t)SPOOL_RECORD : 0;
		if (n <= 0)
			return n < 0 ? -errno : 0;
		for (size_t i = 0; i < (size_t)n / SPOOL_RECORD; i++) {
			sum += events_record_count(rec[i]);
			if (sum > ev->len)
				return 0;
			if (!events_record_last(rec[i]))
				continue;
			ev->judged = sum;
			ev->index_len = off + (i + 1) * SPOOL_RECORD;
			if (events_record_kind(rec[i]) == PIPES_RESTART)
				ev->base = sum;
			ev->hold = ev->hold || events_record_kind(rec[i]) == PIPES_HOLD;
		}
	}
	return 0;
}

static int load(struct events *ev)
{
	cleanup_close int fd = -1;
	uint64_t index_len = 0;
	int rc = spool_file_len(ev->path, &ev->len);

	if (!rc)
		rc = spool_file_len(ev->index, &index_len);
	if (rc || !index_len)
		return rc;
	fd = open(ev->index, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	rc = load_index(ev, fd, index_len);
	if (!rc && ev->index_len < index_len && ftruncate(fd, (off_t)ev->index_len) < 0)
		rc = -errno;
	return rc;
}

int events_open(const char *dir, uint32_t num, struct events **out, struct err *e)
{
	struct events *ev;
	int rc = spool_make_dirs(dir, num, e);

	if (rc)
		return rc;
	ev = xcalloc(1, sizeof(*ev));
	ev->path = spool_path(dir, num, SPOOL_FILE_EVENTS);
	ev->index = spool_path(dir, num, SPOOL_FILE_INDEX);
	rc = load(ev);
	ev->scanned = ev->judged;
	if (rc) {
		events_close(ev);
		return err_sys(e, rc, "cannot use the copy of the messages in %s/%u", dir, num);
	}
	(void)events_settle(ev, false); /* what a kill left; what fails now is done by the next call */
	*out = ev;
	return 0;
}

void events_close(struct events *ev)
{
	if (!ev)
		return;
	free(ev->path);
	free(ev->index);
	free(ev);
}

uint64_t events_at(const struct events *ev)
{
	return ev->len - ev->base;
}

bool events_same(const struct events *ev, uint64_t at, const char *bytes, size_t len)
{
	cleanup_close int fd = -1;
	char buf[EVENTS_OVERLAP];

	if (!len || len > sizeof(buf) || len > at || at > events_at(ev))
		return true;
	fd = open(ev->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 || pread(fd, buf, len, (off_t)(ev->base + at - len)) != (ssize_t)len ||
	       memcmp(buf, bytes, len) == 0;
}

/* --- judging --- */

static void add_record(struct strbuf *out, unsigned kind, unsigned reason, bool last, uint64_t count)
{
	uint64_t rec = events_record(kind, reason, last, count);

	strbuf_add(out, (const char *)&rec, sizeof(rec));
}

/* The records of one line. A report's parameters and its newline are what pipes/ shows, the rest is around them. */
static void add_line(struct strbuf *out, const char *line, size_t len, bool whole, const struct pipes_verdict *verdict)
{
	struct pipes_verdict v = *verdict;
	size_t newline = len && line[len - 1] == '\n';
	uint64_t after;

	if (v.kind == PIPES_REJECTED) {
		add_record(out, PIPES_REJECTED, whole ? v.reason : PIPES_CUT, true, len);
		return;
	}
	if (v.torn)
		add_record(out, PIPES_REJECTED, v.reason, false, v.torn);
	if (!v.params_len) {
		add_record(out, v.kind, 0, true, len - v.torn);
		return;
	}
	after = len - v.params - v.params_len - newline;
	add_record(out, PIPES_OTHER, 0, false, v.params - v.torn);
	add_record(out, v.kind, 0, !after && !newline, v.params_len);
	if (after)
		add_record(out, PIPES_OTHER, 0, !newline, after);
	if (newline)
		add_record(out, v.kind, 0, true, 1);
}

static void judge_line(struct strbuf *out, const char *line, size_t len, bool whole)
{
	struct pipes_verdict v;

	pipes_judge(line, len, &v);
	add_line(out, line, len, whole, &v);
}

/* What must not be said twice: all but log messages, and that the job has begun. */
static bool is_report(const struct pipes_verdict *v)
{
	return v->kind == PIPES_MATERIALIZATION || v->kind == PIPES_CHECK || v->kind == PIPES_CUSTOM ||
	       v->kind == PIPES_CLOSED || v->kind == PIPES_FAILED;
}

/* Whole lines that were held: now they count, or never will. */
static void add_held(struct strbuf *out, const char *text, size_t len, bool count)
{
	for (const char *nl; len && (nl = memchr(text, '\n', len)); len -= (size_t)(nl + 1 - text), text = nl + 1) {
		if (count)
			judge_line(out, text, (size_t)(nl + 1 - text), true);
		else
			add_record(out, PIPES_SUPERSEDED, 0, true, (uint64_t)(nl + 1 - text));
	}
}

/* Where judging is, in what lies at `text`. */
struct judging {
	const char *text;
	uint64_t at;   /* the next line */
	uint64_t done; /* what has records */
	bool held;     /* from `done` to `at` */
};

static void take_line(const struct events *ev, struct judging *j, size_t len, struct strbuf *out)
{
	const char *line = j->text + j->at;
	struct pipes_verdict v;

	if (pipes_is_start(line, len)) {
		add_held(out, j->text + j->done, j->at - j->done, false);
		add_record(out, PIPES_START, 0, true, len);
		j->held = false;
	} else if (!j->held) {
		pipes_judge(line, len, &v);
		j->held = ev->hold && is_report(&v);
		if (!j->held)
			add_line(out, line, len, true, &v);
	}
	j->at += len;
	if (!j->held)
		j->done = j->at;
}

/* Judges the lines in [judged, len) that lie at j->text. */
static void judge_lines(const struct events *ev, struct judging *j, bool end, struct strbuf *out)
{
	uint64_t n = ev->len - ev->judged, from = ev->scanned - ev->judged;
	const char *nl;

	j->held = ev->held != 0;
	j->at = ev->held ? ev->held - ev->judged : 0;
	if (from < j->at)
		from = j->at;
	while (from < n && (nl = memchr(j->text + from, '\n', n - from))) {
		take_line(ev, j, (size_t)(nl + 1 - (j->text + j->at)), out);
		from = j->at;
	}
	if (!end)
		return;
	add_held(out, j->text + j->done, j->at - j->done, true);
	if (j->at < n)
		judge_line(out, j->text + j->at, n - j->at, false);
	j->held = false;
	j->done = n;
}

static int append_records(struct events *ev, const struct strbuf *recs)
{
	cleanup_close int fd = open(ev->index, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	int rc;

	if (fd < 0)
		return -errno;
	rc = spool_write_at(fd, recs->buf, recs->len, ev->index_len);
	if (rc && ftruncate(fd, (off_t)ev->index_len) < 0)
		ev->broken = true;
	if (!rc)
		ev->index_len += recs->len;
	return rc;
}

/* The bytes from `judged` on; *base and *size are for munmap. NULL: errno. */
static const char *map_rest(const struct events *ev, void **base, size_t *size)
{
	cleanup_close int fd = open(ev->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), from = ev->judged - ev->judged % page;

	if (fd < 0)
		return NULL;
	*size = (size_t)(ev->len - from);
	*base = mmap(NULL, *size, PROT_READ, MAP_SHARED, fd, (off_t)from);
	return *base == MAP_FAILED ? NULL : (const char *)*base + (ev->judged - from);
}

int events_settle(struct events *ev, bool end)
{
	cleanup_strbuf struct strbuf recs = STRBUF_INIT;
	struct judging j = { 0 };
	void *base;
	size_t size;
	int rc;

	if (ev->broken)
		return -EIO;
	if (ev->judged == ev->len || (!end && ev->scanned == ev->len))
		return 0;
	j.text = map_rest(ev, &base, &size);
	if (!j.text)
		return -errno;
	judge_lines(ev, &j, end, &recs);
	(void)munmap(base, size);
	rc = recs.len ? append_records(ev, &recs) : 0;
	if (rc)
		return rc;
	ev->held = j.held ? ev->judged + j.at : 0;
	ev->judged += j.done;
	ev->scanned = ev->len;
	if (recs.len)
		point(POINT_EVENTS_JUDGED);
	return 0;
}

/* --- appending --- */

int events_append(struct events *ev, const void *data, size_t len)
{
	cleanup_close int fd = -1;
	int rc;

	if (ev->broken)
		return -EIO;
	if (!len)
		return 0;
	fd = open(ev->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	rc = spool_write_at(fd, data, len, ev->len);
	if (rc) {
		if (ftruncate(fd, (off_t)ev->len) < 0)
			ev->broken = true;
		return rc;
	}
	ev->len += len;
	point(POINT_EVENTS_DATA);
	if (!memchr(data, '\n', len) && ev->scanned == ev->len - len)
		ev->scanned = ev->len;
	else
		(void)events_settle(ev, false); /* what fails now is done by the next call */
	return 0;
}

int events_hold(struct events *ev)
{
	cleanup_strbuf struct strbuf recs = STRBUF_INIT;
	int rc;

	if (ev->hold || ev->index_len || ev->len)
		return 0;
	add_record(&recs, PIPES_HOLD, 0, true, 0);
	rc = append_records(ev, &recs);
	ev->hold = rc == 0;
	return rc;
}

int events_restart(struct events *ev)
{
	cleanup_strbuf struct strbuf recs = STRBUF_INIT;
	int rc = events_settle(ev, true);

	if (rc)
		return rc;
	add_record(&recs, PIPES_RESTART, 0, true, 0);
	rc = append_records(ev, &recs);
	if (!rc)
		ev->base = ev->len;
	return rc;
}

static int sync_file(const char *path)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

int events_sync(const struct events *ev)
{
	int rc = sync_file(ev->path);

	return rc ? rc : sync_file(ev->index);
}
