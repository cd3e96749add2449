/*
 * The memory of a mount: a memfd laid out as head, current request, handles and slots for parked requests.
 *
 * Everything that must survive a kill is in the memfd, and there only plain records: each is valid when its key (fh or
 * unique) is not 0, so it is filled first and given its key last, and taken away by clearing the key first. How to find
 * a record (hash tables, free lists) is private to each process and built anew when it attaches; no kill can leave it
 * half done. `top` bounds the records that were ever in use; it is raised before the first use.
 *
 * Pages that were never touched cost nothing, so the slots are many.
 */
#include "fs/shared.h"

#include "backend/base/hash.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x736c75726d726179) /* "slurmray" */
enum { LAYOUT = 1, HANDLES = 65536, PAGE = 4096, HEAD_SIZE = PAGE };

/* Sizes of slots: reads and short writes, specs, everything. */
enum { CLASSES = 3 };
static const struct {
	uint32_t count, size;
} slot_class[CLASSES] = { { 16384, 512 }, { 2048, 8192 }, { 64, SHARED_REQUEST_MAX + PAGE } };

struct head {
	uint64_t magic; /* written last */
	uint32_t layout, handle_top;
	uint64_t size, mount_id, next_seq, busy;
	uint32_t slot_top[CLASSES];
	uint32_t init_len; /* written last of what concerns INIT; 0: not there */
	uint32_t reply_len;
	_Alignas(8) char init[SHARED_INIT_MAX];
	_Alignas(8) char reply[SHARED_INIT_MAX];
};

struct slot {
	uint64_t unique; /* 0: free */
	uint64_t seq;
	uint32_t len, spare;
	char data[];
};

_Static_assert(sizeof(struct head) <= HEAD_SIZE, "the head has one page");
_Static_assert(SHARED_REQUEST_MAX % PAGE == 0, "what follows the current request is page aligned");
_Static_assert(sizeof(struct slot) % 8 == 0, "libfuse reads the request in place");

/* Finds records by key. */
struct entry {
	struct hmap_node node;
	uint64_t key;
};

struct index {
	struct hmap map;
	struct entry *entries; /* one per record */
	uint32_t *freed;       /* records below *top that are free */
	uint32_t nfreed, count;
	uint32_t *top; /* in the memfd */
};

struct shared {
	int fd;
	size_t size;
	char *base;
	struct head *head;
	struct fuse_in_header *cur;
	struct shared_handle *handles;
	char *slots[CLASSES];
	struct index handle_index, slot_index[CLASSES];
};

/* Makes the stores before it visible before it: a killed process stops between two stores of its program's order. */
static void publish(uint64_t *field, uint64_t value)
{
	__atomic_store_n(field, value, __ATOMIC_SEQ_CST);
}

static void index_init(struct index *ix, uint32_t count, uint32_t *top)
{
	hmap_init(&ix->map);
	ix->entries = xcalloc(count, sizeof(*ix->entries));
	ix->freed = xcalloc(count, sizeof(*ix->freed));
	ix->nfreed = 0;
	ix->count = count;
	ix->top = top;
}

static void index_release(struct index *ix)
{
	hmap_release(&ix->map);
	free(ix->entries);
	free(ix->freed);
}

static void index_set(struct index *ix, uint32_t i, uint64_t key)
{
	ix->entries[i].key = key;
	hmap_insert(&ix->map, &ix->entries[i].node, hash_u64(key));
}

/* Number of the record, or -1. */
static int64_t index_find(const struct index *ix, uint64_t key)
{
	struct hmap_node *n;

	if (!ix->map.count)
		return -1;
	for (n = hmap_first(&ix->map, hash_u64(key)); n; n = hmap_next(n)) {
		const struct entry *en = (const struct entry *)(const void *)n;

		if (en->key == key)
			return en - ix->entries;
	}
	return -1;
}

/* Takes a free record for `key`: its number, or -1 when all are in use. */
static int64_t index_take(struct index *ix, uint64_t key)
{
	uint32_t i;

	if (ix->nfreed) {
		i = ix->freed[--ix->nfreed];
	} else if (*ix->top < ix->count) {
		i = *ix->top;
		__atomic_store_n(ix->top, i + 1, __ATOMIC_SEQ_CST);
	} else {
		return -1;
	}
	index_set(ix, i, key);
	return i;
}

