#!/usr/bin/env bash
# A sidecar that is stopped (SIGSTOP) for longer than its lease and its budget, and goes on (F60): it refuses from the first call
# on, until it has a lease again; what was revoked meanwhile it never accepts. A rotation waits for it by name, and goes on when its
# budget has ended.
#
# Started by run.sh. Everything runs in a network namespace without a way out, which needs the right to make one.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/stopped.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly lease=4 budget=4 heartbeat=1

start_fleet
on_loopback
for name in 01 02; do
  certificate "$name"
  configure "$name"
done
sed -i 's/^warn_after = .*/warn_after = "3s"/' "$work/01.toml" "$work/02.toml"
configure_authority authority "$authority_port" "$environment/authority/store.redb" 01 02
start authority "$countersign" run authority serve --config "$work/authority.toml"
authority_process=$started
start demo "$countersign" run demo --listen "127.0.0.1:$demo_port"
start 01 "$countersign" run sidecar --config "$work/01.toml"
start 02 "$countersign" run sidecar --config "$work/02.toml"
sidecar=$started
becomes 20 'both sidecars are up to date' all_current 2
forget_environment
new_client caller
good=$(new_token caller)
printf '%s' "$good" >"$work/token.good"

# stolen NAME    A token, and the file with it, that 02 accepts now.
stolen() {
  new_token caller >"$work/token.$1"
  becomes 10 "a token is good: $1" comes_to OK 02 "$(cat "$work/token.$1")"
}

# Calls that wait in the sockets of 02: waiting NAME COUNT. What they come to is in NAME.log.
waiting() {
  start "$1" "$rig" burst --sidecar "127.0.0.1:$(listener 02)" --token "$work/token.$1" --count "$2"
}

# Revokes a token, and waits until the time has come that the receipt tells: revoke_and_wait NAME
revoke_and_wait() {
  admin revoke token --json - <"$work/token.$1" >"$work/receipt"
  expect_found "$1 is revoked, in force now on" -r '"\(.in_force) of \(.live)"' "$work/receipt" '1 of 2'
  by=$(by_of "$work/receipt")
}
until_by() {
  while (($(now_ms) < by)); do sleep 0.1; done
}

printf '== stopped for less than its lease\n'
kill -STOP "$sidecar"
waiting good 20
sleep 1
kill -CONT "$sidecar"
wait "$started"
expect_equal 'the calls that waited' '20 Ok' "$(cat "$work/good.log")"

printf '== stopped for longer than lease and budget; a rotation\n'
stolen first
kill -STOP "$sidecar"
revoke_and_wait first
if admin key rotate --wait 1s >"$work/rotate" 2>&1; then
  not_ok 'a rotation waits for it'
else
  expect_equal 'a rotation waits for it, and names it alone' 'countersign/sidecar/02' \
    "$(grep -o 'countersign/sidecar/0[0-9]' "$work/rotate" | sort -u)"
  printf '      %s\n' "$(head -n 2 "$work/rotate" | tr -s ' \n' ' ')"
fi
start rotate admin key rotate --wait 60s --json
rotation=$started
until_by
if wait "$rotation"; then
  ok "the rotation went on, $(($(now_ms) - by)) ms after the time told for the revocation"
else
  not_ok 'the rotation goes on' "$(tail -n 3 "$work/rotate.log")"
fi

printf '== it goes on, and the authority does not answer\n'
kill -STOP "$authority_process"
rm "$work/good.log"
waiting good 20
waiting first 20
sleep 0.5
kill -CONT "$sidecar"
wait "$started"
becomes 5 'the first calls are answered' test -s "$work/good.log"
expect_equal 'a good token, the first calls' '20 Unavailable TRUST_STALE' "$(cat "$work/good.log")"
expect_equal 'the revoked one, the first calls' '20 Unavailable TRUST_STALE' "$(cat "$work/first.log")"
sleep 1
expect_through 'it has no lease yet' 'UNAVAILABLE TRUST_STALE' 02 "$good"
kill -CONT "$authority_process"
becomes 20 'it has a lease again' comes_to OK 02 "$good"
expect_through 'the revoked one' 'UNAUTHENTICATED TOKEN_REVOKED' 02 "$(cat "$work/token.first")"
expect_through 'a token of the new key' OK 02 "$(new_token caller)"

printf '== it goes on, and the authority answers\n'
stolen second
kill -STOP "$sidecar"
revoke_and_wait second
until_by
waiting second 50
sleep 0.5
kill -CONT "$sidecar"
wait "$started"
if grep -q Ok "$work/second.log"; then
  not_ok 'the revoked one, the first calls' "$(cat "$work/second.log")"
else
  ok "the revoked one, the first calls: $(cat "$work/second.log")"
fi
becomes 10 'it is known as revoked' comes_to 'UNAUTHENTICATED TOKEN_REVOKED' 02 "$(cat "$work/token.second")"
expect_through 'a good token' OK 02 "$good"

tally authority 01 02
