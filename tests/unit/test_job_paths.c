/*
 * Paths of a job, looked at when it is written: what is said of each that is not there, and what is left to the start.
 */
#include "backend/job_paths.h"

#include "backend/base/mem.h"
#include "backend/job.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char base[64];

static int setup(void **state)
{
	char path[128];
	int fd;

	(void)state;
	(void)snprintf(base, sizeof(base), "/tmp/slurmray-paths.XXXXXX");
	assert_non_null(mkdtemp(base));
	assert_int_equal(chdir(base), 0);
	assert_int_equal(mkdir("dir", 0755), 0);
	assert_int_equal(mkfifo("fifo", 0600), 0);
	fd = open("file", O_WRONLY | O_CREAT, 0644);
	assert_true(fd >= 0);
	(void)close(fd);
	(void)snprintf(path, sizeof(path), "%s/loop", base);
	assert_int_equal(symlink(path, "loop"), 0);
	(void)setenv("HOME", base, 1);
	return 0;
}

static int teardown(void **state)
{
	static const char *const names[] = { "fifo", "file", "loop", "secret", "dir/secret" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		(void)unlink(names[i]);
	(void)rmdir("dir");
	(void)!chdir("/");
	return rmdir(base);
}

/* Sentences about the job; base is written as @. */
static char *said(const struct job *job, bool this_machine, const char *mount)
{
	const struct job_paths_where where = { this_machine, mount };
	struct strbuf errors = STRBUF_INIT, out = STRBUF_INIT;
	int rc = job_paths_check(job, &where, &errors);

	assert_int_equal(rc, errors.len ? -EINVAL : 0);
	for (const char *p = errors.buf; *p; p++) {
		if (strncmp(p, base, strlen(base)) == 0) {
			strbuf_addch(&out, '@');
			p += strlen(base) - 1;
		} else {
			strbuf_addch(&out, *p);
		}
	}
	strbuf_release(&errors);
	return strbuf_detach(&out, NULL);
}

#define ASSERT_SAID(job, here, mount, want)                                                                            \
	do {                                                                                                           \
		cleanup_free char *is_ = said(&(job), here, mount);                                                    \
		assert_string_equal(is_, want);                                                                        \
	} while (0)

static char *in_base(const char *name)
{
	return xasprintf("%s/%s", base, name);
}

static void files_and_payload(void **state)
{
	char *files[] = { in_base("file"),   in_base("dir"),  in_base("dir/"), in_base("none"),
			  in_base("file/x"), in_base("loop"), in_base("fifo"), NULL };
	struct job job = { .form = JOB_COMMAND, .command = (char *)"x", .files = files };

	(void)state;
	for (int here = 0; here < 2; here++)
		ASSERT_SAID(
			job, here, NULL,
			"files: @/none: No such file or directory\nfiles: @/file/x: Not a directory\n"
			"files: @/loop: Too many levels of symbolic links\nfiles: @/fifo: it is neither a file nor a directory");
	job.files = NULL;
	job.form = JOB_PAYLOAD;
	job.command = files[0];
	ASSERT_SAID(job, false, NULL, "");
	job.command = files[1];
	ASSERT_SAID(job, false, NULL, "payload: @/dir: it is not a regular file");
	job.command = files[3];
	ASSERT_SAID(job, true, NULL, "payload: @/none: No such file or directory");
	for (size_t i = 0; files[i]; i++)
		free(files[i]);
}

static void workdir_and_input(void **state)
{
	char *file = in_base("file"), *dir = in_base("dir"), *none = in_base("none"), after[] = "afterok:1";
	char *runs[] = { after, NULL };
	struct job job = { .form = JOB_COMMAND, .workdir = none, .input = none };

	(void)state;
	ASSERT_SAID(job, false, NULL, ""); /* of another machine */
	ASSERT_SAID(job, true, NULL,
		    "workdir: @/none: No such file or directory\ninput: @/none: No such file or directory");
	job.after = runs; /* they may be made by then */
	ASSERT_SAID(job, true, NULL, "");
	job.after = NULL;
	job.workdir = file;
	job.input = dir;
	ASSERT_SAID(job, true, NULL, "workdir: @/file: Not a directory\ninput: @/dir: Is a directory");
	job.workdir = (char *)"~/dir";
	job.input = (char *)"~/file";
	ASSERT_SAID(job, true, NULL, "");
	job.workdir = (char *)"~/none";
	job.input = (char *)"~/none";
	ASSERT_SAID(job, true, NULL,
		    "workdir: ~/none: No such file or directory\ninput: ~/none: No such file or directory");
	job.workdir = (char *)"~";
	job.input = (char *)"file"; /* from there */
	ASSERT_SAID(job, true, NULL, "");
	job.input = (char *)"none";
	ASSERT_SAID(job, true, NULL, "input: none: No such file or directory");
	job.setup = (char *)"touch none";
	ASSERT_SAID(job, true, NULL, "");
	job.setup = NULL;
	job.workdir = NULL; /* shipped, perhaps */
	ASSERT_SAID(job, true, NULL, "");
	job.input = (char *)"/dev/null";
	ASSERT_SAID(job, true, NULL, "");
	free(file);
	free(dir);
	free(none);
}

static void the_mount_is_left_alone(void **state)
{
	char *in = in_base("fifo/runs/1/results/x"), *mount = in_base("fifo"), *beside = in_base("fifo2");
	char *files[] = { in, NULL };
	struct job job = { .form = JOB_COMMAND, .files = files };

	(void)state;
	ASSERT_SAID(
		job, true, mount,
		"files: @/fifo/runs/1/results/x: it is in the mount that is to ship it: copy it to another place first");
	files[0] = beside;
	ASSERT_SAID(job, true, mount, "files: @/fifo2: No such file or directory");
	files[0] = NULL;
	job.workdir = in;
	ASSERT_SAID(job, true, mount, ""); /* nobody looks */
	job.form = JOB_PAYLOAD;
	job.command = mount;
	ASSERT_SAID(job, false, mount,
		    "payload: @/fifo: it is in the mount that is to ship it: copy it to another place first");
	free(in);
	free(mount);
	free(beside);
}

static void what_may_not_be_read(void **state)
{
	char *secret = in_base("secret"), *dir = in_base("dir"), *inner = in_base("dir/secret");
	char *files[] = { secret, inner, NULL };
	struct job job = { .form = JOB_COMMAND, .files = files, .workdir = dir, .input = secret };
	int fd = open("secret", O_WRONLY | O_CREAT, 0000);

	(void)state;
	assert_true(fd >= 0);
	(void)close(fd);
	fd = open("dir/secret", O_WRONLY | O_CREAT, 0644);
	(void)close(fd);
	assert_int_equal(chmod("dir", 0600), 0);
	assert_int_equal(chmod(base, 0755), 0);
	if (geteuid() == 0)
		assert_int_equal(seteuid(65534), 0); /* root may read all */
	ASSERT_SAID(job, true, NULL,
		    "files: @/secret: Permission denied\nfiles: @/dir/secret: Permission denied\n"
		    "workdir: @/dir: Permission denied\ninput: @/secret: Permission denied");
	if (getuid() == 0)
		assert_int_equal(seteuid(0), 0);
	assert_int_equal(chmod("dir", 0755), 0);
	free(secret);
	free(dir);
	free(inner);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(files_and_payload),
		T(workdir_and_input),
		T(the_mount_is_left_alone),
		T(what_may_not_be_read),
	};

	return cmocka_run_group_tests_name("job_paths", tests, NULL, NULL);
}
