// What runs on the paths of a session: DATA in both directions, the PINGs that confirm it and show that a path lives, and
// the brakes. There is one path, and perhaps a data channel beside it. Owned by the session, which says on which path it
// lives and what a loss means.
import type { Agreement } from './agreement.ts'
import { encode, ErrorCode, type Data, type Frame } from './frame.ts'
import { Inbox } from './inbox.ts'
import { Keepalive, type Pace } from './keepalive.ts'
import { CONFIRM_EVERY, MAX_GAPS, MAX_UNKNOWN_FRAMES, PROBE_MS } from './limits.ts'
import { Outbox } from './outbox.ts'
import type { Lane, Path } from './session-types.ts'

/** Browsers take long to notice that packets stopped to pass; the WebSocket could carry the session meanwhile. */
const CHANNEL_PACE: Pace = { watchedMs: 2500, silentMs: 3000 }

/** What the session does for its traffic. */
export interface TrafficHost {
  /** Whether DATA may leave now. */
  readonly flows: boolean
  /** Whether it is being decided if the session goes on on another path. */
  readonly moving: boolean
  /** Bytes for the terminal. */
  data: (bytes: Uint8Array) => void
  rtt: (milliseconds: number) => void
  silent: (silent: boolean) => void
  /** The channel shows no life. */
  channelSilent: () => void
  /** This PING was answered, and with it all before it on that path. */
  answered: (lane: Lane, ping: number, now: number) => void
  /** What could leave has left; `moved`: it was something. */
  pumped: (moved: boolean, now: number) => void
  lost: (lane: Lane, now: number, reason: string) => void
  fail: (code: number, text: string) => void
}

/** The frames that are handled here, by whatever path they come. */
type TrafficFrame = Extract<Frame, { type: 'data' | 'ping' | 'pong' | 'flow-control' }>

export class Traffic {
  readonly #host: TrafficHost
  readonly #inbox: Inbox
  readonly #outbox = new Outbox()
  #agreement: Agreement | undefined
  #main: Lane | undefined
  #channel: Lane | undefined
  #onChannel = false
  #pings = 0
  #unknownFrames = 0
  /** The server wants no DATA at present. */
  #paused = false
  #watched = true
  #silent = false

