/*
 * Which steps of a session may be submitted together with others: those that are nothing but a script.
 */
#include "backend/remote.h"

#include "backend/base/mem.h"
#include "backend/sched.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct fx {
	struct cluster c;
	struct job job;
	struct rrun run;
};

static bool is_one(const struct fx *f)
{
	return rsteps_is_one(&f->c, &f->run);
}

static int setup(void **state)
{
	static char session[] = "warm", id[] = "55", directory[] = "/d", scratch[] = "/d";
	struct fx *f = xcalloc(1, sizeof(*f));

	f->c.sched = &sched_slurm_ops;
	f->run.job = &f->job;
	f->job.session = session;
	f->job.holder.num = 7;
	f->job.holder.job_id = id;
	f->job.directory = directory;
	f->job.scratch = scratch;
	f->job.form = JOB_COMMAND;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void a_script_alone(void **state)
{
	struct fx *f = *state;

	assert_true(is_one(f));
	f->job.form = JOB_SCRIPT;
	assert_true(is_one(f));
	f->run.cancel = CANCEL_WANTED;
	assert_false(is_one(f));
}

static void no_session(void **state)
{
	struct fx *f = *state;

	f->job.holder.num = 0;
	assert_false(is_one(f));
}

static void files(void **state)
{
	struct fx *f = *state;
	char path[] = "/x", *list[] = { path, NULL };

	f->run.files_dir = path;
	assert_false(is_one(f));
	f->run.files_dir = NULL;
	f->run.context = path;
	assert_false(is_one(f));
	f->run.context = NULL;
	f->job.files = list;
	assert_false(is_one(f));
	f->job.files = NULL;
	f->job.n_secret = 1;
	assert_false(is_one(f));
	f->job.n_secret = 0;
	f->job.n_inputs = 1;
	assert_false(is_one(f));
	f->job.n_inputs = 0;
	f->job.form = JOB_PAYLOAD;
	assert_false(is_one(f));
}

/* What has to be brought to the cluster first (envs_needs.c). */
static void environments(void **state)
{
	struct fx *f = *state;
	char path[] = "/x", *list[] = { path, NULL };

	f->job.environment.kind = ENV_ARCHIVE;
	assert_false(is_one(f));
	f->job.environment.kind = ENV_BUILD;
	assert_false(is_one(f));
	f->job.environment.kind = ENV_VENV;
	assert_true(is_one(f));
	f->job.environment.wheels = list;
	assert_false(is_one(f));
	f->job.environment.wheels = NULL;
	f->job.environment.pipes = path;
	assert_false(is_one(f));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_script_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(no_session, setup, teardown),
		cmocka_unit_test_setup_teardown(files, setup, teardown),
		cmocka_unit_test_setup_teardown(environments, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
