/*
 * Private to the Slurm driver (sched_slurm*.c): the shell text, the words of Slurm, and small parsers.
 */
#ifndef BACKEND_SCHED_SLURM_H
#define BACKEND_SCHED_SLURM_H

#include "backend/sched.h"

extern const char slurm_prelude[], slurm_step_prelude[];

/* One quoted word and a blank. `slurm_attempt_dir`: DIRECTORY/UUID/runs/NUM/aN under any base. */
void slurm_arg(struct strbuf *code, const char *s);
void slurm_attempt_dir(struct strbuf *code, const char *base, const struct sched_run *r);
void slurm_token(struct strbuf *out, const struct sched_run *r); /* r->token, or built from the names */

/* The word of a run's status for a state of Slurm ("CANCELLED by 0" too), NULL for one that is not known: alive. */
const char *slurm_status(const char *state);
bool slurm_status_ended(const char *status);

/* Cuts the line at *pos off (its newline becomes NUL) and moves *pos behind it; NULL at the end. */
char *slurm_line(char **pos);
/* Cuts `s` at each '|' into at most n fields; the last one keeps the rest. The number of fields. */
size_t slurm_fields(char *s, char **fields, size_t n);
/* The value behind "KEY " when the line begins with it, else NULL. */
char *slurm_value(char *line, const char *key);
/* Digits only, else `other` (Slurm writes N/A, Unknown, None where it has no number). */
int64_t slurm_number(const char *s, int64_t other);

/* Finds the token in "COMMENT|WORKDIR": the comment, or built from an attempt's directory where the comment is
   another's. "" when the job is not ours. `rest` is changed; the result is in it or in `buf`. */
const char *slurm_find_token(char *rest, char *buf, size_t size);

/* The scheduler's words in one line, without its program's name; sets `e` with them. */
int slurm_error(struct err *e, int code, const char *what, const char *text);
/* A string member; bytes that are no UTF-8 become '?', empty strings are left out. */
void slurm_put(json_t *o, const char *key, const char *s);

/* Where the attempt's working directory really is ('' for `work` in it), and a blank. */
void slurm_work(struct strbuf *code, const struct sched_run *r);
void slurm_submit(const struct sched_run *r, size_t script_len, size_t files_len, struct strbuf *code);
enum sched_verdict slurm_submit_result(int rc, const char *out, const char *err, char *job_id, size_t size,
				       struct strbuf *why);
void slurm_verify(const struct sched_run *r, struct strbuf *code);
struct event *slurm_verify_result(const struct sched_run *r, int rc, const char *out, const char *err, int64_t now);
int slurm_verb(const struct sched_run *r, const char *verb, const char *arg, struct strbuf *code, struct err *e);
bool slurm_step_alone(const struct job *job);
void slurm_step_submit_many(const struct sched_run *runs, const size_t *lens, size_t n, struct strbuf *code);
size_t slurm_step_answer(const char *out, const struct sched_run *r, const char **answer);
/* A command: true when it has answered, for the session of this name is another state directory's. */
void slurm_share(const struct sched_run *r, struct strbuf *code);
/* The same three for a step of a session (sched_slurm_step.c); `word` is the checked name of a signal. */
void slurm_step_submit(const struct sched_run *r, size_t script_len, size_t files_len, struct strbuf *code);
void slurm_step_verify(const struct sched_run *r, struct strbuf *code);
int slurm_step_verb(const struct sched_run *r, const char *verb, const char *word, struct strbuf *code, struct err *e);
static inline bool slurm_is_step(const struct sched_run *r)
{
	return r->job && r->job->holder.num;
}
int slurm_verb_result(const char *verb, int rc, const char *out, const char *err, struct err *e);
void slurm_usage(const struct sched_run *runs, size_t n, struct strbuf *code);
int slurm_usage_result(int rc, const char *out, const char *err, sched_usage_cb cb, void *arg, struct err *e);
/* "214380K", "1.50G", "512"; "[D-][HH:]MM:SS[.mmm]". -1: none of these. */
int64_t slurm_bytes(const char *s);
int64_t slurm_cpu_us(const char *s);
int slurm_probe(const char *what, struct strbuf *code, struct err *e);
int slurm_probe_result(const char *what, int rc, const char *out, const char *err, struct strbuf *json, struct err *e);

#endif
