/*
 * The files outside run directories: the root, runs/, by/ and the directories of clusters.
 */
#include "fs/cache.h"

#include "backend/base/mem.h"
#include "backend/spec.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void render_readme(const struct view *v, struct strbuf *out)
{
	(void)v;
	strbuf_addstr(
		out,
		"slurmray: jobs are files.\n"
		"\n"
		"  echo 'python train.py' > runs/new          submit a command\n"
		"  echo 'nodes=2 time=1:00:00 -- srun ./a.out' > runs/new\n"
		"  cat job.sbatch > runs/new                  submit a batch script\n"
		"  exec 3<>runs/new; echo hostname >&3; read -r id <&3\n"
		"  readlink runs/last                         the newest run\n"
		"  cat runs/42/status    tail -f runs/42/log    ls runs/42/results\n"
		"  cat runs/42/wait                           blocks until the run has ended: STATUS CODE\n"
		"  cat runs/42/log.follow                     the log until the run has ended\n"
		"  echo cancel > runs/42/ctl                  also: signal USR1, hold, release, retry\n"
		"  rmdir runs/42                              removes a run that has ended\n"
		"  mkdir runs/mine; cp data runs/mine/files/; echo 'wc data' > runs/mine/spec\n"
		"  exec 3<>runs/check; echo 'nodes=2 -- hostname' >&3; cat <&3     what would be submitted\n"
		"  echo 'name=warm nodes=2 time=8:00:00' > sessions/new; echo hostname > sessions/warm/runs/new\n"
		"  ls by/status/failed    grep -l ... by/tag/NAME/*/log\n"
		"  cat errors                                 what was refused, and why\n"
		"  tail -f events                             what happens to all runs, JSON lines\n"
		"\n"
		"Files that open by name but are not listed, so that cp -r, grep -r, tar and rsync never block:\n"
		"  runs/ID/wait  runs/ID/log.follow  stdout.follow  stderr.follow  events.follow  runs/ID/work/\n"
		"  runs/ID/ray/ready  runs/ID/ray/token  runs/ID/spark/ready\n"
		"  by/KIND/VALUE/wait  by/KIND/VALUE/wait-any\n"
		"\n"
		"Keys need ` -- ` before the command. A job starts in runs/ID/work, a directory of its own, unless workdir=/path\n"
		"says otherwise. runs/template is a commented spec; man 5 slurmray says the rest.\n");
}

/* Of fetched results, where there is a limit. */
static void render_cache(const struct fsys *fs, const char *cluster, struct strbuf *out)
{
	uint64_t bytes, limit;

	if (cache_say(fs, cluster, &bytes, &limit))
		strbuf_addf(out, "cache_bytes %" PRIu64 "\ncache_size %" PRIu64 "\n", bytes, limit);
}

static void render_root_status(const struct view *v, struct strbuf *out)
{
	struct fsys *fs = v->fs;
	const struct config *cf = engine_config(fs->en);
	size_t count[RUN_N_STATUS] = { 0 };
	char when[CLOCK_TEXT];

	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num))
		count[r->status]++;
	strbuf_addf(out, "version %s\npid %d\n", SLURMRAY_VERSION, (int)getpid());
	strbuf_addf(out, "started %s\n", clock_text(fs->started, when));
	strbuf_addf(out, "state %s\nuuid %s\n", fs->state_dir, engine_uuid(fs->en));
	strbuf_addf(out, "journal %s\n", *engine_trouble(fs->en) ? engine_trouble(fs->en) : "ok");
	strbuf_addf(out, "runs %zu\n", engine_count(fs->en));
	for (int i = 0; i < RUN_N_STATUS; i++)
		if (count[i])
			strbuf_addf(out, "runs_%s %zu\n", run_status_name((enum run_status)i), count[i]);
	strbuf_addf(out, "parked %zu\n", fs->n_parked);
	render_cache(fs, NULL, out);
	for (size_t i = 0; i < cf->n_clusters; i++) {
		const struct engine_link *l = engine_cluster_link(fs->en, cf->clusters[i]->name);

		strbuf_addf(out, "cluster_%s %s\n", cf->clusters[i]->name,
			    !l          ? "-"
			    : l->up     ? "up"
			    : l->asking ? "down"
					: "refused");
	}
}

