#!/bin/sh
# slurmray doctor against a cluster behind a real sshd: what it finds when all is well, and what it says when not.
# TEST_SECONDS=22
# shellcheck disable=SC2016
. "$(dirname "$0")/../lib/tap.sh"

need_testbed
[ -x "$SLURMRAY" ] || skip_all "there is no $SLURMRAY; run make first"

# Mounts of others on this machine are not this test's business.
examine() { # examine CONFIG [CLUSTER]
	timeout -k 5 60 slurmray doctor --state "$STATE" --config "$@" >"$T/doctor.all" 2>&1
	status=$?
	out=$(grep -vE '^(ok  |bad ) .*mount(ed)? on ' "$T/doctor.all")
}

examine "$TESTBED_CONFIG" demo
unlike "nothing is bad about a good cluster" "$(printf '%s\n' "$out" | grep -F "$TESTBED_HOST")" '^bad'
like "the name that ssh makes of the host" "$out" "^ok   cluster demo: $TESTBED_HOST is .*@127.0.0.1 port $TESTBED_SSH_PORT"
like "a key" "$out" "^ok   $TESTBED_HOST: keys to log in with: "
like "a login" "$out" "^ok   $TESTBED_HOST: logged in after [0-9]+ ms: libssh2 .*SHA256:"
like "the shell" "$out" "^ok   $TESTBED_HOST: user $(id -un) on .* home $DEMO_HOME, bash"
like "Slurm" "$out" "^ok   $TESTBED_HOST: slurm.* is UP"
like "the directory" "$out" "^ok   $TESTBED_HOST: .* can be written"
like "sftp" "$out" "^ok   $TESTBED_HOST: sftp is there"
unlike "the other cluster is left out" "$out" 'cluster local'

sed 's,^directory.*,directory = /proc/no/such,' "$TESTBED_CONFIG" >"$T/config.dir"
examine "$T/config.dir" demo
like "a directory that cannot be made" "$out" '^bad  .*/proc/no/such.*`directory =` in \[cluster demo\]'
is "fails" "$status" 1

ssh-keygen -q -t ed25519 -N '' -f "$T/stranger"
sed "s,IdentityFile.*,IdentityFile $T/stranger," "$TESTBED_SSH_CONFIG" >"$T/ssh.stranger"
sed "s,^ssh_config.*,ssh_config = $T/ssh.stranger," "$TESTBED_CONFIG" >"$T/config.stranger"
examine "$T/config.stranger" demo
like "a key that is refused" "$out" "^bad  $TESTBED_HOST: .*stranger"
sed "s,UserKnownHostsFile.*,UserKnownHostsFile $T/nobody," "$TESTBED_SSH_CONFIG" >"$T/ssh.unknown"
sed "s,^ssh_config.*,ssh_config = $T/ssh.unknown," "$TESTBED_CONFIG" >"$T/config.unknown"
examine "$T/config.unknown" demo
like "an unknown host, with the command that accepts it" "$out" "^bad  $TESTBED_HOST: the host key .* is not known .*ssh-keyscan"

testbed ctld-stop >/dev/null
examine "$TESTBED_CONFIG" demo
like "a controller that is down" "$out" "^bad  $TESTBED_HOST: Slurm's controller does not answer: .*DOWN"
testbed ctld-start >/dev/null
testbed sshd-stop >/dev/null
examine "$TESTBED_CONFIG" demo
like "an sshd that is down" "$out" "^bad  $TESTBED_HOST: .*refused"

# Somebody listens and never says a word.
in_background python3 -c '
import socket, sys, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen()
open(sys.argv[2], "w").close()
time.sleep(60)' "$TESTBED_SSH_PORT" "$T/listens"
ok "it listens" eventually 20 test -e "$T/listens"
examine "$TESTBED_CONFIG" demo
like "one that says nothing is given up at the deadline" "$out" "^bad  $TESTBED_HOST: logging in took too long"
done_testing
