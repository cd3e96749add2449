/*
 * Specs: the three forms, each type of value, the sentences of errors, and that forms agree.
 */
#include "backend/spec.h"

#include "backend/base/err.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- helpers ---- */

/* Parses what must be right. */
static json_t *parse_n(const char *text, size_t len)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *spec = NULL;

	if (spec_parse(text, len, &spec, &errors) < 0)
		fail_msg("%s\nrefused: %s", text, errors.buf);
	assert_int_equal(errors.len, 0);
	return spec;
}

/* `text` gives the object that `json` is, key for key. */
static void expect(const char *text, const char *json)
{
	json_t *spec = parse_n(text, strlen(text)), *want = json_loads(json, 0, NULL);

	assert_non_null(want);
	if (!json_equal(spec, want)) {
		cleanup_free char *got = json_dumps(spec, JSON_SORT_KEYS);

		fail_msg("%s\ngave %s\nnot  %s", text, got, json);
	}
	json_decref(spec);
	json_decref(want);
}

/* `text` is refused with exactly these sentences. */
static void refuse_n(const char *text, size_t len, const char *sentences)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *spec = NULL;

	assert_int_equal(spec_parse(text, len, &spec, &errors), -EINVAL);
	assert_null(spec);
	assert_string_equal(errors.buf, sentences);
}

static void refuse(const char *text, const char *sentences)
{
	refuse_n(text, strlen(text), sentences);
}

/* `text` is refused and what is said contains `part`. */
static void refuse_with(const char *text, const char *part)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *spec = NULL;

	if (spec_parse(text, strlen(text), &spec, &errors) != -EINVAL)
		fail_msg("accepted: %s", text);
	if (!strstr(errors.buf, part))
		fail_msg("%s\nsaid: %s\nnot:  %s", text, errors.buf, part);
}

/* One key with a JSON value: the canonical value, or refused when `canonical` is NULL. */
static void check_value(const char *key, const char *value, const char *canonical)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *spec = json_object(), *v = json_loads(value, JSON_DECODE_ANY, NULL);
	int rc;

	assert_non_null(v);
	rc = spec_set(spec, key, v, &errors);
	if (!canonical) {
		if (rc != -EINVAL)
			fail_msg("%s = %s was accepted", key, value);
		assert_true(errors.len > 0);
		assert_int_equal(json_object_size(spec), 0);
	} else {
		json_t *want = json_loads(canonical, JSON_DECODE_ANY, NULL);

		assert_non_null(want);
		if (rc < 0 || !json_equal(json_object_get(spec, key), want))
			fail_msg("%s = %s: rc %d, %s", key, value, rc, errors.buf);
		json_decref(want);
	}
	json_decref(v);
	json_decref(spec);
}

/* ---- JSON ---- */

static void test_json(void **state)
{
	(void)state;
	expect("{\"command\": \"python train.py\", \"cluster\": \"hpc\", \"nodes\": 2, \"gpus_per_node\": 4, \"time\": "
	       "\"1:00:00\"}",
	       "{\"command\": \"python train.py\", \"cluster\": \"hpc\", \"nodes\": \"2\", \"gpus_per_node\": \"4\", "
	       "\"time\": \"1:00:00\"}");
	expect(" \n{\"command\": [\"a b\", \"$x\", 3]}\n", "{\"command\": [\"a b\", \"$x\", \"3\"]}");
	expect("{\"command\": \"a\", \"ntasks-per-node\": \"4\"}", "{\"command\": \"a\", \"ntasks_per_node\": 4}");
	expect("{\"command\": \"a\", \"partition\": null, \"array\": null}",
	       "{\"command\": \"a\", \"partition\": null}");
	expect("{\"command\": \"a\", \"env\": {\"A\": 1, \"B\": true, \"C\": 0.1, \"D\": \"x\\ny\"}, \"env.E\": \"\"}",
	       "{\"command\": \"a\", \"env\": {\"A\": \"1\", \"B\": \"true\", \"C\": \"0.1\", \"D\": \"x\\ny\", \"E\": "
	       "\"\"}}");
	expect("{\"payload\": \"/home/me/x.py\"}", "{\"payload\": \"/home/me/x.py\"}");
	expect("{\"command\": \"multi\\nline {\\n\"}", "{\"command\": \"multi\\nline {\\n\"}");
}

static void test_json_mistakes(void **state)
{
	(void)state;
	refuse("{\"command\": \"a\", \"nodes\": 1,\n \"nodes\": 2}", "line 2, column 8: a key is given twice");
	refuse("{\"command\": \"a\"} x", "line 1, column 18: there is something behind the brace that ends the spec");
	refuse("{\"command\": \"a\"",
	       "line 1, column 15: the spec is cut off: a brace, bracket or quote is not closed");
	refuse("{\"command\": \"a\\u0000b\"}", "line 1, column 22: \\u0000 (a NUL character) must not be in a spec");
	refuse("{\"a\\u0000b\": 1}", "line 1, column 11: \\u0000 (a NUL character) must not be in a spec");
	refuse("{\"nodes\": 99999999999999999999}", "line 1, column 30: a number is too large");
	refuse_with("{\"command\" 1}", "line 1, column 12: this is not JSON: ");
	refuse_with("{command: 1}", "this is not JSON");
	refuse("{}", "there is nothing to run: give 'command', 'script' or 'payload'");
	refuse("{\"command\": null}", "there is nothing to run: give 'command', 'script' or 'payload'");
	refuse("{\"command\": \"a\", \"payload\": \"/b\"}",
	       "'command', 'script' and 'payload': only one of them can be what runs");
	refuse("{\"command\": \"a\", \"name\": \"x\", \"job-name\": \"y\"}", "'name' is given twice");
	refuse("{\"command\": \"a\", \"env\": {\"A\": \"1\"}, \"env.A\": \"1\"}", "'env.A' is given twice");
	refuse("{\"command\": \"a\", \"tags.x\": 1}", "'tags.x': 'tags' is no map");
}

static void test_json_depth(void **state)
{
	char text[1024];
	size_t n = 0;

	(void)state;
	n += (size_t)snprintf(text, sizeof(text), "{\"env\": ");
	for (int i = 0; i < 100; i++)
		text[n++] = '[';
	for (int i = 0; i < 100; i++)
		text[n++] = ']';
	text[n++] = '}';
	refuse_n(text, n, "the spec is nested more than 64 levels deep");
}

static void test_all_errors_at_once(void **state)
{
	(void)state;
	refuse("{\"node\": 2, \"time\": \"soon\", \"mem\": \"4X\", \"retries\": 3, \"comment\": \"hi\"}",
	       "unknown key 'node': did you mean 'nodes'?\n"
	       "'time' must be a time, like 30 (minutes), 1:00:00, 2-12:00 or UNLIMITED, not 'soon'\n"
	       "'mem' must be a size, like 4G, 500M or 2000 (MiB), not '4X'\n"
	       "'retries': automatic retries are not possible yet; write the spec again after a failure\n"
	       "'comment': slurmray keeps its token there; use `tags` or `name`\n"
	       "there is nothing to run: give 'command', 'script' or 'payload'");
	refuse("{\"command\": \"\", \"nodes\": \"two\"}",
	       "'command' must not be empty\n"
	       "'nodes' must be a number or a range, like 2 or 2-4, not 'two'");
}

static void test_errors_have_an_end(void **state)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT, errors = STRBUF_INIT;
	json_t *spec = NULL;

	(void)state;
	strbuf_addstr(&text, "{\"a\": 1");
	for (int i = 0; i < 20000; i++)
		strbuf_addf(&text, ", \"bogus-%d\": [1]", i);
	strbuf_addch(&text, '}');
	assert_int_equal(spec_parse(text.buf, text.len, &spec, &errors), -EINVAL);
	assert_true(errors.len < 10000);
	assert_non_null(strstr(errors.buf, "\nthere are more errors; they are not shown"));
	/* what users write cannot make lines of its own, and is shortened */
	refuse_with("{\"command\": \"a\", \"x\\ny\": 1}", "unknown key 'x?y'");
	refuse_with(
		"{\"time\": "
		"\"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4"
		"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3"
		"\xa4\xc3\xa4"
		"\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\xc3\xa4\"}",
		"\xc3\xa4...'");
}

/* ---- bytes ---- */

