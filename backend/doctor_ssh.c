/*
 * What doctor asks a login node: the name and the keys that ssh would use, then a real login by way of the same
 * transport and remote shell that a mount uses, with a few questions, and the sftp subsystem. One thread, one deadline
 * for the whole.
 *
 * Invariant: whatever the other side does, `pump` returns at the deadline; what it says goes to the user with control
 * characters taken out (doctor_ok and its kin).
 */
#include "backend/doctor.h"

#include "backend/agent.h"
#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/base/quote.h"
#include "backend/ssh_config.h"
#include "backend/transport.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define QUESTIONS_S 15 /* of them for the questions */
#define CLOCK_SKEW_NOTE_S 30
#define NOISE_MAX 300
#define LONGEST_POLL_MS 200

/* --- before the network --- */

/* Does somebody listen at the socket? */
static bool agent_listens(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || strlen(path) >= sizeof(a.sun_path))
		return false;
	memcpy(a.sun_path, path, strlen(path) + 1);
	return connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static const char *agent_socket(const struct ssh_config *cfg)
{
	const char *agent = cfg->identity_agent;

	if (agent && strcmp(agent, "none") == 0)
		return NULL;
	if (agent && agent[0] == '/')
		return agent;
	if (agent && agent[0] == '$')
		return getenv(agent + 1);
	return getenv("SSH_AUTH_SOCK");
}

static void check_keys(struct doctor *d, const char *host, const struct ssh_config *cfg)
{
	cleanup_strbuf struct strbuf list = STRBUF_INIT;
	const char *agent = agent_socket(cfg);

	for (size_t i = 0; i < cfg->n_identity_files; i++)
		if (access(cfg->identity_files[i], R_OK) == 0)
			strbuf_addf(&list, "%s%s", list.len ? ", " : "", cfg->identity_files[i]);
	if (agent && *agent && agent_listens(agent))
		strbuf_addf(&list, "%sssh-agent at %s", list.len ? ", " : "", agent);
	if (list.len)
		doctor_ok(d, "%s: keys to log in with: %s", host, list.buf);
	else
		doctor_bad(
			d,
			"%s: there is no key to log in with, neither a file nor an ssh-agent: `ssh-keygen -t ed25519`, then "
			"`ssh-copy-id %s`",
			host, host);
}

static void check_known_hosts(struct doctor *d, const char *host, const struct ssh_config *cfg)
{
	for (size_t i = 0; i < cfg->n_known_hosts; i++)
		if (access(cfg->known_hosts[i], R_OK) == 0)
			return;
	doctor_note(d, "%s: there is no file of known hosts; `ssh %s` once asks whether to trust its key", host, host);
}

bool doctor_ssh_name(struct doctor *d, const struct cluster_conf *conf, size_t host_index)
{
	cleanup_free char *ssh = doctor_find_program("ssh");
	const char *host = conf->hosts[host_index];
	struct err e = ERR_INIT;
	struct ssh_config cfg;

	if (!ssh)
		doctor_note(
			d,
			"there is no ssh program, so ~/.ssh/config is not read: install openssh-client, or give user, port and "
			"identity_file in the configuration");
	ssh_config_init(&cfg);
	if (ssh_config_load(conf, host_index, &cfg, &e) < 0) {
		doctor_bad(d, "cluster %s: %s", conf->name, e.text);
		return false;
	}
	doctor_ok(d, "cluster %s: %s is %s@%s port %d", conf->name, host, cfg.user, cfg.hostname, cfg.port);
	check_known_hosts(d, host, &cfg);
	check_keys(d, host, &cfg);
	ssh_config_release(&cfg);
	return true;
}

/* --- the connection --- */

struct login {
	struct transport *t;
	struct channel *shell, *files;
	struct agent *agent;
	const struct transport_ops *ops;
	int64_t deadline, at; /* monotonic; of everything, of the last agent_tick */
	struct strbuf hello, answers, noise;
	bool greeted, answered;
	int rc; /* of the questions */
	struct err e;
};

static void on_frame(void *arg, const struct agent_frame *f)
{
	struct login *l = arg;

	if (f->type == AGENT_HELLO) {
		strbuf_add(&l->hello, f->out, f->out_len);
		l->greeted = true;
	} else if (f->type == AGENT_ANSWER) {
		strbuf_add(&l->answers, f->out, f->out_len);
		l->rc = f->rc;
		l->answered = true;
	}
}

