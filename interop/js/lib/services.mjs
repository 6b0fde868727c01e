// The protocols that a peer serves for its dialer (see the contract in ../README.md).

export const ECHO = '/echo/1.0.0'
export const PERF = '/perf/1.0.0'
export const RESET = '/reset/1.0.0'
export const HANGUP = '/hangup/1.0.0'

/** Bytes handed to the transport at once. */
export const CHUNK = 64 * 1024

/** What `/reset/1.0.0` sends before it resets the stream. */
const BEFORE_RESET = 1000

export const SERVICES = { [ECHO]: echo, [PERF]: perf, [RESET]: reset, [HANGUP]: hangUp }

/** Sends every byte back and closes after the peer's FIN. */
async function echo (stream) {
  for await (const data of stream) {
    if (!stream.send(data.subarray())) {
      await stream.onDrain()
    }
  }

  await stream.close()
}

/**
 * Reads to the end, then sends as many bytes as the first eight asked for.
 * Spec: https://github.com/libp2p/specs/blob/master/perf/perf.md
 */
async function perf (stream) {
  const header = new Uint8Array(8)
  let received = 0

  for await (const data of stream) {
    if (received < header.length) {
      header.set(data.subarray(0, header.length - received), received)
    }

    received += data.byteLength
  }

  if (received < header.length) {
    throw new Error(`a perf request of ${received} bytes`)
  }

  const wanted = Number(new DataView(header.buffer).getBigUint64(0))
  await send(stream, wanted, (_start, length) => new Uint8Array(length))
  await stream.close()
}

/** Answers one byte with the end of the stream that is no end of the data. */
async function reset (stream) {
  await firstByte(stream)
  stream.send(new Uint8Array(BEFORE_RESET))
  stream.abort(new Error('reset on request'))
}

/** Answers one byte with the end of the connection. */
async function hangUp (stream, connection) {
  await firstByte(stream)
  await connection.close()
}

/** Sends `bytes` bytes that `make(start, length)` makes. */
export async function send (stream, bytes, make) {
  for (let sent = 0; sent < bytes;) {
    const length = Math.min(CHUNK, bytes - sent)
    const more = stream.send(make(sent, length))
    sent += length

    if (!more) {
      await stream.onDrain()
    }
  }
}

async function firstByte (stream) {
  const { done } = await stream[Symbol.asyncIterator]().next()

  if (done) {
    throw new Error('end of the stream instead of a byte')
  }
}
