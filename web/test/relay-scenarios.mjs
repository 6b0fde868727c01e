// What is done with a page whose data channel can come up by a TURN server only.
import assert from 'node:assert/strict'
import { assertWhole, beginCount, nudge, prompted } from './steps.mjs'

/** Longer than an attempt at a data channel. */
const ATTEMPT_S = 11

const scenario = (name, run) => ({ name, path: 'relay', ice: ['v1'], run })

/** The TURN server of the page, as POST /ice has told it. */
async function serverSeen (page, turn) {
  await page.tab.waitForFunction('serversSeen.length > 0')
  const servers = await page.tab.evaluate('serversSeen')
  const server = servers.at(-1)
  assert.deepEqual([server.urls].flat(), [turn.url])
  assert.match(server.username, /^\d+:[0-9a-f]{16}$/)
  return server
}

/** What carries the sessions whose pages are there, as the program says. */
const carriers = program => program.sessions().map(({ path }) => path).filter(path => path != null)

async function opened ({ page, network }) {
  await page.open(network.url, network.invite(['websocket']))
  await prompted(page)
}

export const RELAY_SCENARIOS = [
  scenario('goes by the TURN server with the credentials of its session, and loses no character', async context => {
    const { page, program, turn } = context
    await turn.start(turn.secret)
    await opened(context)
    await page.waitPath('WebRTC relayed')
    const { username } = await serverSeen(page, turn)
    assert.ok(turn.said(username, 'ALLOCATE processed, success') > 0, `no allocation for ${username}`)
    await beginCount(context, 3000)
    program.go(true)
    await page.command('echo typed mean"while"')
    await assertWhole(page, 3000)
    assert.equal(await page.path(), 'WebRTC relayed')
    // The program sees the server's address, and knows it for one if the page's candidate came before its first packet.
    assert.match(carriers(program).join(), /^webrtc (direct|relayed)$/)
  }),

  scenario('works on its WebSocket where the TURN server has another secret, and moves when it has the right one', async context => {
    const { page, program, turn } = context
    await turn.start('another secret')
    await opened(context)
    const { username } = await serverSeen(page, turn)
    await page.command(`sleep ${ATTEMPT_S}; echo "by Web"Socket`)
    await page.shows('by WebSocket\n')
    assert.equal(await page.path(), 'WebSocket')
    assert.equal(turn.said(username, 'ALLOCATE processed, success'), 0, 'the server took a wrong password')
    assert.ok(turn.said(username, 'error 401') > 0, `the server was not asked by ${username}`)
    assert.deepEqual(carriers(program), ['websocket'])
    await turn.start(turn.secret)
    await nudge(page)
    await page.waitPath('WebRTC relayed')
    await page.command('echo "by the Web"RTC')
    await page.shows('by the WebRTC\n')
  })
]
