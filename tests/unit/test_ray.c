/*
 * The cluster thread of type ray against a Ray head in a thread (lib_fake_ray.c) whose drivers are real.
 * TEST_SECONDS=50
 */
#include "tests/unit/lib_cluster.h"
#include "tests/unit/lib_fake_ray.h"
#include "tests/unit/lib_fake_tunnel.h"

#include "backend/base/mem.h"
#include "backend/doctor.h"
#include "backend/ray_api.h"
#include "backend/tunnel.h"
#include "launchers/launcher.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

struct ray_fx {
	struct fx *f;
	struct fake_ray *ray;
	struct cluster_conf conf;
	char address[64];
};

/* backend/ray.h has another struct cluster than the fixture's header. */
int cluster_ray_start_with(const struct tunnel_conf *way, const struct cluster_ctx *ctx, struct cluster **out,
			   struct err *e);

static int setup(void **state)
{
	struct ray_fx *x = xcalloc(1, sizeof(*x));

	x->ray = fake_ray_new();
	x->f = fx_new();
	x->f->conf.type = CLUSTER_RAY;
	x->f->conf.address = x->ray->address;
	x->f->conf.directory = x->f->conf.scratch = (char *)(uintptr_t)LAUNCH_BASE;
	x->f->conf.hosts = NULL;
	*state = x;
	return 0;
}

/* Through a login; heads and nodes have names that only the other side knows. */
static int setup_tunnel(void **state)
{
	struct ray_fx *x;

	(void)setup(state);
	x = *state;
	fake_tunnel_clear();
	(void)snprintf(x->address, sizeof(x->address), "http://head.nowhere:%d", x->ray->port);
	(void)snprintf(x->ray->address, sizeof(x->ray->address), "http://node.nowhere:%d", x->ray->port);
	x->f->conf.address = x->address;
	x->f->conf.hosts = x->f->hosts;
	return 0;
}

static int teardown(void **state)
{
	struct ray_fx *x = *state;

	if (x->f->c) {
		cluster_ray_ops.stop(x->f->c, 1000);
		x->f->c = NULL;
	}
	fx_free(x->f);
	fake_ray_free(x->ray);
	free(x);
	return 0;
}

static void start(struct ray_fx *x)
{
	const struct tunnel_conf way = { .ops = &transport_fake_tunnel_ops, .backoff_min = 2000, .backoff_max = 40000 };
	struct err e = ERR_INIT;

	if (x->f->conf.hosts)
		assert_int_equal(cluster_ray_start_with(&way, &x->f->ctx, &x->f->c, &e), 0);
	else
		assert_int_equal(cluster_ray_ops.start(&x->f->ctx, &x->f->c, &e), 0);
}

static void stop(struct ray_fx *x)
{
	cluster_ray_ops.stop(x->f->c, 1000);
	x->f->c = NULL;
	fx_take(x->f);
}

static struct creq *make(struct ray_fx *x, enum creq_type type, const char *command)
{
	struct creq *q = fx_make_submit(x->f, type, 1, 1, command);

	q->job->grace_s = 1;
	return q;
}

static void submit(struct ray_fx *x, const char *command)
{
	start(x);
	cluster_ray_ops.post(x->f->c, make(x, CREQ_SUBMIT, command));
}

static const char *ended(struct ray_fx *x)
{
	FX_WAIT(x->f, fx_event(x->f, 1, EV_END, NULL));
	return event_str(fx_event(x->f, 1, EV_END, NULL), "status");
}

static uint64_t post_verb(struct ray_fx *x, const char *verb)
{
	struct creq *q = creq_new(CREQ_VERB, 1, 1, ++x->f->ticket);

	q->verb = xstrdup(verb);
	cluster_ray_ops.post(x->f->c, q);
	return x->f->ticket;
}

static uint64_t ask(struct ray_fx *x, enum creq_type type, const char *path, uint64_t off, uint64_t len)
{
	struct creq *q = creq_new(type, 1, 1, ++x->f->ticket);

	q->path = xstrdup(path);
	q->arg = xstrdup(path);
	q->offset = off;
	q->length = len;
	q->area = AREA_RESULTS;
	cluster_ray_ops.post(x->f->c, q);
	FX_WAIT(x->f, fx_answer(x->f, x->f->ticket));
	return x->f->ticket;
}

