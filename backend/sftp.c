/*
 * The SFTP client codec. Owns the table of open requests, the bytes to be sent and the bytes of a packet that has not
 * arrived whole. Packet numbers, flags and status codes are those of draft-ietf-secsh-filexfer-02.
 *
 * Invariants: every request that was registered is answered exactly once, by sftp_input or sftp_abort, or dropped by
 * sftp_free; a packet is looked at only when all of it is there, and every length inside is checked against what is
 * left of it; a reply of a kind that the request cannot have, for an id that is not open, or with more data than was
 * asked for gives the connection up. Callbacks may make requests; they may not feed input or free.
 */
#include "backend/sftp.h"

#include "backend/base/hash.h"
#include "backend/base/list.h"
#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define VERSION 3
#define HANDLE_MAX 256 /* draft 4: "at most 256 bytes" */

enum packet {
	P_INIT = 1,
	P_VERSION = 2,
	P_OPEN = 3,
	P_CLOSE = 4,
	P_READ = 5,
	P_WRITE = 6,
	P_LSTAT = 7,
	P_FSTAT = 8,
	P_OPENDIR = 11,
	P_READDIR = 12,
	P_REALPATH = 16,
	P_STAT = 17,
	P_READLINK = 19,
	P_STATUS = 101,
	P_HANDLE = 102,
	P_DATA = 103,
	P_NAME = 104,
	P_ATTRS = 105,
};

enum open_flag { OPEN_READ = 1, OPEN_WRITE = 2, OPEN_CREAT = 8, OPEN_TRUNC = 16 };

enum attr_flag { ATTR_SIZE = 1, ATTR_UIDGID = 2, ATTR_MODE = 4, ATTR_TIMES = 8 };
#define ATTR_EXTENDED 0x80000000u

enum status { S_OK, S_EOF, S_NO_SUCH_FILE, S_PERMISSION_DENIED };

struct request {
	struct hmap_node node;
	struct list order;
	uint32_t id;
	enum packet type;
	uint32_t asked; /* READ */
	sftp_cb cb;     /* NULL: nobody wants the answer */
	void *arg;
};

struct sftp {
	struct strbuf in, out, text;
	struct hmap open;  /* by id */
	struct list order; /* of sending */
	uint32_t next_id;
	bool ready, dead, busy; /* busy: inside sftp_input */
};

/* What is left of a packet; `bad` once something was asked for that is not there. */
struct cursor {
	const unsigned char *p;
	size_t left;
	bool bad;
};

/* --- writing --- */

static void put_u32(struct strbuf *sb, uint32_t v)
{
	unsigned char b[4] = { (unsigned char)(v >> 24), (unsigned char)(v >> 16), (unsigned char)(v >> 8),
			       (unsigned char)v };

	strbuf_add(sb, b, sizeof(b));
}

static void put_u64(struct strbuf *sb, uint64_t v)
{
	put_u32(sb, (uint32_t)(v >> 32));
	put_u32(sb, (uint32_t)v);
}

static void put_string(struct strbuf *sb, const void *data, size_t len)
{
	put_u32(sb, (uint32_t)len);
	strbuf_add(sb, data, len);
}

static struct request *request_find(struct sftp *s, uint32_t id)
{
	struct hmap_node *n = hmap_first(&s->open, hash_u64(id));

	for (; n; n = hmap_next(n)) {
		struct request *r = container_of(n, struct request, node);

		if (r->id == id)
			return r;
	}
	return NULL;
}

/* Registers a request and writes its head; `body` is the length of what the caller appends. */
static struct request *request_new(struct sftp *s, enum packet type, size_t body, sftp_cb cb, void *arg)
{
	struct request *r = xcalloc(1, sizeof(*r));

	assert(body <= SFTP_PACKET_MAX - 5);
	do {
		r->id = s->next_id++;
	} while (request_find(s, r->id));
	r->type = type;
	r->cb = cb;
	r->arg = arg;
	hmap_insert(&s->open, &r->node, hash_u64(r->id));
	list_add_tail(&s->order, &r->order);
	put_u32(&s->out, (uint32_t)(body + 5));
	strbuf_addch(&s->out, (char)type);
	put_u32(&s->out, r->id);
	return r;
}

static void request_del(struct sftp *s, struct request *r)
{
	hmap_remove(&s->open, &r->node);
	list_del(&r->order);
}

static void send_string(struct sftp *s, enum packet type, const void *data, size_t len, sftp_cb cb, void *arg)
{
	(void)request_new(s, type, 4 + len, cb, arg);
	put_string(&s->out, data, len);
}

