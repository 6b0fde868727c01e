// The page: the form for an invitation, then a terminal with a line that says how its connection is doing.
import '@xterm/xterm/css/xterm.css'
import './style.css'
import { Connector, type Dialer, type Status } from './connector.ts'
import { InvitationError, parseInvitation, type Invitation } from './invitation.ts'
import { allowsChannels, endpointFor, IceServers } from './paths/ice.ts'
import { dialLibp2p, usableAddresses } from './paths/libp2p.ts'
import { BrowserPeer } from './paths/peer.ts'
import { dialWebSocket } from './paths/websocket.ts'
import { describeEnd, pathName, type PathName } from './sentences.ts'
import { loadSettings, saveSettings, valid } from './settings.ts'
import { TerminalView, type Key } from './terminal.ts'
import type { MakePeer } from './upgrader.ts'

const element = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T
const button = (id: string): HTMLButtonElement => element<HTMLButtonElement>(id)

const timers = {
  now: () => performance.now(),
  after: (milliseconds: number, callback: () => void) => {
    const timer = setTimeout(callback, milliseconds)
    return () => clearTimeout(timer)
  },
  random: Math.random
}

const MENTION_MS = 3000

class Page {
  #invitation: Invitation | undefined
  #connector: Connector | undefined
  #terminal: TerminalView | undefined
  #settings = loadSettings()
  #size = { columns: 80, rows: 24, width: 0, height: 0 }
  #state = ''
  #mentioned: ReturnType<typeof setTimeout> | undefined
  #countdown: ReturnType<typeof setInterval> | undefined

  start (): void {
    this.#bindForm()
    this.#bindTools()
    this.#bindDialogs()
    this.#bindSurroundings()

    if (!this.#takeFragment()) {
      this.#showForm('')
    }
  }

  /** The whole text of the terminal, for tests. */
  text (): string {
    return this.#terminal?.text() ?? ''
  }

  /** Takes an invitation out of the address bar; a fragment is never sent to a server. */
  #takeFragment (): boolean {
    const fragment = location.hash.slice(1)

    if (fragment === '') {
      return false
    }

