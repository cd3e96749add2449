#!/bin/bash
# The key `environment` on the local cluster: directories, modules, hooks, and archives that are unpacked once.
. "$(dirname "$0")/../lib/tap.sh" || exit 99
. "$ROOT/tests/lib/faults.sh" || exit 99
. "$ROOT/tests/lib/environments.sh" || exit 99
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

# --- what is there already ---

python3 -m venv --without-pip "$T/venv" || skip_all "python3 -m venv does not work"
prefix "$T/my prefix"
prefix "$HOME/miniforge3/envs/ml"
cp -r "$T/venv" "$T/moved"
id=$(submit "environment=venv:$T/venv -- python3 -c 'import sys; print(sys.prefix)'")
is "a virtual environment" "$(ended "$id") $(log "$id")" "succeeded 0 $T/venv "
id=$(submit "environment=$T/venv -- command -v python3")
is "found by what is there" "$(ended "$id") $(log "$id")" "succeeded 0 $T/venv/bin/python3 "
id=$(submit '{"command": "python3; echo $ACTIVATED", "environment": {"conda": "'"$T/my prefix"'"}}')
is "a conda prefix" "$(ended "$id") $(log "$id")" "succeeded 0 python of $T/my prefix yes "
id=$(submit 'environment=conda:ml -- python3')
is "a conda environment by name" "$(ended "$id") $(log "$id")" "succeeded 0 python of $HOME/miniforge3/envs/ml "
id=$(submit "environment='hook:export A=5' -- echo \$A")
is "a hook" "$(ended "$id") $(log "$id")" "succeeded 0 5 "
cat >"$T/module.sh" <<'END'
module() {
	case $2 in
	gone) echo "Unable to locate a modulefile for 'gone'" >&2; return 1 ;;
	*) export LOADEDMODULES="${LOADEDMODULES:+$LOADEDMODULES:}$2" ;;
	esac
}
END
id=$(submit "setup='. $T/module.sh' environment=module:gcc,cuda/12 -- echo \$LOADEDMODULES")
is "modules" "$(ended "$id") $(log "$id")" "succeeded 0 gcc:cuda/12 "
id=$(submit "environment=venv:$T/venv.none -- echo ran")
is "a directory that is not there: the command is not run" "$(ended "$id")" "failed -"
like "why says what and where" "$(why "$id")" "^was not started: environment venv $T/venv.none: there is no such directory on "
unlike "nothing of it was written" "$(log "$id")" '^ran'
id=$(submit "environment=venv:$T/moved -- echo ran")
is "one that was copied is not taken for itself" "$(ended "$id")" "failed -"
like "why says so" "$(why "$id")" 'the directory was moved or copied'
id=$(submit "setup='. $T/module.sh' environment=module:gone -- echo ran")
is "a module that is not there" "$(ended "$id")" "failed -"
like "why has the words of the module command" "$(why "$id")" "environment module gone: .*Unable to locate a modulefile"
id=$(submit "environment=container:docker://debian -- echo ran")
is "no apptainer, no run" "$(ended "$id")" "failed -"
like "why names the programs" "$(why "$id")" 'neither apptainer nor singularity is on'
like "what it can be is said when it is something else" "$(refused 'environment=here -- x')" 'venv:DIR, conda:NAME'
like "an archive must be there" "$(refused "environment=archive:$T/none.tar -- x")" 'none.tar'

# --- archives ---

pixi_archive "$T/env.sh" 4000000
ids=
for _ in 1 2 3 4 5 6 7 8 9 10; do ids="$ids $(submit "environment=archive:$T/env.sh -- command -v python3")"; done
all=
for id in $ids; do all="$all$(ended "$id") "; done
is "ten runs of one archive" "$all" "$(printf 'succeeded 0 %.0s' $ids)"
like "they run in it" "$(log "$id")" "^$D/envs/[0-9a-f]{32}/env/env/bin/python3 $"
is "it was unpacked once" "$(grep -c ' unpacked' "$D"/envs/*/log)" 1
id=$(cd "$T" && SLURMRAY_MOUNT=$MNT within 20 slurmray submit environment=archive:./env.sh -- 'echo $CONDA_PREFIX')
like "submit makes its path absolute" "$(ended "$id") $(log "$id")" "^succeeded 0 $D/envs/"
is "and it was not unpacked again" "$(grep -c ' unpacked' "$D"/envs/*/log)" 1

