/*
 * A cluster on this machine for tests: a transport whose channels are local processes (a shell, sftp-server) with
 * faults that can be switched on, and a scheduler driver whose jobs are background processes and whose queue is a
 * directory.
 */
#ifndef TESTS_LIB_FAKE_CLUSTER_H
#define TESTS_LIB_FAKE_CLUSTER_H

#include "backend/sched.h"
#include "backend/transport.h"

#include <stdatomic.h>

enum fake_sftp { FAKE_SFTP_OK, FAKE_SFTP_EMFILE, FAKE_SFTP_CLOSED };

/* Set by the test's thread, read by the cluster's. */
struct fake_faults {
	const char *home;        /* HOME and current directory of the channels */
	const char *shell;       /* "bash" or "dash" */
	atomic_int sftp;         /* enum fake_sftp */
	atomic_bool refuse;      /* log-ins are refused */
	atomic_bool unreachable; /* log-ins fail */
	atomic_bool stall;       /* nothing moves any more */
	atomic_long cut_at;      /* the connection breaks at the transfer with this number (from 1); 0: never */
	atomic_long cut_every;   /* the same at each multiple of this; 0: never */
	atomic_long transfers;   /* reads and writes that moved something, over all connections */
	atomic_int logins;
};
extern struct fake_faults fake;

extern const struct transport_ops transport_fake_ops;

/*
 * HOME/fake/ID/{token,state,pid} are the jobs. Files that steer it, all in HOME/fake: `hold` (jobs stay pending while
 * it is there), `mode` ("ok", "refuse", "before": fails before the job exists and says it does not know, "after": the
 * same after it exists), `down` (the queue cannot be asked).
 */
extern const struct sched_ops sched_fake_ops;

#endif
