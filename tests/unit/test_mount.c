/*
 * What keeper and umount know about places: paths of mount points, mounts, the state directory, and the worker's hidden
 * arguments. Mounts nothing.
 */
#include "fs/mount.h"

#include "backend/base/mem.h"
#include "fs/keeper.h"
#include "fs/statedir.h"
#include "fs/worker_proc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char base[PATH_MAX];

static char *in_base(const char *name)
{
	return xasprintf("%s/%s", base, name);
}

static void resolves(const char *name, const char *want)
{
	cleanup_free char *path = in_base(name), *expected = in_base(want), *got = NULL;
	struct err e = ERR_INIT;

	assert_int_equal(mount_resolve(path, &got, &e), 0);
	assert_string_equal(got, expected);
}

static void test_resolve(void **state)
{
	cleanup_free char *dir = in_base("dir"), *link = in_base("link"), *loop = in_base("loop"),
			  *absolute = in_base("absolute"), *got = NULL;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(symlink("dir", link), 0);
	assert_int_equal(symlink(link, absolute), 0);
	assert_int_equal(symlink("loop", loop), 0);
	resolves("dir", "dir");
	resolves("dir/", "dir");
	resolves("dir//", "dir");
	resolves("./dir/../dir", "dir");
	resolves("dir/.", "dir");
	resolves("link", "dir");
	resolves("absolute", "dir");
	resolves("link/sub", "dir/sub"); /* need not exist */
	assert_int_equal(mount_resolve(loop, &got, &e), -ELOOP);
	assert_int_equal(mount_resolve("dir", &got, &e), -EINVAL);
	assert_int_equal(mount_resolve("/no/such/place", &got, &e), -ENOENT);
	assert_int_equal(mount_resolve("/", &got, &e), 0);
	assert_string_equal(got, "/");
}

static void test_lookup(void **state)
{
	struct mount_entry m;

	(void)state;
	assert_int_equal(mount_lookup("/proc", &m), 1);
	assert_string_equal(m.point, "/proc");
	assert_string_equal(m.type, "proc");
	assert_false(mount_is_ours(&m));
	assert_int_equal(mount_keeper(&m), 0);
	mount_entry_release(&m);
	assert_int_equal(mount_lookup(base, &m), 0);
	assert_int_equal(mount_lookup_source("proc", &m), 0); /* not of our type */
}

static pid_t keeper_in(const char *type, const char *source)
{
	struct mount_entry m = { .type = xstrdup(type), .source = xstrdup(source) };
	pid_t pid = mount_keeper(&m);

	mount_entry_release(&m);
	return pid;
}

static void test_keeper_of(void **state)
{
	(void)state;
	assert_int_equal(keeper_in("fuse.slurmray", "slurmray#123"), 123);
	assert_int_equal(keeper_in("fuse.sshfs", "slurmray#123"), 0);
	assert_int_equal(keeper_in("fuse.slurmray", "slurmray#"), 0);
	assert_int_equal(keeper_in("fuse.slurmray", "slurmray#-1"), 0);
	assert_int_equal(keeper_in("fuse.slurmray", "slurmray# 1"), 0);
	assert_int_equal(keeper_in("fuse.slurmray", "slurmray#12x"), 0);
	assert_int_equal(keeper_in("fuse.slurmray", "slurmray#99999999999999999999"), 0);
}