static void index_give(struct index *ix, uint32_t i)
{
	hmap_remove(&ix->map, &ix->entries[i].node);
	ix->freed[ix->nfreed++] = i;
}

static struct slot *slot_at(const struct shared *sh, int class, uint32_t i)
{
	return (struct slot *)(void *)(sh->slots[class] + (size_t)i * slot_class[class].size);
}

static size_t area_size(void)
{
	size_t size = HEAD_SIZE + SHARED_REQUEST_MAX + HANDLES * sizeof(struct shared_handle);
	int c;

	for (c = 0; c < CLASSES; c++)
		size += (size_t)slot_class[c].count * slot_class[c].size;
	return (size + PAGE - 1) / PAGE * PAGE;
}

static void lay_out(struct shared *sh)
{
	char *p = sh->base + HEAD_SIZE;
	int c;

	sh->head = (struct head *)(void *)sh->base;
	sh->cur = (struct fuse_in_header *)(void *)p;
	p += SHARED_REQUEST_MAX;
	sh->handles = (struct shared_handle *)(void *)p;
	p += HANDLES * sizeof(struct shared_handle);
	for (c = 0; c < CLASSES; c++) {
		sh->slots[c] = p;
		p += (size_t)slot_class[c].count * slot_class[c].size;
	}
}

static void build_indexes(struct shared *sh)
{
	struct index *ix = &sh->handle_index;
	uint64_t key;
	uint32_t i;
	int c;

	index_init(ix, HANDLES, &sh->head->handle_top);
	for (i = 0; i < *ix->top; i++) {
		if (sh->handles[i].fh)
			index_set(ix, i, sh->handles[i].fh);
		else
			ix->freed[ix->nfreed++] = i;
	}
	for (c = 0; c < CLASSES; c++) {
		ix = &sh->slot_index[c];
		index_init(ix, slot_class[c].count, &sh->head->slot_top[c]);
		for (i = 0; i < *ix->top; i++) {
			key = slot_at(sh, c, i)->unique;
			if (key)
				index_set(ix, i, key);
			else
				ix->freed[ix->nfreed++] = i;
		}
	}
}

static int map_area(struct shared *sh, struct err *e)
{
	sh->size = area_size();
	sh->base = mmap(NULL, sh->size, PROT_READ | PROT_WRITE, MAP_SHARED, sh->fd, 0);
	if (sh->base == MAP_FAILED)
		return err_sys(e, -errno, "mapping %zu bytes of shared memory", sh->size);
	lay_out(sh);
	return 0;
}

int shared_create(struct shared **out, struct err *e)
{
	struct shared *sh = xcalloc(1, sizeof(*sh));
	uint64_t id = 0;
	int rc;

	sh->fd = memfd_create("slurmray", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (sh->fd < 0 || ftruncate(sh->fd, (off_t)area_size())) {
		rc = err_sys(e, -errno, "making shared memory");
		goto fail;
	}
	/* A worker must never get SIGBUS from it. */
	(void)fcntl(sh->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	rc = map_area(sh, e);
	if (rc < 0)
		goto fail;
	while (!id)
		if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id))
			id = 0;
	sh->head->layout = LAYOUT;
	sh->head->size = sh->size;
	sh->head->mount_id = id;
	sh->head->next_seq = 1;
	publish(&sh->head->magic, MAGIC);
	build_indexes(sh);
	*out = sh;
	return 0;
fail:
	if (sh->fd >= 0)
		(void)close(sh->fd);
	free(sh);
	return rc;
}

/*
 * If a page of the buffer had to be faulted in while SIGKILL is pending, the kernel would give the request up and
 * answer its caller EIO. So the pages are there from the start and stay (RLIMIT_MEMLOCK may be as low as 64 KiB for
 * ordinary users before Linux 5.16; then at least the part that holds all requests but large writes).
 */