/* Sleeps until the connection has something to do. */
static void rest(struct login *l)
{
	int64_t now = clock_mono(&clock_system), next = l->ops->next_deadline(l->t), ms;
	struct pollfd p = { .fd = -1 };

	p.fd = l->ops->poll_fd(l->t, &p.events);
	next = next < l->deadline ? next : l->deadline;
	ms = next > now ? (next - now) / USEC_PER_MSEC + 1 : 0;
	(void)poll(&p, 1, ms < LONGEST_POLL_MS ? (int)ms : LONGEST_POLL_MS);
}

/* Bytes of the remote shell in both directions: 0, or an error with a text. */
static int shell_io(struct login *l)
{
	struct strbuf *out = agent_output(l->agent);
	char buf[16384];
	ssize_t n = 0;

	while (out->len && (n = l->ops->write(l->shell, out->buf, out->len)) > 0)
		strbuf_remove(out, 0, (size_t)n);
	if (n == -EMFILE)
		return err_set(&l->e, -EMFILE, "the server allows no session for a shell (MaxSessions)");
	while ((n = l->ops->read(l->shell, buf, sizeof(buf))) > 0)
		if (agent_input(l->agent, buf, (size_t)n, &l->e) < 0)
			return l->e.code;
	while (l->noise.len < NOISE_MAX) {
		ssize_t m = l->ops->read_stderr(l->shell, buf, NOISE_MAX);

		if (m <= 0)
			break;
		strbuf_add(&l->noise, buf, (size_t)m);
	}
	if (n == -EAGAIN)
		return 0;
	return err_set(&l->e, -ECONNRESET, "the login shell ended%s%s", l->noise.len ? ": " : "", l->noise.buf);
}

/* One round of everything: 0, or an error with a text. */
static int step(struct login *l)
{
	enum transport_state s = l->ops->step(l->t, &l->e);
	int64_t now = clock_mono(&clock_system);

	if (s == TRANSPORT_DOWN || s == TRANSPORT_REFUSED)
		return l->e.code ? l->e.code : -EHOSTUNREACH;
	if (l->agent && now - l->at > 50 * USEC_PER_MSEC) {
		agent_tick(l->agent);
		l->at = now;
	}
	return s == TRANSPORT_READY && l->shell ? shell_io(l) : 0;
}

/* Until cond() is true: 0; -ETIMEDOUT, or another error with a text. */
static int pump(struct login *l, bool (*cond)(struct login *), const char *what)
{
	for (;;) {
		int rc = step(l);

		if (rc < 0)
			return rc;
		if (cond(l))
			return 0;
		if (clock_mono(&clock_system) >= l->deadline)
			return err_set(&l->e, -ETIMEDOUT, "%s took too long", what);
		rest(l);
	}
}

static bool is_ready(struct login *l)
{
	return l->ops->step(l->t, &l->e) == TRANSPORT_READY;
}

static bool is_greeted(struct login *l)
{
	return l->greeted;
}

static bool is_answered(struct login *l)
{
	return l->answered;
}

/* --- sftp: only whether it answers --- */

/* The server's answer begins with a length and the byte 2 (draft-ietf-secsh-filexfer-02, section 4). */
static bool sftp_answers(struct login *l)
{
	char buf[256];
	ssize_t n = l->ops->read(l->files, buf, sizeof(buf));

	if (n == -EAGAIN)
		return false;
	if (n < 5 || buf[4] != 2)
		(void)err_set(&l->e, n == -EMFILE ? -EMFILE : -ENOTSUP, "%s",
			      n == -EMFILE ? "the server allows one session only" : "the sftp subsystem is not there");
	return true;
}

