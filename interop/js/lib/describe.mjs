/** The message of an error with those of its causes. */
export function describe (err) {
  const causes = err.errors?.map(describe) ?? (err.cause != null ? [describe(err.cause)] : [])
  return [`${err.name ?? 'Error'}: ${err.message ?? err}`, ...causes].join(' <- ')
}
