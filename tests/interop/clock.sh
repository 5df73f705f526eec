#!/usr/bin/env bash
# A stepped clock. The authority is off for longer than each budget, and a sidecar's clock is stepped through the table of
# docs/staleness.md, minute by minute for more than a day (I-14, F14, F42); then the wall clock alone is set back and forth while a
# sidecar runs, and before it starts (X01 to X03, F58).
#
# Started by run.sh, which names libfaketime in $FAKETIME_LIBRARY: it gives a process the clocks that a file says.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net --mount tests/interop/clock.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly lease=10 budget=900
# The tests of what the wall clock does are no tests of staleness: one class of methods is enough, but here are all three.
methods() {
  printf '[[method]]\npath = "/%s/%s"\nclass = "%s"\n' "$demo" Collect strict "$demo" Echo normal "$demo" Expand tolerant
}

# Sets a clock, so many seconds ahead of the true one or behind: step CLOCK SECONDS
step() {
  printf '%+d\n' "$2" >"$work/$1.new"
  mv "$work/$1.new" "$work/$1"
}

# Starts something whose clocks are read at every look as `step` has set them: stepped CLOCK LOG COMMAND...
stepped() {
  start "$2" env LD_PRELOAD="$FAKETIME_LIBRARY" FAKETIME_TIMESTAMP_FILE="$work/$1" FAKETIME_FMT=%s FAKETIME_NO_CACHE=1 "${@:3}"
}

# The same for the wall clock alone: the clocks that count on stay as they are.
wall_stepped() {
  stepped "$1" "$2" env FAKETIME_DONT_FAKE_MONOTONIC=1 "${@:3}"
}

run_authority() {
  start authority "$@" "$countersign" run authority serve --config "$work/authority.toml"
  authority_process=$started
}

start_fleet
on_loopback
for name in 01 02; do
  certificate "$name"
  configure "$name"
done

configure_authority authority "$authority_port" "$environment/authority/store.redb" 01 02
run_authority
until admin fleet >/dev/null 2>&1; do sleep 0.1; done
forget_environment
new_client caller
printf '== the wall clock is set while a sidecar runs\n'
start demo "$countersign" run demo --listen "127.0.0.1:$demo_port"
step wall 0
wall_stepped wall 02 "$countersign" run sidecar --config "$work/02.toml"
sidecar=$started
becomes 20 'a sidecar is up to date' all_current 1
good=$(new_token caller)
short=$(new_token caller --lifetime 1s)
becomes 10 'a token expires' comes_to 'UNAUTHENTICATED TOKEN_EXPIRED' 02 "$short"

# still NAME    A good token is good, an expired one is not, in methods of every class.
still() {
  local method
  for method in Echo Collect Expand; do
    expect_through "$1: a good token, $method" OK 02 "$good" "$method"
    expect_through "$1: an expired token, $method" 'UNAUTHENTICATED TOKEN_EXPIRED' 02 "$short" "$method"
  done
}
# confirmed    Another heartbeat has been accepted since this was last looked at.
heartbeats=0
confirmed() {
  local now
  now=$(metric "$(admin_port 02)" countersign_sync_heartbeats_accepted_total)
  ((now > heartbeats)) && heartbeats=$now
}
# wall_is SECONDS NAME    Sets the wall clock, and looks at once and after the next heartbeat.
wall_is() {
  becomes 10 "$2: heard before" confirmed
  step wall "$1"
  still "$2, at once"
  becomes 10 "$2: the authority's heartbeats still count" confirmed
  becomes 10 "$2: the authority's heartbeats still count" confirmed
  still "$2, after heartbeats"
  becomes 10 "$2: a token that is issued now is accepted" comes_to OK 02 "$(new_token caller)"
}
wall_is -3600 'an hour back'
wall_is 86400 'a day forth'
expect_metric 'it is told' 2 "$(admin_port 02)" countersign_clock_steps_total

printf '== the wall clock is wrong when a sidecar starts, and the authority is off\n'
# restarted SECONDS [COMMAND...]    With the wall clock so far off, started by a command.
restarted() {
  end "$sidecar"
  step wall "$1"
  wall_stepped wall 02 "${@:2}" "$countersign" run sidecar --config "$work/02.toml"
  sidecar=$started
}
# A start of the machine: another name for it, and elapsed time that begins anew.
cat /proc/sys/kernel/random/uuid >"$work/boot"
rebooted=(unshare --mount --time --fork --kill-child --boottime "-$(cut -d. -f1 /proc/uptime)" sh -c
  'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"' "$work/boot")
