/*
 * What is said to Ray and what its answers mean: bodies, answers of every kind, runtime environments, packages, and
 * addresses. No connection.
 */
#include "backend/base/mem.h"
#include "backend/http.h"
#include "backend/job.h"
#include "backend/ray_api.h"
#include "backend/ray_package.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static json_t *json(const char *text)
{
	json_t *v = json_loads(text, 0, NULL);

	assert_non_null(v);
	return v;
}

/* --- answers --- */

static void expect_answer(int status, const char *body, enum ray_answer want, const char *why)
{
	cleanup_strbuf struct strbuf said = STRBUF_INIT;

	assert_int_equal(ray_submit_answer(status, body, strlen(body), &said), want);
	assert_string_equal(said.buf, why);
}

static void test_submit_answers(void **state)
{
	(void)state;
	expect_answer(200, "{}", RAY_TAKEN, "{}");
	expect_answer(
		500,
		"Traceback\nValueError: Job with submission_id a already exists. Please use a different submission_id.\n",
		RAY_DUPLICATE, "Job with submission_id a already exists. Please use a different submission_id.");
	expect_answer(500, "No available agent", RAY_LATER, "No available agent");
	expect_answer(400, "a\nTypeError: JobSubmitRequest.__init__() got\n", RAY_REFUSED,
		      "JobSubmitRequest.__init__() got");
	expect_answer(401, "Unauthorized: Missing", RAY_TOKEN, "Missing");
	expect_answer(403, "", RAY_TOKEN, "HTTP status 403");
	expect_answer(413, "", RAY_TOO_LONG, "HTTP status 413");
	expect_answer(404, "", RAY_LATER, "HTTP status 404"); /* something in between */
	expect_answer(502, "<html>\n\x1b[1m", RAY_LATER, " [1m");
}

static void test_job(void **state)
{
	static const char text[] =
		"{\"status\": \"FAILED\", \"message\": \"m\", \"error_type\": \"JOB_SUPERVISOR_ACTOR_DIED\", \"metadata\": "
		"{\"slurmray\": \"t\"}, \"driver_agent_http_address\": \"http://a:1\", \"driver_exit_code\": -9, \"start_time\": 5}";
	static const char *const bad[] = { "", "[]", "{}", "{\"status\": 1}", "{\"status\": \"x\"", "nothing" };
	struct err e = ERR_INIT;
	struct ray_job j;

	(void)state;
	assert_int_equal(ray_job_parse(text, strlen(text), &j, &e), 0);
	assert_int_equal(j.status, RAY_FAILED);
	assert_string_equal(j.token, "t");
	assert_string_equal(j.agent, "http://a:1");
	assert_true(j.has_code);
	assert_int_equal(j.code, -9);
	assert_int_equal(j.start, 5000);
	ray_job_release(&j);
	assert_int_equal(ray_job_parse("{\"status\": \"NEW\", \"metadata\": null}", 35, &j, &e), 0);
	assert_int_equal(j.status, RAY_STATUS_UNKNOWN);
	assert_null(j.token);
	assert_string_equal(j.message, "");
	ray_job_release(&j);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(ray_job_parse(bad[i], strlen(bad[i]), &j, &e), -EPROTO);
}

static void test_version(void **state)
{
	char *session = NULL, *version = NULL;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(ray_version_parse("{\"ray_version\": \"2.9.0\"}", 24, &session, &version, &e), 0);
	assert_string_equal(session, ""); /* old releases do not say */
	assert_string_equal(version, "2.9.0");
	free(session);
	free(version);
	assert_int_equal(ray_version_parse("<html>", 6, &session, &version, &e), -EPROTO);
}

static void test_rows(void **state)
{
	static const char text[] = "[{\"job_id\": \"01\", \"type\": \"DRIVER\"}, 3]";
	json_t *rows = ray_jobs_rows(text, strlen(text));

	(void)state;
	assert_int_equal(json_array_size(rows), 2);
	assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 0), "id")), "01");
	json_decref(rows);
	assert_null(ray_jobs_rows("{}", 2));
	assert_null(ray_nodes_rows("[]", 2));
}

