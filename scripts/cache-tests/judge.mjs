// Counts the results of the public cache tests by the suite's own rules, and holds them against the page that lists
// what does not pass and why. Anything that is not on the page is a failure, and so is a line that is no longer true.
//
//   node judge.mjs SUITE RESULTS PAGE      exit 0 held, 1 not, 2 inconclusive

import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

const REQUIRED_MIN = 155
const OPTIMAL_MIN = 85

const [suite, resultsFile, page] = process.argv.slice(2)
const load = name => import(pathToFileURL(path.join(suite, name)))
const { default: sections } = await load('tests/index.mjs')
const { determineTestResult, resultTypes } = await load('test-engine/lib/results.mjs')
const results = JSON.parse(fs.readFileSync(resultsFile, 'utf8'))

// A machine that cannot even connect says nothing about the proxy.
const CUT_OFF_MAX = 3
const cutOff = Object.values(results).filter(result => ['TypeError', 'AbortError'].includes(result[0])).length
if (cutOff > CUT_OFF_MAX) {
  console.log(`inconclusive: ${cutOff} tests had no connection or no answer in time; is the machine busy, or out of ports?`)
  process.exit(2)
}

const nameOf = type => Object.keys(resultTypes).find(name => resultTypes[name] === type)
const counts = { required: {}, optimal: {}, check: {} }
const missing = new Map()
for (const test of sections.flatMap(section => section.tests).filter(test => !test.browser_only)) {
  const kind = test.kind ?? 'required'
  const result = nameOf(determineTestResult(sections, test.id, results))
  counts[kind][result] = (counts[kind][result] ?? 0) + 1
  // What only asks how a cache behaves has no right answer.
  if (kind !== 'check' && result !== 'pass') missing.set(test.id, `${kind} ${result}: ${results[test.id]}`)
}
for (const [kind, of] of Object.entries(counts)) {
  const total = Object.values(of).reduce((sum, count) => sum + count, 0)
  const parts = Object.entries(of).sort().map(([result, count]) => `${count} ${result}`)
  console.log(`${kind}: ${total} tests: ${parts.join(', ')}`)
}

const listed = new Set([...fs.readFileSync(page, 'utf8').matchAll(/^\| `([^`]+)` \|/gm)].map(match => match[1]))
const complaints = []
for (const [id, why] of missing) if (!listed.has(id)) complaints.push(`does not pass and is not on the page: ${id} (${why})`)
for (const id of listed) if (!missing.has(id)) complaints.push(`is on the page and passes, or is gone: ${id}`)
if (counts.required.fail) complaints.push(`${counts.required.fail} required tests failed`)
if ((counts.required.pass ?? 0) < REQUIRED_MIN) complaints.push(`fewer than ${REQUIRED_MIN} required tests passed`)
if ((counts.optimal.pass ?? 0) < OPTIMAL_MIN) complaints.push(`fewer than ${OPTIMAL_MIN} optimal tests passed`)
for (const id of ['stale-while-revalidate', 'stale-sie-close', 'stale-sie-503']) {
  if (results[id] !== true) complaints.push(`${id} is a promise of ours: ${results[id]}`)
}
for (const complaint of complaints) console.log(complaint)
process.exit(complaints.length ? 1 : 0)
