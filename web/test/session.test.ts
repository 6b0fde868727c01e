import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CloseCode, ErrorCode, FrameError } from '../src/frame.ts'
import type { End } from '../src/session-types.ts'
import { randomFrom, Simulation, type Link } from './simulation.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (numbers: number[]): string => new TextDecoder().decode(Uint8Array.from(numbers))

test('begins with the handshake, then environment, size and a first round trip', () => {
  const simulation = new Simulation()
  simulation.session.resize(120, 40)
  simulation.established()

  assert.deepEqual(simulation.sent.slice(0, 4).map(frame => frame.type), ['handshake-request', 'env', 'resize', 'ping'])
  assert.deepEqual(simulation.sizes, [[120, 40]])
  assert.equal(simulation.remote.env.get('TERM'), 'xterm-256color')
  assert.deepEqual(simulation.rtts, [20])
  assert.deepEqual(simulation.states, ['handshaking', 'established'])
})

test('carries bytes both ways', () => {
  const simulation = new Simulation()
  simulation.established()
  simulation.session.write(bytes('ls\r'), simulation.now)
  simulation.remote.output(bytes('file'))
  simulation.run(100)

  assert.equal(text(simulation.input), 'ls\r')
  assert.equal(text(simulation.output), 'file')
})

test('types ahead before the connection stands', () => {
  const simulation = new Simulation()
  simulation.session.write(bytes('early'), simulation.now)
  simulation.established()
  assert.equal(text(simulation.input), 'early')
})

test('reports a refused handshake and can try again elsewhere', () => {
  let refuse = true
  const simulation = new Simulation({
    accepts: () => refuse ? { code: ErrorCode.authExpired, text: 'expired' } : undefined
  })
  simulation.established()
  assert.deepEqual(simulation.refusals, [{ during: 'handshake', code: 1001, text: 'expired' }])
  assert.equal(simulation.session.state, 'new')

  refuse = false
  simulation.established()
  assert.equal(simulation.session.state, 'established')
})

test('gives up on a server that does not answer the handshake', () => {
  const simulation = new Simulation()
  simulation.cut(simulation.connect(), { tellClient: false })
  simulation.run(31_000)
  assert.deepEqual(simulation.detached, ['the server did not answer'])
  assert.equal(simulation.session.state, 'new')
})

test('resumes without loss after a cut in the middle of both streams', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.session.write(bytes('one '), simulation.now)
  simulation.remote.output(bytes('uno '))
  simulation.run(100)
  simulation.session.write(bytes('two '), simulation.now)
  simulation.remote.output(bytes('due '))
  simulation.cut(link)
  assert.equal(simulation.session.state, 'disconnected')

  simulation.session.write(bytes('three'), simulation.now)
  simulation.remote.output(bytes('tre'))
  simulation.session.resize(100, 30)
  simulation.established()

  assert.equal(text(simulation.input), 'one two three')
  assert.equal(text(simulation.output), 'uno due tre')
  assert.deepEqual(simulation.sizes.at(-1), [100, 30])
  assert.equal(simulation.attached.at(-1)?.fresh, false)
})

/** The token of the last resume request. */
function tokenShown (simulation: Simulation): string | undefined {
  const request = simulation.sent.findLast(frame => frame.type === 'resume-request')
  assert.ok(request?.type === 'resume-request')
  return request.token == null ? undefined : text([...request.token])
}

test('shows the token where the session goes on by another kind of path than it was opened on', () => {
  for (const [opened, other] of [['webrtc', 'websocket'], ['websocket', 'webrtc']] as const) {
    const simulation = new Simulation()
    simulation.cut(simulation.established(opened))
    simulation.cut(simulation.established(opened))
    assert.equal(tokenShown(simulation), undefined, `back by ${opened}`)

    simulation.cut(simulation.established(other))
    assert.equal(tokenShown(simulation), 't', `on by ${other}`)

    // The kind it was opened on counts, not the last one.
    simulation.established(other)
    assert.equal(tokenShown(simulation), 't', `again by ${other}`)
    simulation.established(opened)
    assert.equal(tokenShown(simulation), undefined, `returned to ${opened}`)
    assert.equal(simulation.session.state, 'established')
  }
})

