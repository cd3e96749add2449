/*
 * The cluster kind "ray": a Ray cluster that is there, or one that is booted here on demand, spoken to by its Jobs REST
 * API, straight or through a login (tunnel.h). This file owns the thread, the table of runs and requests with a ticket.
 *
 * Invariants: the thread waits in wait_for_work only; nothing is said of a run that a request which came in vain could
 * have said: that makes the link doubtful, and after a while runs `unknown`. Each ticket is answered once: requests
 * that found no way there are held until the link is up or their deadline is over.
 */
#include "backend/ray.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SEC ((int64_t)USEC_PER_SEC)
#define ANSWER_WITHIN (30 * SEC) /* requests with a ticket that name no deadline */
#define HELD_AGAIN (SEC / 2)

/* --- reporting --- */

void ray_event(struct cluster *c, const struct ray_run *r, enum event_type type, const char *source, json_t *data)
{
	struct crep *rep = crep_new(CREP_EVENT, c);

	if (!data)
		data = json_object();
	(void)json_object_set_new(data, "attempt", json_integer((json_int_t)r->attempt));
	(void)json_object_set_new(data, "source", json_string(source));
	rep->run = r->run;
	rep->ev = event_new(type, clock_real(c->ctx.clock), data);
	inbox_post(c->ctx.replies, &rep->m);
}

void ray_reply(struct cluster *c, uint64_t ticket, int code, const char *text, const char *data, size_t len)
{
	struct crep *rep;

	if (!ticket)
		return;
	rep = crep_new(CREP_REPLY, c);
	rep->ticket = ticket;
	rep->code = code;
	rep->text = xstrdup(text ? text : "");
	if (data) {
		rep->data = xmalloc(len + 1);
		memcpy(rep->data, data, len);
		rep->data[len] = '\0';
		rep->len = len;
	}
	inbox_post(c->ctx.replies, &rep->m);
}

/* --- addresses --- */

char *ray_url(const struct cluster *c, const char *path)
{
	return xasprintf("%s%s", c->base ? c->base : "", path);
}

char *ray_attempt_url(const struct cluster *c, const char *agent, uint32_t run, uint32_t attempt, const char *name)
{
	struct strbuf url = STRBUF_INIT;

	strbuf_addf(&url, "%s/logs/slurmray/%s/", agent, c->ctx.uuid);
	if (run)
		strbuf_addf(&url, "runs/%u/a%u/", run, attempt);
	http_add_path(&url, name);
	return strbuf_detach(&url, NULL);
}

int64_t ray_pace(const struct cluster *c, int64_t us)
{
	return us + us * (int64_t)(c->runs.count / 4);
}

static char *note_path(const struct cluster *c, uint32_t run, uint32_t attempt)
{
	return xasprintf("%s/%u/ray.a%u", c->spool_dir, run, attempt);
}

void ray_note(const struct cluster *c, const struct ray_run *r)
{
	cleanup_free char *path = note_path(c, r->run, r->attempt), *tmp = xasprintf("%s.tmp", path);
	cleanup_free char *dir = xasprintf("%s/%u", c->spool_dir, r->run);
	cleanup_free char *text = xasprintf("%s\n%s\n", r->session ? r->session : "", r->agent ? r->agent : "");
	cleanup_close int fd = -1;

	(void)mkdir(dir, 0700);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fsync(fd) < 0 || rename(tmp, path) < 0)
		log_warn("run %u: where it is cannot be noted: %s", r->run, strerror(errno));
}

bool ray_noted(const struct cluster *c, uint32_t run, uint32_t attempt, char **session, char **agent)
{
	cleanup_free char *path = note_path(c, run, attempt);
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	size_t first, second;

	*session = *agent = NULL;
	if (strbuf_read_file(&sb, path, 4096) < 0)
		return false;
	first = strcspn(sb.buf, "\n");
	second = strcspn(sb.buf + first + (sb.buf[first] != '\0'), "\n");
	*session = first ? xstrndup(sb.buf, first) : NULL;
	*agent = second ? xstrndup(sb.buf + first + 1, second) : NULL;
	return true;
}

/* --- runs --- */

