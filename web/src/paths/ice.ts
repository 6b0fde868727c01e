// Where data channels are allowed, and which STUN and TURN servers they may use.

/** What the server answers to a request for them, as far as it is understood. */
interface Answer {
  servers: RTCIceServer[]
  /** How long they are good for, in milliseconds. */
  lifeMs: number
}

const REQUEST_LIMIT_MS = 3000
const MAX_ANSWER = 16_384
const MAX_SERVERS = 8
const MAX_URLS = 8
const DEFAULT_LIFE_S = 600

/** Credentials with less time than this left are renewed: starting at the TURN server takes some. */
const MARGIN_MS = 60_000

/**
 * The certificate of a data channel is worth what the WebSocket is worth that tells it: on plain ws:// somebody in
 * between could put in another one, so it is allowed to the own machine only.
 */
export function allowsChannels (webSocket: string): boolean {
  const { protocol, hostname } = new URL(webSocket)
  const own = /^(localhost|.+\.localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname)
  return protocol === 'wss:' || own
}

/** Where the server of this WebSocket tells its ICE servers; nothing if that is not the server of this page. */
export function endpointFor (webSocket: string, pageOrigin: string): URL | undefined {
  const url = new URL('ice', webSocket)
  url.protocol = url.protocol === 'wss:' ? 'https:' : 'http:'
  url.search = url.hash = ''
  // The token is for that server only, and the page's policy lets it ask no other one.
  return url.origin === pageOrigin ? url : undefined
}

/** The ICE servers of one session, asked for when they are needed and kept as long as they are good. */
export class IceServers {
  readonly #url: URL | undefined
  readonly #token: string
  readonly #now: () => number
  #answer: Answer | undefined
  #goodUntil = 0
  #asking: Promise<void> | undefined

  constructor (url: URL | undefined, token: string, now: () => number) {
    this.#url = url
    this.#token = token
    this.#now = now
  }

  /**
   * Without any the browser finds direct routes only; so that is what an answer means that does not come. Who has no
   * more patience than this gets those of before, and the next one the answer.
   */
  readonly get = async (patienceMs?: number): Promise<RTCIceServer[]> => {
    if (this.#answer == null || this.#now() >= this.#goodUntil) {
      this.#asking ??= this.#renew().finally(() => { this.#asking = undefined })
      await (patienceMs == null ? this.#asking : Promise.race([this.#asking, after(patienceMs)]))
    }

    return this.#answer?.servers ?? []
  }

  async #renew (): Promise<void> {
    this.#answer = await this.#ask().catch((err: unknown) => {
      console.debug('ICE servers:', err)
      return undefined
    })
    this.#goodUntil = this.#now() + (this.#answer?.lifeMs ?? 0) - MARGIN_MS
  }

  async #ask (): Promise<Answer | undefined> {
    if (this.#url == null) {
      return undefined
    }

    const response = await fetch(this.#url, {
      method: 'POST',
      headers: { Authorization: `Bearer ${this.#token}` },
      credentials: 'omit',
      cache: 'no-store',
      redirect: 'error',
      signal: AbortSignal.timeout(REQUEST_LIMIT_MS)
    })

    if (response.status === 404) {
      return { servers: [], lifeMs: Infinity }
    }

    if (!response.ok) {
      throw new Error(`the server answered ${response.status}`)
    }

    return parseAnswer(await response.text())
  }
}

async function after (milliseconds: number): Promise<void> {
  await new Promise(resolve => setTimeout(resolve, milliseconds))
}

/** Takes what a peer connection can be given; throws if the whole is not as agreed. */
export function parseAnswer (text: string): Answer {
  if (text.length > MAX_ANSWER) {
    throw new Error('the answer is too long')
  }

  const { iceServers, expires_in: life } = JSON.parse(text) as { iceServers?: unknown, expires_in?: unknown }

  if (!Array.isArray(iceServers)) {
    throw new Error('the answer has no list of servers')
  }

  return {
    servers: iceServers.map(parseServer).filter(server => server != null).slice(0, MAX_SERVERS),
    lifeMs: 1000 * (typeof life === 'number' && life > 0 ? life : DEFAULT_LIFE_S)
  }
}

function parseServer (server: unknown): RTCIceServer | undefined {
  const { urls, username, credential } = (server ?? {}) as Record<string, unknown>
  const known = [urls].flat().filter(url => typeof url === 'string' && /^(stun|turns?):[^\s]+$/.test(url)) as string[]
  const turn = known.some(url => url.startsWith('turn'))

  // A browser refuses the whole configuration for one TURN server without credentials.
  if (known.length === 0 || (turn && (typeof username !== 'string' || typeof credential !== 'string'))) {
    return undefined
  }

  return {
    urls: known.slice(0, MAX_URLS),
    ...(turn ? { username: username as string, credential: credential as string } : {})
  }
}
