/*
 * `slurmray follow`: copies a run's stdout and stderr to its own, byte for byte, until the run has ended, in one poll
 * loop.
 *
 * Invariant: `pos` bytes of a stream were written out, and no byte is written twice or left out. After the mount went
 * away and came back the files are opened again; they cannot seek, so what was written already is read and thrown away.
 *
 * While nothing has come, and the run has not started, its status and the reason are said on standard error, once and
 * whenever they change: output that does not come is what makes people ask.
 */
#include "fs/client.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define PENDING_MS 1000 /* between looks at a run that has not started */
#define WHY_MAX 65536
#define POLL_MS 30000      /* then look again: a lost notification must not hang */
#define READY_PAUSE_MS 100 /* said to be ready, and was not: bytes are on their way from the cluster */
#define READY_SAY 300      /* so many such looks (30 s), then say so */
#define CHUNK 131072
#define ROUND_MAX 16 /* chunks of one stream before the other has its turn */

struct stream {
	const char *name;
	int out, fd;
	uint64_t pos; /* written out */
	uint64_t at;  /* read from fd */
	bool ended;
};

enum { N_STREAMS = 2 };

struct follow {
	const char *dir;
	struct stream s[N_STREAMS];
	struct client_outage outage;
	bool started;  /* or at least something came, or it ended: nobody asks why nothing comes */
	char *said;    /* the status and reason that were said last; NULL: none */
	unsigned idle; /* looks in a row that were said to be worth it and gave nothing */
	char *buf;
};

/* 0, or negative errno. The descriptor may be one that does not block. */
static int write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);
		struct pollfd p = { .fd = fd, .events = POLLOUT };

		if (n >= 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			(void)poll(&p, 1, POLL_MS);
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

static void close_all(struct follow *f)
{
	for (int i = 0; i < N_STREAMS; i++) {
		if (f->s[i].fd >= 0)
			(void)close(f->s[i].fd);
		f->s[i].fd = -1;
		f->s[i].at = 0;
	}
}

static int open_all(struct follow *f)
{
	for (int i = 0; i < N_STREAMS; i++) {
		cleanup_free char *path = xasprintf("%s/%s", f->dir, f->s[i].name);

		if (f->s[i].fd >= 0 || f->s[i].ended)
			continue;
		f->s[i].fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
		f->s[i].at = 0;
		if (f->s[i].fd < 0)
			return -errno;
	}
	client_recovered(&f->outage);
	return 0;
}

/* Writes what is new in `n` bytes that were read. */
static int take(struct stream *s, const char *buf, size_t n)
{
	uint64_t known = s->pos > s->at ? s->pos - s->at : 0;

	s->at += n;
	if (known >= n)
		return 0;
	s->pos = s->at;
	return write_all(s->out, buf + known, n - (size_t)known);
}

enum pumped { PUMP_IDLE, PUMP_MORE, PUMP_LOST, PUMP_STUCK };

/* Copies what is there of one stream; *code says more for PUMP_LOST (reading) and PUMP_STUCK (writing). */
static enum pumped pump(struct follow *f, struct stream *s, int *code)
{
	enum pumped res = PUMP_IDLE;

	for (int i = 0; i < ROUND_MAX && !s->ended; i++) {
		ssize_t n = read(s->fd, f->buf, CHUNK);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return res;
		if (n < 0) {
			*code = -errno;
			return PUMP_LOST;
		}
		res = PUMP_MORE;
		s->ended = n == 0;
		*code = take(s, f->buf, (size_t)n);
		if (*code < 0)
			return PUMP_STUCK;
	}
	return res;
}

static bool all_ended(const struct follow *f)
{
	return f->s[0].ended && f->s[1].ended;
}

/* --- a run that has not started --- */

static bool is_word(const char *status, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(status, words[i]) == 0)
			return true;
	return false;
}

/* The text without what changes all the time. */
static char *without_estimate(const char *text)
{
	struct strbuf sb = STRBUF_INIT;

	for (const char *p = text, *end; *p; p = end) {
		const char *moves;

		end = strchrnul(p, '\n');
		end += *end == '\n';
		moves = isatty(STDERR_FILENO) ? NULL : memmem(p, (size_t)(end - p), "transfer: ", 10);
		/* How far a transfer is, is for who looks; it may be the first reason, behind the status. */
		if (strncmp(p, "estimated start: ", 17) != 0)
			strbuf_add(&sb, p, (size_t)((moves ? moves : end) - p));
	}
	return strbuf_detach(&sb, NULL);
}

/* The status and why, as they are to be said: "run 5 is pending: Resources". False: they cannot be read, or say
 * nothing. */
