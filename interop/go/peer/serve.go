package peer

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
)

const (
	echoProtocol   protocol.ID = "/echo/1.0.0"
	perfProtocol   protocol.ID = "/perf/1.0.0"
	resetProtocol  protocol.ID = "/reset/1.0.0"
	hangupProtocol protocol.ID = "/hangup/1.0.0"
)

// beforeReset is how many bytes `/reset/1.0.0` sends before it resets.
const beforeReset = 1000

// serve answers all protocols of the contract.
func serve(h host.Host) {
	for id, service := range map[protocol.ID]func(network.Stream) error{
		echoProtocol:   serveEcho,
		perfProtocol:   servePerf,
		resetProtocol:  serveReset,
		hangupProtocol: serveHangup,
	} {
		h.SetStreamHandler(id, func(s network.Stream) {
			if err := service(s); err != nil {
				fmt.Fprintf(os.Stderr, "peer: serving %s: %v\n", id, err)
				s.Reset()
			}
		})
	}
}

func serveEcho(s network.Stream) error {
	if _, err := io.Copy(s, s); err != nil {
		return err
	}
	return s.Close()
}

// servePerf reads to the end, then sends as many bytes as the first eight had asked for.
//
// Spec: https://github.com/libp2p/specs/blob/master/perf/perf.md
func servePerf(s network.Stream) error {
	var wanted uint64
	if err := binary.Read(s, binary.BigEndian, &wanted); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		return err
	}
	chunk := make([]byte, chunkSize)
	for wanted > 0 {
		n := min(wanted, chunkSize)
		if _, err := s.Write(chunk[:n]); err != nil {
			return err
		}
		wanted -= n
	}
	return s.Close()
}

func serveReset(s network.Stream) error {
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		return err
	}
	if _, err := s.Write(make([]byte, beforeReset)); err != nil {
		return err
	}
	return s.Reset()
}

func serveHangup(s network.Stream) error {
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		return err
	}
	return s.Conn().Close()
}
