/*
 * The scheduler driver from a shell: prints the code of a call, or what the driver makes of an answer. For
 * tests/real/driver.t and for looking at things by hand.
 *
 *	schedtool [KEY=VALUE ...] prelude | submit | poll | verify | verb VERB [ARG] | probe WHAT
 *	schedtool [KEY=VALUE ...] rc=N out=FILE err=FILE answer submit | poll | verify | verb VERB | probe WHAT
 *
 * Keys: dir uuid num attempt job name scratch workdir output error merged hold requeue opt (repeated) script files.
 */
#include "backend/base/mem.h"
#include "backend/sched.h"

#include <stdio.h>
#include <string.h>

#define OPTS 32

struct call {
	struct sched_run run;
	struct job job;
	char *opts[OPTS + 1];
	size_t n_opts, script_len, files_len;
	int rc;
	struct strbuf out, err;
};

static long to_number(const char *s)
{
	char *end;
	long n = strtol(s, &end, 10);

	if (*end || end == s) {
		(void)fprintf(stderr, "schedtool: '%s' is no number\n", s);
		exit(2);
	}
	return n;
}

static void slurp(struct strbuf *sb, const char *path)
{
	if (strbuf_read_file(sb, path, 64 << 20) < 0) {
		(void)fprintf(stderr, "schedtool: cannot read %s\n", path);
		exit(2);
	}
}

static bool set_number(struct call *c, const char *key, const char *v)
{
	if (strcmp(key, "num") == 0)
		c->run.num = (uint32_t)to_number(v);
	else if (strcmp(key, "attempt") == 0)
		c->run.attempt = (uint32_t)to_number(v);
	else if (strcmp(key, "script") == 0)
		c->script_len = (size_t)to_number(v);
	else if (strcmp(key, "files") == 0)
		c->files_len = (size_t)to_number(v);
	else if (strcmp(key, "rc") == 0)
		c->rc = (int)to_number(v);
	else if (strcmp(key, "merged") == 0)
		c->job.merged = to_number(v) != 0;
	else if (strcmp(key, "hold") == 0)
		c->job.hold = to_number(v) != 0;
	else if (strcmp(key, "requeue") == 0)
		c->job.requeue = to_number(v) != 0;
	else
		return false;
	return true;
}

static bool set_text(struct call *c, const char *key, char *v)
{
	if (strcmp(key, "dir") == 0)
		c->run.directory = v;
	else if (strcmp(key, "uuid") == 0)
		c->run.uuid = v;
	else if (strcmp(key, "job") == 0)
		c->run.job_id = v;
	else if (strcmp(key, "name") == 0)
		c->job.name = v;
	else if (strcmp(key, "scratch") == 0)
		c->job.scratch = v;
	else if (strcmp(key, "workdir") == 0)
		c->job.workdir = v;
	else if (strcmp(key, "output") == 0)
		c->job.output = v;
	else if (strcmp(key, "error") == 0)
		c->job.error = v;
	else if (strcmp(key, "opt") == 0 && c->n_opts < OPTS)
		c->opts[c->n_opts++] = v;
	else if (strcmp(key, "out") == 0)
		slurp(&c->out, v);
	else if (strcmp(key, "err") == 0)
		slurp(&c->err, v);
	else
		return false;
	return true;
}

static void print_row(void *arg, const struct sched_row *row)
{
	(void)arg;
	if (row->runner) {
		(void)printf("runner %s %s %s\n", row->job_id, row->token, row->runner);
		return;
	}
	(void)printf("row %s %s %s %s reason=%s nodes=%s start=%lld\n", row->job_id, row->token, row->state,
		     row->run_status ? row->run_status : "-", row->reason, row->nodes, (long long)row->start);
}

