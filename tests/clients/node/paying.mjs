// The stock openai package over @x402/fetch and over mppx, all at their defaults: every need of the
// task on standard input, side by side, those that hang afterwards. Prints what came of each.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { wrapFetchWithPayment, x402Client } from '@x402/fetch'
import { Mppx } from 'mppx/client'
import OpenAI from 'openai'

import { fiberCharge, openWallet, payable, registerFiber } from '../../../js/src/index.js'

const task = JSON.parse(readFileSync(0, 'utf8'))

function walletFor(name) {
  return openWallet({
    rpcUrl: task.rpcUrl,
    network: 'dev',
    maxShannon: task.maxShannon,
    maxSessionShannon: 100 * task.maxShannon,
    journal: join(task.journals, `${name}.jsonl`),
    patience: { pauseMs: task.pauseMs },
  })
}

function fetchOf(client) {
  if (client === '@x402/fetch') {
    const wallet = walletFor('x402')
    const x402 = registerFiber(new x402Client(), wallet)
    return payable(wallet, (inner) => wrapFetchWithPayment(inner, x402))
  }
  const mppx = (inner) => Mppx.create({ methods: [fiberCharge()], fetch: inner, polyfill: false }).fetch
  return payable(walletFor('mppx'), mppx)
}

const clients = new Map()
for (const { client } of task.needs) {
  if (clients.has(client)) continue
  const fetch = fetchOf(client)
  clients.set(client, new OpenAI({ baseURL: task.baseURL, apiKey: 'none', fetch }))
}

async function outcome({ client, how, need, request }, fault) {
  const headers = { 'x-test-need': need, 'x-test-fault': fault }
  const stream = how === 'stream'
  const timeout = fault === 'HANG' ? task.hangMs : task.patientMs
  try {
    const answer = await clients.get(client).chat.completions.create({ ...request, stream }, { headers, timeout })
    if (!stream) return { text: answer.choices[0].message.content }
    let text = ''
    for await (const chunk of answer) text += chunk.choices[0]?.delta?.content ?? ''
    return { text }
  } catch (error) {
    if (error.status) return { status: error.status, code: error.code }
    return { error: error.constructor.name, message: String(error.cause ?? error.message) }
  }
}

async function scenario(each) {
  const first = await outcome(each, each.fault)
  return first.text ? [first] : [first, await outcome(each, 'NONE')]
}

const found = {}
for (const hangs of [false, true]) {
  const now = task.needs.filter(({ fault }) => (fault === 'HANG') === hangs)
  await Promise.all(now.map(async (each) => (found[each.need] = await scenario(each))))
}
console.log(JSON.stringify(found))
