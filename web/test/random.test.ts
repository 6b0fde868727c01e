// Whatever breaks, moves and is late, with a data channel beside the WebSocket: the streams must be equal in the end.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { MAX_AHEAD, PAUSE_ABOVE } from '../src/limits.ts'
import { randomFrom, Simulation, type Link } from './simulation.ts'

type Random = (below: number) => number

const RUNS = 200
const STEPS = 200

class Run {
  readonly simulation: Simulation
  readonly #random: Random
  readonly #typed: number[] = []
  readonly #printed: number[] = []
  readonly #delays = new Map<Link, number>()
  #rendered = 0

  constructor (random: Random) {
    this.#random = random
    this.simulation = new Simulation({
      webrtc: true,
      moves: (['behind the client', 'behind the client', 'at once', 'never'] as const)[random(4)]!,
      asked: (['answers', 'answers', 'refuses'] as const)[random(3)]!
    })
    this.simulation.delay = () => 1
    this.simulation.established()
    // Each path has its own.
    this.simulation.delay = link => {
      const skew = this.#delays.get(link) ?? random(random(2) === 0 ? 500 : 20)
      this.#delays.set(link, skew)
      return skew + random(5)
    }
    this.simulation.renders = false
  }

  step (): void {
    const { simulation } = this
    const random = this.#random
    const action = random(100)

    if (action < 30) {
      this.#type(1 + random(random(20) === 0 ? 60_000 : 200))
    } else if (action < 60) {
      this.#print(1 + random(2000))
    } else if (action < 65) {
      this.#cut(simulation.links[random(simulation.links.length)]!)
    } else if (action < 67) {
      simulation.connect(random(3) === 0 ? 'webrtc' : 'websocket')
    } else if (action < 76) {
      this.#openChannel()
    } else if (action < 85) {
      // The server forgets what this confirms.
      simulation.remote.ping(Uint8Array.of(simulation.now >> 8, simulation.now))
    } else {
      this.#render()
    }

    if ((simulation.session.state === 'disconnected') && random(3) === 0) {
      simulation.connect(random(3) === 0 ? 'webrtc' : 'websocket')
    }

    simulation.run(random(20) === 0 ? random(12_000) : random(80))
    assert.equal(simulation.end, undefined)
    assert.ok(this.#unrendered <= PAUSE_ABOVE + MAX_AHEAD)
  }

  get #unrendered (): number {
    return this.simulation.output.length - this.#rendered
  }

  #type (length: number): void {
    const data = Uint8Array.from({ length }, () => this.#random(256))

    if (this.simulation.session.write(data, this.simulation.now)) {
      data.forEach(byte => this.#typed.push(byte))
    }
  }

  #print (length: number): void {
    const { remote } = this.simulation

    if (remote.hasRoom && this.simulation.flows.at(-1) !== false) {
      const data = Uint8Array.from({ length }, () => this.#random(256))
      remote.output(data)
      data.forEach(byte => this.#printed.push(byte))
    }
  }

  #cut (link: Link): void {
    this.simulation.cut(link, { tellClient: this.#random(4) > 0, tellServer: this.#random(2) === 0 })
  }

  #openChannel (): void {
    const { session, news } = this.simulation
    const used = ['used', 'silent', 'heard'].includes(news.at(-1)!)

    if (session.channel.possible && session.channel.deadline == null && !used) {
      this.simulation.openChannel({ atServer: this.#random(300), atClient: this.#random(300) })
    }
  }

  #render (): void {
    const bytes = this.#random(this.#unrendered + 1)
    this.#rendered += bytes
    this.simulation.session.rendered(bytes)
  }

  /** The network behaves from now on. */
  settle (): void {
    const { simulation } = this
    this.simulation.session.rendered(this.#unrendered)
    this.#rendered += this.#unrendered
    this.simulation.renders = true

    for (let tries = 0; tries < 5; tries++) {
      if (simulation.session.state !== 'established') {
        simulation.connect()
      }

      simulation.run(40_000)
    }
  }

  assertExact (): void {
    const { simulation } = this
    assert.deepEqual(simulation.refusals, [])
    assert.equal(simulation.session.state, 'established')
    assert.ok((simulation.session.path as Link).clientOpen)
    assert.ok(Buffer.from(simulation.input).equals(Buffer.from(this.#typed)), 'input differs')
    assert.ok(Buffer.from(simulation.output).equals(Buffer.from(this.#printed)), 'output differs')
    assert.equal(simulation.server.sessions.size, 1)
  }
}

for (let seed = 1; seed <= RUNS; seed++) {
  test(`no byte is lost, doubled or reordered beside a data channel (seed ${seed})`, () => {
    const run = new Run(randomFrom(seed))

    for (let step = 0; step < STEPS; step++) {
      run.step()
    }

    run.settle()
    run.assertExact()
  })
}
