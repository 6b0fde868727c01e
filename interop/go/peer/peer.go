// Package peer is the program that every go-libp2p version of the interoperability matrix runs.
//
// It owns the command line, the host, the protocols and the scenarios. Which go-libp2p it is linked with, and how that
// one is told which handshake to dial with, is the matter of the module that calls [Main].
package peer

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p"
)

const usage = `usage: PEER listen [MULTIADDR] [--seed N] [--events]
       PEER dial MULTIADDR [--ice auto|v1|v2] [--seed N] [--pings N] [--echo BYTES] [--half-close BYTES]
            [--streams N] [--in-turn N] [--idle SECONDS] [--reset] [--remote-close] [--wait-close SECONDS]
       PEER version`

// library is the module whose version identifies the peer.
const library = "github.com/libp2p/go-libp2p"

var errUsage = errors.New(usage)

// Transport makes the WebRTC transport that dials with the handshake "auto", "v1" or "v2".
type Transport func(ice string) (libp2p.Option, error)

// options is the command line after the command.
type options struct {
	addr        string
	seed        *uint64
	events      bool
	ice         string
	pings       uint64
	echo        uint64
	halfClose   uint64
	streams     uint64
	inTurn      uint64
	idle        time.Duration
	reset       bool
	remoteClose bool
	waitClose   time.Duration
}

// Main runs the program and exits: with 0 only if all that was asked for worked.
func Main(transport Transport) {
	if err := run(transport, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(transport Transport, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	opts, err := parse(args[1:])
	if err != nil {
		return err
	}
	switch args[0] {
	case "listen":
		return listen(transport, opts)
	case "dial":
		return dial(transport, opts)
	case "version":
		return version()
	default:
		return errUsage
	}
}

func parse(args []string) (options, error) {
	opts := options{ice: "auto"}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--events":
			opts.events = true
		case arg == "--reset":
			opts.reset = true
		case arg == "--remote-close":
			opts.remoteClose = true
		case !strings.HasPrefix(arg, "--") && opts.addr == "":
			opts.addr = arg
		case len(args) > 0:
			if err := opts.set(arg, args[0]); err != nil {
				return opts, err
			}
			args = args[1:]
		default:
			return opts, errUsage
		}
	}
	return opts, nil
}

// set takes an option that has a value.
func (o *options) set(name, value string) error {
	if name == "--ice" {
		o.ice = value
		return nil
	}
	number, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	switch name {
	case "--seed":
		o.seed = &number
	case "--pings":
		o.pings = number
	case "--echo":
		o.echo = number
	case "--half-close":
		o.halfClose = number
	case "--streams":
		o.streams = number
	case "--in-turn":
		o.inTurn = number
	case "--idle":
		o.idle = time.Duration(number) * time.Second
	case "--wait-close":
		o.waitClose = time.Duration(number) * time.Second
	default:
		return errUsage
	}
	return nil
}

// version prints which go-libp2p is linked in.
func version() error {
	version, err := linked()
	if err != nil {
		return err
	}
	return printJSON(map[string]any{"peer": "go-libp2p", "version": version})
}

// linked is the version of go-libp2p, as the build itself knows it.
func linked() (string, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", errors.New("built without module information")
	}
	for _, module := range info.Deps {
		if module.Path == library {
			return module.Version, nil
		}
	}
	return "", fmt.Errorf("built without %s", library)
}