/* --- runs --- */

static void test_run(void **state)
{
	struct ray_fx *x = *state;
	const struct event *end;

	submit(x, "printf 'a\\377b'; echo err >&2; exit 3");
	assert_string_equal(ended(x), "failed");
	end = fx_event(x->f, 1, EV_END, NULL);
	assert_int_equal(event_int(end, "exit_code", -1), 3);
	assert_non_null(fx_event(x->f, 1, EV_SUBMITTED, NULL));
	assert_non_null(fx_event(x->f, 1, EV_STATE, "running"));
	FX_WAIT(x->f, fx_logs_are(x->f, 3, 4));
	fx_assert_spool(x->f, 1, SPOOL_OUT, "a\377b", 3);
	fx_assert_spool(x->f, 1, SPOOL_ERR, "err\n", 4);
	assert_int_equal(x->ray->starts, 1);
}

/* More than one range, a long line, and bytes that are no text. */
static void test_long_log(void **state)
{
	struct ray_fx *x = *state;

	submit(x, "head -c 6000000 /dev/zero | tr '\\0' '\\377'; echo");
	assert_string_equal(ended(x), "succeeded");
	FX_WAIT(x->f, fx_logs_are(x->f, 6000001, 0));
}

static void test_no_ranges(void **state)
{
	struct ray_fx *x = *state;

	x->ray->no_ranges = true;
	submit(x, "echo one; sleep 0.4; echo two");
	assert_string_equal(ended(x), "succeeded");
	FX_WAIT(x->f, fx_logs_are(x->f, 8, 0));
	fx_assert_spool(x->f, 1, SPOOL_OUT, "one\ntwo\n", 8);
}

static void test_results(void **state)
{
	struct ray_fx *x = *state;
	const struct answer *a;

	submit(x,
	       "mkdir \"$SLURMRAY_RESULTS/d\"; printf 0123456789 >\"$SLURMRAY_RESULTS/d/n\"; echo >\"$SLURMRAY_RESULTS/a b\"");
	assert_string_equal(ended(x), "succeeded");
	a = fx_answer(x->f, ask(x, CREQ_READ, "d/n", 2, 3));
	assert_int_equal(a->code, 0);
	assert_int_equal(a->len, 3);
	assert_memory_equal(a->data, "234", 3);
	a = fx_answer(x->f, ask(x, CREQ_READ, "d/n", 10, 3));
	assert_int_equal(a->code, 0);
	assert_int_equal(a->len, 0);
	a = fx_answer(x->f, ask(x, CREQ_READ, "d/none", 0, 3));
	assert_int_equal(a->code, -ENOENT);
	a = fx_answer(x->f, ask(x, CREQ_MANIFEST, "", 0, 0));
	assert_int_equal(a->code, 0);
	assert_non_null(memmem(a->data, a->len, "d/n", 4));
	a = fx_answer(x->f, ask(x, CREQ_LIST, "d", 0, 0));
	assert_int_equal(a->code, 0);
	assert_memory_equal(a->data,
			    "f\0"
			    "10\0",
			    5);
	a = fx_answer(x->f, ask(x, CREQ_LIST, "", 0, 0));
	assert_non_null(memmem(a->data, a->len, "d\0", 3));
}

static void test_messages(void **state)
{
	struct ray_fx *x = *state;
	cleanup_free char *path = xasprintf("%s/context", x->f->root);
	FILE *out = fopen(path, "w");
	const struct event *end;

	assert_non_null(out);
	(void)fputs("{\"it's\": \"END_OF_TEXT_0\"}", out);
	(void)fclose(out);
	x->f->pipes = true;
	submit(x,
	       "cat ../context; echo '{\"__dagster_pipes_version\": \"0.1\", \"method\": \"opened\", \"params\": {}}' "
	       ">>../events");
	assert_string_equal(ended(x), "succeeded");
	end = fx_event(x->f, 1, EV_END, NULL);
	assert_true(event_int(end, "events_len", 0) > 50);
	FX_WAIT(x->f, x->f->events_last);
	FX_WAIT(x->f, fx_logs_are(x->f, 26, 0));
}

/* --- exactly once --- */

