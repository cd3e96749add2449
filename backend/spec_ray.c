/*
 * The key `ray`: the Ray cluster that a run or a session starts in its allocation, and what a job says to one.
 * `ray=true` asks for one with nothing said; otherwise it is a map, of which dotted keys are the members.
 *
 * Invariants of the canonical form: known members only; counts are integers, object_store_memory is bytes, ray_args a
 * list of words, runtime_env an object, metadata and headers objects of text, dashboard a flag or the address that it
 * listens at.
 */
#include "backend/spec_impl.h"

#include "backend/base/mem.h"
#include "backend/base/near.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

/* What Ray refuses to start below (ray_constants.py, OBJECT_STORE_MINIMUM_MEMORY_BYTES). */
#define STORE_MIN (75LL * 1024 * 1024)
#define PORTS_MIN 64 /* some blocks of 16 */

enum kind { RAY_COUNT, RAY_NUMBER, RAY_SIZE, RAY_FLAG, RAY_FLAG_OR_TEXT, RAY_TEXT, RAY_WORDS, RAY_OBJECT, RAY_TEXTS };

static bool address_ok(const char *s)
{
	return isalnum((unsigned char)*s) &&
	       !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-")];
}

static bool interface_ok(const char *s)
{
	return isalnum((unsigned char)*s) &&
	       !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] && strlen(s) < 16;
}

static bool version_ok(const char *s)
{
	if (strncmp(s, ">=", 2) == 0)
		s += 2;
	return isdigit((unsigned char)*s) && !s[strspn(s, "0123456789.")];
}

static bool ports_ok(const char *s)
{
	long long low, high;

	return spec_digits(&s, 65535, &low) && *s++ == '-' && spec_digits(&s, 65535, &high) && !*s && low >= 1024 &&
	       high - low + 1 >= PORTS_MIN;
}

static bool directory_ok(const char *s)
{
	return (*s == '/' || strncmp(s, "~/", 2) == 0 || strstr(s, "://")) && !spec_has_control(s);
}

static const struct member {
	const char *name;
	enum kind kind;
	bool (*ok)(const char *text);
	const char *want;
} members[] = {
	{ "enabled", RAY_FLAG, NULL, "true or false" },
	{ "num_cpus_per_node", RAY_COUNT, NULL, "a whole number" },
	{ "num_gpus_per_node", RAY_NUMBER, NULL, "a number that is not negative" },
	{ "object_store_memory", RAY_SIZE, NULL, "a size of at least 75M: bytes, or like 500M, 4G" },
	{ "max_workers", RAY_COUNT, NULL, "a whole number" },
	{ "ray_args", RAY_WORDS, NULL, "words for `ray start`" },
	{ "runtime_env", RAY_OBJECT, NULL, "a JSON object" },
	{ "working_dir", RAY_TEXT, directory_ok, "a directory on the cluster, /... or ~/..., or a URI" },
	{ "ray_version", RAY_TEXT, version_ok, "a version, like 2.60.0, 2.60 or >=2.9" },
	{ "head_node_address", RAY_TEXT, address_ok, "an address of the first node" },
	{ "ports", RAY_TEXT, ports_ok, "a range of at least 64 ports above 1023, like 20000-23999" },
	{ "dashboard", RAY_FLAG_OR_TEXT, address_ok, "true, false, or the address that it listens at" },
	{ "metadata", RAY_TEXTS, NULL, "a map of text; on one line ray.metadata.NAME=TEXT" },
	{ "headers", RAY_TEXTS, NULL, "a map of text; on one line ray.headers.NAME=TEXT" },
	{ "start_timeout", RAY_COUNT, NULL, "seconds" },
	{ "interface", RAY_TEXT, interface_ok, "the name of a network interface, like ib0" },
	{ "token", RAY_FLAG, NULL, "true or false" },
	{ "client", RAY_FLAG, NULL, "true or false" },
};

static const struct member *member_of(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (strlen(members[i].name) == len && strncmp(members[i].name, name, len) == 0)
			return &members[i];
	return NULL;
}

static int unknown(const char *name, struct strbuf *errors)
{
	const char *found = NULL;
	char shown[SPEC_SHOWN];
	int best = near_limit(name);

	for (size_t i = 0; strlen(name) <= NEAR_MAX_LEN && i < ARRAY_SIZE(members); i++)
		near_consider(name, members[i].name, &best, &found);
	if (found)
		return spec_complain(errors, "unknown key 'ray.%s': did you mean 'ray.%s'?", spec_show(name, shown),
				     found);
	spec_complain(errors, "unknown key 'ray.%s'; there is", spec_show(name, shown));
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		strbuf_addf(errors, "%s %s", i ? "," : "", members[i].name);
	return -EINVAL;
}

