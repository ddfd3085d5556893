// What went wrong, with a stable code and what happened to the money.

/** A refusal, a failure or an unknown outcome. `money` is `unmoved`, `moved` or `unknown`. */
export class FiberPaymentError extends Error {
  constructor(code, message, { money = 'unmoved', details = {} } = {}) {
    super(message)
    this.name = 'FiberPaymentError'
    this.code = code
    this.money = money
    this.details = details
  }

  /** The same as a 402 in the OpenAI error shape, which no client repeats by itself. */
  toResponse() {
    const error = {
      message: this.message,
      type: 'payment_required',
      param: null,
      code: this.code,
      retry: this.money === 'unmoved' ? 'never' : 'same_credential',
      money: this.money,
      f402: this.details,
    }
    const headers = {
      'content-type': 'application/json',
      'cache-control': 'no-store',
      'x-should-retry': 'false',
    }
    return new Response(JSON.stringify({ error }), { status: 402, headers })
  }
}

/** An offer that failed a check; nothing was paid. */
export function refused(check, complaint) {
  return new FiberPaymentError('offer_refused', `Refused to pay: ${complaint}. Nothing was paid.`, {
    details: { check },
  })
}
