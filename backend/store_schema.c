/*
 * Opening the journal: the directory it may live in, whose it is, and its schema.
 *
 * Nothing is written before the checks have passed. The connection locks the file exclusively from its first read
 * to its end (so there is one user of a state directory, and no shared-memory file that could meet a full disk as
 * SIGBUS; sqlite.org/wal.html, "Use of WAL Without Shared-Memory"). The meta rows `uuid`, `machine` and `inode`
 * tell a directory from its copy: two users of one UUID would claim each other's jobs.
 */
#include "backend/store_private.h"

#include "backend/base/mem.h"
#include "backend/base/strbuf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define APPLICATION_ID 0x736c7279 /* PRAGMA application_id: what file(1) and we know the journal by */
#define ADOPT "adopt-this-copy"
#define BUSY_MS 2000 /* a worker that is being replaced may hold the lock for a moment */

#define TEXT1(x) #x
#define TEXT(x) TEXT1(x)

static const char schema_sql[] =
	"CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
	"CREATE TABLE run (num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, live INTEGER NOT NULL,"
	"  summary TEXT NOT NULL);"
	"CREATE TABLE event (seq INTEGER PRIMARY KEY, run INTEGER NOT NULL, time INTEGER NOT NULL, type TEXT NOT NULL,"
	"  data TEXT NOT NULL);"
	"CREATE INDEX event_run ON event (run);"
	"CREATE TABLE doc (run INTEGER NOT NULL, name TEXT NOT NULL, text BLOB NOT NULL, PRIMARY KEY (run, name));"
	"CREATE TABLE seen (mount INTEGER NOT NULL, request INTEGER NOT NULL, result TEXT NOT NULL,"
	"  PRIMARY KEY (mount, request)) WITHOUT ROWID;"
	"CREATE TABLE key (key TEXT PRIMARY KEY, run INTEGER NOT NULL, id TEXT NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE rejected (seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, uid INTEGER NOT NULL,"
	"  text BLOB NOT NULL, why TEXT NOT NULL);"
	"CREATE TABLE feed (at INTEGER PRIMARY KEY, text BLOB NOT NULL);"
	"CREATE TABLE fed (run INTEGER PRIMARY KEY, at INTEGER NOT NULL, bytes INTEGER NOT NULL);"
	"INSERT INTO meta VALUES ('next_num', 1);"
	"PRAGMA application_id = " TEXT(APPLICATION_ID) ";"
							"PRAGMA user_version = " TEXT(STORE_SCHEMA) ";";

/* sqlite3_system_errno() is not set when a COMMIT fails; the files know
 * (sqlite.org/c3ref/c_fcntl_begin_atomic_write.html). */
