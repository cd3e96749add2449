/*
 * The keeper's loop. Owns the worker process, its ready pipe, the mount, and the decision when to start a worker again.
 *
 * Invariants: /dev/fuse stays open here for as long as the tree is mounted, so the death of a worker ends no request.
 * At most one worker lives; the next is started after the last was waited for, when all of its system calls are over. A
 * worker that keeps dying is started ever more slowly, and a request that killed three in a row is answered EIO. A tree
 * that was served once is never given up: while no worker gets ready (its disk cannot be written), requests are
 * answered ENODEV after half a minute, and the next try may be the good one. Once stopping, nothing is started again.
 */
#include "fs/supervise.h"

#include "backend/base/clock.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "fs/die.h"
#include "fs/mount.h"
#include "fs/outage.h"
#include "fs/statedir.h"
#include "fs/worker_proc.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	EXIT_AGAIN = 75,  /* EX_TEMPFAIL of sysexits.h */
	BURST = 5,        /* deaths that are let pass ... */
	BURST_MS = 10000, /* ... within this time */
	BACKOFF_FIRST_MS = 100,
	BACKOFF_MAX_MS = 5000,
	STOP_MS = 10000,  /* from SIGTERM to SIGKILL */
	POISON = 3,       /* deaths at the same request */
	FIRST_TRIES = 3,  /* of a worker that never got ready; after the tree was served once there is no end */
	QUICK_TRIES = 20, /* the pause grows no further than BACKOFF_MAX_MS */
	BACKOFF_SLOW_MS = 30000,
	OUTAGE_MS = 30000,
	START_MS = 60000,
	START_DOUBLINGS = 4, /* a journal that takes longer to load gets more time at each try */
};

struct keeper {
	const struct supervise_conf *conf;
	struct err *e; /* never NULL */
	char *source;
	int fuse_fd, tell_fd, signal_fd, mounts_fd;
	struct worker_proc worker; /* pid 0: none */
	bool served;               /* a worker was ready once */
	bool ready;                /* this one is */
	bool stopping, done;
	int result;
	int64_t started, start_at, kill_at; /* start_at, kill_at: 0 when not planned */
	int64_t down_since;                 /* when the last worker that served died; 0: one serves */
	bool killed;                        /* it did not get ready in time, or did not stop */
	bool kept_answered;                 /* what earlier workers left was answered */
	int slow_starts;
	int64_t deaths[BURST + 1]; /* the last ones, as a ring */
	int ndeaths, level, failures;
	uint64_t suspect; /* request that the last worker died at */
	int suspicions;
};

static int64_t now_us(void)
{
	return clock_mono(&clock_system);
}

/* One line to whoever waits for the mount (code 0: the tree answers); only the first counts. */
static void tell(struct keeper *k, int code, const char *text)
{
	cleanup_free char *line = code ? xasprintf("error %d %s\n", code, text) : xstrdup("ok\n");

	if (k->tell_fd < 0)
		return;
	(void)!write(k->tell_fd, line, strlen(line));
	(void)close(k->tell_fd);
	k->tell_fd = -1;
}

static void give_up(struct keeper *k, int code)
{
	k->result = code;
	k->stopping = true;
	k->done = k->worker.pid == 0;
}

/* At growing intervals: at 1, 2, 4, 8 ... failures in a row. */
static bool worth_a_line(int failures)
{
	return (failures & (failures - 1)) == 0;
}

static void log_failures(int n, const char *why)
{
	if (worth_a_line(n))
		log_error(
			"%d workers in a row did not get ready (%s): another is tried for as long as this mount lives",
			n, why);
}

