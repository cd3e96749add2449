/*
 * The least that a FUSE server can be: one directory with one file, `status`, which always says "running". It is what
 * slurmray's stat and open+read+close are measured against, since no file system in user space can be much quicker than
 * libfuse's own loop around an answer that is a constant. direct_io and timeouts of zero, as slurmray's live files
 *have.
 *
 *	minifs DIR		in the foreground, until it is unmounted or gets SIGTERM
 */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse3/fuse_lowlevel.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STATUS_INO = 2 };

static const char content[] = "running\n";

static int attributes(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = ino;
	st->st_uid = getuid();
	st->st_gid = getgid();
	if (ino == FUSE_ROOT_ID) {
		st->st_mode = S_IFDIR | 0500;
		st->st_nlink = 2;
	} else if (ino == STATUS_INO) {
		st->st_mode = S_IFREG | 0400;
		st->st_nlink = 1;
		st->st_size = sizeof(content) - 1;
	} else {
		return ENOENT;
	}
	return 0;
}

static void mini_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int error = attributes(ino, &st);

	(void)fi;
	if (error)
		(void)fuse_reply_err(req, error);
	else
		(void)fuse_reply_attr(req, &st, 0);
}

static void mini_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .ino = STATUS_INO };

	if (parent != FUSE_ROOT_ID || strcmp(name, "status") != 0 || attributes(STATUS_INO, &e.attr))
		(void)fuse_reply_err(req, ENOENT);
	else
		(void)fuse_reply_entry(req, &e);
}

static void mini_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	static const char *const names[] = { ".", "..", "status" };
	char buf[512];
	size_t used = 0, i;

	(void)ino;
	(void)fi;
	for (i = (size_t)off; i < 3; i++) {
		struct stat st = { .st_ino = i == 2 ? STATUS_INO : FUSE_ROOT_ID,
				   .st_mode = i == 2 ? S_IFREG : S_IFDIR };
		size_t room = (size < sizeof(buf) ? size : sizeof(buf)) - used;
		size_t n = fuse_add_direntry(req, buf + used, room, names[i], &st, (off_t)i + 1);

		if (n > room)
			break;
		used += n;
	}
	(void)fuse_reply_buf(req, buf, used);
}

static void mini_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->direct_io = 1;
	(void)fuse_reply_open(req, fi);
}

static void mini_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	size_t len = sizeof(content) - 1, from = off < (off_t)len ? (size_t)off : len;

	(void)ino;
	(void)fi;
	(void)fuse_reply_buf(req, content + from, size < len - from ? size : len - from);
}

static const struct fuse_lowlevel_ops ops = {
	.lookup = mini_lookup,
	.getattr = mini_getattr,
	.readdir = mini_readdir,
	.open = mini_open,
	.read = mini_read,
};

int main(int argc, char **argv)
{
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_session *se;
	int ret;

	if (argc != 2) {
		fprintf(stderr, "usage: minifs DIR\n");
		return 2;
	}
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (!se)
		return 1;
	if (fuse_set_signal_handlers(se) || fuse_session_mount(se, argv[1])) {
		fuse_session_destroy(se);
		return 1;
	}
	ret = fuse_session_loop(se);
	fuse_session_unmount(se);
	fuse_remove_signal_handlers(se);
	fuse_session_destroy(se);
	fuse_opt_free_args(&args);
	return ret < 0;
}
