// What a js-libp2p peer checks when it dials, in browsers and in Node alike.
// Each scenario returns the facts for the report or throws.
import { multiaddr } from '@multiformats/multiaddr'
import { createPeer, ECHO } from './peer.mjs'
import { checkPattern, pattern } from './pattern.mjs'

const KIB = 1024
const MIB = 1024 * KIB

// Closing waits 10 s for a missing FIN_ACK, so this separates clean from timed out.
const CLOSE_LIMIT_MS = 1000

/** Scenarios on one connection, in order. The last one ends the connection. */
export const ON_CONNECTION = {
  connect: async ({ connection }) => ({ remote: connection.remoteAddr.toString() }),
  identify,
  'ping-x20': async context => await pings(context, 20),
  'echo-1MiB': async context => await echoScenario(context, MIB),
  'echo-16MiB': async context => await echoScenario(context, 16 * MIB),
  'half-close': halfClose,
  'streams-100-in-turn': streamsInTurn,
  'streams-100-held': streamsHeld,
  'streams-100-parallel': streamsInParallel,
  'stream-close': streamClose,
  'connection-close': connectionClose
}

/** A peer with at most one connection to the node under test. */
export class Dialer {
  #addr
  #peer
  #connection
  #identified
  #remoteClose

  constructor (addr) {
    this.#addr = multiaddr(addr)
  }

  /** Runs one scenario of `ON_CONNECTION`, dialing first where there is no connection. */
  async run (name) {
    const connection = await this.#connect()
    const detail = await ON_CONNECTION[name]({
      peer: this.#peer,
      connection,
      identified: this.#identified
    })

    if (name !== 'connection-close' && connection.status !== 'open') {
      throw new Error(`the connection is ${connection.status} after the scenario`)
    }

    return detail
  }

