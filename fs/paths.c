/*
 * The path table. Invariants: entries[i]->index == i; a number is in the file before anybody sees it. The file holds
 * records "AREA PATH NUL" in order of numbers; "=INDEX AREA PATH NUL" renames one.
 */
#include "fs/paths.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "fs/ino.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t name_hash(char area, const char *path)
{
	return hash_u64(hash_str(path) ^ (uint64_t)area);
}

static struct pentry *add_entry(struct paths *p, char area, const char *path)
{
	struct pentry *e = xcalloc(1, sizeof(*e));

	if (p->n == p->cap) {
		p->cap = p->cap ? p->cap * 2 : 16;
		p->entries = xrealloc(p->entries, p->cap * sizeof(*p->entries));
	}
	e->index = (uint32_t)p->n;
	e->area = area;
	e->path = xstrdup(path);
	p->entries[p->n++] = e;
	hmap_insert(&p->by_name, &e->by_name, name_hash(area, path));
	return e;
}

static void entry_free(struct pentry *e)
{
	free(e->path);
	free(e->target);
	free(e);
}

static void drop_last(struct paths *p)
{
	struct pentry *e = p->entries[--p->n];

	hmap_remove(&p->by_name, &e->by_name);
	entry_free(e);
}

/* The name of a number that no path has any more. */
#define GONE "//"

static void rename_entry(struct paths *p, struct pentry *e, const char *path)
{
	hmap_remove(&p->by_name, &e->by_name);
	str_set(&e->path, path);
	hmap_insert(&p->by_name, &e->by_name, name_hash(e->area, path));
}

static void read_record(struct paths *p, const char *rec)
{
	if (rec[0] == '=') {
		char *end;
		unsigned long i = strtoul(rec + 1, &end, 10);

		if (i < p->n && end[0] == ' ' && end[1])
			rename_entry(p, p->entries[i], end + 2);
	} else if (rec[0] && rec[1]) {
		(void)add_entry(p, rec[0], rec + 1);
	}
}

struct paths *paths_open(const char *state_dir, uint32_t run)
{
	struct paths *p = xcalloc(1, sizeof(*p));
	struct strbuf sb = STRBUF_INIT;
	cleanup_free char *dir = xasprintf("%s/spool/%u", state_dir, run);
	size_t at = 0;

	(void)mkdir(dir, 0700);
	p->run = run;
	p->file = xasprintf("%s/paths", dir);
	hmap_init(&p->by_name);
	(void)strbuf_read_file(&sb, p->file, 1u << 30);
	while (at < sb.len) {
		size_t n = strnlen(sb.buf + at, sb.len - at);

		if (at + n == sb.len) { /* a kill cut the last record: nobody has seen its number */
			(void)!truncate(p->file, (off_t)at);
			break;
		}
		read_record(p, sb.buf + at);
		at += n + 1;
	}
	strbuf_release(&sb);
	return p;
}

void paths_close(struct paths *p)
{
	for (size_t i = 0; i < p->n; i++)
		entry_free(p->entries[i]);
	free(p->entries);
	hmap_release(&p->by_name);
	free(p->file);
	free(p);
}

struct pentry *paths_at(const struct paths *p, uint32_t index)
{
	return index < p->n ? p->entries[index] : NULL;
}

struct pentry *paths_find(const struct paths *p, char area, const char *path)
{
	struct hmap_node *n = hmap_first(&p->by_name, name_hash(area, path));

	for (; n; n = hmap_next(n)) {
		struct pentry *e = container_of(n, struct pentry, by_name);

		if (e->area == area && strcmp(e->path, path) == 0)
			return e;
	}
	return NULL;
}

