/*
 * The document scanner: a state machine over single bytes. It decides where a document ends and leaves every
 * judgement of what is in it to spec_parse.
 *
 * Invariants: the state depends only on the bytes fed so far, never on how they were cut into pieces; a byte is
 * looked at once, except by memchr in a line; `form` is set once and `start` is valid from then on. A document
 * that is nested too deep stays so until scan_init.
 */
#include "backend/scan.h"

#include <string.h>

void scan_init(struct scan *s)
{
	memset(s, 0, sizeof(*s));
}

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Finds out the form from one byte; false while it is still open. */
static bool detect(struct scan *s, char c)
{
	if (s->hash) {
		s->form = c == '!' ? SCAN_SCRIPT : SCAN_LINE;
		return true;
	}
	if (is_space(c))
		return false;
	s->start = s->fed;
	if (c == '#')
		s->hash = true;
	else
		s->form = c == '{' ? SCAN_JSON : SCAN_LINE;
	return !s->hash;
}

/* One byte of JSON; only quotes, backslashes and brackets matter. */
static enum scan_result step_json(struct scan *s, char c)
{
	if (s->in_string) {
		if (s->escaped)
			s->escaped = false;
		else if (c == '\\')
			s->escaped = true;
		else if (c == '"')
			s->in_string = false;
		return SCAN_MORE;
	}
	if (c == '"')
		s->in_string = true;
	else if (c == '{' || c == '[')
		s->depth++;
	else if ((c == '}' || c == ']') && --s->depth == 0)
		return SCAN_COMPLETE;
	return s->depth > SPEC_MAX_DEPTH ? SCAN_TOO_DEEP : SCAN_MORE;
}

static enum scan_result feed_json(struct scan *s, const char *data, size_t len, size_t *used)
{
	for (size_t i = 0; i < len; i++) {
		enum scan_result r = s->depth > SPEC_MAX_DEPTH ? SCAN_TOO_DEEP : step_json(s, data[i]);

		if (r == SCAN_TOO_DEEP)
			return r;
		if (r == SCAN_COMPLETE) {
			*used = i + 1;
			return r;
		}
	}
	return s->depth > SPEC_MAX_DEPTH ? SCAN_TOO_DEEP : SCAN_MORE;
}

static enum scan_result feed_line(const char *data, size_t len, size_t *used)
{
	const char *nl = len ? memchr(data, '\n', len) : NULL;

	if (!nl)
		return SCAN_MORE;
	*used = (size_t)(nl - data) + 1;
	return SCAN_COMPLETE;
}

enum scan_result scan_feed(struct scan *s, const char *data, size_t len, size_t *used)
{
	enum scan_result r = SCAN_MORE;
	size_t skipped = 0, rest;

	/* The byte that decides is looked at again by its form: it may open a brace or end the line. */
	while (s->form == SCAN_NONE && skipped < len && !detect(s, data[skipped])) {
		skipped++;
		s->fed++;
	}
	rest = len - skipped;
	*used = rest;
	if (s->form == SCAN_JSON)
		r = feed_json(s, data + skipped, rest, used);
	else if (s->form == SCAN_LINE)
		r = feed_line(data + skipped, rest, used);
	s->fed += *used;
	*used += skipped;
	return r;
}
