/*
 * The scripts of launchers, run for real by dash and by bash as sh, and compared with golden ones (test_job.c).
 * TEST_SECONDS=34
 */
#include "backend/base/mem.h"
#include "backend/base/quote.h"
#include "launchers/wrapper.h"
#include "tests/unit/lib_box.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

static const char *const shells[] = { "/bin/sh", "bash --posix", "bash" };
#define EACH_SHELL(b)                                                                                                  \
	for (size_t sh_ = 0; sh_ < ARRAY_SIZE(shells); sh_++)                                                          \
		for (bool once_ = (box_init(&(b), shells[sh_]), true); once_; once_ = (box_release(&(b)), false))

static struct job command(const char *text)
{
	return (struct job){ .form = JOB_COMMAND,
			     .command = (char *)text,
			     .name = "t",
			     .launcher = "bash",
			     .directory = "~/.slurmray",
			     .scratch = "~/.slurmray",
			     .time_s = -1 };
}

static struct job script(const char *text)
{
	struct job job = command(text);

	job.form = JOB_SCRIPT;
	job.command_len = strlen(text);
	return job;
}

static void expect_file(struct box *b, const char *name, const char *want, size_t want_len)
{
	size_t len = 0;
	char *have = box_read(b, name, &len);

	if (!have)
		fail_msg("no file %s", name);
	if (len != want_len || memcmp(have, want, len) != 0)
		fail_msg("%s holds %zu bytes '%.200s', not '%.200s'", name, len, have, want);
	free(have);
}

static void expect_text(struct box *b, const char *name, const char *want)
{
	expect_file(b, name, want, strlen(want));
}

static void expect_word(struct box *b, const char *key, const char *want)
{
	const char *have = box_word(b, key);

	if (strcmp(have, want) != 0)
		fail_msg("%s=%s in the record, not %s", key, have, want);
}

static void expect_run(struct box *b, const struct job *job, int rc)
{
	char want[16];
	int have = box_run(b, job);

	(void)snprintf(want, sizeof(want), "%d", rc);
	if (have != rc)
		fail_msg("%s: exit code %d, not %d; stderr: %s", b->shell, have, rc, box_read(b, "stderr", NULL));
	expect_word(b, "rc", want);
}

/* The script ends with `rc`, for the scheduler; the record has no code, and the reason. */
static void expect_fault(struct box *b, const struct job *job, int rc, const char *fault)
{
	assert_int_equal(box_run(b, job), rc);
	expect_word(b, "rc", "-");
	expect_word(b, "fault", fault);
}

static void quoted_words_survive_a_shell(void **state)
{
	unsigned seed = 1;

	(void)state;
	for (int round = 0; round < 40; round++) {
		cleanup_strbuf struct strbuf code = STRBUF_INIT, out = STRBUF_INIT, want = STRBUF_INIT;
		char *argv[] = { round & 1 ? "bash" : "sh", "-c", NULL, NULL };

		strbuf_addstr(&code, "printf '%s\\0'");
		for (int word = 0; word < 20; word++) {
			char s[300];
			size_t n = round == 0 && word == 0 ? 255 : (size_t)rand_r(&seed) % 20;

			for (size_t i = 0; i < n; i++) /* the first word holds every byte but NUL */
				s[i] = (char)(n == 255 ? i + 1 : 1 + (unsigned)rand_r(&seed) % 255);
			s[n] = '\0';
			strbuf_addch(&code, ' ');
			quote_sh(&code, s);
			strbuf_add(&want, s, n + 1);
		}
		argv[2] = code.buf;
		assert_int_equal(box_exec(argv, &out), 0);
		assert_int_equal(out.len, want.len);
		assert_memory_equal(out.buf, want.buf, want.len);
	}
}

static void exit_codes_are_the_commands(void **state)
{
	static const struct {
		const char *command;
		int rc;
	} rows[] = {
		{ "true", 0 },        { "exit 1", 1 },       { "exit 255", 255 },      { "no-such-command-here", 127 },
		{ "/dev/null", 126 }, { "kill -9 $$", 137 }, { "kill -TERM $$", 143 }, { "if", 2 }
	};
	struct box b;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct job job = command(rows[i].command);

		EACH_SHELL(b)
		{
			if (strcmp(rows[i].command, "if") == 0) /* a syntax error: 1 or 2 */
				assert_in_range(box_run(&b, &job), 1, 2);
			else
				expect_run(&b, &job, rows[i].rc);
		}
	}
}

