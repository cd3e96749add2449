/*
 * Directories of live runs that come by themselves, so that what a line of the log announces is there when the line can
 * be read, although no directory operation waits for a network.
 *
 * A run is watched for a minute after somebody looked at it (CREQ_LOOK, CREQ_HOT). New bytes of a watched run's log are
 * held back (remote_logs.c) until results/ is known to be as it was listed, or was listed anew. For that its
 * directories and newest files are asked for their times and sizes, all at once (sftp counts seconds, so a directory
 * that changed in the last two must be listed to be sure); a listing is made once a second, or a few in a row after a
 * pause. While somebody looks into results/ or work/ itself these are listed about every second anyway, more and more
 * slowly while nothing changes.
 *
 * Invariants: one request lists for all runs that want it (LIST_RUNS at most), and one is on its way at a time; an area
 * is listed up to LIST_BYTES; nothing is held back for a tree that is larger, or while the cluster cannot be asked;
 * runs that nobody looks at cost nothing. What is on its way names a run and a watch by number.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LIST_BYTES ((size_t)128 * 1024)
#define LIST_ENTRIES 4000
#define LIST_RUNS 8
#define LIST_LIMIT_S 10
#define LIST_COSTS 5 /* pause after a listing, in times of what it took */
#define LIST_PAUSE_US (100 * (int64_t)USEC_PER_MSEC)
#define TROUBLE_US (60 * (int64_t)USEC_PER_SEC)
#define STATS_MAX 64   /* paths that are asked for their times */
#define BURST 3        /* listings of a run that need not keep the distance: a job's first lines come close together */
#define WATCH_RUNS 256 /* by a look at the run's directory or log; looks into its areas count always */
#define WATCH_ALL 1024

/* A directory or file as it was listed. */
struct seen_path {
	char *path; /* with the area's name in front */
	bool dir;
	int64_t mtime; /* seconds */
	uint64_t size;
	int64_t since; /* directories: began the first listing with this time */
};

struct rwatch {
	uint64_t serial;
	int64_t until, areas_until;
	unsigned areas;    /* bit per enum cluster_area */
	int64_t listed_at; /* when the last one began; 0: never */
	int64_t next_at, interval;
	int64_t spent_at; /* up to where listings have used up time: each takes `watch_min` of it */
	bool wanted;      /* a listing is, as soon as there may be one */
	bool asked;       /* it is in the one that is on its way */
	bool held;        /* bytes of its log wait */
	bool again;       /* more came while it was looked at */
	bool blind, cut;  /* times do not tell; too large */
	bool work_seen;
	uint64_t print[2]; /* of the last listings */
	struct seen_path *seen;
	size_t n_seen;
	size_t open; /* questions for times that are on their way */
	bool changed, lost;
};

/* --- life --- */

static void forget_seen(struct rwatch *w)
{
	for (size_t i = 0; i < w->n_seen; i++)
		free(w->seen[i].path);
	free(w->seen);
	w->seen = NULL;
	w->n_seen = 0;
}

void rwatch_release(struct cluster *c, struct rrun *r)
{
	struct rwatch *w = r->watch;

	if (!w)
		return;
	r->watch = NULL;
	c->watching--;
	forget_seen(w);
	free(w);
}

static struct rwatch *watch_new(struct cluster *c, struct rrun *r, unsigned look)
{
	struct rwatch *w;

	if (c->watching >= (look & (CLUSTER_LOOK_RESULTS | CLUSTER_LOOK_WORK) ? WATCH_ALL : WATCH_RUNS))
		return NULL;
	w = xcalloc(1, sizeof(*w));
	w->serial = ++c->next_serial;
	w->areas = 1u << AREA_RESULTS;
	w->interval = c->pace.watch_min;
	w->next_at = INT64_MAX;
	w->wanted = true;
	r->watch = w;
	c->watching++;
	return w;
}

