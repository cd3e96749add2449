/*
 * The key `ray`: the Ray cluster that a run or a session starts in its allocation, and what a job says to one.
 * `ray=true` asks for one with nothing said; otherwise it is a map, of which dotted keys are the members.
 */
#include "backend/spec_impl.h"
#include "backend/spec_map.h"

#include <ctype.h>
#include <string.h>

/* What Ray refuses to start below (ray_constants.py, OBJECT_STORE_MINIMUM_MEMORY_BYTES). */
#define STORE_MIN (75LL * 1024 * 1024)
#define PORTS_MIN 64 /* some blocks of 16 */

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

/* "2.60.0", or with its Python: "2.60.0/3.12". */
static bool client_ok(const char *s)
{
	const char *slash = strchr(s, '/');

	return isdigit((unsigned char)*s) && !s[strspn(s, "0123456789.abcdefghijklmnopqrstuvwxyz+/")] &&
	       (!slash || (isdigit((unsigned char)slash[1]) && !slash[1 + strspn(slash + 1, "0123456789.")]));
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

static const struct spec_member members[] = {
	{ "enabled", SPEC_M_FLAG, NULL, "true or false", 0 },
	{ "num_cpus_per_node", SPEC_M_COUNT, NULL, "a whole number", 0 },
	{ "num_gpus_per_node", SPEC_M_NUMBER, NULL, "a number that is not negative", 0 },
	{ "object_store_memory", SPEC_M_SIZE, NULL, "a size of at least 75M: bytes, or like 500M, 4G", STORE_MIN },
	{ "max_workers", SPEC_M_COUNT, NULL, "a whole number", 0 },
	{ "ray_args", SPEC_M_WORDS, NULL, "words for `ray start`", 0 },
	{ "runtime_env", SPEC_M_OBJECT, NULL, "a JSON object", 0 },
	{ "working_dir", SPEC_M_TEXT, directory_ok, "a directory on the cluster, /... or ~/..., or a URI", 0 },
	{ "ray_version", SPEC_M_TEXT, version_ok, "a version, like 2.60.0, 2.60 or >=2.9", 0 },
	{ "head_node_address", SPEC_M_TEXT, address_ok, "an address of the first node", 0 },
	{ "ports", SPEC_M_TEXT, ports_ok, "a range of at least 64 ports above 1023, like 20000-23999", 0 },
	{ "dashboard", SPEC_M_FLAG_OR_TEXT, address_ok, "true, false, or the address that it listens at", 0 },
	{ "metadata", SPEC_M_TEXTS, NULL, "a map of text; on one line ray.metadata.NAME=TEXT", 0 },
	{ "headers", SPEC_M_TEXTS, NULL, "a map of text; on one line ray.headers.NAME=TEXT", 0 },
	{ "start_timeout", SPEC_M_COUNT, NULL, "seconds", 0 },
	{ "interface", SPEC_M_TEXT, interface_ok, "the name of a network interface, like ib0", 0 },
	{ "token", SPEC_M_FLAG, NULL, "true or false", 0 },
	{ "client", SPEC_M_FLAG_OR_TEXT, client_ok,
	  "true, false, or the versions of Ray and Python where it is used, like 2.60.0/3.12", 0 },
	/* of the driver, on a cluster of type ray */
	{ "entrypoint_num_cpus", SPEC_M_NUMBER, NULL, "a number that is not negative", 0 },
	{ "entrypoint_num_gpus", SPEC_M_NUMBER, NULL, "a number that is not negative", 0 },
	{ "entrypoint_memory", SPEC_M_SIZE, NULL, "a size: bytes, or like 500M, 4G", 1 },
	{ "entrypoint_resources", SPEC_M_OBJECT, NULL, "a JSON object of numbers", 0 },
	{ "entrypoint_label_selector", SPEC_M_TEXTS, NULL, "a map of text", 0 },
	{ NULL, SPEC_M_TEXT, NULL, NULL, 0 },
};

const struct spec_map spec_map_ray = { "ray", members };
