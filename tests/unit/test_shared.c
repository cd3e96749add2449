/*
 * Shared memory between workers: handles, parked requests and INIT, as a next worker finds them. A second attachment
 * stands for the next worker; what a kill leaves in between is made by writing the records' bytes the way a killed
 * process leaves them.
 */
#include "fs/shared.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <linux/fuse.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { HANDLES = 65536, SLOTS_SMALL = 16384, SLOTS_MEDIUM = 2048, SLOTS_LARGE = 64 };

static struct shared *make(void)
{
	struct shared *sh = NULL;
	struct err e = ERR_INIT;

	assert_int_equal(shared_create(&sh, &e), 0);
	return sh;
}

/* What the next worker sees. */
static struct shared *next(const struct shared *sh)
{
	struct shared *n = NULL;
	struct err e = ERR_INIT;

	assert_int_equal(shared_attach(dup(shared_fd(sh)), &n, &e), 0);
	return n;
}

static void count_one(void *arg, struct shared_handle *h)
{
	assert_true(h->fh);
	(*(size_t *)arg)++;
}

static size_t count_handles(struct shared *sh)
{
	size_t n = 0;

	shared_handle_walk(sh, count_one, &n);
	return n;
}

static void test_mount_id(void **state)
{
	struct shared *a = make(), *b = make(), *a2 = next(a);

	(void)state;
	assert_true(shared_mount_id(a) != 0);
	assert_true(shared_mount_id(a) != shared_mount_id(b));
	assert_true(shared_mount_id(a) == shared_mount_id(a2));
	shared_detach(a2);
	shared_detach(a);
	shared_detach(b);
	shared_detach(NULL);
}

static void test_attach_refuses(void **state)
{
	struct shared *sh = NULL, *good = make();
	struct err e = ERR_INIT;
	off_t size = lseek(shared_fd(good), 0, SEEK_END);
	int fd = memfd_create("other", MFD_CLOEXEC);

	(void)state;
	assert_int_equal(shared_attach(-1, &sh, &e), -EBADF);
	assert_int_equal(ftruncate(fd, 4096), 0);
	assert_int_equal(shared_attach(fd, &sh, &e), -EPROTO);
	assert_non_null(strstr(e.text, "another version"));
	assert_int_equal(ftruncate(fd, size), 0); /* right size, no magic */
	assert_int_equal(shared_attach(fd, &sh, &e), -EPROTO);
	assert_null(sh);
	(void)close(fd);
	shared_detach(good);
}

static void test_area_cannot_shrink(void **state)
{
	struct shared *sh = make();

	(void)state;
	assert_int_equal(ftruncate(shared_fd(sh), 0), -1);
	shared_detach(sh);
}

static void test_handle_basics(void **state)
{
	struct shared *sh = make();
	struct shared_handle *h, *again;

	(void)state;
	assert_null(shared_handle_get(sh, 7, false));
	assert_null(shared_handle_get(sh, 0, true));
	h = shared_handle_get(sh, 7, true);
	assert_non_null(h);
	assert_true(h->fh == 7 && !h->cursor && !h->poll_kh && !h->user64);
	h->cursor = 12;
	again = shared_handle_get(sh, 7, true);
	assert_ptr_equal(h, again);
	assert_int_equal(again->cursor, 12);
	shared_handle_drop(sh, 7);
	shared_handle_drop(sh, 7);
	shared_handle_drop(sh, 0);
	assert_null(shared_handle_get(sh, 7, false));
	h = shared_handle_get(sh, 8, true);
	assert_int_equal(h->cursor, 0); /* nothing of the old one shows through */
	shared_detach(sh);
}

