/*
 * The SFTP codec: against a peer made of bytes (every kind of answer, hostile ones too), and against OpenSSH's
 * sftp-server over a socket pair.
 */
#include "backend/base/mem.h"
#include "backend/sftp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#define SERVER "/usr/lib/openssh/sftp-server"
#define DEADLINE_MS 20000

/* What a callback saw. */
struct seen {
	int calls, code, entries;
	size_t len;
	char data[512], text[256], names[1024];
	struct sftp_attr attr;
};

static void note(void *arg, const struct sftp_reply *r)
{
	struct seen *s = arg;

	s->calls++;
	s->code = r->code;
	s->len = r->len;
	s->attr = r->attr;
	if (r->data && r->len < sizeof(s->data)) {
		memcpy(s->data, r->data, r->len);
		s->data[r->len] = '\0';
	}
	(void)snprintf(s->text, sizeof(s->text), "%s", r->text ? r->text : "(null)");
	if (r->name) {
		size_t n = strlen(s->names);

		s->entries++;
		(void)snprintf(s->names + n, sizeof(s->names) - n, "%s ", r->name);
	}
}

/* --- a peer made of bytes --- */

static void put32(struct strbuf *sb, uint32_t v)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		strbuf_addch(sb, (char)(v >> shift));
}

static void put_str(struct strbuf *sb, const char *s, size_t len)
{
	put32(sb, (uint32_t)len);
	strbuf_add(sb, s, len);
}

static int feed(struct sftp *s, const struct strbuf *body)
{
	cleanup_strbuf struct strbuf packet = STRBUF_INIT;
	struct err e = ERR_INIT;
	int code = 0;

	put32(&packet, (uint32_t)body->len);
	strbuf_add(&packet, body->buf, body->len);
	for (size_t i = 0; i < packet.len && !code; i++) /* one byte at a time: no packet needs to come whole */
		code = sftp_input(s, packet.buf + i, 1, &e);
	if (code)
		assert_true(e.text[0]);
	return code;
}

static int feed_head(struct sftp *s, char type, uint32_t id, const char *rest, size_t len)
{
	cleanup_strbuf struct strbuf body = STRBUF_INIT;

	strbuf_addch(&body, type);
	put32(&body, id);
	strbuf_add(&body, rest, len);
	return feed(s, &body);
}

static int feed_status(struct sftp *s, uint32_t id, uint32_t status, const char *text)
{
	cleanup_strbuf struct strbuf rest = STRBUF_INIT;

	put32(&rest, status);
	put_str(&rest, text, strlen(text));
	put_str(&rest, "", 0);
	return feed_head(s, 101, id, rest.buf, rest.len);
}

static int feed_string(struct sftp *s, char type, uint32_t id, const char *data, size_t len)
{
	cleanup_strbuf struct strbuf rest = STRBUF_INIT;

	put_str(&rest, data, len);
	return feed_head(s, type, id, rest.buf, rest.len);
}

static struct sftp *ready(void)
{
	struct sftp *s = sftp_new();

	assert_false(sftp_ready(s));
	assert_memory_equal(sftp_output(s)->buf, "\0\0\0\5\1\0\0\0\3", 9);
	assert_int_equal(feed_head(s, 2, 3, NULL, 0), 0);
	assert_true(sftp_ready(s));
	strbuf_reset(sftp_output(s));
	return s;
}

static void test_request_bytes(void **state)
{
	struct sftp *s = ready();
	struct seen a = { 0 };

	(void)state;
	sftp_open_read(s, "/x", note, &a);
	assert_int_equal(sftp_output(s)->len, 23);
	assert_memory_equal(sftp_output(s)->buf, "\0\0\0\23\3\0\0\0\0\0\0\0\2/x\0\0\0\1\0\0\0\0", 23);
	strbuf_reset(sftp_output(s));
	sftp_read(s, "hd", 2, 0x102030405ull, 100000, note, &a);
	assert_int_equal(sftp_output(s)->len, 27);
	assert_memory_equal(sftp_output(s)->buf, "\0\0\0\27\5\0\0\0\1\0\0\0\2hd\0\0\0\1\2\3\4\5\0\0\x80\0", 27);
	strbuf_reset(sftp_output(s));
	sftp_open_write(s, "f", 0600, true, note, &a);
	assert_memory_equal(sftp_output(s)->buf, "\0\0\0\26\3\0\0\0\2\0\0\0\1f\0\0\0\32\0\0\0\4\0\0\1\200", 26);
	assert_int_equal(sftp_in_flight(s), 3);
	sftp_free(s);
	assert_int_equal(a.calls, 0);
}

