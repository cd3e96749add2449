/*
 * Memory that keeper and workers share (a memfd that survives exec): what a new worker needs to go on where a killed
 * one stopped. Written by one worker at a time; read by the next one. Every update is ordered so that a kill between
 * any two stores leaves something that can be taken over (payload first, the field that makes it valid last).
 *
 * Holds: the request that is being read or processed (`cur`), the requests that are parked (slots), the INIT request
 * with our answer to it, and a small record per open handle.
 */
#ifndef FS_SHARED_H
#define FS_SHARED_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The largest WRITE that is asked for, and with it the largest request (libfuse reserves a page for headers). */
#define SHARED_MAX_WRITE (128 * 1024)
#define SHARED_REQUEST_MAX (SHARED_MAX_WRITE + 4096)

struct shared;

/* What a handle must remember beyond a worker's life. All zero but fh when new. */
struct shared_handle {
	uint64_t fh; /* unique of the OPEN; 0: free record */
	uint64_t ino;
	uint64_t cursor;    /* own read position (conversation files) */
	uint64_t last_read; /* unique of the last READ that moved the cursor, and by how much */
	uint64_t last_read_len;
	uint64_t last_write; /* unique of the last WRITE that was taken in */
	uint64_t poll_kh;    /* kernel poll handle, 0: nobody polls */
	uint32_t flags;      /* of open(2) */
	uint32_t user;       /* free for the file's class */
	uint64_t user64;
	uint64_t spare;
};

/* keeper: makes the area; worker: maps it by descriptor. The mount id is random and never 0. */
int shared_create(struct shared **out, struct err *e);
int shared_attach(int fd, struct shared **out, struct err *e);
void shared_detach(struct shared *sh);
int shared_fd(const struct shared *sh);
uint64_t shared_mount_id(const struct shared *sh);

/* Finds a record, or (with create) makes one; NULL: not there, or no room (-ENFILE for the opener). */
struct shared_handle *shared_handle_get(struct shared *sh, uint64_t fh, bool create);
void shared_handle_drop(struct shared *sh, uint64_t fh);
/* Calls back for every record in use; the callback may drop the one it is given. */
void shared_handle_walk(struct shared *sh, void (*cb)(void *arg, struct shared_handle *h), void *arg);

/*
 * The request that is being read or processed, as the kernel wrote it: read(2) goes straight into this buffer of
 * SHARED_REQUEST_MAX bytes, so that no instruction of ours lies between the kernel's hand-over and its being kept. It
 * is there when its unique (a field of its header) is not 0; `len` is checked against the buffer.
 */
void *shared_cur(struct shared *sh);
uint64_t shared_cur_unique(const struct shared *sh);
void shared_cur_clear(struct shared *sh);

/* The unique that the worker is working on at this moment, 0: none. What it was when a worker died tells the keeper
   which request did it. */
void shared_set_busy(struct shared *sh, uint64_t unique);
uint64_t shared_busy(const struct shared *sh);
/* Forgets a request wherever it is: it was answered by the keeper. */
void shared_forget(struct shared *sh, uint64_t unique);

/* Parked requests. Park copies: 0, or -ENOMEM when there is no slot left that is large enough. Unpark is harmless on
   one that is not there. */
int shared_park(struct shared *sh, uint64_t unique, const void *data, size_t len);
void shared_unpark(struct shared *sh, uint64_t unique);
const void *shared_parked_data(const struct shared *sh, uint64_t unique, size_t *len); /* NULL: not parked */
size_t shared_parked(const struct shared *sh);
/* Their uniques in the order in which they were parked; the caller frees *out. */
size_t shared_parked_list(const struct shared *sh, uint64_t **out);

/* The INIT request and our answer, each at most SHARED_INIT_MAX bytes (-EFBIG). */
#define SHARED_INIT_MAX 512
int shared_init_save(struct shared *sh, const void *request, size_t len, const void *reply, size_t reply_len);
const void *shared_init_request(const struct shared *sh, size_t *len); /* NULL: none yet */
const void *shared_init_reply(const struct shared *sh, size_t *len);

#endif
