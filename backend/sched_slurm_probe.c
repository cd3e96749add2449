/*
 * Documents about the cluster: sinfo, squeue, sshare and the configuration as JSON. Not built on --json, whose
 * shape changes between releases; the letters of -o mean the same from 20.11 on.
 *
 * Invariants: a table is an array of objects with the same members in every row; a number that Slurm does not know is
 * null; free text is the last field of its row.
 */
#include "backend/sched_slurm.h"

#include "backend/base/mem.h"

#include <errno.h>
#include <string.h>

#define MAX_COLUMNS 16

enum kind { TEXT, NUMBER, TIME, COUNTS };

struct column {
	const char *name;
	enum kind kind;
};

struct table {
	const char *name;
	struct column columns[MAX_COLUMNS]; /* in the order of the format in sl_probe, NULL-ended */
};

static const struct table tables[] = {
	{ "partitions",
	  { { "partition", TEXT },
	    { "default", TEXT },
	    { "available", TEXT },
	    { "time_limit", TEXT },
	    { "default_time", TEXT },
	    { "nodes", COUNTS },
	    { "cpus", COUNTS } } },
	{ "nodes",
	  { { "node", TEXT },
	    { "partitions", TEXT },
	    { "state", TEXT },
	    { "cpus", NUMBER },
	    { "cpu_states", COUNTS },
	    { "memory_mb", NUMBER },
	    { "free_memory_mb", NUMBER },
	    { "load", TEXT },
	    { "gres", TEXT },
	    { "features", TEXT },
	    { "reason", TEXT } } },
	{ "queue",
	  { { "job_id", TEXT },
	    { "user", TEXT },
	    { "partition", TEXT },
	    { "state", TEXT },
	    { "time", TEXT },
	    { "time_limit", TEXT },
	    { "nodes", NUMBER },
	    { "cpus", NUMBER },
	    { "memory", TEXT },
	    { "start", TIME },
	    { "priority", NUMBER },
	    { "reason", TEXT },
	    { "nodelist", TEXT },
	    { "name", TEXT } } },
	{ "shares",
	  { { "account", TEXT },
	    { "user", TEXT },
	    { "raw_shares", TEXT },
	    { "norm_shares", TEXT },
	    { "raw_usage", NUMBER },
	    { "effective_usage", TEXT },
	    { "fair_share", TEXT } } },
};

static const struct table *table_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		if (strcmp(tables[i].name, name) == 0)
			return &tables[i];
	return NULL;
}

int slurm_probe(const char *what, struct strbuf *code, struct err *e)
{
	if (strcmp(what, "info") != 0 && !table_find(what))
		return err_set(e, -EINVAL, "there is no document '%s' about a cluster", what);
	strbuf_addstr(code, "sl_probe ");
	strbuf_addstr(code, what); /* one of the names above */
	strbuf_addch(code, '\n');
	return 0;
}

static bool is_nothing(const char *s)
{
	return !*s || strcmp(s, "(null)") == 0 || strcmp(s, "N/A") == 0 || strcmp(s, "n/a") == 0 ||
	       strcmp(s, "none") == 0 || strcmp(s, "None") == 0;
}

static void put_text(json_t *o, const char *key, const char *s)
{
	if (is_nothing(s))
		(void)json_object_set_new(o, key, json_null());
	else
		slurm_put(o, key, s);
}

static void put_number(json_t *o, const char *key, const char *s)
{
	int64_t n = slurm_number(s, -1);

	(void)json_object_set_new(o, key, n < 0 ? json_null() : json_integer(n));
}

/* "ALLOCATED/IDLE/OTHER/TOTAL", sinfo(1) %C and %F; sinfo shortens large ones to "1.2K", which stays text. */
static void put_counts(json_t *o, const char *key, char *s)
{
	static const char *const names[] = { "allocated", "idle", "other", "total" };
	json_t *c = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(names) && s; i++) {
		char *slash = strchr(s, '/');
		int64_t n;

		if (slash)
			*slash++ = '\0';
		n = slurm_number(s, -1);
		if (n >= 0)
			(void)json_object_set_new(c, names[i], json_integer(n));
		else
			slurm_put(c, names[i], s);
		s = slash;
	}
	(void)json_object_set_new(o, key, c);
}

static json_t *row_of(const struct table *t, char *line)
{
	char *f[MAX_COLUMNS];
	size_t n = 0;
	json_t *o;

	while (n < MAX_COLUMNS && t->columns[n].name)
		n++;
	if (slurm_fields(line, f, n) != n)
		return NULL;
	o = json_object();
	for (size_t i = 0; i < n; i++) {
		const struct column *c = &t->columns[i];

		f[i] += strspn(f[i], " ");
		if (c->kind == NUMBER || c->kind == TIME)
			put_number(o, c->name, f[i]);
		else if (c->kind == COUNTS)
			put_counts(o, c->name, f[i]);
		else
			put_text(o, c->name, f[i]);
	}
	return o;
}

/* A node is listed once per partition: `partitions` becomes a list, in its place. */
static bool merge_node(json_t *rows, json_t *row)
{
	json_t *last = json_array_get(rows, json_array_size(rows) ? json_array_size(rows) - 1 : 0);
	json_t *part = json_object_get(row, "partitions");

	if (last && json_equal(json_object_get(last, "node"), json_object_get(row, "node"))) {
		(void)json_array_append(json_object_get(last, "partitions"), part);
		return true;
	}
	(void)json_object_set_new(row, "partitions", json_pack("[O]", part));
	return false;
}

