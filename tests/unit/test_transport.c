/*
 * The libssh2 transport against a real sshd on a private port with keys of its own. Skips where there is no sshd.
 * TEST_SECONDS=48
 */
#include "backend/transport.h"

#include "backend/agent.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/config.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* libssh2 1.10 loses the host key (51 bytes) at every further key exchange, and parts of an ECDSA key read from a file.
 */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#define LEAKS_ARE_LIBSSH2S(x) (__lsan_disable(), (x), __lsan_enable())
#else
#define LEAKS_ARE_LIBSSH2S(x) (x)
#endif

#define SSHD "/usr/sbin/sshd"
#define BIG (50 * 1024 * 1024)

static const struct transport_ops *const ops = &transport_ssh2_ops;
static char dir[64];
static char user[64];
static int port;
static pid_t sshd = -1, ssh_agent = -1;

/* ---- the world around it ---- */

static int sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int sh(const char *fmt, ...)
{
	char cmd[2048];
	va_list ap;
	pid_t pid;
	int status = -1;

	va_start(ap, fmt);
	(void)vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	pid = fork();
	if (pid == 0) {
		if (chdir(dir) == 0)
			execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
		_exit(127);
	}
	(void)waitpid(pid, &status, 0);
	return status;
}

static void put(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(const char *name, const char *fmt, ...)
{
	char path[160];
	va_list ap;
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	va_start(ap, fmt);
	(void)vfprintf(f, fmt, ap);
	va_end(ap);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0600), 0);
}

static int free_port(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	(void)close(fd);
	return ntohs(a.sin_port);
}

static bool listening(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), rc;

	a.sin_port = htons((uint16_t)port);
	rc = connect(fd, (struct sockaddr *)&a, sizeof(a));
	(void)close(fd);
	return rc == 0;
}

static void start_sshd(const char *extra)
{
	char conf[128];
	int i;

	port = free_port();
	put("sshd_config",
	    "%sPort %d\nListenAddress 127.0.0.1\nHostKey %s/host_ed25519\nHostKey %s/host_rsa\nPidFile none\nUsePAM "
	    "no\nStrictModes no\n"
	    "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nAuthorizedKeysFile "
	    "%s/authorized\n"
	    "Subsystem sftp internal-sftp\n",
	    extra, port, dir, dir, dir);
	(void)snprintf(conf, sizeof(conf), "%s/sshd_config", dir);
	sshd = fork();
	if (sshd == 0) {
		int null = open("/dev/null", O_RDWR);

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)dup2(null, 0);
		(void)dup2(null, 1);
		(void)dup2(null, 2);
		execl(SSHD, SSHD, "-D", "-f", conf, (char *)NULL);
		_exit(127);
	}
	for (i = 0; i < 500 && !listening(); i++)
		(void)usleep(10000);
	assert_true(i < 500);
}

/* Signals the sshd processes below `pid` (those of connections), not what they run. */
static void signal_below(pid_t pid, int sig)
{
	char path[64], comm[32] = "";
	cleanup_strbuf struct strbuf list = STRBUF_INIT;
	char *s, *end;

	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	if (strbuf_read_file(&list, path, 65536) < 0)
		return;
	for (s = list.buf;; s = end) {
		long child = strtol(s, &end, 10);
		int fd;

		if (end == s || child <= 1)
			return;
		signal_below((pid_t)child, sig);
		(void)snprintf(path, sizeof(path), "/proc/%ld/comm", child);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		memset(comm, 0, sizeof(comm));
		if (fd >= 0) {
			(void)!read(fd, comm, sizeof(comm) - 1);
			(void)close(fd);
		}
		if (strncmp(comm, "sshd", 4) == 0)
			(void)kill((pid_t)child, sig);
	}
}

static void stop_sshd(void)
{
	if (sshd <= 0)
		return;
	signal_below(sshd, SIGKILL);
	(void)kill(sshd, SIGTERM);
	(void)waitpid(sshd, NULL, 0);
	sshd = -1;
}

