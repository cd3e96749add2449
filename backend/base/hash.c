/*
 * Hash functions and the intrusive chained map. The table doubles when it holds as many elements as buckets.
 */
#include "backend/base/hash.h"

#include "backend/base/mem.h"

#include <assert.h>
#include <string.h>

uint64_t hash_bytes(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64_t h = 0xcbf29ce484222325u;

	for (size_t i = 0; i < len; i++) {
		h ^= p[i];
		h *= 0x100000001b3u;
	}
	return h;
}

uint64_t hash_str(const char *s)
{
	return hash_bytes(s, strlen(s));
}

uint64_t hash_u64(uint64_t v)
{
	v ^= v >> 33;
	v *= 0xff51afd7ed558ccdu;
	v ^= v >> 33;
	v *= 0xc4ceb9fe1a85ec53u;
	return v ^ (v >> 33);
}

void hmap_init(struct hmap *m)
{
	m->mask = 15;
	m->count = 0;
	m->buckets = xcalloc(m->mask + 1, sizeof(*m->buckets));
}

void hmap_release(struct hmap *m)
{
	free(m->buckets);
	m->buckets = NULL;
	m->count = 0;
}

static void link_node(struct hmap *m, struct hmap_node *n)
{
	struct hmap_node **b = &m->buckets[n->hash & m->mask];

	n->next = *b;
	*b = n;
}

static void grow(struct hmap *m)
{
	struct hmap_node **old = m->buckets;
	size_t buckets = m->mask + 1;

	m->mask = buckets * 2 - 1;
	m->buckets = xcalloc(m->mask + 1, sizeof(*m->buckets));
	for (size_t i = 0; i < buckets; i++) {
		struct hmap_node *next;

		for (struct hmap_node *n = old[i]; n; n = next) {
			next = n->next;
			link_node(m, n);
		}
	}
	free(old);
}

void hmap_insert(struct hmap *m, struct hmap_node *n, uint64_t hash)
{
	if (m->count > m->mask)
		grow(m);
	n->hash = hash;
	link_node(m, n);
	m->count++;
}

void hmap_remove(struct hmap *m, struct hmap_node *n)
{
	struct hmap_node **p = &m->buckets[n->hash & m->mask];

	while (*p != n) {
		assert(*p);
		p = &(*p)->next;
	}
	*p = n->next;
	n->next = NULL;
	m->count--;
}

struct hmap_node *hmap_next(const struct hmap_node *n)
{
	uint64_t hash = n->hash;
	struct hmap_node *i = n->next;

	while (i && i->hash != hash)
		i = i->next;
	return i;
}

struct hmap_node *hmap_first(const struct hmap *m, uint64_t hash)
{
	struct hmap_node *n = m->buckets[hash & m->mask];

	while (n && n->hash != hash)
		n = n->next;
	return n;
}

struct hmap_node *hmap_walk(const struct hmap *m, const struct hmap_node *prev)
{
	size_t i = 0;

	if (prev) {
		if (prev->next)
			return prev->next;
		i = (prev->hash & m->mask) + 1;
	}
	for (; i <= m->mask; i++)
		if (m->buckets[i])
			return m->buckets[i];
	return NULL;
}
