// go-libp2p in the transport and perf suites of libp2p's unified-testing: the other role in the test of `unified`.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	webrtc "github.com/libp2p/go-libp2p/p2p/transport/webrtc"
	"github.com/multiformats/go-multiaddr"
	"github.com/redis/go-redis/v9"
)

const perfProtocol = "/perf/1.0.0"

func main() {
	log.SetOutput(os.Stderr)
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	if len(os.Args) != 2 || (os.Args[1] != "transport" && os.Args[1] != "perf") {
		return fmt.Errorf("usage: %s transport|perf", os.Args[0])
	}
	perf := os.Args[1] == "perf"
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	board := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS_ADDR"), ReadTimeout: 2 * time.Minute})
	defer board.Close()
	key := os.Getenv("TEST_KEY") + "_listener_multiaddr"
	if os.Getenv("IS_DIALER") == "true" {
		return dial(ctx, board, key, perf)
	}
	return listen(ctx, board, key, perf)
}

func listen(ctx context.Context, board *redis.Client, key string, perf bool) error {
	h, err := libp2p.New(libp2p.Transport(webrtc.New),
		libp2p.ListenAddrStrings("/ip4/"+os.Getenv("LISTENER_IP")+"/udp/0/webrtc-direct"))
	if err != nil {
		return err
	}
	defer h.Close()
	h.SetStreamHandler(perfProtocol, servePerf)
	addr, err := reachable(h)
	if err != nil {
		return err
	}
	log.Printf("listening on %s", addr)
	if perf {
		err = board.Set(ctx, key, addr, 0).Err()
	} else if err = board.Del(ctx, key).Err(); err == nil {
		err = board.RPush(ctx, key, addr).Err()
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

func reachable(h host.Host) (string, error) {
	for _, addr := range h.Addrs() {
		if text := addr.String(); !strings.HasPrefix(text, "/ip4/127.") {
			return text + "/p2p/" + h.ID().String(), nil
		}
	}
	return "", fmt.Errorf("no address but loopback: %v", h.Addrs())
}

func servePerf(stream network.Stream) {
	var wanted [8]byte
	if _, err := io.ReadFull(stream, wanted[:]); err != nil {
		log.Print(err)
		stream.Reset()
		return
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		log.Print(err)
		stream.Reset()
		return
	}
	if err := writeZeros(stream, binary.BigEndian.Uint64(wanted[:])); err != nil {
		log.Print(err)
		stream.Reset()
		return
	}
	stream.Close()
}

func dial(ctx context.Context, board *redis.Client, key string, perf bool) error {
	addr, err := find(ctx, board, key, perf)
	if err != nil {
		return err
	}
	log.Printf("dialing %s", addr)
	info, err := peer.AddrInfoFromString(addr)
	if err != nil {
		return err
	}
	if _, err := multiaddr.NewMultiaddr(addr); err != nil {
		return err
	}
	h, err := libp2p.New(libp2p.Transport(webrtc.New), libp2p.NoListenAddrs)
	if err != nil {
		return err
	}
	defer h.Close()
	start := time.Now()
	if err := h.Connect(ctx, *info); err != nil {
		return err
	}
	result := <-ping.Ping(ctx, h, info.ID)
	if result.Error != nil {
		return result.Error
	}
	if !perf {
		fmt.Printf("latency:\n  handshake_plus_one_rtt: %.3f\n  ping_rtt: %.3f\n  unit: ms\n",
			ms(time.Since(start)), ms(result.RTT))
		return nil
	}
	return measure(ctx, h, info.ID)
}

func find(ctx context.Context, board *redis.Client, key string, perf bool) (string, error) {
	if !perf {
		values, err := board.BLPop(ctx, time.Minute, key).Result()
		if err != nil {
			return "", err
		}
		return values[1], nil
	}
	for range 240 {
		if addr, err := board.Get(ctx, key).Result(); err == nil && addr != "" {
			return addr, nil
		}
		time.Sleep(250 * time.Millisecond)
	}
	return "", fmt.Errorf("no listener has left its address under %s", key)
}

func measure(ctx context.Context, h host.Host, id peer.ID) error {
	for _, part := range []struct {
		name, unit           string
		up, down, iterations uint64
	}{
		{"upload", "Gbps", variable("UPLOAD_BYTES"), 0, variable("UPLOAD_ITERATIONS")},
		{"download", "Gbps", 0, variable("DOWNLOAD_BYTES"), variable("DOWNLOAD_ITERATIONS")},
		{"latency", "ms", 1, 1, variable("LATENCY_ITERATIONS")},
	} {
		var samples []float64
		for range part.iterations {
			took, err := exchange(ctx, h, id, part.up, part.down)
			if err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
			if part.unit == "ms" {
				samples = append(samples, ms(took))
			} else {
				samples = append(samples, float64(max(part.up, part.down))*8/took.Seconds()/1e9)
			}
		}
		sort.Float64s(samples)
		fmt.Printf("%s:\n  iterations: %d\n  median: %.3f\n  unit: %s\n", part.name, len(samples),
			samples[len(samples)/2], part.unit)
	}
	return nil
}

func exchange(ctx context.Context, h host.Host, id peer.ID, up, down uint64) (time.Duration, error) {
	start := time.Now()
	stream, err := h.NewStream(ctx, id, perfProtocol)
	if err != nil {
		return 0, err
	}
	defer stream.Reset()
	if _, err := stream.Write(binary.BigEndian.AppendUint64(nil, down)); err != nil {
		return 0, err
	}
	if err := writeZeros(stream, up); err != nil {
		return 0, err
	}
	if err := stream.CloseWrite(); err != nil {
		return 0, err
	}
	received, err := io.Copy(io.Discard, stream)
	if err != nil {
		return 0, err
	}
	if uint64(received) != down {
		return 0, fmt.Errorf("%d bytes came instead of %d", received, down)
	}
	return time.Since(start), nil
}

func writeZeros(to io.Writer, count uint64) error {
	zeros := make([]byte, 64*1024)
	for count > 0 {
		n := min(count, uint64(len(zeros)))
		if _, err := to.Write(zeros[:n]); err != nil {
			return err
		}
		count -= n
	}
	return nil
}

func variable(name string) uint64 {
	value, err := strconv.ParseUint(os.Getenv(name), 10, 64)
	if err != nil {
		log.Fatalf("%s: %v", name, err)
	}
	return value
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }
