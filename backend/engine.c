/*
 * The engine's registry and its life: which runs there are, which clusters run, what arrives in the inbox.
 *
 * Invariants: every run that others can see has its creation in the journal; `order` holds each visible or
 * pending run once, by ascending number; a ticket is answered once.
 */
#include "backend/engine_private.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"
#include "backend/spool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* --- runs --- */

struct erun *erun_new(struct run *r)
{
	struct erun *er = xcalloc(1, sizeof(*er));

	er->r = r;
	list_init(&er->queue);
	list_init(&er->created);
	list_init(&er->decided);
	list_init(&er->verb_waiters);
	return er;
}

static void waiters_free(struct list *l)
{
	struct list *n;

	while ((n = list_pop(l)))
		free(container_of(n, struct waiter, node));
}

void erun_free(struct erun *er)
{
	struct list *n;

	while ((n = list_pop(&er->queue))) {
		struct queued *q = container_of(n, struct queued, node);

		if (q->call.drop)
			q->call.drop(q->call.arg);
		event_free(q->ev);
		store_txn_free(q->txn);
		free(q);
	}
	for (char **d = er->after; d && *d; d++)
		free(*d);
	free(er->after);
	engine_inputs_release(er);
	waiters_free(&er->created);
	waiters_free(&er->decided);
	waiters_free(&er->verb_waiters);
	free(er->session);
	json_decref(er->leases);
	event_free(er->held_end);
	run_free(er->r);
	free(er->directory);
	free(er->scratch);
	free(er->gate);
	free(er->verb_text);
	free(er);
}

struct erun *engine_find(const struct engine *en, uint32_t num)
{
	struct hmap_node *n = hmap_first(&en->by_num, hash_u64(num));

	for (; n; n = hmap_next(n)) {
		struct erun *er = container_of(n, struct erun, by_num);

		if (er->r->num == num)
			return er;
	}
	return NULL;
}

struct erun *engine_find_id(const struct engine *en, const char *id)
{
	struct hmap_node *n = hmap_first(&en->by_id, hash_str(id));

	for (; n; n = hmap_next(n)) {
		struct erun *er = container_of(n, struct erun, by_id);

		if (strcmp(er->r->id, id) == 0)
			return er;
	}
	return NULL;
}

