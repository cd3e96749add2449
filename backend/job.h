/*
 * A typed, read-only view of an effective spec: what launchers and schedulers need, without JSON.
 */
#ifndef BACKEND_JOB_H
#define BACKEND_JOB_H

#include "backend/base/strbuf.h"
#include "backend/job_inputs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct effective;
struct json_t;

struct job_var {
	char *name, *value;
};

enum env_kind { ENV_NONE, ENV_PATH, ENV_VENV, ENV_CONDA, ENV_ARCHIVE, ENV_BUILD };

/* What the command runs in, applied in this order: modules, the directory, hook, wheels, pipes, container. */
struct environment {
	enum env_kind kind;
	char *where; /* directory on the cluster (may begin with "~/"), name of a conda environment, or local archive or
			build script */
	char **modules;  /* NULL-ended, or NULL */
	char *hook;      /* shell text, or NULL */
	char *container; /* image, or NULL */
	char **options;  /* of `apptainer exec`; NULL-ended, or NULL */
	char *platform;  /* what the archive is for, said by the user: "linux-64", "any"; or NULL */
	char **wheels;   /* local files that are put in front of Python's path; NULL-ended, or NULL */
	char *pipes;     /* local dagster_pipes for where the environment has none, or NULL */
	int build_s;     /* how long a build may take; 0: the default */
};

/* The Ray cluster that a run or session starts; job_ray.c. */
struct job_ray {
	bool on;
	int cpus, max_workers; /* -1: what the allocation has */
	double gpus;           /* of each node; -1: what the allocation has */
	int64_t object_store;  /* bytes; 0: from the allocation's memory */
	int start_timeout;     /* seconds until every node has to be there */
	bool dashboard, client, token;
	char *dashboard_host, *interface, *head_address, *ports, *version; /* NULL: not said */
	char *client_version; /* "RAY" or "RAY/PYTHON", as whoever uses Ray Client has them; NULL: not said */
	char *text;           /* the whole value in its canonical form, as JSON; NULL: nothing was said */
	char *job_config;     /* JSON for drivers: runtime_env and metadata; NULL: none */
	char **args;          /* further words for `ray start`; NULL-ended, never NULL when on */
};

/* The same for Spark; job_spark.c. */
struct job_spark {
	bool on;
	int executor_cores, num_executors;      /* 0: not said */
	int64_t executor_memory, driver_memory; /* bytes; 0: not said */
	int start_timeout;                      /* seconds until every node has to be there */
	char *home, *master, *interface;        /* NULL: not said */
	char *conf;                             /* lines of a spark-defaults.conf */
};

/* The name, in the attempt's directory, of the link to the unpacked archive. */
#define JOB_ENVIRONMENT_LINK "environment"
/* The same for injected libraries: wheel.N, from 0, and dagster_pipes. */
#define JOB_WHEEL_LINK "wheel.%zu"
#define JOB_PIPES_LINK "pipes"
/* The directory, in the attempt's, where delivered secrets are until the job has taken them: a file each. */
#define JOB_SECRETS "secrets"

enum job_form { JOB_COMMAND, JOB_EXEC, JOB_SCRIPT, JOB_PAYLOAD };

