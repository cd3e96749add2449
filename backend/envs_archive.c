/*
 * What a local archive is: its sums, its kind by the first bytes, the platform that it was packed for. One pass over
 * the file; what lies inside of a plain tar, and of the tar in a self-extracting file of pixi-pack (in base64, between
 * the lines @@END_HEADER@@ and @@END_ARCHIVE@@), is looked at as it goes by. Compressed ones say nothing before they
 * are unpacked.
 *
 * The platform is, in this order: "platform" of pixi-pack.json, the ELF header of a program in bin/, the file's name.
 */
#include "backend/envs.h"

#include "backend/base/cksum.h"
#include "backend/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((size_t)1024 * 1024)
#define BLOCK 512 /* POSIX.1-2017, pax, ustar interchange format */
#define KEPT 4096 /* of pixi-pack.json */
#define BEGIN "@@END_HEADER@@\n"

/* --- identity --- */

int envs_identify(const char *path, struct envs_identity *out, struct err *e)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_sys(e, -errno, "environment: cannot read %s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "environment: %s is not a regular file", path);
	*out = (struct envs_identity){ st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim };
	return 0;
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool envs_same(const struct envs_identity *a, const struct envs_identity *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && same_time(&a->mtime, &b->mtime) &&
	       same_time(&a->ctime, &b->ctime);
}

/* --- names and machines --- */

static const struct platform {
	const char *word, *name;
} words[] = {
	{ "linux-64", "linux-64" },           { "linux-aarch64", "linux-aarch64" },
	{ "linux-ppc64le", "linux-ppc64le" }, { "osx-64", "osx-64" },
	{ "osx-arm64", "osx-arm64" },         { "win-64", "win-64" },
	{ "win-arm64", "win-arm64" },         { "x86_64", "linux-64" },
	{ "aarch64", "linux-aarch64" },       { "linux-s390x", "linux-s390x" },
	{ "linux-riscv64", "linux-riscv64" }, { "linux-32", "linux-32" },
};

const char *envs_name_platform(const char *path)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		const char *at = strstr(name, words[i].word);
		size_t len = strlen(words[i].word);

		if (at && (at == name || !isalnum((unsigned char)at[-1])) && !isalnum((unsigned char)at[len]))
			return words[i].name;
	}
	return "";
}

static const char *platform_of_machine(const char *machine)
{
	static const struct platform machines[] = { { "x86_64", "linux-64" },       { "amd64", "linux-64" },
						    { "aarch64", "linux-aarch64" }, { "arm64", "linux-aarch64" },
						    { "ppc64le", "linux-ppc64le" }, { "s390x", "linux-s390x" },
						    { "riscv64", "linux-riscv64" }, { "i686", "linux-32" } };

	for (size_t i = 0; i < ARRAY_SIZE(machines); i++)
		if (strcmp(machines[i].word, machine) == 0)
			return machines[i].name;
	return NULL;
}

int envs_fits(const char *platform, const char *machine, const char *libc, struct err *e)
{
	const char *here = platform_of_machine(machine);

	if (!*platform || strcmp(platform, "any") == 0 || strcmp(platform, "noarch") == 0 || !here)
		return 0;
	if (strcmp(platform, here) != 0)
		return err_set(e, -EINVAL,
			       "it is for %s and the cluster is %s (%s): pack it for that platform, or say "
			       "environment.platform=any where only the login node differs",
			       platform, here, machine);
	if (strcmp(libc, "other") == 0)
		return err_set(e, -EINVAL,
			       "it is for %s with glibc, which the cluster does not have: say environment.platform=any "
			       "where only the login node differs",
			       platform);
	return 0;
}

/* --- what goes by --- */

/* A tar's headers and the beginnings of its files. */
struct tar_scan {
	unsigned char block[BLOCK];
	size_t have;   /* bytes of the block that is being collected */
	uint64_t skip; /* bytes of the file that are of no interest */
	uint64_t left; /* bytes of the file that is kept */
	bool keep_json, keep_elf, broken, ended;
	char kept[KEPT];
	size_t n_kept;
	char json[32], elf[32];
	bool pixi;
};

struct scan_state {
	struct tar_scan tar;
	bool found;     /* BEGIN was seen */
	size_t matched; /* bytes of it */
	uint32_t bits;
	int n_bits;
	bool over;
};

static bool octal(const unsigned char *s, size_t len, uint64_t *out)
{
	uint64_t v = 0;
	size_t i = 0;

	while (i < len && s[i] == ' ')
		i++;
	for (; i < len && s[i] >= '0' && s[i] <= '7'; i++)
		v = v * 8 + (uint64_t)(s[i] - '0');
	*out = v;
	return i == len || s[i] == '\0' || s[i] == ' ';
}

static void copy_platform(char out[32], const char *name)
{
	if (name && strlen(name) < 32 && !*out)
		(void)snprintf(out, 32, "%s", name);
}