static void test_bytes(void **state)
{
	static const char nul_line[] = "echo a\0b\n", nul_script[] = "#!/bin/sh\n\0\n",
			  latin1[] = "#!/bin/sh\necho \xe4\n";

	(void)state;
	refuse_n(nul_line, sizeof(nul_line) - 1, "line 1: the spec contains a NUL byte");
	refuse_n(nul_script, sizeof(nul_script) - 1, "line 2: the spec contains a NUL byte");
	refuse(latin1,
	       "line 2: the spec is not UTF-8 (byte 0xe4); iconv converts it, and `payload` ships a file as it is");
	refuse_with("echo \xed\xa0\x80\n", "not UTF-8 (byte 0xed)");
	refuse_with("echo \xf4\x90\x80\x80\n", "not UTF-8 (byte 0xf4)");
	refuse_with("echo \xc0\xaf\n", "not UTF-8 (byte 0xc0)");
	refuse_with("echo \xe2\x82\n", "not UTF-8 (byte 0xe2)");
	refuse("\xef\xbb\xbf{}", "the spec begins with a byte order mark; save it without one");
	expect("echo \xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\xa7\n",
	       "{\"command\": \"echo \xc3\xa4 \xe2\x82\xac \xf0\x9f\x90\xa7\"}");
	refuse("", "the spec is empty");
	refuse(" \n\n", "the spec is empty");
}

static void test_too_long(void **state)
{
	const size_t len = 1024 * 1024 + 1;
	cleanup_free char *text = xmalloc(len);

	(void)state;
	memset(text, 'a', len);
	refuse_n(text, len, "the spec is longer than 1 MiB");
	json_decref(parse_n(text, len - 1));
}

/* ---- one line ---- */

static void test_line_split(void **state)
{
	(void)state;
	expect("cluster=hpc nodes=2 time=1:00:00 -- python train.py --lr 0.1\n",
	       "{\"cluster\": \"hpc\", \"nodes\": \"2\", \"time\": \"1:00:00\", \"command\": \"python train.py --lr "
	       "0.1\"}");
	expect("nodes=2 -- a -- b\n", "{\"nodes\": \"2\", \"command\": \"a -- b\"}");
	expect("nodes=2 --   echo 'it''s'  \\\n", "{\"nodes\": \"2\", \"command\": \"  echo 'it''s'  \\\\\"}");
	expect("-- { echo; }\n", "{\"command\": \"{ echo; }\"}");
	expect("name='a -- b' -- c\n", "{\"name\": \"a -- b\", \"command\": \"c\"}");
	expect("ntasks-per-node=4 \t hold=yes -- c\n", "{\"ntasks_per_node\": 4, \"hold\": true, \"command\": \"c\"}");
	expect("env.A=1 env.B='x y' env.C=\"a\\\"b$\" env.D=a\\ b env.E= env.F=a'b'\"c\" -- c\n",
	       "{\"env\": {\"A\": \"1\", \"B\": \"x y\", \"C\": \"a\\\"b$\", \"D\": \"a b\", \"E\": \"\", \"F\": "
	       "\"abc\"}, \"command\": \"c\"}");
	expect("env.A=\"\\n\" env.B='\\n' env.C=\\n -- c\n",
	       "{\"env\": {\"A\": \"\\\\n\", \"B\": \"\\\\n\", \"C\": \"n\"}, \"command\": \"c\"}");
	expect("tags=a,b files=/x,/y -- c",
	       "{\"tags\": [\"a\", \"b\"], \"files\": [\"/x\", \"/y\"], \"command\": \"c\"}");
}

static void test_line_is_command(void **state)
{
	(void)state;
	expect("echo hello\n", "{\"command\": \"echo hello\"}");
	expect("  srun -n4 -- ./a.out\n", "{\"command\": \"srun -n4 -- ./a.out\"}");
	expect("A=1 ./run nodes=2 -- x\n", "{\"command\": \"A=1 ./run nodes=2 -- x\"}");
	expect("1a=2 -- x\n", "{\"command\": \"1a=2 -- x\"}");
	expect("'a'=2 -- x\n", "{\"command\": \"'a'=2 -- x\"}");
	expect("=2 -- x\n", "{\"command\": \"=2 -- x\"}");
	expect("[ -f x ] && y\n", "{\"command\": \"[ -f x ] && y\"}");
	expect("a='x\n", "{\"command\": \"a='x\"}");
	expect("FOO=1 BAR='a b' cmd\n", "{\"command\": \"FOO=1 BAR='a b' cmd\"}");
	expect("TIME=5 NODES=2 cmd\n", "{\"command\": \"TIME=5 NODES=2 cmd\"}"); /* keys are written small */
	expect("http_proxy=x n=1 file=y verbose=1 cmd\n", "{\"command\": \"http_proxy=x n=1 file=y verbose=1 cmd\"}");
	expect("A=1\n", "{\"command\": \"A=1\"}");
	expect("-- nodes=2 cmd\n", "{\"command\": \"nodes=2 cmd\"}");
}

/* Keys in front of a command that no ` -- ` separates: nobody means the shell's variable `nodes`. */
static void test_line_without_separator(void **state)
{
	(void)state;
	refuse("nodes=2 true\n",
	       "'nodes' is a key of the spec, and a command comes behind ` -- `: write `nodes=2 -- true`, or "
	       "`-- nodes=2 true` to give the command a variable of that name");
	refuse("A=1 time=5  mem='1 G'  ./run -x -- y \n",
	       "'time' is a key of the spec, and a command comes behind ` -- `: write `A=1 time=5  mem='1 G' -- ./run -x -- y`, or "
	       "`-- A=1 time=5  mem='1 G'  ./run -x -- y` to give the command a variable of that name");
	refuse("nodez=2 true\n",
	       "'nodez' looks like the key 'nodes', and a command comes behind ` -- `: write `nodes=2 -- true`, "
	       "or `-- nodez=2 true` to give the command a variable of that name");
	refuse_with("cpus-per-task=2 true\n", "'cpus_per_task' is a key of the spec");
	refuse_with("env.A=1 true\n", "write `env.A=1 -- true`");
	refuse_with("nodes=2 --x y\n", "write `nodes=2 -- --x y`");
	refuse_with("command=x y\n", "'command' is a key of the spec");
	refuse_with("retries=3 true\n", "write `retries=3 -- true`");
	refuse("nodes=2 time=10\n", "there is nothing to run: write `nodes=2 time=10 -- COMMAND`");
	refuse("A=1 nodes=2\n", "there is nothing to run: write `A=1 nodes=2 -- COMMAND`");
	refuse("payload=/x foo=1\n", "unknown key 'foo': runs/template lists the keys");
	refuse("nodes=2 name='x true\n", "a quote is not closed");
	refuse_with(
		"nodes=2 "
		"cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc\n",
		"cccc...`");
}

static void test_line_of_pairs(void **state)
{
	(void)state;
	expect("payload=/home/me/a nodes=2\n", "{\"payload\": \"/home/me/a\", \"nodes\": \"2\"}");
	expect("nodes=2 command='echo hi; echo ho'\n", "{\"nodes\": \"2\", \"command\": \"echo hi; echo ho\"}");
	refuse("nodes=x payload=/a\n", "'nodes' must be a number or a range, like 2 or 2-4, not 'x'");
}

static void test_line_mistakes(void **state)
{
	(void)state;
	refuse("node=2 -- a\n", "unknown key 'node': did you mean 'nodes'?");
	refuse("xyzzyplugh=2 -- a\n", "unknown key 'xyzzyplugh': runs/template lists the keys");
	refuse("nodes=2 nodes=2 -- a\n", "'nodes' is given twice");
	refuse("command=a -- b\n", "'command' is given twice");
	refuse("nodes=2 -- \n", "'command' must not be empty");
	refuse("nodes=2 --\n", "'command' must not be empty");
	refuse("--\n", "'command' must not be empty");
	refuse("# a comment\n", "'command' must not be a comment alone");
	refuse("#SBATCH -N 2\n",
	       "this does not look like a batch script: the first line of one begins with #! and the path of an "
	       "interpreter, such as #!/bin/bash");
	refuse("name='a -- b\n", "a quote before ` -- ` is not closed");
	refuse("echo a\r\n", "the line ends in a carriage return (CR LF); end it with LF alone");
	refuse("echo a\necho b\n",
	       "there is more behind the line: a batch script begins with #! and the path of an interpreter, "
	       "such as #!/bin/bash; else write one spec at a time");
	refuse("# train\n#SBATCH -N 2\nsrun x\n",
	       "this does not look like a batch script: the first line of one begins with #! and the path of an interpreter, "
	       "such as #!/bin/bash");
	refuse("env=A -- a\n", "'env' must be a map; on one line write env.NAME=VALUE");
	refuse("ray.num_gpu_per_node=4 -- a\n",
	       "unknown key 'ray.num_gpu_per_node': did you mean 'ray.num_gpus_per_node'?");
	refuse("partition= -- a\n", "'partition' must not be empty");
	refuse("#", "'command' must not be a comment alone");
}