test('appends no empty token', () => {
  const simulation = new Simulation({}, new Uint8Array())
  simulation.cut(simulation.established('webrtc'))
  simulation.established('websocket')
  assert.equal(tokenShown(simulation), undefined)
})

test('does not repeat input to a server that does not say what it has', () => {
  const simulation = new Simulation({ repair: false })
  const link = simulation.established()
  simulation.session.write(bytes('rm x\r'), simulation.now)
  simulation.run(15)
  simulation.cut(link)
  simulation.established()
  simulation.session.write(bytes('ls\r'), simulation.now)
  simulation.run(100)
  assert.equal(text(simulation.input), 'rm x\rls\r')
})

test('reports a refused resume and stays without a path', () => {
  const simulation = new Simulation()
  simulation.cut(simulation.established())
  simulation.server.sessions.clear()
  simulation.established()
  assert.deepEqual(simulation.refusals, [{ during: 'resume', code: 4000, text: 'no such session' }])
  assert.equal(simulation.session.state, 'disconnected')
})

test('moves to a better path while the old one lives', () => {
  const simulation = new Simulation()
  const old = simulation.established('websocket')
  simulation.remote.output(bytes('a'))
  simulation.session.write(bytes('1'), simulation.now)
  const better = simulation.connect('webrtc')
  simulation.session.write(bytes('2'), simulation.now)
  simulation.remote.output(bytes('b'))
  simulation.run(200)

  assert.equal(simulation.session.path, better)
  assert.equal(simulation.end, undefined)
  assert.equal(old.clientOpen, false)
  assert.equal(text(simulation.output), 'ab')
  assert.equal(text(simulation.input), '12')
})

test('stays on the old path when the move is refused, and sends what waited', () => {
  const simulation = new Simulation()
  const old = simulation.established()
  const { remote } = simulation
  simulation.server.sessions.clear()
  simulation.connect('webrtc')
  simulation.session.write(bytes('waits'), simulation.now)
  simulation.run(200)

  assert.equal(simulation.session.path, old)
  assert.equal(simulation.refusals.length, 1)
  assert.equal(simulation.server.sessions.size, 0)
  assert.equal(remote.wire, old.wire)
  assert.equal(text(simulation.input), 'waits')
})

test('a move whose answer is lost is no take-over by somebody else', () => {
  const simulation = new Simulation()
  simulation.established()
  const better = simulation.connect('webrtc')
  simulation.run(11)
  simulation.cut(better)
  simulation.run(200)

  assert.equal(simulation.end, undefined)
  assert.equal(simulation.session.state, 'disconnected')
  simulation.established()
  assert.equal(simulation.session.state, 'established')
})

test('ends when another client takes the session', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.inject(link, { type: 'close', byClient: false, code: CloseCode.replaced, text: 'replaced' })
  simulation.run(100)
  assert.deepEqual(simulation.end, { cause: 'closed', code: CloseCode.replaced, text: 'replaced' })
})

test('fetches missing output by a resume', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.inject(link, { type: 'data', number: 2n, data: bytes('later') })
  simulation.run(100)
  assert.deepEqual(simulation.detached, ['a part of the output is missing'])
  assert.equal(simulation.session.state, 'disconnected')
  assert.equal(text(simulation.output), '')
})

test('drops output it has already', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.remote.output(bytes('a'))
  simulation.inject(link, { type: 'data', number: 1n, data: bytes('a') })
  simulation.run(100)
  assert.equal(text(simulation.output), 'a')
})

test('reports the exit and answers the close', () => {
  const simulation = new Simulation()
  simulation.established()
  simulation.remote.output(bytes('bye'))
  simulation.remote.close(ErrorCode.backendClosed, 'exit=3')
  simulation.run(100)
  assert.equal(text(simulation.output), 'bye')
  assert.deepEqual(simulation.end, { cause: 'closed', code: 2003, text: 'exit=3' })
  assert.equal(simulation.remote.ended, true)
})

test('learns of an exit that happened while it was away', () => {
  const simulation = new Simulation()
  simulation.cut(simulation.established())
  simulation.remote.output(bytes('tail'))
  simulation.remote.close(ErrorCode.backendClosed, 'exit=0')
  simulation.established()
  assert.equal(text(simulation.output), 'tail')
  assert.equal(simulation.end?.text, 'exit=0')
})

