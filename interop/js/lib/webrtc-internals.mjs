// The parts of @libp2p/webrtc that handshake-v2-node.mjs changes. The package
// exports none of them, so they are loaded by their place in it.
const load = async path => await import(new URL(path, import.meta.resolve('@libp2p/webrtc')).href)

export const { DirectRTCPeerConnection } = await load('./private-to-public/utils/get-rtcpeerconnection.js')
export const { WebRTCDirectListener } = await load('./private-to-public/listener.js')
