/*
 * The document scanner of runs/new: decides, byte by byte, which of the three forms of a spec is being
 * written and where it is complete. Pure; knows nothing of the meaning.
 *
 *  - first byte that is not white space is '{': JSON; complete at the brace that closes it (strings and
 *    escapes respected, depth at most SPEC_MAX_DEPTH). White space between documents is skipped.
 *  - first bytes "#!": a script; never complete by itself (the end of the descriptor decides).
 *  - anything else: one line; complete at its newline. Empty lines before it are skipped.
 */
#ifndef BACKEND_SCAN_H
#define BACKEND_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#define SPEC_MAX_BYTES (1024 * 1024)
#define SPEC_MAX_DEPTH 64

enum scan_form { SCAN_NONE, SCAN_JSON, SCAN_LINE, SCAN_SCRIPT };

struct scan {
	enum scan_form form;
	size_t start; /* offset of the document's first byte in what was fed */
	size_t fed;   /* bytes looked at so far */
	int depth;
	bool in_string, escaped;
	bool hash; /* private: one '#' seen, '!' not yet */
};

enum scan_result { SCAN_MORE, SCAN_COMPLETE, SCAN_TOO_DEEP };

void scan_init(struct scan *s);

/*
 * Looks at the `len` bytes that follow those fed before. SCAN_COMPLETE: *used is how many of them belong to
 * the document (its last byte, brace or newline, included); the rest was not looked at: scan_init and feed it
 * again. SCAN_MORE and SCAN_TOO_DEEP: *used is `len`.
 */
enum scan_result scan_feed(struct scan *s, const char *data, size_t len, size_t *used);

#endif
