#!/bin/bash
# Data over a slow line to a real sshd: many files up and back, an upload that is cut, inputs from one cluster to another.
# TEST_SECONDS=55
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
need_proxy
proxy_testbed
mount_demo
TAP_TIMEOUT=120
ok "the link is up" eventually 20 link_is up
network "delay 20"

# --- many files up and back ---

mkdir "$T/many" "$T/many/a" "$T/many/b"
for i in $(seq 500); do
	echo "$i" >"$T/many/a/$i"
	echo "b$i" >"$T/many/b/$i"
done
chmod 750 "$T/many/a/7"
touch -d 2001-02-03T04:05:06 "$T/many/a/8"
mkdir "$MNT/runs/many"
ok "into files/ of a draft" timeout -k 2 60 cp -rp "$T/many" "$MNT/runs/many/files/"
# shellcheck disable=SC2016
echo '-- cp -rp many $SLURMRAY_RESULTS/' >"$MNT/runs/many/spec"
is "shipped" "$(ended many 60)" "succeeded 0"
network reset
ok "cp -r of the results" timeout -k 2 100 cp -rp "$MNT/runs/many/results" "$T/back"
trips=$(net flips)
ok "all of it is the same" diff -r "$T/many" "$T/back/many"
is "modes" "$(stat -c %a "$T/back/many/a/7")" 550 # results cannot be written
is "mtimes" "$(stat -c %Y "$T/back/many/a/8")" "$(stat -c %Y "$T/many/a/8")"
ok "1000 files took $trips round trips: far fewer than files" test "$trips" -lt 400

# --- a large upload, cut in the middle ---

head -c 50000000 /dev/urandom >"$T/big"
sum=$(sha1sum <"$T/big" | cut -d' ' -f1)
network "rate 20000000"
network reset
# shellcheck disable=SC2016
id=$(submit "inputs.data=$T/big -- sha1sum <\$SLURMRAY_INPUTS/data; cp \$SLURMRAY_INPUTS/data \$SLURMRAY_RESULTS/big")
sent() { # sent BYTES: for eventually
	local n
	n=$(sed -n 's/^upload_bytes //p' "$MNT/runs/$id/info")
	[ "${n:-0}" -ge "$1" ]
}
ok "info says how far it is" eventually 60 sent 15000000
like "why says so" "$(why "$id")" '^transfer: [0-9.]+ of 50.0 MB are on the cluster$'
network cut
is "it goes on" "$(ended "$id" 100)" "succeeded 0"
like "and is whole" "$(timeout 10 cat "$MNT/runs/$id/stdout")" "^$sum "
ok "what was there was not sent again" test "$(net client_bytes)" -lt 60000000
network "rate 0"

# --- inputs between runs and clusters ---

# shellcheck disable=SC2016
id2=$(submit "inputs.x=runs/$id/results/big -- sha1sum <\$SLURMRAY_INPUTS/x; [ -L \$SLURMRAY_INPUTS/x ] && echo link")
network reset
is "on the same cluster" "$(ended "$id2")" "succeeded 0"
is "a link, and the bytes" "$(timeout 10 cat "$MNT/runs/$id2/stdout" | tr '\n' ' ')" "$sum  - link "
ok "nothing of it went over the line" test "$(net server_bytes)" -lt 1000000
# shellcheck disable=SC2016
id3=$(submit "cluster=local inputs.x=runs/$id/results/big -- sha1sum <\$SLURMRAY_INPUTS/x; echo back >\$SLURMRAY_RESULTS/y")
is "to this machine" "$(ended "$id3" 60)" "succeeded 0"
like "the bytes" "$(timeout 10 cat "$MNT/runs/$id3/stdout")" "^$sum "
# shellcheck disable=SC2016
id4=$(submit "inputs.y=runs/$id3/results/y -- cat \$SLURMRAY_INPUTS/y")
is "and from here" "$(ended "$id4") $(timeout 10 cat "$MNT/runs/$id4/stdout")" "succeeded 0 back"

# --- a large result, cut in the middle ---

network "rate 20000000"
in_background timeout 100 cp "$MNT/runs/$id/results/big" "$T/big.back"
copied() { [ "$(stat -c %s "$T/big.back" 2>/dev/null || echo 0)" -ge 10000000 ]; }
ok "it comes" eventually 60 copied
network reset
network cut
copy_ended() { ! kill -0 "$pid" 2>/dev/null; }
ok "the copy goes on" eventually 90 copy_ended
ok "and is whole" cmp "$T/big" "$T/big.back"
ok "what was there did not come again" test "$(net server_bytes)" -lt 48000000

# --- room: results that were fetched go when their cluster says that it has them, and not while it is away ---

network "rate 0"
here() { find "$STATE/spool" -name 'data.*' -printf '%s\n' | awk '{ n += $1 } END { print n + 0 }'; }
fits() { [ "$(here)" -le 41943040 ]; }
grep -q '^cache_size' "$T/config" || echo 'cache_size = 40M' >>"$T/config"
network refuse
network cut
ok "its cluster is away" eventually 40 link_is down
kill -HUP "$(cat "$STATE/worker.pid")"
sleep 4
before=$(here)
ok "then nothing goes" test "$before" -gt 50000000
network go
reconnect
ok "when it is there again what is too much goes" eventually 60 fits
ok "and comes when it is read" timeout -k 2 100 cmp "$T/big" "$MNT/runs/$id/results/big"
done_testing
