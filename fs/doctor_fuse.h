/*
 * The checks of `slurmray doctor` that have to do with FUSE.
 */
#ifndef FS_DOCTOR_FUSE_H
#define FS_DOCTOR_FUSE_H

#include "backend/doctor.h"

/* Kernel, libfuse, /dev/fuse, fusermount3, limits in `sysctl_dir` (/proc/sys/fs/fuse). */
void doctor_fuse(struct doctor *d, const char *sysctl_dir);
void doctor_fuse_limits(struct doctor *d, const char *sysctl_dir);
/* The mounts of this user, by a table like /proc/self/mounts. */
void doctor_mounts(struct doctor *d, const char *table);

#endif
