// What a session and its surroundings tell each other.
import type { Frame } from './frame.ts'
import type { Keepalive } from './keepalive.ts'

/** One connection to the server; a path is attached to a session once. */
export interface Path {
  readonly kind: PathKind
  /** Sends one encoded frame; must not throw when the path has already ended. */
  send: (frame: Uint8Array) => void
  /** Ends the path; frames already sent still leave. */
  close: () => void
  /** Whether DATA should wait because much has not left yet; `Session.writable` tells when it need not any more. */
  readonly congested?: boolean
}

/** `webrtc`: a libp2p stream; `channel`: a data channel beside a WebSocket. */
export type PathKind = 'webrtc' | 'websocket' | 'channel'

/** A path in use, and what watches over it. */
export interface Lane {
  readonly path: Path
  readonly keepalive: Keepalive
}

/** WebRTC messages, which the session carries and does not read. */
export type Signal = Extract<Frame, { type: 'webrtc-offer' | 'webrtc-answer' | 'ice-candidate' }>

/**
 * What became of the data channel: `used`, DATA leaves by it; `silent`, nothing comes by it although it should; `heard`,
 * something does again; `lost`, it is closed, and what it lost is being fetched by the WebSocket; `repaired`, all of that
 * is there; `given-up`, it did not come in time or is not needed, and is closed.
 */
export type ChannelNews = 'used' | 'silent' | 'heard' | 'lost' | 'repaired' | 'given-up'

export type State = 'new' | 'handshaking' | 'established' | 'disconnected' | 'closing' | 'ended'

export interface End {
  /**
   * `closed`: by a CLOSE or ERROR of the server; `local`: by our user; `failed`: the server broke the protocol;
   * `lost`: the connection broke and cannot be resumed; `refused`: no path takes the session.
   */
  cause: 'closed' | 'local' | 'failed' | 'lost' | 'refused'
  code: number
  text: string
  /** What was refused. */
  during?: Refusal['during']
}

export interface Refusal {
  during: 'handshake' | 'resume'
  code: number
  text: string
}

export interface SessionEvents {
  /** Bytes for the terminal, each exactly once and in order; `rendered` must be called for them. */
  data: (bytes: Uint8Array) => void
  state: (state: State) => void
  /** The session runs on this path now; `fresh` if it has just begun. */
  attached: (path: Path, fresh: boolean) => void
  /** The server did not take the session on this path; the path is closed. */
  refused: (path: Path, refusal: Refusal) => void
  /** The path is of no use any more and closed. */
  detached: (path: Path, reason: string) => void
  rtt: (milliseconds: number) => void
  /** The server has been silent for longer than it should, or speaks again. */
  silent: (silent: boolean) => void
  /** A WebRTC message of the server. */
  signal: (signal: Signal) => void
  channel: (news: ChannelNews) => void
  /** A data channel broke and this server repeats nothing: some output may never come. */
  outputLost: () => void
  end: (end: End) => void
}

export interface SessionOptions {
  host?: string
  port?: number
  token: Uint8Array
  env?: Array<[name: string, value: string]>
  /** Ask for a data channel beside a WebSocket. */
  webrtc?: boolean
}
