/*
 * Merges a spec with the configuration and checks what only the whole can tell. Layers from the highest rank: spec,
 * profile, cluster, [defaults], built in. Nothing here changes the configuration; values in the result are copies.
 *
 * Rules: maps merge, lists and everything else replace, null unsets. Keys that say the same thing in different ways
 * (what runs; memory) replace each other across layers, so that a default never contradicts a spec.
 */
#include "backend/config.h"

#include "backend/base/mem.h"
#include "backend/ray_api.h"
#include "backend/spec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *text(const json_t *values, const char *key)
{
	return json_string_value(json_object_get(values, key));
}

/* Keys that belong to what runs: those of a layer below are another program's. */
static bool is_program(const char *key)
{
	return strcmp(key, "command") == 0 || strcmp(key, "script") == 0 || strcmp(key, "payload") == 0;
}

/* The rows of which a spec has at most one key. */
static const char *const rivals[][4] = {
	{ "command", "script", "payload" },
	{ "mem", "mem_per_cpu", "mem_per_gpu" },
	{ "requeue", "no_requeue" },
};

static void unset(struct effective *eff, const char *key)
{
	json_object_del(eff->values, key);
	json_object_del(eff->sources, key);
}

static void unset_rivals(struct effective *eff, const char *key)
{
	if (is_program(key))
		unset(eff, "args");
	for (size_t r = 0; r < ARRAY_SIZE(rivals); r++) {
		bool member = false;

		for (size_t i = 0; i < ARRAY_SIZE(rivals[r]) && rivals[r][i]; i++)
			member |= strcmp(rivals[r][i], key) == 0;
		for (size_t i = 0; member && i < ARRAY_SIZE(rivals[r]) && rivals[r][i]; i++)
			if (strcmp(rivals[r][i], key) != 0)
				unset(eff, rivals[r][i]);
	}
}

/* The source of a map that several layers fill names all of them, the highest first. */
static void merge_map(struct effective *eff, const char *key, const json_t *map, const char *source)
{
	json_t *into = json_object_get(eff->values, key), *v;
	const char *below = text(eff->sources, key), *name;
	bool joins = json_is_object(into) && json_object_size(into);

	if (!joins) {
		into = json_object();
		json_object_set_new(eff->values, key, into);
	}
	json_object_foreach ((json_t *)map, name, v) {
		if (json_is_null(v))
			json_object_del(into, name);
		else
			json_object_set_new(into, name, json_deep_copy(v));
	}
	if (!json_object_size(into))
		unset(eff, key);
	else
		json_object_set_new(eff->sources, key,
				    joins && below ? json_sprintf("%s, %s", source, below) : json_string(source));
}

static void merge_layer(struct effective *eff, const json_t *layer, const char *source)
{
	const char *key;
	json_t *v;

	json_object_foreach ((json_t *)layer, key, v)
		if (!json_is_null(v))
			unset_rivals(eff, key); /* of the layers below; rivals of this one are put back */
	json_object_foreach ((json_t *)layer, key, v) {
		if (json_is_null(v)) {
			unset(eff, key);
		} else if (json_is_object(v) && strcmp(key, "environment") != 0) { /* half of two would be neither */
			merge_map(eff, key, v, source);
		} else {
			json_object_set_new(eff->values, key, json_deep_copy(v));
			json_object_set_new(eff->sources, key, json_string(source));
		}
	}
}

static json_t *built_in(const struct cluster_conf *k)
{
	json_t *v = json_pack("{s:s, s:s, s:b}", "streams", "split", "launcher", "bash", "requeue", 0);

	if (k->type == CLUSTER_LOCAL)
		json_object_set_new(v, "grace", json_integer(10));
	return v;
}

static void list_clusters(const struct config *c, struct strbuf *out)
{
	for (size_t i = 0; i < c->n_clusters; i++)
		strbuf_addf(out, "%s %s", i ? "," : "", c->clusters[i]->name);
}

/* Which cluster, and who said so. */
struct choice {
	const char *profile, *cluster, *source;
	const json_t *profile_values;
};