static void test_index(void **state)
{
	static const char html[] =
		"<li><a href=\"/logs/a/b%20c\">b c</a></li><li><a href=\"/logs/a/d\">d/</a></li>"
		"<a href=\"/logs/..\">..</a><a href=\"/x/%2e%2e\">x</a><a href=\"/logs/a%2Fb\">x</a><a href=\"";
	cleanup_strbuf struct strbuf names = STRBUF_INIT;

	(void)state;
	ray_index_names(html, strlen(html), &names);
	assert_int_equal(names.len, 7);
	assert_memory_equal(names.buf, "b c\0d/\0", 7);
}

/* --- what is asked --- */

static void expect_env(const char *text, const char *want)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *env = json(text);
	int rc = ray_env_check(env, &errors);

	if (!want)
		assert_string_equal(errors.buf, "");
	else if (!strstr(errors.buf, want))
		fail_msg("'%s' does not say '%s'", errors.buf, want);
	assert_int_equal(rc, want ? -EINVAL : 0);
	json_decref(env);
}

static void test_runtime_env(void **state)
{
	(void)state;
	expect_env("{}", NULL);
	expect_env("{\"pip\": [\"a\"], \"env_vars\": {\"A\": \"1\"}, \"config\": {\"setup_timeout_seconds\": 60}}",
		   NULL);
	expect_env("{\"env_var\": {}}", "did you mean 'env_vars'?");
	expect_env("{\"zzzzzzzzzz\": {}}", "unknown key 'zzzzzzzzzz'");
	expect_env("{\"env_vars\": {\"A\": 1}}", "env_vars: must be names with text");
	expect_env("{\"working_dir\": \"/home/me\"}", "write ray.working_dir");
	expect_env("{\"working_dir\": \"s3://b/x.zip\"}", NULL);
	expect_env("{\"py_modules\": [\"/home/me\"]}", "only addresses");
	expect_env("{\"pip\": [], \"conda\": \"x\"}", "exclude each other");
	expect_env("{\"config\": {\"setup_timeout_second\": 1}}", "did you mean 'setup_timeout_seconds'?");
	expect_env("[]", "must be a map");
}

static void test_body(void **state)
{
	const struct ray_ids ids = { "slurmray:u/1/a1", "slurmray-u-1-a1", "u", 1, 1 };
	json_t *ray = json(
		"{\"runtime_env\": {\"env_vars\": {\"A\": \"b\"}}, \"entrypoint_num_cpus\": 1, \"entrypoint_memory\": "
		"1024, \"entrypoint_resources\": {\"x\": 0.5}, \"metadata\": {\"m\": \"n\"}, \"token\": true}");
	struct job job = { .name = (char *)(uintptr_t) "it's", .grace_s = 7 };
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	cleanup_free char *text = NULL, *id = ray_submission_id(ids.token);
	struct ray_spec spec;
	json_t *body, *vars;

	(void)state;
	assert_string_equal(id, ids.submission_id);
	assert_int_equal(ray_spec_read(ray, &spec, &errors), 0);
	text = ray_submit_body(&ids, &job, &spec, "true", "gcs://p.zip");
	body = json(text);
	vars = json_object_get(json_object_get(body, "runtime_env"), "env_vars");
	assert_string_equal(json_string_value(json_object_get(vars, "A")), "b");
	assert_string_equal(json_string_value(json_object_get(vars, "RAY_JOB_STOP_WAIT_TIME_S")), "12");
	assert_string_equal(json_string_value(json_object_get(json_object_get(body, "runtime_env"), "working_dir")),
			    "gcs://p.zip");
	assert_string_equal(json_string_value(json_object_get(json_object_get(body, "metadata"), "slurmray")),
			    ids.token);
	assert_int_equal(json_integer_value(json_object_get(body, "entrypoint_memory")), 1024);
	assert_null(json_object_get(body, "entrypoint_num_gpus")); /* unknown to old releases where it is not wanted */
	assert_null(ray_submit_body(&ids, &job, &spec, "\xff", NULL));
	json_decref(body);
	json_decref(ray);
}

static void test_spec(void **state)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *ray = json("{\"working_dir\": \"/a\", \"runtime_env\": {\"working_dir\": \"s3://x\"}, "
			   "\"entrypoint_resources\": {\"a\": \"b\"}}");
	struct ray_spec spec;

	(void)state;
	assert_int_equal(ray_spec_read(ray, &spec, &errors), -EINVAL);
	assert_non_null(strstr(errors.buf, "exclude each other"));
	assert_non_null(strstr(errors.buf, "must be a number"));
	assert_int_equal(ray_spec_read(NULL, &spec, &errors), 0);
	assert_true(spec.num_cpus < 0 && spec.memory < 0);
	json_decref(ray);
}

