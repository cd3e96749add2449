/*
 * Reads the configuration file. inih splits KEY = VALUE lines; sections, line numbers and everything that inih would
 * cut or drop without a word (long lines, long section names, lines without "=", empty sections) are seen to by the
 * reader function that feeds it.
 *
 * Invariants: every mistake is reported with FILE:LINE, and a file with a mistake gives no configuration at all; a
 * finished configuration is never changed. Comments are whole lines; leading blanks mean nothing (so inih's
 * continuation lines are off); `setup` may be given several times, a line each.
 */
#include "backend/config.h"

#include "backend/base/mem.h"
#include "launchers/launcher.h"
#include "backend/base/near.h"
#include "backend/config_impl.h"
#include "backend/spec.h"

#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 65536 /* of one line with its newline and NUL */
#define FILE_BYTES (1024 * 1024)
#define NAME_BYTES 128

static int section_name(struct parser *p, const char *what, const char *name)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	if (!*name)
		return config_complain(p, "[%s] needs a name: [%s NAME]", what, what);
	if (name[strspn(name, chars)] || *name == '.' || *name == '-' || strlen(name) > NAME_BYTES)
		return config_complain(p, "the name '%s' must be letters, digits, '.', '_' and '-', at most %d", name,
				       NAME_BYTES);
	return 0;
}

static void begin_cluster(struct parser *p, const char *name)
{
	struct config *c = p->config;
	struct cluster_conf *k;

	if (section_name(p, "cluster", name))
		return;
	if (config_cluster(c, name)) {
		config_complain(p, "cluster '%s' is already in line %d", name, config_cluster(c, name)->line);
		return;
	}
	k = xcalloc(1, sizeof(*k));
	k->name = xstrdup(name);
	k->type = strcmp(name, "local") == 0 ? CLUSTER_LOCAL : CLUSTER_SLURM;
	k->defaults = json_object();
	k->line = p->line;
	c->clusters = xrealloc(c->clusters, (c->n_clusters + 1) * sizeof(struct cluster_conf *));
	c->clusters[c->n_clusters++] = k;
	k->keep_s = k->cache_bytes = CONFIG_UNSAID;
	p->cluster = k;
	p->target = k->defaults;
}

static void begin_profile(struct parser *p, const char *name)
{
	if (section_name(p, "profile", name))
		return;
	if (json_object_get(p->config->profiles, name)) {
		config_complain(p, "profile '%s' is there twice", name);
		return;
	}
	json_object_set_new(p->config->profiles, name, json_object());
	p->target = json_object_get(p->config->profiles, name);
}

/* `head` is what stands between the brackets; after a mistake the section's keys are skipped. */
static void begin_section(struct parser *p, char *head)
{
	char *name = head + strcspn(head, " \t");

	json_object_clear(p->seen);
	if (*name) {
		*name++ = '\0';
		name += strspn(name, " \t");
	}
	if (strcmp(head, "cluster") == 0)
		begin_cluster(p, name);
	else if (strcmp(head, "profile") == 0)
		begin_profile(p, name);
	else if (strcmp(head, "defaults") != 0 || *name)
		config_complain(p, "there is no section [%s%s%s]: use [defaults], [cluster NAME], [profile NAME]", head,
				*name ? " " : "", name);
	else if (p->defaults_line)
		config_complain(p, "[defaults] is already in line %d", p->defaults_line);
	else {
		p->defaults_line = p->line;
		p->target = p->config->defaults;
	}
}

static void header_line(struct parser *p, const char *text, size_t len)
{
	cleanup_free char *line = xstrndup(text, len);
	char *close = strchr(line, ']'), *end, *head;

	p->in_section = true;
	p->cluster = NULL;
	p->target = NULL;
	if (!close) {
		config_complain(p, "the ']' of the section is missing");
		return;
	}
	end = close + 1 + strspn(close + 1, " \t\r");
	if (*end && *end != '#' && *end != ';')
		config_complain(p, "there is text behind the section's ']'");
	head = line + 1 + strspn(line + 1, " \t");
	while (close > head && strchr(" \t", close[-1]))
		close--;
	*close = '\0';
	begin_section(p, head);
}

/* A line that inih was given as a pair, and for which it did not call the handler. */
static void check_pending(struct parser *p)
{
	if (p->pending)
		config_complain(p, "this is neither KEY = VALUE nor [SECTION] nor a # comment");
	p->pending = false;
}

/* Decides what inih gets to see of one line; true if it is the line itself. */
static bool take_line(struct parser *p, const char *line, size_t len, size_t room)
{
	size_t blank = 0;

	while (blank < len && (line[blank] == ' ' || line[blank] == '\t' || line[blank] == '\r'))
		blank++;
	if (blank == len || line[blank] == '#' || line[blank] == ';')
		return false;
	if (len + 2 > room) {
		config_complain(p, "this line has %zu bytes, more than the %zu that a line may have", len, room - 2);
		return false;
	}
	if (line[blank] == '[') {
		header_line(p, line + blank, len - blank);
		return false;
	}
	p->pending = true;
	return true;
}

