/*
 * The feed: every line once and at its place, after a kill at any moment (a file that is shorter, or half written),
 * after faults of the disk, and when the journal is older than the file. What the engine writes into it is in
 * test_engine_feed.
 */
#include "backend/store_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

static char root[64], dir[128];
static unsigned dirs;

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static int setup_all(void **state)
{
	(void)state;
	strcpy(root, "/tmp/test_feed.XXXXXX");
	log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_ERROR); /* troubles are made on purpose here */
	(void)signal(SIGXFSZ, SIG_IGN);
	return mkdtemp(root) ? 0 : -1;
}

static int teardown_all(void **state)
{
	(void)state;
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "%s/%u", root, dirs++);
	return mkdir(dir, 0700);
}

struct fix {
	struct store *s;
	struct inbox replies;
	struct list got;
	char uuid[37];
};

static void fix_start(struct fix *f)
{
	struct err e = ERR_INIT;

	list_init(&f->got);
	assert_int_equal(inbox_init(&f->replies), 0);
	if (store_open(dir, &clock_system, &f->s, f->uuid, &e))
		fail_msg("%s", e.text);
	assert_int_equal(store_start(f->s, &f->replies, &e), 0);
}

static void fix_close(struct fix *f)
{
	struct list *n;

	store_close(f->s, 3000);
	inbox_take(&f->replies, &f->got);
	while ((n = list_pop(&f->got)))
		msg_release(container_of(n, struct msg, node));
	inbox_release(&f->replies);
}

/* The next message but those of trouble; how far the feed is by it. */
static uint64_t next_feed(struct fix *f, int type, int code)
{
	struct pollfd p = { inbox_fd(&f->replies), POLLIN, 0 };
	struct store_msg *m;
	struct list *n;
	uint64_t feed;

	for (;;) {
		while (!(n = list_pop(&f->got))) {
			assert_int_equal(poll(&p, 1, 20000), 1);
			inbox_take(&f->replies, &f->got);
		}
		m = container_of(container_of(n, struct msg, node), struct store_msg, m);
		if (m->m.type == type)
			break;
		assert_int_equal(m->m.type, STORE_TROUBLE);
		msg_release(&m->m);
	}
	feed = m->feed;
	assert_int_equal(m->code, code);
	msg_release(&m->m);
	return feed;
}

static void post(struct fix *f, const char *text)
{
	struct store_txn *t = store_txn_new(1, false);

	store_txn_feed(t, text, strlen(text));
	store_post(f->s, t);
}

static uint64_t posted(struct fix *f, const char *text)
{
	post(f, text);
	return next_feed(f, STORE_DONE, 0);
}

static char *contents(void)
{
	cleanup_free char *path = store_feed_path(dir);
	struct strbuf sb = STRBUF_INIT;

	assert_true(strbuf_read_file(&sb, path, 1 << 24) >= 0);
	return strbuf_detach(&sb, NULL);
}

static void holds(const char *want)
{
	char *have = contents();

	assert_string_equal(have, want);
	free(have);
}

static void put(const char *text)
{
	cleanup_free char *path = store_feed_path(dir);
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	assert_int_equal(fputs(text, out) >= 0, 1);
	assert_int_equal(fclose(out), 0);
}

static void cut(off_t len)
{
	cleanup_free char *path = store_feed_path(dir);

	assert_int_equal(truncate(path, len), 0);
}

static long long query(const char *text)
{
	cleanup_free char *path = xasprintf("%s/journal.db", dir);
	sqlite3 *db = NULL;
	sqlite3_stmt *st = NULL;
	long long n;

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK);
	n = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : -1;
	(void)sqlite3_finalize(st);
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	return n;
}

/* --- tests --- */

static void lines_have_places(void **state)
{
	struct fix f;

	(void)state;
	fix_start(&f);
	assert_int_equal(store_feed_len(f.s), 0);
	assert_int_equal(posted(&f, "one\n"), 4);
	assert_int_equal(posted(&f, "two\nthree\n"), 14);
	store_post(f.s, store_txn_new(2, false));
	assert_int_equal(next_feed(&f, STORE_DONE, 0), 0); /* nothing new */
	holds("one\ntwo\nthree\n");
	fix_close(&f);
	fix_start(&f);
	assert_int_equal(store_feed_len(f.s), 14);
	assert_int_equal(posted(&f, "four\n"), 19);
	fix_close(&f);
	holds("one\ntwo\nthree\nfour\n");
}

