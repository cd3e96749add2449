/*
 * sessions/: a view of the runs that are sessions (docs/design/16-sessions.md), by name. Nothing is kept here: which
 * run has a name, which runs are in it and who holds leases is what the engine says; node ids hold the run's number, so
 * an open descriptor stays with its session when another gets the name.
 *
 * A lease's node id holds a hash of its owner. Files in ray/ and spark/ are those of the run, by the same node ids: one
 * file with two names.
 */
#include "fs/fuse_ll.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define LEASE_MASK ((1u << INO_SUB_BITS) - 1)

/* --- the files --- */

/* What the run's own file of that name says. */
static void as_run(const struct view *v, const char *name, struct strbuf *out)
{
	for (const struct node *nd = run_nodes + 1; nd->name; nd++)
		if (strcmp(nd->name, name) == 0)
			render_node(nd, v, out);
}

static void render_status(const struct view *v, struct strbuf *out)
{
	as_run(v, "status", out);
}

static void render_why(const struct view *v, struct strbuf *out)
{
	as_run(v, "why", out);
}

static void render_job_id(const struct view *v, struct strbuf *out)
{
	as_run(v, "job_id", out);
}

static void render_cluster(const struct view *v, struct strbuf *out)
{
	as_run(v, "cluster", out);
}

static void render_run(const struct view *v, struct strbuf *out)
{
	strbuf_addf(out, "%s\n", v->run->id);
}

static int64_t number(const struct run *r, const char *fact)
{
	return json_integer_value(json_object_get(r->facts, fact));
}

/* Is it one of the words? */
static bool has_word(const char *words, const char *word, size_t len)
{
	for (const char *p = words; p && *p; p += strspn(p, " ")) {
		size_t n = strcspn(p, " ");

		if (n == len && memcmp(p, word, len) == 0)
			return true;
		p += n;
	}
	return false;
}

/* As its runner has them; before it spoke as the scheduler has, which may be a list like n[1-4]. */
static void render_nodes(const struct view *v, struct strbuf *out)
{
	const struct run *r = v->run;
	const char *all = run_fact(r, "session_nodes"), *lost = run_fact(r, "session_lost");

	if (!all)
		all = r->nodes && *r->nodes ? r->nodes : NULL;
	if (!all)
		strbuf_addstr(out, "-\n");
	for (const char *p = all; p && *p; p += strspn(p, " ")) {
		size_t n = strcspn(p, " ");

		strbuf_addf(out, "%.*s %s\n", (int)n, p, has_word(lost, p, n) ? "lost" : "up");
		p += n;
	}
}

static bool is_up(const struct run *r)
{
	return run_is_live(r) && r->t_started;
}

static void add_seconds(struct strbuf *out, int64_t us)
{
	strbuf_addf(out, "%" PRId64 "\n", us > 0 ? us / USEC_PER_SEC : 0);
}

static void render_time_left(const struct view *v, struct strbuf *out)
{
	const struct run *r = v->run;
	int64_t limit = number(r, "session_time"), end = number(r, "session_end");

	if (!end && limit > 0)
		end = r->t_started + limit * USEC_PER_SEC;
	if (!is_up(r) || !end)
		strbuf_addstr(out, "-\n");
	else
		add_seconds(out, end - clock_real(v->fs->clock));
}

/* Since the last of its runs ended: what this mount knows at once, and what the runner says of others' runs. */
static void render_idle(const struct view *v, struct strbuf *out)
{
	const json_t *quiet = json_object_get(v->run->facts, "session_quiet");
	const struct engine *en = v->fs->en;
	int64_t since = v->run->t_started;

	if (json_is_integer(quiet) && json_integer_value(quiet) == 0)
		since = INT64_MAX;
	else if (json_integer_value(quiet) > since)
		since = json_integer_value(quiet);
	if (!is_up(v->run)) {
		strbuf_addstr(out, "-\n");
		return;
	}
	for (const struct run *r = engine_next(en, 0); r; r = engine_next(en, r->num)) {
		if (engine_session_of(en, r) != v->run)
			continue;
		if (run_is_live(r))
			since = INT64_MAX;
		else if (r->t_ended > since)
			since = r->t_ended;
	}
	add_seconds(out, since == INT64_MAX ? 0 : clock_real(v->fs->clock) - since);
}

/* Ids and no links: find -L must not go in circles. */
static void render_list(const struct view *v, struct strbuf *out)
{
	const struct engine *en = v->fs->en;

	for (const struct run *r = engine_next(en, 0); r; r = engine_next(en, r->num))
		if (engine_session_of(en, r) == v->run)
			strbuf_addf(out, "%s %s\n", r->id, run_status_name(r->status));
}

