/*
 * Numbered places between two steps, where a kill -9 must do no harm. A test may put a hook there (fs/die.h); without
 * one a place costs a load and a branch. Any thread; the hook may not return.
 */
#ifndef BACKEND_BASE_POINT_H
#define BACKEND_BASE_POINT_H

#include <stddef.h>

enum point {
	/* fs/session.c, in the order of enum session_point */
	POINT_SESSION_READ,
	POINT_SESSION_DISPATCHED,
	POINT_SESSION_PARKED,
	POINT_SESSION_REPLYING,
	POINT_SESSION_REPLIED,
	POINT_SESSION_CLEARED,
	POINT_SESSION_TAKING_OVER,
	/* conversations */
	POINT_CONV_SAVED,   /* the text to read back is on disk, the write is not marked as taken in */
	POINT_CONV_MARKED,  /* it is, and its writer has no answer */
	POINT_CONV_DECIDED, /* "accepted JOBID" is on disk, its reader has no answer */
	/* the journal's thread */
	POINT_STORE_COMMITTING, /* a group is written, its COMMIT is not asked for */
	POINT_STORE_COMMITTED,  /* it is durable, and nobody knows */
	/* the engine */
	POINT_ENGINE_CREATED,   /* a run is durable, its writer has no answer */
	POINT_ENGINE_ACCEPTED,  /* its writer has one, nothing else was done */
	POINT_ENGINE_COMMITTED, /* an event is durable and not applied */
	POINT_ENGINE_APPLIED,   /* applied, waiters were told, nothing was done about it */
	POINT_ENGINE_SENDING,   /* an attempt is about to be given to its cluster */
	POINT_ENGINE_SENT,
	POINT_ENGINE_CANCEL_SENT,
	POINT_ENGINE_END_RECEIVED,
	POINT_ENGINE_END_HELD, /* the list of results is here, the end is not posted */
	/* the cluster of this machine */
	POINT_LOCAL_PREPARED, /* the attempt's directory is made, nothing was reported */
	POINT_LOCAL_SUBMITTED,
	POINT_LOCAL_STARTED,   /* the supervisor's process is there, nobody has noted it */
	POINT_LOCAL_RUNNING,   /* `running` was reported */
	POINT_LOCAL_CANCELLED, /* the supervisor was told, the verb has no answer */
	POINT_LOCAL_ENDING,    /* the supervisor is gone, nothing was looked at */
	POINT_LOCAL_ENDED,     /* the end was reported */
	/* clusters behind a transport */
	POINT_REMOTE_SENDING,  /* the submission is about to leave */
	POINT_REMOTE_SENT,     /* submissions are on their way */
	POINT_REMOTE_ANSWERED, /* the scheduler's answer is here, nothing was reported */
	POINT_REMOTE_SUBMITTED,
	POINT_REMOTE_CANCEL_SENT,
	POINT_REMOTE_RECORD, /* an exit record came in */
	POINT_REMOTE_ENDED,
	/* log copies */
	POINT_SPOOL_DATA, /* bytes without their order record */
	POINT_SPOOL_APPENDED,
	POINT_EVENTS_DATA,   /* bytes of messages that nobody has judged */
	POINT_EVENTS_JUDGED, /* their lines are visible, nobody was told */
	/* the feed (the root's `events`) */
	POINT_FEED_HALF,    /* lines are journaled, and in the file in part */
	POINT_FEED_WRITTEN, /* they are in the file, nobody was told */
	POINT_FEED_POSTED,  /* a run's messages are on their way to the journal */
	/* what is taken away to make room */
	POINT_CLEAN_JOURNALED, /* a run's directories are to go, its cluster does not know */
	POINT_CACHE_NAMED,     /* fetched results are to go, the journal knows */
	POINT_CACHE_CONFIRMED, /* their cluster still has them */
	POINT_CACHE_UNLINKED,  /* one is gone */
	POINT_N
};

extern void (*point_hook)(enum point p);

static inline void point(enum point p)
{
	if (point_hook)
		point_hook(p);
}

const char *point_name(enum point p);
int point_of(const char *name); /* -1: there is none */

#endif