void rwatch_look(struct cluster *c, struct rrun *r, unsigned look)
{
	struct rwatch *w = r->watch;

	if (!c->pace.watch_for || r->phase != RR_SUBMITTED)
		return;
	if (!w)
		w = watch_new(c, r, look);
	if (!w)
		return;
	w->until = c->now + c->pace.watch_for;
	if (look & (CLUSTER_LOOK_RESULTS | CLUSTER_LOOK_WORK)) {
		w->areas_until = w->until;
		w->interval = c->pace.watch_min;
		w->next_at = earlier(w->next_at, w->listed_at + w->interval);
	}
	if ((look & CLUSTER_LOOK_WORK) && !(w->areas & 1u << AREA_WORK)) {
		w->areas |= 1u << AREA_WORK;
		w->wanted = true;
	}
	rruns_touch(c);
}

/* --- holding back --- */

static void show(struct cluster *c, struct rrun *r)
{
	r->watch->held = r->watch->again = false;
	rlogs_show(c, r);
	rruns_touch(c);
}

static bool settled(const struct cluster *c, const struct rwatch *w)
{
	if (w->blind)
		return false;
	for (size_t i = 0; i < w->n_seen; i++)
		if (w->seen[i].dir && w->listed_at - w->seen[i].since < c->pace.watch_settle)
			return false;
	return true;
}

struct stat_op {
	struct cluster *c;
	uint32_t num;
	uint64_t watch;
	size_t i;
};

static void ask_times(struct cluster *c, struct rrun *r);

static void times_known(struct cluster *c, struct rrun *r)
{
	struct rwatch *w = r->watch;

	if (w->lost) {
		show(c, r);
	} else if (w->changed) {
		w->again = false;
		w->wanted = true;
		rruns_touch(c);
	} else if (w->again) {
		w->again = false;
		ask_times(c, r);
	} else {
		show(c, r);
	}
}

static void on_times(void *arg, const struct sftp_reply *reply)
{
	struct stat_op op = *(struct stat_op *)arg;
	struct rrun *r = rrun_find(op.c, op.num, 0);
	const struct seen_path *p;
	struct rwatch *w;

	free(arg);
	w = r && r->watch && r->watch->serial == op.watch ? r->watch : NULL;
	if (!w)
		return;
	p = &w->seen[op.i];
	if (reply->code == -ECONNRESET)
		w->lost = true;
	else if (reply->code || !reply->attr.has_times || reply->attr.mtime != (uint32_t)p->mtime ||
		 (!p->dir && reply->attr.has_size && reply->attr.size != p->size))
		w->changed = true;
	if (--w->open == 0)
		times_known(op.c, r);
}

/* Is everything as it was listed? Where times cannot tell, a listing does. */
static void ask_times(struct cluster *c, struct rrun *r)
{
	struct rwatch *w = r->watch;

	w->lost = w->changed = false;
	if (!w->n_seen || w->wanted || c->link.sftp_state != SFTP_ON || !settled(c, w)) {
		w->wanted = true;
		rruns_touch(c);
		return;
	}
	w->open = w->n_seen;
	for (size_t i = 0; i < w->n_seen; i++) {
		struct stat_op *op = xcalloc(1, sizeof(*op));
		struct strbuf path = STRBUF_INIT;

		*op = (struct stat_op){ c, r->num, w->serial, i };
		remote_path(c, r->num, r->attempt, w->seen[i].path, &path);
		sftp_stat(c->link.sftp, path.buf, on_times, op);
		strbuf_release(&path);
	}
}

bool rwatch_news(struct cluster *c, struct rrun *r)
{
	struct rwatch *w = r->watch;

	if (!w || r->phase != RR_SUBMITTED || !rlink_files_ready(c) || c->now < c->watch_trouble_until ||
	    c->now >= w->until || w->cut)
		return false;
	w->held = true;
	if (w->asked || w->open)
		w->again = true;
	else
		ask_times(c, r);
	return true;
}

/* --- what a listing says --- */

struct record {
	const char *f[6]; /* type size mtime mode path target */
};

