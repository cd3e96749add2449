/*
 * Packed environments, and other things of one content that runs share: archives that are sent to a cluster once,
 *unpacked there once, and shared by the runs that name them. DIRECTORY/envs/KEY is one of them; KEY comes from the
 *SHA-256 of the archive alone.
 *
 *	envs_archive.c	what a local archive is: sum, kind, platform
 *	envs_task.c	the thread that reads archives, and on the local cluster unpacks them
 *	envs_shell.c	the code that runs on the cluster: looks, verifies, unpacks, links, evicts
 *	remote_envs.c	clusters behind a transport: looks, sends, unpacks, tells the runs that wait
 *	local_envs.c	the same for the local cluster, with nothing to send
 */
#ifndef BACKEND_ENVS_H
#define BACKEND_ENVS_H

#include "backend/base/err.h"
#include "backend/base/inbox.h"
#include "backend/base/strbuf.h"
#include "backend/sha256.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define ENVS_KEY_LEN 32 /* digits of the sum that make the name: 128 bits */
#define ENVS_KEY_MAX 48 /* with what says how it is used */

/* What is done with a local file: the same file for another use is another thing on the cluster. */
enum envs_use {
	ENVS_ARCHIVE, /* it is unpacked */
	ENVS_BUILD,   /* it is run, and makes the environment */
	ENVS_LIBRARY, /* a wheel, or the module dagster_pipes: goes on Python's path */
	ENVS_FILE,    /* its bytes, for files of runs */
};

enum envs_kind {
	ENVS_TAR,
	ENVS_GZIP,
	ENVS_ZSTD,
	ENVS_XZ,
	ENVS_BZIP2,
	ENVS_SCRIPT,
	ENVS_WHEEL,  /* of a library: a zip archive */
	ENVS_MODULE, /* of a library: one file of Python */
	ENVS_DATA,
};

struct envs_archive {
	enum envs_use use;
	enum envs_kind kind; /* by its content; the name does not count */
	bool pixi;           /* packages that pixi-unpack makes an environment of */
	uint64_t size;
	uint32_t cksum;
	char sha256[SHA256_HEX];
	char key[ENVS_KEY_MAX];
	char platform[32]; /* as conda names them: linux-64, osx-arm64; "" when it does not say */
};

/* What tells one state of a file from another without reading it. */
struct envs_identity {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime, ctime;
};

/* 0, -EINVAL for what is no regular file, or another negative errno; with a text. */
int envs_identify(const char *path, struct envs_identity *out, struct err *e);
bool envs_same(const struct envs_identity *a, const struct envs_identity *b);

/*
 * Reads all of the file, which may take seconds. -EINVAL with a text for what is no archive, -ECANCELED when `stop`
 * (may be NULL) became true, -ESTALE when it changed meanwhile.
 */
int envs_read(const char *path, enum envs_use use, const atomic_bool *stop, struct envs_archive *out, struct err *e);
/* The same as ENVS_ARCHIVE. */
int envs_archive_read(const char *path, const atomic_bool *stop, struct envs_archive *out, struct err *e);
/* What a file name says, or "": env-linux-64.sh. Pure. */
const char *envs_name_platform(const char *path);
/*
 * Can an archive for `platform` ("" is not known) run where `machine` is what `uname -m` says, and `libc` "glibc" or
 * "other"? -EINVAL with a text when not. Pure.
 */
int envs_fits(const char *platform, const char *machine, const char *libc, struct err *e);

/* --- the thread --- */

enum envs_task_type {
	ENVS_READ = 150, /* path -> archive, identity, or e */
	ENVS_RUN,        /* code -> rc (124: too long; -1: no process), out */
	ENVS_STOP,       /* internal */
};

/* A piece of work; the same message comes back to `to` with its results. Released with msg_release. */
struct envs_task {
	struct msg m; /* m.type: enum envs_task_type */
	struct inbox *to;
	uint64_t serial; /* the asker's */
	char *path, *code;
	enum envs_use use;
	int deadline_s;
	struct envs_identity identity;
	struct envs_archive archive;
	struct err e;
	int rc;
	struct strbuf out;
};

struct envs_worker;

struct envs_task *envs_task_new(enum envs_task_type type, struct inbox *to, uint64_t serial);
/* NULL when there is no thread to be had. */
struct envs_worker *envs_worker_new(void);
void envs_worker_post(struct envs_worker *w, struct envs_task *t);
/* Ends what is under way, joins, frees. Tasks that are not done come back to nobody. May be NULL. */
void envs_worker_free(struct envs_worker *w);

