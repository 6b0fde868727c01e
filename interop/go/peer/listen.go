package peer

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multiaddr"
)

const defaultAddr = "/ip4/127.0.0.1/udp/0/webrtc-direct"

// listen prints its addresses and serves until SIGINT or SIGTERM.
func listen(transport Transport, opts options) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	addr := opts.addr
	if addr == "" {
		addr = defaultAddr
	}
	// Listening starts only when all is served and watched.
	h, err := newHost(transport, opts, libp2p.NoListenAddrs)
	if err != nil {
		return err
	}
	serve(h)
	if opts.events {
		h.Network().Notify(&network.NotifyBundle{ConnectedF: connected, DisconnectedF: closed})
	}
	if err := listenOn(h, addr); err != nil {
		h.Close()
		return err
	}
	<-stop
	return closeHost(h)
}

// listenOn starts to listen and prints the addresses, with certhash and peer id.
func listenOn(h host.Host, text string) error {
	addr, err := multiaddr.NewMultiaddr(text)
	if err != nil {
		return err
	}
	if err := h.Network().Listen(addr); err != nil {
		return err
	}
	addrs, err := h.Network().InterfaceListenAddresses()
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if err := printJSON(map[string]any{"addr": fmt.Sprintf("%s/p2p/%s", addr, h.ID())}); err != nil {
			return err
		}
	}
	return nil
}

func connected(_ network.Network, c network.Conn) {
	printJSON(map[string]any{"event": "connected", "peer": c.RemotePeer().String()})
}

// closed has no reason to tell, because go-libp2p gives none.
func closed(_ network.Network, c network.Conn) {
	printJSON(map[string]any{"event": "closed", "peer": c.RemotePeer().String(), "detail": ""})
}
