# What the tests here have in common: how expectations are counted, how the real grpcurl is called, and a development
# environment of their own. Sourced at the root of the repository; `tally` is the last thing that a test does.
# shellcheck shell=bash disable=SC2034 # what is not used here is used there

readonly tools=target/interop/bin
# Where our programs are. Those of target/debug are built before they are used.
readonly binaries=${BINARIES:-target/debug}
readonly countersign=$binaries/countersign
work=$(mktemp -d)
readonly work
readonly environment=$work/dev
passed=0
failed=0
# Processes to be stopped at the end.
children=()

cleanup() {
  local pid
  for pid in "${children[@]}"; do
    kill "$pid" 2>/dev/null || true
    # One that was halted does not see that it shall stop.
    kill -CONT "$pid" 2>/dev/null || true
  done
  for pid in "${children[@]}"; do
    wait "$pid" 2>/dev/null || true
  done
  rm -rf "$work"
}
trap cleanup EXIT

# ---- What is expected, and what came.

ok() {
  passed=$((passed + 1))
  printf 'ok    %s\n' "$1"
}

not_ok() {
  failed=$((failed + 1))
  printf 'FAIL  %s\n' "$1"
  shift
  printf '      %s\n' "$@"
}

readonly code_names=(OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED
  RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED)

# Runs grpcurl. Afterwards: $code and $reason of the status; $work/out has the answer.
call() {
  local status=0
  "$tools/grpcurl" -max-time 10 -format-error "$@" >"$work/out" 2>"$work/err" </dev/null || status=$?
  # grpcurl exits with 64 and the code added. Below that, it did not get as far as a status.
  if ((status == 0)); then
    code=OK
  elif ((status > 64)); then
    code=${code_names[$((status - 64))]:-$status}
  else
    code="no status"
  fi
  reason=$(reason_of "$work/err")
}

# The reason in the one ErrorInfo of a status, which grpcurl can read only because the server's reflection describes it.
reason_of() {
  local details='[.details[]? | select(."@type" | endswith("/google.rpc.ErrorInfo"))][0]'
  "$tools/gojq" -r "$details | .reason // empty" "$1" 2>/dev/null || true
}

# expect NAME CODE REASON GRPCURL-ARGUMENT...    REASON is - where none is expected.
expect() {
  local name=$1 wanted="$2 $3"
  shift 3
  call "$@"
  if [[ "$code ${reason:--}" == "$wanted" ]]; then
    ok "$name: $wanted"
  else
    not_ok "$name" "wanted $wanted, got $code ${reason:--}" "$(head -c 600 "$work/err")"
  fi
}

# within SECONDS NAME CODE REASON GRPCURL-ARGUMENT...    As `expect`, once it comes true.
within() {
  local deadline=$((SECONDS + $1))
  shift
  local wanted="$2 $3"
  until call "${@:4}" && [[ "$code ${reason:--}" == "$wanted" ]]; do
    if ((SECONDS >= deadline)); then
      break
    fi
    sleep 0.1
  done
  expect "$@"
}

# expect_answer NAME FILTER VALUE    What gojq finds in the last answer.
expect_answer() {
  expect_found "$1" -rs "$2" "$work/out" "$3"
}

# expect_detail NAME FILTER VALUE    What gojq finds in the status of the last call.
expect_detail() {
  expect_found "$1" -r "$2" "$work/err" "$3"
}

# expect_equal NAME WANTED FOUND
expect_equal() {
  if [[ "$3" == "$2" ]]; then
    ok "$1: $2"
  else
    not_ok "$1" "wanted $2, got $3"
  fi
}

# expect_found NAME FLAGS FILTER FILE VALUE    What gojq finds in a file.
expect_found() {
  local found
  found=$("$tools/gojq" "$2" "$3" "$4" 2>&1 || true)
  if [[ "$found" == "$5" ]]; then
    ok "$1: $5"
  else
    not_ok "$1" "wanted $5, got $found" "$(head -c 600 "$work/out")"
  fi
}