struct job {
	enum job_form form;
	char *command;      /* JOB_COMMAND: text for /bin/sh -c (bash where present); JOB_SCRIPT: the script's text;
			       JOB_PAYLOAD: absolute local path of the file that is shipped and executed */
	size_t command_len; /* of JOB_SCRIPT */
	char **argv;        /* JOB_EXEC, NULL-ended */
	char **args;        /* JOB_SCRIPT, JOB_PAYLOAD: its arguments, NULL-ended; may be NULL */
	char *name;         /* the job's name for the scheduler; never NULL */
	char *launcher;     /* "bash" */
	struct job_var *env;
	size_t n_env;
	struct job_var *secret; /* their values as they are shown: SPEC_HIDDEN, file:PATH, cluster:PATH */
	size_t n_secret;
	char *workdir; /* absolute remote directory, or NULL: the attempt's own work directory */
	char *setup;   /* shell lines before the command, or NULL (cluster's, then the spec's) */
	struct environment environment;
	bool merged;          /* streams = merged, or a batch script with --output and without --error */
	char *output, *error; /* patterns given by the user (sbatch's --output, --error), or NULL */
	char *input;          /* remote file that is the command's stdin (sbatch's --input), or NULL: /dev/null */
	char **sbatch;        /* options for sbatch, each "--key=value" or "--key", NULL-ended, unquoted */
	char *directory;      /* control directory of the cluster, may begin with "~/" */
	char *scratch;        /* may begin with "~/" */
	/* what the local cluster needs */
	int64_t time_s; /* limit in seconds; -1: none */
	int ntasks, cpus_per_task;
	int gpus;                      /* of a step: for all of it; -1: not said */
	int64_t mem_bytes;             /* for the whole job; 0: not limited */
	int grace_s;                   /* seconds between TERM and KILL */
	bool grace_said;               /* else a scheduler keeps its own time between them */
	bool hold;                     /* submitted held */
	int signal_num, signal_lead_s; /* `signal`: number and seconds before the limit; 0, 0: none */
	bool requeue;                  /* the spec asked for --requeue: restarts by the scheduler are allowed */
	char **files; /* absolute local paths, shipped into the working directory by their base names; NULL-ended */
	struct job_input *inputs;
	size_t n_inputs;
	/* Dagster Pipes: what of a session the job is given; decided by job_pipes, the texts are what the spec says */
	bool pipes_context;  /* a context, as a file that travels with its inputs */
	bool pipes_messages; /* a message file, which is read as the run's `events` */
	bool pipes_off;      /* the spec says `pipes = false` */
	bool pipes_asked;    /* it says `pipes = true`, or gives `extras` */
	bool pipes_named;    /* its DAGSTER_PIPES_CONTEXT names the run's own `context` */
	bool pipes_inject;   /* it says `pipes = inject` */
	char *pipes_data;    /* the context in it, as JSON, or NULL */
	char *pipes_extras;  /* JSON, or NULL */
	char *pipes_params;  /* JSON members for DAGSTER_PIPES_MESSAGES besides `path`, each behind a comma; or NULL */
	int64_t idle_s;      /* of a session: it ends after so long without a step; 0: never */
	int max_steps;       /* of a session: how many run at once */
	bool lease_scope;    /* of a session: it ends when nobody holds a lease any more */
	enum {
		SHARE_NO,
		SHARE_BEGIN,
		SHARE_ATTACH
	} share;         /* of a session: by its name, with other state directories */
	char *shared_as; /* of a session: it is this one of another state directory, UUID/NUM/aATTEMPT; or NULL; filled
			    in by the engine */
	char *session;   /* this is a step of it; or NULL */
	struct job_ray ray;
	struct job_spark spark;
	struct job_holder { /* the session's own job, filled in by the engine; num 0: none */
		uint32_t num, attempt;
		char *job_id;
		char *uuid; /* of its state directory, NULL: the run's own */
	} holder;
	char **after; /* dependencies as "TYPE:RUN", NULL-ended; run ids, not job ids */
};

/*
 * Fills `job` from an effective spec; 0, or -EINVAL with a sentence a line in `errors`. The strings belong to
 * the job. Pure.
 */
int job_from_effective(const struct effective *eff, struct job *job, struct strbuf *errors);
void job_release(struct job *job);
/* Reads "UUID/NUM/aATTEMPT"; `uuid` is the caller's. False, and nothing done: it is something else. */
bool job_shared_parse(const char *text, char **uuid, uint32_t *num, uint32_t *attempt);
/* What a session's runner is to know of a step: processors, streams, MiB, GPUs, tasks (launchers/session_runner.c). */
void job_step_line(const struct job *job, struct strbuf *out);

/*
 * Reads the DAGSTER_PIPES_ variables out of `job->env`: those that slurmray sets itself are taken out. 0, or -EINVAL
 * with a sentence. Part of job_from_effective (job_pipes.c).
 */
int job_pipes_env(struct job *job, struct strbuf *errors);

/*
 * The context that the job is given. `draft` is what was written into the run's file `context` (NULL: nothing);
 * `run_id` goes into a context that nobody wrote. Sets pipes_context and pipes_messages, and `out` to the context's
 * text when there is one. 0, or -EINVAL with a sentence. Pure.
 */
int job_pipes(struct job *job, const char *run_id, const char *draft, size_t draft_len, struct strbuf *out,
	      struct strbuf *errors);
/* Sets the two flags alone; `context`: there is one already. */
void job_pipes_flags(struct job *job, bool context);

/* Fills `out` from the canonical value (may be NULL); -EINVAL with a sentence, and `out` zeroed. job_environment.c */
int job_environment_fill(const struct json_t *value, struct environment *out, struct strbuf *errors);
void job_environment_release(struct environment *env);
bool job_environment_is_set(const struct environment *env);

/* The same for the key `ray` (may be NULL); never fails, for spec_ray.c has checked it. `on` is left alone. */
void job_ray_fill(const struct json_t *value, struct job_ray *out);
void job_ray_release(struct job_ray *ray);
void job_spark_fill(const struct json_t *value, struct job_spark *out);
void job_spark_release(struct job_spark *spark);

#endif
