/*
 * The agent: the codec against hostile input, and the real shell text in bash and in dash.
 * TEST_SECONDS=41
 */
#include "tests/unit/lib_shell.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SENTINEL "\nslurmray-shell-ready\n"
#define HELLO "H 9\nshell sh\n"

static char dir[64];

/* ---- the codec alone ---- */

struct seen {
	struct strbuf text;
	int frames;
};

static void on_frame(void *arg, const struct agent_frame *f)
{
	struct seen *s = arg;

	s->frames++;
	if (f->type == AGENT_HELLO)
		strbuf_addf(&s->text, "H[%s]", f->out);
	else if (f->type == AGENT_ANSWER)
		strbuf_addf(&s->text, "A%d:%d[%s][%s]", (int)f->id, f->rc, f->out, f->err);
	else
		strbuf_addf(&s->text, "E[%s][%s]", f->name, f->out);
}

static int feed(struct agent *a, const char *s, struct err *e)
{
	return agent_input(a, s, strlen(s), e);
}

static void frames_in_any_pieces(void **state)
{
	static const char all[] = "Welcome!\nslurmray-shell-\nslurmray-shell-read" SENTINEL HELLO "A 1 0 3 2\nabcde"
				  "E 4 3\n7.a1x=1A 2 255 0 0\n";
	size_t step;

	(void)state;
	for (step = 1; step < sizeof(all); step++) {
		struct seen s = { STRBUF_INIT, 0 };
		struct agent *a = agent_new("", "/e", 100, on_frame, &s);
		struct err e = ERR_INIT;
		size_t i;

		(void)agent_request(a, AGENT_QUICK, "x", NULL, 0, 0);
		(void)agent_request(a, AGENT_QUICK, "y", NULL, 0, 0);
		for (i = 0; i < sizeof(all) - 1; i += step)
			assert_int_equal(
				agent_input(a, all + i, sizeof(all) - 1 - i < step ? sizeof(all) - 1 - i : step, &e),
				0);
		assert_string_equal(s.text.buf, "H[shell sh\n]A1:0[abc][de]E[7.a1][x=1]A2:255[][]");
		agent_free(a);
		strbuf_release(&s.text);
	}
}

static void requests_wait_for_the_sentinel(void **state)
{
	struct seen s = { STRBUF_INIT, 0 };
	struct agent *a = agent_new("", "/e", 100, on_frame, &s);
	struct strbuf *out = agent_output(a);

	(void)state;
	assert_int_equal(agent_request(a, AGENT_BESIDE, "a\nb\036c\035", "payload", 7, 9), 1);
	assert_null(strstr(out->buf, "payload"));
	assert_true(strncmp(out->buf, "exec sh -c '", 12) == 0);
	strbuf_reset(out);
	assert_int_equal(feed(a, SENTINEL, NULL), 0);
	assert_true(strncmp(out->buf, "#slurmray-program ", 18) == 0);
	assert_non_null(strstr(out->buf, "\n#slurmray-end\n1 B 9 6 7 a\036b\035rc\035g\npayload"));
	assert_false(agent_ready(a));
	assert_int_equal(feed(a, HELLO, NULL), 0);
	assert_true(agent_ready(a));
	strbuf_reset(out);
	agent_tick(a);
	agent_tick(a);
	assert_string_equal(out->buf, "T\n");
	agent_set_tick(a, 250);
	agent_ends_again(a);
	assert_string_equal(out->buf, "T\nP 250\nR\n");
	agent_free(a);
	strbuf_release(&s.text);
}

