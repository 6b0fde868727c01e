// multistream-select 1.0: which protocol a stream speaks.
import { concat, varint } from './stream.mjs'

const VERSION = '/multistream/1.0.0'
const NOT_AVAILABLE = 'na'
const MAX_LINE = 1024
const utf8 = new TextEncoder()

/** Asks for a protocol on a stream of ours. */
export async function select (stream, protocol) {
  await stream.write(concat([line(VERSION), line(protocol)]))
  expect(await readLine(stream), VERSION)
  expect(await readLine(stream), protocol)
}

/** Answers on a stream of theirs; the protocol that was agreed on, or nothing if it ended without. */
export async function answer (stream, protocols) {
  expect(await readLine(stream), VERSION)
  await stream.write(line(VERSION))

  for (;;) {
    const wanted = await readLine(stream)

    if (protocols.includes(wanted)) {
      await stream.write(line(wanted))
      return wanted
    }

    await stream.write(line(NOT_AVAILABLE))
  }
}

function expect (line, wanted) {
  if (line !== wanted) {
    throw new Error(`multistream-select: "${line}" in place of "${wanted}"`)
  }
}

function line (text) {
  const bytes = utf8.encode(`${text}\n`)
  return concat([Uint8Array.from(varint(bytes.length)), bytes])
}

async function readLine (stream) {
  let length = 0

  for (let shift = 0; ; shift += 7) {
    const [byte] = await stream.readExactly(1)
    length |= (byte & 0x7f) << shift

    if (byte < 0x80) {
      break
    }
  }

  if (length > MAX_LINE) {
    throw new Error('multistream-select: a long line')
  }

  const text = new TextDecoder().decode(await stream.readExactly(length))
  return text.replace(/\n$/, '')
}