static bool read_state(const struct follow *f, char *status, size_t size, struct strbuf *text)
{
	cleanup_free char *status_path = xasprintf("%s/status", f->dir), *why_path = xasprintf("%s/why", f->dir);
	cleanup_strbuf struct strbuf word = STRBUF_INIT, why = STRBUF_INIT;
	const char *id = strrchr(f->dir, '/'), *reason;
	size_t len;

	if (strbuf_read_file(&word, status_path, 4096) <= 0)
		return false;
	len = strcspn(word.buf, "\n");
	if (!len || len >= size)
		return false;
	memcpy(status, word.buf, len);
	status[len] = '\0';
	if (strcmp(status, "running") != 0) /* else it is the reason of before */
		(void)strbuf_read_file(&why, why_path, WHY_MAX);
	reason = why.buf;
	if (strncmp(reason, status, len) == 0 && strncmp(reason + len, ": ", 2) == 0)
		reason += len + 2;
	reason += strspn(reason, " \n"); /* a scheduler may have none yet */
	strbuf_addf(text, "run %s is %s%s%s", id ? id + 1 : f->dir, status, *reason ? ": " : "", reason);
	return true;
}

static void say_state(struct follow *f)
{
	static const char *const waiting[] = { "queued", "submitting", "pending", "unknown" };
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	char status[32], *lasting;

	if (f->started || !read_state(f, status, sizeof(status), &text))
		return;
	f->started = !is_word(status, waiting, ARRAY_SIZE(waiting));
	if (f->started && (!f->said || strcmp(status, "running") != 0))
		return; /* what became of it is said in the end */
	lasting = without_estimate(text.buf);
	if (!f->said || strcmp(f->said, lasting) != 0)
		client_say("%s", text.buf);
	free(f->said);
	f->said = lasting;
}

/* Sleeps until a stream has something. */
static void rest(struct follow *f)
{
	struct pollfd p[N_STREAMS];
	int ready;

	for (int i = 0; i < N_STREAMS; i++)
		p[i] = (struct pollfd){ .fd = f->s[i].ended ? -1 : f->s[i].fd, .events = POLLIN };
	if (f->idle)
		(void)poll(NULL, 0, READY_PAUSE_MS);
	ready = poll(p, N_STREAMS, f->started ? POLL_MS : PENDING_MS);
	f->idle = ready > 0 ? f->idle + 1 : 0;
	if (ready == 0)
		say_state(f);
	if (f->idle == READY_SAY)
		client_say(
			"the run has ended, but the rest of its output is not here yet; still waiting for the cluster");
}

/* 0: all was copied; else negative errno and a text, empty when nobody needs it. */
static int copy(struct follow *f, struct err *e)
{
	while (!all_ended(f)) {
		enum pumped res = PUMP_LOST;
		bool more = false;
		int code = open_all(f);

		for (int i = 0; i < N_STREAMS && code == 0; i++) {
			res = pump(f, &f->s[i], &code);
			more = more || res == PUMP_MORE;
		}
		if (code < 0 && res == PUMP_STUCK)
			return code == -EPIPE ? code : err_sys(e, code, "writing the output");
		if (code < 0) {
			close_all(f);
			if (client_recover(&f->outage, code, e) < 0)
				return code;
		} else if (more) {
			f->idle = 0;
			f->started = f->started || f->s[0].pos || f->s[1].pos;
		} else if (!all_ended(f)) {
			rest(f);
		}
	}
	return 0;
}

static int follow_dir(const char *dir)
{
	struct follow f = {
		.dir = dir,
		.s = { { "stdout.follow", STDOUT_FILENO, -1, 0, 0, false },
		       { "stderr.follow", STDERR_FILENO, -1, 0, 0, false } },
		.outage = { .dir = dir },
		.buf = xmalloc(CHUNK),
	};
	struct err e = ERR_INIT;
	int rc = copy(&f, &e);

	close_all(&f);
	free(f.buf);
	free(f.said);
	if (rc == -EPIPE)
		return 128 + SIGPIPE; /* nobody reads any more; the parent had SIGPIPE ignored */
	if (rc < 0) {
		client_say("%s", e.text);
		return 1;
	}
	return client_wait(dir, false);
}

/* A draft has no output and may never have one. */
static bool is_draft(const char *dir)
{
	cleanup_free char *path = xasprintf("%s/status", dir);
	cleanup_strbuf struct strbuf word = STRBUF_INIT;

	return strbuf_read_file(&word, path, 4096) > 0 && strcmp(word.buf, "draft\n") == 0;
}

int client_follow(const char *mount, const char *run)
{
	struct err e = ERR_INIT;
	cleanup_free char *dir = client_run_dir(mount, run, &e);

	if (!dir) {
		client_say("%s", e.text);
		return 1;
	}
	if (is_draft(dir)) {
		client_say("run %s is a draft: write %s/spec, which submits it", run, dir);
		return 1;
	}
	return follow_dir(dir);
}

int client_follow_main(int argc, char **argv)
{
	static const struct option options[] = { { "mount", required_argument, NULL, 'm' }, { 0 } };
	const char *mount = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c != 'm')
			return 2;
		mount = optarg;
	}
	if (optind + 1 != argc)
		return client_usage("follow takes one run: its id, its name, `last`, or its directory");
	return client_follow(mount, argv[optind]);
}
