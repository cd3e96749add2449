/*
 * The path table: numbers that stay what they are, through renames, removals, restarts and files that a kill cut off;
 * and what is taken from listings that a cluster sends, whatever is in them.
 */
#include "fs/paths.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "fs/ino.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define RUN 7

static char dir[64];

static int setup(void **state)
{
	char spool[80];

	(void)snprintf(dir, sizeof(dir), "/tmp/test_paths.XXXXXX");
	assert_non_null(mkdtemp(dir));
	(void)snprintf(spool, sizeof(spool), "%s/spool", dir);
	assert_int_equal(mkdir(spool, 0700), 0);
	*state = paths_open(dir, RUN);
	return 0;
}

static int teardown(void **state)
{
	char name[120];

	paths_close(*state);
	(void)snprintf(name, sizeof(name), "%s/spool/%d/paths", dir, RUN);
	(void)unlink(name);
	(void)snprintf(name, sizeof(name), "%s/spool/%d", dir, RUN);
	(void)rmdir(name);
	(void)snprintf(name, sizeof(name), "%s/spool", dir);
	(void)rmdir(name);
	return rmdir(dir);
}

/* As the next worker sees it. */
static struct paths *again(void **state)
{
	paths_close(*state);
	*state = paths_open(dir, RUN);
	return *state;
}

static void invariants(const struct paths *p)
{
	for (size_t i = 0; i < p->n; i++) {
		assert_int_equal(p->entries[i]->index, i);
		assert_ptr_equal(paths_find(p, p->entries[i]->area, p->entries[i]->path), p->entries[i]);
		assert_ptr_equal(paths_at(p, (uint32_t)i), p->entries[i]);
	}
	assert_null(paths_at(p, (uint32_t)p->n));
}

static uint32_t number(struct paths *p, char area, const char *path)
{
	struct pentry *e = paths_find(p, area, path);

	assert_non_null(e);
	return e->index;
}

static void numbers_stay(void **state)
{
	static const char *const names[] = { "a", "b/c", "with blank", "new\nline", "\xc3\xbc", "=3 fx", "-", "b" };
	struct paths *p = *state;

	for (uint32_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_int_equal(paths_add(p, 'f', names[i])->index, i);
	assert_int_equal(paths_add(p, 'r', "a")->index, ARRAY_SIZE(names)); /* areas are apart */
	assert_int_equal(paths_add(p, 'f', "a")->index, 0);
	for (int round = 0; round < 3; round++) {
		invariants(p);
		for (uint32_t i = 0; i < ARRAY_SIZE(names); i++)
			assert_int_equal(number(p, 'f', names[i]), i);
		assert_null(paths_find(p, 'w', "a"));
		p = again(state);
	}
}

static void many(void **state)
{
	struct paths *p = *state;
	char name[32];

	for (int i = 0; i < 3000; i++) {
		(void)snprintf(name, sizeof(name), "d%d/f%d", i % 50, i);
		assert_int_equal(paths_add(p, 'r', name)->index, i);
	}
	p = again(state);
	assert_int_equal(p->n, 3000);
	invariants(p);
}

static void moves(void **state)
{
	struct paths *p = *state;
	struct pentry *a = paths_add(p, 'f', "a"), *b = paths_add(p, 'f', "b");
	uint32_t was_a = a->index, was_b = b->index;

	assert_int_equal(paths_move(p, a, "c"), 0);
	assert_null(paths_find(p, 'f', "a"));
	assert_int_equal(number(p, 'f', "c"), was_a);
	/* over something: its number means nothing that a user could name */
	assert_int_equal(paths_move(p, a, "b"), 0);
	assert_int_equal(number(p, 'f', "b"), was_a);
	assert_string_equal(paths_at(p, was_b)->path, "//1");
	invariants(p);
	p = again(state);
	invariants(p);
	assert_int_equal(number(p, 'f', "b"), was_a);
	assert_true(paths_add(p, 'f', "a")->index > was_b);
}

static void directories_move_with_what_is_below(void **state)
{
	struct paths *p = *state;
	uint32_t d = paths_add(p, 'f', "d")->index, f = paths_add(p, 'f', "d/f")->index;
	uint32_t g = paths_add(p, 'f', "d/sub/g")->index, other = paths_add(p, 'f', "dd/f")->index;

	(void)paths_add(p, 'r', "d/f");
	assert_int_equal(paths_move(p, paths_at(p, d), "e/new"), 0);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(number(p, 'f', "e/new"), d);
		assert_int_equal(number(p, 'f', "e/new/f"), f);
		assert_int_equal(number(p, 'f', "e/new/sub/g"), g);
		assert_int_equal(number(p, 'f', "dd/f"), other);
		assert_null(paths_find(p, 'f', "d/f"));
		assert_non_null(paths_find(p, 'r', "d/f")); /* another area */
		invariants(p);
		p = again(state);
	}
}

