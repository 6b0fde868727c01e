package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	corepeer "github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/multiformats/go-multiaddr"
)

// limit is the time of a scenario that is not about waiting.
const limit = 60 * time.Second

// session is the one connection that all scenarios use.
type session struct {
	host host.Host
	peer corepeer.ID
	conn network.Conn
	// closed is closed when the connection is.
	closed chan struct{}
}

// dial connects, tries what the command line asks for, and closes the connection.
func dial(transport Transport, opts options) error {
	h, err := newHost(transport, opts, libp2p.NoListenAddrs)
	if err != nil {
		return err
	}
	err = check(h, opts)
	return errors.Join(err, closeHost(h))
}

// check runs all scenarios. A scenario that fails does not keep those after it from being tried.
func check(h host.Host, opts options) error {
	info, err := corepeer.AddrInfoFromString(opts.addr)
	if err != nil {
		return err
	}
	identified, err := h.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted),
		new(event.EvtPeerIdentificationFailed),
	})
	if err != nil {
		return err
	}
	defer identified.Close()
	s := &session{host: h, peer: info.ID, closed: make(chan struct{})}
	if err := try("connected", limit, func(ctx context.Context) (any, error) {
		return s.connect(ctx, info.Addrs)
	}); err != nil {
		return err
	}
	errs := []error{try("identify", limit, func(ctx context.Context) (any, error) {
		return identify(ctx, identified)
	})}
	for _, scenario := range s.scenarios(opts) {
		errs = append(errs, try(scenario.name, scenario.limit, scenario.run))
	}
	return errors.Join(errs...)
}

// connect dials. It fills in the connection before it returns.
func (s *session) connect(ctx context.Context, addrs []multiaddr.Multiaddr) (any, error) {
	s.host.Peerstore().AddAddrs(s.peer, addrs, peerstore.PermanentAddrTTL)
	var once sync.Once
	s.host.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) {
		// There is only the one connection.
		once.Do(func() { close(s.closed) })
	}})
	conn, err := s.host.Network().DialPeer(ctx, s.peer)
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return map[string]any{"peer": conn.RemotePeer().String()}, nil
}

// identify waits for the answer of the peer.
func identify(ctx context.Context, events event.Subscription) (any, error) {
	select {
	case e := <-events.Out():
		switch e := e.(type) {
		case event.EvtPeerIdentificationCompleted:
			return map[string]any{"agent": e.AgentVersion, "protocols": e.Protocols}, nil
		case event.EvtPeerIdentificationFailed:
			return nil, e.Reason
		default:
			return nil, fmt.Errorf("unexpected event %T", e)
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