test('an error counts although no close follows', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.inject(link, { type: 'error', code: 2003, text: 'backend gone' })
  simulation.run(6000)
  assert.deepEqual(simulation.end, { cause: 'closed', code: 2003, text: 'backend gone' })
})

test('closes in order when the user wants to', () => {
  const simulation = new Simulation()
  simulation.established()
  simulation.session.close(simulation.now)
  assert.equal(simulation.session.state, 'closing')
  simulation.run(100)
  assert.equal(simulation.end?.cause, 'local')
  assert.equal(simulation.remote.ended, true)
})

test('does not wait for ever for the answer to its close', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.cut(link, { tellClient: false })
  simulation.session.close(simulation.now)
  simulation.run(5100)
  assert.equal(simulation.end?.cause, 'local')
})

test('pauses the server while the terminal is behind, and says so again after a resume', () => {
  const simulation = new Simulation()
  simulation.renders = false
  const link = simulation.established()

  for (let sent = 0; sent < 40; sent++) {
    simulation.remote.output(new Uint8Array(16_384))
  }

  simulation.run(100)
  assert.deepEqual(simulation.flows, [false])

  simulation.cut(link)
  simulation.established()
  assert.deepEqual(simulation.flows, [false, false])

  simulation.session.rendered(40 * 16_384 - 100_000)
  simulation.run(100)
  assert.deepEqual(simulation.flows, [false, false, true])
})

test('holds input while the server pauses, not its pings', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.inject(link, { type: 'flow-control', on: false })
  simulation.run(50)
  simulation.session.write(bytes('x'), simulation.now)
  simulation.run(6000)
  assert.equal(simulation.input.length, 0)
  assert.ok(simulation.rtts.length >= 2)

  simulation.inject(link, { type: 'flow-control', on: true })
  simulation.run(50)
  assert.equal(text(simulation.input), 'x')
})

test('sends a large paste in windows and completely', () => {
  const simulation = new Simulation()
  simulation.established()
  const paste = Uint8Array.from({ length: 300_000 }, (_, index) => index % 251)
  assert.equal(simulation.session.write(paste, simulation.now), true)
  const underWay = simulation.sent.reduce((sum, frame) => sum + (frame.type === 'data' ? frame.data.length : 0), 0)
  assert.equal(underWay, 65_536)
  simulation.run(1000)
  assert.deepEqual(simulation.input, [...paste])
})

test('takes little input without a connection and refuses the rest whole', () => {
  const simulation = new Simulation()
  simulation.cut(simulation.established())
  assert.equal(simulation.session.write(new Uint8Array(65_536), simulation.now), true)
  assert.equal(simulation.session.write(new Uint8Array(1), simulation.now), false)
})

test('answers pings with their payload', () => {
  const simulation = new Simulation()
  simulation.established()
  simulation.remote.ping(bytes('abc'))
  simulation.run(50)
  const pong = simulation.sent.find(frame => frame.type === 'pong')
  assert.equal(pong?.type === 'pong' && text([...pong.payload]), 'abc')
})

test('says when the server falls silent and gives the path up later', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.cut(link, { tellClient: false, tellServer: false })
  simulation.run(16_000)
  assert.deepEqual(simulation.silences, [true])
  assert.equal(simulation.session.state, 'established')
  simulation.run(12_000)
  assert.deepEqual(simulation.detached, ['the server stopped answering'])
})

test('a page that slept asks before it gives a path up', () => {
  const simulation = new Simulation()
  simulation.established()
  simulation.run(4990)
  simulation.session.tick(simulation.now + 20)
  simulation.now += 3_600_000
  simulation.session.tick(simulation.now)
  assert.equal(simulation.session.state, 'established')
  simulation.run(100)
  assert.equal(simulation.session.state, 'established')
})

test('a probe finds a dead path within five seconds', () => {
  const simulation = new Simulation()
  simulation.cut(simulation.established(), { tellClient: false, tellServer: false })
  simulation.session.probe(simulation.now)
  simulation.run(5100)
  assert.equal(simulation.session.state, 'disconnected')
})

test('a connection lost without resume ends the session', () => {
  const simulation = new Simulation({ resume: false })
  simulation.cut(simulation.established())
  assert.equal(simulation.end?.cause, 'lost')
})

