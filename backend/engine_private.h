/*
 * What the files of the engine share. Nothing here is for others; see engine.h.
 */
#ifndef BACKEND_ENGINE_PRIVATE_H
#define BACKEND_ENGINE_PRIVATE_H

#include "backend/cluster.h"
#include "backend/engine.h"
#include "backend/hook.h"
#include "backend/spool.h"
#include "backend/store.h"

#define PRINT_SIZE 17 /* of a spec's fingerprint, with its NUL */

/* A callback of the engine's own: what it would have used is dropped when the engine ends before. */
struct own_call {
	engine_done done;
	void (*drop)(void *arg);
	void *arg;
};

/* A callback that waits for a run: its creation, its decision, or the answer to its last verb. */
struct waiter {
	struct list node;
	uint64_t serial;
	engine_done cb;
	void *arg;
};

/* A run with what the engine alone knows of it. It is freed in engine_purged and engine_created only, never in a
 * callback. */
struct erun {
	struct hmap_node by_num, by_id;
	struct run *r;
	bool visible;      /* its creation is committed */
	bool purging;      /* nothing is posted for it until the purge's fate is known */
	struct list queue; /* of struct queued: events that wait for the one in flight */
	bool in_flight;
	char creating[PRINT_SIZE]; /* fingerprint of the spec whose creation is in flight, or "" */
	struct list created;       /* of struct waiter: the same spec again, before it was committed */
	uint32_t sent_attempt;     /* CREQ_SUBMIT or CREQ_WATCH went out for this attempt */
	bool sent_ended;           /* CREQ_WATCH for the rest of an ended run's logs went out */
	bool cancel_sent;
	bool hold_sent;            /* what the cluster was told last: held or not */
	bool fresh;                /* this worker saw it queued, so it was never sent before */
	bool logs_last;            /* the attempt's logs are in the spool as far as they ever will be */
	bool logs_posted;          /* the fact that says so is on its way */
	char *directory, *scratch; /* where the current attempt lives on the cluster */
	char **after; /* dependencies of a queued run (struct job), or of a draft that is on its way to be one; NULL:
			 not    looked at yet */
	struct job_input *inputs; /* of a queued run, looked at with `after` */
	size_t n_inputs;
	bool looked;             /* at both of them */
	struct stage *stage;     /* one that is being brought here (engine_inputs.c), or NULL */
	uint64_t sent, sent_all; /* bytes of files and inputs on their way to the cluster */
	uint64_t fetched, fetch_all;
	unsigned walked; /* engine_circle.c */
	struct erun *walked_from;
	char *gate;             /* why a queued run is not submitted yet, or NULL */
	struct list decided;    /* of struct waiter */
	struct event *held_end; /* an end that waits for its list of results, or for messages, or NULL */
	bool manifest_wanted;   /* the list is on its way */
	bool events_last;       /* the attempt's messages are all in the spool, or cannot be had */
	struct events_at fed;   /* up to here they are in the feed, or on their way */
	bool feeding;           /* some are on their way */
	struct list verb_waiters;
	uint64_t verb_ticket; /* of the verb that is under way; 0: none */
	bool verb_told;       /* a cluster was told something since the last wish was posted */
	int verb_code;        /* answer to the last verb */
	char *verb_text;
	uint64_t spooled_out, spooled_err;
	char *session;       /* the name, of a session; NULL: it is none */
	json_t *leases;      /* of a session: as they will be when all events are committed; NULL: as the facts say */
	int64_t leases_told; /* real us: the newest that the cluster was told of */
	bool stop_sent;
	int64_t hot_at;  /* monotonic us: the cluster was last told that somebody reads */
	int64_t look_at; /* the same: that somebody looks, at what */
	unsigned look;
	uint32_t forward_attempt; /* its forwards were asked for on this attempt's node */
};

/* One event on its way: posted when the run's earlier events are committed. */
struct queued {
	struct list node;
	struct event *ev;
	struct store_txn *txn; /* NULL: made when it is posted */
	uint64_t request;      /* done by this event; 0: none */
	struct own_call call;  /* done NULL: nobody wants to know */
};

enum pending_kind {
	PENDING_CREATE,
	PENDING_EVENT,
	PENDING_PURGE,
	PENDING_DOC,
	PENDING_DATA,
	PENDING_VERB,
	PENDING_REFUSAL,
	PENDING_FEED,
	PENDING_HOOK
};

