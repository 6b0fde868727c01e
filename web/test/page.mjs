// Opens the page of `socketpipe serve` in Chromium and uses it as a person would, by the direct path, by WebSocket, and by
// a data channel beside one, this also in Firefox, with connections that break. Screenshots go to target/web/.
//
//     node test/page.mjs [--program PATH] [--only TEXT]
//
// PATH is target/debug/socketpipe unless given: cargo build --features gateway --bin socketpipe
import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { findBrowser, isExecutable } from '../../interop/js/lib/tools.mjs'
import { closeBrowser, openPage, startChromium, startFirefox } from './browsers.mjs'
import { startNetwork } from './network.mjs'
import { startProgram } from './program.mjs'
import { SCENARIOS } from './scenarios.mjs'

const folder = relative => fileURLToPath(new URL(relative, import.meta.url))
const { values: options } = parseArgs({
  options: {
    program: { type: 'string', default: folder('../../target/debug/socketpipe') },
    only: { type: 'string', default: '' }
  }
})
const pictures = folder('../../target/web')
const SCENARIO_LIMIT_MS = 120_000

/** Firefox for what depends on the browser's WebRTC alone; the direct path in each of Chromium's two ways. */
const CELLS = [
  { browser: 'chromium', ice: 'v1', start: startChromium, has: ({ ice }) => ice.includes('v1') },
  { browser: 'chromium', ice: 'v2', start: startChromium, has: ({ ice }) => ice.includes('v2') },
  { browser: 'firefox', start: startFirefox, has: ({ path }) => path === 'channel' }
]
const missing = [...new Set(CELLS.map(({ browser }) => browser))].filter(browser => findBrowser(browser) == null)

for (const browser of missing) {
  console.log(`SKIPPED: ${browser} is not installed; set ${browser.toUpperCase()} to its path`)
}

if (missing.length > 0 && (process.env.CI === 'true' || missing.length === 2)) {
  process.exit(process.env.CI === 'true' ? 1 : 0)
}

if (!isExecutable(options.program)) {
  console.error(`${options.program} is not there; run: cargo build --features gateway --bin socketpipe`)
  process.exit(1)
}

mkdirSync(pictures, { recursive: true })
// Data channels come up within moments: what is about WebSockets alone has a program without them.
const programs = { plain: await serve({ webrtc: false }), upgrading: await serve({ webrtc: true }) }
let failed = 0
let passed = 0

for (const { browser, ice, start, has } of CELLS.filter(({ browser }) => !missing.includes(browser))) {
  const suffix = path => browser === 'firefox' ? 'firefox' : path === 'webrtc' ? ice : path
  const chosen = SCENARIOS
    .filter(has)
    .map(scenario => ({ ...scenario, name: `${scenario.name} [${suffix(scenario.path)}]` }))
    .filter(({ name }) => name.includes(options.only))
  const started = chosen.length > 0 ? await start({ executable: findBrowser(browser), ice }) : undefined

  for (const scenario of chosen) {
    await run(scenario, started)
  }

  await closeBrowser(started)
}

for (const { program } of Object.values(programs)) {
  const code = await program.stop()

  if (code !== 0) {
    failed++
    console.log(`FAILED  the program ended with ${code}`)
  }
}

console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 || passed === 0 ? 1 : 0

/** A program with an invitation that can be used again and again. */
async function serve (webrtc) {
  const program = await startProgram(options.program, webrtc)
  return { program, standing: program.invite('--uses', '0') }
}

async function run ({ name, path, view, run }, browser) {
  const { program, standing } = path === 'channel' ? programs.upgrading : programs.plain
  const network = await startNetwork(standing)
  const page = await openPage(browser, view)

  if (path === 'channel') {
    await network.channels.forward(page.tab)
  }

  const screenshot = async file => await page.tab.screenshot({ path: `${pictures}/${file}.png` })
  const started = Date.now()
  let timer

  try {
    const facts = await Promise.race([
      run({ page, network, path, program, screenshot }),
      new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error('time limit')), SCENARIO_LIMIT_MS)
      })
    ])
    assert.deepEqual(page.violations, [], 'the Content-Security-Policy was violated')
    assert.deepEqual(page.errors, [], 'the page has errors')
    passed++
    console.log(`ok      ${name} (${Date.now() - started} ms)${facts == null ? '' : ` ${JSON.stringify(facts)}`}`)
  } catch (err) {
    failed++
    const state = await page.state().catch(() => '?')
    console.log(`FAILED  ${name} (${Date.now() - started} ms)\n${err.stack}\nstate: ${state}`)
    console.log(page.log.slice(-15).join('\n'))
    await screenshot(`failed-${name.replace(/\W+/g, '-')}`).catch(() => {})
  } finally {
    clearTimeout(timer)
    await page.close()
    network.stop()
  }
}