static void test_ray(void **state)
{
	(void)state;
	check_value("ray", "true", "{\"enabled\": true}");
	check_value("ray", "\"false\"", "{\"enabled\": false}");
	check_value("ray", "{}", "{}");
	check_value("ray", "\"{\\\"token\\\": false}\"", "{\"token\": false}");
	check_value("ray", "{\"object_store_memory\": \"1G\"}", "{\"object_store_memory\": 1073741824}");
	check_value("ray", "{\"object_store_memory\": 80000000}", "{\"object_store_memory\": 80000000}");
	check_value("ray", "{\"object_store_memory\": 100}", NULL);
	check_value("ray", "{\"num_gpus_per_node\": 0.5}", "{\"num_gpus_per_node\": 0.5}");
	check_value("ray", "{\"num_cpus_per_node\": 0.5}", NULL);
	check_value("ray", "{\"max_workers\": -1}", NULL);
	check_value("ray", "{\"ray_args\": \"--a 'b c'\"}", "{\"ray_args\": [\"--a\", \"b c\"]}");
	check_value("ray", "{\"runtime_env\": {\"pip\": [\"x\"]}}", "{\"runtime_env\": {\"pip\": [\"x\"]}}");
	check_value("ray", "{\"runtime_env\": \"x\"}", NULL);
	check_value("ray", "{\"metadata\": {\"a\": 1}}", "{\"metadata\": {\"a\": \"1\"}}");
	check_value("ray", "{\"metadata\": {\"a\": [1]}}", NULL);
	check_value("ray", "{\"dashboard\": \"0.0.0.0\"}", "{\"dashboard\": \"0.0.0.0\"}");
	check_value("ray", "{\"dashboard\": false}", "{\"dashboard\": false}");
	check_value("ray", "{\"ports\": \"20000-20063\"}", "{\"ports\": \"20000-20063\"}");
	check_value("ray", "{\"ports\": \"20000-20062\"}", NULL);
	check_value("ray", "{\"ports\": \"80-9000\"}", NULL);
	check_value("ray", "{\"ray_version\": \">=2.9\"}", "{\"ray_version\": \">=2.9\"}");
	check_value("ray", "{\"ray_version\": \"new\"}", NULL);
	check_value("ray", "{\"client\": false}", "{\"client\": false}");
	check_value("ray", "{\"client\": \"2.60.0\"}", "{\"client\": \"2.60.0\"}");
	check_value("ray", "{\"client\": \"3.0.0.dev0/3.12\"}", "{\"client\": \"3.0.0.dev0/3.12\"}");
	check_value("ray", "{\"client\": \"2.60.0/\"}", NULL);
	check_value("ray", "{\"client\": \"2.60.0/3.12/1\"}", NULL);
	check_value("ray", "{\"client\": \"new\"}", NULL);
	check_value("ray", "{\"interface\": \"ib0; x\"}", NULL);
	check_value("ray", "{\"interface\": null}", "{\"interface\": null}");
	expect("ray=true ray.metadata.a=1 ray.metadata.b=2 launcher=ray -- a\n",
	       "{\"ray\": {\"enabled\": true, \"metadata\": {\"a\": \"1\", \"b\": \"2\"}}, \"launcher\": \"ray\", \"command\": \"a\"}");
	refuse("ray=4 -- a\n", "'ray' must be true, false or a map; on one line write ray.NAME=VALUE");
	refuse("ray.start_timeout=1:00 -- a\n", "'ray.start_timeout' must be seconds");
	refuse("ray.token.x=1 -- a\n", "unknown key 'ray.token.x': did you mean 'ray.token'?");
}

/* ---- scripts ---- */

/* The keys that a script with these first lines has, beside itself. */
static void expect_script(const char *head, const char *json)
{
	cleanup_free char *text = xasprintf("#!/bin/bash\n%s\necho hi\n#SBATCH --account=late\n", head);
	json_t *spec = parse_n(text, strlen(text)), *want = json_loads(json, 0, NULL), *whole;

	assert_non_null(want);
	assert_string_equal(json_string_value(json_object_get(spec, "script")), text);
	/* the same script inside JSON is the same spec */
	whole = json_pack("{s:s}", "script", text);
	{
		cleanup_free char *as_json = json_dumps(whole, 0);
		json_t *again = parse_n(as_json, strlen(as_json));

		assert_true(json_equal(spec, again));
		json_decref(again);
	}
	json_object_del(spec, "script");
	if (!json_equal(spec, want)) {
		cleanup_free char *got = json_dumps(spec, JSON_SORT_KEYS);

		fail_msg("%s\ngave %s\nnot  %s", head, got, json);
	}
	json_decref(whole);
	json_decref(spec);
	json_decref(want);
}

static void refuse_script(const char *head, const char *sentences)
{
	cleanup_free char *text = xasprintf("#!/bin/bash\n%s\necho hi\n", head);

	refuse(text, sentences);
}

/* Each of these was tried with sbatch 22.05. */
static void test_script_options(void **state)
{
	(void)state;
	expect_script("", "{}");
	expect_script("#SBATCH --nodes=2", "{\"nodes\": \"2\"}");
	expect_script("#SBATCH --nodes 2 -n4\t-c 3", "{\"nodes\": \"2\", \"ntasks\": 4, \"cpus_per_task\": 3}");
	expect_script("#SBATCH-c3", "{\"cpus_per_task\": 3}");
	expect_script("#SBATCH -Hkn2", "{\"hold\": true, \"no_kill\": \"n2\"}");
	expect_script("#SBATCH -HOn2", "{\"hold\": true, \"overcommit\": true, \"ntasks\": 2}");
	expect_script("#SBATCH --partition \"p q\" --qos='x y'", "{\"partition\": \"p q\", \"qos\": \"x y\"}");
	expect_script("#SBATCH --constraint='a&b'\"c\"", "{\"constraint\": \"a&bc\"}");
	expect_script("#SBATCH -J \"a\\\"b\" # comment", "{\"name\": \"a\\\"b\"}");
	expect_script("#SBATCH -J 'a\\b'", "{\"name\": \"ab\"}");
	expect_script("#SBATCH --job-name=a#b -N 2", "{\"name\": \"a\"}");
	expect_script("#SBATCH --job-name='a#b' -N 2", "{\"name\": \"a#b\", \"nodes\": \"2\"}");
	expect_script("#SBATCH --mem\n#SBATCH 5G", "{\"mem\": \"5G\"}");
	expect_script("#SBATCH --job=zz --part=p", "{\"name\": \"zz\", \"partition\": \"p\"}");
	expect_script("#SBATCH --exclusive --nice=5", "{\"exclusive\": true, \"nice\": \"5\"}");
	expect_script("#SBATCH -D /scratch/me", "{\"workdir\": \"/scratch/me\"}");
	expect_script("#SBATCH", "{}");
}

static void test_script_lines(void **state)
{
	(void)state;
	expect_script("# comment\n\n  \n #SBATCH -N3\n##SBATCH -N4\n#sbatch -N5\n#SBATCH -N2", "{\"nodes\": \"2\"}");
	expect_script("set -e\n#SBATCH -N2", "{}");
	expect_script("#SBATCH -Q -v --parsable --wait -W --quiet", "{}");
	expect_script("#SBATCH --export=ALL", "{}");
	expect_script("#SBATCH --no-requeue", "{\"requeue\": false}");
	expect_script("#SBATCH --profile=task,energy", "{\"sbatch_args\": [\"--profile=task,energy\"]}");
	expect_script("#SBATCH --gres=gpu:1\n#SBATCH --gres=gpu:1", "{\"gres\": \"gpu:1\"}");
	expect_script("#SBATCH -d afterok:41:42,afterany:7,singleton",
		      "{\"afterok\": [\"41\", \"42\"], \"afterany\": [\"7\"], \"dependency\": \"singleton\"}");
}

