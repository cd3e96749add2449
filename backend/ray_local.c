/*
 * A Ray cluster on this machine (start = local), booted when the first run wants it. It belongs to nobody's process: a
 * keeper (a shell script in a session of its own) starts it and ends it when it was not wanted for a while and no job
 * of ours runs in it, whether slurmray is mounted or not. STATE/ray/NAME/ has `address`, `token`, `wanted` (its time
 * says when runs were last there), `keeper.log`, and `lock`, which the keeper and everything below it hold: while it is
 * held there is a cluster.
 */
#include "backend/ray.h"

#include "backend/base/mem.h"
#include "launchers/ray.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PORTS 16 /* GCS, dashboard, agent, client, and those that Ray would choose */
#define PORT_MIN 20000
#define PORT_SPAN 8000 /* below where the kernel takes ports for clients, ip_local_port_range */
#define TOUCH_US (5LL * USEC_PER_SEC)
#define BOOT_US (120LL * USEC_PER_SEC)
#define AGAIN_US (30LL * USEC_PER_SEC) /* after one that did not start */

struct ray_local {
	char *dir, *program;
	int64_t touch_at;
	bool booted;      /* by this process, and not known to be there yet */
	int64_t again_at; /* not booted before */
	char why[400];    /* the last one did not start */
};

/*
 * $1 ray, $2 the directory, $3 the first port, $4 the temporary directory (short: sockets below it may have 107 bytes),
 * $5 seconds, $6 processors, $7 GPUs, $8 bytes of the object store (empty: as Ray finds them). A job that runs has the
 * file `pid` in its attempt's directory, and a process.
 */
static const char keeper[] =
	"cd \"$2\" || exit 1\n"
	"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=\"$2/token\" RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 RAY_TMPDIR=\"$4\" "
	"SLURMRAY_PATIENCE=110 RAY_DASHBOARD_STARTUP_TIMEOUT_S=110 RAY_agent_register_timeout_ms=110000 "
	"AUTOSCALER_METRIC_PORT=\"$(($3 + 9))\" DASHBOARD_METRIC_PORT=\"$(($3 + 10))\"\n"
	"program=$1 dir=$2 py=$(sed -n '1s/^#! *//p' \"$1\")\n"
	"start() {\n"
	"\tcase $py in *python*) set -- $py \"$dir/ray-start\" \"$@\" ;; *) set -- \"$program\" \"$@\" ;; esac\n"
	"\t# what is in the background ignores INT, and ray.cancel needs it\n"
	"\tenv --default-signal=INT,QUIT true 2>/dev/null && exec env --default-signal=INT,QUIT \"$@\"\n"
	"\texec \"$@\"\n"
	"}\n"
	"start start --head --block --disable-usage-stats --temp-dir=\"$4\" --node-ip-address=127.0.0.10 --port=\"$3\" "
	"--dashboard-host=127.0.0.1 --dashboard-port=\"$(($3 + 1))\" --dashboard-agent-listen-port=\"$(($3 + 2))\" "
	"--ray-client-server-port=\"$(($3 + 3))\" --node-manager-port=\"$(($3 + 4))\" --object-manager-port=\"$(($3 + 5))\" "
	"--metrics-export-port=\"$(($3 + 6))\" --runtime-env-agent-port=\"$(($3 + 7))\" --dashboard-agent-grpc-port=\"$(($3 + 8))\" "
	"--min-worker-port=0 --max-worker-port=0 "
	"${6:+--num-cpus=\"$6\"} ${7:+--num-gpus=\"$7\"} ${8:+--object-store-memory=\"$8\"} &\n"
	"ray=$!\n"
	"trap 'kill \"$ray\"' TERM INT HUP\n"
	"busy() {\n"
	"\tfor f in \"$4\"/session_latest/logs/slurmray/*/runs/*/*/pid; do\n"
	"\t\t[ -s \"$f\" ] && kill -0 \"$(cat \"$f\")\" && return 0\n"
	"\tdone\n"
	"\treturn 1\n"
	"}\n"
	"while sleep 2 && kill -0 \"$ray\"; do\n"
	"\t[ $(($(date +%s) - $(stat -c %Y wanted))) -gt \"$5\" ] || continue\n"
	"\tbusy \"$@\" || kill \"$ray\"\n"
	"done 2>/dev/null\n"
	"wait \"$ray\"\n"
	"rm -f address\n"
	"rm -rf -- \"$4\"\n";

