/*
 * The reader of `ssh -G`, and the run of a real and of several false ssh programs.
 */
#include "backend/ssh_config.h"

#include "backend/base/clock.h"
#include "backend/base/mem.h"
#include "backend/config.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];

static const char sample[] = "user alice\n"
			     "hostname login1.example.org\n"
			     "port 2222\n"
			     "addressfamily inet6\n"
			     "identitiesonly yes\n"
			     "pubkeyauthentication true\n"
			     "serveraliveinterval 30\n"
			     "serveralivecountmax 4\n"
			     "connecttimeout 7\n"
			     "globalknownhostsfile /etc/ssh/ssh_known_hosts\n"
			     "userknownhostsfile ~/.ssh/known_hosts \"/with blank/known\" ~/.ssh/k_%k\n"
			     "identityfile ~/.ssh/id_a\n"
			     "identityfile /keys/%r@%h-%p\n"
			     "identityfile /keys/%Z\n"
			     "identityagent ~/agent.sock\n"
			     "hostkeyalias cluster\n"
			     "ciphers aes128-ctr\n"
			     "unknownkey\n";

static void reads_what_ssh_prints(void **state)
{
	struct ssh_config c;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(ssh_config_parse(sample, &c, &e), 0);
	ssh_config_expand(&c, "hpc", "/home/al", "al", 1000);
	assert_string_equal(c.hostname, "login1.example.org");
	assert_string_equal(c.user, "alice");
	assert_int_equal(c.port, 2222);
	assert_int_equal(c.family, SSH_FAMILY_INET6);
	assert_true(c.identities_only);
	assert_false(c.no_pubkey);
	assert_int_equal(c.alive_interval, 30);
	assert_int_equal(c.alive_count, 4);
	assert_int_equal(c.connect_timeout, 7);
	assert_string_equal(c.identity_agent, "/home/al/agent.sock");
	assert_string_equal(c.host_key_alias, "cluster");
	assert_null(c.proxy);
	assert_int_equal(c.n_known_hosts, 4);
	assert_string_equal(c.known_hosts[0], "/home/al/.ssh/known_hosts");
	assert_string_equal(c.known_hosts[1], "/with blank/known");
	assert_string_equal(c.known_hosts[2], "/home/al/.ssh/k_cluster");
	assert_string_equal(c.known_hosts[3], "/etc/ssh/ssh_known_hosts");
	assert_null(c.known_hosts[4]);
	assert_int_equal(c.n_identity_files, 2);
	assert_string_equal(c.identity_files[0], "/home/al/.ssh/id_a");
	assert_string_equal(c.identity_files[1], "/keys/alice@login1.example.org-2222");
	ssh_config_release(&c);
}

static void none_and_defaults(void **state)
{
	struct ssh_config c;

	(void)state;
	assert_int_equal(
		ssh_config_parse(
			"hostname h\r\nproxycommand none\nconnecttimeout none\nuserknownhostsfile none\n"
			"hostkeyalias none\nidentityagent none\npubkeyauthentication no\nidentityfile \"/a b\"",
			&c, NULL),
		0);
	assert_string_equal(c.hostname, "h");
	assert_int_equal(c.port, 22);
	assert_null(c.proxy);
	assert_null(c.host_key_alias);
	assert_int_equal(c.connect_timeout, 0);
	assert_int_equal(c.n_known_hosts, 0);
	assert_true(c.no_pubkey);
	assert_string_equal(c.identity_files[0], "/a b");
	assert_string_equal(c.identity_agent, "none");
	ssh_config_release(&c);
	assert_int_equal(ssh_config_parse("hostname h\nproxyjump gate,inner\n", &c, NULL), 0);
	assert_string_equal(c.proxy, "proxyjump gate,inner");
	ssh_config_release(&c);
}

static void refuses_what_makes_no_sense(void **state)
{
	static const char *const bad[] = { "",
					   "\n\n",
					   "user x\n",
					   "hostname \n",
					   "hostname h\nport 70000\n",
					   "hostname h\nport x\n",
					   "hostname h\nport -1\n",
					   "hostname h\nserveraliveinterval 1h\n",
					   "hostname h\nconnecttimeout 99999999999999999999\n" };
	struct ssh_config c;
	size_t i;

	(void)state;
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err e = ERR_INIT;

		assert_int_equal(ssh_config_parse(bad[i], &c, &e), -EINVAL);
		assert_true(strlen(e.text) > 0);
	}
}

