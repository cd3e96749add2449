/*
 * Packed environments on a cluster behind a transport. Runs that name the same archive wait for one struct renv, which
 * goes its way once: it is read (by the thread of envs_task.c), looked for on the cluster, sent from where an earlier
 * try stopped, verified and unpacked there. Then the runs are submitted, each with code in front that links to it.
 *
 * Invariants: an archive is on its way at most once, however many runs wait for it; a run that waits takes no place
 * among the submissions on their way. What is on its way names the renv by a serial that changes with each step, so
 * that late answers fall flat. A lost connection puts every step back to the look; what has arrived stays. Entries live
 * as long as the cluster; a file that changed is another entry.
 */
#include "backend/remote.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/base/quote.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define SFTP_PIECE 32768
#define SFTP_OPEN_PIECES 64
#define SHELL_PIECE ((size_t)256 * 1024)
#define SHELL_OPEN_PIECES 4
#define DAMAGED_MAX 3
#define SAID_EVERY (250 * (int64_t)USEC_PER_MSEC)
#define AGAIN_US (5 * (int64_t)USEC_PER_SEC)

enum renv_state {
	RE_READING,
	RE_LOOK, /* wants to be looked for */
	RE_LOOKING,
	RE_OPENING,
	RE_SENDING,
	RE_UNPACK, /* all of it is there */
	RE_UNPACKING,
	RE_READY,
	RE_FAILED, /* tell the runs that wait; the next one tries again */
};

struct renv {
	struct list node;
	enum envs_use use;
	int build_s;
	char *path, *platform;
	struct envs_identity identity;
	enum renv_state state;
	struct envs_archive archive;
	uint64_t serial;
	int64_t retry_at;
	unsigned damaged;
	struct strbuf why;
	struct strbuf trouble; /* of the last try, so that it is said once */
	/* sending */
	int fd;
	bool by_shell, ended;
	unsigned open;
	uint64_t sent;
	int64_t said_at; /* progress */
	bool moved;      /* bytes of it were sent in this life */
	struct strbuf handle;
};

struct rneeds {
	size_t n;
	struct envs_need *need;
	struct renv **env; /* NULL: not looked for yet */
};

struct env_op {
	struct cluster *c;
	uint64_t serial;
};

static void set_state(struct cluster *c, struct renv *v, enum renv_state state)
{
	v->state = state;
	v->serial = ++c->next_serial;
}

static struct env_op *new_op(struct cluster *c, const struct renv *v)
{
	struct env_op *op = xcalloc(1, sizeof(*op));

	op->c = c;
	op->serial = v->serial;
	return op;
}

/* The entry that still waits for this operation, or NULL. Frees the operation. */
static struct renv *op_env(struct env_op *op)
{
	struct list *n;
	struct cluster *c = op->c;
	uint64_t serial = op->serial;

	free(op);
	for (n = c->envs.next; n != &c->envs; n = n->next) {
		struct renv *v = container_of(n, struct renv, node);

		if (v->serial == serial)
			return v;
	}
	return NULL;
}

static struct envs_place place(const struct cluster *c, const struct renv *v)
{
	const char *slash = strrchr(v->path, '/');

	return (struct envs_place){ c->ctx.conf->directory,     c->uuid,   &v->archive, slash ? slash + 1 : v->path,
				    c->ctx.conf->env_quota_kib, v->build_s };
}

static void stop_sending(struct cluster *c, struct renv *v)
{
	if (v->handle.len && c->link.sftp)
		sftp_close(c->link.sftp, v->handle.buf, v->handle.len);
	strbuf_reset(&v->handle);
	if (v->fd >= 0)
		(void)close(v->fd);
	v->fd = -1;
	v->open = 0;
}

static bool wants(const struct rrun *r, const struct renv *v)
{
	for (size_t i = 0; r->needs && i < r->needs->n; i++)
		if (r->needs->env[i] == v)
			return true;
	return false;
}

/* Runs that wait look again. */
static void wake(struct cluster *c, const struct renv *v)
{
	for (struct list *n = c->submit_queue.next; n != &c->submit_queue; n = n->next) {
		struct rrun *r = container_of(n, struct rrun, queue);

		if (wants(r, v))
			r->env_waits = false;
	}
}

