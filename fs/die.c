/*
 * Self-kills of a worker under test. Owns the hook of backend/base/point.h and, with a shared page, the page's mapping.
 *
 * The page is written by the test (where and when) and by the worker (what happened), each field by one of them, but
 * for `armed`, which is cleared by the worker that dies: so a place that was armed kills one worker and no more. All
 * threads pass here; whoever counts down to zero dies.
 */
#include "fs/die.h"

#include "backend/base/clock.h"
#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/point.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_SIZE = 4096, PAGE_POINTS = 64, NAME_SIZE = 32 };

struct die_page {
	uint32_t n_points;  /* of this program */
	uint32_t armed;     /* point + 1; 0: none */
	uint32_t countdown; /* passes until death, > 0 */
	uint32_t deaths_all;
	uint32_t passes[PAGE_POINTS], deaths[PAGE_POINTS];
	char names[PAGE_POINTS][NAME_SIZE];
};

_Static_assert(sizeof(struct die_page) <= PAGE_SIZE, "a page");
_Static_assert((int)POINT_N <= (int)PAGE_POINTS, "a row for each point");
_Static_assert((int)POINT_SESSION_TAKING_OVER == (int)SESSION_TAKING_OVER,
	       "the session's points come first, in their order");

static struct die_page *page;
static int only;        /* the point, without a page */
static uint64_t chance; /* of 2^32 */
static uint64_t random_state;

static void __attribute__((noreturn)) die(void)
{
	(void)kill(getpid(), SIGKILL);
	for (;;)
		(void)pause();
}

static void page_hook(enum point p)
{
	(void)__atomic_fetch_add(&page->passes[p], 1, __ATOMIC_RELAXED);
	if (__atomic_load_n(&page->armed, __ATOMIC_ACQUIRE) != (uint32_t)p + 1)
		return;
	if (__atomic_fetch_sub(&page->countdown, 1, __ATOMIC_ACQ_REL) != 1)
		return;
	__atomic_store_n(&page->armed, 0, __ATOMIC_RELEASE);
	(void)__atomic_fetch_add(&page->deaths[p], 1, __ATOMIC_RELAXED);
	(void)__atomic_fetch_add(&page->deaths_all, 1, __ATOMIC_RELEASE);
	die();
}

/* splitmix64; two threads at once may draw the same number, which does no harm. */
static uint64_t draw(void)
{
	uint64_t z = __atomic_add_fetch(&random_state, UINT64_C(0x9e3779b97f4a7c15), __ATOMIC_RELAXED);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void chance_hook(enum point p)
{
	if ((int)p != only || draw() >> 32 >= chance)
		return;
	log_warn("test: dies at %s", point_name(p));
	die();
}

static int open_page(const char *path, struct err *e)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *at = MAP_FAILED;

	if (fd >= 0 && ftruncate(fd, PAGE_SIZE) == 0)
		at = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (fd >= 0)
		(void)close(fd);
	if (at == MAP_FAILED)
		return err_sys(e, -errno, DIE_VARIABLE ": %s", path);
	page = at;
	for (int i = 0; i < POINT_N; i++)
		(void)snprintf(page->names[i], NAME_SIZE, "%s", point_name((enum point)i));
	__atomic_store_n(&page->n_points, POINT_N, __ATOMIC_RELEASE);
	return 0;
}

static int parse_chance(const char *text, struct err *e)
{
	const char *colon = strchr(text, ':');
	cleanup_free char *name = colon ? xstrndup(text, (size_t)(colon - text)) : NULL;
	char *end = NULL;
	double p = 0;
	long number;

	if (colon) {
		only = point_of(name);
		number = strtol(name, &end, 10);
		if (only < 0 && end != name && !*end && number >= 0 && number < POINT_N)
			only = (int)number;
		p = strtod(colon + 1, &end);
	}
	if (!colon || only < 0 || end == colon + 1 || *end != ':' || !(p >= 0 && p <= 1))
		return err_set(e, -EINVAL, DIE_VARIABLE " takes POINT:PROBABILITY:SEED or an absolute path, not '%s'",
			       text);
	chance = (uint64_t)(p * 4294967296.0);
	/* Each worker draws other numbers, or all would die at the same place of the same request. */
	random_state = strtoull(end + 1, NULL, 10) ^ (uint64_t)getpid() << 32;
	return 0;
}

int die_setup(struct err *e)
{
	const char *text = getenv(DIE_VARIABLE);
	int rc;

	if (!text || !*text)
		return 0;
	rc = *text == '/' ? open_page(text, e) : parse_chance(text, e);
	if (rc == 0)
		point_hook = page ? page_hook : chance_hook;
	return rc;
}

int64_t die_journal_us(int64_t normal)
{
	const char *text = getenv(DIE_JOURNAL_VARIABLE);
	char *end;
	long ms;

	if (!text || !*text)
		return normal;
	errno = 0;
	ms = strtol(text, &end, 10);
	return errno || *end || ms <= 0 || ms > 3600 * 1000L ? normal : ms * (int64_t)USEC_PER_MSEC;
}

static void session_hook(enum session_point p)
{
	point((enum point)p);
}

void (*die_session_hook(void))(enum session_point p)
{
	return point_hook ? session_hook : NULL;
}
