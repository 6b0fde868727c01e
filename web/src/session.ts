// A SocketPipe session seen from its client: handshake, keep-alive, close and resume. Its bytes are in traffic.ts, the data
// channel beside a WebSocket in channel.ts, its end in ending.ts. Free of I/O and clocks: the caller brings paths, frames
// and the time, so that every order of events can be tested. Choosing and opening paths is the connector's job.
import { agree, handshakeRequest, resumeRequest, type Agreement } from './agreement.ts'
import { Channel } from './channel.ts'
import { Ending } from './ending.ts'
import {
  CloseCode, encode, ErrorCode, FrameError, VERSION, type Frame, type HandshakeResponse, type ResumeResponse
} from './frame.ts'
import { Hold } from './hold.ts'
import { DEFAULT_TIMEOUT_S, HANDSHAKE_TIMEOUT_MS, MAX_INPUT, MAX_INPUT_OFFLINE } from './limits.ts'
import { Screen } from './screen.ts'
import type { End, Lane, Path, PathKind, SessionEvents, SessionOptions, State } from './session-types.ts'
import { Traffic } from './traffic.ts'

export class Session {
  readonly #options: SessionOptions
  readonly #events: SessionEvents
  readonly #traffic: Traffic
  /** The data channel beside the path. */
  readonly channel: Channel
  readonly #ending: Ending
  readonly #screen: Screen
  readonly #hold = new Hold()
  #state: State = 'new'
  /** An attempt to take the session to another path. */
  #attempt: { path: Path, deadline: number } | undefined
  /** A resume on the path in use, because something was lost: its time limit. */
  #repair: number | undefined
  #agreement: Agreement | undefined

  constructor (options: SessionOptions, events: SessionEvents) {
    this.#options = options
    this.#events = events
    const session = this
    const send = (frame: Frame): void => this.#sendMain(frame)
    this.#traffic = new Traffic({
      get flows () { return session.#flows },
      get moving () { return session.#attempt != null },
      data: events.data,
      rtt: events.rtt,
      silent: events.silent,
      channelSilent: () => this.channel.silent(),
      answered: (lane, ping, now) => this.#ending.answered(lane, ping, now),
      pumped: (moved, now) => this.#ending.advance(moved, now),
      lost: ({ path }, now, reason) => this.lost(path, now, reason),
      fail: (code, text) => this.#fail(code, text)
    })
    this.channel = new Channel({
      traffic: this.#traffic,
      get upgradable () { return session.#upgradable },
      get repairing () { return session.#repair != null },
      send,
      repair: now => this.#repairChannel(now),
      fail: (code, text) => this.#fail(code, text),
      signal: events.signal,
      news: events.channel
    })
    this.#ending = new Ending({
      traffic: this.#traffic,
      get repairing () { return session.#repair != null },
      get patienceMs () { return session.#timeoutMs },
      send,
      end: end => this.#end(end)
    })
    this.#screen = new Screen(frame => {
      if (this.#state === 'established') {
        this.#sendMain(frame)
      }
    })
  }

  get state (): State {
    return this.#state
  }

  get path (): Path | undefined {
    return this.#traffic.main?.path
  }

  get #paths (): Path[] {
    return [this.#attempt?.path, this.path].filter(path => path != null)
  }

  /** True while an answer to a handshake or resume is awaited. */
  get attaching (): boolean {
    return this.#attempt != null || this.#repair != null
  }

  get openedOn (): PathKind | undefined {
    return this.#agreement?.openedOn
  }

  /** True if a lost connection does not end the session. */
  get resumable (): boolean {
    return this.#hold.id != null
  }

