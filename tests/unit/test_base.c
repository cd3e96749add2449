/*
 * The base layer: errors, buffers, maps, lists, the inbox, time and quoting.
 */
#include "backend/base/clock.h"
#include "backend/base/err.h"
#include "backend/base/hash.h"
#include "backend/base/inbox.h"
#include "backend/base/list.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/near.h"
#include "backend/base/quote.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <cmocka.h>

/* --- err --- */

static void errors_carry_code_and_text(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(err_set(&e, -EINVAL, "nodes = %d", 0), -EINVAL);
	assert_int_equal(e.code, -EINVAL);
	assert_string_equal(e.text, "nodes = 0");
	assert_int_equal(err_wrap(&e, "line %d", 3), -EINVAL);
	assert_string_equal(e.text, "line 3: nodes = 0");
	assert_int_equal(err_sys(&e, -ENOENT, "cannot open %s", "x"), -ENOENT);
	assert_string_equal(e.text, "cannot open x: No such file or directory");
	assert_int_equal(err_set(NULL, -EPERM, "x"), -EPERM);
	assert_int_equal(err_sys(NULL, -EPERM, "x"), -EPERM);
	assert_true(err_wrap(NULL, "x") < 0);
}

static void long_errors_are_cut(void **state)
{
	struct err e = ERR_INIT;
	char big[3000];

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	(void)err_set(&e, -E2BIG, "%s", big);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	(void)err_wrap(&e, "%s", "where");
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	assert_memory_equal(e.text, "where: xxx", 10);
	(void)err_sys(&e, -EIO, "%s", big);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

/* --- strbuf --- */

static void buffers_grow_and_are_strings(void **state)
{
	struct strbuf sb = STRBUF_INIT;
	size_t len;
	char *s;

	(void)state;
	assert_string_equal(sb.buf, "");
	strbuf_reset(&sb);
	strbuf_add(&sb, "", 0);
	assert_string_equal(sb.buf, "");
	for (int i = 0; i < 1000; i++) {
		strbuf_addf(&sb, "%d,", i);
		assert_int_equal(strlen(sb.buf), sb.len);
	}
	assert_memory_equal(sb.buf, "0,1,2,3,", 8);
	strbuf_setlen(&sb, 8);
	assert_string_equal(sb.buf, "0,1,2,3,");
	strbuf_addch(&sb, 'x');
	strbuf_addstr(&sb, "yz");
	strbuf_remove(&sb, 0, 2);
	strbuf_remove(&sb, 6, 3);
	strbuf_remove(&sb, 6, 0);
	assert_string_equal(sb.buf, "1,2,3,");
	s = strbuf_detach(&sb, &len);
	assert_int_equal(len, 6);
	assert_string_equal(s, "1,2,3,");
	free(s);
	assert_string_equal(sb.buf, "");
	assert_int_equal(sb.len, 0);
	s = strbuf_detach(&sb, NULL); /* of an empty one: still the caller's to free */
	assert_string_equal(s, "");
	free(s);
	strbuf_release(&sb);
	strbuf_release(&sb);
	assert_int_equal(strbuf_slop[0], 0);
}

static void buffers_hold_any_byte(void **state)
{
	struct strbuf sb = STRBUF_INIT;

	(void)state;
	strbuf_add(&sb, "a\0b", 3);
	strbuf_addch(&sb, '\0');
	assert_int_equal(sb.len, 4);
	assert_memory_equal(sb.buf, "a\0b\0", 5);
	strbuf_release(&sb);
}

static void files_are_read_whole_or_not(void **state)
{
	char path[] = "/tmp/test_base.XXXXXX", block[5000];
	struct strbuf sb = STRBUF_INIT;
	int fd = mkstemp(path);

	(void)state;
	assert_true(fd >= 0);
	memset(block, 'b', sizeof(block));
	for (int i = 0; i < 4; i++)
		assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
	(void)close(fd);
	strbuf_addstr(&sb, "head");
	assert_int_equal(strbuf_read_file(&sb, path, 20000), 20000);
	assert_int_equal(sb.len, 20004);
	assert_memory_equal(sb.buf, "headbb", 6);
	assert_int_equal(sb.buf[sb.len], '\0');
	strbuf_setlen(&sb, 4);
	assert_int_equal(strbuf_read_file(&sb, path, 19999), -EFBIG);
	assert_string_equal(sb.buf, "head");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(strbuf_read_file(&sb, path, 100), -ENOENT);
	assert_int_equal(strbuf_read_file(&sb, "/", 100), -EISDIR);
	assert_string_equal(sb.buf, "head");
	assert_int_equal(strbuf_read_file(&sb, "/dev/null", 0), 0);
	strbuf_release(&sb);
}

/* --- hash --- */

static void hashes_are_the_published_ones(void **state)
{
	(void)state;
	/* draft-eastlake-fnv, test vectors of FNV-1a 64 */
	assert_true(hash_str("") == 0xcbf29ce484222325u);
	assert_true(hash_str("a") == 0xaf63dc4c8601ec8cu);
	assert_true(hash_str("foobar") == 0x85944171f73967e8u);
	assert_true(hash_bytes("foobar!", 6) == hash_str("foobar"));
	assert_true(hash_u64(0) == 0);
	assert_true(hash_u64(1) != hash_u64(2));
}

struct item {
	struct hmap_node node;
	uint64_t key;
};

static struct item *find(const struct hmap *m, uint64_t hash, uint64_t key)
{
	for (struct hmap_node *n = hmap_first(m, hash); n; n = hmap_next(n))
		if (container_of(n, struct item, node)->key == key)
			return container_of(n, struct item, node);
	return NULL;
}

static void maps_find_what_is_there(void **state)
{
	enum { N = 2000 };
	struct item *items = xcalloc(N, sizeof(*items));
	struct hmap m;

	(void)state;
	hmap_init(&m);
	assert_null(hmap_first(&m, 1));
	assert_null(hmap_walk(&m, NULL));
	for (uint64_t i = 0; i < N; i++) {
		items[i].key = i;
		hmap_insert(&m, &items[i].node, hash_u64(i / 2)); /* two of each hash */
	}
	assert_int_equal(m.count, N);
	for (uint64_t i = 0; i < N; i++)
		assert_ptr_equal(find(&m, hash_u64(i / 2), i), &items[i]);
	for (uint64_t i = 0; i < N; i += 2)
		hmap_remove(&m, &items[i].node);
	assert_int_equal(m.count, N / 2);
	for (uint64_t i = 0; i < N; i++)
		assert_ptr_equal(find(&m, hash_u64(i / 2), i), i % 2 ? &items[i] : NULL);
	assert_null(hmap_first(&m, hash_u64(N)));
	hmap_release(&m);
	free(items);
}

static void walks_meet_each_element_once(void **state)
{
	struct item items[300];
	struct hmap m;
	struct hmap_node *n, *next;
	unsigned met = 0;

	(void)state;
	hmap_init(&m);
	memset(items, 0, sizeof(items));
	for (uint64_t i = 0; i < ARRAY_SIZE(items); i++)
		hmap_insert(&m, &items[i].node, i % 3 ? hash_u64(i) : 7);
	for (n = hmap_walk(&m, NULL); n; n = hmap_walk(&m, n)) {
		container_of(n, struct item, node)->key++;
		met++;
	}
	assert_int_equal(met, ARRAY_SIZE(items));
	for (size_t i = 0; i < ARRAY_SIZE(items); i++)
		assert_int_equal(items[i].key, 1);
	for (n = hmap_walk(&m, NULL); n; n = next) { /* the next one is found before this one goes */
		next = hmap_walk(&m, n);
		hmap_remove(&m, n);
	}
	assert_int_equal(m.count, 0);
	hmap_release(&m);
}

/* --- list --- */

struct thing {
	struct list node;
	int n;
};

static void check_list(struct list *head, const char *want)
{
	struct strbuf sb = STRBUF_INIT;
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, head)
		strbuf_addf(&sb, "%d", container_of(n, struct thing, node)->n);
	assert_string_equal(sb.buf, want);
	strbuf_release(&sb);
}

