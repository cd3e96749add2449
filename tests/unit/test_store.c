/*
 * The store: what was answered is there after every kind of death, what failed left no trace, and a directory is
 * taken only when it is its own. Faults come from a layer below SQLite (a VFS that counts writes and syncs) and from
 * a real file system that is too small.
 * TEST_SECONDS=11
 */
#include "backend/store_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

static char root[64], dir[128];
static unsigned dirs;

/* --- a VFS that fails --- */

static atomic_int fail_after = -1; /* writes and syncs that still succeed; -1: all */
static atomic_int fail_code;

struct shim {
	sqlite3_file base;
	sqlite3_file *real;
};

static sqlite3_vfs shim_vfs;

static int shim_fails(void)
{
	int n = atomic_load(&fail_after);

	if (n > 0)
		atomic_store(&fail_after, n - 1);
	return n == 0;
}

static sqlite3_file *real_of(sqlite3_file *f)
{
	return ((struct shim *)f)->real;
}

static int shim_close(sqlite3_file *f)
{
	return real_of(f)->pMethods ? real_of(f)->pMethods->xClose(real_of(f)) : SQLITE_OK;
}

static int shim_read(sqlite3_file *f, void *buf, int n, sqlite3_int64 off)
{
	return real_of(f)->pMethods->xRead(real_of(f), buf, n, off);
}

static int shim_write(sqlite3_file *f, const void *buf, int n, sqlite3_int64 off)
{
	return shim_fails() ? atomic_load(&fail_code) : real_of(f)->pMethods->xWrite(real_of(f), buf, n, off);
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 n)
{
	return real_of(f)->pMethods->xTruncate(real_of(f), n);
}

static int shim_sync(sqlite3_file *f, int flags)
{
	return shim_fails() ? SQLITE_IOERR_FSYNC : real_of(f)->pMethods->xSync(real_of(f), flags);
}

static int shim_size(sqlite3_file *f, sqlite3_int64 *n)
{
	return real_of(f)->pMethods->xFileSize(real_of(f), n);
}

static int shim_lock(sqlite3_file *f, int level)
{
	return real_of(f)->pMethods->xLock(real_of(f), level);
}

static int shim_unlock(sqlite3_file *f, int level)
{
	return real_of(f)->pMethods->xUnlock(real_of(f), level);
}

static int shim_reserved(sqlite3_file *f, int *out)
{
	return real_of(f)->pMethods->xCheckReservedLock(real_of(f), out);
}

static int shim_control(sqlite3_file *f, int op, void *arg)
{
	return real_of(f)->pMethods->xFileControl(real_of(f), op, arg);
}

static int shim_sector(sqlite3_file *f)
{
	return real_of(f)->pMethods->xSectorSize(real_of(f));
}

static int shim_device(sqlite3_file *f)
{
	return real_of(f)->pMethods->xDeviceCharacteristics(real_of(f));
}

static const sqlite3_io_methods shim_methods = {
	.iVersion = 1,
	.xClose = shim_close,
	.xRead = shim_read,
	.xWrite = shim_write,
	.xTruncate = shim_truncate,
	.xSync = shim_sync,
	.xFileSize = shim_size,
	.xLock = shim_lock,
	.xUnlock = shim_unlock,
	.xCheckReservedLock = shim_reserved,
	.xFileControl = shim_control,
	.xSectorSize = shim_sector,
	.xDeviceCharacteristics = shim_device,
};

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out)
{
	sqlite3_vfs *real = vfs->pAppData;
	struct shim *s = (struct shim *)f;
	int rc;

	s->real = (sqlite3_file *)(void *)(s + 1);
	rc = real->xOpen(real, name, s->real, flags, out);
	s->base.pMethods = s->real->pMethods ? &shim_methods : NULL;
	return rc;
}

static void shim_install(void)
{
	sqlite3_vfs *real = sqlite3_vfs_find(NULL);

	shim_vfs = *real;
	shim_vfs.zName = "shim";
	shim_vfs.pAppData = real;
	shim_vfs.szOsFile = (int)sizeof(struct shim) + real->szOsFile;
	shim_vfs.xOpen = shim_open;
	(void)sqlite3_vfs_register(&shim_vfs, 1);
}

/* --- fixtures --- */

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
	strcpy(root, "/tmp/test_store.XXXXXX");
	shim_install();
	log_setup(open("/dev/null", O_WRONLY | O_CLOEXEC), LOG_ERROR); /* troubles are made on purpose here */
	return mkdtemp(root) ? 0 : -1;
}

