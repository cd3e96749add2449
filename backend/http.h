/*
 * HTTP requests of one thread, many at a time, none of which blocks (libcurl's multi interface). A request is answered
 * by exactly one call of its function, from http_step or http_free, with whatever came of it: an answer of the
 * server, or an errno where there was none before the deadline.
 *
 * Certificates are verified, always. Redirections are not followed: a token goes to the address that it was given for.
 * Neither tokens nor headers are ever logged, and no text of an error has them.
 */
#ifndef BACKEND_HTTP_H
#define BACKEND_HTTP_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_BODY_MAX ((size_t)16 << 20) /* of an answer, where the request names no other */

struct http;

/*
 * One connection to HOST:PORT as the other side of a tunnel sees it: its bytes are on `fd`, a connected socket that is
 * given away, also with a negative errno. Called from http_step.
 */
typedef int (*http_dial)(void *arg, const char *host, int port, int fd);

struct http_conf {
	const char *token;    /* "Authorization: Bearer" with each request; NULL: none */
	char *const *headers; /* "Name: value" lines besides, NULL-ended; may be NULL */
	const char *ca_file;  /* PEM; NULL: the system's */
	http_dial dial;       /* NULL: straight. Else names are for the other side to look up. */
	void *dial_arg;
};

struct http_request {
	const char *method; /* GET HEAD POST PUT DELETE */
	const char *url;
	const char *type; /* of the body, or NULL */
	const char *body; /* copied; NULL: none (POST and PUT send an empty one then) */
	size_t body_len;
	bool range; /* bytes from `offset` on, `length` of them */
	uint64_t offset, length;
	size_t body_max; /* 0: HTTP_BODY_MAX */
	int deadline_ms; /* in all; the connection alone gets at most 5 s of it */
};

struct http_answer {
	int code;         /* 0: the server answered; else a negative errno, and `text` says what happened */
	int status;       /* of HTTP; 0 when there was no answer */
	const char *text; /* "" with an answer */
	const char *body; /* never NULL; a NUL is behind its last byte */
	size_t len;
	int64_t total;    /* of the file, as Content-Range or (HEAD) Content-Length have it; -1: not said */
	int64_t modified; /* Last-Modified, seconds; -1: not said */
	int64_t date;     /* the server's clock (Date), seconds; -1: not said */
};

typedef void (*http_cb)(void *arg, const struct http_answer *a);

/* The strings of `conf` are copied. -ENOENT for a ca_file that cannot be read, -EINVAL for headers that are none. */
int http_new(const struct http_conf *conf, struct http **out, struct err *e);
/* Open requests are answered with -ECONNRESET. NULL is fine. */
void http_free(struct http *h);
void http_send(struct http *h, const struct http_request *rq, http_cb cb, void *arg);
size_t http_open(const struct http *h); /* requests on their way */
/* Moves bytes, calls back. */
void http_step(struct http *h);
/* Sleeps until something moves, `fd` is readable, or so many milliseconds are over. */
void http_wait(struct http *h, int fd, int timeout_ms);
/* The same with up to HTTP_WAIT_FDS descriptors; those below 0 are not waited for. */
#define HTTP_WAIT_FDS 4
struct pollfd;
void http_wait_fds(struct http *h, const struct pollfd *fds, unsigned n, int timeout_ms);

/* "http://HOST:PORT", "https://...", or HOST:PORT: the base without a slash at its end, for the caller to free; NULL
 * and a sentence for anything else. */
char *http_base(const char *text, struct err *e);
/* Where a URL leads: the caller frees the host, which is an IPv6 address only in brackets. False: nowhere. */
bool http_place(const char *url, char **host, int *port);
/* Appends `path` with everything but letters, digits and -._~/ as %XX. */
struct strbuf;
void http_add_path(struct strbuf *out, const char *path);

#endif
