#!/bin/bash
# Data on the local cluster: inputs from files and from other runs, results that are fetched ahead and by `fetch`, keep, clean.
# TEST_SECONDS=12
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
D=$T/cluster
mount_local <<END
[defaults]
cluster = local

[cluster local]
directory = $D
END

log() { # log ID: what it wrote, on one line
	timeout 10 cat "$MNT/runs/$1/log" | tr '\n' ' '
}

refused() { # refused SPEC: the sentence
	# shellcheck disable=SC2016
	timeout 10 bash -c 'exec 3<>"$1/runs/new"; printf "%s\n" "$2" >&3 2>/dev/null || cat <&3' - "$MNT" "$1" 2>/dev/null
}

# --- many small results, read in order ---

# shellcheck disable=SC2016
id=$(submit '-- cd $SLURMRAY_RESULTS; mkdir -p a b/c; for i in $(seq 200); do echo $i >a/$i; echo c$i >b/c/$i; done; : >empty;
chmod 600 a/7; touch -d 2001-02-03T04:05:06 a/8; head -c 3000000 /dev/zero >big')
is "a run with results" "$(ended "$id")" "succeeded 0"
ok "cp -r" timeout -k 2 60 cp -rp "$MNT/runs/$id/results" "$T/copy"
results=$(echo "$D"/*/runs/1/a1/results)
ok "all of it is the same" diff -r "$results" "$T/copy"
is "with mtimes" "$(stat -c %Y "$T/copy/a/8")" "$(stat -c %Y "$results/a/8")"
is "nothing half is left" "$(find "$STATE/spool/1" -name 'data.*.*' | wc -l)" 0
ok "grep -r of them" timeout -k 2 60 grep -rqx c200 "$MNT/runs/$id/results"

# --- inputs ---

echo mine >"$T/a file"
# shellcheck disable=SC2016
id2=$(submit '{"command": "cat \"$SLURMRAY_INPUTS/one\" two; [ -L one ] && echo link", "inputs": {"one": "runs/1/results/b/c/5", "two": "'"$T/a file"'"}}')
is "a result and a local file" "$(ended "$id2") $(log "$id2")" "succeeded 0 c5 mine link "
like "effective has them" "$(timeout 10 cat "$MNT/runs/$id2/effective")" 'runs/1/results/b/c/5'
# shellcheck disable=SC2016
id3=$(submit 'inputs.x=runs/1/results/a/9 -- cat $SLURMRAY_INPUTS/x')
is "on one line" "$(ended "$id3") $(log "$id3")" "succeeded 0 9 "
like "no such result" "$(refused 'inputs.x=runs/1/results/a/900 -- true')" 'inputs.x: run 1 \(succeeded\) has no file results/a/900'
like "no such run" "$(refused 'inputs.x=runs/99/results/a -- true')" 'there is no run 99'
like "no such local file" "$(refused "inputs.x=$T/none -- true")" "$T/none"
like "a relative path" "$(refused 'inputs.x=none -- true')" 'must be an absolute local path, or runs/ID/results/PATH'
# shellcheck disable=SC2016
id4=$(submit '-- until [ -e "'"$T"'/go" ]; do sleep 0.05; done; echo late >$SLURMRAY_RESULTS/late')
like "of a run that has not ended" "$(refused "inputs.x=runs/$id4/results/late -- true")" "run $id4 has not ended, .*afterok=$id4"
id5=$(submit "afterok=$id4 inputs.x=runs/$id4/results/late -- cat x")
id6=$(submit "afterok=$id4 inputs.x=runs/$id4/results/never -- cat x")
: >"$T/go"
is "it is waited for" "$(ended "$id5") $(log "$id5")" "succeeded 0 late "
is "and rejected when it did not leave the file" "$(ended "$id6")" "rejected -"
like "with a sentence" "$(why "$id6")" "inputs.x: run $id4 \(succeeded\) has no file results/never"

# --- a run that others need ---

# shellcheck disable=SC2016
need=$(submit "inputs.x=runs/$id/results/a/9"' -- until [ -e "'"$T"'/needed" ]; do sleep 0.05; done; cat $SLURMRAY_INPUTS/x')
ok "it runs" running "$need"
not_ok "what it reads cannot be purged" timeout 10 rmdir "$MNT/runs/$id"
# shellcheck disable=SC2154
like "errno" "$err" 'busy'
like "the sentence is in errors" "$(timeout 10 tail -n 1 "$MNT/errors")" 'a run that has not ended has an input from its results'
: >"$T/needed"
is "it has it" "$(ended "$need") $(log "$need")" "succeeded 0 9 "

# --- fetch, keep, clean ---

# shellcheck disable=SC2016
id7=$(submit '-- cd $SLURMRAY_RESULTS; for i in $(seq 100); do echo $i >$i; done; head -c 5000000 /dev/urandom >big; exit 3')
is "a run that fails" "$(ended "$id7")" "failed 3"
sum=$(sha1sum <"$(echo "$D"/*/runs/"$id7"/a1/results/big)")
eventually 20 contains "$MNT/runs/$id7/info" 'logs complete' || true
is "fetch" "$(order "$id7" fetch)" "ok 101 files with 5000292 bytes are here"
is "how far it is" "$(timeout 10 grep -E '^fetch_(bytes|total)' "$MNT/runs/$id7/info" | tr '\n' ' ')" "fetch_bytes 5000292 fetch_total 5000292 "
is "again: at once" "$(order "$id7" fetch)" "ok 101 files with 5000292 bytes are here"
is "keep" "$(order "$id7" keep)" "ok"
not_ok "what is kept is not cleaned" timeout 10 bash -c "echo clean >'$MNT/runs/$id7/ctl'"
is "keep off" "$(order "$id7" "keep off")" "ok"
like "clean" "$(order "$id7" clean)" "^ok its directory on the cluster is being removed"
gone() { [ -z "$(find "$D" -path "*/runs/$1/*" -print -quit)" ]; }
ok "nothing is left there" eventually 20 gone "$id7"
is "what was fetched stays readable" "$(timeout 10 sha1sum <"$MNT/runs/$id7/results/big")" "$sum"
is "small ones, too" "$(timeout 10 cat "$MNT/runs/$id7/results/77")" 77
is "and the run is what it was" "$(word "$id7")" failed
like "info says so" "$(timeout 10 cat "$MNT/runs/$id7/info")" '^cleaned 20'
like "it is no input any more" "$(refused "inputs.x=runs/$id7/results/77 -- true")" 'removed from its cluster \(clean\)'
eventually 20 contains "$MNT/runs/$id4/info" 'logs complete' || true
like "clean of what was not fetched" "$(order "$id4" clean)" "^ok"
ok "nothing is left there" eventually 20 gone "$id4"
not_ok "it cannot be read" timeout 20 cat "$MNT/runs/$id4/results/late"
ok "but the run can be purged" timeout 10 rmdir "$MNT/runs/$id4"
done_testing
