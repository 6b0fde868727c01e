// What a model server keeps of its output, and how it puts input into order. For tests only; written to be read, not to be
// fast.
import { ErrorCode } from '../src/frame.ts'

/** Numbered output that the client may not have. */
export class Ring {
  readonly #limit: number
  #sent = 0n
  #kept: Array<{ number: bigint, data: Uint8Array }> = []
  /** A PONG proves that what left before its PING by that path has arrived; marks count in order. */
  #marks: Array<{ path: unknown, payload: string, upTo: bigint, answered: boolean }> = []
  bytes = 0

  constructor (limit: number) {
    this.#limit = limit
  }

  push (data: Uint8Array): bigint {
    const number = ++this.#sent
    this.#kept.push({ number, data })
    this.bytes += data.length

    while (this.bytes > this.#limit) {
      this.#drop()
    }

    return number
  }

  #drop (): void {
    this.bytes -= this.#kept.shift()!.data.length
  }

  mark (path: unknown, payload: Uint8Array): void {
    this.#marks.push({ path, payload: payload.toString(), upTo: this.#sent, answered: false })
  }

  answered (path: unknown, payload: string): void {
    const mark = this.#marks.find(mark => mark.path === path && mark.payload === payload)

    if (mark != null) {
      mark.answered = true
    }

    while (this.#marks[0]?.answered === true) {
      const { upTo } = this.#marks.shift()!

      while (this.#kept.length > 0 && this.#kept[0]!.number <= upTo) {
        this.#drop()
      }
    }
  }

  forgetMarks (): void {
    this.#marks = []
  }

  refusal (last: bigint): { code: number, text: string } | undefined {
    if (last > this.#sent) {
      return { code: ErrorCode.sequenceMismatch, text: 'a number that was never sent' }
    }

    return last + 1n < (this.#kept[0]?.number ?? this.#sent + 1n)
      ? { code: ErrorCode.bufferOverflow, text: 'the buffer overflowed' }
      : undefined
  }

  after (last: bigint): Array<{ number: bigint, data: Uint8Array }> {
    this.forgetMarks()
    return this.#kept.filter(({ number }) => number > last)
  }
}

/** Numbered input. */
export class Sequence {
  #ahead = new Map<bigint, Uint8Array>()
  last = 0n

  get waits (): boolean {
    return this.#ahead.size > 0
  }

  /** Gives what is in order now. */
  take (number: bigint, data: Uint8Array): Uint8Array[] {
    if (number > this.last) {
      this.#ahead.set(number, data)
    }

    const taken = []

    for (let next = this.#ahead.get(this.last + 1n); next != null; next = this.#ahead.get(this.last + 1n)) {
      this.#ahead.delete(++this.last)
      taken.push(next)
    }

    return taken
  }

  /** Goes on behind what is missing. */
  skip (): Uint8Array[] {
    const [first] = [...this.#ahead.keys()].sort((one, other) => one < other ? -1 : 1)
    this.last = first! - 1n
    return this.take(first!, this.#ahead.get(first!)!)
  }

  forgetAhead (): void {
    this.#ahead.clear()
  }
}

/** Input without numbers: that of a new path waits until the old one is known to be empty. */
export class Turns<Path> {
  #current: Path | undefined
  #barrier: { payload: string, path: Path, waiting: Uint8Array[] } | undefined

  take (path: Path, data: Uint8Array, guard: (old: Path) => string): Uint8Array[] {
    this.#current ??= path

    if (path === this.#current) {
      return [data]
    }

    this.#barrier ??= { payload: guard(this.#current), path, waiting: [] }
    this.#barrier.waiting.push(data)
    return []
  }

  answered (payload: string): Uint8Array[] {
    return payload === this.#barrier?.payload ? this.#lift() : []
  }

  gone (path: Path): Uint8Array[] {
    const released = path === this.#current && this.#barrier != null ? this.#lift() : []
    this.#current = this.#current === path ? undefined : this.#current
    return released
  }

  #lift (): Uint8Array[] {
    const { path, waiting } = this.#barrier!
    this.#barrier = undefined
    this.#current = path
    return waiting
  }
}
