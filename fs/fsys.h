/*
 * What the files of fs/ share: one struct with everything that the worker has, the tables of files, handles and
 * parked requests. One thread; nothing outside fs/ sees this.
 */
#ifndef FS_FSYS_H
#define FS_FSYS_H

#include "backend/base/clock.h"
#include "backend/base/hash.h"
#include "backend/base/strbuf.h"
#include "backend/engine.h"
#include "backend/scan.h"
#include "backend/spool.h"
#include "fs/ino.h"
#include "fs/session.h"

#include <jansson.h>

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct fsys;
struct handle;

/* --- the tables of files --- */

enum node_class {
	NODE_DIR,
	NODE_DOC,    /* rendered at open (values, keyed files, documents) */
	NODE_STORED, /* a document of the journal: spec, effective, script */
	NODE_GROW,   /* stdout, stderr, log */
	NODE_WAIT,   /* blocks until the run has ended */
	NODE_FOLLOW, /* blocks at its end until there is more */
	NODE_CONV,   /* conversation: runs/new, runs/check */
	NODE_SPEC,   /* a document that is a conversation when opened for writing */
	NODE_CTL,    /* verbs */
	NODE_LINK,
	NODE_PROBE,   /* a document that the cluster is asked for at open */
	NODE_INNER,   /* of a Ray or Spark cluster, asked for at open */
	NODE_READY,   /* blocks until such a cluster is ready, or will never be */
	NODE_LEASE,   /* a lease of a session: touched, or given its ttl */
	NODE_FEED,    /* the root's events */
	NODE_CONTEXT, /* the Pipes context: bytes that a draft is given */
};

enum node_flags {
	NODE_UNLISTED = 1 << 0,
	NODE_FRESH = 1 << 1,      /* a new instance per LOOKUP (see ino.h) */
	NODE_FINAL = 1 << 2,      /* does not change any more once the run has ended */
	NODE_CONSTANT = 1 << 3,   /* never changes */
	NODE_TRANSITION = 1 << 4, /* changes with the status and at no other time */
	NODE_APPENDS = 1 << 5,    /* only grows: an open descriptor sees the news, as tail -f wants */
};

/* Whose file is rendered. Only what the table's kind has is set. */
struct view {
	struct fsys *fs;
	const struct run *run;
	const struct cluster_conf *cluster;
	const char *lease; /* owner */
	const struct env_item *env;
};

struct node {
	const char *name;
	enum node_class class;
	mode_t mode;
	unsigned flags;
	void (*render)(const struct view *v, struct strbuf *out); /* DOC, LINK */
	int stream;                                               /* GROW, FOLLOW: enum spool_stream */
	const char *doc;                                          /* one line for docs/interface.md */
};

/* Rows of the tables; each ends with a row without a name. Row 0 is the directory itself. A name with a slash is in the
   directory that is a row of its own. Node ids hold row numbers, so new rows come last. */
extern const struct node run_nodes[];
extern const struct node cluster_nodes[];
extern const struct node fixed_nodes[];
extern const struct node session_nodes[];
extern const struct node lease_node;
extern const struct node env_nodes[];

/* Rows of fixed_nodes, in its order. */
enum fixed {
	FIXED_NONE,
	FIXED_README,
	FIXED_STATUS,
	FIXED_ERRORS,
	FIXED_CTL,
	FIXED_LAST,
	FIXED_RUNS,
	FIXED_CLUSTERS,
	FIXED_BY,
	FIXED_NEW,
	FIXED_CHECK,
	FIXED_TEMPLATE,
	FIXED_LIST,
	FIXED_RUNS_LAST,
	FIXED_BY_FIRST, /* by/status, then the others in the order of enum set_kind */
	FIXED_BY_LAST = FIXED_BY_FIRST + 5,
	FIXED_EVENTS, /* in the root, as the next two */
	FIXED_ENVS,
	FIXED_SESSIONS,
	FIXED_SESSIONS_NEW,
};

enum set_kind { SET_STATUS, SET_CLUSTER, SET_TAG, SET_NAME, SET_DAY, SET_SESSION, SET_N };

/* Rows of run_nodes that others name. */
enum { RUN_ROW_DIR, RUN_ROW_RESULTS, RUN_ROW_WORK, RUN_ROW_FILES, RUN_ROW_FIRST_FILE };
enum { SESSION_ROW_DIR, SESSION_ROW_LEASES, SESSION_ROW_RUNS };

