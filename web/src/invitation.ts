// Invitations: everything needed to reach one terminal, in one string. Made by the socketpipe program,
// read here. Judges the form only, not whether anything can be reached.

const PREFIX = 'socketpipe:1:'
const MAX_LENGTH = 8192
const MAX_ADDRESSES = 16
const MAX_TOKEN = 4096
const MAX_NAME = 64

export interface Invitation {
  /** Multiaddrs, each with a peer id. */
  addresses: string[]
  /** WebSocket URL of the same server. */
  webSocket: string | undefined
  token: string
  mode: 'pty' | 'tunnel'
  host: string
  port: number
  name: string
}

/** What is wrong with an invitation, as a sentence for people. */
export class InvitationError extends Error {}

/** Finds the invitation in what was pasted: itself, or a link with it behind the #. */
export function parseInvitation (pasted: string): Invitation {
  const text = pasted.trim()
  const start = text.indexOf('socketpipe:')

  if (start < 0) {
    throw new InvitationError('This is no invitation: one begins with “socketpipe:1:”.')
  }

  if (!text.startsWith(PREFIX, start)) {
    throw new InvitationError('This invitation is of a version this page does not know.')
  }

  // Mail programs and terminals break long lines.
  const encoded = text.slice(start + PREFIX.length).replace(/\s+/g, '')

  if (encoded.length > MAX_LENGTH) {
    throw new InvitationError('This invitation is too long.')
  }

  return check(decodeJson(encoded))
}

function decodeJson (encoded: string): Record<string, unknown> {
  try {
    const binary = atob(encoded.replace(/=+$/, '').replaceAll('-', '+').replaceAll('_', '/'))
    const json = new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(binary, char => char.charCodeAt(0)))
    const value: unknown = JSON.parse(json)

    if (typeof value === 'object' && value != null && !Array.isArray(value)) {
      return value as Record<string, unknown>
    }
  } catch {
    // Told below.
  }

  throw new InvitationError('This invitation is damaged. Was all of it copied?')
}

function check (fields: Record<string, unknown>): Invitation {
  const mode = fields.m ?? 'pty'
  const port = fields.p ?? 0
  const addresses = fields.a ?? []

  if (mode !== 'pty' && mode !== 'tunnel') {
    throw damaged('mode')
  }

  if (typeof port !== 'number' || !Number.isInteger(port) || port < 0 || port > 65_535) {
    throw damaged('port')
  }

  if (!Array.isArray(addresses) || addresses.length > MAX_ADDRESSES ||
      !addresses.every((address): address is string => typeof address === 'string' && address.startsWith('/'))) {
    throw damaged('address list')
  }

  const webSocket = checkWebSocket(text(fields.w, 'WebSocket address', 2048))

  if (addresses.length === 0 && webSocket == null) {
    throw new InvitationError('This invitation names no address.')
  }

  return {
    addresses,
    webSocket,
    token: text(fields.t, 'token', MAX_TOKEN),
    mode,
    host: text(fields.h, 'host', 255),
    port,
    name: presentable(text(fields.n, 'name', 1024))
  }
}

function text (value: unknown, what: string, limit: number): string {
  const string = value ?? ''

  if (typeof string !== 'string' || new TextEncoder().encode(string).length > limit) {
    throw damaged(what)
  }

  return string
}

function checkWebSocket (address: string): string | undefined {
  if (address === '') {
    return undefined
  }

  const url = parseUrl(address)

  // Credentials or a fragment in it would only hide where it leads.
  if (url == null || !['ws:', 'wss:'].includes(url.protocol) || url.username !== '' || url.hash !== '') {
    throw damaged('WebSocket address')
  }

  return url.href
}

function parseUrl (address: string): URL | undefined {
  try {
    return new URL(address)
  } catch {
    return undefined
  }
}

/** A name for the page's title: no control or direction characters, not long. */
function presentable (name: string): string {
  const clean = name.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, '').trim()
  return [...clean].slice(0, MAX_NAME).join('')
}

function damaged (what: string): InvitationError {
  return new InvitationError(`This invitation is damaged: its ${what} is wrong.`)
}

/** The opposite of `parseInvitation`; tests and tools use it. */
export function formatInvitation (invitation: Invitation): string {
  const { addresses, webSocket, token, mode, host, port, name } = invitation
  const json = JSON.stringify({
    a: addresses,
    ...(webSocket == null ? {} : { w: webSocket }),
    t: token,
    m: mode,
    h: host,
    p: port,
    n: name
  })
  const binary = String.fromCharCode(...new TextEncoder().encode(json))
  return PREFIX + btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
}
