/*
 * The clients of the tree without a mount: what they make of arguments and files, which mount and run they mean, and
 * how they read a run, with a tree of ordinary files and FIFOs in place of the real one.
 */
#include "fs/client.h"
#include "fs/doctor_fuse.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

/* --- a tree of files --- */

static char base[64]; /* of the test */
static int fifo = -1; /* that a thread of the test writes to; clients do not keep it */

static char *at(const char *path)
{
	return xasprintf("%s/%s", base, path);
}

static void put(const char *path, const char *text)
{
	cleanup_free char *full = at(path);
	FILE *f = fopen(full, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void make_dir(const char *path)
{
	cleanup_free char *full = at(path);

	assert_int_equal(mkdir(full, 0700), 0);
}

static void make_fifo(const char *path)
{
	cleanup_free char *full = at(path);

	assert_int_equal(mkfifo(full, 0600), 0);
}

static char *get(const char *path)
{
	cleanup_free char *full = at(path);
	struct strbuf sb = STRBUF_INIT;

	assert_true(strbuf_read_file(&sb, full, 1 << 20) >= 0);
	return strbuf_detach(&sb, NULL);
}

static int setup(void **state)
{
	(void)state;
	(void)snprintf(base, sizeof(base), "/tmp/slurmray-client.XXXXXX");
	assert_non_null(mkdtemp(base));
	make_dir("mnt");
	make_dir("mnt/runs");
	make_dir("mnt/by");
	make_dir("mnt/by/name");
	put("mnt/runs/new", "");
	(void)setenv("HOME", base, 1);
	(void)unsetenv("XDG_STATE_HOME");
	(void)unsetenv("SLURMRAY_MOUNT");
	return 0;
}

static int teardown(void **state)
{
	char *const argv[] = { "rm", "-rf", "--", base, NULL };
	pid_t pid = fork();

	(void)state;
	assert_int_equal(chdir("/"), 0);
	if (pid == 0) {
		(void)execvp(argv[0], argv);
		_exit(127);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	return 0;
}

static void make_run(const char *id, const char *status, const char *wait, const char *why)
{
	cleanup_free char *dir = xasprintf("mnt/runs/%s", id), *s = xasprintf("%s/status", dir),
			  *w = xasprintf("%s/wait", dir);
	cleanup_free char *y = xasprintf("%s/why", dir), *o = xasprintf("%s/stdout.follow", dir);
	cleanup_free char *e = xasprintf("%s/stderr.follow", dir);

	make_dir(dir);
	put(s, status);
	put(w, wait);
	put(y, why);
	put(o, "to stdout\n");
	put(e, "to stderr\n");
}

/* Calls main(argc, argv) of a client with its output in files; the exit status, or 1000 + signal. */
static int client(int (*client_main)(int, char **), const char *input, char *const argv[])
{
	cleanup_free char *out = at("out"), *err = at("err"), *in = at("in");
	int argc = 0, st;
	pid_t pid;

	put("in", input ? input : "");
	while (argv[argc])
		argc++;
	(void)fflush(NULL);
	pid = fork();
	if (pid == 0) {
		(void)alarm(20);
		if (fifo >= 0)
			(void)close(fifo);
		if (!freopen(out, "w", stdout) || !freopen(err, "w", stderr) || !freopen(in, "r", stdin))
			_exit(99);
		(void)setvbuf(stderr, NULL, _IONBF, 0);
		st = client_main(argc, (char **)argv);
		(void)fflush(NULL);
		_exit(st);
	}
	assert_int_equal(waitpid(pid, &st, 0), pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 1000 + WTERMSIG(st);
}

#define CLIENT(fn, input, ...) client(fn, input, (char *const[]){ __VA_ARGS__, NULL })
#define SUBMIT(...) CLIENT(client_submit_main, NULL, "submit", __VA_ARGS__)
#define FOLLOW(...) CLIENT(client_follow_main, NULL, "follow", __VA_ARGS__)

static void assert_file(const char *path, const char *text)
{
	cleanup_free char *is = get(path);

	assert_string_equal(is, text);
}

static void assert_has(const char *path, const char *part)
{
	cleanup_free char *is = get(path);

	if (!strstr(is, part))
		fail_msg("'%s' is not in: %s", part, is);
}

/* --- exit status --- */

static void test_status(void **state)
{
	(void)state;
	assert_int_equal(client_status("succeeded 0\n"), 0);
	assert_int_equal(client_status("failed 3\n"), 3);
	assert_int_equal(client_status("failed 137\n"), 137);
	assert_int_equal(client_status("cancelled -\n"), 1);
	assert_int_equal(client_status("succeeded -\n"), 0);
	assert_int_equal(client_status("timeout 0\n"), 1);
	assert_int_equal(client_status("failed 255"), 255);
	assert_int_equal(client_status("failed 256\n"), -1);
	assert_int_equal(client_status("failed -3\n"), -1);
	assert_int_equal(client_status("failed x\n"), -1);
	assert_int_equal(client_status("failed 3x\n"), -1);
	assert_int_equal(client_status("failed\n"), -1);
	assert_int_equal(client_status(" 3\n"), -1);
	assert_int_equal(client_status(""), -1);
}

/* --- paths --- */

static void assert_path(const char *path, const char *want)
{
	cleanup_free char *is = client_absolute(path), *full = want[0] == '/' ? xstrdup(want) : at(want);

	assert_string_equal(is, full);
}

static void test_absolute(void **state)
{
	(void)state;
	assert_int_equal(chdir(base), 0);
	assert_path("/a/b", "/a/b");
	assert_path("a", "a");
	assert_path("./a", "a");
	assert_path(".//./a", "a");
	assert_path("../a", "../a");
	assert_path("~/x", "x");
	assert_path("~x", "~x"); /* another user's home is a shell's business */
	assert_int_equal(chdir("/"), 0);
	assert_path("a", "/a");
}

static void test_state_path(void **state)
{
	cleanup_free char *plain = NULL, *xdg = NULL, *relative = NULL, *made = NULL, *share = at("share"),
			  *dir = at(".local/state");
	cleanup_free char *want = at(".local/state/slurmray"), *want_xdg = at("share/deep/slurmray");
	cleanup_free char *deep = at("share/deep");
	struct stat st;

	(void)state;
	plain = client_state_path();
	assert_string_equal(plain, want);
	assert_int_equal(stat(dir, &st), -1);
	(void)setenv("XDG_STATE_HOME", "not/absolute", 1);
	relative = client_state_path();
	assert_string_equal(relative, want);
	(void)setenv("XDG_STATE_HOME", deep, 1);
	xdg = client_default_state();
	assert_string_equal(xdg, want_xdg);
	assert_int_equal(stat(share, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(stat(deep, &st), 0);
	assert_int_equal(stat(want_xdg, &st), -1); /* the last one is made by whoever locks it */
	(void)unsetenv("XDG_STATE_HOME");
	made = client_default_state();
	assert_string_equal(made, want);
	assert_int_equal(stat(dir, &st), 0);
}

static void test_check_config(void **state)
{
	cleanup_free char *good = at("good"), *bad = at("bad"), *none = at("none");
	struct err e = ERR_INIT;

	(void)state;
	put("good", "[defaults]\ntime = 10\n");
	put("bad", "[defaults]\ntime = soon\n");
	(void)unsetenv("XDG_CONFIG_HOME");
	assert_int_equal(client_check_config(good, &e), 0);
	assert_int_equal(client_check_config(NULL, &e), 0);
	assert_int_equal(client_check_config(none, &e), -ENOENT);
	assert_int_equal(client_check_config(bad, &e), -EINVAL);
	assert_non_null(strstr(e.text, "bad:2: "));
}

/* --- mounts and runs --- */

static void count_mount(void *arg, const char *dir)
{
	strbuf_addf(arg, "<%s>", dir);
}

static void test_each_mount(void **state)
{
	cleanup_free char *table = at("mounts"), *none = at("none");
	cleanup_free char *text = xasprintf("proc /proc proc rw 0 0\n"
					    "slurmray#1 /m\\040x fuse.slurmray rw,user_id=%u,group_id=0 0 0\n"
					    "slurmray#2 /other fuse.slurmray rw,user_id=%u1,group_id=0 0 0\n"
					    "slurmray#3 /plain fuse.slurmray rw 0 0\n"
					    "sshfs /far fuse.sshfs rw,user_id=%u 0 0\n"
					    "slurmray#4 /m\\040x fuse.slurmray rw,user_id=%u 0 0\n"
					    "slurmray#5 /last fuse.slurmray rw,group_id=0,user_id=%u 0 0\n",
					    geteuid(), geteuid() + 1, geteuid(), geteuid(), geteuid());
	cleanup_strbuf struct strbuf seen = STRBUF_INIT;

	(void)state;
	put("mounts", text);
	assert_int_equal(client_each_mount(table, count_mount, &seen), 0);
	assert_string_equal(seen.buf, "</m x></last>");
	assert_int_equal(client_each_mount(none, count_mount, &seen), -ENOENT);
}

static void test_find_mount(void **state)
{
	cleanup_free char *by_option = NULL, *by_env = NULL;
	struct err e = ERR_INIT;

	(void)state;
	(void)setenv("SLURMRAY_MOUNT", "/from/env", 1);
	by_option = client_find_mount("/from/option", &e);
	assert_string_equal(by_option, "/from/option");
	by_env = client_find_mount(NULL, &e);
	assert_string_equal(by_env, "/from/env");
}

static void assert_run(const char *mount, const char *run, const char *want)
{
	struct err e = ERR_INIT;
	cleanup_free char *dir = client_run_dir(mount, run, &e), *full = want ? at(want) : NULL;

	if (want)
		assert_string_equal(dir, full);
	else
		assert_null(dir);
	assert_int_equal(e.code == 0, want != NULL);
	assert_int_equal(*e.text == '\0', want != NULL);
}

static void test_run_dir(void **state)
{
	cleanup_free char *mount = at("mnt"), *last = at("mnt/last"), *path = at("mnt/runs/7/"),
			  *link = at("mnt/by/name/one/7");
	cleanup_free char *one = at("mnt/by/name/one"), *out_of = at("mnt/by"), *none = at("none");

	(void)state;
	make_run("7", "running\n", "", "");
	make_run("mine", "running\n", "", "");
	make_dir("mnt/by/name/one");
	make_dir("mnt/by/name/two");
	make_dir("mnt/by/name/two/7");
	make_dir("mnt/by/name/two/mine");
	assert_int_equal(symlink("../../../runs/7", link), 0);
	assert_run(mount, "7", "mnt/runs/7");
	assert_run(mount, "mine", "mnt/runs/mine");
	assert_run(mount, "one", "mnt/runs/7");
	assert_run(mount, "two", NULL);
	assert_run(mount, "new", NULL);
	assert_run(mount, "", NULL);
	assert_run(mount, "..", NULL);
	assert_run(mount, "last", NULL);
	assert_int_equal(symlink("runs/mine", last), 0);
	assert_run(mount, "last", "mnt/runs/mine");
	assert_run(NULL, path, "mnt/runs/7");
	assert_run(NULL, link, "mnt/runs/7"); /* a path needs no mount to be found */
	assert_run(NULL, out_of, NULL);
	assert_run(NULL, one, NULL);
	assert_run(none, "7", NULL);
	assert_int_equal(chdir(mount), 0);
	assert_run(NULL, "runs/7", "mnt/runs/7");
}

/* --- documents --- */

static char *pairs(const char *const *words, int *rc, struct strbuf *errors)
{
	json_t *spec = json_object();
	char *dump;

	*rc = 0;
	for (; *words; words++)
		if (client_pair(spec, *words, errors) < 0)
			*rc = -EINVAL;
	dump = json_dumps(spec, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(spec);
	return dump;
}

static void test_pairs(void **state)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	const char *good[] = { "nodes=2", "cpus-per-task=3", "env.A=b=c", "env.EMPTY=", "hold=true", "tags=x,y", NULL };
	const char *bad[] = { "nodes=two", "colour=red", "time=1", NULL };
	const char *local[] = { "files=a, /b,~/c", "payload=./run.sh", NULL };
	cleanup_free char *a = NULL, *b = NULL, *c = NULL, *want = NULL;
	int rc;

	(void)state;
	assert_int_equal(chdir(base), 0);
	a = pairs(good, &rc, &errors);
	assert_int_equal(rc, 0);
	assert_string_equal(a,
			    "{\"cpus_per_task\":3,\"env\":{\"A\":\"b=c\",\"EMPTY\":\"\"},\"hold\":true,\"nodes\":\"2\","
			    "\"tags\":[\"x\",\"y\"]}");
	b = pairs(bad, &rc, &errors);
	assert_int_equal(rc, -EINVAL);
	assert_string_equal(b, "{\"time\":\"1\"}");
	assert_non_null(strstr(errors.buf, "'nodes'"));
	assert_non_null(strstr(errors.buf, "\nunknown key 'colour'"));
	c = pairs(local, &rc, &errors);
	assert_int_equal(rc, 0);
	want = xasprintf("{\"files\":[\"%s/a\",\"/b\",\"%s/c\"],\"payload\":\"%s/run.sh\"}", base, base, base);
	assert_string_equal(c, want);
}

/* A whole and a member of it meet, in any order; nothing is dropped in silence. */
static void test_pairs_meet(void **state)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	const char *words[][3] = { { "environment.options=--nv", "environment=container:/i.sif", NULL },
				   { "environment=container:/i.sif", "environment.options=--nv", NULL } };
	const char *twice[] = { "nodes=1", "nodes=2", NULL };
	int rc;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		cleanup_free char *a = pairs(words[i], &rc, &errors);

		assert_int_equal(rc, 0);
		assert_string_equal(a, "{\"environment\":{\"container\":\"/i.sif\",\"options\":[\"--nv\"]}}");
	}
	free(pairs(twice, &rc, &errors));
	assert_int_equal(rc, -EINVAL);
	assert_string_equal(errors.buf, "'nodes' is given twice with different values");
}

static void test_is_pair(void **state)
{
	(void)state;
	assert_true(client_is_pair("a=b"));
	assert_true(client_is_pair("cpus-per-task=1"));
	assert_true(client_is_pair("env.A_1="));
	assert_false(client_is_pair("a"));
	assert_false(client_is_pair("=a"));
	assert_false(client_is_pair("./a=b"));
	assert_false(client_is_pair("/a=b"));
	assert_false(client_is_pair("1=2"));
	assert_false(client_is_pair("a b=c"));
	assert_false(client_is_pair(""));
}

/* Documents of `text`, each ended by '|'; or the errors. */
static char *docs_of(const char *text, size_t len, const char *pair)
{
	struct strbuf out = STRBUF_INIT, errors = STRBUF_INIT;
	json_t *extra = json_object();
	struct client_doc *docs = NULL;
	int n;

	if (pair)
		assert_int_equal(client_pair(extra, pair, &errors), 0);
	n = client_documents("FILE", text, len, extra, &docs, &errors);
	for (int i = 0; i < n; i++) {
		strbuf_add(&out, docs[i].text, docs[i].len);
		strbuf_addch(&out, '|');
		free(docs[i].text);
	}
	free(docs);
	if (n < 0) {
		assert_true(errors.len > 0);
		strbuf_addbuf(&out, &errors);
	} else {
		assert_int_equal(errors.len, 0);
	}
	strbuf_release(&errors);
	json_decref(extra);
	return strbuf_detach(&out, NULL);
}

static void assert_docs(const char *text, const char *pair, const char *want)
{
	cleanup_free char *is = docs_of(text, strlen(text), pair);

	assert_string_equal(is, want);
}

static void assert_no_docs(const char *text, const char *pair, const char *part)
{
	cleanup_free char *is = docs_of(text, strlen(text), pair);

	assert_int_equal(strncmp(is, "FILE: ", 6), 0);
	if (!strstr(is, part))
		fail_msg("'%s' is not in: %s", part, is);
}

static void test_json_documents(void **state)
{
	cleanup_free char *want = NULL;

	(void)state;
	assert_int_equal(chdir(base), 0);
	/* what needs no change is sent as it was written */
	assert_docs("\n {\"command\": \"x\",  \"env\": {\"V\": 1.10}}\n\n", NULL,
		    "{\"command\": \"x\",  \"env\": {\"V\": 1.10}}|");
	assert_docs("{\"command\":\"a\"} {\"command\":\"b\"}", NULL, "{\"command\":\"a\"}|{\"command\":\"b\"}|");
	assert_docs("{\"payload\":\"/p\",\"files\":[\"/a\"]}", NULL, "{\"payload\":\"/p\",\"files\":[\"/a\"]}|");
	want = xasprintf("{\"files\":[\"%s/a\",\"/b\",3],\"payload\":\"%s/p\",\"x\":1.1}|", base, base);
	assert_docs("{\"files\":[\"a\",\"/b\",3], \"payload\":\"./p\",\"x\":1.1}", NULL, want);
	assert_docs("{\"env\":{\"A\":\"1\",\"B\":\"2\"},\"nodes\":1}", "env.A=3",
		    "{\"env\":{\"A\":\"3\",\"B\":\"2\"},\"nodes\":1}|");
	assert_docs("{\"nodes\":1}", "nodes=2", "{\"nodes\":\"2\"}|");
	assert_no_docs("{\"a\":", NULL, "not complete");
	assert_no_docs("{\"a\" 1}", NULL, "line 1, column");
	assert_no_docs("{\"a\":1,\"a\":2}", NULL, "duplicate");
	assert_no_docs("{\"command\":\"a\"} {\"b", NULL, "not complete");
	assert_no_docs(" \n\t", NULL, "no spec");
	assert_no_docs("", NULL, "no spec");
}

static void test_other_documents(void **state)
{
	cleanup_free char *deep = xmalloc(400), *latin = NULL;
	static const char script[] = "#!/bin/sh\necho \xe4\n";

	(void)state;
	assert_docs("nodes=2 -- echo\n", NULL, "nodes=2 -- echo\n|");
	assert_docs("a\n \n", NULL, "a\n \n|");
	assert_no_docs("a\nb\n", NULL, "such as #!/bin/bash");
	assert_no_docs("#SBATCH -N 2\nsrun x\n", NULL, "does not look like a batch script");
	assert_no_docs("\177ELF\2\1\1\n", NULL, "write -- FILE, or payload=FILE");
	latin = docs_of("a\0b\n", 4, NULL);
	assert_non_null(strstr(latin, "payload=FILE"));
	free(latin);
	assert_no_docs("nodes=2 -- echo", NULL, "newline");
	assert_no_docs("echo\n", "nodes=2", "into the line");
	assert_no_docs("echo\n", "args=x", "arguments");
	assert_docs("#!/bin/sh\necho \"a\"\n", NULL, "{\"script\":\"#!/bin/sh\\necho \\\"a\\\"\\n\"}|");
	assert_docs("#!/bin/sh\n#SBATCH -D .\n", NULL,
		    "{\"workdir\":\".\",\"script\":\"#!/bin/sh\\n#SBATCH -D .\\n\"}|");
	assert_docs("#!/bin/sh\n#SBATCH -D /x\n", NULL, "{\"script\":\"#!/bin/sh\\n#SBATCH -D /x\\n\"}|");
	assert_docs("#!/bin/sh\n#SBATCH -D .\n", "workdir=/y",
		    "{\"workdir\":\"/y\",\"script\":\"#!/bin/sh\\n#SBATCH -D .\\n\"}|");
	assert_docs("#!/bin/sh\n", "nodes=2", "{\"nodes\":\"2\",\"script\":\"#!/bin/sh\\n\"}|");
	assert_no_docs("#!/bin/sh\nrm -rf /tmp/x", NULL, "cut off");
	latin = docs_of(script, sizeof(script) - 1, NULL);
	assert_non_null(strstr(latin, "not UTF-8"));
	memset(deep, '{', 399);
	deep[399] = '\0';
	assert_no_docs(deep, NULL, "deeper");
}

/* --- submit, without a daemon: a file takes what is written and is read from where the writer stopped --- */

/* Serves runs/new as a FIFO would not: the answer is put behind what will be written. */
static void answer_with(size_t at_byte, const char *answer)
{
	cleanup_free char *path = at("mnt/runs/new");
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, answer, strlen(answer), (off_t)at_byte), strlen(answer));
	(void)close(fd);
}

static void test_submit(void **state)
{
	static const char one[] = "{\"command\":\"echo hi\"}", list[] = "{\"nodes\":\"2\",\"command\":[\"a\",\"b c\"]}";
	cleanup_free char *mount = at("mnt");

	(void)state;
	(void)setenv("SLURMRAY_MOUNT", mount, 1);
	answer_with(strlen(one), "42\n");
	assert_int_equal(SUBMIT("--", "echo hi"), 0);
	assert_file("out", "42\n");
	assert_file("err", "");
	answer_with(strlen(list), "run-1\nmore that is not asked for\n");
	assert_int_equal(SUBMIT("nodes=2", "--", "a", "b c"), 1); /* not ids alone */
	answer_with(strlen(list), "run-1\n");
	assert_int_equal(SUBMIT("nodes=2", "--", "a", "b c"), 0);
	assert_file("out", "run-1\n");
	answer_with(strlen(one), "the command is not wanted here\nnor is this\n");
	assert_int_equal(SUBMIT("--", "echo hi"), 1);
	assert_file("out", "");
	assert_file("err", "slurmray: the command is not wanted here\nslurmray: nor is this\n");
	answer_with(strlen(one), "");
	assert_int_equal(SUBMIT("--", "echo hi"), 1); /* no answer at all */
	assert_file("out", "");
}

static void test_submit_usage(void **state)
{
	cleanup_free char *mount = at("mnt"), *file = at("file");

	(void)state;
	(void)setenv("SLURMRAY_MOUNT", mount, 1);
	put("file", "{\"command\":\"a\"}{\"command\":\"b\"}");
	assert_int_equal(CLIENT(client_submit_main, NULL, "submit"), 2);
	assert_int_equal(SUBMIT("--"), 2);
	assert_int_equal(SUBMIT("nodes=1"), 1); /* what to run is the daemon's question; here nobody answers */
	assert_int_equal(SUBMIT("--frobnicate", "--", "x"), 2);
	assert_int_equal(SUBMIT("--mount"), 2);
	assert_int_equal(SUBMIT("word", "--", "x"), 2);
	assert_int_equal(SUBMIT("nodes=1", "true", "a b"), 2);
	assert_has("err",
		   "there is no file 'true'; a command is written behind --: slurmray submit nodes=1 -- true 'a b'\n");
	assert_int_equal(SUBMIT("nodes=1", "/bin/true-not-there"), 1);
	assert_has("err", "slurmray: a command is written behind --: slurmray submit nodes=1 -- /bin/true-not-there\n");
	assert_int_equal(SUBMIT("--wait", "--follow", "--", "x"), 2);
	assert_int_equal(SUBMIT("--wait", file), 2);
	assert_int_equal(SUBMIT("nodes=x", "--", "x"), 1);
	assert_has("err", "slurmray: 'nodes'");
	assert_int_equal(SUBMIT("--", "\xff"), 1);
	assert_has("err", "UTF-8");
	assert_file("mnt/runs/new", "{\"nodes\":\"1\"}");
	(void)setenv("SLURMRAY_MOUNT", base, 1);
	assert_int_equal(SUBMIT("--", "x"), 1);
	assert_has("err", "slurmray mount");
	assert_int_equal(SUBMIT("--mount=/nonexistent", "--", "x"), 1);
}

static void test_submit_file(void **state)
{
	static const char want[] = "{\"script\":\"#!/bin/sh\\nhostname\\n\"}";
	static const char args[] = "{\"nodes\":\"2\",\"args\":[\"--lr\",\"0.1\",\"a b\",\"--wait\",\"x=y\",\"\"],"
				   "\"script\":\"#!/bin/sh\\nhostname\\n\"}";
	cleanup_free char *mount = at("mnt"), *file = at("job.sh"), *none = at("none");

	(void)state;
	put("job.sh", "#!/bin/sh\nhostname\n");
	answer_with(strlen(want), "7\n");
	assert_int_equal(SUBMIT("--mount", mount, file), 0);
	assert_file("out", "7\n");
	answer_with(strlen(args), "9\n");
	assert_int_equal(SUBMIT("--mount", mount, "nodes=2", file, "--lr", "0.1", "a b", "--wait", "x=y", ""), 0);
	assert_file("out", "9\n");
	assert_int_equal(SUBMIT("--mount", mount, file, "\xff"), 1);
	assert_has("err", "argument 1 of");
	answer_with(strlen(want), "8\n");
	assert_int_equal(CLIENT(client_submit_main, "#!/bin/sh\nhostname\n", "submit", "--mount", mount, "-"), 0);
	assert_file("out", "8\n");
	assert_int_equal(SUBMIT("--mount", mount, none), 1);
	assert_has("err", "No such file");
	assert_int_equal(CLIENT(client_submit_main, "", "submit", "--mount", mount, "-"), 1);
	assert_has("err", "standard input: there is no spec");
}

/* What runs/check says when it is asked this. */
static void checked_with(const char *question, const char *cluster)
{
	cleanup_free char *path = at("mnt/runs/check"), *text = NULL;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	text = xasprintf("{\n\"cluster\": {\"value\": \"%s\", \"source\": \"spec\"}\n}\n\n#!/bin/sh\n", cluster);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, text, strlen(text), (off_t)strlen(question)), strlen(text));
	(void)close(fd);
}

