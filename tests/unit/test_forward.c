/*
 * Forwards over a transport that is a handful of sockets: what goes in comes out, whatever is short, late, refused or
 * cut; who does not read holds back itself only; ports outlive connections.
 */
#include "backend/forward.h"
#include "backend/transport.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_US (30 * (int64_t)USEC_PER_SEC)
#define CONNS_MAX 200

/* ---- the transport: a channel is a socket to the port, or to a program ---- */

struct channel {
	int fd, err;
	pid_t pid;
	int error;
	bool used;
};

static struct {
	struct channel ch[CONNS_MAX];
	unsigned open, most, sessions, most_sessions, opened, max_sessions;
	bool forbid, small, stingy;
	unsigned tick;
	const char *path; /* PATH of programs */
} fake;

static struct channel *take(void)
{
	for (size_t i = 0; i < CONNS_MAX; i++) {
		if (fake.ch[i].used)
			continue;
		fake.ch[i] = (struct channel){ .fd = -1, .err = -1, .used = true };
		fake.opened++;
		if (++fake.open > fake.most)
			fake.most = fake.open;
		return &fake.ch[i];
	}
	fail_msg("too many channels");
	return NULL;
}

static int dial(const char *host, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(inet_pton(AF_INET, host, &a.sin_addr), 1);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	(void)close(fd);
	return -1;
}

static int fake_direct(struct transport *t, const char *host, int port, struct channel **out, struct err *e)
{
	struct channel *c = take();

	(void)t;
	(void)e;
	if (fake.forbid)
		c->error = -EACCES;
	else
		c->fd = dial(host, port);
	if (!c->error && c->fd < 0)
		c->error = -ECONNREFUSED;
	*out = c;
	return 0;
}

static void run_program(const char *command, int fd, int err)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)dup2(fd, 0);
	(void)dup2(fd, 1);
	(void)dup2(err, 2);
	if (fake.path)
		(void)setenv("PATH", fake.path, 1);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(126);
}

