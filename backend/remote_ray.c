/*
 * Ray clusters of runs: how they are is asked for by one request for all of them, quickly while one starts or ends and
 * slowly while all is quiet. The shell reads the small files itself, without a process for each.
 *
 * Invariants: one request is on its way at a time; runs without a Ray cluster of their own cost nothing; a request that
 * is lost is asked again.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <stdio.h>
#include <string.h>

#define RUNS_MAX 64
#define LIMIT_S 20

static bool wanted(const struct rrun *r)
{
	return r->phase == RR_SUBMITTED && ray_own(r->job) && r->status && strcmp(r->status, "pending") != 0;
}

/* "NUM ATTEMPT" NUL, then each file's text NUL. */
static void take_answer(struct cluster *c, const char *p, const char *end)
{
	while (p < end) {
		const char *field[RAY_FILES + 1];
		unsigned long num, attempt;
		struct rrun *r;
		json_t *facts;
		char *rest;

		for (int i = 0; i <= RAY_FILES; i++) {
			field[i] = p;
			p = p < end ? memchr(p, '\0', (size_t)(end - p)) : NULL;
			if (!p)
				return; /* cut off */
			p++;
		}
		num = strtoul(field[0], &rest, 10);
		attempt = strtoul(rest, NULL, 10);
		r = num <= UINT32_MAX && attempt <= UINT32_MAX ? rrun_find(c, (uint32_t)num, (uint32_t)attempt) : NULL;
		facts = r && wanted(r) ? ray_seen_take(&r->ray, field + 1) : NULL;
		if (facts)
			rrun_event(c, r, EV_FACTS, "ray", facts);
	}
}

static void on_answer(struct cluster *c, void *arg, const struct agent_frame *f)
{
	bool settled = true;

	(void)arg;
	c->ray_busy = false;
	if (f && f->rc == 0)
		take_answer(c, f->out, f->out + f->out_len);
	for (struct hmap_node *n = hmap_walk(&c->runs, NULL); n; n = hmap_walk(&c->runs, n)) {
		const struct rrun *r = container_of(n, struct rrun, node);

		settled = settled && (!wanted(r) || (ray_seen_settled(&r->ray) && r->hot_until <= c->now));
	}
	c->ray_at = c->now + (settled ? c->pace.ray_quiet : c->pace.ray_soon);
}

static void add_code(struct strbuf *code)
{
	strbuf_addstr(code, "one() {\n"
			    "\tx=\n"
			    "\t[ ! -f \"$1\" ] || [ -L \"$1\" ] || IFS= read -r x <\"$1\"\n"
			    "\tprintf '%s\\0' \"$x\"\n"
			    "}\n"
			    "look() {\n"
			    "\tcd -- \"$3\" 2>/dev/null || return 0\n"
			    "\tprintf '%s %s\\0' \"$1\" \"$2\"\n"
			    "\tfor f in");
	for (int i = 0; i < RAY_NODES; i++)
		strbuf_addf(code, " %s", ray_file_names[i]);
	strbuf_addf(code,
		    "; do one $f; done\n"
		    "\t[ ! -f %s ] || [ -L %s ] || while IFS= read -r x; do printf '%%s\\n' \"$x\"; done <%s\n"
		    "\tprintf '\\0'\n"
		    "}\n",
		    ray_file_names[RAY_NODES], ray_file_names[RAY_NODES], ray_file_names[RAY_NODES]);
}

void rray_step(struct cluster *c)
{
	struct strbuf code = STRBUF_INIT, dir = STRBUF_INIT;
	unsigned n_runs = 0;

	if (c->ray_busy || !rlink_up(c) || c->now < c->ray_at)
		return;
	add_code(&code);
	for (struct hmap_node *n = hmap_walk(&c->runs, NULL); n && n_runs < RUNS_MAX; n = hmap_walk(&c->runs, n)) {
		const struct rrun *r = container_of(n, struct rrun, node);

		if (!wanted(r))
			continue;
		strbuf_reset(&dir);
		remote_dir(c, r->num, r->attempt, "ray", &dir);
		strbuf_addf(&code, "( look %u %u ", r->num, r->attempt);
		quote_sh_path(&code, dir.buf);
		strbuf_addstr(&code, " )\n");
		n_runs++;
	}
	c->ray_at = INT64_MAX; /* until a run begins or an answer comes */
	if (n_runs) {
		strbuf_addstr(&code, ":\n");
		c->ray_busy = true;
		rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, LIMIT_S, on_answer, NULL);
	}
	strbuf_release(&code);
	strbuf_release(&dir);
}

/* A run's timers are looked at: is it one that should be asked for? */
void rray_run_step(struct cluster *c, const struct rrun *r)
{
	if (c->ray_at == INT64_MAX && !c->ray_busy && wanted(r))
		c->ray_at = c->now;
}

int64_t rray_deadline(const struct cluster *c)
{
	return c->ray_busy || c->link.state != LINK_UP ? INT64_MAX : c->ray_at;
}
