/*
 * Configuration files: what they say, every mistake with its line, and how specs are merged with them.
 */
#include "backend/base/mem.h"
#include "backend/config.h"
#include "backend/spec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static struct config *parse(const char *text)
{
	struct config *c = NULL;
	struct err e = ERR_INIT;

	if (config_parse(text, "conf", &c, &e))
		fail_msg("refused: %s", e.text);
	c->machine = (struct machine){ .cores = 4, .mem_bytes = (int64_t)8 << 30 };
	return c;
}

static void expect_mistake(const char *text, const char *want)
{
	struct config *c = NULL;
	struct err e = ERR_INIT;

	if (config_parse(text, "conf", &c, &e) != -EINVAL)
		fail_msg("accepted: %s", text);
	if (want[strlen(want) - 1] == '?' && strchr(e.text, '\n'))
		fail_msg("more than that: %s", e.text);
	if (!strstr(e.text, want))
		fail_msg("'%s' does not say '%s'", e.text, want);
	assert_null(c);
}

/* Sections may come in any order, and what names them too. */
static void names_of_sections(void **state)
{
	struct config *c = parse(
		"[defaults]\nprofile = p\ncluster = a\n[profile p]\ncluster = local\n[profile q]\ncluster = null\n"
		"[cluster a]\nhost = a\n");

	(void)state;
	assert_string_equal(c->default_cluster, "a");
	config_free(c);
	config_free(parse("[defaults]\nprofile = null\ncluster = null\n"));
}

static void an_empty_file_gives_local(void **state)
{
	static const char *const texts[] = { "", "\n", "# nothing\n; at all\n", "\xEF\xBB\xBF", "[defaults]\n" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct config *c = parse(texts[i]);
		const struct cluster_conf *k = config_cluster(c, "local");

		assert_int_equal(c->n_clusters, 1);
		assert_string_equal(c->default_cluster, "local");
		assert_int_equal(k->type, CLUSTER_LOCAL);
		assert_string_equal(k->directory, "");
		assert_string_equal(k->scratch, "");
		assert_null(k->hosts);
		assert_int_equal(k->line, 0);
		assert_null(c->path);
		config_free(c);
	}
}

static void a_cluster_has_its_keys(void **state)
{
	struct config *c = parse(
		"\xEF\xBB\xBF# mine\r\n\r\n[cluster demo]\r\n\thost = a, b.example.org ,c\r\n  user=me\nport = 2222\n"
		"identity-file = ~/.ssh/id\nssh_config=/etc/cfg\ntransport = libssh2\ndirectory = ~/ctl/\n"
		"scratch: /scratch/me\nsetup = module load a ; export B=c # d\nsetup = second\ntick = 200\n"
		"partition = gpu\nnodes = 2\nenv.A = 1\nenv.B = x ; y\n");
	const struct cluster_conf *k = config_cluster(c, "demo");

	(void)state;
	assert_non_null(k);
	assert_int_equal(k->type, CLUSTER_SLURM);
	assert_int_equal(k->line, 3);
	assert_string_equal(k->hosts[0], "a");
	assert_string_equal(k->hosts[1], "b.example.org");
	assert_string_equal(k->hosts[2], "c");
	assert_null(k->hosts[3]);
	assert_string_equal(k->user, "me");
	assert_int_equal(k->port, 2222);
	assert_string_equal(k->identity_file, "~/.ssh/id");
	assert_string_equal(k->ssh_config, "/etc/cfg");
	assert_string_equal(k->transport, "libssh2");
	assert_string_equal(k->directory, "~/ctl");
	assert_string_equal(k->scratch, "/scratch/me");
	assert_string_equal(k->setup, "module load a ; export B=c # d\nsecond");
	assert_int_equal(k->tick_ms, 200);
	assert_string_equal(json_string_value(json_object_get(k->defaults, "partition")), "gpu");
	assert_string_equal(json_string_value(json_object_get(k->defaults, "nodes")), "2");
	assert_string_equal(json_string_value(json_object_get(json_object_get(k->defaults, "env"), "B")), "x ; y");
	assert_string_equal(c->default_cluster, "demo");
	config_free(c);
}