/* A directory has one place, so what is below leads to it. */
static void render_ray_logs(const struct view *v, struct strbuf *out)
{
	strbuf_addf(out, "../../../runs/%s/ray/logs", v->run->id);
}

static void render_spark_logs(const struct view *v, struct strbuf *out)
{
	strbuf_addf(out, "../../../runs/%s/spark/logs", v->run->id);
}

static void render_lease(const struct view *v, struct strbuf *out)
{
	struct engine_lease l;

	if (v->lease && engine_lease_find(v->fs->en, v->run, v->lease, &l))
		strbuf_addf(out, "ttl %d\nleft %d\n", l.ttl, l.left);
}

const struct node session_nodes[] = {
	[SESSION_ROW_DIR] = { ".", NODE_DIR, 0755, 0, NULL, 0,
			      "a session; rmdir purges one that has ended, or a draft" },
	[SESSION_ROW_LEASES] = { "leases", NODE_DIR, 0755, 0, NULL, 0,
				 "who wants it to live; touch takes or renews one" },
	[SESSION_ROW_RUNS] = { "runs", NODE_DIR, 0755, 0, NULL, 0, "for running something in it" },
	{ "spec", NODE_SPEC, 0644, NODE_FRESH | NODE_FINAL, NULL, 0,
	  "the spec as written; writing it allocates, writing the same again attaches" },
	{ "status", NODE_DOC, 0444, NODE_FINAL | NODE_TRANSITION, render_status, 0, "one word, as a run's" },
	{ "why", NODE_DOC, 0444, 0, render_why, 0, "the reason for the status in words" },
	{ "job_id", NODE_DOC, 0444, NODE_FINAL, render_job_id, 0, "the scheduler's id, - before there is one" },
	{ "cluster", NODE_DOC, 0444, NODE_FINAL, render_cluster, 0, "the cluster's name" },
	{ "run", NODE_DOC, 0444, NODE_FINAL, render_run, 0, "the id of the run that it is: runs/ID has the rest" },
	{ "nodes", NODE_DOC, 0444, 0, render_nodes, 0, "where it is, - before it is there" },
	{ "time_left", NODE_DOC, 0444, 0, render_time_left, 0,
	  "seconds until its time limit, - while it does not run" },
	{ "idle", NODE_DOC, 0444, 0, render_idle, 0,
	  "seconds since its last run ended, 0 while there is one, - while it does not run" },
	{ "wait", NODE_WAIT, 0444, NODE_UNLISTED, NULL, 0, "blocks until the session has ended: `STATUS CODE`" },
	{ "log", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_LOG, "what the session itself says" },
	{ "log.follow", NODE_FOLLOW, 0444, NODE_UNLISTED, NULL, SPOOL_LOG,
	  "log; blocks at its end until the session has ended" },
	{ "ctl", NODE_CTL, 0644, NODE_FRESH, NULL, 0,
	  "verbs: stop, cancel, signal NAME ...; read back for the answer" },
	{ "runs/new", NODE_CONV, 0644, NODE_FRESH, NULL, 0,
	  "write a spec: it starts in the session; read back: its id" },
	{ "runs/list", NODE_DOC, 0444, 0, render_list, 0, "the runs that were or are in it: id and status" },
	{ "ray", NODE_DIR, 0555, 0, NULL, 0, "its Ray cluster, where it has one: the files of its run's ray/" },
	{ "ray/logs", NODE_LINK, 0777, 0, render_ray_logs, 0, "Ray's logs" },
	{ "spark", NODE_DIR, 0555, 0, NULL, 0, "its Spark cluster, where it has one: the files of its run's spark/" },
	{ "spark/logs", NODE_LINK, 0777, 0, render_spark_logs, 0, "Spark's logs" },
	{ 0 },
};

const struct node lease_node = { "OWNER",
				 NODE_LEASE,
				 0644,
				 NODE_APPENDS,
				 render_lease,
				 0,
				 "`ttl SECONDS` and `left SECONDS`; touch renews, unlink gives up" };

/* --- names --- */

static uint32_t owner_sub(const char *owner)
{
	return (uint32_t)hash_u64(hash_str(owner)) & LEASE_MASK;
}

const char *lease_owner(const struct fsys *fs, uint64_t ino)
{
	const struct run *r = engine_run(fs->en, ino_number(ino));
	struct engine_lease l;
	size_t at = 0;

	while (r && engine_lease_next(fs->en, r, &at, &l))
		if (owner_sub(l.owner) == ino_sub(ino))
			return l.owner;
	return NULL;
}

uint64_t session_ino(const struct run *r)
{
	return ino_make(INO_SESSION, r->num, SESSION_ROW_DIR);
}

const struct run *session_named(const struct fsys *fs, const char *name)
{
	const struct run *r = engine_session(fs->en, name);

	return r && engine_session_current(fs->en, r) && strcmp(engine_session_name(r), name) == 0 ? r : NULL;
}

