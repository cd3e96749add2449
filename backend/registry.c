/*
 * The table of cluster kinds: one row each.
 */
#include "backend/cluster.h"

#include "backend/base/mem.h"

static const struct cluster_ops *const kinds[] = { &cluster_local_ops, &cluster_slurm_ops, &cluster_ray_ops };

const struct cluster_ops *cluster_ops_find(enum cluster_type type)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i]->type == type)
			return kinds[i];
	return NULL;
}
