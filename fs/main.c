/*
 * slurmray(1): the command line. Only `mount` does anything by itself; every other sub-command is a client of the
 * files.
 */
#include "fs/client.h"
#include "fs/keeper.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/near.h"
#include "backend/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char help_text[] =
	"usage: slurmray mount DIR [--config FILE] [--state DIR] [--foreground] [--verbose]\n"
	"                          [--allow-other --allow-uid UID,...]\n"
	"       slurmray umount DIR\n"
	"       slurmray submit [--mount DIR] [--wait | --follow] [KEY=VALUE ...] -- COMMAND [ARG ...]\n"
	"       slurmray submit [--mount DIR] [--wait | --follow] [KEY=VALUE ...] FILE | - [ARG ...]\n"
	"       slurmray follow [--mount DIR] RUN\n"
	"       slurmray doctor [--config FILE] [--state DIR] [CLUSTER]\n"
	"       slurmray --version | --help\n"
	"\n"
	"  mount    serves the tree at DIR; jobs are files there (cat DIR/README)\n"
	"  umount   answers parked readers, then unmounts\n"
	"  submit   submits a job and prints its run id; FILE is a spec (JSON, a line, or a batch script, which gets the ARGs)\n"
	"           --wait exits with the job's code, --follow also shows its output; KEY: man 5 slurmray, runs/template\n"
	"           A job starts in a directory of its own (runs/ID/work), where files=PATH,... are copied to, and not in the\n"
	"           directory that you are in: for that write workdir=. (or any directory of the cluster, as an absolute path)\n"
	"  follow   copies a run's output to its own and exits with the job's code; RUN: its id, name, directory, or `last`\n"
	"  doctor   checks this machine, the configuration and the clusters; each finding says what to do\n"
	"\n"
	"The mount that submit and follow use: --mount, else $SLURMRAY_MOUNT, else the only mount of this user.\n"
	"\n"
	"Exit codes: 0 done; 1 it could not be done; 2 wrong usage; submit --wait, --follow and follow exit with the\n"
	"job's code, 128+N for signal N, 1 when it has none.\n";

static int usage(const char *problem)
{
	(void)fprintf(stderr, "slurmray: %s\nslurmray: `slurmray --help` shows how it is used\n", problem);
	return 2;
}

static int unknown(const char *name)
{
	static const char *const names[] = { "mount", "umount", "submit", "follow", "doctor", "help" };
	const char *found = NULL;
	int best = near_limit(name);

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		near_consider(name, names[i], &best, &found);
	if (found)
		(void)fprintf(stderr, "slurmray: unknown sub-command '%s': did you mean '%s'?\n", name, found);
	else
		(void)fprintf(stderr, "slurmray: unknown sub-command '%s'\n", name);
	(void)fprintf(stderr, "slurmray: `slurmray --help` shows how it is used\n");
	return 2;
}

static int fail(const struct err *e)
{
	(void)fprintf(stderr, "slurmray: %s\n", e->text);
	return 1;
}

static char *absolute(const char *path)
{
	cleanup_free char *cwd = NULL;

	if (!path || path[0] == '/')
		return xstrdup(path);
	cwd = getcwd(NULL, 0);
	return xasprintf("%s/%s", cwd ? cwd : "", path);
}

static int run_mount(int argc, char **argv)
{
	static const struct option options[] = {
		{ "config", required_argument, NULL, 'c' },
		{ "state", required_argument, NULL, 's' },
		{ "foreground", no_argument, NULL, 'f' },
		{ "verbose", no_argument, NULL, 'v' },
		{ "allow-other", no_argument, NULL, 'o' },
		{ "allow-uid", required_argument, NULL, 'u' },
		{ 0 },
	};
	struct mount_conf mc = { 0 };
	struct err e = ERR_INIT;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			mc.config_path = absolute(optarg);
			break;
		case 's':
			mc.state_dir = absolute(optarg);
			break;
		case 'f':
			mc.foreground = true;
			break;
		case 'v':
			mc.verbose = true;
			break;
		case 'o':
			mc.allow_other = true;
			break;
		case 'u':
			mc.allow_uids = optarg;
			break;
		default:
			return 2;
		}
	}
	if (optind + 1 != argc)
		return usage("mount takes one directory");
	if (mc.allow_uids && !mc.allow_other)
		return usage("--allow-uid goes with --allow-other");
	mc.dir = absolute(argv[optind]);
	if (!mc.state_dir)
		mc.state_dir = client_default_state();
	if (client_check_config(mc.config_path, &e) < 0 || keeper_mount(&mc, &e) < 0)
		return fail(&e);
	return 0;
}

static int run_umount(int argc, char **argv)
{
	cleanup_free char *dir = NULL;
	struct err e = ERR_INIT;

	if (argc != 2)
		return usage("umount takes one directory");
	dir = absolute(argv[1]);
	return keeper_umount(dir, 20000, &e) < 0 ? fail(&e) : 0;
}

static int run_worker(int argc, char **argv)
{
	struct mount_conf mc = { 0 };
	struct worker_conf wc = { 0 };
	struct err e = ERR_INIT;

	if (worker_args(argc, argv, &mc, &wc, &e) < 0)
		return fail(&e);
	log_setup(STDERR_FILENO, mc.verbose ? LOG_DEBUG : LOG_INFO);
	return worker_main(&wc);
}

int main(int argc, char **argv)
{
	static const struct command {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {
		{ "mount", run_mount },           { "umount", run_umount },         { "submit", client_submit_main },
		{ "follow", client_follow_main }, { "doctor", client_doctor_main }, { "__supervise", supervisor_main },
	};

	/* Descriptors 0 to 2 are somebody's for ever: nothing that is opened later may become one of them. */
	for (int fd = open("/dev/null", O_RDWR); fd >= 0; fd = open("/dev/null", O_RDWR)) {
		if (fd > 2) {
			(void)close(fd);
			break;
		}
	}
	if (argc < 2)
		return usage("what is to be done?");
	if (strcmp(argv[1], "--worker") == 0)
		return run_worker(argc, argv);
	if (strcmp(argv[1], "--version") == 0)
		return printf("slurmray %s\n", SLURMRAY_VERSION) < 0;
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
		return fputs(help_text, stdout) < 0;
	if (argc > 2 && argv[1][0] != '_' && strcmp(argv[2], "--help") == 0)
		return fputs(help_text, stdout) < 0;
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	return unknown(argv[1]);
}
