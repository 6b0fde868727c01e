// A SocketPipe session seen from its client: handshake, numbered DATA in both directions, flow control,
// keep-alive, close and resume. Free of I/O and clocks: the caller brings paths, frames and the time,
// so that every order of events can be tested. Choosing and opening paths is the connector's job.
import { agree, handshakeRequest, resumeRequest, type Agreement } from './agreement.ts'
import {
  CloseCode, encode, ErrorCode, FrameError, VERSION,
  type Data, type Frame, type HandshakeResponse, type ResumeResponse
} from './frame.ts'
import { Inbox } from './inbox.ts'
import { Keepalive } from './keepalive.ts'
import {
  clampSize, CLOSE_TIMEOUT_MS, CONFIRM_EVERY, DEFAULT_TIMEOUT_S, HANDSHAKE_TIMEOUT_MS, MAX_GAPS, MAX_INPUT,
  MAX_INPUT_OFFLINE, MAX_UNKNOWN_FRAMES, PROBE_MS
} from './limits.ts'
import { Outbox } from './outbox.ts'
import type { End, Path, PathKind, SessionEvents, SessionOptions, State } from './session-types.ts'

export class Session {
  readonly #options: SessionOptions
  readonly #events: SessionEvents
  readonly #inbox = new Inbox()
  readonly #outbox = new Outbox()
  #state: State = 'new'
  #path: Path | undefined
  /** An attempt to take the session to another path. */
  #attempt: { path: Path, deadline: number } | undefined
  #keepalive: Keepalive | undefined
  #agreement: Agreement | undefined
  #id: Uint8Array | undefined
  #resumeTimeoutMs = 0
  #lostAt: number | undefined
  /** Resume requests given up without an answer: each may still reach the server and win over a later one. */
  #strays = 0
  #askedUpTo = 0n
  #serverPaused = false
  #size = { columns: 80, rows: 24, width: 0, height: 0 }
  #watched = true
  #silent = false
  #error: { code: number, text: string } | undefined
  #closeDeadline: number | undefined
  #unknownFrames = 0

  constructor (options: SessionOptions, events: SessionEvents) {
    this.#options = options
    this.#events = events
  }

  get state (): State {
    return this.#state
  }

  get path (): Path | undefined {
    return this.#path
  }

  get #paths (): Path[] {
    return [this.#attempt?.path, this.#path].filter(path => path != null)
  }

  /** True while an answer to a handshake or resume is awaited. */
  get attaching (): boolean {
    return this.#attempt != null
  }

  get openedOn (): PathKind | undefined {
    return this.#agreement?.openedOn
  }

  /** True if a lost connection does not end the session. */
  get resumable (): boolean {
    return this.#id != null
  }

  /** When the server gives the session up, as far as we know. */
  get expiresAt (): number | undefined {
    return this.#lostAt == null || this.#resumeTimeoutMs === 0 ? undefined : this.#lostAt + this.#resumeTimeoutMs
  }

  /** Starts, resumes or moves the session on a path that has just opened. */
  attach (path: Path, now: number): void {
    if (this.#state === 'ended' || this.#state === 'closing') {
      path.close()
      return
    }

    this.#abandonAttempt('a newer connection took its place')

    if (this.#id != null) {
      this.#attempt = { path, deadline: now + (this.#agreement?.timeoutMs ?? DEFAULT_TIMEOUT_S * 1000) }
      this.#send(path, resumeRequest(this.#options, this.#id, this.#inbox.last, path.kind !== this.openedOn))
    } else if (this.#path != null) {
      this.#detach(path, 'the session cannot move')
    } else {
      this.#attempt = { path, deadline: now + HANDSHAKE_TIMEOUT_MS }
      this.#send(path, handshakeRequest(this.#options))
      this.#setState('handshaking')
    }
  }

  /** Takes a frame that came by a path; frames of paths no longer ours are ignored. */
  receive (path: Path, frame: Frame, now: number): void {
    if (path === this.#attempt?.path) {
      this.#receiveAnswer(frame, now)
    } else if (path === this.#path) {
      this.#keepalive?.heard()
      this.#setSilent(false)
      this.#receiveFrame(frame, now)
    }
  }

  /** Takes what the codec refused. */
  receiveMalformed (path: Path, error: FrameError): void {
    if (this.#paths.includes(path)) {
      this.#fail(error.code, error.message)
    }
  }

  /** The path ended or broke without our doing. */
  lost (path: Path, now: number, reason = 'the connection was lost'): void {
    if (path === this.#attempt?.path) {
      this.#abandonAttempt(reason)
      this.#stay(now)
    } else if (path === this.#path) {
      this.#loseCurrent(now, reason)
    }
  }

