/*
 * The spool: what is read is what was appended, in every state that a kill, a power failure or a full disk can leave.
 * Bytes of out are small letters and those of err are capitals, so a log can be taken apart again.
 */
#include "backend/spool.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

static char dir[64];

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_spool.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 10; i++)
		(void)spool_remove(dir, i);
	return rmdir(dir);
}

static struct spool *open_spool(uint32_t num)
{
	struct err e = ERR_INIT;
	struct spool *s = NULL;

	assert_int_equal(spool_open(dir, num, &s, &e), 0);
	return s;
}

static struct spool_reader *open_reader(uint32_t num, bool merged)
{
	struct spool_reader *r = NULL;
	struct err e = ERR_INIT;

	assert_int_equal(spool_reader_open(dir, num, merged, &r, &e), 0);
	return r;
}

static void append(struct spool *s, enum spool_stream st, const char *text)
{
	assert_int_equal(spool_append(s, st, text, strlen(text)), 0);
}

/* The whole of a stream, read in pieces of `step` bytes. */
static char *slurp(struct spool_reader *r, enum spool_stream st, size_t step)
{
	struct strbuf sb = STRBUF_INIT;
	char buf[256];
	ssize_t n;

	assert_true(step <= sizeof(buf));
	while ((n = spool_reader_pread(r, st, buf, step, sb.len)) > 0)
		strbuf_add(&sb, buf, (size_t)n);
	assert_int_equal(n, 0);
	assert_int_equal(sb.len, spool_reader_len(r, st));
	return strbuf_detach(&sb, NULL);
}

static void assert_stream(struct spool_reader *r, enum spool_stream st, const char *want)
{
	for (size_t step = 1; step < 256; step = step * 3 + 1) {
		char *got = slurp(r, st, step);

		assert_string_equal(got, want);
		free(got);
	}
}

