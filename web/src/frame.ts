// The SocketPipe frames: encoding, decoding and the caps on their sizes.
// Used by the session and the paths. Knows neither order nor state of a session.
import { ErrorCode, FrameError } from './codes.ts'
import { concat, HEADER_LENGTH, Reader, Writer } from './fields.ts'

export { CloseCode, ErrorCode, FrameError } from './codes.ts'

export const VERSION = { major: 1, minor: 0 } as const

/** Largest DATA payload unless the handshake says otherwise. */
export const DEFAULT_MESSAGE_SIZE = 65_536

/** Bits of the flags byte in both handshake frames. */
export const Capability = { resume: 0x02, persistence: 0x04, webrtc: 0x40 } as const

export interface HandshakeRequest {
  type: 'handshake-request'
  capabilities: number
  major: number
  minor: number
  port: number
  pingInterval: number
  pingTimeout: number
  maxMessageSize: number
  host: string
  token: Uint8Array
}

export type HandshakeResponse =
  | {
    type: 'handshake-response'
    ok: true
    capabilities: number
    major: number
    minor: number
    pingInterval: number
    pingTimeout: number
    maxMessageSize: number
  }
  | { type: 'handshake-response', ok: false, code: number, text: string }

export interface Data {
  type: 'data'
  /** Set while Session Resume is on. */
  number?: bigint
  data: Uint8Array
}

export interface Resize {
  type: 'resize'
  columns: number
  rows: number
  width: number
  height: number
}

export interface ResumeRequest {
  type: 'resume-request'
  id: Uint8Array
  last: bigint
  /** Appended after the published fields, on another kind of path than the session was opened on. */
  token?: Uint8Array
}

export type ResumeResponse =
  | {
    type: 'resume-response'
    ok: true
    start: bigint
    count: number
    /** Appended: the last number the server received from us. */
    lastFromClient?: bigint
  }
  | { type: 'resume-response', ok: false, code: number, text: string }

export type Frame =
  | HandshakeRequest
  | HandshakeResponse
  | Data
  | Resize
  | { type: 'signal', signal: number }
  | { type: 'env', name: string, value: string }
  | { type: 'flow-control', on: boolean }
  | { type: 'ping', payload: Uint8Array }
  | { type: 'pong', payload: Uint8Array }
  | { type: 'close', byClient: boolean, code: number, text: string }
  | { type: 'error', code: number, text: string }
  | { type: 'session-id', id: Uint8Array, timeout: number, bufferSize: number }
  | ResumeRequest
  | ResumeResponse
  | { type: 'webrtc-offer', sdp: string }
  | { type: 'webrtc-answer', sdp: string }
  | { type: 'ice-candidate', candidate: string, mid: string, line: number }
  | { type: 'webrtc-ready' }
  | { type: 'unknown', code: number }

const Type = {
  handshakeRequest: 0x01,
  handshakeResponse: 0x02,
  data: 0x10,
  resize: 0x20,
  signal: 0x21,
  env: 0x22,
  flowControl: 0x23,
  ping: 0x30,
  pong: 0x31,
  close: 0x40,
  sessionId: 0x50,
  resumeRequest: 0x51,
  resumeResponse: 0x52,
  webrtcOffer: 0x60,
  webrtcAnswer: 0x61,
  iceCandidate: 0x62,
  webrtcReady: 0x63,
  error: 0xf0
} as const

const SUCCESS = 0x01
const NUMBERED = 0x02
const XON = 0x01
const BY_CLIENT = 0x01

const NUMBER_LENGTH = 8
const KIB = 1024

// A number may come on top of the negotiated size.
const dataCap = (maxMessageSize: number): number => maxMessageSize + NUMBER_LENGTH

/** The longest payload taken for a frame type, checked before anything is kept. */
function payloadCap (type: number, maxMessageSize: number): number {
  switch (type) {
    case Type.handshakeRequest:
    case Type.resumeRequest: return 16 * KIB
    case Type.data: return dataCap(maxMessageSize)
    case Type.ping:
    case Type.pong: return KIB
    case Type.webrtcOffer:
    case Type.webrtcAnswer: return 65_537
    default: return isKnown(type) ? 4 * KIB : dataCap(maxMessageSize)
  }
}

const KNOWN = new Set<number>(Object.values(Type))
const isKnown = (type: number): boolean => KNOWN.has(type)

const utf8 = new TextEncoder()

