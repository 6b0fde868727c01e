# Networks for the laboratory, to be sourced inside a network, mount and PID namespace of its own: all of it is gone when the
# first process of that namespace ends.
#
# One public network, 198.51.100.0/24, is a bridge in the namespace `public`. Hosts are on it, or behind a router that is.
# These addresses are for documentation (RFC 5737); nothing leaves the machine.

# What a router does. All drop what comes uninvited, as those at home do, but for two TCP ports of the host behind them.
#
# open       no router at all
# cone       masquerade: Linux keeps the port, so that all peers see the same (RFC 4787: endpoint-independent mapping, address
#            and port-dependent filtering)
# symmetric  masquerade with random ports: each peer sees another (address and port-dependent mapping)
# closed     like cone, and drops all UDP
router_rules() {
    local kind=$1 inside=$2 masquerade=masquerade closed=
    case $kind in
        symmetric) masquerade="masquerade random,fully-random" ;;
        closed) closed="meta l4proto udp drop" ;;
    esac
    cat <<RULES
table ip router {
    chain forward {
        type filter hook forward priority filter; policy drop;
        $closed
        ct state established,related accept
        iifname "inside" accept
        ct status dnat accept
    }
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        icmp type echo-request accept
    }
    chain there {
        type nat hook prerouting priority dstnat;
        iifname "outside" tcp dport { 8443, 8444 } dnat to $inside
    }
    chain back {
        type nat hook postrouting priority srcnat;
        oifname "outside" $masquerade
    }
}
RULES
}

# A namespace with nothing but loopback.
namespace() {
    ip netns add "$1"
    ip -n "$1" link set lo up
}

# cable ONE OTHER: two namespaces, and a cable between them whose ends are called so. The addresses are for others to give.
cable() {
    namespace "$1"
    namespace "$2"
    ip -n "$1" link add cable type veth peer name cable netns "$2"
    ip -n "$1" link set cable up
    ip -n "$2" link set cable up
}

# Runs a program there.
in_namespace() {
    ip netns exec "$@"
}

# The public network. What is for nobody there is lost without a word, as on the way to a provider that has no use for it.
public_network() {
    namespace public
    namespace void
    ip -n public link add void type veth peer name end netns void
    ip -n void link set end up
    ip -n public link set void arp off up
    ip -n public route add default dev void
    ip -n public link add public type bridge
    ip -n public address add 198.51.100.1/24 dev public
    ip -n public address add 198.51.100.2/24 dev public
    ip -n public link set public up
}

# on_public NAMESPACE INTERFACE NUMBER: puts it there with the address 198.51.100.NUMBER.
on_public() {
    ip -n public link add "port$3" type veth peer name "$2" netns "$1"
    ip -n public link set "port$3" master public up
    ip -n "$1" address add "198.51.100.$3/24" dev "$2"
    ip -n "$1" link set "$2" up
    ip -n "$1" route add default via 198.51.100.1
}

# host NAME KIND NUMBER: a host, with its router, if any, in the namespace NAME-router. Others reach its TCP ports 8443
# (the server) and 8444 (the node) at 198.51.100.NUMBER.
host() {
    local name=$1 kind=$2 number=$3
    namespace "$name"
    if [ "$kind" = open ]; then
        on_public "$name" outside "$number"
        return
    fi
    local router=$name-router
    namespace "$router"
    on_public "$router" outside "$number"
    ip -n "$router" link add inside type veth peer name outside netns "$name"
    ip -n "$router" address add "10.0.$number.1/24" dev inside
    ip -n "$router" link set inside up
    ip -n "$name" address add "10.0.$number.2/24" dev outside
    ip -n "$name" link set outside up
    ip -n "$name" route add default via "10.0.$number.1"
    in_namespace "$router" tee /proc/sys/net/ipv4/ip_forward <<<1 >/dev/null
    router_rules "$kind" "10.0.$number.2" | in_namespace "$router" nft -f -
}

# cut_udp NAME: from now on the router of this host drops all UDP, established or not, without a word.
cut_udp() {
    in_namespace "$1-router" nft -f - <<RULES
table ip cut {
    chain forward {
        type filter hook forward priority -1;
        meta l4proto udp counter drop
    }
}
RULES
}

# heal_udp NAME: undoes that.
heal_udp() {
    in_namespace "$1-router" nft delete table ip cut
}
