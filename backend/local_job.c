/*
 * One attempt of a local job: its directory, its supervisor, its end. The directory is laid out as on any cluster:
 * BASE/runs/NUM/aN/{script,stdout,stderr,work,results,...}, BASE/ends/NUM.aN.
 *
 * Once only: the supervisor's link is made by the supervisor itself, first one wins, so starting one twice is harmless, and a
 * worker that was killed anywhere in between looks at the directory and goes on from there.
 */
#include "backend/local.h"

#include "backend/base/mem.h"
#include "backend/base/point.h"
#include "backend/sched.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

const char *local_supervisor_program = "/proc/self/exe";

char *local_expand(const char *path)
{
	const char *home = getenv("HOME");

	if (path[0] != '~' || (path[1] && path[1] != '/'))
		return xstrdup(path);
	return xasprintf("%s%s", home && *home ? home : "/", path + 1);
}

static int make_dirs(const char *path)
{
	cleanup_free char *copy = xstrdup(path);

	for (char *s = strchr(copy + 1, '/'); s; s = strchr(s + 1, '/')) {
		*s = '\0';
		if (mkdir(copy, 0700) < 0 && errno != EEXIST)
			return -errno;
		*s = '/';
	}
	return mkdir(copy, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* sbatch's patterns (sbatch(1), "filename pattern") that mean something here; relative names start at the attempt's directory. */
static char *expand_pattern(const struct local_job *j, const char *pattern)
{
	struct passwd *pw = getpwuid(getuid());
	struct strbuf sb = STRBUF_INIT;
	char host[64] = "localhost";

	(void)gethostname(host, sizeof(host) - 1);
	if (pattern[0] != '/')
		strbuf_addf(&sb, "%s/", j->dir);
	for (const char *s = pattern; *s; s++) {
		if (*s != '%' || !s[1]) {
			strbuf_addch(&sb, *s);
			continue;
		}
		switch (*++s) {
		case 'j':
		case 'A':
			strbuf_addstr(&sb, j->job_id);
			break;
		case 'x':
			strbuf_addstr(&sb, j->job->name ? j->job->name : "");
			break;
		case 'u':
			strbuf_addstr(&sb, pw ? pw->pw_name : "");
			break;
		case 'N':
			strbuf_addstr(&sb, host);
			break;
		case 'n':
		case 't':
			strbuf_addch(&sb, '0');
			break;
		case '%':
			strbuf_addch(&sb, '%');
			break;
		default:
			strbuf_addch(&sb, '%');
			strbuf_addch(&sb, *s);
		}
	}
	return strbuf_detach(&sb, NULL);
}

static void set_streams(struct local_job *j)
{
	const struct job *job = j->job;

	j->merged = job->merged;
	j->out = job->output ? expand_pattern(j, job->output) : xasprintf("%s/stdout", j->dir);
	if (job->merged)
		j->err = xstrdup(j->out);
	else
		j->err = job->error ? expand_pattern(j, job->error) : xasprintf("%s/stderr", j->dir);
}

struct local_job *local_job_new(struct cluster *c, struct creq *r)
{
	struct local_job *j = xcalloc(1, sizeof(*j));

	j->run = r->run;
	j->attempt = r->attempt;
	/* The job's id: unique for the state directory, known before there is a process. */
	j->job_id = r->job_id ? xstrdup(r->job_id) : xasprintf("%u.%u", r->run, r->attempt);
	j->token = xstrdup(r->token);
	j->job = r->job;
	r->job = NULL;
	j->dir = xasprintf("%s/runs/%u/a%u", c->base, r->run, r->attempt);
	j->held = j->job->hold;
	j->cancel_wanted = r->cancel_wanted;
	j->pid_fd = -1;
	j->out_len = r->out_len;
	j->err_len = r->err_len;
	list_init(&j->order);
	set_streams(j);
	return j;
}

void local_job_free(struct local_job *j)
{
	if (j->pid_fd >= 0)
		(void)close(j->pid_fd);
	if (j->spool)
		spool_close(j->spool);
	job_release(j->job);
	free(j->job);
	free(j->job_id);
	free(j->token);
	free(j->dir);
	free(j->out);
	free(j->err);
	free(j);
}

/* --- the directory --- */

static int write_file(const char *path, const char *data, size_t len, mode_t mode)
{
	cleanup_free char *tmp = xasprintf("%s.tmp", path);
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode), rc = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, data, len) != (ssize_t)len)
		rc = -ENOSPC;
	(void)close(fd);
	if (rc == 0 && rename(tmp, path) < 0)
		rc = -errno;
	return rc;
}

static int write_params(struct cluster *c, const struct local_job *j, struct err *e)
{
	const struct job *job = j->job;
	cleanup_free char *ends = xasprintf("%s/ends/%u.a%u", c->base, j->run, j->attempt);
	const struct supervisor_params p = {
		.run = j->run,
		.attempt = j->attempt,
		.job_id = j->job_id,
		.name = job->name ? job->name : j->job_id,
		.ends = ends,
		.out = j->out,
		.err = j->err,
		.time_s = job->time_s,
		.mem_bytes = job->mem_bytes,
		.grace_s = job->grace_s,
		.signal_num = job->signal_num,
		.signal_lead_s = job->signal_lead_s,
		.ntasks = job->ntasks > 0 ? job->ntasks : 1,
		.cpus_per_task = job->cpus_per_task > 0 ? job->cpus_per_task : 1,
	};

	return supervisor_params_write(j->dir, &p, e);
}

