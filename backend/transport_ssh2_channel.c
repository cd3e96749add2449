/*
 * Channels of the libssh2 transport. libssh2's rules, and how they are kept:
 *  - it opens one channel at a time (its state is in the session): `opening` holds the turn until the open and the
 * request for shell, command or subsystem are answered, even if the owner closes the channel meanwhile.
 *  - a write that said EAGAIN (window full, keys being exchanged) must be repeated with the same bytes: so what the
 * owner writes is copied to `tx`, one packet at most, and nothing more is accepted until libssh2 has taken all of it.
 *  - freeing a channel waits for the peer's close: `released` channels are driven on until it came.
 */
#include "backend/transport_ssh2.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define WINDOW (4 * 1024 * 1024) /* 4 MiB: 80 MB/s at 50 ms */
#define PACKET 32000             /* one SSH packet, under libssh2's 32700 */
#define WIRE_MAX (1024 * 1024)
#define DIRECT_WINDOW (1024 * 1024)  /* there may be many, each with as much in memory when its reader is slow */
#define DIRECT_WIRE_MAX (128 * 1024) /* what forwards send does not stand in the way of the shell's words */

static void kill_channel(struct channel *c, int error)
{
	c->state = CHANNEL_DEAD;
	c->error = error;
	if (c->t->opening == c)
		c->t->opening = NULL;
}

static int map_error(struct channel *c, int rc, const char *doing)
{
	if (rc == LIBSSH2_ERROR_EAGAIN && !c->t->gone)
		return -EAGAIN;
	if (rc == LIBSSH2_ERROR_CHANNEL_CLOSED || rc == LIBSSH2_ERROR_CHANNEL_EOF_SENT) {
		kill_channel(c, -EPIPE);
		return -EPIPE;
	}
	transport_fail_io(c->t, doing);
	return -ECONNRESET;
}

static struct channel *channel_new(struct transport *t, const char *command, bool subsystem, const char *host, int port)
{
	struct channel *c = xcalloc(1, sizeof(*c));

	c->t = t;
	c->command = xstrdup(command);
	c->subsystem = subsystem;
	c->host = xstrdup(host);
	c->port = port;
	c->hungry = true;
	strbuf_init(&c->tx);
	list_init(&c->node);
	list_add_tail(&t->channels, &c->node);
	channels_step(t);
	return c;
}

int channel_open_ssh2(struct transport *t, const char *command, bool subsystem, struct channel **out, struct err *e)
{
	if (t->phase != PHASE_READY)
		return err_set(e, -ENOTCONN, "%s is not connected", t->alias);
	*out = channel_new(t, command, subsystem, NULL, 0);
	return 0;
}

int channel_direct_ssh2(struct transport *t, const char *host, int port, struct channel **out, struct err *e)
{
	if (t->phase != PHASE_READY)
		return err_set(e, -ENOTCONN, "%s is not connected", t->alias);
	*out = channel_new(t, NULL, false, host, port);
	return 0;
}

static void add_u32(struct strbuf *sb, uint32_t v)
{
	const char b[4] = { (char)(v >> 24), (char)(v >> 16), (char)(v >> 8), (char)v };

	strbuf_add(sb, b, 4);
}

/* The open with its message (RFC 4254, 7.2); libssh2_channel_direct_tcpip_ex has no choice of window. */
static LIBSSH2_CHANNEL *open_direct(struct channel *c)
{
	static const char from[] = "127.0.0.1", kind[] = "direct-tcpip";
	cleanup_strbuf struct strbuf m = STRBUF_INIT;

	add_u32(&m, (uint32_t)strlen(c->host));
	strbuf_addstr(&m, c->host);
	add_u32(&m, (uint32_t)c->port);
	add_u32(&m, (uint32_t)strlen(from));
	strbuf_addstr(&m, from);
	add_u32(&m, 0);
	return libssh2_channel_open_ex(c->t->session, kind, (unsigned)strlen(kind), DIRECT_WINDOW,
				       LIBSSH2_CHANNEL_PACKET_DEFAULT, m.buf, (unsigned)m.len);
}