static void post_fails(struct ray_fx *x, enum fake_ray_fault fault, int count)
{
	fake_ray_break(x->ray, fault, "POST /api/jobs/", count);
	submit(x, "echo once >>\"$SLURMRAY_BASE/../runs\"");
	assert_string_equal(ended(x), "succeeded");
	assert_int_equal(x->ray->starts, 1);
}

static void test_cut_before(void **state)
{
	post_fails(*state, FAKE_RAY_CUT_BEFORE, 2);
}

static void test_cut_after(void **state)
{
	post_fails(*state, FAKE_RAY_CUT_AFTER, 1);
	assert_int_equal(((struct ray_fx *)*state)->ray->posts, 1);
}

static void test_half(void **state)
{
	post_fails(*state, FAKE_RAY_HALF, 1);
}

static void test_no_agent(void **state)
{
	post_fails(*state, FAKE_RAY_500, 2);
}

/* Sent by a worker that was killed, whose successor does not know whether. */
static void test_watch_unknown(void **state)
{
	struct ray_fx *x = *state;

	submit(x, "sleep 1; echo x");
	FX_WAIT(x->f, fx_event(x->f, 1, EV_SUBMITTED, NULL));
	stop(x);
	fx_forget_events(x->f);
	start(x);
	cluster_ray_ops.post(x->f->c, make(x, CREQ_WATCH, "sleep 1; echo x"));
	FX_WAIT(x->f, fx_event(x->f, 1, EV_SUBMITTED, NULL));
	assert_string_equal(ended(x), "succeeded");
	assert_int_equal(x->ray->starts, 1);
	assert_int_equal(x->ray->posts, 1);
	FX_WAIT(x->f, fx_logs_are(x->f, 2, 0));
}

static void test_watch_known(void **state)
{
	struct ray_fx *x = *state;
	struct creq *q;

	submit(x, "echo one; sleep 1; echo two");
	FX_WAIT(x->f, x->f->out_len == 4);
	stop(x);
	fx_forget_events(x->f);
	start(x);
	q = make(x, CREQ_WATCH, "x");
	q->job_id = ray_submission_id(q->token);
	cluster_ray_ops.post(x->f->c, q);
	assert_string_equal(ended(x), "succeeded");
	assert_null(fx_event(x->f, 1, EV_SUBMITTED, NULL));
	FX_WAIT(x->f, fx_logs_are(x->f, 8, 0));
	fx_assert_spool(x->f, 1, SPOOL_OUT, "one\ntwo\n", 8);
}

static void test_foreign(void **state)
{
	struct ray_fx *x = *state;

	x->ray->foreign = "slurmray-" UUID "-1-a1";
	submit(x, "true");
	FX_WAIT(x->f, fx_event(x->f, 1, EV_REJECTED, NULL));
	assert_non_null(strstr(event_str(fx_event(x->f, 1, EV_REJECTED, NULL), "why"), "another job"));
}

static void test_refused(void **state)
{
	struct ray_fx *x = *state;

	fake_ray_break(x->ray, FAKE_RAY_400, "POST /api/jobs/", 1);
	submit(x, "true");
	FX_WAIT(x->f, fx_event(x->f, 1, EV_REJECTED, NULL));
	assert_non_null(strstr(event_str(fx_event(x->f, 1, EV_REJECTED, NULL), "why"), "No available agent"));
	assert_int_equal(x->ray->starts, 0);
}

/* --- ends --- */

static void test_cancel(void **state)
{
	struct ray_fx *x = *state;
	uint64_t t;

	submit(x, "sleep 30");
	FX_WAIT(x->f, fx_event(x->f, 1, EV_STATE, "running"));
	t = post_verb(x, "cancel");
	FX_WAIT(x->f, fx_answer(x->f, t));
	assert_int_equal(fx_answer(x->f, t)->code, 0);
	assert_string_equal(ended(x), "cancelled");
	assert_true(x->ray->stops >= 1);
}

static void test_cancel_unsent(void **state)
{
	struct ray_fx *x = *state;

	fake_ray_break(x->ray, FAKE_RAY_500, "GET /api/version", 3);
	submit(x, "true");
	(void)post_verb(x, "cancel");
	assert_string_equal(ended(x), "cancelled");
	assert_int_equal(x->ray->posts, 0);
}

