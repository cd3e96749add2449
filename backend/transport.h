/*
 * A transport is one authenticated login and byte streams (channels) over it. It never blocks: every call does what
 * it can and says -EAGAIN; the owner polls. Used from one thread only. Channels of one transport share its descriptor.
 *
 * The owner's loop: poll(poll_fd, until next_deadline), step(), then read every channel it wants input of until
 * -EAGAIN, write what it has, again. Reading or writing one channel may take the input of another from the descriptor;
 * next_deadline is then in the past, so that the loop comes round at once. A channel that is not read for long is held
 * back by its window and delays no other; stdout and stderr share that window, so read both. What write accepted is
 * sent in order; it keeps a copy, there is nothing to repeat.
 */
#ifndef BACKEND_TRANSPORT_H
#define BACKEND_TRANSPORT_H

#include "backend/base/clock.h"
#include "backend/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct cluster_conf;
struct transport;
struct channel;

/* Why a login does not work, for the policy of trying again. */
enum transport_state {
	TRANSPORT_CONNECTING,
	TRANSPORT_READY,
	TRANSPORT_DOWN,    /* network: try again with back-off */
	TRANSPORT_REFUSED, /* credentials or host key: never try again until the user acts */
};

struct transport_ops {
	const char *name;
	/* Begins to connect to conf->hosts[host_index]; -errno only for what is wrong before the network (then the text
	   says what to do). */
	int (*open)(const struct cluster_conf *conf, size_t host_index, const struct clock *clock,
		    struct transport **out, struct err *e);
	/* Drives connecting, keepalives and incoming packets; call when the descriptor is ready or at next_deadline. */
	enum transport_state (*step)(struct transport *t, struct err *e);
	/* The descriptor and events (POLLIN, POLLOUT) to wait for; more than one descriptor never, and not always the
	   same one while connecting; -1 when there is none. */
	int (*poll_fd)(struct transport *t, short *events);
	int64_t (*next_deadline)(struct transport *t); /* monotonic us; INT64_MAX: none */
	/* One more channel: a command (given to the user's login shell by sshd), or with `subsystem` the subsystem of
	   that name, or with command NULL the login shell itself. Never blocks: the open goes on in step() and io
	   calls; -EAGAIN from io until it is there. */
	int (*channel_open)(struct transport *t, const char *command, bool subsystem, struct channel **out,
			    struct err *e);
	/* A stream to host:port as the server sees it (RFC 4254, 7.2); has no stderr. io says -EACCES where the server
	   forbids that, -ECONNREFUSED where nobody is there. */
	int (*channel_direct)(struct transport *t, const char *host, int port, struct channel **out, struct err *e);
	/* Bytes read or written; -EAGAIN; 0 from read: end of the stream; -EPIPE, -ECONNRESET, -EMFILE (the server
	   refuses another session), -EOPNOTSUPP (it refuses the command or subsystem): the channel is dead, close it
	   (after -EPIPE from write what the peer said before may still be read).
	 */
	ssize_t (*read)(struct channel *c, void *buf, size_t len);
	ssize_t (*read_stderr)(struct channel *c, void *buf, size_t len);
	ssize_t (*write)(struct channel *c, const void *buf, size_t len);
	/* Nothing will be written any more: the peer sees the end behind what was accepted. Reading goes on. */
	void (*send_eof)(struct channel *c);
	void (*channel_close)(struct channel *c);
	/* Closes everything at once, without waiting for the peer. */
	void (*close)(struct transport *t);
};

extern const struct transport_ops transport_ssh2_ops;

/* Words for the cluster's `status`: "libssh2 user@host:port key /path fingerprint ..."; borrowed. */
const char *transport_ssh2_describe(const struct transport *t);

#endif
