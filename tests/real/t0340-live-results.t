#!/bin/bash
# results/ and work/ of live runs over a slow network: what a line of the log announces is there when the line can be read, what
# a silent job makes comes by itself, and while the cluster is away what is known stays and what is not is EHOSTUNREACH.
# TEST_SECONDS=23
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
need_proxy
proxy_testbed
mount_demo
TAP_TIMEOUT=60
ok "the link is up" eventually 20 link_is up
network "delay 30"

has() { # has RUN PATH: for eventually
	[ -e "$MNT/runs/$1/$2" ]
}

# shellcheck disable=SC2016
job='cd $SLURMRAY_RESULTS; touch ready; until [ -e ~/go ]; do sleep 0.1; done; n=0; while [ $n -lt 25 ]; do n=$((n + 1));
mkdir -p deep/$n; echo x >deep/$n/x; echo $n >f$n; rm -f f$((n - 1)); printf .. >>all; echo $n; sleep 0.$((n % 4 * 2)); done;
until [ -e ~/silent ]; do sleep 0.1; done; echo s >silent; echo w >~/$SLURM_JOB_ID; cp silent $OLDPWD/in-work;
until [ -e ~/end ]; do sleep 0.1; done'
id=$(submit "-- $(echo "$job" | tr '\n' ' ')")
ok "what it made before anybody looked" eventually 30 has "$id" results/ready
cat >"$T/read.py" <<'END'
import os, sys, time
run = sys.argv[1]
bad = 0
def check(what, cond):
    global bad
    if not cond:
        bad += 1
        print("line %d: %s: %r" % (n, what, sorted(os.listdir(run + "/results"))))
def size(name):
    try:
        return os.stat(run + "/results/" + name).st_size
    except FileNotFoundError:
        return -1
with open(run + "/log.follow", "rb", buffering=0) as log:
    seen, n = b"", 0
    while n < 25:
        seen += log.read(65536)
        n = seen.count(b"\n")
        if seen.endswith(b"\n"):
            check("deep", size("deep/%d/x" % n) == 2)
            check("all", size("all") >= 2 * n)
            check("before", size("f%d" % (n - 1)) == -1)
            check("listed", str(n) in os.listdir(run + "/results/deep"))
            if size("f%d" % n) > 0: # the next line may be on its way
                try:
                    check("bytes", open(run + "/results/f%d" % n).read() == "%d\n" % n)
                except FileNotFoundError: # the next line has taken it away already; the listing soon says so
                    until = time.monotonic() + 10
                    while size("f%d" % n) != -1 and time.monotonic() < until:
                        time.sleep(0.05)
                    check("gone", size("f%d" % n) == -1)
sys.exit(bad != 0)
END
(sleep 0.5; : >"$DEMO_HOME/go") &
ok "every line finds what it announces" timeout -k 2 60 python3 "$T/read.py" "$MNT/runs/$id"

: >"$DEMO_HOME/silent"
ok "what a silent job makes comes by itself" eventually 20 has "$id" results/silent
ok "in work/ as well" eventually 20 has "$id" work/in-work
is "and can be read" "$(cat "$MNT/runs/$id/results/silent" "$MNT/runs/$id/work/in-work")" "s
s"

# shellcheck disable=SC2016
other=$(submit '-- touch $SLURMRAY_RESULTS/there; until [ -e ~/end ]; do sleep 0.1; done')
in_list() { # nobody looks into its directory
	grep -Eq "^$1 +$2 " "$MNT/runs/list"
}
ok "another one runs" eventually 20 in_list "$other" running
sleep 1
network refuse
network cut
ok "the cluster is away" eventually 10 link_is down
at_once "what is known stays" sh -c "ls $MNT/runs/$id/results/deep/25 $MNT/runs/$id/work | grep -q in-work && test -s $MNT/runs/$id/results/all"
at_once "and what is known not to be there" sh -c "! test -e $MNT/runs/$id/results/none && ! cat $MNT/runs/$id/results/none 2>$T/none"
like "is still ENOENT" "$(cat "$T/none")" "No such file"
for where in results work; do
	run ls "$MNT/runs/$other/$where"
	like "$where/ that was never listed is not empty but unreachable" "$status $err" "^2 .*No route to host"
	run stat "$MNT/runs/$other/$where/there"
	like "nor is a name in it missing" "$status $err" "^1 .*No route to host"
	at_once "it says so at once" sh -c "! ls $MNT/runs/$other/$where 2>/dev/null"
done
network go
reconnect
ok "it is back" eventually 30 link_is up
ok "and so is what was not known" eventually 20 has "$other" results/there
: >"$DEMO_HOME/end"
is "both end" "$(ended "$id") $(ended "$other")" "succeeded 0 succeeded 0"
is "what it left is its list of results" "$(ls "$MNT/runs/$id/results")" "all
deep
f25
ready
silent"
done_testing