/* --- the whole --- */

struct fsys {
	struct engine *en;
	struct session *session;
	struct shared *shared;
	const struct clock *clock;
	const char *state_dir, *mount_dir;
	char *handle_dir; /* STATE/handles: conversations of open handles */
	uid_t uid;
	gid_t gid;
	uid_t *allow_uids; /* with --allow-uid, ended by n */
	size_t n_allow;
	bool others;          /* the kernel lets other users in: nothing is cached that only some may see */
	int64_t eperm_at;     /* monotonic us up to where rows about EPERM have used up time (fuse_change.c) */
	unsigned eperm_more;  /* that had none since the last row */
	int64_t started;      /* real us */
	int64_t mounted;      /* real us; the same for each worker of a mount */
	int64_t built;        /* real us; of the program, whose constant texts change with it */
	int64_t runs_changed; /* real us: the newest creation, or the last purge that this worker saw */
	uint32_t instance;    /* last one given out */
	struct hmap handles;  /* by fh */
	struct hmap parked;   /* by run number; 0: not tied to a run */
	struct hmap spools;   /* readers, by run number */
	struct hmap numbers;  /* what runs reported, by run number */
	struct hmap values;   /* known set values, by hash */
	struct hmap paths;    /* path tables, by run number */
	struct hmap probes;   /* last answers of clusters */
	struct cache *cache;  /* of fetched results; NULL: without a limit */
	bool note_results;    /* results that are open are told to the next worker, too */
	struct list envs;     /* what is known of environments, a list per cluster (files_envs.c) */
	size_t n_parked;
	bool asleep;           /* the machine is about to sleep: nobody may wait */
	int64_t journal_us;    /* for how long requests wait for the journal */
	int64_t journal_since; /* monotonic us: since when it owes an answer, if it does */
	size_t journal_owes;
	int retrying; /* park_retry calls that are under way, and what went away meanwhile */
	struct parked *graves;
	long n_pollers; /* handles whose kernel handle is kept */
	bool stopping, restart;
	uint64_t n_requests;
};

/* --- handles (handle.c) --- */

struct handle {
	struct hmap_node node; /* by fh */
	uint64_t fh, ino;
	uint32_t flags;        /* of open(2) */
	uint32_t run;          /* number, or 0 */
	const struct node *nd; /* NULL for path files and sets */
	struct strbuf text;    /* DOC: snapshot; CTL: last answer */
	bool have_text;
	struct conv *conv; /* CONV, SPEC for writing */
	bool verb_seen;    /* CTL: a verb was written on this handle, its answer was not read */
	int failed;        /* CTL: what the last verb was refused with */
	int fd;            /* files/: local descriptor; -1 */
	struct content *content;
	uint32_t *set; /* sets: runs that are waited for */
	size_t n_set;
	bool have_set;
	uint64_t pos;    /* GROW, FOLLOW: how far this handle has read; CTL: of the answer */
	int64_t read_at; /* GROW: monotonic us of the last read; 0: none yet */
};

struct handle *handle_new(struct fsys *fs, uint64_t fh, uint64_t ino, uint32_t flags);
/* The handle of a request; rebuilt when an earlier worker opened it. */
struct handle *handle_find(const struct fsys *fs, uint64_t fh); /* NULL: not known to this worker */
struct handle *handle_get(struct fsys *fs, const struct fuse_file_info *fi, uint64_t ino);
void handle_free(struct fsys *fs, struct handle *h);

/* --- parked requests (park.c) --- */

struct parked {
	struct hmap_node node; /* by run number */
	struct fsys *fs;
	fuse_req_t req;
	struct handle *h;
	uint64_t off;
	size_t size;
	int64_t deadline; /* monotonic us; 0: none (a signal or the end of the run lets go) */
	int deadline_errno;
	/* Tries again; true when the request was answered (then the record is gone). */
	bool (*retry)(struct parked *p);
	/* Called before the record goes away unanswered (interrupt, drain, deadline); may be NULL. */
	void (*drop)(struct parked *p);
	/* Called at the deadline: true when it answered (then the record is gone); may be NULL. */
	bool (*late)(struct parked *p);
	uint64_t user;
	bool uninterruptible;
	bool registering, interrupted; /* a signal came before park_interruptible */
	bool trying, gone;             /* private to park_retry */
	struct parked *grave;
};

