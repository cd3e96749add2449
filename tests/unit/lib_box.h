/*
 * A home directory with one attempt in it, in which scripts of launchers are run as the local supervisor does it.
 */
#ifndef TESTS_LIB_BOX_H
#define TESTS_LIB_BOX_H

#include "backend/base/strbuf.h"
#include "backend/job.h"

#include <sys/types.h>

#define BOX_UUID "0b5c"
#define BOX_RUN 7
#define BOX_ATTEMPT 1

struct box {
	char home[64];
	char dir[192];     /* the attempt's */
	char record[192];  /* where its exit record comes */
	const char *shell; /* a program, or "bash --posix" */
	const char *job_id;
	const char *restart; /* SLURM_RESTART_COUNT or NULL */
	pid_t pid;
};

/* The directory is removed by box_release. */
void box_init(struct box *b, const char *shell);
void box_release(struct box *b);

/* Renders the job with the bash launcher, writes `script`, starts it; its streams are stdout and stderr in the dir. */
void box_start(struct box *b, const struct job *job);
/* Starts the script that is there already. */
void box_restart(struct box *b);
/* The exit code of the script; it is killed after 20 s and the test fails. */
int box_wait(struct box *b);
int box_run(struct box *b, const struct job *job);

/* A file in the attempt directory (or absolute), whole; the caller frees. NULL when there is none. */
char *box_read(struct box *b, const char *name, size_t *len);
/* Waits up to 10 s until the file is there. */
void box_wait_file(struct box *b, const char *name);
/* A word of the exit record: the value behind "KEY=", or "" . */
const char *box_word(struct box *b, const char *key);
void box_path(struct box *b, const char *name, char *out, size_t size);

/* Runs argv with stdout to a buffer; the exit code, or 127 when it cannot be executed. */
int box_exec(char *const argv[], struct strbuf *out);

#endif
