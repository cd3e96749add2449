/*
 * What the files of the engine share. Nothing here is for others; see engine.h.
 */
#ifndef BACKEND_ENGINE_PRIVATE_H
#define BACKEND_ENGINE_PRIVATE_H

#include "backend/cluster.h"
#include "backend/engine.h"
#include "backend/store.h"

/* A callback that waits for a run: its decision, or the answer to its last verb. */
struct waiter {
	struct list node;
	engine_done cb;
	void *arg;
};

/* A run with what the engine alone knows of it. */
struct erun {
	struct hmap_node by_num, by_id;
	struct run *r;
	bool visible;		/* its creation is committed */
	bool purging;
	struct list queue;	/* of struct queued: events that wait for the one in flight */
	bool in_flight;
	uint32_t sent_attempt;	/* CREQ_SUBMIT or CREQ_WATCH went out for this attempt */
	bool sent_ended;	/* CREQ_WATCH for the rest of an ended run's logs went out */
	bool cancel_sent, hold_sent;
	bool fresh;		/* this worker saw it queued, so it was never sent before */
	bool logs_posted;	/* the fact that its logs are complete is on its way */
	char *directory, *scratch; /* where the current attempt lives on the cluster */
	char *gate;		/* why a queued run is not submitted yet, or NULL */
	struct list decided;	/* of struct waiter */
	struct list creating;	/* of struct waiter: the same key again, before the creation was committed */
	struct event *held_end;	/* an end that waits for its list of results, or NULL */
	struct list verb_waiters;
	uint64_t verb_ticket;	/* of the verb that is under way; 0: none */
	int verb_code;		/* answer to the last verb */
	char *verb_text;
	uint64_t spooled_out, spooled_err;
};

/* One event on its way: posted when the run's earlier events are committed. */
struct queued {
	struct list node;
	struct event *ev;
	struct store_txn *txn;	/* NULL: made when it is posted */
	engine_done cb;
	void *arg;
};

enum pending_kind { PENDING_CREATE, PENDING_EVENT, PENDING_PURGE, PENDING_DOC, PENDING_DATA, PENDING_VERB, PENDING_REFUSAL };

/* Something that was asked of the store or a cluster, by its ticket. */
struct pending {
	struct hmap_node by_ticket;
	enum pending_kind kind;
	uint32_t run;
	struct event *ev;	/* EVENT, CREATE */
	uint64_t request;
	char *result;		/* goes into `seen` when committed; REFUSAL: why */
	int code;		/* REFUSAL */
	engine_done done;
	engine_data_cb data;
	engine_doc_cb doc;
	void *arg;
};

struct seen {
	struct hmap_node node;	/* by request */
	char *result;		/* text for the callback */
};

struct key_row {
	struct hmap_node node;
	char *key, *value;	/* value: "ID FINGERPRINT" */
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
	struct hmap by_num, by_id;	/* struct erun */
	struct erun **order;		/* ascending numbers, purged ones removed */
	size_t n_order, cap_order;
	uint32_t next_num;
	uint32_t last;			/* newest submitted run */
	uint64_t next_ticket;
	size_t n_creating;
	struct hmap pending, seen, keys;
	struct ecluster *clusters;
	size_t n_clusters;
	struct engine_observer ob;
	struct strbuf rejected;
	char *trouble;
};

/* engine.c */
struct erun *engine_find(const struct engine *en, uint32_t num);
struct erun *engine_find_id(const struct engine *en, const char *id); /* invisible ones too */
void engine_add(struct engine *en, struct erun *er);
void engine_remove(struct engine *en, struct erun *er);
struct erun *erun_new(struct run *r);
void erun_free(struct erun *er);
struct ecluster *engine_cluster(const struct engine *en, const char *name);
struct pending *engine_pending(struct engine *en, enum pending_kind kind, uint32_t run, uint64_t *ticket);
void pending_free(struct pending *p);
void engine_changed(struct engine *en, struct erun *er);
void engine_remember(struct engine *en, uint64_t request, const char *result);
const char *engine_recall(const struct engine *en, uint64_t request);

/* engine_action.c */
/* Queues an event (owned) for a run; `txn` (may be NULL) holds more rows for the same transaction. */
void engine_post(struct engine *en, struct erun *er, struct event *ev, struct store_txn *txn, engine_done cb, void *arg);
void engine_committed(struct engine *en, struct pending *p, int code); /* frees p */
/* A cluster's report (owned): an end waits until the list of the run's results is here. */
void engine_report(struct engine *en, struct erun *er, struct event *ev);
void engine_act(struct engine *en, struct erun *er);
void engine_act_gated(struct engine *en);
void engine_settle(struct engine *en, struct erun *er); /* answers waiters whose time has come */
int engine_job(struct engine *en, struct erun *er, struct job *job, struct strbuf *errors);
int engine_render(struct engine *en, const struct run *r, uint32_t attempt, const struct job *job, struct strbuf *out,
		  struct err *e);
struct creq *engine_creq(struct engine *en, struct erun *er, enum creq_type type, uint64_t ticket);
void engine_job_place(struct engine *en, struct job *job, const char *directory, const char *scratch);
void engine_logs_done(struct engine *en, struct erun *er);
void engine_send(struct engine *en, struct erun *er, struct creq *rq);
/* Sends a verb to the cluster; its answer is what reading ctl gives. */
void engine_send_verb(struct engine *en, struct erun *er, const char *verb, const char *arg);

/* engine_submit.c */
void engine_created(struct engine *en, struct pending *p, int code); /* frees p */
void engine_purged(struct engine *en, struct pending *p, int code);
void engine_key_add(struct engine *en, const char *key, const char *value);
void engine_rejected_add(struct engine *en, int64_t time, uint32_t uid, const char *text, size_t len, const char *why);

/* engine_verb.c */
void engine_verb_reply(struct engine *en, struct erun *er, uint64_t ticket, int code, const char *text);
bool engine_decision(const struct run *r, struct strbuf *out);

#endif