static struct ray_run *find(const struct cluster *c, uint32_t run, uint64_t serial)
{
	struct hmap_node *n = hmap_first(&c->runs, hash_u64(run));

	for (; n; n = hmap_next(n)) {
		struct ray_run *r = container_of(n, struct ray_run, node);

		if (r->run == run && (!serial || r->serial == serial))
			return r;
	}
	return NULL;
}

static void forget(struct cluster *c, struct ray_run *r)
{
	hmap_remove(&c->runs, &r->node);
	ray_run_free(r);
}

struct asked {
	struct cluster *c;
	uint32_t run;
	uint64_t serial;
	int what;
	ray_cb cb;
};

static void on_answer(void *arg, const struct http_answer *a)
{
	struct asked *q = arg;
	struct ray_run *r = q->c->stopping ? NULL : find(q->c, q->run, q->serial);

	q->c->now = clock_mono(q->c->ctx.clock);
	if (r)
		q->cb(q->c, r, q->what, a);
	free(q);
}

void ray_send(struct cluster *c, struct ray_run *r, const struct http_request *rq, ray_cb cb, int what)
{
	struct asked *q = xmalloc(sizeof(*q));

	*q = (struct asked){ c, r->run, r->serial, what, cb };
	http_send(c->http, rq, on_answer, q);
}

/* --- requests --- */

static void on_submit(struct cluster *c, struct creq *q)
{
	struct ray_run *r = find(c, q->run, 0);

	if (r && r->attempt == q->attempt)
		return;
	if (r)
		forget(c, r);
	r = ray_run_new(c, q);
	hmap_insert(&c->runs, &r->node, hash_u64(r->run));
	if (!c->http)
		c->version_at = 0;
}

static void on_verb(struct cluster *c, const struct creq *q)
{
	struct ray_run *r = find(c, q->run, 0);

	if (!r || r->phase == RAYRUN_ENDED || r->phase == RAYRUN_DONE || r->phase == RAYRUN_DRAIN) {
		ray_reply(c, q->ticket, -ESRCH, "the job has ended", NULL, 0);
	} else if (strcmp(q->verb, "cancel") == 0) {
		r->cancel_wanted = true;
		r->stop_at = 0;
		r->act_at = 0;
		ray_reply(c, q->ticket, 0, "Ray is told to stop it", NULL, 0);
	} else if (strcmp(q->verb, "refresh") == 0) {
		r->status_at = r->record_at = r->act_at = 0;
		ray_reply(c, q->ticket, 0, "", NULL, 0);
	} else {
		ray_reply(c, q->ticket, -EINVAL,
			  "Ray's Jobs API cannot do this: on a cluster of type ray there are cancel and refresh", NULL,
			  0);
	}
}

/* --- requests that wait for the link --- */

struct held {
	struct list node;
	struct creq *q;
	char *why; /* what the last try said, or NULL */
};

void ray_hold(struct cluster *c, struct creq *q, const char *why)
{
	struct held *h;

	if (c->stopping) {
		ray_reply(c, q->ticket, -ENODEV, "shutting down", NULL, 0);
		msg_release(&q->m);
		return;
	}
	h = xcalloc(1, sizeof(*h));
	h->q = q;
	h->why = xstrdup(why);
	if (list_empty(&c->held) || c->held_at < c->now)
		c->held_at = c->now + HELD_AGAIN;
	list_add_tail(&c->held, &h->node);
}

static void drop_held(struct cluster *c, struct held *h, int code, const char *text)
{
	list_del(&h->node);
	if (h->q) {
		ray_reply(c, h->q->ticket, code, text, NULL, 0);
		msg_release(&h->q->m);
	}
	free(h->why);
	free(h);
}

static void handle(struct cluster *c, struct creq *q);