static int teardown_all(void **state)
{
	(void)state;
	return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* A state directory for each test. */
static int setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "%s/%u", root, dirs++);
	return mkdir(dir, 0700);
}

struct fix {
	struct store *s;
	struct inbox replies;
	struct list got; /* replies taken and not looked at */
	char uuid[37];
	uint32_t next;
};

static void fix_open(struct fix *f)
{
	struct err e = ERR_INIT;

	list_init(&f->got);
	assert_int_equal(inbox_init(&f->replies), 0);
	if (store_open(dir, &clock_system, &f->s, f->uuid, &e))
		fail_msg("%s", e.text);
}

static void fix_start(struct fix *f)
{
	struct err e = ERR_INIT;

	fix_open(f);
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

/* The next message; the caller releases it. */
static struct store_msg *next_msg(struct fix *f)
{
	struct pollfd p = { inbox_fd(&f->replies), POLLIN, 0 };
	struct list *n;

	while (!(n = list_pop(&f->got))) {
		if (poll(&p, 1, 20000) != 1)
			return NULL;
		inbox_take(&f->replies, &f->got);
	}
	return container_of(container_of(n, struct msg, node), struct store_msg, m);
}

static void expect(struct fix *f, enum store_msg_type type, uint64_t ticket, int code)
{
	struct store_msg *m = next_msg(f);

	assert_non_null(m);
	assert_int_equal(m->m.type, type);
	assert_int_equal(m->ticket, ticket);
	assert_int_equal(m->code, code);
	msg_release(&m->m);
}

static void add_event(struct store_txn *t, uint32_t run, int n)
{
	struct event *ev = event_new(EV_FACTS, 1000 + n, json_pack("{s:i}", "n", n));

	store_txn_event(t, run, ev);
	event_free(ev);
}

static void add_summary(struct store_txn *t, uint32_t run, const char *id, bool live)
{
	json_t *o = json_pack("{s:s}", "id", id);

	store_txn_summary(t, run, id, live, o);
	json_decref(o);
}

static struct store_txn *run_txn(uint64_t ticket, bool may_fail, uint32_t run, const char *id)
{
	struct store_txn *t = store_txn_new(ticket, may_fail);

	add_event(t, run, (int)ticket);
	add_summary(t, run, id, true);
	return t;
}

/* Everything that is loaded, as text. */
static void on_run(void *arg, uint32_t num, const char *id, bool live, const char *summary)
{
	strbuf_addf(arg, "run %u %s %d %s\n", num, id, live, summary);
}

static void on_event(void *arg, uint32_t run, int64_t time, const char *type, const char *data)
{
	strbuf_addf(arg, "event %u %lld %s %s\n", run, (long long)time, type, data);
}

static void on_doc(void *arg, uint32_t run, const char *name, const char *text, size_t len)
{
	strbuf_addf(arg, "doc %u %s %zu ", run, name, len);
	for (size_t i = 0; i < len; i++)
		strbuf_addch(arg, text[i] ? text[i] : '0');
	strbuf_addch(arg, '\n');
}

static void on_key(void *arg, const char *key, uint32_t run, const char *id)
{
	strbuf_addf(arg, "key %s %u %s\n", key, run, id);
}

static void on_seen(void *arg, uint64_t mount, uint64_t request, const char *result)
{
	strbuf_addf(arg, "seen %llx %llx %s\n", (unsigned long long)mount, (unsigned long long)request, result);
}

static void on_rejected(void *arg, int64_t time, uint32_t uid, const char *text, size_t len, const char *why)
{
	strbuf_addf(arg, "rejected %lld %u %.*s %s\n", (long long)time, uid, (int)len, text, why);
}

static void on_fed(void *arg, uint32_t run, uint64_t at, uint64_t bytes)
{
	strbuf_addf(arg, "fed %u %llu %llu\n", run, (unsigned long long)at, (unsigned long long)bytes);
}

static char *load(struct fix *f)
{
	struct strbuf sb = STRBUF_INIT;
	struct store_loader l = { &sb, on_run, on_event, on_doc, on_key, on_seen, on_rejected, on_fed, NULL };
	struct err e = ERR_INIT;

	if (store_load(f->s, &l, &f->next, &e))
		fail_msg("%s", e.text);
	return strbuf_detach(&sb, NULL);
}

static void assert_holds(const char *want, uint32_t next)
{
	struct fix f;
	char *got;

	fix_open(&f);
	got = load(&f);
	assert_string_equal(got, want);
	assert_int_equal(f.next, next);
	free(got);
	fix_close(&f);
}

static void refuses(const char *where, int code, const char *word)
{
	struct err e = ERR_INIT;
	struct store *s = NULL;
	char uuid[37];

	assert_int_equal(store_open(where, &clock_system, &s, uuid, &e), code);
	assert_null(s);
	if (!strstr(e.text, word) || !strstr(e.text, where))
		fail_msg("no '%s' or '%s' in: %s", word, where, e.text);
}

static void sql(const char *text)
{
	char *path = xasprintf("%s/journal.db", dir);
	sqlite3 *db = NULL;

	/* not the shim: it has no shared memory, which a WAL database needs outside the store's exclusive mode */
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, "unix"), SQLITE_OK);
	if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
		fail_msg("%s: %s", text, sqlite3_errmsg(db));
	assert_int_equal(sqlite3_close(db), SQLITE_OK);
	free(path);
}

