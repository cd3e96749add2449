/*
 * A job's Dagster Pipes session: the two variables that Dagster's side gives out, and what becomes of them on the cluster. Both are
 * JSON, deflated, in base64 (dagster_pipes, PipesEnvVarParamsLoader). A path that ends in /runs/NAME/context or
 * /runs/NAME/events is a file of a mount; the job gets one of its own in its place. Everything else (another path, an object
 * store) is the user's affair and stays as it is. Pure.
 */
#include "backend/job.h"

#include "backend/base/mem.h"
#include "backend/pjson.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <zlib.h>

#define CONTEXT_VAR "DAGSTER_PIPES_CONTEXT"
#define MESSAGES_VAR "DAGSTER_PIPES_MESSAGES"
#define INFLATED_MAX ((size_t)64 * 1024 * 1024)
#define VAR_MAX (128 * 1024) /* see job.c */

/* --- decoding --- */

static int base64_digit(char c)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

static bool base64_decode(const char *text, struct strbuf *out)
{
	unsigned bits = 0, n = 0;

	for (; *text && *text != '='; text++) {
		int d = base64_digit(*text);

		if (d < 0)
			return false;
		bits = (bits << 6 | (unsigned)d) & 0xffffff;
		n += 6;
		if (n >= 8) {
			n -= 8;
			strbuf_addch(out, (char)(bits >> n & 0xff));
		}
	}
	return text[strspn(text, "=")] == '\0';
}

static bool zlib_inflate(const struct strbuf *in, struct strbuf *out)
{
	unsigned char buf[16384];
	z_stream z = { 0 };
	int rc = Z_OK;

	if (inflateInit(&z) != Z_OK)
		return false;
	z.next_in = (unsigned char *)in->buf;
	z.avail_in = (unsigned)in->len;
	while (rc == Z_OK && out->len < INFLATED_MAX) {
		z.next_out = buf;
		z.avail_out = sizeof(buf);
		rc = inflate(&z, Z_NO_FLUSH);
		strbuf_add(out, (const char *)buf, sizeof(buf) - z.avail_out);
	}
	(void)inflateEnd(&z);
	return rc == Z_STREAM_END;
}

static json_t *decode(const char *name, const char *value, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf packed = STRBUF_INIT, text = STRBUF_INIT;
	json_t *params = NULL;

	if (base64_decode(value, &packed) && zlib_inflate(&packed, &text))
		params = json_loadb(text.buf, text.len, JSON_ALLOW_NUL, NULL);
	if (json_is_object(params))
		return params;
	json_decref(params);
	(void)strbuf_complain(errors, "env: %s is not what Dagster puts there: a JSON object, deflated, in base64", name);
	return NULL;
}

/* --- the variables --- */

static struct job_var *find_var(const struct job *job, const char *name)
{
	for (size_t i = 0; i < job->n_env; i++)
		if (strcmp(job->env[i].name, name) == 0)
			return &job->env[i];
	return NULL;
}

static void drop_var(struct job *job, struct job_var *var)
{
	size_t at = (size_t)(var - job->env);

	free(var->name);
	free(var->value);
	job->n_env--;
	memmove(var, var + 1, (job->n_env - at) * sizeof(*var));
}

/* .../runs/NAME/FILE */
static bool is_mount_path(const char *path, const char *file)
{
	const char *slash = path ? strrchr(path, '/') : NULL, *dir;

	if (!slash || strcmp(slash + 1, file) != 0)
		return false;
	dir = memrchr(path, '/', (size_t)(slash - path));
	return dir && dir - path >= 5 && memcmp(dir - 5, "/runs", 5) == 0 && slash - dir > 1;
}

static int take_context(struct job *job, struct strbuf *errors)
{
	struct job_var *var = find_var(job, CONTEXT_VAR);
	json_t *params, *data;

	if (!var)
		return 0;
	params = decode(CONTEXT_VAR, var->value, errors);
	if (!params)
		return -EINVAL;
	data = json_object_get(params, "data");
	if (json_is_object(data)) {
		job->pipes_data = json_dumps(data, JSON_COMPACT);
	} else if (is_mount_path(json_string_value(json_object_get(params, "path")), "context")) {
		job->pipes_named = true;
	} else if (strlen(var->value) + strlen(var->name) + 2 > VAR_MAX) {
		json_decref(params);
		return strbuf_complain(errors, "env: " CONTEXT_VAR " is over 128 KiB, more than a variable can hold");
	}
	if (job->pipes_data || job->pipes_named)
		drop_var(job, var);
	json_decref(params);
	return 0;
}