static void render_errors(const struct view *v, struct strbuf *out)
{
	strbuf_addbuf(out, engine_rejected(v->fs->en));
}

static void render_last(const struct view *v, struct strbuf *out)
{
	const struct run *r = engine_last(v->fs->en);

	if (r)
		strbuf_addf(out, "runs/%s", r->id);
}

static void render_runs_last(const struct view *v, struct strbuf *out)
{
	const struct run *r = engine_last(v->fs->en);

	if (r)
		strbuf_addstr(out, r->id);
}

static void render_template(const struct view *v, struct strbuf *out)
{
	(void)v;
	strbuf_addstr(
		out,
		"#!/bin/bash\n"
		"# A spec to start from: a batch script. Remove a # before SBATCH to use a line, then\n"
		"#   cat this-file > runs/new\n"
		"# The same keys, with underscores, work on one line (nodes=2 time=1:00:00 -- command) and in JSON.\n");
	for (const struct spec_key *k = spec_keys; k->name; k++) {
		if (!(k->flags & SPEC_SBATCH) || (k->flags & (SPEC_LATER | SPEC_OURS)))
			continue;
		strbuf_addstr(out, "##SBATCH --");
		for (const char *c = k->name; *c; c++)
			strbuf_addch(out, *c == '_' ? '-' : *c);
		strbuf_addf(out, "%s\t# %s\n", k->type == SPEC_FLAG ? "" : "=...", k->help ? k->help : "");
	}
	strbuf_addstr(
		out,
		"\n# Keys that sbatch does not have, or calls otherwise: on one line, in JSON, for slurmray submit KEY=VALUE.\n");
	for (const struct spec_key *k = spec_keys; k->name; k++)
		if (!(k->flags & (SPEC_SBATCH | SPEC_LATER | SPEC_OURS)))
			strbuf_addf(out, "#   %s%s=%s...\t# %s\n", k->name, k->type == SPEC_MAP ? ".NAME" : "",
				    strcmp(k->name, "secret_env") == 0 ? "file:/" : "", /* a value would be hidden */
				    k->help ? k->help : "");
	strbuf_addstr(out, "\nhostname\n");
}

static void render_list(const struct view *v, struct strbuf *out)
{
	struct fsys *fs = v->fs;

	strbuf_addf(out, "%-12s %-13s %-10s %-10s %-20s %9s %4s %s\n", "ID", "STATUS", "CLUSTER", "JOB", "CREATED",
		    "ELAPSED", "CODE", "NAME");
	for (const struct run *r = engine_next(fs->en, 0); r; r = engine_next(fs->en, r->num)) {
		int64_t end = run_is_live(r) ? clock_real(fs->clock) : r->t_ended;
		char when[CLOCK_TEXT], elapsed[24] = "-", code[12] = "-";

		if (r->t_started && end >= r->t_started)
			(void)snprintf(elapsed, sizeof(elapsed), "%" PRId64, (end - r->t_started) / USEC_PER_SEC);
		if (!run_is_live(r) && (r->exit_code >= 0 || r->signal))
			(void)snprintf(code, sizeof(code), "%d", r->exit_code >= 0 ? r->exit_code : 128 + r->signal);
		(void)clock_text(r->t_created, when);
		strbuf_addf(out, "%-12s %-13s %-10s %-10s %.19sZ %9s %4s %s\n", r->id, run_status_name(r->status),
			    r->cluster ? r->cluster : "-", r->job_id && *r->job_id ? r->job_id : "-", when, elapsed,
			    code,
			    r->name                   ? r->name
			    : run_fact(r, "job_name") ? run_fact(r, "job_name")
						      : "-");
	}
}