static int last_errno(sqlite3 *db)
{
	sqlite3_file *wal = NULL;
	int code = sqlite3_system_errno(db);

	(void)sqlite3_file_control(db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
	if (!code && wal && wal->pMethods)
		(void)wal->pMethods->xFileControl(wal, SQLITE_FCNTL_LAST_ERRNO, &code);
	if (!code)
		(void)sqlite3_file_control(db, "main", SQLITE_FCNTL_LAST_ERRNO, &code);
	return code;
}

int store_db_code(sqlite3 *db)
{
	switch (sqlite3_errcode(db) & 0xff) {
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_IOERR:
		switch (last_errno(db)) {
		case ENOSPC:
		case EDQUOT:
		case EFBIG:
			return -ENOSPC;
		case EROFS: /* mounted so after an error, while we had it open */
			return -EROFS;
		default:
			return -EIO;
		}
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_PERM:
	case SQLITE_AUTH:
	case SQLITE_CANTOPEN:
		return -EACCES;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EBADMSG;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	case SQLITE_TOOBIG:
		return -EFBIG;
	case SQLITE_NOMEM:
		return -ENOMEM;
	default:
		return -EIO;
	}
}

/* --- the directory --- */

const char *store_remote_fs(unsigned long type)
{
	/* statfs(2), linux/magic.h, and the file systems' own sources for those that are not in the kernel */
	static const struct {
		unsigned long type;
		const char *name;
	} remote[] = {
		{ 0x6969, "NFS" },      { 0x517b, "SMB" },        { 0xff534d42, "CIFS" }, { 0xfe534d42, "SMB" },
		{ 0x65735546, "FUSE" }, { 0x0bd00bd0, "Lustre" }, { 0x47504653, "GPFS" }, { 0x19830326, "BeeGFS" },
		{ 0x00c36400, "Ceph" }, { 0x01021997, "9P" },     { 0x5346414f, "AFS" },  { 0x6b414653, "AFS" },
		{ 0x73757245, "Coda" }, { 0xaad7aaea, "PanFS" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(remote); i++)
		if (remote[i].type == (type & 0xffffffff))
			return remote[i].name;
	return NULL;
}

static int check_dir(const char *dir, struct stat *st, struct err *e)
{
	struct statfs fs;
	const char *remote;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_sys(e, -errno, "cannot make the state directory %s", dir);
	/* a link that another user put there could lead anywhere */
	if (lstat(dir, st) < 0 || (S_ISLNK(st->st_mode) && st->st_uid == geteuid() && stat(dir, st) < 0))
		return err_sys(e, -errno, "cannot look at the state directory %s", dir);
	if (!S_ISDIR(st->st_mode))
		return err_set(e, -ENOTDIR, "%s is not a directory; name another with --state DIR", dir);
	if (st->st_uid != geteuid())
		return err_set(e, -EPERM,
			       "the state directory %s belongs to user %u, not to you; name one of your own "
			       "with --state DIR",
			       dir, (unsigned)st->st_uid);
	if (st->st_mode & 077)
		return err_set(e, -EPERM, "others may enter the state directory %s (mode %03o); run: chmod 700 %s", dir,
			       st->st_mode & 0777, dir);
	if (statfs(dir, &fs) < 0)
		return err_sys(e, -errno, "cannot look at the file system of %s", dir);
	remote = store_remote_fs((unsigned long)fs.f_type);
	if (remote)
		return err_set(e, -ENOTSUP,
			       "the state directory %s is on a file system that is not local (%s), where "
			       "commits cannot be trusted; name a directory on a local disk with --state DIR",
			       dir, remote);
	return 0;
}

/* --- small queries --- */

static int fail(sqlite3 *db, const char *dir, struct err *e)
{
	int code = store_db_code(db);

	if (code == -EBUSY)
		return err_set(e, code,
			       "the journal in %s is used by another slurmray; umount that one, or name another "
			       "directory with --state DIR",
			       dir);
	if (code == -EBADMSG)
		return err_set(e, code,
			       "the journal %s/journal.db is damaged (%s); put back a backup, or move the "
			       "directory away and start with a new one",
			       dir, sqlite3_errmsg(db));
	return err_set(e, code, "cannot use the journal %s/journal.db: %s", dir, sqlite3_errmsg(db));
}

static int exec(sqlite3 *db, const char *dir, const char *sql, struct err *e)
{
	return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(db, dir, e);
}

/* The first column of the first row, appended to `out`; nothing when there is no row. */
static int query(sqlite3 *db, const char *dir, const char *sql, struct strbuf *out, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW && sqlite3_column_text(st, 0))
		strbuf_addstr(out, (const char *)sqlite3_column_text(st, 0));
	if (rc == SQLITE_ROW)
		rc = SQLITE_DONE;
	(void)sqlite3_finalize(st);
	return rc == SQLITE_DONE ? 0 : fail(db, dir, e);
}

static int query_int(sqlite3 *db, const char *dir, const char *sql, long long *out, struct err *e)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	int rc = query(db, dir, sql, &sb, e);

	*out = strtoll(sb.buf, NULL, 10);
	return rc;
}

static int set_meta(sqlite3 *db, const char *dir, const char *key, const char *value, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(db, "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = ?2", -1,
				    &st, NULL);

	if (rc == SQLITE_OK) {
		(void)sqlite3_bind_text(st, 1, key, -1, SQLITE_STATIC);
		(void)sqlite3_bind_text(st, 2, value, -1, SQLITE_STATIC);
		rc = sqlite3_step(st);
	}
	(void)sqlite3_finalize(st);
	return rc == SQLITE_DONE ? 0 : fail(db, dir, e);
}

/* --- identity --- */

struct identity {
	char machine[128];
	char inode[32];
	bool adopt;   /* the user wrote the file that accepts a copy */
	bool foreign; /* it is one, and is accepted */
};

static void find_identity(const char *dir, const struct stat *st, struct identity *id)
{
	cleanup_free char *adopt = xasprintf("%s/" ADOPT, dir);
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	char host[100] = "";

	/* machine-id(5): empty, or "uninitialized", in images that were not started yet */
	if (strbuf_read_file(&sb, "/etc/machine-id", 4096) >= 32) {
		(void)snprintf(id->machine, sizeof(id->machine), "id %.32s", sb.buf);
	} else {
		(void)gethostname(host, sizeof(host) - 1);
		(void)snprintf(id->machine, sizeof(id->machine), "host %s", host);
	}
	(void)snprintf(id->inode, sizeof(id->inode), "%ju", (uintmax_t)st->st_ino);
	id->adopt = access(adopt, F_OK) == 0;
	id->foreign = false;
}

