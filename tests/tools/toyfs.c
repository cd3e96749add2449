/*
 * A toy worker on keeper, session, shared memory and reactor: what a kill must not be seen through, without the rest of
 * slurmray. Its whole state is a journal file, STATE/journal, a line per write: "MOUNT-ID UNIQUE FILE TEXT".
 *
 *	hello	static text			wait	a read parks until somebody writes `go` after the open
 *	go	each write is one round		count	each write is one line in the journal, exactly once
 *	pollme	poll(2) is ready when there was a `go` since the last read of this descriptor
 *	final	1 MiB that never changes, in the page cache
 *	crash	reading it kills the worker, each time	 slow	a write parks for some milliseconds, then is journaled
 *
 *	toyfs mount DIR STATE [--foreground] | umount DIR
 *
 * TOYFS_DIE=N: the worker kills itself at one of N steps on average. TOYFS_BACKOFF: longest pause in ms between starts.
 * TOYFS_FAIL: the worker refuses to start, with this text. TOYFS_BROKEN, TOYFS_STUCK: while that file is there, it
 *refuses or hangs. TOYFS_OUTAGE, TOYFS_START: how long in ms until requests are answered without a worker, and for its
 *start.
 */
#include "backend/base/clock.h"
#include "backend/base/list.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "fs/keeper.h"
#include "fs/reactor.h"
#include "fs/session.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { ROOT = FUSE_ROOT_ID, HELLO, WAIT, GO, COUNT, POLLME, FINAL, CRASH, SLOW, NODES };

static const char *const names[NODES] = {
	[HELLO] = "hello",   [WAIT] = "wait",   [GO] = "go",       [COUNT] = "count",
	[POLLME] = "pollme", [FINAL] = "final", [CRASH] = "crash", [SLOW] = "slow",
};

enum { FINAL_SIZE = 1 << 20, SLOW_US = 3000 };

/* A request that is not answered yet. */
struct parked {
	struct list node;
	fuse_req_t req;
	uint64_t round; /* wait: ends when the toy's round is above this */
	int64_t due;    /* slow: answered then */
	uint64_t unique;
	size_t size;
	char *text;
};

struct toy {
	struct session *session;
	struct shared *shared;
	struct reactor reactor;
	struct list parked;
	int journal;
	uint64_t round;
	uint64_t *done; /* uniques in the journal, this mount's */
	size_t ndone;
	char *final;
	bool said_ready;
	int ready_fd;
};

static unsigned int die_every;

static void maybe_die(enum session_point p)
{
	unsigned int r = 0;

	(void)p;
	if (!die_every || getrandom(&r, sizeof(r), 0) != (ssize_t)sizeof(r) || r % die_every)
		return;
	(void)kill(getpid(), SIGKILL);
}

/* ---- journal ---- */

static bool journaled(const struct toy *t, uint64_t unique)
{
	size_t i;

	for (i = t->ndone; i-- > 0;)
		if (t->done[i] == unique)
			return true;
	return false;
}

static void remember(struct toy *t, uint64_t unique)
{
	if ((t->ndone & (t->ndone + 1)) == 0)
		t->done = xrealloc(t->done, (2 * t->ndone + 2) * sizeof(*t->done));
	t->done[t->ndone++] = unique;
}

/* The effect of a write, once per request. One write(2) to the file, so a kill leaves all of a line or nothing. */
static void journal(struct toy *t, uint64_t unique, const char *name, const char *text, size_t size)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;

	if (journaled(t, unique)) {
		log_info("duplicate %llu", (unsigned long long)unique);
		return;
	}
	strbuf_addf(&sb, "%016llx %llu %s ", (unsigned long long)shared_mount_id(t->shared), (unsigned long long)unique,
		    name);
	strbuf_add(&sb, text, size);
	if (!size || text[size - 1] != '\n')
		strbuf_addch(&sb, '\n');
	if (write(t->journal, sb.buf, sb.len) != (ssize_t)sb.len)
		abort();
	remember(t, unique);
	if (!strcmp(name, names[GO]))
		t->round++;
}

static void read_journal(struct toy *t, const char *path)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	char *rest, *line;

	if (strbuf_read_file(&sb, path, SIZE_MAX / 2) < 0)
		return;
	rest = sb.buf;
	while ((line = strsep(&rest, "\n")) && *line) {
		char *end;
		uint64_t id = strtoull(line, &end, 16), unique = strtoull(end, &end, 10);

		if (id == shared_mount_id(t->shared))
			remember(t, unique);
		if (!strncmp(end, " go ", 4))
			t->round++;
	}
}