  /** Bytes typed or pasted; false if they do not fit any more, then none of them is taken. */
  write (data: Uint8Array, now: number): boolean {
    const limit = this.#path == null ? MAX_INPUT_OFFLINE : MAX_INPUT

    if (this.#state === 'ended' || this.#state === 'closing' || this.#outbox.size + data.length > limit) {
      return false
    }

    this.#outbox.push(data)
    this.#pump(now)
    return true
  }

  resize (columns: number, rows: number, width = 0, height = 0): void {
    if (columns < 1 || rows < 1) {
      return
    }

    this.#size = clampSize(columns, rows, width, height)
    this.#sendSize()
  }

  /** The terminal has drawn this many bytes. */
  rendered (bytes: number): void {
    this.#inbox.rendered(bytes)
    this.#steerFlow()
  }

  /** Whether somebody sees the page: the round trip time is measured more often then. */
  setWatched (watched: boolean): void {
    this.#watched = watched
  }

  /** After a wake-up or a change of networks: is the path still good? */
  probe (now: number): void {
    if (this.#path != null && this.#keepalive != null && this.#state === 'established') {
      this.#keepalive.hurry(now, PROBE_MS)
      this.#ping(now)
    }
  }

  /** The user ends the session. */
  close (now: number): void {
    if (this.#state === 'ended' || this.#state === 'closing') {
      return
    }

    // A request under way may begin or take the session after this.
    this.#sendClose(CloseCode.user, '')
    this.#abandonAttempt('closed')

    if (this.#path == null || this.#state !== 'established') {
      this.#end({ cause: 'local', code: CloseCode.user, text: '' })
      return
    }

    this.#closeDeadline = now + CLOSE_TIMEOUT_MS
    this.#setState('closing')
  }

  /** When `tick` wants to be called next. */
  deadline (): number | undefined {
    const deadlines = [this.#attempt?.deadline, this.#closeDeadline]

    if (this.#path != null && this.#state === 'established') {
      deadlines.push(this.#keepalive?.deadline(this.#watched))
    }

    const due = deadlines.filter(deadline => deadline != null)
    return due.length === 0 ? undefined : Math.min(...due)
  }

  tick (now: number): void {
    if (this.#attempt != null && now >= this.#attempt.deadline) {
      this.lost(this.#attempt.path, now, 'the server did not answer')
    }

    if (this.#closeDeadline != null && now >= this.#closeDeadline) {
      this.#finishClose()
    }

    if (this.#path != null && this.#state === 'established') {
      this.#judge(this.#keepalive?.check(now, this.#watched) ?? 'alive', now)
    }
  }

  #judge (verdict: ReturnType<Keepalive['check']>, now: number): void {
    if (verdict === 'ping') {
      this.#ping(now)
    } else if (verdict === 'silent') {
      this.#setSilent(true)
      this.#ping(now)
    } else if (verdict === 'dead') {
      this.#loseCurrent(now, 'the server stopped answering')
    }
  }

  /** The first frames on a path that is not ours yet. */
  #receiveAnswer (frame: Frame, now: number): void {
    const { path } = this.#attempt!

    if (frame.type === 'handshake-response' && this.#id == null) {
      this.#handshakeAnswered(path, frame, now)
    } else if (frame.type === 'resume-response' && this.#id != null) {
      this.#resumeAnswered(path, frame, now)
    } else if (frame.type === 'ping') {
      this.#send(path, { type: 'pong', payload: frame.payload })
    } else if (frame.type === 'close' || frame.type === 'error') {
      this.#refuse(path, frame.code, frame.text, now)
    } else if (frame.type === 'unknown') {
      this.#receiveUnknown()
    } else {
      this.#fail(ErrorCode.invalidState, `the server sent "${frame.type}" before its answer`)
    }
  }

  #handshakeAnswered (path: Path, response: HandshakeResponse, now: number): void {
    if (!response.ok) {
      this.#refuse(path, response.code, response.text, now)
      return
    }

    if (response.major !== VERSION.major) {
      this.#fail(ErrorCode.unsupportedVersion, `the server speaks version ${response.major}`)
      return
    }

    this.#agreement = agree(response, path.kind)
    this.#outbox.limitPieces(this.#agreement.maxMessageSize)
    this.#take(path, now)

    for (const [name, value] of this.#options.env ?? []) {
      this.#send(path, { type: 'env', name, value })
    }

    this.#begin(path, true, now)
  }

  #resumeAnswered (path: Path, response: ResumeResponse, now: number): void {
    if (!response.ok) {
      this.#refuse(path, response.code, response.text, now)
      return
    }

