/*
 * The store's thread. It owns the connection from store_start to store_close; everything else reaches it through
 * its inbox. `pending` holds, in order, the transactions whose fate is not decided yet: a round runs all of them as
 * one group, and only a COMMIT that returned well answers them.
 *
 * In trouble (a group failed) the thread keeps what must not be lost and tries every second; when nothing is left
 * to try it writes a row of its own, so that the end of the trouble is noticed and said.
 */
#include "backend/store_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#define RETRY_US USEC_PER_SEC
#define IDLE_MS 60000

enum { ASK_TXN, ASK_DOC, ASK_CLOSE };

struct ask {
	struct msg m;
	uint64_t ticket;
	uint32_t run;
	char *name;       /* ASK_DOC */
	int64_t deadline; /* ASK_CLOSE: monotonic */
};

struct store {
	sqlite3 *db;
	char *dir;
	struct store_stmts q;
	struct store_feed feed;
	struct inbox in;
	struct inbox *replies;
	pthread_t thread;
	bool started;
	/* the thread's */
	struct list pending, docs;
	int trouble; /* negative errno of what failed, 0: none */
	int64_t retry_at;
	bool closing;
	int64_t deadline;
};

static const struct store_migration migrations[] = {
	{ 1, "CREATE TABLE feed (at INTEGER PRIMARY KEY, text BLOB NOT NULL);"
	     "CREATE TABLE fed (run INTEGER PRIMARY KEY, at INTEGER NOT NULL, bytes INTEGER NOT NULL);" },
	{ 0, NULL },
};

/* Deadlines of a thread that really sleeps are real, whatever clock its owner works with. */
static int64_t now(void)
{
	return clock_mono(&clock_system);
}

int store_open(const char *dir, const struct clock *clock, struct store **out, char uuid_out[37], struct err *e)
{
	struct store *s = xcalloc(1, sizeof(*s));
	int rc = store_db_open(dir, clock, migrations, &s->db, uuid_out, e);

	s->feed.fd = -1;
	if (!rc)
		rc = store_feed_open(&s->feed, dir, s->db, e);
	if (!rc)
		rc = store_stmts_init(&s->q, s->db, &s->feed, e);
	if (!rc) {
		rc = inbox_init(&s->in);
		if (rc)
			(void)err_sys(e, rc, "cannot start the journal's thread");
	}
	if (rc) {
		store_feed_close(&s->feed);
		store_stmts_release(&s->q);
		(void)sqlite3_close(s->db);
		free(s);
		return rc;
	}
	s->dir = xstrdup(dir);
	list_init(&s->pending);
	list_init(&s->docs);
	*out = s;
	return 0;
}

uint64_t store_feed_len(const struct store *s)
{
	return s->feed.written;
}

/* --- loading --- */

struct load {
	const struct store_loader *l;
	uint32_t next;
};

static const char *text_of(sqlite3_stmt *st, int col)
{
	const char *s = (const char *)sqlite3_column_text(st, col);

	return s ? s : "";
}

/* A blob of length 0 is NULL to SQLite. */
static const char *blob_of(sqlite3_stmt *st, int col)
{
	const char *s = sqlite3_column_blob(st, col);

	return s ? s : "";
}

static uint32_t u32_of(sqlite3_stmt *st, int col)
{
	return (uint32_t)sqlite3_column_int64(st, col);
}

static void load_next(struct load *ld, sqlite3_stmt *st)
{
	ld->next = u32_of(st, 0);
}

static void load_run(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->run)
		ld->l->run(ld->l->arg, u32_of(st, 0), text_of(st, 1), sqlite3_column_int(st, 2) != 0, text_of(st, 3));
}

static void load_event(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->event)
		ld->l->event(ld->l->arg, u32_of(st, 0), sqlite3_column_int64(st, 1), text_of(st, 2), text_of(st, 3));
}

static void load_doc(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->doc)
		ld->l->doc(ld->l->arg, u32_of(st, 0), text_of(st, 1), blob_of(st, 2),
			   (size_t)sqlite3_column_bytes(st, 2));
}

