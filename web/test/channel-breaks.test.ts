// A data channel or the WebSocket beside it breaks, falls silent or is closed: what arrives is what was sent.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CloseCode, ErrorCode, type Frame } from '../src/frame.ts'
import type { End } from '../src/session-types.ts'
import { Load, skewed } from './load.ts'
import { Simulation } from './simulation.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (numbers: number[]): string => new TextDecoder().decode(Uint8Array.from(numbers))
const count = (frames: Frame[], type: Frame['type']): number => frames.filter(frame => frame.type === type).length

for (const [told, server] of [[true, true], [true, false], [false, true], [false, false]] as const) {
  test(`a channel that breaks is repaired on the WebSocket: client told ${told}, server told ${server}`, () => {
    const simulation = new Simulation({ webrtc: true })
    const load = new Load(simulation)
    const { main, channel } = simulation.upgraded()
    load.add(50_000, 200_000)
    simulation.run(5)
    simulation.cut(channel, { tellClient: told, tellServer: server })
    load.add(20_000, 20_000)
    simulation.run(30_000)
    load.assertExact()
    assert.deepEqual(simulation.news, told ? ['used', 'lost', 'repaired'] : ['used', 'silent', 'lost', 'repaired'])
    assert.equal(simulation.session.path, main)
    assert.deepEqual(simulation.detached, [])
    assert.equal(simulation.remote.resumes, 1)

    // And again.
    const next = simulation.openChannel()
    simulation.run(100)
    load.add(1000, 1000)
    simulation.run(1000)
    load.assertExact()
    assert.ok(count(next.sent, 'data') > 0)
  })
}

test('a server that takes a resume on new connections only gets one, without a close', () => {
  for (const asked of ['refuses', 'ignores'] as const) {
    const simulation = new Simulation({ webrtc: true, asked })
    const load = new Load(simulation)
    const { main, channel } = simulation.upgraded()
    load.add(10_000, 10_000)
    simulation.run(5)
    simulation.cut(channel)
    simulation.run(10_100)
    assert.equal(simulation.session.state, 'disconnected')
    assert.equal(main.clientOpen, false)
    assert.equal(count(main.sent, 'close'), 0)
    simulation.established()
    load.assertExact()
  }
})

test('a resume refused on the WebSocket ends the session', () => {
  const simulation = new Simulation({ webrtc: true, ring: 65_536 })
  const { channel } = simulation.upgraded()
  simulation.cut(channel, { tellServer: false })

  for (let sent = 0; sent < 20; sent++) {
    simulation.remote.output(new Uint8Array(8000))
  }

  simulation.run(50)
  assert.deepEqual(simulation.refusals, [{ during: 'resume', code: ErrorCode.bufferOverflow, text: 'the buffer overflowed' }])
  assert.equal(simulation.session.path, undefined)
})

test('the WebSocket killed while the channel lives takes the channel with it, and nothing is lost', () => {
  for (const told of [true, false]) {
    const simulation = new Simulation({ webrtc: true })
    const load = new Load(simulation)
    const { main, channel } = simulation.upgraded()
    load.add(50_000, 200_000)
    simulation.run(5)
    simulation.cut(main, { tellClient: told, tellServer: told })
    simulation.run(told ? 0 : 40_000)
    assert.equal(simulation.session.state, 'disconnected')
    assert.equal(channel.clientOpen, false)
    load.add(1000, 1000)
    simulation.established()
    load.add(1000, 1000)
    simulation.run(2000)
    load.assertExact()
    assert.equal(simulation.session.channel.possible, true)
  }
})

test('the WebSocket is kept alive while DATA runs on the channel', () => {
  const simulation = new Simulation({ webrtc: true })
  const { main } = simulation.upgraded()
  simulation.session.setWatched(false)
  const before = count(main.sent, 'ping')

  for (let step = 0; step < 100; step++) {
    simulation.session.write(bytes('x'), simulation.now)
    simulation.remote.output(bytes('y'))
    simulation.run(1000)
  }

  const interval = 30_000
  assert.ok(count(main.sent, 'ping') - before >= Math.floor(100_000 / interval))
})

test('tells within seconds when nothing comes by the channel, and when something does again', () => {
  const simulation = new Simulation({ webrtc: true })
  const { channel } = simulation.upgraded()
  simulation.run(10_000)
  assert.deepEqual(simulation.news, ['used'])
  simulation.delay = skewed(8000, 10)
  simulation.run(6000)
  assert.deepEqual(simulation.news, ['used', 'silent'])
  simulation.run(14_000)
  assert.deepEqual(simulation.news, ['used', 'silent', 'heard'])

  // Long round trips are no silence.
  simulation.run(60_000)
  assert.deepEqual(simulation.news, ['used', 'silent', 'heard'])
  assert.ok(channel.clientOpen)
  assert.deepEqual(simulation.silences, [])
})

