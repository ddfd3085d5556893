// The two plug-ins: a scheme for @x402/core, a method for mppx. They hold no state; what is paid,
// by which wallet, for which request, is the business of `payable` around the framework.

import { fromBase64url, jcs, toBase64url } from './encoding.js'
import { currentRun } from './exchange.js'

const NETWORKS = 'fiber:*'

/** x402's `exact` scheme on `fiber:*`: pays the invoice of an offer from the wallet's node. */
export function fiberScheme() {
  return {
    scheme: 'exact',
    async createPaymentPayload(x402Version, requirements) {
      const { network, amount, asset, payTo, extra = {} } = requirements
      const row = await currentRun().pay({
        network,
        amount,
        asset,
        payTo,
        invoice: extra.invoice,
        token: extra.challenge,
      })
      const payload = { invoice: row.invoice, challenge: row.token }
      return { x402Version, payload: row.preimage ? { ...payload, paymentPreimage: row.preimage } : payload }
    },
  }
}

/**
 * Register the scheme with an x402Client, and CKB with the wallet's cap as the one more asset to
 * be spent. x402 can only replace its spend controls as a whole; who has others calls
 * `client.setSpendControls` afterwards, with `fiberAsset(wallet)` among its `allowedAssets`.
 */
export function registerFiber(client, wallet) {
  return client.register(NETWORKS, fiberScheme()).setSpendControls({ allowedAssets: [fiberAsset(wallet)] })
}

/** The entry of x402's `allowedAssets` that lets CKB over Fiber be spent. */
export function fiberAsset(wallet) {
  return { network: NETWORKS, asset: 'ckb', maxAmountPerPayment: String(wallet.maxShannon) }
}

/** mppx's method for `fiber/charge`. */
export function fiberCharge() {
  return {
    name: 'fiber',
    intent: 'charge',
    async createCredential({ challenge }) {
      const { amount, currency, recipient, methodDetails = {} } = challenge.request
      const row = await currentRun().pay({
        network: `fiber:${methodDetails.network}`,
        amount,
        asset: currency,
        payTo: recipient,
        invoice: methodDetails.invoice,
        token: tokenIn(challenge),
      })
      return credential(challenge, { preimage: row.preimage ?? '' })
    },
  }
}

function tokenIn({ opaque, meta }) {
  if (meta !== undefined) return meta.f402
  try {
    return JSON.parse(fromBase64url(opaque).toString('utf8')).f402
  } catch {
    return undefined
  }
}

/** `Payment` and the base64url of the challenge given back, with the proof. */
function credential(challenge, payload) {
  const { meta, opaque, request, ...parts } = challenge
  const echo = {
    ...parts,
    request: toBase64url(jcs(request)),
    opaque: opaque ?? toBase64url(jcs(meta)),
  }
  return `Payment ${toBase64url(JSON.stringify({ challenge: echo, payload }))}`
}
