/*
 * The end of the shell text around every job: the user's process is started, signals are passed on to it, and whatever
 * happens short of SIGKILL an exit record comes whole into `ends`. wrapper.c has what comes before.
 *
 * Invariants: nothing is written to stdout; what a step of a session does without starting a program, it does. POSIX
 * shell and utilities only (POSIX.1-2017, Shell & Utilities), with GNU find, env and readlink where they are.
 */
#include "launchers/wrapper.h"

#include "launchers/ray.h"
#include "launchers/spark.h"

#include "backend/base/quote.h"

#include <string.h>

/*
 * A shell without job control starts what is in the background with INT and QUIT ignored (POSIX XCU 2.11), and dash
 * lets nobody undo that: env does (coreutils 8.31). The exit code is taken by a shell between, in the foreground,
 * because bash can lose it when a trap interrupts the builtin `wait` (seen with 5.2: 255 when the job ends while the
 * signal comes, which is what happens whenever Slurm signals all processes of a job).
 */
static const char probe_job[] = "$_env true 2>/dev/null || _env=''\n";
static const char probe_step[] = "if [ -n \"$_off\" ] || ! $_env true 2>/dev/null; then _env=''; fi\n";
static const char run_job[] =
	"_sh=bash\n"
	"command -v bash >/dev/null || _sh=/bin/sh\n"
	"if [ -z \"$_rc\" ]; then\n"
	"\t(\n"
	"\t\ttrap : TERM INT HUP USR1 USR2\n"
	"\t\t(%s)\n"
	"\t\t_rc=$?\n"
	"\t\techo \"$_rc\" >rc\n"
	"\t\texit \"$_rc\"\n"
	"\t) 3>&2 2>/dev/null &\n"
	"\t_pid=$!\n"
	"\texec 2>/dev/null\n"
	"\twait \"$_pid\"\n"
	"\t_rc=$?\n"
	"\twhile kill -0 \"$_pid\"; do # a signal ended the wait\n"
	"\t\twait \"$_pid\"\n"
	"\t\t_rc=$?\n"
	"\tdone\n"
	"\t[ ! -s rc ] || read -r _rc <rc\n"
	"\t[ ! -s fault ] || read -r _fault <fault\n"
	"\tcase $_fault in workdir | input | environment | secret_env | ray | spark) ;; *) _fault=- ;; esac\n"
	"\t[ \"$_rc\" != 73 ] || [ -s pid ] || _fault='write'\n";
#define RUN_FILE "exec 2>&3 3>&- && exec $_env \"$_sh\" \"$_dir/job\" </dev/null"
static const char run_over[] = "fi\n"
			       "exec 2>/dev/null\n"
			       "trap '' TERM INT HUP USR1 USR2 # what follows is not to be disturbed\n\n";

/* The second line of `times` (POSIX XCU, special built-ins) is for children; its decimal point may be the locale's
 * comma. */
static const char cpu_time[] = "# Processor time of all that the job waited for, in microseconds.\n"
			       "_us() { # adds 1m2.345s to _cpu\n"
			       "\t_m=${1%%m*} _s=${1#*m}\n"
			       "\t_s=${_s%s}\n"
			       "\t_f=${_s#*[.,]}000000\n"
			       "\t_f=${_f%\"${_f#??????}\"}\n"
			       "\t_cpu=$((_cpu + _m * 60000000 + ${_s%[.,]*} * 1000000 + 1$_f - 1000000))\n"
			       "}\n"
			       "_cpu='' _user='' _sys=''\n"
			       "times >cpu_times && { read -r _ && read -r _user _sys; } <cpu_times\n"
			       "case $_user:$_sys in\n"
			       "[0-9]*m*s:[0-9]*m*s) _cpu=0 && _us \"$_user\" && _us \"$_sys\" ;;\n"
			       "esac\n\n";