/* A cluster inside of it (ray, spark); NULL: the row is another directory. */
static const struct node *inner_dir(uint32_t row)
{
	const struct node *nd = &session_nodes[row];

	return nd->class == NODE_DIR && inner_kind(nd) ? nd : NULL;
}

/* The directory of that name in the run. */
static uint64_t in_run(const struct run *r, const struct node *dir)
{
	uint32_t row = 1;

	while (strcmp(run_nodes[row].name, dir->name) != 0)
		row++;
	return ino_make(INO_RUN, r->num, row);
}

static int row_lookup(struct fsys *fs, const struct run *r, const char *name, uint64_t *ino)
{
	for (uint32_t i = 1; session_nodes[i].name; i++) {
		uint32_t sub = i;

		if (strcmp(session_nodes[i].name, name) != 0)
			continue;
		if (inner_hidden(&session_nodes[i], r))
			break;
		if (session_nodes[i].flags & NODE_FRESH)
			sub |= ++fs->instance << INO_ROW_BITS;
		*ino = ino_make(INO_SESSION, r->num, sub & LEASE_MASK);
		return 0;
	}
	return -ENOENT;
}

int session_lookup(struct fsys *fs, uint64_t dir, const char *name, uint64_t *ino)
{
	const struct run *r = engine_run(fs->en, ino_number(dir));
	uint32_t row = ino_row(dir);
	struct engine_lease l;
	cleanup_free char *full = NULL;

	if (!r)
		return -ENOENT;
	if (row == SESSION_ROW_DIR)
		return strchr(name, '/') ? -ENOENT : row_lookup(fs, r, name, ino);
	if (session_nodes[row].class != NODE_DIR)
		return -ENOTDIR;
	if (row == SESSION_ROW_LEASES) {
		if (!engine_lease_find(fs->en, r, name, &l))
			return -ENOENT;
		*ino = ino_make(INO_LEASE, r->num, owner_sub(name));
		return 0;
	}
	full = xasprintf("%s/%s", session_nodes[row].name, name);
	if (row_lookup(fs, r, full, ino) == 0)
		return 0;
	return inner_dir(row) ? tree_lookup(fs, in_run(r, inner_dir(row)), name, ino) : -ENOENT;
}

static void list_leases(struct fsys *fs, const struct run *r, uint64_t off, tree_fill fill, void *arg)
{
	struct engine_lease l;
	size_t at = (size_t)off;

	while (engine_lease_next(fs->en, r, &at, &l))
		if (!fill(arg, l.owner, ino_make(INO_LEASE, r->num, owner_sub(l.owner)), at))
			return;
}

struct inner_fill {
	struct fsys *fs;
	const struct run *r;
	const struct node *dir;
	tree_fill fill;
	void *arg;
};

/* Those of the run, but for what the session has in its place. */
static bool fill_inner(void *arg, const char *name, uint64_t ino, uint64_t next_off)
{
	const struct inner_fill *f = arg;
	cleanup_free char *full = xasprintf("%s/%s", f->dir->name, name);

	(void)row_lookup(f->fs, f->r, full, &ino);
	return f->fill(f->arg, name, ino, next_off);
}

int session_readdir(struct fsys *fs, uint64_t dir, uint64_t off, tree_fill fill, void *arg)
{
	const struct run *r = engine_run(fs->en, ino_number(dir));
	bool runs = ino_row(dir) == SESSION_ROW_RUNS;
	struct inner_fill inner = { fs, r, inner_dir(ino_row(dir)), fill, arg };

	if (!r)
		return -ENOENT;
	if (ino_row(dir) == SESSION_ROW_LEASES) {
		list_leases(fs, r, off, fill, arg);
		return 0;
	}
	if (inner.dir)
		return tree_readdir(fs, in_run(r, inner.dir), off, fill_inner, &inner);
	for (uint32_t i = off > 1 ? (uint32_t)off : 1; session_nodes[i].name; i++) {
		const struct node *nd = &session_nodes[i];
		const char *slash = strchr(nd->name, '/');

		if (nd->flags & NODE_UNLISTED || inner_hidden(nd, r) || !slash != !runs || (slash && inner_kind(nd)))
			continue;
		if (!fill(arg, slash ? slash + 1 : nd->name, ino_make(INO_SESSION, r->num, i), i + 1))
			break;
	}
	return 0;
}

/* --- leases --- */

/* A request that waits until a lease is in the journal. */
struct lease_change {
	struct fsys *fs;
	struct parked *p; /* NULL: answered with ETIMEDOUT */
	uint32_t run;
	char *owner;
	enum { LEASE_TAKE, LEASE_TOUCH, LEASE_WRITE, LEASE_DROP } what;
	size_t len;
	struct fuse_file_info fi;
};

