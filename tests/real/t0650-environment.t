#!/bin/bash
# Environments on a Slurm behind ssh: sent once, from where a cut link stopped, unpacked once, whoever is killed.
# TEST_SECONDS=26
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
. "$ROOT/tests/lib/environments.sh" || exit 99
need_proxy
proxy_testbed
mount_demo
E=$DEMO_HOME/.slurmray/envs

log() { # log ID: what it wrote, on one line
	timeout 10 cat "$MNT/runs/$1/log" | tr '\n' ' '
}

key_of() { # key_of FILE
	sha256sum "$1" | cut -c 1-32
}

noted() { # noted FILE PATTERN: lines of its log on the cluster
	grep -c -e "$2" "$E/$(key_of "$1")/log" 2>/dev/null
}

has_part() { # has_part FILE BYTES: so much has arrived
	local part
	part=$(echo "$E/$(key_of "$1")"/part.*)
	[ -f "$part" ] && [ "$(stat -c %s "$part")" -ge "$2" ]
}

# --- what is there already ---

python3 -m venv --without-pip "$DEMO_HOME/venv" || skip_all "python3 -m venv does not work"
prefix "$DEMO_HOME/p"
printf 'module() { case $2 in gone) echo no such module >&2; return 1 ;; esac; export LOADEDMODULES=$LOADEDMODULES:$2; }\n' \
	>"$DEMO_HOME/module.sh"
venv=$(submit "environment=venv:~/venv -- command -v python3")
conda=$(submit "environment=conda:~/p -- python3")
mods=$(submit "setup='. ~/module.sh' environment=module:gcc,cuda -- echo \$LOADEDMODULES")
gone=$(submit "setup='. ~/module.sh' environment=module:gone -- echo ran")
none=$(submit "environment=~/none -- echo ran")
is "a virtual environment" "$(ended "$venv") $(log "$venv")" "succeeded 0 $DEMO_HOME/venv/bin/python3 "
is "a conda prefix" "$(ended "$conda") $(log "$conda")" "succeeded 0 python of $DEMO_HOME/p "
is "modules" "$(ended "$mods") $(log "$mods")" "succeeded 0 :gcc:cuda "
is "a module that is not there" "$(ended "$gone")" "failed -"
like "why says so" "$(why "$gone")" '^was not started: environment module gone: it cannot be loaded \(no such module\)'
is "a directory that is not there" "$(ended "$none")" "failed -"
like "why says where" "$(why "$none")" 'environment path ~/none: there is no such directory on'

# --- twenty at once ---

