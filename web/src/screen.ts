// The size of the terminal as the server is told it. Owned by the session.
import type { Frame } from './frame.ts'
import { clampSize, REDRAW_MS } from './limits.ts'

export class Screen {
  readonly #send: (frame: Frame) => void
  #size = { columns: 80, rows: 24, width: 0, height: 0 }
  /** When the true size follows a false one. */
  #redrawAt: number | undefined

  /** `send` drops what cannot be sent now. */
  constructor (send: (frame: Frame) => void) {
    this.#send = send
  }

  get deadline (): number | undefined {
    return this.#redrawAt
  }

  resize (columns: number, rows: number, width: number, height: number): void {
    if (columns >= 1 && rows >= 1) {
      this.#size = clampSize(columns, rows, width, height)
      this.tell()
    }
  }

  tell (): void {
    this.#redrawAt = undefined
    this.#send({ type: 'resize', ...this.#size })
  }

  /** Makes the program draw its screen again: it does so when its size changes. */
  redraw (now: number): void {
    const { rows } = this.#size
    this.#send({ type: 'resize', ...this.#size, rows: rows > 1 ? rows - 1 : rows + 1 })
    this.#redrawAt = now + REDRAW_MS
  }

  tick (now: number): void {
    if (this.#redrawAt != null && now >= this.#redrawAt) {
      this.tell()
    }
  }
}