static void removed_paths_get_new_numbers(void **state)
{
	struct paths *p = *state;
	uint32_t first = paths_add(p, 'f', "x")->index;

	for (int i = 0; i < 20; i++)
		assert_int_equal(paths_remove(p, paths_add(p, 'f', "x")), 0);
	assert_true(paths_add(p, 'f', "x")->index > first);
	p = again(state);
	invariants(p);
	assert_int_equal(p->n, 21);
	assert_int_equal(number(p, 'f', "x"), 20);
}

static char *table(void)
{
	return xasprintf("%s/spool/%d/paths", dir, RUN);
}

/* A record that a kill cut off was never seen; what comes next takes its number. */
static void cut_off(void **state)
{
	cleanup_free char *file = table();
	struct paths *p = *state;
	struct stat st;
	off_t whole;

	(void)paths_add(p, 'f', "one");
	assert_int_equal(stat(file, &st), 0);
	whole = st.st_size;
	(void)paths_add(p, 'f', "two");
	for (off_t at = whole + 1; at < whole + 4; at++) {
		assert_int_equal(truncate(file, at), 0);
		p = again(state);
		assert_int_equal(p->n, 1);
		assert_int_equal(stat(file, &st), 0);
		assert_int_equal(st.st_size, whole);
		assert_int_equal(paths_add(p, 'f', "three")->index, 1);
		assert_int_equal(truncate(file, whole), 0);
		p = again(state);
		(void)paths_add(p, 'f', "two");
	}
	p = again(state);
	assert_int_equal(number(p, 'f', "two"), 1);
}

static void damaged(void **state)
{
	static const char junk[] = "fgood\0=99 fnowhere\0=x fy\0=\0f\0\0=0 \0rlast\0half";
	cleanup_free char *file = table();
	struct paths *p = *state;
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, junk, sizeof(junk) - 1), sizeof(junk) - 1);
	assert_int_equal(close(fd), 0);
	p = again(state);
	invariants(p);
	assert_non_null(paths_find(p, 'f', "good"));
	assert_non_null(paths_find(p, 'r', "last"));
	assert_non_null(paths_add(p, 'r', "more"));
}

static void cannot_be_written(void **state)
{
	struct paths *p = *state;
	char *file = p->file;

	(void)paths_add(p, 'f', "there");
	p->file = xstrdup("/proc/nowhere/paths");
	assert_null(paths_add(p, 'f', "x"));
	assert_true(paths_move(p, paths_find(p, 'f', "there"), "y") < 0);
	assert_true(paths_remove(p, paths_find(p, 'f', "there")) < 0);
	assert_non_null(paths_find(p, 'f', "there"));
	assert_null(paths_find(p, 'f', "x"));
	invariants(p);
	free(p->file);
	p->file = file;
}

/* --- listings --- */

static void rec(struct strbuf *out, const char *type, const char *size, const char *mtime, const char *mode,
		const char *path, const char *target)
{
	const char *const field[] = { type, size, mtime, mode, path, target };

	for (size_t i = 0; i < ARRAY_SIZE(field); i++)
		strbuf_add(out, field[i], strlen(field[i]) + 1);
}

