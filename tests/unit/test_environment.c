/*
 * The key `environment`: its forms and their one canonical object, struct environment, and the activation in a job,
 * run for real by dash and by bash with things of the same layout as venv, conda, pixi-pack and modules have.
 */
#include "backend/base/mem.h"
#include "backend/base/quote.h"
#include "backend/config.h"
#include "backend/job.h"
#include "backend/spec.h"
#include "launchers/launcher.h"
#include "tests/unit/lib_box.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- forms ---- */

static json_t *parse(const char *text, struct strbuf *errors)
{
	json_t *spec = NULL;

	return spec_parse(text, strlen(text), &spec, errors) == 0 ? spec : NULL;
}

static void forms(void **state)
{
	static const struct {
		const char *text, *want;
	} rows[] = {
		{ "environment=/data/env -- x\n", "{\"path\":\"/data/env\"}" },
		{ "environment=~/env -- x\n", "{\"path\":\"~/env\"}" },
		{ "environment=path:/data/env -- x\n", "{\"path\":\"/data/env\"}" },
		{ "environment=venv:~/v -- x\n", "{\"venv\":\"~/v\"}" },
		{ "environment=conda:ml -- x\n", "{\"conda\":\"ml\"}" },
		{ "environment=conda:/opt/ml -- x\n", "{\"conda\":\"/opt/ml\"}" },
		{ "environment=module:gcc/12,python -- x\n", "{\"modules\":[\"gcc/12\",\"python\"]}" },
		{ "environment=modules:gcc -- x\n", "{\"modules\":[\"gcc\"]}" },
		{ "environment=archive:/home/me/e.tar.gz -- x\n", "{\"archive\":\"/home/me/e.tar.gz\"}" },
		{ "environment=archive:/home/me/e.sh -- x\n", "{\"archive\":\"/home/me/e.sh\"}" },
		{ "environment=container:docker://debian:12 -- x\n", "{\"container\":\"docker://debian:12\"}" },
		{ "environment='hook:. /site/env.sh' -- x\n", "{\"hook\":\". /site/env.sh\"}" },
		{ "environment.venv=/v environment.modules=a,b -- x\n", "{\"venv\":\"/v\",\"modules\":[\"a\",\"b\"]}" },
		{ "environment.container=/i.sif environment.options='--nv -B /x' -- x\n",
		  "{\"container\":\"/i.sif\",\"options\":[\"--nv\",\"-B\",\"/x\"]}" },
		{ "environment=build:/home/me/make-env -- x\n", "{\"build\":\"/home/me/make-env\"}" },
		{ "environment.build=/b.tar environment.build_time=1:00:00 -- x\n",
		  "{\"build\":\"/b.tar\",\"build_time\":\"1:00:00\"}" },
		{ "environment=wheels:/a.whl,/b.whl -- x\n", "{\"wheels\":[\"/a.whl\",\"/b.whl\"]}" },
		{ "environment.venv=/v environment.wheels=/a.whl -- x\n", "{\"venv\":\"/v\",\"wheels\":[\"/a.whl\"]}" },
		{ "environment.archive=/e.tar environment.platform=any -- x\n",
		  "{\"archive\":\"/e.tar\",\"platform\":\"any\"}" },
		{ "{\"command\": \"x\", \"environment\": {\"modules\": [\"a\"], \"conda\": \"b\", \"hook\": \"c\\nd\"}}",
		  "{\"modules\":[\"a\"],\"conda\":\"b\",\"hook\":\"c\\nd\"}" },
		{ "{\"command\": \"x\", \"environment\": \"venv:/v\"}", "{\"venv\":\"/v\"}" },
		{ "{\"script\": \"#!/bin/sh\\nx\\n\", \"environment\": \"/v\"}", "{\"path\":\"/v\"}" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup_strbuf struct strbuf errors = STRBUF_INIT;
		json_t *spec = parse(rows[i].text, &errors), *want = json_loads(rows[i].want, 0, NULL);

		if (!spec)
			fail_msg("%s: %s", rows[i].text, errors.buf);
		assert_non_null(want);
		if (!json_equal(json_object_get(spec, "environment"), want))
			fail_msg("%s gives %s", rows[i].text,
				 json_dumps(json_object_get(spec, "environment"), JSON_COMPACT));
		json_decref(spec);
		json_decref(want);
	}
}

static void mistakes(void **state)
{
	static const struct {
		const char *text, *want;
	} rows[] = {
		{ "environment=here -- x\n", "must be a directory on the cluster, or path:DIR" },
		{ "environment=./env -- x\n", "must be a directory on the cluster" },
		{ "environment=venv:env -- x\n", "'environment.venv' must be a directory on the cluster" },
		{ "environment=archive:env.tar -- x\n", "'environment.archive' must be the absolute path" },
		{ "environment=archive:/env.zip -- x\n", "ends in .tar" },
		{ "environment=conda:-p -- x\n", "'environment.conda' must be the name" },
		{ "environment=container:debian -- x\n", "'environment.container' must be an image" },
		{ "environment='module:a;b' -- x\n", "'environment.modules' must be names" },
		{ "environment=module: -- x\n", "'environment.modules' must be names" },
		{ "environment=options:--nv -- x\n", "'environment' must be" },
		{ "environment=build_time:5 -- x\n", "'environment' must be" },
		{ "environment=build:make-env -- x\n", "'environment.build' must be the absolute path" },
		{ "environment=wheels:a.whl -- x\n", "'environment.wheels' must be absolute paths" },
		{ "environment=wheels:/a.zip -- x\n", "end in .whl" },
		{ "environment.build=/b environment.build_time=0 -- x\n", "'environment.build_time' must be how long" },
		{ "environment.venv=/a environment.build=/b -- x\n", "venv and build cannot be together" },
		{ "environment=venv:/a environment.build_time=5 -- x\n", "belongs to a build" },
		{ "environment.venv=/a environment.conda=b -- x\n", "venv and conda cannot be together" },
		{ "environment.venv=/a environment.venv=/b -- x\n", "'environment.venv' is given twice" },
		{ "environment=venv:/a environment.platform=any -- x\n", "belongs to an archive" },
		{ "environment=venv:/a environment.options=--nv -- x\n", "belongs to a container" },
		{ "environment=archive:/a.tar environment.platform=vax -- x\n", "must be linux-64" },
		{ "{\"command\": \"x\", \"environment\": {}}", "must not be empty" },
		{ "{\"command\": \"x\", \"environment\": 5}", "must be a directory" },
		{ "{\"command\": \"x\", \"environment\": {\"spack\": \"a\"}}", "unknown member 'spack'" },
		{ "{\"command\": \"x\", \"environment\": {\"path\": [\"a\"]}}", "'environment.path' must be text" },
		{ "{\"command\": \"x\", \"environment\": {\"modules\": [1, {}]}}",
		  "'environment.modules' must be text" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		cleanup_strbuf struct strbuf errors = STRBUF_INIT;

		if (parse(rows[i].text, &errors) || !strstr(errors.buf, rows[i].want))
			fail_msg("%s: '%s' does not say '%s'", rows[i].text, errors.buf, rows[i].want);
	}
}

static void text_and_object_are_the_same_spec(void **state)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *a = parse("environment=module:a,b -- x\n", &errors);
	json_t *b = parse("{\"command\": \"x\", \"environment\": {\"modules\": [\"a\", \"b\"]}}", &errors);

	(void)state;
	assert_true(spec_equal(a, b));
	json_decref(a);
	json_decref(b);
}

static void fill(const char *conf, const char *text, struct job *job)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	struct config *c = NULL;
	struct effective eff;
	struct err e = ERR_INIT;
	json_t *spec = parse(text, &errors);

	if (!spec || config_parse(conf, "conf", &c, &e) || config_resolve(c, spec, NULL, &eff, &errors) ||
	    job_from_effective(&eff, job, &errors))
		fail_msg("%s: %s%s", text, errors.buf, e.text);
	effective_release(&eff);
	json_decref(spec);
	config_free(c);
}

