/*
 * The life of the connection: one login, one channel for the remote shell, one for sftp. Comes up in steps (transport,
 * shell, sftp), goes down in one (teardown), and is tried again with full jitter, one login node after the other.
 *
 * Invariants: a refusal (credentials, host key) is never tried again by itself; everything that was open when the
 * connection went is answered with "lost" exactly once, after the connection's objects are gone; callbacks never tear
 * down, they leave a `fault` for the next step.
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define READ_CHUNK 65536
#define READ_ROUND (1024 * 1024) /* of one channel in one round, so that the others have their turn */
#define SFTP_DEATHS 4
#define NOISE_MAX 300

struct link_call {
	struct list node;
	uint64_t id;
	int64_t due;
	bool beside;
	link_cb cb;
	void *arg;
};

static uint64_t next_random(struct cluster *c)
{
	c->random += 0x9e3779b97f4a7c15u;
	return hash_u64(c->random);
}

bool rlink_up(const struct cluster *c)
{
	return c->link.state == LINK_UP;
}

bool rlink_files_ready(const struct cluster *c)
{
	return c->link.state == LINK_UP && (c->link.sftp_state == SFTP_ON || c->link.sftp_state == SFTP_DENIED);
}

static void say(struct cluster *c, bool up, bool asking, const char *text)
{
	struct remote_link *l = &c->link;

	if (l->said && l->said_up == up && l->said_asking == asking && strcmp(l->text, text) == 0)
		return;
	l->said = true;
	l->said_up = up;
	l->said_asking = asking;
	(void)snprintf(l->text, sizeof(l->text), "%s", text);
	rlink_report(c, up, asking, text);
}

/* --- going down --- */

static void drop_sftp(struct cluster *c)
{
	struct remote_link *l = &c->link;
	struct sftp *s = l->sftp;

	l->gen++;
	l->sftp = NULL;
	l->sftp_state = SFTP_OFF;
	if (l->files)
		c->top->channel_close(l->files);
	l->files = NULL;
	if (!s)
		return;
	sftp_abort(s);
	sftp_free(s);
}

static void teardown(struct cluster *c)
{
	struct remote_link *l = &c->link;
	struct list calls = LIST_INIT(calls);
	struct list *n;

	l->state = LINK_DOWN;
	rforward_link(c, NULL);
	drop_sftp(c);
	if (l->shell)
		c->top->channel_close(l->shell);
	l->shell = NULL;
	if (l->t)
		c->top->close(l->t);
	l->t = NULL;
	agent_free(l->agent);
	l->agent = NULL;
	l->fault.code = 0;
	strbuf_reset(&l->noise);
	list_splice(&calls, &l->calls);
	while ((n = list_pop(&calls))) {
		struct link_call *k = container_of(n, struct link_call, node);

		k->cb(c, k->arg, NULL);
		free(k);
	}
}

static size_t count_hosts(const struct cluster *c)
{
	size_t n = 0;

	while (c->ctx.conf->hosts && c->ctx.conf->hosts[n])
		n++;
	return n ? n : 1;
}

/* Full jitter: many mounts that lost the same login node do not come back in the same moment. */
static void rlink_fail(struct cluster *c, const char *text)
{
	struct remote_link *l = &c->link;
	bool was_up = l->state == LINK_UP;
	size_t hosts = count_hosts(c);
	int64_t ceiling = c->pace.backoff_min;
	unsigned rounds;

	teardown(c);
	if (was_up && c->now - l->up_at > c->pace.backoff_max)
		l->failures = 0;
	if (was_up || !l->down_since)
		l->down_since = c->now;
	rounds = l->failures / (unsigned)hosts;
	for (unsigned i = 0; i < rounds && ceiling < c->pace.backoff_max; i++)
		ceiling *= 2;
	ceiling = earlier(ceiling, c->pace.backoff_max);
	l->retry_at = c->now + (int64_t)(next_random(c) % (uint64_t)(ceiling + 1));
	l->failures++;
	if (!was_up)
		l->host = (l->host + 1) % hosts;
	say(c, false, true, text);
	rruns_touch(c);
}

