// What the page says about refusals, ends and trouble, for people who do not know the protocol.
import { CloseCode, ErrorCode } from './codes.ts'
import type { End, PathKind, Refusal } from './session-types.ts'
import type { Carrier } from './upgrader.ts'

const REFUSALS: Record<number, string> = {
  [ErrorCode.authFailed]: 'The server does not accept this invitation. It may have been used already or withdrawn.',
  [ErrorCode.authExpired]: 'This invitation has expired. Ask for a new one.',
  [ErrorCode.authInsufficient]: 'This invitation does not allow what it asks for.',
  [ErrorCode.connectFailed]: 'The server could not start the terminal.',
  [ErrorCode.connectTimeout]: 'The server reached nobody at the target: it did not answer in time.',
  [ErrorCode.connectRefused]: 'The target refused the connection of the server.',
  [ErrorCode.backendClosed]: 'The terminal ended before it began.',
  [ErrorCode.messageTooLarge]: 'The server considers the request too large.',
  [ErrorCode.unsupportedVersion]: 'The server speaks another version of the protocol.',
  [ErrorCode.sessionNotFound]: 'The server does not have this session any more.',
  [ErrorCode.sessionExpired]: 'The session was without a connection for too long; the server ended it.',
  [ErrorCode.bufferOverflow]: 'Too much output came while there was no connection; the session cannot be continued.',
  [ErrorCode.sequenceMismatch]: 'Server and page disagree about what was sent; the session cannot be continued.'
}

const CLOSES: Record<number, string> = {
  [CloseCode.normal]: 'The server closed the session.',
  [CloseCode.user]: 'The session was closed by a user.',
  [CloseCode.pingTimeout]: 'The server closed the session because this page did not answer.',
  [CloseCode.goingAway]: 'The server is shutting down.',
  [CloseCode.replaced]: 'The session was taken over by another connection.',
  [CloseCode.detached]: 'The session was detached.',
  [CloseCode.idle]: 'The server closed the session because it was idle for too long.',
  [CloseCode.policy]: 'An administrator or a rule of the server closed the session.',
  [ErrorCode.backendClosed]: 'The program on the server ended.'
}

export interface Sentence {
  text: string
  /** What the server said itself, if it adds anything. */
  detail?: string
  /** Whether all went well. */
  good: boolean
}

export function describeRefusal ({ code, text }: Refusal): string {
  return withRemark(REFUSALS[code] ?? `The server refused (code ${code}).`, text)
}

export function describeEnd (end: End): Sentence {
  switch (end.cause) {
    case 'local': return { text: 'You ended the session.', good: true }
    case 'lost':
      return { text: 'The connection was lost, and this server cannot continue a session.', detail: end.text, good: false }
    case 'failed':
      return { text: 'The server did not keep to the protocol.', detail: `${end.text} (code ${end.code})`, good: false }
    case 'refused':
      return end.code === 0
        ? { text: 'There is no address in this invitation that this browser could use.', good: false }
        : sentence(REFUSALS[end.code] ?? `The server refused (code ${end.code}).`, end.text)
    case 'closed': return describeClose(end)
  }
}

function describeClose ({ code, text }: End): Sentence {
  const status = /^exit=(-?\d+)/.exec(text)?.[1]
  const signal = /^signal=(\w+)/.exec(text)?.[1]

  if (status != null) {
    return { text: `The program ended with exit status ${status}.`, good: status === '0' }
  }

  if (signal != null) {
    return { text: `The program was ended by signal ${signal}.`, good: false }
  }

  const known = CLOSES[code] ?? REFUSALS[code]
  return { ...sentence(known ?? `The server closed the session (code ${code}).`, text), good: code <= CloseCode.user }
}

export interface PathName {
  name: string
  /** For those who want to know more. */
  explanation: string
}

const CARRIERS: Record<Carrier, PathName> = {
  websocket: { name: 'WebSocket', explanation: 'All by the WebSocket of the server.' },
  direct: { name: 'WebRTC direct', explanation: 'By a WebRTC data channel beside the WebSocket, without a relay.' },
  relayed: { name: 'WebRTC relayed', explanation: 'By a WebRTC data channel beside the WebSocket, through a TURN server.' },
  restarting: { name: 'WebRTC interrupted', explanation: 'The data channel looks for another route.' },
  'falling-back': { name: 'falling back to WebSocket', explanation: 'The data channel broke; what it carried is fetched by the WebSocket.' }
}

/** The name of a path; `carrier`: what carries DATA beside or in place of a WebSocket. */
export function pathName (kind: PathKind, carrier: Carrier = 'websocket'): PathName {
  return kind === 'webrtc'
    ? { name: 'direct (WebRTC)', explanation: 'By a libp2p connection to the node itself, without the WebSocket.' }
    : CARRIERS[carrier]
}

function sentence (text: string, remark: string): Sentence {
  return { text, good: false, ...(remark === '' ? {} : { detail: printable(remark) }) }
}

function withRemark (text: string, remark: string): string {
  return remark === '' ? text : `${text} (${printable(remark)})`
}

/** Foreign text without control and direction characters. */
function printable (text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, ' ').trim()
}
