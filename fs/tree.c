/*
 * The tree: names to node ids and back, attributes, directory listings. Everything is answered from memory.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"
#include "backend/spec.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define LIVE_TIMEOUT 0.0  /* attributes of what may change at any moment */
#define FINAL_TIMEOUT 1.0 /* of ended runs; also how long a purged or new run may be seen or missed */

static uint64_t fixed_ino(struct fsys *fs, uint32_t row)
{
	uint32_t sub = row;

	if (fixed_nodes[row].flags & NODE_FRESH)
		sub |= ++fs->instance << INO_ROW_BITS;
	return ino_make(INO_FIXED, 0, sub & ((1u << INO_SUB_BITS) - 1));
}

static uint64_t table_ino(struct fsys *fs, enum ino_kind kind, uint32_t num, const struct node *t, uint32_t row)
{
	uint32_t sub = row;

	if (t[row].flags & NODE_FRESH)
		sub |= ++fs->instance << INO_ROW_BITS;
	return ino_make(kind, num, sub & ((1u << INO_SUB_BITS) - 1));
}

static int find_row(const struct node *t, uint32_t first, const char *name)
{
	for (uint32_t i = first; t[i].name; i++)
		if (strcmp(t[i].name, name) == 0)
			return (int)i;
	return -ENOENT;
}

/* The row of a name in a directory of a run: names in pipes/ are rows with its name in front. */
static int run_row(uint64_t dir, const char *name)
{
	cleanup_free char *full = NULL;

	if (ino_row(dir) == RUN_ROW_DIR)
		return find_row(run_nodes, 1, name);
	if (run_nodes[ino_row(dir)].class != NODE_DIR)
		return -ENOENT;
	full = xasprintf("%s/%s", run_nodes[ino_row(dir)].name, name);
	return find_row(run_nodes, 1, full);
}

/* Rows of fixed_nodes that belong to a directory: [first, last]. */
static bool fixed_children(uint64_t dir, uint32_t *first, uint32_t *last)
{
	if (ino_kind(dir) == INO_ROOT) {
		*first = FIXED_README;
		*last = FIXED_BY;
	} else if (ino_row(dir) == FIXED_SESSIONS) {
		*first = *last = FIXED_SESSIONS_NEW;
	} else if (ino_row(dir) == FIXED_RUNS) {
		*first = FIXED_NEW;
		*last = FIXED_RUNS_LAST;
	} else if (ino_row(dir) == FIXED_BY) {
		*first = FIXED_BY_FIRST;
		*last = FIXED_BY_FIRST + SET_N - 1;
	} else {
		return false;
	}
	return true;
}

static uint32_t cluster_row(const char *name)
{
	return (uint32_t)find_row(cluster_nodes, 1, name);
}

/* --- lookup --- */

static int lookup_fixed(struct fsys *fs, uint64_t parent, const char *name, uint64_t *ino)
{
	uint32_t first, last;

	for (uint32_t i = FIXED_EVENTS; i <= FIXED_SESSIONS && ino_kind(parent) == INO_ROOT; i++) {
		if (strcmp(name, fixed_nodes[i].name) != 0)
			continue;
		*ino = fixed_ino(fs, i);
		return 0;
	}
	if (!fixed_children(parent, &first, &last))
		return -ENOENT;
	for (uint32_t i = first; i <= last; i++) {
		if (strcmp(fixed_nodes[i].name, name) != 0)
			continue;
		if (fixed_nodes[i].class == NODE_LINK && !engine_last(fs->en) && !engine_creating(fs->en))
			return -ENOENT;
		*ino = fixed_ino(fs, i);
		return 0;
	}
	return -ENOENT;
}

static int lookup_in_fixed(struct fsys *fs, uint64_t parent, const char *name, uint64_t *ino)
{
	const struct config *cf = engine_config(fs->en);
	uint32_t row = ino_row(parent);
	const struct run *r;

	if (lookup_fixed(fs, parent, name, ino) == 0)
		return 0;
	if (row == FIXED_RUNS && (r = engine_run_by_id(fs->en, name))) {
		*ino = ino_make(INO_RUN, r->num, RUN_ROW_DIR);
		return 0;
	}
	if (row == FIXED_SESSIONS && (r = session_named(fs, name))) {
		*ino = session_ino(r);
		return 0;
	}
	if (row == FIXED_ENVS)
		return env_lookup(fs, name, ino);
	if (row == FIXED_CLUSTERS) {
		for (uint32_t i = 0; i < cf->n_clusters; i++) {
			if (strcmp(cf->clusters[i]->name, name) != 0)
				continue;
			*ino = ino_make(INO_CLUSTER, i, 0);
			return 0;
		}
	}
	if (row >= FIXED_BY_FIRST && row < FIXED_BY_FIRST + SET_N)
		return by_lookup(fs, (enum set_kind)(row - FIXED_BY_FIRST), name, ino);
	return -ENOENT;
}