static void what_is_not_said_has_a_default(void **state)
{
	struct config *c = parse("[cluster x]\nhost = h\n");
	const struct cluster_conf *k = config_cluster(c, "x");

	(void)state;
	assert_string_equal(k->directory, "~/.slurmray");
	assert_string_equal(k->scratch, "~/.slurmray");
	assert_string_equal(k->transport, "auto");
	assert_null(k->user);
	assert_null(k->setup);
	assert_int_equal(k->port, 0);
	assert_int_equal(k->tick_ms, 0);
	config_free(c);
}

static void ray_through_ssh(void **state)
{
	struct config *c = parse("[cluster x]\ntype = ray\nhost = gate\nuser = me\n"
				 "[cluster y]\ntype = ray\nhost = a, b\naddress = head:8265\n");
	const struct cluster_conf *k = config_cluster(c, "x");

	(void)state;
	assert_string_equal(k->address, "http://127.0.0.1:8265");
	assert_string_equal(k->hosts[0], "gate");
	assert_string_equal(k->user, "me");
	k = config_cluster(c, "y");
	assert_string_equal(k->address, "head:8265");
	assert_string_equal(k->hosts[1], "b");
	config_free(c);
}

static void the_default_cluster(void **state)
{
	static const struct {
		const char *text, *want;
	} rows[] = {
		{ "[cluster a]\nhost=a\n", "a" },
		{ "[cluster a]\nhost=a\n[cluster local]\nenv.A=1\n", "a" },
		{ "[cluster local]\nenv.A=1\n", "local" },
		{ "[cluster a]\nhost=a\n[cluster b]\nhost=b\n", NULL },
		{ "[cluster a]\nhost=a\n[cluster b]\nhost=b\n[defaults]\ncluster=b\n", "b" },
		{ "[defaults]\ncluster=local\n[cluster a]\nhost=a\n", "local" },
		{ "[cluster here]\ntype=local\n", "here" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct config *c = parse(rows[i].text);

		assert_non_null(config_cluster(c, "local"));
		if (!rows[i].want)
			assert_null(c->default_cluster);
		else
			assert_string_equal(c->default_cluster, rows[i].want);
		config_free(c);
	}
}

static void mistakes_have_a_line_and_a_sentence(void **state)
{
	static const struct {
		const char *text, *want;
	} rows[] = {
		{ "[cluster a]\nhots = x\nhost=a\n", "conf:2: unknown key 'hots': did you mean 'host'?" },
		{ "[cluster a]\nhost=a\ntrasnport = auto\n",
		  "conf:3: unknown key 'trasnport': did you mean 'transport'?" },
		{ "[cluster a]\nhost=a\npartitoin = x\n",
		  "conf:3: unknown key 'partitoin': did you mean 'partition'?" },
		{ "[cluster a]\nhost=a\nxyzzyplugh = x\n", "conf:3: unknown key 'xyzzyplugh'" },
		{ "[defaults]\ntiem = 3\n", "did you mean 'time'?" },
		{ "[defaults]\ntime = soon\n", "conf:2: " },
		{ "[defaults]\nnodes = many\n", "conf:2: " },
		{ "[defaults]\nhost = a\n", "conf:2: 'host' belongs into a section [cluster NAME]" },
		{ "[defaults]\narray = 1-3\n", "conf:2: " },
		{ "[defaults]\n\ncluster = x\n[cluster y]\nhost = h\n",
		  "conf:3: cluster = x: there is no [cluster x]" },
		{ "[defaults]\ncluster = hcp\n[cluster hpc]\nhost = h\n",
		  "conf:2: cluster = hcp: there is no [cluster hcp]: did you mean 'hpc'?" },
		{ "[defaults]\ntime = 1\nprofile = gpus\n[profile big]\ntime = 2\n[profile gpu]\ntime = 3\n",
		  "conf:3: profile = gpus: there is no [profile gpus]: did you mean 'gpu'?" },
		{ "[profile p]\nargs = a b\n", "conf:2: 'args' belongs to the script of a spec, and is no default" },
		{ "[defaults]\nprofile = x\n", "conf:2: profile = x: there is no [profile x]" },
		{ "[profile p]\ntime = 1\ncluster = lokal\n",
		  "conf:3: cluster = lokal: there is no [cluster lokal]: did you mean 'local'?" },
		{ "[cluster a]\nhost = a\nprofile = p\n[profile p]\n",
		  "conf:3: 'profile' has no use in the section of a cluster; it belongs into [defaults]" },
		{ "[profile p]\nprofile = q\n[profile q]\n",
		  "conf:2: 'profile' has no use in the section of a profile; it belongs into [defaults]" },
		{ "[cluster a]\nhost=a\ncluster=b\n", "conf:3: 'cluster' has no use" },
		{ "[cluster a]\nhost=a\ntype=kuberay\n",
		  "conf:3: type = kuberay: this version has slurm, ray and local" },
		{ "[cluster a]\ntype=ray\n", "needs one of: address" },
		{ "[cluster a]\ntype=ray\naddress=ray://a:10001\n", "conf:3: address = ray://a:10001" },
		{ "[cluster a]\ntype=ray\naddress=a:1\nstart=local\n", "needs one of: address" },
		{ "[cluster a]\ntype=ray\naddress=a:1\nheaders=X y: z\n", "Name: value" },
		{ "[cluster a]\ntype=ray\naddress=a:1\ntoken=a\ntoken_file=/b\n", "there is token already" },
		{ "[cluster a]\ntype=ray\nhost=a\nstart=local\n", "needs no host" },
		{ "[cluster a]\nhost=a\naddress=a:1\n", "belong to type = ray" },
		{ "[cluster a]\ntype=ray\naddress=a:1\ndirectory=/x\n", "no use with type = ray" },
		{ "[cluster a]\nhost=a\ntype=kuberay\n", "this version" },
		{ "[cluster a]\nhost=a\ntype=pbs\n", "must be slurm, ray or local" },
		{ "[cluster local]\ntype=slurm\n", "is this machine" },
		{ "[cluster local]\nhost=x\n", "conf:1: cluster 'local' is local, which has no host" },
		{ "\n\n[cluster a]\nuser = b\n", "conf:3: cluster 'a' needs a host" },
		{ "[cluster a]\nhost=a\ntransport=openssh\n", "this version has libssh2 only" },
		{ "[cluster a]\nhost=a\ntransport=local\n", "this version has libssh2 only" },
		{ "[cluster a]\nhost=a\ntransport=pigeon\n", "must be auto or libssh2" },
		{ "[cluster a]\nhost=a\nport=0\n", "from 1 to 65535" },
		{ "[cluster a]\nhost=a\nport=22x\n", "from 1 to 65535" },
		{ "[cluster a]\nhost=a\nport=99999999999999999999\n", "from 1 to 65535" },
		{ "[cluster a]\nhost=a\ntick=-1\n", "tick = -1" },
		{ "[cluster a]\nhost=a\ndirectory=relative\n", "must begin with / or ~/" },
		{ "[cluster a]\nhost=a\ndirectory=~/\n", "name a directory of its own" },
		{ "[cluster a]\nhost=a\ndirectory=/\n", "name a directory of its own" },
		{ "[cluster a]\nhost=a\nscratch=~me/x\n", "must begin with / or ~/" },
		{ "[cluster a]\nhost=-oProxyCommand=x\n", "cannot begin with '-'" },
		{ "[cluster a]\nhost=a b\n", "commas separate names" },
		{ "[cluster a]\nhost=a,,b\n", "a name is missing" },
		{ "[cluster a]\nhost=,b\n", "a name is missing" },
		{ "[cluster a]\nhost=a, \n", "a name is missing" },
		{ "[cluster a]\nhost=\n", "conf:2: host: the value is missing" },
		{ "[cluster a]\nhost=a\nuser=-l\n", "cannot begin with '-'" },
		{ "[cluster a]\nhost=a\nhost=b\n", "conf:3: 'host' is already in line 2" },
		{ "[cluster a]\nhost=a\nidentity_file=/a\nidentity-file=/b\n", "is already in line 3" },
		{ "[cluster a]\nhost=a\n[cluster a]\nhost=b\n", "conf:3: cluster 'a' is already in line 1" },
		{ "[profile a]\n[profile a]\n", "conf:2: profile 'a' is there twice" },
		{ "[defaults]\n\n[defaults]\n", "conf:3: [defaults] is already in line 1" },
		{ "[cluster]\nhost=a\n", "conf:1: [cluster] needs a name" },
		{ "[cluster a/b]\nhost=a\n", "must be letters" },
		{ "[cluster -a]\nhost=a\n", "must be letters" },
		{ "[cluser a]\nhost=a\n", "conf:1: there is no section [cluser a]" },
		{ "[defaults x]\n", "there is no section [defaults x]" },
		{ "[]\n", "there is no section" },
		{ "[cluster a\nhost=a\n", "conf:1: the ']' of the section is missing" },
		{ "[cluster a] x\nhost=a\n", "behind the section's ']'" },
		{ "host = a\n", "conf:1: 'host' is in no section" },
		{ "[defaults]\njust words\n", "conf:2: this is neither KEY = VALUE" },
		{ "[defaults]\njust words", "conf:2: this is neither KEY = VALUE" },
		{ "[defaults]\npartition = gpu # fast\n", "conf:2: partition: comments go on lines of their own" },
		{ "[cluster a]\nhost = a ; the first\n", "conf:2: host: comments go on lines of their own" },
		{ "[defaults]\ncommand = \xff\n", "conf:2: command: the value is not UTF-8" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		expect_mistake(rows[i].text, rows[i].want);
}

static void later_keys_say_so(void **state)
{
	static const char *const keys[] = { "auth_command", "transfer_host", "max_queued", "max_runs",
					    "max_node_hours" };
	char text[128], want[128];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		(void)snprintf(text, sizeof(text), "[cluster a]\nhost = a\n%s = 1\n", keys[i]);
		(void)snprintf(want, sizeof(want), "conf:3: '%s' is not possible yet", keys[i]);
		expect_mistake(text, want);
		(void)snprintf(text, sizeof(text), "[defaults]\n%s = 1\n", keys[i]);
		expect_mistake(text, "is not possible yet");
	}
}

/* `keep` and `cache_size`: of a cluster, and of [defaults]. */
static void what_stays(void **state)
{
	static const struct {
		const char *text, *want;
	} wrong[] = {
		{ "[defaults]\nkeep = 30\n", "conf:2: keep = 30: must be a time after the end of a run, like 30d" },
		{ "[defaults]\nkeep = 0d\n", "must be a time" },
		{ "[defaults]\nkeep = -1d\n", "must be a time" },
		{ "[defaults]\nkeep = 3 d\n", "must be a time" },
		{ "[defaults]\nkeep = 3dd\n", "must be a time" },
		{ "[defaults]\nkeep = 99999999999999999999d\n", "must be a time" },
		{ "[defaults]\nkeep =\n", "keep: the value is missing" },
		{ "[defaults]\ncache_size = much\n", "cache_size = much: must be a size, like 20G" },
		{ "[defaults]\ncache_size = 0\n", "must be a size" },
		{ "[defaults]\ncache_size = 1G\ncache_size = 2G\n", "already in line 2" },
		{ "[profile p]\nkeep = 3d\n", "'keep' belongs into a section [cluster NAME]" },
	};
	struct config *c = parse("[cluster a]\nhost = a\nkeep = 36h\ncache_size = 500M\n"
				 "[cluster b]\nhost = b\nkeep = null\ncache_size = null\n[cluster c]\nhost = c\n"
				 "[defaults]\nkeep = 2w\ncache_size = 20G\n");

	(void)state;
	assert_int_equal(config_keep(c, "a"), 36 * 3600);
	assert_int_equal(config_keep(c, "b"), 0);
	assert_int_equal(config_keep(c, "c"), 14 * 86400);
	assert_int_equal(config_keep(c, "local"), 14 * 86400);
	assert_int_equal(config_keep(c, "other"), 0);
	assert_int_equal(config_keep(c, NULL), 0);
	assert_int_equal(config_cluster(c, "a")->cache_bytes, 500LL * 1024 * 1024);
	assert_int_equal(config_cluster(c, "b")->cache_bytes, 0);
	assert_int_equal(config_cluster(c, "c")->cache_bytes, CONFIG_UNSAID);
	assert_true(c->cache_bytes == 20LL * 1024 * 1024 * 1024);
	config_free(c);
	c = parse("[defaults]\nkeep = 90s\n");
	assert_int_equal(config_keep(c, "local"), 90);
	assert_int_equal(c->cache_bytes, 0);
	config_free(c);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		expect_mistake(wrong[i].text, wrong[i].want);
}

static void all_mistakes_are_told(void **state)
{
	struct config *c = NULL;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(config_parse("[cluster a]\nprot = 1\nnonsense\ntype = x\n[bad]\nskipped = 1\n", "f", &c, &e),
			 -EINVAL);
	assert_string_equal(
		e.text, "f:2: unknown key 'prot': did you mean 'port'?\n"
			"f:3: this is neither KEY = VALUE nor [SECTION] nor a # comment\n"
			"f:4: type = x: must be slurm, ray or local\n"
			"f:5: there is no section [bad]: use [defaults], [cluster NAME], [profile NAME]\n"
			"f:1: cluster 'a' needs a host: host = NAME (an alias of the ssh configuration, or a name)");
}

/* inih would cut lines at its buffer and section names at 50 bytes. */
static void nothing_is_cut(void **state)
{
	struct strbuf sb = STRBUF_INIT;
	struct config *c;

	(void)state;
	strbuf_addstr(&sb, "[cluster ");
	for (int i = 0; i < 100; i++)
		strbuf_addch(&sb, 'n');
	strbuf_addstr(&sb, "]\nhost = h\nsetup = ");
	for (int i = 0; i < 65000; i++)
		strbuf_addch(&sb, 's');
	c = parse(sb.buf);
	assert_int_equal(strlen(c->clusters[0]->name), 100);
	assert_int_equal(strlen(c->clusters[0]->setup), 65000);
	config_free(c);
	for (int i = 0; i < 600; i++)
		strbuf_addch(&sb, 's');
	strbuf_addstr(&sb, "\nuser = u\n");
	expect_mistake(sb.buf, "conf:3: this line has 65608 bytes");
	strbuf_release(&sb);
}

static void files_are_read(void **state)
{
	char path[] = "/tmp/test_config_XXXXXX";
	int fd = mkstemp(path);
	struct config *c = NULL;
	struct err e = ERR_INIT;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "[cluster a]\nhost=a\n", 19), 19);
	assert_int_equal(config_load(path, true, &c, &e), 0);
	assert_string_equal(c->path, path);
	config_free(c);
	assert_int_equal(write(fd, "\0", 1), 1);
	assert_int_equal(config_load(path, true, &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "NUL"));
	assert_int_equal(ftruncate(fd, 2 << 20), 0);
	assert_int_equal(config_load(path, true, &c, &e), -EFBIG);
	(void)close(fd);
	(void)unlink(path);
	assert_int_equal(config_load(path, true, &c, &e), -ENOENT);
	assert_non_null(strstr(e.text, path));
	assert_int_equal(config_load(path, false, &c, &e), 0);
	assert_null(c->path);
	assert_string_equal(c->default_cluster, "local");
	config_free(c);
	assert_int_not_equal(config_load("/proc", false, &c, &e), 0);
}

