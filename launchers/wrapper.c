/*
 * The shell text around every job, up to its start; epilogue.c has the rest. It is a template: nothing but ids,
 * directories and user text (through quote_sh or a quoted here-document) varies.
 *
 * Invariants of the script: user text is never parsed by the wrapper's own shell, so that a syntax error in it ends
 * the job and not the wrapper; the wrapper writes nothing to stdout, and to stderr only when it cannot prepare the run;
 * nothing is run before `claim` and `started` name this job (the guard), and whatever happens afterwards short of
 * SIGKILL an exit record comes whole into `ends`. POSIX shell and utilities only (POSIX.1-2017, Shell & Utilities),
 * with GNU find, env and readlink where they are.
 */
#include "launchers/wrapper.h"

#include "launchers/ray.h"
#include "launchers/spark.h"

#include "backend/base/quote.h"

#include <errno.h>
#include <string.h>

#define ID_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

static bool id_ok(const char *s)
{
	return *s && s[strspn(s, ID_CHARS)] == '\0';
}

static bool dir_ok(const char *dir)
{
	return dir[0] == '/' || strncmp(dir, "~/", 2) == 0 || strcmp(dir, LAUNCH_BASE) == 0;
}

/* As quote_sh_path, below a directory that the script finds in its environment, too. */
static void put_path(struct strbuf *out, const char *path)
{
	size_t len = strlen(LAUNCH_BASE);

	if (strncmp(path, LAUNCH_BASE "/", len + 1) == 0) {
		strbuf_addstr(out, "\"" LAUNCH_BASE "\"");
		path += len;
	}
	quote_sh_path(out, path);
}

int wrap_check(const struct job *job, const struct launch_ctx *ctx, struct err *e)
{
	if (!dir_ok(job->directory) || !dir_ok(job->scratch))
		return err_set(e, -EINVAL, "the cluster's directory '%s' does not begin with / or ~/",
			       dir_ok(job->directory) ? job->scratch : job->directory);
	if (!id_ok(ctx->run_id) || !id_ok(ctx->uuid))
		return err_set(e, -EINVAL, "a run id or state id holds characters that no id has");
	return 0;
}

void launch_attempt_dir(struct strbuf *out, const char *directory, const struct launch_ctx *ctx)
{
	cleanup_strbuf struct strbuf path = STRBUF_INIT;

	strbuf_addf(&path, "%s/%s/runs/%u/a%u", directory, ctx->uuid, ctx->run_num, ctx->attempt);
	put_path(out, path.buf);
}

void launch_token(struct strbuf *out, const struct launch_ctx *ctx)
{
	strbuf_addf(out, "slurmray:%s/%u/a%u", ctx->uuid, ctx->run_num, ctx->attempt);
}

static const char job_clock[] = "_host=$(uname -n)\n"
				"_now() { _t=$(date +%s); }\n"
				"_now\n"
				"_start=$_t\n\n";

/*
 * Many steps start in a second, and each process counts. So the session's runner says how far the time of day is from
 * the time since boot (proc(5), uptime), in hundredths of a second, and which node this is; and it starts this in bash,
 * where what is in the background may hear INT and QUIT again.
 */
static const char step_clock[] = "# shellcheck disable=SC2086 # two words\n"
				 "set -- ${SLURMRAY_RUNNER:-}\n"
				 "_off=${1:-} _host=${2:-$(uname -n)} _key=${3:-} _bell=${SLURMRAY_BELL:-}\n"
				 "unset SLURMRAY_RUNNER SLURMRAY_BELL\n"
				 "_now() {\n"
				 "\tif [ -n \"$_off\" ] && read -r _t _ </proc/uptime; then\n"
				 "\t\t_t=$(((${_t%.*} * 100 + 1${_t#*.} - 100 + _off) / 100))\n"
				 "\telse\n"
				 "\t\t_t=$(date +%s)\n"
				 "\tfi\n"
				 "}\n"
				 "_now\n"
				 "_start=$_t\n\n";

