/*
 * A shell child on a socket pair. All waits have an end: a test that gets no answer within 30 s fails.
 */
#include "tests/unit/lib_shell.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void on_frame(void *arg, const struct agent_frame *f)
{
	struct shell *s = arg;

	switch (f->type) {
	case AGENT_HELLO:
		(void)snprintf(s->hello, sizeof(s->hello), "%s", f->out);
		s->plain_sh = strncmp(f->out, "shell sh\n", 9) == 0;
		break;
	case AGENT_ANSWER: {
		struct shell_answer *a;

		s->answers = xrealloc(s->answers, (s->n_answers + 1) * sizeof(*s->answers));
		a = &s->answers[s->n_answers++];
		a->id = f->id;
		a->rc = f->rc;
		strbuf_init(&a->out);
		strbuf_init(&a->err);
		strbuf_add(&a->out, f->out, f->out_len);
		strbuf_add(&a->err, f->err, f->err_len);
		assert_int_equal(f->out[f->out_len], 0);
		assert_int_equal(f->err[f->err_len], 0);
		break;
	}
	case AGENT_END: {
		struct shell_end *end;

		s->ends = xrealloc(s->ends, (s->n_ends + 1) * sizeof(*s->ends));
		end = &s->ends[s->n_ends++];
		(void)snprintf(end->name, sizeof(end->name), "%s", f->name);
		(void)snprintf(end->text, sizeof(end->text), "%s", f->out);
		break;
	}
	}
}

void shell_start(struct shell *s, const char *const *argv, const char *prelude, const char *ends_dir, int tick_ms)
{
	int sv[2];

	memset(s, 0, sizeof(*s));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	s->pid = fork();
	if (s->pid == 0) {
		(void)dup2(sv[1], 0);
		(void)dup2(sv[1], 1);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(127);
	}
	(void)close(sv[1]);
	s->fd = sv[0];
	s->ticks = tick_ms < 20 ? tick_ms : 20;
	s->agent = agent_new(prelude, ends_dir, tick_ms, on_frame, s);
}

static void pump(struct shell *s, int ms)
{
	static char buf[65536];
	struct strbuf *out = agent_output(s->agent);
	struct pollfd p = { .fd = s->fd, .events = (short)(POLLIN | (out->len ? POLLOUT : 0)) };
	ssize_t n;

	if (poll(&p, 1, ms) <= 0)
		return;
	if (out->len && (p.revents & POLLOUT)) {
		n = send(s->fd, out->buf, out->len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			strbuf_remove(out, 0, (size_t)n);
		else if (n < 0 && errno != EAGAIN)
			strbuf_reset(out);
	}
	if (!(p.revents & (POLLIN | POLLHUP)))
		return;
	n = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n > 0) {
		if (agent_input(s->agent, buf, (size_t)n, &s->err) < 0)
			s->failed = true;
	} else if (n == 0 || errno != EAGAIN) {
		s->eof = true;
	}
}

bool shell_run(struct shell *s, int ms, bool (*cond)(struct shell *, void *), void *arg)
{
	int64_t end = clock_mono(&clock_system) + (int64_t)ms * USEC_PER_MSEC;

	while (!cond || !cond(s, arg)) {
		int64_t left = (end - clock_mono(&clock_system)) / USEC_PER_MSEC;

		if (left <= 0 || s->failed || s->eof)
			return cond && cond(s, arg);
		pump(s, left < s->ticks ? (int)left : s->ticks);
		agent_tick(s->agent);
	}
	return true;
}

static bool has_hello(struct shell *s, void *arg)
{
	(void)arg;
	return agent_ready(s->agent);
}

void shell_hello(struct shell *s)
{
	if (!shell_run(s, 30000, has_hello, NULL))
		fail_msg("no hello: %s", s->err.text);
}

struct find {
	uint64_t id;
	struct shell_answer *found;
};

static bool has_answer(struct shell *s, void *arg)
{
	struct find *f = arg;
	size_t i;

	for (i = s->n_answers; i-- > 0;) {
		if (s->answers[i].id == f->id) {
			f->found = &s->answers[i];
			return true;
		}
	}
	return false;
}

struct shell_answer *shell_answer(struct shell *s, uint64_t id)
{
	struct find f = { .id = id };

	if (!shell_run(s, 30000, has_answer, &f))
		fail_msg("no answer to request %llu: %s", (unsigned long long)id, s->err.text);
	return f.found;
}

int shell_stop(struct shell *s)
{
	int status = -1, i;

	(void)shutdown(s->fd, SHUT_WR);
	for (i = 0; i < 1500 && waitpid(s->pid, &status, WNOHANG) == 0; i++) {
		char buf[4096];

		(void)!recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);
		(void)usleep(10000);
	}
	if (i == 1500) {
		(void)kill(s->pid, SIGKILL);
		(void)waitpid(s->pid, NULL, 0);
		status = -1;
	}
	(void)close(s->fd);
	for (size_t k = 0; k < s->n_answers; k++) {
		strbuf_release(&s->answers[k].out);
		strbuf_release(&s->answers[k].err);
	}
	free(s->answers);
	free(s->ends);
	agent_free(s->agent);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
