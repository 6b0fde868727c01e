// Brings DATA of a session that lives on a WebSocket to a data channel: when it is tried, ICE restarts, when it is given
// up, when again. Owned by the connector. The peer connection and the time are brought by the caller; what a lost channel
// means for the bytes is the session's business.
import type { Channel } from './channel.ts'
import type { PathEvents } from './paths/dial.ts'
import type { ChannelNews, Path, Signal } from './session-types.ts'

/** One attempt, and the channel it came to. After `close` it tells nothing more. */
export interface Peer {
  /** Makes an offer, for an ICE restart if there was one before. */
  offer: () => void
  receive: (signal: Signal) => void
  /** Asks by which route packets travel. */
  inspect: () => void
  close: () => void
}

export interface PeerEvents extends PathEvents {
  offer: (sdp: string) => void
  /** A candidate of ours, or by an empty one that there are no more. */
  candidate: (candidate: Extract<Signal, { type: 'ice-candidate' }>) => void
  /** The channel is open and takes messages of this size. */
  open: (path: Path, maxMessage: number) => void
  /** The channel takes DATA again. */
  writable: () => void
  /** Whether packets get through. */
  reachable: (state: 'yes' | 'not now' | 'no') => void
  /** By which route: through a TURN server or not. */
  route: (relayed: boolean) => void
  /** There will be no channel. */
  failed: (reason: string) => void
}

export type MakePeer = (events: PeerEvents) => Peer

/** What carries DATA, for people. */
export type Carrier = 'websocket' | 'direct' | 'relayed' | 'restarting' | 'falling-back'

export interface UpgraderHost {
  readonly channel: Pick<Channel, 'possible' | 'offer' | 'tell' | 'attach' | 'lost'>
  now: () => number
  after: (milliseconds: number, callback: () => void) => () => void
  random: () => number
  /** Calls back and takes care of what follows for the session. */
  touch: (action: () => void) => void
  paths: PathEvents
  writable: () => void
  /** `carrier` is another one. */
  changed: () => void
}

const RETRY_FIRST_MS = 30_000
const RETRY_MAX_MS = 600_000

/** A channel that lived this long is tried again soon; one that did not counts as a failed attempt. */
const SHORT_LIFE_MS = 30_000
const RETRY_SOON_MS = 2000

/**
 * An ICE restart has this long, two round trips of signaling and checks; then what is under way is fetched by the
 * WebSocket, which lives meanwhile.
 */
const RESTART_LIMIT_MS = 3000
const INSPECT_EVERY_MS = 10_000

export class Upgrader {
  readonly #host: UpgraderHost
  readonly #makePeer: MakePeer
  #peer: Peer | undefined
  /** Since when DATA leaves by the channel. */
  #usedSince: number | undefined
  #relayed = false
  #fallingBack = false
  /** Ends the time of an ICE restart. */
  #restart: (() => void) | undefined
  #retry: (() => void) | undefined
  #inspection: (() => void) | undefined
  #delay = RETRY_FIRST_MS

  constructor (host: UpgraderHost, makePeer: MakePeer) {
    this.#host = host
    this.#makePeer = makePeer
  }

  get carrier (): Carrier {
    if (this.#usedSince == null) {
      return this.#fallingBack ? 'falling-back' : 'websocket'
    }

    return this.#restart != null ? 'restarting' : this.#relayed ? 'relayed' : 'direct'
  }

  /** The session has just come to a WebSocket. */
  start (): void {
    this.stop()

    if (this.#host.channel.possible) {
      this.#try()
    }
  }

  /** The session left it, or is over. */
  stop (): void {
    this.#drop()
    this.#cancelRetry()
    this.#delay = RETRY_FIRST_MS
    this.#fallingBack = false
  }

  /** The network changed, the page woke up or the user asks. */
  nudge (): void {
    if (this.#retry != null) {
      this.#delay = RETRY_FIRST_MS
      this.#try()
    }
  }

