"""A driver of Ray: ray.init() finds the cluster that the job was given, whichever that is."""
import random

import ray
from dagster_pipes import open_dagster_pipes


@ray.remote
def inside(count):
    return sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(count))


with open_dagster_pipes() as pipes:
    ray.init()
    hits = ray.get([inside.remote(100000) for _ in range(10)])
    nodes = sum(node['Alive'] for node in ray.nodes())
    print('on %d nodes' % nodes, flush=True)
    pipes.report_asset_materialization(metadata={'pi': sum(hits) / 250000, 'nodes': nodes})
