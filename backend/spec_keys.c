/*
 * The table of keys: every long option of sbatch (22.05, and those of later releases, which an older sbatch
 * refuses in its own words), and slurmray's own. One row says all that is known about a key without looking at
 * a value; spec_values.c checks values.
 *
 * Where sbatch has a name for something that slurmray calls otherwise, the row has slurmray's name and the
 * alias list sbatch's. `profile` is slurmray's; sbatch's --profile goes into sbatch_args.
 * Names with underscores only; looking one up takes dashes for underscores.
 */
#include "backend/spec_impl.h"

#include "backend/base/mem.h"
#include "backend/base/near.h"

#include <errno.h>
#include <string.h>

#define PLACE (SPEC_SBATCH | SPEC_PLACEMENT)
#define NOT_YET "is not possible yet"
#define SLIP_MIN_LEN 5 /* shorter names are one slip from too many others */

const struct spec_key spec_keys[] = {
	/* what runs */
	{ "command", SPEC_ANY, 0, 0, "what runs: text for a shell, or a list of words that are executed as they are" },
	{ "script", SPEC_STRING, 0, 0, "the text of a batch script, from #! to its last line" },
	{ "payload", SPEC_STRING, 0, 0, "absolute path of a local file that is shipped and executed" },
	{ "args", SPEC_ANY, 0, 0,
	  "arguments of the script or payload: a list of words; text is split as a shell does" },
	{ "launcher", SPEC_STRING, 0, 0,
	  "how it is started: bash; ray, spark: with a cluster of that kind; session: it is an allocation that other runs start in" },
	{ "mode", SPEC_STRING, 0, 0, "slurm or local; ray: launcher=ray" },
	{ "cluster", SPEC_STRING, 0, 0, "name of a cluster in the configuration, or local" },
	{ "profile", SPEC_STRING, 0, 0, "name of a [profile] in the configuration" },
	{ "name", SPEC_STRING, 0, 'J', "name of the job (sbatch's job_name)" },
	{ "tags", SPEC_LIST, 0, 0, "names to find the run by, under by/tag" },
	{ "key", SPEC_STRING, 0, 0, "idempotency: the same key never starts a second run" },
	{ "env", SPEC_MAP, 0, 0, "variables of the job: env.NAME=VALUE" },
	{ "secret_env", SPEC_MAP, 0, 0,
	  "variables that nobody sees: secret_env.NAME=file:/LOCAL/FILE or cluster:PATH; in JSON also the value" },
	{ "workdir", SPEC_STRING, 0, 'D',
	  "directory of the cluster to start in (sbatch's chdir), /... or ~/...; without it, the run's own `work/`" },
	{ "files", SPEC_LIST, 0, 0, "absolute paths of local files that are shipped into the working directory" },
	{ "inputs", SPEC_MAP, 0, 0,
	  "what the job finds below $SLURMRAY_INPUTS: inputs.NAME=/LOCAL/FILE or inputs.NAME=runs/ID/results/PATH" },
	{ "setup", SPEC_STRING, 0, 0, "shell lines before the command" },
	{ "environment", SPEC_ANY, 0, 0,
	  "what the command runs in: a directory, venv, conda, modules, archive, container" },
	{ "streams", SPEC_STRING, 0, 0, "split (stdout and stderr apart) or merged" },
	{ "grace", SPEC_COUNT, 0, 0,
	  "seconds between TERM and KILL when the run is cancelled (Slurm without it: KillWait)" },
	{ "pipes", SPEC_ANY, 0, 0,
	  "true: the job finds a Dagster Pipes session; inject, or a path: and the library; false: its variables are left "
	  "alone" },
	{ "pipes_module", SPEC_STRING, 0, 0, "dagster_pipes for pipes=inject: an absolute local path, .whl or .py" },
	{ "extras", SPEC_ANY, 0, 0, "JSON object that is added to the extras of the Pipes context" },
	{ "pipes_exception", SPEC_STRING, 0, 0,
	  "fail (the run fails when its Pipes session ends with an exception) or ignore" },
	{ "sbatch_args", SPEC_ANY, SPEC_PLACEMENT, 0, "list of further options for sbatch, each --OPTION=VALUE" },
	{ "session", SPEC_STRING, SPEC_RUN_IDS, 0, "the session that the run starts in, without queueing: its name" },
	{ "idle", SPEC_TIME, 0, 0,
	  "of a session: it ends after so long without a run: 10 (minutes), 0:30:00; 0: never" },
	{ "ray", SPEC_MAP, 0, 0,
	  "Ray in the allocation of a run (launcher=ray) or session: ray=true, or ray.num_cpus_per_node and so on (ray.md)" },
	{ "spark", SPEC_MAP, 0, 0,
	  "Spark in the allocation of a run (launcher=spark) or session: spark.executor_memory and so on (spark.md)" },
	{ "max_steps", SPEC_COUNT, 0, 0, "of a session: most runs at once (without it, as many as its processors)" },
	{ "scope", SPEC_STRING, 0, 0, "of a session: session, or lease: it ends when the last lease is gone" },
	{ "shared", SPEC_STRING, 0, 0,
	  "of a session: begin (all mounts of the user share it by its name; the first one begins it) or attach" },
	{ "on_session_end", SPEC_STRING, 0, 0,
	  "what becomes of a run whose session ends before it starts: cancel, wait (for the next of that name) or job" },
	{ "reuse_tolerance", SPEC_STRING, 0, 0,
	  "with session=any: by how much a session may be larger than what is asked for: 0.15" },
	{ "afterok", SPEC_LIST, SPEC_RUN_IDS, 0, "runs that must have succeeded before this one starts" },
	{ "afterany", SPEC_LIST, SPEC_RUN_IDS, 0, "runs that must have ended before this one starts" },
	{ "afternotok", SPEC_LIST, SPEC_RUN_IDS, 0, "runs that must have failed before this one starts" },

	/* what runs, in later releases */
	{ "after", SPEC_LIST, SPEC_LATER | SPEC_RUN_IDS, 0,
	  "waiting for the start of a run " NOT_YET "; use afterany" },
	{ "aftercorr", SPEC_LIST, SPEC_LATER | SPEC_RUN_IDS, 0, "arrays are not possible yet; use afterok" },
	{ "afterburstbuffer", SPEC_LIST, SPEC_LATER | SPEC_RUN_IDS, 0,
	  "waiting for a burst buffer " NOT_YET "; use afterany" },
	{ "retries", SPEC_COUNT, SPEC_LATER, 0,
	  "automatic retries are not possible yet; write the spec again after a failure" },
	{ "on_preempt", SPEC_STRING, SPEC_LATER, 0,
	  "automatic retries are not possible yet; requeue=true lets Slurm do it" },
	{ "on_timeout", SPEC_STRING, SPEC_LATER, 0, "automatic retries are not possible yet; ask for more `time`" },
	{ "on_node_fail", SPEC_STRING, SPEC_LATER, 0,
	  "automatic retries are not possible yet; requeue=true lets Slurm do it" },
	{ "on_out_of_memory", SPEC_STRING, SPEC_LATER, 0,
	  "automatic retries are not possible yet; ask for more `mem`" },
	{ "timeout_queue", SPEC_TIME, SPEC_LATER, 0,
	  "a limit on the wait in the queue " NOT_YET "; `deadline` gives the job one" },
	{ "components", SPEC_MAP, SPEC_LATER, 0, "heterogeneous jobs are not possible yet; write a run for each part" },

	/* sbatch: resources */
	{ "nodes", SPEC_RANGE, SPEC_SBATCH, 'N', "number of nodes: 2 or 2-4" },
	{ "ntasks", SPEC_COUNT, SPEC_SBATCH, 'n', "number of tasks" },
	{ "cpus_per_task", SPEC_COUNT, SPEC_SBATCH, 'c', "processors of each task" },
	{ "ntasks_per_node", SPEC_COUNT, SPEC_SBATCH, 0, "tasks on each node" },
	{ "ntasks_per_core", SPEC_COUNT, SPEC_SBATCH, 0, "most tasks on each core" },
	{ "ntasks_per_socket", SPEC_COUNT, SPEC_SBATCH, 0, "most tasks on each socket" },
	{ "ntasks_per_gpu", SPEC_COUNT, SPEC_SBATCH, 0, "tasks for each GPU" },
	{ "ntasks_per_tres", SPEC_COUNT, SPEC_SBATCH, 0, "tasks for each GPU, older spelling" },
	{ "mem", SPEC_MEMORY, SPEC_SBATCH, 0, "memory of each node: 4G, 500M" },
	{ "mem_per_cpu", SPEC_MEMORY, SPEC_SBATCH, 0, "memory of each processor" },
	{ "mem_per_gpu", SPEC_MEMORY, SPEC_SBATCH, 0, "memory for each GPU" },
	{ "tmp", SPEC_MEMORY, SPEC_SBATCH, 0, "temporary disk of each node" },
	{ "gpus", SPEC_STRING, SPEC_SBATCH, 'G', "GPUs of the job: 4 or a100:4" },
	{ "gpus_per_node", SPEC_STRING, SPEC_SBATCH, 0, "GPUs of each node: 4 or a100:4" },
	{ "gpus_per_task", SPEC_STRING, SPEC_SBATCH, 0, "GPUs of each task: 1 or a100:1" },
	{ "gpus_per_socket", SPEC_STRING, SPEC_SBATCH, 0, "GPUs of each socket: 1 or a100:1" },
	{ "cpus_per_gpu", SPEC_COUNT, SPEC_SBATCH, 0, "processors for each GPU" },
	{ "gres", SPEC_STRING, SPEC_SBATCH, 0, "generic resources of each node: gpu:2" },
	{ "tres_per_task", SPEC_STRING, SPEC_SBATCH, 0, "trackable resources of each task (Slurm 23.11)" },
	{ "mincpus", SPEC_COUNT, SPEC_SBATCH, 0, "fewest processors of each node" },
	{ "sockets_per_node", SPEC_COUNT, PLACE, 0, "nodes with at least so many sockets" },
	{ "cores_per_socket", SPEC_COUNT, PLACE, 0, "nodes with at least so many cores in a socket" },
	{ "threads_per_core", SPEC_COUNT, PLACE, 0, "nodes with at least so many threads in a core" },
	{ "extra_node_info", SPEC_STRING, PLACE, 'B', "sockets:cores:threads of the nodes" },

	/* sbatch: time and order */
	{ "time", SPEC_TIME, SPEC_SBATCH, 't', "limit of the run: 30 (minutes), 1:00:00, 2-12" },
	{ "time_min", SPEC_TIME, PLACE, 0, "shortest limit that is still useful" },
	{ "begin", SPEC_STRING, SPEC_SBATCH, 'b', "earliest start: now+1hour, 16:00" },
	{ "deadline", SPEC_STRING, PLACE, 0, "remove the job when it cannot end before" },
	{ "delay_boot", SPEC_TIME, PLACE, 0, "how long to wait for nodes that need no reboot" },
	{ "dependency", SPEC_ANY, SPEC_SBATCH | SPEC_RUN_IDS, 'd',
	  "runs to wait for: afterok:41:42,afterany:7, or singleton" },
	{ "hold", SPEC_FLAG, SPEC_SBATCH, 'H', "submit the job held" },
	{ "kill_on_invalid_dep", SPEC_STRING, SPEC_SBATCH, 0,
	  "yes or no: end the job when its dependency can never be met" },
	{ "nice", SPEC_OPTIONAL, PLACE, 0, "lower the priority" },
	{ "priority", SPEC_STRING, PLACE, 0, "the priority itself (operators only)" },
	{ "requeue", SPEC_FLAG, SPEC_SBATCH, 0,
	  "let Slurm start the job again after a node failed or it was preempted" },
	{ "no_requeue", SPEC_FLAG, SPEC_SBATCH, 0, "the default; same as requeue=false" },
	{ "signal", SPEC_STRING, SPEC_SBATCH, 0, "signal before the time limit: USR1@120, B:TERM@60" },
	{ "array", SPEC_STRING, SPEC_SBATCH | SPEC_LATER, 'a',
	  "arrays are not possible yet; write a run for each element" },

	/* sbatch: where */
	{ "account", SPEC_STRING, PLACE, 'A', "account that is charged" },
	{ "partition", SPEC_STRING, PLACE, 'p', "partition, or several with commas" },
	{ "qos", SPEC_STRING, PLACE, 'q', "quality of service" },
	{ "reservation", SPEC_STRING, PLACE, 0, "reservation to use" },
	{ "constraint", SPEC_STRING, PLACE, 'C', "features that the nodes must have" },
	{ "prefer", SPEC_STRING, PLACE, 0, "features that the nodes should have" },
	{ "batch", SPEC_STRING, PLACE, 0, "features that the first node must have" },
	{ "cluster_constraint", SPEC_STRING, PLACE, 0, "features that the cluster must have" },
	{ "nodelist", SPEC_STRING, PLACE, 'w', "nodes that must be among those of the job" },
	{ "nodefile", SPEC_STRING, PLACE, 'F', "remote file with a list of nodes" },
	{ "exclude", SPEC_STRING, PLACE, 'x', "nodes not to use" },
	{ "contiguous", SPEC_FLAG, PLACE, 0, "neighbouring nodes only" },
	{ "exclusive", SPEC_OPTIONAL, PLACE, 0, "share the nodes with nobody (true), or: user, mcs" },
	{ "oversubscribe", SPEC_FLAG, PLACE, 's', "share the nodes" },
	{ "overcommit", SPEC_FLAG, PLACE, 'O', "more than one task for a processor" },
	{ "spread_job", SPEC_FLAG, PLACE, 0, "spread the job over many nodes" },
	{ "use_min_nodes", SPEC_FLAG, PLACE, 0, "prefer the smaller number of nodes" },
	{ "switches", SPEC_STRING, PLACE, 0, "most switches, and how long to wait for that: 1@10" },
	{ "segment", SPEC_COUNT, PLACE, 0, "nodes of a block (Slurm 24.05)" },
	{ "consolidate_segments", SPEC_FLAG, PLACE, 0, "put the segments close together (Slurm 25.05)" },
	{ "spread_segments", SPEC_FLAG, PLACE, 0, "put the segments into blocks of their own (Slurm 25.05)" },
	{ "licenses", SPEC_STRING, PLACE, 'L', "licenses" },
	{ "mcs_label", SPEC_STRING, PLACE, 0, "label of the mcs/group plugin" },
	{ "wckey", SPEC_STRING, PLACE, 0, "workload characterisation key" },
	{ "network", SPEC_STRING, PLACE, 0, "what the job needs of the network" },
	{ "reboot", SPEC_FLAG, PLACE, 0, "reboot the nodes first" },
	{ "wait_all_nodes", SPEC_COUNT, PLACE, 0, "1: start when all nodes are up" },
	{ "no_kill", SPEC_OPTIONAL, PLACE, 'k', "go on when a node fails" },

	/* sbatch: fine print of resources */
	{ "acctg_freq", SPEC_STRING, PLACE, 0, "how often accounting looks" },
	{ "bb", SPEC_STRING, PLACE, 0, "burst buffer" },
	{ "bbf", SPEC_STRING, PLACE, 0, "remote file with the burst buffer's specification" },
	{ "core_spec", SPEC_COUNT, PLACE, 'S', "cores left to the system" },
	{ "thread_spec", SPEC_COUNT, PLACE, 0, "threads left to the system" },
	{ "cpu_freq", SPEC_STRING, PLACE, 0, "frequency of the processors" },
	{ "distribution", SPEC_STRING, PLACE, 'm', "how tasks are spread over nodes" },
	{ "extra", SPEC_STRING, PLACE, 0, "text for site plugins (Slurm 23.02)" },
	{ "gpu_bind", SPEC_STRING, PLACE, 0, "which GPU for which task" },
	{ "gpu_freq", SPEC_STRING, PLACE, 0, "frequency of the GPUs" },
	{ "gres_flags", SPEC_STRING, PLACE, 0, "how generic resources are chosen" },
	{ "hint", SPEC_STRING, PLACE, 0, "compute_bound, memory_bound, nomultithread, multithread" },
	{ "mem_bind", SPEC_STRING, PLACE, 0, "memory of which socket for which task" },
	{ "power", SPEC_STRING, PLACE, 0, "power management" },
	{ "tres_bind", SPEC_STRING, PLACE, 0, "which resource for which task (Slurm 23.02)" },
	{ "oom_kill_step", SPEC_OPTIONAL, PLACE, 0,
	  "0 or 1: end the whole step when one task is out of memory (Slurm 24.05)" },
	{ "resv_ports", SPEC_OPTIONAL, PLACE, 0, "reserve communication ports" },
	{ "stepmgr", SPEC_FLAG, PLACE, 0, "a step manager for this job (Slurm 24.05)" },
	{ "propagate", SPEC_OPTIONAL, PLACE, 0, "resource limits that the job inherits" },
	{ "get_user_env", SPEC_OPTIONAL, PLACE, 0, "the login environment of the user" },
	{ "ignore_pbs", SPEC_FLAG, PLACE, 0, "take no notice of #PBS and #BSUB lines" },
	{ "container", SPEC_STRING, SPEC_SBATCH, 0, "remote path of an OCI bundle" },
	{ "container_id", SPEC_STRING, SPEC_SBATCH, 0, "name of an OCI container (Slurm 23.02)" },

	/* sbatch: files and mail */
	{ "input", SPEC_STRING, SPEC_SBATCH, 'i', "remote file that is the job's input" },
	{ "output", SPEC_STRING, SPEC_SBATCH, 'o', "remote file for the output of a script" },
	{ "error", SPEC_STRING, SPEC_SBATCH, 'e', "remote file for the errors of a script" },
	{ "open_mode", SPEC_STRING, SPEC_SBATCH, 0, "append or truncate, for output and error" },
	{ "mail_type", SPEC_STRING, PLACE, 0, "when Slurm sends mail: BEGIN, END, FAIL, ALL" },
	{ "mail_user", SPEC_STRING, PLACE, 0, "who gets the mail" },

	/* sbatch knows them, slurmray sets them itself or has no use for them */
	{ "clusters", SPEC_STRING, SPEC_OURS, 'M', "name the cluster with `cluster`" },
	{ "comment", SPEC_STRING, SPEC_OURS, 0, "slurmray keeps its token there; use `tags` or `name`" },
	{ "export", SPEC_STRING, SPEC_OURS, 0,
	  "the job always gets the login environment of the cluster (ALL); put variables into `env`" },
	{ "export_file", SPEC_STRING, SPEC_OURS, 0, "put variables into `env`" },
	{ "gid", SPEC_STRING, SPEC_OURS, 0, "jobs run as the user that the cluster's login belongs to" },
	{ "uid", SPEC_STRING, SPEC_OURS, 0, "jobs run as the user that the cluster's login belongs to" },
	{ "test_only", SPEC_FLAG, SPEC_OURS, 0, "write the spec to runs/check instead" },
	{ "wrap", SPEC_STRING, SPEC_OURS, 0, "give the text as `command`" },
	{ "wait", SPEC_FLAG, SPEC_OURS, 'W', "read the run's file `wait` instead" },
	{ "parsable", SPEC_FLAG, SPEC_OURS, 0, "the id is read back from the descriptor that the spec was written to" },
	{ "quiet", SPEC_FLAG, SPEC_OURS, 'Q', "sbatch's messages are in the run's file `why`" },
	{ "verbose", SPEC_FLAG, SPEC_OURS, 'v', "sbatch's messages are in the run's file `why`" },
	{ "help", SPEC_FLAG, SPEC_OURS, 'h', "read README and runs/template" },
	{ "usage", SPEC_FLAG, SPEC_OURS, 0, "read README and runs/template" },
	{ "version", SPEC_FLAG, SPEC_OURS, 'V', "run slurmray --version" },
	{ NULL, SPEC_ANY, 0, 0, NULL },
};

