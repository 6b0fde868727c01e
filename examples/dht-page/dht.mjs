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

/**
 * A node that has not answered by then is taken for gone. A dial takes some six round trips, and a page on a busy
 * machine is told a little late that its time is up: this makes it five seconds at most.
 */
export const DIAL_LIMIT_MS = 4000

/** A look-up names this many nodes, if there are so many (k of Kademlia). */
const CLOSEST = 20

/** A walk over a table: enough look-ups for one of 500 nodes, and parts of it that a few hundred hashes find a key for. */
const MAX_LOOK_UPS = 100
const MAX_DEPTH = 8
const MAX_ATTEMPTS = 3

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

/**
 * Walks over the whole table, whatever random keys would miss, and yields the nodes that each look-up told of, as
 * `heardOf` does. A look-up names the nodes closest to its key, so it names all of those in a part of the key space
 * that has fewer than it can name. Where so many turn up that this is not sure, the part is halved.
 */
export async function * walk (node) {
  const found = new Map()
  const parts = ['']

  for (let at = 0; at < parts.length && at < MAX_LOOK_UPS; at++) {
    const part = parts[at]
    const nodes = await lookUp(node, await keyIn(part))
    await Promise.all(nodes.map(async ({ peer, id }) => found.set(peer, await placeOf(id.toMultihash().bytes))))
    yield nodes.map(({ peer, addresses }) => ({ peer, addresses }))
    const inPart = [...found.values()].filter(place => place.startsWith(part)).length

    if (inPart >= CLOSEST / 2 && part.length < MAX_DEPTH) {
      parts.push(`${part}0`, `${part}1`)
    }
  }
}

/** The nodes that are named on the way to a key. Once more if too few of them answered to rely on it. */
async function lookUp (node, key) {
  const named = new Map()

  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    let answers = 0
    let failures = 0

    for await (const event of node.services.dht.getClosestPeers(key)) {
      answers += event.name === 'PEER_RESPONSE' ? 1 : 0
      failures += event.name === 'QUERY_ERROR' ? 1 : 0

      for (const { id, multiaddrs } of event.closer ?? []) {
        named.set(id.toString(), { id, ...contact(id, multiaddrs) })
      }
    }

    if (failures === 0 || answers >= CLOSEST / 2) {
      break
    }
  }

  return [...named.values()]
}

/** A key whose place in the key space begins with these bits. */
async function keyIn (part) {
  for (;;) {
    const key = crypto.getRandomValues(new Uint8Array(32))

    if ((await placeOf(key)).startsWith(part)) {
      return key
    }
  }
}

/** Where keys and nodes are in the key space, as far as `walk` looks: the first bits of the SHA-256 hash. */
async function placeOf (bytes) {
  const [first] = (await sha256.digest(bytes)).digest
  return first.toString(2).padStart(MAX_DEPTH, '0')
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
