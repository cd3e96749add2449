/*
 * Packages for Ray: walking directories and writing zip archives. Links to files are followed (as Ray's own client
 * does), links to directories are not, so a walk ends. Directories wait on a list, nothing calls itself.
 */
#include "backend/ray_package.h"

#include "backend/base/mem.h"
#include "backend/sha256.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#define ENTRIES_MAX 60000 /* the format counts to 65535 without extensions */
#define DOS_DATE 0x21     /* 1980-01-01, the first there is */
#define NAMES_UTF8 0x800

static void put16(struct strbuf *sb, unsigned v)
{
	strbuf_addch(sb, (char)(v & 0xff));
	strbuf_addch(sb, (char)(v >> 8 & 0xff));
}

static void put32(struct strbuf *sb, uint32_t v)
{
	put16(sb, v & 0xffff);
	put16(sb, v >> 16);
}

/* ISO 3309, as in zip and PNG: reflected, polynomial 0xEDB88320. */
static uint32_t crc32_of(const unsigned char *s, size_t len)
{
	uint32_t crc = 0xffffffff;
	static const uint32_t nibble[16] = { 0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
					     0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
					     0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c };

	for (size_t i = 0; i < len; i++) {
		crc = nibble[(crc ^ s[i]) & 15] ^ crc >> 4;
		crc = nibble[(crc ^ (uint32_t)s[i] >> 4) & 15] ^ crc >> 4;
	}
	return ~crc;
}

void ray_package_init(struct ray_package *p, size_t max)
{
	strbuf_init(&p->zip);
	strbuf_init(&p->index);
	p->n = 0;
	p->max = max;
}

void ray_package_release(struct ray_package *p)
{
	strbuf_release(&p->zip);
	strbuf_release(&p->index);
}

static void put_common(struct strbuf *sb, uint32_t crc, size_t len, size_t name_len)
{
	put16(sb, 20); /* version needed */
	put16(sb, NAMES_UTF8);
	put16(sb, 0); /* stored */
	put16(sb, 0);
	put16(sb, DOS_DATE);
	put32(sb, crc);
	put32(sb, (uint32_t)len);
	put32(sb, (uint32_t)len);
	put16(sb, (unsigned)name_len);
	put16(sb, 0);
}

int ray_package_add(struct ray_package *p, const char *name, unsigned mode, const void *data, size_t len, struct err *e)
{
	size_t name_len = strlen(name), at = p->zip.len;
	uint32_t crc = crc32_of(data, len);

	if (p->n >= ENTRIES_MAX || len > p->max || p->zip.len + p->index.len + len + 2 * name_len + 200 > p->max)
		return err_set(
			e, -EFBIG,
			"what is to be sent is more than the %zu MiB (or %d files) that a Ray dashboard takes: put "
			"data where the nodes can read it, and name what is not needed in ray.runtime_env.excludes",
			p->max >> 20, ENTRIES_MAX);
	put32(&p->zip, 0x04034b50);
	put_common(&p->zip, crc, len, name_len);
	strbuf_addstr(&p->zip, name);
	strbuf_add(&p->zip, data, len);
	put32(&p->index, 0x02014b50);
	put16(&p->index, 3 << 8 | 20); /* made on Unix: modes count */
	put_common(&p->index, crc, len, name_len);
	put16(&p->index, 0);
	put16(&p->index, 0);
	put16(&p->index, 0);
	put32(&p->index, (uint32_t)(S_IFREG | (mode & 0777)) << 16);
	put32(&p->index, (uint32_t)at);
	strbuf_addstr(&p->index, name);
	p->n++;
	return 0;
}

static int add_file(struct ray_package *p, const char *path, const char *name, struct err *e)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	cleanup_strbuf struct strbuf data = STRBUF_INIT;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(e, -errno, "cannot read %s", path);
	if (!S_ISREG(st.st_mode))
		return 0;
	n = strbuf_read_fd(&data, fd, p->max);
	if (n < 0 && n != -EFBIG)
		return err_sys(e, (int)n, "cannot read %s", path);
	return ray_package_add(p, name, st.st_mode, data.buf, n < 0 ? p->max + 1 : data.len, e);
}