test('nobody is in a hurry while the page is not seen', () => {
  const simulation = new Simulation({ webrtc: true })
  const { channel } = simulation.upgraded()
  simulation.session.setWatched(false)
  const before = channel.sent.length
  simulation.run(60_000)
  assert.ok(channel.sent.length - before <= 4)
})

test('the round trip time is that of the path of DATA', () => {
  const simulation = new Simulation({ webrtc: true })
  simulation.delay = skewed(3, 100)
  simulation.connect()
  simulation.run(1000)
  simulation.openChannel()
  simulation.run(1000)
  simulation.rtts.length = 0
  simulation.run(20_000)
  assert.deepEqual([...new Set(simulation.rtts)], [6])
})

test('an answer on the WebSocket does not confirm what the channel lost', () => {
  const simulation = new Simulation({ webrtc: true })
  const load = new Load(simulation)
  const { channel } = simulation.upgraded()
  simulation.delay = link => link.kind === 'webrtc' ? 1000 : 10
  const better = simulation.connect('webrtc')
  simulation.cut(channel, { tellClient: false, tellServer: false })
  simulation.session.write(new Uint8Array(0), simulation.now)
  load.add(30_000, 0)
  // The repair has to wait until the move is decided; pings on the WebSocket go on meanwhile.
  simulation.session.lost(channel, simulation.now)
  simulation.session.probe(simulation.now)
  simulation.run(500)
  simulation.cut(better)
  simulation.run(5000)
  load.assertExact()
  assert.deepEqual(simulation.news, ['used', 'lost', 'repaired'])
})

test('a move to a libp2p stream closes the channel, and nothing is lost', () => {
  const simulation = new Simulation({ webrtc: true })
  const load = new Load(simulation)
  const { channel } = simulation.upgraded()
  load.add(50_000, 200_000)
  simulation.run(5)
  const better = simulation.connect('webrtc')
  load.add(1000, 1000)
  simulation.run(2000)
  load.assertExact()
  assert.equal(simulation.session.path, better)
  assert.equal(channel.clientOpen, false)
  assert.deepEqual(simulation.news, ['used', 'given-up'])
})

test('a connection made while the channel is repaired takes the repair over', () => {
  const simulation = new Simulation({ webrtc: true })
  const load = new Load(simulation)
  const { channel, main } = simulation.upgraded()
  load.add(30_000, 30_000)
  simulation.cut(channel)
  assert.ok(simulation.session.attaching)
  const next = simulation.connect('websocket')
  simulation.run(1000)
  load.assertExact()
  assert.equal(simulation.session.path, next)
  assert.equal(main.clientOpen, false)
})

test('output that does not come by the other path in time is asked for', () => {
  const simulation = new Simulation({ webrtc: true })
  const { channel } = simulation.upgraded()
  simulation.remote.output(bytes('a'))
  // Lost without a trace.
  channel.toClient.pop()
  simulation.remote.output(bytes('b'))
  simulation.run(9900)
  assert.equal(text(simulation.output), '')
  simulation.run(200)
  assert.equal(text(simulation.output), 'ab')
  assert.deepEqual(simulation.news, ['used', 'given-up', 'repaired'])
  assert.equal(simulation.session.state, 'established')
})

test('nothing is due for missing output once CLOSE was sent', () => {
  const simulation = new Simulation({ webrtc: true })
  const { main, channel } = simulation.upgraded()
  simulation.remote.output(bytes('a'))
  channel.toClient.pop()
  simulation.remote.output(bytes('b'))
  simulation.run(9900)
  // CLOSE is not answered.
  main.unheard = true
  simulation.session.close(simulation.now)
  simulation.run(50)
  assert.equal(main.sent.at(-1)?.type, 'close')
  // The time in which what is missing could have come is over.
  simulation.now += 100
  simulation.session.tick(simulation.now)
  assert.ok(simulation.session.deadline()! > simulation.now)
})

