/*
 * Circles of runs that wait for each other: only a draft can close one, because others may name it before its spec is
 * written. They would all stay `queued` for ever, so the spec that closes the circle is refused.
 *
 * A walk goes from the draft over the dependencies of everybody who still waits, each run once: `walked` of a run is
 * the number of the walk that came by last.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"

#include <string.h>

#define SHOWN_MAX 8 /* runs of a circle that are named */

struct walk {
	struct engine *en;
	const struct erun *goal;
	struct erun **v; /* in the order in which they were found */
	size_t n, cap;
};

static void found(struct walk *w, struct erun *er, struct erun *from)
{
	if (er->walked == w->en->walks)
		return;
	er->walked = w->en->walks;
	er->walked_from = from;
	if (w->n == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 16;
		w->v = xrealloc(w->v, w->cap * sizeof(struct erun *));
	}
	w->v[w->n++] = er;
}

/* The run that a dependency "TYPE:RUN" names; NULL: none. */
static struct erun *named(const struct walk *w, const char *dep)
{
	const char *colon = strchr(dep, ':');

	return colon ? engine_find_id(w->en, colon + 1) : NULL;
}

/* Notes what `er` waits for; true when the goal is among it. */
static bool step(struct walk *w, struct erun *er, char *const *after)
{
	for (; after && *after; after++) {
		struct erun *other = named(w, *after);

		if (other && other == w->goal)
			return true;
		if (other)
			found(w, other, er);
	}
	return false;
}

/* "a waits for b, b waits for c, c waits for a", from the last run before the goal backwards. */
static void tell(const struct walk *w, const struct erun *last, struct strbuf *out)
{
	const struct erun *chain[SHOWN_MAX];
	size_t n = 0, more = 0;
	const char *from = w->goal->r->id;

	for (const struct erun *er = last; er; er = er->walked_from) {
		if (n == SHOWN_MAX) { /* the beginning is what the user wrote last */
			memmove(chain, chain + 1, (SHOWN_MAX - 1) * sizeof(chain[0]));
			n--;
			more++;
		}
		chain[n++] = er;
	}
	while (n) {
		n--;
		strbuf_addf(out, "%s waits for %s, ", from, chain[n]->r->id);
		from = chain[n]->r->id;
	}
	if (more)
		strbuf_addf(out, "and so on over %zu more until one ", more);
	else
		strbuf_addf(out, "%s ", from);
	strbuf_addf(out, "waits for %s: none of them would ever start", w->goal->r->id);
}

bool engine_circle(struct engine *en, struct erun *draft, char *const *after, struct strbuf *out)
{
	struct walk w = { .en = en, .goal = draft };
	bool closed;

	en->walks++;
	closed = step(&w, NULL, after); /* itself: somebody else says that */
	for (size_t i = 0; i < w.n && !closed; i++) {
		struct erun *er = w.v[i];

		closed = (er->r->status == RUN_QUEUED || er->r->status == RUN_DRAFT) &&
			 step(&w, er, engine_after(en, er));
		if (closed)
			tell(&w, er, out);
	}
	free(w.v);
	return closed;
}