/* Other names: those of sbatch first, then of older releases of it. */
static const struct {
	const char *alias, *name;
} aliases[] = {
	{ "job_name", "name" },
	{ "chdir", "workdir" },
	{ "share", "oversubscribe" },
};

/* What people write who think of another scheduler, where edit distance would mislead. */
static const struct {
	const char *word, *name;
} habits[] = {
	{ "cpus", "cpus_per_task" }, { "cores", "cpus_per_task" }, { "memory", "mem" },   { "walltime", "time" },
	{ "queue", "partition" },    { "stdout", "output" },       { "stderr", "error" }, { "stdin", "input" },
	{ "cwd", "workdir" },        { "directory", "workdir" },   { "cmd", "command" },  { "environ", "env" },
	{ "label", "tags" },         { "labels", "tags" },         { "host", "cluster" },
};

/* A byte of a key name as it is compared. */
static char key_char(char c)
{
	return c == '-' ? '_' : c;
}

bool spec_key_same(const char *a, const char *b)
{
	while (*a && key_char(*a) == key_char(*b)) {
		a++;
		b++;
	}
	return *a == *b;
}

static const struct spec_key *find_row(const char *name)
{
	for (const struct spec_key *k = spec_keys; k->name; k++)
		if (spec_key_same(k->name, name))
			return k;
	return NULL;
}

