/*
 * The engine: owns all runs; decides what is done next. Lives in the reactor thread. Everything that changes
 * goes the same way: an event is posted to the store, and when its commit has returned it is applied
 * (run_apply), observers are told, and whatever the new state still lacks is started (idempotent). What is visible is
 * therefore always what is durable, and nothing is acted on before it is in the journal.
 */
#ifndef BACKEND_ENGINE_H
#define BACKEND_ENGINE_H

#include "backend/base/clock.h"
#include "backend/base/err.h"
#include "backend/base/inbox.h"
#include "backend/base/strbuf.h"
#include "backend/config.h"
#include "backend/run.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct engine;
struct cluster_ops;

struct engine_conf {
	const struct config *config;
	const struct clock *clock;
	const char *state_dir;
	const char *mount_dir; /* of the tree that this engine serves, absolute; NULL: nobody says */
	uint64_t mount_id;     /* of this FUSE connection; keys the `seen` rows */
	const struct cluster_ops *(*find)(enum cluster_type type); /* kinds of clusters; NULL: the registry */
};

/* Opens the store, loads runs, starts store and cluster threads. */
int engine_create(const struct engine_conf *conf, struct engine **out, struct err *e);
/* Stops the threads within deadline_ms; jobs go on. Frees. Callbacks that are still owed do not run any more. */
void engine_free(struct engine *en, int deadline_ms);

int engine_fd(const struct engine *en); /* readable when engine_step has work */
void engine_step(struct engine *en);    /* takes messages; never waits */
/* Does what is due at `now` (monotonic us); when it wants to be called next, INT64_MAX: never. */
int64_t engine_timer(struct engine *en, int64_t now);

/* --- reading; pointers are valid until the next engine call that may change runs --- */

const struct run *engine_run(const struct engine *en, uint32_t num);
const struct run *engine_run_by_id(const struct engine *en, const char *id);
const struct run *engine_last(const struct engine *en); /* newest submitted run, or NULL */
const struct run *engine_next(const struct engine *en,
			      uint32_t after); /* the visible run with the next higher number; NULL: none */
/* Creations of runs that are on their way to the journal. */
size_t engine_creating(const struct engine *en);
/* Why a queued run is not submitted yet (a dependency), or NULL. */
const char *engine_gate(const struct engine *en, uint32_t num);
size_t engine_count(const struct engine *en);
const struct config *engine_config(const struct engine *en);
const char *engine_uuid(const struct engine *en);

struct engine_link { /* how a cluster is reached */
	bool up, asking;
	char text[512];
	int64_t since; /* real us */
};
const struct engine_link *engine_cluster_link(const struct engine *en, const char *name);
/* "" while the journal works, else the sentence (disk full ...). */
const char *engine_trouble(const struct engine *en);

/* --- watching --- */

struct engine_observer {
	void *arg;
	void (*run_changed)(void *arg,
			    const struct run *r); /* after a committed event; r may be new or purged (see gone) */
	void (*run_gone)(void *arg, uint32_t num);
	void (*log_grew)(void *arg, const struct run *r);
	/* A live run's area (enum cluster_area) with all below, unasked, as it was at `began` (monotonic us) or later;
	   what is not in it is not there if `whole`. data NULL: it is as it was told last. Comes before the log_grew of
	   bytes that speak of it. */
	void (*listed)(void *arg, const struct run *r, int area, bool whole, int64_t began, const char *data,
		       size_t len);
	/* The verb `fetch`: the results of this ended run are wanted here. engine_fetch_done is owed. NULL: nobody can.
	 */
	void (*fetch)(void *arg, const struct run *r);
	/* Does somebody read results of this ended run, or are they on their way? NULL: nobody does. */
	bool (*in_use)(void *arg, const struct run *r);
};
void engine_observe(struct engine *en, const struct engine_observer *ob); /* one observer */

/* --- changing; each callback runs once, later or (on bad input) at once, from this thread. It may call anything here
   but engine_step and engine_free; its text is valid during the call. --- */

typedef void (*engine_done)(void *arg, int code, const char *text);

/*
 * Submits one complete document (JSON, line or script). cb: code 0 and the text is the run's id; else the negative
 * errno and the sentences. `draft` non-zero: into that draft. `cluster_hint` as in config_resolve. `request` is the
 * FUSE unique of the write (0: none): the same request is answered from the journal and not done again. `uid` is for
 * `errors`.
 */
