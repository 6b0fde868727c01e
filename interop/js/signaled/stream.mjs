// A libp2p stream on a data channel: protobuf messages with a length before each, flags for the ends of both directions
// (libp2p specs, webrtc: "Multiplexing").

const FLAG = { fin: 0, stopSending: 1, reset: 2, finAck: 3 }

/** Field 1, a varint; field 2, bytes. */
const TAG = { flag: 0x08, message: 0x12 }

/** A message may have 16 KiB, its framing included. */
const MAX_DATA = 16 * 1024 - 16

/** Waiting bytes above which writing pauses, as data channels do not do it themselves. */
const MAX_WAITING = 256 * 1024
const FIN_ACK_LIMIT_MS = 5000

export class ChannelStream {
  #channel
  #incoming = new Uint8Array()
  /** Data that nobody has read. */
  #unread = []
  #ended = false
  #error
  #wake = () => {}
  #acknowledged = Promise.withResolvers()
  #finished = false

  constructor (channel) {
    this.#channel = channel
    this.#acknowledged.promise.catch(() => {})
    channel.binaryType = 'arraybuffer'
    channel.bufferedAmountLowThreshold = MAX_WAITING / 2
    channel.addEventListener('message', ({ data }) => this.#receive(new Uint8Array(data)))
    channel.addEventListener('close', () => this.#fail(new Error('the data channel closed')))
  }

  /** The next bytes, or nothing at the end. */
  async read () {
    while (this.#unread.length === 0) {
      if (this.#ended) {
        return undefined
      }

      if (this.#error != null) {
        throw this.#error
      }

      await new Promise(resolve => { this.#wake = resolve })
    }

    return this.#unread.shift()
  }

  /** So many bytes, not fewer. */
  async readExactly (length) {
    const bytes = new Uint8Array(length)

    for (let filled = 0; filled < length;) {
      const data = await this.read()

      if (data == null) {
        throw new Error(`end of stream after ${filled} of ${length} bytes`)
      }

      const part = data.subarray(0, length - filled)
      bytes.set(part, filled)
      filled += part.length

      if (part.length < data.length) {
        this.#unread.unshift(data.subarray(part.length))
      }
    }

    return bytes
  }

  async write (bytes) {
    for (let sent = 0; sent < bytes.length; sent += MAX_DATA) {
      await this.#room()
      this.#send({ message: bytes.subarray(sent, sent + MAX_DATA) })
    }
  }

  /** No more bytes follow; ready when the other side knows. */
  async close () {
    this.#send({ flag: FLAG.fin })
    this.#finished = true
    const timer = setTimeout(() => this.#acknowledged.reject(new Error('no FIN_ACK')), FIN_ACK_LIMIT_MS)
    await this.#acknowledged.promise.finally(() => clearTimeout(timer))
    this.#closeIfOver()
  }

  reset () {
    this.#send({ flag: FLAG.reset })
    this.#channel.close()
  }

  async #room () {
    if (this.#error != null) {
      throw this.#error
    }

    if (this.#channel.readyState === 'connecting') {
      await new Promise((resolve, reject) => {
        this.#channel.addEventListener('open', resolve, { once: true })
        this.#channel.addEventListener('close', () => reject(new Error('the data channel did not open')), { once: true })
      })
    }

    if (this.#channel.bufferedAmount > MAX_WAITING) {
      await new Promise(resolve => this.#channel.addEventListener('bufferedamountlow', resolve, { once: true }))
    }
  }

  #send ({ flag, message }) {
    const parts = [
      ...(flag == null ? [] : [Uint8Array.of(TAG.flag, flag)]),
      ...(message == null ? [] : [Uint8Array.of(TAG.message, ...varint(message.length)), message])
    ]
    const length = parts.reduce((sum, part) => sum + part.length, 0)
    this.#channel.send(concat([Uint8Array.from(varint(length)), ...parts]))
  }

  #receive (data) {
    this.#incoming = concat([this.#incoming, data])

    for (;;) {
      const length = readVarint(this.#incoming, 0)

      if (length == null || this.#incoming.length < length.end + length.value) {
        return
      }

      this.#handle(decodeMessage(this.#incoming.subarray(length.end, length.end + length.value)))
      this.#incoming = this.#incoming.slice(length.end + length.value)
    }
  }

  #handle ({ flag, message }) {
    if (message?.length > 0 && !this.#ended) {
      this.#unread.push(message.slice())
    }

    if (flag === FLAG.fin) {
      this.#ended = true
      this.#send({ flag: FLAG.finAck })
      this.#closeIfOver()
    } else if (flag === FLAG.finAck) {
      this.#acknowledged.resolve()
    } else if (flag === FLAG.reset) {
      this.#fail(new Error('the stream was reset'))
    }

    this.#wake()
  }

  #fail (error) {
    this.#error ??= error
    this.#acknowledged.reject(this.#error)
    this.#wake()
  }

  /** Whoever sees the end of both directions closes the channel. */
  #closeIfOver () {
    if (this.#ended && this.#finished) {
      this.#acknowledged.promise.then(() => this.#channel.close(), () => {})
    }
  }
}

function decodeMessage (bytes) {
  const message = {}

  for (let at = 0; at < bytes.length;) {
    const value = readVarint(bytes, at + 1)

    if (value == null || (bytes[at] !== TAG.flag && bytes[at] !== TAG.message)) {
      throw new Error('a message that is not as agreed')
    }

    if (bytes[at] === TAG.flag) {
      message.flag = value.value
      at = value.end
    } else {
      message.message = bytes.subarray(value.end, value.end + value.value)
      at = value.end + value.value
    }
  }

  return message
}

export function varint (number) {
  const bytes = []

  for (; number > 0x7f; number >>>= 7) {
    bytes.push((number & 0x7f) | 0x80)
  }

  return [...bytes, number]
}

/** A number and where it ends, or nothing if it is not whole yet. */
function readVarint (bytes, start) {
  let value = 0

  for (let at = start; at < bytes.length; at++) {
    value |= (bytes[at] & 0x7f) << (7 * (at - start))

    if (bytes[at] < 0x80) {
      return { value, end: at + 1 }
    }
  }

  return undefined
}

export function concat (parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0

  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }

  return bytes
}
