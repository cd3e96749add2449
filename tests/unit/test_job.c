/*
 * From a spec to struct job, and from there to the golden scripts in tests/data/scripts: NAME.json holds a spec (as an
 * object, or as the text of another form), a configuration and the names of the run; NAME.sh is the script.
 * UPDATE_GOLDEN=1 in the environment writes the scripts anew.
 */
#include "backend/base/mem.h"
#include "backend/config.h"
#include "backend/job.h"
#include "backend/spec.h"
#include "launchers/launcher.h"
#include "tests/unit/lib_box.h"

#include <errno.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char slurm[] = "[cluster hpc]\nhost = login\nsetup = module load site\n";

/* A job from a spec in any form; 0 or the errors. */
static int make(const char *conf, const char *text, struct job *job, struct strbuf *errors)
{
	struct config *c = NULL;
	struct err e = ERR_INIT;
	json_t *spec = NULL;
	struct effective eff;
	int rc;

	if (config_parse(conf, "conf", &c, &e))
		fail_msg("configuration: %s", e.text);
	c->machine = (struct machine){ .cores = 64, .mem_bytes = (int64_t)1 << 40 };
	if (spec_parse(text, strlen(text), &spec, errors))
		fail_msg("spec: %s", errors->buf);
	if (config_resolve(c, spec, NULL, &eff, errors))
		fail_msg("resolve: %s", errors->buf);
	rc = job_from_effective(&eff, job, errors);
	effective_release(&eff);
	json_decref(spec);
	config_free(c);
	return rc;
}

static struct job must(const char *conf, const char *text)
{
	struct strbuf errors = STRBUF_INIT;
	struct job job;

	if (make(conf, text, &job, &errors))
		fail_msg("job: %s", errors.buf);
	assert_int_equal(errors.len, 0);
	return job;
}

/* Values that spec_parse would not let through are put into the effective spec by hand. */
static void expect_refused(const char *values, const char *want)
{
	static const struct cluster_conf cluster = { .name = "c", .directory = "~/d", .scratch = "~/d" };
	struct effective eff = { .cluster = &cluster,
				 .values = json_loads(values, 0, NULL),
				 .sources = json_object(),
				 .ignored = json_object() };
	struct strbuf errors = STRBUF_INIT;
	struct job job, zero = { 0 };

	assert_non_null(eff.values);
	assert_int_equal(job_from_effective(&eff, &job, &errors), -EINVAL);
	if (!strstr(errors.buf, want))
		fail_msg("'%s' does not say '%s'", errors.buf, want);
	assert_memory_equal(&job, &zero, sizeof(job));
	effective_release(&eff);
	strbuf_release(&errors);
}

static void expect_list(char **list, const char *joined)
{
	struct strbuf sb = STRBUF_INIT;

	assert_non_null(list);
	for (size_t i = 0; list[i]; i++)
		strbuf_addf(&sb, "%s%s", i ? " " : "", list[i]);
	assert_string_equal(sb.buf, joined);
	strbuf_release(&sb);
}

static void the_four_forms(void **state)
{
	struct job job = must(slurm, "{\"command\": \"echo 'x'\"}");

	(void)state;
	assert_int_equal(job.form, JOB_COMMAND);
	assert_string_equal(job.command, "echo 'x'");
	job_release(&job);
	job = must(slurm, "{\"command\": [\"a\", \"b c\", \"\"]}");
	assert_int_equal(job.form, JOB_EXEC);
	assert_string_equal(job.argv[1], "b c");
	assert_string_equal(job.argv[2], "");
	assert_null(job.argv[3]);
	job_release(&job);
	job = must(slurm, "#!/bin/sh\necho\n");
	assert_int_equal(job.form, JOB_SCRIPT);
	assert_string_equal(job.command, "#!/bin/sh\necho\n");
	assert_int_equal(job.command_len, 15);
	job_release(&job);
	job = must(slurm, "{\"payload\": \"/home/me/tool\"}");
	assert_int_equal(job.form, JOB_PAYLOAD);
	assert_string_equal(job.command, "/home/me/tool");
	assert_null(job.args[0]);
	job_release(&job);
	job = must(slurm, "{\"payload\": \"/home/me/tool\", \"args\": [\"-n\", \"a b\", \"\"]}");
	assert_string_equal(job.args[0], "-n");
	assert_string_equal(job.args[1], "a b");
	assert_string_equal(job.args[2], "");
	assert_null(job.args[3]);
	job_release(&job);
}

