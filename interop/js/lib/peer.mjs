// The js-libp2p peer of every check, in browsers and in Node: WebRTC Direct
// only, no STUN servers, identify and ping, and the echo protocol.
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { webRTCDirect } from '@libp2p/webrtc'
import { createLibp2p } from 'libp2p'

export const ECHO = '/echo/1.0.0'

// More streams than any scenario opens at once.
const MAX_STREAMS = 1024

/** Creates and starts a peer; `listen` stays empty in browsers. */
export async function createPeer ({ listen = [] } = {}) {
  const peer = await createLibp2p({
    addresses: { listen },
    transports: [webRTCDirect({
      rtcConfiguration: { iceServers: [] },
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

  await peer.handle(ECHO, echo, {
    maxInboundStreams: MAX_STREAMS,
    maxOutboundStreams: MAX_STREAMS
  })

  return peer
}

/** Sends every byte back and closes after the peer's FIN. */
async function echo (stream) {
  try {
    for await (const data of stream) {
      if (!stream.send(data.subarray())) {
        await stream.onDrain()
      }
    }

    await stream.close()
  } catch (err) {
    stream.abort(err)
  }
}