static void send_open(struct sftp *s, const char *path, uint32_t flags, bool with_mode, uint32_t mode, sftp_cb cb,
		      void *arg)
{
	size_t len = strlen(path);

	(void)request_new(s, P_OPEN, 4 + len + 8 + (with_mode ? 4 : 0), cb, arg);
	put_string(&s->out, path, len);
	put_u32(&s->out, flags);
	put_u32(&s->out, with_mode ? ATTR_MODE : 0);
	if (with_mode)
		put_u32(&s->out, mode);
}

struct sftp *sftp_new(void)
{
	struct sftp *s = xcalloc(1, sizeof(*s));

	strbuf_init(&s->in);
	strbuf_init(&s->out);
	strbuf_init(&s->text);
	hmap_init(&s->open);
	list_init(&s->order);
	put_u32(&s->out, 5);
	strbuf_addch(&s->out, P_INIT);
	put_u32(&s->out, VERSION);
	return s;
}

void sftp_free(struct sftp *s)
{
	struct list *l;

	if (!s)
		return;
	while ((l = s->order.next) != &s->order) {
		struct request *r = container_of(l, struct request, order);

		request_del(s, r);
		free(r);
	}
	hmap_release(&s->open);
	strbuf_release(&s->in);
	strbuf_release(&s->out);
	strbuf_release(&s->text);
	free(s);
}

struct strbuf *sftp_output(struct sftp *s)
{
	return &s->out;
}

bool sftp_ready(const struct sftp *s)
{
	return s->ready;
}

size_t sftp_in_flight(const struct sftp *s)
{
	return s->open.count;
}

void sftp_open_read(struct sftp *s, const char *path, sftp_cb cb, void *arg)
{
	send_open(s, path, OPEN_READ, false, 0, cb, arg);
}

void sftp_open_write(struct sftp *s, const char *path, uint32_t mode, bool truncate, sftp_cb cb, void *arg)
{
	send_open(s, path, OPEN_WRITE | OPEN_CREAT | (truncate ? (uint32_t)OPEN_TRUNC : 0), true, mode, cb, arg);
}

void sftp_close(struct sftp *s, const char *handle, size_t len)
{
	send_string(s, P_CLOSE, handle, len, NULL, NULL);
}

void sftp_read(struct sftp *s, const char *handle, size_t hlen, uint64_t off, uint32_t len, sftp_cb cb, void *arg)
{
	struct request *r = request_new(s, P_READ, 4 + hlen + 12, cb, arg);

	r->asked = len < SFTP_READ_MAX ? len : SFTP_READ_MAX;
	put_string(&s->out, handle, hlen);
	put_u64(&s->out, off);
	put_u32(&s->out, r->asked);
}

void sftp_write(struct sftp *s, const char *handle, size_t hlen, uint64_t off, const void *data, size_t len, sftp_cb cb,
		void *arg)
{
	(void)request_new(s, P_WRITE, 4 + hlen + 12 + len, cb, arg);
	put_string(&s->out, handle, hlen);
	put_u64(&s->out, off);
	put_string(&s->out, data, len);
}

void sftp_stat(struct sftp *s, const char *path, sftp_cb cb, void *arg)
{
	send_string(s, P_STAT, path, strlen(path), cb, arg);
}

void sftp_lstat(struct sftp *s, const char *path, sftp_cb cb, void *arg)
{
	send_string(s, P_LSTAT, path, strlen(path), cb, arg);
}

void sftp_fstat(struct sftp *s, const char *handle, size_t hlen, sftp_cb cb, void *arg)
{
	send_string(s, P_FSTAT, handle, hlen, cb, arg);
}

void sftp_opendir(struct sftp *s, const char *path, sftp_cb cb, void *arg)
{
	send_string(s, P_OPENDIR, path, strlen(path), cb, arg);
}

void sftp_readdir(struct sftp *s, const char *handle, size_t hlen, sftp_cb cb, void *arg)
{
	send_string(s, P_READDIR, handle, hlen, cb, arg);
}

void sftp_readlink(struct sftp *s, const char *path, sftp_cb cb, void *arg)
{
	send_string(s, P_READLINK, path, strlen(path), cb, arg);
}

void sftp_realpath(struct sftp *s, const char *path, sftp_cb cb, void *arg)
{
	send_string(s, P_REALPATH, path, strlen(path), cb, arg);
}

/* --- reading --- */

static const unsigned char *get_bytes(struct cursor *c, size_t n)
{
	const unsigned char *p = c->p;

	if (c->bad || n > c->left) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	c->left -= n;
	return p;
}

static uint32_t get_u32(struct cursor *c)
{
	const unsigned char *p = get_bytes(c, 4);

	return p ? (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3] : 0;
}