static void check_sftp(struct doctor *d, const char *host, struct login *l)
{
	static const unsigned char init[] = { 0, 0, 0, 5, 1, 0, 0, 0, 3 }; /* SSH_FXP_INIT, version 3 */
	size_t sent = 0;
	int rc = l->ops->channel_open(l->t, "sftp", true, &l->files, &l->e);

	while (rc == 0 && sent < sizeof(init)) {
		ssize_t n = l->ops->write(l->files, init + sent, sizeof(init) - sent);

		if (n > 0) {
			sent += (size_t)n;
		} else if (n != -EAGAIN) {
			break;
		} else if (clock_mono(&clock_system) >= l->deadline) {
			rc = err_set(&l->e, -ETIMEDOUT, "opening it took too long");
		} else {
			rc = step(l);
			rest(l);
		}
	}
	if (rc == 0)
		rc = pump(l, sftp_answers, "its greeting");
	if (rc == 0 && !l->e.code)
		doctor_ok(d, "%s: sftp is there", host);
	else
		doctor_note(d, "%s: without sftp files and logs come through the shell, which is slower: %s", host,
			    l->e.text);
}

/* --- questions --- */

void doctor_remote_questions(const struct cluster_conf *conf, struct strbuf *out)
{
	strbuf_addstr(
		out,
		"for c in sbatch squeue scancel scontrol sinfo sacct; do "
		"p=$(command -v $c 2>/dev/null) && echo \"have $c $p\"; done\n"
		"if command -v sinfo >/dev/null 2>&1; then echo \"version $(sinfo --version 2>&1 | head -n 1)\"; fi\n"
		"if command -v scontrol >/dev/null 2>&1; then scontrol ping 2>&1 | sed 's/^/ping /'; fi\n"
		"umask 077\n"
		"d=");
	quote_sh_path(out, conf->directory);
	strbuf_addstr(out, "\nif e=$(mkdir -p \"$d\" 2>&1) && [ -w \"$d\" ]; then echo \"directory $d\"; "
			   "else echo \"nodirectory ${e:-$d cannot be written}\"; fi\n"
			   "df -Pk \"$d\" 2>/dev/null | awk 'NR == 2 { print \"free \" $4 }'\n");
}

/* The rest of the first line that begins with "KEY "; the caller frees. NULL: none. */
static char *answer(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, len) == 0 && p[len] == ' ')
			return xstrndup(p + len + 1, strcspn(p + len + 1, "\n"));
	return NULL;
}

static void check_programs(struct doctor *d, const char *host, const char *text)
{
	static const char *const names[] = { "sbatch", "squeue", "scancel", "scontrol", "sinfo", "sacct" };
	cleanup_strbuf struct strbuf missing = STRBUF_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		cleanup_free char *key = xasprintf("have %s", names[i]), *path = answer(text, key);

		if (!path && strcmp(names[i], "sacct") == 0)
			doctor_note(
				d,
				"%s: there is no sacct; how a job ended that Slurm has forgotten cannot be asked there",
				host);
		else if (!path)
			strbuf_addf(&missing, "%s%s", missing.len ? ", " : "", names[i]);
	}
	if (missing.len)
		doctor_bad(
			d,
			"%s: not in the PATH of a login shell: %s. Add Slurm's directory to the PATH in ~/.profile there, or log "
			"in to a node that has Slurm",
			host, missing.buf);
}

static void check_slurm(struct doctor *d, const char *host, const char *text)
{
	cleanup_free char *version = answer(text, "version"), *ping = answer(text, "ping");

	check_programs(d, host, text);
	if (!ping)
		return;
	if (strstr(text, " is UP") || strstr(text, " are UP"))
		doctor_ok(d, "%s: %s; %s", host, version ? version : "Slurm", ping);
	else
		doctor_bad(d,
			   "%s: Slurm's controller does not answer: %s. Runs stay `queued` until it does; ask the site",
			   host, ping);
}

static void check_directory(struct doctor *d, const struct cluster_conf *conf, const char *host, const char *text)
{
	cleanup_free char *dir = answer(text, "directory"), *why = answer(text, "nodirectory"),
			  *free_kb = answer(text, "free");
	long long mib = free_kb ? strtoll(free_kb, NULL, 10) / 1024 : -1;

	if (!dir)
		doctor_bad(
			d,
			"%s: the directory %s cannot be made or written: %s. Name another with `directory =` in [cluster %s], "
			"one that the compute nodes see, too",
			host, conf->directory, why ? why : "no answer", conf->name);
	else if (mib >= 0 && mib < 100)
		doctor_bad(d, "%s: only %lld MiB are free in %s: make room, or name another with `directory =`", host,
			   mib, dir);
	else
		doctor_ok(d, "%s: the directory %s can be written%s", host, dir,
			  mib < 0      ? ""
			  : mib < 1024 ? ", less than 1 GiB is free there"
				       : "");
}

