/*
 * Inputs of a run that are results of other runs. One that is on the run's own cluster becomes a link there, one of
 * this machine's own cluster is shipped from where it is, and what is on another cluster is brought here first
 * (STATE/spool/NUM/input.I), while the run waits in the queue.
 *
 * Invariants: a run is sent to its cluster when all of its inputs are there or here; what was brought here is whole
 * when it has that name, and goes with the run's end. A transfer that is cut goes on where it was: bytes are asked for
 * in batches, and the file holds whole batches only.
 */
#include "backend/engine_private.h"

#include "backend/base/mem.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE ((uint64_t)1024 * 1024)
#define BATCH 16 /* pieces on their way: 16 MiB of memory at most */

/* A record of the list of results (backend/cluster.h). */
struct listed {
	uint64_t size;
	int64_t mtime;
	mode_t mode;
};

struct stage {
	struct engine *en;
	uint32_t run, from;
	size_t input;
	uint64_t serial;
	struct listed file;
	char *path;               /* in the results of `from` */
	uint64_t offset, reached; /* of the batch; how far its pieces make sense */
	unsigned flight;
	int fd, code;
	bool stopped;
};

struct piece_op {
	struct engine *en;
	uint32_t run;
	uint64_t serial, offset;
	size_t len;
};

/* --- the list of results --- */

static char *staged_name(const struct engine *en, uint32_t num, size_t input)
{
	return xasprintf("%s/%u/input.%zu", en->spool_dir, num, input);
}

/* 0: a regular file of the run's results, -ENOENT: none. */
static int look_up(const struct engine *en, uint32_t num, const char *path, struct listed *out)
{
	cleanup_free char *name = xasprintf("%s/%u/manifest", en->spool_dir, num);
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	const char *p, *end;

	if (strbuf_read_file(&sb, name, 1u << 30) < 0)
		return -ENOENT;
	for (p = sb.buf, end = sb.buf + sb.len; p < end;) {
		const char *f[6];

		for (int i = 0; i < 6; i++) {
			const char *nul = memchr(p, '\0', (size_t)(end - p));

			if (!nul)
				return -ENOENT;
			f[i] = p;
			p = nul + 1;
		}
		if (strcmp(f[0], "f") != 0 || strcmp(f[4], path) != 0)
			continue;
		*out = (struct listed){ strtoull(f[1], NULL, 10), strtoll(f[2], NULL, 10),
					(mode_t)strtoul(f[3], NULL, 8) & 0777 };
		return 0;
	}
	return -ENOENT;
}

static bool waits_for(const struct engine *en, char *const *after, const struct run *other)
{
	for (char *const *d = after; d && *d; d++) {
		const char *colon = strchr(*d, ':');

		if (colon && engine_run_by_id(en, colon + 1) == other)
			return true;
	}
	return false;
}

/* What is wrong with it now, if anything: 0, -EAGAIN while its run has not ended, or -EINVAL. */
static int input_state(const struct engine *en, const struct job_input *in, const struct run **other,
		       struct listed *file, struct strbuf *why)
{
	const struct run *r = engine_run_by_id(en, in->run);

	*other = r;
	if (!r) {
		strbuf_addf(why, "inputs.%s: there is no run %s (any more)", in->name, in->run);
		return -EINVAL;
	}
	if (run_is_live(r)) {
		strbuf_addf(why, "inputs.%s: run %s has not ended, it is %s", in->name, in->run,
			    run_status_name(r->status));
		return -EAGAIN;
	}
	if (json_object_get(r->facts, "cleaned")) {
		strbuf_addf(why, "inputs.%s: the results of run %s were removed from its cluster (clean)", in->name,
			    in->run);
		return -EINVAL;
	}
	if (look_up(en, r->num, in->path, file) < 0) {
		strbuf_addf(why, "inputs.%s: run %s (%s) has no file results/%s", in->name, in->run,
			    run_status_name(r->status), in->path);
		return -EINVAL;
	}
	return 0;
}

int engine_inputs_check(struct engine *en, const struct job *job, struct strbuf *errors)
{
	int rc = 0;

	for (size_t i = 0; i < job->n_inputs; i++) {
		cleanup_strbuf struct strbuf why = STRBUF_INIT;
		const struct run *other;
		struct listed file;
		int state = job->inputs[i].run ? input_state(en, &job->inputs[i], &other, &file, &why) : 0;

		if (state == 0 || (state == -EAGAIN && waits_for(en, job->after, other)))
			continue;
		strbuf_addf(errors, "%s%s%s%s", errors->len ? "\n" : "", why.buf,
			    state == -EAGAIN ? "; wait for it, or say so: afterok=" : "",
			    state == -EAGAIN ? job->inputs[i].run : "");
		rc = -EINVAL;
	}
	return rc;
}

/* --- where they are --- */

