/*
 * Events: what happened to a run, as it is journaled. An event is immutable once posted. Encoded as one JSON
 * object; unknown members are kept and ignored, so that older workers read newer journals of the same schema.
 *
 * Members by type (all optional unless said). Times (start, end, est_start) are real microseconds.
 *
 *  create      id! cluster! name tags[] key merged(bool) hold(bool)         a complete spec was accepted: queued
 *              spec effective script (texts), or spec_len effective_len script_len when the texts are documents
 *  draft       id!                                                          mkdir runs/NAME
 *  hold_wanted, release_wanted                                              verbs on a run that is not submitted yet
 *  cancel_wanted                                                            the user asked; recorded before it is acted
 * on submitting  attempt!                                                     written before the cluster is asked
 *  submitted   attempt! job_id! source
 *  state       attempt status!(pending|running|completing) reason nodes node_count cpus start est_start source
 *  unknown     why                                                          the cluster cannot be asked
 *  known                                                                    it answers again; status as before
 *  lost        attempt! why                                                 voided before it started: back to queued
 *  end         attempt status! exit_code signal why source start end out_len err_len manifest(bool) max_rss cpu_us
 * nodes node_count cpus restarts rejected    why!                                                         refused by
 * the scheduler: an end facts       any members                                                  merged into the run's
 * facts; null deletes purge                                                                    the run is gone
 */
#ifndef BACKEND_EVENT_H
#define BACKEND_EVENT_H

#include <jansson.h>
#include <stdint.h>

enum event_type {
	EV_CREATE,
	EV_DRAFT,
	EV_HOLD_WANTED,
	EV_RELEASE_WANTED,
	EV_CANCEL_WANTED,
	EV_SUBMITTING,
	EV_SUBMITTED,
	EV_STATE,
	EV_UNKNOWN,
	EV_KNOWN,
	EV_LOST,
	EV_END,
	EV_REJECTED,
	EV_FACTS,
	EV_PURGE,
	EV_N
};

struct event {
	enum event_type type;
	int64_t time; /* real, microseconds */
	json_t *data; /* object, owned */
};

const char *event_name(enum event_type type);
/* -1 for a name that is not known. */
int event_type_of(const char *name);

struct event *event_new(enum event_type type, int64_t time, json_t *data /* stolen; NULL: {} */);
void event_free(struct event *ev);

/* Members, with defaults when missing or of another type. Strings are borrowed from the event. */
const char *event_str(const struct event *ev, const char *key); /* NULL */
long long event_int(const struct event *ev, const char *key, long long other);

#endif