/* The reason for a refusal is in libssh2's words only (1.10, channel.c; RFC 4254, 5.1). */
static int refused_as(const struct channel *c)
{
	char *words = NULL;

	(void)libssh2_session_last_error(c->t->session, &words, NULL, 0);
	if (!c->host || !words || strstr(words, "resource"))
		return -EMFILE;
	return strstr(words, "prohibited") || strstr(words, "unknown") ? -EACCES : -ECONNREFUSED;
}

/* One step of an open; the turn is kept until it is decided. */
static void step_open(struct channel *c)
{
	struct transport *t = c->t;
	const char *request = c->subsystem ? "subsystem" : c->command ? "exec" : "shell";
	int rc;

	if (c->state == CHANNEL_WAITING) {
		t->opening = c;
		c->state = CHANNEL_OPENING;
	}
	if (c->state == CHANNEL_OPENING) {
		c->ch = c->host ? open_direct(c)
				: libssh2_channel_open_ex(t->session, "session", 7, WINDOW,
							  LIBSSH2_CHANNEL_PACKET_DEFAULT, NULL, 0);
		rc = c->ch ? 0 : libssh2_session_last_errno(t->session);
		if (rc == LIBSSH2_ERROR_CHANNEL_FAILURE)
			kill_channel(c, refused_as(c));
		else if (rc && rc != LIBSSH2_ERROR_EAGAIN)
			transport_fail_io(t, "opening a channel");
		if (rc)
			return;
		c->state = CHANNEL_STARTING;
	}
	if (c->host) {
		c->state = CHANNEL_OPEN;
		t->opening = NULL;
		return;
	}
	rc = libssh2_channel_process_startup(c->ch, request, (unsigned)strlen(request), c->command,
					     c->command ? (unsigned)strlen(c->command) : 0);
	if (rc == LIBSSH2_ERROR_EAGAIN)
		return;
	if (rc == 0) {
		c->state = CHANNEL_OPEN;
		t->opening = NULL;
	} else if (rc == LIBSSH2_ERROR_CHANNEL_REQUEST_DENIED) {
		kill_channel(c, -EOPNOTSUPP);
	} else {
		transport_fail_io(t, "starting a shell");
	}
}

static int flush_tx(struct channel *c)
{
	while (c->tx_at < c->tx.len) {
		ssize_t n = libssh2_channel_write(c->ch, c->tx.buf + c->tx_at, c->tx.len - c->tx_at);

		if (n == 0)
			return -EAGAIN;
		if (n == LIBSSH2_ERROR_CHANNEL_CLOSED || n == LIBSSH2_ERROR_CHANNEL_EOF_SENT) {
			c->shut = true; /* what the peer said before that can still be read */
			break;
		}
		if (n < 0)
			return map_error(c, (int)n, "writing");
		c->tx_at += (size_t)n;
	}
	strbuf_reset(&c->tx);
	c->tx_at = 0;
	return c->shut ? -EPIPE : 0;
}

ssize_t channel_write_ssh2(struct channel *c, const void *buf, size_t len)
{
	int rc;

	if (c->state == CHANNEL_DEAD)
		return c->error;
	if (c->state != CHANNEL_OPEN)
		return -EAGAIN;
	rc = flush_tx(c);
	if (rc < 0)
		return rc;
	if (c->eof_wanted || c->shut)
		return -EPIPE;
	if (c->t->wire.len > (c->host ? DIRECT_WIRE_MAX : WIRE_MAX))
		return -EAGAIN;
	if (len > PACKET)
		len = PACKET;
	strbuf_add(&c->tx, buf, len);
	rc = flush_tx(c);
	return rc < 0 && rc != -EAGAIN ? rc : (ssize_t)len;
}

