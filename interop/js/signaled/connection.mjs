// A libp2p connection to a `/ws/webrtc` address, made by a page with what every browser has: a WebSocket for signaling and
// an RTCPeerConnection. Only Noise and keys come from packages.
import { defaultLogger } from '@libp2p/logger'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { noise } from '@libp2p/noise'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import { AbstractMessageStream } from '@libp2p/utils'
import { withLimit } from '../lib/time.mjs'
import { decode, encodeCandidate, encodeClose, encodeOffer, encodePong } from './frames.mjs'
import { answer, select } from './multistream.mjs'
import { ChannelStream, concat } from './stream.mjs'

const PATH = '/webrtc'
const SUBPROTOCOL = 'socketpipe.v1'
const PROLOGUE = 'libp2p-webrtc-noise:'
export const PING = '/ipfs/ping/1.0.0'
export const PING_LENGTH = 32

/** SHA-256 in a multihash, with its length. */
const SHA_256 = [0x12, 0x20]

/** What the transport gives WebRTC. */
const LIMIT_MS = 10_000

/** The WebSocket and the peer of an address. */
export function parse (address) {
  const match = /^\/(ip4|ip6|dns|dns4|dns6)\/([^/]+)\/tcp\/(\d+)\/(tls\/(?:sni\/[^/]+\/)?ws|wss|ws)\/webrtc\/p2p\/([^/]+)$/.exec(address)

  if (match == null) {
    throw new Error(`not an address this page can dial: ${address}`)
  }

  const [, kind, host, port, security, peer] = match
  const scheme = security === 'ws' ? 'ws' : 'wss'
  return { url: `${scheme}://${kind === 'ip6' ? `[${host}]` : host}:${port}${PATH}`, peer: peerIdFromString(peer) }
}

/** Dials; ready when the other side has proven that it is the peer of the address. */
export async function dial (address) {
  const { url, peer } = parse(address)
  const connection = new SignaledConnection(await openSocket(url))

  try {
    await connection.establish(peer)
    return connection
  } catch (err) {
    connection.close()
    throw err
  }
}

class SignaledConnection {
  #socket
  #peerConnection = new RTCPeerConnection({ iceServers: [] })
  /** For the handshake. Streams get numbers of their own. */
  #channel = this.#peerConnection.createDataChannel('', { negotiated: true, id: 0 })
  #answered
  #served = []
  remotePeer

  constructor (socket) {
    this.#socket = socket
    socket.onmessage = ({ data }) => this.#receive(decode(data))
    this.#channel.binaryType = 'arraybuffer'
    this.#peerConnection.ondatachannel = ({ channel }) => this.#served.push(this.#serve(channel))
    this.#peerConnection.onicecandidate = ({ candidate }) => this.#tell(candidate)
  }

  async establish (peer) {
    const open = opened(this.#channel)
    await this.#offer()
    await withLimit(open, LIMIT_MS, 'WebRTC is not up in time')
    this.remotePeer = await withLimit(this.#authenticate(peer), LIMIT_MS, 'Noise takes too long')
  }

  /** An offer of ours, for a restart if there was one before; ready when it was answered. */
  async #offer (options) {
    const description = await this.#peerConnection.createOffer(options)
    await this.#peerConnection.setLocalDescription(description)
    this.#answered = Promise.withResolvers()
    this.#socket.send(encodeOffer(description.sdp))
    await withLimit(this.#answered.promise, LIMIT_MS, 'the offer is not answered')
  }

  #receive (frame) {
    switch (frame.type) {
      case 'answer':
        this.#answer(frame.sdp).then(this.#answered.resolve, this.#answered.reject)
        break
      case 'candidate':
        if (frame.candidate !== '') {
          const { candidate, sdpMid, sdpMLineIndex } = frame
          void this.#peerConnection.addIceCandidate({ candidate, sdpMid, sdpMLineIndex })
        }

        break
      case 'ping':
        this.#socket.send(encodePong(frame.payload))
        break
      case 'close':
      case 'error':
        this.#answered?.reject(new Error(`the server said ${frame.type} ${frame.code}: ${frame.text}`))
        break
    }
  }

  async #answer (sdp) {
    if (sdp === '') {
      throw new Error('the offer was refused')
    }

    await this.#peerConnection.setRemoteDescription({ type: 'answer', sdp })
  }