static void test_submit_workdir(void **state)
{
	static const char any[] = "{\"command\":\"true\"}", far[] = "{\"command\":\"true\",\"cluster\":\"far\"}";
	cleanup_free char *mount = at("mnt"), *sub = at("sub"), *here = NULL, *below = NULL, *file = at("job.json");

	(void)state;
	make_dir("sub");
	make_dir("mnt/clusters");
	make_dir("mnt/clusters/local");
	make_dir("mnt/clusters/far");
	put("mnt/clusters/local/status", "type local\nlink up\n");
	put("mnt/clusters/far/status", "type slurm\nhost localhost\n");
	assert_int_equal(chdir(sub), 0);
	(void)setenv("SLURMRAY_MOUNT", mount, 1);
	here = xasprintf("{\"workdir\":\"%s\",\"command\":\"x\"}", sub);
	below = xasprintf("{\"command\":\"x\",\"chdir\":\"%s/not/there\"}", sub);

	checked_with(any, "local");
	answer_with(strlen(here), "1\n");
	assert_int_equal(SUBMIT("workdir=.", "--", "x"), 0);
	assert_file("err", "");
	checked_with(any, "local");
	answer_with(strlen(here), "1\n");
	assert_int_equal(SUBMIT("chdir=../sub", "--", "x"), 0);
	put("job.json", "{\"command\":\"x\",\"chdir\":\"not/there\"}");
	checked_with(any, "local");
	answer_with(strlen(below), "2\n");
	assert_int_equal(SUBMIT(file), 0);

	checked_with(far, "far");
	put("mnt/runs/new", "");
	assert_int_equal(SUBMIT("cluster=far", "workdir=.", "--", "x"), 1);
	assert_has("err", "slurmray: workdir=.: cluster far is another machine");
	assert_file("mnt/runs/new", "");
	/* one that is absolute asks nobody */
	put("mnt/runs/check", "");
	answer_with(strlen("{\"cluster\":\"far\",\"workdir\":\"~/x\",\"command\":\"x\"}"), "3\n");
	assert_int_equal(SUBMIT("cluster=far", "workdir=~/x", "--", "x"), 0);
	assert_file("mnt/runs/check", "");
	/* nobody can say */
	put("mnt/runs/check", "");
	put("mnt/runs/new", "");
	assert_int_equal(SUBMIT("workdir=.", "--", "x"), 1);
	assert_has("err", "mnt/runs/check: it does not say");
	assert_file("mnt/runs/new", "");
}

