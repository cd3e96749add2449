/*
 * Packed environments on the local cluster: the same as on any other (envs_shell.c), but nothing has to be sent. The
 * thread of envs_task.c reads the archive and then unpacks it; jobs that name it are not submitted before.
 *
 * Invariants: a job that waits is pending, on no queue, and reported to nobody; it can be cancelled. An archive is
 * unpacked once, however many jobs wait. Entries live as long as the cluster; a file that changed is another entry.
 */
#include "backend/local.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#define UNPACK_LIMIT_S 1800

enum lenv_state { LE_READING, LE_UNPACKING, LE_READY, LE_FAILED };

struct lenv {
	struct list node;
	char *path, *platform, *directory;
	struct envs_identity identity;
	struct envs_archive archive;
	enum lenv_state state;
	uint64_t serial; /* of the task that is under way */
	unsigned damaged;
	struct strbuf why;
};

static struct envs_place place(const struct cluster *c, const struct lenv *v)
{
	const char *slash = strrchr(v->path, '/');

	return (struct envs_place){ v->directory, c->ctx.uuid, &v->archive, slash ? slash + 1 : v->path,
				    c->ctx.conf->env_quota_kib };
}

static void set_why(struct lenv *v, const char *why)
{
	strbuf_reset(&v->why);
	if (strncmp(why, "environment: ", 13) != 0)
		strbuf_addf(&v->why, "environment archive %s: ", v->path);
	strbuf_addstr(&v->why, why);
	while (v->why.len && strchr("\n ", v->why.buf[v->why.len - 1]))
		strbuf_setlen(&v->why, v->why.len - 1);
	log_warn("cluster local: %s", v->why.buf);
	v->damaged = 0; /* the next run begins anew */
	v->state = LE_FAILED;
}

/* The job is on its way, or is told why not. */
static void settle(struct cluster *c, struct local_job *j, struct lenv *v)
{
	cleanup_free char *mark = xasprintf("%s.%u.a%u", c->ctx.uuid, j->run, j->attempt);
	cleanup_free char *link_path = xasprintf("%s/" JOB_ENVIRONMENT_LINK, j->dir);
	const struct envs_place p = place(c, v);
	cleanup_strbuf struct strbuf there = STRBUF_INIT;
	cleanup_free char *users = NULL, *user = NULL;

	j->env = NULL;
	if (v->state == LE_FAILED) {
		local_env_settled(c, j, v->why.buf);
		return;
	}
	envs_path(&p, NULL, &there);
	users = xasprintf("%s/users", there.buf);
	user = xasprintf("%s/%s", users, mark);
	(void)mkdir(users, 0700);
	(void)unlink(user);
	(void)unlink(link_path);
	if (symlink(j->dir, user) < 0 || symlink(there.buf, link_path) < 0)
		local_env_settled(c, j, "the environment cannot be linked to: is the disk full?");
	else
		local_env_settled(c, j, NULL);
}

static void tell(struct cluster *c, struct lenv *v)
{
	struct hmap_node *n = hmap_walk(&c->jobs, NULL), *next;

	for (; n; n = next) {
		struct local_job *j = container_of(n, struct local_job, by_run);

		next = hmap_walk(&c->jobs, n);
		if (j->env == v)
			settle(c, j, v);
	}
}

static void post(struct cluster *c, struct lenv *v, struct envs_task *t)
{
	v->serial = t->serial;
	envs_worker_post(c->envs_worker, t);
}

static void start_reading(struct cluster *c, struct lenv *v)
{
	struct envs_task *t;

	if (!c->envs_worker)
		c->envs_worker = envs_worker_new();
	if (!c->envs_worker) {
		set_why(v, "there is no thread to read it");
		return;
	}
	v->state = LE_READING;
	t = envs_task_new(ENVS_READ, &c->inbox, ++c->env_serial);
	t->path = xstrdup(v->path);
	post(c, v, t);
}

static void start_unpacking(struct cluster *c, struct lenv *v)
{
	struct envs_task *t = envs_task_new(ENVS_RUN, &c->inbox, ++c->env_serial);
	const struct envs_place p = place(c, v);
	struct strbuf code = STRBUF_INIT;

	v->state = LE_UNPACKING;
	envs_unpack_code(&p, v->path, !v->platform || strcmp(v->platform, "any") != 0, &code);
	t->code = strbuf_detach(&code, NULL);
	t->deadline_s = UNPACK_LIMIT_S;
	post(c, v, t);
}

