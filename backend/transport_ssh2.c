/*
 * The libssh2 transport: one login over one socket, driven by step(). Nothing blocks but ssh-agent (with a deadline)
 * and the run of `ssh -G` in open().
 *
 * libssh2 is given callbacks for its socket calls. What it sends goes to `wire` whole, and step() writes that to the
 * socket: so libssh2 never sees a short send, and its rule that nothing else may be sent until the very same call was
 * repeated is never in play. The callbacks also get ssh-agent's traffic (libssh2 1.10), told apart by the descriptor.
 *
 * Any call may take packets of other channels from the socket into libssh2's queue, so next_deadline() is "now"
 * whenever bytes were taken since the last step began: the owner comes back and reads every channel again. A peer is
 * dead when `alive_max` keepalives in a row went unanswered.
 */
#include "backend/transport_ssh2.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/config.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define CONNECT_S 15
#define LOGIN_S 30
#define ALIVE_S 15
#define ALIVE_COUNT 3

/* ---- libssh2's socket calls; negative errno is what it expects of them ---- */

static ssize_t agent_wait(struct transport *t, int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	int64_t ms = (t->auth.agent_deadline - clock_mono(t->clock)) / USEC_PER_MSEC;
	int rc;

	do {
		rc = poll(&p, 1, ms > 0 ? (int)ms : 0);
	} while (rc < 0 && errno == EINTR);
	return rc > 0 ? 0 : rc == 0 ? -ETIMEDOUT : -errno;
}

static ssize_t on_send(libssh2_socket_t fd, const void *buf, size_t len, int flags, void **abstract)
{
	struct transport *t = *abstract;

	ssize_t n;

	if (t->closing || t->gone)
		return -ECONNRESET;
	if (fd != t->fd) {
		n = agent_wait(t, fd, POLLOUT);
		if (n < 0)
			return n;
		n = send(fd, buf, len, flags | MSG_NOSIGNAL);
		return n < 0 ? -errno : n;
	}
	strbuf_add(&t->wire, buf, len);
	return (ssize_t)len;
}

static ssize_t on_recv(libssh2_socket_t fd, void *buf, size_t len, int flags, void **abstract)
{
	struct transport *t = *abstract;
	ssize_t n;

	/* What the peer sent before its end is still handed out: so to libssh2 the end is only a pause (read_stream
	 * knows better). */
	if (t->gone && !t->closing && t->phase == PHASE_READY)
		return -EAGAIN;
	if (t->closing || t->gone)
		return -ECONNRESET;
	if (fd != t->fd) {
		n = agent_wait(t, fd, POLLIN);
		if (n < 0)
			return n;
		n = recv(fd, buf, len, flags);
		return n < 0 ? -errno : n;
	}
	do {
		n = recv(fd, buf, len, flags | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		t->pumped = true;
		t->unanswered = 0;
		return n;
	}
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return -EAGAIN;
	t->gone = true;
	t->gone_errno = n < 0 ? errno : 0;
	if (t->phase == PHASE_READY)
		return -EAGAIN;
	return n < 0 ? -t->gone_errno : 0;
}

/* ---- failure ---- */

void transport_fail(struct transport *t, enum transport_state as, const char *fmt, ...)
{
	char text[sizeof(t->failure.text)];
	va_list ap;

	if (t->phase == PHASE_FAILED)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	t->phase = PHASE_FAILED;
	t->failed_as = as;
	(void)err_set(&t->failure, as == TRANSPORT_REFUSED ? -EKEYREJECTED : -EHOSTUNREACH, "%s", text);
	channels_abort(t, -ECONNRESET);
}

void transport_fail_io(struct transport *t, const char *doing)
{
	char *words = NULL;

	if (t->gone && t->gone_errno == 0) {
		transport_fail(t, TRANSPORT_DOWN, "%s closed the connection (while %s)", t->alias, doing);
	} else if (t->gone) {
		transport_fail(t, TRANSPORT_DOWN, "the connection to %s broke (while %s): %s", t->alias, doing,
			       strerror(t->gone_errno));
	} else {
		(void)libssh2_session_last_error(t->session, &words, NULL, 0);
		transport_fail(t, TRANSPORT_DOWN, "the connection to %s failed (while %s): %s", t->alias, doing,
			       words ? words : "");
	}
}

/* ---- the phases of a login: 0 when done, -EAGAIN, or failed ---- */

static void init_library(void)
{
	if (libssh2_init(0) != 0)
		log_error("libssh2 cannot be initialised");
}

static int make_session(struct transport *t)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	cleanup_strbuf struct strbuf pref = STRBUF_INIT;

	(void)pthread_once(&once, init_library);
	t->session = libssh2_session_init_ex(NULL, NULL, NULL, t);
	if (!t->session)
		return -ENOMEM;
	libssh2_session_set_blocking(t->session, 0);
	(void)libssh2_session_callback_set(t->session, LIBSSH2_CALLBACK_SEND, (void *)on_send);
	(void)libssh2_session_callback_set(t->session, LIBSSH2_CALLBACK_RECV, (void *)on_recv);
	known_hosts_load(&t->known, t->session, &t->cfg);
	known_hosts_algorithms(&t->known, t->session, &pref);
	if (pref.len)
		(void)libssh2_session_method_pref(t->session, LIBSSH2_METHOD_HOSTKEY, pref.buf);
	return 0;
}