static int lookup_cluster(struct fsys *fs, uint64_t parent, const char *name, uint64_t *ino)
{
	bool in_runs = ino_row(parent) == cluster_row("runs"), in_sessions = ino_row(parent) == cluster_row("sessions");
	int row = find_row(cluster_nodes, 1, in_sessions && strcmp(name, "new") == 0 ? "sessions/new" : name);

	if (row < 0 || (strcmp(name, "new") == 0) != (in_runs || in_sessions) ||
	    (ino_row(parent) && !in_runs && !in_sessions) || strchr(name, '/'))
		return -ENOENT;
	*ino = table_ino(fs, INO_CLUSTER, ino_number(parent), cluster_nodes, (uint32_t)row);
	return 0;
}

int tree_lookup(struct fsys *fs, uint64_t parent, const char *name, uint64_t *ino)
{
	const struct run *r;
	int row;

	if (area_is(parent))
		return area_lookup(fs, parent, name, ino);
	switch (ino_kind(parent)) {
	case INO_ROOT:
		return lookup_fixed(fs, parent, name, ino);
	case INO_FIXED:
		return lookup_in_fixed(fs, parent, name, ino);
	case INO_RUN:
		row = run_row(parent, name);
		r = engine_run(fs->en, ino_number(parent));
		if (row < 0 || !r || inner_hidden(&run_nodes[row], r) ||
		    (run_nodes[row].class == NODE_LINK && !engine_session_of(fs->en, r)))
			return -ENOENT;
		*ino = table_ino(fs, INO_RUN, ino_number(parent), run_nodes, (uint32_t)row);
		return 0;
	case INO_SESSION:
		return session_lookup(fs, parent, name, ino);
	case INO_ENV:
		row = ino_row(parent) ? -ENOTDIR : find_row(env_nodes, 1, name);
		if (row < 0 || !env_find(fs, ino_number(parent)))
			return -ENOENT;
		*ino = table_ino(fs, INO_ENV, ino_number(parent), env_nodes, (uint32_t)row);
		return 0;
	case INO_CLUSTER:
		return lookup_cluster(fs, parent, name, ino);
	case INO_SET:
		return set_lookup(fs, parent, name, ino);
	default:
		return -ENOTDIR;
	}
}

/* --- attributes --- */

static void set_time(struct stat *st, int64_t us)
{
	st->st_mtim.tv_sec = us / USEC_PER_SEC;
	st->st_mtim.tv_nsec = us % USEC_PER_SEC * 1000;
	st->st_atim = st->st_ctim = st->st_mtim;
}

static int64_t last_transition(const struct run *r)
{
	int64_t t = r->t_created;

	for (size_t i = 0; i < r->n_history; i++)
		if (r->history[i].time > t)
			t = r->history[i].time;
	return t;
}

/* Of the newest row; rows begin with their time. */
static int64_t errors_mtime(const struct fsys *fs)
{
	static const char head[] = "{\"time\":\"";
	const struct strbuf *rows = engine_rejected(fs->en);
	const char *nl = rows->len > 1 ? memrchr(rows->buf, '\n', rows->len - 1) : NULL;
	const char *row = nl ? nl + 1 : rows->buf;
	struct tm tm = { 0 };
	const char *end;

	if (strncmp(row, head, strlen(head)) != 0)
		return fs->mounted;
	end = strptime(row + strlen(head), "%Y-%m-%dT%H:%M:%S.", &tm);
	return end ? timegm(&tm) * USEC_PER_SEC + strtol(end, NULL, 10) : fs->mounted;
}

static int64_t log_mtime(struct fsys *fs, const struct node *nd, const struct run *r)
{
	struct spool_reader *sp = run_spool(fs, r);
	int64_t t = sp ? spool_reader_mtime(sp, (enum spool_stream)nd->stream) : 0;

	/* Bytes that came after the end were written before it. */
	if (!run_is_live(r) && t > r->t_ended)
		t = r->t_ended;
	return t > r->t_created ? t : r->t_created;
}

