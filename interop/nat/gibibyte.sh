# What a data channel carries when much goes through it, to be sourced by interop/nat/run.

# A GiB each way; most memory that a program may come to have meanwhile, in KiB.
gibibyte_bytes=$((1 << 30))
gibibyte_kib=$((64 * 1024))

# memory_kib FIELD PID: VmRSS is what it has now, VmHWM the most it has had.
memory_kib() {
    awk -v field="$1:" '$1 == field { print $2 }' "/proc/$2/status"
}

# pid_of NAMESPACE COMMAND: the process of `socketpipe COMMAND` there.
pid_of() {
    local pid
    for pid in $(ip netns pids "$1"); do
        if tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "socketpipe .* $2 "; then
            printf '%d' "$pid"
            return
        fi
    done
}

# gibibyte_row DIRECTION MILLISECONDS
gibibyte_row() {
    awk -v name="$1" -v ms="${2:-0}" -v bytes=$gibibyte_bytes 'BEGIN {
        if (ms > 0) printf "%-18s %6.1f s %8.1f MiB/s\n", name, ms / 1000, bytes / 1048576 / (ms / 1000)
    }'
}

gibibyte() {
    local behind=7008 address server client watcher before most=0 seen result pid ok=true
    cable giver taker
    ip -n giver address add 10.9.1.1/24 dev cable
    ip -n taker address add 10.9.1.2/24 dev cable
    serve giver "$(webrtc_section)" much
    # Beside the echo.
    in_namespace giver "$lab" give 127.0.0.1:7008 --bytes $gibibyte_bytes >"$work/give" 2>"$work/give-errors" &
    await "$work/give" listening >/dev/null
    watch giver >"$work/watch-giver" 2>"$work/watch-errors" &
    watcher=$!
    address=$(forward taker much 10.9.1.1)
    server=$(pid_of giver serve)
    client=$(pid_of taker forward)
    before="$(memory_kib VmRSS "$server") $(memory_kib VmRSS "$client")"
    in_namespace taker "$lab" take "$address" --bytes $gibibyte_bytes --after 3 >"$work/take" 2>"$work/take-errors" || true
    kill "$watcher"
    seen=$(history giver much 0 | cut -d ' ' -f 2- | paste -sd '>')
    result=$(content "$work/take")
    [ "$(field whole <<<"$result")" = true ] && [[ "$seen" =~ ^(websocket>)?"webrtc direct"$ ]] || ok=false
    for pid in "$server" "$client"; do
        [ "$(memory_kib VmHWM "$pid")" -le "$most" ] || most=$(memory_kib VmHWM "$pid")
    done
    [ "$most" -le $gibibyte_kib ] || ok=false
    told $ok "\"gibibyte\":${result:-null},\"carriers\":\"$seen\",\"kib_before\":[${before/ /,}],\"most_kib\":[$(memory_kib VmHWM "$server"),$(memory_kib VmHWM "$client")]"
    printf '\n1 GiB each way, every byte compared, by %s\n' "$seen"
    gibibyte_row "server to client" "$(field down_ms <<<"$result")"
    gibibyte_row "client to server" "$(field up_ms <<<"$result")"
    printf 'memory of server and client: %s KiB before, %s and %s KiB at most  %s\n' "${before/ / and }" \
        "$(memory_kib VmHWM "$server")" "$(memory_kib VmHWM "$client")" \
        "$([ $ok = true ] && echo ok || { echo FAILED; cat "$work"/{take,give}-errors >&2; })"
}