static void it_replaces_that_of_the_cluster(void **state)
{
	static const char conf[] = "[cluster hpc]\nhost = h\nenvironment = module:site\n";
	struct job job;

	(void)state;
	fill(conf, "-- x\n", &job);
	assert_string_equal(job.environment.modules[0], "site");
	assert_null(job.environment.modules[1]);
	assert_int_equal(job.environment.kind, ENV_NONE);
	assert_true(job_environment_is_set(&job.environment));
	job_release(&job);
	fill(conf, "environment=conda:ml -- x\n", &job);
	assert_null(job.environment.modules);
	assert_int_equal(job.environment.kind, ENV_CONDA);
	assert_string_equal(job.environment.where, "ml");
	job_release(&job);
	fill(conf, "{\"command\": \"x\", \"environment\": null}", &job);
	assert_false(job_environment_is_set(&job.environment));
	job_release(&job);
	fill("[cluster hpc]\nhost = h\nenvironment.modules = a,b\nenvironment.container = /i.sif\n", "-- x\n", &job);
	assert_string_equal(job.environment.modules[1], "b");
	assert_string_equal(job.environment.container, "/i.sif");
	job_release(&job);
}

/* ---- activation ---- */

static const char *const shells[] = { "/bin/sh", "bash --posix", "bash" };
#define EACH_SHELL(b)                                                                                                  \
	for (size_t sh_ = 0; sh_ < ARRAY_SIZE(shells); sh_++)                                                          \
		for (bool once_ = (box_init(&(b), shells[sh_]), true); once_; once_ = (box_release(&(b)), false))

