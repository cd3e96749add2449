/*
 * What is said to Ray's Jobs REST API, and what its answers mean. Pure: text in, text out; nothing here knows a
 * connection. Answers come from elsewhere and may be anything; what is not understood is said to be so.
 *
 * Facts about Ray (2.9 to 2.60) that are not in its documentation were measured; docs/design/18-ray-elsewhere.md has
 * them.
 */
#ifndef BACKEND_RAY_API_H
#define BACKEND_RAY_API_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct job;

/* Longer scripts and contexts travel in the package: an argument has at most 128 KiB (execve(2), MAX_ARG_STRLEN). */
#define RAY_INLINE_MAX ((size_t)90 << 10)
#define RAY_SCRIPT ".slurmray-script"
/* What the dashboard takes in one request (DASHBOARD_CLIENT_MAX_SIZE). */
#define RAY_PACKAGE_MAX ((size_t)100 << 20)

enum ray_status { RAY_PENDING, RAY_RUNNING, RAY_STOPPED, RAY_SUCCEEDED, RAY_FAILED, RAY_STATUS_UNKNOWN };

struct ray_job {
	enum ray_status status;
	char *message, *error_type; /* "" when there is none */
	char *token;                /* of ours, from its metadata; NULL: none */
	char *agent;                /* "http://HOST:PORT" of the node of its driver; NULL: not known */
	char *node_id;              /* NULL: not known */
	bool has_code;
	int code;           /* of the driver's shell; negative: a signal */
	int64_t start, end; /* microseconds; 0: not said */
};

/* What a job of ours has in the key `ray` of its spec, checked. Members are borrowed from the object. */
struct ray_spec {
	const json_t *runtime_env; /* object, or NULL */
	const char *working_dir;   /* absolute local directory, or NULL */
	const char *working_uri;   /* s3://..., or NULL */
	const json_t *metadata;    /* object of strings, or NULL */
	const json_t *resources;   /* object of numbers, or NULL */
	const json_t *labels;      /* entrypoint_label_selector: object of strings, or NULL */
	double num_cpus, num_gpus; /* of the entrypoint; negative: not said */
	int64_t memory;            /* bytes; negative: not said */
};

/* Of the canonical value (spec_ray.c); NULL: nothing is asked for. 0, or -EINVAL with a sentence a line. */
int ray_spec_read(const json_t *ray, struct ray_spec *out, struct strbuf *errors);
/* Ray ignores keys that it does not know, and answers 200 to values that end the job later: both are said here. */
int ray_env_check(const json_t *env, struct strbuf *errors);

struct ray_ids {
	const char *token;         /* slurmray:UUID/NUM/aN */
	const char *submission_id; /* ray_submission_id(token) */
	const char *uuid;
	uint32_t run, attempt;
};

/* [A-Za-z0-9_-] only: the server puts it into file names and addresses. The caller frees. */
char *ray_submission_id(const char *token);

/*
 * The entrypoint: a script for /bin/sh. It makes the attempt's directory below the directory of the session's logs (the
 * node's agent serves byte ranges of all that is there), brings what the package has into `work`, starts what watches
 * that Ray lives, and becomes `script`. NULL for what is in the package instead.
 */
void ray_entrypoint(struct strbuf *out, const struct ray_ids *ids, const struct job *job, const char *script,
		    const char *context, bool package);

/* The body of POST /api/jobs/; `package`: its gcs:// address, or NULL. The caller frees. */
char *ray_submit_body(const struct ray_ids *ids, const struct job *job, const struct ray_spec *spec,
		      const char *entrypoint, const char *package);

/* -EPROTO with a sentence for what is no JobDetails. */
int ray_job_parse(const char *text, size_t len, struct ray_job *out, struct err *e);
void ray_job_release(struct ray_job *j);
/* `session_name` (may be absent in old releases: "") and `ray_version`; the caller frees both. */
int ray_version_parse(const char *text, size_t len, char **session, char **version, struct err *e);

enum ray_answer {
	RAY_TAKEN,     /* 200 */
	RAY_DUPLICATE, /* there is a job of this id */
	RAY_REFUSED,   /* it will never take this */
	RAY_TOO_LONG,  /* 413 */
	RAY_TOKEN,     /* 401, 403 */
	RAY_LATER,     /* anything else: nobody knows whether it was taken */
};
/* Of POST /api/jobs/. `why` gets the sentence of a refusal or trouble: the last line of a traceback. */
enum ray_answer ray_submit_answer(int status, const char *body, size_t len, struct strbuf *why);
/* One line, without the types of exceptions in front. */
void ray_trouble(int status, const char *body, size_t len, struct strbuf *why);

/* A row for each job of GET /api/jobs/: id, status, and the beginning of its entrypoint; NULL: not understood. */
json_t *ray_jobs_rows(const char *text, size_t len);
/* A row for each node of GET /api/v0/nodes; NULL: not understood. */
json_t *ray_nodes_rows(const char *text, size_t len);

/* The names in a directory as the agent's index has them (HTML), each ended by NUL; those of directories end in '/'. */
void ray_index_names(const char *html, size_t len, struct strbuf *names);

#endif