static void test_script_mistakes(void **state)
{
	(void)state;
	refuse_script("#SBATCH foo", "line 2 of the script: 'foo' is no option of sbatch");
	refuse_script("#SBATCH --exclusive user", "line 2 of the script: 'user' is no option of sbatch");
	refuse_script("#SBATCH -- foo", "line 2 of the script: '--' is no option of sbatch\n"
					"line 2 of the script: 'foo' is no option of sbatch");
	refuse_script("\n#SBATCH --bogusoption=1", "line 3 of the script: sbatch has no option --bogusoption");
	refuse_script("#SBATCH --gpu=1", "line 2 of the script: sbatch has no option --gpu: did you mean --gpus?");
	refuse_script("#SBATCH --ntasks_per_node=2",
		      "line 2 of the script: sbatch has no option --ntasks_per_node: did you mean --ntasks-per-node?");
	refuse_script("#SBATCH --name=x", "line 2 of the script: sbatch has no option --name");
	refuse_script("#SBATCH --hold=3", "line 2 of the script: 'hold' takes no value, not '3'");
	refuse_script("#SBATCH --nodes", "line 2 of the script: 'nodes' needs a value");
	refuse_script("#SBATCH -N", "line 2 of the script: 'nodes' needs a value");
	refuse_script("#SBATCH -Z", "line 2 of the script: sbatch has no option '-Z'");
	refuse_script("#SBATCH --job-name='a", "line 2 of the script: a quote is not closed");
	refuse_script(
		"#SBATCH hetjob",
		"line 2 of the script: heterogeneous jobs (hetjob) are not possible yet; write a run for each part");
	refuse_script("#SBATCH : -N2",
		      "line 2 of the script: heterogeneous jobs (:) are not possible yet; write a run for each part");
	refuse_script("#SBATCH --array=1-4",
		      "line 2 of the script: 'array': arrays are not possible yet; write a run for each element");
	refuse_script("#SBATCH -N1\n#SBATCH -N2", "line 3 of the script: 'nodes' is given twice with different values");
	refuse_script("#SBATCH --requeue --no-requeue",
		      "line 2 of the script: 'requeue' is given twice with different values");
	refuse_script("#SBATCH -t soon --mem=x",
		      "line 2 of the script: 'time' must be a time, like 30 (minutes), 1:00:00, 2-12:00 or UNLIMITED, "
		      "not 'soon'\n"
		      "line 2 of the script: 'mem' must be a size, like 4G, 500M or 2000 (MiB), not 'x'");
	refuse_script(
		"#SBATCH -N2\r",
		"'script' contains DOS line breaks (\\r\\n) instead of UNIX line breaks (\\n); dos2unix converts it");
}

/* sbatch takes a relative directory; here it counts only where somebody said what it is relative to. */
static void test_script_workdir(void **state)
{
	static const char script[] = "#!/bin/sh\n#SBATCH -N 1 --chd=a -D ../b\n";
	cleanup_free char *dir = spec_script_workdir(script, strlen(script));

	(void)state;
	assert_string_equal(dir, "../b");
	assert_null(spec_script_workdir("#!/bin/sh\n#SBATCH -D\necho\n#SBATCH -D /x\n", 40));
	refuse_with(script, "line 2 of the script: 'workdir' must be");
	expect("{\"workdir\": \"/x\", \"script\": \"#!/bin/sh\\n#SBATCH -D ../b\\n\"}",
	       "{\"workdir\": \"/x\", \"script\": \"#!/bin/sh\\n#SBATCH -D ../b\\n\"}");
	refuse_with("{\"workdir\": null, \"script\": \"#!/bin/sh\\n#SBATCH -D ../b\\n\"}", "'workdir' must be");
	expect("{\"script\": \"#!/bin/sh\\n#SBATCH -D /b\\n\"}",
	       "{\"workdir\": \"/b\", \"script\": \"#!/bin/sh\\n#SBATCH -D /b\\n\"}");
}

static void test_script_in_json(void **state)
{
	(void)state;
	expect("{\"script\": \"#!/bin/sh\\n#SBATCH -N2 -n4\\n\", \"nodes\": 3}",
	       "{\"script\": \"#!/bin/sh\\n#SBATCH -N2 -n4\\n\", \"nodes\": \"3\", \"ntasks\": 4}");
	expect("{\"script\": \"#!/bin/sh\\n#SBATCH -N2\\n\", \"nodes\": null}",
	       "{\"script\": \"#!/bin/sh\\n#SBATCH -N2\\n\", \"nodes\": null}");
	refuse("{\"script\": \"/home/me/job.sh\"}",
	       "'script' must be the text of a script that begins with #! and the path of an "
	       "interpreter, such as #!/bin/bash (a file is shipped with `payload`), not "
	       "'/home/me/job.sh'");
	refuse_with("#!\necho\n", "'script' must be");
	refuse_with("#! \t\n/bin/sh\n", "'script' must be");
	expect("#! /bin/sh\n", "{\"script\": \"#! /bin/sh\\n\"}");
	expect("\n\n#!/bin/sh\n", "{\"script\": \"#!/bin/sh\\n\"}");
	expect("#!/bin/sh\n#SBATCH -N2", "{\"script\": \"#!/bin/sh\\n#SBATCH -N2\", \"nodes\": \"2\"}");
}

/* ---- values ---- */

static void test_counts(void **state)
{
	(void)state;
	check_value("ntasks", "4", "4");
	check_value("ntasks", "\"4\"", "4");
	check_value("ntasks", "2147483647", "2147483647");
	check_value("ntasks", "2147483648", NULL);
	check_value("ntasks", "0", NULL);
	check_value("ntasks", "-1", NULL);
	check_value("ntasks", "1.5", NULL);
	check_value("ntasks", "\"4x\"", NULL);
	check_value("ntasks", "\" 4\"", NULL);
	check_value("ntasks", "\"\"", NULL);
	check_value("ntasks", "true", NULL);
	check_value("ntasks", "[4]", NULL);
	check_value("grace", "0", "0");
	check_value("core_spec", "0", "0");
}

static void test_ranges(void **state)
{
	(void)state;
	check_value("nodes", "2", "\"2\"");
	check_value("nodes", "\"2-4\"", "\"2-4\"");
	check_value("nodes", "\"1,3\"", "\"1,3\"");
	check_value("nodes", "\"1,4-6:2\"", "\"1,4-6:2\"");
	check_value("nodes", "\"4-2\"", NULL);
	check_value("nodes", "\"2-\"", NULL);
	check_value("nodes", "0", NULL);
	check_value("nodes", "-2", NULL);
	check_value("nodes", "\"1,\"", NULL);
	check_value("nodes", "\"1:0\"", NULL);
	check_value("nodes", "2.0", NULL);
}

static void test_flags(void **state)
{
	(void)state;
	check_value("hold", "true", "true");
	check_value("hold", "\"off\"", "false");
	check_value("hold", "1", "true");
	check_value("hold", "\"maybe\"", NULL);
	check_value("hold", "{}", NULL);
	check_value("exclusive", "true", "true");
	check_value("exclusive", "\"user\"", "\"user\"");
	check_value("exclusive", "false", "null");
	check_value("exclusive", "\"true\"", "true");
	check_value("exclusive", "\"\"", NULL);
	check_value("exclusive", "\"a\\nb\"", NULL);
	check_value("nice", "-5", "\"-5\"");
	check_value("nice", "[]", NULL);
}

static void test_strings(void **state)
{
	static const char long_name[] = "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
					"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"";

	(void)state;
	check_value("partition", "\"a,b\"", "\"a,b\"");
	check_value("partition", "3", "\"3\"");
	check_value("partition", "0.5", "\"0.5\"");
	check_value("partition", "true", NULL);
	check_value("partition", "\"a\\nb\"", NULL);
	check_value("partition", "\"a\\u007fb\"", NULL);
	check_value("name", "\"my job / \xc3\xa4\"", "\"my job / \xc3\xa4\"");
	check_value("name", "\"a\\tb\"", NULL);
	check_value("name", long_name, NULL);
	check_value("key", "\"2026-01-01 step 3\"", "\"2026-01-01 step 3\"");
	check_value("key", "\"\xc3\xa4\"", NULL);
	check_value("key", long_name, NULL);
	check_value("setup", "\"module load x\\ny\"", "\"module load x\\ny\"");
	check_value("workdir", "\"/a b\"", "\"/a b\"");
	check_value("workdir", "\"~/x\"", "\"~/x\"");
	check_value("workdir", "\"x\"", NULL);
	check_value("workdir", "\"~me/x\"", NULL);
	check_value("payload", "\"rel/x\"", NULL);
	check_value("output", "\"out/%j.log\"", "\"out/%j.log\"");
	check_value("cluster", "\"hpc-1.x\"", "\"hpc-1.x\"");
	check_value("cluster", "\"..\"", NULL);
	check_value("cluster", "\"a b\"", NULL);
	check_value("streams", "\"merged\"", "\"merged\"");
	check_value("streams", "\"both\"", NULL);
	check_value("open_mode", "\"append\"", "\"append\"");
	check_value("open_mode", "\"x\"", NULL);
	check_value("kill_on_invalid_dep", "\"maybe\"", NULL);
}