static void lists_keep_order(void **state)
{
	struct list a = LIST_INIT(a), b = LIST_INIT(b), *n, *tmp;
	struct thing t[6];

	(void)state;
	for (int i = 0; i < 6; i++) {
		t[i].n = i;
		list_init(&t[i].node);
		list_add_tail(i < 4 ? &a : &b, &t[i].node);
	}
	check_list(&a, "0123");
	list_del(&t[1].node);
	list_del(&t[1].node); /* harmless on one that is off */
	check_list(&a, "023");
	list_splice(&a, &b);
	check_list(&a, "02345");
	assert_true(list_empty(&b));
	list_splice(&a, &b);
	list_splice(&b, &a);
	check_list(&b, "02345");
	assert_true(list_empty(&a));
	assert_ptr_equal(list_pop(&b), &t[0].node);
	list_for_each_safe (n, tmp, &b)
		if (container_of(n, struct thing, node)->n % 2)
			list_del(n);
	check_list(&b, "24");
	assert_non_null(list_pop(&b));
	assert_non_null(list_pop(&b));
	assert_null(list_pop(&b));
}

/* --- inbox --- */

struct number {
	struct msg m;
	int from, n;
};

static int released; /* by one thread at a time */

static void release_number(struct msg *m)
{
	released++;
	free(container_of(m, struct number, m));
}

