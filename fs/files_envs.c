/*
 * envs/KEY@CLUSTER: what is unpacked on clusters (backend/envs.h). A listing is asked for when somebody looks, and is
 * kept in STATE/envs/CLUSTER, so that what was seen last is there without the cluster, and after a restart.
 *
 * Invariants: nothing here waits for a cluster: what is shown is the last listing. Names are those that envs_key_ok
 * knows; a node id holds a hash of cluster and key, so that it is the same for every worker. One listing at most is on
 * its way for a cluster.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"
#include "backend/envs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define FRESH_US (2LL * USEC_PER_SEC)
#define LIST_MAX ((size_t)16 * 1024 * 1024)
#define FIELDS 5

struct env_item {
	const char *cluster; /* of its list */
	uint32_t number;
	char *name; /* KEY@CLUSTER */
	char *key, *status, *title;
	bool keep;
	uint64_t size;
	int64_t used; /* real us */
	struct strbuf log;
};

struct env_list {
	struct list node;
	struct fsys *fs;
	char *cluster;
	struct env_item **items;
	size_t n;
	int64_t at; /* monotonic us: when it was asked for; 0: never */
	bool asked;
};

/* --- reading a listing --- */

static void item_free(struct env_item *v)
{
	free(v->name);
	free(v->key);
	free(v->status);
	free(v->title);
	strbuf_release(&v->log);
	free(v);
}

static bool number_of(const char *text, uint64_t *out)
{
	char *end;

	errno = 0;
	*out = strtoull(text, &end, 10);
	return !errno && end != text && !*end && *text != '-';
}

/* `env KEY STATUS KIB LAST_USED keep|- NAME`; NULL: it makes no sense. */
static struct env_item *item_new(const struct env_list *l, char *line)
{
	char *f[FIELDS], *p = line + 4;
	cleanup_free char *both = NULL;
	uint64_t kib, used;
	struct env_item *v;

	for (int i = 0; i < FIELDS; i++) {
		f[i] = p;
		p = strchr(p, ' ');
		if (!p)
			return NULL;
		*p++ = '\0';
	}
	if (!envs_key_ok(f[0]) || !*f[1] || !number_of(f[2], &kib) || !number_of(f[3], &used) ||
	    used > INT64_MAX / USEC_PER_SEC || kib > INT64_MAX / 1024)
		return NULL;
	v = xcalloc(1, sizeof(*v));
	both = xasprintf("%s/%s", l->cluster, f[0]);
	v->cluster = l->cluster;
	v->number = (uint32_t)hash_str(both);
	v->name = xasprintf("%s@%s", f[0], l->cluster);
	v->key = xstrdup(f[0]);
	v->status = xstrdup(f[1]);
	v->title = xstrdup(p);
	v->keep = strcmp(f[4], "keep") == 0;
	v->size = kib * 1024;
	v->used = (int64_t)used * USEC_PER_SEC;
	strbuf_init(&v->log);
	return v;
}

static void items_clear(struct env_list *l)
{
	for (size_t i = 0; i < l->n; i++)
		item_free(l->items[i]);
	free(l->items);
	l->items = NULL;
	l->n = 0;
}

static void take(struct env_list *l, const char *data, size_t len)
{
	cleanup_free char *text = xstrndup(data, len);
	char *line = text, *next;
	struct env_item *v = NULL;

	items_clear(l);
	for (; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (*line == ' ' && v) {
			strbuf_addf(&v->log, "%s\n", line + 1);
			continue;
		}
		v = strncmp(line, "env ", 4) == 0 ? item_new(l, line) : NULL;
		if (!v)
			continue;
		l->items = xrealloc(l->items, (l->n + 1) * sizeof(struct env_item *));
		l->items[l->n++] = v;
	}
}

/* --- keeping it --- */

static char *file_of(const struct env_list *l)
{
	return xasprintf("%s/envs/%s", l->fs->state_dir, l->cluster);
}

static void keep(const struct env_list *l, const char *data, size_t len)
{
	cleanup_free char *path = file_of(l), *tmp = xasprintf("%s.tmp", path);
	cleanup_free char *dir = xasprintf("%s/envs", l->fs->state_dir);
	ssize_t n;
	int fd;

	(void)mkdir(dir, 0700);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	n = write(fd, data, len);
	(void)close(fd);
	if (n < 0 || (size_t)n != len || rename(tmp, path) < 0)
		(void)unlink(tmp);
}

static struct env_list *list_of(struct fsys *fs, const char *cluster)
{
	cleanup_strbuf struct strbuf kept = STRBUF_INIT;
	cleanup_free char *path = NULL;
	struct env_list *l;

	for (struct list *n = fs->envs.next; n != &fs->envs; n = n->next) {
		l = container_of(n, struct env_list, node);
		if (strcmp(l->cluster, cluster) == 0)
			return l;
	}
	l = xcalloc(1, sizeof(*l));
	l->fs = fs;
	l->cluster = xstrdup(cluster);
	list_add_tail(&fs->envs, &l->node);
	path = file_of(l);
	if (strbuf_read_file(&kept, path, LIST_MAX) >= 0)
		take(l, kept.buf, kept.len);
	return l;
}

/* --- asking --- */

static void listed(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct env_list *l = arg;

	(void)text;
	l->asked = false;
	if (code < 0 || len > LIST_MAX)
		return;
	take(l, data, len);
	keep(l, data, len);
}