static void test_handles_survive(void **state)
{
	struct shared *sh = make(), *n;
	struct shared_handle *h;
	uint64_t fh;

	(void)state;
	for (fh = 2; fh <= 200; fh += 2) {
		h = shared_handle_get(sh, fh, true);
		h->ino = fh * 3;
	}
	for (fh = 4; fh <= 200; fh += 4)
		shared_handle_drop(sh, fh);
	n = next(sh);
	assert_int_equal(count_handles(n), 50);
	for (fh = 2; fh <= 200; fh += 2) {
		h = shared_handle_get(n, fh, false);
		if (fh % 4 == 0)
			assert_null(h);
		else
			assert_int_equal(h->ino, fh * 3);
	}
	/* The holes are used again. */
	for (fh = 1001; fh <= 1050; fh++)
		assert_non_null(shared_handle_get(n, fh, true));
	assert_int_equal(count_handles(n), 100);
	shared_detach(n);
	shared_detach(sh);
}

static void test_handles_full(void **state)
{
	struct shared *sh = make();
	uint64_t fh;

	(void)state;
	for (fh = 1; fh <= HANDLES; fh++)
		assert_non_null(shared_handle_get(sh, fh << 32, true));
	assert_null(shared_handle_get(sh, 1, true));
	shared_handle_drop(sh, UINT64_C(77) << 32);
	assert_non_null(shared_handle_get(sh, 1, true));
	assert_null(shared_handle_get(sh, 2, true));
	assert_int_equal(count_handles(sh), HANDLES);
	shared_detach(sh);
}

static void test_handles_churn(void **state)
{
	struct shared *sh = make(), *n;
	uint64_t fh;

	(void)state;
	/* Many more opens and closes than records: nothing wears out. */
	for (fh = 1; fh <= 1000000; fh++) {
		assert_non_null(shared_handle_get(sh, fh, true));
		if (fh > 10)
			shared_handle_drop(sh, fh - 10);
	}
	n = next(sh);
	assert_int_equal(count_handles(n), 10);
	assert_non_null(shared_handle_get(n, 1000000, false));
	shared_detach(n);
	shared_detach(sh);
}

static void drop_it(void *arg, struct shared_handle *h)
{
	shared_handle_drop(arg, h->fh);
}

static void test_walk_may_drop(void **state)
{
	struct shared *sh = make();
	uint64_t fh;

	(void)state;
	for (fh = 1; fh <= 100; fh++)
		(void)shared_handle_get(sh, fh, true);
	shared_handle_walk(sh, drop_it, sh);
	assert_int_equal(count_handles(sh), 0);
	shared_detach(sh);
}

static void check_parked(const struct shared *sh, uint64_t unique, const char *text, size_t len)
{
	size_t got = 0;
	const void *data = shared_parked_data(sh, unique, &got);

	assert_non_null(data);
	assert_int_equal(got, len);
	assert_memory_equal(data, text, len);
	assert_int_equal((uintptr_t)data % 8, 0);
}

static void test_park(void **state)
{
	struct shared *sh = make(), *n;
	uint64_t *list;
	size_t len;

	(void)state;
	assert_int_equal(shared_park(sh, 10, "ten", 3), 0);
	assert_int_equal(shared_park(sh, 6, "six", 3), 0);
	assert_int_equal(shared_park(sh, 8, "eight", 5), 0);
	assert_int_equal(shared_parked(sh), 3);
	check_parked(sh, 6, "six", 3);
	shared_unpark(sh, 6);
	shared_unpark(sh, 6);
	assert_null(shared_parked_data(sh, 6, &len));
	assert_int_equal(shared_park(sh, 2, "two", 3), 0); /* takes the place of six, comes last */
	n = next(sh);
	assert_int_equal(shared_parked_list(n, &list), 3);
	assert_true(list[0] == 10 && list[1] == 8 && list[2] == 2);
	check_parked(n, 8, "eight", 5);
	check_parked(n, 2, "two", 3);
	free(list);
	shared_detach(n);
	shared_detach(sh);
}