static void put_file(const char *name, const char *text)
{
	char *path = xasprintf("%s/%s", dir, name);
	FILE *f = fopen(path, "we");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
	free(path);
}

static bool has_file(const char *name)
{
	char *path = xasprintf("%s/%s", dir, name);
	bool there = access(path, F_OK) == 0;

	free(path);
	return there;
}

/* --- contents --- */

static void a_new_journal(void **state)
{
	struct fix f, g;
	struct stat st;
	char *path = xasprintf("%s/journal.db", dir), *text;

	(void)state;
	assert_int_equal(rmdir(dir), 0); /* the directory itself is made, too */
	fix_open(&f);
	assert_int_equal(strlen(f.uuid), 36);
	assert_int_equal(f.uuid[14], '4');
	text = load(&f);
	assert_string_equal(text, "");
	assert_int_equal(f.next, 1);
	fix_close(&f);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 077, 0);
	fix_open(&g);
	assert_string_equal(f.uuid, g.uuid);
	fix_close(&g);
	free(path);
	free(text);
	store_close(NULL, 0);
}

static void what_is_posted_is_loaded(void **state)
{
	struct store_txn *t = store_txn_new(5, true);
	struct fix f;

	(void)state;
	fix_start(&f);
	add_event(t, 3, 1);
	add_event(t, 3, 2);
	add_summary(t, 3, "three", true);
	store_txn_doc(t, 3, "spec", "a\0b", 3);
	store_txn_doc(t, 3, "script", "", 0);
	store_txn_doc(t, 3, "spec", "A\0B", 3);
	store_txn_key(t, "k", 3, "three");
	store_txn_seen(t, UINT64_MAX, 1, "7\n");
	store_txn_seen(t, 1, UINT64_MAX - 1, "8");
	store_txn_rejected(t, 99, 1000, "bad", 3, "why");
	store_post(f.s, t);
	expect(&f, STORE_DONE, 5, 0);
	fix_close(&f);
	assert_holds("run 3 three 1 {\"id\":\"three\"}\n"
		     "event 3 1001 facts {\"n\":1}\nevent 3 1002 facts {\"n\":2}\n"
		     "doc 3 script 0 \ndoc 3 spec 3 A0B\n"
		     "key k 3 three\n"
		     "seen ffffffffffffffff 1 7\n\nseen 1 fffffffffffffffe 8\n"
		     "rejected 99 1000 bad why\n",
		     4);
}

static void an_end_leaves_the_summary_and_a_purge_the_key(void **state)
{
	struct store_txn *t = run_txn(1, false, 1, "one");
	struct fix f;

	(void)state;
	fix_start(&f);
	store_txn_doc(t, 1, "spec", "s", 1);
	store_txn_key(t, "k", 1, "one");
	store_post(f.s, t);
	store_post(f.s, run_txn(2, false, 2, "two"));
	t = store_txn_new(3, false);
	add_event(t, 1, 3);
	add_summary(t, 1, "one", false);
	store_post(f.s, t);
	for (uint64_t i = 1; i <= 3; i++)
		expect(&f, STORE_DONE, i, 0);
	fix_close(&f);
	assert_holds("run 1 one 0 {\"id\":\"one\"}\nrun 2 two 1 {\"id\":\"two\"}\n"
		     "event 2 1002 facts {\"n\":2}\nkey k 1 one\n",
		     3);
	fix_start(&f);
	store_ask_doc(f.s, 8, 1, "spec"); /* documents of ended runs stay */
	expect(&f, STORE_DOC, 8, 0);
	t = store_txn_new(0, false);
	store_txn_purge(t, 1);
	store_txn_purge(t, 2);
	store_post(f.s, t);
	store_ask_doc(f.s, 9, 1, "spec"); /* asked after the purge, so answered after it */
	{
		struct store_msg *m = next_msg(&f);

		assert_non_null(m);
		assert_int_equal(m->ticket, 9); /* ticket 0 had no answer */
		assert_null(m->text);
		msg_release(&m->m);
	}
	fix_close(&f);
	assert_holds("key k 1 one\n", 3); /* numbers are never used again */
}