/* --- packages --- */

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	(void)fputs(text, f);
	(void)fclose(f);
}

static char *pack(const char *dir, struct strbuf *bytes)
{
	json_t *excludes = json("[\"*.log\", \"data/\"]");
	struct err e = ERR_INIT;
	struct ray_package p;
	char *name;

	ray_package_init(&p, 100000);
	assert_int_equal(ray_package_tree(&p, dir, "", excludes, &e), 0);
	name = ray_package_end(&p);
	strbuf_addbuf(bytes, &p.zip);
	ray_package_release(&p);
	json_decref(excludes);
	return name;
}

static void test_package(void **state)
{
	char dir[] = "/tmp/test_ray_api.XXXXXX";
	cleanup_strbuf struct strbuf one = STRBUF_INIT, two = STRBUF_INIT;
	cleanup_free char *a = NULL, *b = NULL, *list = NULL;
	struct err e = ERR_INIT;
	struct ray_package p;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	assert_int_equal(mkdir("pkg", 0700) | mkdir("data", 0700) | mkdir(".git", 0700), 0);
	write_text("b.py", "two");
	write_text("pkg/a.py", "one");
	write_text("x.log", "no");
	write_text("data/big", "no");
	write_text(".git/HEAD", "no");
	assert_int_equal(symlink("..", "pkg/up"), 0);
	assert_int_equal(symlink("../b.py", "pkg/link.py"), 0);
	a = pack(dir, &one);
	assert_int_equal(utimensat(AT_FDCWD, "b.py", NULL, 0), 0); /* its time is not its content */
	b = pack(dir, &two);
	assert_string_equal(a, b);
	assert_int_equal(one.len, two.len);
	write_text("b.py", "three");
	free(b);
	strbuf_reset(&two);
	b = pack(dir, &two);
	assert_string_not_equal(a, b);
	{ /* what others make of it */
		FILE *f = fopen("p.zip", "w"), *out;
		char line[256] = "";

		assert_int_equal(fwrite(one.buf, 1, one.len, f), one.len);
		(void)fclose(f);
		out = popen("python3 -c 'import zipfile; z = zipfile.ZipFile(\"p.zip\"); assert z.testzip() is None; "
			    "print(*z.namelist())'",
			    "r");
		assert_non_null(out);
		assert_non_null(fgets(line, sizeof(line), out));
		assert_int_equal(pclose(out), 0);
		assert_string_equal(line, "b.py pkg/a.py pkg/link.py\n");
	}
	ray_package_init(&p, 200);
	assert_int_equal(ray_package_tree(&p, dir, "", NULL, &e), -EFBIG);
	assert_int_equal(ray_package_tree(&p, "/nowhere", "", NULL, &e), -ENOENT);
	ray_package_release(&p);
	assert_int_equal(chdir("/"), 0);
	list = xasprintf("rm -rf %s", dir);
	assert_int_equal(system(list), 0);
}

/* --- addresses --- */

static void test_base(void **state)
{
	static const char *const good[][2] = {
		{ "http://a:8265", "http://a:8265" },  { "http://a:8265/", "http://a:8265" },
		{ "a:8265", "http://a:8265" },         { "https://a/ray/", "https://a/ray" },
		{ "[::1]:8265", "http://[::1]:8265" },
	};
	static const char *const bad[] = { "ray://a:10001", "http://",        "a", "http://u:p@a:1",
					   "http://a:1/?x", "http://a:99999", "" };
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		cleanup_free char *base = http_base(good[i][0], &e);

		assert_non_null(base);
		assert_string_equal(base, good[i][1]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_null(http_base(bad[i], &e));
}

static void test_path(void **state)
{
	cleanup_strbuf struct strbuf out = STRBUF_INIT;

	(void)state;
	http_add_path(&out, "a b/\xff?#%");
	assert_string_equal(out.buf, "a%20b/%FF%3F%23%25");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_submit_answers), cmocka_unit_test(test_job),   cmocka_unit_test(test_version),
		cmocka_unit_test(test_rows),           cmocka_unit_test(test_index), cmocka_unit_test(test_runtime_env),
		cmocka_unit_test(test_body),           cmocka_unit_test(test_spec),  cmocka_unit_test(test_package),
		cmocka_unit_test(test_base),           cmocka_unit_test(test_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
