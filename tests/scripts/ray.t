#!/bin/bash
# A Ray cluster without Ray and without Slurm: the scripts of a run and of a session with stand-ins for ray, srun and
# scontrol, in both shells; what is killed takes nothing with it and leaves nothing.
# TEST_SECONDS=52
# shellcheck disable=SC2016 # variables are for the commands of runs
. "$(dirname "$0")/../lib/tap.sh" || exit 99

UUID=$(od -An -N4 -tx1 /dev/urandom | tr -d ' ') # others may run the same at the same time
STATE=$HOME/.slurmray/$UUID
mkdir -p "$STATE/ends" "$T/bin" "$T/lib/ray/_private" "$T/lib/ray-2.60.0.dist-info"
PATH=$T/bin:$PATH
stand_in() { # stand_in NAME: its text comes from standard input
	cat >"$T/bin/$1"
	chmod +x "$T/bin/$1"
}
stand_in scontrol <<'END'
#!/bin/sh
printf 'n1\nn2\n'
END
# The standard streams are srun's, as with the real one; the program is a child.
stand_in srun <<'END'
#!/bin/sh
while case $1 in -w) SLURMD_NODENAME=$2 && export SLURMD_NODENAME && shift ;; -J) shift ;; -*) ;; *) false ;; esac; do shift; done
exec "$@"
END
# ray start: the head listens and keeps a table of who joined; with FAIL=NODE that one ends at once.
stand_in ray <<END
#!$(command -v python3)
import os, signal, socket, sys, time
opts = dict(a[2:].split('=', 1) if '=' in a else (a[2:], '') for a in sys.argv[2:])
name, table = opts['node-name'], '$T/table'
print('arguments', sorted(opts), flush=True)
if os.path.exists('$T/fail') and open('$T/fail').read().strip() == name:
    sys.exit('raylet: no memory')
if 'head' in opts:
    open(table, 'w').close()
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((opts['node-ip-address'], int(opts['port'])))
    s.listen(50)
    if opts['include-dashboard'] == 'true':
        d = socket.socket()
        d.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        d.bind((opts['dashboard-host'], int(opts['dashboard-port'])))
        d.listen(50)
if 'head' in opts and os.path.exists('$T/slow'):  # as Ray does when its raylet is not there within 30 s
    os.unlink('$T/slow')
    while not os.path.exists('$T/seen'):
        time.sleep(0.1)
    time.sleep(1)
    sys.exit('The current node timed out during startup.')
logs = opts['temp-dir'] + '/session_latest/logs'
os.makedirs(logs)
with open(table, 'a') as f:
    f.write('%s %s %s\n' % (name, opts['node-ip-address'], opts['num-cpus']))
if os.fork() == 0:  # one that does not listen, in a session of its own
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.execvp('sleep', ['sleep', '47811'])
for n in range(100000):
    with open(logs + '/raylet.out', 'a') as f:
        f.write('%s line %d\n' % (name, n))
    time.sleep(0.2)
END
: >"$T/lib/ray/__init__.py"
: >"$T/lib/ray/_private/__init__.py"
printf 'Metadata-Version: 2.1\nName: ray\nVersion: 2.60.0\n' >"$T/lib/ray-2.60.0.dist-info/METADATA"
cat >"$T/lib/ray/_raylet.py" <<'END'
class GcsClientOptions:
    @staticmethod
    def create(address, *_, **__):
        return address
END
cat >"$T/lib/ray/_private/state.py" <<END
class GlobalState:
    def _initialize_global_state(self, options):
        pass
    def node_table(self):
        rows = [line.split() for line in open('$T/table')]
        return [{'NodeName': r[0], 'NodeManagerAddress': r[1], 'NodeID': 'id' + r[0], 'Alive': True,
                 'Resources': {'CPU': float(r[2])}} for r in rows]
    def available_resources(self):
        return {'CPU': 1.0}
END
export PYTHONPATH=$T/lib

