/*
 * The system's clocks, and times as text in UTC (RFC 3339).
 */
#include "backend/base/clock.h"

#include <stdio.h>
#include <time.h>

static int64_t now(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * USEC_PER_SEC + ts.tv_nsec / 1000;
}

static int64_t system_real(const struct clock *c)
{
	(void)c;
	return now(CLOCK_REALTIME);
}

static int64_t system_mono(const struct clock *c)
{
	(void)c;
	return now(CLOCK_MONOTONIC);
}

const struct clock clock_system = { system_real, system_mono };

const char *clock_text(int64_t real_us, char buf[CLOCK_TEXT])
{
	time_t s = (time_t)(real_us / USEC_PER_SEC);
	int us = (int)(real_us % USEC_PER_SEC);
	struct tm tm;
	size_t n;

	if (us < 0) {
		us += USEC_PER_SEC;
		s--;
	}
	if (!gmtime_r(&s, &tm))
		return "-";
	n = strftime(buf, CLOCK_TEXT, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(buf + n, CLOCK_TEXT - n, ".%06dZ", us);
	return buf;
}
