/*
 * Turns an effective spec into struct job. Every value was checked for its type by spec_set when it came in; here is
 * checked what only matters to a script or scheduler: variable names that a shell accepts, sizes that execve(2)
 * accepts, a launcher that exists. Ignored keys (of the local cluster) are skipped. Pure.
 *
 * Invariant: after an error, too, job_release frees everything; the job is zeroed then.
 */
#include "backend/job.h"

#include "backend/base/mem.h"
#include "backend/config.h"
#include "backend/spec.h"
#include "launchers/launcher.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* MAX_ARG_STRLEN, execve(2): one argument or NAME=VALUE with its NUL takes at most 32 pages. */
#define ARG_MAX_BYTES (128 * 1024)
#define ERRORS_ENOUGH 8192 /* bytes of sentences about one key */
#define GRACE_DEFAULT 10
#define IDLE_DEFAULT (30 * 60) /* seconds that a session may hold nodes for nothing */
#define SIGNAL_LEAD_DEFAULT 60 /* sbatch(1), --signal */

static const json_t *value(const struct effective *eff, const char *key)
{
	const json_t *v = json_object_get(eff->values, key);

	if (!v || json_is_null(v) || json_object_get(eff->ignored, key))
		return NULL;
	return v;
}

static const char *text(const struct effective *eff, const char *key)
{
	return json_string_value(value(eff, key));
}

static bool flag(const struct effective *eff, const char *key)
{
	return json_is_true(value(eff, key));
}

