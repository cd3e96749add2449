/*
 * The supervisor's process. One loop over a signalfd, the control FIFO and a clock. The phases only go forward:
 * running; stopping (TERM was sent, KILL follows after the grace period); draining (the script has ended, what it left
 * behind is killed).
 *
 * The exit record is written when nothing of the job is left, so the sizes of the streams in it are final.
 */
#include "backend/supervisor_impl.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/sched.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SAMPLE_US (500 * USEC_PER_MSEC)    /* how often memory is looked at */
#define DRAIN_GRACE_US (2 * USEC_PER_SEC)  /* for what a script leaves behind, as Slurm's KillWait */
#define SIGNALS_WAIT_US (5 * USEC_PER_SEC) /* for the script to come so far that it can be signalled */
#define MIN_WAIT_MS 5
#define RECORD_TRIES 600 /* of writing the exit record, a tenth of a second apart: a full disk may be mended */

struct supervisor {
	struct supervisor_params p;
	const char *dir;
	pid_t child;
	int sig_fd, control;
	int64_t start;    /* real, seconds */
	int64_t limit_at; /* monotonic us; INT64_MAX: none */
	int64_t warn_at;  /* when the warning signal is due */
	int64_t kill_at;  /* when TERM becomes KILL */
	int64_t sample_at;
	int64_t max_rss;
	uint64_t signals;   /* bit N - 1: signal N waits for the job's process */
	int64_t signals_by; /* monotonic us: then everybody gets them */
	char line[128];     /* of control, not whole yet */
	size_t line_len;
	int status; /* of the script, from waitpid */
	bool child_gone;
	const char *limit; /* "time", "mem" or NULL */
	int last_signal;
};

extern char **environ;

/* --- starting the script --- */

/* The daemon's own environment without what another Slurm job or run left in it, and what a batch job expects to find.
 */
static void job_environment(const struct supervisor_params *p, const char *dir)
{
	static const char *const prefixes[] = { "SLURM_", "SLURMRAY_", "SBATCH_", "SRUN_" };
	char text[32];

	for (size_t i = 0; environ[i];) {
		const char *eq = strchr(environ[i], '=');
		bool drop = false;

		for (size_t k = 0; k < ARRAY_SIZE(prefixes); k++)
			drop = drop || strncmp(environ[i], prefixes[k], strlen(prefixes[k])) == 0;
		if (drop && eq) {
			cleanup_free char *name = xstrndup(environ[i], (size_t)(eq - environ[i]));

			(void)unsetenv(name);
		} else {
			i++;
		}
	}
	(void)setenv(SUPERVISOR_MARK, dir, 1);
	(void)setenv("SLURMRAY_JOB_ID", p->job_id, 1);
	(void)setenv("SLURM_JOB_ID", p->job_id, 1);
	(void)setenv("SLURM_JOB_NAME", p->name, 1);
	(void)setenv("SLURM_JOB_NUM_NODES", "1", 1);
	(void)snprintf(text, sizeof(text), "%d", p->ntasks);
	(void)setenv("SLURM_NTASKS", text, 1);
	(void)snprintf(text, sizeof(text), "%d", p->cpus_per_task);
	(void)setenv("SLURM_CPUS_PER_TASK", text, 1);
	(void)snprintf(text, sizeof(text), "%d", p->ntasks * p->cpus_per_task);
	(void)setenv("SLURM_CPUS_ON_NODE", text, 1);
	(void)setenv("SLURM_JOB_CPUS_PER_NODE", text, 1);
	(void)snprintf(text, sizeof(text), "%lld", (long long)(p->mem_bytes >> 20));
	if (p->mem_bytes)
		(void)setenv("SLURM_MEM_PER_NODE", text, 1);
}

/* Leaves the sentence for whoever judges the end: there is no stream yet that could take it. */
static void leave_trouble(const char *what, const char *path, int code)
{
	bool missing = code == ENOENT || code == ENOTDIR;
	cleanup_free char *text =
		xasprintf("%s%s%s: %s: the job was not started%s\n", what, *path ? ": " : "", path, strerror(code),
			  missing ? " (the directory has to be there before; sbatch makes none either)" : "");
	int fd = open("trouble", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd >= 0) {
		(void)!write(fd, text, strlen(text));
		(void)close(fd);
	}
}