/* Whatever part of the last writes is in the file. */
static void any_part_may_be_missing(void **state)
{
	static const char all[] = "one\ntwo\nthree\n";
	struct fix f;
	struct stat before, after;
	cleanup_free char *path = store_feed_path(dir);

	(void)state;
	fix_start(&f);
	for (const char *s = "one\n\0two\n\0three\n\0"; *s; s += strlen(s) + 1)
		(void)posted(&f, s);
	fix_close(&f);
	for (size_t n = 0; n <= strlen(all); n++) {
		cut((off_t)n);
		fix_start(&f);
		fix_close(&f);
		holds(all);
		put("one\ntwX???????"); /* blocks that were not written before the power went */
		fix_start(&f);
		fix_close(&f);
		holds(all);
	}
	assert_int_equal(stat(path, &before), 0);
	fix_start(&f);
	fix_close(&f);
	assert_int_equal(stat(path, &after), 0);
	assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(after.st_mtim)); /* what is whole is not touched */
}

static void a_refused_transaction_leaves_no_line(void **state)
{
	struct store_txn *t = store_txn_new(1, false), *bad = store_txn_new(2, false);
	json_t *o = json_object();
	struct fix f;

	(void)state;
	store_txn_summary(t, 1, "name", true, o);
	store_txn_feed(t, "first\n", 6);
	store_txn_feed(bad, "never\n", 6);
	store_txn_summary(bad, 2, "name", true, o); /* another run's */
	json_decref(o);
	fix_start(&f);
	store_post(f.s, t);
	store_post(f.s, bad);
	post(&f, "second\n");
	assert_int_equal(next_feed(&f, STORE_DONE, 0), 6);
	assert_int_equal(next_feed(&f, STORE_DONE, -EEXIST), 0);
	assert_int_equal(next_feed(&f, STORE_DONE, 0), 13);
	fix_close(&f);
	holds("first\nsecond\n");
}

static void rows_do_not_stay(void **state)
{
	struct fix f;
	char *text, *at;

	(void)state;
	fix_start(&f);
	for (int i = 0; i < 3000; i++) {
		char line[32];

		(void)snprintf(line, sizeof(line), "line %d\n", i);
		post(&f, line);
		if (i % 100 == 99)
			for (int k = 0; k < 100; k++)
				(void)next_feed(&f, STORE_DONE, 0);
	}
	fix_close(&f);
	assert_true(query("SELECT count(*) FROM feed") < 1200);
	assert_true(query("SELECT value FROM meta WHERE key = 'feed_kept'") > 0);
	cut((off_t)query("SELECT value FROM meta WHERE key = 'feed_kept'")); /* before that it was synced */
	fix_start(&f);
	fix_close(&f);
	text = at = contents();
	for (int i = 0; i < 3000; i++) {
		char line[32];

		(void)snprintf(line, sizeof(line), "line %d\n", i);
		assert_int_equal(strncmp(at, line, strlen(line)), 0);
		at += strlen(line);
	}
	assert_int_equal(*at, '\0');
	free(text);
}

static void a_file_that_was_shortened(void **state)
{
	struct fix f;
	char *text;
	size_t kept;

	(void)state;
	fix_start(&f);
	for (int i = 0; i < 1500; i++)
		(void)posted(&f, "0123456789\n");
	fix_close(&f);
	kept = (size_t)query("SELECT value FROM meta WHERE key = 'feed_kept'");
	assert_true(kept > 100);
	cut(15);
	fix_start(&f);
	assert_int_equal(posted(&f, "new\n"), 1500 * 11 + 4);
	fix_close(&f);
	text = contents();
	assert_int_equal(strlen(text), 1500 * 11 + 4);
	assert_int_equal(strncmp(text, "0123456789\n0123   ", 18), 0);
	assert_int_equal(strspn(text + 15, " "), kept - 16);
	assert_int_equal(text[kept - 1], '\n');
	assert_string_equal(text + strlen(text) - 15, "0123456789\nnew\n");
	free(text);
}