static int choose_profile(const struct config *c, const json_t *spec, struct choice *ch, struct strbuf *errors)
{
	const char *key;
	json_t *v;

	ch->profile = text(spec, "profile");
	if (!ch->profile && !json_is_null(json_object_get(spec, "profile")))
		ch->profile = text(c->defaults, "profile");
	if (!ch->profile)
		return 0;
	ch->profile_values = json_object_get(c->profiles, ch->profile);
	if (ch->profile_values)
		return 0;
	strbuf_complain(errors, "profile: there is no [profile %s] in the configuration", ch->profile);
	if (json_object_size(c->profiles))
		strbuf_addstr(errors, "; there is:");
	json_object_foreach (c->profiles, key, v)
		strbuf_addf(errors, " %s", key);
	return -EINVAL;
}

static int choose_cluster(const struct config *c, const json_t *spec, const char *hint, struct choice *ch,
			  struct strbuf *errors)
{
	const char *mode = text(spec, "mode");

	ch->cluster = text(spec, "cluster");
	ch->source = "spec";
	if (hint && ch->cluster && strcmp(hint, ch->cluster) != 0)
		return strbuf_complain(errors, "cluster: the spec says %s, and was written to clusters/%s/runs/new",
				       ch->cluster, hint);
	if (!ch->cluster && hint) {
		ch->cluster = hint;
		ch->source = "clusters/NAME/runs/new";
	}
	if (!ch->cluster && ch->profile_values) {
		ch->cluster = text(ch->profile_values, "cluster");
		ch->source = "profile";
	}
	if (!ch->cluster && mode && strcmp(mode, "local") == 0)
		ch->cluster = "local";
	if (!ch->cluster) {
		ch->cluster = c->default_cluster;
		ch->source = text(c->defaults, "cluster") ? "defaults" : "built in";
	}
	if (ch->cluster)
		return 0;
	strbuf_complain(errors, "cluster: several are configured and none is the default; say cluster=NAME, one of:");
	list_clusters(c, errors);
	return -EINVAL;
}

static int choose(const struct config *c, const json_t *spec, const char *hint, struct choice *ch,
		  const struct cluster_conf **out, struct strbuf *errors)
{
	int rc = choose_profile(c, spec, ch, errors);

	if (choose_cluster(c, spec, hint, ch, errors))
		return -EINVAL;
	*out = config_cluster(c, ch->cluster);
	if (*out)
		return rc;
	strbuf_complain(errors, "cluster: there is no '%s'; there is:", ch->cluster);
	list_clusters(c, errors);
	return -EINVAL;
}

static void merge_all(const struct config *c, const json_t *spec, const struct choice *ch, struct effective *eff)
{
	cleanup_free char *of_cluster = xasprintf("cluster %s", eff->cluster->name);
	cleanup_free char *of_profile = xasprintf("profile %s", ch->profile ? ch->profile : "");
	json_t *base = built_in(eff->cluster);

	merge_layer(eff, base, "built in");
	json_decref(base);
	merge_layer(eff, c->defaults, "defaults");
	merge_layer(eff, eff->cluster->defaults, of_cluster);
	if (ch->profile_values)
		merge_layer(eff, ch->profile_values, of_profile);
	merge_layer(eff, spec, "spec");
	json_object_set_new(eff->values, "cluster", json_string(eff->cluster->name));
	json_object_set_new(eff->sources, "cluster",
			    json_string(strcmp(ch->source, "profile") == 0 ? of_profile : ch->source));
}

/*
 * What one machine makes of the options of sbatch that are no placement: these are done, those it cannot do are
 * refused because the run would not be what was asked for, and the rest changes nothing that could be noticed.
 */
static const char *const local_done[] = {
	"nodes", "ntasks",        "ntasks_per_node", "cpus_per_task",   "mem",   "mem_per_cpu", "time",
	"hold",  "requeue",       "no_requeue",      "signal",          "input", "output",      "error",
	"gpus",  "gpus_per_node", "gpus_per_task",   "gpus_per_socket", "gres",  "dependency"
};
static const char *const local_refused[] = { "begin", "container", "container_id" };

static bool among(const char *key, const char *const *keys, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(keys[i], key) == 0)
			return true;
	return false;
}

