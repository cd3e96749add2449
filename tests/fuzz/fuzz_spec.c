/*
 * Fuzzes spec_parse. What it refuses it explains in lines of UTF-8 without control characters; what it accepts has
 * known keys only and can be written down and parsed again, with the same result.
 */
#include "backend/spec.h"

#include "backend/base/mem.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_errors(const struct strbuf *errors)
{
	json_t *text = json_stringn(errors->buf, errors->len);

	assert(text); /* UTF-8 */
	json_decref(text);
	assert(errors->len > 0 && errors->len < 64 * 1024 && errors->buf[errors->len - 1] != '\n');
	for (size_t i = 0; i < errors->len; i++)
		assert((unsigned char)errors->buf[i] >= ' ' || errors->buf[i] == '\n');
}

static void check_spec(json_t *spec)
{
	cleanup_free char *text = json_dumps(spec, 0);
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *again = NULL, *value;
	const char *key;

	assert(text);
	json_object_foreach (spec, key, value) {
		const struct spec_key *k = spec_key_find(key);

		assert(k && strcmp(k->name, key) == 0 && !(k->flags & (SPEC_LATER | SPEC_OURS)));
		assert(value && !json_is_real(value));
	}
	assert(spec_equal(spec, spec));
	if (strlen(text) > 1024 * 1024)
		return;
	assert(spec_parse(text, strlen(text), &again, &errors) == 0);
	assert(json_equal(spec, again));
	json_decref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *spec = NULL;

	if (spec_parse((const char *)data, size, &spec, &errors) < 0) {
		assert(!spec);
		check_errors(&errors);
		return 0;
	}
	assert(spec && errors.len == 0);
	check_spec(spec);
	json_decref(spec);
	return 0;
}
