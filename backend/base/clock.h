/*
 * Time. All times are int64_t microseconds. `real` is since the epoch and is what users see; `mono` never
 * jumps and is what deadlines are made of. Code takes a `const struct clock *`, so that tests bring their own.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define USEC_PER_SEC 1000000
#define USEC_PER_MSEC 1000

struct clock {
	int64_t (*real)(const struct clock *);
	int64_t (*mono)(const struct clock *);
};

extern const struct clock clock_system;

static inline int64_t clock_real(const struct clock *c)
{
	return c->real(c);
}

static inline int64_t clock_mono(const struct clock *c)
{
	return c->mono(c);
}

/* "2026-01-31T12:00:00.123456Z"; `buf` takes CLOCK_TEXT bytes. */
#define CLOCK_TEXT 32
const char *clock_text(int64_t real_us, char buf[CLOCK_TEXT]);

#endif
