/*
 * The tree of processes below the supervisor. As a subreaper it is the ancestor of everything that the job started,
 * daemons included. /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN) lists them without looking at other processes;
 * where the kernel lacks it, all of /proc is searched.
 */
#include "backend/supervisor_impl.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <ctype.h>
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define TREE_MAX 65536

static bool known(const pid_t *list, size_t n, pid_t pid)
{
	for (size_t i = 0; i < n; i++)
		if (list[i] == pid)
			return true;
	return false;
}

/* Adds the numbers of one `children` file. */
static size_t add_children(const char *text, pid_t *out, size_t n, size_t max)
{
	char *end;

	for (const char *s = text; n < max; s = end) {
		long pid = strtol(s, &end, 10);

		if (end == s)
			break;
		if (pid > 0 && !known(out, n, (pid_t)pid))
			out[n++] = (pid_t)pid;
	}
	return n;
}

/* Children of one process, by all its threads; false when the kernel has no such file. */
static bool children_of(pid_t pid, pid_t *out, size_t *n, size_t max)
{
	cleanup_free char *dir = xasprintf("/proc/%d/task", (int)pid);
	DIR *d = opendir(dir);
	struct dirent *de;
	bool there = false;

	while (d && (de = readdir(d))) {
		cleanup_free char *path = NULL;
		struct strbuf sb = STRBUF_INIT;

		if (!isdigit((unsigned char)de->d_name[0]))
			continue;
		path = xasprintf("%s/%s/children", dir, de->d_name);
		if (strbuf_read_file(&sb, path, 1 << 20) >= 0) {
			there = true;
			*n = add_children(sb.buf, out, *n, max);
		}
		strbuf_release(&sb);
	}
	if (d)
		(void)closedir(d);
	return there;
}

static pid_t parent_of(pid_t pid)
{
	cleanup_free char *path = xasprintf("/proc/%d/stat", (int)pid);
	struct strbuf sb = STRBUF_INIT;
	pid_t ppid = 0;
	const char *s;

	if (strbuf_read_file(&sb, path, 65536) > 0 && (s = strrchr(sb.buf, ')')) && strlen(s) > 4)
		ppid = (pid_t)strtol(s + 4, NULL, 10); /* ") S PPID" */
	strbuf_release(&sb);
	return ppid;
}

static size_t search_all(pid_t root, pid_t *out, size_t max)
{
	size_t n = 0, before;

	do { /* until a pass finds nobody new */
		DIR *d = opendir("/proc");
		struct dirent *de;

		before = n;
		while (d && (de = readdir(d)) && n < max) {
			pid_t pid = (pid_t)strtol(de->d_name, NULL, 10), up;

			if (pid <= 0 || known(out, n, pid))
				continue;
			up = parent_of(pid);
			if (up == root || known(out, n, up))
				out[n++] = pid;
		}
		if (d)
			(void)closedir(d);
	} while (n > before && n < max);
	return n;
}

size_t tree_list(pid_t root, pid_t *out, size_t max)
{
	size_t n = 0;

	if (!children_of(root, out, &n, max))
		return search_all(root, out, max);
	for (size_t i = 0; i < n; i++)
		(void)children_of(out[i], out, &n, max);
	return n;
}

void tree_kill(pid_t root, pid_t except, int sig)
{
	pid_t *list = xcalloc(TREE_MAX, sizeof(*list));
	size_t n = tree_list(root, list, TREE_MAX);

	for (size_t i = 0; i < n; i++)
		if (list[i] != except)
			(void)kill(list[i], sig);
	free(list);
}

/* "Pss:    123 kB" in /proc/PID/smaps_rollup (proc(5), Linux 4.14); -1: not there. */
static int64_t pss_of(pid_t pid)
{
	cleanup_free char *path = xasprintf("/proc/%d/smaps_rollup", (int)pid);
	struct strbuf sb = STRBUF_INIT;
	int64_t bytes = -1;
	const char *s;

	if (strbuf_read_file(&sb, path, 65536) > 0 && (s = strstr(sb.buf, "\nPss:")))
		bytes = strtoll(s + 5, NULL, 10) * 1024;
	strbuf_release(&sb);
	return bytes;
}

int64_t tree_pss(pid_t root)
{
	pid_t *list = xcalloc(TREE_MAX, sizeof(*list));
	size_t n = tree_list(root, list, TREE_MAX);
	int64_t sum = -1;

	for (size_t i = 0; i < n; i++) {
		int64_t pss = pss_of(list[i]);

		if (pss >= 0)
			sum = (sum < 0 ? 0 : sum) + pss;
	}
	free(list);
	return sum;
}

/* --- what is left of a job whose supervisor was killed --- */

#define SWEEP_TRIES 100 /* a hundredth of a second apart */

/* Was it started below the supervisor of this attempt? Its environment says so, wherever it was moved to since. */
static bool belongs(pid_t pid, const char *mark)
{
	cleanup_free char *path = xasprintf("/proc/%d/environ", (int)pid);
	struct strbuf sb = STRBUF_INIT;
	bool ours = false;

	(void)strbuf_read_file(&sb, path, 8 << 20);
	for (const char *s = sb.buf; !ours && s < sb.buf + sb.len; s += strlen(s) + 1)
		ours = strcmp(s, mark) == 0;
	strbuf_release(&sb);
	return ours;
}

static size_t kill_marked(const char *mark)
{
	DIR *d = opendir("/proc");
	struct dirent *de;
	size_t n = 0;

	while (d && (de = readdir(d))) {
		pid_t pid = (pid_t)strtol(de->d_name, NULL, 10);

		if (pid > 1 && pid != getpid() && belongs(pid, mark)) {
			(void)kill(pid, SIGKILL);
			n++;
		}
	}
	if (d)
		(void)closedir(d);
	return n;
}

void supervisor_sweep(const char *dir)
{
	cleanup_free char *mark = xasprintf(SUPERVISOR_MARK "=%s", dir);

	for (int i = 0; i < SWEEP_TRIES && kill_marked(mark) > 0; i++)
		(void)poll(NULL, 0, 10);
}

int64_t tree_rss(pid_t root)
{
	pid_t *list = xcalloc(TREE_MAX, sizeof(*list));
	size_t n = tree_list(root, list, TREE_MAX);
	int64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		cleanup_free char *path = xasprintf("/proc/%d/statm", (int)list[i]);
		struct strbuf sb = STRBUF_INIT;
		const char *blank;

		if (strbuf_read_file(&sb, path, 4096) > 0 && (blank = strchr(sb.buf, ' ')))
			sum += strtoll(blank, NULL, 10) * sysconf(_SC_PAGESIZE);
		strbuf_release(&sb);
	}
	free(list);
	return sum;
}
