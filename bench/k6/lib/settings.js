// What a scenario is told by environment (`k6 run -e BASE_URL=… bench/k6/scenarios/create.js`).

const number = (name, value) => Number(__ENV[name] || value);

export const baseUrl = __ENV.BASE_URL || 'http://127.0.0.1:8080';
export const token = __ENV.TOKEN || '';
export const rate = number('RATE', 200);
export const seconds = number('SECONDS', 10);
export const connections = number('CONNECTIONS', 200);
export const run = number('RUN', 0);
export const attachments = number('ATTACHMENTS', 0);
export const p99Milliseconds = number('P99_MS', 250);

// An open model: iterations start at the rate, whether the earlier ones are done or not.
export function openModel(extraThresholds) {
  return {
    discardResponseBodies: true,
    summaryTrendStats: ['med', 'p(90)', 'p(99)', 'p(99.9)', 'max', 'count'],
    systemTags: ['status', 'expected_response'],
    scenarios: {
      open: {
        executor: 'constant-arrival-rate',
        rate,
        timeUnit: '1s',
        duration: `${seconds}s`,
        preAllocatedVUs: connections,
        maxVUs: connections,
        gracefulStop: '10s',
      },
    },
    thresholds: {
      // A dropped iteration is a request that was due and never sent: the figures are then void.
      dropped_iterations: ['count==0'],
      http_req_failed: ['rate==0'],
      'http_req_duration{expected_response:true}': [`p(99)<${p99Milliseconds}`],
      ...(extraThresholds || {}),
    },
  };
}