/* ---- parked requests ---- */

static void forget(struct parked *p)
{
	list_del(&p->node);
	free(p->text);
	free(p);
}

/* libfuse calls this in the reactor, when the caller got a signal. */
static void interrupted(fuse_req_t req, void *data)
{
	struct parked *p = data;

	forget(p);
	(void)fuse_reply_err(req, EINTR);
}

static struct parked *park(struct toy *t, fuse_req_t req)
{
	struct parked *p = xcalloc(1, sizeof(*p));

	p->req = req;
	list_add_tail(&t->parked, &p->node);
	return p;
}

static void reply_text(fuse_req_t req, const char *text, size_t size, off_t off)
{
	size_t len = strlen(text);

	if (off >= (off_t)len)
		(void)fuse_reply_buf(req, NULL, 0);
	else
		(void)fuse_reply_buf(req, text + off, len - (size_t)off < size ? len - (size_t)off : size);
}

static void wake_one(void *arg, struct shared_handle *h)
{
	struct toy *t = arg;

	if (h->poll_kh && h->user64 < t->round)
		session_notify_poll(t->session, h->poll_kh);
}

static void wake(struct toy *t)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &t->parked) {
		struct parked *p = container_of(n, struct parked, node);
		fuse_req_t req = p->req;
		size_t size = p->size;

		if (p->due || p->round >= t->round)
			continue;
		forget(p);
		reply_text(req, "went\n", size, 0);
	}
	shared_handle_walk(t->shared, wake_one, t);
}

static int64_t on_timer(void *arg, int64_t now)
{
	struct toy *t = arg;
	struct list *n, *tmp;
	int64_t next = REACTOR_NEVER;

	if (!t->said_ready && session_init_done(t->session)) {
		worker_ready(t->ready_fd, NULL);
		t->said_ready = true;
	}
	list_for_each_safe (n, tmp, &t->parked) {
		struct parked *p = container_of(n, struct parked, node);
		fuse_req_t req = p->req;
		size_t size = p->size;

		if (p->due && p->due <= now) {
			journal(t, p->unique, names[SLOW], p->text, size);
			forget(p);
			(void)fuse_reply_write(req, size);
		} else if (p->due && p->due < next) {
			next = p->due;
		}
	}
	return next;
}

/* ---- operations ---- */

static struct toy *toy_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

static bool fill_stat(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = ino;
	st->st_uid = geteuid();
	st->st_gid = getegid();
	if (ino == ROOT) {
		st->st_mode = S_IFDIR | 0755;
		st->st_nlink = 2;
		return true;
	}
	if (ino >= NODES)
		return false;
	st->st_mode = S_IFREG | (ino == GO || ino == COUNT || ino == SLOW ? 0644 : 0444);
	st->st_nlink = 1;
	st->st_size = ino == FINAL ? FINAL_SIZE : ino == HELLO ? 6 : 0;
	return true;
}

static double timeout_of(fuse_ino_t ino)
{
	return ino == FINAL ? 3600 : 0;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param ep = { .ino = 0 };
	fuse_ino_t i;

	for (i = HELLO; parent == ROOT && i < NODES; i++)
		if (!strcmp(name, names[i]))
			ep.ino = i;
	if (!ep.ino) {
		(void)fuse_reply_err(req, ENOENT);
		return;
	}
	(void)fill_stat(ep.ino, &ep.attr);
	ep.attr_timeout = ep.entry_timeout = timeout_of(ep.ino);
	(void)fuse_reply_entry(req, &ep);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	if (fill_stat(ino, &st))
		(void)fuse_reply_attr(req, &st, timeout_of(ino));
	else
		(void)fuse_reply_err(req, ENOENT);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set, struct fuse_file_info *fi)
{
	(void)attr;
	(void)to_set;
	op_getattr(req, ino, fi);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct toy *t = toy_of(req);
	struct shared_handle *h = shared_handle_get(t->shared, session_unique(t->session), false);

	if (!h) {
		h = shared_handle_get(t->shared, session_unique(t->session), true);
		if (!h) {
			(void)fuse_reply_err(req, ENFILE);
			return;
		}
		h->user64 = t->round;
		h->flags = (uint32_t)fi->flags;
		h->ino = ino;
	}
	fi->fh = h->fh;
	fi->direct_io = ino != FINAL;
	fi->keep_cache = ino == FINAL;
	fi->nonseekable = ino == COUNT || ino == GO || ino == SLOW;
	(void)fuse_reply_open(req, fi);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	shared_handle_drop(toy_of(req)->shared, fi->fh);
	(void)fuse_reply_err(req, 0);
}