/* How far all that a run waits for has come, now and then. */
static void say_sent(struct cluster *c, struct renv *v, bool last)
{
	if (!last && v->said_at && c->now - v->said_at < SAID_EVERY)
		return;
	v->said_at = c->now;
	for (struct list *n = c->submit_queue.next; n != &c->submit_queue; n = n->next) {
		struct rrun *r = container_of(n, struct rrun, queue);
		struct crep *p;

		if (!wants(r, v))
			continue;
		p = crep_new(CREP_SENT, c);
		p->run = r->num;
		p->attempt = r->attempt;
		for (size_t i = 0; i < r->needs->n; i++) {
			const struct renv *o = r->needs->env[i];
			uint64_t open = o && o->state == RE_SENDING
						? (uint64_t)o->open * (o->by_shell ? SHELL_PIECE : SFTP_PIECE)
						: 0;

			if (!o || !o->moved)
				continue;
			p->bytes += o->sent > open ? o->sent - open : 0;
			p->all += o->archive.size;
		}
		inbox_post(c->ctx.replies, &p->m);
	}
}

/* The lost connection is no news; anything else is said once. */
static void look_later(struct cluster *c, struct renv *v, const char *why)
{
	stop_sending(c, v);
	set_state(c, v, RE_LOOK);
	v->retry_at = c->now;
	if (!why)
		return;
	v->retry_at += AGAIN_US;
	if (strcmp(v->trouble.buf, why) == 0)
		return;
	log_warn("cluster %s: environment %s: %s", c->ctx.conf->name, v->path, why);
	strbuf_reset(&v->trouble);
	strbuf_addstr(&v->trouble, why);
	for (struct list *n = c->submit_queue.next; n != &c->submit_queue; n = n->next) {
		struct rrun *r = container_of(n, struct rrun, queue);

		if (wants(r, v))
			rrun_event(c, r, EV_FACTS, "environment", json_pack("{s:s?}", "submit_trouble", why));
	}
}

static void failed(struct cluster *c, struct renv *v, const char *why)
{
	stop_sending(c, v);
	strbuf_reset(&v->why);
	if (strncmp(why, "environment: ", 13) != 0)
		strbuf_addf(&v->why, "%s %s: ", envs_use_words(v->use), v->path);
	strbuf_addstr(&v->why, why);
	while (v->why.len && strchr("\n ", v->why.buf[v->why.len - 1]))
		strbuf_setlen(&v->why, v->why.len - 1);
	log_warn("cluster %s: %s", c->ctx.conf->name, v->why.buf);
	v->damaged = 0; /* the next run begins anew */
	set_state(c, v, RE_FAILED);
	wake(c, v);
}

/* --- reading --- */

static void start_reading(struct cluster *c, struct renv *v)
{
	struct envs_task *t;

	if (!c->envs_worker)
		c->envs_worker = envs_worker_new();
	set_state(c, v, RE_READING);
	if (!c->envs_worker) {
		failed(c, v, "there is no thread to read it");
		return;
	}
	t = envs_task_new(ENVS_READ, &c->inbox, v->serial);
	t->path = xstrdup(v->path);
	t->use = v->use;
	envs_worker_post(c->envs_worker, t);
}

void renvs_task_done(struct cluster *c, struct envs_task *t)
{
	struct env_op *op = xcalloc(1, sizeof(*op));
	struct renv *v;

	op->c = c;
	op->serial = t->serial;
	v = op_env(op);
	if (!v || v->state != RE_READING)
		return;
	if (t->e.code) {
		failed(c, v, t->e.text);
		return;
	}
	v->identity = t->identity;
	v->archive = t->archive;
	set_state(c, v, RE_LOOK);
	v->retry_at = c->now;
}

/* --- unpacking --- */

static void on_unpacked(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct renv *v = op_env(arg);

	if (!v)
		return;
	if (!f) {
		look_later(c, v, NULL);
	} else if (f->rc == 0) {
		strbuf_reset(&v->trouble);
		v->damaged = 0;
		set_state(c, v, RE_READY);
		wake(c, v);
	} else if (f->rc == ENVS_RC_UNFIT) {
		failed(c, v, *f->out ? f->out : "it cannot be used");
	} else if (f->rc == ENVS_RC_DAMAGED && ++v->damaged >= DAMAGED_MAX) {
		failed(c, v, "it does not arrive as it is here: was it changed, or is the disk there bad?");
	} else if (f->rc == ENVS_RC_DAMAGED) {
		start_reading(c, v);
	} else if (f->rc == 124) {
		failed(c, v,
		       v->use == ENVS_BUILD ? "its build took too long" : "it was not unpacked within half an hour");
	} else {
		look_later(c, v, *f->out ? f->out : *f->err ? f->err : "it could not be unpacked");
	}
}

