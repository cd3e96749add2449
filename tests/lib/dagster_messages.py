"""Messages side by side: stock Dagster's file reader on a plain file, and the same reader on a run's events. Needs the environment of
scripts/dagster-env.

usage: dagster_messages.py check N MNT CLUSTER [CASE...]   prints `ok NAME` or `not ok NAME`, reasons behind `# `; nothing of the plain file
       dagster_messages.py bench N MNT CLUSTER [CASE...]   prints rows of Markdown, of both; what each run gave goes to stderr
       dagster_messages.py payload CASE                    the job of a case

Everything that is valid is counted: each case sends numbered custom messages, and a materialization as its last report. A run has lost
something when it ends with less or other messages, or without exactly one materialization.
"""
import json
import os
import subprocess
import sys
import tempfile
import time

import pipes

MB = 1 << 20
ME = os.path.abspath(__file__)
LAST = pipes.materialization(rows=1)


def custom(text):
    return pipes.message('report_custom_message', {'payload': text})


def numbered(sizes):
    return ['%d:' % i + 'x' * n for i, n in enumerate(sizes)]


def send(*texts, closed=True):
    pipes.emit(pipes.opened(), *texts, LAST, *([pipes.closed()] if closed else []))


class Case:
    """What is sent, what must arrive, and the words of its row. `steps` are messages as bytes or text, as they are written."""

    def __init__(self, words, steps, want, closed=True):
        self.words, self.steps, self.want, self.closed = words, steps, want, closed

    def payload(self):
        send(*self.steps(), closed=self.closed)


def good(words, sizes, closed=True):
    return Case(words, lambda: map(custom, numbered(sizes)), lambda: numbered(sizes), closed)


def between(words, bad):
    return Case(words, lambda: [custom('before'), bad, custom('after')], lambda: ['before', 'after'])


class Cut(Case):
    """The job cuts its file when all of that was seen, and writes anew."""

    def payload(self):
        pipes.emit(pipes.opened(), *map(custom, numbered([1000] * 50)))
        time.sleep(2)
        os.truncate(pipes.decode(os.environ['DAGSTER_PIPES_MESSAGES'])['path'], 0)
        pipes.emit(custom('anew'), LAST, pipes.closed())


class Two(Case):
    def payload(self):
        pipes.emit(pipes.opened())
        child = os.fork()
        pipes.emit(*(custom('%s:%d:' % ('parent' if child else 'child', i) + 'x' * 20000) for i in range(200)))
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        pipes.emit(LAST, pipes.closed())

    @staticmethod
    def same(have):
        return [[m for m in have if m.startswith(who)] for who in ('parent', 'child')]


CASES = {
    'fifty': good('50 of 1 MB', [MB] * 50),
    'three_hundred': good('300 of 20 kB', [20000] * 300),
    'large': good('1 MB and 20 MB', [MB, 20 * MB]),
    'small': good('20,000 of 10 bytes', [10] * 20000),
    'junk': between('a line of junk', 'Traceback (most recent call last):\n'),
    'blank': between('a blank line', '\n'),
    'partial': between('a line in two writes, 0.2 s between them', None),
    'piece': between('a piece of a line', '{"__dagster_pipes_version": "0.1", "method": "log", "par\n'),
    'method': between('an unknown method', pipes.message('nope', {})),
    'parameter': between('a wrong parameter', pipes.message('log', {'text': 'm'})),
    'level': between('an unknown level', pipes.log('m', 'loud')),
    'metadata': between('an unknown metadata type', pipes.message('report_asset_materialization', {
        'asset_key': 'a', 'data_version': None, 'metadata': {'k': {'raw_value': 1, 'type': 'strange'}}})),
    'utf8': between('invalid UTF-8', b'{"method": "\xff\xfe"}\n'),
    'closed': good('no `closed`', [10] * 10, closed=False),
    'cut': Cut('the job truncates the file', None, lambda: numbered([1000] * 50) + ['anew']),
    'two': Two('two writers, 200 of 20 kB each', None, lambda: ['%s:%d:' % (who, i) + 'x' * 20000 for who in ('parent', 'child')
                                                               for i in range(200)]),
}


def partial_payload():
    line = custom('between')
    pipes.emit(pipes.opened(), custom('before'), line[:40])
    time.sleep(0.2)
    pipes.emit(line[40:], custom('after'), LAST, pipes.closed())


CASES['partial'].payload = partial_payload
CASES['partial'].want = lambda: ['before', 'between', 'after']


# --- this side ---