static void the_record_is_whole(void **state)
{
	struct job job = command("printf 12345; printf 123 >&2");
	int64_t before = time(NULL);
	char host[65] = "";
	struct box b;

	(void)state;
	(void)gethostname(host, sizeof(host) - 1);
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		expect_word(&b, "v", "1");
		expect_word(&b, "run", "7");
		expect_word(&b, "attempt", "1");
		expect_word(&b, "job", "4711");
		expect_word(&b, "sig", "-");
		expect_word(&b, "out", "5");
		expect_word(&b, "err", "3");
		expect_word(&b, "restart", "0");
		expect_word(&b, "manifest", "1");
		assert_in_range(box_word(&b, "cpu")[0], '0', '9'); /* the clock of `times` may be too coarse for it */
		expect_word(&b, "limit", "-");
		expect_word(&b, "host", host);
		assert_true(strtoll(box_word(&b, "start"), NULL, 10) >= before);
		assert_true(strtoll(box_word(&b, "end"), NULL, 10) >= strtoll(box_word(&b, "start"), NULL, 10));
		expect_text(&b, "stdout", "12345"); /* the wrapper adds nothing */
		expect_text(&b, "stderr", "123");
		assert_null(box_read(&b, "exit.tmp", NULL));
	}
}

static void a_killed_command_leaves_no_words_of_the_shell(void **state)
{
	struct job job = command("kill -SEGV $$");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 139);
		expect_text(&b, "stderr", "");
	}
}

static void signals_are_passed_on(void **state)
{
	static const struct {
		int num;
		const char *name;
	} rows[] = {
		{ SIGTERM, "TERM" }, { SIGINT, "INT" }, { SIGHUP, "HUP" }, { SIGUSR1, "USR1" }, { SIGUSR2, "USR2" }
	};
	struct box b;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char text[160];
		struct job job;

		(void)snprintf(text, sizeof(text), "trap 'echo got %s; exit 9' %s; : >up; while :; do sleep 0.02; done",
			       rows[i].name, rows[i].name);
		job = command(text);
		EACH_SHELL(b)
		{
			box_start(&b, &job);
			box_wait_file(&b, "work/up");
			(void)kill(b.pid, rows[i].num);
			assert_int_equal(box_wait(&b), 9);
			expect_word(&b, "rc", "9");
			expect_word(&b, "sig", rows[i].name);
		}
	}
}

static void a_default_signal_ends_the_command(void **state)
{
	struct job job = command(": >up; exec sleep 30");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		box_start(&b, &job);
		box_wait_file(&b, "work/up");
		(void)kill(b.pid, SIGINT);
		assert_int_equal(box_wait(&b), 130);
		expect_word(&b, "rc", "130");
		expect_word(&b, "sig", "INT");
	}
}

/* Many signals while it runs: each wait is interrupted, and the code is still the command's. */
static void signals_do_not_end_the_wait(void **state)
{
	struct job job = command("trap 'n=$((n+1))' USR1; : >up; while [ ! -e stop ]; do sleep 0.01; done; exit 42");
	struct box b;
	char stop[256];

	(void)state;
	EACH_SHELL(b)
	{
		box_start(&b, &job);
		box_wait_file(&b, "work/up");
		for (int i = 0; i < 50; i++) {
			(void)kill(b.pid, SIGUSR1);
			(void)nanosleep(&(struct timespec){ .tv_nsec = 1000 * 1000 }, NULL);
		}
		box_path(&b, "work/stop", stop, sizeof(stop));
		assert_int_equal(mkdir(stop, 0700), 0);
		assert_int_equal(box_wait(&b), 42);
		expect_word(&b, "rc", "42");
	}
}

