/*
 * The configuration file (INI, by inih) and the values that a spec has in the end: spec > profile > cluster >
 * [defaults] > built in. Maps merge, lists replace, null unsets. Loaded once per worker; immutable afterwards, so that
 * any thread may read it.
 */
#ifndef BACKEND_CONFIG_H
#define BACKEND_CONFIG_H

#include "backend/base/err.h"
#include "backend/base/strbuf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define CONFIG_UNSAID (-1)

enum cluster_type { CLUSTER_LOCAL, CLUSTER_SLURM, CLUSTER_RAY, CLUSTER_KUBERAY };

struct cluster_conf {
	char *name; /* [A-Za-z0-9._-] */
	enum cluster_type type;
	char **hosts; /* ssh aliases or names of the login nodes, NULL-ended; NULL for local */
	char *user, *identity_file, *ssh_config; /* NULL where not given */
	int port;                                /* 0 where not given */
	char *transport;                         /* "auto", "libssh2"; others are refused with a sentence for now */
	char *directory; /* control files; "~/.slurmray" by default; "~/" stays as written, the cluster expands it */
	char *scratch;   /* work and results; equals `directory` by default */
	char *setup;     /* shell lines before every job, or NULL */
	char *on_event;  /* command for each change of a run; NULL: that of [defaults], "": none */
	int64_t env_quota_kib; /* unpacked archives beyond this are removed, the least recently used first; 0: none is
				*/
	int64_t keep_s; /* how long results stay there after a run's end; 0: for ever; CONFIG_UNSAID: as [defaults] */
	int64_t cache_bytes; /* of what was fetched of its runs' results; 0: no limit; CONFIG_UNSAID: none of its own */
	int tick_ms;         /* how often the remote side looks for ended jobs; 0: built-in pace */
	/* of type ray */
	char *address;                      /* of the dashboard, as written; NULL: `start` */
	char *token, *token_file, *ca_file; /* or NULL */
	char **headers;                     /* "Name: value", NULL-ended, or NULL */
	char *start;                        /* "local", or the path of a program `ray`: boots one here */
	json_t *defaults;                   /* spec keys of this section */
	int line;                           /* of the section, for messages; 0 for built in */
};

/* What jobs of the local cluster can have; read from sysconf(3), tests set their own. */
struct machine {
	int cores;
	int64_t mem_bytes;
};

struct config {
	char *path;                     /* of the file, or NULL when there is none */
	struct cluster_conf **clusters; /* `local` is always one of them */
	size_t n_clusters;
	json_t *defaults;            /* spec keys of [defaults] */
	json_t *profiles;            /* name -> object of spec keys */
	char *on_event;              /* of [defaults], or NULL */
	int64_t keep_s, cache_bytes; /* of [defaults]; cache_bytes is for all clusters together; 0: none */
	char *default_cluster;       /* NULL: a spec without `cluster` is an error that lists the names */
	struct machine machine;
};

/* $XDG_CONFIG_HOME/slurmray/config or ~/.config/slurmray/config; the caller frees. */
char *config_default_path(void);

/*
 * Reads `path`; a missing file is an empty configuration when `required` is false. On error the text holds
 * FILE:LINE and a sentence for every mistake (up to the size of struct err). The caller frees with config_free.
 */
int config_load(const char *path, bool required, struct config **out, struct err *e);
/* The same from memory, for tests and the fuzzer; `name` stands for the file in messages. */
int config_parse(const char *text, const char *name, struct config **out, struct err *e);
void config_free(struct config *c);

const struct cluster_conf *config_cluster(const struct config *c, const char *name);
/* The command that is run for each change of a run on this cluster, or NULL. */
const char *config_on_event(const struct config *c, const char *cluster);

/* Seconds after a run's end when its directories may be removed from this cluster; 0: never. */
int64_t config_keep(const struct config *c, const char *cluster);

/* Why a key of a run in a session is ignored. */
#define CONFIG_SESSIONS_OWN "the session's own counts"

/* A spec with everything merged in. */
struct effective {
	const struct cluster_conf *cluster; /* borrowed from the configuration */
	json_t *values;                     /* canonical values, as in a spec, of all keys that have one */
	json_t *sources;                    /* key -> "spec", "profile NAME", "cluster NAME", "defaults", "built in" */
	json_t *ignored;                    /* key -> why, for keys without meaning on this cluster */
};

/*
 * Merges and checks what only the whole can tell: the cluster exists and its type can do what is asked
 * (local: nodes=2 or more GPUs, cores, memory than the machine has is an error; placement is ignored and named).
 * `cluster_hint` (may be NULL) is the cluster of clusters/NAME/runs/new: it is used when the spec names none
 * and is an error when the spec names another. -EINVAL appends a sentence a line to `errors`.
 */
int config_resolve(const struct config *c, const json_t *spec, const char *cluster_hint, struct effective *out,
		   struct strbuf *errors);
void effective_release(struct effective *eff);

/* The document `effective`: JSON, one key a line: {"nodes": {"value": 2, "source": "spec"}, ...}. */
void effective_text(const struct effective *eff, struct strbuf *out);

#endif
