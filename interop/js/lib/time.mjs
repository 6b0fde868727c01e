// Waiting, and not waiting for ever.

export async function delay (ms, value) {
  return await new Promise(resolve => setTimeout(() => resolve(value), ms))
}

/** Rejects when `promise` takes longer than `ms`. */
export async function withLimit (promise, ms, message = `not done within ${Math.round(ms / 1000)} s`) {
  let timer
  const limit = new Promise((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(message)), ms)
  })

  try {
    return await Promise.race([promise, limit])
  } finally {
    clearTimeout(timer)
  }
}
