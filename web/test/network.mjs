// What is between page and program: forwarders of TCP and UDP, and invitations that lead through them.
import { Channels } from './channels.mjs'
import { startTcpProxy, startUdpProxy } from './proxies.mjs'

const PREFIX = 'socketpipe:1:'

/** What an invitation says. */
export const fieldsOf = invitation =>
  JSON.parse(Buffer.from(invitation.slice(PREFIX.length), 'base64url').toString())

/** Forwarders before everything this invitation names. */
export async function startNetwork ({ url, invitation }) {
  const fields = fieldsOf(invitation)
  const http = await startTcpProxy(Number(new URL(url).port))
  const direct = fields.a.find(address => address.includes('/webrtc-direct/certhash/'))
  const [, host, udpPort] = /^\/ip4\/([^/]+)\/udp\/(\d+)\//.exec(direct)
  const udp = await startUdpProxy(Number(udpPort), host)
  const channels = new Channels()
  const forwarded = {
    webrtc: [direct.replace(`/udp/${udpPort}/`, `/udp/${udp.port}/`)],
    webSocket: `ws://127.0.0.1:${http.port}${new URL(fields.w).pathname}`
  }

  return {
    http,
    udp,
    /** Data channels, on pages that were told to use them. */
    channels,
    url: `http://127.0.0.1:${http.port}/`,
    /** An invitation that names these paths only. */
    invite: (paths, changes = {}) => PREFIX + Buffer.from(JSON.stringify({
      ...fields,
      a: paths.includes('webrtc') ? forwarded.webrtc : [],
      w: paths.includes('websocket') ? forwarded.webSocket : undefined,
      ...changes
    })).toString('base64url'),
    stop: () => {
      http.stop()
      udp.stop()
      channels.stop()
    }
  }
}