/* Shell text that is run in the box's home. */
static void arrange(const struct box *b, const char *text)
{
	cleanup_strbuf struct strbuf code = STRBUF_INIT, out = STRBUF_INIT;

	strbuf_addstr(&code, "cd ");
	quote_sh(&code, b->home);
	strbuf_addf(&code, " && %s", text);
	if (box_exec((char *[]){ "sh", "-c", code.buf, NULL }, &out) != 0)
		fail_msg("cannot arrange: %s", text);
}

static struct job in(enum env_kind kind, const char *where, const char *text)
{
	return (struct job){ .form = JOB_COMMAND,
			     .command = (char *)text,
			     .name = "t",
			     .launcher = "bash",
			     .directory = "~/.slurmray",
			     .scratch = "~/.slurmray",
			     .environment = { .kind = kind, .where = (char *)where },
			     .time_s = -1 };
}

/* %H stands for the home directory. */
static void expect_out(struct box *b, const char *want)
{
	cleanup_free char *have = box_read(b, "stdout", NULL);
	const char *h = strstr(want, "%H");
	cleanup_free char *full = h ? xasprintf("%.*s%s%s", (int)(h - want), want, b->home, h + 2) : xstrdup(want);

	if (strcmp(have, full) != 0)
		fail_msg("%s: stdout is '%s', not '%s'; %s", b->shell, have, full, box_read(b, "stderr", NULL));
}

static void runs(struct box *b, const struct job *job, const char *want)
{
	int rc = box_run(b, job);

	if (rc)
		fail_msg("%s: exit code %d: %s", b->shell, rc, box_read(b, "stderr", NULL));
	expect_out(b, want);
	assert_string_equal(box_word(b, "fault"), "-");
	assert_string_equal(box_word(b, "reason"), "-");
}

/* The command is never run, `reason` and stderr have the sentence, the record has it as a word. */
static void fails(struct box *b, const struct job *job, const char *want)
{
	cleanup_free char *err = NULL, *fault = NULL;
	const char *record;

	assert_int_equal(box_run(b, job), 78);
	expect_out(b, "");
	err = box_read(b, "stderr", NULL);
	fault = box_read(b, "reason", NULL);
	if (!fault || !strstr(fault, want) || !strstr(err, want))
		fail_msg("%s: '%s' does not say '%s'; %s", b->shell, fault ? fault : "", want, err);
	assert_string_equal(box_word(b, "fault"), "environment");
	assert_string_equal(box_word(b, "rc"), "-");
	record = box_word(b, "reason");
	assert_int_equal(strncmp(record, "environment%20", 14), 0);
}

