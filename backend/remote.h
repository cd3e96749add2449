/*
 * Private to the cluster thread for schedulers that are reached over a transport (remote*.c, cluster_slurm.c). One
 *thread owns all of this; other threads only post to the inbox.
 *
 *	remote.c	thread, inbox, main loop, table of runs, reports
 *	remote_link.c	the connection: transport, remote shell, sftp, back-off, refusals
 *	remote_io.c	reading remote files: by sftp, or by the shell where there is no sftp
 *	remote_submit.c	submissions: queue, upload of files, answers, taking back
 *	remote_steps.c	many submissions of a session's steps in one request
 *	remote_envs.c	packed environments: sent and unpacked before the runs that wait for them
 *	remote_jobs.c	poll, verify, exit records, ends
 *	remote_verbs.c	requests with a ticket: verbs, probes; deadlines
 *	remote_usage.c	what ended jobs used
 *	remote_chores.c	moving exit records away, removing directories
 *	remote_logs.c	the followers of stdout, stderr and messages
 *	remote_files.c	list, read, manifest
 *	remote_watch.c	directories of runs that somebody looks at
 *	remote_inner.c	how the Ray and Spark clusters of runs are
 *	remote_forward.c	ports of the cluster's side, by way of the connection
 *
 * Operations that are on their way name a run by number and attempt (or a request by serial), never by pointer, so that
 *a run may go away at any time. A connection that is lost answers everything that was open on it with "lost"; whoever
 *asked puts its work back and is started again by its pump (`*_step`) when the link is up.
 */
#ifndef BACKEND_REMOTE_H
#define BACKEND_REMOTE_H

#include "backend/agent.h"
#include "backend/base/hash.h"
#include "backend/base/list.h"
#include "backend/base/strbuf.h"
#include "backend/cluster.h"
#include "backend/envs.h"
#include "backend/inner_state.h"
#include "backend/runner_state.h"
#include "backend/sched.h"
#include "backend/sftp.h"
#include "backend/spool.h"
#include "backend/tar.h"
#include "backend/transport.h"

#include <poll.h>

/* All intervals in microseconds, so that tests can hurry. */
struct remote_pace {
	int64_t backoff_min, backoff_max; /* full jitter between 0 and the current one, which doubles */
	int64_t connect_limit, hello_limit;
	int64_t unknown_after; /* without an answer: runs are `unknown` */
	int64_t record_wait;   /* the scheduler says it ended: how long an exit record may take */
	int64_t verdict_wait;  /* the record says it ended badly: how long the scheduler's verdict may take */
	int64_t doubt_limit;   /* it was told to end, and the scheduler says that it still runs: the same */
	int64_t verify_again;
	int64_t poll_soon, poll_min, poll_max;
	int64_t log_hot, log_min, log_max, log_give_up;
	int64_t watch_for;               /* a run is watched after a look at it; 0: never */
	int64_t watch_min, watch_max;    /* between two listings of a run's directories */
	int64_t watch_settle;            /* remote times that count seconds are sure after this */
	int64_t retry[4];                /* of a submission whose fate is not known; the last one repeats */
	int64_t usage[4];                /* after the end, and again: when accounting is asked what the job used */
	int64_t inner_soon, inner_quiet; /* between two looks at Ray and Spark clusters: while one starts, and else */
	int64_t answer_grace;            /* beyond a request's own deadline: the connection is dead */
};
extern const struct remote_pace remote_pace_default;

/* --- the connection --- */

enum link_state { LINK_DOWN, LINK_CONNECTING, LINK_HELLO, LINK_UP, LINK_REFUSED };
enum sftp_state { SFTP_OFF, SFTP_OPENING, SFTP_ON, SFTP_DENIED };

struct remote_link {
	enum link_state state;
	struct transport *t;
	struct channel *shell, *files;
	struct agent *agent;
	struct sftp *sftp;
	enum sftp_state sftp_state;
	int64_t sftp_retry_at; /* SFTP_OFF while up: open again */
	unsigned sftp_deaths;
	struct list calls; /* open requests of the remote shell */
	size_t host;       /* index into conf->hosts */
	unsigned failures;
	int64_t retry_at; /* LINK_DOWN */
	int64_t limit_at; /* LINK_CONNECTING, LINK_HELLO */
	int64_t up_at, down_since;
	int64_t tick_at; /* agent_tick */
	int tick_ms;
	bool plain_sh;    /* the remote loop has no clock of its own */
	unsigned gen;     /* counts connections and sftp channels: older file handles are dead */
	int64_t heard_at; /* when bytes came last */
	bool pinging;
	bool said, said_up, said_asking; /* what CREP_LINK said last, so that it is not repeated */
	char text[512];
	struct err fault;    /* set inside callbacks: give the connection up */
	struct strbuf noise; /* what the login shell wrote to stderr, its end */
};

