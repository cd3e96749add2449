"""Stock Dagster over a mount: assets that run as jobs, with Dagster's own reader, injector and library. Needs the environment of
scripts/dagster-env.

usage: dagster_assets.py check MNT CLUSTER...   prints `ok NAME` or `not ok NAME`, reasons behind `# `
       dagster_assets.py again MNT CLUSTER SLURM_CONF MARK      a job that is requeued in the middle; MARK is a new file's path
       dagster_assets.py judge PROGRAM          compares the judge of messages with Dagster's handler
       dagster_assets.py payload CASE           the job of an asset
"""
import io
import json
import os
import random
import subprocess
import sys
import threading
import time

MB = 1 << 20
failed = []


def payload(case):
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        pipes.log.info('hello from %s' % pipes.get_extra('who'))
        for level in 'debug', 'warning', 'error', 'critical':
            getattr(pipes.log, level)('at level ' + level)
        if case == 'large':
            for size in MB, 20 * MB:
                pipes.report_custom_message('x' * size)
            for i in range(1000):
                pipes.report_custom_message(i)
        if case == 'raises':
            raise ValueError('not today')
        if case == 'again':
            start = int(os.environ.get('SLURM_RESTART_COUNT') or 0)
            pipes.report_custom_message(start)
            pipes.report_asset_materialization(data_version='v%d' % start, metadata={'start': start})
            pipes.report_asset_check('small', passed=start == 1)
            if start == 0:
                with open(os.environ['MARK'], 'w', encoding='utf-8'):
                    time.sleep(300)
            return
        if case == 'two':
            for key in 'first', 'second':
                pipes.report_asset_materialization(asset_key=key, metadata={'which': key})
            return
        pipes.report_asset_materialization(data_version='v7', metadata={
            'rows': 10, 'accuracy': 0.93, 'nan': float('nan'), 'url': {'raw_value': 'http://a/b', 'type': 'url'},
            'md': {'raw_value': '# T', 'type': 'md'}, 'json': {'raw_value': {'a': [1]}, 'type': 'json'},
            'table': {'type': 'table', 'raw_value': {'records': [{'a': 1}], 'schema': [{'name': 'a', 'type': 'int'}]}},
            'when': {'raw_value': 1e9, 'type': 'timestamp'}, 'partition': str(pipes.partition_key if pipes.is_partition_step else '-')})
        pipes.report_asset_check('small', passed=True, severity='WARN', metadata={'limit': 5})


def report(name, **have_want):
    wrong = ['%s: %.300r, not %.300r' % (k, h, w) for k, (h, w) in have_want.items() if h != w]
    print('%s %s' % ('not ok' if wrong else 'ok', name), flush=True)
    for text in wrong:
        print('# ' + text.replace('\n', ' '), flush=True)
    failed.extend(wrong)


def assets(mnt, cluster, case, more=None):
    import dagster as dg

    def run_job(context, name):
        run = '%s/runs/%s' % (mnt, name)
        os.mkdir(run)
        with dg.open_pipes_session(context, dg.PipesFileContextInjector(run + '/context'), dg.PipesFileMessageReader(run + '/events'),
                                   extras={'who': name}) as session:
            with open(run + '/spec', 'w', encoding='utf-8') as f:
                json.dump({'cluster': cluster, 'time': '10', 'command': [sys.executable, os.path.abspath(__file__), 'payload', case],
                           'env': dict(session.get_bootstrap_env_vars(), **({'MARK': more} if more else {})),
                           **({'requeue': True} if more else {})}, f)
            with open(run + '/wait', encoding='utf-8') as f:
                status = f.read().split()[0]
        context.log.info('status %s, closed %s' % (status, session.message_handler.received_closed_message))
        yield from session.get_results()
        for i in session.get_custom_messages():
            context.log.info('custom %s' % len(str(i)) if isinstance(i, str) else 'number %d' % i)
        if status != 'succeeded':
            with open(run + '/why', encoding='utf-8') as f:
                raise dg.Failure(f.readline().strip())

    name = '%s_%s_%d' % (cluster, case, int(time.time() * 1000) % 1000000)
    if case == 'two':
        @dg.multi_asset(specs=[dg.AssetSpec('first'), dg.AssetSpec('second')])
        def both(context: dg.AssetExecutionContext):
            yield from run_job(context, name)
        return both, name

    @dg.asset(check_specs=[dg.AssetCheckSpec('small', asset='model')] if case != 'raises' else None,
              partitions_def=dg.StaticPartitionsDefinition(['one', 'two']))
    def model(context: dg.AssetExecutionContext):
        yield from run_job(context, name)
    return model, name


def materialize(mnt, cluster, case, more=None, begun=None):
    import dagster as dg

    asset, name = assets(mnt, cluster, case, more)
    if begun:
        begun('%s/runs/%s' % (mnt, name))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], instance=instance, raise_on_error=False, partition_key=None if case == 'two' else 'two')
        logs = [r.user_message for r in instance.all_logs(result.run_id)]
        errors = [e.message for e in result.all_events if 'framework exception' in (e.message or '')]
    events = [e.materialization for e in result.all_events if e.is_step_materialization]
    return result, events, logs, errors, '%s/runs/%s' % (mnt, name)


