"""Tests the tables of docs/from-*.md: what stands there for another package's parameter is what this version takes.

usage: moving.py PAGE MNT HOME SLURMRAY     MNT: a mount whose default cluster is a Slurm; files of /home/me are looked for in HOME

A row is `| there | here |`. Each code in the second cell is tried:

    key=value ... -- command, {...}   runs/check takes it, and the effective spec has each value from the spec
    key = value, [section]            the configuration takes it (slurmray doctor)
    path of the tree, echo VERB > runs/ID/ctl, mkdir, rmdir, $SLURMRAY_NAME    it is in docs/interface.md, docs/specs.md
    slurmray COMMAND                  the help has it
    a word                            the row of docs/interface.md for a file of the same cell has it

Behind `Not in this version` a spec or configuration must be refused, up to the end of that sentence; `Until then` ends it.
Names in the first cell are no keys here, unless the second cell has them.
Prints `ok NAME` or `not ok NAME`, and reasons behind `# `.
"""
import json
import os
import re
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MISSING = 'Not in this version'


def read(*parts):
    with open(os.path.join(TOP, *parts), encoding='utf-8') as f:
        return f.read()


class Page:
    def __init__(self, name, mnt, home, slurmray):
        self.name, self.mnt, self.home, self.slurmray = name, mnt, home, slurmray
        self.text = read('docs', name + '.md')
        self.tree = dict(re.findall(r'^\| `([^`]+)` (\|.*)$', read('docs/interface.md'), re.M))
        self.specs, self.words = read('docs/specs.md'), read('docs/interface.md')
        self.help = subprocess.run([slurmray, '--help'], stdout=subprocess.PIPE, text=True, check=True).stdout
        self.bad, self.tried, self.names = [], 0, 0

    def rows(self):
        """(line number, heading, first cell, second cell) of the tables `there | here`."""
        heading, on = '', False
        for n, line in enumerate(self.text.splitlines(), 1):
            if line.startswith('#'):
                heading = line.lstrip('# ')
            if line == '| there | here |':
                on = True
            elif not line.startswith('|'):
                on = False
            elif on and not line.startswith('|---'):
                cells = line.strip('|').split(' | ')
                if len(cells) != 2:
                    self.bad.append('line %d: %d cells' % (n, len(cells)))
                else:
                    yield n, heading, cells[0].strip(), cells[1].strip()

    # --- one code ---

    def at_home(self, text):
        text = text.replace('/home/me', self.home)
        for p in re.findall(re.escape(self.home) + r'[\w./-]*', text):
            if not os.path.exists(p):
                os.makedirs(os.path.dirname(p), exist_ok=True)
                if '.' in os.path.basename(p):
                    with open(p, 'w', encoding='ascii') as f:
                        f.write('#!/bin/sh\n')
                else:
                    os.mkdir(p)
        return text

    def check(self, spec):
        """The answer of runs/check: (taken, text)."""
        fd = os.open(self.mnt + '/runs/check', os.O_RDWR)
        try:
            taken, answer = True, b''
            try:
                os.write(fd, spec.encode())
            except OSError:
                taken = False
            while True:
                data = os.read(fd, 65536)
                if not data:
                    return taken, answer.decode()
                answer += data
        finally:
            os.close(fd)

    def spec(self, code):
        code = self.at_home(code)
        if code.startswith('{'):
            wanted = {k: v if isinstance(v, str) else json.dumps(v) for k, v in json.loads(code).items()}
            taken, text = self.check(code)
        else:
            words, dashes, command = code.partition('-- ')
            wanted = dict(w.split('=', 1) for w in words.split())
            runs = not {'payload', 'script'} & set(wanted) and wanted.get('launcher') != 'session'
            if runs:
                wanted['command'] = command if dashes else 'true'
            line = words.strip() + (' -- ' + wanted['command'] if runs else '')
            if not words.strip():
                line = '-- ' + command
            taken, text = self.check(line + '\n')
        if not taken:
            return text
        effective = json.loads(text[:text.index('\n}\n') + 2])
        return self.in_effect(wanted, effective, text)

    @staticmethod
    def in_effect(wanted, effective, text):
        for key, value in wanted.items():
            have = effective.get(key.split('.')[0])
            if have is None or have.get('source') != 'spec' or 'ignored' in have:
                return '%s is not in effect: %s' % (key, have)
            said = json.dumps(have['value'])
            for part in re.split(r'[,:]', value) if not value.startswith(('{', '[')) else []:
                if json.dumps(part)[1:-1] not in said:
                    return '%s has no %s: %s' % (key, part, said)
        if wanted.get('command', '[').startswith('[') or wanted.get('session') == 'any': # its session comes first
            return None
        shown = wanted['command'].replace("'", "'\\''")
        return None if shown in text[text.index('\n}\n'):] else 'the script has no %s' % shown

    def config(self, code):
        section = code if code.startswith('[') else '[cluster hpc]'
        lines = [section] if code.startswith('[') else [section, code]
        if section.startswith('[cluster') and not code.startswith('host ='):
            lines.insert(1, 'host = login.example.org')
        with tempfile.NamedTemporaryFile('w', suffix='.config') as f:
            f.write('\n'.join(lines).replace('/home/me', self.home) + '\n')
            f.flush()
            p = subprocess.run([self.slurmray, 'doctor', '--config', f.name, 'local'], stdout=subprocess.PIPE, text=True, timeout=30,
                               check=False)
        bad = re.findall(r'^bad  configuration.*$', p.stdout, re.M)
        return bad[0] if bad else None if re.search(r'^ok   configuration', p.stdout, re.M) else p.stdout

    def path(self, word):
        generic = re.sub(r'^runs/(ID|NAME)', 'runs/ID', re.sub(r'^(by)/\w+/\w+', r'\1/KIND/VALUE', word))
        generic = re.sub(r'^(runs/ID/(?:files|results|work))/.*', r'\1/PATH', generic)
        return None if generic in self.tree else '%s (%s) has no row' % (word, generic)

    def other(self, code, cell):
        verb = re.match(r'echo (\w+) > (\S+/ctl)$', code)
        if verb:
            return self.path(verb.group(2)) or (None if '`%s' % verb.group(1) in self.words else 'no such verb')
        m = re.match(r'(?:mkdir|rmdir) (runs/\w+)$', code) or re.match(r'((?:runs|clusters|by|envs)/\S+|errors|events|status|last)$', code)
        if m:
            return self.path(m.group(1))
        if re.match(r'slurmray \w+', code):
            return None if re.search(r'^ +(?:usage: )?%s\b' % code.split()[1], self.help, re.M) else 'the help has no such command'
        if code.startswith('docs/') or code.startswith('slurmray/'):
            examples = ''.join(read('docs/examples/dagster', i) for i in ('slurmray_launcher.py', 'slurmray_executor.py'))
            return None if '`%s`' % code in examples or os.path.exists(os.path.join(TOP, code)) else 'there is no such thing'
        if code.startswith('$'):
            return None if '`%s`' % code[1:] in self.specs else 'no such variable'
        for p in re.findall(r'`(runs/(?:ID|NAME)/\S+)`', cell):
            if code in self.tree.get(p.replace('NAME', 'ID'), ''):
                return None
        return None if '`%s`' % code in read('docs/interface.md') or code in OWN else 'what is that?'

    # --- rows ---

    def code(self, n, code, cell, missing):
        is_spec = re.match(r'[a-z_][\w.-]*=\S|-- |\{', code)
        is_config = re.match(r'[a-z_.]+ = |\[', code)
        self.tried += 1
        try:
            why = self.spec(code) if is_spec else self.config(code) if is_config else self.other(code, cell)
        except (OSError, ValueError, subprocess.TimeoutExpired) as e:
            why = '%s: %s' % (type(e).__name__, e)
        if missing and (is_spec or is_config):
            if why is None or not re.search(r'not possible yet|not started yet|not shipped yet|this version has', why):
                self.bad.append('line %d: `%s` is marked as missing, and is taken or refused for another reason: %s' % (n, code, why))
        elif why:
            self.bad.append('line %d: `%s`: %s' % (n, code, why.strip()))

    def foreign(self, n, first, cell):
        """A parameter from there that somebody writes into a spec is refused, unless the row says that it is the same here."""
        for name in re.findall(r'`([a-z][a-z_]*)`', first):
            taken, why = self.check('%s=1 -- true\n' % name)
            self.names += 1
            if taken and not re.search(r'[`{ "]%s\b["=.]|`%s' % (name, name), cell) and name not in HOMONYMS \
                    and 'keys of the same name' not in cell:
                self.bad.append('line %d: %s is taken as a key, and the row does not say so' % (n, name))
            elif not taken and name not in why:
                self.bad.append('line %d: %s is refused for another reason: %s' % (n, name, why))

    def row(self, n, first, cell):
        self.foreign(n, first, cell)
        marked = ''
        if cell.startswith(MISSING):
            marked = re.match(re.escape(MISSING) + r'(?:[^.`]|`[^`]*`)*', cell).group(0)
        elif not cell.startswith('Not needed') and not re.search(r'`|keep them in the payload|Not |[Tt]he|Pack|Files', cell):
            self.bad.append('line %d: says nothing that can be tried: %s' % (n, cell))
        for code in re.findall(r'`([^`]+)`', marked):
            self.code(n, code, cell, True)
        for code in re.findall(r'`([^`]+)`', cell[len(marked):]):
            self.code(n, code, cell, False)

    def report(self, name):
        print('%s %s' % ('not ok' if self.bad else 'ok', name), flush=True)
        for b in self.bad:
            print('# ' + b.replace('\n', ' '))
        self.bad = []

    def complete(self, rows):
        """Every name of tests/data/moving.txt is in a first cell."""
        count = 0
        for line in read('tests/data/moving.txt').splitlines():
            if line.startswith('#') or line.split()[0] != self.name:
                continue
            where, names = line.split()[1], line.split()[2:]
            there = ' '.join(first for _, heading, first, _ in rows if where == '~' or where in re.split(r'[,\s]+', heading))
            have = set(re.findall(r'[\w./-]+', there + ' ' + ('' if where != '~' else ' '.join(h for _, h, _, _ in rows))))
            count += len(names)
            self.bad += ['%s: %s has no row' % (where, i) for i in names if i not in have]
            if not there:
                self.bad.append('%s has no table' % where)
        self.report('%s: %d names have a row' % (self.name, count))


# Keys here that mean something else there.
HOMONYMS = ('name',)
# Code in the second cells that is neither ours nor a spec: what stays Dagster's, Ray's, or the reader's own.
OWN = ('cancel_sensor', 'spec', 'mount', 'env', 'dagster.yaml', 'run_launcher', 'op_tags', 'run', 'run()', 'session', 'command', 'cancel',
       'activate.sh', '--platform', 'ray.init()', 'open_pipes_session', 'extras=', 'gres', 'num_nodes', 'time_limit',
       'signal_before_timeout')


def main():
    page = Page(*sys.argv[1:5])
    rows = list(page.rows())
    for n, _, first, cell in rows:
        page.row(n, first, cell)
    page.report('%s: %d rows, %d codes and %d names in them are tried' % (page.name, len(rows), page.tried, page.names))
    page.complete(rows)
    return 0


sys.exit(main())
