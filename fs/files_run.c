/*
 * The files of a run directory: one function and one row each. A function renders the whole content from a read-only
 * view; it cannot change anything and does not wait.
 */
#include "fs/fsys.h"

#include "backend/base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void line(struct strbuf *out, const char *s)
{
	strbuf_addf(out, "%s\n", s && *s ? s : "-");
}

static void render_status(const struct view *v, struct strbuf *out)
{
	line(out, run_status_name(v->run->status));
}

static void render_job_id(const struct view *v, struct strbuf *out)
{
	line(out, v->run->job_id);
}

static void render_cluster(const struct view *v, struct strbuf *out)
{
	line(out, v->run->cluster);
}

/* 128+N for a job that a signal ended, as `wait` and shells have it. */
static int final_code(const struct run *r)
{
	if (run_is_live(r))
		return -1;
	if (r->exit_code >= 0)
		return r->exit_code;
	return r->signal ? 128 + r->signal : -1;
}

static void render_exit_code(const struct view *v, struct strbuf *out)
{
	int code = final_code(v->run);

	if (code < 0)
		strbuf_addstr(out, "-\n");
	else
		strbuf_addf(out, "%d\n", code);
}

/* --- why --- */

static const char *link_trouble(const struct view *v)
{
	const struct engine_link *l = v->run->cluster ? engine_cluster_link(v->fs->en, v->run->cluster) : NULL;

	return l && !l->up && run_is_live(v->run) ? l->text : NULL;
}

/* `slurmray follow` leaves the line out where nobody looks (client_follow.c). */
static void why_transfer(const struct view *v, struct strbuf *out)
{
	struct engine_progress p = engine_progress(v->fs->en, v->run->num);

	if (p.input_all)
		strbuf_addf(out, "transfer: %.1f of %.1f MB of an input are here\n", (double)p.input / 1e6,
			    (double)p.input_all / 1e6);
	if (p.sent_all && p.sent < p.sent_all)
		strbuf_addf(out, "transfer: %.1f of %.1f MB are on the cluster\n", (double)p.sent / 1e6,
			    (double)p.sent_all / 1e6);
}

/* How a session is, beside what the scheduler says of its job. */
static void why_session(const struct run *r, struct strbuf *out)
{
	const char *lost = run_fact(r, "session_lost");
	int64_t silent = json_integer_value(json_object_get(r->facts, "session_silent"));
	char when[CLOCK_TEXT];

	if (lost)
		strbuf_addf(out, "lost: %s; nothing more is started there\n", lost);
	if (silent)
		strbuf_addf(
			out,
			"nothing was heard of its runner since %s: it may hang, or its node; `cancel` ends the session\n",
			clock_text(silent, when));
}

static void why_live(const struct view *v, struct strbuf *out)
{
	const struct run *r = v->run;
	const char *gate = engine_gate(v->fs->en, r->num);
	const char *trouble = link_trouble(v);
	char when[CLOCK_TEXT];

	if (gate)
		strbuf_addf(out, "%s\n", gate);
	if (r->why)
		strbuf_addf(out, "%s\n", r->why);
	if (r->status == RUN_SUBMITTING && run_fact(r, "submit_trouble"))
		strbuf_addf(out, "not submitted yet: %s\n", run_fact(r, "submit_trouble"));
	if (r->status == RUN_SUBMITTING || r->status == RUN_QUEUED)
		why_transfer(v, out);
	if (run_fact(r, "session_note"))
		strbuf_addf(out, "%s\n", run_fact(r, "session_note"));
	if (r->status == RUN_PENDING && r->reason)
		strbuf_addf(out, "pending: %s\n", r->reason);
	if (r->status == RUN_RUNNING && r->reason && *r->reason)
		strbuf_addf(out, "%s\n", r->reason);
	if (r->status == RUN_PENDING && r->t_est_start)
		strbuf_addf(out, "estimated start: %s\n", clock_text(r->t_est_start, when));
	if (r->hold_wanted && (r->status == RUN_QUEUED || r->status == RUN_PENDING))
		strbuf_addstr(out, "held by the user: echo release > ctl lets it go\n");
	if (r->cancel_wanted)
		strbuf_addstr(out, "cancel was asked for and is on its way\n");
	if (trouble)
		strbuf_addf(out, "cluster %s: %s\n", r->cluster, trouble);
	why_session(r, out);
}

