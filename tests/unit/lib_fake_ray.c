/*
 * The fake Ray head. One thread, one request a connection; what is set from outside is set under the lock.
 */
#include "tests/unit/lib_fake_ray.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define JOBS_MAX 64

struct fjob {
	char id[128];
	json_t *body;
	pid_t pid;
	bool stopped, ended;
	int code;
};

struct fpackage {
	char name[96];
};

struct server {
	struct fake_ray f; /* first: what the tests see */
	pthread_t thread;
	pthread_mutex_t lock;
	int fd;
	bool quit;
	unsigned sessions;
	struct fjob jobs[JOBS_MAX];
	size_t n_jobs;
	struct fpackage packages[16];
	size_t n_packages;
};

static struct server *of(struct fake_ray *f)
{
	return (struct server *)(void *)f;
}

void fake_ray_lock(struct fake_ray *f)
{
	(void)pthread_mutex_lock(&of(f)->lock);
}

void fake_ray_unlock(struct fake_ray *f)
{
	(void)pthread_mutex_unlock(&of(f)->lock);
}

void fake_ray_break(struct fake_ray *f, enum fake_ray_fault fault, const char *on, int count)
{
	fake_ray_lock(f);
	f->fault = fault;
	f->on = on;
	f->count = count;
	fake_ray_unlock(f);
}

/* --- jobs --- */

static struct fjob *job_of(struct server *s, const char *id)
{
	for (size_t i = 0; i < s->n_jobs; i++)
		if (strcmp(s->jobs[i].id, id) == 0)
			return &s->jobs[i];
	return NULL;
}

static void start_job(struct server *s, struct fjob *j)
{
	const char *entry = json_string_value(json_object_get(j->body, "entrypoint"));
	cleanup_free char *log = xasprintf("%s/job-driver-%s.log", s->f.logs, j->id);

	s->f.starts++;
	j->pid = fork();
	if (j->pid == 0) {
		int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600), null = open("/dev/null", O_RDONLY);
		sigset_t none;

		(void)sigemptyset(&none);
		(void)sigprocmask(SIG_SETMASK, &none, NULL);
		(void)setsid();
		(void)dup2(null, 0);
		(void)dup2(fd, 1);
		(void)dup2(fd, 2);
		for (int i = 3; i < 256; i++)
			(void)close(i);
		if (chdir(s->f.work) == 0)
			(void)execl("/bin/sh", "sh", "-c", entry, (char *)NULL);
		_exit(127);
	}
}

static void look_at_jobs(struct server *s)
{
	for (size_t i = 0; i < s->n_jobs; i++) {
		struct fjob *j = &s->jobs[i];
		int status;

		if (!j->pid && !s->f.pending && !j->ended)
			start_job(s, j);
		if (j->pid && !j->ended && waitpid(j->pid, &status, WNOHANG) == j->pid) {
			j->ended = true;
			j->code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
		}
	}
}

static void describe(struct server *s, const struct fjob *j, struct strbuf *out)
{
	const char *status = !j->pid      ? (j->ended ? "STOPPED" : "PENDING")
			     : !j->ended  ? "RUNNING"
			     : j->stopped ? "STOPPED"
			     : j->code    ? "FAILED"
					  : "SUCCEEDED";
	json_t *d = json_pack("{s:s, s:s, s:s, s:s, s:O?}", "type", "SUBMISSION", "submission_id", j->id, "status",
			      status, "message", "Job says nothing.", "metadata", json_object_get(j->body, "metadata"));
	char *text;

	if (j->pid) {
		(void)json_object_set_new(d, "driver_agent_http_address", json_string(s->f.address));
		(void)json_object_set_new(d, "driver_node_id", json_string("abc"));
	}
	if (j->ended && j->pid)
		(void)json_object_set_new(d, "driver_exit_code", json_integer(j->code));
	text = json_dumps(d, 0);
	strbuf_addstr(out, text);
	free(text);
	json_decref(d);
}

/* --- answers --- */

struct request {
	char method[8], path[600];
	struct strbuf body;
	bool ranged;
	unsigned long long from, to;
	bool token_ok;
};

struct reply {
	int status;
	struct strbuf body;
	char extra[128];
};