static int64_t later(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static int64_t link_mtime(const struct fsys *fs, const char *cluster)
{
	const struct engine_link *l = engine_cluster_link(fs->en, cluster);

	return l ? later(l->since, fs->started) : fs->started;
}

/* Of documents that tell of all runs: the last change of any, not the time of the look, or tar and make see a change in
 * each. */
static int64_t runs_mtime(const struct fsys *fs, bool health)
{
	const struct config *cf = engine_config(fs->en);
	int64_t t = fs->runs_changed;

	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num))
		t = later(t, r->t_changed);
	for (size_t i = 0; health && i < cf->n_clusters; i++)
		t = later(t, link_mtime(fs, cf->clusters[i]->name));
	return health ? later(t, fs->started) : t;
}

static int64_t shared_mtime(const struct fsys *fs, const struct node *nd, const struct view *v)
{
	if (nd == &fixed_nodes[FIXED_ERRORS])
		return errors_mtime(fs);
	if (nd->class == NODE_FEED)
		return engine_feed_len(fs->en) ? engine_feed_time(fs->en) : fs->mounted;
	if (nd->class != NODE_DOC)
		return fs->mounted;
	return v->cluster ? link_mtime(fs, v->cluster->name) : runs_mtime(fs, nd == &fixed_nodes[FIXED_STATUS]);
}

int64_t node_mtime(struct fsys *fs, const struct node *nd, const struct view *v)
{
	const struct run *r = v->run;
	struct engine_lease lease;

	if (nd->class == NODE_LEASE)
		return v->lease && engine_lease_find(fs->en, r, v->lease, &lease) ? lease.renewed : fs->mounted;
	if (nd->flags & NODE_CONSTANT)
		return fs->built;
	if (nd->class == NODE_PROBE)
		return probe_mtime(fs, v, nd->name);
	if (v->env)
		return env_mtime(v->env);
	if (!r)
		return shared_mtime(fs, nd, v);
	switch (nd->class) {
	case NODE_GROW:
	case NODE_FOLLOW:
		return log_mtime(fs, nd, r);
	case NODE_STORED:
	case NODE_SPEC:
		return r->t_created;
	case NODE_WAIT:
		return last_transition(r);
	case NODE_CONTEXT:
		return context_mtime(fs, r);
	default:
		if (nd->flags & NODE_TRANSITION)
			return last_transition(r);
		return r->t_changed > r->t_created ? r->t_changed : r->t_created;
	}
}

static size_t stored_len(const struct run *r, const char *name)
{
	return strcmp(name, "spec") == 0 ? r->spec_len : strcmp(name, "script") == 0 ? r->script_len : r->effective_len;
}

static uint64_t node_size(struct fsys *fs, const struct node *nd, struct view *v)
{
	struct strbuf sb = STRBUF_INIT;
	uint64_t n = 0;

	switch (nd->class) {
	case NODE_DOC:
	case NODE_LEASE:
	case NODE_LINK:
		render_node(nd, v, &sb);
		n = sb.len;
		break;
	case NODE_STORED:
	case NODE_SPEC:
		n = v->run ? stored_len(v->run, nd->name) : 0;
		break;
	case NODE_GROW:
	case NODE_FOLLOW:
		n = run_stream_len(fs, v->run, nd->stream, NULL);
		break;
	case NODE_CTL:
		n = strlen(ctl_verbs(nd, v));
		break;
	case NODE_FEED:
		n = engine_feed_len(fs->en);
		break;
	case NODE_PROBE:
		n = probe_size(fs, v, nd->name);
		break;
	case NODE_INNER:
		n = inner_size(v->run, nd);
		break;
	case NODE_CONTEXT:
		n = context_size(fs, v->run);
		break;
	default:
		break;
	}
	strbuf_release(&sb);
	return n;
}

static void dir_attr(struct stat *st, mode_t mode, int64_t mtime)
{
	st->st_mode = S_IFDIR | mode;
	st->st_nlink = 2;
	set_time(st, mtime);
}

static int stat_node(struct fsys *fs, uint64_t ino, struct stat *st)
{
	struct view v;
	const struct node *nd = node_of(fs, ino, &v);
	bool runs = ino_kind(ino) == INO_FIXED && (ino_row(ino) == FIXED_RUNS || ino_row(ino) == FIXED_SESSIONS);

	if (!nd)
		return -ENOENT;
	if (nd->class == NODE_DIR) {
		dir_attr(st, nd->mode, v.run ? v.run->t_changed : runs ? fs->runs_changed : fs->mounted);
		return 0;
	}
	st->st_mode = (nd->class == NODE_LINK ? S_IFLNK : S_IFREG) | nd->mode;
	if (nd->class == NODE_SPEC && v.run && v.run->status != RUN_DRAFT)
		st->st_mode = S_IFREG | 0644;
	st->st_nlink = 1;
	st->st_size = (off_t)node_size(fs, nd, &v);
	st->st_blocks = (st->st_size + 511) / 512;
	set_time(st, node_mtime(fs, nd, &v));
	return 0;
}