/* inih's reader, like fgets: one line of the text, or NULL at its end. */
static char *read_line(char *buf, int size, void *arg)
{
	struct parser *p = arg;
	size_t len = strcspn(p->pos, "\n"), n = 0;

	check_pending(p);
	if (!*p->pos || size < 2)
		return NULL;
	p->line++;
	if (take_line(p, p->pos, len, (size_t)size)) {
		memcpy(buf, p->pos, len);
		n = len;
	}
	buf[n] = '\n';
	buf[n + 1 < (size_t)size ? n + 1 : n] = '\0';
	p->pos += len + (p->pos[len] == '\n');
	return buf;
}

static int take_pair(void *arg, const char *section, const char *name, const char *value)
{
	struct parser *p = arg;

	(void)section;
	p->pending = false;
	if (p->target)
		config_key(p, name, value ? value : "");
	else if (!p->in_section)
		config_complain(p, "'%s' is in no section: begin with [defaults] or [cluster NAME]", name);
	return 1;
}

/* Debian's libinih keeps these limits in variables; they are set for this one caller. */
static int run_inih(struct parser *p)
{
	ini_use_stack = false;
	ini_allow_realloc = false;
	ini_max_line = LINE_BYTES;
	ini_initial_alloc = LINE_BYTES;
	ini_allow_multiline = false;
	ini_allow_inline_comments = false;
	ini_allow_no_value = false;
	ini_stop_on_first_error = false;
	return ini_parse_stream(read_line, p, take_pair, p);
}

/* `local` is there without a section, too. */
static void add_local(struct config *c)
{
	struct cluster_conf *k;

	if (config_cluster(c, "local"))
		return;
	k = xcalloc(1, sizeof(*k));
	k->name = xstrdup("local");
	k->type = CLUSTER_LOCAL;
	k->defaults = json_object();
	k->keep_s = k->cache_bytes = CONFIG_UNSAID;
	c->clusters = xrealloc(c->clusters, (c->n_clusters + 1) * sizeof(struct cluster_conf *));
	c->clusters[c->n_clusters++] = k;
}

/* Files of jobs are where their driver runs, which it finds out itself. */
static void finish_ray(struct parser *p, struct cluster_conf *k)
{
	if (k->hosts && k->start)
		config_complain(
			p,
			"cluster '%s': start boots a Ray cluster on this machine, which needs no host; for one that "
			"is there write address instead",
			k->name);
	else if (k->hosts && !k->address)
		k->address = xstrdup("http://127.0.0.1:8265"); /* Ray's own, as the host sees it */
	if (!k->address == !k->start)
		config_complain(
			p,
			"cluster '%s' needs one of: address = http://HOST:8265 (the Ray dashboard), or start = local "
			"(a Ray cluster on this machine)",
			k->name);
	if (k->start && (k->token || k->token_file || k->ca_file || k->headers))
		config_complain(p,
				"cluster '%s': with start = local the token is made here; leave token, headers and "
				"ca_file out",
				k->name);
	if (k->directory || k->scratch)
		config_complain(p, "cluster '%s': directory and scratch have no use with type = ray", k->name);
	str_set(&k->directory, LAUNCH_BASE);
	str_set(&k->scratch, LAUNCH_BASE);
}

static void finish_cluster(struct parser *p, struct cluster_conf *k)
{
	p->line = k->line;
	if (k->type == CLUSTER_SLURM && !k->hosts)
		config_complain(p,
				"cluster '%s' needs a host: host = NAME (an alias of the ssh configuration, or a name)",
				k->name);
	if (k->type == CLUSTER_LOCAL && k->hosts)
		config_complain(p, "cluster '%s' is local, which has no host; for another machine write type = slurm",
				k->name);
	if (k->type == CLUSTER_RAY)
		finish_ray(p, k);
	else if (k->address || k->start || k->token || k->token_file || k->headers || k->ca_file)
		config_complain(p, "cluster '%s': address, start, token, headers and ca_file belong to type = ray",
				k->name);
	if (!k->transport)
		k->transport = xstrdup("auto");
	if (!k->directory) /* the local cluster keeps its files in the state directory */
		k->directory = xstrdup(k->type == CLUSTER_LOCAL ? "" : "~/.slurmray");
	if (!k->scratch)
		k->scratch = xstrdup(k->directory);
}

/* The section that was most likely meant, or NULL. */
static const char *nearest_section(const struct config *c, bool profile, const char *name)
{
	const char *found = NULL, *other;
	int best = near_limit(name);
	json_t *v;

	if (profile)
		json_object_foreach (c->profiles, other, v)
			near_consider(name, other, &best, &found);
	for (size_t i = 0; !profile && i < c->n_clusters; i++)
		near_consider(name, c->clusters[i]->name, &best, &found);
	return found;
}