/* The journal was put back from a backup; the file is newer. */
static void a_file_that_is_longer(void **state)
{
	struct fix f;

	(void)state;
	fix_start(&f);
	(void)posted(&f, "one\n");
	fix_close(&f);
	put("one\ntwo\nhal");
	fix_start(&f);
	assert_int_equal(store_feed_len(f.s), 12);
	assert_int_equal(posted(&f, "three\n"), 18);
	fix_close(&f);
	holds("one\ntwo\nhal\nthree\n");
	fix_start(&f);
	fix_close(&f);
	holds("one\ntwo\nhal\nthree\n");
}

/* The disk is full for the file, and not for the journal. */
static void a_file_that_cannot_be_written(void **state)
{
	struct rlimit old, small;
	struct fix f;
	uint64_t len;
	char *text;

	(void)state;
	text = xcalloc(1, (4 << 20) + 2);
	memset(text, 'x', 4 << 20);
	text[4 << 20] = '\n';
	put(text);
	free(text);
	fix_start(&f);
	len = store_feed_len(f.s);
	assert_int_equal(len, (4 << 20) + 1);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small = (struct rlimit){ len + 3, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	assert_int_equal(posted(&f, "first\n"), 0); /* it is done, and its line is not to be seen yet */
	assert_int_equal(posted(&f, "second\n"), 0);
	fix_close(&f);
	fix_start(&f); /* a new worker meanwhile */
	assert_int_equal(store_feed_len(f.s), len);
	assert_int_equal(posted(&f, "third\n"), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(next_feed(&f, STORE_FEED, 0), len + 19);
	assert_int_equal(posted(&f, "fourth\n"), len + 26);
	fix_close(&f);
	text = contents();
	assert_string_equal(text + len, "first\nsecond\nthird\nfourth\n");
	free(text);
}

struct fed {
	uint32_t run;
	uint64_t at, bytes;
	int n;
};

static void on_fed(void *arg, uint32_t run, uint64_t at, uint64_t bytes)
{
	struct fed *x = arg;

	*x = (struct fed){ run, at, bytes, x->n + 1 };
}

static void places_of_messages(void **state)
{
	struct fed got = { 0 };
	const struct store_loader l = { .arg = &got, .fed = on_fed };
	struct store_txn *t = store_txn_new(1, false);
	struct err e = ERR_INIT;
	struct fix f;
	uint32_t next;

	(void)state;
	fix_start(&f);
	store_txn_fed(t, 7, 8, 9);
	store_txn_fed(t, 7, UINT64_C(1) << 40, 11);
	store_txn_fed(t, 8, 1, 1);
	store_txn_purge(t, 8);
	store_post(f.s, t);
	(void)next_feed(&f, STORE_DONE, 0);
	fix_close(&f);
	assert_int_equal(store_open(dir, &clock_system, &f.s, f.uuid, &e), 0);
	assert_int_equal(store_load(f.s, &l, &next, &e), 0);
	store_close(f.s, 1000);
	assert_int_equal(got.n, 1);
	assert_true(got.run == 7 && got.at == UINT64_C(1) << 40 && got.bytes == 11);
}

/* A journal of the version before. */
static void an_older_journal(void **state)
{
	struct fix f;

	(void)state;
	fix_start(&f);
	fix_close(&f);
	(void)query("DROP TABLE feed");
	(void)query("DROP TABLE fed");
	(void)query("PRAGMA user_version = 1");
	{
		cleanup_free char *path = store_feed_path(dir);

		assert_int_equal(unlink(path), 0);
	}
	fix_start(&f);
	assert_int_equal(posted(&f, "one\n"), 4);
	fix_close(&f);
	assert_int_equal(query("PRAGMA user_version"), STORE_SCHEMA);
	holds("one\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(lines_have_places, setup),
		cmocka_unit_test_setup(any_part_may_be_missing, setup),
		cmocka_unit_test_setup(a_refused_transaction_leaves_no_line, setup),
		cmocka_unit_test_setup(rows_do_not_stay, setup),
		cmocka_unit_test_setup(a_file_that_was_shortened, setup),
		cmocka_unit_test_setup(a_file_that_is_longer, setup),
		cmocka_unit_test_setup(a_file_that_cannot_be_written, setup),
		cmocka_unit_test_setup(places_of_messages, setup),
		cmocka_unit_test_setup(an_older_journal, setup),
	};

	return cmocka_run_group_tests_name("feed", tests, setup_all, teardown_all);
}
