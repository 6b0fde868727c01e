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
