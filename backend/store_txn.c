/*
 * Transactions: a list of operations with copies of all they need, and the table that says which statements an
 * operation runs and what is bound to them. Statements are prepared once. A transaction runs in a savepoint, so one
 * that can never be (a name that is taken) leaves the others of its group alone.
 */
#include "backend/store_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum op_type {
	OP_EVENT,
	OP_SUMMARY_LIVE,
	OP_SUMMARY_ENDED,
	OP_DOC,
	OP_KEY,
	OP_SEEN,
	OP_REJECTED,
	OP_FEED,
	OP_FED,
	OP_MARK,
	OP_PURGE,
	OP_MOUNT
};

struct store_op {
	enum op_type type;
	uint32_t run;
	int64_t num[2];
	char *text[3];
	size_t len; /* of text[2], when it is bound as a blob */
};

/*
 * What is bound, a letter a parameter: r the run's number, 0 1 numbers, a b c texts, B text c as a blob.
 */
static const struct {
	const char *sql, *bind;
} stmts[ST_N] = {
	[ST_BEGIN] = { "BEGIN IMMEDIATE", "" },
	[ST_COMMIT] = { "COMMIT", "" },
	[ST_ROLLBACK] = { "ROLLBACK", "" },
	[ST_SAVEPOINT] = { "SAVEPOINT one", "" },
	[ST_RELEASE] = { "RELEASE one", "" },
	[ST_ROLLBACK_TO] = { "ROLLBACK TO one", "" },
	[ST_PROBE] = { "INSERT INTO meta VALUES ('probe', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1", "" },
	[ST_NEXT_NUM] = { "UPDATE meta SET value = ?1 + 1 WHERE key = 'next_num' AND value <= ?1", "r" },
	[ST_EVENT] = { "INSERT INTO event (run, time, type, data) VALUES (?, ?, ?, ?)", "r0ab" },
	[ST_SUMMARY] = { "INSERT INTO run VALUES (?, ?, ?, ?) ON CONFLICT (num) DO UPDATE SET id = ?2, live = ?3,"
			 " summary = ?4",
			 "ra0b" },
	[ST_DOC] = { "INSERT INTO doc VALUES (?, ?, ?) ON CONFLICT (run, name) DO UPDATE SET text = ?3", "raB" },
	[ST_KEY] = { "INSERT INTO key VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET run = ?2, id = ?3", "arb" },
	[ST_SEEN] = { "INSERT INTO seen VALUES (?, ?, ?) ON CONFLICT (mount, request) DO UPDATE SET result = ?3",
		      "01a" },
	[ST_REJECTED] = { "INSERT INTO rejected (time, uid, why, text) VALUES (?, ?, ?, ?)", "01aB" },
	[ST_FEED] = { "INSERT INTO feed VALUES (?, ?)", "0B" },
	[ST_FED] = { "INSERT INTO fed VALUES (?, ?, ?) ON CONFLICT (run) DO UPDATE SET at = ?2, bytes = ?3", "r01" },
	[ST_MARK] = { "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2", "a0" },
	[ST_DEL_RUN] = { "DELETE FROM run WHERE num = ?", "r" },
	[ST_DEL_EVENTS] = { "DELETE FROM event WHERE run = ?", "r" },
	[ST_DEL_DOCS] = { "DELETE FROM doc WHERE run = ?", "r" },
	[ST_DEL_FED] = { "DELETE FROM fed WHERE run = ?", "r" },
	[ST_FEED_KEPT] = { "INSERT INTO meta VALUES ('feed_kept', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1",
			   "0" },
	[ST_DEL_FEED] = { "DELETE FROM feed WHERE at < ?", "0" },
	[ST_MOUNT] = { "DELETE FROM seen WHERE mount <> ?", "0" },
	[ST_GET_DOC] = { "SELECT text FROM doc WHERE run = ? AND name = ?", "ra" },
};

#define NO ST_N
static const struct {
	enum store_stmt st[4];
	bool numbers; /* the run's number is used up by this */
} ops[] = {
	[OP_EVENT] = { { ST_EVENT, NO, NO }, true },
	[OP_SUMMARY_LIVE] = { { ST_SUMMARY, NO, NO }, true },
	[OP_SUMMARY_ENDED] = { { ST_SUMMARY, ST_DEL_EVENTS, NO }, true },
	[OP_DOC] = { { ST_DOC, NO, NO }, false },
	[OP_KEY] = { { ST_KEY, NO, NO }, false },
	[OP_SEEN] = { { ST_SEEN, NO, NO }, false },
	[OP_REJECTED] = { { ST_REJECTED, NO, NO }, false },
	[OP_FEED] = { { ST_FEED, NO, NO, NO }, false },
	[OP_FED] = { { ST_FED, NO, NO, NO }, false },
	[OP_MARK] = { { ST_MARK, NO, NO, NO }, false },
	[OP_PURGE] = { { ST_DEL_RUN, ST_DEL_EVENTS, ST_DEL_DOCS, ST_DEL_FED }, false },
	[OP_MOUNT] = { { ST_MOUNT, NO, NO }, false },
};

