/*
 * One attempt of a local job: its directory, its supervisor, its end. The directory is laid out as on any cluster:
 * BASE/runs/NUM/aN/{script,stdout,stderr,work,results,...}, BASE/ends/NUM.aN.
 *
 * Once only: the supervisor's link is made by the supervisor itself, first one wins, so starting one twice is harmless,
 * and a worker that was killed anywhere in between looks at the directory and goes on from there.
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

#define SESSION_END_S 8

const char *local_supervisor_program = "/proc/self/exe";

char *local_expand(const char *path)
{
	const char *home = getenv("HOME");

	if (path[0] != '~' || (path[1] && path[1] != '/'))
		return xstrdup(path);
	return xasprintf("%s%s", home && *home ? home : "/", path + 1);
}

static char *base_of(const struct cluster *c, const char *directory)
{
	cleanup_free char *dir = directory ? local_expand(directory) : NULL;

	return dir && *dir ? xasprintf("%s/%s", dir, c->ctx.uuid) : xstrdup(c->base);
}

char *local_base(const struct cluster *c, const struct creq *r)
{
	return base_of(c, r->job ? r->job->directory : NULL);
}

char *local_scratch(const struct cluster *c, const struct job *job, uint32_t run, uint32_t attempt)
{
	cleanup_free char *base = NULL;

	if (!job || !job->scratch || !*job->scratch || !job->directory || strcmp(job->scratch, job->directory) == 0)
		return NULL;
	base = base_of(c, job->scratch);
	return xasprintf("%s/runs/%u/a%u", base, run, attempt);
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

/* A number with leading zeros up to `width`, as in %5j; words stay as they are. */
static void add_padded(struct strbuf *sb, const char *s, int width)
{
	if (s[strspn(s, "0123456789")] == '\0')
		for (int n = (int)strlen(s); n < width; n++)
			strbuf_addch(sb, '0');
	strbuf_addstr(sb, s);
}

static void add_home(struct strbuf *sb, const char *path)
{
	const char *home = getenv("HOME");
	bool tilde = strncmp(path, "~/", 2) == 0 && home && *home;

	strbuf_addf(sb, "%s%s", tilde ? home : "", tilde ? path + 1 : path);
}

static bool is_relative(const char *pattern)
{
	return pattern && pattern[0] != '/' && strncmp(pattern, "~/", 2) != 0;
}

/* Where relative names of the streams start, as with sbatch: the directory that the command runs in. */
static char *stream_base(const struct local_job *j)
{
	struct strbuf sb = STRBUF_INIT;

	if (j->job->workdir)
		add_home(&sb, j->job->workdir);
	else
		strbuf_addf(&sb, "%s/work", j->dir);
	return strbuf_detach(&sb, NULL);
}

/* sbatch's patterns (sbatch(1), "filename pattern") that mean something here. */
static char *expand_pattern(const struct local_job *j, const char *pattern)
{
	struct strbuf sb = STRBUF_INIT;
	char host[64] = "localhost", names[4096];
	struct passwd user, *pw = NULL;

	(void)getpwuid_r(getuid(), &user, names, sizeof(names), &pw);

	(void)gethostname(host, sizeof(host) - 1);
	if (is_relative(pattern)) {
		cleanup_free char *base = stream_base(j);

		strbuf_addf(&sb, "%s/", base);
	} else if (pattern[0] == '~') {
		add_home(&sb, "~/");
		pattern += 2;
	}
	for (const char *s = pattern; *s; s++) {
		const char *from = s;
		int width = 0;

		if (*s != '%' || !s[1]) {
			strbuf_addch(&sb, *s);
			continue;
		}
		for (s++; *s >= '0' && *s <= '9'; s++) /* at most 10 (sbatch(1)) */
			width = width * 10 + (*s - '0') > 10 ? 10 : width * 10 + (*s - '0');
		switch (*s) {
		case 'j':
		case 'A':
			add_padded(&sb, j->job_id, width);
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
			add_padded(&sb, "0", width);
			break;
		case '%':
			strbuf_addch(&sb, '%');
			break;
		default: /* as it was written */
			strbuf_add(&sb, from, (size_t)(s - from));
			s--;
		}
	}
	return strbuf_detach(&sb, NULL);
}