/* Parks `req`; 0, or -EAGAIN with O_NONBLOCK (then nothing was parked). */
struct parked *park(struct fsys *fs, fuse_req_t req, struct handle *h, uint32_t run, bool (*retry)(struct parked *));
/* Lets a signal end the wait. False: it had come already, the request is answered and the record gone. */
bool park_interruptible(struct parked *p);
/* Takes the record off and frees it; the caller answers. */
fuse_req_t unpark(struct parked *p);
void park_retry(struct fsys *fs, uint32_t run);
void park_expire(struct fsys *fs);
/* Are there requests whose effect is on its way to the journal? */
bool park_committing(const struct fsys *fs);
void park_drain(struct fsys *fs, int error);
/* Answers EINTR to all who wait, but for those whose effect is on its way to the journal. */
void park_interrupt(struct fsys *fs);

/*
 * Nobody waits for the journal longer than fs->journal_us (ETIMEDOUT then), and that counts from when it fell silent:
 * who comes later, or was behind another in a queue of the kernel (a directory's lock), does not wait all of it again.
 */
void journal_asked(struct fsys *fs);    /* something is on its way to it */
void journal_heard(struct fsys *fs);    /* it said something, and more is to come */
void journal_answered(struct fsys *fs); /* the end of what was asked */
void park_for_journal(struct parked *p);
/* Row in `errors` for a write that was answered so. */
void journal_note_late(struct fsys *fs, uint32_t uid, const char *text, size_t len);

/* --- rendering (files_*.c) --- */

const struct node *node_of(const struct fsys *fs, uint64_t ino, struct view *v);
void render_node(const struct node *nd, const struct view *v, struct strbuf *out);
struct spool_reader *run_spool(struct fsys *fs, const struct run *r);
void run_spool_forget(struct fsys *fs, uint32_t num);
/* Bytes that the stream has in the end (ended, known) or has now. `final` says which. */
uint64_t run_stream_len(struct fsys *fs, const struct run *r, int stream, bool *final);
int64_t node_mtime(struct fsys *fs, const struct node *nd, const struct view *v);

/* --- tree (tree.c) --- */

int tree_stat(struct fsys *fs, uint64_t ino, struct stat *st);
double tree_attr_timeout(struct fsys *fs, uint64_t ino);
int tree_lookup(struct fsys *fs, uint64_t parent, const char *name, uint64_t *ino);
/* Calls back for each entry; false stops. `off` is where a readdir goes on. */
typedef bool (*tree_fill)(void *arg, const char *name, uint64_t ino, uint64_t next_off);
int tree_readdir(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg);
int tree_readlink(struct fsys *fs, uint64_t ino, struct strbuf *out);

/* --- sessions (files_session.c) --- */

uint64_t session_ino(const struct run *r); /* its directory */
/* The session of a name, as sessions/ lists it, or NULL. */
const struct run *session_named(const struct fsys *fs, const char *name);
int session_lookup(struct fsys *fs, uint64_t dir, const char *name, uint64_t *ino);
int session_readdir(struct fsys *fs, uint64_t dir, uint64_t off, tree_fill fill, void *arg);
bool lease_is_dir(uint64_t ino);
const char *lease_owner(const struct fsys *fs, uint64_t ino); /* NULL: it is no more; borrowed */
/* Each answers when the journal has it. */
void lease_create(struct fsys *fs, fuse_req_t req, uint64_t dir, const char *name, const struct fuse_file_info *fi);
void lease_unlink(struct fsys *fs, fuse_req_t req, uint64_t dir, const char *name);
void lease_touch(struct fsys *fs, fuse_req_t req, uint64_t ino);
void lease_write(struct fsys *fs, fuse_req_t req, uint64_t ino, const char *data, size_t len);

/* --- sets (by.c) --- */