  #tell (candidate) {
    // Chromium also says for each part that it has no more.
    if (candidate?.candidate !== '' && this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(encodeCandidate(candidate ?? { candidate: '', sdpMid: '0', sdpMLineIndex: 0 }))
    }
  }

  /** The answerer begins; both put the certificates of both into it, that of the offerer first. */
  async #authenticate (remotePeer) {
    const privateKey = await generateKeyPair('Ed25519')
    const prologueBytes = concat([
      new TextEncoder().encode(PROLOGUE),
      certificateHash(this.#peerConnection.localDescription.sdp),
      certificateHash(this.#peerConnection.remoteDescription.sdp)
    ])
    const components = { privateKey, peerId: peerIdFromPrivateKey(privateKey), logger: defaultLogger() }
    const handshake = noise({ prologueBytes })(components)
    const stream = new HandshakeStream(this.#channel)
    const secured = await handshake.secureInbound(stream, { remotePeer, skipStreamMuxerNegotiation: true })
    return secured.remotePeer
  }

  /** A stream of ours that speaks this protocol. */
  async open (protocol) {
    const stream = new ChannelStream(this.#peerConnection.createDataChannel(''))
    await select(stream, protocol)
    return stream
  }

  /** A stream of theirs: pings are answered, nothing else is known. */
  async #serve (channel) {
    const stream = new ChannelStream(channel)

    try {
      await answer(stream, [PING])

      for (;;) {
        await stream.write(await stream.readExactly(PING_LENGTH))
      }
    } catch (err) {
      console.debug('a stream of theirs ended:', err.message)
    }
  }

  /** New ICE credentials on the same WebSocket; what runs goes on. */
  async restart () {
    const before = iceUser(this.#peerConnection.remoteDescription.sdp)
    await this.#offer({ iceRestart: true })

    if (iceUser(this.#peerConnection.remoteDescription.sdp) === before) {
      throw new Error('the answer has the old ICE credentials')
    }

    await withLimit(reached(this.#peerConnection), LIMIT_MS, 'no route after the restart')
  }

  /** Signaling is over; the connection is not. */
  async closeSocket () {
    const closed = new Promise(resolve => { this.#socket.onclose = resolve })
    this.#socket.close(1000)
    await closed
  }

  /** Kinds of the candidates in use, ours and theirs. */
  async route () {
    const stats = [...(await this.#peerConnection.getStats()).values()]
    const chosen = stats.find(({ type }) => type === 'transport')?.selectedCandidatePairId
    const pair = stats.find(({ id, type, selected }) => id === chosen || (type === 'candidate-pair' && selected === true))
    const kind = id => stats.find(entry => entry.id === id)?.candidateType
    return `${kind(pair?.localCandidateId)} to ${kind(pair?.remoteCandidateId)}`
  }

  close () {
    if (this.#socket.readyState === WebSocket.OPEN) {
      this.#socket.send(encodeClose())
      this.#socket.close(1000)
    }

    this.#peerConnection.close()
  }
}

/** Channel 0 in the form that Noise takes. */
class HandshakeStream extends AbstractMessageStream {
  #stream

  constructor (channel) {
    super({ log: defaultLogger().forComponent('handshake'), direction: 'inbound' })
    this.#stream = new ChannelStream(channel)
    this.#pump().catch(err => this.onTransportClosed(err))
  }

  async #pump () {
    for (let data = await this.#stream.read(); data != null; data = await this.#stream.read()) {
      this.onData(data)
    }
  }

  sendData (data) {
    this.#stream.write(data.subarray()).catch(err => this.abort(err))
    return { sentBytes: data.byteLength, canSendMore: true }
  }

  sendReset () {
    this.#stream.reset()
  }

  sendPause () {}

  sendResume () {}
}

async function openSocket (url) {
  const socket = new WebSocket(url, [SUBPROTOCOL])
  socket.binaryType = 'arraybuffer'
  await new Promise((resolve, reject) => {
    socket.onopen = resolve
    socket.onclose = () => reject(new Error(`no WebSocket at ${url}`))
  })

  if (socket.protocol !== SUBPROTOCOL) {
    throw new Error(`the server speaks "${socket.protocol}"`)
  }

  return socket
}

function certificateHash (sdp) {
  const [, hex] = /^a=fingerprint:sha-256 ([0-9a-f:]+)/im.exec(sdp)
  return Uint8Array.of(...SHA_256, ...hex.split(':').map(byte => Number.parseInt(byte, 16)))
}

const iceUser = sdp => /^a=ice-ufrag:(.*)$/m.exec(sdp)[1].trim()

async function opened (channel) {
  await new Promise((resolve, reject) => {
    channel.onopen = resolve
    channel.onclose = () => reject(new Error('the channel of the handshake closed'))
  })
}

/** Ready when packets get through. */
async function reached (peerConnection) {
  while (!['connected', 'completed'].includes(peerConnection.iceConnectionState)) {
    await new Promise(resolve => peerConnection.addEventListener('iceconnectionstatechange', resolve, { once: true }))
  }
}