static void add_header(struct strbuf *out, const struct job *job, const struct launch_ctx *ctx)
{
	cleanup_strbuf struct strbuf ends = STRBUF_INIT;

	strbuf_addf(out, "#!/bin/sh\n# slurmray run %s (number %u), attempt %u, launcher %s\n# ", ctx->run_id,
		    ctx->run_num, ctx->attempt, job->launcher);
	launch_token(out, ctx);
	strbuf_addstr(out,
		      "\n#\n# All of the job: this wrapper starts at most once, runs the file `job` (written below),\n"
		      "# passes signals on to it, and leaves an exit record in `ends`.\n\n_dir=");
	launch_attempt_dir(out, job->directory, ctx);
	strbuf_addf(&ends, "%s/%s/ends", job->directory, ctx->uuid);
	strbuf_addstr(out, "\n_ends=");
	put_path(out, ends.buf);
	strbuf_addstr(out, "\ncd \"$_dir\" || exit 66\n");
	strbuf_addstr(out, job->session ? step_clock : job_clock);
}

/*
 * The claim procedure. SLURMRAY_JOB_ID comes from the local supervisor and is taken away below, so that it names
 * this job where it is set, also when slurmray itself runs inside a job of Slurm. An array's tasks share one id.
 */
static const char guard_head[] = "# The guard: only the job that `claim` names runs, and only once.\n"
				 "_me=${SLURMRAY_JOB_ID:-${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-}}}\n"
				 "_restart=${SLURM_RESTART_COUNT:-0}\n"
				 "[ -z \"${SLURMRAY_JOB_ID:-}\" ] || _restart=0\n"
				 "refuse() {\n"
				 "\techo \"$(date +%s) job $_me: $1\" >>refused\n"
				 "\texit 0\n"
				 "}\n"
				 "[ -n \"$_me\" ] || refuse 'no job id in the environment'\n";
static const char guard_restart[] =
	"[ \"$_restart\" = 0 ] || [ -e \"grant.$_restart\" ] || refuse \"restart $_restart has no grant\"\n";
static const char guard_granted[] = "# The spec asked for requeue: restarts are allowed.\n";
/* A link that was made is ours; that it could not be made may be untrue (NFS repeats what was not answered), so it is
 * read. A step's id is its run's alone: it needs no claim. */
static const char guard_claim[] = "for _f in claim started; do\n"
				  "\tln -s \"$_me\" \"$_f\" 2>/dev/null || [ \"$(readlink \"$_f\")\" = \"$_me\" ] ||\n"
				  "\t\trefuse \"$_f is $(readlink \"$_f\")\"\n"
				  "done\n";
static const char guard_step[] = "ln -s \"$_me\" started 2>/dev/null || [ \"$(readlink started)\" = \"$_me\" ] ||\n"
				 "\trefuse \"started is $(readlink started)\"\n";
/*
 * A controller that was killed before it saved a start comes back with the job pending and starts it again, with the
 * same id and no restart counted (seen with 22.05). So each start has a name of its own as well. Shells open a file
 * that they must not overwrite with O_EXCL; a link (of an earlier version) is in the way too.
 */
static const char guard_begun[] =
	"_who=$_host.$$.$_start _f=begun.$_restart${SLURM_ARRAY_TASK_ID:+.$SLURM_ARRAY_TASK_ID}\n"
	"set -C\n"
	"if ! { echo \"$_who\" >\"$_f\"; } 2>/dev/null; then\n"
	"\t{ read -r _t <\"$_f\"; } 2>/dev/null || _t=''\n"
	"\t[ \"$_t\" = \"$_who\" ] || refuse 'it began before'\n"
	"fi\n"
	"set +C\n\n";

/*
 * The job's process writes `pid` and then looks for `signal`; the trap writes `signal` and then looks for `pid`. So a
 * signal is passed on whenever it comes.
 */
static const char signals[] = "# Signals go to the job's process.\n"
			      "_rc='' _sig=-\n"
			      "for _f in pid signal rc fault; do [ ! -e \"$_f\" ] || rm -f \"$_f\"; done\n"
			      "# shellcheck disable=SC2317 # called by the traps\n"
			      "pass() {\n"
			      "\t_sig=$1\n"
			      "\techo \"$1\" >signal\n"
			      "\t{ read -r _to <pid && kill -s \"$1\" \"$_to\"; } 2>/dev/null\n"
			      "}\n"
			      "trap 'pass TERM' TERM; trap 'pass INT' INT; trap 'pass HUP' HUP\n"
			      "trap 'pass USR1' USR1; trap 'pass USR2' USR2\n\n";

/*
 * What fails before the job's own command is not the command's code. But a program that a signal ended was ended for
 * the job's sake: that is the job's end.
 */
