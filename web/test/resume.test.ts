// What both sides must agree on when a session moves: which bytes have arrived, and whose session it is.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CloseCode, ErrorCode, type Frame } from '../src/frame.ts'
import { Simulation, type Link } from './simulation.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (numbers: number[]): string => new TextDecoder().decode(Uint8Array.from(numbers))
const count = (frames: Frame[], type: Frame['type']): number => frames.filter(frame => frame.type === type).length

/** The resume of this path is never answered. */
const mute = (simulation: Simulation, link: Link): void => {
  simulation.cut(link, { tellClient: false, tellServer: false })
}

test('answers no ping on the old path before a resume elsewhere is decided', () => {
  const simulation = new Simulation()
  simulation.established('websocket')
  const better = simulation.connect('webrtc')
  mute(simulation, better)
  simulation.remote.output(bytes('a'))
  simulation.remote.ping(bytes('p'))
  const pings = count(simulation.sent, 'ping')
  simulation.run(100)

  assert.equal(text(simulation.output), 'a')
  assert.equal(count(simulation.sent, 'pong'), 0)
  assert.equal(count(simulation.sent, 'ping'), pings + 1, 'no sign of life in place of the answer')

  // The attempt is given up.
  simulation.run(10_000)
  assert.deepEqual(simulation.detached, ['the server did not answer'])
  const pong = simulation.sent.find(frame => frame.type === 'pong')
  assert.equal(pong?.type === 'pong' && text([...pong.payload]), 'p')
})

test('answers at once what is withheld when the move is refused', () => {
  const simulation = new Simulation()
  simulation.established('websocket')
  const { remote } = simulation
  simulation.server.sessions.clear()
  simulation.connect('webrtc')
  remote.ping(bytes('p'))
  simulation.run(11)
  assert.equal(count(simulation.sent, 'pong'), 0)
  simulation.run(50)
  assert.equal(count(simulation.sent, 'pong'), 1)
})

test('keeps few withheld answers', () => {
  const simulation = new Simulation()
  const old = simulation.established('websocket')
  const better = simulation.connect('webrtc')
  mute(simulation, better)

  for (let sent = 0; sent < 1000; sent++) {
    simulation.inject(old, { type: 'ping', payload: bytes(String(sent)) })
  }

  simulation.run(11_000)
  assert.equal(count(simulation.sent, 'pong'), 64)
})

test('a slow move loses nothing although the server forgets what was confirmed', () => {
  const simulation = new Simulation()
  simulation.established('websocket')
  simulation.delay = link => link.kind === 'webrtc' ? 500 : 5
  const better = simulation.connect('webrtc')
  simulation.remote.output(bytes('a'))
  simulation.remote.ping(bytes('p'))
  simulation.run(2000)

  assert.deepEqual(simulation.refusals, [])
  assert.equal(simulation.session.path, better)
  assert.equal(text(simulation.output), 'a')
})

test('a request given up that takes the session much later is no take-over by somebody else', () => {
  const simulation = new Simulation()
  simulation.established('websocket')
  simulation.delay = link => link.kind === 'webrtc' ? 300_000 : 10
  simulation.connect('webrtc')
  simulation.run(310_000)

  assert.equal(simulation.end, undefined)
  assert.equal(simulation.session.state, 'disconnected')
  simulation.established('websocket')
  assert.equal(simulation.session.state, 'established')
})

test('a request given up explains one take-over only', () => {
  const simulation = new Simulation()
  const old = simulation.established('websocket')
  const better = simulation.connect('webrtc')
  mute(simulation, better)
  simulation.run(11_000)
  simulation.inject(old, { type: 'close', byClient: false, code: CloseCode.replaced, text: 'replaced' })
  simulation.run(100)
  assert.equal(simulation.session.state, 'disconnected')

  const next = simulation.established('websocket')
  simulation.inject(next, { type: 'close', byClient: false, code: CloseCode.replaced, text: 'replaced' })
  simulation.run(100)
  assert.equal(simulation.end?.code, CloseCode.replaced)
})

