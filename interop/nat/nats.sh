# Every kind of NAT, and UDP that is cut in mid-session; to be sourced by interop/nat/run.

kinds=(open cone symmetric closed)

# What coturn's tool says of a kind of NAT: mapping and filtering.
declare -A behaviour=(
    [open]="Endpoint Independent Mapping, Endpoint Independent Filtering"
    [cone]="Endpoint Independent Mapping, Address and Port Dependent Filtering"
    [symmetric]="Address and Port Dependent Mapping, Address and Port Dependent Filtering"
    [closed]="no answer, no answer"
)
declare -A server_number=([open]=11 [cone]=12 [symmetric]=13 [closed]=14)
declare -A client_number=([open]=21 [cone]=22 [symmetric]=23 [closed]=24)

# UDP that is cut at the router of a client: the server, for how long, and what has to carry the session from then on (a
# pattern), as what it is at last. That is what it was before, unless there is a relay that is reached by TCP.
cuts=(cut-short cut-long cut-relayed cut-to-relay)
declare -A cut_server=([cut-long]=server-cone [cut-short]=server-cone [cut-relayed]=server-symmetric [cut-to-relay]=server-open)
declare -A cut_seconds=([cut-long]=25 [cut-short]=4 [cut-relayed]=8 [cut-to-relay]=25)
declare -A cut_last=([cut-long]="webrtc direct" [cut-short]="webrtc direct" [cut-relayed]="webrtc relayed" [cut-to-relay]="webrtc relayed")
declare -A cut_states=(
    [cut-long]="webrtc direct>websocket>webrtc direct"
    # ICE may be started again in time, or not.
    [cut-short]="webrtc direct(>websocket>webrtc direct)?"
    [cut-relayed]="webrtc relayed(>websocket>webrtc relayed)?"
    [cut-to-relay]="webrtc direct(>websocket)?>webrtc relayed"
)

# expected SERVER CLIENT: what carries a session between these two at last. Where the port depends on the peer, the other end
# cannot know it, and must take packets from any port, which a NAT does not.
expected() {
    case $1-$2 in
        # Only that server names a TURN server that is reached by TCP.
        open-closed) printf 'webrtc relayed' ;;
        closed-* | *-closed) printf websocket ;;
        open-* | *-open | cone-cone) printf 'webrtc direct' ;;
        *) printf 'webrtc relayed' ;;
    esac
}

# Two addresses and two ports, as RFC 5780 needs them. It leads nobody into private networks, as its operators should have it.
turn_server() {
    in_namespace public turnserver -n --listening-ip 198.51.100.1 --listening-ip 198.51.100.2 --relay-ip 198.51.100.1 \
        --listening-port 3478 --alt-listening-port 3479 --realm lab --fingerprint --use-auth-secret \
        --static-auth-secret "$turn_secret" --denied-peer-ip 10.0.0.0-10.255.255.255 --no-tls --no-dtls --no-cli --userdb "$work/turndb" --log-file stdout \
        --pidfile "$work/turn.pid" >"$work/turn" 2>&1 &
    await "$work/turn" 'Total General servers' >/dev/null
}

# What a host of each kind has before it, seen from outside, into a file for each. The tool waits long for what does not come.
discover() {
    in_namespace "client-$1" timeout 30 turnutils_natdiscovery -m -f 198.51.100.1 >"$work/nat-$1" 2>&1
}

# behaviour_in FILE Mapping|Filtering: what the tool has found out. Some questions of it have no answer at some NATs; it says what
# that means, unless there was none at all.
behaviour_in() {
    awk -v what="$2" '
        / Behavior Discovery / { here = index($0, what) }
        here && /^NAT with / { sub(/^NAT with /, ""); sub(/!.*/, ""); found = $0 }
        here && /^STUN receive timeout/ && found == "" { found = "no answer" }
        END { print found }
    ' "$1"
}

judge_nat() {
    local kind=$1 log=$work/nat-$1 said
    said="$(behaviour_in "$log" Mapping), $(behaviour_in "$log" Filtering)"
    if [ "$said" = "${behaviour[$kind]}" ]; then
        told true "\"nat\":\"$kind\",\"behaviour\":\"$said\""
    else
        told false "\"nat\":\"$kind\",\"behaviour\":\"$said\",\"expected\":\"${behaviour[$kind]}\""
        printf 'the NAT %s is not what it should be:\n' "$kind" >&2
        cat "$log" >&2
    fi
}