static void post_job(struct server *s, const struct request *q, struct reply *p)
{
	json_t *body = json_loadb(q->body.buf, q->body.len, 0, NULL);
	const char *id = json_string_value(json_object_get(body, "submission_id"));

	s->f.posts++;
	free(s->f.last_body);
	s->f.last_body = xstrdup(q->body.buf);
	if (!id || !json_object_get(body, "entrypoint")) {
		p->status = 400;
		strbuf_addstr(&p->body, "Traceback (most recent call last):\nTypeError: missing");
	} else if (job_of(s, id) || (s->f.foreign && strcmp(id, s->f.foreign) == 0)) {
		p->status = 500;
		strbuf_addf(
			&p->body,
			"Traceback (most recent call last):\n  x\nValueError: Job with submission_id %s already exists. "
			"Please use a different submission_id.\n",
			id);
	} else {
		struct fjob *j = &s->jobs[s->n_jobs++];

		(void)snprintf(j->id, sizeof(j->id), "%s", id);
		j->body = json_incref(body);
		strbuf_addf(&p->body, "{\"job_id\": \"%s\", \"submission_id\": \"%s\"}", id, id);
	}
	json_decref(body);
}

static void one_job(struct server *s, const struct request *q, struct reply *p)
{
	char id[200];
	struct fjob *j;
	char *slash;

	(void)snprintf(id, sizeof(id), "%s", q->path + strlen("/api/jobs/"));
	slash = strchr(id, '/');
	if (slash)
		*slash++ = '\0';
	j = job_of(s, id);
	if (s->f.foreign && strcmp(id, s->f.foreign) == 0) {
		strbuf_addstr(&p->body, "{\"status\": \"RUNNING\", \"metadata\": {\"slurmray\": \"another\"}}");
	} else if (!j) {
		p->status = 404;
		strbuf_addf(&p->body, "Job %s does not exist", id);
	} else if (slash && strcmp(slash, "stop") == 0) {
		s->f.stops++;
		strbuf_addf(&p->body, "{\"stopped\": %s}", j->ended ? "false" : "true");
		j->stopped = !j->ended;
		if (j->pid && !j->ended)
			(void)kill(-j->pid, SIGTERM);
		if (!j->pid && !s->f.pending)
			j->ended = true;
	} else if (strcmp(q->method, "DELETE") == 0) {
		s->f.deletes++;
		strbuf_addstr(&p->body, "{\"deleted\": true}");
	} else {
		describe(s, j, &p->body);
	}
}

static void package(struct server *s, const struct request *q, struct reply *p)
{
	const char *name = strrchr(q->path, '/') + 1;
	bool there = false;

	for (size_t i = 0; i < s->n_packages; i++)
		there = there || strcmp(s->packages[i].name, name) == 0;
	if (strcmp(q->method, "PUT") == 0 && !there) {
		s->f.puts++;
		(void)snprintf(s->packages[s->n_packages++].name, sizeof(s->packages[0].name), "%s", name);
	} else if (!there) {
		p->status = 404;
	}
}

static void add_index(const char *path, const char *dir, struct strbuf *out)
{
	DIR *d = opendir(path);
	struct dirent *de;

	while (d && (de = readdir(d)))
		if (de->d_name[0] != '.')
			strbuf_addf(out, "<li><a href=\"%s/%s\">%s%s</a></li>\n", dir, de->d_name, de->d_name,
				    de->d_type == DT_DIR ? "/" : "");
	if (d)
		(void)closedir(d);
}

static void log_file(struct server *s, const struct request *q, struct reply *p)
{
	cleanup_free char *path = xasprintf("%s/%s", s->f.logs, q->path + strlen("/logs/"));
	unsigned long long size;
	struct stat st;

	if (stat(path, &st) < 0) {
		p->status = 404;
		strbuf_addstr(&p->body, "404: Not Found");
		return;
	}
	if (S_ISDIR(st.st_mode)) {
		add_index(path, q->path, &p->body);
		return;
	}
	(void)strbuf_read_file(&p->body, path, (size_t)1 << 30);
	size = p->body.len;
	(void)snprintf(p->extra, sizeof(p->extra), "Last-Modified: Sat, 21 Nov 2026 12:23:02 GMT\r\n");
	if (!q->ranged || s->f.no_ranges)
		return;
	if (q->from >= size) {
		p->status = 416;
		strbuf_reset(&p->body);
		(void)snprintf(p->extra, sizeof(p->extra), "Content-Range: bytes */%llu\r\n", size);
		return;
	}
	p->status = 206;
	strbuf_setlen(&p->body, q->to + 1 < size ? (size_t)q->to + 1 : (size_t)size);
	strbuf_remove(&p->body, 0, (size_t)q->from);
	(void)snprintf(p->extra, sizeof(p->extra), "Content-Range: bytes %llu-%llu/%llu\r\n", q->from,
		       q->from + p->body.len - 1, size);
}

