/*
 * Known hosts: which entries of the user's and the machine's files speak of this host, and whether the key that the
 * server shows is one of them (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT). Nothing is ever added to the files and nothing
 * weakens the check: an unknown or changed key is a refusal that says what the user can do.
 *
 * Plain names and patterns are matched here; hashed names (|1|...) by libssh2, one line at a time. @revoked is
 * honoured, certificate authorities (@cert-authority) are not used.
 */
#include "backend/transport_ssh2.h"

#include "backend/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FILE_MAX (16 * 1024 * 1024)

void base64_add(struct strbuf *sb, const void *data, size_t len, bool pad)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *p = data;
	size_t i;

	for (i = 0; i < len; i += 3) {
		unsigned v = (unsigned)p[i] << 16 | (i + 1 < len ? (unsigned)p[i + 1] << 8 : 0) |
			     (i + 2 < len ? p[i + 2] : 0u);

		strbuf_addch(sb, digits[v >> 18]);
		strbuf_addch(sb, digits[v >> 12 & 63]);
		if (i + 1 < len)
			strbuf_addch(sb, digits[v >> 6 & 63]);
		else if (pad)
			strbuf_addch(sb, '=');
		if (i + 2 < len)
			strbuf_addch(sb, digits[v & 63]);
		else if (pad)
			strbuf_addch(sb, '=');
	}
}

void blob_type(const void *blob, size_t len, char *out, size_t size)
{
	const unsigned char *p = blob;
	size_t n;

	out[0] = '\0';
	if (len < 4)
		return;
	n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
	if (n > len - 4 || n >= size)
		return;
	memcpy(out, p + 4, n);
	out[n] = '\0';
}

/* '*' and '?' (ssh_config(5), PATTERNS), without recursion; `pat` is not NUL-terminated; case does not matter. */
static bool glob_match(const char *pat, size_t len, const char *s)
{
	const char *end = pat + len, *star = NULL, *back = NULL;

	while (*s) {
		if (pat < end && *pat == '*') {
			star = pat++;
			back = s;
		} else if (pat < end && (*pat == '?' || tolower((unsigned char)*pat) == tolower((unsigned char)*s))) {
			pat++;
			s++;
		} else if (star) {
			pat = star + 1;
			s = ++back;
		} else {
			return false;
		}
	}
	while (pat < end && *pat == '*')
		pat++;
	return pat == end;
}

/* A comma-separated list; one negated match refuses. */
static bool list_match(const char *list, size_t len, const char *name)
{
	bool found = false;

	while (len) {
		const char *comma = memchr(list, ',', len);
		size_t n = comma ? (size_t)(comma - list) : len;

		if (n > 1 && list[0] == '!') {
			if (glob_match(list + 1, n - 1, name))
				return false;
		} else if (glob_match(list, n, name)) {
			found = true;
		}
		if (!comma)
			break;
		list += n + 1;
		len -= n + 1;
	}
	return found;
}

static bool hashed_match(LIBSSH2_SESSION *session, const char *line, size_t len, const char *name)
{
	LIBSSH2_KNOWNHOSTS *kh = libssh2_knownhost_init(session);
	int rc = LIBSSH2_KNOWNHOST_CHECK_NOTFOUND;

	if (!kh)
		return false;
	/* The key does not matter here: a name that is there with another key is a mismatch, not "not found". */
	if (libssh2_knownhost_readline(kh, line, len, LIBSSH2_KNOWNHOST_FILE_OPENSSH) == 0)
		rc = libssh2_knownhost_check(kh, name, "AAAA", 4,
					     LIBSSH2_KNOWNHOST_TYPE_PLAIN | LIBSSH2_KNOWNHOST_KEYENC_BASE64, NULL);
	libssh2_knownhost_free(kh);
	return rc == LIBSSH2_KNOWNHOST_CHECK_MATCH || rc == LIBSSH2_KNOWNHOST_CHECK_MISMATCH;
}

