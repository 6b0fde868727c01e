# Echo latency on a path with delay and loss, to be sourced by interop/nat/run.

# Of a path: milliseconds in one direction, packets lost of a hundred in each.
delay=20
loss=2
# Sessions of each kind at once, keys in each that are counted, keys before those (in that time sessions get their data
# channels), milliseconds between two.
typists=20
keys=150
warm_up=50
every=100

# A client and a server, and between them nothing but the path.
path_network() {
    namespace path-server
    namespace path-client
    "$lab" path to-server to-client --delay "$delay" --loss "$loss" --seed 1 >"$work/path" 2>&1 &
    path=$!
    await "$work/path" ready >/dev/null
    ip link set to-server netns path-server
    ip link set to-client netns path-client
    ip -n path-server address add 10.9.0.1/24 dev to-server
    ip -n path-client address add 10.9.0.2/24 dev to-client
    ip -n path-server link set to-server up
    ip -n path-client link set to-client up
}

# within NAME VALUE LOW HIGH: a number has to be there, and what it should be.
within() {
    if awk -v value="$2" -v low="$3" -v high="$4" 'BEGIN { exit !(value ~ /^[0-9.]+$/ && value >= low && value <= high) }'; then
        told true "\"path\":\"$1\",\"value\":$2"
    else
        told false "\"path\":\"$1\",\"value\":${2:-null},\"from\":$3,\"to\":$4"
        printf '%s: %s, not from %s to %s\n' "$1" "${2:-nothing}" "$3" "$4" >&2
    fi
}

# 1,500 datagrams there and back: of 3,000 packets 2 % are lost, that is 3.96 % of the round trips, plus or minus four times
# the spread of chance. A machine with other work wakes the path late.
measure_path() {
    local probe
    probe=$(in_namespace path-client "$lab" probe 10.9.0.1:7007 --count 1500 --every 2)
    within "median round trip, ms" "$(field p50_ms <<<"$probe")" 40 50
    within "lost round trips, percent" "$(field lost_percent <<<"$probe")" 2 6
}

# TCP segments that this namespace had to send again.
retransmitted() {
    in_namespace "$1" awk '/^Tcp:/ { if (!n++) for (i = 1; i <= NF; i++) if ($i == "RetransSegs") k = i; if (n == 2) print $k }' \
        /proc/net/snmp
}

# type_keys ADDRESS WAY
type_keys() {
    in_namespace path-client "$lab" keys "$1" --connections $typists --warm-up $warm_up --count $keys --every $every \
        >"$work/keys-$2" 2>"$work/keys-$2.errors"
}

figure() {
    local direct plain again way count pid pids=()
    path_network
    serve path-server "$(webrtc_section)" typist
    in_namespace path-server "$lab" echo 10.9.0.1:7007 >"$work/path-echo" 2>&1 &
    await "$work/path-echo" listening >/dev/null
    measure_path
    plain=$(forward path-client typist 10.9.0.1 --no-webrtc)
    direct=$(forward path-client typist 10.9.0.1)
    again=$(retransmitted path-server)
    # In the same seconds, over the same path.
    type_keys "$plain" websocket &
    pids+=($!)
    type_keys "$direct" channel &
    pids+=($!)
    # All have warmed up by then, and none is done.
    pause 10
    for way in websocket "webrtc direct"; do
        count=$("$socketpipe" --json --state "$work/path-server" sessions list | grep -c "\"path\":\"$way\"" || true)
        within "sessions by $way" "$count" $typists $typists
    done
    # Who failed has counted no keys.
    for pid in "${pids[@]}"; do wait "$pid" || true; done
    again=$(($(retransmitted path-server) - again))
    kill "$path"
    await "$work/path" left_to_right >>"$results"
    printf '\n%-12s %8s %8s %8s %8s\n' "echo, ms" median "90 %" "99 %" worst
    for way in websocket channel; do
        count=$(field count <"$work/keys-$way")
        within "keys by $way" "$count" $((typists * keys)) $((typists * keys))
        if [ -z "$count" ]; then
            cat "$work/keys-$way.errors" >&2
            continue
        fi
        printf '{"figure":"echo","way":"%s","keys":%s}\n' "$way" "$(<"$work/keys-$way")" >>"$results"
        printf '%-12s %8.1f %8.1f %8.1f %8.1f\n' "$way" "$(field p50_ms <"$work/keys-$way")" \
            "$(field p90_ms <"$work/keys-$way")" "$(field p99_ms <"$work/keys-$way")" "$(field max_ms <"$work/keys-$way")"
    done
    told "$([ "$again" -gt 0 ] && echo true || echo false)" "\"path\":\"TCP segments sent again by the server\",\"value\":$again"
}
