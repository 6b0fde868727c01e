// Builds the page into dist/: the same sources and packages give the same bytes. `--check` builds in memory and
// compares with what is there.
import { readdirSync, readFileSync, rmSync, mkdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('.', import.meta.url))
const dist = join(root, 'dist')

// js-libp2p uses it, browsers have it for a short time only.
const BANNER = 'Promise.withResolvers??=function(){let a,b;const promise=new Promise((c,d)=>{a=c;b=d});' +
  'return{promise,resolve:a,reject:b}};'

/** xterm.js writes style attributes as text, which a strict Content-Security-Policy forbids. */
const scriptedStyles = {
  name: 'scripted-styles',
  setup ({ onLoad }) {
    onLoad({ filter: /@xterm[\\/]xterm[\\/]lib[\\/]xterm\.mjs$/ }, ({ path }) => {
      const source = readFileSync(path, 'utf8')
      const pattern = /(_addStyle\((\w+),(\w+)\)\{)\2\.setAttribute\("style",`[^`]*`\)\}/g
      const found = [...source.matchAll(pattern)]

      if (found.length !== 1) {
        throw new Error(`expected one _addStyle in xterm.js, found ${found.length}`)
      }

      return { contents: source.replace(pattern, '$1$2.style.cssText+=";"+$3}'), loader: 'js' }
    })
  }
}

async function buildAll () {
  const { outputFiles, metafile } = await build({
    absWorkingDir: root,
    entryPoints: { app: 'src/page.ts' },
    outdir: 'dist',
    bundle: true,
    format: 'esm',
    platform: 'browser',
    target: ['es2022', 'chrome109', 'firefox115', 'safari16.4'],
    define: { global: 'globalThis', 'process.env.NODE_DEBUG': 'undefined' },
    banner: { js: BANNER },
    plugins: [scriptedStyles],
    minify: true,
    legalComments: 'none',
    metafile: true,
    write: false,
    logLevel: 'error'
  })

  const files = new Map(outputFiles.map(({ path, contents }) => [basename(path), Buffer.from(contents)]))
  files.set('index.html', readFileSync(join(root, 'src/index.html')))
  files.set('licenses.txt', Buffer.from(licenses(Object.keys(metafile.inputs))))
  return files
}

/** The licences of everything that went into the bundle. */
function licenses (inputs) {
  const folders = inputs
    .map(input => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1])
    .filter(folder => folder != null)

  return [...new Set(folders)].sort().map(folder => {
    const { name, version, license } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))
    const texts = readdirSync(join(root, folder))
      .filter(file => /^(licen[cs]e|copying|notice)/i.test(file))
      .sort()
      .map(file => readFileSync(join(root, folder, file), 'utf8').replaceAll('\r\n', '\n').trim())
    return [`${name} ${version} (${license})`, ...texts].join('\n\n')
  }).join(`\n\n${'-'.repeat(80)}\n\n`) + '\n'
}

const files = await buildAll()

if (process.argv.includes('--check')) {
  const present = readdirSync(dist).sort()
  const expected = [...files.keys()].sort()
  const differing = expected.filter(name => !present.includes(name) || !readFileSync(join(dist, name)).equals(files.get(name)))
  const extra = present.filter(name => !files.has(name))

  for (const name of differing) {
    console.error(`dist/${name} is not what the sources give; run: npm ci && npm run build`)
  }

  for (const name of extra) {
    console.error(`dist/${name} is made by no source`)
  }

  process.exitCode = differing.length + extra.length > 0 ? 1 : 0
} else {
  rmSync(dist, { recursive: true, force: true })
  mkdirSync(dist)

  for (const [name, contents] of files) {
    writeFileSync(join(dist, name), contents)
    console.log(`${name} ${contents.length}`)
  }
}
