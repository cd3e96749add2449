/*
 * Requests and answers of Ray's Jobs REST API. Pure.
 *
 * Invariants: user text reaches the entrypoint only inside of quoted here-documents whose end it cannot contain; ids in
 * it are digits, letters and dashes. Strings of answers are never trusted to be short or to be lines.
 */
#include "backend/ray_api.h"

#include "backend/base/mem.h"
#include "backend/base/quote.h"
#include "backend/job.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WHY_MAX 900 /* bytes of a server's text in a sentence */

char *ray_submission_id(const char *token)
{
	char *id = xstrdup(token);

	for (char *s = id; *s; s++)
		if (strchr(":/.", *s))
			*s = '-';
	return id;
}

/* --- the entrypoint --- */

/*
 * The file of the driver's stdout is in the session's logs; nothing else says where those are. What Ray forgets (a head
 * that is killed leaves drivers behind) ends by itself: this process has another parent then.
 */
static const char entry_where[] =
	"_log=$(readlink \"/proc/$$/fd/1\")\n"
	"case $_log in\n"
	"/*/job-driver-*.log) ;;\n"
	"*)\n"
	"\techo 'slurmray: the output of the driver is no file in the logs of a Ray session' >&2\n"
	"\texit 66\n"
	"\t;;\n"
	"esac\n"
	"export SLURMRAY_BASE=\"${_log%/*}/slurmray\"\n";
static const char entry_watch[] = "# A driver whose supervisor is gone belongs to nobody.\n"
				  "_up=$PPID\n"
				  "(\n"
				  "\texec </dev/null >/dev/null 2>&1\n"
				  "\ttrap '' TERM INT HUP\n"
				  "\twhile sleep 1; do\n"
				  "\t\tread -r _ _ _ _p _ <\"/proc/$$/stat\" || exit 0\n"
				  "\t\t[ \"$_p\" = \"$_up\" ] && continue\n"
				  "\t\techo \"$_p\" >orphan\n"
				  "\t\tkill -s TERM -- \"-$$\"\n"
				  "\t\tsleep \"$_grace\"\n"
				  "\t\tkill -s KILL -- \"-$$\"\n"
				  "\tdone\n"
				  ") &\n";

/* A line that is not in the text. */
static char *here_end(const char *text)
{
	char *end = NULL;

	for (unsigned n = 0; !end || strstr(text, end); n++) {
		free(end);
		end = xasprintf("END_OF_TEXT_%u", n);
	}
	return end;
}

static void add_here(struct strbuf *out, const char *name, const char *text)
{
	cleanup_free char *end = here_end(text);
	size_t len = strlen(text);

	strbuf_addf(out, "cat >%s <<'%s' || exit 73\n%s%s%s\n", name, end, text,
		    len && text[len - 1] == '\n' ? "" : "\n", end);
}

void ray_entrypoint(struct strbuf *out, const struct ray_ids *ids, const struct job *job, const char *script,
		    const char *context, bool package)
{
	strbuf_addf(out, "# %s: its output is in slurmray/%s/runs/%u/a%u of this session's logs\n", ids->token,
		    ids->uuid, ids->run, ids->attempt);
	strbuf_addstr(out, entry_where);
	strbuf_addf(out,
		    "export SLURMRAY_JOB_ID=%s\n"
		    "_from=$PWD _grace=%d _dir=$SLURMRAY_BASE/%s/runs/%u/a%u\n"
		    "mkdir -p \"$SLURMRAY_BASE\" && chmod 700 \"$SLURMRAY_BASE\" && mkdir -p \"$_dir/work\" && "
		    "cd \"$_dir\" || exit 73\n",
		    ids->submission_id, job->grace_s, ids->uuid, ids->run, ids->attempt);
	if (package)
		strbuf_addstr(out, "cp -Rp \"$_from/.\" work/ || exit 73\n"
				   "[ ! -e work/" LAUNCH_PAYLOAD " ] || { mv work/" LAUNCH_PAYLOAD
				   " payload && chmod 700 payload; } || exit 73\n");
	if (script)
		add_here(out, "script", script);
	else
		strbuf_addstr(out, "mv work/" RAY_SCRIPT " script || exit 73\n");
	if (context)
		add_here(out, "context", context);
	strbuf_addstr(out, entry_watch);
	strbuf_addstr(out, job->merged ? "exec >stdout 2>&1\n" : "exec >stdout 2>stderr\n");
	if (job->merged)
		strbuf_addstr(out, ": >stderr\n");
	strbuf_addstr(out, "exec /bin/sh ./script\n");
}

/* --- submitting --- */