/* Somebody else stops it. */
static void test_stopped_outside(void **state)
{
	struct ray_fx *x = *state;
	char code[200];

	submit(x, "sleep 30");
	FX_WAIT(x->f, fx_event(x->f, 1, EV_STATE, "running"));
	(void)snprintf(code, sizeof(code),
		       "exec 3<>/dev/tcp/127.0.0.1/%d; printf 'POST /api/jobs/slurmray-" UUID
		       "-1-a1/stop HTTP/1.1\\r\\n\\r\\n' >&3; cat <&3 >/dev/null",
		       x->ray->port);
	{
		cleanup_free char *line = xasprintf("bash -c \"%s\"", code);

		assert_int_equal(system(line), 0);
	}
	assert_string_equal(ended(x), "cancelled");
	assert_non_null(strstr(event_str(fx_event(x->f, 1, EV_END, NULL), "why"), "outside"));
}

/* The wrapper is killed: there is no record, and what it had written is read. */
static void test_no_record(void **state)
{
	struct ray_fx *x = *state;
	const struct event *end;

	submit(x, "echo said; kill -KILL -- -$(ps -o pgid= -p $$ | tr -d ' ')");
	assert_string_equal(ended(x), "failed");
	end = fx_event(x->f, 1, EV_END, NULL);
	assert_int_equal(event_int(end, "signal", 0), 9);
	assert_int_equal(event_int(end, "out_len", -1), 5);
	FX_WAIT(x->f, fx_logs_are(x->f, 5, 0));
}

static void test_restart(void **state)
{
	struct ray_fx *x = *state;

	submit(x, "echo said; sleep 30");
	FX_WAIT(x->f, x->f->out_len == 5);
	fake_ray_restart(x->ray);
	assert_string_equal(ended(x), "node_failed");
	assert_non_null(strstr(event_str(fx_event(x->f, 1, EV_END, NULL), "why"), "session_1"));
	FX_WAIT(x->f, fx_logs_are(x->f, 5, 0));
	assert_int_equal(x->ray->posts, 1);
}

/* A submission of unknown fate, and then another head: it is not sent again. */
static void test_restart_unsure(void **state)
{
	struct ray_fx *x = *state;

	fake_ray_break(x->ray, FAKE_RAY_CUT_AFTER, "POST /api/jobs/", 1);
	x->ray->pending = true;
	submit(x, "true");
	FX_WAIT(x->f, x->ray->posts == 1);
	stop(x);
	fake_ray_restart(x->ray);
	x->ray->pending = false;
	fx_forget_events(x->f);
	start(x);
	cluster_ray_ops.post(x->f->c, make(x, CREQ_WATCH, "true"));
	assert_string_equal(ended(x), "node_failed");
	assert_int_equal(x->ray->posts, 1);
	assert_int_equal(x->ray->starts, 0);
}

/* A driver whose supervisor is gone ends by itself. */
static void test_orphan(void **state)
{
	struct ray_fx *x = *state;
	cleanup_strbuf struct strbuf entry = STRBUF_INIT;
	cleanup_free char *pid_file = xasprintf("%s/pid", x->ray->root), *code = NULL;
	const struct ray_ids ids = { "slurmray:u/1/a1", "slurmray-u-1-a1", "u", 1, 1 };
	struct job job = { .grace_s = 1 };
	int rc;

	ray_entrypoint(&entry, &ids, &job, "echo $$ >../../../../../../pid; sleep 60\n", NULL, false);
	(void)setenv("ENTRY", entry.buf, 1);
	code = xasprintf(
		"cd %s && sh -c 'setsid sh -c \"$ENTRY\" >logs/job-driver-a.log 2>&1 </dev/null & sleep 2' && "
		"n=0; until [ -s %s ] && ! kill -0 $(cat %s) 2>/dev/null; do n=$((n + 1)); [ $n -lt 300 ] || exit "
		"1; sleep 0.1; done",
		x->ray->root, pid_file, pid_file);
	rc = system(code);
	(void)unsetenv("ENTRY");
	assert_int_equal(rc, 0);
}

/* --- the link --- */

