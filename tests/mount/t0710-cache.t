#!/bin/bash
# What is taken away to make room: fetched results beyond `cache_size`, and directories of runs that `keep` of the configuration
# says are old enough. Nothing that is open, kept, or that the cluster no longer has; and with kills at each step.
# TEST_SECONDS=45
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
D=$T/cluster
: >"$T/die"
SLURMRAY_TEST_DIE=$T/die # workers that are killed are replaced without a pause
export SLURMRAY_TEST_DIE
LIMIT=5242880
mount_local <<END
[defaults]
cluster = local
cache_size = 5M

[cluster local]
directory = $D
END

arm() { # arm POINT: the next worker that passes it dies there
	python3 - "$T/die" "$1" <<-'END'
		import struct, sys
		with open(sys.argv[1], 'r+b') as f:
		    page = f.read(4096)
		    names = [page[528 + 32 * i:560 + 32 * i].split(b'\0')[0].decode() for i in range(64)]
		    f.seek(8)
		    f.write(struct.pack('I', 1))
		    f.seek(4)
		    f.write(struct.pack('I', names.index(sys.argv[2]) + 1))
	END
}

died() { # for eventually
	[ "$(od -An -tu4 -j4 -N4 "$T/die" | tr -d ' ')" = 0 ]
}

here() { # bytes of fetched results
	find "$STATE/spool" -name 'data.*' -printf '%s\n' 2>/dev/null | awk '{ n += $1 } END { print n + 0 }'
}

fits() { # for eventually
	[ "$(here)" -le "$LIMIT" ]
}

told() { # what the status says
	timeout 5 sed -n 's/^cache_bytes //p' "$MNT/status"
}

told_right() {
	[ "$(told)" = "$(here)" ]
}

read_all() { # read_all ID NAME...: each is what its job made
	local id=$1 name
	shift
	for name in "$@"; do
		cmp -s "$MNT/runs/$id/results/$name" "$T/made/$id/$name" || return 1
	done
}

# A run with results of 1 MiB each.
results_of() { # results_of NAME...
	local id name
	# shellcheck disable=SC2016
	id=$(submit '-- cd $SLURMRAY_RESULTS; mkdir sub; for i in '"$*"'; do head -c 1048576 /dev/urandom >$i; done')
	ended "$id" >/dev/null
	eventually 20 contains "$MNT/runs/$id/info" 'logs complete'
	mkdir -p "$T/made/$id"
	for name in "$@"; do
		mkdir -p "$(dirname "$T/made/$id/$name")"
		cp "$(echo "$D"/*/runs/"$id"/a1/results/"$name")" "$T/made/$id/$name"
	done
	echo "$id"
}

# Which of them can be read without the cluster.
without_cluster() { # without_cluster ID NAME...
	local id=$1 name out=
	shift
	mv "$(echo "$D"/*/runs/"$id"/a1/results)" "$T/aside"
	for name in "$@"; do
		timeout 20 cmp -s "$MNT/runs/$id/results/$name" "$T/made/$id/$name" && out="$out $name"
	done
	mv "$T/aside" "$(echo "$D"/*/runs/"$id"/a1)/results"
	echo "${out# }"
}

# --- what was used longest ago goes ---

a=$(results_of 1 2 sub/3 sub/33)
b=$(results_of 4 5)
k=$(results_of 6)
is "kept" "$(order "$k" keep)" ok
ok "all are read" read_all "$a" 1 2 sub/3 sub/33
ok "the kept one, too" read_all "$k" 6
ok "that fits" told_right
is "so all are here" "$(here)" "$LIMIT"
exec 7<"$MNT/runs/$a/results/2"
sleep 1
ok "one is used again" read_all "$a" 1
ok "another run's is read" read_all "$b" 4
ok "what is here is less again" eventually 40 fits
ok "as the status says" told_right
is "what is open stays, and what was used last" "$(without_cluster "$a" 1 2 sub/3 sub/33)" "1 2"
is "what is kept stays" "$(without_cluster "$k" 6)" 6
ok "what went is fetched again" read_all "$a" sub/3
ok "what is open is whole" cmp /dev/fd/7 "$T/made/$a/2"

