"""The interoperability peer made of py-libp2p. See README.md."""

import argparse
import json
import logging
import os
import sys

import trio


def say(line):
    """One line of JSON on stdout, at once."""
    print(json.dumps(line), flush=True)


def parse():
    """The command line."""
    parser = argparse.ArgumentParser(description="Interoperability peer: py-libp2p")
    commands = parser.add_subparsers(dest="command", required=True)
    listen = commands.add_parser("listen")
    listen.add_argument("addr", nargs="?", default="/ip4/127.0.0.1/udp/0/webrtc-direct")
    listen.add_argument("--seed", type=int)
    listen.add_argument("--events", action="store_true")
    dial = commands.add_parser("dial")
    dial.add_argument("addr")
    dial.add_argument("--ice", choices=["auto", "v1", "v2"], default="auto")
    dial.add_argument("--seed", type=int)
    for name in ("pings", "echo", "half-close", "streams", "in-turn", "idle", "wait-close"):
        dial.add_argument(f"--{name}", type=int, default=0)
    for name in ("reset", "remote-close"):
        dial.add_argument(f"--{name}", action="store_true")
    commands.add_parser("version")
    return parser.parse_args()


def main():
    """The command."""
    options = parse()
    level = os.environ.get("PEER_LOG", "WARNING")
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    if options.command == "version":
        import node

        say({"peer": "py-libp2p", "version": node.VERSION})
        return
    if options.command == "listen":
        import listen

        trio.run(listen.run, options, say)
        return
    ok = trio.run(_dial, options)
    sys.stderr.flush()
    # Threads of the library must not delay the end.
    os._exit(0 if ok else 1)


async def _dial(options):
    """Made inside of trio, because the library asks for its token."""
    import dial

    return await dial.Dialer(options, say).run()


if __name__ == "__main__":
    main()
