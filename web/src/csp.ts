// xterm.js puts its rules into <style> elements, which a strict Content-Security-Policy forbids. Style sheets made by
// script are allowed: elements created while `action` runs pass their text on to one.

export function withScriptedStyles<T> (action: () => T): T {
  // The original is found on the prototype again.
  document.createElement = function (this: Document, name: string, options?: ElementCreationOptions): HTMLElement {
    return name.toLowerCase() === 'style'
      // Even an empty <style> element would be a violation.
      ? scripted(Document.prototype.createElement.call(this, 'template'))
      : Document.prototype.createElement.call(this, name, options)
  } as typeof document.createElement

  try {
    return action()
  } finally {
    delete (document as Partial<Document>).createElement
  }
}

function scripted (element: HTMLElement): HTMLElement {
  const sheet = new CSSStyleSheet()
  document.adoptedStyleSheets.push(sheet)
  let rules = ''

  Object.defineProperty(element, 'textContent', {
    get: () => rules,
    set: (text: string) => {
      rules = text
      sheet.replaceSync(text)
    }
  })

  return element
}