static void hostile_frames_are_refused(void **state)
{
	static const char *const bad[] = {
		"A 1 0 3\nabc",
		"A 1 0 -3 0\n",
		"A 1 256 0 0\n",
		"A 0 0 0 0\n",
		"A 2 0 0 0\n",
		"A 1 0 99999999999999999999 0\n",
		"A 1 0 67108864 1\n",
		"A 1 0 67108865 0\n",
		"A  1 0 0 0\n",
		"A 1 0 0 0 \n",
		"A 1 0 0 0 5\n",
		"E 0 3\nabc",
		"E 5 1\n../..x",
		"E 2 1\n..x",
		"E 3 1\na/bx",
		"E 256 1\n",
		"H 3\nabc",
		"X 1\n",
		"\n",
		"A\n",
		"A 1 0x0 0 0\n",
		"Segmentation fault\n",
	};
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct seen s = { STRBUF_INIT, 0 };
		struct agent *a = agent_new("", "/e", 100, on_frame, &s);
		struct err e = ERR_INIT;

		(void)agent_request(a, AGENT_QUICK, "x", NULL, 0, 0);
		assert_int_equal(feed(a, SENTINEL HELLO, &e), 0);
		assert_int_equal(feed(a, bad[i], &e), -EPROTO);
		assert_non_null(strstr(e.text, "seen: "));
		assert_int_equal(feed(a, "A 1 0 0 0\n", &e), -EPROTO);
		assert_int_equal(s.frames, 1);
		agent_free(a);
		strbuf_release(&s.text);
	}
}

static void words_of_a_shell_that_gives_up(void **state)
{
	struct seen s = { STRBUF_INIT, 0 };
	struct agent *a = agent_new("", "/e", 100, on_frame, &s);
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(feed(a, SENTINEL "! no directory for temporary files\n", &e), -EPROTO);
	assert_non_null(strstr(e.text, "gave up; seen: \"no directory for temporary files\""));
	agent_free(a);
	strbuf_release(&s.text);
}

static void long_headers_and_banners_end(void **state)
{
	struct seen s = { STRBUF_INIT, 0 };
	struct agent *a = agent_new("", "/e", 100, on_frame, &s);
	static char noise[65536];
	struct err e = ERR_INIT;
	int i, rc = 0;

	(void)state;
	memset(noise, 'z', sizeof(noise));
	memcpy(noise, "This account is disabled\n", 25);
	for (i = 0; i < 15; i++)
		assert_int_equal(agent_input(a, noise, sizeof(noise), &e), 0);
	for (; i < 18; i++)
		rc = agent_input(a, noise, sizeof(noise), &e);
	assert_int_equal(rc, -EPROTO);
	agent_free(a);
	a = agent_new("", "/e", 100, on_frame, &s);
	assert_int_equal(feed(a, SENTINEL HELLO, &e), 0);
	assert_int_equal(agent_input(a, noise + 100, 255, &e), 0);
	assert_int_equal(agent_input(a, noise + 100, 1, &e), -EPROTO);
	agent_free(a);
	strbuf_release(&s.text);
}

/* ---- the shell text ---- */

static const char *const with_bash[] = { "bash", NULL };
static const char *const with_dash[] = { "dash", "-c", "PATH=$NOBASH; export PATH; exec dash", NULL };

/* A PATH in which everything is but bash, so that the bootstrap takes sh. */
static void make_nobash(void)
{
	char cmd[512];

	(void)snprintf(cmd, sizeof(cmd),
		       "mkdir -p %s/bin && for f in /bin/* /usr/bin/*; do case $f in */bash|*/sh) ;; *) ln -sf \"$f\" "
		       "%s/bin/ ;; esac; "
		       "done; ln -sf \"$(command -v dash)\" %s/bin/sh",
		       dir, dir, dir);
	const char *const argv[] = { "sh", "-c", cmd, NULL };
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	(void)snprintf(cmd, sizeof(cmd), "%s/bin", dir);
	(void)setenv("NOBASH", cmd, 1);
}

static char *ends_dir(void)
{
	static char path[128];

	(void)snprintf(path, sizeof(path), "%s/ends", dir);
	(void)mkdir(path, 0700);
	return path;
}