struct names {
	LIBSSH2_SESSION *session;
	char *strict; /* "host" or "[host]:port" or the alias */
	char *loose;  /* "host", when strict has a port; or NULL */
};

static bool name_match(const struct names *n, const char *hosts, size_t hosts_len, size_t line_len, const char *name)
{
	if (hosts_len > 3 && strncmp(hosts, "|1|", 3) == 0)
		return hashed_match(n->session, hosts, line_len, name);
	return list_match(hosts, hosts_len, name);
}

/* Cuts a word off *s; its length, 0 at the end. */
static size_t word(const char **s, const char **start)
{
	size_t n;

	*s += strspn(*s, " \t");
	*start = *s;
	n = strcspn(*s, " \t\r");
	*s += n;
	return n;
}

/* `line` is NUL-terminated. */
static void read_line(struct known_hosts *k, const struct names *n, const char *file, int number, const char *line)
{
	const char *hosts, *type, *key, *s = line;
	size_t hosts_len = word(&s, &hosts), type_len, key_len;
	bool revoked = false, loose = false;
	struct known_host *h;

	if (hosts_len == 0 || *hosts == '#')
		return;
	if (*hosts == '@') {
		revoked = hosts_len == 8 && strncmp(hosts, "@revoked", 8) == 0;
		if (!revoked)
			return;
		hosts_len = word(&s, &hosts);
	}
	type_len = word(&s, &type);
	key_len = word(&s, &key);
	if (!hosts_len || !type_len || !key_len)
		return;
	if (!name_match(n, hosts, hosts_len, strlen(hosts), n->strict)) {
		loose = n->loose && name_match(n, hosts, hosts_len, strlen(hosts), n->loose);
		if (!loose)
			return;
	}
	k->v = xrealloc(k->v, (k->n + 1) * sizeof(*k->v));
	h = &k->v[k->n++];
	h->file = xstrdup(file);
	h->line = number;
	h->type = xstrndup(type, type_len);
	h->key = xstrndup(key, key_len);
	h->revoked = revoked;
	h->loose = loose;
}

static void read_file(struct known_hosts *k, const struct names *n, const char *file)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	int number = 0;
	char *line, *nl;

	if (strbuf_read_file(&text, file, FILE_MAX) < 0)
		return;
	for (line = text.buf; line && *line; line = nl) {
		nl = strchr(line, '\n');
		if (nl)
			*nl++ = '\0';
		read_line(k, n, file, ++number, line);
	}
}

