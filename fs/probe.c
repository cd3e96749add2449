/*
 * Documents of clusters/NAME that the cluster itself has to be asked for: info, partitions, nodes, queue, shares. The
 * answer is JSON and is kept for a few seconds; the plain file shows the same as a table. When the cluster does not
 * answer in time, the last answer serves.
 */
#include "fs/fsys.h"
#include "fs/table.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define FRESH_US (5LL * USEC_PER_SEC)
#define DEADLINE_US (15LL * USEC_PER_SEC)

struct probe {
	struct hmap_node node; /* by hash of CLUSTER/WHAT */
	struct fsys *fs;
	char *cluster, *what;
	char *json;       /* last answer, or NULL */
	int64_t at, when; /* monotonic and real us of it */
	bool asked;
	int error;
};

static struct probe *probe_get(struct fsys *fs, const char *cluster, const char *file)
{
	size_t n = strcspn(file, ".");
	cleanup_free char *what = xstrndup(file, n);
	cleanup_free char *name = xasprintf("%s/%s", cluster, what);
	struct hmap_node *node = hmap_first(&fs->probes, hash_str(name));
	struct probe *p;

	for (; node; node = hmap_next(node)) {
		p = container_of(node, struct probe, node);
		if (strcmp(p->cluster, cluster) == 0 && strcmp(p->what, what) == 0)
			return p;
	}
	p = xcalloc(1, sizeof(*p));
	p->fs = fs;
	p->cluster = xstrdup(cluster);
	p->what = xstrdup(what);
	hmap_insert(&fs->probes, &p->node, hash_str(name));
	return p;
}

static void render(const struct probe *p, const char *file, struct strbuf *out)
{
	if (!p->json)
		return;
	if (strchr(file, '.'))
		strbuf_addf(out, "%s\n", p->json);
	else
		table_text(p->json, out);
}

size_t probe_size(struct fsys *fs, const struct view *v, const char *name)
{
	struct strbuf sb = STRBUF_INIT;
	size_t n;

	render(probe_get(fs, v->cluster->name, name), name, &sb);
	n = sb.len;
	strbuf_release(&sb);
	return n;
}

int64_t probe_mtime(struct fsys *fs, const struct view *v, const char *name)
{
	const struct probe *p = probe_get(fs, v->cluster->name, name);

	return p->json ? p->when : fs->mounted;
}

static struct probe *probe_of(struct fsys *fs, const struct handle *h)
{
	struct view v;

	(void)node_of(fs, h->ino, &v);
	return v.cluster ? probe_get(fs, v.cluster->name, h->nd->name) : NULL;
}

/* One who waits: an OPEN, or a READ of what an earlier worker had opened. */
static void give(struct parked *w, const struct probe *p)
{
	struct fuse_file_info fi = { .fh = w->h->fh, .direct_io = 1 };
	struct handle *h = w->h;
	struct fsys *fs = w->fs;
	uint64_t off = w->off;
	size_t size = w->size;
	bool opening = w->user;
	fuse_req_t req = unpark(w);

	if (p && p->json) {
		strbuf_reset(&h->text);
		render(p, h->nd->name, &h->text);
		h->have_text = true;
		if (opening)
			(void)fuse_reply_open(req, &fi);
		else
			reply_slice(req, &h->text, off, size);
		return;
	}
	if (opening)
		handle_free(fs, h);
	(void)fuse_reply_err(req, p && p->error ? -p->error : EHOSTUNREACH);
}

static bool retry_probe(struct parked *w)
{
	struct probe *p = probe_of(w->fs, w->h);

	if (p && p->asked)
		return false;
	give(w, p);
	return true;
}

/* The cluster is silent: the last answer serves, if there is one. */
static bool late(struct parked *w)
{
	give(w, probe_of(w->fs, w->h));
	return true;
}

static void drop(struct parked *w)
{
	if (w->user)
		handle_free(w->fs, w->h);
}

static void answered(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct probe *p = arg;

	(void)text;
	p->asked = false;
	p->error = code;
	if (code == 0) {
		free(p->json);
		p->json = xstrndup(data, len);
		p->at = clock_mono(p->fs->clock);
		p->when = clock_real(p->fs->clock);
	}
	park_retry(p->fs, 0);
}

static void ask(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size, bool opening)
{
	struct probe *p = probe_of(fs, h);
	struct parked *w;

	if (p && !p->asked && (!p->json || clock_mono(fs->clock) - p->at > FRESH_US)) {
		p->asked = true;
		engine_probe(fs->en, p->cluster, p->what, answered, p);
	}
	w = park(fs, req, h, 0, retry_probe);
	w->off = off;
	w->size = size;
	w->user = opening;
	w->late = late;
	w->drop = drop;
	w->deadline = clock_mono(fs->clock) + DEADLINE_US;
	if (!retry_probe(w))
		(void)park_interruptible(w);
}

void probe_open(struct fsys *fs, fuse_req_t req, struct handle *h)
{
	ask(fs, req, h, 0, 0, true);
}

void probe_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	if (h->have_text)
		reply_slice(req, &h->text, off, size);
	else
		ask(fs, req, h, off, size, false);
}

void probes_release(struct fsys *fs)
{
	struct hmap_node *n;

	while ((n = hmap_walk(&fs->probes, NULL))) {
		struct probe *p = container_of(n, struct probe, node);

		hmap_remove(&fs->probes, n);
		free(p->cluster);
		free(p->what);
		free(p->json);
		free(p);
	}
	hmap_release(&fs->probes);
}
