/*
 * Ray and Spark clusters of runs: how they are is asked for by one request for all of them, quickly while one starts or
 * ends and slowly while all is quiet. The shell reads the small files itself, without a process for each.
 *
 * Invariants: one request is on its way at a time; runs without a cluster of their own cost nothing; a request that
 * is lost is asked again.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <stdio.h>
#include <string.h>

#define RUNS_MAX 64
#define LIMIT_S 20

static bool is_up(const struct rrun *r)
{
	return r->phase == RR_SUBMITTED && r->status && strcmp(r->status, "pending") != 0;
}

static bool wanted(const struct rrun *r, int kind)
{
	return is_up(r) && inner_own(r->job, (enum inner_kind)kind);
}

static bool any_wanted(const struct rrun *r)
{
	for (int k = 0; k < INNER_KINDS; k++)
		if (wanted(r, k))
			return true;
	return false;
}

/* "NUM ATTEMPT KIND" NUL, then each file's text NUL. */
static void take_answer(struct cluster *c, const char *p, const char *end)
{
	while (p < end) {
		const char *field[INNER_FILES + 1];
		unsigned long num, attempt, kind;
		struct rrun *r;
		json_t *facts;
		char *rest;

		for (int i = 0; i <= INNER_FILES; i++) {
			field[i] = p;
			p = p < end ? memchr(p, '\0', (size_t)(end - p)) : NULL;
			if (!p)
				return; /* cut off */
			p++;
		}
		num = strtoul(field[0], &rest, 10);
		attempt = strtoul(rest, &rest, 10);
		kind = strtoul(rest, NULL, 10);
		r = num <= UINT32_MAX && attempt <= UINT32_MAX && kind < INNER_KINDS
			    ? rrun_find(c, (uint32_t)num, (uint32_t)attempt)
			    : NULL;
		facts = r && wanted(r, (int)kind) ? inner_seen_take(&r->inner[kind], (enum inner_kind)kind, field + 1)
						  : NULL;
		if (facts)
			rrun_event(c, r, EV_FACTS, inner_kinds[kind], facts);
	}
}

static void on_answer(struct cluster *c, void *arg, const struct agent_frame *f)
{
	bool settled = true;

	(void)arg;
	c->inner_busy = false;
	if (f && f->rc == 0)
		take_answer(c, f->out, f->out + f->out_len);
	for (struct hmap_node *n = hmap_walk(&c->runs, NULL); n; n = hmap_walk(&c->runs, n)) {
		const struct rrun *r = container_of(n, struct rrun, node);

		for (int k = 0; k < INNER_KINDS; k++)
			settled = settled &&
				  (!wanted(r, k) || (inner_seen_settled(&r->inner[k]) && r->hot_until <= c->now));
	}
	c->inner_at = c->now + (settled ? c->pace.inner_quiet : c->pace.inner_soon);
}

static void add_code(struct strbuf *code)
{
	strbuf_addstr(code, "one() {\n"
			    "\tx=\n"
			    "\t[ ! -f \"$1\" ] || [ -L \"$1\" ] || IFS= read -r x <\"$1\"\n"
			    "\tprintf '%s\\0' \"$x\"\n"
			    "}\n"
			    "look() {\n"
			    "\tcd -- \"$4\" 2>/dev/null || return 0\n"
			    "\tprintf '%s %s %s\\0' \"$1\" \"$2\" \"$3\"\n"
			    "\tfor f in");
	for (int i = 0; i < INNER_NODES; i++)
		strbuf_addf(code, " %s", inner_file_names[i]);
	strbuf_addf(code,
		    "; do one $f; done\n"
		    "\t[ ! -f %s ] || [ -L %s ] || while IFS= read -r x; do printf '%%s\\n' \"$x\"; done <%s\n"
		    "\tprintf '\\0'\n"
		    "}\n",
		    inner_file_names[INNER_NODES], inner_file_names[INNER_NODES], inner_file_names[INNER_NODES]);
}

static bool add_look(const struct cluster *c, const struct rrun *r, int kind, struct strbuf *code)
{
	cleanup_strbuf struct strbuf dir = STRBUF_INIT;

	if (!wanted(r, kind))
		return false;
	remote_dir(c, r->num, r->attempt, inner_kinds[kind], &dir);
	strbuf_addf(code, "( look %u %u %d ", r->num, r->attempt, kind);
	quote_sh_path(code, dir.buf);
	strbuf_addstr(code, " )\n");
	return true;
}

void rinner_step(struct cluster *c)
{
	struct strbuf code = STRBUF_INIT;
	unsigned n_runs = 0;

	if (c->inner_busy || !rlink_up(c) || c->now < c->inner_at)
		return;
	add_code(&code);
	for (struct hmap_node *n = hmap_walk(&c->runs, NULL); n && n_runs < RUNS_MAX; n = hmap_walk(&c->runs, n)) {
		const struct rrun *r = container_of(n, struct rrun, node);

		for (int k = 0; k < INNER_KINDS; k++)
			n_runs += add_look(c, r, k, &code);
	}
	c->inner_at = INT64_MAX; /* until a run begins or an answer comes */
	if (n_runs) {
		strbuf_addstr(&code, ":\n");
		c->inner_busy = true;
		rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, LIMIT_S, on_answer, NULL);
	}
	strbuf_release(&code);
}

/* A run's timers are looked at: is it one that should be asked for? */
void rinner_run_step(struct cluster *c, const struct rrun *r)
{
	if (c->inner_at == INT64_MAX && !c->inner_busy && any_wanted(r))
		c->inner_at = c->now;
}

int64_t rinner_deadline(const struct cluster *c)
{
	return c->inner_busy || c->link.state != LINK_UP ? INT64_MAX : c->inner_at;
}
