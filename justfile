# Short names for what CI runs; the commands themselves stand in .ci/run.

# Everything that a change must pass.
check:
    .ci/run

test:
    .ci/run test

fmt:
    cargo fmt --all

lint:
    .ci/run lint doc

deny:
    .ci/run deny

advisories:
    .ci/run advisories

interop:
    .ci/run interop

bench:
    .ci/run bench

# Against the real Envoy, as JSON: docs/performance.md.
bench-envoy *options:
    tests/bench/envoy.sh {{options}}

# One fuzz target for a minute: `just fuzz compact_jws`.
fuzz target seconds="60":
    mkdir -p tests/fuzz/corpus/{{target}}
    cargo +nightly fuzz run --fuzz-dir tests/fuzz {{target}} tests/fuzz/corpus/{{target}} tests/fuzz/seeds/{{target}} -- -max_total_time={{seconds}}