/* A signal that comes while the job ends, again and again: its code is never lost. */
static void an_end_among_signals_keeps_its_code(void **state)
{
	struct job job = command("trap : USR1; : >up; sleep 0.02; exit 42");
	struct box b;

	(void)state;
	for (int round = 0; round < 8; round++) {
		EACH_SHELL(b)
		{
			int n = 0, status;

			box_start(&b, &job);
			box_wait_file(&b, "work/up");
			while (n++ < 200 && waitpid(b.pid, &status, WNOHANG | WNOWAIT) == 0) {
				(void)kill(b.pid, SIGUSR1);
				(void)nanosleep(&(struct timespec){ .tv_nsec = 300 * 1000 }, NULL);
			}
			assert_int_equal(box_wait(&b), 42);
			expect_word(&b, "rc", "42");
		}
	}
}

/* A signal that comes before there is a process of the job is not forgotten. */
static void an_early_signal_arrives(void **state)
{
	struct job job = command("sleep 30");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		box_start(&b, &job);
		box_wait_file(&b, "results"); /* the traps are set, `job` is about to be written */
		(void)kill(b.pid, SIGTERM);
		assert_int_equal(box_wait(&b), 143);
		expect_word(&b, "rc", "143");
		expect_word(&b, "sig", "TERM");
	}
}

static void output_is_byte_exact(void **state)
{
	struct job job = command("head -c 100000 /dev/urandom | tee copy; printf '\\000\\001\\377\\r\\n' >&2");
	struct box b;
	size_t len;

	(void)state;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		char *copy = box_read(&b, "work/copy", &len);

		assert_int_equal(len, 100000);
		expect_file(&b, "stdout", copy, len);
		expect_file(&b, "stderr", "\0\1\377\r\n", 5);
		expect_word(&b, "out", "100000");
		expect_word(&b, "err", "5");
		free(copy);
	}
}

static void merged_streams_count_once(void **state)
{
	struct job job = command("echo 12345");
	struct box b;

	(void)state;
	job.merged = true;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		expect_word(&b, "out", "6");
		expect_word(&b, "err", "0");
	}
}

/* The text goes through a here-document with every byte, and lines that look like its end. */
static void scripts_are_byte_exact(void **state)
{
	struct strbuf sb = STRBUF_INIT;
	struct job job;
	struct box b;

	(void)state;
	strbuf_addstr(&sb, "#!/bin/sh\nexit 3\nEND_OF_FILE\nEND_OF_FILE_1\n$HOME `ls` \\\n\\\\ 'x' \"y\"\n");
	for (int i = 1; i < 256; i++)
		strbuf_addch(&sb, (char)i);
	strbuf_addstr(&sb, "\r\n\n\n");
	job = script(sb.buf);
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 3);
		expect_file(&b, "payload", sb.buf, sb.len);
	}
	strbuf_setlen(&sb, sb.len - 3); /* without a newline at the end */
	job = script(sb.buf);
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 3);
		expect_file(&b, "payload", sb.buf, sb.len);
	}
	strbuf_release(&sb);
}

/* However many words are taken that could end the text, one is found, and quickly. */
static void texts_that_hold_every_end(void **state)
{
	struct strbuf sb = STRBUF_INIT, out = STRBUF_INIT;

	(void)state;
	strbuf_addstr(&sb, "END_OF_FILE\n");
	for (int i = 70000; i > 0; i--)
		strbuf_addf(&sb, "END_OF_FILE_%d\n", i);
	strbuf_addstr(&sb, "END_OF_FILE_131072\nEND_OF_FILE_99999999999999999999\nEND_OF_FILE_\nEND_OF_FILE\n");
	wrap_file(&out, "x", sb.buf, sb.len);
	assert_non_null(strstr(out.buf, "cat >x <<'END_OF_FILE_70001' ||"));
	assert_string_equal(out.buf + out.len - strlen("END_OF_FILE_70001\n\n"), "END_OF_FILE_70001\n\n");
	strbuf_reset(&out);
	wrap_file(&out, "x", "END_OF_FILE_7\n", 14);
	assert_non_null(strstr(out.buf, "<<'END_OF_FILE_1'"));
	strbuf_reset(&out);
	wrap_file(&out, "x", "END_OF_FIL\n", 11);
	assert_non_null(strstr(out.buf, "<<'END_OF_FILE'"));
	strbuf_release(&sb);
	strbuf_release(&out);
}

