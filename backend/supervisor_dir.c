/*
 * The attempt's directory as supervisor and cluster share it: parameters, identity, control.
 */
#include "backend/supervisor_impl.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int supervisor_params_write(const char *dir, const struct supervisor_params *p, struct err *e)
{
	cleanup_free char *tmp = xasprintf("%s/params.tmp", dir);
	cleanup_free char *path = xasprintf("%s/params", dir);
	char boot[40];
	json_t *o;
	int rc = -EINVAL;

	boot_id(boot);
	o = json_pack("{s:I, s:I, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:i, s:i, s:i, s:i, s:i, s:b, s:s}", "run",
		      (json_int_t)p->run, "attempt", (json_int_t)p->attempt, "job_id", p->job_id, "name", p->name,
		      "ends", p->ends, "out", p->out, "err", p->err, "time", (json_int_t)p->time_s, "mem",
		      (json_int_t)p->mem_bytes, "grace", p->grace_s, "signal", p->signal_num, "signal_lead",
		      p->signal_lead_s, "ntasks", p->ntasks, "cpus_per_task", p->cpus_per_task, "append", p->append,
		      "boot", boot);
	if (o && json_dump_file(o, tmp, JSON_COMPACT) == 0)
		rc = rename(tmp, path) < 0 ? -errno : 0;
	else if (o)
		rc = -ENOSPC;
	json_decref(o);
	return rc < 0 ? err_sys(e, rc, "cannot write %s", path) : 0;
}

static char *take_text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return xstrdup(s ? s : "");
}

static int64_t take_int(const json_t *o, const char *key)
{
	return (int64_t)json_integer_value(json_object_get(o, key));
}

int supervisor_params_read(const char *dir, struct supervisor_params *p, struct err *e)
{
	cleanup_free char *path = xasprintf("%s/params", dir);
	json_error_t je;
	json_t *o = json_load_file(path, 0, &je);

	if (!json_is_object(o)) {
		json_decref(o);
		return err_set(e, -EINVAL, "cannot read %s: %s", path, je.text);
	}
	p->run = (uint32_t)take_int(o, "run");
	p->attempt = (uint32_t)take_int(o, "attempt");
	p->job_id = take_text(o, "job_id");
	p->name = take_text(o, "name");
	p->ends = take_text(o, "ends");
	p->out = take_text(o, "out");
	p->err = take_text(o, "err");
	p->time_s = take_int(o, "time");
	p->mem_bytes = take_int(o, "mem");
	p->grace_s = (int)take_int(o, "grace");
	p->signal_num = (int)take_int(o, "signal");
	p->signal_lead_s = (int)take_int(o, "signal_lead");
	p->ntasks = (int)take_int(o, "ntasks");
	p->cpus_per_task = (int)take_int(o, "cpus_per_task");
	p->append = json_is_true(json_object_get(o, "append"));
	json_decref(o);
	return 0;
}

bool supervisor_params_ready(const char *dir)
{
	cleanup_free char *path = xasprintf("%s/params", dir);
	json_t *o = json_load_file(path, 0, NULL);
	const char *boot = json_string_value(json_object_get(o, "boot"));
	char now[40];
	bool ready;

	boot_id(now);
	ready = boot && strcmp(boot, now) == 0;
	json_decref(o);
	return ready;
}

void supervisor_params_release(struct supervisor_params *p)
{
	free(p->job_id);
	free(p->name);
	free(p->ends);
	free(p->out);
	free(p->err);
	memset(p, 0, sizeof(*p));
}

/* --- identity: a pid alone may belong to another process by now --- */

void boot_id(char out[40])
{
	cleanup_close int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, out, 36);

	out[n > 0 ? n : 0] = '\0';
}

/* Field 22 of /proc/PID/stat (proc(5)): start time in clock ticks since boot; "" when there is no such process. The
   name in field 2 may hold anything, so fields are counted from its last parenthesis. */
static void start_time(pid_t pid, char *out, size_t size)
{
	cleanup_free char *path = xasprintf("/proc/%d/stat", (int)pid);
	struct strbuf sb = STRBUF_INIT;
	const char *s;
	int field = 3; /* the one behind the blank at `s` */

	out[0] = '\0';
	if (strbuf_read_file(&sb, path, 65536) > 0 && (s = strrchr(sb.buf, ')'))) {
		bool zombie = s[1] == ' ' && (s[2] == 'Z' || s[2] == 'X');

		for (s++; field < 22 && s; field++)
			s = strchr(s + 1, ' ');
		if (s && !zombie)
			(void)snprintf(out, size, "%.*s", (int)strcspn(s + 1, " "), s + 1);
	}
	strbuf_release(&sb);
}

void supervisor_identity(pid_t pid, char *out, size_t size)
{
	char boot[40], start[32];

	boot_id(boot);
	start_time(pid, start, sizeof(start));
	(void)snprintf(out, size, "%s:%d:%s", boot, (int)pid, start);
}

enum supervisor_state supervisor_look(const char *dir, pid_t *pid)
{
	cleanup_free char *path = xasprintf("%s/supervisor", dir);
	char link[128], now[128];
	ssize_t n = readlink(path, link, sizeof(link) - 1);
	const char *colon;
	long p;

	if (n < 0)
		return SUPERVISOR_NONE;
	link[n] = '\0';
	if (strcmp(link, "void") == 0)
		return SUPERVISOR_VOID;
	colon = strchr(link, ':');
	p = colon ? strtol(colon + 1, NULL, 10) : 0;
	if (p <= 0)
		return SUPERVISOR_DEAD;
	supervisor_identity((pid_t)p, now, sizeof(now));
	if (strcmp(link, now) != 0)
		return SUPERVISOR_DEAD;
	*pid = (pid_t)p;
	return SUPERVISOR_ALIVE;
}

int64_t supervisor_since(const char *dir)
{
	cleanup_free char *path = xasprintf("%s/supervisor", dir);
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0;
	return (int64_t)st.st_mtim.tv_sec * USEC_PER_SEC + st.st_mtim.tv_nsec / 1000;
}

bool supervisor_void(const char *dir)
{
	cleanup_free char *path = xasprintf("%s/supervisor", dir);

	if (symlink("void", path) == 0)
		return true;
	return supervisor_look(dir, &(pid_t){ 0 }) == SUPERVISOR_VOID;
}

int supervisor_tell(const char *dir, const char *line)
{
	cleanup_free char *path = xasprintf("%s/control", dir);
	cleanup_close int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	size_t len = strlen(line);

	if (fd < 0)
		return errno == ENXIO || errno == ENOENT ? -ESRCH : -errno;
	return write(fd, line, len) == (ssize_t)len ? 0 : -EIO;
}