static const char *next_record(const char *p, const char *end, struct record *r)
{
	for (int i = 0; i < 6; i++) {
		const char *nul = p < end ? memchr(p, '\0', (size_t)(end - p)) : NULL;

		if (!nul)
			return NULL;
		r->f[i] = p;
		p = nul + 1;
	}
	return p;
}

static int64_t since_when(const struct seen_path *old, size_t n, const char *path, int64_t mtime, int64_t now)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(old[i].path, path) == 0)
			return old[i].mtime == mtime ? old[i].since : now;
	return now;
}

/* All directories, and the files that changed last. */
static void keep_seen(struct rwatch *w, const struct record *r, const char *area, bool dirs,
		      const struct seen_path *old, size_t n_old)
{
	struct seen_path p = { .dir = r->f[0][0] == 'd',
			       .mtime = strtoll(r->f[2], NULL, 10),
			       .size = strtoull(r->f[1], NULL, 10) };
	size_t at = w->n_seen;

	if (p.dir != dirs || r->f[0][0] == 'l')
		return;
	if (at == STATS_MAX) {
		w->blind = w->blind || dirs;
		at = STATS_MAX;
		for (size_t i = 0; i < STATS_MAX && !dirs; i++)
			if (!w->seen[i].dir && w->seen[i].mtime < p.mtime &&
			    (at == STATS_MAX || w->seen[i].mtime < w->seen[at].mtime))
				at = i;
		if (at == STATS_MAX)
			return;
		free(w->seen[at].path);
	} else {
		w->n_seen++;
	}
	p.path = *r->f[4] ? xasprintf("%s/%s", area, r->f[4]) : xstrdup(area);
	p.since = since_when(old, n_old, p.path, p.mtime, w->listed_at);
	w->seen[at] = p;
}

static void take_seen(struct rwatch *w, const char *area, const char *text, size_t len, const struct seen_path *old,
		      size_t n_old)
{
	for (int dirs = 1; dirs >= 0; dirs--) {
		const char *end = text + len, *p = text;
		struct record r;

		while ((p = next_record(p, end, &r)))
			keep_seen(w, &r, area, dirs != 0, old, n_old);
	}
}

/* Says it to the engine; an unchanged one without its text. True: it changed. */
static bool tell(struct cluster *c, struct rrun *r, enum cluster_area area, const char *text, size_t len, bool whole)
{
	struct strbuf out = STRBUF_INIT;
	struct rwatch *w = r->watch;
	struct crep *p = crep_new(CREP_LISTING, c);
	uint64_t print;
	bool same;

	rfiles_filter(text, len, LIST_ENTRIES, "", &out);
	print = hash_bytes(out.buf, out.len) | 1;
	same = print == w->print[area];
	w->print[area] = print;
	p->run = r->num;
	p->attempt = r->attempt;
	p->area = area;
	p->whole = whole;
	p->began = w->listed_at;
	if (!same)
		p->data = strbuf_detach(&out, &p->len);
	inbox_post(c->ctx.replies, &p->m);
	strbuf_release(&out);
	return !same;
}

/* --- one request for all --- */

struct part {
	uint32_t num;
	uint64_t watch;
	enum cluster_area area;
};

struct batch {
	uint64_t nonce;
	int64_t began;
	size_t n;
	struct part part[2 * LIST_RUNS];
};

static struct rrun *part_run(struct cluster *c, const struct part *p)
{
	struct rrun *r = rrun_find(c, p->num, 0);

	return r && r->watch && r->watch->serial == p->watch ? r : NULL;
}

static void mark(const struct batch *b, size_t i, struct strbuf *out)
{
	strbuf_addf(out, "//%llx %zu", (unsigned long long)b->nonce, i);
}

/* The text of part `i`, up to its mark: a NUL, the mark, a NUL. No path has two slashes in a row. */
static const char *part_text(const struct batch *b, size_t i, const char *p, const char *end, size_t *len)
{
	struct strbuf m = STRBUF_INIT;
	const char *at;

	strbuf_addch(&m, '\0');
	mark(b, i, &m);
	at = memmem(p, (size_t)(end - p), m.buf, m.len + 1);
	*len = at ? (size_t)(at - p) : 0;
	p = at ? at + m.len + 1 : NULL;
	strbuf_release(&m);
	return p;
}