/* e_machine (elf(5)), little endian, which all of these are. */
static const char *elf_platform(const unsigned char *p, size_t len)
{
	if (len < 20 || memcmp(p, "\177ELF", 4) != 0 || p[5] != 1)
		return NULL;
	switch (p[18] | p[19] << 8) {
	case 62:
		return "linux-64";
	case 183:
		return "linux-aarch64";
	case 21:
		return "linux-ppc64le";
	default:
		return NULL;
	}
}

static void kept_whole(struct tar_scan *t)
{
	if (t->keep_json) {
		json_t *doc = json_loadb(t->kept, t->n_kept, 0, NULL);

		t->pixi = true;
		copy_platform(t->json, json_string_value(json_object_get(doc, "platform")));
		json_decref(doc);
	} else if (t->keep_elf) {
		copy_platform(t->elf, elf_platform((const unsigned char *)t->kept, t->n_kept));
	}
	t->keep_json = t->keep_elf = false;
}

static void tar_header(struct tar_scan *t)
{
	char name[101];
	uint64_t size;
	const char *base;

	t->have = 0;
	if (!t->block[0]) { /* the two blocks of zeroes */
		t->ended = true;
		return;
	}
	t->broken = memcmp(t->block + 257, "ustar", 5) != 0 || !octal(t->block + 124, 12, &size);
	if (t->broken)
		return;
	memcpy(name, t->block, 100);
	name[100] = '\0';
	base = strrchr(name, '/') ? strrchr(name, '/') + 1 : name;
	t->skip = (size + BLOCK - 1) / BLOCK * BLOCK;
	t->n_kept = 0;
	if (t->block[156] != '0' && t->block[156] != '\0')
		return;
	t->keep_json = strcmp(base, "pixi-pack.json") == 0 && size <= KEPT;
	t->keep_elf = strstr(name, "bin/") && !*t->elf;
	if (!t->keep_json && !t->keep_elf)
		return;
	t->left = t->keep_json ? size : size < 64 ? size : 64;
	t->skip -= t->left;
	if (!t->left)
		kept_whole(t);
}

static void tar_feed(struct tar_scan *t, const unsigned char *p, size_t len)
{
	while (len && !t->broken && !t->ended) {
		size_t n;

		if (t->left) {
			n = t->left < len ? (size_t)t->left : len;
			memcpy(t->kept + t->n_kept, p, n);
			t->n_kept += n;
			t->left -= n;
			if (!t->left)
				kept_whole(t);
		} else if (t->skip) {
			n = t->skip < len ? (size_t)t->skip : len;
			t->skip -= n;
		} else {
			n = BLOCK - t->have < len ? BLOCK - t->have : len;
			memcpy(t->block + t->have, p, n);
			t->have += n;
			if (t->have == BLOCK)
				tar_header(t);
		}
		p += n;
		len -= n;
	}
}

