// A SocketPipe server reduced to what a client can notice: handshake, numbered DATA, ring, resume, newest wins, and a data
// channel beside the WebSocket. For tests only. The caller carries the frames and provides the backend.
import {
  Capability, CloseCode, DEFAULT_MESSAGE_SIZE, encode, ErrorCode, type Data, type Frame, type HandshakeRequest
} from '../src/frame.ts'
import { Ring, Sequence, Turns } from './server-order.ts'

/** The server's end of one connection. */
export interface Wire {
  send: (frame: Uint8Array) => void
  close: () => void
}

export interface Backend {
  input: (data: Uint8Array) => void
  resize: (columns: number, rows: number) => void
  /** The client's wish to pause or go on. */
  flow: (on: boolean) => void
  end: () => void
}

export interface ServerOptions {
  accepts: (request: HandshakeRequest) => { code: number, text: string } | undefined
  backend: (session: ServerSession, request: HandshakeRequest) => Backend
  resume?: boolean
  /** Appends the last client number to a resume response. */
  repair?: boolean
  ring?: number
  pingInterval?: number
  pingTimeout?: number
  maxMessageSize?: number
  resumeTimeout?: number
  /** Takes data channels. */
  webrtc?: boolean
  /** What it does on READY and on the client's first frame by the channel: other servers may do otherwise. */
  moves?: 'behind the client' | 'at once' | 'never'
  /** What it does with a RESUME_REQUEST on a connection in use. */
  asked?: 'answers' | 'refuses' | 'ignores'
  /** Sends CLOSE without waiting for what is in the channel. */
  hasty?: boolean
}

const REFUSED_LATE = { code: ErrorCode.invalidState, text: 'expected as first frame only' }

export class ServerSession {
  readonly id: Uint8Array
  readonly env = new Map<string, string>()
  /** What came by WebRTC frames. */
  readonly signals: Frame[] = []
  readonly #options: ServerOptions
  #backend!: Backend
  #wire: Wire | undefined
  #channel: Wire | undefined
  /** The client has used the channel. */
  #used = false
  #onChannel = false
  /** DATA was lost with the channel: it waits until the client says what it has. */
  #stalled = false
  #numbered = false
  readonly #ring: Ring
  readonly #sequence = new Sequence()
  readonly #turns = new Turns<Wire>()
  /** Waits for the answer to a PING on the channel. */
  #check: { payload: string, then: () => void } | undefined
  #pings = 0
  #closed: { code: number, text: string } | undefined
  ended = false
  resumes = 0

  constructor (options: ServerOptions, id: Uint8Array) {
    this.id = id
    this.#options = options
    this.#ring = new Ring(options.ring ?? 1_048_576)
  }

  get wire (): Wire | undefined {
    return this.#wire
  }

  get onChannel (): boolean {
    return this.#onChannel
  }

  /** Whether output can be taken without overflowing the ring. */
  get hasRoom (): boolean {
    return (this.#wire != null && !this.#stalled) || this.#ring.bytes < (this.#options.ring ?? 1_048_576) / 2
  }

  start (wire: Wire, request: HandshakeRequest): void {
    const resume = this.#options.resume !== false && (request.capabilities & Capability.resume) !== 0
    const webrtc = this.#options.webrtc === true && (request.capabilities & Capability.webrtc) !== 0
    this.#wire = wire
    this.#numbered = resume
    this.#backend = this.#options.backend(this, request)
    this.#send({
      type: 'handshake-response',
      ok: true,
      capabilities: (resume ? Capability.resume : 0) | (webrtc ? Capability.webrtc : 0),
      major: 1,
      minor: 0,
      pingInterval: this.#options.pingInterval ?? 30,
      pingTimeout: this.#options.pingTimeout ?? 10,
      maxMessageSize: this.#options.maxMessageSize ?? DEFAULT_MESSAGE_SIZE
    })

