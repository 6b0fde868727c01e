// What a client needs to go on with its session after a loss, and for how long the server waits. Owned by the session.
import type { Frame } from './frame.ts'

export class Hold {
  #id: Uint8Array | undefined
  #timeoutMs = 0
  #lostAt: number | undefined
  /** Resume requests given up without an answer: each may still reach the server and win over a later one. */
  #strays = 0

  /** The name of the session: a secret. */
  get id (): Uint8Array | undefined {
    return this.#id
  }

  /** When the server gives the session up, as far as we know. */
  get expiresAt (): number | undefined {
    return this.#lostAt == null || this.#timeoutMs === 0 ? undefined : this.#lostAt + this.#timeoutMs
  }

  /** The server has told the name; it stays the same. */
  named ({ id, timeout }: Extract<Frame, { type: 'session-id' }>): void {
    this.#id ??= id.length > 0 ? id.slice() : undefined
    this.#timeoutMs = timeout * 1000
  }

  lost (now: number): void {
    this.#lostAt = now
  }

  back (): void {
    this.#lostAt = undefined
  }

  /** A request is given up without an answer. */
  strayed (): void {
    this.#strays += this.#id == null ? 0 : 1
  }

  /** Whether a request given up explains that the session was taken over; each explains one take-over. */
  explainsTakeOver (): boolean {
    const stray = this.#strays > 0
    this.#strays -= stray ? 1 : 0
    return stray
  }
}