static void test_choices(void **state)
{
	(void)state;
	check_value("launcher", "\"bash\"", "\"bash\"");
	check_value("mode", "\"local\"", "\"local\"");
	check_value("mode", "\"slurm-session\"", "\"slurm-session\"");
	expect("launcher=session nodes=2 idle=30\n", "{\"launcher\": \"session\", \"nodes\": \"2\", \"idle\": \"30\"}");
	expect("{\"launcher\": \"session\", \"max_steps\": 4}", "{\"launcher\": \"session\", \"max_steps\": 4}");
	refuse("launcher=session -- a\n",
	       "a session runs nothing itself: submit the command as a run with session=NAME");
	refuse("session=a/b -- a\n", "'session' must be the name of a session, or any, not 'a/b'");
	check_value("launcher", "\"ray\"", "\"ray\"");
	check_value("mode", "\"ray\"", "\"ray\"");
	refuse("launcher=zsh -- a\n", "'launcher' must be bash, ray, spark or session, not 'zsh'");
	refuse("mode=cloud -- a\n", "'mode' must be slurm, local or ray, not 'cloud'");
	check_value("pipes_exception", "\"ignore\"", "\"ignore\"");
	check_value("pipes_exception", "\"fail\"", "\"fail\"");
	refuse("pipes_exception=die -- a\n", "'pipes_exception' must be fail or ignore, not 'die'");
	check_value("pipes", "true", "true");
	check_value("pipes", "\"false\"", "false");
	check_value("pipes", "1", NULL);
	check_value("pipes", "\"inject\"", "\"inject\"");
	check_value("pipes", "\"/home/me/dagster_pipes-1.whl\"", "\"/home/me/dagster_pipes-1.whl\"");
	check_value("pipes", "\"/home/me/dagster_pipes.py\"", "\"/home/me/dagster_pipes.py\"");
	check_value("pipes", "\"dagster_pipes.py\"", NULL);
	check_value("pipes", "\"/home/me/dagster_pipes\"", NULL);
	check_value("pipes_module", "\"/home/me/a.whl\"", "\"/home/me/a.whl\"");
	check_value("pipes_module", "\"a.whl\"", NULL);
	refuse("pipes=injekt -- a\n",
	       "'pipes' must be true, false, inject, or the absolute path of a dagster_pipes of this "
	       "machine that ends in .whl or .py");
	check_value("extras", "{\"a\": [1, {\"b\": null}]}", "{\"a\": [1, {\"b\": null}]}");
	check_value("extras", "\"{}\"", "{}");
	check_value("extras", "[1]", NULL);
	check_value("extras", "\"x\"", NULL);
}

static void test_gpus_and_signals(void **state)
{
	(void)state;
	check_value("gpus", "4", "\"4\"");
	check_value("gpus", "\"a100:4\"", "\"a100:4\"");
	check_value("gpus", "\"a100:4,v100:1\"", "\"a100:4,v100:1\"");
	check_value("gpus", "\"a100\"", "\"a100\"");
	check_value("gpus", "\"a100:\"", NULL);
	check_value("gpus", "\"gpu:a:1\"", NULL);
	check_value("gpus", "\"4:4\"", NULL);
	check_value("gpus", "-1", NULL);
	check_value("gpus", "\"1,\"", NULL);
	check_value("gpus", "99999999999", NULL);
	check_value("signal", "\"USR1\"", "\"USR1\"");
	check_value("signal", "\"SIGUSR1@120\"", "\"SIGUSR1@120\"");
	check_value("signal", "\"B:TERM@60\"", "\"B:TERM@60\"");
	check_value("signal", "\"RB:usr1@0\"", "\"RB:usr1@0\"");
	check_value("signal", "10", "\"10\"");
	check_value("signal", "0", NULL);
	check_value("signal", "65", NULL);
	check_value("signal", "\"FOO\"", NULL);
	check_value("signal", "\"SIG\"", NULL);
	check_value("signal", "\"B:\"", NULL);
	check_value("signal", "\"BB:10\"", NULL);
	check_value("signal", "\":10\"", NULL);
	check_value("signal", "\"USR1@65536\"", NULL);
	check_value("signal", "\"USR1@\"", NULL);
	check_value("signal", "\"10x@5\"", NULL);
}

static void test_lists(void **state)
{
	(void)state;
	check_value("tags", "[\"a\", \"b\", \"a\"]", "[\"a\", \"b\"]");
	check_value("tags", "\"a,b,a\"", "[\"a\", \"b\"]");
	check_value("tags", "[]", "[]");
	check_value("tags", "\"\"", NULL);
	check_value("tags", "\"a,,b\"", NULL);
	check_value("tags", "[\"last\"]", NULL);
	check_value("tags", "[\"1st\"]", NULL);
	check_value("tags", "[[\"a\"]]", NULL);
	check_value("tags", "{\"a\": 1}", NULL);
	check_value("files", "[\"/a,b\"]", "[\"/a,b\"]");
	check_value("files", "[\"a\"]", NULL);
	check_value("files", "[\"/a\\nb\"]", NULL);
	check_value("afterok", "[41, \"step-1\"]", "[\"41\", \"step-1\"]");
	check_value("afterok", "41", "[\"41\"]");
	check_value("afterok", "\"41:42,43\"", "[\"41\", \"42\", \"43\"]");
	check_value("afterok", "\"041\"", NULL);
	check_value("afterok", "\"41x\"", NULL);
	check_value("afterok", "\"99999999999\"", NULL);
	check_value("afterok", "\"last\"", NULL);
	check_value("sbatch_args", "[\"--new-option=a b\", \"--flag\"]", "[\"--new-option=a b\", \"--flag\"]");
	check_value("sbatch_args", "\"--new-option='a b'  --flag\"", "[\"--new-option=a b\", \"--flag\"]");
	check_value("sbatch_args", "\"--profile=task\"", "[\"--profile=task\"]");
	check_value("sbatch_args", "[\"-N2\"]", NULL);
	check_value("sbatch_args", "[\"--nodes=2\"]", NULL);
	check_value("sbatch_args", "[\"--comment=x\"]", NULL);
	check_value("sbatch_args", "[\"--wra=x\"]", NULL);
	check_value("sbatch_args", "[\"--a\\nb\"]", NULL);
	check_value("sbatch_args", "[2]", NULL);
	check_value("sbatch_args", "\"--a='b\"", NULL);
}

static void test_commands(void **state)
{
	(void)state;
	check_value("command", "[\"a\", \"\", \"b c\"]", "[\"a\", \"\", \"b c\"]");
	check_value("command", "[]", NULL);
	check_value("command", "[\"\"]", NULL);
	check_value("command", "[\"a\", []]", NULL);
	check_value("command", "7", NULL);
	check_value("command", "\" \\n\"", NULL);
	check_value("command", "\"# only this\"", NULL);
	check_value("command", "\"# this\\nand that\"", "\"# this\\nand that\"");
}

/* What a script finds as $1, $2... */
static void test_args(void **state)
{
	(void)state;
	expect("{\"payload\": \"/a\", \"args\": [\"x\", \"x\", \"\", \"a b\\n\", 3]}",
	       "{\"payload\": \"/a\", \"args\": [\"x\", \"x\", \"\", \"a b\\n\", \"3\"]}");
	expect("{\"script\": \"#!/bin/sh\\n\", \"args\": \"--lr 0.1 'a  b' c,d\"}",
	       "{\"script\": \"#!/bin/sh\\n\", \"args\": [\"--lr\", \"0.1\", \"a  b\", \"c,d\"]}");
	expect("{\"payload\": \"/a\", \"args\": \"a\\n b\"}", "{\"payload\": \"/a\", \"args\": [\"a\", \"b\"]}");
	expect("payload=/a args='-x \"y z\"'\n", "{\"payload\": \"/a\", \"args\": [\"-x\", \"y z\"]}");
	expect("{\"payload\": \"/a\", \"args\": []}", "{\"payload\": \"/a\", \"args\": []}");
	expect("{\"command\": \"a\", \"args\": null}", "{\"command\": \"a\", \"args\": null}");
	refuse("{\"command\": \"a\", \"args\": [\"b\"]}",
	       "'args': only a script or a payload takes arguments; write those of a command into the command");
	refuse("{\"payload\": \"/a\", \"args\": 3}", "'args' must be a list of words");
	refuse("{\"payload\": \"/a\", \"args\": [\"a\", [], true]}",
	       "'args': word 2 must be text without NUL\n'args': word 3 must be text without NUL");
	refuse("{\"payload\": \"/a\", \"args\": \"it's\"}", "'args': a quote is not closed");
	refuse("args=a payload=/a args=b\n", "'args' is given twice");
}

