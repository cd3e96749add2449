/*
 * See the header. The transport's one descriptor is an epoll descriptor over the pipes of its channels. A broken
 * connection closes the pipes and kills nobody, as with a real server: what was running there runs on.
 */
#include "tests/unit/lib_fake_cluster.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#define SFTP_SERVER "/usr/lib/openssh/sftp-server"

struct fake_faults fake;

struct transport {
	int ep;
	bool cut, stepped;
};

struct channel {
	struct transport *t;
	int in, out, err; /* -1: closed */
	int broken;       /* errno that every call answers with */
	bool ended;       /* 0 from read */
};

static int fake_open(const struct cluster_conf *conf, size_t host_index, const struct clock *clock,
		     struct transport **out, struct err *e)
{
	struct transport *t;

	(void)conf;
	(void)host_index;
	(void)clock;
	(void)e;
	fake.logins++;
	t = xcalloc(1, sizeof(*t));
	t->ep = epoll_create1(EPOLL_CLOEXEC);
	*out = t;
	return 0;
}

static enum transport_state fake_step(struct transport *t, struct err *e)
{
	if (fake.refuse) {
		(void)err_set(e, -EACCES, "the server refuses the key; add it and reconnect");
		return TRANSPORT_REFUSED;
	}
	if (t->cut || fake.unreachable) {
		(void)err_set(e, -ECONNRESET, "the connection was cut");
		return TRANSPORT_DOWN;
	}
	t->stepped = true;
	return TRANSPORT_READY;
}

static int fake_poll_fd(struct transport *t, short *events)
{
	*events = POLLIN;
	return t->ep;
}

static int64_t fake_deadline(struct transport *t)
{
	/* Faults come without an event: look every few milliseconds. */
	(void)t;
	return clock_mono(&clock_system) + 5 * USEC_PER_MSEC;
}

static void watch(struct transport *t, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events | EPOLLET };

	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
	(void)epoll_ctl(t->ep, EPOLL_CTL_ADD, fd, &ev);
}

static void start(struct channel *c, char *const *argv)
{
	posix_spawn_file_actions_t fa;
	char home[4096], path[] = "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", lang[] = "LANG=C.UTF-8";
	char *envp[] = { home, path, lang, NULL };
	int in[2], out[2], err[2];
	pid_t pid;

	(void)snprintf(home, sizeof(home), "HOME=%s", fake.home);
	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
		abort();
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addchdir_np(&fa, fake.home);
	posix_spawn_file_actions_adddup2(&fa, in[0], 0);
	posix_spawn_file_actions_adddup2(&fa, out[1], 1);
	posix_spawn_file_actions_adddup2(&fa, err[1], 2);
	if (posix_spawnp(&pid, argv[0], &fa, NULL, argv, envp) != 0)
		abort();
	posix_spawn_file_actions_destroy(&fa);
	(void)close(in[0]);
	(void)close(out[1]);
	(void)close(err[1]);
	c->in = in[1];
	c->out = out[0];
	c->err = err[0];
	watch(c->t, c->in, EPOLLOUT);
	watch(c->t, c->out, EPOLLIN);
	watch(c->t, c->err, EPOLLIN);
}

static int fake_channel(struct transport *t, const char *command, bool subsystem, struct channel **out, struct err *e)
{
	char sh[32], server[] = SFTP_SERVER;
	char *const shell_argv[] = { sh, NULL }, *const sftp_argv[] = { server, NULL };
	struct channel *c = xcalloc(1, sizeof(*c));

	(void)command;
	(void)e;
	c->t = t;
	c->in = c->out = c->err = -1;
	(void)snprintf(sh, sizeof(sh), "%s", fake.shell);
	if (!subsystem)
		start(c, shell_argv);
	else if (fake.sftp == FAKE_SFTP_OK)
		start(c, sftp_argv);
	else if (fake.sftp == FAKE_SFTP_EMFILE)
		c->broken = -EMFILE;
	else
		c->ended = true;
	*out = c;
	return 0;
}

/* 0: go on. Counts the transfer, and breaks the connection when its number has come. */
static int obstacle(struct channel *c)
{
	if (c->t->cut)
		return -ECONNRESET;
	if (c->broken)
		return c->broken;
	return fake.stall ? -EAGAIN : 0;
}

static bool count_transfer(struct channel *c)
{
	long n = ++fake.transfers;

	if (fake.cut_at != n && (!fake.cut_every || n % fake.cut_every))
		return false;
	c->t->cut = true;
	return true;
}

static ssize_t fake_read(struct channel *c, void *buf, size_t len)
{
	int rc = obstacle(c);
	ssize_t n;

	if (rc || c->ended)
		return rc;
	n = read(c->out, buf, len);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : -ECONNRESET;
	if (n > 0 && count_transfer(c))
		return -ECONNRESET;
	return n;
}

