/*
 * Small result files are fetched before they are opened: who opens a second one of a directory in order (cp -r, tar,
 * grep -r) gets the following ones as many requests that are on their way together, not one after the other. They are
 * kept as content.c keeps them (STATE/spool/NUM/data.INDEX).
 */
#ifndef FS_AHEAD_H
#define FS_AHEAD_H

#include "fs/fsys.h"
#include "fs/paths.h"

#include "backend/base/err.h"

/* A final result of this run is opened now. */
void ahead_opened(struct fsys *fs, struct paths *p, struct pentry *e);
/* Is it on its way because of that? Whoever waits for it is tried again (park_retry) when it is here, or is not. */
bool ahead_coming(struct fsys *fs, uint32_t run, uint32_t index);
/* All results of the run are wanted here: engine_fetch_done is told when they are, or cannot be. */
void ahead_all(struct fsys *fs, struct paths *p);
/* The table goes away: what was begun for it, too. */
void ahead_stop(struct paths *p);
/* STATE/spool/NUM/data.INDEX; the caller frees. */
char *ahead_file(const struct fsys *fs, uint32_t run, uint32_t index);
/* All of that file is here. */
bool ahead_here(const struct fsys *fs, uint32_t run, const struct pentry *e);

#endif
