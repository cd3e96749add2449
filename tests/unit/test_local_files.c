/*
 * What local jobs write and what others see of it: logs byte for byte, results, files that are shipped, paths that lead
 * nowhere.
 */
#include "tests/unit/lib_local.h"

#include "backend/base/mem.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static void shell(const char *fmt, const char *a)
{
	cleanup_free char *cmd = xasprintf("A='%s'; %s", a, fmt);

	if (system(cmd) != 0)
		fail_msg("%s", cmd);
}

static void bytes_are_exact(void **state)
{
	struct lx *f = lx_new();
	static const char out[] = "a\0b\xff\xfe\r\n\0tail without end";

	(void)state;
	lx_submit(f, 1, "printf 'a\\0b\\377\\376\\r\\n\\0tail without end'; printf '\\0\\377' >&2");
	lx_assert_end(f, 1, "succeeded", 0);
	lx_assert_log(f, 1, SPOOL_OUT, out, sizeof(out) - 1);
	lx_assert_log(f, 1, SPOOL_ERR, "\0\xff", 2);
	assert_int_equal(event_int(lx_event(f, 1, EV_END, NULL), "out_len", -1), (int)sizeof(out) - 1);
	lx_free(f);
}

/* Over three restarts of the cluster in the middle of it. */
static void long_logs(void **state)
{
	struct lx *f = lx_new();
	static const char job[] =
		"for i in $(seq 20); do seq -f '%.0f of a long log' 1 5000; echo \"e $i\" >&2; sleep 0.02; done";
	struct strbuf want = STRBUF_INIT, err = STRBUF_INIT;

	(void)state;
	lx_submit(f, 1, job);
	for (int i = 0; i < 3; i++) {
		lx_wait_out(f, 1, f->out_len[1] + 1000);
		lx_restart(f);
		lx_watch(f, 1, job);
	}
	lx_assert_end(f, 1, "succeeded", 0);
	for (int i = 1; i <= 20; i++) {
		for (int n = 1; n <= 5000; n++)
			strbuf_addf(&want, "%d of a long log\n", n);
		strbuf_addf(&err, "e %d\n", i);
	}
	lx_assert_log(f, 1, SPOOL_OUT, want.buf, want.len);
	lx_assert_log(f, 1, SPOOL_ERR, err.buf, err.len);
	strbuf_release(&want);
	strbuf_release(&err);
	lx_free(f);
}

/* It writes faster than anybody copies: others are served all the same. */
static void a_fast_writer(void **state)
{
	struct lx *f = lx_new();
	struct stat st;
	char *path = xasprintf("%s/spool/1/out", f->state);

	(void)state;
	lx_submit(f, 1, "ulimit -f 400000; trap '' XFSZ; yes 2>/dev/null; sleep 300");
	lx_wait_out(f, 1, 1 << 20);
	assert_int_equal(lx_answer(f, lx_ask(f, CREQ_PROBE, 0, 0, "info"))->code, 0);
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "cancel", ""))->code, 0);
	(void)lx_wait_end(f, 1);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, event_int(lx_event(f, 1, EV_END, NULL), "out_len", -1));
	free(path);
	lx_free(f);
}

static void a_log_that_was_cut(void **state)
{
	struct lx *f = lx_new();
	struct creq *q;
	const struct event *ev;
	char path[256];

	(void)state;
	lx_submit(f, 1, "echo 0123456789");
	lx_assert_end(f, 1, "succeeded", 0);
	lx_restart(f);
	lx_path(f, 1, "stdout", path);
	assert_int_equal(truncate(path, 5), 0);
	shell("rm -r \"$A\"/spool/1", f->state);
	q = lx_make(f, CREQ_WATCH, 1, "");
	q->job_id = xstrdup("1.1");
	q->ended = true;
	q->out_len = 11;
	q->err_len = 0;
	lx_post(f, q);
	LX_WAIT(f, f->last[1]);
	ev = lx_event(f, 1, EV_FACTS, NULL);
	assert_non_null(ev);
	assert_int_equal(event_int(ev, "stdout_missing", -1), 6);
	lx_assert_log(f, 1, SPOOL_OUT, "01234", 5);
	/* nothing is known of its lengths: what is there is all */
	lx_restart(f);
	q = lx_make(f, CREQ_WATCH, 9, "");
	q->job_id = xstrdup("9.1");
	q->ended = true;
	lx_post(f, q);
	LX_WAIT(f, f->last[9]);
	assert_int_equal(f->out_len[9], 0);
	assert_int_equal(f->n_ev, 0);
	lx_free(f);
}

