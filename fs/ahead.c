/*
 * Reading ahead over many small files. The order is that of numbers in the path table, which is that of the list of
 * results and of readdir. How many are on their way grows with how many were really opened, so that two reads in a tree
 * of a million files do not fetch it all.
 *
 * Invariants: an entry is `coming` exactly while its fetch is on its way; a fetch names its file by run and number,
 * never by pointer, for the run may be purged meanwhile. A file gets its final name with all its bytes; it is not synced,
 * so whoever opens one compares its size with the list of results.
 */
#include "fs/ahead.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SMALL ((uint64_t)1024 * 1024)         /* one request each */
#define LEAD_MIN 64                           /* numbers, of the last one that was opened */
#define LEAD_MAX 4096
#define FLIGHT_MAX 512                        /* requests */
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
static bool keep(const struct fsys *fs, const struct ahead_op *op, const char *data, size_t len)
{
	cleanup_free char *path = ahead_file(fs, op->run, op->index), *part = xasprintf("%s.ahead", path);
	int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	bool fine = fd >= 0 && write(fd, data, len) == (ssize_t)len;

	if (fd >= 0 && close(fd) < 0)
		fine = false;
	if (fine && rename(part, path) == 0)
		return true;
	(void)unlink(part);
	return false;
}

static void fetch_more(struct fsys *fs, struct paths *p);

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
	if (e && code == 0 && p->attempt == op->attempt && len == op->size && keep(fs, op, data, len))
		fetch_more(fs, p);
	else if (p)
		p->ahead.lead = 0; /* until files are opened in order again */
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
