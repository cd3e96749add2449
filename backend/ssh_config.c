/*
 * The reader of `ssh -G` output: lines of "key value" with keys in lower case, some keys several times. Pure: no files,
 * no environment. Invariant: both lists are NULL-ended as soon as they hold anything.
 */
#include "backend/ssh_config.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

void ssh_config_init(struct ssh_config *c)
{
	memset(c, 0, sizeof(*c));
}

static void list_free(char **list)
{
	size_t i;

	for (i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

void ssh_config_release(struct ssh_config *c)
{
	free(c->hostname);
	free(c->user);
	free(c->host_key_alias);
	free(c->proxy);
	free(c->identity_agent);
	list_free(c->identity_files);
	list_free(c->known_hosts);
	ssh_config_init(c);
}

static void list_add(char ***list, size_t *n, const char *s, size_t len)
{
	*list = xrealloc(*list, (*n + 2) * sizeof(**list));
	(*list)[(*n)++] = xstrndup(s, len);
	(*list)[*n] = NULL;
}

/* Words separated by blanks; a word with blanks is in double quotes. */
static void list_add_words(char ***list, size_t *n, const char *s)
{
	while (*s) {
		size_t len;

		s += strspn(s, " \t");
		if (*s == '"') {
			len = strcspn(++s, "\"");
			list_add(list, n, s, len);
			s += len + (s[len] == '"');
		} else if (*s) {
			len = strcspn(s, " \t");
			list_add(list, n, s, len);
			s += len;
		}
	}
}

static int parse_int(const char *key, const char *s, int max, int *out, struct err *e)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(s, &end, 10);
	if (errno || end == s || *end || v < 0 || v > max)
		return err_set(e, -EINVAL, "`ssh -G` says \"%s %s\", which is not a number up to %d", key, s, max);
	*out = (int)v;
	return 0;
}

static bool is_no(const char *s)
{
	return strcmp(s, "no") == 0 || strcmp(s, "false") == 0;
}

static int set_number(struct ssh_config *c, const char *key, const char *val, struct err *e)
{
	static const struct {
		const char *key;
		int max;
		size_t at;
	} table[] = {
		{ "port", 65535, offsetof(struct ssh_config, port) },
		{ "connecttimeout", INT_MAX / 1000, offsetof(struct ssh_config, connect_timeout) },
		{ "serveraliveinterval", INT_MAX / 1000, offsetof(struct ssh_config, alive_interval) },
		{ "serveralivecountmax", 1000, offsetof(struct ssh_config, alive_count) },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(table); i++) {
		if (strcmp(key, table[i].key) == 0 && strcmp(val, "none") != 0)
			return parse_int(key, val, table[i].max, (int *)(void *)((char *)c + table[i].at), e);
	}
	return 0;
}

static void set_word(struct ssh_config *c, const char *key, const char *val)
{
	bool none = strcmp(val, "none") == 0;

	if (strcmp(key, "hostname") == 0) {
		str_set(&c->hostname, val);
	} else if (strcmp(key, "user") == 0) {
		str_set(&c->user, val);
	} else if (strcmp(key, "hostkeyalias") == 0) {
		str_set(&c->host_key_alias, none ? NULL : val);
	} else if (strcmp(key, "identityagent") == 0) {
		str_set(&c->identity_agent, val);
	} else if (strcmp(key, "identitiesonly") == 0) {
		c->identities_only = !is_no(val);
	} else if (strcmp(key, "pubkeyauthentication") == 0) {
		c->no_pubkey = is_no(val);
	} else if (strcmp(key, "addressfamily") == 0) {
		c->family = strcmp(val, "inet") == 0    ? SSH_FAMILY_INET
			    : strcmp(val, "inet6") == 0 ? SSH_FAMILY_INET6
							: SSH_FAMILY_ANY;
	} else if ((strcmp(key, "proxycommand") == 0 || strcmp(key, "proxyjump") == 0) && !none) {
		free(c->proxy);
		c->proxy = xasprintf("%s %s", key, val);
	} else if (strcmp(key, "identityfile") == 0 && !none) {
		size_t len = strlen(val);
		bool quoted = len > 1 && val[0] == '"' && val[len - 1] == '"';

		list_add(&c->identity_files, &c->n_identity_files, val + quoted, len - (quoted ? 2 : 0));
	} else if (strcmp(key, "userknownhostsfile") == 0 && !none) {
		list_add_words(&c->known_hosts, &c->n_known_hosts, val);
	}
}

/* The machine's files come behind the user's, wherever ssh prints them. */
static int parse_line(struct ssh_config *c, char *line, char **global, struct err *e)
{
	char *val = strchr(line, ' ');

	if (!val || val == line)
		return 0;
	*val++ = '\0';
	if (strcmp(line, "globalknownhostsfile") == 0) {
		str_set(global, strcmp(val, "none") == 0 ? "" : val);
		return 0;
	}
	set_word(c, line, val);
	return set_number(c, line, val, e);
}

int ssh_config_parse(const char *text, struct ssh_config *out, struct err *e)
{
	cleanup_free char *copy = xstrdup(text);
	cleanup_free char *global = NULL;
	char *line = copy;
	int rc = 0;

	ssh_config_init(out);
	while (line && *line && rc == 0) {
		char *nl = strchr(line, '\n');
		size_t len;

		if (nl)
			*nl++ = '\0';
		len = strlen(line);
		if (len && line[len - 1] == '\r')
			line[len - 1] = '\0';
		rc = parse_line(out, line, &global, e);
		line = nl;
	}
	if (rc == 0 && (!out->hostname || !*out->hostname))
		rc = err_set(e, -EINVAL, "`ssh -G` printed no host name");
	if (rc < 0) {
		ssh_config_release(out);
		return rc;
	}
	if (global)
		list_add_words(&out->known_hosts, &out->n_known_hosts, global);
	if (!out->port)
		out->port = 22;
	return 0;
}

struct tokens {
	const char *alias, *home, *local_user, *host, *remote_user, *key_alias;
	int port;
	unsigned uid;
};

/* NULL for a token that is not known. */
static char *expand_path(const char *path, const struct tokens *t)
{
	struct strbuf sb = STRBUF_INIT;

	if (strcmp(path, "~") == 0 || strncmp(path, "~/", 2) == 0) {
		strbuf_addstr(&sb, t->home);
		path++;
	}
	for (; *path; path++) {
		if (*path != '%') {
			strbuf_addch(&sb, *path);
			continue;
		}
		switch (*++path) {
		case '%':
			strbuf_addch(&sb, '%');
			break;
		case 'd':
			strbuf_addstr(&sb, t->home);
			break;
		case 'h':
			strbuf_addstr(&sb, t->host);
			break;
		case 'i':
			strbuf_addf(&sb, "%u", t->uid);
			break;
		case 'k':
			strbuf_addstr(&sb, t->key_alias ? t->key_alias : t->host);
			break;
		case 'n':
			strbuf_addstr(&sb, t->alias);
			break;
		case 'p':
			strbuf_addf(&sb, "%d", t->port);
			break;
		case 'r':
			strbuf_addstr(&sb, t->remote_user);
			break;
		case 'u':
			strbuf_addstr(&sb, t->local_user);
			break;
		default:
			strbuf_release(&sb);
			return NULL;
		}
	}
	return strbuf_detach(&sb, NULL);
}

static void expand_list(char **list, size_t *n, const struct tokens *t)
{
	size_t i, k = 0;

	for (i = 0; i < *n; i++) {
		char *s = expand_path(list[i], t);

		free(list[i]);
		if (s)
			list[k++] = s;
	}
	if (list)
		list[k] = NULL;
	*n = k;
}

void ssh_config_expand(struct ssh_config *c, const char *alias, const char *home, const char *local_user, unsigned uid)
{
	struct tokens t = { alias,   home, local_user, c->hostname, c->user ? c->user : local_user, c->host_key_alias,
			    c->port, uid };
	char *s;

	expand_list(c->identity_files, &c->n_identity_files, &t);
	expand_list(c->known_hosts, &c->n_known_hosts, &t);
	if (c->identity_agent && c->identity_agent[0] != '$') {
		s = expand_path(c->identity_agent, &t);
		free(c->identity_agent);
		c->identity_agent = s;
	}
}
