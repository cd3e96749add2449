/*
 * SHA-256 (FIPS 180-4) and the checksum of POSIX cksum (POSIX.1-2017, cksum; a CRC of 32 bits over the bytes and their
 * number), both bit by bit as data comes. Content is named and verified with them; nothing is kept secret by them.
 */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_HEX 65 /* 64 digits and a NUL */

struct sha256 {
	uint32_t h[8];
	uint64_t len;
	unsigned char block[64];
};

void sha256_init(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *data, size_t len);
void sha256_hex(struct sha256 *s, char out[SHA256_HEX]); /* ends it */

uint32_t cksum_add(uint32_t crc, const void *data, size_t len); /* begins with 0 */
uint32_t cksum_end(uint32_t crc, uint64_t len);

#endif
