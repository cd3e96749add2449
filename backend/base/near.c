/*
 * Edit distance over short names (Damerau's with restricted transpositions), for sentences that say what was meant. A
 * table on the stack of NEAR_MAX_LEN squared; longer names are not compared.
 */
#include "backend/base/near.h"

#include <string.h>

static int min3(int a, int b, int c)
{
	int m = a < b ? a : b;

	return m < c ? m : c;
}

int near_distance(const char *a, const char *b)
{
	int d[NEAR_MAX_LEN + 1][NEAR_MAX_LEN + 1];
	size_t la = strlen(a), lb = strlen(b);

	if (la > NEAR_MAX_LEN || lb > NEAR_MAX_LEN)
		return NEAR_MAX_LEN;
	for (size_t i = 0; i <= la; i++)
		d[i][0] = (int)i;
	for (size_t j = 0; j <= lb; j++)
		d[0][j] = (int)j;
	for (size_t i = 1; i <= la; i++) {
		for (size_t j = 1; j <= lb; j++) {
			int swap = NEAR_MAX_LEN;

			d[i][j] = min3(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				swap = d[i - 2][j - 2] + 1;
			if (swap < d[i][j])
				d[i][j] = swap;
		}
	}
	return d[la][lb];
}

int near_prefix(const char *a, const char *b)
{
	int n = 0;

	while (a[n] && a[n] == b[n])
		n++;
	return n;
}

void near_consider(const char *name, const char *candidate, int *best, const char **found)
{
	int d = near_distance(name, candidate);

	if (d < *best || (d == *best && *found && near_prefix(name, candidate) > near_prefix(name, *found))) {
		*best = d;
		*found = candidate;
	}
}

int near_limit(const char *name)
{
	size_t len = strlen(name);

	return len < 4 ? 2 : len < 9 ? 3 : 4;
}
