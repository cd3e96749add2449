/*
 * The worker: everything but the mount itself. Puts the parts together, runs the loop, and goes in an orderly way; a
 * kill at any moment is what the next worker is made for.
 *
 * Exit status: 0 the mount is gone or a stop was asked for; 75 start me again (reload, upgrade); 1 could not start.
 */
#include "fs/cache.h"
#include "fs/die.h"
#include "fs/fsys.h"
#include "fs/keeper.h"
#include "fs/reactor.h"
#include "fs/sleep.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#define EXIT_AGAIN 75                    /* EX_TEMPFAIL of sysexits.h */
#define STOP_MS 3000                     /* for clusters and the journal to finish */
#define JOURNAL_US (30LL * USEC_PER_SEC) /* for how long requests wait for the journal */
#define TICK_US (1 * USEC_PER_SEC)

struct worker {
	struct fsys fs;
	struct reactor reactor;
	struct config *config;
	struct sleep_watch *sleep;
	bool ready, ending;
	int ready_fd;
	int64_t next_tick;
};

/* --- what the engine tells --- */

static void wake_pollers(struct fsys *fs, uint32_t run);

static void run_changed(void *arg, const struct run *r)
{
	struct fsys *fs = arg;

	if (r->t_created > fs->runs_changed)
		fs->runs_changed = r->t_created;
	area_news(fs, r->num);
	park_retry(fs, r->num);
	if (!run_is_live(r) || r->status == RUN_QUEUED)
		park_retry(fs, 0); /* sets; readers of `last` */
	wake_pollers(fs, r->num);
}

static void run_gone(void *arg, uint32_t num)
{
	struct fsys *fs = arg;

	fs->runs_changed = clock_real(fs->clock);
	park_retry(fs, num);
	run_spool_forget(fs, num);
	area_forget(fs, num);
	cache_gone(fs, num);
	wake_pollers(fs, num);
}

static void log_grew(void *arg, const struct run *r)
{
	struct fsys *fs = arg;

	area_news(fs, r->num);
	park_retry(fs, r->num);
	wake_pollers(fs, r->num);
}

static void listed(void *arg, const struct run *r, int area, bool whole, int64_t began, const char *data, size_t len)
{
	area_listed(arg, r->num, area, whole, began, data, len);
}

static void fetch(void *arg, const struct run *r)
{
	area_fetch(arg, r);
}

static bool in_use(void *arg, const struct run *r)
{
	return area_in_use(arg, r);
}

struct poll_walk {
	struct fsys *fs;
	uint32_t run; /* 0: all */
};

/* The run that a poller waits for; 0: several, or a conversation, whose pollers look for themselves. */
static uint32_t run_of(uint64_t ino)
{
	return ino_kind(ino) == INO_RUN ? ino_number(ino) : 0;
}

static void wake_one(void *arg, struct shared_handle *sh)
{
	struct poll_walk *w = arg;
	uint64_t kh = sh->poll_kh;

	if (!kh || (w->run && run_of(sh->ino) && run_of(sh->ino) != w->run))
		return;
	sh->poll_kh = 0;
	w->fs->n_pollers--;
	session_notify_poll(w->fs->session, kh);
}

static void wake_pollers(struct fsys *fs, uint32_t run)
{
	struct poll_walk w = { fs, run };

	if (fs->n_pollers > 0)
		shared_handle_walk(fs->shared, wake_one, &w);
}

/* --- the loop --- */

/* Writers whose commit is on its way learn its fate; the others are told that we go. */
static void settle(struct fsys *fs)
{
	int64_t end = clock_mono(fs->clock) + STOP_MS * USEC_PER_MSEC;
	struct pollfd p = { .fd = engine_fd(fs->en), .events = POLLIN };
	int64_t left;

	while (park_committing(fs) && (left = end - clock_mono(fs->clock)) > 0)
		if (poll(&p, 1, (int)(left / USEC_PER_MSEC) + 1) > 0)
			engine_step(fs->en);
}

/*
 * A blocked reader cannot be frozen, and the machine would not sleep: all are let go, and nobody may wait until it woke
 * up. Programs that go on after EINTR (cat, tail, Python) come again and again until they are frozen, and wait as
 * before afterwards.
 */
static void on_sleep(void *arg, bool asleep)
{
	struct worker *w = arg;

	log_info(asleep ? "the machine is about to sleep: blocked readers are let go (EINTR)" : "the machine is awake");
	w->fs.asleep = asleep;
	if (!asleep)
		return;
	settle(&w->fs);
	park_interrupt(&w->fs);
}

static int bus_fd(void *arg)
{
	const struct worker *w = arg;

	return sleep_fd(w->sleep);
}

