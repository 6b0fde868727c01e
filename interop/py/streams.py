"""Reading and writing streams of py-libp2p's WebRTC transport.

Everything goes through the transport's own stream (`NetStream.muxed_stream`): `NetStream.read` takes the clean end of a
WebRTC stream for a failure and then forbids to write, so that nobody could answer a request that ended with FIN.
"""

from libp2p.transport.webrtc.exceptions import WebRTCStreamError

CHUNK = 64 * 1024

# py-libp2p has no exception of its own for the end of a stream.
ENDS = ("Stream closed by remote", "Read side is closed")


async def read(stream, count=CHUNK):
    """Some bytes, or none at the end of the stream."""
    try:
        return await stream.muxed_stream.read(count)
    except WebRTCStreamError as error:
        if str(error) in ENDS:
            return b""
        raise


async def read_exactly(stream, count):
    """Exactly `count` bytes."""
    data = bytearray()
    while len(data) < count:
        part = await read(stream, count - len(data))
        if not part:
            raise EOFError(f"the stream ended after {len(data)} of {count} bytes")
        data += part
    return bytes(data)


async def write(stream, data):
    """All of `data`."""
    await stream.muxed_stream.write(data)
