// go-libp2p v0.47 as a peer of the interoperability matrix. It knows handshake v1 only.
package main

import (
	"fmt"

	"github.com/libp2p/go-libp2p"
	webrtc "github.com/libp2p/go-libp2p/p2p/transport/webrtc"

	"libp2p-rtc.example/interop/go/peer"
)

func main() {
	peer.Main(transport)
}

// transport is the WebRTC transport. Whoever asks for v2 is told that it is not there.
func transport(ice string) (libp2p.Option, error) {
	switch ice {
	case "auto", "v1":
		return libp2p.Transport(webrtc.New), nil
	default:
		return nil, fmt.Errorf("this go-libp2p knows handshake v1 only, not %q", ice)
	}
}