static void set_streams(struct local_job *j)
{
	const struct job *job = j->job;

	j->out = job->output ? expand_pattern(j, job->output) : xasprintf("%s/stdout", j->dir);
	if (job->merged)
		j->err = xstrdup(j->out);
	else
		j->err = job->error ? expand_pattern(j, job->error) : xasprintf("%s/stderr", j->dir);
	j->merged = strcmp(j->out, j->err) == 0; /* two patterns may come to the same */
}

struct local_job *local_job_new(struct cluster *c, struct creq *r)
{
	struct local_job *j = xcalloc(1, sizeof(*j));

	j->run = r->run;
	j->attempt = r->attempt;
	/* The job's id: unique for the state directory, known before there is a process. */
	j->job = r->job;
	r->job = NULL;
	j->job_id = r->job_id          ? xstrdup(r->job_id)
		    : local_is_step(j) ? xasprintf("%s.s%u", j->job->holder.job_id, r->run)
				       : xasprintf("%u.%u", r->run, r->attempt);
	j->token = xstrdup(r->token);
	j->base = base_of(c, j->job->directory);
	j->dir = xasprintf("%s/runs/%u/a%u", j->base, r->run, r->attempt);
	j->held = j->job->hold;
	j->cancel_wanted = r->cancel_wanted;
	j->pid_fd = -1;
	strbuf_init(&j->to_tell);
	j->out_len = r->out_len;
	j->err_len = r->err_len;
	j->events_len = -1;
	j->events_done = !j->job->pipes_messages || r->ended;
	j->begun = local_is_step(j); /* its streams are never anybody else's */
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
	events_close(j->events);
	job_release(j->job);
	free(j->job);
	free(j->job_id);
	strbuf_release(&j->to_tell);
	for (int k = 0; k < INNER_KINDS; k++)
		inner_seen_release(&j->inner[k]);
	runner_seen_release(&j->runner);
	free(j->token);
	free(j->base);
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

static bool wants_append(const struct job *job)
{
	for (char **o = job->sbatch; o && *o; o++)
		if (strcmp(*o, "--open-mode=append") == 0 || strcmp(*o, "--open-mode=a") == 0)
			return true;
	return false;
}

static int write_params(const struct local_job *j, struct err *e)
{
	const struct job *job = j->job;
	cleanup_free char *ends = xasprintf("%s/ends/%u.a%u", j->base, j->run, j->attempt);
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
		/* A session's runner ends its steps first, which have this time. */
		.grace_s = job->grace_s + (strcmp(job->launcher, "session") == 0 ? SESSION_END_S : 0),
		.signal_num = job->signal_num,
		.signal_lead_s = job->signal_lead_s,
		.ntasks = job->ntasks > 0 ? job->ntasks : 1,
		.cpus_per_task = job->cpus_per_task > 0 ? job->cpus_per_task : 1,
		.append = wants_append(job),
	};

	return supervisor_params_write(j->dir, &p, e);
}

static int ship_payload(const struct local_job *j, struct err *e)
{
	cleanup_free char *to = xasprintf("%s/payload", j->dir);
	struct stat st;
	int rc;

	if (j->job->form != JOB_PAYLOAD)
		return 0;
	if (stat(j->job->command, &st) < 0)
		return err_sys(e, -errno, "payload: %s", j->job->command);
	if (!S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "payload: %s: it is not a regular file", j->job->command);
	rc = local_copy_tree(j->job->command, to, e);
	if (rc == 0 && chmod(to, 0700) < 0)
		rc = err_sys(e, -errno, "cannot make %s executable", to);
	return rc;
}