static void test_submit_wait(void **state)
{
	static const char one[] = "{\"command\":\"x\"}";
	cleanup_free char *mount = at("mnt");

	(void)state;
	make_run("5", "failed\n", "failed 3\n", "exited with code 3\nlast lines of stderr:\nboom\n");
	answer_with(strlen(one), "5\n");
	assert_int_equal(SUBMIT("--mount", mount, "--wait", "--", "x"), 3);
	assert_file("out", "5\n");
	assert_file("err", "slurmray: run 5: failed 3\nslurmray: exited with code 3\nslurmray: last lines of stderr:\n"
			   "slurmray: boom\n");
	answer_with(strlen(one), "5\n");
	assert_int_equal(SUBMIT("--mount", mount, "--follow", "--", "x"), 3);
	assert_file("out", "to stdout\n"); /* the job's alone */
	assert_has("err", "slurmray: run 5\n");
}

/* --- follow --- */

static void test_follow(void **state)
{
	cleanup_free char *mount = at("mnt"), *dir = at("mnt/runs/5"), *none = at("none");

	(void)state;
	make_run("5", "failed\n", "failed 3\n", "exited with code 3\nlast lines of stderr:\nto stderr\n");
	make_run("6", "succeeded\n", "succeeded 0\n", "");
	make_run("7", "cancelled\n", "cancelled -\n", "cancelled by the user\n");
	make_run("d", "draft\n", "", "");
	assert_int_equal(FOLLOW("--mount", mount, "6"), 0);
	assert_file("out", "to stdout\n");
	assert_file("err", "to stderr\n");
	assert_int_equal(FOLLOW(dir), 3);
	/* the end of stderr was shown already */
	assert_file("err", "to stderr\nslurmray: run 5: failed 3\nslurmray: exited with code 3\n");
	assert_int_equal(FOLLOW("--mount", mount, "7"), 1);
	assert_has("err", "cancelled by the user");
	assert_int_equal(FOLLOW("--mount", mount, "d"), 1);
	assert_has("err", "mnt/runs/d/spec");
	assert_int_equal(FOLLOW("--mount", mount, "9"), 1);
	assert_int_equal(FOLLOW("--mount", none, "6"), 1);
	assert_int_equal(FOLLOW("--mount", mount), 2);
	assert_int_equal(FOLLOW("5", "6"), 2);
}

