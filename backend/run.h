/*
 * One run, and the only function that changes its state.
 *
 * run_apply is pure: the same run and event give the same result, no clock, no I/O. Replaying a run's events
 * gives the run. An ended status never changes (the table says which may follow which); an event that does not fit
 * is refused with -EPROTO and changes nothing, so that late, repeated and crossing reports are harmless.
 */
#ifndef BACKEND_RUN_H
#define BACKEND_RUN_H

#include "backend/base/hash.h"
#include "backend/base/list.h"
#include "backend/event.h"

#include <stdbool.h>
#include <stdint.h>

enum run_status {
	RUN_DRAFT,
	RUN_QUEUED,
	RUN_SUBMITTING,
	RUN_PENDING,
	RUN_RUNNING,
	RUN_COMPLETING,
	RUN_UNKNOWN,
	RUN_SUCCEEDED,
	RUN_FAILED,
	RUN_CANCELLED,
	RUN_TIMEOUT,
	RUN_OUT_OF_MEMORY,
	RUN_NODE_FAILED,
	RUN_PREEMPTED,
	RUN_REJECTED,
	RUN_N_STATUS
};

struct run_step { /* one line of `history`; the first has from == to: the run appeared */
	int64_t time;
	enum run_status from, to;
	char source[24]; /* "user", "engine", "exit record", "squeue", "sacct", "supervisor" ... */
};

struct run {
	struct hmap_node by_num, by_id; /* the engine's */
	uint32_t num;                   /* > 0; names directories and inodes; never reused */
	char *id;                       /* the number as text, or the name given to mkdir */
	char *cluster;
	char *name;  /* job name, or NULL */
	char **tags; /* NULL-ended, or NULL */
	char *key;   /* idempotency key, or NULL */

	enum run_status status;
	enum run_status before_unknown; /* what `known` goes back to */
	uint32_t attempt;               /* 0 before the first submission */
	char *job_id;                   /* scheduler's, or NULL */
	bool cancel_wanted, hold_wanted;
	bool merged; /* streams = merged */

	int exit_code; /* 0..255, or -1: none */
	int signal;    /* that ended it, or 0 */
	char *why;     /* why it is as it is, or NULL */
	char *reason;  /* the scheduler's word while pending, or NULL */
	char *nodes;
	/* t_changed: the last event that was applied. */
	int64_t t_created, t_changed, t_submitted, t_started, t_ended, t_est_start; /* real us; 0: not yet */
	int64_t out_len, err_len; /* final lengths; -1: not known (yet) */
	bool manifest;            /* the attempt left a list of results */
	json_t *facts;            /* object: everything else known, key -> value; `info` shows it */

	struct run_step *history;
	size_t n_history;

	/* Documents: text while in memory (live runs), NULL when only the store has them; lengths always. */
	char *spec, *effective, *script;
	size_t spec_len, effective_len, script_len;
};

struct run *run_new(uint32_t num);
void run_free(struct run *r);

/*
 * 0, or -EPROTO: the event does not fit the state, or a report (state, submitted, unknown, known) says nothing new,
 * and nothing changed. Wishes and facts may be repeated. Once a run has ended, facts fill what its end left open
 * (code, why, lengths, manifest); members that contradict a field go into `facts` under their own name.
 */
int run_apply(struct run *r, const struct event *ev);

const char *run_status_name(enum run_status s);
int run_status_of(const char *name); /* -1 for no such word */
bool run_ended(enum run_status s);   /* RUN_SUCCEEDED and after */
static inline bool run_is_live(const struct run *r)
{
	return !run_ended(r->status);
}

/* A fact that is text, or NULL; borrowed. */
const char *run_fact(const struct run *r, const char *key);

/* The text of `wait`: "STATUS CODE\n", code "-" when there is none, 128+N for signal N. Ended runs only. */
struct strbuf;
void run_wait_text(const struct run *r, struct strbuf *out);

/* The summary of a run as JSON (all but the documents' texts), and back. run_from_summary: NULL when damaged. */
json_t *run_summary(const struct run *r);
struct run *run_from_summary(uint32_t num, const json_t *summary);

#endif