static void test_answers_in_any_order(void **state)
{
	struct sftp *s = ready();
	struct seen a = { 0 }, b = { 0 }, c = { 0 };

	(void)state;
	sftp_open_read(s, "/a", note, &a);
	sftp_read(s, "h", 1, 0, 10, note, &b);
	sftp_readlink(s, "/c", note, &c);
	assert_int_equal(feed_string(s, 103, 1, "0123456789", 10), 0);
	assert_int_equal(b.calls, 1);
	assert_string_equal(b.data, "0123456789");
	assert_int_equal(feed_string(s, 102, 0, "\0han", 4), 0);
	assert_int_equal(a.len, 4);
	assert_memory_equal(a.data, "\0han", 4);
	assert_int_equal(feed_status(s, 2, 2, "No such file"), 0);
	assert_int_equal(c.code, -ENOENT);
	assert_string_equal(c.text, "No such file");
	assert_int_equal(sftp_in_flight(s), 0);
	sftp_free(s);
}

static void test_status_codes(void **state)
{
	static const int codes[] = { -EIO,     -EIO,        -ENOENT,     -EACCES,     -EIO,
				     -EBADMSG, -ECONNRESET, -ECONNRESET, -EOPNOTSUPP, -EIO };
	struct sftp *s = ready();

	(void)state;
	for (uint32_t i = 1; i < ARRAY_SIZE(codes); i++) {
		struct seen a = { 0 };

		sftp_stat(s, "/x", note, &a);
		assert_int_equal(feed_status(s, i - 1, i, "words"), 0);
		assert_int_equal(a.calls, 1);
		assert_int_equal(a.code, codes[i]);
	}
	sftp_free(s);
}

static void test_status_without_text(void **state)
{
	struct sftp *s = ready();
	struct seen a = { 0 };

	(void)state;
	sftp_stat(s, "/x", note, &a);
	assert_int_equal(feed_head(s, 101, 0, "\0\0\0\3", 4), 0);
	assert_int_equal(a.code, -EACCES);
	assert_string_equal(a.text, "");
	sftp_free(s);
}

static void test_end_of_file_is_no_error(void **state)
{
	struct sftp *s = ready();
	struct seen a = { 0 }, b = { 0 };

	(void)state;
	sftp_read(s, "h", 1, 5, 5, note, &a);
	sftp_readdir(s, "h", 1, note, &b);
	assert_int_equal(feed_status(s, 0, 1, "EOF"), 0);
	assert_int_equal(a.code, 0);
	assert_int_equal(a.len, 0);
	assert_int_equal(feed_status(s, 1, 1, "EOF"), 0);
	assert_int_equal(b.code, -ENODATA);
	sftp_free(s);
}

static void put_entry(struct strbuf *sb, const char *name, size_t len)
{
	put_str(sb, name, len);
	put_str(sb, "-rw-r--r--", 10);
	put32(sb, 1 | 2 | 4 | 8 | 0x80000000u);
	put32(sb, 1);
	put32(sb, 2); /* size 2^32 + 2 */
	put32(sb, 1000);
	put32(sb, 1000);
	put32(sb, 0100644);
	put32(sb, 11);
	put32(sb, 22);
	put32(sb, 1);
	put_str(sb, "name@ext", 8);
	put_str(sb, "x", 1);
}

static void test_readdir(void **state)
{
	cleanup_strbuf struct strbuf rest = STRBUF_INIT;
	struct sftp *s = ready();
	struct seen a = { 0 };

	(void)state;
	put32(&rest, 7);
	put_entry(&rest, ".", 1);
	put_entry(&rest, "..", 2);
	put_entry(&rest, "one", 3);
	put_entry(&rest, "a/b", 3);
	put_entry(&rest, "x\0y", 3);
	put_entry(&rest, "", 0);
	put_entry(&rest, "...", 3);
	sftp_readdir(s, "h", 1, note, &a);
	assert_int_equal(feed_head(s, 104, 0, rest.buf, rest.len), 0);
	assert_int_equal(a.entries, 2);
	assert_int_equal(a.calls, 3);
	assert_string_equal(a.names, "one ... ");
	sftp_free(s);
}

