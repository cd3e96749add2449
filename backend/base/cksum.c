/*
 * The CRC of POSIX cksum. Eight bytes at a time by eight tables: tables[k][b] is what a byte b does to the sum when k
 * more bytes follow it. Owns the tables, which are made once and never changed.
 */
#include "backend/base/cksum.h"

#include <pthread.h>

#define POLYNOMIAL 0x04c11db7u /* that of Ethernet, ISO/IEC 8802-3 */

static uint32_t tables[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (uint32_t b = 0; b < 256; b++) {
		uint32_t crc = b << 24;

		for (int bit = 0; bit < 8; bit++)
			crc = crc << 1 ^ (crc >> 31 ? POLYNOMIAL : 0);
		tables[0][b] = crc;
	}
	for (int k = 1; k < 8; k++)
		for (int b = 0; b < 256; b++)
			tables[k][b] = tables[k - 1][b] << 8 ^ tables[0][tables[k - 1][b] >> 24];
}

static uint32_t add_byte(uint32_t crc, unsigned char byte)
{
	return crc << 8 ^ tables[0][crc >> 24 ^ byte];
}

uint32_t cksum_add(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *p = data;

	(void)pthread_once(&once, make_tables);
	for (; len >= 8; p += 8, len -= 8)
		crc = tables[7][crc >> 24 ^ p[0]] ^ tables[6][(crc >> 16 & 255) ^ p[1]] ^
		      tables[5][(crc >> 8 & 255) ^ p[2]] ^ tables[4][(crc & 255) ^ p[3]] ^ tables[3][p[4]] ^
		      tables[2][p[5]] ^ tables[1][p[6]] ^ tables[0][p[7]];
	for (; len; p++, len--)
		crc = add_byte(crc, *p);
	return crc;
}

uint32_t cksum_end(uint32_t crc, uint64_t len)
{
	(void)pthread_once(&once, make_tables);
	for (; len; len >>= 8)
		crc = add_byte(crc, (unsigned char)len);
	return ~crc;
}
