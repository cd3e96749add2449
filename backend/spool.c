/*
 * The spool. Invariants, kept by the order of writes (data, then its order record) and by the repair at open:
 *
 *   - the order file is what makes bytes visible: readers show of a stream what its records count, so nothing
 *     that an append cut back after a full disk was ever seen, and out + err is always log;
 *   - after spool_open the records of a stream count exactly its file's bytes.
 *
 * No descriptor is kept between appends: thousands of runs may be open for writing at once.
 */
#include "backend/spool_format.h"

#include "backend/base/point.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

#define CHUNK 4096 /* records read at a time */

enum { OUT = SPOOL_FILE_OUT, ERR = SPOOL_FILE_ERR, ORDER = SPOOL_FILE_ORDER };

struct spool {
	char *path[SPOOL_N_FILES];
	uint64_t len[2];
	uint64_t order_len;
	bool broken; /* the files are not what the lengths say */
};

int spool_write_at(int fd, const void *data, size_t len, uint64_t off)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENOSPC;
		p += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Reads whole records from a byte offset: how many, or negative errno. */
static ssize_t read_records(int fd, uint64_t off, uint64_t *rec, size_t max)
{
	ssize_t n;

	do {
		n = pread(fd, rec, max * SPOOL_RECORD, (off_t)off);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n / (ssize_t)SPOOL_RECORD;
}

/* --- opening for writing --- */

int spool_file_len(const char *path, uint64_t *len)
{
	struct stat st;

	*len = 0;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	*len = (uint64_t)st.st_size;
	return 0;
}

static int sum_records(int fd, uint64_t order_len, uint64_t sum[2])
{
	uint64_t *rec = xmalloc(CHUNK * SPOOL_RECORD);
	ssize_t n = 0;

	sum[OUT] = 0;
	sum[ERR] = 0;
	for (uint64_t off = 0; off < order_len; off += (uint64_t)n * SPOOL_RECORD) {
		n = read_records(fd, off, rec, CHUNK);
		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			sum[spool_record_stream(rec[i])] += spool_record_count(rec[i]);
	}
	free(rec);
	return n < 0 ? (int)n : 0;
}

/*
 * A power failure may keep order records and lose their data. Shortens the stream's last records by `excess`, in
 * place and each for itself: whatever a second failure leaves is repaired in the same way.
 */
static int shorten_records(int fd, uint64_t order_len, enum spool_stream st, uint64_t excess)
{
	while (excess > 0 && order_len >= SPOOL_RECORD) {
		uint64_t rec, cut;
		ssize_t n;
		int rc;

		order_len -= SPOOL_RECORD;
		n = read_records(fd, order_len, &rec, 1);
		if (n != 1)
			return n < 0 ? (int)n : -EIO;
		if (spool_record_stream(rec) != st)
			continue;
		cut = excess < spool_record_count(rec) ? excess : spool_record_count(rec);
		excess -= cut;
		rec = spool_record(st, spool_record_count(rec) - cut);
		rc = spool_write_at(fd, &rec, SPOOL_RECORD, order_len);
		if (rc)
			return rc;
	}
	return 0;
}

static int repair(struct spool *s)
{
	cleanup_close int fd = open(s->path[ORDER], O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	uint64_t sum[2];
	int rc;

	if (fd < 0)
		return -errno;
	if (s->order_len % SPOOL_RECORD) {
		s->order_len -= s->order_len % SPOOL_RECORD;
		if (ftruncate(fd, (off_t)s->order_len) < 0)
			return -errno;
	}
	rc = sum_records(fd, s->order_len, sum);
	for (int st = OUT; st <= ERR && !rc; st++) {
		if (s->len[st] < sum[st]) {
			rc = shorten_records(fd, s->order_len, (enum spool_stream)st, sum[st] - s->len[st]);
		} else if (s->len[st] > sum[st]) {
			uint64_t rec = spool_record((enum spool_stream)st, s->len[st] - sum[st]);

			rc = spool_write_at(fd, &rec, SPOOL_RECORD, s->order_len);
			s->order_len += rc ? 0 : SPOOL_RECORD;
		}
	}
	return rc;
}

int spool_make_dirs(const char *dir, uint32_t num, struct err *e)
{
	cleanup_free char *path = xasprintf("%s/%u", dir, num);

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_sys(e, -errno, "cannot make the directory %s", dir);
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_sys(e, -errno, "cannot make the directory %s", path);
	return 0;
}

int spool_open(const char *dir, uint32_t num, struct spool **out, struct err *e)
{
	struct spool *s;
	int rc = spool_make_dirs(dir, num, e);

	if (rc)
		return rc;
	s = xcalloc(1, sizeof(*s));
	for (int i = 0; i < SPOOL_N_FILES; i++)
		s->path[i] = spool_path(dir, num, (enum spool_file)i);
	rc = spool_file_len(s->path[OUT], &s->len[OUT]);
	if (!rc)
		rc = spool_file_len(s->path[ERR], &s->len[ERR]);
	if (!rc)
		rc = spool_file_len(s->path[ORDER], &s->order_len);
	if (!rc)
		rc = repair(s);
	if (rc) {
		spool_close(s);
		return err_sys(e, rc, "cannot use the log copies in %s/%u", dir, num);
	}
	*out = s;
	return 0;
}

void spool_close(struct spool *s)
{
	if (!s)
		return;
	for (int i = 0; i < SPOOL_N_FILES; i++)
		free(s->path[i]);
	free(s);
}

uint64_t spool_len(const struct spool *s, enum spool_stream st)
{
	return st == SPOOL_LOG ? s->len[OUT] + s->len[ERR] : s->len[st];
}

/* Writes at the end of one file; after a failure the file is as long as it was. */
static int append_file(struct spool *s, int file, const void *data, size_t len, uint64_t at)
{
	cleanup_close int fd = open(s->path[file], O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	int rc;

	if (fd < 0)
		return -errno;
	rc = spool_write_at(fd, data, len, at);
	if (rc && ftruncate(fd, (off_t)at) < 0)
		s->broken = true;
	return rc;
}

int spool_append(struct spool *s, enum spool_stream st, const void *data, size_t len)
{
	uint64_t rec = spool_record(st, len);
	int rc;

	assert(st == SPOOL_OUT || st == SPOOL_ERR);
	if (s->broken)
		return -EIO;
	if (!len)
		return 0;
	rc = append_file(s, (int)st, data, len, s->len[st]);
	if (rc)
		return rc;
	point(POINT_SPOOL_DATA);
	rc = append_file(s, ORDER, &rec, SPOOL_RECORD, s->order_len);
	if (rc) {
		if (truncate(s->path[st], (off_t)s->len[st]) < 0)
			s->broken = true;
		return rc;
	}
	s->len[st] += len;
	s->order_len += SPOOL_RECORD;
	point(POINT_SPOOL_APPENDED);
	return 0;
}

int spool_sync(const struct spool *s)
{
	for (int i = 0; i < SPOOL_N_FILES; i++) {
		cleanup_close int fd = open(s->path[i], O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0 || fsync(fd) < 0)
			return -errno;
	}
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path) < 0 && errno != ENOENT ? -errno : 0;
}

int spool_remove(const char *dir, uint32_t num)
{
	cleanup_free char *path = xasprintf("%s/%u", dir, num);
	int rc = nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS);

	if (rc == -1)
		return errno == ENOENT ? 0 : -errno;
	return rc;
}
