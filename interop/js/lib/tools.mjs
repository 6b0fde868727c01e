// Finds the programs and packages the checks need.
import { accessSync, constants, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter, isAbsolute, join } from 'node:path'

const NAMES = {
  chromium: ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'],
  firefox: ['firefox-esr', 'firefox']
}

/** The browser named by the variable CHROMIUM or FIREFOX, else the first one in PATH. */
export function findBrowser (kind) {
  const chosen = process.env[kind.toUpperCase()]
  const names = chosen != null ? [chosen] : NAMES[kind]
  const paths = names.flatMap(name => isAbsolute(name)
    ? [name]
    : (process.env.PATH ?? '').split(delimiter).map(folder => join(folder, name)))

  return paths.find(isExecutable)
}

export function isExecutable (path) {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** The packages of package.json that are not installed. */
export function missingPackages () {
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url)))
  const { resolve } = createRequire(import.meta.url)

  return Object.keys(manifest.dependencies).filter(name => {
    const folders = resolve.paths(name) ?? []
    return !folders.some(folder => {
      try {
        accessSync(join(folder, name, 'package.json'))
        return true
      } catch {
        return false
      }
    })
  })
}

/** The installed version of a package. */
export function packageVersion (name) {
  const { version } = JSON.parse(readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url)))
  return `v${version}`
}