/* The device is recorded but not compared: a disk that is mounted again may get another number. */
static int check_identity(sqlite3 *db, const char *dir, struct identity *id, struct err *e)
{
	cleanup_strbuf struct strbuf machine = STRBUF_INIT;
	cleanup_strbuf struct strbuf inode = STRBUF_INIT;
	int rc = query(db, dir, "SELECT value FROM meta WHERE key = 'machine'", &machine, e);
	bool moved;

	if (!rc)
		rc = query(db, dir, "SELECT value FROM meta WHERE key = 'inode'", &inode, e);
	if (rc)
		return rc;
	moved = strcmp(machine.buf, id->machine) != 0;
	if (!moved && strcmp(inode.buf, id->inode) == 0)
		return 0;
	id->foreign = true;
	if (id->adopt)
		return 0;
	return err_set(
		e, -EXDEV,
		"the state directory %s is a copy%s: two of them would submit and cancel the same jobs. "
		"Start with a new directory (--state DIR), or, if the original is gone for good, accept this one "
		"under a new identity: touch %s/" ADOPT " and start again; jobs of the original then appear in "
		"lost+found",
		dir, moved ? " from another machine" : " of another directory", dir);
}

/* A random UUID (RFC 4122, 4.4). */
static int make_uuid(char out[37], struct err *e)
{
	unsigned char b[16];

	if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
		return err_sys(e, -errno, "no random numbers from the system");
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	(void)snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		       b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
	return 0;
}

static int write_identity(sqlite3 *db, const char *dir, const struct identity *id, const struct stat *st,
			  const struct clock *clock, struct err *e)
{
	char uuid[37], device[32], when[CLOCK_TEXT];
	int rc = make_uuid(uuid, e);

	(void)snprintf(device, sizeof(device), "%ju", (uintmax_t)st->st_dev);
	if (!rc)
		rc = set_meta(db, dir, "uuid", uuid, e);
	if (!rc)
		rc = set_meta(db, dir, "machine", id->machine, e);
	if (!rc)
		rc = set_meta(db, dir, "inode", id->inode, e);
	if (!rc)
		rc = set_meta(db, dir, "device", device, e);
	if (!rc)
		rc = set_meta(db, dir, "since", clock_text(clock_real(clock), when), e);
	return rc;
}

static int read_uuid(sqlite3 *db, const char *dir, char uuid[37], struct err *e)
{
	cleanup_strbuf struct strbuf sb = STRBUF_INIT;
	int rc = query(db, dir, "SELECT value FROM meta WHERE key = 'uuid'", &sb, e);

	if (rc)
		return rc;
	if (sb.len != 36)
		return err_set(e, -EBADMSG,
			       "the journal %s/journal.db is damaged (it has no UUID); put back a backup, or "
			       "move the directory away and start with a new one",
			       dir);
	memcpy(uuid, sb.buf, 37);
	return 0;
}

/* --- schema --- */

static int sync_path(const char *path)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

/* DIR/journal.db.N, complete or not there: made beside it, synced and renamed. */
static int backup(sqlite3 *db, const char *dir, long long version, struct err *e)
{
	cleanup_free char *path = xasprintf("%s/journal.db.%lld", dir, version);
	cleanup_free char *tmp = xasprintf("%s.new", path);
	sqlite3_stmt *st = NULL;
	int rc;

	(void)unlink(tmp);
	rc = sqlite3_prepare_v2(db, "VACUUM INTO ?", -1, &st, NULL);
	if (rc == SQLITE_OK) {
		(void)sqlite3_bind_text(st, 1, tmp, -1, SQLITE_STATIC);
		rc = sqlite3_step(st);
	}
	(void)sqlite3_finalize(st);
	if (rc != SQLITE_DONE) {
		rc = fail(db, dir, e);
		(void)err_wrap(e, "no backup could be made before the journal's migration");
		return rc;
	}
	rc = sync_path(tmp);
	if (!rc && rename(tmp, path) < 0)
		rc = -errno;
	if (!rc)
		rc = sync_path(dir);
	return rc ? err_sys(e, rc, "cannot make the backup %s", path) : 0;
}

static const struct store_migration *find_step(const struct store_migration *steps, long long from)
{
	for (; steps->sql; steps++)
		if (steps->from == from)
			return steps;
	return NULL;
}