static int take_messages(struct job *job, struct strbuf *errors)
{
	struct job_var *var = find_var(job, MESSAGES_VAR);
	cleanup_strbuf struct strbuf rest = STRBUF_INIT;
	const char *key;
	json_t *params, *v;

	job->pipes_messages = job->pipes_asked || job->pipes_data || job->pipes_named;
	if (!var)
		return 0;
	params = decode(MESSAGES_VAR, var->value, errors);
	if (!params)
		return -EINVAL;
	job->pipes_messages = is_mount_path(json_string_value(json_object_get(params, "path")), "events");
	json_object_foreach (params, key, v) {
		cleanup_free char *name = json_dumps(json_object_get(params, key), JSON_COMPACT | JSON_ENCODE_ANY);
		json_t *k = json_string(key);
		cleanup_free char *quoted = json_dumps(k, JSON_ENCODE_ANY);

		json_decref(k);
		if (strcmp(key, "path") != 0 && name && quoted)
			strbuf_addf(&rest, ", %s: %s", quoted, name);
	}
	if (job->pipes_messages) {
		job->pipes_params = strbuf_detach(&rest, NULL);
		drop_var(job, var);
	}
	json_decref(params);
	return 0;
}

int job_pipes_env(struct job *job, struct strbuf *errors)
{
	int rc;

	if (job->pipes_off)
		return 0;
	rc = take_context(job, errors);
	return rc ? rc : take_messages(job, errors);
}

/* --- the context --- */

static json_t *bare_context(const char *run_id)
{
	static const char *const nulls[] = { "asset_keys",	    "code_version_by_asset_key", "provenance_by_asset_key", "partition_key",
					     "partition_key_range", "partition_time_window",	 "job_name" };
	json_t *o = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(nulls); i++)
		(void)json_object_set_new(o, nulls[i], json_null());
	(void)json_object_set_new(o, "run_id", json_string(run_id));
	(void)json_object_set_new(o, "retry_number", json_integer(0));
	(void)json_object_set_new(o, "extras", json_object());
	return o;
}

static json_t *load_context(const struct job *job, const char *run_id, const char *draft, size_t len, struct strbuf *errors)
{
	const char *text = job->pipes_data ? job->pipes_data : draft;
	json_t *o;

	if (!text && job->pipes_named) {
		(void)strbuf_complain(errors, "env: " CONTEXT_VAR " names the run's own file `context`, and nothing was written there");
		return NULL;
	}
	if (!text)
		return bare_context(run_id);
	o = json_loadb(text, job->pipes_data ? strlen(text) : len, JSON_ALLOW_NUL, NULL);
	if (json_is_object(o))
		return o;
	json_decref(o);
	(void)strbuf_complain(errors, "context: it must be a JSON object, as Dagster's PipesFileContextInjector writes it");
	return NULL;
}

static void merge_extras(json_t *context, const char *text)
{
	json_t *more = text ? json_loads(text, 0, NULL) : NULL, *extras = json_object_get(context, "extras");

	if (more && json_is_object(extras))
		(void)json_object_update(extras, more);
	else if (more)
		(void)json_object_set(context, "extras", more);
	json_decref(more);
}

void job_pipes_flags(struct job *job, bool context)
{
	job->pipes_context = !job->pipes_off && (job->pipes_asked || job->pipes_data || job->pipes_named || context);
	/* Messages that the spec sends elsewhere stay there. */
	if (job->pipes_context && !find_var(job, MESSAGES_VAR))
		job->pipes_messages = true;
}

int job_pipes(struct job *job, const char *run_id, const char *draft, size_t draft_len, struct strbuf *out, struct strbuf *errors)
{
	bool as_written = draft && !job->pipes_extras && !job->pipes_data;
	struct pjson top;
	json_t *context;
	char *text;

	job_pipes_flags(job, draft);
	if (!job->pipes_context)
		return 0;
	if (as_written && pjson_check(draft, draft_len, &top) == PJSON_GOOD && top.type == PJSON_OBJECT) {
		strbuf_add(out, draft, draft_len); /* byte for byte */
		return 0;
	}
	context = load_context(job, run_id, draft, draft_len, errors);
	if (!context)
		return -EINVAL;
	merge_extras(context, job->pipes_extras);
	text = json_dumps(context, JSON_COMPACT);
	strbuf_addstr(out, text);
	free(text);
	json_decref(context);
	return 0;
}
