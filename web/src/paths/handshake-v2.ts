// @libp2p/webrtc dials with handshake v1, which rewrites the ICE credentials of the local offer. Browsers begin to
// refuse that. This turns it into a v2 dial, which leaves them alone (libp2p specs, webrtc-direct, "v2").
// Remove this once @libp2p/webrtc dials v2 itself.

const PREFIX = 'libp2p+webrtc+v2/'
const ICE_PWD = /^a=ice-pwd:([A-Za-z0-9+/]{22,239})\r?$/m

/** Whether this browser lets scripts rewrite the ICE credentials of an offer. */
export async function allowsMunging (): Promise<boolean> {
  const connection = new RTCPeerConnection()

  try {
    connection.createDataChannel('probe')
    const { sdp } = await connection.createOffer()
    const credential = 'libp2p+webrtc+v1/' + 'A'.repeat(32)
    const munged = sdp!
      .replace(/^a=ice-ufrag:.*$/m, `a=ice-ufrag:${credential}`)
      .replace(/^a=ice-pwd:.*$/m, `a=ice-pwd:${credential}`)
    await connection.setLocalDescription({ type: 'offer', sdp: munged })
    return true
  } catch {
    return false
  } finally {
    connection.close()
  }
}

/** The promise forms of what is overridden below; the callback forms are history. */
interface Promising {
  createOffer (options?: RTCOfferOptions): Promise<RTCSessionDescriptionInit>
  setLocalDescription (description?: RTCLocalSessionDescriptionInit): Promise<void>
  setRemoteDescription (description: RTCSessionDescriptionInit): Promise<void>
  readonly localDescription: RTCSessionDescription | null
}

/** Must run before @libp2p/webrtc creates its first RTCPeerConnection. */
export function installHandshakeV2 (): void {
  const Native = globalThis.RTCPeerConnection as unknown as new (configuration?: RTCConfiguration) => Promising

  class HandshakeV2 extends Native {
    // The browser's own offer; the object handed out gets rewritten by the caller.
    #offer: string | undefined

    override async createOffer (options?: RTCOfferOptions): Promise<RTCSessionDescriptionInit> {
      const offer = await super.createOffer(options)
      this.#offer = offer.sdp
      return { type: offer.type, sdp: offer.sdp }
    }

    override async setLocalDescription (description?: RTCLocalSessionDescriptionInit): Promise<void> {
      if (description?.type !== 'offer' || this.#offer == null) {
        throw new Error('handshake v2: expected the offer made by createOffer')
      }

      await super.setLocalDescription({ type: 'offer', sdp: this.#offer })
    }

    override async setRemoteDescription ({ type, sdp }: RTCSessionDescriptionInit): Promise<void> {
      // The password counts as the browser reports it, not as it was offered.
      const pwd = this.localDescription?.sdp.match(ICE_PWD)?.[1]

      if (pwd == null || sdp == null) {
        throw new Error('handshake v2: the local description has no usable ice-pwd')
      }

      const credential = PREFIX + pwd
      await super.setRemoteDescription({
        type,
        sdp: sdp
          .replace(/^a=ice-ufrag:.*$/m, `a=ice-ufrag:${credential}`)
          .replace(/^a=ice-pwd:.*$/m, `a=ice-pwd:${credential}`)
      })
    }
  }

  globalThis.RTCPeerConnection = HandshakeV2 as unknown as typeof RTCPeerConnection
}