static void scripts_run_by_their_first_line(void **state)
{
	struct job job = script("#!/usr/bin/awk -f\nBEGIN { print 6 * 7; exit 5 }\n");
	struct job python =
		script("#!/usr/bin/env python3\nimport sys\nprint(sys.argv[0].split('/')[-1])\nsys.exit(4)\n");
	char *which[] = { "sh", "-c", "command -v python3 >/dev/null", NULL };
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 5);
		expect_text(&b, "stdout", "42\n");
	}
	if (box_exec(which, NULL))
		return;
	EACH_SHELL(b)
	{
		expect_run(&b, &python, 4);
		expect_text(&b, "stdout", "payload\n");
	}
}

static void a_shipped_payload_is_executed(void **state)
{
	struct job job = command("/home/me/tool");
	char *args[] = { "a  b", "", "it's $HOME *", NULL };
	struct box b;
	char path[256];

	(void)state;
	job.form = JOB_PAYLOAD;
	EACH_SHELL(b)
	{
		box_path(&b, "payload", path, sizeof(path));
		char *copy[] = { "cp", "/bin/echo", path, NULL };

		assert_int_equal(box_exec(copy, NULL), 0);
		assert_int_equal(chmod(path, 0600), 0);
		expect_run(&b, &job, 0);
		expect_text(&b, "stdout", "\n");
	}
	job.args = args;
	EACH_SHELL(b)
	{
		box_path(&b, "payload", path, sizeof(path));
		char *copy[] = { "cp", "/bin/echo", path, NULL };

		assert_int_equal(box_exec(copy, NULL), 0);
		expect_run(&b, &job, 0);
		expect_text(&b, "stdout", "a  b  it's $HOME *\n");
	}
}

static void scripts_have_arguments(void **state)
{
	char *args[] = { "-x", "a  b", "", "it's $HOME", "two\nlines", NULL };
	struct job job = script("#!/bin/sh\nprintf '%s|' $# \"$@\"\n");
	struct box b;

	(void)state;
	job.args = args;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		expect_text(&b, "stdout", "5|-x|a  b||it's $HOME|two\nlines|");
	}
}

static void words_reach_a_program_as_they_are(void **state)
{
	char all[256], newline[] = "a\n\nb\n", empty[] = "", dash[] = "-n", quote[] = "it's \"$HOME\" `id` \\ * ~ #";
	char *argv[] = { "printf", "%s|", all, newline, empty, dash, quote, NULL };
	struct job job = command(NULL);
	struct strbuf want = STRBUF_INIT;
	struct box b;

	(void)state;
	for (int i = 1; i < 256; i++)
		all[i - 1] = (char)i;
	all[255] = '\0';
	for (size_t i = 2; argv[i]; i++)
		strbuf_addf(&want, "%s|", argv[i]);
	job.form = JOB_EXEC;
	job.argv = argv;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		expect_file(&b, "stdout", want.buf, want.len);
	}
	argv[0] = "no-such-program-here";
	EACH_SHELL(b)
	expect_run(&b, &job, 127);
	strbuf_release(&want);
}

static void the_environment_arrives(void **state)
{
	char all[256];
	struct job_var env[] = {
		{ "A_B", "it's\n\"two\" lines\n" }, { "ALL", all }, { "_rc", "5" }, { "HOME", "/nowhere" },
		{ "PATH", "/usr/bin:/bin:/x y" },   { "EMPTY", "" }
	};
	struct job job =
		command("printf '%s|' \"$A_B\" \"$ALL\" \"$_rc\" \"$HOME\" \"$PATH\" \"${EMPTY-unset}\" "
			"\"$SLURMRAY_RUN\" \"$SLURMRAY_ATTEMPT\" \"$SLURM_EXPORT_ENV\" \"${SLURMRAY_JOB_ID-none}\"");
	struct strbuf want = STRBUF_INIT;
	struct box b;

	(void)state;
	for (int i = 1; i < 256; i++)
		all[i - 1] = (char)i;
	all[255] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(env); i++)
		strbuf_addf(&want, "%s|", env[i].value);
	strbuf_addstr(&want, "train|1|ALL|none|");
	job.env = env;
	job.n_env = ARRAY_SIZE(env);
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		expect_file(&b, "stdout", want.buf, want.len);
	}
	strbuf_release(&want);
}