static void test_token(void **state)
{
	struct ray_fx *x = *state;

	x->ray->token = "secret";
	start(x);
	FX_WAIT(x->f, x->f->links && !x->f->up);
	assert_non_null(strstr(x->f->link_text, "wants a token"));
	assert_false(x->f->asking);
	stop(x);
	x->f->links = 0;
	x->f->conf.token = (char *)(uintptr_t) "secret";
	submit(x, "echo x");
	assert_string_equal(ended(x), "succeeded");
	assert_null(strstr(x->f->link_text, "secret"));
	x->f->conf.token = NULL;
}

static void test_garbage(void **state)
{
	struct ray_fx *x = *state;

	fake_ray_break(x->ray, FAKE_RAY_GARBAGE, NULL, 3);
	submit(x, "echo x");
	FX_WAIT(x->f, x->f->links && !x->f->up);
	assert_string_equal(ended(x), "succeeded");
	assert_int_equal(x->ray->starts, 1);
}

static void test_probe(void **state)
{
	struct ray_fx *x = *state;
	const struct answer *a;

	start(x);
	FX_WAIT(x->f, x->f->up);
	a = fx_answer(x->f, ask(x, CREQ_PROBE, "info", 0, 0));
	assert_non_null(strstr(a->data, "2.60.0"));
	a = fx_answer(x->f, ask(x, CREQ_PROBE, "nodes", 0, 0));
	assert_non_null(strstr(a->data, "10.0.0.1"));
	a = fx_answer(x->f, ask(x, CREQ_PROBE, "queue", 0, 0));
	assert_non_null(strstr(a->data, "RUNNING"));
	a = fx_answer(x->f, post_verb(x, "hold"));
	FX_WAIT(x->f, fx_answer(x->f, x->f->ticket));
	assert_int_equal(fx_answer(x->f, x->f->ticket)->code, -ESRCH);
	(void)a;
}

/* The same files are sent once. */
static void test_package(void **state)
{
	struct ray_fx *x = *state;
	cleanup_free char *dir = xasprintf("%s/wd", x->f->root), *file = xasprintf("%s/f", dir);
	struct creq *q;
	FILE *out;

	assert_int_equal(mkdir(dir, 0700), 0);
	out = fopen(file, "w");
	assert_non_null(out);
	(void)fputs("data", out);
	(void)fclose(out);
	start(x);
	for (uint32_t run = 1; run <= 2; run++) {
		q = fx_make_submit(x->f, CREQ_SUBMIT, run, 1, "true");
		q->job->grace_s = 1;
		q->job->ray.text = xasprintf(
			"{\"working_dir\": \"%s\", \"metadata\": {\"a\": \"b\"}, \"entrypoint_num_cpus\": 1}", dir);
		cluster_ray_ops.post(x->f->c, q);
		FX_WAIT(x->f, fx_event(x->f, run, EV_END, NULL));
	}
	assert_int_equal(x->ray->puts, 1);
	assert_non_null(strstr(x->ray->last_body, "\"working_dir\":\"gcs://_ray_pkg_"));
	assert_non_null(strstr(x->ray->last_body, "\"a\":\"b\""));
	assert_non_null(strstr(x->ray->last_body, "\"entrypoint_num_cpus\":1"));
}

/* --- doctor --- */

static void assert_found(struct ray_fx *x, const char *want)
{
	char *text = NULL;
	size_t len;
	struct doctor d = { open_memstream(&text, &len), 0 };

	doctor_ray(&d, &x->f->conf, 5);
	(void)fclose(d.out);
	if (!strstr(text, want))
		fail_msg("'%s' is not in: %s", want, text);
	free(text);
}