/* `f` is NULL when the connection was lost before the answer. */
typedef void (*link_cb)(struct cluster *c, void *arg, const struct agent_frame *f);

void rlink_init(struct cluster *c);
void rlink_release(struct cluster *c); /* closes; every open request is answered with NULL */
void rlink_step(struct cluster *c);    /* connects, reads, calls back */
bool rlink_flush(struct cluster *c);   /* writes; true: there is more to do at once */
int64_t rlink_deadline(const struct cluster *c);
int rlink_poll_fd(struct cluster *c, short *events); /* -1: none */
void rlink_reconnect(struct cluster *c);
bool rlink_up(const struct cluster *c);
/* Files can be read: sftp is there, or it is known that it is not. */
bool rlink_files_ready(const struct cluster *c);
/* Only while rlink_up. The code is run in a subshell, so it may exit. */
void rlink_request(struct cluster *c, enum agent_class cls, const char *code, const void *payload, size_t len,
		   int deadline_s, link_cb cb, void *arg);

/* --- remote files --- */

struct rfile;
typedef void (*rfile_open_cb)(struct cluster *c, void *arg, int code, const char *text, struct rfile *f);
/* Bytes from the offset on, as many as there are up to what was asked. */
typedef void (*rfile_read_cb)(struct cluster *c, void *arg, int code, const char *text, const char *data, size_t len);

/* Paths as remote_path gives them. Only while rlink_files_ready; callbacks come later, -ECONNRESET when the connection
 * is lost. */
void rfile_open(struct cluster *c, const char *path, rfile_open_cb cb, void *arg);
/* `full`: asks again after short answers until the end of the file is certain. */
void rfile_read(struct rfile *f, uint64_t off, size_t len, bool full, rfile_read_cb cb, void *arg);
/* At any time; reads that are on their way are still answered. */
void rfile_close(struct rfile *f);
bool rfile_dead(const struct rfile *f);    /* its connection is gone */
int64_t rfile_size(const struct rfile *f); /* when it was opened; -1: not known */

/* --- runs --- */

enum rrun_phase {
	RR_QUEUED,    /* to be submitted; `retry_at` */
	RR_PREPARING, /* its files are on their way */
	RR_SENT,      /* the submission is on its way */
	RR_VOIDING,   /* being taken back */
	RR_SUBMITTED, /* job_id is known; watched */
	RR_ENDED,     /* reported; logs may be missing */
	RR_VOIDED,    /* called off after it may have been sent: jobs that turn up under its token are cancelled for a
			 while */
	RR_GONE,      /* lost, rejected or called off: nothing is wanted any more */
};

enum cancel_state { CANCEL_NO, CANCEL_WANTED, CANCEL_SENT, CANCEL_GRACE, CANCEL_DONE };

enum { RSTREAM_OUT, RSTREAM_ERR, RSTREAM_EVENTS, RSTREAMS };

struct rstream {
	struct rfile *f;
	bool busy; /* an open or a read is on its way */
	bool done;
	bool short_said;
	int64_t next_at, interval;
	size_t window;  /* bytes asked for in one look */
	bool full;      /* the last look brought all of them: there may be more */
	int64_t final;  /* promised length, -1: not known */
	int64_t cut_to; /* messages: the file is shorter than what is here, and what is in it is to be compared; 0: no
			 */
	bool cut_seen;  /* it was compared, and is the beginning of what is here */
	int64_t waiting_since; /* ended and nothing came since; 0: not waiting */
	unsigned empties;
	char *held; /* read, and not to be seen yet (remote_watch.c); `busy` meanwhile */
	size_t held_len;
};

