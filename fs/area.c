/*
 * results/, work/ and files/: directories of paths. results/ of an ended run is its list of results; of a live one, and
 * work/, the last listing (area_look.c says when it is asked for anew). Everything here answers at once from what is
 * known; files/ is a local directory (area_files.c).
 */
#include "fs/area.h"

#include "fs/ahead.h"

#include "backend/base/mem.h"
#include "backend/cluster.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

struct paths *area_paths(struct fsys *fs, uint32_t run)
{
	struct hmap_node *n = hmap_first(&fs->paths, run);
	struct paths *p;

	if (n)
		return container_of(n, struct paths, node);
	content_sweep(fs, run);
	p = paths_open(fs->state_dir, run);
	hmap_insert(&fs->paths, &p->node, run);
	return p;
}

void area_forget(struct fsys *fs, uint32_t run)
{
	struct hmap_node *n = hmap_first(&fs->paths, run);

	if (!n)
		return;
	hmap_remove(&fs->paths, n);
	ahead_stop(container_of(n, struct paths, node));
	paths_close(container_of(n, struct paths, node));
}

/* The area that a row of run_nodes is, or 0. A row number from a node id need not be one of the table. */
static char area_of_row(uint32_t row)
{
	static char areas[1 << INO_ROW_BITS] = { [RUN_ROW_RESULTS] = 'r', [RUN_ROW_WORK] = 'w', [RUN_ROW_FILES] = 'f' };
	static bool filled;

	for (uint32_t i = RUN_ROW_FIRST_FILE; !filled && run_nodes[i].name; i++)
		areas[i] = inner_logs(&run_nodes[i]);
	filled = true;
	return areas[row];
}

bool area_is(uint64_t ino)
{
	return ino_kind(ino) == INO_PATH || (ino_kind(ino) == INO_RUN && area_of_row(ino_row(ino)));
}

enum cluster_area area_number(char area)
{
	return area == 'r' ? AREA_RESULTS : area == 'w' ? AREA_WORK : area == 'y' ? AREA_RAY_LOGS : AREA_SPARK_LOGS;
}

bool area_at(struct fsys *fs, uint64_t ino, struct spot *s)
{
	memset(s, 0, sizeof(*s));
	s->r = engine_run(fs->en, ino_number(ino));
	if (!s->r)
		return false;
	s->p = area_paths(fs, s->r->num);
	if (s->p->attempt != s->r->attempt)
		paths_forget(s->p);
	s->p->attempt = s->r->attempt;
	s->path = "";
	if (ino_kind(ino) == INO_RUN) {
		s->area = area_of_row(ino_row(ino));
		return true;
	}
	s->e = paths_at(s->p, ino_sub(ino));
	if (!s->e)
		return false;
	s->area = s->e->area;
	s->path = s->e->path;
	return true;
}

uint64_t area_ino(const struct spot *s, const struct pentry *e)
{
	return ino_make(INO_PATH, s->r->num, e->index);
}

void area_join(struct strbuf *out, const char *dir, const char *name)
{
	if (*dir)
		strbuf_addf(out, "%s/", dir);
	strbuf_addstr(out, name);
}

/* --- directory operations --- */

int area_lookup(struct fsys *fs, uint64_t parent, const char *name, uint64_t *ino)
{
	struct strbuf full = STRBUF_INIT;
	struct pentry *e;
	struct spot s;
	int rc = -ENOENT;

	if (!area_at(fs, parent, &s))
		return -ENOENT;
	area_join(&full, s.path, name);
	if (s.area == 'f') {
		rc = files_lookup(fs, &s, full.buf, ino);
	} else {
		e = paths_find(s.p, s.area, full.buf);
		if (e && e->known) {
			*ino = area_ino(&s, e);
			rc = 0;
		} else {
			rc = area_missing(fs, &s, s.path);
		}
	}
	strbuf_release(&full);
	return rc;
}

static void set_times(struct stat *st, int64_t us)
{
	st->st_mtim.tv_sec = us / USEC_PER_SEC;
	st->st_mtim.tv_nsec = us % USEC_PER_SEC * 1000;
	st->st_atim = st->st_ctim = st->st_mtim;
}

int area_stat(struct fsys *fs, uint64_t ino, struct stat *st)
{
	struct spot s;

	if (!area_at(fs, ino, &s))
		return -ENOENT;
	if (s.area == 'f')
		return files_stat(fs, &s, st);
	if (s.area == 'r')
		area_load_manifest(fs, &s);
	if (!s.e) {
		st->st_mode = S_IFDIR | 0555;
		st->st_nlink = 2;
		set_times(st, s.r->t_changed);
		return 0;
	}
	if (!s.e->known) {
		cleanup_free char *dir = area_parent(&s);

		return area_missing(fs, &s, dir);
	}
	st->st_mode = (s.e->type == 'd'   ? S_IFDIR | 0555
		       : s.e->type == 'l' ? S_IFLNK | 0777
					  : S_IFREG) |
		      (s.e->type == 'f' ? (s.e->mode & 0555) | 0400 : 0);
	st->st_nlink = s.e->type == 'd' ? 2 : 1;
	st->st_size = (off_t)(s.e->type == 'l' ? strlen(s.e->target) : s.e->type == 'd' ? 0 : s.e->size);
	st->st_blocks = s.e->type == 'f' ? (st->st_size + 511) / 512 : 0;
	set_times(st, s.e->mtime);
	return 0;
}