# --- a worker that is killed knows what is open ---

kill -9 "$(cat "$STATE/worker.pid")"
ok "more is read" read_all "$b" 5
ok "and room is made" eventually 40 fits
mv "$(echo "$D"/*/runs/"$a"/a1/results/2)" "$T/aside2"
ok "what an earlier worker had opened is here" cmp /dev/fd/7 "$T/made/$a/2"
exec 7<&-

# --- what the cluster no longer has ---

c=$(results_of 7 8 9)
ok "what nobody else has" read_all "$a" 2
ok "more is read again" read_all "$c" 7 8 9
ok "room is made" eventually 40 fits
ok "more is read again" read_all "$b" 4 5
ok "room is made" eventually 40 fits
ok "what nobody else has is here" read_all "$a" 2
mv "$T/aside2" "$(echo "$D"/*/runs/"$a"/a1/results)/2"

# --- fetch, and clean ---

big=$(results_of 10 11 12 13 14 15)
# shellcheck disable=SC2016
like "fetch of more than fits" "$(order "$big" fetch)" '^error 6291456 bytes are more than cache_size, 5242880: `keep`'
is "when it is kept it may be" "$(order "$big" keep; order "$big" fetch)" "ok
ok 6 files with 6291456 bytes are here"
is "all stay" "$(without_cluster "$big" 10 11 12 13 14 15)" "10 11 12 13 14 15"
is "no longer kept" "$(order "$big" 'keep off')" ok
ok "then room is made" eventually 40 fits
like "info says so" "$(timeout 5 cat "$MNT/runs/$big/info")" '^evicted 20'
not_ok "clean would lose what was fetched" timeout 10 bash -c "echo clean >'$MNT/runs/$big/ctl'"
ok "but nothing is lost" read_all "$big" 10 11 12 13 14 15

# --- a kill at each step ---

for place in cache.named cache.confirmed cache.unlinked; do
	ok "room is made" eventually 40 fits
	arm $place
	ok "$place: read" read_all "$c" 7 8 9
	ok "$place: read more" read_all "$b" 4 5
	ok "$place: a worker dies" eventually 40 died
	ok "$place: the next one makes room" eventually 40 fits
	ok "$place: and has counted" eventually 20 told_right
done
ok "nothing is lost by that" read_all "$a" 1 2 sub/3 sub/33
ok "nor there" read_all "$big" 10 11 12 13 14 15

# --- keep of the configuration ---

gone() { [ -z "$(find "$D" -path "*/runs/$1/*" -print -quit)" ]; }
ok "one is read" read_all "$c" 7
exec 7<"$MNT/runs/$b/results/4"
sed -i 's/^cache_size.*/keep = 3s/' "$T/config"
arm clean.journaled
echo reload >"$MNT/ctl"
ok "a worker dies" eventually 40 died
for id in "$a" "$c" "$big"; do
	ok "run $id was kept for long enough" eventually 40 gone "$id"
	ok "info says so" eventually 20 contains "$MNT/runs/$id/info" 'cleaned 20'
done
isnt "not what is read" "$(find "$D" -path "*/runs/$b/*" -print -quit)" ""
isnt "not what is marked with keep" "$(find "$D" -path "*/runs/$k/*" -print -quit)" ""
ok "what was fetched stays" read_all "$c" 7
is "and the runs" "$(word "$a") $(timeout 5 cat "$MNT/runs/$a/exit_code")" "succeeded 0"
exec 7<&-
ok "when it is closed it goes" eventually 40 gone "$b"
pending() { grep -q clean_pending "$MNT"/runs/*/info; }
not_pending() { ! pending; }
ok "each was answered" eventually 20 not_pending
ok "umount" stop_mount
done_testing