static void test_doctor(void **state)
{
	struct ray_fx *x = *state;

	assert_found(x, "ok   cluster hpc: the Jobs API answers\n");
	x->ray->token = "secret";
	assert_found(x, "bad  cluster hpc: the head wants a token");
	x->f->conf.token = (char *)(uintptr_t) "wrong";
	assert_found(x, "bad  cluster hpc: the head refuses the token");
	x->f->conf.token = (char *)(uintptr_t) "secret";
	assert_found(x, "ok   cluster hpc: the Jobs API answers, and takes the token\n");
	fake_ray_break(x->ray, FAKE_RAY_GARBAGE, "GET /api/version", 1);
	assert_found(x, "is no Ray dashboard");
	fake_ray_break(x->ray, FAKE_RAY_500, "GET /api/version", 1);
	assert_found(x, "answers HTTP status 500");
	fake_ray_break(x->ray, FAKE_RAY_CUT_BEFORE, "GET /api/version", 3);
	assert_found(x, "cannot be reached");
	fake_ray_break(x->ray, FAKE_RAY_500, "GET /api/jobs/", 1);
	assert_found(x, "ray[default]");
	fake_ray_break(x->ray, FAKE_RAY_GARBAGE, "GET /api/v0/nodes", 1);
	assert_found(x, "names no node that is alive");
	x->f->conf.token = NULL;
	x->f->conf.start = (char *)(uintptr_t) "/nowhere/ray";
	assert_found(x, "bad  cluster hpc: there is no program /nowhere/ray");
	x->f->conf.start = (char *)(uintptr_t) "/bin/sh";
	assert_found(x, "ok   cluster hpc: the first run boots a Ray cluster on this machine, with /bin/sh");
	x->f->conf.start = NULL;
}

/* --- through a login --- */

static void test_tunnel_run(void **state)
{
	struct ray_fx *x = *state;
	const struct answer *a;

	submit(x, "head -c 3000000 /dev/zero | tr '\\0' '\\377'; printf 0123456789 >\"$SLURMRAY_RESULTS/n\"; exit 3");
	assert_string_equal(ended(x), "failed");
	FX_WAIT(x->f, fx_logs_are(x->f, 3000000, 0));
	assert_non_null(strstr(x->f->link_text, "Ray 2.60.0 at http://head.nowhere:"));
	a = fx_answer(x->f, ask(x, CREQ_READ, "n", 2, 3));
	assert_int_equal(a->code, 0);
	assert_memory_equal(a->data, "234", 3);
	assert_int_equal(fake_tunnel.logins, 1);
	assert_true(fake_tunnel.names > 0);
	assert_int_equal(fake_tunnel.names, fake_tunnel.opens);
}

/* Before, in the middle and at the end of a run; nothing is lost, nothing is sent twice. */
static void test_tunnel_cut(void **state)
{
	struct ray_fx *x = *state;

	submit(x, "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done");
	for (int i = 1; i < 8; i++) {
		FX_WAIT(x->f, x->f->out_len >= 2 * i);
		fake_tunnel.cut = true;
		FX_WAIT(x->f, fake_tunnel.logins > i);
	}
	assert_string_equal(ended(x), "succeeded");
	FX_WAIT(x->f, fx_logs_are(x->f, 16, 0));
	fx_assert_spool(x->f, 1, SPOOL_OUT, "1\n2\n3\n4\n5\n6\n7\n8\n", 16);
	assert_int_equal(x->ray->posts, 1);
	assert_int_equal(x->ray->starts, 1);
}

/* What is submitted and asked while nobody is there is done when somebody is. */
static void test_tunnel_away(void **state)
{
	struct ray_fx *x = *state;
	struct creq *q;

	fake_tunnel.unreachable = true;
	submit(x, "printf 0123456789 >\"$SLURMRAY_RESULTS/n\"");
	FX_WAIT(x->f, x->f->links && !x->f->up && x->f->asking);
	assert_non_null(strstr(x->f->link_text, "no route"));
	assert_int_equal(x->ray->posts, 0);
	fake_tunnel.unreachable = false;
	assert_string_equal(ended(x), "succeeded");
	assert_int_equal(x->ray->posts, 1);

	fake_tunnel.unreachable = true;
	fake_tunnel.cut = true;
	FX_WAIT(x->f, !x->f->up);
	q = creq_new(CREQ_READ, 1, 1, ++x->f->ticket);
	q->path = xstrdup("n");
	q->length = 4;
	q->area = AREA_RESULTS;
	q->deadline = clock_mono(&clock_system) + 50 * MS;
	cluster_ray_ops.post(x->f->c, q);
	FX_WAIT(x->f, fx_answer(x->f, x->f->ticket));
	assert_int_equal(fx_answer(x->f, x->f->ticket)->code, -EHOSTUNREACH);
	q = creq_new(CREQ_READ, 1, 1, ++x->f->ticket);
	q->path = xstrdup("n");
	q->length = 4;
	q->area = AREA_RESULTS;
	cluster_ray_ops.post(x->f->c, q);
	fake_tunnel.unreachable = false;
	FX_WAIT(x->f, fx_answer(x->f, x->f->ticket));
	assert_int_equal(fx_answer(x->f, x->f->ticket)->code, 0);
	assert_memory_equal(fx_answer(x->f, x->f->ticket)->data, "0123", 4);
	assert_int_equal(fx_answer(x->f, x->f->ticket)->times, 1);
}