def check(mnt, cluster):
    result, events, logs, errors, run = materialize(mnt, cluster, 'plain')
    meta = {k: v.value for k, v in events[0].metadata.items()} if events else {}
    checks = result.get_asset_check_evaluations()
    report('%s: an asset is materialized with stock Dagster' % cluster, success=(result.success, True), reader=(errors, []),
           rows=(meta.get('rows'), 10), accuracy=(meta.get('accuracy'), 0.93), url=(meta.get('url'), 'http://a/b'),
           partition=(meta.get('partition'), 'two'), version=([t for t in events[0].tags.values() if t == 'v7'] if events else 0, ['v7']),
           checks=([(c.check_name, c.passed) for c in checks], [('small', True)]),
           logs=([t in logs for t in ['hello from ' + os.path.basename(run)] + ['at level ' + w for w in (
               'debug', 'warning', 'error', 'critical')] + ['status succeeded, closed True']], [True] * 6),
           files=(sorted(os.listdir(run + '/pipes')), ['checks', 'custom', 'logs', 'materializations', 'superseded']))
    result, events, logs, errors, run = materialize(mnt, cluster, 'large')
    report('%s: messages of 1 MB and 20 MB, and a thousand' % cluster, success=(result.success, True), reader=(errors, []),
           materializations=(len(events), 1), sizes=([t for t in logs if t.startswith('custom ')], ['custom %d' % MB, 'custom %d' % (20 * MB)]),
           numbers=([t for t in logs if t.startswith('number ')] == ['number %d' % i for i in range(1000)], True))
    result, events, logs, errors, run = materialize(mnt, cluster, 'raises')
    why = str(result.get_step_failure_events()[0].step_failure_data.user_failure_data or result.get_step_failure_events()[0]) \
        if not result.success else ''
    report('%s: an exception in the job fails the step' % cluster, success=(result.success, False), reader=(errors, []),
           status=('status failed, closed True' in logs, True), why=('not today' in open(run + '/why', encoding='utf-8').read(), True),
           told=(bool(why), True))
    result, events, logs, errors, run = materialize(mnt, cluster, 'two')
    report('%s: two assets of one job' % cluster, success=(result.success, True), reader=(errors, []),
           keys=(sorted(e.asset_key.to_user_string() for e in events), ['first', 'second']))


# --- a job that Slurm starts twice ---

def read(path):
    try:
        with open(path, encoding='utf-8') as f:
            return f.read()
    except OSError:
        return ''


def until(cond, what):
    for _ in range(1200):
        if cond():
            return
        time.sleep(.1)
    raise TimeoutError(what)


def requeue(run, conf, mark, seen):
    """Beside the step: when its job has reported, Slurm starts it anew."""
    env = dict(os.environ, SLURM_CONF=conf)

    def scontrol(*words):
        return subprocess.run(['scontrol'] + list(words), env=env, timeout=30, check=False, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL).returncode == 0

    until(lambda: os.path.exists(mark), 'the first start')
    until(lambda: 'at level critical' in read(run + '/events'), 'its log messages')
    job = read(run + '/job_id').strip()
    seen['job'] = scontrol('requeue', job)
    until(lambda: read(run + '/status').strip() == 'pending', 'it waits again')
    time.sleep(3)  # what is left of the first start must be gone
    seen['held'] = read(run + '/events')
    seen['job'] = seen['job'] and scontrol('update', 'JobId=' + job, 'StartTime=now')


def again(mnt, cluster, conf, mark):
    seen, threads = {}, []

    def begun(run):
        threads.append(threading.Thread(target=requeue, args=(run, conf, mark, seen), daemon=True))
        threads[0].start()

    result, events, logs, errors, run = materialize(mnt, cluster, 'again', mark, begun)
    threads[0].join(10)
    lines = read(run + '/pipes/superseded').splitlines()
    feed = [e for e in map(json.loads, read(mnt + '/events').splitlines()) if e['run'] == os.path.basename(run) and e['type'] == 'report']
    report('%s: a job that Slurm starts twice is materialized once' % cluster, requeued=(seen.get('job'), True), success=(result.success, True),
           reader=(errors, []), versions=([e.metadata['start'].value for e in events], [1]),
           checks=([c.passed for c in result.get_asset_check_evaluations()], [True]),
           customs=([t for t in logs if t.startswith('number')], ['number 1']),
           closed=('status succeeded, closed True' in logs, True))
    report('%s: what its first start reported is held, and kept apart' % cluster,
           held=([m for m in ('report_', 'closed') if m in seen.get('held', 'report_')], []),
           logs=(seen.get('held', '').count('hello from'), 1), both=(read(run + '/events').count('hello from'), 2),
           superseded=([json.loads(t)['method'] for t in lines],
                       ['report_custom_message', 'report_asset_materialization', 'report_asset_check']),
           feed=(sorted(e['method'] for e in feed if e['method'].startswith('report_')),
                 ['report_asset_check', 'report_asset_materialization', 'report_custom_message']))