static void print_event(struct event *ev)
{
	char *text = ev ? json_dumps(ev->data, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	(void)printf("%s %s\n", ev ? event_name(ev->type) : "-", text ? text : "{}");
	free(text);
	event_free(ev);
}

static void print_submit(const struct call *c)
{
	static const char *const names[] = { "ok", "refused", "unsure", "void" };
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	char id[64] = "-";
	enum sched_verdict v = sched_slurm_ops.submit_result(c->rc, c->out.buf, c->err.buf, id, sizeof(id), &why);

	(void)printf("%s %s %s\n", names[v], id, why.buf);
}

static int answer(struct call *c, char **words)
{
	const struct sched_ops *ops = &sched_slurm_ops;
	cleanup_strbuf struct strbuf json = STRBUF_INIT;
	struct err e = ERR_INIT;
	int code = 0;

	if (strcmp(words[0], "submit") == 0)
		print_submit(c);
	else if (strcmp(words[0], "poll") == 0)
		code = ops->poll_result(c->rc, c->out.buf, c->err.buf, print_row, NULL, &e);
	else if (strcmp(words[0], "verify") == 0)
		print_event(ops->verify_result(&c->run, c->rc, c->out.buf, c->err.buf, 1));
	else if (strcmp(words[0], "verb") == 0 && words[1])
		code = ops->verb_result(words[1], c->rc, c->out.buf, c->err.buf, &e);
	else if (strcmp(words[0], "probe") == 0 && words[1])
		code = ops->probe_result(words[1], c->rc, c->out.buf, c->err.buf, &json, &e);
	else
		return 2;
	if (code)
		(void)printf("errno %d %s\n", -code, e.text);
	else if (strcmp(words[0], "verb") == 0)
		(void)printf("done\n");
	if (json.len)
		(void)printf("%s\n", json.buf);
	return 0;
}

static int print_code(struct call *c, char **words)
{
	const struct sched_ops *ops = &sched_slurm_ops;
	cleanup_strbuf struct strbuf code = STRBUF_INIT;
	struct err e = ERR_INIT;
	int err = 0;

	if (strcmp(words[0], "prelude") == 0)
		ops->prelude(&code);
	else if (strcmp(words[0], "submit") == 0)
		ops->submit(&c->run, c->script_len, c->files_len, &code);
	else if (strcmp(words[0], "poll") == 0)
		ops->poll(&code);
	else if (strcmp(words[0], "verify") == 0)
		ops->verify(&c->run, &code);
	else if (strcmp(words[0], "verb") == 0 && words[1])
		err = ops->verb(&c->run, words[1], words[2], &code, &e);
	else if (strcmp(words[0], "probe") == 0 && words[1])
		err = ops->probe(words[1], &code, &e);
	else
		return 2;
	if (err)
		(void)printf("errno %d %s\n", -err, e.text);
	(void)fputs(code.buf, stdout);
	return 0;
}

int main(int argc, char **argv)
{
	struct call c = {
		.run = { .num = 1, .attempt = 1, .uuid = "u", .directory = "~/.slurmray" },
		.job = { .name = "run" },
		.out = STRBUF_INIT,
		.err = STRBUF_INIT,
	};
	int i, rc;

	for (i = 1; i < argc && strchr(argv[i], '='); i++) {
		char *eq = strchr(argv[i], '=');

		*eq = '\0';
		if (!set_number(&c, argv[i], eq + 1) && !set_text(&c, argv[i], eq + 1)) {
			(void)fprintf(stderr, "schedtool: no key '%s'\n", argv[i]);
			return 2;
		}
	}
	if (i == argc) {
		(void)fputs("usage: see the head of tests/tools/schedtool.c\n", stderr);
		return 2;
	}
	c.job.sbatch = c.opts;
	c.run.job = &c.job;
	if (strcmp(argv[i], "answer") == 0 && argv[i + 1])
		rc = answer(&c, argv + i + 1);
	else
		rc = print_code(&c, argv + i);
	strbuf_release(&c.out);
	strbuf_release(&c.err);
	return rc;
}
