// The direct path: a libp2p stream over WebRTC Direct. One libp2p node per page, whose peer id stays the same as long
// as the page lives; one connection and one stream per path, because a dead connection takes seconds to be noticed.
import { identify } from '@libp2p/identify'
import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { webRTCDirect } from '@libp2p/webrtc'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { type FrameError, FrameReader } from '../frame.ts'
import type { Path } from '../session-types.ts'
import { DialError, type PathEvents } from './dial.ts'
import { allowsMunging, installHandshakeV2 } from './handshake-v2.ts'

const PROTOCOL = '/socketpipe/pty/1.0.0'
const CLOSE_LIMIT_MS = 2000

let node: Promise<Libp2p> | undefined

// No names: js-libp2p would ask public DNS servers for them.
const USABLE = /^\/ip[46]\/[^/]+\/udp\/\d+\/webrtc-direct\/certhash\/[^/]+\/(certhash\/[^/]+\/)*p2p\/[^/]+$/

/** Those of an invitation's addresses a browser can dial. */
export function usableAddresses (addresses: string[]): string[] {
  return addresses.filter(address => USABLE.test(address))
}

/** Dials the first address that answers; rejects with a sentence for people. */
export async function dialLibp2p (addresses: string[], events: PathEvents, signal: AbortSignal): Promise<Path> {
  if (globalThis.RTCPeerConnection == null) {
    throw new DialError('This browser has no WebRTC, or it is turned off.')
  }

  const connection = await connect(addresses, signal)

  try {
    const stream = await connection.newStream(PROTOCOL, { signal })
    return bind(connection, stream, events)
  } catch {
    endConnection(connection)
    throw new DialError('The node was reached, but it offers no terminal (/socketpipe/pty).')
  }
}

async function connect (addresses: string[], signal: AbortSignal): Promise<Connection> {
  let dialed

  try {
    dialed = addresses.map(address => multiaddr(address))
  } catch {
    throw new DialError('The invitation has an address that is not valid.')
  }

  try {
    node ??= createNode()
    return await dialAfresh(await node, dialed, signal)
  } catch (err) {
    console.debug('webrtc-direct:', err)
    throw new DialError('No direct connection: the node does not answer over UDP, or a firewall is in the way.')
  }
}

/** js-libp2p lets a dial join another one to the same peer, even one that is just being aborted, and end with it. */
async function dialAfresh (node: Libp2p, addresses: Multiaddr[], signal: AbortSignal): Promise<Connection> {
  try {
    return await node.dial(addresses, { signal, force: true })
  } catch (err) {
    if ((err as Error).name !== 'AbortError' || signal.aborted) {
      throw err
    }

    return await node.dial(addresses, { signal, force: true })
  }
}

async function createNode (): Promise<Libp2p> {
  if (!await allowsMunging()) {
    installHandshakeV2()
  }

  return await createLibp2p({
    addresses: { listen: [] },
    transports: [webRTCDirect({ rtcConfiguration: { iceServers: [] } })],
    connectionManager: { dialTimeout: 15_000, addressDialTimeout: 10_000, reconnectRetries: 0 },
    // The session has its own keep-alive.
    connectionMonitor: { enabled: false },
    // Terminals are often in private networks.
    connectionGater: { denyDialMultiaddr: async () => false },
    nodeInfo: { name: 'socketpipe-web', version: '1', userAgent: 'socketpipe-web/1' },
    services: { identify: identify({ runOnConnectionOpen: false }) }
  })
}

function bind (connection: Connection, stream: Stream, events: PathEvents): Path {
  const reader = new FrameReader()
  let open = true

  const path: Path = {
    kind: 'webrtc',
    send: frame => {
      try {
        stream.send(frame)
      } catch {
        // The close event tells.
      }
    },
    close: () => {
      open = false
      void endStream(stream).then(() => endConnection(connection))
    }
  }

  const lost = (reason: string): void => {
    if (open) {
      open = false
      endConnection(connection)
      events.lost(path, reason)
    }
  }

  stream.addEventListener('message', ({ data }) => {
    if (!open) {
      return
    }

    try {
      for (const frame of reader.push(data.subarray().slice())) {
        events.frame(path, frame)
      }
    } catch (err) {
      events.malformed(path, err as FrameError)
      path.close()
    }
  })
  stream.addEventListener('remoteCloseWrite', () => lost('the node closed the stream'))
  stream.addEventListener('close', () => lost('the stream ended'))
  connection.addEventListener('close', () => lost('the connection ended'))

  return path
}

async function endStream (stream: Stream): Promise<void> {
  await stream.close({ signal: AbortSignal.timeout(CLOSE_LIMIT_MS) })
    .catch((err: unknown) => stream.abort(err as Error))
}

function endConnection (connection: Connection): void {
  connection.close({ signal: AbortSignal.timeout(CLOSE_LIMIT_MS) })
    .catch((err: unknown) => connection.abort(err as Error))
}