test('ends with a close when the server sends rubbish', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.session.receiveMalformed(link, new FrameError(ErrorCode.invalidMessage, 'rubbish'))
  assert.deepEqual(simulation.end, { cause: 'failed', code: 3001, text: 'rubbish' })
  const last = simulation.sent.at(-1)!
  assert.equal(last.type === 'close' && last.code, 3001)
})

test('ends when the server answers twice', () => {
  const simulation = new Simulation()
  const link = simulation.established()
  simulation.inject(link, { type: 'resume-response', ok: true, start: 1n, count: 0 })
  simulation.run(50)
  assert.equal(simulation.end?.code, ErrorCode.invalidState)
})

test('refuses another major version', () => {
  const simulation = new Simulation({ accepts: () => ({ code: 0, text: '' }) })
  const link = simulation.connect()
  simulation.inject(link, {
    type: 'handshake-response', ok: true, capabilities: 0, major: 2, minor: 0, pingInterval: 0, pingTimeout: 0,
    maxMessageSize: 0
  })
  simulation.run(9)
  simulation.run(50)
  assert.equal(simulation.end?.code, ErrorCode.unsupportedVersion)
})

test('ignores unknown frames, but not for ever', () => {
  const simulation = new Simulation()
  const link = simulation.established()

  for (let sent = 0; sent < 63; sent++) {
    link.wire.send(Uint8Array.of(0xa0, 0, 0, 0, 0, 0, 0, 0))
  }

  simulation.run(50)
  assert.equal(simulation.end, undefined)
  link.wire.send(Uint8Array.of(0xa0, 0, 0, 0, 0, 0, 0, 0))
  simulation.run(50)
  assert.equal((simulation.end as End | undefined)?.code, ErrorCode.protocolError)
})

// Cuts at any moment, seen by both, one or neither side; moves; delays that change: the streams must be equal in the end.
for (let seed = 1; seed <= 200; seed++) {
  test(`no byte is lost, doubled or reordered (seed ${seed})`, () => {
    const random = randomFrom(seed)
    const simulation = new Simulation()
    const typed: number[] = []
    const printed: number[] = []
    simulation.delay = () => 1
    simulation.established()
    simulation.delay = () => 1 + random(40)

    for (let step = 0; step < 300; step++) {
      const action = random(100)

      if (action < 35) {
        const data = Uint8Array.from({ length: 1 + random(random(20) === 0 ? 60_000 : 200) }, () => random(256))

        if (simulation.session.write(data, simulation.now)) {
          for (const byte of data) typed.push(byte)
        }
      } else if (action < 65) {
        const { remote } = simulation

        if (remote?.hasRoom === true) {
          const data = Uint8Array.from({ length: 1 + random(2000) }, () => random(256))
          remote.output(data)
          for (const byte of data) printed.push(byte)
        }
      } else if (action < 70) {
        simulation.cut(simulation.links[random(simulation.links.length)]!, {
          tellClient: random(4) > 0,
          tellServer: random(2) === 0
        })
      } else if (action < 75) {
        simulation.connect(random(2) === 0 ? 'webrtc' : 'websocket')
      } else if (action < 85) {
        // The server forgets what this confirms.
        simulation.remote?.ping(Uint8Array.of(step >> 8, step))
      }

      if (simulation.session.state === 'new' || simulation.session.state === 'disconnected') {
        if (random(3) === 0) {
          simulation.connect()
        }
      }

      simulation.run(random(60))
      assert.equal(simulation.end, undefined)
    }

    // The network behaves from now on.
    for (let tries = 0; tries < 5; tries++) {
      if (simulation.session.state !== 'established') {
        simulation.connect()
      }

      simulation.run(30_000)
    }

    assert.deepEqual(simulation.refusals, [])
    assert.equal(simulation.session.state, 'established')
    assert.ok((simulation.session.path as Link).clientOpen)
    assert.ok(Buffer.from(simulation.input).equals(Buffer.from(typed)), 'input differs')
    assert.ok(Buffer.from(simulation.output).equals(Buffer.from(printed)), 'output differs')
    assert.equal(simulation.server.sessions.size, 1)
  })
}