end "$authority_process"
restarted -3600
becomes 10 'an hour back: a good token, normal' comes_to OK 02 "$good"
expect_through 'an hour back: an expired token' 'UNAUTHENTICATED TOKEN_EXPIRED' 02 "$short"
expect_through 'an hour back: strict methods wait for the authority' 'UNAVAILABLE TRUST_STALE' 02 "$good" Collect
restarted 0 "${rebooted[@]}"
becomes 10 'a reboot: a good token, normal' comes_to OK 02 "$good"
expect_through 'a reboot: an expired token' 'UNAUTHENTICATED TOKEN_EXPIRED' 02 "$short"
expect_through 'a reboot: strict methods wait for the authority' 'UNAVAILABLE TRUST_STALE' 02 "$good" Collect
restarted 3600 "${rebooted[@]}"
becomes 10 'a reboot, an hour ahead: trust is as old as that' comes_to 'UNAVAILABLE TRUST_STALE' 02 "$good"
restarted -3600 "${rebooted[@]}"
becomes 10 'a reboot, an hour back: nothing is decided, a good token' comes_to 'UNAVAILABLE VERIFIER_CLOCK' 02 "$good"
expect_through 'a reboot, an hour back: nothing is decided, an expired token' 'UNAVAILABLE VERIFIER_CLOCK' 02 "$short"
expect_metric 'and that is told' 0 "$(admin_port 02)" countersign_clock_known
run_authority
becomes 20 'the authority is heard' comes_to OK 02 "$good"
still 'the authority tells the time'
end "$sidecar"
end "$authority_process"

printf '== tokens for a day\n'
# Tokens last an hour at most, and while the authority is off there are none. So they are taken ahead of time, from an authority
# on a copy of the store whose clock is ahead. No verifier ever meets it.
cp "$environment/authority/store.redb" "$work/copy.redb"
configure_authority ahead 20210 "$work/copy.redb" 01 02
sed -i '/^\[store\]/i [tokens]\ndefault_lifetime = "1h"\n' "$work/ahead.toml"
step ahead-clock 0
stepped ahead-clock ahead "$countersign" run authority serve --config "$work/ahead.toml"
ahead=$started
ahead_token() {
  "$countersign" token get --client caller --secret-file "$work/caller" --audience "$audience" --authority 127.0.0.1:20210 \
    --ca "$ca" --cert "$environment/pki/billing.pem" --key "$environment/pki/billing-key.pem" 2>/dev/null
}
issues() {
  "$@" >/dev/null
}
becomes 20 'an authority whose clock is ahead issues' issues ahead_token
: >"$work/tokens"
for ((hour = 0; hour <= 25; hour++)); do
  step ahead-clock $((hour * 3500))
  from=$(($(date +%s) + hour * 3500 + 1))
  printf '%s %s\n' "$from" "$(ahead_token)" >>"$work/tokens"
done
end "$ahead"
rm "$work/copy.redb"

printf '== the authority is off\n'
step clock 0
stepped clock 01 "$countersign" run sidecar --config "$work/01.toml"
run_authority
becomes 20 'a sidecar is up to date' all_current 1
end "$authority_process"
began=$SECONDS
"$rig" table --clock "$work/clock" --document docs/staleness.md --sidecar "127.0.0.1:$(listener 01)" \
  --verify "127.0.0.1:$(verify_port 01)" --admin "127.0.0.1:$(admin_port 01)" --tokens "$work/tokens" >"$work/found" || true
count_found
printf '      in %d s\n' $((SECONDS - began))

printf '== the authority is back, a day later\n'
step clock $(($(cat "$work/clock") - $(date +%s)))
run_authority env LD_PRELOAD="$FAKETIME_LIBRARY" FAKETIME_TIMESTAMP_FILE="$work/clock" FAKETIME_FMT=%s FAKETIME_NO_CACHE=1
becomes 20 'it issues' issues new_token caller
later=$(new_token caller)
for method in Collect Echo Expand; do
  becomes 20 "one answer leads back: $method" comes_to OK 01 "$later" "$method"
done

tally authority ahead 01 02