/* Something that was asked of the store or a cluster, by its ticket. */
struct pending {
	struct hmap_node by_ticket;
	enum pending_kind kind;
	uint32_t run;
	struct event *ev; /* EVENT, CREATE */
	struct run *docs; /* CREATE: holds the documents' texts, or NULL */
	uint64_t request; /* remembered with `result` when committed */
	uint32_t uid;     /* CREATE: whose it is */
	char *result;     /* VERB: the verb's name; REFUSAL: why */
	int code;         /* REFUSAL */
	engine_done done;
	engine_data_cb data;
	engine_doc_cb doc;
	void (*drop)(void *arg); /* of what is left at the end; NULL: it is another's */
	void *arg;
};

struct seen {
	struct hmap_node node; /* by request */
	char *result;          /* text for the callback */
};

struct key_row {
	struct hmap_node node;
	char *key, *value; /* value: "ID FINGERPRINT" */
};

struct ecluster {
	const struct cluster_conf *conf;
	const struct cluster_ops *ops;
	struct cluster *c;
	struct engine_link link;
};

struct engine {
	struct engine_conf conf;
	const struct clock *clock;
	char *state_dir, *spool_dir;
	char uuid[37];
	struct store *store;
	struct inbox inbox;
	struct hmap by_num, by_id; /* struct erun */
	struct erun **order;       /* ascending numbers, purged ones removed */
	size_t n_order, cap_order;
	uint32_t next_num;
	uint32_t last;        /* newest submitted run */
	unsigned walks;       /* engine_circle.c */
	size_t n_creating;    /* creations that are on their way to the journal */
	uint64_t next_ticket; /* serials of waiters come from here, too */
	struct hmap pending, seen, keys;
	struct ecluster *clusters;
	size_t n_clusters;
	struct engine_observer ob;
	struct strbuf rejected;
	char *trouble;
	int feed_fd;
	uint64_t feed_len;
	struct hook *hook; /* or NULL: nobody wants to be told */
	int64_t hook_at;   /* what was told, in the feed; -1: nobody was listening */
	bool hook_posting; /* that is on its way to the journal */
	int64_t hook_posted;
	int64_t clean_at; /* monotonic us: the next look for runs that were kept for long enough */
};

/* engine.c */
struct erun *engine_find(const struct engine *en, uint32_t num);
struct erun *engine_find_id(const struct engine *en, const char *id); /* invisible ones too */
void engine_add(struct engine *en, struct erun *er);
void engine_remove(struct engine *en, struct erun *er);
void engine_find_last(struct engine *en);
struct erun *erun_new(struct run *r);
void erun_free(struct erun *er);
struct ecluster *engine_cluster(const struct engine *en, const char *name); /* name may be NULL */
struct pending *engine_pending(struct engine *en, enum pending_kind kind, uint32_t run, uint64_t *ticket);
void pending_free(struct pending *p);
void engine_replied(struct engine *en, uint64_t ticket, int code, const char *text, const char *data, size_t len);
void engine_changed(struct engine *en, struct erun *er);
void engine_remember(struct engine *en, uint64_t request, const char *result);
const char *engine_recall(const struct engine *en, uint64_t request);

/* engine_load.c */
int engine_load(struct engine *en, struct err *e);

/* engine_action.c */
/* Queues an event (owned) for a run; a request that is not 0 goes into `seen` with it, and then the event may fail
 * (disk full). */
void engine_post(struct engine *en, struct erun *er, struct event *ev, uint64_t request, const struct own_call *call);
void engine_committed(struct engine *en, struct pending *p, int code); /* frees p */
/* A run as the event will make it (the caller frees it); NULL: it does not fit. */
struct run *engine_foresee(const struct run *r, const struct event *ev);
void engine_post_next(struct engine *en, struct erun *er); /* goes on with what was posted meanwhile */
void engine_post_none(struct erun *er);                    /* answers it with -ENOENT instead */
void engine_act(struct engine *en, struct erun *er);
void engine_act_gated(struct engine *en);
void engine_settle(struct engine *en, struct erun *er); /* answers waiters whose time has come */
void engine_logs_done(struct engine *en, struct erun *er);

/* engine_job.c */
int engine_job(struct engine *en, struct erun *er, struct job *job, struct strbuf *errors);
void engine_job_place(struct engine *en, struct job *job, const char *directory, const char *scratch);
int engine_render(struct engine *en, const struct run *r, uint32_t attempt, const struct job *job, struct strbuf *out,
		  struct err *e);