static void test_env(void **state)
{
	(void)state;
	check_value("env", "{\"_A1\": null}", "{\"_A1\": null}");
	check_value("env", "{\"1A\": \"x\"}", NULL);
	check_value("env", "{\"A-B\": \"x\"}", NULL);
	check_value("env", "{\"\": \"x\"}", NULL);
	check_value("env", "{\"A\": []}", NULL);
	check_value("env", "\"A=1\"", NULL);
	check_value("env", "null", "null");
	refuse_with("{\"command\": \"a\", \"env.A.B\": 1}", "'A.B' is no name of a variable");
}

static void test_env_size(void **state)
{
	cleanup_free char *value = xmalloc(128 * 1024);
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *spec = json_object(), *v;

	(void)state;
	memset(value, 'x', 128 * 1024);
	v = json_stringn(value, 128 * 1024 - 3); /* A= and NUL make 128 KiB */
	assert_int_equal(spec_set(spec, "env.A", v, &errors), 0);
	assert_int_equal(spec_set(spec, "env.AB", v, &errors), -EINVAL);
	assert_string_equal(errors.buf, "'env.AB' is longer than 128 KiB; ship it as a file (`files`)");
	assert_int_equal(spec_set(spec, "env.DAGSTER_PIPES_CONTEXT", v, &errors), 0);
	json_decref(v);
	json_decref(spec);
}

static void test_nul_in_strings(void **state)
{
	static const char *const keys[] = { "name",      "command", "tags",       "env.A",
					    "exclusive", "hold",    "dependency", "nodes" };
	json_t *spec = json_object(), *v = json_stringn("a\0b", 3), *list = json_pack("[O]", v);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		cleanup_strbuf struct strbuf errors = STRBUF_INIT;

		assert_int_equal(spec_set(spec, keys[i], v, &errors), -EINVAL);
		assert_true(errors.len > 0);
	}
	for (size_t i = 1; i < 3; i++) {
		cleanup_strbuf struct strbuf errors = STRBUF_INIT;

		assert_int_equal(spec_set(spec, keys[i], list, &errors), -EINVAL);
	}
	assert_int_equal(json_object_size(spec), 0);
	json_decref(list);
	json_decref(v);
	json_decref(spec);
}

static void test_dependency(void **state)
{
	(void)state;
	expect("dependency=afterok:41:42,afterany:7,afterok:43:41 afterok=42,44 -- a\n",
	       "{\"afterok\": [\"41\", \"42\", \"43\", \"44\"], \"afterany\": [\"7\"], \"command\": \"a\"}");
	expect("dependency=singleton -- a\n", "{\"dependency\": \"singleton\", \"command\": \"a\"}");
	expect("dependency=afternotok:train -- a\n", "{\"afternotok\": [\"train\"], \"command\": \"a\"}");
	refuse("dependency=aftercorr:41 -- a\n", "'dependency': aftercorr: arrays are not possible yet; use afterok");
	refuse("dependency=after:41 -- a\n",
	       "'dependency': after: waiting for the start of a run is not possible yet; use afterany");
	refuse("dependency=afterok:41?afterok:42 -- a\n",
	       "'dependency': '?' (any one of them) is not possible yet; use ','");
	refuse("dependency=41 -- a\n", "'dependency': '41' must be TYPE:RUN, like afterok:41:42");
	refuse("dependency=nodes:41 -- a\n",
	       "'dependency': 'nodes' must be afterok, afterany, afternotok or singleton");
	refuse("dependency=afterok:41+5 -- a\n", "'afterok' must be a list of run ids: numbers or names, not '41+5'");
	refuse("dependency=afterok: -- a\n", "'afterok' must not have an empty element");
}

/* What grows with the square of a document's length stops the daemon: a mebibyte of each has to be quick. */
static void test_large(void **state)
{
	struct strbuf many = STRBUF_INIT, lines = STRBUF_INIT, pairs = STRBUF_INIT, again = STRBUF_INIT;
	json_t *spec;

	(void)state;
	strbuf_addstr(&many, "dependency=");
	strbuf_addstr(&lines, "#!/bin/sh\n");
	strbuf_addstr(&again, "#!/bin/sh\n");
	for (int i = 1; many.len < 900000; i++)
		strbuf_addf(&many, "%safterok:%d,afterany:%d", i > 1 ? "," : "", i, i / 2 + 1);
	strbuf_addstr(&many, " -- x\n");
	spec = parse_n(many.buf, many.len);
	assert_true(json_array_size(json_object_get(spec, "afterok")) > 30000);
	assert_true(json_array_size(json_object_get(spec, "afterany")) * 2 -
			    json_array_size(json_object_get(spec, "afterok")) <=
		    2);
	json_decref(spec);
	for (int i = 1; lines.len < 900000; i++)
		strbuf_addf(&lines, "#SBATCH -d afterok:%d\n", i);
	refuse_with(lines.buf, "'afterok' has more than 1000 runs from several options");
	for (int i = 1; again.len < 900000; i++)
		strbuf_addf(&again, "#SBATCH -d afterok:%d\n", i % 999 + 1);
	spec = parse_n(again.buf, again.len);
	assert_int_equal(json_array_size(json_object_get(spec, "afterok")), 999);
	json_decref(spec);
	while (pairs.len < 900000)
		strbuf_addstr(&pairs, "aaaaa=1 ");
	strbuf_addstr(&pairs, "x\n");
	json_decref(parse_n(pairs.buf, pairs.len));
	strbuf_release(&many);
	strbuf_release(&lines);
	strbuf_release(&pairs);
	strbuf_release(&again);
}

static void test_ours_and_later(void **state)
{
	(void)state;
	for (const struct spec_key *k = spec_keys; k->name; k++) {
		cleanup_strbuf struct strbuf errors = STRBUF_INIT;
		json_t *spec = json_object(), *v = json_string("x");

		if (k->flags & (SPEC_LATER | SPEC_OURS)) {
			assert_int_equal(spec_set(spec, k->name, v, &errors), -EINVAL);
			assert_non_null(strstr(errors.buf, k->name));
			assert_non_null(strstr(errors.buf, k->help));
			assert_int_equal(spec_set(spec, k->name, json_null(), &errors), 0);
			assert_int_equal(json_object_size(spec), 0);
		}
		json_decref(v);
		json_decref(spec);
	}
	refuse("export=NONE -- a\n",
	       "'export': the job always gets the login environment of the cluster (ALL); put variables into `env`");
	expect("export=ALL -- a\n", "{\"command\": \"a\"}");
	expect("no-requeue=true -- a\n", "{\"requeue\": false, \"command\": \"a\"}");
	expect("no-requeue=no -- a\n", "{\"requeue\": true, \"command\": \"a\"}");
}

static void test_set_merges(void **state)
{
	cleanup_strbuf struct strbuf errors = STRBUF_INIT;
	json_t *spec = json_object(), *one = json_pack("{s:s, s:s}", "A", "1", "B", "2"), *v = json_string("3"), *want;

	(void)state;
	assert_int_equal(spec_set(spec, "env", one, &errors), 0);
	assert_int_equal(spec_set(spec, "env.B", v, &errors), 0);
	assert_int_equal(spec_set(spec, "env.C", json_null(), &errors), 0);
	assert_int_equal(spec_set(spec, "nodes", v, &errors), 0);
	assert_int_equal(spec_set(spec, "nodes", json_null(), &errors), 0);
	want = json_pack("{s:{s:s, s:s, s:n}, s:n}", "env", "A", "1", "B", "3", "C", "nodes");
	assert_true(json_equal(spec, want));
	/* what fails leaves no trace */
	assert_int_equal(spec_set(spec, "env.1", v, &errors), -EINVAL);
	assert_int_equal(spec_set(spec, "dependency", v, &errors), -EINVAL);
	assert_int_equal(spec_set(spec, "nope", v, &errors), -EINVAL);
	assert_true(json_equal(spec, want));
	json_decref(want);
	json_decref(v);
	json_decref(one);
	json_decref(spec);
}

