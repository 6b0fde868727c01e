// Times and sizes a session keeps to.

/** Unconfirmed bytes at most; more input waits. Also the bytes kept for repetition. */
export const WINDOW = 65_536

export const HANDSHAKE_TIMEOUT_MS = 30_000
export const CLOSE_TIMEOUT_MS = 5000
export const DEFAULT_INTERVAL_S = 30
export const DEFAULT_TIMEOUT_S = 10
export const WISHED_INTERVAL_S = 15

/** After a wake-up or network change an answer is due within this time. */
export const PROBE_MS = 5000

/** Bytes given to the terminal and not yet rendered: pause above, go on below. */
export const PAUSE_ABOVE = 524_288
export const RESUME_BELOW = 131_072

/** Input kept at most: while there is a path, and while there is none. */
export const MAX_INPUT = 16 * 1024 * 1024
export const MAX_INPUT_OFFLINE = WINDOW

/** After so many unconfirmed bytes a PING asks for confirmation. */
export const CONFIRM_EVERY = WINDOW / 4

export const MAX_UNKNOWN_FRAMES = 64
export const MAX_GAPS = 3

/** A size of the terminal as a server takes it. */
export function clampSize (columns: number, rows: number, width: number, height: number): TerminalSize {
  const clamp = (value: number, max: number): number => Math.max(0, Math.min(max, Math.round(value)))
  return {
    columns: clamp(columns, 4096), rows: clamp(rows, 4096), width: clamp(width, 0xffff), height: clamp(height, 0xffff)
  }
}

export interface TerminalSize { columns: number, rows: number, width: number, height: number }
