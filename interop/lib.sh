# What the scripts of interop/nat and interop/webrtc-rs have in common; to be sourced.

# lacking PROGRAM...: the first that cannot be run.
lacking() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || { printf '%s' "$program"; return; }
    done
}

# pause SECONDS
pause() {
    read -rt "$1" <> <(:) || true
}

# await FILE PATTERN: waits until a line of the file, which is being written, is like that; gives it.
await() {
    local turn
    for turn in $(seq 200); do
        ! grep -m1 -e "$2" "$1" 2>/dev/null || return 0
        pause 0.05
    done
    printf 'nothing like %s in %s:\n' "$2" "$1" >&2
    cat "$1" >&2
    return 1
}

# field NAME: the value of that field in a line of JSON on stdin, without quotes.
field() {
    sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p'
}

# certificate FOLDER ALTERNATIVE-NAMES: a key and a certificate for them, key.pem and cert.pem there.
certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1/key.pem" -out "$1/cert.pem" \
        -days 2 -subj /CN=lab -addext basicConstraints=critical,CA:FALSE -addext "subjectAltName=$2" 2>/dev/null
}