static void directories_are_there(void **state)
{
	struct job job = command("[ \"$PWD\" = \"$SLURMRAY_INPUTS\" ] && echo hi >\"$SLURMRAY_RESULTS/a\" && cat");
	struct box b;
	char dir[256];

	(void)state;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0); /* `cat`: stdin is at its end */
		expect_text(&b, "results/a", "hi\n");
	}
	job.scratch = "~/big space";
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		(void)snprintf(dir, sizeof(dir), "%s/big space/" BOX_UUID "/runs/7/a1/results/a", b.home);
		expect_text(&b, dir, "hi\n");
		expect_word(&b, "manifest", "1");
	}
}

static void workdir_setup_and_input(void **state)
{
	struct job job = command("pwd; echo $X; cat");
	struct box b;

	(void)state;
	job.workdir = "/usr/bin";
	job.setup = "X=1\nexport X=2\ncd /";
	job.input = "/proc/self/comm";
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		expect_text(&b, "stdout", "/usr/bin\n2\ncat\n");
	}
	job.workdir = "/no/such/dir";
	job.setup = NULL;
	EACH_SHELL(b)
	{
		expect_fault(&b, &job, 66, "workdir");
		expect_text(&b, "stderr", "slurmray: workdir: /no/such/dir: No such file or directory\n");
	}
	job.workdir = "/etc/passwd";
	EACH_SHELL(b)
	{
		expect_fault(&b, &job, 66, "workdir");
		expect_text(&b, "stderr", "slurmray: workdir: /etc/passwd: Not a directory\n");
	}
	job.workdir = NULL;
	job.input = "no such 'file";
	EACH_SHELL(b)
	{
		expect_fault(&b, &job, 66, "input");
		expect_text(&b, "stderr", "slurmray: input: no such 'file: No such file or directory\n");
	}
	job.input = "/proc";
	EACH_SHELL(b)
	{
		expect_fault(&b, &job, 66, "input");
		expect_text(&b, "stderr", "slurmray: input: /proc: Is a directory\n");
	}
	job.input = "/proc/self/comm/x";
	EACH_SHELL(b)
	{
		expect_fault(&b, &job, 66, "input");
		expect_text(&b, "stderr", "slurmray: input: /proc/self/comm/x: Not a directory\n");
	}
	job.input = "~/no";
	EACH_SHELL(b)
	{
		char want[300];

		expect_fault(&b, &job, 66, "input");
		(void)snprintf(want, sizeof(want), "slurmray: input: %s/no: No such file or directory\n", b.home);
		expect_text(&b, "stderr", want);
	}
	job.input = NULL;
	job.setup = "mkdir -p ../gone; cd ../gone; rmdir ../work";
	EACH_SHELL(b)
	expect_fault(&b, &job, 66, "workdir");
	job = command("echo 'a word or two that are none of these' >../fault; exit 66");
	EACH_SHELL(b)
	expect_run(&b, &job, 66);
	job = command("exit 66"); /* that is the user's */
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 66);
		expect_word(&b, "fault", "-");
	}
	job = command("exit 73");
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 73);
		expect_word(&b, "fault", "-");
	}
}

/* Programs of the preparation that a signal ends: the job's end is that signal, not an inability to write. */
static void signalled_preparation(void **state)
{
	struct job job = command("echo ran");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		cleanup_free char *old = xstrdup(getenv("PATH"));
		cleanup_free char *bin = xasprintf("%s/bin", b.home), *path = xasprintf("%s:%s", bin, old);
		char *const argv[] = { "sh", "-c",
				       "mkdir -p \"$0\" \"$0/../.slurmray/" BOX_UUID "/ends\" && cd \"$0\" && "
				       "printf '#!/bin/sh\\nkill -TERM $$\\n' >mkdir && chmod 700 mkdir",
				       bin, NULL };

		assert_int_equal(box_exec(argv, NULL), 0);
		(void)setenv("PATH", path, 1);
		expect_run(&b, &job, 143);
		(void)setenv("PATH", old, 1);
		expect_word(&b, "fault", "-");
		expect_text(&b, "stdout", "");
	}
}

