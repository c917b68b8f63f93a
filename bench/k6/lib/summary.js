// The figures as bench/open_load.py reads them, into the file OUTPUT; a line on the screen without.

import { seconds } from './settings.js';

const count = (metrics, name) => (metrics[name] ? metrics[name].values.count : 0);

export function handleSummary(data) {
  const metrics = data.metrics;
  const trend = metrics['http_req_duration{expected_response:true}'];
  const values = trend && trend.values.count > 0 ? trend.values : null;
  const figures = JSON.stringify({
    seconds,
    requests: count(metrics, 'http_reqs'),
    errors: { 503: count(metrics, 'refused'), failed: count(metrics, 'failed') },
    dropped: count(metrics, 'dropped_iterations'),
    latency_ms: values && {
      p50: values.med,
      p90: values['p(90)'],
      p99: values['p(99)'],
      p999: values['p(99.9)'],
      maximum: values.max,
    },
  });
  return __ENV.OUTPUT ? { [__ENV.OUTPUT]: figures } : { stdout: `${figures}\n` };
}
