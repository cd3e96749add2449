/*
 * See the header. Each transport is one login; its channels are in a list, so that a cut closes what they lead to.
 */
#include "tests/unit/lib_fake_tunnel.h"

#include "backend/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

struct channel {
	struct transport *t;
	int fd, error;
};

struct transport {
	const struct clock *clock;
	bool broken;
};

struct fake_tunnel fake_tunnel;

void fake_tunnel_clear(void)
{
	fake_tunnel.refuse = fake_tunnel.unreachable = fake_tunnel.cut = fake_tunnel.stall = false;
	fake_tunnel.logins = fake_tunnel.opens = fake_tunnel.names = 0;
	for (size_t i = 0; i < ARRAY_SIZE(fake_tunnel.hosts); i++)
		fake_tunnel.hosts[i] = 0;
}

static int fake_open(const struct cluster_conf *conf, size_t host, const struct clock *clock, struct transport **out,
		     struct err *e)
{
	(void)conf;
	fake_tunnel.logins++;
	fake_tunnel.hosts[host]++;
	if (fake_tunnel.unreachable)
		return err_set(e, -EHOSTUNREACH, "login: no route");
	*out = xcalloc(1, sizeof(**out));
	(*out)->clock = clock;
	return 0;
}

static enum transport_state fake_step(struct transport *t, struct err *e)
{
	if (fake_tunnel.refuse) {
		(void)err_set(e, -EKEYREJECTED, "login: the key is refused: ssh-copy-id");
		return TRANSPORT_REFUSED;
	}
	if (fake_tunnel.cut) {
		fake_tunnel.cut = false;
		t->broken = true;
	}
	if (!t->broken)
		return TRANSPORT_READY;
	(void)err_set(e, -ECONNRESET, "login: the connection was cut");
	return TRANSPORT_DOWN;
}

static int fake_poll_fd(struct transport *t, short *events)
{
	(void)t;
	*events = 0;
	return -1;
}

static int64_t fake_deadline(struct transport *t)
{
	return clock_mono(t->clock) + 2 * USEC_PER_MSEC;
}

static int fake_direct(struct transport *t, const char *host, int port, struct channel **out, struct err *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct channel *c = xcalloc(1, sizeof(*c));

	(void)e;
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	c->t = t;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(c->fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		c->error = -ECONNREFUSED;
	fake_tunnel.opens++;
	if (inet_addr(host) == INADDR_NONE)
		fake_tunnel.names++;
	*out = c;
	return 0;
}

static ssize_t fake_read(struct channel *c, void *buf, size_t len)
{
	ssize_t n;

	if (c->error)
		return c->error;
	if (fake_tunnel.stall)
		return -EAGAIN;
	n = recv(c->fd, buf, len, MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

static ssize_t fake_read_stderr(struct channel *c, void *buf, size_t len)
{
	(void)c;
	(void)buf;
	(void)len;
	return 0;
}

static ssize_t fake_write(struct channel *c, const void *buf, size_t len)
{
	ssize_t n;

	if (c->error)
		return c->error;
	if (fake_tunnel.stall)
		return -EAGAIN;
	n = send(c->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

static void fake_eof(struct channel *c)
{
	(void)shutdown(c->fd, SHUT_WR);
}

static void fake_channel_close(struct channel *c)
{
	(void)close(c->fd);
	free(c);
}

static void fake_close(struct transport *t)
{
	free(t);
}

const struct transport_ops transport_fake_tunnel_ops = {
	.name = "fake",
	.open = fake_open,
	.step = fake_step,
	.poll_fd = fake_poll_fd,
	.next_deadline = fake_deadline,
	.channel_direct = fake_direct,
	.read = fake_read,
	.read_stderr = fake_read_stderr,
	.write = fake_write,
	.send_eof = fake_eof,
	.channel_close = fake_channel_close,
	.close = fake_close,
};
