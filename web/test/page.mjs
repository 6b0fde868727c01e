// Opens the built page in Chromium and uses it as a person would, by the direct path and by WebSocket, with
// connections that break. Screenshots go to target/web/.
//
//     node test/page.mjs [--program PATH] [--only TEXT]
//
// PATH is run as `PATH serve --json` and must print a JSON line with `url` (of the page) and `invitation`, which names
// a webrtc-direct address and a WebSocket URL. Without --program, a stand-in with a toy shell serves the page.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { build } from 'esbuild'
import { findBrowser } from '../../interop/js/lib/tools.mjs'
import { closeBrowser, openPage, startChromium } from './chromium.mjs'
import { startTcpProxy, startUdpProxy } from './proxies.mjs'
import { SCENARIOS } from './scenarios.mjs'

const { values: options } = parseArgs({ options: { program: { type: 'string' }, only: { type: 'string' } } })
const path = relative => fileURLToPath(new URL(relative, import.meta.url))
const pictures = path('../../target/web')
const START_LIMIT_MS = 30_000
const SCENARIO_LIMIT_MS = 120_000

const executable = findBrowser('chromium')

if (executable == null) {
  console.log('SKIPPED: Chromium is not installed; set CHROMIUM to its path')
  process.exit(process.env.CI === 'true' ? 1 : 0)
}

mkdirSync(pictures, { recursive: true })
const program = options.program == null ? await startStandIn() : await startProgram(options.program, ['serve', '--json'])
let failed = 0
let passed = 0

for (const ice of ['v1', 'v2']) {
  const browser = await startChromium({ executable, ice })

  try {
    for (const scenario of SCENARIOS) {
      const name = `${scenario.name} [${scenario.path}${scenario.path === 'webrtc' ? ` ${ice}` : ''}]`
      const runs = scenario.path === 'webrtc'
        // The stand-in is made of js-libp2p, which answers v1 only.
        ? ice === 'v1' || options.program != null
        : ice === 'v1'

      if (runs && (options.only == null || name.includes(options.only)) &&
          (options.program == null || scenario.standInOnly !== true)) {
        await run(name, scenario, browser)
      }
    }
  } finally {
    await closeBrowser(browser)
  }
}

program.stop()
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed > 0 || passed === 0 ? 1 : 0

async function run (name, scenario, browser) {
  const network = await startNetwork(program.ready)
  const page = await openPage(browser, scenario.view)
  const started = Date.now()
  let timer

  try {
    await Promise.race([
      scenario.run({ page, network, path: scenario.path, screenshot: async file => await page.tab.screenshot({ path: `${pictures}/${file}.png` }) }),
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
    console.log(`FAILED  ${name} (${Date.now() - started} ms)\n${err.stack}\nstate: ${await page.state().catch(() => '?')}\n${page.log.slice(-15).join('\n')}`)
    await page.tab.screenshot({ path: `${pictures}/failed-${name.replace(/\W+/g, '-')}.png` }).catch(() => {})
  } finally {
    clearTimeout(timer)
    await page.close()
    network.stop()
  }
}

/** Proxies before everything the invitation names. */
async function startNetwork ({ url, invitation }) {
  const fields = JSON.parse(Buffer.from(invitation.split(':')[2], 'base64url').toString())
  const http = await startTcpProxy(Number(new URL(url).port))
  const direct = fields.a.find(address => address.includes('/webrtc-direct/certhash/'))
  const [, host, udpPort] = /^\/ip4\/([^/]+)\/udp\/(\d+)\//.exec(direct)
  const udp = await startUdpProxy(Number(udpPort), host)
  const proxied = {
    webrtc: [direct.replace(`/udp/${udpPort}/`, `/udp/${udp.port}/`)],
    webSocket: `ws://127.0.0.1:${http.port}${new URL(fields.w).pathname}`
  }

  return {
    toy: options.program == null,
    http,
    udp,
    url: `http://127.0.0.1:${http.port}/`,
    /** An invitation that names these paths only. */
    invite: (paths, changes = {}) => 'socketpipe:1:' + Buffer.from(JSON.stringify({
      ...fields,
      a: paths.includes('webrtc') ? proxied.webrtc : [],
      w: paths.includes('websocket') ? proxied.webSocket : undefined,
      ...changes
    })).toString('base64url'),
    stop: () => {
      http.stop()
      udp.stop()
    }
  }
}

async function startStandIn () {
  const outfile = path('../node_modules/.cache/fake-program.mjs')
  await build({
    absWorkingDir: path('.'),
    entryPoints: ['fake-program.ts'],
    outfile,
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'node',
    target: 'node20',
    banner: {
      js: 'Promise.withResolvers??=function(){let a,b;const promise=new Promise((c,d)=>{a=c;b=d});return{promise,resolve:a,reject:b}};'
    },
    logLevel: 'error'
  })
  return await startProgram(process.execPath, [outfile, path('../dist')])
}

/** Starts a program that prints JSON lines, the one with `invitation` when it is ready. */
async function startProgram (command, args) {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const ready = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the program prints no invitation')), START_LIMIT_MS)
    child.once('exit', code => reject(new Error(`the program ended with ${code}`)))
    createInterface({ input: child.stdout }).on('line', line => {
      const fields = parse(line)

      if (typeof fields.invitation === 'string') {
        clearTimeout(timer)
        resolve(fields)
      }
    })
  })

  return { ready, stop: () => child.kill('SIGTERM') }
}

function parse (line) {
  try {
    return JSON.parse(line) ?? {}
  } catch {
    return {}
  }
}
