// The data channel beside a WebSocket: one peer connection of the browser with one channel, made by us.
import { decode, FrameError } from '../frame.ts'
import type { Path, Signal } from '../session-types.ts'
import type { Peer, PeerEvents } from '../upgrader.ts'

const LABEL = 'socketpipe'
const PROTOCOL = 'socketpipe/1.0'

/** Bytes that have not left yet: DATA waits above, goes on below. More would only delay PONG and what is typed next. */
const CONGESTED_ABOVE = 32_768
const CONGESTED_BELOW = 8192

/** A description has a length of two bytes in its frame. */
const MAX_SDP = 65_535

/** An ICE restart has three seconds in all, and mostly needs no servers. */
const RESTART_PATIENCE_MS = 500

/** Candidates that wait for the answer. */
const MAX_EARLY = 64

/** In place of an index that is not known. */
const NO_INDEX = 0xffff

export class BrowserPeer implements Peer {
  readonly #servers: (patienceMs?: number) => Promise<RTCIceServer[]>
  readonly #events: PeerEvents
  #connection: RTCPeerConnection | undefined
  #channel: RTCDataChannel | undefined
  #path: Path | undefined
  /** Our candidates wait for the offer to be sent, theirs for the answer. */
  #ours: Array<Extract<Signal, { type: 'ice-candidate' }>> | undefined = []
  #theirs: RTCIceCandidateInit[] | undefined = []
  #offering = false
  #closed = false

  /** `servers` gives the STUN and TURN servers to use at the time, those of before if it takes longer than it may. */
  constructor (servers: (patienceMs?: number) => Promise<RTCIceServer[]>, events: PeerEvents) {
    this.#servers = servers
    this.#events = events
  }

  offer (): void {
    // One at a time, as the browser demands.
    if (!this.#offering && (this.#connection == null || this.#connection.signalingState === 'stable')) {
      this.#offering = true
      this.#makeOffer().catch((err: unknown) => this.#failed(err)).finally(() => { this.#offering = false })
    }
  }

  async #makeOffer (): Promise<void> {
    const restart = this.#connection != null
    const iceServers = await this.#servers(restart ? RESTART_PATIENCE_MS : undefined)

    if (this.#closed) {
      return
    }

    this.#connection ??= this.#open()
    this.#configure(this.#connection, iceServers)
    this.#ours = []
    await this.#connection.setLocalDescription(await this.#connection.createOffer({ iceRestart: restart }))
    const sdp = this.#connection.localDescription?.sdp ?? ''

    if (this.#closed) {
      return
    }

    if (new TextEncoder().encode(sdp).length > MAX_SDP) {
      throw new Error('the description is too long')
    }

    const waiting = this.#ours
    this.#ours = undefined
    this.#events.offer(sdp)
    waiting.forEach(candidate => this.#events.candidate(candidate))
  }

