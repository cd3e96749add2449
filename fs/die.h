/*
 * For tests only: a worker that kills itself at a numbered place (backend/base/point.h). Nothing happens unless the
 * environment variable SLURMRAY_TEST_DIE is set for the keeper, from which its workers have it:
 *
 *	POINT:PROBABILITY:SEED	at each pass of the place POINT (a name or number) with this probability
 *	/FILE			a page that a test shares with the workers; it says where the next one dies, and when
 */
#ifndef FS_DIE_H
#define FS_DIE_H

#include "backend/base/err.h"
#include "fs/session.h"

#include <stdbool.h>
#include <stdint.h>

#define DIE_VARIABLE "SLURMRAY_TEST_DIE"
#define DIE_JOURNAL_VARIABLE "SLURMRAY_TEST_JOURNAL_MS"

/* Reads the variable; before threads start. -EINVAL: it makes no sense. */
int die_setup(struct err *e);
/* How long requests wait for the journal: SLURMRAY_TEST_JOURNAL_MS, if it is there and makes sense, else `normal`. */
int64_t die_journal_us(int64_t normal);
/* For session_conf.at_point; NULL when nobody wants to die. */
void (*die_session_hook(void))(enum session_point p);

#endif