static void the_default_path(void **state)
{
	cleanup_free char *home = xstrdup(getenv("HOME")), *xdg = xstrdup(getenv("XDG_CONFIG_HOME"));
	char *path;

	(void)state;
	(void)setenv("HOME", "/h", 1);
	(void)setenv("XDG_CONFIG_HOME", "/x", 1);
	path = config_default_path();
	assert_string_equal(path, "/x/slurmray/config");
	free(path);
	(void)setenv("XDG_CONFIG_HOME", "relative", 1);
	path = config_default_path();
	assert_string_equal(path, "/h/.config/slurmray/config");
	free(path);
	(void)(xdg ? setenv("XDG_CONFIG_HOME", xdg, 1) : unsetenv("XDG_CONFIG_HOME"));
	(void)(home ? setenv("HOME", home, 1) : unsetenv("HOME"));
}

/* ---- merging ---- */

static const char site[] = "[defaults]\ntime = 1:00:00\nenv.A = d\nenv.B = d\ntags = t1,t2\ncluster = hpc\nmem = 4G\n"
			   "[cluster hpc]\nhost = login\npartition = std\nenv.B = c\nenv.C = c\naccount = acc\n"
			   "[cluster two]\nhost = two\n"
			   "[profile big]\nnodes = 4\nenv.C = p\nqos = null\ntags = t3\nmem_per_cpu = 2G\n"
			   "[profile there]\ncluster = two\n";

