/*
 * Says of each line on standard input whether a run's events would show it: `yes KIND` or `no REASON`. For comparing the judge
 * with Dagster's own handler.
 */
#include "backend/pipes.h"

#include <stdio.h>
#include <stdlib.h>

int main(void)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t n;

	while ((n = getline(&line, &size, stdin)) > 0) {
		struct pipes_verdict v;

		pipes_judge(line, (size_t)n, &v);
		if (v.kind == PIPES_REJECTED)
			(void)printf("no %s\n", pipes_reason_text(v.reason));
		else
			(void)printf("yes %d %zu %.*s\n", (int)v.kind, v.torn, (int)v.params_len, line + v.params);
	}
	free(line);
	return 0;
}
