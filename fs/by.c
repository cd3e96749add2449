/*
 * by/KIND/VALUE: sets of runs. Nothing is stored: a set is what the runs say. Its node id holds a hash of the value;
 * values that were seen are remembered by hash, and found again by looking through the runs after a restart.
 *
 * `wait` and `wait-any` fix their set at the first read: the runs of the set that have not ended then are waited for.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define NAME_MAX_SHOWN 128

struct value {
	struct hmap_node node; /* by hash of kind and shown name */
	enum set_kind kind;
	char *shown;
};

/* A value as a file name: bytes that users do not give to names become %XX, long ones are cut and end in a hash. */
static void show(const char *value, struct strbuf *out)
{
	size_t start = out->len;

	for (const char *c = value; *c; c++) {
		bool plain = isalnum((unsigned char)*c) || strchr("._-", *c);

		if (plain && !(c == value && *c == '.'))
			strbuf_addch(out, *c);
		else
			strbuf_addf(out, "%%%02X", (unsigned char)*c);
	}
	if (out->len - start > NAME_MAX_SHOWN) {
		strbuf_setlen(out, start + NAME_MAX_SHOWN - 17);
		strbuf_addf(out, "~%016llx", (unsigned long long)hash_str(value));
	}
}

typedef bool (*value_cb)(void *arg, const struct run *r, const char *shown);

/* Calls back for each value that a run has of this kind; false from the callback stops and is returned. */
static bool values_of(const struct run *r, enum set_kind k, value_cb cb, void *arg)
{
	struct strbuf sb = STRBUF_INIT;
	char when[CLOCK_TEXT];
	const char *one = NULL;
	bool go = true;

	switch (k) {
	case SET_STATUS:
		one = run_status_name(r->status);
		break;
	case SET_CLUSTER:
		one = r->cluster;
		break;
	case SET_NAME:
		one = r->name;
		break;
	case SET_SESSION:
		one = run_fact(r, "session");
		break;
	case SET_DAY:
		(void)clock_text(r->t_created, when);
		when[10] = '\0';
		one = when;
		break;
	default:
		for (char **t = r->tags; t && *t && go; t++) {
			strbuf_reset(&sb);
			show(*t, &sb);
			go = cb(arg, r, sb.buf);
		}
		break;
	}
	if (one && *one) {
		show(one, &sb);
		go = cb(arg, r, sb.buf);
	}
	strbuf_release(&sb);
	return go;
}

static uint64_t value_hash(enum set_kind k, const char *shown)
{
	return hash_u64(hash_str(shown) + (uint64_t)k) & ((1ull << INO_HASH_BITS) - 1);
}

static struct value *remembered(struct fsys *fs, enum set_kind k, uint64_t hash)
{
	struct hmap_node *n = hmap_first(&fs->values, hash);

	for (; n; n = hmap_next(n)) {
		struct value *v = container_of(n, struct value, node);

		if (v->kind == k)
			return v;
	}
	return NULL;
}

static void remember(struct fsys *fs, enum set_kind k, const char *shown)
{
	uint64_t hash = value_hash(k, shown);
	struct value *v;

	if (remembered(fs, k, hash))
		return;
	v = xcalloc(1, sizeof(*v));
	v->kind = k;
	v->shown = xstrdup(shown);
	hmap_insert(&fs->values, &v->node, hash);
}

void sets_release(struct fsys *fs)
{
	struct hmap_node *n;

	while ((n = hmap_walk(&fs->values, NULL))) {
		struct value *v = container_of(n, struct value, node);

		hmap_remove(&fs->values, n);
		free(v->shown);
		free(v);
	}
	hmap_release(&fs->values);
}

struct search {
	struct fsys *fs;
	enum set_kind kind;
	uint64_t hash;    /* looked for */
	const char *name; /* looked for, instead of the hash */
	const char *found;
	struct strbuf text;
};

static bool match(void *arg, const struct run *r, const char *shown)
{
	struct search *s = arg;

	(void)r;
	if (s->name ? strcmp(shown, s->name) != 0 : value_hash(s->kind, shown) != s->hash)
		return true;
	strbuf_addstr(&s->text, shown);
	return false;
}