/* The effective text of a spec in JSON, or the errors. */
static int resolve(const char *conf, const char *spec_text, const char *hint, struct strbuf *out)
{
	struct config *c = parse(conf);
	json_t *spec = json_loads(spec_text, 0, NULL);
	struct effective eff;
	int rc;

	assert_non_null(spec);
	rc = config_resolve(c, spec, hint, &eff, out);
	if (!rc) {
		effective_text(&eff, out);
		effective_release(&eff);
	}
	json_decref(spec);
	config_free(c);
	return rc;
}

static void expect_effective(const char *conf, const char *spec, const char *hint, const char *want)
{
	struct strbuf out = STRBUF_INIT;

	if (resolve(conf, spec, hint, &out))
		fail_msg("refused: %s", out.buf);
	if (!strstr(out.buf, want))
		fail_msg("no %s in\n%s", want, out.buf);
	strbuf_release(&out);
}

static void expect_absent(const char *conf, const char *spec, const char *key)
{
	struct strbuf out = STRBUF_INIT;

	if (resolve(conf, spec, NULL, &out))
		fail_msg("refused: %s", out.buf);
	if (strstr(out.buf, key))
		fail_msg("%s is in\n%s", key, out.buf);
	strbuf_release(&out);
}

static void expect_refused(const char *conf, const char *spec, const char *hint, const char *want)
{
	struct strbuf out = STRBUF_INIT;

	if (resolve(conf, spec, hint, &out) != -EINVAL)
		fail_msg("accepted: %s", out.buf);
	if (!strstr(out.buf, want))
		fail_msg("'%s' does not say '%s'", out.buf, want);
	strbuf_release(&out);
}

