/*
 * What forward.c (the set: listeners, waiting) and forward_conn.c (one connection: bytes) share.
 */
#ifndef BACKEND_FORWARD_IMPL_H
#define BACKEND_FORWARD_IMPL_H

#include "backend/base/list.h"
#include "backend/base/strbuf.h"
#include "backend/forward.h"
#include "backend/transport.h"

#define FORWARD_BUF 65536

struct target {           /* a place that is forwarded to */
	struct list node; /* forwards.targets */
	uint32_t owner;
	char *host;
	int port;
	int fd; /* listening, or -1: pairs only */
	int local_port;
	bool polled;          /* fd is in the epoll set */
	char *trouble, *told; /* why the last connection failed; the same as it was told */
	int64_t tell_at;      /* not before */
	struct list conns;
};

struct forward_buf {
	char *buf;
	size_t at, len;
};

struct conn {
	struct list node; /* target.conns */
	struct target *to;
	int fd;
	uint32_t polled;             /* events that the epoll set has of fd; 0: not in it */
	struct channel *ch;          /* NULL: waits for the connection, or for its turn */
	bool session;                /* ch is the program that stands in for a channel */
	int64_t deadline;            /* while it waits */
	struct strbuf intro;         /* sent before all else */
	struct strbuf noise;         /* of the program, its end */
	struct forward_buf up, down; /* from the socket; to it */
	bool fd_eof, eof_sent, ch_eof, fd_shut;
	bool heard; /* a byte came, so whatever ends it is no failure to connect */
};

struct forwards {
	const struct transport_ops *ops;
	const struct clock *clock;
	struct transport *t;
	int epfd;
	struct list targets;
	unsigned n_conns, n_sessions, max_sessions;
	bool forbidden;    /* this server forwards no ports */
	int64_t accept_at; /* out of descriptors until then; 0: not */
	void (*tell)(void *arg, uint32_t owner, const char *text);
	void *tell_arg;
};

enum conn_fate { CONN_GOES_ON, CONN_MORE, CONN_DONE, CONN_FAILED };

struct conn *conn_new(struct forwards *f, struct target *to, int fd);
/* Moves what can be moved. FAILED: the socket's peer is to see a reset; `trouble` of the target says why. */
enum conn_fate conn_step(struct forwards *f, struct conn *c);
void conn_close(struct forwards *f, struct conn *c, bool reset);

#endif
