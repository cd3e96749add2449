/*
 * A name becomes a connected socket without blocking. Addresses are tried one after the other, each with its share of
 * the time that is left. Numeric addresses need no look-up; for a name getaddrinfo(3) runs in a detached thread,
 * because it cannot be given a deadline: it and the dial share a `struct resolve`, which the last of them frees.
 */
#include "backend/transport_ssh2.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

struct resolve {
	atomic_int refs;
	atomic_bool done;
	int fd; /* eventfd: readable when done */
	char *host;
	char port[8];
	struct addrinfo hints;
	struct addrinfo *result;
	int code; /* of getaddrinfo */
};

static void resolve_put(struct resolve *r)
{
	if (atomic_fetch_sub(&r->refs, 1) > 1)
		return;
	if (r->result)
		freeaddrinfo(r->result);
	(void)close(r->fd);
	free(r->host);
	free(r);
}

static void *resolve_main(void *arg)
{
	struct resolve *r = arg;
	uint64_t one = 1;

	r->code = getaddrinfo(r->host, r->port, &r->hints, &r->result);
	atomic_store(&r->done, true);
	(void)!write(r->fd, &one, sizeof(one));
	resolve_put(r);
	return NULL;
}

static int resolve_spawn(struct resolve *r)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;
	int rc;

	(void)sigfillset(&all);
	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&thread, &attr, resolve_main, r);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
	return -rc;
}

static int resolve_start(struct dial *d, int port, const struct addrinfo *hints, struct err *e)
{
	struct resolve *r = xcalloc(1, sizeof(*r));
	int rc;

	r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (r->fd < 0) {
		rc = -errno;
		free(r);
		return err_sys(e, rc, "cannot look up %s", d->host);
	}
	r->host = xstrdup(d->host);
	(void)snprintf(r->port, sizeof(r->port), "%d", port);
	r->hints = *hints;
	atomic_init(&r->refs, 2);
	atomic_init(&r->done, false);
	rc = resolve_spawn(r);
	if (rc < 0) {
		atomic_store(&r->refs, 1);
		resolve_put(r);
		return err_sys(e, rc, "cannot look up %s", d->host);
	}
	d->resolve = r;
	return 0;
}

int dial_start(struct dial *d, const struct clock *clock, const char *host, int port, enum ssh_family family,
	       int64_t timeout_us, struct err *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
	char text[8];

	memset(d, 0, sizeof(*d));
	d->clock = clock;
	d->host = host;
	d->fd = -1;
	d->deadline = clock_mono(clock) + timeout_us;
	hints.ai_family = family == SSH_FAMILY_INET ? AF_INET : family == SSH_FAMILY_INET6 ? AF_INET6 : AF_UNSPEC;
	(void)snprintf(text, sizeof(text), "%d", port);
	if (getaddrinfo(host, text, &hints, &d->addrs) == 0) {
		d->at = d->addrs;
		return 0;
	}
	d->addrs = NULL;
	hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG;
	return resolve_start(d, port, &hints, e);
}

void dial_stop(struct dial *d)
{
	if (d->resolve)
		resolve_put(d->resolve);
	if (d->addrs)
		freeaddrinfo(d->addrs);
	if (d->fd >= 0)
		(void)close(d->fd);
	d->resolve = NULL;
	d->addrs = d->at = NULL;
	d->fd = -1;
}

static int resolved(struct dial *d, struct err *e)
{
	struct resolve *r = d->resolve;
	int code;

	if (!atomic_load(&r->done)) {
		if (clock_mono(d->clock) < d->deadline)
			return -EAGAIN;
		return err_set(e, -ETIMEDOUT, "the address of %s was not found in time", d->host);
	}
	code = r->code;
	d->addrs = d->at = r->result;
	r->result = NULL;
	resolve_put(r);
	d->resolve = NULL;
	if (code)
		return err_set(e, -EHOSTUNREACH, "the address of %s cannot be found: %s", d->host, gai_strerror(code));
	return 0;
}

/* Begins to connect to d->at. */
static int begin(struct dial *d)
{
	int64_t now = clock_mono(d->clock);
	const struct addrinfo *ai;
	int left = 0, one = 1;

	for (ai = d->at; ai; ai = ai->ai_next)
		left++;
	d->next = now + (d->deadline - now) / left;
	d->fd = socket(d->at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (d->fd < 0)
		return -errno;
	(void)setsockopt(d->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(d->fd, d->at->ai_addr, d->at->ai_addrlen) < 0 && errno != EINPROGRESS)
		return -errno;
	return -EAGAIN;
}

static int progress(struct dial *d)
{
	struct pollfd p = { .fd = d->fd, .events = POLLOUT };
	socklen_t len = sizeof(int);
	int code = 0;

	if (poll(&p, 1, 0) <= 0)
		return clock_mono(d->clock) < d->next ? -EAGAIN : -ETIMEDOUT;
	if (getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
		return -errno;
	return -code;
}

int dial_step(struct dial *d, struct err *e)
{
	int rc;

	if (d->resolve) {
		rc = resolved(d, e);
		if (rc < 0)
			return rc;
	}
	while (d->at) {
		rc = d->fd < 0 ? begin(d) : 0;
		if (rc == 0 || rc == -EAGAIN)
			rc = progress(d);
		if (rc == -EAGAIN)
			return rc;
		if (rc == 0) {
			rc = d->fd;
			d->fd = -1;
			dial_stop(d);
			return rc;
		}
		if (d->fd >= 0)
			(void)close(d->fd);
		d->fd = -1;
		d->last = rc;
		d->at = d->at->ai_next;
	}
	return err_sys(e, d->last ? d->last : -EHOSTUNREACH, "cannot connect to %s", d->host);
}

int dial_fd(const struct dial *d, short *events)
{
	*events = d->resolve ? POLLIN : POLLOUT;
	return d->resolve ? d->resolve->fd : d->fd;
}

int64_t dial_deadline(const struct dial *d)
{
	if (d->resolve)
		return d->deadline;
	return d->fd >= 0 ? d->next : 0;
}