  constructor (host: TrafficHost) {
    this.#host = host
    this.#inbox = new Inbox(data => {
      host.data(data)
      this.#steer()
    })
  }

  get inbox (): Pick<Inbox, 'last' | 'missingSince'> {
    return this.#inbox
  }

  get outbox (): Pick<Outbox, 'size' | 'drained' | 'lastNumber' | 'confirmed' | 'inDoubt'> {
    return this.#outbox
  }

  /** The path of the session: that of control frames. */
  get main (): Lane | undefined {
    return this.#main
  }

  /** The data channel beside it. */
  get channel (): Lane | undefined {
    return this.#channel
  }

  /** Whether our DATA leaves by the channel. */
  get onChannel (): boolean {
    return this.#onChannel
  }

  get #lanes (): Lane[] {
    return [this.#main, this.#channel].filter(lane => lane != null)
  }

  /** The path by which our DATA leaves. */
  get #lane (): Lane | undefined {
    return this.#onChannel ? this.#channel : this.#main
  }

  /** The paths whose life is watched. */
  get #watchedLanes (): Lane[] {
    return this.#onChannel ? this.#lanes : this.#lanes.slice(0, 1)
  }

  laneOf (path: Path): Lane | undefined {
    return this.#lanes.find(lane => lane.path === path)
  }

  agree (agreement: Agreement): void {
    this.#agreement = agreement
    this.#outbox.limitPieces(agreement.maxMessageSize)
  }

  /** The session is on this path from now on. */
  begin (path: Path, now: number): void {
    if (this.#main?.path !== path) {
      this.leave()
      this.#main = { path, keepalive: new Keepalive(now, this.#agreement!) }
    }

    this.#paused = false
    this.#inbox.resumed()
  }

  /** Both sides know what the other one has, and go on. */
  greet (now: number): void {
    this.ping(this.#main!, now)
    this.#steer()
    this.pump(now)
    this.#setSilent(false)
  }

  /** The session is on no path. */
  leave (): void {
    this.#drop(this.#main)
    this.#main = undefined
  }

  addChannel (path: Path, now: number): void {
    this.#channel = { path, keepalive: new Keepalive(now, this.#agreement!, CHANNEL_PACE) }
    this.#inbox.expectTwoPaths()
  }

  /** Our DATA leaves by the channel from now on. */
  moveToChannel (now: number): void {
    // Confirms what left before; later PINGs there prove nothing about it.
    this.ping(this.#main!, now)
    this.#onChannel = true
    // Shows the server that it may follow, also when nobody types.
    this.ping(this.#channel!, now)
    this.pump(now)
  }

  dropChannel (): void {
    this.#drop(this.#channel)
    this.#channel = undefined
    this.#onChannel = false
  }

  #drop (lane: Lane | undefined): void {
    if (lane != null) {
      this.#inbox.gone(lane)
    }
  }

  /** The order of what came by two paths cannot be found out. */
  giveUpOrder (): void {
    this.#inbox.giveUpBarrier()
  }

  /** What left by the channel may be lost: nothing leaves before the server says what it has. */
  doubt (): void {
    this.#outbox.doubt()
  }

  /** The server has everything up to this number; the rest is sent again. */
  repeat (received: bigint): void {
    for (const data of this.#outbox.repeat(received)) {
      this.send(this.#main!, data)
    }
  }

  /** Takes bytes of the user. */
  push (data: Uint8Array, now: number): void {
    this.#outbox.push(data)
    this.pump(now)
  }

  /** Sends what may leave now. */
  pump (now: number): void {
    const lane = this.#lane

    if (lane == null || !this.#host.flows) {
      return
    }

    let moved = false

    while (!this.#paused && lane.path.congested !== true) {
      const data = this.#outbox.next(this.#agreement!.resume)

      if (data == null) {
        break
      }

      this.send(lane, data)
      moved = true
    }

    if (this.#outbox.unconfirmed >= CONFIRM_EVERY && this.#outbox.unasked) {
      this.ping(lane, now)
    }

    this.#host.pumped(moved, now)
  }

  /** Sends a PING and gives its number. On the path of our DATA the answer confirms what left before. */
  ping (lane: Lane, now: number): number {
    const number = ++this.#pings

    if (lane === this.#lane) {
      this.#outbox.mark(lane, number)
    }

    this.send(lane, { type: 'ping', payload: lane.keepalive.ping(now, number) })
    return number
  }

  /** Any frame is a sign of life. */
  heard (lane: Lane): void {
    lane.keepalive.heard()

    if (lane === this.#main) {
      this.#setSilent(false)
    }
  }

  receive (lane: Lane, frame: TrafficFrame, now: number): void {
    switch (frame.type) {
      case 'data':
        this.#receiveData(lane, frame, now)
        break
      case 'ping':
        this.#receivePing(lane, frame.payload, now)
        break
      case 'pong':
        this.#receivePong(lane, frame.payload, now)
        break
      case 'flow-control':
        this.#paused = !frame.on
        this.pump(now)
        break
    }
  }

  /** A frame of a type this version does not know: ignored, but not for ever. */
  receiveUnknown (): void {
    if (++this.#unknownFrames >= MAX_UNKNOWN_FRAMES) {
      this.#host.fail(ErrorCode.protocolError, 'the server sends many frames of unknown types')
    }
  }

  #receiveData (lane: Lane, data: Data, now: number): void {
    const { resume, maxMessageSize } = this.#agreement!

    if (data.data.length > maxMessageSize) {
      this.#host.fail(ErrorCode.messageTooLarge, `the server sent ${data.data.length} bytes at once`)
    } else if (!resume) {
      this.#inbox.takeInTurn(lane, data, now, this.#main!, old => this.ping(old, now))
    } else if (!this.#inbox.takeNumbered(data, now)) {
      this.#receiveGap(lane, now)
    }

    if (this.#inbox.overflows) {
      // It does not pause when it is told to. What waits is sent again by one path.
      this.#host.lost(this.#channel ?? lane, now, 'too much output came ahead of its turn')
    }

    this.#steer()
  }

  /** Something is missing: the server still has it, so it is fetched by a resume. */
  #receiveGap (lane: Lane, now: number): void {
    if (this.#inbox.gaps >= MAX_GAPS) {
      this.#host.fail(ErrorCode.sequenceMismatch, 'the server left out a part of the output')
    } else {
      this.#host.lost(lane, now, 'a part of the output is missing')
    }
  }

  /**
   * An answer confirms all DATA that came by this path before it, also what a resume request under way on another path
   * does not count: the server would forget what it is about to be asked for. So the answer waits.
   */
  #receivePing (lane: Lane, payload: Uint8Array, now: number): void {
    if (!this.#host.moving) {
      this.send(lane, { type: 'pong', payload })
      return
    }

    lane.keepalive.withhold(payload)

    // A sign of life in its place.
    if (!lane.keepalive.waits) {
      this.ping(lane, now)
    }
  }

  #receivePong (lane: Lane, payload: Uint8Array, now: number): void {
    const answered = lane.keepalive.pong(now, payload)

    if (answered == null) {
      return
    }

    this.#outbox.answered(lane, answered.number)
    this.#inbox.answered(lane, answered.number)

    if (lane === this.#lane) {
      this.#host.rtt(answered.rtt)
    }

    this.#host.answered(lane, answered.number, now)
    this.pump(now)
  }

  /** Answers PINGs that had to wait. */
  release (): void {
    for (const lane of this.#lanes) {
      for (const payload of lane.keepalive.release()) {
        this.send(lane, { type: 'pong', payload })
      }
    }
  }

  rendered (bytes: number): void {
    this.#inbox.rendered(bytes)
    this.#steer()
  }

  /** Tells the server to pause or to go on, if that is due. */
  #steer (): void {
    const on = this.#main == null ? undefined : this.#inbox.flow()

    if (on != null) {
      this.send(this.#main!, { type: 'flow-control', on })
    }
  }

  /** Whether somebody sees the page: the round trip time is measured more often then. */
  setWatched (watched: boolean): void {
    this.#watched = watched
  }

  /** After a wake-up or a change of networks: are the paths still good? */
  probe (now: number): void {
    for (const lane of this.#watchedLanes) {
      lane.keepalive.hurry(now, PROBE_MS)
      this.ping(lane, now)
    }
  }

  /** When a path wants to be asked for a sign of life. */
  deadline (): number | undefined {
    const deadlines = this.#watchedLanes.map(({ keepalive }) => keepalive.deadline(this.#watched))
    return deadlines.length === 0 ? undefined : Math.min(...deadlines)
  }

  tick (now: number): void {
    for (const lane of this.#watchedLanes) {
      if (this.#lanes.includes(lane)) {
        this.#judge(lane, now)
      }
    }
  }

  #judge (lane: Lane, now: number): void {
    const verdict = lane.keepalive.check(now, this.#watched)

    if (verdict === 'silent') {
      lane === this.#main ? this.#setSilent(true) : this.#host.channelSilent()
    }

    if (verdict === 'dead') {
      this.#host.lost(lane, now, 'the server stopped answering')
    } else if (verdict !== 'alive') {
      this.ping(lane, now)
    }
  }

  #setSilent (silent: boolean): void {
    if (silent !== this.#silent) {
      this.#silent = silent
      this.#host.silent(silent)
    }
  }

  /** Sends a frame on a path of the session. */
  send (lane: Lane, frame: Frame): void {
    lane.path.send(encode(frame))
  }
}