# expect_services NAME SERVICE... -- GRPCURL-ARGUMENT...    Reflection lists these and no others, whichever version of it is
#                                                         asked, and describes each of them.
expect_services() {
  local name=$1 wanted=() found service
  shift
  while [[ "$1" != -- ]]; do
    wanted+=("$1")
    shift
  done
  shift
  wanted+=(grpc.health.v1.Health grpc.reflection.v1.ServerReflection grpc.reflection.v1alpha.ServerReflection)
  for version in v1 v1alpha; do
    call -d '{"list_services":""}' "$@" "grpc.reflection.$version.ServerReflection/ServerReflectionInfo"
    found=$("$tools/gojq" -r '.listServicesResponse.service[].name' "$work/out" 2>&1 | sort || true)
    if [[ "$found" == "$(printf '%s\n' "${wanted[@]}" | sort)" ]]; then
      ok "$name, $version: ${#wanted[@]} services"
    else
      not_ok "$name, $version" "$found" "$(head -c 600 "$work/err")"
    fi
  done
  for service in "${wanted[@]}"; do
    expect "$name: $service is described" OK - "$@" describe "$service"
  done
}

# ---- The environment.

# Builds a program, unless somebody else has: build NAME
build() {
  if [[ $binaries == target/debug ]]; then
    cargo build --quiet --locked --bin "$1"
  fi
}

# Starts it, with the environment variables that are set at this time. Its process is in $supervisor.
start_environment() {
  printf '== starting a development environment\n'
  build countersign
  "$countersign" dev --dir "$environment" >"$work/dev.log" 2>&1 &
  supervisor=$!
  children+=("$supervisor")
  local deadline=$((SECONDS + 60))
  until [[ -s "$environment/dev.json" ]]; do
    if ((SECONDS >= deadline)) || ! kill -0 "$supervisor" 2>/dev/null; then
      printf 'the environment did not start:\n' >&2
      cat "$work/dev.log" >&2
      exit 1
    fi
    sleep 0.1
  done

  ca=$(dev .ca_cert)
  authority=$(dev .authority.grpc)
  proxy=$(dev .sidecar.proxy)
  plain=$(dev .sidecar.proxy_plaintext)
  verify=$(dev .sidecar.verify_grpc)
  audience=$(dev .demo.audience)
  scope=$(dev .demo.scope)
  demo=$(dev .demo.service)
  orders=(-cacert "$ca" -cert "$(dev .clients.orders.cert)" -key "$(dev .clients.orders.key)")
  billing=(-cacert "$ca" -cert "$(dev .clients.billing.cert)" -key "$(dev .clients.billing.key)")
  operator=(-cacert "$ca" -cert "$(dev .operator.cert)" -key "$(dev .operator.key)")
  billing_id=$(dev .clients.billing.client_id)
  billing_secret=$(cat "$(dev .clients.billing.secret_file)")
  basic=$(printf '%s:%s' "$billing_id" "$billing_secret" | base64 | tr -d '\n')
  echo=$demo/Echo
  readonly ca authority proxy plain verify audience scope demo orders billing operator billing_id billing_secret basic echo
}

dev() {
  "$tools/gojq" -r "$1" "$environment/dev.json"
}

readonly issue=countersign.token.v1.TokenService/IssueToken
readonly hello='{"message":"hello"}'

# A request for a token, with more members: wanted MEMBER,...
wanted() {
  printf '{"grant_type":"client_credentials","audience":"%s"%s}' "$audience" "${1:+,$1}"
}

credentials() {
  printf '"client_id":"%s","client_secret":"%s"' "$billing_id" "$billing_secret"
}

# The token in the last answer.
token() {
  "$tools/gojq" -r '.access_token // .accessToken' "$work/out"
}

# A fresh token: fresh NAME GRPCURL-ARGUMENT...; then in $fresh.
fresh() {
  local name=$1
  shift
  expect "$name" OK - "$@"
  fresh=$(token)
}

bearer() {
  bearer=(-rpc-header "authorization: Bearer $1")
}

# gone PID    Waits until the process is no more.
gone() {
  local deadline=$((SECONDS + 20))
  while kill -0 "$1" 2>/dev/null && ! grep -q '^State:[[:space:]]Z' "/proc/$1/status" 2>/dev/null; do
    if ((SECONDS >= deadline)); then
      not_ok "process $1 is still there"
      return
    fi
    sleep 0.05
  done
}

# ---- The end.

# tally LOG...    Counts, and shows the ends of these logs if something failed.
tally() {
  local log
  if ((failed > 0)); then
    for log in "$@"; do
      printf '\n== the end of %s.log\n' "$log"
      tail -n 20 "$work/$log.log" 2>/dev/null || true
    done
  fi
  printf '\n%d passed, %d failed\n' "$passed" "$failed"
  ((failed == 0))
}