/* Always written at the end, so that two writers do not overwrite each other. */
static void redirect(const char *key, const char *path, int to)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);

	if (fd < 0) {
		leave_trouble(key, path, errno);
		_exit(126);
	}
	(void)dup2(fd, to);
	if (fd != to)
		(void)close(fd);
}

static void exec_script(const struct supervisor *s, pid_t parent)
{
	sigset_t none;
	int null = open("/dev/null", O_RDONLY);

	(void)sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++) /* what a terminal's shell or nohup ignored; a shell could not trap that */
		(void)signal(sig, SIG_DFL);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)setpgid(0, 0);
	/* A script whose supervisor is killed must not go on unseen. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	(void)dup2(null, STDIN_FILENO);
	redirect("output", s->p.out, STDOUT_FILENO);
	if (strcmp(s->p.out, s->p.err) == 0)
		(void)dup2(STDOUT_FILENO, STDERR_FILENO);
	else
		redirect("error", s->p.err, STDERR_FILENO);
	for (int fd = 3; fd < 256; fd++)
		(void)close(fd);
	job_environment(&s->p, s->dir);
	(void)execl("/bin/sh", "sh", "script", (char *)NULL);
	_exit(126);
}

/* --- time, memory, signals --- */

/* A stopped process sees TERM only when it goes on; it is there before that, or one that stops itself again sleeps on.
 */
static void ask_to_end(void)
{
	tree_kill(getpid(), 0, SIGTERM);
	tree_kill(getpid(), 0, SIGCONT);
}

static void stop_tree(struct supervisor *s, int64_t now, const char *limit)
{
	if (s->kill_at != INT64_MAX)
		return; /* on its way, for the first reason */
	if (limit && !s->limit)
		s->limit = limit;
	s->last_signal = SIGTERM;
	ask_to_end();
	s->kill_at = now + (int64_t)s->p.grace_s * USEC_PER_SEC;
}

/*
 * Signals of the user are for the job's own processes. Until its script has written `pid` (launchers/wrapper.c) there
 * are none, and the wrapper would die of most of them; afterwards the wrapper is left alone, or it would pass them on
 * once more.
 */
static void add_signal(struct supervisor *s, int sig, int64_t now)
{
	if (sig < 1 || sig > 64 || sig >= NSIG)
		return;
	if (!s->signals)
		s->signals_by = now + SIGNALS_WAIT_US;
	s->signals |= UINT64_C(1) << (sig - 1);
}

static void give_signals(struct supervisor *s, int64_t now)
{
	bool ready = access("pid", F_OK) == 0;

	if (!s->signals || (!ready && now < s->signals_by))
		return;
	for (int sig = 1; sig <= 64; sig++) {
		if (!(s->signals & UINT64_C(1) << (sig - 1)))
			continue;
		s->last_signal = sig;
		if (!s->child_gone) /* the script passes it on to its command, as with scancel --batch */
			(void)kill(s->child, sig);
	}
	s->signals = 0;
}

static void on_line(struct supervisor *s, const char *line, int64_t now)
{
	if (strcmp(line, "cancel") == 0)
		stop_tree(s, now, NULL);
	else if (strncmp(line, "signal ", 7) == 0)
		add_signal(s, (int)strtol(line + 7, NULL, 10), now);
}

static void on_control(struct supervisor *s, int64_t now)
{
	char buf[512];
	ssize_t n = read(s->control, buf, sizeof(buf));

	for (ssize_t i = 0; i < n; i++) {
		if (buf[i] != '\n') {
			if (s->line_len < sizeof(s->line) - 1)
				s->line[s->line_len++] = buf[i];
			continue;
		}
		s->line[s->line_len] = '\0';
		s->line_len = 0;
		on_line(s, s->line, now);
	}
}

static void reap(struct supervisor *s, int64_t now)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid != s->child)
			continue;
		s->child_gone = true;
		s->status = status;
		/* What the script left behind ends with it, as in Slurm. */
		ask_to_end();
		if (s->kill_at > now + DRAIN_GRACE_US)
			s->kill_at = now + DRAIN_GRACE_US;
	}
}

