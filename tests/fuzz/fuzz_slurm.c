/*
 * Anything that a cluster may answer to the Slurm driver's code. The first byte chooses the reader, the second the exit
 * code.
 */
#include "backend/base/mem.h"
#include "backend/sched.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_row(void *arg, const struct sched_row *row)
{
	size_t *rows = arg, n = strspn(row->job_id, "0123456789");

	assert(n && (!row->job_id[n] || strncmp(row->job_id + n, ".s", 2) == 0));
	assert(strncmp(row->token, "slurmray:", 9) == 0);
	assert(row->state && row->reason && row->nodes && row->start >= 0);
	(*rows)++;
}

static void read_poll(int rc, const char *out)
{
	struct err e = ERR_INIT;
	size_t rows = 0;

	if (sched_slurm_ops.poll_result(rc, out, out, on_row, &rows, &e))
		assert(e.code == -EAGAIN && e.text[0] && !rows);
}

static void read_submit(int rc, const char *out)
{
	cleanup_strbuf struct strbuf why = STRBUF_INIT;
	char id[16] = "";
	enum sched_verdict v = sched_slurm_ops.submit_result(rc, out, out, id, sizeof(id), &why);

	assert((v == SCHED_OK) == (id[0] != '\0'));
	assert(v == SCHED_OK || v == SCHED_VOID || why.len);
}

static void read_verify(int rc, const char *out)
{
	const struct sched_run run = { .num = 7, .attempt = 1, .uuid = "u", .directory = "/d", .job_id = "12" };
	struct event *ev = sched_slurm_ops.verify_result(&run, rc, out, "", 1);

	if (!ev)
		return;
	assert(ev->type == EV_END || ev->type == EV_LOST || ev->type == EV_STATE);
	assert(ev->type == EV_LOST || event_str(ev, "status"));
	assert(ev->type == EV_STATE || event_str(ev, "why"));
	assert(event_int(ev, "attempt", 0) == 1);
	event_free(ev);
}

static void read_verb(int rc, const char *out)
{
	struct err e = ERR_INIT;

	if (sched_slurm_ops.verb_result("hold", rc, out, out, &e))
		assert(e.code < 0 && e.text[0]);
	if (sched_slurm_ops.verb_result("cancel", rc, out, out, &e) < 0)
		assert(e.text[0]);
}

static void on_usage(void *arg, const struct sched_usage *u)
{
	(void)arg;
	assert(u->job_id[0] && u->job_id[strspn(u->job_id, "0123456789")] == '\0');
	assert(strncmp(u->token, "slurmray:", 9) == 0);
	assert(u->max_rss >= -1 && u->cpu_us >= -1);
}

static void read_usage(int rc, const char *out)
{
	struct err e = ERR_INIT;
	int code = sched_slurm_ops.usage_result(rc, out, rc ? out : "", on_usage, NULL, &e);

	assert(code == 0 || ((code == -EAGAIN || code == -ENOTSUP) && e.text[0]));
}

static void read_probe(const char *what, int rc, const char *out)
{
	cleanup_strbuf struct strbuf json = STRBUF_INIT;
	struct err e = ERR_INIT;
	json_t *doc;

	if (sched_slurm_ops.probe_result(what, rc, out, out, &json, &e)) {
		assert(e.code < 0 && e.text[0]);
		return;
	}
	doc = json_loads(json.buf, 0, NULL);
	assert(doc);
	json_decref(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const documents[] = { "info", "partitions", "nodes", "queue", "shares" };
	cleanup_free char *out = NULL;
	int rc;

	if (size < 2)
		return 0;
	rc = data[1] & 128 ? 0 : data[1];
	out = xstrndup((const char *)data + 2, size - 2);
	if (data[0] >= 252) {
		read_usage(rc, out);
		return 0;
	}
	switch (data[0] % 9) {
	case 0:
		read_poll(rc, out);
		break;
	case 1:
		read_submit(rc, out);
		break;
	case 2:
		read_verify(rc, out);
		break;
	case 3:
		read_verb(rc, out);
		break;
	default:
		read_probe(documents[data[0] % 9 - 4], rc, out);
		break;
	}
	return 0;
}
