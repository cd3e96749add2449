/*
 * Asks logind for a moment before the machine sleeps (a delay inhibitor), and says when it is about to: a reader that
 * is blocked in FUSE cannot be frozen, and would abort the suspend.
 *
 * Speaks D-Bus itself, as much as five messages need, so that nothing is linked for it; without a system bus or logind
 * there is nothing to do. Reactor thread only; nothing here waits.
 */
#ifndef FS_SLEEP_H
#define FS_SLEEP_H

#include <stdbool.h>

struct sleep_watch;

/* `tell` is called with true before the machine sleeps (what it does may take a second or two: then the machine goes
   on) and with false when it woke up, or when nobody knows any more. */
struct sleep_watch *sleep_new(void (*tell)(void *arg, bool asleep), void *arg);
void sleep_free(struct sleep_watch *w); /* NULL is fine; does not call back */
/* The bus: what the loop polls for input; -1 while there is no connection. */
int sleep_fd(const struct sleep_watch *w);
/* Takes what came. */
void sleep_step(struct sleep_watch *w);
/* Connects when there is no connection, not more often than every half minute. `now` is monotonic us. */
void sleep_try(struct sleep_watch *w, long long now);
/* Is there a delay inhibitor? */
bool sleep_inhibits(const struct sleep_watch *w);

#endif