static void seen_of_other_mounts_is_forgotten(void **state)
{
	struct store_txn *t = store_txn_new(0, false);
	struct fix f;

	(void)state;
	fix_start(&f);
	store_txn_seen(t, 1, 1, "a");
	store_txn_seen(t, UINT64_MAX, 2, "b");
	store_txn_seen(t, UINT64_MAX, 2, "c");
	store_txn_mount(t, UINT64_MAX);
	store_post(f.s, t);
	fix_close(&f);
	assert_holds("seen ffffffffffffffff 2 c\n", 1);
}

static void documents(void **state)
{
	struct store_txn *t = store_txn_new(0, false);
	struct store_msg *m;
	struct fix f;

	(void)state;
	fix_start(&f);
	store_txn_doc(t, 1, "spec", "x\0y", 3);
	store_post(f.s, t);
	store_ask_doc(f.s, 4, 1, "spec");
	m = next_msg(&f);
	assert_non_null(m);
	assert_int_equal(m->m.type, STORE_DOC);
	assert_int_equal(m->ticket, 4);
	assert_int_equal(m->len, 3);
	assert_memory_equal(m->text, "x\0y", 4);
	msg_release(&m->m);
	fix_close(&f);
}

static void what_can_never_be_leaves_the_others_alone(void **state)
{
	struct store_txn *bad = store_txn_new(2, false);
	struct fix f;

	(void)state;
	fix_start(&f);
	store_post(f.s, run_txn(1, true, 1, "name"));
	add_event(bad, 90, 2);
	store_txn_key(bad, "k", 90, "name");
	add_summary(bad, 90, "name", true); /* taken */
	store_post(f.s, bad);
	store_post(f.s, run_txn(3, true, 2, "other"));
	expect(&f, STORE_DONE, 1, 0);
	expect(&f, STORE_DONE, 2, -EEXIST);
	expect(&f, STORE_DONE, 3, 0);
	fix_close(&f);
	assert_holds("run 1 name 1 {\"id\":\"name\"}\nrun 2 other 1 {\"id\":\"other\"}\n"
		     "event 1 1001 facts {\"n\":1}\nevent 2 1003 facts {\"n\":3}\n",
		     3);
}

static void what_is_posted_before_start_or_close_is_committed(void **state)
{
	struct err e = ERR_INIT;
	struct fix f;
	char id[16];

	(void)state;
	fix_open(&f);
	for (uint32_t i = 1; i <= 200; i++) {
		(void)snprintf(id, sizeof(id), "%u", i);
		store_post(f.s, run_txn(i, false, i, id));
	}
	assert_int_equal(store_start(f.s, &f.replies, &e), 0);
	store_post(f.s, run_txn(201, false, 201, "201"));
	store_close(f.s, 3000);
	for (uint64_t i = 1; i <= 201; i++)
		expect(&f, STORE_DONE, i, 0);
	f.s = NULL;
	fix_close(&f);
	fix_open(&f);
	free(load(&f));
	assert_int_equal(f.next, 202);
	fix_close(&f);
}

/* --- whose directory it is --- */

static void directories_that_are_refused(void **state)
{
	char *sub = xasprintf("%s/a/b", dir);

	(void)state;
	refuses(sub, -ENOENT, "cannot make");
	free(sub);
	assert_int_equal(chmod(dir, 0750), 0);
	refuses(dir, -EPERM, "chmod 700");
	assert_int_equal(chmod(dir, 0700), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(dir, 12345, 0), 0);
		refuses(dir, -EPERM, "12345");
		assert_int_equal(chown(dir, 0, 0), 0);
	}
}

static void a_file_or_a_foreign_link_is_no_directory(void **state)
{
	char *link = xasprintf("%s/link", dir), *file = xasprintf("%s/file", dir);
	struct store *s = NULL;
	struct err e = ERR_INIT;
	char uuid[37];

	(void)state;
	put_file("file", "");
	refuses(file, -ENOTDIR, "--state");
	assert_int_equal(symlink(dir, link), 0);
	assert_int_equal(store_open(link, &clock_system, &s, uuid, &e), 0); /* one's own link is fine */
	store_close(s, 0);
	if (geteuid() == 0) {
		assert_int_equal(lchown(link, 12345, 12345), 0);
		refuses(link, -ENOTDIR, "--state");
	}
	free(link);
	free(file);
}