static int idle_s(void)
{
	const char *s = getenv("SLURMRAY_RAY_IDLE"); /* for the tests */
	char *end;
	long n = s ? strtol(s, &end, 10) : 0;

	return n > 0 && n < 1000000 ? (int)n : 600;
}

static bool port_free(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	cleanup_close int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
}

static int free_block(void)
{
	unsigned start = 0;

	if (getrandom(&start, sizeof(start), 0) < 0)
		start = (unsigned)getpid();
	for (int i = 0; i < PORT_SPAN / PORTS; i++) {
		int base = PORT_MIN + (int)((start + (unsigned)i) % (PORT_SPAN / PORTS)) * PORTS, n = 0;

		while (n < PORTS && port_free(base + n))
			n++;
		if (n == PORTS)
			return base;
	}
	return -EADDRINUSE;
}

static int put(const char *dir, const char *name, const char *text)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, name), *tmp = xasprintf("%s.tmp", path);
	int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text) || rename(tmp, path) < 0)
		rc = -EIO;
	(void)close(fd);
	return rc;
}

static int put_token(const char *dir)
{
	unsigned char bytes[24];
	char hex[2 * sizeof(bytes) + 1];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return -EIO;
	for (size_t i = 0; i < sizeof(bytes); i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
	return put(dir, "token", hex);
}

struct size { /* as the keeper wants it */
	char cpus[24], gpus[32], store[24];
};

static void size_of(const struct job_ray *ray, struct size *out)
{
	memset(out, 0, sizeof(*out));
	if (ray && ray->cpus >= 0)
		(void)snprintf(out->cpus, sizeof(out->cpus), "%d", ray->cpus);
	if (ray && ray->gpus >= 0)
		(void)snprintf(out->gpus, sizeof(out->gpus), "%g", ray->gpus);
	if (ray && ray->object_store > 0)
		(void)snprintf(out->store, sizeof(out->store), "%lld", (long long)ray->object_store);
}

/* In a child; does not return. Its parent is nobody's: it is started by a process that ends at once. */
static void run_keeper(const struct ray_local *l, int base, const char *temp, const struct size *size, int lock)
{
	cleanup_free char *log = xasprintf("%s/keeper.log", l->dir), *port = xasprintf("%d", base);
	cleanup_free char *idle = xasprintf("%d", idle_s());
	int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600), null = open("/dev/null", O_RDONLY);
	sigset_t none;

	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)setsid();
	if (fork() != 0)
		_exit(0);
	(void)dup2(null, 0);
	(void)dup2(fd, 1);
	(void)dup2(fd, 2);
	(void)syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC (close_range(2)) */);
	(void)fcntl(lock, F_SETFD, 0);
	(void)execl("/bin/sh", "sh", "-c", keeper, "slurmray-ray", l->program, l->dir, port, temp, idle, size->cpus,
		    size->gpus, size->store, (char *)NULL);
	_exit(127);
}

static int boot(struct ray_local *l, const struct job_ray *ray, int lock, struct err *e)
{
	char temp[] = "/tmp/slurmray-ray-XXXXXX";
	cleanup_free char *address = NULL;
	int base = free_block(), rc;
	struct size size;
	pid_t pid;

	if (base < 0)
		return err_sys(e, base, "no %d ports in a row are free from %d on", PORTS, PORT_MIN);
	rc = put_token(l->dir);
	if (rc == 0)
		rc = put(l->dir, "wanted", "");
	if (rc == 0)
		rc = put(l->dir, "ray-start", ray_start_text);
	if (rc < 0 || !mkdtemp(temp))
		return err_sys(e, rc < 0 ? rc : -errno, "cannot prepare a Ray cluster in %s", l->dir);
	address = xasprintf("http://127.0.0.1:%d", base + 1);
	size_of(ray, &size);
	pid = fork();
	if (pid < 0)
		return err_sys(e, -errno, "cannot start a process");
	if (pid == 0)
		run_keeper(l, base, temp, &size, lock);
	(void)waitpid(pid, NULL, 0);
	rc = put(l->dir, "address", address);
	return rc < 0 ? err_sys(e, rc, "cannot write %s/address", l->dir) : 0;
}

static char *program_of(const char *start)
{
	const char *path = getenv("PATH");

	if (*start == '/')
		return access(start, X_OK) == 0 ? xstrdup(start) : NULL;
	while (path && *path) {
		size_t len = strcspn(path, ":");
		cleanup_free char *ray = xasprintf("%.*s/ray", (int)len, path);

		if (*ray == '/' && access(ray, X_OK) == 0)
			return xstrdup(ray);
		path += len + (path[len] == ':');
	}
	return NULL;
}

