/*
 * idbench RUNS-NEW FILE N: how long a write to runs/new takes until its id is read back, against one write and fsync of
 * FILE on the state's disk, in turns. Prints medians and the difference in microseconds. The runs are held, so that no
 * job disturbs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static double one_submit(const char *path)
{
	static const char spec[] = "hold=true -- true\n";
	char id[64];
	double start;
	int fd = open(path, O_RDWR);

	if (fd < 0)
		return -1;
	start = now_us();
	if (write(fd, spec, sizeof(spec) - 1) != (ssize_t)sizeof(spec) - 1 || read(fd, id, sizeof(id)) <= 0)
		start = -1;
	else
		start = now_us() - start;
	(void)close(fd);
	return start;
}

static double one_fsync(int fd)
{
	static const char data[512];
	double start = now_us();

	if (write(fd, data, sizeof(data)) != (ssize_t)sizeof(data) || fsync(fd) < 0)
		return -1;
	return now_us() - start;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void row(const char *name, double *v, size_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	(void)printf("| %s | %.0f | %.0f | %.0f | %zu |\n", name, v[n / 10], v[n / 2], v[n * 9 / 10], n);
}

int main(int argc, char **argv)
{
	size_t n = argc == 4 ? (size_t)strtoul(argv[3], NULL, 10) : 0;
	double *a, *b;
	int fd;

	if (n < 1 || n > 100000) {
		(void)fprintf(stderr, "usage: idbench RUNS-NEW FILE N\n");
		return 2;
	}
	a = calloc(n, sizeof(*a));
	b = calloc(n, sizeof(*b));
	fd = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (!a || !b || fd < 0) {
		perror(argv[2]);
		return 1;
	}
	for (size_t i = 0; i < n; i++) {
		a[i] = one_submit(argv[1]);
		b[i] = one_fsync(fd);
		if (a[i] < 0 || b[i] < 0) {
			perror(a[i] < 0 ? argv[1] : argv[2]);
			return 1;
		}
	}
	(void)printf("| operation | p10 us | median us | p90 us | n |\n|---|---|---|---|---|\n");
	row("write a spec, read its id", a, n);
	row("write and fsync of 512 bytes", b, n);
	(void)printf("\nThe id costs %.0f us more than one fsync (medians).\n", a[n / 2] - b[n / 2]);
	return 0;
}
