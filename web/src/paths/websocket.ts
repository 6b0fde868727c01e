// The WebSocket path: one frame per binary message.
import { decode, FrameError, type Frame } from '../frame.ts'
import type { Path } from '../session-types.ts'
import { DialError, type PathEvents } from './dial.ts'

const SUBPROTOCOL = 'socketpipe.v1'

// Of the codes a script may send, the one nearest to a breach of the protocol.
const BREACH = 4002

/** Opens a WebSocket; rejects with a sentence for people. */
export async function dialWebSocket (url: string, events: PathEvents, signal: AbortSignal): Promise<Path> {
  const socket = open(url)
  socket.binaryType = 'arraybuffer'

  await new Promise<void>((resolve, reject) => {
    const abort = (): void => {
      socket.close()
      reject(new DialError('The WebSocket server did not answer in time.'))
    }

    signal.addEventListener('abort', abort, { once: true })
    socket.onopen = () => {
      signal.removeEventListener('abort', abort)
      resolve()
    }
    socket.onclose = () => {
      signal.removeEventListener('abort', abort)
      reject(new DialError(`No WebSocket connection to ${new URL(url).host}: ` +
        'nothing answers there, or the server does not accept this page.'))
    }
  })

  return bind(socket, events)
}

function open (url: string): WebSocket {
  try {
    return new WebSocket(url, [SUBPROTOCOL])
  } catch {
    throw new DialError('The browser does not allow this WebSocket address from this page.')
  }
}

function bind (socket: WebSocket, events: PathEvents): Path {
  const path: Path = {
    kind: 'websocket',
    send: frame => {
      if (socket.readyState === WebSocket.OPEN) {
        socket.send(frame as Uint8Array<ArrayBuffer>)
      }
    },
    close: () => socket.close(1000)
  }

  socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
    let frame: Frame

    try {
      frame = decodeMessage(data)
    } catch (err) {
      events.malformed(path, err as FrameError)
      socket.close(BREACH)
      return
    }

    events.frame(path, frame)
  }
  socket.onclose = ({ reason }) => events.lost(path, reason === '' ? 'the WebSocket closed' : `closed: ${reason}`)

  return path
}

function decodeMessage (data: ArrayBuffer | string): Frame {
  if (typeof data === 'string') {
    throw new FrameError(3001, 'the server sent text')
  }

  return decode(new Uint8Array(data))
}
