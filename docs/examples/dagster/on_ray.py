"""Assets on Ray: on a cluster that is there, on one for a single job, on one that stays warm, and with this process as its driver."""
import os
import random

import dagster as dg
from slurmray_dagster import MOUNT, read, run
from slurmray_session import Session, ray_of

PI = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'jobs', 'pi.py')
HPC, LAB = os.environ.get('SLURMRAY_CLUSTER', 'hpc'), os.environ.get('RAY_CLUSTER', 'lab')
NODES = int(os.environ.get('RAY_NODES', '2'))

WARM = Session(name='warm', spec={'cluster': HPC, 'nodes': NODES, 'ray': True, 'time': '8:00:00', 'idle': '0'})


@dg.asset
def pi_elsewhere(context: dg.AssetExecutionContext):
    """`[cluster lab]` has `type = ray`: the job is one of its Jobs API."""
    yield from run(context, ['python3', 'pi.py'], files=[PI], cluster=LAB, ray={'entrypoint_num_cpus': 1})


@dg.asset
def pi_allocation(context: dg.AssetExecutionContext):
    """A Ray cluster on all nodes of the job, there when it starts and gone when it ends."""
    yield from run(context, ['python3', 'pi.py'], files=[PI], cluster=HPC, launcher='ray', nodes=NODES, time='30')


@dg.asset
def pi_warm(context: dg.AssetExecutionContext, warm: Session):
    """The Ray cluster of a session, which other steps and runs use as well: the job starts at once."""
    yield from run(context, ['python3', 'pi.py'], files=[PI], cluster=HPC, session=warm.name, launcher='ray')


@dg.asset
def pi_here(context: dg.AssetExecutionContext, warm: Session):
    """This process is the driver, its tasks run in the session. Needs the Python and the Ray that are there."""
    def inside(count):  # in here it travels by its value; of a module only the name does
        return sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(count))

    session = '%s/sessions/%s' % (MOUNT, warm.name)
    with ray_of(MOUNT + '/runs/' + read(session, 'run')) as cluster:
        import ray
        hits = ray.get([ray.remote(inside).remote(100000) for _ in range(10)])
        return dg.MaterializeResult(metadata={'pi': sum(hits) / 250000, 'ray': cluster.ray_version})


defs = dg.Definitions(
    assets=[pi_elsewhere, pi_allocation, pi_warm, pi_here],
    jobs=[dg.define_asset_job('pi_in_session', [pi_warm, pi_here])],
    resources={'warm': WARM})
