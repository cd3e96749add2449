/*
 * Node ids. Computed from what a node is, never counted, so that any worker can answer for any id that an earlier
 * one gave out:
 *
 *	63..58 kind   57..26 number (run, cluster)   25..0 sub
 *
 * For files `sub` is the row in the table (8 bits) and, above it, an instance number (18 bits): LOOKUP of files that
 * many write at once (new, spec, ctl) gives a fresh instance, so that a parked WRITE, which holds the kernel's inode
 * lock, does not queue the others behind it. st_ino is the id without the instance. Sets under by/ have no
 * number: their 58 low bits are the kind of set (3 bits) and a hash of its value.
 */
#ifndef FS_INO_H
#define FS_INO_H

#include <stdint.h>

enum ino_kind {
	INO_ROOT,     /* the id 1 only */
	INO_FIXED,    /* sub: enum fixed, instance */
	INO_RUN,      /* number: run; sub: row in run_nodes, instance; row 0 is the directory */
	INO_PATH,     /* number: run; sub: index in its path table */
	INO_CLUSTER,  /* number: cluster; sub: row in cluster_nodes, instance; row 0 is the directory */
	INO_SET,      /* by/KIND/VALUE */
	INO_SET_WAIT, /* by/KIND/VALUE/wait */
	INO_SET_ANY,  /* by/KIND/VALUE/wait-any */
	INO_LINK,     /* number: run: by/.../ID */
	INO_ENV,      /* number: hash of CLUSTER/KEY; sub: row in env_nodes, instance; row 0 is the directory */
	INO_SESSION,  /* number: run; sub: row in session_nodes, instance; row 0 is the directory */
	INO_LEASE,    /* number: run; sub: hash of the owner */
};

#define INO_SUB_BITS 26
#define INO_ROW_BITS 8
#define INO_HASH_BITS 55

static inline uint64_t ino_make(enum ino_kind kind, uint32_t number, uint32_t sub)
{
	return (uint64_t)kind << 58 | (uint64_t)number << INO_SUB_BITS | sub;
}

static inline uint64_t ino_set(enum ino_kind kind, unsigned set_kind, uint64_t hash)
{
	return (uint64_t)kind << 58 | (uint64_t)set_kind << INO_HASH_BITS | (hash & ((1ull << INO_HASH_BITS) - 1));
}

static inline enum ino_kind ino_kind(uint64_t ino)
{
	return ino == 1 ? INO_ROOT : (enum ino_kind)(ino >> 58);
}

static inline uint32_t ino_number(uint64_t ino)
{
	return (uint32_t)(ino >> INO_SUB_BITS);
}

static inline uint32_t ino_sub(uint64_t ino)
{
	return (uint32_t)ino & ((1u << INO_SUB_BITS) - 1);
}

static inline uint32_t ino_row(uint64_t ino)
{
	return (uint32_t)ino & ((1u << INO_ROW_BITS) - 1);
}

static inline unsigned ino_set_kind(uint64_t ino)
{
	return (unsigned)(ino >> INO_HASH_BITS) & 7;
}

static inline uint64_t ino_set_hash(uint64_t ino)
{
	return ino & ((1ull << INO_HASH_BITS) - 1);
}

/* What st_ino shows: the same for every instance. */
static inline uint64_t ino_stable(uint64_t ino)
{
	enum ino_kind k = ino_kind(ino);

	if (k == INO_FIXED || k == INO_RUN || k == INO_CLUSTER || k == INO_ENV || k == INO_SESSION)
		return ino & ~((uint64_t)(((1u << INO_SUB_BITS) - 1) & ~((1u << INO_ROW_BITS) - 1)));
	return ino;
}

#endif