/* Where it goes by: the last component. */
static int ship_file(const char *path, const char *work, struct err *e)
{
	cleanup_free char *from = xstrdup(path), *to = NULL;
	size_t len = strlen(from);

	while (len > 1 && from[len - 1] == '/')
		from[--len] = '\0';
	if (access(from, R_OK) < 0)
		return err_sys(e, -errno, "files: %s", from);
	to = xasprintf("%s/%s", work, strrchr(from, '/') ? strrchr(from, '/') + 1 : from);
	return local_copy_tree(from, to, e);
}

/* Where the script would move it from the working directory (launchers/wrapper.c). */
static int ship_context(const struct local_job *j, const char *context, struct err *e)
{
	cleanup_free char *to = xasprintf("%s/context", j->dir);

	return context ? local_copy_tree(context, to, e) : 0;
}

static int ship_secrets(const struct local_job *j, const char *secrets_dir, struct err *e)
{
	cleanup_free char *dir = xasprintf("%s/" JOB_SECRETS, j->dir);
	int rc = 0;

	if (j->job->n_secret && mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_sys(e, -errno, "cannot make %s", dir);
	for (size_t i = 0; rc == 0 && i < j->job->n_secret; i++) {
		const struct job_var *s = &j->job->secret[i];
		cleanup_free char *from = strncmp(s->value, "file:", 5) == 0 ? xstrdup(s->value + 5)
									     : xasprintf("%s/%s", secrets_dir, s->name);
		cleanup_free char *to = xasprintf("%s/%s", dir, s->name);

		if (strncmp(s->value, "cluster:", 8) == 0)
			continue;
		rc = local_copy_tree(from, to, e);
		if (rc == 0 && chmod(to, 0600) < 0)
			rc = err_sys(e, -errno, "cannot protect %s", to);
	}
	return rc;
}

/* On this machine a result of another run is where it is: a link. What came from elsewhere is copied. */
static int ship_input(const struct job_input *in, const char *work, struct err *e)
{
	cleanup_free char *to = xasprintf("%s/%s", work, in->name), *target = NULL;
	const char *local = job_input_local(in);

	if (in->missing)
		return err_set(e, -EINVAL, "%s", in->missing);
	if (!in->link)
		return local_copy_tree(local, to, e);
	target = local_expand(in->link);
	if (access(target, R_OK) < 0)
		return err_set(e, -EINVAL, "inputs.%s: %s is no longer there", in->name, in->source);
	return symlink(target, to) < 0 && errno != EEXIST ? err_sys(e, -errno, "cannot link %s", to) : 0;
}

static int ship_inputs(const struct local_job *j, const char *work, const char *files_dir, struct err *e)
{
	int rc = 0;

	for (char **f = j->job->files; rc == 0 && f && *f; f++)
		rc = ship_file(*f, work, e);
	for (size_t i = 0; rc == 0 && i < j->job->n_inputs; i++)
		rc = ship_input(&j->job->inputs[i], work, e);
	if (rc == 0 && files_dir && access(files_dir, F_OK) == 0)
		rc = local_copy_tree(files_dir, work, e);
	return rc;
}

/* Work and results where the configuration wants them, and links to there, as the wrapper makes them. */
static int make_areas(const struct cluster *c, const struct local_job *j)
{
	static const char *const areas[] = { "work", "results" };
	cleanup_free char *scratch = local_scratch(c, j->job, j->run, j->attempt);
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(areas); i++) {
		cleanup_free char *here = xasprintf("%s/%s", j->dir, areas[i]);
		cleanup_free char *there = scratch ? xasprintf("%s/%s", scratch, areas[i]) : NULL;

		rc = make_dirs(there ? there : here);
		if (rc == 0 && there)
			rc = make_dirs(j->dir);
		if (rc == 0 && there && symlink(there, here) < 0 && errno != EEXIST)
			rc = -errno;
	}
	return rc;
}

/*
 * The directories that a relative name of a stream goes through, below the one that the command runs in and never
 * outside of it. What cannot be made is told by the start, which cannot open the file then.
 */
