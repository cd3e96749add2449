/*
 * Events. The names in the table below are what the journal holds, so they never change; a new type gets a new
 * name. An event owns its JSON object, which is never NULL.
 */
#include "backend/event.h"

#include "backend/base/mem.h"

#include <assert.h>
#include <string.h>

static const char *const names[EV_N] = {
	[EV_CREATE] = "create",
	[EV_DRAFT] = "draft",
	[EV_HOLD_WANTED] = "hold_wanted",
	[EV_RELEASE_WANTED] = "release_wanted",
	[EV_CANCEL_WANTED] = "cancel_wanted",
	[EV_SUBMITTING] = "submitting",
	[EV_SUBMITTED] = "submitted",
	[EV_STATE] = "state",
	[EV_UNKNOWN] = "unknown",
	[EV_KNOWN] = "known",
	[EV_LOST] = "lost",
	[EV_END] = "end",
	[EV_REJECTED] = "rejected",
	[EV_FACTS] = "facts",
	[EV_PURGE] = "purge",
};

const char *event_name(enum event_type type)
{
	assert((unsigned)type < EV_N);
	return names[type];
}

int event_type_of(const char *name)
{
	for (int i = 0; i < EV_N; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

struct event *event_new(enum event_type type, int64_t time, json_t *data)
{
	struct event *ev = xcalloc(1, sizeof(*ev));

	assert((unsigned)type < EV_N);
	assert(!data || json_is_object(data));
	ev->type = type;
	ev->time = time;
	ev->data = data ? data : json_object();
	return ev;
}

void event_free(struct event *ev)
{
	if (!ev)
		return;
	json_decref(ev->data);
	free(ev);
}

const char *event_str(const struct event *ev, const char *key)
{
	return json_string_value(json_object_get(ev->data, key));
}

long long event_int(const struct event *ev, const char *key, long long other)
{
	const json_t *v = json_object_get(ev->data, key);

	return json_is_integer(v) ? json_integer_value(v) : other;
}
