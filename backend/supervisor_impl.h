/*
 * Private to supervisor.c, supervisor_dir.c and supervisor_tree.c.
 */
#ifndef BACKEND_SUPERVISOR_IMPL_H
#define BACKEND_SUPERVISOR_IMPL_H

#include "backend/supervisor.h"

#include <stddef.h>

void supervisor_identity(pid_t pid, char *out, size_t size);

/* Processes below `root` (not itself), at most `max`; their number. */
size_t tree_list(pid_t root, pid_t *out, size_t max);
void tree_kill(pid_t root, int sig);
/* Sum of the resident sets in bytes. */
int64_t tree_rss(pid_t root);

#endif