# webrtc_of KIND: the section [webrtc] of that server.
webrtc_of() {
    local urls
    readarray -t urls < <(servers_of "$1")
    webrtc_section "${urls[@]}"
}

# watch SERVER: what that server's user is told of its sessions, with the time, until it is killed.
watch() {
    local line
    while true; do
        while read -r line; do
            printf '%s %s %s\n' "$(now)" "$(field label <<<"$line")" "$(field path <<<"$line")"
        done < <("$socketpipe" --json --state "$work/$1" sessions list)
        pause 0.3
    done
}

# history SERVER LABEL FROM: what has carried that session from that time on, one line for each change: time, name. The first
# is what did at that time. A session is carried by nothing (null) before its client is there and after it has left; in between
# that is a change like any other.
history() {
    awk -v label="$2" -v from="$3" '
        function carried(time, name) {
            if (time >= from) {
                if (!begun && state != "") print from, state
                if (name != state) print time, name
                begun = 1
            }
            state = name
        }
        $2 == label {
            time = $1; $1 = $2 = ""; sub(/^ +/, "")
            if ($0 == "null") { if (state != "" && nothing == "") nothing = time; next }
            if (nothing != "") { carried(nothing, "null"); nothing = "" }
            carried(time, $0)
        }
        END { if (!begun && state != "") print from, state }
    ' "$work/watch-$1"
}

# session SERVER CLIENT-NAMESPACE LABEL BYTES RATE: a session and a stream through it, into a file of its own.
session() {
    local server=$1 namespace=$2 label=$3 address
    address=$(forward "$namespace" "$label" "198.51.100.${server_number[${server#server-}]}")
    now >"$work/start-$server-$label"
    # Not by the function: the process is to be that of the stream.
    ip netns exec "$namespace" "$lab" stream "$address" --bytes "$4" --rate "$5" >"$work/stream-$server-$label" \
        2>"$work/trouble-$server-$label" &
    printf '%d' $! >"$work/streaming-$server-$label"
    wait $!
}

# content FILE: of one that is not there if something failed before.
content() {
    [ ! -e "$1" ] || cat "$1"
}

# milliseconds FROM TO, of times in microseconds; null if one of them is not known.
milliseconds() {
    [ -n "$1" ] && [ -n "$2" ] && printf '%d' $((($2 - $1) / 1000)) || printf null
}

