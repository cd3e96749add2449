/*
 * SHA-256 by OpenSSL's libcrypto, bit by bit as data comes. Content is named and verified with it; nothing is kept
 * secret by it.
 */
#ifndef BACKEND_SHA256_H
#define BACKEND_SHA256_H

#include <stddef.h>

#define SHA256_HEX 65 /* 64 digits and a NUL */

struct sha256;

struct sha256 *sha256_new(void);
void sha256_add(struct sha256 *s, const void *data, size_t len);
void sha256_hex(const struct sha256 *s, char out[SHA256_HEX]); /* of all that was added so far */
void sha256_free(struct sha256 *s);

static inline void sha256_freep(struct sha256 **s)
{
	sha256_free(*s);
}

#define cleanup_sha256 __attribute__((cleanup(sha256_freep)))

#endif