/* Where what is there can be linked to: nodes of a Ray cluster need not share a disk. */
static bool same_cluster(const struct engine *en, const struct run *a, const struct run *b)
{
	const struct ecluster *ec = a->cluster ? engine_cluster(en, a->cluster) : NULL;

	return b->cluster && ec && ec->conf->type != CLUSTER_RAY && strcmp(a->cluster, b->cluster) == 0;
}

static bool is_here(const struct engine *en, const struct run *r)
{
	const struct ecluster *ec = engine_cluster(en, r->cluster);

	return ec && ec->conf->type == CLUSTER_LOCAL;
}

/* DIRECTORY/UUID/runs/NUM/aN/results/PATH of an ended run; NULL: it is not known where it was. */
static char *where(const struct engine *en, const struct run *r, const char *path)
{
	const struct erun *er = engine_find(en, r->num);
	const char *dir = er && er->directory ? er->directory : run_fact(r, "directory");

	if (!dir)
		return NULL;
	return xasprintf("%s/%s/runs/%u/a%u/results/%s", dir, en->uuid, r->num, r->attempt, path);
}

/* "~/..." on this machine. */
static char *here_path(char *path)
{
	const char *home = getenv("HOME");
	char *full;

	if (!path || strncmp(path, "~/", 2) != 0 || !home)
		return path;
	full = xasprintf("%s%s", home, path + 1);
	free(path);
	return full;
}

void engine_inputs_fill(struct engine *en, const struct run *r, struct job *job)
{
	for (size_t i = 0; i < job->n_inputs; i++) {
		struct job_input *in = &job->inputs[i];
		const struct run *other = in->run ? engine_run_by_id(en, in->run) : NULL;

		if (!in->run)
			continue;
		if (other && same_cluster(en, r, other))
			in->link = where(en, other, in->path);
		else if (other && is_here(en, other))
			in->staged = here_path(where(en, other, in->path));
		else
			in->staged = staged_name(en, r->num, i);
		if (!in->link && !in->staged)
			in->missing = xasprintf("inputs.%s: it is not known where run %s kept its results", in->name,
						in->run);
	}
}

/* --- bringing one here --- */

static void stage_free(struct stage *s)
{
	if (!s)
		return;
	if (s->fd >= 0)
		(void)close(s->fd);
	free(s->path);
	free(s);
}

void engine_inputs_release(struct erun *er)
{
	stage_free(er->stage);
	er->stage = NULL;
	job_inputs_release(er->inputs, er->n_inputs);
	er->inputs = NULL;
	er->n_inputs = 0;
	er->looked = false;
}

void engine_inputs_ended(struct engine *en, struct erun *er)
{
	stage_free(er->stage);
	er->stage = NULL;
	for (size_t i = 0; i < er->n_inputs; i++) {
		cleanup_free char *name = staged_name(en, er->r->num, i), *part = xasprintf("%s.part", name);

		if (!er->inputs[i].run)
			continue;
		(void)unlink(name);
		(void)unlink(part);
	}
}

static void next_batch(struct engine *en, struct erun *er);

/* All of it is here: under its name, with its mode and time. */
static int settle(const struct engine *en, struct stage *s)
{
	cleanup_free char *name = staged_name(en, s->run, s->input), *part = xasprintf("%s.part", name);
	struct timespec times[2] = { { s->file.mtime, 0 }, { s->file.mtime, 0 } };

	if (fchmod(s->fd, s->file.mode | 0400) < 0 || futimens(s->fd, times) < 0 || fsync(s->fd) < 0 ||
	    rename(part, name) < 0)
		return -errno;
	return 0;
}

static void batch_done(struct engine *en, struct erun *er)
{
	struct stage *s = er->stage;

	if (s->code == 0 && s->reached < s->offset + BATCH * PIECE && s->reached < s->file.size)
		s->code = -ESTALE; /* shorter than the list of results says */
	if (s->code == 0) {
		s->offset = s->reached;
		if (s->offset < s->file.size) {
			next_batch(en, er);
			return;
		}
		s->code = settle(en, s);
	}
	s->stopped = s->code != 0;
	if (!s->stopped) {
		stage_free(s);
		er->stage = NULL;
	}
	engine_act(en, er); /* looks at the next one, or says what is wrong */
}

static void got_piece(void *arg, int code, const char *text, const char *data, size_t len)
{
	struct piece_op *op = arg;
	struct erun *er = engine_find(op->en, op->run);
	struct stage *s = er ? er->stage : NULL;

	(void)text;
	if (s && s->serial == op->serial) {
		s->flight--;
		if (code == 0 && pwrite(s->fd, data, len, (off_t)op->offset) != (ssize_t)len)
			code = -ENOSPC;
		if (code == 0 && len < op->len)
			code = -ESTALE;
		if (code < 0 && !s->code)
			s->code = code;
		if (code == 0 && op->offset + len > s->reached)
			s->reached = op->offset + len;
		if (!s->flight)
			batch_done(op->en, er);
	}
	free(op);
}

