/*
 * Writing tar archives. The list of entries is complete and sorted (a directory comes before what is in it) before the
 * first byte is given, and the size of the archive is the sum over it; a file that has another size when its turn comes
 * is an error. Formats: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block".
 */
#include "backend/tar.h"

#include "backend/base/hash.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 512
#define USTAR_SIZE_MAX 077777777777ull /* 11 octal digits */

struct entry {
	char *path; /* in the archive, relative */
	char *src;  /* on this machine: NULL for `path` beneath the base, else absolute */
	char *link; /* symbolic links */
	char type;  /* typeflag: '0' '2' '5' */
	mode_t mode;
	uint64_t size;
	int64_t mtime;
	long mtime_ns; /* for the print */
};

struct tar {
	int base;
	struct entry *v;
	size_t n, cap, next;
	uint64_t size;
	struct strbuf head; /* blocks that come before the current file's bytes */
	size_t head_pos;
	int fd;
	uint64_t left; /* bytes of the current file */
	size_t pad;
	bool ended;
};

struct ustar { /* POSIX.1-2017, ustar header block */
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], chksum[8], typeflag, linkname[100], magic[6],
		version[2], uname[32], gname[32], devmajor[8], devminor[8], prefix[155], unused[12];
};
_Static_assert(sizeof(struct ustar) == BLOCK, "a ustar header is one block");

bool tar_link_inside(const char *path, const char *target)
{
	long depth = 0;

	if (target[0] == '/' || target[0] == '\0')
		return false;
	for (const char *p = path; (p = strchr(p, '/')); p++)
		depth++;
	while (*target) {
		size_t n = strcspn(target, "/");

		if (n == 2 && target[0] == '.' && target[1] == '.')
			depth--;
		else if (n && !(n == 1 && target[0] == '.'))
			depth++;
		if (depth < 0)
			return false;
		target += n;
		target += *target == '/';
	}
	return true;
}

/* --- headers --- */

static void octal(char *field, size_t size, uint64_t v)
{
	field[size - 1] = '\0';
	for (size_t i = size - 1; i-- > 0; v /= 8)
		field[i] = (char)('0' + v % 8);
}

static void add_header(struct strbuf *out, const struct ustar *h)
{
	struct ustar copy = *h;
	unsigned sum = 0;

	memset(copy.chksum, ' ', sizeof(copy.chksum));
	for (size_t i = 0; i < BLOCK; i++)
		sum += ((const unsigned char *)&copy)[i];
	octal(copy.chksum, 7, sum);
	copy.chksum[7] = ' ';
	strbuf_add(out, &copy, sizeof(copy));
}

static void add_zeros(struct strbuf *out, size_t n)
{
	static const char zeros[BLOCK];

	for (; n; n -= n < BLOCK ? n : BLOCK)
		strbuf_add(out, zeros, n < BLOCK ? n : BLOCK);
}

static size_t padding(uint64_t size)
{
	return (size_t)((BLOCK - size % BLOCK) % BLOCK);
}

/* "LEN KEY=VALUE\n" where LEN counts itself. */
static void pax_record(struct strbuf *sb, const char *key, const char *value)
{
	size_t rest = strlen(key) + strlen(value) + 3, len = rest + 1;
	char digits[24];

	for (;;) {
		size_t want = rest + (size_t)snprintf(digits, sizeof(digits), "%zu", len);

		if (want == len)
			break;
		len = want;
	}
	strbuf_addf(sb, "%zu %s=%s\n", len, key, value);
}

static void init_header(struct ustar *h, char type, mode_t mode, uint64_t size, int64_t mtime)
{
	memset(h, 0, sizeof(*h));
	h->typeflag = type;
	octal(h->mode, sizeof(h->mode), mode);
	octal(h->uid, sizeof(h->uid), 0);
	octal(h->gid, sizeof(h->gid), 0);
	octal(h->size, sizeof(h->size), size <= USTAR_SIZE_MAX ? size : 0);
	octal(h->mtime, sizeof(h->mtime), mtime > 0 ? (uint64_t)mtime : 0);
	memcpy(h->magic, "ustar", 6);
	memcpy(h->version, "00", 2);
}