/* 1: every dependency is satisfied, 0: not yet (er->gate says why), -1: never (likewise), -EINVAL: `errors` say why
 * not. */
int engine_gate_open(struct engine *en, struct erun *er, struct strbuf *errors);
/* At start: a live run that has results of others as inputs knows of them again, whatever its status. */
void engine_inputs_recall(struct engine *en, struct erun *er);
/* What a queued run waits for, "TYPE:RUN" each, NULL-ended; NULL: nothing, or it cannot be said. Borrowed. */
char *const *engine_after(struct engine *en, struct erun *er);
struct creq *engine_creq(struct engine *en, struct erun *er, enum creq_type type, uint64_t ticket);
/* With the little that finds an attempt which the cluster does not watch. */
struct creq *engine_creq_placed(struct engine *en, struct erun *er, enum creq_type type, uint64_t ticket);
/* The full request of a submission or a watch; NULL when the job cannot be rebuilt: why. */
struct creq *engine_creq_job(struct engine *en, struct erun *er, enum creq_type type, struct strbuf *why);
/* Without its cluster a request is answered -EHOSTUNREACH at once. */
void engine_send(struct engine *en, struct erun *er, struct creq *rq);

/* engine_inputs.c */
/* What can be said when the spec is written: 0, or -EINVAL with sentences. */
int engine_inputs_check(struct engine *en, const struct job *job, struct strbuf *errors);
/* 1: they are all where they can be taken from, 0: not yet (why), -EINVAL: never. */
int engine_inputs_open(struct engine *en, struct erun *er, struct strbuf *why);
/* Says in the job where each is. */
void engine_inputs_fill(struct engine *en, const struct run *r, struct job *job);
void engine_inputs_ended(struct engine *en, struct erun *er); /* removes what was brought here */
void engine_inputs_release(struct erun *er);
/* Does a run that has not ended want a result of this one? */
bool engine_inputs_used(struct engine *en, const struct run *r);
bool engine_inputs_progress(const struct erun *er, uint64_t *done, uint64_t *all);

/* engine_forward.c */
/* The first name of a scheduler's list, or NULL; the caller frees it. */
char *engine_first_node(const char *nodes);
/* What a run that runs was given before is asked for again. */
void engine_act_forwards(struct engine *en, struct erun *er);

/* engine_circle.c */
/* Would the draft, with these dependencies, wait for itself by way of others? Then `out` has the circle in words. */
bool engine_circle(struct engine *en, struct erun *draft, char *const *after, struct strbuf *out);

/* engine_data.c */
void engine_ask_doc(struct engine *en, uint32_t num, const char *name, engine_doc_cb cb, void (*drop)(void *arg),
		    void *arg);
/* engine_fetch for a callback of the engine's own, whose `arg` is dropped when the engine ends before. */
void engine_fetch_own(struct engine *en, uint32_t num, int area, const char *path, uint64_t off, uint64_t len,
		      engine_data_cb cb, void (*drop)(void *arg), void *arg);
/* A cluster's report (owned): an end waits until the list of the run's results is here. */
void engine_report(struct engine *en, struct erun *er, struct event *ev);

/* Tells an end that has waited for everything. */
void engine_end_ready(struct engine *en, struct erun *er);

/* engine_feed.c */
int engine_feed_open(struct engine *en, struct err *e);
void engine_feed_grew(struct engine *en, uint64_t len);
/* Lines for the changes that a run's history has from `before` on. */
void engine_feed_status(struct store_txn *t, const struct run *now, size_t before);
/* Brings the feed up to what the run's job has said; er->feeding when that is on its way. */
void engine_feed(struct engine *en, struct erun *er);
void engine_feed_all(struct engine *en);                         /* of live runs, at start */
void engine_fed(struct engine *en, struct pending *p, int code); /* frees p */

/* engine_hook.c */
int engine_hook_start(struct engine *en, struct err *e);
void engine_hook_told(struct engine *en, uint64_t at);
void engine_hook_posted(struct engine *en);
void engine_hook_stop(struct engine *en);