static bool child_of(const char *dir, const struct pentry *e, char area, const char **name)
{
	size_t n = strlen(dir);

	if (e->area != area || (n && (strncmp(e->path, dir, n) != 0 || e->path[n] != '/')))
		return false;
	*name = e->path + (n ? n + 1 : 0);
	return !strchr(*name, '/');
}

int area_readdir(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg)
{
	const char *name;
	struct spot s;

	if (!area_at(fs, ino, &s))
		return -ENOENT;
	if (s.area == 'f')
		files_scan(fs, &s);
	else if (area_away(fs, &s, s.path))
		return -EHOSTUNREACH;
	for (size_t i = (size_t)off; i < s.p->n; i++) {
		struct pentry *e = s.p->entries[i];

		if (e->known && child_of(s.path, e, s.area, &name) && !fill(arg, name, area_ino(&s, e), i + 1))
			break;
	}
	return 0;
}

int area_readlink(struct fsys *fs, uint64_t ino, struct strbuf *out)
{
	struct spot s;

	if (!area_at(fs, ino, &s) || !s.e)
		return -ENOENT;
	if (s.area == 'f')
		return files_readlink(fs, &s, out);
	if (s.e->type != 'l' || !s.e->target)
		return -EINVAL;
	strbuf_addstr(out, s.e->target);
	return 0;
}

/* --- files --- */

/* Is this run's list of results final? */
static bool is_final(struct fsys *fs, struct spot *s)
{
	if (s->area == 'r')
		area_load_manifest(fs, s);
	return s->area == 'r' && !run_is_live(s->r) && s->p->manifest;
}

void area_fetch(struct fsys *fs, const struct run *r)
{
	struct spot s;

	if (!r->attempt || !area_at(fs, ino_make(INO_RUN, r->num, RUN_ROW_RESULTS), &s) || !is_final(fs, &s))
		engine_fetch_done(fs->en, r->num, -ENOENT, "there is no list of its results");
	else
		ahead_all(fs, s.p);
}

static void open_before(void *arg, struct shared_handle *h)
{
	uint32_t *run = arg;

	if (ino_kind(h->ino) == INO_PATH && ino_number(h->ino) == *run)
		*run = 0;
}

bool area_in_use(struct fsys *fs, const struct run *r)
{
	struct hmap_node *n = hmap_first(&fs->paths, r->num);
	const struct ahead *a = n ? &container_of(n, struct paths, node)->ahead : NULL;
	uint32_t run = r->num;

	if (a && (a->all || a->flight || a->big))
		return true;
	for (n = hmap_walk(&fs->handles, NULL); n; n = hmap_walk(&fs->handles, n))
		if (container_of(n, struct handle, node)->content && container_of(n, struct handle, node)->run == run)
			return true;
	shared_handle_walk(fs->shared, open_before, &run);
	return !run;
}

/* For a worker that comes after this one: it has to know what is open. */
static void note_open(const struct fsys *fs, const struct handle *h)
{
	struct shared_handle *sh = shared_handle_get(fs->shared, h->fh, true);

	if (!sh) /* too many; the next worker will find out when it is read */
		return;
	sh->ino = h->ino;
	sh->flags = h->flags;
}

/* As grow_open (rundata.c): the first opening since the end drops what a private mapping may have left. */
static void opened(struct fsys *fs, struct handle *h, struct fuse_file_info *fi)
{
	struct spot s;

	if (!content_whole(h->content) || !area_at(fs, h->ino, &s) || !s.e)
		return;
	fi->direct_io = 0;
	fi->keep_cache = s.e->cached;
	s.e->cached = true;
}

static void open_remote(struct fsys *fs, fuse_req_t req, struct spot *s, struct handle *h)
{
	bool final = is_final(fs, s);

	if (!h->content)
		h->content = content_open(fs, s->r->num, s->e, final);
	if (final)
		ahead_opened(fs, s->p, s->e);
	if (final && fs->note_results)
		note_open(fs, h);
	content_wait(h->content, req, h, opened);
}

static void open_file(struct fsys *fs, fuse_req_t req, struct spot *s, struct handle *h, struct fuse_file_info *fi)
{
	int rc = files_open(fs, s, h, fi->flags);

	if (rc < 0) {
		handle_free(fs, h);
		(void)fuse_reply_err(req, -rc);
		return;
	}
	fi->direct_io = 1;
	(void)fuse_reply_open(req, fi);
}

void area_open(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi)
{
	struct handle *h;
	struct spot s;

	if (!area_at(fs, ino, &s) || !s.e) {
		(void)fuse_reply_err(req, ENOENT);
		return;
	}
	if (s.area != 'f' && (fi->flags & O_ACCMODE) != O_RDONLY) {
		(void)fuse_reply_err(req, EPERM);
		return;
	}
	h = handle_new(fs, fi->fh, ino, (uint32_t)fi->flags);
	if (s.area == 'f')
		open_file(fs, req, &s, h, fi);
	else
		open_remote(fs, req, &s, h);
}

void area_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size)
{
	struct spot s;

	if (!area_at(fs, h->ino, &s) || !s.e) {
		(void)fuse_reply_err(req, ENOENT);
		return;
	}
	if (s.area == 'f') {
		files_read(fs, req, &s, h, off, size);
		return;
	}
	if (!h->content)
		h->content = content_open(fs, s.r->num, s.e, is_final(fs, &s));
	content_renew(h->content, s.e->size);
	content_read(h->content, req, h, off, size);
}

void area_release(struct fsys *fs, struct handle *h)
{
	(void)fs;
	if (h->content)
		content_close(h->content);
	if (h->fd >= 0)
		(void)close(h->fd);
}
