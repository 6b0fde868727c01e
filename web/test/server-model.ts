// A SocketPipe server reduced to what a client can notice: handshake, numbered DATA, ring, resume, newest wins.
// For tests only. The caller carries the frames and provides the backend.
import {
  Capability, CloseCode, DEFAULT_MESSAGE_SIZE, encode, ErrorCode, type Frame, type HandshakeRequest
} from '../src/frame.ts'

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
}

export class ServerSession {
  readonly id: Uint8Array
  readonly env = new Map<string, string>()
  readonly #options: ServerOptions
  #backend!: Backend
  #wire: Wire | undefined
  #sent = 0n
  #received = 0n
  #ring: Array<{ number: bigint, data: Uint8Array }> = []
  #ringBytes = 0
  /** A PONG proves that what left before its PING has arrived. */
  #marks: Array<{ payload: string, upTo: bigint }> = []
  #closed: { code: number, text: string } | undefined
  ended = false
  resumes = 0

  constructor (options: ServerOptions, id: Uint8Array) {
    this.id = id
    this.#options = options
  }

  get wire (): Wire | undefined {
    return this.#wire
  }

  /** Whether output can be taken without overflowing the ring. */
  get hasRoom (): boolean {
    return this.#wire != null || this.#ringBytes < (this.#options.ring ?? 1_048_576) / 2
  }

  start (wire: Wire, request: HandshakeRequest): void {
    const resume = this.#options.resume !== false && (request.capabilities & Capability.resume) !== 0
    this.#wire = wire
    this.#backend = this.#options.backend(this, request)
    this.#send({
      type: 'handshake-response',
      ok: true,
      capabilities: resume ? Capability.resume : 0,
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
    const oldest = this.#ring[0]?.number ?? this.#sent + 1n

    if (last > this.#sent) {
      return { code: ErrorCode.sequenceMismatch, text: 'a number that was never sent' }
    }

    if (last + 1n < oldest) {
      return { code: ErrorCode.bufferOverflow, text: 'the buffer overflowed' }
    }

    const old = this.#wire
    this.#wire = undefined
    old?.send(encode({ type: 'close', byClient: false, code: CloseCode.replaced, text: 'replaced' }))
    old?.close()

    this.#wire = wire
    this.#marks = []
    this.resumes++
    const replay = this.#ring.filter(({ number }) => number > last)
    this.#send({
      type: 'resume-response',
      ok: true,
      start: last + 1n,
      count: replay.length,
      ...(this.#options.repair === false ? {} : { lastFromClient: this.#received })
    })

    for (const { number, data } of replay) {
      this.#send({ type: 'data', number, data })
    }

    if (this.#closed != null) {
      this.#send({ type: 'close', byClient: false, ...this.#closed })
    }

    return undefined
  }

  /** Output of the backend. */
  output (data: Uint8Array): void {
    const number = ++this.#sent
    const numbered = this.#options.resume !== false
    this.#ring.push({ number, data })
    this.#ringBytes += data.length

    while (this.#ringBytes > (this.#options.ring ?? 1_048_576)) {
      this.#ringBytes -= this.#ring.shift()!.data.length
    }

    this.#send(numbered ? { type: 'data', number, data } : { type: 'data', data })
  }

  close (code: number, text: string): void {
    this.#closed = { code, text }
    this.#send({ type: 'close', byClient: false, code, text })
  }

  ping (payload: Uint8Array): void {
    this.#marks.push({ payload: payload.toString(), upTo: this.#sent })
    this.#send({ type: 'ping', payload })
  }

  lost (wire: Wire): void {
    if (wire === this.#wire) {
      this.#wire = undefined
    }
  }

  receive (wire: Wire, frame: Frame): void {
    if (wire !== this.#wire) {
      return
    }

    switch (frame.type) {
      case 'data':
        this.#receiveData(frame.number, frame.data)
        break
      case 'ping':
        this.#send({ type: 'pong', payload: frame.payload })
        break
      case 'pong':
        this.#forgetUpTo(this.#marks.find(({ payload }) => payload === frame.payload.toString())?.upTo ?? 0n)
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
      case 'close':
        if (this.#closed == null) {
          this.#send({ ...frame })
        }

        this.ended = true
        this.#backend.end()
        wire.close()
        break
      default:
        break
    }
  }

  #forgetUpTo (number: bigint): void {
    while (this.#ring.length > 0 && this.#ring[0]!.number <= number) {
      this.#ringBytes -= this.#ring.shift()!.data.length
    }
  }

  #receiveData (number: bigint | undefined, data: Uint8Array): void {
    if (number != null) {
      if (number <= this.#received) {
        return
      }

      if (this.#options.repair !== false && number !== this.#received + 1n) {
        throw new Error(`DATA ${number} after ${this.#received}`)
      }

      this.#received = number
    }

    this.#backend.input(data)
  }

  #send (frame: Frame): void {
    this.#wire?.send(encode(frame))
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