static void post(struct inbox *in, int from, int n)
{
	struct number *x = xcalloc(1, sizeof(*x));

	x->m.release = release_number;
	x->from = from;
	x->n = n;
	inbox_post(in, &x->m);
}

static bool readable(struct inbox *in, int ms)
{
	struct pollfd p = { inbox_fd(in), POLLIN, 0 };

	return poll(&p, 1, ms) == 1;
}

static void inboxes_wake_and_keep_order(void **state)
{
	struct list got = LIST_INIT(got), *n;
	struct msg plain = { .release = NULL };
	struct inbox in;

	(void)state;
	released = 0;
	assert_int_equal(inbox_init(&in), 0);
	assert_false(readable(&in, 0));
	inbox_take(&in, &got);
	assert_true(list_empty(&got));
	for (int i = 0; i < 5; i++)
		post(&in, 0, i);
	assert_true(readable(&in, 0));
	inbox_take(&in, &got);
	assert_false(readable(&in, 0));
	for (int i = 0; i < 5; i++) {
		struct msg *m;

		n = list_pop(&got);
		assert_non_null(n);
		m = container_of(n, struct msg, node);
		assert_int_equal(container_of(m, struct number, m)->n, i);
		msg_release(m);
	}
	assert_true(list_empty(&got));
	post(&in, 0, 9);
	inbox_post(&in, &plain); /* owned by nobody: released without effect */
	inbox_release(&in);
	assert_int_equal(released, 6);
}

enum { POSTERS = 4, POSTS = 2000 };

struct poster {
	pthread_t t;
	struct inbox *in;
	int id;
};

static void *poster_thread(void *arg)
{
	const struct poster *p = arg;

	for (int i = 0; i < POSTS; i++)
		post(p->in, p->id, i);
	return NULL;
}

/* Nothing is lost between "is there anything" and "take it", and each poster's messages come in its order. */
static void inboxes_lose_nothing_between_threads(void **state)
{
	struct poster posters[POSTERS];
	int next[POSTERS] = { 0 }, total = 0;
	struct inbox in;

	(void)state;
	assert_int_equal(inbox_init(&in), 0);
	for (int i = 0; i < POSTERS; i++) {
		posters[i].in = &in;
		posters[i].id = i;
		assert_int_equal(pthread_create(&posters[i].t, NULL, poster_thread, &posters[i]), 0);
	}
	while (total < POSTERS * POSTS) {
		struct list got = LIST_INIT(got), *n;

		assert_true(readable(&in, 20000));
		inbox_take(&in, &got);
		while ((n = list_pop(&got))) {
			struct msg *m = container_of(n, struct msg, node);
			struct number *x = container_of(m, struct number, m);

			assert_int_equal(x->n, next[x->from]++);
			total++;
			msg_release(m);
		}
	}
	for (int i = 0; i < POSTERS; i++)
		assert_int_equal(pthread_join(posters[i].t, NULL), 0);
	assert_false(readable(&in, 0));
	inbox_release(&in);
}

