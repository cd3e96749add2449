/*
 * on_event: a command per change, with the words of the line as variables and never as shell; at most four at a time,
 * none for ever; what was told and what is told again.
 * TEST_SECONDS=4
 */
#include "backend/hook.h"

#include "backend/base/clock.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

static char dir[64];

struct fix {
	struct config *config;
	struct hook *hook;
	struct inbox in;
	struct strbuf feed;
	uint64_t told;
	char *log;
	int log_fd;
};

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/test_hook.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static char *file(const char *name)
{
	return xasprintf("%s/%s", dir, name);
}

static char *slurp(const char *name)
{
	cleanup_free char *path = file(name);
	struct strbuf sb = STRBUF_INIT;

	(void)strbuf_read_file(&sb, path, 1 << 20);
	return strbuf_detach(&sb, NULL);
}

/* `command` with @ for the directory. */
static void fix_init(struct fix *f, const char *conf)
{
	struct err e = ERR_INIT;
	struct strbuf text = STRBUF_INIT;

	memset(f, 0, sizeof(*f));
	strbuf_init(&f->feed);
	for (const char *s = conf; *s; s++)
		if (*s == '@')
			strbuf_addstr(&text, dir);
		else
			strbuf_addch(&text, *s);
	if (config_parse(text.buf, "conf", &f->config, &e))
		fail_msg("%s", e.text);
	strbuf_release(&text);
	assert_int_equal(inbox_init(&f->in), 0);
	f->log = file("log");
	f->log_fd = open(f->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	log_setup(f->log_fd, LOG_INFO);
}

static void write_feed(struct fix *f)
{
	cleanup_free char *path = file("feed");
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	assert_int_equal(fwrite(f->feed.buf, 1, f->feed.len, out), f->feed.len);
	assert_int_equal(fclose(out), 0);
}

static void start(struct fix *f, int deadline_ms)
{
	cleanup_free char *path = file("feed");
	struct hook_conf conf = { f->config, path, "/the mount", f->told, f->feed.len, deadline_ms, &f->in };
	struct err e = ERR_INIT;

	write_feed(f);
	if (hook_start(&conf, &f->hook, &e))
		fail_msg("%s", e.text);
}

static void stop(struct fix *f)
{
	struct list got = LIST_INIT(got), *n;

	f->told = hook_stop(f->hook, 200);
	f->hook = NULL;
	inbox_take(&f->in, &got);
	while ((n = list_pop(&got)))
		msg_release(container_of(n, struct msg, node));
}

static void fix_release(struct fix *f)
{
	if (f->hook)
		stop(f);
	log_setup(2, LOG_INFO);
	(void)close(f->log_fd);
	free(f->log);
	config_free(f->config);
	inbox_release(&f->in);
	strbuf_release(&f->feed);
}

static void add(struct fix *f, const char *run, const char *cluster, const char *to)
{
	strbuf_addf(
		&f->feed,
		"{\"time\":\"T\",\"run\":\"%s\",\"num\":1,\"name\":\"a $(touch @x) `id` ' \\\" \\n;\",\"cluster\":%s%s%s,"
		"\"tags\":[\"x\",\"y z\"],\"attempt\":1,\"type\":\"status\",\"from\":\"running\",\"to\":\"%s\",\"code\":3,"
		"\"why\":\"no luck\",\"source\":\"s\"}\n",
		run, cluster ? "\"" : "", cluster ? cluster : "null", cluster ? "\"" : "", to);
}

static void add_report(struct fix *f, size_t size)
{
	strbuf_addstr(&f->feed, "{\"time\":\"T\",\"run\":\"r\",\"cluster\":\"hpc\",\"type\":\"report\",\"params\":\"");
	for (size_t i = 0; i < size; i++)
		strbuf_addch(&f->feed, 'x');
	strbuf_addstr(&f->feed, "\"}\n");
}

static void wait_told(struct fix *f, uint64_t at)
{
	while (f->told != at) {
		struct pollfd p = { inbox_fd(&f->in), POLLIN, 0 };
		struct list got = LIST_INIT(got), *n;

		assert_int_equal(poll(&p, 1, 30000), 1);
		inbox_take(&f->in, &got);
		while ((n = list_pop(&got))) {
			struct hook_msg *m = container_of(container_of(n, struct msg, node), struct hook_msg, m);

			assert_int_equal(m->m.type, HOOK_TOLD);
			assert_true(m->at > f->told);
			f->told = m->at;
			msg_release(&m->m);
		}
	}
}

static void wait_for(const char *name, const char *want)
{
	for (int i = 0; i < 3000; i++) {
		char *have = slurp(name);
		bool same = strcmp(have, want) == 0;

		free(have);
		if (same)
			return;
		(void)poll(NULL, 0, 10);
	}
	fail_msg("%s never was \"%s\", but \"%s\"", name, want, slurp(name));
}

/* --- tests --- */

static void words_are_variables(void **state)
{
	struct fix f;
	char *have, *want;

	(void)state;
	fix_init(
		&f,
		"[cluster hpc]\nhost = h\non_event = printf '%s\\n' \"$SLURMRAY_RUN\" \"$SLURMRAY_STATUS\" \"$SLURMRAY_FROM\""
		" \"$SLURMRAY_CLUSTER\" \"$SLURMRAY_NAME\" \"$SLURMRAY_CODE\" \"$SLURMRAY_WHY\" \"$SLURMRAY_TAGS\""
		" \"$SLURMRAY_MOUNT\" \"$SLURMRAY_EVENT\" \"$SLURMRAY_OTHER\" \"$PWD\" >@/out\n");
	assert_int_equal(setenv("SLURMRAY_OTHER", "the daemon's own", 1), 0);
	add_report(&f, 10);
	add(&f, "seven", "hpc", "failed");
	start(&f, 0);
	wait_told(&f, f.feed.len);
	have = slurp("out");
	want = xasprintf(
		"seven\nfailed\nrunning\nhpc\na $(touch @x) `id` ' \" \n;\n3\nno luck\nx y z\n/the mount\n%zu\n\n/\n",
		strcspn(f.feed.buf, "\n") + 1);
	assert_string_equal(have, want);
	free(have);
	free(want);
	(void)unsetenv("SLURMRAY_OTHER");
	fix_release(&f);
}

static void which_lines(void **state)
{
	struct fix f;

	(void)state;
	fix_init(
		&f,
		"[defaults]\non_event = echo all $SLURMRAY_RUN >>@/out\n[cluster one]\nhost = h\n[cluster two]\nhost = h\n"
		"on_event = echo two $SLURMRAY_RUN >>@/out\n[cluster none]\nhost = h\non_event = null\n");
	assert_true(hook_wanted(f.config));
	assert_null(config_on_event(f.config, "none"));
	assert_non_null(config_on_event(f.config, "local"));
	add(&f, "draft", NULL, "draft");
	start(&f, 0);
	wait_told(&f, f.feed.len);
	add(&f, "a", "one", "queued");
	write_feed(&f);
	hook_grew(f.hook, f.feed.len);
	wait_told(&f, f.feed.len);
	add(&f, "b", "none", "queued");
	add_report(&f, 3 << 20);
	strbuf_addstr(&f.feed, "not JSON \"type\":\"status\"\n");
	add(&f, "c", "two", "queued");
	write_feed(&f);
	hook_grew(f.hook, f.feed.len);
	wait_told(&f, f.feed.len);
	wait_for("out", "all a\ntwo c\n");
	fix_release(&f);
}

static void four_at_a_time(void **state)
{
	struct fix f;
	char *have;

	(void)state;
	fix_init(
		&f,
		"[cluster hpc]\nhost = h\non_event = mkdir @/on.$SLURMRAY_RUN; ls -d @/on.* | wc -l >>@/seen; sleep 0.1;"
		" rmdir @/on.$SLURMRAY_RUN; echo $SLURMRAY_RUN >>@/done\n");
	for (int i = 0; i < 20; i++) {
		char name[8];

		(void)snprintf(name, sizeof(name), "%02d", i);
		add(&f, name, "hpc", "running");
	}
	start(&f, 0);
	wait_told(&f, f.feed.len);
	have = slurp("seen");
	assert_null(strpbrk(have, "56789"));
	assert_int_equal(strlen(have), 40);
	free(have);
	have = slurp("done");
	assert_int_equal(strlen(have), 60);
	for (int i = 0; i < 20; i++) {
		char name[8];

		(void)snprintf(name, sizeof(name), "%02d\n", i);
		assert_non_null(strstr(have, name));
	}
	free(have);
	fix_release(&f);
}

static void none_for_ever(void **state)
{
	struct fix f;
	char *have;

	(void)state;
	fix_init(
		&f,
		"[cluster hpc]\nhost = h\non_event = echo begins; echo \"and `printf 'a\\033b'`\" >&2; exec 1>&- 2>&-; sleep 1000\n");
	add(&f, "a", "hpc", "running");
	start(&f, 300);
	wait_told(&f, f.feed.len);
	have = slurp("log");
	assert_non_null(strstr(have, "on_event of run a (running): begins\n"));
	assert_non_null(strstr(have, "on_event of run a (running): and a?b\n"));
	assert_non_null(strstr(have, "did not end in time"));
	free(have);
	fix_release(&f);
}

static void output_and_codes(void **state)
{
	struct fix f;
	char *have;
	int n = 0;

	(void)state;
	fix_init(&f, "[cluster hpc]\nhost = h\non_event = seq 1000; (sleep 0.3; echo late) & exit 7\n");
	add(&f, "a", "hpc", "failed");
	start(&f, 0);
	wait_told(&f, f.feed.len);
	have = slurp("log");
	assert_non_null(strstr(have, "it exited with 7"));
	for (const char *s = have; (s = strstr(s, "on_event of run a (failed): ")); s++)
		n++;
	assert_true(n <= 102 && n > 50);
	free(have);
	fix_release(&f);
}

/* What was not told is told by the next worker. */
static void told_again(void **state)
{
	struct fix f;
	uint64_t one;
	char *have;

	(void)state;
	fix_init(
		&f,
		"[cluster hpc]\nhost = h\non_event = echo $SLURMRAY_RUN >>@/out; [ $SLURMRAY_RUN = a -o -e @/go ] || sleep 1000\n");
	add(&f, "a", "hpc", "failed");
	one = f.feed.len;
	add(&f, "b", "hpc", "failed");
	add(&f, "c", "hpc", "failed");
	start(&f, 0);
	wait_told(&f, one);
	for (;;) {
		have = slurp("out");
		if (strlen(have) == 6)
			break;
		free(have);
		(void)poll(NULL, 0, 10);
	}
	free(have);
	stop(&f);
	assert_int_equal(f.told, one);
	{
		cleanup_free char *go = file("go");
		int fd = open(go, O_WRONLY | O_CREAT, 0600);

		assert_true(fd >= 0);
		(void)close(fd);
	}
	start(&f, 0);
	wait_told(&f, f.feed.len);
	have = slurp("out");
	assert_int_equal(strlen(have),
			 10); /* b and c once more, a not; the three of the first time came in any order */
	assert_ptr_equal(strchr(have, 'a'), strrchr(have, 'a'));
	free(have);
	fix_release(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(words_are_variables, setup, teardown),
		cmocka_unit_test_setup_teardown(which_lines, setup, teardown),
		cmocka_unit_test_setup_teardown(four_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(none_for_ever, setup, teardown),
		cmocka_unit_test_setup_teardown(output_and_codes, setup, teardown),
		cmocka_unit_test_setup_teardown(told_again, setup, teardown),
	};

	return cmocka_run_group_tests_name("hook", tests, NULL, NULL);
}
