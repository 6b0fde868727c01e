// When a data channel is tried beside a WebSocket, and what becomes of it.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ServerOptions, ServerSession } from './server-model.ts'
import { carrierOf, connectedBy, setUp, type FakePeer, type Setup } from './fakes.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (numbers: number[]): string => new TextDecoder().decode(Uint8Array.from(numbers))
const sessionOf = ({ server }: Setup): ServerSession => [...server.sessions.values()].at(-1)!

/** A session on a WebSocket; the direct path is broken. */
async function onWebSocket (options: Partial<ServerOptions> = {}, opens = true): Promise<Setup> {
  const setup = setUp({ webrtc: true, ...options })
  setup.direct.mode = 'broken'
  setup.peers.opens = opens
  setup.connector.start()
  await setup.timers.run(0)
  assert.equal(connectedBy(setup), 'websocket')
  return setup
}

/** On a data channel, for so long that it is not held to be a failure. */
async function onChannel (options: Partial<ServerOptions> = {}): Promise<Setup & { peer: FakePeer }> {
  const setup = await onWebSocket(options)
  assert.equal(carrierOf(setup), 'direct')
  await setup.timers.run(31_000)
  return { ...setup, peer: setup.peers.last }
}

test('moves to a data channel as soon as the session is on a WebSocket', async () => {
  const setup = await onChannel()
  assert.ok(sessionOf(setup).onChannel)
  setup.connector.write(bytes('in'))
  sessionOf(setup).output(bytes('out'))
  await setup.timers.run(0)
  assert.equal(text(setup.input) + text(setup.output), 'inout')
  assert.equal(connectedBy(setup), 'websocket')
  assert.equal(setup.peers.all.length, 1)
})

test('says whether a TURN server is in between, and asks again', async () => {
  const setup = await onChannel()
  const before = setup.peer.inspections
  setup.peer.events.route(true)
  assert.equal(carrierOf(setup), 'relayed')
  await setup.timers.run(30_000)
  assert.equal(setup.peer.inspections, before + 3)
  setup.peer.events.route(false)
  assert.equal(carrierOf(setup), 'direct')
})

test('makes no peer connection for a server that does not agree, nor on the direct path', async () => {
  const setup = setUp({ webrtc: true })
  setup.connector.start()
  await setup.timers.run(60_000)
  assert.equal(connectedBy(setup), 'webrtc')
  assert.equal(carrierOf(setup), undefined)

  const other = await onWebSocket({ webrtc: false })
  await other.timers.run(60_000)
  assert.equal(setup.peers.all.length + other.peers.all.length, 0)
})

test('a refusal ends the attempt at once; the pauses grow', async () => {
  const setup = await onWebSocket({}, false)
  const attempts: number[] = []

  for (const started = setup.timers.time; setup.timers.time < started + 3_600_000;) {
    const { all, last } = setup.peers

    if (all.length > attempts.length) {
      attempts.push(setup.timers.time - started)
      sessionOf(setup).answer('')
      await setup.timers.run(0)
      assert.equal(last.open, false)
    }

    await setup.timers.run(1000)
  }

  const pauses = attempts.slice(1).map((at, index) => Math.round((at - attempts[index]!) / 1000))
  assert.deepEqual(pauses, [30, 60, 120, 240, 480, 600, 600, 600, 600].slice(0, pauses.length))
  assert.equal(carrierOf(setup), 'websocket')
})

test('an attempt has ten seconds', async () => {
  const setup = await onWebSocket({}, false)
  await setup.timers.run(9900)
  assert.ok(setup.peers.last.open)
  await setup.timers.run(200)
  assert.equal(setup.peers.last.open, false)
  setup.peers.opens = true
  await setup.timers.run(30_000)
  assert.equal(carrierOf(setup), 'direct')
})

test('tries at once when the network has changed', async () => {
  const setup = await onWebSocket({}, false)
  await setup.timers.run(11_000)
  setup.peers.opens = true
  setup.connector.nudge()
  await setup.timers.run(0)
  assert.equal(carrierOf(setup), 'direct')
  assert.equal(setup.peers.all.length, 2)
})

test('gives up at once when no route is found', async () => {
  const setup = await onWebSocket({}, false)
  setup.peers.last.events.reachable('no')
  assert.equal(setup.peers.last.open, false)
  await setup.timers.run(29_000)
  assert.equal(setup.peers.all.length, 1)
})

test('a peer connection that fails before its offer is tried again later', async () => {
  const setup = await onWebSocket({}, false)
  setup.peers.last.events.failed('no certificate')
  setup.peers.opens = true
  await setup.timers.run(31_000)
  assert.equal(carrierOf(setup), 'direct')
})

