/*
 * Running fusermount3, the setuid helper by which ordinary users mount (fusermount3(1)).
 */
#ifndef FS_FUSERMOUNT_H
#define FS_FUSERMOUNT_H

#include "backend/base/err.h"

#define FUSERMOUNT "fusermount3"

/* With `fd`: takes the /dev/fuse descriptor that the helper sends. Its own words are in the error. Has a deadline. */
int fusermount_run(const char *const argv[], int *fd, struct err *e);

#endif