static json_int_t count(const struct effective *eff, const char *key, json_int_t otherwise)
{
	const json_t *v = value(eff, key);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

/* A list that is being made: NULL-ended at any time, and it grows by doubling, for a spec may hold a quarter of a
 * million words. */
struct words {
	char **v;
	size_t n, cap;
};

static void words_add(struct words *w, char *item)
{
	if (w->n + 2 > w->cap) {
		w->cap = w->cap ? 2 * w->cap : 8;
		w->v = xrealloc(w->v, w->cap * sizeof(char *));
	}
	w->v[w->n++] = item;
	w->v[w->n] = NULL;
}

/* Never NULL. */
static char **words_take(struct words *w)
{
	return w->v ? w->v : xcalloc(1, sizeof(char *));
}

static void list_free(char **list)
{
	for (size_t i = 0; list && list[i]; i++)
		free(list[i]);
	free(list);
}

static void var_fill(struct job_var *var, const char *name, const char *val)
{
	var->name = xstrdup(name);
	var->value = xstrdup(val);
}

/* A name that `export` takes in every shell: an identifier, and none that bash keeps read-only (bash(1)). */
static int check_var(const char *name, const char *val, struct strbuf *errors)
{
	static const char chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
	static const char *const readonly[] = {
		"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID", "BASH"
	};

	if (!*name || (name[0] >= '0' && name[0] <= '9') || name[strspn(name, chars)])
		return strbuf_complain(
			errors, "env: '%s' is no name of a variable: letters, digits and _, no digit first", name);
	for (size_t i = 0; i < ARRAY_SIZE(readonly); i++)
		if (strcmp(name, readonly[i]) == 0)
			return strbuf_complain(errors, "env: %s belongs to the shell and cannot be set", name);
	if (strlen(name) + strlen(val) + 2 > ARG_MAX_BYTES && strcmp(name, "DAGSTER_PIPES_CONTEXT") != 0)
		return strbuf_complain(
			errors, "env: %s is over 128 KiB, more than a variable can hold: put it into a file", name);
	return 0;
}

static int fill_env(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	json_t *env = json_object_get(eff->values, "env");
	const char *name;
	json_t *v;
	int rc = 0;

	job->env = xcalloc(json_object_size(env), sizeof(*job->env));
	json_object_foreach (env, name, v) {
		if (!json_is_string(v))
			continue;
		if (check_var(name, json_string_value(v), errors))
			rc = -EINVAL;
		else
			var_fill(&job->env[job->n_env++], name, json_string_value(v));
	}
	return rc ? rc : job_pipes_env(job, errors);
}

/* A secret wins over a variable of its name. */
static void drop_env(struct job *job, const char *name)
{
	for (size_t i = 0; i < job->n_env; i++)
		if (strcmp(job->env[i].name, name) == 0) {
			free(job->env[i].name);
			free(job->env[i].value);
			job->n_env--;
			memmove(&job->env[i], &job->env[i + 1], (job->n_env - i) * sizeof(*job->env));
			return;
		}
}

static int fill_secrets(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	json_t *map = json_object_get(eff->values, "secret_env"), *v;
	const char *name;
	int rc = 0;

	job->secret = xcalloc(json_object_size(map), sizeof(*job->secret));
	json_object_foreach (map, name, v) {
		if (!json_is_string(v))
			continue;
		rc |= check_var(name, "", errors);
		drop_env(job, name);
		var_fill(&job->secret[job->n_secret++], name, json_string_value(v));
	}
	return rc;
}

static void fill_pipes(const struct effective *eff, struct job *job)
{
	const json_t *on = value(eff, "pipes"), *extras = value(eff, "extras");

	job->pipes_off = json_is_false(on);
	job->pipes_inject = json_is_string(on);
	job->pipes_asked = json_is_true(on) || job->pipes_inject || (extras && !job->pipes_off);
	job->pipes_extras = extras ? json_dumps(extras, JSON_COMPACT) : NULL;
}

/* `inject` takes the file of `pipes_module`, a path is one itself. */
static int fill_inject(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	const char *on = text(eff, "pipes"), *module = text(eff, "pipes_module");

	if (!job->pipes_inject)
		return 0;
	if (strcmp(on, "inject") != 0)
		module = on;
	if (!module)
		return strbuf_complain(errors,
				       "pipes: inject needs a module: pipes_module=/PATH/dagster_pipes.whl, here or "
				       "in the configuration (pip download --no-deps dagster-pipes brings one)");
	job->environment.pipes = xstrdup(module);
	return 0;
}

static int fill_argv(const json_t *words, struct job *job, struct strbuf *errors)
{
	struct words argv = { 0 };
	int rc = 0;
	size_t i;
	json_t *w;

	job->form = JOB_EXEC;
	json_array_foreach (words, i, w) {
		if (!json_is_string(w))
			rc = strbuf_complain(errors, "command: every word of a list must be text");
		else if (json_string_length(w) >= ARG_MAX_BYTES)
			rc = strbuf_complain(errors, "command: a word is over 128 KiB, more than an argument can hold");
		if (rc < 0)
			break;
		words_add(&argv, xstrdup(json_string_value(w)));
	}
	job->argv = words_take(&argv);
	if (rc == 0 && (!job->argv[0] || !job->argv[0][0]))
		return strbuf_complain(errors, "command: the first word must name a program");
	return rc;
}

static int fill_script(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	const json_t *v = value(eff, "script");

	job->form = JOB_SCRIPT;
	if (json_string_length(v) != strlen(json_string_value(v)))
		return strbuf_complain(errors, "script: holds a NUL byte");
	job->command = xstrdup(json_string_value(v));
	job->command_len = json_string_length(v);
	return 0;
}

static void fill_args(const struct effective *eff, struct job *job)
{
	const json_t *words = value(eff, "args"), *w;
	struct words args = { 0 };
	size_t i;

	json_array_foreach ((json_t *)words, i, w)
		if (json_is_string(w))
			words_add(&args, xstrdup(json_string_value(w)));
	job->args = words_take(&args);
}

static bool is_session(const struct effective *eff)
{
	const char *launcher = text(eff, "launcher");

	return launcher && strcmp(launcher, "session") == 0;
}

static void fill_session(const struct effective *eff, struct job *job)
{
	const char *idle = text(eff, "idle"), *scope = text(eff, "scope");
	json_int_t steps = count(eff, "max_steps", 0);

	job->session = xstrdup(text(eff, "session"));
	job->lease_scope = scope && strcmp(scope, "lease") == 0;
	if (text(eff, "shared"))
		job->share = strcmp(text(eff, "shared"), "attach") == 0 ? SHARE_ATTACH : SHARE_BEGIN;
	job->idle_s = idle ? spec_time_seconds(idle) : IDLE_DEFAULT;
	if (job->idle_s < 0)
		job->idle_s = 0;
	job->max_steps = steps < 0 ? 0 : steps > INT_MAX ? INT_MAX : (int)steps;
}

/*
 * A run has a Ray or Spark cluster by its launcher. A session has one when its spec or profile says something of it:
 * what a configuration says of all of them must not start one in each session.
 */
static bool has_inner(const struct effective *eff, const struct job *job, const char *kind)
{
	const json_t *on = json_object_get(value(eff, kind), "enabled");
	const char *source = json_string_value(json_object_get(eff->sources, kind));

	if (!is_session(eff))
		return strcmp(job->launcher, kind) == 0;
	if (on)
		return json_is_true(on);
	return source && (strncmp(source, "spec", 4) == 0 || strncmp(source, "profile", 7) == 0);
}

static void fill_inner(const struct effective *eff, struct job *job)
{
	job_ray_fill(value(eff, "ray"), &job->ray);
	job->ray.on = has_inner(eff, job, "ray");
	job_spark_fill(value(eff, "spark"), &job->spark);
	job->spark.on = has_inner(eff, job, "spark");
}

static int fill_form(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	const json_t *command = value(eff, "command");

	if (is_session(eff)) {
		job->form = JOB_COMMAND;
		job->command = xstrdup("session");
		return 0;
	}

	if (json_is_array(command))
		return fill_argv(command, job, errors);
	if (json_is_string(command)) {
		job->form = JOB_COMMAND;
		job->command = xstrdup(json_string_value(command));
		if (json_string_length(command) >= ARG_MAX_BYTES)
			return strbuf_complain(
				errors, "command: over 128 KiB, more than an argument can hold: give it as `script`");
		return 0;
	}
	if (text(eff, "script"))
		return fill_script(eff, job, errors);
	if (!text(eff, "payload"))
		return strbuf_complain(errors, "nothing to run: give one of command, script, payload");
	job->form = JOB_PAYLOAD;
	job->command = xstrdup(text(eff, "payload"));
	return 0;
}

/* Without a name: that of the program, as far as a scheduler can show it. */
static char *default_name(const struct job *job)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	const char *s = job->form == JOB_EXEC ? job->argv[0] : job->command;
	const char *slash;
	size_t len;

	if (job->form == JOB_SCRIPT)
		return xstrdup("script");
	len = job->form == JOB_COMMAND ? strcspn(s, " \t\n") : strlen(s);
	slash = memrchr(s, '/', len);
	if (slash) {
		len -= (size_t)(slash + 1 - s);
		s = slash + 1;
	}
	if (strspn(s, chars) < len)
		len = strspn(s, chars);
	if (!len || *s == '-')
		return xstrdup("job");
	return xstrndup(s, len < 64 ? len : 64);
}