static int phase_dial(struct transport *t)
{
	struct err e = ERR_INIT;
	int fd = dial_step(&t->dial, &e);

	if (fd == -EAGAIN)
		return fd;
	if (fd < 0) {
		transport_fail(t, TRANSPORT_DOWN, "%s", e.text);
		return fd;
	}
	t->fd = fd;
	if (make_session(t) < 0) {
		transport_fail(t, TRANSPORT_DOWN, "there is no memory for a connection to %s", t->alias);
		return -ENOMEM;
	}
	t->phase = PHASE_HANDSHAKE;
	return 0;
}

static int check_host(struct transport *t)
{
	struct err e = ERR_INIT;
	const char *hash = libssh2_hostkey_hash(t->session, LIBSSH2_HOSTKEY_HASH_SHA256), *blob;
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	size_t len = 0;
	int type;

	blob = libssh2_session_hostkey(t->session, &len, &type);
	if (!hash || !blob) {
		transport_fail(t, TRANSPORT_REFUSED, "%s showed no host key", t->alias);
		return -EKEYREJECTED;
	}
	base64_add(&text, hash, 32, false);
	(void)snprintf(t->fingerprint, sizeof(t->fingerprint), "%s", text.buf);
	if (known_hosts_check(&t->known, &t->cfg, blob, len, t->fingerprint, &e) < 0) {
		transport_fail(t, TRANSPORT_REFUSED, "%s", e.text);
		return -EKEYREJECTED;
	}
	return 0;
}

static int phase_handshake(struct transport *t)
{
	int rc = libssh2_session_handshake(t->session, t->fd);
	char *words = NULL;

	if (rc == LIBSSH2_ERROR_EAGAIN)
		return -EAGAIN;
	if (rc == 0) {
		rc = check_host(t);
		if (rc == 0)
			t->phase = PHASE_AUTH;
		return rc;
	}
	if ((rc == LIBSSH2_ERROR_KEX_FAILURE || rc == LIBSSH2_ERROR_METHOD_NONE) && !t->gone) {
		(void)libssh2_session_last_error(t->session, &words, NULL, 0);
		transport_fail(t, TRANSPORT_REFUSED, "%s and this libssh2 (%s) have no way to encrypt in common: %s",
			       t->alias, libssh2_version(0), words ? words : "");
	} else {
		transport_fail_io(t, "greeting");
	}
	return -ECONNRESET;
}

static int phase_auth(struct transport *t)
{
	struct err e = ERR_INIT;
	int rc = auth_step(&t->auth, t->session, &t->cfg, t->clock, t->login_deadline, &e);

	if (rc == -EAGAIN)
		return rc;
	if (rc == -EKEYREJECTED) {
		transport_fail(t, TRANSPORT_REFUSED, "%s", e.text);
		return rc;
	}
	if (rc < 0) {
		transport_fail_io(t, "logging in");
		return rc;
	}
	str_set(&t->describe, NULL);
	t->describe = xasprintf("libssh2 %s@%s:%d key %s fingerprint SHA256:%s", t->cfg.user, t->cfg.hostname,
				t->cfg.port, auth_label(&t->auth), t->fingerprint);
	libssh2_keepalive_config(t->session, 1, (unsigned)(t->alive_us / USEC_PER_SEC));
	t->next_alive = clock_mono(t->clock) + t->alive_us;
	t->phase = PHASE_READY;
	return 0;
}