prefix "$T/packed/env"
tar -C "$T/packed" -czf "$T/packed.tar.gz" env
id=$(submit "environment=archive:$T/packed.tar.gz -- python3")
like "a tar of a prefix, a directory deep" "$(ended "$id") $(log "$id")" "^succeeded 0 python of $D/envs/[0-9a-f]*/env/env $"
echo changed >"$T/packed/env/more"
tar -C "$T/packed" -czf "$T/packed.tar.gz" env
id=$(submit "environment=archive:$T/packed.tar.gz -- cat \$CONDA_PREFIX/more")
is "a file that was changed is another archive" "$(ended "$id") $(log "$id")" "succeeded 0 changed "

pixi_archive "$T/other.sh" 1000 "$(platform_elsewhere)"
id=$(submit "environment=archive:$T/other.sh -- echo ran")
is "one for another machine is refused" "$(ended "$id")" "rejected -"
like "with a sentence" "$(why "$id")" "it is for $(platform_elsewhere) and the cluster is $(platform_here)"
id=$(submit "environment.archive=$T/other.sh environment.platform=any -- echo ran")
is "unless its platform is said to be right" "$(ended "$id") $(log "$id")" "succeeded 0 ran "
tar -C "$T" -cf "$T/venv.tar" venv
id=$(submit "environment=archive:$T/venv.tar -- echo ran")
is "a virtual environment cannot be packed" "$(ended "$id")" "rejected -"
like "which is said" "$(why "$id")" 'cannot be moved'
tar -C "$T" -cf "$T/nothing.tar" module.sh
id=$(submit "environment=archive:$T/nothing.tar -- echo ran")
like "nothing to activate" "$(ended "$id") $(why "$id")" 'none of activate.sh, bin/activate, conda-meta'

# --- libraries beside it ---

# make_wheel FILE NAME TEXT: a wheel with one package of one file
make_wheel() {
	rm -rf "$T/wheel"
	mkdir -p "$T/wheel/$2"
	printf '%s\n' "$3" >"$T/wheel/$2/__init__.py"
	(cd "$T/wheel" && python3 -m zipfile -c "$1" "$2")
}