export function encode (frame: Frame): Uint8Array {
  switch (frame.type) {
    case 'handshake-request':
      return build(Type.handshakeRequest, frame.capabilities, writer => {
        writer.u8(frame.major).u8(frame.minor).u16(frame.port)
        writer.u16(frame.pingInterval).u16(frame.pingTimeout).u32(frame.maxMessageSize)
        writer.block8(utf8.encode(frame.host)).block16(frame.token)
      })
    case 'handshake-response':
      return frame.ok
        ? build(Type.handshakeResponse, frame.capabilities | SUCCESS, writer => {
          writer.u8(frame.major).u8(frame.minor)
          writer.u16(frame.pingInterval).u16(frame.pingTimeout).u32(frame.maxMessageSize)
        })
        : build(Type.handshakeResponse, 0, writer => writer.failure(frame.code, frame.text))
    case 'data':
      return build(Type.data, frame.number == null ? 0 : NUMBERED, writer => {
        if (frame.number != null) {
          writer.u64(frame.number)
        }

        writer.bytes(frame.data)
      })
    case 'resize':
      return build(Type.resize, 0, writer => {
        writer.u16(frame.columns).u16(frame.rows).u16(frame.width).u16(frame.height)
      })
    case 'signal': return build(Type.signal, 0, writer => writer.u8(frame.signal))
    case 'env':
      return build(Type.env, 0, writer => {
        writer.block8(utf8.encode(frame.name)).block16(utf8.encode(frame.value))
      })
    case 'flow-control': return build(Type.flowControl, frame.on ? XON : 0)
    case 'ping': return build(Type.ping, 0, writer => writer.bytes(frame.payload))
    case 'pong': return build(Type.pong, 0, writer => writer.bytes(frame.payload))
    case 'close':
      return build(Type.close, frame.byClient ? BY_CLIENT : 0, writer => writer.failure(frame.code, frame.text))
    case 'error': return build(Type.error, 0, writer => writer.failure(frame.code, frame.text))
    default: return encodeExtension(frame)
  }
}

type ExtensionFrame = Extract<Frame, {
  type: 'session-id' | 'resume-request' | 'resume-response' | 'webrtc-offer' | 'webrtc-answer' |
    'ice-candidate' | 'webrtc-ready' | 'unknown'
}>

function encodeExtension (frame: ExtensionFrame): Uint8Array {
  switch (frame.type) {
    case 'session-id':
      return build(Type.sessionId, 0, writer => {
        writer.block8(frame.id).u32(frame.timeout).u32(frame.bufferSize)
      })
    case 'resume-request':
      return build(Type.resumeRequest, 0, writer => {
        writer.block8(frame.id).u64(frame.last)

        if (frame.token != null) {
          writer.block16(frame.token)
        }
      })
    case 'resume-response':
      return frame.ok
        ? build(Type.resumeResponse, SUCCESS, writer => {
          writer.u64(frame.start).u32(frame.count)

          if (frame.lastFromClient != null) {
            writer.u64(frame.lastFromClient)
          }
        })
        : build(Type.resumeResponse, 0, writer => writer.failure(frame.code, frame.text))
    case 'webrtc-offer': return build(Type.webrtcOffer, 0, writer => writer.block16(utf8.encode(frame.sdp)))
    case 'webrtc-answer': return build(Type.webrtcAnswer, 0, writer => writer.block16(utf8.encode(frame.sdp)))
    case 'ice-candidate':
      return build(Type.iceCandidate, 0, writer => {
        writer.block16(utf8.encode(frame.candidate)).block8(utf8.encode(frame.mid)).u16(frame.line)
      })
    case 'webrtc-ready': return build(Type.webrtcReady, 0)
    case 'unknown': throw new TypeError('a frame of unknown type cannot be sent')
  }
}

/** Decodes a message that must be exactly one frame, as on a WebSocket. */
export function decode (message: Uint8Array, maxMessageSize = DEFAULT_MESSAGE_SIZE): Frame {
  if (message.length < HEADER_LENGTH) {
    throw new FrameError(ErrorCode.invalidMessage, 'a frame shorter than its header')
  }

  const { type, flags, length } = readHeader(message, maxMessageSize)

  if (message.length !== HEADER_LENGTH + length) {
    throw new FrameError(ErrorCode.invalidMessage, 'the length of a frame differs from that of its message')
  }

  return decodePayload(type, flags, message.subarray(HEADER_LENGTH))
}

/** Cuts a byte stream into frames. */
export class FrameReader {
  readonly #maxMessageSize: number
  #chunks: Uint8Array[] = []
  #buffered = 0

  constructor (maxMessageSize = DEFAULT_MESSAGE_SIZE) {
    this.#maxMessageSize = maxMessageSize
  }

  /** Takes bytes as they come and returns the frames they complete. */
  push (bytes: Uint8Array): Frame[] {
    const frames: Frame[] = []

    if (bytes.length > 0) {
      this.#chunks.push(bytes)
      this.#buffered += bytes.length
    }

    for (;;) {
      const frame = this.#next()

      if (frame == null) {
        return frames
      }

      frames.push(frame)
    }
  }

  /** True if the stream ended inside a frame. */
  get hasPartialFrame (): boolean {
    return this.#buffered > 0
  }

  #next (): Frame | undefined {
    if (this.#buffered < HEADER_LENGTH) {
      return undefined
    }