/* Index of the first run whose number is greater than `after`. */
static size_t order_above(const struct engine *en, uint32_t after)
{
	size_t lo = 0, hi = en->n_order;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (en->order[mid]->r->num > after)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

void engine_add(struct engine *en, struct erun *er)
{
	size_t at = order_above(en, er->r->num);

	if (en->n_order == en->cap_order) {
		en->cap_order = en->cap_order ? en->cap_order * 2 : 64;
		en->order = xrealloc(en->order, en->cap_order * sizeof(struct erun *));
	}
	memmove(en->order + at + 1, en->order + at, (en->n_order - at) * sizeof(struct erun *));
	en->order[at] = er;
	en->n_order++;
	hmap_insert(&en->by_num, &er->by_num, hash_u64(er->r->num));
	hmap_insert(&en->by_id, &er->by_id, hash_str(er->r->id));
}

void engine_remove(struct engine *en, struct erun *er)
{
	size_t at = order_above(en, er->r->num) - 1;

	memmove(en->order + at, en->order + at + 1, (en->n_order - at - 1) * sizeof(struct erun *));
	en->n_order--;
	hmap_remove(&en->by_num, &er->by_num);
	hmap_remove(&en->by_id, &er->by_id);
}

const struct run *engine_run(const struct engine *en, uint32_t num)
{
	struct erun *er = engine_find(en, num);

	return er && er->visible ? er->r : NULL;
}

const struct run *engine_run_by_id(const struct engine *en, const char *id)
{
	struct erun *er = engine_find_id(en, id);

	return er && er->visible ? er->r : NULL;
}

const struct run *engine_next(const struct engine *en, uint32_t after)
{
	for (size_t i = order_above(en, after); i < en->n_order; i++)
		if (en->order[i]->visible)
			return en->order[i]->r;
	return NULL;
}

/* When a run got its spec: a draft may have waited for it, and others were numbered meanwhile. 0: it is a draft. */
static int64_t submitted_at(const struct run *r)
{
	for (size_t i = 0; i < r->n_history; i++)
		if (r->history[i].to == RUN_QUEUED)
			return r->history[i].time;
	return 0;
}

void engine_find_last(struct engine *en)
{
	int64_t newest = 0;

	en->last = 0;
	for (size_t i = 0; i < en->n_order; i++) {
		int64_t at = en->order[i]->visible ? submitted_at(en->order[i]->r) : 0;

		if (at && at >= newest) {
			newest = at;
			en->last = en->order[i]->r->num;
		}
	}
}

const struct run *engine_last(const struct engine *en)
{
	return en->last ? engine_run(en, en->last) : NULL;
}

size_t engine_count(const struct engine *en)
{
	return en->n_order;
}

size_t engine_creating(const struct engine *en)
{
	return en->n_creating;
}

const char *engine_gate(const struct engine *en, uint32_t num)
{
	struct erun *er = engine_find(en, num);

	return er ? er->gate : NULL;
}

const struct config *engine_config(const struct engine *en)
{
	return en->conf.config;
}

const char *engine_uuid(const struct engine *en)
{
	return en->uuid;
}

const char *engine_trouble(const struct engine *en)
{
	return en->trouble ? en->trouble : "";
}

void engine_observe(struct engine *en, const struct engine_observer *ob)
{
	en->ob = *ob;
}

void engine_changed(struct engine *en, struct erun *er)
{
	if (er->visible && en->ob.run_changed)
		en->ob.run_changed(en->ob.arg, er->r);
}

void engine_files_dir(const struct engine *en, uint32_t num, struct strbuf *out)
{
	strbuf_addf(out, "%s/files/%u", en->state_dir, num);
}

/* --- tickets and repeated requests --- */

struct pending *engine_pending(struct engine *en, enum pending_kind kind, uint32_t run, uint64_t *ticket)
{
	struct pending *p = xcalloc(1, sizeof(*p));

	p->kind = kind;
	p->run = run;
	*ticket = ++en->next_ticket;
	hmap_insert(&en->pending, &p->by_ticket, *ticket);
	return p;
}

void pending_free(struct pending *p)
{
	event_free(p->ev);
	run_free(p->docs);
	free(p->result);
	free(p);
}

static struct pending *take_pending(struct engine *en, uint64_t ticket)
{
	struct hmap_node *n = hmap_first(&en->pending, ticket);

	if (!n)
		return NULL;
	hmap_remove(&en->pending, n);
	return container_of(n, struct pending, by_ticket);
}

void engine_remember(struct engine *en, uint64_t request, const char *result)
{
	struct seen *s;

	if (!request)
		return;
	s = xcalloc(1, sizeof(*s));
	s->result = xstrdup(result);
	hmap_insert(&en->seen, &s->node, request);
}

const char *engine_recall(const struct engine *en, uint64_t request)
{
	struct hmap_node *n = request ? hmap_first(&en->seen, request) : NULL;

	return n ? container_of(n, struct seen, node)->result : NULL;
}

/* --- clusters --- */

struct ecluster *engine_cluster(const struct engine *en, const char *name)
{
	for (size_t i = 0; name && i < en->n_clusters; i++)
		if (strcmp(en->clusters[i].conf->name, name) == 0)
			return &en->clusters[i];
	return NULL;
}

const struct engine_link *engine_cluster_link(const struct engine *en, const char *name)
{
	struct ecluster *ec = engine_cluster(en, name);

	return ec ? &ec->link : NULL;
}

int engine_cluster_verb(struct engine *en, const char *cluster, const char *verb, struct err *e)
{
	struct ecluster *ec = engine_cluster(en, cluster);

	if (!ec)
		return err_set(e, -ENOENT, "there is no cluster %s in the configuration", cluster);
	if (strcmp(verb, "reconnect") != 0)
		return err_set(e, -EINVAL, "unknown verb '%s': clusters/%s/ctl knows: reconnect", verb, cluster);
	ec->ops->post(ec->c, creq_new(CREQ_RECONNECT, 0, 0, 0));
	return 0;
}

static int start_clusters(struct engine *en, struct err *e)
{
	const struct config *cf = en->conf.config;

	en->clusters = xcalloc(cf->n_clusters, sizeof(*en->clusters));
	for (size_t i = 0; i < cf->n_clusters; i++) {
		struct ecluster *ec = &en->clusters[en->n_clusters];
		struct cluster_ctx ctx = { cf->clusters[i], en->clock, en->uuid, en->state_dir, &en->inbox };
		int rc;

		ec->conf = cf->clusters[i];
		ec->ops = (en->conf.find ? en->conf.find : cluster_ops_find)(ec->conf->type);
		if (!ec->ops)
			return err_set(e, -EINVAL, "cluster %s: its type is not supported by this version",
				       ec->conf->name);
		(void)snprintf(ec->link.text, sizeof(ec->link.text), "not connected yet");
		ec->link.asking = true;
		ec->link.since = clock_real(en->clock);
		rc = ec->ops->start(&ctx, &ec->c, e);
		if (rc < 0)
			return err_wrap(e, "cluster %s", ec->conf->name);
		en->n_clusters++;
	}
	return 0;
}

/* --- what arrives --- */

static void on_store(struct engine *en, struct store_msg *m)
{
	struct pending *p;

	engine_feed_grew(en, m->feed);
	if (m->m.type == STORE_FEED)
		return;
	if (m->m.type == STORE_TROUBLE) {
		str_set(&en->trouble, m->code ? m->text : NULL);
		log_warn("journal: %s", m->code ? m->text : "works again");
		return;
	}
	p = take_pending(en, m->ticket);
	if (!p)
		return;
	switch (p->kind) {
	case PENDING_CREATE:
		engine_created(en, p, m->code);
		break;
	case PENDING_EVENT:
		engine_committed(en, p, m->code);
		break;
	case PENDING_PURGE:
		engine_purged(en, p, m->code);
		break;
	case PENDING_FEED:
		engine_fed(en, p, m->code);
		break;
	case PENDING_HOOK:
		engine_hook_posted(en);
		pending_free(p);
		break;
	case PENDING_REFUSAL: /* refused it is, even when the journal could not take the row */
		if (p->done)
			p->done(p->arg, p->code, p->result);
		pending_free(p);
		break;
	case PENDING_DOC:
		p->doc(p->arg, m->text ? 0 : (m->code ? m->code : -ENOENT), m->text ? m->text : "", m->len);
		pending_free(p);
		break;
	default:
		pending_free(p);
	}
}

/* What could not be sent while the cluster was away (a cancel) is sent now. */
static void resend(struct engine *en, const struct ecluster *ec)
{
	for (size_t i = 0; i < en->n_order; i++) {
		struct erun *er = en->order[i];

		if (run_is_live(er->r) && er->r->cluster && strcmp(er->r->cluster, ec->conf->name) == 0)
			engine_act(en, er);
	}
}

static void on_link(struct engine *en, const struct crep *rep)
{
	for (size_t i = 0; i < en->n_clusters; i++) {
		struct ecluster *ec = &en->clusters[i];

		if (ec->c != rep->from)
			continue;
		if (ec->link.up != rep->up)
			ec->link.since = clock_real(en->clock);
		ec->link.up = rep->up;
		ec->link.asking = rep->asking;
		(void)snprintf(ec->link.text, sizeof(ec->link.text), "%s", rep->text ? rep->text : "");
		if (rep->up)
			resend(en, ec);
		if (rep->up)
			engine_act_gated(en); /* inputs of runs elsewhere may be here */
		log_info("cluster %s: %s: %s", ec->conf->name, rep->up ? "up" : "down", ec->link.text);
	}
}

static void on_log(struct engine *en, struct erun *er, const struct crep *rep)
{
	struct run *r = er->r;

	er->spooled_out = (uint64_t)rep->out_len;
	er->spooled_err = (uint64_t)rep->err_len;
	er->logs_last = er->logs_last || rep->last;
	er->events_last = er->events_last || rep->events_last;
	engine_feed(en, er);
	engine_end_ready(en, er);
	if (er->visible && en->ob.log_grew)
		en->ob.log_grew(en->ob.arg, r);
	engine_logs_done(en, er);
}

static void on_listing(struct engine *en, struct erun *er, const struct crep *rep)
{
	if (er->visible && en->ob.listed && run_is_live(er->r) && rep->attempt == er->r->attempt)
		en->ob.listed(en->ob.arg, er->r, (int)rep->area, rep->whole, rep->began, rep->data, rep->len);
}

void engine_replied(struct engine *en, uint64_t ticket, int code, const char *text, const char *data, size_t len)
{
	struct pending *p = take_pending(en, ticket);
	struct erun *er;

	if (!p)
		return;
	if (p->kind == PENDING_DATA) {
		p->data(p->arg, code, text, data, len);
	} else if (p->kind == PENDING_VERB) {
		er = engine_find(en, p->run);
		if (er)
			engine_verb_reply(en, er, ticket, p->result, code, text);
	}
	pending_free(p);
}

static void on_cluster(struct engine *en, struct crep *rep)
{
	struct erun *er = rep->run ? engine_find(en, rep->run) : NULL;

	switch (rep->m.type) {
	case CREP_LINK:
		on_link(en, rep);
		break;
	case CREP_REPLY:
		engine_replied(en, rep->ticket, rep->code, rep->text ? rep->text : "", rep->data ? rep->data : "",
			       rep->len);
		break;
	case CREP_LOG:
		if (er)
			on_log(en, er, rep);
		break;
	case CREP_EVENT:
		if (er && rep->ev) {
			engine_report(en, er, rep->ev);
			rep->ev = NULL;
		}
		break;
	case CREP_SENT:
		if (er && er->r->attempt == rep->attempt) {
			er->sent = rep->bytes;
			er->sent_all = rep->all;
		}
		break;
	case CREP_LISTING:
		if (er)
			on_listing(en, er, rep);
		break;
	default:
		break;
	}
}

int engine_fd(const struct engine *en)
{
	return inbox_fd(&en->inbox);
}

void engine_step(struct engine *en)
{
	struct list in = LIST_INIT(in);
	struct list *n;

	inbox_take(&en->inbox, &in);
	while ((n = list_pop(&in))) {
		struct msg *m = container_of(n, struct msg, node);

		if (m->type >= CREP_EVENT)
			on_cluster(en, container_of(m, struct crep, m));
		else if (m->type == HOOK_TOLD)
			engine_hook_told(en, container_of(m, struct hook_msg, m)->at);
		else
			on_store(en, container_of(m, struct store_msg, m));
		msg_release(m);
	}
}

/* --- start and end --- */

static bool is_running(const struct run *r)
{
	enum run_status s = r->status == RUN_UNKNOWN ? r->before_unknown : r->status;

	return s == RUN_RUNNING || s == RUN_COMPLETING;
}

/* What runs is told first: a cluster that shares out this machine's cores must know of it before it starts more. */
static void first_actions(struct engine *en)
{
	struct store_txn *t = store_txn_new(0, false);

	store_txn_mount(t, en->conf.mount_id);
	store_post(en->store, t);
	for (size_t i = 0; i < en->n_order; i++)
		engine_inputs_recall(en, en->order[i]);
	for (size_t i = 0; i < en->n_order; i++)
		if (is_running(en->order[i]->r))
			engine_act(en, en->order[i]);
	for (size_t i = 0; i < en->n_order; i++)
		if (!is_running(en->order[i]->r))
			engine_act(en, en->order[i]);
	engine_secrets_remind(en);
	engine_clean_remind(en);
	engine_feed_all(en);
}

/*
 * What a killed worker wrote into a log but did not count becomes visible when its spool is opened for writing
 * (spool.h). The clusters do so only when they have something to write, and one that is away has not.
 */
static void repair_spools(struct engine *en)
{
	for (size_t i = 0; i < en->n_order; i++) {
		const struct run *r = en->order[i]->r;
		cleanup_free char *dir = xasprintf("%s/%u", en->spool_dir, r->num);
		struct err e = ERR_INIT;
		struct events *ev;
		struct spool *s;

		if (!r->attempt || (!run_is_live(r) && run_fact(r, "logs")) || access(dir, F_OK) < 0)
			continue;
		if (spool_open(en->spool_dir, r->num, &s, &e) < 0)
			log_warn("run %s: %s", r->id, e.text);
		else
			spool_close(s);
		if (!engine_has_pipes(r))
			continue;
		if (events_open(en->spool_dir, r->num, &ev, &e) < 0)
			log_warn("run %s: %s", r->id, e.text);
		else
			events_close(ev);
	}
}

int engine_create(const struct engine_conf *conf, struct engine **out, struct err *e)
{
	struct engine *en = xcalloc(1, sizeof(*en));
	int rc;

	en->conf = *conf;
	en->clock = conf->clock;
	en->state_dir = xstrdup(conf->state_dir);
	en->spool_dir = xasprintf("%s/spool", conf->state_dir);
	en->next_num = 1;
	en->feed_fd = -1;
	en->hook_at = -1;
	strbuf_init(&en->rejected);
	hmap_init(&en->by_num);
	hmap_init(&en->by_id);
	hmap_init(&en->pending);
	hmap_init(&en->seen);
	hmap_init(&en->keys);
	rc = inbox_init(&en->inbox);
	if (rc < 0) {
		err_sys(e, rc, "cannot make an event descriptor");
		en->inbox.fd = -1;
		goto fail;
	}
	(void)mkdir(en->spool_dir, 0700);
	rc = store_open(en->state_dir, en->clock, &en->store, en->uuid, e);
	if (rc == 0)
		rc = engine_load(en, e);
	if (rc == 0)
		rc = engine_feed_open(en, e);
	if (rc == 0)
		repair_spools(en);
	if (rc == 0)
		engine_secrets_sweep(en);
	if (rc == 0)
		rc = store_start(en->store, &en->inbox, e);
	if (rc == 0)
		rc = engine_hook_start(en, e);
	if (rc == 0)
		rc = start_clusters(en, e);
	if (rc < 0)
		goto fail;
	engine_sessions_load(en);
	first_actions(en);
	*out = en;
	return 0;
fail:
	engine_free(en, 1000);
	return rc;
}

static void free_maps(struct engine *en)
{
	struct hmap_node *n;

	while ((n = hmap_walk(&en->pending, NULL))) {
		struct pending *p = container_of(n, struct pending, by_ticket);

		hmap_remove(&en->pending, n);
		if (p->drop)
			p->drop(p->arg);
		pending_free(p);
	}
	while ((n = hmap_walk(&en->seen, NULL))) {
		struct seen *s = container_of(n, struct seen, node);

		hmap_remove(&en->seen, n);
		free(s->result);
		free(s);
	}
	while ((n = hmap_walk(&en->keys, NULL))) {
		struct key_row *k = container_of(n, struct key_row, node);

		hmap_remove(&en->keys, n);
		free(k->key);
		free(k->value);
		free(k);
	}
	hmap_release(&en->pending);
	hmap_release(&en->seen);
	hmap_release(&en->keys);
	hmap_release(&en->by_num);
	hmap_release(&en->by_id);
}

void engine_free(struct engine *en, int deadline_ms)
{
	if (!en)
		return;
	for (size_t i = 0; i < en->n_clusters; i++)
		en->clusters[i].ops->stop(en->clusters[i].c, deadline_ms);
	engine_hook_stop(en);
	if (en->store)
		store_close(en->store, deadline_ms);
	for (size_t i = 0; i < en->n_order; i++)
		erun_free(en->order[i]);
	free_maps(en);
	if (en->feed_fd >= 0)
		(void)close(en->feed_fd);
	if (en->inbox.fd >= 0)
		inbox_release(&en->inbox);
	free(en->order);
	free(en->clusters);
	strbuf_release(&en->rejected);
	free(en->trouble);
	free(en->state_dir);
	free(en->spool_dir);
	free(en);
}
