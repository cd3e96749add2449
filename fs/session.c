/*
 * The FUSE session of a worker. Owns the libfuse session (never mounted by libfuse, never unmounted) and the knowledge
 * of which request is being dispatched; the requests themselves live in shared memory.
 *
 * Order of things for each request, so that a kill between any two of them can be taken over:
 *   clear `cur`; read(2) into `cur`; dispatch; if it was not answered, copy it to a slot; clear `cur`.
 * An answer is written first and its slot cleared afterwards: the next worker then meets a request that the kernel no
 * longer knows. It asks the kernel before it replays one: an answer of EAGAIN to the request's INTERRUPT (unique | 1,
 * fuse_dev_do_write in the kernel's fs/fuse/dev.c) is ENOENT when the request is gone, EINVAL when it waits, and
 * success when it was interrupted: then the kernel sends the INTERRUPT again, in case the dead worker had swallowed it.
 */
#include "fs/session.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#define RESEND_BIT (UINT64_C(1) << 63) /* FUSE_UNIQUE_RESEND of newer kernels */
#define INTERRUPT_BIT UINT64_C(1)      /* FUSE_INT_REQ_BIT */

/* Room for a copy of every request but large writes. */
enum { COPY_MAX = 4096 };

struct session {
	struct session_conf conf;
	struct fuse_session *se;
	struct fuse_lowlevel_ops ops;    /* the caller's with our init and without destroy */
	const struct fuse_in_header *in; /* the request being dispatched, or NULL */
	bool answered, replaying, taking_init, stream;
	/* libfuse writes into some requests (SETATTR): it is given a copy, and the original can be replayed. */
	_Alignas(8) char copy[COPY_MAX];
};

/* libfuse passes the file system's userdata to the I/O hooks, which leaves no room for ours. */
static struct session *the_session;

static void at_point(const struct session *s, enum session_point p)
{
	if (s->conf.at_point)
		s->conf.at_point(p);
}

static uint64_t current(const struct session *s)
{
	return s->in ? s->in->unique : 0;
}

/* Requests that the kernel wants no answer to. */
static bool wants_reply(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
	       opcode != FUSE_NOTIFY_REPLY;
}

/*
 * Reads a byte of each page. If a page of the answer had to be faulted in while SIGKILL is pending, the kernel would
 * give the caller EIO, and nothing could be replayed.
 */
static void touch(const struct iovec *iov, int count)
{
	volatile const char *p;
	size_t off;
	int i;

	for (i = 0; i < count; i++) {
		p = iov[i].iov_base;
		for (off = 0; off < iov[i].iov_len; off += 4096)
			(void)p[off];
		if (iov[i].iov_len)
			(void)p[iov[i].iov_len - 1];
	}
}

static int write_header(const struct session *s, uint64_t unique, int error)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = error, .unique = unique };

	return write(s->conf.fuse_fd, &out, sizeof(out)) < 0 ? -errno : 0;
}

/* Before it is sent: when we die in between, the next worker sends what was saved. */
static void save_init(const struct session *s, const struct iovec *iov, int count)
{
	char reply[SHARED_INIT_MAX];
	size_t len = 0;
	int i;

	for (i = 0; i < count; i++) {
		if (iov[i].iov_len > sizeof(reply) - len)
			return;
		memcpy(reply + len, iov[i].iov_base, iov[i].iov_len);
		len += iov[i].iov_len;
	}
	if (shared_init_save(s->conf.shared, s->in, s->in->len, reply, len))
		log_error(
			"the kernel's INIT of %u bytes is too long to keep: a new worker will not be able to take over",
			s->in->len);
}

/* The answer was refused: the caller must not hang for it. */
static void refused(const struct session *s, const struct fuse_out_header *out, int err)
{
	log_error("the kernel refused an answer of %u bytes (error %d): %s", out->len, out->error, strerror(err));
	(void)write_header(s, out->unique, -EIO);
}