/* A name of up to 100 bytes, or split at a slash into a prefix of up to 155 and the rest. */
static bool put_name(struct ustar *h, const char *path)
{
	size_t len = strlen(path);

	if (len <= sizeof(h->name)) {
		memcpy(h->name, path, len);
		return true;
	}
	for (size_t i = len < sizeof(h->prefix) ? len - 1 : sizeof(h->prefix); i > 0; i--) {
		if (path[i] != '/' || len - i - 1 > sizeof(h->name) || len == i + 1)
			continue;
		memcpy(h->prefix, path, i);
		memcpy(h->name, path + i + 1, len - i - 1);
		return true;
	}
	memcpy(h->name, path, sizeof(h->name));
	return false;
}

static void entry_header(const struct entry *en, struct strbuf *out)
{
	struct strbuf pax = STRBUF_INIT;
	struct ustar h, x;
	char digits[24];

	init_header(&h, en->type, en->mode, en->size, en->mtime);
	if (!put_name(&h, en->path))
		pax_record(&pax, "path", en->path);
	if (en->link) {
		size_t n = strlen(en->link);

		if (n > sizeof(h.linkname))
			pax_record(&pax, "linkpath", en->link);
		memcpy(h.linkname, en->link, n < sizeof(h.linkname) ? n : sizeof(h.linkname));
	}
	if (en->size > USTAR_SIZE_MAX) {
		(void)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)en->size);
		pax_record(&pax, "size", digits);
	}
	if (pax.len) {
		init_header(&x, 'x', 0600, pax.len, en->mtime);
		memcpy(x.name, "././@PaxHeader", 14);
		add_header(out, &x);
		strbuf_add(out, pax.buf, pax.len);
		add_zeros(out, padding(pax.len));
	}
	add_header(out, &h);
	strbuf_release(&pax);
}

/* --- the list --- */

static void push(struct tar *t, struct entry en)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? t->cap * 2 : 32;
		t->v = xrealloc(t->v, t->cap * sizeof(*t->v));
	}
	t->v[t->n++] = en;
}

static const char *source(const struct entry *en)
{
	return en->src ? en->src : en->path; /* openat(2) and its like ignore the base for absolute paths */
}

static int leave_out(struct entry *en, int code)
{
	free(en->path);
	free(en->src);
	return code;
}