static void start_unpacking(struct cluster *c, struct renv *v)
{
	cleanup_strbuf struct strbuf text = STRBUF_INIT, code = STRBUF_INIT;
	const struct envs_place p = place(c, v);
	bool check = !v->platform || strcmp(v->platform, "any") != 0;

	envs_unpack_code(&p, NULL, check, &text);
	/* a shell of its own, whose number names the owner of the lock */
	strbuf_addstr(&code, "exec sh -c ");
	quote_sh(&code, text.buf);
	set_state(c, v, RE_UNPACKING);
	rlink_request(c, AGENT_BESIDE, code.buf, NULL, 0, envs_limit(&p), on_unpacked, new_op(c, v));
}

/* --- sending --- */

static void send_more(struct cluster *c, struct renv *v);

static void piece_done(struct cluster *c, struct renv *v, int code, const char *text)
{
	v->open--;
	if (code == -ECONNRESET)
		look_later(c, v, NULL);
	else if (code)
		look_later(c, v, *text ? text : strerror(-code));
	else
		send_more(c, v);
}

static void on_sftp_written(void *arg, const struct sftp_reply *rep)
{
	struct cluster *c = ((struct env_op *)arg)->c;
	struct renv *v = op_env(arg);

	if (v)
		piece_done(c, v, rep->code, rep->text);
}

static void on_shell_written(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct renv *v = op_env(arg);

	if (v)
		piece_done(c, v, !f ? -ECONNRESET : f->rc ? -EIO : 0, f ? f->err : "");
}

static void send_piece(struct cluster *c, struct renv *v, const char *data, size_t len)
{
	const struct envs_place p = place(c, v);
	cleanup_strbuf struct strbuf part = STRBUF_INIT, code = STRBUF_INIT;

	if (v->by_shell) {
		envs_part(&p, &part);
		strbuf_addstr(&code, "umask 077; cat <\"$IN\" >>");
		quote_sh_path(&code, part.buf);
		rlink_request(c, AGENT_QUICK, code.buf, data, len, 0, on_shell_written, new_op(c, v));
	} else {
		sftp_write(c->link.sftp, v->handle.buf, v->handle.len, v->sent, data, len, on_sftp_written,
			   new_op(c, v));
	}
	v->sent += len;
	v->open++;
}

static void send_more(struct cluster *c, struct renv *v)
{
	size_t piece = v->by_shell ? SHELL_PIECE : SFTP_PIECE;
	cleanup_free char *buf = xmalloc(piece);

	say_sent(c, v, v->ended && !v->open);
	while (!v->ended && v->open < (v->by_shell ? SHELL_OPEN_PIECES : SFTP_OPEN_PIECES)) {
		ssize_t n = pread(v->fd, buf, piece, (off_t)v->sent);

		if (n < 0) {
			failed(c, v, "it cannot be read");
			return;
		}
		if (n > 0)
			send_piece(c, v, buf, (size_t)n);
		v->ended = n == 0 || v->sent >= v->archive.size;
	}
	if (!v->ended || v->open)
		return;
	stop_sending(c, v);
	set_state(c, v, RE_UNPACK);
}

static void on_sftp_opened(void *arg, const struct sftp_reply *rep)
{
	struct cluster *c = ((struct env_op *)arg)->c;
	struct renv *v = op_env(arg);

	if (!v)
		return;
	if (rep->code) {
		look_later(c, v, rep->code == -ECONNRESET ? NULL : rep->text);
		return;
	}
	strbuf_add(&v->handle, rep->data, rep->len);
	v->state = RE_SENDING;
	send_more(c, v);
}

static void start_sending(struct cluster *c, struct renv *v, uint64_t have)
{
	const struct envs_place p = place(c, v);
	cleanup_strbuf struct strbuf part = STRBUF_INIT;
	size_t cut;

	v->fd = open(v->path, O_RDONLY | O_CLOEXEC);
	if (v->fd < 0) {
		failed(c, v, "it cannot be read");
		return;
	}
	log_info("cluster %s: environment %s: sending %llu of %llu bytes", c->ctx.conf->name, v->path,
		 (unsigned long long)(v->archive.size - have), (unsigned long long)v->archive.size);
	v->sent = have;
	v->moved = true;
	v->ended = false;
	v->open = 0;
	v->by_shell = c->link.sftp_state == SFTP_DENIED;
	set_state(c, v, v->by_shell ? RE_SENDING : RE_OPENING);
	if (v->by_shell) {
		send_more(c, v);
		return;
	}
	envs_part(&p, &part);
	cut = strncmp(part.buf, "~/", 2) == 0 ? 2 : 0; /* sftp starts in the home directory */
	sftp_open_write(c->link.sftp, part.buf + cut, 0600, false, on_sftp_opened, new_op(c, v));
}

