// The newest go-libp2p as a peer of the interoperability matrix. It knows both handshakes.
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

// transport is the WebRTC transport that dials with handshake `ice`; "auto" leaves the choice to the library.
func transport(ice string) (libp2p.Option, error) {
	switch ice {
	case "auto":
		return libp2p.Transport(webrtc.New), nil
	case "v1":
		return libp2p.Transport(webrtc.New, webrtc.WithDialerVersion(1)), nil
	case "v2":
		return libp2p.Transport(webrtc.New, webrtc.WithDialerVersion(2)), nil
	default:
		return nil, fmt.Errorf("no such handshake: %q", ice)
	}
}