static void rlink_refuse(struct cluster *c, const char *text)
{
	teardown(c);
	c->link.state = LINK_REFUSED;
	if (!c->link.down_since)
		c->link.down_since = c->now;
	say(c, false, false, text);
	rruns_touch(c);
}

void rlink_reconnect(struct cluster *c)
{
	struct remote_link *l = &c->link;

	if (l->state == LINK_UP || l->state == LINK_CONNECTING || l->state == LINK_HELLO)
		return;
	l->state = LINK_DOWN;
	l->failures = 0;
	l->retry_at = c->now;
}

/* --- frames of the remote shell --- */

static void on_answer(struct cluster *c, const struct agent_frame *f)
{
	struct list *n, *tmp;

	list_for_each_safe (n, tmp, &c->link.calls) {
		struct link_call *k = container_of(n, struct link_call, node);

		if (k->id != f->id)
			continue;
		list_del(&k->node);
		k->cb(c, k->arg, f);
		free(k);
		return;
	}
}

static void on_frame(void *arg, const struct agent_frame *f)
{
	struct cluster *c = arg;

	switch (f->type) {
	case AGENT_HELLO:
		c->link.plain_sh = strncmp(f->out, "shell sh\n", 9) == 0;
		break;
	case AGENT_ANSWER:
		on_answer(c, f);
		break;
	case AGENT_END:
		rjobs_end_frame(c, f);
		break;
	}
}

void rlink_request(struct cluster *c, enum agent_class cls, const char *code, const void *payload, size_t len,
		   int deadline_s, link_cb cb, void *arg)
{
	struct link_call *k = xcalloc(1, sizeof(*k));

	assert(rlink_up(c));
	if (list_empty(&c->link.calls))
		c->link.heard_at = c->now; /* nothing was to be heard before */
	k->cb = cb;
	k->arg = arg;
	k->beside = cls == AGENT_BESIDE;
	k->due = c->now + deadline_s * (int64_t)USEC_PER_SEC + c->pace.answer_grace;
	k->id = agent_request(c->link.agent, cls, code, payload, len, deadline_s);
	list_add_tail(&c->link.calls, &k->node);
}

/* --- coming up --- */

static int default_tick(const struct cluster *c)
{
	if (c->ctx.conf->tick_ms > 0)
		return c->ctx.conf->tick_ms;
	if (!c->live && !c->submitting)
		return 2000;
	if (c->now - c->poll.changed_at >= 60 * (int64_t)USEC_PER_SEC)
		return 500;
	return c->live_steps ? 20 : 100; /* a step may take no longer itself */
}

static void connect_now(struct cluster *c)
{
	struct remote_link *l = &c->link;
	struct err e = ERR_INIT;
	int rc = c->top->open(c->ctx.conf, l->host, c->ctx.clock, &l->t, &e);

	if (rc == 0) {
		l->state = LINK_CONNECTING;
		l->limit_at = c->now + c->pace.connect_limit;
		return;
	}
	l->t = NULL;
	if (rc == -EAGAIN || rc == -EHOSTUNREACH || rc == -ENETUNREACH || rc == -ECONNREFUSED || rc == -ETIMEDOUT ||
	    rc == -EMFILE || rc == -ENFILE)
		rlink_fail(c, e.text);
	else
		rlink_refuse(c, e.text);
}

static void start_shell(struct cluster *c)
{
	struct remote_link *l = &c->link;
	struct strbuf dir = STRBUF_INIT, ends = STRBUF_INIT, prelude = STRBUF_INIT;
	struct err e = ERR_INIT;

	if (c->top->channel_open(l->t, NULL, false, &l->shell, &e) < 0) {
		l->shell = NULL;
		rlink_fail(c, e.text);
		return;
	}
	remote_dir(c, 0, 0, "ends", &dir);
	quote_sh_path(&ends, dir.buf);
	l->tick_ms = default_tick(c);
	c->sched->prelude(&prelude);
	l->agent = agent_new(prelude.buf, ends.buf, l->tick_ms, on_frame, c);
	strbuf_release(&prelude);
	strbuf_release(&dir);
	strbuf_release(&ends);
	l->state = LINK_HELLO;
	l->heard_at = c->now;
	l->limit_at = c->now + c->pace.hello_limit;
}

