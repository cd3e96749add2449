/*
 * How near two names are: what "did you mean" is made of.
 */
#ifndef BASE_NEAR_H
#define BASE_NEAR_H

/* Longer names are near to nothing. */
#define NEAR_MAX_LEN 32

/*
 * Edit distance: insertions, deletions, replacements and swaps of neighbours cost one each. NEAR_MAX_LEN when one of
 * the names is longer than that.
 */
int near_distance(const char *a, const char *b);

/* How many bytes the two have in common at their beginning. */
int near_prefix(const char *a, const char *b);

/*
 * Takes `candidate` for *found when it is nearer to `name` than *best, or as near and alike for longer at the
 * beginning. Begin with the distance that is too far in *best and NULL in *found.
 */
void near_consider(const char *name, const char *candidate, int *best, const char **found);

/* The distance from which on a candidate is no likely meaning of `name`: short names are near to everything. */
int near_limit(const char *name);

#endif