    history.replaceState(null, '', location.pathname + location.search)
    this.#open(safeDecode(fragment))
    return true
  }

  #open (text: string): void {
    try {
      const invitation = parseInvitation(text)

      if (invitation.mode === 'tunnel') {
        throw new InvitationError('This invitation is for a tunnel, which a browser cannot use. ' +
          'Open it with “socketpipe forward”.')
      }

      this.#invitation = invitation
    } catch (err) {
      if (!(err instanceof InvitationError)) {
        throw err
      }

      this.#showForm(err.message)
      return
    }

    this.#connect()
  }

  #connect (): void {
    const invitation = this.#invitation!
    element('welcome').hidden = true
    element('session').hidden = false
    const name = invitation.name === '' ? 'Terminal' : invitation.name
    element('name').textContent = name
    document.title = name

    if (this.#terminal == null) {
      this.#terminal = this.#createTerminal()
    } else {
      this.#terminal.reset()
    }

    const connector = new Connector({
      host: invitation.host,
      port: invitation.port,
      token: new TextEncoder().encode(invitation.token),
      env: [['TERM', 'xterm-256color'], ['COLORTERM', 'truecolor'], ['LANG', 'C.UTF-8']]
    }, dialersFor(invitation), {
      data: bytes => {
        // A session that is ending must not write into the one that follows.
        if (connector === this.#connector) {
          this.#terminal!.write(bytes, () => connector.rendered(bytes.length))
        }
      },
      status: status => {
        if (connector === this.#connector) {
          this.#showStatus(status)
        }
      },
      rtt: milliseconds => {
        if (connector === this.#connector) {
          this.#showRtt(milliseconds)
        }
      },
      outputLost: () => {
        if (connector === this.#connector) {
          this.#mention('Some output was lost with the WebRTC path')
        }
      }
    }, timers, peersFor(invitation))

    this.#connector = connector
    const { columns, rows, width, height } = this.#size
    connector.resize(columns, rows, width, height)
    connector.setWatched(!document.hidden)
    connector.start()
    this.#terminal.fit()
    this.#terminal.focus()
  }

  #createTerminal (): TerminalView {
    const terminal = new TerminalView(element('terminal'), this.#settings, {
      input: bytes => this.#input(bytes),
      size: (columns, rows, width, height) => {
        this.#size = { columns, rows, width, height }
        this.#connector?.resize(columns, rows, width, height)
      },
      title: title => {
        const name = this.#invitation?.name ?? ''
        document.title = [title.slice(0, 100), name].filter(part => part !== '').join(' – ') || 'Terminal'
      },
      leave: () => button('copy').focus()
    })

    terminal.onControlUsed = () => this.#showControl(false)
    return terminal
  }

  #input (bytes: Uint8Array): void {
    if (this.#connector?.status.state === 'ended') {
      return
    }

    if (this.#connector?.write(bytes) === false) {
      this.#mention('Too much input at once: it was not sent')
    }
  }

  #bindForm (): void {
    element<HTMLFormElement>('invite').addEventListener('submit', event => {
      event.preventDefault()
      const field = element<HTMLTextAreaElement>('invitation')
      const text = field.value
      field.value = ''
      this.#open(text)
    })
  }

  #showForm (problem: string): void {
    element('session').hidden = true
    element('welcome').hidden = false
    element('invitation-problem').textContent = problem
    element('invitation').toggleAttribute('aria-invalid', problem !== '')
    document.title = 'SocketPipe'
    element('invitation').focus()
  }

  #bindTools (): void {
    button('copy').addEventListener('click', () => void this.#copy())
    button('paste').addEventListener('click', () => void this.#paste())
    button('open-settings').addEventListener('click', () => this.#openSettings())
    button('close').addEventListener('click', () => {
      this.#connector?.close()
      this.#terminal?.focus()
    })
    button('notice-action').addEventListener('click', () => this.#act())
    button('other').addEventListener('click', () => this.#leave())

    for (const key of element('keys').querySelectorAll('button')) {
      // The keyboard on the screen stays.
      key.addEventListener('pointerdown', event => event.preventDefault())
      key.addEventListener('click', () => this.#pressKey(key))
    }
  }

  #pressKey (key: HTMLButtonElement): void {
    if (key.dataset.key === 'control') {
      const on = key.getAttribute('aria-pressed') !== 'true'
      this.#terminal?.setControl(on)
      this.#showControl(on)
    } else {
      this.#terminal?.press(key.dataset.key as Key)
    }
  }

  #showControl (on: boolean): void {
    element('keys').querySelector('[data-key=control]')!.setAttribute('aria-pressed', String(on))
  }

  async #copy (): Promise<void> {
    const copied = await this.#terminal?.copySelectionOrScreen() === true
    this.#mention(copied ? 'Copied' : 'The browser does not let this page copy')
    this.#terminal?.focus()
  }

  async #paste (): Promise<void> {
    if (await this.#terminal?.paste() === false) {
      element<HTMLTextAreaElement>('paste-text').value = ''
      element<HTMLDialogElement>('paste-dialog').showModal()
      element('paste-text').focus()
    }
  }

  #bindDialogs (): void {
    const paste = element<HTMLDialogElement>('paste-dialog')
    paste.addEventListener('close', () => {
      const field = element<HTMLTextAreaElement>('paste-text')

      if (paste.returnValue === 'send' && field.value !== '') {
        this.#terminal?.pasteText(field.value)
      }

      field.value = ''
      paste.returnValue = ''
      this.#terminal?.focus()
    })

    const settings = element<HTMLDialogElement>('settings')
    settings.addEventListener('change', () => {
      this.#settings = valid({
        fontSize: element<HTMLInputElement>('font-size').valueAsNumber,
        copyOnSelect: element<HTMLInputElement>('copy-on-select').checked,
        screenReader: element<HTMLInputElement>('screen-reader').checked
      })
      saveSettings(this.#settings)
      this.#terminal?.apply(this.#settings)
    })
    settings.addEventListener('close', () => this.#terminal?.focus())
  }

  #openSettings (): void {
    element<HTMLInputElement>('font-size').value = String(this.#settings.fontSize)
    element<HTMLInputElement>('copy-on-select').checked = this.#settings.copyOnSelect
    element<HTMLInputElement>('screen-reader').checked = this.#settings.screenReader
    element<HTMLDialogElement>('settings').showModal()
  }

  #bindSurroundings (): void {
    window.addEventListener('hashchange', () => {
      if (location.hash.length > 1) {
        this.#connector?.close()
        this.#takeFragment()
      }
    })
    window.addEventListener('online', () => this.#connector?.nudge())
    document.addEventListener('visibilitychange', () => {
      this.#connector?.setWatched(!document.hidden)

      if (!document.hidden) {
        this.#connector?.nudge()
      }
    })
    window.addEventListener('beforeunload', event => {
      const state = this.#connector?.status.state

      if (state === 'connected' || state === 'waiting') {
        event.preventDefault()
      }
    })
  }

  /** The button of the notice: try now, or begin anew. */
  #act (): void {
    if (this.#connector?.status.state === 'waiting') {
      this.#connector.nudge()
      this.#terminal?.focus()
    } else {
      this.#connect()
    }
  }

  /** To the form; a session that waits is ended as far as this page is concerned. */
  #leave (): void {
    this.#connector?.close()
    this.#connector = undefined
    this.#invitation = undefined
    this.#showForm('')
  }

  #showStatus (status: Status): void {
    clearInterval(this.#countdown)
    element('countdown').textContent = ''
    element('facts').hidden = status.state !== 'connected'
    element('notice').hidden = status.state !== 'waiting' && status.state !== 'ended'
    button('close').disabled = status.state === 'ended' || status.state === 'closing'
    button('paste').disabled = status.state === 'ended'
    element('keys').hidden = status.state === 'ended'
    element('status').dataset.state = status.state

    switch (status.state) {
      case 'connecting':
        this.#announce(status.again ? 'Reconnecting…' : 'Connecting…')
        break
      case 'connected':
        this.#showPath(pathName(status.kind, status.carrier))
        this.#announce(connectedText(status))
        element('status').dataset.state = isSettled(status) ? 'connected' : 'connecting'
        break
      case 'waiting':
        this.#showWaiting(status)
        break
      case 'closing':
        this.#announce('Ending the session…')
        break
      case 'ended':
        this.#showEnd(status)
        break
    }
  }

  #showPath ({ name, explanation }: PathName): void {
    element('path').textContent = name
    element('path').title = explanation
  }

  #showWaiting (status: Extract<Status, { state: 'waiting' }>): void {
    const show = (): void => {
      const seconds = Math.max(0, Math.ceil((status.retryAt - timers.now()) / 1000))
      element('countdown').textContent = `next try in ${seconds} s`
    }

    const kept = status.expired
      ? 'The server may have ended the session by now.'
      : 'The session goes on at the server; what you type is kept and sent later.'
    this.#announce(navigator.onLine ? 'Not connected' : 'Not connected: this device is offline')
    this.#notice('busy', status.again ? `The connection was lost. ${kept}` : 'No connection yet.', status.problems)
    button('notice-action').textContent = 'Try now'
    show()
    this.#countdown = setInterval(show, 500)
  }

  #showEnd ({ end }: Extract<Status, { state: 'ended' }>): void {
    const { text, detail, good } = describeEnd(end)
    this.#announce(end.cause === 'refused' && end.during !== 'resume' ? 'Refused' : 'Ended')
    element('status').dataset.state = good ? 'ended' : 'failed'
    this.#notice(good ? 'good' : 'bad', text, detail == null ? [] : [`The server says: ${detail}`])
    button('notice-action').textContent = end.during === 'handshake' ? 'Try again' : 'Start a new session'
    button('notice-action').focus()
  }

  #notice (tone: 'busy' | 'good' | 'bad', text: string, details: string[]): void {
    const notice = element('notice')
    notice.dataset.tone = tone
    setText(element('notice-text'), text)
    element('notice-details').replaceChildren(...details.map(detail => {
      const item = document.createElement('li')
      item.textContent = detail
      return item
    }))
  }

  #showRtt (milliseconds: number): void {
    element('rtt').textContent = milliseconds < 1 ? '< 1 ms' : `${Math.round(milliseconds)} ms`
  }

  #announce (text: string): void {
    this.#state = text
    setText(element('state'), text)
  }

  /** For a moment, in place of the state. */
  #mention (text: string): void {
    setText(element('state'), text)
    clearTimeout(this.#mentioned)
    this.#mentioned = setTimeout(() => setText(element('state'), this.#state), MENTION_MS)
  }
}