void doctor_remote_answers(struct doctor *d, const struct cluster_conf *conf, const char *host, const char *text)
{
	check_slurm(d, host, text);
	check_directory(d, conf, host, text);
}

void doctor_clock(struct doctor *d, const char *host, int64_t theirs, int64_t ours)
{
	int64_t skew = theirs - ours;

	if (skew > CLOCK_SKEW_NOTE_S || skew < -CLOCK_SKEW_NOTE_S)
		doctor_note(d, "%s: its clock is %" PRId64 " s %s ours; times of jobs are shown as it tells them", host,
			    skew < 0 ? -skew : skew, skew < 0 ? "behind" : "ahead of");
}

void doctor_remote_hello(struct doctor *d, const char *host, const char *text, int64_t now)
{
	cleanup_free char *shell = answer(text, "shell"), *version = answer(text, "version"),
			  *user = answer(text, "user");
	cleanup_free char *home = answer(text, "home"), *node = answer(text, "host"), *epoch = answer(text, "epoch");

	doctor_ok(d, "%s: user %s on %s, home %s, %s %s", host, user ? user : "?", node ? node : "?", home ? home : "?",
		  shell ? shell : "sh", version && strcmp(version, "-") != 0 ? version : "");
	if (shell && strcmp(shell, "sh") == 0)
		doctor_note(d,
			    "%s: there is no bash, so every question starts processes there; it works, and is slower",
			    host);
	if (epoch)
		doctor_clock(d, host, strtoll(epoch, NULL, 10), now);
}

/* --- the whole --- */

/* Logs in and asks; -errno with a text in l->e. */
static int converse(struct doctor *d, const struct cluster_conf *conf, const char *host, struct login *l)
{
	cleanup_strbuf struct strbuf questions = STRBUF_INIT;
	int64_t begin = clock_mono(&clock_system);
	int rc = pump(l, is_ready, "logging in");

	if (rc < 0)
		return rc;
	doctor_ok(d, "%s: logged in after %" PRId64 " ms: %s", host,
		  (clock_mono(&clock_system) - begin) / USEC_PER_MSEC, transport_ssh2_describe(l->t));
	rc = l->ops->channel_open(l->t, NULL, false, &l->shell, &l->e);
	if (rc < 0)
		return rc;
	l->agent = agent_new("", "/nonexistent", 2000, on_frame, l);
	rc = pump(l, is_greeted, "the start of the login shell");
	if (rc < 0)
		return rc;
	doctor_remote_hello(d, host, l->hello.buf, clock_real(&clock_system) / USEC_PER_SEC);
	doctor_remote_questions(conf, &questions);
	(void)agent_request(l->agent, AGENT_BESIDE, questions.buf, NULL, 0, QUESTIONS_S);
	return pump(l, is_answered, "asking Slurm");
}

void doctor_ssh(struct doctor *d, const struct cluster_conf *conf, size_t host_index, int deadline_s)
{
	const char *host = conf->hosts[host_index];
	struct login l = { .ops = &transport_ssh2_ops };
	int rc;

	if (!doctor_ssh_name(d, conf, host_index))
		return;
	strbuf_init(&l.hello);
	strbuf_init(&l.answers);
	strbuf_init(&l.noise);
	l.deadline = clock_mono(&clock_system) + (int64_t)deadline_s * USEC_PER_SEC;
	rc = l.ops->open(conf, host_index, &clock_system, &l.t, &l.e);
	if (rc == 0)
		rc = converse(d, conf, host, &l);
	if (rc < 0)
		doctor_bad(d, "%s: %s", host, l.e.text);
	else
		doctor_remote_answers(d, conf, host, l.answers.buf);
	if (rc == 0)
		check_sftp(d, host, &l);
	if (l.files)
		l.ops->channel_close(l.files);
	if (l.shell)
		l.ops->channel_close(l.shell);
	if (l.t)
		l.ops->close(l.t);
	agent_free(l.agent);
	strbuf_release(&l.hello);
	strbuf_release(&l.answers);
	strbuf_release(&l.noise);
}
