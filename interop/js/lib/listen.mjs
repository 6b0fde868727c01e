// `peer.mjs listen`: prints its addresses and serves until SIGINT or SIGTERM.
import { createPeer } from './peer.mjs'
import { listenV2 } from './handshake-v2-node.mjs'
import { fromSeed } from './seed.mjs'
import { print } from './print.mjs'
import { withLimit } from './time.mjs'

const DEFAULT_ADDR = '/ip4/127.0.0.1/udp/0/webrtc-direct'

// Stopping waits for peers that may be gone.
const STOP_LIMIT_MS = 2000

export async function listen (addr = DEFAULT_ADDR, { seed, events }) {
  listenV2()
  const stopped = stopSignal()
  const peer = await createPeer({ listen: [addr], ...(seed != null ? await fromSeed(seed) : {}) })

  if (events) {
    peer.addEventListener('connection:open', ({ detail }) => {
      print({ event: 'connected', peer: detail.remotePeer.toString() })
    })
    peer.addEventListener('connection:close', ({ detail }) => {
      print({ event: 'closed', peer: detail.remotePeer.toString(), detail: detail.status })
    })
  }

  for (const addr of peer.getMultiaddrs()) {
    print({ addr: addr.toString() })
  }

  await stopped
  await withLimit(peer.stop(), STOP_LIMIT_MS).catch(err => console.error(`stop: ${err.message}`))
  return 0
}

async function stopSignal () {
  await new Promise(resolve => {
    for (const signal of ['SIGINT', 'SIGTERM']) {
      process.once(signal, resolve)
    }
  })
}