/* --- looking --- */

static bool fits(struct cluster *c, struct renv *v, const struct envs_look *look)
{
	struct err e = ERR_INIT;
	const char *platform = v->platform ? v->platform : v->archive.platform;

	if (envs_fits(platform, look->machine, look->libc, &e) == 0)
		return true;
	failed(c, v, e.text);
	return false;
}

static void on_looked(struct cluster *c, void *arg, const struct agent_frame *f)
{
	struct renv *v = op_env(arg);
	struct envs_look look;

	if (!v)
		return;
	if (!f) {
		look_later(c, v, NULL);
	} else if (f->rc != 0 || envs_look_read(f->out, &look) < 0) {
		look_later(c, v, *f->err ? f->err : "the cluster gave no answer that makes sense");
	} else if (!fits(c, v, &look)) {
		return;
	} else if (look.complete) {
		set_state(c, v, RE_READY);
		wake(c, v);
	} else if (look.whole || look.have == v->archive.size) {
		set_state(c, v, RE_UNPACK);
	} else if (!rlink_files_ready(c)) {
		look_later(c, v, NULL);
	} else {
		start_sending(c, v, look.have);
	}
}

static void start_looking(struct cluster *c, struct renv *v)
{
	const struct envs_place p = place(c, v);
	cleanup_strbuf struct strbuf code = STRBUF_INIT;

	envs_look_code(&p, &code);
	set_state(c, v, RE_LOOKING);
	rlink_request(c, AGENT_QUICK, code.buf, NULL, 0, 0, on_looked, new_op(c, v));
}

/*
 * Another entry brings the same archive (a copy of the file, or another platform asked for). Two that send would write
 * into one part file: the shell appends to it.
 */
static bool other_brings_it(const struct cluster *c, const struct renv *v)
{
	for (const struct list *n = c->envs.next; n != &c->envs; n = n->next) {
		const struct renv *o = container_of(n, const struct renv, node);

		if (o != v && o->state > RE_LOOK && o->state < RE_READY && strcmp(o->archive.key, v->archive.key) == 0)
			return true;
	}
	return false;
}

void renvs_step(struct cluster *c)
{
	if (!rlink_up(c))
		return;
	for (struct list *n = c->envs.next; n != &c->envs; n = n->next) {
		struct renv *v = container_of(n, struct renv, node);

		if (v->state == RE_LOOK && v->retry_at <= c->now && rlink_files_ready(c) && !other_brings_it(c, v))
			start_looking(c, v);
		else if (v->state == RE_UNPACK)
			start_unpacking(c, v);
	}
}

int64_t renvs_deadline(const struct cluster *c)
{
	int64_t at = INT64_MAX;

	for (const struct list *n = c->envs.next; n != &c->envs && rlink_files_ready(c); n = n->next) {
		const struct renv *v = container_of(n, const struct renv, node);

		if (v->state == RE_LOOK && !other_brings_it(c, v))
			at = earlier(at, v->retry_at);
		else if (v->state == RE_UNPACK)
			at = 0;
	}
	return at;
}

/* --- runs --- */

static bool same_platform(const char *a, const char *b)
{
	return (!a && !b) || (a && b && strcmp(a, b) == 0);
}

static struct renv *find(struct cluster *c, const struct envs_need *need, const struct envs_identity *id)
{
	for (struct list *n = c->envs.next; n != &c->envs; n = n->next) {
		struct renv *v = container_of(n, struct renv, node);

		if (v->use == need->use && strcmp(v->path, need->path) == 0 && envs_same(&v->identity, id) &&
		    same_platform(v->platform, need->platform))
			return v;
	}
	return NULL;
}

static struct renv *add(struct cluster *c, const struct envs_need *need, const struct envs_identity *id)
{
	struct renv *v = xcalloc(1, sizeof(*v));

