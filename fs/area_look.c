/*
 * What is known of results/ and work/ of a run, and when it is asked for anew. One listing of a directory is on its way
 * at a time.
 *
 * A directory operation never waits for a network: for a cluster that is reached over one it answers from the last
 * listing and asks for the next, which also come by themselves while somebody looks (backend/remote_watch.c). A
 * directory that was never listed is EHOSTUNREACH while the cluster is away, not empty. On this machine's own cluster
 * no network is in between: there LOOKUP, GETATTR, OPENDIR and READDIR wait for a listing that is new enough, for a
 * second at most.
 */
#include "fs/area.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"

#include <errno.h>
#include <string.h>

#define FAR_AGE_US (1 * USEC_PER_SEC)    /* over a network, older listings are asked for again */
#define NEAR_AGE_US (20 * USEC_PER_MSEC) /* of a known name on this machine, unless the run did something since */
#define NEAR_MANY 1000
#define NEAR_COSTS 4 /* a listing of more names serves for this many times what it took */
#define NEAR_WAIT_US (1 * USEC_PER_SEC)
#define FIRST_WAIT_US (10 * USEC_PER_SEC) /* there is nothing older to answer with */
#define WORK_WAIT_US (5 * USEC_PER_SEC)   /* opening work/ over a network: nobody walks into it by accident */

/* --- listings --- */

struct listing {
	struct fsys *fs;
	uint32_t run, attempt;
	char area;
	char *dir;
};

static void listed(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct listing *l = arg;
	struct pentry *state;

	(void)text;
	if (engine_run(l->fs->en, l->run) && area_paths(l->fs, l->run)->attempt == l->attempt) {
		struct paths *p = area_paths(l->fs, l->run);
		bool gone = code == -ENOENT || code == -ENOTDIR;

		state = paths_dir(p, l->area, l->dir);
		/* What came with the end of the run is the truth, and what was asked for later is newer. */
		if ((code == 0 || gone) && state && !(l->area == 'r' && p->manifest) &&
		    state->answered_at <= state->asked_at)
			state->names = paths_take(p, l->area, l->dir, false, data, code == 0 ? len : 0);
		if (state) {
			state->listing = false;
			state->listed = state->listed || code == 0 || gone;
			if (state->asked_at > state->answered_at)
				state->answered_at = state->asked_at;
			state->cost = clock_mono(l->fs->clock) - state->asked_at;
		}
	}
	park_retry(l->fs, l->run);
	free(l->dir);
	free(l);
}

void area_load_manifest(struct fsys *fs, struct spot *s)
{
	cleanup_free char *path = NULL;
	struct strbuf sb = STRBUF_INIT;

	if (s->p->manifest || run_is_live(s->r))
		return;
	path = xasprintf("%s/spool/%u/manifest", fs->state_dir, s->r->num);
	if (strbuf_read_file(&sb, path, 1u << 30) >= 0) {
		paths_take(s->p, 'r', "", true, sb.buf, sb.len);
		s->p->manifest = true;
	}
	strbuf_release(&sb);
}

/* Is there anything on a cluster that could be asked for? */
static bool is_remote(struct fsys *fs, struct spot *s)
{
	if (s->area == 'f' || !s->r->attempt)
		return false;
	if (s->area == 'r')
		area_load_manifest(fs, s);
	return s->area != 'r' || !s->p->manifest;
}

static void ask(struct fsys *fs, const struct spot *s, struct pentry *state, const char *dir)
{
	struct listing *l;

	if (state->listing)
		return;
	state->listing = true;
	state->asked_at = clock_mono(fs->clock);
	l = xmalloc(sizeof(*l));
	*l = (struct listing){ fs, s->r->num, s->p->attempt, s->area, xstrdup(dir) };
	engine_list(fs->en, s->r->num, (int)area_number(s->area), dir, listed, l);
}

/* --- near and far --- */

/* Is its cluster this machine? */
static bool is_near(const struct fsys *fs, const struct run *r)
{
	const struct config *cf = engine_config(fs->en);

	for (size_t i = 0; r->cluster && i < cf->n_clusters; i++)
		if (strcmp(cf->clusters[i]->name, r->cluster) == 0)
			return cf->clusters[i]->type == CLUSTER_LOCAL;
	return false;
}

static bool link_up(const struct fsys *fs, const struct run *r)
{
	const struct engine_link *link = r->cluster ? engine_cluster_link(fs->en, r->cluster) : NULL;

	return link && link->up;
}