static int stat_any(struct fsys *fs, uint64_t ino, struct stat *st)
{
	const struct run *r;
	int rc = 0;

	if (area_is(ino))
		return area_stat(fs, ino, st);
	switch (ino_kind(ino)) {
	case INO_SET:
		if (!set_exists(fs, ino))
			return -ENOENT;
		dir_attr(st, 0555, fs->mounted);
		break;
	case INO_SET_WAIT:
	case INO_SET_ANY:
		st->st_mode = S_IFREG | 0444;
		st->st_nlink = 1;
		set_time(st, fs->mounted);
		break;
	case INO_LINK:
		r = engine_run(fs->en, ino_number(ino));
		if (!r)
			return -ENOENT;
		st->st_mode = S_IFLNK | 0777;
		st->st_nlink = 1;
		st->st_size = (off_t)(strlen("../../../runs/") + strlen(r->id));
		set_time(st, r->t_created);
		break;
	default:
		rc = stat_node(fs, ino, st);
	}
	return rc;
}

int tree_stat(struct fsys *fs, uint64_t ino, struct stat *st)
{
	int rc;

	memset(st, 0, sizeof(*st));
	st->st_ino = ino_stable(ino);
	st->st_uid = fs->uid;
	st->st_gid = fs->gid;
	st->st_blksize = 128 * 1024;
	rc = stat_any(fs, ino, st);
	st->st_mode = fsys_mode(fs, st->st_mode);
	return rc;
}

double tree_attr_timeout(struct fsys *fs, uint64_t ino)
{
	struct view v;
	const struct node *nd;
	const struct run *r;

	if (fs->others ||
	    (ino_kind(ino) == INO_FIXED && (ino_row(ino) == FIXED_RUNS || ino_row(ino) == FIXED_SESSIONS)))
		return LIVE_TIMEOUT;
	if (ino_kind(ino) == INO_PATH) {
		r = engine_run(fs->en, ino_number(ino));
		return r && !run_is_live(r) ? FINAL_TIMEOUT : LIVE_TIMEOUT;
	}
	nd = node_of(fs, ino, &v);
	if (!nd)
		return LIVE_TIMEOUT;
	if (nd->class == NODE_DIR)
		return v.run && run_is_live(v.run) ? LIVE_TIMEOUT : FINAL_TIMEOUT;
	return v.run && !run_is_live(v.run) && (nd->flags & NODE_FINAL) && !(nd->flags & NODE_FRESH) ? FINAL_TIMEOUT
												     : LIVE_TIMEOUT;
}

/* --- listing --- */

static int readdir_rows(struct fsys *fs, const struct node *t, uint32_t first, uint32_t last, uint64_t base,
			uint64_t off, tree_fill fill, void *arg)
{
	for (uint32_t i = first; i <= last && t[i].name; i++) {
		if (i < off || (t[i].flags & NODE_UNLISTED) || strchr(t[i].name, '/'))
			continue;
		if (t == fixed_nodes && t[i].class == NODE_LINK && !engine_last(fs->en))
			continue;
		if (t == run_nodes && t[i].class == NODE_LINK &&
		    !engine_session_of(fs->en, engine_run(fs->en, ino_number(base))))
			continue;
		if (t == run_nodes && inner_hidden(&t[i], engine_run(fs->en, ino_number(base))))
			continue;
		if (!fill(arg, t[i].name, base | i, i + 1))
			return 1;
	}
	return 0;
}

static void readdir_run(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg)
{
	const struct node *dir = &run_nodes[ino_row(ino)];
	size_t n = strlen(dir->name);

	if (ino_row(ino) == RUN_ROW_DIR) {
		(void)readdir_rows(fs, run_nodes, 1, 255, ino_make(INO_RUN, ino_number(ino), 0), off, fill, arg);
		return;
	}
	for (uint32_t i = off > 1 ? (uint32_t)off : 1; run_nodes[i].name; i++)
		if (strncmp(run_nodes[i].name, dir->name, n) == 0 && run_nodes[i].name[n] == '/' &&
		    !(run_nodes[i].flags & NODE_UNLISTED) &&
		    !fill(arg, run_nodes[i].name + n + 1, ino_make(INO_RUN, ino_number(ino), i), i + 1))
			return;
}

