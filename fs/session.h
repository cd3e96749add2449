/*
 * The FUSE session of a worker: reads requests into shared memory, hands them to libfuse's low-level dispatcher,
 * notices which were answered, keeps the others for the next worker, and takes over what the last worker left. The kernel's side of the
 * rules is in docs/design; one thread.
 */
#ifndef FS_SESSION_H
#define FS_SESSION_H

#define FUSE_USE_VERSION 312
#include "backend/base/err.h"
#include "fs/shared.h"

#include <fuse_lowlevel.h>
#include <stdint.h>

struct session;

struct session_conf {
	int fuse_fd;
	struct shared *shared;
	const struct fuse_lowlevel_ops *ops;
	void *userdata;
};

int session_create(const struct session_conf *conf, struct session **out, struct err *e);
/* Never unmounts and answers nothing. */
void session_free(struct session *s);

/* INIT, then the parked requests in the order they came, then the one that was being processed. Call once, before the first
   step; on the first worker of a mount there is nothing to take over. */
int session_takeover(struct session *s, struct err *e);

/*
 * Reads and dispatches at most `max` requests. Number of requests; 0: nothing to read now (the descriptor is
 * non-blocking); -ENODEV: unmounted.
 */
int session_step(struct session *s, int max);
bool session_init_done(const struct session *s); /* the kernel's INIT has been answered */

/* The request being dispatched: its unique without the resend bit. Key of handles (OPEN) and of the journal (WRITE, MKDIR...). */
uint64_t session_unique(const struct session *s);
/* Is the request being dispatched one that an earlier worker had already read? */
bool session_replaying(const struct session *s);
/* POLL only: the kernel's poll handle of the request being dispatched (libfuse hides it). */
uint64_t session_poll_kh(const struct session *s);
/* Wakes a poller whose handle was kept. */
void session_notify_poll(struct session *s, uint64_t kh);
size_t session_parked(const struct session *s);

#endif
