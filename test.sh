#!/usr/bin/env bash
# All checks of the project: format, lints, documentation, tests, interoperability.
#
# ./test.sh            everything
# ./test.sh quick      without what needs other programs: interoperability, web page; installs nothing
# ./test.sh only NAME  one step, by the name of its function below, without a limit of time
# ./test.sh --help     this text
#
# Installs what it needs where it may (Debian packages when root; npm, Go and Python packages). On a machine where it
# may not, it says what is missing and skips what needs it; with CI=true that is a failure. Builds in ./target.
set -euo pipefail
cd "$(dirname "$0")"
export CARGO_TERM_COLOR=never

usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' test.sh
}

quick=false
only=
case "$*" in
    '') ;;
    quick) quick=true ;;
    'only '*) only=${2-} ;;
    -h | --help) usage; exit 0 ;;
    *)
        printf 'unknown arguments: %s\n\n' "$*" >&2
        usage >&2
        exit 2
        ;;
esac

# The interoperability set takes its programs from there.
if [ -n "${CARGO_TARGET_DIR:-}" ] && [ "$CARGO_TARGET_DIR" != "$PWD/target" ]; then
    printf 'CARGO_TARGET_DIR=%s is not used: this builds in %s\n' "$CARGO_TARGET_DIR" "$PWD/target" >&2
fi
export CARGO_TARGET_DIR=$PWD/target
# What is built once needs nothing to be built faster the next time.
[ "${CI:-}" != true ] || export CARGO_INCREMENTAL=0

passed=0
failed=()
# Names of steps that left something out.
skipped=()
# Exit status of such a step.
SKIPPED=77
# Of the steps that run, by their functions: their processes.
declare -A groups=()

# Ends the steps that run; what takes no notice is killed by `timeout`.
end_all() {
    local group
    for group in "${groups[@]}"; do kill -- "-$group" 2>/dev/null || true; done
    for group in "${groups[@]}"; do wait "$group" 2>/dev/null || true; done
}
trap end_all EXIT
trap 'exit 130' INT TERM HUP

# begin MINUTES FUNCTION [COMMAND...]: begins a step, by way of that command. Whatever takes longer hangs: the limits are far
# above what a slow machine needs.
begin() {
    local minutes=$1 function=$2
    shift 2
    # In a process group of its own, with which everything ends that the step has begun.
    set -m
    "$@" timeout --kill-after 20 "${minutes}m" ./test.sh only "$function" </dev/null &
    groups[$function]=$!
    set +m
}

# ahead MINUTES FUNCTION: begins a step that builds or fetches, with what others leave of the processors: they wait a lot.
ahead() {
    mkdir -p target/ahead
    begin "$1" "$2" nice -n 19 >"target/ahead/$2" 2>&1
}

# step NAME MINUTES FUNCTION: does it, or waits for it if it was begun ahead.
step() {
    local name=$1 minutes=$2 function=$3 group status=0 start=$SECONDS
    printf '\n== %s\n' "$name"
    if [ -n "${groups[$function]:-}" ]; then
        group=${groups[$function]}
        wait "$group" || status=$?
        cat "target/ahead/$function"
    else
        begin "$minutes" "$function"
        group=${groups[$function]}
        wait "$group" || status=$?
    fi
    # What it left behind, if anything.
    kill -- "-$group" 2>/dev/null || true
    unset "groups[$function]"
    [ $status -ne 124 ] || printf 'not done within %d minutes\n' "$minutes"
    case $status in
        0)
            passed=$((passed + 1))
            printf -- '-- %s: ok, %d s\n' "$name" $((SECONDS - start))
            ;;
        "$SKIPPED")
            skipped+=("$name")
            printf -- '-- %s: SKIPPED in part or whole, %d s\n' "$name" $((SECONDS - start))
            ;;
        *)
            failed+=("$name")
            printf -- '-- %s: FAILED, %d s\n' "$name" $((SECONDS - start))
            ;;
    esac
}

# What the step has left out, if anything.
absent=

missing() {
    absent=yes
    printf 'missing: %s\n' "$1" >&2
    [ "${CI:-}" != true ]
}

# told NAME COMMAND...: runs it, with its output in target/NAME, too; where that says SKIPPED, something was left out.
told() {
    local log=target/$1 status=0
    shift
    "$@" | tee "$log" || status=1
    ! grep -q SKIPPED "$log" || absent=yes
    return $status
}

# Whether one of these programs can be run.
any_of() {
    local program
    for program in "$@"; do
        ! command -v "$program" >/dev/null || return 0
    done
    return 1
}

