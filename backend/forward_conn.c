/*
 * One forwarded connection: a socket here, a channel there, and a buffer for each direction.
 *
 * Each direction ends by itself: the end of the socket's bytes becomes the channel's, behind all that was read, and the
 * other way round; the connection is over when both have. Nothing is read that has no room in the buffer, so a side
 * that does not read holds its other side back (the channel by its window, the socket by TCP) and nobody else. A step
 * moves ROUND bytes of each direction at most, so that one busy connection does not keep the thread.
 *
 * Where the server forbids channels to ports, a session runs a small program instead (python3, else nc). It comes as
 * the first line of the session's input, so that neither the user's login shell nor its quoting matters; `read` takes
 * that line byte by byte (POSIX), and so nothing of what follows.
 */
#include "backend/forward_impl.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define ROUND (4 * FORWARD_BUF)
#define NOISE_MAX 200

static const char start_program[] = "exec sh -c 'read -r p; eval \"$p\"'";

static const char program[] =
	"if command -v python3 >/dev/null 2>&1; then exec python3 -c 'exec(\""
	"import socket,sys,os,threading\\n"
	"def up():\\n"
	" try:\\n"
	"  b=os.read(0,65536)\\n"
	"  while b:\\n"
	"   s.sendall(b)\\n"
	"   b=os.read(0,65536)\\n"
	"  s.shutdown(1)\\n"
	" except OSError: pass\\n"
	"try:\\n"
	" s=socket.create_connection((sys.argv[1],int(sys.argv[2])),20)\\n"
	" s.settimeout(None)\\n"
	" t=threading.Thread(target=up,daemon=True)\\n"
	" t.start()\\n"
	" b=s.recv(65536)\\n"
	" while b:\\n"
	"  while b: b=b[os.write(1,b):]\\n"
	"  b=s.recv(65536)\\n"
	" os.close(1)\\n"
	" os.close(2)\\n"
	" t.join()\\n"
	"except OSError as e: sys.exit(str(e))\\n"
	"\")' \"$h\" \"$p\"; "
	"elif command -v nc >/dev/null 2>&1; then "
	"case `nc -h 2>&1` in *'\t-N'*) exec nc -N \"$h\" \"$p\";; *) exec nc \"$h\" \"$p\";; esac; "
	"else echo 'it has neither python3 nor nc' >&2; exit 127; fi\n";

struct conn *conn_new(struct forwards *f, struct target *to, int fd)
{
	struct conn *c = xcalloc(1, sizeof(*c));

	c->to = to;
	c->fd = fd;
	c->deadline = clock_mono(f->clock) + FORWARD_WAIT_S * (int64_t)USEC_PER_SEC;
	strbuf_init(&c->intro);
	strbuf_init(&c->noise);
	c->up.buf = xmalloc(FORWARD_BUF);
	c->down.buf = xmalloc(FORWARD_BUF);
	list_add_tail(&to->conns, &c->node);
	f->n_conns++;
	return c;
}

static void drop_channel(struct forwards *f, struct conn *c)
{
	if (!c->ch)
		return;
	f->ops->channel_close(c->ch);
	c->ch = NULL;
	f->n_sessions -= c->session;
	c->session = false;
}

