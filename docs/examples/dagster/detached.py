"""Assets whose jobs nobody waits for: one step submits and ends, a sensor reports what became of it. No process is held."""
import json
import os

import dagster as dg
from slurmray_dagster import BAD, MOUNT, draft, submit

TAG = 'detached'
MOST = 64 << 20  # bytes that one look reads; the next one goes on
survey = dg.AssetSpec('survey', description='Materialized by the sensor, when its job has ended.')


@dg.op
def submit_survey(context):
    path = draft(context)
    job = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'jobs', 'survey.py')
    submit(context, path, {'command': ['python3', 'survey.py'], 'files': [job], 'pipes': True, 'tags': [TAG], 'time': '10'})


@dg.job
def begin_survey():
    submit_survey()


def line_at(feed, at):
    feed.seek(at)
    line = feed.readline()
    return json.loads(line) if line else None, at + len(line)


def materialization(said, run):
    metadata = {k: v['raw_value'] for k, v in (said['metadata'] or {}).items()}
    return dg.AssetMaterialization(dg.AssetKey.from_user_string(said['asset_key']), metadata={
        **metadata, 'slurmray/run': dg.MetadataValue.path('%s/runs/%s' % (MOUNT, run))})


@dg.sensor(minimum_interval_seconds=10, default_status=dg.DefaultSensorStatus.RUNNING)
def detached_jobs(context):
    """What the jobs have reported, once each, when they have succeeded. The cursor is a place in the events of the mount, with the places
    of reports whose jobs have not ended."""
    seen, events = json.loads(context.cursor or '{"at": 0, "reports": {}}'), []
    with open(MOUNT + '/events', 'rb') as feed:
        end = seen['at'] + MOST
        while seen['at'] < end:
            line, behind = line_at(feed, seen['at'])
            if line is None:
                break
            number = str(line['num'])  # a name may be used again, after a purge
            if TAG in line['tags'] and line['type'] == 'report' and line['method'] == 'report_asset_materialization':
                seen['reports'].setdefault(number, []).append(seen['at'])
            elif TAG in line['tags'] and line['type'] == 'status' and line['to'] in BAD + ['succeeded']:
                reports = seen['reports'].pop(number, [])
                if line['to'] in BAD:
                    context.log.error('%s: %s' % (line['run'], line['why'] or line['to']))
                else:
                    events += [materialization(line_at(feed, at)[0]['params'], line['run']) for at in reports]
            seen['at'] = behind
    return dg.SensorResult(asset_events=events, cursor=json.dumps(seen))
