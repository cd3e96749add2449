/*
 * The parts of the launcher of sessions.
 */
#ifndef LAUNCHERS_SESSION_H
#define LAUNCHERS_SESSION_H

/* session_runner.c: what the session's job runs, behind the settings. */
extern const char session_runner[];
/* The same: what is around a step on another node. */
extern const char session_far[];

#endif