/* ---- what goes on for as long as the connection does ---- */

static void step_flush(struct transport *t)
{
	while (t->wire.len && t->fd >= 0 && !t->gone) {
		ssize_t n = send(t->fd, t->wire.buf, t->wire.len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			strbuf_remove(&t->wire, 0, (size_t)n);
		} else if (n < 0 && errno != EINTR) {
			/* An error shows up in recv as well, behind the last words of the peer. */
			if (errno != EAGAIN && errno != EWOULDBLOCK)
				strbuf_reset(&t->wire);
			return;
		}
	}
}

/*
 * Bytes in the socket that nobody reads (no channel, or an owner that waits) are a sign of life too when there are more
 * than last time, or so many that the peer may be held up by us.
 */
static bool has_input(struct transport *t)
{
	int n = 0, before = t->unread;

	if (ioctl(t->fd, FIONREAD, &n) < 0)
		return false;
	t->unread = n;
	return n > before || n > 32768;
}

static bool at_end(const struct transport *t)
{
	char c;

	return recv(t->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static void step_alive(struct transport *t)
{
	int64_t now = clock_mono(t->clock);
	size_t before = t->wire.len;
	int wait = 0;

	if (now < t->next_alive)
		return;
	if (has_input(t))
		t->unanswered = 0;
	else if (at_end(t))
		t->gone = true;
	if (t->gone)
		return; /* the next step says so */
	if (t->unanswered >= t->alive_max) {
		transport_fail(t, TRANSPORT_DOWN, "%s has not answered for %lld s", t->alias,
			       (long long)(t->alive_us / USEC_PER_SEC * (t->unanswered + 1)));
		return;
	}
	if (libssh2_keepalive_send(t->session, &wait) != 0) {
		transport_fail_io(t, "sending a keepalive");
		return;
	}
	if (t->wire.len > before) /* libssh2 has its own idea of when it is time */
		t->unanswered++;
	t->next_alive = now + t->alive_us;
}

static enum transport_state report(struct transport *t, struct err *e)
{
	if (t->phase == PHASE_FAILED) {
		if (e)
			*e = t->failure;
		return t->failed_as;
	}
	return t->phase == PHASE_READY ? TRANSPORT_READY : TRANSPORT_CONNECTING;
}

static int step_login(struct transport *t)
{
	switch (t->phase) {
	case PHASE_DIAL:
		return phase_dial(t);
	case PHASE_HANDSHAKE:
		return phase_handshake(t);
	case PHASE_AUTH:
		return phase_auth(t);
	default:
		return -EAGAIN;
	}
}

static enum transport_state ssh2_step(struct transport *t, struct err *e)
{
	bool was_gone = t->gone;

	if (t->phase == PHASE_FAILED)
		return report(t, e);
	step_flush(t);
	t->pumped = false;
	while (t->phase < PHASE_READY && step_login(t) == 0)
		;
	if (t->phase < PHASE_READY && clock_mono(t->clock) >= t->login_deadline)
		transport_fail(t, TRANSPORT_DOWN, "logging in to %s took longer than %d s", t->alias, LOGIN_S);
	if (t->phase == PHASE_READY)
		channels_step(t);
	if (t->phase == PHASE_READY && was_gone)
		transport_fail_io(t, "waiting");
	if (t->phase == PHASE_READY)
		step_alive(t);
	step_flush(t);
	return report(t, e);
}

static int ssh2_poll_fd(struct transport *t, short *events)
{
	*events = 0;
	if (t->phase == PHASE_FAILED)
		return -1;
	if (t->phase == PHASE_DIAL)
		return dial_fd(&t->dial, events);
	step_flush(t);
	if (t->phase < PHASE_READY || channels_want_input(t))
		*events |= POLLIN;
	if (t->wire.len)
		*events |= POLLOUT;
	return t->fd;
}

static int64_t ssh2_next_deadline(struct transport *t)
{
	int64_t at;

	if (t->phase == PHASE_FAILED)
		return INT64_MAX;
	if (t->pumped || t->gone)
		return 0;
	if (t->phase == PHASE_READY)
		return t->next_alive;
	at = t->phase == PHASE_DIAL ? dial_deadline(&t->dial) : t->login_deadline;
	return at < t->login_deadline ? at : t->login_deadline;
}

/* ---- begin and end ---- */

static int check_config(const struct cluster_conf *conf, const struct ssh_config *cfg, const char *alias, struct err *e)
{
	if (conf->transport && strcmp(conf->transport, "auto") != 0 && strcmp(conf->transport, "libssh2") != 0)
		return err_set(e, -EOPNOTSUPP, "transport = %s is not supported by this version; use libssh2",
			       conf->transport);
	if (cfg->proxy)
		return err_set(e, -EOPNOTSUPP,
			       "the SSH configuration reaches %s by way of another host (%s); this version cannot jump "
			       "yet: name a host that "
			       "can be reached directly, or put `ProxyJump none` into a file named by ssh_config",
			       alias, cfg->proxy);
	return 0;
}

static int ssh2_open(const struct cluster_conf *conf, size_t host_index, const struct clock *clock,
		     struct transport **out, struct err *e)
{
	const char *alias = conf->hosts[host_index];
	struct ssh_config cfg;
	struct transport *t;
	int rc = ssh_config_load(conf, host_index, &cfg, e);

	if (rc < 0)
		return rc;
	rc = check_config(conf, &cfg, alias, e);
	if (rc < 0) {
		ssh_config_release(&cfg);
		return rc;
	}
	t = xcalloc(1, sizeof(*t));
	t->cfg = cfg;
	t->clock = clock;
	t->alias = xstrdup(alias);
	t->fd = -1;
	strbuf_init(&t->wire);
	auth_init(&t->auth);
	list_init(&t->channels);
	t->alive_us = (cfg.alive_interval ? cfg.alive_interval : ALIVE_S) * (int64_t)USEC_PER_SEC;
	t->alive_max = cfg.alive_count ? cfg.alive_count : ALIVE_COUNT;
	t->login_deadline = clock_mono(clock) + LOGIN_S * (int64_t)USEC_PER_SEC;
	t->describe = xasprintf("libssh2 %s@%s:%d", cfg.user, cfg.hostname, cfg.port);
	rc = dial_start(&t->dial, clock, t->cfg.hostname, t->cfg.port, t->cfg.family,
			(cfg.connect_timeout ? cfg.connect_timeout : CONNECT_S) * (int64_t)USEC_PER_SEC, e);
	if (rc < 0) {
		transport_ssh2_ops.close(t);
		return rc;
	}
	*out = t;
	return 0;
}

/* libssh2 waits for nobody once its socket calls fail. */
static void free_session(struct transport *t)
{
	int i;

	if (!t->gone)
		(void)libssh2_session_disconnect(t->session, "done");
	step_flush(t);
	t->closing = true;
	auth_release(&t->auth);
	for (i = 0; i < 100 && libssh2_session_free(t->session) == LIBSSH2_ERROR_EAGAIN; i++)
		;
	t->session = NULL;
}

static void ssh2_close(struct transport *t)
{
	if (!t)
		return;
	dial_stop(&t->dial);
	if (t->session)
		free_session(t);
	auth_release(&t->auth);
	channels_free(t);
	if (t->fd >= 0)
		(void)close(t->fd);
	known_hosts_release(&t->known);
	ssh_config_release(&t->cfg);
	strbuf_release(&t->wire);
	free(t->alias);
	free(t->describe);
	free(t);
}

const char *transport_ssh2_describe(const struct transport *t)
{
	return t->describe;
}

const struct transport_ops transport_ssh2_ops = {
	.name = "libssh2",
	.open = ssh2_open,
	.step = ssh2_step,
	.poll_fd = ssh2_poll_fd,
	.next_deadline = ssh2_next_deadline,
	.channel_open = channel_open_ssh2,
	.channel_direct = channel_direct_ssh2,
	.send_eof = channel_send_eof_ssh2,
	.read = channel_read_ssh2,
	.read_stderr = channel_read_stderr_ssh2,
	.write = channel_write_ssh2,
	.channel_close = channel_close_ssh2,
	.close = ssh2_close,
};
