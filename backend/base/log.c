/*
 * The daemon's log. State is the descriptor and the level, set once before threads start.
 */
#include "backend/base/log.h"

#include "backend/base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int log_fd = STDERR_FILENO;
static enum log_level log_max = LOG_WARN;

void log_setup(int fd, enum log_level max)
{
	log_fd = fd;
	log_max = max;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "error", "warn", "info", "debug" };
	char line[2048], when[CLOCK_TEXT];
	int saved = errno;
	va_list ap;
	size_t n;

	if (level > log_max)
		return;
	n = (size_t)snprintf(line, sizeof(line), "%s %s ", clock_text(clock_real(&clock_system), when), names[level]);
	va_start(ap, fmt);
	(void)vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = strlen(line);
	line[n++] = '\n';
	(void)!write(log_fd, line, n);
	errno = saved;
}