def on_file(_mnt, _cluster, case, session_of):
    with tempfile.TemporaryDirectory() as scratch:
        path = scratch + '/messages'
        return session_of(path, lambda env: subprocess.run([sys.executable, ME, 'payload', case], check=True, timeout=120,
                                                          env={**os.environ, **env}))


def on_mount(mnt, cluster, case, session_of):
    run = '%s/runs/messages_%s_%d' % (mnt, case, time.time_ns() // 1000)
    os.mkdir(run)

    def job(env):
        with open(run + '/spec', 'w', encoding='utf-8') as f:
            json.dump({'cluster': cluster, 'time': '10', 'command': [sys.executable, ME, 'payload', case], 'env': env}, f)
        with open(run + '/wait', encoding='utf-8') as f:
            status = f.read().strip()
        assert status == 'succeeded 0', status
    return session_of(run + '/events', job)


WAYS = {'file': on_file, 'slurmray': on_mount}


def one(instance, way, mnt, cluster, case):
    """What a run lost, in words; an empty list when everything arrived. And whether Dagster called the step a success."""
    import dagster as dg
    messages, readable = [], []

    # `a` is the key in the materializations of pipes.py.
    @dg.asset(name='a')
    def asset(context: dg.AssetExecutionContext):
        def session_of(path, job):
            with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), dg.PipesFileMessageReader(path, cleanup_file=False)) as session:
                job(dict(session.get_bootstrap_env_vars()))
            messages.extend(session.get_custom_messages())
            with open(path, 'rb') as f:  # whose loss is it: the file's, or its reader's?
                readable.append(f.read().count(b'\n'))
            return session.get_results()
        yield from WAYS[way](mnt, cluster, case, session_of)

    result = dg.materialize([asset], instance=instance, raise_on_error=False)
    lost = []
    for e in result.all_events:
        if e.is_step_failure:
            lost.append('the step failed: %s' % e.step_failure_data.error.message.strip())
    rows = [e.materialization.metadata['rows'].value for e in result.all_events if e.is_step_materialization
            and 'rows' in e.materialization.metadata]
    if rows != [1]:
        lost.append('the materialization')
    want = CASES[case].want()
    same = getattr(CASES[case], 'same', lambda have: have)
    if same(messages) != same(want) or len(messages) != len(want):
        lost.append('%d of %d messages' % (len(want) - len(messages), len(want)))
    return [text + ' (the file has %s lines)' % readable for text in lost], result.success


def quiet():
    """Dagster's own log lines would be all that is seen."""
    import logging
    import warnings
    logging.disable(logging.CRITICAL)
    warnings.simplefilter('ignore')


def check(n, mnt, cluster, names):
    import dagster as dg
    quiet()
    bad = 0
    for case in names:
        wrong = []
        for _ in range(n):
            with dg.DagsterInstance.ephemeral() as instance:
                wrong += one(instance, 'slurmray', mnt, cluster, case)[0]
        print('%s %s: %s: all arrives' % ('not ok' if wrong else 'ok', cluster, CASES[case].words), flush=True)
        for text in wrong:
            print('# ' + text.replace('\n', ' '), flush=True)
        bad += bool(wrong)
    return bad


def bench(n, mnt, cluster, names):
    import dagster as dg
    quiet()
    seen = {(case, way): [] for case in names for way in WAYS}
    for i in range(n):  # in turns: the machine's pace is that of both
        for case in names:
            for way in WAYS:
                began = time.time()
                with dg.DagsterInstance.ephemeral() as instance:
                    lost, success = one(instance, way, mnt, cluster, case)
                seen[case, way].append((lost, success))
                print(i, case, way, 'success' if success else 'failure', '%.1f s' % (time.time() - began), '; '.join(lost) or 'all', file=sys.stderr,
                      flush=True)
    for case in names:
        plain, ours = ([s for s in seen[case, way]] for way in WAYS)
        print('| %s | %d | %d | %d | %d | %d |' % (CASES[case].words, n, sum(bool(x) for x, _ in plain), sum(any('the materialization' in text for text in x) for x, _ in plain),
                                                   sum(bool(x) and s for x, s in plain), sum(bool(x) for x, _ in ours)), flush=True)
    return sum(bool(x) for case in names for x, _ in seen[case, 'slurmray'])


if __name__ == '__main__':
    if sys.argv[1] == 'payload':
        CASES[sys.argv[2]].payload()
    else:
        what = {'check': check, 'bench': bench}[sys.argv[1]]
        sys.exit(1 if what(int(sys.argv[2]), *sys.argv[3:5], sys.argv[5:] or list(CASES)) else 0)
