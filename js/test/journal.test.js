import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'

import { FileJournal, MemoryJournal } from '../src/journal.js'
import { advance } from '../src/states.js'

const NOW_S = Math.floor(Date.now() / 1000)
let directory
let file

beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), 'infern-journal-'))
  file = path.join(directory, 'deep', 'payments.jsonl')
})

afterEach(() => {
  fs.rmSync(directory, { recursive: true })
})

function row(number = 1, more = {}) {
  return {
    paymentHash: String(number).padStart(64, '0'),
    origin: 'https://seller.test',
    digest: 'd',
    amount: '5',
    redeemUntil: NOW_S + 600,
    state: 'intended',
    ...more,
  }
}

/** A row that was paid, and is free. */
function paid(journal, number = 1, more = {}) {
  let made = row(number, more)
  journal.intend(made)
  for (const event of ['pay_sent', 'pay_succeeded']) made = journal.record(made, event)
  journal.release(made.paymentHash)
  return made
}

for (const [name, open] of [['memory', () => new MemoryJournal()], ['file', () => new FileJournal(file)]]) {
  test(`${name}: a free row at stake is adopted once, for its own need`, () => {
    const journal = open()
    paid(journal)
    assert.equal(journal.adopt('https://seller.test', 'other', NOW_S), undefined)
    assert.equal(journal.adopt('https://other.test', 'd', NOW_S), undefined)
    assert.equal(journal.adopt('https://seller.test', 'd', NOW_S + 601), undefined)
    assert.equal(journal.adopt('https://seller.test', 'd', NOW_S).state, 'paid')
    assert.equal(journal.adopt('https://seller.test', 'd', NOW_S), undefined)
    journal.release(row().paymentHash)
    assert.equal(journal.adopt('https://seller.test', 'd', NOW_S).state, 'paid')
    journal.close()
  })

  test(`${name}: an intended row is nobody else's and a finished one is gone`, () => {
    const journal = open()
    let made = row()
    journal.intend(made)
    journal.release(made.paymentHash)
    assert.equal(journal.adopt('https://seller.test', 'd', NOW_S), undefined)
    assert.throws(() => journal.intend(row()), /on record/)
    for (const event of ['pay_sent', 'pay_succeeded', 'proof_sent', 'answered']) made = journal.record(made, event)
    assert.deepEqual(journal.atStake(), [])
    assert.throws(() => journal.record(made, 'proof_sent'), /no edge/)
    journal.close()
  })
}

test('there is no way from a payment to another payment', () => {
  for (const state of ['paying', 'paid', 'proving', 'unredeemed', 'delivered', 'refused', 'payment_failed']) {
    assert.throws(() => advance(state, 'pay_sent'))
  }
})

test('what was at stake is there after the process died', () => {
  const first = new FileJournal(file)
  paid(first, 1)
  paid(first, 2, { digest: 'e', redeemUntil: NOW_S - 40 * 86_400 })
  first.intend(row(3))
  fs.appendFileSync(file, '{"paymentHash":"torn')
  first.close()
  // Its lock is left; in a container the next process may well have the same number.
  fs.writeFileSync(`${file}.lock`, String(process.pid))
  const second = new FileJournal(file)
  assert.deepEqual(second.atStake().map(({ paymentHash }) => Number(paymentHash)), [1])
  // It was written anew with only that.
  assert.equal(fs.readFileSync(file, 'utf8').split('\n').length, 2)
  paid(second, 4, { digest: 'f' })
  second.close()
  const third = new FileJournal(file)
  assert.equal(third.atStake().length, 2)
  third.close()
})

test('one process at a time, and only its owner reads it', () => {
  const first = new FileJournal(file)
  assert.throws(() => new FileJournal(file), /in use/)
  paid(first)
  assert.equal(fs.statSync(file).mode & 0o777, 0o600)
  first.close()
  assert.throws(() => paid(first, 2), /closed/)
  fs.writeFileSync(`${file}.lock`, '999999999')
  new FileJournal(file).close()
})

test('a row that cannot be written does not count', () => {
  const journal = new FileJournal(file)
  const made = paid(journal)
  journal.close()
  assert.throws(() => journal.record(made, 'proof_sent'), /closed/)
  assert.equal(journal.atStake()[0].state, 'paid')
})

test('a file that is no journal is refused and left alone', () => {
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(file, 'my shopping list\n')
  assert.throws(() => new FileJournal(file))
  assert.equal(fs.readFileSync(file, 'utf8'), 'my shopping list\n')
  assert.equal(fs.existsSync(`${file}.lock`), false)
})
