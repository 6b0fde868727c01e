// What the server sends to the terminal: which DATA is new, and when the server is to pause.
// Owned by the session, which sends the FLOW_CONTROL this asks for.
import { PAUSE_ABOVE, RESUME_BELOW } from './limits.ts'

export class Inbox {
  #last = 0n
  /** How often something was missing since the last DATA that was not. */
  gaps = 0
  #unrendered = 0
  #paused = false

  /** Number of the last DATA received, with none missing before it. */
  get last (): bigint {
    return this.#last
  }

  /**
   * Whether DATA is to be shown, was there before, or comes without what precedes it. With Session Resume only; a server
   * that leaves a number out counts it all the same.
   */
  place (number = this.#last + 1n): 'next' | 'seen' | 'gap' {
    if (number > this.#last + 1n) {
      this.gaps++
      return 'gap'
    }

    if (number <= this.#last) {
      return 'seen'
    }

    this.#last = number
    this.gaps = 0
    return 'next'
  }

  shown (bytes: number): void {
    this.#unrendered += bytes
  }

  rendered (bytes: number): void {
    this.#unrendered -= bytes
  }

  /** Every resume starts with the flow on. */
  resumed (): void {
    this.#paused = false
  }

  /** What the server is to be told now: to go on (`true`), to pause, or nothing. */
  flow (): boolean | undefined {
    const pause = this.#paused ? this.#unrendered > RESUME_BELOW : this.#unrendered > PAUSE_ABOVE

    if (pause === this.#paused) {
      return undefined
    }

    this.#paused = pause
    return !pause
  }
}