static void start_worker(struct keeper *k)
{
	struct worker_start st = { k->conf->mount,   k->conf->dir,        k->fuse_fd, shared_fd(k->conf->shared),
				   k->conf->lock_fd, k->failures % 2 == 1 };
	int rc;

	k->start_at = 0;
	k->ready = k->killed = k->kept_answered = false;
	k->started = now_us();
	rc = worker_proc_start(&k->worker, &st, k->e);
	if (rc < 0 && k->served) { /* no memory, no processes: later there may be */
		log_failures(++k->failures, k->e->text);
		k->start_at = k->started + BACKOFF_MAX_MS * USEC_PER_MSEC;
		return;
	}
	if (rc < 0) {
		log_error("the worker cannot be started: %s", k->e->text);
		give_up(k, rc);
		return;
	}
	statedir_note_worker(k->conf->mount->state_dir, k->worker.pid);
	if (k->served) {
		int ms = k->conf->mount->start_ms > 0 ? k->conf->mount->start_ms : START_MS;

		k->kill_at = k->started + ((int64_t)ms << k->slow_starts) * USEC_PER_MSEC;
	}
	log_debug("worker %d started", (int)k->worker.pid);
}

static void begin_stop(struct keeper *k)
{
	if (!k->stopping)
		log_debug("stopping");
	if (!k->stopping)
		k->kill_at = 0; /* of its start */
	k->stopping = true;
	k->start_at = 0;
	if (!k->worker.pid) {
		k->done = true;
		return;
	}
	if (!k->kill_at) {
		(void)kill(k->worker.pid, SIGTERM);
		k->kill_at = now_us() + STOP_MS * USEC_PER_MSEC;
	}
}

/* What the worker said about its start. */
static void on_ready_line(struct keeper *k)
{
	char text[WORKER_LINE_MAX];
	int rc = worker_proc_line(&k->worker, text, sizeof(text));

	if (rc <= 0)
		return;
	if (!strcmp(text, "ok")) {
		if (k->failures)
			log_info("the tree is served again");
		k->ready = k->served = true;
		k->failures = k->slow_starts = 0;
		k->down_since = 0;
		if (!k->stopping)
			k->kill_at = 0;
		k->e->code = 0;
		tell(k, 0, NULL);
		return;
	}
	(void)err_set(k->e, -EIO, "%s", strncmp(text, "error ", 6) ? text : text + 6);
	if (worth_a_line(k->failures + 1))
		log_error("the worker cannot serve: %s", text);
}

/* Answers a request that kills every worker. */
static void check_poison(struct keeper *k)
{
	struct fuse_out_header out = { .len = sizeof(out), .error = -EIO };
	uint64_t busy = shared_busy(k->conf->shared);

	k->suspicions = busy && busy == k->suspect ? k->suspicions + 1 : 1;
	k->suspect = busy;
	if (!busy || k->suspicions < POISON)
		return;
	out.unique = busy;
	log_error("request %llu killed %d workers in a row: it is answered with an error (EIO)",
		  (unsigned long long)busy, POISON);
	if (write(k->fuse_fd, &out, sizeof(out)) < 0 && errno != ENOENT)
		log_error("answering it: %s", strerror(errno));
	shared_forget(k->conf->shared, busy);
}

/* How long to wait before the next start. */
static int64_t backoff_us(struct keeper *k, int64_t now)
{
	int max_ms = k->failures > QUICK_TRIES ? BACKOFF_SLOW_MS : BACKOFF_MAX_MS, ms, i;
	int64_t oldest;

	if (k->conf->mount->backoff_max_ms > 0)
		max_ms = k->conf->mount->backoff_max_ms;
	if (getenv(DIE_VARIABLE) && k->failures <= QUICK_TRIES) /* a test of deaths */
		return 0;
	k->deaths[k->ndeaths++ % (BURST + 1)] = now;
	oldest = k->deaths[k->ndeaths % (BURST + 1)];
	if (now - k->started > BURST_MS * USEC_PER_MSEC)
		k->level = 0;
	else if (k->level > 0 || (k->ndeaths > BURST && now - oldest < BURST_MS * USEC_PER_MSEC))
		k->level++;
	if (!k->level)
		return 0;
	for (i = 1, ms = BACKOFF_FIRST_MS; i < k->level && ms < max_ms; i++)
		ms *= 2;
	return (int64_t)(ms < max_ms ? ms : max_ms) * USEC_PER_MSEC;
}