  /** Connects and proves the connection with one ping. */
  async connectAndPing () {
    const connection = await this.#connect()
    return await pings({ peer: this.#peer, connection }, 1)
  }

  /** Lets the connection idle, with js-libp2p's connection monitor left on. */
  async idle (seconds) {
    const connection = await this.#connect()
    const { promise: closed, resolve } = Promise.withResolvers()
    connection.addEventListener('close', () => resolve('closed'))
    const outcome = await Promise.race([closed, delay(seconds * 1000, 'idled')])

    if (outcome === 'closed') {
      throw new Error(`the connection closed after ${Date.now() - connection.timeline.open} ms`)
    }

    // The monitor stores what it measured every 10 s.
    if (seconds > 12 && connection.rtt == null) {
      throw new Error('the connection monitor never got an answer')
    }

    const { average } = await pings({ peer: this.#peer, connection }, 3)
    return { seconds, monitorRtt: connection.rtt, ping: average }
  }

  /** Connects and keeps one stream open; `remoteClose` then tells when both ended. */
  async awaitRemoteClose () {
    const connection = await this.#connect()
    const stream = await newStream(connection)
    stream.send(pattern(0, KIB))
    await readBytes(stream, KIB)
    this.#remoteClose = Promise.all([closeTime(stream), closeTime(connection)])
  }

  /** When the stream and the connection were seen to end, as Unix time in ms. */
  async remoteClose () {
    const [stream, connection] = await withLimit(this.#remoteClose, 40_000, 'nothing was noticed for 40 s')
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
  const peer = await createPeer()

  try {
    const connection = await peer.dial(multiaddr(addr)).catch(err => err)

    if (!(connection instanceof Error)) {
      throw new Error('the dial succeeded')
    }

    return { error: connection.message }
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
    addrs: result.listenAddrs.length
  }
}

async function pings ({ peer, connection }, count) {
  const times = []

  for (let i = 0; i < count; i++) {
    times.push(await peer.services.ping.ping(connection.remotePeer))
  }

  return {
    average: Math.round(times.reduce((sum, ms) => sum + ms) / count),
    max: Math.max(...times)
  }
}

async function echoScenario ({ connection }, bytes) {
  const start = Date.now()
  const stream = await newStream(connection)
  await echo(stream, bytes)
  const seconds = (Date.now() - start) / 1000

  return { bytes, mibPerSecond: Number((bytes / MIB / seconds).toFixed(1)) }
}

/** Writes the whole request, closes the write side and only then starts to read. */
async function halfClose ({ connection }) {
  const bytes = 48 * KIB
  const stream = await newStream(connection)
  stream.send(pattern(0, bytes))
  const closing = stream.close()

  let received = 0
  for await (const data of stream) {
    checkPattern(received, data.subarray())
    received += data.byteLength
  }

  if (received !== bytes) {
    throw new Error(`end of stream after ${received} of ${bytes} bytes`)
  }

  await closing
  return { bytes }
}

async function streamsInTurn ({ connection }) {
  for (let i = 0; i < 100; i++) {
    await echo(await newStream(connection), 100 + i)
  }

  await expectNoStreams(connection)
}

/** Opens one after the other, but uses all of them together. */
async function streamsHeld ({ connection }) {
  const streams = []

  for (let i = 0; i < 100; i++) {
    streams.push(await newStream(connection))
  }

  await Promise.all(streams.map(async (stream, i) => await echo(stream, 4 * KIB + i)))
  await expectNoStreams(connection)
}

/** Opens all of them in the same moment. */
async function streamsInParallel ({ connection }) {
  await Promise.all(Array.from({ length: 100 }, async (_, i) => {
    await echo(await newStream(connection), 4 * KIB + i)
  }))

  await expectNoStreams(connection)
}

async function streamClose ({ connection }) {
  const stream = await newStream(connection)
  const closed = new Promise(resolve => stream.addEventListener('close', resolve))
  const request = pattern(0, KIB)
  const response = readBytes(stream, request.byteLength)
  stream.send(request)
  await response

  const start = Date.now()
  await stream.close()
  const acknowledged = Date.now() - start
  await closed
  const both = Date.now() - start

  if (stream.status !== 'closed' || both > CLOSE_LIMIT_MS) {
    throw new Error(`stream is ${stream.status}, FIN_ACK after ${acknowledged} ms, closed after ${both} ms`)
  }

  return { finAck: acknowledged, closed: both }
}

async function connectionClose ({ peer, connection }) {
  // A stream in use must not delay the close.
  const stream = await newStream(connection)
  stream.send(pattern(0, KIB))
  await readBytes(stream, KIB)

  const at = Date.now()
  await connection.close()
  const ms = Date.now() - at

  if (connection.status !== 'closed' || ms > CLOSE_LIMIT_MS) {
    throw new Error(`connection is ${connection.status} after ${ms} ms`)
  }

  return { local: peer.peerId.toString(), at, closed: ms }
}

async function newStream (connection) {
  return await connection.newStream(ECHO, { maxOutboundStreams: 1024 })
}

/** Writes and reads at the same time, verifies every byte, closes both halves. */
async function echo (stream, bytes) {
  const reading = readBytes(stream, bytes)
  // Without this a failing write would leave the rejected read unhandled.
  reading.catch(() => {})

  for (let sent = 0; sent < bytes;) {
    const length = Math.min(64 * KIB, bytes - sent)
    const more = stream.send(pattern(sent, length))
    sent += length

    if (!more) {
      await stream.onDrain()
    }
  }

  await Promise.all([stream.close(), reading.then(async end => await end())])
}

/**
 * Reads and verifies `bytes` bytes; the returned function then waits for the
 * end of the stream.
 */
async function readBytes (stream, bytes) {
  const iterator = stream[Symbol.asyncIterator]()
  let received = 0

  while (received < bytes) {
    const { value, done } = await iterator.next()

    if (done) {
      throw new Error(`end of stream after ${received} of ${bytes} bytes, stream is ${stream.status}`)
    }

    checkPattern(received, value.subarray())
    received += value.byteLength
  }

  return async () => {
    const { done } = received > bytes ? { done: false } : await iterator.next()

    if (!done) {
      throw new Error(`more than ${bytes} bytes came back`)
    }
  }
}

/** Finished echo streams must leave the connection. */
async function expectNoStreams (connection) {
  const left = () => connection.streams.filter(stream => stream.protocol === ECHO).length

  for (let waited = 0; left() > 0; waited += 10) {
    if (waited >= CLOSE_LIMIT_MS) {
      throw new Error(`${left()} finished streams are still open`)
    }

    await delay(10)
  }
}

async function closeTime (target) {
  return await new Promise(resolve => target.addEventListener('close', () => resolve(Date.now())))
}

async function withLimit (promise, ms, message) {
  let timer
  const limit = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(message)), ms)
  })

  try {
    return await Promise.race([promise, limit])
  } finally {
    clearTimeout(timer)
  }
}

async function delay (ms, value) {
  return await new Promise(resolve => setTimeout(() => resolve(value), ms))
}