/* Of Slurm's words, and never of those of a job that slurmray itself runs in. */
static void nodes_and_cpus(void **state)
{
	static const struct {
		const char *nodes, *cpus, *want_nodes, *want_cpus;
	} rows[] = {
		{ "1", "4", "1", "4" },    { "3", "4(x2),1", "3", "9" }, { "5", "2(x3),16(x2)", "5", "38" },
		{ "x", "many", "-", "0" }, { "2 3", "", "-", "-" },
	};
	struct job job = command("true");
	struct box b;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		(void)setenv("SLURM_JOB_NUM_NODES", rows[i].nodes, 1);
		(void)setenv("SLURM_JOB_CPUS_PER_NODE", rows[i].cpus, 1);
		box_init(&b, "sh");
		b.restart = "0";
		expect_run(&b, &job, 0);
		expect_word(&b, "nodes", rows[i].want_nodes);
		expect_word(&b, "cpus", rows[i].want_cpus);
		box_release(&b);
	}
	box_init(&b, "sh");
	expect_run(&b, &job, 0);
	expect_word(&b, "nodes", "-");
	expect_word(&b, "cpus", "-");
	box_release(&b);
	(void)unsetenv("SLURM_JOB_NUM_NODES");
	(void)unsetenv("SLURM_JOB_CPUS_PER_NODE");
}

/* What srun starts is no child of the job's shell. */
static void srun_has_no_cpu_time(void **state)
{
	struct job job = command("true # srun true");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		expect_word(&b, "cpu", "-");
	}
}

/* What a user wrote ends the job, never the wrapper. */
static void broken_setup_leaves_a_record(void **state)
{
	static const char *const setups[] = { "exit 5", "if then '", "cat <<EOF", "set -e; false", ") ; exit 5", "}" };
	struct job job = command("echo 'not reached' | grep -q x");
	struct box b;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(setups); i++) {
		job.setup = (char *)setups[i];
		EACH_SHELL(b)
		{
			int rc = box_run(&b, &job);
			char want[16];

			(void)snprintf(want, sizeof(want), "%d", rc);
			assert_in_range(rc, 0, 5);
			expect_word(&b, "rc", want);
		}
	}
}

static void expect_refused(struct box *b, const char *why)
{
	char *text;

	assert_int_equal(box_wait(b), 0);
	text = box_read(b, "refused", NULL);
	assert_non_null(text);
	if (!strstr(text, why))
		fail_msg("refused says '%s', not '%s'", text, why);
	free(text);
}

static void an_attempt_starts_once(void **state)
{
	struct job job = command("echo ran");
	struct box b;
	char path[256];

	(void)state;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		b.job_id = "4712";
		box_restart(&b);
		expect_refused(&b, "claim is 4711");
		expect_text(&b, "stdout", "ran\n");
	}
	EACH_SHELL(b)
	{ /* a controller that forgot the start gives the same id again, and counts no restart */
		expect_run(&b, &job, 0);
		box_restart(&b);
		expect_refused(&b, "it began before");
		expect_text(&b, "stdout", "ran\n");
	}
	EACH_SHELL(b)
	{
		box_path(&b, "claim", path, sizeof(path));
		assert_int_equal(symlink("99", path), 0);
		box_start(&b, &job);
		expect_refused(&b, "claim is 99");
		expect_text(&b, "stdout", "");
		assert_null(box_read(&b, b.record, NULL));
	}
	EACH_SHELL(b)
	{
		box_path(&b, "started", path, sizeof(path));
		assert_int_equal(symlink("void", path), 0);
		box_start(&b, &job);
		expect_refused(&b, "started is void");
		expect_text(&b, "stdout", "");
	}
	EACH_SHELL(b)
	{
		b.job_id = "";
		box_start(&b, &job);
		expect_refused(&b, "no job id");
	}
}