/* A / in a name breaks the launch when %x is in a pattern. */
static void fill_name(const struct effective *eff, struct job *job)
{
	const char *name = text(eff, "name");

	job->name = name && *name ? xstrdup(name) : default_name(job);
	for (char *p = job->name; (p = strchr(p, '/')); p++)
		*p = '_';
}

static void fill_setup(const struct effective *eff, struct job *job)
{
	const char *own = text(eff, "setup"), *cluster = eff->cluster->setup;

	if (own && cluster)
		job->setup = xasprintf("%s\n%s", cluster, own);
	else
		job->setup = xstrdup(own ? own : cluster);
}

/* A script with --output and no --error writes both to one file, as sbatch has it, unless `streams` was asked for. */
static int fill_streams(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	const char *streams = text(eff, "streams");
	const char *source = json_string_value(json_object_get(eff->sources, "streams"));
	bool asked = source && strcmp(source, "built in") != 0;

	job->output = xstrdup(text(eff, "output"));
	job->error = xstrdup(text(eff, "error"));
	job->input = xstrdup(text(eff, "input"));
	job->merged = streams && strcmp(streams, "merged") == 0;
	if (!asked && job->form == JOB_SCRIPT && job->output && !job->error)
		job->merged = true;
	if (job->input && strchr(job->input, '%'))
		return strbuf_complain(errors, "input: patterns with %% are not possible; name the file");
	return 0;
}

