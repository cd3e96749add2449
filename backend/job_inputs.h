/*
 * Named inputs of a job: where each comes from. Pure.
 */
#ifndef BACKEND_JOB_INPUTS_H
#define BACKEND_JOB_INPUTS_H

#include "backend/base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>

struct effective;
struct json_t;

struct job_input {
	char *name;   /* below SLURMRAY_INPUTS; one component */
	char *source; /* as in the spec: an absolute local path, or runs/ID/results/PATH */
	char *run;    /* its ID, or NULL: a local file */
	char *path;   /* PATH of the run's results; NULL: a local file */
	/* Set when the run is sent to its cluster (engine_inputs.c); all NULL for a local file: */
	char *link;    /* the file there, absolute or ~/..., which the name is linked to */
	char *staged;  /* the file here, which is shipped */
	char *missing; /* why there is neither */
};

/* May an input have this name, this source? */
bool job_input_name_ok(const char *name);
bool job_input_source_ok(const char *source);
/* Fills an array from the canonical value of `inputs` (NULL: none); a name that a file of `files` has is -EINVAL. */
int job_inputs_fill(const struct json_t *value, char *const *files, struct job_input **out, size_t *n,
		    struct strbuf *errors);
void job_inputs_release(struct job_input *v, size_t n);
/* The local file that is shipped under the name, or NULL. */
const char *job_input_local(const struct job_input *in);

#endif
