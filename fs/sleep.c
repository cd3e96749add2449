/*
 * The sleep of the machine, told by logind (org.freedesktop.login1.Manager: Inhibit and PrepareForSleep,
 * https://www.freedesktop.org/wiki/Software/systemd/inhibit) over the system bus.
 *
 * Owns the connection and the inhibitor's descriptor; closing that one lets the machine sleep. Messages are read and
 * written as the D-Bus specification 0.38 has them ("Message Protocol"), in the byte order of this machine. Anything
 * that is not expected ends the connection, and the next try begins anew: losing the inhibitor costs a suspend that
 * takes longer, and nothing else.
 */
#include "fs/sleep.h"

#include "backend/base/clock.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LOGIND "org.freedesktop.login1"
#define BUS_PATH "/run/dbus/system_bus_socket"
#define RETRY_US (30LL * USEC_PER_SEC)
#define MESSAGE_MAX ((size_t)256 * 1024)
#define FDS_MAX 4

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ORDER 'l'
#else
#define ORDER 'B'
#endif

enum { CALL = 1, REPLY, FAILURE, SIGNAL };                                                      /* types of messages */
enum { F_PATH = 1, F_INTERFACE, F_MEMBER, F_REPLY_SERIAL = 5, F_DESTINATION, F_SIGNATURE = 8 }; /* header fields */
enum { S_HELLO = 1, S_MATCH, S_INHIBIT }; /* serials of our calls */