/*
 * Runs whose stdout is a FIFO that a thread writes to. The descriptor is open for reading and writing, so that nothing
 * depends on who comes first; a client closes its copy, and sees the end when the thread closes the other.
 */
static void fifo_open(const char *path)
{
	cleanup_free char *full = at(path);

	assert_int_equal(unlink(full), 0);
	make_fifo(path);
	fifo = open(full, O_RDWR);
	assert_true(fifo >= 0);
}

/* Somebody read what was written. */
static void fifo_drained(int fd)
{
	int n = 1;

	for (int i = 0; i < 20000 && ioctl(fd, FIONREAD, &n) == 0 && n > 0; i++)
		(void)usleep(1000);
}

#define LINES 500

static void *feed(void *arg)
{
	int wait = *(const int *)arg;

	for (int i = 0; i < LINES; i++) {
		char line[32];
		int n = snprintf(line, sizeof(line), "line %d\n", i);

		if (write(fifo, line, (size_t)n) != n)
			break;
		if (i % 100 == 0)
			fifo_drained(fifo);
	}
	fifo_drained(fifo);
	(void)close(fifo);
	(void)!write(wait, "succeeded 0\n", 12);
	fifo_drained(wait);
	return NULL;
}

static void test_follow_live(void **state)
{
	cleanup_free char *mount = at("mnt"), *wait = at("mnt/runs/5/wait");
	cleanup_strbuf struct strbuf want = STRBUF_INIT;
	pthread_t thread;
	int wait_fd;

	(void)state;
	make_run("5", "running\n", "", "");
	assert_int_equal(unlink(wait), 0);
	make_fifo("mnt/runs/5/wait");
	wait_fd = open(wait, O_RDWR);
	fifo_open("mnt/runs/5/stdout.follow");
	assert_int_equal(pthread_create(&thread, NULL, feed, &wait_fd), 0);
	assert_int_equal(FOLLOW("--mount", mount, "5"), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	fifo = -1;
	(void)close(wait_fd);
	for (int i = 0; i < LINES; i++)
		strbuf_addf(&want, "line %d\n", i);
	assert_file("out", want.buf);
}

/* Replaces a file as a whole. */
static void swap(const char *path, const char *text)
{
	cleanup_free char *new = xasprintf("%s.new", path), *from = at(new), *to = at(path);

	put(new, text);
	assert_int_equal(rename(from, to), 0);
}

/* The client said this on standard error. */
static bool was_said(const char *part)
{
	for (int i = 0; i < 3000; i++) {
		cleanup_free char *is = get("err");

		if (strstr(is, part))
			return true;
		(void)usleep(10000);
	}
	return false;
}

static void *be_pending(void *arg)
{
	bool *ok = arg;

	ok[0] = was_said("slurmray: run 5 is pending: Priority\nslurmray: estimated start: 1\n");
	swap("mnt/runs/5/why", "pending: Priority\nestimated start: 2\n"); /* that alone is no news */
	(void)usleep(1500000);
	swap("mnt/runs/5/why", "pending: \n");
	ok[3] = was_said("slurmray: run 5 is pending\n");
	swap("mnt/runs/5/why", "pending: Resources\nheld: by nobody\n");
	ok[1] = was_said("slurmray: run 5 is pending: Resources\nslurmray: held: by nobody\n");
	swap("mnt/runs/5/status", "running\n");
	ok[2] = was_said("slurmray: run 5 is running\n");
	(void)!write(fifo, "first\n", 6);
	fifo_drained(fifo);
	swap("mnt/runs/5/status", "completing\n");
	(void)close(fifo);
	return NULL;
}

/* Nothing comes: it is said why. */
static void test_follow_pending(void **state)
{
	cleanup_free char *mount = at("mnt");
	bool ok[4] = { false };
	pthread_t thread;

	(void)state;
	make_run("5", "pending\n", "succeeded 0\n", "pending: Priority\nestimated start: 1\n");
	put("mnt/runs/5/stderr.follow", "");
	fifo_open("mnt/runs/5/stdout.follow");
	put("err", "");
	assert_int_equal(pthread_create(&thread, NULL, be_pending, ok), 0);
	assert_int_equal(FOLLOW("--mount", mount, "5"), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	fifo = -1;
	for (size_t i = 0; i < ARRAY_SIZE(ok); i++)
		assert_true(ok[i]);
	assert_file("out", "first\n");
	assert_file("err",
		    "slurmray: run 5 is pending: Priority\nslurmray: estimated start: 1\n"
		    "slurmray: run 5 is pending\n"
		    "slurmray: run 5 is pending: Resources\nslurmray: held: by nobody\nslurmray: run 5 is running\n");
}

/* The mount goes away at the end of the output and comes back when the run has ended. */
static void *go_away(void *arg)
{
	cleanup_free char *runs = at("mnt/runs"), *aside = at("aside");

	(void)arg;
	(void)!write(fifo, "first\n", 6);
	fifo_drained(fifo);
	(void)rename(runs, aside);
	(void)close(fifo);
	(void)usleep(500000);
	put("aside/5/wait", "succeeded 0\n");
	(void)rename(aside, runs);
	return NULL;
}

static void test_wait_outage(void **state)
{
	cleanup_free char *mount = at("mnt");
	pthread_t thread;

	(void)state;
	make_run("5", "running\n", "", "");
	fifo_open("mnt/runs/5/stdout.follow");
	assert_int_equal(pthread_create(&thread, NULL, go_away, NULL), 0);
	assert_int_equal(FOLLOW("--mount", mount, "5"), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	fifo = -1;
	assert_file("out", "first\n");
	assert_has("err", "waiting for it to come back");
	assert_has("err", "is back");
}

static void test_purged(void **state)
{
	cleanup_free char *mount = at("mnt"), *wait = at("mnt/runs/5/wait");

	(void)state;
	make_run("5", "running\n", "", "");
	assert_int_equal(unlink(wait), 0);
	assert_int_equal(FOLLOW("--mount", mount, "5"), 1);
	assert_has("err", "run 5 is not in ");
}

static void test_recover(void **state)
{
	cleanup_free char *dir = at("mnt/runs/5"), *gone = at("nomount/runs/5");
	struct client_outage o = { .dir = dir }, away = { .dir = gone, .away = true };
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(client_recover(&o, -EBUSY, &e), -EBUSY);
	assert_non_null(strstr(e.text, "draft"));
	assert_int_equal(client_recover(&o, -ENOENT, &e), -ENOENT);
	assert_int_equal(client_recover(&o, -EACCES, &e), -EACCES);
	assert_false(o.away);
	assert_int_equal(client_recover(&away, -ENOENT, &e), 0);
	assert_int_equal(client_recover(&away, -ENOTCONN, &e), 0);
	client_recovered(&away);
	assert_false(away.away);
}

/* --- doctor --- */

static char *findings(void (*check)(struct doctor *d, const char *arg), const char *arg, unsigned *bad)
{
	char *text = NULL;
	size_t len;
	struct doctor d = { open_memstream(&text, &len), 0 };

	check(&d, arg);
	(void)fclose(d.out);
	*bad = d.bad;
	return text;
}

static void assert_findings(void (*check)(struct doctor *d, const char *arg), const char *arg, unsigned bad,
			    const char *part)
{
	unsigned n;
	cleanup_free char *text = findings(check, arg, &n);

	if (n != bad || !strstr(text, part))
		fail_msg("wanted %u bad and '%s', got %u: %s", bad, part, n, text);
}

static void test_doctor_limits(void **state)
{
	(void)state;
	make_dir("sys");
	assert_findings(doctor_fuse_limits, base, 0, "ok   ");
	put("default_request_timeout", "0\n");
	assert_findings(doctor_fuse_limits, base, 0, "ok   ");
	put("max_request_timeout", "120\n");
	assert_findings(doctor_fuse_limits, base, 1, "fs.fuse.max_request_timeout=0");
	put("default_request_timeout", "60\n");
	assert_findings(doctor_fuse_limits, base, 2, "for 60 s");
}

static void test_doctor_state(void **state)
{
	cleanup_free char *none = at("not/there/yet"), *dir = at("state"), *file = at("file"), *lock = at("state/lock");

	(void)state;
	put("file", "");
	make_dir("state");
	assert_findings(doctor_state, none, 0, "is made at the first mount");
	assert_findings(doctor_state, dir, 0, "no journal yet");
	assert_findings(doctor_state, file, 1, "not a directory");
	put("state/lock", "123 /some/where\n");
	assert_findings(doctor_state, dir, 0, "no journal yet");
	put("state/journal.db",
	    "this is no database, and long enough to be seen as one by whoever reads its first bytes, which are "
	    "a hundred; so here are some more of them, and more\n");
	assert_findings(doctor_state, dir, 1, "journal: ");
	assert_int_equal(chmod(dir, 0755), 0);
	assert_findings(doctor_state, dir, 1, "chmod 700");
	assert_int_equal(access(lock, F_OK), 0);
}

static void test_doctor_mounts(void **state)
{
	cleanup_free char *mount = at("mnt"), *table = at("mounts");
	cleanup_free char *text = xasprintf("slurmray#1 %s fuse.slurmray rw,user_id=%u 0 0\n", mount, geteuid());

	(void)state;
	put("mounts", "");
	assert_findings(doctor_mounts, table, 0, "note nothing is mounted");
	put("mounts", text);
	assert_findings(doctor_mounts, table, 1, "does not answer: No such file");
	put("mnt/README", "help\n");
	assert_findings(doctor_mounts, table, 0, "and it answers");
}

static void test_doctor_text(void **state)
{
	char *text = NULL;
	size_t len;
	struct doctor d = { open_memstream(&text, &len), 0 };

	(void)state;
	doctor_ok(&d, "fine");
	doctor_note(&d, "%s", "two\nlines\n");
	doctor_bad(&d, "escape %s", "\033[31mred\x7f");
	(void)fclose(d.out);
	assert_string_equal(text, "ok   fine\nnote two\n     lines\nbad  escape ?[31mred?\n");
	assert_int_equal(d.bad, 1);
	free(text);
}

static const struct cluster_conf far = { .name = "far", .directory = "~/.slurmray" };

static void answers(struct doctor *d, const char *text)
{
	doctor_remote_answers(d, &far, "node1", text);
}

static void hello(struct doctor *d, const char *text)
{
	doctor_remote_hello(d, "node1", text, 1000000);
}

#define ALL_PROGRAMS "have sbatch /usr/bin/sbatch\nhave squeue /x\nhave scancel /x\nhave scontrol /x\nhave sinfo /x\n"

static void test_doctor_remote(void **state)
{
	(void)state;
	assert_findings(answers,
			ALL_PROGRAMS "have sacct /x\nversion slurm-wlm 22.05.8\nping Slurmctld(primary) at ctl is UP\n"
				     "directory /home/u/.slurmray\nfree 99999999\n",
			0, "ok   node1: slurm-wlm 22.05.8; Slurmctld(primary) at ctl is UP");
	assert_findings(answers, ALL_PROGRAMS "ping Slurmctld(primary) at ctl is DOWN\ndirectory /d\n", 1,
			"does not answer");
	assert_findings(answers, ALL_PROGRAMS "directory /d\n", 0, "note node1: there is no sacct");
	assert_findings(answers, "have sacct /x\nhave sbatch /x\ndirectory /d\n", 1,
			"squeue, scancel, scontrol, sinfo");
	assert_findings(answers, ALL_PROGRAMS "nodirectory mkdir: no room\n", 1, "mkdir: no room");
	assert_findings(answers, ALL_PROGRAMS "directory /d\nfree 2048\n", 1, "only 2 MiB are free");
	assert_findings(answers, "", 2, "not in the PATH");
	assert_findings(hello, "shell bash\nversion 5.2\nuser u\nhome /h\nhost n\nepoch 1000005\n", 0,
			"user u on n, home /h, bash 5.2");
	assert_findings(hello, "shell sh\nversion -\nuser u\nhome /h\nhost n\nepoch 1000000\n", 0, "no bash");
	assert_findings(hello, "shell bash\nepoch 1000100\n", 0, "100 s ahead of ours");
	assert_findings(hello, "shell bash\nepoch 999900\n", 0, "100 s behind ours");
}

static void ray_says(struct doctor *d, const char *text)
{
	doctor_ray_version(d, "cluster lab", "http://head:8265", text, strlen(text));
}

static void test_doctor_ray(void **state)
{
	(void)state;
	assert_findings(ray_says, "{\"version\": \"4\", \"ray_version\": \"2.60.0\", \"session_name\": \"session_x\"}",
			0, "ok   cluster lab: Ray 2.60.0 at http://head:8265, session_x\n");
	assert_findings(ray_says, "{\"version\": \"4\", \"ray_version\": \"2.9.3\", \"session_name\": \"s\"}", 0,
			"Ray 2.9.3");
	assert_findings(ray_says, "{\"version\": \"4\", \"ray_version\": \"2.8.1\", \"session_name\": \"s\"}", 1,
			"older than 2.9");
	assert_findings(ray_says, "{\"version\": \"5\", \"ray_version\": \"3.0.0\", \"session_name\": \"s\"}", 0,
			"note cluster lab: version 5 of the Jobs API");
	assert_findings(ray_says, "{\"version\": \"4\", \"ray_version\": \"2.60.0\"}", 0, "names no session");
	assert_findings(ray_says, "<html>hello</html>", 1,
			"no Ray dashboard: `address` is the dashboard's (port 8265)");
	assert_findings(ray_says, "", 1, "no Ray dashboard");
}

static void test_find_program(void **state)
{
	cleanup_free char *sh = NULL, *none = doctor_find_program("no-such-program-anywhere"), *mine = NULL,
			  *want = at("tool");

	(void)state;
	sh = doctor_find_program("sh");
	assert_non_null(sh);
	assert_null(none);
	put("tool", "#!/bin/sh\n");
	assert_int_equal(chmod(want, 0700), 0);
	{
		cleanup_free char *old = xstrdup(getenv("PATH")), *path = xasprintf(":/nonexistent:%s", base);

		(void)setenv("PATH", path, 1);
		mine = doctor_find_program("tool");
		(void)setenv("PATH", old, 1);
	}
	assert_string_equal(mine, want);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_status),       T(test_absolute),      T(test_state_path),     T(test_check_config),
		T(test_each_mount),   T(test_find_mount),    T(test_run_dir),        T(test_pairs),
		T(test_pairs_meet),   T(test_is_pair),       T(test_json_documents), T(test_other_documents),
		T(test_submit),       T(test_submit_usage),  T(test_submit_file),    T(test_submit_workdir),
		T(test_submit_wait),  T(test_follow),        T(test_follow_live),    T(test_follow_pending),
		T(test_wait_outage),  T(test_purged),        T(test_recover),        T(test_doctor_limits),
		T(test_doctor_state), T(test_doctor_mounts), T(test_doctor_text),    T(test_doctor_remote),
		T(test_doctor_ray),   T(test_find_program),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