static void serve(struct server *s, const struct request *q, struct reply *p)
{
	p->status = 200;
	if (s->f.token && !q->token_ok) {
		p->status = 401;
		strbuf_addstr(&p->body, "Unauthorized: Missing authentication token");
	} else if (strcmp(q->path, "/api/version") == 0) {
		strbuf_addf(&p->body, "{\"version\": \"4\", \"ray_version\": \"2.60.0\", \"session_name\": \"%s\"}",
			    s->f.session);
	} else if (strcmp(q->path, "/api/jobs/") == 0 && strcmp(q->method, "POST") == 0) {
		post_job(s, q, p);
	} else if (strcmp(q->path, "/api/jobs/") == 0) {
		strbuf_addstr(&p->body,
			      "[{\"submission_id\": \"x\", \"status\": \"RUNNING\", \"type\": \"SUBMISSION\"}]");
	} else if (strncmp(q->path, "/api/jobs/", 10) == 0) {
		one_job(s, q, p);
	} else if (strncmp(q->path, "/api/packages/", 14) == 0) {
		package(s, q, p);
	} else if (strncmp(q->path, "/api/v0/nodes", 13) == 0) {
		strbuf_addstr(&p->body, "{\"data\": {\"result\": {\"result\": [{\"node_ip\": \"10.0.0.1\", \"state\": "
					"\"ALIVE\", \"node_id\": \"abc\"}]}}}");
	} else if (strncmp(q->path, "/logs/", 6) == 0) {
		log_file(s, q, p);
	} else {
		p->status = 404;
	}
}

/* --- connections --- */

static bool wait_in(int fd)
{
	struct pollfd w = { .fd = fd, .events = POLLIN };

	return poll(&w, 1, 5000) > 0;
}

static bool read_request(struct server *s, int fd, struct request *q)
{
	cleanup_strbuf struct strbuf in = STRBUF_INIT;
	const char *end = NULL, *h;
	size_t want = 0;
	char buf[65536];

	while (!end || in.len < (size_t)(end - in.buf) + 4 + want) {
		ssize_t n = wait_in(fd) ? read(fd, buf, sizeof(buf)) : 0;

		if (n <= 0)
			return false;
		strbuf_add(&in, buf, (size_t)n);
		end = strstr(in.buf, "\r\n\r\n");
		h = end ? strcasestr(in.buf, "\r\nContent-Length:") : NULL;
		want = h && h < end ? strtoul(h + 17, NULL, 10) : 0;
	}
	h = strchr(in.buf, ' ');
	(void)snprintf(q->method, sizeof(q->method), "%.*s", (int)(h - in.buf), in.buf);
	(void)snprintf(q->path, sizeof(q->path), "%.*s", (int)strcspn(h + 1, " "), h + 1);
	h = strcasestr(in.buf, "\r\nRange: bytes=");
	q->ranged = h && h < end;
	if (q->ranged) {
		char *dash;

		q->from = strtoull(h + 15, &dash, 10);
		q->to = strtoull(dash + 1, NULL, 10);
	}
	if (s->f.token) {
		cleanup_free char *line = xasprintf("\r\nAuthorization: Bearer %s\r\n", s->f.token);

		q->token_ok = strstr(in.buf, line) != NULL;
	}
	strbuf_add(&q->body, end + 4, want);
	return true;
}

static void write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		data += n;
		len -= (size_t)n;
	}
}

static enum fake_ray_fault fault_of(struct server *s, const struct request *q)
{
	cleanup_free char *what = xasprintf("%s %s", q->method, q->path);

	if (!s->f.count || (s->f.on && strncmp(what, s->f.on, strlen(s->f.on)) != 0))
		return FAKE_RAY_OK;
	s->f.count--;
	return s->f.fault;
}

