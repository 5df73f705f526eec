#!/usr/bin/env bash
# Open streams end (I-29): through a sidecar that is connected, fifty bidirectional streams, each of whose tokens is revoked; and
# through one that is cut off while its stream is open, by the time that the receipt of the revocation names.
#
# Started by run.sh. Everything runs in a network namespace without a way out, which needs the right to make one.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/streams.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly lease=4 budget=6 far_one=02

start_fleet
start_far
for name in 01 02; do
  certificate "$name"
  configure "$name"
done
configure_authority authority "$authority_port" "$environment/authority/store.redb" 01 02
start authority "$countersign" run authority serve --config "$work/authority.toml"
start demo "$countersign" run demo --listen "127.0.0.1:$demo_port"
start far-demo "${far[@]}" "$countersign" run demo --listen "127.0.0.1:$demo_port"
start 01 "$countersign" run sidecar --config "$work/01.toml"
start 02 "${far[@]}" "$countersign" run sidecar --config "$work/02.toml"
becomes 20 'both sidecars are up to date' all_current 2
forget_environment
new_client caller

printf '== connected\n'
"$rig" streams --authority "127.0.0.1:$authority_port" --pki "$environment/pki" --client caller --secret-file "$work/caller" \
  --audience "$audience" --sidecar "127.0.0.1:$(listener 01)" --count 50 >"$work/found" || true
count_found

printf '== cut off\n'
new_token caller >"$work/token"
start held "${far[@]}" "$rig" hold --sidecar "127.0.0.1:$(listener "$far_one")" --token "$work/token"
holder=$started
is_open() {
  grep -qx open "$work/held.log"
}
becomes 10 'a stream is open through the sidecar that will be cut off' is_open
ip link set near down
admin revoke token --json - <"$work/token" >"$work/receipt"
revoked=$(now_ms)
expect_found 'the receipt: in force now on' -r '"\(.in_force) of \(.live)"' "$work/receipt" '1 of 2'
by=$(by_of "$work/receipt")
wait "$holder" || true
read -r ended status reason < <(tail -n 1 "$work/held.log")
if [[ "$status $reason" == 'Unavailable TRUST_STALE' ]] && ((ended <= by)); then
  ok "it ends by then: $status $reason, $((ended - revoked)) ms after the revocation, $((by - ended)) ms before the time told"
else
  not_ok 'it ends by then' "$status $reason, $((by - ended)) ms before the time told"
fi
ip link set near up
becomes 20 'both sidecars are up to date again' all_current 2
expect_through 'the token is known as revoked' 'UNAUTHENTICATED TOKEN_REVOKED' "$far_one" "$(cat "$work/token")"

tally authority 01 02