static void read_wait(struct toy *t, fuse_req_t req, struct shared_handle *h, size_t size, off_t off)
{
	struct parked *p;

	if (off > 0 || h->user64 < t->round) {
		reply_text(req, "went\n", size, off);
		return;
	}
	if (h->flags & O_NONBLOCK) {
		(void)fuse_reply_err(req, EAGAIN);
		return;
	}
	p = park(t, req);
	p->round = h->user64;
	p->size = size;
	fuse_req_interrupt_func(req, interrupted, p);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct toy *t = toy_of(req);
	struct shared_handle *h = shared_handle_get(t->shared, fi->fh, false);
	char text[32];

	if (!h) {
		(void)fuse_reply_err(req, EBADF);
	} else if (ino == WAIT) {
		read_wait(t, req, h, size, off);
	} else if (ino == FINAL) {
		if (off >= FINAL_SIZE)
			size = 0;
		else if (size > FINAL_SIZE - (size_t)off)
			size = FINAL_SIZE - (size_t)off;
		(void)fuse_reply_buf(req, t->final + off, size);
	} else if (ino == POLLME) {
		h->user64 = t->round;
		(void)snprintf(text, sizeof(text), "%llu\n", (unsigned long long)t->round);
		reply_text(req, text, size, 0);
	} else if (ino == CRASH) {
		abort();
	} else {
		reply_text(req, ino == HELLO ? "hello\n" : "", size, off);
	}
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct toy *t = toy_of(req);
	uint64_t unique = session_unique(t->session);
	struct parked *p;

	(void)off;
	(void)fi;
	if (ino == SLOW && !journaled(t, unique)) {
		p = park(t, req);
		p->due = clock_mono(&clock_system) + SLOW_US;
		p->unique = unique;
		p->size = size;
		p->text = xstrndup(buf, size);
		return;
	}
	journal(t, unique, names[ino], buf, size);
	maybe_die(SESSION_REPLYING);
	(void)fuse_reply_write(req, size);
	if (ino == GO)
		wake(t);
}

static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct fuse_pollhandle *ph)
{
	struct toy *t = toy_of(req);
	struct shared_handle *h = shared_handle_get(t->shared, fi->fh, false);
	uint64_t kh = session_poll_kh(t->session);

	if (ph)
		fuse_pollhandle_destroy(ph);
	if (h && kh)
		h->poll_kh = kh;
	(void)fuse_reply_poll(req, ino != POLLME || (h && h->user64 < t->round) ? POLLIN | POLLOUT : 0);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	char buf[4096];
	size_t len = 0, n;
	fuse_ino_t i;

	(void)fi;
	for (i = off > HELLO ? (fuse_ino_t)off : HELLO; ino == ROOT && i < NODES; i++) {
		struct stat st;

		(void)fill_stat(i, &st);
		n = fuse_add_direntry(req, buf + len, sizeof(buf) - len, names[i], &st, (off_t)i + 1);
		if (n > sizeof(buf) - len || len + n > size)
			break;
		len += n;
	}
	(void)fuse_reply_buf(req, buf, len);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	(void)fuse_reply_open(req, fi);
}

static const struct fuse_lowlevel_ops toy_ops = {
	.lookup = op_lookup,
	.getattr = op_getattr,
	.setattr = op_setattr,
	.open = op_open,
	.read = op_read,
	.write = op_write,
	.release = op_release,
	.readdir = op_readdir,
	.poll = op_poll,
	.opendir = op_opendir,
};

/* ---- the worker ---- */

static int on_fuse(void *arg, int max)
{
	struct toy *t = arg;

	return session_step(t->session, max);
}

static void on_signal(void *arg, const struct signalfd_siginfo *si)
{
	struct toy *t = arg;
	struct list *n, *tmp;

	if (si->ssi_signo == SIGHUP) {
		reactor_stop(&t->reactor, 75);
		return;
	}
	list_for_each_safe (n, tmp, &t->parked) {
		fuse_req_t req = container_of(n, struct parked, node)->req;

		forget(container_of(n, struct parked, node));
		(void)fuse_reply_err(req, ENODEV);
	}
	reactor_stop(&t->reactor, 0);
}

