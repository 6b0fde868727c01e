// What the user typed and pasted until the server is known to have it.
// Owned by the session. Numbers DATA, keeps it for repetition, limits what is under way.
import type { Data } from './frame.ts'
import { WINDOW } from './limits.ts'

/** Small enough for every transport and fair to other streams. */
const PIECE = 16_384 - 16

interface Sent {
  number: bigint
  data: Uint8Array
}

export class Outbox {
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #sent: Sent[] = []
  #sentBytes = 0
  #next = 1n
  #confirmed = 0n
  #pieceLimit = PIECE

  /** Bytes that wait or are unconfirmed. */
  get size (): number {
    return this.#waitingBytes + this.#sentBytes
  }

  get unconfirmed (): number {
    return this.#sentBytes
  }

  get lastNumber (): bigint {
    return this.#next - 1n
  }

  /** The server has had everything up to this number. */
  get confirmed (): bigint {
    return this.#confirmed
  }

  /** The negotiated size counts the number too. */
  limitPieces (maxMessageSize: number): void {
    this.#pieceLimit = Math.max(1, Math.min(PIECE, maxMessageSize - 8))
  }

  push (data: Uint8Array): void {
    if (data.length > 0) {
      this.#waiting.push(data)
      this.#waitingBytes += data.length
    }
  }

  /** The next piece to send, or nothing while the window is full. */
  next (numbered: boolean): Data | undefined {
    const room = Math.min(this.#pieceLimit, WINDOW - this.#sentBytes, this.#waitingBytes)

    if (room <= 0) {
      return undefined
    }

    const data = this.#take(room)
    const number = this.#next++
    this.#sent.push({ number, data })
    this.#sentBytes += data.length

    return numbered ? { type: 'data', number, data } : { type: 'data', data }
  }

  /** The server has everything up to this number. */
  confirm (number: bigint): void {
    this.#confirmed = number > this.#confirmed ? number : this.#confirmed

    while (this.#sent.length > 0 && this.#sent[0]!.number <= number) {
      this.#sentBytes -= this.#sent.shift()!.data.length
    }
  }

  /** What must be sent again, in order, after a resume. */
  repeat (): Data[] {
    return this.#sent.map(({ number, data }) => ({ type: 'data', number, data }))
  }

  #take (length: number): Uint8Array {
    const taken = new Uint8Array(length)
    let filled = 0

    while (filled < length) {
      const first = this.#waiting[0]!
      const part = first.subarray(0, length - filled)
      taken.set(part, filled)
      filled += part.length

      if (part.length === first.length) {
        this.#waiting.shift()
      } else {
        this.#waiting[0] = first.subarray(part.length)
      }
    }

    this.#waitingBytes -= length
    return taken
  }
}