const struct node fixed_nodes[] = {
	[FIXED_NONE] = { ".", NODE_DIR, 0755, 0, NULL, 0, "the root" },
	[FIXED_README] = { "README", NODE_DOC, 0444, NODE_CONSTANT, render_readme, 0, "one screen of help" },
	[FIXED_STATUS] = { "status", NODE_DOC, 0444, 0, render_root_status, 0,
			   "health of the daemon, `key value` lines" },
	[FIXED_ERRORS] = { "errors", NODE_DOC, 0444, NODE_APPENDS, render_errors, 0,
			   "every rejected write: when, who, the text, why; JSON lines" },
	[FIXED_CTL] = { "ctl", NODE_CTL, 0644, NODE_FRESH, NULL, 0, "reload, stop" },
	[FIXED_LAST] = { "last", NODE_LINK, 0777, 0, render_last, 0, "the newest run" },
	[FIXED_RUNS] = { "runs", NODE_DIR, 0755, 0, NULL, 0, "one directory per run" },
	[FIXED_CLUSTERS] = { "clusters", NODE_DIR, 0555, 0, NULL, 0, "one directory per cluster" },
	[FIXED_BY] = { "by", NODE_DIR, 0555, 0, NULL, 0, "links to runs by status, cluster, tag, name and day" },
	[FIXED_NEW] = { "new", NODE_CONV, 0644, NODE_FRESH, NULL, 0,
			"write a spec: a job is submitted; read the same descriptor: its id" },
	[FIXED_CHECK] = { "check", NODE_CONV, 0644, NODE_FRESH, NULL, 0,
			  "the same, nothing is submitted: read the effective spec and the script, or every error" },
	[FIXED_TEMPLATE] = { "template", NODE_DOC, 0444, NODE_CONSTANT, render_template, 0,
			     "a commented spec to start from" },
	[FIXED_LIST] = { "list", NODE_DOC, 0444, 0, render_list, 0, "a table, a row per run" },
	[FIXED_RUNS_LAST] = { "last", NODE_LINK, 0777, NODE_UNLISTED, render_runs_last, 0, "the newest run" },
	[FIXED_BY_FIRST + SET_STATUS] = { "status", NODE_DIR, 0555, 0, NULL, 0, "runs by status" },
	[FIXED_BY_FIRST + SET_CLUSTER] = { "cluster", NODE_DIR, 0555, 0, NULL, 0, "runs by cluster" },
	[FIXED_BY_FIRST + SET_TAG] = { "tag", NODE_DIR, 0555, 0, NULL, 0, "runs by tag" },
	[FIXED_BY_FIRST + SET_NAME] = { "name", NODE_DIR, 0555, 0, NULL, 0, "runs by job name" },
	[FIXED_BY_FIRST + SET_DAY] = { "day", NODE_DIR, 0555, 0, NULL, 0, "runs by day of creation (UTC)" },
	[FIXED_BY_FIRST + SET_SESSION] = { "session", NODE_DIR, 0555, 0, NULL, 0, "runs by their session" },
	[FIXED_EVENTS] = { "events", NODE_FEED, 0444, 0, NULL, 0,
			   "every change of a run's status and every message of a job; JSON lines" },
	[FIXED_ENVS] = { "envs", NODE_DIR, 0555, 0, NULL, 0,
			 "what is unpacked on clusters: archives, libraries, files" },
	[FIXED_SESSIONS] = { "sessions", NODE_DIR, 0755, 0, NULL, 0, "allocations that stay: one directory per name" },
	[FIXED_SESSIONS_NEW] = { "new", NODE_CONV, 0644, NODE_FRESH, NULL, 0,
				 "write a session's spec: nodes are allocated; read the same descriptor: its name" },
	{ 0 },
};

/* --- clusters/NAME --- */

static void render_cluster_status(const struct view *v, struct strbuf *out)
{
	const struct engine_link *l = engine_cluster_link(v->fs->en, v->cluster->name);
	static const char *const types[] = { "local", "slurm", "ray", "kuberay" };
	char when[CLOCK_TEXT];

	strbuf_addf(out, "type %s\n", types[v->cluster->type]);
	if (v->cluster->hosts && v->cluster->hosts[0])
		strbuf_addf(out, "host %s\n", v->cluster->hosts[0]);
	render_cache(v->fs, v->cluster->name, out);
	if (!l)
		return;
	strbuf_addf(out, "link %s\nsince %s\n",
		    l->up       ? "up"
		    : l->asking ? "down"
				: "refused",
		    clock_text(l->since, when));
	if (*l->text)
		strbuf_addf(out, "text %s\n", l->text);
}

