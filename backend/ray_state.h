/*
 * What a run's Ray cluster says of itself: small files in ATTEMPT/ray, each written whole by rename (launchers/
 * inner_keeper.c), become facts of the run ("ray_state" ...), told when they change.
 */
#ifndef BACKEND_RAY_STATE_H
#define BACKEND_RAY_STATE_H

#include "backend/base/strbuf.h"
#include "backend/job.h"

#include <jansson.h>
#include <stdint.h>

#define RAY_FILES_MAX ((size_t)256 * 1024) /* what is read of one file */

enum { RAY_STATE, RAY_WHY, RAY_ADDRESS, RAY_DASHBOARD, RAY_CLIENT, RAY_VERSION, RAY_NODES, RAY_FILES };
extern const char *const ray_file_names[RAY_FILES];

struct ray_seen { /* zeroed: nothing was seen */
	char *text[RAY_FILES];
	bool known; /* a look was made: all is told at the first, whatever an earlier worker told */
};

/* Does this job have a Ray cluster of its own? `job` may be NULL. */
bool ray_own(const struct job *job);
/* The facts that changed (owned), or NULL. A text of "" or NULL: there is no such file. */
json_t *ray_seen_take(struct ray_seen *s, const char *const text[RAY_FILES]);
/* Is it in a state that lasts? */
bool ray_seen_settled(const struct ray_seen *s);
void ray_seen_release(struct ray_seen *s);

#endif
