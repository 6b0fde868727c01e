// What scenarios of the page have in common.
import assert from 'node:assert/strict'

const PATH_NAMES = { webrtc: 'direct', websocket: 'WebSocket', channel: 'WebRTC direct' }

export async function connected ({ page, network, path }) {
  await page.open(network.url, network.invite([path === 'channel' ? 'websocket' : path]))
  await page.waitState('Connected')
  await page.waitPath(PATH_NAMES[path])
  await prompted(page)
}

export async function prompted (page) {
  await page.tab.waitForFunction('socketpipe.text().startsWith("$")')
}

/** The n-th answer of `stty size`. */
export async function sizeShown (page, count) {
  const shown = `[...socketpipe.text().matchAll(/^(\\d+) (\\d+)$/gm)]`
  await page.tab.waitForFunction(`${shown}.length >= ${count}`)
  const [rows, columns] = await page.tab.evaluate(`${shown}.at(-1).slice(1).map(Number)`)
  return { rows, columns }
}

/** By the direct path; otherwise the WebSocket, without which a data channel is of no use. */
export async function breakPath (network, path) {
  path === 'webrtc' ? network.udp.cut() : network.http.swallow()
}

/** Begins to print so many numbers; behind the thousandth that waits for `program.go(true)`. */
export async function beginCount ({ page, program }, count) {
  program.go(false)
  await page.command(`count ${count}`)
  await page.shows('n1000\n')
}

/** All numbers came, and so did what was typed in two parts while the connection broke. */
export async function assertWhole (page, count) {
  await page.shows(`n${count}\n`)
  await page.shows('typed meanwhile\n')
  assertComplete(await page.text(), count)
}

/** A session that is cut off goes on by its WebSocket, and returns to `path` when the cut is healed. Gives how long the former took. */
export async function leaveAndReturn (context, { count, cut, heal, path }) {
  const { page, program } = context
  await beginCount(context, count)
  program.go(true)
  const started = Date.now()
  await cut()
  await page.type('echo typed mean')
  await page.waitPath('WebSocket')
  const took = Date.now() - started
  await page.command('while')
  await assertWhole(page, count)

  program.go(false)
  await page.command('clear; count 4000')
  await page.shows('n1000\n')
  await heal()
  program.go(true)
  await nudge(page)
  await page.waitPath(path)
  await page.shows('n4000\n')
  assertComplete((await page.text()).split('count 4000').at(-1), 4000)
  return took
}

/** Prints without end, until Ctrl-C. Gives the time until that shows. */
export async function endFlood (context) {
  const { page } = context
  await connected(context)
  await page.command('yes')
  // More than is kept.
  await page.tab.waitForFunction('socketpipe.text().length >= 20_000')
  const started = Date.now()
  await page.chord('Control', 'KeyC')
  await page.shows('^C')
  const took = Date.now() - started
  assert.ok(took < 3000, `Ctrl-C took ${took} ms`)
  return { ctrlCMs: took }
}

/** What a browser says when the network has changed. */
export async function nudge (page) {
  await page.tab.evaluate(() => { window.dispatchEvent(new Event('online')) })
}

/** Every number once and in order; what was typed meanwhile may stand between them. */
export function assertComplete (text, count) {
  const numbers = [...text.matchAll(/n(\d+)$/gm)].map(match => Number(match[1]))
  const wrong = numbers.findIndex((number, index) => number !== index + 1)
  assert.equal(wrong, -1, `${numbers[wrong]} follows ${numbers[wrong - 1]}`)
  assert.equal(numbers.length, count)
}