static uint64_t get_u64(struct cursor *c)
{
	uint64_t high = get_u32(c);

	return high << 32 | get_u32(c);
}

static const char *get_string(struct cursor *c, size_t *len)
{
	*len = get_u32(c);
	return (const char *)get_bytes(c, *len);
}

static void get_attr(struct cursor *c, struct sftp_attr *a)
{
	uint32_t flags = get_u32(c);
	size_t len;

	*a = (struct sftp_attr){ 0 };
	if (flags & ATTR_SIZE) {
		a->has_size = true;
		a->size = get_u64(c);
	}
	if (flags & ATTR_UIDGID)
		(void)get_u64(c);
	if (flags & ATTR_MODE) {
		a->has_mode = true;
		a->mode = get_u32(c);
	}
	if (flags & ATTR_TIMES) {
		a->has_times = true;
		(void)get_u32(c);
		a->mtime = get_u32(c);
	}
	if (flags & ATTR_EXTENDED) {
		for (uint32_t n = get_u32(c); n && !c->bad; n--) {
			(void)get_string(c, &len);
			(void)get_string(c, &len);
		}
	}
}

static int errno_of(uint32_t status)
{
	static const int codes[] = {
		[S_OK] = 0,     [S_EOF] = -ENODATA, [S_NO_SUCH_FILE] = -ENOENT, [S_PERMISSION_DENIED] = -EACCES,
		[4] = -EIO, /* SSH_FX_FAILURE: whatever else went wrong */
		[5] = -EBADMSG, [6] = -ECONNRESET,  [7] = -ECONNRESET,          [8] = -EOPNOTSUPP,
	};

	return status < ARRAY_SIZE(codes) ? codes[status] : -EIO;
}

static void answer(struct request *r, const struct sftp_reply *reply)
{
	if (r->cb)
		r->cb(r->arg, reply);
}

/* Copies bytes of the packet so that they end in NUL; -1 when they hold one. */
static int keep_text(struct sftp *s, const char *data, size_t len)
{
	strbuf_reset(&s->text);
	strbuf_add(&s->text, data, len);
	return memchr(data, '\0', len) ? -1 : 0;
}

static bool on_status(struct sftp *s, struct request *r, struct cursor *c)
{
	struct sftp_reply reply = { .text = "" };
	uint32_t status = get_u32(c);
	size_t len = 0;
	const char *text = !c->bad && c->left ? get_string(c, &len) : NULL; /* old servers leave the text out */

	if (c->bad)
		return false;
	if (text) {
		(void)keep_text(s, text, len);
		reply.text = s->text.buf;
	}
	if (status == S_OK && r->type != P_CLOSE && r->type != P_WRITE)
		return false; /* an answer without what was asked for */
	reply.code = errno_of(status);
	if (status == S_EOF && r->type == P_READ)
		reply.code = 0;
	else if (status == S_EOF && r->type != P_READDIR)
		reply.code = -EIO;
	answer(r, &reply);
	return true;
}

static bool on_handle(struct request *r, struct cursor *c)
{
	struct sftp_reply reply = { .text = "" };

	if (r->type != P_OPEN && r->type != P_OPENDIR)
		return false;
	reply.data = get_string(c, &reply.len);
	if (c->bad || reply.len > HANDLE_MAX)
		return false;
	answer(r, &reply);
	return true;
}

static bool on_data(struct request *r, struct cursor *c)
{
	struct sftp_reply reply = { .text = "" };

	if (r->type != P_READ)
		return false;
	reply.data = get_string(c, &reply.len);
	if (c->bad || reply.len > r->asked)
		return false;
	answer(r, &reply);
	return true;
}

static bool on_attrs(struct request *r, struct cursor *c)
{
	struct sftp_reply reply = { .text = "" };

	if (r->type != P_STAT && r->type != P_LSTAT && r->type != P_FSTAT)
		return false;
	get_attr(c, &reply.attr);
	if (c->bad)
		return false;
	answer(r, &reply);
	return true;
}

static bool is_entry(const char *name, size_t len)
{
	if (!len || memchr(name, '/', len) || memchr(name, '\0', len))
		return false;
	return !(len == 1 && name[0] == '.') && !(len == 2 && name[0] == '.' && name[1] == '.');
}

/* The whole list is checked before the first entry is reported: no half a batch. */
static bool list_ok(struct cursor c, uint32_t count)
{
	struct sftp_attr attr;
	size_t len;

	for (; count && !c.bad; count--) {
		(void)get_string(&c, &len);
		(void)get_string(&c, &len);
		get_attr(&c, &attr);
	}
	return !c.bad;
}