struct sleep_watch {
	void (*tell)(void *arg, bool asleep);
	void *arg;
	int bus, inhibitor, came; /* descriptors; `came` with a message that is not taken yet; -1: none */
	struct strbuf in;
	bool begun; /* the text before the messages (SASL) is over */
	bool asleep;
	int64_t try_at;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static void hang_up(struct sleep_watch *w)
{
	bool asleep = w->asleep;

	close_fd(&w->bus);
	close_fd(&w->inhibitor);
	close_fd(&w->came);
	strbuf_reset(&w->in);
	w->begun = w->asleep = false;
	if (asleep)
		w->tell(w->arg, false);
}

/* --- writing --- */

static void put_align(struct strbuf *sb, size_t to)
{
	while (sb->len % to)
		strbuf_add(sb, "", 1);
}

static void put_u32(struct strbuf *sb, uint32_t v)
{
	put_align(sb, sizeof(v));
	strbuf_add(sb, &v, sizeof(v));
}

static void put_string(struct strbuf *sb, const char *s)
{
	put_u32(sb, (uint32_t)strlen(s));
	strbuf_add(sb, s, strlen(s) + 1);
}

static void put_signature(struct strbuf *sb, const char *s)
{
	const unsigned char len = (unsigned char)strlen(s);

	strbuf_add(sb, &len, 1);
	strbuf_add(sb, s, (size_t)len + 1);
}

/* A header field: its code and a variant that is a string, an object path or a signature. */
static void put_field(struct strbuf *sb, unsigned char code, const char *type, const char *value)
{
	put_align(sb, 8);
	strbuf_add(sb, &code, 1);
	put_signature(sb, type);
	if (*type == 'g')
		put_signature(sb, value);
	else
		put_string(sb, value);
}

static bool send_all(const struct sleep_watch *w, const void *data, size_t len)
{
	return send(w->bus, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

struct call {
	uint32_t serial;
	const char *to, *path, *interface, *member;
	const char *args[4]; /* all strings */
};

static bool send_call(const struct sleep_watch *w, const struct call *c)
{
	struct strbuf sb = STRBUF_INIT, body = STRBUF_INIT;
	const char head[4] = { ORDER, CALL, 0, 1 };
	char signature[ARRAY_SIZE(c->args) + 1] = "";
	uint32_t len;
	bool sent;

	for (size_t i = 0; i < ARRAY_SIZE(c->args) && c->args[i]; i++) {
		put_string(&body, c->args[i]);
		signature[i] = 's';
	}
	strbuf_add(&sb, head, sizeof(head));
	put_u32(&sb, (uint32_t)body.len);
	put_u32(&sb, c->serial);
	put_u32(&sb, 0); /* the length of the fields, in a moment */
	put_field(&sb, F_PATH, "o", c->path);
	put_field(&sb, F_INTERFACE, "s", c->interface);
	put_field(&sb, F_MEMBER, "s", c->member);
	put_field(&sb, F_DESTINATION, "s", c->to);
	if (*signature)
		put_field(&sb, F_SIGNATURE, "g", signature);
	len = (uint32_t)sb.len - 16;
	memcpy(sb.buf + 12, &len, sizeof(len));
	put_align(&sb, 8);
	strbuf_addbuf(&sb, &body);
	sent = send_all(w, sb.buf, sb.len);
	strbuf_release(&sb);
	strbuf_release(&body);
	return sent;
}

static bool call_bus(const struct sleep_watch *w, uint32_t serial, const char *member, const char *arg)
{
	const struct call c = { serial, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member,
				{ arg } };

	return send_call(w, &c);
}

static bool inhibit(const struct sleep_watch *w)
{
	const struct call c = {
		S_INHIBIT,         LOGIND,    "/org/freedesktop/login1",
		LOGIND ".Manager", "Inhibit", { "sleep", "slurmray", "blocked readers are let go first", "delay" }
	};

	return send_call(w, &c);
}

/* --- reading --- */

struct reader {
	const char *p;
	size_t len, at;
	bool bad;
};

static const char *take(struct reader *r, size_t align, size_t n)
{
	size_t at = (r->at + align - 1) / align * align;

	if (r->bad || at > r->len || n > r->len - at) {
		r->bad = true;
		return NULL;
	}
	r->at = at + n;
	return r->p + at;
}

static uint32_t take_u32(struct reader *r)
{
	const char *p = take(r, 4, 4);
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return v;
}

static const char *take_string(struct reader *r, size_t len)
{
	const char *s = len < MESSAGE_MAX ? take(r, 1, len + 1) : NULL;

	if (!s || s[len] != '\0') {
		r->bad = true;
		return "";
	}
	return s;
}

static const char *take_short(struct reader *r)
{
	const char *p = take(r, 1, 1);

	return take_string(r, p ? (unsigned char)*p : 0);
}

struct message {
	unsigned char type;
	uint32_t reply_to;
	const char *interface, *member;
	struct reader body;
};

static bool parse(const char *data, size_t len, size_t body_len, struct message *m)
{
	struct reader r = { data, len - body_len, 12, false };
	size_t end;

	memset(m, 0, sizeof(*m));
	m->type = (unsigned char)data[1];
	m->interface = m->member = "";
	m->body = (struct reader){ data + (len - body_len), body_len, 0, false };
	end = take_u32(&r) + 16;
	while (!r.bad && r.at < end) {
		const char *code = take(&r, 8, 1), *type = take_short(&r), *text = "";
		uint32_t number = 0;

		if (strcmp(type, "u") == 0)
			number = take_u32(&r);
		else if (strcmp(type, "s") == 0 || strcmp(type, "o") == 0)
			text = take_string(&r, take_u32(&r));
		else if (strcmp(type, "g") == 0)
			text = take_short(&r);
		else
			return false;
		if (r.bad)
			return false;
		if (*code == F_REPLY_SERIAL)
			m->reply_to = number;
		else if (*code == F_INTERFACE)
			m->interface = text;
		else if (*code == F_MEMBER)
			m->member = text;
	}
	return !r.bad;
}

static void prepare(struct sleep_watch *w, bool asleep)
{
	if (asleep != w->asleep) {
		w->asleep = asleep;
		w->tell(w->arg, asleep);
	}
	if (asleep)
		close_fd(&w->inhibitor); /* the machine may go */
}

static bool take_message(struct sleep_watch *w, struct message *m)
{
	if (m->type == REPLY && m->reply_to == S_INHIBIT && w->came >= 0) {
		close_fd(&w->inhibitor);
		w->inhibitor = w->came;
		w->came = -1;
		log_debug("logind waits for us before the machine sleeps");
	} else if (m->type == FAILURE && m->reply_to == S_INHIBIT) {
		log_debug("logind gives no delay inhibitor");
	} else if (m->type == SIGNAL && strcmp(m->interface, LOGIND ".Manager") == 0 &&
		   strcmp(m->member, "PrepareForSleep") == 0) {
		bool asleep = take_u32(&m->body) != 0;

		if (m->body.bad)
			return false;
		prepare(w, asleep);
		return asleep || w->inhibitor >= 0 || inhibit(w);
	}
	return true;
}

/* "OK GUID", then the answer to NEGOTIATE_UNIX_FD, each a line; then messages only (specification, "Authentication
 * Protocol"). */
static bool greet(struct sleep_watch *w)
{
	static const char rule[] =
		"type='signal',sender='" LOGIND "',interface='" LOGIND ".Manager',member='PrepareForSleep'";
	static const char begin[] = "BEGIN\r\n";
	const char *first = strstr(w->in.buf, "\r\n"), *second = first ? strstr(first + 2, "\r\n") : NULL;

	if (!second)
		return w->in.len < 1024;
	if (strncmp(w->in.buf, "OK ", 3) != 0 || strncmp(first + 2, "AGREE_UNIX_FD", 13) != 0)
		return false;
	strbuf_remove(&w->in, 0, (size_t)(second + 2 - w->in.buf));
	w->begun = true;
	return send_all(w, begin, sizeof(begin) - 1) && call_bus(w, S_HELLO, "Hello", NULL) &&
	       call_bus(w, S_MATCH, "AddMatch", rule) && inhibit(w);
}

/* The first message, when it is whole: 1 taken, 0 not whole, -1 nonsense. */
static int one_message(struct sleep_watch *w)
{
	struct reader r = { w->in.buf, w->in.len, 4, false };
	size_t body, fields, total;
	struct message m;

	if (w->in.len < 16)
		return 0;
	body = take_u32(&r);
	(void)take_u32(&r);
	fields = take_u32(&r);
	if (w->in.buf[0] != ORDER || body > MESSAGE_MAX || fields > MESSAGE_MAX)
		return -1;
	total = 16 + (fields + 7) / 8 * 8 + body;
	if (w->in.len < total)
		return 0;
	if (!parse(w->in.buf, total, body, &m) || !take_message(w, &m))
		return -1;
	strbuf_remove(&w->in, 0, total);
	return 1;
}

/* As recv(2); a descriptor that comes with the data is kept until its message is taken. */
static ssize_t receive(struct sleep_watch *w, char *buf, size_t size)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(FDS_MAX * sizeof(int))];
	struct iovec iov = { buf, size };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	ssize_t n = recvmsg(w->bus, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&mh) : NULL; c; c = CMSG_NXTHDR(&mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
			close_fd(&w->came);
			memcpy(&w->came, (const char *)c + at, sizeof(int));
		}
	}
	return n;
}