static void put(const char *name, const char *text, mode_t mode)
{
	char path[160];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	(void)fputs(text, f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, mode), 0);
}

static int load(struct cluster_conf *conf, struct ssh_config *c, struct err *e)
{
	return ssh_config_load(conf, 0, c, e);
}

static void asks_the_real_ssh(void **state)
{
	char *hosts[] = { (char *)(uintptr_t) "hpc", NULL };
	char file[96], key[96];
	struct cluster_conf conf = { .hosts = hosts, .ssh_config = file, .port = 2200, .identity_file = key };
	struct ssh_config c;
	struct err e = ERR_INIT;

	(void)state;
	if (system("command -v ssh >/dev/null 2>&1") != 0)
		skip();
	(void)snprintf(file, sizeof(file), "%s/config", dir);
	(void)snprintf(key, sizeof(key), "%s/a key", dir);
	assert_int_equal(load(&conf, &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "a key"));
	put("a key.pub", "ssh-ed25519 AAAA\n", 0600);
	put("config",
	    "Host hpc\n HostName real.example.org\n User bob\n ProxyJump gate\n UserKnownHostsFile ~/kh1 ~/kh2\n",
	    0600);
	assert_int_equal(load(&conf, &c, &e), 0);
	assert_string_equal(c.hostname, "real.example.org");
	assert_string_equal(c.user, "bob");
	assert_int_equal(c.port, 2200);
	assert_string_equal(c.proxy, "proxyjump gate");
	assert_string_equal(c.identity_files[0], key);
	assert_true(c.known_hosts[1][0] == '/' && strstr(c.known_hosts[1], "/kh2"));
	ssh_config_release(&c);
	put("config", "Host hpc\n Nonsense yes\n", 0600);
	assert_int_equal(load(&conf, &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "onsense"));
	hosts[0] = (char *)(uintptr_t) "-oProxyCommand=evil";
	assert_int_equal(load(&conf, &c, &e), -EINVAL);
}

static void false_ssh_programs(void **state)
{
	char *hosts[] = { (char *)(uintptr_t) "h.example", NULL };
	struct cluster_conf conf = { .hosts = hosts, .user = (char *)(uintptr_t) "carol" };
	cleanup_free char *path = xstrdup(getenv("PATH"));
	struct ssh_config c;
	struct err e = ERR_INIT;
	int64_t t0;

	(void)state;
	(void)setenv("PATH", dir, 1);
	/* None at all. */
	assert_int_equal(load(&conf, &c, &e), 0);
	assert_string_equal(c.hostname, "h.example");
	assert_string_equal(c.user, "carol");
	assert_int_equal(c.port, 22);
	assert_int_equal(c.n_identity_files, 3);
	assert_int_equal(c.n_known_hosts, 4);
	ssh_config_release(&c);
	/* One that fails, one that prints no end, one that hangs with a child that keeps the pipe. */
	put("ssh", "#!/bin/sh\necho 'line 3: bad' >&2\nexit 255\n", 0755);
	assert_int_equal(load(&conf, &c, &e), -EINVAL);
	assert_non_null(strstr(e.text, "line 3: bad"));
	put("ssh", "#!/bin/sh\nexec /usr/bin/yes\n", 0755);
	assert_int_equal(load(&conf, &c, &e), -EFBIG);
	put("ssh", "#!/bin/sh\n/bin/sleep 60 &\n/bin/sleep 60\n", 0755);
	t0 = clock_mono(&clock_system);
	assert_int_equal(load(&conf, &c, &e), -ETIMEDOUT);
	assert_true(clock_mono(&clock_system) - t0 < 30 * (int64_t)USEC_PER_SEC);
	(void)setenv("PATH", path, 1);
}

static int setup(void **state)
{
	(void)state;
	(void)snprintf(dir, sizeof(dir), "/tmp/test_ssh_config.XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[128];

	(void)state;
	(void)snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_what_ssh_prints),       cmocka_unit_test(none_and_defaults),
		cmocka_unit_test(refuses_what_makes_no_sense), cmocka_unit_test(asks_the_real_ssh),
		cmocka_unit_test(false_ssh_programs),
	};

	return cmocka_run_group_tests_name("ssh_config", tests, setup, teardown);
}