static void the_document_is_json_with_a_key_a_line(void **state)
{
	struct strbuf out = STRBUF_INIT;

	(void)state;
	assert_int_equal(resolve(site, "{\"command\": \"a \\\"b\\\"\\n\", \"nodes\": \"2\", \"env\": {\"Z\": \"1\"}}",
				 NULL, &out),
			 0);
	assert_string_equal(out.buf, "{\n"
				     "\"account\": {\"value\": \"acc\", \"source\": \"cluster hpc\"},\n"
				     "\"cluster\": {\"value\": \"hpc\", \"source\": \"defaults\"},\n"
				     "\"command\": {\"value\": \"a \\\"b\\\"\\n\", \"source\": \"spec\"},\n"
				     "\"env\": {\"value\": {\"A\": \"d\", \"B\": \"c\", \"C\": \"c\", \"Z\": \"1\"}, "
				     "\"source\": \"spec, cluster hpc, defaults\"},\n"
				     "\"launcher\": {\"value\": \"bash\", \"source\": \"built in\"},\n"
				     "\"mem\": {\"value\": \"4G\", \"source\": \"defaults\"},\n"
				     "\"nodes\": {\"value\": \"2\", \"source\": \"spec\"},\n"
				     "\"partition\": {\"value\": \"std\", \"source\": \"cluster hpc\"},\n"
				     "\"requeue\": {\"value\": false, \"source\": \"built in\"},\n"
				     "\"streams\": {\"value\": \"split\", \"source\": \"built in\"},\n"
				     "\"tags\": {\"value\": [\"t1\", \"t2\"], \"source\": \"defaults\"},\n"
				     "\"time\": {\"value\": \"1:00:00\", \"source\": \"defaults\"}\n"
				     "}\n");
	json_t *doc = json_loads(out.buf, 0, NULL);

	assert_non_null(doc);
	json_decref(doc);
	strbuf_release(&out);
}

