// The clipboard, as far as browsers let pages at it.

/** False if the browser refuses. */
export async function writeText (text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return false
  }
}

/** Nothing if the browser or its user refuses. */
export async function readText (): Promise<string | undefined> {
  try {
    return await navigator.clipboard.readText()
  } catch {
    return undefined
  }
}

/**
 * Text from elsewhere must not act as keys: an escape sequence in it could end a bracketed paste and run what follows.
 * Line ends and tabs stay.
 */
export function sanitizePaste (text: string): string {
  return text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g, '')
}
