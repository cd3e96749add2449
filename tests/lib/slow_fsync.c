/*
 * For LD_PRELOAD: fsync(2) and fdatasync(2) of the journal wait while the file $SLOW_FSYNC is there, as they do on a
 * disk that hangs. The test that needs it compiles it.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void hang(int fd)
{
	const struct timespec pause = { .tv_nsec = 5000000 };
	const char *flag = getenv("SLOW_FSYNC");
	char link[64], path[PATH_MAX];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	while (flag && strstr(path, "/journal.db") && access(flag, F_OK) == 0)
		(void)nanosleep(&pause, NULL);
}

int fsync(int fd)
{
	hang(fd);
	return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
	hang(fd);
	return (int)syscall(SYS_fdatasync, fd);
}
