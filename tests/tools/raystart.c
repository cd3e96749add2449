/* Prints `ray-start`, the program that starts Ray with patience, for tests that have a head of their own. */
#include "launchers/ray.h"

#include <stdio.h>

int main(void)
{
	return fputs(ray_start_text, stdout) < 0 || fflush(stdout) != 0;
}