/* As python3 -m venv makes it, only sooner. */
static const char make_venv[] =
	"mkdir -p v/bin && : >v/pyvenv.cfg && printf '#!/bin/sh\\n' >v/bin/python3 && "
	"chmod +x v/bin/python3 && ln -s python3 v/bin/python && echo \"VIRTUAL_ENV=\\\"$PWD/v\\\"\n"
	"PATH=\\\"\\$VIRTUAL_ENV/bin:\\$PATH\\\"\nexport VIRTUAL_ENV PATH\nhash -r\" >v/bin/activate";
static const char make_prefix[] = "mkdir -p %s/bin %s/conda-meta %s/etc/conda/activate.d && "
				  "printf '#!/bin/sh\\necho fake\\n' >%s/bin/python3 && chmod +x %s/bin/python3 && "
				  "echo 'export D=$CONDA_PREFIX$#' >%s/etc/conda/activate.d/a.sh";

static void arrange_prefix(const struct box *b, const char *dir)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;

	for (const char *p = make_prefix; *p; p++) {
		if (p[0] == '%' && p[1] == 's') {
			strbuf_addstr(&sb, dir);
			p++;
		} else {
			strbuf_addch(&sb, *p);
		}
	}
	arrange(b, sb.buf);
}

static void venvs(void **state)
{
	struct job job =
		in(ENV_VENV, "~/v", "command -v python3; echo $VIRTUAL_ENV | sed 's|.*/||'; pwd | sed 's|.*/||'");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		arrange(&b, make_venv);
		job.environment.kind = ENV_VENV;
		job.environment.where = "~/v";
		runs(&b, &job, "%H/v/bin/python3\nv\nwork\n");
	}
	EACH_SHELL(b)
	{
		arrange(&b, make_venv);
		job.environment.kind = ENV_PATH;
		runs(&b, &job, "%H/v/bin/python3\nv\nwork\n");
	}
	EACH_SHELL(b)
	{
		arrange(&b, make_venv);
		arrange(&b, "cp -r v moved");
		job.environment.where = "~/moved";
		fails(&b, &job, "the directory was moved or copied");
	}
	EACH_SHELL(b)
	{
		arrange(&b, make_venv);
		arrange(&b, "rm v/bin/python v/bin/python3*; ln -s /no/python v/bin/python");
		job.environment.where = "~/v";
		fails(&b, &job, "its bin/python leads nowhere");
	}
	job.environment.kind = ENV_VENV;
	EACH_SHELL(b)
	fails(&b, &job, "there is no such directory");
	EACH_SHELL(b)
	{
		arrange(&b, "mkdir v");
		fails(&b, &job, "it has no bin/activate");
	}
}

static void directories(void **state)
{
	struct job job = in(ENV_PATH, "~/p", "python3; echo $D; echo $A");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		arrange_prefix(&b, "p");
		runs(&b, &job, "fake\n%H/p0\n\n");
	}
	EACH_SHELL(b)
	{ /* pixi-unpack */
		arrange_prefix(&b, "p/env");
		arrange(&b, "echo \"cd /; echo noise; export A=5 PATH=\\\"$PWD/p/env/bin:\\$PATH\\\"\" >p/activate.sh");
		runs(&b, &job, "fake\n\n5\n");
	}
	EACH_SHELL(b)
	{
		arrange(&b, "mkdir -p p/bin && echo 'export A=6' >p/bin/activate");
		job.command = "echo $A";
		runs(&b, &job, "6\n");
	}
	EACH_SHELL(b)
	{
		arrange(&b, "mkdir -p p/bin && echo 'exit 0' >p/bin/activate");
		fails(&b, &job, "its activation ended the shell");
	}
	EACH_SHELL(b)
	{
		arrange(&b, "mkdir p");
		fails(&b, &job, "it has none of activate.sh, bin/activate, conda-meta");
	}
	EACH_SHELL(b)
	{
		arrange(&b, ": >p");
		fails(&b, &job, "it is a file, not a directory");
	}
}

