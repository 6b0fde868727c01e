// The data channel beside a WebSocket: what is agreed and signaled, who moves when, and in which order bytes arrive.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Capability, type Frame } from '../src/frame.ts'
import { Load, skewed } from './load.ts'
import { type Link, Simulation } from './simulation.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (numbers: number[]): string => new TextDecoder().decode(Uint8Array.from(numbers))
const types = (frames: Frame[]): string[] => frames.map(frame => frame.type)
const count = (frames: Frame[], type: Frame['type']): number => frames.filter(frame => frame.type === type).length

test('asks for data channels only if it is to', () => {
  for (const webrtc of [true, false]) {
    const simulation = new Simulation({ webrtc: true }, new Uint8Array(), webrtc)
    simulation.established()
    const [request] = simulation.sent
    assert.ok(request?.type === 'handshake-request')
    assert.equal((request.capabilities & Capability.webrtc) !== 0, webrtc)
    assert.equal(simulation.session.channel.possible, webrtc)
  }
})

test('offers nothing to a server that did not agree, and not on a libp2p stream', () => {
  for (const [webrtc, kind] of [[false, 'websocket'], [true, 'webrtc']] as const) {
    const simulation = new Simulation({ webrtc }, new Uint8Array(), true)
    simulation.established(kind)
    assert.equal(simulation.session.channel.offer('offer', simulation.now), false)
    simulation.inject(simulation.session.path as Link, { type: 'webrtc-answer', sdp: 'answer' })
    simulation.run(100)
    assert.equal(count(simulation.sent, 'webrtc-offer'), 0)
    assert.deepEqual(simulation.signals, [])
    assert.equal(simulation.end, undefined)
  }
})

test('a session opened on a libp2p stream offers when it lives on a WebSocket', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.cut(simulation.established('webrtc'))
  assert.equal(simulation.session.channel.possible, false)
  simulation.established('websocket')
  assert.equal(simulation.session.channel.possible, true)
})

test('carries offers, answers and candidates', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.established()
  const candidate = { type: 'ice-candidate', candidate: 'candidate:1', mid: '0', line: 0 } as const
  const last = { ...candidate, candidate: '' }
  simulation.session.channel.offer('offer', simulation.now)
  simulation.session.channel.tell(candidate)
  simulation.session.channel.tell(last)
  simulation.run(50)
  assert.deepEqual(simulation.remote.signals, [{ type: 'webrtc-offer', sdp: 'offer' }, candidate, last])

  simulation.remote.answer('answer')
  simulation.inject(simulation.session.path as Link, candidate)
  simulation.inject(simulation.session.path as Link, last)
  simulation.run(50)
  assert.deepEqual(simulation.signals, [{ type: 'webrtc-answer', sdp: 'answer' }, candidate, last])
})

test('drops candidates beyond the cap', () => {
  const simulation = new Simulation({ webrtc: true })
  const link = simulation.established()

  for (const offers of [1, 2]) {
    simulation.session.channel.offer('offer', simulation.now)

    for (let sent = 0; sent < 10_000; sent++) {
      simulation.inject(link, { type: 'ice-candidate', candidate: 'candidate:1', mid: '0', line: 0 })
    }

    simulation.run(50)
    assert.equal(simulation.signals.length, offers * 64)
  }
})

for (const resume of [true, false]) {
  for (const [channel, main] of [[0, 500], [500, 0], [10, 10], [250, 1], [1, 100]] as const) {
    test(`a switch under load keeps the order: channel ${channel} ms, WebSocket ${main} ms, resume ${resume}`, () => {
      const simulation = new Simulation({ webrtc: true, resume })
      simulation.delay = skewed(channel, main)
      const load = new Load(simulation)
      simulation.connect()
      simulation.run(2000)
      load.add(100_000, 100_000)
      const link = simulation.openChannel({ atServer: 20, atClient: 30 })

      for (let step = 0; step < 100; step++) {
        load.add(3000, 10_000)
        simulation.run(25)
      }

      simulation.run(60_000)
      load.assertExact()
      assert.deepEqual(simulation.news, ['used'])
      assert.ok(count(link.sent, 'data') > 20, 'DATA of the client stayed on the WebSocket')
      assert.ok(simulation.remote.onChannel)
    })
  }
}