/* When the next one is due. */
static int64_t step_held(struct cluster *c)
{
	bool refused = c->said && !c->up && !c->asking, again = ray_reachable(c) && c->held_at <= c->now;
	struct list now = LIST_INIT(now), *n, *tmp;
	int64_t next = INT64_MAX;

	list_for_each_safe (n, tmp, &c->held) {
		struct held *h = container_of(n, struct held, node);

		if (refused || h->q->deadline <= c->now) {
			drop_held(c, h, -EHOSTUNREACH, h->why ? h->why : c->link_text);
		} else if (again) {
			list_del(n);
			list_add_tail(&now, n);
		} else if (h->q->deadline < next) {
			next = h->q->deadline;
		}
	}
	list_for_each_safe (n, tmp, &now) { /* they may be held again */
		struct held *h = container_of(n, struct held, node);
		struct creq *q = h->q;

		h->q = NULL;
		drop_held(c, h, 0, NULL);
		handle(c, q);
	}
	if (ray_reachable(c) && !list_empty(&c->held) && c->held_at < next)
		next = c->held_at;
	return next;
}

/* The way is not there; whether the head is says nothing of a node's agent. */
static bool must_wait(struct cluster *c, struct creq *q)
{
	if (!q->deadline)
		q->deadline = c->now + ANSWER_WITHIN;
	if (ray_reachable(c))
		return false;
	ray_hold(c, q, NULL);
	return true;
}

static void release_held(struct cluster *c)
{
	while (!list_empty(&c->held))
		drop_held(c, container_of(c->held.next, struct held, node), -ENODEV, "shutting down");
}

/* --- what the cluster is --- */

struct probe {
	struct cluster *c;
	struct creq *q;
};

static void on_probe_answer(void *arg, const struct http_answer *a)
{
	struct probe *p = arg;
	json_t *rows = NULL;
	char *text;

	p->c->now = clock_mono(p->c->ctx.clock);
	if (a->code) {
		ray_hold(p->c, p->q, a->text);
		free(p);
		return;
	}
	if (a->status == 200)
		rows = strcmp(p->q->arg, "queue") == 0 ? ray_jobs_rows(a->body, a->len)
						       : ray_nodes_rows(a->body, a->len);
	text = rows ? json_dumps(rows, JSON_INDENT(1)) : NULL;
	if (text)
		ray_reply(p->c, p->q->ticket, 0, NULL, text, strlen(text));
	else
		ray_reply(p->c, p->q->ticket, -EHOSTUNREACH, "the Ray head does not say", NULL, 0);
	free(text);
	json_decref(rows);
	msg_release(&p->q->m);
	free(p);
}

/* True: `q` is kept. */
static bool on_probe(struct cluster *c, struct creq *q)
{
	const char *what = q->arg ? q->arg : "";
	bool queue = strcmp(what, "queue") == 0;
	json_t *doc = NULL;
	char *text;

	if (strcmp(what, "info") == 0)
		doc = json_pack("{s:s, s:s, s:s, s:s}", "type", "ray", "address", c->base ? c->base : "-",
				"ray_version", c->version ? c->version : "-", "session_name",
				c->session ? c->session : "-");
	else if (!queue && strcmp(what, "nodes") != 0)
		doc = json_array();
	if (doc) {
		text = json_dumps(doc, JSON_INDENT(1));
		ray_reply(c, q->ticket, 0, NULL, text, strlen(text));
		free(text);
		json_decref(doc);
		return false;
	}
	if (c->up && !c->http) { /* start = local, and nobody wanted it yet */
		ray_reply(c, q->ticket, -EHOSTUNREACH, c->link_text, NULL, 0);
		return false;
	}
	if (!must_wait(c, q)) {
		cleanup_free char *url = ray_url(c, queue ? "/api/jobs/" : "/api/v0/nodes?limit=10000&detail=1");
		struct probe *p = xmalloc(sizeof(*p));

		*p = (struct probe){ c, q };
		http_send(c->http, &(struct http_request){ .method = "GET", .url = url, .deadline_ms = 20000 },
			  on_probe_answer, p);
	}
	return true;
}

/* True: `q` is kept. */
static bool on_files(struct cluster *c, struct creq *q)
{
	char *session = NULL, *agent = NULL;

	(void)ray_noted(c, q->run, q->attempt, &session, &agent);
	free(session);
	if (!agent) {
		ray_reply(c, q->ticket, -ENOENT, "the job has no files yet", NULL, 0);
		return false;
	}
	if (!must_wait(c, q))
		ray_files_ask(c, q, agent);
	free(agent);
	return true;
}

