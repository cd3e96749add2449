/*
 * The long-lived remote shell: requests and answers over one channel (see docs/design/ "the remote shell").
 *
 * Nothing is installed: the program is sent as text over the login shell's standard input after a sentinel, runs in
 * bash where present and else in sh, and is gone with the connection. A request is a piece of shell code with an
 * optional payload; it is run only when it arrived whole. Requests that call the scheduler run beside the
 * loop, their output is collected in files and framed by the loop, so one that hangs delays no other. The loop looks
 * into the `ends/` directory once per tick without starting a process and pushes what it finds.
 *
 * This module is the protocol only: bytes in, bytes out, no descriptors and no clock, so that it runs over any
 * transport, a socketpair or a recording. The parser believes nothing the peer says about lengths beyond its limits.
 */
#ifndef BACKEND_AGENT_H
#define BACKEND_AGENT_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_BESIDE_MAX 16 /* requests that run beside the loop at once; more wait in the loop for their turn */
#define AGENT_FRAME_MAX (64 * 1024 * 1024) /* a longer answer is an error, not an allocation */

/* What the loop sends. */
enum agent_frame_type {
	AGENT_HELLO,  /* text: "key value" lines: shell, user, home, host, epoch ... */
	AGENT_ANSWER, /* id, rc, out, err of one request */
	AGENT_END,    /* name, text: one exit record found in ends/ */
};

struct agent_frame {
	enum agent_frame_type type;
	uint64_t id;
	int rc;
	const char *name;      /* AGENT_END: file name */
	const char *out, *err; /* NUL behind the last byte; AGENT_HELLO and AGENT_END use out; borrowed for the call */
	size_t out_len, err_len;
};

typedef void (*agent_cb)(void *arg, const struct agent_frame *f);

struct agent;

/*
 * `prelude` is shell text (functions of the scheduler driver) defined before the loop starts; `ends_dir` is quoted
 * shell text of the directory to look in (quote_sh_path); tick_ms is how often it looks when quiet.
 */
struct agent *agent_new(const char *prelude, const char *ends_dir, int tick_ms, agent_cb cb, void *arg);
void agent_free(struct agent *a);

/* Bytes to be written to the channel now: the bootstrap first, then (once the sentinel came back, for a login shell may
   read ahead) the program and the requests. The owner removes what it wrote with strbuf_remove. */
struct strbuf *agent_output(struct agent *a);

/* Feeds what came from the channel; calls back for each whole frame. -EPROTO: the peer does not speak the protocol
   (banner text before the sentinel is skipped, at most 1 MiB); the text says what was seen. */
int agent_input(struct agent *a, const char *data, size_t len, struct err *e);

enum agent_class {
	AGENT_QUICK,  /* shell built-ins and file operations: run inside the loop, in order; must end and leave nothing
			 behind */
	AGENT_BESIDE, /* anything that may take long: runs beside the loop */
};

/*
 * Queues a request; its answer has the id that is returned (never 0). `code` may hold newlines, no NUL. The payload
 * (may be NULL) is found by the code in the file "$IN", to be read only (/dev/null when it is empty). deadline_s > 0:
 * code beside the loop is killed (TERM, then KILL) after that many seconds and answers rc 124, with what it wrote.
 *
 * Code runs in a subshell in the user's home, its stdin is /dev/null; it may use the prelude's functions and $IN.
 * LC_ALL is C for the shell itself but not exported: programs that are started see the user's own locale. A request
 * that is not answered when the connection ends either never started or runs to its end; one that did not arrive whole
 * never runs.
 */
uint64_t agent_request(struct agent *a, enum agent_class cls, const char *code, const void *payload, size_t len,
		       int deadline_s);

/* Changes the pace of looking in ends/. */
void agent_set_tick(struct agent *a, int tick_ms);
bool agent_ready(const struct agent *a); /* HELLO was seen */
/* Once per tick, and every 20 to 50 ms while requests beside the loop are open: a plain sh has no clock of its own and
   looks at its jobs and at ends/ only when this asks it to. Does nothing where the loop runs in bash, or while output
   is waiting. */
void agent_tick(struct agent *a);
/* Has every record that is (still) in ends/ reported again. */
void agent_ends_again(struct agent *a);

/* The line that the login shell is sent first. Also good as the command of an exec channel, for a login shell that does
   not read commands from its input before that ends (fish): everything else stays the same. */
void agent_bootstrap(struct strbuf *out);

/* The program's text, for tests (sh -n, shellcheck). */
void agent_program(const char *prelude, const char *ends_dir, int tick_ms, struct strbuf *out);

#endif