bool area_away(struct fsys *fs, struct spot *s, const char *dir)
{
	const struct pentry *state = paths_dir(s->p, s->area, dir);

	if (!is_remote(fs, s) || !state || state->listed)
		return false;
	if (is_near(fs, s->r))
		return !state->answered_at;
	if (run_is_live(s->r) && !(s->r->job_id && *s->r->job_id))
		return false; /* it has no job there yet, and so no files */
	return !link_up(fs, s->r);
}

int area_missing(struct fsys *fs, struct spot *s, const char *dir)
{
	return area_away(fs, s, dir) ? -EHOSTUNREACH : -ENOENT;
}

char *area_parent(const struct spot *s)
{
	const char *slash = s->e ? strrchr(s->path, '/') : NULL;

	return slash ? xstrndup(s->path, (size_t)(slash - s->path)) : xstrdup("");
}

void area_listed(struct fsys *fs, uint32_t run, int area, bool whole, int64_t began, const char *data, size_t len)
{
	struct paths *p = area_paths(fs, run);
	const struct run *r = engine_run(fs->en, run);

	if (!r || p->attempt != r->attempt) { /* nobody looked at this attempt so far */
		paths_forget(p);
		p->attempt = r ? r->attempt : 0;
	}
	if (data)
		paths_merge(p, area == AREA_RESULTS ? 'r' : 'w', whole, began, data, len);
	else if (whole)
		paths_confirm(p, area == AREA_RESULTS ? 'r' : 'w', began);
	park_retry(fs, run);
}

void area_news(struct fsys *fs, uint32_t run)
{
	struct hmap_node *n = hmap_first(&fs->paths, run);

	if (n)
		container_of(n, struct paths, node)->news_at = clock_mono(fs->clock);
}

/* --- requests that wait --- */

struct waiting {
	struct area_request a;
	char *name;
	int64_t since; /* monotonic us: when it came */
	bool absent;   /* it would be told that a name is not there */
};

/* The directory whose listing answers; the caller frees. */
static char *asked_of(const struct area_request *a, const struct spot *s)
{
	return a->what == AREA_GETATTR ? area_parent(s) : xstrdup(s->path);
}

/*
 * May be answered: the listing began after the question, or a little before and the run did nothing since. That a name
 * is not there is said from a later one only, so that whoever was told of a file finds it; unless listings are dear.
 */
static bool new_enough(const struct spot *s, const struct pentry *state, const struct waiting *w)
{
	int64_t age = w->absent ? 0 : NEAR_AGE_US;
	bool dear = state->names > NEAR_MANY;

	if (dear && NEAR_COSTS * state->cost > age)
		age = NEAR_COSTS * state->cost;
	if (!state->answered_at)
		return false;
	return state->answered_at >= w->since ||
	       (state->answered_at >= w->since - age && (dear || state->answered_at > s->p->news_at));
}

static int64_t patience(const struct pentry *state)
{
	return state->answered_at ? NEAR_WAIT_US : FIRST_WAIT_US;
}

/* Others have waited for this listing already, for as long as anybody does. */
static bool overdue(const struct fsys *fs, const struct pentry *state, int64_t limit)
{
	return state->listing && clock_mono(fs->clock) - state->asked_at >= limit;
}

/* Asks when there is need. True: no answer has to be waited for (any more). */
static bool ready_near(struct fsys *fs, struct spot *s, const struct waiting *w)
{
	cleanup_free char *dir = asked_of(&w->a, s);
	struct pentry *state = is_remote(fs, s) ? paths_dir(s->p, s->area, dir) : NULL;

	if (!state || new_enough(s, state, w) || overdue(fs, state, patience(state)))
		return true;
	ask(fs, s, state, dir);
	return new_enough(s, state, w);
}

/* For what comes over a network only opening a directory of work/ waits: for the listing that is on its way. */
static bool ready_far(struct fsys *fs, struct spot *s, const struct waiting *w)
{
	const struct pentry *state = is_remote(fs, s) ? paths_dir(s->p, s->area, s->path) : NULL;

	(void)w;
	return !state || !state->listing || !link_up(fs, s->r);
}

static void waiting_free(struct parked *p)
{
	struct waiting *w = (struct waiting *)(uintptr_t)p->user;

	free(w->name);
	free(w);
}

