"""`peer.py listen`."""

import os
import signal
import sys

from multiaddr import Multiaddr
import trio

import node
import streams

# How long closing may take.
CLOSING = 4


async def run(options, say):
    """Serves until SIGTERM or SIGINT."""
    host = node.build(seed=options.seed)
    network = host.get_network()
    if options.events:
        network.register_notifee(
            node.Watcher(
                lambda conn: say({"event": "connected", "peer": str(conn.muxed_conn.peer_id)}),
                lambda conn: say({"event": "closed", "peer": str(conn.muxed_conn.peer_id), "detail": None}),
            )
        )
    for protocol, handler in (
        ("/echo/1.0.0", _echo),
        ("/perf/1.0.0", _perf),
        ("/reset/1.0.0", _reset),
        ("/hangup/1.0.0", lambda stream: _hang_up(stream, network)),
    ):
        host.set_stream_handler(protocol, _reporting(protocol, handler))
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with host.run([Multiaddr(options.addr)]):
            for addr in host.get_addrs():
                say({"addr": str(addr)})
            async for _ in signals:
                break
            with trio.move_on_after(CLOSING) as scope:
                await host.close()
            if scope.cancelled_caught:
                print("peer.py: the host does not close", file=sys.stderr)
            # What is left of the host must not delay the end.
            sys.stderr.flush()
            os._exit(0)


def _reporting(protocol, handler):
    """A handler whose failure is seen and ends its stream only."""

    async def handle(stream):
        try:
            await handler(stream)
        except Exception as error:
            print(f"{protocol}: {type(error).__name__}: {error}", file=sys.stderr)
            await stream.reset()

    return handle


async def _echo(stream):
    while part := await streams.read(stream):
        await streams.write(stream, part)
    await stream.close()


async def _perf(stream):
    wanted = int.from_bytes(await streams.read_exactly(stream, 8), "big")
    while await streams.read(stream):
        pass
    while wanted:
        part = bytes(min(wanted, streams.CHUNK))
        await streams.write(stream, part)
        wanted -= len(part)
    await stream.close()


async def _reset(stream):
    await streams.read_exactly(stream, 1)
    await streams.write(stream, bytes(1000))
    await stream.reset()


async def _hang_up(stream, network):
    await streams.read_exactly(stream, 1)
    await network.close_peer(stream.muxed_conn.peer_id)