static void mark_default(json_t *row)
{
	const char *s = json_string_value(json_object_get(row, "default"));

	(void)json_object_set_new(row, "default", json_boolean(s && *s && s[strlen(s) - 1] == '*'));
}

static void mark_own(json_t *rows, const char *user)
{
	size_t i;
	json_t *row;

	json_array_foreach (rows, i, row) {
		const char *s = json_string_value(json_object_get(row, "user"));

		(void)json_object_set_new(row, "own", json_boolean(s && user && strcmp(s, user) == 0));
	}
}

static json_t *table_json(const struct table *t, char *text)
{
	json_t *rows = json_array();
	char *line, *user = NULL;

	while ((line = slurm_line(&text))) {
		json_t *row;

		if (strncmp(line, "me|", 3) == 0) {
			user = line + 3;
			continue;
		}
		row = row_of(t, line);
		if (!row)
			continue;
		if (strcmp(t->name, "partitions") == 0)
			mark_default(row);
		if (strcmp(t->name, "nodes") == 0 && merge_node(rows, row))
			json_decref(row);
		else
			(void)json_array_append_new(rows, row);
	}
	if (strcmp(t->name, "queue") == 0)
		mark_own(rows, user);
	return rows;
}

/* The lines of `scontrol show config` that say something to a user. */
static void take_config(json_t *o, char *line)
{
	static const struct {
		const char *name, *key;
		bool number;
	} wanted[] = {
		{ "ClusterName", "cluster", false },
		{ "SLURM_VERSION", "version", false },
		{ "BOOT_TIME", "boot_time", true },
		{ "MaxArraySize", "max_array_size", true },
		{ "MaxJobCount", "max_job_count", true },
		{ "MinJobAge", "min_job_age", false },
		{ "KillWait", "kill_wait", false },
		{ "MessageTimeout", "message_timeout", false },
		{ "JobRequeue", "job_requeue", true },
		{ "PriorityType", "priority_type", false },
		{ "PreemptMode", "preempt_mode", false },
		{ "SelectType", "select_type", false },
		{ "SlurmctldHost[0]", "controller", false },
		{ "DefMemPerCPU", "default_mem_per_cpu_mb", true },
		{ "TmpFS", "tmp", false },
	};
	char *eq = strstr(line, " = "), *value = eq ? eq + 3 : NULL;
	size_t len = strcspn(line, " =");

	if (!value)
		return;
	line[len] = '\0';
	if (strcmp(line, "AccountingStorageType") == 0)
		(void)json_object_set_new(o, "accounting",
					  json_boolean(!strstr(value, "none") && !strstr(value, "(null)")));
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (strcmp(wanted[i].name, line) != 0)
			continue;
		if (wanted[i].number)
			put_number(o, wanted[i].key, value);
		else
			put_text(o, wanted[i].key, value);
	}
}

static void take_size(json_t *o, char *value)
{
	char *f[2];

	if (slurm_fields(value, f, 2) != 2)
		return;
	put_number(o, "nodes", f[0]);
	put_counts(o, "cpus", f[1]);
}

static json_t *info_json(char *text)
{
	json_t *o = json_object();
	char *line, *v;

	(void)json_object_set_new(o, "scheduler", json_string("slurm"));
	while ((line = slurm_line(&text))) {
		if ((v = slurm_value(line, "config")))
			take_config(o, v);
		else if ((v = slurm_value(line, "size")))
			take_size(o, v);
		else if ((v = slurm_value(line, "user")))
			slurm_put(o, "user", v);
		else if ((v = slurm_value(line, "host")))
			slurm_put(o, "host", v);
	}
	return o;
}

/* Without accounting there are no shares; that is an answer, not a failure. */
static json_t *no_shares(const char *err)
{
	return json_pack("[{s:s}]", "note",
			 strstr(err, "rror") && !strstr(err, "isabled") && !strstr(err, "ccounting")
				 ? "sshare could not be asked"
				 : "this cluster keeps no accounts, so there are no shares");
}

int slurm_probe_result(const char *what, int rc, const char *out, const char *err, struct strbuf *json, struct err *e)
{
	const struct table *t = table_find(what);
	bool shares = strcmp(what, "shares") == 0;
	cleanup_free char *copy = NULL, *text = NULL;
	json_t *doc;

	if (rc == 124)
		return err_set(e, -EHOSTUNREACH, "%s: the scheduler did not answer in time", what);
	if (rc != 0 && !shares)
		return slurm_error(e, -EHOSTUNREACH, what, err);
	if (!t && strcmp(what, "info") != 0)
		return err_set(e, -EINVAL, "there is no document '%s' about a cluster", what);
	copy = xstrdup(out);
	if (shares && (rc != 0 || !*out))
		doc = no_shares(err);
	else
		doc = t ? table_json(t, copy) : info_json(copy);
	text = json_dumps(doc, JSON_COMPACT | JSON_PRESERVE_ORDER);
	json_decref(doc);
	strbuf_addstr(json, text ? text : "null");
	return 0;
}
