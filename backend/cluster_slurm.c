/*
 * The kind of cluster "slurm": which transport and which scheduler driver the remote cluster thread gets. The thread
 * itself is in remote.c and knows neither.
 */
#include "backend/remote.h"

static int slurm_start(const struct cluster_ctx *ctx, struct cluster **out, struct err *e)
{
	return remote_start(&transport_ssh2_ops, &sched_slurm_ops, ctx, NULL, transport_ssh2_describe, out, e);
}

const struct cluster_ops cluster_slurm_ops = {
	.type = CLUSTER_SLURM,
	.word = "slurm",
	.start = slurm_start,
	.post = remote_post,
	.stop = remote_stop,
};
