// Stands in for `socketpipe serve` in tests of the page: the page over HTTP, a WebSocket endpoint and a js-libp2p
// listener, with a toy shell behind them. Prints one JSON line when it is ready and ends with its standard input.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { identify } from '@libp2p/identify'
import { webRTCDirect } from '@libp2p/webrtc'
import { createLibp2p } from 'libp2p'
import { WebSocketServer } from 'ws'
import { decode, ErrorCode, FrameReader, type Frame } from '../src/frame.ts'
import { formatInvitation } from '../src/invitation.ts'
import { ServerModel, type Backend, type ServerSession, type Wire } from './server-model.ts'

const TOKEN = 'correct horse battery staple'
const TYPES: Record<string, string> = { html: 'text/html', js: 'text/javascript', css: 'text/css', txt: 'text/plain' }
const utf8 = new TextEncoder()

/** A shell with the few commands the tests use. */
class ToyShell implements Backend {
  readonly #session: ServerSession
  #line = ''
  #size = '?'
  #flowing = true
  #flooding = false
  #rawUntil: string | undefined

  constructor (session: ServerSession) {
    this.#session = session
    queueMicrotask(() => this.#print('$ '))
  }

  input (data: Uint8Array): void {
    const text = new TextDecoder().decode(data)

    if (this.#rawUntil != null) {
      this.#collectRaw(text)
      return
    }

    for (const char of text) {
      this.#type(char)
    }
  }

  resize (columns: number, rows: number): void {
    this.#size = `${rows} ${columns}`
  }

  flow (on: boolean): void {
    this.#flowing = on
  }

  end (): void {
    this.#flooding = false
  }

  #type (char: string): void {
    if (char === '\x03') {
      this.#flooding = false
      this.#line = ''
      this.#print('^C\r\n$ ')
    } else if (char === '\r') {
      const line = this.#line
      this.#line = ''
      this.#print('\r\n')
      this.#run(line)
    } else {
      this.#line += char
      this.#print(char)
    }
  }

  #run (line: string): void {
    const [command = '', argument = ''] = line.trim().split(/\s+/, 2)

    switch (command) {
      case 'seq':
        void this.#count(Number(argument))
        return
      case 'yes':
        void this.#flood()
        return
      case 'stty':
        this.#print(`${this.#size}\r\n$ `)
        return
      case 'exit':
        this.#print('logout\r\n')
        this.#session.close(ErrorCode.backendClosed, `exit=${argument === '' ? 0 : argument}`)
        return
      case 'raw':
        this.#rawUntil = ''
        this.#print('\x1b[?2004hready\r\n')
        return
      case 'colors':
        this.#print(`${colors()}\r\n$ `)
        return
      case 'echo':
        this.#print(`${line.slice(5)}\r\n$ `)
        return
      default:
        this.#print(command === '' ? '$ ' : `${command}: not found\r\n$ `)
    }
  }

  async #count (to: number): Promise<void> {
    for (let number = 1; number <= to; number++) {
      while (!this.#flowing || !this.#session.hasRoom) {
        await tick(5)
      }

      this.#print(`n${number}\r\n`)

      if (number % 20 === 0) {
        await tick(2)
      }
    }

    this.#print('$ ')
  }

  async #flood (): Promise<void> {
    const block = 'y\r\n'.repeat(5000)
    this.#flooding = true

    while (this.#flooding && !this.#session.ended) {
      if (this.#flowing && this.#session.hasRoom) {
        this.#print(block)
      }

      await tick(1)
    }
  }

  /** Shows what came as it came, up to the end of a bracketed paste. */
  #collectRaw (text: string): void {
    this.#rawUntil += text

    if (this.#rawUntil!.endsWith('\x1b[201~')) {
      this.#print(`\x1b[?2004l${JSON.stringify(this.#rawUntil)}\r\n$ `)
      this.#rawUntil = undefined
    }
  }

  #print (text: string): void {
    this.#session.output(utf8.encode(text))
  }
}

function colors (): string {
  const rows = [30, 90].map(base => Array.from({ length: 8 }, (_, index) => `\x1b[${base + index}mcolour\x1b[0m`).join(' '))
  return [...rows, '\x1b[38;2;255;105;180mtrue colour\x1b[0m \x1b[1mbold\x1b[0m \x1b[4munderlined\x1b[0m'].join('\r\n')
}

const tick = async (milliseconds: number): Promise<void> => {
  await new Promise(resolve => setTimeout(resolve, milliseconds))
}

const model = new ServerModel({
  accepts: ({ token }) => Buffer.from(token).toString() === TOKEN
    ? undefined
    : { code: ErrorCode.authExpired, text: 'expired' },
  backend: session => new ToyShell(session)
})

/** Carries one connection, whatever it is made of. */
class Serving {
  readonly #wire: Wire
  #session: ServerSession | undefined

  constructor (wire: Wire) {
    this.#wire = wire
  }

  frame (frame: Frame): void {
    if (this.#session == null) {
      this.#session = model.accept(this.#wire, frame)
    } else {
      this.#session.receive(this.#wire, frame)
    }
  }

  lost (): void {
    this.#session?.lost(this.#wire)
  }
}

const http = createServer((request, response) => {
  const name = request.url === '/' ? 'index.html' : request.url!.slice(1)

  try {
    const body = readFileSync(join(process.argv[2]!, name.replaceAll('/', '')))
    response.writeHead(200, {
      'content-type': `${TYPES[name.split('.').at(-1)!]}; charset=utf-8`,
      'content-security-policy': "frame-ancestors 'none'",
      'x-content-type-options': 'nosniff'
    })
    response.end(body)
  } catch {
    response.writeHead(404).end()
  }
})

new WebSocketServer({ server: http, path: '/pty', handleProtocols: () => 'socketpipe.v1' }).on('connection', socket => {
  const serving = new Serving({ send: frame => socket.send(frame), close: () => socket.close(1000) })
  socket.on('message', (message: Buffer) => serving.frame(decode(new Uint8Array(message))))
  socket.on('close', () => serving.lost())
  socket.on('error', () => socket.terminate())
})

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/udp/0/webrtc-direct'] },
  transports: [webRTCDirect({ rtcConfiguration: { iceServers: [] } })],
  connectionManager: { inboundConnectionThreshold: Infinity },
  connectionMonitor: { enabled: false },
  services: { identify: identify() }
})

await node.handle('/socketpipe/pty/1.0.0', stream => {
  const reader = new FrameReader()
  const serving = new Serving({
    send: frame => {
      try {
        stream.send(frame)
      } catch {
        // Its end is told by an event.
      }
    },
    close: () => void stream.close().catch(() => {})
  })
  stream.addEventListener('message', ({ data }) => {
    for (const frame of reader.push(data.subarray().slice())) {
      serving.frame(frame)
    }
  })
  stream.addEventListener('close', () => serving.lost())
})

http.listen(0, '127.0.0.1', () => {
  const { port } = http.address() as { port: number }
  const [address] = node.getMultiaddrs().map(String)
  console.log(JSON.stringify({
    event: 'ready',
    url: `http://127.0.0.1:${port}/`,
    invitation: formatInvitation({
      addresses: [address!],
      webSocket: `ws://127.0.0.1:${port}/pty`,
      token: TOKEN,
      mode: 'pty',
      host: '',
      port: 0,
      name: 'toy shell'
    })
  }))
})

process.stdin.on('end', () => process.exit(0)).resume()
