/*
 * A scheduler driver: text in, text out. It builds shell code and reads what that printed; it never runs anything, so
 * the same driver works over SSH, on this machine and from a recording. All functions are pure.
 */
#ifndef BACKEND_SCHED_H
#define BACKEND_SCHED_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"
#include "backend/event.h"
#include "backend/job.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Names one attempt. Strings are borrowed for the call. */
struct sched_run {
	uint32_t num, attempt;
	const char *uuid;
	const char *directory; /* control directory, may begin with "~/" */
	const char *job_id;    /* or NULL */
	const char *token;
	const struct job *job; /* submit only */
};

/* What one line of the poll says. */
struct sched_row {
	const char *job_id, *token, *state, *reason, *nodes; /* job_id: as submit_result gave it, for every element
							of an array too; state: the scheduler's word */
	int64_t start;            /* epoch seconds; 0: unknown (expected start while pending) */
	int64_t node_count, cpus; /* given to the job, or wanted while it is pending; 0: not said */
	int64_t end;              /* epoch seconds: when its time is over; 0: not said, or never */
	/* Not NULL: not a row of the queue, but what the runner of this session says (backend/runner_state.h), and the
	   time there; job_id and token are its own, the other members say nothing. */
	const char *runner;
	int64_t now;
	int exit_code, exit_signal; /* -1: not said */
	const char *run_status; /* "pending", "running", "completing", or an end: "succeeded" "failed" ...; NULL: alive,
				   unknown word */
};
typedef void (*sched_row_cb)(void *arg, const struct sched_row *row);

/* What accounting knows of a job. */
struct sched_usage {
	const char *job_id, *token;
	int64_t max_rss, cpu_us; /* -1: not measured */
	bool ended;              /* and so have all of its steps: the numbers are final */
};
typedef void (*sched_usage_cb)(void *arg, const struct sched_usage *u);

enum sched_verdict {
	SCHED_OK,      /* job_id is set */
	SCHED_REFUSED, /* definite: the text says why; the attempt has been voided */
	SCHED_UNSURE,  /* ask again later: the job may or may not exist */
	SCHED_VOID,    /* this attempt was voided earlier: use the next */
};

struct sched_ops {
	const char *name;
	/* Shell functions that the other calls use; defined once in the remote shell. */
	void (*prelude)(struct strbuf *out);
	/* Code that submits (idempotent: any number of times, concurrently, by anyone). The payload "$IN" is the
	   script, then a tar archive of files when files_len > 0. */
	void (*submit)(const struct sched_run *r, size_t script_len, size_t files_len, struct strbuf *code);
	enum sched_verdict (*submit_result)(int rc, const char *out, const char *err, char *job_id, size_t size,
					    struct strbuf *why);
	/*
	 * Many submissions at once; all three may be NULL. `alone`: not for this job. `submit_many`: of steps of one
	 * session, whose scripts follow each other in "$IN" and have these lengths; it only writes files.
	 * `submit_answer` finds what the answer says of one run, for submit_result; the length of it.
	 */
	bool (*alone)(const struct job *job);
	void (*submit_many)(const struct sched_run *runs, const size_t *lens, size_t n, struct strbuf *code);
	size_t (*submit_answer)(const char *out, const struct sched_run *r, const char **answer);
	/* Code that lists all jobs of this user, one query. */
	void (*poll)(struct strbuf *code);
	/* 0, or -EAGAIN with a text when the scheduler could not be asked. */
	int (*poll_result)(int rc, const char *out, const char *err, sched_row_cb cb, void *arg, struct err *e);
	/* Code that finds out what became of a claimed job that a successful poll does not list. */
	void (*verify)(const struct sched_run *r, struct strbuf *code);
	/* Reads its answer into an event (EV_END, EV_LOST, EV_STATE) or NULL: ask again later. EV_STATE although there
	   is an exit record: the job was requeued, as it may be, and the record is of an earlier start. */
	struct event *(*verify_result)(const struct sched_run *r, int rc, const char *out, const char *err,
				       int64_t now);
	/* Code for a verb of ctl; checks id and token before it acts. -EINVAL for a verb it does not know. */
	int (*verb)(const struct sched_run *r, const char *verb, const char *arg, struct strbuf *code, struct err *e);
	/* 0 or the errno for the user, with the scheduler's words. Of "cancel" also N > 0: the job was told to end;
	   give the verb again in N seconds, for it may not listen. */
	int (*verb_result)(const char *verb, int rc, const char *out, const char *err, struct err *e);
	/* Code that asks what these jobs used (job_id of each is set), and its reader: 0, -EAGAIN, or -ENOTSUP: nobody
	   counts here. Both may be NULL. */
	void (*usage)(const struct sched_run *runs, size_t n, struct strbuf *code);
	int (*usage_result)(int rc, const char *out, const char *err, sched_usage_cb cb, void *arg, struct err *e);
	/* Code and reader for the documents of clusters/NAME (see CREQ_PROBE); result is JSON text. */
	int (*probe)(const char *what, struct strbuf *code, struct err *e);
	int (*probe_result)(const char *what, int rc, const char *out, const char *err, struct strbuf *json,
			    struct err *e);
};