static void log_death(const struct keeper *k, int st)
{
	if (WIFSIGNALED(st))
		log_warn("worker %d died by signal %d (%s)%s", (int)k->worker.pid, WTERMSIG(st),
			 strsignal(WTERMSIG(st)), k->stopping ? "" : "; starting another");
	else if (k->ready || k->stopping || !k->failures)
		log_info("worker %d ended with status %d", (int)k->worker.pid, WEXITSTATUS(st));
}

/* A worker that ended before it was ready: is there any use in trying again? */
static bool hopeless(struct keeper *k, int st)
{
	if (k->ready || (WIFEXITED(st) && WEXITSTATUS(st) == EXIT_AGAIN))
		return false;
	k->failures++;
	if (!k->served && WIFEXITED(st)) {
		if (!k->e->code)
			(void)err_set(k->e, -EIO,
				      "the worker ended with status %d before the tree was ready; see %s/log",
				      WEXITSTATUS(st), k->conf->mount->state_dir);
		return true;
	}
	if (k->served) {
		log_failures(k->failures, k->e->code ? k->e->text : "it died");
		return false;
	}
	if (k->failures < FIRST_TRIES)
		return false;
	if (!k->e->code)
		(void)err_set(k->e, -EIO, "the worker died %d times before the tree was ready; see %s/log", k->failures,
			      k->conf->mount->state_dir);
	log_error("giving up: %d workers in a row did not get ready", k->failures);
	return true;
}

static void on_death(struct keeper *k, int st)
{
	int64_t now = now_us();

	log_death(k, st);
	worker_proc_release(&k->worker);
	k->kept_answered = false;
	if (!k->stopping)
		k->kill_at = 0;
	statedir_note_worker(k->conf->mount->state_dir, 0);
	if (k->stopping || (WIFEXITED(st) && WEXITSTATUS(st) == 0)) {
		k->done = true;
		return;
	}
	if (hopeless(k, st)) {
		give_up(k, k->e->code ? k->e->code : -EIO);
		return;
	}
	if (k->ready || !k->down_since)
		k->down_since = now;
	check_poison(k);
	k->start_at = now + backoff_us(k, now);
}

static void reap(struct keeper *k)
{
	int st;

	if (k->worker.pid && waitpid(k->worker.pid, &st, WNOHANG) == k->worker.pid) {
		on_ready_line(k); /* the last words may have come with the end */
		on_death(k, st);
	}
}

static void on_signal(struct keeper *k)
{
	struct signalfd_siginfo si;

	while (read(k->signal_fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT)
			begin_stop(k);
		else if (si.ssi_signo == SIGHUP && k->worker.pid && !k->stopping)
			(void)kill(k->worker.pid, SIGHUP);
	}
	reap(k);
}

/* Something was mounted or unmounted: was it ours? A lazy unmount leaves the descriptor working as long as files are
   open, but nobody can find the tree any more: drain and go. */
static void on_mounts(struct keeper *k)
{
	struct mount_entry m;
	int rc = mount_lookup_source(k->source, &m);

	if (rc == 1)
		mount_entry_release(&m);
	else if (rc == 0 && !k->stopping) {
		log_info("%s was unmounted", k->conf->dir);
		begin_stop(k);
	}
}

static int64_t outage_at(const struct keeper *k)
{
	int ms = k->conf->mount->outage_ms > 0 ? k->conf->mount->outage_ms : OUTAGE_MS;

	return k->down_since + ms * USEC_PER_MSEC;
}

/* Nobody serves, and has not for long. A worker that was killed and is still there (its disk hangs) serves no more. */
static bool in_outage(const struct keeper *k)
{
	return k->served && k->down_since && !k->stopping && (!k->worker.pid || k->killed) && now_us() >= outage_at(k);
}

static void on_outage(struct keeper *k, bool request)
{
	if (!k->kept_answered)
		outage_begin(k->conf->shared, k->fuse_fd);
	k->kept_answered = true;
	if (request)
		outage_step(k->conf->shared, k->fuse_fd);
}

static int timeout_ms(const struct keeper *k)
{
	int64_t due = k->start_at ? k->start_at : k->kill_at, left;

	if (k->down_since && !k->kept_answered && (!k->worker.pid || k->killed) && (!due || outage_at(k) < due))
		due = outage_at(k);
	if (!due)
		return -1;
	left = due - now_us();
	return left <= 0 ? 0 : (int)(left / USEC_PER_MSEC) + 1;
}

