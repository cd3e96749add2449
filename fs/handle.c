/*
 * Open handles. A handle is found by its fh, which is the kernel's number of the OPEN request and therefore the same
 * after a restart; what a handle cannot compute anew (a conversation, a fixed set) is kept in files under
 * STATE/handles.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <string.h>

struct handle *handle_find(const struct fsys *fs, uint64_t fh)
{
	struct hmap_node *n = hmap_first(&fs->handles, fh);

	return n ? container_of(n, struct handle, node) : NULL;
}

static uint32_t run_of(uint64_t ino)
{
	enum ino_kind k = ino_kind(ino);

	return k == INO_RUN || k == INO_PATH || k == INO_SESSION || k == INO_LEASE ? ino_number(ino) : 0;
}

struct handle *handle_new(struct fsys *fs, uint64_t fh, uint64_t ino, uint32_t flags)
{
	struct handle *h = handle_find(fs, fh);
	struct view v;

	if (h) /* the OPEN is being replayed */
		return h;
	h = xcalloc(1, sizeof(*h));
	h->fh = fh;
	h->ino = ino;
	h->flags = flags;
	h->run = run_of(ino);
	h->nd = node_of(fs, ino, &v);
	h->fd = -1;
	strbuf_init(&h->text);
	hmap_insert(&fs->handles, &h->node, fh);
	return h;
}

struct handle *handle_get(struct fsys *fs, const struct fuse_file_info *fi, uint64_t ino)
{
	struct handle *h = handle_find(fs, fi->fh);
	struct shared_handle *sh;

	if (h)
		return h;
	sh = shared_handle_get(fs->shared, fi->fh, false);
	h = handle_new(fs, fi->fh, ino, sh ? sh->flags : (uint32_t)fi->flags);
	if (sh && sh->user)
		h->conv = conv_open(fs, h, true);
	else if (sh && h->nd && h->nd->class == NODE_FOLLOW)
		h->pos = sh->cursor;
	return h;
}

void handle_free(struct fsys *fs, struct handle *h)
{
	const struct shared_handle *sh = shared_handle_get(fs->shared, h->fh, false);

	hmap_remove(&fs->handles, &h->node);
	if (sh && sh->poll_kh)
		fs->n_pollers--;
	shared_handle_drop(fs->shared, h->fh);
	if (h->conv)
		conv_free(h->conv);
	area_release(fs, h);
	set_forget(fs, h);
	strbuf_release(&h->text);
	free(h->set);
	free(h);
}