static void ranks_are_kept(void **state)
{
	(void)state;
	expect_effective(site, "{\"command\": \"x\", \"profile\": \"big\"}", NULL,
			 "\"nodes\": {\"value\": \"4\", \"source\": \"profile big\"}");
	expect_effective(site, "{\"command\": \"x\", \"profile\": \"big\", \"nodes\": \"1\"}", NULL,
			 "\"nodes\": {\"value\": \"1\", \"source\": \"spec\"}");
	expect_effective(
		site, "{\"command\": \"x\", \"profile\": \"big\"}", NULL,
		"{\"A\": \"d\", \"B\": \"c\", \"C\": \"p\"}, \"source\": \"profile big, cluster hpc, defaults\"");
	expect_effective(site, "{\"command\": \"x\", \"profile\": \"big\"}", NULL,
			 "\"tags\": {\"value\": [\"t3\"], \"source\": \"profile big\"}");
	expect_effective(site, "{\"command\": \"x\", \"profile\": \"big\"}", NULL, "\"mem_per_cpu\"");
	expect_absent(site, "{\"command\": \"x\", \"profile\": \"big\"}", "\"mem\"");
	expect_absent(site, "{\"command\": \"x\", \"partition\": null}", "\"partition\"");
	expect_absent(site, "{\"command\": \"x\", \"env\": null}", "\"env\"");
	expect_effective(site, "{\"command\": \"x\", \"env\": {\"A\": null}}", NULL, "{\"B\": \"c\", \"C\": \"c\"}");
	expect_absent(site, "{\"command\": \"x\", \"env\": {\"A\": null, \"B\": null, \"C\": null}}", "\"env\"");
	expect_absent(site, "{\"command\": \"x\", \"cluster\": \"two\"}", "\"account\"");
	expect_absent("[defaults]\ncommand = a\n", "{\"script\": \"#!/bin/sh\\n\"}", "\"command\"");
	expect_effective("[profile p]\ncommand = a\n", "{\"profile\": \"p\"}", NULL, "\"profile p\"");
	expect_absent("[cluster h]\nhost=h\n", "{\"command\": \"x\"}", "\"grace\"");
	expect_effective("", "{\"command\": \"x\"}", NULL, "\"grace\": {\"value\": 10, \"source\": \"built in\"}");
}

