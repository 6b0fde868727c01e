// Turns the v1 dial of @libp2p/webrtc, which rewrites the ICE credentials of
// the local offer, into a v2 dial, which leaves them alone (libp2p specs,
// webrtc-direct, "v2"). Remove this once @libp2p/webrtc dials v2 itself.
//
// Must run before @libp2p/webrtc creates its first RTCPeerConnection.

const PREFIX = 'libp2p+webrtc+v2/'
const ICE_PWD = /^a=ice-pwd:([A-Za-z0-9+/]{22,239})\r?$/m

export function installHandshakeV2 () {
  const Native = globalThis.RTCPeerConnection

  globalThis.RTCPeerConnection = class extends Native {
    // The browser's own offer; the object handed out gets rewritten by the caller.
    #offer

    async createOffer (...args) {
      const offer = await super.createOffer(...args)
      this.#offer = offer.sdp
      return { type: offer.type, sdp: offer.sdp }
    }

    async setLocalDescription (description) {
      if (description?.type !== 'offer' || this.#offer == null) {
        throw new Error('handshake v2: expected the offer made by createOffer')
      }

      await super.setLocalDescription({ type: 'offer', sdp: this.#offer })
    }

    async setRemoteDescription (description) {
      // The password counts as the browser reports it, not as it was offered.
      const pwd = this.localDescription?.sdp.match(ICE_PWD)?.[1]

      if (pwd == null) {
        throw new Error('handshake v2: the local description has no usable ice-pwd')
      }

      const credential = PREFIX + pwd
      const sdp = description.sdp
        .replace(/^a=ice-ufrag:.*$/m, `a=ice-ufrag:${credential}`)
        .replace(/^a=ice-pwd:.*$/m, `a=ice-pwd:${credential}`)

      await super.setRemoteDescription({ type: description.type, sdp })
    }
  }
}
