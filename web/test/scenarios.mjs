// What is done with the page in Chromium. A scenario throws if something is not as it should be.
import assert from 'node:assert/strict'
import { CHANNEL_SCENARIOS } from './channel-scenarios.mjs'
import { fieldsOf } from './network.mjs'
import { RELAY_SCENARIOS } from './relay-scenarios.mjs'
import {
  assertComplete, assertWhole, beginCount, breakPath, connected, endFlood, leaveAndReturn, nudge, prompted, sizeShown
} from './steps.mjs'

const BOTH = ['webrtc', 'websocket']
const PHONE = { width: 390, height: 780, touch: true }

/** By the direct path in each of the browser's two ways, by WebSocket, and by a data channel beside one. */
const everyWay = (name, run) =>
  [...BOTH, 'channel'].map(path => ({ name, path, ice: path === 'webrtc' ? ['v1', 'v2'] : ['v1'], run }))
const each = (name, run) => BOTH.map(path => ({ name, path, ice: ['v1'], run }))

export const SCENARIOS = [
  ...CHANNEL_SCENARIOS,
  ...RELAY_SCENARIOS,

  {
    name: 'opens the link that the program prints, once',
    path: 'webrtc',
    ice: ['v1', 'v2'],
    run: async ({ page, program }) => {
      const { url } = program.printed()
      await page.open(url)
      await page.waitPath('direct')
      await prompted(page)
      assert.equal(new URL(page.tab.url()).hash, '', 'the token is still in the address bar')
      await page.command('echo "hé"llo')
      await page.shows('héllo\n')
      await page.tab.goto('about:blank')
      await page.open(url)
      await page.waitState('Refused')
    }
  },

  ...everyWay('types, sees output, and the invitation leaves the address bar', async context => {
    const { page } = context
    await connected(context)
    assert.equal(new URL(page.tab.url()).hash, '')
    await page.command('echo "hé"llo')
    await page.shows('héllo\n')
    await page.tab.waitForFunction(`/^(<|\\d).* ms$/.test(document.getElementById('rtt').textContent)`)
  }),

  ...everyWay('tells the size and each change of it', async context => {
    const { page } = context
    await connected(context)
    await page.command('stty size')
    const before = await sizeShown(page, 1)
    await page.tab.setViewport({ width: 700, height: 500 })
    let after = before

    // The size travels beside the bytes: the shell is asked until it has it.
    for (let asked = 2; after.columns === before.columns; asked++) {
      await page.command('stty size')
      after = await sizeShown(page, asked)
    }

    assert.ok(after.columns < before.columns && after.rows < before.rows, JSON.stringify({ before, after }))
  }),

  ...everyWay('loses no character when the connection breaks', async context => {
    const { page, network, path, program, screenshot } = context
    await connected(context)
    await beginCount(context, 6000)
    program.go(true)
    await breakPath(network, path)
    await page.type('echo typed mean')
    await nudge(page)
    await page.waitState('Connected again')
    await page.command('while')
    await assertWhole(page, 6000)

    // The picture in the README, if it is by the direct path.
    await page.tab.setViewport({ width: 1040, height: 260 })
    await page.command('clear; colours; count 3')
    await page.shows('underlined\nn1\nn2\nn3\n$')
    await screenshot(`again-${path}`)
  }),

  {
    name: 'moves to the direct path when it becomes possible, and falls back when it dies',
    path: 'websocket',
    ice: ['v1'],
    run: async context => {
      const { page, network, program } = context
      network.udp.refuse(true)
      await page.open(network.url, network.invite(BOTH))
      await page.waitPath('WebSocket')
      await prompted(page)
      await beginCount(context, 8000)
      network.udp.refuse(false)
      await nudge(page)
      await page.waitPath('direct')
      program.go(true)
      network.udp.refuse(true)
      network.udp.cut()
      await nudge(page)
      await page.waitPath('WebSocket')
      await page.shows('n8000\n')
      assertComplete(await page.text(), 8000)
    }
  },

  {
    name: 'goes on over WebSocket when the direct path it began on dies, and returns',
    path: 'webrtc',
    ice: ['v1', 'v2'],
    run: async context => {
      const { page, network } = context
      await page.open(network.url, network.invite(BOTH))
      await page.waitPath('direct')
      await prompted(page)
      await leaveAndReturn(context, {
        count: 3000,
        cut: async () => {
          network.udp.refuse(true)
          network.udp.cut()
          await nudge(page)
        },
        heal: () => network.udp.refuse(false),
        path: 'direct'
      })
    }
  },

  {
    // The session of a token that was issued for a peer is that peer's; a WebSocket proves no peer.
    name: 'a session bound to its peer waits for the direct path, and says so',
    path: 'webrtc',
    ice: ['v1'],
    run: async ({ page, network, program, screenshot }) => {
      await page.open(network.url, network.invite(BOTH))
      await page.waitPath('direct')
      const token = tokenFor(program.sessions().at(-1).peer, program)
      await page.tab.click('#close')
      await page.waitState('Ended')
      await page.tab.click('#other')
      await page.insert(network.invite(BOTH, { t: token }))
      await page.tab.click('#invite button')
      await page.waitState('Connected')
      await page.waitPath('direct')
      await prompted(page)
      network.udp.refuse(true)
      network.udp.cut()
      await nudge(page)
      await page.waitState('Not connected')
      assert.match(await page.content('#notice'), /By WebSocket: the server does not continue this session there/)
      await page.type('echo kept')
      await screenshot('waiting-light')
      network.udp.refuse(false)
      await page.tryNow()
      await page.waitState('Connected again')
      await page.command(' input')
      await page.shows('kept input\n')
    }
  },

  {
    name: 'waits visibly while the server is away, and goes on',
    path: 'websocket',
    ice: ['v1'],
    run: async ({ page, network, path, screenshot }) => {
      await connected({ page, network, path })
      network.http.refuse(true)
      network.http.cut()
      await page.waitState('Not connected')
      await page.tab.waitForFunction(`/next try in \\d+ s/.test(document.getElementById('countdown').textContent)`)
      await page.type('echo kept')
      network.http.refuse(false)
      await page.tryNow()
      await page.waitState('Connected again')
      await page.command(' input')
      await page.shows('kept input\n')
    }
  },

  ...each('shows the exit status and starts anew', async context => {
    const { page } = context
    await connected(context)
    await page.command('exit 3')
    await page.waitState('Ended')
    assert.match(await page.content('#notice'), /exit status 3/)

    // The button has the focus.
    await page.tab.keyboard.press('Enter')
    await page.waitState('Connected')
    await page.command('echo anew')
    await page.shows('anew\n')
  }),

  ...each('says why an invitation is refused', async ({ page, network, path }) => {
    await page.open(network.url, network.invite([path], { t: 'wrong' }))
    await page.waitState('Refused')
    assert.match(await page.content('#notice'), /invitation/)
  }),

  {
    name: 'stays usable in a flood, and Ctrl-C ends it',
    path: 'websocket',
    ice: ['v1'],
    run: endFlood
  },

  {
    name: 'the form takes an invitation and names what is wrong with others',
    path: 'websocket',
    ice: ['v1'],
    run: async ({ page, network, screenshot }) => {
      await page.open(network.url)
      await page.type('socketpipe:1:broken')
      await page.tab.click('#invite button')
      assert.match(await page.content('#invitation-problem'), /damaged/)
      await screenshot('form-light')
      await page.insert(network.invite([], { a: ['/ip4/127.0.0.1/tcp/1/p2p/x'] }))
      await page.tab.click('#invite button')
      await page.waitState('Refused')
      await page.tab.click('#other')
      await page.insert(network.invite(['websocket'], { m: 'tunnel' }))
      await page.tab.click('#invite button')
      assert.match(await page.content('#invitation-problem'), /socketpipe forward/)
      await page.insert(network.invite(['websocket']))
      await page.tab.click('#invite button')
      await page.waitState('Connected')
    }
  },

  {
    name: 'copies by shortcut and button, pastes in brackets and without escapes',
    path: 'websocket',
    ice: ['v1'],
    run: async context => {
      const { page } = context
      await connected(context)
      await page.allow(['clipboard-read', 'clipboard-write', 'clipboard-sanitized-write'])
      await page.command('raw 24')
      await page.shows('ready')
      await page.tab.evaluate(() => navigator.clipboard.writeText('one\nt\u001b[201~wo'))
      await page.tab.click('#paste')
      await page.shows('^[[200~one^Mt[201~wo^[[201~')

      await page.command('echo needle')
      await page.shows('needle\n')
      await selectWord(page, 'needle')
      await page.chord('Control', 'Shift', 'KeyC')
      await page.tab.waitForFunction(`navigator.clipboard.readText().then(text => text.includes('needle'))`)
      await page.tab.evaluate(() => navigator.clipboard.writeText(''))
      await selectWord(page, 'needle')
      await page.tab.click('#copy')
      await page.tab.waitForFunction(`navigator.clipboard.readText().then(text => text.includes('needle'))`)

      await page.tab.evaluate(() => navigator.clipboard.writeText('echo by keys'))
      await pasteByKeys(page)
      await page.shows('echo by keys')
    }
  },

  {
    name: 'asks for the text where the clipboard cannot be read',
    path: 'websocket',
    ice: ['v1'],
    run: async context => {
      const { page } = context
      await connected(context)
      await page.tab.evaluate(() => { navigator.clipboard.readText = async () => { throw new Error('no') } })
      await page.tab.click('#paste')
      await page.tab.waitForSelector('#paste-dialog[open]')
      await page.type('echo by dialog')
      await page.tab.click('#paste-dialog button[value=send]')
      await page.shows('echo by dialog')
    }
  },

  {
    name: 'can be left and used by keyboard alone',
    path: 'websocket',
    ice: ['v1'],
    run: async context => {
      const { page, program } = context
      const before = program.sessions().length
      await connected(context)
      assert.equal(program.sessions().length, before + 1)
      await page.allow(['clipboard-read', 'clipboard-write', 'clipboard-sanitized-write'])
      await page.command('echo on the "screen"')
      await page.shows('on the screen\n')
      await page.chord('Control', 'Shift', 'Enter')
      assert.equal(await focused(page), 'copy')
      await page.tab.keyboard.press('Enter')
      await page.waitState('Copied')
      const copied = await page.tab.evaluate('navigator.clipboard.readText()')
      assert.equal(copied, '$ echo on the "screen"\non the screen\n$')
      await page.waitState('Connected')

      await page.chord('Control', 'Shift', 'Enter')
      await page.tab.keyboard.press('Tab')
      assert.equal(await focused(page), 'paste')
      await page.tab.keyboard.press('Tab')
      assert.equal(await focused(page), 'open-settings')
      await page.tab.keyboard.press('Enter')
      await page.tab.waitForSelector('#settings[open]')
      await page.tab.keyboard.press('Escape')
      await page.tab.waitForFunction('document.activeElement.className.includes("xterm")')
      await page.chord('Control', 'Shift', 'Enter')

      for (const id of ['paste', 'open-settings', 'close']) {
        await page.tab.keyboard.press('Tab')
        assert.equal(await focused(page), id)
      }

      await page.tab.keyboard.press('Enter')
      await page.waitState('Ended')
      assert.match(await page.content('#notice'), /You ended/)
      assert.equal(program.sessions().length, before, 'the session goes on at the server')
    }
  },

  {
    name: 'has keys for touch screens',
    path: 'websocket',
    ice: ['v1'],
    view: PHONE,
    run: async context => {
      const { page } = context
      await connected(context)
      await page.type('some text')
      await page.tab.tap('[data-key=control]')
      assert.equal(await page.tab.$eval('[data-key=control]', key => key.ariaPressed), 'true')
      await page.type('c')
      await page.shows('^C')
      assert.equal(await page.tab.$eval('[data-key=control]', key => key.ariaPressed), 'false')
    }
  },

  ...[
    ['light', {}],
    ['dark', { dark: true }],
    ['phone-light', PHONE],
    ['phone-dark', { ...PHONE, dark: true }]
  ].map(([file, view]) => ({
    name: `looks well (${file})`,
    path: 'webrtc',
    ice: ['v1'],
    view,
    run: async ({ page, network, screenshot }) => {
      await page.open(network.url)
      await screenshot(`form-${file}`)
      await page.insert(network.invite(['webrtc']))
      await page.tab.click('#invite button')
      await page.waitState('Connected')
      await page.command('colours')
      await page.shows('underlined')
      await page.command('count 12')
      await page.shows('n12\n')
      await screenshot(`terminal-${file}`)
      await assertNoOverflow(page)
      await page.tab.click('#open-settings')
      await screenshot(`settings-${file}`)
      await page.tab.click('#settings .primary')
      await page.tab.waitForFunction('document.activeElement.className.includes("xterm")')
      await page.command('exit 1')
      await page.waitState('Ended')
      await screenshot(`ended-${file}`)
      await assertNoOverflow(page)
    }
  }))
]

/** A token that is good for this peer only. */
function tokenFor (peer, program) {
  return fieldsOf(program.invite('--peer', peer).invitation).t
}

async function focused (page) {
  return await page.tab.evaluate('document.activeElement.id')
}

async function selectWord (page, word) {
  const rows = await page.tab.$$('.xterm-rows > div')

  for (const row of rows) {
    if (await row.evaluate((node, word) => node.textContent.trim() === word, word)) {
      const { x, y, height } = await row.boundingBox()
      await page.tab.mouse.click(x + 20, y + height / 2, { count: 2 })
      return
    }
  }

  throw new Error(`no row shows ${word}`)
}

/** Ctrl+Shift+V as the browser itself understands it. */
async function pasteByKeys (page) {
  await page.tab.keyboard.down('Control')
  await page.tab.keyboard.down('Shift')
  await page.tab.keyboard.press('KeyV', { commands: ['Paste'] })
  await page.tab.keyboard.up('Shift')
  await page.tab.keyboard.up('Control')
}

async function assertNoOverflow (page) {
  const wide = await page.tab.evaluate('document.documentElement.scrollWidth > innerWidth')
  assert.equal(wide, false, 'the page is wider than the screen')
}
