/*
 * The keys of a configuration section: a table of the keys that describe a cluster, and spec keys, which become
 * defaults. Values are checked here so far that no later module meets one that it cannot use: no host or user that
 * ssh would read as an option, no directory that is not absolute.
 */
#include "backend/config_impl.h"

#include "backend/base/mem.h"
#include "backend/base/near.h"
#include "backend/spec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int config_complain(struct parser *p, const char *fmt, ...)
{
	va_list ap;

	if (p->errors.len > sizeof(((struct err *)0)->text)) /* nobody will see more */
		return -EINVAL;
	if (p->errors.len)
		strbuf_addch(&p->errors, '\n');
	strbuf_addf(&p->errors, "%s:%d: ", p->name, p->line);
	va_start(ap, fmt);
	strbuf_vaddf(&p->errors, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static void set_type(struct parser *p, const char *value)
{
	struct cluster_conf *k = p->cluster;

	if (strcmp(value, "kuberay") == 0)
		config_complain(p, "type = %s: this version has slurm, ray and local only", value);
	else if (strcmp(value, "slurm") != 0 && strcmp(value, "local") != 0 && strcmp(value, "ray") != 0)
		config_complain(p, "type = %s: must be slurm, ray or local", value);
	else if (strcmp(k->name, "local") == 0 && strcmp(value, "local") != 0)
		config_complain(p, "the cluster named local is this machine: give another name to one of type %s",
				value);
	else
		k->type = strcmp(value, "local") == 0 ? CLUSTER_LOCAL
			  : strcmp(value, "ray") == 0 ? CLUSTER_RAY
						      : CLUSTER_SLURM;
}

/* A word that ssh takes for a name and never for an option (CVE-2017-1000117 and its kind). */
static int check_word(struct parser *p, const char *key, const char *word, size_t len)
{
	if (!len)
		return config_complain(p, "%s: a name is missing", key);
	if (*word == '-')
		return config_complain(p, "%s = %.*s: a name cannot begin with '-'", key, (int)len, word);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)word[i] <= ' ' || word[i] == 127)
			return config_complain(p, "%s = %.*s: blanks cannot be in a name; commas separate names", key,
					       (int)len, word);
	return 0;
}

static void set_host(struct parser *p, const char *value)
{
	char **hosts = NULL;
	size_t n = 0;

	for (const char *s = value, *end; s; s = *end ? end + 1 : NULL) {
		size_t len;

		s += strspn(s, " \t");
		len = strcspn(s, ",");
		end = s + len;
		while (len && strchr(" \t", s[len - 1]))
			len--;
		if (check_word(p, "host", s, len))
			continue;
		hosts = xrealloc(hosts, (n + 2) * sizeof(*hosts));
		hosts[n++] = xstrndup(s, len);
		hosts[n] = NULL;
	}
	p->cluster->hosts = hosts;
}

static void set_user(struct parser *p, const char *value)
{
	if (!check_word(p, "user", value, strlen(value)))
		str_set(&p->cluster->user, value);
}

/* A whole number in [min, max], or -1 and a sentence. */
static int number(struct parser *p, const char *key, const char *value, long min, long max)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(value, &end, 10);
	if (errno || end == value || *end || n < min || n > max) {
		config_complain(p, "%s = %s: must be a number from %ld to %ld", key, value, min, max);
		return -1;
	}
	return (int)n;
}

static void set_port(struct parser *p, const char *value)
{
	int n = number(p, "port", value, 1, 65535);

	if (n > 0)
		p->cluster->port = n;
}

static void set_tick(struct parser *p, const char *value)
{
	int n = number(p, "tick", value, 1, 3600000);

	if (n > 0)
		p->cluster->tick_ms = n;
}

static void set_env_quota(struct parser *p, const char *value)
{
	long long bytes = spec_memory_bytes(value);

	if (bytes <= 0)
		config_complain(p, "env_quota = %s: must be a size, like 20G or 500M", value);
	else
		p->cluster->env_quota_kib = bytes / 1024;
}

