#!/usr/bin/env python3
"""Tests the pages: README.md, docs/*.md and docs/design/*.md.

usage: docs.py blocks            pages that have blocks to be run, one a line
       docs.py run PAGE MNT      runs the blocks of a page, in order, with MNT as working directory
       docs.py static            links, names of files, fences, syntax of the blocks that are not run

Prints `ok NAME` or `not ok NAME`, and reasons behind `# `. Fences:

    ```sh                   run by bash -eu, each block by itself
    ```sh norun: REASON     only its syntax is checked
    ```output               what the block before it prints; a line `...` stands for any lines, `...` in a line for any text
    ```python               run by python3
    ```ini                  a configuration (tests/unit/test_docs.c reads it)
    ```console ```text ```json   not run; json has to be JSON
"""
import glob
import json
import os
import re
import subprocess
import sys

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIMIT = 40
failed = []


class Block:
    def __init__(self, line, info):
        self.line, self.info, self.text, self.output = line, info, '', None
        self.kind = info.split()[0] if info.split() else ''

    def runs(self):
        return self.info in ('sh', 'python')


def report(name, *problems):
    print('%s %s' % ('not ok' if problems else 'ok', name))
    for p in problems:
        for line in str(p).splitlines():
            print('# ' + line)
    failed.extend(problems)


def pages():
    names = ['README.md'] + sorted(glob.glob('docs/*.md', root_dir=TOP)) + sorted(glob.glob('docs/design/*.md', root_dir=TOP))
    return [n for n in names if os.path.exists(os.path.join(TOP, n))]


def read(page):
    with open(os.path.join(TOP, page), encoding='utf-8') as f:
        return f.read()


def blocks(page):
    """The fenced blocks, and the text without them."""
    found, prose, current = [], [], None
    for n, line in enumerate(read(page).splitlines(), 1):
        fence = re.match(r'```(.*)$', line)
        if current is None and fence:
            current = Block(n, fence.group(1).strip())
        elif current is not None and line == '```':
            if current.kind == 'output' and found:
                found[-1].output = current.text
            else:
                found.append(current)
            current = None
        elif current is not None:
            current.text += line + '\n'
        else:
            prose.append((n, line))
    if current:
        report('%s: the fence of line %d is closed' % (page, current.line), 'it is not')
    return found, prose


# --- running ---

def matches(wanted, got):
    """`...` as a line: any lines; in a line: any text."""
    pattern = ''
    for line in wanted.splitlines():
        if line.strip() == '...':
            pattern += r'(?:.*\n)*'
        else:
            pattern += '.*'.join(re.escape(p) for p in line.rstrip().split('...')) + r'[ ]*\n'
    return re.fullmatch(pattern, got if not got or got.endswith('\n') else got + '\n') is not None


def run_block(page, block, mnt):
    name = '%s:%d runs' % (page, block.line)
    argv = ['bash', '-eu', '-c', block.text] if block.kind == 'sh' else ['python3', '-c', block.text]
    try:
        p = subprocess.run(argv, cwd=mnt, timeout=LIMIT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired as e:
        report(name, 'it took longer than %d s' % LIMIT, block.text, (e.stdout or b'').decode())
        return
    got = p.stdout.decode(errors='replace')
    if p.returncode:
        report(name, 'status %d of:' % p.returncode, block.text, 'which printed:', got)
    elif block.output is not None and not matches(block.output, got):
        report(name, 'it printed:', got, 'and not:', block.output)
    else:
        report(name)


# --- looking ---

def check_fences(page, found):
    problems = []
    for b in found:
        if b.kind not in ('sh', 'python', 'ini', 'console', 'text', 'json'):
            problems.append('line %d: a fence of kind "%s"' % (b.line, b.info))
        elif b.kind == 'sh' and b.info != 'sh' and not re.match(r'sh norun: \S.{8,}', b.info):
            problems.append('line %d: say why it is not run: ```sh norun: REASON' % b.line)
        elif b.kind == 'sh':
            p = subprocess.run(['bash', '-n', '-c', b.text], capture_output=True, check=False)
            if p.returncode:
                problems.append('line %d: %s' % (b.line, p.stderr.decode()))
        elif b.kind == 'json':
            try:
                json.loads(b.text)
            except ValueError as e:
                problems.append('line %d: %s' % (b.line, e))
    report('%s: its blocks are well formed' % page, *problems)


def anchors(page):
    marks = set()
    for _, line in blocks(page)[1]:
        if line.startswith('#'):
            title = re.sub(r'[`*]', '', line.lstrip('#').strip().lower())
            marks.add(re.sub(r'[^\w\- ]', '', title).replace(' ', '-'))
    return marks


def check_links(page, prose):
    problems = []
    for n, line in prose:
        for target in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'`[^`]*`', '', line)):
            if re.match(r'[a-z]+:', target):
                continue
            path, _, mark = target.partition('#')
            full = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            if not os.path.exists(os.path.join(TOP, full)):
                problems.append('line %d: %s leads to no file' % (n, target))
            elif mark and mark not in anchors(full):
                problems.append('line %d: %s has no heading #%s' % (n, full, mark))
    report('%s: its links lead somewhere' % page, *problems)