/** A session whose server has confirmed its input and now answers a resume with this. */
function answered (answer: { start: bigint, count: number, lastFromClient?: bigint }): Simulation {
  const simulation = new Simulation()
  const old = simulation.established()
  simulation.session.write(bytes('typed'), simulation.now)
  simulation.remote.output(bytes('shown'))
  simulation.run(6000)
  simulation.cut(old)
  const link = simulation.connect()
  link.toServer.length = 0
  link.unheard = true
  simulation.inject(link, { type: 'resume-response', ok: true, ...answer })
  simulation.run(50)
  return simulation
}

test('ends when the server has forgotten input that it had confirmed', () => {
  const simulation = answered({ start: 2n, count: 0, lastFromClient: 0n })
  assert.equal(simulation.end?.code, ErrorCode.sequenceMismatch)
})

test('ends when the server reports input that was never sent', () => {
  const simulation = answered({ start: 2n, count: 0, lastFromClient: 2n })
  assert.equal(simulation.end?.code, ErrorCode.sequenceMismatch)
})

test('ends when the replay begins behind what is missing', () => {
  for (const count of [0, 1]) {
    const simulation = answered({ start: 3n, count, lastFromClient: 1n })
    assert.equal(simulation.end?.code, ErrorCode.sequenceMismatch)
  }
})

test('drops what an early replay repeats', () => {
  const simulation = answered({ start: 1n, count: 1, lastFromClient: 1n })
  simulation.inject(simulation.session.path as Link, { type: 'data', number: 1n, data: bytes('shown') })
  simulation.inject(simulation.session.path as Link, { type: 'data', number: 2n, data: bytes(' more') })
  simulation.run(50)
  assert.equal(text(simulation.output), 'shown more')
})

test('counts output whose number the server leaves out', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.inject(link, { type: 'data', data: bytes('a') })
  simulation.inject(link, { type: 'data', number: 2n, data: bytes('b') })
  simulation.run(50)
  assert.equal(text(simulation.output), 'ab')
  assert.deepEqual(simulation.detached, [])
})

test('numbers mean nothing where resume was not agreed', () => {
  const simulation = new Simulation({ resume: false })
  const link = simulation.established()
  simulation.inject(link, { type: 'data', number: 7n, data: bytes('a') })
  simulation.inject(link, { type: 'data', number: 7n, data: bytes('b') })
  simulation.run(50)
  assert.equal(text(simulation.output), 'ab')
})

test('ends when a message is larger than agreed', () => {
  const simulation = new Simulation({ maxMessageSize: 1024 })
  const link = simulation.established()
  simulation.inject(link, { type: 'data', number: 1n, data: new Uint8Array(1025) })
  simulation.run(50)
  assert.equal(simulation.end?.code, ErrorCode.messageTooLarge)
})

test('an end during a reconnect reaches the server', () => {
  const simulation = new Simulation()
  simulation.cut(simulation.established())
  const { remote } = simulation
  simulation.connect()
  simulation.session.close(simulation.now)
  simulation.run(100)
  assert.equal(simulation.end?.cause, 'local')
  assert.equal(remote.ended, true)
})

test('an end during the handshake reaches the server', () => {
  const simulation = new Simulation()
  simulation.connect()
  simulation.session.close(simulation.now)
  simulation.run(100)
  assert.equal(simulation.end?.cause, 'local')
  assert.equal(simulation.remote.ended, true)
})

test('an end during a move reaches the server, whichever path it prefers', () => {
  for (const slow of ['webrtc', 'websocket']) {
    const simulation = new Simulation()
    simulation.established('websocket')
    simulation.delay = link => link.kind === slow ? 50 : 5
    simulation.connect('webrtc')
    simulation.session.close(simulation.now)
    simulation.run(1000)
    assert.equal(simulation.end?.cause, 'local')
    assert.equal(simulation.remote.ended, true, `${slow} is slow`)
  }
})
