/*
 * HTTP by libcurl's multi interface. Owns the handles and what requests send and receive.
 *
 * Invariants: each request is answered exactly once; callbacks are called with the request already off the list, so
 * they may send others; an answer is bounded (body_max), so that no server fills our memory. Protocols are http and
 * https only, and nothing is followed: what the answer says is data (curl's CVE list, redirects).
 */
#include "backend/http.h"

#include "backend/base/list.h"
#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define CONNECT_MS 5000
#define CONNECTIONS 8 /* to one host; more requests wait for one of them */
#define DIALLED 6     /* in all through a tunnel, where each may cost a session of the server (FORWARD_SESSIONS) */

struct call {
	struct list node;
	struct http *h;
	CURL *easy;
	struct strbuf body;
	size_t body_max;
	char *sent;
	struct curl_slist *headers;
	int64_t total, date;
	bool head, too_long;
	http_cb cb;
	void *arg;
	char error[CURL_ERROR_SIZE];
};

struct http {
	CURLM *multi;
	struct list calls;
	size_t n_open;
	char *token_line, *ca_file;
	char **headers;
	http_dial dial;
	void *dial_arg;
	struct list dialled;          /* connections that are about to be made */
	struct curl_slist *no_lookup; /* with dial: every name is an address, so that none is looked up here */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void global_init(void)
{
	(void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* --- what comes --- */

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct call *c = arg;
	size_t len = size * n;

	if (len > c->body_max || c->body.len > c->body_max - len) {
		c->too_long = true;
		return 0;
	}
	strbuf_add(&c->body, data, len);
	return len;
}

/* The value of this header, or NULL; a NUL ends it. */
static char *value_of(const char *data, size_t len, const char *name)
{
	size_t n = strlen(name);

	return len > n && strncasecmp(data, name, n) == 0 ? xstrndup(data + n, len - n) : NULL;
}

/* "Content-Range: bytes 1-2/3" and "bytes * /3" (RFC 9110, 14.4), "Date:" (6.6.1). */
static size_t on_header(char *data, size_t size, size_t n, void *arg)
{
	struct call *c = arg;
	size_t len = size * n;
	cleanup_free char *range = value_of(data, len, "content-range:"), *date = value_of(data, len, "date:");
	const char *slash = range ? strchr(range, '/') : NULL;
	char *end;

	if (date)
		c->date = (int64_t)curl_getdate(date, NULL);
	if (!slash)
		return len;
	errno = 0;
	c->total = strtoll(slash + 1, &end, 10);
	if (errno || end == slash + 1 || c->total < 0)
		c->total = -1;
	return len;
}

/* --- tunnels --- */

bool http_place(const char *url, char **host, int *port)
{
	char *name = NULL, *digits = NULL;
	CURLU *u = curl_url();
	bool ok = u && !curl_url_set(u, CURLUPART_URL, url, 0) && !curl_url_get(u, CURLUPART_HOST, &name, 0) &&
		  !curl_url_get(u, CURLUPART_PORT, &digits, CURLU_DEFAULT_PORT);

	if (ok) {
		*host = xstrdup(name);
		*port = (int)strtol(digits, NULL, 10);
	}
	curl_free(name);
	curl_free(digits);
	curl_url_cleanup(u);
	return ok;
}

/* A connection that libcurl is about to make: its other end is `listener`, which is there for it alone. */
struct dialled {
	struct list node;
	int listener;
	char *host;
	int port;
};

/* On a name that the kernel chooses (unix(7), Autobind feature), which goes to `to`. */
static int listen_once(struct curl_sockaddr *to)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	socklen_t len = sizeof(un.sun_family);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -1;
	if (bind(fd, (struct sockaddr *)&un, len) == 0 && listen(fd, 1) == 0) {
		len = sizeof(un);
		if (getsockname(fd, (struct sockaddr *)&un, &len) == 0 && len <= sizeof(to->addr)) {
			to->family = AF_UNIX;
			to->protocol = 0;
			to->addrlen = len;
			memcpy(&to->addr, &un, len);
			return fd;
		}
	}
	(void)close(fd);
	return -1;
}

/* libcurl lets this change where it connects to (CURLOPT_OPENSOCKETFUNCTION). A socket that is connected already is not
 * taken by all of its versions (7.88). */
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	cleanup_free char *host = NULL;
	struct call *c = arg;
	struct dialled *d;
	char *url = NULL;
	int fd, listener, port;

