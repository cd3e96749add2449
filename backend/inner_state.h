/*
 * What a run's Ray or Spark cluster (launchers/inner.h) says of itself: small files in ATTEMPT/ray or ATTEMPT/spark,
 * each written whole by rename (launchers/inner_keeper.c), become facts of the run ("ray_state", "spark_state" ...),
 * told when they change.
 */
#ifndef BACKEND_INNER_STATE_H
#define BACKEND_INNER_STATE_H

#include "backend/base/strbuf.h"
#include "backend/job.h"

#include <jansson.h>
#include <stdint.h>

#define INNER_FILES_MAX ((size_t)256 * 1024) /* what is read of one file */

enum inner_kind { INNER_RAY, INNER_SPARK, INNER_KINDS };
extern const char *const inner_kinds[INNER_KINDS]; /* the directory's name, and the fact that the run has one */

/* Not every kind has all of them; the last one has several lines. */
enum {
	INNER_STATE,
	INNER_WHY,
	INNER_ADDRESS,
	INNER_DASHBOARD,
	INNER_CLIENT,
	INNER_VERSION,
	INNER_PYTHON,
	INNER_NODES,
	INNER_FILES
};
extern const char *const inner_file_names[INNER_FILES];

struct inner_seen { /* zeroed: nothing was seen */
	char *text[INNER_FILES];
	bool known; /* a look was made: all is told at the first, whatever an earlier worker told */
};

/* Does this job have a cluster of its own of that kind? `job` may be NULL. */
bool inner_own(const struct job *job, enum inner_kind kind);
/* The facts that changed (owned), or NULL. A text of "" or NULL: there is no such file. */
json_t *inner_seen_take(struct inner_seen *s, enum inner_kind kind, const char *const text[INNER_FILES]);
/* Is it in a state that lasts? */
bool inner_seen_settled(const struct inner_seen *s);
void inner_seen_release(struct inner_seen *s);

#endif