/* RFC 4648, section 4; -1 for what is no digit. */
static int base64_digit(unsigned char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static void script_feed(struct scan_state *s, const unsigned char *p, size_t len)
{
	for (; len && !s->over; p++, len--) {
		if (!s->found) {
			s->matched = *p == (unsigned char)BEGIN[s->matched] ? s->matched + 1 : *p == '@';
			s->found = s->matched == strlen(BEGIN);
		} else if (base64_digit(*p) >= 0) {
			s->bits = s->bits << 6 | (uint32_t)base64_digit(*p);
			s->n_bits += 6;
			if (s->n_bits >= 8) {
				unsigned char byte = (unsigned char)(s->bits >> (s->n_bits - 8));

				s->n_bits -= 8;
				tar_feed(&s->tar, &byte, 1);
			}
		} else if (*p != '\n' && *p != '\r') {
			s->over = true;
		}
		s->over = s->over || s->tar.broken || s->tar.ended;
	}
}

/* --- the file --- */

static int kind_of(const unsigned char *p, size_t len, enum envs_kind *out)
{
	static const struct {
		const char *magic;
		size_t len, at;
		enum envs_kind kind;
	} magics[] = { { "#!", 2, 0, ENVS_SCRIPT },
		       { "\x1f\x8b", 2, 0, ENVS_GZIP },
		       { "\x28\xb5\x2f\xfd", 4, 0, ENVS_ZSTD },
		       { "\xfd"
			 "7zXZ",
			 5, 0, ENVS_XZ },
		       { "BZh", 3, 0, ENVS_BZIP2 },
		       { "ustar", 5, 257, ENVS_TAR } };

	for (size_t i = 0; i < ARRAY_SIZE(magics); i++) {
		if (len < magics[i].at + magics[i].len || memcmp(p + magics[i].at, magics[i].magic, magics[i].len) != 0)
			continue;
		*out = magics[i].kind;
		return 0;
	}
	return -EINVAL;
}

/* What it is by its first bytes, for the use that is made of it. */
static int kind_for(const unsigned char *p, size_t len, const char *path, struct envs_archive *a, struct err *e)
{
	const char *dot = strrchr(path, '.');

	switch (a->use) {
	case ENVS_ARCHIVE:
		if (kind_of(p, len, &a->kind) == 0)
			return 0;
		return err_set(e, -EINVAL, "environment: %s is neither a tar archive nor a self-extracting script",
			       path);
	case ENVS_BUILD:
		if (kind_of(p, len, &a->kind) == 0)
			return 0;
		return err_set(e, -EINVAL, "environment: %s is neither a script that begins with #! nor a tar archive",
			       path);
	case ENVS_LIBRARY:
		a->kind = ENVS_MODULE;
		if (len >= 4 && memcmp(p, "PK\003\004", 4) == 0)
			a->kind = ENVS_WHEEL;
		if (a->kind == ENVS_WHEEL || (dot && strcmp(dot, ".py") == 0))
			return 0;
		return err_set(e, -EINVAL, "environment: %s is no wheel", path);
	case ENVS_FILE:
		a->kind = ENVS_DATA;
		break;
	}
	return 0;
}

static int read_all(int fd, const char *path, const atomic_bool *stop, struct envs_archive *a, struct scan_state *s,
		    struct err *e)
{
	cleanup_free unsigned char *buf = xmalloc(PIECE);
	cleanup_sha256 struct sha256 *sum = sha256_new();
	uint32_t crc = 0;

	for (;;) {
		ssize_t n = read(fd, buf, PIECE);

		if (n < 0)
			return err_sys(e, -errno, "environment: cannot read %s", path);
		if (stop && atomic_load(stop))
			return err_set(e, -ECANCELED, "environment: stopping");
		if (a->size == 0 && kind_for(buf, (size_t)n, path, a, e) < 0)
			return -EINVAL;
		if (n == 0)
			break;
		a->size += (uint64_t)n;
		sha256_add(sum, buf, (size_t)n);
		crc = cksum_add(crc, buf, (size_t)n);
		if (a->use != ENVS_ARCHIVE)
			continue;
		if (a->kind == ENVS_TAR)
			tar_feed(&s->tar, buf, (size_t)n);
		else if (a->kind == ENVS_SCRIPT)
			script_feed(s, buf, (size_t)n);
	}
	sha256_hex(sum, a->sha256);
	a->cksum = cksum_end(crc, a->size);
	return 0;
}

int envs_archive_read(const char *path, const atomic_bool *stop, struct envs_archive *out, struct err *e)
{
	return envs_read(path, ENVS_ARCHIVE, stop, out, e);
}

/* A wheel says in its name for what it is (PEP 425); pure ones are for any. */
static const char *wheel_platform(const char *path)
{
	static const struct platform tags[] = { { "x86_64.whl", "linux-64" },
						{ "aarch64.whl", "linux-aarch64" },
						{ "ppc64le.whl", "linux-ppc64le" },
						{ "win_amd64.whl", "win-64" },
						{ "arm64.whl", "osx-arm64" } };
	size_t len = strlen(path);

	for (size_t i = 0; i < ARRAY_SIZE(tags) && !strstr(path, "-musllinux"); i++) {
		size_t n = strlen(tags[i].word);

		if (len > n && strcmp(path + len - n, tags[i].word) == 0)
			return strstr(path, "-macosx") && i == 0 ? "osx-64" : tags[i].name;
	}
	return "";
}

static void name_it(struct envs_archive *a, const struct tar_scan *t, const char *path)
{
	static const char *const ends[] = {
		[ENVS_ARCHIVE] = "", [ENVS_BUILD] = ".build", [ENVS_LIBRARY] = ".library", [ENVS_FILE] = ".file"
	};

	(void)snprintf(a->key, sizeof(a->key), "%.*s%s", ENVS_KEY_LEN, a->sha256, ends[a->use]);
	a->pixi = t->pixi && a->kind == ENVS_TAR;
	if (a->use == ENVS_ARCHIVE)
		copy_platform(a->platform, *t->json ? t->json : *t->elf ? t->elf : envs_name_platform(path));
	else if (a->kind == ENVS_WHEEL)
		copy_platform(a->platform, wheel_platform(path));
}

int envs_read(const char *path, enum envs_use use, const atomic_bool *stop, struct envs_archive *out, struct err *e)
{
	cleanup_free struct scan_state *s = xcalloc(1, sizeof(*s));
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct envs_identity before = { 0 }, after = { 0 };
	int rc;

	memset(out, 0, sizeof(*out));
	out->use = use;
	if (fd < 0)
		return err_sys(e, -errno, "environment: cannot read %s", path);
	rc = envs_identify(path, &before, e);
	if (rc == 0)
		rc = read_all(fd, path, stop, out, s, e);
	if (rc == 0)
		rc = envs_identify(path, &after, e);
	if (rc < 0)
		return rc;
	if (!envs_same(&before, &after) || out->size != (uint64_t)before.size)
		return err_set(e, -ESTALE, "environment: %s was changed while it was read", path);
	name_it(out, &s->tar, path);
	return 0;
}