static void restarts_need_a_grant(void **state)
{
	struct job job = command("echo ran");
	struct box b;
	char path[256];

	(void)state;
	EACH_SHELL(b)
	{
		b.restart = "1";
		box_start(&b, &job);
		expect_refused(&b, "restart 1");
		expect_text(&b, "stdout", "");
		box_path(&b, "grant.1", path, sizeof(path));
		assert_int_equal(mkdir(path, 0700), 0);
		expect_run(&b, &job, 0);
		expect_word(&b, "restart", "1");
		b.restart = "2";
		box_start(&b, &job);
		expect_refused(&b, "restart 2");
	}
	job.requeue = true;
	EACH_SHELL(b)
	{
		b.restart = "3";
		expect_run(&b, &job, 0);
		expect_word(&b, "restart", "3");
	}
}

/* TYPE NUL SIZE NUL MTIME NUL MODE NUL PATH NUL TARGET NUL, see backend/cluster.h */
static void the_manifest_lists_results(void **state)
{
	struct job job =
		command("cd \"$SLURMRAY_RESULTS\"; umask 022; mkdir -p 'd e'; printf abc >'d e/f\ng'; ln -s 'd e' l; "
			"mkfifo p; touch -d @1000000000.5 'd e/f\ng'");
	struct box b;
	size_t len = 0;

	(void)state;
	EACH_SHELL(b)
	{
		expect_run(&b, &job, 0);
		char *text = box_read(&b, "manifest", &len);
		int n = 0;

		assert_non_null(text);
		for (size_t at = 0; at < len; n++) {
			const char *f[6];

			for (int i = 0; i < 6; i++) {
				assert_true(at < len);
				f[i] = text + at;
				at += strlen(text + at) + 1;
			}
			if (*f[0] == 'f') {
				assert_string_equal(f[1], "3");
				assert_int_equal(strncmp(f[2], "1000000000.5", 12), 0);
				assert_string_equal(f[3], "644");
				assert_string_equal(f[4], "d e/f\ng");
				assert_string_equal(f[5], "");
			} else if (*f[0] == 'l') {
				assert_string_equal(f[4], "l");
				assert_string_equal(f[5], "d e");
			} else {
				assert_string_equal(f[0], "d");
				assert_string_equal(f[3], "755");
				assert_string_equal(f[4], "d e");
			}
		}
		assert_int_equal(n, 3);
		free(text);
	}
}

static void patterns_are_linked(void **state)
{
	struct job job = command("echo out; echo err >&2");
	struct box b;
	char from[256], to[256];

	(void)state;
	job.output = "%j.out";
	job.error = "%j.err";
	EACH_SHELL(b)
	{ /* the second time as if Slurm had opened other files */
		struct strbuf out = STRBUF_INIT;
		char *argv[] = { "sh",
				 "-c",
				 "cd \"$1\" && rm -f claim started begun.0 && mv stdout o.x && mv stderr e.x && "
				 "HOME=\"$2\" SLURM_JOB_ID=4711 sh script >o.x 2>e.x && readlink stdout stderr",
				 "sh",
				 b.dir,
				 b.home,
				 NULL };

		expect_run(&b, &job, 0);
		expect_text(&b, "stdout", "out\n");
		assert_int_equal(box_exec(argv, &out), 0);
		box_path(&b, "o.x", from, sizeof(from));
		box_path(&b, "e.x", to, sizeof(to));
		char *want = xasprintf("%s\n%s\n", from, to);

		assert_string_equal(out.buf, want);
		expect_word(&b, "out", "4");
		expect_text(&b, "stderr", "err\n");
		free(want);
		strbuf_release(&out);
	}
}

static void the_record_is_tried_again(void **state)
{
	struct job job = command("rm -rf ../../../../ends");
	char ends[256];
	struct box b;

	(void)state;
	box_init(&b, "sh");
	box_start(&b, &job);
	box_wait_file(&b, "exit.tmp");
	(void)snprintf(ends, sizeof(ends), "%s/.slurmray/" BOX_UUID "/ends", b.home);
	assert_int_equal(mkdir(ends, 0700), 0);
	assert_int_equal(box_wait(&b), 0);
	expect_word(&b, "rc", "0");
	box_release(&b);
}

static void without_its_directory_nothing_runs(void **state)
{
	struct job job = command("echo ran");
	struct box b;
	char nowhere[] = "~/elsewhere";

	(void)state;
	EACH_SHELL(b)
	{
		job.directory = nowhere;
		assert_int_equal(box_run(&b, &job), 66);
		job.directory = "~/.slurmray";
		expect_text(&b, "stdout", "");
	}
}

