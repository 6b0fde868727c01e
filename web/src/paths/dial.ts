// What every kind of path has in common.
import type { Frame, FrameError } from '../frame.ts'
import type { Path } from '../session-types.ts'

export interface PathEvents {
  frame: (path: Path, frame: Frame) => void
  /** The codec refused what came; the path is closed. */
  malformed: (path: Path, error: FrameError) => void
  lost: (path: Path, reason: string) => void
}

/** Why a path did not open, as a sentence for people. */
export class DialError extends Error {}