static bool on_list(struct sftp *s, struct request *r, struct cursor *c, uint32_t count)
{
	struct sftp_reply last = { .text = "" };

	if (!list_ok(*c, count))
		return false;
	for (; count; count--) {
		struct sftp_reply reply = { .text = "" };
		size_t len, ignored;
		const char *name = get_string(c, &len);

		(void)get_string(c, &ignored);
		get_attr(c, &reply.attr);
		if (!is_entry(name, len))
			continue;
		(void)keep_text(s, name, len);
		reply.name = s->text.buf;
		answer(r, &reply);
	}
	answer(r, &last);
	return true;
}

static bool on_name(struct sftp *s, struct request *r, struct cursor *c)
{
	struct sftp_reply reply = { .text = "" };
	uint32_t count = get_u32(c);
	const char *path;

	if (c->bad)
		return false;
	if (r->type == P_READDIR)
		return on_list(s, r, c, count);
	if ((r->type != P_READLINK && r->type != P_REALPATH) || count != 1)
		return false;
	path = get_string(c, &reply.len);
	if (c->bad || keep_text(s, path, reply.len) < 0)
		return false;
	reply.data = s->text.buf;
	answer(r, &reply);
	return true;
}

static bool dispatch(struct sftp *s, struct request *r, unsigned type, struct cursor *c)
{
	switch (type) {
	case P_STATUS:
		return on_status(s, r, c);
	case P_HANDLE:
		return on_handle(r, c);
	case P_DATA:
		return on_data(r, c);
	case P_ATTRS:
		return on_attrs(r, c);
	case P_NAME:
		return on_name(s, r, c);
	default:
		return false;
	}
}

static int on_version(struct sftp *s, struct cursor *c, struct err *e)
{
	uint32_t version = get_u32(c);

	if (c->bad || version < VERSION)
		return err_set(e, -EPROTO, "the SFTP server speaks version %u; version 3 is needed", version);
	s->ready = true;
	return 0;
}

static int on_packet(struct sftp *s, struct cursor c, struct err *e)
{
	unsigned type = *get_bytes(&c, 1);
	struct request *r;
	uint32_t id;
	bool fine;

	if (!s->ready)
		return type == P_VERSION ? on_version(s, &c, e)
					 : err_set(e, -EPROTO, "the SFTP server began with packet type %u", type);
	id = get_u32(&c);
	r = c.bad ? NULL : request_find(s, id);
	if (!r)
		return err_set(e, -EPROTO, "the SFTP server answered what was not asked (packet type %u)", type);
	request_del(s, r);
	fine = dispatch(s, r, type, &c);
	if (!fine) {
		struct sftp_reply reply = { .code = -ECONNRESET, .text = "the answer made no sense" };

		answer(r, &reply);
	}
	free(r);
	return fine ? 0 : err_set(e, -EPROTO, "the SFTP server sent a packet that makes no sense (type %u)", type);
}

/* Handles the whole packets at the beginning of `in`, and says how many bytes they had. */
static int on_bytes(struct sftp *s, size_t *used, struct err *e)
{
	int code = 0;

	while (!code && !s->dead && s->in.len - *used >= 4) {
		struct cursor c = { (const unsigned char *)s->in.buf + *used, s->in.len - *used, false };
		uint32_t len = get_u32(&c);

		if (len < 1 || len > SFTP_PACKET_MAX)
			return err_set(e, -EPROTO, "the SFTP server sent a packet of %u bytes%s", len,
				       s->ready ? "" : "; does the login shell print a banner?");
		if (c.left < len)
			break;
		*used += 4 + (size_t)len;
		c.left = len;
		code = on_packet(s, c, e);
	}
	return code;
}

int sftp_input(struct sftp *s, const char *data, size_t len, struct err *e)
{
	size_t used = 0;
	int code;

	assert(!s->busy);
	if (s->dead)
		return err_set(e, -EPROTO, "the SFTP channel was given up");
	s->busy = true;
	strbuf_add(&s->in, data, len);
	code = on_bytes(s, &used, e);
	strbuf_remove(&s->in, 0, used);
	s->busy = false;
	if (code)
		s->dead = true;
	return code;
}

void sftp_abort(struct sftp *s)
{
	struct sftp_reply reply = { .code = -ECONNRESET, .text = "the connection was lost" };
	struct list open;
	struct list *l;

	s->dead = true;
	list_init(&open);
	list_splice(&open, &s->order);
	while ((l = open.next) != &open) { /* callbacks may add requests: those are not of this list */
		struct request *r = container_of(l, struct request, order);

		request_del(s, r);
		answer(r, &reply);
		free(r);
	}
}
