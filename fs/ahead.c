/*
 * Reading ahead over many small files. The order is that of numbers in the path table, which is that of the list of
 * results and of readdir. How many are on their way grows with how many were really opened, so that two reads in a tree
 * of a million files do not fetch it all.
 *
 * Invariants: an entry is `coming` exactly while its fetch is on its way; a fetch names its file by run and number,
 * never by pointer, for the run may be purged meanwhile. A file gets its final name with all its bytes; it is not
 * synced, so whoever opens one compares its size with the list of results.
 */
#include "fs/ahead.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"
#include "fs/cache.h"
#include "fs/content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMALL ((uint64_t)1024 * 1024) /* one request each */
#define LEAD_MIN 64                   /* numbers, of the last one that was opened */
#define LEAD_MAX 4096
#define FLIGHT_MAX 512 /* requests */
#define TRIES_MAX 40   /* of all files together: each waits for the cluster for half a minute */
#define FLIGHT_BYTES ((uint64_t)8 * 1024 * 1024) /* memory: they come whole */

struct ahead_op {
	struct fsys *fs;
	uint32_t run, attempt, index;
	uint64_t size;
};

char *ahead_file(const struct fsys *fs, uint32_t run, uint32_t index)
{
	return xasprintf("%s/spool/%u/data.%u", fs->state_dir, run, index);
}

bool ahead_here(const struct fsys *fs, uint32_t run, const struct pentry *e)
{
	cleanup_free char *path = ahead_file(fs, run, e->index);
	struct stat st;

	return stat(path, &st) == 0 && (uint64_t)st.st_size >= e->size;
}

static struct paths *paths_of(const struct fsys *fs, uint32_t run)
{
	struct hmap_node *n = hmap_first(&fs->paths, run);

	return n ? container_of(n, struct paths, node) : NULL;
}

bool ahead_coming(struct fsys *fs, uint32_t run, uint32_t index)
{
	const struct paths *p = paths_of(fs, run);
	const struct pentry *e = p ? paths_at(p, index) : NULL;

	return e && e->coming;
}

/* Under a name that content_sweep takes away when this worker ends before the rename. */
static bool keep(struct fsys *fs, const struct ahead_op *op, const char *data, size_t len)
{
	cleanup_free char *path = ahead_file(fs, op->run, op->index), *part = xasprintf("%s.ahead", path);
	int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool fine = fd >= 0 && write(fd, data, len) == (ssize_t)len;

	if (fd >= 0 && close(fd) < 0)
		fine = false;
	if (fine && cache_put(fs, op->run, part, path) == 0)
		return true;
	(void)unlink(part);
	return false;
}

static void fetch_more(struct fsys *fs, struct paths *p);
static void all_more(struct fsys *fs, struct paths *p);

/* One of all that are wanted has come, or has not. */
static void all_one(struct paths *p, const struct ahead_op *op, int code)
{
	struct ahead *a = &p->ahead;

	if (code == 0) {
		a->all_done += op->size;
	} else if ((code == -EHOSTUNREACH || code == -ENODEV) && a->tries++ < TRIES_MAX) {
		if (op->index < a->all_next)
			a->all_next = op->index;
	} else if (!a->code) {
		a->code = code;
	}
}

static void fetched(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct ahead_op *op = arg;
	struct fsys *fs = op->fs;
	struct paths *p = paths_of(fs, op->run);
	struct pentry *e = p ? paths_at(p, op->index) : NULL;

	(void)text;
	if (p) {
		p->ahead.flight--;
		p->ahead.bytes -= op->size;
	}
	if (e)
		e->coming = false;
	/* What is not as the list of results has it is left to who opens it. */
	if (code == 0 && len != op->size)
		code = -ESTALE;
	if (code == 0 && e && p->attempt == op->attempt && !keep(fs, op, data, len))
		code = -ENOSPC;
	if (p && p->ahead.all)
		all_one(p, op, code);
	if (p && code < 0)
		p->ahead.lead = 0; /* until files are opened in order again */
	if (p && code == 0)
		fetch_more(fs, p);
	if (p && p->ahead.all)
		all_more(fs, p);
	park_retry(fs, op->run);
	free(op);
}

static void fetch(struct fsys *fs, struct paths *p, struct pentry *e)
{
	struct ahead_op *op = xmalloc(sizeof(*op));

	*op = (struct ahead_op){ fs, p->run, p->attempt, e->index, e->size };
	e->coming = true;
	p->ahead.flight++;
	p->ahead.bytes += e->size;
	/* One byte more would show a file that grew; a full answer ends where it ends. */
	engine_fetch(fs->en, p->run, AREA_RESULTS, e->path, 0, e->size + 1, fetched, op);
}

static bool wanted(const struct fsys *fs, const struct paths *p, const struct pentry *e)
{
	return e->area == 'r' && e->known && e->type == 'f' && e->size > 0 && e->size <= SMALL && !e->coming &&
	       !ahead_here(fs, p->run, e);
}

static void fetch_more(struct fsys *fs, struct paths *p)
{
	struct ahead *a = &p->ahead;

	if (a->busy) /* an answer that came at once */
		return;
	a->busy = true;
	while (a->next < p->n && a->next <= (uint64_t)a->last + a->lead && a->flight < FLIGHT_MAX &&
	       a->bytes < FLIGHT_BYTES) {
		struct pentry *e = p->entries[a->next++];

		if (wanted(fs, p, e))
			fetch(fs, p, e);
	}
	a->busy = false;
}

/* --- all of them --- */