void conn_close(struct forwards *f, struct conn *c, bool reset)
{
	const struct linger now = { 1, 0 };

	drop_channel(f, c);
	if (reset) /* of a socket pair it changes nothing */
		(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	(void)close(c->fd); /* leaves the epoll set with it */
	list_del(&c->node);
	f->n_conns--;
	strbuf_release(&c->intro);
	strbuf_release(&c->noise);
	free(c->up.buf);
	free(c->down.buf);
	free(c);
}

/* --- buffers --- */

/* Where more bytes go; *room of them. */
static char *tail(struct forward_buf *b, size_t *room)
{
	if (b->at && b->at + b->len == FORWARD_BUF) {
		memmove(b->buf, b->buf + b->at, b->len);
		b->at = 0;
	}
	*room = FORWARD_BUF - b->at - b->len;
	return b->buf + b->at + b->len;
}

static void took(struct forward_buf *b, size_t n)
{
	b->len -= n;
	b->at = b->len ? b->at + n : 0;
}

/* --- the channel --- */

static void say(struct conn *c, const char *text)
{
	free(c->to->trouble);
	c->to->trouble = xasprintf("%s:%d: %s", c->to->host, c->to->port, text);
}

static void start_session(struct forwards *f, struct conn *c)
{
	struct err e = ERR_INIT;

	if (f->n_sessions >= f->max_sessions)
		return;
	if (f->ops->channel_open(f->t, start_program, false, &c->ch, &e) < 0) {
		c->ch = NULL;
		return;
	}
	c->session = true;
	f->n_sessions++;
	strbuf_reset(&c->intro);
	strbuf_addf(&c->intro, "h=%s; p=%d; %s", c->to->host, c->to->port, program);
}

/* No channel afterwards: it waits. */
static void start(struct forwards *f, struct conn *c)
{
	struct err e = ERR_INIT;

	if (!f->t)
		return;
	if (f->forbidden || !f->ops->channel_direct)
		start_session(f, c);
	else if (f->ops->channel_direct(f->t, c->to->host, c->to->port, &c->ch, &e) < 0)
		c->ch = NULL;
}

/* The channel could not be had, or broke. */
static enum conn_fate channel_failed(struct forwards *f, struct conn *c, ssize_t code)
{
	bool session = c->session;

	drop_channel(f, c);
	if (code == -EACCES && !session) {
		f->forbidden = true;
		return CONN_MORE;
	}
	if (code == -EMFILE && session && f->n_sessions) {
		f->max_sessions = f->n_sessions; /* its turn comes */
		return CONN_GOES_ON;
	}
	if (code == -EMFILE && session)
		say(c,
		    "the server forbids port forwarding (AllowTcpForwarding), and another session (MaxSessions) too");
	else if (code == -EMFILE)
		say(c, "the server allows no more channels");
	else if (code == -ECONNREFUSED)
		say(c, "the server cannot connect to it (nothing listens there, or the name is not known there)");
	else
		say(c, "the connection was cut");
	return CONN_FAILED;
}

static void read_noise(struct forwards *f, struct conn *c)
{
	char buf[512];
	ssize_t n;

	while (c->session && (n = f->ops->read_stderr(c->ch, buf, sizeof(buf))) > 0) {
		strbuf_add(&c->noise, buf, (size_t)n);
		if (c->noise.len > NOISE_MAX)
			strbuf_remove(&c->noise, 0, c->noise.len - NOISE_MAX);
	}
}

/* The program ended before a byte came. */
static enum conn_fate session_failed(struct forwards *f, struct conn *c)
{
	cleanup_free char *text = NULL;

	read_noise(f, c);
	while (c->noise.len && strchr("\r\n ", c->noise.buf[c->noise.len - 1]))
		strbuf_setlen(&c->noise, c->noise.len - 1);
	if (!c->noise.len)
		return CONN_GOES_ON; /* the peer said nothing, and that is all */
	text = xasprintf("the server forbids port forwarding (AllowTcpForwarding), and a program there cannot do "
			 "it either: %s",
			 c->noise.buf);
	say(c, text);
	return CONN_FAILED;
}

/* --- bytes: negative codes are the channel's, 1 means more at once; the socket's trouble is CONN_FAILED --- */

static bool from_socket(struct conn *c)
{
	size_t room;
	char *at = tail(&c->up, &room);
	ssize_t n;

	if (c->fd_eof || !room)
		return true;
	n = recv(c->fd, at, room, MSG_DONTWAIT);
	if (n > 0)
		c->up.len += (size_t)n;
	else if (n == 0)
		c->fd_eof = true;
	else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
		return false;
	return true;
}

static ssize_t to_channel(struct forwards *f, struct conn *c)
{
	ssize_t n;

	while (c->intro.len) {
		n = f->ops->write(c->ch, c->intro.buf, c->intro.len);
		if (n <= 0)
			return n;
		strbuf_remove(&c->intro, 0, (size_t)n);
	}
	while (c->up.len) {
		n = f->ops->write(c->ch, c->up.buf + c->up.at, c->up.len);
		if (n <= 0)
			return n;
		took(&c->up, (size_t)n);
	}
	if (c->fd_eof && !c->eof_sent) {
		f->ops->send_eof(c->ch);
		c->eof_sent = true;
	}
	return 0;
}

/* The socket's bytes to the channel. */
static enum conn_fate step_up(struct forwards *f, struct conn *c)
{
	size_t before;
	ssize_t n;

	for (size_t done = 0; done < ROUND; done += before) {
		if (!from_socket(c))
			return CONN_FAILED;
		before = c->up.len;
		n = to_channel(f, c);
		if (n == -EPIPE) { /* the peer takes no more; what it says still counts */
			c->fd_eof = c->eof_sent = true;
			took(&c->up, c->up.len);
			return CONN_GOES_ON;
		}
		if (n < 0 && n != -EAGAIN)
			return channel_failed(f, c, n);
		if (c->up.len || c->fd_eof || !before)
			return CONN_GOES_ON;
	}
	return CONN_GOES_ON; /* the socket is readable, so poll(2) says so at once */
}

static bool to_socket(struct conn *c)
{
	while (c->down.len) {
		ssize_t n = send(c->fd, c->down.buf + c->down.at, c->down.len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK;
		took(&c->down, (size_t)n);
	}
	if (c->ch_eof && !c->fd_shut) {
		(void)shutdown(c->fd, SHUT_WR);
		c->fd_shut = true;
	}
	return true;
}

/* The channel's bytes to the socket. */
static enum conn_fate step_down(struct forwards *f, struct conn *c)
{
	for (size_t done = 0; done < ROUND;) {
		size_t room;
		char *at = tail(&c->down, &room);
		ssize_t n = c->ch_eof || !room ? -EAGAIN : f->ops->read(c->ch, at, room);

		if (n > 0) {
			c->down.len += (size_t)n;
			c->heard = true;
			done += (size_t)n;
		} else if (n == 0) {
			c->ch_eof = true;
			if (c->session && !c->heard && session_failed(f, c) == CONN_FAILED)
				return CONN_FAILED;
		} else if (n != -EAGAIN) {
			return channel_failed(f, c, n);
		}
		if (!to_socket(c))
			return CONN_FAILED;
		if (n <= 0 || c->down.len)
			return CONN_GOES_ON;
	}
	return CONN_MORE; /* the rest is in the transport's memory: no descriptor tells of it */
}

static void set_events(const struct forwards *f, struct conn *c)
{
	struct epoll_event ev = { .data.ptr = NULL };
	size_t room;

	(void)tail(&c->up, &room);
	if (c->ch && !c->fd_eof && room)
		ev.events |= EPOLLIN;
	if (c->down.len)
		ev.events |= EPOLLOUT;
	if (ev.events == c->polled)
		return;
	/* What is not waited for is taken out: a hang-up would be told all the time. */
	(void)epoll_ctl(f->epfd, !ev.events ? EPOLL_CTL_DEL : c->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &ev);
	c->polled = ev.events;
}

enum conn_fate conn_step(struct forwards *f, struct conn *c)
{
	enum conn_fate fate;

	if (!c->ch) {
		start(f, c);
		if (!c->ch)
			return CONN_GOES_ON;
	}
	fate = step_up(f, c);
	if (fate != CONN_GOES_ON || !c->ch)
		return fate;
	read_noise(f, c);
	fate = step_down(f, c);
	if (fate == CONN_FAILED)
		return fate;
	if (c->heard) {
		free(c->to->trouble);
		c->to->trouble = NULL;
	}
	if (c->fd_shut && c->eof_sent)
		return CONN_DONE;
	set_events(f, c);
	return fate;
}