/* The name of a set by its id, or NULL when no run is in it. */
static const char *set_name(struct fsys *fs, uint64_t ino)
{
	enum set_kind k = (enum set_kind)ino_set_kind(ino);
	struct search s = { .fs = fs, .kind = k, .hash = ino_set_hash(ino), .text = STRBUF_INIT };
	struct value *v = remembered(fs, k, s.hash);

	if (v)
		return v->shown;
	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num))
		if (!values_of(r, k, match, &s))
			break;
	if (s.text.len)
		remember(fs, k, s.text.buf);
	strbuf_release(&s.text);
	v = remembered(fs, k, s.hash);
	return v ? v->shown : NULL;
}

/* A status is a set even while no run is in it, so that `cat by/status/failed/wait` works. */
static bool always_there(enum set_kind k, const char *name)
{
	return k == SET_STATUS && run_status_of(name) >= 0;
}

static bool in_set(const struct run *r, enum set_kind k, const char *name)
{
	struct search s = { .kind = k, .name = name, .text = STRBUF_INIT };
	bool in = !values_of(r, k, match, &s);

	strbuf_release(&s.text);
	return in;
}

bool set_exists(struct fsys *fs, uint64_t ino)
{
	return set_name(fs, ino) != NULL;
}

int by_lookup(struct fsys *fs, enum set_kind k, const char *name, uint64_t *ino)
{
	bool there = always_there(k, name);

	for (const struct run *r = engine_next(fs->en, 0); r && !there; r = engine_next(fs->en, r->num))
		there = in_set(r, k, name);
	if (!there)
		return -ENOENT;
	remember(fs, k, name);
	*ino = ino_set(INO_SET, k, value_hash(k, name));
	return 0;
}

struct collect {
	struct fsys *fs;
	enum set_kind kind;
	struct hmap seen;
};

static bool collect_value(void *arg, const struct run *r, const char *shown)
{
	struct collect *c = arg;
	uint64_t hash = value_hash(c->kind, shown);
	struct value *v;

	(void)r;
	if (hmap_first(&c->seen, hash))
		return true;
	v = xcalloc(1, sizeof(*v));
	v->shown = xstrdup(shown);
	hmap_insert(&c->seen, &v->node, hash);
	remember(c->fs, c->kind, shown);
	return true;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(struct value *const *)a)->shown, (*(struct value *const *)b)->shown);
}

int by_readdir(struct fsys *fs, enum set_kind k, uint64_t off, tree_fill fill, void *arg)
{
	struct collect c = { .fs = fs, .kind = k };
	struct value **sorted;
	struct hmap_node *n;
	size_t i = 0;
	bool go = true;

	hmap_init(&c.seen);
	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num))
		(void)values_of(r, k, collect_value, &c);
	sorted = xcalloc(c.seen.count + 1, sizeof(struct value *));
	for (n = hmap_walk(&c.seen, NULL); n; n = hmap_walk(&c.seen, n))
		sorted[i++] = container_of(n, struct value, node);
	qsort(sorted, i, sizeof(struct value *), by_name);
	for (size_t j = 0; j < i; j++) {
		if (go && j >= off)
			go = fill(arg, sorted[j]->shown, ino_set(INO_SET, k, sorted[j]->node.hash), j + 1);
		free(sorted[j]->shown);
		free(sorted[j]);
	}
	free(sorted);
	hmap_release(&c.seen);
	return 0;
}

int set_lookup(struct fsys *fs, uint64_t ino, const char *name, uint64_t *out)
{
	enum set_kind k = (enum set_kind)ino_set_kind(ino);
	const char *set = set_name(fs, ino);
	const struct run *r;

	if (!set)
		return -ENOENT;
	if (strcmp(name, "wait") == 0) {
		*out = ino_set(INO_SET_WAIT, k, ino_set_hash(ino));
		return 0;
	}
	if (strcmp(name, "wait-any") == 0) {
		*out = ino_set(INO_SET_ANY, k, ino_set_hash(ino));
		return 0;
	}
	r = engine_run_by_id(fs->en, name);
	if (!r || !in_set(r, k, set))
		return -ENOENT;
	*out = ino_make(INO_LINK, r->num, 0);
	return 0;
}

int set_readdir(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg)
{
	enum set_kind k = (enum set_kind)ino_set_kind(ino);
	const char *set = set_name(fs, ino);

	if (!set)
		return 0;
	for (const struct run *r = engine_next(fs->en, (uint32_t)off); r; r = engine_next(fs->en, r->num))
		if (in_set(r, k, set) && !fill(arg, r->id, ino_make(INO_LINK, r->num, 0), r->num))
			break;
	return 0;
}