static void unpreparable_runs_say_so(void **state)
{
	struct job job = command("echo ran");
	struct box b;
	char path[256];

	(void)state;
	EACH_SHELL(b)
	{
		box_path(&b, "job", path, sizeof(path));
		assert_int_equal(mkdir(path, 0700), 0); /* the file cannot be written */
		expect_fault(&b, &job, 73, "write");
		expect_text(&b, "stdout", "");
		assert_true(box_word(&b, "err")[0] != '0');
	}
}

static void render_refuses_what_no_script_can_hold(void **state)
{
	struct launch_ctx ctx = { .run_id = "a\nb", .run_num = 1, .attempt = 1, .uuid = "u" };
	struct job job = command("true");
	struct strbuf out = STRBUF_INIT;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(launcher_find("bash")->render(&job, &ctx, &out, &e), -EINVAL);
	ctx.run_id = "a";
	job.directory = "";
	assert_int_equal(launcher_find("bash")->render(&job, &ctx, &out, &e), -EINVAL);
	assert_non_null(strstr(e.text, "directory"));
	assert_int_equal(out.len, 0);
	assert_null(launcher_find("dask"));
	assert_null(launcher_find(""));
	assert_ptr_equal(launchers[0], launcher_find("bash"));
	strbuf_release(&out);
}

static void names_of_an_attempt(void **state)
{
	static const struct launch_ctx ctx = { .run_id = "x", .run_num = 4294967295U, .attempt = 12, .uuid = "ab-1" };
	struct strbuf out = STRBUF_INIT;

	(void)state;
	launch_attempt_dir(&out, "~/.slurmray", &ctx);
	assert_string_equal(out.buf, "\"$HOME\"/.slurmray/ab-1/runs/4294967295/a12");
	strbuf_reset(&out);
	launch_attempt_dir(&out, "/a b", &ctx);
	assert_string_equal(out.buf, "'/a b/ab-1/runs/4294967295/a12'");
	strbuf_reset(&out);
	launch_token(&out, &ctx);
	assert_string_equal(out.buf, "slurmray:ab-1/4294967295/a12");
	strbuf_release(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quoted_words_survive_a_shell),
		cmocka_unit_test(exit_codes_are_the_commands),
		cmocka_unit_test(the_record_is_whole),
		cmocka_unit_test(a_killed_command_leaves_no_words_of_the_shell),
		cmocka_unit_test(signals_are_passed_on),
		cmocka_unit_test(a_default_signal_ends_the_command),
		cmocka_unit_test(signals_do_not_end_the_wait),
		cmocka_unit_test(an_end_among_signals_keeps_its_code),
		cmocka_unit_test(an_early_signal_arrives),
		cmocka_unit_test(output_is_byte_exact),
		cmocka_unit_test(merged_streams_count_once),
		cmocka_unit_test(scripts_are_byte_exact),
		cmocka_unit_test(texts_that_hold_every_end),
		cmocka_unit_test(scripts_run_by_their_first_line),
		cmocka_unit_test(a_shipped_payload_is_executed),
		cmocka_unit_test(scripts_have_arguments),
		cmocka_unit_test(words_reach_a_program_as_they_are),
		cmocka_unit_test(the_environment_arrives),
		cmocka_unit_test(directories_are_there),
		cmocka_unit_test(workdir_setup_and_input),
		cmocka_unit_test(signalled_preparation),
		cmocka_unit_test(nodes_and_cpus),
		cmocka_unit_test(srun_has_no_cpu_time),
		cmocka_unit_test(broken_setup_leaves_a_record),
		cmocka_unit_test(an_attempt_starts_once),
		cmocka_unit_test(restarts_need_a_grant),
		cmocka_unit_test(the_manifest_lists_results),
		cmocka_unit_test(patterns_are_linked),
		cmocka_unit_test(the_record_is_tried_again),
		cmocka_unit_test(without_its_directory_nothing_runs),
		cmocka_unit_test(unpreparable_runs_say_so),
		cmocka_unit_test(render_refuses_what_no_script_can_hold),
		cmocka_unit_test(names_of_an_attempt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