static void no_sftp(struct cluster *c, const char *why)
{
	drop_sftp(c);
	c->link.sftp_state = SFTP_DENIED;
	log_info("cluster %s: files are read by way of the shell: %s", c->ctx.conf->name, why);
	rruns_touch(c);
}

static void start_sftp(struct cluster *c)
{
	struct remote_link *l = &c->link;
	struct err e = ERR_INIT;

	if (c->top->channel_open(l->t, "sftp", true, &l->files, &e) < 0) {
		l->files = NULL;
		no_sftp(c, e.text);
		return;
	}
	l->sftp = sftp_new();
	l->sftp_state = SFTP_OPENING;
}

/* The answer means nothing; the directories are made again by whoever needs them. */
static void on_made_dirs(struct cluster *c, void *arg, const struct agent_frame *f)
{
	(void)arg;
	if (f && f->rc != 0)
		log_warn("cluster %s: %s: %s", c->ctx.conf->name, c->ctx.conf->directory, f->err);
}

static void come_up(struct cluster *c)
{
	struct remote_link *l = &c->link;
	struct strbuf dir = STRBUF_INIT, code = STRBUF_INIT;

	l->state = LINK_UP;
	l->up_at = c->now;
	l->down_since = 0;
	l->sftp_deaths = 0;
	remote_dir(c, 0, 0, NULL, &dir);
	strbuf_addstr(&code, "umask 077; d=");
	quote_sh_path(&code, dir.buf);
	strbuf_addstr(&code, "; mkdir -p \"$d/ends\" \"$d/runs\"");
	rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, 0, on_made_dirs, NULL);
	strbuf_release(&dir);
	strbuf_release(&code);
	start_sftp(c);
	rforward_link(c, l->t);
	say(c, true, false, c->describe ? c->describe(l->t) : "connected");
	rjobs_link_up(c);
	rruns_touch(c);
}

/* --- bytes --- */

static void read_noise(struct cluster *c, struct channel *ch)
{
	struct strbuf *sb = &c->link.noise;
	char buf[4096];
	ssize_t n;

	while ((n = c->top->read_stderr(ch, buf, sizeof(buf))) > 0) {
		c->link.heard_at = c->now;
		strbuf_add(sb, buf, (size_t)n);
		if (sb->len > NOISE_MAX)
			strbuf_remove(sb, 0, sb->len - NOISE_MAX);
	}
}

static void shell_ended(struct cluster *c, ssize_t rc)
{
	struct remote_link *l = &c->link;
	struct strbuf *noise = &l->noise;
	struct err *e = &l->fault;

	while (noise->len && strchr("\r\n ", noise->buf[noise->len - 1]))
		strbuf_setlen(noise, noise->len - 1);
	if (rc == -EMFILE)
		(void)err_set(e, -EMFILE, "the server allows no session for the remote shell (MaxSessions)");
	else if (l->state == LINK_HELLO)
		(void)err_set(e, -ECONNRESET, "the login shell ended before it ran anything%s%s",
			      noise->len ? ": " : "", noise->buf);
	else
		(void)err_set(e, -ECONNRESET, "the remote shell ended%s%s", noise->len ? ": " : "", noise->buf);
}