static void conda_names(void **state)
{
	struct job job = in(ENV_CONDA, "ml", "python3; echo $CONDA_PREFIX");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		arrange_prefix(&b, "miniforge3/envs/ml");
		job.environment.where = "ml";
		runs(&b, &job, "fake\n%H/miniforge3/envs/ml\n");
	}
	EACH_SHELL(b)
	{
		arrange_prefix(&b, "elsewhere/ml");
		arrange(&b, "mkdir .conda && echo \"$PWD/elsewhere/ml\" >.conda/environments.txt");
		runs(&b, &job, "fake\n%H/elsewhere/ml\n");
	}
	EACH_SHELL(b)
	fails(&b, &job, "conda has no environment of this name");
	EACH_SHELL(b)
	{
		arrange_prefix(&b, "'c d'");
		job.environment.where = "~/c d";
		runs(&b, &job, "fake\n%H/c d\n");
	}
	EACH_SHELL(b)
	{
		arrange(&b, "mkdir 'c d'");
		fails(&b, &job, "it has no conda-meta");
	}
}

/* A command `module` such as sites define in what BASH_ENV names; here `setup` does. */
static const char modules[] = "module() {\n"
			      "\t[ \"$1\" = load ] || return 1\n"
			      "\tcase $2 in\n"
			      "\tgone*) echo \"unable to locate a modulefile for '$2'\" >&2; return 1 ;;\n"
			      "\told*) echo 'cannot find it' >&2; return 0 ;;\n"
			      "\tesac\n"
			      "\techo loading $2\n"
			      "\tLOADEDMODULES=${LOADEDMODULES:+$LOADEDMODULES:}$2/1.0\n"
			      "\texport LOADEDMODULES GOT=\"$GOT $2\"\n"
			      "}";

static void modules_are_loaded(void **state)
{
	char *two[] = { "gcc", "python/3", NULL }, *gone[] = { "gcc", "gone/1", NULL }, *old[] = { "gcc", "old", NULL };
	struct job job = in(ENV_NONE, NULL, "echo $GOT; echo $LOADEDMODULES");
	cleanup_strbuf struct strbuf out = STRBUF_INIT;
	struct box b;

	(void)state;
	job.setup = (char *)modules;
	EACH_SHELL(b)
	{
		job.environment.modules = two;
		runs(&b, &job, "gcc python/3\ngcc/1.0:python/3/1.0\n");
	}
	EACH_SHELL(b)
	{
		job.environment.modules = gone;
		fails(&b, &job,
		      "environment module gone/1: it cannot be loaded (unable to locate a modulefile for 'gone/1')");
	}
	EACH_SHELL(b)
	{
		job.environment.modules = old;
		fails(&b, &job, "environment module old: nothing was loaded (cannot find it)");
	}
	job.setup = NULL;
	EACH_SHELL(b) /* there is none on a machine that builds this */
	if (box_exec((char *[]){ "bash", "-c", "! command -v module && ! test -e /usr/share/modules", NULL }, &out) ==
	    0)
		fails(&b, &job, "environment module gcc: there is no command module");
}

static void hooks(void **state)
{
	struct job job = in(ENV_NONE, NULL, "echo $A; cat");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	{
		job.environment.hook = "echo noise; cat; export A='it'\\''s'\ncd /";
		runs(&b, &job, "it's\n");
	}
	EACH_SHELL(b)
	{
		job.environment.hook = "echo 'no licence' >&2; false";
		fails(&b, &job, "environment hook echo 'no licence' >&2; false: it ended with code 1 (no licence)");
	}
	EACH_SHELL(b)
	{
		job.environment.hook = "if";
		fails(&b, &job, "environment hook if");
	}
	EACH_SHELL(b)
	{
		job.environment.hook = "PATH=/nowhere; exit 0";
		fails(&b, &job, "its activation ended the shell");
	}
}

