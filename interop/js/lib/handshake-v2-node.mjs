// Handshake v2 for js-libp2p on Node, whose @libp2p/webrtc knows v1 only, by
// replacing methods of it: a dialer keeps the ICE credentials of its ICE stack
// and derives the listener's from its own password; a listener learns both from
// the USERNAME of the first STUN request (libp2p specs, webrtc-direct, "v2").
// Remove this once @libp2p/webrtc knows v2 itself.
import { IceUdpMuxListener } from 'node-datachannel'
import getPort from 'get-port'
import { DirectRTCPeerConnection, WebRTCDirectListener } from './webrtc-internals.mjs'

const PREFIX = 'libp2p+webrtc+v2/'
const ICE_PWD = /^a=ice-pwd:([A-Za-z0-9+/]{22,239})\r?$/m
const V1_UFRAG = /^libp2p\+webrtc\+v1\/[A-Za-z0-9+/]{5,239}$/
const V2_UFRAG = /^libp2p\+webrtc\+v2\/([A-Za-z0-9+/]{22,239})$/
const CLIENT_UFRAG = /^[A-Za-z0-9+/]{4,256}$/

// More than any check has at once; the oldest is forgotten.
const MAX_CONTACTS = 1024

const { setRemoteDescription } = DirectRTCPeerConnection.prototype

/** Makes every dial of this process a v2 dial. */
export function dialV2 () {
  Object.assign(DirectRTCPeerConnection.prototype, {
    // The credentials stay those of the ICE stack.
    setLocalUfrag (type) {
      this.peerConnection.setLocalDescription(type)
    },

    async setRemoteDescription (description) {
      const pwd = this.localDescription?.sdp?.match(ICE_PWD)?.[1]

      if (pwd == null) {
        throw new Error('handshake v2: the local description has no usable ice-pwd')
      }

      await setRemoteDescription.call(this, withCredentials(description, PREFIX + pwd, PREFIX + pwd))
    }
  })
}

/** Makes every listener of this process answer v2 besides v1. */
export function listenV2 () {
  // The dialer's own ufrag, by the ufrag that it gave the listener.
  const contacts = new Map()

  WebRTCDirectListener.prototype.startUDPMuxServer = function startUDPMuxServer (host, port, family) {
    return {
      peerId: this.components.peerId,
      owner: this,
      port,
      isIPv4: family === 4,
      isIPv6: family === 6,
      server: muxServer(host, port, (ufrag, remoteHost, remotePort) => {
        const signal = this.components.upgrader.createInboundAbortSignal(this.shutdownController.signal)
        this.incomingConnection(ufrag, remoteHost, remotePort, signal)
          .catch(err => this.log.error('error processing incoming STUN request - %e', err))
          .finally(() => signal.clear())
      }, contacts)
    }
  }

  DirectRTCPeerConnection.prototype.setRemoteDescription = async function (description) {
    const pwd = V2_UFRAG.exec(this.ufrag)?.[1]
    const ufrag = contacts.get(this.ufrag)
    await setRemoteDescription.call(this, pwd == null || ufrag == null
      ? description
      : withCredentials(description, ufrag, pwd))
  }
}

async function muxServer (host, wantedPort, onContact, contacts) {
  const port = wantedPort !== 0 ? wantedPort : await getPort()
  const listener = new IceUdpMuxListener(port, host)

  listener.onUnhandledStunRequest(({ localUfrag, ufrag, host, port }) => {
    if (V1_UFRAG.test(localUfrag) && localUfrag === ufrag) {
      onContact(localUfrag, host, port)
    } else if (V2_UFRAG.test(localUfrag) && CLIENT_UFRAG.test(ufrag)) {
      remember(contacts, localUfrag, ufrag)
      onContact(localUfrag, host, port)
    }
  })

  return {
    close: async () => listener.stop(),
    address: () => ({ address: host, family: host.includes(':') ? 'IPv6' : 'IPv4', port })
  }
}

function remember (contacts, key, value) {
  contacts.set(key, value)

  if (contacts.size > MAX_CONTACTS) {
    contacts.delete(contacts.keys().next().value)
  }
}

function withCredentials ({ type, sdp }, ufrag, pwd) {
  return {
    type,
    sdp: sdp
      .replace(/^a=ice-ufrag:.*$/m, `a=ice-ufrag:${ufrag}`)
      .replace(/^a=ice-pwd:.*$/m, `a=ice-pwd:${pwd}`)
  }
}
