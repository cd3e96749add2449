/*
 * Hash values, and a map of elements that carry their own node. The map owns no element; an element is on at
 * most one map per node. Lookups compare full 64-bit hashes; the caller compares keys.
 *
 *	for (n = hmap_first(&map, h); n; n = hmap_next(n)) ...every element whose hash is h
 */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* FNV-1a, 64 bits (draft-eastlake-fnv). Stable: values derived from it are seen as inode numbers. */
uint64_t hash_bytes(const void *data, size_t len);
uint64_t hash_str(const char *s);
/* Spreads an integer (the finaliser of MurmurHash3, public domain). */
uint64_t hash_u64(uint64_t v);

struct hmap_node {
	struct hmap_node *next; /* private */
	uint64_t hash;
};

struct hmap {
	struct hmap_node **buckets;
	size_t mask; /* buckets - 1, a power of two less one */
	size_t count;
};

void hmap_init(struct hmap *m);
void hmap_release(struct hmap *m); /* frees the buckets, not the elements */
void hmap_insert(struct hmap *m, struct hmap_node *n, uint64_t hash);
void hmap_remove(struct hmap *m, struct hmap_node *n); /* n must be on m */
struct hmap_node *hmap_first(const struct hmap *m, uint64_t hash);
struct hmap_node *hmap_next(const struct hmap_node *n);

/* Walks all: start with NULL; the element returned may be removed before the next call only if it was saved. */
struct hmap_node *hmap_walk(const struct hmap *m, const struct hmap_node *prev);

#endif