static void make_stream_dirs(const struct local_job *j, const char *pattern, const char *path)
{
	cleanup_free char *base = stream_base(j), *copy = xstrdup(path);
	char *name, *slash;

	if (!is_relative(pattern) || access(base, F_OK) < 0)
		return;
	for (name = copy + strlen(base) + 1; (slash = strchr(name, '/')); name = slash + 1) {
		*slash = '\0';
		if (strcmp(name, "..") == 0 || (mkdir(copy, 0777) < 0 && errno != EEXIST))
			return;
		*slash = '/';
	}
}

static bool is_prepared(const struct local_job *j)
{
	cleanup_free char *intent = xasprintf("%s/intent", j->dir);

	return local_is_step(j) ? access(intent, F_OK) == 0 : supervisor_params_ready(j->dir);
}

/* What comes last, and says that all the rest is there. */
static int conclude(const struct local_job *j, struct err *e)
{
	cleanup_free char *intent = xasprintf("%s/intent", j->dir);
	int rc;

	if (!local_is_step(j))
		return write_params(j, e);
	rc = write_file(intent, "", 0, 0600);
	return rc < 0 ? err_sys(e, rc, "cannot prepare %s", j->dir) : 0;
}

int local_job_prepare(struct cluster *c, struct local_job *j, const struct creq *r, struct err *e)
{
	cleanup_free char *script = xasprintf("%s/script", j->dir);
	cleanup_free char *work = xasprintf("%s/work", j->dir);
	cleanup_free char *ends = xasprintf("%s/ends", j->base);
	int rc;

	if (is_prepared(j)) /* somebody who started it may be about to make his link */
		return 0;
	rc = make_areas(c, j);
	if (rc == 0)
		rc = make_dirs(ends);
	if (rc == 0)
		rc = write_file(script, r->script, r->script_len, 0700);
	if (rc < 0)
		return err_sys(e, rc, "cannot prepare %s", j->dir);
	rc = ship_payload(j, e);
	if (rc == 0)
		rc = ship_context(j, r->context, e);
	if (rc == 0)
		rc = ship_secrets(j, r->secrets_dir, e);
	if (rc == 0)
		rc = ship_inputs(j, work, r->files_dir, e);
	if (rc < 0)
		return rc;
	make_stream_dirs(j, j->job->output, j->out);
	if (!j->job->merged)
		make_stream_dirs(j, j->job->error, j->err);
	return conclude(j, e);
}