static void on_time(struct keeper *k)
{
	int64_t now = now_us();

	if (k->start_at && now >= k->start_at)
		start_worker(k);
	if (k->kill_at && now >= k->kill_at && k->worker.pid) {
		if (k->stopping)
			log_warn("worker %d did not stop in %d s: killing it", (int)k->worker.pid, STOP_MS / 1000);
		else
			log_warn("worker %d did not get ready in %lld s: killing it", (int)k->worker.pid,
				 (long long)((now - k->started) / USEC_PER_SEC));
		k->slow_starts += !k->stopping && k->slow_starts < START_DOUBLINGS;
		(void)kill(k->worker.pid, SIGKILL);
		k->killed = true;
		k->kill_at = 0;
	}
}

static void loop(struct keeper *k)
{
	while (!k->done) {
		bool outage = in_outage(k);
		struct pollfd p[] = {
			{ .fd = k->signal_fd, .events = POLLIN },
			{ .fd = k->worker.ready_fd, .events = POLLIN },
			{ .fd = k->mounts_fd, .events = POLLPRI },
			/* With a worker, the worker notices by itself that the tree is unmounted. */
			{ .fd = k->worker.pid && !outage ? -1 : k->fuse_fd, .events = outage ? POLLIN : 0 },
		};

		if (outage)
			on_outage(k, false);
		if (poll(p, 4, timeout_ms(k)) < 0 && errno != EINTR) {
			log_error("poll: %s", strerror(errno));
			break;
		}
		if (p[1].revents)
			on_ready_line(k);
		if (p[0].revents)
			on_signal(k);
		if (p[2].revents)
			on_mounts(k);
		if (p[3].revents & POLLERR)
			begin_stop(k);
		else if (p[3].revents & POLLIN && in_outage(k))
			on_outage(k, true);
		on_time(k);
	}
}

/* The mount, if it is still there and ours: politely, else lazily. */
static void unmount(const struct keeper *k)
{
	struct mount_entry m;
	struct err e = ERR_INIT;

	if (mount_lookup_source(k->source, &m) != 1)
		return;
	if (mount_detach(m.point, false, &e) < 0 && mount_detach(m.point, true, &e) < 0)
		log_error("%s", e.text);
	mount_entry_release(&m);
}

static int open_signals(void)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static void end(struct keeper *k)
{
	if (k->worker.pid) {
		(void)kill(k->worker.pid, SIGKILL);
		(void)waitpid(k->worker.pid, NULL, 0);
		worker_proc_release(&k->worker);
	}
	if (k->fuse_fd >= 0)
		unmount(k);
	if (k->result < 0)
		tell(k, k->result, k->e->text);
	else
		tell(k, -ECANCELED, "stopped before the tree was ready");
	if (k->signal_fd >= 0)
		(void)close(k->signal_fd);
	if (k->mounts_fd >= 0)
		(void)close(k->mounts_fd);
	if (k->conf->fuse_fd < 0 && k->fuse_fd >= 0)
		(void)close(k->fuse_fd);
	free(k->source);
}

int supervise(const struct supervise_conf *conf, struct err *e)
{
	struct err own = ERR_INIT;
	struct keeper k = { .conf = conf, .e = e ? e : &own, .fuse_fd = conf->fuse_fd, .tell_fd = conf->tell_fd };
	struct mount_options opt = { .dir = conf->dir, .allow_other = conf->mount->allow_other };

	k.worker.ready_fd = -1;
	k.source = xasprintf("%s%d", MOUNT_SOURCE, (int)getpid());
	opt.source = k.source;
	statedir_note_keeper(conf->lock_fd, getpid(), conf->dir);
	k.signal_fd = open_signals();
	k.mounts_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (k.signal_fd < 0)
		k.result = err_sys(k.e, -errno, "signalfd");
	else
		k.result = mount_attach(&opt, &k.fuse_fd, k.e);
	if (k.result == 0) {
		start_worker(&k);
		loop(&k);
	}
	end(&k);
	return k.result;
}