static void set_file(uint32_t num, const char *name, const void *data, size_t len)
{
	char *path = xasprintf("%s/%u/%s", dir, num, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	(void)close(fd);
	free(path);
}

static void nothing_reads_as_empty(void **state)
{
	struct spool_reader *r = open_reader(1, false);
	char c;

	(void)state;
	for (int st = SPOOL_OUT; st <= SPOOL_LOG; st++) {
		assert_int_equal(spool_reader_len(r, (enum spool_stream)st), 0);
		assert_int_equal(spool_reader_pread(r, (enum spool_stream)st, &c, 1, 0), 0);
		assert_int_equal(spool_reader_mtime(r, (enum spool_stream)st), 0);
	}
	spool_reader_close(r);
	spool_reader_close(NULL);
	spool_close(NULL);
	assert_int_equal(spool_remove(dir, 1), 0);
}

static void streams_and_their_order(void **state)
{
	struct spool_reader *r = open_reader(1, false);
	struct spool *s = open_spool(1);
	struct stat st;
	char *path = xasprintf("%s/1", dir);

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	append(s, SPOOL_OUT, "abc");
	assert_stream(r, SPOOL_LOG, "abc");
	append(s, SPOOL_OUT, "d");
	append(s, SPOOL_ERR, "EF");
	append(s, SPOOL_ERR, "");
	append(s, SPOOL_OUT, "g");
	append(s, SPOOL_ERR, "H");
	assert_stream(r, SPOOL_OUT, "abcdg");
	assert_stream(r, SPOOL_ERR, "EFH");
	assert_stream(r, SPOOL_LOG, "abcdEFgH");
	assert_int_equal(spool_len(s, SPOOL_OUT), 5);
	assert_int_equal(spool_len(s, SPOOL_ERR), 3);
	assert_int_equal(spool_len(s, SPOOL_LOG), 8);
	assert_int_equal(spool_sync(s), 0);
	assert_true(spool_reader_mtime(r, SPOOL_LOG) > 1600000000000000);
	assert_true(spool_reader_mtime(r, SPOOL_LOG) >= spool_reader_mtime(r, SPOOL_OUT));
	spool_close(s);
	s = open_spool(1);
	assert_int_equal(spool_len(s, SPOOL_LOG), 8);
	append(s, SPOOL_OUT, "i");
	assert_stream(r, SPOOL_LOG, "abcdEFgHi");
	spool_close(s);
	assert_int_equal(spool_remove(dir, 1), 0);
	assert_int_equal(stat(path, &st), -1);
	assert_stream(r, SPOOL_LOG, "abcdEFgHi"); /* an open handle keeps what it has */
	spool_reader_close(r);
	free(path);
}

static void merged_is_out(void **state)
{
	struct spool_reader *r = open_reader(2, true);
	struct spool *s = open_spool(2);

	(void)state;
	append(s, SPOOL_OUT, "abc");
	append(s, SPOOL_OUT, "DEF");
	assert_int_equal(spool_sync(s), 0); /* there is no err file, and that is fine */
	assert_stream(r, SPOOL_OUT, "abcDEF");
	assert_stream(r, SPOOL_LOG, "abcDEF");
	assert_stream(r, SPOOL_ERR, "");
	assert_int_equal(spool_reader_mtime(r, SPOOL_ERR), 0);
	assert_true(spool_reader_mtime(r, SPOOL_LOG) == spool_reader_mtime(r, SPOOL_OUT));
	spool_close(s);
	spool_reader_close(r);
}

static void lengths_of_a_log_need_no_index(void **state)
{
	struct spool_reader *r = open_reader(3, false);
	struct spool *s = open_spool(3);
	char c;

	(void)state;
	append(s, SPOOL_OUT, "abc");
	append(s, SPOOL_ERR, "D");
	assert_int_equal(spool_reader_len(r, SPOOL_LOG), 4);
	assert_int_equal(spool_reader_pread(r, SPOOL_LOG, &c, 1, 3), 1);
	assert_int_equal(c, 'D');
	assert_int_equal(spool_reader_pread(r, SPOOL_LOG, &c, 1, 4), 0);
	assert_int_equal(spool_reader_pread(r, SPOOL_LOG, &c, 1, UINT64_MAX), 0);
	assert_int_equal(spool_reader_len(r, SPOOL_LOG), 4);
	spool_close(s);
	spool_reader_close(r);
}

static void readers_wait_for_whole_records_and_their_data(void **state)
{
	static const unsigned char order[] = { 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0 };
	struct spool_reader *r;
	struct spool *s = open_spool(4);

	(void)state;
	spool_close(s);
	set_file(4, "out", "abcd", 4);
	set_file(4, "err", "E", 1);
	set_file(4, "order", order, sizeof(order));
	r = open_reader(4, false);
	assert_stream(r, SPOOL_LOG, "abc"); /* the second record counts a byte that is not there */
	set_file(4, "err", "EF", 2);
	assert_stream(r, SPOOL_LOG, "abcEF");
	assert_stream(r, SPOOL_OUT, "abc"); /* d has no record yet: it was being appended */
	s = open_spool(4);
	assert_stream(r, SPOOL_LOG, "abcEFd");
	spool_close(s);
	spool_reader_close(r);
}

/* --- every state that a kill or a power failure can leave --- */

struct piece {
	enum spool_stream st;
	const char *text;
};

static const struct piece pieces[] = {
	{ SPOOL_OUT, "abc" }, { SPOOL_ERR, "ABCDE" }, { SPOOL_OUT, "d" },   { SPOOL_OUT, "efghi" },
	{ SPOOL_ERR, "F" },   { SPOOL_OUT, "jk" },    { SPOOL_ERR, "GHI" },
};

static const char all_out[] = "abcdefghijk", all_err[] = "ABCDEFGHI";

static void check_letters(const char *log, const char *out, const char *err)
{
	for (; *log; log++)
		assert_int_equal(*log, islower((unsigned char)*log) ? *out++ : *err++);
	assert_int_equal(*out, '\0');
	assert_int_equal(*err, '\0');
}

/* What a cluster's thread does after a restart: it goes on where the files end. */
static void finish_and_check(uint32_t num)
{
	struct spool_reader *before = open_reader(num, false), *r;
	char *log = slurp(before, SPOOL_LOG, 7), *whole;
	struct spool *s = open_spool(num);

	assert_int_equal(spool_len(s, SPOOL_OUT) <= strlen(all_out), 1);
	append(s, SPOOL_ERR, all_err + spool_len(s, SPOOL_ERR));
	append(s, SPOOL_OUT, all_out + spool_len(s, SPOOL_OUT));
	spool_close(s);
	r = open_reader(num, false);
	assert_stream(r, SPOOL_OUT, all_out);
	assert_stream(r, SPOOL_ERR, all_err);
	whole = slurp(r, SPOOL_LOG, 5);
	check_letters(whole, all_out, all_err);
	assert_stream(before, SPOOL_LOG, whole); /* what was read before the restart is still its beginning */
	assert_int_equal(strncmp(log, whole, strlen(log)), 0);
	free(log);
	free(whole);
	spool_reader_close(before);
	spool_reader_close(r);
	s = open_spool(num); /* a second repair finds nothing to do */
	assert_int_equal(spool_len(s, SPOOL_LOG), strlen(all_out) + strlen(all_err));
	spool_close(s);
}

struct files {
	char data[2][32];
	size_t len[2];
	unsigned char order[128];
	size_t order_len;
};

static void add_piece(struct files *f, const struct piece *p)
{
	size_t n = strlen(p->text);

	memcpy(f->data[p->st] + f->len[p->st], p->text, n);
	f->len[p->st] += n;
	memset(f->order + f->order_len, 0, 8);
	f->order[f->order_len] = (unsigned char)n;
	f->order[f->order_len + 7] = p->st == SPOOL_ERR ? 0x80 : 0;
	f->order_len += 8;
}

static void lay_out(uint32_t num, const struct files *f, size_t out, size_t err, size_t order)
{
	assert_int_equal(spool_remove(dir, num), 0);
	spool_close(open_spool(num));
	if (out)
		set_file(num, "out", f->data[0], out);
	if (err)
		set_file(num, "err", f->data[1], err);
	set_file(num, "order", f->order, order);
}

static void killed_at_every_byte(void **state)
{
	struct files f = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		struct files next = f;
		size_t len[2];

		add_piece(&next, &pieces[i]);
		memcpy(len, f.len, sizeof(len));
		for (; len[pieces[i].st] < next.len[pieces[i].st]; len[pieces[i].st]++) {
			lay_out(5, &next, len[0], len[1], f.order_len);
			finish_and_check(5);
		}
		for (size_t order = f.order_len; order <= next.order_len; order++) {
			lay_out(5, &next, next.len[0], next.len[1], order);
			finish_and_check(5);
		}
		f = next;
	}
}