static void a_container_is_around_the_command(void **state)
{
	char *options[] = { "--nv", "--env", "X=a b", NULL }, *argv[] = { "printf", "%s.", "a b", "", NULL };
	struct job_var path = { "PATH", NULL };
	struct job job = in(ENV_NONE, NULL, "echo \"it's $0\"; pwd | sed 's|.*/||'");
	struct box b;

	(void)state;
	job.environment.container = "docker://debian";
	EACH_SHELL(b)
	fails(&b, &job, "neither apptainer nor singularity is on");
	job.env = &path;
	job.n_env = 1;
	for (int form = 0; form < 3; form++) {
		EACH_SHELL(b)
		{
			cleanup_free char *value = xasprintf("%s/bin:/usr/bin:/bin", b.home);

			/* Says what it was given, up to the image, and runs the rest. */
			arrange(&b,
				"mkdir bin && printf '%s\\n' '#!/bin/sh' 'echo \"$1\" >\"$HOME/box\"' "
				"'while [ \"$1\" != /i.sif ]; do shift; done; shift; exec \"$@\"' >bin/singularity && "
				"chmod +x bin/singularity");
			path.value = value;
			job.environment.container = "/i.sif";
			job.environment.options = options;
			fails(&b, &job, "environment container /i.sif: there is no such image");
		}
		EACH_SHELL(b)
		{
			cleanup_free char *value = xasprintf("%s/bin:/usr/bin:/bin", b.home);

			arrange(&b,
				"mkdir bin && printf '%s\\n' '#!/bin/sh' 'echo \"$*\" >box' "
				"'while [ \"$1\" != docker://x ]; do shift; done; shift; exec \"$@\"' >bin/apptainer && "
				"chmod +x bin/apptainer");
			path.value = value;
			job.environment.container = "docker://x";
			job.form = form == 0 ? JOB_COMMAND : form == 1 ? JOB_EXEC : JOB_SCRIPT;
			job.argv = argv;
			job.command =
				form == 2 ? "#!/bin/sh\necho script\n" : "echo \"it's $((1+1))\"; pwd | sed 's|.*/||'";
			job.command_len = strlen(job.command);
			runs(&b, &job, form == 0 ? "it's 2\nwork\n" : form == 1 ? "a b.." : "script\n");
			{
				cleanup_free char *box = box_read(&b, "work/box", NULL);

				assert_non_null(strstr(box, "--nv --env X=a b docker://x "));
				assert_int_equal(strncmp(box, "exec --bind ", 12), 0);
			}
		}
	}
}

static void all_together_in_order(void **state)
{
	char *one[] = { "gcc", NULL };
	struct job job = in(ENV_VENV, "~/v", "echo $GOT; command -v python3; echo $A");
	struct box b;

	(void)state;
	job.setup = (char *)modules;
	job.environment.modules = one;
	job.environment.hook = "A=\"$GOT $VIRTUAL_ENV\"";
	EACH_SHELL(b)
	{
		cleanup_free char *want = NULL;

		arrange(&b, make_venv);
		want = xasprintf("gcc\n%s/v/bin/python3\ngcc %s/v\n", b.home, b.home);
		job.command = "echo $GOT; command -v python3; echo $A";
		job.environment.hook = "export A=\"${GOT# } $VIRTUAL_ENV\"";
		runs(&b, &job, want);
	}
}

static void an_archive_that_is_gone(void **state)
{
	struct job job = in(ENV_ARCHIVE, "/home/me/e.tar", "python3; echo $CONDA_PREFIX");
	struct box b;

	(void)state;
	EACH_SHELL(b)
	fails(&b, &job, "environment archive /home/me/e.tar: the unpacked archive is not on the cluster any more");
	EACH_SHELL(b)
	{
		cleanup_strbuf struct strbuf code = STRBUF_INIT;

		arrange_prefix(&b, "K/env/sub");
		strbuf_addstr(&code, "touch K/complete && ln -s env/sub K/root && d=");
		quote_sh(&code, b.dir);
		strbuf_addstr(&code, " && mkdir -p \"$d\" && ln -s \"$PWD/K\" \"$d/environment\"");
		arrange(&b, code.buf);
		runs(&b, &job, "fake\n%H/K/env/sub\n");
		arrange(&b, "test -e K/last_used");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms),
		cmocka_unit_test(mistakes),
		cmocka_unit_test(text_and_object_are_the_same_spec),
		cmocka_unit_test(it_replaces_that_of_the_cluster),
		cmocka_unit_test(venvs),
		cmocka_unit_test(directories),
		cmocka_unit_test(conda_names),
		cmocka_unit_test(modules_are_loaded),
		cmocka_unit_test(hooks),
		cmocka_unit_test(a_container_is_around_the_command),
		cmocka_unit_test(all_together_in_order),
		cmocka_unit_test(an_archive_that_is_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
