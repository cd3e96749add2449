/*
 * What the scripts of all launchers have in common: the guard that lets an attempt run once, the directories, the
 * user's process with signals passed on to it, and the exit record. A launcher writes
 *
 *	wrap_prologue(job, ctx, out);
 *	wrap_file(out, "job", text, len);	what it wants to run, a shell script
 *	wrap_epilogue(job, ctx, out);
 *
 * The script runs in the attempt directory; `job` is started there with bash where there is one, else with /bin/sh.
 * Pure functions. Names of shell variables of the wrapper begin with _, so that they meet no variable of a user.
 */
#ifndef LAUNCHERS_WRAPPER_H
#define LAUNCHERS_WRAPPER_H

#include "launchers/launcher.h"

/* -EINVAL with a text when there can be no script: a directory that is not absolute, ids with odd characters. */
int wrap_check(const struct job *job, const struct launch_ctx *ctx, struct err *e);

/* From "#!" to the point where files of the attempt directory can be written. */
void wrap_prologue(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out);

/* Lines that write `text` byte for byte to the file `name` (a plain word) in the attempt directory. */
void wrap_file(struct strbuf *out, const char *name, const char *text, size_t len);

/* The same without a process, for text that holds no NUL. */
void wrap_text(struct strbuf *out, const char *name, const char *text);

/* The first lines of `job`: the job's environment, its directory and its setup. */
void wrap_environment(const struct job *job, struct strbuf *body);

/* activate.c: the job's environment in the body of `job`, behind its setup; nothing where there is none. */
void wrap_activate(const struct environment *env, struct strbuf *body);
/* activate.c: the words in front of the command that put it into its container. */
void wrap_container(const struct environment *env, struct strbuf *body);
/* The last line of `job`: becomes the user's command, whatever its form. */
void wrap_exec(const struct job *job, struct strbuf *body);

/* A step's command that needs nothing prepared runs without the file `job` and the shell for it: wrap_plain instead. */
bool wrap_is_plain(const struct job *job);
void wrap_plain(const struct job *job, struct strbuf *out);

/* Starts `job`, waits for it, writes manifest and exit record, exits with its code. */
void wrap_epilogue(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out);

#endif