	(void)purpose;
	(void)curl_easy_getinfo(c->easy, CURLINFO_EFFECTIVE_URL, &url);
	if (!url || !http_place(url, &host, &port))
		return CURL_SOCKET_BAD;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	listener = fd < 0 ? -1 : listen_once(address);
	if (listener < 0) {
		if (fd >= 0)
			(void)close(fd);
		return CURL_SOCKET_BAD;
	}
	d = xcalloc(1, sizeof(*d));
	d->listener = listener;
	d->host = host;
	d->port = port;
	host = NULL;
	list_add_tail(&c->h->dialled, &d->node);
	return fd;
}

/* Anybody may connect to such a name: it has to be this process. */
static bool is_ours(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == getpid();
}

/* libcurl has connected to them by now, or never will. */
static void hand_over(struct http *h)
{
	struct list *n;

	while ((n = list_pop(&h->dialled))) {
		struct dialled *d = container_of(n, struct dialled, node);
		int fd = accept4(d->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0 && is_ours(fd))
			(void)h->dial(h->dial_arg, d->host, d->port, fd);
		else if (fd >= 0)
			(void)close(fd);
		(void)close(d->listener);
		free(d->host);
		free(d);
	}
}

/* --- requests --- */

static void add_header(struct call *c, const char *line)
{
	struct curl_slist *l = curl_slist_append(c->headers, line);

	if (l)
		c->headers = l;
}

static void set_method(struct call *c, const struct http_request *rq)
{
	bool sends = strcmp(rq->method, "POST") == 0 || strcmp(rq->method, "PUT") == 0;
	size_t len = rq->body ? rq->body_len : 0;

	c->head = strcmp(rq->method, "HEAD") == 0;
	if (c->head) {
		curl_easy_setopt(c->easy, CURLOPT_NOBODY, 1L);
	} else if (sends) {
		c->sent = xmalloc(len + 1);
		if (len)
			memcpy(c->sent, rq->body, len);
		curl_easy_setopt(c->easy, CURLOPT_POST, 1L);
		curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, c->sent);
		curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
	}
	if (!c->head && strcmp(rq->method, "POST") != 0)
		curl_easy_setopt(c->easy, CURLOPT_CUSTOMREQUEST, rq->method);
}

static void set_headers(struct call *c, const struct http_request *rq)
{
	cleanup_free char *type = xasprintf("Content-Type: %s", rq->type ? rq->type : "application/octet-stream");

	if (c->h->token_line)
		add_header(c, c->h->token_line);
	for (size_t i = 0; c->h->headers && c->h->headers[i]; i++)
		add_header(c, c->h->headers[i]);
	if (c->sent)
		add_header(c, type);
	add_header(c, "Expect:"); /* no round trip before a body (RFC 9110, 10.1.1) */
	curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers);
	if (rq->range) {
		char range[64];

		(void)snprintf(range, sizeof(range), "%llu-%llu", (unsigned long long)rq->offset,
			       (unsigned long long)(rq->offset + (rq->length ? rq->length - 1 : 0)));
		curl_easy_setopt(c->easy, CURLOPT_RANGE, range);
	}
}

static void set_options(struct call *c, const struct http_request *rq)
{
	CURL *e = c->easy;

	curl_easy_setopt(e, CURLOPT_URL, rq->url);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2L);
	curl_easy_setopt(e, CURLOPT_USERAGENT,
			 "slurmray/" SLURMRAY_VERSION); /* Ray refuses what looks like a browser */
	curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)rq->deadline_ms);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS,
			 (long)(rq->deadline_ms < CONNECT_MS ? rq->deadline_ms : CONNECT_MS));
	curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(e, CURLOPT_FILETIME, 1L);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, c);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, c);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, c->error);
	curl_easy_setopt(e, CURLOPT_PRIVATE, c);
	if (c->h->ca_file)
		curl_easy_setopt(e, CURLOPT_CAINFO, c->h->ca_file);
	if (c->h->dial) {
		curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, on_open);
		curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, c);
		curl_easy_setopt(e, CURLOPT_CONNECT_TO, c->h->no_lookup);
	}
}