/** Setting the same text again would be read out again. */
function setText (target: HTMLElement, text: string): void {
  if (target.textContent !== text) {
    target.textContent = text
  }
}

function connectedText ({ silent, resumed }: Extract<Status, { state: 'connected' }>): string {
  if (silent) {
    return 'Connected, but the server is silent'
  }

  return resumed ? 'Connected again, nothing was lost' : 'Connected'
}

/** Whether the connection is as it should be. */
function isSettled ({ silent, carrier }: Extract<Status, { state: 'connected' }>): boolean {
  return !silent && carrier !== 'restarting' && carrier !== 'falling-back'
}

/** What makes data channels beside the WebSocket; nothing where they are not allowed. */
function peersFor ({ webSocket, token }: Invitation): MakePeer | undefined {
  if (webSocket == null || !allowsChannels(webSocket) || globalThis.RTCPeerConnection == null) {
    return undefined
  }

  const servers = new IceServers(endpointFor(webSocket, location.origin), token, timers.now)
  return events => new BrowserPeer(servers.get, events)
}

/** In order of preference: the direct path first. */
function dialersFor ({ addresses, webSocket }: Invitation): Dialer[] {
  const direct = usableAddresses(addresses)
  const dialers: Dialer[] = []

  if (direct.length > 0) {
    dialers.push({ kind: 'webrtc', dial: (events, signal) => dialLibp2p(direct, events, signal) })
  }

  if (webSocket != null) {
    dialers.push({ kind: 'websocket', dial: (events, signal) => dialWebSocket(webSocket, events, signal) })
  }

  return dialers
}

/** Some programs escape the fragment of a link. */
function safeDecode (fragment: string): string {
  try {
    return decodeURIComponent(fragment)
  } catch {
    return fragment
  }
}

const page = new Page()
page.start()
Object.assign(globalThis, { socketpipe: { text: () => page.text() } })