  /** A WebRTC message of the server. */
  receive (signal: Signal): void {
    const refused = signal.type === 'webrtc-answer' && signal.sdp === ''

    if (!refused) {
      this.#peer?.receive(signal)
    } else if (this.#usedSince == null) {
      this.#giveUp()
    }
  }

  news (news: ChannelNews): void {
    switch (news) {
      case 'used':
        this.#usedSince = this.#host.now()
        this.#inspect()
        break
      case 'silent':
        this.#interrupted()
        break
      case 'heard':
        this.#endRestart()
        break
      case 'lost':
        this.#fallingBack = true
        this.#drop()
        break
      case 'repaired':
        this.#fallingBack = false
        this.#plan()
        break
      case 'given-up':
        this.#drop()
        this.#plan()
        break
    }

    this.#host.changed()
  }

  #try (): void {
    this.#cancelRetry()

    if (this.#peer != null) {
      return
    }

    if (!this.#host.channel.possible) {
      this.#plan()
      return
    }

    // What a peer says that was dropped means nothing.
    const current = <Args extends unknown[]>(action: (...args: Args) => void) => (...args: Args): void => {
      if (this.#peer === peer) {
        this.#host.touch(() => action(...args))
      }
    }

    const { channel, now, paths, writable } = this.#host
    const peer = this.#makePeer({
      ...paths,
      offer: current(sdp => this.#offer(sdp)),
      candidate: current(candidate => channel.tell(candidate)),
      open: current((path, maxMessage) => channel.attach(path, maxMessage, now())),
      writable: current(writable),
      reachable: current(state => this.#reachable(state)),
      route: current(relayed => this.#route(relayed)),
      failed: current(() => this.#giveUp())
    })
    this.#peer = peer
    peer.offer()
  }

  #offer (sdp: string): void {
    // An offer for a restart that comes too late is not missed.
    if (!this.#host.channel.offer(sdp, this.#host.now()) && this.#usedSince == null) {
      this.#giveUp()
    }
  }

  /** No channel comes of this attempt. */
  #giveUp (): void {
    this.#drop()
    this.#plan()
    this.#host.channel.lost(this.#host.now())
  }

  #reachable (state: 'yes' | 'not now' | 'no'): void {
    if (this.#usedSince == null) {
      if (state === 'no') {
        this.#giveUp()
      }
    } else if (state === 'yes') {
      this.#endRestart()
      this.#peer?.inspect()
      this.#host.changed()
    } else {
      this.#interrupted()
      this.#host.changed()
    }
  }

  /** Packets stopped to pass. */
  #interrupted (): void {
    if (this.#restart == null) {
      this.#restart = this.#host.after(RESTART_LIMIT_MS, () => {
        this.#restart = undefined
        this.#host.touch(() => this.#host.channel.lost(this.#host.now()))
      })
      this.#peer?.offer()
    }
  }

  #route (relayed: boolean): void {
    if (relayed !== this.#relayed) {
      this.#relayed = relayed
      this.#host.changed()
    }
  }

  /** Browsers tell a change of the route late or not at all. */
  #inspect (): void {
    this.#peer?.inspect()
    this.#inspection = this.#host.after(INSPECT_EVERY_MS, () => this.#inspect())
  }

  #drop (): void {
    const lived = this.#usedSince == null ? 0 : this.#host.now() - this.#usedSince
    this.#delay = lived < SHORT_LIFE_MS ? this.#delay : RETRY_SOON_MS
    const peer = this.#peer
    this.#peer = undefined
    this.#usedSince = undefined
    this.#relayed = false
    this.#inspection?.()
    this.#inspection = undefined
    this.#endRestart()
    peer?.close()
  }

  #endRestart (): void {
    this.#restart?.()
    this.#restart = undefined
  }

  #plan (): void {
    if (this.#retry == null) {
      const delay = Math.round(this.#delay * (0.8 + 0.4 * this.#host.random()))
      this.#delay = Math.min(Math.max(2 * this.#delay, RETRY_FIRST_MS), RETRY_MAX_MS)
      this.#retry = this.#host.after(delay, () => this.#try())
    }
  }

  #cancelRetry (): void {
    this.#retry?.()
    this.#retry = undefined
  }
}