    if (resume) {
      this.#send({
        type: 'session-id',
        id: this.id,
        timeout: this.#options.resumeTimeout ?? 300,
        bufferSize: this.#options.ring ?? 1_048_576
      })
    }
  }

  resume (wire: Wire, last: bigint): { code: number, text: string } | undefined {
    const refusal = this.#ring.refusal(last)

    if (refusal != null) {
      return refusal
    }

    if (wire !== this.#wire) {
      const old = this.#wire
      this.#wire = undefined
      old?.send(encode({ type: 'close', byClient: false, code: CloseCode.replaced, text: 'replaced' }))
      old?.close()
    }

    this.#wire = wire
    this.#dropChannel()
    this.#stalled = false
    this.#check = undefined
    this.#sequence.forgetAhead()
    this.resumes++
    const replay = this.#ring.after(last)
    this.#send({
      type: 'resume-response',
      ok: true,
      start: last + 1n,
      count: replay.length,
      ...(this.#options.repair === false ? {} : { lastFromClient: this.#sequence.last })
    })

    for (const { number, data } of replay) {
      this.#send({ type: 'data', number, data })
    }

    if (this.#closed != null) {
      this.#send({ type: 'close', byClient: false, ...this.#closed })
    }

    return undefined
  }

  /** The data channel is open at this end. */
  attachChannel (wire: Wire): void {
    this.#channel = wire
    this.#used = false
    this.#send({ type: 'webrtc-ready' })

    if (this.#options.moves === 'at once') {
      this.#move()
    }
  }

  #move (): void {
    this.ping(Uint8Array.of(255, ++this.#pings))
    this.#onChannel = true
  }

  /** The channel broke. */
  #channelLost (): void {
    const used = this.#used
    const moved = this.#onChannel
    this.#dropChannel()
    this.#stalled ||= (used || moved) && this.#numbered

    if (this.#stalled) {
      // What left may be lost, and a PONG on another path proves nothing about it.
      this.#ring.forgetMarks()
    }

    if (moved && !used) {
      // The client may not know that there was a channel: a new connection makes it ask.
      this.#wire?.close()
    }

    this.#check?.then()
  }

  #dropChannel (): void {
    const channel = this.#channel
    this.#channel = undefined
    this.#used = this.#onChannel = false
    channel?.close()

    if (channel != null) {
      this.#turns.gone(channel).forEach(data => this.#backend.input(data))
    }
  }

  /** Output of the backend. */
  output (data: Uint8Array): void {
    const number = this.#ring.push(data)
    const frame: Data = this.#numbered ? { type: 'data', number, data } : { type: 'data', data }

    if (!this.#stalled) {
      this.#onChannel ? this.#sendOnChannel(frame) : this.#send(frame)
    }
  }

  /** All output has left; CLOSE may not overtake what is in the channel. */
  close (code: number, text: string): void {
    this.#closed = { code, text }

    if (this.#onChannel && this.#options.hasty !== true) {
      this.#afterChannel(() => this.#send({ type: 'close', byClient: false, code, text }))
    } else {
      this.#send({ type: 'close', byClient: false, code, text })
    }
  }

  /** Calls back when what was sent on the channel, either way, has arrived. */
  #afterChannel (then: () => void): void {
    const payload = Uint8Array.of(254, ++this.#pings)
    this.#check = {
      payload: payload.toString(),
      then: () => {
        this.#check = undefined

        if (!this.#stalled) {
          then()
        }
      }
    }
    this.#sendOnChannel({ type: 'ping', payload })
  }

  /** On the path of output: its answer confirms what left before. */
  ping (payload: Uint8Array): void {
    if (!this.#stalled) {
      this.#ring.mark(this.#onChannel ? this.#channel! : this.#wire, payload)
    }

    const frame: Frame = { type: 'ping', payload }
    this.#onChannel ? this.#sendOnChannel(frame) : this.#send(frame)
  }

  lost (wire: Wire): void {
    if (wire === this.#channel) {
      this.#channelLost()
    } else if (wire === this.#wire) {
      this.#wire = undefined
      this.#dropChannel()
    }
  }

  receive (wire: Wire, frame: Frame): void {
    if (wire === this.#channel) {
      if (!this.#used) {
        this.#used = true

        if (this.#options.moves == null || this.#options.moves === 'behind the client') {
          this.#move()
        }
      }
    } else if (wire !== this.#wire) {
      return
    }

    switch (frame.type) {
      case 'data':
        this.#receiveData(wire, frame)
        break
      case 'ping':
        wire.send(encode({ type: 'pong', payload: frame.payload }))
        break
      case 'pong':
        this.#receivePong(wire, frame.payload.toString())
        break
      case 'resize':
        this.#backend.resize(frame.columns, frame.rows)
        break
      case 'flow-control':
        this.#backend.flow(frame.on)
        break
      case 'env':
        this.env.set(frame.name, frame.value)
        break
      case 'resume-request':
        this.#asked(wire, frame.last)
        break
      case 'webrtc-offer':
      case 'ice-candidate':
        this.signals.push(frame)
        break
      case 'close':
        this.#receiveClose(wire, frame)
        break
      default:
        break
    }
  }

  /** On a connection in use. */
  #asked (wire: Wire, last: bigint): void {
    if (this.#options.asked === 'refuses') {
      this.#send({ type: 'error', ...REFUSED_LATE })
    } else if (this.#options.asked !== 'ignores') {
      const refusal = this.resume(wire, last)

      if (refusal != null) {
        this.#send({ type: 'resume-response', ok: false, ...refusal })
      }
    }
  }

  #receiveClose (wire: Wire, frame: Extract<Frame, { type: 'close' }>): void {
    const finish = (): void => {
      if (this.#closed == null) {
        this.#send({ ...frame })
      }

      this.ended = true
      this.#backend.end()
      this.#channel?.close()
      wire.close()
    }

    this.#closed == null && this.#used && this.#channel != null && wire !== this.#channel
      ? this.#afterChannel(finish)
      : finish()
  }

  #receivePong (wire: Wire, payload: string): void {
    this.#ring.answered(wire, payload)
    this.#turns.answered(payload).forEach(data => this.#backend.input(data))

    if (wire === this.#channel && payload === this.#check?.payload) {
      this.#check.then()
    }
  }

  #receiveData (wire: Wire, { number, data }: Data): void {
    if (number == null || !this.#numbered) {
      this.#turns.take(wire, data, old => {
        const payload = Uint8Array.of(253, ++this.#pings)
        old.send(encode({ type: 'ping', payload }))
        return payload.toString()
      }).forEach(data => this.#backend.input(data))
      return
    }

    const mayWait = this.#channel != null
    const taken = this.#sequence.take(number, data)

    if (this.#options.repair !== false && !mayWait && this.#sequence.waits && !this.#stalled) {
      throw new Error(`DATA ${number} after ${this.#sequence.last}`)
    }

    if (this.#options.repair === false && this.#sequence.waits) {
      this.#sequence.skip().forEach(data => this.#backend.input(data))
    }

    taken.forEach(data => this.#backend.input(data))
  }

  #send (frame: Frame): void {
    this.#wire?.send(encode(frame))
  }

  #sendOnChannel (frame: Frame): void {
    this.#channel?.send(encode(frame))
  }

  /** Answers an offer. */
  answer (sdp: string): void {
    this.#send({ type: 'webrtc-answer', sdp })
  }
}