    const { type, flags, length } = readHeader(this.#peek(HEADER_LENGTH), this.#maxMessageSize)

    if (this.#buffered < HEADER_LENGTH + length) {
      return undefined
    }

    return decodePayload(type, flags, this.#take(HEADER_LENGTH + length).subarray(HEADER_LENGTH))
  }

  /** The first `length` bytes in one piece; they stay buffered. */
  #peek (length: number): Uint8Array {
    const first = this.#chunks[0]

    if (first == null || first.length < length) {
      this.#chunks = [concat(this.#chunks, this.#buffered)]
    }

    return this.#chunks[0]!.subarray(0, length)
  }

  #take (length: number): Uint8Array {
    const taken = this.#peek(length)
    const rest = this.#chunks[0]!.subarray(length)

    if (rest.length > 0) {
      this.#chunks[0] = rest
    } else {
      this.#chunks.shift()
    }

    this.#buffered -= length
    return taken
  }
}

function readHeader (bytes: Uint8Array, maxMessageSize: number): { type: number, flags: number, length: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_LENGTH)
  const type = view.getUint8(0)
  const length = view.getUint32(4)

  if (view.getUint16(2) !== 0) {
    throw new FrameError(ErrorCode.invalidMessage, 'the reserved field of a frame is not zero')
  }

  if (length > payloadCap(type, maxMessageSize)) {
    throw new FrameError(ErrorCode.messageTooLarge, `a frame of type 0x${type.toString(16)} with ${length} bytes`)
  }

  return { type, flags: view.getUint8(1), length }
}

function decodePayload (type: number, flags: number, payload: Uint8Array): Frame {
  const reader = new Reader(payload)

  switch (type) {
    case Type.handshakeRequest: return decodeHandshakeRequest(flags, reader)
    case Type.handshakeResponse: return decodeHandshakeResponse(flags, reader)
    case Type.data:
      return (flags & NUMBERED) !== 0
        ? { type: 'data', number: reader.u64(), data: reader.rest() }
        : { type: 'data', data: payload }
    case Type.resize:
      return { type: 'resize', columns: reader.u16(), rows: reader.u16(), width: reader.u16(), height: reader.u16() }
    case Type.signal: return { type: 'signal', signal: reader.u8() }
    case Type.env: return { type: 'env', name: reader.text8(), value: reader.text16() }
    case Type.flowControl: return { type: 'flow-control', on: (flags & XON) !== 0 }
    case Type.ping: return { type: 'ping', payload }
    case Type.pong: return { type: 'pong', payload }
    case Type.close: return { type: 'close', byClient: (flags & BY_CLIENT) !== 0, ...reader.failure() }
    case Type.error: return { type: 'error', ...reader.failure() }
    default: return decodeExtension(type, flags, reader)
  }
}

function decodeExtension (type: number, flags: number, reader: Reader): Frame {
  switch (type) {
    case Type.sessionId:
      return { type: 'session-id', id: reader.block8(), timeout: reader.u32(), bufferSize: reader.u32() }
    case Type.resumeRequest: return decodeResumeRequest(reader)
    case Type.resumeResponse:
      return (flags & SUCCESS) !== 0
        ? {
            type: 'resume-response',
            ok: true,
            start: reader.u64(),
            count: reader.u32(),
            ...(reader.left >= NUMBER_LENGTH ? { lastFromClient: reader.u64() } : {})
          }
        : { type: 'resume-response', ok: false, ...reader.failure() }
    case Type.webrtcOffer: return { type: 'webrtc-offer', sdp: reader.text16() }
    case Type.webrtcAnswer: return { type: 'webrtc-answer', sdp: reader.text16() }
    case Type.iceCandidate:
      return { type: 'ice-candidate', candidate: reader.text16(), mid: reader.text8(), line: reader.u16() }
    case Type.webrtcReady: return { type: 'webrtc-ready' }
    default: return { type: 'unknown', code: type }
  }
}

function decodeHandshakeRequest (capabilities: number, reader: Reader): HandshakeRequest {
  return {
    type: 'handshake-request',
    capabilities,
    major: reader.u8(),
    minor: reader.u8(),
    port: reader.u16(),
    pingInterval: reader.u16(),
    pingTimeout: reader.u16(),
    maxMessageSize: reader.u32(),
    host: reader.strictText8(),
    token: reader.block16()
  }
}

function decodeHandshakeResponse (flags: number, reader: Reader): HandshakeResponse {
  if ((flags & SUCCESS) === 0) {
    return { type: 'handshake-response', ok: false, ...reader.failure() }
  }

  return {
    type: 'handshake-response',
    ok: true,
    capabilities: flags & ~SUCCESS,
    major: reader.u8(),
    minor: reader.u8(),
    pingInterval: reader.u16(),
    pingTimeout: reader.u16(),
    maxMessageSize: reader.u32()
  }
}

function decodeResumeRequest (reader: Reader): ResumeRequest {
  const request: ResumeRequest = { type: 'resume-request', id: reader.block8(), last: reader.u64() }

  // Whatever else may follow is not ours to judge.
  const token = reader.optionalBlock16()
  return token == null ? request : { ...request, token }
}

function build (type: number, flags: number, write?: (writer: Writer) => unknown): Uint8Array {
  const writer = new Writer(type, flags)
  write?.(writer)
  return writer.finish()
}