struct rrun {
	struct hmap_node node; /* cluster.runs, by number */
	struct list queue;     /* cluster.submit_queue while RR_QUEUED */
	uint32_t num, attempt;
	uint64_t serial; /* of this struct */
	char *run_id, *job_id, *token, *script, *files_dir, *context, *secrets_dir;
	size_t script_len;
	struct job *job;
	enum rrun_phase phase;
	char *as_uuid, *as_token; /* a session that another state directory has begun: its names there; else NULL */
	uint32_t as_num, as_attempt;
	bool maybe_sent; /* an earlier try may have reached the cluster */
	bool asking;     /* on its way is the question whether it did */
	bool asked;      /* the answer was no; nothing was sent since */
	char *broken;    /* what it is refused for when it is taken back; owned */
	bool end_seen;
	bool merged;
	unsigned tries;
	int64_t retry_at;
	enum cancel_state cancel;
	int64_t cancel_at; /* CANCEL_GRACE: when it is told once more, whoever waits for it; 0: it was not told yet */
	struct upload *upload;
	struct rneeds *needs; /* archives and files that it shares, once they were looked for */
	bool env_waits;       /* until one of them is ready or has failed */
	/* what was reported last */
	char *status, *reason, *nodes;
	int64_t start, node_count, cpus;
	bool unknown_said;
	/* the end */
	bool has_record, verifying, sweeping;
	int64_t sweep_until; /* RR_VOIDED */
	struct exit_record record;
	int64_t record_at;
	uint64_t record_poll;    /* later polls know what the record knows */
	char *verdict;           /* the scheduler's final word */
	int64_t decide_at;       /* the record is there: when it decides alone; 0: not waiting */
	int64_t verify_at;       /* 0: not wanted */
	uint64_t submitted_poll; /* polls up to this one cannot list the job yet */
	struct seen_row {        /* what the poll that is being read says */
		uint64_t poll;
		int rank;
		char *status, *reason, *nodes;
		int64_t start, node_count, cpus, end;
	} seen;
	/* logs */
	struct spool *spool;
	struct events *events;
	struct rstream stream[RSTREAMS];
	int64_t hot_until;
	bool follow;
	struct rwatch *watch; /* NULL: nobody looks */
	struct inner_seen inner[INNER_KINDS];
	struct runner_seen runner; /* of a session */
	int64_t end;               /* epoch seconds, as it was told */
};

struct poll_state {
	bool busy;
	bool wanted;     /* somebody waits for it */
	uint64_t serial; /* of the one on its way, or of the last one */
	int64_t sent_at, due_at, changed_at;
	int64_t failing_since; /* 0: the last one was answered */
	char trouble[512];
};

struct cluster {
	struct cluster_ctx ctx;
	char *uuid, *spool_dir;
	const struct transport_ops *top;
	const char *(*describe)(const struct transport *); /* may be NULL */
	const struct sched_ops *sched;
	struct remote_pace pace;
	pthread_t thread;
	struct inbox inbox;
	bool stopping;
	int64_t now; /* monotonic, of this round */
	uint64_t random;

	struct remote_link link;
	struct hmap runs;
	struct list submit_queue;
	unsigned submitting; /* in flight */
	unsigned steps_busy; /* of these, in the request of remote_steps.c; 0: none is on its way */
	size_t live_steps;   /* of `live` */
	size_t live;         /* runs in RR_SUBMITTED, counted in the last walk */
	int64_t walk_at;     /* when a run wants its step next; 0: now */
	struct poll_state poll;
	struct list requests; /* struct rreq */
	uint64_t next_serial;
	size_t shared;                   /* runs with as_uuid */
	struct list envs;                /* struct renv */
	struct envs_worker *envs_worker; /* NULL before the first archive */
	struct list usage;               /* jobs that accounting is to be asked for */
	bool usage_busy, usage_none;     /* none: no accounting here */
	uint64_t usage_serial;
	int64_t usage_at, usage_asked_at;
	struct list chores; /* struct chore: clean-up that waits for its turn */
	bool chore_busy;
	/* remote_watch.c */
	unsigned watching; /* runs */
	bool watch_due;    /* some want to be listed */
	bool watch_busy;   /* a listing is on its way */
	int64_t watch_next_at, watch_trouble_until;
	int64_t inner_at; /* next look at Ray and Spark clusters; INT64_MAX: there are none */
	bool inner_busy;
	struct forwards *forwards; /* NULL: none was wanted yet */
};

int cluster_slurm_start_with(const struct transport_ops *top, const struct sched_ops *sched,
			     const struct cluster_ctx *ctx, struct cluster **out, struct err *e);
/* The same with another pace and words for `clusters/NAME/status` (both may be NULL). */
int remote_start(const struct transport_ops *top, const struct sched_ops *sched, const struct cluster_ctx *ctx,
		 const struct remote_pace *pace, const char *(*describe)(const struct transport *),
		 struct cluster **out, struct err *e);
void remote_post(struct cluster *c, struct creq *r);
void remote_stop(struct cluster *c, int deadline_ms);