    // Without that field nothing is repeated: a key lost is better than a command run twice.
    const received = response.lastFromClient ?? this.#outbox.lastNumber
    const wrong = received > this.#outbox.lastNumber || received < this.#outbox.confirmed

    if (response.start > this.#inbox.last + 1n || wrong) {
      this.#fail(ErrorCode.sequenceMismatch, `the server ${wrong ? 'is wrong about the input' : 'left out output'}`)
      return
    }

    if (this.#path != null) {
      const old = this.#path
      this.#path = undefined
      this.#detach(old, 'the session moved')
    }

    this.#take(path, now)

    this.#outbox.confirm(received)

    for (const data of this.#outbox.repeat()) {
      this.#send(path, data)
    }

    this.#begin(path, false, now)
  }

  #take (path: Path, now: number): void {
    this.#attempt = undefined
    this.#path = path
    this.#lostAt = undefined
    this.#serverPaused = false
    this.#askedUpTo = 0n
    this.#keepalive = new Keepalive(now, this.#agreement!)
  }

  #begin (path: Path, fresh: boolean, now: number): void {
    this.#setState('established')
    this.#sendSize()
    this.#ping(now)

    this.#inbox.resumed()
    this.#steerFlow()
    this.#pump(now)
    this.#setSilent(false)
    this.#events.attached(path, fresh)
  }

  #receiveFrame (frame: Frame, now: number): void {
    switch (frame.type) {
      case 'data':
        this.#receiveData(frame, now)
        break
      case 'ping':
        this.#receivePing(frame.payload, now)
        break
      case 'pong':
        this.#receivePong(frame.payload, now)
        break
      case 'flow-control':
        this.#serverPaused = !frame.on
        this.#pump(now)
        break
      case 'session-id':
        this.#id ??= this.#agreement!.resume && frame.id.length > 0 ? frame.id.slice() : undefined
        this.#resumeTimeoutMs = frame.timeout * 1000
        break
      case 'error':
        // A CLOSE should follow.
        this.#error ??= { code: frame.code, text: frame.text }
        this.#closeDeadline ??= now + CLOSE_TIMEOUT_MS
        break
      case 'close':
        this.#receiveClose(frame, now)
        break
      case 'unknown':
        this.#receiveUnknown()
        break
      case 'handshake-response':
      case 'resume-response':
        this.#fail(ErrorCode.invalidState, `the server sent a second "${frame.type}"`)
        break
      default:
        // What only a client sends, or belongs to extensions that were not agreed.
        break
    }
  }

  #receiveData ({ number, data }: Data, now: number): void {
    const { resume, maxMessageSize } = this.#agreement!

    if (data.length > maxMessageSize) {
      this.#fail(ErrorCode.messageTooLarge, `the server sent ${data.length} bytes at once`)
      return
    }

    const place = resume ? this.#inbox.place(number) : 'next'

    if (place === 'gap') {
      this.#receiveGap(now)
    } else if (place === 'next') {
      this.#show(data)
    }
  }

  #show (data: Uint8Array): void {
    if (data.length > 0) {
      this.#inbox.shown(data.length)
      this.#events.data(data)
      this.#steerFlow()
    }
  }

  /** Something is missing: the server still has it, so fetch it by a resume. */
  #receiveGap (now: number): void {
    if (this.#inbox.gaps >= MAX_GAPS) {
      this.#fail(ErrorCode.sequenceMismatch, 'the server left out a part of the output')
    } else {
      this.#loseCurrent(now, 'a part of the output is missing')
    }
  }

  /**
   * An answer confirms all DATA that came by this path before it, also what a resume request under way on another path
   * does not count: the server would forget what it is about to be asked for. So the answer waits.
   */
  #receivePing (payload: Uint8Array, now: number): void {
    if (this.#attempt == null) {
      this.#send(this.#path!, { type: 'pong', payload })
      return
    }

    this.#keepalive!.withhold(payload)

    // A sign of life in its place.
    if (!this.#keepalive!.waits) {
      this.#ping(now)
    }
  }

  #receiveUnknown (): void {
    if (++this.#unknownFrames >= MAX_UNKNOWN_FRAMES) {
      this.#fail(ErrorCode.protocolError, 'the server sends many frames of unknown types')
    }
  }

  #receivePong (payload: Uint8Array, now: number): void {
    const answered = this.#keepalive?.pong(now, payload)

    if (answered != null) {
      this.#outbox.confirm(answered.upTo)
      this.#events.rtt(answered.rtt)
      this.#pump(now)
    }
  }

  #receiveClose (frame: Extract<Frame, { type: 'close' }>, now: number): void {
    const path = this.#path!

    if (this.#state === 'closing') {
      this.#finishClose()
      return
    }

    if (frame.code === CloseCode.replaced && this.#tookItOurselves()) {
      this.#loseCurrent(now, 'the session moved')
      return
    }

    this.#send(path, { type: 'close', byClient: frame.byClient, code: frame.code, text: frame.text })
    this.#end({ cause: 'closed', ...(this.#error ?? { code: frame.code, text: frame.text }) })
  }

  /** Whether a request of ours took the session from the current path: one under way, or one given up before. */
  #tookItOurselves (): boolean {
    if (this.#attempt != null) {
      return true
    }

    const stray = this.#strays > 0
    this.#strays -= stray ? 1 : 0
    return stray
  }

  #refuse (path: Path, code: number, text: string, now: number): void {
    const during = this.#id == null ? 'handshake' : 'resume'
    this.#attempt = undefined
    path.close()
    this.#stay(now)
    this.#events.refused(path, { during, code, text })
  }

  /** An attempt came to nothing: what was there before goes on. */
  #stay (now: number): void {
    if (this.#path == null) {
      this.#setState(this.#id == null ? 'new' : 'disconnected')
    } else {
      for (const payload of this.#keepalive!.release()) {
        this.#send(this.#path, { type: 'pong', payload })
      }

      this.#pump(now)
    }
  }

  #loseCurrent (now: number, reason: string): void {
    const path = this.#path!
    this.#path = undefined
    this.#keepalive = undefined
    this.#lostAt = now

    if (this.#state === 'closing') {
      this.#finishClose()
    } else if (this.#error != null) {
      this.#end({ cause: 'closed', ...this.#error })
    } else if (this.#id == null) {
      this.#end({ cause: 'lost', code: 0, text: reason })
    } else {
      this.#setState('disconnected')
    }

    this.#detach(path, reason)
  }

  #abandonAttempt (reason: string): void {
    if (this.#attempt != null) {
      const { path } = this.#attempt
      this.#attempt = undefined
      this.#strays += this.#id == null ? 0 : 1
      this.#detach(path, reason)
    }
  }

  #detach (path: Path, reason: string): void {
    path.close()
    this.#events.detached(path, reason)
  }

  /** The server broke the protocol: say so and end. */
  #fail (code: number, text: string): void {
    this.#sendClose(code, text)
    this.#end({ cause: 'failed', code, text })
  }

  /** By every path: each may be the one that the server holds the session on. */
  #sendClose (code: number, text: string): void {
    for (const path of this.#paths) {
      this.#send(path, { type: 'close', byClient: true, code, text })
    }
  }

  /** The server answered our CLOSE, or took too long. */
  #finishClose (): void {
    this.#end(this.#error == null
      ? { cause: 'local', code: CloseCode.user, text: '' }
      : { cause: 'closed', ...this.#error })
  }

  #end (end: End): void {
    if (this.#state === 'ended') {
      return
    }

    this.#closeDeadline = undefined
    const paths = this.#paths
    this.#attempt = undefined
    this.#path = undefined
    this.#setState('ended')

    paths.forEach(path => path.close())
    this.#events.end(end)
  }

  /** Sends what may be sent now; nothing while the session is moving. */
  #pump (now: number): void {
    if (this.#state !== 'established' || this.#path == null || this.#attempt != null || this.#serverPaused) {
      return
    }

    const numbered = this.#agreement?.resume === true

    for (let data = this.#outbox.next(numbered); data != null; data = this.#outbox.next(numbered)) {
      this.#send(this.#path, data)
    }

    const everyBit = this.#outbox.unconfirmed >= CONFIRM_EVERY
    if (everyBit && this.#askedUpTo < this.#outbox.lastNumber) {
      this.#ping(now)
    }
  }

  #ping (now: number): void {
    this.#askedUpTo = this.#outbox.lastNumber
    this.#send(this.#path!, { type: 'ping', payload: this.#keepalive!.ping(now, this.#askedUpTo) })
  }

  #steerFlow (): void {
    if (this.#path != null && this.#state === 'established') {
      const on = this.#inbox.flow()

      if (on != null) {
        this.#send(this.#path, { type: 'flow-control', on })
      }
    }
  }

  #sendSize (): void {
    if (this.#path != null && this.#state === 'established') {
      this.#send(this.#path, { type: 'resize', ...this.#size })
    }
  }

  #setSilent (silent: boolean): void {
    if (silent !== this.#silent) {
      this.#silent = silent
      this.#events.silent(silent)
    }
  }

  #setState (state: State): void {
    if (state !== this.#state) {
      this.#state = state
      this.#events.state(state)
    }
  }

  #send (path: Path, frame: Frame): void {
    path.send(encode(frame))
  }
}
