/*
 * Looks at a job's paths when it is written. stat(2) of a path may hang (a server that is away, an automounter), and
 * the caller is the reactor, which must not: so a thread of its own looks, and is left behind when it is not back in
 * time. It owns what it looks at until then; whoever comes last frees. Threads that hang are counted, and no more than
 * a few are started.
 *
 * Paths below our own mount are never looked at: the reactor, which waits, would have to answer.
 */
#include "backend/job_paths.h"

#include "backend/base/mem.h"
#include "backend/job.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define PATIENCE_NS 200000000 /* a cold disk answers in a tenth of that */
#define THREADS_MAX 4         /* that may hang */
#define STACK_BYTES 262144

enum kind { ANYTHING, REGULAR, READABLE, DIRECTORY };

struct item {
	const char *key; /* of the spec */
	char *path;      /* as in the spec */
	enum kind kind;
	char *full; /* what is looked at */
	int code;   /* 0 or negative errno */
	const char *problem;
};

struct look {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool done, left; /* the thread is back; nobody waits for it any more */
	struct item *v;
	size_t n;
};

static int hanging; /* threads that were left behind */

/* --- what is looked at --- */

static char *expand(const char *path)
{
	const char *home = getenv("HOME");

	if (path[0] != '~' || (path[1] && path[1] != '/'))
		return xstrdup(path);
	return xasprintf("%s%s", home && *home ? home : "", path + 1);
}

static void add(struct look *l, const char *key, const char *path, char *full, enum kind kind)
{
	l->v = xrealloc(l->v, (l->n + 1) * sizeof(*l->v));
	l->v[l->n++] = (struct item){ .key = key, .path = xstrdup(path), .kind = kind, .full = full };
}

/* The job's input, where it does not depend on what is made before: by `setup`, or by shipping files. */
static void add_input(struct look *l, const struct job *job)
{
	bool fixed = job->input[0] == '/' || job->input[0] == '~';

	if (job->setup || (!fixed && !job->workdir))
		return;
	if (fixed) {
		add(l, "input", job->input, expand(job->input), READABLE);
	} else {
		cleanup_free char *dir = expand(job->workdir);

		add(l, "input", job->input, xasprintf("%s/%s", dir, job->input), READABLE);
	}
}

static void collect(struct look *l, const struct job *job, bool this_machine)
{
	for (char **f = job->files; f && *f; f++)
		add(l, "files", *f, xstrdup(*f), ANYTHING);
	for (size_t i = 0; i < job->n_inputs; i++)
		if (!job->inputs[i].run)
			add(l, "inputs", job->inputs[i].source, xstrdup(job->inputs[i].source), REGULAR);
	for (size_t i = 0; i < job->n_secret; i++)
		if (strncmp(job->secret[i].value, "file:", 5) == 0)
			add(l, "secret_env", job->secret[i].value + 5, xstrdup(job->secret[i].value + 5), REGULAR);
	if (job->form == JOB_PAYLOAD)
		add(l, "payload", job->command, xstrdup(job->command), REGULAR);
	for (char **w = job->environment.wheels; w && *w; w++)
		add(l, "environment.wheels", *w, xstrdup(*w), REGULAR);
	if (job->environment.pipes)
		add(l, "pipes", job->environment.pipes, xstrdup(job->environment.pipes), REGULAR);
	if (job->environment.kind == ENV_ARCHIVE || job->environment.kind == ENV_BUILD)
		add(l, "environment", job->environment.where, xstrdup(job->environment.where), REGULAR);
	if (this_machine && job->workdir)
		add(l, "workdir", job->workdir, expand(job->workdir), DIRECTORY);
	if (this_machine && job->input)
		add_input(l, job);
}

static void look_free(struct look *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].path);
		free(l->v[i].full);
	}
	free(l->v);
	(void)pthread_cond_destroy(&l->changed);
	(void)pthread_mutex_destroy(&l->lock);
	free(l);
}

static struct look *look_new(void)
{
	struct look *l = xcalloc(1, sizeof(*l));
	pthread_condattr_t attr;

	(void)pthread_condattr_init(&attr);
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	(void)pthread_mutex_init(&l->lock, NULL);
	(void)pthread_cond_init(&l->changed, &attr);
	(void)pthread_condattr_destroy(&attr);
	return l;
}

