/*
 * Clean-up on the cluster that nobody waits for: exit records go from ends/ to their attempt once they are in the
 * journal, secrets that no job took are removed, and directories of purged runs are removed. In order, one request at a
 * time, many records per request. What a lost connection leaves undone is done again; all of it may be done twice.
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/quote.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <string.h>

#define BATCH 100
#define REMOVE_LIMIT_S 300

struct chore {
	struct list node;
	uint32_t num, attempt; /* attempt 0: remove the run */
	int64_t restart;       /* only a record of this start, and it is not the last one; -1: any */
	uint64_t ticket;       /* who wants to know that the run is removed; 0: nobody */
};

static struct chore *add(struct cluster *c, uint32_t num, uint32_t attempt, int64_t restart)
{
	struct chore *k = xcalloc(1, sizeof(*k));

	k->num = num;
	k->attempt = attempt;
	k->restart = restart;
	list_add_tail(&c->chores, &k->node);
	return k;
}

void rchores_end_seen(struct cluster *c, uint32_t num, uint32_t attempt)
{
	if (attempt)
		(void)add(c, num, attempt, -1);
}

void rchores_forget(struct cluster *c, uint32_t num, uint64_t ticket)
{
	add(c, num, 0, -1)->ticket = ticket;
}

void rchores_stale(struct cluster *c, uint32_t num, uint32_t attempt, int64_t restart)
{
	(void)add(c, num, attempt, restart);
}

static struct chore *first(const struct cluster *c)
{
	return container_of(c->chores.next, struct chore, node);
}

static void pop(struct cluster *c, int code, const char *text)
{
	struct chore *k = first(c);

	if (k->ticket) {
		struct crep *p = crep_new(CREP_REPLY, c);

		p->run = k->num;
		p->ticket = k->ticket;
		p->code = code;
		p->text = xstrdup(text);
		inbox_post(c->ctx.replies, &p->m);
	}
	list_del(&k->node);
	free(k);
}

/* The batch stays at the head of the list until it is answered; `arg` is its length. */
static void on_done(struct cluster *c, void *arg, const struct agent_frame *f)
{
	size_t *n = arg;

	c->chore_busy = false;
	if (f) {
		if (f->rc != 0)
			log_warn("cluster %s: clean-up: %s", c->ctx.conf->name, f->err);
		for (size_t i = 0; i < *n; i++)
			pop(c, f->rc == 0 ? 0 : -EIO, f->err);
	}
	free(n);
}

static void add_assignment(const char *var, const char *path, struct strbuf *code)
{
	strbuf_addf(code, "%s=", var);
	quote_sh_path(code, path);
	strbuf_addch(code, '\n');
}

/* Exactly DIRECTORY/UUID/runs/NUM, and the same in scratch. */
static void add_removal(const struct cluster *c, uint32_t num, struct strbuf *code)
{
	const struct cluster_conf *conf = c->ctx.conf;
	struct strbuf path = STRBUF_INIT;

	remote_dir(c, 0, 0, NULL, &path);
	add_assignment("d", path.buf, code);
	strbuf_addf(code, "rm -f -- \"$d/ends/%u.a\"*\nrm -rf -- \"$d/runs/%u\"\n", num, num);
	if (conf->scratch && strcmp(conf->scratch, conf->directory) != 0) {
		strbuf_reset(&path);
		strbuf_addf(&path, "%s/%s/runs/%u", conf->scratch, c->uuid, num);
		add_assignment("s", path.buf, code);
		strbuf_addstr(code, "rm -rf -- \"$s\"\n");
	}
	strbuf_release(&path);
}

/* Named by its start, so that nobody takes it for the job's last one; the next start may have left its own meanwhile.
 */
static void add_stale(const struct cluster *c, const struct chore *k, struct strbuf *code)
{
	struct strbuf path = STRBUF_INIT;

	remote_dir(c, 0, 0, NULL, &path);
	add_assignment("d", path.buf, code);
	strbuf_release(&path);
	strbuf_addf(code, "e=$d/ends/%u.a%u\n", k->num, k->attempt);
	strbuf_addf(code, "if grep -q ' restart=%lld ' \"$e\" 2>/dev/null; then\n", (long long)k->restart);
	strbuf_addf(code, "mv -f \"$e\" \"$d/runs/%u/a%u/exit.%lld\"\nfi", k->num, k->attempt, (long long)k->restart);
}

static size_t add_moves(const struct cluster *c, struct strbuf *code)
{
	struct strbuf path = STRBUF_INIT;
	size_t n = 0;

	remote_dir(c, 0, 0, NULL, &path);
	add_assignment("d", path.buf, code);
	strbuf_release(&path);
	strbuf_addstr(code, "r=\nfor e in"); /* a step leaves its record in both places (launchers/wrapper.c) */
	for (const struct list *l = c->chores.next; l != &c->chores && n < BATCH; l = l->next, n++) {
		const struct chore *k = container_of(l, const struct chore, node);

		if (!k->attempt || k->restart >= 0)
			break;
		strbuf_addf(code, " %u.a%u", k->num, k->attempt);
	}
	strbuf_addstr(
		code,
		"; do\nt=$d/runs/${e%%.*}/${e#*.}\n"
		"if [ ! -f \"$d/ends/$e\" ] || [ ! -d \"$t\" ]; then :\n"
		"elif [ -s \"$t/exit\" ] && read -r x <\"$d/ends/$e\" && read -r y <\"$t/exit\" && [ \"$x\" = \"$y\" ]; then r=\"$r $e\"\n"
		"else mv -f \"$d/ends/$e\" \"$t/exit\"; fi\n"
		/* of a delivery that was cut, too; `work` may be a link */
		"for s in \"$t/" JOB_SECRETS "\" \"$t\"/files.*.tar.part \"$t\"/work/" LAUNCH_SECRET
		"* \"$t\"/work/../work.*/" LAUNCH_SECRET "* \"$t\"/work.*/" LAUNCH_SECRET "*; do\n"
		"[ ! -e \"$s\" ] || rm -rf -- \"$s\"\ndone\ndone\n"
		"[ -z \"$r\" ] || { cd \"$d/ends\" && rm -f $r; }");
	return n;
}

void rchores_step(struct cluster *c)
{
	struct strbuf code = STRBUF_INIT;
	size_t *n;

	if (c->chore_busy || list_empty(&c->chores) || !rlink_up(c))
		return;
	n = xcalloc(1, sizeof(*n));
	c->chore_busy = true;
	if (first(c)->attempt && first(c)->restart >= 0) {
		*n = 1;
		add_stale(c, first(c), &code);
		rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, 0, on_done, n);
	} else if (first(c)->attempt) {
		*n = add_moves(c, &code);
		rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, 0, on_done, n);
	} else {
		*n = 1;
		add_removal(c, first(c)->num, &code);
		rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, REMOVE_LIMIT_S, on_done, n);
	}
	strbuf_release(&code);
}

void rchores_release(struct cluster *c)
{
	while (!list_empty(&c->chores))
		pop(c, -ENODEV, "shutting down");
}