static void listing(void **state)
{
	struct paths *p = *state;
	struct strbuf sb = STRBUF_INIT;
	struct pentry *e;

	rec(&sb, "f", "12345678901", "1700000000.25", "644", "file", "");
	rec(&sb, "d", "4096", "1700000001", "755", "dir", "");
	rec(&sb, "l", "4", "1700000002.0000009", "777", "link", "file");
	rec(&sb, "f", "3", "1", "4755", "suid", "");
	rec(&sb, "f", "3", "9223372036854775807.5", "644", "future", "");
	rec(&sb, "f", "3", "-9223372036854775807", "644", "past", "");
	paths_take(p, 'r', "", true, sb.buf, sb.len);
	e = paths_find(p, 'r', "file");
	assert_true(e->known && e->type == 'f');
	assert_true(e->size == 12345678901ull);
	assert_true(e->mtime == 1700000000250000ll);
	assert_int_equal(e->mode, 0644);
	assert_int_equal(paths_find(p, 'r', "dir")->type, 'd');
	assert_string_equal(paths_find(p, 'r', "link")->target, "file");
	assert_int_equal(paths_find(p, 'r', "suid")->mode, 0755);
	assert_true(paths_find(p, 'r', "future")->mtime == 9223372036854000000ll);
	assert_true(paths_find(p, 'r', "past")->mtime == -9223372036854000000ll);
	invariants(p);

	/* what a later listing does not name is gone, and keeps its number */
	strbuf_reset(&sb);
	rec(&sb, "f", "1", "1", "644", "file", "");
	paths_take(p, 'r', "", true, sb.buf, sb.len);
	assert_true(paths_find(p, 'r', "file")->known);
	assert_false(paths_find(p, 'r', "dir")->known);
	assert_int_equal(number(p, 'r', "suid"), 3);
	strbuf_release(&sb);
}

/* A listing of one directory says nothing of others. */
static void one_directory(void **state)
{
	struct paths *p = *state;
	struct strbuf sb = STRBUF_INIT;

	rec(&sb, "d", "0", "1", "755", "d", "");
	rec(&sb, "f", "0", "1", "644", "top", "");
	paths_take(p, 'w', "", false, sb.buf, sb.len);
	strbuf_reset(&sb);
	rec(&sb, "f", "5", "1", "644", "below", "");
	paths_take(p, 'w', "d", false, sb.buf, sb.len);
	assert_true(paths_find(p, 'w', "d/below")->known);
	assert_true(paths_find(p, 'w', "top")->known);
	paths_take(p, 'w', "d", false, "", 0);
	assert_false(paths_find(p, 'w', "d/below")->known);
	assert_true(paths_find(p, 'w', "top")->known && paths_find(p, 'w', "d")->known);
	paths_take(p, 'w', "", false, "", 0);
	assert_false(paths_find(p, 'w', "top")->known);
	strbuf_release(&sb);
}

static void hostile_names(void **state)
{
	static const char *const bad[] = { "",   ".",      "..",    "../up", "a/..", "a/../b", "/abs", "a//b",
					   "a/", "./here", "a/./b", "//",    "//0",  "..//..", "a/.." };
	struct paths *p = *state;
	struct strbuf sb = STRBUF_INIT;
	char name[300];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		rec(&sb, "f", "1", "1", "644", bad[i], "");
	memset(name, 'n', 256);
	name[256] = '\0';
	rec(&sb, "f", "1", "1", "644", name, "");
	rec(&sb, "p", "1", "1", "644", "fifo", "");
	rec(&sb, "s", "1", "1", "644", "socket", "");
	rec(&sb, "b", "1", "1", "644", "device", "");
	rec(&sb, "", "1", "1", "644", "nothing", "");
	paths_take(p, 'r', "", true, sb.buf, sb.len);
	assert_int_equal(p->n, 0);
	name[255] = '\0';
	strbuf_reset(&sb);
	rec(&sb, "f", "1", "1", "644", name, "");
	rec(&sb, "f", "1", "1", "644", "...", "");
	rec(&sb, "f", "1", "1", "644", "..a/b..", "");
	paths_take(p, 'r', "", true, sb.buf, sb.len);
	assert_int_equal(p->n, 3);
	strbuf_release(&sb);
}