/* A size, or `null` for no limit. In [defaults] it is for all clusters together. */
static void set_cache_size(struct parser *p, const char *value)
{
	bool none = strcmp(value, "null") == 0;
	long long bytes = none ? 0 : spec_memory_bytes(value);

	if (!none && bytes <= 0)
		config_complain(p, "cache_size = %s: must be a size, like 20G or 500M, or null for no limit", value);
	else
		*(p->cluster ? &p->cluster->cache_bytes : &p->config->cache_bytes) = bytes;
}

/* NUMBER and a unit, as tmpreaper(8) has it; a bare number would mean minutes to Slurm and hours to others. */
static int64_t duration_s(const char *text)
{
	static const struct {
		char unit;
		int64_t seconds;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 }, { 'w', 7 * 86400 } };
	char *end;
	long n;

	errno = 0;
	n = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : 0;
	if (errno || n < 1 || n > INT32_MAX || !end[0] || end[1])
		return -EINVAL;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (*end == units[i].unit)
			return n * units[i].seconds;
	return -EINVAL;
}

static void set_keep(struct parser *p, const char *value)
{
	bool ever = strcmp(value, "null") == 0;
	int64_t s = ever ? 0 : duration_s(value);

	if (s < 0)
		config_complain(
			p, "keep = %s: must be a time after the end of a run, like 30d, 12h or 8w, or null for ever",
			value);
	else
		*(p->cluster ? &p->cluster->keep_s : &p->config->keep_s) = s;
}

static void set_path(struct parser *p, const char *key, char **where, const char *value)
{
	size_t len = strlen(value);

	if (value[0] != '/' && strncmp(value, "~/", 2) != 0) {
		config_complain(p, "%s = %s: must begin with / or ~/", key, value);
		return;
	}
	while (len > 1 && value[len - 1] == '/')
		len--;
	free(*where);
	*where = xstrndup(value, len);
}

static void set_identity_file(struct parser *p, const char *value)
{
	set_path(p, "identity_file", &p->cluster->identity_file, value);
}

static void set_ssh_config(struct parser *p, const char *value)
{
	set_path(p, "ssh_config", &p->cluster->ssh_config, value);
}

static void set_directory(struct parser *p, const char *value)
{
	set_path(p, "directory", &p->cluster->directory, value);
	if (p->cluster->directory && !p->cluster->directory[strspn(p->cluster->directory, "~/")])
		config_complain(p, "directory = %s: name a directory of its own, as ~/.slurmray", value);
}

static void set_scratch(struct parser *p, const char *value)
{
	set_path(p, "scratch", &p->cluster->scratch, value);
	if (p->cluster->scratch && strcmp(p->cluster->scratch, "~") == 0) /* "~/": the home directory itself */
		str_set(&p->cluster->scratch, "~/.");
}

static void set_transport(struct parser *p, const char *value)
{
	if (strcmp(value, "openssh") == 0 || strcmp(value, "local") == 0)
		config_complain(p, "transport = %s: this version has libssh2 only (auto takes it)", value);
	else if (strcmp(value, "auto") != 0 && strcmp(value, "libssh2") != 0)
		config_complain(p, "transport = %s: must be auto or libssh2", value);
	else
		str_set(&p->cluster->transport, value);
}

/* Addresses are judged by whoever speaks to them (http_base); here only what is no address of anything. */
static void set_address(struct parser *p, const char *value)
{
	const char *scheme = strstr(value, "://");

	if (scheme && strncmp(value, "http://", 7) != 0 && strncmp(value, "https://", 8) != 0)
		config_complain(
			p,
			"address = %s: the dashboard's address is wanted, http://HOST:8265 or https://HOST; jobs "
			"are submitted there",
			value);
	else if (strpbrk(value, " \t@?#") || strchr("/:", *value))
		config_complain(p, "address = %s: must be http://HOST:PORT, https://HOST or HOST:PORT", value);
	else
		str_set(&p->cluster->address, value);
}

static void set_token(struct parser *p, const char *value)
{
	if (p->cluster->token_file || value[strcspn(value, " \t")])
		config_complain(p, "token: %s",
				p->cluster->token_file ? "there is token_file already" : "there are blanks in it");
	else
		str_set(&p->cluster->token, value);
}

