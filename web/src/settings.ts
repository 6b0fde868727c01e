// What the user chose, kept in the browser. Never anything secret.

export interface Settings {
  fontSize: number
  copyOnSelect: boolean
  screenReader: boolean
}

const KEY = 'socketpipe-settings'
const DEFAULTS: Settings = { fontSize: 14, copyOnSelect: false, screenReader: false }

export function loadSettings (): Settings {
  try {
    return valid(JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Settings>)
  } catch {
    return DEFAULTS
  }
}

export function saveSettings (settings: Settings): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(settings))
  } catch {
    // Storage may be turned off; then they last as long as the page.
  }
}

export function valid ({ fontSize, copyOnSelect, screenReader }: Partial<Settings>): Settings {
  const size = Math.round(Number(fontSize))

  return {
    fontSize: size >= 8 && size <= 32 ? size : DEFAULTS.fontSize,
    copyOnSelect: copyOnSelect === true,
    screenReader: screenReader === true
  }
}
