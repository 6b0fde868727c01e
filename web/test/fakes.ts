// What a connector needs from the browser, in a form that tests move by hand: a clock, ways to a model server, and peer
// connections with it.
import { Connector, type Dialer, type Status } from '../src/connector.ts'
import { decode } from '../src/frame.ts'
import { DialError, type PathEvents } from '../src/paths/dial.ts'
import type { Path, PathKind, Signal } from '../src/session-types.ts'
import type { Carrier, Peer, PeerEvents } from '../src/upgrader.ts'
import { ServerModel, type ServerOptions, type ServerSession, type Wire } from './server-model.ts'

/** A clock that stands still until a test moves it. */
export class FakeTimers {
  time = 1000
  #timers: Array<{ at: number, callback: () => void }> = []

  readonly now = (): number => this.time
  readonly random = (): number => 0.5

  readonly after = (milliseconds: number, callback: () => void): () => void => {
    const timer = { at: this.time + milliseconds, callback }
    this.#timers.push(timer)
    return () => { this.#timers = this.#timers.filter(other => other !== timer) }
  }

  /** Lets time pass, and everything that waits for promises happen in it. */
  async run (milliseconds: number): Promise<void> {
    const end = this.time + milliseconds
    await settle()

    for (;;) {
      const next = this.#timers.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at)[0]

      if (next == null) {
        this.time = end
        return
      }

      this.time = Math.max(this.time, next.at)
      this.#timers = this.#timers.filter(timer => timer !== next)
      next.callback()
      await settle()
    }
  }
}

/** A way to the server that can be open, blocked or broken. */
export class FakeRoute implements Dialer {
  mode: 'open' | 'blocked' | 'broken' = 'open'
  dials = 0
  paths: FakePath[] = []
  readonly kind: PathKind
  readonly #server: ServerModel

  constructor (kind: PathKind, server: ServerModel) {
    this.kind = kind
    this.#server = server
  }

  readonly dial = async (events: PathEvents, signal: AbortSignal): Promise<Path> => {
    this.dials++

    if (this.mode === 'blocked') {
      await new Promise((_, reject) => {
        signal.addEventListener('abort', () => reject(new DialError(`${this.kind} timed out`)))
      })
    }

    if (this.mode === 'broken') {
      throw new DialError(`${this.kind} is broken`)
    }

    const path = new FakePath(this.kind, this.#server, events)
    this.paths.push(path)
    return path
  }

  /** The connection breaks. */
  cut (): void {
    this.paths.at(-1)!.break()
  }
}

export class FakePath implements Path {
  readonly kind: PathKind
  readonly #server: ServerModel
  readonly #events: PathEvents
  #session: ServerSession | undefined
  open = true

  constructor (kind: PathKind, server: ServerModel, events: PathEvents) {
    this.kind = kind
    this.#server = server
    this.#events = events
  }

  readonly #wire: Wire = {
    send: frame => queueMicrotask(() => {
      if (this.open) {
        this.#events.frame(this, decode(frame))
      }
    }),
    close: () => {}
  }

  readonly send = (bytes: Uint8Array): void => {
    queueMicrotask(() => {
      if (this.open) {
        const frame = decode(bytes)
        this.#session == null
          ? this.#session = this.#server.accept(this.#wire, frame)
          : this.#session.receive(this.#wire, frame)
      }
    })
  }

  readonly close = (): void => {
    this.open = false
    this.#session?.lost(this.#wire)
  }

  break (): void {
    this.close()
    this.#events.lost(this, 'it broke')
  }
}

/** Peer connections with the only session of the server. */
export class FakePeers {
  /** Whether attempts come to a channel. */
  opens = true
  readonly all: FakePeer[] = []
  readonly #server: ServerModel

  constructor (server: ServerModel) {
    this.#server = server
  }

  get last (): FakePeer {
    return this.all.at(-1)!
  }

  readonly make = (events: PeerEvents): FakePeer => {
    const peer = new FakePeer(events, [...this.#server.sessions.values()].at(-1)!, this.opens)
    this.all.push(peer)
    return peer
  }
}

export class FakePeer implements Peer {
  offers = 0
  inspections = 0
  open = true
  /** Nothing passes, and nobody is told. */
  silent = false
  readonly received: Signal[] = []
  readonly events: PeerEvents
  readonly #session: ServerSession
  readonly #opens: boolean

  constructor (events: PeerEvents, session: ServerSession, opens: boolean) {
    this.events = events
    this.#session = session
    this.#opens = opens
  }

  readonly path: Path = {
    kind: 'channel',
    send: bytes => queueMicrotask(() => {
      if (this.open && !this.silent) {
        this.#session.receive(this.#wire, decode(bytes))
      }
    }),
    close: () => this.close()
  }

  readonly #wire: Wire = {
    send: frame => queueMicrotask(() => {
      if (this.open && !this.silent) {
        this.events.frame(this.path, decode(frame))
      }
    }),
    close: () => {}
  }

  offer (): void {
    const first = this.offers++ === 0
    queueMicrotask(() => {
      this.events.offer(`offer ${this.offers}`)

      if (first && this.#opens) {
        this.#session.attachChannel(this.#wire)
        queueMicrotask(() => this.events.open(this.path, 65_536))
      }
    })
  }

  receive (signal: Signal): void {
    this.received.push(signal)
  }

  inspect (): void {
    this.inspections++
  }

  close (): void {
    if (this.open) {
      this.open = false
      this.#session.lost(this.#wire)
    }
  }

  break (): void {
    this.close()
    this.events.lost(this.path, 'it broke')
  }
}

export interface Setup {
  timers: FakeTimers
  server: ServerModel
  direct: FakeRoute
  fallback: FakeRoute
  peers: FakePeers
  connector: Connector
  statuses: Status[]
  /** What has arrived at either end. */
  input: number[]
  output: number[]
}

export function setUp (options: Partial<ServerOptions> = {}): Setup {
  const timers = new FakeTimers()
  const input: number[] = []
  const output: number[] = []
  const server = new ServerModel({
    accepts: () => undefined,
    backend: () => ({ input: data => input.push(...data), resize: () => {}, flow: () => {}, end: () => {} }),
    ...options
  })
  const peers = new FakePeers(server)
  const direct = new FakeRoute('webrtc', server)
  const fallback = new FakeRoute('websocket', server)
  const statuses: Status[] = []
  const connector = new Connector({ token: new Uint8Array() }, [direct, fallback], {
    data: bytes => {
      output.push(...bytes)
      connector.rendered(bytes.length)
    },
    rtt: () => {},
    outputLost: () => {},
    status: status => statuses.push(status)
  }, timers, options.webrtc === true ? peers.make : undefined)

  return { timers, server, direct, fallback, peers, connector, statuses, input, output }
}

export async function settle (): Promise<void> {
  for (let turn = 0; turn < 20; turn++) {
    await Promise.resolve()
  }
}

export const carrierOf = ({ connector }: Setup): Carrier | undefined =>
  connector.status.state === 'connected' ? connector.status.carrier : undefined

export const connectedBy = ({ connector }: Setup): PathKind | undefined =>
  connector.status.state === 'connected' ? connector.status.kind : undefined