extern const struct sched_ops sched_slurm_ops;

/*
 * The exit record that every job writes (one line of KEY=VALUE words, written by the script, see launchers/wrapper.c;
 * the local supervisor writes the same):
 *	v=1 run=NUM attempt=N job=JOBID rc=N sig=NAME|- start=EPOCH end=EPOCH out=BYTES|- err=BYTES|- restart=N
 *	manifest=0|1 [events=BYTES|-] maxrss=BYTES|- cpu=MICROSECONDS|- nodes=N|- cpus=N|- fault=WORD|- host=NAME
 *limit=time|mem|session|- Unknown words are ignored; every version is read for ever. rc is what the script's command
 *returned (128+N for signal N). fault says why there was no command to return anything (then rc is -): `write` its
 *directories or files could not be made, `workdir` or `input` could not be opened, `refused` the guard did not let it
 *start, `environment` it has none to run in: then reason=TEXT (%XX for blanks and %) says what was missing. nodes and
 *cpus are what the scheduler gave the job. limit is set by the local supervisor when it ended the job itself. The
 *file's name in ends/ is NUM.aATTEMPT.
 */
struct exit_record {
	int version;
	uint32_t run, attempt;
	char job_id[64];
	int rc;                                   /* -1: not said */
	char sig[16];                             /* last signal that the script was sent, "" when none */
	int64_t start, end;                       /* epoch seconds; 0: not said */
	int64_t events_len;                       /* of the message file of Pipes; -1: not said */
	int64_t out_len, err_len, maxrss, cpu_us; /* -1: not said */
	int64_t nodes, cpus;                      /* 0: not said */
	char fault[16];                           /* "" when the command was run */
	int64_t restart;                          /* how often the scheduler had started the job before this start */
	bool manifest;
	char limit[8];
	char host[64];
	char reason[1024]; /* a sentence for the fault, "" when none */
};
/* -EPROTO for anything that is not a whole record. */
int exit_record_parse(const char *text, struct exit_record *out, struct err *e);
/*
 * The end of a run as an event. `sched_status` is the scheduler's own verdict when it is known ("timeout", "cancelled",
 * "out_of_memory", "node_failed", "preempted", NULL when not); it decides the class, the record the code. With
 * cancel_wanted and a record that ends by TERM, INT or KILL the status is cancelled.
 */
#define EXIT_CANCELLED_OUTSIDE "cancelled outside slurmray (scancel, or an administrator)"
struct event *exit_record_event(const struct exit_record *r, const char *sched_status, bool cancel_wanted, int64_t now);

#endif
