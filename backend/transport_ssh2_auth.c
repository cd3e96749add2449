/*
 * Logging in with keys: those of ssh-agent that the configuration names first, then its other keys (unless
 * IdentitiesOnly), then key files. Each key is offered once; no key is offered after the server's usual limit;
 * passwords never. libssh2 before 1.11 signs with RSA only by SHA-1, which servers refuse today, so RSA keys come last
 * and the refusal says so.
 *
 * Talking to ssh-agent blocks on a local socket; the transport's callbacks give it the deadline `agent_deadline`.
 */
#include "backend/transport_ssh2.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define AGENT_LIST_US (5 * (int64_t)USEC_PER_SEC)
#define TRIES_MAX 6 /* sshd_config(5): MaxAuthTries is 6 */
#define KEY_FILE_MAX (64 * 1024)

void auth_init(struct auth *a)
{
	memset(a, 0, sizeof(*a));
	strbuf_init(&a->tried);
	strbuf_init(&a->skipped);
}

void auth_release(struct auth *a)
{
	size_t i;

	for (i = 0; i < a->n_keys; i++) {
		free(a->keys[i].label);
		free(a->keys[i].path);
	}
	free(a->keys);
	if (a->agent) {
		(void)libssh2_agent_disconnect(a->agent);
		libssh2_agent_free(a->agent);
	}
	strbuf_release(&a->tried);
	strbuf_release(&a->skipped);
	auth_init(a);
}

const char *auth_label(const struct auth *a)
{
	return a->at < a->n_keys ? a->keys[a->at].label : "none needed";
}

static struct auth_key *add_key(struct auth *a, enum key_source from, char *label, const char *path, bool rsa)
{
	struct auth_key *k;

	a->keys = xrealloc(a->keys, (a->n_keys + 1) * sizeof(*a->keys));
	k = &a->keys[a->n_keys++];
	memset(k, 0, sizeof(*k));
	k->from = from;
	k->label = label;
	k->path = xstrdup(path);
	k->rsa = rsa;
	return k;
}

static void skip(struct auth *a, const char *what, const char *why)
{
	strbuf_addf(&a->skipped, "%s%s %s", a->skipped.len ? ", " : "", what, why);
}

/* The base64 words of FILE.pub, or "" (a FILE that is a public key itself counts, as in ssh). */
static void public_half(const char *path, struct strbuf *type, struct strbuf *key)
{
	cleanup_free char *pub = xasprintf("%s.pub", path);
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	size_t n, m;

	if (strbuf_read_file(&text, pub, KEY_FILE_MAX) < 0 && strbuf_read_file(&text, path, KEY_FILE_MAX) < 0)
		return;
	n = strcspn(text.buf, " \n");
	if (text.buf[n] != ' ' || strncmp(text.buf, "-----", 5) == 0)
		return;
	m = strcspn(text.buf + n + 1, " \r\n");
	strbuf_add(type, text.buf, n);
	strbuf_add(key, text.buf + n + 1, m);
}

static char *agent_socket(const struct ssh_config *cfg)
{
	const char *which = cfg->identity_agent, *path;

	if (which && strcmp(which, "none") == 0)
		return NULL;
	if (!which || strcmp(which, "SSH_AUTH_SOCK") == 0)
		path = getenv("SSH_AUTH_SOCK");
	else
		path = which[0] == '$' ? getenv(which + 1) : which;
	return path && *path ? xstrdup(path) : NULL;
}

/* Connects and lists; without an agent there is just nothing in the list. */
static void open_agent(struct auth *a, LIBSSH2_SESSION *session, const struct ssh_config *cfg,
		       const struct clock *clock)
{
	cleanup_free char *path = agent_socket(cfg);

	if (!path)
		return;
	a->agent = libssh2_agent_init(session);
	if (!a->agent)
		return;
	libssh2_agent_set_identity_path(a->agent, path);
	a->agent_deadline = clock_mono(clock) + AGENT_LIST_US;
	if (libssh2_agent_connect(a->agent) == 0 && libssh2_agent_list_identities(a->agent) == 0)
		return;
	skip(a, path, "(ssh-agent does not answer)");
	libssh2_agent_free(a->agent);
	a->agent = NULL;
}

