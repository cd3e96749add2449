/*
 * What the clients of the tree share: which mount, which state directory, which run; and what to do while the mount is
 * away. Keeps no state but what the caller holds.
 *
 * The mount is found in /proc/self/mounts, which names owner and type without a look at the tree itself, so that a dead
 * mount cannot hang anybody who only asks where it is.
 */
#include "fs/client.h"

#include "backend/base/mem.h"
#include "backend/config.h"
#include "backend/doctor.h"
#include "fs/mount.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <mntent.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MNTENT_MAX 65536
#define AWAY_PAUSE_MS 300

/* --- words for the user --- */

static void say(const char *text)
{
	while (*text) {
		size_t n = strcspn(text, "\n");

		(void)fprintf(stderr, "slurmray: %.*s\n", (int)n, text);
		text += n + (text[n] == '\n');
	}
}

void client_say(const char *fmt, ...)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	va_list ap;

	va_start(ap, fmt);
	strbuf_vaddf(&sb, fmt, ap);
	va_end(ap);
	(void)fflush(stdout);
	say(sb.buf);
}

int client_usage(const char *fmt, ...)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	va_list ap;

	va_start(ap, fmt);
	strbuf_vaddf(&sb, fmt, ap);
	va_end(ap);
	say(sb.buf);
	say("`slurmray --help` shows how it is used");
	return 2;
}

/* --- paths --- */

static char *home(void)
{
	const char *env = getenv("HOME");
	const struct passwd *pw;

	if (env && env[0] == '/')
		return xstrdup(env);
	pw = getpwuid(geteuid());
	return xstrdup(pw && pw->pw_dir && pw->pw_dir[0] == '/' ? pw->pw_dir : "/");
}

char *client_absolute(const char *path)
{
	cleanup_free char *base = NULL;

	if (path[0] == '/')
		return xstrdup(path);
	if (path[0] == '~' && (!path[1] || path[1] == '/')) {
		base = home();
		return xasprintf("%s%s", strcmp(base, "/") ? base : "", path + 1);
	}
	while (path[0] == '.' && path[1] == '/')
		path += 2 + strspn(path + 2, "/");
	base = getcwd(NULL, 0);
	if (!base)
		return xstrdup(path); /* the directory is gone: whoever gets the path says so */
	return xasprintf("%s/%s", strcmp(base, "/") ? base : "", path);
}

char *client_state_path(void)
{
	const char *xdg = getenv("XDG_STATE_HOME");
	cleanup_free char *base = home();
	/* The XDG base directory specification: a path that is not absolute is to be ignored. */
	char *path = xdg && xdg[0] == '/' ? xasprintf("%s/slurmray", xdg)
					  : xasprintf("%s/.local/state/slurmray", strcmp(base, "/") ? base : "");

	if (!doctor_remote_fs(path))
		return path;
	free(path);
	return xasprintf("/var/tmp/slurmray-%u", (unsigned)geteuid());
}

char *client_default_state(void)
{
	char *path = client_state_path();

	/* What cannot be made here is reported by whoever locks the directory. */
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		(void)mkdir(path, 0700);
		*slash = '/';
	}
	return path;
}

int client_check_config(const char *path, struct err *e)
{
	cleanup_free char *standard = config_default_path();
	struct config *c = NULL;
	int rc = config_load(path ? path : standard, path != NULL, &c, e);

	if (rc == 0)
		config_free(c);
	return rc;
}

/* --- which mount --- */

static bool ours(const struct mntent *m)
{
	const char *opt = hasmntopt(m, "user_id");
	char *end;
	unsigned long uid;

	if (strcmp(m->mnt_type, MOUNT_TYPE) != 0 || !opt || strncmp(opt, "user_id=", 8) != 0)
		return false;
	uid = strtoul(opt + 8, &end, 10);
	return (*end == ',' || !*end) && uid == geteuid();
}

struct dirs {
	char **v;
	size_t n;
};

