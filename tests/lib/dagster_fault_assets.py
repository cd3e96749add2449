"""Assets for tests/lib/dagster_faults.py, and their job. What each does is in the tags of its run: `case` names its files in CASES,
`cluster` is where its job runs, `spec` has more keys for it.

usage: dagster_fault_assets.py   is the job
"""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../docs/examples/dagster'))
PAUSE, PATIENCE = .25, 300


def job():
    """Notes that it started, reports until it is let go, and then what it reported."""
    import dagster_pipes as dp
    with dp.open_dagster_pipes() as pipes:
        path, sent = pipes.get_extra('path'), 0
        with open(path + '.starts', 'a', encoding='utf-8') as f:
            f.write(os.environ['SLURMRAY_RUN'] + '\n')
        while not os.path.exists(pipes.get_extra('go')) and sent < PATIENCE / PAUSE:
            pipes.log.info('message %d' % sent)
            sent += 1
            time.sleep(PAUSE)
        pipes.report_asset_check('whole', passed=True, metadata={'sent': sent})
        pipes.report_asset_materialization(metadata={'sent': sent})


if __name__ == '__main__':
    job()
    sys.exit()

import dagster as dg  # noqa: E402
import slurmray_dagster as sd  # noqa: E402

CASES = os.environ['CASES']


def body(context, name):
    tags = context.run.tags
    case = '-'.join(filter(None, [tags['case'], name, context.partition_key if context.has_partition_key else None]))
    path = os.path.join(CASES, case)
    results = sd.run(context, ['python3', os.path.basename(__file__)], files=[os.path.abspath(__file__)], cluster=tags['cluster'],
                     extras={'path': path, 'go': os.path.join(CASES, tags['case'] + '.go')}, **json.loads(tags.get('spec', '{}')))
    if tags['case'] == 'stumbles' and not os.path.exists(path + '.stumbled'):
        open(path + '.stumbled', 'w', encoding='utf-8').close()
        raise ValueError('after the job')
    yield from results


def made(name, **options):
    @dg.asset(name=name, check_specs=[dg.AssetCheckSpec('whole', asset=name)], **options)
    def asset(context: dg.AssetExecutionContext):
        yield from body(context, name)
    return asset


steady = made('steady')
stubborn = made('stubborn', retry_policy=dg.RetryPolicy(max_retries=2))
second = made('second', deps=[steady])
hundred = made('hundred', partitions_def=dg.StaticPartitionsDefinition(['p%03d' % i for i in range(100)]))

ASSETS = {'steady': [steady], 'stubborn': [stubborn], 'pair': [steady, second]}
defs = dg.Definitions(
    assets=[steady, stubborn, second, hundred], executor=dg.in_process_executor, sensors=[sd.cancel_sensor()],
    jobs=[dg.define_asset_job(name + '_job', assets, executor_def=dg.in_process_executor) for name, assets in ASSETS.items()] +
         [dg.define_asset_job(name + '_processes', assets, executor_def=dg.multiprocess_executor) for name, assets in ASSETS.items()])