test('an ICE restart in time keeps the channel', async () => {
  const setup = await onChannel()
  setup.peer.events.reachable('not now')
  await setup.timers.run(0)
  assert.equal(carrierOf(setup), 'restarting')
  assert.deepEqual(sessionOf(setup).signals.map(signal => signal.type === 'webrtc-offer' && signal.sdp), ['offer 1', 'offer 2'])
  await setup.timers.run(2500)
  sessionOf(setup).answer('answer 2')
  setup.peer.events.reachable('no')
  setup.peer.events.reachable('yes')
  await setup.timers.run(20_000)
  assert.equal(carrierOf(setup), 'direct')
  assert.equal(setup.peer.received.length, 1)
  assert.equal(setup.peer.offers, 2)
  assert.equal(setup.peers.all.length, 1)
})

test('without success of an ICE restart what is under way is fetched by the WebSocket', async () => {
  const setup = await onChannel()
  setup.peer.events.reachable('not now')
  // A refusal of the restart changes nothing: packets may get through again.
  await setup.timers.run(0)
  sessionOf(setup).answer('')
  setup.connector.write(bytes('typed'))
  await setup.timers.run(2900)
  assert.equal(carrierOf(setup), 'restarting')
  setup.peers.opens = false
  await setup.timers.run(200)
  assert.equal(setup.peer.open, false)
  assert.equal(carrierOf(setup), 'websocket')
  assert.ok(setup.statuses.some(status => status.state === 'connected' && status.carrier === 'falling-back'))
  assert.equal(text(setup.input), 'typed')

  // It is tried again soon, then with growing pauses.
  await setup.timers.run(2500)
  assert.equal(setup.peers.all.length, 2)
  await setup.timers.run(11_000)
  setup.peers.opens = true
  await setup.timers.run(31_000)
  assert.equal(carrierOf(setup), 'direct')
})

test('silence of the channel is as good a reason for an ICE restart', async () => {
  const setup = await onChannel()
  setup.peer.silent = true
  await setup.timers.run(5600)
  assert.equal(carrierOf(setup), 'restarting')
  assert.equal(setup.peer.offers, 2)
  setup.peer.silent = false
  sessionOf(setup).output(bytes('again'))
  await setup.timers.run(0)
  assert.equal(carrierOf(setup), 'direct')
  await setup.timers.run(10_000)
  assert.equal(setup.peers.all.length, 1)

  setup.peer.silent = true
  await setup.timers.run(8600)
  assert.equal(setup.peer.open, false)
})

test('a channel that breaks is tried again soon, unless it broke at once', async () => {
  const setup = await onChannel()
  setup.peer.break()
  await setup.timers.run(2500)
  assert.equal(setup.peers.all.length, 2)
  assert.equal(carrierOf(setup), 'direct')
  setup.peers.last.break()
  await setup.timers.run(20_000)
  assert.equal(setup.peers.all.length, 2)
  assert.equal(carrierOf(setup), 'websocket')
  await setup.timers.run(15_000)
  assert.equal(setup.peers.all.length, 3)
})

test('the loss of the WebSocket closes the peer connection; the next WebSocket gets a new one', async () => {
  const setup = await onChannel()
  setup.fallback.cut()
  await setup.timers.run(0)
  assert.equal(setup.peer.open, false)
  assert.equal(connectedBy(setup), 'websocket')
  assert.equal(setup.peers.all.length, 2)
  assert.equal(carrierOf(setup), 'direct')
})

test('a move to the direct path closes the peer connection', async () => {
  const setup = await onChannel()
  setup.direct.mode = 'open'
  setup.connector.nudge()
  await setup.timers.run(0)
  assert.equal(connectedBy(setup), 'webrtc')
  assert.equal(setup.peer.open, false)
  await setup.timers.run(600_000)
  assert.equal(setup.peers.all.length, 1)
})

test('what was typed leaves by the channel before the user ends the session', async () => {
  const setup = await onChannel()
  setup.connector.write(new Uint8Array(200_000).fill(1))
  setup.connector.close()
  await setup.timers.run(0)
  assert.equal(setup.input.length, 200_000)
  assert.equal(setup.connector.status.state, 'ended')
  assert.equal(setup.peer.open, false)
  await setup.timers.run(600_000)
  assert.equal(setup.peers.all.length, 1)
})

test('what a dropped peer connection says means nothing', async () => {
  const setup = await onWebSocket({}, false)
  const [first] = setup.peers.all
  await setup.timers.run(11_000)
  first!.events.open(first!.path, 65_536)
  first!.events.failed('late')
  first!.events.reachable('no')
  first!.events.offer('late')
  await setup.timers.run(0)
  assert.equal(carrierOf(setup), 'websocket')
  assert.equal(sessionOf(setup).signals.length, 1)
  assert.equal(setup.peers.all.length, 1)
})