static ssize_t fake_read_stderr(struct channel *c, void *buf, size_t len)
{
	ssize_t n;

	if (obstacle(c) || c->err < 0)
		return -EAGAIN;
	n = read(c->err, buf, len);
	return n < 0 ? -EAGAIN : n;
}

/* A cut write leaves a part of the bytes on the other side. */
static ssize_t fake_write(struct channel *c, const void *buf, size_t len)
{
	int rc = obstacle(c);
	bool cut;
	ssize_t n;

	if (rc)
		return rc;
	if (c->ended)
		return -EPIPE;
	cut = count_transfer(c);
	n = write(c->in, buf, cut ? len / 2 : len);
	if (cut)
		return -ECONNRESET;
	if (n < 0 && errno == EAGAIN) {
		fake.transfers--;
		return -EAGAIN;
	}
	return n < 0 ? -EPIPE : n;
}

static void fake_channel_close(struct channel *c)
{
	int *const fds[] = { &c->in, &c->out, &c->err };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (*fds[i] >= 0)
			(void)close(*fds[i]);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	free(c);
}

static void fake_close(struct transport *t)
{
	(void)close(t->ep);
	free(t);
}

const struct transport_ops transport_fake_ops = {
	.name = "fake",
	.open = fake_open,
	.step = fake_step,
	.poll_fd = fake_poll_fd,
	.next_deadline = fake_deadline,
	.channel_open = fake_channel,
	.read = fake_read,
	.read_stderr = fake_read_stderr,
	.write = fake_write,
	.channel_close = fake_channel_close,
	.close = fake_close,
};

/* --- the scheduler --- */

static const char prelude[] =
	"fk=$HOME/fake\n"
	"fk_run() {\n" /* ID DIR */
	"\twhile [ -e \"$fk/hold\" ] && [ ! -e \"$fk/$1/cancel\" ]; do sleep 0.02; done\n"
	"\tif [ -e \"$fk/$1/cancel\" ]; then echo cancelled >\"$fk/$1/state\"; return; fi\n"
	"\techo running >\"$fk/$1/state\"\n"
	"\tcd \"$2\" || return\n"
	"\tSLURM_JOB_ID=$1 sh ./batch.sh >stdout 2>stderr </dev/null &\n"
	"\techo $! >\"$fk/$1/pid\"\n"
	"\twait $!\n"
	"\trc=$?\n"
	"\tif [ -e \"$fk/$1/cancel\" ]; then echo cancelled; elif [ \"$rc\" = 0 ]; then echo succeeded; else echo "
	"failed; fi "
	">\"$fk/$1/state\"\n"
	"}\n"
	"fk_find() {\n" /* TOKEN */
	"\tfor j in \"$fk\"/[0-9]*; do\n"
	"\t\tif [ \"$(cat \"$j/token\" 2>/dev/null)\" = \"$1\" ]; then echo \"${j##*/}\"; return; fi\n"
	"\tdone\n"
	"\treturn 1\n"
	"}\n"
	"fk_start() {\n" /* DIR TOKEN */
	"\tn=1\n"
	"\twhile ! mkdir \"$fk/$n\" 2>/dev/null; do n=$((n + 1)); done\n"
	"\techo pending >\"$fk/$n/state\"\n"
	"\techo \"$2\" >\"$fk/$n/token\"\n"
	"\tset -m\n"
	"\t( trap '' HUP; fk_run \"$n\" \"$1\" ) >/dev/null 2>&1 </dev/null &\n"
	"\tset +m\n"
	"}\n"
	"fk_submit() {\n" /* DIR TOKEN SCRIPTLEN FILESLEN */
	"\tumask 077\n"
	"\tmkdir -p \"$fk\" \"$1/work\" || exit 75\n"
	"\tif [ \"$(readlink \"$1/started\")\" = void ]; then echo VOID; exit 3; fi\n"
	"\tif id=$(readlink \"$1/claim\"); then echo \"OK $id\"; exit 0; fi\n"
	"\tif [ -e \"$1/intent\" ] && id=$(fk_find \"$2\"); then\n"
	"\t\tln -s \"$id\" \"$1/claim\" 2>/dev/null\n"
	"\t\techo \"OK $(readlink \"$1/claim\")\"; exit 0\n"
	"\tfi\n"
	"\tmode=$(cat \"$fk/mode\" 2>/dev/null)\n"
	"\tif [ \"$mode\" = refuse ]; then ln -s void \"$1/started\"; echo 'no such partition' >&2; exit 4; fi\n"
	"\tif [ \"$mode\" = before ]; then echo 'Socket timed out' >&2; exit 75; fi\n"
	"\thead -c \"$3\" <\"$IN\" >\"$1/batch.tmp.$$\"\n"
	"\t[ \"$(wc -c <\"$1/batch.tmp.$$\")\" -eq \"$3\" ] || exit 75\n"
	"\tmv \"$1/batch.tmp.$$\" \"$1/batch.sh\"\n"
	"\tif [ \"$4\" -gt 0 ]; then tail -c +$(($3 + 1)) \"$IN\" | tar -x -C \"$1/work\" || exit 75; fi\n"
	"\t: >\"$1/intent\"\n"
	"\tfk_start \"$1\" \"$2\"\n"
	"\tif [ \"$mode\" = after ]; then echo 'Socket timed out' >&2; exit 75; fi\n"
	"\tln -s \"$n\" \"$1/claim\" 2>/dev/null\n"
	"\techo \"OK $(readlink \"$1/claim\")\"\n"
	"}\n"
	"fk_poll() {\n"
	"\tif [ -e \"$fk/down\" ]; then echo 'Unable to contact the controller' >&2; exit 1; fi\n"
	"\tfor j in \"$fk\"/[0-9]*; do\n"
	"\t\t[ -e \"$j/token\" ] || continue\n"
	"\t\techo \"${j##*/}|$(cat \"$j/state\")|$(cat \"$j/token\")\"\n"
	"\tdone\n"
	"}\n"
	"fk_verify() {\n" /* ID DIR ENDS/NAME */
	"\tcat \"$2/exit\" \"$3\" 2>/dev/null && exit 0\n"
	"\tif s=$(cat \"$fk/$1/state\" 2>/dev/null); then echo \"STATE $s\"; exit 0; fi\n"
	"\tln -s void \"$2/started\" 2>/dev/null\n"
	"\tif [ \"$(readlink \"$2/started\")\" = void ]; then echo VOID; else echo STATE node_failed; fi\n"
	"}\n"
	"fk_cancel() {\n" /* ID TOKEN */
	"\t[ \"$(cat \"$fk/$1/token\" 2>/dev/null)\" = \"$2\" ] || { echo 'no such job' >&2; exit 1; }\n"
	"\t: >\"$fk/$1/cancel\"\n"
	"\tif [ -s \"$fk/$1/pid\" ]; then kill -TERM \"$(cat \"$fk/$1/pid\")\"; fi\n"
	"\techo done\n"
	"}\n";

