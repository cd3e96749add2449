/*
 * Private to the conversation: conv.c takes documents in, conv_read.c answers.
 */
#ifndef FS_CONV_H
#define FS_CONV_H

#include "fs/fuse_ll.h"

struct conv {
	struct fsys *fs;
	struct handle *h; /* NULL: the descriptor was closed while an intake is under way */
	uint64_t fh;
	bool check;       /* runs/check */
	const char *hint; /* cluster of clusters/NAME/runs/new, or NULL */
	uint32_t draft;   /* runs/ID/spec, sessions/NAME/spec, or 0 */
	bool session;     /* what is written is a session */
	uint32_t into;    /* sessions/NAME/runs/new */
	char *name;       /* of the session, or NULL */
	uint32_t uid;     /* of the last writer: a close has none */
	bool busy;        /* an intake is under way */
	int poison; /* errno of a document that failed before its end, until it is read: what follows is its rest */
	struct strbuf in;  /* what was written and is not complete */
	struct scan scan;  /* was fed all of it */
	struct strbuf out; /* ids, then a decision per run; or an error's text */
	uint32_t base;     /* place in the whole conversation where `out` begins */
	uint32_t *runs;    /* accepted ones, in order */
	size_t n_runs, n_decided;
	unsigned round;   /* counts how often `out` and `runs` were begun anew */
	uint64_t request; /* the last one that was taken in */
	int code;         /* its answer: 0 or negative errno */
};

/*
 * One write (or read, fsync, release of a script) whose documents are being submitted. Its request is answered when
 * their fate is known, or with ETIMEDOUT after fs->journal_us; then the intake goes on without it, and `errors` says
 * how it ended.
 */
struct intake {
	struct conv *c;
	struct parked *p; /* NULL: answered already */
	uint64_t request;
	uint32_t uid;
	size_t written;
	struct strbuf text;
	size_t rest;      /* where the document that is not complete begins in it */
	struct scan scan; /* of that */
	struct intake_doc {
		size_t start, len;
	} * docs;
	size_t n_docs, next;
	void (*done)(struct intake *in, int code);
	size_t size;            /* of the read that waits */
	bool calling, answered; /* inside engine_submit; its callback came */
	int code;               /* of the document that was refused */
	char *why;
};

struct intake *intake_new(struct conv *c, uint64_t request, uint32_t uid, void (*done)(struct intake *, int));
/* Parks the request that the intake answers; without `deadline` (a close, which nobody waits for) as long as it takes.
 */
void intake_park(struct intake *in, fuse_req_t req, bool deadline);
bool conv_has_script(const struct conv *c);
/* Why what was written is not a document, or NULL (nothing there, all of it taken in, or a whole script). */
const char *conv_incomplete(const struct conv *c);
void conv_commit_script(struct intake *in);
/* Makes the text to read back survive the worker. */
void conv_save_out(const struct conv *c);

/*
 * The reader's place in `out` (conv_read.c). It is kept as a place in the whole conversation, modulo CONV_PLACES, so
 * that nothing but `base` has to change when `out` is begun anew.
 */
#define CONV_PLACE_BITS 26 /* more than the check of the largest spec can give */
#define CONV_PLACES (1u << CONV_PLACE_BITS)
size_t cursor_of(const struct conv *c);

#endif
