// The terminal on the page: xterm.js with our colours, keys and clipboard. Knows bytes and sizes, no session.
import { FitAddon } from '@xterm/addon-fit'
import { Terminal, type ITheme } from '@xterm/xterm'
import { withScriptedStyles } from './csp.ts'
import { readText, sanitizePaste, writeText } from './clipboard.ts'
import type { Settings } from './settings.ts'

export interface TerminalEvents {
  input: (bytes: Uint8Array) => void
  size: (columns: number, rows: number, width: number, height: number) => void
  title: (title: string) => void
  /** The user wants out of the terminal by keyboard. */
  leave: () => void
}

export type Key = 'escape' | 'tab' | 'left' | 'up' | 'down' | 'right'

const SIZE_SETTLES_MS = 50

const LIGHT: ITheme = {
  background: '#fbfcfd', foreground: '#1b2127', cursor: '#1b5e90', cursorAccent: '#fbfcfd',
  selectionBackground: '#b9d7ee', selectionInactiveBackground: '#d5e0e8',
  black: '#1b2127', red: '#b3261e', green: '#1d7a3e', yellow: '#8a5a00',
  blue: '#1b5e90', magenta: '#8b2f8f', cyan: '#0b6e75', white: '#5b6670',
  brightBlack: '#4c5762', brightRed: '#cf3a30', brightGreen: '#24914b', brightYellow: '#9a6a00',
  brightBlue: '#2573b0', brightMagenta: '#a445a8', brightCyan: '#0f8089', brightWhite: '#2b333a'
}

const DARK: ITheme = {
  background: '#101418', foreground: '#e4e9ee', cursor: '#7fbdea', cursorAccent: '#101418',
  selectionBackground: '#2f4d66', selectionInactiveBackground: '#2a343d',
  black: '#3a444e', red: '#ff8a80', green: '#5fc983', yellow: '#f0b25a',
  blue: '#7fbdea', magenta: '#d7a1f0', cyan: '#62ccd3', white: '#d3dae0',
  brightBlack: '#8793a0', brightRed: '#ffaba3', brightGreen: '#8adda5', brightYellow: '#f7cd8f',
  brightBlue: '#a9d5f5', brightMagenta: '#e6c3f7', brightCyan: '#95e0e5', brightWhite: '#ffffff'
}

const KEYS: Record<Key, string> = { escape: '\x1b', tab: '\t', left: 'D', up: 'A', down: 'B', right: 'C' }
const utf8 = new TextEncoder()

export class TerminalView {
  readonly #terminal: Terminal
  readonly #fit = new FitAddon()
  readonly #events: TerminalEvents
  readonly #container: HTMLElement
  #settings: Settings
  #sizeTimer: ReturnType<typeof setTimeout> | undefined
  #control = false
  onControlUsed: () => void = () => {}

