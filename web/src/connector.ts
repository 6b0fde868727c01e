// Keeps a session on a path: opens paths, the direct one first, tries again when none is left, and moves back to the
// direct path when it becomes possible. Beside a WebSocket an upgrader brings DATA to a data channel. Knows no terminal and
// no page; time, dialing and peer connections are brought by the caller.
import type { DialError, PathEvents } from './paths/dial.ts'
import { ErrorCode } from './codes.ts'
import { describeRefusal } from './sentences.ts'
import { Session } from './session.ts'
import type { End, Path, PathKind, Refusal, SessionOptions } from './session-types.ts'
import { Upgrader, type Carrier, type MakePeer } from './upgrader.ts'

export interface Dialer {
  kind: PathKind
  dial: (events: PathEvents, signal: AbortSignal) => Promise<Path>
}

export interface Timers {
  now: () => number
  /** Calls back once, after that many milliseconds; returns how to prevent it. */
  after: (milliseconds: number, callback: () => void) => () => void
  random: () => number
}

export type Status =
  | { state: 'connecting', again: boolean }
  /** `carrier`: what carries DATA beside or in place of a WebSocket. */
  | { state: 'connected', kind: PathKind, carrier: Carrier | undefined, resumed: boolean, silent: boolean }
  /** No path; `retryAt` in the caller's time. */
  | { state: 'waiting', retryAt: number, problems: string[], again: boolean, expired: boolean }
  | { state: 'closing' }
  | { state: 'ended', end: End }

export interface ConnectorEvents {
  data: (bytes: Uint8Array) => void
  status: (status: Status) => void
  rtt: (milliseconds: number) => void
  /** Some output may be missing, and the program was asked to draw its screen again. */
  outputLost: () => void
}

/** The direct path gets this lead before the fallback is dialled beside it. */
const LEAD_MS = 2500
const DIAL_LIMIT_MS = 15_000
const RETRY_MS = [1000, 2000, 4000, 8000, 15_000, 30_000]
const UPGRADE_FIRST_MS = 30_000
const UPGRADE_MAX_MS = 600_000

/** A path that lived shorter than this counts as a failed try. */
const SHORT_LIFE_MS = 5000

/** A direct path that came too late for the first try is dialled again after this. */
const LATE_UPGRADE_MS = 1000

/** For a handshake these may: each kind of path can have its own policy. */
const NOT_ALLOWED: number[] = [ErrorCode.authFailed, ErrorCode.authExpired, ErrorCode.authInsufficient]

export class Connector {
  readonly session: Session
  readonly #dialers: Dialer[]
  readonly #events: ConnectorEvents
  readonly #timers: Timers
  readonly #upgrader: Upgrader | undefined
  /** Kinds of path that do not take this session. */
  readonly #excluded = new Set<PathKind>()
  /** Dials under way. */
  readonly #dials = new Map<PathKind, AbortController>()
  /** Kinds dialled since the last loss or pause. */
  readonly #tried = new Set<PathKind>()
  #refused: Refusal | undefined
  #problems: string[] = []
  #failures = 0
  #attachedAt = 0
  #silent = false
  #status: Status = { state: 'connecting', again: false }
  #retry: (() => void) | undefined
  #fallback: (() => void) | undefined
  #upgrade: (() => void) | undefined
  #upgradeDelay = UPGRADE_FIRST_MS
  #tick: { at: number, cancel: () => void } | undefined

  /** The dialers in order of preference; with `makePeer`, data channels are used beside a WebSocket. */
  constructor (
    options: SessionOptions, dialers: Dialer[], events: ConnectorEvents, timers: Timers, makePeer?: MakePeer
  ) {
    this.#dialers = dialers
    this.#events = events
    this.#timers = timers
    this.session = new Session({ ...options, webrtc: makePeer != null }, {
      data: events.data,
      rtt: events.rtt,
      state: state => {
        if (state === 'closing') {
          this.#report({ state: 'closing' })
        }
      },
      attached: (path, fresh) => this.#attached(path, fresh),
      refused: (path, refusal) => this.#refusedBy(path, refusal),
      detached: (path, reason) => this.#detached(path, reason),
      silent: silent => this.#fellSilent(silent),
      signal: signal => this.#upgrader?.receive(signal),
      channel: news => this.#upgrader?.news(news),
      outputLost: events.outputLost,
      end: end => this.#ended(end)
    })
    this.#upgrader = makePeer == null ? undefined : this.#createUpgrader(makePeer)
  }

  #createUpgrader (makePeer: MakePeer): Upgrader {
    const { now, after, random } = this.#timers