static void test_attributes(void **state)
{
	cleanup_strbuf struct strbuf rest = STRBUF_INIT;
	struct sftp *s = ready();
	struct seen a = { 0 }, b = { 0 };

	(void)state;
	put_entry(&rest, "", 0);
	sftp_stat(s, "/x", note, &a);
	assert_int_equal(feed_head(s, 105, 0, rest.buf + 18, rest.len - 18), 0);
	assert_true(a.attr.has_size && a.attr.has_mode && a.attr.has_times);
	assert_true(a.attr.size == (1ull << 32) + 2);
	assert_int_equal(a.attr.mode, 0100644);
	assert_int_equal(a.attr.mtime, 22);
	sftp_lstat(s, "/x", note, &b);
	assert_int_equal(feed_head(s, 105, 1, "\0\0\0\0", 4), 0);
	assert_false(b.attr.has_size || b.attr.has_mode || b.attr.has_times);
	sftp_free(s);
}

/* Each gives the connection up; a request that was being answered is answered nevertheless, the others by abort. */
static void test_hostile(void **state)
{
	static const struct {
		const char *what;
		char type;
		uint32_t id;
		const char *rest;
		size_t len;
		int answered;
	} cases[] = {
		{ "an id that was not asked", 101, 77, "\0\0\0\0", 4, 0 },
		{ "a status that is cut", 101, 0, "\0\0\0", 3, 1 },
		{ "a text beyond the packet", 101, 0, "\0\0\0\4\0\0\0\20abc", 11, 1 },
		{ "success without the attributes", 101, 0, "\0\0\0\0\0\0\0\0\0\0\0\0", 12, 1 },
		{ "data for a stat", 103, 0, "\0\0\0\1x", 5, 1 },
		{ "a handle for a stat", 102, 0, "\0\0\0\1x", 5, 1 },
		{ "a name for a stat", 104, 0, "\0\0\0\1\0\0\0\1x\0\0\0\0\0\0\0\0", 17, 1 },
		{ "attributes that are cut", 105, 0, "\0\0\0\1\0\0", 6, 1 },
		{ "more extensions than bytes", 105, 0, "\x80\0\0\0\xff\xff\xff\xff", 8, 1 },
		{ "a type of packet that is not known", 99, 0, "", 0, 1 },
		{ "a second version", 2, 0, "", 0, 1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct sftp *s = ready();
		struct seen a = { 0 }, b = { 0 };

		sftp_stat(s, "/x", note, &a);
		sftp_stat(s, "/y", note, &b);
		if (feed_head(s, cases[i].type, cases[i].id, cases[i].rest, cases[i].len) != -EPROTO)
			fail_msg("%s was taken", cases[i].what);
		assert_int_equal(a.calls, cases[i].answered);
		assert_int_equal(sftp_input(s, "x", 1, NULL), -EPROTO);
		sftp_abort(s);
		assert_int_equal(a.calls, 1);
		assert_int_equal(a.code, -ECONNRESET);
		assert_int_equal(b.calls, 1);
		assert_int_equal(b.code, -ECONNRESET);
		assert_int_equal(sftp_in_flight(s), 0);
		sftp_free(s);
	}
}

static void test_hostile_answers_to_others(void **state)
{
	cleanup_strbuf struct strbuf big = STRBUF_INIT;
	struct sftp *s = ready();
	struct seen a = { 0 };

	(void)state;
	sftp_read(s, "h", 1, 0, 4, note, &a);
	assert_int_equal(feed_string(s, 103, 0, "12345", 5), -EPROTO); /* more than was asked */
	sftp_free(s);

	s = ready();
	sftp_open_read(s, "h", note, &a);
	for (int i = 0; i < 257; i++)
		strbuf_addch(&big, 'h');
	assert_int_equal(feed_string(s, 102, 0, big.buf, big.len), -EPROTO);
	sftp_free(s);

	s = ready();
	a = (struct seen){ 0 };
	sftp_readdir(s, "h", 1, note, &a);
	assert_int_equal(feed_head(s, 104, 0, "\xff\xff\xff\xff\0\0\0\1a\0\0\0\0\0\0\0\0", 17), -EPROTO);
	assert_int_equal(a.entries, 0); /* no half a batch */
	sftp_free(s);

	s = ready();
	sftp_readlink(s, "l", note, &a);
	assert_int_equal(feed_head(s, 104, 0, "\0\0\0\1\0\0\0\3a\0b\0\0\0\0\0\0\0\0", 19), -EPROTO);
	sftp_free(s);
}

static void test_lengths(void **state)
{
	struct sftp *s = sftp_new();
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(sftp_input(s, "Welcome to the cluster\n", 23, &e), -EPROTO);
	assert_non_null(strstr(e.text, "banner"));
	sftp_free(s);
	s = ready();
	assert_int_equal(sftp_input(s, "\0\0\0\0", 4, &e), -EPROTO);
	sftp_free(s);
	s = ready();
	assert_int_equal(sftp_input(s, "\0\4\0\1", 4, &e), -EPROTO);
	sftp_free(s);
	s = sftp_new();
	assert_int_equal(feed_head(s, 2, 2, NULL, 0), -EPROTO);
	sftp_free(s);
}

struct again {
	struct sftp *s;
	int calls;
};

static void ask_again(void *arg, const struct sftp_reply *r)
{
	struct again *a = arg;

	a->calls++;
	if (r->code == -ECONNRESET)
		sftp_stat(a->s, "/again", ask_again, a);
}

static void test_requests_inside_abort(void **state)
{
	struct sftp *s = ready();
	struct again a = { s, 0 };

	(void)state;
	sftp_stat(s, "/x", ask_again, &a);
	sftp_stat(s, "/y", ask_again, &a);
	sftp_abort(s);
	assert_int_equal(a.calls, 2);
	assert_int_equal(sftp_in_flight(s), 2); /* what was asked meanwhile waits for the next abort */
	sftp_free(s);
	assert_int_equal(a.calls, 2);
}

/* --- the real server --- */

struct rig {
	struct sftp *s;
	int fd;
	pid_t pid;
	char dir[64];
};

static void rig_start(struct rig *g)
{
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	g->pid = fork();
	assert_true(g->pid >= 0);
	if (g->pid == 0) {
		if (dup2(sv[1], 0) < 0 || dup2(sv[1], 1) < 0)
			_exit(126);
		execl(SERVER, SERVER, (char *)NULL);
		_exit(127);
	}
	(void)close(sv[1]);
	g->fd = sv[0];
	assert_int_equal(fcntl(g->fd, F_SETFL, O_NONBLOCK), 0);
	g->s = sftp_new();
	(void)snprintf(g->dir, sizeof(g->dir), "/tmp/test_sftp.XXXXXX");
	assert_non_null(mkdtemp(g->dir));
}

static int rig_step(struct rig *g)
{
	struct strbuf *out = sftp_output(g->s);
	struct pollfd p = { .fd = g->fd, .events = (short)(POLLIN | (out->len ? POLLOUT : 0)) };
	char buf[65536];
	struct err e = ERR_INIT;
	ssize_t n;

	assert_true(poll(&p, 1, DEADLINE_MS) > 0);
	if (p.revents & POLLOUT) {
		n = write(g->fd, out->buf, out->len);
		if (n > 0)
			strbuf_remove(out, 0, (size_t)n);
	}
	if (!(p.revents & (POLLIN | POLLHUP)))
		return 0;
	n = read(g->fd, buf, sizeof(buf));
	if (n <= 0)
		return -EPIPE;
	return sftp_input(g->s, buf, (size_t)n, &e);
}

static void rig_settle(struct rig *g)
{
	while (sftp_in_flight(g->s) || sftp_output(g->s)->len || !sftp_ready(g->s))
		assert_int_equal(rig_step(g), 0);
}

static int rig_setup(void **state)
{
	struct rig *g;

	if (access(SERVER, X_OK) != 0)
		return 0;
	g = xcalloc(1, sizeof(*g));
	rig_start(g);
	*state = g;
	return 0;
}

static int rig_teardown(void **state)
{
	struct rig *g = *state;
	pid_t pid;

	if (!g)
		return 0;
	sftp_free(g->s);
	(void)close(g->fd);
	(void)kill(g->pid, SIGKILL);
	(void)waitpid(g->pid, NULL, 0);
	pid = fork();
	if (pid == 0) {
		execlp("rm", "rm", "-rf", g->dir, (char *)NULL);
		_exit(127);
	}
	(void)waitpid(pid, NULL, 0);
	free(g);
	return 0;
}

static struct rig *rig_of(void **state)
{
	if (!*state) {
		print_message("skipped: " SERVER " is not there\n");
		skip();
	}
	return *state;
}

static const char *path_in(const struct rig *g, const char *name, char buf[128])
{
	(void)snprintf(buf, 128, "%s/%s", g->dir, name);
	return buf;
}

static void fill(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	assert_int_equal(close(fd), 0);
}

static void test_server_files(void **state)
{
	struct rig *g = rig_of(state);
	struct seen st = { 0 }, l = { 0 }, ls = { 0 }, none = { 0 }, real = { 0 }, dir = { 0 }, isdir = { 0 };
	char a[128], b[128];

	fill(path_in(g, "a", a), "hello", 5);
	assert_int_equal(symlink("a", path_in(g, "b", b)), 0);
	sftp_stat(g->s, b, note, &st);
	sftp_lstat(g->s, b, note, &l);
	sftp_readlink(g->s, b, note, &ls);
	sftp_stat(g->s, path_in(g, "none", a), note, &none);
	sftp_realpath(g->s, g->dir, note, &real);
	sftp_opendir(g->s, a, note, &dir);
	sftp_open_read(g->s, "/proc/1/mem/x", note, &isdir);
	rig_settle(g);
	assert_int_equal(st.code, 0);
	assert_true(st.attr.has_size && st.attr.size == 5 && S_ISREG(st.attr.mode));
	assert_true(S_ISLNK(l.attr.mode));
	assert_string_equal(ls.data, "a");
	assert_int_equal(none.code, -ENOENT);
	assert_true(none.text[0]);
	assert_string_equal(real.data, g->dir);
	assert_int_equal(dir.code, -ENOENT);
	assert_true(isdir.code < 0);
}

static void test_server_write(void **state)
{
	struct rig *g = rig_of(state);
	struct seen o = { 0 }, w = { 0 }, w2 = { 0 }, f = { 0 }, t = { 0 };
	char a[128], buf[16];
	struct stat st;
	int fd;

	sftp_open_write(g->s, path_in(g, "new", a), 0600, true, note, &o);
	rig_settle(g);
	assert_int_equal(o.code, 0);
	sftp_write(g->s, o.data, o.len, 0, "hello ", 6, note, &w);
	sftp_write(g->s, o.data, o.len, 6, "world", 5, note, &w2);
	sftp_fstat(g->s, o.data, o.len, note, &f);
	sftp_close(g->s, o.data, o.len);
	rig_settle(g);
	assert_int_equal(w.code, 0);
	assert_int_equal(w2.code, 0);
	assert_true(f.attr.size == 11);
	assert_int_equal(stat(a, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	fd = open(a, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, buf, sizeof(buf)), 11);
	assert_memory_equal(buf, "hello world", 11);
	(void)close(fd);
	sftp_write(g->s, "gone", 4, 0, "x", 1, note, &t); /* no such handle */
	rig_settle(g);
	assert_true(t.code < 0);
}

static void test_server_readdir(void **state)
{
	struct rig *g = rig_of(state);
	struct seen o = { 0 };
	int entries = 0, batches = 0;
	char a[128], name[32];

	for (int i = 0; i < 300; i++) {
		(void)snprintf(name, sizeof(name), "file-%d", i);
		fill(path_in(g, name, a), "", 0);
	}
	sftp_opendir(g->s, g->dir, note, &o);
	rig_settle(g);
	assert_int_equal(o.code, 0);
	for (;;) {
		struct seen d = { 0 };

		sftp_readdir(g->s, o.data, o.len, note, &d);
		rig_settle(g);
		entries += d.entries;
		batches++;
		if (d.code)
			assert_int_equal(d.code, -ENODATA);
		if (d.code)
			break;
	}
	assert_int_equal(entries, 300);
	assert_true(batches > 2);
	sftp_close(g->s, o.data, o.len);
	rig_settle(g);
}

static void test_server_200_reads(void **state)
{
	struct rig *g = rig_of(state);
	struct seen o = { 0 }, *seen = xcalloc(200, sizeof(*seen)), eof = { 0 };
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	char a[128], want[16];

	for (int i = 0; i < 200; i++)
		strbuf_addf(&text, "%08d", i);
	fill(path_in(g, "log", a), text.buf, text.len);
	sftp_open_read(g->s, a, note, &o);
	rig_settle(g);
	for (int i = 0; i < 200; i++)
		sftp_read(g->s, o.data, o.len, (uint64_t)i * 8, 8, note, &seen[i]);
	sftp_read(g->s, o.data, o.len, 1600, 8, note, &eof);
	assert_int_equal(sftp_in_flight(g->s), 201);
	rig_settle(g);
	for (int i = 0; i < 200; i++) {
		(void)snprintf(want, sizeof(want), "%08d", i);
		assert_int_equal(seen[i].calls, 1);
		assert_string_equal(seen[i].data, want);
	}
	assert_int_equal(eof.code, 0);
	assert_int_equal(eof.len, 0);
	free(seen);
}

static void test_server_dies(void **state)
{
	struct rig *g = rig_of(state);
	struct seen seen[3] = { 0 };

	rig_settle(g);
	for (size_t i = 0; i < 3; i++)
		sftp_stat(g->s, "/", note, &seen[i]);
	assert_int_equal(kill(g->pid, SIGKILL), 0);
	strbuf_reset(sftp_output(g->s)); /* nothing goes out, so nothing is answered */
	while (rig_step(g) == 0)
		;
	sftp_abort(g->s);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(seen[i].calls, 1);
		assert_int_equal(seen[i].code, -ECONNRESET);
	}
}

/* --- 50 MB with 64 reads on their way --- */

#define BIG (50u * 1000 * 1000)
#define WINDOW 64

struct copy {
	struct rig *g;
	const struct seen *handle;
	uint64_t next;
	unsigned char *to;
	size_t got;
	bool failed;
};

struct piece {
	struct copy *c;
	uint64_t off;
};

static void copy_more(struct copy *c);

static void on_piece(void *arg, const struct sftp_reply *r)
{
	struct piece *p = arg;
	struct copy *c = p->c;

	if (r->code || !r->len || p->off + r->len > BIG) {
		c->failed = true;
	} else {
		memcpy(c->to + p->off, r->data, r->len);
		c->got += r->len;
		if (r->len < SFTP_READ_MAX && p->off + r->len < BIG)
			c->failed = true; /* this server gives all that is there */
	}
	free(p);
	copy_more(c);
}

static void copy_more(struct copy *c)
{
	while (c->next < BIG && !c->failed && sftp_in_flight(c->g->s) < WINDOW) {
		struct piece *p = xcalloc(1, sizeof(*p));

		p->c = c;
		p->off = c->next;
		c->next += SFTP_READ_MAX;
		sftp_read(c->g->s, c->handle->data, c->handle->len, p->off, SFTP_READ_MAX, on_piece, p);
	}
}

/* The sum by sha256sum(1) of what is written to its input. */
static void sha256(const char *path, const void *data, size_t len, char out[65])
{
	char tmp[160];
	int fd[2];
	pid_t pid;

	(void)snprintf(tmp, sizeof(tmp), "%s", path);
	if (data)
		fill(path, data, len);
	assert_int_equal(pipe(fd), 0);
	pid = fork();
	if (pid == 0) {
		(void)dup2(fd[1], 1);
		execlp("sha256sum", "sha256sum", tmp, (char *)NULL);
		_exit(127);
	}
	(void)close(fd[1]);
	assert_int_equal(read(fd[0], out, 64), 64);
	out[64] = '\0';
	(void)close(fd[0]);
	(void)waitpid(pid, NULL, 0);
}

static void test_server_big_file(void **state)
{
	struct rig *g = rig_of(state);
	unsigned char *data = xmalloc(BIG), *copy = xcalloc(1, BIG);
	struct seen o = { 0 };
	struct copy c = { .g = g, .handle = &o, .to = copy };
	char a[128], b[128], sum[65], sum2[65];
	uint64_t x = 88172645463325252ull;

	for (size_t i = 0; i < BIG; i++) { /* xorshift, Marsaglia 2003 */
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		data[i] = (unsigned char)x;
	}
	sha256(path_in(g, "big", a), data, BIG, sum);
	free(data);
	sftp_open_read(g->s, a, note, &o);
	rig_settle(g);
	copy_more(&c);
	assert_int_equal(sftp_in_flight(g->s), WINDOW);
	rig_settle(g);
	assert_false(c.failed);
	assert_int_equal(c.got, BIG);
	sha256(path_in(g, "copy", b), copy, BIG, sum2);
	assert_string_equal(sum, sum2);
	free(copy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request_bytes),
		cmocka_unit_test(test_answers_in_any_order),
		cmocka_unit_test(test_status_codes),
		cmocka_unit_test(test_status_without_text),
		cmocka_unit_test(test_end_of_file_is_no_error),
		cmocka_unit_test(test_readdir),
		cmocka_unit_test(test_attributes),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_hostile_answers_to_others),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_requests_inside_abort),
		cmocka_unit_test_setup_teardown(test_server_files, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_server_write, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_server_readdir, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_server_200_reads, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_server_dies, rig_setup, rig_teardown),
		cmocka_unit_test_setup_teardown(test_server_big_file, rig_setup, rig_teardown),
	};

	(void)signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
