/*
 * Reads the values of keys that are maps with known members. It knows kinds of values and no key: what there is of
 * which kind stands in the tables (spec_ray.c, spec_spark.c).
 */
#include "backend/spec_map.h"

#include "backend/base/mem.h"
#include "backend/base/near.h"
#include "backend/spec_impl.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

static const struct spec_map *const maps[] = { &spec_map_ray, &spec_map_spark };

const struct spec_map *spec_map_find(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(maps); i++)
		if (strcmp(maps[i]->key, key) == 0)
			return maps[i];
	return NULL;
}

static const struct spec_member *member_of(const struct spec_map *known, const char *name, size_t len)
{
	for (const struct spec_member *m = known->members; m->name; m++)
		if (strlen(m->name) == len && strncmp(m->name, name, len) == 0)
			return m;
	return NULL;
}

static int unknown(const struct spec_map *known, const char *name, struct strbuf *errors)
{
	const char *found = NULL;
	char shown[SPEC_SHOWN];
	int best = near_limit(name);

	if (strcmp(name, "reuse_tolerance") == 0)
		return spec_complain(errors, "'%s': reuse_tolerance is a key of its own, with session=any", known->key);
	for (const struct spec_member *m = known->members; strlen(name) <= NEAR_MAX_LEN && m->name; m++)
		near_consider(name, m->name, &best, &found);
	if (found)
		return spec_complain(errors, "unknown key '%s.%s': did you mean '%s.%s'?", known->key,
				     spec_show(name, shown), known->key, found);
	spec_complain(errors, "unknown key '%s.%s'; there is", known->key, spec_show(name, shown));
	for (const struct spec_member *m = known->members; m->name; m++)
		strbuf_addf(errors, "%s %s", m == known->members ? "" : ",", m->name);
	return -EINVAL;
}

static int bad(const struct spec_map *known, const struct spec_member *m, struct strbuf *errors)
{
	return spec_complain(errors, "'%s.%s' must be %s", known->key, m->name, m->want);
}

static json_t *number(const char *text, bool whole)
{
	const char *p = text;
	long long v;
	double real;
	char *end;

	if (spec_digits(&p, INT_MAX, &v) && !*p)
		return json_integer(v);
	if (whole || !isdigit((unsigned char)*text))
		return NULL;
	real = strtod(text, &end);
	return *end || real < 0 || real > INT_MAX || text[strspn(text, "0123456789.")] ? NULL : json_real(real);
}

static json_t *size(const char *text, long long least)
{
	const char *p = text;
	long long v;

	if (!spec_digits(&p, LLONG_MAX / 16, &v) || *p)
		v = spec_memory_bytes(text);
	return v >= least ? json_integer(v) : NULL;
}

static json_t *flag(const char *text)
{
	if (strcmp(text, "true") == 0)
		return json_true();
	return strcmp(text, "false") == 0 ? json_false() : NULL;
}

/* One text of a map, by its name; null takes a default away. */
static int map_text(json_t *map, const char *name, const json_t *value)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	if (!*name || spec_has_control(name))
		return -EINVAL;
	if (json_is_null(value))
		return json_object_set_new(map, name, json_null()), 0;
	if (spec_text(value, true, &text) < 0 || strlen(text.buf) != text.len || spec_has_control(text.buf))
		return -EINVAL;
	return json_object_set_new(map, name, json_stringn(text.buf, text.len)) < 0 ? -EINVAL : 0;
}

static json_t *texts(const json_t *object)
{
	json_t *map = json_object(), *v;
	const char *name;

	json_object_foreach ((json_t *)object, name, v)
		if (map_text(map, name, v) < 0) {
			json_decref(map);
			return NULL;
		}
	return map;
}

static json_t *words(const json_t *value, struct strbuf *errors)
{
	json_t *list = NULL;

	(void)spec_value(spec_key_find("args"), value, &list, errors);
	return list;
}

static json_t *compound(const struct spec_member *m, const json_t *value, struct strbuf *errors)
{
	json_t *parsed, *out = NULL;

	if (m->kind == SPEC_M_WORDS)
		return words(value, errors);
	parsed = json_is_string(value) ? json_loads(json_string_value(value), 0, NULL) : json_deep_copy(value);
	if (json_is_object(parsed))
		out = m->kind == SPEC_M_OBJECT ? json_incref(parsed) : texts(parsed);
	json_decref(parsed);
	return out;
}

static json_t *simple(const struct spec_member *m, const json_t *value)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	json_t *out = NULL;

	if (spec_text(value, true, &text) < 0 || !text.len || strlen(text.buf) != text.len)
		return NULL;
	if (m->kind == SPEC_M_COUNT || m->kind == SPEC_M_NUMBER)
		out = number(text.buf, m->kind == SPEC_M_COUNT);
	else if (m->kind == SPEC_M_SIZE)
		out = size(text.buf, m->least);
	else if (m->kind == SPEC_M_FLAG || m->kind == SPEC_M_FLAG_OR_TEXT)
		out = flag(text.buf);
	return !out && m->ok && m->ok(text.buf) ? json_string(text.buf) : out;
}

/* KEY.MEMBER.NAME: one text of a map. */
static int inner(const struct spec_map *known, const struct spec_member *m, json_t *out, const char *name,
		 const json_t *value, struct strbuf *errors)
{
	json_t *map = json_object();
	int rc = map_text(map, name, value);

	if (rc == 0)
		(void)json_object_set(out, m->name, map);
	json_decref(map);
	return rc < 0 ? bad(known, m, errors) : 0;
}

int spec_map_member(const struct spec_map *known, json_t *out, const char *name, const json_t *value,
		    struct strbuf *errors)
{
	size_t len = strcspn(name, ".");
	const struct spec_member *m = member_of(known, name, len);
	json_t *v;

	if (!m || (name[len] && m->kind != SPEC_M_TEXTS))
		return unknown(known, name, errors);
	if (name[len])
		return inner(known, m, out, name + len + 1, value, errors);
	if (json_is_null(value))
		return json_object_set_new(out, name, json_null()), 0;
	v = m->kind == SPEC_M_WORDS || m->kind == SPEC_M_OBJECT || m->kind == SPEC_M_TEXTS ? compound(m, value, errors)
											   : simple(m, value);
	return v ? json_object_set_new(out, m->name, v) : bad(known, m, errors);
}

int spec_map_value(const struct spec_map *known, const json_t *value, json_t **out, struct strbuf *errors)
{
	const char *word = json_string_value(value), *name;
	json_t *map, *v;
	int rc = 0;

	if (word && *word == '{') {
		map = json_loads(word, 0, NULL);
		rc = map ? spec_map_value(known, map, out, errors)
			 : spec_complain(errors, "'%s' must be true, false or a map: this is not JSON", known->key);
		json_decref(map);
		return rc;
	}
	if (json_is_boolean(value) || (word && (strcmp(word, "true") == 0 || strcmp(word, "false") == 0)))
		return *out = json_pack("{s:b}", "enabled", json_is_true(value) || (word && *word == 't')), 0;
	if (!json_is_object(value))
		return spec_complain(errors, "'%s' must be true, false or a map; on one line write %s.NAME=VALUE",
				     known->key, known->key);
	map = json_object();
	json_object_foreach ((json_t *)value, name, v)
		if (!spec_errors_full(errors) && spec_map_member(known, map, name, v, errors) < 0)
			rc = -EINVAL;
	if (rc < 0)
		json_decref(map);
	else
		*out = map;
	return rc;
}