/* --- clock --- */

static void times_as_text(void **state)
{
	char buf[CLOCK_TEXT];

	(void)state;
	assert_string_equal(clock_text(0, buf), "1970-01-01T00:00:00.000000Z");
	assert_string_equal(clock_text(1769860800123456, buf), "2026-01-31T12:00:00.123456Z");
	assert_string_equal(clock_text(-1, buf), "1969-12-31T23:59:59.999999Z");
	assert_string_equal(clock_text(951782400000000, buf), "2000-02-29T00:00:00.000000Z");
	assert_string_equal(clock_text(INT64_MAX, buf), clock_text(INT64_MAX, buf)); /* far off, but no crash */
	(void)clock_text(INT64_MIN, buf);
}

static void clocks_go_forward(void **state)
{
	int64_t a = clock_mono(&clock_system), b = clock_mono(&clock_system);

	(void)state;
	assert_true(b >= a);
	assert_true(clock_real(&clock_system) > 1600000000000000);
}

/* --- quote --- */

static char *quoted(const char *s)
{
	struct strbuf sb = STRBUF_INIT;

	quote_sh(&sb, s);
	return strbuf_detach(&sb, NULL);
}

static void check_quote(const char *s, const char *want)
{
	char *got = quoted(s);

	assert_string_equal(got, want);
	free(got);
}

static void check_path(const char *s, const char *want)
{
	struct strbuf sb = STRBUF_INIT;

	quote_sh_path(&sb, s);
	assert_string_equal(sb.buf, want);
	strbuf_release(&sb);
}

static void quoting(void **state)
{
	(void)state;
	check_quote("", "''");
	check_quote("plain-1.0_x@y%z+a=b:c,/d", "plain-1.0_x@y%z+a=b:c,/d");
	check_quote("two words", "'two words'");
	check_quote("it's", "'it'\\''s'");
	check_quote("$(rm -rf /)", "'$(rm -rf /)'");
	check_quote("~", "'~'");
	check_quote("a\nb", "'a\nb'");
	check_quote("*", "'*'");
	check_path("~", "\"$HOME\"");
	check_path("~/", "\"$HOME\"/");
	check_path("~/a b", "\"$HOME\"/'a b'");
	check_path("~root/x", "'~root/x'");
	check_path("/a/~/b", "'/a/~/b'");
	check_path("/plain", "/plain");
}

/* What sh reads is what was quoted, for every byte that a string can hold. */
static void a_shell_reads_it_back(void **state)
{
	struct strbuf all = STRBUF_INIT, script = STRBUF_INIT, back = STRBUF_INIT;
	int fds[2], status = -1;
	pid_t pid;

	(void)state;
	for (int c = 1; c < 256; c++) {
		strbuf_addch(&all, (char)c);
		strbuf_addch(&all, c % 5 ? '\'' : 'x');
	}
	strbuf_addstr(&script, "printf %s ");
	quote_sh(&script, all.buf);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		(void)dup2(fds[1], STDOUT_FILENO);
		(void)execl("/bin/sh", "sh", "-c", script.buf, (char *)NULL);
		_exit(127);
	}
	(void)close(fds[1]);
	assert_int_equal(strbuf_read_fd(&back, fds[0], 10000), all.len);
	(void)close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_memory_equal(back.buf, all.buf, all.len);
	strbuf_release(&all);
	strbuf_release(&script);
	strbuf_release(&back);
}