/* libfuse's writev hook: every answer and notification passes here. */
static ssize_t hook_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct session *s = the_session;
	const struct fuse_out_header *out = iov[0].iov_base;
	bool mine = out->unique && out->unique == current(s);
	ssize_t n;
	int err;

	(void)fd;
	(void)userdata;
	if (mine)
		s->answered = true;
	if (mine && s->in->opcode == FUSE_OPEN && s->stream && count == 2 &&
	    iov[1].iov_len == sizeof(struct fuse_open_out))
		((struct fuse_open_out *)iov[1].iov_base)->open_flags |= FOPEN_STREAM;
	if (mine && s->in->opcode == FUSE_INIT) {
		if (s->taking_init)
			return out->len;
		if (!out->error)
			save_init(s, iov, count);
	}
	touch(iov, count);
	at_point(s, SESSION_REPLYING);
	n = writev(s->conf.fuse_fd, iov, count);
	err = errno;
	at_point(s, SESSION_REPLIED);
	if (out->unique)
		shared_unpark(s->conf.shared, out->unique);
	at_point(s, SESSION_CLEARED);
	/* ENOENT: it was answered before (by an earlier worker, or when no slot was free), or the tree is unmounted. */
	if (n < 0 && err != ENOENT && err != ENODEV && err != EPERM && out->unique)
		refused(s, out, err);
	return out->len;
}

/* Required by libfuse, not used: session_step reads by itself. */
static ssize_t hook_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, buf, len);
}

static void hook_init(void *userdata, struct fuse_conn_info *conn)
{
	const struct session *s = the_session;

	conn->max_write = SHARED_MAX_WRITE;
	conn->want &= ~(unsigned int)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
				      FUSE_CAP_WRITEBACK_CACHE);
	if (s->conf.ops->init)
		s->conf.ops->init(userdata, conn);
}

static void __attribute__((format(printf, 2, 0))) hook_log(enum fuse_log_level level, const char *fmt, va_list ap)
{
	char line[512];
	size_t n;

	(void)vsnprintf(line, sizeof(line), fmt, ap);
	n = strlen(line);
	if (n && line[n - 1] == '\n')
		line[n - 1] = 0;
	log_msg(level <= FUSE_LOG_ERR ? LOG_ERROR : level <= FUSE_LOG_WARNING ? LOG_WARN : LOG_DEBUG, "%s", line);
}