static void on_read(struct cluster *c, struct lenv *v, const struct envs_task *t)
{
	struct utsname u;
	struct err e = ERR_INIT;
	const char *platform = v->platform ? v->platform : t->archive.platform;

	v->identity = t->identity;
	v->archive = t->archive;
	if (t->e.code)
		set_why(v, t->e.text);
	else if (uname(&u) == 0 && envs_fits(platform, u.machine, "", &e) < 0)
		set_why(v, e.text);
	else
		start_unpacking(c, v);
}

static void on_unpacked(struct cluster *c, struct lenv *v, const struct envs_task *t)
{
	if (t->rc == 0) {
		v->damaged = 0;
		v->state = LE_READY;
	} else if (t->rc == ENVS_RC_DAMAGED && ++v->damaged < 3) {
		start_reading(c, v); /* it was changed since it was read */
	} else if (t->rc == 124) {
		set_why(v, "it was not unpacked within half an hour");
	} else {
		set_why(v, t->out.len ? t->out.buf : "it cannot be unpacked");
	}
}

void local_env_task_done(struct cluster *c, const struct envs_task *t)
{
	for (struct list *n = c->envs.next; n != &c->envs; n = n->next) {
		struct lenv *v = container_of(n, struct lenv, node);

		if (v->serial != t->serial)
			continue;
		if (t->m.type == (int)ENVS_READ)
			on_read(c, v, t);
		else
			on_unpacked(c, v, t);
		if (v->state == LE_READY || v->state == LE_FAILED)
			tell(c, v);
		return;
	}
}

static bool same_platform(const char *a, const char *b)
{
	return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static struct lenv *find(const struct cluster *c, const struct environment *env, const char *directory,
			 const struct envs_identity *id)
{
	for (struct list *n = c->envs.next; n != &c->envs; n = n->next) {
		struct lenv *v = container_of(n, struct lenv, node);

		if (strcmp(v->path, env->where) == 0 && strcmp(v->directory, directory) == 0 &&
		    envs_same(&v->identity, id) && same_platform(v->platform, env->platform))
			return v;
	}
	return NULL;
}

/* A tree that was removed since is made again. */
static bool still_there(const struct cluster *c, const struct lenv *v)
{
	const struct envs_place p = place(c, v);
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	envs_path(&p, "complete", &path);
	return access(path.buf, F_OK) == 0;
}

static struct lenv *add(struct cluster *c, const struct environment *env, const char *directory,
			const struct envs_identity *id)
{
	struct lenv *v = xcalloc(1, sizeof(*v));

	v->path = xstrdup(env->where);
	v->platform = xstrdup(env->platform);
	v->directory = xstrdup(directory);
	v->identity = *id;
	strbuf_init(&v->why);
	list_add_tail(&c->envs, &v->node);
	start_reading(c, v);
	return v;
}

void local_env_want(struct cluster *c, struct local_job *j)
{
	const struct environment *env = &j->job->environment;
	cleanup_free char *directory = xstrndup(j->base, (size_t)(strrchr(j->base, '/') - j->base));
	struct envs_identity id;
	struct err e = ERR_INIT;
	struct lenv *v;

	if (env->kind != ENV_ARCHIVE) {
		local_env_settled(c, j, NULL);
		return;
	}
	if (envs_identify(env->where, &id, &e) < 0) {
		local_env_settled(c, j, e.text);
		return;
	}
	v = find(c, env, directory, &id);
	if (v && (v->state == LE_FAILED || (v->state == LE_READY && !still_there(c, v))))
		start_reading(c, v);
	if (!v)
		v = add(c, env, directory, &id);
	j->env = v;
	if (v->state == LE_READY || v->state == LE_FAILED)
		settle(c, j, v);
}

void local_envs_release(struct cluster *c)
{
	struct list *n;

	envs_worker_free(c->envs_worker);
	c->envs_worker = NULL;
	while ((n = list_pop(&c->envs))) {
		struct lenv *v = container_of(n, struct lenv, node);

		strbuf_release(&v->why);
		free(v->path);
		free(v->platform);
		free(v->directory);
		free(v);
	}
}