static void load_key(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->key)
		ld->l->key(ld->l->arg, text_of(st, 0), u32_of(st, 1), text_of(st, 2));
}

static void load_seen(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->seen)
		ld->l->seen(ld->l->arg, (uint64_t)sqlite3_column_int64(st, 0), (uint64_t)sqlite3_column_int64(st, 1),
			    text_of(st, 2));
}

static void load_rejected(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->rejected)
		ld->l->rejected(ld->l->arg, sqlite3_column_int64(st, 0), u32_of(st, 1), blob_of(st, 2),
				(size_t)sqlite3_column_bytes(st, 2), text_of(st, 3));
}

static void load_fed(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->fed)
		ld->l->fed(ld->l->arg, u32_of(st, 0), (uint64_t)sqlite3_column_int64(st, 1),
			   (uint64_t)sqlite3_column_int64(st, 2));
}

static void load_mark(struct load *ld, sqlite3_stmt *st)
{
	if (ld->l->mark)
		ld->l->mark(ld->l->arg, text_of(st, 0), sqlite3_column_int64(st, 1));
}

static const struct {
	const char *sql;
	void (*row)(struct load *, sqlite3_stmt *);
} loads[] = {
	{ "SELECT value FROM meta WHERE key = 'next_num'", load_next },
	{ "SELECT num, id, live, summary FROM run ORDER BY num", load_run },
	{ "SELECT e.run, e.time, e.type, e.data FROM event e JOIN run r ON r.num = e.run WHERE r.live ORDER BY e.seq",
	  load_event },
	{ "SELECT d.run, d.name, d.text FROM doc d JOIN run r ON r.num = d.run WHERE r.live ORDER BY d.run, d.name",
	  load_doc },
	{ "SELECT key, run, id FROM key ORDER BY key", load_key },
	{ "SELECT mount, request, result FROM seen ORDER BY mount, request", load_seen },
	{ "SELECT time, uid, text, why FROM rejected ORDER BY seq", load_rejected },
	{ "SELECT run, at, bytes FROM fed ORDER BY run", load_fed },
	{ "SELECT substr(key, 6), value FROM meta WHERE key LIKE 'mark.%'", load_mark },
};

int store_load(struct store *s, const struct store_loader *l, uint32_t *next_num, struct err *e)
{
	struct load ld = { l, 1 };

	assert(!s->started);
	for (size_t i = 0; i < ARRAY_SIZE(loads); i++) {
		sqlite3_stmt *st = NULL;
		int rc = sqlite3_prepare_v2(s->db, loads[i].sql, -1, &st, NULL);

		while (rc == SQLITE_OK || rc == SQLITE_ROW) {
			rc = sqlite3_step(st);
			if (rc == SQLITE_ROW)
				loads[i].row(&ld, st);
		}
		if (rc != SQLITE_DONE)
			(void)err_set(e, store_db_code(s->db),
				      "cannot read the journal %s/journal.db: %s; put back a backup, "
				      "or move the directory away and start with a new one",
				      s->dir, sqlite3_errmsg(s->db));
		(void)sqlite3_finalize(st);
		if (rc != SQLITE_DONE)
			return e ? e->code : -EBADMSG;
	}
	*next_num = ld.next;
	return 0;
}

/* --- answers --- */

static void msg_free(struct msg *m)
{
	struct store_msg *sm = container_of(m, struct store_msg, m);

	free(sm->text);
	free(sm);
}

static void reply(struct store *s, enum store_msg_type type, uint64_t ticket, int code, uint64_t feed, char *text,
		  size_t len)
{
	struct store_msg *sm = xcalloc(1, sizeof(*sm));

	sm->m.type = (int)type;
	sm->m.release = msg_free;
	sm->ticket = ticket;
	sm->code = code;
	sm->text = text;
	sm->len = len;
	sm->feed = feed;
	inbox_post(s->replies, &sm->m);
}

