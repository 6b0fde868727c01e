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

/** Time from the offer of a data channel until the server says that it is ready. */
export const UPGRADE_TIMEOUT_MS = 10_000

/** Largest frame on a data channel: some stacks stop there. DATA never exceeds it. */
export const CHANNEL_FRAME = 16_384

/** Candidates of the server for one offer; each makes the browser send packets to an address it names. */
export const MAX_CANDIDATES = 64

/** Output that waits for other output before it: the server is paused above; twice as much is given up. */
export const MAX_AHEAD = 1_048_576

/** Between the two sizes that make a program draw its screen again; servers join what comes faster. */
export const REDRAW_MS = 250

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