static void make_resident(struct shared *sh)
{
	size_t len = HEAD_SIZE + SHARED_REQUEST_MAX, i;

	for (i = 0; i < len; i += PAGE)
		(void)__atomic_fetch_or(sh->base + i, 0, __ATOMIC_RELAXED);
	while (mlock(sh->base, len)) {
		if (len <= 4 * PAGE) {
			log_debug("the request buffer cannot be locked in memory: %s", strerror(errno));
			return;
		}
		len /= 2;
	}
}

int shared_attach(int fd, struct shared **out, struct err *e)
{
	struct shared *sh = xcalloc(1, sizeof(*sh));
	struct stat st;
	int rc;

	sh->fd = fd;
	if (fstat(fd, &st)) {
		rc = err_sys(e, -errno, "shared memory (descriptor %d)", fd);
		goto fail;
	}
	rc = -EPROTO;
	if (st.st_size != (off_t)area_size()) {
		err_set(e, rc, "the shared memory belongs to another version of slurmray: umount and mount again");
		goto fail;
	}
	rc = map_area(sh, e);
	if (rc < 0)
		goto fail;
	if (sh->head->magic != MAGIC || sh->head->layout != LAYOUT || sh->head->size != sh->size) {
		rc = err_set(e, -EPROTO,
			     "the shared memory belongs to another version of slurmray: umount and mount again");
		(void)munmap(sh->base, sh->size);
		goto fail;
	}
	make_resident(sh);
	build_indexes(sh);
	*out = sh;
	return 0;
fail:
	free(sh);
	return rc;
}

void shared_detach(struct shared *sh)
{
	int c;

	if (!sh)
		return;
	index_release(&sh->handle_index);
	for (c = 0; c < CLASSES; c++)
		index_release(&sh->slot_index[c]);
	(void)munmap(sh->base, sh->size);
	(void)close(sh->fd);
	free(sh);
}

int shared_fd(const struct shared *sh)
{
	return sh->fd;
}

uint64_t shared_mount_id(const struct shared *sh)
{
	return sh->head->mount_id;
}

void *shared_cur(struct shared *sh)
{
	return sh->cur;
}

uint64_t shared_cur_unique(const struct shared *sh)
{
	uint64_t unique = __atomic_load_n(&sh->cur->unique, __ATOMIC_SEQ_CST);

	return sh->cur->len >= sizeof(*sh->cur) && sh->cur->len <= SHARED_REQUEST_MAX ? unique : 0;
}

void shared_cur_clear(struct shared *sh)
{
	publish(&sh->cur->unique, 0);
}

void shared_set_busy(struct shared *sh, uint64_t unique)
{
	publish(&sh->head->busy, unique);
}

uint64_t shared_busy(const struct shared *sh)
{
	return __atomic_load_n(&sh->head->busy, __ATOMIC_SEQ_CST);
}

/* The keeper's way: its own indexes know nothing of what the workers parked, so it looks at the records. */
void shared_forget(struct shared *sh, uint64_t unique)
{
	uint32_t i;
	int c;

	if (sh->cur->unique == unique)
		shared_cur_clear(sh);
	for (c = 0; c < CLASSES; c++)
		for (i = 0; i < sh->head->slot_top[c]; i++)
			if (slot_at(sh, c, i)->unique == unique)
				publish(&slot_at(sh, c, i)->unique, 0);
	if (shared_busy(sh) == unique)
		shared_set_busy(sh, 0);
}

static struct slot *slot_take(struct shared *sh, uint64_t unique, size_t len)
{
	int64_t i;
	int c;

	for (c = 0; c < CLASSES; c++) {
		if (len > slot_class[c].size - sizeof(struct slot))
			continue;
		i = index_take(&sh->slot_index[c], unique);
		if (i >= 0)
			return slot_at(sh, c, (uint32_t)i);
	}
	return NULL;
}

int shared_park(struct shared *sh, uint64_t unique, const void *data, size_t len)
{
	struct slot *s = slot_take(sh, unique, len);

	assert(unique);
	if (!s)
		return -ENOMEM;
	memcpy(s->data, data, len);
	s->len = (uint32_t)len;
	s->seq = sh->head->next_seq;
	publish(&sh->head->next_seq, s->seq + 1);
	publish(&s->unique, unique);
	return 0;
}