static void call_free(struct call *c)
{
	curl_easy_cleanup(c->easy);
	curl_slist_free_all(c->headers);
	strbuf_release(&c->body);
	free(c->sent);
	free(c);
}

void http_send(struct http *h, const struct http_request *rq, http_cb cb, void *arg)
{
	struct call *c = xcalloc(1, sizeof(*c));

	c->h = h;
	c->easy = curl_easy_init();
	strbuf_init(&c->body);
	c->body_max = rq->body_max ? rq->body_max : HTTP_BODY_MAX;
	c->total = c->date = -1;
	c->cb = cb;
	c->arg = arg;
	list_init(&c->node);
	list_add_tail(&h->calls, &c->node);
	h->n_open++;
	set_options(c, rq);
	set_method(c, rq);
	set_headers(c, rq);
	(void)curl_multi_add_handle(h->multi, c->easy);
}

size_t http_open(const struct http *h)
{
	return h->n_open;
}

/* --- answers --- */

static int errno_of(CURLcode rc)
{
	switch (rc) {
	case CURLE_OK:
		return 0;
	case CURLE_COULDNT_CONNECT:
		return -ECONNREFUSED;
	case CURLE_COULDNT_RESOLVE_HOST:
		return -EHOSTUNREACH;
	case CURLE_OPERATION_TIMEDOUT:
		return -ETIMEDOUT;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CONNECT_ERROR:
		return -EKEYREJECTED;
	default:
		return -ECONNRESET;
	}
}

static void answer(struct call *c, int code, const char *text)
{
	struct http_answer a = { .code = code,
				 .text = text,
				 .body = c->body.buf,
				 .len = c->body.len,
				 .total = c->total,
				 .modified = -1,
				 .date = c->date };
	curl_off_t length = -1;
	long status = 0, when = -1;

	list_del(&c->node);
	c->h->n_open--;
	(void)curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &status);
	(void)curl_easy_getinfo(c->easy, CURLINFO_FILETIME, &when);
	(void)curl_easy_getinfo(c->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
	(void)curl_multi_remove_handle(c->h->multi, c->easy);
	a.status = code ? 0 : (int)status;
	a.modified = when;
	if (c->head && length >= 0)
		a.total = length;
	c->cb(c->arg, &a);
	call_free(c);
}

void http_step(struct http *h)
{
	int running, left;
	CURLMsg *m;

	(void)curl_multi_perform(h->multi, &running);
	hand_over(h);
	while ((m = curl_multi_info_read(h->multi, &left))) {
		struct call *c = NULL;
		CURLcode rc = m->data.result;

		if (m->msg != CURLMSG_DONE)
			continue;
		(void)curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&c);
		if (c->too_long)
			answer(c, -EFBIG, "the answer is too long");
		else
			answer(c, errno_of(rc), rc ? (*c->error ? c->error : curl_easy_strerror(rc)) : "");
	}
}

void http_wait_fds(struct http *h, const struct pollfd *fds, unsigned n, int timeout_ms)
{
	struct curl_waitfd extra[HTTP_WAIT_FDS];
	unsigned count = 0;

	for (unsigned i = 0; i < n && count < HTTP_WAIT_FDS; i++)
		if (fds[i].fd >= 0)
			extra[count++] = (struct curl_waitfd){
				.fd = fds[i].fd,
				.events = (short)((fds[i].events & POLLIN ? CURL_WAIT_POLLIN : 0) |
						  (fds[i].events & POLLOUT ? CURL_WAIT_POLLOUT : 0)),
			};
	(void)curl_multi_poll(h->multi, extra, count, timeout_ms < 0 ? 0 : timeout_ms, NULL);
}

void http_wait(struct http *h, int fd, int timeout_ms)
{
	const struct pollfd p = { .fd = fd, .events = POLLIN };

	http_wait_fds(h, &p, 1, timeout_ms);
}

