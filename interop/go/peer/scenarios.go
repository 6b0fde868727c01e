package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

const (
	// chunkSize is the size of one write.
	chunkSize = 64 << 10
	// smallEcho is what a stream carries that is one of many.
	smallEcho = 100
	// idleEcho is what shows that an idle connection still works.
	idleEcho = 1 << 10
	// noticeLimit is how soon the end of a connection has to be noticed.
	noticeLimit = time.Second
)

// scenario is something that the command line may ask for.
type scenario struct {
	name  string
	limit time.Duration
	run   func(context.Context) (any, error)
}

// scenarios is what was asked for, in the order of the contract.
func (s *session) scenarios(o options) []scenario {
	var asked []scenario
	add := func(wanted bool, name string, limit time.Duration, run func(context.Context) (any, error)) {
		if wanted {
			asked = append(asked, scenario{name, limit, run})
		}
	}
	add(o.pings > 0, "ping", limit, func(ctx context.Context) (any, error) { return s.pings(ctx, o.pings) })
	add(o.echo > 0, "echo", limit, func(ctx context.Context) (any, error) { return s.timedEcho(ctx, o.echo) })
	add(o.halfClose > 0, "half-close", limit, func(ctx context.Context) (any, error) { return s.halfClose(ctx, o.halfClose) })
	add(o.streams > 0, "streams-in-turn", limit, func(ctx context.Context) (any, error) { return s.inTurn(ctx, o.streams) })
	add(o.streams > 0, "streams-parallel", limit, func(ctx context.Context) (any, error) { return s.parallel(ctx, o.streams) })
	add(o.inTurn > 0, "streams-in-turn", limit, func(ctx context.Context) (any, error) { return s.inTurn(ctx, o.inTurn) })
	add(o.idle > 0, "idle", o.idle+limit, func(ctx context.Context) (any, error) { return s.idle(ctx, o.idle) })
	add(o.reset, "reset", limit, s.reset)
	add(o.remoteClose, "remote-close", limit, s.remoteClose)
	add(o.waitClose > 0, "wait-close", o.waitClose+limit, func(ctx context.Context) (any, error) {
		return s.waitClose(ctx, o.waitClose)
	})
	return asked
}

// open opens a stream on the connection of the session; it never makes a new one.
func (s *session) open(ctx context.Context, id protocol.ID) (network.Stream, error) {
	if s.conn.IsClosed() {
		return nil, errors.New("the connection is closed")
	}
	stream, err := s.host.NewStream(network.WithNoDial(ctx, "one connection for all"), s.peer, id)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := stream.SetDeadline(deadline); err != nil {
			stream.Reset()
			return nil, err
		}
	}
	return stream, nil
}

// pings pings without pause.
func (s *session) pings(ctx context.Context, count uint64) (any, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := ping.Ping(network.WithNoDial(ctx, "one connection for all"), s.host, s.peer)
	rtts := make([]float64, 0, count)
	for range count {
		select {
		case result := <-results:
			if result.Error != nil {
				return nil, result.Error
			}
			rtts = append(rtts, ms(result.RTT))
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d pings: %w", len(rtts), count, ctx.Err())
		}
	}
	return map[string]any{"rtts_ms": rtts}, nil
}

func (s *session) timedEcho(ctx context.Context, count uint64) (any, error) {
	data := pseudoRandom(count)
	start := time.Now()
	if err := s.echo(ctx, data); err != nil {
		return nil, err
	}
	return map[string]any{"bytes": count, "mib_per_s": mibPerSecond(count, time.Since(start))}, nil
}

// echo has `data` sent back on a new stream, writing and reading at the same time.
func (s *session) echo(ctx context.Context, data []byte) error {
	stream, err := s.open(ctx, echoProtocol)
	if err != nil {
		return err
	}
	written := make(chan error, 1)
	go func() { written <- send(stream, data) }()
	err = expect(stream, data)
	if err != nil {
		// It also ends the writing.
		stream.Reset()
	}
	err = errors.Join(err, <-written)
	if err != nil {
		return err
	}
	return stream.Close()
}

// halfClose asks for as many bytes as it sends. The answer comes after the end of the request.
func (s *session) halfClose(ctx context.Context, count uint64) (any, error) {
	stream, err := s.open(ctx, perfProtocol)
	if err != nil {
		return nil, err
	}
	defer stream.Reset()
	start := time.Now()
	request := binary.BigEndian.AppendUint64(nil, count)
	if err := send(stream, append(request, pseudoRandom(count)...)); err != nil {
		return nil, err
	}
	sent := time.Now()
	got, err := io.Copy(io.Discard, stream)
	if err != nil {
		return nil, fmt.Errorf("after %d of %d bytes: %w", got, count, err)
	}
	if uint64(got) != count {
		return nil, fmt.Errorf("%d of %d bytes came back", got, count)
	}
	detail := map[string]any{"bytes": count, "up_ms": ms(sent.Sub(start)), "down_ms": ms(time.Since(sent))}
	return detail, stream.Close()
}

