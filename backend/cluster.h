/*
 * A cluster as the engine sees it: a thread that is sent requests and sends back reports. Nothing is shared but
 * the two inboxes; a request or report belongs to its receiver.
 *
 * What a cluster promises:
 *  - CREQ_SUBMIT starts the attempt's job at most once, whatever is sent again after a restart (facts: the claim
 *    procedure, docs/design). It answers with events `submitted`, `rejected` or `lost`, or with none while it does not
 * know: then it tries again by itself.
 *  - From CREQ_SUBMIT or CREQ_WATCH on it reports every change as events, and the end exactly as events too; the
 *    same report may come twice (run_apply drops it). An `end` needs a witness; not being able to ask is CREP_LINK.
 *  - It appends both streams and (job->pipes_messages) the job's message file to the spool and reports lengths
 * (CREP_LOG). After `end` it goes on until the lengths of the end are there or cannot be had (then facts
 * `log_incomplete` come first), and says so once (`last`); it may come before the end is told. A WATCH of an ended run
 * is answered in this way always.
 *  - The same for messages: `events_last` once nothing more of them will come; the end is held back until then. An end
 * with `events_len` 0 has none, and none are waited for.
 *  - Every request with a ticket is answered by exactly one CREP_REPLY, at the latest when the cluster is closed, and
 *    at its deadline with -EHOSTUNREACH.
 */
#ifndef BACKEND_CLUSTER_H
#define BACKEND_CLUSTER_H

#include "backend/base/clock.h"
#include "backend/base/err.h"
#include "backend/base/inbox.h"
#include "backend/config.h"
#include "backend/event.h"
#include "backend/job.h"

#include <stdbool.h>
#include <stdint.h>

struct cluster; /* running */

enum creq_type {
	CREQ_SUBMIT = 200, /* run attempt job script files_dir */
	CREQ_WATCH,     /* the same members, and job_id: already submitted (or perhaps: job_id NULL) before a restart */
	CREQ_FORGET,    /* run ticket: purged; nothing more is wanted of it; remote files of it may be removed, and the
			   reply (which has no deadline) says that they are; all of it may be asked for again */
	CREQ_END_SEEN,  /* run attempt: its end is in the journal; the exit record need not be reported again */
	CREQ_VERB,      /* run attempt job_id verb arg ticket: "cancel", "signal" NAME, "hold", "release", "requeue",
			   "update" KEY=VALUE, "refresh" */
	CREQ_HOT,       /* run: somebody reads its logs now: look more often for a while */
	CREQ_LIST,      /* run attempt area path ticket: list a directory -> text, see below */
	CREQ_READ,      /* run attempt area path offset length ticket: bytes of a file -> data */
	CREQ_MANIFEST,  /* run attempt ticket: the attempt's list of results -> text, see below */
	CREQ_PROBE,     /* ticket: what the cluster is: sinfo, squeue ... -> JSON text; `arg` names the document:
			   "info" "partitions" "nodes" "queue" "shares"; and "envs..." -> text (backend/envs.h) */
	CREQ_RECONNECT, /* forget the back-off, try now */
	CREQ_LOOK,      /* run attempt look: somebody looks at the run: its directories may be told unasked for a while
			   (CREP_LISTING) */
	CREQ_FORWARD,   /* run verb arg offset ticket: "forward" arg "HOST:PORT", on local port `offset` if that can be
			   (0: any) -> text "127.0.0.1:PORT", or where the cluster is here "HOST:PORT"; or "unforward" of
			   the same. It ends with the run. What hinders it comes as the fact `forward_trouble`. */
};

enum cluster_look {                           /* bits */
		    CLUSTER_LOOK_RUN = 1,     /* its directory or its log */
		    CLUSTER_LOOK_RESULTS = 2, /* into results/ */
		    CLUSTER_LOOK_WORK = 4,    /* into work/ */
};

/* RAY: the directory of the run's Ray cluster; RAY_LOGS: its logs, a directory a node. The same of Spark. */
enum cluster_area { AREA_RESULTS, AREA_WORK, AREA_RAY, AREA_RAY_LOGS, AREA_SPARK, AREA_SPARK_LOGS };
const char *cluster_area_path(enum cluster_area area); /* in the attempt's directory */