static struct slot *slot_find(const struct shared *sh, uint64_t unique, int *class)
{
	int64_t i;
	int c;

	for (c = 0; c < CLASSES; c++) {
		i = index_find(&sh->slot_index[c], unique);
		if (i >= 0) {
			*class = c;
			return slot_at(sh, c, (uint32_t)i);
		}
	}
	return NULL;
}

void shared_unpark(struct shared *sh, uint64_t unique)
{
	int class;
	struct slot *s = slot_find(sh, unique, &class);

	if (!s)
		return;
	publish(&s->unique, 0);
	index_give(&sh->slot_index[class], (uint32_t)((size_t)((char *)s - sh->slots[class]) / slot_class[class].size));
}

const void *shared_parked_data(const struct shared *sh, uint64_t unique, size_t *len)
{
	int class;
	const struct slot *s = slot_find(sh, unique, &class);

	if (!s)
		return NULL;
	*len = s->len;
	return s->data;
}

size_t shared_parked(const struct shared *sh)
{
	size_t n = 0;
	int c;

	for (c = 0; c < CLASSES; c++)
		n += sh->slot_index[c].map.count;
	return n;
}

struct order {
	uint64_t seq, unique;
};

static int by_seq(const void *a, const void *b)
{
	const struct order *x = a, *y = b;

	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

size_t shared_parked_list(const struct shared *sh, uint64_t **out)
{
	size_t n = shared_parked(sh), i = 0;
	struct order *o = xcalloc(n + 1, sizeof(*o));
	uint64_t *list = xcalloc(n + 1, sizeof(*list));
	uint32_t k;
	int c;

	for (c = 0; c < CLASSES; c++) {
		for (k = 0; k < sh->head->slot_top[c]; k++) {
			const struct slot *s = slot_at(sh, c, k);

			if (s->unique && i < n)
				o[i++] = (struct order){ s->seq, s->unique };
		}
	}
	qsort(o, i, sizeof(*o), by_seq);
	for (n = 0; n < i; n++)
		list[n] = o[n].unique;
	free(o);
	*out = list;
	return i;
}

int shared_init_save(struct shared *sh, const void *request, size_t len, const void *reply, size_t reply_len)
{
	struct head *h = sh->head;

	if (len > SHARED_INIT_MAX || reply_len > SHARED_INIT_MAX)
		return -EFBIG;
	memcpy(h->init, request, len);
	memcpy(h->reply, reply, reply_len);
	h->reply_len = (uint32_t)reply_len;
	__atomic_store_n(&h->init_len, (uint32_t)len, __ATOMIC_SEQ_CST);
	return 0;
}

const void *shared_init_request(const struct shared *sh, size_t *len)
{
	*len = sh->head->init_len;
	return *len ? sh->head->init : NULL;
}

const void *shared_init_reply(const struct shared *sh, size_t *len)
{
	*len = sh->head->reply_len;
	return sh->head->init_len ? sh->head->reply : NULL;
}

struct shared_handle *shared_handle_get(struct shared *sh, uint64_t fh, bool create)
{
	struct shared_handle *h;
	int64_t i;

	if (!fh)
		return NULL;
	i = index_find(&sh->handle_index, fh);
	if (i >= 0)
		return &sh->handles[i];
	if (!create)
		return NULL;
	i = index_take(&sh->handle_index, fh);
	if (i < 0)
		return NULL;
	h = &sh->handles[i];
	memset(h, 0, sizeof(*h));
	publish(&h->fh, fh);
	return h;
}

void shared_handle_drop(struct shared *sh, uint64_t fh)
{
	int64_t i = fh ? index_find(&sh->handle_index, fh) : -1;

	if (i < 0)
		return;
	publish(&sh->handles[i].fh, 0);
	index_give(&sh->handle_index, (uint32_t)i);
}

void shared_handle_walk(struct shared *sh, void (*cb)(void *arg, struct shared_handle *h), void *arg)
{
	uint32_t i, top = sh->head->handle_top;

	for (i = 0; i < top; i++)
		if (sh->handles[i].fh)
			cb(arg, &sh->handles[i]);
}