struct engine_submit {
	const char *text;
	size_t len;
	uint32_t draft;
	const char *cluster_hint;
	uint64_t request;
	uint32_t uid;
	bool session;             /* the document is a session's spec */
	const char *session_name; /* that it gets; NULL: the spec's `name`, or its number */
	uint32_t into;            /* the document is a run of this session */
};
void engine_submit(struct engine *en, const struct engine_submit *s, engine_done cb, void *arg);

/* The same without submitting: text is the effective spec and the script, or every error at once. */
void engine_check(struct engine *en, const char *text, size_t len, const char *cluster_hint, struct strbuf *out,
		  int *code);

/* mkdir runs/NAME. -EEXIST, -EINVAL (with text) at once, else committed first; cb text is empty. */
void engine_draft(struct engine *en, const char *name, uint64_t request, engine_done cb, void *arg);

/*
 * Sessions: runs with launcher=session that have a name. Of those of one name at most one is live; the newest is the
 * session of that name, until it is purged: an older one that had the name before does not come back.
 */
bool engine_is_session(const struct run *r);
const char *engine_session_name(const struct run *r);
/* The session of a name (or of a run's id), or NULL. */
const struct run *engine_session(const struct engine *en, const char *name);
/* Is the session that its name leads to? */
bool engine_session_current(const struct engine *en, const struct run *session);
/* The session that a run starts in, started in or would have; NULL: none, or it was purged. */
const struct run *engine_session_of(const struct engine *en, const struct run *step);
/* mkdir sessions/NAME: as engine_draft; the text is the run's id. */
void engine_session_draft(struct engine *en, const char *name, uint64_t request, engine_done cb, void *arg);

/* Who wants a session to live. A lease that was not renewed for `ttl` seconds is none; the session's own clock counts.
 */
#define ENGINE_LEASE_TTL 300 /* of a lease whose owner says nothing */
#define ENGINE_LEASE_MAX (30 * 24 * 3600)
struct engine_lease {
	const char *owner; /* borrowed */
	int ttl, left;     /* seconds */
	int64_t renewed;   /* real us */
};
/* The lease with the next greater index; false: there is none. *index begins with 0. */
bool engine_lease_next(const struct engine *en, const struct run *session, size_t *index, struct engine_lease *out);
bool engine_lease_find(const struct engine *en, const struct run *session, const char *owner, struct engine_lease *out);
/* Takes or renews one (ttl > 0), renews with the ttl that it has (0), gives it up (-1). */
void engine_lease(struct engine *en, uint32_t num, const char *owner, int ttl, engine_done cb, void *arg);

/* rmdir: -EBUSY on a live run that is no draft, and on one that a live run needs. */
void engine_purge(struct engine *en, uint32_t num, uint64_t request, engine_done cb, void *arg);

/* One line of ctl. Errors at once for unknown verbs (EINVAL) and wrong states (ESRCH, EBUSY); what needs the cluster is
   committed first, then answered with code 0 and text "" ; the scheduler's answer comes by engine_verb_answer. */
void engine_verb(struct engine *en, uint32_t num, const char *line, uint64_t request, engine_done cb, void *arg);

/* Calls back when the last verb on this run has its answer (at once when there is none under way). */
void engine_verb_answer(struct engine *en, uint32_t num, engine_done cb, void *arg);
/* Calls back when the run's submission is decided: text "accepted JOBID" or "rejected WHY". Drop with engine_cancel_cb.
 */
void engine_decided(struct engine *en, uint32_t num, engine_done cb, void *arg);
/* Drops every callback that was registered for this run with this arg by the two calls above. */
void engine_cancel_cb(struct engine *en, uint32_t num, void *arg);
/* What reading ctl lists: a verb a line. */
const char *engine_verbs(void);