static void drop_lease(struct parked *p)
{
	((struct lease_change *)(uintptr_t)p->user)->p = NULL;
}

static void answer_lease(const struct lease_change *c, fuse_req_t req)
{
	uint64_t ino = ino_make(INO_LEASE, c->run, owner_sub(c->owner));
	struct fuse_entry_param ep;
	struct stat st;
	int rc = 0;

	memset(&ep, 0, sizeof(ep));
	if (c->what == LEASE_TAKE)
		rc = fill_entry(c->fs, ino, &ep);
	else if (c->what == LEASE_TOUCH)
		rc = tree_stat(c->fs, ino, &st);
	if (rc < 0)
		reply_rc(req, rc);
	else if (c->what == LEASE_TAKE)
		(void)fuse_reply_create(req, &ep, &c->fi);
	else if (c->what == LEASE_TOUCH)
		(void)fuse_reply_attr(req, &st, 0.0);
	else if (c->what == LEASE_WRITE)
		(void)fuse_reply_write(req, c->len);
	else
		reply_rc(req, 0);
}

static void lease_done(void *arg, int code, const char *text)
{
	struct lease_change *c = arg;

	(void)text;
	journal_answered(c->fs);
	if (c->p && code < 0)
		reply_rc(unpark(c->p), code);
	else if (c->p)
		answer_lease(c, unpark(c->p));
	free(c->owner);
	free(c);
}

static struct lease_change *change(struct fsys *fs, fuse_req_t req, uint32_t run, const char *owner)
{
	struct lease_change *c = xcalloc(1, sizeof(*c));

	c->fs = fs;
	c->run = run;
	c->owner = xstrdup(owner);
	c->p = park(fs, req, NULL, 0, NULL);
	c->p->uninterruptible = true;
	c->p->user = (uintptr_t)c;
	c->p->drop = drop_lease;
	journal_asked(fs);
	park_for_journal(c->p);
	return c;
}

bool lease_is_dir(uint64_t ino)
{
	return ino_kind(ino) == INO_SESSION && ino_row(ino) == SESSION_ROW_LEASES;
}

void lease_create(struct fsys *fs, fuse_req_t req, uint64_t dir, const char *name, const struct fuse_file_info *fi)
{
	struct lease_change *c = change(fs, req, ino_number(dir), name);

	c->what = LEASE_TAKE;
	c->fi = *fi;
	engine_lease(fs->en, c->run, c->owner, 0, lease_done, c);
}

void lease_unlink(struct fsys *fs, fuse_req_t req, uint64_t dir, const char *name)
{
	struct lease_change *c = change(fs, req, ino_number(dir), name);

	c->what = LEASE_DROP;
	engine_lease(fs->en, c->run, c->owner, -1, lease_done, c);
}

void lease_touch(struct fsys *fs, fuse_req_t req, uint64_t ino)
{
	const char *owner = lease_owner(fs, ino);
	struct lease_change *c;

	if (!owner) {
		reply_rc(req, -ENOENT);
		return;
	}
	c = change(fs, req, ino_number(ino), owner);
	c->what = LEASE_TOUCH;
	engine_lease(fs->en, c->run, c->owner, 0, lease_done, c);
}

/* "ttl SECONDS" or "SECONDS"; -1: neither. What follows in the next lines (`left`) is not ours to say. */
static long ttl_of(const char *data, size_t len)
{
	cleanup_free char *text = xstrndup(data, len);
	char *at = text + strspn(text, " \t"), *end;
	long n;

	if (strncmp(at, "ttl ", 4) == 0)
		at += 4;
	at += strspn(at, " \t=");
	if (*at < '0' || *at > '9')
		return -1;
	errno = 0;
	n = strtol(at, &end, 10);
	end += strspn(end, " \t\r");
	return errno || (*end && *end != '\n') || n < 1 || n > ENGINE_LEASE_MAX ? -1 : n;
}

void lease_write(struct fsys *fs, fuse_req_t req, uint64_t ino, const char *data, size_t len)
{
	static const char why[] = "a lease is `ttl SECONDS`, from 1 to 2592000";
	const char *owner = lease_owner(fs, ino);
	long ttl = ttl_of(data, len);
	struct lease_change *c;

	if (!owner || ttl < 0) {
		if (owner)
			engine_note_rejected(fs->en, fuse_req_ctx(req)->uid, data, len < 100 ? len : 100, why);
		reply_rc(req, owner ? -EINVAL : -ENOENT);
		return;
	}
	c = change(fs, req, ino_number(ino), owner);
	c->what = LEASE_WRITE;
	c->len = len;
	engine_lease(fs->en, c->run, c->owner, (int)ttl, lease_done, c);
}