static void ask(struct env_list *l)
{
	const struct engine_link *link = engine_cluster_link(l->fs->en, l->cluster);
	int64_t now = clock_mono(l->fs->clock);

	if (l->asked || !link || !link->up || (l->at && now - l->at < FRESH_US))
		return;
	l->asked = true;
	l->at = now;
	engine_probe(l->fs->en, l->cluster, "envs", listed, l);
}

/* Of all clusters of the configuration, in its order. */
static struct env_list *next_list(struct fsys *fs, size_t i)
{
	const struct config *cf = engine_config(fs->en);
	struct env_list *l = i < cf->n_clusters ? list_of(fs, cf->clusters[i]->name) : NULL;

	if (l)
		ask(l);
	return l;
}

/* --- the tree --- */

const struct env_item *env_find(struct fsys *fs, uint32_t number)
{
	struct env_list *l;

	for (size_t i = 0; (l = next_list(fs, i)); i++)
		for (size_t k = 0; k < l->n; k++)
			if (l->items[k]->number == number)
				return l->items[k];
	return NULL;
}

int env_lookup(struct fsys *fs, const char *name, uint64_t *ino)
{
	struct env_list *l;

	for (size_t i = 0; (l = next_list(fs, i)); i++)
		for (size_t k = 0; k < l->n; k++)
			if (strcmp(l->items[k]->name, name) == 0) {
				*ino = ino_make(INO_ENV, l->items[k]->number, 0);
				return 0;
			}
	return -ENOENT;
}

void env_readdir(struct fsys *fs, uint64_t off, tree_fill fill, void *arg)
{
	uint64_t at = 0;
	struct env_list *l;

	for (size_t i = 0; (l = next_list(fs, i)); i++)
		for (size_t k = 0; k < l->n; k++, at++)
			if (at >= off &&
			    !fill(arg, l->items[k]->name, ino_make(INO_ENV, l->items[k]->number, 0), at + 1))
				return;
}

int64_t env_mtime(const struct env_item *env)
{
	return env->used;
}

static void verb_done(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct env_list *l = arg;

	(void)code;
	(void)text;
	(void)data;
	(void)len;
	l->at = 0; /* whoever looks next sees what became of it */
	ask(l);
}

int env_verb(struct fsys *fs, const struct env_item *env, const char *line, struct err *e)
{
	static const char *const verbs[] = { "remove", "verify", "keep", "keep off" };
	const struct engine_link *link = engine_cluster_link(fs->en, env->cluster);
	cleanup_free char *what = NULL;
	size_t i = 0;

	while (i < ARRAY_SIZE(verbs) && strcmp(verbs[i], line) != 0)
		i++;
	if (i == ARRAY_SIZE(verbs))
		return err_set(e, -EINVAL, "unknown verb '%s': this ctl knows remove, verify, keep, keep off", line);
	if (!link || !link->up)
		return err_set(e, -EHOSTUNREACH, "the cluster %s is not reached now", env->cluster);
	what = xasprintf("envs %s %s", i == 3 ? "unkeep" : verbs[i], env->key);
	engine_probe(fs->en, env->cluster, what, verb_done, list_of(fs, env->cluster));
	return 0;
}

void envs_release(struct fsys *fs)
{
	struct list *n;

	while ((n = list_pop(&fs->envs))) {
		struct env_list *l = container_of(n, struct env_list, node);

		items_clear(l);
		free(l->cluster);
		free(l);
	}
}

/* --- files --- */

static void render_status(const struct view *v, struct strbuf *out)
{
	strbuf_addf(out, "%s\n", v->env->status);
}

static void render_log(const struct view *v, struct strbuf *out)
{
	strbuf_addbuf(out, &v->env->log);
}

static void render_size(const struct view *v, struct strbuf *out)
{
	strbuf_addf(out, "%" PRIu64 "\n", v->env->size);
}

static void render_used(const struct view *v, struct strbuf *out)
{
	char when[CLOCK_TEXT];

	strbuf_addf(out, "%s\n", clock_text(v->env->used, when));
}

static void render_info(const struct view *v, struct strbuf *out)
{
	const char *dot = strchr(v->env->key, '.');

	strbuf_addf(out, "cluster %s\nkey %s\nkind %s\nkept %s\n", v->env->cluster, v->env->key,
		    dot ? dot + 1 : "archive", v->env->keep ? "yes" : "no");
	if (*v->env->title)
		strbuf_addf(out, "name %s\n", v->env->title);
}

const struct node env_nodes[] = {
	{ ".", NODE_DIR, 0555, 0, NULL, 0, "what is unpacked on a cluster" },
	{ "status", NODE_DOC, 0444, 0, render_status, 0, "sending, unpacking, ready or failed" },
	{ "log", NODE_DOC, 0444, 0, render_log, 0, "the end of its log: seconds since 1970, and what was done" },
	{ "size", NODE_DOC, 0444, 0, render_size, 0, "bytes on the cluster" },
	{ "last_used", NODE_DOC, 0444, 0, render_used, 0, "when a run used it last" },
	{ "info", NODE_DOC, 0444, 0, render_info, 0, "cluster, key, kind, kept, name of the file" },
	{ "ctl", NODE_CTL, 0644, NODE_FRESH, NULL, 0, "remove, verify, keep, keep off" },
	{ 0 },
};
