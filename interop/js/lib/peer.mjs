// The js-libp2p peer of every check, in browsers and in Node: WebRTC Direct
// only, no STUN servers, identify, ping and the protocols of services.mjs.
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { webRTCDirect } from '@libp2p/webrtc'
import { createLibp2p } from 'libp2p'
import { SERVICES } from './services.mjs'

// More streams than any scenario opens at once.
const MAX_STREAMS = 1024

/**
 * Creates and starts a peer; `listen` stays empty in browsers, `privateKey` and
 * `certificate` are random by default.
 */
export async function createPeer ({ listen = [], privateKey, certificate } = {}) {
  const peer = await createLibp2p({
    ...(privateKey != null ? { privateKey } : {}),
    addresses: { listen },
    transports: [webRTCDirect({
      rtcConfiguration: { iceServers: [] },
      ...(certificate != null ? { certificate } : {}),
      // The default of 10 would refuse some of 100 streams opened at once.
      maxEarlyStreams: MAX_STREAMS
    })],
    connectionManager: {
      // All checks come from one host.
      inboundConnectionThreshold: Infinity,
      // The defaults are tight for a machine that is busy building.
      dialTimeout: 15_000,
      addressDialTimeout: 12_000
    },
    // Browsers refuse private addresses unless told otherwise.
    connectionGater: { denyDialMultiaddr: async () => false },
    services: {
      identify: identify(),
      ping: ping({ maxInboundStreams: MAX_STREAMS, maxOutboundStreams: MAX_STREAMS })
    }
  })

  for (const [protocol, serve] of Object.entries(SERVICES)) {
    await peer.handle(protocol, async (stream, connection) => {
      await serve(stream, connection).catch(err => {
        console.error(`a served stream failed peer=${connection.remotePeer} protocol=${protocol} error=${err.message}`)
        stream.abort(err)
      })
    }, { maxInboundStreams: MAX_STREAMS, maxOutboundStreams: MAX_STREAMS })
  }

  return peer
}
