// A client session and a model server joined by paths with delays, a data channel among them, driven by a virtual clock.
import { decode, encode, type Frame } from '../src/frame.ts'
import { Session } from '../src/session.ts'
import type { ChannelNews, End, Path, PathKind, Refusal, Signal, State } from '../src/session-types.ts'
import { ServerModel, type ServerOptions, type ServerSession, type Wire } from './server-model.ts'

/** Numbers that look random and are the same for the same seed (mulberry32). */
export function randomFrom (seed: number): (below: number) => number {
  let state = seed

  return below => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296 * below)
  }
}

interface Message {
  at: number
  bytes: Uint8Array | 'end'
}

/** A connection between both: two ordered queues with a delay. */
export class Link implements Path, Wire {
  readonly kind: PathKind
  readonly toServer: Message[] = []
  readonly toClient: Message[] = []
  /** What the client has sent by it. */
  readonly sent: Frame[] = []
  session: ServerSession | undefined
  clientOpen = true
  serverOpen = true
  /** What has arrived at the client waits until the client knows the link. */
  known = true
  /** Nothing arrives any more, and nobody is told. */
  dead = false
  /** The same for what the client sends: a test speaks for the server. */
  unheard = false
  congested = false
  #simulation: Simulation

  constructor (simulation: Simulation, kind: PathKind) {
    this.#simulation = simulation
    this.kind = kind
  }

  readonly send = (frame: Uint8Array): void => this.#simulation.post(this, this.toServer, frame)

  readonly close = (): void => {
    if (this.clientOpen) {
      this.clientOpen = false
      this.#simulation.post(this, this.toServer, 'end')
    }
  }

  /** The same connection as the server holds it. */
  readonly wire: Wire = {
    send: frame => {
      if (this.serverOpen) {
        this.#simulation.post(this, this.toClient, frame)
      }
    },
    close: () => {
      if (this.serverOpen) {
        this.serverOpen = false
        this.#simulation.post(this, this.toClient, 'end')
      }
    }
  }
}

export class Simulation {
  now = 1_000_000
  readonly session: Session
  readonly server: ServerModel
  readonly links: Link[] = []
  readonly output: number[] = []
  readonly input: number[] = []
  readonly sizes: Array<[number, number]> = []
  readonly flows: boolean[] = []
  readonly states: State[] = []
  readonly attached: Array<{ link: Link, fresh: boolean }> = []
  readonly refusals: Refusal[] = []
  readonly detached: string[] = []
  readonly rtts: number[] = []
  readonly sent: Frame[] = []
  silences: boolean[] = []
  readonly signals: Signal[] = []
  readonly news: ChannelNews[] = []
  outputLost = 0
  end: End | undefined
  /** Bytes are rendered at once unless a test renders them itself. */
  renders = true
  delay: (link: Link) => number = () => 10
  #actions: Array<{ at: number, action: () => void }> = []

  constructor (server: Partial<ServerOptions> = {}, token = new Uint8Array([116]), webrtc = server.webrtc === true) {
    this.server = new ServerModel({
      accepts: () => undefined,
      backend: () => ({
        input: data => this.input.push(...data),
        resize: (columns, rows) => this.sizes.push([columns, rows]),
        flow: on => this.flows.push(on),
        end: () => {}
      }),
      ...server
    })
    this.session = new Session({ token, webrtc, env: [['TERM', 'xterm-256color']] }, {
      data: bytes => {
        this.output.push(...bytes)

        if (this.renders) {
          this.session.rendered(bytes.length)
        }
      },
      state: state => this.states.push(state),
      attached: (path, fresh) => this.attached.push({ link: path as Link, fresh }),
      refused: (_, refusal) => this.refusals.push(refusal),
      detached: (_, reason) => this.detached.push(reason),
      rtt: milliseconds => this.rtts.push(milliseconds),
      silent: silent => this.silences.push(silent),
      signal: signal => this.signals.push(signal),
      channel: news => this.news.push(news),
      outputLost: () => { this.outputLost++ },
      end: end => { this.end = end }
    })
  }

  get remote (): ServerSession {
    return [...this.server.sessions.values()].at(-1)!
  }

  connect (kind: PathKind = 'websocket'): Link {
    const link = new Link(this, kind)
    this.links.push(link)
    this.session.attach(link, this.now)
    return link
  }