static int migrate(sqlite3 *db, const char *dir, long long version, const struct store_migration *steps, struct err *e)
{
	int rc = 0;

	for (long long v = version; v < STORE_SCHEMA; v++)
		if (!find_step(steps, v))
			return err_set(e, -ENOTSUP,
				       "the journal in %s has schema %lld, which this slurmray (schema %d) "
				       "cannot migrate; start with a new directory (--state DIR)",
				       dir, version, STORE_SCHEMA);
	if (version == STORE_SCHEMA)
		return 0;
	rc = backup(db, dir, version, e);
	if (!rc)
		rc = exec(db, dir, "BEGIN IMMEDIATE", e);
	for (long long v = version; v < STORE_SCHEMA && !rc; v++)
		rc = exec(db, dir, find_step(steps, v)->sql, e);
	if (!rc)
		rc = exec(db, dir, "PRAGMA user_version = " TEXT(STORE_SCHEMA), e);
	if (!rc)
		rc = exec(db, dir, "COMMIT", e);
	if (rc)
		(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

/* --- opening --- */

/* `fresh`: there is nothing in the file yet. */
static int check_schema(sqlite3 *db, const char *dir, bool *fresh, long long *version, struct err *e)
{
	long long tables = 0, app = 0;
	int rc = query_int(db, dir, "SELECT count(*) FROM sqlite_master", &tables, e);

	if (!rc)
		rc = query_int(db, dir, "PRAGMA application_id", &app, e);
	if (!rc)
		rc = query_int(db, dir, "PRAGMA user_version", version, e);
	if (rc)
		return rc;
	*fresh = tables == 0;
	if (!*fresh && app != APPLICATION_ID)
		return err_set(e, -EBADMSG,
			       "%s/journal.db is a database of another program; name another directory with "
			       "--state DIR",
			       dir);
	if (*version > STORE_SCHEMA)
		return err_set(e, -ENOTSUP,
			       "the journal in %s has schema %lld and was written by a newer slurmray; this one "
			       "(%s) knows schemas up to %d: use the newer one, or a new directory (--state DIR)",
			       dir, *version, SLURMRAY_VERSION, STORE_SCHEMA);
	return 0;
}

static int make_schema(sqlite3 *db, const char *dir, const struct identity *id, const struct stat *st,
		       const struct clock *clock, bool fresh, struct err *e)
{
	int rc = exec(db, dir, "BEGIN IMMEDIATE", e);

	if (!rc && fresh)
		rc = exec(db, dir, schema_sql, e);
	if (!rc)
		rc = write_identity(db, dir, id, st, clock, e);
	if (!rc)
		rc = exec(db, dir, "COMMIT", e);
	if (rc)
		(void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

static int check_and_prepare(sqlite3 *db, const char *dir, const struct stat *st, const struct clock *clock,
			     const struct store_migration *steps, struct err *e)
{
	struct identity id;
	long long version = 0;
	bool fresh = false;
	int rc;

	rc = exec(db, dir, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF", e);
	if (!rc)
		rc = check_schema(db, dir, &fresh, &version, e);
	find_identity(dir, st, &id);
	if (!rc && !fresh)
		rc = check_identity(db, dir, &id, e);
	if (!rc)
		rc = exec(db, dir, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL", e);
	if (!rc && !fresh)
		rc = migrate(db, dir, version, steps, e);
	if (!rc && (fresh || id.foreign))
		rc = make_schema(db, dir, &id, st, clock, fresh, e);
	if (!rc && id.adopt) {
		cleanup_free char *adopt = xasprintf("%s/" ADOPT, dir);

		(void)unlink(adopt); /* it counts once */
	}
	return rc;
}

int store_db_open(const char *dir, const struct clock *clock, const struct store_migration *steps, sqlite3 **out,
		  char uuid[37], struct err *e)
{
	cleanup_free char *path = xasprintf("%s/journal.db", dir);
	sqlite3 *db = NULL;
	struct stat st;
	int rc, fd;

	rc = check_dir(dir, &st, e);
	if (rc)
		return rc;
	/* only a new file is opened here: closing one that SQLite has open would drop its locks (fcntl(2)) */
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && errno != EEXIST)
		return err_sys(e, -errno, "cannot write the journal %s", path);
	if (fd >= 0)
		(void)close(fd);
	if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
		rc = fail(db, dir, e);
		(void)sqlite3_close(db);
		return rc;
	}
	(void)sqlite3_extended_result_codes(db, 1);
	(void)sqlite3_busy_timeout(db, BUSY_MS);
	if (sqlite3_db_readonly(db, "main") == 1) {
		(void)sqlite3_close(db);
		return err_set(e, -EACCES, "the journal %s cannot be written; check its owner and mode", path);
	}
	rc = check_and_prepare(db, dir, &st, clock, steps, e);
	if (!rc)
		rc = read_uuid(db, dir, uuid, e);
	if (rc) {
		(void)sqlite3_close(db);
		return rc;
	}
	*out = db;
	return 0;
}
