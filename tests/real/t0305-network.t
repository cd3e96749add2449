#!/bin/bash
# A bad network and a login node that says no: delay, stall, refusal; a wrong host key, a key that was taken away.
# TEST_SECONDS=80
# TEST_TIMEOUT=600
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
need_proxy
proxy_testbed
mount_demo

# --- far away ---

network "delay 50"
ok "the link is up" eventually 20 link_is up
id=$(submit '-- seq 1 20000; cd $SLURMRAY_RESULTS && for i in three four five; do seq 1 3 >$i; done')
first=$id
is "50 ms away, a job ends well" "$(ended "$id")" "succeeded 0"
ok "its log is right" sh -c "seq 1 20000 | cmp - $MNT/runs/$id/log"
ok "its result too" sh -c "seq 1 3 | cmp - $MNT/runs/$id/results/three"
is "one login" "$(net connections)" 1
network "delay 0"

# --- silence ---

id=$(submit "-- for i in \$(seq 300); do echo \$i; sleep 0.2; done; exit 3")
timeout -k 1 110 cat "$MNT/runs/$id/log.follow" >"$T/follow" 2>"$T/follow.err" &
follow=$!
ok "a job writes" eventually 15 test -s "$T/follow"
network stall
sleep 3
unheard=$(submit "-- $(mark unheard)")
like "an id needs no network" "$unheard" '^[0-9]+$'
at_once "a stalled network stops no reader of what is here" cat "$MNT/runs/$id/log" "$MNT/runs/$id/status"
at_once "and no submission" sh -c "echo '-- $(mark stall)' >$MNT/runs/new"
network go
ok "after it nothing was lost: the link is the same" net_is connections 1
lines=$(wc -l <"$T/follow")
grown() { [ "$(wc -l <"$T/follow")" -gt "$1" ]; }
ok "and the log goes on" eventually 10 grown $((lines + 10))

network stall
timeout 40 cat "$MNT/runs/$first/results/four" >"$T/read.out" 2>"$T/read.err" &
reader=$!
began=$(date +%s)
ok "a longer one is noticed" eventually 60 link_is down
wait $reader
like "a result that is not here: EHOSTUNREACH after its deadline" "$(cat "$T/read.err")" 'No route to host'
diag "noticed after $(($(date +%s) - began)) s: $(grep ^text "$MNT/clusters/demo/status")"
network go
ok "then there is a new connection" eventually 70 link_is up
is "the submissions of meanwhile ran once" "$(ended "$unheard") $(ended last) $(ran unheard) $(ran stall)" \
	"succeeded 0 succeeded 0 1 1"

# --- nobody there ---

network refuse
network cut
ok "without a login node the link is down" eventually 5 link_is down
timeout 40 cat "$MNT/runs/$first/results/four" >"$T/read.out" 2>"$T/read.err" &
reader=$!
sleep 2
like "its status says why" "$(cat "$MNT/clusters/demo/status")" '^text .*(refused|reset|closed|ended)'
network go
ok "and it comes back" eventually 30 link_is up
wait $reader
is "a read that waited meanwhile has the bytes" "$(tr '\n' ' ' <"$T/read.out") $(cat "$T/read.err")" "1 2 3  "

# --- the wrong host ---

cp "$TESTBED_DIR/ssh/known_hosts" "$T/known_hosts"
ssh-keygen -q -t ed25519 -N '' -f "$T/other"
echo "[127.0.0.1]:$PROXY_PORT $(cut -d' ' -f1,2 "$T/other.pub")" >"$TESTBED_DIR/ssh/known_hosts"
network cut
ok "a host key that changed is refused" eventually 70 link_is refused
text=$(sed -n 's/^text //p' "$MNT/clusters/demo/status")
diag "$text"
like "the sentence says what to do" "$text" 'host key of .* has changed: .*known_hosts line 1 .*ask the site, then remove that line'
like "why of a live run says it, too" "$(why "$id")" 'cluster demo: the host key of .* has changed'
network reset
waiting=$(submit "-- $(mark refused)")
sleep 5
is "nothing more is tried" "$(net connections)" 0
reconnect
ok "until the user asks" eventually 5 net_is connections 1
ok "which changes nothing yet" eventually 5 link_is refused
began=$(date +%s)
run timeout 40 cat "$MNT/runs/$first/results/five"
like "a read of what is not here: EHOSTUNREACH" "$err" 'No route to host'
ok "at once, for nothing is tried ($(($(date +%s) - began)) s)" test $(($(date +%s) - began)) -lt 3
like "a verb has the sentence as its answer" "$(order "$id" 'signal USR2')" 'error .*host key'
: >"$TESTBED_DIR/ssh/known_hosts"
reconnect
ok "a host that nobody knows is refused" eventually 5 link_says 'is not known'
text=$(sed -n 's/^text //p' "$MNT/clusters/demo/status")
diag "$text"
like "with the command that would accept it" "$text" 'ssh(-keyscan)? '
cp "$T/known_hosts" "$TESTBED_DIR/ssh/known_hosts"
reconnect
ok "with the right key it works" eventually 10 link_is up
is "what was submitted meanwhile ran once" "$(ended "$waiting") $(ran refused)" "succeeded 0 1"

# --- no key ---

mv "$TESTBED_DIR/ssh/authorized_keys" "$T/authorized_keys"
: >"$TESTBED_DIR/ssh/authorized_keys"
network cut
ok "a key that the server does not take any more is refused" eventually 70 link_is refused
text=$(sed -n 's/^text //p' "$MNT/clusters/demo/status")
diag "$text"
like "the sentence names the key" "$text" 'ssh/id'
network reset
sleep 4
is "nothing more is tried" "$(net connections)" 0
mv "$T/authorized_keys" "$TESTBED_DIR/ssh/authorized_keys"
reconnect
ok "with the key back it works" eventually 10 link_is up

is "the long job has ended with its code" "$(ended "$id" 60)" "failed 3"
wait $follow
is "its reader saw no error in all this" "$? $(cat "$T/follow.err")" "0 "
ok "and every line once" sh -c "seq 1 300 | cmp - $T/follow"
done_testing
