// What the user typed and pasted until the server is known to have it.
// Owned by the traffic of a session. Numbers DATA, keeps it for repetition, limits what is under way.
import type { Data } from './frame.ts'
import { WINDOW } from './limits.ts'
import type { Lane } from './session-types.ts'

/** Small enough for every transport and fair to other streams. */
const PIECE = 16_384 - 16

interface Sent {
  number: bigint
  data: Uint8Array
}

/** DATA up to a number had left when this PING did. */
interface Mark {
  lane: Lane
  ping: number
  upTo: bigint
  answered: boolean
}

export class Outbox {
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #sent: Sent[] = []
  #sentBytes = 0
  #next = 1n
  #confirmed = 0n
  #pieceLimit = PIECE
  #marks: Mark[] = []
  #asked = 0n
  #inDoubt = false

  /** Bytes that wait or are unconfirmed. */
  get size (): number {
    return this.#waitingBytes + this.#sentBytes
  }

  get unconfirmed (): number {
    return this.#sentBytes
  }

  /** Whether nothing waits to be sent. */
  get drained (): boolean {
    return this.#waitingBytes === 0 && !this.#inDoubt
  }

  get lastNumber (): bigint {
    return this.#next - 1n
  }

  /** The server has had everything up to this number. */
  get confirmed (): bigint {
    return this.#confirmed
  }

  /** Whether no PING under way asks about the last DATA. */
  get unasked (): boolean {
    return this.#asked < this.lastNumber
  }

  /** Whether the server has to say what it has before anything more may leave. */
  get inDoubt (): boolean {
    return this.#inDoubt
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

    if (room <= 0 || this.#inDoubt) {
      return undefined
    }

    const data = this.#take(room)
    const number = this.#next++
    this.#sent.push({ number, data })
    this.#sentBytes += data.length

    return numbered ? { type: 'data', number, data } : { type: 'data', data }
  }

  /** This PING leaves by the path by which all DATA has left since the last mark. */
  mark (lane: Lane, ping: number): void {
    if (!this.#inDoubt && this.lastNumber > this.#asked) {
      this.#asked = this.lastNumber
      this.#marks.push({ lane, ping, upTo: this.#asked, answered: false })
    }
  }

  /**
   * This PING was answered, and with it all before it on that path. A mark counts when all before it do: they may
   * belong to another path, about which the answer says nothing.
   */
  answered (lane: Lane, ping: number): void {
    for (const mark of this.#marks) {
      mark.answered ||= mark.lane === lane && mark.ping <= ping
    }

    while (this.#marks[0]?.answered === true) {
      this.confirm(this.#marks.shift()!.upTo)
    }
  }

  /** The server has everything up to this number. */
  confirm (number: bigint): void {
    this.#confirmed = number > this.#confirmed ? number : this.#confirmed

    while (this.#sent.length > 0 && this.#sent[0]!.number <= number) {
      this.#sentBytes -= this.#sent.shift()!.data.length
    }
  }

  /** A path that carried DATA is gone while the session goes on by another: what left by it may be lost. */
  doubt (): void {
    this.#inDoubt = true
  }

  /** The server has everything up to this number; what follows must be sent again, in order. */
  repeat (received: bigint): Data[] {
    this.#inDoubt = false
    this.#marks = []
    this.#asked = 0n
    this.confirm(received)
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