static void next_batch(struct engine *en, struct erun *er)
{
	struct stage *s = er->stage;
	uint64_t serial = s->serial, at = s->offset, end = s->file.size;
	uint32_t from = s->from;
	cleanup_free char *path = xstrdup(s->path);
	unsigned n = 0;

	s->code = 0;
	s->reached = s->offset;
	for (uint64_t o = at; o < end && n < BATCH; o += PIECE)
		n++;
	s->flight = n; /* before the first of them may be answered at once */
	for (unsigned i = 0; i < n; i++) {
		struct piece_op *op = xmalloc(sizeof(*op));
		uint64_t o = at + i * PIECE;

		*op = (struct piece_op){ en, er->r->num, serial, o, (size_t)(end - o < PIECE ? end - o : PIECE) };
		engine_fetch_own(en, from, AREA_RESULTS, path, o, op->len, got_piece, free, op);
	}
}

static int start_stage(struct engine *en, struct erun *er, size_t input, const struct run *other,
		       const struct listed *file)
{
	cleanup_free char *name = staged_name(en, er->r->num, input), *part = xasprintf("%s.part", name);
	cleanup_free char *dir = xasprintf("%s/%u", en->spool_dir, er->r->num);
	struct stage *s = xcalloc(1, sizeof(*s));
	struct stat st;
	int rc;

	(void)mkdir(dir, 0700);
	*s = (struct stage){ .en = en, .run = er->r->num, .from = other->num, .input = input, .file = *file };
	s->serial = ++en->next_ticket;
	s->path = xstrdup(er->inputs[input].path);
	s->fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (s->fd < 0 || fstat(s->fd, &st) < 0) {
		rc = -errno;
		stage_free(s);
		return rc;
	}
	/* Pieces of the last batch may be missing in the middle: it is brought again. */
	s->offset = (uint64_t)st.st_size / (BATCH * PIECE) * (BATCH * PIECE);
	if ((uint64_t)st.st_size % (BATCH * PIECE) == 0 && s->offset)
		s->offset -= BATCH * PIECE;
	er->stage = s;
	if (file->size) {
		next_batch(en, er);
		return 0;
	}
	rc = settle(en, s);
	stage_free(s);
	er->stage = NULL;
	return rc;
}

/* One that is elsewhere: 1 here, 0 on its way, -EINVAL it cannot be had. */
static int bring(struct engine *en, struct erun *er, size_t i, const struct run *other, const struct listed *file,
		 struct strbuf *why)
{
	cleanup_free char *name = staged_name(en, er->r->num, i);
	const struct job_input *in = &er->inputs[i];
	int rc = 0;

	if (access(name, F_OK) == 0)
		return 1;
	if (er->stage && er->stage->stopped) {
		rc = er->stage->code;
		stage_free(er->stage);
		er->stage = NULL;
		if (rc != -EHOSTUNREACH && rc != -ENODEV) {
			strbuf_addf(why, "inputs.%s: %s cannot be read: %s", in->name, in->source, strerror(-rc));
			return -EINVAL;
		}
		if (!engine_cluster_link(en, other->cluster) || !engine_cluster_link(en, other->cluster)->up) {
			strbuf_addf(why, "inputs.%s: waiting for the cluster %s", in->name, other->cluster);
			return 0; /* its link wakes the queue */
		}
	}
	if (!er->stage)
		rc = start_stage(en, er, i, other, file);
	if (rc == 0 && access(name, F_OK) == 0)
		return 1;
	if (rc < 0) {
		strbuf_addf(why, "inputs.%s: cannot keep it here: %s", in->name, strerror(-rc));
		return -EINVAL;
	}
	strbuf_addf(why, "inputs.%s: %s is on its way from the cluster %s", in->name, in->source, other->cluster);
	return 0;
}

int engine_inputs_open(struct engine *en, struct erun *er, struct strbuf *why)
{
	int rc = 1;

	for (size_t i = 0; i < er->n_inputs && rc == 1; i++) {
		const struct run *other;
		struct listed file;
		int state;

		if (!er->inputs[i].run)
			continue;
		state = input_state(en, &er->inputs[i], &other, &file, why);
		if (state)
			return state == -EAGAIN ? 0 : -EINVAL;
		if (!same_cluster(en, er->r, other) && !is_here(en, other))
			rc = bring(en, er, i, other, &file, why);
	}
	return rc;
}

bool engine_inputs_used(struct engine *en, const struct run *r)
{
	for (size_t i = 0; i < en->n_order; i++) {
		const struct erun *er = en->order[i];

		for (size_t k = 0; k < er->n_inputs && run_is_live(er->r); k++)
			if (er->inputs[k].run && engine_run_by_id(en, er->inputs[k].run) == r)
				return true;
	}
	return false;
}

bool engine_inputs_progress(const struct erun *er, uint64_t *done, uint64_t *all)
{
	const struct stage *s = er->stage;

	if (!s)
		return false;
	*done = s->reached > s->offset ? s->reached : s->offset;
	*all = s->file.size;
	return true;
}
