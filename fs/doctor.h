/*
 * Private to `slurmray doctor`: client_doctor.c has the command line, the configuration and the clusters, doctor_machine.c
 * looks at this machine, doctor_ssh.c logs in to a cluster. Nothing is changed but what a first login to a cluster makes as
 * well: the control directory there.
 */
#ifndef FS_DOCTOR_H
#define FS_DOCTOR_H

#include "backend/config.h"

#include <stdint.h>
#include <stdio.h>

struct doctor {
	FILE *out;
	unsigned bad; /* findings */
};

/* A line each: "ok   TEXT", "note TEXT", "bad  TEXT"; further lines of a text are indented. */
void doctor_ok(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void doctor_note(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void doctor_bad(struct doctor *d, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Path of a program in $PATH, or NULL; the caller frees. */
char *doctor_find_program(const char *name);

/* Kernel, libfuse, /dev/fuse, fusermount3, limits in `sysctl_dir` (/proc/sys/fs/fuse). */
void doctor_fuse(struct doctor *d, const char *sysctl_dir);
void doctor_fuse_limits(struct doctor *d, const char *sysctl_dir);
void doctor_state(struct doctor *d, const char *dir);
/* The mounts of this user, by a table like /proc/self/mounts. */
void doctor_mounts(struct doctor *d, const char *table);

/* One login node: name, login, shell, Slurm, directories. Takes at most about deadline_s seconds. */
void doctor_ssh(struct doctor *d, const struct cluster_conf *conf, size_t host_index, int deadline_s);
/* What the login node answered to the questions of doctor_ssh: "KEY VALUE" lines. */
void doctor_remote_answers(struct doctor *d, const struct cluster_conf *conf, const char *host, const char *text);
/* The remote shell's greeting; `now` in seconds since the epoch, by this machine. */
void doctor_remote_hello(struct doctor *d, const char *host, const char *text, int64_t now);
/* Shell text of the questions. */
struct strbuf;
void doctor_remote_questions(const struct cluster_conf *conf, struct strbuf *out);

#endif