/* What is known is the answer. */
static bool go_on(struct parked *p)
{
	struct waiting *w = (struct waiting *)(uintptr_t)p->user;
	struct fsys *fs = p->fs;

	w->a.go(fs, unpark(p), &w->a);
	free(w->name);
	free(w);
	return true;
}

static bool retry_waiting(struct parked *p)
{
	const struct waiting *w = (struct waiting *)(uintptr_t)p->user;
	struct spot s;

	if (area_at(p->fs, w->a.ino, &s) && !(is_near(p->fs, s.r) ? ready_near : ready_far)(p->fs, &s, w))
		return false;
	return go_on(p);
}

static void wait_for(struct fsys *fs, fuse_req_t req, const struct spot *s, const struct waiting *w, int64_t limit)
{
	struct waiting *kept = xmalloc(sizeof(*kept));
	struct parked *p = park(fs, req, NULL, s->r->num, retry_waiting);

	*kept = *w;
	kept->name = w->a.name ? xstrdup(w->a.name) : NULL;
	kept->a.name = kept->name;
	p->user = (uintptr_t)kept;
	p->drop = waiting_free;
	p->late = go_on;
	p->deadline = w->since + limit;
	(void)park_interruptible(p);
}

static bool wait_near(struct fsys *fs, fuse_req_t req, struct spot *s, struct waiting *w)
{
	cleanup_free char *dir = NULL;
	const struct pentry *state;

	if (w->a.what == AREA_LOOKUP) {
		struct strbuf full = STRBUF_INIT;
		const struct pentry *e;

		area_join(&full, s->path, w->a.name);
		e = paths_find(s->p, s->area, full.buf);
		w->absent = !e || !e->known;
		strbuf_release(&full);
	} else {
		w->absent = w->a.what == AREA_OPENDIR || (w->a.what == AREA_GETATTR && !s->e->known);
	}
	if (ready_near(fs, s, w))
		return false;
	dir = asked_of(&w->a, s);
	state = paths_dir(s->p, s->area, dir);
	wait_for(fs, req, s, w, state ? patience(state) : NEAR_WAIT_US);
	return true;
}

static bool wait_far(struct fsys *fs, fuse_req_t req, struct spot *s, struct waiting *w)
{
	cleanup_free char *dir = asked_of(&w->a, s);
	struct pentry *state = paths_dir(s->p, s->area, dir);

	if (!state || !link_up(fs, s->r))
		return false;
	if (!state->answered_at || w->since - state->answered_at >= FAR_AGE_US)
		ask(fs, s, state, dir);
	/* Of a cluster's logs what was listed once is enough. */
	if (s->area == 'r' || (s->area != 'w' && state->listed) || w->a.what != AREA_OPENDIR || !state->listing ||
	    overdue(fs, state, WORK_WAIT_US))
		return false;
	wait_for(fs, req, s, w, WORK_WAIT_US);
	return true;
}

bool area_wait(struct fsys *fs, fuse_req_t req, const struct area_request *a)
{
	struct waiting w = { .a = *a, .since = clock_mono(fs->clock) };
	struct spot s;

	if (!area_at(fs, a->ino, &s) || !is_remote(fs, &s) || (a->what == AREA_GETATTR && !s.e))
		return false;
	engine_look(fs->en, s.r->num,
		    s.area == 'r'   ? CLUSTER_LOOK_RESULTS
		    : s.area == 'w' ? CLUSTER_LOOK_WORK
				    : CLUSTER_LOOK_RUN);
	return (is_near(fs, s.r) ? wait_near : wait_far)(fs, req, &s, &w);
}

/* --- opening a directory --- */

static void go_opendir(struct fsys *fs, fuse_req_t req, const struct area_request *a)
{
	struct fuse_file_info fi = { .fh = a->fh };
	struct spot s;

	if (!area_at(fs, a->ino, &s) || (s.e && s.area != 'f' && !s.e->known && !area_away(fs, &s, s.path)))
		(void)fuse_reply_err(req, ENOENT);
	else if (area_away(fs, &s, s.path))
		(void)fuse_reply_err(req, EHOSTUNREACH);
	else
		(void)fuse_reply_open(req, &fi);
}

void area_opendir(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi)
{
	const struct area_request a = { .what = AREA_OPENDIR, .ino = ino, .fh = fi->fh, .go = go_opendir };

	if (!area_wait(fs, req, &a))
		go_opendir(fs, req, &a);
}
