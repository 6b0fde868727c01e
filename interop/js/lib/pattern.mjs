// Test data whose every byte depends on its position, so that loss, repetition
// and reordering show.

/** The `length` bytes of the pattern from position `start`. */
export function pattern (start, length) {
  const bytes = new Uint8Array(length)

  for (let i = 0; i < length; i++) {
    bytes[i] = byteAt(start + i)
  }

  return bytes
}

/** Throws where `bytes` is not the pattern from position `start`. */
export function checkPattern (start, bytes) {
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== byteAt(start + i)) {
      throw new Error(`byte ${start + i} is ${bytes[i]} instead of ${byteAt(start + i)}`)
    }
  }
}

function byteAt (position) {
  return Math.imul(position, 0x9E3779B1) >>> 24
}