static void power_failed_at_any_lengths(void **state)
{
	struct files f = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
		add_piece(&f, &pieces[i]);
	for (size_t out = 0; out <= f.len[0]; out++)
		for (size_t err = 0; err <= f.len[1]; err++)
			for (size_t order = 0; order <= f.order_len; order += 3) {
				lay_out(6, &f, out, err, order);
				finish_and_check(6);
			}
}

static void records_are_as_documented(void **state)
{
	struct strbuf sb = STRBUF_INIT;
	struct files f = { 0 };
	struct spool *s = open_spool(7);
	char *path = xasprintf("%s/7/order", dir);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		append(s, pieces[i].st, pieces[i].text);
		add_piece(&f, &pieces[i]);
	}
	spool_close(s);
	assert_int_equal(strbuf_read_file(&sb, path, 1000), f.order_len);
	assert_memory_equal(sb.buf, f.order, f.order_len);
	strbuf_release(&sb);
	free(path);
}

/* --- a full disk: a limit on file sizes stops writes in the same places --- */

static void try_until_full(rlim_t limit)
{
	struct rlimit rl = { limit, RLIM_INFINITY };
	char big[40];
	struct spool *s = open_spool(8);

	memset(big, 'a', sizeof(big));
	(void)signal(SIGXFSZ, SIG_IGN);
	if (setrlimit(RLIMIT_FSIZE, &rl) < 0)
		_exit(9);
	while (spool_append(s, SPOOL_OUT, big, sizeof(big)) == 0)
		;
	_exit(spool_len(s, SPOOL_OUT) % sizeof(big) ? 1 : 0);
}

