/*
 * Answers of the keeper in the place of workers that cannot start (a disk that cannot be written, a broken
 * configuration).
 *
 * Invariants: RELEASE is never answered here but kept in a slot: a conversation that ends with it is the next worker's,
 * and the kernel lets nobody wait for it. Requests that want no answer get none. The keeper's own view of the shared
 * memory knows nothing of what workers parked, so each use maps it anew.
 */
#include "fs/outage.h"

#include "backend/base/log.h"
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <string.h>
#include <unistd.h>

static bool wants_answer(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
	       opcode != FUSE_NOTIFY_REPLY;
}

static bool is_close(uint32_t opcode)
{
	return opcode == FUSE_RELEASE || opcode == FUSE_RELEASEDIR;
}

/* Of a request that a worker had read. */
static int fate(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_WRITE:
	case FUSE_FSYNC:
	case FUSE_SETATTR:
	case FUSE_MKDIR:
	case FUSE_RMDIR:
	case FUSE_UNLINK:
	case FUSE_CREATE:
	case FUSE_RENAME:
	case FUSE_RENAME2:
		return -ETIMEDOUT;
	default:
		return -ENODEV;
	}
}

static void answer(int fd, uint64_t unique, int error)
{
	const struct fuse_out_header out = { .len = sizeof(out), .error = error, .unique = unique };

	if (write(fd, &out, sizeof(out)) < 0 && errno != ENOENT)
		log_error("answering request %llu: %s", (unsigned long long)unique, strerror(errno));
}

static struct shared *view(const struct shared *shared)
{
	struct err e = ERR_INIT;
	int fd = fcntl(shared_fd(shared), F_DUPFD_CLOEXEC, 3);
	struct shared *sh = NULL;

	if (fd >= 0 && shared_attach(fd, &sh, &e) < 0) {
		(void)close(fd);
		sh = NULL;
	}
	if (!sh)
		log_error("the shared memory cannot be looked at: %s", fd < 0 ? strerror(errno) : e.text);
	return sh;
}

static void keep_close(struct shared *sh, int fuse_fd, const struct fuse_in_header *in)
{
	size_t len;

	if (!shared_parked_data(sh, in->unique, &len) && shared_park(sh, in->unique, in, in->len) < 0)
		answer(fuse_fd, in->unique, 0);
}

void outage_begin(const struct shared *shared, int fuse_fd)
{
	struct shared *sh = view(shared);
	const struct fuse_in_header *in;
	uint64_t *list;
	size_t n, len;

	if (!sh)
		return;
	in = shared_cur(sh);
	if (shared_cur_unique(sh)) {
		if (is_close(in->opcode))
			keep_close(sh, fuse_fd, in);
		else if (wants_answer(in->opcode))
			answer(fuse_fd, in->unique, fate(in->opcode));
		shared_cur_clear(sh);
	}
	n = shared_parked_list(sh, &list);
	for (size_t i = 0; i < n; i++) {
		in = shared_parked_data(sh, list[i], &len);
		if (!in || is_close(in->opcode))
			continue;
		answer(fuse_fd, in->unique, fate(in->opcode));
		shared_unpark(sh, list[i]);
	}
	free(list);
	shared_set_busy(sh, 0);
	shared_detach(sh);
}

void outage_step(const struct shared *shared, int fuse_fd)
{
	static _Alignas(8) char buf[SHARED_REQUEST_MAX];
	const struct fuse_in_header *in = (const struct fuse_in_header *)(const void *)buf;
	ssize_t n = read(fuse_fd, buf, sizeof(buf));
	struct shared *sh;

	if (n < (ssize_t)sizeof(*in) || in->len != (size_t)n)
		return; /* interrupted meanwhile; the end of the mount is seen by poll */
	if (is_close(in->opcode) && (sh = view(shared))) {
		keep_close(sh, fuse_fd, in);
		shared_detach(sh);
	} else if (wants_answer(in->opcode)) {
		answer(fuse_fd, in->unique, -ENODEV);
	}
}
