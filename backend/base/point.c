/*
 * Names of the places where a test may put a kill. Owns nothing but the hook, which is set before threads start and
 * never again.
 */
#include "backend/base/point.h"

#include "backend/base/mem.h"

#include <assert.h>
#include <string.h>

void (*point_hook)(enum point p);

static const char *const names[POINT_N] = {
	[POINT_SESSION_READ] = "session.read",
	[POINT_SESSION_DISPATCHED] = "session.dispatched",
	[POINT_SESSION_PARKED] = "session.parked",
	[POINT_SESSION_REPLYING] = "session.replying",
	[POINT_SESSION_REPLIED] = "session.replied",
	[POINT_SESSION_CLEARED] = "session.cleared",
	[POINT_SESSION_TAKING_OVER] = "session.taking-over",
	[POINT_CONV_SAVED] = "conv.saved",
	[POINT_CONV_MARKED] = "conv.marked",
	[POINT_CONV_DECIDED] = "conv.decided",
	[POINT_STORE_COMMITTING] = "store.committing",
	[POINT_STORE_COMMITTED] = "store.committed",
	[POINT_ENGINE_CREATED] = "engine.created",
	[POINT_ENGINE_ACCEPTED] = "engine.accepted",
	[POINT_ENGINE_COMMITTED] = "engine.committed",
	[POINT_ENGINE_APPLIED] = "engine.applied",
	[POINT_ENGINE_SENDING] = "engine.sending",
	[POINT_ENGINE_SENT] = "engine.sent",
	[POINT_ENGINE_CANCEL_SENT] = "engine.cancel-sent",
	[POINT_ENGINE_END_RECEIVED] = "engine.end-received",
	[POINT_ENGINE_END_HELD] = "engine.end-held",
	[POINT_LOCAL_PREPARED] = "local.prepared",
	[POINT_LOCAL_SUBMITTED] = "local.submitted",
	[POINT_LOCAL_STARTED] = "local.started",
	[POINT_LOCAL_RUNNING] = "local.running",
	[POINT_LOCAL_CANCELLED] = "local.cancelled",
	[POINT_LOCAL_ENDING] = "local.ending",
	[POINT_LOCAL_ENDED] = "local.ended",
	[POINT_REMOTE_SENDING] = "remote.sending",
	[POINT_REMOTE_SENT] = "remote.sent",
	[POINT_REMOTE_ANSWERED] = "remote.answered",
	[POINT_REMOTE_SUBMITTED] = "remote.submitted",
	[POINT_REMOTE_CANCEL_SENT] = "remote.cancel-sent",
	[POINT_REMOTE_RECORD] = "remote.record",
	[POINT_REMOTE_ENDED] = "remote.ended",
	[POINT_SPOOL_DATA] = "spool.data",
	[POINT_SPOOL_APPENDED] = "spool.appended",
	[POINT_EVENTS_DATA] = "events.data",
	[POINT_EVENTS_JUDGED] = "events.judged",
	[POINT_FEED_HALF] = "feed.half",
	[POINT_FEED_WRITTEN] = "feed.written",
	[POINT_FEED_POSTED] = "feed.posted",
	[POINT_CLEAN_JOURNALED] = "clean.journaled",
	[POINT_CACHE_NAMED] = "cache.named",
	[POINT_CACHE_CONFIRMED] = "cache.confirmed",
	[POINT_CACHE_UNLINKED] = "cache.unlinked",
};

const char *point_name(enum point p)
{
	assert((unsigned)p < POINT_N);
	return names[p];
}

int point_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return -1;
}
