"""A py-libp2p host with nothing but its WebRTC Direct transport."""

import datetime
import hashlib
import importlib.metadata

from aiortc.rtcdtlstransport import RTCCertificate
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from libp2p import new_host
from libp2p.abc import INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.transport.webrtc.certificate import WebRTCCertificate
from libp2p.transport.webrtc.config import WebRTCTransportConfig
from libp2p.transport.webrtc.transport import WebRTCDirectTransport

VERSION = "v" + importlib.metadata.version("libp2p")

# The order of the group of P-256.
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def build(seed=None, dial_version=1):
    """A host; with a seed always the same identity and certificate."""
    identity = None if seed is None else seed.to_bytes(32, "big")
    keys = create_new_key_pair(identity)
    config = WebRTCTransportConfig(
        certificate=None if seed is None else _certificate(seed),
        webrtc_direct_dial_version=dial_version,
    )
    transport = WebRTCDirectTransport(keys.private_key, config)
    return new_host(key_pair=keys, transports=[transport])


def _certificate(seed):
    """py-libp2p derives no certificate from the identity and stores none; this one depends on the seed only."""
    digest = hashlib.sha256(b"py-libp2p peer certificate" + seed.to_bytes(8, "big")).digest()
    key = ec.derive_private_key(int.from_bytes(digest, "big") % (P256_ORDER - 1) + 1, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "py-libp2p peer")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2020, 1, 1))
        .not_valid_after(datetime.datetime(2120, 1, 1))
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    wrapped = WebRTCCertificate(certificate, key)
    # The transport insists on aiortc's form of it, for which there is no public way in.
    wrapped._rtc_certificate = RTCCertificate(key=key, cert=certificate)
    return wrapped


class Watcher(INotifee):
    """Calls back when connections come and go."""

    def __init__(self, connected=None, disconnected=None):
        self._connected = connected
        self._disconnected = disconnected

    async def connected(self, network, conn):
        if self._connected:
            self._connected(conn)

    async def disconnected(self, network, conn):
        if self._disconnected:
            self._disconnected(conn)

    async def opened_stream(self, network, stream):
        pass

    async def closed_stream(self, network, stream):
        pass

    async def listen(self, network, multiaddr):
        pass

    async def listen_close(self, network, multiaddr):
        pass