void sets_release(struct fsys *fs);
int by_lookup(struct fsys *fs, enum set_kind k, const char *name, uint64_t *ino);
int by_readdir(struct fsys *fs, enum set_kind k, uint64_t off, tree_fill fill, void *arg);
int set_lookup(struct fsys *fs, uint64_t ino, const char *name, uint64_t *out);
int set_readdir(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg);
bool set_exists(struct fsys *fs, uint64_t ino);
void set_forget(struct fsys *fs, const struct handle *h);
bool set_ready(struct fsys *fs, struct handle *h); /* would a read be answered now? Fixes the set, as a read does */
void set_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);

/* --- conversations (conv.c) --- */

void conv_write(struct fsys *fs, fuse_req_t req, struct handle *h, const char *data, size_t len);
void conv_read(struct fsys *fs, fuse_req_t req, struct handle *h, size_t size);
void conv_flush(struct fsys *fs, fuse_req_t req, struct handle *h);
void conv_fsync(struct fsys *fs, fuse_req_t req, struct handle *h);
void conv_release(struct fsys *fs, fuse_req_t req, struct handle *h); /* frees the handle, answers */
struct conv *conv_open(struct fsys *fs, struct handle *h, bool rebuilt);
void conv_free(struct conv *c);
void conv_remove_files(const struct fsys *fs, uint64_t fh); /* what a conversation keeps in STATE/handles */
bool conv_ready(const struct conv *c);

/* --- ctl (ctl.c) --- */

void ctl_write(struct fsys *fs, fuse_req_t req, struct handle *h, const char *data, size_t len);
void ctl_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);
const char *ctl_verbs(const struct node *nd, const struct view *v); /* what reading it lists */
bool ctl_ready(struct fsys *fs, const struct handle *h);            /* would a read be answered now? */
void ctl_fsync(struct fsys *fs, fuse_req_t req, struct handle *h);

/* --- run data: logs (rundata.c) --- */

/* Lets the page cache have a file that is final and here. */
void grow_open(struct fsys *fs, const struct run *r, int stream, struct fuse_file_info *fi);
void grow_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);
void follow_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);
void wait_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);
void feed_read(struct fsys *fs, fuse_req_t req, uint64_t off, size_t size);
/* Would a read be answered now? For poll(2). */
bool handle_ready(struct fsys *fs, struct handle *h, uint64_t off);

/* --- Dagster Pipes (pipes_files.c) --- */

uint64_t context_size(struct fsys *fs, const struct run *r);
int64_t context_mtime(struct fsys *fs, const struct run *r);
/* In a draft; without effect afterwards, so that a program that does everything again succeeds. */
int context_truncate(struct fsys *fs, const struct run *r, uint64_t size);
int context_write(struct fsys *fs, const struct run *r, const char *data, size_t len, uint64_t off);
void context_read(struct fsys *fs, fuse_req_t req, const struct run *r, uint64_t off, size_t size);
/* Removes a file of a run as far as programs need to see that: 0, or -EPERM for all but `events` and `context`. */
int pipes_unlink(struct fsys *fs, const struct run *r, const char *name);
/* The numbers that the job reported, name -> number; borrowed, NULL when there are none. */
json_t *run_numbers(struct fsys *fs, const struct run *r);
void run_numbers_forget(struct fsys *fs, uint32_t num);

/* --- ray/ and spark/ (inner.c) --- */

/* Of a row that is such a directory or below: "ray", "spark"; else NULL. */
const char *inner_kind(const struct node *nd);
bool inner_hidden(const struct node *nd, const struct run *r); /* it is of a cluster that the run does not have */
char inner_logs(const struct node *nd);                        /* the letter of an area, when it is one: logs/ */
/* `name`: of a fact (backend/inner_state.h): "state" "address" "version" "nodes" ... */
void render_inner(const struct view *v, const char *kind, const char *name, struct strbuf *out);
void render_inner_why(const struct view *v, const char *kind, struct strbuf *out);
size_t inner_size(const struct run *r, const struct node *nd);
void inner_open(struct fsys *fs, fuse_req_t req, struct handle *h);
void inner_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);
/* Would reading `ready` be answered now? */
bool inner_is_decided(const struct run *r, const struct node *nd);
void inner_ready_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);

/* --- results, work and files (area.c, area_look.c, content.c) --- */