    return new Upgrader({
      channel: this.session.channel,
      now,
      after,
      random,
      touch: action => this.#touch(action),
      paths: this.#pathEvents(),
      writable: () => this.session.writable(now()),
      changed: () => this.#carrierChanged()
    }, makePeer)
  }

  get status (): Status {
    return this.#status
  }

  start (): void {
    this.#connect()
  }

  write (data: Uint8Array): boolean {
    return this.#touch(() => this.session.write(data, this.#timers.now()))
  }

  resize (columns: number, rows: number, width: number, height: number): void {
    this.#touch(() => this.session.resize(columns, rows, width, height))
  }

  rendered (bytes: number): void {
    this.#touch(() => this.session.rendered(bytes))
  }

  setWatched (watched: boolean): void {
    this.#touch(() => this.session.setWatched(watched))
  }

  close (): void {
    // The channel stays: what was typed leaves by it before the session ends.
    this.#cancelTimers()
    this.#abortDials()
    this.#touch(() => this.session.close(this.#timers.now()))
  }

  /** The network changed, the page woke up or the user asks: do now what would be done later. */
  nudge (): void {
    if (this.#status.state === 'waiting') {
      this.#failures = 0
      this.#connect()
    } else if (this.#status.state === 'connected') {
      this.#touch(() => this.session.probe(this.#timers.now()))
      this.#upgradeDelay = UPGRADE_FIRST_MS
      // What was dialled before may hang.
      this.#abortDials()
      this.#tryUpgrade()
      this.#touch(() => this.#upgrader?.nudge())
    }
  }

  #connect (): void {
    this.#cancelTimers()
    this.#problems = []
    this.#tried.clear()
    this.#report({ state: 'connecting', again: this.session.resumable })
    const [first, ...others] = this.#usable()

    if (first == null) {
      this.#giveUp(this.#refused)
      return
    }

    this.#dial(first)

    if (others.length > 0) {
      this.#fallback = this.#timers.after(LEAD_MS, () => this.#dialFallback())
    }
  }

  #usable (): Dialer[] {
    return this.#dialers.filter(({ kind }) => !this.#excluded.has(kind))
  }

  #dialFallback (): void {
    this.#fallback?.()
    this.#fallback = undefined

    if (this.session.path == null && !this.#isOver()) {
      for (const dialer of this.#usable()) {
        if (!this.#tried.has(dialer.kind)) {
          this.#dial(dialer)
        }
      }
    }
  }

  #dial (dialer: Dialer): void {
    if (this.#dials.has(dialer.kind)) {
      return
    }

    const controller = new AbortController()
    this.#dials.set(dialer.kind, controller)
    this.#tried.add(dialer.kind)
    const cancel = this.#timers.after(DIAL_LIMIT_MS, () => controller.abort())

    dialer.dial(this.#pathEvents(), controller.signal).then(path => {
      cancel()
      this.#dialed(dialer, controller, path)
    }, (err: DialError) => {
      cancel()
      this.#dialFailed(dialer, controller, err)
    })
  }

  #dialed (dialer: Dialer, controller: AbortController, path: Path): void {
    if (this.#dials.get(dialer.kind) !== controller || this.#isOver()) {
      path.close()
      return
    }

    this.#dials.delete(dialer.kind)

    // One at a time, and never back to the fallback.
    if (this.session.attaching || (this.session.path != null && !this.#isBetter(path.kind))) {
      this.#upgradeDelay = LATE_UPGRADE_MS
      path.close()
      return
    }

    this.#touch(() => this.session.attach(path, this.#timers.now()))
  }

  #dialFailed (dialer: Dialer, controller: AbortController, err: DialError): void {
    if (this.#dials.get(dialer.kind) === controller) {
      this.#dials.delete(dialer.kind)
      this.#failed(err.message)
    }
  }

  /** One way to a path came to nothing. */
  #failed (problem: string): void {
    if (this.#isOver()) {
      return
    }

    if (this.session.path != null) {
      this.#planUpgrade()
      return
    }

    if (!this.#problems.includes(problem)) {
      this.#problems.push(problem)
    }

    if (this.#fallback != null) {
      this.#dialFallback()
    } else if (this.#dials.size === 0 && !this.session.attaching) {
      this.#wait()
    }
  }

  #wait (): void {
    if (this.#usable().length === 0) {
      this.#giveUp(this.#refused)
      return
    }

    const base = RETRY_MS[Math.min(this.#failures, RETRY_MS.length - 1)]!
    const delay = Math.round(base * (0.8 + 0.4 * this.#timers.random()))
    const now = this.#timers.now()
    const { expiresAt } = this.session
    this.#failures++
    this.#retry?.()
    this.#retry = this.#timers.after(delay, () => this.#connect())
    this.#report({
      state: 'waiting',
      retryAt: now + delay,
      problems: this.#problems,
      again: this.session.resumable,
      expired: expiresAt != null && now > expiresAt
    })
  }

  #attached (path: Path, fresh: boolean): void {
    this.#attachedAt = this.#timers.now()
    this.#problems = []
    this.#silent = false

    // Slower dials of a worse kind are not needed any more.
    for (const [kind, controller] of this.#dials) {
      if (!this.#isBetter(kind)) {
        this.#dials.delete(kind)
        controller.abort()
      }
    }

    this.#fallback?.()
    this.#fallback = undefined
    this.#retry?.()
    this.#retry = undefined
    path.kind === 'websocket' ? this.#upgrader?.start() : this.#upgrader?.stop()
    this.#report({ state: 'connected', kind: path.kind, carrier: this.#carrier, resumed: !fresh, silent: false })
    this.#planUpgrade()
  }

  get #carrier (): Carrier | undefined {
    return this.session.path?.kind === 'websocket' ? this.#upgrader?.carrier : undefined
  }

  #carrierChanged (): void {
    if (this.#status.state === 'connected') {
      this.#report({ ...this.#status, carrier: this.#carrier })
    }
  }

  #detached (path: Path, reason: string): void {
    if (this.#isOver() || this.session.state === 'established') {
      this.#planUpgrade()
      return
    }

    // An attempt given up for another is no problem to report.
    if (this.session.attaching) {
      return
    }

    this.#upgrader?.stop()

    if (this.#status.state === 'connected') {
      this.#lost()
    } else {
      this.#failed(`${byPath(path.kind)}: ${reason}.`)
    }
  }

  /** The first retry is immediate, but not if connections keep breaking. */
  #lost (): void {
    if (this.#timers.now() - this.#attachedAt < SHORT_LIFE_MS) {
      this.#wait()
    } else {
      this.#failures = 0
      this.#connect()
    }
  }

  #refusedBy (path: Path, refusal: Refusal): void {
    this.#refused = refusal
    const elsewhere = this.#usable().some(({ kind }) => kind !== path.kind)
    // It may only mean "not by this kind of path": the session can be bound to a peer.
    const notHere = refusal.code === ErrorCode.sessionNotFound && path.kind !== this.session.openedOn

    if (refusal.during === 'resume' && notHere) {
      this.#excluded.add(path.kind)
      this.#failed(`${byPath(path.kind)}: the server does not continue this session there.`)
    } else if (refusal.during === 'resume' && this.session.path != null) {
      // A move has failed; the session goes on where it is.
      this.#planUpgrade()
    } else if (refusal.during === 'handshake' && NOT_ALLOWED.includes(refusal.code) && elsewhere) {
      this.#excluded.add(path.kind)
      this.#failed(describeRefusal(refusal))
    } else {
      this.#giveUp(refusal)
    }
  }

  #giveUp (refusal: Refusal | undefined): void {
    this.#ended({ cause: 'refused', code: refusal?.code ?? 0, text: refusal?.text ?? '', during: refusal?.during })
  }

  #fellSilent (silent: boolean): void {
    this.#silent = silent

    if (this.#status.state === 'connected') {
      this.#report({ ...this.#status, silent: this.#silent })
    }
  }

  #ended (end: End): void {
    this.#stopDialing()
    this.#report({ state: 'ended', end })
  }

  #isOver (): boolean {
    return this.#status.state === 'ended'
  }

  /** Better than the path in use. */
  #isBetter (kind: PathKind): boolean {
    const order = this.#dialers.map(dialer => dialer.kind)
    const current = this.session.path
    return current == null || order.indexOf(kind) < order.indexOf(current.kind)
  }

  #planUpgrade (): void {
    const better = this.#usable().some(({ kind }) => this.session.path != null && this.#isBetter(kind))

    if (better && this.#upgrade == null && !this.#isOver()) {
      this.#upgrade = this.#timers.after(this.#upgradeDelay, () => {
        this.#upgradeDelay = Math.min(Math.max(2 * this.#upgradeDelay, UPGRADE_FIRST_MS), UPGRADE_MAX_MS)
        this.#tryUpgrade()
      })
    }
  }

  #tryUpgrade (): void {
    this.#upgrade?.()
    this.#upgrade = undefined
    const better = this.#usable().find(({ kind }) => this.session.path != null && this.#isBetter(kind))

    if (better != null && this.session.resumable) {
      this.#dial(better)
    }
  }

  #stopDialing (): void {
    this.#upgrader?.stop()
    this.#cancelTimers()
    this.#abortDials()
  }

  #abortDials (): void {
    for (const controller of this.#dials.values()) {
      controller.abort()
    }

    this.#dials.clear()
  }

  #cancelTimers (): void {
    this.#retry?.()
    this.#fallback?.()
    this.#upgrade?.()
    this.#retry = this.#fallback = this.#upgrade = undefined
  }

  #pathEvents (): PathEvents {
    const { now } = this.#timers

    return {
      frame: (path, frame) => this.#touch(() => this.session.receive(path, frame, now())),
      malformed: (path, error) => this.#touch(() => this.session.receiveMalformed(path, error)),
      lost: (path, reason) => this.#touch(() => this.session.lost(path, now(), reason))
    }
  }

  #report (status: Status): void {
    this.#status = status
    this.#events.status(status)
  }

  /** Whatever happens to the session may move its next deadline. */
  #touch<T> (action: () => T): T {
    const result = action()
    const deadline = this.session.deadline()

    if (deadline !== this.#tick?.at) {
      this.#tick?.cancel()
      this.#tick = deadline == null
        ? undefined
        : {
            at: deadline,
            cancel: this.#timers.after(Math.max(0, deadline - this.#timers.now()), () => {
              this.#tick = undefined
              this.#touch(() => this.session.tick(this.#timers.now()))
            })
          }
    }

    return result
  }
}

function byPath (kind: PathKind): string {
  return kind === 'webrtc' ? 'By the direct path' : 'By WebSocket'
}