/* --- mem and log --- */

static void strings_are_replaced(void **state)
{
	char *s = NULL;

	(void)state;
	assert_null(xstrdup(NULL));
	str_set(&s, "hello");
	str_set(&s, s + 2); /* from inside itself */
	assert_string_equal(s, "llo");
	str_set(&s, NULL);
	assert_null(s);
	s = xasprintf("%s-%d", "a", 1);
	assert_string_equal(s, "a-1");
	free(s);
	s = xstrndup("abc", 2);
	assert_string_equal(s, "ab");
	free(s);
}

static void the_log_is_lines(void **state)
{
	char big[5000], got[6000];
	int fds[2];
	ssize_t n;

	(void)state;
	assert_int_equal(pipe(fds), 0);
	log_setup(fds[1], LOG_INFO);
	errno = EXDEV;
	log_info("number %d", 5);
	assert_int_equal(errno, EXDEV);
	log_debug("not written");
	n = read(fds[0], got, sizeof(got) - 1);
	assert_true(n > 28);
	got[n] = '\0';
	assert_string_equal(got + 27, " info number 5\n");
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	log_error("%s", big);
	n = read(fds[0], got, sizeof(got) - 1);
	assert_true(n > 0 && n <= 2048);
	assert_int_equal(got[n - 1], '\n');
	assert_null(memchr(got, '\n', (size_t)n - 1));
	log_setup(STDERR_FILENO, LOG_WARN);
	(void)close(fds[0]);
	(void)close(fds[1]);
}

static void names_are_near(void **state)
{
	static const struct {
		const char *a, *b;
		int distance;
	} cases[] = {
		{ "", "", 0 },
		{ "", "ab", 2 },
		{ "nodes", "nodes", 0 },
		{ "nodez", "nodes", 1 },
		{ "ndoes", "nodes", 1 },
		{ "node", "nodes", 1 },
		{ "nodees", "nodes", 1 },
		{ "submit", "sumbit", 1 },
		{ "ca", "abc", 3 },
		{ "kitten", "sitting", 3 },
		{ "0123456789012345678901234567890123", "0123456789012345678901234567890123", NEAR_MAX_LEN },
	};
	const char *found = NULL;
	int best = near_limit("mont");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_int_equal(near_distance(cases[i].a, cases[i].b), cases[i].distance);
		assert_int_equal(near_distance(cases[i].b, cases[i].a), cases[i].distance);
	}
	assert_int_equal(near_prefix("submit", "sumbit"), 2);
	near_consider("mont", "follow", &best, &found);
	assert_null(found);
	near_consider("mont", "amounts", &best, &found);
	assert_null(found);
	near_consider("mont", "font", &best, &found);
	assert_string_equal(found, "font");
	near_consider("mont", "mount", &best, &found); /* as near, and it begins alike */
	assert_string_equal(found, "mount");
	assert_true(near_limit("xy") < near_limit("longer") && near_limit("longer") < near_limit("much_longer"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_carry_code_and_text),
		cmocka_unit_test(long_errors_are_cut),
		cmocka_unit_test(buffers_grow_and_are_strings),
		cmocka_unit_test(buffers_hold_any_byte),
		cmocka_unit_test(files_are_read_whole_or_not),
		cmocka_unit_test(hashes_are_the_published_ones),
		cmocka_unit_test(maps_find_what_is_there),
		cmocka_unit_test(walks_meet_each_element_once),
		cmocka_unit_test(lists_keep_order),
		cmocka_unit_test(inboxes_wake_and_keep_order),
		cmocka_unit_test(inboxes_lose_nothing_between_threads),
		cmocka_unit_test(times_as_text),
		cmocka_unit_test(clocks_go_forward),
		cmocka_unit_test(quoting),
		cmocka_unit_test(a_shell_reads_it_back),
		cmocka_unit_test(strings_are_replaced),
		cmocka_unit_test(the_log_is_lines),
		cmocka_unit_test(names_are_near),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
