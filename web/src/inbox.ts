// What the server sends to the terminal: put into order over two paths, and when the server is to pause.
// Owned by the traffic of a session, which sends the PINGs and the FLOW_CONTROL this asks for.
//
// With Session Resume the numbers decide: what is old is dropped, what is ahead waits for what a second path still
// carries. Without, the first DATA on another path starts a barrier: it waits until a PING on the old path is answered,
// because all that was sent there has arrived by then.
import type { Data } from './frame.ts'
import { MAX_AHEAD, PAUSE_ABOVE, RESUME_BELOW } from './limits.ts'
import type { Lane } from './session-types.ts'

/** What a waiting piece costs beside its bytes. */
const PIECE_COST = 64

/** DATA of a new path that waits for the end of the old one. */
interface Barrier {
  since: number
  old: Lane
  /** The PING on the old path. */
  ping: number
  /** The new path, as long as it is there. */
  lane: Lane | undefined
  waiting: Uint8Array[]
}

export class Inbox {
  readonly #deliver: (data: Uint8Array) => void
  #last = 0n
  /** How often something was missing since the last DATA that was not. */
  gaps = 0
  readonly #ahead = new Map<bigint, Uint8Array>()
  #aheadCost = 0
  #missingSince: number | undefined
  #twoPaths = false
  #current: Lane | undefined
  #barrier: Barrier | undefined
  #unrendered = 0
  #paused = false

  /** What is next in order is delivered by this call. */
  constructor (deliver: (data: Uint8Array) => void) {
    this.#deliver = deliver
  }

  /** Number of the last DATA received, with none missing before it. */
  get last (): bigint {
    return this.#last
  }

  /** Since when DATA waits for other DATA, or for the end of what may have come before it. */
  get missingSince (): number | undefined {
    return this.#barrier?.since ?? this.#missingSince
  }

  /** Whether more waits than a server that can be paused would have sent. */
  get overflows (): boolean {
    return this.#aheadCost > 2 * MAX_AHEAD
  }

  /** From now on DATA comes by two paths, and may be ahead of its turn for that reason. */
  expectTwoPaths (): void {
    this.#twoPaths = true
  }

  /**
   * Takes DATA of a server with Session Resume. `false`: something is missing that no other path could bring. A server
   * that leaves the number out counts it all the same.
   */
  takeNumbered ({ number = this.#last + 1n, data }: Data, now: number): boolean {
    if (number > this.#last + 1n) {
      return this.#keepAhead(number, data, now)
    }

    if (number === this.#last + 1n) {
      this.gaps = 0
      this.#last = number
      this.#show(data)
      this.#showAhead(now)
    }

    return true
  }

  #keepAhead (number: bigint, data: Uint8Array, now: number): boolean {
    if (!this.#twoPaths) {
      this.gaps++
      return false
    }

    if (!this.#ahead.has(number)) {
      this.#ahead.set(number, data)
      this.#aheadCost += data.length + PIECE_COST
      this.#missingSince ??= now
    }

    return true
  }

  /** Delivers what waited for the piece just delivered. */
  #showAhead (now: number): void {
    for (let next = this.#ahead.get(this.#last + 1n); next != null; next = this.#ahead.get(this.#last + 1n)) {
      this.#last++
      this.#ahead.delete(this.#last)
      this.#aheadCost -= next.length + PIECE_COST
      // What else is missing is so for a shorter time.
      this.#missingSince = now
      this.#show(next)
    }

    if (this.#ahead.size === 0) {
      this.#missingSince = undefined
    }
  }

  /**
   * Takes DATA of a server without Session Resume, which begins on `main` even if what comes first comes elsewhere;
   * `guard` sends a PING on the old path when a barrier begins.
   */
  takeInTurn (lane: Lane, { data }: Data, now: number, main: Lane, guard: (old: Lane) => number): void {
    this.#current ??= main

    if (this.#current === lane) {
      this.#show(data)
      return
    }

    this.#barrier ??= { since: now, old: this.#current, ping: guard(this.#current), lane, waiting: [] }
    this.#barrier.lane = lane
    this.#barrier.waiting.push(data)
    this.#aheadCost += data.length + PIECE_COST
  }

  /** This PING was answered, and with it all before it on that path. */
  answered (lane: Lane, ping: number): void {
    if (this.#barrier?.old === lane && this.#barrier.ping <= ping) {
      this.#liftBarrier()
    }
  }

  /** The PING of the barrier stays without an answer: what waited is taken as it is. */
  giveUpBarrier (): void {
    if (this.#barrier != null) {
      this.#liftBarrier()
    }
  }

  /** Nothing more comes by this path. */
  gone (lane: Lane): void {
    if (this.#barrier?.old === lane) {
      this.#liftBarrier()
    }

    if (this.#barrier?.lane === lane) {
      this.#barrier.lane = undefined
    }

    if (this.#current === lane) {
      this.#current = undefined
    }
  }

  #liftBarrier (): void {
    const { lane, waiting } = this.#barrier!
    this.#barrier = undefined
    this.#current = lane
    this.#aheadCost = 0
    waiting.forEach(data => this.#show(data))
  }

  #show (data: Uint8Array): void {
    if (data.length > 0) {
      this.#unrendered += data.length
      this.#deliver(data)
    }
  }

  rendered (bytes: number): void {
    this.#unrendered -= bytes
  }

  /** The server sends everything again that was not delivered, by one path, and the flow is on. */
  resumed (): void {
    this.#ahead.clear()
    this.#aheadCost = 0
    this.#missingSince = undefined
    this.#twoPaths = false
    this.#paused = false
  }

  /** What the server is to be told now: to go on (`true`), to pause, or nothing. */
  flow (): boolean | undefined {
    const pause = this.#paused
      ? this.#unrendered > RESUME_BELOW || this.#aheadCost > MAX_AHEAD / 4
      : this.#unrendered > PAUSE_ABOVE || this.#aheadCost > MAX_AHEAD

    if (pause === this.#paused) {
      return undefined
    }

    this.#paused = pause
    return !pause
  }
}