/* Bytes that were read; those of the shell's channel go to the agent. */
static size_t read_shell(struct cluster *c)
{
	struct remote_link *l = &c->link;
	char buf[READ_CHUNK];
	size_t total = 0;

	while (total < READ_ROUND && !l->fault.code) {
		ssize_t n = c->top->read(l->shell, buf, sizeof(buf));

		if (n == -EAGAIN)
			break;
		if (n <= 0) {
			read_noise(c, l->shell);
			shell_ended(c, n);
			break;
		}
		total += (size_t)n;
		l->heard_at = c->now;
		(void)agent_input(l->agent, buf, (size_t)n, &l->fault);
	}
	if (!l->fault.code)
		read_noise(c, l->shell);
	return total;
}

static void sftp_gone(struct cluster *c, ssize_t rc, const char *why)
{
	struct remote_link *l = &c->link;
	bool at_once = l->sftp_state == SFTP_OPENING;

	if (rc == -EMFILE || (at_once && (rc == 0 || rc == -EPROTO)) || ++l->sftp_deaths > SFTP_DEATHS) {
		no_sftp(c, rc == -EMFILE ? "the server allows one session only" : why);
		return;
	}
	drop_sftp(c);
	l->sftp_retry_at = c->now + (int64_t)USEC_PER_SEC;
}

static size_t read_sftp(struct cluster *c)
{
	struct remote_link *l = &c->link;
	char buf[READ_CHUNK];
	size_t total = 0;

	while (l->files && total < READ_ROUND) {
		ssize_t n = c->top->read(l->files, buf, sizeof(buf));
		struct err e = ERR_INIT;

		if (n == -EAGAIN)
			break;
		if (n <= 0) {
			sftp_gone(c, n, "the sftp subsystem is not there");
			break;
		}
		total += (size_t)n;
		l->heard_at = c->now;
		if (sftp_input(l->sftp, buf, (size_t)n, &e) < 0) {
			sftp_gone(c, -EPROTO, e.text);
			break;
		}
	}
	if (l->files) {
		while (c->top->read_stderr(l->files, buf, sizeof(buf)) > 0)
			;
		if (l->sftp_state == SFTP_OPENING && sftp_ready(l->sftp)) {
			l->sftp_state = SFTP_ON;
			rruns_touch(c);
		}
	}
	return total;
}

static size_t read_all(struct cluster *c)
{
	struct remote_link *l = &c->link;
	size_t n = 0;

	if (l->shell)
		n += read_shell(c);
	if (l->files && !l->fault.code)
		n += read_sftp(c);
	return n;
}

