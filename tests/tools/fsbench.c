/*
 * Times small file operations on two paths, A and B, in turns: a round does N of A, then N of B, so that whatever else
 *the machine does hits both alike. What counts is the ratio of the medians within each round; its spread over the
 *rounds says how far to believe it.
 *
 *	fsbench [-n N] [-r ROUNDS] A B			stat and open+read+close; a Markdown table in microseconds
 *	fsbench [-n N] --fsync FILE			write+fsync of one block: what a durable answer costs at least
 *here
 *
 * Every single operation is timed; medians and percentiles are over all rounds.
 */
#include "backend/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct series {
	double *us; /* all rounds, one after the other */
	size_t n;
};

static double now_us(void)
{
	struct timespec t;

	/* backend/base/clock.h counts whole microseconds; too coarse for single operations. */
	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void die(const char *what)
{
	fprintf(stderr, "fsbench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void op_stat(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		die(path);
}

static void op_read(const char *path)
{
	char buf[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || read(fd, buf, sizeof(buf)) <= 0 || close(fd) < 0)
		die(path);
}

static void op_fsync(const char *path)
{
	static const char block[4096];
	static int fd = -1;

	if (fd < 0)
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || pwrite(fd, block, sizeof(block), 0) != sizeof(block) || fsync(fd) < 0)
		die(path);
}

static void measure(struct series *s, void (*op)(const char *), const char *path, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		double start = now_us();

		op(path);
		s->us[s->n++] = now_us() - start;
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double percentile(const double *values, size_t n, double p)
{
	double *sorted = xmalloc(n * sizeof(*sorted)), v;

	memcpy(sorted, values, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_value);
	v = sorted[(size_t)(p * (double)(n - 1) + 0.5)];
	free(sorted);
	return v;
}

static void print_series(const char *op, const char *path, const struct series *s)
{
	printf("| %s | %s | %.1f | %.1f | %.1f | %zu |\n", op, path, percentile(s->us, s->n, 0.1),
	       percentile(s->us, s->n, 0.5), percentile(s->us, s->n, 0.9), s->n);
}

static void print_head(void)
{
	printf("| operation | path | p10 us | median us | p90 us | n |\n|---|---|---|---|---|---|\n");
}

static void compare(const char *name, void (*op)(const char *), char *const paths[2], size_t n, size_t rounds,
		    double ratio[3])
{
	struct series s[2];
	double *ratios = xcalloc(rounds, sizeof(*ratios));
	size_t i, k;

	for (k = 0; k < 2; k++) {
		s[k] = (struct series){ xcalloc(n * rounds, sizeof(double)), 0 };
		measure(&s[k], op, paths[k], n < 100 ? n : 100); /* warm up */
		s[k].n = 0;
	}
	for (i = 0; i < rounds; i++) {
		for (k = 0; k < 2; k++)
			measure(&s[(k + i) % 2], op, paths[(k + i) % 2], n);
		ratios[i] = percentile(s[0].us + i * n, n, 0.5) / percentile(s[1].us + i * n, n, 0.5);
	}
	for (k = 0; k < 2; k++) {
		print_series(name, paths[k], &s[k]);
		free(s[k].us);
	}
	ratio[0] = percentile(ratios, rounds, 0.1);
	ratio[1] = percentile(ratios, rounds, 0.5);
	ratio[2] = percentile(ratios, rounds, 0.9);
	free(ratios);
}

static size_t number(const char *text)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno || end == text || *end || n == 0 || n > 10000000) {
		errno = EINVAL;
		die(text);
	}
	return n;
}

static void bench_fsync(const char *path, size_t n)
{
	struct series s = { xcalloc(n, sizeof(double)), 0 };

	measure(&s, op_fsync, path, n);
	print_head();
	print_series("write+fsync", path, &s);
	free(s.us);
	(void)unlink(path);
}

int main(int argc, char **argv)
{
	size_t n = 1000, rounds = 20;
	const char *fsync_path = NULL;
	double stats[3], reads[3];
	int i;

	for (i = 1; i + 1 < argc && argv[i][0] == '-'; i += 2) {
		if (!strcmp(argv[i], "-n"))
			n = number(argv[i + 1]);
		else if (!strcmp(argv[i], "-r"))
			rounds = number(argv[i + 1]);
		else if (!strcmp(argv[i], "--fsync"))
			fsync_path = argv[i + 1];
		else
			break;
	}
	if (fsync_path && i == argc) {
		bench_fsync(fsync_path, n);
		return 0;
	}
	if (fsync_path || argc - i != 2) {
		fprintf(stderr, "usage: fsbench [-n N] [-r ROUNDS] A B | fsbench [-n N] --fsync FILE\n");
		return 2;
	}
	print_head();
	compare("stat", op_stat, argv + i, n, rounds, stats);
	compare("open+read+close", op_read, argv + i, n, rounds, reads);
	printf("\n| ratio A/B of the medians of a round | p10 | median | p90 | rounds |\n|---|---|---|---|---|\n");
	printf("| stat | %.2f | %.2f | %.2f | %zu |\n", stats[0], stats[1], stats[2], rounds);
	printf("| open+read+close | %.2f | %.2f | %.2f | %zu |\n", reads[0], reads[1], reads[2], rounds);
	return 0;
}