static void fake_prelude(struct strbuf *out)
{
	strbuf_addstr(out, prelude);
}

static void add_dir(const struct sched_run *r, const char *name, struct strbuf *code)
{
	struct strbuf dir = STRBUF_INIT;

	strbuf_addf(&dir, "%s/%s/%s", r->directory, r->uuid, name);
	strbuf_addch(code, ' ');
	quote_sh_path(code, dir.buf);
	strbuf_release(&dir);
}

static void add_attempt(const struct sched_run *r, struct strbuf *code)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "runs/%u/a%u", r->num, r->attempt);
	add_dir(r, name, code);
}

static void fake_submit(const struct sched_run *r, size_t script_len, size_t files_len, struct strbuf *code)
{
	strbuf_addstr(code, "fk_submit");
	add_attempt(r, code);
	strbuf_addf(code, " %s %zu %zu", r->token, script_len, files_len);
}

static enum sched_verdict fake_submit_result(int rc, const char *out, const char *err, char *job_id, size_t size,
					     struct strbuf *why)
{
	if (rc == 3)
		return SCHED_VOID;
	strbuf_addstr(why, err);
	if (rc == 4)
		return SCHED_REFUSED;
	if (rc != 0 || strncmp(out, "OK ", 3) != 0)
		return SCHED_UNSURE;
	(void)snprintf(job_id, size, "%.*s", (int)strcspn(out + 3, "\n"), out + 3);
	return SCHED_OK;
}

static void fake_poll_code(struct strbuf *code)
{
	strbuf_addstr(code, "fk_poll");
}

static int fake_poll_result(int rc, const char *out, const char *err, sched_row_cb cb, void *arg, struct err *e)
{
	if (rc != 0)
		return err_set(e, -EAGAIN, "the queue cannot be asked: %s", err);
	while (*out) {
		cleanup_free char *line = xstrndup(out, strcspn(out, "\n"));
		char *state = strchr(line, '|'), *token = state ? strchr(state + 1, '|') : NULL;

		out += strlen(line);
		out += *out == '\n';
		if (!token)
			continue;
		*state++ = '\0';
		*token++ = '\0';
		cb(arg, &(struct sched_row){ .job_id = line,
					     .token = token,
					     .state = state,
					     .reason = "None",
					     .nodes = "n1",
					     .exit_code = -1,
					     .exit_signal = -1,
					     .run_status = state });
	}
	return 0;
}

