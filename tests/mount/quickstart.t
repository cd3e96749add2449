#!/bin/sh
# The first minutes of a user: mount, submit by a redirection, follow, read the result, unmount; and that a mount whose
# state is kept knows its runs again.
. "$(dirname "$0")/../lib/tap.sh"
mount_local

ok "the tree has a README" test -s "$MNT/README"
like "it tells how to submit" "$(cat "$MNT/README")" 'runs/new'
is "no run is listed yet" "$(find "$MNT/runs" -maxdepth 1 -name '[0-9]*')" ""
# shellcheck disable=SC2016
echo 'name=hello -- echo out; echo err >&2; echo 42 >$SLURMRAY_RESULTS/answer' >"$MNT/runs/new"
is "a write to runs/new is accepted" $? 0
run readlink "$MNT/last"
is "last leads to the run" "$out" runs/1
run cat "$MNT/runs/1/wait"
is "wait answers when it has ended" "$out" "succeeded 0"
is "status is one word" "$(cat "$MNT/runs/1/status")" succeeded
is "the exit code is there" "$(cat "$MNT/runs/1/exit_code")" 0
is "stdout is byte-exact" "$(cat "$MNT/runs/1/stdout")" out
is "and stderr" "$(cat "$MNT/runs/1/stderr")" err
is "a result can be read" "$(cat "$MNT/runs/1/results/answer")" 42
# shellcheck disable=SC2016
like "the spec can be read back" "$(cat "$MNT/runs/1/spec")" '^name=hello -- echo out'
echo "exit 3" >"$MNT/runs/new"
run cat "$MNT/runs/2/wait"
is "a failure is told with its code" "$out" "failed 3"
not_ok "a bad spec is refused by the write" sh -c "echo 'nodez=1 -- true' >'$MNT/runs/new'"
like "with the nearest known key in errors" "$(tail -n 1 "$MNT/errors")" 'nodes'

ok "it can be unmounted" stop_mount
is_gone() {
	! is_mounted "$MNT"
}
ok "and is gone" eventually 5 is_gone
ok "the server ends too" eventually 10 sh -c "! kill -0 $mount_pid 2>/dev/null"
mount_local
is "mounted again, it knows its runs" "$(cat "$MNT/runs/2/wait")" "failed 3"
is "and their output" "$(cat "$MNT/runs/1/stdout")" out
done_testing