static int bad(const struct member *m, struct strbuf *errors)
{
	return spec_complain(errors, "'ray.%s' must be %s", m->name, m->want);
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

static json_t *size(const char *text)
{
	const char *p = text;
	long long v;

	if (!spec_digits(&p, LLONG_MAX / 16, &v) || *p)
		v = spec_memory_bytes(text);
	return v >= STORE_MIN ? json_integer(v) : NULL;
}

static json_t *flag(const char *text)
{
	if (strcmp(text, "true") == 0)
		return json_true();
	return strcmp(text, "false") == 0 ? json_false() : NULL;
}

static json_t *words(const struct member *m, const json_t *value, struct strbuf *errors)
{
	const struct spec_key *args = spec_key_find("args");
	json_t *list = NULL;

	if (spec_value(args, value, &list, errors) < 0)
		(void)bad(m, errors);
	return list;
}

/* One text of a map, by its name; null takes a default away. */
static int map_text(const struct member *m, json_t *map, const char *name, const json_t *value, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;

	if (!*name || spec_has_control(name))
		return bad(m, errors);
	if (json_is_null(value))
		return json_object_set_new(map, name, json_null()), 0;
	if (spec_text(value, true, &text) < 0 || strlen(text.buf) != text.len || spec_has_control(text.buf))
		return bad(m, errors);
	return json_object_set_new(map, name, json_stringn(text.buf, text.len)) < 0 ? bad(m, errors) : 0;
}

static json_t *object(const struct member *m, const json_t *value, struct strbuf *errors)
{
	json_t *parsed = json_is_string(value) ? json_loads(json_string_value(value), 0, NULL) : json_deep_copy(value);
	json_t *map = NULL, *v;
	const char *name;

	if (json_is_object(parsed) && m->kind == RAY_OBJECT) {
		map = json_incref(parsed);
	} else if (json_is_object(parsed)) {
		map = json_object();
		json_object_foreach (parsed, name, v)
			if (map && map_text(m, map, name, v, errors) < 0) {
				json_decref(map);
				map = NULL;
				break;
			}
	} else {
		(void)bad(m, errors);
	}
	json_decref(parsed);
	return map;
}

static json_t *simple(const struct member *m, const json_t *value, struct strbuf *errors)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT;
	json_t *out = NULL;

	if (spec_text(value, true, &text) < 0 || !text.len || strlen(text.buf) != text.len)
		return (void)bad(m, errors), NULL;
	switch (m->kind) {
	case RAY_COUNT:
	case RAY_NUMBER:
		out = number(text.buf, m->kind == RAY_COUNT);
		break;
	case RAY_SIZE:
		out = size(text.buf);
		break;
	case RAY_FLAG:
	case RAY_FLAG_OR_TEXT:
		out = flag(text.buf);
		break;
	default:
		break;
	}
	if (!out && m->ok && m->ok(text.buf))
		out = json_string(text.buf);
	if (!out)
		(void)bad(m, errors);
	return out;
}

int spec_ray_member(json_t *out, const char *name, const json_t *value, struct strbuf *errors)
{
	size_t len = strcspn(name, ".");
	const struct member *m = member_of(name, len);
	json_t *v, *map;
	int rc;

	if (strcmp(name, "reuse_tolerance") == 0)
		return spec_complain(errors, "'ray': reuse_tolerance is not possible yet: name the session");
	if (!m || (name[len] && m->kind != RAY_TEXTS))
		return unknown(name, errors);
	if (json_is_null(value) && !name[len])
		return json_object_set_new(out, name, json_null()), 0;
	if (name[len]) {
		map = json_object();
		rc = map_text(m, map, name + len + 1, value, errors);
		if (rc == 0)
			(void)json_object_set(out, m->name, map);
		json_decref(map);
		return rc;
	}
	v = m->kind == RAY_WORDS                            ? words(m, value, errors)
	    : m->kind == RAY_OBJECT || m->kind == RAY_TEXTS ? object(m, value, errors)
							    : simple(m, value, errors);
	return v ? json_object_set_new(out, m->name, v) : -EINVAL;
}

int spec_value_ray(const json_t *value, json_t **out, struct strbuf *errors)
{
	const char *word = json_string_value(value), *name;
	json_t *map, *v;
	int rc = 0;

	if (word && *word == '{') {
		map = json_loads(word, 0, NULL);
		rc = map ? spec_value_ray(map, out, errors)
			 : spec_complain(errors, "'ray' must be true, false or a map: this is not JSON");
		json_decref(map);
		return rc;
	}
	if (json_is_boolean(value) || (word && (strcmp(word, "true") == 0 || strcmp(word, "false") == 0)))
		return *out = json_pack("{s:b}", "enabled", json_is_true(value) || (word && *word == 't')), 0;
	if (!json_is_object(value))
		return spec_complain(errors, "'ray' must be true, false or a map; on one line write ray.NAME=VALUE");
	map = json_object();
	json_object_foreach ((json_t *)value, name, v)
		if (!spec_errors_full(errors) && spec_ray_member(map, name, v, errors) < 0)
			rc = -EINVAL;
	if (rc < 0)
		json_decref(map);
	else
		*out = map;
	return rc;
}