static void answer(struct server *s, int fd, const struct request *q)
{
	cleanup_strbuf struct strbuf head = STRBUF_INIT;
	struct reply p = { .body = STRBUF_INIT };
	enum fake_ray_fault fault = fault_of(s, q);
	size_t len;

	if (fault == FAKE_RAY_OK || fault == FAKE_RAY_CUT_AFTER || fault == FAKE_RAY_HALF)
		serve(s, q, &p);
	else if (fault == FAKE_RAY_500 || fault == FAKE_RAY_400 || fault == FAKE_RAY_413) {
		p.status = fault == FAKE_RAY_500 ? 500 : fault == FAKE_RAY_400 ? 400 : 413;
		strbuf_addstr(&p.body, "Traceback:\n  a\nRuntimeError: No available agent to submit job\n");
	} else if (fault == FAKE_RAY_GARBAGE) {
		p.status = 200;
		strbuf_add(&p.body, "\xff{[\0nothing", 11);
	}
	if (fault != FAKE_RAY_CUT_BEFORE && fault != FAKE_RAY_CUT_AFTER) {
		len = p.body.len;
		strbuf_addf(&head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nConnection: close\r\n%s\r\n", p.status, len,
			    p.extra);
		write_all(fd, head.buf, head.len);
		if (strcmp(q->method, "HEAD") != 0)
			write_all(fd, p.body.buf, fault == FAKE_RAY_HALF ? len / 2 : len);
	}
	strbuf_release(&p.body);
}

static void *server_thread(void *arg)
{
	struct server *s = arg;

	for (;;) {
		struct pollfd w = { .fd = s->fd, .events = POLLIN };
		struct request q = { .body = STRBUF_INIT };
		int fd;

		(void)poll(&w, 1, 20);
		fake_ray_lock(&s->f);
		look_at_jobs(s);
		if (s->quit) {
			fake_ray_unlock(&s->f);
			return NULL;
		}
		fake_ray_unlock(&s->f);
		fd = w.revents & POLLIN ? accept(s->fd, NULL, NULL) : -1;
		if (fd < 0)
			continue;
		if (read_request(s, fd, &q)) {
			fake_ray_lock(&s->f);
			look_at_jobs(s);
			answer(s, fd, &q);
			look_at_jobs(s);
			fake_ray_unlock(&s->f);
		}
		strbuf_release(&q.body);
		(void)close(fd);
	}
}

struct fake_ray *fake_ray_new(void)
{
	struct server *s = xcalloc(1, sizeof(*s));
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);

	(void)pthread_mutex_init(&s->lock, NULL);
	(void)snprintf(s->f.root, sizeof(s->f.root), "/tmp/fake_ray.XXXXXX");
	assert_non_null(mkdtemp(s->f.root));
	(void)snprintf(s->f.logs, sizeof(s->f.logs), "%s/logs", s->f.root);
	assert_int_equal(mkdir(s->f.logs, 0700), 0);
	(void)snprintf(s->f.work, sizeof(s->f.work), "%s/work", s->f.root);
	assert_int_equal(mkdir(s->f.work, 0700), 0);
	(void)snprintf(s->f.session, sizeof(s->f.session), "session_%u", ++s->sessions);
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(s->fd, 64), 0);
	assert_int_equal(getsockname(s->fd, (struct sockaddr *)&a, &len), 0);
	s->f.port = ntohs(a.sin_port);
	(void)snprintf(s->f.address, sizeof(s->f.address), "http://127.0.0.1:%d", s->f.port);
	assert_int_equal(pthread_create(&s->thread, NULL, server_thread, s), 0);
	return &s->f;
}

static void drop_jobs(struct server *s)
{
	for (size_t i = 0; i < s->n_jobs; i++) {
		if (s->jobs[i].pid && !s->jobs[i].ended) {
			(void)kill(-s->jobs[i].pid, SIGKILL);
			(void)waitpid(s->jobs[i].pid, NULL, 0);
		}
		json_decref(s->jobs[i].body);
	}
	memset(s->jobs, 0, sizeof(s->jobs));
	s->n_jobs = 0;
}

void fake_ray_restart(struct fake_ray *f)
{
	struct server *s = of(f);

	fake_ray_lock(f);
	drop_jobs(s);
	(void)snprintf(f->session, sizeof(f->session), "session_%u", ++s->sessions);
	fake_ray_unlock(f);
}

void fake_ray_free(struct fake_ray *f)
{
	cleanup_free char *code = xasprintf("rm -rf %s", f->root);
	struct server *s = of(f);

	fake_ray_lock(f);
	s->quit = true;
	fake_ray_unlock(f);
	(void)pthread_join(s->thread, NULL);
	drop_jobs(s);
	(void)close(s->fd);
	free(f->last_body);
	if (system(code) != 0) /* a test's own directory */
		print_message("cannot remove %s\n", f->root);
	free(s);
}