/* Takes `path` and `src`. 0 also when the entry is none that is wanted. */
static int add_entry(struct tar *t, char *path, char *src)
{
	struct entry en = { .path = path, .src = src };
	char target[4096];
	struct stat st;
	ssize_t n;

	if (fstatat(t->base, source(&en), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return leave_out(&en, errno == ENOENT ? 0 : -errno);
	en.mode = st.st_mode & 0777;
	en.mtime = st.st_mtim.tv_sec;
	en.mtime_ns = st.st_mtim.tv_nsec;
	if (S_ISREG(st.st_mode)) {
		en.type = '0';
		en.size = (uint64_t)st.st_size;
	} else if (S_ISDIR(st.st_mode)) {
		en.type = '5';
	} else if (S_ISLNK(st.st_mode)) {
		n = readlinkat(t->base, source(&en), target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		en.type = '2';
		en.link = tar_link_inside(path, target) ? xstrdup(target) : NULL;
	}
	if (!en.type || (en.type == '2' && !en.link))
		return leave_out(&en, 0);
	push(t, en);
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->path, ((const struct entry *)b)->path);
}

/* Appends the entries of one directory ("" is the base; `src` as in struct entry), sorted among themselves. */
static int list_dir(struct tar *t, const char *path, const char *src, struct err *e)
{
	int fd = openat(t->base, src ? src : *path ? path : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	size_t first = t->n;
	struct dirent *d;
	int rc = 0;
	DIR *dir;

	if (fd < 0)
		return err_sys(e, -errno, "cannot read the directory %s", *path ? path : ".");
	dir = fdopendir(fd);
	if (!dir) {
		rc = -errno;
		(void)close(fd);
		return err_sys(e, rc, "cannot read the directory %s", path);
	}
	while (rc == 0 && (d = readdir(dir))) {
		if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
			continue;
		if (t->n >= TAR_MAX_ENTRIES)
			rc = err_set(e, -EFBIG, "there are more than %d files to send", TAR_MAX_ENTRIES);
		else
			rc = add_entry(t, *path ? xasprintf("%s/%s", path, d->d_name) : xstrdup(d->d_name),
				       src ? xasprintf("%s/%s", src, d->d_name) : NULL);
	}
	(void)closedir(dir);
	if (t->n > first)
		qsort(t->v + first, t->n - first, sizeof(*t->v), by_name);
	return rc;
}

/* What the user named is sent, also by way of a link. */
static int add_extra(struct tar *t, const struct tar_extra *x)
{
	char *real = realpath(x->path, NULL);

	return add_entry(t, xstrdup(x->name), real ? real : xstrdup(x->path));
}

/* Breadth first: the list itself is the queue of directories, and a directory comes before what is in it. */
static int list_all(struct tar *t, const struct tar_extra *extra, size_t n_extra, struct err *e)
{
	int rc = t->base < 0 ? 0 : list_dir(t, "", NULL, e);

	for (size_t i = 0; rc == 0 && i < n_extra; i++) {
		if (access(extra[i].path, R_OK) < 0)
			rc = err_sys(e, -errno, "cannot read %s", extra[i].path);
		else
			rc = add_extra(t, &extra[i]);
	}
	for (size_t i = 0; rc == 0 && i < t->n; i++) {
		cleanup_free char *path = t->v[i].type == '5' ? xstrdup(t->v[i].path) : NULL;
		cleanup_free char *src = xstrdup(t->v[i].src);

		if (path)
			rc = list_dir(t, path, src, e);
	}
	return rc;
}

int tar_open(const char *dir, const struct tar_extra *extra, size_t n_extra, struct tar **out, struct err *e)
{
	struct tar *t = xcalloc(1, sizeof(*t));
	int rc;

	t->fd = -1;
	strbuf_init(&t->head);
	t->base = dir ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (t->base < 0 && (!n_extra || (dir && errno != ENOENT)))
		rc = err_sys(e, dir ? -errno : -ENOENT, "%s", dir ? dir : "nothing to send");
	else
		rc = list_all(t, extra, n_extra, e);
	if (rc < 0) {
		tar_close(t);
		return rc;
	}
	for (size_t i = 0; i < t->n; i++) {
		strbuf_reset(&t->head);
		entry_header(&t->v[i], &t->head);
		t->size += t->head.len + t->v[i].size + padding(t->v[i].size);
	}
	strbuf_reset(&t->head);
	t->size += (uint64_t)2 * BLOCK;
	*out = t;
	return 0;
}

void tar_close(struct tar *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n; i++) {
		free(t->v[i].path);
		free(t->v[i].src);
		free(t->v[i].link);
	}
	free(t->v);
	strbuf_release(&t->head);
	if (t->fd >= 0)
		(void)close(t->fd);
	if (t->base >= 0)
		(void)close(t->base);
	free(t);
}

size_t tar_count(const struct tar *t)
{
	return t->n;
}

uint64_t tar_size(const struct tar *t)
{
	return t->size;
}

uint64_t tar_print(const struct tar *t)
{
	struct strbuf sb = STRBUF_INIT;
	uint64_t print = 0;

	for (size_t i = 0; i < t->n; i++) {
		const struct entry *en = &t->v[i];

		strbuf_reset(&sb);
		strbuf_addf(&sb, "%016llx%c%o %llu %lld.%ld %s%c%s", (unsigned long long)print, en->type,
			    (unsigned)en->mode, (unsigned long long)en->size, (long long)en->mtime, en->mtime_ns,
			    en->path, 0, en->link ? en->link : "");
		print = hash_bytes(sb.buf, sb.len);
	}
	strbuf_release(&sb);
	return print;
}

/* --- the bytes --- */

static int open_file(struct tar *t, const struct entry *en, struct err *e)
{
	struct stat st;

	t->fd = openat(t->base, source(en), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (t->fd < 0)
		return err_sys(e, -errno, "cannot read %s", en->path);
	if (fstat(t->fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != en->size)
		return err_set(e, -ESTALE, "%s changed while it was being sent", en->path);
	return 0;
}

/* 1: there is something to copy; 0: the end. */
static int next_entry(struct tar *t, struct err *e)
{
	const struct entry *en;
	int rc = 0;

	strbuf_reset(&t->head);
	t->head_pos = 0;
	if (t->fd >= 0)
		(void)close(t->fd);
	t->fd = -1;
	if (t->ended)
		return 0;
	if (t->next == t->n) {
		t->ended = true;
		add_zeros(&t->head, (size_t)2 * BLOCK);
		return 1;
	}
	en = &t->v[t->next++];
	entry_header(en, &t->head);
	if (en->type == '0' && en->size)
		rc = open_file(t, en, e);
	t->left = en->size;
	t->pad = padding(en->size);
	return rc < 0 ? rc : 1;
}

static ssize_t file_bytes(struct tar *t, void *buf, size_t len, struct err *e)
{
	ssize_t n = read(t->fd, buf, len < t->left ? len : (size_t)t->left);

	if (n < 0)
		return err_sys(e, -errno, "cannot read %s", t->v[t->next - 1].path);
	if (n == 0)
		return err_set(e, -ESTALE, "%s became shorter while it was being sent", t->v[t->next - 1].path);
	t->left -= (uint64_t)n;
	return n;
}

ssize_t tar_read(struct tar *t, void *buf, size_t len, struct err *e)
{
	char *p = buf;
	size_t done = 0;

	while (done < len) {
		size_t room = len - done, n;
		ssize_t rc;

		if (t->head_pos < t->head.len) {
			n = t->head.len - t->head_pos < room ? t->head.len - t->head_pos : room;
			memcpy(p + done, t->head.buf + t->head_pos, n);
			t->head_pos += n;
		} else if (t->left) {
			rc = file_bytes(t, p + done, room, e);
			if (rc < 0)
				return rc;
			n = (size_t)rc;
		} else if (t->pad) {
			n = t->pad < room ? t->pad : room;
			memset(p + done, 0, n);
			t->pad -= n;
		} else {
			rc = next_entry(t, e);
			if (rc < 0)
				return rc;
			if (rc == 0)
				break;
			n = 0;
		}
		done += n;
	}
	return (ssize_t)done;
}

static size_t least(uint64_t n, uint64_t most)
{
	return (size_t)(n < most ? n : most);
}

int tar_skip(struct tar *t, uint64_t n, struct err *e)
{
	while (n) {
		size_t head = least(n, t->head.len - t->head_pos);
		uint64_t data = n - head < t->left ? n - head : t->left;
		size_t pad = least(n - head - data, t->pad);
		int rc;

		if (data && lseek(t->fd, (off_t)data, SEEK_CUR) < 0)
			return err_sys(e, -errno, "cannot read %s", t->v[t->next - 1].path);
		t->head_pos += head;
		t->left -= data;
		t->pad -= pad;
		n -= head + data + pad;
		rc = n ? next_entry(t, e) : 1;
		if (rc < 0)
			return rc;
		if (rc == 0)
			return err_set(e, -EINVAL, "the archive has fewer bytes");
	}
	return 0;
}
