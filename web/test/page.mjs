// Opens the page of `socketpipe serve` in Chromium and uses it as a person would, by the direct path and by WebSocket,
// with connections that break. Screenshots go to target/web/.
//
//     node test/page.mjs [--program PATH] [--only TEXT]
//
// PATH is target/debug/socketpipe unless given: cargo build --features gateway --bin socketpipe
import assert from 'node:assert/strict'
import { mkdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { findBrowser, isExecutable } from '../../interop/js/lib/tools.mjs'
import { closeBrowser, openPage, startChromium } from './chromium.mjs'
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

const executable = findBrowser('chromium')

if (executable == null) {
  console.log('SKIPPED: Chromium is not installed; set CHROMIUM to its path')
  process.exit(process.env.CI === 'true' ? 1 : 0)
}

if (!isExecutable(options.program)) {
  console.error(`${options.program} is not there; run: cargo build --features gateway --bin socketpipe`)
  process.exit(1)
}

mkdirSync(pictures, { recursive: true })
const program = await startProgram(options.program)
const standing = program.invite('--uses', '0')
let failed = 0
let passed = 0

for (const ice of ['v1', 'v2']) {
  const chosen = SCENARIOS
    .filter(scenario => scenario.ice.includes(ice))
    .map(scenario => ({ ...scenario, name: `${scenario.name} [${scenario.path === 'webrtc' ? ice : scenario.path}]` }))
    .filter(({ name }) => name.includes(options.only))
  const browser = chosen.length > 0 ? await startChromium({ executable, ice }) : undefined

  for (const scenario of chosen) {
    await run(scenario, browser)
  }

  await closeBrowser(browser)
}

const code = await program.stop()

if (code !== 0) {
  failed++
  console.log(`FAILED  the program ended with ${code}`)
}

console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 || passed === 0 ? 1 : 0

async function run ({ name, path, view, run }, browser) {
  const network = await startNetwork(standing)
  const page = await openPage(browser, view)
  const screenshot = async file => await page.tab.screenshot({ path: `${pictures}/${file}.png` })
  const started = Date.now()
  let timer

  try {
    await Promise.race([
      run({ page, network, path, program, screenshot }),
      new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error('time limit')), SCENARIO_LIMIT_MS)
      })
    ])
    assert.deepEqual(page.violations, [], 'the Content-Security-Policy was violated')
    assert.deepEqual(page.errors, [], 'the page has errors')
    passed++
    console.log(`ok      ${name} (${Date.now() - started} ms)`)
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