/* --- shell code for the cluster; pure --- */

#define ENVS_RC_DAMAGED 47 /* what arrived is not what was sent; it was removed */
#define ENVS_RC_UNFIT 48   /* it cannot be used; stdout says why */
#define ENVS_RC_GONE 49    /* it was removed since it was looked at */

struct envs_place {
	const char *directory; /* of the cluster, may begin with "~/" */
	const char *uuid;      /* of the state directory: names the partial file and marks users */
	const struct envs_archive *archive;
	const char *name;  /* of the archive, for people */
	int64_t quota_kib; /* of all that are unpacked there together; 0: no limit */
	int build_s;       /* how long a build may take; 0: the default */
};

#define ENVS_UNPACK_LIMIT_S 1800
/* How long unpacking may take at most: a build has its own. */
int envs_limit(const struct envs_place *p);

/* DIRECTORY/envs/KEY[/NAME], unquoted. */
void envs_path(const struct envs_place *p, const char *name, struct strbuf *out);
/* The name of the partial file. */
void envs_part(const struct envs_place *p, struct strbuf *out);

struct envs_look {
	bool complete; /* unpacked */
	bool whole;    /* all of the archive is there and was verified */
	uint64_t have; /* bytes of the partial file */
	char machine[64], libc[16];
};
/* Code that looks (and writes a line of the log when something has to be sent), and the reader of its answer: 0 or
   -EPROTO. */
void envs_look_code(const struct envs_place *p, struct strbuf *code);
int envs_look_read(const char *out, struct envs_look *look);

/*
 * Code that verifies the partial file and unpacks it, under a lock; any number at once. `local`: the path of the
 * archive itself, where nothing was sent. `check`: whether the environment has to run on the machine that unpacks it.
 * Exit code 0, or one of the above, or another: try again.
 */
void envs_unpack_code(const struct envs_place *p, const char *local, bool check, struct strbuf *code);
/* Code that links the attempt's directory `dir` (unquoted) to it under `name` and marks it as used, unless the attempt
   was sent before; may exit with ENVS_RC_GONE. `mark` names the attempt. NULL: it is marked only. */
void envs_link_code(const struct envs_place *p, const char *dir, const char *name, const char *mark,
		    struct strbuf *code);
/* Behind the former, where $w is the working directory: a copy of the file in it, never a link. */
void envs_copy_code(const struct envs_place *p, const char *name, unsigned mode, int64_t mtime, struct strbuf *code);

/* The functions of the lock, of sums and of room, for envs_verb.c. */
void envs_lock_text(struct strbuf *code);

/*
 * Code for a probe `what` (struct creq): "envs" lists all of DIRECTORY/envs, "envs VERB KEY" does something with one:
 * remove, verify, keep, unkeep. False: it is another probe, or not one of these. What a verb did is in the log of the
 * one. The list: a line `env KEY STATUS KIB LAST_USED keep|- NAME` each, and its log's end behind it, a blank before
 * each line. STATUS: sending unpacking ready failed.
 */
bool envs_probe_code(const char *directory, const char *what, struct strbuf *code);
bool envs_key_ok(const char *key);

/* --- what a job shares --- */

/* One local file that a job needs on its cluster before it is submitted. */
const char *envs_use_words(enum envs_use use); /* "environment archive" ... */
struct envs_need {
	enum envs_use use;
	char *path;     /* of this machine */
	char *platform; /* said by the user, or NULL */
	char *link;     /* the name of a link in the attempt's directory, or NULL */
	char *copy;     /* the name of a copy in the working directory, or NULL */
	unsigned mode;  /* of the copy */
	int64_t mtime;
	int build_s;
};

#define ENVS_SHARE_MIN ((off_t)256 * 1024) /* smaller files travel with the submission */

struct job;
/*
 * All that `job` needs; `files`: also its large files, payload and inputs, by their content. Looks at local files. The
 * array is NULL when there is none.
 */
struct envs_need *envs_needs(const struct job *job, bool files, size_t *n);
void envs_needs_free(struct envs_need *v, size_t n);
/* Is this file of a job one of them? */
bool envs_needs_has(const struct envs_need *v, size_t n, const char *path);

#endif