/** All sessions of one server. */
export class ServerModel {
  readonly sessions = new Map<string, ServerSession>()
  readonly #options: ServerOptions
  #ids = 0

  constructor (options: ServerOptions) {
    this.#options = options
  }

  /** Takes the first frame of a connection; the session if one is on it now. */
  accept (wire: Wire, frame: Frame): ServerSession | undefined {
    if (frame.type === 'handshake-request') {
      const refusal = this.#options.accepts(frame)

      if (refusal != null) {
        wire.send(encode({ type: 'handshake-response', ok: false, ...refusal }))
        return undefined
      }

      const session = new ServerSession(this.#options, Uint8Array.of(1, 2, 3, 4, ++this.#ids))
      this.sessions.set(session.id.toString(), session)
      session.start(wire, frame)
      return session
    }

    if (frame.type === 'resume-request') {
      const session = this.sessions.get(frame.id.toString())
      const refusal = session == null || session.ended
        ? { code: ErrorCode.sessionNotFound, text: 'no such session' }
        : session.resume(wire, frame.last)

      if (refusal != null) {
        wire.send(encode({ type: 'resume-response', ok: false, ...refusal }))
        return undefined
      }

      return session
    }

    wire.send(encode({ type: 'error', code: ErrorCode.invalidState, text: 'expected a handshake' }))
    wire.close()
    return undefined
  }
}