static void check_named(struct parser *p)
{
	const struct config *c = p->config;
	json_t *row;
	size_t i;

	json_array_foreach (p->named, i, row) {
		const char *key = json_string_value(json_array_get(row, 1)),
			   *name = json_string_value(json_array_get(row, 2));
		bool profile = strcmp(key, "profile") == 0;
		const char *near;

		if (profile ? json_object_get(c->profiles, name) != NULL : config_cluster(c, name) != NULL)
			continue;
		near = nearest_section(c, profile, name);
		p->line = (int)json_integer_value(json_array_get(row, 0));
		config_complain(p, "%s = %s: there is no [%s %s]%s%s%s", key, name, key, name,
				near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "");
	}
}

static void finish_default(struct parser *p)
{
	struct config *c = p->config;
	const char *name = json_string_value(json_object_get(c->defaults, "cluster"));
	const struct cluster_conf *only = NULL;
	size_t n = 0;

	for (size_t i = 0; i < c->n_clusters; i++) {
		if (strcmp(c->clusters[i]->name, "local") != 0) {
			only = c->clusters[i];
			n++;
		}
	}
	if (!name && n <= 1)
		name = n ? only->name : "local";
	c->default_cluster = xstrdup(name);
}

static void read_machine(struct machine *m)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN), pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

	m->cores = cores > 0 && cores < 1000000 ? (int)cores : 1;
	m->mem_bytes = pages > 0 && size > 0 ? (int64_t)pages * size : INT64_MAX;
}

static struct config *config_new(void)
{
	struct config *c = xcalloc(1, sizeof(*c));

	c->defaults = json_object();
	c->profiles = json_object();
	read_machine(&c->machine);
	return c;
}

int config_parse(const char *text, const char *name, struct config **out, struct err *e)
{
	struct parser p = {
		.name = name,
		.pos = text,
		.config = config_new(),
		.seen = json_object(),
		.named = json_array(),
		.errors = STRBUF_INIT,
	};
	int rc;

	if (strncmp(p.pos, "\xEF\xBB\xBF", 3) == 0) /* byte order mark */
		p.pos += 3;
	rc = run_inih(&p) == -2 ? err_set(e, -ENOMEM, "%s: no memory", name) : 0;
	add_local(p.config);
	for (size_t i = 0; i < p.config->n_clusters; i++)
		finish_cluster(&p, p.config->clusters[i]);
	check_named(&p);
	finish_default(&p);
	if (!rc && p.errors.len)
		rc = err_set(e, -EINVAL, "%s", p.errors.buf);
	if (rc)
		config_free(p.config);
	else
		*out = p.config;
	json_decref(p.seen);
	json_decref(p.named);
	strbuf_release(&p.errors);
	return rc;
}

int config_load(const char *path, bool required, struct config **out, struct err *e)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	ssize_t n = strbuf_read_file(&text, path, FILE_BYTES);
	bool missing = n == -ENOENT && !required;
	int rc;

	if (n == -EFBIG)
		return err_set(e, -EFBIG, "%s is over 1 MiB: this is no configuration", path);
	if (n < 0 && !missing)
		return err_sys(e, (int)n, "cannot read %s", path);
	if (strlen(text.buf) != text.len)
		return err_set(e, -EINVAL, "%s holds a NUL byte: this is no text", path);
	rc = config_parse(text.buf, path, out, e);
	if (!rc && !missing)
		(*out)->path = xstrdup(path);
	return rc;
}

char *config_default_path(void)
{
	const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

	/* The XDG base directory specification: a path that is not absolute is to be ignored. */
	if (xdg && xdg[0] == '/')
		return xasprintf("%s/slurmray/config", xdg);
	return xasprintf("%s/.config/slurmray/config", home && *home ? home : "");
}

static void cluster_free(struct cluster_conf *k)
{
	for (size_t i = 0; k->hosts && k->hosts[i]; i++)
		free(k->hosts[i]);
	free(k->hosts);
	free(k->name);
	free(k->user);
	free(k->identity_file);
	free(k->ssh_config);
	free(k->transport);
	free(k->directory);
	free(k->scratch);
	free(k->setup);
	free(k->address);
	free(k->start);
	free(k->token);
	free(k->token_file);
	free(k->ca_file);
	for (size_t i = 0; k->headers && k->headers[i]; i++)
		free(k->headers[i]);
	free(k->headers);
	free(k->on_event);
	json_decref(k->defaults);
	free(k);
}

void config_free(struct config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_clusters; i++)
		cluster_free(c->clusters[i]);
	free(c->clusters);
	free(c->path);
	free(c->default_cluster);
	free(c->on_event);
	json_decref(c->defaults);
	json_decref(c->profiles);
	free(c);
}

const struct cluster_conf *config_cluster(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_clusters; i++)
		if (strcmp(c->clusters[i]->name, name) == 0)
			return c->clusters[i];
	return NULL;
}

const char *config_on_event(const struct config *c, const char *cluster)
{
	const struct cluster_conf *k = config_cluster(c, cluster);
	const char *command = k && k->on_event ? k->on_event : c->on_event;

	return command && *command ? command : NULL;
}

int64_t config_keep(const struct config *c, const char *cluster)
{
	const struct cluster_conf *k = cluster ? config_cluster(c, cluster) : NULL;

	if (!k)
		return 0;
	return k->keep_s != CONFIG_UNSAID ? k->keep_s : c->keep_s;
}
