/*
 * Messages of Dagster Pipes: which lines of a job's message file are ones that Dagster's file reader survives, and what
 * they report. Its reader dies, silently, of anything that its handler does not take (measured with Dagster 1.10
 * and 1.13), so a line is accepted only when all releases from the oldest supported one on take it. Pure.
 */
#ifndef BACKEND_PIPES_H
#define BACKEND_PIPES_H

#include "backend/base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>

/* What a piece of the message file is; the numbers are on the disk (spool_format.h). */
enum pipes_kind {
	PIPES_REJECTED = 0,
	PIPES_RESTART = 1,         /* no bytes: the job cut its file, and what follows is from its beginning */
	PIPES_OTHER = 2,           /* opened, log_external_stream, and what is around the parameters of a report */
	PIPES_MATERIALIZATION = 3, /* parameters of a report, and the line's end */
	PIPES_CHECK = 4,
	PIPES_LOG = 5,
	PIPES_CUSTOM = 6,
	PIPES_CLOSED = 7,      /* a whole line */
	PIPES_FAILED = 8,      /* closed with an exception */
	PIPES_HOLD = 9,        /* no bytes, the first one: reports are held until no other start can follow */
	PIPES_START = 10,      /* the line that the wrapper writes when a job starts again */
	PIPES_SUPERSEDED = 11, /* a line of an earlier start, from its first report on */
	PIPES_N_KINDS
};

/* Why a line was rejected; the numbers are on the disk. */
enum pipes_reason {
	PIPES_FINE,
	PIPES_BLANK,
	PIPES_NOT_UTF8,
	PIPES_NOT_JSON,
	PIPES_DEEP,
	PIPES_DIGITS,
	PIPES_RETURN,
	PIPES_NO_MESSAGE,
	PIPES_METHOD,
	PIPES_PARAMS,
	PIPES_TYPE,
	PIPES_LEVEL,
	PIPES_SEVERITY,
	PIPES_STREAM,
	PIPES_METADATA,
	PIPES_EXCEPTION,
	PIPES_TORN,
	PIPES_CUT,
	PIPES_N_REASONS
};

struct pipes_verdict {
	enum pipes_kind kind;
	enum pipes_reason reason; /* PIPES_REJECTED */
	size_t torn; /* leading bytes that are a piece of another message (rejected), the rest is accepted */
	size_t params, params_len; /* of reports: where their parameters are in the line */
};

/* `line` with its newline if it has one (the last line of a file may have none). */
void pipes_judge(const char *line, size_t len, struct pipes_verdict *v);

/* Is it the line between two starts of a job (PIPES_START)? */
bool pipes_is_start(const char *line, size_t len);

/* A sentence without a dot. */
const char *pipes_reason_text(enum pipes_reason reason);

/* The exception in a line of kind PIPES_FAILED as `NAME: MESSAGE`, one line, shortened. */
void pipes_exception(const char *line, size_t len, struct strbuf *out);

/* The method (without quotes) and the parameters in a line that was accepted; false: it is no message. Borrowed from
 * it.
 */
struct pipes_parts {
	const char *method, *params;
	size_t method_len, params_len;
};
bool pipes_parts(const char *line, size_t len, struct pipes_parts *out);

/* Calls back for each number in the metadata of a materialization's parameters; `number` is valid JSON, `len` bytes. */
void pipes_numbers(const char *params, size_t params_len,
		   void (*cb)(void *arg, const char *name, const char *number, size_t len), void *arg);

#endif