static void nothing(void *arg, const struct http_answer *a)
{
	(void)arg;
	(void)a;
}

/* Ray's record of it; the files go with its session. */
static void on_forget(struct cluster *c, const struct creq *q)
{
	cleanup_free char *sid = q->token ? ray_submission_id(q->token) : NULL;
	cleanup_free char *path = sid ? xasprintf("/api/jobs/%s", sid) : NULL, *url = path ? ray_url(c, path) : NULL;
	struct ray_run *r = find(c, q->run, 0);

	if (r)
		forget(c, r);
	if (url && c->http && c->up)
		http_send(c->http, &(struct http_request){ .method = "DELETE", .url = url, .deadline_ms = 10000 },
			  nothing, NULL);
	if (q->ticket)
		ray_reply(c, q->ticket, url && !c->up ? -EHOSTUNREACH : 0, "", NULL, 0);
}

static void on_hot(struct cluster *c, const struct creq *q)
{
	struct ray_run *r = find(c, q->run, 0);

	if (!r)
		return;
	r->hot_until = c->now + 30 * SEC;
	for (int st = 0; st < RAYS_N; st++)
		r->stream[st].next_at = 0;
}

/* True: `q` is kept. */
static bool take(struct cluster *c, struct creq *q)
{
	switch (q->m.type) {
	case CREQ_SUBMIT:
	case CREQ_WATCH:
		on_submit(c, q);
		break;
	case CREQ_FORGET:
		on_forget(c, q);
		break;
	case CREQ_VERB:
		on_verb(c, q);
		break;
	case CREQ_HOT:
		on_hot(c, q);
		break;
	case CREQ_LIST:
	case CREQ_READ:
	case CREQ_MANIFEST:
		return on_files(c, q);
	case CREQ_PROBE:
		return on_probe(c, q);
	case CREQ_RECONNECT:
		ray_link_reconnect(c);
		break;
	default:
		if (q->ticket)
			ray_reply(c, q->ticket, -EINVAL, "a cluster of type ray cannot do this", NULL, 0);
		break;
	}
	return false;
}

static void handle(struct cluster *c, struct creq *q)
{
	if (!take(c, q))
		msg_release(&q->m);
}

static void take_requests(struct cluster *c)
{
	struct list in = LIST_INIT(in);
	struct list *n;

	inbox_take(&c->inbox, &in);
	while ((n = list_pop(&in))) {
		struct msg *m = container_of(n, struct msg, node);

		if (m->type != 0 && !c->stopping) {
			handle(c, container_of(m, struct creq, m));
			continue;
		}
		if (m->type != 0)
			ray_reply(c, container_of(m, struct creq, m)->ticket, -ENODEV, "shutting down", NULL, 0);
		c->stopping = true;
		msg_release(m);
	}
}

/* --- the loop --- */

