/*
 * Ports of a cluster's side, reached through a connection that is there: each connection to a listening port of this
 * machine's loopback, or one end of a socket pair, becomes a channel to HOST:PORT as the login node sees it ("direct-
 * tcpip", RFC 4254 7.2; `ssh -L`). Where the server forbids that, a small program in a session of its own carries the
 * bytes, a few at a time.
 *
 * A set of forwards belongs to one thread and one transport, and never blocks: the owner polls `forwards_fd` beside
 * the transport's descriptor and calls forwards_step in each round. Buffers are bounded; whoever does not read holds
 * back its own connection only. Listeners outlive the transport: a connection that is lost cuts those that are open,
 * later ones wait for the next one up to FORWARD_WAIT_S. A pair is cut for good.
 *
 * The owner (`uint32_t owner`: a run's number, or anything else) names what is dropped together.
 */
#ifndef BACKEND_FORWARD_H
#define BACKEND_FORWARD_H

#include "backend/base/clock.h"
#include "backend/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FORWARD_WAIT_S 20  /* for the connection to come back */
#define FORWARD_CONNS 128  /* open at once; more wait to be accepted */
#define FORWARD_SESSIONS 6 /* the same where each costs a session of the server (MaxSessions is 10, we have two) */

struct transport;
struct transport_ops;
struct forwards;

struct forwards *forwards_new(const struct transport_ops *ops, const struct clock *clock); /* NULL: no descriptors */
void forwards_free(struct forwards *f); /* closes all; NULL is fine */

/* The connection is up; or (NULL) about to be closed: its channels are closed now. */
void forwards_link(struct forwards *f, struct transport *t);

int forwards_fd(const struct forwards *f); /* readable when forwards_step has work */
/* Moves bytes. True: there is more to do at once. */
bool forwards_step(struct forwards *f);
int64_t forwards_deadline(const struct forwards *f); /* monotonic us; INT64_MAX: none */

/*
 * Listens on 127.0.0.1: on port `want` if that is free, else (or 0) on one that the kernel chooses; which, is in *out.
 * A forward of this owner that is there already is given again. -EADDRINUSE and the like, -EINVAL for what is no host
 * and port.
 */
int forward_listen(struct forwards *f, uint32_t owner, const char *host, int port, int want, int *out, struct err *e);

/*
 * One connection to host:port whose bytes are on `fd`, an end of a socketpair(AF_UNIX, SOCK_STREAM) that is given away,
 * also on failure. When it cannot be had or is cut, the other end sees the end of the stream (the reason is in
 * forward_trouble of that host and port until the next one).
 */
int forward_pair(struct forwards *f, uint32_t owner, const char *host, int port, int fd, struct err *e);

/* Closes a listener and its connections. -ENOENT: there is none. */
int forward_close(struct forwards *f, uint32_t owner, const char *host, int port);
void forwards_drop(struct forwards *f, uint32_t owner);

/*
 * Called in a step when what hinders a place has changed: `text` is as forward_trouble, NULL when it works again. A
 * place is told of every FORWARD_TELL_S at most.
 */
#define FORWARD_TELL_S 5
void forwards_tell(struct forwards *f, void (*cb)(void *arg, uint32_t owner, const char *text), void *arg);

/* Why the last connection there failed; NULL: it did not. Borrowed until the next step. */
const char *forward_trouble(const struct forwards *f, uint32_t owner, const char *host, int port);

/* "HOST:PORT", "[V6]:PORT" or "PORT" (host "" then). The host is a name or an address: letters, digits, `.-_:`. */
int forward_parse(const char *text, char **host, int *port, struct err *e);

#endif