static void remote_file_systems(void **state)
{
	(void)state;
	assert_string_equal(store_remote_fs(0x6969), "NFS");
	assert_string_equal(store_remote_fs(0x47504653), "GPFS");
	assert_string_equal(store_remote_fs(0xff534d42), "CIFS");
	assert_string_equal(store_remote_fs((unsigned long)(long)(int)0xff534d42),
			    "CIFS"); /* f_type is signed on some */
	assert_string_equal(store_remote_fs(0x65735546), "FUSE");
	assert_null(store_remote_fs(0xef53));     /* ext4 */
	assert_null(store_remote_fs(0x01021994)); /* tmpfs */
	assert_null(store_remote_fs(0x794c7630)); /* overlayfs */
}

static void a_copy_is_refused_until_it_is_adopted(void **state)
{
	struct fix f, g;
	char *from, *to;

	(void)state;
	fix_start(&f);
	store_post(f.s, run_txn(0, false, 1, "1"));
	fix_close(&f);
	from = xasprintf("%s/journal.db", dir);
	assert_int_equal(setup(NULL), 0);
	to = xasprintf("%s/journal.db", dir);
	assert_int_equal(rename(from, to), 0);
	refuses(dir, -EXDEV, "touch");
	refuses(dir, -EXDEV, "adopt-this-copy");
	put_file("adopt-this-copy", "");
	fix_open(&g);
	assert_string_not_equal(f.uuid, g.uuid);
	fix_close(&g);
	assert_false(has_file("adopt-this-copy"));
	fix_open(&f);
	assert_string_equal(f.uuid, g.uuid);
	fix_close(&f);
	assert_holds("run 1 1 1 {\"id\":\"1\"}\nevent 1 1000 facts {\"n\":0}\n", 2);
	free(from);
	free(to);
}

static void another_machine_or_device(void **state)
{
	struct fix f;

	(void)state;
	fix_open(&f);
	fix_close(&f);
	sql("UPDATE meta SET value = 'other' WHERE key = 'device'");
	fix_open(&f); /* a disk that was mounted again */
	fix_close(&f);
	sql("UPDATE meta SET value = 'id 00000000000000000000000000000000' WHERE key = 'machine'");
	refuses(dir, -EXDEV, "another machine");
}