static const char unready[] = "# Directories and environment.\n"
			      "_fault=-\n"
			      "unready() {\n"
			      "\t_k=$?\n"
			      "\t[ -z \"$_rc\" ] || return 0 # the first one counts\n"
			      "\t_rc=$_k\n"
			      "\t[ \"$_rc\" -gt 128 ] || _rc=73 _fault='write'\n"
			      "}\n";

/* What Slurm gave the job; "4(x2),1" are three nodes. */
static const char given[] = "_nodes='' _cpus=''\n"
			    "if [ -z \"${SLURMRAY_JOB_ID:-}\" ]; then\n"
			    "\t_nodes=${SLURM_JOB_NUM_NODES:-}\n"
			    "\t_cpus=$(echo \"${SLURM_JOB_CPUS_PER_NODE:-}\" | awk -F, '{\n"
			    "\t\tfor (i = 1; i <= NF; i++) n += split($i, a, /[(x)]+/) > 1 ? a[1] * a[2] : a[1]\n"
			    "\t\tprint n\n"
			    "\t}' 2>/dev/null)\n"
			    "fi\n"
			    "case $_nodes in *[!0-9]*) _nodes='' ;; esac\n"
			    "case $_cpus in *[!0-9]*) _cpus='' ;; esac\n";

static void add_directories(struct strbuf *out, const struct job *job, const struct launch_ctx *ctx)
{
	strbuf_addstr(out, unready);
	if (strcmp(job->scratch, job->directory) == 0) {
		strbuf_addstr(out, "{ [ -d \"$_ends\" ] && [ -d work ] && [ -d results ]; } ||\n"
				   "\tmkdir -p \"$_ends\" work results || unready\n");
	} else {
		strbuf_addstr(out, "_scratch=");
		launch_attempt_dir(out, job->scratch, ctx);
		strbuf_addstr(out, "\nmkdir -p \"$_ends\" \"$_scratch/work\" \"$_scratch/results\" || unready\n"
				   "for _f in work results; do\n"
				   "\t[ -d \"$_f\" ] || ln -s \"$_scratch/$_f\" \"$_f\" || unready\n"
				   "done\n");
	}
	/* Readers look for the streams here, wherever the user's --output and --error put them. */
	if (job->output)
		strbuf_addstr(out, "[ -e stdout ] || ln -sf \"$(readlink \"/proc/$$/fd/1\")\" stdout\n");
	if (job->error)
		strbuf_addstr(out, "[ -e stderr ] || ln -sf \"$(readlink \"/proc/$$/fd/2\")\" stderr\n");
}

/*
 * Dagster's variables are JSON, deflated, in base64 (dagster_pipes, decode_param). The path in them is known here and
 * not before, so they are made here: a zlib stream (RFC 1950) of one stored block (RFC 1951, 3.2.4), which needs no
 * compressor.
 */
static const char pipes_encode[] =
	"# Dagster Pipes: the context is in the file `context`, messages go to the file `events`.\n"
	"_param() { # JSON before a path, the path, JSON behind it\n"
	"\t{\n"
	"\t\tprintf %s \"$1\"\n"
	"\t\tprintf %s \"$2\" | sed 's/[\\\\\"]/\\\\&/g'\n"
	"\t\tprintf %s \"$3\"\n"
	"\t} | od -An -v -tu1 | awk '\n"
	"\t\t{ for (i = 1; i <= NF; i++) { if ($i == 10) continue; d[n++] = $i; a = (a + $i) % 65521; b = (b + a + 1) % 65521 } }\n"
	"\t\tfunction put(byte) { o[m++] = byte % 256 }\n"
	"\t\tEND {\n"
	"\t\t\ta = (a + 1) % 65521\n"
	"\t\t\tput(120); put(1); put(1); put(n); put(int(n / 256)); put(255 - n % 256); put(255 - int(n / 256))\n"
	"\t\t\tfor (i = 0; i < n; i++) put(d[i])\n"
	"\t\t\tput(int(b / 256)); put(b); put(int(a / 256)); put(a)\n"
	"\t\t\tc = \"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/\"\n"
	"\t\t\tfor (i = 0; i < m; i += 3) {\n"
	"\t\t\t\tt = o[i] * 65536 + (i + 1 < m ? o[i + 1] * 256 : 0) + (i + 2 < m ? o[i + 2] : 0)\n"
	"\t\t\t\tfor (k = 0; k < 4; k++) {\n"
	"\t\t\t\t\tq = int(t / (64 ^ (3 - k))) % 64\n"
	"\t\t\t\t\tprintf \"%s\", (i + k > m ? \"=\" : substr(c, q + 1, 1))\n"
	"\t\t\t\t}\n"
	"\t\t\t}\n"
	"\t\t}'\n"
	"}\n";

