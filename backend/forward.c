/*
 * The set of forwards: places, their listening sockets, and which connections may begin.
 *
 * Invariants: a place is in the set once per owner; every connection belongs to one place; the epoll set holds the
 * descriptors that are waited for and nothing else, so that it is readable only when a step has something to do. A
 * listener is taken out of it while no more connections may begin: they wait in the kernel's queue.
 */
#include "backend/forward_impl.h"

#include "backend/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define BACKLOG 64
#define READY_MAX 16
#define NO_DESCRIPTORS_US USEC_PER_SEC

/* --- places --- */

static struct target *find(const struct forwards *f, uint32_t owner, const char *host, int port)
{
	for (struct list *n = f->targets.next; n != &f->targets; n = n->next) {
		struct target *t = container_of(n, struct target, node);

		if (t->owner == owner && t->port == port && strcmp(t->host, host) == 0)
			return t;
	}
	return NULL;
}

static struct target *obtain(struct forwards *f, uint32_t owner, const char *host, int port)
{
	struct target *t = find(f, owner, host, port);

	if (t)
		return t;
	t = xcalloc(1, sizeof(*t));
	t->owner = owner;
	t->host = xstrdup(host);
	t->port = port;
	t->fd = -1;
	list_init(&t->conns);
	list_add_tail(&f->targets, &t->node);
	return t;
}

static void drop(struct forwards *f, struct target *t)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &t->conns)
		conn_close(f, container_of(n, struct conn, node), true);
	if (t->fd >= 0)
		(void)close(t->fd);
	list_del(&t->node);
	free(t->host);
	free(t->trouble);
	free(t->told);
	free(t);
}

void forwards_drop(struct forwards *f, uint32_t owner)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &f->targets)
		if (container_of(n, struct target, node)->owner == owner)
			drop(f, container_of(n, struct target, node));
}

int forward_close(struct forwards *f, uint32_t owner, const char *host, int port)
{
	struct target *t = find(f, owner, host, port);

	if (!t)
		return -ENOENT;
	drop(f, t);
	return 0;
}

const char *forward_trouble(const struct forwards *f, uint32_t owner, const char *host, int port)
{
	const struct target *t = find(f, owner, host, port);

	return t ? t->trouble : NULL;
}

/* --- names --- */

static bool host_ok(const char *host)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:";

	return strlen(host) < 256 && host[strspn(host, letters)] == '\0' && host[0] != '-';
}

int forward_parse(const char *text, char **host, int *port, struct err *e)
{
	const char *colon = strrchr(text, ':'), *digits = colon ? colon + 1 : text;
	size_t n = colon ? (size_t)(colon - text) : 0;
	cleanup_free char *name = NULL;
	char *end;
	long v;

	errno = 0;
	v = *digits >= '0' && *digits <= '9' ? strtol(digits, &end, 10) : 0;
	if (v < 1 || v > 65535 || *end)
		return err_set(e, -EINVAL, "'%.100s' is no port: PORT or HOST:PORT", text);
	if (n > 1 && text[0] == '[' && text[n - 1] == ']')
		name = xstrndup(text + 1, n - 2);
	else
		name = xstrndup(text, n);
	if ((colon && !*name) || !host_ok(name) || (strchr(name, ':') && text[0] != '['))
		return err_set(e, -EINVAL, "'%.100s' names no host: HOST:PORT, or [ADDRESS]:PORT", text);
	*port = (int)v;
	*host = name;
	name = NULL;
	return 0;
}

/* --- listening --- */

static int bind_to(int fd, int port, int *out)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	socklen_t len = sizeof(a);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return -errno;
	*out = ntohs(a.sin_port);
	return 0;
}

/* The descriptor. SO_REUSEADDR: an earlier worker's connections may still be in TIME_WAIT (socket(7)). */
static int listen_on(int port, int *out)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1, rc;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	rc = bind_to(fd, port, out);
	if (rc == 0)
		return fd;
	(void)close(fd);
	return rc;
}

int forward_listen(struct forwards *f, uint32_t owner, const char *host, int port, int want, int *out, struct err *e)
{
	struct target *t;
	int fd = -1;

	if (!*host || !host_ok(host) || port < 1 || port > 65535)
		return err_set(e, -EINVAL, "%.100s:%d is no host and port", host, port);
	t = obtain(f, owner, host, port);
	if (t->fd < 0) {
		if (want > 0 && want <= 65535)
			fd = listen_on(want, &t->local_port);
		if (fd < 0)
			fd = listen_on(0, &t->local_port);
		if (fd < 0)
			return err_sys(e, fd, "cannot listen on 127.0.0.1");
		t->fd = fd;
	}
	*out = t->local_port;
	return 0;
}

int forward_pair(struct forwards *f, uint32_t owner, const char *host, int port, int fd, struct err *e)
{
	int flags = fcntl(fd, F_GETFL);

	if (!*host || !host_ok(host) || port < 1 || port > 65535 || f->n_conns >= FORWARD_CONNS || flags < 0 ||
	    fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		(void)close(fd);
		return f->n_conns >= FORWARD_CONNS
			       ? err_set(e, -EMFILE, "%d forwarded connections are open already", FORWARD_CONNS)
			       : err_set(e, -EINVAL, "%.100s:%d is no host and port", host, port);
	}
	(void)conn_new(f, obtain(f, owner, host, port), fd);
	return 0;
}

