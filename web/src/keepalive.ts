// PINGs of one path, of both sides: round trip times, confirmation of DATA, and whether the other side still lives.
// Owned by the session, one per path. Decides nothing itself.

/** Between PINGs while somebody looks at the page, for the round trip time shown. */
const WATCHED_INTERVAL_MS = 5000

/** A timer this late means that the page slept: what it would conclude is worthless. */
const SLEPT_MS = 2000

const MAX_OUTSTANDING = 16
const MAX_WITHHELD = 64

interface Outstanding {
  sentAt: number
  /** DATA up to this number went before the PING. */
  upTo: bigint
}

export type Verdict = 'alive' | 'ping' | 'silent' | 'dead'

export class Keepalive {
  readonly #intervalMs: number
  readonly #timeoutMs: number
  readonly #outstanding = new Map<string, Outstanding>()
  /** PINGs of the other side that wait for their answer. */
  #withheld: Uint8Array[] = []
  #counter = 0
  #lastPing: number
  /** Sending time of the first PING since which nothing at all was heard. */
  #unanswered: number | undefined
  /** A probe is less patient than the interval. */
  #patienceMs: number
  #silent = false
  #pardoned = false

  constructor (now: number, { intervalMs, timeoutMs }: { intervalMs: number, timeoutMs: number }) {
    this.#intervalMs = intervalMs
    this.#timeoutMs = timeoutMs
    this.#patienceMs = 2 * timeoutMs
    this.#lastPing = now
  }

  /** Payload of the PING to send now. */
  ping (now: number, upTo: bigint): Uint8Array {
    const payload = new Uint8Array(8)
    new DataView(payload.buffer).setBigUint64(0, BigInt(++this.#counter))

    if (this.#outstanding.size >= MAX_OUTSTANDING) {
      const [oldest] = this.#outstanding.keys()
      this.#outstanding.delete(oldest!)
    }

    this.#outstanding.set(payload.toString(), { sentAt: now, upTo })
    this.#lastPing = now
    this.#unanswered ??= now
    return payload
  }

  /** What a PONG tells, or nothing if no PING of ours asked for it. */
  pong (now: number, payload: Uint8Array): { rtt: number, upTo: bigint } | undefined {
    const ping = this.#outstanding.get(payload.toString())

    if (ping == null) {
      return undefined
    }

    // Older ones count as answered too.
    for (const key of [...this.#outstanding.keys()]) {
      this.#outstanding.delete(key)

      if (key === payload.toString()) {
        break
      }
    }

    return { rtt: now - ping.sentAt, upTo: ping.upTo }
  }

  /** Whether a PING of ours has no answer yet. */
  get waits (): boolean {
    return this.#outstanding.size > 0
  }

  /** Keeps the answer to a PING for later; one too many is dropped. */
  withhold (payload: Uint8Array): void {
    if (this.#withheld.length < MAX_WITHHELD) {
      this.#withheld.push(payload.slice())
    }
  }

  /** What was kept. */
  release (): Uint8Array[] {
    return this.#withheld.splice(0)
  }

  /** Any frame is a sign of life. */
  heard (): void {
    this.#unanswered = undefined
    this.#patienceMs = 2 * this.#timeoutMs
    this.#silent = false
    this.#pardoned = false
  }

  /** From now on the path has this long to show life. */
  hurry (now: number, patienceMs: number): void {
    this.#patienceMs = patienceMs
    this.#unanswered = now
  }

  deadline (watched: boolean): number {
    const nextPing = this.#lastPing + this.#interval(watched)

    if (this.#unanswered == null) {
      return nextPing
    }

    const silentAt = this.#unanswered + Math.min(this.#timeoutMs, this.#patienceMs)
    return Math.min(nextPing, this.#silent ? this.#unanswered + this.#patienceMs : silentAt)
  }

  check (now: number, watched: boolean): Verdict {
    if (this.#unanswered != null) {
      const deadAt = this.#unanswered + this.#patienceMs

      if (now >= deadAt + SLEPT_MS && !this.#pardoned) {
        this.#pardoned = true
        this.hurry(now, this.#timeoutMs)
        return 'ping'
      }

      if (now >= deadAt) {
        return 'dead'
      }

      if (!this.#silent && now >= this.#unanswered + Math.min(this.#timeoutMs, this.#patienceMs)) {
        this.#silent = true
        return 'silent'
      }
    }

    return now >= this.#lastPing + this.#interval(watched) ? 'ping' : 'alive'
  }

  #interval (watched: boolean): number {
    return watched ? Math.min(WATCHED_INTERVAL_MS, this.#intervalMs) : this.#intervalMs
  }
}
