/*
 * The keeper: mounts, holds /dev/fuse, the shared memory and the state directory's lock, starts the worker again when
 * it dies, and goes when the mount is gone. It knows nothing of runs.
 */
#ifndef FS_KEEPER_H
#define FS_KEEPER_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <sys/types.h>

struct mount_conf {
	char *dir;         /* absolute mount point */
	char *state_dir;   /* absolute */
	char *config_path; /* absolute, or NULL */
	bool foreground, allow_other, verbose;
	char *allow_uids;   /* list of --allow-uid, or NULL */
	int backoff_max_ms; /* longest pause before a worker that keeps dying is started again; 0: 5000 */
	int outage_ms;      /* without a worker that serves for so long: requests get ENODEV; 0: 30000 */
	int start_ms;       /* for a worker to get ready once the tree was served; 0: 60000, more at each try */
};

/*
 * Mounts and serves. Without --foreground returns in the parent once the tree answers (0), or with an error text; in
 * the foreground returns when unmounted. Errors, each a sentence that says what to do: not a directory, not empty,
 * already mounted, no /dev/fuse, not allowed to use it, state directory in use (by which pid and mount), dead mount
 * that cannot be taken away, what the worker said when it could not start.
 */
int keeper_mount(const struct mount_conf *conf, struct err *e);

/* `slurmray umount`: asks the worker (SIGTERM by way of the keeper) to answer its parked readers and waits until the
   mount is gone, at most deadline_ms; dead mounts are detached. */
int keeper_umount(const char *dir, int deadline_ms, struct err *e);

/*
 * The worker's main function (fs/worker.c). `ready_fd` >= 0: one line is written when the tree answers ("ok\n") or
 * cannot
 * ("error TEXT\n"). Returns the exit status: 0 unmounted or asked to stop; 75 (EX_TEMPFAIL) start me again; else an
 * error.
 */
struct worker_conf {
	const struct mount_conf *mount;
	int fuse_fd, shared_fd, ready_fd;
};

/*
 * The hidden arguments by which the keeper starts a worker: `--worker FUSEFD,SHAREDFD,READYFD,LOCKFD --state DIR
 * [--config FILE]
 * [--allow-other] [--allow-uid LIST] [--verbose] DIR`. Fills both structs (strings point into argv) and closes the
 * descriptors on exec; the lock's is not named in the struct: it lives as long as the process, and keeps the state
 * directory from a second mount even when the keeper was killed. 0, or -EINVAL.
 */
int worker_args(int argc, char **argv, struct mount_conf *mount, struct worker_conf *out, struct err *e);
/* Writes the line to ready_fd ("ok", or "error TEXT" with the text of `e`) and closes it; -1 is harmless. */
void worker_ready(int ready_fd, const struct err *e);

int worker_main(const struct worker_conf *conf);

#endif
