/*
 * Private to the conversation: conv.c takes documents in, conv_read.c answers.
 */
#ifndef FS_CONV_H
#define FS_CONV_H

#include "fs/fsys.h"

struct conv {
	struct fsys *fs;
	struct handle *h;
	bool check;		/* runs/check */
	const char *hint;	/* cluster of clusters/NAME/runs/new, or NULL */
	uint32_t draft;		/* runs/ID/spec, or 0 */
	struct strbuf in;	/* what was written and is not complete */
	struct strbuf out;	/* ids, then a decision per run; or an error's text */
	uint32_t base;		/* place in the whole conversation where `out` begins */
	uint32_t *runs;		/* accepted ones, in order */
	size_t n_runs, n_decided;
	uint64_t request;	/* the last one that was taken in */
	int code;		/* its answer: 0 or negative errno */
};

/* One write (or flush, read, release of a script) whose documents are being submitted. */
struct intake {
	struct conv *c;
	struct parked *p;
	uint64_t request;
	uint32_t uid;
	size_t written;
	struct strbuf text;
	struct intake_doc {
		size_t start, len;
	} *docs;
	size_t n_docs, next;
	void (*done)(struct intake *in, int code);
	size_t size;		/* of the read that waits */
};

struct intake *intake_new(struct conv *c, uint64_t request, uint32_t uid, void (*done)(struct intake *, int));
bool conv_has_script(const struct conv *c);
/* Why what was written is not a document, or NULL (nothing there, or a whole script). */
const char *conv_incomplete(const struct conv *c);
void conv_commit_script(struct intake *in);
/* The text of the intake is no document: a row in `errors`, then `done`. */
void conv_refuse(struct intake *in, int code, const char *why);
/* Makes the text to read back survive the worker. */
void conv_save_out(const struct conv *c);

/*
 * The reader's place in `out` (conv_read.c). It is kept as a place in the whole conversation, modulo CONV_PLACES, so that
 * nothing but `base` has to change when `out` is begun anew.
 */
#define CONV_PLACE_BITS 21
#define CONV_PLACES (1u << CONV_PLACE_BITS)
size_t cursor_of(const struct conv *c);

#endif