/* Negative: the channel is dead. */
static ssize_t write_out(struct cluster *c, struct channel *ch, struct strbuf *sb)
{
	size_t done = 0;
	ssize_t n = 0;

	while (done < sb->len) {
		n = c->top->write(ch, sb->buf + done, sb->len - done);
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	strbuf_remove(sb, 0, done);
	return n == -EAGAIN || n >= 0 ? 0 : n;
}

bool rlink_flush(struct cluster *c)
{
	struct remote_link *l = &c->link;
	ssize_t rc;

	if (l->shell && !l->fault.code) {
		rc = write_out(c, l->shell, agent_output(l->agent));
		if (rc < 0)
			shell_ended(c, rc);
	}
	if (l->files && !l->fault.code) {
		rc = write_out(c, l->files, sftp_output(l->sftp));
		if (rc < 0)
			sftp_gone(c, rc, "the sftp channel was closed");
	}
	/* A write may have taken packets off the socket that poll(2) will not announce again. */
	return read_all(c) > 0 || l->fault.code;
}

/* --- the step --- */

/* When the connection is given up unless something is heard: the first open request is overdue and all is silent. */
static int64_t silence_limit(const struct cluster *c)
{
	const struct remote_link *l = &c->link;
	int64_t due = INT64_MAX, quiet = l->heard_at + c->pace.answer_grace;

	for (const struct list *n = l->calls.next; n != &l->calls; n = n->next)
		due = earlier(due, container_of(n, const struct link_call, node)->due);
	return due > quiet ? due : quiet;
}

static void on_pong(struct cluster *c, void *arg, const struct agent_frame *f)
{
	(void)arg;
	(void)f;
	c->link.pinging = false;
}

/* Long requests may be silent for long: then something short tells whether the other side still answers. */
static int64_t ping_at(const struct cluster *c)
{
	const struct remote_link *l = &c->link;

	return list_empty(&l->calls) || l->pinging ? INT64_MAX : l->heard_at + c->pace.answer_grace / 2;
}

static bool calls_beside(const struct cluster *c)
{
	for (const struct list *n = c->link.calls.next; n != &c->link.calls; n = n->next)
		if (container_of(n, struct link_call, node)->beside)
			return true;
	return false;
}

static void keep_pace(struct cluster *c)
{
	struct remote_link *l = &c->link;
	int tick = default_tick(c);

	if (tick != l->tick_ms) {
		l->tick_ms = tick;
		agent_set_tick(l->agent, tick);
	}
	if (l->plain_sh && c->now >= l->tick_at) {
		agent_tick(l->agent);
		l->tick_at = c->now + (calls_beside(c) ? 30 : tick) * (int64_t)USEC_PER_MSEC;
	}
	if (l->sftp_state == SFTP_OFF && c->now >= l->sftp_retry_at)
		start_sftp(c);
	if (c->now >= ping_at(c)) {
		l->pinging = true;
		rlink_request(c, AGENT_QUICK, ":", NULL, 0, 0, on_pong, NULL);
	}
}

static void step_transport(struct cluster *c)
{
	struct err e = ERR_INIT;

	switch (c->top->step(c->link.t, &e)) {
	case TRANSPORT_CONNECTING:
		break;
	case TRANSPORT_READY:
		if (c->link.state == LINK_CONNECTING)
			start_shell(c);
		break;
	case TRANSPORT_DOWN:
		rlink_fail(c, e.text);
		break;
	case TRANSPORT_REFUSED:
		rlink_refuse(c, e.text);
		break;
	}
}

void rlink_step(struct cluster *c)
{
	struct remote_link *l = &c->link;

	if (l->state == LINK_DOWN && c->now >= l->retry_at)
		connect_now(c);
	if (l->t)
		step_transport(c);
	if (!l->t)
		return;
	(void)read_all(c);
	if (l->state == LINK_HELLO && !l->fault.code && agent_ready(l->agent))
		come_up(c);
	if (l->state == LINK_UP && !l->fault.code && !list_empty(&l->calls) && c->now > silence_limit(c))
		(void)err_set(&l->fault, -ETIMEDOUT, "the connection is there but nothing answers");
	if (l->fault.code) {
		char text[sizeof(l->fault.text)];

		memcpy(text, l->fault.text, sizeof(text));
		rlink_fail(c, text);
		return;
	}
	if (l->state == LINK_UP)
		keep_pace(c);
	else if (c->now >= l->limit_at)
		rlink_fail(c,
			   l->state == LINK_HELLO ? "the login shell did not start in time" : "no connection in time");
}

int64_t rlink_deadline(const struct cluster *c)
{
	const struct remote_link *l = &c->link;
	int64_t at;

	if (l->state == LINK_DOWN)
		return l->retry_at;
	if (!l->t)
		return INT64_MAX;
	at = c->top->next_deadline(l->t);
	if (l->state != LINK_UP)
		return earlier(at, l->limit_at);
	if (l->plain_sh)
		at = earlier(at, l->tick_at);
	if (l->sftp_state == SFTP_OFF)
		at = earlier(at, l->sftp_retry_at);
	if (!list_empty(&l->calls))
		at = earlier(at, earlier(ping_at(c), silence_limit(c) + 1));
	return at;
}

int rlink_poll_fd(struct cluster *c, short *events)
{
	return c->link.t ? c->top->poll_fd(c->link.t, events) : -1;
}

void rlink_init(struct cluster *c)
{
	list_init(&c->link.calls);
	strbuf_init(&c->link.noise);
	c->link.retry_at = c->now;
	c->link.down_since = c->now;
}

void rlink_release(struct cluster *c)
{
	teardown(c);
	strbuf_release(&c->link.noise);
}
