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

int channel_open_ssh2(struct transport *t, const char *command, bool subsystem, struct channel **out, struct err *e)
{
	struct channel *c;

	if (t->phase != PHASE_READY)
		return err_set(e, -ENOTCONN, "%s is not connected", t->alias);
	c = xcalloc(1, sizeof(*c));
	c->t = t;
	c->command = xstrdup(command);
	c->subsystem = subsystem;
	c->hungry = true;
	strbuf_init(&c->tx);
	list_init(&c->node);
	list_add_tail(&t->channels, &c->node);
	channels_step(t);
	*out = c;
	return 0;
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
		c->ch = libssh2_channel_open_ex(t->session, "session", 7, WINDOW, LIBSSH2_CHANNEL_PACKET_DEFAULT, NULL,
						0);
		rc = c->ch ? 0 : libssh2_session_last_errno(t->session);
		if (rc == LIBSSH2_ERROR_CHANNEL_FAILURE)
			kill_channel(c, -EMFILE);
		else if (rc && rc != LIBSSH2_ERROR_EAGAIN)
			transport_fail_io(t, "opening a channel");
		if (rc)
			return;
		c->state = CHANNEL_STARTING;
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
		if (n < 0)
			return map_error(c, (int)n, "writing");
		c->tx_at += (size_t)n;
	}
	strbuf_reset(&c->tx);
	c->tx_at = 0;
	return 0;
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
	if (c->t->wire.len > WIRE_MAX)
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

static void channel_free(struct channel *c)
{
	list_del(&c->node);
	strbuf_release(&c->tx);
	free(c->command);
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