static ssize_t read_stream(struct channel *c, int stream, void *buf, size_t len)
{
	ssize_t n;

	if (c->state == CHANNEL_DEAD)
		return c->error;
	if (c->state != CHANNEL_OPEN)
		return -EAGAIN;
	n = libssh2_channel_read_ex(c->ch, stream, buf, len);
	c->hungry = n == LIBSSH2_ERROR_EAGAIN;
	if (n == 0 && !libssh2_channel_eof(c->ch)) {
		c->hungry = true;
		return -EAGAIN;
	}
	return n < 0 ? map_error(c, (int)n, "reading") : n;
}

ssize_t channel_read_ssh2(struct channel *c, void *buf, size_t len)
{
	return read_stream(c, 0, buf, len);
}

ssize_t channel_read_stderr_ssh2(struct channel *c, void *buf, size_t len)
{
	return read_stream(c, SSH_EXTENDED_DATA_STDERR, buf, len);
}

/* After all that was accepted. */
static void flush_eof(struct channel *c)
{
	int rc;

	if (!c->eof_wanted || c->eof_sent || c->state != CHANNEL_OPEN || c->tx_at < c->tx.len)
		return;
	rc = libssh2_channel_send_eof(c->ch);
	if (rc == LIBSSH2_ERROR_EAGAIN && !c->t->gone)
		return;
	c->eof_sent = true;
	if (rc < 0 && rc != LIBSSH2_ERROR_CHANNEL_CLOSED && rc != LIBSSH2_ERROR_CHANNEL_EOF_SENT)
		transport_fail_io(c->t, "ending a stream");
}

void channel_send_eof_ssh2(struct channel *c)
{
	c->eof_wanted = true;
	flush_eof(c);
}

static void channel_free(struct channel *c)
{
	list_del(&c->node);
	strbuf_release(&c->tx);
	free(c->command);
	free(c->host);
	free(c);
}

void channel_close_ssh2(struct channel *c)
{
	struct transport *t = c->t;

	c->released = true;
	strbuf_reset(&c->tx);
	c->tx_at = 0;
	channels_step(t);
}

static void step_channel(struct channel *c)
{
	struct transport *t = c->t;

	if (c->state == CHANNEL_WAITING && c->released) {
		channel_free(c);
		return;
	}
	if (c->state < CHANNEL_OPEN && (!t->opening || t->opening == c))
		step_open(c);
	if (t->phase == PHASE_READY && c->state == CHANNEL_OPEN && !c->released && c->tx_at < c->tx.len)
		(void)flush_tx(c);
	if (t->phase == PHASE_READY && c->state == CHANNEL_OPEN && !c->released)
		flush_eof(c);
	if (t->phase == PHASE_READY && c->released && c->state >= CHANNEL_OPEN) {
		if (!c->ch || libssh2_channel_free(c->ch) != LIBSSH2_ERROR_EAGAIN)
			channel_free(c);
	}
}

void channels_step(struct transport *t)
{
	struct list *pos, *tmp;

	if (t->phase != PHASE_READY)
		return;
	list_for_each_safe (pos, tmp, &t->channels) {
		step_channel(container_of(pos, struct channel, node));
		if (t->phase != PHASE_READY)
			return;
	}
}

bool channels_want_input(const struct transport *t)
{
	const struct list *pos;

	for (pos = t->channels.next; pos != &t->channels; pos = pos->next) {
		const struct channel *c = container_of(pos, struct channel, node);

		if (c->released || c->state < CHANNEL_OPEN || (c->state == CHANNEL_OPEN && (c->hungry || c->tx.len)))
			return true;
	}
	return false;
}

void channels_abort(struct transport *t, int error)
{
	struct list *pos, *tmp;

	t->opening = NULL;
	list_for_each_safe (pos, tmp, &t->channels) {
		struct channel *c = container_of(pos, struct channel, node);

		if (c->state != CHANNEL_DEAD)
			kill_channel(c, error);
	}
}

void channels_free(struct transport *t)
{
	struct list *pos, *tmp;

	list_for_each_safe (pos, tmp, &t->channels)
		channel_free(container_of(pos, struct channel, node));
}
