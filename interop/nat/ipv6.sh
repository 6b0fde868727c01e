# Two hosts on one cable that have IPv6 addresses and no other, to be sourced by interop/nat/run: both transports of libp2p, and
# SocketPipe with its upgrade.

# six_host NAMESPACE NUMBER: it has the address fd00:9::NUMBER, and none of IPv4. Duplicates need not be looked for.
six_host() {
    ip -n "$1" -4 address flush dev lo
    ip -n "$1" address add "fd00:9::$2/64" dev cable nodad
}

six_network() {
    cable six-server six-client
    six_host six-server 1
    six_host six-client 2
    # Nothing else may carry anything here.
    if in_namespace six-client ip -4 -brief address | grep -q .; then
        told false '"ipv6":"there are IPv4 addresses"'
    fi
}

# judge_six NAME WHOLE SAID PATTERN: the stream has to be whole, and what was said of the path like that.
judge_six() {
    local ok=true
    [ "$2" = true ] && [[ "$3" =~ ^($4)$ ]] || ok=false
    told $ok "\"ipv6\":\"$1\",\"path\":\"$3\",\"whole\":${2:-false}"
    printf '%-15s %-45s %s\n' "$1" "$3" "$([ $ok = true ] && echo ok || { echo FAILED; cat "$work"/six-*errors >&2; })"
}

# six_node TRANSPORT: a connection by the address of that transport that the node has printed. The file has its name.
six_node() {
    local address
    address=$(grep -F "/$1" "$work/six-node" | grep -F fd00:9::1 | head -n 1 | field address)
    in_namespace six-client "$node" dial "$address" --seconds 3 >"$work/six-$1" 2>"$work/six-$1-errors" || true
}

ipv6() {
    local own='[::1]' any='[::]' address whole said
    six_network
    in_namespace six-server "$node" listen /ip6/::/udp/9090/webrtc-direct /ip6/::/tcp/8444/ws/webrtc >"$work/six-node" \
        2>"$work/six-node-errors" &
    await "$work/six-node" 'fd00:9::1/udp/9090' >/dev/null
    await "$work/six-node" 'fd00:9::1/tcp/8444' >/dev/null
    printf '\n%-15s %s\n' "IPv6 only" path
    six_node webrtc-direct
    # There is one, so that nothing is said of it.
    judge_six webrtc-direct "$(field whole <"$work/six-webrtc-direct")" "" ""
    six_node ws
    said=$(events "$work/six-ws" path | sed -n 's/.*"detail":"\([^"]*\)".*/\1/p' | tail -n 1)
    judge_six /ws/webrtc "$(field whole <"$work/six-ws")" "$said" 'WebRTC, direct with \[fd00:9::1\]:[0-9]+'
    serve six-server "$(webrtc_section)" six
    watch six-server >"$work/watch-six-server" 2>"$work/watch-errors" &
    address=$(forward six-client six '[fd00:9::1]')
    whole=$(in_namespace six-client "$lab" stream "$address" --bytes 327680 --rate 65536 2>"$work/six-stream-errors" | field whole)
    kill $!
    judge_six SocketPipe "$whole" "$(history six-server six 0 | tail -n 1 | cut -d ' ' -f 2-)" "webrtc direct"
}