/* A request about an area. */
enum area_question { AREA_LOOKUP, AREA_GETATTR, AREA_OPENDIR, AREA_READDIR };
struct area_request {
	enum area_question what;
	uint64_t ino;     /* LOOKUP: of the parent */
	const char *name; /* LOOKUP */
	uint64_t fh;
	size_t size; /* READDIR from the beginning */
	bool plus;
	void (*go)(struct fsys *fs, fuse_req_t req, const struct area_request *a); /* answers from what is known */
};
/* Asks for news where there may be some. True: the request waits for them, for a second or so, and `go` answers it
 * then. */
bool area_wait(struct fsys *fs, fuse_req_t req, const struct area_request *a);
/* A listing came unasked (struct engine_observer). */
void area_listed(struct fsys *fs, uint32_t run, int area, bool whole, int64_t began, const char *data, size_t len);
/* The run did something: listings that began before may be wrong now. */
void area_news(struct fsys *fs, uint32_t run);

int area_lookup(struct fsys *fs, uint64_t parent, const char *name, uint64_t *ino);
int area_stat(struct fsys *fs, uint64_t ino, struct stat *st);
int area_readdir(struct fsys *fs, uint64_t ino, uint64_t off, tree_fill fill, void *arg);
int area_readlink(struct fsys *fs, uint64_t ino, struct strbuf *out);
void area_open(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi);
void area_opendir(struct fsys *fs, fuse_req_t req, uint64_t ino, struct fuse_file_info *fi);
void area_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);
void area_write(struct fsys *fs, fuse_req_t req, struct handle *h, const char *data, size_t len, uint64_t off);
void area_release(struct fsys *fs, struct handle *h);
int area_create(struct fsys *fs, uint64_t parent, const char *name, mode_t mode, int flags, uint64_t fh, uint64_t *ino);
int area_mkdir(struct fsys *fs, uint64_t parent, const char *name, mode_t mode, uint64_t *ino);
int area_unlink(struct fsys *fs, uint64_t parent, const char *name, bool dir);
int area_rename(struct fsys *fs, uint64_t parent, const char *name, uint64_t to, const char *new_name, unsigned flags);
int area_symlink(struct fsys *fs, uint64_t parent, const char *name, const char *target, uint64_t *ino);
int area_link(struct fsys *fs, uint64_t ino, uint64_t parent, const char *name, uint64_t *out);
int area_setattr(struct fsys *fs, uint64_t ino, const struct stat *st, int to_set, const struct handle *h);
/* Does somebody have results of this run open, or are some on their way? */
bool area_in_use(struct fsys *fs, const struct run *r);
/* The verb `fetch`: all results are wanted here. */
void area_fetch(struct fsys *fs, const struct run *r);
bool area_is(uint64_t ino); /* results, work, files and everything below */
void area_forget(struct fsys *fs, uint32_t run);

/* --- documents that a cluster is asked for (probe.c) --- */

size_t probe_size(struct fsys *fs, const struct view *v, const char *name);
int64_t probe_mtime(struct fsys *fs, const struct view *v, const char *name);
void probes_release(struct fsys *fs);
/* Opens: at once when a fresh answer is here, else when the cluster has answered; an old answer serves when it does
 * not. */
void probe_open(struct fsys *fs, fuse_req_t req, struct handle *h);
/* Reads; asks again when an earlier worker had the answer. */
void probe_read(struct fsys *fs, fuse_req_t req, struct handle *h, uint64_t off, size_t size);

/* --- environments on clusters (files_envs.c) --- */

const struct env_item *env_find(struct fsys *fs, uint32_t number);
int env_lookup(struct fsys *fs, const char *name, uint64_t *ino);
void env_readdir(struct fsys *fs, uint64_t off, tree_fill fill, void *arg);
int64_t env_mtime(const struct env_item *env);
/* A line of its ctl: 0 when it was sent, else a negative errno with a text. */
int env_verb(struct fsys *fs, const struct env_item *env, const char *line, struct err *e);
void envs_release(struct fsys *fs);

/* --- the rest --- */

extern const struct fuse_lowlevel_ops fuse_ops;
bool fsys_allowed(const struct fsys *fs, fuse_req_t req);
/* With named other users: mode bits say what the owner may, and who else gets in is decided here, for each request. */
mode_t fsys_mode(const struct fsys *fs, mode_t mode);
void reply_slice(fuse_req_t req, const struct strbuf *sb, uint64_t off, size_t size);

#endif