/* Pages that are shared would be counted for each process, and a job be killed for memory that it does not use. */
static bool over_memory(int64_t rss, int64_t limit)
{
	int64_t pss;

	if (!limit || rss <= limit)
		return false;
	pss = tree_pss(getpid());
	return pss < 0 || pss > limit;
}

static void sample(struct supervisor *s, int64_t now)
{
	int64_t rss = tree_rss(getpid());

	s->sample_at = now + SAMPLE_US;
	if (rss > s->max_rss)
		s->max_rss = rss;
	if (s->limit || !over_memory(rss, s->p.mem_bytes))
		return;
	s->limit = "mem";
	s->last_signal = SIGKILL;
	tree_kill(getpid(), 0, SIGKILL);
}

static void on_clock(struct supervisor *s, int64_t now)
{
	if (now >= s->sample_at)
		sample(s, now);
	if (now >= s->warn_at) {
		s->warn_at = INT64_MAX;
		add_signal(s, s->p.signal_num, now);
	}
	give_signals(s, now);
	if (now >= s->limit_at) {
		s->limit_at = INT64_MAX;
		stop_tree(s, now, "time");
	}
	if (now >= s->kill_at) {
		tree_kill(getpid(), 0, SIGKILL);
		s->kill_at = now + USEC_PER_SEC; /* again, should a fork have slipped through */
	}
}

static int64_t earliest(const struct supervisor *s)
{
	int64_t t = s->signals ? 0 : s->sample_at; /* waiting signals: see MIN_WAIT_MS */

	t = s->warn_at < t ? s->warn_at : t;
	t = s->limit_at < t ? s->limit_at : t;
	return s->kill_at < t ? s->kill_at : t;
}

static bool anybody_left(void)
{
	pid_t one;

	return tree_list(getpid(), &one, 1) > 0;
}

static void supervise(struct supervisor *s)
{
	const struct clock *clock = &clock_system;

	while (!s->child_gone || anybody_left()) {
		struct pollfd fds[2] = { { s->sig_fd, POLLIN, 0 }, { s->control, POLLIN, 0 } };
		struct signalfd_siginfo si;
		int64_t now = clock_mono(clock), wait = (earliest(s) - now) / USEC_PER_MSEC + 1;

		(void)poll(fds, 2, wait < MIN_WAIT_MS ? MIN_WAIT_MS : wait > 1000 ? 1000 : (int)wait);
		now = clock_mono(clock);
		while (read(s->sig_fd, &si, sizeof(si)) == sizeof(si))
			if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT)
				stop_tree(s, now, NULL);
		reap(s, now);
		if (fds[1].revents & POLLIN)
			on_control(s, now);
		on_clock(s, now);
	}
}

/* --- the record --- */

static long long file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) ? (long long)st.st_size : 0;
}

static const char *signal_word(int sig)
{
	return sig > 0 && sigabbrev_np(sig) ? sigabbrev_np(sig) : "-";
}

/* What the script said of itself, when it came to its end; else what waitpid said. `code` and `fault` as in the record.
 */
static void script_code(const struct supervisor *s, char *code, size_t size, char *fault, size_t fault_size)
{
	struct exit_record r;
	struct strbuf sb = STRBUF_INIT;
	int rc = WIFSIGNALED(s->status) ? 128 + WTERMSIG(s->status) : WEXITSTATUS(s->status);

	(void)snprintf(fault, fault_size, "-");
	if (strbuf_read_file(&sb, s->p.ends, 65536) > 0 && exit_record_parse(sb.buf, &r, NULL) == 0) {
		rc = r.rc;
		if (r.fault[0])
			(void)snprintf(fault, fault_size, "%s", r.fault);
	} else if (access("refused", F_OK) == 0) { /* then it ends with 0, to be quiet towards schedulers */
		rc = -1;
		(void)snprintf(fault, fault_size, "refused");
	}
	strbuf_release(&sb);
	if (rc < 0)
		(void)snprintf(code, size, "-");
	else
		(void)snprintf(code, size, "%d", rc);
}

