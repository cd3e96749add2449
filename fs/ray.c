/*
 * ray/ of a run that has a Ray cluster of its own (or is a session with one). Most of it is facts that the cluster's
 * thread tells (backend/ray_state.h), so that reading needs no network. `dashboard` and `client` make a way through the
 * connection when they are opened; `available` and `token` are fetched then, and never kept. `ready` blocks. Logs are
 * an area (area.c).
 */
#include "fs/fuse_ll.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define DEADLINE_US (15LL * USEC_PER_SEC)
#define SMALL 65536

bool ray_has(const struct run *r)
{
	return r->facts && json_is_true(json_object_get(r->facts, "ray"));
}

bool ray_row(const struct node *nd)
{
	return strncmp(nd->name, "ray", 3) == 0 && (!nd->name[3] || nd->name[3] == '/');
}

bool ray_row_is_logs(const struct node *nd)
{
	return nd->class == NODE_DIR && strcmp(nd->name, "ray/logs") == 0;
}

static const char *fact(const struct run *r, const char *name)
{
	cleanup_free char *key = xasprintf("ray_%s", name);

	return run_fact(r, key);
}

/* A cluster ends with its run, whatever was heard of it last. */
static const char *state_of(const struct run *r)
{
	const char *s = fact(r, "state");

	if (run_is_live(r))
		return s;
	return s && strcmp(s, "failed") == 0 ? s : s || r->attempt ? "ended" : NULL;
}

void render_ray(const struct view *v, const char *name, struct strbuf *out)
{
	const char *text = strcmp(name, "status") == 0 ? state_of(v->run) : fact(v->run, name);

	if (!text && strcmp(name, "nodes") == 0)
		return;
	strbuf_addf(out, "%s\n", text ? text : "-");
}

void render_ray_why(const struct view *v, struct strbuf *out)
{
	const char *why = fact(v->run, "why");

	if (why)
		strbuf_addf(out, "%s\n", why);
	else if (!fact(v->run, "state"))
		strbuf_addf(out, "the run is %s: Ray has not begun\n", run_status_name(v->run->status));
}

/* --- what is asked for at open --- */

struct ray_ask {
	struct fsys *fs;
	struct parked *p; /* NULL: nobody waits any more */
	const char *scheme;
	bool *answered; /* set when the answer comes at once */
};

static const char *scheme_of(const char *name)
{
	return strcmp(name, "ray/dashboard") == 0 ? "http://" : strcmp(name, "ray/client") == 0 ? "ray://" : NULL;
}

/* The place that a URL leads to, while there is one. */
static const char *place_of(const struct run *r, const char *name)
{
	return run_is_live(r) ? fact(r, name + strlen("ray/")) : NULL;
}

static void url(struct strbuf *out, const char *scheme, const char *address)
{
	strbuf_addf(out, "%s%s\n", scheme, address);
}

size_t ray_size(const struct run *r, const struct node *nd)
{
	const char *scheme = scheme_of(nd->name), *place = scheme ? place_of(r, nd->name) : NULL;
	const char *address = place ? engine_forwarded(r, place) : NULL;

	if (!scheme)
		return 0;
	return address ? strlen(scheme) + strlen(address) + 1 : place ? 0 : 2;
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
	struct ray_ask *a = arg;
	struct parked *p = a->p;

	if (a->answered)
		*a->answered = true;
	if (p)
		strbuf_reset(&p->h->text);
	return p;
}

static void forwarded(void *arg, int code, const char *text)
{
	struct ray_ask *a = arg;
	struct parked *p = answer(a);

	if (p && code == 0) {
		url(&p->h->text, a->scheme, text);
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
	struct ray_ask *a = (struct ray_ask *)(uintptr_t)p->user;

	a->p = NULL;
	if (p->size == 0)
		handle_free(p->fs, p->h);
}

/* `size` 0: the file is being opened. */
static void ask(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);
	const char *scheme = scheme_of(h->nd->name), *place = r ? place_of(r, h->nd->name) : NULL;
	struct parked *p = park(fs, req, h, h->run, NULL);
	struct ray_ask *a;
	bool answered = false;

	p->off = off;
	p->size = size;
	if (!r || (scheme && !place) || !run_is_live(r)) {
		strbuf_reset(&h->text);
		strbuf_addstr(&h->text, scheme ? "-\n" : "");
		give(p);
		return;
	}
	a = xcalloc(1, sizeof(*a));
	*a = (struct ray_ask){ fs, p, scheme, &answered };
	p->user = (uintptr_t)a;
	p->drop = drop_ask;
	p->deadline = clock_mono(fs->clock) + DEADLINE_US;
	if (scheme)
		engine_forward(fs->en, h->run, place, forwarded, free, a);
	else
		engine_fetch(fs->en, h->run, AREA_RAY, h->nd->name + strlen("ray/"), 0, SMALL, fetched, a);
	if (answered)
		return;
	a->answered = NULL;
	(void)park_interruptible(p);
}

void ray_open(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	ask(fs, req, h, 0, 0);
}

void ray_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	if (h->have_text)
		reply_slice(req, &h->text, off, size);
	else
		ask(fs, req, h, off, size);
}

/* --- ready --- */

static bool verdict(const struct run *r, struct strbuf *out)
{
	const char *s = state_of(r), *why = fact(r, "why");

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

bool ray_is_decided(const struct run *r)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	return verdict(r, &text);
}

static bool retry_ready(struct parked *p)
{
	const struct run *r = engine_run(p->fs->en, p->h->run);
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	uint64_t off = p->off;
	size_t size = p->size;

	if (!r)
		(void)fuse_reply_err(unpark(p), ENOENT);
	else if (verdict(r, &text))
		reply_slice(unpark(p), &text, off, size);
	else
		return false;
	return true;
}

void ray_ready_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	const struct run *r = engine_run(fs->en, h->run);
	struct parked *p;

	if (r && !ray_is_decided(r) && (h->flags & O_NONBLOCK)) {
		(void)fuse_reply_err(req, EAGAIN);
		return;
	}
	p = park(fs, req, h, h->run, retry_ready);
	p->off = off;
	p->size = size;
	if (!retry_ready(p))
		(void)park_interruptible(p);
}
