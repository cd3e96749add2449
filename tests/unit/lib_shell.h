/*
 * A shell at the other end of a socket pair, with the agent's protocol run over it: for the tests of agent and of what
 * is sent through it.
 */
#ifndef TESTS_LIB_SHELL_H
#define TESTS_LIB_SHELL_H

#include "backend/agent.h"

#include <stdint.h>
#include <sys/types.h>

struct shell_end {
	char name[64];
	char text[256];
};

struct shell_answer {
	uint64_t id;
	int rc;
	struct strbuf out, err;
};

struct shell {
	pid_t pid;
	int fd;
	struct agent *agent;
	bool plain_sh, failed, eof;
	int ticks; /* milliseconds between agent_tick calls */
	struct err err;
	char hello[1024];
	struct shell_answer *answers;
	size_t n_answers;
	struct shell_end *ends;
	size_t n_ends;
};

/* Starts argv with its input and output at a socket; ends_dir is shell text. */
void shell_start(struct shell *s, const char *const *argv, const char *prelude, const char *ends_dir, int tick_ms);
/* Moves bytes for up to ms milliseconds or until cond() is true; returns cond()'s last value. */
bool shell_run(struct shell *s, int ms, bool (*cond)(struct shell *, void *), void *arg);
/* Waits for the answer to id; fails the test when none comes. */
struct shell_answer *shell_answer(struct shell *s, uint64_t id);
/* Waits for HELLO. */
void shell_hello(struct shell *s);
/* Closes the input of the shell, waits for its end and frees everything; returns its exit status. */
int shell_stop(struct shell *s);

#endif
