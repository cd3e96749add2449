/*
 * ray/ and spark/ of a run that has such a cluster of its own (or is a session with one). Most of it is facts that the
 * cluster's thread tells (backend/inner_state.h), so that reading needs no network. `dashboard`, `client` and `ui` make
 * a way through the connection when they are opened; `available`, `executors` and `token` are fetched then, and never
 * kept. `ready` blocks. Logs are areas (area.c).
 */
#include "fs/fuse_ll.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"
#include "backend/inner_state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define DEADLINE_US (15LL * USEC_PER_SEC)
#define SMALL 65536

const char *inner_kind(const struct node *nd)
{
	size_t n = strcspn(nd->name, "/");

	for (int k = 0; k < INNER_KINDS; k++)
		if (strlen(inner_kinds[k]) == n && strncmp(nd->name, inner_kinds[k], n) == 0)
			return inner_kinds[k];
	return NULL;
}

bool inner_hidden(const struct node *nd, const struct run *r)
{
	const char *kind = inner_kind(nd);

	return kind && !json_is_true(json_object_get(r->facts, kind));
}

char inner_logs(const struct node *nd)
{
	if (nd->class != NODE_DIR)
		return 0;
	return strcmp(nd->name, "ray/logs") == 0 ? 'y' : strcmp(nd->name, "spark/logs") == 0 ? 's' : 0;
}

static const char *fact(const struct run *r, const char *kind, const char *name)
{
	cleanup_free char *key = xasprintf("%s_%s", kind, name);

	return run_fact(r, key);
}

/* A cluster ends with its run, whatever was heard of it last. */
static const char *state_of(const struct run *r, const char *kind)
{
	const char *s = fact(r, kind, "state");

	if (run_is_live(r))
		return s;
	return s && strcmp(s, "failed") == 0 ? s : s || r->attempt ? "ended" : NULL;
}

void render_inner(const struct view *v, const char *kind, const char *name, struct strbuf *out)
{
	const char *text = strcmp(name, "state") == 0 ? state_of(v->run, kind) : fact(v->run, kind, name);

	if (!text && strcmp(name, "nodes") == 0)
		return;
	strbuf_addf(out, "%s\n", text ? text : "-");
}

/* How much of a Python's version counts: up to its minor version. */
static size_t minor_len(const char *v)
{
	size_t n = strcspn(v, ".");

	return v[n] ? n + 1 + strcspn(v + n + 1, ".") : n;
}

/*
 * Ray Client wants the same Ray, and the same minor version of Python (ray/_private/utils.py, check_version_info). What
 * is here nobody but the user knows, so where it was said (ray.client=VERSION/PYTHON) a file can tell before it is
 * tried. True: they differ, and `why` has how.
 */
static bool client_differs(const struct run *r, struct strbuf *why)
{
	const char *here = run_fact(r, "ray_here"), *there = fact(r, "ray", "version");
	size_t n = here ? strcspn(here, "/") : 0;
	const char *python = here && here[n] ? here + n + 1 : NULL, *py_there = fact(r, "ray", "python");

	if (here && there && (strlen(there) != n || strncmp(here, there, n) != 0))
		strbuf_addf(why, "Ray Client here is %.*s, and the cluster has Ray %s: they must be the same\n", (int)n,
			    here, there);
	else if (python && py_there &&
		 (minor_len(python) != minor_len(py_there) || strncmp(python, py_there, minor_len(python)) != 0))
		strbuf_addf(why, "Ray Client here is of Python %s, and the cluster has %s: Ray wants %.*s of both\n",
			    python, py_there, (int)minor_len(py_there), py_there);
	else
		return false;
	return true;
}

void render_inner_why(const struct view *v, const char *kind, struct strbuf *out)
{
	const char *why = fact(v->run, kind, "why");

	if (why)
		strbuf_addf(out, "%s\n", why);
	else if (!fact(v->run, kind, "state"))
		strbuf_addf(out, "the run is %s: %s has not begun\n", run_status_name(v->run->status),
			    strcmp(kind, "ray") == 0 ? "Ray" : "Spark");
	if (strcmp(kind, "ray") == 0 && run_is_live(v->run))
		(void)client_differs(v->run, out);
}

/* --- what is asked for at open --- */

/* Files that have a URL: the way to a port of the cluster. */
static const struct place {
	const char *file, *scheme, *fact; /* the fact has HOST:PORT */
} places[] = {
	{ "ray/dashboard", "http://", "ray_dashboard" },
	{ "ray/client", "ray://", "ray_client" },
	{ "spark/ui", "http://", "spark_dashboard" },
};

struct inner_ask {
	struct fsys *fs;
	struct parked *p; /* NULL: nobody waits any more */
	const struct place *place;
	bool *answered; /* set when the answer comes at once */
};

static const struct place *place_of(const struct node *nd)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++)
		if (strcmp(places[i].file, nd->name) == 0)
			return &places[i];
	return NULL;
}

/* The place that a URL leads to, while there is one that is of use. */
static const char *leads_to(const struct run *r, const struct place *p)
{
	cleanup_strbuf struct strbuf why = STRBUF_INIT;

	if (!run_is_live(r) || (strcmp(p->scheme, "ray://") == 0 && client_differs(r, &why)))
		return NULL;
	return run_fact(r, p->fact);
}

