/*
 * What the keeper answers while no worker gets ready: nobody may wait for ever. Only between two workers, for both read
 * /dev/fuse and write the shared memory.
 */
#ifndef FS_OUTAGE_H
#define FS_OUTAGE_H

#include "fs/shared.h"

/* Answers what earlier workers had read: ETIMEDOUT where something may have been changed, else ENODEV. */
void outage_begin(const struct shared *shared, int fuse_fd);
/* Reads one request, which is there, and answers it with ENODEV. A close is kept for the next worker. */
void outage_step(const struct shared *shared, int fuse_fd);

#endif