/* The last lines of stderr of a run that failed: what one would look for first. */
static void stderr_tail(const struct view *v, struct strbuf *out)
{
	struct spool_reader *sp = run_spool(v->fs, v->run);
	enum spool_stream stream = v->run->merged ? SPOOL_OUT : SPOOL_ERR;
	uint64_t len = sp ? spool_reader_len(sp, stream) : 0;
	char buf[1024];
	ssize_t n;
	const char *s = buf;

	if (!len)
		return;
	n = spool_reader_pread(sp, stream, buf, sizeof(buf) - 1, len > sizeof(buf) - 1 ? len - (sizeof(buf) - 1) : 0);
	if (n <= 0)
		return;
	buf[n] = '\0';
	if (len > sizeof(buf) - 1 && strchr(buf, '\n'))
		s = strchr(buf, '\n') + 1;
	strbuf_addf(out, "last lines of %s:\n%s%s", v->run->merged ? "the log" : "stderr", s,
		    buf[n - 1] == '\n' ? "" : "\n");
}

/* What a job wrote into its message file that Dagster would not have taken. */
static void why_rejected(const struct view *v, struct strbuf *out)
{
	struct spool_reader *sp = engine_has_pipes(v->run) ? run_spool(v->fs, v->run) : NULL;
	uint64_t n = sp ? spool_reader_rejected(sp) : 0;

	if (n)
		strbuf_addf(out,
			    "%" PRIu64
			    " %s of the job's message file %s no Dagster Pipes message: see events.rejected\n",
			    n, n == 1 ? "line" : "lines", n == 1 ? "is" : "are");
}

static void render_rejected(const struct view *v, struct strbuf *out)
{
	struct spool_reader *sp = engine_has_pipes(v->run) ? run_spool(v->fs, v->run) : NULL;

	if (sp)
		spool_reader_rejects(sp, out);
}

static bool is_signal_verb(const char *verb)
{
	return verb && strncmp(verb, "signal ", 7) == 0;
}

/* What this mount did comes before what others guess. */
static void render_why(const struct view *v, struct strbuf *out)
{
	const struct run *r = v->run;

	if (run_is_live(r)) {
		why_live(v, out);
		why_rejected(v, out);
		return;
	}
	if (r->cancel_wanted && run_fact(r, "cancel_asked"))
		strbuf_addf(out, "cancel was asked for through this mount at %s\n", run_fact(r, "cancel_asked"));
	if (!r->cancel_wanted && r->signal && is_signal_verb(run_fact(r, "last_verb")))
		strbuf_addf(out, "`%s` was sent to it through this mount\n", run_fact(r, "last_verb"));
	if (r->why)
		strbuf_addf(out, "%s\n", r->why);
	why_rejected(v, out);
	if (r->status != RUN_SUCCEEDED && r->status != RUN_REJECTED && r->status != RUN_CANCELLED)
		stderr_tail(v, out);
}

/* --- info --- */

static void put_str(json_t *o, const char *key, const char *s)
{
	if (s)
		(void)json_object_set_new(o, key, json_string(s));
}

static void put_time(json_t *o, const char *key, int64_t t)
{
	char when[CLOCK_TEXT];

	if (t)
		put_str(o, key, clock_text(t, when));
}

static const char *source_of(const struct run *r, bool last)
{
	for (size_t i = r->n_history; i > 0; i--)
		if (last || r->history[i - 1].to == RUN_RUNNING)
			return r->history[i - 1].source;
	return NULL;
}

static bool is_time(const char *fact)
{
	static const char *const times[] = { "session_end", "session_quiet", "session_silent" };

	for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++)
		if (strcmp(times[i], fact) == 0)
			return true;
	return false;
}

