# A fleet of real sidecars before an authority of their own, in a network namespace without a way out: certificates,
# configurations, processes, and what is asked of them. Sourced after common.sh, with $lease and
# $budget (seconds, of class `normal`) set; `methods` says what the sidecars ask of callers.
# shellcheck shell=bash disable=SC2016,SC2034,SC2154 # a $ in single quotes is gojq's; what is not used or set here is so elsewhere

readonly address=10.77.0.1
# Where the authority listens, for sidecars and for the command line.
readonly authority_port=20200 demo_port=20300
readonly rig=$binaries/countersign-rig
: >"$work/out"

# A development environment, of which the files are what is wanted: it is stopped as soon as it is there.
start_fleet() {
  ip link set lo up
  build countersign-rig
  start_environment
  kill "$supervisor"
  wait "$supervisor" || true
  mkdir -p "$work/pki"
}

# A certificate of the environment's authority: certificate NAME
certificate() {
  local file=$work/pki/$1
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$file-key.pem" \
    -out "$work/request.pem" 2>/dev/null
  chmod 600 "$file-key.pem"
  printf '%s\n' "subjectAltName=URI:spiffe://dev.countersign.test/countersign/sidecar/$1" basicConstraints=critical,CA:FALSE \
    keyUsage=critical,digitalSignature extendedKeyUsage=clientAuth >"$work/extensions"
  openssl x509 -req -in "$work/request.pem" -CA "$environment/pki/ca.pem" -CAkey "$environment/pki/ca-key.pem" -days 30 \
    -extfile "$work/extensions" -out "$file.pem" 2>/dev/null
}