/* Answers a transaction and lets it go. Lines that are not in the file yet are told of later. */
static void answer(struct store *s, struct store_txn *t, int code)
{
	list_del(&t->m.node);
	if (t->ticket)
		reply(s, STORE_DONE, t->ticket, code, t->feed <= s->feed.written ? t->feed : 0, NULL, 0);
	msg_release(&t->m);
}

static void begin_trouble(struct store *s, int code)
{
	const char *what_to_do =
		code == -ENOSPC
			? "Make room on that file system."
			: "Look at the disk and at the system's log (dmesg); do not stop slurmray before it is mended.";
	const char *what = code == -EBADMSG ? "it is damaged" : strerror(-code);
	bool first = !s->trouble;
	char *text;

	s->trouble = code;
	s->retry_at = now() + RETRY_US;
	if (!first)
		return;
	text = xasprintf(
		"the journal in %s cannot be written: %s. Nothing that was accepted is lost: it is kept in memory "
		"and tried again every second. %s",
		s->dir, what, what_to_do);
	log_error("%s", text);
	reply(s, STORE_TROUBLE, 0, code, 0, text, strlen(text));
}

static void end_trouble(struct store *s)
{
	char *text;

	if (!s->trouble)
		return;
	s->trouble = 0;
	text = xasprintf("the journal in %s is written again", s->dir);
	log_warn("%s", text);
	reply(s, STORE_TROUBLE, 0, 0, 0, text, strlen(text));
}

/* --- groups --- */

static int run_group(struct store *s)
{
	uint64_t feed = s->feed.len;
	int rc = store_stmts_run(&s->q, ST_BEGIN);

	if (!rc && list_empty(&s->pending))
		rc = store_stmts_run(&s->q, ST_PROBE);
	for (struct list *n = s->pending.next; n != &s->pending && !rc; n = n->next) {
		store_txn_of(n)->code = 0;
		rc = store_txn_apply(&s->q, store_txn_of(n));
	}
	if (!rc)
		rc = store_feed_trim(&s->feed, &s->q);
	point(POINT_STORE_COMMITTING);
	if (!rc)
		rc = store_stmts_run(&s->q, ST_COMMIT);
	point(POINT_STORE_COMMITTED);
	store_feed_settle(&s->feed, !rc);
	if (!rc)
		return 0;
	s->q.next_num = 0;
	store_feed_back(&s->feed, feed);
	/* some failures have rolled everything back already (sqlite.org/lang_transaction.html, 3) */
	if (!sqlite3_get_autocommit(s->db))
		(void)store_stmts_run(&s->q, ST_ROLLBACK);
	return rc;
}

static void commit_pending(struct store *s)
{
	struct list *n, *tmp;
	int rc = run_group(s), feed = rc ? 0 : store_feed_write(&s->feed);

	if (!rc && !feed)
		end_trouble(s);
	else
		begin_trouble(s, rc ? rc : feed);
	list_for_each_safe (n, tmp, &s->pending) {
		struct store_txn *t = store_txn_of(n);

		if (!rc)
			answer(s, t, t->code);
		else if (t->may_fail)
			answer(s, t, rc);
	}
	if (!rc && !feed && s->feed.owed)
		reply(s, STORE_FEED, 0, 0, s->feed.written, NULL, 0);
	if (!rc)
		s->feed.owed = feed != 0;
}

/* --- documents --- */

static void ask_free(struct msg *m)
{
	struct ask *a = container_of(m, struct ask, m);

	free(a->name);
	free(a);
}

static void answer_doc(struct store *s, const struct ask *a)
{
	sqlite3_stmt *st = s->q.st[ST_GET_DOC];
	char *text = NULL;
	size_t len = 0;
	int rc;

	(void)sqlite3_bind_int64(st, 1, a->run);
	(void)sqlite3_bind_text(st, 2, a->name, -1, SQLITE_STATIC);
	rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		const char *blob = blob_of(st, 0);

		len = (size_t)sqlite3_column_bytes(st, 0);
		text = xmalloc(len + 1);
		memcpy(text, blob, len);
		text[len] = '\0';
	}
	rc = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : store_db_code(s->db);
	(void)sqlite3_reset(st);
	(void)sqlite3_clear_bindings(st);
	reply(s, STORE_DOC, a->ticket, rc, 0, text, len);
}

