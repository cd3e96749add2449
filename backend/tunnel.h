/*
 * A login to one of a cluster's hosts that is kept up, and connections through it to ports as that host sees them
 * (forward.h). For clusters that are spoken to by HTTP: tunnel_dial is an http_dial (http.h).
 *
 * One login carries all connections. One that is lost is tried again by itself, later and later, one host after the
 * other; a refusal (key, host key) is not, until tunnel_reconnect. Connections that were open are cut with it. Belongs
 * to one thread and never blocks.
 */
#ifndef BACKEND_TUNNEL_H
#define BACKEND_TUNNEL_H

#include "backend/base/clock.h"
#include "backend/config.h"
#include "backend/transport.h"

#include <poll.h>

#define TUNNEL_FDS 2

enum tunnel_state { TUNNEL_DOWN, TUNNEL_CONNECTING, TUNNEL_UP, TUNNEL_REFUSED };

struct tunnel_conf {
	const struct transport_ops *ops;
	const char *(*describe)(const struct transport *); /* may be NULL */
	const struct cluster_conf *cluster;                /* borrowed */
	const struct clock *clock;
	int64_t backoff_min, backoff_max; /* microseconds; 0: those of other clusters */
};

struct tunnel;

struct tunnel *tunnel_new(const struct tunnel_conf *conf); /* NULL: no descriptors */
void tunnel_free(struct tunnel *t);                        /* closes all; NULL is fine */
/* Connects, moves bytes. True: there is more to do at once. */
bool tunnel_step(struct tunnel *t);
enum tunnel_state tunnel_state(const struct tunnel *t);
/* Up: to whom, and how. Else why not; "" while nothing was tried. Borrowed until the next step. */
const char *tunnel_text(const struct tunnel *t);
/* Tries now; forgets a refusal. */
void tunnel_reconnect(struct tunnel *t);
/* What poll(2) is to wait for besides; how many of TUNNEL_FDS. */
unsigned tunnel_fds(struct tunnel *t, struct pollfd *p);
int64_t tunnel_deadline(const struct tunnel *t); /* monotonic us; INT64_MAX: none */

/* The bytes on `fd`, which is given away, go to host:port; -ENOTCONN while the tunnel is not up. `arg` is the tunnel.
 */
int tunnel_dial(void *arg, const char *host, int port, int fd);
/* Why the last connection to that place failed, or NULL. Borrowed until the next step. */
const char *tunnel_trouble(const struct tunnel *t, const char *host, int port);

#endif