	v->use = need->use;
	v->path = xstrdup(need->path);
	v->platform = xstrdup(need->platform);
	v->identity = *id;
	v->fd = -1;
	strbuf_init(&v->why);
	strbuf_init(&v->trouble);
	strbuf_init(&v->handle);
	list_add_tail(&c->envs, &v->node);
	start_reading(c, v);
	return v;
}

static int look_for(struct cluster *c, const struct envs_need *need, struct renv **out, struct err *e)
{
	struct envs_identity id;
	int rc = envs_identify(need->path, &id, e);

	if (rc < 0)
		return rc;
	*out = find(c, need, &id);
	if (!*out)
		*out = add(c, need, &id);
	else if ((*out)->state == RE_FAILED)
		start_reading(c, *out);
	(*out)->build_s = need->build_s;
	return 0;
}

static void needs_of(struct rrun *r)
{
	struct rneeds *l = xcalloc(1, sizeof(*l));

	l->need = envs_needs(r->job, true, &l->n);
	l->env = xcalloc(l->n + 1, sizeof(struct renv *));
	r->needs = l;
}

void renvs_run_release(struct rrun *r)
{
	if (!r->needs)
		return;
	envs_needs_free(r->needs->need, r->needs->n);
	free(r->needs->env);
	free(r->needs);
	r->needs = NULL;
}

bool renvs_any(struct rrun *r)
{
	if (r->job && !r->needs)
		needs_of(r);
	return r->needs && r->needs->n;
}

bool renvs_has(const struct rrun *r, const char *path)
{
	return r->needs && envs_needs_has(r->needs->need, r->needs->n, path);
}

bool renvs_copies(const struct rrun *r)
{
	for (size_t i = 0; r->needs && i < r->needs->n; i++)
		if (r->needs->need[i].copy)
			return true;
	return false;
}

int renvs_wait(struct cluster *c, struct rrun *r, struct err *e)
{
	bool waits = false;
	int rc = 0;

	if (!renvs_any(r))
		return 0;
	for (size_t i = 0; i < r->needs->n && rc == 0; i++) {
		struct renv **v = &r->needs->env[i];

		if (!*v)
			rc = look_for(c, &r->needs->need[i], v, e);
		if (rc == 0 && (*v)->state == RE_FAILED)
			rc = err_set(e, -EINVAL, "%s", (*v)->why.buf);
		waits = waits || (rc == 0 && (*v)->state != RE_READY);
	}
	if (rc < 0)
		renvs_run_release(r); /* the next try begins anew */
	r->env_waits = rc == 0 && waits;
	return rc < 0 ? rc : waits;
}

void renvs_link(const struct cluster *c, const struct rrun *r, struct strbuf *code)
{
	cleanup_strbuf struct strbuf dir = STRBUF_INIT;
	cleanup_free char *mark = xasprintf("%s.%u.a%u", c->uuid, r->num, r->attempt);

	remote_dir(c, r->num, r->attempt, NULL, &dir);
	for (size_t i = 0; r->needs && i < r->needs->n; i++) {
		struct envs_place p;

		if (!r->needs->env[i])
			continue;
		p = place(c, r->needs->env[i]);
		envs_link_code(&p, dir.buf, r->needs->need[i].link, mark, code);
	}
}

void renvs_copy(const struct cluster *c, const struct rrun *r, struct strbuf *code)
{
	for (size_t i = 0; r->needs && i < r->needs->n; i++) {
		const struct envs_need *need = &r->needs->need[i];
		struct envs_place p;

		if (!need->copy || !r->needs->env[i])
			continue;
		p = place(c, r->needs->env[i]);
		envs_copy_code(&p, need->copy, need->mode, need->mtime, code);
	}
}

bool renvs_gone(struct cluster *c, struct rrun *r, int rc)
{
	if (!r->needs || !r->needs->n || rc != ENVS_RC_GONE)
		return false;
	for (size_t i = 0; i < r->needs->n; i++)
		if (r->needs->env[i] && r->needs->env[i]->state == RE_READY)
			look_later(c, r->needs->env[i], NULL);
	return true;
}

void renvs_release(struct cluster *c)
{
	struct list *n;

	envs_worker_free(c->envs_worker);
	c->envs_worker = NULL;
	while ((n = list_pop(&c->envs))) {
		struct renv *v = container_of(n, struct renv, node);

		if (v->fd >= 0)
			(void)close(v->fd);
		strbuf_release(&v->why);
		strbuf_release(&v->trouble);
		strbuf_release(&v->handle);
		free(v->path);
		free(v->platform);
		free(v);
	}
}