/* What goes to sbatch by other ways: fields of struct job, or the driver's own options. */
static bool passed_apart(const char *key)
{
	static const char *const keys[] = { "name",       "output",  "error", "input", "workdir", "requeue",
					    "no_requeue", "comment", "hold",  "chdir", "job_name" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (strcmp(keys[i], key) == 0)
			return true;
	return false;
}

static void join(const json_t *list, struct strbuf *out)
{
	size_t i;
	json_t *v;

	json_array_foreach (list, i, v) {
		if (i)
			strbuf_addch(out, ',');
		strbuf_addstr(out, json_is_string(v) ? json_string_value(v) : "");
	}
}

static void add_option(struct words *options, const char *key, const json_t *v)
{
	cleanup_strbuf struct strbuf opt = STRBUF_INIT;

	strbuf_addf(&opt, "--%s", key);
	for (char *p = opt.buf; (p = strchr(p, '_')); p++)
		*p = '-';
	if (!json_is_true(v))
		strbuf_addch(&opt, '=');
	if (json_is_string(v))
		strbuf_addstr(&opt, json_string_value(v));
	else if (json_is_integer(v))
		strbuf_addf(&opt, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else if (json_is_array(v))
		join(v, &opt);
	words_add(options, strbuf_detach(&opt, NULL));
}

/* In the order of the key table, so that equal specs give equal command lines. */
static void fill_sbatch(const struct effective *eff, struct job *job)
{
	const json_t *args = value(eff, "sbatch_args");
	struct words options = { 0 };
	size_t i;
	json_t *v;

	for (const struct spec_key *k = spec_keys; k->name; k++) {
		const json_t *set = value(eff, k->name);

		if (set && (k->flags & SPEC_SBATCH) && !passed_apart(k->name) && !json_is_false(set))
			add_option(&options, k->name, set);
	}
	json_array_foreach (args, i, v) {
		if (json_is_string(v))
			words_add(&options, xstrdup(json_string_value(v)));
	}
	job->sbatch = words_take(&options);
}

/* Where the last component of a path begins and how long it is; trailing slashes do not count. */
static size_t base_name(const char *path, const char **name)
{
	size_t len = strlen(path);
	const char *slash;

	while (len && path[len - 1] == '/')
		len--;
	slash = memrchr(path, '/', len);
	*name = slash ? slash + 1 : path;
	return len - (size_t)(*name - path);
}

/* Everything lies side by side in the working directory, so two files cannot have one name there. */
static int fill_files(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	const json_t *files = value(eff, "files");
	json_t *names = json_object(), *v;
	struct words list = { 0 };
	int rc = 0;
	size_t i;

	json_array_foreach (files, i, v) {
		const char *path = json_string_value(v), *name, *other;
		size_t len = path ? base_name(path, &name) : 0;
		cleanup_free char *base = len ? xstrndup(name, len) : NULL;

		if (!len || (len <= 2 && strncmp(name, "..", len) == 0)) {
			rc = strbuf_complain(errors,
					     "files: '%s' has no name that it could have in the working directory",
					     path ? path : "");
			continue;
		}
		other = json_string_value(json_object_get(names, base));
		if (!other)
			(void)json_object_set(names, base, v);
		else if (errors->len < ERRORS_ENOUGH)
			(void)strbuf_complain(errors,
					      "files: %s and %s would have the same name in the working directory",
					      other, path);
		rc = other ? -EINVAL : rc;
		words_add(&list, xstrdup(path));
	}
	job->files = words_take(&list);
	json_decref(names);
	return rc;
}

static void fill_after(const struct effective *eff, struct job *job)
{
	static const char *const types[] = { "afterok", "afterany", "afternotok" };
	struct words after = { 0 };

	for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
		const json_t *runs = value(eff, types[t]);
		size_t i;
		json_t *run;

		json_array_foreach (runs, i, run) {
			if (json_is_string(run))
				words_add(&after, xasprintf("%s:%s", types[t], json_string_value(run)));
		}
	}
	job->after = words_take(&after);
}

/* A signal by name, with or without SIG, or by number; 0 for anything else. */
static int signal_number(const char *name, size_t len)
{
	char word[16], *end;
	long n;

	if (!len || len >= sizeof(word))
		return 0;
	memcpy(word, name, len);
	word[len] = '\0';
	n = strtol(word, &end, 10);
	if (!*end)
		return n > 0 && n < NSIG ? (int)n : 0;
	for (int s = 1; s < NSIG; s++) {
		const char *abbrev = sigabbrev_np(s);

		if (abbrev && strcasecmp(abbrev, strncasecmp(word, "SIG", 3) == 0 ? word + 3 : word) == 0)
			return s;
	}
	return 0;
}

/* sbatch(1): --signal=[{R|B}:]SIG_NUM[@SIG_TIME] */
static int fill_signal(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	const char *s = text(eff, "signal"), *at, *colon;
	long lead = SIGNAL_LEAD_DEFAULT;
	char *end;

	if (!s)
		return 0;
	colon = strchr(s, ':');
	if (colon)
		s = colon + 1;
	at = strchr(s, '@');
	if (at) {
		errno = 0;
		lead = strtol(at + 1, &end, 10);
		if (errno || *end || end == at + 1 || lead < 0 || lead > 65535)
			return strbuf_complain(errors, "signal: the time after @ is seconds, at most 65535");
	}
	job->signal_num = signal_number(s, at ? (size_t)(at - s) : strlen(s));
	job->signal_lead_s = (int)lead;
	if (!job->signal_num)
		return strbuf_complain(errors, "signal: no such signal; write USR1@120");
	return 0;
}

static int bounded(json_int_t n)
{
	return n < 1 ? 1 : n > INT_MAX ? INT_MAX : (int)n;
}

static void fill_memory(const struct effective *eff, struct job *job)
{
	const char *mem = text(eff, "mem"), *per_cpu = text(eff, "mem_per_cpu");
	int64_t cpus = (int64_t)job->ntasks * job->cpus_per_task;
	long long bytes = mem ? spec_memory_bytes(mem) : per_cpu ? spec_memory_bytes(per_cpu) : 0;

	if (bytes <= 0)
		return;
	if (!mem && __builtin_mul_overflow((int64_t)bytes, cpus, &job->mem_bytes))
		job->mem_bytes = INT64_MAX;
	else if (mem)
		job->mem_bytes = bytes;
}

/* "4" or "a100:4". */
static int gpu_count(const char *text)
{
	const char *colon = strrchr(text, ':');
	long n = strtol(colon ? colon + 1 : text, NULL, 10);

	return n < 0 ? 0 : n > INT_MAX / 2 ? INT_MAX / 2 : (int)n;
}

static void fill_gpus(const struct effective *eff, struct job *job)
{
	const char *all = text(eff, "gpus"), *per_task = text(eff, "gpus_per_task");

	job->gpus = -1;
	if (all)
		job->gpus = gpu_count(all);
	else if (per_task && __builtin_mul_overflow(gpu_count(per_task), job->ntasks, &job->gpus))
		job->gpus = INT_MAX;
}

static void fill_resources(const struct effective *eff, struct job *job)
{
	const char *time = text(eff, "time");
	json_int_t grace = count(eff, "grace", GRACE_DEFAULT);

	job->time_s = time ? spec_time_seconds(time) : -1;
	if (job->time_s <= 0) /* sbatch(1), --time: zero requests that no limit be imposed */
		job->time_s = -1;
	job->ntasks = bounded(count(eff, "ntasks", count(eff, "ntasks_per_node", 1)));
	job->cpus_per_task = bounded(count(eff, "cpus_per_task", 1));
	fill_gpus(eff, job);
	job->grace_s = grace < 0 ? 0 : grace > INT_MAX ? INT_MAX : (int)grace;
	job->grace_said = value(eff, "grace") != NULL;
	job->hold = flag(eff, "hold");
	job->requeue = flag(eff, "requeue") && !flag(eff, "no_requeue");
	fill_memory(eff, job);
}

static int fill_launcher(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	const char *name = text(eff, "launcher");

	job->launcher = xstrdup(name ? name : "bash");
	if (launcher_find(job->launcher))
		return 0;
	strbuf_complain(errors, "launcher: there is no '%s'; there is:", job->launcher);
	for (size_t i = 0; launchers[i]; i++)
		strbuf_addf(errors, "%s %s", i ? "," : "", launchers[i]->name);
	return -EINVAL;
}

int job_from_effective(const struct effective *eff, struct job *job, struct strbuf *errors)
{
	int rc;

	memset(job, 0, sizeof(*job));
	rc = fill_form(eff, job, errors);
	fill_pipes(eff, job);
	rc |= fill_env(eff, job, errors);
	rc |= fill_secrets(eff, job, errors);
	rc |= fill_streams(eff, job, errors);
	rc |= fill_signal(eff, job, errors);
	rc |= fill_files(eff, job, errors);
	rc |= job_inputs_fill(value(eff, "inputs"), job->files, &job->inputs, &job->n_inputs, errors);
	rc |= job_environment_fill(value(eff, "environment"), &job->environment, errors);
	rc |= fill_inject(eff, job, errors);
	rc |= fill_launcher(eff, job, errors);
	if (rc) {
		job_release(job);
		return -EINVAL;
	}
	if (job->form == JOB_SCRIPT || job->form == JOB_PAYLOAD)
		fill_args(eff, job);
	fill_name(eff, job);
	fill_setup(eff, job);
	fill_sbatch(eff, job);
	fill_after(eff, job);
	fill_resources(eff, job);
	fill_session(eff, job);
	fill_inner(eff, job);
	job->workdir = xstrdup(text(eff, "workdir"));
	job->directory = xstrdup(eff->cluster->directory);
	job->scratch = xstrdup(eff->cluster->scratch);
	return 0;
}

bool job_shared_parse(const char *text, char **uuid, uint32_t *num, uint32_t *attempt)
{
	const char *from = text;
	size_t len = strspn(text, "0123456789abcdef-");
	unsigned long n, a;
	char *end;

	if (!len || text[len] != '/')
		return false;
	n = strtoul(text + len + 1, &end, 10);
	if (end == text + len + 1 || strncmp(end, "/a", 2) != 0 || !n || n > UINT32_MAX)
		return false;
	text = end + 2;
	a = strtoul(text, &end, 10);
	if (end == text || *end || !a || a > UINT32_MAX)
		return false;
	*uuid = xstrndup(from, len);
	*num = (uint32_t)n;
	*attempt = (uint32_t)a;
	return true;
}

void job_step_line(const struct job *job, struct strbuf *out)
{
	strbuf_addf(out, "%lld %d %lld ", (long long)job->ntasks * job->cpus_per_task, job->merged,
		    (long long)((job->mem_bytes + (1 << 20) - 1) >> 20));
	if (job->gpus >= 0)
		strbuf_addf(out, "%d ", job->gpus);
	else
		strbuf_addstr(out, "- ");
	strbuf_addf(out, "%d", job->ntasks);
}

void job_release(struct job *job)
{
	for (size_t i = 0; i < job->n_env; i++) {
		free(job->env[i].name);
		free(job->env[i].value);
	}
	free(job->env);
	for (size_t i = 0; i < job->n_secret; i++) {
		free(job->secret[i].name);
		free(job->secret[i].value);
	}
	free(job->secret);
	job_environment_release(&job->environment);
	job_ray_release(&job->ray);
	job_spark_release(&job->spark);
	list_free(job->argv);
	list_free(job->args);
	list_free(job->sbatch);
	list_free(job->after);
	list_free(job->files);
	job_inputs_release(job->inputs, job->n_inputs);
	free(job->command);
	free(job->name);
	free(job->launcher);
	free(job->workdir);
	free(job->setup);
	free(job->output);
	free(job->error);
	free(job->input);
	free(job->directory);
	free(job->scratch);
	free(job->session);
	free(job->holder.job_id);
	free(job->holder.uuid);
	free(job->shared_as);
	free(job->pipes_data);
	free(job->pipes_extras);
	free(job->pipes_params);
	memset(job, 0, sizeof(*job));
}
