/*
 * A TCP proxy for tests: the network between a mount and its login node, with a delay, a rate and faults.
 *
 *	proxy LISTEN TARGET [--delay MS] [--rate BYTES/S] [--stats FILE] [--control FIFO]
 *
 * Both ports are on 127.0.0.1; LISTEN 0 takes a free one, which FILE tells. One thread and one poll loop. Each
 *connection has two directions; a direction is a queue of chunks, each with the time at which it may go on. Bytes are
 *therefore never reordered, and a direction that holds too much stops reading, as a network does.
 *
 * FILE holds `key value` lines and is replaced when something changed. `flips` counts how often data from the client
 * followed data from the server: the round trips that a conversation needed. Commands, one a line, to the FIFO (made
 * when it is missing): cut (reset all connections), stall (forward nothing), refuse (no new connections), go (ends
 *stall and refuse), delay MS, rate N, reset (the counters), quit. `commands` in FILE says how many have taken effect.
 */
#include "backend/base/clock.h"
#include "backend/base/list.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { CHUNK = 16 * 1024, HELD_MAX = 4 * 1024 * 1024, CONNS_MAX = 1000, STATS_PAUSE = 5 * USEC_PER_MSEC };

struct chunk {
	struct list node;
	int64_t due;
	size_t len, sent;
	char data[];
};

/* Bytes that came from `from` and go to `to`. */
struct direction {
	struct list chunks;
	size_t held;
	int64_t line_free; /* when the line has sent what is before: for the rate */
	bool ended;        /* the source sent EOF */
	bool shut;         /* and that was passed on */
};

struct conn {
	struct list node;
	int client, server;
	struct direction up, down; /* client to server, and back */
	bool server_spoke;         /* the last data came from the server */
	bool dead;
};

static struct {
	int listener, control;
	unsigned listen_port, target_port;
	int64_t delay, rate;
	bool stalled, refusing, dirty, quit;
	int64_t stats_due; /* not before: a file for every packet would be what is measured */
	const char *stats_path, *control_path;
	long connections, open, flips, commands;
	long long client_bytes, server_bytes;
	struct list conns;
	struct strbuf line; /* of the control FIFO, not complete yet */
} proxy = { .listener = -1, .control = -1, .conns = LIST_INIT(proxy.conns), .line = STRBUF_INIT };

static int64_t now(void)
{
	return clock_mono(&clock_system);
}

