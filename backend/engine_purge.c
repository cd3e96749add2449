/*
 * Taking runs away. From the request until its fate is known nothing is posted for the run, so that no event can come
 * after the purge in the journal and bring the run back.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"
#include "backend/spool.h"

#include <errno.h>

static void not_purged(struct engine *en, struct erun *er, struct pending *p, int code)
{
	er->purging = false;
	engine_post_next(en, er);
	engine_act(en, er);
	p->done(p->arg, code,
		code == -ENOSPC ? "the journal's disk is full: the run is still there"
				: "the journal could not be written: the run is still there");
}

static void remove_traces(struct engine *en, struct erun *er)
{
	struct strbuf dir = STRBUF_INIT;

	if (er->r->attempt)
		engine_send(en, er, engine_creq_placed(en, er, CREQ_FORGET, 0));
	engine_files_dir(en, er->r->num, &dir);
	engine_remove_tree(dir.buf);
	strbuf_release(&dir);
	(void)spool_remove(en->spool_dir, er->r->num);
	engine_secrets_forget(en, er->r->num);
}

void engine_purged(struct engine *en, struct pending *p, int code)
{
	static const char why[] = "the run was purged";
	struct erun *er = engine_find(en, p->run);
	bool was_last = en->last == p->run;

	if (code < 0) {
		not_purged(en, er, p, code);
		pending_free(p);
		return;
	}
	engine_remember(en, p->request, p->result);
	er->visible = false;
	/* While it can still be found, so that a callback can take others back. */
	engine_post_none(er);
	waiters_answer(en, &er->decided, -ENOENT, why);
	waiters_answer(en, &er->verb_waiters, -ENOENT, why);
	if (en->ob.run_gone)
		en->ob.run_gone(en->ob.arg, er->r->num);
	remove_traces(en, er);
	engine_remove(en, er);
	if (was_last)
		engine_find_last(en);
	p->done(p->arg, 0, "");
	erun_free(er);
	pending_free(p);
	engine_act_gated(en);
}

void engine_purge(struct engine *en, uint32_t num, uint64_t request, engine_done cb, void *arg)
{
	struct erun *er = engine_find(en, num);
	struct pending *p;
	struct store_txn *t;
	uint64_t ticket;

	if (engine_recall(en, request)) {
		cb(arg, 0, "");
		return;
	}
	if (!er || !er->visible || er->purging) {
		cb(arg, -ENOENT, "there is no such run");
		return;
	}
	if (run_is_live(er->r) && (er->r->status != RUN_DRAFT || er->in_flight)) {
		cb(arg, -EBUSY,
		   "the run is live: cancel it first (echo cancel > ctl), rmdir purges ended runs and drafts");
		return;
	}
	if (er->session && engine_session_used(en, er->r)) {
		cb(arg, -EBUSY, "runs that started or wait in this session have not ended yet");
		return;
	}
	if (engine_inputs_used(en, er->r)) {
		cb(arg, -EBUSY,
		   "a run that has not ended has an input from its results: wait for that one, or cancel it first");
		return;
	}
	p = engine_pending(en, PENDING_PURGE, num, &ticket);
	p->request = request;
	p->result = xstrdup("purged");
	p->done = cb;
	p->arg = arg;
	t = store_txn_new(ticket, true);
	store_txn_purge(t, num);
	if (request)
		store_txn_seen(t, en->conf.mount_id, request, p->result);
	er->purging = true;
	store_post(en->store, t);
}
