// Chromium and the page in it, with what the scenarios need to use it like a person.
import puppeteer from 'puppeteer-core'
import { CHROMIUM_FLAGS } from '../../interop/js/lib/chromium-flags.mjs'

const LIMIT_MS = 60_000
const WAIT_MS = 30_000

/** With v2, Chromium refuses rewritten ICE credentials. */
export async function startChromium ({ executable, ice }) {
  return await puppeteer.launch({
    browser: 'chrome',
    executablePath: executable,
    headless: true,
    timeout: LIMIT_MS,
    protocolTimeout: 2 * LIMIT_MS,
    args: [
      ...CHROMIUM_FLAGS,
      `--force-fieldtrials=WebRTC-NoSdpMangleUfrag/${ice === 'v2' ? 'Enabled' : 'Disabled'}/`
    ]
  })
}

/** A browser that hangs is killed by process id. */
export async function closeBrowser (browser) {
  const kill = setTimeout(() => browser?.process()?.kill('SIGKILL'), 5000)
  await browser?.close().catch(() => {})
  clearTimeout(kill)
}

/** A tab of its own; `view` may set `dark`, `width`, `height`, `touch`. */
export async function openPage (browser, view = {}) {
  const context = await browser.createBrowserContext()
  const tab = await context.newPage()
  const page = new Page(context, tab)
  await tab.setViewport({
    width: view.width ?? 1000,
    height: view.height ?? 640,
    hasTouch: view.touch ?? false,
    isMobile: view.touch ?? false,
    deviceScaleFactor: view.touch === true ? 2 : 1
  })
  await tab.emulateMediaFeatures([
    { name: 'prefers-color-scheme', value: view.dark === true ? 'dark' : 'light' },
    { name: 'prefers-reduced-motion', value: 'reduce' }
  ])
  return page
}

class Page {
  log = []
  errors = []
  violations = []
  #context

  constructor (context, tab) {
    this.#context = context
    this.tab = tab
    tab.on('dialog', dialog => void dialog.accept().catch(() => {}))
    tab.on('pageerror', err => this.errors.push(err.message))
    tab.on('console', message => {
      this.log.push(message.text())

      if (/Content.Security.Policy|Trusted/.test(message.text())) {
        this.violations.push(message.text())
      }
    })
  }

  async open (url, invitation) {
    await this.tab.goto(invitation == null ? url : `${url}#${invitation}`, { timeout: LIMIT_MS })
    await this.tab.waitForFunction('globalThis.socketpipe != null', { timeout: WAIT_MS })
  }

  async allow (permissions) {
    await this.#context.overridePermissions(new URL(this.tab.url()).origin, permissions)
  }

  async state () {
    return await this.tab.$eval('#state', node => node.textContent)
  }

  async waitState (text) {
    await this.tab.waitForFunction(
      text => document.getElementById('state').textContent.startsWith(text), { timeout: WAIT_MS, polling: 20 }, text)
  }

  async path () {
    return await this.tab.$eval('#path', node => node.textContent)
  }

  async waitPath (text) {
    await this.tab.waitForFunction(
      text => document.getElementById('path').textContent.startsWith(text) && !document.getElementById('facts').hidden,
      { timeout: WAIT_MS, polling: 20 }, text)
  }

  async content (selector) {
    return await this.tab.$eval(selector, node => node.innerText)
  }

  async shows (text) {
    await this.tab.waitForFunction(text => socketpipe.text().includes(text), { timeout: WAIT_MS, polling: 20 }, text)
  }

  async text () {
    return await this.tab.evaluate('socketpipe.text()')
  }

  async type (text) {
    await this.tab.keyboard.type(text)
  }

  /** Like a paste: in one piece. */
  async insert (text) {
    await this.tab.keyboard.sendCharacter(text)
  }

  /** Presses "Try now", unless that has become needless. */
  async tryNow () {
    await this.tab.evaluate(() => {
      if (!document.getElementById('notice').hidden) {
        document.getElementById('notice-action').click()
      }
    })
  }

  /** Types a command and its Enter. */
  async command (text) {
    await this.type(text)
    await this.tab.keyboard.press('Enter')
  }

  async chord (...keys) {
    const last = keys.pop()

    for (const key of keys) {
      await this.tab.keyboard.down(key)
    }

    await this.tab.keyboard.press(last)

    for (const key of keys.reverse()) {
      await this.tab.keyboard.up(key)
    }
  }

  async close () {
    await this.#context.close().catch(() => {})
  }
}
