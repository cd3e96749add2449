"""A job that says what it made. dagster-pipes is all that it needs; Dagster is not there."""
import json
import os
import sys
import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    rows = int(pipes.extras.get('rows', 10))
    partition = pipes.partition_key if pipes.is_partition_step else None
    for step in range(3):
        print('step', step, flush=True)
        time.sleep(float(pipes.extras.get('pause', 0)))
    print('this is stderr', file=sys.stderr)
    with open(os.path.join(os.environ['SLURMRAY_RESULTS'], 'model.json'), 'w', encoding='utf-8') as f:
        json.dump({'weights': [0.5] * rows, 'partition': partition}, f)
    pipes.log.info('learned from %d rows' % rows)
    pipes.report_asset_materialization(metadata={'rows': rows, 'accuracy': 0.93, 'partition': partition or '-'})
