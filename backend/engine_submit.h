/*
 * What a submission is on its way (engine_submit.c, engine_any.c). Nothing here is for others.
 */
#ifndef BACKEND_ENGINE_SUBMIT_H
#define BACKEND_ENGINE_SUBMIT_H

#include "backend/engine_private.h"

struct prepared {
	json_t *spec;             /* without secrets, and so is everything below */
	json_t *secrets;          /* their values */
	bool session;             /* it is one */
	const struct run *holder; /* the session that it is to start in */
	char *name;               /* of the session that it is, or NULL */
	struct effective eff;
	struct job job;
	struct strbuf effective, script, context, errors;
	char print[PRINT_SIZE];
};

struct submission {
	const struct engine_submit *s;
	const struct run *retry_of; /* or NULL */
	engine_done cb;
	void *arg;
	void (*drop)(void *arg);
};

void engine_submit_one(struct engine *en, const struct submission *whole);
/*
 * session=any: into a session that is there and fits, or into one that is made for it. Returns 1 when the caller should
 * go on: p->holder is that session then. `whole` is as it was written, with its secrets.
 */
int engine_any(struct engine *en, const struct submission *whole, const struct submission *sub, struct prepared *p);
/* The same for runs/check: 1 to go on; 0 when `out` says what session would be made; -EINVAL with p->errors. */
int engine_any_check(struct engine *en, const char *hint, struct prepared *p, struct strbuf *out);

#endif