static void patterns(void **state)
{
	struct lx *f = lx_new();
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "echo out; echo err >&2");
	char *text, *old;

	(void)state;
	q->job->output = xstrdup("o-%x-%j-%%-%4n-%q.txt");
	q->job->error = xasprintf("%s/elsewhere-%%u", f->root);
	lx_post(f, q);
	lx_assert_end(f, 1, "succeeded", 0);
	text = lx_read(f, 1, "work/o-test-1.1-%-0000-%q.txt");
	assert_non_null(text);
	assert_string_equal(text, "out\n");
	free(text);
	text = lx_read(f, 1, "stdout"); /* a link: readers look here */
	assert_string_equal(text, "out\n");
	free(text);
	lx_assert_log(f, 1, SPOOL_OUT, "out\n", 4);
	lx_assert_log(f, 1, SPOOL_ERR, "err\n", 4);
	/* one file for both, said in two ways; what is there already is replaced */
	old = xasprintf("%s/both", f->root);
	shell("echo something old and long >\"$A\"", old);
	q = lx_make(f, CREQ_SUBMIT, 2, "echo out; echo err >&2; echo out");
	q->job->output = xstrdup(old);
	q->job->error = xstrdup(old);
	lx_post(f, q);
	lx_assert_end(f, 2, "succeeded", 0);
	lx_assert_log(f, 2, SPOOL_OUT, "out\nerr\nout\n", 12);
	assert_int_equal(event_int(lx_event(f, 2, EV_END, NULL), "err_len", -1), 0);
	/* unless it was asked for */
	q = lx_make(f, CREQ_SUBMIT, 3, "echo more");
	q->job->output = xstrdup(old);
	q->job->sbatch = xcalloc(2, sizeof(char *));
	q->job->sbatch[0] = xstrdup("--open-mode=append");
	lx_post(f, q);
	lx_assert_end(f, 3, "succeeded", 0);
	lx_assert_log(f, 3, SPOOL_OUT, "out\nerr\nout\nmore\n", 17);
	q = lx_make(f, CREQ_SUBMIT, 4, "echo a; echo b >&2; echo c");
	q->job->merged = true;
	lx_post(f, q);
	lx_assert_end(f, 4, "succeeded", 0);
	lx_assert_log(f, 4, SPOOL_OUT, "a\nb\nc\n", 6);
	q = lx_make(f, CREQ_SUBMIT, 5, "echo a");
	q->job->output = xstrdup("/no/such/directory/x");
	lx_post(f, q);
	lx_assert_end(f, 5, "failed", 126);
	q = lx_make(f, CREQ_SUBMIT, 6, "echo a");
	q->job->output = xstrdup("/dev/null");
	lx_post(f, q);
	lx_assert_end(f, 6, "succeeded", 0);
	free(old);
	lx_free(f);
}

/* Directories that names of streams go through are made, below the one that the command runs in and nowhere else. */
static void stream_dirs(void **state)
{
	struct lx *f = lx_new();
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "echo out; echo err >&2");
	cleanup_free char *out = xasprintf("%s/mine/logs/deep/2.1.out", f->root), *gone = xasprintf("%s/gone", f->root);
	char *text;

	(void)state;
	q->job->output = xstrdup("logs/%x/%j.out");
	q->job->error = xstrdup("./other/err");
	lx_post(f, q);
	lx_assert_end(f, 1, "succeeded", 0);
	text = lx_read(f, 1, "work/logs/test/1.1.out");
	assert_string_equal(text, "out\n");
	free(text);
	text = lx_read(f, 1, "work/other/err");
	assert_string_equal(text, "err\n");
	free(text);
	lx_assert_log(f, 1, SPOOL_OUT, "out\n", 4);
	lx_assert_log(f, 1, SPOOL_ERR, "err\n", 4);
	/* in a directory of one's own */
	q = lx_make(f, CREQ_SUBMIT, 2, "echo out");
	q->job->workdir = xasprintf("%s/mine", f->root);
	shell("mkdir \"$A\"", q->job->workdir);
	q->job->output = xstrdup("logs/deep/%j.out");
	lx_post(f, q);
	lx_assert_end(f, 2, "succeeded", 0);
	lx_assert_log(f, 2, SPOOL_OUT, "out\n", 4);
	assert_int_equal(access(out, F_OK), 0);
	/* which is not made itself, nor anything beside it */
	q = lx_make(f, CREQ_SUBMIT, 3, "echo out");
	q->job->workdir = xstrdup(gone);
	q->job->output = xstrdup("logs/out");
	lx_post(f, q);
	lx_assert_end(f, 3, "failed", 126);
	assert_int_equal(access(gone, F_OK), -1);
	q = lx_make(f, CREQ_SUBMIT, 4, "echo out");
	q->job->workdir = xasprintf("%s/mine", f->root);
	q->job->output = xstrdup("../gone/out");
	lx_post(f, q);
	lx_assert_end(f, 4, "failed", 126);
	assert_int_equal(access(gone, F_OK), -1);
	lx_free(f);
}