static void listed(struct cluster *c, struct rrun *r, enum cluster_area area, const char *text, size_t len,
		   const struct seen_path *old, size_t n_old)
{
	const char *name = area == AREA_WORK ? "work" : "results";
	struct rwatch *w = r->watch;
	bool cut = len >= LIST_BYTES;

	if (area == AREA_RESULTS) {
		w->cut = cut;
		w->blind = len == 0; /* there is none yet, and so no time of it */
	}
	if (len && tell(c, r, area, text, len, !cut))
		w->interval = c->pace.watch_min;
	if (area == AREA_RESULTS && !cut)
		take_seen(w, name, text, len, old, n_old);
}

static void finish(struct cluster *c, struct rrun *r, bool good)
{
	struct rwatch *w = r->watch;

	if (!w->asked) /* done, by its other area */
		return;
	w->asked = false;
	w->next_at = w->areas_until > c->now ? c->now + w->interval : INT64_MAX;
	w->interval = earlier(w->interval + w->interval / 2, c->pace.watch_max);
	if (good && w->held && w->again) {
		w->again = false;
		ask_times(c, r);
	} else if (w->held) {
		show(c, r);
	}
	rruns_touch(c);
}

/* All areas of one run: what was seen before is compared with what is there now. */
static void take_run(struct cluster *c, struct rrun *r, const struct batch *b, size_t from, const char *const *text,
		     const size_t *len)
{
	struct rwatch *w = r->watch;
	struct seen_path *old = w->seen;
	size_t n_old = w->n_seen;

	w->seen = xcalloc(STATS_MAX, sizeof(*w->seen));
	w->n_seen = 0;
	w->listed_at = b->began;
	for (size_t i = from; i < b->n && b->part[i].num == b->part[from].num; i++)
		if (text[i])
			listed(c, r, b->part[i].area, text[i], len[i], old, n_old);
	for (size_t i = 0; i < n_old; i++)
		free(old[i].path);
	free(old);
}

static void take_batch(struct cluster *c, const struct batch *b, const struct agent_frame *f)
{
	const char *text[2 * LIST_RUNS] = { NULL }, *p = f->out, *end = f->out + f->out_len;
	size_t len[2 * LIST_RUNS] = { 0 };

	for (size_t i = 0; i < b->n && p; i++) {
		text[i] = p;
		p = part_text(b, i, p, end, &len[i]);
		if (!p)
			text[i] = NULL;
	}
	for (size_t i = 0; i < b->n; i++) {
		struct rrun *r = part_run(c, &b->part[i]);

		if (r && (i == 0 || b->part[i - 1].num != b->part[i].num) && text[i])
			take_run(c, r, b, i, text, len);
	}
}

static void on_batch(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct batch *b = arg;
	bool good = f && f->rc == 0;
	int64_t took = c->now - b->began;

	c->watch_busy = false;
	c->watch_next_at = c->now + (LIST_COSTS * took > LIST_PAUSE_US ? LIST_COSTS * took : LIST_PAUSE_US);
	if (f && !good) /* no find(1), or it hangs: nothing waits for it for a while */
		c->watch_trouble_until = c->now + TROUBLE_US;
	if (good)
		take_batch(c, b, f);
	for (size_t i = 0; i < b->n; i++) {
		struct rrun *r = part_run(c, &b->part[i]);

		if (r)
			finish(c, r, good);
	}
	rruns_touch(c);
	free(b);
}

static void add_part(struct cluster *c, struct batch *b, const struct rrun *r, enum cluster_area area,
		     struct strbuf *code)
{
	struct strbuf dir = STRBUF_INIT;