static int ignore_placement(struct effective *eff, struct strbuf *errors)
{
	int rc = 0;

	for (const struct spec_key *k = spec_keys; k->name; k++) {
		const char *why = NULL;

		if (!json_object_get(eff->values, k->name))
			continue;
		if (k->flags & SPEC_PLACEMENT)
			why = "placement: there is one machine only";
		else if (among(k->name, local_refused, ARRAY_SIZE(local_refused)))
			rc = strbuf_complain(errors, "%s: cluster %s is this machine, which cannot do that", k->name,
					     eff->cluster->name);
		else if ((k->flags & SPEC_SBATCH) && !among(k->name, local_done, ARRAY_SIZE(local_done)))
			why = "an option of sbatch without effect on one machine";
		if (why)
			json_object_set_new(eff->ignored, k->name, json_string(why));
	}
	if (json_is_true(json_object_get(eff->values, "requeue")))
		json_object_set_new(eff->ignored, "requeue", json_string("nobody starts a job of this machine again"));
	return rc;
}

/* Is more than nothing asked for in "2", "a100:2", "gpu:a100:1,shm:0" or "none" (sbatch(1) --gres)? */
static bool wants_any(const char *s)
{
	while (*s) {
		size_t len = strcspn(s, ",");
		const char *colon = memrchr(s, ':', len);
		const char *n = colon ? colon + 1 : s;
		size_t digits = strspn(n, "0123456789");

		if (strncmp(s, "none", len) != 0 && (!digits || strspn(n, "0") < digits))
			return true;
		s += len + (s[len] == ',');
	}
	return false;
}

static int check_gpus(const struct effective *eff, struct strbuf *errors)
{
	static const char *const keys[] = { "gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket", "gres" };
	int rc = 0;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const json_t *v = json_object_get(eff->values, keys[i]);

		if ((json_is_integer(v) && json_integer_value(v) > 0) ||
		    (json_is_string(v) && wants_any(json_string_value(v))))
			rc = strbuf_complain(
				errors, "%s: cluster %s is this machine, which gives no GPUs or other gres to jobs",
				keys[i], eff->cluster->name);
	}
	return rc;
}

/* "1", "1-4" and "1,3" can be had. */
static bool one_node(const json_t *nodes)
{
	const char *s = json_string_value(nodes);

	if (json_is_integer(nodes))
		return json_integer_value(nodes) == 1;
	return !s || (s[0] == '1' && !strchr("0123456789kKmM", s[1])) || strcmp(s, "1") == 0;
}