/* Everything known, flat; facts that the named fields do not cover come last. */
static json_t *info_object(const struct run *r)
{
	json_t *o = json_object(), *value;
	int code = final_code(r);
	const char *key;

	put_str(o, "id", r->id);
	(void)json_object_set_new(o, "number", json_integer(r->num));
	put_str(o, "status", run_status_name(r->status));
	put_str(o, "status_source", source_of(r, true));
	put_str(o, "why", r->why);
	put_str(o, "cluster", r->cluster);
	put_str(o, "job_id", r->job_id);
	put_str(o, "name", r->name);
	if (r->tags) {
		json_t *tags = json_array();

		for (char **t = r->tags; *t; t++)
			(void)json_array_append_new(tags, json_string(*t));
		(void)json_object_set_new(o, "tags", tags);
	}
	put_str(o, "key", r->key);
	(void)json_object_set_new(o, "attempt", json_integer(r->attempt));
	put_str(o, "nodes", r->nodes);
	put_str(o, "reason", r->reason);
	if (code >= 0)
		(void)json_object_set_new(o, "exit_code", json_integer(code));
	if (r->signal)
		(void)json_object_set_new(o, "signal", json_integer(r->signal));
	put_time(o, "created", r->t_created);
	put_time(o, "submitted", r->t_submitted);
	put_time(o, "started", r->t_started);
	put_str(o, "started_source", r->t_started ? source_of(r, false) : NULL);
	put_time(o, "ended", r->t_ended);
	put_time(o, "estimated_start", r->t_est_start);
	json_object_foreach (r->facts, key, value) {
		if (is_time(key))
			put_time(o, key, json_integer_value(value));
		else if (!json_object_get(o, key) && (run_is_live(r) || !engine_is_forward_fact(key)))
			(void)json_object_set(o, key, value);
	}
	return o;
}

static void put_bytes(json_t *o, const char *key, uint64_t n)
{
	(void)json_object_set_new(o, key, json_integer((json_int_t)n));
}

static void put_progress(const struct view *v, json_t *o)
{
	struct engine_progress p = engine_progress(v->fs->en, v->run->num);

	if (p.input_all) {
		put_bytes(o, "input_bytes", p.input);
		put_bytes(o, "input_total", p.input_all);
	}
	if (p.sent_all) {
		put_bytes(o, "upload_bytes", p.sent);
		put_bytes(o, "upload_total", p.sent_all);
	}
	if (p.fetch_all) {
		put_bytes(o, "fetch_bytes", p.fetched);
		put_bytes(o, "fetch_total", p.fetch_all);
	}
}

static void render_info_json(const struct view *v, struct strbuf *out)
{
	json_t *o = info_object(v->run);
	char *text;

	put_progress(v, o);
	text = json_dumps(o, JSON_INDENT(2));
	strbuf_addf(out, "%s\n", text);
	free(text);
	json_decref(o);
}

/* "key value" lines; text that holds newlines is written as JSON, so that a line stays a line. */
static void keyed(const json_t *o, struct strbuf *out)
{
	const char *key;
	json_t *value;

	json_object_foreach ((json_t *)o, key, value) {
		const char *s = json_string_value(value);

		if (s && !strpbrk(s, "\n\r")) {
			strbuf_addf(out, "%s %s\n", key, s);
		} else {
			char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

			strbuf_addf(out, "%s %s\n", key, text);
			free(text);
		}
	}
}

static void render_info(const struct view *v, struct strbuf *out)
{
	json_t *o = info_object(v->run);

	put_progress(v, o);
	keyed(o, out);
	json_decref(o);
}

/* --- history --- */

static void render_history(const struct view *v, struct strbuf *out)
{
	const struct run *r = v->run;
	char when[CLOCK_TEXT];

	for (size_t i = 0; i < r->n_history; i++) {
		const struct run_step *h = &r->history[i];

		strbuf_addf(out, "{\"time\": \"%s\", \"from\": \"%s\", \"to\": \"%s\", \"source\": \"%s\"}\n",
			    clock_text(h->time, when), i || h->from != h->to ? run_status_name(h->from) : "-",
			    run_status_name(h->to), h->source);
	}
}

/* --- metrics --- */

static double fact_number(const struct run *r, const char *key)
{
	const json_t *j = r->facts ? json_object_get(r->facts, key) : NULL;

	return j && json_is_number(j) ? json_number_value(j) : -1;
}

static double elapsed_seconds(const struct view *v)
{
	const struct run *r = v->run;
	int64_t end = run_is_live(r) ? clock_real(v->fs->clock) : r->t_ended;

	return r->t_started && end > r->t_started ? (double)(end - r->t_started) / USEC_PER_SEC : 0;
}

/* One metric in either form. The number of decimals is fixed: a live file must not get shorter between stat and read.
 */
static void metric(struct strbuf *out, bool json, const char *name, int decimals, double value)
{
	if (json)
		strbuf_addf(out, "%s  \"%s\": %.*f", out->len > 2 ? ",\n" : "", name, decimals, value);
	else
		strbuf_addf(out, "%s %.*f\n", name, decimals, value);
}