struct rrun *rrun_find(struct cluster *c, uint32_t num, uint32_t attempt); /* attempt 0: any; NULL */
void rrun_drop(struct cluster *c, struct rrun *r);
void rrun_phase(struct cluster *c, struct rrun *r, enum rrun_phase phase); /* keeps count of submissions on their way */
/* Steals `data` (NULL: {}), adds attempt and source. */
void rrun_event(struct cluster *c, const struct rrun *r, enum event_type type, const char *source, json_t *data);
void rrun_event_post(struct cluster *c, const struct rrun *r, struct event *ev, const char *source);
void rrun_sched(const struct cluster *c, const struct rrun *r, struct sched_run *out);
/* The run is this session of another state directory, UUID/NUM/aATTEMPT. */
void rrun_shared(struct cluster *c, struct rrun *r, const char *as);
/* Ended and everything is here, or nothing is wanted: drops it. */
void rrun_maybe_drop(struct cluster *c, struct rrun *r);

/* DIRECTORY/UUID[/runs/NUM/aN][/NAME...]: unquoted; quote_sh_path makes shell text of it. attempt 0: up to NUM; num 0:
 * up to UUID. */
void remote_dir(const struct cluster *c, uint32_t num, uint32_t attempt, const char *name, struct strbuf *out);
/* The same as sftp wants it: relative to the home directory where it begins with "~/". */
void remote_path(const struct cluster *c, uint32_t num, uint32_t attempt, const char *name, struct strbuf *out);

void rlink_report(struct cluster *c, bool up, bool asking, const char *text);

/* remote_submit.c */
void rsubmit_enqueue(struct cluster *c, struct rrun *r);
void rsubmit_cancel(struct cluster *c, struct rrun *r); /* it is wanted no more and has no job id yet */
void rsubmit_step(struct cluster *c);
int64_t rsubmit_deadline(const struct cluster *c);
bool rsubmit_has_files(const struct rrun *r); /* its submission has more than its script */
#define SUBMIT_LIMIT_S 150                    /* for the scheduler's answer, or a slow file system's */
void rupload_free(struct upload *u);
/* remote_inputs.c: the archive of a run's inputs. -ENOENT: there are none; else what is wrong with one, by name. */
int rinputs_open(const struct rrun *r, struct tar **out, struct err *e);
/* The driver's answer to a submission of this run. */
void rsubmit_answered(struct cluster *c, struct rrun *r, int rc, const char *out, const char *err);

/* remote_steps.c */
struct steps;
bool rsteps_is_one(const struct cluster *c, const struct rrun *r); /* may be sent with others */
/* Into the request that is being made (*all NULL: a new one); false: not now. */
bool rsteps_add(struct cluster *c, struct steps **all, struct rrun *r);
void rsteps_send(struct cluster *c, struct steps *s);

/* remote_envs.c */
void renvs_step(struct cluster *c);
int64_t renvs_deadline(const struct cluster *c);
void renvs_release(struct cluster *c);
void renvs_task_done(struct cluster *c, struct envs_task *t);
/* 0: nothing has to be waited for; 1: it has, and env_waits says so until then; negative: it cannot be had. */
int renvs_wait(struct cluster *c, struct rrun *r, struct err *e);
void renvs_run_release(struct rrun *r);
bool renvs_any(struct rrun *r);                         /* it shares something */
bool renvs_has(const struct rrun *r, const char *path); /* it shares this file, which is copied there */
bool renvs_copies(const struct rrun *r);                /* it shares any such file */
/* In front of a submission: links the attempt to its environment, and marks all as used. */
void renvs_link(const struct cluster *c, const struct rrun *r, struct strbuf *code);
/* Where $w is the working directory: copies of its files. */
void renvs_copy(const struct cluster *c, const struct rrun *r, struct strbuf *code);
/* Is this the answer that the environment was removed meanwhile? Then it is made again: queue the run once more. */
bool renvs_gone(struct cluster *c, struct rrun *r, int rc);

/* remote_jobs.c */
void rjobs_step(struct cluster *c);
int64_t rjobs_deadline(const struct cluster *c);
/* What this run's timers ask for; gives the time of the next one. The same for its logs below. */
int64_t rjobs_run_step(struct cluster *c, struct rrun *r);
void rjobs_poll_soon(struct cluster *c); /* something changed */
void rjobs_poll_now(struct cluster *c);  /* somebody waits for it */
void rjobs_row_release(struct rrun *r);
void rjobs_end_frame(struct cluster *c, const struct agent_frame *f);
void rjobs_submitted(struct cluster *c, struct rrun *r, const char *job_id, const char *source);
void rjobs_end(struct cluster *c, struct rrun *r, struct event *ev, const char *source);
void rjobs_end_cancelled(struct cluster *c, struct rrun *r, const char *why);
void rjobs_link_up(struct cluster *c);

