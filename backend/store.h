/*
 * The journal: one SQLite database (WAL, synchronous=FULL) used by one thread. Others post transactions and get a
 * message when the commit that contains them has returned; everything that arrives while a commit runs is one group.
 *
 * A transaction is all or nothing and is never lost once posted: when the disk is full the thread says so
 * (STORE_TROUBLE, once), keeps it and tries again every second, in order; a transaction that was posted with
 * `may_fail` is dropped instead and answered with the error. One that can never be (a run id that another run has)
 * is answered with -EEXIST and leaves the others alone. While in trouble the thread also probes by itself, so the
 * STORE_TROUBLE with code 0 comes without further posts.
 *
 * Schema: meta(key, value); run(num PRIMARY KEY, id UNIQUE, live, summary); event(seq PRIMARY KEY, run, time, type,
 * data); doc(run, name, text); seen(mount, request, result) for writes that the kernel may deliver twice; key(key
 * PRIMARY KEY, run, id) which outlives purge; rejected(seq, time, uid, text, why) for the file `errors`; feed(at, text)
 * and fed(run, at, bytes) for the feed.
 *
 * The feed is one more file, DIR/events: lines that belong to transactions, in the order of their commits. It only
 * grows, and a byte that was counted has its offset for ever: a line is journaled with its offset, and its row is kept
 * until the file is on the disk for good. So after a kill or a power cut the file is made whole from the rows.
 */
#ifndef BACKEND_STORE_H
#define BACKEND_STORE_H

#include "backend/base/clock.h"
#include "backend/base/err.h"
#include "backend/base/inbox.h"
#include "backend/event.h"

#include <stdbool.h>
#include <stdint.h>

struct store;

#define STORE_SCHEMA 2

/* What is read at start, before the thread runs. Strings are borrowed for the call. */
struct store_loader {
	void *arg;
	void (*run)(void *arg, uint32_t num, const char *id, bool live, const char *summary);
	/* events of live runs only, in order */
	void (*event)(void *arg, uint32_t run, int64_t time, const char *type, const char *data);
	/* documents of live runs only: name is "spec", "effective" or "script" */
	void (*doc)(void *arg, uint32_t run, const char *name, const char *text, size_t len);
	void (*key)(void *arg, const char *key, uint32_t run, const char *id);
	void (*seen)(void *arg, uint64_t mount, uint64_t request, const char *result);
	void (*rejected)(void *arg, int64_t time, uint32_t uid, const char *text, size_t len, const char *why);
	void (*fed)(void *arg, uint32_t run, uint64_t at, uint64_t bytes);
	void (*mark)(void *arg, const char *name, int64_t value);
};

/* The name of a file system that is not local by its statfs(2) type, or NULL. */
const char *store_remote_fs(unsigned long type);

/*
 * Opens DIR/journal.db, making or migrating it (a copy DIR/journal.db.SCHEMA is made before a migration). Errors, each
 * a sentence: a newer schema (named), a directory of another machine or copied from elsewhere (host, inode and device
 * of DIR are recorded; the file DIR/adopt-this-copy accepts a copy once, under a new UUID), used by another process,
 * not 0700 or another user's, not on a local file system, not writable, damaged. *uuid_out gets the state's UUID
 * (36 characters).
 */
int store_open(const char *dir, const struct clock *clock, struct store **out, char uuid_out[37], struct err *e);
int store_load(struct store *s, const struct store_loader *l, uint32_t *next_num, struct err *e);
/* How long the feed is; before the thread runs. */
uint64_t store_feed_len(const struct store *s);
/* DIR/events, for readers; the caller frees it. */
char *store_feed_path(const char *dir);
/* Starts the thread; its messages (below) are posted to `replies`. */
int store_start(struct store *s, struct inbox *replies, struct err *e);
/*
 * Commits what was posted, stops the thread, closes. Gives up on a full disk after deadline_ms; what is left then is
 * answered with the error. Nobody may post any more.
 */
void store_close(struct store *s, int deadline_ms);

/* --- transactions; built by the caller, who gives them away with store_post --- */

struct store_txn;

struct store_txn *store_txn_new(uint64_t ticket, bool may_fail);
void store_txn_ticket(struct store_txn *t, uint64_t ticket);
void store_txn_event(struct store_txn *t, uint32_t run, const struct event *ev);
/* The summary row; `live` false also deletes the run's events (they are in the summary's history). */
void store_txn_summary(struct store_txn *t, uint32_t run, const char *id, bool live, const json_t *summary);
void store_txn_doc(struct store_txn *t, uint32_t run, const char *name, const char *text, size_t len);
void store_txn_key(struct store_txn *t, const char *key, uint32_t run, const char *id);
void store_txn_seen(struct store_txn *t, uint64_t mount, uint64_t request, const char *result);
void store_txn_rejected(struct store_txn *t, int64_t time, uint32_t uid, const char *text, size_t len, const char *why);
/* Whole lines for the feed; the transaction needs a ticket. */
void store_txn_feed(struct store_txn *t, const char *text, size_t len);
/* How far a run's messages are in the feed: two numbers that are the caller's affair. */
void store_txn_fed(struct store_txn *t, uint32_t run, uint64_t at, uint64_t bytes);
/* A number with a name that outlives workers. */
void store_txn_mark(struct store_txn *t, const char *name, int64_t value);
/* Removes run, events and documents; keys stay. */
void store_txn_purge(struct store_txn *t, uint32_t run);
/* Forgets `seen` rows of every mount but this one. */
void store_txn_mount(struct store_txn *t, uint64_t mount);

/* Gives up a transaction that was not posted; NULL is fine. */
void store_txn_free(struct store_txn *t);
void store_post(struct store *s, struct store_txn *t);
/* Asks for a document of any run; answered by a STORE_DOC message. */
void store_ask_doc(struct store *s, uint64_t ticket, uint32_t run, const char *name);

/* --- messages to the owner --- */

/* STORE_FEED: lines that could not be written when their commit returned (full disk) are in the file now. */
enum store_msg_type { STORE_DONE = 100, STORE_DOC, STORE_TROUBLE, STORE_FEED };

struct store_msg {
	struct msg m; /* m.type: enum store_msg_type */
	uint64_t ticket;
	int code;   /* 0 or negative errno; STORE_TROUBLE: 0 when it is over */
	char *text; /* STORE_DOC: the document, owned, NULL when there is none; STORE_TROUBLE: the sentence */
	size_t len;
	uint64_t feed; /* DONE, FEED: the feed can be read up to here; 0: nothing new */
};

#endif