/* A requeued job goes on in the file of its earlier start, behind a line that may be cut and one that says so. */
static const char pipes_file[] =
	"[ -z \"$(tail -c 1 events 2>/dev/null)\" ] || echo >>events\n"
	"[ \"$_restart\" = 0 ] || echo '{\"slurmray\": \"start\", \"restart\": '\"$_restart}\" >>events || unready\n"
	": >>events || unready\n";

static void add_pipes(struct strbuf *out, const struct job *job)
{
	cleanup_strbuf struct strbuf rest = STRBUF_INIT;

	if (!job->pipes_context && !job->pipes_messages)
		return;
	strbuf_addstr(out, pipes_encode);
	if (job->pipes_context)
		strbuf_addstr(out,
			      "[ -e context ] || mv work/" LAUNCH_CONTEXT " context || unready\n"
			      "DAGSTER_PIPES_CONTEXT=$(_param '{\"path\": \"' \"$_dir/context\" '\"}') || unready\n"
			      "export DAGSTER_PIPES_CONTEXT\n");
	if (job->pipes_messages) {
		strbuf_addf(&rest, "\"%s}", job->pipes_params ? job->pipes_params : "");
		strbuf_addstr(out, pipes_file);
		strbuf_addstr(out, "DAGSTER_PIPES_MESSAGES=$(_param '{\"path\": \"' \"$_dir/events\" ");
		quote_sh(out, rest.buf);
		strbuf_addstr(out, ") || unready\nexport DAGSTER_PIPES_MESSAGES\n");
	}
	strbuf_addch(out, '\n');
}

void wrap_prologue(const struct job *job, const struct launch_ctx *ctx, struct strbuf *out)
{
	add_header(out, job, ctx);
	strbuf_addstr(out, guard_head);
	strbuf_addstr(out, job->requeue ? guard_granted : guard_restart);
	strbuf_addstr(out, job->session ? guard_step : guard_claim);
	strbuf_addstr(out, guard_begun);
	strbuf_addstr(out, signals);
	add_directories(out, job, ctx);
	strbuf_addstr(out, job->session ? "_nodes='' _cpus=''\n" : given);
	strbuf_addf(out,
		    "export SLURMRAY_RUN=%s SLURMRAY_ATTEMPT=%u\n"
		    "export SLURMRAY_RESULTS=\"$_dir/results\" SLURMRAY_INPUTS=\"$_dir/work\"\n"
		    "export SLURM_EXPORT_ENV=ALL\n"
		    "unset SLURMRAY_JOB_ID\n\n",
		    ctx->run_id, ctx->attempt);
	add_pipes(out, job);
}

/*
 * The word that ends a here-document: END_OF_FILE where the text does not have it, else with the first number that does
 * not follow it there. One look at the text, however often it holds the word; SPEC_MAX_BYTES of it cannot use up all
 * numbers.
 */
#define DELIMITERS (1u << 17)

static void pick_delimiter(struct strbuf *delim, const char *text, size_t len)
{
	static const char word[] = "END_OF_FILE";
	unsigned char used[DELIMITERS / 8] = { 1 };
	const char *end = text + len, *p = text;
	unsigned number = 0;

	while ((p = memmem(p, (size_t)(end - p), word, sizeof(word) - 1))) {
		unsigned n = 0;

		p += sizeof(word) - 1;
		number = 1;
		if (p == end || *p != '_')
			continue;
		for (const char *d = p + 1; d < end && *d >= '0' && *d <= '9' && n < DELIMITERS; d++)
			n = n * 10 + (unsigned)(*d - '0');
		if (n < DELIMITERS)
			used[n / 8] = (unsigned char)(used[n / 8] | 1u << n % 8);
	}
	strbuf_addstr(delim, word);
	while (number && number < DELIMITERS - 1 && (used[number / 8] & 1u << number % 8))
		number++;
	if (number)
		strbuf_addf(delim, "_%u", number);
}

