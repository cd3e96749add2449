/*
 * The login of a tunnel: it comes up, is tried again, is not tried again when it was refused; connections through it.
 */
#include "tests/unit/lib_fake_tunnel.h"

#include "backend/base/mem.h"
#include "backend/tunnel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define PATIENCE_US (30 * (int64_t)USEC_PER_SEC)

static char *hosts[] = { (char *)"one", (char *)"two", NULL };
static struct cluster_conf conf = { .name = (char *)"lab", .hosts = hosts };
static struct tunnel *tunnel;
static int server, port;

static void turn(void)
{
	struct pollfd p[TUNNEL_FDS];
	unsigned n = tunnel_fds(tunnel, p);

	if (!tunnel_step(tunnel))
		(void)poll(p, n, 1);
}

#define WAIT(cond)                                                                                                     \
	do {                                                                                                           \
		int64_t end_ = clock_mono(&clock_system) + PATIENCE_US;                                                \
		while (!(cond)) {                                                                                      \
			assert_true(clock_mono(&clock_system) < end_);                                                 \
			turn();                                                                                        \
		}                                                                                                      \
	} while (0)

static int setup(void **state)
{
	const struct tunnel_conf how = { .ops = &transport_fake_tunnel_ops,
					 .cluster = &conf,
					 .clock = &clock_system,
					 .backoff_min = 1000,
					 .backoff_max = 4000 };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);

	(void)state;
	fake_tunnel_clear();
	tunnel = tunnel_new(&how);
	server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(server, 8), 0);
	assert_int_equal(getsockname(server, (struct sockaddr *)&a, &len), 0);
	port = ntohs(a.sin_port);
	return tunnel ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	tunnel_free(tunnel);
	(void)close(server);
	return 0;
}

/* Our end, or -errno. */
static int dial(const char *host)
{
	int sv[2], rc;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	rc = tunnel_dial(tunnel, host, port, sv[1]);
	if (rc == 0)
		return sv[0];
	(void)close(sv[0]);
	return rc;
}

static ssize_t hear(int fd, char *buf, size_t len)
{
	return recv(fd, buf, len, MSG_DONTWAIT);
}

static void test_bytes(void **state)
{
	char buf[16] = "";
	int fd, peer;

	(void)state;
	assert_int_equal(dial("127.0.0.1"), -ENOTCONN);
	assert_string_equal(tunnel_text(tunnel), "");
	WAIT(tunnel_state(tunnel) == TUNNEL_UP);
	assert_string_equal(tunnel_text(tunnel), "connected");
	fd = dial("head.nowhere");
	assert_true(fd >= 0);
	assert_int_equal(send(fd, "there", 5, MSG_NOSIGNAL), 5);
	WAIT(fake_tunnel.opens == 1);
	peer = accept(server, NULL, NULL);
	WAIT(hear(peer, buf, sizeof(buf)) == 5);
	assert_string_equal(buf, "there");
	assert_int_equal(send(peer, "back", 4, MSG_NOSIGNAL), 4);
	WAIT(hear(fd, buf, sizeof(buf)) == 4);
	assert_memory_equal(buf, "back", 4);
	(void)close(peer);
	WAIT(hear(fd, buf, sizeof(buf)) == 0);
	(void)close(fd);
	assert_int_equal(fake_tunnel.logins, 1);
}

/* The other side cannot be had: the end of the stream, and a reason. */
static void test_nobody_there(void **state)
{
	char buf[16];
	int fd;

	(void)state;
	(void)close(server);
	server = -1;
	WAIT(tunnel_state(tunnel) == TUNNEL_UP);
	assert_null(tunnel_trouble(tunnel, "::1", port));
	fd = dial("[::1]");
	assert_true(fd >= 0);
	WAIT(hear(fd, buf, sizeof(buf)) == 0);
	(void)close(fd);
	assert_non_null(strstr(tunnel_trouble(tunnel, "[::1]", port), "nothing listens there"));
	assert_non_null(tunnel_trouble(tunnel, "::1", port));
	assert_int_equal(dial("a b"), -EINVAL);
}

static void test_lost(void **state)
{
	char buf[16];
	int fd;

	(void)state;
	WAIT(tunnel_state(tunnel) == TUNNEL_UP);
	fd = dial("127.0.0.1");
	WAIT(fake_tunnel.opens == 1);
	fake_tunnel.unreachable = true;
	fake_tunnel.cut = true;
	WAIT(hear(fd, buf, sizeof(buf)) == 0);
	(void)close(fd);
	WAIT(tunnel_state(tunnel) == TUNNEL_DOWN && strstr(tunnel_text(tunnel), "no route"));
	assert_int_equal(dial("127.0.0.1"), -ENOTCONN);
	WAIT(fake_tunnel.hosts[0] > 3 && fake_tunnel.hosts[1] > 2); /* in turn */
	fake_tunnel.unreachable = false;
	WAIT(tunnel_state(tunnel) == TUNNEL_UP);
}

static void test_refused(void **state)
{
	int64_t until = clock_mono(&clock_system) + USEC_PER_SEC / 20;

	(void)state;
	fake_tunnel.refuse = true;
	WAIT(tunnel_state(tunnel) == TUNNEL_REFUSED);
	assert_non_null(strstr(tunnel_text(tunnel), "ssh-copy-id"));
	assert_true(tunnel_deadline(tunnel) == INT64_MAX);
	while (clock_mono(&clock_system) < until)
		turn();
	assert_int_equal(fake_tunnel.logins, 1);
	tunnel_reconnect(tunnel);
	WAIT(fake_tunnel.logins == 2 && tunnel_state(tunnel) == TUNNEL_REFUSED);
	fake_tunnel.refuse = false;
	tunnel_reconnect(tunnel);
	WAIT(tunnel_state(tunnel) == TUNNEL_UP);
	tunnel_reconnect(tunnel);
	assert_int_equal(tunnel_state(tunnel), TUNNEL_UP);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = { T(test_bytes), T(test_nobody_there), T(test_lost), T(test_refused) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
