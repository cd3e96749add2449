/*
 * What the files of the spec module share; nobody else includes this.
 */
#ifndef BACKEND_SPEC_IMPL_H
#define BACKEND_SPEC_IMPL_H

#include "backend/spec.h"

#define SPEC_NO_SCRIPT                                                                                                          \
	"this does not look like a batch script: the first line of one begins with #! and the path of an interpreter, such as " \
	"#!/bin/bash"

/* Room for a value in a message. */
#define SPEC_SHOWN 72

/*
 * Adds one sentence as a line of its own; control characters in it become '?'. Returns -EINVAL. After about
 * SPEC_ERRORS_MAX bytes a last line says that there are more, and further ones are dropped.
 */
#define SPEC_ERRORS_MAX 8192
int spec_complain(struct strbuf *errors, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool spec_errors_full(const struct strbuf *errors);
/* `text` shortened for a message, cut between characters. Returns buf. */
const char *spec_show(const char *text, char buf[SPEC_SHOWN]);

/* The offset of the first byte that is not part of valid UTF-8 (RFC 3629), or `len`. */
size_t spec_utf8_prefix(const char *text, size_t len);

/* Do two key names say the same (dashes as underscores)? */
bool spec_key_same(const char *a, const char *b);
/* The row of the sbatch option `name` (dashes; any prefix that only one option has, as getopt_long(3)), or NULL. */
const struct spec_key *spec_key_option(const char *name);
const struct spec_key *spec_key_letter(char letter);
/* The key that `name` is one slip away from, or NULL; names of less than 5 letters are not looked at. */
const char *spec_key_slip(const char *name);
/* Says what is wrong with a key that nobody knows. */
int spec_key_unknown(const char *name, struct strbuf *errors);

/* The canonical form of one value of a key, a new reference in *out. `value` is not null. */
int spec_value(const struct spec_key *k, const json_t *value, json_t **out, struct strbuf *errors);
/* Checks one variable and puts it into the map; `value` may be null. */
int spec_value_env(json_t *map, const char *name, const json_t *value, struct strbuf *errors);
/* One member of a map, by the map's key. */
int spec_value_member(const struct spec_key *k, json_t *map, const char *name, const json_t *value,
		      struct strbuf *errors);
/* The text of a string or number (of true and false too if `flags`); -EINVAL for anything else. */
int spec_text(const json_t *value, bool flags, struct strbuf *out);
/* The same with a sentence; no true, no false, and no NUL inside. */
int spec_want_text(const char *key, const json_t *value, struct strbuf *out, struct strbuf *errors);
bool spec_has_control(const char *s);
/* The number of a run or its name. */
bool spec_run_id_ok(const char *text);
/* Reads decimal digits at *p and moves it behind them; false on none or when the number is above `max`. */
bool spec_digits(const char **p, long long max, long long *out);
/* The finer rule of a key that has one: for its text, or for one element of its list. */
int spec_check_rule(const char *key, const char *text, struct strbuf *errors);
/* The words that a key allows, some of them only in later releases. */
int spec_check_choice(const char *key, const char *text, struct strbuf *errors);
/* Appends to a list of strings what it does not have. */
void spec_list_join(json_t *list, const json_t *more);
/* `environment`: text or an object; one member of it; and whether the members of a whole spec go together. */
bool spec_pipes_module_ok(const char *path);
int spec_value_environment(const json_t *value, json_t **out, struct strbuf *errors);
int spec_environment_member(json_t *out, const char *name, const json_t *value, struct strbuf *errors);
int spec_environment_whole(const json_t *spec, struct strbuf *errors);
/* sbatch's dependency text taken apart into afterok, afterany, afternotok and, for singleton, dependency. */
int spec_value_dependency(json_t *spec, const json_t *value, struct strbuf *errors);

/*
 * The next word of [*p, end), words being split at blanks and quoted as in sh(1): 1 and the word without its
 * quotes in `out`, 0 at the end, -1 when a quote is not closed.
 */
int spec_word(const char **p, const char *end, struct strbuf *out);

/* The one-line form without its newline. */
int spec_line(const char *text, size_t len, json_t *spec, struct strbuf *errors);
/*
 * The keys that the #SBATCH lines of a script set; `text` begins with "#!". With `workdir` the working directory goes
 * there as it is written, and is none of the keys.
 */
int spec_script(const char *text, size_t len, json_t *spec, char **workdir, struct strbuf *errors);

#endif
