/*
 * Private to the clusters of type ray: cluster_ray.c (thread, requests), ray_link.c (the login, the head), ray_submit.c
 * (package, claim), ray_run.c (states, ends), ray_logs.c (streams to spool), ray_files.c (listings and bytes). One
 * thread owns all of this.
 *
 * Requests on their way name a run by its serial, never by pointer, so that a run may go away at any time.
 */
#ifndef BACKEND_RAY_H
#define BACKEND_RAY_H

#include "backend/base/hash.h"
#include "backend/base/strbuf.h"
#include "backend/cluster.h"
#include "backend/http.h"
#include "backend/ray_api.h"
#include "backend/sched.h"
#include "backend/spool.h"
#include "backend/tunnel.h"

enum ray_phase {
	RAYRUN_QUEUED, /* wants to be submitted */
	RAYRUN_LIVE,   /* Ray has it */
	RAYRUN_DRAIN,  /* it has ended, and nothing says how long its streams are: they are read to their ends first */
	RAYRUN_ENDED,  /* reported; streams may be missing */
	RAYRUN_DONE,   /* nothing is wanted any more: dropped in the next round */
};

enum { RAYS_OUT, RAYS_ERR, RAYS_EVENTS, RAYS_N };

struct ray_stream {
	bool busy, done, again;       /* again: the last look was full */
	int64_t next_at, pace, final; /* final: -1: not known */
	int64_t waiting_since;        /* ended, and nothing comes; 0: not waiting */
};

struct ray_run {
	struct hmap_node node;
	uint32_t run, attempt;
	uint64_t serial;
	char *run_id, *token, *sid, *script, *context, *files_dir;
	struct job *job;
	bool known;        /* its submission was reported before */
	bool ended_before; /* only its logs are wanted */
	enum ray_phase phase;
	bool cancel_wanted;
	/* submission */
	bool busy;       /* a question or a submission is on its way */
	bool maybe_sent; /* an earlier try may have arrived */
	bool prepared, package_there;
	char *package; /* its name, or NULL */
	struct strbuf zip;
	char *entrypoint;
	unsigned tries;
	int64_t act_at;
	/* life */
	char *session, *agent;
	bool said_pending, said_running, said_unknown, record_busy;
	bool heard; /* its agent has answered before: later silence is the network's, for a while */
	char *reason;
	int64_t since, status_at, record_at, terminal_at, restart_seen;
	bool status_busy, stop_busy;
	int64_t stop_at;
	unsigned not_there; /* answers 404 in a row */
	enum ray_status last;
	char *message, *error_type; /* of its end, as Ray has it */
	bool has_code;
	int code;
	/* end */
	struct event *end; /* DRAIN: what is told then */
	/* streams */
	struct spool *spool;
	struct events *events;
	struct ray_stream stream[RAYS_N];
	int64_t hot_until;
	bool logs_done, events_done, events_said;
};

struct cluster {
	struct cluster_ctx ctx;
	char *spool_dir, *base; /* base: of the dashboard; NULL: none yet */
	struct http *http;
	pthread_t thread;
	struct inbox inbox;
	struct hmap runs;
	bool stopping;
	int64_t now;
	uint64_t next_serial;
	/* link */
	bool up, said, refused, reopen, version_busy; /* reopen: its place may be another */
	char *session, *version;
	int64_t version_at, failing_since;
	unsigned failures;
	char link_text[512];
	bool asking; /* of what was said last */
	int64_t up_since;
	struct tunnel *tunnel; /* the login on the way there (`host`); NULL: straight */
	bool tunnel_was_up;
	struct list held;       /* requests that wait for the link (cluster_ray.c) */
	int64_t held_at;        /* not tried again before */
	struct ray_local *here; /* start = local; or NULL */
};

/* `way`: ops and pace of the login; the rest is filled in. */
int cluster_ray_start_with(const struct tunnel_conf *way, const struct cluster_ctx *ctx, struct cluster **out,
			   struct err *e);

