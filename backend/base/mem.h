/*
 * Memory and descriptors: allocation that ends the process when there is none (a worker that is out of
 * memory is replaced by the keeper, and nothing acknowledged is lost by that), and clean-up at scope's end.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

void *xmalloc(size_t size);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t size);
char *xstrdup(const char *s); /* NULL gives NULL */
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Frees *p and puts a copy of s there; s may be NULL, and may be inside *p. */
void str_set(char **p, const char *s);

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(const int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
}

#define cleanup_free __attribute__((cleanup(cleanup_freep)))
#define cleanup_close __attribute__((cleanup(cleanup_closep)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
