/*
 * Anything that may lie in ends/: taken whole or not at all, numbers in range, and what was taken gives an end.
 */
#include "backend/base/mem.h"
#include "backend/sched.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const verdicts[] = {
		NULL, "timeout", "cancelled", "out_of_memory", "node_failed", "failed"
	};
	cleanup_free char *text = NULL;
	struct exit_record r;
	struct err e = ERR_INIT;
	struct event *ev;

	if (!size)
		return 0;
	text = xstrndup((const char *)data + 1, size - 1);
	if (exit_record_parse(text, &r, &e)) {
		assert(e.text[0]);
		return 0;
	}
	assert(r.version >= 1 && r.run >= 1 && r.attempt >= 1);
	assert(r.rc >= -1 && r.rc <= 255);
	assert(r.out_len >= -1 && r.err_len >= -1 && r.maxrss >= -1 && r.cpu_us >= -1 && r.start >= 0 && r.end >= 0);
	ev = exit_record_event(&r, verdicts[(data[0] & 127) % ARRAY_SIZE(verdicts)], data[0] >> 7, 1);
	assert(ev->type == EV_END && event_str(ev, "status") && event_str(ev, "why"));
	event_free(ev);
	return 0;
}
