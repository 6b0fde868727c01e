#!/usr/bin/env bash
# All checks of the project: format, lints, documentation, tests, interoperability.
#
# ./test.sh            everything
# ./test.sh quick      without the interoperability set
#
# Installs what it needs where it may (Debian packages when root, npm packages in interop/js). On a machine where it
# may not, it says what is missing; with CI=true that is a failure.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TERM_COLOR=never

passed=0
failed=0

step() {
    local name=$1
    shift
    local start=$SECONDS
    printf '\n== %s\n' "$name"
    if "$@"; then
        passed=$((passed + 1))
        printf -- '-- %s: ok, %d s\n' "$name" $((SECONDS - start))
    else
        failed=$((failed + 1))
        printf -- '-- %s: FAILED, %d s\n' "$name" $((SECONDS - start))
    fi
}

missing() {
    printf 'missing: %s\n' "$1" >&2
    [ "${CI:-}" != true ]
}

need_packages() {
    local absent=()
    command -v chromium >/dev/null || absent+=(chromium)
    command -v firefox-esr >/dev/null || absent+=(firefox-esr)
    command -v ip >/dev/null || absent+=(iproute2)
    [ ${#absent[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${absent[@]}" >/dev/null && return 0
    fi
    missing "Debian packages ${absent[*]} (needed by the browser part of the interoperability set)"
}

need_npm() {
    command -v npm >/dev/null || { missing "Node.js 20 with npm (needed by interop/js)"; return; }
    (cd interop/js && npm ci --no-audit --no-fund --loglevel=error)
}

documentation() {
    RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --no-deps --document-private-items -p libp2p-rtc
}

interoperability() {
    cargo build --quiet --release --example node &&
        cargo build --quiet --release -p rust-upstream || return 1
    local status=0
    target/release/rust-upstream run --node target/release/examples/node || status=1
    if command -v node >/dev/null && [ -d interop/js/node_modules ]; then
        node interop/js/run.mjs --node target/release/examples/node || status=1
    else
        missing "Node.js and the packages of interop/js: their part of the interoperability set is skipped" || status=1
    fi
    return $status
}

# One fixed seed: what a random one finds must not fail an unrelated change. `cargo test` alone draws fresh seeds and
# prints them.
tests() {
    SIMULATION_SEED=${SIMULATION_SEED:-1} PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1} cargo test --workspace
}

command -v cargo >/dev/null || { echo "missing: a Rust toolchain (https://rustup.rs)" >&2; exit 1; }

step "format" cargo fmt --all --check
step "lints" cargo clippy --quiet --workspace --all-targets -- -D warnings
step "documentation" documentation
step "tests" tests
if [ "${1:-}" != quick ]; then
    step "packages" need_packages
    step "npm packages" need_npm
    step "interoperability" interoperability
fi

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
