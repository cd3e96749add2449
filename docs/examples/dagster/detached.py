"""Assets whose jobs nobody waits for: one step submits and ends, a sensor reports what became of it. No process is held."""
import json
import os

import dagster as dg
from slurmray_dagster import BAD, MOUNT, draft, read, submit

TAG = 'detached'
survey = dg.AssetSpec('survey', description='Materialized by the sensor, when its job has ended.')


@dg.op
def submit_survey(context):
    path = draft(context)
    job = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'jobs', 'survey.py')
    submit(context, path, {'command': ['python3', 'survey.py'], 'files': [job], 'pipes': True, 'tags': [TAG], 'time': '10'})


@dg.job
def begin_survey():
    submit_survey()


@dg.sensor(minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def detached_jobs(context):
    """What the jobs have reported, once each: the cursor has those that were seen."""
    tag, seen, events = '%s/by/tag/%s' % (MOUNT, TAG), json.loads(context.cursor or '[]'), []
    names = sorted(os.listdir(tag)) if os.path.isdir(tag) else []
    for name in names:
        path = '%s/%s' % (tag, name)
        status = read(path, 'status')
        if name in seen or status not in BAD + ['succeeded']:
            continue
        seen.append(name)
        if status in BAD:
            context.log.error('%s: %s' % (name, read(path, 'why')))
            continue
        for line in read(path, 'pipes/materializations').splitlines():
            said = json.loads(line)
            metadata = {k: v['raw_value'] for k, v in (said['metadata'] or {}).items()}
            events.append(dg.AssetMaterialization(dg.AssetKey.from_user_string(said['asset_key']), metadata={
                **metadata, 'slurmray/run': dg.MetadataValue.path('%s/runs/%s' % (MOUNT, name))}))
    return dg.SensorResult(asset_events=events, cursor=json.dumps([n for n in seen if n in names]))
