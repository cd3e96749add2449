/*
 * The supervisor of one job of the local cluster: a process of its own that outlives the daemon. It starts the job's
 *script, keeps its limits, passes signals on to the whole tree of processes, and writes the exit record when nothing of
 *it is left.
 *
 * Everything goes through the attempt's directory:
 *	params      JSON, written before the supervisor is started (struct supervisor_params)
 *	supervisor  link "BOOTID:PID:STARTTIME" (first one wins: a second supervisor leaves at once), or "void": may
 *never start control     FIFO; lines "cancel", "signal N" begun       the files of the streams are the job's now: what
 *was in them before is gone trouble     why the script was never started, in a sentence cancelled   the user asked for
 *it, made by the cluster exit        the exit record (backend/sched.h), by rename; only then the supervisor ends
 */
#ifndef BACKEND_SUPERVISOR_H
#define BACKEND_SUPERVISOR_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct supervisor_params {
	uint32_t run, attempt;
	char *job_id;
	char *name;        /* job name */
	char *ends;        /* file of the script's own record: DIRECTORY/UUID/ends/NUM.aN */
	char *out, *err;   /* files of the streams; equal: one file for both */
	int64_t time_s;    /* -1: no limit */
	int64_t mem_bytes; /* 0: no limit */
	int grace_s;
	int signal_num, signal_lead_s;
	int ntasks, cpus_per_task;
	bool append; /* to files that are there already (sbatch's --open-mode) */
};

int supervisor_params_write(const char *dir, const struct supervisor_params *p, struct err *e);
int supervisor_params_read(const char *dir, struct supervisor_params *p, struct err *e);
void supervisor_params_release(struct supervisor_params *p);

/* Whole parameters are there, written since this machine was booted (what a power failure left may be anything). */
bool supervisor_params_ready(const char *dir);

/* `slurmray __supervise DIR`: the process's main function. */
int supervisor_main(int argc, char **argv);

enum supervisor_state { SUPERVISOR_NONE, SUPERVISOR_ALIVE, SUPERVISOR_DEAD, SUPERVISOR_VOID };
/* What the link in `dir` says; ALIVE: *pid is the process. */
enum supervisor_state supervisor_look(const char *dir, pid_t *pid);
/* When the supervisor made its link, real microseconds; 0: there is none. */
int64_t supervisor_since(const char *dir);
/* Kills what a supervisor that was killed itself left running, and waits a moment until it is gone. */
void supervisor_sweep(const char *dir);
/* Makes the attempt unable to start; false when a supervisor was there first. */
bool supervisor_void(const char *dir);
/* Writes a line to the control FIFO; 0, -ESRCH when nobody reads it, or another negative errno. */
int supervisor_tell(const char *dir, const char *line);

#endif