static void all_or_nothing(void **state)
{
	(void)state;
	for (rlim_t limit = 1; limit < 200; limit += 13) {
		struct spool_reader *r;
		pid_t pid = fork();
		int status = -1;
		uint64_t len;

		if (pid == 0)
			try_until_full(limit);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		r = open_reader(8, false);
		len = spool_reader_len(r, SPOOL_LOG);
		assert_int_equal(len % 40, 0);
		assert_true(len <= limit);
		spool_reader_close(r);
		assert_int_equal(spool_remove(dir, 8), 0);
	}
}

static void failures_have_codes(void **state)
{
	struct err e = ERR_INIT;
	struct spool *s;
	char *path = xasprintf("%s/9", dir);
	int fd;

	(void)state;
	s = open_spool(9);
	assert_int_equal(spool_remove(dir, 9), 0);
	assert_int_equal(spool_append(s, SPOOL_OUT, "x", 1), -ENOENT); /* purged while open */
	spool_close(s);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	(void)close(fd);
	assert_int_equal(spool_open(dir, 9, &s, &e), -ENOTDIR);
	assert_non_null(strstr(e.text, path));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(spool_open("/nonexistent/spool", 9, &s, &e), -ENOENT);
	assert_non_null(strstr(e.text, "/nonexistent/spool"));
	free(path);
}

/* --- a reader beside a writer --- */

#define ROUNDS 3000

static void *writer(void *arg)
{
	struct spool *s = arg;

	for (int i = 0; i < ROUNDS; i++) {
		char text[8];
		size_t n = (size_t)(i % 7) + 1;

		memset(text, i % 3 ? 'a' : 'A', n);
		assert_int_equal(spool_append(s, i % 3 ? SPOOL_OUT : SPOOL_ERR, text, n), 0);
	}
	return NULL;
}

static void lengths_never_shrink_beside_a_writer(void **state)
{
	struct spool *s = open_spool(9);
	struct spool_reader *r = open_reader(9, false);
	uint64_t last = 0, at = 0, small = 0, total = 0;
	pthread_t t;
	char buf[100];

	(void)state;
	for (unsigned i = 0; i < ROUNDS; i++)
		total += i % 7 + 1;
	assert_int_equal(pthread_create(&t, NULL, writer, s), 0);
	while (at < total) {
		uint64_t len = spool_reader_len(r, SPOOL_LOG);
		ssize_t n = spool_reader_pread(r, SPOOL_LOG, buf, sizeof(buf), at);

		assert_true(len >= last && n >= 0);
		last = len;
		for (ssize_t i = 0; i < n; i++) {
			assert_true(buf[i] == 'a' || buf[i] == 'A');
			small += buf[i] == 'a';
		}
		at += (uint64_t)n;
	}
	(void)pthread_join(t, NULL);
	assert_int_equal(at, spool_len(s, SPOOL_LOG));
	assert_int_equal(small, spool_len(s, SPOOL_OUT));
	spool_close(s);
	spool_reader_close(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_reads_as_empty),
		cmocka_unit_test(streams_and_their_order),
		cmocka_unit_test(merged_is_out),
		cmocka_unit_test(lengths_of_a_log_need_no_index),
		cmocka_unit_test(readers_wait_for_whole_records_and_their_data),
		cmocka_unit_test(killed_at_every_byte),
		cmocka_unit_test(power_failed_at_any_lengths),
		cmocka_unit_test(records_are_as_documented),
		cmocka_unit_test(all_or_nothing),
		cmocka_unit_test(failures_have_codes),
		cmocka_unit_test(lengths_never_shrink_beside_a_writer),
	};

	return cmocka_run_group_tests_name("spool", tests, setup, teardown);
}