int session_create(const struct session_conf *conf, struct session **out, struct err *e)
{
	static const struct fuse_custom_io io = { .writev = hook_writev, .read = hook_read };
	char name[] = "slurmray", *argv[] = { name, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct session *s = xcalloc(1, sizeof(*s));
	int fd, rc;

	assert(!the_session);
	s->conf = *conf;
	s->ops = *conf->ops;
	s->ops.init = hook_init;
	s->ops.destroy = NULL;
	fuse_set_log_func(hook_log);
	s->se = fuse_session_new(&args, &s->ops, sizeof(s->ops), conf->userdata);
	fuse_opt_free_args(&args);
	if (!s->se) {
		free(s);
		return err_set(e, -ENOMEM, "libfuse could not make a session");
	}
	/* libfuse closes its descriptor in the end: give it one of its own. */
	fd = fcntl(conf->fuse_fd, F_DUPFD_CLOEXEC, 0);
	rc = fd < 0 ? -errno : fuse_session_custom_io(s->se, &io, fd);
	if (rc < 0) {
		if (fd >= 0)
			(void)close(fd);
		fuse_session_destroy(s->se);
		free(s);
		return err_sys(e, rc, "giving /dev/fuse to libfuse");
	}
	the_session = s;
	*out = s;
	return 0;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	fuse_session_destroy(s->se);
	the_session = NULL;
	free(s);
}

/* No slot left: the kernel is answered, libfuse and the operation learn it when they answer (ENOENT, ignored). */
static void no_room(const struct session *s)
{
	log_warn("too many requests are parked (%zu): one of %u bytes is refused", session_parked(s), s->in->len);
	(void)write_header(s, s->in->unique, -ENOMEM);
}

/* One request to libfuse. What is left unanswered is parked. */
static void dispatch(struct session *s, const struct fuse_in_header *in, bool replaying)
{
	struct shared *sh = s->conf.shared;
	struct fuse_buf buf = { .size = in->len, .mem = (void *)(uintptr_t)in };
	size_t len;

	s->in = in;
	s->replaying = replaying;
	s->stream = false;
	s->answered = !wants_reply(in->opcode);
	shared_set_busy(sh, in->unique);
	if (in->len <= sizeof(s->copy))
		buf.mem = memcpy(s->copy, in, in->len);
	fuse_session_process_buf(s->se, &buf);
	at_point(s, SESSION_DISPATCHED);
	if (!s->answered && !shared_parked_data(sh, in->unique, &len)) {
		if (shared_park(sh, in->unique, in, in->len))
			no_room(s);
		at_point(s, SESSION_PARKED);
	}
	shared_set_busy(sh, 0);
	s->in = NULL;
}

/* Does the kernel still wait for this request? If it was interrupted, the INTERRUPT comes again. */
static bool still_wanted(const struct session *s, uint64_t unique)
{
	return write_header(s, unique | INTERRUPT_BIT, -EAGAIN) != -ENOENT;
}

/*
 * Tells the new libfuse session what was agreed with the kernel: the same request, with the flags cut down to those
 * that were in our answer, and its answer swallowed. A libfuse that would now ask for more gets what it had.
 */
static int replay_init(struct session *s, struct err *e)
{
	_Alignas(8) char buf[SHARED_INIT_MAX];
	const struct fuse_out_header *reply;
	const struct fuse_init_out *agreed;
	struct fuse_init_in *offer;
	size_t len, reply_len;
	const void *request = shared_init_request(s->conf.shared, &len);

	reply = shared_init_reply(s->conf.shared, &reply_len);
	if (len < sizeof(struct fuse_in_header) + offsetof(struct fuse_init_in, flags2) ||
	    reply_len < sizeof(*reply) + offsetof(struct fuse_init_out, flags2) + sizeof(agreed->flags2))
		return err_set(e, -EPROTO, "what was agreed with the kernel (INIT, %zu and %zu bytes) is too short",
			       len, reply_len);
	memcpy(buf, request, len);
	agreed = (const struct fuse_init_out *)(const void *)(reply + 1);
	offer = (struct fuse_init_in *)(void *)(buf + sizeof(struct fuse_in_header));
	offer->flags &= agreed->flags;
	if (len >= sizeof(struct fuse_in_header) + offsetof(struct fuse_init_in, unused))
		offer->flags2 &= agreed->flags2;
	s->taking_init = true;
	dispatch(s, (const struct fuse_in_header *)(const void *)buf, true);
	s->taking_init = false;
	return 0;
}

/* The worker died between keeping its answer to INIT and sending it, or just after. */
static void resend_init_reply(const struct session *s)
{
	size_t len;
	const void *reply = shared_init_reply(s->conf.shared, &len);

	if (write(s->conf.fuse_fd, reply, len) < 0 && errno != ENOENT)
		log_error("answering INIT: %s", strerror(errno));
}

static void replay_parked(struct session *s)
{
	struct shared *sh = s->conf.shared;
	const struct fuse_in_header *in;
	uint64_t *list;
	size_t i, n = shared_parked_list(sh, &list), len;

	for (i = 0; i < n; i++) {
		at_point(s, SESSION_TAKING_OVER);
		in = shared_parked_data(sh, list[i], &len);
		if (!in)
			continue; /* answered while an earlier one was replayed */
		if (in->len != len || !still_wanted(s, in->unique))
			shared_unpark(sh, list[i]);
		else
			dispatch(s, in, true);
	}
	free(list);
}

static void replay_current(struct session *s)
{
	struct shared *sh = s->conf.shared;
	const struct fuse_in_header *in = shared_cur(sh);
	size_t len;

	at_point(s, SESSION_TAKING_OVER);
	if (in->opcode == FUSE_INIT)
		resend_init_reply(s);
	else if (in->opcode != FUSE_INTERRUPT && still_wanted(s, in->unique) &&
		 !shared_parked_data(sh, in->unique, &len))
		dispatch(s, in, true);
	else if (in->opcode == FUSE_INTERRUPT)
		(void)still_wanted(s, in->unique); /* the kernel sends it again */
	shared_cur_clear(sh);
}

int session_takeover(struct session *s, struct err *e)
{
	struct shared *sh = s->conf.shared;
	const struct fuse_in_header *cur = shared_cur(sh);
	size_t len;
	int rc;

	shared_set_busy(sh, 0);
	if (!shared_init_request(sh, &len)) {
		/* Nothing but INIT can have come. */
		if (shared_cur_unique(sh) && cur->opcode == FUSE_INIT)
			dispatch(s, cur, true);
		shared_cur_clear(sh);
		return 0;
	}
	rc = replay_init(s, e);
	if (rc < 0)
		return rc;
	replay_parked(s);
	if (shared_cur_unique(sh))
		replay_current(s);
	return 0;
}

/* The next request into `cur`: its length, 0 when there is none, negative errno. */
static ssize_t receive(struct session *s)
{
	struct shared *sh = s->conf.shared;
	ssize_t n;

	shared_cur_clear(sh);
	do {
		n = read(s->conf.fuse_fd, shared_cur(sh), SHARED_REQUEST_MAX);
		/* ENOENT, EIO: that request was given up or did not fit, and the kernel has answered it. */
	} while (n < 0 && (errno == ENOENT || errno == EINTR || errno == EIO));
	if (n >= 0)
		return n;
	if (errno == EAGAIN)
		return 0;
	return errno == ECONNABORTED ? -ENODEV : -errno;
}

int session_step(struct session *s, int max)
{
	const struct fuse_in_header *in = shared_cur(s->conf.shared);
	ssize_t n;
	int done;

	for (done = 0; done < max; done++) {
		n = receive(s);
		if (n == 0)
			break;
		if (n < 0)
			return done ? done : (int)n;
		if ((size_t)n < sizeof(*in) || in->len != (size_t)n)
			return -EPROTO;
		at_point(s, SESSION_READ);
		dispatch(s, in, false);
		shared_cur_clear(s->conf.shared);
	}
	return done;
}

bool session_init_done(const struct session *s)
{
	size_t len;

	return shared_init_request(s->conf.shared, &len) != NULL;
}

uint64_t session_unique(const struct session *s)
{
	return current(s) & ~RESEND_BIT;
}

bool session_replaying(const struct session *s)
{
	return s->in && s->replaying;
}

void session_stream(struct session *s)
{
	s->stream = true;
}

uint64_t session_poll_kh(const struct session *s)
{
	const struct fuse_poll_in *arg = (const void *)(s->in + 1);

	if (!s->in || s->in->opcode != FUSE_POLL || s->in->len < sizeof(*s->in) + sizeof(*arg))
		return 0;
	return arg->flags & FUSE_POLL_SCHEDULE_NOTIFY ? arg->kh : 0;
}

void session_notify_poll(struct session *s, uint64_t kh)
{
	struct {
		struct fuse_out_header head;
		struct fuse_notify_poll_wakeup_out arg;
	} msg = { { .len = sizeof(msg), .error = FUSE_NOTIFY_POLL, .unique = 0 }, { .kh = kh } };

	if (write(s->conf.fuse_fd, &msg, sizeof(msg)) < 0 && errno != ENOENT && errno != ENODEV && errno != EPERM)
		log_warn("waking a poller: %s", strerror(errno));
}

size_t session_parked(const struct session *s)
{
	return shared_parked(s->conf.shared);
}