/* --- building --- */

static void txn_release(struct msg *m)
{
	struct store_txn *t = container_of(m, struct store_txn, m);

	for (size_t i = 0; i < t->n_ops; i++)
		for (size_t j = 0; j < ARRAY_SIZE(t->ops[i].text); j++)
			free(t->ops[i].text[j]);
	free(t->ops);
	free(t);
}

struct store_txn *store_txn_new(uint64_t ticket, bool may_fail)
{
	struct store_txn *t = xcalloc(1, sizeof(*t));

	t->m.release = txn_release;
	t->ticket = ticket;
	t->may_fail = may_fail;
	return t;
}

static struct store_op *add_op(struct store_txn *t, enum op_type type, uint32_t run)
{
	struct store_op *op;

	if (t->n_ops == t->cap_ops) {
		t->cap_ops = t->cap_ops ? t->cap_ops * 2 : 4;
		t->ops = xrealloc(t->ops, t->cap_ops * sizeof(*t->ops));
	}
	op = &t->ops[t->n_ops++];
	memset(op, 0, sizeof(*op));
	op->type = type;
	op->run = run;
	return op;
}

static char *dump(const json_t *o)
{
	char *s = json_dumps(o, JSON_COMPACT);

	assert(s); /* an object in memory can always be written */
	return s;
}

static void set_blob(struct store_op *op, const char *text, size_t len)
{
	op->text[2] = xmalloc(len);
	if (len)
		memcpy(op->text[2], text, len);
	op->len = len;
}

void store_txn_event(struct store_txn *t, uint32_t run, const struct event *ev)
{
	struct store_op *op = add_op(t, OP_EVENT, run);

	op->num[0] = ev->time;
	op->text[0] = xstrdup(event_name(ev->type));
	op->text[1] = dump(ev->data);
}

void store_txn_summary(struct store_txn *t, uint32_t run, const char *id, bool live, const json_t *summary)
{
	struct store_op *op = add_op(t, live ? OP_SUMMARY_LIVE : OP_SUMMARY_ENDED, run);

	op->num[0] = live;
	op->text[0] = xstrdup(id);
	op->text[1] = dump(summary);
}

void store_txn_doc(struct store_txn *t, uint32_t run, const char *name, const char *text, size_t len)
{
	struct store_op *op = add_op(t, OP_DOC, run);

	op->text[0] = xstrdup(name);
	set_blob(op, text, len);
}

void store_txn_key(struct store_txn *t, const char *key, uint32_t run, const char *id)
{
	struct store_op *op = add_op(t, OP_KEY, run);

	op->text[0] = xstrdup(key);
	op->text[1] = xstrdup(id);
}

/* SQLite's integers are signed; the numbers come back as they were by the same conversion. */
void store_txn_seen(struct store_txn *t, uint64_t mount, uint64_t request, const char *result)
{
	struct store_op *op = add_op(t, OP_SEEN, 0);

	op->num[0] = (int64_t)mount;
	op->num[1] = (int64_t)request;
	op->text[0] = xstrdup(result);
}

void store_txn_rejected(struct store_txn *t, int64_t time, uint32_t uid, const char *text, size_t len, const char *why)
{
	struct store_op *op = add_op(t, OP_REJECTED, 0);

	op->num[0] = time;
	op->num[1] = uid;
	op->text[0] = xstrdup(why);
	set_blob(op, text, len);
}

void store_txn_feed(struct store_txn *t, const char *text, size_t len)
{
	set_blob(add_op(t, OP_FEED, 0), text, len);
}

void store_txn_fed(struct store_txn *t, uint32_t run, uint64_t at, uint64_t bytes)
{
	struct store_op *op = add_op(t, OP_FED, run);

	op->num[0] = (int64_t)at;
	op->num[1] = (int64_t)bytes;
}

void store_txn_mark(struct store_txn *t, const char *name, int64_t value)
{
	struct store_op *op = add_op(t, OP_MARK, 0);

	op->num[0] = value;
	op->text[0] = xasprintf("mark.%s", name);
}

void store_txn_purge(struct store_txn *t, uint32_t run)
{
	(void)add_op(t, OP_PURGE, run);
}