/* known_hosts: the ed25519 key under [127.0.0.1]:port; a configuration for host `t` with `more` in it. */
static void usual(const char *more)
{
	(void)sh("printf '[127.0.0.1]:%d ' >kh; cut -d' ' -f1,2 host_ed25519.pub >>kh", port);
	put("config",
	    "Host t\n HostName 127.0.0.1\n Port %d\n User %s\n UserKnownHostsFile %s/kh\n GlobalKnownHostsFile "
	    "none\n%s\n"
	    " IdentityFile %s/id\n IdentityAgent none\n",
	    port, user, dir, more, dir);
}

/* ---- the owner's loop ---- */

struct session {
	struct transport *t;
	enum transport_state state;
	struct err err;
};

static int begin(struct session *s)
{
	static char host[] = "t", type[] = "auto", file[96];
	char *hosts[] = { host, NULL };
	struct cluster_conf conf = { .hosts = hosts, .ssh_config = file, .transport = type };

	(void)snprintf(file, sizeof(file), "%s/config", dir);
	memset(s, 0, sizeof(*s));
	s->state = TRANSPORT_CONNECTING;
	return ops->open(&conf, 0, &clock_system, &s->t, &s->err);
}

static void turn(struct session *s, int ms)
{
	struct pollfd p = { 0 };
	int64_t wait = (ops->next_deadline(s->t) - clock_mono(&clock_system)) / USEC_PER_MSEC + 1;

	p.fd = ops->poll_fd(s->t, &p.events);
	if (wait > ms)
		wait = ms;
	(void)poll(&p, 1, wait > 0 ? (int)wait : 0);
	s->state = ops->step(s->t, &s->err);
}

static enum transport_state login(struct session *s)
{
	int64_t end = clock_mono(&clock_system) + 40 * (int64_t)USEC_PER_SEC;

	if (begin(s) < 0)
		fail_msg("open: %s", s->err.text);
	while (s->state == TRANSPORT_CONNECTING && clock_mono(&clock_system) < end)
		turn(s, 1000);
	return s->state;
}

static void must_login(struct session *s)
{
	if (login(s) != TRANSPORT_READY)
		fail_msg("login: %s", s->err.text);
}

/* Reads to the end of the stream (or an error) into `out`; the last result of read. */
static ssize_t read_all(struct session *s, struct channel *c, struct strbuf *out)
{
	static char buf[65536];
	int64_t end = clock_mono(&clock_system) + 60 * (int64_t)USEC_PER_SEC;

	for (;;) {
		ssize_t n = ops->read(c, buf, sizeof(buf));

		if (n > 0) {
			strbuf_add(out, buf, (size_t)n);
			continue;
		}
		if (n != -EAGAIN || clock_mono(&clock_system) > end)
			return n;
		while (ops->read_stderr(c, buf, sizeof(buf)) > 0)
			;
		turn(s, 1000);
	}
}

static void run(struct session *s, const char *command, struct strbuf *out)
{
	struct channel *c;

	assert_int_equal(ops->channel_open(s->t, command, false, &c, &s->err), 0);
	assert_int_equal(read_all(s, c, out), 0);
	ops->channel_close(c);
}

/* ---- logins ---- */

static void with_a_key(void **state)
{
	struct session s;
	struct strbuf out = STRBUF_INIT;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	assert_non_null(strstr(transport_ssh2_describe(s.t), "/id fingerprint SHA256:"));
	run(&s, "echo hello; echo words >&2", &out);
	assert_string_equal(out.buf, "hello\n");
	ops->close(s.t);
	strbuf_release(&out);
	stop_sshd();
}

