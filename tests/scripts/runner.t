#!/bin/sh
# The test helpers and the runner: what counts as a failure, and that nothing is left behind.
. "$(dirname "$0")/../lib/tap.sh"

unset STRICT TEST_TIMEOUT RETRY

sample() { # sample NAME: a test file of that name from standard input
	{
		echo '#!/bin/sh'
		echo ". '$ROOT/tests/lib/tap.sh'"
		cat
	} >"$T/$1.t"
	chmod +x "$T/$1.t"
}

runner() { # runner NAME...: leaves the last line in $last
	set -- "$@"
	for name in "$@"; do
		shift
		set -- "$@" "$T/$name.t"
	done
	run env BUILD="$T/build" "$ROOT/scripts/run-tests" "$@"
	last=$(printf '%s\n' "$out" | tail -n 1)
}

sample good <<'END'
ok "true" true
not_ok "false" false
is "equal" a a
isnt "unequal" a b
like "matches" "abc" '^ab+c$'
unlike "does not match" "abc" '^b'
skip "something" "not here"
done_testing
END
runner good
is "passes and skips are counted" "$status $last" "0 6 passed, 0 failed, 1 skipped"

sample bad <<'END'
ok "false" false
is "equal" a b
like "matches" "abc" x
not_ok "a missing command is no failure as wanted" no-such-command
pass "one"
done_testing
END
runner good bad
is "failures are counted" "$status $last" "1 7 passed, 4 failed, 1 skipped"
like "they are shown with what was wanted" "$out" 'wanted: b'

runner_again() {
	RETRY=1
	export RETRY
	runner "$@"
	unset RETRY
}
sample flaky <<END
pass "one"
ok "the second time it is there" test -e "$T/been"
: >"$T/been"
done_testing
END
runner_again flaky bad good
is "what fails has a second try alone where that is asked for" "$status $last" "1 9 passed, 4 failed, 1 skipped"
like "what passes then is named" "$out" '^flaky: .*flaky\.t +\('
like "with what was wrong at first" "$out" 'not ok 2 - the second time'
like "what fails again has failed" "$out" '^failed: [^ ]*bad\.t +\('
rm -f "$T/been"
for name in bad2 bad3 bad4; do cp "$T/bad.t" "$T/$name.t"; done
runner_again flaky bad2 bad3 bad4
is "but not when many fail" "$status $last" "1 4 passed, 13 failed, 0 skipped"

sample early <<'END'
pass "one"
exit 0
END
runner early
is "a test that ends early has failed" "$status $last" "1 1 passed, 1 failed, 0 skipped"

sample crash <<'END'
pass "one"
kill -SEGV $$
END
runner crash
is "a test that crashes has failed" "$status $last" "1 1 passed, 1 failed, 0 skipped"

sample slow <<'END'
pass "one"
sleep 60
done_testing
END
TEST_TIMEOUT=1
export TEST_TIMEOUT
runner slow
unset TEST_TIMEOUT
is "a test that takes too long has failed" "$status" 1
like "and the reason is given" "$out" "took longer than 1 s"

sample hang <<'END'
TAP_TIMEOUT=1
ok "a command that hangs" sleep 60
not_ok "a command that hangs is no failure as wanted" sleep 60
done_testing
END
runner hang
is "every command has a time limit" "$status $last" "1 0 passed, 2 failed, 0 skipped"

sample absent <<'END'
skip_all "nothing to test"
END
runner absent good
is "a file can be skipped" "$status $last" "0 6 passed, 0 failed, 2 skipped"
STRICT=1
export STRICT
runner absent good
unset STRICT
is "but not when STRICT=1" "$status $last" "1 6 passed, 1 failed, 1 skipped"

printf '#!/bin/sh\necho 1..3; echo ok 1; echo ok 2\n' >"$T/short.t"
chmod +x "$T/short.t"
runner short
is "fewer results than planned is a failure" "$status $last" "1 2 passed, 1 failed, 0 skipped"
printf '#!/bin/sh\necho 1..2; echo "ok 1 - a"; echo "not ok 2 # SKIP b"\n' >"$T/cmocka.t"
chmod +x "$T/cmocka.t"
runner cmocka
is "cmocka's way to say skip is known" "$status $last" "0 1 passed, 0 failed, 1 skipped"
printf '#!/bin/sh\necho 1..1; echo ok 1; exit 3\n' >"$T/status.t"
chmod +x "$T/status.t"
runner status
is "a bad status after good results is a failure" "$status $last" "1 1 passed, 1 failed, 0 skipped"

sample leftovers <<'END'
setsid sleep 4322 &
in_background sleep 4322
pwd >"$T/here"
echo "$T" >/dev/null
eventually 5 contains "$T/here" /
echo "$T" >"$LEFT"
pass "one"
done_testing
END
LEFT=$T/left
export LEFT
runner leftovers
dir=$(cat "$LEFT")
not_ok "a test's directory is removed" test -e "$dir"
is "and its processes are gone" "$(grep -lzxF "HOME=$dir/home" /proc/[0-9]*/environ 2>/dev/null)" ""
done_testing