static bool dirs_add(struct dirs *d, const char *dir)
{
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(d->v[i], dir) == 0)
			return false; /* mounts on top of each other */
	d->v = xrealloc(d->v, (d->n + 1) * sizeof(*d->v));
	d->v[d->n++] = xstrdup(dir);
	return true;
}

static void dirs_release(struct dirs *d)
{
	for (size_t i = 0; i < d->n; i++)
		free(d->v[i]);
	free(d->v);
}

int client_each_mount(const char *table, void (*each)(void *arg, const char *dir), void *arg)
{
	FILE *f = setmntent(table, "re");
	struct dirs seen = { NULL, 0 };
	struct mntent m;
	char *buf;

	if (!f)
		return -errno;
	buf = xmalloc(MNTENT_MAX);
	while (getmntent_r(f, &m, buf, MNTENT_MAX))
		if (ours(&m) && dirs_add(&seen, m.mnt_dir))
			each(arg, m.mnt_dir);
	(void)endmntent(f);
	dirs_release(&seen);
	free(buf);
	return 0;
}

static void collect(void *arg, const char *dir)
{
	(void)dirs_add(arg, dir);
}

static char *only_mount(struct err *e)
{
	cleanup_strbuf struct strbuf list = STRBUF_INIT;
	struct dirs found = { NULL, 0 };
	int rc = client_each_mount("/proc/self/mounts", collect, &found);
	char *dir = NULL;

	if (rc < 0) {
		(void)err_sys(e, rc, "reading /proc/self/mounts");
	} else if (found.n == 0) {
		(void)err_set(e, -ENOENT, "there is no slurmray mount of yours; `slurmray mount DIR` makes one");
	} else if (found.n > 1) {
		for (size_t i = 0; i < found.n; i++)
			strbuf_addf(&list, "%s %s", i ? "," : "", found.v[i]);
		(void)err_set(e, -EINVAL,
			      "there are several mounts:%s; choose one with --mount DIR or SLURMRAY_MOUNT=DIR",
			      list.buf);
	} else {
		dir = xstrdup(found.v[0]);
	}
	dirs_release(&found);
	return dir;
}

char *client_find_mount(const char *option, struct err *e)
{
	const char *env = getenv("SLURMRAY_MOUNT");

	if (option)
		return client_absolute(option);
	if (env && *env)
		return client_absolute(env);
	return only_mount(e);
}

/* --- which run --- */

/* Is there a tree of which this is the directory `runs`? */
static bool is_runs(const char *runs)
{
	cleanup_free char *path = xasprintf("%s/new", runs);

	return access(path, F_OK) == 0;
}

/* The part of the path before its last component; the caller frees. */
static char *parent(const char *path)
{
	const char *slash = strrchr(path, '/');

	return !slash || slash == path ? xstrdup("/") : xstrndup(path, (size_t)(slash - path));
}

static char *run_by_path(const char *path, struct err *e)
{
	cleanup_free char *real = realpath(path, NULL), *runs = NULL;
	char *dir = NULL;

	if (!real) {
		(void)err_sys(e, -errno, "%s", path);
		return NULL;
	}
	runs = parent(real);
	if (is_runs(runs)) {
		dir = real;
		real = NULL;
	} else {
		(void)err_set(e, -EINVAL, "%s is not the directory of a run (MNT/runs/ID)", path);
	}
	return dir;
}

static char *newest(const char *mount, struct err *e)
{
	cleanup_free char *link = xasprintf("%s/last", mount);
	char target[PATH_MAX];
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (n > 0) {
		target[n] = '\0';
		return xasprintf("%s/%s", mount, target);
	}
	if (n == 0 || errno == ENOENT)
		(void)err_set(e, -ENOENT, "there is no run yet in %s", mount);
	else
		(void)err_sys(e, -errno, "%s", link);
	return NULL;
}