/* TYPE PATH TARGET of every record, a line each, sorted. */
static char *records(const struct lx_answer *a)
{
	struct strbuf sb = STRBUF_INIT;
	const char *p = a->data, *end = a->data + a->len, *field[6];
	char *sorted[64];
	size_t n = 0;

	while (p < end && n < ARRAY_SIZE(sorted)) {
		for (int i = 0; i < 6; i++) {
			field[i] = p;
			p += strlen(p) + 1;
		}
		sorted[n++] = xasprintf("%s %s %s %s\n", field[0], field[3], field[4], field[5]);
	}
	for (size_t i = 0; i < n; i++)
		for (size_t j = i + 1; j < n; j++)
			if (strcmp(sorted[j], sorted[i]) < 0) {
				char *t = sorted[i];

				sorted[i] = sorted[j];
				sorted[j] = t;
			}
	for (size_t i = 0; i < n; i++) {
		strbuf_addstr(&sb, sorted[i]);
		free(sorted[i]);
	}
	return strbuf_detach(&sb, NULL);
}

static void results(void **state)
{
	struct lx *f = lx_new();
	const struct lx_answer *a;
	char *text;

	(void)state;
	lx_submit(
		f, 1,
		"cd \"$SLURMRAY_RESULTS\"; umask 022; mkdir sub; echo model >sub/model; ln -s sub/model in; ln -s /etc/passwd out\n"
		"ln -s ../../../../.. up; mkfifo fifo; echo x >'odd\n name'; echo y >\"$(printf '\\377')\"; chmod 4755 sub/model");
	lx_assert_end(f, 1, "succeeded", 0);
	a = lx_answer(f, lx_ask(f, CREQ_MANIFEST, 1, AREA_RESULTS, ""));
	text = records(a);
	assert_string_equal(
		text,
		"d 755 sub \nf 644 odd\n name \nf 644 \xff \nf 755 sub/model \nl 777 in sub/model\nl 777 out /etc/passwd\n"
		"l 777 up ../../../../..\n");
	free(text);
	a = lx_answer(f, lx_ask(f, CREQ_LIST, 1, AREA_RESULTS, "sub"));
	text = records(a);
	assert_string_equal(text, "f 755 model \n");
	free(text);
	a = lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "sub/model"));
	assert_int_equal(a->code, 0);
	assert_string_equal(a->data, "model\n");
	a = lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "in"));
	assert_string_equal(a->data, "model\n");
	/* nothing leads out */
	assert_true(lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "out"))->code < 0);
	assert_true(lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "../script"))->code < 0);
	assert_true(lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "up/etc/passwd"))->code < 0);
	assert_true(lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "/etc/passwd"))->code < 0);
	assert_true(lx_answer(f, lx_ask(f, CREQ_LIST, 1, AREA_RESULTS, "up"))->code < 0);
	assert_int_equal(lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "fifo"))->code, -ENOENT);
	assert_int_equal(lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "sub"))->code, -ENOENT);
	assert_int_equal(lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "none"))->code, -ENOENT);
	assert_int_equal(lx_answer(f, lx_ask(f, CREQ_READ, 77, AREA_RESULTS, "none"))->code, -ENOENT);
	/* the area itself replaced by a link */
	lx_submit(f, 2, "rmdir ../results; ln -s /etc ../results");
	lx_assert_end(f, 2, "succeeded", 0);
	assert_true(lx_answer(f, lx_ask(f, CREQ_READ, 2, AREA_RESULTS, "passwd"))->code < 0);
	a = lx_answer(f, lx_ask(f, CREQ_MANIFEST, 2, AREA_RESULTS, ""));
	assert_int_equal(a->len, 0);
	/* a run that made none, and pieces of a file */
	lx_submit(f, 3, "printf 0123456789 >file");
	lx_assert_end(f, 3, "succeeded", 0);
	a = lx_answer(f, lx_ask(f, CREQ_MANIFEST, 3, AREA_RESULTS, ""));
	assert_int_equal(a->code, 0);
	assert_int_equal(a->len, 0);
	{
		struct creq *q = lx_make(f, CREQ_READ, 3, "");

		q->area = AREA_WORK;
		q->path = xstrdup("file");
		q->offset = 7;
		q->length = 100;
		q->ticket = ++f->ticket;
		cluster_local_ops.post(f->c, q);
		assert_string_equal(lx_answer(f, f->ticket)->data, "789");
	}
	lx_free(f);
}