make_wheel "$T/first-1-py3-none-any.whl" lib 'who = "first"'
make_wheel "$T/second-1-py3-none-any.whl" lib 'who = "second"'
make_wheel "$T/dagster_pipes-9-py3-none-any.whl" dagster_pipes 'who = "injected"'
ask="-- python3 -c 'import lib; print(lib.who)'"
id=$(submit "environment=wheels:$T/first-1-py3-none-any.whl,$T/second-1-py3-none-any.whl $ask")
is "wheels, the first in front" "$(ended "$id") $(log "$id")" "succeeded 0 first "
id=$(submit "environment.venv=$T/venv environment.wheels=$T/second-1-py3-none-any.whl $ask")
is "together with a virtual environment" "$(ended "$id") $(log "$id")" "succeeded 0 second "
python3 -m zipfile -c "$T/alien-1-cp311-cp311-manylinux_2_17_$(platform_elsewhere | sed 's/linux-64/x86_64/; s/linux-//').whl" "$T/module.sh"
id=$(submit "environment=wheels:$(echo "$T"/alien-1-*.whl) $ask")
is "a wheel for another machine is refused" "$(ended "$id")" "rejected -"
like "with a sentence" "$(why "$id")" "it is for $(platform_elsewhere) and the cluster is $(platform_here)"
ask="-- python3 -c 'import dagster_pipes; print(dagster_pipes.who)'"
like "inject without a module is refused at once" "$(refused "pipes=inject $ask")" 'pipes: inject needs a module'
id=$(submit "pipes=inject pipes_module=$T/dagster_pipes-9-py3-none-any.whl $ask")
is "pipes=inject" "$(ended "$id") $(log "$id")" "succeeded 0 injected "
id=$(submit "pipes=$T/dagster_pipes-9-py3-none-any.whl environment=venv:$T/venv $ask")
is "pipes=FILE" "$(ended "$id") $(log "$id")" "succeeded 0 injected "
site=$("$T/venv/bin/python3" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
echo 'who = "its own"' >"$site/dagster_pipes.py"
id=$(submit "pipes=$T/dagster_pipes-9-py3-none-any.whl environment=venv:$T/venv $ask")
is "an environment's own is left alone" "$(ended "$id") $(log "$id")" "succeeded 0 its own "
echo 'who = "one file"' >"$T/mine.py"
id=$(submit "pipes=$T/mine.py $ask")
is "a module of one file, whatever its name" "$(ended "$id") $(log "$id")" "succeeded 0 one file "

# --- built where it is used ---

cat >"$T/make-env" <<'END'
#!/bin/sh
echo "building in $PREFIX"
python3 -m venv --without-pip "${PREFIX:?}"
END
one=$(submit "environment=build:$T/make-env -- python3 -c 'import sys; print(sys.prefix)'")
two=$(submit "environment=build:$T/make-env -- echo too")
is "a build" "$(ended "$one") $(log "$one")" "succeeded 0 $(echo "$D"/envs/*.build)/env "
is "is shared" "$(ended "$two") $(cat "$D"/envs/*.build/log | grep -c '^building')" "succeeded 0 1"
printf '#!/bin/sh\necho begins\necho "no such package: numpi"\nexit 4\n' >"$T/bad-env"
id=$(submit "environment=build:$T/bad-env -- echo ran")
is "a build that fails" "$(ended "$id")" "rejected -"
like "its last line is in why" "$(why "$id")" "environment build $T/bad-env: its build failed \\(code 4\\): no such package: numpi"

# --- what is there, in the tree ---

key=$(basename "$(echo "$D"/envs/*.build | tr ' ' '\n' | while read -r d; do [ ! -e "$d/complete" ] || echo "$d"; done)")
node=$MNT/envs/$key@local
listed() { # listed NAME: for eventually; a look asks for the next list
	ls "$MNT/envs" >/dev/null
	test -d "$MNT/envs/$1"
}
gone() {
	! listed "$1"
}
says() { # says FILE PATTERN
	timeout 5 cat "$node/$1" 2>/dev/null | grep -Eq "$2"
}
verb() {
	timeout 5 bash -c 'echo "$2" >"$1/ctl"' - "$node" "$1" 2>/dev/null
}
ok "it is listed" eventually 20 listed "$key@local"
is "its files" "$(ls "$node" | tr '\n' ' ')" "ctl info last_used log size status "
is "its status" "$(timeout 5 cat "$node/status")" ready
ok "its log" says log '^[0-9]+ unpacked'
ok "its size" test "$(timeout 5 cat "$node/size")" -gt 1000
ok "what it is" says info '^kind build'
ok "one that failed is there too" eventually 20 grep -qx failed "$MNT"/envs/*.build@local/status
not_ok "a verb that there is not is refused" verb burn
ok "keep" verb keep
ok "is seen" eventually 20 says info '^kept yes'
ok "keep off" verb "keep off"
ok "is seen as well" eventually 20 says info '^kept no'
ok "verify" verb verify
ok "is answered in the log" eventually 20 says log 'verified again: it is as it should be'
mv "$D/envs/$key/env" "$D/envs/$key/env.away"
ok "verify one that is broken" verb verify
ok "is answered so" eventually 20 says log 'verified again: its directory is not there'
mv "$D/envs/$key/env.away" "$D/envs/$key/env"
id=$(submit "environment=build:$T/make-env -- sleep 60")
ok "a run uses it" running "$id"
ok "remove" verb remove
ok "is refused while a run uses it" eventually 20 says log 'not removed: a run uses it'
echo cancel >"$MNT/runs/$id/ctl"
like "the run ends" "$(ended "$id")" "^cancelled "
ok "remove again" verb remove
ok "it is gone" eventually 20 gone "$key@local"
ok "there as well" test ! -e "$D/envs/$key"
like "the others are still known" "$(ls "$STATE/envs")" '^local$'

# --- a worker that is killed while it unpacks ---

printf '%s\n' '#!/bin/sh' "mkdir conda-meta; [ ! -e $T/slow ] || { : >$T/begun; sleep 3; }" >"$T/slow.sh"
: >"$T/slow"
id=$(submit "environment=archive:$T/slow.sh -- echo ran \$CONDA_PREFIX")
ok "it is being unpacked" eventually 20 test -e "$T/begun"
kill -9 "$(cat "$STATE/worker.pid")"
rm "$T/slow"
like "the run goes on with the next worker" "$(ended "$id") $(log "$id")" '^succeeded 0 ran /'
key=$(log "$id" | sed 's|.*envs/||; s|/.*||')
is "it was unpacked once" "$(grep -c ' unpacked' "$D/envs/$key/log")" 1

# --- one that is cancelled while it waits ---

: >"$T/slow"
rm -f "$T/begun"
echo '# another' >>"$T/slow.sh"
id=$(submit "environment=archive:$T/slow.sh -- echo ran")
ok "another is being unpacked" eventually 20 test -e "$T/begun"
echo cancel >"$MNT/runs/$id/ctl"
is "a run that waits for it is cancelled at once" "$(ended "$id")" "cancelled -"
ok "umount" stop_mount
done_testing
