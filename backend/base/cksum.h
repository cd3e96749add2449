/*
 * The checksum of POSIX cksum (POSIX.1-2017, cksum; a CRC of 32 bits over the bytes and their number), bit by bit as
 * data comes.
 */
#ifndef BASE_CKSUM_H
#define BASE_CKSUM_H

#include <stddef.h>
#include <stdint.h>

uint32_t cksum_add(uint32_t crc, const void *data, size_t len); /* begins with 0 */
uint32_t cksum_end(uint32_t crc, uint64_t len);

#endif