#define ROWS_OFF 256 /* offsets below are rows of a table; run N is at ROWS_OFF + N */

static void readdir_runs(struct fsys *fs, uint64_t off, bool sessions, tree_fill fill, void *arg)
{
	uint32_t after = off > ROWS_OFF ? (uint32_t)(off - ROWS_OFF) : 0;

	for (const struct run *r = engine_next(fs->en, after); r; r = engine_next(fs->en, r->num)) {
		if (sessions && (!engine_is_session(r) || !engine_session_current(fs->en, r)))
			continue;
		if (!fill(arg, sessions ? engine_session_name(r) : r->id,
			  sessions ? session_ino(r) : ino_make(INO_RUN, r->num, RUN_ROW_DIR),
			  (uint64_t)ROWS_OFF + r->num))
			return;
	}
}

static int readdir_fixed(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg)
{
	const struct config *cf = engine_config(fs->en);
	uint32_t first, last, row = ino_kind(ino) == INO_ROOT ? 0 : ino_row(ino);

	if (row >= FIXED_BY_FIRST && row <= FIXED_BY_LAST)
		return by_readdir(fs, (enum set_kind)(row - FIXED_BY_FIRST), off, fill, arg);
	if (row == FIXED_ENVS) {
		env_readdir(fs, off, fill, arg);
		return 0;
	}
	if (row == FIXED_CLUSTERS) {
		for (uint32_t i = (uint32_t)off; i < cf->n_clusters; i++)
			if (!fill(arg, cf->clusters[i]->name, ino_make(INO_CLUSTER, i, 0), i + 1))
				break;
		return 0;
	}
	if (!fixed_children(ino, &first, &last))
		return -ENOTDIR;
	if (off < ROWS_OFF && readdir_rows(fs, fixed_nodes, first, last, ino_make(INO_FIXED, 0, 0), off, fill, arg))
		return 0;
	if (ino_kind(ino) == INO_ROOT)
		(void)readdir_rows(fs, fixed_nodes, FIXED_EVENTS, FIXED_SESSIONS, ino_make(INO_FIXED, 0, 0), off, fill,
				   arg);
	if (row == FIXED_RUNS)
		readdir_runs(fs, off, false, fill, arg);
	if (row == FIXED_SESSIONS)
		readdir_runs(fs, off, true, fill, arg);
	return 0;
}

int tree_readdir(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg)
{
	if (area_is(ino))
		return area_readdir(fs, ino, off, fill, arg);
	switch (ino_kind(ino)) {
	case INO_ROOT:
	case INO_FIXED:
		return readdir_fixed(fs, ino, off, fill, arg);
	case INO_RUN:
		if (!engine_run(fs->en, ino_number(ino)))
			return -ENOENT;
		readdir_run(fs, ino, off, fill, arg);
		return 0;
	case INO_SESSION:
		return session_readdir(fs, ino, off, fill, arg);
	case INO_ENV:
		if (!env_find(fs, ino_number(ino)))
			return -ENOENT;
		(void)readdir_rows(fs, env_nodes, 1, 255, ino_make(INO_ENV, ino_number(ino), 0), off, fill, arg);
		return 0;
	case INO_CLUSTER:
		if (ino_row(ino) == 0)
			(void)readdir_rows(fs, cluster_nodes, 1, 255, ino_make(INO_CLUSTER, ino_number(ino), 0), off,
					   fill, arg);
		else if (off == 0)
			(void)fill(
				arg, "new",
				ino_make(INO_CLUSTER, ino_number(ino),
					 cluster_row(ino_row(ino) == cluster_row("sessions") ? "sessions/new" : "new")),
				1);
		return 0;
	case INO_SET:
		return set_readdir(fs, ino, off, fill, arg);
	default:
		return -ENOTDIR;
	}
}

int tree_readlink(struct fsys *fs, uint64_t ino, struct strbuf *out)
{
	struct view v;
	const struct node *nd;
	const struct run *r;

	if (area_is(ino))
		return area_readlink(fs, ino, out);
	if (ino_kind(ino) == INO_LINK) {
		r = engine_run(fs->en, ino_number(ino));
		if (!r)
			return -ENOENT;
		strbuf_addf(out, "../../../runs/%s", r->id);
		return 0;
	}
	nd = node_of(fs, ino, &v);
	if (!nd || nd->class != NODE_LINK)
		return -EINVAL;
	render_node(nd, &v, out);
	return out->len ? 0 : -ENOENT;
}