def tree_paths():
    found = set()
    for line in read('docs/interface.md').splitlines():
        m = re.match(r'\| `([^`]+)` \|.*\| (?:yes|no) \|', line)
        if m:
            found.add(m.group(1))
    return found


def generic(word):
    """A path of the tree as docs/interface.md names it."""
    parts = word.rstrip('/').split('/')
    if parts[0] == 'runs' and len(parts) > 1 and parts[1] not in ('new', 'check', 'template', 'list', 'last'):
        parts[1] = 'ID'
        if len(parts) > 3 and parts[2] in ('results', 'work', 'files'):
            parts[3:] = ['PATH']
    elif parts[0] == 'last' and len(parts) > 1:
        return generic('/'.join(['runs', 'ID'] + parts[1:]))
    elif parts[0] == 'clusters' and len(parts) > 1:
        parts[1] = 'NAME'
    elif parts[0] == 'by' and len(parts) == 2 and parts[1] == 'KIND':
        parts[1] = 'status'
    elif parts[0] == 'by' and len(parts) > 2:
        parts[1:3] = ['KIND', 'VALUE']
        if len(parts) > 3 and parts[3] not in ('wait', 'wait-any'):
            parts[3] = 'ID'
            if len(parts) > 4:
                return generic('/'.join(['runs', 'ID'] + parts[4:]))
    return '/'.join(parts)


def is_source(word):
    return re.match(r'(fs|backend|launchers|tests|scripts|docs|\.ci)/[\w.*/-]+$', word) is not None


def check_names(page, prose, tree):
    """What is written as code and looks like a path has to be one."""
    problems = []
    for n, line in prose:
        for code in re.findall(r'`([^`]+)`', line):
            for word in re.split(r'[\s,;()<>|=\'"]+', code):
                if is_source(word) and not glob.glob(os.path.join(TOP, word)):
                    problems.append('line %d: there is no %s in the source' % (n, word))
                elif re.match(r'(runs|clusters|by|last)/[\w.-]', word) and '*' not in word and '{' not in word \
                        and '..' not in word and '$' not in word and not word.startswith('runs/NUM') and generic(word) not in tree:
                    problems.append('line %d: %s (%s) has no row in docs/interface.md' % (n, word, generic(word)))
    report('%s: the files it names are there' % page, *problems)


def main():
    what = sys.argv[1]
    if what == 'blocks':
        for page in pages():
            if any(b.runs() for b in blocks(page)[0]):
                print(page)
    elif what == 'run':
        for b in blocks(sys.argv[2])[0]:
            if b.runs():
                run_block(sys.argv[2], b, sys.argv[3])
    else:
        tree = tree_paths()
        for page in pages():
            found, prose = blocks(page)
            check_fences(page, found)
            check_links(page, prose)
            check_names(page, prose, tree)
    return 1 if failed else 0


sys.exit(main())