/* --- the step --- */

static void accept_all(struct forwards *f, struct target *t)
{
	int fd, one = 1;

	while (f->n_conns < FORWARD_CONNS) {
		fd = accept4(t->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
			f->accept_at = clock_mono(f->clock) + NO_DESCRIPTORS_US;
		if (fd < 0)
			return;
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		(void)conn_new(f, t, fd);
	}
}

static void set_polled(struct forwards *f)
{
	bool open = f->n_conns < FORWARD_CONNS && !f->accept_at;

	for (struct list *n = f->targets.next; n != &f->targets; n = n->next) {
		struct target *t = container_of(n, struct target, node);
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = t };

		if (t->fd < 0 || t->polled == open)
			continue;
		(void)epoll_ctl(f->epfd, open ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, t->fd, &ev);
		t->polled = open;
	}
}

static void accept_ready(struct forwards *f)
{
	struct epoll_event ev[READY_MAX];
	int n = epoll_wait(f->epfd, ev, READY_MAX, 0);

	for (int i = 0; i < n; i++)
		if (ev[i].data.ptr)
			accept_all(f, ev[i].data.ptr);
}

static bool step_target(struct forwards *f, struct target *t)
{
	int64_t now = clock_mono(f->clock);
	struct list *n, *tmp;
	bool more = false;

	list_for_each_safe (n, tmp, &t->conns) {
		struct conn *c = container_of(n, struct conn, node);
		enum conn_fate fate = conn_step(f, c);

		more |= fate == CONN_MORE;
		if (fate == CONN_DONE || fate == CONN_FAILED) {
			conn_close(f, c, fate == CONN_FAILED);
		} else if (!c->ch && now >= c->deadline) {
			str_set(&t->trouble, f->t ? "too many connections are open already"
						  : "there is no connection to the cluster");
			conn_close(f, c, true);
		}
	}
	return more;
}

static bool to_be_told(const struct forwards *f, const struct target *t)
{
	return f->tell && strcmp(t->trouble ? t->trouble : "", t->told ? t->told : "") != 0;
}

static void tell(struct forwards *f, struct target *t)
{
	int64_t now = clock_mono(f->clock);

	if (!to_be_told(f, t) || now < t->tell_at)
		return;
	str_set(&t->told, t->trouble);
	t->tell_at = now + FORWARD_TELL_S * (int64_t)USEC_PER_SEC;
	f->tell(f->tell_arg, t->owner, t->told);
}

void forwards_tell(struct forwards *f, void (*cb)(void *arg, uint32_t owner, const char *text), void *arg)
{
	f->tell = cb;
	f->tell_arg = arg;
}

bool forwards_step(struct forwards *f)
{
	bool more = false;

	if (f->accept_at && clock_mono(f->clock) >= f->accept_at)
		f->accept_at = 0;
	set_polled(f);
	accept_ready(f);
	for (struct list *n = f->targets.next; n != &f->targets; n = n->next) {
		more |= step_target(f, container_of(n, struct target, node));
		tell(f, container_of(n, struct target, node));
	}
	set_polled(f);
	return more;
}

int64_t forwards_deadline(const struct forwards *f)
{
	int64_t at = f->accept_at ? f->accept_at : INT64_MAX;

	for (const struct list *n = f->targets.next; n != &f->targets; n = n->next) {
		const struct target *t = container_of(n, const struct target, node);

		if (to_be_told(f, t) && t->tell_at < at)
			at = t->tell_at;
		for (const struct list *m = t->conns.next; m != &t->conns; m = m->next) {
			const struct conn *c = container_of(m, const struct conn, node);

			if (!c->ch && c->deadline < at)
				at = c->deadline;
		}
	}
	return at;
}

int forwards_fd(const struct forwards *f)
{
	return f->epfd;
}

/* --- life --- */

void forwards_link(struct forwards *f, struct transport *t)
{
	struct list *n, *m, *tmp;

	for (n = f->targets.next; n != &f->targets; n = n->next) {
		struct target *to = container_of(n, struct target, node);

		list_for_each_safe (m, tmp, &to->conns) {
			struct conn *c = container_of(m, struct conn, node);

			if (!c->ch)
				continue;
			str_set(&to->trouble, "the connection to the cluster was lost");
			conn_close(f, c, true);
		}
	}
	f->t = t;
	f->forbidden = false;
	f->max_sessions = FORWARD_SESSIONS;
}

struct forwards *forwards_new(const struct transport_ops *ops, const struct clock *clock)
{
	struct forwards *f = xcalloc(1, sizeof(*f));

	f->ops = ops;
	f->clock = clock;
	f->max_sessions = FORWARD_SESSIONS;
	list_init(&f->targets);
	f->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (f->epfd >= 0)
		return f;
	free(f);
	return NULL;
}

void forwards_free(struct forwards *f)
{
	struct list *n, *tmp;

	if (!f)
		return;
	list_for_each_safe (n, tmp, &f->targets)
		drop(f, container_of(n, struct target, node));
	(void)close(f->epfd);
	free(f);
}