static void with_an_agent(void **state)
{
	char sock[96];
	struct session s;
	int i;

	(void)state;
	(void)snprintf(sock, sizeof(sock), "%s/agent", dir);
	ssh_agent = fork();
	if (ssh_agent == 0) {
		int null = open("/dev/null", O_RDWR);

		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)dup2(null, 1);
		execlp("ssh-agent", "ssh-agent", "-D", "-a", sock, (char *)NULL);
		_exit(127);
	}
	for (i = 0; i < 500 && access(sock, F_OK) < 0; i++)
		(void)usleep(10000);
	assert_int_equal(sh("SSH_AUTH_SOCK=agent ssh-add -q wrong; SSH_AUTH_SOCK=agent ssh-add -q id"), 0);
	start_sshd("");
	usual("");
	put("config",
	    "Host t\n HostName 127.0.0.1\n Port %d\n User %s\n UserKnownHostsFile %s/kh\n GlobalKnownHostsFile none\n"
	    " IdentityFile %s/nothing\n IdentityAgent %s\n",
	    port, user, dir, dir, sock);
	must_login(&s);
	assert_non_null(strstr(transport_ssh2_describe(s.t), "of ssh-agent (ssh-ed25519)"));
	ops->close(s.t);
	/* Only what is named: the agent's key counts for its public half. */
	assert_int_equal(
		sh("cp id.pub named.pub; sed -i 's,/nothing,/named,; s,Host t,Host t\\n IdentitiesOnly yes,' config"),
		0);
	must_login(&s);
	ops->close(s.t);
	assert_int_equal(sh("cp wrong.pub named.pub"), 0);
	assert_int_equal(login(&s), TRANSPORT_REFUSED);
	ops->close(s.t);
	/* An agent that hangs is given up. */
	assert_int_equal(kill(ssh_agent, SIGSTOP), 0);
	assert_int_equal(sh("sed -i 's,/named,/id,' config"), 0);
	must_login(&s);
	ops->close(s.t);
	(void)kill(ssh_agent, SIGKILL);
	(void)waitpid(ssh_agent, NULL, 0);
	ssh_agent = -1;
	stop_sshd();
}

static void keys_that_do_not_open(void **state)
{
	struct session s;

	(void)state;
	start_sshd("");
	usual("");
	assert_int_equal(sh("sed -i 's,/id$,/wrong,' config; echo \" IdentityFile $PWD/locked\" >>config"), 0);
	assert_int_equal(login(&s), TRANSPORT_REFUSED);
	assert_non_null(strstr(s.err.text, user));
	assert_non_null(strstr(s.err.text, "/wrong"));
	assert_non_null(strstr(s.err.text, "/locked (has a passphrase: load it into ssh-agent with ssh-add)"));
	assert_int_equal(ops->step(s.t, &s.err), TRANSPORT_REFUSED);
	assert_int_equal(ops->poll_fd(s.t, &(short){ 0 }), -1);
	ops->close(s.t);
	stop_sshd();
	/* A server that wants a password only. */
	start_sshd("PubkeyAuthentication no\nPasswordAuthentication yes\n");
	usual("");
	assert_int_equal(login(&s), TRANSPORT_REFUSED);
	assert_non_null(strstr(s.err.text, "only by password"));
	ops->close(s.t);
	stop_sshd();
}

static void ecdsa_and_rsa_keys(void **state)
{
	struct session s;

	(void)state;
	start_sshd("");
	usual("");
	assert_int_equal(sh("sed -i 's,/id$,/id_ecdsa,' config"), 0);
	LEAKS_ARE_LIBSSH2S(must_login(&s));
	ops->close(s.t);
	assert_int_equal(sh("sed -i 's,/id_ecdsa$,/id_rsa,' config"), 0);
	if (login(&s) != TRANSPORT_READY)
		assert_non_null(strstr(s.err.text, "use an ed25519 or ecdsa key"));
	ops->close(s.t);
	stop_sshd();
}

static void nobody_listens(void **state)
{
	struct session s;

	(void)state;
	port = free_port();
	usual("");
	assert_int_equal(login(&s), TRANSPORT_DOWN);
	assert_non_null(strstr(s.err.text, "refused"));
	ops->close(s.t);
	assert_int_equal(sh("sed -i 's,HostName .*,HostName no-such-host.invalid,' config"), 0);
	assert_int_equal(login(&s), TRANSPORT_DOWN);
	assert_non_null(strstr(s.err.text, "no-such-host.invalid"));
	ops->close(s.t);
	/* Closed while the name is looked up. */
	assert_int_equal(begin(&s), 0);
	ops->close(s.t);
}