/* As many as fit into a mebibyte; time that grows with the square would be minutes. */
static void many_words(void **state)
{
	static const struct {
		const char *head, *before, *behind;
	} rows[] = { { "{\"command\": [\"a\"", ",\"", "\"" },
		     { "{\"payload\": \"/p\", \"args\": [\"a\"", ",\"", "\"" },
		     { "{\"command\": \"a\", \"files\": [\"/x\"", ",\"/", "\"" },
		     { "{\"command\": \"a\", \"files\": [\"/x\"", ",\"/", "/x\"" },
		     { "{\"command\": \"a\", \"afterok\": [1", ",", "" } };
	struct config *c = NULL;

	(void)state;
	assert_int_equal(config_parse(slurm, "conf", &c, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct strbuf sb = STRBUF_INIT, errors = STRBUF_INIT;
		struct effective eff;
		json_t *spec = NULL;
		struct job job;
		int rc;

		strbuf_addstr(&sb, rows[i].head);
		for (int n = 1; sb.len < 900000; n++)
			strbuf_addf(&sb, "%s%d%s", rows[i].before, n, rows[i].behind);
		strbuf_addstr(&sb, "]}");
		assert_int_equal(spec_parse(sb.buf, sb.len, &spec, &errors), 0);
		assert_int_equal(config_resolve(c, spec, NULL, &eff, &errors), 0);
		rc = job_from_effective(&eff, &job, &errors);
		assert_int_equal(rc, i == 3 ? -EINVAL : 0);
		if (rc < 0)
			assert_in_range(errors.len, 1000, 10000);
		else
			job_release(&job);
		effective_release(&eff);
		json_decref(spec);
		strbuf_release(&sb);
		strbuf_release(&errors);
	}
	config_free(c);
}

static void what_is_not_said(void **state)
{
	struct job job = must(slurm, "{\"command\": \"x\"}");

	(void)state;
	assert_string_equal(job.launcher, "bash");
	assert_string_equal(job.directory, "~/.slurmray");
	assert_string_equal(job.scratch, "~/.slurmray");
	assert_string_equal(job.setup, "module load site");
	assert_null(job.workdir);
	assert_null(job.output);
	assert_null(job.error);
	assert_null(job.input);
	assert_false(job.merged);
	assert_false(job.hold);
	assert_false(job.requeue);
	assert_int_equal(job.time_s, -1);
	assert_int_equal(job.ntasks, 1);
	assert_int_equal(job.cpus_per_task, 1);
	assert_int_equal(job.mem_bytes, 0);
	assert_int_equal(job.grace_s, 10);
	assert_int_equal(job.signal_num, 0);
	assert_int_equal(job.n_env, 0);
	expect_list(job.sbatch, "");
	expect_list(job.after, "");
	job_release(&job);
}

static void names(void **state)
{
	static const struct {
		const char *spec, *name;
	} rows[] = {
		{ "{\"command\": \"x\", \"name\": \"mine\"}", "mine" },
		{ "{\"command\": \"python train.py\"}", "python" },
		{ "{\"command\": \"/usr/bin/env x/y\"}", "env" },
		{ "{\"command\": [\"./a.out\", \"-x\"]}", "a.out" },
		{ "{\"command\": \"(cd x; y)\"}", "job" },
		{ "{\"payload\": \"/a/tool.sh\"}", "tool.sh" },
		{ "#!/bin/sh\necho\n", "script" },
		{ "#!/bin/sh\n#SBATCH -J night\necho\n", "night" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct job job = must(slurm, rows[i].spec);

		assert_string_equal(job.name, rows[i].name);
		job_release(&job);
	}
}

static void options_of_sbatch(void **state)
{
	struct job job =
		must(slurm, "{\"command\": \"x\", \"time\": \"1:00:00\", \"partition\": \"a b\", \"nodes\": \"2-4\", "
			    "\"ntasks\": 8, \"exclusive\": true, \"contiguous\": true, \"spread_job\": false, "
			    "\"gpus_per_node\": \"a100:2\", \"hold\": true, \"requeue\": true, \"name\": \"n\", "
			    "\"output\": \"/o/%j\", \"error\": \"/e\", \"workdir\": \"/w\", \"input\": \"/i\", "
			    "\"sbatch_args\": [\"--new-thing=1\"], \"nice\": \"5\"}");

	(void)state;
	expect_list(job.sbatch, "--nodes=2-4 --ntasks=8 --gpus-per-node=a100:2 --time=1:00:00 --nice=5 --partition=a b "
				"--contiguous --exclusive --new-thing=1");
	assert_true(job.hold);
	assert_true(job.requeue);
	assert_int_equal(job.time_s, 3600);
	assert_string_equal(job.output, "/o/%j");
	assert_string_equal(job.error, "/e");
	assert_string_equal(job.input, "/i");
	assert_string_equal(job.workdir, "/w");
	job_release(&job);
}

static void what_local_ignores_stays_out(void **state)
{
	struct job job = must("", "{\"command\": \"x\", \"partition\": \"gpu\", \"time\": \"5\", \"requeue\": true}");

	(void)state;
	expect_list(job.sbatch, "--time=5");
	assert_false(job.requeue);
	assert_int_equal(job.time_s, 300);
	assert_string_equal(job.directory, "");
	job_release(&job);
}

static void resources_for_one_machine(void **state)
{
	struct job job = must(
		"", "{\"command\": \"x\", \"mem_per_cpu\": \"1G\", \"ntasks\": 4, \"cpus_per_task\": 2, \"grace\": 3}");

	(void)state;
	assert_int_equal(job.mem_bytes, (int64_t)8 << 30);
	assert_int_equal(job.ntasks, 4);
	assert_int_equal(job.cpus_per_task, 2);
	assert_int_equal(job.grace_s, 3);
	job_release(&job);
	job = must("", "{\"command\": \"x\", \"mem\": \"100\", \"ntasks\": 4, \"time\": \"UNLIMITED\"}");
	assert_int_equal(job.mem_bytes, 100 << 20);
	assert_int_equal(job.time_s, -1);
	job_release(&job);
}

static void streams(void **state)
{
	static const struct {
		const char *spec;
		bool merged;
	} rows[] = {
		{ "{\"command\": \"x\"}", false },
		{ "{\"command\": \"x\", \"streams\": \"merged\"}", true },
		{ "{\"command\": \"x\", \"output\": \"/o\"}", false },
		{ "#!/bin/sh\nx\n", false },
		{ "#!/bin/sh\n#SBATCH -o /o\nx\n", true },
		{ "#!/bin/sh\n#SBATCH -o /o\n#SBATCH -e /e\nx\n", false },
		{ "#!/bin/sh\n#SBATCH -e /e\nx\n", false },
		{ "{\"script\": \"#!/bin/sh\\n#SBATCH -o /o\\nx\\n\", \"streams\": \"split\"}", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct job job = must(slurm, rows[i].spec);

		if (job.merged != rows[i].merged)
			fail_msg("%s: merged is %d", rows[i].spec, job.merged);
		job_release(&job);
	}
}

static void environment_and_setup(void **state)
{
	struct job job = must("[cluster hpc]\nhost=h\nsetup=a\nsetup=b\nenv.X=1\n",
			      "{\"command\": \"x\", \"setup\": \"c\", \"env\": {\"Y\": \"it's\\n2\"}}");

	(void)state;
	assert_string_equal(job.setup, "a\nb\nc");
	assert_int_equal(job.n_env, 2);
	assert_string_equal(job.env[0].name, "X");
	assert_string_equal(job.env[1].name, "Y");
	assert_string_equal(job.env[1].value, "it's\n2");
	job_release(&job);
	job = must("[cluster hpc]\nhost=h\n", "{\"command\": \"x\", \"setup\": \"c\"}");
	assert_string_equal(job.setup, "c");
	job_release(&job);
	job = must("[cluster hpc]\nhost=h\n", "{\"command\": \"x\"}");
	assert_null(job.setup);
	job_release(&job);
}

static void dependencies(void **state)
{
	struct job job = must(slurm, "{\"command\": \"x\", \"afterok\": [\"41\", \"train\"], \"afternotok\": [\"7\"], "
				     "\"afterany\": \"8\"}");

	(void)state;
	expect_list(job.after, "afterok:41 afterok:train afterany:8 afternotok:7");
	expect_list(job.sbatch, "");
	job_release(&job);
	job = must(slurm, "cluster=hpc dependency=afterok:41:42,afterany:7 -- x\n");
	expect_list(job.after, "afterok:41 afterok:42 afterany:7");
	expect_list(job.sbatch, "");
	job_release(&job);
}

static void signals(void **state)
{
	static const struct {
		const char *text;
		int num, lead;
	} rows[] = { { "USR1", SIGUSR1, 60 },
		     { "SIGUSR1@120", SIGUSR1, 120 },
		     { "B:TERM@30", SIGTERM, 30 },
		     { "R:USR2@5", SIGUSR2, 5 },
		     { "10@7", 10, 7 },
		     { "int@0", SIGINT, 0 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char spec[128];
		struct job job;

		(void)snprintf(spec, sizeof(spec), "{\"command\": \"x\", \"signal\": \"%s\"}", rows[i].text);
		job = must(slurm, spec);
		assert_int_equal(job.signal_num, rows[i].num);
		assert_int_equal(job.signal_lead_s, rows[i].lead);
		assert_int_equal(strncmp(job.sbatch[0], "--signal=", 9), 0);
		job_release(&job);
	}
}

static void what_no_script_can_hold(void **state)
{
	struct strbuf big = STRBUF_INIT;

	(void)state;
	expect_refused("{}", "nothing to run");
	expect_refused("{\"command\": []}", "first word");
	expect_refused("{\"command\": [\"\"]}", "first word");
	expect_refused("{\"command\": [1]}", "must be text");
	expect_refused("{\"command\": \"x\", \"env\": {\"a-b\": \"1\"}}", "'a-b' is no name");
	expect_refused("{\"command\": \"x\", \"env\": {\"1a\": \"1\"}}", "no name");
	expect_refused("{\"command\": \"x\", \"env\": {\"\": \"1\"}}", "no name");
	expect_refused("{\"command\": \"x\", \"env\": {\"UID\": \"1\"}}", "belongs to the shell");
	expect_refused("{\"command\": \"x\", \"launcher\": \"zsh\"}",
		       "there is no 'zsh'; there is: bash, ray, session, spark");
	expect_refused("{\"command\": \"x\", \"signal\": \"NOPE\"}", "no such signal");
	expect_refused("{\"command\": \"x\", \"signal\": \"\"}", "no such signal");
	expect_refused("{\"command\": \"x\", \"signal\": \"99\"}", "no such signal");
	expect_refused("{\"command\": \"x\", \"signal\": \"USR1@x\"}", "seconds");
	expect_refused("{\"command\": \"x\", \"input\": \"/a/%j\"}", "patterns");
	for (int i = 0; i < 131071; i++)
		strbuf_addch(&big, 'x');
	cleanup_free char *var = xasprintf("{\"command\": \"x\", \"env\": {\"A\": \"%s\"}}", big.buf);
	cleanup_free char *text = xasprintf("{\"command\": \"%sx\"}", big.buf);
	cleanup_free char *word = xasprintf("{\"command\": [\"a\", \"%sx\"]}", big.buf);

	expect_refused(var, "over 128 KiB");
	expect_refused(text, "over 128 KiB");
	expect_refused(word, "over 128 KiB");
	strbuf_release(&big);
}

static void all_mistakes_are_told(void **state)
{
	(void)state;
	expect_refused("{\"env\": {\"a-b\": \"1\", \"c d\": \"2\"}, \"launcher\": \"x\"}", "nothing to run");
	expect_refused("{\"env\": {\"a-b\": \"1\", \"c d\": \"2\"}, \"launcher\": \"x\"}", "'a-b'");
	expect_refused("{\"env\": {\"a-b\": \"1\", \"c d\": \"2\"}, \"launcher\": \"x\"}", "'c d'");
	expect_refused("{\"env\": {\"a-b\": \"1\", \"c d\": \"2\"}, \"launcher\": \"x\"}", "launcher: there is no 'x'");
}

/* A configuration that says how Ray is to be does not start one in every session. */
static void ray_is_asked_for(void **state)
{
	static const char conf[] = "[cluster hpc]\nhost = login\nray.interface = ib0\nray.num_cpus_per_node = 8\n";
	struct job job;

	(void)state;
	job = must(conf, "launcher=ray ray.num_cpus_per_node=4 ray.metadata.a=b ray.working_dir=/src -- x\n");
	assert_true(job.ray.on && job.ray.token && job.ray.client && job.ray.dashboard);
	assert_null(job.ray.client_version);
	assert_int_equal(job.ray.cpus, 4);
	assert_int_equal(job.ray.max_workers, -1);
	assert_int_equal(job.ray.start_timeout, 120);
	assert_string_equal(job.ray.interface, "ib0");
	assert_string_equal(job.ray.job_config,
			    "{\"metadata\":{\"a\":\"b\"},\"runtime_env\":{\"working_dir\":\"/src\"}}");
	job_release(&job);
	job = must(conf, "mode=ray ray.dashboard=0.0.0.0 ray.token=false ray.client=2.60.0/3.12 -- x\n");
	assert_true(job.ray.on && job.ray.dashboard && !job.ray.token && !job.ray.job_config && job.ray.client);
	assert_string_equal(job.ray.client_version, "2.60.0/3.12");
	assert_string_equal(job.launcher, "ray");
	assert_string_equal(job.ray.dashboard_host, "0.0.0.0");
	job_release(&job);
	job = must(conf, "launcher=session\n");
	assert_false(job.ray.on);
	job_release(&job);
	job = must(conf, "launcher=session ray=true\n");
	assert_true(job.ray.on);
	assert_int_equal(job.ray.cpus, 8);
	job_release(&job);
	job = must(conf, "launcher=session ray.ray_version=2.60 ray.enabled=false\n");
	assert_false(job.ray.on);
	job_release(&job);
	job = must(conf, "ray.num_cpus_per_node=4 -- x\n");
	assert_false(job.ray.on);
	job_release(&job);
}

/* ---- golden scripts ---- */

static void render_case(const char *path, struct strbuf *script)
{
	json_t *doc = json_load_file(path, 0, NULL), *spec;
	cleanup_free char *text = NULL;
	struct launch_ctx ctx;
	struct err e = ERR_INIT;
	struct job job;

	assert_non_null(doc);
	spec = json_object_get(doc, "spec");
	text = json_is_string(spec) ? xstrdup(json_string_value(spec)) : json_dumps(spec, 0);
	job = must(json_string_value(json_object_get(doc, "config")), text);
	ctx = (struct launch_ctx){ .run_id = json_string_value(json_object_get(doc, "run")),
				   .run_num = (uint32_t)json_integer_value(json_object_get(doc, "number")),
				   .attempt = (uint32_t)json_integer_value(json_object_get(doc, "attempt")),
				   .uuid = "6f1c2a34" };
	job_pipes_flags(&job, false);
	if (!job.directory[0]) { /* as the local cluster does */
		str_set(&job.directory, "/state/local");
		str_set(&job.scratch, "/state/local");
	}
	if (launcher_find(job.launcher)->render(&job, &ctx, script, &e))
		fail_msg("%s: %s", path, e.text);
	job_release(&job);
	json_decref(doc);
}

static void compare_case(const char *json_path)
{
	struct strbuf have = STRBUF_INIT, want = STRBUF_INIT;
	cleanup_free char *path = xasprintf("%.*s.sh", (int)(strlen(json_path) - 5), json_path);

	render_case(json_path, &have);
	if (getenv("UPDATE_GOLDEN")) {
		FILE *f = fopen(path, "w");

		assert_non_null(f);
		assert_int_equal(fwrite(have.buf, 1, have.len, f), have.len);
		assert_int_equal(fclose(f), 0);
	}
	assert_true(strbuf_read_file(&want, path, 1 << 20) >= 0);
	if (have.len != want.len || memcmp(have.buf, want.buf, have.len) != 0)
		fail_msg("%s is not what is rendered now:\n%s", path, have.buf);
	strbuf_release(&have);
	strbuf_release(&want);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static void check_shell(char *const argv[])
{
	char *which[] = { "sh", "-c", "command -v \"$1\" >/dev/null", "sh", argv[0], NULL };

	if (box_exec(which, NULL)) /* this machine has no such program */
		return;
	if (box_exec(argv, NULL))
		fail_msg("%s does not like %s", argv[0], argv[argv[3] ? 3 : 2]);
}
#endif

static void golden_scripts(void **state)
{
	glob_t g;

	(void)state;
	assert_int_equal(glob("tests/data/scripts/*.json", 0, NULL, &g), 0);
	for (size_t i = 0; i < g.gl_pathc; i++)
		compare_case(g.gl_pathv[i]);
	globfree(&g);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* the texts are the same there */
	assert_int_equal(glob("tests/data/scripts/*.sh", 0, NULL, &g), 0);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		check_shell((char *[]){ "dash", "-n", g.gl_pathv[i], NULL });
		check_shell((char *[]){ "bash", "--posix", "-n", g.gl_pathv[i], NULL });
		check_shell((char *[]){ "shellcheck", "-s", "sh", g.gl_pathv[i], NULL });
	}
	globfree(&g);
#endif
}

static void files_are_shipped_side_by_side(void **state)
{
	struct strbuf errors = STRBUF_INIT;
	struct job job = must(slurm, "{\"command\": \"ls\", \"files\": [\"/a/x\", \"/b/y/\"]}");

	(void)state;
	assert_string_equal(job.files[0], "/a/x");
	assert_string_equal(job.files[1], "/b/y/");
	assert_null(job.files[2]);
	job_release(&job);
	job = must(slurm, "{\"command\": \"ls\"}");
	assert_non_null(job.files);
	assert_null(job.files[0]);
	job_release(&job);
	assert_int_equal(make(slurm, "{\"command\": \"ls\", \"files\": [\"/a/x\", \"/b/x/\"]}", &job, &errors),
			 -EINVAL);
	assert_non_null(strstr(errors.buf, "/a/x and /b/x/"));
	strbuf_reset(&errors);
	assert_int_equal(make(slurm, "{\"command\": \"ls\", \"files\": [\"/\"]}", &job, &errors), -EINVAL);
	assert_non_null(strstr(errors.buf, "has no name"));
	strbuf_release(&errors);
}

static void a_time_of_zero_is_no_limit(void **state)
{
	struct job job = must(slurm, "{\"command\": \"ls\", \"time\": \"0\"}");

	(void)state;
	assert_int_equal(job.time_s, -1);
	job_release(&job);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_are_shipped_side_by_side),
		cmocka_unit_test(a_time_of_zero_is_no_limit),
		cmocka_unit_test(the_four_forms),
		cmocka_unit_test(many_words),
		cmocka_unit_test(what_is_not_said),
		cmocka_unit_test(names),
		cmocka_unit_test(options_of_sbatch),
		cmocka_unit_test(what_local_ignores_stays_out),
		cmocka_unit_test(resources_for_one_machine),
		cmocka_unit_test(streams),
		cmocka_unit_test(environment_and_setup),
		cmocka_unit_test(dependencies),
		cmocka_unit_test(signals),
		cmocka_unit_test(what_no_script_can_hold),
		cmocka_unit_test(all_mistakes_are_told),
		cmocka_unit_test(ray_is_asked_for),
		cmocka_unit_test(golden_scripts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