test('output ahead of its turn is bounded: the server is told to pause, then the channel is given up', () => {
  const simulation = new Simulation({ webrtc: true, ring: 16_777_216 })
  const load = new Load(simulation)
  simulation.established()
  simulation.delay = skewed(1, 1000)
  load.add(0, 4000)
  const link = simulation.openChannel()
  simulation.run(1500)
  load.add(0, 4000)
  // What is missing is on its way by the WebSocket, for a long time.
  const missing = link.toClient.pop()!
  assert.equal(missing.bytes === 'end', false)
  load.add(0, 1_000_000)
  simulation.run(20)
  assert.deepEqual(simulation.flows, [])
  load.add(0, 100_000)
  simulation.run(1020)
  assert.deepEqual(simulation.flows, [false])
  assert.deepEqual(simulation.news, ['used'])
  load.add(0, 1_200_000)
  simulation.run(20)
  assert.deepEqual(simulation.news, ['used', 'lost'])
  simulation.run(5000)
  load.assertExact()
  assert.deepEqual(simulation.flows.at(-1), false, 'after a resume the flow is on without a word')
})

test('without resume a broken channel is reported, the screen drawn again, and the session goes on', () => {
  const simulation = new Simulation({ webrtc: true, resume: false })
  const { channel } = simulation.upgraded()
  simulation.session.resize(100, 30)
  simulation.run(50)
  simulation.cut(channel)
  assert.equal(simulation.outputLost, 1)
  simulation.session.write(bytes('goes on'), simulation.now)
  simulation.run(300)
  assert.deepEqual(simulation.sizes.slice(-2), [[100, 29], [100, 30]])
  assert.equal(text(simulation.input), 'goes on')
  simulation.remote.output(bytes('so does this'))
  simulation.run(50)
  assert.equal(text(simulation.output), 'so does this')
  assert.deepEqual(simulation.news, ['used', 'lost', 'repaired'])
})

test('without resume output begins on the WebSocket, even if the first to come is on the channel', () => {
  const simulation = new Simulation({ webrtc: true, resume: false })
  const load = new Load(simulation)
  simulation.established()
  simulation.openChannel()
  simulation.delay = skewed(1, 300)
  load.add(0, 10_000)
  simulation.run(400)
  load.add(0, 10_000)
  simulation.run(2000)
  load.assertExact()
  assert.ok(simulation.remote.onChannel)
})

test('without resume a barrier without an answer ends the channel, not the session', () => {
  const simulation = new Simulation({ webrtc: true, resume: false })
  const main = simulation.established()
  simulation.openChannel()
  simulation.run(100)
  simulation.inject(main, { type: 'data', data: bytes('a') })
  simulation.run(50)
  main.unheard = true
  simulation.remote.output(bytes('b'))
  simulation.run(9000)
  assert.equal(text(simulation.output), 'a')
  simulation.run(1100)
  assert.equal(text(simulation.output), 'ab')
  assert.equal(simulation.outputLost, 1)
  assert.deepEqual(simulation.news, ['used', 'lost', 'repaired'])
  assert.equal(simulation.session.state, 'established')
})

test('without resume the end of the channel behind a close is no loss', () => {
  const simulation = new Simulation({ webrtc: true, resume: false })
  const { channel } = simulation.upgraded()
  simulation.session.close(simulation.now)
  simulation.run(25)
  simulation.cut(channel)
  assert.equal(simulation.outputLost, 0)
  simulation.run(100)
  assert.equal(simulation.end?.cause, 'local')
})

test('a READY of an earlier offer does not count for a later one', () => {
  const simulation = new Simulation({ webrtc: true })
  const main = simulation.established()
  simulation.session.channel.offer('first', simulation.now)
  simulation.run(10_100)
  // Open at the client behind the answer, and long before it is at the server.
  const link = simulation.openChannel({ atServer: 500, atClient: -450 })
  simulation.inject(main, { type: 'webrtc-ready' })
  simulation.run(1)
  simulation.remote.answer('answer to the second')
  simulation.run(400)
  assert.equal(link.sent.length, 0)
  simulation.run(200)
  assert.equal(link.sent[0]!.type, 'ping')
})

test('what was typed arrives before the close of the user', () => {
  for (const delay of [skewed(400, 1), skewed(1, 400)]) {
    const simulation = new Simulation({ webrtc: true })
    const load = new Load(simulation)
    simulation.upgraded()
    simulation.delay = delay
    load.add(200_000, 0)
    simulation.session.close(simulation.now)
    assert.equal(simulation.session.state, 'closing')
    simulation.run(10_000)
    load.assertExact()
    assert.equal(simulation.end?.cause, 'local')
    assert.equal(simulation.remote.ended, true)
  }
})

