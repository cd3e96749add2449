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

enum lenv_state { LE_READING, LE_UNPACKING, LE_READY, LE_FAILED };

struct lenv {
	struct list node;
	enum envs_use use;
	int build_s;
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

	return (struct envs_place){
		v->directory, c->ctx.uuid, &v->archive, slash ? slash + 1 : v->path, c->ctx.conf->env_quota_kib,
		v->build_s
	};
}

static void set_why(struct lenv *v, const char *why)
{
	strbuf_reset(&v->why);
	if (strncmp(why, "environment: ", 13) != 0)
		strbuf_addf(&v->why, "%s %s: ", envs_use_words(v->use), v->path);
	strbuf_addstr(&v->why, why);
	while (v->why.len && strchr("\n ", v->why.buf[v->why.len - 1]))
		strbuf_setlen(&v->why, v->why.len - 1);
	log_warn("cluster local: %s", v->why.buf);
	v->damaged = 0; /* the next run begins anew */
	v->state = LE_FAILED;
}

/* The name of the link to what it has waited for; the list is as short as its looking up is seldom. */
static char *need_link(const struct local_job *j)
{
	size_t n;
	struct envs_need *v = envs_needs(j->job, false, &n);
	char *name = j->env_next < n ? xstrdup(v[j->env_next].link) : NULL;

	envs_needs_free(v, n);
	return name;
}

static void next_need(struct cluster *c, struct local_job *j)
{
	j->env_next++;
	local_env_want(c, j);
}

/* The job is on its way, or is told why not. */
static void settle(struct cluster *c, struct local_job *j, struct lenv *v)
{
	cleanup_free char *mark = xasprintf("%s.%u.a%u", c->ctx.uuid, j->run, j->attempt);
	const struct envs_place p = place(c, v);
	cleanup_strbuf struct strbuf there = STRBUF_INIT;
	cleanup_free char *users = NULL, *user = NULL, *link_path = NULL, *name = need_link(j);

	j->env = NULL;
	if (v->state == LE_FAILED) {
		local_env_settled(c, j, v->why.buf);
		return;
	}
	envs_path(&p, NULL, &there);
	link_path = xasprintf("%s/%s", j->dir, name ? name : JOB_ENVIRONMENT_LINK);
	users = xasprintf("%s/users", there.buf);
	user = xasprintf("%s/%s", users, mark);
	(void)mkdir(users, 0700);
	(void)unlink(user);
	(void)unlink(link_path);
	if (symlink(j->dir, user) < 0 || symlink(there.buf, link_path) < 0)
		local_env_settled(c, j, "the environment cannot be linked to: is the disk full?");
	else
		next_need(c, j);
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
	t->use = v->use;
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
	t->deadline_s = envs_limit(&p);
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
		set_why(v,
			v->use == ENVS_BUILD ? "its build took too long" : "it was not unpacked within half an hour");
	} else {
		set_why(v, t->out.len ? t->out.buf : "it cannot be unpacked");
	}
}

/* --- questions about all of them --- */

struct env_ask {
	struct list node;
	uint64_t serial;
	struct creq *q;
};

bool local_envs_ask(struct cluster *c, const struct creq *r)
{
	cleanup_free char *directory = xstrndup(c->base, (size_t)(strrchr(c->base, '/') - c->base));
	struct strbuf code = STRBUF_INIT;
	struct envs_task *t;
	struct env_ask *a;

	if (!r->arg || !envs_probe_code(directory, r->arg, &code)) {
		strbuf_release(&code);
		return false;
	}
	if (!c->envs_worker)
		c->envs_worker = envs_worker_new();
	if (!c->envs_worker) {
		strbuf_release(&code);
		local_reply(c, r, -EAGAIN, "there is no thread to look", NULL, 0);
		return true;
	}
	a = xcalloc(1, sizeof(*a));
	a->q = creq_new(CREQ_PROBE, 0, 0, r->ticket);
	a->serial = ++c->env_serial;
	list_add_tail(&c->env_asks, &a->node);
	t = envs_task_new(ENVS_RUN, &c->inbox, a->serial);
	t->code = strbuf_detach(&code, NULL);
	t->deadline_s = ENVS_UNPACK_LIMIT_S;
	envs_worker_post(c->envs_worker, t);
	return true;
}

static void answer(struct cluster *c, struct env_ask *a, int code, const char *text, const struct strbuf *out)
{
	local_reply(c, a->q, code, text, out ? out->buf : NULL, out ? out->len : 0);
	list_del(&a->node);
	msg_release(&a->q->m);
	free(a);
}

void local_env_task_done(struct cluster *c, const struct envs_task *t)
{
	for (struct list *n = c->env_asks.next; n != &c->env_asks; n = n->next) {
		struct env_ask *a = container_of(n, struct env_ask, node);

		if (a->serial != t->serial)
			continue;
		answer(c, a, t->rc ? -EIO : 0, t->rc ? "it cannot be looked at" : "", &t->out);
		return;
	}
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

static struct lenv *find(const struct cluster *c, const struct envs_need *need, const char *directory,
			 const struct envs_identity *id)
{
	for (struct list *n = c->envs.next; n != &c->envs; n = n->next) {
		struct lenv *v = container_of(n, struct lenv, node);

		if (v->use == need->use && strcmp(v->path, need->path) == 0 && strcmp(v->directory, directory) == 0 &&
		    envs_same(&v->identity, id) && same_platform(v->platform, need->platform))
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

static struct lenv *add(struct cluster *c, const struct envs_need *need, const char *directory,
			const struct envs_identity *id)
{
	struct lenv *v = xcalloc(1, sizeof(*v));

	v->use = need->use;
	v->build_s = need->build_s;
	v->path = xstrdup(need->path);
	v->platform = xstrdup(need->platform);
	v->directory = xstrdup(directory);
	v->identity = *id;
	strbuf_init(&v->why);
	list_add_tail(&c->envs, &v->node);
	start_reading(c, v);
	return v;
}

/* One after the other: each may have to be made. */
void local_env_want(struct cluster *c, struct local_job *j)
{
	cleanup_free char *directory = xstrndup(j->base, (size_t)(strrchr(j->base, '/') - j->base));
	struct envs_identity id;
	struct err e = ERR_INIT;
	struct lenv *v = NULL;
	size_t n;
	struct envs_need *needs = envs_needs(j->job, false, &n);

	if (j->env_next >= n) {
		local_env_settled(c, j, NULL);
	} else if (envs_identify(needs[j->env_next].path, &id, &e) < 0) {
		local_env_settled(c, j, e.text);
	} else {
		v = find(c, &needs[j->env_next], directory, &id);
		if (v && (v->state == LE_FAILED || (v->state == LE_READY && !still_there(c, v))))
			start_reading(c, v);
		if (!v)
			v = add(c, &needs[j->env_next], directory, &id);
		j->env = v;
	}
	envs_needs_free(needs, n);
	if (v && (v->state == LE_READY || v->state == LE_FAILED))
		settle(c, j, v);
}

void local_envs_release(struct cluster *c)
{
	struct list *n;

	envs_worker_free(c->envs_worker);
	c->envs_worker = NULL;
	while ((n = c->env_asks.next) != &c->env_asks)
		answer(c, container_of(n, struct env_ask, node), -ENODEV, "the cluster is being closed", NULL);
	while ((n = list_pop(&c->envs))) {
		struct lenv *v = container_of(n, struct lenv, node);

		strbuf_release(&v->why);
		free(v->path);
		free(v->platform);
		free(v->directory);
		free(v);
	}
}