void sleep_step(struct sleep_watch *w)
{
	char buf[4096];
	ssize_t n;
	int rc = 1;

	if (w->bus < 0)
		return;
	n = receive(w, buf, sizeof(buf));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		hang_up(w);
		return;
	}
	strbuf_add(&w->in, buf, (size_t)n);
	if (!w->begun && !greet(w))
		rc = -1;
	while (w->begun && rc > 0)
		rc = one_message(w);
	if (rc < 0) {
		log_debug("the system bus says what is not understood: it is asked again later");
		hang_up(w);
	}
}

/* --- the connection --- */

/* Only the forms that a system bus on this machine has (specification, "Server Addresses"); others are no bus for us.
 */
static bool address(struct sockaddr_un *sa, socklen_t *size)
{
	const char *text = getenv("DBUS_SYSTEM_BUS_ADDRESS"), *path = BUS_PATH;
	size_t len;
	bool hidden = false;

	if (text && *text) {
		hidden = strncmp(text, "unix:abstract=", 14) == 0;
		if (!hidden && strncmp(text, "unix:path=", 10) != 0)
			return false;
		path = strchr(text, '=') + 1;
	}
	len = strcspn(path, ",;");
	if (!len || len + 1 >= sizeof(sa->sun_path))
		return false;
	memset(sa, 0, sizeof(*sa));
	sa->sun_family = AF_UNIX;
	memcpy(sa->sun_path + hidden, path, len);
	*size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
	return true;
}

void sleep_try(struct sleep_watch *w, long long now)
{
	struct strbuf hello = STRBUF_INIT;
	struct sockaddr_un sa;
	socklen_t size;
	char uid[24];

	if (w->bus >= 0 || now < w->try_at)
		return;
	w->try_at = now + RETRY_US;
	if (!address(&sa, &size))
		return;
	w->bus = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	(void)snprintf(uid, sizeof(uid), "%u", (unsigned)geteuid());
	strbuf_add(&hello, "", 1);
	strbuf_addstr(&hello, "AUTH EXTERNAL ");
	for (const char *p = uid; *p; p++)
		strbuf_addf(&hello, "%02x", (unsigned char)*p);
	strbuf_addstr(&hello, "\r\nNEGOTIATE_UNIX_FD\r\n");
	if (w->bus < 0 || connect(w->bus, (const struct sockaddr *)&sa, size) < 0 || !send_all(w, hello.buf, hello.len))
		hang_up(w);
	strbuf_release(&hello);
}

struct sleep_watch *sleep_new(void (*tell)(void *arg, bool asleep), void *arg)
{
	struct sleep_watch *w = xcalloc(1, sizeof(*w));

	w->tell = tell;
	w->arg = arg;
	w->bus = w->inhibitor = w->came = -1;
	strbuf_init(&w->in);
	return w;
}

void sleep_free(struct sleep_watch *w)
{
	if (!w)
		return;
	w->asleep = false;
	hang_up(w);
	strbuf_release(&w->in);
	free(w);
}

int sleep_fd(const struct sleep_watch *w)
{
	return w->bus;
}

bool sleep_inhibits(const struct sleep_watch *w)
{
	return w->inhibitor >= 0;
}