static void the_cluster_is_chosen(void **state)
{
	static const char two[] = "[cluster a]\nhost=a\n[cluster b]\nhost=b\n";

	(void)state;
	expect_effective(site, "{\"command\": \"x\", \"profile\": \"there\"}", NULL,
			 "\"cluster\": {\"value\": \"two\", \"source\": \"profile there\"}");
	expect_effective(two, "{\"command\": \"x\"}", "b", "\"cluster\": {\"value\": \"b\"");
	expect_effective(two, "{\"command\": \"x\", \"cluster\": \"b\"}", "b",
			 "\"cluster\": {\"value\": \"b\", \"source\": \"spec\"}");
	expect_effective(two, "{\"command\": \"x\", \"mode\": \"local\"}", NULL, "\"cluster\": {\"value\": \"local\"");
	expect_refused(two, "{\"command\": \"x\", \"cluster\": \"a\"}", "b",
		       "the spec says a, and was written to clusters/b");
	expect_refused(two, "{\"command\": \"x\"}", NULL, "say cluster=NAME, one of: a, b, local");
	expect_refused(two, "{\"command\": \"x\", \"cluster\": \"c\"}", NULL, "there is no 'c'; there is: a, b, local");
	expect_refused(two, "{\"command\": \"x\", \"cluster\": \"a\", \"mode\": \"local\"}", NULL, "mode=local");
	expect_refused(two, "{\"command\": \"x\", \"cluster\": \"local\", \"mode\": \"slurm\"}", NULL, "mode=slurm");
	expect_refused(site, "{\"command\": \"x\", \"profile\": \"nope\"}", NULL, "there is no [profile nope]");
	expect_refused(site, "{\"nodes\": \"1\"}", NULL, "nothing to run");
}

static void local_ignores_placement(void **state)
{
	static const char spec[] =
		"{\"command\": \"x\", \"partition\": \"gpu\", \"qos\": \"q\", \"account\": \"a\", "
		"\"nodes\": \"1-4\", \"gpus\": \"0\", \"gres\": \"none\", \"tmp\": \"1G\", \"requeue\": true}";

	(void)state;
	expect_effective("", spec, NULL, "\"partition\": {\"value\": \"gpu\", \"ignored\": \"placement:");
	expect_effective("", spec, NULL, "\"qos\": {\"value\": \"q\", \"ignored\":");
	expect_effective("", spec, NULL, "\"tmp\": {\"value\": \"1G\", \"ignored\":");
	expect_effective("", spec, NULL, "\"requeue\": {\"value\": true, \"ignored\":");
	expect_effective("", spec, NULL, "\"nodes\": {\"value\": \"1-4\", \"source\":");
	expect_effective("[cluster h]\nhost=h\n", spec, NULL, "\"partition\": {\"value\": \"gpu\", \"source\":");
}