static bool is_result(const struct pentry *e)
{
	return e->area == 'r' && e->known && e->type == 'f' && e->size > 0;
}

static void all_finished(struct fsys *fs, struct paths *p)
{
	struct ahead *a = &p->ahead;
	char text[200];
	uint32_t num = p->run;
	int code = a->code;

	a->all = false;
	engine_fetch_said(fs->en, num, a->all_done, a->all_bytes);
	if (code == 0)
		(void)snprintf(text, sizeof(text), "%u files with %llu bytes are here", a->all_files,
			       (unsigned long long)a->all_bytes);
	else
		(void)snprintf(text, sizeof(text), "%llu of %llu bytes are here: %s; `fetch` goes on with the rest",
			       (unsigned long long)a->all_done, (unsigned long long)a->all_bytes, strerror(-code));
	engine_fetch_done(fs->en, num, code, text);
}

struct big_op {
	struct fsys *fs;
	uint32_t run;
};

static void big_done(void *arg, int code)
{
	struct big_op *op = arg;
	struct fsys *fs = op->fs;
	struct paths *p = paths_of(fs, op->run);

	free(op);
	if (!p || !p->ahead.big)
		return;
	content_close(p->ahead.big);
	p->ahead.big = NULL;
	if (code == 0)
		p->ahead.all_done += p->ahead.big_size;
	else if (!p->ahead.code)
		p->ahead.code = code;
	all_more(fs, p);
}

static void fetch_big(struct fsys *fs, struct paths *p, const struct pentry *e)
{
	struct big_op *op = xmalloc(sizeof(*op));

	*op = (struct big_op){ fs, p->run };
	p->ahead.big_size = e->size;
	p->ahead.big = content_open(fs, p->run, e, true);
	content_pull(p->ahead.big, big_done, op);
}

static void all_more(struct fsys *fs, struct paths *p)
{
	struct ahead *a = &p->ahead;

	if (a->busy)
		return;
	a->busy = true;
	while (a->all_next < p->n && a->flight < FLIGHT_MAX && a->bytes < FLIGHT_BYTES) {
		struct pentry *e = p->entries[a->all_next];

		if (is_result(e) && e->size > SMALL && !ahead_here(fs, p->run, e)) {
			if (a->big)
				break;
			a->all_next++;
			fetch_big(fs, p, e);
			continue;
		}
		a->all_next++;
		if (wanted(fs, p, e))
			fetch(fs, p, e);
	}
	a->busy = false;
	engine_fetch_said(fs->en, p->run, a->all_done + (a->big ? content_got(a->big) : 0), a->all_bytes);
	if (a->all_next >= p->n && !a->flight && !a->big)
		all_finished(fs, p);
}

/* The first ones would go again before the last ones are here. */
static void refuse_all(struct fsys *fs, struct paths *p, uint64_t limit)
{
	char text[240];

	p->ahead.all = false;
	(void)snprintf(text, sizeof(text),
		       "%llu bytes are more than cache_size, %llu: `keep` the run first, and they may be; or raise it",
		       (unsigned long long)p->ahead.all_bytes, (unsigned long long)limit);
	engine_fetch_done(fs->en, p->run, -EDQUOT, text);
}

void ahead_all(struct fsys *fs, struct paths *p)
{
	struct ahead *a = &p->ahead;
	uint64_t small;

	if (a->all) /* its end answers this one, too */
		return;
	a->all = true;
	a->all_next = a->all_files = a->tries = 0;
	a->all_bytes = a->all_done = 0;
	a->code = 0;
	for (size_t i = 0; i < p->n; i++) {
		const struct pentry *e = p->entries[i];

		if (!is_result(e))
			continue;
		a->all_files++;
		a->all_bytes += e->size;
		if (ahead_here(fs, p->run, e))
			a->all_done += e->size;
	}
	small = cache_too_small(fs, engine_run(fs->en, p->run), a->all_bytes);
	if (small) {
		refuse_all(fs, p, small);
		return;
	}
	all_more(fs, p);
}

void ahead_stop(struct paths *p)
{
	if (p->ahead.big)
		content_close(p->ahead.big);
	p->ahead.big = NULL;
}

/* --- in order --- */

/* The next file of the table, or another of the same directory further on. */
static bool in_order(const struct paths *p, const struct pentry *e)
{
	const struct pentry *last = paths_at(p, p->ahead.last);
	const char *a = last ? strrchr(last->path, '/') : NULL, *b = strrchr(e->path, '/');
	size_t n = b ? (size_t)(b - e->path) : 0;

	if (!last || e->index <= last->index)
		return false;
	return e->index == last->index + 1 ||
	       ((a ? (size_t)(a - last->path) : 0) == n && strncmp(last->path, e->path, n) == 0);
}

void ahead_opened(struct fsys *fs, struct paths *p, struct pentry *e)
{
	struct ahead *a = &p->ahead;

	if (e->type != 'f' || e->size > SMALL)
		return;
	if (a->any && e->index == a->last)
		return;
	if (a->any && (in_order(p, e) || (e->index > a->last && e->index < a->next))) {
		a->lead = a->lead * 2 < LEAD_MIN ? LEAD_MIN : a->lead * 2 > LEAD_MAX ? LEAD_MAX : a->lead * 2;
		if (a->next <= e->index)
			a->next = e->index + 1;
	} else {
		a->lead = 0;
		a->next = e->index + 1;
	}
	a->any = true;
	a->last = e->index;
	if (a->lead)
		fetch_more(fs, p);
}