static void scratch_elsewhere(void **state)
{
	struct lx *f = lx_new();
	const struct lx_answer *a;
	struct creq *q;
	char path[256];

	(void)state;
	free(f->scratch);
	f->scratch = xasprintf("%s/big disk", f->root);
	q = lx_make(f, CREQ_SUBMIT, 1, "pwd -P; cat input; echo r >\"$SLURMRAY_RESULTS/r\"");
	q->files_dir = xasprintf("%s/files", f->root);
	shell("mkdir \"$A\"; echo data >\"$A\"/input", q->files_dir);
	lx_post(f, q);
	lx_assert_end(f, 1, "succeeded", 0);
	(void)snprintf(path, sizeof(path), "%s/" LX_UUID "/runs/1/a1/work\ndata\n", f->scratch);
	lx_assert_log(f, 1, SPOOL_OUT, path, strlen(path));
	a = lx_answer(f, lx_ask(f, CREQ_READ, 1, AREA_RESULTS, "r"));
	assert_string_equal(a->data, "r\n");
	(void)snprintf(path, sizeof(path), "%s/" LX_UUID "/runs/1/a1/results/r", f->scratch);
	assert_int_equal(access(path, F_OK), 0);
	cluster_local_ops.post(f->c, lx_make(f, CREQ_FORGET, 1, ""));
	assert_int_equal(lx_answer(f, lx_verb(f, 1, "refresh", ""))->code, -ESRCH);
	assert_int_equal(access(path, F_OK), -1);
	lx_path(f, 1, "", path);
	assert_int_equal(access(path, F_OK), -1);
	lx_free(f);
}

static void what_is_shipped(void **state)
{
	struct lx *f = lx_new();
	struct creq *q;

	(void)state;
	shell("mkdir -p \"$A\"/in/tree/deep \"$A\"/draft; echo one >\"$A\"/in/one; echo two >\"$A\"/in/tree/deep/two; chmod 750 \"$A\"/in/one\n"
	      "ln -s deep/two \"$A\"/in/tree/link; ln -s one \"$A\"/in/alias; mkfifo \"$A\"/in/tree/fifo; echo mine >\"$A\"/draft/own\n"
	      "printf '#!/bin/sh\\necho \"$0\" \"$#\" $(stat -c %%a one) $(readlink tree/link); cat one tree/deep/two alias own; ls tree'\\\n"
	      " >\"$A\"/program",
	      f->root);
	q = lx_make(f, CREQ_SUBMIT, 1, "");
	q->job->form = JOB_PAYLOAD;
	free(q->job->command);
	q->job->command = xasprintf("%s/program", f->root);
	q->job->files = xcalloc(4, sizeof(char *));
	q->job->files[0] = xasprintf("%s/in/one", f->root);
	q->job->files[1] = xasprintf("%s/in/tree/", f->root);
	q->job->files[2] = xasprintf("%s/in/alias", f->root);
	q->files_dir = xasprintf("%s/draft", f->root);
	lx_post(f, q);
	lx_assert_end(f, 1, "succeeded", 0);
	{
		cleanup_free char *want =
			xasprintf("%s/runs/1/a1/payload 0 750 deep/two\none\ntwo\none\nmine\ndeep\nlink\n", f->base);

		lx_assert_log(f, 1, SPOOL_OUT, want, strlen(want));
	}
	/* what cannot be shipped is said at once */
	q = lx_make(f, CREQ_SUBMIT, 2, "true");
	q->job->files = xcalloc(2, sizeof(char *));
	q->job->files[0] = xstrdup("/no/such/file");
	lx_post(f, q);
	LX_WAIT(f, lx_event(f, 2, EV_REJECTED, NULL));
	assert_non_null(strstr(event_str(lx_event(f, 2, EV_REJECTED, NULL), "why"), "/no/such/file"));
	q = lx_make(f, CREQ_SUBMIT, 3, "");
	q->job->form = JOB_PAYLOAD;
	free(q->job->command);
	q->job->command = xasprintf("%s/in", f->root);
	lx_post(f, q);
	LX_WAIT(f, lx_event(f, 3, EV_REJECTED, NULL));
	assert_non_null(strstr(event_str(lx_event(f, 3, EV_REJECTED, NULL), "why"), "not a regular file"));
	/* the same for one that was accepted before (a power failure took its directory): an end that fits its status
	 */
	q = lx_make(f, CREQ_WATCH, 4, "true");
	q->job_id = xstrdup("4.1");
	q->job->files = xcalloc(2, sizeof(char *));
	q->job->files[0] = xstrdup("/no/such/file");
	lx_post(f, q);
	LX_WAIT(f, lx_event(f, 4, EV_END, "failed"));
	lx_free(f);
}

