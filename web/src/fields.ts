// The fields inside a frame: numbers, blocks with a length, text. Used by the codec only.
import { ErrorCode, FrameError } from './codes.ts'

export const HEADER_LENGTH = 8

const utf8 = new TextEncoder()
const lenientUtf8 = new TextDecoder()
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export function concat (chunks: Uint8Array[], length: number): Uint8Array {
  const whole = new Uint8Array(length)
  let offset = 0

  for (const chunk of chunks) {
    whole.set(chunk, offset)
    offset += chunk.length
  }

  return whole
}

/** Collects the fields of a payload. */
export class Writer {
  readonly #parts: Uint8Array[] = []
  readonly #header = new Uint8Array(HEADER_LENGTH)
  #length = 0

  constructor (type: number, flags: number) {
    this.#header[0] = type
    this.#header[1] = flags
  }

  bytes (bytes: Uint8Array): this {
    this.#parts.push(bytes)
    this.#length += bytes.length
    return this
  }

  u8 (value: number): this {
    return this.#number(1, view => view.setUint8(0, value))
  }

  u16 (value: number): this {
    return this.#number(2, view => view.setUint16(0, value))
  }

  u32 (value: number): this {
    return this.#number(4, view => view.setUint32(0, value))
  }

  u64 (value: bigint): this {
    return this.#number(8, view => view.setBigUint64(0, value))
  }

  block8 (bytes: Uint8Array): this {
    return this.#limit(bytes, 0xff).u8(bytes.length).bytes(bytes)
  }

  block16 (bytes: Uint8Array): this {
    return this.#limit(bytes, 0xffff).u16(bytes.length).bytes(bytes)
  }

  /** Code and text of a refusal, an end or an error; a long text is cut. */
  failure (code: number, text: string): this {
    return this.u16(code).block8(truncateUtf8(utf8.encode(text), 0xff))
  }

  finish (): Uint8Array {
    new DataView(this.#header.buffer).setUint32(4, this.#length)
    return concat([this.#header, ...this.#parts], HEADER_LENGTH + this.#length)
  }

  #number (length: number, set: (view: DataView) => void): this {
    const bytes = new Uint8Array(length)
    set(new DataView(bytes.buffer))
    return this.bytes(bytes)
  }

  #limit (bytes: Uint8Array, limit: number): this {
    if (bytes.length > limit) {
      throw new RangeError(`a field of ${bytes.length} bytes, at most ${limit} fit`)
    }

    return this
  }
}

/** Never cuts inside a character. */
function truncateUtf8 (bytes: Uint8Array, limit: number): Uint8Array {
  let end = Math.min(bytes.length, limit)

  while (end < bytes.length && end > 0 && (bytes[end]! & 0xc0) === 0x80) {
    end--
  }

  return bytes.subarray(0, end)
}

/** Reads the fields of a payload; bytes after the last field read are ignored. */
export class Reader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #offset = 0

  constructor (bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  get left (): number {
    return this.#bytes.length - this.#offset
  }

  u8 (): number {
    return this.#view.getUint8(this.#advance(1))
  }

  u16 (): number {
    return this.#view.getUint16(this.#advance(2))
  }

  u32 (): number {
    return this.#view.getUint32(this.#advance(4))
  }

  u64 (): bigint {
    return this.#view.getBigUint64(this.#advance(8))
  }

  rest (): Uint8Array {
    return this.#bytes.subarray(this.#offset)
  }

  block8 (): Uint8Array {
    return this.#block(this.u8())
  }

  block16 (): Uint8Array {
    return this.#block(this.u16())
  }

  optionalBlock16 (): Uint8Array | undefined {
    if (this.left < 2 || this.left < 2 + this.#view.getUint16(this.#offset)) {
      return undefined
    }

    return this.block16()
  }

  text8 (): string {
    return lenientUtf8.decode(this.block8())
  }

  text16 (): string {
    return lenientUtf8.decode(this.block16())
  }

  strictText8 (): string {
    try {
      return strictUtf8.decode(this.block8())
    } catch (err) {
      throw err instanceof FrameError ? err : new FrameError(ErrorCode.invalidMessage, 'a host name that is not UTF-8')
    }
  }

  failure (): { code: number, text: string } {
    return { code: this.u16(), text: this.text8() }
  }

  #block (length: number): Uint8Array {
    const start = this.#advance(length)
    return this.#bytes.subarray(start, start + length)
  }

  #advance (length: number): number {
    if (this.left < length) {
      throw new FrameError(ErrorCode.invalidMessage, 'a frame shorter than its fields')
    }

    const start = this.#offset
    this.#offset += length
    return start
  }
}