/* Fields as documented at CREQ_MANIFEST in backend/cluster.h. The slash follows `results` where it is a link. */
static const char manifest[] =
	"# What is in results/, for readers: type, size, mtime, mode, path, target.\n"
	"_man=0 _t=''\n"
	"for _f in results/* results/.[!.]* results/..?*; do\n"
	"\tif [ -e \"$_f\" ] || [ -L \"$_f\" ]; then _t=1 && break; fi\n"
	"done\n"
	"if [ -z \"$_t\" ] && [ -r results/ ] && [ -x results/ ]; then\n"
	"\t: >manifest && _man=1\n"
	"else\n"
	"\tfind results/ -mindepth 1 \\( -type f -o -type d -o -type l \\) \\\n"
	"\t\t-printf '%y\\0%s\\0%T@\\0%m\\0%P\\0%l\\0' >manifest.tmp && mv -f manifest.tmp manifest && _man=1\n"
	"fi\n\n";

/*
 * A cgroup of the job's own (Slurm's job_N, version 1 or 2) knows all of the job's steps on this node. `times` is right
 * only as long as all of the job are children of this shell, and those of srun are not.
 */
static const char peak[] =
	"# Peak memory and processor time, where the job has cgroups; what srun starts is seen only there.\n"
	"_rss='' _all=''\n"
	"_cg=$(sed -n 's|^[0-9]*:\\([a-z,]*\\):\\(/.*/job_[0-9]*\\)/step_.*|/sys/fs/cgroup/\\1\\2|p' /proc/self/cgroup)\n"
	"for _f in $_cg; do\n"
	"\t[ -n \"$_rss\" ] || _rss=$(cat \"$_f/memory.peak\" || cat \"$_f/memory.max_usage_in_bytes\")\n"
	"\t[ -n \"$_all\" ] || _all=$(sed -n 's/^usage_usec //p' \"$_f/cpu.stat\")\n"
	"\t[ -n \"$_all\" ] || _all=$(sed -n 's/...$//p' \"$_f/cpuacct.usage\") # nanoseconds\n"
	"done\n"
	"case $_rss in *[!0-9]*) _rss='' ;; esac\n"
	"case $_all in\n"
	"'' | *[!0-9]*) ! { head -c 65536 job; head -c 65536 payload; } | grep -q srun || _cpu='' ;;\n"
	"*) _cpu=$_all ;;\n"
	"esac\n\n";

/* The job's cgroup is the session's, whose runner looks now and then. */
static const char peak_step[] = "_rss=''\n"
				"[ ! -s rss ] || read -r _rss <rss\n"
				"case $_rss in *[!0-9]*) _rss='' ;; esac\n";
static const char srun_seen[] = "! { head -c 65536 job; head -c 65536 payload; } | grep -q srun || _cpu=''\n";

static void add_peak(const struct job *job, struct strbuf *out)
{
	bool srun = job->ntasks > 1;

	if (!job->session) {
		strbuf_addstr(out, peak);
		return;
	}
	strbuf_addstr(out, peak_step);
	if (job->form == JOB_PAYLOAD || job->setup)
		strbuf_addstr(out, srun_seen);
	else if (job->form != JOB_EXEC)
		srun = srun || strstr(job->command, "srun");
	for (char **a = job->form == JOB_EXEC ? job->argv : NULL; a && *a; a++)
		srun = srun || strstr(*a, "srun");
	if (srun)
		strbuf_addstr(out, "_cpu='' _rss=''\n");
	strbuf_addch(out, '\n');
}

/* Slurm tells all processes of a session to end at once; the session's runner needs a moment to say so. The command may
 * hear it before this wrapper does. */
static const char session_end[] = "_limit=-\n"
				  "case $_sig:$_rc in -:129 | -:130 | -:137 | -:143 | [!-]*)\n"
				  "\t[ -e stopped ] || [ -e cancelled ] || sleep 1 ;;\n"
				  "esac\n"
				  "[ ! -e stopped ] || _limit=session\n";

/* The copy lets whoever has read the one in `ends` remove many of them at once; nothing starts a step again, so that it
 * cannot be of another start. */
static const char step_over[] = "printf '%%s\\n' \"$_rec\" >./exit\n"
				"[ ! -p \"$_bell\" ] || echo \"${_key:-%u/a%u}\" 1<>\"$_bell\"\n";

/* It stops at a NUL, and then it is wc who counts. */
static const char bytes_step[] =
	"\telif [ -n \"$_off\" ] && LC_ALL=C && ! IFS= read -r -d '' -n 65536 _v <\"$1\"; then\n"
	"\t\t_n=${#_v}\n";