void wrap_text(struct strbuf *out, const char *name, const char *text)
{
	strbuf_addstr(out, "# shellcheck disable=SC2016 # for another shell\nprintf %s ");
	quote_sh(out, text);
	strbuf_addf(out, " >%s || unready\n\n", name);
}

void wrap_file(struct strbuf *out, const char *name, const char *text, size_t len)
{
	cleanup_strbuf struct strbuf delim = STRBUF_INIT;

	if (!len || text[len - 1] != '\n') { /* a here-document always ends in a newline */
		wrap_text(out, name, text);
		return;
	}
	pick_delimiter(&delim, text, len);
	strbuf_addf(out, "cat >%s <<'%s' || unready\n", name, delim.buf);
	strbuf_add(out, text, len);
	strbuf_addf(out, "%s\n\n", delim.buf);
}

/*
 * What stands between the job and a path of the spec, as ls has it, in words that end in the run's `why`; the key
 * itself goes into the exit record. `exec` is no test: where its redirection fails, dash ends at once (POSIX
 * XCU 2.8.1).
 */
static const char no_path[] = "_no_path() {\n"
			      "\t_why=$(LC_ALL=C ls -ld -- \"$2\" 2>&1 >/dev/null)\n"
			      "\t_why=${_why##*: }\n"
			      "\techo \"slurmray: $1: $2: ${_why:-$3}\" >&2\n"
			      "\techo \"$1\" >\"${0%/job}/fault\"\n"
			      "\texit 66\n"
			      "}\n";

/*
 * Secrets are read from files: never in a script, an argument or a log. What was delivered goes at once, unless the
 * spec lets the job be started again.
 */
static void add_secret(const struct job_var *s, struct strbuf *body)
{
	bool whole = strncmp(s->value, "file:", 5) != 0 && strncmp(s->value, "cluster:", 8) != 0;

	strbuf_addstr(body, "_s=");
	if (strncmp(s->value, "cluster:", 8) == 0)
		quote_sh_path(body, s->value + 8);
	else
		strbuf_addf(body, "${0%%/job}/" JOB_SECRETS "/%s", s->name);
	strbuf_addf(body,
		    "\n[ -r \"$_s\" ] && [ ! -d \"$_s\" ] || _no_path secret_env \"$_s\" 'Permission denied'\n"
		    "%s=$(cat \"$_s\"%s) || exit 66\n",
		    s->name, whole ? " && printf x" : "");
	if (whole) /* with the newlines at its end */
		strbuf_addf(body, "%s=${%s%%x}\n", s->name, s->name);
	strbuf_addf(body, "export %s\n", s->name);
}

static void add_secrets(const struct job *job, struct strbuf *body)
{
	for (size_t i = 0; i < job->n_secret; i++)
		add_secret(&job->secret[i], body);
	if (job->n_secret)
		strbuf_addf(body, "unset _s\n%s", job->requeue ? "" : "rm -rf \"${0%/job}/" JOB_SECRETS "\"\n");
}

/* $0 of `job` is its absolute path, so that nothing here depends on variables that a user may set. */
static void add_cd(const struct job *job, struct strbuf *body)
{
	cleanup_strbuf struct strbuf dir = STRBUF_INIT;

	if (job->workdir)
		quote_sh_path(&dir, job->workdir);
	else
		strbuf_addstr(&dir, "\"${0%/job}/work\"");
	if (job->workdir)
		strbuf_addf(body, "[ ! -e %s ] || [ -d %s ] || _no_path workdir %s 'Not a directory'\n", dir.buf,
			    dir.buf, dir.buf);
	strbuf_addf(body, "cd %s 2>/dev/null || _no_path workdir %s 'Permission denied'\n", dir.buf, dir.buf);
}

static void add_input(const struct job *job, struct strbuf *body)
{
	cleanup_strbuf struct strbuf file = STRBUF_INIT;

	quote_sh_path(&file, job->input);
	strbuf_addf(body, "[ ! -d %s ] || _no_path input %s 'Is a directory'\n", file.buf, file.buf);
	strbuf_addf(body, "[ -r %s ] || _no_path input %s 'Permission denied'\n", file.buf, file.buf);
	strbuf_addf(body, "exec <%s || exit 66\n", file.buf);
}