pixi_archive "$T/env.sh" 8000000
size=$(stat -c %s "$T/env.sh")
network reset
ids=
for _ in $(seq 20); do ids="$ids $(submit "environment=archive:$T/env.sh -- command -v python3")"; done
all=
for id in $ids; do all="$all$(ended "$id") "; done
# shellcheck disable=SC2086
is "twenty runs of one archive" "$all" "$(printf 'succeeded 0 %.0s' $ids)"
is "they run in it" "$(log "${ids##* }")" "$E/$(key_of "$T/env.sh")/env/env/bin/python3 "
up=$(net client_bytes)
diag "$up bytes up for an archive of $size"
ok "it was sent once" test "$up" -lt $((size * 5 / 4))
is "and unpacked once" "$(noted "$T/env.sh" sending) $(noted "$T/env.sh" ' unpacked')" "1 1"
network reset
id=$(submit "environment=archive:$T/env.sh -- echo again")
is "the next run of it" "$(ended "$id") $(log "$id")" "succeeded 0 again "
up=$(net client_bytes)
ok "sends nothing of it ($up bytes)" test "$up" -lt 100000

# --- a link that is cut, and a worker that is killed ---

pixi_archive "$T/big.sh" 12000000
network "rate 4000000"
id=$(submit "environment=archive:$T/big.sh -- echo ran")
ok "some of it has arrived" eventually 20 has_part "$T/big.sh" 2000000
network cut
ok "it goes on from there" eventually 20 has_part "$T/big.sh" 5000000
kill -9 "$(cat "$STATE/worker.pid")"
is "also with the next worker" "$(ended "$id" 60) $(log "$id")" "succeeded 0 ran "
network "rate 0"
offsets=$(sed -n 's/.*sending from \([0-9]*\) of.*/\1/p' "$E/$(key_of "$T/big.sh")/log" | tr '\n' ' ')
diag "sent from: $offsets"
# shellcheck disable=SC2086
set -- $offsets
ok "nothing that had arrived was sent again" test "$1" = 0 -a "${2:-0}" -ge 2000000 -a "${3:-0}" -ge 5000000
is "it was unpacked once" "$(noted "$T/big.sh" ' unpacked')" 1

# --- what arrives is not believed ---

pixi_archive "$T/spoilt.sh" 100000
mkdir -p "$E/$(key_of "$T/spoilt.sh")"
uuid=$(basename "$(echo "$DEMO_HOME"/.slurmray/*-*-*-*)")
head -c 50000 /dev/urandom >"$E/$(key_of "$T/spoilt.sh")/part.$uuid"
id=$(submit "environment=archive:$T/spoilt.sh -- echo ran")
is "a partial file that is not of this archive" "$(ended "$id") $(log "$id")" "succeeded 0 ran "
is "is found out and sent anew" "$(noted "$T/spoilt.sh" 'not what was sent') $(noted "$T/spoilt.sh" sending)" "1 2"
chmod -R u+w "$E/$(key_of "$T/env.sh")"
rm -rf "${E:?}/$(key_of "$T/env.sh")"
id=$(submit "environment=archive:$T/env.sh -- echo ran")
is "one that was removed is sent again" "$(ended "$id") $(log "$id")" "succeeded 0 ran "
pixi_archive "$T/other.sh" 1000 "$(platform_elsewhere)"
id=$(submit "environment=archive:$T/other.sh -- echo ran")
is "one for another machine is refused" "$(ended "$id")" "rejected -"
like "with a sentence" "$(why "$id")" "it is for $(platform_elsewhere) and the cluster is $(platform_here)"
ok "before anything was sent" test ! -e "$E/$(key_of "$T/other.sh")/archive"
is "nor was it sent in part" "$(noted "$T/other.sh" verified)" 0

# --- large files are known by their content ---

head -c 5000000 /dev/urandom >"$T/large.bin"
head -c 2000000 /dev/urandom | base64 >"$T/payload.tail"
{
	printf '#!/bin/sh\nmd5sum <large.bin\nstat -c %%h large.bin in.bin\necho mine >large.bin\nexit 0\n'
	cat "$T/payload.tail"
} >"$T/payload"
sum=$(md5sum <"$T/large.bin")
cp "$T/large.bin" "$T/copy.bin"
spec() {
	echo "{\"payload\": \"$T/payload\", \"files\": [\"$T/large.bin\"], \"inputs\": {\"in.bin\": \"$T/copy.bin\"}}"
}
network reset
id=$(submit "$(spec)")
is "a run with large files" "$(ended "$id" 60) $(log "$id")" "succeeded 0 $sum 1 1 "
up=$(net client_bytes)
ok "the same bytes under two names travel once ($up bytes)" test "$up" -gt 7500000 -a "$up" -lt 10000000
network reset
id=$(submit "$(spec)")
is "the next one" "$(ended "$id" 60) $(log "$id")" "succeeded 0 $sum 1 1 "
up=$(net client_bytes)
ok "sends nothing of them ($up bytes), and what a job wrote to its copy is not in it" test "$up" -lt 100000
touch "$T/large.bin" # another time: it is read again, and not sent
id=$(submit "$(spec)")
network reset
is "a file that was only touched" "$(ended "$id" 60) $(log "$id")" "succeeded 0 $sum 1 1 "
ok "is not sent either" test "$(net client_bytes)" -lt 100000

# --- how far an archive is ---

pixi_archive "$T/slow.sh" 6000000
network "rate 1500000"
id=$(submit "environment=archive:$T/slow.sh -- echo ran")
ok "why says how far it is" eventually 20 why_says "$id" 'transfer: [0-9.]+ of [0-9.]+ MB are on the cluster'
ok "so does info" grep -q '^upload_total ' "$MNT/runs/$id/info"
network "rate 0"
is "and it ends well" "$(ended "$id" 60) $(log "$id")" "succeeded 0 ran "

# --- libraries and builds ---

mkdir -p "$T/wheel/dagster_pipes"
echo 'who = "injected"' >"$T/wheel/dagster_pipes/__init__.py"
(cd "$T/wheel" && python3 -m zipfile -c "$T/dagster_pipes-9-py3-none-any.whl" dagster_pipes)
ask="-- python3 -c 'import dagster_pipes; print(dagster_pipes.who)'"
id=$(submit "pipes=$T/dagster_pipes-9-py3-none-any.whl $ask")
is "pipes=FILE" "$(ended "$id") $(log "$id")" "succeeded 0 injected "
id=$(submit "environment=wheels:$T/dagster_pipes-9-py3-none-any.whl $ask")
is "the same as a wheel" "$(ended "$id") $(log "$id")" "succeeded 0 injected "
mkdir "$MNT/sessions/warm" && echo 'ntasks=1 idle=0 time=20' >"$MNT/sessions/warm/spec"
one=$(submit "session=warm pipes=$T/dagster_pipes-9-py3-none-any.whl $ask")
two=$(submit "session=warm environment=wheels:$T/dagster_pipes-9-py3-none-any.whl $ask")
is "steps of a session have them, too" "$(for i in $one $two; do echo "$(ended "$i" 60) $(log "$i")"; done | tr '\n' ' ')" \
	"succeeded 0 injected  succeeded 0 injected  "
printf '#!/bin/sh\necho building\npython3 -m venv --without-pip "${PREFIX:?}"\n' >"$T/make-env"
one=$(submit "environment=build:$T/make-env -- python3 -c 'import sys; print(sys.prefix)'")
two=$(submit "environment=build:$T/make-env -- echo too")
id=$(submit "session=warm environment=build:$T/make-env -- python3 -c 'import sys; print(sys.prefix)'")
is "a build" "$(ended "$one") $(log "$one")" "succeeded 0 $(echo "$E"/*.build)/env "
is "of a step, too" "$(ended "$id") $(log "$id")" "succeeded 0 $(echo "$E"/*.build)/env "
is "is made once" "$(ended "$two") $(grep -c '^building' "$(echo "$E"/*.build)/log")" "succeeded 0 1"
printf '#!/bin/sh\necho "no such package: numpi"\nexit 4\n' >"$T/bad-env"
id=$(submit "environment=build:$T/bad-env -- echo ran")
is "a build that fails" "$(ended "$id")" "rejected -"
like "its last line is in why" "$(why "$id")" 'its build failed \(code 4\): no such package: numpi'
done_testing