static int64_t sooner(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Its logs need no network any more. */
static bool settled(const struct ray_run *r)
{
	return r->phase == RAYRUN_ENDED && r->stream[RAYS_OUT].done && r->stream[RAYS_ERR].done &&
	       r->stream[RAYS_EVENTS].done;
}

static int64_t step_runs(struct cluster *c)
{
	struct hmap_node *n = hmap_walk(&c->runs, NULL), *after;
	int64_t next = INT64_MAX;

	for (; n; n = after) {
		struct ray_run *r = container_of(n, struct ray_run, node);

		after = hmap_walk(&c->runs, n);
		next = sooner(next, ray_submit_step(c, r));
		if (ray_reachable(c))
			next = sooner(next, ray_run_step(c, r));
		if (ray_reachable(c) || settled(r))
			next = sooner(next, ray_logs_step(c, r));
		if (r->phase == RAYRUN_DONE)
			forget(c, r);
	}
	return next;
}

static void wait_for_work(struct cluster *c, int64_t next)
{
	struct pollfd p[1 + TUNNEL_FDS] = { { .fd = inbox_fd(&c->inbox), .events = POLLIN } };
	int64_t left = (next - clock_mono(c->ctx.clock)) / USEC_PER_MSEC;
	unsigned n = 1;

	if (c->tunnel)
		n += tunnel_fds(c->tunnel, p + 1);
	left = left < 0 ? 0 : left > 1000 ? 1000 : left;
	if (c->http)
		http_wait_fds(c->http, p, n, (int)left);
	else
		(void)poll(p, n, (int)left);
}

static void *ray_thread(void *arg)
{
	struct cluster *c = arg;

	while (!c->stopping) {
		int64_t next;
		bool more = false;

		c->now = clock_mono(c->ctx.clock);
		take_requests(c);
		if (c->stopping)
			break;
		if (c->tunnel)
			more = tunnel_step(c->tunnel);
		ray_link_step(c);
		next = step_runs(c);
		next = sooner(next, step_held(c));
		next = sooner(next, ray_link_deadline(c));
		if (c->http)
			http_step(c->http);
		if (c->tunnel) /* what http_step wrote or asked for */
			more |= tunnel_step(c->tunnel);
		wait_for_work(c, more ? 0 : next);
		c->now = clock_mono(c->ctx.clock);
		if (c->http)
			http_step(c->http);
	}
	http_free(c->http);
	c->http = NULL;
	tunnel_free(c->tunnel);
	c->tunnel = NULL;
	release_held(c);
	return NULL;
}

static void cluster_free(struct cluster *c)
{
	struct hmap_node *n;

	while ((n = hmap_walk(&c->runs, NULL)))
		forget(c, container_of(n, struct ray_run, node));
	hmap_release(&c->runs);
	if (c->inbox.fd >= 0)
		inbox_release(&c->inbox);
	ray_local_free(c->here);
	tunnel_free(c->tunnel);
	free(c->spool_dir);
	free(c->base);
	free(c->session);
	free(c->version);
	free(c);
}

static int open_tunnel(struct cluster *c, const struct tunnel_conf *way)
{
	struct tunnel_conf conf = *way;

	if (!c->ctx.conf->hosts)
		return 0;
	conf.cluster = c->ctx.conf;
	conf.clock = c->ctx.clock;
	c->tunnel = tunnel_new(&conf);
	return c->tunnel ? 0 : -EMFILE;
}

int cluster_ray_start_with(const struct tunnel_conf *way, const struct cluster_ctx *ctx, struct cluster **out,
			   struct err *e)
{
	struct cluster *c = xcalloc(1, sizeof(*c));
	sigset_t all, old;
	int rc;

	c->ctx = *ctx;
	c->spool_dir = xasprintf("%s/spool", ctx->state_dir);
	hmap_init(&c->runs);
	list_init(&c->held);
	if (ctx->conf->start)
		c->here = ray_local_new(ctx);
	rc = inbox_init(&c->inbox);
	if (rc == 0)
		rc = open_tunnel(c, way);
	if (rc == 0) {
		(void)sigfillset(&all);
		(void)pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are the reactor's */
		rc = -pthread_create(&c->thread, NULL, ray_thread, c);
		(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	if (rc < 0) {
		cluster_free(c);
		return err_sys(e, rc, "cannot start its thread");
	}
	*out = c;
	return 0;
}

static int ray_start(const struct cluster_ctx *ctx, struct cluster **out, struct err *e)
{
	const struct tunnel_conf way = { .ops = &transport_ssh2_ops, .describe = transport_ssh2_describe };

	return cluster_ray_start_with(&way, ctx, out, e);
}

static void ray_post(struct cluster *c, struct creq *q)
{
	inbox_post(&c->inbox, &q->m);
}

static void release_stop(struct msg *m)
{
	free(m);
}

static void ray_stop(struct cluster *c, int deadline_ms)
{
	struct msg *m = xcalloc(1, sizeof(*m));

	(void)deadline_ms; /* the thread waits for its inbox and for what moves, never longer than a second */
	m->release = release_stop;
	inbox_post(&c->inbox, m);
	(void)pthread_join(c->thread, NULL);
	cluster_free(c);
}

const struct cluster_ops cluster_ray_ops = {
	.type = CLUSTER_RAY,
	.word = "ray",
	.start = ray_start,
	.post = ray_post,
	.stop = ray_stop,
};
