/*
 * The path table of a run: which number a path under results/, work/ or files/ has. Node ids hold the number, so the
 * table is kept in an append-only file (STATE/spool/NUM/paths) and a number means the same path for every worker. What
 * is known of a path (size, time ...) comes from listings and is not kept.
 */
#ifndef FS_PATHS_H
#define FS_PATHS_H

#include "backend/base/hash.h"
#include "backend/base/list.h"
#include "backend/base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pentry {
	struct hmap_node by_name;
	uint32_t index;
	char area;  /* 'r', 'w', 'f', 'y', 's' */
	char *path; /* relative to the area, never "" */
	bool known; /* the members below are set, the path was there when last looked */
	/* directories: what was asked of their children; all times are monotonic us */
	bool listed;         /* they were listed at least once */
	bool listing;        /* a listing is under way */
	int64_t asked_at;    /* when it began, or the last one did */
	int64_t answered_at; /* when the last one began that was answered, even with an error */
	int64_t cost;        /* how long that took */
	size_t names;        /* how many it brought */
	char type;           /* 'f', 'd', 'l' */
	uint64_t size;
	int64_t mtime; /* real us */
	mode_t mode;
	char *target; /* 'l' */
	bool cached;  /* opened with the page cache by this worker */
	bool coming;  /* fetched ahead, on its way (ahead.c) */
};

/* Reading ahead over small files (ahead.c). */
struct ahead {
	bool any;      /* `last` is a number */
	bool busy;     /* inside of asking */
	uint32_t last; /* opened */
	uint32_t next; /* to be looked at */
	uint32_t lead; /* how far `next` may be from `last`; 0: they are not opened in order */
	size_t flight;
	uint64_t bytes;
	/* all of the results are wanted (the verb `fetch`) */
	bool all;
	uint32_t all_next;
	uint32_t all_files;
	uint64_t all_bytes, all_done;
	unsigned tries;
	int code;            /* the first failure */
	struct content *big; /* one large file at a time */
	uint64_t big_size;
};

struct paths {
	struct hmap_node node; /* by run */
	uint32_t run;
	struct pentry **entries;
	size_t n, cap;
	struct hmap by_name;
	struct pentry root[5]; /* listing state of the areas themselves */
	bool manifest;         /* results are known from the manifest */
	int64_t news_at;       /* monotonic us: the run did something, so that older listings may be wrong */
	uint32_t attempt;      /* that all of this is known of */
	struct ahead ahead;
	char *file;
	struct strbuf *batch; /* records that are not in the file yet, from entry `batch_from` on; else NULL */
	size_t batch_from;
};

struct paths *paths_open(const char *state_dir, uint32_t run);
void paths_close(struct paths *p);
struct pentry *paths_at(const struct paths *p, uint32_t index);
struct pentry *paths_find(const struct paths *p, char area, const char *path);
/* Finds or adds; NULL when the table cannot be written or is full. */
struct pentry *paths_add(struct paths *p, char area, const char *path);
/* An entry is renamed, and what is below it: their numbers mean the new paths from now on. */
int paths_move(struct paths *p, struct pentry *e, const char *path);
/* The path was removed: what is made in its place gets another number. */
int paths_remove(struct paths *p, struct pentry *e);
/* Takes a listing's records in (backend/cluster.h): `dir` is the directory that was listed ("" the area), or with
   `deep` PATH is relative to the area and everything of the area that is not in it is gone. */
/* How many were taken. */
size_t paths_take(struct paths *p, char area, const char *dir, bool deep, const char *data, size_t len);
/* The next record's six fields of such a listing; NULL at its end, or where it is cut off: what came whole counts. */
const char *paths_record(const char *p, const char *end, const char *field[6]);
int64_t paths_time(const char *s); /* its MTIME as real us */
/* Another attempt has other results and another work: nothing is known of them. Numbers stay. */
void paths_forget(struct paths *p);
/*
 * The same for a listing of a whole area that began at `began`: it says nothing of directories of which something newer
 * is known. Not `whole`: it was cut off, and what is not in it may be there. Directories count as listed then.
 */
void paths_merge(struct paths *p, char area, bool whole, int64_t began, const char *data, size_t len);
/* It was listed again, and is as it was. */
void paths_confirm(struct paths *p, char area, int64_t began);
/* What was asked of a directory's children; NULL when there is no such path. */
struct pentry *paths_dir(struct paths *p, char area, const char *dir);

#endif
