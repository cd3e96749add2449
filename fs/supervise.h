/*
 * The keeper's life once everything is open: mount, start a worker, start it again when it dies, stop, unmount.
 */
#ifndef FS_SUPERVISE_H
#define FS_SUPERVISE_H

#include "fs/keeper.h"
#include "fs/shared.h"

struct supervise_conf {
	const struct mount_conf *mount;
	const char *dir; /* resolved */
	int fuse_fd;     /* -1: mounting gives it */
	int lock_fd;
	int tell_fd; /* gets one line when the tree answers or cannot: "ok" or "error CODE TEXT"; -1: nobody listens */
	struct shared *shared;
};

/* Returns when the mount is gone: 0, or why it could not be served (only then `e` is set). */
int supervise(const struct supervise_conf *conf, struct err *e);

#endif
