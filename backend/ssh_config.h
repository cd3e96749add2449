/*
 * What the user's OpenSSH configuration says about a host, as `ssh -G` prints it (ssh(1), ssh_config(5)). The parser is
 * pure; ssh_config_load runs ssh. Options that this program cannot honour are kept as words, for a refusal that names
 * them.
 */
#ifndef BACKEND_SSH_CONFIG_H
#define BACKEND_SSH_CONFIG_H

#include "backend/base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct cluster_conf;

enum ssh_family { SSH_FAMILY_ANY, SSH_FAMILY_INET, SSH_FAMILY_INET6 };

struct ssh_config {
	char *hostname, *user;
	int port;
	enum ssh_family family;
	char *host_key_alias; /* NULL: none */
	char *proxy;          /* "proxyjump gate" or "proxycommand ...", NULL: a direct connection */
	char *identity_agent; /* "SSH_AUTH_SOCK", "none", "$NAME" or a path */
	bool identities_only;
	bool no_pubkey;        /* PubkeyAuthentication no */
	char **identity_files; /* NULL-ended, in the order in which they are tried */
	char **known_hosts;    /* NULL-ended: the user's files, then the machine's */
	size_t n_identity_files, n_known_hosts;
	int connect_timeout; /* seconds; 0: not set */
	int alive_interval;  /* seconds; 0: not set */
	int alive_count;     /* 0: not set */
};

/* An empty one; ssh_config_release frees what it holds and empties it again. */
void ssh_config_init(struct ssh_config *c);
void ssh_config_release(struct ssh_config *c);

/*
 * Reads the output of `ssh -G`. Unknown keys are skipped; -EINVAL for a port or number that is none and for output
 * without a host name. Paths stay as printed.
 */
int ssh_config_parse(const char *text, struct ssh_config *out, struct err *e);

/*
 * Expands "~/" and the tokens %% %d %h %i %k %n %p %r %u in paths (ssh_config(5), TOKENS); `alias` is the name the user
 * gave, `home` and `local_user` are the local user's. A path with another token is dropped.
 */
void ssh_config_expand(struct ssh_config *c, const char *alias, const char *home, const char *local_user, unsigned uid);

/*
 * Runs `ssh -G` for conf->hosts[host_index] (no shell; at most 5 s), reads and expands its output. Where there is no
 * ssh program the configuration's values and ssh's own defaults are taken. -EINVAL, -ETIMEDOUT: the text says what ssh
 * said.
 */
int ssh_config_load(const struct cluster_conf *conf, size_t host_index, struct ssh_config *out, struct err *e);

#endif
