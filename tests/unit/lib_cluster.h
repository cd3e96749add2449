/*
 * What tests of a cluster thread share: a home and a state directory that are thrown away, the cluster's reports
 * collected, and waiting for what they say. One at a time.
 */
#ifndef TESTS_LIB_CLUSTER_H
#define TESTS_LIB_CLUSTER_H

#include "backend/remote.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define UUID "11111111-2222-3333-4444-555555555555"
#define MS ((int64_t)USEC_PER_MSEC)
#define PATIENCE_MS 60000

struct answer {
	uint64_t ticket;
	int code, times;
	char *text, *data;
	size_t len;
};

struct fx {
	char root[64], home[80], state[80];
	char *hosts[2];
	struct cluster_conf conf;
	struct cluster_ctx ctx;
	struct inbox replies;
	struct cluster *c;
	struct event *ev[512];
	uint32_t ev_run[512];
	size_t n_ev;
	struct answer answers[64];
	size_t n_answers;
	bool up, asking;
	int links;
	char link_text[512];
	int64_t out_len, err_len;
	bool pipes;       /* jobs get a Pipes session; the context is ROOT/context */
	bool events_last; /* reported */
	uint64_t ticket;
	char *listing[2]; /* by enum cluster_area: the last one that came unasked */
	size_t listing_len[2];
	int listings;
	bool listing_whole;
	void (*on_log)(struct fx *f, uint32_t run);
};

/* Waits until `cond` holds; cmocka fails the test when it does not come. */
#define FX_WAIT(f, cond)                                                                                               \
	do {                                                                                                           \
		int64_t until_ = clock_mono(&clock_system) + PATIENCE_MS * MS;                                         \
		for (fx_take(f); !(cond); fx_take(f)) {                                                                \
			struct pollfd p_ = { .fd = inbox_fd(&(f)->replies), .events = POLLIN };                        \
			if (clock_mono(&clock_system) > until_)                                                        \
				fail_msg("waited in vain for %s (link: %s)", #cond, (f)->link_text);                   \
			(void)poll(&p_, 1, 20);                                                                        \
		}                                                                                                      \
	} while (0)

void fx_shell(const char *home, const char *code);
void fx_clear_faults(void);
struct fx *fx_new(void);
void fx_start(struct fx *f);
void fx_take(struct fx *f);
void fx_stop(struct fx *f);
void fx_forget_events(struct fx *f);
void fx_free(struct fx *f);
const struct event *fx_event(const struct fx *f, uint32_t run, enum event_type type, const char *status);
const struct answer *fx_answer(const struct fx *f, uint64_t ticket);
struct creq *fx_make_submit(const struct fx *f, enum creq_type type, uint32_t run, uint32_t attempt,
			    const char *command);
void fx_submit(struct fx *f, uint32_t run, const char *command);
uint64_t fx_verb(struct fx *f, uint32_t run, const char *word, const char *arg);
uint64_t fx_ask(struct fx *f, enum creq_type type, uint32_t run, const char *path, uint64_t off, uint64_t len);
void fx_assert_spool(const struct fx *f, uint32_t run, enum spool_stream st, const void *want, size_t len);
void fx_assert_home_file(const struct fx *f, const char *name, const char *want);
bool fx_home_has(const struct fx *f, const char *name);
bool fx_logs_are(const struct fx *f, int64_t out, int64_t err);
/* A cluster of another kind instead of the fake one; conf and ctx are the caller's to change before. */
void fx_start_ops(struct fx *f, const struct cluster_ops *ops);

#endif
