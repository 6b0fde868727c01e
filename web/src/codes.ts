// Numbers both ends agree on for errors and reasons of a close.

export const ErrorCode = {
  authFailed: 1000,
  authExpired: 1001,
  authInsufficient: 1002,
  connectFailed: 2000,
  connectTimeout: 2001,
  connectRefused: 2002,
  backendClosed: 2003,
  protocolError: 3000,
  invalidMessage: 3001,
  invalidState: 3002,
  messageTooLarge: 3003,
  unsupportedVersion: 3004,
  sessionNotFound: 4000,
  sessionExpired: 4001,
  bufferOverflow: 4002,
  sequenceMismatch: 4003
} as const

export const CloseCode = {
  normal: 0,
  user: 1,
  pingTimeout: 2,
  goingAway: 3,
  replaced: 4,
  detached: 5,
  idle: 6,
  policy: 7
} as const

/** A frame that must not be used; `code` is one of `ErrorCode`. */
export class FrameError extends Error {
  readonly code: number

  constructor (code: number, message: string) {
    super(message)
    this.name = 'FrameError'
    this.code = code
  }
}