const struct spec_key *spec_key_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
		if (spec_key_same(aliases[i].alias, name))
			return find_row(aliases[i].name);
	return find_row(name);
}

static bool has_prefix(const char *name, const char *option)
{
	while (*option && *name && *name == key_char(*option)) {
		name++;
		option++;
	}
	return !*option;
}

const struct spec_key *spec_key_option(const char *name)
{
	const struct spec_key *found = NULL;
	int n = 0;

	/* sbatch knows no underscores; an empty prefix is no option. */
	if (!*name || strchr(name, '_'))
		return NULL;
	for (const struct spec_key *k = spec_keys; k->name; k++) {
		if (!(k->flags & (SPEC_SBATCH | SPEC_OURS)) || !has_prefix(k->name, name))
			continue;
		if (strlen(k->name) == strlen(name))
			return k;
		found = k;
		n++;
	}
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++) {
		if (!has_prefix(aliases[i].alias, name))
			continue;
		found = find_row(aliases[i].name);
		if (strlen(aliases[i].alias) == strlen(name))
			return found;
		n++;
	}
	return n == 1 ? found : NULL;
}

const struct spec_key *spec_key_letter(char letter)
{
	for (const struct spec_key *k = spec_keys; k->name; k++)
		if (k->letter && k->letter == letter)
			return k;
	return NULL;
}