/* Accepts, and says nothing or nonsense. */
static void strange_servers(void **state)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), i;
	struct session s;

	(void)state;
	port = free_port();
	a.sin_port = htons((uint16_t)port);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 5), 0);
	usual("");
	for (i = 0; i < 2; i++) {
		int64_t end = clock_mono(&clock_system) + 20 * (int64_t)USEC_PER_SEC;
		int peer = -1;

		assert_int_equal(begin(&s), 0);
		while (s.state == TRANSPORT_CONNECTING && clock_mono(&clock_system) < end) {
			turn(&s, 50);
			if (peer < 0) {
				peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
				if (i == 0)
					(void)!write(peer, "SSH-2.0-x\r\n\0\0\0\1garbage garbage garbage", 36);
				(void)shutdown(peer, SHUT_WR);
			}
		}
		assert_int_not_equal(s.state, TRANSPORT_CONNECTING);
		assert_int_not_equal(s.state, TRANSPORT_READY);
		(void)close(peer);
		ops->close(s.t);
	}
	(void)close(fd);
}

/* ---- host keys ---- */

static void unknown_hosts_are_refused(void **state)
{
	struct session s;
	char want[128];
	cleanup_strbuf struct strbuf fp = STRBUF_INIT;
	char path[96];

	(void)state;
	start_sshd("");
	usual(" StrictHostKeyChecking no");
	put("kh", "%s", "other.example ssh-ed25519 AAAA\n");
	assert_int_equal(login(&s), TRANSPORT_REFUSED);
	(void)snprintf(want, sizeof(want), "ssh-keyscan -p %d 127.0.0.1 >> %s/kh", port, dir);
	assert_non_null(strstr(s.err.text, want));
	assert_int_equal(sh("ssh-keygen -lf host_ed25519.pub | cut -d' ' -f2 | tr -d '\\n' >fp"), 0);
	(void)snprintf(path, sizeof(path), "%s/fp", dir);
	assert_true(strbuf_read_file(&fp, path, 256) > 40);
	assert_non_null(strstr(s.err.text, fp.buf));
	ops->close(s.t);
	/* The command does what it says. */
	assert_int_equal(sh("%s 2>/dev/null", want), 0);
	must_login(&s);
	ops->close(s.t);
	stop_sshd();
}

static void changed_keys_are_refused(void **state)
{
	struct session s;
	char want[128];

	(void)state;
	start_sshd("");
	usual("");
	assert_int_equal(sh("printf '# a comment\\n\\n[127.0.0.1]:%d ' >kh; cut -d' ' -f1,2 wrong.pub >>kh", port), 0);
	assert_int_equal(login(&s), TRANSPORT_REFUSED);
	(void)snprintf(want, sizeof(want), "%s/kh line 3", dir);
	assert_non_null(strstr(s.err.text, want));
	assert_non_null(strstr(s.err.text, "has changed"));
	ops->close(s.t);
	stop_sshd();
}

