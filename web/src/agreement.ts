// What a session asks of a server, and what both agree on.
import {
  Capability, DEFAULT_MESSAGE_SIZE, VERSION, type Frame, type HandshakeResponse
} from './frame.ts'
import { DEFAULT_INTERVAL_S, DEFAULT_TIMEOUT_S, MAX_RESUME_TOKEN, WISHED_INTERVAL_S } from './limits.ts'
import type { SessionOptions } from './session-types.ts'

export interface Agreement {
  resume: boolean
  intervalMs: number
  timeoutMs: number
  maxMessageSize: number
}

export function handshakeRequest ({ host, port, token }: SessionOptions): Frame {
  return {
    type: 'handshake-request',
    capabilities: Capability.resume,
    ...VERSION,
    port: port ?? 0,
    pingInterval: WISHED_INTERVAL_S,
    pingTimeout: 0,
    maxMessageSize: DEFAULT_MESSAGE_SIZE,
    host: host ?? '',
    token
  }
}

export function resumeRequest ({ token }: SessionOptions, id: Uint8Array, last: bigint): Frame {
  const fits = token.length > 0 && token.length <= MAX_RESUME_TOKEN
  return { type: 'resume-request', id, last, ...(fits ? { token } : {}) }
}

/** A 0 stands for the default. */
export function agree (response: Extract<HandshakeResponse, { ok: true }>): Agreement {
  return {
    resume: (response.capabilities & (Capability.resume | Capability.persistence)) !== 0,
    intervalMs: (response.pingInterval === 0 ? DEFAULT_INTERVAL_S : response.pingInterval) * 1000,
    timeoutMs: (response.pingTimeout === 0 ? DEFAULT_TIMEOUT_S : response.pingTimeout) * 1000,
    maxMessageSize: response.maxMessageSize === 0 ? DEFAULT_MESSAGE_SIZE : response.maxMessageSize
  }
}