/* How far the bytes of a run are that are on their way now or were last; all 0: there were none. */
struct engine_progress {
	uint64_t sent, sent_all;     /* files and inputs, to the cluster, as they travel */
	uint64_t input, input_all;   /* an input from another cluster, to here */
	uint64_t fetched, fetch_all; /* results, to here */
};
struct engine_progress engine_progress(const struct engine *en, uint32_t num);
void engine_fetch_said(struct engine *en, uint32_t num, uint64_t done, uint64_t all);
void engine_fetch_done(struct engine *en, uint32_t num, int code, const char *text);
/* Fetched results of this run are about to be removed here; cb: code 0 when that is where it has to be known. `drop`
 * (or NULL) takes arg when the engine ends before. */
void engine_evicting(struct engine *en, uint32_t num, engine_done cb, void (*drop)(void *arg), void *arg);

/* A document of a run whose text is not in memory. */
typedef void (*engine_doc_cb)(void *arg, int code, const char *text, size_t len);
void engine_doc(struct engine *en, uint32_t num, const char *name, engine_doc_cb cb, void *arg);

/* Somebody reads this run's logs now. */
void engine_hot(struct engine *en, uint32_t num);

/* Somebody looks at this run: bits of enum cluster_look. */
void engine_look(struct engine *en, uint32_t num, unsigned look);

/* Bytes and listings from the cluster; data is borrowed for the call; code -EHOSTUNREACH after the deadline. */
typedef void (*engine_data_cb)(void *arg, int code, const char *text, const char *data, size_t len);
void engine_fetch(struct engine *en, uint32_t num, int area, const char *path, uint64_t off, uint64_t len,
		  engine_data_cb cb, void *arg);
void engine_list(struct engine *en, uint32_t num, int area, const char *path, engine_data_cb cb, void *arg);
/* The list of results that the ended attempt left, as documented in cluster.h. */
void engine_manifest(struct engine *en, uint32_t num, engine_data_cb cb, void *arg);
void engine_probe(struct engine *en, const char *cluster, const char *what, engine_data_cb cb, void *arg);

/*
 * Makes HOST:PORT, or PORT of the run's first node, reachable: cb gives the address of this machine to use (the same
 * whenever it is asked for), or why not. `drop` (or NULL) takes arg when the engine ends before. The run's facts have
 * all of them under "forward:" and what was asked.
 */
void engine_forward(struct engine *en, uint32_t num, const char *asked, engine_done cb, void (*drop)(void *arg),
		    void *arg);
int engine_unforward(struct engine *en, uint32_t num, const char *asked, struct err *e);
const char *engine_forwarded(const struct run *r, const char *asked); /* the address it has, or NULL; borrowed */
bool engine_is_forward_fact(const char *key);                         /* means nothing once the run has ended */

/* clusters/NAME/ctl: "reconnect". root ctl: "reload" is done by restarting the worker. */
int engine_cluster_verb(struct engine *en, const char *cluster, const char *verb, struct err *e);

/* The file `errors`: lines as JSONL, newest last; borrowed until the next call. */
const struct strbuf *engine_rejected(const struct engine *en);
void engine_note_rejected(struct engine *en, uint32_t uid, const char *text, size_t len, const char *why);
/* The same, and calls back with this code (< 0) and `why` when it is in the journal: so a writer who was refused finds
 * it. */
void engine_refuse(struct engine *en, uint32_t uid, const char *text, size_t len, const char *why, int code,
		   engine_done cb, void *arg);

/*
 * The root's `events`: a line for each change of a run's status and each message of a job, as they were journaled. A
 * byte that was there once has its offset for ever; the length is always a line's end, and what a line tells of can be
 * seen before it.
 */
uint64_t engine_feed_len(const struct engine *en);
ssize_t engine_feed_read(const struct engine *en, void *buf, size_t size, uint64_t off); /* 0 at the end, or -errno */
int64_t engine_feed_time(const struct engine *en); /* of the last line, real us; 0: there is none */

/* STATE/spool/NUM/context: the Pipes context of a run; in a draft the caller may write it (at most ENGINE_CONTEXT_MAX
 * bytes). */
#define ENGINE_CONTEXT_MAX ((uint64_t)64 * 1024 * 1024)
void engine_context_path(const struct engine *en, uint32_t num, struct strbuf *out);
/* Does the run report by Dagster Pipes? */
bool engine_has_pipes(const struct run *r);

/* STATE/files/NUM: what a draft's files/ holds; the caller makes files there. */
void engine_files_dir(const struct engine *en, uint32_t num, struct strbuf *out);

#endif