static struct libssh2_agent_publickey *next_identity(struct auth *a, struct libssh2_agent_publickey *prev)
{
	struct libssh2_agent_publickey *id = NULL;

	if (!a->agent || libssh2_agent_get_identity(a->agent, &id, prev) != 0)
		return NULL;
	return id;
}

static bool taken(const struct auth *a, const struct libssh2_agent_publickey *id)
{
	size_t i;

	for (i = 0; i < a->n_keys; i++) {
		if (a->keys[i].identity == id)
			return true;
	}
	return false;
}

static void add_identity(struct auth *a, struct libssh2_agent_publickey *id)
{
	const char *comment = id->comment ? id->comment : "";
	char type[64];

	blob_type(id->blob, id->blob_len, type, sizeof(type));
	if (taken(a, id))
		return;
	if (strncmp(type, "sk-", 3) == 0 || strcmp(type, "ssh-dss") == 0) {
		skip(a, comment, strcmp(type, "ssh-dss") == 0 ? "(DSA)" : "(a security key)");
		return;
	}
	add_key(a, KEY_AGENT, xasprintf("%s of ssh-agent (%s)", comment, type), NULL, strcmp(type, "ssh-rsa") == 0)
		->identity = id;
}

/* The identity of the agent that is this file's key. */
static struct libssh2_agent_publickey *find_identity(struct auth *a, const char *base64)
{
	struct libssh2_agent_publickey *id = NULL;

	while (*base64 && (id = next_identity(a, id))) {
		cleanup_strbuf struct strbuf key = STRBUF_INIT;

		base64_add(&key, id->blob, id->blob_len, true);
		if (strcmp(key.buf, base64) == 0)
			return id;
	}
	return NULL;
}

/* PEM says so in words; OpenSSH's own format begins with a magic and the cipher's name, which is "none" here. */
static bool is_encrypted(const char *text)
{
	static const char magic[] = "-----BEGIN OPENSSH PRIVATE KEY-----";
	static const char none[] = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";

	if (strncmp(text, magic, sizeof(magic) - 1) == 0) {
		text += sizeof(magic) - 1;
		text += strspn(text, "\r\n");
		return strncmp(text, none, sizeof(none) - 1) != 0;
	}
	return strstr(text, "Proc-Type: 4,ENCRYPTED") || strncmp(text, "-----BEGIN ENCRYPTED", 20) == 0;
}

static void add_file(struct auth *a, const char *path, const char *type)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	ssize_t n = strbuf_read_file(&text, path, KEY_FILE_MAX);

	if (n == -ENOENT)
		return;
	if (n < 0)
		skip(a, path, "(cannot be read)");
	else if (strncmp(text.buf, "-----BEGIN ", 11) != 0)
		skip(a, path, "(no private key)");
	else if (is_encrypted(text.buf))
		skip(a, path, "(has a passphrase: load it into ssh-agent with ssh-add)");
	else if (strncmp(type, "sk-", 3) == 0)
		skip(a, path, "(a security key)");
	else
		(void)add_key(a, KEY_FILE, xstrdup(path), path,
			      strcmp(type, "ssh-rsa") == 0 || strstr(text.buf, "BEGIN RSA PRIVATE KEY") != NULL);
}

static bool old_libssh2(void)
{
	return libssh2_version(0x010b00) == NULL;
}

static void rsa_last(struct auth *a)
{
	struct auth_key *sorted = xcalloc(a->n_keys + 1, sizeof(*sorted));
	size_t i, n = 0;

	for (i = 0; i < a->n_keys; i++) {
		if (!a->keys[i].rsa)
			sorted[n++] = a->keys[i];
	}
	for (i = 0; i < a->n_keys; i++) {
		if (a->keys[i].rsa)
			sorted[n++] = a->keys[i];
	}
	free(a->keys);
	a->keys = sorted;
}

static void collect_keys(struct auth *a, LIBSSH2_SESSION *session, const struct ssh_config *cfg,
			 const struct clock *clock)
{
	struct libssh2_agent_publickey *id;
	size_t i;
	int pass;

	open_agent(a, session, cfg, clock);
	/* Configured keys that the agent holds, the rest of the agent, files. */
	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < cfg->n_identity_files; i++) {
			cleanup_strbuf struct strbuf type = STRBUF_INIT, key = STRBUF_INIT;

			public_half(cfg->identity_files[i], &type, &key);
			id = find_identity(a, key.buf);
			if (pass == 0 && id)
				add_identity(a, id);
			else if (pass == 1 && !id)
				add_file(a, cfg->identity_files[i], type.buf);
		}
		for (id = NULL; pass == 0 && !cfg->identities_only && (id = next_identity(a, id));)
			add_identity(a, id);
	}
	if (old_libssh2())
		rsa_last(a);
}