static void build_record(const struct supervisor *s, struct strbuf *out)
{
	struct rusage ru;
	char host[64] = "-", code[16], fault[sizeof(((struct exit_record *)0)->fault)];
	bool merged = strcmp(s->p.out, s->p.err) == 0;

	(void)getrusage(RUSAGE_CHILDREN, &ru);
	(void)gethostname(host, sizeof(host) - 1);
	script_code(s, code, sizeof(code), fault, sizeof(fault));
	strbuf_addf(
		out,
		"v=1 run=%u attempt=%u job=%s rc=%s sig=%s start=%lld end=%lld out=%lld err=%lld restart=0 manifest=1",
		s->p.run, s->p.attempt, s->p.job_id, code, signal_word(s->last_signal), (long long)s->start,
		(long long)(clock_real(&clock_system) / USEC_PER_SEC), file_size(s->p.out),
		merged ? 0 : file_size(s->p.err));
	if (access("events", F_OK) == 0)
		strbuf_addf(out, " events=%lld", file_size("events"));
	strbuf_addf(out, " maxrss=%lld cpu=%lld nodes=1 fault=%s host=%s limit=%s\n",
		    (long long)(s->max_rss > ru.ru_maxrss * 1024 ? s->max_rss : ru.ru_maxrss * 1024),
		    ((long long)ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * USEC_PER_SEC + ru.ru_utime.tv_usec +
			    ru.ru_stime.tv_usec,
		    fault, host, s->limit ? s->limit : "-");
}

static int write_record(const struct supervisor *s)
{
	struct strbuf text = STRBUF_INIT;
	int rc = -1;

	build_record(s, &text);
	for (int i = 0; i < RECORD_TRIES && rc < 0; i++) {
		int fd = open("exit.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		if (fd >= 0 && write(fd, text.buf, text.len) == (ssize_t)text.len && fsync(fd) == 0)
			rc = rename("exit.tmp", "exit");
		if (fd >= 0)
			(void)close(fd);
		if (rc < 0)
			(void)poll(NULL, 0, 100);
	}
	strbuf_release(&text);
	return rc;
}

/* --- start --- */

static int open_signals(void)
{
	static const int all[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT };
	sigset_t set;

	(void)sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		(void)sigaddset(&set, all[i]);
	(void)sigprocmask(SIG_BLOCK, &set, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* Empties the files of the streams, as sbatch(1) has it, before anybody reads them as this job's. */
static void begin_streams(const struct supervisor_params *p)
{
	const char *const paths[] = { p->out, p->err };
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(paths) && !p->append; i++) {
		fd = open(paths[i], O_WRONLY | O_TRUNC | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0)
			(void)close(fd);
	}
	fd = open("begun", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		(void)close(fd);
}

static void set_clock(struct supervisor *s)
{
	int64_t now = clock_mono(&clock_system);

	s->start = clock_real(&clock_system) / USEC_PER_SEC;
	s->limit_at = s->warn_at = s->kill_at = INT64_MAX;
	s->sample_at = now;
	if (s->p.time_s > 0) {
		s->limit_at = now + s->p.time_s * USEC_PER_SEC;
		if (s->p.signal_num)
			s->warn_at = s->limit_at - (int64_t)s->p.signal_lead_s * USEC_PER_SEC;
	}
}

/* From the moment that there can be no other; the exit status of the process. */
static int run_script(struct supervisor *s, pid_t self)
{
	begin_streams(&s->p);
	set_clock(s);
	s->child = fork();
	if (s->child == 0)
		exec_script(s, self);
	if (s->child < 0) {
		leave_trouble("a process cannot be made", "", errno);
		s->child_gone = true;
		s->status = 126 << 8;
	}
	supervise(s);
	return write_record(s) < 0;
}

int supervisor_main(int argc, char **argv)
{
	struct supervisor s = { .control = -1 };
	struct err e = ERR_INIT;
	pid_t self = getpid();
	char me[128];
	int rc = 0;

	if (argc != 2 || chdir(argv[1]) < 0)
		return 2;
	s.dir = argv[1];
	if (supervisor_params_read(".", &s.p, &e) < 0) {
		(void)fprintf(stderr, "slurmray: %s\n", e.text);
		return 1;
	}
	(void)setsid();
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	(void)prctl(PR_SET_NAME, "slurmray-job");
	s.sig_fd = open_signals();
	(void)mkfifo("control", 0600);
	s.control = open("control", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	supervisor_identity(self, me, sizeof(me));
	if (symlink(me, "supervisor") == 0) /* else another one was first, or the attempt was voided */
		rc = run_script(&s, self);
	supervisor_params_release(&s.p);
	return rc;
}
