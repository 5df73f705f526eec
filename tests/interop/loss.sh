#!/usr/bin/env bash
# A bad network between two sidecars and their authority (F15, F17, F70): connections dropped, stalled in one direction, delayed,
# reset in the middle of a record, for short times and then for longer than lease and budget. No revoked token is accepted after
# the time that its receipt named, and no good one is refused while a lease can be had.
#
# Started by run.sh. The bad network is a relay in the test's own program, countersign-rig, which makes the calls, too.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/loss.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly lease=4 budget=5 heartbeat=1

start_fleet
on_loopback
for name in 01 02; do
  certificate "$name"
  configure "$name" $((20500 + 10#$name))
done
configure_authority authority "$authority_port" "$environment/authority/store.redb" 01 02
start authority "$countersign" run authority serve --config "$work/authority.toml"
start demo "$countersign" run demo --listen "127.0.0.1:$demo_port"
for name in 01 02; do
  start "$name" "$countersign" run sidecar --config "$work/$name.toml"
done
until admin fleet >/dev/null 2>&1; do sleep 0.1; done
forget_environment
new_client caller

"$rig" loss --authority "127.0.0.1:$authority_port" --authority-at "$address:$authority_port" --pki "$environment/pki" \
  --client caller --secret-file "$work/caller" --audience "$audience" \
  --sidecar "127.0.0.1:$(listener 01)" --relay "$address:20501" --sidecar "127.0.0.1:$(listener 02)" --relay "$address:20502" \
  --lease "$lease" --budget "$budget" --heartbeat "$heartbeat" --faults 15 --seed "${SEED:-1}" >"$work/found" || true
count_found

tally authority 01 02