static json_t *env_of(const struct job *job, const struct ray_spec *spec, const char *package)
{
	json_t *env = spec->runtime_env ? json_deep_copy(spec->runtime_env) : json_object();
	json_t *vars = json_object_get(env, "env_vars");

	if (!vars) {
		vars = json_object();
		(void)json_object_set_new(env, "env_vars", vars);
	}
	/* The supervisor has these variables, too, and reads there how long after TERM it kills; then nobody could
	 * write how it ended, so we are first. */
	if (!json_object_get(vars, "RAY_JOB_STOP_WAIT_TIME_S"))
		(void)json_object_set_new(vars, "RAY_JOB_STOP_WAIT_TIME_S", json_sprintf("%d", job->grace_s + 5));
	if (package || spec->working_uri)
		(void)json_object_set_new(env, "working_dir", json_string(package ? package : spec->working_uri));
	return env;
}

static void set_some(json_t *body, const struct ray_spec *spec)
{
	if (spec->num_cpus >= 0)
		(void)json_object_set_new(body, "entrypoint_num_cpus", json_real(spec->num_cpus));
	if (spec->num_gpus >= 0)
		(void)json_object_set_new(body, "entrypoint_num_gpus", json_real(spec->num_gpus));
	if (spec->memory >= 0)
		(void)json_object_set_new(body, "entrypoint_memory", json_integer(spec->memory));
	if (spec->resources)
		(void)json_object_set(body, "entrypoint_resources", (json_t *)(uintptr_t)spec->resources);
	if (spec->labels)
		(void)json_object_set(body, "entrypoint_label_selector", (json_t *)(uintptr_t)spec->labels);
}

char *ray_submit_body(const struct ray_ids *ids, const struct job *job, const struct ray_spec *spec,
		      const char *entrypoint, const char *package)
{
	json_t *metadata = spec->metadata ? json_deep_copy(spec->metadata) : json_object(), *body;
	char *text;

	(void)json_object_set_new(metadata, "slurmray", json_string(ids->token));
	if (!json_object_get(metadata, "job_name"))
		(void)json_object_set_new(metadata, "job_name", json_string(job->name));
	body = json_pack("{s:s, s:s, s:o, s:o}", "entrypoint", entrypoint, "submission_id", ids->submission_id,
			 "metadata", metadata, "runtime_env", env_of(job, spec, package));
	if (!body) /* not UTF-8 */
		return NULL;
	set_some(body, spec);
	text = json_dumps(body, JSON_COMPACT);
	json_decref(body);
	return text;
}

/* --- answers --- */

static char *dup_string(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return xstrdup(s);
}

static enum ray_status status_of(const char *word)
{
	static const char *const words[] = { "PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED" };

	for (size_t i = 0; word && i < ARRAY_SIZE(words); i++)
		if (strcmp(word, words[i]) == 0)
			return (enum ray_status)i;
	return RAY_STATUS_UNKNOWN;
}

static int64_t ms_of(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	json_int_t n = json_integer_value(v);

	return json_is_integer(v) && n > 0 && n < INT64_MAX / 1000 ? n * 1000 : 0;
}

int ray_job_parse(const char *text, size_t len, struct ray_job *out, struct err *e)
{
	json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	const json_t *code;

	memset(out, 0, sizeof(*out));
	if (!json_is_object(o) || !json_is_string(json_object_get(o, "status"))) {
		json_decref(o);
		return err_set(e, -EPROTO, "what answers at this address does not speak of a job as Ray does");
	}
	out->status = status_of(json_string_value(json_object_get(o, "status")));
	out->message = dup_string(o, "message");
	if (!out->message)
		out->message = xstrdup("");
	out->error_type = dup_string(o, "error_type");
	if (!out->error_type)
		out->error_type = xstrdup("");
	out->token = dup_string(json_object_get(o, "metadata"), "slurmray");
	out->agent = dup_string(o, "driver_agent_http_address");
	out->node_id = dup_string(o, "driver_node_id");
	code = json_object_get(o, "driver_exit_code");
	out->has_code = json_is_integer(code);
	out->code = out->has_code && json_integer_value(code) > -1000 && json_integer_value(code) < 1000
			    ? (int)json_integer_value(code)
			    : 0;
	out->start = ms_of(o, "start_time");
	out->end = ms_of(o, "end_time");
	json_decref(o);
	return 0;
}

void ray_job_release(struct ray_job *j)
{
	free(j->message);
	free(j->error_type);
	free(j->token);
	free(j->agent);
	free(j->node_id);
	memset(j, 0, sizeof(*j));
}

int ray_version_parse(const char *text, size_t len, char **session, char **version, struct err *e)
{
	json_t *o = json_loadb(text, len, 0, NULL);

	*session = dup_string(o, "session_name");
	*version = dup_string(o, "ray_version");
	json_decref(o);
	if (!*version) {
		free(*session);
		*session = NULL;
		return err_set(e, -EPROTO, "what answers at this address is no Ray dashboard");
	}
	if (!*session)
		*session = xstrdup("");
	return 0;
}

/* Bytes as they are shown: one line of printable text. */
static void add_line(struct strbuf *why, const char *s, size_t len)
{
	for (size_t i = 0; i < len && i < WHY_MAX; i++)
		strbuf_addch(why, (unsigned char)s[i] < ' ' || s[i] == 127 ? ' ' : s[i]);
}

