/*
 * Fuzzes the scanner: however the bytes are cut into pieces, it comes to the same result, and it never claims more
 * bytes than it was given. The first byte of the input chooses the size of the pieces.
 */
#include "backend/scan.h"

#include <assert.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum scan_result whole_result, result = SCAN_MORE;
	size_t whole_used, pos = 0, piece;
	struct scan whole, s;
	const char *text;

	if (size < 1)
		return 0;
	piece = (size_t)data[0] % 16 + 1;
	text = (const char *)data + 1;
	size--;
	scan_init(&whole);
	whole_result = scan_feed(&whole, text, size, &whole_used);
	assert(whole_used <= size && (whole_result == SCAN_COMPLETE || whole_used == size));
	scan_init(&s);
	while (pos < size && result != SCAN_COMPLETE) {
		size_t n = piece < size - pos ? piece : size - pos, used;

		result = scan_feed(&s, text + pos, n, &used);
		assert(used <= n && (result == SCAN_COMPLETE || used == n));
		pos += used;
	}
	assert(result == whole_result && pos == whole_used);
	assert(s.form == whole.form && s.start == whole.start && s.fed == whole.fed && s.fed == pos);
	return 0;
}