judge_cell() {
    local server=$1 client=$2 start seen last reached ok=true whole
    start=$(content "$work/start-server-$server-$client")
    seen=$(history "server-$server" "$client" 0)
    last=$(tail -n 1 <<<"$seen")
    reached=$(milliseconds "$start" "${last%% *}")
    whole=$(content "$work/stream-server-$server-$client" | field whole)
    [ "${last#* }" = "$(expected "$server" "$client")" ] && [ "$whole" = true ] || ok=false
    [[ "$seen" != *" null"* ]] || ok=false
    told $ok "\"server\":\"$server\",\"client\":\"$client\",\"carrier\":\"${last#* }\",\"expected\":\"$(expected "$server" "$client")\",\"reached_ms\":$reached,\"whole\":${whole:-false}"
    printf '%-10s %-10s %-15s %-15s %8s ms  %s\n' "$server" "$client" "$(expected "$server" "$client")" "${last#* }" "$reached" \
        "$([ $ok = true ] && echo ok || { echo "FAILED ${seen//$'\n'/, }"; content "$work/trouble-server-$server-$client" >&2; })"
}

# cut_session NAME SERVER SECONDS: cuts UDP under a session and a connection of nodes that are carried by WebRTC, heals it after
# that time, and ends both when they are where they should be at last.
cut_session() {
    local name=$1 server=$2 seconds=$3 turn
    for turn in $(seq 100); do
        [[ "$(history "$server" "$name" 0)" != *webrtc* ]] || ! talk_is_on "$server" "$name" 'webrtc .*' || break
        pause 0.3
    done
    # Some bytes shall have gone that way.
    pause 2
    cut_udp "$name"
    now >"$work/cut-$name"
    pause "$seconds"
    heal_udp "$name"
    now >"$work/heal-$name"
    # What was cut for a short time may show its mark only now.
    pause 5
    for turn in $(seq 150); do
        [[ "$(history "$server" "$name" 0 | tail -n 1)" != *" ${cut_last[$name]}" ]] ||
            ! talk_is_on "$server" "$name" "${cut_last[$name]}" || break
        pause 0.3
    done
    pause 2
    kill "$(<"$work/streaming-$server-$name")" "$(<"$work/talking-$server-$name")"
}

# judge_cut NAME SERVER: what was before has to have come back, and the stream must never have stood still for long.
judge_cut() {
    local name=$1 server=$2 cut heal seen last back still whole seconds ok=true
    cut=$(content "$work/cut-$name")
    heal=$(content "$work/heal-$name")
    seconds=$(milliseconds "$cut" "$heal")
    seen=$(history "$server" "$name" "$cut" | cut -d ' ' -f 2- | paste -sd '>')
    last=$(history "$server" "$name" "$heal" | tail -n 1)
    back=$(milliseconds "$heal" "${last%% *}")
    still=$(content "$work/stream-$server-$name" | field longest_pause_ms)
    whole=$(content "$work/stream-$server-$name" | field whole)
    still=${still%.*}
    [[ "$seen" =~ ^(${cut_states[$name]})$ ]] && [ "${still:-10001}" -le 10000 ] && [ "$whole" = true ] || ok=false
    [ "$seconds" = null ] || seconds=$((seconds / 1000))
    told $ok "\"cut\":\"$name\",\"seconds\":$seconds,\"carriers\":\"$seen\",\"longest_pause_ms\":${still:-null},\"back_ms\":$back,\"whole\":${whole:-false}"
    printf '%-13s %6s %9s %9s  %s  %s\n' "$name" "$seconds" "$still" "$back" "$seen" \
        "$([ $ok = true ] && echo ok || { echo FAILED; content "$work/trouble-$server-$name" >&2; })"
}

nats() {
    local server client pids=() watchers=()
    public_network
    for server in "${kinds[@]}"; do host "server-$server" "$server" "${server_number[$server]}"; done
    for client in "${kinds[@]}"; do host "client-$client" "$client" "${client_number[$client]}"; done
    host cut-long cone 25
    host cut-short cone 26
    host cut-relayed symmetric 27
    host cut-to-relay cone 28
    turn_server
    for client in "${kinds[@]}"; do
        discover "$client" &
        pids+=($!)
    done
    for server in "${kinds[@]}"; do
        serve "server-$server" "$(webrtc_of "$server")" "${kinds[@]}" "${cuts[@]}"
        watch "server-$server" >"$work/watch-server-$server" 2>"$work/watch-errors" &
        watchers+=($!)
        serve_node "server-$server"
    done
    # They are ended before those three minutes are over.
    for client in "${cuts[@]}"; do
        session "${cut_server[$client]}" "$client" "$client" $((180 * 32768)) 32768 &
        pids+=($!)
        talk "${cut_server[$client]}" "$client" "$client" 180 &
        pids+=($!)
        cut_session "$client" "${cut_server[$client]}" "${cut_seconds[$client]}" &
        pids+=($!)
    done
    # 10 s each, and 15 s for the nodes, which wait 6 s for WebRTC where it does not come up.
    for server in "${kinds[@]}"; do
        for client in "${kinds[@]}"; do
            session "server-$server" "client-$client" "$client" 655360 65536 &
            pids+=($!)
            talk "server-$server" "client-$client" "$client" 15 &
            pids+=($!)
        done
    done
    # What went wrong is in the files.
    for server in "${pids[@]}"; do wait "$server" || true; done
    kill "${watchers[@]}"
    for client in "${kinds[@]}"; do judge_nat "$client"; done
    printf '\n%-10s %-10s %-15s %-15s %11s\n' server client expected carrier reached
    for server in "${kinds[@]}"; do
        for client in "${kinds[@]}"; do judge_cell "$server" "$client"; done
    done
    printf '\n%-13s %6s %9s %9s  %s\n' cut "for, s" "still, ms" "back, ms" "carriers since"
    for client in "${cuts[@]}"; do judge_cut "$client" "${cut_server[$client]}"; done
    judge_nodes
}
