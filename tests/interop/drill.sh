#!/usr/bin/env bash
# "When is it safe?" on real processes: an authority and twenty sidecars, one of them cut off in a network namespace of its own.
# A revocation says on how many it is in force and by when on all, and the one that is cut off refuses by then; a rotation names
# it, waits for it, and goes on when it has stopped; not one call fails on the others.
#
# Started by run.sh. Everything runs in a network namespace without a way out, which needs the right to make one.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; common.sh sets what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/drill.sh inside
fi
source tests/interop/common.sh
: >"$work/out"

readonly count=20
readonly address=10.77.0.1
readonly lease=4 budget=12

ip link set lo up
start_environment

# ---- What twenty sidecars need beside what the environment has.

# The environment goes; its files stay.
kill "$supervisor"
wait "$supervisor" || true

# A certificate of the environment's authority: certificate NAME
certificate() {
  local file=$work/pki/$1
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$file-key.pem" \
    -out "$work/request.pem" 2>/dev/null
  chmod 600 "$file-key.pem"
  printf '%s\n' "subjectAltName=URI:spiffe://dev.countersign.test/countersign/sidecar/$1" basicConstraints=critical,CA:FALSE \
    keyUsage=critical,digitalSignature extendedKeyUsage=clientAuth >"$work/extensions"
  openssl x509 -req -in "$work/request.pem" -CA "$environment/pki/ca.pem" -CAkey "$environment/pki/ca-key.pem" -days 1 \
    -extfile "$work/extensions" -out "$file.pem" 2>/dev/null
}