static void test_state_lock(void **state)
{
	cleanup_free char *dir = in_base("a/b/state"), *mnt = in_base("mnt"), *lock = in_base("a/b/state/lock");
	struct err e = ERR_INIT;
	struct stat st;
	int fd = -1, second = -1;

	(void)state;
	assert_int_equal(statedir_lock(dir, mnt, &fd, &e), 0);
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(stat(lock, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(statedir_lock(dir, mnt, &second, &e), -EBUSY);
	assert_non_null(strstr(e.text, "just starting"));
	statedir_note_keeper(fd, getpid(), "/some where/mnt");
	assert_int_equal(statedir_lock(dir, mnt, &second, &e), -EBUSY);
	assert_non_null(strstr(e.text, "/some where/mnt"));
	/* A keeper that is gone, a worker that is not. */
	statedir_note_keeper(fd, 0x7ffffff, "/mnt");
	statedir_note_worker(dir, getpid());
	assert_int_equal(statedir_lock(dir, mnt, &second, &e), -EBUSY);
	assert_non_null(strstr(e.text, "was killed, its worker"));
	(void)close(fd);
	assert_int_equal(statedir_lock(dir, mnt, &fd, &e), 0);
	(void)close(fd);
}

static void test_state_refused(void **state)
{
	cleanup_free char *dir = in_base("open"), *file = in_base("file"), *inside = in_base("open/state");
	struct err e = ERR_INIT;
	int fd = open(file, O_CREAT | O_WRONLY, 0600);

	(void)state;
	(void)close(fd);
	assert_int_equal(statedir_lock(file, "/mnt", &fd, &e), -ENOTDIR);
	assert_int_equal(mkdir(dir, 0700), 0);
	assert_int_equal(chmod(dir, 0750), 0);
	assert_int_equal(statedir_lock(dir, "/mnt", &fd, &e), -EPERM);
	assert_non_null(strstr(e.text, "chmod 700"));
	assert_int_equal(statedir_lock(inside, dir, &fd, &e), -EINVAL);
	assert_non_null(strstr(e.text, "inside the mount"));
}

static void test_worker_args(void **state)
{
	char prog[] = "p", worker[] = "--worker", fds[64], s[] = "--state", sv[] = "/s", c[] = "--config", cv[] = "/c",
	     o[] = "--allow-other", u[] = "--allow-uid", uv[] = "1,2", v[] = "--verbose", dir[] = "/mnt",
	     bad[] = "0,0,0", odd[] = "--odd";
	char *all[] = { prog, worker, fds, s, sv, c, cv, o, u, uv, v, dir, NULL };
	char *few[] = { prog, worker, fds, dir, NULL };
	char *unknown[] = { prog, worker, fds, odd, dir, NULL };
	char *wrong[] = { prog, worker, bad, s, sv, dir, NULL };
	char *cut[] = { prog, worker, fds, s, dir, NULL };
	int fd[4], i;
	struct mount_conf m;
	struct worker_conf w;

	(void)state;
	for (i = 0; i < 4; i++)
		fd[i] = dup(0);
	(void)snprintf(fds, sizeof(fds), "%d,%d,%d,%d", fd[0], fd[1], fd[2], fd[3]);
	assert_int_equal(worker_args(12, all, &m, &w, NULL), 0);
	assert_true(w.fuse_fd == fd[0] && w.shared_fd == fd[1] && w.ready_fd == fd[2] && w.mount == &m);
	assert_string_equal(m.state_dir, "/s");
	assert_string_equal(m.config_path, "/c");
	assert_string_equal(m.allow_uids, "1,2");
	assert_string_equal(m.dir, "/mnt");
	assert_true(m.allow_other && m.verbose && !m.foreground);
	for (i = 0; i < 4; i++)
		assert_true(fcntl(fd[i], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(worker_args(4, few, &m, &w, NULL), -EINVAL);
	assert_int_equal(worker_args(5, unknown, &m, &w, NULL), -EINVAL);
	assert_int_equal(worker_args(6, wrong, &m, &w, NULL), -EINVAL);
	assert_int_equal(worker_args(5, cut, &m, &w, NULL), -EINVAL);
	assert_int_equal(worker_args(1, few, &m, &w, NULL), -EINVAL);
	for (i = 0; i < 4; i++)
		(void)close(fd[i]);
}

static void test_ready_line(void **state)
{
	struct worker_proc w = { .ready_fd = -1 };
	struct err e = ERR_INIT;
	char text[WORKER_LINE_MAX];
	int p[2];

	(void)state;
	assert_int_equal(worker_proc_line(&w, text, sizeof(text)), 0);
	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	w.ready_fd = p[0];
	assert_int_equal(worker_proc_line(&w, text, sizeof(text)), 0); /* not yet */
	(void)err_set(&e, -EINVAL, "no such cluster");
	worker_ready(p[1], &e);
	assert_int_equal(worker_proc_line(&w, text, sizeof(text)), 1);
	assert_string_equal(text, "error no such cluster");
	assert_int_equal(worker_proc_line(&w, text, sizeof(text)), 0); /* once */
	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	w = (struct worker_proc){ .ready_fd = p[0] };
	worker_ready(p[1], NULL);
	assert_int_equal(worker_proc_line(&w, text, sizeof(text)), 1);
	assert_string_equal(text, "ok");
	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	w = (struct worker_proc){ .ready_fd = p[0] };
	(void)close(p[1]); /* it died without a word */
	assert_int_equal(worker_proc_line(&w, text, sizeof(text)), 0);
	assert_int_equal(w.ready_fd, -1);
	worker_ready(-1, NULL);
}

static int setup(void **state)
{
	char template[] = "/tmp/test_mount.XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(template));
	assert_non_null(realpath(template, base));
	return 0;
}

static int teardown(void **state)
{
	static const char *const files[] = { "link", "loop",           "absolute",
					     "file", "a/b/state/lock", "a/b/state/worker.pid" };
	static const char *const dirs[] = { "dir", "a/b/state", "a/b", "a", "open/state", "open", "" };
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(files); i++) {
		cleanup_free char *path = in_base(files[i]);

		(void)unlink(path);
	}
	for (i = 0; i < ARRAY_SIZE(dirs); i++) {
		cleanup_free char *path = in_base(dirs[i]);

		(void)rmdir(path);
	}
	return 0;
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_resolve),       cmocka_unit_test(test_lookup),
		cmocka_unit_test(test_keeper_of),     cmocka_unit_test(test_state_lock),
		cmocka_unit_test(test_state_refused), cmocka_unit_test(test_worker_args),
		cmocka_unit_test(test_ready_line),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
