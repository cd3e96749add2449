/*
 * What the journal says at start. Live runs are replayed from their events, ended ones are their summaries.
 *
 * Invariant: afterwards every run is as it was when the last commit returned, and has an id.
 */
#include "backend/engine_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <string.h>

static void load_run(void *arg, uint32_t num, const char *id, bool live, const char *summary)
{
	struct engine *en = arg;
	struct run *r = NULL;
	struct erun *er;

	if (!live) {
		json_t *j = json_loads(summary, 0, NULL);

		r = j ? run_from_summary(num, j) : NULL;
		json_decref(j);
	}
	if (!r)
		r = run_new(num);
	str_set(&r->id, id); /* the row's is the unique one */
	er = erun_new(r);
	er->visible = true;
	engine_add(en, er);
}

static void load_event(void *arg, uint32_t run, int64_t time, const char *type, const char *data)
{
	struct engine *en = arg;
	struct erun *er = engine_find(en, run);
	int t = event_type_of(type);
	json_t *o = json_loads(data, 0, NULL);
	struct event *ev;

	if (!er || t < 0 || !json_is_object(o)) {
		json_decref(o);
		return;
	}
	ev = event_new((enum event_type)t, time, o);
	if (!er->r->n_history && (t == EV_CREATE || t == EV_DRAFT))
		str_set(&er->r->id, NULL); /* the event brings it */
	if (t == EV_SUBMITTING) {
		str_set(&er->directory, event_str(ev, "directory"));
		str_set(&er->scratch, event_str(ev, "scratch"));
	}
	(void)run_apply(er->r, ev);
	if (!er->r->id) /* it brought none, then mend() finds a run without history */
		er->r->id = xasprintf("%u", run);
	event_free(ev);
}

static void load_doc(void *arg, uint32_t run, const char *name, const char *text, size_t len)
{
	struct engine *en = arg;
	struct erun *er = engine_find(en, run);
	char **at;

	if (!er)
		return;
	at = strcmp(name, "spec") == 0        ? &er->r->spec
	     : strcmp(name, "effective") == 0 ? &er->r->effective
	     : strcmp(name, "script") == 0    ? &er->r->script
					      : NULL;
	if (!at)
		return;
	free(*at);
	*at = xmalloc(len + 1);
	memcpy(*at, text, len);
	(*at)[len] = '\0';
}

static void load_key(void *arg, const char *key, uint32_t run, const char *id)
{
	(void)run;
	engine_key_add(arg, key, id);
}

static void load_seen(void *arg, uint64_t mount, uint64_t request, const char *result)
{
	struct engine *en = arg;

	if (mount == en->conf.mount_id)
		engine_remember(en, request, result);
}

static void load_rejected(void *arg, int64_t time, uint32_t uid, const char *text, size_t len, const char *why)
{
	engine_rejected_add(arg, time, uid, text, len, why);
}

static void load_fed(void *arg, uint32_t run, uint64_t at, uint64_t bytes)
{
	struct erun *er = engine_find(arg, run);

	if (er)
		er->fed = (struct events_at){ at, bytes };
}

static void load_mark(void *arg, const char *name, int64_t value)
{
	struct engine *en = arg;

	if (strcmp(name, "hook") == 0)
		en->hook_at = value;
}

/* What a damaged journal left unsaid. An ended run must not become a draft by that. */
static void mend(struct erun *er)
{
	struct run *r = er->r;

	if (r->n_history)
		return;
	log_error("run %s: the journal does not say what became of it", r->id);
	r->status = RUN_FAILED;
	str_set(&r->why, "the journal is damaged: it no longer says what became of this run");
}

int engine_load(struct engine *en, struct err *e)
{
	const struct store_loader l = { en,        load_run,      load_event, load_doc, load_key,
					load_seen, load_rejected, load_fed,   load_mark };
	int rc = store_load(en->store, &l, &en->next_num, e);

	for (size_t i = 0; rc == 0 && i < en->n_order; i++)
		mend(en->order[i]);
	engine_find_last(en);
	return rc;
}