static bool excluded(const char *rel, const char *name, const json_t *excludes)
{
	static const char *const always[] = { ".git", ".venv", "venv", "__pycache__" };
	cleanup_free char *slash = xasprintf("/%s", rel);

	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		if (strcmp(name, always[i]) == 0)
			return true;
	for (size_t i = 0; i < json_array_size(excludes); i++) {
		cleanup_free char *pattern = xstrdup(json_string_value(json_array_get(excludes, i)));
		size_t len = pattern ? strlen(pattern) : 0;

		while (len && pattern[len - 1] == '/')
			pattern[--len] = '\0';
		if (len && (fnmatch(pattern, rel, FNM_PATHNAME) == 0 || fnmatch(pattern, name, 0) == 0 ||
			    fnmatch(pattern, slash, FNM_PATHNAME) == 0))
			return true;
	}
	return false;
}

/* Names as they were found. */
struct names {
	char **v;
	size_t n;
};

static void names_add(struct names *w, char *s)
{
	w->v = xrealloc(w->v, (w->n + 1) * sizeof(*w->v));
	w->v[w->n++] = s;
}

static void names_release(struct names *w)
{
	for (size_t i = 0; i < w->n; i++)
		free(w->v[i]);
	free(w->v);
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int look_into(const char *top, const char *dir, const json_t *excludes, struct names *dirs, struct names *files,
		     struct err *e)
{
	cleanup_free char *path = *dir ? xasprintf("%s/%s", top, dir) : xstrdup(top);
	DIR *d = opendir(path);
	struct dirent *de;

	if (!d)
		return err_sys(e, -errno, "cannot read %s", path);
	while ((de = readdir(d)) && files->n + dirs->n <= ENTRIES_MAX) {
		char *rel = *dir ? xasprintf("%s/%s", dir, de->d_name) : xstrdup(de->d_name);
		struct stat st, target;

		if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ||
		    excluded(rel, de->d_name, excludes) || fstatat(dirfd(d), de->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			free(rel);
		else if (S_ISDIR(st.st_mode))
			names_add(dirs, rel);
		else if (S_ISREG(st.st_mode) ||
			 (S_ISLNK(st.st_mode) && fstatat(dirfd(d), de->d_name, &target, 0) == 0 &&
			  S_ISREG(target.st_mode)))
			names_add(files, rel);
		else
			free(rel);
	}
	(void)closedir(d);
	return 0;
}

int ray_package_tree(struct ray_package *p, const char *path, const char *name, const json_t *excludes, struct err *e)
{
	struct names dirs = { 0 }, files = { 0 };
	struct stat st;
	int rc = 0;

	if (stat(path, &st) < 0)
		return err_sys(e, -errno, "%s", path);
	if (!S_ISDIR(st.st_mode))
		return add_file(p, path, name, e);
	names_add(&dirs, xstrdup(""));
	for (size_t i = 0; rc == 0 && i < dirs.n; i++)
		rc = look_into(path, dirs.v[i], excludes, &dirs, &files, e);
	qsort(files.v, files.n, sizeof(*files.v), by_name);
	for (size_t i = 0; rc == 0 && i < files.n; i++) {
		cleanup_free char *from = xasprintf("%s/%s", path, files.v[i]);
		cleanup_free char *to = *name ? xasprintf("%s/%s", name, files.v[i]) : xstrdup(files.v[i]);

		rc = add_file(p, from, to, e);
	}
	names_release(&dirs);
	names_release(&files);
	return rc;
}

char *ray_package_end(struct ray_package *p)
{
	size_t at = p->zip.len, len = p->index.len;
	cleanup_sha256 struct sha256 *s = sha256_new();
	char hex[SHA256_HEX];

	strbuf_addbuf(&p->zip, &p->index);
	put32(&p->zip, 0x06054b50);
	put32(&p->zip, 0);
	put16(&p->zip, p->n);
	put16(&p->zip, p->n);
	put32(&p->zip, (uint32_t)len);
	put32(&p->zip, (uint32_t)at);
	put16(&p->zip, 0);
	sha256_add(s, p->zip.buf, p->zip.len);
	sha256_hex(s, hex);
	return xasprintf("_ray_pkg_%.32s.zip", hex);
}