# The browsers are looked for as interop/js/run.mjs does it.
need_packages() {
    local packages=()
    any_of ${CHROMIUM:-chromium chromium-browser google-chrome google-chrome-stable} || packages+=(chromium)
    any_of ${FIREFOX:-firefox-esr firefox} || packages+=(firefox-esr)
    any_of ip || packages+=(iproute2)
    any_of protoc || packages+=(protobuf-compiler)
    any_of redis-server || packages+=(redis-server)
    any_of nft || packages+=(nftables)
    any_of openssl || packages+=(openssl)
    # Not in everybody's PATH.
    any_of /usr/sbin/sshd || packages+=(openssh-server)
    any_of turnserver || packages+=(coturn)
    [ ${#packages[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -eq 0 ] && any_of apt-get; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null && return 0
    fi
    missing "Debian packages ${packages[*]} (needed by the tests of the gateway and the interoperability set)"
}

format() {
    cargo fmt --all --check
}

documentation() {
    RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --no-deps --document-private-items -p libp2p-rtc --features gateway
}

# All features with what tests add to them, and what users have who take one feature or none. What one feature exports nobody
# reaches without it.
lints() {
    local feature
    cargo clippy --quiet --workspace --all-targets --features libp2p-rtc/gateway -- -D warnings || return
    for feature in '' swarm socketpipe websocket; do
        cargo clippy --quiet -p libp2p-rtc --no-default-features --features "$feature" -- -D warnings -A unreachable-pub ||
            { printf 'with the feature "%s" alone\n' "$feature" >&2; return 1; }
    done
}

# The first address that a program of the contract of examples/node prints into a file, waited for.
address_in() {
    for _ in $(seq 100); do
        [ -s "$1" ] && break
        read -rt 0.1 <> <(:) || true
    done
    sed -n '1s/.*"addr":"\([^"]*\)".*/\1/p' "$1"
}

# need_npm FOLDER: its packages; pages of other folders use those of interop/js, too.
need_npm() {
    [ "$1/node_modules/.package-lock.json" -nt "$1/package-lock.json" ] ||
        (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
}

# The program that the README begins with, as a newcomer runs it.
node_example() {
    interop/build || return 1
    local node=target/release/examples/node out addr pid status=0
    out=$(mktemp)
    "$node" listen /ip4/127.0.0.1/udp/0/webrtc-direct >"$out" &
    pid=$!
    addr=$(address_in "$out")
    "$node" dial "$addr" --pings 3 --echo 1048576 --streams 10 || status=1
    if "$node" dial "${addr%/p2p/*}/p2p/12D3KooWA23EmP7xQ8RoLaFAEwLghcq25pFdeFbTwReeAuqRR5Zi"; then
        echo "the wrong peer was accepted" >&2
        status=1
    fi
    kill -INT "$pid"
    wait "$pid" || { echo "the listener did not end well" >&2; status=1; }
    rm -f "$out"
    return $status
}

# All programs of the steps behind this one.
programs() {
    interop/gateway/run build
}

# What else the steps behind this one build or fetch. What cannot be had is told by the step that needs it.
peers() {
    interop/run --only-build && interop/unified/run --only-build || return
    ! any_of npm || need_npm web
}

interoperability() {
    told interoperability interop/run
}

unified_testing() {
    told unified-testing interop/unified/run
}

gateway() {
    told gateway interop/gateway/run
}

networks() {
    told networks interop/nat/run
}

independent_client() {
    told independent-client interop/webrtc-rs/run
}

# Pages in Chromium and Firefox that dial /ws/webrtc with plain browser APIs.
pages_by_websocket() {
    any_of npm || { missing "Node.js 20 with npm (needed by interop/js)"; return; }
    interop/build && need_npm interop/js || return 1
    local out pid status=0
    out=$(mktemp)
    target/release/interop-ours listen /ip4/127.0.0.1/tcp/0/ws/webrtc >"$out" &
    pid=$!
    told pages-by-websocket node interop/js/signaled.mjs --addr "$(address_in "$out")" || status=1
    kill -INT "$pid"
    wait "$pid" || { echo "the listener did not end well" >&2; status=1; }
    rm -f "$out"
    return $status
}

# Types, the committed bundle, the tests of the page, and in Chromium and Firefox the page that the program serves.
web_page() {
    any_of npm || { missing "Node.js 20 with npm (needed by web)"; return; }
    # Built already, by the step "tests".
    cargo test --quiet --no-run --workspace --features libp2p-rtc/gateway || return
    need_npm web || return
    (cd web && npm run --silent types && npm run --silent check && npm test --silent) &&
        told web-page npm run --silent --prefix web test:page
}

# The page of examples/dht-page in Chromium and Firefox, against nodes of examples/dht and examples/dht_swarm. It takes
# js-libp2p from interop/js.
dht_page() {
    any_of npm || { missing "Node.js 20 with npm (needed by examples/dht-page)"; return; }
    interop/build || return 1
    need_npm interop/js || return 1
    told dht-page node examples/dht-page/run.mjs
}

# One fixed seed: what a random one finds must not fail an unrelated change. `cargo test` alone draws fresh seeds and
# prints them.
tests() {
    SIMULATION_SEED=${SIMULATION_SEED:-1} PROPTEST_RNG_SEED=${PROPTEST_RNG_SEED:-1} cargo test --no-fail-fast --workspace --features libp2p-rtc/gateway
}

# The first address that a node of examples/dht prints into a file.
dht_address() {
    local line
    for _ in $(seq 100); do
        line=$(sed -n '/^\/ip4\//{p;q}' "$1")
        [ -z "$line" ] || break
        read -rt 0.1 <> <(:) || true
    done
    printf '%s\n' "$line"
}

# The commands that docs/dht.md begins with; the node of folder b comes back knowing its peers from its folder alone.
dht_commands() {
    local dir=$1 dht=target/release/examples/dht listen=/ip4/127.0.0.1/udp/0/webrtc-direct addr first again
    "$dht" run --folder "$dir/a" --listen $listen >"$dir/a.out" &
    nodes[a]=$!
    addr=$(dht_address "$dir/a.out")
    "$dht" provide report.pdf --folder "$dir/c" --listen $listen --bootstrap "$addr" >"$dir/c.out" &
    nodes[c]=$!
    "$dht" run --folder "$dir/b" --listen $listen --bootstrap "$addr" >"$dir/b.out" &
    nodes[b]=$!
    first=$(dht_address "$dir/b.out")
    "$dht" put /rtc/greeting hello --folder "$dir/a" || return 1
    [ "$("$dht" get /rtc/greeting --folder "$dir/b")" = hello ] || { echo "the record is not found" >&2; return 1; }
    for _ in $(seq 100); do
        ! grep -q '^provides report.pdf' "$dir/c.out" || break
        read -rt 0.1 <> <(:) || true
    done
    "$dht" find report.pdf --folder "$dir/a" || return 1
    if "$dht" get /rtc/nothing --folder "$dir/a"; then
        echo "a record was found that nobody put" >&2
        return 1
    fi
    end_node b || return 1
    [ -s "$dir/b/peers" ] || { echo "the node kept no peers" >&2; return 1; }
    "$dht" run --folder "$dir/b" --listen $listen >"$dir/b-again.out" &
    nodes[b]=$!
    again=$(dht_address "$dir/b-again.out")
    [ "$again" = "$first" ] || { echo "$first came back as $again" >&2; return 1; }
    # Who asks knows nobody but that node, which has no record itself.
    [ "$("$dht" get /rtc/greeting --folder "$dir/d" --bootstrap "$again")" = hello ]
}

# end_node NAME: a node of `nodes`; it has to end well.
end_node() {
    local pid=${nodes[$1]}
    unset "nodes[$1]"
    kill -INT "$pid"
    wait "$pid" || { echo "the node $1 did not end well" >&2; return 1; }
}

dht_example() {
    interop/build || return 1
    local dir name status=0
    local -A nodes=()
    dir=$(mktemp -d)
    dht_commands "$dir" || status=1
    for name in "${!nodes[@]}"; do end_node "$name" || status=1; done
    rm -r "$dir"
    return $status
}

# A table of 80 nodes, and many idle connections; both fail if anything is lost. Machines that test are busy, so a dial in
# the middle may take longer than docs/performance.md says.
dht_swarm() {
    interop/build || return 1
    target/release/examples/dht_swarm --nodes 80 --transport webrtc || return 1
    target/release/examples/idle_swarm --connections 2000 --seconds 30 --max-kib 48 --max-slowdown 10
}

command -v cargo >/dev/null || { echo "missing: a Rust toolchain (https://rustup.rs)" >&2; exit 1; }

if [ -n "$only" ]; then
    [ "$(type -t "$only")" = function ] || { printf 'there is no step %s\n' "$only" >&2; exit 2; }
    "$only" || exit 1
    [ -z "$absent" ] || exit $SKIPPED
    exit 0
fi

step "format" 5 format
step "lints" 60 lints
step "documentation" 30 documentation
# Before the tests: some need an SSH server.
$quick || step "packages" 20 need_packages
$quick || ahead 120 programs
step "tests" 90 tests
if ! $quick; then
    step "programs" 120 programs
    step "node example" 5 node_example
    step "dht example" 5 dht_example
    # With nothing beside it: it measures.
    step "gateway" 40 gateway
    ahead 90 peers
    step "independent client" 10 independent_client
    step "networks" 10 networks
    step "peers" 90 peers
    step "pages by WebSocket" 10 pages_by_websocket
    step "dht swarm" 20 dht_swarm
    step "interoperability" 60 interoperability
    step "unified-testing" 20 unified_testing
    step "web page" 40 web_page
    step "dht page" 40 dht_page
fi

# Names in one line.
list() {
    printf ': %s' "$1"
    shift
    [ $# -eq 0 ] || printf ', %s' "$@"
}

printf '\n%d passed\n' "$passed"
[ ${#skipped[@]} -eq 0 ] || printf '%d skipped%s\n' "${#skipped[@]}" "$(list "${skipped[@]}")"
[ ${#failed[@]} -eq 0 ] || { printf '%d failed%s\n' "${#failed[@]}" "$(list "${failed[@]}")"; exit 1; }