/* --- the thread --- */

static void take_asks(struct store *s)
{
	struct list got = LIST_INIT(got), *n;

	inbox_take(&s->in, &got);
	while ((n = list_pop(&got))) {
		struct msg *m = container_of(n, struct msg, node);
		struct ask *a;

		switch (m->type) {
		case ASK_TXN:
			list_add_tail(&s->pending, n);
			break;
		case ASK_DOC:
			list_add_tail(&s->docs, n);
			break;
		default:
			a = container_of(m, struct ask, m);
			s->closing = true;
			s->deadline = a->deadline;
			s->retry_at = now(); /* the last chances begin at once */
			msg_release(m);
			break;
		}
	}
}

static void answer_docs(struct store *s)
{
	struct list *n;

	while ((n = list_pop(&s->docs))) {
		struct msg *m = container_of(n, struct msg, node);

		answer_doc(s, container_of(m, struct ask, m));
		msg_release(m);
	}
}

static void wait_for_work(struct store *s)
{
	struct pollfd p = { inbox_fd(&s->in), POLLIN, 0 };
	int64_t until = s->retry_at;
	int ms = IDLE_MS;

	if (s->trouble) {
		if (s->closing && s->deadline < until)
			until = s->deadline;
		until -= now();
		ms = until <= 0 ? 0 : (int)((until + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
	}
	(void)poll(&p, 1, ms);
}

/* One turn: everything that is there is one group. True: the work is done and the store is closing. */
static bool turn(struct store *s)
{
	take_asks(s);
	if (s->trouble ? now() >= s->retry_at : !list_empty(&s->pending))
		commit_pending(s);
	answer_docs(s);
	return s->closing && (list_empty(&s->pending) || now() >= s->deadline);
}

static void *store_thread(void *arg)
{
	struct store *s = arg;
	struct list *n, *tmp;

	if (s->feed.tail.len)
		commit_pending(s);
	while (!turn(s))
		wait_for_work(s);
	list_for_each_safe (n, tmp, &s->pending) {
		log_error("a change was not written to the journal in %s before the end", s->dir);
		answer(s, store_txn_of(n), s->trouble ? s->trouble : -ETIMEDOUT);
	}
	return NULL;
}

int store_start(struct store *s, struct inbox *replies, struct err *e)
{
	sigset_t all, old;
	int rc;

	assert(!s->started);
	s->replies = replies;
	/* signals are the reactor's */
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&s->thread, NULL, store_thread, s);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc)
		return err_sys(e, -rc, "cannot start the journal's thread");
	s->started = true;
	return 0;
}

void store_post(struct store *s, struct store_txn *t)
{
	t->m.type = ASK_TXN;
	inbox_post(&s->in, &t->m);
}

static struct ask *ask_new(int type)
{
	struct ask *a = xcalloc(1, sizeof(*a));

	a->m.type = type;
	a->m.release = ask_free;
	return a;
}

void store_ask_doc(struct store *s, uint64_t ticket, uint32_t run, const char *name)
{
	struct ask *a = ask_new(ASK_DOC);

	a->ticket = ticket;
	a->run = run;
	a->name = xstrdup(name);
	inbox_post(&s->in, &a->m);
}

void store_close(struct store *s, int deadline_ms)
{
	if (!s)
		return;
	if (s->started) {
		struct ask *a = ask_new(ASK_CLOSE);

		a->deadline = now() + (int64_t)deadline_ms * USEC_PER_MSEC;
		inbox_post(&s->in, &a->m);
		(void)pthread_join(s->thread, NULL);
	}
	inbox_release(&s->in);
	store_stmts_release(&s->q);
	store_feed_close(&s->feed);
	(void)sqlite3_close(s->db);
	free(s->dir);
	free(s);
}