# --- the judge ---

def handle(line):
    """Does Dagster's handler take it?"""
    from unittest.mock import MagicMock

    import dagster._core.pipes.context as module
    from dagster import serialize_value
    from dagster._core.utils import coerce_valid_log_level

    class Reader:
        expected_writer_count = 1

        def on_opened(self, params):
            pass

    class Events:
        @staticmethod
        def engine_event(_context, _text, data):
            serialize_value(data)

    module.DagsterEvent = Events
    context = MagicMock()
    context.log.log = lambda level, text: coerce_valid_log_level(level)
    handler = module.PipesMessageHandler(context, Reader())
    out = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding='utf-8')
    try:
        handler.handle_message(json.loads(line))
        for r in handler.get_reported_results():
            serialize_value(dict(r.metadata or {}))
        return None
    except Exception as e:
        return e
    finally:
        sys.stdout, sys.stderr = out


SEEDS = [
    ('opened', {'extras': {}}), ('closed', {}), ('closed', {'exception': {'message': 'E: m', 'stack': ['a'], 'name': 'E', 'cause': {
        'message': 'F', 'stack': [], 'name': None, 'cause': None, 'context': None}, 'context': None}}),
    ('log', {'message': 'm', 'level': 'info'}), ('report_custom_message', {'payload': {'a': [1]}}),
    ('log_external_stream', {'stream': 'stdout', 'text': 't', 'extras': {}}),
    ('report_asset_check', {'asset_key': 'a', 'check_name': 'c', 'passed': True, 'severity': 'WARN', 'metadata': {}}),
] + [('report_asset_materialization', {'asset_key': 'a', 'data_version': 'v', 'metadata': {'k': {'raw_value': v, 'type': t}}}) for t, v in (
    ('__infer__', 1), ('text', 'x'), ('url', 'x'), ('path', 'x'), ('notebook', 'x'), ('json', {'a': 1}), ('md', 'x'), ('float', 1.5),
    ('int', 1), ('bool', True), ('dagster_run', 'r'), ('asset', 'a/b'), ('null', None), ('timestamp', 1.5),
    ('table', {'records': [{'a': 1, 'b': 'x'}, {'a': None, 'b': 2.5}], 'schema': [
        {'name': 'a', 'type': 'int', 'description': 'd', 'tags': {'t': 'u'}, 'constraints': {'nullable': True, 'other': ['x']}}]}),
    ('table_schema', {'columns': [{'name': 'a', 'type': 'int'}]}),
    ('table_column_lineage', {'deps_by_column': {'c': [{'asset_key': 'a', 'column_name': 'd'}]}}))]
VALUES = [None, True, False, 0, 1, -7, 10 ** 30, 1.5, float('nan'), '', 'x', 'info', 'WARN', 'stdout', '\ud800', [], ['x'], [1], {}, {'a': 1}]


def mutate(value, rng):
    """A copy in which one thing is another, missing, or too many."""
    places = []

    def walk(v, holder, key):
        places.append((v, holder, key))
        for k, inner in (v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ()):
            walk(inner, v, k)

    copy = json.loads(json.dumps(value))
    walk(copy, None, None)
    v, holder, key = rng.choice(places)
    if isinstance(v, dict) and rng.random() < .5:
        if v and rng.random() < .5:
            del v[rng.choice(list(v))]
        else:
            v[rng.choice(['other', 'name', 'exception', 'level'])] = rng.choice(VALUES)
    elif holder is not None:
        holder[key] = rng.choice(VALUES)
    return copy


def judge(program):
    rng = random.Random(1)
    lines, bad, strict = [], [], 0
    for i in range(6000):
        method, params = SEEDS[i % len(SEEDS)]
        m = {'__dagster_pipes_version': '0.1', 'method': method, 'params': params}
        for _ in range(i // len(SEEDS) % 3):
            m = mutate(m, rng)
        lines.append(json.dumps(m))
    said = subprocess.run([program], input='\n'.join(lines) + '\n', stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    for line, verdict in zip(lines, said):
        trouble = handle(line)
        if verdict.startswith('yes') and trouble:
            bad.append('%s: %s' % (trouble, line))
        strict += verdict.startswith('no') and not trouble
    report('no message that the judge takes ends Dagster\'s reader (%d lines)' % len(lines), bad=(bad[:3], []), all=(len(said), len(lines)))
    report('and it refuses few that would not (%d)' % strict, few=(strict < len(lines) / 20, True))


if __name__ == '__main__':
    if sys.argv[1] == 'payload':
        payload(sys.argv[2])
    elif sys.argv[1] == 'judge':
        judge(sys.argv[2])
    elif sys.argv[1] == 'again':
        again(*sys.argv[2:])
    else:
        for each in sys.argv[3:]:
            check(sys.argv[2], each)
    sys.exit(1 if failed else 0)