begin() { # begin SHELL NUMBER COMMAND [RULE...]: a run from the golden script, without its environment
	local shell=$1 n=$2 command=$3
	shift 3
	mkdir -p "$STATE/runs/$n/a2"
	A=$STATE/runs/$n/a2
	sed -e "s|6f1c2a34|$UUID|g; s|runs/41/a2|runs/$n/a2|g; s|/41/a2|/$n/a2|g; s|41\\.a2|$n.a2|g; s|run=41 |run=$n |; s/ib0//; s/^_want='*2.60'*/_want=/" \
		-e '/^_home=.*_work=/,/^cd "\$_work"/d' -e "s|-c 'python train.py'|-c '$command'|" "$@" \
		"$ROOT/tests/data/scripts/ray.sh" >"$A/script"
	(cd "$A" && SLURM_JOB_ID=$n SLURM_JOB_NUM_NODES=2 SLURM_JOB_NODELIST='n[1-2]' SLURM_JOB_CPUS_PER_NODE='2(x2)' SLURM_MEM_PER_NODE=1000 \
		exec "$shell" ./script >stdout 2>stderr) &
}
code() { sed -n 's/.* rc=\([^ ]*\) .*/\1/p' "$STATE/ends/$1.a2" 2>/dev/null; }
has_ended() { [ -n "$(code "$1")" ]; }
fault() { sed -n 's/.* fault=\([^ ]*\) .*/\1/p' "$STATE/ends/$1.a2"; }
reason() { sed -n 's/.* reason=\([^ ]*\) .*/\1/p' "$STATE/ends/$1.a2" | sed 's/%20/ /g'; }
left() { grep -alsF "SLURMRAY_RAY_NODE=slurmray:$UUID/" /proc/[0-9]*/environ; }
nothing_left() { [ -z "$(left)" ] && ! pgrep -f "ray-(node|keeper) $STATE" >/dev/null; }
ray_is() { [ "$(cat "$A/ray/state" 2>/dev/null)" = "$1" ]; }

n=40
for shell in dash bash; do
	n=$((n + 10))
	begin $shell $n 'echo $RAY_ADDRESS $RAY_AUTH_MODE; cat ../ray/state; exec sleep 47812'
	ok "$shell: ready" eventually 60 ray_is ready
	ok "$shell: the command runs" eventually 60 grep -q ready "$A/stdout"
	is "$shell: with the address" "$(head -n 1 "$A/stdout")" "$(cat "$A/ray/address") disabled"
	like "$shell: the nodes" "$(tr '\n' ' ' <"$A/ray/nodes")" '^n1 [0-9.]* idn1 ALIVE 4 0 n2 [0-9.]* idn2 ALIVE 4 0 $'
	is "$shell: what is free" "$(cat "$A/ray/available")" "CPU 1 of 8"
	is "$shell: the version" "$(cat "$A/ray/version")" 2.60.0
	like "$shell: what Ray was told" "$(cat "$A/ray/logs/n2/ray-start.log")" "'memory'.*'object-store-memory'.*'resources'"
	ok "$shell: logs of both" eventually 20 sh -c "grep -q 'n1 line' '$A/ray/logs/n1/raylet.out' && grep -q 'n2 line 3' '$A/ray/logs/n2/raylet.out'"
	not_ok "$shell: each its own" grep -q n1 "$A/ray/logs/n2/raylet.out"
	kill -USR1 "$(cat "$A/pid")"
	ok "$shell: the command's end" eventually 60 has_ended $n
	is "$shell: is the run's" "$(code $n) $(fault $n)" "138 -"
	ok "$shell: and nothing is there then" eventually 60 nothing_left
	is "$shell: as its state says" "$(cat "$A/ray/state")" ended
done

touch "$T/slow"
begin bash 65 'exec sleep 47812'
ok "the head is slow" eventually 60 pgrep -f "ray-watch"
touch "$T/seen"
ok "and is tried again" eventually 60 ray_is ready
like "as the log says" "$(cat "$A/ray.d/log")" 'n1 again 1'
kill -TERM "$(cat "$A/pid")"
ok "its end" eventually 60 has_ended 65
ok "nothing is left" eventually 60 nothing_left

begin bash 70 'exec sleep 47812'
ok "ready" eventually 60 ray_is ready
pkill -KILL -f "ray-node $A n2 worker 2\$"
ok "a node's program is killed: a worker is lost" eventually 60 ray_is degraded
ok "what it had goes too" eventually 60 sh -c "! grep -alsF '/70/a2@n2;' /proc/[0-9]*/environ | grep -q ."
# shellcheck disable=SC2046 # pids
kill -KILL $(for p in $(left | cut -d/ -f3); do grep -qsa 'ray.start' "/proc/$p/cmdline" && echo "$p"; done)
ok "without its head the run ends" eventually 60 has_ended 70
is "by that fault" "$(code 70) $(fault 70)" "- ray"
like "with a sentence" "$(reason 70)" 'the head on n1 ended by itself'
ok "nothing is left" eventually 60 nothing_left