const char *spec_key_nearest(const char *name)
{
	char plain[NEAR_MAX_LEN + 1];
	const char *found = NULL;
	size_t len = strlen(name);
	int best;

	if (len == 0 || len > NEAR_MAX_LEN)
		return NULL;
	for (size_t i = 0; i <= len; i++)
		plain[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + ('a' - 'A')) : key_char(name[i]);
	for (size_t i = 0; i < ARRAY_SIZE(habits); i++)
		if (strcmp(habits[i].word, plain) == 0)
			return habits[i].name;
	best = near_limit(plain);
	for (const struct spec_key *k = spec_keys; k->name; k++)
		near_consider(plain, k->name, &best, &found);
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
		near_consider(plain, aliases[i].alias, &best, &found);
	return found;
}

const char *spec_key_slip(const char *name)
{
	if (strlen(name) < SLIP_MIN_LEN)
		return NULL;
	for (const struct spec_key *k = spec_keys; k->name; k++)
		if (!(k->flags & SPEC_OURS) && near_distance(name, k->name) == 1)
			return k->name;
	for (size_t i = 0; i < ARRAY_SIZE(aliases); i++)
		if (near_distance(name, aliases[i].alias) == 1)
			return aliases[i].alias;
	return NULL;
}

int spec_key_unknown(const char *name, struct strbuf *errors)
{
	char shown[SPEC_SHOWN];
	const char *near;

	if (spec_errors_full(errors))
		return -EINVAL;
	near = spec_key_nearest(name);
	if (near)
		return spec_complain(errors, "unknown key '%s': did you mean '%s'?", spec_show(name, shown), near);
	return spec_complain(errors, "unknown key '%s': runs/template lists the keys", spec_show(name, shown));
}
