/*
 * SHA-256: the one place that knows libcrypto. It is in the process already, by libssh2 and libcurl, and uses what the
 * processor has for it.
 *
 * Invariant: a sum is always usable: what cannot be made ends the process, as memory that is not there does (mem.h).
 */
#include "backend/sha256.h"

#include "backend/base/mem.h"

#include <openssl/evp.h>
#include <stdio.h>

struct sha256 {
	EVP_MD_CTX *ctx;
};

static void must(int ok)
{
	if (!ok) /* no memory, or a libcrypto without SHA-256 */
		abort();
}

struct sha256 *sha256_new(void)
{
	struct sha256 *s = xmalloc(sizeof(*s));

	s->ctx = EVP_MD_CTX_new();
	must(s->ctx && EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL));
	return s;
}

void sha256_add(struct sha256 *s, const void *data, size_t len)
{
	must(EVP_DigestUpdate(s->ctx, data, len));
}

void sha256_hex(const struct sha256 *s, char out[SHA256_HEX])
{
	unsigned char sum[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *end = EVP_MD_CTX_new();

	must(end && EVP_MD_CTX_copy_ex(end, s->ctx) && EVP_DigestFinal_ex(end, sum, NULL));
	EVP_MD_CTX_free(end);
	for (size_t i = 0; i < (SHA256_HEX - 1) / 2; i++)
		(void)snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

void sha256_free(struct sha256 *s)
{
	if (s)
		EVP_MD_CTX_free(s->ctx);
	free(s);
}