/* Names of our own; a job's number of the same name is not shown twice. */
static bool own_metric(const char *name)
{
	static const char *const own[] = { "elapsed", "cpus",       "cpu_seconds", "cpu_efficiency",
					   "max_rss", "node_hours", "complete" };

	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (strcmp(own[i], name) == 0)
			return true;
	return false;
}

/* A name as a word. */
static void add_word(struct strbuf *out, const char *name)
{
	for (; *name; name++)
		strbuf_addch(out, strchr(" \t\r\n", *name) || (unsigned char)*name < 0x20 ? '_' : *name);
}

/* The numbers that the job reported, as it wrote them. */
static void reported_metrics(const struct view *v, struct strbuf *out, bool json)
{
	json_t *numbers = run_numbers(v->fs, v->run), *value;
	const char *name;

	json_object_foreach (numbers, name, value) {
		if (own_metric(name))
			continue;
		if (json) {
			json_t *key = json_string(name);
			char *quoted = json_dumps(key, JSON_ENCODE_ANY);

			strbuf_addf(out, ",\n  %s: %s", quoted, json_string_value(value));
			free(quoted);
			json_decref(key);
		} else {
			add_word(out, name);
			strbuf_addf(out, " %s\n", json_string_value(value));
		}
	}
}

static void metrics_text(const struct view *v, struct strbuf *out, bool json)
{
	const struct run *r = v->run;
	double elapsed = elapsed_seconds(v), cpu = fact_number(r, "cpu_us"), cpus = fact_number(r, "cpus");
	double rss = fact_number(r, "max_rss"), nodes = fact_number(r, "node_count");
	const char *complete = run_is_live(r) ? "false" : "true";

	metric(out, json, "elapsed", 3, elapsed);
	if (nodes > 0)
		metric(out, json, "nodes", 0, nodes);
	if (cpus > 0)
		metric(out, json, "cpus", 0, cpus);
	if (cpu >= 0)
		metric(out, json, "cpu_seconds", 3, cpu / USEC_PER_SEC);
	if (cpu >= 0 && cpus > 0 && elapsed > 0)
		metric(out, json, "cpu_efficiency", 3, cpu / USEC_PER_SEC / (elapsed * cpus));
	if (rss >= 0)
		metric(out, json, "max_rss", 0, rss);
	metric(out, json, "node_hours", 6, elapsed / 3600 * (nodes > 0 ? nodes : 1));
	reported_metrics(v, out, json);
	if (json)
		strbuf_addf(out, ",\n  \"complete\": %s", complete);
	else
		strbuf_addf(out, "complete %s\n", complete);
}

static void render_metrics(const struct view *v, struct strbuf *out)
{
	metrics_text(v, out, false);
}

static void render_metrics_json(const struct view *v, struct strbuf *out)
{
	strbuf_addstr(out, "{\n");
	metrics_text(v, out, true);
	strbuf_addstr(out, "\n}\n");
}

/* --- ray/ and spark/ --- */

