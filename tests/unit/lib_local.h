/*
 * The local cluster with real supervisors (this test program, started again as `__supervise`), in a directory that is
 * thrown away. What it reports is collected; waiting is for what it says, with a deadline that only a failure meets.
 */
#ifndef TESTS_LIB_LOCAL_H
#define TESTS_LIB_LOCAL_H

#include "backend/base/strbuf.h"
#include "backend/local.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define LX_RUNS 256
#define LX_UUID "11111111-2222-3333-4444-555555555555"
#define LX_PATIENCE_S 30

struct lx_answer {
	uint64_t ticket;
	int code;
	char *text, *data;
	size_t len;
};

struct lx {
	char root[64], base[128], state[96]; /* base: DIRECTORY/UUID */
	char *directory, *scratch;
	struct cluster_conf conf;
	struct cluster_ctx ctx;
	struct inbox replies;
	struct cluster *c;
	struct event **ev;
	uint32_t *ev_run;
	size_t n_ev, cap_ev;
	int64_t out_len[LX_RUNS], err_len[LX_RUNS];
	bool last[LX_RUNS], last_before_end[LX_RUNS];
	struct lx_answer *answers;
	size_t n_answers;
	uint64_t ticket;
};

#define LX_WAIT(f, cond)                                                                                               \
	do {                                                                                                           \
		int64_t until_ = clock_mono(&clock_system) + LX_PATIENCE_S * (int64_t)USEC_PER_SEC;                    \
		for (lx_take(f); !(cond); lx_take(f)) {                                                                \
			struct pollfd p_ = { .fd = inbox_fd(&(f)->replies), .events = POLLIN };                        \
			if (clock_mono(&clock_system) > until_)                                                        \
				fail_msg("waited in vain for %s", #cond);                                              \
			(void)poll(&p_, 1, 20);                                                                        \
		}                                                                                                      \
	} while (0)

/* In main: acts as supervisor when it was started as one; else -1. */
int lx_supervise(int argc, char **argv);

struct lx *lx_new(void);
void lx_free(struct lx *f);
void lx_start(struct lx *f);
void lx_stop(struct lx *f);
void lx_restart(struct lx *f);
void lx_take(struct lx *f);
void lx_forget_events(struct lx *f);

/* A request for a command; the caller may change q->job before lx_post renders the script. */
struct creq *lx_make(struct lx *f, enum creq_type type, uint32_t run, const char *command);
void lx_post(struct lx *f, struct creq *q);
void lx_submit(struct lx *f, uint32_t run, const char *command);
/* After a restart: submitted before, so its id is known. */
void lx_watch(struct lx *f, uint32_t run, const char *command);
uint64_t lx_verb(struct lx *f, uint32_t run, const char *verb, const char *arg);
uint64_t lx_ask(struct lx *f, enum creq_type type, uint32_t run, enum cluster_area area, const char *path);
const struct lx_answer *lx_answer(struct lx *f, uint64_t ticket); /* waits */

const struct event *lx_event(const struct lx *f, uint32_t run, enum event_type type, const char *status);
size_t lx_count(const struct lx *f, uint32_t run, enum event_type type);
void lx_wait_state(struct lx *f, uint32_t run, const char *status);
const struct event *lx_wait_end(struct lx *f, uint32_t run); /* and for the last of its logs */
void lx_assert_end(struct lx *f, uint32_t run, const char *status, int code);
void lx_wait_out(struct lx *f, uint32_t run, int64_t len);

void lx_path(const struct lx *f, uint32_t run, const char *name, char out[256]);
char *lx_read(const struct lx *f, uint32_t run, const char *name); /* NULL: not there */
void lx_assert_log(const struct lx *f, uint32_t run, enum spool_stream st, const void *want, size_t len);
/* Waits until the file in the attempt's directory has a number in its first line. */
pid_t lx_wait_pid(struct lx *f, uint32_t run, const char *name);
bool lx_alive(pid_t pid);
pid_t lx_spawn_supervisor(const struct lx *f, uint32_t run);

#endif