/* Every way in which a host may be listed. */
static void known_in_many_ways(void **state)
{
	static const struct {
		const char *make; /* PORT stands for the port */
		enum transport_state want;
	} ways[] = {
		{ "ssh-keygen -H -f kh >/dev/null 2>&1", TRANSPORT_READY },
		{ "sed -i 's/^[^ ]*/127.0.0.1/' kh", TRANSPORT_READY },
		{ "sed -i 's/^[^ ]*/a.example,[127.0.0.?]:*,b/' kh", TRANSPORT_READY },
		{ "sed -i 's/^[^ ]*/[127.*]:*,![127.0.0.1]:'$PORT'/' kh", TRANSPORT_REFUSED },
		{ "sed -i 's/^/@revoked /' kh", TRANSPORT_REFUSED },
		{ "sed -i 's/^/@cert-authority /' kh", TRANSPORT_REFUSED },
		{ "echo 'garbage' >x; cat kh >>x; mv x kh", TRANSPORT_READY },
		{ "(printf '127.0.0.1 '; cut -d' ' -f1,2 wrong.pub) >>kh", TRANSPORT_READY },
		{ "(printf '%s ' [127.0.0.1]:$PORT; cut -d' ' -f1,2 wrong.pub) >>kh", TRANSPORT_READY },
		{ "(printf '127.0.0.1 '; cut -d' ' -f1,2 wrong.pub) >kh", TRANSPORT_REFUSED },
		{ "sed -i 's/^[^ ]*/cluster/' kh; sed -i 's/^Host t/Host t\\n HostKeyAlias cluster/' config",
		  TRANSPORT_READY },
	};
	struct session s;
	size_t i;

	(void)state;
	start_sshd("");
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		usual("");
		assert_int_equal(sh("PORT=%d; %s", port, ways[i].make), 0);
		if (login(&s) != ways[i].want)
			fail_msg("way %zu: state %d, %s", i, (int)s.state, s.err.text);
		ops->close(s.t);
	}
	stop_sshd();
}

static void jumps_are_refused_with_words(void **state)
{
	struct session s;

	(void)state;
	port = 22;
	usual(" ProxyJump gate");
	assert_int_equal(begin(&s), -EOPNOTSUPP);
	assert_non_null(strstr(s.err.text, "cannot jump yet"));
	assert_null(s.t);
}

/* ---- streams ---- */

static void many_channels_at_once(void **state)
{
	struct session s;
	struct channel *c[8];
	int i;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	for (i = 0; i < 8; i++) {
		char cmd[64];

		(void)snprintf(cmd, sizeof(cmd), "cat; echo %d", i);
		assert_int_equal(ops->channel_open(s.t, cmd, false, &c[i], &s.err), 0);
	}
	/* Closed before it is open. */
	ops->channel_close(c[7]);
	ops->channel_close(c[3]);
	for (i = 0; i < 7; i++) {
		struct strbuf out = STRBUF_INIT;
		char buf[16];
		ssize_t n;

		if (i == 3)
			continue;
		while ((n = ops->write(c[i], "ping\n", 5)) == -EAGAIN)
			turn(&s, 1000);
		assert_int_equal(n, 5);
		while (out.len < 5) {
			n = ops->read(c[i], buf, sizeof(buf));
			if (n > 0)
				strbuf_add(&out, buf, (size_t)n);
			else
				turn(&s, 1000);
			assert_int_equal(s.state, TRANSPORT_READY);
		}
		assert_string_equal(out.buf, "ping\n");
		strbuf_release(&out);
	}
	for (i = 0; i < 7; i++) {
		if (i != 3)
			ops->channel_close(c[i]);
	}
	/* Sessions are given back: many more than MaxSessions in a row. */
	for (i = 0; i < 30; i++) {
		struct strbuf out = STRBUF_INIT;

		run(&s, "echo again", &out);
		assert_string_equal(out.buf, "again\n");
		strbuf_release(&out);
	}
	ops->close(s.t);
	stop_sshd();
}

static void no_more_sessions_than_allowed(void **state)
{
	struct session s;
	struct channel *first, *second, *sub;
	struct strbuf out = STRBUF_INIT;

	(void)state;
	start_sshd("MaxSessions 1\n");
	usual("");
	must_login(&s);
	assert_int_equal(ops->channel_open(s.t, "cat", false, &first, &s.err), 0);
	assert_int_equal(ops->channel_open(s.t, "cat", false, &second, &s.err), 0);
	assert_int_equal(read_all(&s, second, &out), -EMFILE);
	assert_int_equal(ops->write(second, "x", 1), -EMFILE);
	ops->channel_close(second);
	assert_int_equal(s.state, TRANSPORT_READY);
	ops->channel_close(first);
	while (ops->channel_open(s.t, "nosuch", true, &sub, &s.err) == 0) {
		ssize_t n = read_all(&s, sub, &out);

		ops->channel_close(sub);
		if (n == -EOPNOTSUPP)
			break;
		assert_int_equal(n, -EMFILE); /* the first one is not quite closed yet */
		turn(&s, 10);
	}
	ops->close(s.t);
	strbuf_release(&out);
	stop_sshd();
}