/* For the exit record: a word without blanks; what stands for them is put back by exit_record_parse. */
static const char reason[] = "_reason=''\n"
			     "if [ -s reason ]; then\n"
			     "\t_reason=$(head -c 600 reason | tr '\\n' ' ' | tr -d '\\000-\\037\\177' |\n"
			     "\t\tsed 's/ *$//; s/%/%25/g; s/ /%20/g')\n"
			     "fi\n";

/* Some runs can say in words why there is no code. */
static bool has_reason(const struct job *job)
{
	return job_environment_is_set(&job->environment) || job->ray.on || job->spark.on || job->session;
}

/*
 * A session's runner that was killed has children that go on, wherever Slurm knows a job's processes by their parents
 * only. They hear that the session has ended, as they would have from the runner, and have their grace.
 */
static const char forsaken[] =
	"# Was the runner killed? Then what it started hears from here that the session is over.\n"
	"_steps() { # the first process of each\n"
	"\tgrep -lsF \"SLURMRAY_JOB_ID=$_me.s\" /proc/[0-9]*/environ | cut -d/ -f3 | while read -r _p; do\n"
	"\t\tps -o sid= -p \"$_p\"\n"
	"\tdone | sort -u\n"
	"}\n"
	"_tell() { # _tell SIGNAL STEP...: all but that process\n"
	"\t_s=$1\n"
	"\tshift\n"
	"\tfor _p; do\n"
	"\t\tfor _k in $(ps -o pid= -s \"$_p\"); do\n"
	"\t\t\t[ \"$_k\" -eq \"$_p\" ] || kill -s \"$_s\" \"$_k\"\n"
	"\t\tdone\n"
	"\tdone\n"
	"}\n"
	"_until() { # _until TENTHS: or all of them have ended\n"
	"\t_n=0\n"
	"\twhile [ \"$_n\" -lt \"$1\" ] && [ -n \"$(_steps)\" ]; do\n"
	"\t\t_n=$((_n + 2))\n"
	"\t\tsleep 0.2\n"
	"\tdone\n"
	"}\n"
	"# shellcheck disable=SC2046,SC2086 # numbers\n"
	"if [ -e bell ]; then\n"
	"\t_all=$(_steps) _near=''\n"
	"\tfor _p in $_all; do\n"
	"\t\ttouch \"/proc/$_p/cwd/stopped\"\n"
	"\t\tcase $(tr '\\0' ' ' <\"/proc/$_p/cmdline\") in # those on other nodes know it from srun\n"
	"\t\t*' ./script '*) kill -s TERM \"$_p\" && _near=\"$_near $_p\" ;;\n"
	"\t\tesac\n"
	"\tdone\n"
	"\t_tell TERM $_near\n"
	"\t_until %d\n"
	"\t_tell KILL $_all\n"
	"\t_until 20 # their records\n"
	"\trm -rf \"${_ends%%/ends}/sessions/${SLURM_JOB_ID:-none}\" steps session leases bell new\n"
	"fi 2>/dev/null\n\n";

static bool is_session(const struct job *job)
{
	return strcmp(job->launcher, "session") == 0;
}

/* The record says that the run has ended, so nothing of its cluster may be there any more. */
static void add_inner_end(const char *kind, struct strbuf *out)
{
	strbuf_addf(out,
		    "# Its cluster ends first.\n"
		    "_n=0\n"
		    "while [ \"$_n\" -lt 150 ] && read -r _k <%s.d/keeper && kill -0 \"$_k\"; do\n"
		    "\t_n=$((_n + 1))\n"
		    "\tsleep 0.1\n"
		    "done 2>/dev/null\n\n",
		    kind);
}

/*
 * mv takes a sixth of all that a short step costs. bash writes the line with one write(2), and who finds the file empty
 * looks again (agent_program.c), so a step under the session's runner writes it where it belongs.
 */
