/*
 * The sub-commands that are thin clients of the mounted tree, and what they share. They wait with poll(2) and open
 * again what a restarted keeper closed; nothing is possible only through them.
 *
 * They leave signals as they are: an interrupt ends the client as it ends any program, and never touches a job.
 */
#ifndef FS_CLIENT_H
#define FS_CLIENT_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

#include <jansson.h>
#include <stdbool.h>

/* Each is given its own argv (argv[0] is the sub-command) and returns the exit status. */
int client_submit_main(int argc, char **argv);
int client_follow_main(int argc, char **argv);
int client_doctor_main(int argc, char **argv);

/*
 * $XDG_STATE_HOME/slurmray, else ~/.local/state/slurmray, when that is on a local disk; else /var/tmp/slurmray-UID. The
 * caller frees. client_state_path only says which; client_default_state makes missing parents (0700), too.
 */
char *client_state_path(void);
char *client_default_state(void);

/* Loads the configuration only to say what is wrong with it before anything is started. NULL: the default path. */
int client_check_config(const char *path, struct err *e);

/* The mount to use: `option` (may be NULL), else $SLURMRAY_MOUNT, else the only slurmray mount of this user; the caller
 * frees. */
char *client_find_mount(const char *option, struct err *e);
/* The directories where this user has a slurmray mount, by a list in the form of /proc/self/mounts; calls back for each
   once. 0 or negative errno. */
int client_each_mount(const char *table, void (*each)(void *arg, const char *dir), void *arg);

/* Copies the run's stdout and stderr to ours until it has ended; prints `why` on failure; the exit status. */
int client_follow(const char *mount, const char *run);

/* --- what the clients share --- */

/* Writes each line of the text to standard error behind "slurmray: ". */
void client_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* The same for wrong usage; returns 2. */
int client_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Absolute form of a local path: of this directory, or of the home directory behind "~/"; the caller frees. */
char *client_absolute(const char *path);

/*
 * The directory of a run: `run` is an id, a job name that one run has, `last`, or the path of a run directory (then no
 * mount is looked for). `mount` is the option, may be NULL. The caller frees; NULL: the text says what to do.
 */
char *client_run_dir(const char *mount, const char *run, struct err *e);

/* A mount that is not there for now: keeper and worker were killed or unmounted, and may come back. */
struct client_outage {
	const char *dir; /* of the run */
	bool away;       /* it was said */
};

/*
 * What to do about a failure of a file in the run's directory. 0: the mount was away, was waited for a moment, and
 * everything has to be opened again; else the negative errno, with a sentence.
 */
int client_recover(struct client_outage *o, int code, struct err *e);
/* The files could be opened. */
void client_recovered(struct client_outage *o);

/*
 * Waits until the run has ended; the exit status: the job's code, 1 where there is none or the run did not succeed all
 * the same. What happened is said on standard error unless it succeeded; `tail`: with the last lines of its stderr.
 */
int client_wait(const char *dir, bool tail);
/* The exit status for the text of a `wait` file; -1 when it is none. */
int client_status(const char *text);

/* --- documents for runs/new (client_spec.c) --- */

/* Adds KEY=VALUE to a spec; relative local paths become absolute, a relative workdir stays (client_workdir). 0, or
 * -EINVAL and a sentence a line in `errors`. */
int client_pair(json_t *spec, const char *word, struct strbuf *errors);
/* Is it KEY=VALUE? */
bool client_is_pair(const char *word);

struct client_doc {
	char *text;
	size_t len;
};

/*
 * Makes documents for runs/new of a spec file's bytes; `name` is for messages, `pairs` are laid over what the file
 * says. The number of documents (the caller frees texts and array), or -EINVAL with sentences in `errors`.
 */
int client_documents(const char *name, const char *text, size_t len, json_t *pairs, struct client_doc **out,
		     struct strbuf *errors);

/* How documents are written: reals with as many digits as people write. */
#define CLIENT_DUMP_FLAGS (JSON_COMPACT | JSON_REAL_PRECISION(15))

/* --- `workdir` (client_workdir.c) --- */

/* Is it the key of the working directory, with a path that depends on where one stands? */
bool client_workdir_relative(const char *key, const char *path);
/*
 * Makes a relative workdir of a document absolute when it goes to a cluster that is this machine; -EINVAL and a
 * sentence in `errors` when it goes elsewhere.
 */
int client_workdir(const char *mount, struct client_doc *doc, struct strbuf *errors);

#endif
