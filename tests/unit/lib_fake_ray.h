/*
 * A Ray head in a thread: the Jobs REST API and the agent's logs, as far as they matter, with real drivers (the
 * entrypoint is run by sh with its stdout in a log file, as Ray does) and with faults. One at a time.
 */
#ifndef TESTS_LIB_FAKE_RAY_H
#define TESTS_LIB_FAKE_RAY_H

#include <stdbool.h>
#include <stddef.h>

enum fake_ray_fault {
	FAKE_RAY_OK,
	FAKE_RAY_CUT_BEFORE, /* closes without having done what is asked */
	FAKE_RAY_CUT_AFTER,  /* does it, and closes without an answer */
	FAKE_RAY_500,        /* an answer of the kind "No available agent" */
	FAKE_RAY_400,
	FAKE_RAY_413,
	FAKE_RAY_GARBAGE, /* 200 and bytes that mean nothing */
	FAKE_RAY_HALF,    /* half of the answer */
};

struct fake_ray {
	char root[64], logs[96], work[96], address[64];
	int port;
	/* faults: of the next `count` requests whose "METHOD PATH" begins with `on` */
	enum fake_ray_fault fault;
	const char *on;
	int count;
	const char *token;      /* required, or NULL */
	_Atomic bool pending;   /* drivers do not start */
	_Atomic bool no_ranges; /* the agent gives whole files */
	char session[64];
	const char *foreign; /* a submission id that is somebody else's job */
	/* what was seen */
	_Atomic int posts, starts, stops, deletes, puts; /* counted by its thread, looked at by the test */
	char *last_body;
};

struct fake_ray *fake_ray_new(void);
void fake_ray_free(struct fake_ray *f);
/* A head that was killed and started again: no jobs, a new session; drivers get another parent and end. */
void fake_ray_restart(struct fake_ray *f);
void fake_ray_lock(struct fake_ray *f);
void fake_ray_unlock(struct fake_ray *f);
/* Sets a fault under the lock. */
void fake_ray_break(struct fake_ray *f, enum fake_ray_fault fault, const char *on, int count);

#endif
