/*
 * The feed: DIR/events, a file that only grows. A transaction's lines are journaled with their offset, in the commit
 * that makes the transaction durable, and written into the file when that has returned.
 *
 * Invariants: what is in the file before `written` was committed; rows are in the journal for all from `kept` on, and
 * before `kept` the file is on the disk (fdatasync) for good. So a row may be written into the file any number of
 * times, always at the same place, and the file is the same afterwards: nothing is lost by a kill, nothing is there
 * twice.
 */
#include "backend/store_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* When the rows are taken out of the journal: a start writes at most so many again. */
#define TRIM_ROWS 1000
#define TRIM_BYTES ((uint64_t)4 * 1024 * 1024)

char *store_feed_path(const char *dir)
{
	return xasprintf("%s/events", dir);
}

/* --- the file --- */

static int write_at(int fd, const char *data, size_t len, uint64_t at)
{
	while (len > 0) {
		ssize_t n = pwrite(fd, data, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENOSPC;
		data += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Is it there already? Then the file's time stays as it is, too. */
static bool is_there(int fd, const char *data, size_t len, uint64_t at)
{
	char buf[65536];

	while (len > 0) {
		ssize_t n = pread(fd, buf, len < sizeof(buf) ? len : sizeof(buf), (off_t)at);

		if (n <= 0 || memcmp(buf, data, (size_t)n) != 0)
			return false;
		data += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return true;
}

int store_feed_write(struct store_feed *f)
{
	size_t half = point_hook ? f->tail.len / 2 : 0;
	int rc = half ? write_at(f->fd, f->tail.buf, half, f->written) : 0;

	if (!f->tail.len)
		return 0;
	point(POINT_FEED_HALF);
	if (!rc)
		rc = write_at(f->fd, f->tail.buf + half, f->tail.len - half, f->written + half);
	if (rc)
		return rc;
	f->written += f->tail.len;
	assert(f->written == f->len);
	strbuf_reset(&f->tail);
	point(POINT_FEED_WRITTEN);
	return 0;
}

/* --- groups --- */

void store_feed_add(struct store_feed *f, const char *text, size_t len)
{
	strbuf_add(&f->tail, text, len);
	f->len += len;
	f->rows++;
}

void store_feed_back(struct store_feed *f, uint64_t len)
{
	assert(len <= f->len && f->len - len <= f->tail.len);
	strbuf_setlen(&f->tail, f->tail.len - (size_t)(f->len - len));
	f->len = len;
}

int store_feed_trim(struct store_feed *f, struct store_stmts *q)
{
	int rc;

	if (f->written == f->kept || (f->rows < TRIM_ROWS && f->written - f->kept < TRIM_BYTES))
		return 0;
	if (fdatasync(f->fd) < 0)
		return -errno;
	rc = store_stmts_number(q, ST_FEED_KEPT, (int64_t)f->written);
	if (!rc)
		rc = store_stmts_number(q, ST_DEL_FEED, (int64_t)f->written);
	if (!rc)
		f->trimming = f->written;
	return rc;
}

void store_feed_settle(struct store_feed *f, bool committed)
{
	if (committed && f->trimming) {
		f->kept = f->trimming;
		f->rows = 0;
	}
	f->trimming = 0;
}

/* --- opening --- */

static int sql_failed(sqlite3 *db, const char *dir, struct err *e)
{
	return err_set(e, store_db_code(db), "cannot read the journal %s/journal.db: %s", dir, sqlite3_errmsg(db));
}

static int64_t meta_kept(sqlite3 *db)
{
	sqlite3_stmt *st = NULL;
	int64_t kept = 0;

	if (sqlite3_prepare_v2(db, "SELECT value FROM meta WHERE key = 'feed_kept'", -1, &st, NULL) == SQLITE_OK &&
	    sqlite3_step(st) == SQLITE_ROW)
		kept = sqlite3_column_int64(st, 0);
	(void)sqlite3_finalize(st);
	return kept < 0 ? 0 : kept;
}

/* The rows are one piece, from `kept` on. */
static int load_rows(struct store_feed *f, const char *dir, sqlite3 *db, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(db, "SELECT at, text FROM feed ORDER BY at", -1, &st, NULL);

	while (rc == SQLITE_OK || rc == SQLITE_ROW) {
		rc = sqlite3_step(st);
		if (rc == SQLITE_ROW && sqlite3_column_int64(st, 0) == (int64_t)f->len)
			store_feed_add(f, sqlite3_column_blob(st, 1), (size_t)sqlite3_column_bytes(st, 1));
	}
	(void)sqlite3_finalize(st);
	return rc == SQLITE_DONE ? 0 : sql_failed(db, dir, e);
}

/* Bytes that somebody took away: blanks in their place, and a line's end, so that all offsets behind them hold. */
static int fill_hole(struct store_feed *f, const char *path, uint64_t size)
{
	static const char blanks[] = "                                                                ";
	int rc = 0;

	log_error("%s was cut to %llu of %llu bytes: what was there is lost, and blanks are in its place", path,
		  (unsigned long long)size, (unsigned long long)f->kept);
	while (size < f->kept - 1 && !rc) {
		uint64_t left = f->kept - 1 - size;
		size_t n = left < sizeof(blanks) - 1 ? (size_t)left : sizeof(blanks) - 1;

		rc = write_at(f->fd, blanks, n, size);
		size += n;
	}
	return rc ? rc : write_at(f->fd, "\n", 1, f->kept - 1);
}

/* A journal that was put back from a backup knows less than the file: what is there stays, and the next line follows.
 */
static int go_behind(struct store_feed *f, const char *dir, sqlite3 *db, uint64_t size, struct err *e)
{
	cleanup_free char *sql = NULL;
	char last = '\n';

	log_warn("%s/events is longer than the journal says (%llu, not %llu bytes): it goes on behind that", dir,
		 (unsigned long long)size, (unsigned long long)f->len);
	if (pread(f->fd, &last, 1, (off_t)(size - 1)) == 1 && last != '\n' && write_at(f->fd, "\n", 1, size) == 0)
		size++;
	sql = xasprintf("BEGIN; DELETE FROM feed; INSERT INTO meta VALUES ('feed_kept', %llu)"
			" ON CONFLICT (key) DO UPDATE SET value = %llu; COMMIT",
			(unsigned long long)size, (unsigned long long)size);
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return sql_failed(db, dir, e);
	strbuf_reset(&f->tail);
	f->kept = f->written = f->len = size;
	f->rows = 0;
	return 0;
}

static int sync_dir(const char *dir)
{
	cleanup_close int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int make_whole(struct store_feed *f, const char *dir, const char *path, sqlite3 *db, struct err *e)
{
	struct stat st;
	int rc = 0;

	if (fstat(f->fd, &st) < 0)
		return err_sys(e, -errno, "cannot look at %s", path);
	if (st.st_size == 0)
		rc = sync_dir(dir);
	if ((uint64_t)st.st_size > f->len)
		return go_behind(f, dir, db, (uint64_t)st.st_size, e);
	if ((uint64_t)st.st_size < f->kept)
		rc = fill_hole(f, path, (uint64_t)st.st_size);
	if (rc)
		return err_sys(e, rc, "cannot write %s", path);
	if (is_there(f->fd, f->tail.buf, f->tail.len, f->written)) {
		f->written = f->len;
		strbuf_reset(&f->tail);
	}
	rc = store_feed_write(f);
	f->owed = rc != 0;
	if (rc)
		log_error("cannot write %s: %s; it is tried again", path, strerror(-rc));
	return 0;
}

int store_feed_open(struct store_feed *f, const char *dir, sqlite3 *db, struct err *e)
{
	cleanup_free char *path = store_feed_path(dir);
	int rc;

	memset(f, 0, sizeof(*f));
	strbuf_init(&f->tail);
	f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (f->fd < 0)
		return err_sys(e, -errno, "cannot open %s", path);
	f->kept = f->written = f->len = (uint64_t)meta_kept(db);
	rc = load_rows(f, dir, db, e);
	return rc ? rc : make_whole(f, dir, path, db, e);
}

void store_feed_close(struct store_feed *f)
{
	if (f->fd >= 0)
		(void)close(f->fd);
	f->fd = -1;
	strbuf_release(&f->tail);
}