void local_job_call_off(struct local_job *j)
{
	cleanup_free char *path = xasprintf("%s/cancelled", j->dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	j->cancel_wanted = true;
	if (fd >= 0)
		(void)close(fd);
}

/* --- the process --- */

void local_job_adopt(struct local_job *j, pid_t pid)
{
	j->pid = pid;
	j->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (j->pid_fd >= 0)
		(void)fcntl(j->pid_fd, F_SETFD, FD_CLOEXEC);
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

		/* Nothing of the daemon goes along: not its signals, not its descriptors (the mount's and the lock's
		 * among them). */
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
	local_job_adopt(j, pid);
	return 0;
}

bool local_job_begun(struct local_job *j)
{
	cleanup_free char *path = j->begun ? NULL : xasprintf("%s/begun", j->dir);

	j->begun = j->begun || access(path, F_OK) == 0;
	return j->begun;
}

struct event *local_job_no_record(struct local_job *j, const char *status, const char *why)
{
	json_t *d = json_pack("{s:i, s:s, s:s, s:s, s:b, s:I, s:I}", "attempt", (int)j->attempt, "status", status,
			      "why", why, "source", "supervisor", "manifest", 0, "out_len", (json_int_t)0, "err_len",
			      (json_int_t)0);
	cleanup_free char *events = xasprintf("%s/events", j->dir);
	struct stat st;

	(void)json_object_set_new(d, "events_len", json_integer(0));
	if (!local_job_begun(j))
		return event_new(EV_END, clock_real(&clock_system), d);
	if (stat(j->out, &st) == 0)
		(void)json_object_set_new(d, "out_len", json_integer(st.st_size));
	if (!j->merged && stat(j->err, &st) == 0)
		(void)json_object_set_new(d, "err_len", json_integer(st.st_size));
	if (stat(events, &st) == 0)
		(void)json_object_set_new(d, "events_len", json_integer(st.st_size));
	return event_new(EV_END, clock_real(&clock_system), d);
}

static bool read_record(const char *path, struct exit_record *rec)
{
	struct strbuf sb = STRBUF_INIT;
	bool ok = strbuf_read_file(&sb, path, 65536) > 0 && exit_record_parse(sb.buf, rec, NULL) == 0;

	strbuf_release(&sb);
	return ok;
}

bool local_job_record(const struct local_job *j, struct exit_record *rec)
{
	cleanup_free char *own = xasprintf("%s/exit", j->dir);
	cleanup_free char *script = xasprintf("%s/ends/%u.a%u", j->base, j->run, j->attempt);

	return read_record(own, rec) || read_record(script, rec);
}

/* The supervisor's record has no room for a sentence; the script put it down. */
static void read_reason(const struct local_job *j, struct exit_record *rec)
{
	cleanup_free char *path = xasprintf("%s/reason", j->dir);
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;

	if (strcmp(rec->fault, "environment") == 0 && strbuf_read_file(&sb, path, sizeof(rec->reason) - 1) > 0)
		(void)snprintf(rec->reason, sizeof(rec->reason), "%.*s", (int)strcspn(sb.buf, "\n"), sb.buf);
}

bool local_job_called_off(const struct local_job *j)
{
	cleanup_free char *path = xasprintf("%s/cancelled", j->dir);

	return j->cancel_wanted || access(path, F_OK) == 0;
}

static struct event *end_without_record(struct local_job *j)
{
	pid_t pid;

	/* A supervisor that went before it made its link never started anything; now nothing can. */
	if (supervisor_void(j->dir) && supervisor_look(j->dir, &pid) == SUPERVISOR_VOID)
		return local_job_called_off(j)
			       ? local_job_no_record(j, "cancelled", "cancelled before it started")
			       : local_job_no_record(j, "node_failed", "the job's supervisor could not be started");
	return local_job_no_record(
		j, "node_failed",
		"the job's supervisor is gone without an exit record: it was killed, or the machine was restarted");
}

/* What kept the script from being started, over what its code seems to say. */
static void add_trouble(const struct local_job *j, struct event *ev)
{
	cleanup_free char *path = xasprintf("%s/trouble", j->dir);
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	if (strbuf_read_file(&text, path, 65536) <= 0)
		return;
	text.buf[strcspn(text.buf, "\n")] = '\0';
	(void)json_object_set_new(ev->data, "why", json_string(text.buf));
}

struct event *local_job_end(struct cluster *c, struct local_job *j)
{
	cleanup_free char *own = xasprintf("%s/exit", j->dir);
	cleanup_free char *script = xasprintf("%s/ends/%u.a%u", j->base, j->run, j->attempt);
	const char *status = NULL;
	struct exit_record rec;
	struct event *ev;
	pid_t pid;

	if (!read_record(own, &rec)) {
		if (supervisor_look(j->dir, &pid) == SUPERVISOR_DEAD)
			supervisor_sweep(j->dir); /* it was killed: nobody would hear of what goes on */
		if (!read_record(script, &rec))
			return end_without_record(j);
	}
	read_reason(j, &rec);
	if (strcmp(rec.limit, "time") == 0)
		status = "timeout";
	else if (strcmp(rec.limit, "mem") == 0)
		status = "out_of_memory";
	ev = exit_record_event(&rec, status, local_job_called_off(j), clock_real(c->ctx.clock));
	add_trouble(j, ev);
	return ev;
}
