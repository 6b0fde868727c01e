// What a session asks of a server, and what both agree on.
import {
  Capability, DEFAULT_MESSAGE_SIZE, VERSION, type Frame, type HandshakeResponse
} from './frame.ts'
import { DEFAULT_INTERVAL_S, DEFAULT_TIMEOUT_S, WISHED_INTERVAL_S } from './limits.ts'
import type { PathKind, SessionOptions } from './session-types.ts'

export interface Agreement {
  resume: boolean
  /** A data channel may be offered while the session is on a WebSocket. */
  webrtc: boolean
  intervalMs: number
  timeoutMs: number
  maxMessageSize: number
  /** The kind of path the session began on: there the server knows it by its name. */
  openedOn: PathKind
}

export function handshakeRequest ({ host, port, token, webrtc }: SessionOptions): Frame {
  return {
    type: 'handshake-request',
    capabilities: Capability.resume | (webrtc === true ? Capability.webrtc : 0),
    ...VERSION,
    port: port ?? 0,
    pingInterval: WISHED_INTERVAL_S,
    pingTimeout: 0,
    maxMessageSize: DEFAULT_MESSAGE_SIZE,
    host: host ?? '',
    token
  }
}

/**
 * On a path of another kind than the session was opened on, the token proves to the server that it is still us; on the
 * same kind the frame stays as it is published.
 */
export function resumeRequest (
  { token }: SessionOptions, id: Uint8Array, last: bigint, elsewhere: boolean
): Frame {
  return { type: 'resume-request', id, last, ...(elsewhere && token.length > 0 ? { token } : {}) }
}

/** A 0 stands for the default; what was not asked for does not count. */
export function agree (
  { webrtc }: SessionOptions, response: Extract<HandshakeResponse, { ok: true }>, openedOn: PathKind
): Agreement {
  return {
    resume: (response.capabilities & (Capability.resume | Capability.persistence)) !== 0,
    webrtc: webrtc === true && (response.capabilities & Capability.webrtc) !== 0,
    intervalMs: (response.pingInterval === 0 ? DEFAULT_INTERVAL_S : response.pingInterval) * 1000,
    timeoutMs: (response.pingTimeout === 0 ? DEFAULT_TIMEOUT_S : response.pingTimeout) * 1000,
    maxMessageSize: response.maxMessageSize === 0 ? DEFAULT_MESSAGE_SIZE : response.maxMessageSize,
    openedOn
  }
}
