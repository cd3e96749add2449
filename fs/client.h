/*
 * The sub-commands that are thin clients of the mounted tree, and what they share. They wait with poll(2) and open again
 * what a restarted keeper closed; nothing is possible only through them.
 */
#ifndef FS_CLIENT_H
#define FS_CLIENT_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

/* Each is given its own argv (argv[0] is the sub-command) and returns the exit status. */
int client_submit_main(int argc, char **argv);
int client_follow_main(int argc, char **argv);
int client_doctor_main(int argc, char **argv);

/* $XDG_STATE_HOME/slurmray, else ~/.local/state/slurmray, when that is on a local disk; else /var/tmp/slurmray-UID. The
   caller frees. */
char *client_default_state(void);

/* Loads the configuration only to say what is wrong with it before anything is started. NULL: the default path. */
int client_check_config(const char *path, struct err *e);

/* The mount to use: `option` (may be NULL), else $SLURMRAY_MOUNT, else the only slurmray mount of this user; the caller frees. */
char *client_find_mount(const char *option, struct err *e);

/* Copies the run's stdout and stderr to ours until it has ended; prints `why` on failure; the exit status. */
int client_follow(const char *mount, const char *run);

#endif
