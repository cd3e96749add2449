/*
 * Between the files of the store; the only header that names SQLite.
 *
 * store_schema.c opens the database, store_txn.c builds transactions and turns them into statements, store_feed.c keeps
 * the feed's file, store.c owns the thread.
 */
#ifndef BACKEND_STORE_PRIVATE_H
#define BACKEND_STORE_PRIVATE_H

#include "backend/base/strbuf.h"
#include "backend/store.h"

#include <sqlite3.h>

/* --- store_schema.c --- */

/* From schema `from` to the next; the last row has no sql. */
struct store_migration {
	int from;
	const char *sql;
};

/* Opens and checks as store_open says, with the migrations given. */
int store_db_open(const char *dir, const struct clock *clock, const struct store_migration *steps, sqlite3 **out,
		  char uuid[37], struct err *e);

/* The last failure of `db` as a negative errno. */
int store_db_code(sqlite3 *db);

/* --- store_txn.c --- */

enum store_stmt {
	ST_BEGIN,
	ST_COMMIT,
	ST_ROLLBACK,
	ST_SAVEPOINT,
	ST_RELEASE,
	ST_ROLLBACK_TO,
	ST_PROBE,
	ST_NEXT_NUM,
	ST_EVENT,
	ST_SUMMARY,
	ST_DOC,
	ST_KEY,
	ST_SEEN,
	ST_REJECTED,
	ST_FEED,
	ST_FED,
	ST_MARK,
	ST_DEL_RUN,
	ST_DEL_EVENTS,
	ST_DEL_DOCS,
	ST_DEL_FED,
	ST_FEED_KEPT,
	ST_DEL_FEED,
	ST_MOUNT,
	ST_GET_DOC,
	ST_N
};

struct store_feed;

struct store_stmts {
	sqlite3 *db;
	struct store_feed *feed;
	sqlite3_stmt *st[ST_N];
	int64_t next_num; /* what the meta row holds at least; 0: not known */
};

struct store_op;

struct store_txn {
	struct msg m;
	uint64_t ticket;
	bool may_fail;
	int code;      /* why this one was left out of its group */
	uint64_t feed; /* where its lines end; 0: it has none */
	struct store_op *ops;
	size_t n_ops, cap_ops;
};

static inline struct store_txn *store_txn_of(struct list *node)
{
	return container_of(container_of(node, struct msg, node), struct store_txn, m);
}

int store_stmts_init(struct store_stmts *q, sqlite3 *db, struct store_feed *feed, struct err *e);
void store_stmts_release(struct store_stmts *q);
/* Runs a statement without parameters or rows: 0 or negative errno. */
int store_stmts_run(struct store_stmts *q, enum store_stmt id);
/* The same with one number. */
int store_stmts_number(struct store_stmts *q, enum store_stmt id, int64_t number);
/*
 * Runs a transaction inside a savepoint. 0: it is in, or it can never be (t->code says why and it left no trace).
 * Negative errno: the database failed and the whole group has to be rolled back.
 */
int store_txn_apply(struct store_stmts *q, struct store_txn *t);

/* --- store_feed.c --- */

struct store_feed {
	int fd;
	uint64_t len;       /* counted by the journal, with the group that is being made */
	uint64_t written;   /* of them in the file; the others are in `tail` */
	uint64_t kept;      /* before here all is on the disk for good, and the journal has no rows */
	uint64_t trimming;  /* what `kept` will be when the group is committed, or 0 */
	size_t rows;        /* since `kept`, about */
	bool owed;          /* somebody was not told of lines, because they could not be written */
	struct strbuf tail; /* [written, len) */
};

/* Opens DIR/events and makes it whole; rows that cannot be written now (full disk) are in the tail. */
int store_feed_open(struct store_feed *f, const char *dir, sqlite3 *db, struct err *e);
void store_feed_close(struct store_feed *f);
void store_feed_add(struct store_feed *f, const char *text, size_t len);
/* Takes back what was added since the feed had this length. */
void store_feed_back(struct store_feed *f, uint64_t len);
/* In a group: takes rows out of the journal that nobody needs any more, now and then. */
int store_feed_trim(struct store_feed *f, struct store_stmts *q);
/* The group was committed, or not. */
void store_feed_settle(struct store_feed *f, bool committed);
/* Brings the file up to what was committed: 0 or negative errno (later). */
int store_feed_write(struct store_feed *f);

#endif