static void test_park_sizes(void **state)
{
	static char big[SHARED_REQUEST_MAX];
	static const size_t sizes[] = { 40, 488, 489, 8168, 8169, 131072, SHARED_REQUEST_MAX };
	struct shared *sh = make(), *n;
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7);
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		assert_int_equal(shared_park(sh, 100 + 2 * i, big, sizes[i]), 0);
	n = next(sh);
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		check_parked(n, 100 + 2 * i, big, sizes[i]);
	for (i = 0; i < ARRAY_SIZE(sizes); i++)
		shared_unpark(n, 100 + 2 * i);
	assert_int_equal(shared_parked(n), 0);
	shared_detach(n);
	shared_detach(sh);
}

static void test_park_full(void **state)
{
	static char big[SHARED_REQUEST_MAX];
	struct shared *sh = make();
	uint64_t u, all = SLOTS_SMALL + SLOTS_MEDIUM + SLOTS_LARGE;

	(void)state;
	/* Small requests go on in larger slots when theirs are used up. */
	for (u = 1; u <= all; u++)
		assert_int_equal(shared_park(sh, u, "x", 1), 0);
	assert_int_equal(shared_park(sh, u, "x", 1), -ENOMEM);
	assert_int_equal(shared_parked(sh), all);
	shared_unpark(sh, 1);
	assert_int_equal(shared_park(sh, u, big, sizeof(big)), -ENOMEM); /* the free one is too small */
	assert_int_equal(shared_park(sh, u, "x", 1), 0);
	shared_detach(sh);
}

static void set_cur(struct shared *sh, uint64_t unique, uint32_t len)
{
	struct fuse_in_header *in = shared_cur(sh);

	in->len = len;
	in->unique = unique;
}

static void test_cur(void **state)
{
	struct shared *sh = make(), *n;

	(void)state;
	assert_int_equal(shared_cur_unique(sh), 0);
	memset(shared_cur(sh), 1, SHARED_REQUEST_MAX);
	set_cur(sh, 44, 80);
	n = next(sh);
	assert_int_equal(shared_cur_unique(n), 44);
	shared_cur_clear(n);
	assert_int_equal(shared_cur_unique(sh), 0);
	set_cur(sh, 46, SHARED_REQUEST_MAX + 1); /* what no kernel writes is not believed */
	assert_int_equal(shared_cur_unique(n), 0);
	set_cur(sh, 46, 39);
	assert_int_equal(shared_cur_unique(n), 0);
	shared_detach(n);
	shared_detach(sh);
}

static void test_forget(void **state)
{
	struct shared *sh = make(), *worker = next(sh), *n;
	uint64_t *list;

	(void)state;
	assert_int_equal(shared_park(worker, 20, "a", 1), 0);
	assert_int_equal(shared_park(worker, 22, "b", 1), 0);
	set_cur(worker, 24, 80);
	shared_set_busy(worker, 20);
	assert_int_equal(shared_busy(sh), 20);
	shared_forget(sh, 20); /* the keeper did not park it, and finds it */
	assert_int_equal(shared_busy(sh), 0);
	shared_set_busy(worker, 24);
	shared_forget(sh, 24);
	assert_int_equal(shared_cur_unique(sh), 0);
	n = next(sh);
	assert_int_equal(shared_parked_list(n, &list), 1);
	assert_int_equal(list[0], 22);
	free(list);
	shared_detach(n);
	shared_detach(worker);
	shared_detach(sh);
}

static void test_init(void **state)
{
	char big[SHARED_INIT_MAX + 1] = "";
	struct shared *sh = make(), *n;
	size_t len, reply_len;

	(void)state;
	assert_null(shared_init_request(sh, &len));
	assert_null(shared_init_reply(sh, &len));
	assert_int_equal(shared_init_save(sh, big, sizeof(big), "r", 1), -EFBIG);
	assert_int_equal(shared_init_save(sh, "q", 1, big, sizeof(big)), -EFBIG);
	assert_null(shared_init_request(sh, &len));
	assert_int_equal(shared_init_save(sh, "question", 8, "answer", 6), 0);
	n = next(sh);
	assert_memory_equal(shared_init_request(n, &len), "question", 8);
	assert_memory_equal(shared_init_reply(n, &reply_len), "answer", 6);
	assert_true(len == 8 && reply_len == 6);
	shared_detach(n);
	shared_detach(sh);
}