const struct node cluster_nodes[] = {
	{ ".", NODE_DIR, 0555, 0, NULL, 0, "a cluster of the configuration" },
	{ "status", NODE_DOC, 0444, 0, render_cluster_status, 0, "type, host, whether it is reached, and why not" },
	{ "info", NODE_PROBE, 0444, 0, NULL, 0, "what the cluster says of itself, `key value` lines" },
	{ "info.json", NODE_PROBE, 0444, 0, NULL, 0, "the same as JSON" },
	{ "partitions", NODE_PROBE, 0444, 0, NULL, 0, "a table, a row per partition" },
	{ "partitions.json", NODE_PROBE, 0444, 0, NULL, 0, "the same as JSON" },
	{ "nodes", NODE_PROBE, 0444, 0, NULL, 0, "a table, a row per node" },
	{ "nodes.json", NODE_PROBE, 0444, 0, NULL, 0, "the same as JSON" },
	{ "queue", NODE_PROBE, 0444, 0, NULL, 0, "a table, a row per job in the queue" },
	{ "queue.json", NODE_PROBE, 0444, 0, NULL, 0, "the same as JSON" },
	{ "shares", NODE_PROBE, 0444, 0, NULL, 0, "fair-share, as the scheduler tells it" },
	{ "shares.json", NODE_PROBE, 0444, 0, NULL, 0, "the same as JSON" },
	{ "ctl", NODE_CTL, 0644, NODE_FRESH, NULL, 0, "reconnect" },
	{ "runs", NODE_DIR, 0755, 0, NULL, 0, "for submitting to this cluster" },
	{ "new", NODE_CONV, 0644, NODE_FRESH | NODE_UNLISTED, NULL, 0,
	  "clusters/NAME/runs/new: as runs/new, for this cluster" },
	{ "sessions", NODE_DIR, 0755, 0, NULL, 0, "for sessions on this cluster" },
	{ "sessions/new", NODE_CONV, 0644, NODE_FRESH | NODE_UNLISTED, NULL, 0, "as sessions/new, for this cluster" },
	{ 0 },
};

/* --- any table --- */

static size_t table_len(const struct node *t)
{
	size_t n = 0;

	while (t[n].name)
		n++;
	return n;
}

const struct node *node_of(const struct fsys *fs, uint64_t ino, struct view *v)
{
	const struct config *cf = engine_config(fs->en);
	uint32_t row = ino_row(ino), num = ino_number(ino);

	memset(v, 0, sizeof(*v));
	v->fs = (struct fsys *)fs;
	switch (ino_kind(ino)) {
	case INO_ROOT:
		return &fixed_nodes[FIXED_NONE];
	case INO_FIXED:
		return row < table_len(fixed_nodes) ? &fixed_nodes[row] : NULL;
	case INO_RUN:
		v->run = engine_run(fs->en, num);
		return v->run && row < table_len(run_nodes) ? &run_nodes[row] : NULL;
	case INO_ENV:
		v->env = env_find(v->fs, num);
		return v->env && row < table_len(env_nodes) ? &env_nodes[row] : NULL;
	case INO_SESSION:
		v->run = engine_run(fs->en, num);
		return v->run && row < table_len(session_nodes) ? &session_nodes[row] : NULL;
	case INO_LEASE:
		v->run = engine_run(fs->en, num);
		v->lease = v->run ? lease_owner(fs, ino) : NULL;
		return v->lease ? &lease_node : NULL;
	case INO_CLUSTER:
		if (num >= cf->n_clusters)
			return NULL;
		v->cluster = cf->clusters[num];
		return row < table_len(cluster_nodes) ? &cluster_nodes[row] : NULL;
	default:
		return NULL;
	}
}

void render_node(const struct node *nd, const struct view *v, struct strbuf *out)
{
	if (nd->render)
		nd->render(v, out);
}
