/*
 * A spec as the user wrote it, in any of its three forms, turned into one canonical JSON object: known keys
 * only, underscores for dashes, values of the type that the key table says. Pure: no clock, no files, no
 * configuration. The result of one form equals that of another that says the same.
 *
 * All errors are found, not only the first: `errors` gets one sentence a line.
 */
#ifndef BACKEND_SPEC_H
#define BACKEND_SPEC_H

#include "backend/base/strbuf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum spec_type {
	SPEC_STRING,   /* a string; numbers are accepted and become their text */
	SPEC_COUNT,    /* a whole number >= 0; accepted as text too; stored as integer */
	SPEC_RANGE,    /* sbatch's nodes: "2" or "2-4" or "1,3" stored as text */
	SPEC_TIME,     /* Slurm's time forms (sbatch(1) --time); stored as text, checked */
	SPEC_MEMORY,   /* 4G, 500M, 100K, 1T, plain = MiB (sbatch(1) --mem); stored as text, checked */
	SPEC_FLAG,     /* true or false; sbatch options without an argument */
	SPEC_OPTIONAL, /* true or a string: sbatch options whose argument is optional */
	SPEC_LIST,     /* list of strings; text splits at commas */
	SPEC_MAP,      /* map of strings */
	SPEC_ANY,      /* the key's own checker decides */
};

enum spec_flags {
	SPEC_SBATCH = 1 << 0,    /* a long option of sbatch: passed on as --KEY=VALUE */
	SPEC_PLACEMENT = 1 << 1, /* means nothing on one machine: the local cluster ignores it and says so */
	SPEC_LATER = 1 << 2,     /* belongs to a later release: asking for it is an error with a sentence */
	SPEC_RUN_IDS = 1 << 3,   /* names other runs (afterok, ...) */
	SPEC_OURS = 1 << 4,      /* sbatch knows it but slurmray sets it itself: an error that says what to use */
};

struct spec_key {
	const char *name; /* with underscores */
	enum spec_type type;
	unsigned flags;
	char letter;      /* sbatch's short option or 0 */
	const char *help; /* a few words for runs/template and docs; for SPEC_LATER and SPEC_OURS the sentence */
};

/* The table, ended by a row without a name. */
extern const struct spec_key spec_keys[];

/*
 * The row of a key (dashes and underscores alike), or NULL. sbatch's names of what slurmray calls otherwise are
 * found too: job_name is `name`, chdir is `workdir`; the row has the canonical name. `requeue` is true or false
 * (no_requeue becomes that); a key of type SPEC_OPTIONAL is true or text, never false.
 */
const struct spec_key *spec_key_find(const char *name);
/* The known key nearest to `name` by edit distance, or NULL when none is near. */
const char *spec_key_nearest(const char *name);

/*
 * Parses one complete document (see scan.h). 0: *spec is a new object that the caller releases with
 * json_decref. -EINVAL: nothing is returned and `errors` holds a sentence a line, without a final newline.
 * Names, paths and values are checked as far as they can be without configuration: relative local paths, NUL
 * bytes, names outside [A-Za-z0-9._-]{1,128}, both of command/script/payload, empty commands, a script that
 * asks for a key twice with different values, keys of later releases.
 */
int spec_parse(const char *text, size_t len, json_t **spec, struct strbuf *errors);
/* The same where a session is asked for: `launcher=session` goes without saying, and nothing has to run. */
int spec_parse_session(const char *text, size_t len, json_t **spec, struct strbuf *errors);

/*
 * Checks one value for a key and stores the canonical form in `spec`, in place of the one that is there (a map is
 * merged into it; dotted names reach into maps). JSON null unsets: it is stored as null, so that whoever merges
 * layers can see that this one takes the key away. Used by spec_parse and the configuration.
 * 0, or -EINVAL with a sentence a line in `errors` and `spec` as it was.
 */
int spec_set(json_t *spec, const char *name, json_t *value, struct strbuf *errors);

/*
 * Puts one key into a spec that is being built. A key that is there already is an error, unless `same_ok` and
 * the values are equal; maps and lists of runs are joined.
 */
int spec_add(json_t *spec, const char *name, json_t *value, bool same_ok, struct strbuf *errors);

/* What is wrong with a line that more lines follow: most likely it is the first of a script that has no #!. */
const char *spec_more_lines(const char *text);

/* The working directory that the #SBATCH lines of a script ask for, as it is written there; NULL: none. The caller
 * frees. */
char *spec_script_workdir(const char *text, size_t len);

/* What is shown in place of a secret. */
#define SPEC_HIDDEN "***"
/* Is a value of secret_env the secret itself, and no name of a file? */
bool spec_secret_is_value(const char *text);
/* Takes the values out of a parsed spec's (or effective values') secret_env, leaving SPEC_HIDDEN; those that are known
 * go into `values` (may be NULL). Was there any? */
bool spec_take_secrets(json_t *spec, json_t *values);

/* A document as it may be kept: in `out`, but for SPEC_AS_IT_IS, which leaves it alone. */
enum spec_redaction { SPEC_AS_IT_IS, SPEC_MASKED, SPEC_WITHHELD };
enum spec_redaction spec_redact(const char *text, size_t len, struct strbuf *out);
/* The same for sentences about such a document. */
void spec_redact_why(struct strbuf *why);

/* Equal but for DAGSTER_PIPES_* in env: what a second write of `spec` is compared with. */
bool spec_equal(const json_t *a, const json_t *b);

/* Is it a name that a user may give to a run, session or tag: 1 to 128 of [A-Za-z0-9._-], beginning with a
 * letter or _, and none of the reserved words. Fills `e` when not. */
struct err;
bool spec_name_ok(const char *name, struct err *e);

/* Slurm's time text in seconds; -1 for UNLIMITED and INFINITE; -EINVAL for anything else. Slurm's memory text
 * in bytes, or -EINVAL (0 means all of a node's memory). */
long long spec_time_seconds(const char *text);
long long spec_memory_bytes(const char *text);

#endif