/* --- looking --- */

static void look_at(struct item *it)
{
	int need = it->kind == DIRECTORY ? X_OK : R_OK;
	struct stat st;

	if (stat(it->full, &st) < 0)
		it->code = -errno;
	else if (it->kind == DIRECTORY && !S_ISDIR(st.st_mode))
		it->code = -ENOTDIR;
	else if (it->kind == READABLE && S_ISDIR(st.st_mode))
		it->code = -EISDIR;
	else if (it->kind == REGULAR && !S_ISREG(st.st_mode))
		it->problem = "it is not a regular file";
	else if (it->kind == ANYTHING && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		it->problem = "it is neither a file nor a directory";
	else if (faccessat(AT_FDCWD, it->full, S_ISDIR(st.st_mode) ? need | X_OK : need, AT_EACCESS) < 0)
		it->code = -errno;
}

static void *look_thread(void *arg)
{
	struct look *l = arg;
	bool left;

	for (size_t i = 0; i < l->n; i++)
		look_at(&l->v[i]);
	(void)pthread_mutex_lock(&l->lock);
	l->done = true;
	left = l->left;
	(void)pthread_cond_signal(&l->changed);
	(void)pthread_mutex_unlock(&l->lock);
	if (left) {
		look_free(l);
		(void)__atomic_sub_fetch(&hanging, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Signals are the reactor's. */
static int start_thread(struct look *l)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t id;
	int rc;

	(void)pthread_attr_init(&attr);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&id, &attr, look_thread, l);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	(void)pthread_attr_destroy(&attr);
	return rc;
}

/* True when all was seen; else the thread keeps `l`. */
static bool wait_for(struct look *l)
{
	struct timespec until;
	bool done;
	int rc = 0;

	(void)clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += PATIENCE_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	(void)pthread_mutex_lock(&l->lock);
	while (!l->done && rc == 0)
		rc = pthread_cond_timedwait(&l->changed, &l->lock, &until);
	done = l->done;
	l->left = !done;
	if (!done)
		(void)__atomic_add_fetch(&hanging, 1, __ATOMIC_RELAXED);
	(void)pthread_mutex_unlock(&l->lock);
	return done;
}

/* --- sentences --- */

static int complain(const struct item *it, const char *why, struct strbuf *errors)
{
	strbuf_addf(errors, "%s%s: %s: %s", errors->len ? "\n" : "", it->key, it->path, why);
	return -EINVAL;
}

static bool below(const char *path, const char *dir)
{
	size_t len = dir ? strlen(dir) : 0;

	return len && strncmp(path, dir, len) == 0 && (path[len] == '/' || !path[len]);
}

/* Takes the items below the mount away; those of them that could never be shipped are errors. */
static int take_own(struct look *l, const char *mount, struct strbuf *errors)
{
	size_t kept = 0;
	int rc = 0;

	for (size_t i = 0; i < l->n; i++) {
		struct item *it = &l->v[i];

		if (!below(it->full, mount)) {
			l->v[kept++] = *it;
			continue;
		}
		if (it->kind == ANYTHING || it->kind == REGULAR)
			rc = complain(it, "it is in the mount that is to ship it: copy it to another place first",
				      errors);
		free(it->path);
		free(it->full);
	}
	l->n = kept;
	return rc;
}

static int report(const struct look *l, struct strbuf *errors)
{
	int rc = 0;

	for (size_t i = 0; i < l->n; i++) {
		const struct item *it = &l->v[i];

		if (it->code < 0)
			rc = complain(it, strerror(-it->code), errors);
		else if (it->problem)
			rc = complain(it, it->problem, errors);
	}
	return rc;
}

int job_paths_check(const struct job *job, const struct job_paths_where *where, struct strbuf *errors)
{
	bool waits = job->after && *job->after;
	struct look *l = look_new();
	int rc;

	collect(l, job, where->this_machine);
	rc = take_own(l, where->mount, errors);
	if (waits || !l->n || __atomic_load_n(&hanging, __ATOMIC_RELAXED) >= THREADS_MAX || start_thread(l) < 0) {
		look_free(l);
		return rc;
	}
	if (!wait_for(l))
		return rc;
	if (report(l, errors) < 0)
		rc = -EINVAL;
	look_free(l);
	return rc;
}