size_t inner_size(const struct run *r, const struct node *nd)
{
	const struct place *p = place_of(nd);
	const char *to = p ? leads_to(r, p) : NULL, *address = to ? engine_forwarded(r, to) : NULL;

	if (!p)
		return 0;
	return address ? strlen(p->scheme) + strlen(address) + 1 : to ? 0 : 2;
}

/* An OPEN, or a READ of what an earlier worker had opened. */
static void give(struct parked *p)
{
	struct fuse_file_info fi = { .fh = p->h->fh, .direct_io = 1 };
	struct handle *h = p->h;
	uint64_t off = p->off;
	size_t size = p->size;
	bool opening = size == 0;
	fuse_req_t req = unpark(p);

	h->have_text = true;
	if (opening)
		(void)fuse_reply_open(req, &fi);
	else
		reply_slice(req, &h->text, off, size);
}

static void refuse(struct parked *p, int code)
{
	struct handle *h = p->h;
	struct fsys *fs = p->fs;
	bool opening = p->size == 0;
	fuse_req_t req = unpark(p);

	if (opening)
		handle_free(fs, h);
	(void)fuse_reply_err(req, -code);
}

static struct parked *answer(void *arg)
{
	struct inner_ask *a = arg;
	struct parked *p = a->p;

	if (a->answered)
		*a->answered = true;
	if (p)
		strbuf_reset(&p->h->text);
	return p;
}

static void forwarded(void *arg, int code, const char *text)
{
	struct inner_ask *a = arg;
	struct parked *p = answer(a);

	if (p && code == 0) {
		strbuf_addf(&p->h->text, "%s%s\n", a->place->scheme, text);
		give(p);
	} else if (p) {
		refuse(p, code);
	}
	free(a);
}

static void fetched(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct parked *p = answer(arg);

	(void)text;
	if (p && code && code != -ENOENT) {
		refuse(p, code);
	} else if (p) {
		strbuf_add(&p->h->text, data, code ? 0 : len);
		give(p);
	}
	free(arg);
}

static void drop_ask(struct parked *p)
{
	struct inner_ask *a = (struct inner_ask *)(uintptr_t)p->user;

	a->p = NULL;
	if (p->size == 0)
		handle_free(p->fs, p->h);
}

/* `size` 0: the file is being opened. */
static void ask(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);
	const struct place *place = place_of(h->nd);
	const char *kind = inner_kind(h->nd), *to = r && place ? leads_to(r, place) : NULL;
	struct parked *p = park(fs, req, h, h->run, NULL);
	struct inner_ask *a;
	bool answered = false;

	p->off = off;
	p->size = size;
	if (!r || (place && !to) || !run_is_live(r)) {
		strbuf_reset(&h->text);
		strbuf_addstr(&h->text, place ? "-\n" : "");
		give(p);
		return;
	}
	a = xcalloc(1, sizeof(*a));
	*a = (struct inner_ask){ fs, p, place, &answered };
	p->user = (uintptr_t)a;
	p->drop = drop_ask;
	p->deadline = clock_mono(fs->clock) + DEADLINE_US;
	if (place)
		engine_forward(fs->en, h->run, to, forwarded, free, a);
	else
		engine_fetch(fs->en, h->run, strcmp(kind, "ray") == 0 ? AREA_RAY : AREA_SPARK,
			     h->nd->name + strlen(kind) + 1, 0, SMALL, fetched, a);
	if (answered)
		return;
	a->answered = NULL;
	(void)park_interruptible(p);
}

void inner_open(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	ask(fs, req, h, 0, 0);
}

void inner_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	if (h->have_text)
		reply_slice(req, &h->text, off, size);
	else
		ask(fs, req, h, off, size);
}

/* --- ready --- */

static bool verdict(const struct run *r, const struct node *nd, struct strbuf *out)
{
	const char *kind = inner_kind(nd), *s = state_of(r, kind), *why = fact(r, kind, "why");

	if (!run_is_live(r) && !s)
		s = "ended";
	if (s && (strcmp(s, "ready") == 0 || strcmp(s, "degraded") == 0))
		strbuf_addstr(out, "ready\n");
	else if (s && strcmp(s, "failed") == 0)
		strbuf_addf(out, "failed%s%s\n", why ? " " : "", why ? why : "");
	else if (s && strcmp(s, "ended") == 0)
		strbuf_addstr(out, "ended\n");
	return out->len > 0;
}

bool inner_is_decided(const struct run *r, const struct node *nd)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	return verdict(r, nd, &text);
}

static bool retry_ready(struct parked *p)
{
	const struct run *r = engine_run(p->fs->en, p->h->run);
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	uint64_t off = p->off;
	size_t size = p->size;

	if (!r)
		(void)fuse_reply_err(unpark(p), ENOENT);
	else if (verdict(r, p->h->nd, &text))
		reply_slice(unpark(p), &text, off, size);
	else
		return false;
	return true;
}

void inner_ready_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);
	struct parked *p;

	if (r && !inner_is_decided(r, h->nd) && (h->flags & O_NONBLOCK)) {
		(void)fuse_reply_err(req, EAGAIN);
		return;
	}
	p = park(fs, req, h, h->run, retry_ready);
	p->off = off;
	p->size = size;
	if (!retry_ready(p))
		(void)park_interruptible(p);
}
