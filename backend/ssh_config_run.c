/*
 * Runs `ssh -G` without a shell, in a process group of its own that is killed at a deadline (a `Match exec` in the
 * user's configuration may hang), and without the caller's signal mask. One call, no state.
 */
#include "backend/ssh_config.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"
#include "backend/config.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUN_MS 5000
#define OUTPUT_MAX (1024 * 1024)

extern char **environ;

static int64_t left_ms(int64_t deadline)
{
	int64_t ms = (deadline - clock_mono(&clock_system)) / USEC_PER_MSEC;

	return ms > 0 ? ms : 0;
}

/* stdin is empty, stdout and stderr go to the pipes. */
static int spawn(char *const argv[], const int out[2], const int err[2], pid_t *pid)
{
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	sigset_t none, pipe_set;
	int rc;

	(void)sigemptyset(&none);
	(void)sigemptyset(&pipe_set);
	(void)sigaddset(&pipe_set, SIGPIPE);
	(void)posix_spawn_file_actions_init(&fa);
	(void)posix_spawnattr_init(&at);
	(void)posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	(void)posix_spawn_file_actions_adddup2(&fa, out[1], 1);
	(void)posix_spawn_file_actions_adddup2(&fa, err[1], 2);
	(void)posix_spawnattr_setflags(&at, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	(void)posix_spawnattr_setpgroup(&at, 0);
	(void)posix_spawnattr_setsigmask(&at, &none);
	(void)posix_spawnattr_setsigdefault(&at, &pipe_set);
	rc = posix_spawnp(pid, argv[0], &fa, &at, argv, environ);
	(void)posix_spawn_file_actions_destroy(&fa);
	(void)posix_spawnattr_destroy(&at);
	return -rc;
}

/* Reads both pipes to their ends; -ETIMEDOUT or -EFBIG. */
static int collect(int out_fd, int err_fd, int64_t deadline, struct strbuf *out, struct strbuf *err)
{
	struct pollfd p[2] = { { .fd = out_fd, .events = POLLIN }, { .fd = err_fd, .events = POLLIN } };
	struct strbuf *to[2] = { out, err };
	char buf[4096];
	int i;

	while (p[0].fd >= 0 || p[1].fd >= 0) {
		int64_t ms = left_ms(deadline);

		if (ms == 0)
			return -ETIMEDOUT;
		if (poll(p, 2, (int)ms) < 0 && errno != EINTR)
			return -errno;
		for (i = 0; i < 2; i++) {
			ssize_t n;

			if (p[i].fd < 0 || !p[i].revents)
				continue;
			n = read(p[i].fd, buf, sizeof(buf));
			if (n > 0)
				strbuf_add(to[i], buf, (size_t)n);
			else if (n == 0 || errno != EINTR)
				p[i].fd = -1;
			if (to[i]->len > OUTPUT_MAX)
				return -EFBIG;
		}
	}
	return 0;
}

/* Waits for the process until the deadline, then kills its group: the wait status, or -1 when it had to be killed. */
static int reap(pid_t pid, int64_t deadline, bool now)
{
	int status = 0;

	while (!now && left_ms(deadline) > 0) {
		if (waitpid(pid, &status, WNOHANG) == pid)
			return status;
		(void)usleep(2000);
	}
	(void)kill(-pid, SIGKILL);
	(void)waitpid(pid, &status, 0); /* it cannot refuse KILL */
	return -1;
}

/* 0, -ENOENT (there is no such program), -ETIMEDOUT, -EINVAL (it failed, `err` has its words). */
static int run(char *const argv[], struct strbuf *out, struct strbuf *err)
{
	int64_t deadline = clock_mono(&clock_system) + (int64_t)RUN_MS * USEC_PER_MSEC;
	int po[2], pe[2], rc, status;
	pid_t pid;

	if (pipe2(po, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(pe, O_CLOEXEC) < 0) {
		rc = -errno;
		(void)close(po[0]);
		(void)close(po[1]);
		return rc;
	}
	rc = spawn(argv, po, pe, &pid);
	(void)close(po[1]);
	(void)close(pe[1]);
	if (rc == 0) {
		rc = collect(po[0], pe[0], deadline, out, err);
		status = reap(pid, deadline, rc < 0);
		if (rc == 0 && status == -1)
			rc = -ETIMEDOUT;
		else if (rc == 0 && WIFEXITED(status) && WEXITSTATUS(status) == 127 && out->len == 0)
			rc = -ENOENT;
		else if (rc == 0 && status != 0)
			rc = -EINVAL;
	}
	(void)close(po[0]);
	(void)close(pe[0]);
	return rc;
}

static char *under_home(const char *path, const char *home)
{
	return strncmp(path, "~/", 2) == 0 ? xasprintf("%s%s", home, path + 1) : xstrdup(path);
}

/* What ssh would take without any configuration (ssh_config(5)). */
static void defaults(const struct cluster_conf *conf, const char *host, struct strbuf *text)
{
	static const char *const keys[] = { "id_ed25519", "id_ecdsa", "id_rsa" };
	size_t i;

	strbuf_addf(text, "hostname %s\n", host);
	if (conf->port)
		strbuf_addf(text, "port %d\n", conf->port);
	if (conf->user)
		strbuf_addf(text, "user %s\n", conf->user);
	if (conf->identity_file)
		strbuf_addf(text, "identityfile %s\n", conf->identity_file);
	for (i = 0; !conf->identity_file && i < ARRAY_SIZE(keys); i++)
		strbuf_addf(text, "identityfile ~/.ssh/%s\n", keys[i]);
	strbuf_addstr(text, "userknownhostsfile ~/.ssh/known_hosts ~/.ssh/known_hosts2\n"
			    "globalknownhostsfile /etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2\n");
}

static int ask_ssh(const struct cluster_conf *conf, const char *host, const char *home, struct strbuf *text,
		   struct err *e)
{
	cleanup_free char *file = conf->ssh_config ? under_home(conf->ssh_config, home) : NULL;
	/* As -o, for -i leaves a file that is not there out and takes the defaults instead. */
	cleanup_free char *key = conf->identity_file ? xasprintf("IdentityFile=\"%s\"", conf->identity_file) : NULL;
	cleanup_free char *port = conf->port ? xasprintf("%d", conf->port) : NULL;
	cleanup_strbuf struct strbuf said = STRBUF_INIT;
	const char *argv[16];
	size_t n = 0, i;
	const struct {
		const char *opt, *val;
	} opts[] = { { "-F", file }, { "-p", port }, { "-l", conf->user }, { "-o", key } };
	int rc;

	argv[n++] = "ssh";
	argv[n++] = "-G";
	for (i = 0; i < ARRAY_SIZE(opts); i++) {
		if (!opts[i].val)
			continue;
		argv[n++] = opts[i].opt;
		argv[n++] = opts[i].val;
	}
	argv[n++] = "--";
	argv[n++] = host;
	argv[n] = NULL;
	rc = run((char *const *)(uintptr_t)argv, text, &said);
	if (rc == -ETIMEDOUT)
		return err_set(e, rc,
			       "`ssh -G %s` did not end within %d s: is there a `Match exec` in the SSH configuration "
			       "that hangs?",
			       host, RUN_MS / 1000);
	while (said.len && said.buf[said.len - 1] == '\n')
		strbuf_setlen(&said, said.len - 1);
	if (rc == -EINVAL)
		return err_set(e, rc, "`ssh -G %s` failed: %s", host, said.buf);
	return rc;
}

/* A key that the agent holds needs only its public half here. */
static int check_key(const struct cluster_conf *conf, const char *home, struct err *e)
{
	cleanup_free char *key = under_home(conf->identity_file, home);
	cleanup_free char *pub = xasprintf("%s.pub", key);

	if (access(key, R_OK) == 0 || access(pub, R_OK) == 0)
		return 0;
	return err_set(e, -EINVAL, "identity_file %s of cluster %s cannot be read", conf->identity_file,
		       conf->name ? conf->name : "");
}

int ssh_config_load(const struct cluster_conf *conf, size_t host_index, struct ssh_config *out, struct err *e)
{
	const char *host = conf->hosts[host_index], *home = getenv("HOME");
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	struct passwd pw, *found = NULL;
	char buf[4096];
	int rc;

	if (*host == '\0' || *host == '-' || strpbrk(host, " \t\n"))
		return err_set(e, -EINVAL, "\"%s\" is not the name of a host", host);
	(void)getpwuid_r(getuid(), &pw, buf, sizeof(buf), &found);
	if (!home || !*home)
		home = found ? found->pw_dir : "/";
	if (conf->identity_file && check_key(conf, home, e) < 0)
		return -EINVAL;
	rc = ask_ssh(conf, host, home, &text, e);
	if (rc == -ENOENT) {
		strbuf_reset(&text);
		defaults(conf, host, &text);
	} else if (rc < 0) {
		return e && e->code == rc ? rc : err_sys(e, rc, "cannot run `ssh -G %s`", host);
	}
	rc = ssh_config_parse(text.buf, out, e);
	if (rc < 0)
		return rc;
	if (!out->user)
		str_set(&out->user, found ? found->pw_name : "root");
	ssh_config_expand(out, host, home, found ? found->pw_name : "", (unsigned)getuid());
	return 0;
}