/* A request of a run; `what` is the asker's. */
typedef void (*ray_cb)(struct cluster *c, struct ray_run *r, int what, const struct http_answer *a);
void ray_send(struct cluster *c, struct ray_run *r, const struct http_request *rq, ray_cb cb, int what);

/* ray_link.c */
void ray_link_step(struct cluster *c);
int64_t ray_link_deadline(const struct cluster *c);
void ray_link_reconnect(struct cluster *c);
/* Requests can be sent: the way is there. Whether the head answers is another question (`up`). */
bool ray_reachable(const struct cluster *c);
/* So long something was missing although the head answered all the time. */
bool ray_waited(const struct cluster *c, int64_t since, int64_t limit);
/* The answer has something to say of the link: refused tokens, silence. True: it was no answer. */
bool ray_link_answer(struct cluster *c, const struct http_answer *a);
/* With the configuration's token, headers and certificates; `conf` has the rest. */
int ray_http_new(const struct cluster_conf *k, struct http_conf *conf, struct http **out, struct err *e);

/* cluster_ray.c */
/* Takes `q`, which is tried again until its deadline; `why`: what was wrong, or NULL. */
void ray_hold(struct cluster *c, struct creq *q, const char *why);
void ray_event(struct cluster *c, const struct ray_run *r, enum event_type type, const char *source, json_t *data);
void ray_reply(struct cluster *c, uint64_t ticket, int code, const char *text, const char *data, size_t len);
/* "AGENT/logs/slurmray/UUID/NAME", or of an attempt. */
char *ray_attempt_url(const struct cluster *c, const char *agent, uint32_t run, uint32_t attempt, const char *name);
char *ray_url(const struct cluster *c, const char *path);
int64_t ray_pace(const struct cluster *c, int64_t us); /* slower with many runs */
/* What is known of an attempt's place, kept over restarts of the worker. */
void ray_note(const struct cluster *c, const struct ray_run *r);
bool ray_noted(const struct cluster *c, uint32_t run, uint32_t attempt, char **session, char **agent);

/* ray_local.c: start = local */
struct ray_local *ray_local_new(const struct cluster_ctx *ctx);
void ray_local_free(struct ray_local *l);
struct ray_local_wish {
	const char *start;          /* of the configuration */
	bool wanted;                /* by a run: boot it when it is not there */
	const struct job_ray *size; /* of that run: processors, GPUs, object store; or NULL */
	int64_t now;
};
/* Where it is; boots it when it is wanted and not there. -EAGAIN: it is not there and not wanted. */
int ray_local_place(struct ray_local *l, const struct ray_local_wish *wish, char **address, char **token,
		    struct err *e);
void ray_local_wanted(struct ray_local *l, int64_t now); /* often: runs are there */
bool ray_local_ready(const struct ray_local *l);         /* all of it is there */
bool ray_local_booting(const struct ray_local *l);       /* it was started a moment ago */

/* ray_submit.c */
int64_t ray_submit_step(struct cluster *c, struct ray_run *r);
/* ray_run.c */
struct ray_run *ray_run_new(struct cluster *c, struct creq *q);
void ray_run_free(struct ray_run *r);
void ray_run_live(struct cluster *c, struct ray_run *r, const char *source);
int64_t ray_run_step(struct cluster *c, struct ray_run *r);
void ray_run_job(struct cluster *c, struct ray_run *r, const struct http_answer *a);
void ray_run_refuse(struct cluster *c, struct ray_run *r, const char *why);
void ray_run_end(struct cluster *c, struct ray_run *r, struct event *ev);
void ray_run_end_now(struct cluster *c, struct ray_run *r, const char *status, const char *why, json_t *more);
/* ray_logs.c */
int64_t ray_logs_step(struct cluster *c, struct ray_run *r);
/* ray_files.c */
/* READ, LIST, MANIFEST: answers `q` and frees it, or holds it. */
void ray_files_ask(struct cluster *c, struct creq *q, const char *agent);

#endif