test('the client leads: nothing is on the channel before READY, and then a ping comes first', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.established()
  const link = simulation.openChannel({ atServer: 50, atClient: 0 })
  simulation.delay = skewed(10, 200)
  simulation.run(100)
  simulation.session.write(bytes('a'), simulation.now)
  simulation.remote.output(bytes('b'))
  simulation.run(100)
  assert.equal(link.sent.length, 0)
  assert.equal(simulation.remote.onChannel, false)

  simulation.run(60)
  assert.equal(link.sent[0]!.type, 'ping')
  assert.ok(simulation.remote.onChannel)
  simulation.run(1000)
  assert.equal(text(simulation.input) + text(simulation.output), 'ab')
})

test('READY before the channel is open at the client is waited for', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.established()
  const link = simulation.openChannel({ atServer: 0, atClient: 500 })
  simulation.run(400)
  assert.deepEqual(simulation.news, [])
  simulation.run(200)
  assert.deepEqual(simulation.news, ['used'])
  assert.ok(link.clientOpen)
})

for (const [atServer, used] of [[9980, true], [9995, false]] as const) {
  test(`READY that arrives ${used ? 'just before' : 'just after'} the time limit`, () => {
    const simulation = new Simulation({ webrtc: true })
    const load = new Load(simulation)
    simulation.established()
    const link = simulation.openChannel({ atServer })

    for (let step = 0; step < 60; step++) {
      load.add(100, 1000)
      simulation.run(200)
    }

    simulation.run(20_000)
    load.assertExact()
    assert.deepEqual(simulation.news, used ? ['used'] : ['given-up'])
    assert.equal(link.clientOpen, used)
    assert.equal(simulation.remote.onChannel, used)
    assert.equal(simulation.session.state, 'established')
  })
}

test('a second READY changes nothing', () => {
  const simulation = new Simulation({ webrtc: true })
  const { main, channel } = simulation.upgraded()
  const sent = channel.sent.length
  simulation.inject(main, { type: 'webrtc-ready' })
  simulation.run(50)
  assert.equal(channel.sent.length, sent)
  assert.deepEqual(simulation.news, ['used'])
})

test('a channel that opens after the time limit is closed unused', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.established()
  const link = simulation.openChannel({ atServer: 9000, atClient: 2000 })
  simulation.run(12_000)
  assert.deepEqual(simulation.news, ['given-up'])
  assert.equal(link.clientOpen, false)
  assert.deepEqual(link.sent, [])
})

test('another try after one that failed', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.established()
  simulation.openChannel({ atServer: 20_000 })
  simulation.run(11_000)
  const link = simulation.openChannel()
  simulation.run(100)
  assert.deepEqual(simulation.news, ['given-up', 'used'])
  assert.ok(link.clientOpen)
})

test('a refusal ends the attempt at once', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.established()
  simulation.session.channel.offer('offer', simulation.now)
  simulation.remote.answer('')
  simulation.run(50)
  assert.deepEqual(simulation.signals, [{ type: 'webrtc-answer', sdp: '' }])
  simulation.session.channel.lost(simulation.now)
  assert.deepEqual(simulation.news, ['given-up'])
})

test('a channel for small messages only is not used', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.established()
  const link = simulation.openChannel({ maxMessage: 16_383 })
  simulation.run(100)
  assert.equal(link.clientOpen, false)
  assert.deepEqual(link.sent, [])
})

test('no frame on the channel exceeds 16 KiB', () => {
  const simulation = new Simulation({ webrtc: true })
  const load = new Load(simulation)
  const { channel } = simulation.upgraded()
  load.add(300_000, 0)
  simulation.run(5000)
  load.assertExact()
  const sizes = channel.sent.map(frame => frame.type === 'data' ? frame.data.length + 16 : 0)
  assert.equal(Math.max(...sizes), 16_384)
})

test('DATA waits while the channel is congested, control frames do not', () => {
  const simulation = new Simulation({ webrtc: true })
  const { channel } = simulation.upgraded()
  const before = channel.sent.length
  channel.congested = true
  simulation.session.write(bytes('waits'), simulation.now)
  simulation.remote.ping(bytes('p'))
  simulation.run(50)
  assert.deepEqual(types(channel.sent.slice(before)), ['pong'])

  channel.congested = false
  simulation.session.writable(simulation.now)
  simulation.run(50)
  assert.equal(text(simulation.input), 'waits')
})