  constructor (container: HTMLElement, settings: Settings, events: TerminalEvents) {
    this.#container = container
    this.#events = events
    this.#settings = settings
    const dark = matchMedia('(prefers-color-scheme: dark)')
    const still = matchMedia('(prefers-reduced-motion: reduce)')

    this.#terminal = new Terminal({
      theme: dark.matches ? DARK : LIGHT,
      fontFamily: 'ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace',
      fontSize: settings.fontSize,
      screenReaderMode: settings.screenReader,
      cursorBlink: !still.matches,
      scrollback: 10_000,
      minimumContrastRatio: 4.5,
      macOptionIsMeta: true
    })
    dark.addEventListener('change', () => { this.#terminal.options.theme = dark.matches ? DARK : LIGHT })

    this.#terminal.loadAddon(this.#fit)
    this.#terminal.onData(text => this.#typed(text))
    this.#terminal.onBinary(text => events.input(Uint8Array.from(text, char => char.charCodeAt(0))))
    this.#terminal.onTitleChange(title => events.title(title))
    this.#terminal.attachCustomKeyEventHandler(event => this.#handleKey(event))

    withScriptedStyles(() => this.#terminal.open(container))
    new ResizeObserver(() => this.#fitSoon()).observe(container)
    container.addEventListener('paste', event => this.#pasteEvent(event), { capture: true })
    container.addEventListener('mouseup', () => this.#copyOnSelect())
  }

  /** Shows bytes; `done` is called when they are on the screen. */
  write (bytes: Uint8Array, done: () => void): void {
    this.#terminal.write(bytes, done)
  }

  reset (): void {
    this.#terminal.reset()
  }

  focus (): void {
    this.#terminal.focus()
  }

  /** Fits the terminal into its place and reports the size. */
  fit (): void {
    this.#fit.fit()
    const { cols, rows } = this.#terminal
    const { clientWidth, clientHeight } = this.#container
    this.#events.size(cols, rows, clientWidth, clientHeight)
  }

  apply (settings: Settings): void {
    this.#settings = settings
    this.#terminal.options.fontSize = settings.fontSize
    this.#terminal.options.screenReaderMode = settings.screenReader
    this.fit()
  }

  async copySelection (): Promise<boolean> {
    return this.#terminal.hasSelection() && await writeText(this.#terminal.getSelection())
  }

  /** Keyboards and touch screens cannot select. */
  async copySelectionOrScreen (): Promise<boolean> {
    const { viewportY } = this.#terminal.buffer.active
    return this.#terminal.hasSelection()
      ? await this.copySelection()
      : await writeText(this.#lines(viewportY, viewportY + this.#terminal.rows).trimEnd())
  }

  /** False if the browser does not let the page read the clipboard. */
  async paste (): Promise<boolean> {
    const text = await readText()

    if (text == null) {
      return false
    }

    this.pasteText(text)
    return true
  }

  pasteText (text: string): void {
    this.#terminal.paste(sanitizePaste(text))
    this.focus()
  }

  press (key: Key): void {
    const arrow = KEYS[key].length === 1 && /[A-D]/.test(KEYS[key])
    const prefix = this.#terminal.modes.applicationCursorKeysMode ? '\x1bO' : '\x1b['
    this.#terminal.input(arrow ? prefix + KEYS[key] : KEYS[key])
  }

  /** Control for the next key typed on a touch keyboard. */
  setControl (on: boolean): void {
    this.#control = on
  }

  /** The text on the screen and above it, for tests. */
  text (): string {
    return this.#lines(0, this.#terminal.buffer.active.length)
  }

  /** Rows as text; what was wrapped is one line. */
  #lines (from: number, to: number): string {
    const lines: string[] = []

    for (let row = from; row < to; row++) {
      const line = this.#terminal.buffer.active.getLine(row)
      const content = line?.translateToString(true) ?? ''

      if (line?.isWrapped === true && lines.length > 0) {
        lines[lines.length - 1] += content
      } else {
        lines.push(content)
      }
    }

    return lines.join('\n')
  }

  #typed (text: string): void {
    let typed = text

    if (this.#control && /^[a-z@[\\\]^_ ?]$/i.test(text)) {
      typed = text === '?' ? '\x7f' : String.fromCharCode(text.toUpperCase().charCodeAt(0) & 0x1f)
    }

    if (this.#control) {
      this.#control = false
      this.onControlUsed()
    }

    this.#events.input(utf8.encode(typed))
  }

  /** False keeps a key away from the terminal. */
  #handleKey (event: KeyboardEvent): boolean {
    const { ctrlKey, shiftKey, code } = event
    const copies = (ctrlKey && shiftKey && code === 'KeyC') || (ctrlKey && !shiftKey && code === 'Insert')
    const pastes = (ctrlKey && shiftKey && code === 'KeyV') || (shiftKey && !ctrlKey && code === 'Insert')
    const leaves = ctrlKey && shiftKey && code === 'Enter'

    if (copies || leaves) {
      // Elsewhere the browser would open its tools.
      event.preventDefault()

      if (event.type === 'keydown') {
        copies ? void this.copySelection() : this.#events.leave()
      }
    }

    // The browser answers with a paste event.
    return !copies && !pastes && !leaves
  }

  #pasteEvent (event: ClipboardEvent): void {
    event.preventDefault()
    event.stopPropagation()
    const text = event.clipboardData?.getData('text/plain') ?? ''

    if (text !== '') {
      this.pasteText(text)
    }
  }

  #copyOnSelect (): void {
    if (this.#settings.copyOnSelect) {
      void this.copySelection()
    }
  }

  #fitSoon (): void {
    clearTimeout(this.#sizeTimer)
    this.#sizeTimer = setTimeout(() => {
      if (this.#container.clientHeight > 0) {
        this.fit()
      }
    }, SIZE_SETTLES_MS)
  }
}
