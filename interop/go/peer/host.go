package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
)

// farewell is how long a host may take to close its connections.
const farewell = 2500 * time.Millisecond

// newHost is a host with the WebRTC transport and nothing else. Identify and ping are always on.
func newHost(transport Transport, opts options, more ...libp2p.Option) (host.Host, error) {
	webrtc, err := transport(opts.ice)
	if err != nil {
		return nil, err
	}
	key, err := identity(opts.seed)
	if err != nil {
		return nil, err
	}
	version, err := linked()
	if err != nil {
		return nil, err
	}
	return libp2p.New(append(more,
		libp2p.Identity(key),
		libp2p.UserAgent("go-libp2p/"+version),
		webrtc,
		libp2p.DisableRelay(),
		// The default one refuses the 65th stream of a protocol that the same peer has open.
		libp2p.ResourceManager(&network.NullResourceManager{}),
	)...)
}

// identity is with a seed always the same, and the same as that of the Rust node with that seed.
func identity(seed *uint64) (crypto.PrivKey, error) {
	if seed == nil {
		key, _, err := crypto.GenerateEd25519Key(rand.Reader)
		return key, err
	}
	var bytes [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(bytes[24:], *seed)
	return crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(bytes[:]))
}

// closeHost closes all connections, so that the other sides notice at once.
func closeHost(h host.Host) error {
	done := make(chan error, 1)
	go func() {
		// Closing a host closes its sockets at the same time, and then now and then no peer is told.
		var errs []error
		for _, conn := range h.Network().Conns() {
			errs = append(errs, conn.Close())
		}
		done <- errors.Join(append(errs, h.Close())...)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(farewell):
		return errors.New("the host does not close")
	}
}