void store_txn_mount(struct store_txn *t, uint64_t mount)
{
	add_op(t, OP_MOUNT, 0)->num[0] = (int64_t)mount;
}

/* --- running --- */

int store_stmts_init(struct store_stmts *q, sqlite3 *db, struct store_feed *feed, struct err *e)
{
	memset(q, 0, sizeof(*q));
	q->db = db;
	q->feed = feed;
	for (int i = 0; i < ST_N; i++) {
		if (sqlite3_prepare_v3(db, stmts[i].sql, -1, SQLITE_PREPARE_PERSISTENT, &q->st[i], NULL) == SQLITE_OK)
			continue;
		(void)err_set(e, store_db_code(db), "the journal is damaged: %s", sqlite3_errmsg(db));
		store_stmts_release(q);
		return e ? e->code : -EBADMSG;
	}
	return 0;
}

void store_stmts_release(struct store_stmts *q)
{
	for (int i = 0; i < ST_N; i++) {
		(void)sqlite3_finalize(q->st[i]);
		q->st[i] = NULL;
	}
}

int store_stmts_run(struct store_stmts *q, enum store_stmt id)
{
	int rc = sqlite3_step(q->st[id]);
	int code = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : store_db_code(q->db);

	(void)sqlite3_reset(q->st[id]);
	return code;
}

static void bind_one(sqlite3_stmt *st, int at, char what, const struct store_op *op)
{
	switch (what) {
	case 'r':
		(void)sqlite3_bind_int64(st, at, op->run);
		break;
	case '0':
	case '1':
		(void)sqlite3_bind_int64(st, at, op->num[what - '0']);
		break;
	case 'B':
		(void)sqlite3_bind_blob64(st, at, op->text[2], op->len, SQLITE_STATIC);
		break;
	default:
		(void)sqlite3_bind_text(st, at, op->text[what - 'a'], -1, SQLITE_STATIC);
		break;
	}
}

static int run_bound(struct store_stmts *q, enum store_stmt id, const struct store_op *op)
{
	int code;

	for (int i = 0; stmts[id].bind[i]; i++)
		bind_one(q->st[id], i + 1, stmts[id].bind[i], op);
	code = store_stmts_run(q, id);
	(void)sqlite3_clear_bindings(q->st[id]);
	return code;
}

int store_stmts_number(struct store_stmts *q, enum store_stmt id, int64_t number)
{
	const struct store_op op = { .num = { number, 0 } };

	return run_bound(q, id, &op);
}

static int run_op(struct store_stmts *q, struct store_op *op)
{
	int rc = 0;

	if (op->type == OP_FEED)
		op->num[0] = (int64_t)q->feed->len;
	for (size_t i = 0; i < ARRAY_SIZE(ops[0].st) && !rc && ops[op->type].st[i] != NO; i++)
		rc = run_bound(q, ops[op->type].st[i], op);
	if (!rc && op->type == OP_FEED)
		store_feed_add(q->feed, op->text[2], op->len);
	if (rc || !ops[op->type].numbers || op->run < q->next_num)
		return rc;
	rc = run_bound(q, ST_NEXT_NUM, op);
	if (!rc)
		q->next_num = (int64_t)op->run + 1;
	return rc;
}

/* Trying again later would give the same answer. */
static bool is_final(sqlite3 *db)
{
	switch (sqlite3_errcode(db) & 0xff) {
	case SQLITE_CONSTRAINT:
	case SQLITE_TOOBIG:
	case SQLITE_MISMATCH:
	case SQLITE_RANGE:
	case SQLITE_MISUSE:
		return true;
	default:
		return false;
	}
}

int store_txn_apply(struct store_stmts *q, struct store_txn *t)
{
	uint64_t before = q->feed->len;
	int rc = store_stmts_run(q, ST_SAVEPOINT);

	if (rc)
		return rc;
	for (size_t i = 0; i < t->n_ops && !rc; i++)
		rc = run_op(q, &t->ops[i]);
	t->feed = q->feed->len > before ? q->feed->len : 0;
	if (!rc)
		return store_stmts_run(q, ST_RELEASE);
	if (!is_final(q->db))
		return rc;
	t->feed = 0;
	store_feed_back(q->feed, before);
	log_error("a change was refused by the journal: %s", sqlite3_errmsg(q->db));
	t->code = rc;
	q->next_num = 0; /* its row may have been rolled back */
	rc = store_stmts_run(q, ST_ROLLBACK_TO);
	return rc ? rc : store_stmts_run(q, ST_RELEASE);
}

void store_txn_ticket(struct store_txn *t, uint64_t ticket)
{
	t->ticket = ticket;
}

void store_txn_free(struct store_txn *t)
{
	if (t)
		msg_release(&t->m);
}