static void sftp_answers(void **state)
{
	static const char init[] = { 0, 0, 0, 5, 1, 0, 0, 0, 3 };
	struct session s;
	struct channel *c;
	char buf[64];
	ssize_t n;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	assert_int_equal(ops->channel_open(s.t, "sftp", true, &c, &s.err), 0);
	while ((n = ops->write(c, init, sizeof(init))) == -EAGAIN)
		turn(&s, 1000);
	assert_int_equal(n, sizeof(init));
	while ((n = ops->read(c, buf, sizeof(buf))) == -EAGAIN)
		turn(&s, 1000);
	assert_true(n >= 9);
	assert_int_equal(buf[4], 2);
	assert_int_equal(buf[8], 3);
	ops->channel_close(c);
	ops->close(s.t);
	stop_sshd();
}

/* `size` bytes to the server and, as they come back, compared. */
static void echo(struct session *s, size_t size)
{
	static char big[BIG], buf[65536];
	struct channel *c;
	size_t sent = 0, got = 0, i;
	uint64_t x = 88172645463325252u;

	for (i = 0; i + 8 <= size; i += 8) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(big + i, &x, 8);
	}
	assert_int_equal(ops->channel_open(s->t, "cat", false, &c, &s->err), 0);
	while (got < size) {
		ssize_t n = 0;
		bool moved = false;

		while (sent < size && (n = ops->write(c, big + sent, size - sent)) > 0) {
			sent += (size_t)n;
			moved = true;
		}
		assert_true(n >= 0 || n == -EAGAIN);
		while ((n = ops->read(c, buf, sizeof(buf))) > 0) {
			assert_true(got + (size_t)n <= size);
			if (memcmp(buf, big + got, (size_t)n) != 0)
				fail_msg("other bytes near %zu", got);
			got += (size_t)n;
			moved = true;
		}
		assert_int_equal(n, -EAGAIN);
		turn(s, moved ? 0 : 5000);
		assert_int_equal(s->state, TRANSPORT_READY);
	}
	ops->channel_close(c);
}

static void fifty_megabytes(void **state)
{
	struct session s;
	struct strbuf out = STRBUF_INIT, sum = STRBUF_INIT;
	char path[96];
	int64_t t0;
	int fd;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	assert_int_equal(sh("head -c %d /dev/urandom >big", BIG), 0);
	t0 = clock_mono(&clock_system);
	(void)snprintf(path, sizeof(path), "cat %s/big", dir);
	run(&s, path, &out);
	print_message("down: %.0f MB/s\n", BIG / 1.0 / (double)(clock_mono(&clock_system) - t0));
	assert_int_equal(out.len, BIG);
	(void)snprintf(path, sizeof(path), "%s/copy", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, out.buf, out.len), BIG);
	(void)close(fd);
	assert_int_equal(sh("sha256sum <big >s1; sha256sum <copy >s2; cmp s1 s2"), 0);
	t0 = clock_mono(&clock_system);
	echo(&s, BIG);
	print_message("both ways: %.0f MB/s\n", BIG / 1.0 / (double)(clock_mono(&clock_system) - t0));
	ops->close(s.t);
	strbuf_release(&out);
	strbuf_release(&sum);
	stop_sshd();
}

static void keys_are_exchanged_again(void **state)
{
	struct session s;

	(void)state;
	start_sshd("RekeyLimit 1M\n");
	usual("");
	LEAKS_ARE_LIBSSH2S(must_login(&s));
	LEAKS_ARE_LIBSSH2S(echo(&s, 10 * 1024 * 1024));
	ops->close(s.t);
	stop_sshd();
}

/* A channel that nobody reads holds up no other. */
static void one_that_is_not_read(void **state)
{
	struct session s;
	struct channel *c;
	struct strbuf out = STRBUF_INIT;
	int i;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	assert_int_equal(ops->channel_open(s.t, "cat /dev/zero", false, &c, &s.err), 0);
	for (i = 0; i < 20; i++)
		run(&s, "echo x", &out);
	assert_int_equal(out.len, 40);
	ops->channel_close(c);
	ops->close(s.t);
	strbuf_release(&out);
	stop_sshd();
}

