/*
 * JSON text that is looked at where it lies, in the dialect of Python's json module (NaN, lone surrogates, the last of
 * equal names counts): messages may be hundreds of megabytes long, and what Python takes is what Dagster's reader takes.
 * Checked once as a whole (pjson_check), then walked with pjson_next. Pure; no memory, no recursion.
 */
#ifndef BACKEND_PJSON_H
#define BACKEND_PJSON_H

#include <stdbool.h>
#include <stddef.h>

enum pjson_type { PJSON_OBJECT, PJSON_ARRAY, PJSON_STRING, PJSON_INT, PJSON_FLOAT, PJSON_TRUE, PJSON_FALSE, PJSON_NULL };

/* A value and its text, with quotes or brackets. */
struct pjson {
	enum pjson_type type;
	const char *s;
	size_t len;
};

enum pjson_fault { PJSON_GOOD, PJSON_SYNTAX, PJSON_UTF8, PJSON_DEEP, PJSON_DIGITS };

/* Is the text one value, with blanks around it? `top` is filled when it is. */
enum pjson_fault pjson_check(const char *text, size_t len, struct pjson *top);

/* The next member of an object (key is filled) or element of an array (key may be NULL). *at is 0 at first; false at the end. */
bool pjson_next(const struct pjson *in, size_t *at, struct pjson *key, struct pjson *value);

/* Is it the string `text`? */
bool pjson_is(const struct pjson *v, const char *text);
/* Decodes a string to UTF-8 with its final NUL, cut at `size`; NUL and lone surrogates become '?'. */
void pjson_text(const struct pjson *v, char *buf, size_t size);
/* Can the string be written as UTF-8: has it no lone surrogates? */
bool pjson_encodable(const struct pjson *v);
bool pjson_empty(const struct pjson *v); /* an object or array without members */

#endif