void known_hosts_load(struct known_hosts *k, LIBSSH2_SESSION *session, const struct ssh_config *cfg)
{
	struct names n = { session, NULL, NULL };
	size_t i;
	char *p;

	memset(k, 0, sizeof(*k));
	if (cfg->host_key_alias || cfg->port == 22) {
		n.strict = xstrdup(cfg->host_key_alias ? cfg->host_key_alias : cfg->hostname);
	} else {
		n.strict = xasprintf("[%s]:%d", cfg->hostname, cfg->port);
		n.loose = xstrdup(cfg->hostname);
	}
	/* Names are hashed in lower case. */
	for (p = n.strict; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	for (p = n.loose; p && *p; p++)
		*p = (char)tolower((unsigned char)*p);
	for (i = 0; i < cfg->n_known_hosts; i++)
		read_file(k, &n, cfg->known_hosts[i]);
	free(n.strict);
	free(n.loose);
}

void known_hosts_release(struct known_hosts *k)
{
	size_t i;

	for (i = 0; i < k->n; i++) {
		free(k->v[i].file);
		free(k->v[i].type);
		free(k->v[i].key);
	}
	free(k->v);
	memset(k, 0, sizeof(*k));
}

static const char *const algorithms[][2] = {
	/* key type in known_hosts, algorithm (RFC 8332 for RSA) */
	{ "ssh-ed25519", "ssh-ed25519" },
	{ "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256" },
	{ "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp384" },
	{ "ecdsa-sha2-nistp521", "ecdsa-sha2-nistp521" },
	{ "ssh-rsa", "rsa-sha2-512" },
	{ "ssh-rsa", "rsa-sha2-256" },
	{ "ssh-rsa", "ssh-rsa" },
};

static bool knows_type(const struct known_hosts *k, const char *type)
{
	size_t i;

	for (i = 0; i < k->n; i++) {
		if (!k->v[i].revoked && strcmp(k->v[i].type, type) == 0)
			return true;
	}
	return false;
}

static bool contains(const char **list, int n, const char *s)
{
	int i;

	for (i = 0; i < n; i++) {
		if (strcmp(list[i], s) == 0)
			return true;
	}
	return false;
}

/* Only what libssh2 supports: the 1.10 release takes others out by a memcpy of overlapping ranges. */
void known_hosts_algorithms(const struct known_hosts *k, LIBSSH2_SESSION *session, struct strbuf *out)
{
	const char **supported = NULL;
	int known, n = libssh2_session_supported_algs(session, LIBSSH2_METHOD_HOSTKEY, &supported);
	size_t i;

	for (known = 1; known >= 0; known--) {
		for (i = 0; i < ARRAY_SIZE(algorithms); i++) {
			if (contains(supported, n, algorithms[i][1]) && knows_type(k, algorithms[i][0]) == (known == 1))
				strbuf_addf(out, "%s%s", out->len ? "," : "", algorithms[i][1]);
		}
	}
	if (supported)
		libssh2_free(session, (void *)(uintptr_t)supported);
}

static int unknown_host(const struct known_hosts *k, const struct ssh_config *cfg, const char *type,
			const char *fingerprint, struct err *e)
{
	const char *file = cfg->n_known_hosts ? cfg->known_hosts[0] : "~/.ssh/known_hosts";
	cleanup_free char *port = cfg->port == 22 ? xstrdup("") : xasprintf("-p %d ", cfg->port);
	cleanup_free char *rename =
		cfg->host_key_alias ? xasprintf("| sed 's/^[^ ]*/%s/' ", cfg->host_key_alias) : xstrdup("");
	cleanup_free char *note =
		k->n ? xasprintf("; %s:%d knows another kind of key of it", k->v[0].file, k->v[0].line) : xstrdup("");

	return err_set(e, -EKEYREJECTED,
		       "the host key of %s is not known (%s SHA256:%s%s). Compare this fingerprint with the one that "
		       "the site publishes; "
		       "if it is the same, accept it with: ssh-keyscan %s%s %s>> %s",
		       cfg->hostname, type, fingerprint, note, port, cfg->hostname, rename, file);
}

static int changed_key(const struct known_host *h, const struct ssh_config *cfg, const char *type,
		       const char *fingerprint, struct err *e)
{
	return err_set(e, -EKEYREJECTED,
		       "the host key of %s has changed: %s line %d has another %s key than the one it shows now "
		       "(SHA256:%s). Somebody may "
		       "be listening in, or the host was set up anew: ask the site, then remove that line",
		       cfg->hostname, h->file, h->line, type, fingerprint);
}

int known_hosts_check(const struct known_hosts *k, const struct ssh_config *cfg, const char *blob, size_t len,
		      const char *fingerprint, struct err *e)
{
	cleanup_strbuf struct strbuf key = STRBUF_INIT;
	const struct known_host *other = NULL;
	bool found = false;
	char type[64];
	size_t i;

	base64_add(&key, blob, len, true);
	blob_type(blob, len, type, sizeof(type));
	for (i = 0; i < k->n; i++) {
		const struct known_host *h = &k->v[i];
		bool same = strcmp(h->key, key.buf) == 0;

		if (same && h->revoked)
			return err_set(e, -EKEYREJECTED,
				       "the host key that %s shows is marked as revoked in %s line %d", cfg->hostname,
				       h->file, h->line);
		if (same)
			found = true;
		else if (!other && !h->revoked && !h->loose && strcmp(h->type, type) == 0)
			other = h;
	}
	if (found)
		return 0;
	return other ? changed_key(other, cfg, type, fingerprint, e) : unknown_host(k, cfg, type, fingerprint, e);
}
