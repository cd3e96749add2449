/*
 * The file `errors`: what was refused, when, of whom, and why. The newest lines are in memory, all are in the journal.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "backend/spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REJECTED_KEEP ((size_t)256 * 1024) /* bytes in memory; the journal has the rest */
#define REJECTED_TEXT ((size_t)2000)       /* of the document, in a row */

/* As much of a text as goes into a row, without cutting a character in two (RFC 3629: 10xxxxxx continues one). */
static size_t shown(const char *text, size_t len)
{
	if (len <= REJECTED_TEXT)
		return len;
	len = REJECTED_TEXT;
	while (len && ((unsigned char)text[len] & 0xc0) == 0x80)
		len--;
	return len;
}

/* Text that is valid UTF-8, for JSON: other bytes become '?'. */
static json_t *json_text(const char *text, size_t len)
{
	json_t *j = json_stringn(text, len);
	char *copy;

	if (j)
		return j;
	copy = xmalloc(len + 1);
	for (size_t i = 0; i < len; i++)
		copy[i] = (char)((unsigned char)text[i] < 0x80 && text[i] ? text[i] : '?');
	j = json_stringn(copy, len);
	free(copy);
	return j;
}

void engine_rejected_add(struct engine *en, int64_t time, uint32_t uid, const char *text, size_t len, const char *why)
{
	char when[CLOCK_TEXT];
	json_t *row = json_object();
	char *line;

	(void)json_object_set_new(row, "time", json_string(clock_text(time, when)));
	(void)json_object_set_new(row, "uid", json_integer(uid));
	(void)json_object_set_new(row, "text", json_text(text, shown(text, len)));
	(void)json_object_set_new(row, "why", json_text(why, strlen(why)));
	line = json_dumps(row, JSON_COMPACT);
	json_decref(row);
	strbuf_addf(&en->rejected, "%s\n", line);
	free(line);
	if (en->rejected.len > REJECTED_KEEP) {
		const char *nl = strchr(en->rejected.buf + en->rejected.len - REJECTED_KEEP / 2, '\n');

		if (nl)
			strbuf_remove(&en->rejected, 0, (size_t)(nl - en->rejected.buf) + 1);
	}
}

void engine_refuse(struct engine *en, uint32_t uid, const char *text, size_t len, const char *why, int code,
		   engine_done cb, void *arg)
{
	int64_t now = clock_real(en->clock);
	cleanup_strbuf struct strbuf kept = STRBUF_INIT, said = STRBUF_INIT;
	uint64_t ticket;
	struct pending *p = engine_pending(en, PENDING_REFUSAL, 0, &ticket);
	struct store_txn *t = store_txn_new(ticket, true);

	if (spec_redact(text, len, &kept) != SPEC_AS_IT_IS) {
		text = kept.buf;
		len = kept.len;
		strbuf_addstr(&said, why);
		spec_redact_why(&said);
		why = said.buf;
	}
	p->code = code;
	p->result = xstrdup(why);
	p->done = cb;
	p->arg = arg;
	engine_rejected_add(en, now, uid, text, len, why);
	store_txn_rejected(t, now, uid, text, shown(text, len), why);
	store_post(en->store, t);
}

void engine_note_rejected(struct engine *en, uint32_t uid, const char *text, size_t len, const char *why)
{
	engine_refuse(en, uid, text, len, why, -EINVAL, NULL, NULL);
}

const struct strbuf *engine_rejected(const struct engine *en)
{
	return &en->rejected;
}