# A port of its own for each: port KIND NUMBER
port() {
  printf '%d' $((20000 + $1 * 100 + 10#$2))
}

# The configuration of a sidecar: sidecar NAME
sidecar() {
  local name=$1
  mkdir -p "$work/state/$name"
  chmod 700 "$work/state/$name"
  cat >"$work/$name.toml" <<END
issuer = "https://dev.countersign.test"
trust_domain = "dev.countersign.test"
audience = "$audience"
publishing_keys = "$environment/publishing-keys.json"
state_dir = "$work/state/$name"
upstream = "http://127.0.0.1:$(port 3 0)"
admin = "127.0.0.1:$(port 1 "$name")"
open_health = true
open_reflection = true
[authority]
uri = "https://$address:$(port 2 0)"
server_name = "localhost"
spiffe_id = "spiffe://dev.countersign.test/countersign/authority"
certificate = "$work/pki/$name.pem"
private_key = "$work/pki/$name-key.pem"
trust_roots = "$environment/pki/ca.pem"
[[listener]]
address = "127.0.0.1:$(port 0 "$name")"
plaintext = true
disclose_reasons = true
[staleness]
warn_after = "6s"
[staleness.class.normal]
revocations = "${budget}s"
keys = "${budget}s"
[[method]]
path = "/$demo/*"
scopes = ["$scope"]
END
}

# Starts something in the background: start LOG COMMAND...
start() {
  local log=$work/$1.log
  shift
  "$@" >"$log" 2>&1 &
  children+=("$!")
}

printf '== %d sidecars, one of them in a namespace of its own\n' "$count"
mkdir -p "$work/pki"
names=()
for ((n = 1; n <= count; n++)); do
  names+=("$(printf '%02d' "$n")")
done
readonly far=${names[count - 1]} near=("${names[@]:0:count-1}")
for name in "${names[@]}"; do
  certificate "$name"
  sidecar "$name"
done
verifiers=$(printf '"spiffe://dev.countersign.test/countersign/sidecar/%s", ' "${names[@]}")
sed -e "s|^listen = .*|listen = \"0.0.0.0:$(port 2 0)\"|" -e "s|^verifiers = .*|verifiers = [${verifiers%, }]|" \
  -e '/^\[limits\]/i [trust]\nlease = "'"$lease"'s"\n' "$environment/authority.toml" >"$work/authority.toml"

# The namespace lives as long as a process in it does.
unshare --net sleep infinity &
cut_off=$!
children+=("$cut_off")
inside() {
  nsenter --target "$cut_off" --net "$@"
}
ip link add near type veth peer name far
until ip link set far netns "$cut_off" 2>/dev/null; do sleep 0.05; done
ip address add "$address/24" dev near
ip link set near up
inside ip link set lo up
inside ip address add 10.77.0.2/24 dev far
inside ip link set far up

start authority "$countersign" run authority serve --config "$work/authority.toml"
start demo "$countersign" run demo --listen "127.0.0.1:$(port 3 0)"
start far-demo inside "$countersign" run demo --listen "127.0.0.1:$(port 3 0)"
for name in "${near[@]}"; do
  start "$name" "$countersign" run sidecar --config "$work/$name.toml"
done
start "$far" inside "$countersign" run sidecar --config "$work/$far.toml"

# The command line, as the operator.
admin() {
  as operator "$@"
}

# The command line, with a certificate of the environment: as WHO ARGUMENT...
as() {
  local who=$environment/pki/$1
  shift
  "$countersign" "$@" --authority "127.0.0.1:$(port 2 0)" --ca "$ca" --cert "$who.pem" --key "$who-key.pem"
}

# Asks until it is so: becomes SECONDS NAME COMMAND...
becomes() {
  local deadline=$((SECONDS + $1)) name=$2
  shift 2
  until "$@"; do
    if ((SECONDS >= deadline)); then
      not_ok "$name" "not within the time" "$(admin fleet 2>&1 | tail -n 8)" "$(tail -n 3 "$work/authority.log")"
      return 0
    fi
    sleep 0.2
  done
  ok "$name"
}

# How many verifiers are up to date.
current() {
  admin fleet --json 2>/dev/null | "$tools/gojq" '[.verifiers[] | select(.up_to_date)] | length'
}
all_current() {
  [[ $(current || true) == "$count" ]]
}
becomes 20 "all $count sidecars are up to date" all_current

# The sidecar of the environment was stopped, and may come back from its disk: it is waited for until an operator knows better.
gone=$(admin fleet --json | "$tools/gojq" -r '.verifiers[] | select(.connected | not) | "\(.spiffe_id) \(.verifier_id)"')
# shellcheck disable=SC2086 # two words
admin fleet forget $gone --reason "the environment has ended" >/dev/null

# ---- Callers.

admin client create steady --grant "$audience=$scope" --with-secret --secret-file "$work/steady" >/dev/null 2>&1
admin client create thief --grant "$audience=$scope" --with-secret --secret-file "$work/thief" >/dev/null 2>&1
new_token() {
  as billing token get --client "$1" --secret-file "$work/$1" --audience "$audience" 2>/dev/null
}
new_token steady >"$work/token.steady"
stolen=$(new_token thief)

# Calls the demo service through a sidecar: through NAME TOKEN. Prints the status and the reason.
through() {
  local enter=() status=0 log
  log=$(mktemp "$work/call.XXXX")
  [[ $1 == "$far" ]] && enter=(nsenter --target "$cut_off" --net)
  "${enter[@]}" "$tools/grpcurl" -plaintext -max-time 5 -format-error -rpc-header "authorization: Bearer $2" -d "$hello" \
    "127.0.0.1:$(port 0 "$1")" "$echo" >/dev/null 2>"$log" </dev/null || status=$?
  if ((status == 0)); then
    printf 'OK'
  else
    printf '%s %s' "${code_names[$((status > 64 ? status - 64 : 2))]}" "$(reason_of "$log")"
  fi
  rm -f "$log"
}

# Calls the others without end, each answer a line.
load() {
  local name
  while [[ ! -e $work/enough ]]; do
    for name in "${near[@]}"; do
      printf '%s %s\n' "$name" "$(through "$name" "$(cat "$work/token.steady")")" >>"$work/answers"
    done
  done
}

for name in "$far" "${near[0]}"; do
  got=$(through "$name" "$stolen")
  [[ $got == OK ]] && ok "$name accepts a good token" || not_ok "$name accepts a good token" "$got"
done
load &
loader=$!
children+=("$loader")

# ---- One is cut off; a revocation.

printf '== one sidecar is cut off\n'
ip link set near down
began=$(date +%s)
admin revoke client thief --json >"$work/receipt"
expect_found "the receipt: in force now on" -r '"\(.in_force) of \(.live)"' "$work/receipt" "$((count - 1)) of $count"
expect_found "the receipt names who is left" -r '[.laggards[].spiffe_id] | join(" ")' "$work/receipt" \
  "spiffe://dev.countersign.test/countersign/sidecar/$far"
by=$(date -d "$("$tools/gojq" -r .by "$work/receipt")" +%s)
# The last lease was granted before the cut; clocks and whole seconds add a little.
if ((by > began && by <= began + lease + budget + 2)); then
  ok "the receipt says by when on all: in $((by - began)) s"
else
  not_ok "the receipt says by when on all" "in $((by - began)) s"
fi
admin revoke client thief | head -n 3
got=$(through "${near[0]}" "$stolen")
[[ $got == "UNAUTHENTICATED CLIENT_REVOKED" ]] && ok "the others refuse it: $got" || not_ok "the others refuse it" "$got"
got=$(through "$far" "$stolen")
[[ $got == OK ]] && ok "the one that is cut off does not know yet" || not_ok "the one that is cut off does not know yet" "$got"

# ---- A rotation meanwhile.

printf '== a rotation waits for it\n'
start rotate admin key rotate --wait 60s --json
rotation=${children[-1]}
is_prepared() {
  admin key list --json | grep -q '"prepared"'
}
becomes 10 "a key is prepared" is_prepared
if admin key activate >"$work/activate" 2>&1; then
  not_ok "the key does not sign yet" "$(cat "$work/activate")"
else
  ok "the key does not sign yet"
fi

while (($(date +%s) < by)); do sleep 0.1; done
got=$(through "$far" "$stolen")
[[ $got == "UNAVAILABLE TRUST_STALE" ]] && ok "at the time told, it refuses: $got" || not_ok "at the time told, it refuses" "$got"
if wait "$rotation"; then
  ok "the rotation goes on once it has stopped"
else
  not_ok "the rotation goes on once it has stopped" "$(tail -n 5 "$work/rotate.log")"
fi
new_token steady >"$work/token.new"
mv "$work/token.new" "$work/token.steady"
sleep 2

# ---- It comes back.

printf '== it comes back\n'
ip link set near up
becomes 30 "all $count are up to date again" all_current
got=$(through "$far" "$stolen")
[[ $got == "UNAUTHENTICATED CLIENT_REVOKED" ]] && ok "it refuses what was revoked: $got" || not_ok "it refuses what was revoked" "$got"
got=$(through "$far" "$(cat "$work/token.steady")")
[[ $got == OK ]] && ok "it accepts a token of the new key" || not_ok "it accepts a token of the new key" "$got"

touch "$work/enough"
wait "$loader" || true
calls=$(wc -l <"$work/answers")
failures=$(grep -cv ' OK$' "$work/answers" || true)
if ((calls > 100 && failures == 0)); then
  ok "not one of $calls calls failed on the others"
else
  not_ok "calls on the others" "$failures of $calls failed" "$(grep -v ' OK$' "$work/answers" | sort | uniq -c | head)"
fi
tally authority
