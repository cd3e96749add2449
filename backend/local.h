/*
 * Private to the local cluster: cluster_local.c (thread, queue, requests), local_job.c (one attempt's directory and
 * process), local_steps.c (runs in sessions), local_logs.c (files to spool), local_files.c (directories and bytes),
 * local_probe.c (what it says of itself) and local_envs.c (packed environments).
 */
#ifndef BACKEND_LOCAL_H
#define BACKEND_LOCAL_H

#include "backend/base/hash.h"
#include "backend/base/list.h"
#include "backend/base/strbuf.h"
#include "backend/cluster.h"
#include "backend/envs.h"
#include "backend/inner_state.h"
#include "backend/runner_state.h"
#include "backend/sched.h"
#include "backend/spool.h"
#include "backend/supervisor.h"

enum local_state {
	LOCAL_PENDING, /* waits for cores and memory */
	LOCAL_RUNNING, /* its supervisor runs */
	LOCAL_ENDED,   /* the end was reported; its logs may not be all in the spool */
};

struct local_job {
	struct hmap_node by_run;
	struct list order; /* in the queue, by arrival; a step: in its session */
	uint32_t run, attempt;
	char *job_id, *token;
	struct job *job;
	char *base;      /* DIRECTORY/UUID that it was given, absolute: not always the cluster's of today */
	char *dir;       /* of the attempt, absolute */
	char *out, *err; /* absolute files of the streams; equal when merged */
	bool merged, held, cancel_wanted;
	bool said_running, said_pending;
	struct local_hold *hold; /* a step that has not ended: its session */
	uint64_t step_seen;      /* the look at its session's steps that listed it */
	bool known;              /* its submission was reported before */
	struct lenv *env;        /* what it waits for (an archive, a library), or NULL */
	size_t env_next;         /* which of its needs comes next */
	enum local_state state;
	pid_t pid;
	int pid_fd;      /* readable when the supervisor is gone; -1: none */
	int64_t look_at; /* monotonic us: next look at the logs */
	int64_t pace;
	int64_t hot_until;
	struct strbuf to_tell; /* lines for a supervisor that does not listen yet */
	struct spool *spool;
	struct events *events;    /* while messages are followed */
	bool events_done;         /* all that can be had is in the spool, or there are none */
	int64_t events_len;       /* as out_len */
	int64_t out_len, err_len; /* final lengths, -1 while not known */
	int logs_tries;           /* looks at logs that cannot be opened */
	struct inner_seen inner[INNER_KINDS];
	struct runner_seen runner; /* of a session */
	int64_t inner_at;          /* monotonic us: next look at its Ray or Spark cluster, or at what its runner says */
	bool begun;                /* the files of the streams are this job's */
	bool logs_done;            /* it has ended, and all that can be had is in the spool */
};

struct cluster {
	struct cluster_ctx ctx;
	struct inbox inbox;
	pthread_t thread;
	char *base; /* DIRECTORY/UUID, absolute */
	char *spool_dir;
	struct hmap jobs;
	struct list queue;               /* pending ones */
	struct list envs;                /* struct lenv */
	struct envs_worker *envs_worker; /* NULL before the first archive */
	uint64_t env_serial;
	struct list env_asks; /* struct env_ask: who waits for what the thread does */
	struct list holds;    /* struct local_hold: sessions with steps */
	int inotify;          /* -1: not yet; -2: none to be had */
	int cores, used_cores;
	int64_t mem, used_mem; /* bytes */
	bool stopping;
};

/* cluster_local.c */
void local_event(struct cluster *c, const struct local_job *j, enum event_type type, json_t *data);
/* What local_env_want promised: the job's environment is there, or (why) cannot be had. */
void local_env_settled(struct cluster *c, struct local_job *j, const char *why);
void local_reply(struct cluster *c, const struct creq *r, int code, const char *text, const char *data, size_t len);
struct local_job *local_find(const struct cluster *c, uint32_t run);
/* How many cores it asked for. */
int local_cores(const struct local_job *j);
/* Its session says that the step runs, or that it has no room for it now. */
void local_step_runs(struct cluster *c, struct local_job *j);
void local_step_waits(struct cluster *c, struct local_job *j);
/* Reports what local_step_end says, and true; the step may be gone then. */
bool local_step_settle(struct cluster *c, struct local_job *j, bool over);

