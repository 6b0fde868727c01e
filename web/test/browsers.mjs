// Browsers and the page in them, with what the scenarios need to use it like a person.
import puppeteer from 'puppeteer-core'
import { CHROMIUM_FLAGS, FIREFOX_PREFERENCES } from '../../interop/js/lib/browser-flags.mjs'

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

export async function startFirefox ({ executable }) {
  return await puppeteer.launch({
    browser: 'firefox',
    executablePath: executable,
    headless: true,
    timeout: LIMIT_MS,
    protocolTimeout: 2 * LIMIT_MS,
    extraPrefsFirefox: FIREFOX_PREFERENCES
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

  // What only Chromium can be told.
  if (browser.protocol === 'cdp') {
    await tab.emulateMediaFeatures([
      { name: 'prefers-color-scheme', value: view.dark === true ? 'dark' : 'light' },
      { name: 'prefers-reduced-motion', value: 'reduce' }
    ])
  }

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
    tab.on('pageerror', ({ message }) => {
      // Firefox has errors of its own for a WebSocket that breaks, and for a peer connection that does not come up.
      if (!/^(The connection to ws.* was interrupted|WebRTC: ICE failed)/.test(message)) {
        this.errors.push(message)
      }
    })
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

  /** Notes each name that the path has from now on. */
  async watchPaths () {
    await this.tab.evaluate(() => {
      globalThis.pathsSeen = []
      const path = document.getElementById('path')
      new MutationObserver(() => {
        if (globalThis.pathsSeen.at(-1) !== path.textContent) {
          globalThis.pathsSeen.push(path.textContent)
        }
      }).observe(path, { childList: true, characterData: true, subtree: true })
    })
  }

  async pathsSeen () {
    return await this.tab.evaluate('pathsSeen')
  }

  async waitPathSeen (text) {
    await this.tab.waitForFunction(text => globalThis.pathsSeen.includes(text), { timeout: WAIT_MS, polling: 20 }, text)
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