/* remote_usage.c */
void rusage_want(struct cluster *c, const struct rrun *r); /* it has run, and ended */
void rusage_step(struct cluster *c);
int64_t rusage_deadline(const struct cluster *c);
void rusage_link_up(struct cluster *c);
void rusage_release(struct cluster *c);

/* remote_chores.c: clean-up, many at a time */
void rchores_step(struct cluster *c);
void rchores_release(struct cluster *c);
void rchores_end_seen(struct cluster *c, uint32_t num, uint32_t attempt);
void rchores_forget(struct cluster *c, uint32_t num, uint64_t ticket); /* ticket: who hears that it is done, or 0 */
/* The exit record of an earlier start of a job that was requeued. */
void rchores_stale(struct cluster *c, uint32_t num, uint32_t attempt, int64_t restart);

/* remote_verbs.c: requests with an answer */
struct rreq {
	struct list node;
	uint64_t serial;
	struct creq *q;
	int64_t deadline;
	bool started;
};
void rreq_add(struct cluster *c, struct creq *q);
struct rreq *rreq_find(struct cluster *c, uint64_t serial);
void rreq_done(struct cluster *c, uint64_t serial, int code, const char *text, const char *data, size_t len);
void rreq_again(struct cluster *c, uint64_t serial); /* the connection was lost under it */
void rreq_step(struct cluster *c);
int64_t rreq_deadline(const struct cluster *c);
void rreq_release(struct cluster *c); /* answers what is open with -ENODEV */
/* Everybody who waits for this run's cancellation, or (run 0) for a fresh poll. */
void rreq_done_cancel(struct cluster *c, uint32_t num, int code, const char *text);
void rreq_done_refresh(struct cluster *c, int code, const char *text);
/* Sends a cancellation that is wanted, when it can; when it wants to be called again. */
int64_t rverbs_cancel_run(struct cluster *c, struct rrun *r);

/* remote_logs.c */
void rlogs_start(struct cluster *c, struct rrun *r);
/* Lengths of the streams at the end, -1 where nobody knows. */
void rlogs_final(struct cluster *c, struct rrun *r, const int64_t len[RSTREAMS]);
void rlogs_hot(struct cluster *c, struct rrun *r);
bool rlogs_done(const struct rrun *r);
int64_t rlogs_run_step(struct cluster *c, struct rrun *r);
void rlogs_release(struct rrun *r);
void rlogs_show(struct cluster *c, struct rrun *r); /* what was held back */

/* remote_watch.c */
void rwatch_look(struct cluster *c, struct rrun *r, unsigned look);
/* Its log has new bytes. True: they are to be held back until rlogs_show. */
bool rwatch_news(struct cluster *c, struct rrun *r);
int64_t rwatch_run_step(struct cluster *c, struct rrun *r);
void rwatch_step(struct cluster *c);
int64_t rwatch_deadline(const struct cluster *c);
void rwatch_release(struct cluster *c, struct rrun *r);

/* remote_inner.c */
void rinner_step(struct cluster *c);
void rinner_run_step(struct cluster *c, const struct rrun *r);
int64_t rinner_deadline(const struct cluster *c);

/* remote_forward.c */
void rforward_request(struct cluster *c, const struct creq *q);
void rforward_link(struct cluster *c, struct transport *t); /* up; NULL: about to be closed */
bool rforward_step(struct cluster *c);                      /* true: there is more to do at once */
int64_t rforward_deadline(const struct cluster *c);
int rforward_fd(const struct cluster *c); /* -1: none */
void rforward_drop(struct cluster *c, uint32_t num);
void rforward_release(struct cluster *c);

/* remote_files.c */
void rfiles_read(struct cluster *c, struct rreq *q);
void rfiles_list(struct cluster *c, struct rreq *q);
void rfiles_manifest(struct cluster *c, struct rreq *q);
bool rfiles_path_ok(const char *path);
/* Keeps the whole records of `in` that a user may see, in the form of CREQ_LIST; `cap` entries at most. `prefix`:
   directory of the area that the paths are relative to. */
void rfiles_filter(const char *in, size_t len, size_t cap, const char *prefix, struct strbuf *out);

/* A timer of some run changed: look at all of them in this round. */
static inline void rruns_touch(struct cluster *c)
{
	c->walk_at = 0;
}

static inline int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

#endif
