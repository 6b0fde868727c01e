// js-libp2p uses Promise.withResolvers, which Node has only since version 22.
Promise.withResolvers ??= function withResolvers () {
  let resolve
  let reject
  const promise = new Promise((res, rej) => {
    resolve = res
    reject = rej
  })

  return { promise, resolve, reject }
}
