// What js-libp2p checks in a browser page, where it can only dial. Each
// scenario returns the facts for the report or throws.
import { multiaddr } from '@multiformats/multiaddr'
import {
  closeConnection, closeTime, echoOf, halfClose, pings, resetByPeer, resetByUs, streamClose, streamsHeld,
  streamsInParallel, streamsInTurn, usedStream
} from './exchanges.mjs'
import { createPeer } from './peer.mjs'
import { ECHO } from './services.mjs'
import { delay, withLimit } from './time.mjs'

const MIB = 1024 * 1024

// js-libp2p's connection monitor stores what it measured every 10 s.
const MONITOR_SECONDS = 12

// What a connection that is about to be cut may take to be noticed, and a little more.
const CUT_LIMIT_MS = 40_000

// How Chromium and the specification name the refusal of a rewritten description.
const REFUSED = /InvalidModificationError|SDP (is|was) modified/i

/** Scenarios on one connection, by the name that is reported. */
const ON_CONNECTION = {
  connect: async ({ connection }) => ({ remote: connection.remoteAddr.toString() }),
  identify,
  'ping-x20': async ({ peer, connection }) => summary(await pings(peer, connection, 20)),
  'echo-1MiB': async ({ connection }) => await echoOf(connection, MIB),
  'echo-16MiB': async ({ connection }) => await echoOf(connection, 16 * MIB),
  'half-close': async ({ connection }) => await halfClose(connection, MIB),
  'streams-100-in-turn': async ({ connection }) => await streamsInTurn(connection, 100),
  'streams-100-held': async ({ connection }) => await streamsHeld(connection, 100),
  'streams-100-parallel': async ({ connection }) => await streamsInParallel(connection, 100),
  'streams-1000-in-turn': async ({ connection }) => await streamsInTurn(connection, 1000),
  'stream-close': async ({ connection }) => await streamClose(connection),
  reset: async ({ connection }) => await resetByPeer(connection),
  'reset-by-js': withLocal(resetByUs),
  'close-by-dialer': withLocal(closeConnection)
}

/** A peer with at most one connection to the node under test. */
export class Dialer {
  #addr
  #peer
  #connection
  #identified
  #ends

  constructor (addr) {
    this.#addr = multiaddr(addr)
  }

  /** Runs one scenario of `ON_CONNECTION`, dialing first where there is no connection. */
  async run (name) {
    const connection = await this.#connect()
    const detail = await ON_CONNECTION[name]({ peer: this.#peer, connection, identified: this.#identified })

    if (name !== 'close-by-dialer' && connection.status !== 'open') {
      throw new Error(`the connection is ${connection.status} after the scenario`)
    }

    return detail
  }

  /** Connects and proves the connection with one ping. */
  async connectAndPing () {
    const connection = await this.#connect()
    return { ...summary(await pings(this.#peer, connection, 1)), local: this.#peer.peerId.toString() }
  }

  /** Lets the connection idle, with js-libp2p's connection monitor left on. */
  async idle (seconds) {
    const connection = await this.#connect()
    const closed = closeTime(connection).then(() => 'closed')

    if (await Promise.race([closed, delay(seconds * 1000)]) === 'closed') {
      throw new Error(`the connection closed after ${Date.now() - connection.timeline.open} ms`)
    }

    if (seconds > MONITOR_SECONDS && connection.rtt == null) {
      throw new Error('the connection monitor never got an answer')
    }

    await echoOf(connection, 1024)
    return { seconds, monitorRtt: connection.rtt, ...summary(await pings(this.#peer, connection, 3)) }
  }

  /** Connects and keeps one stream open; `end` then tells when both ended. */
  async awaitEnd () {
    const connection = await this.#connect()
    const stream = await usedStream(connection)
    this.#ends = Promise.all([closeTime(stream), closeTime(connection)])
  }

  /** When the stream and the connection were seen to end, as Unix time in ms. */
  async end () {
    const [stream, connection] = await withLimit(this.#ends, CUT_LIMIT_MS)
    return { stream, connection }
  }

  async stop () {
    await this.#peer?.stop()
  }

  async #connect () {
    if (this.#connection?.status === 'open') {
      return this.#connection
    }

    this.#peer ??= await createPeer()
    this.#identified = new Promise(resolve => {
      this.#peer.addEventListener('peer:identify', ({ detail }) => resolve(detail), { once: true })
    })
    this.#connection = await this.#peer.dial(this.#addr)

    return this.#connection
  }
}

/** Dials an address nobody can authenticate for; succeeds if the dial fails. */
export async function mustNotConnect (addr) {
  return { error: (await failedDial(addr)).message }
}

/** Dials where the browser forbids what handshake v1 needs; succeeds if it says so. */
export async function mungingIsRefused (addr) {
  const texts = []

  for (let err = await failedDial(addr); err != null; err = err.errors?.[0] ?? err.cause) {
    texts.push(`${err.name}: ${err.message}`)
  }

  if (!texts.some(text => REFUSED.test(text))) {
    throw new Error(`the dial failed for another reason: ${texts.join(' <- ')}`)
  }

  return { error: texts.at(-1) }
}

async function failedDial (addr) {
  const peer = await createPeer()

  try {
    const outcome = await peer.dial(multiaddr(addr)).catch(err => err)

    if (!(outcome instanceof Error)) {
      throw new Error('the dial succeeded')
    }

    return outcome
  } finally {
    await peer.stop()
  }
}

/** js-libp2p identifies every new connection by itself, and only once at a time. */
async function identify ({ connection, identified }) {
  const result = await withLimit(identified, 10_000, 'no identify answer for 10 s')

  for (const protocol of ['/ipfs/ping/1.0.0', ECHO]) {
    if (!result.protocols.includes(protocol)) {
      throw new Error(`identify lists no ${protocol}: ${result.protocols.join(' ')}`)
    }
  }

  if (!result.peerId.equals(connection.remotePeer)) {
    throw new Error(`identify names ${result.peerId}`)
  }

  return {
    agent: result.agentVersion,
    observed: result.observedAddr?.toString(),
    addrs: result.listenAddrs.length,
    protocols: result.protocols
  }
}

/** Adds our peer id, by which the node under test reports what it noticed. */
function withLocal (exchange) {
  return async ({ peer, connection }) => ({ local: peer.peerId.toString(), ...await exchange(connection) })
}

function summary (times) {
  return {
    average: Math.round(times.reduce((sum, ms) => sum + ms) / times.length),
    max: Math.max(...times)
  }
}