static int fake_open(struct transport *t, const char *command, bool subsystem, struct channel **out, struct err *e)
{
	struct channel *c = take();
	int sv[2], p[2];

	(void)t;
	(void)e;
	assert_false(subsystem);
	*out = c;
	if (fake.sessions >= fake.max_sessions) {
		c->error = -EMFILE;
		return 0;
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	c->pid = fork();
	if (c->pid == 0)
		run_program(command, sv[1], p[1]);
	(void)close(sv[1]);
	(void)close(p[1]);
	(void)fcntl(p[0], F_SETFL, O_NONBLOCK);
	c->fd = sv[0];
	c->err = p[0];
	if (++fake.sessions > fake.most_sessions)
		fake.most_sessions = fake.sessions;
	return 0;
}

static size_t piece(size_t len)
{
	return fake.small && len > 1 + fake.tick % 700 ? 1 + fake.tick % 700 : len;
}

static ssize_t fake_read(struct channel *c, void *buf, size_t len)
{
	ssize_t n;

	if (c->error)
		return c->error;
	if (fake.stingy && ++fake.tick % 3)
		return -EAGAIN;
	n = recv(c->fd, buf, piece(len), MSG_DONTWAIT);
	if (n < 0 && c->pid) /* a program that did not read all: of sshd one sees the end */
		return errno == ECONNRESET ? 0 : -errno;
	return n < 0 ? -errno : n;
}

static ssize_t fake_read_stderr(struct channel *c, void *buf, size_t len)
{
	ssize_t n = c->err < 0 ? 0 : read(c->err, buf, len);

	return n < 0 ? -errno : n;
}

static ssize_t fake_write(struct channel *c, const void *buf, size_t len)
{
	ssize_t n;

	if (c->error)
		return c->error;
	if (fake.stingy && ++fake.tick % 3)
		return -EAGAIN;
	n = send(c->fd, buf, piece(len), MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

static void fake_eof(struct channel *c)
{
	(void)shutdown(c->fd, SHUT_WR);
}

static void fake_close(struct channel *c)
{
	assert_true(c->used);
	if (c->pid > 0) {
		(void)kill(c->pid, SIGKILL);
		(void)waitpid(c->pid, NULL, 0);
		fake.sessions--;
	}
	if (c->fd >= 0)
		(void)close(c->fd);
	if (c->err >= 0)
		(void)close(c->err);
	c->used = false;
	fake.open--;
}

static const struct transport_ops fake_ops = {
	.name = "fake",
	.channel_open = fake_open,
	.channel_direct = fake_direct,
	.read = fake_read,
	.read_stderr = fake_read_stderr,
	.write = fake_write,
	.send_eof = fake_eof,
	.channel_close = fake_close,
};

static char some_transport;
#define UP ((struct transport *)(void *)&some_transport)

/* ---- what it is connected to: echoes until the end, then says how many bytes it was (program "echo") ---- */

static int server_port, server_fd = -1;
static pid_t server;

static int listen_anywhere(int *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	assert_int_equal(listen(fd, 128), 0);
	*port = ntohs(a.sin_port);
	return fd;
}

static void echo(int fd)
{
	static char buf[65536];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t at = 0; at < n;) {
			ssize_t m = write(fd, buf + at, (size_t)(n - at));

			if (m <= 0)
				_exit(1);
			at += m;
		}
	(void)!write(fd, "end", 3);
	_exit(0);
}

static void serve(void)
{
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept(server_fd, NULL, NULL);

		if (fd >= 0 && fork() == 0) {
			(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
			echo(fd);
		}
		if (fd >= 0)
			(void)close(fd);
	}
}

/* ---- the owner's loop ---- */

static struct forwards *fw;
static struct clock now_clock;

static int64_t shift;

static int64_t late_mono(const struct clock *c)
{
	(void)c;
	return clock_mono(&clock_system) + shift;
}

static void turn(void)
{
	struct pollfd p = { .fd = forwards_fd(fw), .events = POLLIN };
	/* The fake's sockets are not polled: that would be the transport's part. */
	if (!forwards_step(fw))
		(void)poll(&p, 1, 1);
}

#define WAIT(cond)                                                                                                     \
	do {                                                                                                           \
		int64_t end_ = clock_mono(&clock_system) + PATIENCE_US;                                                \
		while (!(cond) && clock_mono(&clock_system) < end_)                                                    \
			turn();                                                                                        \
		assert_true(cond);                                                                                     \
	} while (0)

/* Sends and receives at once, as much as goes; `got` grows. True at the end of the stream. */
struct peer {
	int fd;
	size_t to_send, sent, got;
	bool eof, reset, wrong;
	char last[4];
};

static char byte_at(size_t i)
{
	return (char)((i * 2654435761u) >> 13);
}

static void peer_send(struct peer *p)
{
	static char buf[65536];
	size_t n = p->to_send - p->sent;
	ssize_t m;

	if (n == 0)
		return;
	n = n < sizeof(buf) ? n : sizeof(buf);
	for (size_t i = 0; i < n; i++)
		buf[i] = byte_at(p->sent + i);
	m = send(p->fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (m > 0)
		p->sent += (size_t)m;
	else if (m < 0 && (errno == ECONNRESET || errno == EPIPE))
		p->eof = p->reset = true;
	if (p->sent == p->to_send)
		(void)shutdown(p->fd, SHUT_WR);
}

static void peer_receive(struct peer *p)
{
	static char buf[65536];
	ssize_t n = recv(p->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n == 0)
		p->eof = true;
	if (n < 0 && errno == ECONNRESET)
		p->eof = p->reset = true;
	for (ssize_t i = 0; i < n; i++, p->got++) {
		if (p->got < p->to_send)
			p->wrong |= buf[i] != byte_at(p->got);
		else if (p->got - p->to_send < 3)
			p->last[p->got - p->to_send] = buf[i];
	}
}

static bool peer_turn(struct peer *p)
{
	if (p->eof)
		return true;
	peer_send(p);
	peer_receive(p);
	return p->eof;
}

static void assert_echoed(const struct peer *p)
{
	assert_false(p->reset);
	assert_false(p->wrong);
	assert_int_equal(p->got, p->to_send + 3);
	assert_string_equal(p->last, "end");
	(void)close(p->fd);
}

static int forward(uint32_t owner, int want)
{
	struct err e = ERR_INIT;
	int port = 0;

	if (forward_listen(fw, owner, "127.0.0.1", server_port, want, &port, &e) < 0)
		fail_msg("%s", e.text);
	return port;
}

/* ---- tests ---- */

static int setup(void **state)
{
	(void)state;
	memset(&fake, 0, sizeof(fake));
	fake.max_sessions = 10;
	shift = 0;
	now_clock = clock_system;
	now_clock.mono = late_mono;
	fw = forwards_new(&fake_ops, &now_clock);
	assert_non_null(fw);
	forwards_link(fw, UP);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	forwards_free(fw);
	assert_int_equal(fake.open, 0);
	return 0;
}

static void one_connection(void **state)
{
	struct peer p = { .to_send = 3000000 };

	(void)state;
	p.fd = dial("127.0.0.1", forward(1, 0));
	WAIT(peer_turn(&p));
	assert_echoed(&p);
	WAIT(fake.open == 0);
}

static void short_and_late(void **state)
{
	struct peer p = { .to_send = 200000 };

	(void)state;
	fake.small = fake.stingy = true;
	p.fd = dial("127.0.0.1", forward(1, 0));
	WAIT(peer_turn(&p));
	assert_echoed(&p);
}

static void many_at_once(void **state)
{
	static struct peer p[CONNS_MAX];
	int port = forward(1, 0);
	size_t done;

	(void)state;
	memset(p, 0, sizeof(p));
	/* More than may be open: the rest waits to be accepted. */
	for (size_t i = 0; i < FORWARD_CONNS + 30; i++) {
		p[i].to_send = 20000 + i;
		p[i].fd = dial("127.0.0.1", port);
		turn();
	}
	do {
		done = 0;
		for (size_t i = 0; i < FORWARD_CONNS + 30; i++)
			done += peer_turn(&p[i]);
		turn();
	} while (done < FORWARD_CONNS + 30);
	for (size_t i = 0; i < FORWARD_CONNS + 30; i++)
		assert_echoed(&p[i]);
	assert_int_equal(fake.most, FORWARD_CONNS);
}

static void who_does_not_read_holds_back_itself(void **state)
{
	struct peer slow = { .to_send = 64000000 }, p = { .to_send = 500000 };
	int port = forward(1, 0);
	size_t before;

	(void)state;
	slow.fd = dial("127.0.0.1", port);
	for (int quiet = 0; quiet < 50; quiet = slow.sent == before ? quiet + 1 : 0) {
		before = slow.sent;
		peer_send(&slow);
		turn();
	}
	assert_true(slow.sent < slow.to_send);
	p.fd = dial("127.0.0.1", port);
	WAIT(peer_turn(&p));
	assert_echoed(&p);
	WAIT(peer_turn(&slow));
	assert_echoed(&slow);
}

static void a_pair(void **state)
{
	struct err e = ERR_INIT;
	struct peer p = { .to_send = 1000000 };
	int sv[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(forward_pair(fw, 3, "127.0.0.1", server_port, sv[1], &e), 0);
	p.fd = sv[0];
	WAIT(peer_turn(&p));
	assert_echoed(&p);
	WAIT(fake.open == 0);
	/* What is no place is refused, and the end is closed. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(forward_pair(fw, 3, "a;b", server_port, sv[1], &e), -EINVAL);
	p = (struct peer){ .fd = sv[0] };
	peer_receive(&p);
	assert_true(p.eof);
	(void)close(sv[0]);
}

static int closed_port(void)
{
	int port, fd = listen_anywhere(&port);

	(void)close(fd);
	return port;
}

static void nobody_there(void **state)
{
	struct err e = ERR_INIT;
	struct peer p = { 0 };
	int port = closed_port(), at;

	(void)state;
	assert_int_equal(forward_listen(fw, 1, "127.0.0.1", port, 0, &at, &e), 0);
	assert_null(forward_trouble(fw, 1, "127.0.0.1", port));
	p.fd = dial("127.0.0.1", at);
	WAIT(peer_turn(&p));
	assert_true(p.reset);
	assert_non_null(strstr(forward_trouble(fw, 1, "127.0.0.1", port), "nothing listens there"));
	(void)close(p.fd);
}

static void lost_and_back(void **state)
{
	struct peer p = { .to_send = 100000000 }, q = { .to_send = 1000 }, late = { 0 };
	int port = forward(1, 0);

	(void)state;
	p.fd = dial("127.0.0.1", port);
	WAIT(peer_turn(&p) || p.got > 1000000);
	assert_false(p.eof);
	forwards_link(fw, NULL);
	assert_int_equal(fake.open, 0);
	WAIT(peer_turn(&p));
	assert_true(p.reset);
	(void)close(p.fd);
	/* The port is still there; who comes now waits. */
	q.fd = dial("127.0.0.1", port);
	for (int i = 0; i < 20; i++) {
		(void)peer_turn(&q);
		turn();
	}
	assert_false(q.eof);
	forwards_link(fw, UP);
	WAIT(peer_turn(&q));
	assert_echoed(&q);
	/* But not for ever. */
	forwards_link(fw, NULL);
	late.fd = dial("127.0.0.1", port);
	WAIT(forwards_deadline(fw) != INT64_MAX);
	shift = FORWARD_WAIT_S * (int64_t)USEC_PER_SEC + 1;
	WAIT(peer_turn(&late));
	assert_true(late.reset);
	assert_non_null(strstr(forward_trouble(fw, 1, "127.0.0.1", server_port), "no connection"));
	(void)close(late.fd);
}

static void ports(void **state)
{
	struct forwards *other = forwards_new(&fake_ops, &now_clock);
	struct err e = ERR_INIT;
	int port = forward(1, 0), p2, want;

	(void)state;
	assert_int_equal(forward(1, 0), port);        /* the same again */
	assert_int_not_equal(forward(2, port), port); /* another owner has one of its own */
	assert_int_equal(forward_close(fw, 1, "127.0.0.1", server_port), 0);
	assert_int_equal(forward_close(fw, 1, "127.0.0.1", server_port), -ENOENT);
	assert_int_equal(dial("127.0.0.1", port), -1);
	/* The one that is wanted, when it is free: so a port outlives its process. */
	assert_int_equal(forward_listen(other, 1, "127.0.0.1", server_port, port, &p2, &e), 0);
	assert_int_equal(p2, port);
	want = forward(2, 0);
	forwards_drop(fw, 2);
	assert_int_equal(dial("127.0.0.1", want), -1);
	assert_int_equal(forward_listen(fw, 1, "", 80, 0, &p2, &e), -EINVAL);
	assert_int_equal(forward_listen(fw, 1, "a b", 80, 0, &p2, &e), -EINVAL);
	assert_int_equal(forward_listen(fw, 1, "a", 0, 0, &p2, &e), -EINVAL);
	forwards_free(other);
}

static void forbidden(void **state)
{
	struct peer p[9] = { { 0 } };
	int port = forward(1, 0);
	size_t done;

	(void)state;
	if (system("command -v python3 >/dev/null 2>&1") != 0)
		skip();
	fake.forbid = true;
	for (size_t i = 0; i < ARRAY_SIZE(p); i++) {
		p[i].to_send = 300000;
		p[i].fd = dial("127.0.0.1", port);
	}
	do {
		done = 0;
		for (size_t i = 0; i < ARRAY_SIZE(p); i++)
			done += peer_turn(&p[i]);
		turn();
	} while (done < ARRAY_SIZE(p));
	for (size_t i = 0; i < ARRAY_SIZE(p); i++)
		assert_echoed(&p[i]);
	assert_int_equal(fake.most_sessions, FORWARD_SESSIONS);
}

static void forbidden_and_no_program(void **state)
{
	struct peer p = { .to_send = 10 };
	char dir[] = "/tmp/test_forward.XXXXXX", sh[64];
	const char *why;

	(void)state;
	assert_non_null(mkdtemp(dir));
	(void)snprintf(sh, sizeof(sh), "%s/sh", dir);
	assert_int_equal(symlink("/bin/sh", sh), 0);
	fake.forbid = true;
	fake.path = dir;
	p.fd = dial("127.0.0.1", forward(1, 0));
	WAIT(peer_turn(&p));
	why = forward_trouble(fw, 1, "127.0.0.1", server_port);
	assert_non_null(why);
	assert_non_null(strstr(why, "AllowTcpForwarding"));
	assert_non_null(strstr(why, "neither python3 nor nc"));
	(void)close(p.fd);
	(void)unlink(sh);
	(void)rmdir(dir);
}

static void forbidden_and_no_session(void **state)
{
	struct peer p = { .to_send = 10 };

	(void)state;
	fake.forbid = true;
	fake.max_sessions = 0;
	p.fd = dial("127.0.0.1", forward(1, 0));
	WAIT(peer_turn(&p));
	assert_true(p.reset);
	assert_non_null(strstr(forward_trouble(fw, 1, "127.0.0.1", server_port), "MaxSessions"));
	(void)close(p.fd);
}

static void places(void **state)
{
	static const char *const bad[] = { "",      "0",     "65536",  "80x",    ":80",    "a:",  "a:b",
					   "a b:1", "-x:80", "a/b:80", "::1:80", "a;b:80", "+80", " 80" };
	struct err e = ERR_INIT;
	char *host = NULL;
	int port = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (forward_parse(bad[i], &host, &port, &e) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_null(host);
	}
	assert_int_equal(forward_parse("8265", &host, &port, &e), 0);
	assert_string_equal(host, "");
	assert_int_equal(port, 8265);
	free(host);
	assert_int_equal(forward_parse("gpu-01.cluster:80", &host, &port, &e), 0);
	assert_string_equal(host, "gpu-01.cluster");
	free(host);
	assert_int_equal(forward_parse("[fe80::1]:80", &host, &port, &e), 0);
	assert_string_equal(host, "fe80::1");
	free(host);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(one_connection),
		T(short_and_late),
		T(many_at_once),
		T(who_does_not_read_holds_back_itself),
		T(a_pair),
		T(nobody_there),
		T(lost_and_back),
		T(ports),
		T(forbidden),
		T(forbidden_and_no_program),
		T(forbidden_and_no_session),
		T(places),
	};
	int rc;

	(void)signal(SIGPIPE, SIG_IGN);
	server_fd = listen_anywhere(&server_port);
	server = fork();
	if (server == 0)
		serve();
	(void)close(server_fd);
	rc = cmocka_run_group_tests_name("forward", tests, NULL, NULL);
	(void)kill(server, SIGKILL);
	(void)waitpid(server, NULL, 0);
	return rc;
}
