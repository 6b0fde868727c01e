# Nodes with the libp2p transport /ws/webrtc in the same networks, to be sourced by interop/nat/run: the path that a
# connection comes to, as both of its ends say, and what becomes of it when UDP is cut. The application on it is `nat-node`,
# which opens another stream when one fails, and knows nothing of paths.

# How long nothing may come of what such an application sends.
node_still_ms=20000

# What carries the connection from the cut on (patterns). A relay may be found before the direct way is.
declare -A node_states=(
    [cut-long]="webrtc direct>websocket(>webrtc relayed)?>webrtc direct"
    [cut-short]="webrtc direct(>websocket(>webrtc relayed)?>webrtc direct)?"
    [cut-relayed]="webrtc relayed(>websocket>webrtc relayed)?"
    [cut-to-relay]="webrtc direct(>websocket)?>webrtc relayed"
)

# servers_of KIND: the STUN and TURN servers of that server, and of those who come to it.
servers_of() {
    local urls=(stun:198.51.100.1:3478 turn:198.51.100.1:3478)
    [ "$1" != open ] || urls+=("turn:198.51.100.1:3478?transport=tcp")
    printf '%s\n' "${urls[@]}"
}

# node_options KIND: the same for a node.
node_options() {
    local url
    for url in $(servers_of "$1"); do printf -- '--server\n%s\n' "$url"; done
    printf -- '--turn-secret-file\n%s\n' "$work/turn.secret"
}

# serve_node SERVER: a node there, on the second port that its router lets through.
serve_node() {
    local options
    readarray -t options < <(node_options "${1#server-}")
    in_namespace "$1" "$node" listen /ip4/0.0.0.0/tcp/8444/ws/webrtc "${options[@]}" >"$work/node-$1" 2>"$work/node-$1-errors" &
    await "$work/node-$1" '"event":"listening"' >/dev/null
}

# talk SERVER CLIENT-NAMESPACE LABEL SECONDS: a connection, and an application that talks on it, into a file of its own.
talk() {
    local server=$1 namespace=$2 label=$3 options
    readarray -t options < <(node_options "${server#server-}")
    # Not by the function: the process is to be that of the node.
    ip netns exec "$namespace" "$node" dial "/ip4/198.51.100.${server_number[${server#server-}]}/tcp/8444/ws/webrtc" \
        --seconds "$4" "${options[@]}" >"$work/talk-$server-$label" 2>"$work/talk-trouble-$server-$label" &
    printf '%d' $! >"$work/talking-$server-$label"
    wait $!
}

# events FILE NAME: the news of that name that a node has printed.
events() {
    content "$1" | awk -v name="\"event\":\"$2\"" 'index($0, name)'
}

# talk_is_on SERVER LABEL PATTERN: whether what carries that connection now is like that.
talk_is_on() {
    [[ "$(events "$work/talk-$1-$2" path | tail -n 1 | field path)" =~ ^($3)$ ]]
}

# watched FILE PEER NAME: what a node has said of its connection with that peer, as `history` reads it, for that name.
watched() {
    local line
    events "$1" path | awk -v peer="$2" 'index($0, peer)' | while read -r line; do
        printf '%s node %s\n' "$(field time <<<"$line")" "$(field path <<<"$line")"
    done >"$work/watch-$3"
}

# watch_talk SERVER LABEL: the same of both ends, for the names near and far.
watch_talk() {
    local own dialed=$work/talk-$1-$2
    own=$(content "$dialed" | field own)
    watched "$dialed" '"peer"' near
    watched "$work/node-$1" "${own:-nobody}" far
}

# ended_well SERVER LABEL: every byte was right, and the connection was there until its user ended it.
ended_well() {
    [ "$(content "$work/talk-$1-$2" | field whole)" = true ]
}

judge_talk() {
    local server=$1 client=$2 expected start near far reached ok=true
    expected=$(expected "$server" "$client")
    watch_talk "server-$server" "$client"
    start=$(events "$work/talk-server-$server-$client" dial | field time)
    near=$(history near node 0)
    far=$(history far node 0)
    reached=$(milliseconds "$start" "$(tail -n 1 <<<"$near" | cut -d ' ' -f 1)")
    near=$(tail -n 1 <<<"$near" | cut -d ' ' -f 2-)
    far=$(tail -n 1 <<<"$far" | cut -d ' ' -f 2-)
    [ "$near" = "$expected" ] && [ "$far" = "$expected" ] && ended_well "server-$server" "$client" || ok=false
    told $ok "\"node\":\"$server\",\"dialer\":\"$client\",\"carrier\":\"$near\",\"carrier_at_listener\":\"$far\",\"expected\":\"$expected\",\"reached_ms\":$reached"
    printf '%-10s %-10s %-15s %-15s %8s ms  %s\n' "$server" "$client" "$expected" "$near" "$reached" \
        "$([ $ok = true ] && echo ok || { echo "FAILED, the listener says $far"; content "$work/talk-trouble-server-$server-$client" >&2; })"
}

# judge_cut_talk NAME SERVER: what was before has to have come back; streams may have failed, but their application must not
# have waited for long.
judge_cut_talk() {
    local name=$1 server=$2 cut heal seen last back still streams ok=true
    watch_talk "$server" "$name"
    cut=$(content "$work/cut-$name")
    heal=$(content "$work/heal-$name")
    seen=$(history near node "$cut" | cut -d ' ' -f 2- | paste -sd '>')
    last=$(history near node "$heal" | tail -n 1)
    back=$(milliseconds "$heal" "${last%% *}")
    still=$(content "$work/talk-$server-$name" | field longest_pause_ms)
    still=${still%.*}
    streams=$(content "$work/talk-$server-$name" | field streams)
    [[ "$seen" =~ ^(${node_states[$name]})$ ]] && [ "${still:-$((node_still_ms + 1))}" -le $node_still_ms ] &&
        ended_well "$server" "$name" || ok=false
    told $ok "\"cut_node\":\"$name\",\"carriers\":\"$seen\",\"longest_pause_ms\":${still:-null},\"back_ms\":$back,\"streams\":${streams:-null}"
    printf '%-13s %9s %9s %8s  %s  %s\n' "$name" "${still:--}" "$back" "${streams:--}" "$seen" \
        "$([ $ok = true ] && echo ok || { echo FAILED; content "$work/talk-trouble-$server-$name" >&2; })"
}

# What the nodes came to; after everything.
judge_nodes() {
    local server client
    printf '\n/ws/webrtc\n%-10s %-10s %-15s %-15s %11s\n' listener dialer expected carrier reached
    for server in "${kinds[@]}"; do
        for client in "${kinds[@]}"; do judge_talk "$server" "$client"; done
    done
    printf '\n/ws/webrtc\n%-13s %9s %9s %8s  %s\n' cut "still, ms" "back, ms" streams "carriers since"
    for client in "${cuts[@]}"; do judge_cut_talk "$client" "${cut_server[$client]}"; done
}
