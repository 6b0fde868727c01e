// A client of a DHT in a page: js-libp2p with WebRTC Direct and Kademlia, and nothing else.
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { webRTCDirect } from '@libp2p/webrtc'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { allowsMunging, installHandshakeV2 } from '../../web/src/paths/handshake-v2.ts'

/** What the Rust nodes speak, see ../dht. */
const PROTOCOL = '/libp2p-rtc/kad/1.0.0'

/** Records are under `/rtc/..`: js-libp2p wants to know by the first word of a key how to check a record. */
const NAMESPACE = 'rtc'

/** A node that has not answered by then is taken for gone. A dial takes some six round trips. */
export const DIAL_LIMIT_MS = 5000

let handshake

/** A node that can only dial, as always in a page. */
export async function createNode () {
  handshake ??= chooseHandshake()
  await handshake

  return await createLibp2p({
    transports: [webRTCDirect({ rtcConfiguration: { iceServers: [] } })],
    connectionManager: { dialTimeout: DIAL_LIMIT_MS, addressDialTimeout: DIAL_LIMIT_MS },
    // In pages js-libp2p refuses to dial private addresses, and kad-dht ignores nodes that have no others. Leave out
    // both lines where all nodes have public addresses.
    connectionGater: { denyDialMultiaddr: () => false },
    services: {
      identify: identify(),
      ping: ping(),
      dht: kadDHT({
        protocol: PROTOCOL,
        clientMode: true,
        peerInfoMapper: passthroughMapper,
        // A query waits for nodes that are gone; left alone, kad-dht would wait longer for each the more there are.
        networkDialTimeout: { maxTimeout: DIAL_LIMIT_MS },
        // Here any record is as good as another. An application checks signatures.
        validators: { [NAMESPACE]: async () => {} },
        selectors: { [NAMESPACE]: () => 0 }
      })
    }
  })
}

/** @libp2p/webrtc dials with handshake v1, which browsers begin to refuse. */
async function chooseHandshake () {
  if (!await allowsMunging()) {
    installHandshakeV2()
  }
}

/**
 * Dials all of these nodes at once. One outcome for each, in the same order: `{ peer, addresses, ms, address }` with
 * the address that answered, or `{ peer, addresses, ms, reason }` if none did in time.
 */
export async function dialAll (node, nodes) {
  return await Promise.all(nodes.map(async ({ peer, addresses }) => {
    const start = performance.now()
    const elapsed = () => Math.round(performance.now() - start)

    try {
      const connection = await node.dial(addresses.map(address => multiaddr(address)))
      return { peer, addresses, ms: elapsed(), address: connection.remoteAddr.toString() }
    } catch (err) {
      return { peer, addresses, ms: elapsed(), reason: reasonOf(err) }
    }
  }))
}

/** Why a dial failed, for people. */
function reasonOf (err) {
  switch (err.name) {
    case 'AbortError':
    case 'TimeoutError':
      return `no answer within ${DIAL_LIMIT_MS / 1000} s: the node is gone, has a new certificate, or UDP is blocked`
    case 'UnexpectedPeerError':
      return 'another node answers at this address'
    case 'DialDeniedError':
      return 'the connection gater of js-libp2p denies this address'
    case 'NoValidAddressesError':
      return 'no WebRTC Direct address'
    case 'AggregateError':
      return [...new Set(err.errors.map(reasonOf))].join('; ')
    default:
      return `${err.name}: ${err.message}`
  }
}

/** The nodes that this one has heard of, with addresses to dial them by: `[{ peer, addresses }]`. */
export async function heardOf (node) {
  const peers = await node.peerStore.all()
  return peers.map(({ id, addresses }) => contact(id, addresses.map(({ multiaddr }) => multiaddr)))
}

/** Looks up a random place of the DHT: of the nodes on the way `heardOf` tells. */
export async function lookUpAnywhere (node) {
  for await (const _ of node.peerRouting.getClosestPeers(crypto.getRandomValues(new Uint8Array(32)))) {
    // The node itself notes them.
  }
}

/**
 * The first value of a record that comes and is valid, as text. Where records change, `node.contentRouting.get` lets
 * the selector choose among those of all nodes; it waits for those that are gone, too.
 */
export async function getRecord (node, key) {
  for await (const event of node.services.dht.get(new TextEncoder().encode(key))) {
    const value = event.name === 'PEER_RESPONSE' ? event.record?.value : undefined

    if (value != null) {
      return new TextDecoder().decode(value)
    }
  }

  throw new Error('no node has this record')
}

/** The first node that is said to provide `key`: `{ peer, addresses }`. */
export async function findProvider (node, key) {
  // Provider records are found by the SHA-256 hash of what is provided.
  const cid = CID.createV1(raw.code, await sha256.digest(new TextEncoder().encode(key)))

  for await (const { id, multiaddrs } of node.contentRouting.findProviders(cid)) {
    return contact(id, multiaddrs)
  }

  throw new Error('nobody provides this')
}

/** What is stored of a node: its WebRTC Direct addresses, each with its peer id. */
function contact (id, multiaddrs) {
  return {
    peer: id.toString(),
    addresses: multiaddrs
      .map(address => address.toString())
      .filter(address => address.includes('/webrtc-direct/certhash/'))
      .map(address => address.includes('/p2p/') ? address : `${address}/p2p/${id}`)
  }
}
