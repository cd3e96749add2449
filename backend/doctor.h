/*
 * The checks of `slurmray doctor` that need no file system: findings, the state directory, a login to a cluster.
 * (fs/client_doctor.c has the command line, fs/doctor_fuse.c looks at FUSE and mounts.) Nothing is changed but what a
 * first login to a cluster makes as well: the control directory there.
 */
#ifndef BACKEND_DOCTOR_H
#define BACKEND_DOCTOR_H

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

/* The name of the file system of `path` (of the nearest directory that is there) when that is not local, or NULL. */
const char *doctor_remote_fs(const char *path);
/* Owner, mode, disk, free space, who has it, and whether the journal opens when nobody has. */
void doctor_state(struct doctor *d, const char *dir);
/* One login node: name, login, shell, Slurm, directories. Takes at most about deadline_s seconds. */
void doctor_ssh(struct doctor *d, const struct cluster_conf *conf, size_t host_index, int deadline_s);
/* Name and keys that a login would use. False: it cannot work. */
bool doctor_ssh_name(struct doctor *d, const struct cluster_conf *conf, size_t host_index);
/* What is said of the other side's clock, where it is far from ours; both in seconds since the epoch. */
void doctor_clock(struct doctor *d, const char *host, int64_t theirs, int64_t ours);
/* A cluster of type ray: the login where there is one, the head, the token, the agent of a node. */
void doctor_ray(struct doctor *d, const struct cluster_conf *conf, int deadline_s);
/* The head's answer to /api/version. */
void doctor_ray_version(struct doctor *d, const char *name, const char *base, const char *text, size_t len);
/* What the login node answered to the questions of doctor_ssh: "KEY VALUE" lines. */
void doctor_remote_answers(struct doctor *d, const struct cluster_conf *conf, const char *host, const char *text);
/* The remote shell's greeting; `now` in seconds since the epoch, by this machine. */
void doctor_remote_hello(struct doctor *d, const char *host, const char *text, int64_t now);
/* Shell text of the questions. */
struct strbuf;
void doctor_remote_questions(const struct cluster_conf *conf, struct strbuf *out);

#endif