static json_int_t count(const json_t *values, const char *key, json_int_t otherwise)
{
	const json_t *v = json_object_get(values, key);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

/* At least 1 and at most a number whose square is no overflow. */
static int64_t bounded(json_int_t n)
{
	return n < 1 ? 1 : n > INT32_MAX ? INT32_MAX : (int64_t)n;
}

static int check_machine(const struct config *c, const struct effective *eff, struct strbuf *errors)
{
	const char *mem = text(eff->values, "mem"), *per_cpu = text(eff->values, "mem_per_cpu");
	int64_t tasks = bounded(count(eff->values, "ntasks", count(eff->values, "ntasks_per_node", 1)));
	int64_t cpus = tasks * bounded(count(eff->values, "cpus_per_task", 1));
	long long bytes = mem ? spec_memory_bytes(mem) : per_cpu ? spec_memory_bytes(per_cpu) : 0;
	int rc = 0;

	if (!one_node(json_object_get(eff->values, "nodes")))
		rc = strbuf_complain(errors, "nodes: cluster %s is this machine, which is one node",
				     eff->cluster->name);
	if (cpus > c->machine.cores)
		rc = strbuf_complain(errors,
				     "ntasks, cpus_per_task: %" PRId64 " processors are asked for, this machine has %d",
				     cpus, c->machine.cores);
	if (bytes > 0 && bytes > c->machine.mem_bytes / (mem ? 1 : cpus))
		rc = strbuf_complain(errors, "%s: more than the %" PRId64 " MiB that this machine has",
				     mem ? "mem" : "mem_per_cpu", c->machine.mem_bytes >> 20);
	return rc;
}

static int check_local(const struct config *c, struct effective *eff, struct strbuf *errors)
{
	const char *dep = text(eff->values, "dependency");
	int rc = ignore_placement(eff, errors);

	if (dep)
		rc |= strbuf_complain(errors, "dependency=%s: cluster %s is this machine, which cannot do that", dep,
				      eff->cluster->name);
	rc |= check_gpus(eff, errors);
	rc |= check_machine(c, eff, errors);
	return rc ? -EINVAL : 0;
}

/*
 * A Ray cluster that is there: who runs it decided what its nodes are. What a driver takes for itself is said in
 * ray.entrypoint_*.
 */
static int check_ray(struct effective *eff, struct strbuf *errors)
{
	static const char *const refused[] = { "begin", "container", "container_id", "output",
					       "error", "input",     "hold",         "dependency" };
	const json_t *environment = json_object_get(eff->values, "environment");
	struct ray_spec spec;
	const char *name;
	json_t *secret;
	int rc = ray_spec_read(json_object_get(eff->values, "ray"), &spec, errors);

	for (const struct spec_key *k = spec_keys; k->name; k++) {
		if (!json_object_get(eff->values, k->name))
			continue;
		if (among(k->name, refused, ARRAY_SIZE(refused)))
			rc |= strbuf_complain(errors, "%s: cluster %s is of type ray, which cannot do that", k->name,
					      eff->cluster->name);
		else if (k->flags & (SPEC_PLACEMENT | SPEC_SBATCH))
			json_object_set_new(eff->ignored, k->name,
					    json_string("an option of sbatch: a Ray cluster has ray.entrypoint_*"));
	}
	json_object_foreach (json_object_get(eff->values, "secret_env"), name, secret)
		if (strncmp(json_string_value(secret) ? json_string_value(secret) : "", "cluster:", 8) != 0)
			rc |= strbuf_complain(
				errors,
				"secret_env.%s: what is sent to a Ray cluster can be read by whoever may use it; "
				"there, only cluster:PATH (a file on its nodes) is possible",
				name);
	if (json_is_string(json_object_get(environment, "archive")))
		rc |= strbuf_complain(errors, "environment.archive: cluster %s is of type ray: use ray.runtime_env",
				      eff->cluster->name);
	if (strcmp(text(eff->values, "launcher"), "bash") != 0)
		rc |= strbuf_complain(errors, "launcher=%s: cluster %s is of type ray, where Ray is there already",
				      text(eff->values, "launcher"), eff->cluster->name);
	return rc ? -EINVAL : 0;
}

/* What is asked of a scheduler was asked when the session began; only how much of the session is wanted counts. */
static int ignore_session_keys(struct effective *eff, struct strbuf *errors)
{
	static const char *const own[] = { "ntasks", "cpus_per_task", "mem",       "mem_per_cpu",
					   "gpus",   "gpus_per_task", "dependency" };
	int rc = 0;

	for (const struct spec_key *k = spec_keys; k->name; k++) {
		const char *source = text(eff->sources, k->name);

		if (!(k->flags & (SPEC_SBATCH | SPEC_PLACEMENT)) || !json_object_get(eff->values, k->name) ||
		    among(k->name, own, ARRAY_SIZE(own)))
			continue;
		if (source && strcmp(source, "spec") == 0)
			rc = strbuf_complain(
				errors, "%s: a run in a session cannot have its own: give it to the session", k->name);
		else
			json_object_set_new(eff->ignored, k->name, json_string(CONFIG_SESSIONS_OWN));
	}
	return rc;
}

/* Its name is that of a file on the cluster. */
static int check_shared(const struct effective *eff, struct strbuf *errors)
{
	const char *name = text(eff->values, "name");
	struct err e = ERR_INIT;

	if (eff->cluster->type == CLUSTER_LOCAL)
		return strbuf_complain(errors, "shared: a session of this machine is its mount's: use that mount");
	if (!name)
		return strbuf_complain(errors, "shared: a session is shared by its name: give it one");
	return spec_name_ok(name, &e) ? 0 : strbuf_complain(errors, "shared: its name: %s", e.text);
}

static int check_session(struct effective *eff, struct strbuf *errors)
{
	const char *launcher = text(eff->values, "launcher"), *session = text(eff->values, "session");
	bool holder = launcher && strcmp(launcher, "session") == 0;

	if (!holder && (json_object_get(eff->values, "idle") || json_object_get(eff->values, "max_steps") ||
			json_object_get(eff->values, "scope") || json_object_get(eff->values, "shared")))
		return strbuf_complain(errors,
				       "idle, max_steps, scope, shared: they belong to a session (launcher=session)");
	if (!holder && !session)
		return 0;
	if (holder && session)
		return strbuf_complain(errors, "session: a session cannot start in another");
	if (holder && json_object_get(eff->values, "shared") && check_shared(eff, errors) < 0)
		return -EINVAL;
	if (session && eff->cluster->type == CLUSTER_LOCAL && count(eff->values, "ntasks", 1) > 1)
		return strbuf_complain(errors,
				       "ntasks: cluster %s is this machine, which has no srun: a run in a session is "
				       "one task there, and cpus_per_task says how many processors it needs",
				       eff->cluster->name);
	if (eff->cluster->type == CLUSTER_RAY)
		return strbuf_complain(errors, "cluster %s is of type ray, where runs need no session",
				       eff->cluster->name);
	return session ? ignore_session_keys(eff, errors) : 0;
}

static int check_mode(const struct effective *eff, struct strbuf *errors)
{
	const char *mode = text(eff->values, "mode");
	bool local = eff->cluster->type == CLUSTER_LOCAL;

	if (mode && strcmp(mode, "slurm-session") == 0 && !text(eff->values, "session"))
		return strbuf_complain(errors, "mode=slurm-session: say in which, session=NAME");
	if (eff->cluster->type == CLUSTER_RAY) {
		if (!mode || strcmp(mode, "ray") == 0)
			return 0;
		return strbuf_complain(errors, "mode=%s: cluster %s is of type ray", mode, eff->cluster->name);
	}
	if (mode && strcmp(mode, "ray") == 0) {
		json_object_set_new(eff->values, "launcher", json_string("ray"));
		return 0;
	}
	if (mode && strcmp(mode, local ? "local" : "slurm") != 0 && (local || strcmp(mode, "slurm-session") != 0))
		return strbuf_complain(errors, "mode=%s: cluster %s is of type %s", mode, eff->cluster->name,
				       local ? "local" : "slurm");
	return 0;
}

int config_resolve(const struct config *c, const json_t *spec, const char *cluster_hint, struct effective *out,
		   struct strbuf *errors)
{
	struct choice ch = { 0 };
	int rc = 0;

	memset(out, 0, sizeof(*out));
	if (choose(c, spec, cluster_hint, &ch, &out->cluster, errors)) {
		out->cluster = NULL;
		return -EINVAL;
	}
	out->values = json_object();
	out->sources = json_object();
	out->ignored = json_object();
	merge_all(c, spec, &ch, out);
	rc |= check_mode(out, errors);
	if (out->cluster->type == CLUSTER_LOCAL)
		rc |= check_local(c, out, errors);
	if (out->cluster->type == CLUSTER_RAY)
		rc |= check_ray(out, errors);
	rc |= check_session(out, errors);
	if (strcmp(text(out->values, "launcher"), "session") != 0 && !json_object_get(out->values, "command") &&
	    !json_object_get(out->values, "script") && !json_object_get(out->values, "payload"))
		rc |= strbuf_complain(errors, "nothing to run: give one of command, script, payload");
	if (rc)
		effective_release(out);
	return rc ? -EINVAL : 0;
}

void effective_release(struct effective *eff)
{
	json_decref(eff->values);
	json_decref(eff->sources);
	json_decref(eff->ignored);
	memset(eff, 0, sizeof(*eff));
}

static void add_json(struct strbuf *out, json_t *v)
{
	cleanup_free char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_SORT_KEYS);

	strbuf_addstr(out, s ? s : "null");
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void add_entry(const struct effective *eff, const char *key, struct strbuf *out)
{
	json_t *name = json_string(key), *ignored = json_object_get(eff->ignored, key);

	add_json(out, name);
	strbuf_addstr(out, ": {\"value\": ");
	add_json(out, json_object_get(eff->values, key));
	strbuf_addstr(out, ignored ? ", \"ignored\": " : ", \"source\": ");
	add_json(out, ignored ? ignored : json_object_get(eff->sources, key));
	strbuf_addch(out, '}');
	json_decref(name);
}

void effective_text(const struct effective *eff, struct strbuf *out)
{
	size_t n = 0, max = json_object_size(eff->values);
	cleanup_free const char **keys = xcalloc(max, sizeof(*keys));
	const char *key;
	json_t *v;

	json_object_foreach (eff->values, key, v)
		keys[n++] = key;
	qsort(keys, n, sizeof(*keys), by_name);
	strbuf_addstr(out, "{\n");
	for (size_t i = 0; i < n; i++) {
		add_entry(eff, keys[i], out);
		strbuf_addstr(out, i + 1 < n ? ",\n" : "\n");
	}
	strbuf_addstr(out, "}\n");
}