// inTurn has one stream after the other echoed.
func (s *session) inTurn(ctx context.Context, count uint64) (any, error) {
	data := pseudoRandom(smallEcho)
	for i := range count {
		if err := s.echo(ctx, data); err != nil {
			return nil, fmt.Errorf("stream %d of %d: %w", i+1, count, err)
		}
	}
	return map[string]any{"streams": count}, nil
}

// parallel opens all streams, then writes to all, then reads all.
func (s *session) parallel(ctx context.Context, count uint64) (any, error) {
	data := pseudoRandom(smallEcho)
	streams := make([]network.Stream, 0, count)
	defer func() {
		for _, stream := range streams {
			// Nothing happens to those that are closed.
			stream.Reset()
		}
	}()
	for i := range count {
		stream, err := s.open(ctx, echoProtocol)
		if err != nil {
			return nil, fmt.Errorf("opening stream %d of %d: %w", i+1, count, err)
		}
		streams = append(streams, stream)
	}
	for i, stream := range streams {
		if err := send(stream, data); err != nil {
			return nil, fmt.Errorf("writing to stream %d of %d: %w", i+1, count, err)
		}
	}
	for i, stream := range streams {
		if err := errors.Join(expect(stream, data), stream.Close()); err != nil {
			return nil, fmt.Errorf("reading stream %d of %d: %w", i+1, count, err)
		}
	}
	return map[string]any{"streams": count}, nil
}

// idle leaves the connection alone and then uses it.
func (s *session) idle(ctx context.Context, pause time.Duration) (any, error) {
	select {
	case <-s.closed:
		return nil, errors.New("the connection ended while idle")
	case <-time.After(pause):
	}
	return s.timedEcho(ctx, idleEcho)
}

// reset expects an error where the peer resets its stream.
func (s *session) reset(ctx context.Context) (any, error) {
	stream, err := s.open(ctx, resetProtocol)
	if err != nil {
		return nil, err
	}
	defer stream.Reset()
	if _, err := stream.Write([]byte{1}); err != nil {
		return nil, err
	}
	got, err := io.Copy(io.Discard, stream)
	switch {
	case err == nil:
		return nil, fmt.Errorf("a clean end after %d bytes", got)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("no end after %d bytes: %w", got, err)
	case !errors.Is(err, network.ErrReset):
		return nil, fmt.Errorf("not a reset after %d bytes: %w", got, err)
	default:
		return map[string]any{"bytes": got, "error": err.Error()}, nil
	}
}

// remoteClose expects to be told at once that the peer has closed the connection.
func (s *session) remoteClose(ctx context.Context) (any, error) {
	stream, err := s.open(ctx, hangupProtocol)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if _, err := stream.Write([]byte{1}); err != nil {
		return nil, err
	}
	select {
	case <-s.closed:
	case <-ctx.Done():
		return nil, errors.New("the end of the connection was never noticed")
	}
	noticed := time.Since(start)
	if noticed > noticeLimit {
		return nil, fmt.Errorf("noticed after %v only", noticed)
	}
	return map[string]any{"noticed_ms": ms(noticed)}, nil
}

// waitClose waits for the end of the connection, which somebody else brings about.
func (s *session) waitClose(ctx context.Context, patience time.Duration) (any, error) {
	if err := printJSON(map[string]any{"event": "waiting"}); err != nil {
		return nil, err
	}
	start := time.Now()
	select {
	case <-s.closed:
		return map[string]any{"noticed_ms": ms(time.Since(start))}, nil
	case <-time.After(patience):
		return nil, fmt.Errorf("the connection did not end within %v", patience)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send writes all and ends the writing half.
func send(stream network.Stream, data []byte) error {
	for start := 0; start < len(data); start += chunkSize {
		if _, err := stream.Write(data[start:min(start+chunkSize, len(data))]); err != nil {
			return fmt.Errorf("writing after byte %d: %w", start, err)
		}
	}
	return stream.CloseWrite()
}

// expect reads to the end and compares every byte.
func expect(stream network.Stream, data []byte) error {
	buf := make([]byte, chunkSize)
	at := 0
	for {
		n, err := stream.Read(buf)
		if at+n > len(data) {
			return fmt.Errorf("more than %d bytes came back", len(data))
		}
		if !bytes.Equal(buf[:n], data[at:at+n]) {
			return fmt.Errorf("the echo differs after byte %d", at)
		}
		at += n
		switch {
		case err == io.EOF && at == len(data):
			return nil
		case err == io.EOF:
			return fmt.Errorf("%d of %d bytes came back", at, len(data))
		case err != nil:
			return fmt.Errorf("reading after byte %d: %w", at, err)
		}
	}
}

// pseudoRandom is the same bytes each time.
func pseudoRandom(count uint64) []byte {
	data := make([]byte, count)
	// It never fails.
	rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

func mibPerSecond(count uint64, took time.Duration) float64 {
	return float64(count) / (1 << 20) / took.Seconds()
}
