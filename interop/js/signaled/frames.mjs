// The SocketPipe frames that signal a libp2p connection over a WebSocket: one in each binary message.

const HEADER = 8
const TYPES = { offer: 0x60, answer: 0x61, candidate: 0x62, ping: 0x30, pong: 0x31, close: 0x40, error: 0xf0 }
const BY_CLIENT = 1
const NAMES = new Map(Object.entries(TYPES).map(([name, type]) => [type, name]))
const utf8 = new TextEncoder()
const text = new TextDecoder()

export const encodeOffer = sdp => frame(TYPES.offer, block16(sdp))

/** An empty candidate says that there are no more. */
export const encodeCandidate = ({ candidate, sdpMid, sdpMLineIndex }) =>
  frame(TYPES.candidate, [...block16(candidate), sdpMid.length, ...utf8.encode(sdpMid), ...number16(sdpMLineIndex)])

export const encodePong = payload => frame(TYPES.pong, payload)
export const encodeClose = () => frame(TYPES.close, [0, 0, 0], BY_CLIENT)

/** What a message says: `type` and its fields. Throws if it is no frame. */
export function decode (message) {
  const view = new DataView(message)

  if (message.byteLength < HEADER || view.getUint16(2) !== 0 || view.getUint32(4) !== message.byteLength - HEADER) {
    throw new Error('a message that is no frame')
  }

  const type = NAMES.get(view.getUint8(0)) ?? `0x${view.getUint8(0).toString(16)}`
  return { type, ...fields(type, new Uint8Array(message, HEADER)) }
}

function fields (type, payload) {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)

  switch (type) {
    case 'answer':
      return { sdp: text.decode(payload.subarray(2, 2 + view.getUint16(0))) }
    case 'candidate': {
      const end = 2 + view.getUint16(0)
      const mid = end + 1 + view.getUint8(end)
      return {
        candidate: text.decode(payload.subarray(2, end)),
        sdpMid: text.decode(payload.subarray(end + 1, mid)),
        sdpMLineIndex: view.getUint16(mid)
      }
    }
    case 'ping':
      return { payload }
    case 'close':
    case 'error':
      return { code: view.getUint16(0), text: text.decode(payload.subarray(3, 3 + view.getUint8(2))) }
    default:
      return {}
  }
}

function frame (type, payload, flags = 0) {
  const bytes = new Uint8Array(HEADER + payload.length)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, type)
  view.setUint8(1, flags)
  view.setUint32(4, payload.length)
  bytes.set(payload, HEADER)
  return bytes
}

const number16 = number => [number >> 8, number & 0xff]

function block16 (string) {
  const bytes = utf8.encode(string)
  return [...number16(bytes.length), ...bytes]
}