  get #upgradable (): boolean {
    return this.#state === 'established' && this.#agreement?.webrtc === true && this.path?.kind === 'websocket'
  }

  /** When the server gives the session up, as far as we know. */
  get expiresAt (): number | undefined {
    return this.#hold.expiresAt
  }

  /** Whether DATA may leave: not while it is being decided where the session goes on. */
  get #flows (): boolean {
    return (this.#state === 'established' || this.#ending.drains) && !this.attaching
  }

  get #timeoutMs (): number {
    return this.#agreement?.timeoutMs ?? DEFAULT_TIMEOUT_S * 1000
  }

  /** Starts, resumes or moves the session on a path that has just opened. */
  attach (path: Path, now: number): void {
    if (this.#state === 'ended' || this.#state === 'closing') {
      path.close()
      return
    }

    this.#abandonAttempt('a newer connection took its place')

    if (this.#hold.id != null) {
      this.#attempt = { path, deadline: now + this.#timeoutMs }

      if (this.#repair != null) {
        // What is missing is fetched on the new path.
        this.#loseCurrent(now, 'a newer connection took its place')
      }

      this.#requestResume(path)
    } else if (this.path != null) {
      this.#detach(path, 'the session cannot move')
    } else {
      this.#attempt = { path, deadline: now + HANDSHAKE_TIMEOUT_MS }
      this.#send(path, handshakeRequest(this.#options))
      this.#setState('handshaking')
    }
  }

  /** Takes a frame that came by a path; frames of paths no longer ours are ignored. */
  receive (path: Path, frame: Frame, now: number): void {
    const lane = this.#traffic.laneOf(path)

    if (path === this.#attempt?.path) {
      this.#receiveAnswer(frame, now)
    } else if (lane != null && (lane === this.#traffic.main || this.channel.takes(frame))) {
      this.#traffic.heard(lane)
      this.#ending.heard(lane, now)
      this.#receiveFrame(lane, frame, now)
    }
  }

  /** Takes what the codec refused. */
  receiveMalformed (path: Path, error: FrameError): void {
    if (path === this.#attempt?.path || this.#traffic.laneOf(path) != null) {
      this.#fail(error.code, error.message)
    }
  }

  /** The path ended or broke without our doing. */
  lost (path: Path, now: number, reason = 'the connection was lost'): void {
    if (path === this.#attempt?.path) {
      this.#abandonAttempt(reason)
      this.#stay(now)
    } else if (path === this.path) {
      this.#loseCurrent(now, reason)
    } else if (path === this.#traffic.channel?.path) {
      this.channel.lost(now)
    }
  }

  /** The path is not congested any more. */
  writable (now: number): void {
    this.#traffic.pump(now)
  }

  /** Bytes typed or pasted; false if they do not fit any more, then none of them is taken. */
  write (data: Uint8Array, now: number): boolean {
    const limit = this.path == null ? MAX_INPUT_OFFLINE : MAX_INPUT
    const full = this.#traffic.outbox.size + data.length > limit

    if (this.#state === 'ended' || this.#state === 'closing' || full) {
      return false
    }

    this.#traffic.push(data, now)
    return true
  }

  resize (columns: number, rows: number, width = 0, height = 0): void {
    this.#screen.resize(columns, rows, width, height)
  }

  /** The terminal has drawn this many bytes. */
  rendered (bytes: number): void {
    this.#traffic.rendered(bytes)
  }

  /** Whether somebody sees the page: the round trip time is measured more often then. */
  setWatched (watched: boolean): void {
    this.#traffic.setWatched(watched)
  }

  /** After a wake-up or a change of networks: are the paths still good? */
  probe (now: number): void {
    if (this.#state === 'established') {
      this.#traffic.probe(now)
    }
  }

  /** The user ends the session. */
  close (now: number): void {
    if (this.#state === 'ended' || this.#state === 'closing') {
      return
    }

    // A request under way may begin or take the session after this.
    const told = this.#attempt != null

    if (told) {
      this.#sendClose(CloseCode.user, '')
      this.#abandonAttempt('closed')
    }

    if (this.path == null || this.#state !== 'established') {
      this.#end({ cause: 'local', code: CloseCode.user, text: '' })
      return
    }

    this.#setState('closing')
    this.#ending.begin(now, told)
    this.#traffic.pump(now)
  }

  /** When `tick` wants to be called next. */
  deadline (): number | undefined {
    if (this.#state === 'ended') {
      return undefined
    }

    const deadlines = [
      this.#attempt?.deadline, this.#repair, this.#ending.deadline, this.channel.deadline, this.#screen.deadline,
      this.#missingUntil,
      this.#state === 'established' ? this.#traffic.deadline() : undefined
    ]

    const due = deadlines.filter(deadline => deadline != null)
    return due.length === 0 ? undefined : Math.min(...due)
  }

  /** Until when what is missing could come by the other path; nothing when nobody would be asked for it. */
  get #missingUntil (): number | undefined {
    const { missingSince } = this.#traffic.inbox
    return missingSince == null || !this.#mayAsk ? undefined : missingSince + this.#timeoutMs
  }

  get #mayAsk (): boolean {
    return this.path != null && !this.attaching && !this.#ending.awaitsAnswer
  }

  tick (now: number): void {
    if (this.#attempt != null && now >= this.#attempt.deadline) {
      this.lost(this.#attempt.path, now, 'the server did not answer')
    }

    if (this.#repair != null && now >= this.#repair) {
      // Without CLOSE, which would end the session.
      this.#loseCurrent(now, 'the server did not say what it has')
    }

    if (this.#missingUntil != null && now >= this.#missingUntil) {
      this.#ask(now)
    }

    this.channel.tick(now)

    if (this.#state !== 'ended') {
      this.#ending.tick(now)
    }

    this.#screen.tick(now)

    if (this.#state === 'established') {
      this.#traffic.tick(now)
    }
  }

  /** The first frames on a path that is not ours yet. */
  #receiveAnswer (frame: Frame, now: number): void {
    const { path } = this.#attempt!

    if (frame.type === 'handshake-response' && this.#hold.id == null) {
      this.#handshakeAnswered(path, frame, now)
    } else if (frame.type === 'resume-response' && this.#hold.id != null) {
      this.#resumeAnswered(path, frame, now)
    } else if (frame.type === 'ping') {
      this.#send(path, { type: 'pong', payload: frame.payload })
    } else if (frame.type === 'close' || frame.type === 'error') {
      this.#refuse(path, frame.code, frame.text, now)
    } else if (frame.type === 'unknown') {
      this.#traffic.receiveUnknown()
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

    this.#agreement = agree(this.#options, response, path.kind)
    this.#traffic.agree(this.#agreement)
    this.#take(path, now)

    for (const [name, value] of this.#options.env ?? []) {
      this.#send(path, { type: 'env', name, value })
    }

    this.#begin(now)
    this.#events.attached(path, true)
  }

  /** The server goes on with the session on another path, or on the same one behind what was lost. */
  #resumeAnswered (path: Path, response: ResumeResponse, now: number): void {
    if (!response.ok) {
      this.#refuse(path, response.code, response.text, now)
      return
    }

    // Without that field nothing is repeated: a key lost is better than a command run twice.
    const { lastNumber, confirmed } = this.#traffic.outbox
    const received = response.lastFromClient ?? lastNumber
    const wrong = received > lastNumber || received < confirmed

    if (response.start > this.#traffic.inbox.last + 1n || wrong) {
      this.#fail(ErrorCode.sequenceMismatch, `the server ${wrong ? 'is wrong about the input' : 'left out output'}`)
      return
    }

    const old = this.path
    this.channel.forget()

    if (old != null && old !== path) {
      this.#traffic.leave()
      this.#detach(old, 'the session moved')
    }

    this.#take(path, now)
    this.#traffic.repeat(received)
    this.#begin(now)
    old === path ? this.#events.channel('repaired') : this.#events.attached(path, false)
  }

  #take (path: Path, now: number): void {
    this.#attempt = undefined
    this.#repair = undefined
    this.#hold.back()
    this.#traffic.begin(path, now)
  }

  #begin (now: number): void {
    if (this.#ending.begun) {
      this.#ending.repaired(now)
    } else {
      this.#setState('established')
    }

    this.#screen.tell()
    this.#traffic.greet(now)
  }

  #receiveFrame (lane: Lane, frame: Frame, now: number): void {
    switch (frame.type) {
      case 'data':
      case 'ping':
      case 'pong':
      case 'flow-control':
        this.#traffic.receive(lane, frame, now)
        break
      case 'close':
        this.#receiveClose(lane, frame, now)
        break
      case 'unknown':
        this.#traffic.receiveUnknown()
        break
      case 'session-id':
        if (this.#agreement!.resume) {
          this.#hold.named(frame)
        }

        break
      case 'error':
        if (this.#repair != null && frame.code === ErrorCode.invalidState) {
          this.#loseCurrent(now, 'the server takes a resume on a new connection only')
        } else {
          this.#ending.error(frame.code, frame.text, now)
        }

        break
      case 'webrtc-answer':
      case 'ice-candidate':
      case 'webrtc-ready':
        this.channel.receive(frame, now)
        break
      case 'handshake-response':
      case 'resume-response':
        this.#receiveLateAnswer(frame, now)
        break
      default:
        // What only a client sends.
        break
    }
  }

  /** An answer on the path in use. */
  #receiveLateAnswer (frame: HandshakeResponse | ResumeResponse, now: number): void {
    if (this.#repair != null && frame.type === 'resume-response') {
      this.#resumeAnswered(this.path!, frame, now)
    } else {
      this.#fail(ErrorCode.invalidState, `the server sent a second "${frame.type}"`)
    }
  }

  /** A resume on the path in use, because something was lost: its answer says where both go on. */
  #ask (now: number): void {
    if (!this.#mayAsk) {
      return
    }

    if (this.#agreement?.resume === false) {
      this.channel.lost(now)
      this.#traffic.giveUpOrder()
    } else if (this.#hold.id == null) {
      this.#loseCurrent(now, 'a part of the output is missing')
    } else {
      this.#repair = now + this.#timeoutMs
      this.#requestResume(this.path!)
    }
  }

  #requestResume (path: Path): void {
    const elsewhere = path.kind !== this.openedOn
    this.#send(path, resumeRequest(this.#options, this.#hold.id!, this.#traffic.inbox.last, elsewhere))
  }

  /** The channel is gone, with whatever was in it. */
  #repairChannel (now: number): void {
    if (this.#hold.id != null) {
      this.#traffic.doubt()
      this.#ask(now)
      return
    }

    // Nobody can tell what is missing. Behind CLOSE nothing is.
    this.#traffic.repeat(this.#traffic.outbox.lastNumber)

    if (!this.#ending.awaitsAnswer) {
      this.#screen.redraw(now)
      this.#events.outputLost()
    }

    this.#events.channel('repaired')
    this.#traffic.pump(now)
  }

  #receiveClose (lane: Lane, frame: Extract<Frame, { type: 'close' }>, now: number): void {
    const { main, channel } = this.#traffic
    const replaced = frame.code === CloseCode.replaced && lane === main && !this.#ending.begun

    // By a request of ours: one under way, or one given up before.
    if (replaced && (this.#attempt != null || this.#hold.explainsTakeOver())) {
      this.#loseCurrent(now, 'the session moved')
      return
    }

    this.#ending.close(frame, lane === main ? (this.channel.carries ? channel : undefined) : main, now)

    if (this.#state === 'established') {
      this.#setState('closing')
    }
  }

  #refuse (path: Path, code: number, text: string, now: number): void {
    const during = this.#hold.id == null ? 'handshake' : 'resume'
    this.#attempt = undefined

    if (path === this.path) {
      this.#leavePath(now)
    }

    path.close()

    if (this.#ending.lostEnd != null && this.path == null) {
      this.#end(this.#ending.lostEnd)
      return
    }

    this.#stay(now)
    this.#events.refused(path, { during, code, text })
  }

  /** An attempt came to nothing: what was there before goes on. */
  #stay (now: number): void {
    if (this.path == null) {
      this.#setState(this.#hold.id == null ? 'new' : 'disconnected')
      return
    }

    this.#traffic.release()

    if (this.#traffic.outbox.inDoubt) {
      this.#ask(now)
    }

    this.#traffic.pump(now)
  }

  #loseCurrent (now: number, reason: string): void {
    const path = this.path!
    this.#leavePath(now)
    const end = this.#ending.lostEnd ?? (this.#hold.id == null ? { cause: 'lost', code: 0, text: reason } as const : undefined)
    end == null ? this.#setState('disconnected') : this.#end(end)
    this.#detach(path, reason)
  }

  #leavePath (now: number): void {
    this.#repair = undefined
    this.#hold.lost(now)
    this.channel.forget()
    this.#traffic.leave()
  }

  #abandonAttempt (reason: string): void {
    if (this.#attempt != null) {
      const { path } = this.#attempt
      this.#attempt = undefined
      this.#hold.strayed()
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

  #end (end: End): void {
    if (this.#state === 'ended') {
      return
    }

    const paths = this.#paths
    this.#attempt = this.#repair = undefined
    this.#setState('ended')
    this.channel.forget()
    this.#traffic.leave()

    paths.forEach(path => path.close())
    this.#events.end(end)
  }

  #setState (state: State): void {
    if (state !== this.#state) {
      this.#state = state
      this.#events.state(state)
    }
  }

  #sendMain (frame: Frame): void {
    if (this.path != null) {
      this.#send(this.path, frame)
    }
  }

  #send (path: Path, frame: Frame): void {
    path.send(encode(frame))
  }
}