/* ---- ends ---- */

static void killed_in_mid_stream(void **state)
{
	struct session s;
	struct channel *c;
	char buf[4096];
	ssize_t n = 0;
	size_t got = 0;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	assert_int_equal(ops->channel_open(s.t, "cat /dev/zero", false, &c, &s.err), 0);
	while (s.state == TRANSPORT_READY) {
		while ((n = ops->read(c, buf, sizeof(buf))) > 0) {
			got += (size_t)n;
			if (got > 1000000 && got < 1000000 + sizeof(buf))
				signal_below(sshd, SIGKILL);
		}
		turn(&s, 5000);
	}
	assert_int_equal(s.state, TRANSPORT_DOWN);
	assert_true(got > 1000000);
	assert_int_equal(n, -ECONNRESET);
	assert_int_equal(ops->write(c, "x", 1), -ECONNRESET);
	assert_int_equal(ops->channel_open(s.t, "cat", false, &(struct channel *){ NULL }, &s.err), -ENOTCONN);
	ops->channel_close(c);
	ops->close(s.t);
	stop_sshd();
}

static void last_words_are_heard(void **state)
{
	struct session s;
	struct channel *c;
	struct strbuf out = STRBUF_INIT;
	ssize_t n;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	assert_int_equal(ops->channel_open(s.t, "echo last words; sleep 60", false, &c, &s.err), 0);
	while ((n = ops->write(c, "x", 1)) == -EAGAIN)
		turn(&s, 1000);
	(void)usleep(1500000); /* they are in our socket now, also on a busy machine */
	signal_below(sshd, SIGKILL);
	(void)usleep(100000);
	n = read_all(&s, c, &out);
	assert_int_equal(n, -ECONNRESET);
	assert_string_equal(out.buf, "last words\n");
	ops->channel_close(c);
	ops->close(s.t);
	strbuf_release(&out);
	stop_sshd();
}

static void a_silent_server_is_down(void **state)
{
	struct session s;
	int64_t t0;
	int with_channel;

	(void)state;
	start_sshd("");
	usual(" ServerAliveInterval 1\n ServerAliveCountMax 2\n");
	for (with_channel = 0; with_channel < 2; with_channel++) {
		struct channel *c = NULL;
		char buf[16];
		int64_t end;

		must_login(&s);
		if (with_channel)
			assert_int_equal(ops->channel_open(s.t, "cat", false, &c, &s.err), 0);
		/* While it answers it is up. */
		end = clock_mono(&clock_system) + 5 * (int64_t)USEC_PER_SEC;
		while (clock_mono(&clock_system) < end) {
			turn(&s, 500);
			if (c)
				assert_int_equal(ops->read(c, buf, sizeof(buf)), -EAGAIN);
		}
		assert_int_equal(s.state, TRANSPORT_READY);
		signal_below(sshd, SIGSTOP);
		t0 = clock_mono(&clock_system);
		while (s.state == TRANSPORT_READY && clock_mono(&clock_system) - t0 < 60 * (int64_t)USEC_PER_SEC) {
			turn(&s, 500);
			if (c)
				(void)ops->read(c, buf, sizeof(buf));
		}
		assert_int_equal(s.state, TRANSPORT_DOWN);
		if (with_channel)
			assert_non_null(strstr(s.err.text, "has not answered"));
		signal_below(sshd, SIGCONT);
		ops->close(s.t);
	}
	stop_sshd();
}

/* ---- the remote shell through all of it ---- */

static int hellos, answers;

static void on_frame(void *arg, const struct agent_frame *f)
{
	(void)arg;
	hellos += f->type == AGENT_HELLO;
	if (f->type == AGENT_ANSWER) {
		answers++;
		assert_string_equal(f->out, "through\n");
	}
}