static void add_record_function(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	cleanup_strbuf struct strbuf to = STRBUF_INIT;

	strbuf_addf(&to, "\"$_ends/%u.a%u\"", ctx->run_num, ctx->attempt);
	if (job->session)
		strbuf_addf(out,
			    "record() {\n"
			    "\tif [ -n \"$_off\" ]; then\n"
			    "\t\tprintf '%%s\\n' \"$_rec\" >%s\n"
			    "\telse\n"
			    "\t\tprintf '%%s\\n' \"$_rec\" >exit.tmp && mv -f exit.tmp %s\n"
			    "\tfi\n"
			    "}\n",
			    to.buf, to.buf);
	else
		strbuf_addf(out, "record() { printf '%%s\\n' \"$_rec\" >exit.tmp && mv -f exit.tmp %s; }\n", to.buf);
}

static void add_record(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	strbuf_addstr(out, "# A requeue that was granted ended this start; the next one will leave the record.\n"
			   "[ ! -e \"grant.$((_restart + 1))\" ] || exit \"$_rc\"\n\n");
	if (job->n_secret && job->requeue)
		strbuf_addstr(out, "rm -rf " JOB_SECRETS "\n");
	strbuf_addstr(out, "# The exit record: complete, then renamed to where the other side looks.\n"
			   "# shellcheck disable=SC3045 # bash, as _off says\n"
			   "_bytes() {\n"
			   "\t_n=''\n"
			   "\tif [ ! -s \"$1\" ]; then\n"
			   "\t\t[ ! -e \"$1\" ] || _n=0\n");
	if (job->session)
		strbuf_addstr(out, bytes_step);
	strbuf_addstr(out, "\telse\n"
			   "\t\t_n=$(wc -c <\"$1\")\n"
			   "\tfi\n"
			   "}\n"
			   "_bytes stdout\n"
			   "_out=$_n\n");
	strbuf_addstr(out, job->merged ? "_err=0\n" : "_bytes stderr\n_err=$_n\n");
	if (job->pipes_messages)
		strbuf_addstr(out, "_events=$(wc -c <events)\n");
	if (has_reason(job))
		strbuf_addstr(out, reason);
	if (job->session)
		strbuf_addstr(out, session_end);
	strbuf_addf(
		out,
		"_code=$_rc\n"
		"[ \"$_fault\" = - ] || _code=-\n"
		"_now\n"
		"_end=$_t _n=0\n"
		"_rec=\"v=1 run=%u attempt=%u job=$_me rc=$_code sig=$_sig start=$_start end=$_end \\\n"
		"out=${_out:--} err=${_err:--} restart=$_restart manifest=$_man maxrss=${_rss:--} cpu=${_cpu:--} \\\n"
		"nodes=${_nodes:--} cpus=${_cpus:--} fault=$_fault %s%shost=$_host limit=%s\"\n",
		ctx->run_num, ctx->attempt, job->pipes_messages ? "events=${_events:--} " : "",
		has_reason(job) ? "reason=${_reason:--} " : "", job->session ? "$_limit" : "-");
	add_record_function(job, ctx, out);
	strbuf_addstr(out, "until record || [ \"$_n\" -ge 30 ]; do # a full disk may pass\n"
			   "\t_n=$((_n + 1))\n"
			   "\tsleep 2\n"
			   "done\n");
	if (job->session)
		strbuf_addf(out, step_over, ctx->run_num, ctx->attempt);
	strbuf_addstr(out, "exit \"$_rc\"\n");
}

void wrap_epilogue(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	strbuf_addstr(out, "# Run it, bash where there is one.\n_env='env --default-signal=INT,QUIT'\n");
	strbuf_addstr(out, job->session ? probe_step : probe_job);
	strbuf_addf(out, run_job,
		    wrap_is_plain(job) ? "exec 2>&3 3>&- && _job </dev/null"
		    : job->session     ? "trap - INT QUIT && " RUN_FILE
				       : RUN_FILE);
	strbuf_addstr(out, job->session ? "" : "\trm -f pid\n");
	strbuf_addstr(out, run_over);
	if (is_session(job))
		strbuf_addf(out, forsaken, job->grace_s < 100000 ? job->grace_s * 10 : 1000000);
	if (job->ray.on && !job->session)
		add_inner_end("ray", out);
	if (job->spark.on && !job->session)
		add_inner_end("spark", out);
	strbuf_addstr(out, cpu_time);
	strbuf_addstr(out, manifest);
	add_peak(job, out);
	add_record(job, ctx, out);
}
