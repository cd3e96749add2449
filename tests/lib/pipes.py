#!/usr/bin/env python3
"""Dagster Pipes through a mount, without Dagster: what its session does on this side, and payloads that write what they like.

usage: pipes.py check MNT [key=value ...]   prints `ok NAME` or `not ok NAME`, reasons behind `# `; the keys go into the specs;
                                            kill=FILE: the worker whose id is in FILE is killed again and again meanwhile;
                                            outage=TESTBED: its sshd is away for some seconds; only=CASE,...
       pipes.py payload CASE                the job of a case

The reader here is as strict as Dagster's file reader: text, one line at a time, json.loads, and whatever it does not take ends it.
"""
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib

PATIENCE = 60
MB = 1 << 20


def encode(value):
    return base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()


def decode(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def message(method, params):
    return json.dumps({'__dagster_pipes_version': '0.1', 'method': method, 'params': params}) + '\n'


def opened():
    return message('opened', {'extras': {}})


def closed(exception=None):
    return message('closed', {'exception': exception} if exception else {})


def log(text, level='INFO'):
    return message('log', {'message': text, 'level': level})


def materialization(**metadata):
    return message('report_asset_materialization', {'asset_key': 'a', 'data_version': None, 'metadata': {
        k: {'raw_value': v, 'type': '__infer__'} for k, v in metadata.items()}})


# --- payloads ---

def emit(*texts):
    """As the library does it: opened for each message, one write."""
    path = decode(os.environ['DAGSTER_PIPES_MESSAGES'])['path']
    for text in texts:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        data = text if isinstance(text, bytes) else text.encode()
        while data:
            data = data[os.write(fd, data):]
        os.close(fd)


def payload_all():
    emit(opened(), log('hello'), materialization(rows=10, accuracy=0.930, name='x'),
         message('report_asset_check', {'asset_key': 'a', 'check_name': 'c', 'passed': True, 'severity': 'WARN', 'metadata': {}}),
         message('report_custom_message', {'payload': {'x': [1]}}), closed())


def payload_sizes(sizes):
    emit(opened(), *(log('%d:' % i + 'x' * n) for i, n in enumerate(sizes)))
    emit(materialization(rows=1), closed())


def payload_nasty():
    good = 0
    emit(opened())
    for bad in (b'junk\n', b'\n', b'{"half": \n', b'\xff\xfe broken\n', message('nope', {}),
                message('log', {'message': 'm', 'level': 'loud'}), message('log', {'text': 'm'}),
                message('report_asset_materialization', {'asset_key': 'b', 'data_version': None,
                                                         'metadata': {'k': {'raw_value': 1, 'type': 'strange'}}}),
                b'{"__dagster_pipes_version": "0.1", "method": "log", "par', b'[]\n', b'null\n'):
        emit(bad)
        emit(log('after %d' % good))
        good += 1
    emit(materialization(rows=1))


def payload_cut():
    path = decode(os.environ['DAGSTER_PIPES_MESSAGES'])['path']
    emit(opened(), *(log('first %d' % i) for i in range(50)))
    time.sleep(1)
    os.truncate(path, 0)
    emit(opened(), log('anew'), materialization(rows=2), closed())


def payload_two():
    emit(opened())
    if os.fork() == 0:
        emit(*(log('child %d' % i) for i in range(500)))
        os._exit(0)
    emit(*(log('parent %d' % i) for i in range(500)))
    os.wait()
    emit(materialization(rows=1), closed())


def payload_last_line():
    emit(opened(), materialization(rows=1), closed()[:-1])


def payload_exception():
    emit(opened(), materialization(rows=1),
         closed({'message': 'ValueError: bad\n', 'stack': ['here'], 'name': 'ValueError', 'cause': None, 'context': None}))


def payload_dies():
    emit(opened(), log('soon'))
    print('last words', file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def payload_slow():
    emit(opened())
    for i in range(300):
        emit(log('%d:' % i + 'x' * (200000 if i % 50 == 0 else 100)))
        time.sleep(0.01)
    emit(materialization(rows=1), closed())


def payload_context():
    path = decode(os.environ['DAGSTER_PIPES_CONTEXT'])['path']
    with open(path, encoding='utf-8') as f:
        context = json.load(f)
    emit(opened(), message('report_custom_message', {'payload': {
        'sum': len(json.dumps(context['extras'].get('blob', ''))), 'run_id': context['run_id'], 'added': context['extras'].get('added'),
        'others': sorted(k for k in decode(os.environ['DAGSTER_PIPES_MESSAGES']) if k != 'path')}}), closed())


PAYLOADS = {
    'all': payload_all, 'nasty': payload_nasty, 'cut': payload_cut, 'two': payload_two, 'last_line': payload_last_line,
    'exception': payload_exception, 'dies': payload_dies, 'slow': payload_slow, 'context': payload_context,
    'fifty': lambda: payload_sizes([MB] * 50), 'three_hundred': lambda: payload_sizes([20000] * 300),
    'large': lambda: payload_sizes([MB, 20 * MB]), 'small': lambda: payload_sizes([10] * 20000),
    'plain': lambda: print('no pipes here'),
}


# --- this side ---

class Session:
    """A draft with a reader of its events, as open_pipes_session with PipesFileMessageReader has it."""

    def __init__(self, mnt, name):
        self.dir = os.path.join(mnt, 'runs', name)
        self.lines, self.error, self.done = [], None, threading.Event()
        os.mkdir(self.dir)
        self.events = os.path.join(self.dir, 'events')
        open(self.events, 'w', encoding='utf-8').close()
        self.thread = threading.Thread(target=self.tail, daemon=True)
        self.thread.start()

    def tail(self):
        try:
            with open(self.events, encoding='utf-8') as f:
                while True:
                    line = f.readline()
                    if line:
                        m = json.loads(line)
                        assert m['method'] in ('opened', 'closed', 'log', 'report_asset_materialization', 'report_asset_check',
                                               'report_custom_message', 'log_external_stream'), line[:100]
                        self.lines.append(line)
                    elif self.done.is_set():
                        return
                    else:
                        time.sleep(0.01)
        except Exception as e:  # what Dagster's thread dies of
            self.error = e

    def submit(self, case, context=None, env=None, **keys):
        spec = {'command': [sys.executable, os.path.abspath(__file__), 'payload', case], 'env': {
            'DAGSTER_PIPES_CONTEXT': encode(context or {'path': self.dir + '/context'}),
            'DAGSTER_PIPES_MESSAGES': encode({'path': self.events, 'include_stdio_in_messages': False})}}
        spec.update(keys)
        if env is not None:
            spec['env'] = env
        self.write('spec', json.dumps(spec))

    def write(self, name, text):
        with open(os.path.join(self.dir, name), 'w', encoding='utf-8') as f:
            f.write(text)

    def read(self, name):
        with open(os.path.join(self.dir, name), encoding='utf-8', errors='replace') as f:
            return f.read()

    def wait(self):
        """What `wait` says, and then what the reader has after its last look."""
        until = time.time() + PATIENCE
        while time.time() < until:
            try:
                fd = os.open(os.path.join(self.dir, 'wait'), os.O_RDONLY | os.O_NONBLOCK)
                text = os.read(fd, 100).decode().strip()
                os.close(fd)
                break
            except BlockingIOError:
                os.close(fd)
                text = 'still %s' % self.read('status').strip()
                time.sleep(0.02)
        self.done.set()
        self.thread.join(PATIENCE)
        return text

    def methods(self):
        return [json.loads(line)['method'] for line in self.lines]


CONTEXT = json.dumps({'asset_keys': ['a'], 'code_version_by_asset_key': {'a': None}, 'provenance_by_asset_key': {'a': None},
                      'partition_key': None, 'partition_key_range': None, 'partition_time_window': None, 'run_id': 'r-1',
                      'job_name': None, 'retry_number': 0, 'extras': {}})


class Checks:
    def __init__(self, mnt, keys):
        self.mnt, self.failed, self.reasons = mnt, 0, []
        self.kill = keys.pop('kill', None)
        self.outage = keys.pop('outage', None)
        self.prefix = keys.pop('prefix', 'pipes')
        self.keys = keys

    def want(self, what, have, wanted):
        if have != wanted:
            self.reasons.append('%s: %.300r, not %.300r' % (what, have, wanted))

    def report(self, name):
        print('%s %s' % ('not ok' if self.reasons else 'ok', name), flush=True)
        for reason in self.reasons:
            print('# ' + reason.replace('\n', ' '), flush=True)
        self.failed += bool(self.reasons)
        self.reasons = []

    def session(self, case, draft=CONTEXT, **more):
        s = Session(self.mnt, '%s_%s_%d' % (self.prefix, case, int(time.time() * 1000) % 100000))
        if draft:
            s.write('context', draft)
        s.submit(case, **{**self.keys, **more})
        return s

    def run(self, case, end='succeeded 0', **more):
        s = self.session(case, **more)
        self.want('wait', s.wait(), end)
        self.want('the reader', s.error, None)
        self.want('events again', s.read('events').splitlines(True) == s.lines, True)
        return s

    # --- cases ---

    def everything(self):
        s = self.run('all')
        self.want('methods', s.methods(), ['opened', 'log', 'report_asset_materialization', 'report_asset_check',
                                           'report_custom_message', 'closed'])
        self.want('materializations', json.loads(s.read('pipes/materializations'))['metadata']['rows']['raw_value'], 10)
        self.want('checks', json.loads(s.read('pipes/checks'))['severity'], 'WARN')
        self.want('logs', json.loads(s.read('pipes/logs')), {'message': 'hello', 'level': 'INFO'})
        self.want('custom', json.loads(s.read('pipes/custom')), {'payload': {'x': [1]}})
        metrics = json.loads(s.read('metrics.json'))
        self.want('metrics', (metrics['rows'], metrics['accuracy'], 'name' in metrics, metrics['complete']), (10, 0.93, False, True))
        self.want('metrics as text', 'accuracy 0.93\n' in s.read('metrics'), True)
        self.want('rejected', s.read('events.rejected') + s.read('why').replace('exited with code 0\n', ''), '')
        self.want('sizes', [os.stat(s.dir + '/' + n).st_size == len(s.read(n)) for n in (
            'events', 'pipes/logs', 'pipes/custom', 'metrics.json', 'events.rejected', 'context')], [True] * 6)
        with open(s.dir + '/events.follow', encoding='utf-8') as f:
            self.want('events.follow', f.read() == s.read('events'), True)
        self.report('all methods: events, pipes/, metrics')
        self.no_effect(s)

    def no_effect(self, s):
        before = s.read('events'), s.read('context')
        for name in ('events', 'context'):
            with open(os.path.join(s.dir, name), 'w', encoding='utf-8'):
                pass
            os.truncate(os.path.join(s.dir, name), 0)
            os.unlink(os.path.join(s.dir, name))
        s.write('context', '{"another": 1}')
        self.want('events and context', (s.read('events'), s.read('context')), before)
        for name in ('status', 'why', 'pipes/logs'):
            try:
                os.unlink(os.path.join(s.dir, name))
                self.reasons.append('%s could be unlinked' % name)
            except PermissionError:
                pass
        self.report('opening, truncating and unlinking a submitted run\'s events and context do nothing')

    def sizes(self):
        for case, sizes in (('fifty', [MB] * 50), ('three_hundred', [20000] * 300), ('large', [MB, 20 * MB]),
                            ('small', [10] * 20000)):
            s = self.run(case)
            logs = [json.loads(line)['params']['message'] for line in s.lines if '"log"' in line[:80]]
            self.want('messages', [m.split(':')[0] for m in logs] == [str(i) for i in range(len(sizes))], True)
            self.want('lengths', sum(len(m.split(':')[1]) for m in logs), sum(sizes))
            self.want('the last two', s.methods()[-2:], ['report_asset_materialization', 'closed'])
            self.report('%d messages of %d bytes: all are read, once' % (len(sizes), max(sizes)))

    def nasty(self):
        s = self.run('nasty')
        self.want('methods', s.methods(), ['opened'] + ['log'] * 11 + ['report_asset_materialization'])
        rows = [json.loads(line) for line in s.read('events.rejected').splitlines()]
        self.want('rejected', len(rows), 11)
        self.want('offsets rise', sorted(r['offset'] for r in rows), [r['offset'] for r in rows])
        self.want('reasons', all(r['reason'] and r['length'] for r in rows), True)
        self.want('why', "11 lines of the job's message file are no Dagster Pipes message" in s.read('why'), True)
        self.report('junk, blank, partial, unknown, wrong and broken lines: kept away from the reader, told')

    def cut(self):
        s = self.run('cut')
        logs = [json.loads(line)['params']['message'] for line in s.lines if '"log"' in line[:80]]
        self.want('logs', logs, ['first %d' % i for i in range(50)] + ['anew'])
        self.want('materializations', s.methods().count('report_asset_materialization'), 1)
        self.report('a file that the job truncates and writes anew')

    def writers(self):
        s = self.run('two')
        for who in 'child', 'parent':
            have = [json.loads(line)['params']['message'] for line in s.lines if who in line]
            self.want(who, have == ['%s %d' % (who, i) for i in range(500)], True)
        self.want('materializations', s.methods().count('report_asset_materialization'), 1)
        self.report('two writers')

    def ends(self):
        s = self.run('last_line')
        self.want('methods', s.methods(), ['opened', 'report_asset_materialization', 'closed'])
        self.report('a last line without a newline')
        s = self.run('exception', end='failed 0')
        self.want('why', s.read('why').splitlines()[0], 'its Pipes session ended with an exception: ValueError: bad')
        self.want('methods', s.methods()[-1], 'closed')
        self.run('exception', pipes_exception='ignore')
        self.report('an exception in `closed` fails the run, unless it is ignored')
        s = self.run('dies', end='failed 137')
        self.want('methods', s.methods(), ['opened', 'log'])
        self.want('why', 'last words' in s.read('why'), True)
        self.report('a payload that dies before `closed`')
        s = self.run('plain')
        self.want('events', s.lines, [])
        self.report('a payload that knows nothing of Pipes')

    def contexts(self):
        def said(s):
            return json.loads(s.read('pipes/custom'))['payload']
        s = self.run('context')
        self.want('context', said(s), {'sum': 2, 'run_id': 'r-1', 'added': None, 'others': ['include_stdio_in_messages']})
        self.want('as written', s.read('context'), CONTEXT)
        big = json.loads(CONTEXT)
        big['extras'] = {'blob': base64.b64encode(os.urandom(200000)).decode(), 'added': 'no'}
        s = self.run('context', context={'data': big}, extras={'added': ['yes', None]})
        self.want('a large one', said(s), {'sum': len(big['extras']['blob']) + 2, 'run_id': 'r-1', 'added': ['yes', None],
                                           'others': ['include_stdio_in_messages']})
        self.want('its file', json.loads(s.read('context'))['extras']['added'], ['yes', None])
        s = self.session('context', draft=None, env={}, pipes=True)
        self.want('wait', s.wait(), 'succeeded 0')
        self.want('without Dagster', said(s)['run_id'], os.path.basename(s.dir))
        self.report('contexts: a file, large in the specification, extras, none')
        s = Session(self.mnt, self.prefix + '_refused')
        for text, keys in (('', {}), ('[1]', {}), ('{"a": ', {})):
            s.write('context', text)
            try:
                s.submit('context', **{**self.keys, **keys})
                self.reasons.append('taken with the context %r' % text)
            except OSError:
                pass
        try:
            s.submit('context', env={'DAGSTER_PIPES_CONTEXT': 'eJ!'}, **self.keys)
            self.reasons.append('a damaged variable was taken')
        except OSError:
            pass
        s.write('context', CONTEXT)
        os.unlink(s.dir + '/context')
        self.want('unlinked in a draft', s.read('context'), '')
        s.done.set()
        os.rmdir(s.dir)
        self.report('contexts that are none are refused, and the draft stays')

    def slow(self):
        s = self.session('slow')
        until = time.time() + PATIENCE
        while not s.lines and time.time() < until:
            time.sleep(0.05)
        return s

    def slow_end(self, s):
        self.want('wait', s.wait(), 'succeeded 0')
        self.want('the reader', s.error, None)
        logs = [json.loads(line)['params']['message'].split(':')[0] for line in s.lines if '"log"' in line[:80]]
        self.want('logs', logs == [str(i) for i in range(300)], True)
        self.want('the last two', s.methods()[-2:], ['report_asset_materialization', 'closed'])

    def look(self):
        """Dagster's reader looks, then asks whether the session is over, and does not look again: `wait` gives it the time."""
        s = Session.__new__(Session)
        s.dir = os.path.join(self.mnt, 'runs', self.prefix + '-look')
        s.events, order = s.dir + '/events', []
        os.mkdir(s.dir)
        fd = os.open(s.events, os.O_RDONLY)
        s.write('context', CONTEXT)
        s.submit('all', **self.keys)
        waiter = threading.Thread(target=lambda: (s.read('wait'), order.append('wait')), daemon=True)
        waiter.start()
        until = time.time() + PATIENCE
        while os.fstat(fd).st_size == 0 and time.time() < until:
            os.pread(fd, 1, 0)  # a look, and nothing is there
            time.sleep(0.02)
        time.sleep(0.7)
        order.append('look')
        while os.read(fd, MB):
            pass
        waiter.join(PATIENCE)
        os.close(fd)
        self.want('order', order, ['look', 'wait'])
        self.report('wait is answered when who looks at events has the last of them')

    def outages(self):
        s = self.slow()
        for what in 'sshd-stop', 'sshd-start':
            subprocess.run([self.outage, what], check=True, stdout=subprocess.DEVNULL, timeout=30)
            time.sleep(4)
        self.slow_end(s)
        self.report('the cluster is away while messages come, and when the job ends: each is read once')

    def kills(self):
        s = self.slow()
        n = 0
        while s.read('status').strip() == 'running' and n < 6:
            with open(self.kill, encoding='utf-8') as f:
                os.kill(int(f.read()), signal.SIGKILL)
            n += 1
            time.sleep(0.4)
        self.slow_end(s)
        self.want('kills', n > 2, True)
        self.report('the worker is killed %s while messages come: each is read once' % ('again and again' if n else 'never'))


def check(mnt, words):
    c = Checks(mnt, dict(w.split('=', 1) for w in words))
    only = c.keys.pop('only', 'everything,sizes,nasty,cut,writers,ends,contexts,look').split(',')
    for name in only + (['outages'] if c.outage else []) + (['kills'] if c.kill else []):
        try:
            getattr(c, name)()
        except Exception as e:  # the other cases are worth a look all the same
            c.reasons.append('%s: %s' % (type(e).__name__, e))
            c.report(name)
    return c.failed


if __name__ == '__main__':
    if sys.argv[1] == 'payload':
        PAYLOADS[sys.argv[2]]()
    else:
        sys.exit(1 if check(sys.argv[2], sys.argv[3:]) else 0)
