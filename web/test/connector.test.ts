import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ErrorCode } from '../src/codes.ts'
import { connectedBy, setUp } from './fakes.ts'

test('takes the direct path and leaves the fallback alone', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(10_000)
  assert.equal(connectedBy(setup), 'webrtc')
  assert.equal(setup.fallback.dials, 0)
})

test('takes the fallback when the direct path does not answer soon', async () => {
  const setup = setUp()
  setup.direct.mode = 'blocked'
  setup.connector.start()
  await setup.timers.run(2400)
  assert.equal(connectedBy(setup), undefined)
  await setup.timers.run(200)
  assert.equal(connectedBy(setup), 'websocket')
})

test('takes the fallback at once when the direct path fails', async () => {
  const setup = setUp()
  setup.direct.mode = 'broken'
  setup.connector.start()
  await setup.timers.run(0)
  assert.equal(connectedBy(setup), 'websocket')
})

test('moves to the direct path when it becomes possible, with growing pauses between tries', async () => {
  const setup = setUp()
  setup.direct.mode = 'broken'
  setup.connector.start()
  await setup.timers.run(29_000)
  assert.equal(setup.direct.dials, 1)
  await setup.timers.run(2000)
  assert.equal(setup.direct.dials, 2)
  await setup.timers.run(50_000)
  assert.equal(setup.direct.dials, 2)
  setup.direct.mode = 'open'
  await setup.timers.run(15_000)
  assert.equal(connectedBy(setup), 'webrtc')
  assert.equal(setup.fallback.paths[0]!.open, false)
  assert.equal(setup.server.sessions.size, 1)
})

test('tries the direct path at once when the network has changed', async () => {
  const setup = setUp()
  setup.direct.mode = 'broken'
  setup.connector.start()
  await setup.timers.run(1000)
  setup.direct.mode = 'open'
  setup.connector.nudge()
  await setup.timers.run(0)
  assert.equal(connectedBy(setup), 'webrtc')
})

test('dials again what hangs when the network has changed', async () => {
  const setup = setUp()
  setup.direct.mode = 'blocked'
  setup.connector.start()
  await setup.timers.run(5000)
  assert.equal(connectedBy(setup), 'websocket')
  setup.direct.mode = 'open'
  setup.connector.nudge()
  await setup.timers.run(0)
  assert.equal(setup.direct.dials, 2)
  assert.equal(connectedBy(setup), 'webrtc')
})

test('resumes at once after a loss, by whatever path there is', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(10_000)
  setup.direct.mode = 'broken'
  setup.direct.cut()
  await setup.timers.run(0)
  assert.equal(connectedBy(setup), 'websocket')
  assert.equal(setup.statuses.at(-1)?.state === 'connected' && setup.statuses.at(-1), setup.connector.status)
  assert.equal(setup.server.sessions.size, 1)
})

test('waits longer after each failure, and not at all when nudged', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(10_000)
  setup.direct.mode = setup.fallback.mode = 'broken'
  setup.direct.cut()
  const waits: number[] = []

  for (let tries = 0; tries < 5; tries++) {
    await setup.timers.run(0)
    const { status } = setup.connector
    assert.ok(status.state === 'waiting')
    assert.deepEqual(status.problems, ['webrtc is broken', 'websocket is broken'])
    waits.push(status.retryAt - setup.timers.time)
    await setup.timers.run(status.retryAt - setup.timers.time)
  }

  assert.deepEqual(waits, [1000, 2000, 4000, 8000, 15_000])
  setup.direct.mode = 'open'
  setup.connector.nudge()
  await setup.timers.run(0)
  assert.equal(connectedBy(setup), 'webrtc')
})

test('does not hurry when connections break as soon as they stand', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(100)
  setup.direct.cut()
  await setup.timers.run(0)
  assert.equal(setup.connector.status.state, 'waiting')
})

test('a session bound to the direct path is not given up because the fallback refuses it', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(10_000)
  const sessions = [...setup.server.sessions]
  setup.server.sessions.clear()
  setup.direct.mode = 'broken'
  setup.direct.cut()
  await setup.timers.run(100)
  assert.equal(setup.connector.status.state, 'waiting')

  sessions.forEach(([id, session]) => setup.server.sessions.set(id, session))
  setup.direct.mode = 'open'
  await setup.timers.run(5000)
  assert.equal(connectedBy(setup), 'webrtc')
  assert.equal(setup.fallback.dials, 1)
})

test('a session that goes on by the fallback stays there when the direct path is refused', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(10_000)
  setup.direct.mode = 'broken'
  setup.direct.cut()
  await setup.timers.run(10_000)
  assert.equal(connectedBy(setup), 'websocket')

  const sessions = [...setup.server.sessions]
  setup.server.sessions.clear()
  setup.direct.mode = 'open'
  setup.connector.nudge()
  await setup.timers.run(100)
  assert.equal(setup.direct.dials, 3)
  assert.equal(connectedBy(setup), 'websocket')

  // It is tried again later.
  sessions.forEach(([id, session]) => setup.server.sessions.set(id, session))
  await setup.timers.run(60_000)
  assert.equal(connectedBy(setup), 'webrtc')
})

test('ends when the server has no such session where it began', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(10_000)
  setup.server.sessions.clear()
  setup.direct.cut()
  await setup.timers.run(100)
  assert.deepEqual(setup.connector.status, {
    state: 'ended',
    end: { cause: 'refused', code: ErrorCode.sessionNotFound, text: 'no such session', during: 'resume' }
  })
})

test('asks the other path before it reports that the token is not accepted', async () => {
  const setup = setUp({ accepts: () => ({ code: ErrorCode.authFailed, text: '' }) })
  setup.connector.start()
  await setup.timers.run(100)
  assert.equal(setup.direct.dials, 1)
  assert.equal(setup.fallback.dials, 1)
  assert.equal(setup.connector.status.state === 'ended' && setup.connector.status.end.code, ErrorCode.authFailed)
})

test('reports at once what no other path would change', async () => {
  const setup = setUp({ accepts: () => ({ code: ErrorCode.connectRefused, text: '' }) })
  setup.connector.start()
  await setup.timers.run(100)
  assert.equal(setup.fallback.dials, 0)
  assert.equal(setup.connector.status.state === 'ended' && setup.connector.status.end.code, ErrorCode.connectRefused)
})

test('nothing is dialled after the user ended the session', async () => {
  const setup = setUp()
  setup.connector.start()
  await setup.timers.run(1000)
  setup.connector.close()
  await setup.timers.run(600_000)
  assert.equal(setup.connector.status.state, 'ended')
  assert.equal(setup.direct.dials + setup.fallback.dials, 1)
  assert.equal(setup.direct.paths[0]!.open, false)
})

test('ends without a server when the user gives up waiting', async () => {
  const setup = setUp()
  setup.direct.mode = setup.fallback.mode = 'broken'
  setup.connector.start()
  await setup.timers.run(100)
  setup.connector.close()
  await setup.timers.run(600_000)
  assert.equal(setup.connector.status.state, 'ended')
  assert.equal(setup.direct.dials, 1)
})
