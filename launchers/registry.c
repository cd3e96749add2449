/*
 * The table of launchers: one row each.
 */
#include "launchers/launcher.h"

#include <string.h>

extern const struct launcher launcher_bash, launcher_ray, launcher_session, launcher_spark;

const struct launcher *const launchers[] = { &launcher_bash, &launcher_ray, &launcher_session, &launcher_spark, NULL };

const struct launcher *launcher_find(const char *name)
{
	for (size_t i = 0; launchers[i]; i++)
		if (strcmp(launchers[i]->name, name) == 0)
			return launchers[i];
	return NULL;
}