/* Whole or not at all: half of a record would become a part of the next one. */
static int append(const struct paths *p, const char *data, size_t len)
{
	cleanup_close int fd = open(p->file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	struct stat st;
	ssize_t n;
	int rc;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	n = write(fd, data, len);
	if (n == (ssize_t)len)
		return 0;
	rc = n < 0 ? -errno : -ENOSPC;
	if (n > 0)
		(void)!ftruncate(fd, st.st_size);
	return rc;
}

struct pentry *paths_add(struct paths *p, char area, const char *path)
{
	struct pentry *e = paths_find(p, area, path);
	struct strbuf rec = STRBUF_INIT;

	if (e)
		return e;
	if (p->n >> INO_SUB_BITS)
		return NULL;
	strbuf_addf(&rec, "%c%s", area, path);
	if (p->batch)
		strbuf_add(p->batch, rec.buf, rec.len + 1); /* with its NUL */
	if (p->batch || append(p, rec.buf, rec.len + 1) == 0)
		e = add_entry(p, area, path);
	strbuf_release(&rec);
	return e;
}

/* Many at once, as a directory of a hundred thousand names has them: nobody sees a number before the end of it. */
static void batch_begin(struct paths *p, struct strbuf *batch)
{
	p->batch = batch;
	p->batch_from = p->n;
}

static void batch_end(struct paths *p)
{
	struct strbuf *batch = p->batch;

	p->batch = NULL;
	if (batch->len && append(p, batch->buf, batch->len) < 0)
		while (p->n > p->batch_from)
			drop_last(p);
	strbuf_release(batch);
}

static int move(struct paths *p, struct pentry *e, const char *path)
{
	struct strbuf rec = STRBUF_INIT;
	int rc;

	strbuf_addf(&rec, "=%u %c%s", e->index, e->area, path);
	rc = append(p, rec.buf, rec.len + 1);
	strbuf_release(&rec);
	if (rc == 0)
		rename_entry(p, e, path);
	return rc;
}

int paths_remove(struct paths *p, struct pentry *e)
{
	char gone[32];

	/* Each has a name of its own, so that they do not crowd one place of the map. */
	(void)snprintf(gone, sizeof(gone), GONE "%u", e->index);
	e->known = false;
	return move(p, e, gone);
}

int paths_move(struct paths *p, struct pentry *e, const char *path)
{
	struct pentry *there = paths_find(p, e->area, path);
	cleanup_free char *old = xstrdup(e->path);
	size_t n = strlen(old);
	int rc = there && there != e ? paths_remove(p, there) : 0;

	if (rc == 0)
		rc = move(p, e, path);
	for (size_t i = 0; i < p->n && rc == 0; i++) {
		struct pentry *below = p->entries[i];
		cleanup_free char *to = NULL;

		if (below->area != e->area || strncmp(below->path, old, n) != 0 || below->path[n] != '/')
			continue;
		to = xasprintf("%s%s", path, below->path + n);
		rc = move(p, below, to);
	}
	return rc;
}

/* --- listings --- */

static bool name_ok(const char *path)
{
	const char *c = path;

	if (!*path || *path == '/')
		return false;
	while (c) {
		size_t n = strcspn(c, "/");

		if (n == 0 || (n == 1 && c[0] == '.') || (n == 2 && c[0] == '.' && c[1] == '.') || n > 255)
			return false;
		c = c[n] ? c + n + 1 : NULL;
	}
	return true;
}

/*
 * A link is shown only when it stays inside the area: no absolute target, no more ".." than there are directories above
 * it, and those first. Behind a name they lead anywhere: the name may be a link to ".".
 */
static bool link_inside(const char *path, const char *target)
{
	bool names = false;
	int depth = 0;

	if (!*target || *target == '/')
		return false;
	for (const char *c = strchr(path, '/'); c; c = strchr(c + 1, '/'))
		depth++;
	for (const char *c = target; c;) {
		size_t n = strcspn(c, "/");

		if (n == 2 && c[0] == '.' && c[1] == '.') {
			if (names || --depth < 0)
				return false;
		} else if (n && !(n == 1 && c[0] == '.')) {
			names = true;
		}
		c = c[n] ? c + n + 1 : NULL;
	}
	return true;
}

int64_t paths_time(const char *s)
{
	char *end;
	long long sec = strtoll(s, &end, 10);
	int64_t us = 0, unit = USEC_PER_SEC / 10;

	if (*end == '.')
		for (end++; *end >= '0' && *end <= '9' && unit; end++, unit /= 10)
			us += (*end - '0') * unit;
	/* The cluster's file system may know times that ours does not. */
	if (sec > INT64_MAX / USEC_PER_SEC - 1 || sec < INT64_MIN / USEC_PER_SEC + 1)
		return sec > 0 ? INT64_MAX / USEC_PER_SEC * USEC_PER_SEC : INT64_MIN / USEC_PER_SEC * USEC_PER_SEC;
	return sec * USEC_PER_SEC + us;
}

static bool under(const char *dir, const char *path)
{
	size_t n = strlen(dir);
	const char *rest = n ? path + n + 1 : path;

	if (n && (strncmp(path, dir, n) != 0 || path[n] != '/'))
		return false;
	return !strchr(rest, '/');
}

const char *paths_record(const char *p, const char *end, const char *field[6])
{
	for (int i = 0; i < 6; i++) {
		const char *nul = p < end ? memchr(p, '\0', (size_t)(end - p)) : NULL;

		if (!nul)
			return NULL;
		field[i] = p;
		p = nul + 1;
	}
	return p;
}

/* False when the table is full. */
static bool take_record(struct paths *p, char area, const char *path, const char *const field[6])
{
	struct pentry *e;

	if (!name_ok(path) || !field[0][0] || !strchr("fdl", field[0][0]) ||
	    (field[0][0] == 'l' && !link_inside(path, field[5])))
		return true;
	e = paths_add(p, area, path);
	if (!e)
		return false;
	e->known = true;
	e->type = field[0][0];
	e->size = strtoull(field[1], NULL, 10);
	if (e->size > INT64_MAX)
		e->size = INT64_MAX; /* an off_t */
	e->mtime = paths_time(field[2]);
	e->mode = (mode_t)strtoul(field[3], NULL, 8) & 0777;
	str_set(&e->target, e->type == 'l' ? field[5] : NULL);
	return true;
}

size_t paths_take(struct paths *p, char area, const char *dir, bool deep, const char *data, size_t len)
{
	struct strbuf full = STRBUF_INIT, batch = STRBUF_INIT;
	const char *field[6], *end = data + len;
	size_t n = 0;

	batch_begin(p, &batch);
	for (size_t i = 0; i < p->n; i++)
		if (p->entries[i]->area == area && (deep || under(dir, p->entries[i]->path)))
			p->entries[i]->known = false;
	while ((data = paths_record(data, end, field))) {
		strbuf_reset(&full);
		if (!deep && *dir)
			strbuf_addf(&full, "%s/", dir);
		strbuf_addstr(&full, field[4]);
		if (!take_record(p, area, full.buf, field))
			break;
		n++;
	}
	batch_end(p);
	strbuf_release(&full);
	return n;
}

void paths_forget(struct paths *p)
{
	memset(p->root, 0, sizeof(p->root));
	for (size_t i = 0; i < p->n; i++) {
		struct pentry *e = p->entries[i];

		if (e->area == 'f')
			continue;
		e->known = e->listed = e->listing = false;
		e->asked_at = e->answered_at = 0;
	}
}

/* --- listings of a whole area --- */

struct pentry *paths_dir(struct paths *p, char area, const char *dir)
{
	static const char roots[] = "rwysf";

	return *dir ? paths_find(p, area, dir) : &p->root[strchr(roots, area) - roots];
}

/* Was the directory that a path is in listed later than that? */
static bool known_later(struct paths *p, char area, const char *path, int64_t began)
{
	const char *slash = strrchr(path, '/');
	cleanup_free char *dir = slash ? xstrndup(path, (size_t)(slash - path)) : xstrdup("");
	const struct pentry *state = paths_dir(p, area, dir);

	return state && state->answered_at > began;
}

static void confirm(struct pentry *dir, int64_t began)
{
	dir->listed = true;
	if (dir->answered_at < began)
		dir->answered_at = began;
}

void paths_confirm(struct paths *p, char area, int64_t began)
{
	confirm(paths_dir(p, area, ""), began);
	for (size_t i = 0; i < p->n; i++)
		if (p->entries[i]->area == area && p->entries[i]->known && p->entries[i]->type == 'd')
			confirm(p->entries[i], began);
}

void paths_merge(struct paths *p, char area, bool whole, int64_t began, const char *data, size_t len)
{
	const char *field[6], *end = data + len;
	struct strbuf batch = STRBUF_INIT;

	batch_begin(p, &batch);
	for (size_t i = 0; whole && i < p->n; i++)
		if (p->entries[i]->area == area && p->entries[i]->known &&
		    !known_later(p, area, p->entries[i]->path, began))
			p->entries[i]->known = false;
	while ((data = paths_record(data, end, field)))
		if (!known_later(p, area, field[4], began) && !take_record(p, area, field[4], field))
			break;
	batch_end(p);
	if (whole)
		paths_confirm(p, area, began);
}