test('a close of the server does not cut off what is in the channel', () => {
  for (const hasty of [true, false]) {
    const simulation = new Simulation({ webrtc: true, hasty })
    const load = new Load(simulation)
    const { channel, main } = simulation.upgraded()
    simulation.delay = skewed(800, 1)
    load.add(0, 1_000_000)
    simulation.remote.close(ErrorCode.backendClosed, 'exit=3')
    simulation.run(5000)
    load.assertExact()
    assert.deepEqual(simulation.end, { cause: 'closed', code: ErrorCode.backendClosed, text: 'exit=3' })
    assert.equal(simulation.remote.ended, true)
    assert.equal(channel.clientOpen || main.clientOpen, false)
  }
})

test('a close waits for what is slow in the channel as long as it comes', () => {
  const simulation = new Simulation({ webrtc: true, hasty: true })
  const load = new Load(simulation)
  simulation.upgraded()
  let delay = 0
  simulation.delay = link => link.kind === 'channel' ? (delay += 4000) : 1
  load.add(0, 20_000)
  simulation.remote.close(ErrorCode.backendClosed, 'exit=0')
  simulation.run(60_000)
  load.assertExact()
  assert.equal(simulation.end?.text, 'exit=0')
})

test('a close by the channel does not cut off what is on the WebSocket', () => {
  const simulation = new Simulation({ webrtc: true, moves: 'never' })
  const load = new Load(simulation)
  const { channel } = simulation.upgraded()
  simulation.delay = skewed(1, 500)
  load.add(0, 50_000)
  simulation.inject(channel, { type: 'close', byClient: false, code: CloseCode.normal, text: '' })
  simulation.run(3000)
  load.assertExact()
  assert.equal(simulation.end?.cause, 'closed')
})

test('the tail is fetched when the channel breaks behind a close', () => {
  for (const hasty of [true, false]) {
    const simulation = new Simulation({ webrtc: true, hasty })
    const load = new Load(simulation)
    const { channel } = simulation.upgraded()
    simulation.delay = skewed(800, 1)
    load.add(0, 100_000)
    simulation.remote.close(ErrorCode.backendClosed, 'exit=0')
    simulation.run(100)
    simulation.cut(channel)
    simulation.run(6000)
    load.assertExact()
    assert.equal(simulation.end?.text, 'exit=0')
  }
})

test('a close of the user whose channel breaks comes behind what was typed', () => {
  const simulation = new Simulation({ webrtc: true })
  const load = new Load(simulation)
  const { channel } = simulation.upgraded()
  simulation.delay = skewed(800, 1)
  load.add(50_000, 0)
  simulation.session.close(simulation.now)
  simulation.run(10)
  simulation.cut(channel)
  simulation.run(6000)
  load.assertExact()
  assert.equal(simulation.end?.cause, 'local')
  assert.equal(simulation.remote.ended, true)
})

test('a silent channel does not hold the end for ever', () => {
  for (const byUser of [true, false]) {
    const simulation = new Simulation({ webrtc: true, hasty: true })
    const { channel } = simulation.upgraded()
    simulation.remote.output(bytes('x'))
    simulation.run(50)
    simulation.cut(channel, { tellClient: false, tellServer: false })
    byUser ? simulation.session.close(simulation.now) : simulation.remote.close(CloseCode.normal, '')
    simulation.run(16_000)
    assert.equal(simulation.end?.cause, byUser ? 'local' : 'closed')
  }
})

test('a server may stay on the WebSocket, or move before the client', () => {
  for (const moves of ['never', 'at once'] as const) {
    const simulation = new Simulation({ webrtc: true, moves })
    const load = new Load(simulation)
    simulation.established()
    simulation.delay = skewed(100, 10)
    load.add(50_000, 50_000)
    simulation.openChannel({ atServer: 5, atClient: 50 })

    for (let step = 0; step < 50; step++) {
      load.add(500, 2000)
      simulation.run(20)
    }

    simulation.run(5000)
    load.assertExact()
    assert.equal(simulation.remote.onChannel, moves === 'at once')
  }
})

test('what opens, resumes or upgrades a session is refused on the channel, what is for the other side is not', () => {
  const simulation = new Simulation({ webrtc: true })
  const { channel } = simulation.upgraded()
  simulation.inject(channel, { type: 'resize', columns: 1, rows: 1, width: 0, height: 0 })
  simulation.run(50)
  assert.equal(simulation.end, undefined)
  simulation.inject(channel, { type: 'webrtc-ready' })
  simulation.run(50)
  assert.equal((simulation.end as End | undefined)?.code, ErrorCode.invalidState)
  assert.ok(simulation.links.every(link => !link.clientOpen))
})