/* The run that has this job name: by/name/NAME holds links to runs. Several are listed in the error. */
static char *run_by_name(const char *mount, const char *name, struct err *e)
{
	cleanup_free char *path = xasprintf("%s/by/name/%s", mount, name), *id = NULL;
	cleanup_strbuf struct strbuf all = STRBUF_INIT;
	const struct dirent *d;
	size_t n = 0;
	DIR *p = opendir(path);

	while (p && (d = readdir(p))) {
		if (d->d_name[0] == '.')
			continue;
		strbuf_addf(&all, " %s", d->d_name);
		if (n++ == 0)
			id = xstrdup(d->d_name);
	}
	if (p)
		(void)closedir(p);
	if (n == 1)
		return xasprintf("%s/runs/%s", mount, id);
	if (n == 0)
		(void)err_set(e, -ENOENT, "there is no run '%s'; %s/runs/list shows them", name, mount);
	else
		(void)err_set(e, -EINVAL, "several runs are named '%s': say which by its id, one of%.700s", name,
			      all.buf);
	return NULL;
}

/* Why there is nothing to be found below `mount`. */
static int no_tree(const char *mount, int code, struct err *e)
{
	if (code == -ENOTCONN || code == -ECONNABORTED)
		return err_set(e, code, "the mount %s is dead: nobody serves it; `slurmray mount %s` serves it again",
			       mount, mount);
	if (code == -ENOENT || code == -ENOTDIR)
		return err_set(e, code, "there is no slurmray mount at %s; `slurmray mount %s` makes one", mount,
			       mount);
	return err_sys(e, code, "%s", mount);
}

char *client_run_dir(const char *mount, const char *run, struct err *e)
{
	cleanup_free char *root = NULL, *runs = NULL, *dir = NULL;
	struct stat st;

	if (strchr(run, '/'))
		return run_by_path(run, e);
	root = client_find_mount(mount, e);
	if (!root)
		return NULL;
	runs = xasprintf("%s/runs/new", root);
	if (access(runs, F_OK) < 0) {
		(void)no_tree(root, -errno, e);
		return NULL;
	}
	if (strcmp(run, "last") == 0)
		return newest(root, e);
	if (!*run || *run == '.') {
		(void)err_set(e, -EINVAL, "'%s' is no run; %s/runs/list shows them", run, root);
		return NULL;
	}
	dir = xasprintf("%s/runs/%s", root, run);
	if (stat(dir, &st) == 0 && S_ISDIR(st.st_mode)) {
		char *found = dir;

		dir = NULL;
		return found;
	}
	return run_by_name(root, run, e);
}

/* --- while the mount is away --- */

static const char *id_of(const char *dir)
{
	const char *slash = strrchr(dir, '/');

	return slash ? slash + 1 : dir;
}

/* errno values of a file whose server is gone, or is going. */
static bool is_gone(int code)
{
	return code == -ENOTCONN || code == -ECONNABORTED || code == -ENODEV || code == -ESTALE;
}

int client_recover(struct client_outage *o, int code, struct err *e)
{
	cleanup_free char *runs = parent(o->dir), *mount = parent(runs);

	if (code == -EBUSY)
		return err_set(e, code, "run %s is a draft: write %s/spec, which submits it", id_of(o->dir), o->dir);
	if (code == -ENOENT && is_runs(runs))
		return err_set(e, code, "run %s is not in %s (any more)", id_of(o->dir), runs);
	if (!is_gone(code) && code != -ENOENT && code != -ENOTDIR)
		return err_sys(e, code, "%s", o->dir);
	if (!o->away)
		client_say(
			"%s is not mounted (any more); waiting for it to come back (`slurmray mount %s`). The job goes on, and "
			"an interrupt ends only this wait",
			mount, mount);
	o->away = true;
	(void)poll(NULL, 0, AWAY_PAUSE_MS);
	return 0;
}

void client_recovered(struct client_outage *o)
{
	if (o->away)
		client_say("%s is back", o->dir);
	o->away = false;
}