static int open_signals(void)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void make_final(struct toy *t)
{
	uint32_t x = 1, i;

	t->final = xmalloc(FINAL_SIZE);
	for (i = 0; i < FINAL_SIZE; i++) {
		x = x * 1664525u + 1013904223u;
		t->final[i] = (char)(x >> 24);
	}
}

static int toy_start(struct toy *t, const struct worker_conf *conf, struct err *e)
{
	cleanup_free char *path = xasprintf("%s/journal", conf->mount->state_dir);
	struct session_conf sc = { .fuse_fd = conf->fuse_fd, .ops = &toy_ops, .userdata = t, .at_point = maybe_die };
	int rc = shared_attach(conf->shared_fd, &t->shared, e);

	if (getenv("TOYFS_FAIL"))
		rc = err_set(e, -EINVAL, "%s", getenv("TOYFS_FAIL"));
	if (getenv("TOYFS_BROKEN") && access(getenv("TOYFS_BROKEN"), F_OK) == 0)
		rc = err_set(e, -EROFS, "the disk is broken");
	while (getenv("TOYFS_STUCK") && access(getenv("TOYFS_STUCK"), F_OK) == 0)
		(void)sleep(1);
	if (rc < 0)
		return rc;
	list_init(&t->parked);
	make_final(t);
	read_journal(t, path);
	t->journal = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	sc.shared = t->shared;
	rc = session_create(&sc, &t->session, e);
	if (rc == 0)
		rc = session_takeover(t->session, e);
	if (rc == 0)
		wake(t);
	return rc;
}

int worker_main(const struct worker_conf *conf)
{
	static struct toy t;
	struct reactor_conf rc = { .fuse_fd = conf->fuse_fd,
				   .engine_fd = -1,
				   .signal_fd = open_signals(),
				   .retries = -1,
				   .fuse = on_fuse,
				   .signal = on_signal,
				   .timer = on_timer,
				   .arg = &t };
	struct err e = ERR_INIT;
	int status;

	log_setup(STDERR_FILENO, LOG_INFO);
	if (getenv("TOYFS_DIE"))
		die_every = (unsigned int)strtoul(getenv("TOYFS_DIE"), NULL, 10);
	t.ready_fd = conf->ready_fd;
	if (toy_start(&t, conf, &e) < 0) {
		worker_ready(conf->ready_fd, &e);
		return 1;
	}
	reactor_init(&t.reactor, &rc);
	status = reactor_run(&t.reactor, &e);
	session_free(t.session);
	shared_detach(t.shared);
	free(t.final);
	free(t.done);
	if (status < 0)
		log_info("%s", e.text);
	return status == -ENODEV ? 0 : status < 0 ? 1 : status;
}

static int usage(void)
{
	(void)fprintf(stderr, "usage: toyfs mount DIR STATE [--foreground] [--allow-other] | umount DIR\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct mount_conf m = { 0 };
	struct worker_conf w;
	struct err e = ERR_INIT;
	int i, rc;

	if (argc > 1 && !strcmp(argv[1], "--worker")) {
		if (worker_args(argc, argv, &m, &w, &e) == 0)
			return worker_main(&w);
		(void)fprintf(stderr, "toyfs: %s\n", e.text);
		return 2;
	}
	if (argc == 3 && !strcmp(argv[1], "umount")) {
		rc = keeper_umount(argv[2], 15000, &e);
	} else if (argc > 3 && !strcmp(argv[1], "mount")) {
		m.dir = argv[2];
		m.state_dir = argv[3];
		for (i = 4; i < argc; i++) {
			m.foreground = m.foreground || !strcmp(argv[i], "--foreground");
			m.allow_other = m.allow_other || !strcmp(argv[i], "--allow-other");
		}
		if (getenv("TOYFS_BACKOFF"))
			m.backoff_max_ms = (int)strtol(getenv("TOYFS_BACKOFF"), NULL, 10);
		if (getenv("TOYFS_OUTAGE"))
			m.outage_ms = (int)strtol(getenv("TOYFS_OUTAGE"), NULL, 10);
		if (getenv("TOYFS_START"))
			m.start_ms = (int)strtol(getenv("TOYFS_START"), NULL, 10);
		rc = keeper_mount(&m, &e);
	} else {
		return usage();
	}
	if (rc < 0)
		(void)fprintf(stderr, "toyfs: %s\n", e.text);
	return rc < 0 ? 1 : 0;
}