static void on_bus(void *arg)
{
	struct worker *w = arg;

	sleep_step(w->sleep);
}

static void end_loop(struct worker *w, int status, int error)
{
	if (!w->ending)
		settle(&w->fs);
	w->ending = true;
	park_drain(&w->fs, error);
	reactor_stop(&w->reactor, status);
}

static int on_fuse(void *arg, int max)
{
	struct worker *w = arg;
	int n = session_step(w->fs.session, max);

	if (!w->ready && session_init_done(w->fs.session)) {
		w->ready = true;
		worker_ready(w->ready_fd, NULL);
	}
	if (w->fs.stopping)
		end_loop(w, 0, ENODEV);
	else if (w->fs.restart)
		reactor_stop(&w->reactor, EXIT_AGAIN); /* parked requests stay for the next worker */
	return n;
}

static void on_engine(void *arg)
{
	struct worker *w = arg;

	if (!w->ending) /* who would be answered is gone */
		engine_step(w->fs.en);
}

static void on_signal(void *arg, const struct signalfd_siginfo *si)
{
	struct worker *w = arg;

	if (si->ssi_signo == SIGHUP)
		reactor_stop(&w->reactor, EXIT_AGAIN);
	else
		end_loop(w, 0, ENODEV);
}

static int64_t on_timer(void *arg, int64_t now)
{
	struct worker *w = arg;
	int64_t due = engine_timer(w->fs.en, now), cache = cache_timer(w->fs.cache, now);

	if (now >= w->next_tick) {
		park_expire(&w->fs);
		if (w->fs.n_parked)
			sleep_try(w->sleep, now);
		w->next_tick = now + TICK_US;
	}
	if (cache < due)
		due = cache;
	return w->fs.n_parked && w->next_tick < due ? w->next_tick : due;
}

/* --- start --- */

/* Conversations of another mount, or of handles that are gone with it. */
static void sweep_handles(const struct fsys *fs)
{
	char prefix[32];
	struct dirent *de;
	DIR *d = opendir(fs->handle_dir);

	(void)snprintf(prefix, sizeof(prefix), "%llx.", (unsigned long long)shared_mount_id(fs->shared));
	while (d && (de = readdir(d)))
		if (de->d_name[0] != '.' && strncmp(de->d_name, prefix, strlen(prefix)) != 0)
			(void)unlinkat(dirfd(d), de->d_name, 0);
	if (d)
		(void)closedir(d);
}

static int parse_uids(struct fsys *fs, const char *list, struct err *e)
{
	const char *s = list;

	while (s && *s) {
		char *end;
		unsigned long uid = strtoul(s, &end, 10);

		if (end == s || (*end && *end != ',') || uid > 0xfffffffeul)
			return err_set(e, -EINVAL, "--allow-uid takes numbers separated by commas, not '%s'", list);
		fs->allow_uids = xrealloc(fs->allow_uids, (fs->n_allow + 1) * sizeof(uid_t));
		fs->allow_uids[fs->n_allow++] = (uid_t)uid;
		s = *end ? end + 1 : end;
	}
	return 0;
}

static int64_t mtime_of(const char *path, int64_t otherwise)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return otherwise;
	return (int64_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
}

/* The keeper writes its lock when it mounts. */
static int64_t mounted_at(const struct fsys *fs)
{
	cleanup_free char *lock = xasprintf("%s/lock", fs->state_dir);

	return mtime_of(lock, fs->started);
}

static int fsys_init(struct fsys *fs, const struct worker_conf *conf, struct err *e)
{
	int rc = shared_attach(conf->shared_fd, &fs->shared, e);

	if (rc < 0)
		return rc;
	fs->clock = &clock_system;
	fs->journal_us = die_journal_us(JOURNAL_US);
	fs->state_dir = conf->mount->state_dir;
	fs->mount_dir = conf->mount->dir;
	fs->handle_dir = xasprintf("%s/handles", fs->state_dir);
	fs->others = conf->mount->allow_other;
	fs->uid = getuid();
	fs->gid = getgid();
	fs->started = clock_real(fs->clock);
	fs->mounted = mounted_at(fs);
	fs->built = mtime_of("/proc/self/exe", fs->mounted);
	/* Instances of node ids go on where no earlier worker can still be: the clock moves faster than look-ups. */
	fs->instance = (uint32_t)(fs->started / USEC_PER_MSEC);
	hmap_init(&fs->handles);
	hmap_init(&fs->parked);
	hmap_init(&fs->spools);
	hmap_init(&fs->numbers);
	hmap_init(&fs->values);
	hmap_init(&fs->paths);
	hmap_init(&fs->probes);
	list_init(&fs->envs);
	(void)mkdir(fs->handle_dir, 0700);
	sweep_handles(fs);
	return parse_uids(fs, conf->mount->allow_uids, e);
}

