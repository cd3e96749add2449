/*
 * Taking a run's directories away from its cluster: because a user said `clean`, or because the configuration's `keep`
 * has gone by since its end. And what is known of results that were here: all of them (`fetched`), and that some had
 * to make room since (`evicted`).
 *
 * Invariants: the journal says that a run is cleaned before its cluster hears of it, and `clean_pending` stays until
 * the cluster has answered, so that a worker that is killed between loses neither. Nothing is removed of a run that is
 * kept, that is live, whose log is not here, or that somebody needs or reads. Times are real ones, for they outlive
 * workers.
 */
#include "backend/engine_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>

#define CLEAN_BATCH 32                  /* in a round */
#define ROUND_MIN_US (1 * USEC_PER_SEC) /* between rounds */
#define ROUND_MAX_US (60 * (int64_t)USEC_PER_SEC)

const char *engine_clean_hindered(struct engine *en, const struct erun *er)
{
	const struct run *r = er->r;

	if (json_is_true(json_object_get(r->facts, "keep")))
		return "the run is kept: `keep off` first";
	if (r->attempt && er->sent_attempt && !er->logs_last && !run_fact(r, "logs"))
		return "its log is not all here yet";
	if (engine_inputs_used(en, r))
		return "a run that has not ended has an input from its results";
	if (er->session && engine_session_used(en, r))
		return "runs that started or wait in this session have not ended yet";
	return NULL;
}

json_t *engine_clean_facts(const struct engine *en)
{
	char when[CLOCK_TEXT];

	return json_pack("{s:s, s:b}", "cleaned", clock_text(clock_real(en->clock), when), "clean_pending", 1);
}

/* --- telling the cluster --- */

struct told {
	struct engine *en;
	uint32_t run;
};

static void removed(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct told *t = arg;
	struct erun *er = engine_find(t->en, t->run);

	(void)data;
	(void)len;
	if (code == 0 && er && !er->purging)
		engine_post(t->en, er,
			    event_new(EV_FACTS, clock_real(t->en->clock), json_pack("{s:n}", "clean_pending")), 0,
			    NULL);
	else if (er && code < 0 && code != -ENODEV && code != -EHOSTUNREACH) /* a new worker asks again */
		log_warn("run %s: its directory on the cluster could not be removed: %s", er->r->id, text);
	free(t);
}

void engine_clean_send(struct engine *en, struct erun *er)
{
	struct told *t = xmalloc(sizeof(*t));
	struct pending *p;
	uint64_t ticket;

	point(POINT_CLEAN_JOURNALED);
	*t = (struct told){ en, er->r->num };
	p = engine_pending(en, PENDING_DATA, er->r->num, &ticket);
	p->data = removed;
	p->drop = free;
	p->arg = t;
	engine_send(en, er, engine_creq_placed(en, er, CREQ_FORGET, ticket));
}

void engine_clean_remind(struct engine *en)
{
	for (size_t i = 0; i < en->n_order; i++) {
		struct erun *er = en->order[i];

		if (!run_is_live(er->r) && json_object_get(er->r->facts, "clean_pending"))
			engine_clean_send(en, er);
	}
}

/* --- by time --- */

static void expired(void *arg, int code, const char *text)
{
	struct told *t = arg;
	struct erun *er = engine_find(t->en, t->run);

	(void)text;
	if (code == 0 && er)
		engine_clean_send(t->en, er);
	free(t);
}

/* Real us from when on the run may be cleaned; INT64_MAX: never. */
static int64_t due_at(const struct engine *en, const struct erun *er)
{
	const struct run *r = er->r;
	int64_t keep;

	if (run_is_live(r) || !er->visible || er->purging || er->in_flight || !r->attempt || !r->t_ended ||
	    json_object_get(r->facts, "cleaned"))
		return INT64_MAX;
	keep = config_keep(en->conf.config, r->cluster);
	return keep ? r->t_ended + keep * USEC_PER_SEC : INT64_MAX;
}

static bool is_used(const struct engine *en, const struct run *r)
{
	return en->ob.in_use && en->ob.in_use(en->ob.arg, r);
}

static void clean_now(struct engine *en, struct erun *er)
{
	struct told *t = xmalloc(sizeof(*t));
	const struct own_call call = { expired, free, t };

	*t = (struct told){ en, er->r->num };
	log_info("run %s: it was kept for long enough, its directory on %s goes", er->r->id, er->r->cluster);
	engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), engine_clean_facts(en)), 0, &call);
}

static int64_t round_us(const struct config *cf)
{
	int64_t least = INT64_MAX;

	for (size_t i = 0; i < cf->n_clusters; i++) {
		int64_t s = config_keep(cf, cf->clusters[i]->name);

		if (s && s < least)
			least = s;
	}
	if (least == INT64_MAX)
		return INT64_MAX;
	least *= USEC_PER_SEC / 10;
	return least < ROUND_MIN_US ? ROUND_MIN_US : least > ROUND_MAX_US ? ROUND_MAX_US : least;
}

int64_t engine_timer(struct engine *en, int64_t now)
{
	int64_t pause, real;
	size_t n = 0;

	if (now < en->clean_at)
		return en->clean_at;
	pause = round_us(en->conf.config);
	if (pause == INT64_MAX) {
		en->clean_at = INT64_MAX;
		return INT64_MAX;
	}
	real = clock_real(en->clock);
	for (size_t i = 0; i < en->n_order && n < CLEAN_BATCH; i++) {
		struct erun *er = en->order[i];

		if (due_at(en, er) > real || engine_clean_hindered(en, er) || is_used(en, er->r))
			continue;
		clean_now(en, er);
		n++;
	}
	en->clean_at = now + (n == CLEAN_BATCH ? ROUND_MIN_US : pause);
	return en->clean_at;
}

/* --- what was here --- */

void engine_have_all(struct engine *en, uint32_t num)
{
	struct erun *er = engine_find(en, num);
	char when[CLOCK_TEXT];

	if (!er || (run_fact(er->r, "fetched") && !run_fact(er->r, "evicted")))
		return;
	engine_post(en, er,
		    event_new(EV_FACTS, clock_real(en->clock),
			      json_pack("{s:s, s:n}", "fetched", clock_text(clock_real(en->clock), when), "evicted")),
		    0, NULL);
}

void engine_evicting(struct engine *en, uint32_t num, engine_done cb, void (*drop)(void *arg), void *arg)
{
	const struct own_call call = { cb, drop, arg };
	struct erun *er = engine_find(en, num);
	char when[CLOCK_TEXT];

	if (!er || !er->visible || er->purging) {
		cb(arg, -ENOENT, "the run was purged");
	} else if (!run_fact(er->r, "fetched")) {
		cb(arg, 0, "");
	} else {
		json_t *d = json_pack("{s:n, s:s}", "fetched", "evicted", clock_text(clock_real(en->clock), when));

		engine_post(en, er, event_new(EV_FACTS, clock_real(en->clock), d), 0, &call);
	}
}