/* local_job.c */
/* "~/..." with HOME; the caller frees. */
char *local_expand(const char *path);
/* DIRECTORY/UUID of a request; the caller frees. */
char *local_base(const struct cluster *c, const struct creq *r);
/* SCRATCH/UUID/runs/NUM/aN, or NULL where scratch is in the directory itself; the caller frees. */
char *local_scratch(const struct cluster *c, const struct job *job, uint32_t run, uint32_t attempt);
struct local_job *local_job_new(struct cluster *c, struct creq *r);
void local_job_free(struct local_job *j);
/* Makes the directory with script, parameters and inputs; idempotent: a job that may run already keeps what it has. */
int local_job_prepare(struct cluster *c, struct local_job *j, const struct creq *r, struct err *e);
int local_job_start(struct cluster *c, struct local_job *j, struct err *e);
/* Opens a pidfd of the supervisor that is there. */
void local_job_adopt(struct local_job *j, pid_t pid);
/* Are the files of the streams this job's yet? Others may have written to them before. */
bool local_job_begun(struct local_job *j);
/* Puts down that the user called it off, for whoever judges its end. */
void local_job_call_off(struct local_job *j);
/* The record in the attempt's directory, or else the one in `ends`. */
bool local_job_record(const struct local_job *j, struct exit_record *rec);
bool local_job_called_off(const struct local_job *j);
/* An end that no record tells of, with the streams as they are. */
struct event *local_job_no_record(struct local_job *j, const char *status, const char *why);
/* The end as the exit record, or the absence of one, has it. Never NULL. */
struct event *local_job_end(struct cluster *c, struct local_job *j);

/* local_envs.c */
/* Calls local_env_settled once, now or later. The job's directory is there. */
void local_env_want(struct cluster *c, struct local_job *j);
void local_env_task_done(struct cluster *c, const struct envs_task *t);
void local_envs_release(struct cluster *c);
/* A probe about environments is answered later; false: it is another. */
bool local_envs_ask(struct cluster *c, const struct creq *r);

/* local_steps.c */
bool local_is_step(const struct local_job *j);
/* Sets j->hold, before anything else is done with a step; forgetting it or its end takes it off the list again. */
void local_step_enter(struct cluster *c, struct local_job *j);
void local_steps_release(struct cluster *c);
/* Puts the step, whose directory is there, into the queue of its session. */
int local_step_queue(const struct local_job *j, struct err *e);
int local_step_cancel(struct cluster *c, struct local_job *j);
int local_step_signal(const struct local_job *j, int sig);
/* Makes the step unable to start; false when it has started. */
bool local_step_void(const struct local_job *j);
/* Has it started? `since`, when not NULL: when, real microseconds. */
bool local_step_is_running(const struct local_job *j, int64_t *since);
/* Its end, or that it is lost; NULL: neither. `over`: its session's job is gone. */
struct event *local_step_end(struct cluster *c, struct local_job *j, bool over);
/* Appends a line to the orders of the session's job in `dir`. */
int local_order(const char *dir, const char *words);
/* Looks at sessions when it is time, or something has changed; when it will be next (INT64_MAX: there are none). */
int64_t local_steps_follow(struct cluster *c, int64_t now);
/* c->inotify is readable. */
void local_steps_changed(struct cluster *c);
/* All of them are looked at then. */
void local_steps_look(struct cluster *c, int64_t at);

/* local_logs.c */
void local_logs(struct cluster *c, struct local_job *j);

/* local_inner.c: looks at what a running job's Ray or Spark cluster and a session's runner say, when it is time; when
 * it will be next. */
int64_t local_inner(struct cluster *c, struct local_job *j);

/* local_probe.c */
void local_probe(struct cluster *c, const struct creq *r);

/* local_files.c: answer requests for bytes and listings. */
void local_read(struct cluster *c, const struct creq *r);
void local_list(struct cluster *c, const struct creq *r);
void local_manifest(struct cluster *c, const struct creq *r);
void local_remove(struct cluster *c, const struct creq *r);
void local_remove_tree(const char *path);
int local_copy_tree(const char *from, const char *to, struct err *e);

/* Tests start another program as supervisor. */
extern const char *local_supervisor_program;

#endif