/* --- all of them --- */

static bool header_ok(const char *line)
{
	const char *colon = strchr(line, ':');

	for (const char *s = line; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 127)
			return false;
	return colon && colon > line && !memchr(line, ' ', (size_t)(colon - line));
}

static int copy_conf(struct http *h, const struct http_conf *conf, struct err *e)
{
	size_t n = 0;

	for (; conf->headers && conf->headers[n]; n++)
		if (!header_ok(conf->headers[n]))
			return err_set(e, -EINVAL, "headers: the %zu. is not \"Name: value\"", n + 1);
	h->headers = xcalloc(n + 1, sizeof(*h->headers));
	for (size_t i = 0; i < n; i++)
		h->headers[i] = xstrdup(conf->headers[i]);
	if (conf->ca_file && access(conf->ca_file, R_OK) < 0)
		return err_sys(e, -errno, "ca_file: %s", conf->ca_file);
	h->ca_file = xstrdup(conf->ca_file);
	if (conf->token) {
		h->token_line = xasprintf("Authorization: Bearer %s", conf->token);
		if (!header_ok(h->token_line))
			return err_set(e, -EINVAL, "the token holds characters that no token has");
	}
	h->dial = conf->dial;
	h->dial_arg = conf->dial_arg;
	if (h->dial) {
		h->no_lookup = curl_slist_append(NULL, "::127.0.0.1:");
		(void)curl_multi_setopt(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)DIALLED);
	}
	return 0;
}

int http_new(const struct http_conf *conf, struct http **out, struct err *e)
{
	struct http *h = xcalloc(1, sizeof(*h));
	int rc;

	(void)pthread_once(&once, global_init);
	list_init(&h->calls);
	list_init(&h->dialled);
	h->multi = curl_multi_init();
	(void)curl_multi_setopt(h->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)CONNECTIONS);
	rc = copy_conf(h, conf, e);
	if (rc < 0)
		http_free(h);
	else
		*out = h;
	return rc;
}

void http_free(struct http *h)
{
	if (!h)
		return;
	while (!list_empty(&h->calls))
		answer(container_of(h->calls.next, struct call, node), -ECONNRESET, "the connection is closed");
	(void)curl_multi_cleanup(h->multi);
	for (size_t i = 0; h->headers && h->headers[i]; i++)
		free(h->headers[i]);
	free(h->headers);
	curl_slist_free_all(h->no_lookup);
	free(h->token_line);
	free(h->ca_file);
	free(h);
}

char *http_base(const char *text, struct err *e)
{
	bool http = strncmp(text, "http://", 7) == 0, https = strncmp(text, "https://", 8) == 0;
	cleanup_free char *url = http || https ? xstrdup(text) : xasprintf("http://%s", text);
	char *host = NULL, *port = NULL, *user = NULL, *query = NULL;
	size_t len = strlen(url);
	CURLU *u = curl_url();
	bool ok;

	ok = u && (http || https || !strstr(text, "://")) && !curl_url_set(u, CURLUPART_URL, url, 0) &&
	     !curl_url_get(u, CURLUPART_HOST, &host, 0) && curl_url_get(u, CURLUPART_USER, &user, 0) &&
	     curl_url_get(u, CURLUPART_QUERY, &query, 0) && (https || !curl_url_get(u, CURLUPART_PORT, &port, 0));
	curl_free(host);
	curl_free(port);
	curl_free(user);
	curl_free(query);
	curl_url_cleanup(u);
	if (!ok) {
		(void)err_set(e, -EINVAL,
			      "%s is not the address of a Ray dashboard: write http://HOST:8265 (or https://HOST)",
			      text);
		return NULL;
	}
	while (len && url[len - 1] == '/')
		url[--len] = '\0';
	return xstrdup(url);
}

void http_add_path(struct strbuf *out, const char *path)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";

	for (const unsigned char *s = (const unsigned char *)path; *s; s++) {
		if (strchr(plain, *s))
			strbuf_addch(out, (char)*s);
		else
			strbuf_addf(out, "%%%02X", *s);
	}
}