static bool link_shown(struct paths *p, const char *path, const char *target)
{
	struct strbuf sb = STRBUF_INIT;
	const struct pentry *e;

	rec(&sb, "l", "1", "1", "777", path, target);
	paths_take(p, 'r', "", true, sb.buf, sb.len);
	strbuf_release(&sb);
	e = paths_find(p, 'r', path);
	return e && e->known;
}

static void links(void **state)
{
	struct paths *p = *state;

	assert_true(link_shown(p, "l1", "file"));
	assert_true(link_shown(p, "l2", "./a/b"));
	assert_true(link_shown(p, "d/l3", "../file"));
	assert_true(link_shown(p, "d/e/l4", "../../x/y"));
	assert_true(link_shown(p, "l5", "dangling/deep"));
	assert_false(link_shown(p, "l6", "/etc/passwd"));
	assert_false(link_shown(p, "l7", ".."));
	assert_false(link_shown(p, "l8", "a/../../b"));
	assert_false(link_shown(p, "d/l9", "../../x"));
	assert_false(link_shown(p, "l10", ""));
	assert_false(link_shown(p, "d/l11", "../.././d/../../etc"));
	/* behind a name, which may be a link to ".", they lead out */
	assert_false(link_shown(p, "l12", "a/.."));
	assert_false(link_shown(p, "l13", "dot/dot/dot/../../../etc"));
	assert_false(link_shown(p, "d/e/l14", "../a/../b"));
}

/* --- listings of a whole area --- */

static bool is_known(const struct paths *p, char area, const char *path)
{
	const struct pentry *e = paths_find(p, area, path);

	return e && e->known;
}

static void merge(struct paths *p, bool whole, int64_t began, const char *const *names, const char *types)
{
	struct strbuf sb = STRBUF_INIT;
	char type[2] = "";

	for (size_t i = 0; names[i]; i++) {
		type[0] = types[i];
		rec(&sb, type, "1", "1", "644", names[i], "");
	}
	paths_merge(p, 'r', whole, began, sb.buf, sb.len);
	strbuf_release(&sb);
	invariants(p);
}

static void whole_area(void **state)
{
	static const char *const first[] = { "a", "d", "d/x", "d/e", NULL }, *const second[] = { "d", "d/y", NULL };
	struct paths *p = *state;

	paths_add(p, 'w', "w")->known = true;
	merge(p, true, 100, first, "fdfd");
	assert_true(is_known(p, 'r', "a") && is_known(p, 'r', "d/x") && is_known(p, 'w', "w"));
	assert_true(paths_dir(p, 'r', "")->listed && paths_dir(p, 'r', "d")->listed &&
		    paths_dir(p, 'r', "d/e")->listed);
	assert_int_equal(paths_dir(p, 'r', "d")->answered_at, 100);
	assert_false(paths_dir(p, 'w', "")->listed);
	assert_false(paths_dir(p, 'r', "a")->listed);
	merge(p, true, 200, second, "df");
	assert_false(is_known(p, 'r', "a") || is_known(p, 'r', "d/x") || is_known(p, 'r', "d/e"));
	assert_true(is_known(p, 'r', "d/y") && is_known(p, 'w', "w"));
	paths_confirm(p, 'r', 300);
	assert_int_equal(paths_dir(p, 'r', "d")->answered_at, 300);
	assert_int_equal(paths_dir(p, 'r', "d/e")->answered_at, 100);
}