struct creq {
	struct msg m; /* m.type: enum creq_type; release with msg_release */
	uint32_t run, attempt;
	uint64_t ticket;  /* 0: no reply wanted */
	int64_t deadline; /* monotonic us; 0: the cluster's default (30 s) */
	char *run_id;     /* as users see it */
	char *job_id, *token;
	struct job *job; /* SUBMIT, WATCH */
	char *script;    /* SUBMIT, WATCH: what the scheduler is given */
	size_t script_len;
	char *context;     /* SUBMIT, WATCH: local file that becomes the attempt's `context`, or NULL */
	char *secrets_dir; /* SUBMIT, WATCH: local directory of the job's secrets that are not in files; or NULL */
	char *files_dir;   /* SUBMIT, WATCH: local directory whose contents go to the working directory, or NULL */
	int64_t out_len, err_len; /* WATCH of an ended run whose logs are not complete: final lengths; else -1 */
	bool ended;               /* WATCH: only logs are still wanted */
	bool cancel_wanted; /* SUBMIT, WATCH: the user has asked for it (the verb follows), so an end may be due to it
			     */
	char *verb, *arg;
	enum cluster_area area;
	char *path; /* relative, no "..", "" is the area itself */
	uint64_t offset, length;
	unsigned look; /* LOOK */
};

struct creq *creq_new(enum creq_type type, uint32_t run, uint32_t attempt, uint64_t ticket);

enum crep_type {
	CREP_EVENT = 300, /* run ev */
	CREP_LOG,         /* run out_len err_len last: bytes in the spool now */
	CREP_LINK,        /* up, text: connected or not, and why; asking = false while a refusal waits for the user */
	CREP_REPLY,       /* ticket code text data len */
	CREP_LISTING, /* run attempt area whole began data len: a live run's area and all below, as CREQ_MANIFEST has
			 it; it comes before the CREP_LOG whose bytes may speak of it. data NULL: the same as the last
			 one */
	CREP_SENT,    /* run attempt bytes all: of its files and inputs that far are on the cluster */
};

/*
 * Answers of READ, LIST, MANIFEST and PROBE are in data and len (text is the sentence of a failure). READ gives at most
 *4 MiB at a time; fewer bytes than min(length, 4 MiB) mean the end of the file.
 *
 * Text of CREQ_LIST and CREQ_MANIFEST: one record per entry, fields separated by NUL, each record ended by NUL:
 *	TYPE NUL SIZE NUL MTIME NUL MODE NUL PATH NUL TARGET NUL
 * TYPE f, d or l; MTIME seconds since the epoch with optional fraction; MODE octal permissions; PATH relative to
 * the area (LIST: the bare name); TARGET empty but for l. FIFOs, sockets and devices do not appear.
 */
struct crep {
	struct msg m; /* m.type: enum crep_type */
	struct cluster *from;
	uint32_t run, attempt;
	uint64_t ticket;
	struct event *ev;
	int64_t out_len, err_len;
	bool last; /* LOG: the job has ended, nothing more will come, and all of it is on the disk (spool_sync) */
	bool events_last; /* LOG: all messages are here and on the disk, or cannot be had */
	bool up, asking;
	int code;   /* 0 or negative errno */
	char *text; /* a sentence (LINK, failed REPLY, verb's answer) */
	char *data;
	size_t len;
	enum cluster_area area;
	bool whole;          /* LISTING: what is not in it is not there */
	int64_t began;       /* LISTING: monotonic us */
	uint64_t bytes, all; /* SENT */
};

struct crep *crep_new(enum crep_type type, struct cluster *from);

struct cluster_ctx {
	const struct cluster_conf *conf; /* borrowed, immutable */
	const struct clock *clock;
	const char *uuid;      /* of the state */
	const char *state_dir; /* absolute; spool is state_dir/spool */
	struct inbox *replies; /* the engine's */
};

/* A kind of cluster: one row in backend/registry.c. */
struct cluster_ops {
	enum cluster_type type;
	const char *word; /* "local", "slurm" */
	/* Starts the thread. Fails only for want of memory or threads; an unreachable cluster is reported, not an
	 * error. */
	int (*start)(const struct cluster_ctx *ctx, struct cluster **out, struct err *e);
	/* Gives `r` away; never waits. */
	void (*post)(struct cluster *c, struct creq *r);
	/* Stops within deadline_ms, answers what is open with -ENODEV, joins, frees. Jobs go on. */
	void (*stop)(struct cluster *c, int deadline_ms);
};

extern const struct cluster_ops cluster_local_ops, cluster_slurm_ops, cluster_ray_ops;
const struct cluster_ops *cluster_ops_find(enum cluster_type type);

#endif
