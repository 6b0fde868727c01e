// What the driver can ask of the page: one connection at a time to a `/ws/webrtc` address.
import { describe } from '../lib/describe.mjs'
import { checkPattern, pattern } from '../lib/pattern.mjs'
import { ECHO } from '../lib/services.mjs'
import { dial, PING, PING_LENGTH } from './connection.mjs'

const CHUNK = 64 * 1024
const MIB = 1024 * 1024

let connection

const COMMANDS = {
  async connect (address) {
    connection = await dial(address)
    return { peer: connection.remotePeer.toString(), route: await connection.route() }
  },
  /** Succeeds if the dial fails. */
  async mustNotConnect (address) {
    const outcome = await dial(address).catch(err => err)

    if (!(outcome instanceof Error)) {
      outcome.close()
      throw new Error('the dial succeeded')
    }

    return { error: outcome.message }
  },
  async ping (count) {
    const stream = await connection.open(PING)
    const times = []

    for (let sent = 0; sent < count; sent++) {
      const payload = crypto.getRandomValues(new Uint8Array(PING_LENGTH))
      const start = performance.now()
      await stream.write(payload)
      const answer = await stream.readExactly(PING_LENGTH)
      times.push(performance.now() - start)

      if (answer.some((byte, index) => byte !== payload[index])) {
        throw new Error('a ping came back changed')
      }
    }

    await stream.close()
    return { average: Math.round(times.reduce((sum, ms) => sum + ms) / count), max: Math.round(Math.max(...times)) }
  },
  async echo (bytes) {
    const start = performance.now()
    await echo(bytes)
    return { bytes, mibPerSecond: Number((bytes / MIB / ((performance.now() - start) / 1000)).toFixed(1)) }
  },
  /** So many streams at once. */
  async streams (count) {
    await Promise.all(Array.from({ length: count }, async (_, index) => await echo(4096 + index)))
    return { count }
  },
  restart: async () => await connection.restart(),
  closeSocket: async () => await connection.closeSocket(),
  async close () {
    connection?.close()
    connection = undefined
  }
}

/** Writes and reads at the same time, to the ends of both directions. */
async function echo (bytes) {
  const stream = await connection.open(ECHO)
  await Promise.all([send(stream, bytes), receive(stream, bytes)])
}

async function send (stream, bytes) {
  for (let sent = 0; sent < bytes; sent += CHUNK) {
    await stream.write(pattern(sent, Math.min(CHUNK, bytes - sent)))
  }

  await stream.close()
}

async function receive (stream, bytes) {
  let received = 0

  for (let data = await stream.read(); data != null; data = await stream.read()) {
    checkPattern(received, data)
    received += data.length
  }

  if (received !== bytes) {
    throw new Error(`end of stream after ${received} of ${bytes} bytes`)
  }
}

/** Runs one command; errors become `{ error }` so that they cross every boundary. */
globalThis.execute = async (command, args) => {
  try {
    return { result: await COMMANDS[command](...args) ?? {} }
  } catch (err) {
    return { error: describe(err) }
  }
}
