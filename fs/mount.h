/*
 * Mounting and unmounting of the tree, and what /proc/self/mountinfo says about mounts. No function here touches the
 * tree itself in this process: a dead or stuck server cannot hang the caller.
 */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <sys/types.h>

#define MOUNT_TYPE "fuse.slurmray"
/* The source of a mount is this and the keeper's pid. */
#define MOUNT_SOURCE "slurmray#"

struct mount_entry {
	char *point, *type, *source;
};

void mount_entry_release(struct mount_entry *m);
/* The topmost mount at `dir` (as mount_resolve gives it): 1 found, 0 none, or a negative errno. */
int mount_lookup(const char *dir, struct mount_entry *out);
/* The mount with this type and source, wherever it is now: 1, 0 or negative errno. */
int mount_lookup_source(const char *source, struct mount_entry *out);
bool mount_is_ours(const struct mount_entry *m);
pid_t mount_keeper(const struct mount_entry *m); /* 0: the source does not say */

/* Absolute path without links, as mountinfo has it; the last component is not followed into a mount. */
int mount_resolve(const char *dir, char **out, struct err *e);

/* Can something be mounted on `dir`? A dead mount of ours is taken away first. */
int mount_prepare(const char *dir, struct err *e);

/* Is there a /dev/fuse that we may use? For root also opens it (non-blocking); for others *fd is -1. */
int mount_open_device(int *fd, struct err *e);

struct mount_options {
	const char *dir, *source;
	bool allow_other;
};

/* Mounts: root with mount(2) on *fd, others through fusermount3, which sets *fd. */
int mount_attach(const struct mount_options *opt, int *fd, struct err *e);
/* Unmounts; lazy: even when it is in use. */
int mount_detach(const char *dir, bool lazy, struct err *e);

#endif