static int ship_payload(const struct local_job *j, struct err *e)
{
	cleanup_free char *to = xasprintf("%s/payload", j->dir);
	int rc;

	if (j->job->form != JOB_PAYLOAD)
		return 0;
	rc = local_copy_tree(j->job->command, to, e);
	if (rc == 0 && chmod(to, 0700) < 0)
		rc = err_sys(e, -errno, "cannot make %s executable", to);
	return rc;
}

/* What the spec names in `files`, each by its base name. */
static int ship_files(const struct local_job *j, const char *work, struct err *e)
{
	int rc = 0;

	for (char **f = j->job->files; f && *f && rc == 0; f++) {
		const char *slash = strrchr(*f, '/');
		cleanup_free char *to = xasprintf("%s/%s", work, slash ? slash + 1 : *f);

		rc = local_copy_tree(*f, to, e);
	}
	return rc;
}

int local_job_prepare(struct cluster *c, struct local_job *j, const struct creq *r, struct err *e)
{
	cleanup_free char *script = xasprintf("%s/script", j->dir);
	cleanup_free char *work = xasprintf("%s/work", j->dir);
	cleanup_free char *ends = xasprintf("%s/ends", c->base);
	int rc = make_dirs(work);

	if (rc == 0)
		rc = make_dirs(ends);
	if (rc == 0)
		rc = write_file(script, r->script, r->script_len, 0700);
	if (rc < 0)
		return err_sys(e, rc, "cannot prepare %s", j->dir);
	rc = ship_payload(j, e);
	if (rc == 0)
		rc = ship_files(j, work, e);
	if (rc == 0 && r->files_dir && access(r->files_dir, F_OK) == 0)
		rc = local_copy_tree(r->files_dir, work, e);
	if (rc == 0)
		rc = write_params(c, j, e);
	return rc;
}

/* --- the process --- */

int local_job_adopt(struct local_job *j, pid_t pid)
{
	j->pid = pid;
	j->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0); /* closed on exec, see pidfd_open(2) */
	return j->pid_fd < 0 ? -errno : 0;
}

int local_job_start(struct cluster *c, struct local_job *j, struct err *e)
{
	pid_t pid;

	(void)c;
	pid = fork();
	if (pid < 0)
		return err_sys(e, -errno, "cannot start a process");
	if (pid == 0) {
		sigset_t none;
		int null = open("/dev/null", O_RDWR);

		/* Nothing of the daemon goes along: not its signals, not its descriptors (the mount's and the lock's among them). */
		(void)sigemptyset(&none);
		(void)sigprocmask(SIG_SETMASK, &none, NULL);
		(void)dup2(null, 0);
		(void)dup2(null, 1);
		(void)dup2(null, 2);
		(void)syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC (close_range(2)) */);
		(void)execl(local_supervisor_program, "slurmray", "__supervise", j->dir, (char *)NULL);
		_exit(126);
	}
	point(POINT_LOCAL_STARTED);
	(void)local_job_adopt(j, pid); /* no descriptor left: cluster_local.c tries again */
	return 0;
}

static struct event *no_record(const struct local_job *j, const char *status, const char *why)
{
	json_t *d = json_pack("{s:i, s:s, s:s, s:s, s:b, s:I, s:I}", "attempt", (int)j->attempt, "status", status, "why", why,
			      "source", "supervisor", "manifest", 0, "out_len", (json_int_t)0, "err_len", (json_int_t)0);
	struct stat st;

	if (stat(j->out, &st) == 0)
		(void)json_object_set_new(d, "out_len", json_integer(st.st_size));
	if (!j->merged && stat(j->err, &st) == 0)
		(void)json_object_set_new(d, "err_len", json_integer(st.st_size));
	return event_new(EV_END, clock_real(&clock_system), d);
}

static bool read_record(const char *path, struct exit_record *rec)
{
	struct strbuf sb = STRBUF_INIT;
	bool ok = strbuf_read_file(&sb, path, 65536) > 0 && exit_record_parse(sb.buf, rec, NULL) == 0;

	strbuf_release(&sb);
	return ok;
}

struct event *local_job_end(struct cluster *c, struct local_job *j)
{
	cleanup_free char *own = xasprintf("%s/exit", j->dir);
	cleanup_free char *script = xasprintf("%s/ends/%u.a%u", c->base, j->run, j->attempt);
	const char *status = NULL;
	struct exit_record rec;

	if (!read_record(own, &rec) && !read_record(script, &rec)) {
		pid_t pid;

		/* A supervisor that went before it made its link never started anything; now nothing can. */
		if (supervisor_void(j->dir) && supervisor_look(j->dir, &pid) == SUPERVISOR_VOID)
			return j->cancel_wanted ? no_record(j, "cancelled", "cancelled before it started")
						: no_record(j, "node_failed", "the job's supervisor could not be started");
		return no_record(j, "node_failed",
				 "the job's supervisor is gone without an exit record: it was killed, or the machine was restarted");
	}
	if (strcmp(rec.limit, "time") == 0)
		status = "timeout";
	else if (strcmp(rec.limit, "mem") == 0)
		status = "out_of_memory";
	return exit_record_event(&rec, status, j->cancel_wanted, clock_real(c->ctx.clock));
}
