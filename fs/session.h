/*
 * The FUSE session of a worker: reads requests into shared memory, hands them to libfuse's low-level dispatcher,
 * notices which were answered, keeps the others for the next worker, and takes over what the last worker left. The
 * kernel's side of the rules is in docs/design; one thread.
 */
#ifndef FS_SESSION_H
#define FS_SESSION_H

#define FUSE_USE_VERSION 312
#include "backend/base/err.h"
#include "fs/shared.h"

#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>

struct session;

/* Places between two steps, where a kill must do no harm. */
enum session_point {
	SESSION_READ,       /* the kernel handed over a request, nothing was done with it */
	SESSION_DISPATCHED, /* the operation returned; a request that stays is not in its slot yet */
	SESSION_PARKED,     /* it is in its slot and still the current one */
	SESSION_REPLYING,   /* effect done, answer not written */
	SESSION_REPLIED,    /* answer written, slot not cleared */
	SESSION_CLEARED,
	SESSION_TAKING_OVER, /* before each replayed request */
	SESSION_POINTS
};

struct session_conf {
	int fuse_fd; /* non-blocking; stays the caller's */
	struct shared *shared;
	const struct fuse_lowlevel_ops *ops; /* `destroy` is never called */
	void *userdata;
	void (*at_point)(enum session_point p); /* tests put a kill here; else NULL */
};

/* One session per process (libfuse's hooks cannot tell two apart). */
int session_create(const struct session_conf *conf, struct session **out, struct err *e);
/* Never unmounts and answers nothing. */
void session_free(struct session *s);

/* INIT, then the parked requests in the order they came, then the one that was being processed. Call once, before the
   first step; on the first worker of a mount there is nothing to take over. */
int session_takeover(struct session *s, struct err *e);

/*
 * Reads and dispatches at most `max` requests. Number of requests; 0: nothing to read now (the descriptor is
 * non-blocking); -ENODEV: unmounted.
 */
int session_step(struct session *s, int max);
bool session_init_done(const struct session *s); /* the kernel's INIT has been answered */

/* The request being dispatched: its unique without the resend bit. Key of handles (OPEN) and of the journal (WRITE,
 * MKDIR...). */
uint64_t session_unique(const struct session *s);
/* Is the request being dispatched one that an earlier worker had already read? */
bool session_replaying(const struct session *s);
/*
 * OPEN only: the file has no position (stream_open of the kernel: FOPEN_STREAM, which libfuse 3.14 cannot say). Every
 * offset is 0 then, and a read that waits does not keep other processes from using the same descriptor. Before the
 * answer.
 */
void session_stream(struct session *s);
/* POLL only: the kernel's poll handle of the request being dispatched (libfuse hides it). */
uint64_t session_poll_kh(const struct session *s);
/* Wakes a poller whose handle was kept. */
void session_notify_poll(struct session *s, uint64_t kh);
size_t session_parked(const struct session *s);

#endif
