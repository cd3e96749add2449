/*
 * The state directory as the keeper sees it: who may use it, and who does. STATE/lock is locked (flock) for as long as
 * a keeper or a worker lives and holds "PID DIR\n" of the keeper; STATE/worker.pid holds the worker's pid.
 */
#ifndef FS_STATEDIR_H
#define FS_STATEDIR_H

#include "backend/base/err.h"

#include <sys/types.h>

/*
 * Makes the directory (0700) when it is not there, checks owner and mode, and locks it for a mount on `dir`. *fd is the
 * lock's descriptor. -EBUSY: in use; the text names the pid and the mount.
 */
int statedir_lock(const char *state_dir, const char *dir, int *fd, struct err *e);
void statedir_note_keeper(int lock_fd, pid_t pid, const char *dir);
/* 0: there is none. */
void statedir_note_worker(const char *state_dir, pid_t pid);
/* STATE/log for appending, or negative errno. */
int statedir_open_log(const char *state_dir, struct err *e);

#endif