/* --- waiting for a set --- */

static char *set_file(const struct fsys *fs, const struct handle *h)
{
	return xasprintf("%s/%llx.%llx.set", fs->handle_dir, (unsigned long long)shared_mount_id(fs->shared),
			 (unsigned long long)h->fh);
}

void set_forget(struct fsys *fs, const struct handle *h)
{
	cleanup_free char *path = NULL;

	if (!h->have_set)
		return;
	path = set_file(fs, h);
	(void)unlink(path);
}

/* The set survives a restart of the worker in a small file of numbers. */
static void save_set(struct fsys *fs, const struct handle *h)
{
	cleanup_free char *path = set_file(fs, h);
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd >= 0)
		(void)!write(fd, h->set, h->n_set * sizeof(*h->set));
}

static bool load_set(struct fsys *fs, struct handle *h)
{
	cleanup_free char *path = set_file(fs, h);
	struct strbuf sb = STRBUF_INIT;
	bool ok = strbuf_read_file(&sb, path, 64 << 20) >= 0;

	if (ok) {
		h->n_set = sb.len / sizeof(*h->set);
		h->set = xmalloc(sb.len);
		memcpy(h->set, sb.buf, h->n_set * sizeof(*h->set));
	}
	strbuf_release(&sb);
	return ok;
}

/* Live runs of the set, or with no live one all of it: what has ended already counts as well. */
static void fix_set(struct fsys *fs, struct handle *h)
{
	enum set_kind k = (enum set_kind)ino_set_kind(h->ino);
	const char *set = set_name(fs, h->ino);

	h->have_set = true;
	if (load_set(fs, h) || !set)
		return;
	h->set = xcalloc(engine_count(fs->en) + 1, sizeof(*h->set));
	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num))
		if (r->status != RUN_DRAFT && in_set(r, k, set))
			h->set[h->n_set++] = r->num;
	save_set(fs, h);
}

/* wait: "STATUS COUNT" lines when all have ended; wait-any: "ID STATUS CODE" of one that has. False: not yet. */
static bool set_text(struct fsys *fs, const struct handle *h, struct strbuf *out)
{
	size_t count[RUN_N_STATUS] = { 0 };
	bool any = ino_kind(h->ino) == INO_SET_ANY;

	for (size_t i = 0; i < h->n_set; i++) {
		const struct run *r = engine_run(fs->en, h->set[i]);

		if (!r)
			continue;
		if (run_is_live(r)) {
			if (any)
				continue;
			return false;
		}
		if (any) {
			strbuf_addf(out, "%s ", r->id);
			run_wait_text(r, out);
			return true;
		}
		count[r->status]++;
	}
	for (int i = 0; i < RUN_N_STATUS; i++)
		if (count[i])
			strbuf_addf(out, "%s %zu\n", run_status_name((enum run_status)i), count[i]);
	return !any || h->n_set == 0;
}

/* The answer is given once: what is read in pieces must not change in between. */
static bool set_answer(struct fsys *fs, struct handle *h)
{
	if (!h->have_set)
		fix_set(fs, h);
	if (!h->have_text)
		h->have_text = set_text(fs, h, &h->text);
	if (!h->have_text)
		strbuf_reset(&h->text);
	return h->have_text;
}

bool set_ready(struct fsys *fs, struct handle *h)
{
	return set_answer(fs, h);
}

static bool retry_set(struct parked *p)
{
	struct handle *h = p->h;
	uint64_t off = p->off;
	size_t size = p->size;

	if (!set_answer(p->fs, h))
		return false;
	reply_slice(unpark(p), &h->text, off, size);
	return true;
}

void set_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	struct parked *p;

	if (off && !h->have_text) { /* an earlier worker gave the answer */
		(void)fuse_reply_buf(req, NULL, 0);
		return;
	}
	if (set_answer(fs, h)) {
		reply_slice(req, &h->text, off, size);
		return;
	}
	if (h->flags & O_NONBLOCK) {
		(void)fuse_reply_err(req, EAGAIN);
		return;
	}
	p = park(fs, req, h, 0, retry_set);
	p->off = off;
	p->size = size;
	(void)park_interruptible(p);
}