static void the_remote_shell(void **state)
{
	struct session s;
	struct channel *c;
	struct agent *a = agent_new("", "/nowhere", 1000, on_frame, NULL);
	struct strbuf *out = agent_output(a);
	int64_t end = clock_mono(&clock_system) + 30 * (int64_t)USEC_PER_SEC, t0 = 0;
	char buf[4096];
	ssize_t n;
	int asked = 0;

	(void)state;
	start_sshd("");
	usual("");
	must_login(&s);
	assert_int_equal(ops->channel_open(s.t, NULL, false, &c, &s.err), 0);
	while (answers < 20 && clock_mono(&clock_system) < end) {
		if (hellos && asked == answers) {
			if (!asked++)
				t0 = clock_mono(&clock_system);
			(void)agent_request(a, AGENT_QUICK, "echo through", NULL, 0, 0);
		}
		while (out->len && (n = ops->write(c, out->buf, out->len)) > 0)
			strbuf_remove(out, 0, (size_t)n);
		while ((n = ops->read(c, buf, sizeof(buf))) > 0)
			assert_int_equal(agent_input(a, buf, (size_t)n, &s.err), 0);
		assert_int_equal(n, -EAGAIN);
		if (!(hellos && asked == answers))
			turn(&s, 1000);
		asked = answers + (asked > answers);
	}
	assert_int_equal(answers, 20);
	print_message("one request through sshd: %.2f ms\n", (double)(clock_mono(&clock_system) - t0) / 20e3);
	ops->channel_close(c);
	ops->close(s.t);
	agent_free(a);
	stop_sshd();
}

static int setup(void **state)
{
	struct passwd *pw = getpwuid(getuid());

	(void)state;
	(void)signal(SIGPIPE, SIG_IGN);
	(void)unsetenv("SSH_AUTH_SOCK");
	(void)snprintf(user, sizeof(user), "%s", pw ? pw->pw_name : "root");
	(void)snprintf(dir, sizeof(dir), "/tmp/test_transport.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	if (getuid() == 0)
		(void)mkdir("/run/sshd", 0755);
	return sh("ssh-keygen -q -t ed25519 -N '' -f host_ed25519 && ssh-keygen -q -t rsa -b 2048 -N '' -f host_rsa && "
		  "ssh-keygen -q -t ed25519 -N '' -f id && ssh-keygen -q -t ed25519 -N '' -f wrong && "
		  "ssh-keygen -q -t ecdsa -N '' -f id_ecdsa && ssh-keygen -q -t rsa -b 2048 -N '' -f id_rsa && "
		  "ssh-keygen -q -t ed25519 -N secret -f locked && cat id.pub id_ecdsa.pub id_rsa.pub >authorized");
}

static int teardown(void **state)
{
	(void)state;
	stop_sshd();
	if (ssh_agent > 0)
		(void)kill(ssh_agent, SIGKILL);
	return sh("rm -rf %s", dir) ? -1 : 0;
}

/* A test that failed may have left its server. */
static int after_each(void **state)
{
	(void)state;
	stop_sshd();
	return 0;
}

#define T(f) cmocka_unit_test_teardown(f, after_each)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(with_a_key),
		T(with_an_agent),
		T(keys_that_do_not_open),
		T(ecdsa_and_rsa_keys),
		T(nobody_listens),
		T(strange_servers),
		T(unknown_hosts_are_refused),
		T(changed_keys_are_refused),
		T(known_in_many_ways),
		T(jumps_are_refused_with_words),
		T(many_channels_at_once),
		T(no_more_sessions_than_allowed),
		T(sftp_answers),
		T(fifty_megabytes),
		T(keys_are_exchanged_again),
		T(one_that_is_not_read),
		T(killed_in_mid_stream),
		T(last_words_are_heard),
		T(a_silent_server_is_down),
		T(the_remote_shell),
	};

	if (access(SSHD, X_OK) < 0) {
		print_message("skipped: there is no %s here\n", SSHD);
		return 0;
	}
	return cmocka_run_group_tests_name("transport", tests, setup, teardown);
}
