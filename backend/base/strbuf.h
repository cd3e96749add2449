/*
 * A growing byte buffer that always has a NUL behind its last byte, so that `buf` can be used as a string
 * when it holds no NUL itself. `buf` is never NULL.
 *
 *	struct strbuf sb = STRBUF_INIT;
 *	strbuf_addf(&sb, "%s=%d\n", key, value);
 *	...
 *	strbuf_release(&sb);		or  char *s = strbuf_detach(&sb, &len);
 */
#ifndef BASE_STRBUF_H
#define BASE_STRBUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct strbuf {
	char *buf;
	size_t len;
	size_t cap; /* private; 0 while buf is the shared empty string */
};

extern char strbuf_slop[1];

#define STRBUF_INIT                                                                                                    \
	{                                                                                                              \
		strbuf_slop, 0, 0                                                                                      \
	}

void strbuf_init(struct strbuf *sb);
void strbuf_release(struct strbuf *sb);              /* frees; the buffer is empty and usable afterwards */
void strbuf_reset(struct strbuf *sb);                /* length 0, memory kept */
void strbuf_setlen(struct strbuf *sb, size_t len);   /* shortens */
void strbuf_grow(struct strbuf *sb, size_t extra);   /* makes room for `extra` more bytes */
char *strbuf_detach(struct strbuf *sb, size_t *len); /* the caller frees the result; len may be NULL */

void strbuf_add(struct strbuf *sb, const void *data, size_t len);
void strbuf_addbuf(struct strbuf *sb, const struct strbuf *other);
void strbuf_addstr(struct strbuf *sb, const char *s);
void strbuf_addch(struct strbuf *sb, char c);
void strbuf_addf(struct strbuf *sb, const char *fmt, ...) __attribute__((format(printf, 2, 3), nonnull(2)));
void strbuf_vaddf(struct strbuf *sb, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0), nonnull(2)));
/* One line of several complaints, a newline before each but the first. Returns -EINVAL, for the caller to pass on. */
int strbuf_complain(struct strbuf *sb, const char *fmt, ...) __attribute__((format(printf, 2, 3), nonnull(2)));
void strbuf_remove(struct strbuf *sb, size_t pos, size_t len); /* cuts bytes out of the middle */

/* Appends the whole of a file, at most `max` bytes: the bytes added, or -EFBIG, or another negative errno. */
ssize_t strbuf_read_file(struct strbuf *sb, const char *path, size_t max);
/* The same from a descriptor, up to its end. */
ssize_t strbuf_read_fd(struct strbuf *sb, int fd, size_t max);

#define cleanup_strbuf __attribute__((cleanup(strbuf_release)))

#endif
