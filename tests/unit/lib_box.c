/*
 * Runs scripts in a private home directory. Every wait has a deadline, after which the test fails.
 */
#include "tests/unit/lib_box.h"

#include "launchers/launcher.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static const struct launch_ctx ctx = {
	.run_id = "train", .run_num = BOX_RUN, .attempt = BOX_ATTEMPT, .uuid = BOX_UUID
};

static void nap(void)
{
	(void)nanosleep(&(struct timespec){ .tv_nsec = 5 * 1000 * 1000 }, NULL);
}

void box_init(struct box *b, const char *shell)
{
	char *const mkdir_argv[] = { "mkdir", "-p", b->dir, NULL };

	memset(b, 0, sizeof(*b));
	b->shell = shell;
	b->job_id = "4711";
	(void)snprintf(b->home, sizeof(b->home), "/tmp/box it's XXXXXX");
	assert_non_null(mkdtemp(b->home));
	(void)snprintf(b->dir, sizeof(b->dir), "%s/.slurmray/%s/runs/%d/a%d", b->home, BOX_UUID, BOX_RUN, BOX_ATTEMPT);
	(void)snprintf(b->record, sizeof(b->record), "%s/.slurmray/%s/ends/%d.a%d", b->home, BOX_UUID, BOX_RUN,
		       BOX_ATTEMPT);
	assert_int_equal(box_exec(mkdir_argv, NULL), 0);
}

void box_release(struct box *b)
{
	char *const argv[] = { "rm", "-rf", b->home, NULL };

	assert_int_equal(box_exec(argv, NULL), 0);
}

void box_path(struct box *b, const char *name, char *out, size_t size)
{
	(void)snprintf(out, size, name[0] == '/' ? "%s%s" : "%s/%s", name[0] == '/' ? "" : b->dir, name);
}

char *box_read(struct box *b, const char *name, size_t *len)
{
	struct strbuf sb = STRBUF_INIT;
	char path[256];

	box_path(b, name, path, sizeof(path));
	if (strbuf_read_file(&sb, path, 64 * 1024 * 1024) < 0)
		return NULL;
	return strbuf_detach(&sb, len);
}

void box_wait_file(struct box *b, const char *name)
{
	char path[256];

	box_path(b, name, path, sizeof(path));
	for (int i = 0; i < 2000; i++) {
		if (access(path, F_OK) == 0)
			return;
		nap();
	}
	fail_msg("%s did not appear", path);
}

const char *box_word(struct box *b, const char *key)
{
	static char word[128];
	char *text = box_read(b, b->record, NULL), *at = text;
	size_t n = strlen(key);

	word[0] = '\0';
	while (at && (strncmp(at, key, n) != 0 || at[n] != '=')) {
		at = strchr(at, ' ');
		at = at ? at + 1 : NULL;
	}
	if (at)
		(void)snprintf(word, sizeof(word), "%.*s", (int)strcspn(at + n + 1, " \n"), at + n + 1);
	free(text);
	return word;
}

static void write_script(struct box *b, const struct strbuf *script)
{
	char path[256];
	FILE *f;

	box_path(b, "script", path, sizeof(path));
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(script->buf, 1, script->len, f), script->len);
	assert_int_equal(fclose(f), 0);
}

static void child_redirect(const char *dir, const char *name, int fd)
{
	char path[256];
	int file;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (file < 0 || dup2(file, fd) < 0)
		_exit(125);
}

static void child_exec(struct box *b)
{
	child_redirect(b->dir, "stdout", 1);
	child_redirect(b->dir, "stderr", 2);
	(void)setenv("HOME", b->home, 1);
	(void)setenv("SLURMRAY_JOB_ID", b->job_id, 1);
	if (b->restart) { /* only Slurm restarts */
		(void)unsetenv("SLURMRAY_JOB_ID");
		(void)setenv("SLURM_JOB_ID", b->job_id, 1);
		(void)setenv("SLURM_RESTART_COUNT", b->restart, 1);
	}
	if (chdir(b->dir))
		_exit(125);
	if (strcmp(b->shell, "bash --posix") == 0)
		(void)execlp("bash", "bash", "--posix", "script", (char *)NULL);
	else
		(void)execlp(b->shell, b->shell, "script", (char *)NULL);
	_exit(125);
}

void box_restart(struct box *b)
{
	b->pid = fork();
	assert_true(b->pid >= 0);
	if (b->pid == 0)
		child_exec(b);
}

void box_start(struct box *b, const struct job *job)
{
	struct strbuf script = STRBUF_INIT;
	struct err e = ERR_INIT;

	assert_int_equal(launcher_find("bash")->render(job, &ctx, &script, &e), 0);
	write_script(b, &script);
	strbuf_release(&script);
	box_restart(b);
}

int box_wait(struct box *b)
{
	int status;

	for (int i = 0; i < 4000; i++) {
		pid_t p = waitpid(b->pid, &status, WNOHANG);

		assert_true(p >= 0);
		if (p == b->pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
		nap();
	}
	(void)kill(b->pid, SIGKILL);
	(void)waitpid(b->pid, &status, 0);
	fail_msg("the script did not end");
	return -1;
}

int box_run(struct box *b, const struct job *job)
{
	box_start(b, job);
	return box_wait(b);
}

int box_exec(char *const argv[], struct strbuf *out)
{
	int fds[2], status;
	pid_t pid;

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (out && dup2(fds[1], 1) < 0)
			_exit(127);
		(void)execvp(argv[0], argv);
		_exit(127);
	}
	(void)close(fds[1]);
	if (out)
		assert_true(strbuf_read_fd(out, fds[0], 64 * 1024 * 1024) >= 0);
	(void)close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