static void count_poller(void *arg, struct shared_handle *sh)
{
	struct fsys *fs = arg;

	fs->n_pollers += sh->poll_kh != 0;
}

/* Does the configuration's `keep` say anything? */
static bool removes_by_time(const struct config *cf)
{
	for (size_t i = 0; i < cf->n_clusters; i++)
		if (config_keep(cf, cf->clusters[i]->name))
			return true;
	return false;
}

static int start(struct worker *w, const struct worker_conf *conf, struct err *e)
{
	struct fsys *fs = &w->fs;
	struct engine_conf ec = { .clock = &clock_system,
				  .state_dir = conf->mount->state_dir,
				  .mount_dir = conf->mount->dir };
	const struct engine_observer ob = { fs, run_changed, run_gone, log_grew, listed, fetch, in_use };
	cleanup_free char *path = conf->mount->config_path ? xstrdup(conf->mount->config_path) : config_default_path();
	int rc;

	rc = config_load(path, conf->mount->config_path != NULL, &w->config, e);
	if (rc < 0)
		return rc;
	rc = fsys_init(fs, conf, e);
	if (rc < 0)
		return rc;
	ec.config = w->config;
	ec.mount_id = shared_mount_id(fs->shared);
	rc = engine_create(&ec, &fs->en, e);
	if (rc < 0)
		return rc;
	engine_observe(fs->en, &ob);
	{
		const struct session_conf sc = { conf->fuse_fd, fs->shared, &fuse_ops, fs, die_session_hook() };

		rc = session_create(&sc, &fs->session, e);
	}
	if (rc == 0)
		rc = session_takeover(fs->session, e);
	if (rc < 0)
		return rc;
	fs->runs_changed = fs->mounted;
	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num))
		if (r->t_created > fs->runs_changed)
			fs->runs_changed = r->t_created;
	fs->cache = cache_new(fs);
	fs->note_results = fs->cache || removes_by_time(ec.config);
	shared_handle_walk(fs->shared, count_poller, fs);
	wake_pollers(fs, 0);
	return 0;
}

static int open_signals(void)
{
	sigset_t set;

	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* So that a leak checker sees what was lost, and nothing else. */
static void fsys_release(struct fsys *fs)
{
	struct hmap_node *n;

	while ((n = hmap_walk(&fs->handles, NULL)))
		handle_free(fs, container_of(n, struct handle, node));
	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num)) {
		run_spool_forget(fs, r->num);
		area_forget(fs, r->num);
	}
	cache_free(fs->cache);
	fs->cache = NULL;
	sets_release(fs);
	probes_release(fs);
	envs_release(fs);
	hmap_release(&fs->handles);
	hmap_release(&fs->parked);
	hmap_release(&fs->spools);
	hmap_release(&fs->numbers);
	hmap_release(&fs->paths);
	free(fs->allow_uids);
	free(fs->handle_dir);
}

int worker_main(const struct worker_conf *conf)
{
	struct worker w;
	struct err e = ERR_INIT;
	struct reactor_conf rc = { .fuse_fd = conf->fuse_fd, .retries = -1, .clock = &clock_system };
	int status;

	memset(&w, 0, sizeof(w));
	w.ready_fd = conf->ready_fd;
	w.sleep = sleep_new(on_sleep, &w);
	rc.signal_fd = open_signals(); /* before threads start: they inherit the mask */
	if (die_setup(&e) < 0 || start(&w, conf, &e) < 0) {
		log_error("%s", e.text);
		worker_ready(w.ready_fd, &e);
		engine_free(w.fs.en, STOP_MS);
		sleep_free(w.sleep);
		return 1;
	}
	rc.engine_fd = engine_fd(w.fs.en);
	rc.fuse = on_fuse;
	rc.engine = on_engine;
	rc.signal = on_signal;
	rc.other_fd = bus_fd;
	rc.other = on_bus;
	rc.timer = on_timer;
	rc.arg = &w;
	reactor_init(&w.reactor, &rc);
	status = reactor_run(&w.reactor, &e);
	if (status == -ENODEV)
		status = 0;
	if (status < 0)
		log_error("%s", e.text);
	if (status != EXIT_AGAIN) {
		park_drain(&w.fs, ENODEV);
		fsys_release(&w.fs);
	}
	engine_free(w.fs.en, STOP_MS);
	session_free(w.fs.session);
	sleep_free(w.sleep);
	if (status != EXIT_AGAIN) {
		shared_detach(w.fs.shared);
		config_free(w.config);
	}
	return status < 0 ? 1 : status;
}