void ray_trouble(int status, const char *body, size_t len, struct strbuf *why)
{
	const char *line, *colon;

	while (len && strchr(" \t\r\n", body[len - 1]))
		len--;
	line = len ? memrchr(body, '\n', len) : NULL;
	line = line ? line + 1 : body;
	len -= (size_t)(line - body);
	colon = memchr(line, ':', len);
	if (colon && colon + 1 < line + len && colon[1] == ' ' && !memchr(line, ' ', (size_t)(colon - line))) {
		len -= (size_t)(colon + 2 - line); /* "ValueError: " */
		line = colon + 2;
	}
	if (len)
		add_line(why, line, len);
	else
		strbuf_addf(why, "HTTP status %d", status);
}

enum ray_answer ray_submit_answer(int status, const char *body, size_t len, struct strbuf *why)
{
	static const char again[] = "Please use a different submission_id";

	ray_trouble(status, body, len, why);
	if (status == 200)
		return RAY_TAKEN;
	if (status == 401 || status == 403)
		return RAY_TOKEN;
	if (status == 413)
		return RAY_TOO_LONG;
	if (memmem(body, len, again, sizeof(again) - 1))
		return RAY_DUPLICATE;
	return status >= 400 && status < 500 && status != 404 && status != 408 && status != 429 ? RAY_REFUSED
												: RAY_LATER;
}

static void add_text(json_t *row, const char *name, const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	(void)json_object_set_new(row, name, json_string(s ? s : "-"));
}

json_t *ray_jobs_rows(const char *text, size_t len)
{
	json_t *all = json_loadb(text, len, 0, NULL), *rows, *o;
	size_t i;

	if (!json_is_array(all)) {
		json_decref(all);
		return NULL;
	}
	rows = json_array();
	json_array_foreach (all, i, o) {
		json_t *row = json_object();
		const char *id = json_string_value(json_object_get(o, "submission_id"));

		add_text(row, "id", o, id ? "submission_id" : "job_id");
		add_text(row, "name", json_object_get(o, "metadata"), "job_name");
		add_text(row, "state", o, "status");
		add_text(row, "type", o, "type");
		(void)json_array_append_new(rows, row);
	}
	json_decref(all);
	return rows;
}

json_t *ray_nodes_rows(const char *text, size_t len)
{
	json_t *all = json_loadb(text, len, 0, NULL), *rows, *o;
	json_t *list = json_object_get(json_object_get(json_object_get(all, "data"), "result"), "result");
	size_t i;

	if (!json_is_array(list)) {
		json_decref(all);
		return NULL;
	}
	rows = json_array();
	json_array_foreach (list, i, o) {
		json_t *row = json_object();

		add_text(row, "name", o, "node_ip");
		add_text(row, "state", o, "state");
		add_text(row, "id", o, "node_id");
		if (json_is_object(json_object_get(o, "resources_total")))
			(void)json_object_set(row, "resources", json_object_get(o, "resources_total"));
		(void)json_array_append_new(rows, row);
	}
	json_decref(all);
	return rows;
}

/* --- the agent's index --- */

static int hex(char c)
{
	return c >= '0' && c <= '9'   ? c - '0'
	       : c >= 'A' && c <= 'F' ? c - 'A' + 10
	       : c >= 'a' && c <= 'f' ? c - 'a' + 10
				      : -1;
}

static void add_decoded(struct strbuf *out, const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (s[i] == '%' && i + 2 < len + 0 && hex(s[i + 1]) >= 0 && hex(s[i + 2]) >= 0) {
			strbuf_addch(out, (char)(hex(s[i + 1]) * 16 + hex(s[i + 2])));
			i += 2;
		} else {
			strbuf_addch(out, s[i]);
		}
	}
}

void ray_index_names(const char *html, size_t len, struct strbuf *names)
{
	static const char href[] = "<a href=\"";
	const char *end = html + len, *s = html;

	while ((s = memmem(s, (size_t)(end - s), href, sizeof(href) - 1))) {
		const char *from = s + sizeof(href) - 1, *to = memchr(from, '"', (size_t)(end - from)), *slash;
		cleanup_strbuf struct strbuf name = STRBUF_INIT;
		const char *text, *text_end;
		bool dir;

		if (!to)
			return;
		s = to;
		text = to + 1 < end && to[1] == '>' ? to + 2 : NULL;
		text_end = text ? memchr(text, '<', (size_t)(end - text)) : NULL;
		dir = text_end && text_end > text && text_end[-1] == '/';
		while (to > from && to[-1] == '/')
			to--;
		slash = to > from ? memrchr(from, '/', (size_t)(to - from)) : NULL;
		add_decoded(&name, slash ? slash + 1 : from, (size_t)(to - (slash ? slash + 1 : from)));
		if (!name.len || strlen(name.buf) != name.len || strchr(name.buf, '/') || strcmp(name.buf, ".") == 0 ||
		    strcmp(name.buf, "..") == 0)
			continue;
		strbuf_addstr(names, name.buf);
		if (dir)
			strbuf_addch(names, '/');
		strbuf_addch(names, '\0');
	}
}
