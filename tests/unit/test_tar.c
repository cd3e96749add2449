/*
 * The tar writer: what it writes is read back by tar(1); what may not leave stays out; sizes are exact.
 */
#include "backend/tar.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct dirs {
	char root[64], in[96], out[96];
};

static void run(const char *const *argv)
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static int setup(void **state)
{
	struct dirs *d = xcalloc(1, sizeof(*d));

	(void)snprintf(d->root, sizeof(d->root), "/tmp/test_tar.XXXXXX");
	assert_non_null(mkdtemp(d->root));
	(void)snprintf(d->in, sizeof(d->in), "%s/in", d->root);
	(void)snprintf(d->out, sizeof(d->out), "%s/out", d->root);
	assert_int_equal(mkdir(d->in, 0755), 0);
	assert_int_equal(mkdir(d->out, 0755), 0);
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	struct dirs *d = *state;

	run((const char *const[]){ "rm", "-rf", d->root, NULL });
	free(d);
	return 0;
}

static void path_in(const struct dirs *d, const char *name, char *buf, size_t size)
{
	(void)snprintf(buf, size, "%s/%s", d->in, name);
}

static void write_file(const struct dirs *d, const char *name, const void *data, size_t len, mode_t mode)
{
	char path[4200];
	int fd;

	path_in(d, name, path, sizeof(path));
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(close(fd), 0);
}

static void make_dir(const struct dirs *d, const char *name)
{
	char path[4200];

	path_in(d, name, path, sizeof(path));
	assert_int_equal(mkdir(path, 0755), 0);
}

static void make_link(const struct dirs *d, const char *target, const char *name)
{
	char path[4200];

	path_in(d, name, path, sizeof(path));
	assert_int_equal(symlink(target, path), 0);
}

/* The whole archive, read in pieces of `piece` bytes. */
static void archive(const struct dirs *d, size_t piece, struct strbuf *out)
{
	struct err e = ERR_INIT;
	struct tar *t = NULL;
	char *buf = xmalloc(piece);
	ssize_t n;

	assert_int_equal(tar_open(d->in, NULL, 0, &t, &e), 0);
	while ((n = tar_read(t, buf, piece, &e)) > 0)
		strbuf_add(out, buf, (size_t)n);
	assert_int_equal(n, 0);
	assert_int_equal(out->len, tar_size(t));
	assert_int_equal(out->len % 512, 0);
	assert_int_equal(tar_read(t, buf, piece, &e), 0);
	tar_close(t);
	free(buf);
}

static void unpack(const struct dirs *d, const struct strbuf *sb)
{
	char path[128];
	int fd;

	(void)snprintf(path, sizeof(path), "%s/a.tar", d->root);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, sb->buf, sb->len), (ssize_t)sb->len);
	assert_int_equal(close(fd), 0);
	run((const char *const[]){ "tar", "-x", "-p", "-f", path, "-C", d->out, NULL });
}

static struct stat out_stat(const struct dirs *d, const char *name)
{
	char path[4200];
	struct stat st;

	(void)snprintf(path, sizeof(path), "%s/%s", d->out, name);
	if (lstat(path, &st) < 0)
		memset(&st, 0, sizeof(st));
	return st;
}

static void assert_content(const struct dirs *d, const char *name, const void *data, size_t len)
{
	struct strbuf sb = STRBUF_INIT;
	char path[4200];

	(void)snprintf(path, sizeof(path), "%s/%s", d->out, name);
	assert_int_equal(strbuf_read_file(&sb, path, 1 << 24), (ssize_t)len);
	assert_memory_equal(sb.buf, data, len);
	strbuf_release(&sb);
}

static void test_round_trip(void **state)
{
	struct dirs *d = *state;
	struct strbuf sb = STRBUF_INIT;
	struct timespec times[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };
	char path[256];

	make_dir(d, "sub");
	make_dir(d, "sub/empty");
	write_file(d, "run.sh", "#!/bin/sh\n\0\xff", 12, 0755);
	write_file(d, "sub/zero", "", 0, 0640);
	write_file(d, "sub/-rf $(x) 'q'", "odd\n", 4, 0644);
	make_link(d, "../run.sh", "sub/link");
	path_in(d, "run.sh", path, sizeof(path));
	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
	archive(d, 7, &sb);
	unpack(d, &sb);
	assert_content(d, "run.sh", "#!/bin/sh\n\0\xff", 12);
	assert_int_equal(out_stat(d, "run.sh").st_mode & 07777, 0755);
	assert_int_equal(out_stat(d, "run.sh").st_mtim.tv_sec, 1000000000);
	assert_content(d, "sub/zero", "", 0);
	assert_int_equal(out_stat(d, "sub/zero").st_mode & 07777, 0640);
	assert_content(d, "sub/-rf $(x) 'q'", "odd\n", 4);
	assert_true(S_ISDIR(out_stat(d, "sub/empty").st_mode));
	assert_true(S_ISLNK(out_stat(d, "sub/link").st_mode));
	strbuf_release(&sb);
}

static void test_left_out(void **state)
{
	struct dirs *d = *state;
	struct strbuf sb = STRBUF_INIT;
	char path[256];

	write_file(d, "setuid", "x", 1, 04755);
	make_link(d, "/etc/passwd", "absolute");
	make_link(d, "../../etc/passwd", "outside");
	make_link(d, "nowhere", "dangling");
	path_in(d, "fifo", path, sizeof(path));
	assert_int_equal(mkfifo(path, 0600), 0);
	archive(d, 4096, &sb);
	unpack(d, &sb);
	assert_int_equal(out_stat(d, "setuid").st_mode & 07777, 0755);
	assert_int_equal(out_stat(d, "absolute").st_mode, 0);
	assert_int_equal(out_stat(d, "outside").st_mode, 0);
	assert_int_equal(out_stat(d, "fifo").st_mode, 0);
	assert_true(S_ISLNK(out_stat(d, "dangling").st_mode));
	strbuf_release(&sb);
}

