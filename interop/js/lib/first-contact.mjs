// Reads the first STUN packet of a dialing peer on a socket of our own, to
// prove which handshake the peer really uses.
import { createHmac } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'

const BINDING_REQUEST = 0x0001
const USERNAME = 0x0006
const MESSAGE_INTEGRITY = 0x0008
const HEADER = 20
const INTEGRITY = 24

const CREDENTIALS = {
  v1: /^(libp2p\+webrtc\+v1\/[A-Za-z0-9+/]{5,}):\1$/,
  v2: /^(libp2p\+webrtc\+v2\/[A-Za-z0-9+/]{22,}):[A-Za-z0-9+/]{4,256}$/
}

/**
 * Opens a socket on `host`. `addr` is the address to dial; `check` waits for
 * the first packet and throws unless it is a first contact of version `ice`.
 */
export async function openFirstContact (host, ice) {
  const socket = createSocket('udp4')
  const message = once(socket, 'message')
  socket.bind(0, host)
  await once(socket, 'listening')

  // Any certhash will do: nothing answers, so DTLS never starts.
  const certhash = `uEi${'A'.repeat(44)}`
  const addr = `/ip4/${host}/udp/${socket.address().port}/webrtc-direct/certhash/${certhash}`

  return {
    addr,
    async check () {
      const [packet] = await message
      return checkPacket(packet, ice)
    },
    stop: () => socket.close()
  }
}

function checkPacket (packet, ice) {
  if (packet.readUInt16BE(0) !== BINDING_REQUEST) {
    throw new Error(`first packet is no STUN binding request: ${packet.toString('hex')}`)
  }

  const attributes = readAttributes(packet)
  const username = attributes.get(USERNAME)?.value.toString()
  const key = CREDENTIALS[ice].exec(username ?? '')?.[1]

  if (key == null) {
    throw new Error(`USERNAME does not fit ${ice}: ${username}`)
  }

  const integrity = attributes.get(MESSAGE_INTEGRITY)

  if (integrity == null || !integrity.value.equals(sign(packet, integrity.offset, key))) {
    throw new Error(`MESSAGE-INTEGRITY is not keyed with the server's credential of ${username}`)
  }

  return { username }
}

/** All attributes by type, each with its offset in the packet. */
function readAttributes (packet) {
  const attributes = new Map()

  for (let offset = HEADER; offset + 4 <= packet.length;) {
    const length = packet.readUInt16BE(offset + 2)
    attributes.set(packet.readUInt16BE(offset), {
      offset,
      value: packet.subarray(offset + 4, offset + 4 + length)
    })
    offset += 4 + Math.ceil(length / 4) * 4
  }

  return attributes
}

/** RFC 8489 section 14.5: HMAC-SHA1 over what precedes it, its own length included. */
function sign (packet, offset, key) {
  const signed = Buffer.from(packet.subarray(0, offset))
  signed.writeUInt16BE(offset + INTEGRITY - HEADER, 2)
  return createHmac('sha1', key).update(signed).digest()
}