begin bash 80 'exec sleep 47812'
ok "ready" eventually 60 ray_is ready
kill -KILL "$(cat "$A/ray.d/keeper")"
ok "the keeper is killed: nothing is left" eventually 60 nothing_left
is "and its state says so" "$(cat "$A/ray/state")" failed
ok "the run ends, too" eventually 60 has_ended 80
like "by that" "$(code 80) $(fault 80) $(reason 80)" '^- ray (Ray: )?what kept the cluster was killed$'

begin bash 85 'trap "" TERM; while :; do sleep 0.1; done' -e 's/_grace=[0-9]*/_grace=1/'
ok "ready" eventually 60 ray_is ready
ok "the command runs" eventually 60 test -s "$A/pid"
# shellcheck disable=SC2046 # pids
kill -KILL "$(cat "$A/ray.d/keeper")" $(pgrep -f "ray-node $A n1 head [0-9]*\$")
ok "the keeper and its head are killed, the command does not listen" eventually 60 has_ended 85
like "it ends by that" "$(fault 85) $(reason 85)" '^ray (Ray: )?what kept the cluster was killed$'
ok "nothing is left" eventually 60 nothing_left

begin bash 90 'exec sleep 47812'
ok "ready" eventually 60 ray_is ready
pkill -KILL -f "ray-node $A n[12] (head|worker)" # the guards, too
ok "all programs of the head are killed" eventually 60 has_ended 90
is "the run ends by that" "$(fault 90)" ray
ok "nothing is left" eventually 60 nothing_left

echo n2 >"$T/fail"
begin dash 100 'echo never'
ok "a worker that does not start" eventually 60 has_ended 100
is "is the end of the run" "$(code 100) $(fault 100) $(cat "$A/stdout")" "- ray "
like "with its words" "$(reason 100)" 'the worker on n2 ended by itself with code 1 raylet: no memory'
ok "nothing is left" eventually 60 nothing_left
rm "$T/fail"

begin bash 110 'echo never' -e 's/^_want=.*/_want=2.9/'
ok "another version" eventually 60 has_ended 110
like "is refused" "$(reason 110)" 'ray_version=2.9 was asked for, and n[12] has Ray 2.60.0'
ok "nothing is left" eventually 60 nothing_left

order() { printf '\n%s .\n' "$1" >>"$A/orders"; }
times() { [ "$(grep -c 'ready: 2 nodes' "$A/ray.d/log")" = "$1" ]; }
begin bash 140 'exec sleep 47812'
ok "ready" eventually 60 ray_is ready
is "its Python" "$(cat "$A/ray/python")" "$("$(sed -n '1s/^#!//p' "$T/bin/ray")" -c 'import platform; print(platform.python_version())')"
order 'spark stop 6'
printf '\nray rest' >>"$A/orders"
printf 'art 7 .\n' >>"$A/orders"
ok "it is ended and begun again by an order" eventually 60 times 2
ok "all of it" eventually 60 ray_is ready
order 'ray restart 7' # whose answer was lost
order 'ray stop 8'
ok "another order" eventually 60 ray_is ended
ok "once each" times 2
ok "nothing is left" eventually 60 nothing_left
ok "the command goes on" kill -0 "$(cat "$A/pid")"
kill -TERM "$(cat "$A/pid")"
ok "to its own end" eventually 60 has_ended 140
# A range of two blocks, in one of which somebody listens: one node has the other, and the other node none.
low=$((8000 + $$ % 500 * 16))
in_background python3 -c "import socket, time; s = socket.socket(); s.bind(('', $low + 5)); s.listen(); open('$T/there', 'w'); time.sleep(300)"
ok "a listener" eventually 10 test -e "$T/there"
begin bash 120 'echo never' -e "s/^_ports=.*/_ports=$low-$((low + 31))/"
ok "no room for two nodes" eventually 60 has_ended 120
like "is said" "$(reason 120)" "no 16 free ports in a row on n[12] among $low-$((low + 31))"
ok "the block was passed over" sh -c "! grep -h 'hello\|up ' '$A/ray.d/log' | grep -q ':$low '"
ok "nothing is left" eventually 60 nothing_left
kill "$pid"
begin bash 125 'echo $RAY_ADDRESS' -e "s/^_ports=.*/_ports=$low-$((low + 31))/"
ok "with both blocks" eventually 60 has_ended 125
is "it runs" "$(code 125)" 0
like "there" "$(cat "$A/stdout")" ":($low|$((low + 16)))\$"
for id in $(sed -n 's/^_id=//p' "$STATE"/runs/*/a2/ray-settings); do
	ok "no directory, either" eventually 60 sh -c "! ls -d /tmp/sr-$id*"
done
done_testing
