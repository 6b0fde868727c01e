#!/usr/bin/env node
// A js-libp2p listener on Node, with the same contract as `node listen` of
// libp2p-rtc: one JSON line per address, then identify, ping and echo until
// SIGINT or SIGTERM. In addition it prints {"event":"open"|"close"} lines, and
// SIGUSR2 makes it close all connections.
import './lib/node20.mjs'
import { createPeer } from './lib/peer.mjs'

const args = process.argv.slice(2).filter(arg => arg !== 'listen')
const peer = await createPeer({ listen: [args[0] ?? '/ip4/0.0.0.0/udp/0/webrtc-direct'] })

for (const event of ['open', 'close']) {
  peer.addEventListener(`connection:${event}`, ({ detail }) => {
    print({ event, peer: detail.remotePeer.toString(), at: Date.now() })
  })
}

process.on('SIGUSR2', () => {
  for (const connection of peer.getConnections()) {
    connection.close().catch(err => connection.abort(err))
  }
})

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, async () => {
    // Stopping waits for peers that may be gone.
    setTimeout(() => process.exit(0), 2000).unref()
    await peer.stop()
    process.exit(0)
  })
}

for (const addr of peer.getMultiaddrs()) {
  print({ addr: addr.toString() })
}

function print (value) {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}