void wrap_environment(const struct job *job, struct strbuf *body)
{
	strbuf_addstr(body, "echo $$ >pid || exit 73\n[ ! -s signal ] || kill -s \"$(cat signal)\" $$\n");
	strbuf_addstr(body, no_path);
	add_cd(job, body); /* first: the environment may hold another HOME */
	add_secrets(job, body);
	for (size_t i = 0; i < job->n_env; i++) {
		strbuf_addf(body, "export %s=", job->env[i].name);
		quote_sh(body, job->env[i].value);
		strbuf_addch(body, '\n');
	}
	if (job->setup) {
		strbuf_addstr(body, "_work=$PWD\n");
		strbuf_addstr(body, job->setup);
		strbuf_addstr(body, "\ncd \"$_work\" 2>/dev/null || _no_path workdir \"$_work\" 'Permission denied'\n");
	}
	wrap_activate(&job->environment, body);
	if (job->input)
		add_input(job, body);
}

static void add_words(char *const *words, struct strbuf *body)
{
	for (size_t i = 0; words && words[i]; i++) {
		strbuf_addch(body, ' ');
		quote_sh(body, words[i]);
	}
}

/* spark-submit tells an application's language by the name of its file. */
static const char *spark_suffix(const struct job *job)
{
	const char *dot = job->form == JOB_PAYLOAD && job->spark.on ? strrchr(job->command, '.') : NULL;

	return dot && (strcmp(dot, ".py") == 0 || strcmp(dot, ".jar") == 0 || strcmp(dot, ".R") == 0) ? dot : NULL;
}

void wrap_exec(const struct job *job, struct strbuf *body)
{
	const char *suffix = spark_suffix(job);

	if (suffix)
		strbuf_addf(body, "ln -sf payload \"${0%%/job}/payload%s\" || exit 73\n", suffix);
	strbuf_addstr(body, "exec");
	if (job->session &&
	    job->ntasks > 1) /* what sbatch does not do for a job's script, but a session's user means */
		strbuf_addf(body, " srun --overlap --exact -n%d -c%d", job->ntasks, job->cpus_per_task);
	wrap_container(&job->environment, body);
	switch (job->form) {
	case JOB_COMMAND:
		if (job->environment.container) /* which shells it has is seen inside */
			strbuf_addstr(body, " /bin/sh -c 'exec \"$(command -v bash || echo /bin/sh)\" -c \"$@\"' - ");
		else
			strbuf_addstr(body, wrap_is_plain(job) ? " $_env \"$_sh\" -c " : " \"${BASH:-/bin/sh}\" -c ");
		quote_sh(body, job->command);
		break;
	case JOB_EXEC:
		if (wrap_is_plain(job))
			strbuf_addstr(body, " $_env");
		add_words(job->argv, body);
		break;
	case JOB_SCRIPT:
	case JOB_PAYLOAD:
		strbuf_addf(body, "%s \"${0%%/job}/payload%s\"", suffix ? " spark-submit" : "", suffix ? suffix : "");
		add_words(job->args, body);
		break;
	}
	strbuf_addch(body, '\n');
}

bool wrap_is_plain(const struct job *job)
{
	return job->session && (job->form == JOB_COMMAND || job->form == JOB_EXEC) && !job->workdir && !job->setup &&
	       !job->input && !job->n_secret && !job_environment_is_set(&job->environment);
}

/* Its process's id is not $$ in a subshell, and is that of whoever opens /proc/self. */
void wrap_plain(const struct job *job, struct strbuf *out)
{
	strbuf_addstr(out, "# shellcheck disable=SC2086 # words\n_job() {\n"
			   "\ttrap - TERM INT QUIT HUP USR1 USR2\n"
			   "\tread -r _t _ </proc/self/stat && echo \"$_t\" >pid || exit 73\n"
			   "\t[ ! -s signal ] || { read -r _f <signal && kill -s \"$_f\" \"$_t\"; }\n"
			   "\tcd work || exit 66\n");
	for (size_t i = 0; i < job->n_env; i++) {
		strbuf_addf(out, "\texport %s=", job->env[i].name);
		quote_sh(out, job->env[i].value);
		strbuf_addch(out, '\n');
	}
	strbuf_addstr(out, "\t_own=$_dir\n");
	ray_connect(job, out);
	spark_connect(job, out);
	strbuf_addch(out, '\t');
	wrap_exec(job, out);
	strbuf_addstr(out, "}\n\n");
}
