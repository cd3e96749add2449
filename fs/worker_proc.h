/*
 * A worker as a process: how it is started (fork and exec of this program with hidden arguments) and heard.
 */
#ifndef FS_WORKER_PROC_H
#define FS_WORKER_PROC_H

#include "fs/keeper.h"

enum { WORKER_LINE_MAX = 1024 };

struct worker_proc {
	pid_t pid;    /* 0: none */
	int ready_fd; /* where its line comes from; -1: it came, or will not */
	char line[WORKER_LINE_MAX];
	size_t len;
};

struct worker_start {
	const struct mount_conf *mount;
	const char *dir;
	int fuse_fd, shared_fd, lock_fd;
	bool own_image; /* start the very program that runs now, even when its file was replaced since */
};

int worker_proc_start(struct worker_proc *w, const struct worker_start *st, struct err *e);
/* 1: the line is complete and in `text`; 0: not yet, or it had come before. */
int worker_proc_line(struct worker_proc *w, char *text, size_t size);
/* After it was waited for. */
void worker_proc_release(struct worker_proc *w);

#endif