static void set_token_file(struct parser *p, const char *value)
{
	if (p->cluster->token)
		config_complain(p, "token_file: there is token already");
	else
		set_path(p, "token_file", &p->cluster->token_file, value);
}

static void set_ca_file(struct parser *p, const char *value)
{
	set_path(p, "ca_file", &p->cluster->ca_file, value);
}

/* One a line: Name: value. */
static void set_headers(struct parser *p, const char *value)
{
	struct cluster_conf *k = p->cluster;
	const char *colon = strchr(value, ':');
	size_t n = 0;

	if (!colon || colon == value || memchr(value, ' ', (size_t)(colon - value))) {
		config_complain(p, "headers: must be Name: value, one in each line");
		return;
	}
	while (k->headers && k->headers[n])
		n++;
	k->headers = xrealloc(k->headers, (n + 2) * sizeof(*k->headers));
	k->headers[n] = xstrdup(value);
	k->headers[n + 1] = NULL;
}

static void set_start(struct parser *p, const char *value)
{
	if (strcmp(value, "local") != 0 && *value != '/')
		config_complain(p, "start = %s: must be local, or the path of the program `ray`", value);
	else
		str_set(&p->cluster->start, value);
}

/* Lines of shell code may be given one by one. */
static char *join_lines(const char *before, const char *line)
{
	return before ? xasprintf("%s\n%s", before, line) : xstrdup(line);
}

static void set_setup(struct parser *p, const char *value)
{
	char *joined = join_lines(p->cluster->setup, value);

	free(p->cluster->setup);
	p->cluster->setup = joined;
}

/* Also in [defaults], for all clusters. */
static void set_on_event(struct parser *p, const char *value)
{
	str_set(p->cluster ? &p->cluster->on_event : &p->config->on_event, strcmp(value, "null") == 0 ? "" : value);
}

/* `set` is NULL for a key that a later release will know; `everywhere`: in [defaults], too. */
static const struct cluster_key {
	const char *name;
	void (*set)(struct parser *p, const char *value);
	bool everywhere;
} cluster_keys[] = {
	{ "type", set_type, false },
	{ "host", set_host, false },
	{ "user", set_user, false },
	{ "port", set_port, false },
	{ "identity_file", set_identity_file, false },
	{ "ssh_config", set_ssh_config, false },
	{ "transport", set_transport, false },
	{ "directory", set_directory, false },
	{ "scratch", set_scratch, false },
	{ "setup", set_setup, false },
	{ "tick", set_tick, false },
	{ "env_quota", set_env_quota, false },
	{ "on_event", set_on_event, true },
	{ "cache_size", set_cache_size, true },
	{ "keep", set_keep, true },
	{ "address", set_address, false },
	{ "token", set_token, false },
	{ "token_file", set_token_file, false },
	{ "headers", set_headers, false },
	{ "ca_file", set_ca_file, false },
	{ "start", set_start, false },
	{ "auth_command", NULL, false },
	{ "transfer_host", NULL, false },
	{ "max_queued", NULL, false },
	{ "max_runs", NULL, false },
	{ "max_node_hours", NULL, false },
};

static const struct cluster_key *cluster_key_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(cluster_keys); i++)
		if (strcmp(cluster_keys[i].name, name) == 0)
			return &cluster_keys[i];
	return NULL;
}

static void unknown_key(struct parser *p, const char *name)
{
	const char *near = NULL;

	for (size_t i = 0; p->cluster && !near && i < ARRAY_SIZE(cluster_keys); i++)
		if (cluster_keys[i].set && near_distance(name, cluster_keys[i].name) <= 1)
			near = cluster_keys[i].name;
	if (!near)
		near = spec_key_nearest(name);
	if (near)
		config_complain(p, "unknown key '%s': did you mean '%s'?", name, near);
	else
		config_complain(p, "unknown key '%s'", name);
}