/* ---- time, memory, names ---- */

static void test_time(void **state)
{
	static const struct {
		const char *text;
		long long seconds;
	} cases[] = {
		{ "0", 0 },
		{ "30", 1800 },
		{ "30:15", 1815 },
		{ "90:00", 5400 },
		{ "1:00:00", 3600 },
		{ "2-3", 183600 },
		{ "2-3:4", 183840 },
		{ "2-3:4:5", 183845 },
		{ "0-0:0:1", 1 },
		{ "UNLIMITED", -1 },
		{ "infinite", -1 },
		{ "-1", -1 },
		{ "35791394", 2147483640 },
	};
	static const char *const bad[] = { "",        " 1",    "1 ",   "+5",   "-5",       "1-",
					   "-",       ":",     "1:",   ":1",   "1:2:3:4",  "1-2:3:4:5",
					   "1.5",     "2-:3",  "2-3:", "soon", "35791395", "99999999999999999999",
					   "25000-0", "1-2-3", "1h" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(spec_time_seconds(cases[i].text), cases[i].seconds);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (spec_time_seconds(bad[i]) != -EINVAL)
			fail_msg("time '%s' was accepted", bad[i]);
	check_value("time", "60", "\"60\"");
	check_value("time", "60.5", NULL);
}

static void test_memory(void **state)
{
	static const struct {
		const char *text;
		long long bytes;
	} cases[] = {
		{ "0", 0 },           { "0G", 0 },           { "100", 104857600 },
		{ "100K", 102400 },   { "500M", 524288000 }, { "4G", 4294967296 },
		{ "4g", 4294967296 }, { "4GB", 4294967296 }, { "1T", 1099511627776 },
	};
	static const char *const bad[] = {
		"",        "G", "-1", "4.5G", "4 G", "1P", "4Mi", "4GBB", "B", "4B", " 4", "+4", "99999999999999999999",
		"9000000T"
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(spec_memory_bytes(cases[i].text), cases[i].bytes);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (spec_memory_bytes(bad[i]) != -EINVAL)
			fail_msg("memory '%s' was accepted", bad[i]);
	check_value("mem", "4000", "\"4000\"");
}

static void test_names(void **state)
{
	static const char *const good[] = { "a", "_", "train-1.x", "Z9", "latest", "waiting" };
	static const char *const bad[] = { "",    "1a",    ".a",       "-a",   "a b",  "a/b", "a\n",  "\xc3\xa4",
					   "new", "check", "template", "list", "last", "any", "wait", "wait-any" };
	char name[130];
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(spec_name_ok(good[i], &e));
	assert_int_equal(e.code, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err why = ERR_INIT;

		assert_false(spec_name_ok(bad[i], &why));
		assert_int_equal(why.code, -EINVAL);
		assert_true(*why.text);
		assert_false(spec_name_ok(bad[i], NULL));
	}
	memset(name, 'a', sizeof(name));
	name[128] = '\0';
	assert_true(spec_name_ok(name, &e));
	name[128] = 'a';
	name[129] = '\0';
	assert_false(spec_name_ok(name, &e));
}

/* ---- the table ---- */

static void test_table(void **state)
{
	(void)state;
	for (const struct spec_key *k = spec_keys; k->name; k++) {
		assert_ptr_equal(spec_key_find(k->name), k);
		assert_null(strchr(k->name, '-'));
		assert_true(k->help && *k->help);
		for (const struct spec_key *other = k + 1; other->name; other++) {
			assert_string_not_equal(k->name, other->name);
			if (k->letter)
				assert_int_not_equal(k->letter, other->letter);
		}
	}
	assert_string_equal(spec_key_find("ntasks-per-node")->name, "ntasks_per_node");
	assert_string_equal(spec_key_find("job-name")->name, "name");
	assert_string_equal(spec_key_find("chdir")->name, "workdir");
	assert_null(spec_key_find("node"));
	assert_null(spec_key_find(""));
	assert_null(spec_key_find("Nodes"));
}

/* Every long option of sbatch 22.05 (sbatch --help and its manual page). */
static void test_table_has_all_of_sbatch(void **state)
{
	static const char *const options[] = {
		"account",
		"acctg-freq",
		"array",
		"batch",
		"bb",
		"bbf",
		"begin",
		"chdir",
		"cluster-constraint",
		"clusters",
		"comment",
		"constraint",
		"container",
		"contiguous",
		"core-spec",
		"cores-per-socket",
		"cpu-freq",
		"cpus-per-gpu",
		"cpus-per-task",
		"deadline",
		"delay-boot",
		"dependency",
		"distribution",
		"error",
		"exclude",
		"exclusive",
		"export",
		"export-file",
		"extra-node-info",
		"get-user-env",
		"gid",
		"gpu-bind",
		"gpu-freq",
		"gpus",
		"gpus-per-node",
		"gpus-per-socket",
		"gpus-per-task",
		"gres",
		"gres-flags",
		"help",
		"hint",
		"hold",
		"ignore-pbs",
		"input",
		"job-name",
		"kill-on-invalid-dep",
		"licenses",
		"mail-type",
		"mail-user",
		"mcs-label",
		"mem",
		"mem-bind",
		"mem-per-cpu",
		"mem-per-gpu",
		"mincpus",
		"network",
		"nice",
		"no-kill",
		"no-requeue",
		"nodefile",
		"nodelist",
		"nodes",
		"ntasks",
		"ntasks-per-core",
		"ntasks-per-gpu",
		"ntasks-per-node",
		"ntasks-per-socket",
		"ntasks-per-tres",
		"open-mode",
		"output",
		"overcommit",
		"oversubscribe",
		"parsable",
		"partition",
		"power",
		"prefer",
		"priority",
		"profile",
		"propagate",
		"qos",
		"quiet",
		"reboot",
		"requeue",
		"reservation",
		"signal",
		"sockets-per-node",
		"spread-job",
		"switches",
		"test-only",
		"thread-spec",
		"threads-per-core",
		"time",
		"time-min",
		"tmp",
		"uid",
		"usage",
		"use-min-nodes",
		"verbose",
		"version",
		"wait",
		"wait-all-nodes",
		"wckey",
		"wrap",
		/* later releases */
		"container-id",
		"extra",
		"tres-bind",
		"tres-per-task",
		"oom-kill-step",
		"segment",
		"stepmgr",
		"resv-ports",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (!spec_key_find(options[i]))
			fail_msg("--%s is not in the table", options[i]);
}

static void test_nearest(void **state)
{
	static const struct {
		const char *name, *nearest;
	} cases[] = {
		{ "node", "nodes" },
		{ "Nodes", "nodes" },
		{ "tiem", "time" },
		{ "partiton", "partition" },
		{ "gpu", "gpus" },
		{ "cpus", "cpus_per_task" },
		{ "walltime", "time" },
		{ "memory", "mem" },
		{ "jobname", "job_name" },
		{ "comand", "command" },
		{ "gpus-per-nod", "gpus_per_node" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *near = spec_key_nearest(cases[i].name);

		assert_non_null(near);
		assert_string_equal(near, cases[i].nearest);
	}
	assert_null(spec_key_nearest(""));
	assert_null(spec_key_nearest("xyzzyplugh"));
	assert_null(spec_key_nearest("a_name_that_is_far_too_long_to_be_compared_with_keys"));
}

/* ---- comparison ---- */

static void expect_equal(const char *a, const char *b, bool equal)
{
	json_t *x = parse_n(a, strlen(a)), *y = parse_n(b, strlen(b));

	assert_int_equal(spec_equal(x, y), equal);
	assert_int_equal(spec_equal(y, x), equal);
	assert_true(spec_equal(x, x));
	json_decref(x);
	json_decref(y);
}

static void test_equal(void **state)
{
	(void)state;
	expect_equal("nodes=2 -- a", "{\"command\": \"a\", \"nodes\": 2}", true);
	expect_equal("nodes=2 -- a", "nodes=3 -- a", false);
	expect_equal("env.DAGSTER_PIPES_CONTEXT=x -- a", "a", true);
	expect_equal("env.DAGSTER_PIPES_CONTEXT=x env.A=1 -- a",
		     "env.DAGSTER_PIPES_CONTEXT=y env.DAGSTER_PIPES_X=1 env.A=1 -- a", true);
	expect_equal("env.DAGSTER_PIPES=x -- a", "a", false);
	expect_equal("env.A=1 -- a", "env.A=2 -- a", false);
}

/* ---- property: JSON and line say the same ---- */

/* xorshift64: the same sequence in every run */
static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* Text of printable characters, some of which a line has to quote. */
static void random_text(uint64_t *rnd, struct strbuf *out)
{
	static const char *const pieces[] = { "a", "B", "7",    " ",  "\t", "'", "\"",       "\\", "$", "`",
					      "#", "=", " -- ", "--", "{",  "}", "\xc3\xa4", ",",  ".", "/" };
	size_t n = 1 + next_random(rnd) % 12;

	strbuf_reset(out);
	strbuf_addch(out, 'x');
	for (size_t i = 0; i < n; i++)
		strbuf_addstr(out, pieces[next_random(rnd) % ARRAY_SIZE(pieces)]);
}

/* A value that the key accepts. */
static void random_value(const struct spec_key *k, uint64_t *rnd, struct strbuf *out)
{
	static const char *const times[] = { "30", "1:00:00", "2-3:4:5", "UNLIMITED" };
	static const char *const sizes[] = { "4G", "500M", "100", "1T" };
	static const char *const lists[] = { "a", "b,a", "x-1,y.2,_z" };

	strbuf_reset(out);
	switch (k->type) {
	case SPEC_COUNT:
		strbuf_addf(out, "%d", (int)(1 + next_random(rnd) % 1000));
		break;
	case SPEC_RANGE:
		strbuf_addf(out, "%d-%d", (int)(1 + next_random(rnd) % 9), (int)(10 + next_random(rnd) % 9));
		break;
	case SPEC_TIME:
		strbuf_addstr(out, times[next_random(rnd) % ARRAY_SIZE(times)]);
		break;
	case SPEC_MEMORY:
		strbuf_addstr(out, sizes[next_random(rnd) % ARRAY_SIZE(sizes)]);
		break;
	case SPEC_FLAG:
		strbuf_addstr(out, next_random(rnd) % 2 ? "true" : "false");
		break;
	case SPEC_LIST:
		strbuf_addstr(out, lists[next_random(rnd) % ARRAY_SIZE(lists)]);
		break;
	default:
		random_text(rnd, out);
		if (strpbrk(out->buf, "\t")) /* no control characters in options */
			strbuf_reset(out), strbuf_addstr(out, "a b");
		break;
	}
}

static bool usable(const struct spec_key *k)
{
	static const char *const own_form[] = {
		"script",        "payload",         "pipes_module",   "launcher",
		"mode",          "pipes_exception", "cluster",        "profile",
		"key",           "session",         "files",          "workdir",
		"streams",       "signal",          "gpus",           "gpus_per_node",
		"gpus_per_task", "gpus_per_socket", "open_mode",      "kill_on_invalid_dep",
		"no_requeue",    "scope",           "on_session_end", "reuse_tolerance",
		"shared"
	};

	if ((k->flags & (SPEC_LATER | SPEC_OURS)) || k->type == SPEC_ANY || k->type == SPEC_MAP)
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(own_form); i++)
		if (strcmp(own_form[i], k->name) == 0)
			return false;
	return true;
}

/* " NAME=VALUE", the value quoted in one of the ways that a line knows. */
static void line_pair(struct strbuf *line, const char *name, const char *value, uint64_t *rnd)
{
	unsigned way = (unsigned)(next_random(rnd) % 3);

	strbuf_addf(line, "%s=%s", name, way == 0 ? "" : way == 1 ? "'" : "\"");
	for (const char *p = value; *p; p++) {
		if (way == 0 && (unsigned char)*p < 0x80 &&
		    !strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", *p))
			strbuf_addch(line, '\\');
		if (way == 2 && strchr("\"\\$`", *p))
			strbuf_addch(line, '\\');
		if (way == 1 && *p == '\'')
			strbuf_addstr(line, "'\\'");
		strbuf_addch(line, *p);
	}
	strbuf_addf(line, "%s ", way == 0 ? "" : way == 1 ? "'" : "\"");
}

static void add_random_keys(json_t *json, struct strbuf *line, uint64_t *rnd)
{
	cleanup_strbuf struct strbuf value = STRBUF_INIT;

	for (const struct spec_key *k = spec_keys; k->name; k++) {
		cleanup_free char *name = xstrdup(k->name);

		if (!usable(k) || next_random(rnd) % 16)
			continue;
		if (next_random(rnd) % 2)
			for (char *p = name; *p; p++)
				if (*p == '_')
					*p = '-';
		random_value(k, rnd, &value);
		line_pair(line, name, value.buf, rnd);
		if (k->type == SPEC_FLAG && next_random(rnd) % 2)
			json_object_set_new(json, k->name, json_boolean(strcmp(value.buf, "true") == 0));
		else if (k->type == SPEC_COUNT && next_random(rnd) % 2)
			json_object_set_new(json, k->name, json_integer(strtol(value.buf, NULL, 10)));
		else
			json_object_set_new(json, k->name, json_string(value.buf));
	}
}

static void add_random_env(json_t *json, struct strbuf *line, uint64_t *rnd)
{
	cleanup_strbuf struct strbuf value = STRBUF_INIT;
	json_t *env = json_object();
	size_t n = 1 + next_random(rnd) % 4;

	for (size_t i = 0; i < n; i++) {
		char name[16], key[24];

		(void)snprintf(name, sizeof(name), "V%zu", i);
		(void)snprintf(key, sizeof(key), "env.%s", name);
		random_text(rnd, &value);
		json_object_set_new(env, name, json_string(value.buf));
		line_pair(line, key, value.buf, rnd);
	}
	json_object_set_new(json, "env", env);
}

static void test_forms_agree(void **state)
{
	uint64_t rnd = 2463534242ULL;

	(void)state;
	for (int round = 0; round < 2000; round++) {
		cleanup_strbuf struct strbuf line = STRBUF_INIT, command = STRBUF_INIT;
		json_t *json = json_object(), *a, *b, *c;

		add_random_keys(json, &line, &rnd);
		add_random_env(json, &line, &rnd);
		random_text(&rnd, &command);
		json_object_set_new(json, "command", json_string(command.buf));
		strbuf_addf(&line, "-- %s\n", command.buf);
		{
			cleanup_free char *text = json_dumps(json, JSON_INDENT(2));
			cleanup_free char *canonical = NULL;

			a = parse_n(text, strlen(text));
			b = parse_n(line.buf, line.len);
			/* the canonical form is a spec that says the same */
			canonical = json_dumps(a, 0);
			c = parse_n(canonical, strlen(canonical));
			if (!json_equal(a, b) || !json_equal(a, c) || !spec_equal(a, b))
				fail_msg("these differ:\n%s\n%s", text, line.buf);
		}
		json_decref(a);
		json_decref(b);
		json_decref(c);
		json_decref(json);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_json_mistakes),
		cmocka_unit_test(test_json_depth),
		cmocka_unit_test(test_all_errors_at_once),
		cmocka_unit_test(test_errors_have_an_end),
		cmocka_unit_test(test_bytes),
		cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_line_split),
		cmocka_unit_test(test_line_is_command),
		cmocka_unit_test(test_line_without_separator),
		cmocka_unit_test(test_line_of_pairs),
		cmocka_unit_test(test_line_mistakes),
		cmocka_unit_test(test_script_options),
		cmocka_unit_test(test_script_lines),
		cmocka_unit_test(test_script_mistakes),
		cmocka_unit_test(test_script_workdir),
		cmocka_unit_test(test_script_in_json),
		cmocka_unit_test(test_counts),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_strings),
		cmocka_unit_test(test_choices),
		cmocka_unit_test(test_ray),
		cmocka_unit_test(test_gpus_and_signals),
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_commands),
		cmocka_unit_test(test_args),
		cmocka_unit_test(test_env),
		cmocka_unit_test(test_env_size),
		cmocka_unit_test(test_nul_in_strings),
		cmocka_unit_test(test_dependency),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_ours_and_later),
		cmocka_unit_test(test_set_merges),
		cmocka_unit_test(test_time),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_table_has_all_of_sbatch),
		cmocka_unit_test(test_nearest),
		cmocka_unit_test(test_equal),
		cmocka_unit_test(test_forms_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
