/*
 * Anything that a job may write into its message file: a verdict whose parts are inside the line, and reports that can be looked into.
 */
#include "backend/base/mem.h"
#include "backend/pipes.h"

#include <assert.h>
#include <jansson.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void note(void *arg, const char *name, const char *number, size_t len)
{
	json_t *v = json_loadb(number, len, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);

	(void)arg;
	assert(strlen(name) < 128);
	json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	char *line = xmalloc(size ? size : 1); /* as long as it is, so that a byte behind it is seen */
	struct pipes_verdict v;

	memcpy(line, data, size);
	pipes_judge(line, size, &v);
	assert(v.kind == PIPES_REJECTED || v.kind >= PIPES_OTHER);
	assert((v.reason != PIPES_FINE) == (v.kind == PIPES_REJECTED || v.torn));
	assert(v.torn <= size && v.params <= size && v.params_len <= size - v.params);
	if (v.params_len) {
		assert(line[v.params] == '{' && line[v.params + v.params_len - 1] == '}');
		pipes_numbers(line + v.params, v.params_len, note, NULL);
	}
	if (v.kind == PIPES_FAILED && !v.torn) {
		pipes_exception(line, size, &text);
		assert(!memchr(text.buf, '\n', text.len));
	}
	free(line);
	return 0;
}
