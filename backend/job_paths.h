/*
 * What can be said of the paths of a job when it is written: those of this machine that are not there, or not what they
 * have to be, are refused with a sentence. What only the start can tell is left to it.
 */
#ifndef BACKEND_JOB_PATHS_H
#define BACKEND_JOB_PATHS_H

#include "backend/base/strbuf.h"

#include <stdbool.h>

struct job;

struct job_paths_where {
	bool this_machine; /* the job runs here: then workdir and input are paths of this machine, too */
	const char *mount; /* our own mount, below which nobody may look from here; or NULL */
};

/*
 * 0, or -EINVAL with a sentence a line in `errors`, each with key, path and reason. A job that waits for other runs may
 * find then what is not there now: only the mount is looked at. Never waits for long: a path that does not answer (a
 * file system of the network that is away) is taken as good.
 */
int job_paths_check(const struct job *job, const struct job_paths_where *where, struct strbuf *errors);

#endif
