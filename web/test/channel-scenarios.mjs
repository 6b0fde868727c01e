// What is done with the page while its session runs on a data channel beside the WebSocket.
import assert from 'node:assert/strict'
import { assertComplete, assertWhole, beginCount, connected, endFlood, leaveAndReturn, nudge, prompted } from './steps.mjs'

/** A session that is cut off from its data channel is on its WebSocket again within this time. */
const FALLBACK_LIMIT_MS = 10_000

const scenario = (name, run) => ({ name, path: 'channel', ice: ['v1'], run })

export const CHANNEL_SCENARIOS = [
  scenario('stays on the WebSocket where no packet of WebRTC passes, and moves when they do', async ({ page, network }) => {
    await network.channels.refuse(true)
    await page.open(network.url, network.invite(['websocket']))
    await page.waitPath('WebSocket')
    await prompted(page)
    // Longer than an attempt.
    await page.command('sleep 11; echo "by Web"Socket')
    await page.shows('by WebSocket\n')
    assert.equal(await page.path(), 'WebSocket')
    await network.channels.refuse(false)
    await nudge(page)
    await page.waitPath('WebRTC direct')
    await page.command('echo "by Web"RTC')
    await page.shows('by WebRTC\n')
  }),

  scenario('loses no character when packets stop to pass, and returns when they do again', async context => {
    const { network: { channels } } = context
    await connected(context)
    const took = await leaveAndReturn(context, {
      count: 9000,
      cut: async () => {
        await channels.refuse(true)
        await channels.cut()
      },
      heal: async () => await channels.refuse(false),
      path: 'WebRTC direct'
    })
    assert.ok(took < FALLBACK_LIMIT_MS, `the fallback took ${took} ms`)
    return { fallbackMs: took }
  }),

  scenario('finds another way through the network by an ICE restart, on the same channel', async context => {
    const { page, network, program } = context
    await connected(context)
    await beginCount(context, 3000)
    await page.watchPaths()
    program.go(true)
    await network.channels.cut()
    await page.type('echo typed mean')
    await page.waitPathSeen('WebRTC interrupted')
    await page.waitPath('WebRTC direct')
    await page.command('while')
    await assertWhole(page, 3000)
    assert.deepEqual(await page.pathsSeen(), ['WebRTC interrupted', 'WebRTC direct'])
  }),

  scenario('loses no character when the WebSocket breaks under the channel', async context => {
    const { page, network, program } = context
    await connected(context)
    await beginCount(context, 6000)
    program.go(true)
    network.http.cut()
    await page.waitState('Connected again')
    await page.waitPath('WebRTC direct')
    await page.command('echo typed mean"while"')
    await assertWhole(page, 6000)
  }),

  scenario('shows everything that was printed before the program ended', async context => {
    const { page, program } = context
    program.go(true)
    await connected(context)
    await page.command('count 3000; exit 3')
    await page.waitState('Ended')
    assert.match(await page.content('#notice'), /exit status 3/)
    assertComplete(await page.text(), 3000)
  }),

  scenario('stays usable in a flood, and Ctrl-C ends it', endFlood)
]
