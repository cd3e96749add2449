/*
 * Keys whose value is a map with known members (`ray`, `spark`): a table for each, one reader for all.
 *
 * Canonical form: known members only; counts and sizes (bytes) are integers, words a list of text, maps of text and
 * free objects are objects. `true` and `false` stand for {"enabled": ...}.
 */
#ifndef BACKEND_SPEC_MAP_H
#define BACKEND_SPEC_MAP_H

#include "backend/base/strbuf.h"

#include <stdbool.h>

struct json_t;

enum spec_kind {
	SPEC_M_COUNT,
	SPEC_M_NUMBER,
	SPEC_M_SIZE, /* bytes, or like 4G; not below `least` */
	SPEC_M_FLAG,
	SPEC_M_FLAG_OR_TEXT,
	SPEC_M_TEXT,
	SPEC_M_WORDS,
	SPEC_M_OBJECT, /* any JSON object */
	SPEC_M_TEXTS,  /* a map of text; its members may be written as KEY.MEMBER.NAME=TEXT, and names may have dots */
};

struct spec_member {
	const char *name; /* NULL ends a table */
	enum spec_kind kind;
	bool (*ok)(const char *text); /* of texts that are neither flag nor number; NULL: there are none */
	const char *want;             /* "must be ..." */
	long long least;
};

struct spec_map {
	const char *key;
	const struct spec_member *members;
};

extern const struct spec_map spec_map_ray, spec_map_spark;
/* By its key, or NULL. */
const struct spec_map *spec_map_find(const char *key);

/* The whole value: true, false, a map, or a map as JSON text; a new reference in *out. 0, or -EINVAL with sentences. */
int spec_map_value(const struct spec_map *known, const struct json_t *value, struct json_t **out,
		   struct strbuf *errors);
/* One member, put into `out`; null takes a default away. */
int spec_map_member(const struct spec_map *known, struct json_t *out, const char *name, const struct json_t *value,
		    struct strbuf *errors);

#endif