/* What began earlier says nothing of a directory that was listed since, in either order. */
static void older_listing(void **state)
{
	static const char *const old[] = { "a", "d", "d/x", NULL }, *const newer[] = { "d", "d/y", NULL };
	struct paths *p = *state;

	merge(p, true, 100, newer, "df");
	paths_dir(p, 'r', "d")->answered_at = 300; /* asked alone, later */
	merge(p, true, 200, old, "fdf");
	assert_true(is_known(p, 'r', "a") && is_known(p, 'r', "d/y"));
	assert_false(is_known(p, 'r', "d/x"));
	assert_int_equal(paths_dir(p, 'r', "d")->answered_at, 300);
	merge(p, true, 400, old, "fdf");
	assert_true(is_known(p, 'r', "d/x"));
	assert_false(is_known(p, 'r', "d/y"));
}

static void cut_area(void **state)
{
	static const char *const first[] = { "a", "b", NULL }, *const part[] = { "c", NULL };
	struct paths *p = *state;

	merge(p, false, 100, first, "ff");
	assert_false(paths_dir(p, 'r', "")->listed);
	merge(p, false, 200, part, "f");
	assert_true(is_known(p, 'r', "a") && is_known(p, 'r', "b") && is_known(p, 'r', "c"));
}

static void another_attempt(void **state)
{
	static const char *const first[] = { "a", "d", NULL };
	struct paths *p = *state;
	uint32_t before;

	merge(p, true, 100, first, "fd");
	before = number(p, 'r', "a");
	paths_forget(p);
	assert_false(is_known(p, 'r', "a") || paths_dir(p, 'r', "")->listed || paths_dir(p, 'r', "d")->listed);
	assert_int_equal(number(p, 'r', "a"), before);
}

/* A disk that takes half of a record: nothing of it is left, and nobody was given a number. */
static void half_written(void **state)
{
	static const char *const names[] = { "one", "two", "three", NULL };
	struct rlimit old, small;
	struct paths *p = *state;
	struct stat st;
	char file[120];

	(void)signal(SIGXFSZ, SIG_IGN);
	assert_non_null(paths_add(p, 'r', "first"));
	(void)snprintf(file, sizeof(file), "%s/spool/%d/paths", dir, RUN);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = (struct rlimit){ (rlim_t)st.st_size + 4, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_null(paths_add(p, 'r', "second"));
	merge(p, true, 100, names, "fff");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(p->n, 1);
	merge(p, true, 200, names, "fff");
	assert_int_equal(p->n, 4);
	p = again(state);
	assert_int_equal(p->n, 4);
	assert_int_equal(number(p, 'r', "first"), 0);
	assert_int_equal(number(p, 'r', "three"), 3);
	invariants(p);
}

/* A listing that is cut anywhere gives what came whole, and never more. */
static void cut_listing(void **state)
{
	struct paths *p = *state;
	struct strbuf sb = STRBUF_INIT;

	rec(&sb, "f", "1", "1", "644", "one", "");
	rec(&sb, "f", "2", "2", "644", "two", "");
	for (size_t len = 0; len <= sb.len; len++) {
		char *exact = xmalloc(len + 1); /* so that a reader past the end is noticed */

		memcpy(exact, sb.buf, len);
		exact = xrealloc(exact, len ? len : 1);
		paths_take(p, 'r', "", true, exact, len);
		assert_int_equal(paths_find(p, 'r', "one") && paths_find(p, 'r', "one")->known, len >= sb.len / 2);
		assert_int_equal(paths_find(p, 'r', "two") && paths_find(p, 'r', "two")->known, len == sb.len);
		free(exact);
	}
	strbuf_release(&sb);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(numbers_stay),
		T(many),
		T(moves),
		T(directories_move_with_what_is_below),
		T(removed_paths_get_new_numbers),
		T(cut_off),
		T(damaged),
		T(cannot_be_written),
		T(listing),
		T(one_directory),
		T(hostile_names),
		T(links),
		T(cut_listing),
		T(whole_area),
		T(older_listing),
		T(cut_area),
		T(another_attempt),
		T(half_written),
	};

	return cmocka_run_group_tests_name("paths", tests, NULL, NULL);
}
