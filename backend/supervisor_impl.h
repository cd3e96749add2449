/*
 * Private to supervisor.c, supervisor_dir.c and supervisor_tree.c.
 */
#ifndef BACKEND_SUPERVISOR_IMPL_H
#define BACKEND_SUPERVISOR_IMPL_H

#include "backend/supervisor.h"

#include <stddef.h>

/* A variable that everything below a supervisor inherits; its value is the attempt's directory. */
#define SUPERVISOR_MARK "SLURMRAY_JOB_DIR"

void supervisor_identity(pid_t pid, char *out, size_t size);

/* Processes below `root` (not itself), at most `max`; their number. */
size_t tree_list(pid_t root, pid_t *out, size_t max);
/* `except` (0: nobody) is left alone. */
void tree_kill(pid_t root, pid_t except, int sig);
/* Sum of the resident sets in bytes; what processes share is counted for each of them. */
int64_t tree_rss(pid_t root);
/* The same with shared pages divided among those who share them; slow. -1: the kernel does not say. */
int64_t tree_pss(pid_t root);

void boot_id(char out[40]);

#endif