static void local_refuses_what_it_cannot_give(void **state)
{
	static const struct {
		const char *spec, *want; /* NULL: fine */
	} rows[] = {
		{ "\"nodes\": \"2\"", "nodes: cluster local is this machine" },
		{ "\"nodes\": \"2-4\"", "nodes:" },
		{ "\"nodes\": \"10\"", "nodes:" },
		{ "\"nodes\": \"1k\"", "nodes:" },
		{ "\"nodes\": \"1,3\"", NULL },
		{ "\"gpus\": \"1\"", "gpus:" },
		{ "\"gpus\": \"a100:1\"", "gpus:" },
		{ "\"gpus_per_node\": \"a100\"", "gpus_per_node:" },
		{ "\"gres\": \"shm:0,gpu:1\"", "gres:" },
		{ "\"gres\": \"gpu:a100:0\"", NULL },
		{ "\"gpus_per_task\": \"0\"", NULL },
		{ "\"ntasks\": 4", NULL },
		{ "\"ntasks\": 5", "5 processors are asked for, this machine has 4" },
		{ "\"ntasks\": 2, \"cpus_per_task\": 3", "6 processors" },
		{ "\"ntasks_per_node\": 3, \"cpus_per_task\": 2", "6 processors" },
		{ "\"ntasks\": 4000000000000, \"cpus_per_task\": 4000000000000", "processors" },
		{ "\"mem\": \"8G\"", NULL },
		{ "\"mem\": \"8193\"", "mem: more than the 8192 MiB" },
		{ "\"mem\": \"0\"", NULL },
		{ "\"mem_per_cpu\": \"4G\", \"ntasks\": 2", NULL },
		{ "\"mem_per_cpu\": \"4G\", \"ntasks\": 3", "mem_per_cpu: more than" },
		{ "\"begin\": \"16:00\"", "begin:" },
		{ "\"dependency\": \"singleton\"", "dependency=singleton" },
	};
	char spec[256];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		(void)snprintf(spec, sizeof(spec), "{\"command\": \"x\", %s}", rows[i].spec);
		if (rows[i].want)
			expect_refused("", spec, NULL, rows[i].want);
		else
			expect_effective("", spec, NULL, "\"value\"");
	}
	expect_effective("[cluster h]\nhost=h\n", "{\"command\": \"x\", \"nodes\": \"99\", \"mem\": \"4T\"}", NULL,
			 "\"99\"");
}

static void all_reasons_are_told(void **state)
{
	struct strbuf out = STRBUF_INIT;
	int lines = 1;

	(void)state;
	assert_int_equal(resolve("", "{\"nodes\": \"2\", \"gpus\": \"1\", \"ntasks\": 99}", NULL, &out), -EINVAL);
	for (const char *s = out.buf; (s = strchr(s, '\n')); s++)
		lines++;
	assert_int_equal(lines, 4);
	strbuf_release(&out);
}

static void the_configuration_stays_as_it_is(void **state)
{
	struct config *c = parse(site);
	const struct cluster_conf *k = config_cluster(c, "hpc");
	json_t *spec = json_loads("{\"command\": \"x\", \"profile\": \"big\", \"env\": {\"A\": \"s\"}}", 0, NULL);
	json_t *defaults = json_deep_copy(c->defaults), *cluster = json_deep_copy(k->defaults),
	       *copy = json_deep_copy(spec);
	struct effective eff;
	struct strbuf errors = STRBUF_INIT;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(config_resolve(c, spec, NULL, &eff, &errors), 0);
		assert_ptr_equal(eff.cluster, k);
		effective_release(&eff);
	}
	assert_true(json_equal(defaults, c->defaults));
	assert_true(json_equal(cluster, k->defaults));
	assert_true(json_equal(copy, spec));
	json_decref(defaults);
	json_decref(cluster);
	json_decref(copy);
	json_decref(spec);
	config_free(c);
	strbuf_release(&errors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_file_gives_local),
		cmocka_unit_test(names_of_sections),
		cmocka_unit_test(a_cluster_has_its_keys),
		cmocka_unit_test(what_is_not_said_has_a_default),
		cmocka_unit_test(ray_through_ssh),
		cmocka_unit_test(the_default_cluster),
		cmocka_unit_test(mistakes_have_a_line_and_a_sentence),
		cmocka_unit_test(later_keys_say_so),
		cmocka_unit_test(all_mistakes_are_told),
		cmocka_unit_test(what_stays),
		cmocka_unit_test(nothing_is_cut),
		cmocka_unit_test(files_are_read),
		cmocka_unit_test(the_default_path),
		cmocka_unit_test(the_document_is_json_with_a_key_a_line),
		cmocka_unit_test(ranks_are_kept),
		cmocka_unit_test(the_cluster_is_chosen),
		cmocka_unit_test(local_ignores_placement),
		cmocka_unit_test(local_refuses_what_it_cannot_give),
		cmocka_unit_test(all_reasons_are_told),
		cmocka_unit_test(the_configuration_stays_as_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