/* What was never sent is called off without a network. */
static void test_tunnel_cancel(void **state)
{
	struct ray_fx *x = *state;

	fake_tunnel.unreachable = true;
	submit(x, "true");
	FX_WAIT(x->f, x->f->links);
	x->f->events_last = false;
	(void)post_verb(x, "cancel");
	assert_string_equal(ended(x), "cancelled");
	FX_WAIT(x->f, x->f->events_last);
	assert_int_equal(x->ray->posts, 0);
}

static void test_tunnel_refused(void **state)
{
	struct ray_fx *x = *state;

	fake_tunnel.refuse = true;
	submit(x, "true");
	FX_WAIT(x->f, x->f->links && !x->f->up && !x->f->asking);
	assert_non_null(strstr(x->f->link_text, "ssh-copy-id"));
	assert_int_equal(fx_answer(x->f, ask(x, CREQ_PROBE, "nodes", 0, 0))->code, -EHOSTUNREACH); /* at once */
	assert_int_equal(fake_tunnel.logins, 1);
	fake_tunnel.refuse = false;
	cluster_ray_ops.post(x->f->c, creq_new(CREQ_RECONNECT, 0, 0, 0));
	assert_string_equal(ended(x), "succeeded");
	assert_int_equal(fake_tunnel.logins, 2);
}

/* Stopped while requests wait: each is answered. */
static void test_tunnel_stop(void **state)
{
	struct ray_fx *x = *state;
	struct creq *q;

	fake_tunnel.unreachable = true;
	start(x);
	q = creq_new(CREQ_PROBE, 0, 0, ++x->f->ticket);
	q->arg = xstrdup("queue");
	cluster_ray_ops.post(x->f->c, q);
	stop(x);
	assert_int_equal(fx_answer(x->f, x->f->ticket)->code, -ENODEV);
}

/* A request that was cut is asked again. */
static void test_asked_again(void **state)
{
	struct ray_fx *x = *state;
	const struct answer *a;

	submit(x, "mkdir \"$SLURMRAY_RESULTS/d\"; echo >\"$SLURMRAY_RESULTS/d/a\"; echo >\"$SLURMRAY_RESULTS/d/b\"");
	assert_string_equal(ended(x), "succeeded");
	fake_ray_break(x->ray, FAKE_RAY_HALF, "GET /logs/slurmray/" UUID "/runs/1/a1/results", 1);
	a = fx_answer(x->f, ask(x, CREQ_READ, "d/a", 0, 5));
	assert_int_equal(a->code, 0);
	fake_ray_break(x->ray, FAKE_RAY_CUT_BEFORE, "HEAD /logs/", 1);
	a = fx_answer(x->f, ask(x, CREQ_LIST, "d", 0, 0));
	assert_int_equal(a->code, 0);
	assert_non_null(memmem(a->data, a->len, "\0a\0", 3));
	assert_non_null(memmem(a->data, a->len, "\0b\0", 3));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define U(name) cmocka_unit_test_setup_teardown(name, setup_tunnel, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_run),         T(test_long_log),       T(test_no_ranges),      T(test_results),
		T(test_messages),    T(test_cut_before),     T(test_cut_after),      T(test_half),
		T(test_no_agent),    T(test_watch_unknown),  T(test_watch_known),    T(test_foreign),
		T(test_refused),     T(test_cancel),         T(test_cancel_unsent),  T(test_stopped_outside),
		T(test_no_record),   T(test_restart),        T(test_restart_unsure), T(test_orphan),
		T(test_token),       T(test_garbage),        T(test_probe),          T(test_package),
		T(test_doctor),      T(test_asked_again),    U(test_tunnel_run),     U(test_tunnel_cut),
		U(test_tunnel_away), U(test_tunnel_refused), U(test_tunnel_cancel),  U(test_tunnel_stop),
		U(test_run),         U(test_results),        U(test_messages),       U(test_cut_after),
		U(test_watch_known), U(test_restart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