#define RENDER_INNER(kind, name)                                                                                       \
	static void render_##kind##_##name(const struct view *v, struct strbuf *out)                                   \
	{                                                                                                              \
		render_inner(v, #kind, #name, out);                                                                    \
	}

RENDER_INNER(ray, state)
RENDER_INNER(ray, address)
RENDER_INNER(ray, version)
RENDER_INNER(ray, python)
RENDER_INNER(ray, nodes)
RENDER_INNER(spark, state)
RENDER_INNER(spark, address)
RENDER_INNER(spark, version)
RENDER_INNER(spark, nodes)

static void render_ray_why(const struct view *v, struct strbuf *out)
{
	render_inner_why(v, "ray", out);
}

static void render_spark_why(const struct view *v, struct strbuf *out)
{
	render_inner_why(v, "spark", out);
}

/* By name where that leads there; a session whose name another has now is known by its run. */
static void render_session(const struct view *v, struct strbuf *out)
{
	const struct run *s = engine_session_of(v->fs->en, v->run);

	if (s && engine_session_current(v->fs->en, s))
		strbuf_addf(out, "../../sessions/%s", engine_session_name(s));
	else if (s)
		strbuf_addf(out, "../%s", s->id);
}

/* --- the table --- */

const struct node run_nodes[] = {
	[RUN_ROW_DIR] = { ".", NODE_DIR, 0755, 0, NULL, 0,
			  "the run's directory; rmdir purges a draft or an ended run" },
	[RUN_ROW_RESULTS] = { "results", NODE_DIR, 0555, 0, NULL, 0, "what the job wrote under $SLURMRAY_RESULTS" },
	[RUN_ROW_WORK] = { "work", NODE_DIR, 0555, NODE_UNLISTED, NULL, 0,
			   "the remote working directory, read through" },
	[RUN_ROW_FILES] = { "files", NODE_DIR, 0755, 0, NULL, 0,
			    "inputs; written in a draft, shipped into the working directory" },
	{ "spec", NODE_SPEC, 0644, NODE_FRESH | NODE_FINAL, NULL, 0,
	  "the spec as written; writing it in a draft submits" },
	{ "effective", NODE_STORED, 0444, NODE_FINAL, NULL, 0, "the spec with all defaults, each with its source" },
	{ "script", NODE_STORED, 0444, NODE_FINAL, NULL, 0, "exactly what the scheduler is given" },
	{ "status", NODE_DOC, 0444, NODE_FINAL | NODE_TRANSITION, render_status, 0, "one word" },
	{ "why", NODE_DOC, 0444, 0, render_why, 0, "the reason for the status in words" },
	{ "info", NODE_DOC, 0444, 0, render_info, 0, "everything known, `key value` lines" },
	{ "info.json", NODE_DOC, 0444, 0, render_info_json, 0, "the same as JSON" },
	{ "job_id", NODE_DOC, 0444, NODE_FINAL, render_job_id, 0, "the scheduler's id, - before there is one" },
	{ "cluster", NODE_DOC, 0444, NODE_FINAL, render_cluster, 0, "the cluster's name" },
	{ "exit_code", NODE_DOC, 0444, NODE_FINAL | NODE_TRANSITION, render_exit_code, 0,
	  "the job's code, 128+N for signal N, - for none" },
	{ "wait", NODE_WAIT, 0444, NODE_UNLISTED, NULL, 0, "blocks until the run has ended: `STATUS CODE`" },
	{ "stdout", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_OUT, "the job's output, byte-exact" },
	{ "stderr", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_ERR, "the job's error output, byte-exact" },
	{ "log", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_LOG, "both, in order of arrival" },
	{ "stdout.follow", NODE_FOLLOW, 0444, NODE_UNLISTED, NULL, SPOOL_OUT,
	  "stdout; blocks at its end until the run has ended" },
	{ "stderr.follow", NODE_FOLLOW, 0444, NODE_UNLISTED, NULL, SPOOL_ERR,
	  "stderr; blocks at its end until the run has ended" },
	{ "log.follow", NODE_FOLLOW, 0444, NODE_UNLISTED, NULL, SPOOL_LOG,
	  "log; blocks at its end until the run has ended" },
	{ "history", NODE_DOC, 0444, NODE_TRANSITION | NODE_APPENDS, render_history, 0,
	  "state transitions, JSON lines" },
	{ "metrics", NODE_DOC, 0444, 0, render_metrics, 0,
	  "elapsed, cpu_efficiency, max_rss, node_hours ... `key value` lines" },
	{ "metrics.json", NODE_DOC, 0444, 0, render_metrics_json, 0, "the same as JSON" },
	{ "ctl", NODE_CTL, 0644, NODE_FRESH, NULL, 0,
	  "verbs: cancel, signal NAME, hold, release ...; read back for the answer" },
	{ "events", NODE_GROW, 0644, NODE_FINAL, NULL, SPOOL_EVENTS, "Dagster Pipes messages of the job, whole lines" },
	{ "events.follow", NODE_FOLLOW, 0444, NODE_UNLISTED, NULL, SPOOL_EVENTS,
	  "events; blocks at its end until the run has ended" },
	{ "events.rejected", NODE_DOC, 0444, NODE_FINAL | NODE_APPENDS, render_rejected, 0,
	  "what the job wrote that is no message, with offset and reason" },
	{ "context", NODE_CONTEXT, 0644, 0, NULL, 0, "the Pipes context that the job is given; written in a draft" },
	{ "pipes", NODE_DIR, 0555, 0, NULL, 0, "what the job reported, JSON lines" },
	{ "pipes/materializations", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_MATERIALIZATIONS,
	  "asset materializations" },
	{ "pipes/checks", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_CHECKS, "asset checks" },
	{ "pipes/logs", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_LOGS, "log messages" },
	{ "pipes/custom", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_CUSTOM, "custom messages" },
	{ "ray", NODE_DIR, 0555, 0, NULL, 0, "the run's Ray cluster; only of runs that have one" },
	{ "ray/status", NODE_DOC, 0444, 0, render_ray_state, 0,
	  "starting, ready, degraded, stopping, ended or failed; - before it begins" },
	{ "ray/why", NODE_DOC, 0444, 0, render_ray_why, 0, "the same in a sentence" },
	{ "ray/ready", NODE_READY, 0444, NODE_UNLISTED, NULL, 0,
	  "blocks until every node is there: `ready`, or `failed WHY`, or `ended`" },
	{ "ray/address", NODE_DOC, 0444, 0, render_ray_address, 0, "IP:PORT of its GCS, for programs on the cluster" },
	{ "ray/dashboard", NODE_INNER, 0444, 0, NULL, 0,
	  "a URL of this machine for the dashboard and the Jobs API; opening it makes the way there" },
	{ "ray/client", NODE_INNER, 0444, 0, NULL, 0, "the same for Ray Client: ray://127.0.0.1:PORT" },
	{ "ray/version", NODE_DOC, 0444, 0, render_ray_version, 0,
	  "of Ray there: that of a Ray Client must be the same" },
	{ "ray/nodes", NODE_DOC, 0444, 0, render_ray_nodes, 0, "a line a node: NODE IP NODE_ID STATE CPUS GPUS" },
	{ "ray/available", NODE_INNER, 0444, 0, NULL, 0, "what is free, a line a resource: RESOURCE FREE of TOTAL" },
	{ "ray/token", NODE_INNER, 0400, NODE_UNLISTED, NULL, 0, "RAY_AUTH_TOKEN of it, where it has one" },
	{ "ray/logs", NODE_DIR, 0555, 0, NULL, 0, "Ray's logs, a directory a node, read through" },
	{ "session", NODE_LINK, 0777, 0, render_session, 0, "the session that it starts in" },
	{ "spark", NODE_DIR, 0555, 0, NULL, 0, "the run's Spark cluster; only of runs that have one" },
	{ "spark/status", NODE_DOC, 0444, 0, render_spark_state, 0,
	  "starting, ready, degraded, stopping, ended or failed; - before it begins" },
	{ "spark/why", NODE_DOC, 0444, 0, render_spark_why, 0, "the same in a sentence" },
	{ "spark/ready", NODE_READY, 0444, NODE_UNLISTED, NULL, 0,
	  "blocks until every node is there: `ready`, or `failed WHY`, or `ended`" },
	{ "spark/master", NODE_DOC, 0444, 0, render_spark_address, 0,
	  "spark://IP:PORT, for programs on the cluster that have its secret" },
	{ "spark/ui", NODE_INNER, 0444, 0, NULL, 0,
	  "a URL of this machine for the master's page; opening it makes the way there" },
	{ "spark/version", NODE_DOC, 0444, 0, render_spark_version, 0, "of Spark there" },
	{ "spark/nodes", NODE_DOC, 0444, 0, render_spark_nodes, 0, "a line a node: NODE IP WORKER_ID STATE CPUS 0" },
	{ "spark/executors", NODE_INNER, 0444, 0, NULL, 0,
	  "a line a worker: what of it executors have: NODE cores N of N memory N of N MiB" },
	{ "spark/ctl", NODE_CTL, 0644, NODE_FRESH, NULL, 0, "verbs: restart, stop; read back for the answer" },
	{ "ray/python", NODE_DOC, 0444, 0, render_ray_python, 0,
	  "its Python: a Ray Client's minor version must be the same" },
	{ "ray/ctl", NODE_CTL, 0644, NODE_FRESH, NULL, 0, "verbs: restart, stop; read back for the answer" },
	{ "spark/available", NODE_INNER, 0444, 0, NULL, 0, "what is free: RESOURCE FREE of TOTAL" },
	{ "spark/logs", NODE_DIR, 0555, 0, NULL, 0,
	  "the daemons' and executors' logs, a directory a node, read through" },
	{ "pipes/superseded", NODE_GROW, 0444, NODE_FINAL, NULL, SPOOL_SUPERSEDED,
	  "whole messages of earlier starts of a job that Slurm started again, from the first report on" },
	{ 0 },
};