static void die(const char *what)
{
	fprintf(stderr, "proxy: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long long number(const char *text, const char *what)
{
	char *end;
	long long n;

	errno = 0;
	n = strtoll(text, &end, 10);
	if (errno || end == text || *end || n < 0) {
		errno = EINVAL;
		die(what);
	}
	return n;
}

/* --- sockets --- */

static struct sockaddr_in loopback(unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

static int open_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		die("socket");
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

static void start_listening(void)
{
	struct sockaddr_in a = loopback(proxy.listen_port);
	socklen_t len = sizeof(a);
	int one = 1;

	if (proxy.listener >= 0)
		return;
	proxy.listener = open_socket();
	(void)setsockopt(proxy.listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(proxy.listener, (struct sockaddr *)&a, len) < 0 || listen(proxy.listener, 128) < 0)
		die("cannot listen");
	if (getsockname(proxy.listener, (struct sockaddr *)&a, &len) < 0)
		die("getsockname");
	proxy.listen_port = ntohs(a.sin_port);
}

static void stop_listening(void)
{
	if (proxy.listener >= 0)
		(void)close(proxy.listener);
	proxy.listener = -1;
}

static void direction_init(struct direction *d)
{
	*d = (struct direction){ 0 };
	list_init(&d->chunks);
}

static void accept_conn(void)
{
	struct sockaddr_in a = loopback(proxy.target_port);
	struct conn *c;
	int one = 1, fd = accept4(proxy.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	c = xcalloc(1, sizeof(*c));
	c->client = fd;
	c->server = open_socket();
	direction_init(&c->up);
	direction_init(&c->down);
	list_add_tail(&proxy.conns, &c->node);
	proxy.connections++;
	proxy.open++;
	proxy.dirty = true;
	if (connect(c->server, (struct sockaddr *)&a, sizeof(a)) < 0 && errno != EINPROGRESS)
		c->dead = true;
}

static void free_chunks(struct direction *d)
{
	struct list *n;

	while ((n = list_pop(&d->chunks)))
		free(container_of(n, struct chunk, node));
}

/* A connection that broke is reset, so that the peers see an error and not a polite end. */
static void close_conn(struct conn *c)
{
	struct linger reset = { 1, 0 };

	if (c->dead) {
		(void)setsockopt(c->client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		(void)setsockopt(c->server, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	}
	(void)close(c->client);
	(void)close(c->server);
	free_chunks(&c->up);
	free_chunks(&c->down);
	list_del(&c->node);
	free(c);
	proxy.open--;
	proxy.dirty = true;
}

/* --- data --- */

static bool may_read(const struct direction *d)
{
	return !proxy.stalled && !d->ended && d->held < HELD_MAX;
}

static bool may_write(const struct direction *d, int64_t t)
{
	if (proxy.stalled || list_empty(&d->chunks))
		return false;
	return container_of(d->chunks.next, struct chunk, node)->due <= t;
}

static void count(struct conn *c, const struct direction *d, size_t len)
{
	if (d == &c->up) {
		proxy.client_bytes += (long long)len;
		proxy.flips += c->server_spoke;
		c->server_spoke = false;
	} else {
		proxy.server_bytes += (long long)len;
		c->server_spoke = true;
	}
	proxy.dirty = true;
}

static void read_from(struct conn *c, struct direction *d, int fd)
{
	struct chunk *k = xmalloc(sizeof(*k) + CHUNK);
	ssize_t n = read(fd, k->data, CHUNK);
	int64_t t = now();

	if (n <= 0) {
		free(k);
		if (n == 0)
			d->ended = true;
		else if (errno != EAGAIN && errno != EINTR)
			c->dead = true;
		return;
	}
	list_init(&k->node);
	k->len = (size_t)n;
	k->sent = 0;
	if (d->line_free < t)
		d->line_free = t;
	if (proxy.rate)
		d->line_free += n * USEC_PER_SEC / proxy.rate;
	k->due = d->line_free + proxy.delay;
	list_add_tail(&d->chunks, &k->node);
	d->held += k->len;
	count(c, d, k->len);
}

static void write_to(struct conn *c, struct direction *d, int fd)
{
	while (may_write(d, now())) {
		struct chunk *k = container_of(d->chunks.next, struct chunk, node);
		ssize_t n = send(fd, k->data + k->sent, k->len - k->sent, MSG_NOSIGNAL);

		if (n < 0) {
			if (errno != EAGAIN && errno != EINTR)
				c->dead = true;
			return;
		}
		k->sent += (size_t)n;
		d->held -= (size_t)n;
		if (k->sent < k->len)
			return;
		list_del(&k->node);
		free(k);
	}
}

static void pass_end_on(struct direction *d, int fd)
{
	if (!d->ended || d->shut || proxy.stalled || !list_empty(&d->chunks))
		return;
	(void)shutdown(fd, SHUT_WR);
	d->shut = true;
}

/* --- control and counters --- */

static void cut(void)
{
	struct list *pos, *tmp;

	list_for_each_safe (pos, tmp, &proxy.conns) {
		struct conn *c = container_of(pos, struct conn, node);

		c->dead = true;
		close_conn(c);
	}
}

static void command(const char *line)
{
	if (!strcmp(line, "cut")) {
		cut();
	} else if (!strcmp(line, "stall")) {
		proxy.stalled = true;
	} else if (!strcmp(line, "refuse")) {
		proxy.refusing = true;
		stop_listening();
	} else if (!strcmp(line, "go")) {
		proxy.stalled = false;
		proxy.refusing = false;
		start_listening();
	} else if (!strncmp(line, "delay ", 6)) {
		proxy.delay = number(line + 6, "delay") * USEC_PER_MSEC;
	} else if (!strncmp(line, "rate ", 5)) {
		proxy.rate = number(line + 5, "rate");
	} else if (!strcmp(line, "reset")) {
		proxy.connections = proxy.flips = 0;
		proxy.client_bytes = proxy.server_bytes = 0;
	} else if (!strcmp(line, "quit")) {
		proxy.quit = true;
	} else {
		fprintf(stderr, "proxy: unknown command '%s'\n", line);
		return;
	}
	proxy.commands++;
	proxy.dirty = true;
}

static void read_commands(void)
{
	char buf[256], *end;
	ssize_t n = read(proxy.control, buf, sizeof(buf));

	if (n <= 0)
		return;
	strbuf_add(&proxy.line, buf, (size_t)n);
	while ((end = strchr(proxy.line.buf, '\n'))) {
		*end = '\0';
		command(proxy.line.buf);
		strbuf_remove(&proxy.line, 0, (size_t)(end - proxy.line.buf) + 1);
	}
}

static void write_stats(void)
{
	cleanup_free char *tmp = NULL;
	FILE *f;

	proxy.dirty = false;
	proxy.stats_due = now() + STATS_PAUSE;
	if (!proxy.stats_path)
		return;
	tmp = xasprintf("%s.new", proxy.stats_path);
	f = fopen(tmp, "we");
	if (!f)
		die(tmp);
	fprintf(f,
		"port %u\nconnections %ld\nopen %ld\nflips %ld\nclient_bytes %lld\nserver_bytes %lld\ncommands %ld\n",
		proxy.listen_port, proxy.connections, proxy.open, proxy.flips, proxy.client_bytes, proxy.server_bytes,
		proxy.commands);
	if (fclose(f) || rename(tmp, proxy.stats_path) < 0)
		die(proxy.stats_path);
}

/* --- the loop --- */

static void want(struct pollfd *p, int fd, bool in, bool out)
{
	/* A negative descriptor is skipped: else POLLHUP of an ended side would make the loop spin. */
	*p = (struct pollfd){ .fd = in || out ? fd : -1, .events = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0)) };
}

/* The poll set: listener, control, then two for each connection. Returns how long to wait in ms. */
static int prepare(struct pollfd *set, size_t *n)
{
	int64_t t = now(), wake = INT64_MAX;
	struct list *pos, *tmp;

	want(&set[0], proxy.listener, proxy.listener >= 0 && proxy.open < CONNS_MAX, false);
	want(&set[1], proxy.control, proxy.control >= 0, false);
	*n = 2;
	list_for_each_safe (pos, tmp, &proxy.conns) {
		struct conn *c = container_of(pos, struct conn, node);
		const struct direction *both[] = { &c->up, &c->down };
		size_t i;

		want(&set[(*n)++], c->client, may_read(&c->up), may_write(&c->down, t));
		want(&set[(*n)++], c->server, may_read(&c->down), may_write(&c->up, t));
		for (i = 0; i < 2 && !proxy.stalled; i++)
			if (!list_empty(&both[i]->chunks)) {
				int64_t due = container_of(both[i]->chunks.next, struct chunk, node)->due;

				if (due > t && due < wake)
					wake = due;
			}
	}
	if (proxy.dirty && proxy.stats_due < wake)
		wake = proxy.stats_due;
	if (wake == INT64_MAX)
		return -1;
	return wake <= t ? 0 : (int)((wake - t + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
}

static void serve_conn(struct conn *c, short client, short server)
{
	const short readable = POLLIN | POLLHUP | POLLERR;

	if ((client & readable) && may_read(&c->up))
		read_from(c, &c->up, c->client);
	if ((server & readable) && may_read(&c->down))
		read_from(c, &c->down, c->server);
	write_to(c, &c->up, c->server);
	write_to(c, &c->down, c->client);
	pass_end_on(&c->up, c->server);
	pass_end_on(&c->down, c->client);
	if (c->dead || (c->up.shut && c->down.shut))
		close_conn(c);
}

static void serve_all(const struct pollfd *set)
{
	struct list *pos, *tmp;
	size_t i = 2;

	/* Connections that are accepted later in this round come behind those of the set. */
	list_for_each_safe (pos, tmp, &proxy.conns) {
		serve_conn(container_of(pos, struct conn, node), set[i].revents, set[i + 1].revents);
		i += 2;
	}
	if (set[0].revents)
		accept_conn();
	if (set[1].revents)
		read_commands();
}

static void loop(void)
{
	static struct pollfd set[2 + 2 * CONNS_MAX];
	size_t n;

	while (!proxy.quit) {
		int timeout;

		if (proxy.dirty && now() >= proxy.stats_due)
			write_stats();
		timeout = prepare(set, &n);
		if (poll(set, (nfds_t)n, timeout) < 0 && errno != EINTR)
			die("poll");
		serve_all(set);
	}
	write_stats();
}

static void parse_options(int argc, char **argv)
{
	int i;

	if (argc < 3 || argc % 2 == 0) {
		fprintf(stderr,
			"usage: proxy LISTEN TARGET [--delay MS] [--rate BYTES/S] [--stats FILE] [--control FIFO]\n");
		exit(2);
	}
	proxy.listen_port = (unsigned)number(argv[1], "LISTEN");
	proxy.target_port = (unsigned)number(argv[2], "TARGET");
	for (i = 3; i < argc; i += 2) {
		if (!strcmp(argv[i], "--delay"))
			proxy.delay = number(argv[i + 1], "--delay") * USEC_PER_MSEC;
		else if (!strcmp(argv[i], "--rate"))
			proxy.rate = number(argv[i + 1], "--rate");
		else if (!strcmp(argv[i], "--stats"))
			proxy.stats_path = argv[i + 1];
		else if (!strcmp(argv[i], "--control"))
			proxy.control_path = argv[i + 1];
		else {
			fprintf(stderr, "proxy: unknown option %s\n", argv[i]);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	parse_options(argc, argv);
	(void)signal(SIGPIPE, SIG_IGN);
	if (proxy.control_path) {
		if (mkfifo(proxy.control_path, 0600) < 0 && errno != EEXIST)
			die(proxy.control_path);
		/* Open for writing too, or it would be at its end whenever nobody writes. */
		proxy.control = open(proxy.control_path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (proxy.control < 0)
			die(proxy.control_path);
	}
	start_listening();
	proxy.dirty = true;
	loop();
	cut();
	strbuf_release(&proxy.line);
	return 0;
}