/*
 * inih would take " ;" for a comment, others take " #": a value that ends in one is most likely not what was meant.
 * Shell text may hold both.
 */
static bool looks_commented(const char *name, const char *value)
{
	static const char *const free_text[] = { "setup", "command", "sbatch_args", "headers", "token", "on_event" };

	for (size_t i = 0; i < ARRAY_SIZE(free_text); i++)
		if (strcmp(name, free_text[i]) == 0)
			return false;
	if (strncmp(name, "env.", 4) == 0)
		return false;
	return strstr(value, " #") || strstr(value, " ;") || strstr(value, "\t#") || strstr(value, "\t;");
}

/* A default for specs. The word null unsets what a section of lower rank says. */
static void set_default(struct parser *p, const char *key, const char *value)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *v = strcmp(value, "null") == 0 ? json_null() : json_string(value);
	char *line, *next;

	if (!v) {
		config_complain(p, "%s: the value is not UTF-8", key);
		return;
	}
	if (spec_set(p->target, key, v, &errors)) {
		for (line = errors.buf; line; line = next) {
			next = strchr(line, '\n');
			if (next)
				*next++ = '\0';
			config_complain(p, "%s", line);
		}
	}
	json_decref(v);
}

/* `cluster` and `profile`: where they mean something, and what has to be there in the end. True: the key is right here.
 */
static bool names_section(struct parser *p, const char *key, const char *value)
{
	bool profile = strcmp(key, "profile") == 0;

	if (p->target != p->config->defaults && (p->cluster || profile)) {
		config_complain(p, "'%s' has no use in the section of a %s; it belongs into [defaults]", key,
				p->cluster ? "cluster" : "profile");
		return false;
	}
	if (*value && strcmp(value, "null") != 0)
		(void)json_array_append_new(p->named, json_pack("[i, s, s]", p->line, key, value));
	return true;
}

static void spec_default(struct parser *p, const char *key, const char *value)
{
	cleanup_free char *base = xstrndup(key, strcspn(key, "."));

	if (!spec_key_find(base))
		unknown_key(p, key);
	else if (strcmp(base, "args") == 0)
		config_complain(p, "'args' belongs to the script of a spec, and is no default");
	else if (strcmp(key, "cluster") == 0 || strcmp(key, "profile") == 0) {
		if (names_section(p, key, value))
			set_default(p, key, value);
	} else if (strcmp(key, "setup") == 0) {
		cleanup_free char *lines = join_lines(json_string_value(json_object_get(p->target, key)), value);

		set_default(p, key, lines);
	} else {
		set_default(p, key, value);
	}
}

/* The same key twice in a section is a mistake, but for those that take a line each time. */
static int check_twice(struct parser *p, const char *key)
{
	const json_t *before = json_object_get(p->seen, key);

	if (before && strcmp(key, "setup") != 0 && strcmp(key, "headers") != 0)
		return config_complain(p, "'%s' is already in line %d", key, (int)json_integer_value(before));
	if (!before)
		json_object_set_new(p->seen, key, json_integer(p->line));
	return 0;
}

/* Dashes are underscores, but not behind a dot: those are names in maps. */
static char *canonical(const char *name)
{
	char *key = xstrdup(name);

	for (char *s = key; *s && *s != '.'; s++)
		if (*s == '-')
			*s = '_';
	return key;
}

void config_key(struct parser *p, const char *name, const char *value)
{
	cleanup_free char *key = canonical(name);
	const struct cluster_key *k = cluster_key_find(key);

	if (check_twice(p, key))
		return;
	if (looks_commented(key, value))
		config_complain(p, "%s: comments go on lines of their own", key);
	else if (k && !k->set)
		config_complain(p, "'%s' is not possible yet in this version", key);
	else if (k && (p->cluster || k->everywhere) && !*value)
		config_complain(p, "%s: the value is missing", key);
	else if (k && (p->cluster || (k->everywhere && p->target == p->config->defaults)))
		k->set(p, value);
	else if (k && !spec_key_find(key))
		config_complain(p, "'%s' belongs into a section [cluster NAME]", key);
	else
		spec_default(p, key, value);
}
