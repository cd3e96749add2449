/*
 * `slurmray doctor`: a line for each thing that has to be right, and what to do about each that is not. Exit status 0
 * when nothing is bad. Checks run one after the other, each with a deadline of its own where it may wait.
 */
#include "fs/client.h"
#include "fs/doctor_fuse.h"

#include "backend/base/mem.h"
#include "backend/config.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#define LOGIN_DEADLINE_S 20

/* --- configuration --- */

/* NULL when it cannot be used. */
static struct config *check_config(struct doctor *d, const char *path)
{
	cleanup_free char *standard = config_default_path();
	struct config *c = NULL;
	struct err e = ERR_INIT;
	cleanup_strbuf struct strbuf names = STRBUF_INIT;
	char *line, *next;

	if (config_load(path ? path : standard, path != NULL, &c, &e) < 0) {
		for (line = e.text; line; line = next) {
			next = strchr(line, '\n');
			if (next)
				*next++ = '\0';
			doctor_bad(d, "configuration: %s", line);
		}
		return NULL;
	}
	for (size_t i = 0; i < c->n_clusters; i++)
		strbuf_addf(&names, " %s", c->clusters[i]->name);
	if (!c->path)
		doctor_note(
			d,
			"there is no configuration %s, so jobs run on this machine (cluster local); a section [cluster NAME] with "
			"a line `host = ...` in it makes a Slurm cluster known",
			standard);
	else if (!c->default_cluster)
		doctor_note(
			d,
			"configuration %s: no default cluster; every spec has to say cluster=NAME, or write `cluster = NAME` "
			"into [defaults]",
			c->path);
	else
		doctor_ok(d, "configuration %s: jobs go to %s unless they say cluster=NAME; clusters:%s", c->path,
			  c->default_cluster, names.buf);
	return c;
}

/* --- clusters --- */

static void check_cluster(struct doctor *d, const struct config *c, const struct cluster_conf *k)
{
	if (k->type == CLUSTER_LOCAL) {
		doctor_ok(d, "cluster %s: this machine, %d processors, %" PRId64 " MiB", k->name, c->machine.cores,
			  c->machine.mem_bytes >> 20);
		return;
	}
	if (k->type == CLUSTER_RAY) {
		doctor_ray(d, k, LOGIN_DEADLINE_S);
		return;
	}
	for (size_t i = 0; k->hosts && k->hosts[i]; i++)
		doctor_ssh(d, k, i, LOGIN_DEADLINE_S);
}

static void check_clusters(struct doctor *d, const struct config *c, const char *name)
{
	cleanup_strbuf struct strbuf names = STRBUF_INIT;
	bool found = false;

	for (size_t i = 0; i < c->n_clusters; i++) {
		const struct cluster_conf *k = c->clusters[i];

		strbuf_addf(&names, " %s", k->name);
		if (name && strcmp(name, k->name) != 0)
			continue;
		found = true;
		check_cluster(d, c, k);
	}
	if (!found)
		doctor_bad(d, "there is no cluster %s; the configuration has:%s", name, names.buf);
}

int client_doctor_main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "state", required_argument, NULL, 's' },
		{ 0 },
	};
	const char *config_path = NULL, *state = NULL;
	cleanup_free char *state_dir = NULL;
	struct doctor d = { stdout, 0 };
	struct config *c;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt != 'c' && opt != 's')
			return 2;
		*(opt == 'c' ? &config_path : &state) = optarg;
	}
	if (argc - optind > 1)
		return client_usage("doctor takes at most one cluster");
	state_dir = state ? client_absolute(state) : client_state_path();
	doctor_fuse(&d, "/proc/sys/fs/fuse");
	doctor_state(&d, state_dir);
	doctor_mounts(&d, "/proc/self/mounts");
	c = check_config(&d, config_path);
	if (c)
		check_clusters(&d, c, argv[optind]);
	config_free(c);
	return d.bad ? 1 : 0;
}
