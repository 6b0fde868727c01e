// PINGs of one path, of both sides: round trip times, which are answered, and whether the other side still lives.
// Owned by the session, one per path. Decides nothing itself.

/** How closely a path is watched. */
export interface Pace {
  /** Between PINGs while somebody looks at the page, for the round trip time shown. */
  watchedMs: number
  /** Silence that is worth a word; by default the time limit for answers. */
  silentMs?: number
}

const DEFAULT_PACE: Pace = { watchedMs: 5000 }

/** Silence is no news while answers take long anyway. */
const SILENT_RTTS = 3

/** A timer this late means that the page slept: what it would conclude is worthless. */
const SLEPT_MS = 2000

const MAX_OUTSTANDING = 16
const MAX_WITHHELD = 64

interface Outstanding {
  sentAt: number
  number: number
}

export type Verdict = 'alive' | 'ping' | 'silent' | 'dead'

export class Keepalive {
  readonly #intervalMs: number
  readonly #timeoutMs: number
  readonly #pace: Pace
  readonly #outstanding = new Map<string, Outstanding>()
  /** PINGs of the other side that wait for their answer. */
  #withheld: Uint8Array[] = []
  #lastPing: number
  /** Sending time of the first PING since which nothing at all was heard. */
  #unanswered: number | undefined
  /** A probe is less patient than the interval. */
  #patienceMs: number
  #silent = false
  #pardoned = false
  #rtt = 0

  constructor (
    now: number, { intervalMs, timeoutMs }: { intervalMs: number, timeoutMs: number }, pace: Pace = DEFAULT_PACE
  ) {
    this.#intervalMs = intervalMs
    this.#timeoutMs = timeoutMs
    this.#pace = pace
    this.#patienceMs = 2 * timeoutMs
    this.#lastPing = now
  }

  /** Payload of the PING to send now; its number is higher than that of any before it, on whatever path. */
  ping (now: number, number: number): Uint8Array {
    const payload = new Uint8Array(8)
    new DataView(payload.buffer).setBigUint64(0, BigInt(number))

    if (this.#outstanding.size >= MAX_OUTSTANDING) {
      const [oldest] = this.#outstanding.keys()
      this.#outstanding.delete(oldest!)
    }

    this.#outstanding.set(payload.toString(), { sentAt: now, number })
    this.#lastPing = now
    this.#unanswered ??= now
    return payload
  }

  /** What a PONG tells, or nothing if no PING of ours asked for it. PINGs with smaller numbers count as answered, too. */
  pong (now: number, payload: Uint8Array): { rtt: number, number: number } | undefined {
    const ping = this.#outstanding.get(payload.toString())

    if (ping == null) {
      return undefined
    }

    for (const key of [...this.#outstanding.keys()]) {
      this.#outstanding.delete(key)

      if (key === payload.toString()) {
        break
      }
    }

    this.#rtt = now - ping.sentAt
    return { rtt: this.#rtt, number: ping.number }
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

    const silentAt = this.#unanswered + this.#silentMs
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

      if (!this.#silent && now >= this.#unanswered + this.#silentMs) {
        this.#silent = true
        return 'silent'
      }
    }

    return now >= this.#lastPing + this.#interval(watched) ? 'ping' : 'alive'
  }

  #interval (watched: boolean): number {
    return watched ? Math.min(this.#pace.watchedMs, this.#intervalMs) : this.#intervalMs
  }

  get #silentMs (): number {
    const silentMs = Math.max(this.#pace.silentMs ?? this.#timeoutMs, SILENT_RTTS * this.#rtt)
    return Math.min(silentMs, this.#timeoutMs, this.#patienceMs)
  }
}