static void remove_tree(const char *path)
{
	pid_t pid = fork();

	if (pid == 0) {
		execlp("rm", "rm", "-rf", path, (char *)NULL);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void put_file(const char *path, const char *text)
{
	char tmp[256];
	FILE *f;

	(void)snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	f = fopen(tmp, "w");
	assert_non_null(f);
	(void)fputs(text, f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(rename(tmp, path), 0);
}

static struct shell_answer *ask(struct shell *s, enum agent_class cls, const char *code)
{
	return shell_answer(s, agent_request(s->agent, cls, code, NULL, 0, 20));
}

static void hello_names_the_shell(void **state)
{
	const char *const *argv = *state;
	struct shell s;
	struct shell_answer *a;

	(void)setenv("TMOUT", "1", 1);
	(void)setenv("SBATCH_PARTITION", "evil", 1);
	(void)setenv("SQUEUE_STATES", "evil", 1);
	(void)setenv("SLURM_CLUSTERS", "evil", 1);
	(void)setenv("SLURM_CONF", "/kept", 1);
	(void)setenv("LC_ALL", "C.UTF-8", 1);
	(void)setenv("BASH_ENV", "/nowhere/module-init", 1);
	shell_start(&s, argv, "greet() { echo \"it's $1\"; }\n", ends_dir(), 1000);
	shell_hello(&s);
	assert_true(strncmp(s.hello, argv == with_bash ? "shell bash\n" : "shell sh\n", argv == with_bash ? 11 : 9) ==
		    0);
	assert_non_null(strstr(s.hello, "\nhome /"));
	assert_non_null(strstr(s.hello, "\nepoch 1") ? strstr(s.hello, "\nepoch 1") : strstr(s.hello, "\nepoch 2"));
	assert_non_null(strstr(s.hello, "\ngnu_stat 1\n"));
	a = ask(&s, AGENT_QUICK,
		"echo \"$SBATCH_PARTITION$SQUEUE_STATES$SLURM_CLUSTERS$TMOUT\"; echo $SLURM_CONF; umask; greet me; cat "
		"\"$IN\"");
	assert_string_equal(a->out.buf, "\n/kept\n0077\nit's me\n");
	assert_string_equal(a->err.buf, "");
	a = ask(&s, AGENT_BESIDE, "greet you; echo ${#IN}; env | grep -E '^(LC_ALL|LANG|BASH_ENV)='|sort; cat; exit 7");
	assert_string_equal(a->out.buf, "it's you\n9\nBASH_ENV=/nowhere/module-init\nLANG=C.UTF-8\n");
	assert_int_equal(a->rc, 7);
	assert_int_equal(shell_stop(&s), 0);
	(void)unsetenv("TMOUT");
	(void)unsetenv("LC_ALL");
	(void)unsetenv("BASH_ENV");
	(void)unsetenv("SLURM_CONF");
}

static void latency_is_printed(void **state)
{
	struct shell s;
	int64_t t0, t1, t2;
	int i;

	shell_start(&s, *state, "", ends_dir(), 1000);
	shell_hello(&s);
	t0 = clock_mono(&clock_system);
	for (i = 0; i < 50; i++)
		assert_int_equal(ask(&s, AGENT_QUICK, "echo hi")->rc, 0);
	t1 = clock_mono(&clock_system);
	for (i = 0; i < 50; i++)
		assert_int_equal(ask(&s, AGENT_BESIDE, "echo hi")->rc, 0);
	t2 = clock_mono(&clock_system);
	print_message("%s: quick %.2f ms, beside %.2f ms\n", ((const char *const *)*state)[0], (double)(t1 - t0) / 50e3,
		      (double)(t2 - t1) / 50e3);
	assert_int_equal(shell_stop(&s), 0);
}

static void a_thousand_requests_in_order(void **state)
{
	struct shell s;
	char code[64];
	int i;

	shell_start(&s, *state, "", ends_dir(), 1000);
	for (i = 1; i <= 1000; i++) {
		(void)snprintf(code, sizeof(code), "echo %d; echo e%d >&2; (exit %d)", i, i, i % 200);
		assert_int_equal(agent_request(s.agent, AGENT_QUICK, code, NULL, 0, 0), i);
	}
	for (i = 50; i <= 1000; i += 50) /* so that a slow machine has time for all */
		(void)shell_answer(&s, (uint64_t)i);
	assert_int_equal(s.n_answers, 1000);
	for (i = 1; i <= 1000; i++) {
		(void)snprintf(code, sizeof(code), "%d\n", i);
		assert_int_equal(s.answers[i - 1].id, i);
		assert_int_equal(s.answers[i - 1].rc, i % 200);
		assert_string_equal(s.answers[i - 1].out.buf, code);
	}
	assert_int_equal(shell_stop(&s), 0);
}

/*
 * bash's read may report a timeout although it has read the newline, when its timer ends just then; the clock is quick
 * while something runs beside the loop.
 */
static void requests_come_at_every_moment(void **state)
{
	struct shell s;
	char code[400];
	uint64_t slow;
	int i;

	shell_start(&s, *state, "", ends_dir(), 1000);
	shell_hello(&s);
	slow = agent_request(s.agent, AGENT_BESIDE, "sleep 2; echo slow", NULL, 0, 60);
	for (i = 0; i < 400; i++) {
		const struct timespec pause = { 0, (i * 7919 % 6000) * 1000 };
		int n = snprintf(code, sizeof(code), "echo %d; : %0*d", i, 1 + i * 31 % 350, 0);

		assert_in_range(n, 1, sizeof(code) - 1);
		(void)nanosleep(&pause, NULL);
		assert_int_equal(strtol(ask(&s, i % 10 ? AGENT_QUICK : AGENT_BESIDE, code)->out.buf, NULL, 10), i);
	}
	assert_string_equal(shell_answer(&s, slow)->out.buf, "slow\n");
	assert_int_equal(shell_stop(&s), 0);
}

static void payloads_arrive_whole(void **state)
{
	static const size_t sizes[] = { 0, 1, 65536, 1 << 20, 5 };
	struct shell s;
	uint64_t id[2 * ARRAY_SIZE(sizes)];
	struct strbuf data = STRBUF_INIT;
	struct strbuf sums = STRBUF_INIT;
	size_t i;
	int fd = open("/dev/urandom", O_RDONLY);

	strbuf_grow(&data, 1 << 20);
	assert_int_equal(read(fd, data.buf, 1 << 20), 1 << 20);
	data.len = 1 << 20;
	(void)close(fd);
	shell_start(&s, *state, "", ends_dir(), 1000);
	for (i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
		size_t n = sizes[i / 2];

		id[i] = agent_request(s.agent, i % 2 ? AGENT_QUICK : AGENT_BESIDE, "sha256sum <\"$IN\"; cat \"$IN\"",
				      data.buf, n, 20);
	}
	for (i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
		struct shell_answer *a = shell_answer(&s, id[i]);
		size_t n = sizes[i / 2];

		assert_int_equal(a->out.len, n + 68); /* the sum, two blanks, -, newline */
		assert_memory_equal(a->out.buf + 68, data.buf, n);
		strbuf_add(&sums, a->out.buf, 68);
	}
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_memory_equal(sums.buf + 136 * i, sums.buf + 136 * i + 68, 68);
	assert_true(strncmp(sums.buf, "e3b0c44298fc1c149afbf4c8996fb924", 32) == 0);
	strbuf_release(&data);
	strbuf_release(&sums);
	assert_int_equal(shell_stop(&s), 0);
}

static void code_may_hold_every_byte(void **state)
{
	struct shell s;
	char want[256];
	struct strbuf code = STRBUF_INIT;
	int cls, c, n = 0;

	for (c = 1; c < 256; c++)
		want[n++] = (char)c;
	want[n] = '\0';
	strbuf_addstr(&code, "printf %s ");
	quote_sh(&code, want);
	strbuf_addstr(&code, "\n# \036r\035g\036\035\n\n");
	shell_start(&s, *state, "", ends_dir(), 1000);
	for (cls = AGENT_QUICK; cls <= AGENT_BESIDE; cls++) {
		struct shell_answer *a = ask(&s, (enum agent_class)cls, code.buf);

		assert_string_equal(a->err.buf, "");
		assert_int_equal(a->out.len, 255);
		assert_memory_equal(a->out.buf, want, 255);
	}
	/* Any single byte, wherever it stands. */
	for (c = 1; c < 256; c++) {
		char line[64];
		struct shell_answer *a;

		(void)snprintf(line, sizeof(line), "printf %%s ':%c%c%c:'", c == '\'' ? '-' : c, c == '\'' ? '-' : c,
			       c == '\'' ? '-' : c);
		a = ask(&s, AGENT_QUICK, line);
		assert_int_equal(a->out.len, 5);
		assert_int_equal((unsigned char)a->out.buf[2], c == '\'' ? '-' : c);
	}
	strbuf_release(&code);
	assert_int_equal(shell_stop(&s), 0);
}

static void broken_code_harms_nobody(void **state)
{
	static const char *const codes[] = { "if",
					     "exit 3",
					     "echo ${",
					     "exec false",
					     "set -e; false; echo no",
					     "kill -9 $$x",
					     "(((",
					     "return 5",
					     "unset IN; cd /; set -f; IFS=x",
					     "echo 'open",
					     "exec >/dev/null",
					     "trap 'echo t' EXIT" };
	struct shell s;
	size_t i;
	int cls;

	shell_start(&s, *state, "", ends_dir(), 1000);
	for (i = 0; i < ARRAY_SIZE(codes); i++) {
		for (cls = AGENT_QUICK; cls <= AGENT_BESIDE; cls++) {
			(void)ask(&s, (enum agent_class)cls, codes[i]);
			assert_string_equal(ask(&s, (enum agent_class)cls, "echo fine")->out.buf, "fine\n");
		}
	}
	assert_int_equal(ask(&s, AGENT_BESIDE, "exit 3")->rc, 3);
	assert_int_equal(shell_stop(&s), 0);
}

static void big_and_binary_output(void **state)
{
	struct shell s;
	int cls;

	shell_start(&s, *state, "", ends_dir(), 1000);
	for (cls = AGENT_QUICK; cls <= AGENT_BESIDE; cls++) {
		struct shell_answer *a =
			ask(&s, (enum agent_class)cls, "head -c 2000000 /dev/zero | tr '\\0' x; echo e >&2");

		assert_int_equal(a->out.len, 2000000);
		assert_int_equal(a->out.buf[1999999], 'x');
		assert_string_equal(a->err.buf, "e\n");
		a = ask(&s, (enum agent_class)cls, "printf 'a\\0b\\n'; printf '\\0' >&2");
		assert_int_equal(a->out.len, 4);
		assert_memory_equal(a->out.buf, "a\0b\n", 4);
		assert_int_equal(a->err.len, 1);
		a = ask(&s, (enum agent_class)cls,
			"head -c 65536 /dev/zero | tr '\\0' y; head -c 65535 /dev/zero | tr '\\0' z >&2");
		assert_int_equal(a->out.len, 65536);
		assert_int_equal(a->err.len, 65535);
	}
	assert_int_equal(shell_stop(&s), 0);
}

static void one_that_hangs_delays_nobody(void **state)
{
	struct shell s;
	struct shell_answer *a;
	uint64_t hangs, stubborn;
	char code[256];

	shell_start(&s, *state, "", ends_dir(), 1000);
	(void)snprintf(code, sizeof(code), "echo begun; (sleep 99; echo late >%s/late)& sleep 98; echo no", dir);
	hangs = agent_request(s.agent, AGENT_BESIDE, code, NULL, 0, 1);
	stubborn = agent_request(s.agent, AGENT_BESIDE, "trap '' TERM; echo deaf; sleep 97; sleep 97", NULL, 0, 1);
	assert_string_equal(ask(&s, AGENT_QUICK, "echo q")->out.buf, "q\n");
	assert_string_equal(ask(&s, AGENT_BESIDE, "echo b")->out.buf, "b\n");
	assert_int_equal(s.n_answers, 2);
	a = shell_answer(&s, hangs);
	assert_int_equal(a->rc, 124);
	assert_string_equal(a->out.buf, "begun\n");
	a = shell_answer(&s, stubborn);
	assert_int_equal(a->rc, 124);
	assert_string_equal(a->out.buf, "deaf\n");
	/* The whole group is gone, grandchildren too. */
	a = ask(&s, AGENT_BESIDE, "ps -eo args | grep -cE '^sleep 9[789]$'");
	assert_string_equal(a->out.buf, "0\n");
	assert_int_equal(shell_stop(&s), 0);
}

static void more_than_the_limit_wait_their_turn(void **state)
{
	struct shell s;
	uint64_t first = 0, last = 0;
	char code[256];
	int i;

	shell_start(&s, *state, "", ends_dir(), 1000);
	for (i = 0; i < 60; i++) {
		(void)snprintf(code, sizeof(code), "echo %d; sleep 0.1", i);
		last = agent_request(s.agent, AGENT_BESIDE, code, NULL, 0, 20);
		if (!first)
			first = last;
	}
	for (i = 0; i < 60; i++) {
		struct shell_answer *a = shell_answer(&s, first + (uint64_t)i);

		(void)snprintf(code, sizeof(code), "%d\n", i);
		assert_string_equal(a->out.buf, code);
		assert_int_equal(a->rc, 0);
	}
	assert_int_equal(shell_stop(&s), 0);
}

static bool n_ends(struct shell *s, void *arg)
{
	return s->n_ends >= *(const size_t *)arg;
}

static void ends_are_pushed(void **state)
{
	struct shell s;
	struct strbuf where = STRBUF_INIT;
	char sub[96], path[160];
	size_t n = 1, i;

	(void)snprintf(sub, sizeof(sub), "%s/it's ends", dir);
	remove_tree(sub);
	(void)snprintf(path, sizeof(path), "%s", sub);
	quote_sh(&where, path);
	shell_start(&s, *state, "", where.buf, 50);
	shell_hello(&s);
	assert_int_equal(ask(&s, AGENT_QUICK, "sleep 0.2")->rc, 0);
	assert_int_equal(s.n_ends, 0);
	(void)mkdir(path, 0700);
	(void)snprintf(path, sizeof(path), "%s/7.a1.tmp", sub);
	put_file(path, "v=1 half");
	(void)snprintf(path, sizeof(path), "%s/evil name", sub);
	put_file(path, "no");
	(void)snprintf(path, sizeof(path), "%s/5.a2", sub);
	put_file(path, "v=1 run=5\n");
	assert_true(shell_run(&s, 20000, n_ends, &n));
	assert_string_equal(s.ends[0].name, "5.a2");
	assert_string_equal(s.ends[0].text, "v=1 run=5\n");
	/* Only once, until asked again. */
	(void)shell_run(&s, 300, NULL, NULL);
	assert_int_equal(s.n_ends, 1);
	agent_ends_again(s.agent);
	n = 2;
	assert_true(shell_run(&s, 20000, n_ends, &n));
	assert_string_equal(s.ends[1].name, "5.a2");
	/* Many, with and without a newline, while a job runs beside. */
	(void)agent_request(s.agent, AGENT_BESIDE, "sleep 1", NULL, 0, 9);
	for (i = 0; i < 450; i++) {
		(void)snprintf(path, sizeof(path), "%s/%zu.a1", sub, 1000 + i);
		put_file(path, i % 2 ? "v=1" : "v=1 a\nb\n");
	}
	n = 452;
	assert_true(shell_run(&s, 20000, n_ends, &n));
	for (i = 2; i < 452; i++)
		assert_string_equal(s.ends[i].text, atol(s.ends[i].name) % 2 ? "v=1" : "v=1 a\nb\n");
	(void)shell_run(&s, 300, NULL, NULL);
	assert_int_equal(s.n_ends, 452);
	strbuf_release(&where);
	assert_int_equal(shell_stop(&s), 0);
}

/* Speaks to a fresh shell by hand: the bootstrap and program, then the first `cut` bytes of a request, then the end. */
static void cut_one(const char *const *argv, const char *request, size_t len, size_t cut)
{
	struct shell s;

	shell_start(&s, argv, "", "/nowhere", 1000);
	shell_hello(&s);
	assert_int_equal(write(s.fd, request, cut < len ? cut : len), cut < len ? cut : len);
	(void)shell_stop(&s);
}

static void a_cut_request_never_runs(void **state)
{
	struct agent *a = agent_new("", "/e", 100, NULL, NULL);
	struct strbuf code = STRBUF_INIT;
	struct strbuf req = STRBUF_INIT;
	char marker[128];
	size_t cut;

	(void)snprintf(marker, sizeof(marker), "%s/marker", dir);
	strbuf_addf(&code, ": >%s\n: >%s.tmp", marker, marker);
	(void)agent_input(a, SENTINEL, sizeof(SENTINEL) - 1, NULL);
	strbuf_reset(agent_output(a));
	(void)agent_request(a, AGENT_QUICK, code.buf, "0123456789", 10, 5);
	strbuf_add(&req, agent_output(a)->buf, agent_output(a)->len);
	for (cut = 0; cut < req.len; cut++) {
		cut_one(*state, req.buf, req.len, cut);
		assert_int_equal(access(marker, F_OK), -1);
	}
	cut_one(*state, req.buf, req.len, req.len);
	assert_int_equal(access(marker, F_OK), 0);
	(void)unlink(marker);
	agent_free(a);
	strbuf_release(&code);
	strbuf_release(&req);
}

static void the_program_itself_may_be_cut(void **state)
{
	const char *const *argv = *state;
	struct strbuf all = STRBUF_INIT;
	char marker[128];
	struct agent *a;
	size_t cut;

	(void)snprintf(marker, sizeof(marker), "%s/marker", dir);
	strbuf_addf(&all, ": >%s\n", marker);
	a = agent_new(all.buf, "/nowhere", 100, NULL, NULL);
	(void)agent_input(a, SENTINEL, sizeof(SENTINEL) - 1, NULL);
	strbuf_reset(&all);
	{
		const char *program = strstr(agent_output(a)->buf, "#slurmray-program");

		assert_non_null(program);
		strbuf_addstr(&all, program);
	}
	for (cut = 1; cut < all.len; cut += cut < all.len - 60 ? 331 : 1) {
		struct shell s;

		shell_start(&s, argv, "", "/nowhere", 1000);
		(void)!write(s.fd, agent_output(s.agent)->buf, agent_output(s.agent)->len);
		(void)!write(s.fd, all.buf, cut);
		(void)shell_stop(&s);
		assert_int_equal(access(marker, F_OK), -1);
	}
	agent_free(a);
	strbuf_release(&all);
}

static void running_jobs_outlive_the_connection(void **state)
{
	struct shell s;
	char code[1024], done[128];
	uint64_t id;
	int i;

	(void)snprintf(done, sizeof(done), "%s/done", dir);
	(void)unlink(done);
	shell_start(&s, *state, "", ends_dir(), 1000);
	shell_hello(&s);
	(void)snprintf(code, sizeof(code), ": >%s.begun; sleep 1; echo to nobody; cat \"$IN\" >%s.tmp && mv %s.tmp %s",
		       done, done, done, done);
	id = agent_request(s.agent, AGENT_BESIDE, code, "payload", 7, 20);
	assert_int_equal(id, 1);
	(void)snprintf(code, sizeof(code), "while ! [ -e %s.begun ]; do sleep 0.01; done", done);
	assert_int_equal(ask(&s, AGENT_QUICK, code)->rc, 0);
	assert_int_equal(shell_stop(&s), 0);
	for (i = 0; i < 1000 && access(done, F_OK) < 0; i++)
		(void)usleep(10000);
	assert_int_equal(access(done, F_OK), 0);
	(void)unlink(done);
}

static void nothing_is_left_behind(void **state)
{
	struct shell s;
	char tmp[128];
	const char *p;
	size_t n;

	shell_start(&s, *state, "", ends_dir(), 1000);
	shell_hello(&s);
	p = strstr(s.hello, "\ntmp ");
	assert_non_null(p);
	n = strcspn(p + 5, "\n");
	assert_true(n < sizeof(tmp));
	memcpy(tmp, p + 5, n);
	tmp[n] = '\0';
	assert_int_equal(access(tmp, F_OK), 0);
	assert_int_equal(ask(&s, AGENT_BESIDE, "echo x")->rc, 0);
	assert_int_equal(shell_stop(&s), 0);
	assert_int_equal(access(tmp, F_OK), -1);
}

/* ---- login shells ---- */

static void try_login_shell(const char *name, const char *profile)
{
	const char *argv[] = { name, NULL, NULL };
	char path[160];
	struct shell s;

	(void)snprintf(path, sizeof(path), "%s/%s", dir,
		       strcmp(name, "zsh") == 0 ? ".zshenv"
		       : strstr(name, "csh")    ? ".tcshrc"
						: ".profile");
	put_file(path, profile);
	(void)setenv("HOME", dir, 1);
	(void)setenv("ZDOTDIR", dir, 1);
	if (strcmp(name, "bash") == 0)
		argv[1] = "-l";
	shell_start(&s, argv, "", ends_dir(), 100);
	shell_hello(&s);
	assert_string_equal(ask(&s, AGENT_QUICK, "echo ok")->out.buf, "ok\n");
	assert_int_equal(shell_stop(&s), 0);
	(void)unlink(path);
}

static void login_shells_and_banners(void **state)
{
	static const char *const shells[] = { "bash", "dash", "zsh", "tcsh", "csh", "ksh", "mksh" };
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(shells); i++) {
		char path[64];

		(void)snprintf(path, sizeof(path), "/bin/%s", shells[i]);
		if (access(path, X_OK) < 0) {
			print_message("%s is not installed\n", shells[i]);
			continue;
		}
		try_login_shell(shells[i], "echo Welcome to the machine\necho 'A 1 0 0 0'\n");
	}
	try_login_shell("bash", "readonly TMOUT=5\nset -v\necho banner without end of line | tr -d '\\n'\n");
}

#define BOTH(f)                                                                                                        \
	{ #f " (bash)", f, NULL, NULL, (void *)(uintptr_t)with_bash },                                                 \
	{                                                                                                              \
#f " (dash)", f, NULL, NULL, (void *)(uintptr_t)with_dash                                              \
	}

static int setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/test_agent.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	make_nobash();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	remove_tree(dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_in_any_pieces),
		cmocka_unit_test(requests_wait_for_the_sentinel),
		cmocka_unit_test(hostile_frames_are_refused),
		cmocka_unit_test(words_of_a_shell_that_gives_up),
		cmocka_unit_test(long_headers_and_banners_end),
		BOTH(hello_names_the_shell),
		BOTH(latency_is_printed),
		BOTH(a_thousand_requests_in_order),
		cmocka_unit_test_prestate(requests_come_at_every_moment, (void *)(uintptr_t)with_bash),
		BOTH(payloads_arrive_whole),
		BOTH(code_may_hold_every_byte),
		BOTH(broken_code_harms_nobody),
		BOTH(big_and_binary_output),
		BOTH(one_that_hangs_delays_nobody),
		BOTH(more_than_the_limit_wait_their_turn),
		BOTH(ends_are_pushed),
		BOTH(a_cut_request_never_runs),
		BOTH(the_program_itself_may_be_cut),
		BOTH(running_jobs_outlive_the_connection),
		BOTH(nothing_is_left_behind),
		cmocka_unit_test(login_shells_and_banners),
	};

	return cmocka_run_group_tests_name("agent", tests, setup, teardown);
}
