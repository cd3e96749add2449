/*
 * The client of the system bus against what a broken bus might say. What it says to a good one is in tests/lib/bus.py.
 */
#include "fs/sleep.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#define GREETING "OK 0123\r\nAGREE_UNIX_FD\r\n"

struct fx {
	char path[64];
	int server, peer;
	struct sleep_watch *w;
	int sleeps, wakes;
	long long now;
};

static void tell(void *arg, bool asleep)
{
	struct fx *f = arg;

	if (asleep)
		f->sleeps++;
	else
		f->wakes++;
}

static int setup(void **state)
{
	struct fx *f = xcalloc(1, sizeof(*f));
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	cleanup_free char *env = NULL;

	(void)snprintf(f->path, sizeof(f->path), "/tmp/test_sleep.%d", (int)getpid());
	env = xasprintf("unix:path=%s,guid=00", f->path);
	assert_int_equal(setenv("DBUS_SYSTEM_BUS_ADDRESS", env, 1), 0);
	memcpy(sa.sun_path, f->path, sizeof(f->path));
	f->server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	(void)unlink(f->path);
	assert_int_equal(bind(f->server, (const struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(f->server, 4), 0);
	f->peer = -1;
	f->w = sleep_new(tell, f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fx *f = *state;

	sleep_free(f->w);
	if (f->peer >= 0)
		(void)close(f->peer);
	(void)close(f->server);
	(void)unlink(f->path);
	free(f);
	return 0;
}

/* A fresh connection. */
static void dial(struct fx *f)
{
	if (f->peer >= 0)
		(void)close(f->peer);
	while (sleep_fd(f->w) >= 0)
		sleep_step(f->w);
	f->now += 31 * (long long)USEC_PER_SEC;
	sleep_try(f->w, f->now);
	f->peer = accept(f->server, NULL, NULL);
	assert_true(f->peer >= 0);
}

static void say(struct fx *f, const void *data, size_t len)
{
	(void)!send(f->peer, data, len, MSG_NOSIGNAL);
	for (size_t i = 0; i <= len; i++)
		sleep_step(f->w);
}

/* A message without fields but member and interface, as a signal has them. */
static void add_signal(struct strbuf *sb, const char *interface, const char *member, uint32_t value)
{
	const bool little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
	const char head[4] = { little ? 'l' : 'B', 4, 0, 1 };
	const char *texts[] = { interface, member };
	struct strbuf fields = STRBUF_INIT;
	uint32_t n, words[2] = { sizeof(value), 5 };

	for (size_t i = 0; i < 2; i++) {
		const char field[4] = { (char)(2 + i), 1, 's', 0 };

		while (fields.len % 8)
			strbuf_add(&fields, "", 1);
		strbuf_add(&fields, field, sizeof(field));
		n = (uint32_t)strlen(texts[i]);
		strbuf_add(&fields, &n, sizeof(n));
		strbuf_add(&fields, texts[i], n + 1);
	}
	n = (uint32_t)fields.len;
	strbuf_add(sb, head, sizeof(head));
	strbuf_add(sb, words, sizeof(words));
	strbuf_add(sb, &n, sizeof(n));
	while (fields.len % 8)
		strbuf_add(&fields, "", 1);
	strbuf_addbuf(sb, &fields);
	strbuf_add(sb, &value, sizeof(value));
	strbuf_release(&fields);
}

static void test_no_bus(void **state)
{
	struct fx *f = *state;

	assert_int_equal(sleep_fd(f->w), -1);
	sleep_step(f->w);
	assert_int_equal(setenv("DBUS_SYSTEM_BUS_ADDRESS", "tcp:host=localhost", 1), 0);
	sleep_try(f->w, f->now);
	assert_int_equal(sleep_fd(f->w), -1);
	assert_int_equal(setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/at/all", 1), 0);
	sleep_try(f->w, f->now += 31 * (long long)USEC_PER_SEC);
	assert_int_equal(sleep_fd(f->w), -1);
	assert_false(sleep_inhibits(f->w));
}

static void test_tries_now_and_then(void **state)
{
	struct fx *f = *state;

	dial(f);
	(void)close(f->peer);
	f->peer = -1;
	sleep_step(f->w);
	assert_int_equal(sleep_fd(f->w), -1);
	sleep_try(f->w, f->now + 29 * (long long)USEC_PER_SEC);
	assert_int_equal(sleep_fd(f->w), -1);
	sleep_try(f->w, f->now + 30 * (long long)USEC_PER_SEC);
	assert_true(sleep_fd(f->w) >= 0);
}

static void test_refused(void **state)
{
	static const char *const answers[] = { "REJECTED EXTERNAL\r\nERROR\r\n", "OK 00\r\nERROR\r\n", "\r\n\r\n" };
	char *flood = xmalloc(2000);
	struct fx *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		dial(f);
		say(f, answers[i], strlen(answers[i]));
		assert_int_equal(sleep_fd(f->w), -1);
	}
	dial(f);
	memset(flood, 'x', 2000);
	say(f, flood, 2000);
	assert_int_equal(sleep_fd(f->w), -1);
	free(flood);
}

static void test_signals(void **state)
{
	struct fx *f = *state;
	struct strbuf sb = STRBUF_INIT;

	dial(f);
	say(f, GREETING, strlen(GREETING));
	add_signal(&sb, "org.freedesktop.login1.Manager", "PrepareForShutdown", 1);
	add_signal(&sb, "org.example.Manager", "PrepareForSleep", 1);
	say(f, sb.buf, sb.len);
	assert_int_equal(f->sleeps, 0);
	strbuf_reset(&sb);
	add_signal(&sb, "org.freedesktop.login1.Manager", "PrepareForSleep", 1);
	for (size_t i = 0; i < sb.len; i++)
		say(f, sb.buf + i, 1);
	assert_int_equal(f->sleeps, 1);
	say(f, sb.buf, sb.len);
	assert_int_equal(f->sleeps, 1); /* it is told once */
	/* The bus goes: nobody would say that the machine is awake. */
	(void)close(f->peer);
	f->peer = -1;
	sleep_step(f->w);
	assert_int_equal(f->wakes, 1);
	assert_int_equal(sleep_fd(f->w), -1);
	strbuf_release(&sb);
}

static void test_nonsense(void **state)
{
	struct fx *f = *state;
	struct strbuf sb = STRBUF_INIT;

	srand(1);
	for (int round = 0; round < 3000; round++) {
		strbuf_reset(&sb);
		add_signal(&sb, "org.freedesktop.login1.Manager", "PrepareForSleep", 0);
		add_signal(&sb, "org.freedesktop.login1.Manager", "PrepareForSleep", 0);
		for (int n = rand() % 4; n >= 0; n--)
			sb.buf[(size_t)rand() % (rand() % 2 ? 24 : sb.len)] = (char)rand();
		if (sleep_fd(f->w) < 0 || rand() % 20 == 0) {
			dial(f);
			say(f, GREETING, strlen(GREETING));
		}
		say(f, sb.buf, (size_t)rand() % 2 ? sb.len : (size_t)rand() % sb.len);
	}
	assert_true(f->sleeps - f->wakes <= 1);
	strbuf_release(&sb);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_no_bus, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tries_now_and_then, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_signals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nonsense, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