/* Names that ustar splits, names that it cannot hold, long link targets. */
static void test_long_names(void **state)
{
	struct dirs *d = *state;
	struct strbuf sb = STRBUF_INIT, name = STRBUF_INIT;
	char a[121], b[201], target[151], link[8] = "long";

	memset(a, 'a', 120);
	a[120] = '\0';
	memset(b, 'b', 200);
	b[200] = '\0';
	memset(target, 't', 150);
	target[150] = '\0';
	make_dir(d, a);
	strbuf_addf(&name, "%s/short", a);
	write_file(d, name.buf, "split", 5, 0644);
	write_file(d, b, "pax", 3, 0644);
	make_link(d, target, link);
	archive(d, 1000, &sb);
	unpack(d, &sb);
	assert_content(d, name.buf, "split", 5);
	assert_content(d, b, "pax", 3);
	assert_int_equal(out_stat(d, link).st_size, 150);
	strbuf_release(&sb);
	strbuf_release(&name);
}

static void test_empty_and_missing(void **state)
{
	struct dirs *d = *state;
	struct err e = ERR_INIT;
	struct tar *t = NULL;
	char path[256];

	assert_int_equal(tar_open(d->in, NULL, 0, &t, &e), 0);
	assert_int_equal(tar_count(t), 0);
	assert_int_equal(tar_size(t), 1024);
	tar_close(t);
	path_in(d, "not-there", path, sizeof(path));
	assert_int_equal(tar_open(path, NULL, 0, &t, &e), -ENOENT);
	assert_non_null(strstr(e.text, "not-there"));
}

static void test_changed_meanwhile(void **state)
{
	struct dirs *d = *state;
	struct err e = ERR_INIT;
	struct tar *t = NULL;
	char buf[4096];
	ssize_t n;

	write_file(d, "data", "0123456789", 10, 0644);
	assert_int_equal(tar_open(d->in, NULL, 0, &t, &e), 0);
	write_file(d, "data", "01234", 5, 0644);
	while ((n = tar_read(t, buf, sizeof(buf), &e)) > 0)
		;
	assert_int_equal(n, -ESTALE);
	assert_non_null(strstr(e.text, "data"));
	tar_close(t);
}

/* From every byte on, what comes is the rest of the same archive; and what tells archives apart. */
static void test_skip(void **state)
{
	struct dirs *d = *state;
	struct strbuf all = STRBUF_INIT, rest = STRBUF_INIT;
	struct err e = ERR_INIT;
	struct tar *t = NULL;
	char buf[1000];
	uint64_t print;
	ssize_t n;

	write_file(d, "a", "0123456789", 10, 0644);
	write_file(d, "b", "", 0, 0644);
	write_file(d, "c", "x", 1, 0644);
	assert_int_equal(tar_open(d->in, NULL, 0, &t, &e), 0);
	print = tar_print(t);
	while ((n = tar_read(t, buf, sizeof(buf), &e)) > 0)
		strbuf_add(&all, buf, (size_t)n);
	tar_close(t);
	for (size_t at = 0; at <= all.len; at += 7) {
		assert_int_equal(tar_open(d->in, NULL, 0, &t, &e), 0);
		assert_true(tar_print(t) == print);
		assert_int_equal(tar_skip(t, at, &e), 0);
		strbuf_reset(&rest);
		while ((n = tar_read(t, buf, sizeof(buf), &e)) > 0)
			strbuf_add(&rest, buf, (size_t)n);
		assert_int_equal(rest.len, all.len - at);
		assert_memory_equal(rest.buf, all.buf + at, rest.len);
		tar_close(t);
	}
	write_file(d, "c", "yy", 2, 0644);
	assert_int_equal(tar_open(d->in, NULL, 0, &t, &e), 0);
	assert_true(tar_print(t) != print);
	assert_int_equal(tar_skip(t, tar_size(t) + 1, &e), -EINVAL);
	tar_close(t);
	strbuf_release(&all);
	strbuf_release(&rest);
}

/* What the user named is sent, also by way of a link; links in a directory are what they are. */
static void test_extra_link(void **state)
{
	struct dirs *d = *state;
	struct err e = ERR_INIT;
	char target[128], name[128];
	struct tar_extra extra = { name, "given" };
	struct tar *t = NULL;

	write_file(d, "a", "0123456789", 10, 0644);
	(void)snprintf(target, sizeof(target), "%s/a", d->in);
	(void)snprintf(name, sizeof(name), "%s/link", d->root);
	(void)unlink(name);
	assert_int_equal(symlink(target, name), 0);
	assert_int_equal(tar_open(NULL, &extra, 1, &t, &e), 0);
	assert_int_equal(tar_count(t), 1);
	assert_int_equal(tar_size(t), 512 + 512 + 1024);
	tar_close(t);
	(void)unlink(name);
}

static void test_link_inside(void **state)
{
	(void)state;
	assert_true(tar_link_inside("a", "b"));
	assert_true(tar_link_inside("d/a", "../b"));
	assert_true(tar_link_inside("d/a", "./x//../../b"));
	assert_true(tar_link_inside("d/e/a", "../../b"));
	assert_false(tar_link_inside("a", ""));
	assert_false(tar_link_inside("a", "/b"));
	assert_false(tar_link_inside("a", ".."));
	assert_false(tar_link_inside("a", "x/../../in/b"));
	assert_false(tar_link_inside("d/a", "../../b"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_left_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_long_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_empty_and_missing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_changed_meanwhile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_skip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_extra_link, setup, teardown),
		cmocka_unit_test(test_link_inside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