# Ports of sidecar NUMBER: its listener, its admin port, its Verify API.
listener() { printf '%d' $((20000 + 10#$1)); }
admin_port() { printf '%d' $((20100 + 10#$1)); }
verify_port() { printf '%d' $((20400 + 10#$1)); }

# The configuration of sidecar NUMBER, whose authority is at a port: configure NUMBER [PORT]
configure() {
  mkdir -p "$work/state/$1"
  chmod 700 "$work/state/$1"
  cat >"$work/$1.toml" <<TOML
issuer = "https://dev.countersign.test"
trust_domain = "dev.countersign.test"
audience = "$audience"
publishing_keys = "$environment/publishing-keys.json"
state_dir = "$work/state/$1"
upstream = "http://127.0.0.1:$demo_port"
admin = "127.0.0.1:$(admin_port "$1")"
open_health = true
open_reflection = true
[authority]
uri = "https://$address:${2:-$authority_port}"
server_name = "localhost"
spiffe_id = "spiffe://dev.countersign.test/countersign/authority"
certificate = "$work/pki/$1.pem"
private_key = "$work/pki/$1-key.pem"
trust_roots = "$environment/pki/ca.pem"
[[listener]]
address = "127.0.0.1:$(listener "$1")"
plaintext = true
disclose_reasons = true
[verify]
grpc = "127.0.0.1:$(verify_port "$1")"
[trust]
heartbeat = "${heartbeat:-2}s"
[staleness]
warn_after = "6s"
[staleness.class.normal]
revocations = "${budget}s"
keys = "${budget}s"
$(methods)
TOML
}

# What every method of the demo service asks for. Scripts that need more say more.
methods() {
  printf '[[method]]\npath = "/%s/*"\nscopes = ["%s"]\n' "$demo" "$scope"
}

# The authority's configuration, for these verifiers: configure_authority NAME PORT STORE NUMBER...
configure_authority() {
  local name=$1 port=$2 store=$3 verifiers
  shift 3
  verifiers=$(printf '"spiffe://dev.countersign.test/countersign/sidecar/%s", ' "$@")
  sed -e "s|^listen = .*|listen = \"0.0.0.0:$port\"|" -e "s|^verifiers = .*|verifiers = [${verifiers%, }]|" \
    -e "s|^admin = .*|admin = \"127.0.0.1:$((port + 1))\"|" -e "s|^path = .*|path = \"$store\"|" \
    -e '/^\[limits\]/i [trust]\nlease = "'"$lease"'s"\n' "$environment/authority.toml" >"$work/$name.toml"
}

# Starts something in the background: start LOG COMMAND...    Its process is in $started.
start() {
  local log=$work/$1.log
  shift
  "$@" >>"$log" 2>&1 &
  started=$!
  children+=("$started")
}

# Ends a process at once: end PID
end() {
  {
    kill -KILL "$1"
    wait "$1"
  } 2>/dev/null || true
}

# The namespace `far`, which can be cut off: "${far[@]}" COMMAND... runs in it. It lives as long as a process in it does.
start_far() {
  unshare --net sleep infinity &
  cut_off=$!
  children+=("$cut_off")
  while [[ $(readlink "/proc/$cut_off/ns/net") == $(readlink /proc/self/ns/net) ]]; do sleep 0.05; done
  ip link add near type veth peer name far
  ip link set far netns "$cut_off"
  ip address add "$address/24" dev near
  ip link set near up
  far=(nsenter --target "$cut_off" --net)
  "${far[@]}" ip link set lo up
  "${far[@]}" ip address add 10.77.0.2/24 dev far
  "${far[@]}" ip link set far up
}

# Where nobody is cut off, the address is loopback's.
on_loopback() {
  ip address add "$address/32" dev lo
}

# The command line, as the operator.
admin() {
  as operator "$@"
}

# The command line, with a certificate of the environment, at the authority or at the one at port $at: as WHO ARGUMENT...
as() {
  local who=$environment/pki/$1
  shift
  "$countersign" "$@" --authority "127.0.0.1:${at:-$authority_port}" --ca "$ca" --cert "$who.pem" --key "$who-key.pem"
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

# So many verifiers are up to date: all_current COUNT
all_current() {
  [[ $(admin fleet --json 2>/dev/null | "$tools/gojq" '[.verifiers[] | select(.up_to_date)] | length' || true) == "$1" ]]
}

# The sidecar of the environment was stopped, and may come back from its disk: it is waited for until an operator knows better.
forget_environment() {
  local gone
  gone=$(admin fleet --json | "$tools/gojq" -r '.verifiers[] | select(.connected | not) | "\(.spiffe_id) \(.verifier_id)"')
  # shellcheck disable=SC2086 # two words
  admin fleet forget $gone --reason "the environment has ended" >/dev/null
}

# A client with a secret: new_client NAME
new_client() {
  admin client create "$1" --grant "$audience=$scope" --with-secret --secret-file "$work/$1" >/dev/null 2>&1
}

# A token of that client: new_token NAME [ARGUMENT...]
new_token() {
  as billing token get --client "$1" --secret-file "$work/$1" --audience "$audience" "${@:2}" 2>/dev/null
}

# Calls the demo service through a sidecar: through NUMBER TOKEN [METHOD]. Prints the status and the reason.
through() {
  local enter=() status=0 log
  log=$(mktemp "$work/call.XXXX")
  [[ $1 == "${far_one:-}" ]] && enter=("${far[@]}")
  "${enter[@]}" "$tools/grpcurl" -plaintext -max-time 5 -format-error -rpc-header "authorization: Bearer $2" -d "$hello" \
    "127.0.0.1:$(listener "$1")" "$demo/${3:-Echo}" >/dev/null 2>"$log" </dev/null || status=$?
  if ((status == 0)); then
    printf 'OK'
  elif ((status > 64)); then
    printf '%s %s' "${code_names[$((status - 64))]}" "$(reason_of "$log")"
  else
    printf 'no status'
  fi
  rm -f "$log"
}

# expect_through NAME STATUS NUMBER TOKEN [METHOD]    What a call through a sidecar comes to.
expect_through() {
  local got
  got=$(through "${@:3}")
  if [[ $got == "$2" ]]; then
    ok "$1: $got"
  else
    not_ok "$1" "wanted $2, got $got"
  fi
}

# comes_to STATUS NUMBER TOKEN [METHOD]    For `becomes`.
comes_to() {
  [[ $(through "${@:2}") == "$1" ]]
}

# A metric of a process: metric ADMIN-PORT NAME. Nothing where there is none.
metric() {
  local http body
  exec {http}<>"/dev/tcp/127.0.0.1/$1" || return 0
  printf 'GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' >&"$http"
  body=$(cat <&"$http")
  exec {http}>&-
  awk -v name="$2" 'index($0, name " ") == 1 { print $2 }' <<<"${body//$'\r'/}"
}

# /ready of a process: ready ADMIN-PORT. Prints the HTTP status.
ready() {
  local http line
  exec {http}<>"/dev/tcp/127.0.0.1/$1" || return 0
  printf 'GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' >&"$http"
  read -r _ line _ <&"$http"
  exec {http}>&-
  printf '%s' "$line"
}

# metric_is VALUE ADMIN-PORT METRIC    For `becomes`.
metric_is() {
  [[ $(metric "$2" "$3" 2>/dev/null || true) == "$1" ]]
}

# expect_metric NAME VALUE ADMIN-PORT METRIC
expect_metric() {
  local got
  got=$(metric "$3" "$4")
  if [[ $got == "$2" ]]; then
    ok "$1: $4 $got"
  else
    not_ok "$1" "wanted $4 $2, got $got"
  fi
}

# Prints and counts the checks that countersign-rig has written to $work/found.
count_found() {
  cat "$work/found"
  passed=$((passed + $(grep -c '^ok' "$work/found" || true)))
  failed=$((failed + $(grep -c '^FAIL' "$work/found" || true)))
  if ! grep -q '^ok' "$work/found"; then
    not_ok 'countersign-rig has checked nothing'
  fi
}

# Milliseconds since 1970.
now_ms() {
  printf '%d' "$((${EPOCHREALTIME/./} / 1000))"
}

# The latest time in a receipt, in milliseconds since 1970.
by_of() {
  date -d "$("$tools/gojq" -r .by "$1")" +%s%3N
}
