// The end of a session: CLOSE in both directions, without cutting off what was sent before it. CLOSE leaves by the
// WebSocket and would overtake DATA in a data channel, so the side that has sent or may still get some there waits for
// the answer to a PING on it. Owned by the session.
import { CloseCode, type Frame } from './frame.ts'
import { CLOSE_TIMEOUT_MS } from './limits.ts'
import type { End, Lane } from './session-types.ts'
import type { Traffic } from './traffic.ts'

type Close = Extract<Frame, { type: 'close' }>

type Step =
  /** Ours: what was typed leaves first, as long as it gets on. */
  | { name: 'drain', until: number }
  /** Ours: this PING on the channel shows that the last DATA has arrived. */
  | { name: 'check', until: number, lane: Lane, ping: number }
  /** Ours: CLOSE was sent. */
  | { name: 'answer', until: number }
  /** The server's, to be answered when this PING shows that its last DATA is here, or when it sends it once more. */
  | { name: 'reply', until: number, close: Close, lane?: Lane, ping?: number }

/** What the session does for its end. */
export interface EndingHost {
  readonly traffic: Traffic
  /** Whether it is being found out what the server has or lacks. */
  readonly repairing: boolean
  /** How long the answer to a PING may take. */
  readonly patienceMs: number
  send: (frame: Frame) => void
  end: (end: End) => void
}

export class Ending {
  readonly #host: EndingHost
  #step: Step | undefined
  /** An ERROR of the server; a CLOSE should follow. */
  #error: { code: number, text: string, until: number } | undefined

  constructor (host: EndingHost) {
    this.#host = host
  }

  get begun (): boolean {
    return this.#step != null
  }

  /** Whether what was typed may still leave. */
  get drains (): boolean {
    return this.#step?.name === 'drain'
  }

  /** Whether CLOSE was sent: nothing of what came before it matters any more. */
  get awaitsAnswer (): boolean {
    return this.#step?.name === 'answer'
  }

  get deadline (): number | undefined {
    const { until } = this.#error ?? {}
    return until == null || this.#step == null ? this.#step?.until ?? until : Math.min(until, this.#step.until)
  }

  /** The user ends the session; `sent`: CLOSE has left already. */
  begin (now: number, sent = false): void {
    this.#step = { name: sent ? 'answer' : 'drain', until: now + CLOSE_TIMEOUT_MS }
  }

  /** Takes the next step if it is possible; `moved`: something has left just now. */
  advance (moved: boolean, now: number): void {
    const { traffic, repairing, patienceMs } = this.#host

    if (this.#step?.name !== 'drain') {
      return
    }

    if (repairing || !traffic.outbox.drained) {
      this.#step.until = moved ? now + CLOSE_TIMEOUT_MS : this.#step.until
      return
    }

    if (traffic.onChannel) {
      const lane = traffic.channel!
      this.#step = { name: 'check', until: now + patienceMs, lane, ping: traffic.ping(lane, now) }
    } else {
      this.#send(now)
    }
  }

  #send (now: number): void {
    this.#step = { name: 'answer', until: now + CLOSE_TIMEOUT_MS }
    this.#host.send({ type: 'close', byClient: true, code: CloseCode.user, text: '' })
  }

  /** This PING was answered, and with it all before it on that path. */
  answered (lane: Lane, ping: number, now: number): void {
    if (this.#step?.name === 'check' && this.#step.lane === lane && this.#step.ping <= ping) {
      this.#send(now)
    } else if (this.#step?.name === 'reply' && this.#step.lane === lane && this.#step.ping! <= ping) {
      this.#reply(this.#step.close)
    }
  }

  /** A frame came: as long as some do, the last DATA is on its way. */
  heard (lane: Lane, now: number): void {
    if (this.#step?.name === 'reply' && this.#step.lane === lane) {
      this.#step.until = now + this.#host.patienceMs
    }
  }

  /** CLOSE came; `other` is a path on which DATA before it may still be under way. */
  close (close: Close, other: Lane | undefined, now: number): void {
    const { traffic, repairing, patienceMs } = this.#host
    const until = now + patienceMs

    if (this.#step?.name === 'answer') {
      // Recognized by state, not by its flag: both sides may have begun at once.
      this.#host.end(this.#ownEnd)
    } else if (this.#step?.name === 'reply' && this.#step.lane != null) {
      // It waits already.
    } else if (this.#step == null && repairing) {
      this.#step = { name: 'reply', until, close }
    } else if (this.#step == null && other != null) {
      this.#step = { name: 'reply', until, close, lane: other, ping: traffic.ping(other, now) }
    } else {
      this.#reply(close)
    }
  }

  #reply (close: Close): void {
    this.#host.send({ ...close })
    this.#host.end(this.#endBy(close))
  }

  /** ERROR came. */
  error (code: number, text: string, now: number): void {
    this.#error ??= { code, text, until: now + CLOSE_TIMEOUT_MS }
  }

  /** What was lost with the channel is under way by the WebSocket, in both directions, and a CLOSE of the server behind it. */
  repaired (now: number): void {
    const until = now + CLOSE_TIMEOUT_MS

    if (this.#step?.name === 'reply') {
      this.#step = { name: 'reply', until, close: this.#step.close }
    } else if (this.#step?.name === 'check') {
      this.#step = { name: 'drain', until }
    }
  }

  /** How the session ends when its path is lost now; nothing if it need not. */
  get lostEnd (): End | undefined {
    if (this.#step?.name === 'reply') {
      return this.#endBy(this.#step.close)
    }

    return this.#step == null && this.#error == null ? undefined : this.#ownEnd
  }

  tick (now: number): void {
    const { end } = this.#host

    if (this.#error != null && now >= this.#error.until) {
      end(this.#ownEnd)
    } else if (this.#step == null || now < this.#step.until) {
      // Not yet.
    } else if (this.#step.name === 'answer') {
      end(this.#ownEnd)
    } else if (this.#step.name === 'reply') {
      this.#reply(this.#step.close)
    } else {
      this.#send(now)
    }
  }

  /** The end that we began, or that an ERROR began. */
  get #ownEnd (): End {
    return this.#error == null
      ? { cause: 'local', code: CloseCode.user, text: '' }
      : { cause: 'closed', code: this.#error.code, text: this.#error.text }
  }

  #endBy ({ code, text }: Close): End {
    return { cause: 'closed', code: this.#error?.code ?? code, text: this.#error?.text ?? text }
  }
}