/* Files of a job that may have been started are not written again; after another boot they are. */
static void prepared_once(void **state)
{
	struct lx *f = lx_new();
	struct creq *q = lx_make(f, CREQ_SUBMIT, 1, "cat input");
	char path[256];

	(void)state;
	shell("mkdir \"$A\"/files; echo first >\"$A\"/files/input", f->root);
	q->job->hold = true;
	q->files_dir = xasprintf("%s/files", f->root);
	lx_post(f, q);
	lx_wait_state(f, 1, "pending");
	lx_restart(f);
	shell("echo second >\"$A\"/files/input", f->root);
	q = lx_make(f, CREQ_WATCH, 1, "cat input");
	q->job_id = xstrdup("1.1");
	q->files_dir = xasprintf("%s/files", f->root);
	q->job->hold = true;
	lx_post(f, q);
	lx_wait_state(f, 1, "pending");
	lx_restart(f);
	lx_path(f, 1, "params", path);
	shell("sed -i 's/\"boot\":\"[^\"]*\"/\"boot\":\"another\"/' \"$A\"; : >\"${A%params}script\"",
	      path); /* a power failure */
	q = lx_make(f, CREQ_WATCH, 1, "cat input");
	q->job_id = xstrdup("1.1");
	q->files_dir = xasprintf("%s/files", f->root);
	lx_post(f, q);
	lx_assert_end(f, 1, "succeeded", 0);
	lx_assert_log(f, 1, SPOOL_OUT, "second\n", 7);
	lx_free(f);
}

static void what_the_cluster_is(void **state)
{
	struct lx *f = lx_new();
	static const char *const docs[] = { "info", "partitions", "nodes", "queue", "shares" };
	const struct lx_answer *a;

	(void)state;
	lx_submit(f, 1, "echo x; sleep 300");
	lx_wait_out(f, 1, 2);
	for (size_t i = 0; i < ARRAY_SIZE(docs); i++) {
		json_t *j;

		a = lx_answer(f, lx_ask(f, CREQ_PROBE, 0, 0, docs[i]));
		assert_int_equal(a->code, 0);
		j = json_loads(a->data, 0, NULL);
		assert_non_null(j);
		if (strcmp(docs[i], "queue") == 0)
			assert_int_equal(json_array_size(j), 1);
		json_decref(j);
	}
	cluster_local_ops.post(f->c, lx_make(f, CREQ_HOT, 1, ""));
	cluster_local_ops.post(f->c, lx_make(f, CREQ_END_SEEN, 1, ""));
	cluster_local_ops.post(f->c, creq_new(CREQ_RECONNECT, 0, 0, 0));
	assert_int_equal(lx_answer(f, lx_verb(f, 2, "cancel", ""))->code, -ESRCH);
	(void)lx_verb(f, 1, "cancel", "");
	lx_assert_end(f, 1, "cancelled", 143);
	lx_free(f);
}

/* A directory that was configured otherwise later: runs stay where they are. */
static void the_directory_moves(void **state)
{
	struct lx *f = lx_new();
	static const char job[] = "echo x; sleep 300";
	char *other = xasprintf("%s/other", f->root);

	(void)state;
	lx_submit(f, 1, job);
	lx_wait_out(f, 1, 2);
	lx_stop(f);
	lx_forget_events(f);
	f->conf.directory = other;
	lx_start(f);
	lx_watch(f, 1, job);
	lx_wait_state(f, 1, "running");
	(void)lx_verb(f, 1, "cancel", "");
	lx_assert_end(f, 1, "cancelled", 143);
	lx_free(f);
	free(other);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_are_exact),
		cmocka_unit_test(long_logs),
		cmocka_unit_test(a_fast_writer),
		cmocka_unit_test(a_log_that_was_cut),
		cmocka_unit_test(patterns),
		cmocka_unit_test(stream_dirs),
		cmocka_unit_test(results),
		cmocka_unit_test(scratch_elsewhere),
		cmocka_unit_test(what_is_shipped),
		cmocka_unit_test(prepared_once),
		cmocka_unit_test(what_the_cluster_is),
		cmocka_unit_test(the_directory_moves),
	};
	int rc = lx_supervise(argc, argv);

	return rc >= 0 ? rc : cmocka_run_group_tests(tests, NULL, NULL);
}
