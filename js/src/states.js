// The paying side as a table (f402-spec, "The paying side"). There is no edge from a payment to
// another payment: that is what stops the double payments that retries cause.

const EDGES = {
  intended: { pay_sent: 'paying', offer_declined: 'refused' },
  paying: { pay_succeeded: 'paid', pay_failed: 'payment_failed', pay_unknown: 'paying' },
  paid: { proof_sent: 'proving' },
  proving: {
    answered: 'delivered',
    proof_pending: 'paid',
    seller_failed: 'unredeemed',
    proof_refused: 'unredeemed',
    already_delivered: 'redeemed_elsewhere',
  },
  unredeemed: { proof_sent: 'proving' },
}

const AT_STAKE = new Set(['paying', 'paid', 'proving', 'unredeemed'])

/** The state after an event. Throws for an edge that is missing. */
export function advance(state, event) {
  const next = EDGES[state]?.[event]
  if (next === undefined) throw new Error(`no edge from ${state} by ${event}`)
  return next
}

/** True while a second payment for the same need is forbidden. */
export function isAtStake(state) {
  return AT_STAKE.has(state)
}
