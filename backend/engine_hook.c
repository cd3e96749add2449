/*
 * The engine's part of `on_event`: the thread of hook.c is told how long the feed is and says how far its commands have
 * ended, and that is journaled. Who configures a command hears of what happens from then on, and not of all that was.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"

#define STOP_MS 1000 /* for commands that run when the worker ends */

static void post(struct engine *en)
{
	struct store_txn *t;
	uint64_t ticket;

	(void)engine_pending(en, PENDING_HOOK, 0, &ticket);
	t = store_txn_new(ticket, false);
	store_txn_mark(t, "hook", en->hook_at);
	en->hook_posting = true;
	en->hook_posted = en->hook_at;
	store_post(en->store, t);
}

int engine_hook_start(struct engine *en, struct err *e)
{
	cleanup_free char *path = store_feed_path(en->state_dir);
	struct hook_conf conf = { .config = en->conf.config,
				  .feed = path,
				  .mount_dir = en->conf.mount_dir,
				  .len = en->feed_len,
				  .replies = &en->inbox };
	bool wanted = hook_wanted(en->conf.config);

	if (!wanted && en->hook_at < 0)
		return 0;
	if (!wanted || en->hook_at < 0) {
		en->hook_at = wanted ? (int64_t)en->feed_len : -1;
		post(en);
	}
	conf.at = (uint64_t)en->hook_at;
	return wanted ? hook_start(&conf, &en->hook, e) : 0;
}

void engine_hook_told(struct engine *en, uint64_t at)
{
	en->hook_at = (int64_t)at;
	if (!en->hook_posting)
		post(en);
}

void engine_hook_posted(struct engine *en)
{
	en->hook_posting = false;
	if (en->hook_posted != en->hook_at)
		post(en);
}

void engine_hook_stop(struct engine *en)
{
	struct store_txn *t;

	if (!en->hook)
		return;
	en->hook_at = (int64_t)hook_stop(en->hook, STOP_MS);
	en->hook = NULL;
	t = store_txn_new(0, false);
	store_txn_mark(t, "hook", en->hook_at);
	store_post(en->store, t);
}
