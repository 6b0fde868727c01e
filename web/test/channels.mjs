// Forwarders of UDP between the page's data channels and the program: the page is shown these in place of the program's
// addresses, and the program is not told the page's, so that there is no other way.
import { startUdpProxy } from './proxies.mjs'

const CANDIDATE = /^(candidate:\S+ \d+ udp \d+) (\d+\.\d+\.\d+\.\d+) (\d+) (typ .*)$/i

export class Channels {
  #proxies = new Map()
  #refuses = false

  /** Whatever this page offers from now on goes by forwarders. */
  async forward (tab) {
    await tab.exposeFunction('forwardCandidate', async text => await this.#forwarded(text))
    await tab.evaluateOnNewDocument(useForwarders)
  }

  /** A candidate of the program by its forwarder; nothing for those that have none. */
  async #forwarded (text) {
    const match = CANDIDATE.exec(text)

    if (match == null) {
      return undefined
    }

    const [, start, host, port, end] = match
    return `${start} ${host} ${await this.#proxyFor(host, Number(port))} ${end}`
  }

  async #proxyFor (host, port) {
    const key = `${host}:${port}`

    if (!this.#proxies.has(key)) {
      const starting = startUdpProxy(port, host)
      this.#proxies.set(key, starting)
      const proxy = await starting
      proxy.refuse(this.#refuses)
    }

    return (await this.#proxies.get(key)).port
  }

  /** Nothing passes any more for who was there; others may come, as after a change of networks. */
  async cut () {
    for (const proxy of await Promise.all(this.#proxies.values())) {
      proxy.cut()
    }
  }

  /** Lets nobody else through, or again. */
  async refuse (on) {
    this.#refuses = on

    for (const proxy of await Promise.all(this.#proxies.values())) {
      proxy.refuse(on)
    }
  }

  async stop () {
    for (const proxy of await Promise.all(this.#proxies.values())) {
      proxy.stop()
    }
  }
}

/** Runs in the page, before its scripts. */
function useForwarders () {
  const LINE = /^a=candidate:/

  /** A description with the candidates that have forwarders. */
  const forwarded = async sdp => {
    const lines = await Promise.all(sdp.split('\r\n').map(async line => {
      const candidate = LINE.test(line) ? await globalThis.forwardCandidate(line.slice(2)) : undefined
      return LINE.test(line) ? (candidate == null ? [] : [`a=${candidate}`]) : [line]
    }))
    return lines.flat().join('\r\n')
  }

  globalThis.RTCPeerConnection = class extends RTCPeerConnection {
    // One after the other, as the browser itself does it.
    #queue = Promise.resolve()

    #then (action) {
      const done = this.#queue.then(action)
      this.#queue = done.catch(() => {})
      return done
    }

    setRemoteDescription ({ type, sdp }) {
      return this.#then(async () => await super.setRemoteDescription({ type, sdp: await forwarded(sdp) }))
    }

    addIceCandidate (init) {
      return this.#then(async () => {
        const candidate = await globalThis.forwardCandidate(init.candidate)

        if (candidate != null) {
          await super.addIceCandidate({ ...init, candidate })
        }
      })
    }

    get localDescription () {
      const { type, sdp } = super.localDescription
      return { type, sdp: sdp.split('\r\n').filter(line => !LINE.test(line)).join('\r\n') }
    }

    set onicecandidate (handler) {
      super.onicecandidate = event => {
        if (event.candidate == null) {
          handler(event)
        }
      }
    }
  }
}
