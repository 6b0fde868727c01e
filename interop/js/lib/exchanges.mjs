// The dialer's side of each protocol: every function does one exchange on a
// connection, returns the facts for the report, and throws where something is
// not as it must be. In browsers and in Node alike.
import { checkPattern, pattern } from './pattern.mjs'
import { ECHO, HANGUP, PERF, RESET, send } from './services.mjs'
import { delay } from './time.mjs'

const KIB = 1024
const MIB = 1024 * KIB

// Closing waits 10 s for a missing FIN_ACK, so this separates clean from timed out.
const CLOSE_LIMIT_MS = 1000

/** Pings one after the other; js-libp2p opens a stream for each and measures whole milliseconds. */
export async function pings (peer, connection, count) {
  const times = []

  for (let i = 0; i < count; i++) {
    times.push(await peer.services.ping.ping(connection.remotePeer))
  }

  return times
}

/** `bytes` bytes there and back on one stream. */
export async function echoOf (connection, bytes) {
  const start = Date.now()
  await echo(await newStream(connection, ECHO), bytes)
  return { bytes, mibPerSecond: Number((bytes / MIB / ((Date.now() - start) / 1000)).toFixed(1)) }
}

/** Uploads `bytes` bytes, closes the write side and only then gets as many back. */
export async function halfClose (connection, bytes) {
  const stream = await newStream(connection, PERF)
  const header = new Uint8Array(8)
  new DataView(header.buffer).setBigUint64(0, BigInt(bytes))
  const start = Date.now()
  stream.send(header)
  await send(stream, bytes, pattern)
  const closing = stream.close()

  let received = 0
  for await (const data of stream) {
    received += data.byteLength
  }

  if (received !== bytes) {
    throw new Error(`end of stream after ${received} of ${bytes} bytes, stream is ${stream.status}`)
  }

  await closing
  return { bytes, ms: Date.now() - start }
}

/** `count` streams, one after the other. */
export async function streamsInTurn (connection, count) {
  for (let i = 0; i < count; i++) {
    await echo(await newStream(connection, ECHO), 100)
  }

  await expectNoStreams(connection)
  return { count }
}

/** Opens `count` streams one after the other, but uses all of them together. */
export async function streamsHeld (connection, count) {
  const streams = []

  for (let i = 0; i < count; i++) {
    streams.push(await newStream(connection, ECHO))
  }

  await Promise.all(streams.map(async (stream, i) => await echo(stream, 4 * KIB + i)))
  await expectNoStreams(connection)
  return { count }
}

/** Opens `count` streams in the same moment, and writes to all before it reads to the end of any. */
export async function streamsInParallel (connection, count) {
  const streams = await Promise.all(Array.from({ length: count }, async () => await newStream(connection, ECHO)))
  const request = pattern(0, 100)
  const readings = streams.map(stream => readBytes(stream, request.length))
  readings.forEach(reading => reading.catch(() => {}))
  streams.forEach(stream => stream.send(request))
  await Promise.all(streams.map(async (stream, i) => {
    await Promise.all([stream.close(), readings[i].then(async end => await end())])
  }))
  await expectNoStreams(connection)
  return { count }
}

/** Closes a stream in use; both halves must end without js-libp2p's wait for FIN_ACK. */
export async function streamClose (connection) {
  const stream = await usedStream(connection)
  const closed = new Promise(resolve => stream.addEventListener('close', resolve))

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

/** The other side resets; reading must end with an error. */
export async function resetByPeer (connection) {
  const stream = await newStream(connection, RESET)
  stream.send(new Uint8Array(1))
  let received = 0

  try {
    for await (const data of stream) {
      received += data.byteLength
    }
  } catch (err) {
    return { received, error: `${err.name}: ${err.message}` }
  }

  throw new Error(`end of stream after ${received} bytes instead of an error, stream is ${stream.status}`)
}

/** Resets a stream that the other side is reading. */
export async function resetByUs (connection) {
  const stream = await usedStream(connection)
  stream.abort(new Error('reset by js-libp2p'))
  return { status: stream.status }
}

/** The other side closes the connection on request; returns how long that took to arrive here. */
export async function hangUp (connection) {
  const stream = await newStream(connection, HANGUP)
  const closed = closeTime(connection)
  const start = Date.now()
  stream.send(new Uint8Array(1))
  return await closed - start
}

export async function closeConnection (connection) {
  // A stream in use must not delay the close.
  await usedStream(connection)
  const at = Date.now()
  await connection.close()
  const ms = Date.now() - at

  if (connection.status !== 'closed' || ms > CLOSE_LIMIT_MS) {
    throw new Error(`connection is ${connection.status} after ${ms} ms`)
  }

  return { at, closed: ms }
}

/** Ready at the end of a stream or a connection, with that moment as Unix time in ms. */
export async function closeTime (target) {
  return await new Promise(resolve => target.addEventListener('close', () => resolve(Date.now()), { once: true }))
}

/** An echo stream that carried data already and stays open. */
export async function usedStream (connection) {
  const stream = await newStream(connection, ECHO)
  const response = readBytes(stream, KIB)
  stream.send(pattern(0, KIB))
  await response
  return stream
}

async function newStream (connection, protocol) {
  return await connection.newStream(protocol, { maxOutboundStreams: 1024 })
}

/** Writes and reads at the same time, verifies every byte, closes both halves. */
async function echo (stream, bytes) {
  const reading = readBytes(stream, bytes)
  // Without this a failing write would leave the rejected read unhandled.
  reading.catch(() => {})
  await send(stream, bytes, pattern)
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