/* engine_secret.c */
void engine_secrets_dir(const struct engine *en, uint32_t num, struct strbuf *out);
/* Name -> value, instead of what was there; none: nothing is left. */
int engine_secrets_write(const struct engine *en, uint32_t num, const json_t *values, struct err *e);
void engine_secrets_forget(const struct engine *en, uint32_t num);
bool engine_has_secrets(const struct run *r);
/* May an attempt of the run still need them? */
bool engine_secrets_wanted(const struct run *r);
void engine_secrets_sweep(const struct engine *en);
/* Has clusters remove what a worker that was killed could not tell them about. */
void engine_secrets_remind(struct engine *en);
/* Are those that the job needs still there? 0, or -EINVAL with a sentence. */
int engine_secrets_check(const struct engine *en, uint32_t num, const struct job *job, struct strbuf *errors);
/* What the effective values hold goes into `values`; -EINVAL for one whose value nobody knows. */
int engine_secrets_take(struct effective *eff, json_t *values, struct strbuf *errors);

/* engine_pipes.c */
/* The context of a run that is about to be: job->pipes_* and its text, not written yet. `from`: the run that is tried
 * again, or NULL. */
int engine_context(struct engine *en, const struct run *as, const struct run *from, struct job *job,
		   struct strbuf *text, struct strbuf *errors);
int engine_context_write(struct engine *en, const struct run *as, const struct job *job, const struct strbuf *text,
			 struct err *e);
/* The flags of a run that was accepted. */
void engine_pipes_flags(struct engine *en, const struct run *r, struct job *job);
/* What the messages say of the end: an exception makes it a failure. */
void engine_pipes_end(struct engine *en, const struct run *r, struct event *ev);

/* engine_files.c */
void engine_remove_tree(const char *path);
/* Gives run `to` the shipped files of run `from` (as links: files of submitted runs do not change). */
int engine_link_files(struct engine *en, uint32_t from, uint32_t to, struct err *e);

/* engine_session.c */
void engine_sessions_load(struct engine *en);
/* A live session of this name, submitted, drafted or about to be, but for `but`. */
struct erun *engine_session_live(struct engine *en, const char *name, const struct erun *but);
/* It has a name from now on; those who had it before lose it when it is in the journal. */
void engine_session_named(struct erun *er, const char *name);
void engine_session_created(struct engine *en, const struct erun *er);
/* Does a run that has not ended belong to it? */
bool engine_session_used(const struct engine *en, const struct run *session);
/* As engine_gate_open, for the session that a run starts in. */
int engine_session_gate(struct engine *en, struct erun *er, struct strbuf *why);
/* Tells the session what it was not told yet: leases, stop. */
void engine_session_tell(struct engine *en, struct erun *er);
void engine_session_untold(struct erun *er, const char *verb);
/* The session that `session=any` means: one that is there, or NULL. `want` is what a new one would be. */
const struct run *engine_session_fitting(struct engine *en, const struct effective *want, double tolerance);

/* engine_submit.c */
void engine_created(struct engine *en, struct pending *p, int code); /* frees p */
void engine_key_add(struct engine *en, const char *key, const char *value);
/* A new run of an ended one's spec: without its key, with its files. */
void engine_submit_again(struct engine *en, const struct engine_submit *s, uint32_t retry_of,
			 const struct own_call *call);

/* engine_purge.c */
void engine_purged(struct engine *en, struct pending *p, int code); /* frees p */

/* engine_rejected.c */
void engine_rejected_add(struct engine *en, int64_t time, uint32_t uid, const char *text, size_t len, const char *why);

/* engine_clean.c */
/* Why the directories of an ended run have to stay on its cluster; NULL: they need not. */
const char *engine_clean_hindered(struct engine *en, const struct erun *er);
/* What the journal gets first; then the cluster is told. */
json_t *engine_clean_facts(const struct engine *en);
void engine_clean_send(struct engine *en, struct erun *er);
/* Has clusters remove what a worker that was killed could not tell them about. */
void engine_clean_remind(struct engine *en);
/* All of the run's results are here. */
void engine_have_all(struct engine *en, uint32_t num);

/* engine_verb.c */
void waiter_add(struct engine *en, struct list *l, engine_done cb, void *arg);
/* Answers those that wait now; what a callback adds stays. */
void waiters_answer(struct engine *en, struct list *l, int code, const char *text);
/* Sends a verb to the cluster; its answer is what reading ctl gives. */
void engine_send_verb(struct engine *en, struct erun *er, const char *verb, const char *arg);
void engine_verb_reply(struct engine *en, struct erun *er, uint64_t ticket, const char *verb, int code,
		       const char *text);
bool engine_decision(const struct run *r, struct strbuf *out);

#endif
