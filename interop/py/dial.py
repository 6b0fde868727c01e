"""`peer.py dial`."""

import time

from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr
import trio

import node
import streams

# The limit of every scenario, in seconds.
LIMIT = 60


class Dialer:
    """One connection and what is tried on it."""

    def __init__(self, options, say):
        self.options = options
        self.say = say
        self.ok = True
        self.closed = trio.Event()
        # How far the current scenario has come, for the line of one that does not end.
        self.progress = ""
        version = 2 if options.ice == "v2" else 1
        self.host = node.build(seed=options.seed, dial_version=version)
        self.host.get_network().register_notifee(node.Watcher(disconnected=lambda _: self.closed.set()))
        self.target = info_from_p2p_addr(Multiaddr(options.addr))

    async def run(self):
        """All that the command line asks for; true if all of it worked."""
        async with self.host.run([]):
            if await self._try("connected", self._connect):
                await self._all()
            with trio.move_on_after(2.5):
                await self.host.close()
        return self.ok

    async def _all(self):
        options = self.options
        await self._try("identify", self._identify)
        if options.pings:
            await self._try("ping", self._ping)
        if options.echo:
            await self._try("echo", lambda: self._echo(options.echo))
        if options.half_close:
            await self._try("half-close", self._half_close)
        in_turn = options.in_turn or options.streams
        if in_turn:
            await self._try("streams-in-turn", lambda: self._in_turn(in_turn))
        if options.streams:
            await self._try("streams-parallel", self._parallel)
        if options.idle:
            await self._try("idle", self._idle, options.idle + LIMIT)
        if options.reset:
            await self._try("reset", self._reset)
        if options.remote_close:
            await self._try("remote-close", self._remote_close)
        if options.wait_close:
            await self._try("wait-close", self._wait_close, options.wait_close + LIMIT)

    async def _try(self, name, scenario, limit=LIMIT):
        """One scenario and its line."""
        start = time.monotonic()
        detail, ok = None, False
        try:
            with trio.fail_after(limit):
                detail = await scenario()
                ok = True
        except trio.TooSlowError:
            detail = f"not done after {limit} s{self.progress}"
        except Exception as error:
            detail = _chain(error)
        self.progress = ""
        self.ok = self.ok and ok
        self.say({"result": name, "ok": ok, "ms": _ms(start), "detail": detail})
        return ok

    async def _open(self, protocol):
        return await self.host.new_stream(self.target.peer_id, [protocol])

    async def _connect(self):
        await self.host.connect(self.target)
        return {"peer": str(self.target.peer_id)}

    async def _identify(self):
        stream = await self._open(IDENTIFY)
        length, shift = 0, 0
        while True:
            byte = (await streams.read_exactly(stream, 1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        message = Identify()
        message.ParseFromString(await streams.read_exactly(stream, length))
        await stream.close()
        return {"agent": message.agent_version, "protocols": list(message.protocols)}

    async def _ping(self):
        rtts, start = [], None
        async for _ in PingService(self.host).ping_iter(self.target.peer_id, self.options.pings):
            # The library only tells whole milliseconds; the first of these includes opening the stream.
            now = time.monotonic()
            if start is not None:
                rtts.append(round((now - start) * 1000, 3))
            start = now
        return {"rtts_ms": rtts}

    async def _echo(self, count):
        """The end of the answer is not looked at: `close` is the only way to send FIN, and it stops reading too."""
        stream = await self._open("/echo/1.0.0")
        sent = _pattern(count)
        await self._exchange(stream, sent, sent)
        await stream.close()
        return {"bytes": count, "eof": "not looked at: the library cannot half-close"}

    async def _exchange(self, stream, sent, expected):
        """Writes and reads concurrently."""
        received = bytearray()

        async def read_all():
            while len(received) < len(expected):
                self.progress = f": {len(received)} of {len(expected)} bytes came back"
                part = await streams.read(stream, min(streams.CHUNK, len(expected) - len(received)))
                if not part:
                    raise EOFError(f"the stream ended after {len(received)} of {len(expected)} bytes")
                received.extend(part)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all)
            for at in range(0, len(sent), streams.CHUNK):
                await streams.write(stream, sent[at : at + streams.CHUNK])
        if received != expected:
            at = next(i for i, (a, b) in enumerate(zip(received, expected)) if a != b)
            raise ValueError(f"the answer differs at byte {at}")

    async def _half_close(self):
        count = self.options.half_close
        stream = await self._open("/perf/1.0.0")
        await streams.write(stream, count.to_bytes(8, "big"))
        for at in range(0, count, streams.CHUNK):
            await streams.write(stream, bytes(min(streams.CHUNK, count - at)))
        await stream.close_write()
        received = 0
        while part := await streams.read(stream):
            received += len(part)
        if received != count:
            raise EOFError(f"the stream ended after {received} of {count} bytes")
        return {"bytes": count}

    async def _in_turn(self, count):
        for index in range(count):
            self.progress = f": {index} of {count} streams"
            stream = await self._open("/echo/1.0.0")
            await self._exchange(stream, _pattern(100), _pattern(100))
            await stream.close()
        return {"streams": count}

    async def _parallel(self):
        count = self.options.streams
        opened = [None] * count

        async def open_one(index):
            opened[index] = await self._open("/echo/1.0.0")
            await streams.write(opened[index], _pattern(100))

        async def finish(stream):
            if await streams.read_exactly(stream, 100) != _pattern(100):
                raise ValueError("the answer differs")
            await stream.close()

        async with trio.open_nursery() as nursery:
            for index in range(count):
                nursery.start_soon(open_one, index)
        async with trio.open_nursery() as nursery:
            for stream in opened:
                nursery.start_soon(finish, stream)
        return {"streams": count}

    async def _idle(self):
        await trio.sleep(self.options.idle)
        if self.closed.is_set():
            raise ConnectionError("the connection ended meanwhile")
        return await self._echo(1024)

    async def _reset(self):
        stream = await self._open("/reset/1.0.0")
        await streams.write(stream, b"x")
        received = 0
        try:
            while part := await streams.read(stream):
                received += len(part)
        except Exception as error:
            return {"received": received, "error": _chain(error)}
        raise EOFError(f"a clean end of the stream after {received} bytes")

    async def _remote_close(self):
        stream = await self._open("/hangup/1.0.0")
        await streams.write(stream, b"x")
        start = time.monotonic()
        await self.closed.wait()
        noticed = _ms(start)
        if noticed > 1000:
            raise TimeoutError(f"noticed after {noticed} ms")
        return {"noticed_ms": noticed}

    async def _wait_close(self):
        self.say({"event": "waiting"})
        start = time.monotonic()
        await self.closed.wait()
        return {"noticed_ms": _ms(start)}


def _pattern(count):
    """Pseudo-random bytes."""
    state = 0x9E3779B9
    data = bytearray()
    while len(data) < min(count, 65521):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        data.append(state >> 24)
    return bytes((data * (count // max(len(data), 1) + 1))[:count])


def _ms(start):
    return round((time.monotonic() - start) * 1000, 1)


def _chain(error):
    """An error with all its causes."""
    texts = []
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            if len(error.exceptions) > 1:
                texts.append(f"{len(error.exceptions)} failures, the first")
            error = error.exceptions[0]
            continue
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return " <- ".join(texts)
