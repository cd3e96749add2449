/*
 * The engine over a real store in a directory that is thrown away, and clusters that only note what they are sent: the
 * test answers in their place. Everything is in the test's thread but the store's own.
 */
#ifndef TESTS_LIB_ENGINE_H
#define TESTS_LIB_ENGINE_H

#include "backend/engine_private.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define EF_CONF "[cluster hpc]\nhost = login\n[cluster two]\nhost = other\n[defaults]\ncluster = hpc\n"

/* What one callback said. */
struct said {
	int calls, code;
	char text[1200];
};

struct ef {
	char dir[64];
	struct config *config;
	struct engine *en;
	uint64_t mount_id;
	uint64_t request;
	/* what the clusters were sent, in order; released by ef_forget */
	struct creq **got;
	size_t n_got, cap_got;
	void (*on_post)(struct ef *f, const struct creq *r); /* looks at each as it comes */
	void *arg;
	uint32_t in_use;              /* a run whose results somebody reads */
	unsigned changed, gone, grew; /* calls of the observer */
};

/* One at a time. `conf` NULL: EF_CONF. */
struct ef *ef_new(const char *conf);
void ef_free(struct ef *f);
void ef_close(struct ef *f); /* without waiting for anything: what was not committed is lost */
void ef_open(struct ef *f);  /* another worker on the same connection */
void ef_open_with(struct ef *f, const char *conf);
void ef_reopen(struct ef *f); /* close, forget, open, quiet */

/* Steps until every commit that is under way has returned and been acted upon. */
void ef_quiet(struct ef *f);
bool ef_busy(const struct ef *f);
void ef_step(struct ef *f);
void ef_pass(int64_t us); /* time goes by */

void said(void *arg, int code, const char *text);
#define SAID(s, want_code, want_text)                                                                                  \
	do {                                                                                                           \
		assert_int_equal((s)->calls, 1);                                                                       \
		assert_int_equal((s)->code, want_code);                                                                \
		assert_string_equal((s)->text, want_text);                                                             \
		memset((s), 0, sizeof(*(s)));                                                                          \
	} while (0)
#define FAILED(s, want_code, part)                                                                                     \
	do {                                                                                                           \
		assert_int_equal((s)->calls, 1);                                                                       \
		assert_int_equal((s)->code, want_code);                                                                \
		if (!strstr((s)->text, part))                                                                          \
			fail_msg("\"%s\" does not say \"%s\"", (s)->text, part);                                       \
		memset((s), 0, sizeof(*(s)));                                                                          \
	} while (0)

/* Submits and waits; the run's number. The document is a JSON object written with ' for ". */
uint32_t ef_run(struct ef *f, const char *spec);
void ef_submit(struct ef *f, const char *spec, uint32_t draft, struct said *s);
uint32_t ef_draft(struct ef *f, const char *name);
void ef_verb(struct ef *f, uint32_t run, const char *line, struct said *s);
void ef_purge(struct ef *f, uint32_t run, struct said *s);

/* The latest request of this type (and run, 0: any) or NULL; how many there were. */
struct creq *ef_req(const struct ef *f, enum creq_type type, uint32_t run);
size_t ef_count(const struct ef *f, enum creq_type type, uint32_t run);
struct creq *ef_verb_req(const struct ef *f, uint32_t run, const char *verb);
size_t ef_verb_count(const struct ef *f, uint32_t run, const char *verb);
void ef_forget(struct ef *f);

/* What a cluster reports; each waits until it has been taken in. Events are JSON written with '. */
void ef_event(struct ef *f, uint32_t run, enum event_type type, const char *data);
void ef_log(struct ef *f, uint32_t run, int64_t out, int64_t err, bool last);
void ef_events_last(struct ef *f, uint32_t run); /* all messages are here */
void ef_answer(struct ef *f, const struct creq *r, int code, const char *text, const char *data, size_t len);
void ef_link(struct ef *f, const char *cluster, bool up);

/* Up to a status, by the usual way. */
uint32_t ef_pending_run(struct ef *f, const char *spec);
uint32_t ef_running_run(struct ef *f, const char *spec);
uint32_t ef_ended_run(struct ef *f, const char *spec);
enum run_status ef_status(const struct ef *f, uint32_t run);
#define STATUS(f, run, word) assert_string_equal(run_status_name(ef_status(f, run)), word)

json_t *ef_json(const char *text);
/* A number that SQL gives from a copy of the journal as it is on the disk now. */
long long ef_sql(const struct ef *f, const char *sql);

#endif