static void a_second_user_is_refused(void **state)
{
	struct fix f;
	int status = -1;
	pid_t pid;

	(void)state;
	fix_open(&f);
	pid = fork();
	if (pid == 0) {
		struct err e = ERR_INIT;
		struct store *s = NULL;
		char uuid[37];

		_exit(store_open(dir, &clock_system, &s, uuid, &e) == -EBUSY && strstr(e.text, "another slurmray") ? 0
														   : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fix_close(&f);
}

/* --- schemas --- */

static void newer_and_foreign_databases(void **state)
{
	struct fix f;

	(void)state;
	fix_open(&f);
	fix_close(&f);
	sql("PRAGMA user_version = 7");
	refuses(dir, -ENOTSUP, "schema 7");
	sql("PRAGMA user_version = 0");
	refuses(dir, -ENOTSUP, "schema 0"); /* there never was one */
	assert_false(has_file("journal.db.0"));
	sql("PRAGMA application_id = 5");
	refuses(dir, -EBADMSG, "another program");
}

static void damaged_databases(void **state)
{
	struct fix f;

	(void)state;
	put_file("journal.db", "this is not a database, but it is long enough to be looked at as if it were one.\n"
			       "this is not a database, but it is long enough to be looked at as if it were one.\n");
	refuses(dir, -EBADMSG, "damaged");
	put_file("journal.db", "");
	fix_open(&f);
	fix_close(&f);
	sql("DELETE FROM meta WHERE key = 'uuid'");
	refuses(dir, -EBADMSG, "UUID");
	sql("DROP TABLE seen; INSERT INTO meta VALUES ('uuid', '012345678901234567890123456789012345')");
	{
		struct err e = ERR_INIT;
		struct store *s = NULL;
		char uuid[37];

		assert_int_not_equal(store_open(dir, &clock_system, &s, uuid, &e), 0);
		assert_non_null(strstr(e.text, "damaged"));
	}
}

/* A made-up schema 0: runs had no name of their own, and there was no table of refused writes. */
static void make_schema_0(void)
{
	struct fix f;

	fix_open(&f);
	fix_close(&f);
	sql("DROP TABLE rejected; DROP TABLE run;"
	    "CREATE TABLE run (num INTEGER PRIMARY KEY, live INTEGER NOT NULL, summary TEXT NOT NULL);"
	    "INSERT INTO run VALUES (4, 1, '{}');"
	    "PRAGMA user_version = 0");
}

static int open_with(const struct store_migration *steps, struct err *e)
{
	sqlite3 *db = NULL;
	char uuid[37];
	int rc = store_db_open(dir, &clock_system, steps, &db, uuid, e);

	if (!rc)
		assert_int_equal(sqlite3_close(db), SQLITE_OK);
	return rc;
}

static void migrations_keep_a_copy(void **state)
{
	static const char good[] =
		"ALTER TABLE run RENAME TO old;"
		"CREATE TABLE run (num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, live INTEGER NOT NULL,"
		"  summary TEXT NOT NULL);"
		"INSERT INTO run SELECT num, num, live, summary FROM old; DROP TABLE old;"
		"CREATE TABLE rejected (seq INTEGER PRIMARY KEY, time, uid, text, why);";
	const struct store_migration steps[] = { { 0, good }, { 1, "SELECT 1" }, { 0, NULL } };
	const struct store_migration bad_steps[] = { { 0, "DROP TABLE run; SELECT nonsense" },
						     { 1, "SELECT 1" },
						     { 0, NULL } };
	struct err e = ERR_INIT;

	(void)state;
	make_schema_0();
	assert_int_not_equal(open_with(bad_steps, &e), 0);
	assert_non_null(strstr(e.text, "nonsense"));
	assert_true(has_file("journal.db.0"));
	put_file("journal.db.0", "stale");
	assert_int_equal(open_with(steps, &e), 0);
	assert_holds("run 4 4 1 {}\n", 1);
	assert_false(has_file("journal.db.0.new"));
	assert_int_equal(open_with(steps, &e), 0);
	{
		char *from = xasprintf("%s/journal.db.0", dir), *to = xasprintf("%s/journal.db", dir);

		assert_int_equal(rename(from, to), 0); /* the copy is a journal of schema 0 */
		free(from);
		free(to);
	}
	sql("INSERT INTO run (num, live, summary) VALUES (5, 1, '{}')");
	refuses(dir, -ENOTSUP, "schema 0");
}

/* --- trouble --- */

static void check_trouble(int after, int code, int want)
{
	struct store_txn *both;
	struct fix f;

	assert_int_equal(setup(NULL), 0);
	fix_start(&f);
	store_post(f.s, run_txn(1, true, 1, "1"));
	expect(&f, STORE_DONE, 1, 0);
	atomic_store(&fail_code, code);
	atomic_store(&fail_after, after);
	store_post(f.s, run_txn(2, false, 2, "2"));
	expect(&f, STORE_TROUBLE, 0, want);
	store_post(f.s, run_txn(3, true, 3, "3"));
	expect(&f, STORE_DONE, 3, want); /* the second try; no second TROUBLE */
	both = run_txn(4, false, 4, "4");
	store_txn_doc(both, 4, "spec", "s", 1);
	store_post(f.s, both);
	atomic_store(&fail_after, -1);
	expect(&f, STORE_TROUBLE, 0, 0);
	expect(&f, STORE_DONE, 2, 0);
	expect(&f, STORE_DONE, 4, 0);
	store_post(f.s, run_txn(5, true, 5, "5"));
	expect(&f, STORE_DONE, 5, 0);
	fix_close(&f);
	assert_holds("run 1 1 1 {\"id\":\"1\"}\nrun 2 2 1 {\"id\":\"2\"}\nrun 4 4 1 {\"id\":\"4\"}\n"
		     "run 5 5 1 {\"id\":\"5\"}\n"
		     "event 1 1001 facts {\"n\":1}\nevent 2 1002 facts {\"n\":2}\nevent 4 1004 facts {\"n\":4}\n"
		     "event 5 1005 facts {\"n\":5}\ndoc 4 spec 1 s\n",
		     6);
}

static void a_full_disk_loses_nothing(void **state)
{
	(void)state;
	check_trouble(0, SQLITE_FULL, -ENOSPC);
	check_trouble(3, SQLITE_FULL, -ENOSPC);
}

static void a_failing_disk_loses_nothing(void **state)
{
	(void)state;
	check_trouble(1, SQLITE_IOERR_WRITE, -EIO);
}

/* Whatever write or sync it is that fails, the answer tells the truth. */
static void every_fault_once(void **state)
{
	(void)state;
	for (int after = 0; after < 12; after++) {
		struct store_msg *m;
		struct fix f;
		bool done, failed = false;

		assert_int_equal(setup(NULL), 0);
		fix_start(&f);
		atomic_store(&fail_code, after % 2 ? SQLITE_FULL : SQLITE_IOERR_WRITE);
		atomic_store(&fail_after, after);
		store_post(f.s, run_txn(1, true, 1, "1"));
		do {
			m = next_msg(&f);
			assert_non_null(m);
			done = m->m.type == STORE_DONE;
			failed |= m->code != 0;
			msg_release(&m->m);
		} while (!done);
		atomic_store(&fail_after, -1);
		fix_close(&f);
		assert_holds(failed ? "" : "run 1 1 1 {\"id\":\"1\"}\nevent 1 1001 facts {\"n\":1}\n", failed ? 1 : 2);
	}
}

static void the_end_of_trouble_is_noticed_without_work(void **state)
{
	struct store_msg *m;
	struct fix f;

	(void)state;
	fix_start(&f);
	atomic_store(&fail_code, SQLITE_FULL);
	atomic_store(&fail_after, 0);
	store_post(f.s, run_txn(1, true, 1, "1"));
	m = next_msg(&f);
	assert_non_null(m);
	assert_int_equal(m->m.type, STORE_TROUBLE);
	assert_non_null(strstr(m->text, dir));
	assert_non_null(strstr(m->text, "Make room"));
	assert_int_equal(strlen(m->text), m->len);
	msg_release(&m->m);
	expect(&f, STORE_DONE, 1, -ENOSPC);
	store_ask_doc(f.s, 2, 1, "spec"); /* reading goes on */
	expect(&f, STORE_DOC, 2, 0);
	atomic_store(&fail_after, -1);
	expect(&f, STORE_TROUBLE, 0, 0);
	fix_close(&f);
}

static void closing_gives_up_on_a_full_disk(void **state)
{
	struct fix f;

	(void)state;
	fix_start(&f);
	atomic_store(&fail_code, SQLITE_FULL);
	atomic_store(&fail_after, 0);
	store_post(f.s, run_txn(1, false, 1, "1"));
	store_close(f.s, 50);
	f.s = NULL;
	expect(&f, STORE_TROUBLE, 0, -ENOSPC);
	expect(&f, STORE_DONE, 1, -ENOSPC);
	atomic_store(&fail_after, -1);
	fix_close(&f);
	assert_holds("", 1);
}

/* A document of half a megabyte for a file system of one. */
static struct store_txn *big_txn(uint64_t ticket, bool may_fail, uint32_t run)
{
	char id[16], *text = xcalloc(1, 512 * 1024);
	struct store_txn *t;

	(void)snprintf(id, sizeof(id), "%u", run);
	t = run_txn(ticket, may_fail, run, id);
	store_txn_doc(t, run, "spec", text, 512 * 1024);
	free(text);
	return t;
}

static int post_until_full(struct fix *f)
{
	for (int i = 1; i < 20; i++) {
		struct store_msg *m;
		int code;

		store_post(f->s, big_txn((uint64_t)i, true, (uint32_t)i));
		m = next_msg(f);
		assert_non_null(m);
		code = m->code;
		if (m->m.type == STORE_TROUBLE)
			assert_int_equal(code, -ENOSPC);
		msg_release(&m->m);
		if (code) {
			expect(f, STORE_DONE, (uint64_t)i, -ENOSPC);
			return i;
		}
	}
	fail_msg("a file system of 1 MiB took 10 MiB");
	return 0;
}

static void a_file_system_that_is_too_small(void **state)
{
	char *ballast = xasprintf("%s/ballast", dir), *what;
	struct fix f;
	int full, fd;

	(void)state;
	if (mount("tmpfs", dir, "tmpfs", 0, "size=2m,mode=0700") < 0) {
		free(ballast);
		skip(); /* not allowed here; the counted faults above cover the same paths */
	}
	fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(posix_fallocate(fd, 0, 1024 * 1024), 0);
	fix_start(&f);
	full = post_until_full(&f);
	assert_true(full > 1);
	store_post(f.s, big_txn(100, false, 100));
	store_ask_doc(f.s, 7, 1, "spec");
	expect(&f, STORE_DOC, 7, 0);
	assert_int_equal(unlink(ballast), 0);
	(void)close(fd);
	expect(&f, STORE_TROUBLE, 0, 0);
	expect(&f, STORE_DONE, 100, 0);
	fix_close(&f);
	fix_open(&f);
	what = load(&f);
	assert_non_null(strstr(what, "run 100 100 "));
	assert_int_equal(f.next, 101);
	free(what);
	fix_close(&f);
	assert_int_equal(umount(dir), 0);
	free(ballast);
}

/* --- kill -9 --- */

/* Keeps eight transactions in flight and writes the number of each that was answered. */
static void post_for_ever(int fd, uint64_t from)
{
	uint64_t posted = from;
	struct fix f;

	fix_start(&f);
	for (;;) {
		struct store_msg *m;

		while (posted < from + 8)
			store_post(f.s, run_txn(++posted, false, 1, "1"));
		m = next_msg(&f);
		if (!m || m->code || m->ticket != ++from)
			_exit(1);
		if (write(fd, &m->ticket, sizeof(m->ticket)) != sizeof(m->ticket))
			_exit(2);
		msg_release(&m->m);
	}
}

static uint64_t kill_after(unsigned answers, uint64_t from)
{
	uint64_t last = from, n;
	int fds[2], status = 0;
	pid_t pid;

	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		(void)close(fds[0]);
		post_for_ever(fds[1], from);
	}
	(void)close(fds[1]);
	while (read(fds[0], &n, sizeof(n)) == sizeof(n)) {
		last = n;
		if (n - from == answers)
			(void)kill(pid, SIGKILL);
	}
	(void)close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	return last;
}

struct counted {
	uint64_t n;
	bool in_order;
};

static void count_event(void *arg, uint32_t run, int64_t time, const char *type, const char *data)
{
	struct counted *c = arg;
	char want[32];

	c->n++;
	(void)snprintf(want, sizeof(want), "{\"n\":%llu}", (unsigned long long)c->n);
	c->in_order &=
		run == 1 && strcmp(data, want) == 0 && time == 1000 + (int64_t)c->n && strcmp(type, "facts") == 0;
}

static void killed_at_any_time(void **state)
{
	uint64_t at = 0;

	(void)state;
	for (unsigned round = 0; round < 20; round++) {
		uint64_t answered = kill_after(1 + round * 7, at);
		struct counted c = { 0, true };
		struct store_loader l = { .arg = &c, .event = count_event };
		struct err e = ERR_INIT;
		struct fix f;

		fix_open(&f);
		assert_int_equal(store_load(f.s, &l, &f.next, &e), 0);
		fix_close(&f);
		assert_true(c.in_order);      /* 1, 2, 3 ... without a hole and none twice */
		assert_true(c.n >= answered); /* all that was answered */
		assert_true(c.n <= answered + 8);
		at = c.n;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_new_journal, setup),
		cmocka_unit_test_setup(what_is_posted_is_loaded, setup),
		cmocka_unit_test_setup(an_end_leaves_the_summary_and_a_purge_the_key, setup),
		cmocka_unit_test_setup(seen_of_other_mounts_is_forgotten, setup),
		cmocka_unit_test_setup(documents, setup),
		cmocka_unit_test_setup(what_can_never_be_leaves_the_others_alone, setup),
		cmocka_unit_test_setup(what_is_posted_before_start_or_close_is_committed, setup),
		cmocka_unit_test_setup(directories_that_are_refused, setup),
		cmocka_unit_test_setup(a_file_or_a_foreign_link_is_no_directory, setup),
		cmocka_unit_test_setup(remote_file_systems, setup),
		cmocka_unit_test_setup(a_copy_is_refused_until_it_is_adopted, setup),
		cmocka_unit_test_setup(another_machine_or_device, setup),
		cmocka_unit_test_setup(a_second_user_is_refused, setup),
		cmocka_unit_test_setup(newer_and_foreign_databases, setup),
		cmocka_unit_test_setup(damaged_databases, setup),
		cmocka_unit_test_setup(migrations_keep_a_copy, setup),
		cmocka_unit_test_setup(a_full_disk_loses_nothing, setup),
		cmocka_unit_test_setup(a_failing_disk_loses_nothing, setup),
		cmocka_unit_test_setup(every_fault_once, setup),
		cmocka_unit_test_setup(the_end_of_trouble_is_noticed_without_work, setup),
		cmocka_unit_test_setup(closing_gives_up_on_a_full_disk, setup),
		cmocka_unit_test_setup(a_file_system_that_is_too_small, setup),
		cmocka_unit_test_setup(killed_at_any_time, setup),
	};

	return cmocka_run_group_tests_name("store", tests, setup_all, teardown_all);
}