	strbuf_addstr(code, "( cd -- ");
	/* The slash follows a link into scratch. */
	remote_dir(c, r->num, r->attempt, area == AREA_WORK ? "work/" : "results/", &dir);
	quote_sh_path(code, dir.buf);
	strbuf_addstr(code, " 2>/dev/null && look )\nprintf '\\0");
	mark(b, b->n, code);
	strbuf_addstr(code, "\\0'\n");
	b->part[b->n++] = (struct part){ r->num, r->watch->serial, area };
	strbuf_release(&dir);
}

static void add_run(struct cluster *c, struct batch *b, struct rrun *r, struct strbuf *code)
{
	struct rwatch *w = r->watch;

	w->asked = true;
	w->wanted = w->again = false;
	w->spent_at = (w->spent_at > c->now ? w->spent_at : c->now) + c->pace.watch_min;
	add_part(c, b, r, AREA_RESULTS, code);
	if (w->areas & 1u << AREA_WORK && w->areas_until > c->now)
		add_part(c, b, r, AREA_WORK, code);
}

/* When news may be listed for: once in `watch_min`, after a pause BURST times in a row. */
static int64_t allowed_at(const struct cluster *c, const struct rwatch *w)
{
	return w->spent_at - (BURST - 1) * c->pace.watch_min;
}

/* When it wants its next listing; INT64_MAX: not by itself. */
static int64_t due_at(const struct cluster *c, const struct rwatch *w)
{
	int64_t at = w->areas_until > c->now ? w->next_at : INT64_MAX;

	if (w->wanted)
		at = earlier(at, allowed_at(c, w));
	return at;
}

void rwatch_step(struct cluster *c)
{
	struct strbuf code = STRBUF_INIT;
	struct batch *b;

	if (!c->watch_due || c->watch_busy || c->now < c->watch_next_at || !rlink_up(c))
		return;
	c->watch_due = false;
	b = xcalloc(1, sizeof(*b));
	b->nonce = hash_u64(c->random ^ ++c->next_serial);
	b->began = c->now;
	/* The program that comes first has to end when nobody reads what it says (head -c): it need not mind a broken
	 * pipe. */
	strbuf_addf(
		&code,
		"find . -maxdepth 0 -printf '' || exit 1\nlook() {\n\ttrap - PIPE\n\tfind . \\( -type f -o -type d -o -type l \\) "
		"-printf '%%y\\0%%s\\0%%T@\\0%%m\\0%%P\\0%%l\\0' 2>/dev/null | head -c %zu\n}\n",
		LIST_BYTES);
	for (struct hmap_node *n = hmap_walk(&c->runs, NULL); n; n = hmap_walk(&c->runs, n)) {
		struct rrun *r = container_of(n, struct rrun, node);

		if (!r->watch || r->watch->asked || r->watch->open || due_at(c, r->watch) > c->now)
			continue;
		if (b->n + 2 > 2 * LIST_RUNS) {
			c->watch_due = true; /* in the next one */
			break;
		}
		add_run(c, b, r, &code);
	}
	if (b->n) {
		c->watch_busy = true;
		rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, LIST_LIMIT_S, on_batch, b);
	} else {
		free(b);
	}
	strbuf_release(&code);
}

int64_t rwatch_deadline(const struct cluster *c)
{
	return c->watch_due && !c->watch_busy && c->link.state == LINK_UP ? c->watch_next_at : INT64_MAX;
}

int64_t rwatch_run_step(struct cluster *c, struct rrun *r)
{
	struct rwatch *w = r->watch;
	int64_t at;

	if (!w)
		return INT64_MAX;
	if (r->phase != RR_SUBMITTED || c->now >= w->until) {
		if (w->held)
			show(c, r);
		rwatch_release(c, r);
		return INT64_MAX;
	}
	if (!rlink_up(c)) {
		if (w->held && !w->asked && !w->open)
			show(c, r);
		return w->until;
	}
	if (w->asked || w->open)
		return w->until;
	at = due_at(c, w);
	if (at > c->now)
		return earlier(at, w->until);
	c->watch_due = true;
	return w->until;
}
