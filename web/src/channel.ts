// The data channel beside a WebSocket, as the session sees it: its signaling, who moves when, and its end.
//
// The client leads: the server keeps its DATA on the WebSocket until the first frame of the client comes by the channel.
// What is ahead of its turn waits in the inbox, so a move needs nothing else. The peer connection itself, what offers and
// candidates mean, and when to try, is the upgrader's. Owned by the session.
import { ErrorCode, type Frame } from './frame.ts'
import { CHANNEL_FRAME, MAX_CANDIDATES, UPGRADE_TIMEOUT_MS } from './limits.ts'
import type { ChannelNews, Path, Signal } from './session-types.ts'
import type { Traffic } from './traffic.ts'

/** What belongs on the path of the session only. */
const REFUSED = new Set<Frame['type']>([
  'handshake-response', 'session-id', 'resume-response', 'error', 'webrtc-answer', 'ice-candidate', 'webrtc-ready'
])

/** What the session does for its channel. */
export interface ChannelHost {
  readonly traffic: Traffic
  /** Whether the session is open, on a WebSocket, and with the server's consent to data channels. */
  readonly upgradable: boolean
  /** Whether it is being found out what the server has or lacks. */
  readonly repairing: boolean
  /** Sends on the WebSocket. */
  send: (frame: Frame) => void
  /** DATA may have been lost with the channel. */
  repair: (now: number) => void
  fail: (code: number, text: string) => void
  signal: (signal: Signal) => void
  news: (news: ChannelNews) => void
}

export class Channel {
  readonly #host: ChannelHost
  /** When the attempt in progress is given up. */
  deadline: number | undefined
  #candidates = 0
  /** WEBRTC_READY came. */
  #ready = false
  /** We have moved to it, so that DATA of either side may be in it. */
  #used = false
  /** DATA of the server came by it. */
  #carried = false
  #silent = false

  constructor (host: ChannelHost) {
    this.#host = host
  }

  /** Whether DATA of the server may still be in it. */
  get carries (): boolean {
    return this.#used || this.#carried
  }

  /** Whether a channel may be offered. */
  get possible (): boolean {
    return this.#host.upgradable && !this.#host.repairing
  }

  /** Sends an offer, for an ICE restart if the channel is open; `false` if that cannot be done now. */
  offer (sdp: string, now: number): boolean {
    if (!this.possible) {
      return false
    }

    this.#candidates = 0

    // A further offer beside a living channel is an ICE restart and has no time limit of its own.
    if (this.#host.traffic.channel == null) {
      this.#ready = false
      this.deadline = now + UPGRADE_TIMEOUT_MS
    }

    this.#host.send({ type: 'webrtc-offer', sdp })
    return true
  }

  /** Tells a candidate of ours, or by an empty one that there are no more. */
  tell (candidate: Extract<Signal, { type: 'ice-candidate' }>): void {
    if (this.#host.upgradable) {
      this.#host.send(candidate)
    }
  }

  /** A WebRTC message of the server. */
  receive (frame: Signal | { type: 'webrtc-ready' }, now: number): void {
    if (!this.#host.upgradable) {
      return
    }

    if (frame.type === 'webrtc-ready') {
      // One that comes after the time is of an attempt that was given up.
      if (this.deadline != null) {
        this.#ready = true
        this.#lead(now)
      }
      return
    }

    if (frame.type === 'ice-candidate' && ++this.#candidates > MAX_CANDIDATES) {
      return
    }

    if (frame.type === 'webrtc-answer' && this.#host.traffic.channel == null) {
      // A READY before it was for an offer that was given up.
      this.#ready = false
    }

    this.#host.signal(frame)
  }

  /** The offered channel is open and takes messages of this size. When DATA moves there is decided here. */
  attach (path: Path, maxMessage: number, now: number): void {
    const { traffic } = this.#host

    if (this.possible && this.deadline != null && traffic.channel == null && maxMessage >= CHANNEL_FRAME) {
      traffic.addChannel(path, now)
      this.#lead(now)
    } else {
      path.close()
    }
  }

  /** Moves when both ends have it open. */
  #lead (now: number): void {
    if (this.#ready && this.#host.traffic.channel != null) {
      this.deadline = undefined
      this.#used = true
      this.#host.traffic.moveToChannel(now)
      this.#host.news('used')
    }
  }

  /** A frame came by the channel; `false`: nothing that opens, resumes or upgrades a session belongs there. */
  takes ({ type }: Frame): boolean {
    this.#carried ||= type === 'data'

    if (this.#silent) {
      this.#silent = false
      this.#host.news('heard')
    }

    if (!REFUSED.has(type)) {
      return true
    }

    this.#host.fail(ErrorCode.invalidState, `the server sent "${type}" on the data channel`)
    return false
  }

  /** Nothing came by it for some time, although it should. */
  silent (): void {
    this.#silent = true
    this.#host.news('silent')
  }

  /** The channel is gone, or the attempt is not worth waiting for. */
  lost (now: number): void {
    if (this.carries) {
      this.#close()
      this.#host.news('lost')
      this.#host.repair(now)
    } else {
      this.forget()
    }
  }

  /** Closes it without a trace: whatever it carried is sent again anyway, or the session is over. */
  forget (): void {
    if (this.deadline != null || this.#host.traffic.channel != null) {
      this.#close()
      this.#host.news('given-up')
    }
  }

  tick (now: number): void {
    if (this.deadline != null && now >= this.deadline) {
      this.lost(now)
    }
  }

  /** All begins anew. */
  #close (): void {
    const { traffic } = this.#host
    const path = traffic.channel?.path
    traffic.dropChannel()
    this.deadline = undefined
    this.#ready = this.#used = this.#carried = this.#silent = false
    path?.close()
  }
}
