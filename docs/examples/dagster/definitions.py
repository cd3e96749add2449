"""Assets that run as jobs: on this machine, or where SLURMRAY_CLUSTER says."""
import json
import os

import dagster as dg
from detached import begin_survey, detached_jobs, survey
from slurmray_dagster import cancel_sensor, run

JOBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'jobs')
SMALL = {'time': '10'}
LARGE = {'time': '1:00:00', 'cpus_per_task': 2}
SIZE = LARGE if 'SLURMRAY_CLUSTER' in os.environ else SMALL


def script(name):
    return os.path.join(JOBS, name)


@dg.asset
def model(context: dg.AssetExecutionContext):
    """A job that reports by Dagster Pipes. What it wrote to $SLURMRAY_RESULTS is a file to open."""
    job = run(context, ['python3', 'train.py'], files=[script('train.py')], extras={'rows': 100}, **SIZE)
    with open(f'{job.path}/results/model.json', encoding='utf-8') as f:
        context.add_asset_metadata({'weights': len(json.load(f)['weights'])})
    yield from job


@dg.asset(deps=[model])
def simulation(context: dg.AssetExecutionContext):
    """A program that knows nothing of Dagster."""
    yield from run(context, ['sh', 'simulate.sh', '42'], files=[script('simulate.sh')], **SMALL)


@dg.asset(partitions_def=dg.StaticPartitionsDefinition([f'seed{i:03}' for i in range(100)]))
def ensemble(context: dg.AssetExecutionContext):
    """A job for each partition: a backfill of all is a hundred jobs in the queue."""
    yield from run(context, ['sh', 'simulate.sh', context.partition_key], files=[script('simulate.sh')], **SMALL)


@dg.asset(partitions_def=dg.DailyPartitionsDefinition('2026-01-01', end_date='2026-02-01'),
          backfill_policy=dg.BackfillPolicy.single_run())
def days(context: dg.AssetExecutionContext):
    """One job for all partitions of a backfill, each with metadata of its own."""
    yield from run(context, ['python3', 'days.py'], files=[script('days.py')], extras={'days': context.partition_keys}, **SMALL)


@dg.multi_asset(specs=[dg.AssetSpec('customers'), dg.AssetSpec('orders')],
                check_specs=[dg.AssetCheckSpec('orders_have_customers', asset='orders')])
def tables(context: dg.AssetExecutionContext):
    """Two assets and a check from one job."""
    yield from run(context, ['python3', 'tables.py'], files=[script('tables.py')], **SMALL)


nightly = dg.define_asset_job('nightly', selection=['model', 'simulation'])

defs = dg.Definitions(
    assets=[model, simulation, ensemble, days, tables, survey],
    jobs=[begin_survey],
    schedules=[dg.ScheduleDefinition(job=nightly, cron_schedule='0 3 * * *')],
    sensors=[cancel_sensor(), detached_jobs])
