/*
 * Private to fuse_ll.c and fuse_change.c: what every operation does, and the operations that change directories.
 */
#ifndef FS_FUSE_LL_H
#define FS_FUSE_LL_H

#include "fs/fsys.h"

struct fsys *fsys_of(fuse_req_t req);
void reply_rc(fuse_req_t req, int rc);
int fill_entry(struct fsys *fs, uint64_t ino, struct fuse_entry_param *ep);
void reply_entry(struct fsys *fs, fuse_req_t req, int rc, uint64_t ino);

void change_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void change_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void change_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void change_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t to, const char *new_name,
		   unsigned int flags);
void change_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void change_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev);
void change_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void change_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);

#endif
