"""Looks again at what README.md says about py-libp2p: which release is the newest, whether its WebRTC is there, and which
of the known faults it still has. Prints one line of JSON for each; the exit status is 1 if README.md is out of date.

    python check.py [--offline]
"""

import importlib.metadata
import importlib.util
import inspect
import json
import subprocess
import sys


def newest():
    """The newest release on PyPI, asked through pip."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    report = subprocess.run(command + ["--report", "-", "libp2p"], capture_output=True, text=True, timeout=120)
    if report.returncode:
        raise RuntimeError(report.stderr.strip()[-300:])
    return json.loads(report.stdout)["install"][0]["metadata"]["version"]


def webrtc_is_there():
    """Whether the transport can be imported."""
    return importlib.util.find_spec("libp2p.transport.webrtc.transport") is not None


def loses_messages_after_a_gap():
    """aiortc: a message stays in the reassembly queue when another stream's TSN lies before it and it came early."""
    from aiortc.rtcsctptransport import DataChunk, InboundStream

    stream, delivered = InboundStream(), []
    for tsn, sequence in ((3, 1), (1, 0)):
        chunk = DataChunk(flags=3)
        chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = tsn, 6, sequence, 53, b"x"
        stream.add_chunk(chunk)
        delivered += stream.pop_messages()
    return len(delivered) < 2


def cannot_half_close():
    """libp2p: no way to send FIN and read on."""
    from libp2p.transport.webrtc.stream import WebRTCStream

    return not hasattr(WebRTCStream, "close_write")


def takes_a_reset_for_the_end():
    """libp2p: a reader that waits when RESET arrives sees what it sees after FIN."""
    from libp2p.transport.webrtc import stream

    source = inspect.getsource(stream.WebRTCStream._reset_locally)
    return "_enqueue_eof_sentinel" in source


def drops_what_is_not_read():
    """libp2p: the 65th unread message of a stream is dropped, and the stream goes on."""
    from libp2p.transport.webrtc.stream import WebRTCStream

    return "dropping message" in inspect.getsource(WebRTCStream)


def does_not_watch_connections():
    """libp2p: nothing looks at the state of a peer connection once it is up."""
    from libp2p.transport.webrtc import _aiortc_helpers as helpers

    return "connectionstatechange" not in inspect.getsource(helpers.wire_pc_to_connection)


FAULTS = (
    loses_messages_after_a_gap,
    cannot_half_close,
    takes_a_reset_for_the_end,
    drops_what_is_not_read,
    does_not_watch_connections,
)


def main():
    """All checks."""
    current = True
    installed = importlib.metadata.version("libp2p")
    if "--offline" not in sys.argv[1:]:
        latest = newest()
        current = latest == installed
        say({"check": "newest release", "ok": current, "detail": {"newest": latest, "installed": installed}})
    there = webrtc_is_there()
    say({"check": "webrtc is in it", "ok": there, "detail": importlib.metadata.version("aiortc")})
    for fault in FAULTS if there else ():
        try:
            present = fault()
        except Exception as error:
            # Its inside has changed: time to look again.
            say({"check": fault.__name__, "ok": False, "detail": f"{type(error).__name__}: {error}"})
            current = False
            continue
        current = current and present
        say({"check": fault.__name__, "ok": present, "detail": "still there" if present else "gone: change README.md"})
    sys.exit(0 if current and there else 1)


def say(line):
    """One line of JSON."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