static void fake_verify(const struct sched_run *r, struct strbuf *code)
{
	char name[64];

	strbuf_addf(code, "fk_verify %s", r->job_id);
	add_attempt(r, code);
	(void)snprintf(name, sizeof(name), "ends/%u.a%u", r->num, r->attempt);
	add_dir(r, name, code);
}

static struct event *fake_verify_result(const struct sched_run *r, int rc, const char *out, const char *err,
					int64_t now)
{
	struct exit_record rec;
	cleanup_free char *word = NULL;

	(void)r;
	(void)err;
	if (rc != 0)
		return NULL;
	if (strncmp(out, "VOID", 4) == 0)
		return event_new(EV_LOST, now, json_pack("{s:s}", "why", "the queue forgot it"));
	if (strncmp(out, "STATE ", 6) != 0)
		return exit_record_parse(out, &rec, NULL) < 0 ? NULL : exit_record_event(&rec, NULL, false, now);
	word = xstrndup(out + 6, strcspn(out + 6, "\n"));
	if (strcmp(word, "pending") == 0 || strcmp(word, "running") == 0)
		return event_new(EV_STATE, now, json_pack("{s:s}", "status", word));
	return event_new(EV_END, now, json_pack("{s:s}", "status", word));
}

static int fake_verb(const struct sched_run *r, const char *verb, const char *arg, struct strbuf *code, struct err *e)
{
	if (strcmp(verb, "cancel") == 0)
		strbuf_addf(code,
			    "if [ -e \"$fk/grace\" ]; then mv \"$fk/grace\" \"$fk/told\"; echo again; "
			    "else fk_cancel %s %s; fi",
			    r->job_id, r->token);
	else if (strcmp(verb, "hold") == 0)
		strbuf_addf(code, "echo \"held %s\" >>\"$fk/verbs\"", r->job_id);
	else if (strcmp(verb, "signal") == 0)
		strbuf_addf(code, "echo \"%s %s\" >>\"$fk/verbs\"; sleep 0.3", arg ? arg : "", r->job_id);
	else
		return err_set(e, -EINVAL, "no verb \"%s\"", verb);
	return 0;
}

static int fake_verb_result(const char *verb, int rc, const char *out, const char *err, struct err *e)
{
	if (strncmp(out, "again", 5) == 0)
		return 1;
	return rc == 0 ? 0 : err_set(e, -ESRCH, "%s: %s", verb, err);
}

static void fake_usage(const struct sched_run *runs, size_t n, struct strbuf *code)
{
	strbuf_addstr(code, "echo asked >>\"$fk/asked\"; cat \"$fk/usage\"; : ");
	for (size_t i = 0; i < n; i++)
		strbuf_addf(code, " %s", runs[i].job_id);
}

/* The file `usage`: "none", or lines JOB TOKEN RSS CPU. */
static int fake_usage_result(int rc, const char *out, const char *err, sched_usage_cb cb, void *arg, struct err *e)
{
	char job[32], token[200];
	long long rss, cpu;

	(void)err;
	if (rc != 0)
		return err_set(e, -EAGAIN, "not now");
	if (strncmp(out, "none", 4) == 0)
		return err_set(e, -ENOTSUP, "nobody counts");
	for (; *out; out += strcspn(out, "\n") + 1)
		if (sscanf(out, "%31s %199s %lld %lld", job, token, &rss, &cpu) == 4)
			cb(arg, &(struct sched_usage){ job, token, rss, cpu, true });
	return 0;
}

static int fake_probe(const char *what, struct strbuf *code, struct err *e)
{
	if (strcmp(what, "info") != 0)
		return err_set(e, -EINVAL, "no document \"%s\"", what);
	strbuf_addstr(code, "echo fake");
	return 0;
}

static int fake_probe_result(const char *what, int rc, const char *out, const char *err, struct strbuf *json,
			     struct err *e)
{
	(void)what;
	if (rc != 0)
		return err_set(e, -EAGAIN, "%s", err);
	strbuf_addf(json, "{\"name\": \"%.*s\"}", (int)strcspn(out, "\n"), out);
	return 0;
}

const struct sched_ops sched_fake_ops = {
	.name = "fake",
	.prelude = fake_prelude,
	.submit = fake_submit,
	.submit_result = fake_submit_result,
	.poll = fake_poll_code,
	.poll_result = fake_poll_result,
	.verify = fake_verify,
	.verify_result = fake_verify_result,
	.verb = fake_verb,
	.verb_result = fake_verb_result,
	.usage = fake_usage,
	.usage_result = fake_usage_result,
	.probe = fake_probe,
	.probe_result = fake_probe_result,
};