/* A worker that parks and unparks, opens and closes as fast as it can, until it is killed. It also says what it did
 * last. */
static void __attribute__((noreturn)) busy_worker(const struct shared *sh, volatile uint64_t *told)
{
	struct shared *w = next(sh);
	uint64_t u;
	char text[600];

	for (u = told[0] + 2;; u += 2) {
		memset(text, (int)(u & 0x7f), sizeof(text));
		if (shared_park(w, u, text, u % 4 ? 100 : sizeof(text)))
			_exit(1);
		shared_handle_get(w, u, true)->ino = u;
		told[0] = u;
		if (u > told[1] + 40) {
			shared_unpark(w, told[1] + 2);
			shared_handle_drop(w, told[1] + 2);
			told[1] += 2;
		}
	}
}

static void check_after_kill(const struct shared *sh, const volatile uint64_t *told)
{
	struct shared *n = next(sh);
	uint64_t *list;
	size_t i, k, len, count = shared_parked_list(n, &list);
	const char *data;

	/* Between told[1] (all before are gone) and told[0] (all up to it are there), give or take the step that was
	 * cut. */
	assert_in_range(count, (told[0] - told[1]) / 2 - 1, (told[0] - told[1]) / 2 + 1);
	for (i = 0; i < count; i++) {
		assert_in_range(list[i], told[1] + 2, told[0] + 2);
		if (i)
			assert_true(list[i] > list[i - 1]);
		data = shared_parked_data(n, list[i], &len);
		assert_int_equal(len, list[i] % 4 ? 100 : 600);
		for (k = 0; k < len; k++)
			assert_int_equal(data[k], list[i] & 0x7f);
	}
	free(list);
	assert_in_range(count_handles(n), (told[0] - told[1]) / 2 - 1, (told[0] - told[1]) / 2 + 1);
	shared_detach(n);
}

/* What a cut step left behind would be unparked by an answer of the kernel: do that here. */
static void settle(const struct shared *sh, volatile uint64_t *told)
{
	struct shared *n = next(sh);
	uint64_t *list, u = told[0] + 2;
	size_t i, count = shared_parked_list(n, &list);

	shared_unpark(n, u);
	shared_handle_drop(n, u);
	told[0] = u;
	for (i = 0; i < count; i++) {
		shared_unpark(n, list[i]);
		shared_handle_drop(n, list[i]);
	}
	for (u = told[1]; u <= told[0]; u += 2)
		shared_handle_drop(n, u);
	told[1] = told[0];
	free(list);
	shared_detach(n);
}

static void test_kill_anywhere(void **state)
{
	volatile uint64_t *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct shared *sh = make();
	int i;

	(void)state;
	told[0] = told[1] = 2;
	for (i = 0; i < 60; i++) {
		uint64_t before = told[0];
		pid_t pid = fork();

		if (pid == 0)
			busy_worker(sh, told);
		while (told[0] < before + 100) /* it works */
			(void)usleep(100);
		(void)usleep((unsigned int)(10 + i * 8));
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
		check_after_kill(sh, told);
		settle(sh, told);
	}
	(void)munmap((void *)(uintptr_t)told, 4096);
	shared_detach(sh);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mount_id),
		cmocka_unit_test(test_attach_refuses),
		cmocka_unit_test(test_area_cannot_shrink),
		cmocka_unit_test(test_handle_basics),
		cmocka_unit_test(test_handles_survive),
		cmocka_unit_test(test_handles_full),
		cmocka_unit_test(test_handles_churn),
		cmocka_unit_test(test_walk_may_drop),
		cmocka_unit_test(test_park),
		cmocka_unit_test(test_park_sizes),
		cmocka_unit_test(test_park_full),
		cmocka_unit_test(test_cur),
		cmocka_unit_test(test_forget),
		cmocka_unit_test(test_init),
		cmocka_unit_test(test_kill_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