  #configure (connection: RTCPeerConnection, iceServers: RTCIceServer[]): void {
    try {
      connection.setConfiguration({ iceServers })
    } catch (err) {
      // Without them there may be a direct route.
      console.debug('ICE servers:', err)
    }
  }

  #open (): RTCPeerConnection {
    const connection = new RTCPeerConnection()
    const channel = connection.createDataChannel(LABEL, { protocol: PROTOCOL, ordered: true })
    this.#channel = channel
    channel.binaryType = 'arraybuffer'
    channel.bufferedAmountLowThreshold = CONGESTED_BELOW
    channel.onopen = () => this.#opened(connection, channel)
    channel.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => this.#received(data)
    channel.onclose = () => this.#failed('the data channel closed')
    channel.onbufferedamountlow = () => this.#events.writable()
    connection.onicecandidate = ({ candidate }) => this.#found(candidate)
    connection.oniceconnectionstatechange = () => this.#changed(connection)
    connection.onconnectionstatechange = () => {
      if (connection.connectionState === 'failed' && connection.iceConnectionState !== 'failed') {
        this.#failed('DTLS failed')
      }
    }
    return connection
  }

  #opened (connection: RTCPeerConnection, channel: RTCDataChannel): void {
    if (this.#closed) {
      return
    }

    this.#path = {
      kind: 'channel',
      send: frame => this.#send(frame),
      close: () => this.close(),
      get congested () { return channel.bufferedAmount > CONGESTED_ABOVE }
    }
    this.#events.open(this.#path, connection.sctp?.maxMessageSize ?? 0)
  }

  #send (frame: Uint8Array): void {
    try {
      this.#channel!.send(frame as Uint8Array<ArrayBuffer>)
    } catch (err) {
      // It has ended, or takes nothing for so long that the browser's own buffer is full.
      queueMicrotask(() => this.#failed(err))
    }
  }

  #received (data: ArrayBuffer | string): void {
    if (this.#closed || this.#path == null) {
      return
    }

    let frame

    try {
      if (typeof data === 'string') {
        throw new FrameError(3001, 'the server sent text')
      }

      frame = decode(new Uint8Array(data))
    } catch (err) {
      this.#events.malformed(this.#path, err as FrameError)
      return
    }

    this.#events.frame(this.#path, frame)
  }

  #found (candidate: RTCIceCandidate | null): void {
    // Chromium also says for each part that it has no more.
    if (this.#closed || candidate?.candidate === '') {
      return
    }

    const found = {
      type: 'ice-candidate',
      candidate: candidate?.candidate ?? '',
      mid: candidate?.sdpMid ?? (candidate == null ? '0' : ''),
      line: candidate?.sdpMLineIndex ?? (candidate == null ? 0 : NO_INDEX)
    } as const
    this.#ours == null ? this.#events.candidate(found) : this.#ours.push(found)
  }

  #changed ({ iceConnectionState: state }: RTCPeerConnection): void {
    if (state === 'connected' || state === 'completed') {
      this.#events.reachable('yes')
    } else if (state === 'disconnected' || state === 'failed') {
      this.#events.reachable(state === 'failed' ? 'no' : 'not now')
    }
  }

  receive (signal: Signal): void {
    if (signal.type === 'webrtc-answer') {
      this.#answered(signal.sdp).catch((err: unknown) => this.#failed(err))
    } else if (signal.type === 'ice-candidate' && signal.candidate !== '') {
      this.#candidate({
        candidate: signal.candidate.replace(/^a=/, ''),
        sdpMid: signal.mid === '' ? null : signal.mid,
        sdpMLineIndex: signal.line === NO_INDEX ? null : signal.line
      })
    }
  }

  async #answered (sdp: string): Promise<void> {
    await this.#connection?.setRemoteDescription({ type: 'answer', sdp })
    const waiting = this.#theirs ?? []
    this.#theirs = undefined
    waiting.forEach(candidate => this.#candidate(candidate))
  }

  #candidate (candidate: RTCIceCandidateInit): void {
    if (this.#theirs != null) {
      if (this.#theirs.length < MAX_EARLY) {
        this.#theirs.push(candidate)
      }
    } else if (this.#connection?.signalingState !== 'closed') {
      // One of before a restart, or that the browser cannot use, is no harm.
      this.#connection?.addIceCandidate(candidate).catch((err: unknown) => console.debug('candidate:', err))
    }
  }

  inspect (): void {
    this.#connection?.getStats().then(report => {
      const route = relayed(report)

      if (route != null && !this.#closed) {
        this.#events.route(route)
      }
    }, (err: unknown) => console.debug('route:', err))
  }

  #failed (reason: unknown): void {
    if (this.#closed) {
      return
    }

    console.debug('data channel:', reason)

    if (this.#path == null) {
      this.#events.failed(String(reason))
    } else {
      this.#events.lost(this.#path, String(reason))
    }
  }

  close (): void {
    this.#closed = true
    this.#channel?.close()
    this.#connection?.close()
  }
}

/** Whether the pair of candidates in use has a TURN server in it; nothing if there is none yet. */
function relayed (report: RTCStatsReport): boolean | undefined {
  const all = [...report.values()] as Array<Record<string, unknown>>
  const chosen = all.find(({ type }) => type === 'transport')?.selectedCandidatePairId
  // Firefox marks the pair instead.
  const pair = all.find(({ id, type, selected }) => id === chosen || (type === 'candidate-pair' && selected === true))

  if (pair == null) {
    return undefined
  }

  const ends = all.filter(({ id }) => id === pair.localCandidateId || id === pair.remoteCandidateId)
  return ends.some(({ candidateType }) => candidateType === 'relay')
}