struct ray_local *ray_local_new(const struct cluster_ctx *ctx)
{
	struct ray_local *l = xcalloc(1, sizeof(*l));
	cleanup_free char *all = xasprintf("%s/ray", ctx->state_dir);

	l->dir = xasprintf("%s/%s", all, ctx->conf->name);
	(void)mkdir(all, 0700);
	(void)mkdir(l->dir, 0700);
	return l;
}

void ray_local_free(struct ray_local *l)
{
	if (!l)
		return;
	free(l->dir);
	free(l->program);
	free(l);
}

/* Is somebody there? Leaves the lock in *fd when nobody is. */
static bool alive(const struct ray_local *l, int *fd)
{
	cleanup_free char *path = xasprintf("%s/lock", l->dir);

	*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (*fd >= 0 && flock(*fd, LOCK_EX | LOCK_NB) == 0)
		return false;
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
	return true;
}

/* Of what the one that this process booted said, when it is gone and never was there. */
static bool did_not_start(struct ray_local *l)
{
	cleanup_free char *path = xasprintf("%s/keeper.log", l->dir);
	cleanup_strbuf struct strbuf log = STRBUF_INIT;
	const char *line;

	if (!l->booted || ray_local_ready(l))
		return false;
	(void)strbuf_read_file(&log, path, (size_t)1 << 20);
	while (log.len && strchr(" \t\r\n", log.buf[log.len - 1]))
		strbuf_setlen(&log, log.len - 1);
	line = log.len ? memrchr(log.buf, '\n', log.len) : NULL;
	line = line ? line + 1 : log.buf;
	(void)snprintf(l->why, sizeof(l->why), "Ray did not start on this machine: %.160s (all it said is in %.100s)",
		       *line ? line : "it said nothing", path);
	for (char *c = l->why; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = ' ';
	return true;
}

/* Nobody is there. */
static int boot_wanted(struct ray_local *l, const struct ray_local_wish *wish, int lock, struct err *e)
{
	int rc;

	if (did_not_start(l)) {
		l->booted = false;
		l->again_at = wish->now + AGAIN_US;
	}
	if (wish->now < l->again_at)
		return err_set(e, -EIO, "%s", l->why);
	free(l->program);
	l->program = program_of(wish->start);
	if (!l->program)
		return err_set(
			e, -ENOENT,
			"there is no program `ray` in PATH: install it (pip install 'ray[default]'), or write start = "
			"/.../bin/ray");
	rc = boot(l, wish->size, lock, e);
	l->booted = rc == 0;
	return rc;
}

int ray_local_place(struct ray_local *l, const struct ray_local_wish *wish, char **address, char **token, struct err *e)
{
	cleanup_free char *at = xasprintf("%s/address", l->dir), *secret = xasprintf("%s/token", l->dir);
	cleanup_strbuf struct strbuf a = STRBUF_INIT, t = STRBUF_INIT;
	int lock, rc = 0;

	if (!alive(l, &lock)) {
		if (wish->wanted)
			rc = boot_wanted(l, wish, lock, e);
		(void)close(lock);
		if (rc < 0 || !wish->wanted)
			return rc < 0 ? rc : -EAGAIN;
	}
	if (strbuf_read_file(&a, at, 256) <= 0 || strbuf_read_file(&t, secret, 256) <= 0)
		return err_set(e, -EBUSY, "the Ray cluster of this machine is ending; another is started then");
	*address = xstrdup(a.buf);
	*token = xstrdup(t.buf);
	return 0;
}

void ray_local_wanted(struct ray_local *l, int64_t now)
{
	cleanup_free char *path = xasprintf("%s/wanted", l->dir);

	if (now < l->touch_at)
		return;
	l->touch_at = now + TOUCH_US;
	(void)utimensat(AT_FDCWD, path, NULL, 0);
}

/* `ray start` says it when the node is there, too; the dashboard answers earlier, and may have to go again. */
bool ray_local_ready(const struct ray_local *l)
{
	cleanup_free char *path = xasprintf("%s/keeper.log", l->dir);
	cleanup_strbuf struct strbuf log = STRBUF_INIT;

	(void)strbuf_read_file(&log, path, (size_t)1 << 20);
	return strstr(log.buf, "Ray runtime started") != NULL;
}

bool ray_local_booting(const struct ray_local *l)
{
	cleanup_free char *at = xasprintf("%s/address", l->dir);
	struct stat st;

	return stat(at, &st) == 0 && time(NULL) - st.st_mtime < BOOT_US / USEC_PER_SEC;
}
