// The same identity and the same certificate for the same seed, so that a
// restarted listener keeps its address. For checks only: the keys are public.
import { createHash, createPrivateKey } from 'node:crypto'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { p256 } from '@noble/curves/nist.js'

// DER (X.690) of the parts that never change.
const ECDSA_WITH_SHA256 = Buffer.from('300a06082a8648ce3d040302', 'hex')
const P256_KEY = Buffer.from('3059301306072a8648ce3d020106082a8648ce3d030107034200', 'hex')
const COMMON_NAME = Buffer.from('0603550403', 'hex')
const VERSION_3 = Buffer.from('a003020102', 'hex')

/** The options `privateKey` and `certificate` of `createPeer`. */
export async function fromSeed (seed) {
  const identity = Buffer.alloc(32)
  identity.writeBigUInt64BE(BigInt(seed), 24)

  return {
    privateKey: await generateKeyPairFromSeed('Ed25519', identity),
    certificate: certificate(createHash('sha256').update(`certificate ${seed}`).digest())
  }
}

/** A self-signed certificate (RFC 5280) with a deterministic signature (RFC 6979). */
function certificate (secret) {
  const point = Buffer.from(p256.getPublicKey(secret, false))
  const name = der(0x30, der(0x31, der(0x30, COMMON_NAME, der(0x0c, Buffer.from('libp2p')))))
  const validity = der(0x30, time('250101000000Z'), time('491231235959Z'))
  const body = der(0x30, VERSION_3, der(0x02, Buffer.of(1)), ECDSA_WITH_SHA256, name, validity, name, P256_KEY, point)
  const signature = Buffer.from(p256.sign(body, secret, { prehash: true, format: 'der' }))
  const certificate = der(0x30, body, ECDSA_WITH_SHA256, der(0x03, Buffer.of(0), signature))
  const multihash = Buffer.concat([Buffer.of(0x12, 0x20), createHash('sha256').update(certificate).digest()])

  return {
    privateKey: privateKeyPem(secret, point),
    pem: `-----BEGIN CERTIFICATE-----\n${certificate.toString('base64').replace(/(.{64})/g, '$1\n')}\n-----END CERTIFICATE-----\n`,
    certhash: `u${multihash.toString('base64url')}`
  }
}

function privateKeyPem (secret, point) {
  const [x, y] = [point.subarray(1, 33), point.subarray(33)].map(half => half.toString('base64url'))
  const jwk = { kty: 'EC', crv: 'P-256', d: secret.toString('base64url'), x, y }
  return createPrivateKey({ key: jwk, format: 'jwk' }).export({ type: 'pkcs8', format: 'pem' })
}

function time (text) {
  return der(0x17, Buffer.from(text))
}

/** One DER value of less than 64 KiB. */
function der (tag, ...parts) {
  const content = Buffer.concat(parts)
  const { length } = content
  const header = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.of(tag, ...header), content])
}