  /** A session that has begun. */
  established (kind: PathKind = 'websocket'): Link {
    const link = this.connect(kind)
    this.run(100)
    return link
  }

  /** Offers a data channel that opens, first at the server and then at the client, after these times. */
  openChannel ({ atServer = 0, atClient = 0, maxMessage = 65_536 } = {}): Link {
    const link = new Link(this, 'channel')
    const { remote } = this
    link.known = false
    this.session.channel.offer('offer', this.now)
    this.later(atServer, () => {
      if (link.serverOpen && !link.dead) {
        link.session = remote
        remote.attachChannel(link.wire)
      }
    })
    this.later(atServer + atClient, () => {
      if (link.clientOpen && !link.dead) {
        link.known = true
        this.session.channel.attach(link, maxMessage, this.now)
      }
    })
    this.links.push(link)
    return link
  }

  /** A session whose DATA runs on a channel in both directions. */
  upgraded (): { main: Link, channel: Link } {
    const main = this.established('websocket')
    const channel = this.openChannel()
    this.run(100)
    return { main, channel }
  }

  /** Calls back at a later time. */
  later (milliseconds: number, action: () => void): void {
    this.#actions.push({ at: this.now + milliseconds, action })
    this.#actions.sort((one, other) => one.at - other.at)
  }

  post (link: Link, queue: Message[], bytes: Uint8Array | 'end'): void {
    if (!link.dead) {
      const last = queue.at(-1)?.at ?? 0

      if (queue !== link.toServer || !link.unheard) {
        queue.push({ at: Math.max(last, this.now + this.delay(link)), bytes })
      }

      if (queue === link.toServer && bytes !== 'end') {
        this.sent.push(decode(bytes))
        link.sent.push(decode(bytes))
      }
    }
  }

  /** The server sends this frame as it is. */
  inject (link: Link, frame: Frame): void {
    link.wire.send(encode(frame))
  }

  /** Breaks a link: what is under way is lost; each side is told or not. */
  cut (link: Link, { tellClient = true, tellServer = true } = {}): void {
    link.toServer.length = 0
    link.toClient.length = 0
    link.dead = true

    if (tellServer && link.serverOpen) {
      link.serverOpen = false
      link.session?.lost(link.wire)
    }

    if (tellClient && link.clientOpen) {
      link.clientOpen = false
      this.session.lost(link, this.now)
    }
  }

  /** Lets time pass. */
  run (milliseconds: number): void {
    const end = this.now + milliseconds

    for (;;) {
      const next = this.#next()

      if (next == null || next > end) {
        this.now = end
        return
      }

      this.now = Math.max(this.now, next)

      while (this.#actions.length > 0 && this.#actions[0]!.at <= this.now) {
        this.#actions.shift()!.action()
      }

      this.#deliver()
      const deadline = this.session.deadline()

      if (deadline != null && deadline <= this.now) {
        this.session.tick(this.now)
      }
    }
  }

  #next (): number | undefined {
    const times = this.links.flatMap(link => [link.toServer[0]?.at, link.known ? link.toClient[0]?.at : undefined])
    const known = [...times, this.#actions[0]?.at, this.session.deadline()].filter(time => time != null)
    return known.length === 0 ? undefined : Math.min(...known)
  }

  #deliver (): void {
    for (const link of this.links) {
      while (link.toServer.length > 0 && link.toServer[0]!.at <= this.now) {
        this.#serve(link, link.toServer.shift()!.bytes)
      }

      while (link.known && link.toClient.length > 0 && link.toClient[0]!.at <= this.now) {
        const { bytes } = link.toClient.shift()!

        if (!link.clientOpen) {
          continue
        }

        if (bytes === 'end') {
          link.clientOpen = false
          this.session.lost(link, this.now)
        } else {
          this.session.receive(link, decode(bytes), this.now)
        }
      }
    }
  }

  #serve (link: Link, bytes: Uint8Array | 'end'): void {
    if (!link.serverOpen) {
      return
    }

    if (bytes === 'end') {
      link.serverOpen = false
      link.session?.lost(link.wire)
    } else if (link.session == null) {
      link.session = this.server.accept(link.wire, decode(bytes))
    } else {
      link.session.receive(link.wire, decode(bytes))
    }
  }
}