static int refuse(const struct auth *a, const struct ssh_config *cfg, struct err *e)
{
	bool rsa = false;
	size_t i;

	for (i = 0; i < a->n_keys && i < a->at; i++)
		rsa = rsa || a->keys[i].rsa;
	return err_set(
		e, -EKEYREJECTED, "%s does not let %s in with a key; tried: %s%s%s%s", cfg->hostname, cfg->user,
		a->tried.len ? a->tried.buf : "no key", a->skipped.len ? "; left out: " : "", a->skipped.buf,
		rsa && old_libssh2()
			? ". RSA keys are often refused because this libssh2 signs them with SHA-1: use an ed25519 or "
			  "ecdsa key"
			: "");
}

/* What the server offers; 0 when keys are among it. */
static int methods(LIBSSH2_SESSION *session, const struct ssh_config *cfg, struct err *e)
{
	char *list = libssh2_userauth_list(session, cfg->user, (unsigned)strlen(cfg->user));

	if (!list && libssh2_userauth_authenticated(session))
		return 1;
	if (!list)
		return libssh2_session_last_errno(session) == LIBSSH2_ERROR_EAGAIN ? -EAGAIN : -ECONNRESET;
	if (!strstr(list, "publickey"))
		return err_set(e, -EKEYREJECTED, "%s lets %s in only by %s; this version logs in with keys only",
			       cfg->hostname, cfg->user, list);
	return 0;
}

static int try_key(struct auth *a, LIBSSH2_SESSION *session, const struct ssh_config *cfg)
{
	struct auth_key *k = &a->keys[a->at];

	if (k->from == KEY_AGENT)
		return libssh2_agent_userauth(a->agent, cfg->user, k->identity);
	/* "" and not NULL: libssh2 1.10 takes the length of the passphrase of a PEM file without looking. */
	return libssh2_userauth_publickey_fromfile_ex(session, cfg->user, (unsigned)strlen(cfg->user), NULL, k->path,
						      "");
}

static int next_key(struct auth *a, LIBSSH2_SESSION *session, const struct ssh_config *cfg, int64_t login_deadline,
		    struct err *e)
{
	while (a->at < a->n_keys && a->refused < TRIES_MAX) {
		int rc;

		a->agent_deadline = login_deadline; /* a confirmation or a touch may take the user a while */
		rc = try_key(a, session, cfg);
		if (rc == 0)
			return 0;
		if (rc == LIBSSH2_ERROR_EAGAIN)
			return -EAGAIN;
		if (rc == LIBSSH2_ERROR_SOCKET_SEND || rc == LIBSSH2_ERROR_SOCKET_RECV ||
		    rc == LIBSSH2_ERROR_SOCKET_DISCONNECT || rc == LIBSSH2_ERROR_TIMEOUT) {
			if (a->refused < TRIES_MAX - 1)
				return -ECONNRESET;
			break; /* "Too many authentication failures" */
		}
		strbuf_addf(&a->tried, "%s%s", a->tried.len ? ", " : "", a->keys[a->at].label);
		if (rc == LIBSSH2_ERROR_FILE || rc == LIBSSH2_ERROR_KEYFILE_AUTH_FAILED)
			strbuf_addstr(&a->tried, " (cannot be used)");
		else
			a->refused++;
		a->at++;
	}
	return refuse(a, cfg, e);
}

int auth_step(struct auth *a, LIBSSH2_SESSION *session, const struct ssh_config *cfg, const struct clock *clock,
	      int64_t login_deadline, struct err *e)
{
	if (!a->listed) {
		int rc = methods(session, cfg, e);

		if (rc != 0)
			return rc < 0 ? rc : 0;
		a->listed = true;
		if (!cfg->no_pubkey)
			collect_keys(a, session, cfg, clock);
	}
	return next_key(a, session, cfg, login_deadline, e);
}
