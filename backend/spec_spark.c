/*
 * The key `spark`: the standalone Spark cluster that a run (launcher=spark) or a session starts in its allocation, and
 * what its applications are given.
 */
#include "backend/spec_impl.h"
#include "backend/spec_map.h"

#include <ctype.h>
#include <string.h>

/* An executor needs 1.5 times the 300 MiB that Spark keeps for itself (UnifiedMemoryManager, MIN_MEMORY). */
#define MEMORY_MIN (450LL * 1024 * 1024)

static bool directory_ok(const char *s)
{
	return (*s == '/' || strncmp(s, "~/", 2) == 0) && !spec_has_control(s);
}

static bool url_ok(const char *s)
{
	return (strncmp(s, "spark://", 8) == 0 || strncmp(s, "local", 5) == 0 || strncmp(s, "yarn", 4) == 0 ||
		strncmp(s, "k8s://", 6) == 0) &&
	       !spec_has_control(s) && !strchr(s, ' ');
}

static bool interface_ok(const char *s)
{
	return isalnum((unsigned char)*s) && strlen(s) < 16 && /* IFNAMSIZ */
	       !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")];
}

static const struct spec_member members[] = {
	{ "enabled", SPEC_M_FLAG, NULL, "true or false", 0 },
	{ "executor_memory", SPEC_M_SIZE, NULL, "a size of at least 450M, like 4G", MEMORY_MIN },
	{ "executor_cores", SPEC_M_COUNT, NULL, "a whole number", 0 },
	{ "num_executors", SPEC_M_COUNT, NULL, "a whole number", 0 },
	{ "driver_memory", SPEC_M_SIZE, NULL, "a size of at least 450M, like 2G", MEMORY_MIN },
	{ "spark_home", SPEC_M_TEXT, directory_ok, "a directory on the cluster, /... or ~/...", 0 },
	{ "master_url", SPEC_M_TEXT, url_ok, "the URL of a cluster that is there: spark://HOST:PORT, local[N], yarn",
	  0 },
	{ "conf", SPEC_M_TEXTS, NULL, "a map of text; on one line spark.conf.NAME=TEXT", 0 },
	{ "interface", SPEC_M_TEXT, interface_ok, "the name of a network interface, like ib0", 0 },
	{ "start_timeout", SPEC_M_COUNT, NULL, "seconds", 0 },
	{ NULL, SPEC_M_TEXT, NULL, NULL, 0 },
};

const struct spec_map spec_map_spark = { "spark", members };
